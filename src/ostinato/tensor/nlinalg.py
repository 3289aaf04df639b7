"""`tensor.nlinalg`: the linear algebra that Theano took from NumPy, under Theano's names."""

from __future__ import annotations

from typing import Any

from ostinato.errors import OstinatoTypeError
from ostinato.ops import composite
from ostinato.ops.composite import diag, norm, trace
from ostinato.ops.leaf import as_tensor, describe
from ostinato.ops.linalg import det, matrix_dot, matrix_inverse, matrix_power


def alloc_diag(x: Any) -> Any:
    """The square matrix with the vector `x` on its diagonal."""
    return composite.diag(_of_rank(x, 1, "alloc_diag", "a vector"))


def extract_diag(x: Any) -> Any:
    """The diagonal of the matrix `x` as a vector."""
    return composite.diag(_of_rank(x, 2, "extract_diag", "a matrix"))


def _of_rank(x: Any, ndim: int, name: str, what: str) -> Any:
    node = as_tensor(x)
    if node.type.ndim != ndim:
        raise OstinatoTypeError(f"{name}: expected {what}, got {describe(node)}")
    return node


__all__ = [
    "alloc_diag",
    "det",
    "diag",
    "extract_diag",
    "matrix_dot",
    "matrix_inverse",
    "matrix_power",
    "norm",
    "trace",
]
