"""Packages that only tests of programs need: imported when they are used, with a message if they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from ostinato.errors import MissingPackageError


def import_mpmath() -> Any:
    """The package mpmath; `MissingPackageError` if it is not installed."""
    try:
        return importlib.import_module("mpmath")
    except ImportError:
        raise MissingPackageError(
            "the references of the conformance suite need mpmath, which is not installed; "
            "`pip install 'ostinato[testing]'` or `pip install mpmath`"
        ) from None
