"""`tensor.slinalg`: the linear algebra that Theano took from SciPy, under Theano's names."""

from __future__ import annotations

from typing import Any

from ostinato.ops.linalg import cho_solve, cholesky, kron, solve, solve_triangular


def solve_lower_triangular(a: Any, b: Any) -> Any:
    """The solution of `a @ x = b` for a lower triangular matrix."""
    return solve_triangular(a, b, lower=True)


def solve_upper_triangular(a: Any, b: Any) -> Any:
    """The solution of `a @ x = b` for an upper triangular matrix."""
    return solve_triangular(a, b, lower=False)


def solve_symmetric(a: Any, b: Any) -> Any:
    """The solution of `a @ x = b` for a symmetric matrix."""
    return solve(a, b, assume_a="sym")


__all__ = [
    "cho_solve",
    "cholesky",
    "kron",
    "solve",
    "solve_lower_triangular",
    "solve_symmetric",
    "solve_triangular",
    "solve_upper_triangular",
]
