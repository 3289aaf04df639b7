"""Derivatives by central differences in float64, extrapolated after Richardson."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

# The largest step, relative to the larger of 1 and the number that is moved.
STEP = 2.0**-8
_LEVELS = 3


def difference(f: Callable[[float], Any], step: float) -> Any:
    """The derivative of f at 0.

    Central differences at `step`, half and a quarter of it, extrapolated to a step of 0: the error is of the order of
    step**6, and of rounding / step.
    """
    found = [_central(f, step / 2**k) for k in range(_LEVELS)]
    for k in range(1, _LEVELS):
        found = [(4**k * fine - coarse) / (4**k - 1) for coarse, fine in pairwise(found)]
    return found[0]


def _central(f: Callable[[float], Any], step: float) -> Any:
    return (np.asarray(f(step), "float64") - np.asarray(f(-step), "float64")) / (2 * step)
