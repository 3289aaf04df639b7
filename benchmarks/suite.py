"""The registry of workloads, and what a workload says of itself.

A workload is a computation that every system writes in its own way, in one place: a class in a file of
`workloads/`, one file per family, whose methods bear the names of the systems. The reference result is
`numpy`, in float64; the reference derivative is had from it by complex steps, so that nothing is
differentiated by hand where nobody times it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

FORWARD, GRADIENT = "forward", "gradient"
KINDS = (FORWARD, GRADIENT)

Arguments = dict[str, Any]


class Workload(ABC):
    """A computation, its arguments, and how each system writes it.

    All methods that compute get the arguments by their names and return a list of arrays. A system has no part in
    a workload that lacks its method. `numba` and `numba_gradient` get no arguments: they make a compiled
    function of the arguments, in their order, which returns one array or a tuple (of the cost and the gradients).
    `c` and `c_gradient` are names of functions of `c/`, which fill arrays of the shapes that `numpy` returns.
    """

    name: str
    wrt: tuple[str, ...]  # what the cost is differentiated with respect to
    numpy: Callable[..., list[Any]]  # plainly written, and true for complex arguments as well
    kinds: ClassVar[tuple[str, ...]] = KINDS
    static: tuple[str, ...] = ()  # arguments whose shape is a part of the model, not of the data
    tolerance: float = 1e-8
    differing: float = 0.0  # the share of elements that rounding may decide
    # Sizes of the smallest form; the C sources go through units and lanes in whole vectors.
    least: ClassVar[dict[str, int]] = {
        "steps": 7,
        "units": 8,
        "inputs": 4,
        "batch": 2,
        "states": 8,
        "lanes": 32,
        "size": 8,
    }
    unrolls: ClassVar[tuple[int, ...]] = (1, 8)  # what is tried for JAX; the fastest counts

    @abstractmethod
    def arguments(self, rng: np.random.Generator) -> Arguments:
        """The arguments by name, in order; floats for scalars."""

    def cost(self, results: Sequence[Any], arguments: Arguments) -> Any:
        """What is differentiated: written with operators and methods that arrays of all systems have."""
        return results[0]

    def smallest(self) -> Workload:
        """The same with the fewest steps, units and lanes that every system can have."""
        small = copy.copy(self)
        for name, size in self.least.items():
            if hasattr(small, name):
                setattr(small, name, min(size, getattr(small, name)))
        return small

    def has(self, method: str) -> bool:
        return hasattr(self, method)


WORKLOADS: dict[str, Workload] = {}


def register(*workloads: Workload) -> None:
    """Enter workloads into the registry, under their names."""
    for workload in workloads:
        if workload.name in WORKLOADS:
            raise ValueError(f"there are two workloads {workload.name!r}")
        WORKLOADS[workload.name] = workload


class Reference:
    """What a workload has to give: results of a kind are checked against it."""

    def __init__(self, workload: Workload, arguments: Arguments) -> None:
        self.workload = workload
        self._exact = {n: v if isinstance(v, int) else np.asarray(v, "float64") for n, v in arguments.items()}
        self._derivatives: dict[str, tuple[NDArray[Any], float]] = {}
        self._results = workload.numpy(**self._exact)

    def check(self, kind: str, results: Sequence[Any], label: str) -> None:
        """Raise an AssertionError if results are wrong."""
        if kind == FORWARD:
            for ours, exact in zip(results, self._results, strict=True):
                self._check_array(np.asarray(ours, "float64"), exact, label)
            return
        cost, *gradients = (np.asarray(r, "float64") for r in results)
        np.testing.assert_allclose(
            cost, self.workload.cost(self._results, self._exact), self.workload.tolerance, err_msg=label
        )
        for name, gradient in zip(self.workload.wrt, gradients, strict=True):
            self._check_gradient(name, gradient, f"{label}, with respect to {name}")

    def _check_array(self, ours: NDArray[Any], exact: Any, label: str) -> None:
        scale = self.workload.tolerance * float(np.abs(exact).max())
        if not self.workload.differing:
            np.testing.assert_allclose(ours, exact, self.workload.tolerance, scale, err_msg=label)
            return
        assert ours.shape == exact.shape, f"{label}: {ours.shape}"
        share = float(np.mean(~(np.abs(ours - exact) <= scale)))
        assert share <= self.workload.differing, f"{label}: {share:.2%} of the elements differ"

    def _check_gradient(self, name: str, gradient: NDArray[Any], label: str) -> None:
        assert gradient.shape == self._exact[name].shape, f"{label}: {gradient.shape}"
        direction, expected = self._derivative(name)
        parts = gradient * direction
        error = abs(float(parts.sum()) - expected)
        assert error <= self.workload.tolerance * (abs(expected) + float(np.linalg.norm(parts))), (
            f"{label}: the derivative in a direction is {float(parts.sum())!r}, not {expected!r}"
        )

    def _derivative(self, name: str) -> tuple[NDArray[Any], float]:
        """A direction and the derivative in it, which a complex step gives to the last bits."""
        if name not in self._derivatives:
            direction, step = np.random.default_rng(2).normal(size=self._exact[name].shape), 1e-30
            moved = {**self._exact, name: self._exact[name] + 1j * step * direction}
            cost = self.workload.cost(self.workload.numpy(**moved), moved)
            self._derivatives[name] = np.asarray(direction), float(np.imag(cost)) / step
        return self._derivatives[name]
