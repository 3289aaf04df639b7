"""The few switches of Ostinato, their defaults, environment variables and checks.

`config.floatX = "float32"` sets a flag for the process, `with config.change_flags(floatX="float32"):`
for a block of the current thread (or task). The environment variable of a flag is `OSTINATO_` and its
name in capitals. `print(config)` shows all.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ostinato.errors import OstinatoValueError


@dataclass(frozen=True)
class Flag:
    """A switch: its default, what it may be (anything if empty) and what it does, in a line."""

    default: Any
    choices: tuple[Any, ...]
    doc: str


_FLAGS: dict[str, Flag] = {
    "floatX": Flag("float64", ("float16", "float32", "float64"), "dtype of floats whose dtype is not given"),
    "mode": Flag("reference", (), "how functions run: a name in ostinato.backends.BACKENDS"),
    "verify": Flag(False, (False, True), "check every graph after every pass, and every value's type at run time"),
    # Theano's switches for machinery that does not exist here. Scripts set them; nothing depends on them.
    "device": Flag("cpu", (), "accepted for Theano's sake; arrays live in the memory of the host"),
    "compute_test_value": Flag("off", ("off", "ignore", "warn", "raise"), "accepted for Theano's sake"),
    "exception_verbosity": Flag("low", ("low", "high"), "accepted for Theano's sake"),
    "optimizer": Flag("fast_run", (), "accepted for Theano's sake"),
    "profile": Flag(False, (False, True), "accepted for Theano's sake"),
    "allow_gc": Flag(True, (False, True), "accepted for Theano's sake"),
}


class Config:
    """The switches as attributes; see `print(config)`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        values: dict[str, Any] = {}
        for name, flag in _FLAGS.items():
            text = environ.get(f"OSTINATO_{name.upper()}")
            values[name] = flag.default if text is None else _parse(name, text)
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_overrides", ContextVar("overrides", default={}))

    def __getattr__(self, name: str) -> Any:
        if name not in _FLAGS:
            raise AttributeError(_unknown(name))
        overrides = self._overrides.get()
        return overrides[name] if name in overrides else self._values[name]

    def __setattr__(self, name: str, value: Any) -> None:
        _check(name, value)
        self._values[name] = value

    @contextmanager
    def change_flags(self, **flags: Any) -> Iterator[None]:
        """Set flags for a block (or, as a decorator, for a function), in this thread or task only."""
        for name, value in flags.items():
            _check(name, value)
        token = self._overrides.set({**self._overrides.get(), **flags})
        try:
            yield
        finally:
            self._overrides.reset(token)

    def __str__(self) -> str:
        return "\n".join(f"{n} = {getattr(self, n)!r}    # {f.doc}" for n, f in _FLAGS.items())


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, _FLAGS, 1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(_FLAGS)}"
    return f"there is no configuration flag {name!r}{hint}"


def _check(name: str, value: Any) -> None:
    if name not in _FLAGS:
        raise AttributeError(_unknown(name))
    choices = _FLAGS[name].choices
    if choices and value not in choices:
        raise OstinatoValueError(f"config.{name} is one of {', '.join(map(repr, choices))}, not {value!r}")


def _parse(name: str, text: str) -> Any:
    value: Any = text
    if isinstance(_FLAGS[name].default, bool):
        value = {"1": True, "true": True, "0": False, "false": False}.get(text.lower(), text)
    _check(name, value)
    return value


config = Config(os.environ)
