"""The forward derivative of a Loop: a Loop of the same steps that carries tangents beside values.

Nothing is recorded. Tangents of sequences are further sequences, those of carries further carries, those of
invariants invariants; only what the tangents reach has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ostinato.graph import Node, substitute
from ostinato.ops.elementwise import ge, le, where
from ostinato.ops.leaf import constant, new_input
from ostinato.ops.loop import (
    Body,
    LoopInputs,
    LoopResults,
    LoopSpec,
    body_of,
    build_loop,
    results_of,
    split,
    thin,
    zeros_of,
)


def push_loop(given: Sequence[Any], node: Node, *inputs: Node, spec: LoopSpec) -> list[Any]:
    """Tangents of a Loop's results from those of its inputs (None for zero).

    With `truncate=k` tangents that entered before the last k steps are dropped, so that this is exactly the
    transposed of the reverse derivative. Then the number of steps must be known beforehand; where `until` decides on
    it, the loop is run for that first.
    """
    return _Pushed(spec, split(spec, inputs), split(spec, given), node).results()


class _Pushed:
    """The body of a Loop with tangents, and which sequences, carries, invariants and outputs have one."""

    def __init__(self, spec: LoopSpec, given: LoopInputs, moved: LoopInputs, node: Node) -> None:
        self.spec, self.given, self.moved, self.node = spec, given, moved, node
        self.body = body = body_of(spec)
        self.sequences = [i for i, t in enumerate(moved.sequences) if t is not None]
        self.invariants = [i for i, t in enumerate(moved.invariants) if t is not None]
        self.active = {i for i, t in enumerate(moved.carries) if t is not None}
        self.places = {p: new_input(p.type, _dot(p)) for p in (*body.sequences, *body.carries, *body.invariants)}
        while True:  # a carry is active if any earlier step sends it a tangent
            self._push()
            reached = {i for i, t in enumerate(self.next_tangents) if t is not None}
            if reached <= self.active:
                break
            self.active |= reached
        self.carries = sorted(self.active)
        self.outputs = [j for j, t in enumerate(self.output_tangents) if t is not None]

    def _push(self) -> None:
        from ostinato.forward import like, tangents

        body, c = self.body, self.spec.n_carries
        varied = [body.sequences[i] for i in self.sequences] + [body.carries[i] for i in sorted(self.active)]
        varied += [body.invariants[i] for i in self.invariants]
        # A tangent has the sizes of its variable: said while rules ask for sizes, and taken back afterwards.
        shaped = {p: like(self.places[p], p) for p in varied}
        found = tangents([*body.next_carries, *body.outputs], shaped)
        known = [i for i, t in enumerate(found) if t is not None]
        plain = substitute([found[i] for i in known], {s: self.places[p] for p, s in shaped.items()})
        for i, t in zip(known, plain, strict=True):
            found[i] = t
        self.next_tangents, self.output_tangents = found[:c], found[c:]

    def results(self) -> list[Any]:
        """The tangents of the loop's results; None for zero."""
        if not self.carries and not self.outputs:
            return [None] * len(self.node.type.items)
        spec = self.spec
        loop = self._loop()
        finals = dict(zip(self.carries, loop.finals[spec.n_carries :], strict=True))
        rows = dict(zip(self.outputs, loop.outputs[spec.n_outputs :], strict=True))
        return [*map(finals.get, range(spec.n_carries)), *map(rows.get, range(spec.n_outputs)), None]

    def _loop(self) -> LoopResults:
        body, given, spec = self.body, self.given, self.spec
        steps, test = given.trip_count, body.keep_going
        next_tangents = [
            zeros_of(body.carries[i]) if self.next_tangents[i] is None else self.next_tangents[i] for i in self.carries
        ]
        output_tangents = [self.output_tangents[j] for j in self.outputs]
        starts = [
            zeros_of(given.carries[i]) if self.moved.carries[i] is None else self.moved.carries[i] for i in self.carries
        ]
        if spec.truncate is not None:
            steps, test = results_of(self.node).trips_done if spec.has_until else steps, None
            late = ge(body.t, steps - constant(spec.truncate, "int64"))
            next_tangents = [_only(late, x) for x in next_tangents]
            output_tangents = [_only(late, x) for x in output_tangents]
            starts = [_only(le(steps, constant(spec.truncate, "int64")), x) for x in starts]
        test = () if test is None else (test,)
        results = [*body.next_carries, *next_tangents, *body.outputs, *output_tangents, *test]
        results = substitute(results, self._outside())
        c, y = spec.n_carries + len(self.carries), spec.n_outputs + len(self.outputs)
        places = self.places
        loop = build_loop(
            Body(
                body.t,
                (*body.sequences, *[places[body.sequences[i]] for i in self.sequences]),
                (*body.carries, *[places[body.carries[i]] for i in self.carries]),
                (),
                tuple(results[:c]),
                tuple(results[c : c + y]),
                results[c + y] if test else None,
            ),
            LoopInputs(
                steps,
                (*given.sequences, *[self.moved.sequences[i] for i in self.sequences]),
                (*given.carries, *starts),
                (),
            ),
            truncate=spec.truncate,
            name=f"tangent of {spec.name or 'loop'}",
            checkpoint=spec.checkpoint,
            parallel=spec.parallel is True,
        )
        recorded = enumerate([*range(spec.n_outputs), *self.outputs])
        counts = {k: given.invariants[at] for k, j in recorded if (at := spec.thinned(j)) is not None}
        return thin(loop, counts) if counts else loop

    def _outside(self) -> dict[Node, Any]:
        """What the invariants and their tangents are outside of the loop."""
        body, given, moved = self.body, self.given, self.moved
        tangents = {self.places[body.invariants[i]]: moved.invariants[i] for i in self.invariants}
        return {**dict(zip(body.invariants, given.invariants, strict=True)), **tangents}


def _dot(node: Node) -> str | None:
    return f"t_{node.name}" if node.name else None


def _only(condition: Any, x: Any) -> Any:
    return where(condition, x, constant(0, x.type.dtype))
