"""Shared variables: arrays that functions share, and that their `updates` change.

A value lies where it was used last, on the host or on a device, with or without an equal copy on the other
side. It is moved when it is asked for, and copies are never written to.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from ostinato.errors import OstinatoTypeError, at
from ostinato.graph import VARIABLE_CLASSES, Node, make
from ostinato.ops.leaf import SHARED, new_uid
from ostinato.tensor.variable import TensorVariable
from ostinato.types import TensorType
from ostinato.values import as_array, convert, fit

# Held while a call reads the shared variables and while it changes them, so that none sees half of an update.
SHARED_VALUES = threading.Lock()


class SharedVariable(TensorVariable):
    """A variable that holds a value; made by `shared`."""

    __slots__ = ("_allow_downcast", "_copy", "_default_update", "_lent", "_strict", "_value")
    _value: Any  # an array of NumPy, or a tensor on the device of the function that updated it
    _copy: tuple[Any, Any] | None  # a value and its copy on the other side; void once the variable has another value
    _lent: weakref.ref[Any] | None  # the array that is known outside, and may be written to there
    _allow_downcast: bool | None
    _strict: bool
    _default_update: Any

    @property
    def default_update(self) -> Any:
        """What the variable becomes after each call of a function that depends on it; None for what it was.

        Functions make this update unless they are given another one, or `no_default_updates`. It is made once per
        call, whatever loops read the variable.
        """
        return self._default_update

    @default_update.setter
    def default_update(self, value: Any) -> None:
        self._default_update = (
            None if value is None else fit(value, self.type, f"the default update of {_label(self.name)}")
        )

    def get_value(self, borrow: bool = False, return_internal_type: bool = False) -> np.ndarray[Any, Any]:
        """The value: a copy, or with `borrow` the array itself.

        Parameters
        ----------
        borrow : bool
            Return the array that the variable holds. Who writes to it changes the variable. A function that runs
            on a GPU then copies it there at each call, until an update or `set_value` replaces it.
        return_internal_type : bool
            Accepted for Theano's sake; the value is always a NumPy array.
        """
        value = self._value
        if not borrow and isinstance(value, np.ndarray):
            return value.copy()  # without waiting for a function that is about to change it
        with SHARED_VALUES:
            value = self._on_host()
            if borrow:
                self._lend(value)
        return value if borrow else value.copy()

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
        what = f"the new value of {_label(self.name)}{at(self.source)}"
        array = convert(new_value, self.type, what, self._allow_downcast, self._strict)
        self._hold(array if borrow else np.array(array), borrow)

    # ---- where the value lies ----

    def _hold(self, value: Any, lent: bool) -> None:
        with SHARED_VALUES:
            self._value, self._copy, self._lent = value, None, None
            if lent:
                self._lend(value)

    def _lend(self, value: Any) -> None:
        self._copy, self._lent = None, weakref.ref(value)

    def _on_host(self) -> np.ndarray[Any, Any]:
        """The value as an array of NumPy; that is then where it lies. Called with `SHARED_VALUES` held."""
        value: Any = self._value
        if not isinstance(value, np.ndarray):
            self._value = value.cpu().numpy()
            self._copy = (self._value, value)
        return self._value

    def _on_device(self, device: Any, move: Callable[[Any], Any]) -> Any:
        """The value on a device, to be read only; `move` copies it there. Called with `SHARED_VALUES` held."""
        value = self._value
        if not isinstance(value, np.ndarray) and value.device == device:
            return value
        lent = self._lent is not None and self._lent() is value
        if self._copy is not None and self._copy[0] is value and self._copy[1].device == device and not lent:
            return self._copy[1]
        moved = move(value)
        self._copy = None if lent else (value, moved)
        return moved


VARIABLE_CLASSES["shared"] = SharedVariable


def _label(name: str | None) -> str:
    return repr(name) if name else "a shared variable"


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
    strict : bool
        Let `set_value` accept only arrays of exactly this dtype.
    allow_downcast : bool, optional
        Whether `set_value` may lose precision; see `allow_input_downcast` of `function`.
    borrow : bool
        Keep the array itself instead of a copy.
    broadcastable : tuple of bool, optional
        Which sizes are 1 for good; by default any shape may come later.
    target : str
        Accepted for Theano's sake.

    Raises
    ------
    OstinatoTypeError
        If the value is symbolic or of a dtype that is not supported, or does not fit `broadcastable`.
    """
    if name is not None and not isinstance(name, str):
        raise OstinatoTypeError(f"the name of a shared variable is a string, not {name!r}")
    what = f"the value of {_label(name)}: expected numbers, got"
    if isinstance(value, Node):
        raise OstinatoTypeError(f"{what} the symbolic {value!r}; evaluate it first, or make it an update")
    array = as_array(value, what)
    type_ = TensorType(array.dtype.name, (None,) * array.ndim if broadcastable is None else tuple(broadcastable))
    convert(array, type_, f"the value of {_label(name)} with broadcastable={broadcastable}")
    node: SharedVariable = make(SHARED, (), (new_uid(), type_))
    node.name = name
    node._hold(array if borrow else np.array(array), borrow)
    node._allow_downcast, node._strict, node._default_update = allow_downcast, strict, None
    return node
