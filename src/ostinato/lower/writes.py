"""Lowering of writes into parts of arrays, and of reads and writes by arrays of indices.

What gradients add up of zeros with something written to a part of them stays apart until the sum is
complete, and is then put together in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ostinato.graph import Node
from ostinato.lower.arrays import Array, copied, copy_all, filled, is_one, new_array, placed, scalar, store
from ostinato.lower.loopnest import Const, Expr
from ostinato.lower.rules import Index, elementwise, forward_bounds, part, position, stretch_factor
from ostinato.lower.scalarize import Block, lowering
from ostinato.ops.op import params_of


def prepared_write(block: Block, node: Node, held: Array, adds: bool) -> Callable[[], None]:
    """Evaluate and check where a node writes into an array in memory; what is returned makes the write."""
    if node.op.name in ("scatter_set", "scatter_add"):
        picked = _Picked(block, held, node.inputs[2:], params_of(node)["axes"])
        return _write(block, node, lambda index: (held, picked.position(index)), picked.sizes, adds)
    target = part(block, held, node.params[0], [block.scalar(i) for i in node.inputs[2:]])
    return _write(block, node, lambda index: (target, index), target.sizes, adds)


def _write(block: Block, node: Node, target: Any, sizes: Sequence[Expr], adds: bool) -> Callable[[], None]:
    """A write of the second input (or its addition) to the elements that `target(index)` places."""
    y = block.array(node.inputs[1])
    lead = len(sizes) - y.ndim
    factors = [stretch_factor(block, s, t) for s, t in zip(y.sizes, sizes[lead:], strict=True)]

    def put(index: list[Expr]) -> None:
        value = y.at([block.nest.mul(i, f) for i, f in zip(index[lead:], factors, strict=True)])
        array, position = target(index)
        if adds:
            value = block.op("add", array.at(position), value, dtype=array.dtype)
        store(block.nest, array, position, value)

    return lambda: block.nest.for_each(list(sizes), put)


@lowering("set_subtensor", "inc_subtensor")
def _write_part(block: Block, node: Node) -> Array:
    base, y = block.array(node.inputs[0]), node.inputs[1]
    add = node.op.name == "inc_subtensor"
    if not base.sizes:  # all of a number is written
        value = block.scalar(y)
        return scalar(block.op("add", base.at([]), value, dtype=base.dtype) if add else value)
    zero = is_zero(block, base)
    if zero or add:
        places = [_Place.of(block, base, node.params[0], [block.scalar(i) for i in node.inputs[2:]])]
        if places[0] is not None and _fills(block, y, places[0]):
            return kept_or_put(block, node, Parts.of(None if zero else base, base, [(places[0], y)]))
    block.in_memory(y) if y.type.ndim else None
    held = copied(block.nest, base)
    prepared_write(block, node, held, add)()
    return held


# ---- arrays that are put together from parts ------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where a part lies: from a start up to a stop in every dimension."""

    starts: tuple[Expr, ...]
    stops: tuple[Expr, ...]

    @staticmethod
    def of(block: Block, x: Array, pattern: Any, values: Sequence[Expr]) -> _Place | None:
        """The place that a basic index takes, where it takes slices with step 1 only, assumed to be in order."""
        if not block.nest.integers.optimistic or any(entry is None for entry in pattern):
            return None
        rest = iter(values)
        found = []
        for size, entry in zip(x.sizes, pattern, strict=True):
            start, stop, step = [next(rest) if given else None for given in entry]
            if step is not None and not is_one(step):
                return None
            found.append(forward_bounds(block, start, stop, size))
        return _Place(tuple(a for a, _ in found), tuple(b for _, b in found))


def _fills(block: Block, y: Node, place: _Place) -> bool:
    """Whether an array is not stretched to the part that it is written to."""
    sizes = block.unsettled(y).sizes
    if len(sizes) != len(place.starts):
        return False
    lengths = [block.op("sub", b, a) for a, b in zip(place.starts, place.stops, strict=True)]
    if any(is_one(s) and not is_one(n) for s, n in zip(sizes, lengths, strict=True)):
        return False
    for s, n in zip(sizes, lengths, strict=True):
        block.nest.integers.assume_equal(s, n)
    return True


@dataclass(frozen=True)
class Parts(Array):
    """A sum of arrays, each within a part of it; not computed yet.

    Attributes
    ----------
    base : Array or None
        What the parts are added to; None for zeros.
    pieces : the place of every part, and the node that is added there.
    """

    base: Array | None = None
    pieces: tuple[tuple[_Place, Node], ...] = ()

    @staticmethod
    def of(base: Array | None, like: Array, pieces: Sequence[tuple[_Place, Node]]) -> Parts:
        def at(index: Index) -> Expr:
            raise AssertionError("an array of parts is read before it is put together")

        return Parts(like.dtype, like.sizes, at, None, 0, 0, base, tuple(pieces))

    def readable(self, block: Block) -> Array:
        """The sum, in memory."""
        nest = block.nest
        held = new_array(nest, self.dtype, self.sizes)
        gap = self._gap(block) if self.base is None else None
        tiled = gap is not None
        if gap is None:
            copy_all(nest, [(held, self.base or filled(nest, self.dtype, self.sizes, 0))])
        elif not nest.integers.same(*gap):
            with nest.when(block.op("neq", *gap, dtype="bool")):
                copy_all(nest, [(held, filled(nest, self.dtype, self.sizes, 0))])
        pairs = []
        for place, y in self.pieces:
            target, value = placed(nest, held, place.starts, block.unsettled(y).sizes), block.unsettled(y)
            pairs.append((target, value if tiled else _sum(block, target, value)))
        block.store_together([y for _, y in self.pieces], pairs)
        return held

    def _gap(self, block: Block) -> tuple[Expr, Expr] | None:
        """Where parts end that follow each other along one dimension from the beginning, and where the array does.

        None if they do not lie like that.
        """
        same, zero = block.nest.integers.same, block.int(0)
        full = [
            all(same(p.starts[a], zero) and same(p.stops[a], size) for p, _ in self.pieces)
            for a, size in enumerate(self.sizes)
        ]
        if full.count(False) != 1:
            return (zero, zero) if all(full) and len(self.pieces) == 1 else None
        axis, rest, reached = full.index(False), [p for p, _ in self.pieces], zero
        while rest:
            following = [p for p in rest if same(p.starts[axis], reached)]
            if len(following) != 1:
                return None
            rest.remove(following[0])
            reached = following[0].stops[axis]
        return reached, self.sizes[axis]


def _sum(block: Block, target: Array, value: Array) -> Array:
    def at(index: Index) -> Expr:
        return block.op("add", target.at(index), value.at(index), dtype=value.dtype)

    return Array(value.dtype, value.sizes, at)


def is_zero(block: Block, value: Array) -> bool:
    """Whether an array that is not in memory is known to hold zeros."""
    if value.memory is not None or value.cost or isinstance(value, Parts):
        return False
    element = value.at([block.int(0)] * value.ndim)
    return isinstance(element, Const) and element.value == 0


def kept_or_put(block: Block, node: Node, parts: Parts) -> Array:
    """Parts as they are where all that is done with them is to add them to another array; else in memory."""
    reader = block.only_reader(node)
    adds = reader is not None and reader.op.name == "add" and reader.type.ndim == node.type.ndim
    return parts if adds else parts.readable(block)


@lowering("add")
def _add(block: Block, node: Node) -> Array:
    parts = _added_parts(block, node)
    return elementwise(block, node) if parts is None else parts


def _added_parts(block: Block, node: Node) -> Array | None:
    """The sum of two arrays of the same sizes of which at least one is made of parts; None if it is none such."""
    values = [block.unsettled(i) for i in node.inputs]
    if not any(isinstance(v, Parts) for v in values):
        return None
    a, b = values
    same = len(a.sizes) == len(b.sizes) and all(map(block.nest.integers.same, a.sizes, b.sizes))
    pieces = [p for v in values if isinstance(v, Parts) for p in v.pieces]
    bases = [v.base if isinstance(v, Parts) else v for v in values]
    known = [x for x in bases if x is not None]
    if same and len(known) < 2:
        plain = [i for i, v in zip(node.inputs, values, strict=True) if not isinstance(v, Parts)]
        base = block.array(plain[0]) if plain else known[0] if known else None
        return kept_or_put(block, node, Parts.of(base, a, pieces))
    for i, v in zip(node.inputs, values, strict=True):
        if isinstance(v, Parts):
            block.values[i] = v.readable(block)
    return None


# ---- arrays of indices ----------------------------------------------------------------------------


class _Picked:
    """Arrays of indices into some dimensions: the sizes they give, and the place of an element in x."""

    def __init__(self, block: Block, x: Array, indices: Sequence[Node], axes: tuple[int, ...]) -> None:
        self.block, self.x, self.axes = block, x, axes
        self.arrays = [self._checked(i, x.sizes[a]) for i, a in zip(indices, axes, strict=True)]
        ndim = max(a.ndim for a in self.arrays)
        self.picked = self._common_sizes(ndim)
        kept = [s for a, s in enumerate(x.sizes) if a not in axes]
        adjacent = axes == tuple(range(axes[0], axes[0] + len(axes)))
        self.start = axes[0] if adjacent else 0
        self.sizes = [*kept[: self.start], *self.picked, *kept[self.start :]]

    def _checked(self, index: Node, size: Expr) -> Array:
        """Indices in memory, counted from the front, all of them within the dimension."""
        block = self.block
        given = block.array(index)
        held = new_array(block.nest, "int64", given.sizes)
        block.nest.for_each(list(given.sizes), lambda i: store(block.nest, held, i, position(block, given.at(i), size)))
        return held

    def _common_sizes(self, ndim: int) -> list[Expr]:
        block, common = self.block, []
        for axis in range(ndim):
            size: Expr = block.int(1)
            for a in self.arrays:
                own = a.sizes[axis - (ndim - a.ndim)] if axis >= ndim - a.ndim else block.int(1)
                one = block.op("eq", size, block.int(1), dtype="bool")
                size = block.nest.let(block.op("where", one, own, size, dtype="int64")) if not is_one(size) else own
            common.append(size)
        self.factors = [
            [stretch_factor(block, s, c) for s, c in zip(a.sizes, common[ndim - a.ndim :], strict=True)]
            for a in self.arrays
        ]
        return common

    def position(self, index: Index) -> list[Expr]:
        """The index into x of an element of the result."""
        n, block = len(self.picked), self.block
        middle = index[self.start : self.start + n]
        rest = iter([*index[: self.start], *index[self.start + n :]])
        found = {}
        for axis, array, factors in zip(self.axes, self.arrays, self.factors, strict=True):
            own = middle[n - array.ndim :]
            found[axis] = array.at([block.nest.mul(i, f) for i, f in zip(own, factors, strict=True)])
        return [found[a] if a in found else next(rest) for a in range(self.x.ndim)]


@lowering("gather")
def _gather(block: Block, node: Node) -> Array:
    x = block.in_memory(node.inputs[0])
    picked = _Picked(block, x, node.inputs[1:], node.params[0])
    return Array(x.dtype, tuple(picked.sizes), lambda index: x.at(picked.position(index)))


@lowering("scatter_set", "scatter_add")
def _scatter(block: Block, node: Node) -> Array:
    block.in_memory(node.inputs[1]) if node.inputs[1].type.ndim else None
    held = copied(block.nest, block.array(node.inputs[0]))
    prepared_write(block, node, held, node.op.name == "scatter_add")()
    return held
