"""Values and derivatives of a program by its plain Python loop, with as many digits as are needed.

Derivatives are differences in mpmath, at steps so small (about 1e-20) and with so many digits (more than a
hundred) that all of float64 is right. No rule of differentiation is used, and the loop is run, with its
conditions and its early end, as it is.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ostinato.testing.conformance.arithmetic import MpmathArithmetic
from ostinato.testing.conformance.program import PROGRAMS, Array, Program, direction, weights

_DIGITS = 30


def expected_outputs(program: Program, draws: Any = None) -> list[Array]:
    """The outputs as float64 (integers as int64)."""
    if draws is None:
        return _outputs_of(program.name)
    return _outputs(program, draws)


@cache
def _outputs_of(name: str) -> list[Array]:
    return _outputs(PROGRAMS[name], None)


def _outputs(program: Program, draws: Any) -> list[Array]:
    m = MpmathArithmetic()
    with m.mp.workdps(_DIGITS):
        point = _point(program, m)
        return [_array(o) for o in program.outputs(m, point, point, _numbers(m, draws))]


def expected_gradient(program: Program, order: int, draws: Any = None) -> dict[str, Array]:
    """The gradient of the derivative of order `order - 1` along the program's directions, by argument.

    Parameters
    ----------
    order : 1 for the gradient of the cost; 2 for the product of its second derivative with the directions.
    draws : what a random program drew.
    """
    if draws is None:
        return _gradient_of(program.name, order)
    return _gradient(program, order, draws)


@cache
def _gradient_of(name: str, order: int) -> dict[str, Array]:
    return _gradient(PROGRAMS[name], order, None)


def _gradient(program: Program, order: int, draws: Any) -> dict[str, Array]:
    cost = _Cost(program, draws)
    found = {}
    for name in program.wrt:
        result = np.zeros(cost.point[name].shape if isinstance(cost.point[name], np.ndarray) else ())
        for index in np.ndindex(result.shape):
            result[index] = cost.derivative(order - 1, name, index)
        found[name] = result
    return found


def expected_along(program: Program, order: int, draws: Any = None) -> float:
    """The derivative of an order along the program's directions."""
    if draws is None:
        return _along_of(program.name, order)
    return _Cost(program, draws).derivative(order)


@cache
def _along_of(name: str, order: int) -> float:
    return _Cost(PROGRAMS[name], None).derivative(order)


class _Cost:
    """The weighted sum of a program's outputs near the point of its arguments."""

    def __init__(self, program: Program, draws: Any) -> None:
        self.program, self.m = program, MpmathArithmetic()
        self.point = _point(program, self.m)
        self.draws = _numbers(self.m, draws)
        shapes = {n: np.shape(v) for n, v in self.point.items()}
        self.directions = {n: self.m.number(direction(k, shapes[n])) for k, n in enumerate(program.wrt)}

    def __call__(self, along: Any, name: str | None = None, index: tuple[int, ...] = (), by: Any = 0) -> Any:
        """The cost at a distance along the directions, with one element moved besides."""
        moved = dict(self.point)
        for n, v in self.directions.items():
            moved[n] = moved[n] + along * v
        if name is not None:
            moved[name] = _with_moved(moved[name], index, by)
        outputs = self.program.outputs(self.m, moved, self.point, self.draws)
        return sum((_weighted(place, o) for place, o in enumerate(outputs)), self.m.mp.mpf(0))

    def derivative(self, along: int, name: str | None = None, index: tuple[int, ...] = ()) -> float:
        """The derivative of some order along the directions, and with respect to one element if one is named."""
        mp = self.m.mp
        with mp.workdps(_DIGITS):
            if name is None:
                return float(mp.diff(self, 0, along))
            if along == 0:
                return float(mp.diff(lambda by: self(0, name, index, by), 0, 1))
            return float(mp.diff(lambda s, by: self(s, name, index, by), (0, 0), (along, 1)))


def _point(program: Program, m: MpmathArithmetic) -> dict[str, Any]:
    return {n: m.number(v) for n, v in program.arguments.items()}


def _numbers(m: MpmathArithmetic, draws: Any) -> Any:
    return None if draws is None else m.number(np.asarray(draws, float))


def _with_moved(value: Any, index: tuple[int, ...], by: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value + by
    moved = value.copy()
    moved[index] += by
    return moved


def _is_integer(output: Any) -> bool:
    return np.asarray(output).dtype.kind in "iub"


def _weighted(place: int, output: Any) -> Any:
    flat = np.asarray(output).reshape(-1)
    if _is_integer(output) or not flat.size:
        return 0
    return sum(v * float(w) for v, w in zip(flat, weights(place, flat.size), strict=True))


def _array(output: Any) -> Array:
    return np.asarray(output, "int64" if _is_integer(output) else "float64")
