"""Which loops' steps are being traced now: what is made in a step can depend on the number of the step by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class Step:
    """A step that is being traced.

    Attributes
    ----------
    t : its number, an int64 scalar that the loop binds.
    states : the states of random streams of which draws were made in the step, in order; those of inner loops too.
    """

    def __init__(self, t: Any) -> None:
        self.t = t
        self.states: dict[Any, None] = {}


_STEPS: ContextVar[tuple[Step, ...]] = ContextVar("steps", default=())


def enclosing() -> tuple[Step, ...]:
    """The steps that are being traced, from the outermost loop to the innermost."""
    return _STEPS.get()


@contextmanager
def tracing(step: Step) -> Iterator[None]:
    """Within the `with` block a step is being traced, inside of those that are already."""
    token = _STEPS.set((*_STEPS.get(), step))
    try:
        yield
    finally:
        _STEPS.reset(token)
