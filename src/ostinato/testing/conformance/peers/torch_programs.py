"""The programs in torch, over loops that are given: torch's `scan`, or plain Python loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch


class Rows(NamedTuple):
    """As many rows as could have been made, and how many were."""

    array: Any
    count: Any


class Loops(Protocol):
    """How a library loops."""

    def scan(
        self, step: Callable[..., Any], init: Any, xs: Any = None, n: int | None = None, reverse: bool = False
    ) -> tuple[Any, Any]:
        """The last state, and what the steps gave beside states, stacked; `step(state, x)` gives both."""

    def until(self, step: Callable[..., Any], init: Any, xs: Any = None, n: int | None = None) -> tuple[Any, Rows]:
        """The last state and all of them; `step(state, x)` gives a state and whether it was the last."""


def _all(L: Loops, step: Callable[..., Any], init: Any, xs: Any = None, n: int | None = None, **rest: Any) -> Any:
    def both(carry: Any, x: Any) -> Any:
        new = step(carry, x)
        return new, tuple(v.clone() for v in new) if isinstance(new, tuple) else new.clone()

    return L.scan(both, init, xs, n, **rest)[1]


def _last(L: Loops, step: Callable[..., Any], init: Any, xs: Any = None, n: int | None = None) -> Any:
    def alone(carry: Any, x: Any) -> Any:
        new = step(carry, x)
        return new, (new[0] if isinstance(new, tuple) else new).clone()

    return L.scan(alone, init, xs, n)[0]


# ---- states and sequences -------------------------------------------------------------------------


def leaky(L: Loops, x: Any, a: Any, h: Any) -> Any:
    return [_all(L, lambda h, x_t: torch.tanh(a * h + x_t), h, x)]


def power(L: Loops, x: Any, n: int) -> Any:
    return [_last(L, lambda p, _: p * x, torch.ones_like(x), n=n)]


def second_order(L: Loops, a: Any, b: Any, e: Any, start: Any) -> Any:
    def step(y: Any, e_t: Any) -> Any:
        new = a * y[1] + b * y[0] + e_t
        return (y[1].clone(), new), new.clone()

    return [L.scan(step, (start[0].clone(), start[1].clone()), e)[1]]


def distant(L: Loops, a: Any, start: Any, n: int) -> Any:
    def step(y: Any, _: Any) -> Any:
        new = torch.tanh(a * y[0]) + y[2] * y[0] / 2
        return (y[1].clone(), y[2].clone(), new), new.clone()

    return [L.scan(step, tuple(start[k].clone() for k in range(3)), n=n)[1]]


def window(L: Loops, x: Any, s: Any) -> Any:
    xs = (x[:-2].clone(), x[1:-1].clone(), x[2:].clone())
    return [_all(L, lambda s, v: s / 2 + v[0] * v[2] + torch.sin(v[1]), s, xs)]


def mixed_taps(L: Loops, x: Any, y: Any, z: Any) -> Any:
    def step(carry: Any, v: Any) -> Any:
        two, one, z = carry
        now, after = v
        y_new, z_new = z * torch.sin(two) + after, torch.tanh(z + one * now)
        return (one.clone(), y_new, z_new), (y_new.clone(), z_new.clone())

    return list(L.scan(step, (y[0].clone(), y[1].clone(), z), (x[:-1].clone(), x[1:].clone()))[1])


def pendulum(L: Loops, q: Any, v: Any, d: Any, n: int) -> Any:
    def step(z: Any, _: Any) -> Any:
        v = z[1] - d * torch.sin(z[0])
        return z[0] + d * v, v

    return list(_all(L, step, (q, v), n=n))


def ranks(L: Loops, s: Any, v: Any, M: Any, n: int) -> Any:
    def step(z: Any, _: Any) -> Any:
        s, v, M = z
        return s + v @ v / 4, torch.tanh(M @ v + s), M / 2 + torch.outer(v, v)

    return list(_last(L, step, (s, v, M), n=n))


def network(L: Loops, x: Any, W: Any, U: Any, b: Any, h: Any) -> Any:
    return [_all(L, lambda h, x_t: torch.tanh(x_t @ W + h @ U + b), h, x)]


def backwards(L: Loops, x: Any, g: Any, r: Any) -> Any:
    return [_all(L, lambda r, x_t: x_t + g * torch.tanh(r), r, x, reverse=True).flip(0)]


def unequal(L: Loops, x: Any, y: Any, h: Any) -> Any:
    n = min(len(x), len(y))
    return [_all(L, lambda h, v: torch.tanh(h + v[0] * v[1]), h, (x[:n].clone(), y[:n].clone()))]


def stateless(L: Loops, x: Any, c: Any) -> Any:
    # Who knows torch makes no loop of this.
    return [c * torch.sin(x) ** 2]


def beside(L: Loops, x: Any, h: Any) -> Any:
    def step(h: Any, x_t: Any) -> Any:
        new = torch.sin(h) + x_t / 2
        return new, (new.clone(), torch.exp(new) * x_t)

    return list(L.scan(step, h, x)[1])


def last_only(L: Loops, x: Any, s: Any) -> Any:
    return [_last(L, lambda s, x_t: torch.log(torch.exp(s) + torch.exp(x_t)), s, x)]


def constant_start(L: Loops, h: Any, w: Any, n: int) -> Any:
    return [_all(L, lambda h, _: torch.sin(w * h), h, n=n)]


def start_only(L: Loops, x: Any, h: Any) -> Any:
    return [_last(L, lambda h, x_t: h * torch.cos(h) + x_t, h, x)]


# ---- loops in loops -------------------------------------------------------------------------------


def rows_and_columns(L: Loops, A: Any, w: Any, h: Any) -> Any:
    return [_all(L, lambda h, A_i: _last(L, lambda h, A_ij: torch.tanh(w * h + A_ij), h, A_i), h, A)]


def learning(L: Loops, x: Any, w: Any, e: Any, n: int) -> Any:
    def loss(w: Any) -> Any:
        return (_all(L, lambda h, x_t: torch.tanh(w * h + x_t), torch.zeros_like(w), x) ** 2).sum()

    return [_all(L, lambda w, _: w - e * torch.func.grad(loss)(w), w, n=n)]


def chained(L: Loops, x: Any, a: Any, b: Any) -> Any:
    h = _all(L, lambda h, x_t: torch.tanh(a * h + x_t), torch.zeros_like(a), x)
    return [_all(L, lambda g, h_t: torch.sin(b * g + h_t), torch.zeros_like(b), h)]


def bidirectional(L: Loops, x: Any, a: Any, b: Any) -> Any:
    zero = torch.zeros_like(x[0])
    f = _all(L, lambda f, x_t: torch.tanh(a * f + x_t), zero, x)
    return [f * _all(L, lambda g, x_t: torch.tanh(b * g + x_t), zero, x, reverse=True)]


def implicit(L: Loops, y: Any, d: Any, x: Any) -> Any:
    def step(y: Any, x_t: Any) -> Any:
        def newton(z: Any, _: Any) -> Any:
            z = z - (z - y - d * (x_t - z * z * z)) / (1 + 3 * d * z * z)
            return z, (z - y - d * (x_t - z * z * z)).abs() < 2**-12

        return L.until(newton, y, n=50)[0]

    return [_all(L, step, y, x)]


# ---- ends of loops --------------------------------------------------------------------------------


def newton(L: Loops, a: Any, z: Any) -> Any:
    def step(z: Any, _: Any) -> Any:
        z = (z + a / z) / 2
        return z, (z * z - a).abs() < 2**-8

    return [L.until(step, z, n=100)[0]]


def threshold(L: Loops, s: Any, a: Any) -> Any:
    def step(a: Any, s_t: Any) -> Any:
        a = a + s_t * s_t
        return a, a > 10

    return [L.until(step, a, s)[0]]


def until_rows(L: Loops, h: Any, a: Any, x: Any) -> Any:
    def step(h: Any, x_t: Any) -> Any:
        h = a * h + torch.sin(x_t)
        return h, h > 4

    return [L.until(step, h, x)[1]]


def until_at_once(L: Loops, h: Any, n: int) -> Any:
    def step(h: Any, _: Any) -> Any:
        h = h * torch.sin(h)
        return h, h.sum() > 0

    return [L.until(step, h, n=n)[1]]


def until_never(L: Loops, h: Any, n: int) -> Any:
    def step(h: Any, _: Any) -> Any:
        h = torch.sin(h) + h / 2
        return h, h.sum() < 0

    return [L.until(step, h, n=n)[1]]


def one_step(L: Loops, a: Any, h: Any, n: int) -> Any:
    return [_all(L, lambda h, _: torch.tanh(a * h), h, n=n)]


def no_steps(L: Loops, a: Any, h: Any, n: int) -> Any:
    def step(h: Any, _: Any) -> Any:
        h = torch.tanh(a * h)
        return h, h.clone()

    last, rows = L.scan(step, h, n=n)
    return [rows, last]


def no_rows(L: Loops, x: Any, a: Any, s: Any) -> Any:
    def step(s: Any, x_t: Any) -> Any:
        s = a * s + torch.sin(x_t)
        return s, s.clone()

    last, rows = L.scan(step, s, x)
    return [rows, last]


def no_batch(L: Loops, x: Any, a: Any, h: Any) -> Any:
    rows = _all(L, lambda h, x_t: torch.tanh(a * h + x_t), h, x)
    return [rows, rows[-1].sum()]


# ---- cut derivatives ------------------------------------------------------------------------------


def truncated(L: Loops, x: Any, a: Any, w: Any, h: Any) -> Any:
    def step(h: Any, x_t: Any) -> Any:
        return a * h + w * x_t

    return [_last(L, step, _last(L, step, h, x[:-3].clone()).detach(), x[-3:].clone())]


def truncated_rows(L: Loops, x: Any, a: Any, h: Any) -> Any:
    def step(h: Any, x_t: Any) -> Any:
        return torch.tanh(a * h + x_t)

    first = _all(L, step, h, x[:-2].clone()).detach()
    return [torch.cat([first, _all(L, step, first[-1].clone(), x[-2:].clone())])]


def truncated_taps(L: Loops, a: Any, b: Any, start: Any, n: int) -> Any:
    def step(y: Any, _: Any) -> Any:
        return y[1].clone(), torch.sin(a * y[1]) + b * y[0]

    first = _last(L, step, (start[0].clone(), start[1].clone()), n=n - 2)
    return [_last(L, step, tuple(v.detach() for v in first), n=2)[1]]


def truncated_never(L: Loops, x: Any, a: Any, h: Any) -> Any:
    return leaky(L, x, a, h)


def stopped(L: Loops, x: Any, a: Any, h: Any) -> Any:
    return [_all(L, lambda h, x_t: torch.tanh(a * h.detach() + x_t) + h / 2, h, x)]


# ---- what a step does -----------------------------------------------------------------------------


def kinks(L: Loops, x: Any, c: Any, h: Any) -> Any:
    def step(h: Any, x_t: Any) -> Any:
        return torch.where(x_t > 0, torch.maximum(h * x_t, -c), torch.minimum(h - x_t, c))

    return [_all(L, step, h, x)]


def guarded(L: Loops, x: Any, h: Any) -> Any:
    def step(h: Any, x_t: Any) -> Any:
        inside = x_t > 0
        return torch.where(inside, h + torch.log(torch.where(inside, x_t, 1)), h * torch.cos(x_t))

    return [_all(L, step, h, x)]


def pointer(L: Loops, table: Any, h: Any, i: int, n: int) -> Any:
    def step(z: Any, _: Any) -> Any:
        h, i = z
        value = table.gather(0, i[None])[0]
        return h * value + torch.sin(value), (3 * i + 2) % 4

    return list(_all(L, step, (h, torch.tensor(i)), n=n))


def embedding(L: Loops, W: Any, k: Any, h: Any) -> Any:
    return [_all(L, lambda h, k_t: torch.tanh(h + W[k_t].sum(0)), h, k)]


def history(L: Loops, p: Any, n: int) -> Any:
    def step(P: Any, i: Any) -> Any:
        new = torch.sin(P.index_select(0, i[None] - 1)) + P.index_select(0, i[None] // 2) / 2
        return P.index_copy(0, i[None], new)

    start = torch.cat([p[None], torch.zeros((n, 2), dtype=p.dtype)])
    return [_last(L, step, start, torch.arange(1, n + 1))]


def zero_factor(L: Loops, x: Any, p: Any) -> Any:
    return [_all(L, lambda p, x_t: p * x_t, p, x)]


def counter(L: Loops, x: Any, s: Any) -> Any:
    def step(z: Any, x_t: Any) -> Any:
        s, k = z
        k = k + (x_t > 0)
        return s + x_t * x_t / k, k

    return list(_all(L, step, (s, torch.tensor(1)), x))


def promoted(L: Loops, x: Any, h: Any) -> Any:
    return [_all(L, lambda h, x_t: torch.tanh(h) + x_t, h.to(x.dtype), x)]


def stored(L: Loops, before: Mapping[str, Any], x: Any, a: Any) -> Any:
    def call(s: Any, x: Any, a: Any) -> Any:
        rows = _all(L, lambda s, x_t: torch.tanh(a * s + x_t), s, x)
        return [rows, rows[-1]]

    _, s = call(torch.tensor(0.5, dtype=x.dtype), **before)
    return call(s.detach().clone(), x, a)


def mandelbrot(L: Loops, x: Any, y: Any, n: int) -> Any:
    def step(z: Any, _: Any) -> Any:
        u, v, k = z
        inside = u * u + v * v < 4
        return torch.where(inside, u * u - v * v + x, u), torch.where(inside, 2 * u * v + y, v), k + inside

    zero = torch.zeros_like(x)
    return list(_last(L, step, (zero, zero.clone(), torch.zeros(x.shape, dtype=torch.int64)), n=n))


# ---- models ---------------------------------------------------------------------------------------


def markov(L: Loops, x: Any, mean: Any, A: Any) -> Any:
    def step(l: Any, x_t: Any) -> Any:
        return torch.logsumexp(l[:, None] + A, 0) - (x_t - mean) ** 2 / 2

    return [torch.logsumexp(_last(L, step, torch.zeros_like(mean), x), 0)]


def kalman(L: Loops, y: Any, F: Any, c: Any, q: Any, r: Any) -> Any:
    eye, transposed = torch.eye(3, dtype=y.dtype), F.T.clone()

    def step(z: Any, y_t: Any) -> Any:
        x, P, total = z
        x, P = F @ x, F @ P @ transposed + q * eye
        Pc = P @ c
        s, e = c @ Pc + r, y_t - c @ x
        k = Pc / s
        return x + k * e, P - s * torch.outer(k, k), total - (torch.log(s) + e * e / s) / 2

    return [_last(L, step, (torch.zeros_like(c), eye.clone(), torch.zeros_like(q)), y)[2]]


def garch(L: Loops, r: Any, w: Any, a: Any, b: Any, v: Any) -> Any:
    def step(v: Any, rows: Any) -> Any:
        v = w + a * rows[0] ** 2 + b * v
        return v, -(torch.log(v) + rows[1] ** 2 / v) / 2

    return [L.scan(step, v, (r[:-1].clone(), r[1:].clone()))[1].sum()]


def lstm(L: Loops, x: Any, W: Any, U: Any, b: Any, h: Any, c: Any) -> Any:
    def step(z: Any, x_t: Any) -> Any:
        h, c = z
        i, f, o, g = (x_t @ W + h @ U + b).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    return [_all(L, step, (h, c), x)[0]]


def predators(L: Loops, z: Any, p: Any, d: Any, n: int) -> Any:
    def growth(z: Any) -> Any:
        return torch.stack([z[0] * (p[0] - p[1] * z[1]), z[1] * (p[3] * z[0] - p[2])])

    def step(z: Any, _: Any) -> Any:
        k1 = growth(z)
        k2 = growth(z + d / 2 * k1)
        k3 = growth(z + d / 2 * k2)
        k4 = growth(z + d * k3)
        return z + d * (k1 + 2 * k2 + 2 * k3 + k4) / 6

    return list(_all(L, step, z, n=n).T)


def affine(L: Loops, A: Any, b: Any, h: Any) -> Any:
    return [_all(L, lambda h, v: v[0] @ h + v[1], h, (A, b))]


_WRITTEN: list[Callable[..., Any]] = [
    leaky, power, second_order, distant, window, mixed_taps, pendulum, ranks, network, backwards, unequal, stateless,
    beside, last_only, constant_start, start_only, rows_and_columns, learning, chained, bidirectional, implicit, newton,
    threshold, until_rows, until_at_once, until_never, one_step, no_steps, no_rows, no_batch, truncated, truncated_rows,
    truncated_taps, truncated_never, stopped, kinks, guarded, pointer, embedding, history, zero_factor, counter,
    promoted, stored, mandelbrot, markov, kalman, garch, lstm, predators, affine,
]  # fmt: skip
PROGRAMS: dict[str, Callable[..., Any]] = {f.__name__: f for f in _WRITTEN}
OF_CALLS = {"stored"}
