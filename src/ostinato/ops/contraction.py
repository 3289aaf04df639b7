"""Products of matrices: one primitive, `matmul`; dot, batched_dot, tensordot and outer are made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ostinato.errors import OstinatoTypeError, ShapeError
from ostinato.graph import Node, make
from ostinato.ops.elementwise import cast
from ostinato.ops.leaf import as_operands, describe
from ostinato.ops.movement import dimshuffle, normalize_axis, reshape, swapaxes, transpose
from ostinato.ops.op import Op, Sample, register
from ostinato.ops.sizes import broadcast_sizes, product, sizes, unbroadcast
from ostinato.types import TensorType, broadcast_static, promote

# What users find in `ostinato.tensor`.
__all__ = [
    "batched_dot",
    "dot",
    "matmul",
    "outer",
    "tensordot",
]

_RNG = np.random.default_rng(7)


def _matmul_infer(x: Node, y: Node) -> TensorType:
    if x.type.dtype != y.type.dtype or min(x.type.ndim, y.type.ndim) < 2:
        raise OstinatoTypeError(f"matmul: expected stacks of matrices of one dtype, got {describe(x)}, {describe(y)}")
    inner = {x.type.shape[-1], y.type.shape[-2]} - {None}
    if len(inner) > 1:
        raise ShapeError(
            f"matrix product: {describe(x)} has {x.type.shape[-1]} columns, "
            f"but {describe(y)} has {y.type.shape[-2]} rows"
        )
    lead = broadcast_static([x.type.shape[:-2], y.type.shape[:-2]])
    return x.type.with_shape((*lead, x.type.shape[-2], y.type.shape[-1]))


def _lead_only(x: Any) -> Any:
    """A stand-in for x with matrices of one element, whose sizes give those of the stack."""
    return x[(..., slice(0, 1), slice(0, 1))]


def _matmul_sizes(x: Node, y: Node) -> list[Any]:
    lead: Sequence[Any] = ()
    if x.type.ndim > 2 or y.type.ndim > 2:
        lead = broadcast_sizes([_lead_only(x), _lead_only(y)])[:-2]
    return [*lead, sizes(x)[-2], sizes(y)[-1]]


def _matmul_vjp(g: Any, out: Node, x: Node, y: Node) -> tuple[Any, Any]:
    gx = make(MATMUL, (g, swapaxes(y, -1, -2)))
    gy = make(MATMUL, (swapaxes(x, -1, -2), g))
    if x.type.ndim == y.type.ndim == 2:
        return gx, gy
    return unbroadcast(gx, x), unbroadcast(gy, y)


MATMUL: Op = register(
    Op(
        "matmul",
        infer=_matmul_infer,
        numpy=np.matmul,
        vjp=_matmul_vjp,
        sizes=_matmul_sizes,
        samples=(
            Sample(lambda x, y: make(MATMUL, (x, y)), (_RNG.normal(size=(2, 3)), _RNG.normal(size=(3, 4)))),
            Sample(lambda x, y: make(MATMUL, (x, y)), (_RNG.normal(size=(2, 2, 3)), _RNG.normal(size=(1, 3, 2)))),
            Sample(lambda x, y: make(MATMUL, (x, y)), (_RNG.normal(size=(2, 0)), _RNG.normal(size=(0, 2)))),
        ),
        doc="Matrix product over the last two dimensions; leading dimensions broadcast.",
    )
)


def _pair(x: Any, y: Any) -> tuple[Any, Any]:
    a, b = as_operands(x, y)
    dtype = promote(a.type.dtype, b.type.dtype)
    dtype = "int8" if dtype == "bool" else dtype
    return cast(a, dtype), cast(b, dtype)


def matmul(x: Any, y: Any) -> Any:
    """`x @ y` as in NumPy: vectors count as a row on the left, a column on the right; stacks broadcast."""
    a, b = _pair(x, y)
    if 0 in (a.type.ndim, b.type.ndim):
        raise OstinatoTypeError(f"matmul: scalars are multiplied with *, got {describe(a)} and {describe(b)}")
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
    """For each index of the common first dimension, the `dot` of the two items (of at most 2 dimensions)."""
    a, b = _pair(x, y)
    if not (1 <= a.type.ndim <= 3 and 1 <= b.type.ndim <= 3):
        raise OstinatoTypeError(f"batched_dot: expected 1 to 3 dimensions, got {describe(a)} and {describe(b)}")
    if 1 in (a.type.ndim, b.type.ndim):
        pad = [a, b]
        ndim = max(a.type.ndim, b.type.ndim)
        pad = [dimshuffle(p, [*range(p.type.ndim), *["x"] * (ndim - p.type.ndim)]) for p in pad]
        return pad[0] * pad[1]
    row, column = a.type.ndim == 2, b.type.ndim == 2
    result = make(MATMUL, (dimshuffle(a, 0, "x", 1) if row else a, dimshuffle(b, 0, 1, "x") if column else b))
    return dimshuffle(result, [0, *([] if row else [1]), *([] if column else [2])])


def tensordot(x: Any, y: Any, axes: int | Sequence[Any] = 2) -> Any:
    """The sum over pairs of dimensions, as in NumPy.

    Parameters
    ----------
    axes : int or pair
        How many last dimensions of `x` meet the first of `y`, or the dimensions of each.
    """
    a, b = _pair(x, y)
    if isinstance(axes, (int, np.integer)):
        of_a, of_b = list(range(a.type.ndim - axes, a.type.ndim)), list(range(axes))
    else:
        of_a, of_b = ([int(p)] if isinstance(p, (int, np.integer)) else list(p) for p in axes)
    of_a = [normalize_axis(i, a.type.ndim) for i in of_a]
    of_b = [normalize_axis(i, b.type.ndim) for i in of_b]
    if len(of_a) != len(of_b):
        raise OstinatoTypeError(f"tensordot: as many axes of each are needed, got {of_a} and {of_b}")
    free_a = [i for i in range(a.type.ndim) if i not in of_a]
    free_b = [i for i in range(b.type.ndim) if i not in of_b]
    size_a, size_b = sizes(a), sizes(b)
    left = reshape(
        transpose(a, free_a + of_a),
        [product([size_a[i] for i in free_a]), product([size_a[i] for i in of_a])],
    )
    right = reshape(
        transpose(b, of_b + free_b),
        [product([size_b[i] for i in of_b]), product([size_b[i] for i in free_b])],
    )
    return reshape(make(MATMUL, (left, right)), [size_a[i] for i in free_a] + [size_b[i] for i in free_b])


def outer(x: Any, y: Any) -> Any:
    """The matrix of all products of an element of `x` and one of `y`, both flattened to vectors."""
    a, b = _pair(x, y)
    if a.type.ndim != 1:
        a = reshape(a, (-1,))
    if b.type.ndim != 1:
        b = reshape(b, (-1,))
    return dimshuffle(a, 0, "x") * dimshuffle(b, "x", 0)
