"""Types of graph values: dtypes, `TensorType`, `TupleType`, promotion and static broadcasting.

A size in a type is an `int` where it is known when the graph is built, else None. What a size is at
run time, as an expression of the sizes of the inputs, is said by `ostinato.ops.sizes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ostinato.errors import OstinatoTypeError, ShapeError

FLOATS = ("float16", "float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
INTEGERS = SIGNED + UNSIGNED
DTYPES = ("bool", *INTEGERS, *FLOATS)

# How many consecutive integers from zero a floating dtype represents exactly, in bits.
_EXACT_BITS = {"float16": 11, "float32": 24, "float64": 53}


@dataclass(frozen=True)
class TensorType:
    """The type of an array: its dtype and its static shape.

    Parameters
    ----------
    dtype : str
        One of `DTYPES`.
    shape : tuple of int, None or bool
        One entry per dimension: the size where it is known, else None. Booleans are read as Theano's
        broadcast pattern: True is a size of 1, False an unknown size.

    Raises
    ------
    OstinatoTypeError
        If the dtype is not known or a size is negative.
    """

    dtype: str
    shape: tuple[int | None, ...]

    def __post_init__(self) -> None:
        dtype = check_dtype(self.dtype)
        if dtype is not self.dtype:
            object.__setattr__(self, "dtype", dtype)
        if self.shape == ():
            return
        shape = tuple((1 if s else None) if isinstance(s, bool) else s for s in self.shape)
        if any(s is not None and s < 0 for s in shape):
            raise OstinatoTypeError(f"a size cannot be negative, but the shape is {shape}")
        object.__setattr__(self, "shape", shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def broadcastable(self) -> tuple[bool, ...]:
        """Theano's broadcast pattern: which dimensions are known to have size 1."""
        return tuple(s == 1 for s in self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    def with_shape(self, shape: Iterable[int | None]) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: str) -> TensorType:
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        sizes = ", ".join("?" if s is None else str(s) for s in self.shape)
        return f"{self.dtype}[{sizes}]" if self.shape else self.dtype

    def __call__(self, name: str | None = None) -> Any:
        """A new input variable of this type, named `name`."""
        from ostinato.ops.leaf import new_input

        return new_input(self, name)


@dataclass(frozen=True)
class TupleType:
    """The type of an op with several results; `item` nodes take them apart."""

    items: tuple[TensorType, ...]

    def __str__(self) -> str:
        return "(" + ", ".join(map(str, self.items)) + ")"


Type = TensorType | TupleType


def check_dtype(dtype: object) -> str:
    """The canonical name of a dtype, or an `OstinatoTypeError` that lists what there is."""
    if isinstance(dtype, str) and dtype in DTYPES:
        return dtype
    if dtype == "floatX":
        from ostinato.config import config

        return config.floatX
    try:
        name = _dtype_name(dtype)
    except TypeError:  # not hashable, so no dtype either
        name = repr(dtype)
    if name not in DTYPES:
        raise OstinatoTypeError(f"dtype {name!r} is not supported; there is {', '.join(DTYPES)}")
    return name


@cache
def _dtype_name(dtype: Any) -> str:
    try:
        return str(np.dtype(dtype).name)
    except TypeError:
        return str(dtype)


@cache
def promote(*dtypes: str) -> str:
    """The smallest dtype that NumPy would compute with for operands of these dtypes."""
    return str(np.result_type(*dtypes).name)


@cache
def is_lossless(source: str, target: str) -> bool:
    """Whether every value of dtype `source` is represented exactly in dtype `target`.

    Stricter than NumPy's "safe", which lets int64 become float64.
    """
    if source in INTEGERS and target in FLOATS:
        return np.iinfo(source).bits - (source in SIGNED) <= _EXACT_BITS[target]
    return bool(np.can_cast(source, target, "safe"))


def broadcast_static(shapes: Sequence[Sequence[int | None]]) -> tuple[int | None, ...]:
    """The static shape of an elementwise result; ShapeError where two known sizes cannot meet."""
    ndim = max(map(len, shapes), default=0)
    padded = [(1,) * (ndim - len(s)) + tuple(s) for s in shapes]
    return tuple(_broadcast_axis(axis, [s[axis] for s in padded]) for axis in range(ndim))


def _broadcast_axis(axis: int, sizes: list[int | None]) -> int | None:
    known = {s for s in sizes if s is not None and s != 1}
    if len(known) > 1:
        raise ShapeError(f"sizes {' and '.join(map(str, sorted(known)))} do not broadcast (axis {axis})")
    if known:
        return known.pop()
    return None if None in sizes else 1


def join(a: TensorType, b: TensorType) -> TensorType:
    """The most specific type with a's dtype that both static shapes fit; same rank required."""
    return a.with_shape(s if s == r else None for s, r in zip(a.shape, b.shape, strict=True))


def fits(given: TensorType, wanted: TensorType) -> bool:
    """Whether a value of type `given` may stand where `wanted` is declared."""
    return (
        given.dtype == wanted.dtype
        and given.ndim == wanted.ndim
        and all(w is None or w == g for g, w in zip(given.shape, wanted.shape, strict=True))
    )
