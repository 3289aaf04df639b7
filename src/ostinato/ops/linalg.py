"""Linear algebra: factorisations, solutions and determinants of matrices and of stacks of them.

The primitives are few: `cholesky`, `solve_triangular`, `solve`, `matrix_inverse`, `det` and `slogdet`.
They take matrices in the last two dimensions, as `numpy.linalg` does; leading dimensions broadcast. What
else there is composes them. All reverse rules are written with ops, so derivatives of any order exist. A
matrix that is singular, or not positive definite, is a `LinearAlgebraError` when a function runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ostinato.config import config
from ostinato.errors import OstinatoTypeError, OstinatoValueError, ShapeError
from ostinato.graph import Node, make
from ostinato.ops.batch import Rows, stacked
from ostinato.ops.composite import tril, triu
from ostinato.ops.contraction import MATMUL, matmul
from ostinato.ops.creation import eye, zeros_like
from ostinato.ops.elementwise import cast
from ostinato.ops.leaf import as_operands, describe
from ostinato.ops.loop import item
from ostinato.ops.movement import dimshuffle, reshape, swapaxes
from ostinato.ops.op import Op, Sample, register
from ostinato.ops.reduce import sum as sum_
from ostinato.ops.sizes import broadcast_sizes, product, sizes, unbroadcast
from ostinato.types import FLOATS, TensorType, TupleType, broadcast_static, promote

# ---- what the primitives share --------------------------------------------------------------------

_RNG = np.random.default_rng(11)


def _well_conditioned(*shape: int) -> Any:
    """Sample matrices that are far from singular."""
    return 0.4 * _RNG.normal(size=shape) + 2.0 * np.eye(shape[-1])


def _positive_definite(*shape: int) -> Any:
    x = _well_conditioned(*shape)
    return x @ np.swapaxes(x, -1, -2)


def _check_square(name: str, x: Node) -> None:
    if not x.type.is_float or x.type.ndim < 2:
        raise OstinatoTypeError(f"{name}: expected a matrix of floats, or a stack of them, got {describe(x)}")
    rows, columns = x.type.shape[-2:]
    if None not in (rows, columns) and rows != columns:
        raise ShapeError(f"{name}: expected a square matrix, got {describe(x)}")


def _square_type(name: str, x: Node) -> TensorType:
    """The type of a square matrix: one size that is known tells the other one."""
    _check_square(name, x)
    rows, columns = x.type.shape[-2:]
    n = rows if columns is None else columns
    return x.type.with_shape((*x.type.shape[:-2], n, n))


def _solution_type(name: str, a: Node, b: Node) -> TensorType:
    n = _square_type(name, a).shape[-1]
    if b.type.dtype != a.type.dtype or b.type.ndim < 2:
        raise OstinatoTypeError(f"{name}: expected matrices of one dtype, got {describe(a)} and {describe(b)}")
    if None not in (n, b.type.shape[-2]) and n != b.type.shape[-2]:
        raise ShapeError(f"{name}: {describe(a)} has {n} rows, but {describe(b)} has {b.type.shape[-2]}")
    try:
        lead = broadcast_static([a.type.shape[:-2], b.type.shape[:-2]])
    except ShapeError as error:
        raise ShapeError(f"{name}: the stacks {describe(a)} and {describe(b)} do not fit: {error}") from None
    return a.type.with_shape((*lead, b.type.shape[-2] if n is None else n, b.type.shape[-1]))


def _solution_sizes(a: Any, b: Any, **params: Any) -> list[Any]:
    lead: Sequence[Any] = ()
    if a.type.ndim > 2 or b.type.ndim > 2:
        one = (..., slice(0, 1), slice(0, 1))
        lead = broadcast_sizes([a[one], b[one]])[:-2]
    return [*lead, sizes(b)[-2], sizes(b)[-1]]


def _solution_batch(rows: Rows, **params: Any) -> Any:
    """With one matrix for all steps, a single system of many columns; else a stack of systems."""
    a, b = rows.inputs
    if not rows.varies[0] and a.type.ndim == 2 and b.type.ndim == 3:
        steps, n, columns = sizes(b)
        wide = reshape(dimshuffle(b, 1, 0, 2), [n, product([steps, columns])])
        solved = reshape(rows.made((a, wide), *rows.node.params), [n, steps, columns])
        return dimshuffle(solved, 1, 0, 2)
    rank = rows.node.type.ndim
    return rows.made((rows.padded(0, rank), rows.padded(1, rank)), *rows.node.params)


def _checked(a: Any, b: Any = None) -> None:
    """Shapes that the types did not tell; raised as a `ShapeError` that names the operands."""
    if a.shape[-1] != a.shape[-2]:
        raise ValueError(f"shapes do not fit: the matrix is not square, {a.shape[-2]} rows and {a.shape[-1]} columns")
    if b is not None and a.shape[-1] != b.shape[-2]:
        raise ValueError(f"shapes do not fit, {a.shape[-1]} columns meet {b.shape[-2]} rows")


def _mT(x: Any) -> Any:
    """The matrix transposed, or each of a stack."""
    return swapaxes(x, -1, -2)


# ---- primitives -----------------------------------------------------------------------------------


def _cholesky_numpy(x: Any) -> Any:
    _checked(x)
    return np.linalg.cholesky(x)


def _cholesky_vjp(g: Any, out: Any, x: Any) -> tuple[Any]:
    """Giles, Collected matrix derivative results (2008); only the lower triangle of x is read, so only it gets any."""
    inner = make(MATMUL, (_mT(out), g))
    inner = (tril(inner) + tril(inner, -1)) * 0.5
    left = make(SOLVE_TRIANGULAR, (_mT(out), inner), (False, False))
    both = _mT(make(SOLVE_TRIANGULAR, (_mT(out), _mT(left)), (False, False)))
    return (tril(both) + tril(_mT(both), -1),)


def _cholesky_jvp(tangents: Sequence[Any], out: Any, x: Any) -> Any:
    """Of the same source: what moves is the symmetric matrix that the lower triangle stands for."""
    moved = tril(tangents[0]) + _mT(tril(tangents[0], -1))
    left = make(SOLVE_TRIANGULAR, (out, moved), (True, False))
    both = make(SOLVE_TRIANGULAR, (out, _mT(left)), (True, False))
    return make(MATMUL, (out, (tril(both) + tril(both, -1)) * 0.5))


CHOLESKY: Op = register(
    Op(
        "cholesky",
        infer=lambda x: _square_type("cholesky", x),
        numpy=_cholesky_numpy,
        vjp=_cholesky_vjp,
        jvp=_cholesky_jvp,
        sizes=sizes,
        batch=stacked,
        samples=(
            Sample(lambda x: make(CHOLESKY, (x,)), (_positive_definite(3, 3),)),
            Sample(lambda x: make(CHOLESKY, (x,)), (_positive_definite(2, 2, 2),)),
            Sample(lambda x: make(CHOLESKY, (x,)), (np.zeros((0, 0)),)),
        ),
        doc="The lower triangular L with positive diagonal and L @ L.T = x; the upper triangle of x is not read.",
    )
)


def _solve_triangular_numpy(a: Any, b: Any, *, lower: bool, unit_diagonal: bool) -> Any:
    import scipy.linalg

    _checked(a, b)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (a, b))
    out = np.empty(b.shape, b.dtype)
    for i in np.ndindex(lead) if out.size else ():
        out[i] = scipy.linalg.solve_triangular(a[i], b[i], lower=lower, unit_diagonal=unit_diagonal, check_finite=False)
    return out


def _solve_triangular_vjp(g: Any, out: Any, a: Any, b: Any, *, lower: bool, unit_diagonal: bool) -> tuple[Any, Any]:
    gb = make(SOLVE_TRIANGULAR, (_mT(a), g), (not lower, unit_diagonal))
    whole = -make(MATMUL, (gb, _mT(out)))
    first = int(unit_diagonal)  # a diagonal of ones is not read
    ga = tril(whole, -first) if lower else triu(whole, first)
    return unbroadcast(ga, a), unbroadcast(gb, b)


def _moved_right_side(tangents: Sequence[Any], out: Any, read: Any) -> Any:
    """What the right side of a @ x = b would have to move by for x to move as it does: b' - a' @ x."""
    of_a, of_b = tangents
    if of_a is None:
        return of_b
    product = make(MATMUL, (read(of_a), out))
    return -product if of_b is None else of_b - product


def _solve_triangular_jvp(
    tangents: Sequence[Any], out: Any, a: Any, b: Any, *, lower: bool, unit_diagonal: bool
) -> Any:
    first = int(unit_diagonal)
    right = _moved_right_side(tangents, out, lambda m: tril(m, -first) if lower else triu(m, first))
    return make(SOLVE_TRIANGULAR, (a, right), (lower, unit_diagonal))


def _triangular(lower: bool, unit: bool) -> Any:
    return lambda a, b: make(SOLVE_TRIANGULAR, (a, b), (lower, unit))


SOLVE_TRIANGULAR: Op = register(
    Op(
        "solve_triangular",
        infer=lambda a, b, *, lower, unit_diagonal: _solution_type("solve_triangular", a, b),
        numpy=_solve_triangular_numpy,
        vjp=_solve_triangular_vjp,
        jvp=_solve_triangular_jvp,
        sizes=_solution_sizes,
        batch=_solution_batch,
        params=("lower", "unit_diagonal"),
        samples=(
            Sample(_triangular(True, False), (_well_conditioned(3, 3), _RNG.normal(size=(3, 2)))),
            Sample(_triangular(False, False), (_well_conditioned(2, 1, 2, 2), _RNG.normal(size=(3, 2, 1)))),
            Sample(_triangular(False, True), (_well_conditioned(3, 3), _RNG.normal(size=(3, 1)))),
            Sample(_triangular(True, True), (_well_conditioned(2, 2), _RNG.normal(size=(2, 0)))),
        ),
        doc="The x with a @ x = b for a triangular a, of which the other triangle is not read.",
    )
)


def _solve_numpy(a: Any, b: Any) -> Any:
    _checked(a, b)
    return np.linalg.solve(a, b)


def _solve_vjp(g: Any, out: Any, a: Any, b: Any) -> tuple[Any, Any]:
    gb = make(SOLVE, (_mT(a), g))
    return unbroadcast(-make(MATMUL, (gb, _mT(out))), a), unbroadcast(gb, b)


SOLVE: Op = register(
    Op(
        "solve",
        infer=lambda a, b: _solution_type("solve", a, b),
        numpy=_solve_numpy,
        vjp=_solve_vjp,
        jvp=lambda tangents, out, a, b: make(SOLVE, (a, _moved_right_side(tangents, out, lambda m: m))),
        sizes=_solution_sizes,
        batch=_solution_batch,
        samples=(
            Sample(lambda a, b: make(SOLVE, (a, b)), (_well_conditioned(3, 3), _RNG.normal(size=(3, 2)))),
            Sample(lambda a, b: make(SOLVE, (a, b)), (_well_conditioned(2, 1, 2, 2), _RNG.normal(size=(3, 2, 1)))),
            Sample(lambda a, b: make(SOLVE, (a, b)), (np.zeros((0, 0)), np.zeros((0, 2)))),
        ),
        doc="The x with a @ x = b, by elimination with partial pivoting.",
    )
)


def _inverse_numpy(x: Any) -> Any:
    _checked(x)
    return np.linalg.inv(x)


MATRIX_INVERSE: Op = register(
    Op(
        "matrix_inverse",
        infer=lambda x: _square_type("matrix_inverse", x),
        numpy=_inverse_numpy,
        vjp=lambda g, out, x: (-make(MATMUL, (_mT(out), make(MATMUL, (g, _mT(out))))),),
        jvp=lambda tangents, out, x: -make(MATMUL, (out, make(MATMUL, (tangents[0], out)))),
        sizes=sizes,
        batch=stacked,
        samples=(
            Sample(lambda x: make(MATRIX_INVERSE, (x,)), (_well_conditioned(3, 3),)),
            Sample(lambda x: make(MATRIX_INVERSE, (x,)), (_well_conditioned(2, 2, 2),)),
        ),
        doc="The inverse of a matrix.",
    )
)


def _per_matrix(g: Any) -> Any:
    """A number per matrix of a stack, to be multiplied with the matrices."""
    return dimshuffle(g, *range(g.type.ndim), "x", "x")


def _relative_growth(moved: Any, x: Any) -> Any:
    """The tangent of the logarithm of the determinant, the trace of x^-1 x'."""
    return sum_(moved * _mT(make(MATRIX_INVERSE, (x,))), axis=(-2, -1))


def _det_numpy(x: Any) -> Any:
    _checked(x)
    return np.linalg.det(x)


DET: Op = register(
    Op(
        "det",
        infer=lambda x: _square_type("det", x).with_shape(x.type.shape[:-2]),
        numpy=_det_numpy,
        vjp=lambda g, out, x: (_per_matrix(g * out) * _mT(make(MATRIX_INVERSE, (x,))),),
        jvp=lambda tangents, out, x: out * _relative_growth(tangents[0], x),
        sizes=lambda x: sizes(x)[:-2],
        batch=stacked,
        samples=(
            Sample(lambda x: make(DET, (x,)), (_well_conditioned(3, 3),)),
            Sample(lambda x: make(DET, (x,)), (_well_conditioned(2, 2, 2),)),
        ),
        doc="The determinant. Its derivative needs the inverse: there is none at a singular matrix.",
    )
)


def _slogdet_infer(x: Node) -> TupleType:
    scalars = _square_type("slogdet", x).with_shape(x.type.shape[:-2])
    return TupleType((scalars, scalars))


def _slogdet_numpy(x: Any) -> tuple[Any, Any]:
    _checked(x)
    sign, logarithm = np.linalg.slogdet(x)
    return sign, logarithm


def _slogdet_vjp(cotangents: list[Any], out: Node, x: Any) -> tuple[Any]:
    g = cotangents[1]  # the sign is constant wherever there is a derivative
    return (None if g is None else _per_matrix(g) * _mT(make(MATRIX_INVERSE, (x,))),)


SLOGDET: Op = register(
    Op(
        "slogdet",
        infer=_slogdet_infer,
        numpy=_slogdet_numpy,
        vjp=_slogdet_vjp,
        jvp=lambda tangents, out, x: [None, _relative_growth(tangents[0], x)],
        sizes=lambda x: (sizes(x)[:-2], sizes(x)[:-2]),
        batch=stacked,
        samples=(
            Sample(lambda x: item(make(SLOGDET, (x,)), 1), (_well_conditioned(3, 3),)),
            Sample(lambda x: item(make(SLOGDET, (x,)), 1), (_well_conditioned(2, 2, 2),)),
            Sample(lambda x: item(make(SLOGDET, (x,)), 0), (-_well_conditioned(3, 3),)),
        ),
        doc="The sign of the determinant, and the logarithm of its magnitude: two results.",
    )
)

# ---- what users call ------------------------------------------------------------------------------


def _operands(*values: Any) -> tuple[list[Any], str]:
    """Operands in the dtype to compute in, and the dtype of the result: float16 is computed in float32."""
    nodes = as_operands(*values)
    dtype = promote(*[n.type.dtype for n in nodes])
    dtype = dtype if dtype in FLOATS else config.floatX
    wide = "float32" if dtype == "float16" else dtype
    return [cast(n, wide) for n in nodes], dtype


def _unary(op: Op, x: Any) -> Any:
    (node,), dtype = _operands(x)
    return cast(make(op, (node,)), dtype)


def _with_columns(op: Op, a: Any, b: Any, params: tuple[Any, ...] = ()) -> Any:
    """An op of a matrix and columns; a vector is one column."""
    (x, y), dtype = _operands(a, b)
    if y.type.ndim == 0:
        raise OstinatoTypeError(f"{op.name}: expected a vector or a matrix on the right, got {describe(y)}")
    if y.type.ndim > 1:
        return cast(make(op, (x, y), params), dtype)
    _check_square(op.name, x)
    out = make(op, (x, dimshuffle(y, 0, "x")), params)
    return cast(dimshuffle(out, *range(out.type.ndim - 1)), dtype)


def cholesky(x: Any, lower: bool = True) -> Any:
    """The Cholesky factor of a symmetric positive definite matrix, or of each of a stack.

    Parameters
    ----------
    x : square matrix, or an array with square matrices in the last two dimensions
        Only the triangle that the factor has is read, so symmetry is not checked; derivatives go to that
        triangle alone.
    lower : bool
        The lower triangular L with `L @ L.T == x`; else the upper triangular U with `U.T @ U == x`.

    Raises
    ------
    ShapeError
        If the matrix is known not to be square; when a function runs if it turns out not to be.
    LinearAlgebraError
        When a function runs, if the matrix is not positive definite.

    Notes
    -----
    The derivative is that of M. Giles, "Collected matrix derivative results for forward and reverse mode
    algorithmic differentiation" (2008).
    """
    return _unary(CHOLESKY, x) if lower else _mT(_unary(CHOLESKY, _transposed(x)))


def _transposed(x: Any) -> Any:
    (node,), _ = _operands(x)
    _check_square("cholesky", node)
    return _mT(node)


_TRANSPOSED = {0: False, "N": False, 1: True, "T": True}


def solve_triangular(a: Any, b: Any, lower: bool = True, trans: int | str = 0, unit_diagonal: bool = False) -> Any:
    """The solution of `a @ x = b` for a triangular matrix `a`.

    Parameters
    ----------
    a : square matrix, or a stack of them
        Of the other triangle nothing is read.
    b : vector or matrix, or a stack of matrices
        Stacks broadcast against each other.
    lower : bool
        Which triangle of `a` counts. (SciPy assumes the upper one unless told otherwise.)
    trans : {0, 1, "N", "T"}
        With 1 or "T" the system is `a.T @ x = b`.
    unit_diagonal : bool
        Take the diagonal to be ones, without reading it.

    Raises
    ------
    ShapeError
        If the sizes are known not to fit; when a function runs if they turn out not to.
    LinearAlgebraError
        When a function runs, if there is a zero on the diagonal.
    """
    if trans not in _TRANSPOSED:
        raise OstinatoValueError(f"solve_triangular: trans is 0, 1, 'N' or 'T', not {trans!r}")
    if _TRANSPOSED[trans]:
        (a, b), _ = _operands(a, b)
        _check_square("solve_triangular", a)
        a, lower = _mT(a), not lower
    return _with_columns(SOLVE_TRIANGULAR, a, b, (bool(lower), bool(unit_diagonal)))


def solve(a: Any, b: Any, assume_a: str = "gen", lower: bool = False) -> Any:
    """The solution of `a @ x = b`.

    Parameters
    ----------
    a : square matrix, or a stack of them
    b : vector or matrix, or a stack of matrices
        A vector is one column, and gives a vector. Stacks broadcast against each other.
    assume_a : {"gen", "sym", "pos", "lower triangular", "upper triangular"}
        What is known of `a`, as in SciPy. A positive definite matrix is factored by Cholesky, which takes
        half the time; a symmetric one is solved as a general one.
    lower : bool
        Which triangle of a positive definite matrix is read.

    Raises
    ------
    ShapeError
        If the sizes are known not to fit; when a function runs if they turn out not to.
    LinearAlgebraError
        When a function runs, if the matrix is singular (or not positive definite where that is assumed).
    """
    if assume_a in ("gen", "general", "sym", "symmetric"):
        return _with_columns(SOLVE, a, b)
    if assume_a in ("pos", "positive definite"):
        return cho_solve((cholesky(a, lower=lower), lower), b)
    if assume_a in ("lower triangular", "upper triangular"):
        return solve_triangular(a, b, lower=assume_a.startswith("lower"))
    raise OstinatoValueError(
        f"solve: assume_a is 'gen', 'sym', 'pos', 'lower triangular' or 'upper triangular', not {assume_a!r}"
    )


def cho_solve(c_and_lower: tuple[Any, bool], b: Any) -> Any:
    """The solution of `a @ x = b`, given the Cholesky factor of `a`.

    Parameters
    ----------
    c_and_lower : (factor, whether it is the lower one)
        `(cholesky(a, lower), lower)`.
    b : vector or matrix, or a stack of matrices
    """
    factor, lower = c_and_lower
    first = solve_triangular(factor, b, lower=lower, trans=0 if lower else 1)
    return solve_triangular(factor, first, lower=lower, trans=1 if lower else 0)


def matrix_inverse(x: Any) -> Any:
    """The inverse of a square matrix, or of each of a stack; `solve` is faster and more accurate for `inv(a) @ b`.

    Raises
    ------
    ShapeError
        If the matrix is known not to be square; when a function runs if it turns out not to be.
    LinearAlgebraError
        When a function runs, if the matrix is singular.
    """
    return _unary(MATRIX_INVERSE, x)


def det(x: Any) -> Any:
    """The determinant of a square matrix, or of each of a stack.

    That of a singular matrix is 0. Its derivative goes through the inverse, so that is a
    `LinearAlgebraError` there.
    """
    return _unary(DET, x)


def slogdet(x: Any) -> tuple[Any, Any]:
    """The sign and the logarithm of the magnitude of the determinant: no overflow, as in NumPy.

    Returns
    -------
    sign, logabsdet : variables
        `sign * exp(logabsdet)` is the determinant; 0 and -inf for a singular matrix.
    """
    (node,), dtype = _operands(x)
    both = make(SLOGDET, (node,))
    return cast(item(both, 0), dtype), cast(item(both, 1), dtype)


def logdet(x: Any) -> Any:
    """The logarithm of the magnitude of the determinant: `slogdet(x)[1]`."""
    return slogdet(x)[1]


def matrix_dot(*matrices: Any) -> Any:
    """The product of several matrices, from the left."""
    if not matrices:
        raise OstinatoValueError("matrix_dot: expected at least one matrix")
    result = matrices[0]
    for m in matrices[1:]:
        result = matmul(result, m)
    return result


def matrix_power(x: Any, n: Any) -> Any:
    """The matrix `x` (or each of a stack) to the power of an int, by repeated squaring; negative powers invert."""
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool):
        raise OstinatoTypeError(f"matrix_power: the exponent is an int, not {n!r}")
    base = matrix_inverse(x) if n < 0 else as_operands(x)[0]
    _check_square("matrix_power", cast(base, "float64"))
    if n == 0:
        return zeros_like(base) + eye(sizes(base)[-1], dtype=base.type.dtype)
    result, left = None, abs(int(n))
    while left:
        if left & 1:
            result = base if result is None else matmul(result, base)
        left >>= 1
        base = matmul(base, base) if left else base
    return result


def kron(a: Any, b: Any) -> Any:
    """The Kronecker product of two matrices."""
    x, y = as_operands(a, b)
    if (x.type.ndim, y.type.ndim) != (2, 2):
        raise OstinatoTypeError(f"kron: expected two matrices, got {describe(x)} and {describe(y)}")
    blocks = dimshuffle(x, 0, "x", 1, "x") * dimshuffle(y, "x", 0, "x", 1)
    return reshape(blocks, [product(pair) for pair in zip(sizes(x), sizes(y), strict=True)])


__all__ = [
    "CHOLESKY",
    "DET",
    "MATRIX_INVERSE",
    "SLOGDET",
    "SOLVE",
    "SOLVE_TRIANGULAR",
    "cho_solve",
    "cholesky",
    "det",
    "kron",
    "logdet",
    "matrix_dot",
    "matrix_inverse",
    "matrix_power",
    "slogdet",
    "solve",
    "solve_triangular",
]
