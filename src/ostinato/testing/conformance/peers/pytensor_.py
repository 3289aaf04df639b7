"""The programs in PyTensor: `pytensor.scan`, compiled by its default mode, which is numba.

It has taps, `until`, `truncate_gradient` and lengths that are known when a function runs, so programs look much as in
Ostinato. Random draws get their generator passed on from step to step. Forward mode is `pushforward`, which reverses
twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.gradient import disconnected_grad, pushforward
from pytensor.scan import foldl, until
from pytensor.scan.checkpoints import scan_checkpoints

from . import CannotError, gives_gradient

warnings.simplefilter("ignore")  # of deprecations, above all that updates are returned


def versions() -> dict[str, str]:
    """Of PyTensor, NumPy, and numba, by which it compiles."""
    import numba

    return {"pytensor": pytensor.__version__, "numpy": np.__version__, "numba": numba.__version__}


def run(
    name: str,
    quantity: str,
    dtype: str,
    arguments: Mapping[str, Any],
    directions: Mapping[str, Any],
    calls: int,
    mode: Any = None,
) -> tuple[list[Any], Any]:
    """The arrays of a quantity of a program, and what was drawn."""
    if name not in PROGRAMS:
        raise CannotError(CANNOT.get(name, "not written for PyTensor"))
    with pytensor.config.change_flags(floatX=dtype):
        return _run(name, quantity, arguments, directions, calls, mode)


def _run(
    name: str, quantity: str, arguments: Mapping[str, Any], directions: Mapping[str, Any], calls: int, mode: Any
) -> tuple[list[Any], Any]:
    variables = {n: pt.TensorType(a.dtype.name, (None,) * a.ndim)(n) for n, a in arguments.items()}
    returned = PROGRAMS[name](**variables)
    outputs, updates = returned if isinstance(returned, tuple) else (returned, {})
    drawn = [outputs.pop()] if name in RANDOM else []
    found = list(outputs)
    if quantity != "value":
        wrt = [variables[n] for n in directions]
        found = _derivative(quantity, _cost(outputs), wrt, [pt.constant(d) for d in directions.values()])
    f = pytensor.function(
        list(variables.values()), [*found, *drawn], updates=updates, mode=mode, on_unused_input="ignore"
    )
    for _ in range(calls):
        arrays = [np.asarray(a) for a in f(*arguments.values())]
    return (arrays[:-1], arrays[-1]) if drawn else (arrays, None)


def _cost(outputs: Sequence[Any]) -> Any:
    terms = []
    for place, output in enumerate(outputs):
        if output.dtype.startswith("float"):
            flat = output.flatten()
            weight = ((5 * (pt.arange(flat.shape[0]) + place) + 3) % 11 + 1).astype(output.dtype) / 8
            terms.append((flat * weight).sum())
    return sum(terms[1:], terms[0])


def _derivative(word: str, cost: Any, wrt: list[Any], along: list[Any]) -> list[Any]:
    """The derivative that the letters of a word say, the last one first."""
    current, is_gradient = [cost], False
    for letter in reversed(word):
        if letter == "R":
            scalar = _inner(current, along) if is_gradient else current[0]
            current, is_gradient = pytensor.grad(scalar, wrt, disconnected_inputs="ignore"), True
        else:
            current = list(pushforward(current, wrt, along, disconnected_outputs="ignore"))
    return [_inner(current, along)] if is_gradient and not gives_gradient(word) else current


def _inner(gradient: Sequence[Any], along: Sequence[Any]) -> Any:
    terms = [(g * d).sum() for g, d in zip(gradient, along, strict=True)]
    return sum(terms[1:], terms[0])


def _scan(fn: Callable[..., Any], sequences: Any = None, outputs_info: Any = None, n: Any = None, **rest: Any) -> Any:
    return pytensor.scan(
        fn, sequences=sequences, outputs_info=outputs_info, n_steps=n, return_updates=False, return_list=True, **rest
    )


# ---- states and sequences -------------------------------------------------------------------------


def leaky(x: Any, a: Any, h: Any) -> Any:
    return _scan(lambda x_t, h: pt.tanh(a * h + x_t), [x], [h])


def power(x: Any, n: Any) -> Any:
    return [_scan(lambda p: p * x, None, [pt.ones_like(x)], n)[0][-1]]


def second_order(a: Any, b: Any, e: Any, start: Any) -> Any:
    info = {"initial": start, "taps": [-2, -1]}
    return _scan(lambda e_t, two, one: a * one + b * two + e_t, [e], [info])


def distant(a: Any, start: Any, n: Any) -> Any:
    info = {"initial": start, "taps": [-3, -1]}
    return _scan(lambda three, one: pt.tanh(a * three) + one * three / 2, None, [info], n)


def window(x: Any, s: Any) -> Any:
    taps = {"input": x, "taps": [-1, 0, 1]}
    return _scan(lambda before, now, after, s: s / 2 + before * after + pt.sin(now), [taps], [s])


def mixed_taps(x: Any, y: Any, z: Any) -> Any:
    def step(now: Any, after: Any, two: Any, one: Any, z: Any) -> Any:
        return [z * pt.sin(two) + after, pt.tanh(z + one * now)]

    return _scan(step, [{"input": x, "taps": [0, 1]}], [{"initial": y, "taps": [-2, -1]}, z])


def pendulum(q: Any, v: Any, d: Any, n: Any) -> Any:
    def step(q: Any, v: Any) -> Any:
        v = v - d * pt.sin(q)
        return [q + d * v, v]

    return _scan(step, None, [q, v], n)


def ranks(s: Any, v: Any, M: Any, n: Any) -> Any:
    def step(s: Any, v: Any, M: Any) -> Any:
        return [s + pt.dot(v, v) / 4, pt.tanh(pt.dot(M, v) + s), M / 2 + pt.outer(v, v)]

    return [rows[-1] for rows in _scan(step, None, [s, v, M], n)]


def network(x: Any, W: Any, U: Any, b: Any, h: Any) -> Any:
    def step(x_t: Any, h: Any, W: Any, U: Any, b: Any) -> Any:
        return pt.tanh(pt.dot(x_t, W) + pt.dot(h, U) + b)

    return _scan(step, [x], [h], non_sequences=[W, U, b])


def backwards(x: Any, g: Any, r: Any) -> Any:
    return _scan(lambda x_t, r: x_t + g * pt.tanh(r), [x], [r], go_backwards=True)


def unequal(x: Any, y: Any, h: Any) -> Any:
    return _scan(lambda x_t, y_t, h: pt.tanh(h + x_t * y_t), [x, y], [h])


def stateless(x: Any, c: Any) -> Any:
    return [pytensor.map(lambda row: c * pt.sin(row) ** 2, x, return_updates=False)]


def beside(x: Any, h: Any) -> Any:
    def step(x_t: Any, h: Any) -> Any:
        new = pt.sin(h) + x_t / 2
        return [new, pt.exp(new) * x_t]

    return _scan(step, [x], [h, None])


def last_only(x: Any, s: Any) -> Any:
    return [foldl(lambda x_t, s: pt.log(pt.exp(s) + pt.exp(x_t)), x, s, return_updates=False)]


def constant_start(h: Any, w: Any, n: Any) -> Any:
    return _scan(lambda h: pt.sin(w * h), None, [h], n)


def start_only(x: Any, h: Any) -> Any:
    return [_scan(lambda x_t, h: h * pt.cos(h) + x_t, [x], [h])[0][-1]]


# ---- loops in loops -------------------------------------------------------------------------------


def triangle(a: Any, s: Any, n: Any) -> Any:
    def outer(t: Any, s: Any) -> Any:
        return _scan(lambda r: a * pt.sin(r) + s, None, [s], t)[0][-1] / 2

    return _scan(outer, [pt.arange(1, n + 1)], [s])


def rows_and_columns(A: Any, w: Any, h: Any) -> Any:
    def row(A_i: Any, h: Any) -> Any:
        return foldl(lambda A_ij, h: pt.tanh(w * h + A_ij), A_i, h, return_updates=False)

    return _scan(row, [A], [h])


def learning(x: Any, w: Any, e: Any, n: Any) -> Any:
    def step(w: Any) -> Any:
        h = _scan(lambda x_t, h: pt.tanh(w * h + x_t), [x], [pt.zeros_like(w)])[0]
        return w - e * pytensor.grad((h * h).sum(), w)

    return _scan(step, None, [w], n)


def chained(x: Any, a: Any, b: Any) -> Any:
    h = _scan(lambda x_t, h: pt.tanh(a * h + x_t), [x], [pt.zeros_like(a)])[0]
    return _scan(lambda h_t, g: pt.sin(b * g + h_t), [h], [pt.zeros_like(b)])


def bidirectional(x: Any, a: Any, b: Any) -> Any:
    zero = pt.zeros_like(x[0])
    f = _scan(lambda x_t, f: pt.tanh(a * f + x_t), [x], [zero])[0]
    g = _scan(lambda x_t, g: pt.tanh(b * g + x_t), [x], [zero], go_backwards=True)[0]
    return [f * g[::-1]]


def implicit(y: Any, d: Any, x: Any) -> Any:
    def step(x_t: Any, y: Any) -> Any:
        def newton(z: Any) -> Any:
            z = z - (z - y - d * (x_t - z * z * z)) / (1 + 3 * d * z * z)
            return z, until(abs(z - y - d * (x_t - z * z * z)) < 2**-12)

        return _scan(newton, None, [y], 50)[0][-1]

    return _scan(step, [x], [y])


# ---- ends of loops --------------------------------------------------------------------------------


def newton(a: Any, z: Any) -> Any:
    def step(z: Any) -> Any:
        z = (z + a / z) / 2
        return z, until(abs(z * z - a) < 2**-8)

    return [_scan(step, None, [z], 100)[0][-1]]


def fixed_point(x: Any, a: Any) -> Any:
    def step(x: Any) -> Any:
        new = pt.cos(a * x)
        return new, until(pt.max(abs(new - x)) < 2**-6)

    return [_scan(step, None, [x], 10**9)[0][-1]]


def threshold(s: Any, a: Any) -> Any:
    def step(s_t: Any, a: Any) -> Any:
        a = a + s_t * s_t
        return a, until(a > 10)

    return [_scan(step, [s], [a])[0][-1]]


def until_rows(h: Any, a: Any, x: Any) -> Any:
    def step(x_t: Any, h: Any) -> Any:
        h = a * h + pt.sin(x_t)
        return h, until(h > 4)

    return _scan(step, [x], [h])


def until_at_once(h: Any, n: Any) -> Any:
    def step(h: Any) -> Any:
        h = h * pt.sin(h)
        return h, until(h.sum() > 0)

    return _scan(step, None, [h], n)


def until_never(h: Any, n: Any) -> Any:
    def step(h: Any) -> Any:
        h = pt.sin(h) + h / 2
        return h, until(h.sum() < 0)

    return _scan(step, None, [h], n)


def one_step(a: Any, h: Any, n: Any) -> Any:
    return _scan(lambda h: pt.tanh(a * h), None, [h], n)


def no_steps(a: Any, h: Any, n: Any) -> Any:
    rows = _scan(lambda h: pt.tanh(a * h), None, [h], n)[0]
    return [rows, pt.concatenate([h[None], rows])[-1]]


def no_rows(x: Any, a: Any, s: Any) -> Any:
    rows = _scan(lambda x_t, s: a * s + pt.sin(x_t), [x], [s])[0]
    return [rows, pt.concatenate([s[None], rows])[-1]]


def no_batch(x: Any, a: Any, h: Any) -> Any:
    rows = _scan(lambda x_t, h: pt.tanh(a * h + x_t), [x], [h])[0]
    return [rows, rows[-1].sum()]


# ---- cut derivatives ------------------------------------------------------------------------------


def truncated(x: Any, a: Any, w: Any, h: Any) -> Any:
    return [_scan(lambda x_t, h: a * h + w * x_t, [x], [h], truncate_gradient=3)[0][-1]]


def truncated_rows(x: Any, a: Any, h: Any) -> Any:
    return _scan(lambda x_t, h: pt.tanh(a * h + x_t), [x], [h], truncate_gradient=2)


def truncated_taps(a: Any, b: Any, start: Any, n: Any) -> Any:
    info = {"initial": start, "taps": [-2, -1]}
    return [_scan(lambda two, one: pt.sin(a * one) + b * two, None, [info], n, truncate_gradient=2)[0][-1]]


def truncated_never(x: Any, a: Any, h: Any) -> Any:
    return _scan(lambda x_t, h: pt.tanh(a * h + x_t), [x], [h], truncate_gradient=5)


def checkpointed(x: Any, a: Any, h: Any) -> Any:
    rows, _ = scan_checkpoints(lambda x_t, h, a: pt.tanh(a * h + x_t), x, h, a, save_every_N=2)
    return [rows[-1]]


def stopped(x: Any, a: Any, h: Any) -> Any:
    return _scan(lambda x_t, h: pt.tanh(a * disconnected_grad(h) + x_t) + h / 2, [x], [h])


# ---- what a step does -----------------------------------------------------------------------------


def kinks(x: Any, c: Any, h: Any) -> Any:
    return _scan(lambda x_t, h: pt.switch(x_t > 0, pt.maximum(h * x_t, -c), pt.minimum(h - x_t, c)), [x], [h])


def guarded(x: Any, h: Any) -> Any:
    def step(x_t: Any, h: Any) -> Any:
        inside = x_t > 0
        return pt.switch(inside, h + pt.log(pt.switch(inside, x_t, 1)), h * pt.cos(x_t))

    return _scan(step, [x], [h])


def pointer(table: Any, h: Any, i: Any, n: Any) -> Any:
    return _scan(lambda h, i: [h * table[i] + pt.sin(table[i]), (3 * i + 2) % 4], None, [h, i], n)


def embedding(W: Any, k: Any, h: Any) -> Any:
    return _scan(lambda k_t, h: pt.tanh(h + W[k_t].sum(axis=0)), [k], [h])


def history(p: Any, n: Any) -> Any:
    def step(i: Any, P: Any) -> Any:
        return P[i].set(pt.sin(P[i - 1]) + P[i // 2] / 2)

    start = pt.zeros((n + 1, 2), p.dtype)[0].set(p)
    return [_scan(step, [pt.arange(1, n + 1)], [start])[0][-1]]


def zero_factor(x: Any, p: Any) -> Any:
    return _scan(lambda x_t, p: p * x_t, [x], [p])


def counter(x: Any, s: Any) -> Any:
    def step(x_t: Any, s: Any, k: Any) -> Any:
        k = k + (x_t > 0).astype("int64")
        return [s + x_t * x_t / k.astype(s.dtype), k]

    return _scan(step, [x], [s, pt.constant(1, dtype="int64")])


def promoted(x: Any, h: Any) -> Any:
    return _scan(lambda x_t, h: pt.tanh(h) + x_t, [x], [h.astype(x.dtype)])


def stored(x: Any, a: Any) -> Any:
    s = pytensor.shared(np.asarray(0.5, x.dtype), "s")

    def step(x_t: Any) -> Any:
        new = pt.tanh(a * s + x_t)
        return new, {s: new}

    rows, updates = pytensor.scan(step, [x])
    return [rows, updates[s]], updates


def mandelbrot(x: Any, y: Any, n: Any) -> Any:
    def step(u: Any, v: Any, k: Any) -> Any:
        inside = u * u + v * v < 4
        u, v = pt.switch(inside, u * u - v * v + x, u), pt.switch(inside, 2 * u * v + y, v)
        return [u, v, k + inside.astype("int64")]

    zero = pt.zeros_like(x)
    return [rows[-1] for rows in _scan(step, None, [zero, zero, pt.zeros_like(x, "int64")], n)]


def random_walk(a: Any, s: Any, h: Any, n: Any) -> Any:
    generator = pytensor.shared(np.random.default_rng(7))

    def step(h: Any) -> Any:
        following, e = pt.random.normal(rng=generator, dtype=h.dtype).owner.outputs
        return [pt.tanh(a * h + s * e), e], {generator: following}

    (rows, draws), updates = pytensor.scan(step, outputs_info=[h, None], n_steps=n)
    return [rows, draws], updates


def dropout(x: Any, h: Any, w: Any) -> Any:
    generator = pytensor.shared(np.random.default_rng(7))

    def step(x_t: Any, h: Any) -> Any:
        following, u = pt.random.uniform(size=(2,), rng=generator, dtype=h.dtype).owner.outputs
        return [pt.tanh(pt.switch(u < 0.5, w * h, 0) + x_t * u), u], {generator: following}

    (rows, draws), updates = pytensor.scan(step, [x], outputs_info=[h, None])
    return [rows, draws], updates


# ---- models ---------------------------------------------------------------------------------------


def markov(x: Any, mean: Any, A: Any) -> Any:
    def step(x_t: Any, l: Any) -> Any:
        return pt.logsumexp(l[:, None] + A, axis=0) - (x_t - mean) ** 2 / 2

    return [pt.logsumexp(foldl(step, x, pt.zeros_like(mean), return_updates=False))]


def kalman(y: Any, F: Any, c: Any, q: Any, r: Any) -> Any:
    def step(y_t: Any, x: Any, P: Any, total: Any) -> Any:
        x, P = pt.dot(F, x), pt.dot(pt.dot(F, P), F.T) + q * pt.eye(3, dtype=y.dtype)
        Pc = pt.dot(P, c)
        s, e = pt.dot(c, Pc) + r, y_t - pt.dot(c, x)
        k = Pc / s
        return [x + k * e, P - s * pt.outer(k, k), total - (pt.log(s) + e * e / s) / 2]

    starts = [pt.zeros_like(c), pt.eye(3, dtype=y.dtype), pt.zeros_like(q)]
    return [foldl(step, y, starts, return_updates=False)[2]]


def garch(r: Any, w: Any, a: Any, b: Any, v: Any) -> Any:
    def step(before: Any, now: Any, v: Any) -> Any:
        v = w + a * before**2 + b * v
        return [v, -(pt.log(v) + now**2 / v) / 2]

    return [_scan(step, [{"input": r, "taps": [-1, 0]}], [v, None])[1].sum()]


def lstm(x: Any, W: Any, U: Any, b: Any, h: Any, c: Any) -> Any:
    def step(x_t: Any, h: Any, c: Any) -> Any:
        gates = pt.dot(x_t, W) + pt.dot(h, U) + b
        i, f, o, g = (gates[:, k : k + 1] for k in range(4))
        c = pt.sigmoid(f) * c + pt.sigmoid(i) * pt.tanh(g)
        return [pt.sigmoid(o) * pt.tanh(c), c]

    return _scan(step, [x], [h, c])[:1]


def predators(z: Any, p: Any, d: Any, n: Any) -> Any:
    def growth(u: Any, v: Any) -> Any:
        return u * (p[0] - p[1] * v), v * (p[3] * u - p[2])

    def step(u: Any, v: Any) -> Any:
        du1, dv1 = growth(u, v)
        du2, dv2 = growth(u + d / 2 * du1, v + d / 2 * dv1)
        du3, dv3 = growth(u + d / 2 * du2, v + d / 2 * dv2)
        du4, dv4 = growth(u + d * du3, v + d * dv3)
        return [u + d * (du1 + 2 * du2 + 2 * du3 + du4) / 6, v + d * (dv1 + 2 * dv2 + 2 * dv3 + dv4) / 6]

    return _scan(step, None, [z[0], z[1]], n)


def affine(A: Any, b: Any, h: Any) -> Any:
    return _scan(lambda A_t, b_t, h: pt.dot(A_t, h) + b_t, [A, b], [h])


_WRITTEN: list[Callable[..., Any]] = [
    leaky, power, second_order, distant, window, mixed_taps, pendulum, ranks, network, backwards, unequal, stateless,
    beside, last_only, constant_start, start_only, triangle, rows_and_columns, learning, chained, bidirectional,
    implicit, newton, fixed_point, threshold, until_rows, until_at_once, until_never, one_step, no_steps, no_rows,
    no_batch, truncated, truncated_rows, truncated_taps, truncated_never, stopped, checkpointed, kinks, guarded,
    pointer, embedding, history, zero_factor, counter, promoted, stored, mandelbrot, random_walk, dropout, markov,
    kalman, garch, lstm, predators, affine,
]  # fmt: skip
PROGRAMS: dict[str, Callable[..., Any]] = {f.__name__: f for f in _WRITTEN}
RANDOM = {"random_walk", "dropout"}
CANNOT: dict[str, str] = {}
