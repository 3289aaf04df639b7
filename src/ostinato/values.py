"""What comes from outside, arrays and numbers or expressions for them, checked and converted to a variable's type."""

from __future__ import annotations

from typing import Any

import numpy as np

from ostinato.errors import OstinatoTypeError, ShapeError
from ostinato.graph import Node
from ostinato.ops.elementwise import cast
from ostinato.ops.leaf import CONSTANT, as_tensor, constant, describe, is_number
from ostinato.types import DTYPES, FLOATS, TensorType, fits, is_lossless

Array = np.ndarray[Any, Any]

# NumPy takes long to find the dtype of a name.
_NUMPY_DTYPES = {name: np.dtype(name) for name in DTYPES}
# Integers up to here, and their negatives, are numbers of these dtypes.
_EXACT_UP_TO = {"float16": 2**11, "float32": 2**24, "float64": 2**53}
_EXACT_UP_TO |= {name: 2 ** (int(name[3:]) - 1) - 1 for name in DTYPES if name.startswith("int")}
_NATIVE_DTYPES = frozenset(_NUMPY_DTYPES.values())


def convert(
    value: Any,
    type_: TensorType,
    what: str,
    allow_downcast: bool | None = None,
    strict: bool = False,
    fix: str = "",
) -> Array:
    """`value` as an array of the given type; itself where it is one already.

    Parameters
    ----------
    value : array, number, nested list, or anything with `__array__` or `__dlpack__`
    what : how a message names the value.
    allow_downcast : bool or None
        True converts even where that loses precision. None does so for bare Python numbers (and lists of
        them) that become floats, and False never. What is out of range is refused always.
    strict : bool
        Accept only arrays of exactly this dtype.
    fix : what a message about a loss of precision ends with.

    Raises
    ------
    OstinatoTypeError
        With what was expected, what came, and how to mend it.
    """
    if is_ready(value, type_):
        return value
    dtype = type_.dtype
    if type(value) is int and not type_.shape and not strict and abs(value) <= _EXACT_UP_TO.get(dtype, -1):
        return np.array(value, dtype)
    try:
        array = _array_of(value)
    except _NotAnArrayError as problem:
        raise OstinatoTypeError(f"{what}: expected {type_}, got {problem}") from problem.__cause__
    if not _shape_fits(array, type_):
        raise OstinatoTypeError(f"{what}: expected {type_}, got {_shown(value, array)}{_shape_hint(array, type_)}")
    if strict and getattr(value, "dtype", None) != dtype:
        raise OstinatoTypeError(f"{what}: expected an array of exactly {dtype}, got {_shown(value, array)}")
    if array.dtype == _NUMPY_DTYPES[dtype]:
        return array
    converted = _cast(value, array, dtype, allow_downcast, fix)
    if isinstance(converted, str):
        raise OstinatoTypeError(f"{what}: expected {type_}, got {_shown(value, array)}, {converted}")
    return converted


def as_array(value: Any, what: str) -> Array:
    """A value as an array of a supported dtype in the byte order of the machine; not copied where that is possible.

    Parameters
    ----------
    what : the beginning of a message about a value that is none; the value comes next.

    Raises
    ------
    OstinatoTypeError
        If no array can be made of the value, or its dtype is not supported.
    """
    try:
        return _array_of(value)
    except _NotAnArrayError as problem:
        raise OstinatoTypeError(f"{what} {problem}") from problem.__cause__


class _NotAnArrayError(Exception):
    """What came instead of an array, in words that follow 'got'."""


def _array_of(value: Any) -> Array:
    if isinstance(value, Node):
        raise _NotAnArrayError(f"the symbolic variable {value!r}, which has no value; see givens of function")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise _NotAnArrayError("a masked array, whose mask would be lost; fill it first: value.filled(...)")
    try:
        foreign = not hasattr(value, "__array__") and hasattr(value, "__dlpack__")
        array: Array = np.from_dlpack(value) if foreign else np.asarray(value)
    except (ValueError, TypeError, RuntimeError, BufferError, OverflowError) as error:
        kind = type(value).__name__
        raise _NotAnArrayError(f"a value of type {kind} that is no array: {error}") from error
    if array.dtype in _NATIVE_DTYPES:
        return array
    if array.dtype.name not in DTYPES:
        raise _NotAnArrayError(_unsupported(value, array))
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _unsupported(value: Any, array: Array) -> str:
    if type(value) is int:
        return f"{_short(value)}, which no integer dtype holds"
    if array.dtype == object or array.dtype.kind in "US":
        return f"{_short(value)} of type {type(value).__name__}; it is no array of numbers"
    return f"an array of dtype {array.dtype}; there is {', '.join(DTYPES)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _shown(value: Any, array: Array) -> str:
    """A value as a message shows it: a number itself, an array by its dtype and shape."""
    return f"{value!r} of dtype {array.dtype}" if is_number(value) else str(TensorType(array.dtype.name, array.shape))


def is_ready(value: Any, type_: TensorType) -> bool:
    """Whether a value is an array of the type already; what every call asks first, so it is quick."""
    if type(value) is not np.ndarray:
        return False
    dtype = _NUMPY_DTYPES[type_.dtype]
    if value.dtype is not dtype and value.dtype != dtype:
        return False
    return _shape_fits(value, type_)


def _shape_fits(array: Array, type_: TensorType) -> bool:
    shape = type_.shape
    if array.ndim != len(shape):
        return False
    return shape.count(None) == len(shape) or all(s is None or s == n for s, n in zip(shape, array.shape, strict=True))


def _shape_hint(array: Array, type_: TensorType) -> str:
    if array.ndim != type_.ndim:
        return f"; it has {array.ndim} dimension(s) instead of {type_.ndim}"
    wrong = [i for i, (s, n) in enumerate(zip(type_.shape, array.shape, strict=True)) if s not in (None, n)]
    return "; " + ", ".join(f"dimension {i} has size {array.shape[i]} instead of {type_.shape[i]}" for i in wrong)


# ---- expressions ----------------------------------------------------------------------------------


def as_variable(value: Any, what: str) -> Any:
    """`as_tensor`, with an error that begins with `what`."""
    try:
        return as_tensor(value)
    except OstinatoTypeError as error:
        raise OstinatoTypeError(f"{what}: {error}") from None


def fit(value: Any, type_: TensorType, what: str) -> Any:
    """An expression (or a value) as a node of the given type, where nothing can be lost.

    Parameters
    ----------
    what : how a message names the expression.

    Raises
    ------
    OstinatoTypeError
        If the number of dimensions is another one or the dtype would lose precision.
    ShapeError
        If a size is not known to be what the type promises.
    """
    node = as_variable(value, what)
    if node.type.ndim != type_.ndim:
        raise OstinatoTypeError(
            f"{what} has {node.type.ndim} dimension(s) instead of {type_.ndim}: expected {type_}, got {describe(node)}"
        )
    if is_weak(node):
        return constant(convert(node.params[0].array.item(), type_, what))
    if not is_lossless(node.type.dtype, type_.dtype):
        raise OstinatoTypeError(
            f"{what} would lose precision: expected {type_}, got {describe(node)}; "
            f"convert it by .astype({type_.dtype!r})"
        )
    if not fits(node.type.with_dtype(type_.dtype), type_):
        raise ShapeError(f"{what} has another shape: expected {type_}, got {describe(node)}; {_shape_fix(node, type_)}")
    return cast(node, type_.dtype)


def is_weak(node: Node) -> bool:
    """Whether a node is a bare number, which takes the dtype of what it meets."""
    return node.op is CONSTANT and node.params[0].weak


def _shape_fix(node: Node, type_: TensorType) -> str:
    ones = [i for i, (s, n) in enumerate(zip(type_.shape, node.type.shape, strict=True)) if s == 1 and n is None]
    if ones:
        return f"where its size is 1, say so by T.addbroadcast(..., {', '.join(map(str, ones))})"
    return "where its sizes are these, say so by .reshape(...)"


# ---- conversion -----------------------------------------------------------------------------------


def _cast(value: Any, array: Array, dtype: str, allow_downcast: bool | None, fix: str) -> Array | str:
    """The array converted, or in words why that cannot be."""
    with np.errstate(all="ignore"):
        result = array.astype(dtype)
        if is_lossless(array.dtype.name, dtype) or (array.size == 0 and _is_bare(value)):
            return result
        inside = _in_range(array, result)
        if not np.all(inside):
            holds = "" if is_number(value) else f"which holds {array[~inside].flat[0]!s}, "
            return f"{holds}out of the range of {dtype}"
        if array.dtype.kind in "iub" and _is_exact(array, result):
            return result
    rounds = allow_downcast is None and dtype in FLOATS and _is_bare(value)
    lossy = f"which may lose precision as {dtype}; convert it by np.asarray(value).astype({dtype!r}){fix}"
    return result if allow_downcast or rounds else lossy


def _is_bare(value: Any) -> bool:
    """Whether a value has no dtype of its own: a Python number, or a nested list of them."""
    return all(map(_is_bare, value)) if isinstance(value, (list, tuple)) else is_number(value)


def _in_range(array: Array, result: Array) -> Array:
    """Where a number neither becomes infinite nor lies outside the bounds of an integer dtype."""
    if result.dtype.kind == "f":
        return np.asarray(np.isinf(result) <= np.isinf(array))
    if result.dtype.kind == "b":
        return np.ones(array.shape, "bool")
    info = np.iinfo(result.dtype)
    if array.dtype.kind == "f":
        whole = np.trunc(array.astype("float64"))
        return np.asarray((whole >= float(info.min)) & (whole < float(info.max) + 1))
    return np.asarray((array >= info.min) & (array <= info.max))


def _is_exact(array: Array, result: Array) -> bool:
    """Whether converted integers are the same numbers; `result` is in range."""
    if result.dtype.kind == "f":
        # What rounds up to one more than the largest integer cannot be converted back to compare.
        result = np.where(result.astype("float64") < float(np.iinfo(array.dtype).max) + 1, result, 0)
    return bool(np.all(result.astype(array.dtype) == array))
