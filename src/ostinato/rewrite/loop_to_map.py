"""loop_to_map: a loop whose steps need not wait for each other becomes operations on all steps at once.

before:  y = loop(n, x, W; (x_t, W) -> tanh(x_t @ W))
after:   y = tanh(x @ W)

before:  y, s = loop(n, x, a0, s0; (x_t, a, s) -> (a' = f(x_t), s + g(x_t, a), y = a))
after:   a = f(x) behind a0;  s = s0 + sum(g(x, a without its last row));  y = a without its last row

A carry whose next value needs no carry is a sequence that is one row late. One that a step only adds to is a sum over
the steps. Any other carry keeps the loop, as an operation does that has no form for all steps, and one whose
values of all steps would take memory that nothing else in the loop takes: rows of a matrix that a step makes of
vectors, and adds up. Sums are in another order afterwards, and differ in the last digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ostinato.graph import Graph, Node, dependents, make, rewrite_nodes, topological
from ostinato.ops.batch import NoBatchError, aligned
from ostinato.ops.contraction import MATMUL
from ostinato.ops.control import TRIP_COUNT
from ostinato.ops.creation import arange
from ostinato.ops.elementwise import minimum
from ostinato.ops.indexing import is_reversal
from ostinato.ops.loop import LoopSpec, body_of, results_of, sizes_outside, split
from ostinato.ops.movement import (
    DIMSHUFFLE,
    RESHAPE,
    concatenate,
    dimshuffle,
    expand_dims,
    reshape,
    specify_shape,
    swapaxes,
)
from ostinato.ops.reduce import sum as sum_
from ostinato.ops.sizes import is_met, known_size, same_size, sizes
from ostinato.rewrite.batching import batched
from ostinato.rewrite.engine import keeps_types, replace_loops, rewrite_pass
from ostinato.rewrite.loop_accumulate import added_to, plus
from ostinato.rewrite.notes import called, tell
from ostinato.types import TupleType

# Rows of so few elements, known beforehand, may be kept for all steps whatever else is.
_FEW = 64
_REDUCTIONS = {"sum", "sum_to", "max", "min", "prod", "any", "all"}


@rewrite_pass
def loop_to_map(graph: Graph) -> Graph:
    """Take apart the loops of a graph that have nothing to wait for."""
    mapped = replace_loops(graph, _mapped)
    return graph if mapped is graph else Graph(graph.params, tuple(rewrite_nodes(mapped.results, _product_in_order)))


def _product_in_order(node: Node) -> Node | None:
    """A product that sums over the rows of two reversed arrays, of the arrays as they are."""
    if node.op is not MATMUL or node.type.ndim != 2 or node.inputs[0].op is not DIMSHUFFLE:
        return None
    left, right = _in_order(node.inputs[0].inputs[0]), _in_order(node.inputs[1])
    return None if left is None or right is None else make(MATMUL, (swapaxes(left, 0, 1), right))


def _in_order(node: Node) -> Any:
    """What `reshape(x[::-1])` is for `x`; None for anything else."""
    if node.op is RESHAPE and is_reversal(node.inputs[0]):
        return reshape(node.inputs[0].inputs[0], node.inputs[1:])
    return node.inputs[0] if is_reversal(node) else None


def _mapped(node: Node) -> dict[Node, Any]:
    """For each result of a loop that is none, what takes its place."""
    if not node.params[0].is_counted:
        return {}
    try:
        alias = _Map(node).results()
    except NoBatchError:
        return {}
    if not keeps_types(alias):
        return {}
    if alias:
        tell(f"loop_to_map: the steps of {called(node.params[0])} do not wait for each other: all are made at once.")
    return alias


class _Map:
    """A loop as operations on all steps."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.spec: LoopSpec = node.params[0]
        self.given, self.body = split(self.spec, node.inputs), body_of(self.spec)
        self.steps = self.given.trip_count
        body = self.body
        self.fixed = dict(zip(body.invariants, self.given.invariants, strict=True))
        self.sums = {k: term for k in range(self.spec.n_carries) if (term := added_to(self.spec, k)) is not None}
        self.late = self._late()
        self.turned = self._is_turned()

    def results(self) -> dict[Node, Any]:
        """What takes the place of each result; nothing if a step waits for the one before, or memory would not do."""
        if len(self.sums) + len(self.late) < self.spec.n_carries or not self._fits():
            return {}
        rows = self._rows()
        finals: dict[int, Any] = {}
        for k in self.late:  # in an order in which each needs only those before it
            finals[k] = self._shifted(k, rows)
        for k, term in self.sums.items():
            finals[k] = plus(self.given.carries[k], self._total(term, rows))
        old = results_of(self.node)
        outputs = self._all(self.body.outputs, rows)
        alias: dict[Node, Any] = {old.finals[k]: f for k, f in finals.items()}
        alias |= {old_one: y[::-1] if self.turned else y for old_one, y in zip(old.outputs, outputs, strict=True)}
        alias |= {old_one[::-1]: y for old_one, y in zip(old.outputs, outputs, strict=True) if self.turned}
        return {**alias, old.trips_done: self.steps}

    def _late(self) -> list[int]:
        """The carries that are sequences one row late, each after those that it needs."""
        found: list[int] = []
        waiting = [k for k in range(self.spec.n_carries) if k not in self.sums]
        while True:
            unknown = {self.body.carries[k] for k in range(self.spec.n_carries) if k not in found}
            bound = dependents([self.body.next_carries[k] for k in waiting], unknown)
            more = [k for k in waiting if k not in found and self.body.next_carries[k] not in bound]
            if not more:
                return found
            found += more

    def _is_turned(self) -> bool:
        """Whether all is read from the last step to the first, as gradients do: the order may as well be kept."""
        steps = known_size(self.steps)
        read = self.given.sequences
        plain = not self.late and self.body.t not in set(topological(self.spec.body.results))
        return plain and bool(read) and all(is_reversal(x) and same_size(sizes(x)[0], steps) for x in read)

    def _rows(self) -> dict[Node, Any]:
        """For what differs from step to step its values at all steps."""
        pairs = zip(self.body.sequences, self.given.sequences, strict=True)
        if self.turned:
            return {p: x.inputs[0] for p, x in pairs}
        return {self.body.t: arange(self.steps), **{p: first_rows(x, self.steps) for p, x in pairs}}

    def _all(self, roots: Iterable[Node], rows: dict[Node, Any]) -> list[Any]:
        return batched(roots, rows, self.steps, self.fixed)

    def _shifted(self, k: int, rows: dict[Node, Any]) -> Any:
        """The final value of a carry; its values at all steps go to `rows`, if a step reads it."""
        carry, following = self.body.carries[k], self.body.next_carries[k]
        init = expand_dims(self.given.carries[k], 0)
        if carry in set(topological(self.spec.body.results)):
            whole = concatenate([init, self._all([following], rows)[0]])
            rows[carry] = whole[:-1]
            return whole[-1]
        if following in self.body.outputs:
            return concatenate([init, self._all([following], rows)[0]])[-1]
        last = minimum(self.steps, 1)  # nobody reads it on the way: the last step, if there is any, is enough
        ends = {p: x[self.steps - last :] for p, x in rows.items()}
        return concatenate([init, batched([following], ends, last, self.fixed)[0]])[-1]

    def _total(self, term: Node, rows: dict[Node, Any]) -> Any:
        """The sum of a term over all steps; of outer products, one product."""
        if term.op.name == "mul" and term.type.ndim == 2:
            for x, y in (term.inputs, term.inputs[::-1]):
                if x.type.ndim == y.type.ndim == 2 and x.type.shape[1] == 1 == y.type.shape[0]:
                    left, right = self._all([x, y], rows)
                    return make(MATMUL, (dimshuffle(left, 1, 0), dimshuffle(right, 0, 2)))
        return sum_(self._all([term], rows)[0], axis=0, dtype=term.type.dtype)

    # ---- memory ----

    def _fits(self) -> bool:
        """Whether all that is held for all steps has the sizes of something that is kept for all steps anyway."""
        body = self.body
        vectors = [c for c in body.carries if c.type.ndim == 1]
        kept = [self._atoms(x) for x in (*body.sequences, *body.outputs, *vectors)]
        sources = {body.t, *body.sequences, *body.carries}
        roots = [*body.outputs, *[body.next_carries[k] for k in self.late], *self.sums.values()]
        varying = dependents(roots, sources)
        readers: dict[Node, list[Node]] = {}
        for n in topological(roots, stop=sources):
            for i in n.inputs:
                readers.setdefault(i, []).append(n)
        fused = {term for term in self.sums.values() if term not in body.outputs}
        for n in topological(roots, stop=sources)[::-1]:
            own = readers.get(n, [])
            if len(own) == 1 and n not in roots and (own[0].op.name in _REDUCTIONS or own[0] in fused):
                fused.add(n)
            elif n in sources or n not in varying:
                continue
            elif n in fused:
                pass
            elif not self._is_kept(n, kept):
                return False
            if n in fused and not _is_fused(n):
                fused.discard(n)
                if not self._is_kept(n, kept):
                    return False
        return True

    def _is_kept(self, node: Node, kept: list[list[frozenset[Any]]]) -> bool:
        if isinstance(node.type, TupleType):  # its items count
            return True
        if None not in node.type.shape and math.prod(node.type.shape) <= _FEW:
            return True
        own = self._atoms(node)
        if len(own) == 1:
            return own[0] <= {a for k in kept for atoms in k for a in atoms}
        return any(_within(own, k) for k in kept)

    def _atoms(self, node: Node) -> list[frozenset[Any]]:
        """The sizes of a row other than 1, each as the sizes that may have made it by broadcasting."""
        outside = sizes_outside(sizes(node), self.given, self.body)
        return [frozenset([node]) if s is None else _atoms_of(s) for s in outside if s != 1]


def _is_fused(node: Node) -> bool:
    """Whether elements of a node are computed where they are read."""
    return node.op.batch is aligned or node.op.name in ("dimshuffle", "broadcast_to")


def _within(own: list[frozenset[Any]], whole: list[frozenset[Any]]) -> bool:
    """Whether each size is one of those of a whole, no one of these used twice."""
    rest = list(whole)
    for atoms in own:
        place = next((i for i, w in enumerate(rest) if atoms <= w), None)
        if place is None:
            return False
        rest.pop(place)
    return True


def _atoms_of(size: Any) -> frozenset[Any]:
    """A size, or if it is what two sizes broadcast to, all that have met in it."""
    found: dict[Any, None] = {}
    waiting = [size]
    while waiting:
        s = waiting.pop()
        if s not in found:
            found[s] = None
            waiting += s.inputs[1:] if isinstance(s, Node) and is_met(s) else ()
    return frozenset(s for s in found if not (isinstance(s, Node) and is_met(s)))


def first_rows(x: Any, steps: Any) -> Any:
    """As many rows of a sequence as there are steps; checked, unless they are known to be there."""
    own = sizes(x)[0]
    if same_size(own, known_size(steps)):
        return x
    part = x[:steps]
    if _is_at_most(steps, own):
        return part
    return specify_shape(part, [steps, *[None] * (x.type.ndim - 1)])


def _is_at_most(steps: Any, size: Any) -> bool:
    """Whether a number of steps is known to be no larger than a size."""
    if same_size(steps, size):
        return True
    if steps.op.name == "minimum":
        return any(_is_at_most(i, size) for i in steps.inputs)
    if steps.op is TRIP_COUNT:
        return any(same_size(i, size) for i in steps.inputs[1:]) or _is_at_most(steps.inputs[0], size)
    return False
