"""Digests: a name for what a Graph computes, and for the compiler that it meets.

Two graphs of one digest are the same up to the identity of their nodes, the names of variables and
loops, and source lines: a compiler makes the same code of them. So the digest is the key under which
code is kept. A digest is the same in every process.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from ostinato._version import __version__
from ostinato.graph import Graph, Node, topological
from ostinato.ops import OPS
from ostinato.ops.leaf import CONSTANT, INPUT, Literal
from ostinato.ops.loop import LoopSpec

# The package's own ops. What another op means nobody can know from its name.
_OWN = frozenset(OPS.values())
# What only messages need.
_NOTES = {"trip_count": {"labels"}, "check_rows": {"label"}}
_PLAIN = (str, bytes, int, bool, type(None))

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
# Whose text decides what becomes of a graph: these folders, and the modules beside this one.
_COMPILER = ("", "ops", "rewrite", "lower", os.path.join("backends", "llvm"))
_IMPORTED = time.time()


class NoDigestError(Exception):
    """There is no digest; the message says why."""


# ---- graphs ---------------------------------------------------------------------------------------


def graph_digest(graph: Graph) -> str:
    """The digest of a graph, in hexadecimal.

    Raises
    ------
    NoDigestError
        If the graph has an op or a parameter that is not Ostinato's own.
    """
    lines = _Lines()
    lines.add_graph(graph)
    return hashlib.sha256("\n".join(lines.lines).encode()).hexdigest()


class _Lines:
    """A graph as text, one line per node; bodies of loops stand in front of their loops.

    Nodes are numbered through all bodies, since bodies may share nodes, and passes look at what they share.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.numbers: dict[Node, int] = {}
        self._types: dict[Any, str] = {}

    def add_graph(self, graph: Graph) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Write the nodes of a graph; the numbers of its params and of its results."""
        for node in topological([*graph.params, *graph.results], stop=self.numbers):
            if node not in self.numbers:
                self._add_node(node)
        found = tuple([self.numbers[n] for n in graph.params]), tuple([self.numbers[n] for n in graph.results])
        self.lines.append(f"graph {found}")
        return found

    def _add_node(self, node: Node) -> None:
        if node.op not in _OWN:
            raise NoDigestError(f"{node.op} is no op of Ostinato's own")
        inputs = [self.numbers[i] for i in node.inputs]
        params = [] if node.op is INPUT else self._params(node)
        line = f"{node.op.name} {inputs} {params} {self._type(node.type)}"
        self.numbers[node] = len(self.numbers)
        self.lines.append(line)

    def _params(self, node: Node) -> list[Any]:
        if node.op is CONSTANT:
            return _literal(node.params[0])
        notes = _NOTES.get(node.op.name, ())
        named = zip(node.op.params, node.params, strict=True)
        return [self._canonical(value) for name, value in named if name not in notes]

    def _type(self, type_: Any) -> str:
        text = self._types.get(type_)
        if text is None:
            text = self._types[type_] = repr(self._canonical(type_))
        return text

    def _canonical(self, value: Any) -> Any:
        """A parameter as tuples and lists of Python's plain values, different for different parameters."""
        if type(value) in _PLAIN:
            return value
        if type(value) is tuple:
            return tuple([self._canonical(v) for v in value])
        if isinstance(value, (float, np.floating)):
            return [type(value).__name__, float(value).hex()]
        if isinstance(value, np.bool_ | np.integer):
            return value.item()
        if isinstance(value, Graph):
            return [*self.add_graph(value)]
        if isinstance(value, Literal):
            return _literal(value)
        if is_dataclass(value) and type(value).__module__.startswith("ostinato."):
            skipped = {"name"} if isinstance(value, LoopSpec) else set()
            shown = [f.name for f in fields(value) if f.name not in skipped]
            return [type(value).__qualname__, *[(n, self._canonical(getattr(value, n))) for n in shown]]
        raise NoDigestError(f"a parameter is a {type(value).__name__}")


def _literal(literal: Literal) -> list[Any]:
    array = literal.array
    return [array.dtype.str, array.shape, literal.weak, hashlib.sha256(array.tobytes()).hexdigest()]


# ---- the compiler ---------------------------------------------------------------------------------


@cache
def compiler_digest() -> str:
    """The digest of all that turns a graph into code, LLVM apart: the source of the compiler, versions.

    Raises
    ------
    NoDigestError
        If the source cannot be read, or was changed after it was imported.
    """
    parts = [f"{__version__}\n{np.__version__}\n".encode()]
    try:
        parts.append(_scipy_version())
        for folder in _COMPILER:
            parts += _source(os.path.join(_PACKAGE, folder))
    except OSError as error:
        raise NoDigestError(f"the source of the compiler cannot be read: {error}") from None
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _scipy_version() -> bytes:
    """SciPy folds constants, as NumPy does; but it is not imported for its version's sake, which takes long."""
    spec = find_spec("scipy")
    if spec is None or spec.origin is None:
        raise NoDigestError("SciPy is not found")
    return _read(os.path.join(os.path.dirname(spec.origin), "version.py"))


def _source(folder: str) -> list[bytes]:
    """The names and texts of the modules of a folder."""
    names = sorted(n for n in os.listdir(folder) if n.endswith(".py"))
    if not names:
        raise NoDigestError("the compiler is installed without its source")
    texts = [_read(os.path.join(folder, n)) for n in names]
    return [p for n, text in zip(names, texts, strict=True) for p in (f"{n} {len(text)}\n".encode(), text)]


def _read(path: str) -> bytes:
    """The text of a module that has not changed since it was imported; by the fastest way, as there are many."""
    number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        about = os.fstat(number)
        if about.st_mtime > _IMPORTED:
            raise NoDigestError(f"{os.path.basename(path)} was changed after it was imported")
        text = os.read(number, about.st_size)
    finally:
        os.close(number)
    if len(text) != about.st_size:
        raise NoDigestError(f"{os.path.basename(path)} cannot be read as a whole")
    return text
