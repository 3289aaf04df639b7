"""The one family of errors, and how a message finds the user's line.

Every error that Ostinato raises on purpose derives from `OstinatoError` and from the built-in that a
caller would expect (`TypeError`, `ValueError`, `IndexError`). A message says what was expected, what
came, where, and how to mend it. Nothing here knows about graphs.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import NamedTuple

from numpy.linalg import LinAlgError

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_NOT_THE_USERS = (_PACKAGE, functools.__file__)  # which calls properties that are made once


class OstinatoError(Exception):
    """Base class of all errors that Ostinato raises on purpose."""


class OstinatoTypeError(OstinatoError, TypeError):
    """A value or a variable is of the wrong kind: dtype, number of dimensions, not symbolic."""


class OstinatoValueError(OstinatoError, ValueError):
    """A value is of the right kind, but not acceptable."""


class ShapeError(OstinatoValueError):
    """Sizes do not fit together, when a graph is built or when it runs."""


class LinearAlgebraError(OstinatoValueError, LinAlgError):
    """A matrix is singular, or not positive definite."""


class OstinatoIndexError(OstinatoError, IndexError):
    """An index lies outside its dimension."""


class DeviceError(OstinatoError, RuntimeError):
    """A device that is asked for cannot be used."""


class MemoryBudgetError(OstinatoError, MemoryError):
    """What a derivative has to keep does not fit into the memory that it may take."""


class MissingInputError(OstinatoValueError):
    """A computation needs a variable that it was not given."""


class UnusedInputError(OstinatoValueError):
    """A function was given an input that none of its outputs or updates needs."""


class DisconnectedInputError(OstinatoValueError):
    """A gradient was asked with respect to a variable that the cost does not depend on."""


class NoGradientError(OstinatoTypeError):
    """A derivative was asked through something that has none."""


class GradientMismatchError(OstinatoError, AssertionError):
    """A derivative is not what differences say that it is."""


class BackendMismatchError(OstinatoError, AssertionError):
    """Two backends compute different results."""


class MissingPackageError(OstinatoError, ImportError):
    """Something needs a package that is not installed."""


class UnknownFlagError(OstinatoError, AttributeError):
    """There is no configuration flag of this name."""


class VerificationError(OstinatoError):
    """A graph breaks a law of its stage: always a defect of Ostinato, never of the user's program."""


class SourceLine(NamedTuple):
    """A line of the user's program."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}"


@functools.cache
def _is_not_the_users(file: str) -> bool:
    return file.startswith(_NOT_THE_USERS)


def caller() -> SourceLine | None:
    """The innermost line on the stack that is not Ostinato's own; None where there is no such line."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not _is_not_the_users(file):
            return SourceLine(file, frame.f_lineno)
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None


def at(source: SourceLine | None) -> str:
    """` (model.py:14)`, or nothing where the line is not known."""
    return f" ({source})" if source else ""


def bullet_list(problems: list[str]) -> str:
    """One problem as it is, several as an indented list, so that all of them are told at once."""
    return problems[0] if len(problems) == 1 else "".join(f"\n  - {p}" for p in problems)
