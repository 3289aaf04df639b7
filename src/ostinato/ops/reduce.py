"""Reductions over some dimensions: sum, prod, max, min, any, all, argmax, argmin; and cumulative sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ostinato.errors import OstinatoValueError
from ostinato.graph import Node, make
from ostinato.ops.batch import along_one_axis, over_axes
from ostinato.ops.elementwise import cast, eq
from ostinato.ops.leaf import as_tensor
from ostinato.ops.linear import push_linear
from ostinato.ops.movement import dimshuffle, flatten, normalize_axis
from ostinato.ops.op import OPS, Op, Rule, Sample, register
from ostinato.ops.sizes import broadcast_to, sizes
from ostinato.types import SIGNED, UNSIGNED, TensorType, check_dtype

# What users find in `ostinato.tensor`.
__all__ = [
    "all",
    "any",
    "argmax",
    "argmin",
    "cumsum",
    "max",
    "min",
    "prod",
    "sum",
]

Axis = int | Sequence[int] | None

_A = np.array([[0.5, -1.5, 2.0], [1.25, 0.75, -0.4]])


def normalize_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The dimensions that `axis` means, counted from the front, in order."""
    if axis is None:
        return tuple(range(ndim))
    given = [normalize_axis(a, ndim) for a in ([axis] if isinstance(axis, (int, np.integer)) else axis)]
    if len(set(given)) != len(given):
        raise OstinatoValueError(f"a dimension is named twice: axis={axis}")
    return tuple(sorted(given))


def _kept(values: Sequence[Any], axes: tuple[int, ...]) -> list[Any]:
    return [v for i, v in enumerate(values) if i not in axes]


def restore(reduced: Any, x: Any, axes: tuple[int, ...]) -> Any:
    """A reduced array with its lost dimensions put back as size 1, so that it broadcasts against x."""
    kept = iter(range(x.type.ndim - len(axes)))
    return dimshuffle(reduced, ["x" if i in axes else next(kept) for i in range(x.type.ndim)])


def _reduction(name: str, numpy: Rule, vjp: Rule | None, jvp: Rule | None, result: str | None = None) -> Op:
    def build(axes: tuple[int, ...]) -> Callable[[Node], Any]:
        return lambda x: make(OPS[name], (cast(x, "bool") if result == "bool" else x,), (axes,))

    return register(
        Op(
            name,
            infer=lambda x, *, axes: TensorType(result or x.type.dtype, tuple(_kept(x.type.shape, axes))),
            numpy=numpy,
            vjp=vjp,
            jvp=jvp,
            sizes=lambda x, *, axes: _kept(sizes(x), axes),
            batch=over_axes,
            params=("axes",),
            samples=tuple(Sample(build(a), (_A,)) for a in ((0,), (1,), (0, 1))),
        )
    )


def _extreme_vjp(g: Any, out: Any, x: Any, *, axes: tuple[int, ...]) -> tuple[Any]:
    """The derivative goes to the extreme element; ties share it equally."""
    hit = cast(eq(x, restore(out, x, axes)), g.type.dtype)
    return (hit * restore(g / sum(hit, axes), x, axes),)


def _extreme_jvp(tangents: Sequence[Any], out: Any, x: Any, *, axes: tuple[int, ...]) -> Any:
    hit = cast(eq(x, restore(out, x, axes)), x.type.dtype)
    return sum(hit * tangents[0], axes) / sum(hit, axes)


def _prod_vjp(g: Any, out: Any, x: Any, *, axes: tuple[int, ...]) -> tuple[Any]:
    """Each element's factor is the product of the others: exact at zeros too, at any order."""
    from ostinato.ops.composite import product_of_others

    return (restore(g, x, axes) * product_of_others(x, axes),)


def _prod_jvp(tangents: Sequence[Any], out: Any, x: Any, *, axes: tuple[int, ...]) -> Any:
    from ostinato.ops.composite import product_of_others

    return sum(tangents[0] * product_of_others(x, axes), axes)


SUM = _reduction(
    "sum",
    lambda x, *, axes: np.sum(x, axes, dtype=x.dtype),
    lambda g, out, x, *, axes: (broadcast_to(restore(g, x, axes), sizes(x)),),
    push_linear,
)
PROD = _reduction("prod", lambda x, *, axes: np.prod(x, axes, dtype=x.dtype), _prod_vjp, _prod_jvp)
MAX = _reduction("max", lambda x, *, axes: np.max(x, axes), _extreme_vjp, _extreme_jvp)
MIN = _reduction("min", lambda x, *, axes: np.min(x, axes), _extreme_vjp, _extreme_jvp)
ANY = _reduction("any", lambda x, *, axes: np.any(x, axes), None, None, "bool")
ALL = _reduction("all", lambda x, *, axes: np.all(x, axes), None, None, "bool")


def _reduce(op: Op, x: Any, axis: Axis, keepdims: bool) -> Any:
    node = as_tensor(x)
    axes = normalize_axes(axis, node.type.ndim)
    result = make(op, (node,), (axes,)) if axes else node
    return restore(result, node, axes) if keepdims else result


def accumulator_dtype(dtype: str) -> str:
    """The dtype in which sums and products of a dtype are taken: small integers are widened."""
    if dtype == "bool" or dtype in SIGNED:
        return "int64"
    return "uint64" if dtype in UNSIGNED else dtype


def _accumulate(op: Op, x: Any, axis: Axis, dtype: str | None, keepdims: bool) -> Any:
    node = as_tensor(x)
    wanted = check_dtype(dtype) if dtype else accumulator_dtype(node.type.dtype)
    return _reduce(op, cast(node, wanted), axis, keepdims)


def sum(x: Any, axis: Axis = None, dtype: str | None = None, keepdims: bool = False) -> Any:
    """The sum over some dimensions.

    Parameters
    ----------
    x : array of any dtype
    axis : int, sequence of ints, or None
        The dimensions to sum over: all of them by default, none for an empty sequence.
    dtype : str, optional
        What to sum in, and the dtype of the result. By default that of `x`, but 64 bits for integers and booleans.
    keepdims : bool
        Keep the dimensions, with size 1.

    Raises
    ------
    OstinatoValueError
        If `x` has no such dimension, or one is named twice.
    """
    return _accumulate(SUM, x, axis, dtype, keepdims)


def prod(x: Any, axis: Axis = None, dtype: str | None = None, keepdims: bool = False) -> Any:
    """The product over some dimensions; arguments as in `sum`. Its derivatives are right where elements are zero."""
    return _accumulate(PROD, x, axis, dtype, keepdims)


def max(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """The largest element over `axis` (an int, several, or None for all); NaN if there is one.

    Ties share the derivative equally. The largest of no elements is an error when a function runs.
    """
    return _reduce(MAX, x, axis, keepdims)


def min(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """The smallest element over `axis` (an int, several, or None for all); NaN if there is one.

    Ties share the derivative equally. The smallest of no elements is an error when a function runs.
    """
    return _reduce(MIN, x, axis, keepdims)


def any(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Whether any element over `axis` is true (non-zero)."""
    return _reduce(ANY, cast(as_tensor(x), "bool"), axis, keepdims)


def all(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Whether all elements over `axis` are true (non-zero)."""
    return _reduce(ALL, cast(as_tensor(x), "bool"), axis, keepdims)


# ---- argmax, argmin -------------------------------------------------------------------------------


def _arg_reduction(name: str, numpy: Rule) -> Op:
    return register(
        Op(
            name,
            infer=lambda x, *, axis: TensorType("int64", tuple(_kept(x.type.shape, (axis,)))),
            numpy=lambda x, *, axis: np.asarray(numpy(x, axis), "int64"),
            sizes=lambda x, *, axis: _kept(sizes(x), (axis,)),
            batch=along_one_axis,
            params=("axis",),
            samples=(Sample(lambda x: make(OPS[name], (x,), (1,)), (_A,)),),
        )
    )


ARGMAX = _arg_reduction("argmax", np.argmax)
ARGMIN = _arg_reduction("argmin", np.argmin)


def _arg_reduce(op: Op, x: Any, axis: int | None, keepdims: bool) -> Any:
    node = as_tensor(x)
    if axis is None:
        result = make(op, (flatten(node),), (0,))
        return dimshuffle(result, ["x"] * node.type.ndim) if keepdims else result
    place = normalize_axis(axis, node.type.ndim)
    result = make(op, (node,), (place,))
    return restore(result, node, (place,)) if keepdims else result


def argmax(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """The position of the (first) largest element along `axis`, or in the flattened array; int64."""
    return _arg_reduce(ARGMAX, x, axis, keepdims)


def argmin(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """The position of the (first) smallest element along `axis`, or in the flattened array; int64."""
    return _arg_reduce(ARGMIN, x, axis, keepdims)


# ---- cumulative sum -------------------------------------------------------------------------------


def _cumsum_vjp(g: Any, out: Any, x: Any, *, axis: int) -> tuple[Any]:
    back = (*(slice(None),) * axis, slice(None, None, -1))
    return (make(CUMSUM, (g[back],), (axis,))[back],)


CUMSUM: Op = register(
    Op(
        "cumsum",
        infer=lambda x, *, axis: x.type,
        numpy=lambda x, *, axis: np.cumsum(x, axis, dtype=x.dtype),
        vjp=_cumsum_vjp,
        jvp=push_linear,
        sizes=lambda x, *, axis: sizes(x),
        batch=along_one_axis,
        params=("axis",),
        samples=(Sample(lambda x: make(CUMSUM, (x,), (1,)), (_A,)),),
    )
)


def cumsum(x: Any, axis: int | None = None) -> Any:
    """Running sums along `axis`, or of the flattened array; integers are summed in 64 bits."""
    node = as_tensor(x)
    node = cast(node, accumulator_dtype(node.type.dtype))
    if axis is None:
        return make(CUMSUM, (flatten(node),), (0,))
    return make(CUMSUM, (node,), (normalize_axis(axis, node.type.ndim),))
