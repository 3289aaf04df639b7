"""A loop that is being changed: it gets sequences, invariants and carries, and its body is made of rows of arrays.

An array that has a row per step, and whose rows are computed from rows of others alone, can be computed in the loop,
row by row. `Opened.row` does that for one, through elementwise operations down to what the loop reads or can read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ostinato.graph import Graph, Node, dependents, make, redirect
from ostinato.lower.rules import ELEMENTWISE
from ostinato.ops.indexing import is_reversal, is_start
from ostinato.ops.leaf import CONSTANT, new_input
from ostinato.ops.loop import ITEM, LOOP, LoopSpec, body_of, results_of, split, steps_made
from ostinato.ops.movement import dimshuffle
from ostinato.ops.sizes import BROADCAST, SUM_TO, known_size, same_size, sizes
from ostinato.types import TensorType


class Opened:
    """One Loop that is being changed.

    Attributes
    ----------
    steps : how many steps it makes, as a size.
    body, given : its params and results, and its inputs.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.spec: LoopSpec = node.params[0]
        self.body, self.given = body_of(self.spec), split(self.spec, node.inputs)
        self.steps = known_size(steps_made(node))
        self.replaced: dict[Node, Any] = {}  # params of sequences, by what is read in their place
        self._sequences = dict(zip(self.given.sequences, self.body.sequences, strict=False))
        self._new_sequences: list[tuple[Node, Node]] = []  # param and what it is given
        self._invariants = dict(zip(self.given.invariants, self.body.invariants, strict=False))
        self._new_invariants: list[tuple[Node, Node]] = []
        self._carries: list[tuple[Node, Node, Node]] = []  # param, initial value and next value
        self._rows: dict[tuple[Node, bool], Node | None] = {}

    # ---- what a body reads ----

    def sequence(self, x: Any) -> Any:
        """The param that is a row of an array, which has one per step or more."""
        if x not in self._sequences:
            self._sequences[x] = new_input(x.type.with_shape(x.type.shape[1:]), x.name)
            self._new_sequences.append((self._sequences[x], x))
        return self._sequences[x]

    def invariant(self, x: Any) -> Any:
        """What stands in the body for a value from outside."""
        if x.op is CONSTANT:
            return x
        if x not in self._invariants:
            self._invariants[x] = new_input(x.type, x.name)
            self._new_invariants.append((self._invariants[x], x))
        return self._invariants[x]

    def carry(self, initial: Any, type_: TensorType) -> Any:
        """A new carry; its next value is set by `follows`."""
        param = new_input(type_, None)
        self._carries.append((param, initial, param))
        return param

    def follows(self, param: Any, following: Any) -> None:
        """Set the next value of a new carry."""
        place = next(k for k, (p, _, _) in enumerate(self._carries) if p is param)
        self._carries[place] = (param, self._carries[place][1], following)

    # ---- rows ----

    def has_rows(self, x: Node) -> bool:
        """Whether an array is known to have one row per step."""
        return x.type.ndim > 0 and same_size(known_size(sizes(x)[0]), self.steps)

    def row(self, x: Any, stop: Any, turned: bool = False) -> Any:
        """The row of an array at a step, or at the same one from the end; None if it cannot be made in the body.

        Parameters
        ----------
        stop : tells of a node whether it is read as a whole, and not computed here.
        """
        key = x, turned
        if key not in self._rows:
            self._rows[key] = self._row(x, stop, turned)
        return self._rows[key]

    def _row(self, x: Any, stop: Any, turned: bool) -> Any:
        if not self.has_rows(x):
            return None
        if is_reversal(x):
            return self.row(x.inputs[0], stop, not turned)
        if is_start(x) and self.has_rows(x.inputs[0]):
            return self.row(x.inputs[0], stop, turned)
        own = self._own_output(x)
        if own is not None:
            return None if turned else own
        if stop(x):
            return self._leaf(x, turned)
        if x.op.name in ELEMENTWISE:
            parts = [self._part(i, x.type.ndim, stop, turned) for i in x.inputs]
            return self._leaf(x, turned) if None in parts else make(x.op, tuple(parts), x.params)
        if x.op in (BROADCAST, SUM_TO):
            part = self._part(x.inputs[0], x.type.ndim, stop, turned)
            wanted = [self._from_outside(s) for s in x.inputs[2:]]
            return self._leaf(x, turned) if None in (part, *wanted) else make(x.op, (part, *wanted), x.params)
        if x.op.name == "dimshuffle" and x.params[0][0] == 0:
            part = self.row(x.inputs[0], stop, turned)
            order = [a if a == "x" else a - 1 for a in x.params[0][1:]]
            return self._leaf(x, turned) if part is None else dimshuffle(part, order)
        return self._leaf(x, turned)

    def _part(self, x: Any, ndim: int, stop: Any, turned: bool) -> Any:
        """What an operand of an elementwise operation is at a step."""
        if x.type.ndim < ndim:
            return self._from_outside(x)
        if x.type.shape[0] == 1 and not same_size(1, self.steps):
            return self._from_outside(x[0])
        return self.row(x, stop, turned)

    def _from_outside(self, x: Any) -> Any:
        """What stands in the body for a value; None if it comes from the loop itself, such as a maximum of its rows."""
        return None if dependents([x], {self.node}) else self.invariant(x)

    def _leaf(self, x: Any, turned: bool) -> Any:
        """A row that is read; not of what comes from the loop itself."""
        if dependents([x], {self.node}):
            return None
        return self.sequence(x[::-1] if turned else x)

    def _own_output(self, x: Any) -> Any:
        """What the body records as a row of an array, if that is an output of the loop."""
        if x.op is not ITEM or x.inputs[0] is not self.node:
            return None
        j = x.params[0] - self.spec.n_carries
        return self.body.outputs[j] if 0 <= j < self.spec.n_outputs and self.spec.thinned(j) is None else None

    # ---- the new loop ----

    def closed(self) -> tuple[dict[Node, Any], list[Any]]:
        """For each result of the loop that of the new one; and the final values of new carries."""
        spec, body, c = self.spec, self.body, self.spec.n_carries
        inner = redirect([*spec.body.results, *[n for _, _, n in self._carries]], self.replaced)
        results, added = inner[: len(spec.body.results)], inner[len(spec.body.results) :]
        kept = [(p, x) for p, x in zip(body.sequences, self.given.sequences, strict=True) if p not in self.replaced]
        sequences = [*kept, *self._new_sequences]
        invariants = [*zip(body.invariants, self.given.invariants, strict=True), *self._new_invariants]
        carries = [*zip(body.carries, self.given.carries, strict=True), *[(p, x) for p, x, _ in self._carries]]
        params = (body.t, *[p for p, _ in (*sequences, *carries, *invariants)])
        inputs = (self.given.trip_count, *[x for _, x in (*sequences, *carries, *invariants)])
        graph = Graph(params, (*results[:c], *added, *results[c:]))
        wider = replace(spec, body=graph, n_sequences=len(sequences), n_carries=len(carries))
        new, old = results_of(make(LOOP, inputs, (wider,))), results_of(self.node)
        alias = dict(zip([*old.finals, *old.outputs], [*new.finals[:c], *new.outputs], strict=True))
        return {**alias, old.trips_done: new.trips_done}, new.finals[c:]
