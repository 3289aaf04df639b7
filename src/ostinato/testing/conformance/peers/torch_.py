"""The programs by torch's own loop, `torch._higher_order_ops.scan`, called eagerly; a prototype, as torch says.

It has no length without a sequence, so one of step numbers is made. Loops that end early and have a bound are scans of as
many steps as are allowed, in which the state stands still once the end is reached; that without one is
`while_loop`. Gradients are `torch.autograd.grad`, forward mode is `torch.func.jvp`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch._higher_order_ops import scan, while_loop

from . import CannotError, gives_gradient
from .torch_loop import cost, tensor_or_int
from .torch_loop import versions as versions
from .torch_programs import OF_CALLS, PROGRAMS, WITHOUT_INFLUENCE, Rows

CANNOT = {
    "random_walk": "scan takes no generator, and draws in a step are not reproducible",
    "dropout": "scan takes no generator, and draws in a step are not reproducible",
}


class ScanLoops:
    """Loops of torch's operators."""

    def scan(
        self, step: Callable[..., Any], init: Any, xs: Any = None, n: int | None = None, reverse: bool = False
    ) -> tuple[Any, Any]:
        """`scan` over rows, or over step numbers."""
        return scan(step, init, torch.arange(n) if xs is None else xs, reverse=reverse)

    def until(self, step: Callable[..., Any], init: Any, xs: Any = None, n: int | None = None) -> tuple[Any, Rows]:
        """A scan of all steps that are allowed, most of which change nothing."""

        def masked(carry: Any, x: Any) -> Any:
            state, ended, count = carry
            new, ends = step(state, x)
            new = torch.where(ended, state, new)
            return (new, ended | ends, count + ~ended), new.clone()

        start = (init, torch.tensor(False), torch.tensor(0))
        (state, _, count), rows = scan(masked, start, torch.arange(n) if xs is None else xs)
        return state, Rows(rows, count)


def triangle(L: Any, a: Any, s: Any, n: int) -> Any:
    def step(s: Any, t: Any) -> Any:
        def inner(r: Any, k: Any) -> Any:
            r = torch.where(k < t, a * torch.sin(r) + s, r)
            return r, r.clone()

        new = scan(inner, s, torch.arange(n))[0] / 2
        return new, new.clone()

    return [scan(step, s, torch.arange(1, n + 1))[1]]


def fixed_point(L: Any, x: Any, a: Any) -> Any:
    def step(x: Any, moved: Any, k: Any) -> Any:
        new = torch.cos(a * x)
        return new, (new - x).abs().max(), k + 1

    start = (x, torch.full((), torch.inf, dtype=x.dtype), torch.tensor(0))
    return [while_loop(lambda x, moved, k: (moved >= 2**-6) & (k < 10**9), step, start)[0]]


OWN = {"triangle": triangle, "fixed_point": fixed_point}


def run(
    name: str, quantity: str, dtype: str, arguments: Mapping[str, Any], directions: Mapping[str, Any], calls: int
) -> tuple[list[Any], Any]:
    """The arrays of a quantity of a program; nothing is drawn."""
    program = {**PROGRAMS, **OWN}.get(name)
    if program is None:
        raise CannotError(CANNOT.get(name, "not written for torch"))
    given = {n: tensor_or_int(a) for n, a in arguments.items()}
    point = tuple(given[n] for n in directions)
    along = tuple(torch.from_numpy(np.array(d)) for d in directions.values())

    def outputs(*moved: Any) -> list[Any]:
        arguments = {**given, **dict(zip(directions, moved, strict=True))}
        loops = ScanLoops()
        return list(program(loops, given, **arguments) if name in OF_CALLS else program(loops, **arguments))

    if quantity == "value":
        found: Any = [o.array[: int(o.count)] if isinstance(o, Rows) else o for o in outputs(*point)]
    else:
        derivative = _derivative(quantity, lambda *moved: cost(outputs(*moved)), along, name in WITHOUT_INFLUENCE)
        found = derivative(*point)
        found = found if isinstance(found, tuple) else (found,)
    return [o.detach().numpy() for o in found], None


def _derivative(
    word: str, f: Callable[..., Any], along: tuple[Any, ...], may_be_unused: bool
) -> Callable[..., Any]:
    """The derivative that the letters of a word say, the last one first."""
    is_gradient = False
    for letter in reversed(word):
        if letter == "R":
            f = _gradient(_inner(f, along) if is_gradient else f, may_be_unused)
            is_gradient = True
        else:
            f = _forward(f, along)
    return _inner(f, along) if is_gradient and not gives_gradient(word) else f


def _gradient(f: Callable[..., Any], may_be_unused: bool) -> Callable[..., Any]:
    def gradient(*moved: Any) -> Any:
        wrt = [v if v.requires_grad else v.detach().clone().requires_grad_() for v in moved]
        rest = {"allow_unused": True, "materialize_grads": True} if may_be_unused else {}
        return torch.autograd.grad(f(*wrt), wrt, create_graph=True, **rest)

    return gradient


def _inner(f: Callable[..., Any], along: tuple[Any, ...]) -> Callable[..., Any]:
    return lambda *moved: sum((g * d).sum() for g, d in zip(f(*moved), along, strict=True))


def _forward(f: Callable[..., Any], along: tuple[Any, ...]) -> Callable[..., Any]:
    return lambda *moved: torch.func.jvp(f, moved, along)[1]
