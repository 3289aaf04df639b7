"""Functions that other ops express: no rules of their own, so their derivatives come by themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ostinato.errors import OstinatoTypeError
from ostinato.ops import elementwise as e
from ostinato.ops.control import zero_grad
from ostinato.ops.creation import arange, zeros
from ostinato.ops.indexing import set_subtensor
from ostinato.ops.leaf import as_operands, as_tensor, constant, describe, new_input
from ostinato.ops.loop import Body, LoopInputs, build_loop
from ostinato.ops.movement import concatenate, dimshuffle, expand_dims, normalize_axis, reshape, transpose
from ostinato.ops.reduce import Axis, _axes
from ostinato.ops.reduce import max as max_
from ostinato.ops.reduce import min as min_
from ostinato.ops.reduce import sum as sum_
from ostinato.ops.sizes import as_size_node, broadcast_to, product, read_sizes, sizes
from ostinato.types import FLOATS, TensorType

# What users find in `ostinato.tensor`.
__all__ = [
    "binary_crossentropy",
    "categorical_crossentropy",
    "clip",
    "cumprod",
    "deg2rad",
    "diag",
    "elu",
    "flip",
    "hard_sigmoid",
    "inv",
    "isclose",
    "log_softmax",
    "logsumexp",
    "logical_and",
    "logical_or",
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
    return e.where(e.gt(x, 0), x, alpha * e.expm1(e.minimum(x, 0)))


def hard_sigmoid(x: Any) -> Any:
    """0.2 x + 0.5, limited to the range from 0 to 1."""
    return clip(e.add(e.mul(x, 0.2), 0.5), 0, 1)


def isclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8) -> Any:
    """Whether |a - b| <= atol + rtol |b|, elementwise."""
    return e.le(e.abs(e.sub(a, b)), atol + rtol * e.abs(b))


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


def mean(x: Any, axis: Axis = None, dtype: str | None = None, keepdims: bool = False) -> Any:
    """The mean over `axis`; integers are averaged as `config.floatX`. NaN over nothing."""
    node = e.cast(as_tensor(x), dtype) if dtype else _as_float(x)
    axes = _axes(axis, node.type.ndim)
    return sum_(node, axis=axes, keepdims=keepdims) / e.cast(as_size_node(_count(node, axes)), node.type.dtype)


def var(x: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """The variance over `axis`, dividing by the count less `ddof`."""
    node = _as_float(x)
    axes = _axes(axis, node.type.ndim)
    deviation = node - mean(node, axis=axes, keepdims=True)
    count = e.cast(as_size_node(_count(node, axes)) - ddof, node.type.dtype)
    return sum_(sqr(deviation), axis=axes, keepdims=keepdims) / count


def std(x: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """The standard deviation over `axis`."""
    return e.sqrt(var(x, axis, ddof, keepdims))


def norm(x: Any, ord: Any = 2, axis: Axis = None, keepdims: bool = False) -> Any:
    """The vector norm of order `ord` (a number, or inf) over `axis`."""
    size = e.abs(_as_float(x))
    if ord in (None, 2, "fro"):
        return e.sqrt(sum_(sqr(size), axis=axis, keepdims=keepdims))
    if ord in (math.inf, -math.inf):
        return (max_ if ord > 0 else min_)(size, axis=axis, keepdims=keepdims)
    if ord == 0:
        return sum_(e.cast(e.neq(size, 0), size.type.dtype), axis=axis, keepdims=keepdims)
    return sum_(size**ord, axis=axis, keepdims=keepdims) ** (1.0 / ord)


def ptp(x: Any, axis: Axis = None) -> Any:
    """The largest less the smallest element over `axis`."""
    return max_(x, axis=axis) - min_(x, axis=axis)


def logsumexp(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """log(sum(exp(x))) over `axis` without overflow; -inf over elements that are all -inf."""
    node = _as_float(x)
    axes = _axes(axis, node.type.ndim)
    peak = _peak(node, axes)
    total = e.log(sum_(e.exp(node - peak), axis=axes, keepdims=True)) + peak
    return total if keepdims else dimshuffle(total, [i for i in range(node.type.ndim) if i not in axes])


def _peak(x: Any, axes: Sequence[int]) -> Any:
    """The maximum, or 0 where it is infinite: what to shift by before exp. The result does not depend on it."""
    peak = zero_grad(max_(x, axis=axes, keepdims=True))
    return e.where(e.isinf(peak), 0, peak)


def softmax(x: Any, axis: int = -1) -> Any:
    """exp(x) scaled to a sum of 1 along `axis`."""
    node = _as_float(x)
    axes = (normalize_axis(axis, node.type.ndim),)
    weights = e.exp(node - _peak(node, axes))
    return weights / sum_(weights, axis=axes, keepdims=True)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """log(softmax(x)) along `axis` without underflow."""
    node = _as_float(x)
    axes = (normalize_axis(axis, node.type.ndim),)
    shifted = node - _peak(node, axes)
    return shifted - e.log(sum_(e.exp(shifted), axis=axes, keepdims=True))


def categorical_crossentropy(predicted: Any, true: Any) -> Any:
    """-sum(true * log(predicted)) per row; `true` holds distributions, or the index of the right class."""
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
    """Running products along `axis`, or of the flattened array."""
    node = as_tensor(x)
    if axis is None:
        return running_product(reshape(node, (-1,)))
    place = normalize_axis(axis, node.type.ndim)
    order = [place, *[i for i in range(node.type.ndim) if i != place]]
    return transpose(running_product(transpose(node, order)), [order.index(i) for i in range(node.type.ndim)])


# ---- arrangement ----------------------------------------------------------------------------------


def stack(tensors: Sequence[Any], axis: int = 0) -> Any:
    """Arrays of one shape joined along a new dimension."""
    if not isinstance(tensors, (list, tuple)) or not tensors:
        raise OstinatoTypeError("stack expects a non-empty list or tuple of arrays")
    nodes = as_operands(*tensors)
    ranks = {n.type.ndim for n in nodes}
    if len(ranks) > 1:
        raise OstinatoTypeError("stack expects arrays of one rank, got " + ", ".join(map(describe, nodes)))
    return concatenate([expand_dims(n, axis) for n in nodes], normalize_axis(axis, nodes[0].type.ndim + 1))


def repeat(x: Any, repeats: Any, axis: int | None = None) -> Any:
    """Each element `repeats` times (an int or integer scalar) along `axis`, or of the flattened array."""
    node = as_tensor(x)
    if axis is None:
        node, axis = reshape(node, (-1,)), 0
    place = normalize_axis(axis, node.type.ndim)
    own, (times,) = list(sizes(node)), read_sizes(repeats, "repeats")
    wide = broadcast_to(expand_dims(node, place + 1), [*own[: place + 1], times, *own[place + 1 :]])
    return reshape(wide, [*own[:place], product([own[place], times]), *own[place + 1 :]])


def tile(x: Any, reps: Any, ndim: int | None = None) -> Any:
    """`x` repeated as a whole, `reps` times per dimension."""
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
        return reshape(roll(reshape(node, (-1,)), shift, 0), sizes(node))
    place = normalize_axis(axis, node.type.ndim)
    n = as_size_node(sizes(node)[place])
    return node[(*(slice(None),) * place, (arange(n) - shift) % e.maximum(n, 1))]


def flip(x: Any, axis: int | None = None) -> Any:
    """`x` with the order along `axis` (or all dimensions) reversed."""
    node = as_tensor(x)
    axes = range(node.type.ndim) if axis is None else [normalize_axis(axis, node.type.ndim)]
    return node[tuple(slice(None, None, -1) if i in axes else slice(None) for i in range(node.type.ndim))]


def diag(x: Any, k: int = 0) -> Any:
    """The k-th diagonal of a matrix as a vector; or the matrix that has a vector on its k-th diagonal."""
    node = as_tensor(x)
    if node.type.ndim == 1:
        n: Any = sizes(node)[0]
        side = n + max(k, -k)
        empty = zeros((side, side), node.type.dtype)
        i = arange(n)
        return set_subtensor(empty[i + max(-k, 0), i + max(k, 0)], node)
    if node.type.ndim != 2:
        raise OstinatoTypeError(f"diag expects a vector or a matrix, got {describe(node)}")
    rows, columns = [as_size_node(s) for s in sizes(node)]
    n = e.maximum(e.minimum(rows - max(-k, 0), columns - max(k, 0)), 0)
    i = arange(as_size_node(n))
    return node[i + max(-k, 0), i + max(k, 0)]


def trace(x: Any) -> Any:
    """The sum of the main diagonal of a matrix."""
    return sum_(diag(as_tensor(x, ndim=2)))


def tril(x: Any, k: int = 0) -> Any:
    """The matrix `x` with zeros above its k-th diagonal."""
    return _triangle(x, lambda row, column: e.le(column, row + k))


def triu(x: Any, k: int = 0) -> Any:
    """The matrix `x` with zeros below its k-th diagonal."""
    return _triangle(x, lambda row, column: e.ge(column, row + k))


def _triangle(x: Any, keep: Any) -> Any:
    node = as_tensor(x, ndim=2)
    rows, columns = sizes(node)
    mask = keep(dimshuffle(arange(rows), 0, "x"), dimshuffle(arange(columns), "x", 0))
    return e.where(mask, node, constant(0, node.type.dtype))


def to_one_hot(y: Any, n_classes: Any, dtype: str | None = None) -> Any:
    """A matrix with one row per element of the integer vector `y` and a 1 in the column it names."""
    classes = arange(read_sizes(n_classes, "n_classes")[0])
    return e.cast(e.eq(dimshuffle(as_tensor(y, ndim=1), 0, "x"), dimshuffle(classes, "x", 0)), dtype or "floatX")
