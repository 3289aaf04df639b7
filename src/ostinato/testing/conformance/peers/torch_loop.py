"""The programs in torch as Python loops, which is how most people write them: each step is run by the interpreter.

Gradients are `torch.autograd.grad`; where forward mode takes part, all is of `torch.func`. A loop that ends early ends
by `break`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from . import CannotError, gives_gradient, weights
from .torch_programs import OF_CALLS, PROGRAMS, Rows


def versions() -> dict[str, str]:
    """Of torch and NumPy."""
    return {"torch": torch.__version__, "numpy": np.__version__}


class PythonLoops:
    """Loops of the interpreter."""

    def scan(
        self, step: Callable[..., Any], init: Any, xs: Any = None, n: int | None = None, reverse: bool = False
    ) -> tuple[Any, Any]:
        """The last state, and the stacked outputs; of no steps those that a step would have, without rows."""
        count = len(pytree.tree_leaves(xs)[0]) if n is None else n
        carry, rows = init, []
        for t in reversed(range(count)) if reverse else range(count):
            carry, row = step(carry, _row(xs, t))
            rows.append(row)
        if not rows:
            blank = None if xs is None else pytree.tree_map(lambda x: torch.zeros(x.shape[1:], dtype=x.dtype), xs)
            example = step(init, blank)[1]
            return carry, pytree.tree_map(lambda y: torch.zeros((0, *y.shape), dtype=y.dtype), example)
        if reverse:
            rows.reverse()
        return carry, pytree.tree_map(lambda *parts: torch.stack(parts), *rows)

    def until(self, step: Callable[..., Any], init: Any, xs: Any = None, n: int | None = None) -> tuple[Any, Rows]:
        """As many steps as are made."""
        state, rows = init, []
        for t in range(len(xs) if n is None else n):
            state, ends = step(state, _row(xs, t))
            rows.append(state)
            if ends:
                break
        return state, Rows(torch.stack(rows), len(rows))


def _row(xs: Any, t: int) -> Any:
    return None if xs is None else pytree.tree_map(lambda x: x[t], xs)


def triangle(L: Any, a: Any, s: Any, n: int) -> Any:
    rows = []
    for t in range(1, n + 1):
        r = s
        for _ in range(t):
            r = a * torch.sin(r) + s
        s = r / 2
        rows.append(s)
    return [torch.stack(rows)]


def fixed_point(L: Any, x: Any, a: Any) -> Any:
    def step(x: Any, _: Any) -> Any:
        new = torch.cos(a * x)
        return new, (new - x).abs().max() < 2**-6

    return [L.until(step, x, n=10**9)[0]]


def checkpointed(L: Any, x: Any, a: Any, h: Any) -> Any:
    def segment(h: Any, first: Any, second: Any) -> Any:
        return torch.tanh(a * torch.tanh(a * h + first) + second)

    for t in range(0, len(x), 2):
        h = checkpoint(segment, h, x[t], x[t + 1], use_reentrant=False)
    return [h]


def random_walk(L: Any, a: Any, s: Any, h: Any, n: int) -> Any:
    generator = torch.Generator().manual_seed(7)
    rows, draws = [], []
    for _ in range(n):
        e = torch.randn((), generator=generator, dtype=a.dtype)
        h = torch.tanh(a * h + s * e)
        rows.append(h)
        draws.append(e)
    return [torch.stack(rows), torch.stack(draws)]


def dropout(L: Any, x: Any, h: Any, w: Any) -> Any:
    generator = torch.Generator().manual_seed(7)
    rows, draws = [], []
    for x_t in x:
        u = torch.rand(h.shape, generator=generator, dtype=h.dtype)
        h = torch.tanh(torch.where(u < 0.5, w * h, 0) + x_t * u)
        rows.append(h)
        draws.append(u)
    return [torch.stack(rows), torch.stack(draws)]


OWN: dict[str, Callable[..., Any]] = {
    "triangle": triangle,
    "fixed_point": fixed_point,
    "checkpointed": checkpointed,
    "random_walk": random_walk,
    "dropout": dropout,
}
RANDOM = {"random_walk", "dropout"}


def run(
    name: str, quantity: str, dtype: str, arguments: Mapping[str, Any], directions: Mapping[str, Any], calls: int
) -> tuple[list[Any], Any]:
    """The arrays of a quantity of a program, and what was drawn."""
    return run_with(PythonLoops, OWN, RANDOM, name, quantity, arguments, directions)


def run_with(
    make_loops: Callable[[], Any],
    own: Mapping[str, Callable[..., Any]],
    random: Collection[str],
    name: str,
    quantity: str,
    arguments: Mapping[str, Any],
    directions: Mapping[str, Any],
) -> tuple[list[Any], Any]:
    """What `run` returns, for programs of which some are a system's own, and some draw."""
    program = {**PROGRAMS, **own}.get(name)
    if program is None:
        raise CannotError("not written for torch")
    given = {n: tensor_or_int(a) for n, a in arguments.items()}
    point = tuple(given[n] for n in directions)
    along = tuple(torch.from_numpy(np.array(d)) for d in directions.values())

    def outputs(*moved: Any) -> list[Any]:
        arguments = {**given, **dict(zip(directions, moved, strict=True))}
        loops = make_loops()
        return list(program(loops, given, **arguments) if name in OF_CALLS else program(loops, **arguments))

    drawn = [outputs(*point)[-1].numpy()] if name in random else []

    def counted(*moved: Any) -> list[Any]:
        found = outputs(*moved)
        return found[: len(found) - len(drawn)]

    if quantity == "value":
        found: Any = [made_rows(o) if isinstance(o, Rows) else o for o in counted(*point)]
    else:
        found = derivative_of(quantity, lambda *moved: cost(counted(*moved)), along)(*point)
        found = found if isinstance(found, tuple) else (found,)
    return [o.detach().numpy(force=True) for o in found], drawn[0] if drawn else None


def made_rows(rows: Rows) -> Any:
    """The rows that were made, of those there is room for."""
    return rows.array if rows.count is None else rows.array[: int(rows.count)]


_DTYPES = {"float64": torch.float64, "float32": torch.float32, "int64": torch.int64}


def tensor_or_int(array: Any) -> Any:
    """An argument for torch: a number of steps is an int."""
    if array.dtype.kind == "i" and array.ndim == 0:
        return int(array)
    return torch.tensor(array.tolist(), dtype=_DTYPES[array.dtype.name]).reshape(array.shape)


def cost(outputs: list[Any]) -> Any:
    """The weighted sum of the outputs that are floats."""
    total: Any = 0
    for place, output in enumerate(outputs):
        array, count = output if isinstance(output, Rows) else (output, None)
        if array.is_floating_point():
            weight = torch.from_numpy(weights(place, array.numel()).reshape(array.shape)).to(array.dtype)
            if count is not None:
                kept = (torch.arange(len(array)) < count).reshape(-1, *[1] * (array.ndim - 1))
                weight = torch.where(kept, weight, 0)
            total = total + (array * weight).sum()
    return total


def derivative_of(word: str, f: Callable[..., Any], along: tuple[Any, ...]) -> Callable[..., Any]:
    """The derivative that the letters of a word say, the last one first."""
    places = tuple(range(len(along)))
    is_gradient = False
    for letter in reversed(word):
        if letter == "R":
            f = _inner(f, along) if is_gradient else f
            # With forward mode only those of `torch.func` go together.
            f = torch.func.grad(f, places) if "F" in word else _gradient(f)
            is_gradient = True
        else:
            f = _forward(f, along)
    return _inner(f, along) if is_gradient and not gives_gradient(word) else f


def _gradient(f: Callable[..., Any]) -> Callable[..., Any]:
    """The gradient, zero where torch finds no way, as `torch.autograd.functional` has it by default."""

    def gradient(*moved: Any) -> Any:
        wrt = [v if v.requires_grad else v.detach().clone().requires_grad_() for v in moved]
        value = f(*wrt)
        if not value.requires_grad:
            return tuple(torch.zeros_like(v) for v in wrt)
        return torch.autograd.grad(value, wrt, create_graph=True, allow_unused=True, materialize_grads=True)

    return gradient


def _inner(f: Callable[..., Any], along: tuple[Any, ...]) -> Callable[..., Any]:
    return lambda *moved: sum((g * d).sum() for g, d in zip(f(*moved), along, strict=True))


def _forward(f: Callable[..., Any], along: tuple[Any, ...]) -> Callable[..., Any]:
    return lambda *moved: torch.func.jvp(f, moved, along)[1]
