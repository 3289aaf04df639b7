"""Programs about what a step may do: branches, indices, writing, counting, conversions, stored variables, draws."""

from __future__ import annotations

from typing import Any

import numpy as np

import ostinato.tensor as T
from ostinato.random import RandomStreams
from ostinato.scan import scan
from ostinato.shared import shared
from ostinato.testing.conformance.program import Built, program

TOPIC = "what a step does"


@program(TOPIC, "branches, and the larger and smaller of two", orders=3, x=[0.5, -1.0, 2.0, 0.75, -0.25], c=1.5, h=0.5)
def kinks(x: Any, c: Any, h: Any) -> Any:
    """h ← max(h x_t, -c) if x_t > 0, else min(h - x_t, c); every h"""

    def step(x_t: Any, h: Any) -> Any:
        return T.switch(x_t > 0, T.maximum(h * x_t, -c), T.minimum(h - x_t, c))

    return [scan(step, x, h)[0]]


@kinks.reference
def _(m: Any, x: Any, c: Any, h: Any) -> Any:
    rows = []
    for x_t in x:
        if m.real(x_t) > 0:
            h = h * x_t if m.real(h * x_t) > m.real(-c) else -c
        else:
            h = h - x_t if m.real(h - x_t) < m.real(c) else c
        rows.append(h)
    return [m.stack(rows)]


@program(TOPIC, "a branch that is not taken has no number", x=[0.5, -1.0, 2.0, -0.25], h=0.5)
def guarded(x: Any, h: Any) -> Any:
    """h ← h + log(x_t) if x_t > 0, else h cos(x_t); every h"""

    def step(x_t: Any, h: Any) -> Any:
        inside = x_t > 0
        return T.switch(inside, h + T.log(T.switch(inside, x_t, 1)), h * T.cos(x_t))

    return [scan(step, x, h)[0]]


@guarded.reference
def _(m: Any, x: Any, h: Any) -> Any:
    rows = []
    for x_t in x:
        h = h + m.log(x_t) if m.real(x_t) > 0 else h * m.cos(x_t)
        rows.append(h)
    return [m.stack(rows)]


@program(TOPIC, "an index that the step before has made", table=[0.5, -1.0, 0.25, 0.75], h=0.5, i=1, n=5)
def pointer(table: Any, h: Any, i: Any, n: Any) -> Any:
    """h ← h table_i + sin(table_i), i ← (3 i + 2) mod 4; every h and i"""

    def step(h: Any, i: Any) -> Any:
        return [h * table[i] + T.sin(table[i]), (3 * i + 2) % 4]

    return scan(step, outputs_info=[h, i], n_steps=n)[0]


@pointer.reference
def _(m: Any, table: Any, h: Any, i: Any, n: Any) -> Any:
    hs, places = [], []
    for _ in range(n):
        h, i = h * table[i] + m.sin(table[i]), (3 * i + 2) % 4
        hs.append(h)
        places.append(i)
    return [m.stack(hs), np.array(places, "int64")]


@program(
    TOPIC,
    "rows picked by vectors of indices",
    W=[[0.5, -1.0], [0.25, 0.75], [1.5, -0.5]],
    k=[[0, 2], [1, 1], [2, 0]],
    h=[0.5, 0.25],
)
def embedding(W: Any, k: Any, h: Any) -> Any:
    """h ← tanh(h + the sum of the rows of W at k_t, where one may occur twice); every h"""
    return [scan(lambda k_t, h: T.tanh(h + T.sum(W[k_t], axis=0)), k, h)[0]]


@embedding.reference
def _(m: Any, W: Any, k: Any, h: Any) -> Any:
    rows = []
    for k_t in k:
        for j in k_t:
            h = h + W[int(j)]
        h = m.tanh(h)
        rows.append(h)
    return [m.stack(rows)]


@program(TOPIC, "a history that a step appends to, reading what steps before have put there", p=[0.5, -1.0], n=4)
def history(p: Any, n: Any) -> Any:
    """P_0 = p, P_i = sin(P_(i-1)) + P_(i div 2) / 2, written to an array that is passed on; all of P"""

    def step(i: Any, P: Any) -> Any:
        return T.set_subtensor(P[i], T.sin(P[i - 1]) + P[i // 2] / 2)

    start = T.set_subtensor(T.zeros((n + 1, 2), p.dtype)[0], p)
    return [scan(step, T.arange(1, n + 1), start)[0][-1]]


@history.reference
def _(m: Any, p: Any, n: Any) -> Any:
    rows = [p]
    for i in range(1, n + 1):
        rows.append(m.sin(rows[i - 1]) + rows[i // 2] / 2)
    return [m.stack(rows)]


@program(TOPIC, "a product with a zero in it", orders=3, x=[0.5, -1.5, 0.0, 2.0], p=1.0)
def zero_factor(x: Any, p: Any) -> Any:
    """p ← p x_t; every p"""
    return [scan(lambda x_t, p: p * x_t, x, p)[0]]


@zero_factor.reference
def _(m: Any, x: Any, p: Any) -> Any:
    rows = []
    for x_t in x:
        p = p * x_t
        rows.append(p)
    return [m.stack(rows)]


@program(TOPIC, "a state that counts, beside one of floats", x=[0.5, -1.0, 0.25, 0.75], s=0.5)
def counter(x: Any, s: Any) -> Any:
    """k ← k + 1 if x_t > 0, from 1; s ← s + x_t² / k from the new k; every s and k"""

    def step(x_t: Any, s: Any, k: Any) -> Any:
        k = k + T.cast(x_t > 0, "int64")
        return [s + x_t * x_t / T.cast(k, s.dtype), k]

    return scan(step, x, [s, T.constant(1, dtype="int64")])[0]


@counter.reference
def _(m: Any, x: Any, s: Any) -> Any:
    k, ss, ks = 1, [], []
    for x_t in x:
        k = k + int(m.real(x_t) > 0)
        s = s + x_t * x_t / k
        ss.append(s)
        ks.append(k)
    return [m.stack(ss), np.array(ks, "int64")]


@program(
    TOPIC, "a float32 state among float64", own_dtypes={"h": "float32"}, dtypes=("float64",), x=[0.5, -1.0, 0.25], h=0.5
)
def promoted(x: Any, h: Any) -> Any:
    """h ← tanh(h) + x_t, with h given in float32 and x in float64; every h, in float64"""
    return [scan(lambda x_t, h: T.tanh(h) + x_t, x, h)[0]]


@promoted.reference
def _(m: Any, x: Any, h: Any) -> Any:
    rows = []
    for x_t in x:
        h = m.tanh(h) + x_t
        rows.append(h)
    return [m.stack(rows)]


@program(
    TOPIC,
    "a variable that is kept between calls and updated in each step; the second call",
    calls=2,
    x=[0.5, -1.0, 0.25],
    a=0.75,
)
def stored(x: Any, a: Any) -> Any:
    """s ← tanh(a s + x_t), where s is kept between calls; every s of the second call, and s after it"""
    s = shared(np.asarray(0.5, x.dtype), "s")

    def step(x_t: Any) -> Any:
        new = T.tanh(a * s + x_t)
        return new, {s: new}

    rows, updates = scan(step, x)
    return Built([rows, updates[s]], updates)


@stored.reference
def _(m: Any, x: Any, a: Any, frozen: Any) -> Any:
    s = 0.5 + 0 * frozen["a"]
    for x_t in frozen["x"]:
        s = m.tanh(frozen["a"] * s + x_t)
    rows = []
    for x_t in x:
        s = m.tanh(a * s + x_t)
        rows.append(s)
    return [m.stack(rows), s]


@program(
    TOPIC, "elements that leave one by one: the Mandelbrot set", x=[-0.5, 0.25, 0.5, 1.0], y=[0.5, 0.5, 0.75, 0.25], n=5
)
def mandelbrot(x: Any, y: Any, n: Any) -> Any:
    """u + i v ← (u + i v)² + x + i y from 0 where u² + v² < 4, else as it was; the last u, v, and how often it was"""

    def step(u: Any, v: Any, k: Any) -> Any:
        inside = u * u + v * v < 4
        u, v = T.switch(inside, u * u - v * v + x, u), T.switch(inside, 2 * u * v + y, v)
        return [u, v, k + T.cast(inside, "int64")]

    zero = T.zeros_like(x)
    found, _ = scan(step, outputs_info=[zero, zero, T.zeros_like(x, "int64")], n_steps=n)
    return [rows[-1] for rows in found]


@mandelbrot.reference
def _(m: Any, x: Any, y: Any, n: Any) -> Any:
    us, vs, ks = [], [], []
    for x_j, y_j in zip(x, y, strict=True):
        u, v, k = 0 * x_j, 0 * x_j, 0
        while k < n and m.real(u) ** 2 + m.real(v) ** 2 < 4:
            u, v, k = u * u - v * v + x_j, 2 * u * v + y_j, k + 1
        us.append(u)
        vs.append(v)
        ks.append(k)
    return [m.stack(us), m.stack(vs), np.array(ks, "int64")]


@program(TOPIC, "a new normal number in each step", is_random=True, a=0.75, s=0.5, h=0.25, n=5)
def random_walk(a: Any, s: Any, h: Any, n: Any) -> Any:
    """h ← tanh(a h + s e) with e drawn from N(0, 1) in each step; every h"""
    streams = RandomStreams(7)

    def step(h: Any) -> Any:
        e = streams.normal(dtype=h.dtype)
        return [T.tanh(a * h + s * e), e]

    outputs, updates = scan(step, outputs_info=[h, None], n_steps=n)
    return Built(outputs, updates)


@random_walk.reference
def _(m: Any, a: Any, s: Any, h: Any, n: Any, draws: Any) -> Any:
    rows = []
    for t in range(n):
        h = m.tanh(a * h + s * draws[t])
        rows.append(h)
    return [m.stack(rows)]


@program(
    TOPIC,
    "a vector of uniform numbers in each step, which decide on branches",
    is_random=True,
    x=[[0.5, -1.0], [0.25, 0.75], [1.5, -0.5]],
    h=[0.5, -0.25],
    w=0.75,
)
def dropout(x: Any, h: Any, w: Any) -> Any:
    """h ← tanh((w h if u < 1/2 else 0) + x_t u) with u drawn from [0, 1) in each step, by element; every h"""
    streams = RandomStreams(7)

    def step(x_t: Any, h: Any) -> Any:
        u = streams.uniform((2,), dtype=h.dtype)
        return [T.tanh(T.switch(u < 0.5, w * h, 0) + x_t * u), u]

    outputs, updates = scan(step, x, [h, None])
    return Built(outputs, updates)


@dropout.reference
def _(m: Any, x: Any, h: Any, w: Any, draws: Any) -> Any:
    rows = []
    for t in range(len(x)):
        kept = [w * h[k] if draws[t][k] < 0.5 else 0 * h[k] for k in range(len(h))]
        h = m.tanh(m.stack(kept) + x[t] * draws[t])
        rows.append(h)
    return [m.stack(rows)]
