"""States that a loop records both before and after its steps: the same rows, shifted by one. They have one buffer.

before:  h_before[n], h_after[n]       # a state is written twice
after:   h[n + 1]: row 0 is the initial state, step t writes row t + 1
         h_before = h[:n], h_after = h[1:]

So it is with what derivatives read of a network: the state that a step begins with, for the weights, and the one that
it ends with, for `tanh`. Carries that hold what others were some steps ago (taps) are further rows in front. A state
in memory lives in these rows, so it is not copied, even where it is recorded before the steps only.

A loop whose number of steps a condition decides writes what is oldest, and what is left when it has ended.
Results of a graph have memory of their own, and what is read in the other order lies in that order where this matters:
such outputs are left alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import replace
from typing import NamedTuple

from ostinato.graph import Node
from ostinato.lower.arrays import Array, Memory, in_memory, new_array
from ostinato.lower.loopnest import Expr, Nest
from ostinato.lower.scalarize import Block
from ostinato.ops.indexing import is_reversal
from ostinato.ops.loop import LOOP, LoopSpec, body_of, item, split


class States(NamedTuple):
    """What is recorded of a carry, and of those that hold what it was some steps ago.

    Attributes
    ----------
    carries : the places of the carries; each of them becomes, in a step, what the one before it was.
    starts : per output that is recorded so, the row of the buffer with which it begins.
    backwards : whether all that reads these outputs wants the last row first.
    """

    carries: tuple[int, ...]
    starts: dict[int, int]
    backwards: bool

    @property
    def lead(self) -> int:
        """How many rows there are more than steps."""
        return len(self.carries)

    def start(self, carry: int) -> int:
        """The row with the initial value of a carry."""
        return self.lead - 1 - self.carries.index(carry)

    @property
    def oldest(self) -> int:
        """An output that begins with the first row."""
        return next(j for j, start in self.starts.items() if start == 0)


def recorded_states(block: Block, node: Node, living_there: Collection[int], apart: Set[int]) -> list[States]:
    """The states of a loop that are recorded so.

    Parameters
    ----------
    living_there : the places of carries that can live in the rows: to record them so pays even if it is one output.
    apart : those of carries that cannot be recorded so.
    """
    spec: LoopSpec = node.params[0]
    outputs = recorded_values(spec)
    found: list[States] = []
    used: set[Node] = set()
    for carries, newest in chains(spec, outputs):
        values = [newest, *[body_of(spec).carries[i] for i in carries]]
        starts = {j: len(carries) - age for age, v in enumerate(values) for j in outputs.get(v, ())}
        gains = sum(v in outputs for v in values) > 1 or (carries[0] in living_there and not spec.has_until)
        if not gains or newest in used or not apart.isdisjoint(carries):
            continue
        backwards = _order(block, [item(node, spec.n_carries + j) for j in starts])
        if backwards is not None:
            used.add(newest)
            found.append(States(carries, starts, backwards))
    return found


def recorded_values(spec: LoopSpec) -> dict[Node, list[int]]:
    """Which outputs have a row per step of each value."""
    found: dict[Node, list[int]] = {}
    for j, y in enumerate(body_of(spec).outputs):
        if spec.thinned(j) is None:
            found.setdefault(y, []).append(j)
    return found


def chains(spec: LoopSpec, outputs: Collection[Node]) -> Iterator[tuple[tuple[int, ...], Node]]:
    """Carries that a step computes, each with those that follow it up to the oldest recorded; and its next value."""
    body = body_of(spec)
    for first, newest in enumerate(body.next_carries):
        if newest in body.carries:
            continue
        chain = [first]
        while True:
            older = [k for k, n in enumerate(body.next_carries) if n is body.carries[chain[-1]]]
            if not older:
                break
            chain.append(next((k for k in older if body.carries[k] in outputs), older[0]))
        while chain and body.carries[chain[-1]] not in outputs:
            chain.pop()
        if chain:
            yield tuple(chain), newest


def _order(block: Block, items: Sequence[Node]) -> bool | None:
    """Whether the last row lies first; None if outputs cannot lie in one buffer."""
    read = [x for x in items if block.is_read(x)]
    if not all(block.is_only_read_by(x, lambda r: not is_reversal(r) or _is_inner(block, r)) for x in read):
        return None  # results are arrays of their own
    turned = [x for x in read if block.is_only_read_by(x, is_reversal)]
    if len(turned) == len(read):
        return bool(read)
    # The rest is in the order of steps. A loop may read rows in any order; who reads many at a time should not.
    return False if all(block.is_only_read_by(x, lambda r: _only_loops_read(block, r)) for x in turned) else None


def _is_inner(block: Block, x: Node) -> bool:
    """Whether a node is read, and no result."""
    return block.is_only_read_by(x, lambda reader: True)


def _only_loops_read(block: Block, x: Node) -> bool:
    """Whether a node is read by loops only, row by row."""

    def row_by_row(reader: Node) -> bool:
        if reader.op is not LOOP:
            return False
        return reader.inputs.count(x) == split(reader.params[0], reader.inputs).sequences.count(x)

    return block.is_only_read_by(x, row_by_row)


# ---- the buffer -----------------------------------------------------------------------------------


def last_first(nest: Nest, held: Array) -> Array:
    """Rows of a new array that lie in memory from the last to the first."""
    assert held.memory is not None
    row, *rest = held.memory.strides
    last = nest.mul(nest.op("sub", held.sizes[0], nest.const(1)), row)
    region = Memory(held.memory.pointer, last, (nest.mul(row, nest.const(-1)), *rest), backwards=held.memory)
    return in_memory(nest, held.dtype, held.sizes, region)


def buffer(nest: Nest, init: Array, n_rows: Expr, backwards: bool) -> Array:
    """Memory for so many values of a carry."""
    held = new_array(nest, init.dtype, [n_rows, *init.sizes])
    return last_first(nest, held) if backwards else held


def some_rows(nest: Nest, held: Array, start: int, n: Expr, rest: int) -> Array:
    """`n` rows of a buffer, before which there are `start` and after which there are `rest`."""
    memory = held.memory
    assert memory is not None
    offset = nest.add(memory.offset, nest.mul(nest.const(start), memory.strides[0]))
    other = None
    if memory.backwards is not None:  # the last of these rows lies first
        before = nest.mul(nest.const(rest), memory.backwards.strides[0])
        other = replace(memory.backwards, offset=before, fresh=False)
    region = Memory(memory.pointer, offset, memory.strides, backwards=other)
    return in_memory(nest, held.dtype, [n, *held.sizes[1:]], region)
