"""Makers of input variables: `scalar`, `vector`, `matrix` … with their dtype prefixes and plural forms.

`matrix("W")` has dtype `config.floatX`; a prefix gives another one: `b` int8, `w` int16, `i` int32,
`l` int64, `f` float32, `d` float64. Plurals make several: `x, y = vectors("x", "y")`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ostinato.config import config
from ostinato.errors import OstinatoTypeError
from ostinato.ops.leaf import new_input
from ostinato.types import TensorType

_SHAPES: dict[str, tuple[int | None, ...]] = {
    "scalar": (),
    "vector": (None,),
    "row": (1, None),
    "col": (None, 1),
    "matrix": (None, None),
    "tensor3": (None,) * 3,
    "tensor4": (None,) * 4,
    "tensor5": (None,) * 5,
}
_PREFIXES = {"": None, "b": "int8", "w": "int16", "i": "int32", "l": "int64", "f": "float32", "d": "float64"}


def _single(kind: str, prefix: str) -> Callable[..., Any]:
    shape, fixed = _SHAPES[kind], _PREFIXES[prefix]

    def make_variable(name: str | None = None, dtype: str | None = None) -> Any:
        if name is not None and not isinstance(name, str):
            raise OstinatoTypeError(f"the name of a variable is a string, not {name!r}")
        if fixed is not None and dtype not in (None, fixed):
            raise OstinatoTypeError(f"{prefix}{kind} is {fixed}; use {kind}(dtype={dtype!r})")
        return new_input(TensorType(fixed or dtype or config.floatX, shape), name)

    sizes = ", ".join("1" if s == 1 else "?" for s in shape)
    make_variable.__name__ = make_variable.__qualname__ = prefix + kind
    make_variable.__doc__ = (
        f"A new input variable of shape ({sizes}) and dtype {fixed or '`config.floatX` (unless `dtype` is given)'}."
    )
    return make_variable


def _plural(make_variable: Callable[..., Any]) -> Callable[..., Any]:
    def make_variables(*names: Any, **options: Any) -> list[Any]:
        if len(names) == 1 and isinstance(names[0], int):
            names = (None,) * names[0]
        return [make_variable(n, **options) for n in names]

    make_variables.__name__ = make_variables.__qualname__ = make_variable.__name__ + "s"
    make_variables.__doc__ = f"Several `{make_variable.__name__}` variables: by their names, or how many."
    return make_variables


def all_constructors() -> dict[str, Callable[..., Any]]:
    """Every constructor by its name."""
    found: dict[str, Callable[..., Any]] = {}
    for kind in _SHAPES:
        for prefix in _PREFIXES:
            single = _single(kind, prefix)
            found[prefix + kind] = single
            found[prefix + _plural_name(kind)] = _plural(single)
    return found


def _plural_name(kind: str) -> str:
    return "matrices" if kind == "matrix" else kind + "s"


def tensor(dtype: str | None = None, shape: Any = (), name: str | None = None, broadcastable: Any = None) -> Any:
    """A new input variable of any type.

    Parameters
    ----------
    dtype : str, optional
        `config.floatX` unless given.
    shape : tuple of int or None
        The size of each dimension, None where it varies.
    broadcastable : tuple of bool, optional
        Theano's way to give a shape: which sizes are 1.
    """
    return new_input(
        TensorType(dtype or config.floatX, tuple(broadcastable if broadcastable is not None else shape)), name
    )
