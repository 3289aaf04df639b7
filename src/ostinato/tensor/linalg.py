"""`tensor.linalg`: linear algebra under the names of `numpy.linalg` and `scipy.linalg`."""

from __future__ import annotations

from ostinato.ops.composite import diag, norm, trace
from ostinato.ops.linalg import (
    cho_solve,
    cholesky,
    det,
    kron,
    logdet,
    matrix_dot,
    matrix_inverse,
    matrix_power,
    slogdet,
    solve,
    solve_triangular,
)

# T.inv is 1 / x elementwise, as in Theano; here the inverse is that of a matrix.
inv = matrix_inverse

__all__ = [
    "cho_solve",
    "cholesky",
    "det",
    "diag",
    "inv",
    "kron",
    "logdet",
    "matrix_dot",
    "matrix_inverse",
    "matrix_power",
    "norm",
    "slogdet",
    "solve",
    "solve_triangular",
    "trace",
]
