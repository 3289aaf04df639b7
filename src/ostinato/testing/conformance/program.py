"""What a program of the suite is: a loop, its arguments, how Ostinato writes it, and how plain Python does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ostinato.errors import OstinatoValueError

Array = np.ndarray[Any, Any]

# How derivatives are asked for: R is a step of reverse mode, F one of forward mode; the letter on the left comes last.
FIRST = ("R", "F")
SECOND = ("RR", "FR", "RF", "FF")
HIGHER = {3: ("RRR", "FFF"), 4: ("RRRR", "FFFF")}
VALUE = "value"
QUANTITIES = (VALUE, *FIRST, *SECOND, *HIGHER[3], *HIGHER[4])


class Built(NamedTuple):
    """A program in Ostinato: the outputs, and updates of shared variables."""

    outputs: list[Any]
    updates: Mapping[Any, Any]


@dataclass
class Program:
    """A loop with arguments, an Ostinato form, and an independent reference.

    Attributes
    ----------
    name, topic : str
    shows : what the program is there for, in a line.
    statement : the loop in mathematical notation, and what its outputs are.
    arguments : numbers, or nested lists of them, by name. Floats are exact in float32, so that one reference
        serves every dtype.
    wrt : the arguments that derivatives are taken with respect to.
    build : from variables, by name, to a list of outputs, or a `Built`.
    orders : the highest order of derivatives that is asked for; 0 for none.
    calls : how often the function is called; the last call counts.
    is_random : the last output is what was drawn, of which the reference is told.
    own_dtypes : dtypes of arguments that have another one than the rest.
    dtypes : the dtypes in which the program makes sense.
    """

    name: str
    topic: str
    shows: str
    statement: str
    arguments: Mapping[str, Any]
    wrt: tuple[str, ...]
    build: Callable[..., Any]
    orders: int = 2
    calls: int = 1
    is_random: bool = False
    own_dtypes: Mapping[str, str] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ("float64", "float32")
    _reference: Callable[..., list[Any]] | None = None

    def reference(self, function: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        """Take a function as the loop in plain Python; a decorator.

        It gets a module of functions (`arithmetic.py`), the arguments by name and, if it has a parameter `frozen` or
        `draws`, the arguments as derivatives leave them alone, and what was drawn.
        """
        self._reference = function
        return function

    def outputs(self, m: Any, arguments: Mapping[str, Any], frozen: Mapping[str, Any], draws: Any = None) -> list[Any]:
        """The outputs by the loop in plain Python."""
        assert self._reference is not None
        extra = {"frozen": frozen, "draws": draws}
        known = inspect.signature(self._reference).parameters
        return self._reference(m, **arguments, **{k: v for k, v in extra.items() if k in known})

    def arrays(self, dtype: str) -> dict[str, Array]:
        """The arguments as arrays; floats have the given dtype, or their own."""
        return {n: self._array(n, v, dtype) for n, v in self.arguments.items()}

    def _array(self, name: str, value: Any, dtype: str) -> Array:
        array = np.asarray(value)
        return array.astype(self.own_dtypes.get(name, dtype)) if array.dtype.kind == "f" else array

    def directions(self, dtype: str) -> dict[str, Array]:
        """For each argument of `wrt` the direction in which forward derivatives, and higher ones, are taken."""
        arrays = self.arrays(dtype)
        return {n: direction(k, arrays[n].shape).astype(arrays[n].dtype) for k, n in enumerate(self.wrt)}

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is asked for: the value, and derivatives up to the program's order."""
        words = (FIRST if self.orders else ()) + (SECOND if self.orders > 1 else ())
        return (VALUE, *words, *(w for k in range(3, self.orders + 1) for w in HIGHER[k]))


def weights(place: int, size: int) -> Array:
    """How much each element of an output counts in the cost; exact in any float, and never zero."""
    return ((5 * (np.arange(size) + place) + 3) % 11 + 1) / 8


def direction(place: int, shape: Sequence[int]) -> Array:
    """The direction for one argument; exact in any float, and never zero."""
    size = int(np.prod(shape))
    return np.reshape(((7 * np.arange(size) + 3 * place + 2) % 13) / 8 - 11 / 16, shape)


# All programs by name, in the order in which they are declared.
PROGRAMS: dict[str, Program] = {}


def program(topic: str, shows: str, *, wrt: Sequence[str] | None = None, **rest: Any) -> Callable[..., Program]:
    """Enter a program into the suite; a decorator of the function that builds it, whose docstring is the statement.

    Parameters
    ----------
    wrt : by default all arguments that are floats.
    **rest : fields of `Program`; all other names are arguments.
    """
    fields = {n: rest.pop(n) for n in list(rest) if n in Program.__dataclass_fields__}

    def enter(build: Callable[..., Any]) -> Program:
        name = build.__name__
        if name in PROGRAMS:
            raise OstinatoValueError(f"there is a program {name!r} already")
        _check_exact(name, rest)
        floats = [n for n, v in rest.items() if np.asarray(v).dtype.kind == "f"]
        statement = inspect.cleandoc(build.__doc__ or "")
        found = Program(name, topic, shows, statement, rest, tuple(floats if wrt is None else wrt), build, **fields)
        PROGRAMS[name] = found
        return found

    return enter


def _check_exact(name: str, arguments: Mapping[str, Any]) -> None:
    for key, value in arguments.items():
        array = np.asarray(value)
        if array.dtype.kind == "f" and not np.array_equal(array, array.astype("float32")):
            raise OstinatoValueError(f"{name}: the argument {key!r} is not exact in float32: {value}")
