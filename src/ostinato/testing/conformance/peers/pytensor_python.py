"""The programs in PyTensor, run by its Python functions: the same graphs and rewrites as by default, nothing compiled.

What its default mode takes half a minute for takes seconds, and derivatives are made before the modes part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytensor

pytensor.config.cxx = ""  # before anything looks for a compiler

from pytensor.compile.mode import Mode  # noqa: E402

from . import pytensor_  # noqa: E402


def versions() -> dict[str, str]:
    """Of PyTensor and NumPy."""
    return {"pytensor": pytensor.__version__, "numpy": np.__version__}


def run(
    name: str, quantity: str, dtype: str, arguments: Mapping[str, Any], directions: Mapping[str, Any], calls: int
) -> tuple[list[Any], Any]:
    """The arrays of a quantity of a program, and what was drawn."""
    # Fused elementwise operations may have more operands than Python's functions take.
    mode = Mode("py", "fast_run").excluding("fusion")
    return pytensor_.run(name, quantity, dtype, arguments, directions, calls, mode)
