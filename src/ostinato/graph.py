"""Nodes and Graphs: the one representation of a computation, and how to walk it.

A `Node` is an op applied to inputs. Nodes are immutable and interned: the same op on the same inputs
with the same parameters is the same object, so common subexpressions are one and equality is `is`.
A `Graph` is closed: everything its results need is reached from its params, constants and shared
variables. All walks are iterative, so a chain of any length is fine. There is no logic here beyond
structure; what an op means stands in `ostinato.ops`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ostinato.errors import SourceLine, caller
from ostinato.types import TensorType, Type

if TYPE_CHECKING:
    from ostinato.ops.op import Op


class Node:
    """An op applied to inputs; made by `make`, never directly.

    Attributes
    ----------
    op : Op
    inputs : tuple of Node
    params : tuple
        The op's static parameters, hashable, in the order of `op.params`.
    type : TensorType or TupleType
        Computed by `op.infer`, never given by the caller.

    Notes
    -----
    Name, source line and tag are notes on the side: they are no part of what makes a node the same
    as another one, and of two equal expressions the first one's notes are kept.
    """

    __slots__ = ("__weakref__", "_name", "_sizes", "_source", "_tag", "inputs", "op", "params", "type")

    op: Op
    inputs: tuple[Node, ...]
    params: tuple[Any, ...]
    type: Any
    _name: str | None
    _source: SourceLine | None
    _tag: SimpleNamespace | None
    _sizes: tuple[Any, ...] | None

    @property
    def name(self) -> str | None:
        """The user's name of this variable, or None."""
        return self._name

    @name.setter
    def name(self, name: str | None) -> None:
        self._name = name

    @property
    def source(self) -> SourceLine | None:
        """The line of the user's program that made this node first."""
        return self._source

    @property
    def tag(self) -> SimpleNamespace:
        """A place for the user's own notes, as in Theano (`x.tag.test_value`)."""
        if self._tag is None:
            self._tag = SimpleNamespace()
        return self._tag

    def __copy__(self) -> Node:
        return self  # immutable and interned: a copy would be another, unequal node

    def __deepcopy__(self, memo: object) -> Node:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("symbolic variables cannot be pickled; pickle the values or rebuild the graph")


# The class of new nodes: by the name of their op, else by their type. Filled by `ostinato.tensor`.
VARIABLE_CLASSES: dict[str | type, type[Node]] = {}

_TABLE: WeakValueDictionary[tuple[Any, ...], Node] = WeakValueDictionary()
_LOCK = threading.RLock()


def make(op: Op, inputs: tuple[Node, ...], params: tuple[Any, ...] = ()) -> Any:
    """The node of `op` on `inputs`: the existing one if there is one, else a new one.

    The type comes from `op.infer`, which raises if the inputs do not fit.
    """
    key = (op, inputs, params)
    node = _TABLE.get(key)
    if node is None:
        node = _new(op, inputs, params)
        node._source = caller()
        with _LOCK:
            node = _TABLE.setdefault(key, node)
    return node


def _new(op: Op, inputs: tuple[Node, ...], params: tuple[Any, ...]) -> Node:
    type_ = op.infer(*inputs, **dict(zip(op.params, params, strict=True)))
    cls = VARIABLE_CLASSES.get(op.name) or VARIABLE_CLASSES.get(type(type_), Node)
    node: Node = object.__new__(cls)
    node.op, node.inputs, node.params, node.type = op, inputs, params, type_
    node._name, node._source, node._tag, node._sizes = None, None, None, None
    return node


def rebuild(node: Node, inputs: tuple[Node, ...]) -> Any:
    """The same op on other inputs; name and source line go along."""
    if inputs == node.inputs:
        return node
    key = (node.op, inputs, node.params)
    new = _TABLE.get(key)
    if new is None:
        new = _new(*key)
        new._source, new._name = node._source, node._name
        with _LOCK:
            new = _TABLE.setdefault(key, new)
    return new


def topological(roots: Iterable[Node], stop: Container[Node] = ()) -> list[Node]:
    """All nodes that `roots` need, each once, inputs before users; `stop` nodes are not entered."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack: list[Any] = list(roots)[::-1]  # below a None lies a node whose inputs have come
    while stack:
        node = stack.pop()
        if node is None:
            order.append(stack.pop())
        elif node not in seen:
            seen.add(node)
            if not node.inputs or node in stop:
                order.append(node)
            else:
                stack += (node, None)
                stack += [i for i in node.inputs[::-1] if i not in seen]
    return order


def substitute(roots: Iterable[Node], mapping: Mapping[Node, Node]) -> list[Any]:
    """The roots with every key of `mapping` replaced by its value, all at once."""
    return rewrite_nodes(roots, lambda node: None, mapping)


def rewrite_nodes(
    roots: Iterable[Node], rule: Callable[[Node], Node | None], mapping: Mapping[Node, Node] | None = None
) -> list[Any]:
    """Rebuild the roots bottom-up; `rule` may replace a node whose inputs are already new."""
    new: dict[Node, Node] = dict(mapping or {})
    roots = tuple(roots)
    for node in topological(roots, stop=new.keys()):
        if node not in new:
            candidate = rebuild(node, tuple([new[i] for i in node.inputs]))
            replacement = rule(candidate)
            new[node] = candidate if replacement is None else replacement
    return [new[r] for r in roots]


def redirect(roots: Iterable[Node], alias: Mapping[Node, Node]) -> list[Any]:
    """The roots with every key of `alias` replaced by its value, in the replacements' own inputs too."""
    new: dict[Node, Node] = {}
    roots = tuple(roots)
    for root in roots:
        stack = [(root, False)]
        while stack:
            node, expanded = stack.pop()
            needs = (alias[node],) if node in alias else node.inputs
            if expanded:
                new[node] = new[needs[0]] if node in alias else rebuild(node, tuple([new[i] for i in needs]))
            elif node not in new:
                stack.append((node, True))
                stack.extend((i, False) for i in needs if i not in new)
    return [new[r] for r in roots]


def dependents(roots: Iterable[Node], sources: Collection[Node], barriers: Collection[Node] = ()) -> set[Node]:
    """The nodes below `roots` (included) that are among `sources` or need one of them.

    What needs a source only through one of `barriers` does not count. A source may need another source.
    """
    found: set[Node] = set()
    for node in topological(roots, stop=barriers):
        if node in sources or (node not in barriers and any(i in found for i in node.inputs)):
            found.add(node)
    return found


def leaves(roots: Iterable[Node]) -> list[Node]:
    """The nodes without inputs that `roots` need: inputs, shared variables, constants."""
    return [n for n in topological(roots) if not n.inputs]


@dataclass(frozen=True)
class Graph:
    """A closed computation: `results` as a function of `params`.

    Shared variables and constants need not be params; any other leaf must be.
    """

    params: tuple[Node, ...]
    results: tuple[Node, ...]

    @property
    def param_types(self) -> tuple[TensorType, ...]:
        """The types of the params."""
        return tuple(p.type for p in self.params)

    @property
    def result_types(self) -> tuple[TensorType, ...]:
        """The types of the results."""
        return tuple(r.type for r in self.results)

    def nodes(self) -> list[Node]:
        """All nodes, inputs before users; params that no result needs are left out."""
        return topological(self.results)

    def apply(self, arguments: Sequence[Node]) -> list[Any]:
        """The results with `arguments` in the place of the params."""
        return substitute(self.results, dict(zip(self.params, arguments, strict=True)))

    def __str__(self) -> str:
        from ostinato.printing import format_graph

        return format_graph(self)


__all__ = [
    "Graph",
    "Node",
    "Type",
    "dependents",
    "leaves",
    "make",
    "rebuild",
    "redirect",
    "rewrite_nodes",
    "substitute",
    "topological",
]
