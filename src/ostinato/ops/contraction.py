"""Products of matrices: one primitive, `matmul`; dot, batched_dot, tensordot and outer are made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ostinato.errors import OstinatoTypeError, OstinatoValueError, ShapeError
from ostinato.graph import Node, make
from ostinato.ops.batch import Rows
from ostinato.ops.elementwise import cast
from ostinato.ops.leaf import as_operands, describe
from ostinato.ops.movement import (
    dimshuffle,
    flatten,
    normalize_axis,
    reshape,
    shape_padright,
    specify_shape,
    swapaxes,
    transpose,
)
from ostinato.ops.op import Op, Sample, register
from ostinato.ops.sizes import broadcast_sizes, product, sizes, unbroadcast
from ostinato.types import TensorType, broadcast_static, promote

# What users find in `ostinato.tensor`.
__all__ = [
    "batched_dot",
    "batched_tensordot",
    "dot",
    "matmul",
    "outer",
    "tensordot",
]

_RNG = np.random.default_rng(7)


def _matmul_infer(x: Node, y: Node) -> TensorType:
    if x.type.dtype != y.type.dtype or min(x.type.ndim, y.type.ndim) < 2:
        raise OstinatoTypeError(f"matmul: expected stacks of matrices of one dtype, got {describe(x)}, {describe(y)}")
    _check_inner(x, y)
    try:
        lead = broadcast_static([x.type.shape[:-2], y.type.shape[:-2]])
    except ShapeError as error:
        raise ShapeError(f"matrix product: the stacks {describe(x)} and {describe(y)} do not fit: {error}") from None
    return x.type.with_shape((*lead, x.type.shape[-2], y.type.shape[-1]))


def _check_inner(x: Node, y: Node) -> None:
    columns, rows = x.type.shape[-1], y.type.shape[-2:][0]
    if columns is not None and rows is not None and columns != rows:
        raise ShapeError(f"matrix product: {describe(x)} has {columns} columns, but {describe(y)} has {rows} rows")


def _lead_only(x: Any) -> Any:
    """A stand-in for x with matrices of one element, whose sizes give those of the stack."""
    return x[(..., slice(0, 1), slice(0, 1))]


def _matmul_sizes(x: Node, y: Node) -> list[Any]:
    lead: Sequence[Any] = ()
    if x.type.ndim > 2 or y.type.ndim > 2:
        lead = broadcast_sizes([_lead_only(x), _lead_only(y)])[:-2]
    return [*lead, sizes(x)[-2], sizes(y)[-1]]


def _matmul_numpy(x: Any, y: Any) -> Any:
    if x.shape[-1] != y.shape[-2]:
        raise ValueError(f"shapes do not fit, {x.shape[-1]} columns meet {y.shape[-2]} rows")
    return np.matmul(x, y)


def _matmul_vjp(g: Any, out: Node, x: Node, y: Node) -> tuple[Any, Any]:
    gx = make(MATMUL, (g, swapaxes(y, -1, -2)))
    if x.type.ndim > 2 and y.type.ndim == 2:  # the sum over a stack is one product of longer matrices
        x, g = (reshape(v, [product(sizes(v)[:-1]), sizes(v)[-1]]) for v in (x, g))
        return gx, make(MATMUL, (swapaxes(x, -1, -2), g))
    gy = make(MATMUL, (swapaxes(x, -1, -2), g))
    if x.type.ndim == y.type.ndim == 2:
        return gx, gy
    return unbroadcast(gx, x), unbroadcast(gy, y)


def _matmul_jvp(tangents: Sequence[Any], out: Node, x: Node, y: Node) -> Any:
    of_x, of_y = tangents
    parts = [make(MATMUL, (of_x, y))] if of_x is not None else []
    parts += [make(MATMUL, (x, of_y))] if of_y is not None else []
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _matmul_batch(rows: Rows) -> Any:
    """With one matrix for all steps a single product, if the other operand is a vector or stands on the left."""
    x, y = rows.inputs
    left, right = rows.node.inputs
    one_row, one_column = left.type.shape[-2] == 1, right.type.shape[-1] == 1
    if rows.varies == (True, False) and one_row and y.type.ndim == 2 and x.type.ndim == 3:
        return dimshuffle(make(MATMUL, (dimshuffle(x, 0, 2), y)), 0, "x", 1)
    if rows.varies == (False, True) and one_column and x.type.ndim == 2 and y.type.ndim == 3:
        return dimshuffle(make(MATMUL, (dimshuffle(y, 0, 1), swapaxes(x, 0, 1))), 0, 1, "x")
    rank = rows.node.type.ndim
    x, y = rows.padded(0, rank), rows.padded(1, rank)
    if all(rows.varies) and rank == 2 and left.type.shape[-1] == 1 == right.type.shape[-2]:
        return x * y
    if all(rows.varies) and rank == 2 and one_row and one_column:
        from ostinato.ops.reduce import sum

        return sum(x * swapaxes(y, 1, 2), axis=2, keepdims=True, dtype=x.type.dtype)
    return make(MATMUL, (x, y))


MATMUL: Op = register(
    Op(
        "matmul",
        infer=_matmul_infer,
        numpy=_matmul_numpy,
        vjp=_matmul_vjp,
        jvp=_matmul_jvp,
        sizes=_matmul_sizes,
        batch=_matmul_batch,
        samples=(
            Sample(lambda x, y: make(MATMUL, (x, y)), (_RNG.normal(size=(2, 3)), _RNG.normal(size=(3, 4)))),
            Sample(lambda x, y: make(MATMUL, (x, y)), (_RNG.normal(size=(2, 2, 3)), _RNG.normal(size=(1, 3, 2)))),
            Sample(lambda x, y: make(MATMUL, (x, y)), (_RNG.normal(size=(2, 0)), _RNG.normal(size=(0, 2)))),
        ),
        doc="Matrix product over the last two dimensions; leading dimensions broadcast.",
    )
)


def _accumulate_infer(c: Node, x: Node, y: Node, *, backwards: bool) -> TensorType:
    if len({n.type.dtype for n in (c, x, y)}) != 1 or {n.type.ndim for n in (c, x, y)} != {2}:
        raise OstinatoTypeError(
            f"accumulate: expected matrices of one dtype, got {describe(c)}, {describe(x)} and {describe(y)}"
        )
    result = x.type.with_shape((x.type.shape[1], y.type.shape[1]))
    rows = x.type.shape[0], y.type.shape[0]
    pairs = [rows, *zip(c.type.shape, result.shape, strict=True)]
    if any(None not in pair and len(set(pair)) > 1 for pair in pairs):
        raise ShapeError(f"accumulate: {describe(x)}.T @ {describe(y)} cannot be added to {describe(c)}")
    return result


def _accumulate_numpy(c: Any, x: Any, y: Any, *, backwards: bool) -> Any:
    product = _matmul_numpy(x.T, y)
    if product.shape != c.shape:
        raise ValueError(f"shapes do not fit, a product of shape {product.shape} is added to one of {c.shape}")
    return c + product


def _accumulate_vjp(g: Any, out: Node, c: Node, x: Node, y: Node, *, backwards: bool) -> tuple[Any, Any, Any]:
    return g, make(MATMUL, (y, swapaxes(g, 0, 1))), make(MATMUL, (x, g))


ACCUMULATE: Op = register(
    Op(
        "accumulate",
        infer=_accumulate_infer,
        numpy=_accumulate_numpy,
        vjp=_accumulate_vjp,
        sizes=lambda c, x, y, *, backwards: [sizes(x)[1], sizes(y)[1]],
        params=("backwards",),
        samples=(
            Sample(
                lambda c, x, y: make(ACCUMULATE, (c, x, y), (True,)),
                (_RNG.normal(size=(2, 4)), _RNG.normal(size=(3, 2)), _RNG.normal(size=(3, 4))),
            ),
            Sample(
                lambda c, x, y: make(ACCUMULATE, (c, x, y), (False,)),
                (_RNG.normal(size=(2, 1)), _RNG.normal(size=(300, 2)), _RNG.normal(size=(300, 1))),
            ),
        ),
        doc="`c + x.T @ y`, natively one row of x and y after the other, from the last if `backwards`; "
        "so the bits do not depend on how rows are divided.",
    )
)


def _pair(x: Any, y: Any) -> tuple[Any, Any]:
    a, b = as_operands(x, y)
    dtype = promote(a.type.dtype, b.type.dtype)
    dtype = "int64" if dtype == "bool" else dtype  # as in sum: how often both are true
    return cast(a, dtype), cast(b, dtype)


def matmul(x: Any, y: Any) -> Any:
    """`x @ y` as in NumPy: vectors count as a row on the left, a column on the right; stacks broadcast."""
    a, b = _pair(x, y)
    if 0 in (a.type.ndim, b.type.ndim):
        raise OstinatoTypeError(f"matmul: scalars are multiplied with *, got {describe(a)} and {describe(b)}")
    _check_inner(a, b)
    row, column = a.type.ndim == 1, b.type.ndim == 1
    result = make(MATMUL, (dimshuffle(a, "x", 0) if row else a, dimshuffle(b, 0, "x") if column else b))
    if column:
        result = dimshuffle(result, *range(result.type.ndim - 1))
    if row:
        lead = result.type.ndim - (1 if column else 2)
        result = dimshuffle(result, [i for i in range(result.type.ndim) if i != lead])
    return result


def dot(x: Any, y: Any) -> Any:
    """The product over the last dimension of `x` and the last but one (or only one) of `y`, as in NumPy.

    Parameters
    ----------
    x, y : arrays of any number of dimensions; a scalar just multiplies.

    Raises
    ------
    ShapeError
        If the two dimensions are known to differ.
    """
    a, b = _pair(x, y)
    if 0 in (a.type.ndim, b.type.ndim):
        return a * b
    if b.type.ndim == 1 or max(a.type.ndim, b.type.ndim) <= 2:
        return matmul(a, b)
    return tensordot(a, b, [[a.type.ndim - 1], [b.type.ndim - 2]])


def batched_dot(x: Any, y: Any) -> Any:
    """For each index of the common first dimension, the `dot` of the two items.

    Parameters
    ----------
    x, y : arrays of 1 to 3 dimensions, so that the items are scalars, vectors or matrices.
    """
    a, b = _pair(x, y)
    if not (1 <= a.type.ndim <= 3 and 1 <= b.type.ndim <= 3):
        raise OstinatoTypeError(f"batched_dot: expected 1 to 3 dimensions, got {describe(a)} and {describe(b)}")
    if 1 in (a.type.ndim, b.type.ndim):
        return shape_padright(a, max(b.type.ndim - a.type.ndim, 0)) * shape_padright(
            b, max(a.type.ndim - b.type.ndim, 0)
        )
    row, column = a.type.ndim == 2, b.type.ndim == 2
    result = make(MATMUL, (dimshuffle(a, 0, "x", 1) if row else a, dimshuffle(b, 0, 1, "x") if column else b))
    return dimshuffle(result, [0, *([] if row else [1]), *([] if column else [2])])


def tensordot(x: Any, y: Any, axes: Any = 2) -> Any:
    """The sum over pairs of dimensions, as in NumPy.

    Parameters
    ----------
    axes : int or pair
        How many last dimensions of `x` meet the first of `y`; or the dimensions of each, as ints or sequences.

    Returns
    -------
    variable
        The dimensions of `x` that are left, followed by those of `y`.

    Raises
    ------
    ShapeError
        If two dimensions that meet are known to differ; when a function runs if they turn out to.
    """
    a, b = _pair(x, y)
    return _contract(a, b, *_meeting(a, b, axes, batch=0), batch=0)


def batched_tensordot(x: Any, y: Any, axes: Any = 2) -> Any:
    """For each index of the common first dimension, the `tensordot` of the two items.

    Parameters
    ----------
    axes : int or pair
        How many last dimensions of `x` meet the first of `y` after the common one; or the dimensions of
        each, counted with the common one.
    """
    a, b = _pair(x, y)
    if 0 in (a.type.ndim, b.type.ndim):
        raise OstinatoTypeError(f"batched_tensordot: no common dimension in {describe(a)} and {describe(b)}")
    return _contract(a, b, *_meeting(a, b, axes, batch=1), batch=1)


def _meeting(a: Node, b: Node, axes: Any, batch: int) -> tuple[list[int], list[int]]:
    """The dimensions of each that meet, in pairs."""
    if isinstance(axes, (int, np.integer)):
        if not 0 <= axes <= min(a.type.ndim, b.type.ndim) - batch:
            raise OstinatoValueError(
                f"tensordot: {describe(a)} and {describe(b)} have no {axes} dimensions to sum over"
            )
        return list(range(a.type.ndim - axes, a.type.ndim)), list(range(batch, batch + axes))
    pair = [[p] if isinstance(p, (int, np.integer)) else list(p) for p in axes]
    if len(pair) != 2 or len(pair[0]) != len(pair[1]):
        raise OstinatoValueError(f"tensordot: as many dimensions of each are needed, got axes={axes!r}")
    of_a, of_b = ([normalize_axis(i, n.type.ndim) for i in p] for p, n in zip(pair, (a, b), strict=True))
    for of in (of_a, of_b):
        if len(set(of)) != len(of) or (batch and 0 in of):
            raise OstinatoValueError(f"tensordot: a dimension is named twice, or is the common one: axes={axes!r}")
    return of_a, of_b


def _contract(a: Node, b: Node, of_a: list[int], of_b: list[int], batch: int) -> Any:
    """Sum over pairs of dimensions, by one product of matrices (a stack of them if the first dimension is common)."""
    _check_meeting(a, b, of_a, of_b)
    if len(of_a) > 1:  # merged into one, they could differ while their product does not
        b = specify_shape(b, [sizes(a)[of_a[of_b.index(j)]] if j in of_b else None for j in range(b.type.ndim)])
    free_a, free_b = [[i for i in range(batch, n.type.ndim) if i not in of] for n, of in ((a, of_a), (b, of_b))]
    sizes_a, sizes_b = sizes(a), sizes(b)
    rows, columns = [sizes_a[i] for i in free_a], [sizes_b[i] for i in free_b]
    inner_a, inner_b = product([sizes_a[i] for i in of_a]), product([sizes_b[j] for j in of_b])
    common = list(range(batch))
    left = reshape(transpose(a, common + free_a + of_a), [*sizes_a[:batch], product(rows), inner_a])
    right = reshape(transpose(b, common + of_b + free_b), [*sizes_b[:batch], inner_b, product(columns)])
    result = make(MATMUL, (left, right))
    return reshape(result, [*sizes(result)[:batch], *rows, *columns])


def _check_meeting(a: Node, b: Node, of_a: list[int], of_b: list[int]) -> None:
    for i, j in zip(of_a, of_b, strict=True):
        known = a.type.shape[i], b.type.shape[j]
        if None not in known and known[0] != known[1]:
            raise ShapeError(
                f"tensordot: dimension {i} of {describe(a)} has size {known[0]}, "
                f"but dimension {j} of {describe(b)} has size {known[1]}"
            )


def outer(x: Any, y: Any) -> Any:
    """The matrix of all products of an element of `x` and one of `y`, both flattened to vectors."""
    a, b = _pair(x, y)
    return dimshuffle(flatten(a), 0, "x") * dimshuffle(flatten(b), "x", 0)
