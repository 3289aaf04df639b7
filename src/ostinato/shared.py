"""Shared variables: arrays that functions share, and that their `updates` change."""

from __future__ import annotations

from typing import Any

import numpy as np

from ostinato.errors import OstinatoTypeError
from ostinato.graph import VARIABLE_CLASSES, Node, make
from ostinato.ops.leaf import SHARED, new_uid
from ostinato.tensor.variable import TensorVariable
from ostinato.types import TensorType, check_dtype
from ostinato.values import convert


class SharedVariable(TensorVariable):
    """A variable that holds a value; made by `shared`."""

    __slots__ = ("_value",)
    _value: np.ndarray[Any, Any]

    def get_value(self, borrow: bool = False, return_internal_type: bool = False) -> np.ndarray[Any, Any]:
        """The value: a copy, or with `borrow` the array itself."""
        return self._value if borrow else self._value.copy()

    def set_value(self, new_value: Any, borrow: bool = False) -> None:
        """Replace the value.

        Parameters
        ----------
        new_value : array or number
            Of the variable's number of dimensions, with a dtype that converts without loss; its shape
            may differ from that of the value before.
        borrow : bool
            Keep the array itself where it needs no conversion, instead of a copy.

        Raises
        ------
        OstinatoTypeError
            If dtype or number of dimensions do not fit. The value is left as it was.
        """
        array = convert(new_value, self.type, f"the new value of {self.name or 'a shared variable'}")
        self._value = array if borrow else np.array(array)


VARIABLE_CLASSES["shared"] = SharedVariable


def shared(
    value: Any,
    name: str | None = None,
    strict: bool = False,
    allow_downcast: bool | None = None,
    borrow: bool = False,
    broadcastable: Any = None,
    target: str = "cpu",
) -> SharedVariable:
    """A variable that holds a value across calls of functions.

    Parameters
    ----------
    value : array, number or nested list
        The first value; its dtype and number of dimensions are those of the variable.
    name : str, optional
    borrow : bool
        Keep the array itself instead of a copy.
    broadcastable : tuple of bool, optional
        Which sizes are 1 for good; by default any shape may come later.
    strict, allow_downcast, target
        Accepted for Theano's sake.

    Raises
    ------
    OstinatoTypeError
        If the value is symbolic or of a dtype that is not supported.
    """
    if isinstance(value, Node):
        raise OstinatoTypeError(f"a shared variable holds a value, not the symbolic {value!r}")
    array = np.asarray(value)
    dtype = check_dtype(array.dtype)
    shape = tuple(broadcastable) if broadcastable is not None else (None,) * array.ndim
    node: SharedVariable = make(SHARED, (), (new_uid(), TensorType(dtype, shape)))
    node.name = name
    node._value = array if borrow and isinstance(value, np.ndarray) else np.array(array)
    return node
