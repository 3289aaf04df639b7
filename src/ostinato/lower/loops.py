"""Lowering of the Loop: a counted loop whose carries are registers where they are scalars, else memory.

A few elements, of a number known beforehand, are registers too. An array of which a step only writes parts has one
buffer and is changed in place, see `in_place`. Other array carries have two buffers that change places after every
step. A carry whose next value is recorded as an output lives in the output's rows: nothing is copied. What is recorded
before and after a step is one buffer, see `states`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ostinato.errors import at
from ostinato.graph import Node
from ostinato.lower import dividing, in_place, packing, tiling
from ostinato.lower.arrays import (
    Array,
    Memory,
    all_indices,
    contiguous_strides,
    copy_all,
    count,
    in_memory,
    in_registers,
    is_contiguous,
    is_tiny,
    new_array,
    of_elements,
    scalar,
    store,
)
from ostinato.lower.dividing import read_backwards
from ostinato.lower.loopnest import Carried, Const, Expr, For
from ostinato.lower.scalarize import CHEAP, Block, Enclosing, UnsupportedError, lowering
from ostinato.lower.states import States, buffer, recorded_states, some_rows
from ostinato.lower.writes import is_zero
from ostinato.ops.creation import UNSET
from ostinato.ops.loop import LoopSpec, body_of, item, split
from ostinato.ops.sizes import SIZE
from ostinato.ops.sizes import sizes as symbolic_sizes

# The rows for which there is room at first where a condition decides how many there will be.
_FIRST_ROWS = 64


@lowering("loop")
def _loop(block: Block, node: Node) -> list[Array]:
    spec: LoopSpec = node.params[0]
    return _Lowering(block, node, spec).lower()


class _ArrayCarry(NamedTuple):
    """Pointers to the value now and to the memory for the next one."""

    now: Carried
    spare: Carried
    sizes: tuple[Expr, ...]


class _OwnCarry(NamedTuple):
    """A carry that is changed in place."""

    held: Array


class _TinyCarry(NamedTuple):
    """A carry of few elements, each in a register."""

    elements: list[Carried]
    sizes: tuple[Expr, ...]


_Carry = Carried | _ArrayCarry | _OwnCarry | _TinyCarry


class _Kept(NamedTuple):
    """States that are recorded before and after the steps: memory for all of them, and the outputs there."""

    states: States
    rows: Array
    outputs: dict[int, Array]


class _Lowering:
    """One Loop being lowered."""

    def __init__(self, block: Block, node: Node, spec: LoopSpec) -> None:
        self.block, self.nest, self.node, self.spec = block, block.nest, node, spec
        self.given, self.body = split(spec, node.inputs), body_of(spec)
        self.n = block.scalar(self.given.trip_count)
        self.division: dividing.Division | None = None
        self.grown: list[tuple[States, Array]] = []  # states of which the last ones are recorded after the steps
        self._name = f"loop {spec.name!r}" if spec.name else "loop"

    def lower(self) -> list[Array]:
        block = self.block
        sequences = [self._sequence(x) for x in self.given.sequences]
        for s in sequences:
            block.fail_unless(block.op("ge", s.sizes[0], self.n, dtype="bool"))
        packed = packing.only_packed(block.nest, self.spec.body)
        invariants = [
            self._settled(w, p in packed) for w, p in zip(self.given.invariants, self.body.invariants, strict=True)
        ]
        inits = [block.array(c) for c in self.given.carries]
        lanes = dividing.lanes(block, self.node)
        if lanes is None:
            return self._steps(sequences, inits, invariants)
        self.division = dividing.Division(block, self.node, lanes, (sequences, inits, invariants))
        return self.division.lower(self._steps)

    def _steps(self, sequences: list[Array], inits: list[Array], invariants: list[Array]) -> list[Array]:
        block, nest, body = self.block, self.nest, self.body
        how = tiling.plan(block, self.node)
        if how is not None:
            given = [sequences, inits, invariants]
            kept = [self._kept(s, inits) for s in recorded_states(block, self.node, (), frozenset())]
            return tiling.Tiling(block, self.node, how, self.n, given, self._rows_of, kept, self._name).lower()
        arrays = [i for i, c in enumerate(inits) if c.sizes and not is_tiny(c.sizes)]
        zeros = in_place.zeros_among(dict(zip(body.invariants, invariants, strict=True)), block)
        self.plan = in_place.plan(self.spec, arrays, zeros)
        self.states = self._recorded_states(arrays)
        self.kept = [] if self.spec.has_until else [self._kept(s, inits) for s in self.states]
        first_rows = {i: row for k in self.kept for i, row in self._begun(k, inits).items()}
        spares = []
        for i, (c, p) in enumerate(zip(inits, body.carries, strict=True)):
            with nest.memory_for(f"{self._name} carries {p.name or 'an array'}"):
                spares.append((first_rows[i],) * 2 if i in first_rows else self._buffers(i, c) if i in arrays else ())
        copies = [(k, buffers[0], c) for k, (buffers, c) in enumerate(zip(spares, inits, strict=True)) if buffers]
        copy_all(nest, [(held, c) for k, held, c in copies if held is not c and not self._is_overwritten(k)])
        with nest.loop(self.n, "t") as loop:
            loop.label = self._name
            carries = [self._carry(loop, c, s, p) for c, s, p in zip(inits, spares, body.carries, strict=True)]
            params: dict[Node, Array] = {body.t: scalar(loop.var)}
            params.update(zip(body.sequences, [self._row(s, loop.var) for s in sequences], strict=True))
            params.update(
                zip(body.carries, [self._value(c, x) for c, x in zip(carries, inits, strict=True)], strict=True)
            )
            params.update(zip(body.invariants, invariants, strict=True))
            pairs = zip(body.invariants, self.given.invariants, strict=True)
            fixed = {p: x for p, x in pairs if self.division is None or self.division.is_shared(p)}
            enclosing = Enclosing(block, self.division.part if self.division else loop, fixed)
            inner = Block(nest, self.spec.body, params, frozenset(body.outputs), enclosing)
            loop.in_place = len(self.plan.chains)
            outputs = self._step(inner, loop, carries)
        finals = [self._final(c, x) for c, x in zip(carries, inits, strict=True)]
        for states, rows in self.grown:
            self._end(states, rows, self._trips(loop), finals)
        return [*finals, *outputs, scalar(self._trips(loop))]

    def _sequence(self, node: Node) -> Array:
        """What the loop reads row by row: in memory, unless a row is a few numbers that cost little to compute."""
        value = self.block.array(node)
        few = value.ndim == 1 or is_tiny(value.sizes[1:])
        if value.memory is None and few and not is_tiny(value.sizes) and value.cost <= CHEAP:
            return value
        return self.block.in_memory(node)

    # ---- states with one buffer ----

    def _recorded_states(self, arrays: Sequence[int]) -> list[States]:
        """States that are recorded before and after the steps; carries in memory live there."""
        apart = set(self.plan.chains)
        if self.division is not None:
            apart |= {i for i in arrays if not self.division.has_rows_in_order(i)}
        return recorded_states(self.block, self.node, arrays, apart)

    def _called(self, states: States) -> str:
        """States in words, for whoever asks what memory is for."""
        before = [self.body.carries[i] for i in states.carries]
        nodes = dict.fromkeys(self.body.outputs[j] for j in sorted(states.starts, key=lambda j: -states.starts[j]))
        after = [f"{n.name or n.op.name}{at(n.source)}" for n in nodes if n not in before]
        names = [n.name or "a state" for n in before if n in nodes]
        return f"{self._name} records {' and '.join([*after, *names])}{', in one buffer' if len(nodes) > 1 else ''}"

    def _kept(self, states: States, inits: Sequence[Array]) -> _Kept:
        """Memory for states, one row for each initial value and step."""
        nest, first = self.nest, inits[states.carries[0]]
        for i in states.carries[1:]:
            for own, wanted in zip(inits[i].sizes, first.sizes, strict=True):
                self.block.require_equal(own, wanted)
        with nest.memory_for(self._called(states)):
            n_rows = nest.add(self.n, nest.const(states.lead))
            if self.division is not None:
                rows, held = self.division.states(states, n_rows)
            else:
                rows = held = buffer(nest, first, n_rows, states.backwards)
        return _Kept(states, rows, self._outputs_in(states, held, self.n))

    def _outputs_in(self, states: States, held: Array, n: Expr) -> dict[int, Array]:
        """The outputs that are parts of a buffer."""
        starts = states.starts.items()
        return {j: some_rows(self.nest, held, start, n, states.lead - start) for j, start in starts}

    def _begun(self, kept: _Kept, inits: Sequence[Array]) -> dict[int, Array]:
        """The rows of the initial values, for carries in memory; those in registers are written."""
        found: dict[int, Array] = {}
        for i in kept.states.carries:
            place = self.nest.const(kept.states.start(i))
            if not inits[i].sizes:
                store(self.nest, kept.rows, [place], inits[i].at([]))
            elif is_tiny(inits[i].sizes):
                copy_all(self.nest, [(self._row(kept.rows, place), inits[i])])
            else:
                found[i] = self._row(kept.rows, place)
        return found

    def _record_states(
        self, loop: For, results: Sequence[Array], copies: list[tuple[Array, Array]]
    ) -> tuple[dict[int, Array], dict[Node, Array]]:
        """Record states that have one buffer: the outputs that they are, and the rows that stay as they are."""
        outputs: dict[int, Array] = {}
        rows: dict[Node, Array] = {}
        for states in self.states if self.spec.has_until else ():
            outputs |= self._grow(loop, states, results, copies)
        for kept in self.kept:
            first, lead = kept.states.carries[0], kept.states.lead
            row = self._record(loop, some_rows(self.nest, kept.rows, lead, self.n, 0), results[first], copies)
            outputs |= kept.outputs
            rows |= {self.body.carries[i]: results[older] for i, older in pairwise(kept.states.carries)}
            if row is not None:
                rows[self.body.next_carries[first]] = row
        return outputs, rows

    def _grow(
        self, loop: For, states: States, results: Sequence[Array], copies: list[tuple[Array, Array]]
    ) -> dict[int, Array]:
        """Record the oldest of states, in as many rows as there are steps; the rest follows after the loop."""
        j, trips, lead = states.oldest, self._trips(loop), states.lead
        value = results[self.spec.n_carries + j]
        with self.nest.memory_for(self._called(states)):
            column, after = self._output(loop, j, value, lead)
            self._record(loop, column, value, copies)
        assert after.memory is not None
        rows = self._region(
            after.memory.pointer, (self.nest.add(trips, self.nest.const(lead)), *after.sizes[1:]), after.dtype
        )
        self.grown.append((states, rows))
        return self._outputs_in(states, rows, trips)

    def _end(self, states: States, rows: Array, trips: Expr, finals: Sequence[Array]) -> None:
        """Record the states that there are when the steps have ended."""
        for i in states.carries:
            place = self.nest.add(trips, self.nest.const(states.start(i)))
            if finals[i].sizes:
                copy_all(self.nest, [(self._row(rows, place), finals[i])])
            else:
                store(self.nest, rows, [place], finals[i].at([]))

    # ---- carries ----

    def _buffers(self, i: int, init: Array) -> tuple[Array, ...]:
        """Memory for a carry; and for its next value, unless it is changed in place."""
        if i not in self.plan.chains:
            return new_array(self.nest, init.dtype, init.sizes), new_array(self.nest, init.dtype, init.sizes)
        is_own = (self.node, i) in self.block.given_away or (self.division is not None and self.division.is_unset(i))
        return (init if is_own else new_array(self.nest, init.dtype, init.sizes),)

    def _is_overwritten(self, i: int) -> bool:
        """Whether nobody reads the initial value of a carry that is changed in place: see `unset`."""
        return self.given.carries[i].op is UNSET and i in self.plan.chains

    def _trips(self, loop: For) -> Expr:
        return self.n if loop.trips is None else loop.trips

    def _settled(self, node: Node, is_packed: bool) -> Array:
        """A value that the body may read any number of times."""
        value = self.block.array(node)
        free = not value.sizes or is_zero(self.block, value) or (is_tiny(value.sizes) and value.memory is None)
        if free:
            return value
        return self.block.in_memory(node) if is_packed else self.block.rows_in_order(node)

    def _row_sizes(self, loop: For, j: int, value: Array) -> tuple[Expr, ...]:
        """The sizes of the rows of an output, as they are known before the loop."""
        plain = [self.nest.integers.expanded(s) for s in value.sizes]
        if all(self.nest.is_known_before(loop, s) for s in plain):
            return tuple(plain)
        result = item(self.node, self.spec.n_carries + j)
        wanted = symbolic_sizes(result)[1:]
        if any(isinstance(s, Node) and s.op is SIZE and s.inputs[0] is result for s in wanted):
            raise UnsupportedError("rows whose sizes depend on values")
        with self.nest.before(loop):
            return tuple([self.block.size(s) for s in wanted])

    def _rows_of(self, j: int) -> tuple[Array, Array]:
        """Memory for a row per step of an output, as it is written and as it is read after the loop."""
        result, node = item(self.node, self.spec.n_carries + j), self.spec.body.results[self.spec.n_carries + j]
        with self.nest.memory_for(f"{self._name} records {node.name or node.op.name}{at(node.source)}"):
            if self.division is not None:
                return self.division.output(j)
            rows = [self.block.size(s) for s in symbolic_sizes(result)[1:]]
            held = new_array(self.nest, result.type.dtype, [self.n, *rows])
        held = read_backwards(self.block, self.node, self.spec.n_carries + j, held)
        return held, held

    def _output(self, loop: For, j: int, value: Array, more: int = 0) -> tuple[Array, Array]:
        """Memory for the rows of an output, as it is known within the loop and after it.

        Where the loop grows it, there are so many rows `more`, after the last step.
        """
        if self.division is not None:
            return self.division.output(j)
        rows = self._row_sizes(loop, j, value)
        if not self.spec.has_until:
            with self.nest.before(loop):
                held = new_array(self.nest, value.dtype, [self.n, *rows])
            held = read_backwards(self.block, self.node, self.spec.n_carries + j, held)
            return held, held
        with self.nest.before(loop):
            first = self.nest.op("minimum", self.n, self.nest.const(_FIRST_ROWS))
        column = self.nest.column(loop, first, count(self.nest, rows), value.dtype, more=more)
        within = self._region(column.pointer, (self.n, *rows), value.dtype)
        return within, self._region(column.result, (self._trips(loop), *rows), value.dtype)

    def _thinned(self, loop: For, j: int, value: Array) -> Array:
        """Record each so many-th row of an output; all of them as they are after the loop."""
        block, nest = self.block, self.nest
        place = self.spec.thinned(j)
        assert place is not None
        with nest.before(self.division.part if self.division else loop):
            every = block.scalar(self.given.invariants[place])
            block.fail_unless(block.op("ge", every, block.int(1), dtype="bool"))
            rows = nest.let(nest.op("floor_div", nest.add(self.n, nest.op("sub", every, block.int(1))), every), "rows")
        phase, used = nest.carry(loop, block.int(0), "phase"), nest.carry(loop, block.int(0), "used")
        kept = nest.let(block.op("eq", phase.var, block.int(0), dtype="bool"))
        following = nest.let(nest.add(phase.var, block.int(1)))
        phase.next = block.op("where", block.op("eq", following, every, dtype="bool"), block.int(0), following)
        used.next = nest.let(nest.add(used.var, block.op("cast", kept, dtype="int64")))
        within, after = self._thinned_rows(loop, j, value, rows, used)
        with nest.when(kept):
            if value.sizes:
                copy_all(nest, [(self._row(within, used.var), value)])
            else:
                store(nest, within, [used.var], value.at([]))
        return after

    def _thinned_rows(self, loop: For, j: int, value: Array, rows: Expr, used: Carried) -> tuple[Array, Array]:
        """Memory for the rows of a thinned output, as it is known within the loop and after it."""
        if self.division is not None:
            return self.division.output(j, rows)
        sizes = self._row_sizes(loop, j, value)
        for own, wanted in zip(value.sizes, sizes, strict=True):
            self.block.require_equal(own, wanted)
        if not self.spec.has_until:
            with self.nest.before(loop):
                held = new_array(self.nest, value.dtype, [rows, *sizes])
            return held, held
        with self.nest.before(loop):
            first = self.nest.op("minimum", rows, self.nest.const(_FIRST_ROWS))
        column = self.nest.column(loop, first, count(self.nest, sizes), value.dtype, used.next)
        within = self._region(column.pointer, (rows, *sizes), value.dtype)
        return within, self._region(column.result, (used.result, *sizes), value.dtype)

    def _carry(self, loop: For, init: Array, spare: tuple[Array, ...], param: Node) -> _Carry:
        name = param.name or "carry"
        if not init.sizes:
            return self.nest.carry(loop, init.at([]), name)
        if len(spare) == 1:
            return _OwnCarry(spare[0])
        if not spare:
            with self.nest.before(loop):
                elements = [self.nest.let(init.at(index)) for index in all_indices(self.nest, init.sizes)]
            return _TinyCarry([self.nest.carry(loop, e, name) for e in elements], init.sizes)
        first, second = map(self._address, spare)
        return _ArrayCarry(self.nest.carry(loop, first, "now"), self.nest.carry(loop, second, "spare"), init.sizes)

    def _row(self, x: Array, t: Expr) -> Array:
        memory = x.memory
        if memory is None and x.ndim == 1:
            return scalar(self.nest.let(x.at([t]), "row"))
        if memory is None:
            row = Array(x.dtype, x.sizes[1:], lambda index: x.at([t, *index]))
            # Known sizes may have become those of a part of the lanes.
            return in_registers(self.nest, row) if all(isinstance(s, Const) for s in row.sizes) else row
        offset = self.nest.add(memory.offset, self.nest.mul(t, memory.strides[0]))
        if x.ndim == 1:
            return scalar(self.nest.let(self.nest.load(memory.pointer, offset, x.dtype), "row"))
        region = Memory(memory.pointer, self.nest.let(offset), memory.strides[1:])
        return in_memory(self.nest, x.dtype, x.sizes[1:], region)

    def _value(self, carry: _Carry, init: Array) -> Array:
        if isinstance(carry, Carried):
            return scalar(carry.var)
        if isinstance(carry, _TinyCarry):
            return of_elements(self.nest, init.dtype, carry.sizes, [e.var for e in carry.elements])
        if isinstance(carry, _OwnCarry):
            memory = carry.held.memory
            assert memory is not None
            return in_memory(self.nest, init.dtype, carry.held.sizes, replace(memory, fresh=False))
        return self._region(carry.now.var, carry.sizes, init.dtype)

    def _region(self, pointer: Expr, sizes: tuple[Expr, ...], dtype: str) -> Array:
        region = Memory(pointer, self.nest.const(0), contiguous_strides(self.nest, sizes))
        return in_memory(self.nest, dtype, sizes, region)

    def _step(self, inner: Block, loop: For, carries: list[Any]) -> list[Array]:
        """Lower the body; the outputs as they are after the loop."""
        c = self.spec.n_carries
        held = {i: inner.array(self.body.carries[i]) for i in self.plan.chains}
        lowered = in_place.Body(inner, self.spec, self.plan, held)
        results = lowered.lower()
        nodes = self.spec.body.results
        if self.spec.has_until:
            loop.until = results[-1].at([])
            loop.trips = self.nest.var("trips", "int64")
        outputs: list[Array] = []
        recorded: dict[int, tuple[Array, Array | None]] = {}
        copies: list[tuple[Array, Array]] = []
        known, rows = self._record_states(loop, results, copies)
        for j, (value, node) in enumerate(zip(results[c : c + self.spec.n_outputs], nodes[c:], strict=False)):
            with self.nest.memory_for(f"{self._name} records {node.name or node.op.name}{at(node.source)}"):
                if j in known:
                    outputs.append(known[j])
                    continue
                if self.spec.thinned(j) is not None:
                    outputs.append(self._thinned(loop, j, value))
                    continue
                if not (value.sizes and id(value) in recorded):
                    column, after = self._output(loop, j, value)
                    recorded[id(value)] = after, self._record(loop, column, value, copies)
            after, row = recorded[id(value)]
            outputs.append(after)
            if row is not None:
                rows[node] = row
        for carry, value, node in zip(carries, results[:c], nodes[:c], strict=True):
            if isinstance(carry, Carried):
                carry.next = value.at([])
            elif isinstance(carry, _TinyCarry):
                self._advance_elements(carry, value)
            elif isinstance(carry, _ArrayCarry):
                self._advance(loop, carry, rows.get(node, value), node in rows, copies)
        copy_all(self.nest, copies)
        lowered.finish()
        return outputs

    def _record(self, loop: For, column: Array, value: Array, copies: list[tuple[Array, Array]]) -> Array | None:
        """Write a row of an output, arrays among the copies to be made; the row itself, if it lies in C order.

        In a part of the lanes it may not: where these are the columns of a matrix.
        """
        t = loop.var
        for own, wanted in zip(value.sizes, column.sizes[1:], strict=True):
            self.block.require_equal(own, wanted)
        if not value.sizes:
            store(self.nest, column, [t], value.at([]))
            return value
        assert column.memory is not None
        offset = self.nest.add(column.memory.offset, self.nest.mul(t, column.memory.strides[0]))
        in_order = self._has_rows_in_order(column)
        place = self._beyond(column.memory.pointer, offset, value.dtype)
        if in_order and self._made_there(loop, value, place, column.sizes[1:]):
            return value
        row = self._row(column, t)
        copies.append((row, value))
        return row if in_order else None

    def _has_rows_in_order(self, x: Array) -> bool:
        """Whether the rows of an array in memory lie in C order, without gaps."""
        assert x.memory is not None
        region = replace(x.memory, strides=x.memory.strides[1:])
        return is_contiguous(self.nest, in_memory(self.nest, x.dtype, x.sizes[1:], region))

    def _made_there(self, loop: For, value: Array, place: Expr, sizes: Sequence[Expr]) -> bool:
        """Have a value that a step puts into memory of its own put to a place instead; whether that can be."""
        memory = value.memory
        if memory is None or not memory.fresh:
            return False
        return self.nest.relocate(loop, memory.pointer, place, list(zip(value.sizes, sizes, strict=True)))

    def _address(self, x: Array) -> Expr:
        """The address of the first element of an array in memory."""
        assert x.memory is not None
        is_first = isinstance(x.memory.offset, Const) and x.memory.offset.value == 0
        return x.memory.pointer if is_first else self._beyond(x.memory.pointer, x.memory.offset, x.dtype)

    def _beyond(self, pointer: Expr, offset: Expr, dtype: str) -> Expr:
        """An address so many elements further."""
        n_bytes = self.nest.mul(offset, self.nest.const(np.dtype(dtype).itemsize))
        return self.nest.op("advance", pointer, n_bytes, dtype="ptr")

    def _advance_elements(self, carry: _TinyCarry, value: Array) -> None:
        for own, wanted in zip(value.sizes, carry.sizes, strict=True):
            self.block.require_equal(own, wanted)
        for element, index in zip(carry.elements, all_indices(self.nest, carry.sizes), strict=True):
            element.next = self.nest.let(value.at(index))

    def _advance(
        self, loop: For, carry: _ArrayCarry, value: Array, recorded: bool, copies: list[tuple[Array, Array]]
    ) -> None:
        """Make `value` the carry of the next step."""
        for own, wanted in zip(value.sizes, carry.sizes, strict=True):
            self.block.require_equal(own, wanted)
        if recorded and value.memory is not None:  # the row stays as it is: the next step reads it there
            carry.now.next = self._address(value)
            carry.spare.next = carry.spare.var
            return
        if not self._made_there(loop, value, carry.spare.var, carry.sizes):
            copies.append((self._region(carry.spare.var, carry.sizes, value.dtype), value))
        carry.now.next, carry.spare.next = carry.spare.var, carry.now.var

    def _final(self, carry: _Carry, init: Array) -> Array:
        if isinstance(carry, Carried):
            return scalar(carry.result)
        if isinstance(carry, _TinyCarry):
            return of_elements(self.nest, init.dtype, carry.sizes, [e.result for e in carry.elements])
        if isinstance(carry, _OwnCarry):
            return carry.held
        return self._region(carry.now.result, carry.sizes, init.dtype)
