"""last_only: an output of a loop of which only the last rows are read is not stored; its last values are carried.

before:  y = item (loop(n, x, h; (x_t, h) -> (h', h'))) 1
         r = subtensor y -1
after:   h = item (loop(n, x, h; (x_t, h) -> h')) 0
         r = subtensor (h as one row, or as none if n is 0) -1

An output that is fed back is a carry already. Of any other, and of the row before the last, a new carry is made, which
begins with zeros. Rows that were never made are cut off, so an index that was out of bounds still is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ostinato.errors import at
from ostinato.graph import Graph, Node, make, redirect, topological
from ostinato.ops.composite import stack
from ostinato.ops.elementwise import maximum, minimum
from ostinato.ops.indexing import SUBTENSOR, is_last
from ostinato.ops.leaf import constant, new_input, static_int
from ostinato.ops.loop import (
    ITEM,
    LOOP,
    LoopResults,
    LoopSpec,
    body_of,
    item,
    results_of,
    sizes_outside,
    split,
    steps_made,
)
from ostinato.ops.movement import expand_dims
from ostinato.ops.sizes import broadcast_to, sizes
from ostinato.rewrite.engine import rewrite_pass
from ostinato.rewrite.notes import called, tell

# So many last rows are carried; more are stored with all others.
_MOST = 4


@rewrite_pass
def last_only(graph: Graph) -> Graph:
    """Carry the last rows of outputs of which no others are read."""
    states = last_states(graph.results, set(graph.results))
    if states:
        outputs = dict.fromkeys(n.inputs[0] for n in states)
        graph = Graph(graph.params, tuple(redirect(graph.results, states)))
        stored = set(graph.nodes())
        for x in outputs:
            if x not in stored:
                _tell(x, 1)
    alias: dict[Node, Any] = {}
    for loop, rows in _tails(graph).items():
        alias.update(_carried(loop, rows))
    return Graph(graph.params, tuple(redirect(graph.results, alias))) if alias else graph


def last_states(roots: Sequence[Node], named: set[Node]) -> dict[Node, Any]:
    """For `y[-1]` of an output that is fed back (and not one of `named`) the final carry: a row, if there is any.

    Whatever else reads the output: of rows that are stored anyway, the last one need not be read.
    """
    alias: dict[Node, Any] = {}
    for node in topological(roots):
        x = node.inputs[0] if is_last(node) else None
        if x is None or x in named or x.op is not ITEM or x.inputs[0].op is not LOOP:
            continue
        spec: LoopSpec = x.inputs[0].params[0]
        body, j = body_of(spec), x.params[0] - spec.n_carries
        if not 0 <= j < spec.n_outputs or spec.thinned(j) is not None or body.outputs[j] not in body.next_carries:
            continue
        final = item(x.inputs[0], body.next_carries.index(body.outputs[j]))
        steps = steps_made(x.inputs[0])
        if final.type == node.type:
            some = not spec.has_until and (static_int(steps) or 0) > 0
            alias[node] = final if some else expand_dims(final, 0)[: minimum(steps, 1)][-1]
    return alias


def _tell(output: Node, depth: int) -> None:
    spec: LoopSpec = output.inputs[0].params[0]
    value = body_of(spec).outputs[output.params[0] - spec.n_carries]
    what = output.name or value.name or value.op.name
    rows = "the last row is read: it is" if depth == 1 else f"the last {depth} rows are read: they are"
    where = f"{what!r}, an output of {called(spec)}{at(value.source)}"
    tell(f"last_only: of {where}, only {rows} carried, and no others stored.")


def _tails(graph: Graph) -> dict[Node, dict[int, int]]:
    """For each loop the outputs of which only last rows are read, and how many."""
    found: dict[Node, dict[int, int]] = {}
    stored = {n for n in graph.results if n.op is ITEM and n.inputs[0].op is LOOP}
    for node in topological(graph.results):
        for x in node.inputs:
            if x.op is not ITEM or x.inputs[0].op is not LOOP:
                continue
            loop, spec = x.inputs[0], x.inputs[0].params[0]
            j = x.params[0] - spec.n_carries
            if not 0 <= j < spec.n_outputs or spec.thinned(j) is not None:
                continue
            depth = _depth(node) if node.inputs.count(x) == 1 and node.inputs[0] is x else None
            if depth is None:
                stored.add(x)
            else:
                rows = found.setdefault(loop, {})
                rows[j] = max(rows.get(j, 0), depth)
    for x in stored:
        found.get(x.inputs[0], {}).pop(x.params[0] - x.inputs[0].params[0].n_carries, None)
    return {loop: rows for loop, rows in found.items() if rows}


def _depth(node: Node) -> int | None:
    """How many last rows of an array a node reads: 2 for x[-2], x[-2:] or x[-2:-1, 0]; None if that is not known."""
    if node.op is not SUBTENSOR:
        return None
    entry = node.params[0][0]
    if entry not in (None, (True, False, False), (True, True, False)):
        return None
    bounds = [static_int(i) for i in node.inputs[1 : 3 if entry == (True, True, False) else 2]]
    if any(b is None or not -_MOST <= b < 0 for b in bounds):
        return None
    return -min(b for b in bounds if b is not None)


def _carried(node: Node, rows: dict[int, int]) -> dict[Node, Any]:
    """For each result of a loop what takes its place."""
    change = _Change(node)
    for j, depth in rows.items():
        change.keep(j, depth)
    return change.results()


class _Change:
    """A loop that gets some more carries."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.spec: LoopSpec = node.params[0]
        self.body, self.given = body_of(self.spec), split(self.spec, node.inputs)
        self.steps = None if self.spec.has_until else static_int(self.given.trip_count)
        self.added: list[tuple[Node, Node, Node]] = []  # param, initial value and next value
        self.kept: dict[int, list[int]] = {}  # by output the carries of its last values, the last one first

    def keep(self, j: int, depth: int) -> None:
        """Carry the last values of an output, if it has more."""
        output = self.body.outputs[j]
        shape = sizes_outside(sizes(output), self.given, self.body)
        if None in shape or (self.steps is not None and self.steps <= depth):
            return
        carries = [*self.body.carries, *[p for p, _, _ in self.added]]
        following = [*self.body.next_carries, *[n for _, _, n in self.added]]
        places: list[int] = []
        for _ in range(depth):
            known = [i for i, n in enumerate(following) if n is output and carries[i].type == output.type]
            if not known:
                param = new_input(output.type, output.name)
                first = broadcast_to(constant(0, output.type.dtype), shape)
                known = [len(carries)]
                carries.append(param)
                following.append(output)
                self.added.append((param, first, output))
            places.append(known[0])
            output = carries[known[0]]
        self.kept[j] = places

    def results(self) -> dict[Node, Any]:
        """What takes the place of each result; nothing if nothing does."""
        old, new = results_of(self.node), self._loop()
        steps = new.trips_done if self.spec.has_until else self.given.trip_count
        alias: dict[Node, Any] = dict(zip(old.finals, new.finals, strict=False))
        alias |= dict(zip(old.outputs, new.outputs, strict=True))
        for j, places in self.kept.items():
            _tell(old.outputs[j], len(places))
            alias[old.outputs[j]] = self._rows([new.finals[i] for i in places], steps)
        return {**alias, old.trips_done: new.trips_done} if self.kept else {}

    def _loop(self) -> LoopResults:
        if not self.added:
            return results_of(self.node)
        n = 1 + self.spec.n_sequences + self.spec.n_carries
        params, inputs, results = self.spec.body.params, self.node.inputs, self.spec.body.results
        c = self.spec.n_carries
        graph = Graph(
            (*params[:n], *[p for p, _, _ in self.added], *params[n:]),
            (*results[:c], *[x for _, _, x in self.added], *results[c:]),
        )
        spec = replace(self.spec, body=graph, n_carries=c + len(self.added))
        return results_of(make(LOOP, (*inputs[:n], *[x for _, x, _ in self.added], *inputs[n:]), (spec,)))

    def _rows(self, values: list[Any], steps: Any) -> Any:
        """The last rows of an output: those of some last values that were made."""
        rows = stack(values[::-1]) if len(values) > 1 else values[0][None]
        known = self.steps
        return rows if known is not None else rows[maximum(len(values) - steps, 0) :]
