"""loop_affine: loops whose steps can be composed without their state run as chunks side by side, where they may.

before:  h = loop(n, a, b, h0; h' = a[t] * h + b[t])              # parallel=True
after:   h = loop(n / (P L), a, b in blocks of P chunks of L steps, h0;
               A, B   = loop(L; A' = a A, B' = a B + b)            # what each of the P chunks does to a state
               starts = loop(P, A, B, h; h' = A h + B)             # the state before each chunk, and after the last
               h      = loop(L, starts; h' = a h + b)              # all chunks, each from its own start
             ), and the steps that no block has, one after the other

The chunks of a block are elements beside each other, which fill vectors, and the cache holds a block. Which steps can
be composed is found in `associative`. Groups of states that read others wait for these: while those run from their
starts, what the chunks do to the next group is composed. What else a step computes is done where the states are
there; what has no form for all chunks at once, in a loop of its own, step by step. The sizes of blocks do not depend
on the machine, so results do not, either.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from math import prod
from typing import Any

from ostinato.graph import Graph, Node, dependents, substitute, topological
from ostinato.ops.creation import arange
from ostinato.ops.elementwise import maximum
from ostinato.ops.leaf import constant, new_input
from ostinato.ops.loop import (
    COUNT,
    Body,
    LoopInputs,
    LoopResults,
    LoopSpec,
    build_loop,
    results_of,
    split,
)
from ostinato.ops.movement import concatenate, dimshuffle, reshape
from ostinato.ops.sizes import sizes
from ostinato.rewrite.associative import Group, Maps, Obstacle, composable, groups_of, seen_from_outside
from ostinato.rewrite.batching import batched, can_batch
from ostinato.rewrite.engine import keeps_types, replace_loops, rewrite_pass
from ostinato.rewrite.notes import called, tell

# The steps of a chunk; how many elements the chunks of a block have together, where that is known; the fewest chunks.
_STEPS, _ELEMENTS, _LEAST = 16, 32, 4

# Unless the user asks for chunks, loops of more states, or of a step of more operations, are left alone: the search
# would take longer than it is worth.
_MOST_STATES, _MOST_OPERATIONS = 32, 100


@rewrite_pass
def loop_affine(graph: Graph) -> Graph:
    """Run the loops of a graph that may be in chunks side by side, where their steps can be composed."""
    return replace_loops(graph, _in_chunks)


def _in_chunks(node: Node) -> dict[Node, Any]:
    spec: LoopSpec = node.params[0]
    if not spec.parallel or spec.has_until or not spec.n_carries:
        return {}
    if spec.parallel == "auto" and spec.n_carries > _MOST_STATES:
        tell(
            f"loop_affine: {called(spec)} has {spec.n_carries} states: whether its steps can be composed was not asked."
        )
        return {}
    if spec.parallel == "auto" and len(spec.body.nodes()) > _MOST_OPERATIONS:
        return {}
    body, known = seen_from_outside(node)
    groups = groups_of(body, known)
    chosen = composable(body, groups)
    if not chosen:
        return {}
    what = " and ".join(dict.fromkeys([_maps(g).what for g in chosen]))
    if spec.parallel == "auto":
        if len(chosen) == len(groups):
            tell(
                f"loop_affine: {called(spec)} stays sequential; its steps can be composed ({what}): with "
                "scan(..., parallel=True) it would run as chunks side by side."
            )
        return {}
    cut = _Cut(node, chosen)
    alias = cut.alias()
    if not keeps_types(alias):
        return {}
    part = "" if len(chosen) == len(groups) else " in some of its states"
    tell(f"loop_affine: {called(spec)} is {what}{part}: runs as {cut.chunks} chunks of {_STEPS} steps side by side.")
    return alias


def _maps(group: Group) -> Maps:
    assert not isinstance(group.maps, Obstacle)
    return group.maps


class _Cut:
    """A Loop being cut into blocks, and these into chunks.

    Attributes
    ----------
    body : of the loop, as seen from outside; `known` says what its sizes and invariants are there.
    mine : the numbers of the carries whose steps are composed.
    """

    def __init__(self, node: Node, chosen: list[Group]) -> None:
        self.node, self.chosen = node, chosen
        self.spec: LoopSpec = node.params[0]
        self.given = split(self.spec, node.inputs)
        self.body, self.known = seen_from_outside(node)
        self.mine = sorted(i for g in chosen for i in g.carries)
        self.rest = [i for i in range(self.spec.n_carries) if i not in self.mine]
        self.chunks = self._n_chunks()
        self.length = self.chunks * _STEPS
        self.n_blocks = maximum(self.given.trip_count, 0) // self.length
        self.done = self.n_blocks * self.length

    def _n_chunks(self) -> int:
        """As many as fill vectors; fewer where states have elements beside each other already."""
        shapes = [self.body.carries[i].type.shape for i in self.mine]
        widest = max([_ELEMENTS if None in s else prod(s) for s in shapes])
        return max(_ELEMENTS // widest, _LEAST)

    def alias(self) -> dict[Node, Any]:
        """For each result of the loop what takes its place."""
        late, early = self._divided_outputs()
        recorded = list(dict.fromkeys([*early, *self._read_late(late)]))
        blocks = self._blocks(recorded)
        left = self._left_over(recorded, blocks.finals)
        whole = {
            r: concatenate([reshape(y, [self.done, *sizes(z)[1:]]), z])
            for r, y, z in zip(recorded, blocks.outputs, left.outputs, strict=True)
        }
        finals: dict[int, Any] = dict(zip(self.mine, left.finals, strict=True))
        outputs = {y: whole[y] for y in early}
        if late or self.rest:
            self._step_by_step(late, whole, finals, outputs)
        return self._placed(finals, outputs)

    # ---- what is done where ----

    def _divided_outputs(self) -> tuple[list[Node], list[Node]]:
        """What is recorded step by step, and what in chunks."""
        others = {self.body.carries[i] for i in self.rest}
        sources = {self.body.t, *self.body.sequences, *self.body.carries}
        late: list[Node] = []
        early: list[Node] = []
        for y in dict.fromkeys(self.body.outputs):
            stays = bool(dependents([y], others)) or not can_batch([y], sources)
            (late if stays else early).append(y)
        return late, early

    def _read_late(self, late: list[Node]) -> list[Node]:
        """The states that are read step by step, which are recorded for it."""
        below = set(topological([*late, *[self.body.next_carries[i] for i in self.rest]]))
        return [c for i in self.mine if (c := self.body.carries[i]) in below]

    def _blocks(self, recorded: list[Node]) -> LoopResults:
        """All blocks, one after the other."""
        given = self.given
        t = new_input(COUNT, "block")
        rows = [reshape(x[: self.done], [self.n_blocks, self.length, *sizes(x)[1:]]) for x in given.sequences]
        inside = list(map(_row_of, rows))
        states = [self.body.carries[i] for i in self.mine]
        block = _Block(self, dict(zip(self.mine, states, strict=True)), inside, t * self.length)
        outputs = block.run(recorded)
        finals = [block.finals[i] for i in self.mine]
        return build_loop(
            Body(t, tuple(inside), tuple(states), (), tuple(finals), tuple(outputs), None),
            LoopInputs(self.n_blocks, tuple(rows), tuple([given.carries[i] for i in self.mine]), ()),
            name=self.spec.name,
        )

    def _left_over(self, recorded: list[Node], finals: list[Any]) -> LoopResults:
        """The steps that no block has."""
        body, mine, t = self.body, self.mine, new_input(COUNT, "t")
        results = substitute([*[body.next_carries[i] for i in mine], *recorded], {body.t: t + self.done})
        nexts, outputs = tuple(results[: len(mine)]), tuple(results[len(mine) :])
        return build_loop(
            Body(t, body.sequences, tuple([body.carries[i] for i in mine]), (), nexts, outputs, None),
            LoopInputs(
                self.given.trip_count - self.done,
                tuple([x[self.done :] for x in self.given.sequences]),
                tuple(finals),
                (),
            ),
            name=self.spec.name,
        )

    def _step_by_step(
        self, late: list[Node], whole: dict[Node, Any], finals: dict[int, Any], outputs: dict[Node, Any]
    ) -> None:
        """The loop without the states that are there already: it reads them."""
        body, rest, states = self.body, self.rest, self._read_late(late)
        made = build_loop(
            Body(
                body.t,
                (*body.sequences, *states),
                tuple([body.carries[i] for i in rest]),
                (),
                tuple([body.next_carries[i] for i in rest]),
                tuple(late),
                None,
            ),
            LoopInputs(
                self.given.trip_count,
                (*self.given.sequences, *[whole[c] for c in states]),
                tuple([self.given.carries[i] for i in rest]),
                (),
            ),
            name=self.spec.name,
        )
        finals.update(zip(rest, made.finals, strict=True))
        outputs.update(zip(late, made.outputs, strict=True))

    def _placed(self, finals: dict[int, Any], outputs: dict[Node, Any]) -> dict[Node, Any]:
        old = results_of(self.node)
        found = {old.finals[i]: f for i, f in finals.items()}
        for j, y in enumerate(self.body.outputs):
            every = self.spec.thinned(j)
            rows = outputs[y]
            found[old.outputs[j]] = rows if every is None else rows[:: self.given.invariants[every]]
        return {**found, old.trips_done: self.given.trip_count}


class _Block:
    """The steps of one block, as chunks side by side.

    Attributes
    ----------
    inits : the states before the block, by number.
    finals : those after it.
    running : the states before each chunk, of groups that are done with.
    """

    def __init__(self, cut: _Cut, inits: dict[int, Any], rows: list[Any], first: Any) -> None:
        self.cut, self.body, self.known, self.inits, self.first = cut, cut.body, cut.known, inits, first
        self.chunks, self.n_chunks = cut.chunks, constant(cut.chunks, "int64")
        self.steps = constant(_STEPS, "int64")
        self.rows = [self._chunked(x) for x in rows]
        self.depth = {i: g.depth for g in cut.chosen for i in g.carries}
        self.states = {i: cut.body.carries[i] for i in cut.mine}
        self.running: dict[int, Any] = {}
        self.finals: dict[int, Any] = {}
        self.lengths: dict[tuple[int, ...], int] = {}  # how many parts composed maps of a group have
        self.fixed: dict[tuple[int, ...], int] = {}  # and how many of them are the same for all chunks

    def _chunked(self, x: Any) -> Any:
        """(P L, ...) as (L, P, ...): step by step what all chunks read."""
        cut = reshape(x, [self.chunks, _STEPS, *sizes(x)[1:]])
        turned = dimshuffle(cut, [1, 0, *range(2, cut.type.ndim)])
        # Put in order, so that what is read in one step lies in a row.
        return reshape(reshape(turned, [self.chunks * _STEPS, *sizes(x)[1:]]), sizes(turned))

    def run(self, recorded: list[Node]) -> list[Any]:
        """What is recorded, step after step; then the final states are there, too."""
        columns: dict[Node, Any] = {}
        stages = max([self.depth[i] for i in self.states] + [1 + self._deepest(r) for r in recorded])
        for s in range(1, stages + 1):
            columns |= self._stage(s, [r for r in recorded if self._deepest(r) + 1 == s])
        found = []
        for r in recorded:
            y = columns[r]
            turned = dimshuffle(y, [1, 0, *range(2, y.type.ndim)])
            found.append(reshape(turned, [self.chunks * _STEPS, *sizes(y)[2:]]))
        return found

    def _deepest(self, root: Node) -> int:
        below = set(topological([root]))
        return max([self.depth[i] for i, c in self.states.items() if c in below], default=0)

    def _stage(self, s: int, recorded: list[Node]) -> dict[Node, Any]:
        """Run the groups before this one in all chunks, record what they suffice for, and compose this one's maps."""
        groups = [g for g in self.cut.chosen if g.depth == s]
        step = substitute([e for g in groups for e in _maps(g).step], self.known)
        running = self._needed([*step, *recorded])
        body, t, rows = self.body, new_input(COUNT, "t"), list(map(_row_of, self.rows))
        table: dict[Node, Any] = dict(zip(body.sequences, rows, strict=True))
        table[body.t] = self.first + arange(self.chunks) * _STEPS + t
        starts = [self.running[i] for i in running]
        states = [new_input(x.type, body.carries[i].name) for x, i in zip(starts, running, strict=True)]
        table |= {body.carries[i]: p for i, p in zip(running, states, strict=True)}
        moved = batched([body.next_carries[i] for i in running], table, self.n_chunks)
        outputs = batched(recorded, table, self.n_chunks)
        inits: list[Any] = []
        params, nexts = [], []
        own = iter(step)
        for g in groups:
            first, held, composed = self._composition(_maps(g), [next(own) for _ in _maps(g).step], table)
            inits += first
            params += held
            nexts += composed
        made = build_loop(
            Body(t, tuple(rows), (*states, *params), (), (*moved, *nexts), tuple(outputs), None),
            LoopInputs(self.steps, tuple(self.rows), (*starts, *inits), ()),
            name=self.cut.spec.name,
        )
        found = iter(made.finals[len(states) :])
        for g in groups:
            self._start_chunks(g, list(islice(found, self.lengths[g.carries])))
        return dict(zip(recorded, made.outputs, strict=True))

    def _composition(
        self, maps: Maps, step: list[Any], table: dict[Node, Any]
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """What composes maps in all chunks: initial values, params and next values of carries.

        Factors that are the same at all steps are composed once for all chunks.
        """
        own, composed = maps.n_factors
        fixed = not dependents(step[:own], table.keys())
        first = substitute(maps.identity([self.chunks], [] if fixed else [self.chunks]), self.known)
        held = [new_input(x.type) for x in first]
        then = step[:own] if fixed else batched(step[:own], table, self.n_chunks)
        then = [*then, *batched(step[own:], table, self.n_chunks)]
        self.lengths[maps.carries] = len(first)
        self.fixed[maps.carries] = composed if fixed else 0
        return first, held, maps.compose(held, then)

    def _needed(self, roots: Sequence[Node]) -> list[int]:
        """The carries that run in this stage."""
        needed: set[int] = set()
        while True:
            below = set(topological([*roots, *[self.body.next_carries[i] for i in needed]]))
            grown = {i for i, c in self.states.items() if c in below}
            if grown == needed:
                return sorted(needed)
            needed = grown

    def _start_chunks(self, group: Group, composed: list[Any]) -> None:
        """The states before each chunk, and after the last one."""
        t, fixed = new_input(COUNT, "t"), self.fixed[group.carries]
        rows = list(map(_row_of, composed[fixed:]))
        inits = [self.inits[i] for i in group.carries]
        states = [new_input(self.body.carries[i].type, self.body.carries[i].name) for i in group.carries]
        nexts = substitute(_maps(group).apply([*composed[:fixed], *rows], states), self.known)
        made = build_loop(
            Body(t, tuple(rows), tuple(states), (), tuple(nexts), tuple(states), None),
            LoopInputs(self.n_chunks, tuple(composed[fixed:]), tuple(inits), ()),
            name=self.cut.spec.name,
        )
        self.running.update(zip(group.carries, made.outputs, strict=True))
        self.finals.update(zip(group.carries, made.finals, strict=True))


def _row_of(x: Any) -> Any:
    return new_input(x.type.with_shape(x.type.shape[1:]))
