"""Programs of more than one loop: loops in steps, loops after loops, derivatives in steps."""

from __future__ import annotations

from typing import Any

import ostinato.tensor as T
from ostinato.grad import grad
from ostinato.scan import foldl, scan, until
from ostinato.testing.conformance.program import program

TOPIC = "loops in loops"


@program(TOPIC, "a loop in a step, as long as the step says", orders=3, a=0.75, s=0.5, n=4)
def triangle(a: Any, s: Any, n: Any) -> Any:
    """In step t = 1, 2, …: r ← a sin(r) + s, t times from s; then s ← r / 2. Every s"""

    def outer(t: Any, s: Any) -> Any:
        inner, _ = scan(lambda r: a * T.sin(r) + s, outputs_info=s, n_steps=t)
        return inner[-1] / 2

    return [scan(outer, T.arange(1, n + 1), s)[0]]


@triangle.reference
def _(m: Any, a: Any, s: Any, n: Any) -> Any:
    rows = []
    for t in range(1, n + 1):
        r = s
        for _ in range(t):
            r = a * m.sin(r) + s
        s = r / 2
        rows.append(s)
    return [m.stack(rows)]


@program(
    TOPIC, "over the rows and, in each, over the columns", A=[[0.5, -1.0, 0.25], [0.75, 0.5, -0.5]], w=0.75, h=0.25
)
def rows_and_columns(A: Any, w: Any, h: Any) -> Any:
    """h ← tanh(w h + A_ij), row by row; h after each row"""

    def row(A_i: Any, h: Any) -> Any:
        return foldl(lambda A_ij, h: T.tanh(w * h + A_ij), A_i, h)[0]

    return [scan(row, A, h)[0]]


@rows_and_columns.reference
def _(m: Any, A: Any, w: Any, h: Any) -> Any:
    rows = []
    for A_i in A:
        for A_ij in A_i:
            h = m.tanh(w * h + A_ij)
        rows.append(h)
    return [m.stack(rows)]


@program(
    TOPIC, "gradient descent: a loop whose steps take the derivative of a loop", x=[0.5, -1.0, 0.25], w=0.5, e=0.25, n=3
)
def learning(x: Any, w: Any, e: Any, n: Any) -> Any:
    """w ← w - e dL/dw, where L is the sum of the squares of h ← tanh(w h + x_t) from 0; every w"""

    def step(w: Any) -> Any:
        h, _ = scan(lambda x_t, h: T.tanh(w * h + x_t), x, T.zeros_like(w))
        return w - e * grad(T.sum(h * h), w)

    return [scan(step, outputs_info=w, n_steps=n)[0]]


@learning.reference
def _(m: Any, x: Any, w: Any, e: Any, n: Any) -> Any:
    rows = []
    for _ in range(n):
        h, slope, total = 0 * w, 0 * w, 0 * w
        for x_t in x:  # the slope of h by w goes along with h
            new = m.tanh(w * h + x_t)
            slope = (1 - new * new) * (h + w * slope)
            h = new
            total = total + 2 * h * slope
        w = w - e * total
        rows.append(w)
    return [m.stack(rows)]


@program(TOPIC, "a loop over the outputs of a loop", orders=3, x=[0.5, -1.0, 0.25, 0.75], a=0.75, b=-0.5)
def chained(x: Any, a: Any, b: Any) -> Any:
    """h ← tanh(a h + x_t), then g ← sin(b g + h_t), both from 0; every g"""
    zero = T.zeros_like(a)
    h, _ = scan(lambda x_t, h: T.tanh(a * h + x_t), x, zero)
    return [scan(lambda h_t, g: T.sin(b * g + h_t), h, zero)[0]]


@chained.reference
def _(m: Any, x: Any, a: Any, b: Any) -> Any:
    h, g, rows = 0 * a, 0 * a, []
    for x_t in x:
        h = m.tanh(a * h + x_t)
        g = m.sin(b * g + h)
        rows.append(g)
    return [m.stack(rows)]


@program(
    TOPIC,
    "one loop forwards, one backwards, over the same rows",
    x=[[0.5, -1.0], [0.25, 0.75], [1.5, -0.5]],
    a=0.75,
    b=0.5,
)
def bidirectional(x: Any, a: Any, b: Any) -> Any:
    """f ← tanh(a f + x_t) from the first row, g ← tanh(b g + x_t) from the last, both from 0; every f_t g_t"""
    zero = T.zeros_like(x[0])
    f, _ = scan(lambda x_t, f: T.tanh(a * f + x_t), x, zero)
    g, _ = scan(lambda x_t, g: T.tanh(b * g + x_t), x, zero, go_backwards=True)
    return [f * g[::-1]]


@bidirectional.reference
def _(m: Any, x: Any, a: Any, b: Any) -> Any:
    f, g, fs, gs = 0 * x[0], 0 * x[0], [], []
    for t in range(len(x)):
        f = m.tanh(a * f + x[t])
        g = m.tanh(b * g + x[len(x) - 1 - t])
        fs.append(f)
        gs.append(g)
    return [m.stack(fs) * m.stack(gs)[::-1]]


@program(TOPIC, "implicit Euler: in each step a loop until an equation is solved", y=0.5, d=0.5, x=[0.5, -1.0, 0.25])
def implicit(y: Any, d: Any, x: Any) -> Any:
    """y ← z where z = y + d (x_t - z³), by Newton's method from y until the error is below 2⁻¹²; every y"""

    def step(x_t: Any, y: Any) -> Any:
        def newton(z: Any) -> Any:
            z = z - (z - y - d * (x_t - z * z * z)) / (1 + 3 * d * z * z)
            return z, until(abs(z - y - d * (x_t - z * z * z)) < 2**-12)

        return scan(newton, outputs_info=y, n_steps=50)[0][-1]

    return [scan(step, x, y)[0]]


@implicit.reference
def _(m: Any, y: Any, d: Any, x: Any) -> Any:
    rows = []
    for x_t in x:
        z = y
        while True:
            z = z - (z - y - d * (x_t - z * z * z)) / (1 + 3 * d * z * z)
            if abs(m.real(z - y - d * (x_t - z * z * z))) < 2**-12:
                break
        y = z
        rows.append(y)
    return [m.stack(rows)]
