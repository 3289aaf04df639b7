"""The programs by torch's own loop, `torch._higher_order_ops.scan`, called eagerly; a prototype, as torch says.

It has no length without a sequence, so one of zeros is made. Its gradient fails on integers and booleans among states,
and on integers as a sequence, so these are floats. Loops that end early and have a bound are scans of as
many steps as are allowed, in which the state stands still once the end is reached; that without one is
`while_loop`. Random numbers are drawn before the loop. Gradients are `torch.autograd.grad`; where forward mode takes
part, all is of `torch.func`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._higher_order_ops import scan, while_loop
from torch.utils.checkpoint import checkpoint

from .torch_loop import run_with
from .torch_loop import versions as versions
from .torch_programs import Rows


class ScanLoops:
    """Loops of torch's operators."""

    def scan(
        self, step: Callable[..., Any], init: Any, xs: Any = None, n: int | None = None, reverse: bool = False
    ) -> tuple[Any, Any]:
        """`scan` over rows, or over zeros."""
        return scan(step, init, _zeros(init, n) if xs is None else xs, reverse=reverse)

    def until(self, step: Callable[..., Any], init: Any, xs: Any = None, n: int | None = None) -> tuple[Any, Rows]:
        """A scan of all steps that are allowed, most of which change nothing."""

        def masked(carry: Any, x: Any) -> Any:
            state, ended, count = carry
            new, ends = step(state, x)
            new = torch.where(ended > 0, state, new)
            return (new, torch.maximum(ended, ends.to(ended.dtype)), count + 1 - ended), new.clone()

        zero = torch.zeros((), dtype=init.dtype)
        start = (init, zero, zero.clone())
        (state, _, count), rows = scan(masked, start, _zeros(init, n) if xs is None else xs)
        return state, Rows(rows, count)


def _zeros(init: Any, n: int | None) -> Any:
    assert n is not None
    return torch.zeros(n, dtype=(init[0] if isinstance(init, tuple) else init).dtype)


def triangle(L: Any, a: Any, s: Any, n: int) -> Any:
    def step(s: Any, t: Any) -> Any:
        def inner(r: Any, k: Any) -> Any:
            r = torch.where(k < t, a * torch.sin(r) + s, r)
            return r, r.clone()

        new = scan(inner, s, torch.arange(n, dtype=s.dtype))[0] / 2
        return new, new.clone()

    return [scan(step, s, torch.arange(1, n + 1, dtype=s.dtype))[1]]


def fixed_point(L: Any, x: Any, a: Any) -> Any:
    def step(x: Any, moved: Any, k: Any) -> Any:
        new = torch.cos(a * x)
        return new, (new - x).abs().max(), k + 1

    start = (x, torch.full((), torch.inf, dtype=x.dtype), torch.tensor(0))
    return [while_loop(lambda x, moved, k: (moved >= 2**-6) & (k < 10**9), step, start)[0]]


def pointer(L: Any, table: Any, h: Any, i: int, n: int) -> Any:
    def step(z: Any, _: Any) -> Any:
        h, i = z
        value = table.gather(0, i.long()[None])[0]
        h, i = h * value + torch.sin(value), (3 * i + 2) % 4
        return (h, i), (h.clone(), i.clone())

    rows, places = L.scan(step, (h, torch.tensor(float(i), dtype=h.dtype)), n=n)[1]
    return [rows, places.long()]


def counter(L: Any, x: Any, s: Any) -> Any:
    def step(z: Any, x_t: Any) -> Any:
        s, k = z
        k = k + (x_t > 0).to(k.dtype)
        s = s + x_t * x_t / k
        return (s, k), (s.clone(), k.clone())

    rows, counts = L.scan(step, (s, torch.ones((), dtype=s.dtype)), x)[1]
    return [rows, counts.long()]


def mandelbrot(L: Any, x: Any, y: Any, n: int) -> Any:
    def step(z: Any, _: Any) -> Any:
        u, v, k = z
        inside = u * u + v * v < 4
        u, v = torch.where(inside, u * u - v * v + x, u), torch.where(inside, 2 * u * v + y, v)
        return (u, v, k + inside.to(k.dtype)), u.clone()

    zero = torch.zeros_like(x)
    u, v, k = L.scan(step, (zero, zero.clone(), zero.clone()), n=n)[0]
    return [u, v, k.long()]


def checkpointed(L: Any, x: Any, a: Any, h: Any) -> Any:
    def segment(h: Any, rows: Any) -> Any:
        def step(h: Any, x_t: Any) -> Any:
            h = torch.tanh(a * h + x_t)
            return h, h.clone()

        return L.scan(step, h, rows)[0]

    for t in range(0, len(x), 2):
        h = checkpoint(segment, h, x[t : t + 2].clone(), use_reentrant=False)
    return [h]


def random_walk(L: Any, a: Any, s: Any, h: Any, n: int) -> Any:
    draws = torch.randn(n, generator=torch.Generator().manual_seed(7), dtype=a.dtype)

    def step(h: Any, e: Any) -> Any:
        h = torch.tanh(a * h + s * e)
        return h, h.clone()

    return [L.scan(step, h, draws)[1], draws]


def dropout(L: Any, x: Any, h: Any, w: Any) -> Any:
    draws = torch.rand(x.shape, generator=torch.Generator().manual_seed(7), dtype=h.dtype)

    def step(h: Any, v: Any) -> Any:
        h = torch.tanh(torch.where(v[1] < 0.5, w * h, 0) + v[0] * v[1])
        return h, h.clone()

    return [L.scan(step, h, (x, draws))[1], draws]


_OWN: list[Callable[..., Any]] = [
    triangle,
    fixed_point,
    pointer,
    counter,
    mandelbrot,
    checkpointed,
    random_walk,
    dropout,
]
RANDOM = {"random_walk", "dropout"}
OWN: dict[str, Callable[..., Any]] = {f.__name__: f for f in _OWN}


def run(
    name: str, quantity: str, dtype: str, arguments: Mapping[str, Any], directions: Mapping[str, Any], calls: int
) -> tuple[list[Any], Any]:
    """The arrays of a quantity of a program, and what was drawn."""
    return run_with(ScanLoops, OWN, RANDOM, name, quantity, arguments, directions)
