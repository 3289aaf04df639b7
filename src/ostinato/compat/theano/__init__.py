"""Ostinato as `theano`: after `install()`, `import theano` works in this process, and nowhere else.

For programs that cannot be changed; `ostinato run script.py` installs the layer and runs one of them.
What can be changed says `import ostinato as theano` and needs nothing from here. The layer is found
through `sys.meta_path`; nothing is written to disk. `layer.py` has the modules and where their names
come from.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from types import ModuleType
from typing import NamedTuple

from ostinato.compat.theano.layer import TheanoAttributeError, TheanoFinder, TheanoImportError, is_theano
from ostinato.errors import OstinatoError


class TheanoConflictError(OstinatoError, RuntimeError):
    """There is a real Theano in this process or on its path, and it was not said that it may be hidden."""


class _Installed(NamedTuple):
    """What `uninstall` needs: the finder, and what was in `sys.modules` under its names before."""

    finder: TheanoFinder
    hidden: dict[str, ModuleType]


_lock = threading.Lock()
_installed: _Installed | None = None


def install(force: bool = False) -> None:
    """Make `import theano`, and the modules below it, find Ostinato in this process.

    Installing what is installed changes nothing.

    Parameters
    ----------
    force : bool
        Hide a real Theano, installed or already imported, until `uninstall`. Modules that imported it
        before keep what they have of it.

    Raises
    ------
    TheanoConflictError
        If there is a real Theano and `force` is not given: variables of the two do not mix.

    Notes
    -----
    `theano.config` is `ostinato.config`, classes and functions are Ostinato's own. When `theano` is
    first imported, `floatX` is taken from the environment variable `THEANO_FLAGS`, if it is set there.
    A process that is started afterwards without forking (by `multiprocessing` with the method "spawn",
    say) is another process, and knows no `theano`.

    Examples
    --------
    >>> from ostinato.compat import theano as layer
    >>> layer.install()
    >>> import theano.tensor as T
    >>> layer.uninstall()
    """
    global _installed
    with _lock:
        if _installed is not None:
            return
        hidden = _entries()
        real = _real_theano(hidden)
        if real and not force:
            raise TheanoConflictError(
                f"{real}, and its variables and Ostinato's do not mix; to hide it in this process say "
                "install(force=True), or on the command line ostinato run --force"
            )
        finder = TheanoFinder()
        for name in hidden:
            del sys.modules[name]
        sys.meta_path.insert(0, finder)
        _installed = _Installed(finder, hidden)


def uninstall() -> None:
    """Undo `install`: `sys.meta_path` and the entries of `sys.modules` are as they were before it.

    Without `install` before, nothing changes. What was imported as `theano` goes on working for whoever
    holds it. Flags that were set in `theano.config` stay: they are Ostinato's.
    """
    global _installed
    with _lock:
        if _installed is None:
            return
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not _installed.finder]
        for name in _entries():
            del sys.modules[name]
        sys.modules.update(_installed.hidden)
        _installed = None


def is_installed() -> bool:
    """Whether `import theano` finds Ostinato."""
    return _installed is not None


def _entries() -> dict[str, ModuleType]:
    """What `sys.modules` has under Theano's names."""
    return {name: module for name, module in sys.modules.copy().items() if is_theano(name)}


def _real_theano(entries: dict[str, ModuleType]) -> str | None:
    """What is there of a real Theano, in words; None if there is none."""
    imported = entries.get("theano")
    if imported is not None:
        return f"a real Theano is already imported (from {getattr(imported, '__file__', None) or 'an unknown place'})"
    spec = importlib.util.find_spec("theano")
    # A mere folder of that name on the path is a namespace package, without an origin; it hides nothing.
    if spec is None or spec.origin is None:
        return None
    return f"a real Theano is installed ({spec.origin})"


__all__ = [
    "TheanoAttributeError",
    "TheanoConflictError",
    "TheanoImportError",
    "install",
    "is_installed",
    "uninstall",
]
