"""A body for one lane: what a step computes for a single one of many lanes that do not know of each other.

before:  h: float64[?], x: float64[?, 2]    after:  h: float64, x: float64[2]
         h * exp(x[:, 0])                           h * exp(x[0])

The dimensions of lanes are found in `lanes.py`. Without them arrays become scalars, or arrays of what a lane has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ostinato.graph import Graph, Node, make
from ostinato.lower.lanes import is_uniform
from ostinato.lower.rules import ELEMENTWISE
from ostinato.ops.control import IDENTITIES
from ostinato.ops.leaf import CONSTANT, constant, new_input
from ostinato.ops.movement import DIMSHUFFLE
from ostinato.types import TensorType

# Per node its dimensions that are lanes.
LaneAxes = Mapping[Node, tuple[int, ...]]

_FULL = (False, False, False)


class NotOneLaneError(Exception):
    """An op has no form for one lane."""


def one_lane(body: Graph, axes: LaneAxes) -> Graph:
    """The graph that computes one lane of the results of `body` from one lane of its params.

    Raises
    ------
    NotOneLaneError
        If there is none.
    """
    return _OneLane(axes).graph(body)


class _OneLane:
    """One body being rewritten."""

    def __init__(self, axes: LaneAxes) -> None:
        self.axes = axes
        self.new: dict[Node, Node] = {}

    def graph(self, body: Graph) -> Graph:
        for p in body.params:
            self.new[p] = self._param(p)
        # Sizes that only say how to broadcast are not needed any more: a node is made when it is asked for.
        stack = list(body.results)
        while stack:
            node = stack[-1]
            waiting = [] if node in self.new else [i for i in self._needs(node) if i not in self.new]
            if waiting:
                stack += waiting
                continue
            stack.pop()
            if node not in self.new:
                self.new[node] = self._made(node)
        return Graph(tuple([self.new[p] for p in body.params]), tuple([self.new[r] for r in body.results]))

    def _param(self, p: Node) -> Node:
        lanes = self.axes[p]
        if not lanes:
            return p
        shape = [s for a, s in enumerate(p.type.shape) if a not in lanes]
        return new_input(TensorType(p.type.dtype, tuple(shape)), p.name)

    def _needs(self, node: Node) -> tuple[Node, ...]:
        if node.op is CONSTANT:
            return ()
        if node.op.name == "size":
            if node.params[0] in self.axes[node.inputs[0]]:
                raise NotOneLaneError("the number of lanes")
            return node.inputs
        if node.op.name in _SIZED:
            kept = [w for a, w in enumerate(node.inputs[1:]) if a not in self.axes[node]]
            return (node.inputs[0], *kept)
        return node.inputs

    def _made(self, node: Node) -> Node:
        rule = _RULES.get(node.op.name)
        if node.op.name in ELEMENTWISE:
            return self._elementwise(node)
        if rule is not None:
            return rule(self, node)
        if any(self.axes[n] for n in (node, *node.inputs)):
            raise NotOneLaneError(node.op.name)
        return self._remade(node, [self.new[i] for i in node.inputs])

    def _remade(self, node: Node, inputs: list[Node], params: tuple[Any, ...] | None = None) -> Any:
        return make(node.op, tuple(inputs), node.params if params is None else params)

    # ---- ops ----

    def _elementwise(self, node: Node) -> Node:
        return self._remade(node, [self._operand(x, node) for x in node.inputs])

    def _operand(self, x: Node, out: Node) -> Node:
        """An operand, without those of its dimensions of size 1 that broadcast along lanes."""
        lead, own = out.type.ndim - x.type.ndim, self.axes[x]
        kept = [a for a in range(x.type.ndim) if a not in own]
        gone = [k for k, a in enumerate(kept) if lead + a in self.axes[out]]
        return self._without(self.new[x], gone)

    def _without(self, x: Node, gone: list[int]) -> Any:
        if not gone:
            return x
        return make(DIMSHUFFLE, (x,), (tuple([a for a in range(x.type.ndim) if a not in gone]),))

    def _rest(self, node: Node) -> list[int]:
        return [a for a in range(node.type.ndim) if a not in self.axes[node]]

    def _same(self, node: Node) -> Node:
        return self._remade(node, [self.new[node.inputs[0]]])

    def _constant(self, node: Node) -> Node:
        array = node.params[0].array
        if not self.axes[node]:
            return node
        if not is_uniform(array):
            raise NotOneLaneError("constant")
        shape = [array.shape[a] for a in self._rest(node)]
        return constant(np.full(shape, array.flat[0], array.dtype))

    def _sized(self, node: Node) -> Node:
        """Ops whose further inputs are the sizes of the result."""
        x, *wanted = node.inputs
        kept = [self.new[w] for a, w in enumerate(wanted) if a not in self.axes[node]]
        inner = self._operand(x, node) if node.op.name == "broadcast_to" else self.new[x]
        if not kept and not inner.type.ndim:
            return inner
        return self._remade(node, [inner, *kept])

    def _dimshuffle(self, node: Node) -> Node:
        x, order = node.inputs[0], node.params[0]
        places = {a: k for k, a in enumerate(self._rest(x))}
        new = tuple([o if o == "x" else places[o] for a, o in enumerate(order) if a not in self.axes[node]])
        if new == tuple(range(len(places))):
            return self.new[x]
        return self._remade(node, [self.new[x]], (new,))

    def _subtensor(self, node: Node) -> Node:
        x, *values = node.inputs
        pattern = self._pattern(x, node.params[0])
        inner = self.new[x]
        return self._remade(node, [inner, *[self.new[v] for v in values]], (pattern,)) if pattern else inner

    def _pattern(self, x: Node, pattern: Any) -> tuple[Any, ...]:
        if any(pattern[a] != _FULL for a in self.axes[x]):
            raise NotOneLaneError("a part of the lanes")
        return tuple([pattern[a] for a in self._rest(x)])

    def _write(self, node: Node) -> Node:
        x, y, *values = node.inputs
        pattern = self._pattern(x, node.params[0])
        if not pattern:
            raise NotOneLaneError("writing all lanes")
        # The part lines up with the dimensions that the pattern keeps.
        kept = [a for a, p in enumerate(node.params[0]) if p is not None]
        lead = len(kept) - y.type.ndim
        own = [a for a in range(y.type.ndim) if a not in self.axes[y]]
        gone = [k for k, a in enumerate(own) if kept[lead + a] in self.axes[node]]
        part = self._without(self.new[y], gone)
        return self._remade(node, [self.new[x], part, *[self.new[v] for v in values]], (pattern,))

    def _reduction(self, node: Node) -> Node:
        x, given = node.inputs[0], node.params[0]
        places = {a: k for k, a in enumerate(self._rest(x))}
        new = tuple([places[a] for a in given]) if isinstance(given, tuple) else places[given]
        return self._remade(node, [self.new[x]], (new,)) if new != () else self.new[x]

    def _along(self, node: Node) -> Node:
        """Ops that bring elements along one dimension together, and keep it."""
        axis = self._rest(node).index(node.params[0])
        return self._remade(node, [self.new[i] for i in node.inputs], (axis,))


_SIZED = ("sum_to", "broadcast_to", "specify_shape")

_RULES: dict[str, Callable[[_OneLane, Node], Node]] = {
    **dict.fromkeys(IDENTITIES, _OneLane._same),
    **dict.fromkeys(_SIZED, _OneLane._sized),
    "constant": _OneLane._constant,
    "dimshuffle": _OneLane._dimshuffle,
    "subtensor": _OneLane._subtensor,
    "set_subtensor": _OneLane._write,
    "inc_subtensor": _OneLane._write,
    "cumsum": _OneLane._along,
    "concatenate": _OneLane._along,
    **dict.fromkeys(("sum", "prod", "max", "min", "any", "all", "argmax", "argmin"), _OneLane._reduction),
}
