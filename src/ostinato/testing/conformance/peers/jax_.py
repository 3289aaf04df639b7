"""The programs in JAX: `lax.scan`, `lax.while_loop` where there is no bound on the steps, masks where there is one.

Lengths are static, as JAX has them. A loop that ends early and has a bound is a scan of as many steps as are allowed,
in which the state stands still once the end is reached: that can be differentiated backwards, as `lax.while_loop`
cannot.
Truncation is `stop_gradient` between two scans, and a variable that is kept between calls is passed along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import CannotError, gives_gradient, weights

jax.config.update("jax_enable_x64", True)


class Rows(NamedTuple):
    """As many rows as could have been made, and how many were."""

    array: Any
    count: Any


def versions() -> dict[str, str]:
    """Of JAX and NumPy."""
    return {"jax": jax.__version__, "numpy": np.__version__}


def run(
    name: str, quantity: str, dtype: str, arguments: Mapping[str, Any], directions: Mapping[str, Any], calls: int
) -> tuple[list[Any], Any]:
    """The arrays of a quantity of a program, and what was drawn."""
    if name not in PROGRAMS:
        raise CannotError(CANNOT.get(name, "not written for JAX"))
    given = {n: int(a) if a.dtype.kind == "i" and a.ndim == 0 else jnp.asarray(a) for n, a in arguments.items()}
    point = tuple(given[n] for n in directions)
    along = tuple(jnp.asarray(d) for d in directions.values())

    def outputs(*moved: Any) -> list[Any]:
        arguments = {**given, **dict(zip(directions, moved, strict=True))}
        return list(PROGRAMS[name](given, **arguments) if name in OF_CALLS else PROGRAMS[name](**arguments))

    drawn = [np.asarray(jax.jit(outputs)(*point)[-1])] if name in RANDOM else []
    if quantity == "value":
        found = jax.jit(outputs)(*point)
        found = found[: len(found) - len(drawn)]
        return [o.array[: int(o.count)] if isinstance(o, Rows) else o for o in found], drawn[0] if drawn else None

    def cost(*moved: Any) -> Any:
        found = outputs(*moved)
        return sum(_weighted(k, o) for k, o in enumerate(found[: len(found) - len(drawn)]))

    found = jax.jit(_derivative(quantity, cost, along))(*point)
    return list(found) if isinstance(found, tuple) else [found], drawn[0] if drawn else None


def _weighted(place: int, output: Any) -> Any:
    array, count = output if isinstance(output, Rows) else (output, None)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return 0
    weight = jnp.asarray(weights(place, array.size).reshape(array.shape), array.dtype)
    if count is not None:
        kept = (jnp.arange(len(array)) < count).reshape(-1, *[1] * (array.ndim - 1))
        weight = jnp.where(kept, weight, 0)
    return jnp.sum(array * weight)


def _derivative(word: str, f: Callable[..., Any], along: tuple[Any, ...]) -> Callable[..., Any]:
    """The derivative that the letters of a word say, the last one first."""
    places = tuple(range(len(along)))
    is_gradient = False
    for letter in reversed(word):
        if letter == "R":
            f = jax.grad(_inner(f, along) if is_gradient else f, places)
            is_gradient = True
        else:
            f = _forward(f, along)
    return _inner(f, along) if is_gradient and not gives_gradient(word) else f


def _inner(f: Callable[..., Any], along: tuple[Any, ...]) -> Callable[..., Any]:
    return lambda *moved: sum(jnp.sum(g * d) for g, d in zip(f(*moved), along, strict=True))


def _forward(f: Callable[..., Any], along: tuple[Any, ...]) -> Callable[..., Any]:
    return lambda *moved: jax.jvp(f, moved, along)[1]


# ---- states and sequences -------------------------------------------------------------------------


def _all(step: Callable[..., Any], init: Any, xs: Any = None, n: int | None = None, reverse: bool = False) -> Any:
    """Every value of a state."""

    def both(carry: Any, x: Any) -> Any:
        new = step(carry, x)
        return new, new

    return lax.scan(both, init, xs, length=n, reverse=reverse)[1]


def _last(step: Callable[..., Any], init: Any, xs: Any = None, n: int | None = None) -> Any:
    """The last value of a state."""
    return lax.scan(lambda carry, x: (step(carry, x), None), init, xs, length=n)[0]


def _until(step: Callable[..., Any], init: Any, xs: Any = None, n: int | None = None) -> tuple[Any, Any, Any]:
    """The last state, all of them and their number, of a loop whose step says whether it was the last."""

    def masked(carry: Any, x: Any) -> Any:
        state, ended, count = carry
        new, ends = step(state, x)
        new = jnp.where(ended, state, new)
        return (new, ended | ends, count + ~ended), new

    start = (init, jnp.asarray(False), jnp.asarray(0))
    (state, _, count), rows = lax.scan(masked, start, xs, length=n)
    return state, rows, count


def leaky(x: Any, a: Any, h: Any) -> Any:
    return [_all(lambda h, x_t: jnp.tanh(a * h + x_t), h, x)]


def power(x: Any, n: int) -> Any:
    return [_last(lambda p, _: p * x, jnp.ones_like(x), n=n)]


def second_order(a: Any, b: Any, e: Any, start: Any) -> Any:
    def step(y: Any, e_t: Any) -> Any:
        new = a * y[1] + b * y[0] + e_t
        return (y[1], new), new

    return [lax.scan(step, (start[0], start[1]), e)[1]]


def distant(a: Any, start: Any, n: int) -> Any:
    def step(y: Any, _: Any) -> Any:
        new = jnp.tanh(a * y[0]) + y[2] * y[0] / 2
        return (y[1], y[2], new), new

    return [lax.scan(step, tuple(start), length=n)[1]]


def window(x: Any, s: Any) -> Any:
    return [_all(lambda s, v: s / 2 + v[0] * v[2] + jnp.sin(v[1]), s, (x[:-2], x[1:-1], x[2:]))]


def mixed_taps(x: Any, y: Any, z: Any) -> Any:
    def step(carry: Any, v: Any) -> Any:
        two, one, z = carry
        now, after = v
        new = z * jnp.sin(two) + after, jnp.tanh(z + one * now)
        return (one, *new), new

    return lax.scan(step, (y[0], y[1], z), (x[:-1], x[1:]))[1]


def pendulum(q: Any, v: Any, d: Any, n: int) -> Any:
    def step(z: Any, _: Any) -> Any:
        v = z[1] - d * jnp.sin(z[0])
        return z[0] + d * v, v

    return _all(step, (q, v), n=n)


def ranks(s: Any, v: Any, M: Any, n: int) -> Any:
    def step(z: Any, _: Any) -> Any:
        s, v, M = z
        return s + v @ v / 4, jnp.tanh(M @ v + s), M / 2 + jnp.outer(v, v)

    return _last(step, (s, v, M), n=n)


def network(x: Any, W: Any, U: Any, b: Any, h: Any) -> Any:
    return [_all(lambda h, x_t: jnp.tanh(x_t @ W + h @ U + b), h, x)]


def backwards(x: Any, g: Any, r: Any) -> Any:
    return [_all(lambda r, x_t: x_t + g * jnp.tanh(r), r, x, reverse=True)[::-1]]


def unequal(x: Any, y: Any, h: Any) -> Any:
    n = min(len(x), len(y))
    return [_all(lambda h, v: jnp.tanh(h + v[0] * v[1]), h, (x[:n], y[:n]))]


def stateless(x: Any, c: Any) -> Any:
    return [lax.map(lambda row: c * jnp.sin(row) ** 2, x)]


def beside(x: Any, h: Any) -> Any:
    def step(h: Any, x_t: Any) -> Any:
        new = jnp.sin(h) + x_t / 2
        return new, (new, jnp.exp(new) * x_t)

    return lax.scan(step, h, x)[1]


def last_only(x: Any, s: Any) -> Any:
    return [_last(lambda s, x_t: jnp.log(jnp.exp(s) + jnp.exp(x_t)), s, x)]


def constant_start(h: Any, w: Any, n: int) -> Any:
    return [_all(lambda h, _: jnp.sin(w * h), h, n=n)]


def start_only(x: Any, h: Any) -> Any:
    return [_last(lambda h, x_t: h * jnp.cos(h) + x_t, h, x)]


# ---- loops in loops -------------------------------------------------------------------------------


def triangle(a: Any, s: Any, n: int) -> Any:
    def step(s: Any, t: Any) -> Any:
        return lax.fori_loop(0, n, lambda k, r: jnp.where(k < t, a * jnp.sin(r) + s, r), s) / 2

    return [_all(step, s, jnp.arange(1, n + 1))]


def rows_and_columns(A: Any, w: Any, h: Any) -> Any:
    return [_all(lambda h, A_i: _last(lambda h, A_ij: jnp.tanh(w * h + A_ij), h, A_i), h, A)]


def learning(x: Any, w: Any, e: Any, n: int) -> Any:
    def loss(w: Any) -> Any:
        return jnp.sum(_all(lambda h, x_t: jnp.tanh(w * h + x_t), jnp.zeros_like(w), x) ** 2)

    return [_all(lambda w, _: w - e * jax.grad(loss)(w), w, n=n)]


def chained(x: Any, a: Any, b: Any) -> Any:
    h = _all(lambda h, x_t: jnp.tanh(a * h + x_t), jnp.zeros_like(a), x)
    return [_all(lambda g, h_t: jnp.sin(b * g + h_t), jnp.zeros_like(b), h)]


def bidirectional(x: Any, a: Any, b: Any) -> Any:
    zero = jnp.zeros_like(x[0])
    f = _all(lambda f, x_t: jnp.tanh(a * f + x_t), zero, x)
    return [f * _all(lambda g, x_t: jnp.tanh(b * g + x_t), zero, x, reverse=True)]


def implicit(y: Any, d: Any, x: Any) -> Any:
    def step(y: Any, x_t: Any) -> Any:
        def newton(z: Any, _: Any) -> Any:
            z = z - (z - y - d * (x_t - z * z * z)) / (1 + 3 * d * z * z)
            return z, abs(z - y - d * (x_t - z * z * z)) < 2**-12

        return _until(newton, y, n=50)[0]

    return [_all(step, y, x)]


# ---- ends of loops --------------------------------------------------------------------------------


def newton(a: Any, z: Any) -> Any:
    def step(z: Any, _: Any) -> Any:
        z = (z + a / z) / 2
        return z, abs(z * z - a) < 2**-8

    return [_until(step, z, n=100)[0]]


def fixed_point(x: Any, a: Any) -> Any:
    def step(carry: Any) -> Any:
        x, _, k = carry
        new = jnp.cos(a * x)
        return new, jnp.max(abs(new - x)), k + 1

    start = (x, jnp.full((), jnp.inf, x.dtype), 0)
    return [lax.while_loop(lambda c: (c[1] >= 2**-6) & (c[2] < 10**9), step, start)[0]]


def threshold(s: Any, a: Any) -> Any:
    def step(a: Any, s_t: Any) -> Any:
        a = a + s_t * s_t
        return a, a > 10

    return [_until(step, a, s)[0]]


def until_rows(h: Any, a: Any, x: Any) -> Any:
    def step(h: Any, x_t: Any) -> Any:
        h = a * h + jnp.sin(x_t)
        return h, h > 4

    return [Rows(*_until(step, h, x)[1:])]


def until_at_once(h: Any, n: int) -> Any:
    def step(h: Any, _: Any) -> Any:
        h = h * jnp.sin(h)
        return h, jnp.sum(h) > 0

    return [Rows(*_until(step, h, n=n)[1:])]


def until_never(h: Any, n: int) -> Any:
    def step(h: Any, _: Any) -> Any:
        h = jnp.sin(h) + h / 2
        return h, jnp.sum(h) < 0

    return [Rows(*_until(step, h, n=n)[1:])]


def one_step(a: Any, h: Any, n: int) -> Any:
    return [_all(lambda h, _: jnp.tanh(a * h), h, n=n)]


def no_steps(a: Any, h: Any, n: int) -> Any:
    def step(h: Any, _: Any) -> Any:
        h = jnp.tanh(a * h)
        return h, h

    last, rows = lax.scan(step, h, length=n)
    return [rows, last]


def no_rows(x: Any, a: Any, s: Any) -> Any:
    def step(s: Any, x_t: Any) -> Any:
        s = a * s + jnp.sin(x_t)
        return s, s

    last, rows = lax.scan(step, s, x)
    return [rows, last]


def no_batch(x: Any, a: Any, h: Any) -> Any:
    rows = _all(lambda h, x_t: jnp.tanh(a * h + x_t), h, x)
    return [rows, jnp.sum(rows[-1])]


# ---- cut derivatives ------------------------------------------------------------------------------


def truncated(x: Any, a: Any, w: Any, h: Any) -> Any:
    def step(h: Any, x_t: Any) -> Any:
        return a * h + w * x_t

    return [_last(step, lax.stop_gradient(_last(step, h, x[:-3])), x[-3:])]


def truncated_rows(x: Any, a: Any, h: Any) -> Any:
    def step(h: Any, x_t: Any) -> Any:
        return jnp.tanh(a * h + x_t)

    first = lax.stop_gradient(_all(step, h, x[:-2]))
    return [jnp.concatenate([first, _all(step, first[-1], x[-2:])])]


def truncated_taps(a: Any, b: Any, start: Any, n: int) -> Any:
    def step(y: Any, _: Any) -> Any:
        return y[1], jnp.sin(a * y[1]) + b * y[0]

    return [_last(step, lax.stop_gradient(_last(step, tuple(start), n=n - 2)), n=2)[1]]


def truncated_never(x: Any, a: Any, h: Any) -> Any:
    return leaky(x, a, h)


def checkpointed(x: Any, a: Any, h: Any) -> Any:
    def segment(h: Any, rows: Any) -> Any:
        return _last(lambda h, x_t: jnp.tanh(a * h + x_t), h, rows)

    return [_last(jax.checkpoint(segment), h, x.reshape(-1, 2))]


def stopped(x: Any, a: Any, h: Any) -> Any:
    return [_all(lambda h, x_t: jnp.tanh(a * lax.stop_gradient(h) + x_t) + h / 2, h, x)]


# ---- what a step does -----------------------------------------------------------------------------


def kinks(x: Any, c: Any, h: Any) -> Any:
    return [_all(lambda h, x_t: jnp.where(x_t > 0, jnp.maximum(h * x_t, -c), jnp.minimum(h - x_t, c)), h, x)]


def guarded(x: Any, h: Any) -> Any:
    def step(h: Any, x_t: Any) -> Any:
        inside = x_t > 0
        return jnp.where(inside, h + jnp.log(jnp.where(inside, x_t, 1)), h * jnp.cos(x_t))

    return [_all(step, h, x)]


def pointer(table: Any, h: Any, i: int, n: int) -> Any:
    def step(z: Any, _: Any) -> Any:
        h, i = z
        return h * table[i] + jnp.sin(table[i]), (3 * i + 2) % 4

    return _all(step, (h, jnp.asarray(i)), n=n)


def embedding(W: Any, k: Any, h: Any) -> Any:
    return [_all(lambda h, k_t: jnp.tanh(h + jnp.sum(W[k_t], 0)), h, k)]


def history(p: Any, n: int) -> Any:
    def step(P: Any, i: Any) -> Any:
        return P.at[i].set(jnp.sin(P[i - 1]) + P[i // 2] / 2)

    return [_last(step, jnp.zeros((n + 1, 2), p.dtype).at[0].set(p), jnp.arange(1, n + 1))]


def zero_factor(x: Any, p: Any) -> Any:
    return [_all(lambda p, x_t: p * x_t, p, x)]


def counter(x: Any, s: Any) -> Any:
    def step(z: Any, x_t: Any) -> Any:
        s, k = z
        k = k + (x_t > 0)
        return s + x_t * x_t / k.astype(s.dtype), k

    return _all(step, (s, jnp.asarray(1)), x)


def promoted(x: Any, h: Any) -> Any:
    return [_all(lambda h, x_t: jnp.tanh(h) + x_t, h.astype(x.dtype), x)]


def stored(before: Mapping[str, Any], x: Any, a: Any) -> Any:
    def call(s: Any, x: Any, a: Any) -> Any:
        rows = _all(lambda s, x_t: jnp.tanh(a * s + x_t), s, x)
        return rows, rows[-1]

    _, s = call(jnp.asarray(0.5, x.dtype), **before)
    return call(s, x, a)


def mandelbrot(x: Any, y: Any, n: int) -> Any:
    def step(z: Any, _: Any) -> Any:
        u, v, k = z
        inside = u * u + v * v < 4
        return jnp.where(inside, u * u - v * v + x, u), jnp.where(inside, 2 * u * v + y, v), k + inside

    return _last(step, (jnp.zeros_like(x), jnp.zeros_like(x), jnp.zeros(x.shape, "int64")), n=n)


def random_walk(a: Any, s: Any, h: Any, n: int) -> Any:
    def step(h: Any, key: Any) -> Any:
        e = jax.random.normal(key, (), h.dtype)
        h = jnp.tanh(a * h + s * e)
        return h, (h, e)

    return lax.scan(step, h, jax.random.split(jax.random.key(7), n))[1]


def dropout(x: Any, h: Any, w: Any) -> Any:
    def step(h: Any, v: Any) -> Any:
        x_t, key = v
        u = jax.random.uniform(key, h.shape, h.dtype)
        h = jnp.tanh(jnp.where(u < 0.5, w * h, 0) + x_t * u)
        return h, (h, u)

    return lax.scan(step, h, (x, jax.random.split(jax.random.key(7), len(x))))[1]


# ---- models ---------------------------------------------------------------------------------------


def markov(x: Any, mean: Any, A: Any) -> Any:
    def step(l: Any, x_t: Any) -> Any:
        return jax.nn.logsumexp(l[:, None] + A, 0) - (x_t - mean) ** 2 / 2

    return [jax.nn.logsumexp(_last(step, jnp.zeros_like(mean), x))]


def kalman(y: Any, F: Any, c: Any, q: Any, r: Any) -> Any:
    eye = jnp.eye(3, dtype=y.dtype)

    def step(z: Any, y_t: Any) -> Any:
        x, P, total = z
        x, P = F @ x, F @ P @ F.T + q * eye
        Pc = P @ c
        s, e = c @ Pc + r, y_t - c @ x
        k = Pc / s
        return x + k * e, P - s * jnp.outer(k, k), total - (jnp.log(s) + e * e / s) / 2

    return [_last(step, (jnp.zeros_like(c), eye, jnp.zeros_like(q)), y)[2]]


def garch(r: Any, w: Any, a: Any, b: Any, v: Any) -> Any:
    def step(v: Any, rows: Any) -> Any:
        v = w + a * rows[0] ** 2 + b * v
        return v, -(jnp.log(v) + rows[1] ** 2 / v) / 2

    return [jnp.sum(lax.scan(step, v, (r[:-1], r[1:]))[1])]


def lstm(x: Any, W: Any, U: Any, b: Any, h: Any, c: Any) -> Any:
    def step(z: Any, x_t: Any) -> Any:
        h, c = z
        i, f, o, g = jnp.split(x_t @ W + h @ U + b, 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    return [_all(step, (h, c), x)[0]]


def predators(z: Any, p: Any, d: Any, n: int) -> Any:
    def growth(z: Any) -> Any:
        return jnp.stack([z[0] * (p[0] - p[1] * z[1]), z[1] * (p[3] * z[0] - p[2])])

    def step(z: Any, _: Any) -> Any:
        k1 = growth(z)
        k2 = growth(z + d / 2 * k1)
        k3 = growth(z + d / 2 * k2)
        k4 = growth(z + d * k3)
        return z + d * (k1 + 2 * k2 + 2 * k3 + k4) / 6

    return list(_all(step, z, n=n).T)


def affine(A: Any, b: Any, h: Any) -> Any:
    return [_all(lambda h, v: v[0] @ h + v[1], h, (A, b))]


_WRITTEN: list[Callable[..., Any]] = [
    leaky, power, second_order, distant, window, mixed_taps, pendulum, ranks, network, backwards, unequal, stateless,
    beside, last_only, constant_start, start_only, triangle, rows_and_columns, learning, chained, bidirectional,
    implicit, newton, fixed_point, threshold, until_rows, until_at_once, until_never, one_step, no_steps, no_rows,
    no_batch, truncated, truncated_rows, truncated_taps, truncated_never, stopped, checkpointed, kinks, guarded,
    pointer, embedding, history, zero_factor, counter, promoted, stored, mandelbrot, random_walk, dropout, markov,
    kalman, garch, lstm, predators, affine,
]  # fmt: skip
PROGRAMS: dict[str, Callable[..., Any]] = {f.__name__: f for f in _WRITTEN}
OF_CALLS = {"stored"}
RANDOM = {"random_walk", "dropout"}
CANNOT: dict[str, str] = {}
