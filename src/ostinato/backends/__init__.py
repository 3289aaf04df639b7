"""Backends: how a closed Graph becomes a callable. One module each; `BACKENDS` is the table of them.

The module of a backend has a function `compile_graph` from a Graph to a callable that takes one array
per param and returns one array per result. Shared variables are params by the time a backend sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from ostinato.errors import OstinatoValueError
from ostinato.graph import Graph


@dataclass(frozen=True)
class Report:
    """What a backend did, for `Function.explain`; an executable may carry one as its attribute `report`.

    Attributes
    ----------
    how : in plain words, how the graph runs.
    seconds : what each stage of compiling, or of loading what was compiled before, took.
    texts : the text forms of stages by name, made when asked for.
    called_out : what compiled code calls NumPy for, and where.
    loaded : whether it was compiled before and came from the cache.
    note : a sentence more, or nothing.
    notes : what passes of the backend's own did, in sentences, made when asked for.
    details : from arguments of a call, or None, to lines that say what was compiled and what memory it takes.
    """

    how: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    called_out: Sequence[str] = ()
    loaded: bool = False
    note: str = ""
    notes: Callable[[], Sequence[str]] = tuple
    details: Callable[[Sequence[Any] | None], Sequence[str]] | None = None


Executable = Callable[[Sequence[Any]], list[Any]]
Backend = Callable[[Graph], Executable]

# The module of each backend by the name of its mode; imported when it is asked for.
BACKENDS: dict[str, str] = {
    "reference": "ostinato.backends.reference",
    "native": "ostinato.backends.llvm.run",
    "gpu": "ostinato.backends.triton.executable",
}

DEFAULT = "native"  # as that of `config.mode`

# Theano's names for how to compile; all of them mean the default here.
_THEANO_MODES = ("FAST_RUN", "FAST_COMPILE", "Mode", "DebugMode", "DEBUG_MODE", "NanGuardMode")


def find_backend(mode: Any) -> Backend:
    """The backend of a mode's name; `OstinatoValueError` for a name that is unknown."""
    backend: Backend = _module(mode).compile_graph
    return backend


def compile_closed(mode: Any, closed: Graph, rewritten: Callable[[], Graph]) -> Executable:
    """A closed Graph as a callable, by the backend of a mode.

    Parameters
    ----------
    rewritten : makes the graph after all passes, which is what is compiled.

    Notes
    -----
    A backend that can do without the rewritten graph, since it knows the closed one, has a function
    `compile_closed(closed, rewritten)` beside its `compile_graph`.
    """
    module = _module(mode)
    if hasattr(module, "compile_closed"):
        return module.compile_closed(closed, rewritten)
    return module.compile_graph(rewritten())


def is_default_mode(mode: Any) -> bool:
    """Whether a mode leaves it to the configuration how functions run."""
    return mode is None or mode in _THEANO_MODES


def mode_name(mode: Any) -> str:
    """The name in `BACKENDS` of a mode, which may be None or one of Theano's; `OstinatoValueError` if there is none."""
    from ostinato.config import config

    name = config.mode if is_default_mode(mode) else mode
    name = DEFAULT if name in _THEANO_MODES else name
    if name not in BACKENDS:
        raise OstinatoValueError(f"there is no mode {name!r}; there is {', '.join(sorted(BACKENDS))}")
    return name


def _module(mode: Any) -> Any:
    return import_module(BACKENDS[mode_name(mode)])
