"""The command line: `ostinato COMMAND ...`, also as `python -m ostinato COMMAND ...`.

A command is a function from its arguments to an exit code, and a line in `_COMMANDS`; it parses its own
arguments. Codes are those of Python: 1 for an exception, 2 for a command line that cannot be followed.
"""

from __future__ import annotations

import argparse
import builtins
import importlib
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import CodeType, ModuleType, TracebackType
from typing import Any, NamedTuple

from ostinato._version import __version__
from ostinato.compat.theano import TheanoConflictError, install
from ostinato.errors import OstinatoError


class _Command(NamedTuple):
    """A subcommand: what it does, in a line, and the function that does it."""

    summary: str
    run: Callable[[list[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Follow a command line.

    Parameters
    ----------
    argv : list of str, optional
        The arguments after the program's name; those of this process if not given.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    SystemExit
        For a command line that cannot be parsed, for `--help`, and what a program under `run` raises.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    # Split by hand: what follows the command is the command's, also where it looks like an option.
    split = next((i for i, a in enumerate(args) if not a.startswith("-")), len(args))
    parser = _parser()
    options = parser.parse_args(args[: split + 1])
    if options.version:
        print(f"ostinato {__version__}")
        return 0
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    return _COMMANDS[options.command].run(args[split + 1 :])


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, _COMMANDS))
    listed = "\n".join(f"  {name.ljust(width)}  {command.summary}" for name, command in _COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="ostinato",
        usage="ostinato [-h] [--version] COMMAND ...",
        description="A compiler for recurrences.",
        epilog=f"commands:\n{listed}\n\n`ostinato COMMAND --help` tells more about one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.add_argument("command", nargs="?", choices=list(_COMMANDS), help=argparse.SUPPRESS)
    return parser


# ---- run ------------------------------------------------------------------------------------------


class _CannotRunError(OstinatoError):
    """There is nothing that could be run: a wrong command line, not a failing program."""


class _Program(NamedTuple):
    """A program's code, and the attributes of the `__main__` module in which it runs."""

    code: CodeType
    attributes: dict[str, Any]


def _run(args: list[str]) -> int:
    """Run a program to which `import theano` gives Ostinato.

    The process becomes the program's, as with `python script.py`: `sys.argv`, `sys.path[0]` and `__main__`
    are replaced and stay so, because threads and exit handlers of the program may outlive its last line.
    """
    split = next((i for i, a in enumerate(args) if a == "-m" or not a.startswith("-")), len(args))
    parser = _run_parser()
    options = parser.parse_args(args[:split])
    as_module = args[split : split + 1] == ["-m"]
    target = args[split + as_module :]
    if not target:
        parser.error("-m needs the name of a module" if as_module else "there is no script to run")
    try:
        _prepare(target, as_module, options.force)
        namespace = _new_main()
        program = _load_module(target[0]) if as_module else _load_script(target[0])
    except (_CannotRunError, TheanoConflictError) as error:
        print(f"ostinato run: {error}", file=sys.stderr)
        return 2
    namespace.update(program.attributes)
    exec(program.code, namespace)
    return 0


def _prepare(target: list[str], as_module: bool, force: bool) -> None:
    """`sys.path`, `sys.argv` and `theano` as the program is to find them."""
    if not as_module:
        _check_readable(target[0])
    if not sys.flags.safe_path:  # with -P, Python has put no folder in front
        sys.path[:1] = [os.getcwd() if as_module else os.path.dirname(os.path.realpath(target[0]))]
    sys.argv = list(target)
    # After sys.path is the program's: it decides whether the program would find a real Theano.
    install(force=force)


def _run_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ostinato run",
        usage="ostinato run [-h] [--force] (script.py | -m module) [args ...]",
        description="Run a script or a module as python would, with `import theano` giving Ostinato. "
        "All that follows the script or the module's name is passed to it.",
        allow_abbrev=False,
    )
    parser.add_argument("--force", action="store_true", help="hide a real Theano that is installed")
    return parser


def _check_readable(path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise _CannotRunError(f"cannot open {path!r}: {error.strerror}") from None


def _new_main() -> dict[str, Any]:
    """The namespace of a new `__main__`; tracebacks from now on start in it."""
    module = sys.modules["__main__"] = ModuleType("__main__")
    namespace = vars(module)
    shown = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        start = trace
        while start is not None and start.tb_frame.f_globals is not namespace:
            start = start.tb_next
        if start is None and not isinstance(error, SyntaxError):
            start = trace  # never got as far as the program: then the frames here are what tells why
        shown(kind, error.with_traceback(start), start)

    sys.excepthook = hook
    return namespace


def _load_script(path: str) -> _Program:
    absolute = os.path.abspath(path)  # as Python does, so that it outlives os.chdir
    with open(absolute, "rb") as file:
        code = compile(file.read(), absolute, "exec", dont_inherit=True)
    return _Program(code, _attributes(absolute, SourceFileLoader("__main__", absolute), None))


def _load_module(name: str) -> _Program:
    spec = _find_module(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = _find_module(f"{name}.__main__")
    loader = spec.loader if spec is not None else None
    code = loader.get_code(spec.name) if spec is not None and isinstance(loader, InspectLoader) else None
    if spec is None or code is None:
        raise _CannotRunError(f"there is no module {name!r} that can be run")
    sys.argv[0] = spec.origin or name
    return _Program(code, _attributes(spec.origin, loader, spec))


def _find_module(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except ModuleNotFoundError as error:
        # A package of the name itself, or something that its packages import?
        if error.name and f"{name}.".startswith(f"{error.name}."):
            return None
        raise


def _attributes(file: str | None, loader: Any, spec: ModuleSpec | None) -> dict[str, Any]:
    return {
        "__builtins__": builtins,
        "__cached__": spec.cached if spec else None,
        "__file__": file,
        "__loader__": loader,
        "__package__": spec.parent if spec else None,
        "__spec__": spec,
    }


# ---- info -----------------------------------------------------------------------------------------


def _info(args: list[str]) -> int:
    """Print what a report of a problem should contain."""
    argparse.ArgumentParser(prog="ostinato info", description=_COMMANDS["info"].summary).parse_args(args)
    from ostinato.backends import BACKENDS
    from ostinato.config import config

    rows = {"ostinato": __version__, "python": f"{platform.python_version()} ({platform.platform()})"}
    rows |= {name: str(importlib.import_module(name).__version__) for name in ("numpy", "scipy")}
    rows |= {name: _version(name) for name in ("torch", "triton")}
    rows["backends"] = ", ".join(sorted(BACKENDS))
    for name, value in rows.items():
        print(f"{name:<10}{value}")
    print(f"\nconfig\n{config}")
    return 0


def _version(package: str) -> str:
    """Of what need not be installed, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


# ---- cache ----------------------------------------------------------------------------------------


def _cache(args: list[str]) -> int:
    """Tell about the compiled code that is kept on disk, or delete it."""
    parser = argparse.ArgumentParser(prog="ostinato cache", description=_COMMANDS["cache"].summary)
    parser.add_argument("action", choices=["info", "clear"], help="tell where it is and how much; or delete it")
    action = parser.parse_args(args).action
    from ostinato.backends.llvm.cache import open_store

    store = open_store()
    if action == "clear":
        found, left = store.clear(), len(store.entries())
        print(f"{found} deleted" + (f", {left} could not be" if left else ""))
        return 1 if left else 0
    kept = store.entries()
    rows = {
        "directory": store.directory or "none",
        "used": "yes" if store.is_usable() else f"no: {store.problem}",
        "entries": len(kept),
        "size": f"{sum(k.n_bytes for k in kept) / 2**20:.1f} MB of at most {store.cap >> 20} MB",
    }
    for name, value in rows.items():
        print(f"{name:<10}{value}")
    return 0


# ---- conformance ----------------------------------------------------------------------------------


def _conformance(args: list[str]) -> int:
    """Run the suite of loop programs."""
    from ostinato.testing.conformance.command import main

    return main(args)


_COMMANDS: dict[str, _Command] = {
    "run": _Command("run a script written for Theano, unchanged", _run),
    "info": _Command("show versions and configuration", _info),
    "cache": _Command("show or clear the compiled code that is kept on disk", _cache),
    "conformance": _Command("compare loops, and their derivatives, with references and other libraries", _conformance),
}
