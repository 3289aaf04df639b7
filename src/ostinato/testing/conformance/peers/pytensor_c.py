"""The programs in PyTensor, compiled to C: what was its default for long, and compiles faster than numba."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytensor
from pytensor.compile.mode import Mode

from . import pytensor_


def versions() -> dict[str, str]:
    """Of PyTensor and NumPy."""
    return {"pytensor": pytensor.__version__, "numpy": np.__version__, "linker": "cvm"}


def run(
    name: str, quantity: str, dtype: str, arguments: Mapping[str, Any], directions: Mapping[str, Any], calls: int
) -> tuple[list[Any], Any]:
    """The arrays of a quantity of a program, and what was drawn."""
    return pytensor_.run(name, quantity, dtype, arguments, directions, calls, Mode("cvm", "fast_run"))
