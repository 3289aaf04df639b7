"""What passes tell of their work, in plain words, and how long they take, for `Function.explain`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ostinato.ops.loop import LoopSpec

_listeners: ContextVar[tuple[list[str], ...]] = ContextVar("listeners", default=())


def tell(note: str) -> None:
    """Say in a sentence what was done, in the words of whoever wrote the program."""
    for notes in _listeners.get():
        notes.append(note)


@contextmanager
def listening() -> Iterator[list[str]]:
    """What is told meanwhile, each sentence once, in order; complete when the context ends."""
    notes: list[str] = []
    token = _listeners.set((*_listeners.get(), notes))
    try:
        yield notes
    finally:
        _listeners.reset(token)
        notes[:] = dict.fromkeys(notes)


_clocks: ContextVar[tuple[dict[str, float], ...]] = ContextVar("clocks", default=())


@contextmanager
def timing() -> Iterator[dict[str, float]]:
    """The seconds that each pass takes meanwhile, in all bodies together."""
    seconds: dict[str, float] = {}
    token = _clocks.set((*_clocks.get(), seconds))
    try:
        yield seconds
    finally:
        _clocks.reset(token)


def took(name: str, seconds: float) -> None:
    """Say how long a pass was at work."""
    for clock in _clocks.get():
        clock[name] = clock.get(name, 0.0) + seconds


def called(spec: LoopSpec) -> str:
    """How notes refer to a loop."""
    return f"loop {spec.name!r}" if spec.name else "a loop"
