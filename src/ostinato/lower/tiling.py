"""Lowering of a loop whose lanes do not know of each other, lanes outside and time inside.

before:  for t: for each lane: h[lane] = f(h[lane], x[t, lane])
after:   for each lane: h = h0[lane]; for t: h = f(h, x[t, lane])

A backend makes iterations of the outer loop many at a time: a tile of lanes, whose carries stay in registers for all
steps. What a step computes for one lane is found in `one_lane.py`; a carry, or what else a lane has, is a number or a
few of them. Loops that end by a condition are left alone: the condition is one for all lanes. But where a lane stops to
change once its own condition fails, as in `where(abs(z) < 2, z * z + c, z)`, a tile ends when no lane in it changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

from ostinato.graph import Graph, Node, dependents
from ostinato.lower.arrays import (
    TINY,
    Array,
    Memory,
    all_indices,
    in_memory,
    in_registers,
    new_array,
    of_elements,
    scalar,
    store,
)
from ostinato.lower.lanes import Grid, grid_of
from ostinato.lower.loopnest import Carried, Expr, For, Nest
from ostinato.lower.one_lane import NotOneLaneError, one_lane
from ostinato.lower.rules import ELEMENTWISE
from ostinato.lower.scalarize import Block
from ostinato.lower.states import States, some_rows
from ostinato.ops.costs import COSTS
from ostinato.ops.leaf import constant_value
from ostinato.ops.loop import LoopSpec, body_of, item, split
from ostinato.ops.sizes import sizes as symbolic_sizes
from ostinato.types import FLOATS, TensorType

# From the number of an output to memory for its rows, as the loop writes them and as they are read after it.
Output = Callable[[int], tuple[Array, Array]]
Kept = tuple[States, Array, dict[int, Array]]


class NotTiledError(Exception):
    """The backend cannot make iterations of the tile of the loop `node` many at a time: lower again without it."""

    def __init__(self, node: Node) -> None:
        self.node = node


class Plan(NamedTuple):
    """How a loop is done by lanes: its dimensions of lanes, and its body for one of them.

    `moving`: the truth values of the body one of which holds wherever a step changes anything; none if nothing says so.
    """

    grid: Grid
    body: Graph
    moving: list[Node]


def plan(block: Block, node: Node) -> Plan | None:
    """How to do a loop by lanes, if that can be."""
    spec: LoopSpec = node.params[0]
    nest = block.nest
    if nest.tiles is None or node in nest.untiled or not nest.integers.optimistic:
        return None
    body = body_of(spec)
    numbers = [i for i, c in enumerate(body.carries) if not c.type.ndim]
    read = any(block.is_read(item(node, i)) for i in numbers)
    if spec.has_until or spec.is_thinned or read or len(numbers) == len(body.carries):
        return None
    items = [item(node, i) for i in range(spec.n_carries, spec.n_carries + spec.n_outputs)]
    grid = None if any(None in symbolic_sizes(i) for i in items) else grid_of(spec, TINY + 1)
    if grid is None or not _is_worth_it(spec, grid):
        return None
    try:
        own = one_lane(spec.body, {n: tuple([a for a in axes if a is not None]) for n, axes in grid.axes.items()})
    except NotOneLaneError:
        return None
    return Plan(grid, own, _moving(spec, own)) if all(_is_small(n) for n in own.nodes()) else None


def _is_worth_it(spec: LoopSpec, grid: Grid) -> bool:
    """Whether a loop is faster with time inside.

    What is saved per step is to read the carries and to write those that are not recorded. It does not pay where a
    step computes much more than that, for then time inside waits for results (16 multiplications and additions of one
    carry: 1.6 times slower); nor where rows of many sequences and outputs are read and written, for time inside goes
    through them in small pieces (one of each and one carry: 1.1-1.5 times slower). A power of 1000 lanes is 3 times
    faster, four carries of one multiplication and addition each 3-8 times. Where values are of several dtypes, or of
    integers, lanes inside have no vectors at all (Mandelbrot: 5-10 times faster).
    """
    body = body_of(spec)
    with_lanes = [n for n in spec.body.nodes() if any(a is not None for a in grid.axes[n])]
    if len(dtypes := {n.type.dtype for n in with_lanes} - {"bool"}) > 1 or not dtypes <= set(FLOATS):
        return True
    carries = [n for c, n in zip(body.carries, body.next_carries, strict=True) if c.type.ndim]
    recorded = len(set(carries) & set(body.outputs))
    rows = len([s for s in body.sequences if s in with_lanes]) + len(set(body.outputs))
    saved = 2 * len(carries) - recorded
    work = sum(COSTS.get(n.op.name, 1) for n in with_lanes if n.op.name in ELEMENTWISE)
    return saved >= 2 * rows and work < 4 * saved


def _is_small(node: Node) -> bool:
    """Whether a value is a number, or few of them."""
    known = [s for s in node.type.shape if s is not None] if isinstance(node.type, TensorType) else None
    return known is not None and len(known) == node.type.ndim and math.prod(known) <= TINY


def _moving(spec: LoopSpec, body: Graph) -> list[Node]:
    """Conditions without which no carry changes, now and in all steps that follow: they depend on what else would."""
    params, following = split(spec, body.params), body.results[: spec.n_carries]
    found: dict[Node, None] = {}
    counts: list[Node] = []
    for p, n in zip(params.carries, following, strict=True):
        if n is p:
            continue
        if n.op.name == "where" and n.inputs[2] is p:
            found[n.inputs[0]] = None
        elif n.op.name == "add" and p in n.inputs and (condition := _where_not_zero(n, p)) is not None:
            found[condition] = None
            counts.append(p)
        else:
            return []
    depend = dependents(found, {params.trip_count, *params.sequences, *counts})
    return [] if spec.n_outputs or depend or any(c.type.ndim for c in found) else list(found)


def _where_not_zero(total: Node, carry: Node) -> Node | None:
    """The condition without which zero is added to a carry; None if there is none such."""
    a, b = total.inputs
    term = b if a is carry else a
    if term.op.name == "cast" and term.inputs[0].type.dtype == "bool":
        return term.inputs[0]
    if term.op.name != "where":
        return None
    zero = constant_value(term.inputs[2])
    return term.inputs[0] if zero is not None and zero.ndim == 0 and zero == 0 else None


class Tiling:
    """One Loop being lowered by lanes.

    Parameters
    ----------
    n_steps : the number of steps.
    given : sequences, initial values and invariants.
    output : makes memory for the rows of an output.
    kept : states with one buffer, the memory for all of them, and the outputs that these are.
    name : of the loop, in words.
    """

    def __init__(
        self,
        block: Block,
        node: Node,
        how: Plan,
        n_steps: Expr,
        given: Sequence[list[Array]],
        output: Output,
        kept: Sequence[Kept],
        name: str,
    ) -> None:
        self.block, self.nest, self.node = block, block.nest, node
        self.spec: LoopSpec = node.params[0]
        self.grid, self.graph, self.moving = how
        self.params = split(self.spec, self.spec.body.params)
        self.own = split(self.spec, self.graph.params)
        self.n_steps, self.output, self.kept, self.name = n_steps, output, kept, name
        self.sequences, self.inits, self.invariants = given

    def lower(self) -> list[Array]:
        """All results of the loop."""
        nest = self.nest
        body = body_of(self.spec)
        sizes = self._sizes()
        outputs = {j: after for _, _, found in self.kept for j, after in found.items()}
        own = {j: self.output(j) for j in range(self.spec.n_outputs) if j not in outputs}
        outputs |= {j: after for j, (_, after) in own.items()}
        finals = [self._final(i, x) for i, x in enumerate(self.inits)]
        made: list[For] = []

        def lanes(index: list[Expr]) -> None:
            results = self._steps(index, {j: within for j, (within, _) in own.items()})
            for target, value, p in zip(finals, results, body.carries, strict=True):
                if target is not None:
                    self._put(self._of_lane(target, self.grid.axes[p], index), value)

        self._for_each(sizes, lanes, made)
        if not made or nest.tiles is None or not nest.tiles(made[-1]):
            raise NotTiledError(self.node)
        held = [x if f is None else f for f, x in zip(finals, self.inits, strict=True)]
        return [*held, *[outputs[j] for j in range(self.spec.n_outputs)], scalar(self.n_steps)]

    def _for_each(self, sizes: list[Expr], body: Callable[[list[Expr]], None], made: list[For]) -> None:
        """Nested loops over the lanes; the innermost one is the tile."""

        def nested(done: list[Expr]) -> None:
            with self.nest.loop(sizes[len(done)], "lane", parallel=True) as loop:
                index = [*done, loop.var]
                if len(index) < len(sizes):
                    return nested(index)
                loop.tile, loop.label = True, self.name
                made.append(loop)
                body(index)

        nested([])

    # ---- sizes ----

    def _all_given(self) -> list[tuple[Node, Array, int]]:
        """The params with their values, and how many dimensions these have in front of those of the params."""
        kinds = (
            (self.params.sequences, self.sequences, 1),
            (self.params.carries, self.inits, 0),
            (self.params.invariants, self.invariants, 0),
        )
        return [(p, x, lead) for params, values, lead in kinds for p, x in zip(params, values, strict=True)]

    def _sizes(self) -> list[Expr]:
        """The numbers of lanes; all that has lanes is assumed to have as many."""
        found: list[list[Expr]] = [[] for _ in range(self.grid.rank)]
        for p, x, lead in self._all_given():
            for sizes, axis in zip(found, self.grid.axes[p], strict=True):
                if axis is not None:
                    sizes.append(x.sizes[lead + axis])
        integers = self.nest.integers
        for first, *rest in found:
            for other in rest:
                integers.assume_equal(first, other)
        return [integers.representative(first) for first, *_ in found]

    def _final(self, i: int, init: Array) -> Array | None:
        """Memory for a final carry, if somebody reads it."""
        if not init.sizes or not self.block.is_read(item(self.node, i)):
            return None
        return new_array(self.nest, init.dtype, init.sizes)

    # ---- one lane ----

    def _of_lane(self, x: Array, axes: Sequence[int | None], index: Sequence[Expr], lead: int = 0) -> Array:
        """One lane of an array; the dimensions in front of those of a param stay."""
        places = {lead + a: i for a, i in zip(axes, index, strict=True) if a is not None}
        rest = [a for a in range(x.ndim) if a not in places]
        sizes = tuple([x.sizes[a] for a in rest])
        if x.memory is not None:
            offset = x.memory.offset
            for a, i in places.items():
                offset = self.nest.add(offset, self.nest.mul(i, x.memory.strides[a]))
            strides = tuple([x.memory.strides[a] for a in rest])
            return in_memory(self.nest, x.dtype, sizes, Memory(x.memory.pointer, offset, strides))

        def at(inner: Sequence[Expr]) -> Expr:
            known = {**places, **dict(zip(rest, inner, strict=True))}
            return x.at([known[a] for a in range(x.ndim)])

        return Array(x.dtype, sizes, at, depth=x.depth, cost=x.cost)

    def _held(self, x: Array, param: Node) -> Array:
        """Few elements, in registers; they have the sizes of the param."""
        if not param.type.ndim:
            return scalar(self.nest.let(x.at([]), param.name or "lane"))
        sizes = tuple([self.nest.const(s) for s in param.type.shape])
        return in_registers(self.nest, Array(x.dtype, sizes, x.at, depth=x.depth, cost=x.cost))

    def _row(self, x: Array, t: Expr) -> Array:
        return Array(x.dtype, x.sizes[1:], lambda index: x.at([t, *index]), depth=x.depth, cost=x.cost)

    def _put(self, target: Array, value: Array) -> None:
        """Write few elements."""
        for inner in all_indices(self.nest, value.sizes):
            store(self.nest, target, inner, value.at(inner))

    def _steps(self, index: list[Expr], rows: Mapping[int, Array]) -> list[Array]:
        """All steps of one lane; its final carries. `rows`: memory for outputs."""
        nest, c, axes = self.nest, self.spec.n_carries, self.grid.axes
        outputs = self.spec.body.results[c:]
        own_rows = [(c + j, self._of_lane(x, axes[outputs[j]], index, 1)) for j, x in rows.items()]
        kept = [(s, self._of_lane(x, axes[self.params.carries[s.carries[0]]], index, 1)) for s, x, _ in self.kept]
        lane = {p: self._of_lane(x, axes[p], index, lead) for p, x, lead in self._all_given()}
        own = dict(zip(self.params.invariants, self.own.invariants, strict=True))
        own |= dict(zip(self.params.carries, self.own.carries, strict=True))
        params = {own[p]: self._held(lane[p], own[p]) for p in self.params.invariants}
        starts = [self._held(lane[p], own[p]) for p in self.params.carries]
        for states, buffer in kept:
            for i in states.carries:
                self._put(self._row_of(buffer, nest.const(states.start(i))), starts[i])
            own_rows.append((states.carries[0], some_rows(nest, buffer, states.lead, self.n_steps, 0)))
        with nest.loop(self.n_steps, "t") as loop:
            carries = [self._carry(loop, x, p) for x, p in zip(starts, self.own.carries, strict=True)]
            params[self.own.trip_count] = scalar(loop.var)
            for p, x in zip(self.own.carries, carries, strict=True):
                params[p] = _few(nest, p, [c.var for c in x])
            for p, q in zip(self.params.sequences, self.own.sequences, strict=True):
                params[q] = self._held(self._row(lane[p], loop.var), q)
            inner = Block(nest, self.graph, params)
            results = inner.lower(self.graph)
            if self.moving:
                loop.until = reduce(
                    lambda a, b: nest.op("or", a, b, dtype="bool"), [inner.scalar(c) for c in self.moving]
                )
            for k, target in own_rows:
                self._put(self._row_of(target, loop.var), results[k])
            for carried, value in zip(carries, results[:c], strict=True):
                self._advance(carried, value)
        pairs = zip(carries, self.own.carries, strict=True)
        return [_few(nest, p, [c.result for c in carried]) for carried, p in pairs]

    def _row_of(self, x: Array, t: Expr) -> Array:
        """A row of an array in memory."""
        assert x.memory is not None
        offset = self.nest.add(x.memory.offset, self.nest.mul(t, x.memory.strides[0]))
        return in_memory(self.nest, x.dtype, x.sizes[1:], Memory(x.memory.pointer, offset, x.memory.strides[1:]))

    def _carry(self, loop: For, init: Array, param: Node) -> list[Carried]:
        elements = [init.at(i) for i in all_indices(self.nest, init.sizes)]
        return [self.nest.carry(loop, e, param.name or "carry") for e in elements]

    def _advance(self, carried: list[Carried], value: Array) -> None:
        for c, index in zip(carried, all_indices(self.nest, value.sizes), strict=True):
            c.next = self.nest.let(value.at(index))


def _few(nest: Nest, param: Node, elements: Sequence[Expr]) -> Array:
    """A number, or few of them, as an array of the sizes of a param."""
    if not param.type.ndim:
        return scalar(elements[0])
    return of_elements(nest, param.type.dtype, [nest.const(s) for s in param.type.shape], elements)
