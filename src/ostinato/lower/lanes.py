"""Along which dimension the steps of a loop can be divided among threads: its lanes.

A dimension is one of lanes if every op of the body keeps its elements apart: elementwise ops, views, sums over
other dimensions, the rows of h @ W. To find it, dimensions that an op lines up with each other are put into one class,
and classes whose elements an op brings together (a sum over them, the inner dimension of a product, an index) are ruled
out. Integers that are sizes of a dimension belong to its class: a part of the lanes has a smaller size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ostinato.graph import Graph, Node
from ostinato.lower.rules import ELEMENTWISE
from ostinato.ops.control import IDENTITIES
from ostinato.ops.costs import COSTS
from ostinato.ops.leaf import CONSTANT
from ostinato.ops.loop import LOOP, LoopSpec, body_of, sizes_outside, split
from ostinato.ops.sizes import Size, is_met, sizes
from ostinato.types import TensorType, TupleType

# A dimension of a node, or (None) the value of an integer that may be a size.
Place = tuple[Node, int | None]
_FULL = (False, False, False)


@dataclass(frozen=True)
class Lanes:
    """The dimension of lanes of every param and result of a body; None for what all lanes share.

    For an integer that is the number of lanes it is -1.
    """

    axes: dict[Node, int | None]
    has_products: bool


def lanes_of(spec: LoopSpec) -> Lanes | None:
    """The lanes of a loop; None if there are none that all of its outputs and array carries have."""
    classes = _Classes()
    classes.enter(spec.body)
    body = body_of(spec)
    firsts = [x for x in (*body.carries, *body.outputs) if x.type.ndim]
    for axis in range(firsts[0].type.ndim if firsts else 0):
        axes = classes.axes(spec.body, (firsts[0], axis))
        if axes is None or any(axes[o] is None for o in body.outputs):
            continue
        pairs = zip(body.carries, body.next_carries, strict=True)
        if all(axes[c] == axes[n] for c, n in pairs) and -1 not in [axes[x] for x in (*body.carries, *body.outputs)]:
            return Lanes(axes, _has_products(spec.body))
    return None


def _has_products(graph: Graph) -> bool:
    nodes = graph.nodes()
    return any(n.op.name == "matmul" or (n.op is LOOP and _has_products(n.params[0].body)) for n in nodes)


@dataclass(frozen=True)
class Grid:
    """All dimensions of lanes of a loop, in the order of its arrays with the most dimensions.

    Attributes
    ----------
    rank : how many there are.
    axes : per node which of its dimensions they are; None for one that it does not have.
    """

    rank: int
    axes: dict[Node, tuple[int | None, ...]]


def grid_of(spec: LoopSpec, fewest: int) -> Grid | None:
    """All dimensions whose elements no op of a loop brings together; None unless array carries and outputs have them.

    Those of less than `fewest` elements, of a number that is known beforehand, are none.
    """
    if any(n.op is LOOP for n in spec.body.nodes()):
        return None
    classes = _Classes(of_constants=True)
    classes.enter(spec.body)
    body = body_of(spec)
    arrays = [x for x in (*body.carries, *body.outputs) if x.type.ndim]
    if not arrays:
        return None
    widest = max(arrays, key=lambda x: x.type.ndim)
    axes = classes.grid(spec.body, widest, fewest)
    if axes is None:
        return None
    required = [*body.outputs, *[x for x in (*body.carries, *body.next_carries) if x.type.ndim]]
    return None if any(None in axes[x] for x in required) else Grid(len(axes[widest]), axes)


def costs(graph: Graph) -> Iterator[tuple[int, list[Size]]]:
    """What a step costs: numbers of additions, each to be multiplied by some sizes."""
    for node in graph.nodes():
        if node.op.name == "matmul":
            yield 1, [*sizes(node), sizes(node.inputs[0])[-1]]
        elif node.op.name in ELEMENTWISE and node.type.ndim:
            yield COSTS.get(node.op.name, 1), list(sizes(node))
        elif node.op is LOOP:
            spec: LoopSpec = node.params[0]
            given, inner = split(spec, node.inputs), body_of(spec)
            for cost, own in costs(spec.body):
                yield cost, [_most(given.trip_count), *sizes_outside(own, given, inner)]


def _most(steps: Any) -> Any:
    """The number of steps of an inner loop that does not depend on the one around it: those of a whole block."""
    return steps.inputs[1] if steps.op.name == "minimum" else steps


class _Classes:
    """Dimensions that belong together."""

    def __init__(self, of_constants: bool = False) -> None:
        self._of_constants = of_constants  # whether constants of equal elements have lanes
        self._parents: dict[Place, Place] = {}
        self._mixed: set[Place] = set()
        self._entered: list[Node] = []
        self._tests: set[Node] = set()  # whether a size is 1, for a choice of sizes and nothing else

    # ---- classes ----

    def _root(self, place: Place) -> Place:
        parents = self._parents
        while (above := parents.get(place)) is not None:
            if (further := parents.get(above)) is not None:
                parents[place] = further  # the way is half as long for whoever comes next
            place = above
        return place

    def join(self, a: Place, b: Place) -> None:
        x, y = self._root(a), self._root(b)
        if x != y:
            self._parents[x] = y
            if x in self._mixed:
                self._mixed.add(y)

    def mix(self, *places: Place) -> None:
        """Rule out the classes of places: an op brings their elements together."""
        self._mixed.update(map(self._root, places))

    def mix_all(self, nodes: Iterable[Node]) -> None:
        for n in nodes:
            if isinstance(n.type, TensorType):
                self.mix(*_places(n))

    def axes(self, body: Graph, chosen: Place) -> dict[Node, int | None] | None:
        """Where each param and result has the class of a place; None if the class cannot be divided."""
        root = self._root(chosen)
        if root in self._mixed:
            return None
        found: dict[Node, int | None] = {}
        for node in {**dict.fromkeys(self._entered), **dict.fromkeys((*body.params, *body.results))}:
            if isinstance(node.type, TupleType):
                continue
            own = [a for n, a in _places(node) if self._root((n, a)) == root]
            known = [a for a in own if a is not None and node.type.shape[a] is not None]
            if len(own) > 1 or known:  # of sizes that are known there is no part
                return None
            found[node] = (-1 if own[0] is None else own[0]) if own else None
        return found

    def grid(self, body: Graph, widest: Node, fewest: int) -> dict[Node, tuple[int | None, ...]] | None:
        """Where each node has the dimensions of one that are lanes; None if there are none, or a node has one twice."""
        roots = [
            root
            for a, size in enumerate(widest.type.shape)
            if (root := self._root((widest, a))) not in self._mixed and (size is None or size >= fewest)
        ]
        found: dict[Node, tuple[int | None, ...]] = {}
        for node in dict.fromkeys((*self._entered, *body.params, *body.results)):
            if isinstance(node.type, TupleType):
                return None
            own = [self._root((node, a)) for a in range(node.type.ndim)]
            if any(own.count(root) > 1 for root in roots):
                return None
            found[node] = tuple([own.index(root) if root in own else None for root in roots])
        return found if roots else None

    # ---- what ops do ----

    def enter(self, graph: Graph) -> None:
        self._entered += graph.params
        choices = [n for n in graph.nodes() if is_met(n)]
        others = [n for n in graph.nodes() if n not in choices]
        tests = {n.inputs[0] for n in choices} - {i for n in others for i in n.inputs} - set(graph.results)
        self._tests = self._tests | tests
        for node in graph.nodes():
            self._entered.append(node)
            rule = _RULES.get(node.op.name)
            if node.op.name in ELEMENTWISE:
                self._elementwise(node)
            elif rule is not None:
                rule(self, node)
            elif node.inputs or node.op is CONSTANT:
                self.mix_all([node, *node.inputs])

    def _loop(self, node: Node) -> None:
        """A loop in the loop: its steps are apart from all, and its params are what it is given."""
        spec: LoopSpec = node.params[0]
        given, body = split(spec, node.inputs), body_of(spec)
        self.mix((given.trip_count, None), (body.t, None))
        if spec.has_until or spec.is_thinned:
            self.mix_all([*node.inputs, *spec.body.params])
        for p, x in zip(body.sequences, given.sequences, strict=True):
            self._rows(x, p)
        pairs = [*zip(body.carries, given.carries, strict=True), *zip(body.invariants, given.invariants, strict=True)]
        for p, x in [*pairs, *zip(body.carries, body.next_carries, strict=True)]:
            self._alike(p, x)
        self.enter(spec.body)

    def _item(self, node: Node) -> None:
        loop, index = node.inputs[0], node.params[0]
        if loop.op is not LOOP or index == len(loop.type.items) - 1:
            self.mix_all([node])
        elif index < loop.params[0].n_carries:
            self._alike(node, loop.params[0].body.results[index])
        else:
            self._rows(node, loop.params[0].body.results[index])

    def _alike(self, a: Node, b: Node) -> None:
        for x, y in zip(_places(a), _places(b), strict=True):
            self.join(x, y)

    def _rows(self, whole: Node, row: Node) -> None:
        self.mix((whole, 0))
        if not row.type.ndim:
            self.mix((row, None))
        for a in range(row.type.ndim):
            self.join((whole, 1 + a), (row, a))

    def _elementwise(self, node: Node) -> None:
        if is_met(node):
            self.join((node, None), (node.inputs[1], None))
            self.join((node, None), (node.inputs[2], None))
            return
        for x in node.inputs:
            self._line_up(x, node)
            if x.type.ndim == 0 and node not in self._tests:
                self.mix((x, None))
        if node.type.ndim == 0:
            self.mix((node, None))

    def _line_up(self, x: Node, out: Node) -> None:
        """By the rules of broadcasting."""
        lead = out.type.ndim - x.type.ndim
        for a, size in enumerate(x.type.shape):
            if size != 1:
                self.join((x, a), (out, lead + a))

    def _size(self, node: Node) -> None:
        self.join((node, None), (node.inputs[0], node.params[0]))

    def _same(self, node: Node) -> None:
        self._line_up(node.inputs[0], node)

    def _sized(self, node: Node) -> None:
        """Ops whose further inputs are the sizes of the result."""
        x, *wanted = node.inputs
        lead = x.type.ndim - node.type.ndim
        for a, w in enumerate(wanted):
            self.join((w, None), (node, a))
            if lead + a < 0 or x.type.shape[lead + a] == 1:
                continue
            if node.type.shape[a] == 1:
                self.mix((x, lead + a))
            else:
                self.join((x, lead + a), (node, a))
        self.mix(*[(x, a) for a in range(max(lead, 0))])

    def _dimshuffle(self, node: Node) -> None:
        x, order = node.inputs[0], node.params[0]
        for a, o in enumerate(order):
            if o != "x":
                self.join((x, o), (node, a))

    def _subtensor(self, node: Node) -> None:
        self._part(node.inputs[0], node, node.params[0])
        self.mix(*[(v, None) for v in node.inputs[1:]])

    def _part(self, x: Node, part: Node, pattern: Any) -> None:
        """Whole dimensions line up with those of the part, from the last one; of others the part has something."""
        lead = part.type.ndim
        for a, entry in reversed(list(enumerate(pattern))):
            if entry is not None:
                lead -= 1
            if entry == _FULL and lead >= 0:
                if part.type.shape[lead] != 1 or x.type.shape[a] == 1:
                    self.join((x, a), (part, lead))
            else:
                self.mix((x, a))
                if entry is not None and lead >= 0:
                    self.mix((part, lead))

    def _write(self, node: Node) -> None:
        x, y, *values = node.inputs
        self._line_up(x, node)
        self._part(node, y, node.params[0])
        self.mix(*[(v, None) for v in values])

    def _reduction(self, node: Node) -> None:
        x, axes = node.inputs[0], node.params[0]
        axes = axes if isinstance(axes, tuple) else (axes,)
        kept = iter(range(node.type.ndim))
        for a in range(x.type.ndim):
            if a in axes:
                self.mix((x, a))
            else:
                self.join((x, a), (node, next(kept)))

    def _along(self, node: Node) -> None:
        """Ops that bring elements along one dimension together, and keep it."""
        axis = node.params[0]
        for x in node.inputs:
            for a in range(x.type.ndim):
                self.mix((x, a)) if a == axis else self.join((x, a), (node, a))

    def _matmul(self, node: Node) -> None:
        x, y = node.inputs
        n = node.type.ndim
        self.join((x, x.type.ndim - 2), (node, n - 2))
        self.join((y, y.type.ndim - 1), (node, n - 1))
        self.mix((x, x.type.ndim - 1), (y, y.type.ndim - 2))
        for z in (x, y):
            for a in range(z.type.ndim - 2):
                if z.type.shape[a] != 1:
                    self.join((z, a), (node, n - z.type.ndim + a))

    def _constant(self, node: Node) -> None:
        if self._of_constants and node.type.ndim and is_uniform(node.params[0].array):
            return
        self.mix(*[p for p in _places(node) if p[1] is None or node.type.shape[p[1]] != 1])


_RULES: dict[str, Callable[[_Classes, Node], None]] = {
    "size": _Classes._size,
    **dict.fromkeys(IDENTITIES, _Classes._same),
    "sum_to": _Classes._sized,
    "broadcast_to": _Classes._sized,
    "specify_shape": _Classes._sized,
    "dimshuffle": _Classes._dimshuffle,
    "subtensor": _Classes._subtensor,
    "set_subtensor": _Classes._write,
    "inc_subtensor": _Classes._write,
    "cumsum": _Classes._along,
    "concatenate": _Classes._along,
    "matmul": _Classes._matmul,
    "loop": _Classes._loop,
    "item": _Classes._item,
    "constant": _Classes._constant,
    **dict.fromkeys(("sum", "prod", "max", "min", "any", "all", "argmax", "argmin"), _Classes._reduction),
}


def _places(node: Node) -> list[Place]:
    """The dimensions of a node; its value if it has none."""
    return [(node, a) for a in range(node.type.ndim)] or [(node, None)]


def is_uniform(array: np.ndarray[Any, Any]) -> bool:
    """Whether all elements are equal; and there is one."""
    return bool(array.size) and bool((array == array.flat[0]).all())
