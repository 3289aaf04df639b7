"""Lowering of writes into parts of arrays, and of reads and writes by arrays of indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ostinato.graph import Node
from ostinato.lower.arrays import Array, copied, is_one, new_array, store
from ostinato.lower.loopnest import Expr
from ostinato.lower.rules import Index, part, position, stretch_factor
from ostinato.lower.scalarize import Block, lowering
from ostinato.ops.op import params_of


def _written(block: Block, node: Node, target: Any, sizes: Sequence[Expr], add: bool) -> None:
    """Write (or add) the second input to the elements that `target(index)` places."""
    y = block.array(node.inputs[1])
    lead = len(sizes) - y.ndim
    factors = [
        block.int(0) if is_one(s) else stretch_factor(block, s, t) for s, t in zip(y.sizes, sizes[lead:], strict=True)
    ]

    def put(index: list[Expr]) -> None:
        value = y.at([block.nest.mul(i, f) for i, f in zip(index[lead:], factors, strict=True)])
        array, position = target(index)
        if add:
            value = block.op("add", array.at(position), value, dtype=array.dtype)
        store(block.nest, array, position, value)

    block.nest.for_each(list(sizes), put)


@lowering("set_subtensor", "inc_subtensor")
def _write_part(block: Block, node: Node) -> Array:
    block.in_memory(node.inputs[1]) if node.inputs[1].type.ndim else None
    held = copied(block.nest, block.array(node.inputs[0]))
    target = part(block, held, node.params[0], [block.scalar(i) for i in node.inputs[2:]])
    _written(block, node, lambda index: (target, index), target.sizes, node.op.name == "inc_subtensor")
    return held


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
            [
                block.int(0) if is_one(s) else stretch_factor(block, s, c)
                for s, c in zip(a.sizes, common[ndim - a.ndim :], strict=True)
            ]
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
    picked = _Picked(block, held, node.inputs[2:], params_of(node)["axes"])
    _written(block, node, lambda index: (held, picked.position(index)), picked.sizes, node.op.name == "scatter_add")
    return held
