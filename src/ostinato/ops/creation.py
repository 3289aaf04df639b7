"""Arrays made from sizes: arange, and the composites zeros, ones, full, eye and their like."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ostinato.config import config
from ostinato.errors import OstinatoTypeError, OstinatoValueError
from ostinato.graph import Node, make
from ostinato.ops.elementwise import cast, eq, maximum
from ostinato.ops.leaf import as_int_scalar, as_operands, as_tensor, constant, constant_value, describe, static_int
from ostinato.ops.movement import dimshuffle
from ostinato.ops.op import Op, Sample, register
from ostinato.ops.sizes import SIZE, broadcast_to, sizes, static_shape
from ostinato.types import FLOATS, TensorType, check_dtype, promote

# What users find in `ostinato.tensor`.
__all__ = [
    "alloc",
    "arange",
    "eye",
    "full",
    "full_like",
    "identity_like",
    "ones",
    "ones_like",
    "zeros",
    "zeros_like",
]


def _arange_length(start: Node, stop: Node, step: Node) -> int | None:
    values = [constant_value(v) for v in (start, stop, step)]
    if any(v is None for v in values):
        return None
    return _count(*[v[()] for v in values if v is not None])


def _count(start: Any, stop: Any, step: Any) -> int:
    """How many numbers `np.arange` makes; exact for integers of any size."""
    if step == 0:
        raise OstinatoValueError("arange: the step cannot be 0")
    if start.dtype.kind == "i":
        return len(range(int(start), int(stop), int(step)))
    return max(0, math.ceil((stop - start) / step))


def _arange_numpy(start: Any, stop: Any, step: Any, *, dtype: str) -> Any:
    n = _count(start, stop, step)
    if start.dtype.kind == "i":
        return (start + np.arange(n) * step).astype(dtype)
    return np.arange(start, stop, step, dtype=dtype)


def _arange_sizes(start: Node, stop: Node, step: Node, *, dtype: str) -> list[Any]:
    by = static_int(step) if step.type.dtype == "int64" else None
    if not by:
        return [None]
    first, last = (start, stop) if by > 0 else (stop, start)
    span: Any = last if static_int(first) == 0 else last - first  # type: ignore[operator]
    if span.op is not SIZE:
        span = maximum(span, 0)
    return [span if by in (1, -1) else (span - 1) // abs(by) + 1]


ARANGE: Op = register(
    Op(
        "arange",
        infer=lambda start, stop, step, *, dtype: TensorType(dtype, (_arange_length(start, stop, step),)),
        numpy=_arange_numpy,
        vjp=None,
        sizes=_arange_sizes,
        params=("dtype",),
        samples=(
            Sample(lambda a, b: make(ARANGE, (a, b, constant(2)), ("int64",)), (np.int64(1), np.int64(8))),
            Sample(lambda a, b: make(ARANGE, (a, b, constant(-3)), ("int64",)), (np.int64(8), np.int64(-2))),
            Sample(
                lambda a, b: make(ARANGE, (a, b, constant(0.5)), ("float64",)),
                (np.float64(1), np.float64(3)),
                differentiable=False,
            ),
        ),
        doc="From three scalars of one dtype, int64 or a float.",
    )
)


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: str | None = None) -> Any:
    """Evenly spaced numbers from `start` (0 if only one bound is given) up to, without, `stop`.

    Parameters
    ----------
    start, stop, step : scalars
    dtype : str, optional
        If not given: int64 if all three are integers, else that of the floats among them.

    Returns
    -------
    variable
        A vector of ceil((stop - start) / step) elements, none if that is negative.

    Raises
    ------
    OstinatoTypeError
        If an argument is no scalar.
    OstinatoValueError
        If the step is 0.
    """
    if stop is None:
        start, stop = 0, start
    nodes = as_operands(start, stop, step)
    wrong = [describe(n) for n in nodes if n.type.ndim != 0]
    if wrong:
        raise OstinatoTypeError(f"arange expects scalars, got {', '.join(wrong)}")
    if all(n.type.dtype not in FLOATS for n in nodes):
        own, nodes = "int64", [as_int_scalar(n, "a bound of arange") for n in nodes]
    else:
        own = promote(*[n.type.dtype for n in nodes if n.type.dtype in FLOATS])
    return make(ARANGE, tuple([cast(n, own) for n in nodes]), (check_dtype(dtype) if dtype else own,))


UNSET: Op = register(
    Op(
        "unset",
        infer=lambda *wanted, dtype: TensorType(dtype, static_shape(wanted)),
        numpy=lambda *wanted, dtype: np.zeros([int(n) for n in wanted], dtype),
        vjp=None,
        sizes=lambda *wanted, dtype: wanted,
        params=("dtype",),
        samples=(Sample(lambda n: make(UNSET, (n, constant(3)), ("float64",)), (np.int64(2),), differentiable=False),),
        cheap=True,
        connected=False,
        doc="Zeros that passes give to a loop which overwrites all of them: they need not be written.",
    )
)


def full(shape: Any, value: Any, dtype: str | None = None) -> Any:
    """An array of `shape` (and dtype, that of the value unless given) filled with the scalar `value`."""
    node = as_tensor(value)
    if node.type.ndim != 0:
        raise OstinatoTypeError(f"full expects a scalar, got {describe(node)}")
    return broadcast_to(cast(node, dtype) if dtype else node, shape)


def alloc(value: Any, *shape: Any) -> Any:
    """`value` broadcast to `shape` (sizes one by one, or one tuple), as Theano spells it."""
    return broadcast_to(value, shape[0] if len(shape) == 1 else shape)


def zeros(shape: Any, dtype: str | None = None) -> Any:
    """An array of zeros; dtype `config.floatX` unless given."""
    return broadcast_to(constant(0, check_dtype(dtype or config.floatX)), shape)


def ones(shape: Any, dtype: str | None = None) -> Any:
    """An array of ones; dtype `config.floatX` unless given."""
    return broadcast_to(constant(1, check_dtype(dtype or config.floatX)), shape)


def full_like(x: Any, value: Any, dtype: str | None = None) -> Any:
    """An array of the shape (and dtype, unless given) of `x`, filled with the scalar `value`."""
    node = as_tensor(x)
    return broadcast_to(cast(as_tensor(value), dtype or node.type.dtype), sizes(node))


def zeros_like(x: Any, dtype: str | None = None) -> Any:
    """Zeros in the shape (and dtype, unless given) of `x`."""
    return full_like(x, constant(0, "int8"), dtype)


def ones_like(x: Any, dtype: str | None = None) -> Any:
    """Ones in the shape (and dtype, unless given) of `x`."""
    return full_like(x, constant(1, "int8"), dtype)


def eye(n: Any, m: Any = None, k: Any = 0, dtype: str | None = None) -> Any:
    """An n x m matrix with ones on the k-th diagonal (k > 0: above the main one), zeros elsewhere."""
    rows, columns = arange(n), arange(n if m is None else m)
    on_diagonal = eq(dimshuffle(rows, 0, "x") + as_int_scalar(k, "k"), dimshuffle(columns, "x", 0))
    return cast(on_diagonal, check_dtype(dtype or config.floatX))


def identity_like(x: Any, dtype: str | None = None) -> Any:
    """`eye` of the shape (and dtype, unless given) of the matrix `x`."""
    node = as_tensor(x, ndim=2)
    rows, columns = sizes(node)
    return eye(rows, columns, dtype=dtype or node.type.dtype)
