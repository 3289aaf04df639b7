"""Independent derivatives for tests: central differences with Richardson extrapolation, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def central(f: Callable[..., Any], arrays: Sequence[Any], which: int, step: float = 1e-3) -> np.ndarray[Any, Any]:
    """The gradient of a scalar function of arrays with respect to one of them.

    Two central differences are extrapolated, so the error is of the order of step**4 and rounding / step.
    """
    values = [np.array(a, dtype="float64") for a in arrays]
    result = np.zeros_like(values[which])

    def at(index: Any, h: float) -> float:
        moved = [v.copy() for v in values]
        moved[which][index] += h
        return float(f(*moved))

    for index in np.ndindex(result.shape):
        coarse = (at(index, step) - at(index, -step)) / (2 * step)
        fine = (at(index, step / 2) - at(index, -step / 2)) / step
        result[index] = (4 * fine - coarse) / 3
    return result
