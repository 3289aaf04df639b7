"""Programs about what a step reads: states of steps before, several states, sequences with taps, invariants."""

from __future__ import annotations

from typing import Any

import ostinato.tensor as T
from ostinato.scan import foldl, map, scan
from ostinato.testing.conformance.program import program

TOPIC = "states and sequences"


@program(TOPIC, "a state of one step before", orders=4, x=[0.5, -1.0, 0.25, 0.75], a=0.75, h=0.5)
def leaky(x: Any, a: Any, h: Any) -> Any:
    """h ← tanh(a h + x_t); every h"""
    return [scan(lambda x_t, h: T.tanh(a * h + x_t), x, h)[0]]


@leaky.reference
def _(m: Any, x: Any, a: Any, h: Any) -> Any:
    rows = []
    for x_t in x:
        h = m.tanh(a * h + x_t)
        rows.append(h)
    return [m.stack(rows)]


@program(TOPIC, "a power by repeated products, to the fourth derivative", orders=4, x=1.0625, n=32)
def power(x: Any, n: Any) -> Any:
    """p ← p x, n times from 1; the last p"""
    powers, _ = scan(lambda p: p * x, outputs_info=T.ones_like(x), n_steps=n)
    return [powers[-1]]


@power.reference
def _(m: Any, x: Any, n: Any) -> Any:
    p = 1
    for _ in range(n):
        p = p * x
    return [p]


@program(TOPIC, "two steps back", orders=3, a=0.75, b=-0.5, e=[0.5, 1.0, -0.25, 0.5, -1.0], start=[0.25, 1.5])
def second_order(a: Any, b: Any, e: Any, start: Any) -> Any:
    """y_t = a y_(t-1) + b y_(t-2) + e_t; every y"""
    info = {"initial": start, "taps": [-2, -1]}
    return [scan(lambda e_t, two, one: a * one + b * two + e_t, e, info)[0]]


@second_order.reference
def _(m: Any, a: Any, b: Any, e: Any, start: Any) -> Any:
    y = list(start)
    for e_t in e:
        y.append(a * y[-1] + b * y[-2] + e_t)
    return [m.stack(y[2:])]


@program(TOPIC, "one and three steps back, not two", orders=3, a=0.75, start=[0.5, -0.25, 1.0], n=6)
def distant(a: Any, start: Any, n: Any) -> Any:
    """y_t = tanh(a y_(t-3)) + y_(t-1) y_(t-3) / 2; every y"""
    info = {"initial": start, "taps": [-3, -1]}
    return [scan(lambda three, one: T.tanh(a * three) + one * three / 2, outputs_info=info, n_steps=n)[0]]


@distant.reference
def _(m: Any, a: Any, start: Any, n: Any) -> Any:
    y = list(start)
    for _ in range(n):
        y.append(m.tanh(a * y[-3]) + y[-1] * y[-3] / 2)
    return [m.stack(y[3:])]


@program(TOPIC, "rows before and after", orders=3, x=[0.5, -1.0, 0.25, 0.75, 1.5, -0.5], s=0.5)
def window(x: Any, s: Any) -> Any:
    """s ← s / 2 + x_(t-1) x_(t+1) + sin(x_t), for every t that has both; every s"""
    taps = {"input": x, "taps": [-1, 0, 1]}
    return [scan(lambda before, now, after, s: s / 2 + before * after + T.sin(now), taps, s)[0]]


@window.reference
def _(m: Any, x: Any, s: Any) -> Any:
    rows = []
    for t in range(1, len(x) - 1):
        s = s / 2 + x[t - 1] * x[t + 1] + m.sin(x[t])
        rows.append(s)
    return [m.stack(rows)]


@program(TOPIC, "two states with lags, a sequence with taps", x=[0.5, -1.0, 0.25, 0.75, 1.5], y=[0.25, -0.5], z=1.0)
def mixed_taps(x: Any, y: Any, z: Any) -> Any:
    """y_t = z_(t-1) sin(y_(t-2)) + x_(t+1); z_t = tanh(z_(t-1) + y_(t-1) x_t); every y and z"""

    def step(now: Any, after: Any, two: Any, one: Any, z: Any) -> Any:
        return [z * T.sin(two) + after, T.tanh(z + one * now)]

    infos = [{"initial": y, "taps": [-2, -1]}, z]
    return scan(step, {"input": x, "taps": [0, 1]}, infos)[0]


@mixed_taps.reference
def _(m: Any, x: Any, y: Any, z: Any) -> Any:
    ys, zs = list(y), [z]
    for t in range(len(x) - 1):
        new = zs[-1] * m.sin(ys[-2]) + x[t + 1], m.tanh(zs[-1] + ys[-1] * x[t])
        ys.append(new[0])
        zs.append(new[1])
    return [m.stack(ys[2:]), m.stack(zs[1:])]


@program(TOPIC, "two states, one from the other's new value", orders=4, q=1.0, v=0.25, d=0.25, n=4)
def pendulum(q: Any, v: Any, d: Any, n: Any) -> Any:
    """v ← v - d sin(q); q ← q + d v; every q and v"""

    def step(q: Any, v: Any) -> Any:
        v = v - d * T.sin(q)
        return [q + d * v, v]

    return scan(step, outputs_info=[q, v], n_steps=n)[0]


@pendulum.reference
def _(m: Any, q: Any, v: Any, d: Any, n: Any) -> Any:
    qs, vs = [], []
    for _ in range(n):
        v = v - d * m.sin(q)
        q = q + d * v
        qs.append(q)
        vs.append(v)
    return [m.stack(qs), m.stack(vs)]


@program(
    TOPIC, "states that are a number, a vector and a matrix", s=0.5, v=[0.25, -0.5], M=[[0.5, 0.25], [-0.25, 1.0]], n=3
)
def ranks(s: Any, v: Any, M: Any, n: Any) -> Any:
    """s ← s + v·v / 4; v ← tanh(M v + s); M ← M / 2 + v vᵀ, all from the values before; the last of each"""

    def step(s: Any, v: Any, M: Any) -> Any:
        return [s + T.dot(v, v) / 4, T.tanh(T.dot(M, v) + s), M / 2 + T.outer(v, v)]

    found, _ = scan(step, outputs_info=[s, v, M], n_steps=n)
    return [rows[-1] for rows in found]


@ranks.reference
def _(m: Any, s: Any, v: Any, M: Any, n: Any) -> Any:
    for _ in range(n):
        s, v, M = s + (v * v).sum() / 4, m.tanh(M @ v + s), M / 2 + v[:, None] * v[None, :]
    return [s, v, M]


@program(
    TOPIC,
    "a recurrent network: a batch, weights that no step changes",
    x=[[[0.5, -1.0, 0.25], [0.75, 0.5, -0.5]], [[1.0, 0.25, 0.5], [-0.25, 0.5, 0.75]]],
    W=[[0.5, -0.25], [0.25, 0.75], [-0.5, 0.5]],
    U=[[0.25, -0.5], [0.5, 0.75]],
    b=[0.125, -0.25],
    h=[[0.0, 0.5], [-0.5, 0.25]],
)
def network(x: Any, W: Any, U: Any, b: Any, h: Any) -> Any:
    """h ← tanh(x_t W + h U + b); every h"""
    return [scan(lambda x_t, h, W, U, b: T.tanh(T.dot(x_t, W) + T.dot(h, U) + b), x, h, [W, U, b])[0]]


@network.reference
def _(m: Any, x: Any, W: Any, U: Any, b: Any, h: Any) -> Any:
    rows = []
    for x_t in x:
        h = m.tanh(x_t @ W + h @ U + b)
        rows.append(h)
    return [m.stack(rows)]


@program(TOPIC, "from the last row to the first", orders=3, x=[0.5, -1.0, 0.25, 0.75], g=0.75, r=0.5)
def backwards(x: Any, g: Any, r: Any) -> Any:
    """r ← x_t + g tanh(r), from the last row to the first; every r, in the order in which they are made"""
    return [scan(lambda x_t, r: x_t + g * T.tanh(r), x, r, go_backwards=True)[0]]


@backwards.reference
def _(m: Any, x: Any, g: Any, r: Any) -> Any:
    rows = []
    for x_t in x[::-1]:
        r = x_t + g * m.tanh(r)
        rows.append(r)
    return [m.stack(rows)]


@program(
    TOPIC,
    "sequences of unequal length: rows that are not read count for nothing",
    x=[0.5, -1.0, 0.25, 0.75],
    y=[1.5, 0.25],
    h=0.5,
)
def unequal(x: Any, y: Any, h: Any) -> Any:
    """h ← tanh(h + x_t y_t) as far as the shorter goes; every h"""
    return [scan(lambda x_t, y_t, h: T.tanh(h + x_t * y_t), [x, y], h)[0]]


@unequal.reference
def _(m: Any, x: Any, y: Any, h: Any) -> Any:
    rows = []
    for x_t, y_t in zip(x, y, strict=False):
        h = m.tanh(h + x_t * y_t)
        rows.append(h)
    return [m.stack(rows)]


@program(TOPIC, "no state at all", orders=3, x=[[0.5, -1.0], [0.25, 0.75], [1.5, -0.5]], c=0.75)
def stateless(x: Any, c: Any) -> Any:
    """y_t = c sin(x_t)²; every y"""
    return [map(lambda row: c * T.sin(row) ** 2, x)[0]]


@stateless.reference
def _(m: Any, x: Any, c: Any) -> Any:
    return [m.stack([c * m.sin(row) * m.sin(row) for row in x])]


@program(TOPIC, "an output that is no state beside one that is", orders=3, x=[0.5, -1.0, 0.25, 0.75], h=0.5)
def beside(x: Any, h: Any) -> Any:
    """h ← sin(h) + x_t / 2, y_t = exp(h) x_t from the new h; every h and y"""

    def step(x_t: Any, h: Any) -> Any:
        new = T.sin(h) + x_t / 2
        return [new, T.exp(new) * x_t]

    return scan(step, x, [h, None])[0]


@beside.reference
def _(m: Any, x: Any, h: Any) -> Any:
    hs, ys = [], []
    for x_t in x:
        h = m.sin(h) + x_t / 2
        hs.append(h)
        ys.append(m.exp(h) * x_t)
    return [m.stack(hs), m.stack(ys)]


@program(TOPIC, "only the last value is wanted", orders=3, x=[0.5, -1.0, 0.25, 0.75, 1.5], s=0.25)
def last_only(x: Any, s: Any) -> Any:
    """s ← log(exp(s) + exp(x_t)); the last s"""
    return [foldl(lambda x_t, s: T.log(T.exp(s) + T.exp(x_t)), x, s)[0]]


@last_only.reference
def _(m: Any, x: Any, s: Any) -> Any:
    for x_t in x:
        s = m.log(m.exp(s) + m.exp(x_t))
    return [s]


@program(TOPIC, "an initial state that no derivative is asked for", wrt=["w"], h=[0.5, -0.25], w=[0.75, 1.25], n=4)
def constant_start(h: Any, w: Any, n: Any) -> Any:
    """h ← sin(w h); every h; derivatives by w alone"""
    return [scan(lambda h: T.sin(w * h), outputs_info=h, n_steps=n)[0]]


@constant_start.reference
def _(m: Any, h: Any, w: Any, n: Any) -> Any:
    rows = []
    for _ in range(n):
        h = m.sin(w * h)
        rows.append(h)
    return [m.stack(rows)]


@program(TOPIC, "derivatives by the initial state alone", orders=3, wrt=["h"], x=[0.5, -1.0, 0.25], h=[0.5, -0.25])
def start_only(x: Any, h: Any) -> Any:
    """h ← h cos(h) + x_t; the last h; derivatives by the initial h alone"""
    return [scan(lambda x_t, h: h * T.cos(h) + x_t, x, h)[0][-1]]


@start_only.reference
def _(m: Any, x: Any, h: Any) -> Any:
    for x_t in x:
        h = h * m.cos(h) + x_t
    return [h]
