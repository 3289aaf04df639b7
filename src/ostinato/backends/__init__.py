"""Backends: how a closed Graph becomes a callable. One file each; `BACKENDS` is the table of them.

A backend is a function from a verified Graph to a callable that takes one array per param and returns
one array per result. Shared variables are params by the time a backend sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ostinato.errors import OstinatoValueError
from ostinato.graph import Graph

Executable = Callable[[Sequence[Any]], list[Any]]
Backend = Callable[[Graph], Executable]


def _reference(graph: Graph) -> Executable:
    from ostinato.backends.reference import compile_graph

    return compile_graph(graph)


BACKENDS: dict[str, Backend] = {"reference": _reference}

# Theano's names for how to compile; all of them mean the default here.
_THEANO_MODES = ("FAST_RUN", "FAST_COMPILE", "Mode", "DebugMode", "DEBUG_MODE", "NanGuardMode")


def find_backend(mode: Any) -> Backend:
    """The backend of a mode's name; `OstinatoValueError` for a name that is unknown."""
    from ostinato.config import config

    name = config.mode if mode is None or mode in _THEANO_MODES else mode
    name = "reference" if name in _THEANO_MODES else name
    if name not in BACKENDS:
        raise OstinatoValueError(f"there is no mode {name!r}; there is {', '.join(sorted(BACKENDS))}")
    return BACKENDS[name]
