"""The few switches of Ostinato, their defaults, environment variables and checks.

`config.floatX = "float32"` sets a flag for the process, `with config.change_flags(floatX="float32"):`
for a block of the current thread (or task). The environment variable of a flag is `OSTINATO_` and its
name in capitals. `print(config)` shows all.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ostinato.errors import OstinatoValueError, UnknownFlagError
from ostinato.memory import read_bytes


@dataclass(frozen=True)
class Flag:
    """A switch: its default, what it may be (anything if empty), what it does, in a line, and other names of values."""

    default: Any
    choices: tuple[Any, ...]
    doc: str
    read: Callable[[Any], Any] = lambda value: value


def device_name(value: Any) -> Any:
    """The name of a device: `cuda` for what Theano and torch call a GPU, with or without its number.

    `gpu`, `gpu0`, `cuda0` and `cuda:0` all mean `cuda`, and so do other numbers: which GPU that is, torch decides.
    """
    return "cuda" if re.fullmatch(r"(cuda|gpu):?\d*", str(value)) else value


def budget(value: Any) -> Any:
    """What derivatives may keep: "auto", "none", or a number of bytes as a string."""
    if value not in ("auto", "none"):
        read_bytes(str(value), "memory_budget: 'auto', 'none', or what a function's derivatives may keep:")
    return str(value)


_FLAGS: dict[str, Flag] = {
    "floatX": Flag("float64", ("float16", "float32", "float64"), "dtype of floats whose dtype is not given"),
    "mode": Flag("native", (), "how functions run: a name in ostinato.backends.BACKENDS"),
    "verify": Flag(
        False, (False, True), "check every graph after every pass; the reference checks the types of values too"
    ),
    "cache": Flag(True, (False, True), "keep compiled code on disk and load it from there"),
    "cache_dir": Flag("", (), "the folder of compiled code; if empty, the platform's for the user's caches"),
    "cache_size": Flag(512, (), "how many megabytes of compiled code are kept"),
    "device": Flag(
        "cpu", ("cpu", "cuda", "auto"), "where functions run; auto is whichever suits a function", device_name
    ),
    "memory_budget": Flag(
        "auto",
        (),
        "what derivatives of loops may keep in a function, as '64MB'; auto: all until half of the free memory is full",
        budget,
    ),
    "gpu_replay": Flag(False, (False, True), "record small calls on a GPU that come again as a CUDA graph"),
    "gpu_precision": Flag(
        "ieee", ("ieee", "tf32", "bf16"), "how a GPU multiplies matrices of float32: exactly, or rounding the factors"
    ),
    "threads": Flag(
        0, (), "among how many threads a compiled function may divide the lanes of a loop; 0 for one per available core"
    ),
    # Theano's switches for machinery that does not exist here. Scripts set them; nothing depends on them.
    "compute_test_value": Flag("off", ("off", "ignore", "warn", "raise"), "accepted for Theano's sake"),
    "exception_verbosity": Flag("low", ("low", "high"), "accepted for Theano's sake"),
    "optimizer": Flag("fast_run", (), "accepted for Theano's sake"),
    "profile": Flag(False, (False, True), "accepted for Theano's sake"),
    "allow_gc": Flag(True, (False, True), "accepted for Theano's sake"),
}
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Config:
    """The switches as attributes; see `print(config)`.

    Parameters
    ----------
    environ : mapping of str to str
        Where `OSTINATO_...` variables are looked up.

    Raises
    ------
    UnknownFlagError
        If a flag is read or set that does not exist; close names are suggested.
    OstinatoValueError
        If a flag is set to what it cannot be; the flag keeps its value.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        values = {n: _from_environment(n, environ.get(_variable(n))) for n in _FLAGS}
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_first", dict(values))
        object.__setattr__(self, "_overrides", ContextVar("overrides", default=_NOTHING))

    def __getattr__(self, name: str) -> Any:
        if name not in _FLAGS:
            raise UnknownFlagError(_unknown(name))
        overrides = self._overrides.get()
        return overrides[name] if name in overrides else self._values[name]

    def __setattr__(self, name: str, value: Any) -> None:
        value = _checked(name, value)
        overrides = self._overrides.get()
        if name in overrides:  # within a block that changes this flag: undone where the block ends
            self._overrides.set({**overrides, name: value})
        else:
            self._values[name] = value

    def __delattr__(self, name: str) -> None:
        """Back to what the flag was when the process started."""
        if name not in _FLAGS:
            raise UnknownFlagError(_unknown(name))
        self._values[name] = self._first[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *_FLAGS]

    @contextmanager
    def change_flags(self, **flags: Any) -> Iterator[None]:
        """Set flags for a block (or, as a decorator, for a function), in this thread or task only."""
        checked = {name: _checked(name, value) for name, value in flags.items()}
        token = self._overrides.set({**self._overrides.get(), **checked})
        try:
            yield
        finally:
            self._overrides.reset(token)

    def __str__(self) -> str:
        return "\n".join(f"{n} = {getattr(self, n)!r}    # {f.doc}" for n, f in _FLAGS.items())


def _variable(name: str) -> str:
    return f"OSTINATO_{name.upper()}"


def _unknown(name: str) -> str:
    folded = {n.lower(): n for n in _FLAGS}
    close = difflib.get_close_matches(name.lower(), folded, 1)
    hint = f"; did you mean {folded[close[0]]!r}?" if close else f"; there is {', '.join(_FLAGS)}"
    return f"there is no configuration flag {name!r}{hint}"


def _checked(name: str, value: Any) -> Any:
    """The value as its flag keeps it."""
    if name not in _FLAGS:
        raise UnknownFlagError(_unknown(name))
    choices = _FLAGS[name].choices
    given, value = value, _FLAGS[name].read(value)
    if type(_FLAGS[name].default) is int and (type(value) is not int or value < 0):
        raise OstinatoValueError(f"config.{name} is an int of 0 or more, not {value!r}")
    chosen = [c for c in choices if isinstance(value, (str, int)) and c == value]
    if choices and not chosen:
        raise OstinatoValueError(f"config.{name} is one of {', '.join(map(repr, choices))}, not {given!r}")
    return chosen[0] if chosen else value


def _from_environment(name: str, text: str | None) -> Any:
    flag = _FLAGS[name]
    if text is None:
        return flag.default
    if type(flag.default) is int:
        if not text.isdecimal():
            raise OstinatoValueError(f"the environment variable {_variable(name)} is an int of 0 or more, not {text!r}")
        return int(text)
    text, values = flag.read(text), {str(c): c for c in flag.choices}
    if isinstance(flag.default, bool):
        values = {"0": False, "1": True, "false": False, "true": True}
        text = text.lower()
    if values and text not in values:
        raise OstinatoValueError(
            f"the environment variable {_variable(name)} is one of {', '.join(values)}, not {text!r}"
        )
    return values.get(text, text)


config = Config(os.environ)
