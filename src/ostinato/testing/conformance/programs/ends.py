"""Programs about how long a loop is: until a condition holds, one step, no steps, no rows, no batch."""

from __future__ import annotations

from typing import Any

import ostinato.tensor as T
from ostinato.scan import foldl, scan, until
from ostinato.testing.conformance.program import program

TOPIC = "ends of loops"


@program(TOPIC, "Newton's method until it is near enough", orders=4, a=2.0, z=1.0)
def newton(a: Any, z: Any) -> Any:
    """z ← (z + a / z) / 2 until |z² - a| < 2⁻⁸, at most 100 times; the last z"""

    def step(z: Any) -> Any:
        z = (z + a / z) / 2
        return z, until(abs(z * z - a) < 2**-8)

    return [scan(step, outputs_info=z, n_steps=100)[0][-1]]


@newton.reference
def _(m: Any, a: Any, z: Any) -> Any:
    for _ in range(100):
        z = (z + a / z) / 2
        if abs(m.real(z * z - a)) < 2**-8:
            break
    return [z]


@program(TOPIC, "until all of a vector stands still, of a billion steps allowed", orders=3, x=[0.0, 0.5, 1.25], a=0.75)
def fixed_point(x: Any, a: Any) -> Any:
    """x ← cos(a x) until no element moves by 2⁻⁶ or more, at most 10⁹ times; the last x"""

    def step(x: Any) -> Any:
        new = T.cos(a * x)
        return new, until(T.max(abs(new - x)) < 2**-6)

    return [scan(step, outputs_info=x, n_steps=10**9)[0][-1]]


@fixed_point.reference
def _(m: Any, x: Any, a: Any) -> Any:
    while True:
        new = m.cos(a * x)
        moved = max(abs(m.real(v)) for v in new - x)
        x = new
        if moved < 2**-6:
            return [x]


@program(TOPIC, "rows of a sequence that are not reached", s=[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], a=0.0)
def threshold(s: Any, a: Any) -> Any:
    """a ← a + s_t² until a > 10; the last a"""

    def step(s_t: Any, a: Any) -> Any:
        a = a + s_t * s_t
        return a, until(a > 10)

    return [scan(step, s, a)[0][-1]]


@threshold.reference
def _(m: Any, s: Any, a: Any) -> Any:
    for s_t in s:
        a = a + s_t * s_t
        if m.real(a) > 10:
            break
    return [a]


@program(
    TOPIC,
    "every output of a loop whose length only values decide",
    h=1.0,
    a=1.25,
    x=[0.5, 0.25, 0.5, 0.25, 1.0, 1.0, 1.0],
)
def until_rows(h: Any, a: Any, x: Any) -> Any:
    """h ← a h + sin(x_t) until h > 4; every h"""

    def step(x_t: Any, h: Any) -> Any:
        h = a * h + T.sin(x_t)
        return h, until(h > 4)

    return [scan(step, x, h)[0]]


@until_rows.reference
def _(m: Any, h: Any, a: Any, x: Any) -> Any:
    rows = []
    for x_t in x:
        h = a * h + m.sin(x_t)
        rows.append(h)
        if m.real(h) > 4:
            break
    return [m.stack(rows)]


@program(TOPIC, "a condition that holds after the first step", h=[1.0, 0.5], n=10)
def until_at_once(h: Any, n: Any) -> Any:
    """h ← h sin(h) until the sum of h is above 0; every h"""

    def step(h: Any) -> Any:
        h = h * T.sin(h)
        return h, until(T.sum(h) > 0)

    return [scan(step, outputs_info=h, n_steps=n)[0]]


@until_at_once.reference
def _(m: Any, h: Any, n: Any) -> Any:
    return [m.stack([h * m.sin(h)])]


@program(TOPIC, "a condition that never holds", h=[1.0, 0.5], n=3)
def until_never(h: Any, n: Any) -> Any:
    """h ← sin(h) + h / 2 until the sum of h is below 0, at most n times; every h"""

    def step(h: Any) -> Any:
        h = T.sin(h) + h / 2
        return h, until(T.sum(h) < 0)

    return [scan(step, outputs_info=h, n_steps=n)[0]]


@until_never.reference
def _(m: Any, h: Any, n: Any) -> Any:
    rows = []
    for _ in range(n):
        h = m.sin(h) + h / 2
        rows.append(h)
    return [m.stack(rows)]


@program(TOPIC, "one step", orders=3, a=0.75, h=[0.5, -0.25], n=1)
def one_step(a: Any, h: Any, n: Any) -> Any:
    """h ← tanh(a h), n = 1 time; every h"""
    return [scan(lambda h: T.tanh(a * h), outputs_info=h, n_steps=n)[0]]


@one_step.reference
def _(m: Any, a: Any, h: Any, n: Any) -> Any:
    return [m.stack([m.tanh(a * h)])]


@program(TOPIC, "no steps: the last state is the initial one, and there are no rows", a=0.75, h=[0.5, -0.25], n=0)
def no_steps(a: Any, h: Any, n: Any) -> Any:
    """h ← tanh(a h), n = 0 times; every h, and the last"""

    def step(_: Any, h: Any) -> Any:
        return T.tanh(a * h)

    times = T.arange(n)
    return [scan(step, times, h)[0], foldl(step, times, h)[0]]


@no_steps.reference
def _(m: Any, a: Any, h: Any, n: Any) -> Any:
    return [m.stack([], (2,)), h]


@program(TOPIC, "a sequence without rows", x=[], a=0.75, s=0.5)
def no_rows(x: Any, a: Any, s: Any) -> Any:
    """s ← a s + sin(x_t), over no rows; every s, and the last"""

    def step(x_t: Any, s: Any) -> Any:
        return a * s + T.sin(x_t)

    return [scan(step, x, s)[0], foldl(step, x, s)[0]]


@no_rows.reference
def _(m: Any, x: Any, a: Any, s: Any) -> Any:
    return [m.stack([]), s]


@program(TOPIC, "a batch of nothing", x=[[], [], []], a=0.75, h=[])
def no_batch(x: Any, a: Any, h: Any) -> Any:
    """h ← tanh(a h + x_t) for a batch of 0, 3 times; every h, and the sum of the last"""
    rows, _ = scan(lambda x_t, h: T.tanh(a * h + x_t), x, h)
    return [rows, T.sum(rows[-1])]


@no_batch.reference
def _(m: Any, x: Any, a: Any, h: Any) -> Any:
    return [m.stack([h, h, h]), 0 * a]
