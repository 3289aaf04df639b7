"""Values from outside: arrays and numbers checked and converted to the type of a variable."""

from __future__ import annotations

from typing import Any

import numpy as np

from ostinato.config import config
from ostinato.errors import OstinatoTypeError
from ostinato.graph import Node
from ostinato.ops.leaf import is_number
from ostinato.types import DTYPES, FLOATS, TensorType, is_lossless


def convert(value: Any, type_: TensorType, what: str, allow_downcast: bool | None = None) -> np.ndarray[Any, Any]:
    """`value` as an array of the given type; itself where it is one already.

    Parameters
    ----------
    value : array, number, nested list, or anything with `__array__` or `__dlpack__`
    what : how a message names the value.
    allow_downcast : bool or None
        True converts even where that loses precision. None does so for bare Python floats only, and
        False never. Integers out of range are refused always.

    Raises
    ------
    OstinatoTypeError
        With what was expected, what came, and how to mend it.
    """
    if type(value) is np.ndarray and value.dtype.name == type_.dtype and _shape_fits(value, type_):
        return value
    array = _as_array(value, what)
    if not _shape_fits(array, type_):
        raise OstinatoTypeError(f"{what}: expected {type_}, got an array of shape {array.shape}")
    if array.dtype.name == type_.dtype:
        return array
    return _cast(value, array, type_.dtype, what, allow_downcast)


def _as_array(value: Any, what: str) -> np.ndarray[Any, Any]:
    if isinstance(value, Node):
        raise OstinatoTypeError(f"{what}: expected a value, got the symbolic variable {value!r}; see givens")
    if not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise OstinatoTypeError(f"{what}: cannot make an array of it: {error}") from None
    if array.dtype.name not in DTYPES:
        raise OstinatoTypeError(f"{what}: cannot compute with dtype {array.dtype}")
    return array


def _shape_fits(array: np.ndarray[Any, Any], type_: TensorType) -> bool:
    return array.ndim == type_.ndim and all(s is None or s == n for s, n in zip(type_.shape, array.shape, strict=True))


def _cast(
    value: Any, array: np.ndarray[Any, Any], dtype: str, what: str, allow_downcast: bool | None
) -> np.ndarray[Any, Any]:
    own = array.dtype.name
    bare = not isinstance(value, (np.ndarray, np.generic)) and not hasattr(value, "__array__")
    if array.dtype.kind in "iub" and dtype not in FLOATS and dtype != "bool":
        return _fit_integers(array, dtype, what)
    fine = is_lossless(own, dtype) or allow_downcast
    fine = fine or (array.dtype.kind in "iu" and dtype in FLOATS and _exact(array, dtype))
    fine = fine or (
        bare and array.dtype.kind == "f" and dtype in FLOATS and allow_downcast is None and _may_round(value, dtype)
    )
    if not fine or (dtype == "bool" and not allow_downcast):
        raise OstinatoTypeError(
            f"{what}: expected {dtype}, got {own}, which would lose precision; "
            f"pass value.astype({dtype!r}) or set allow_input_downcast=True"
        )
    return array.astype(dtype)


def _may_round(value: Any, dtype: str) -> bool:
    """Bare Python floats (and lists of them) are rounded to `config.floatX`, and to what is wider."""
    return is_number(value) or is_lossless(config.floatX, dtype)


def _exact(array: np.ndarray[Any, Any], dtype: str) -> bool:
    with np.errstate(all="ignore"):
        return bool(np.all(array.astype(dtype).astype(array.dtype) == array))


def _fit_integers(array: np.ndarray[Any, Any], dtype: str, what: str) -> np.ndarray[Any, Any]:
    info = np.iinfo(dtype)
    if array.size and (array.min() < info.min or array.max() > info.max):
        raise OstinatoTypeError(f"{what}: {array.max()} or {array.min()} does not fit into {dtype}")
    return array.astype(dtype)
