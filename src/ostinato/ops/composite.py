"""Functions that other ops express: no rules of their own, so their derivatives come by themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ostinato.errors import OstinatoTypeError, OstinatoValueError
from ostinato.ops import elementwise as e
from ostinato.ops.creation import arange, zeros
from ostinato.ops.indexing import inc_subtensor, set_subtensor, take
from ostinato.ops.leaf import as_int_scalar, as_operands, as_tensor, constant, describe, need_dtype, new_input
from ostinato.ops.logspace import finite_peak, log_sum_exp, logarithm_of_product
from ostinato.ops.loop import Body, LoopInputs, build_loop
from ostinato.ops.movement import concatenate, dimshuffle, expand_dims, flatten, normalize_axis, reshape, transpose
from ostinato.ops.reduce import Axis, accumulator_dtype, cumsum, normalize_axes
from ostinato.ops.reduce import all as all_
from ostinato.ops.reduce import max as max_
from ostinato.ops.reduce import min as min_
from ostinato.ops.reduce import sum as sum_
from ostinato.ops.sizes import as_size_node, broadcast_to, product, read_sizes, sizes
from ostinato.types import FLOATS, INTEGERS, TensorType

# What users find in `ostinato.tensor`.
__all__ = [
    "allclose",
    "binary_crossentropy",
    "categorical_crossentropy",
    "clip",
    "cumprod",
    "deg2rad",
    "diag",
    "elu",
    "flip",
    "hard_sigmoid",
    "horizontal_stack",
    "inv",
    "isclose",
    "log_softmax",
    "logical_and",
    "logical_or",
    "logsumexp",
    "mean",
    "norm",
    "ptp",
    "rad2deg",
    "relu",
    "repeat",
    "roll",
    "softmax",
    "softplus",
    "sqr",
    "stack",
    "std",
    "tile",
    "to_one_hot",
    "trace",
    "tril",
    "triu",
    "var",
    "vertical_stack",
]

# ---- elementwise ----------------------------------------------------------------------------------


def logical_and(x: Any, y: Any) -> Any:
    """Whether both are true (non-zero), as booleans."""
    return e.and_(e.cast(x, "bool"), e.cast(y, "bool"))


def logical_or(x: Any, y: Any) -> Any:
    """Whether at least one is true (non-zero), as booleans."""
    return e.or_(e.cast(x, "bool"), e.cast(y, "bool"))


def sqr(x: Any) -> Any:
    """`x * x`."""
    node = as_tensor(x)
    return e.mul(node, node)


def inv(x: Any) -> Any:
    """`1 / x`, elementwise."""
    return e.true_div(1, x)


def clip(x: Any, low: Any, high: Any) -> Any:
    """`x` limited to the range from `low` to `high`; NaN stays. On a bound the derivative is 1."""
    return e.where(e.lt(x, low), low, e.where(e.gt(x, high), high, x))


def softplus(x: Any) -> Any:
    """log(1 + exp(x)) without overflow."""
    return e.logaddexp(x, 0)


def relu(x: Any, alpha: Any = 0) -> Any:
    """`x` where it is positive, else `alpha * x`; at 0 the derivative is the mean of both sides."""
    return e.maximum(x, 0) + e.minimum(x, 0) * alpha if _nonzero(alpha) else e.maximum(x, 0)


def _nonzero(alpha: Any) -> bool:
    return not isinstance(alpha, (int, float)) or alpha != 0


def elu(x: Any, alpha: Any = 1) -> Any:
    """`x` where it is positive, else `alpha * (exp(x) - 1)`."""
    positive = e.gt(x, 0)
    return e.where(positive, x, e.mul(alpha, e.expm1(e.where(positive, 0, x))))


def hard_sigmoid(x: Any) -> Any:
    """0.2 x + 0.5, limited to the range from 0 to 1."""
    return clip(e.add(e.mul(x, 0.2), 0.5), 0, 1)


def isclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    """Whether |a - b| <= atol + rtol |b|, elementwise; infinities are close to themselves alone.

    Parameters
    ----------
    equal_nan : whether two NaN are close.
    """
    x, y = map(_as_float, as_operands(a, b))
    near = e.and_(e.le(e.abs(x - y), atol + rtol * e.abs(y)), e.logical_not(e.isinf(y)))
    close = e.or_(near, e.eq(x, y))
    return e.or_(close, e.and_(e.isnan(x), e.isnan(y))) if equal_nan else close


def allclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    """Whether `isclose` holds for all elements, as a boolean scalar."""
    return all_(isclose(a, b, rtol, atol, equal_nan))


def deg2rad(x: Any) -> Any:
    """Degrees as radians."""
    return e.mul(x, math.pi / 180)


def rad2deg(x: Any) -> Any:
    """Radians as degrees."""
    return e.mul(x, 180 / math.pi)


# ---- statistics -----------------------------------------------------------------------------------


def _count(x: Any, axes: Sequence[int]) -> Any:
    own = sizes(x)
    return product([own[a] for a in axes])


def _as_float(x: Any) -> Any:
    node = as_tensor(x)
    return node if node.type.dtype in FLOATS else e.cast(node, "floatX")


def _wide(x: Any) -> Any:
    """Sums and products of many float16 would soon overflow: they are taken in float32."""
    return e.cast(x, "float32") if x.type.dtype == "float16" else x


def mean(x: Any, axis: Axis = None, dtype: str | None = None, keepdims: bool = False) -> Any:
    """The mean over `axis`; integers are averaged as `config.floatX`. NaN over nothing.

    Parameters
    ----------
    dtype : dtype in which to add up and of the result; a float.
    """
    node = _as_float(e.cast(x, dtype) if dtype else x)
    axes, wide = normalize_axes(axis, node.type.ndim), _wide(node)
    total = sum_(wide, axis=axes, keepdims=keepdims)
    return e.cast(total / e.cast(as_size_node(_count(node, axes)), wide.type.dtype), node.type.dtype)


def var(x: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """The variance over `axis`, dividing by the count less `ddof`."""
    node = _as_float(x)
    axes, wide = normalize_axes(axis, node.type.ndim), _wide(node)
    deviation = wide - mean(wide, axis=axes, keepdims=True)
    count = e.cast(as_size_node(_count(node, axes)) - ddof, wide.type.dtype)
    return e.cast(sum_(sqr(deviation), axis=axes, keepdims=keepdims) / count, node.type.dtype)


def std(x: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """The standard deviation over `axis`, dividing by the count less `ddof`."""
    return e.sqrt(var(x, axis, ddof, keepdims))


def norm(x: Any, ord: float | None = 2, axis: Axis = None, keepdims: bool = False) -> Any:
    """The vector norm over `axis`, of all elements if that is not given (of a matrix: the Frobenius norm).

    Parameters
    ----------
    ord : number, inf or -inf
        The order; None is 2. Order 0 counts what is not zero.
    """
    if isinstance(ord, str):
        raise OstinatoValueError(f"norm: the order is a number, not {ord!r}")
    size = e.abs(_as_float(x))
    if ord is None or ord == 2:
        return e.sqrt(sum_(sqr(size), axis=axis, keepdims=keepdims))
    if ord in (math.inf, -math.inf):
        return (max_ if ord > 0 else min_)(size, axis=axis, keepdims=keepdims)
    if ord == 0:
        return sum_(e.cast(e.neq(size, 0), size.type.dtype), axis=axis, keepdims=keepdims)
    if ord == 1:
        return sum_(size, axis=axis, keepdims=keepdims)
    return sum_(size**ord, axis=axis, keepdims=keepdims) ** (1.0 / ord)


def ptp(x: Any, axis: Axis = None) -> Any:
    """The largest less the smallest element over `axis`."""
    return max_(x, axis=axis) - min_(x, axis=axis)


def logsumexp(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """log(sum(exp(x))) over `axis` without overflow.

    Over elements that are all -inf it is -inf, and its derivative 0.
    """
    node = _as_float(x)
    axes = normalize_axes(axis, node.type.ndim)
    result = logarithm_of_product(node, axes)
    if result is None:
        result = log_sum_exp(node, axes)
    return result if keepdims else dimshuffle(result, [i for i in range(node.type.ndim) if i not in axes])


def softmax(x: Any, axis: int = -1) -> Any:
    """exp(x) scaled to a sum of 1 along `axis`."""
    node = _as_float(x)
    axes = (normalize_axis(axis, node.type.ndim),)
    weights = e.exp(node - finite_peak(node, axes))
    return weights / sum_(weights, axis=axes, keepdims=True)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """log(softmax(x)) along `axis` without underflow."""
    node = _as_float(x)
    axes = (normalize_axis(axis, node.type.ndim),)
    shifted = node - finite_peak(node, axes)
    return shifted - e.log(sum_(e.exp(shifted), axis=axes, keepdims=True))


def categorical_crossentropy(predicted: Any, true: Any) -> Any:
    """-sum(true * log(predicted)) per row.

    Parameters
    ----------
    predicted : matrix of floats
        A distribution per row.
    true : matrix, or vector of integers
        A distribution per row, or the index of the right class.
    """
    p, q = as_tensor(predicted, ndim=2), as_tensor(true)
    if q.type.ndim == 1:
        return -e.log(p[arange(sizes(q)[0]), q])
    return -sum_(q * e.log(p), axis=1)


def binary_crossentropy(predicted: Any, true: Any) -> Any:
    """-(true log(predicted) + (1 - true) log(1 - predicted)), elementwise."""
    p, q = as_operands(predicted, true)
    return -(q * e.log(p) + (1 - q) * e.log1p(-p))


# ---- products whose derivative is right at zero ---------------------------------------------------


def running_product(x: Any, include_self: bool = True) -> Any:
    """Products of the rows of `x` up to each row, with or without that row: a Loop."""
    row = as_tensor(x).type.with_shape(as_tensor(x).type.shape[1:])
    t, x_t, p = new_input(TensorType("int64", ()), "t"), new_input(row, "x[t]"), new_input(row, "product")
    after = p * x_t
    first = broadcast_to(constant(1, row.dtype), sizes(x)[1:])
    body = Body(t, (x_t,), (p,), (), (after,), (after if include_self else p,), None)
    return build_loop(body, LoopInputs(as_size_node(sizes(x)[0]), (x,), (first,), ()), name="cumprod").outputs[0]


def product_of_others(x: Any, axes: Sequence[int]) -> Any:
    """For each element the product of all other elements along `axes`; exact where elements are zero."""
    node = as_tensor(x)
    rest = [i for i in range(node.type.ndim) if i not in axes]
    moved = transpose(node, [*axes, *rest])
    own = sizes(moved)
    rows = reshape(moved, [product(own[: len(axes)]), *own[len(axes) :]])
    others = running_product(rows, False) * running_product(rows[::-1], False)[::-1]
    back = [[*axes, *rest].index(i) for i in range(node.type.ndim)]
    return transpose(reshape(others, own), back)


def cumprod(x: Any, axis: int | None = None) -> Any:
    """Running products along `axis`, or of the flattened array; integers are multiplied in 64 bits."""
    node = as_tensor(x)
    node = e.cast(node, accumulator_dtype(node.type.dtype))
    if axis is None:
        return running_product(flatten(node))
    place = normalize_axis(axis, node.type.ndim)
    order = [place, *[i for i in range(node.type.ndim) if i != place]]
    return transpose(running_product(transpose(node, order)), [order.index(i) for i in range(node.type.ndim)])


# ---- arrangement ----------------------------------------------------------------------------------


def stack(tensors: Sequence[Any], axis: int = 0) -> Any:
    """Arrays of one shape joined along a new dimension.

    Parameters
    ----------
    tensors : non-empty list or tuple of arrays, whose dtypes are promoted
    axis : int
        The place of the new dimension in the result.
    """
    if not isinstance(tensors, (list, tuple)) or not tensors:
        raise OstinatoTypeError("stack expects a non-empty list or tuple of arrays")
    nodes = as_operands(*tensors)
    ranks = {n.type.ndim for n in nodes}
    if len(ranks) > 1:
        raise OstinatoTypeError("stack expects arrays of one rank, got " + ", ".join(map(describe, nodes)))
    return concatenate([expand_dims(n, axis) for n in nodes], normalize_axis(axis, nodes[0].type.ndim + 1))


def horizontal_stack(*matrices: Any) -> Any:
    """Matrices side by side."""
    return concatenate([as_tensor(m, ndim=2) for m in matrices], axis=1)


def vertical_stack(*matrices: Any) -> Any:
    """Matrices one below the other."""
    return concatenate([as_tensor(m, ndim=2) for m in matrices], axis=0)


def repeat(x: Any, repeats: Any, axis: int | None = None) -> Any:
    """Each element repeated along `axis`, or each of the flattened array.

    Parameters
    ----------
    repeats : int, integer scalar, or integer vector with one count per element
    """
    node = as_tensor(x)
    if axis is None:
        node, axis = flatten(node), 0
    place = normalize_axis(axis, node.type.ndim)
    times = as_tensor(repeats)
    if times.type.ndim == 1:
        return take(node, _repeated_positions(times, sizes(node)[place]), place)
    own, count = list(sizes(node)), read_sizes(times, "repeats")[0]
    wide = broadcast_to(expand_dims(node, place + 1), [*own[: place + 1], count, *own[place + 1 :]])
    return reshape(wide, [*own[:place], product([own[place], count]), *own[place + 1 :]])


def _repeated_positions(times: Any, length: Any) -> Any:
    """0 as often as the first count says, then 1, and so on: how many elements have ended before each place."""
    need_dtype(times, INTEGERS, "repeats")
    counts = e.cast(broadcast_to(times, [length]), "int64")
    ended = zeros((sum_(counts) + 1,), "int64")
    return cumsum(inc_subtensor(ended[cumsum(counts)], 1)[:-1])


def tile(x: Any, reps: Any, ndim: int | None = None) -> Any:
    """`x` repeated as a whole.

    Parameters
    ----------
    reps : int, integer scalar, or sequence of these
        How often along each dimension, counted from the last; new dimensions come in front.
    ndim : int, optional
        The least number of dimensions of the result.
    """
    node, times = as_tensor(x), read_sizes(reps, "reps")
    rank = max(node.type.ndim, len(times), ndim or 0)
    times = [*[1] * (rank - len(times)), *times]
    node = dimshuffle(node, ["x"] * (rank - node.type.ndim) + list(range(node.type.ndim)))
    own = list(sizes(node))
    spread = dimshuffle(node, [o for i in range(rank) for o in ("x", i)])
    wide = broadcast_to(spread, [s for pair in zip(times, own, strict=True) for s in pair])
    return reshape(wide, [product(pair) for pair in zip(times, own, strict=True)])


def roll(x: Any, shift: Any, axis: int | None = None) -> Any:
    """`x` moved by `shift` places along `axis` (or flattened); what leaves one end enters at the other."""
    node = as_tensor(x)
    if axis is None:
        return reshape(roll(flatten(node), shift, 0), sizes(node))
    place = normalize_axis(axis, node.type.ndim)
    n = as_size_node(sizes(node)[place])
    return take(node, (arange(n) - as_int_scalar(shift, "shift")) % e.maximum(n, 1), place)


def flip(x: Any, axis: Axis = None) -> Any:
    """`x` with the order along `axis` (an int, several, or None for all) reversed."""
    node = as_tensor(x)
    axes = normalize_axes(axis, node.type.ndim)
    return node[tuple(slice(None, None, -1) if i in axes else slice(None) for i in range(node.type.ndim))]


def diag(x: Any, k: int = 0) -> Any:
    """The k-th diagonal of a matrix as a vector; or the matrix that has a vector on its k-th diagonal."""
    node = as_tensor(x)
    if node.type.ndim not in (1, 2):
        raise OstinatoTypeError(f"diag expects a vector or a matrix, got {describe(node)}")
    below, right = max(-k, 0), max(k, 0)
    if node.type.ndim == 2:
        rows, columns = sizes(node)
        i = arange(_diagonal_length(rows, columns, below, right))
        return node[i + below, i + right]
    n: Any = sizes(node)[0]
    i, side = arange(n), n + below + right
    return set_subtensor(zeros((side, side), node.type.dtype)[i + below, i + right], node)


def _diagonal_length(rows: Any, columns: Any, below: int, right: int) -> Any:
    """The length of the diagonal that starts so far below, and to the right of, the first element."""
    if isinstance(rows, int) and isinstance(columns, int):
        return max(min(rows - below, columns - right), 0)
    return e.maximum(e.minimum(rows - below, columns - right), 0)


def trace(x: Any) -> Any:
    """The sum of the main diagonal of a matrix."""
    return sum_(diag(as_tensor(x, ndim=2)))


def tril(x: Any, k: int = 0) -> Any:
    """The matrix `x` (or each of a stack) with zeros above its k-th diagonal."""
    return _triangle(x, lambda row, column: e.le(column, row + k))


def triu(x: Any, k: int = 0) -> Any:
    """The matrix `x` (or each of a stack) with zeros below its k-th diagonal."""
    return _triangle(x, lambda row, column: e.ge(column, row + k))


def _triangle(x: Any, keep: Any) -> Any:
    node = as_tensor(x)
    if node.type.ndim < 2:
        raise OstinatoTypeError(f"tril and triu expect a matrix, got {describe(node)}")
    rows, columns = sizes(node)[-2:]
    mask = keep(dimshuffle(arange(rows), 0, "x"), dimshuffle(arange(columns), "x", 0))
    return e.where(mask, node, constant(0, node.type.dtype))


def to_one_hot(y: Any, nb_class: Any, dtype: str | None = None) -> Any:
    """A matrix with one row per element of the integer vector `y` and a 1 in the column it names.

    Parameters
    ----------
    nb_class : int or integer scalar
        The number of columns. A row is zero where `y` names none of them.
    dtype : dtype of the matrix; `config.floatX` unless given.
    """
    classes = arange(read_sizes(nb_class, "nb_class")[0])
    labels = as_tensor(y, ndim=1)
    need_dtype(labels, INTEGERS, "to_one_hot")
    return e.cast(e.eq(dimshuffle(labels, 0, "x"), dimshuffle(classes, "x", 0)), dtype or "floatX")
