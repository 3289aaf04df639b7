"""Lowering of a loop whose lanes may be divided: all steps of some lanes, and results where all parts find their place.

Which dimension the lanes are is found in `lanes.py`. What a part computes is what the loop would be for a smaller
batch: every param that has lanes is the part of it, and every result is written to its part of memory that is
there before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from ostinato.graph import Node
from ostinato.lower import arrays
from ostinato.lower.arrays import Array, copy_all, count, new_array, scalar, store
from ostinato.lower.lanes import Lanes, costs, lanes_of
from ostinato.lower.loopnest import Expr, Split
from ostinato.lower.scalarize import Block
from ostinato.lower.states import States, buffer, last_first
from ostinato.ops.creation import UNSET
from ostinato.ops.indexing import is_reversal
from ostinato.ops.loop import LoopSpec, all_sizes_outside, body_of, item, split
from ostinato.ops.sizes import Size
from ostinato.ops.sizes import sizes as symbolic_sizes

# The fewest lanes of a part, and what their number is a multiple of: rows of products, which have tiles to fill; and
# elements beside each other, which have vectors and lines of cache to fill.
_ROWS, _ELEMENTS = 4, 16

Given = tuple[list[Array], list[Array], list[Array]]  # sequences, initial values and invariants
# Lowers all steps of some lanes, from what these are given to all results.
Steps = Callable[[list[Array], list[Array], list[Array]], list[Array]]


class NotDivisibleError(Exception):
    """A part of the lanes of the loop `node` would call out: lower again without dividing it."""

    def __init__(self, node: Node) -> None:
        self.node = node


def lanes(block: Block, node: Node) -> Lanes | None:
    """The lanes of a loop, if they are worth being divided: it stands in no other loop, and the sizes are not known."""
    spec: LoopSpec = node.params[0]
    nest = block.nest
    if nest.in_loop or not nest.integers.optimistic or not nest.panels or spec.has_until or node in nest.whole:
        return None
    found = lanes_of(spec)
    if found is None:
        return None
    body = body_of(spec)
    if all(found.axes[p] is None for p in (*body.carries, *body.sequences, *body.invariants)):
        return None  # nothing that is given tells how many there are
    arrays_shared = any(c.type.ndim and found.axes[c] is None for c in body.carries)
    items = [item(node, i) for i in range(spec.n_carries, spec.n_carries + spec.n_outputs)]
    return None if arrays_shared or any(None in symbolic_sizes(i) for i in items) else found


def _is_there(value: Array, target: Array) -> bool:
    """Whether a part of an array was made where it belongs."""
    return value.memory is not None and target.memory is not None and value.memory.pointer is target.memory.pointer


def read_backwards(block: Block, node: Node, index: int, held: Array) -> Array:
    """An output as it is written: where all that read it want its rows in the other order, they lie in that order."""
    if not block.is_only_read_by(item(node, index), is_reversal):
        return held
    return last_first(block.nest, held)


class Division:
    """One Loop being lowered that is divided into lanes."""

    def __init__(self, block: Block, node: Node, lanes: Lanes, given: Given) -> None:
        self.block, self.nest, self.node, self.lanes = block, block.nest, node, lanes
        self.spec: LoopSpec = node.params[0]
        self.body, self.given = body_of(self.spec), given
        self.inputs = split(self.spec, node.inputs)
        self.n_steps = block.scalar(self.inputs.trip_count)

    def lower(self, steps: Steps) -> list[Array]:
        """All results of the loop; `steps` lowers it for the part that it is given, and asks for `output`."""
        nest, c = self.nest, self.spec.n_carries
        n_lanes = self._n_lanes()
        finals = [self._final(i, x) for i, x in enumerate(self.given[1])]
        sites = len(nest.sites)
        least = _ROWS if self.lanes.has_products else self._least_elements()
        self.given = (self.given[0], self._unset_in_place(finals), self.given[2])
        with nest.split(n_lanes, nest.let(self._work()), least) as self.part:
            self.part.label = f"loop {self.spec.name!r}" if self.spec.name else ""
            found = steps(*self._given_to(self.part))
            self._keep(self.part, finals, found)
        if len(nest.sites) > sites:
            raise NotDivisibleError(self.node)
        results = [self._read(x, v) for x, v in zip(finals, self.given[1], strict=True)]
        return [*results, *found[c:-1], scalar(self.n_steps)]

    def is_shared(self, invariant: Node) -> bool:
        """Whether an invariant is the same for all lanes."""
        return self.lanes.axes[invariant] is None

    def output(self, j: int, n_rows: Expr | None = None) -> tuple[Array, Array]:
        """Memory for an output of the loop: of the part, and all of it. It has a row per step if not `n_rows`."""
        result = item(self.node, self.spec.n_carries + j)
        with self.nest.before(self.part):
            _, *rows = [self.block.size(s) for s in symbolic_sizes(result)]
            held = new_array(self.nest, result.type.dtype, [self.n_steps if n_rows is None else n_rows, *rows])
            if n_rows is None:
                held = read_backwards(self.block, self.node, self.spec.n_carries + j, held)
        return self._part(self.part, held, 1 + self._axis(self.body.outputs[j])), held

    def states(self, states: States, n_rows: Expr) -> tuple[Array, Array]:
        """Memory for so many values of a carry: of the part, and all of it."""
        first = states.carries[0]
        with self.nest.before(self.part):
            held = buffer(self.nest, self.given[1][first], n_rows, states.backwards)
        return self._part(self.part, held, 1 + self._axis(self.body.carries[first])), held

    def has_rows_in_order(self, i: int) -> bool:
        """Whether a carry, in a part of the lanes, lies in C order where the whole one does."""
        return self.lanes.axes[self.body.carries[i]] == 0

    def is_unset(self, i: int) -> bool:
        """Whether a carry has no initial value: then all parts begin with memory for the final one."""
        return self.inputs.carries[i].op is UNSET

    def _unset_in_place(self, finals: list[Array | None]) -> list[Array]:
        inits = self.given[1]
        for i, x in enumerate(inits):
            if self.is_unset(i):
                finals[i] = finals[i] or new_array(self.nest, x.dtype, x.sizes)
        return [
            f if f is not None and self.is_unset(i) else x for i, (f, x) in enumerate(zip(finals, inits, strict=True))
        ]

    # ---- sizes ----

    def _axis(self, node: Node) -> int:
        axis = self.lanes.axes[node]
        assert axis is not None
        return axis

    def _n_lanes(self) -> Expr:
        """The number of lanes; all that has lanes is assumed to have as many."""
        sequences, inits, invariants = self.given
        found: list[Expr] = []
        for params, values, lead in (
            (self.body.carries, inits, 0),
            (self.body.sequences, sequences, 1),
            (self.body.invariants, invariants, 0),
        ):
            for p, x in zip(params, values, strict=True):
                axis = self.lanes.axes[p]
                if axis is not None:
                    found.append(x.at([]) if axis < 0 else x.sizes[lead + axis])
        for size in found[1:]:
            self.nest.integers.assume_equal(found[0], size)
        return self.nest.let(found[0], "lanes")

    def _least_elements(self) -> int:
        """One lane where lanes are rows; as many as fill a line of cache where they are single elements."""
        has_lanes = [n for n in (*self.body.carries, *self.body.outputs) if n.type.ndim]
        return _ELEMENTS if any(n.type.ndim == 1 + self._axis(n) for n in has_lanes) else 1

    def _work(self) -> Expr:
        """What all steps cost, in additions."""
        within: Counter[tuple[Size, ...]] = Counter()  # most operations have the sizes of another one
        for cost, inner in costs(self.spec.body):
            within[tuple(inner)] += cost
        totals: Counter[tuple[Size, ...]] = Counter()
        outside = all_sizes_outside(list(within), self.inputs, self.body)
        for sizes, cost in zip(outside, within.values(), strict=True):
            if None not in sizes:
                totals[sizes] += cost
        work: Expr = self.nest.const(0)
        for factors, cost in totals.items():
            elements = count(self.nest, [self.block.size(s) for s in factors])
            work = self.nest.add(work, self.nest.mul(elements, self.nest.const(cost)))
        return self.nest.mul(work, self.n_steps)

    # ---- params and results ----

    def _part(self, part: Split, value: Array, axis: int) -> Array:
        return arrays.lanes(self.nest, value, axis, part.first, part.n)

    def _given_to(self, part: Split) -> Given:
        def own(params: Sequence[Node], values: list[Array], lead: int = 0) -> list[Array]:
            found = []
            for p, x in zip(params, values, strict=True):
                axis = self.lanes.axes[p]
                found.append(x if axis is None else scalar(part.n) if axis < 0 else self._part(part, x, lead + axis))
            return found

        sequences, inits, invariants = self.given
        body = self.body
        return own(body.sequences, sequences, 1), own(body.carries, inits), own(body.invariants, invariants)

    def _final(self, i: int, init: Array) -> Array | None:
        """Memory for a final carry, if somebody reads it."""
        return new_array(self.nest, init.dtype, init.sizes) if self.block.is_read(item(self.node, i)) else None

    def _keep(self, part: Split, finals: Sequence[Array | None], found: Sequence[Array]) -> None:
        nest, copies = self.nest, []
        for target, value, p in zip(finals, found, self.body.carries, strict=False):
            if target is None:
                continue
            if value.sizes and _is_there(value, target):
                continue
            if value.sizes:
                copies.append((self._part(part, target, self._axis(p)), value))
            else:  # the same in all parts
                with nest.when(nest.op("eq", part.first, nest.const(0), dtype="bool")):
                    store(nest, target, [], value.at([]))
        copy_all(nest, copies)

    def _read(self, final: Array | None, init: Array) -> Array:
        if final is None:
            return init
        return final if final.sizes else scalar(self.nest.let(final.at([]), "final"))
