"""Ostinato as a system of the suite: a program and a quantity become one compiled function."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import ostinato.tensor as T
from ostinato._version import __version__
from ostinato.forward import jvp
from ostinato.function import function
from ostinato.grad import grad
from ostinato.ops.leaf import new_input
from ostinato.testing.conformance.cells import Answer, gives_gradient
from ostinato.testing.conformance.program import VALUE, Built, Program
from ostinato.types import TensorType


class OstinatoSystem:
    """Ostinato, with a mode of `function`."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.name = f"ostinato ({mode})"

    def versions(self) -> dict[str, str]:
        """Of Ostinato and NumPy."""
        return {"ostinato": __version__, "numpy": np.__version__}

    def answer(self, program: Program, quantity: str, dtype: str) -> Answer:
        """Build, compile and call; an exception is an answer of status "raises"."""
        begun = time.perf_counter()
        try:
            found, draws = run(program, [quantity], dtype, self.mode)
        except Exception as error:
            seconds = time.perf_counter() - begun
            return Answer("raises", reason=f"{type(error).__name__}: {error}"[:300], seconds=seconds)
        return Answer("ok", found[quantity], draws, seconds=time.perf_counter() - begun)

    def close(self) -> None:
        """Nothing was started."""


def run(
    program: Program, quantities: Sequence[str], dtype: str, mode: str | None = None
) -> tuple[dict[str, list[Any]], Any]:
    """The arrays of each quantity, all by one function, and what was drawn on the way.

    Parameters
    ----------
    quantities : "value", or words of the letters R and F: see `derivative`.
    dtype : of all arguments that are floats.
    mode : as of `ostinato.function`.
    """
    arrays = program.arrays(dtype)
    variables = {n: new_input(TensorType(a.dtype.name, (None,) * a.ndim), n) for n, a in arrays.items()}
    built = program.build(**variables)
    outputs, updates = built if isinstance(built, Built) else (built, {})
    draws = [outputs[-1]] if program.is_random else []
    counted = outputs[: len(outputs) - len(draws)]
    wrt = [variables[n] for n in program.wrt]
    directions = [T.constant(d) for d in program.directions(dtype).values()]
    wanted = {q: counted if q == VALUE else derivative(q, cost(counted), wrt, directions) for q in quantities}
    flat = [*draws, *(x for nodes in wanted.values() for x in nodes)]
    f = function(list(variables.values()), flat, mode=mode, updates=dict(updates), on_unused_input="ignore")
    for _ in range(program.calls):
        found = iter(f(*arrays.values()))
    drawn = next(found) if draws else None
    return {q: [next(found) for _ in nodes] for q, nodes in wanted.items()}, drawn


def cost(outputs: Sequence[Any]) -> Any:
    """The sum of all outputs that are floats, each element weighted: see `weights`."""
    total: Any = None
    for place, output in enumerate(outputs):
        if output.type.is_float:
            flat = T.flatten(output)
            weight = ((5 * (T.arange(flat.shape[0]) + place) + 3) % 11 + 1) / T.constant(8, dtype=output.dtype)
            term = T.sum(flat * T.cast(weight, output.dtype))
            total = term if total is None else total + term
    return total


def derivative(word: str, value: Any, wrt: Sequence[Any], directions: Sequence[Any]) -> list[Any]:
    """A derivative of a scalar, of the order and by the modes that the letters of a word say, the last letter first.

    R takes a gradient, F the derivative along the directions by forward mode; before another R, a gradient is
    multiplied with the directions. "FR" is forward mode over reverse mode.
    """
    current: list[Any] = [value]
    is_gradient = False
    for letter in reversed(word):
        if letter == "R":
            scalar = _along(current, directions) if is_gradient else current[0]
            current = grad(scalar, list(wrt), disconnected_inputs="ignore")
            is_gradient = True
        else:
            current = jvp(current, list(wrt), list(directions), disconnected_outputs="ignore")
    return [_along(current, directions)] if is_gradient and not gives_gradient(word) else current


def _along(gradient: Sequence[Any], directions: Sequence[Any]) -> Any:
    terms = [T.sum(g * d) for g, d in zip(gradient, directions, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
