"""The functions that references are written with: for NumPy's numbers, complex ones too, and for mpmath's.

A reference is a plain Python loop over numbers and arrays. It gets one of these as `m`, so the same loop
gives values in floats, derivatives by a complex step, and both with as many digits as one likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ostinato.testing.optional import import_mpmath

_NAMES = ("exp", "log", "sin", "cos", "tanh", "sqrt")


class NumPyArithmetic:
    """Floats or complex numbers."""

    def __init__(self) -> None:
        for name in _NAMES:
            setattr(self, name, getattr(np, name))

    def number(self, x: Any) -> Any:
        """An argument as a number or array."""
        return np.asarray(x)[()]

    def real(self, x: Any) -> Any:
        """What comparisons look at."""
        return np.real(x)

    def stack(self, rows: Sequence[Any], shape: tuple[int, ...] = ()) -> Any:
        """Rows as an array; `shape` is that of a row, for when there is none."""
        return np.stack([np.asarray(r) for r in rows]) if len(rows) else np.zeros((0, *shape))

    def zeros(self, shape: Any) -> Any:
        """An array that may be written to."""
        return np.zeros(shape, "complex128")

    def sigmoid(self, x: Any) -> Any:
        """1 / (1 + exp(-x))."""
        return 1 / (1 + self.exp(-x))  # type: ignore[attr-defined]


class MpmathArithmetic(NumPyArithmetic):
    """Numbers of mpmath, in NumPy arrays of objects."""

    def __init__(self) -> None:
        self.mp = import_mpmath().mp
        for name in _NAMES:
            setattr(self, name, np.frompyfunc(getattr(self.mp, name), 1, 1))

    def number(self, x: Any) -> Any:
        """An argument as a number or array; integers stay as they are."""
        array = np.asarray(x)
        if array.dtype.kind != "f":
            return array[()]
        found = np.frompyfunc(self.mp.mpf, 1, 1)(array.astype(float).astype(object))
        return found if array.ndim == 0 else np.asarray(found, dtype=object)

    def real(self, x: Any) -> Any:
        """The number itself."""
        return x

    def stack(self, rows: Sequence[Any], shape: tuple[int, ...] = ()) -> Any:
        """Rows as an array of objects."""
        if not len(rows):
            return np.zeros((0, *shape), dtype=object)
        return np.stack([np.asarray(r, dtype=object) for r in rows])

    def zeros(self, shape: Any) -> Any:
        """An array that may be written to."""
        return np.full(shape, self.mp.mpf(0), dtype=object)
