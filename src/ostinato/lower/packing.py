"""Products with a matrix that a loop does not change: it is packed once, before the loop, for a kernel.

Which matrices these are: invariants of the loop, as they are or transposed, and followed outwards as long as they
are invariants of the loops around it, too. So h @ W, dz @ W.T and W @ v are packed; what is packed of
one matrix in one way serves all products that read it so.
"""

from __future__ import annotations

from typing import NamedTuple

from ostinato.graph import Node
from ostinato.lower.arrays import Array, Memory, in_memory, is_one, new_array
from ostinato.lower.loopnest import Const, Expr, For, Split
from ostinato.lower.scalarize import Block


class _Fixed(NamedTuple):
    """A matrix that is the same in all iterations of `loop`, which stands in `block`."""

    block: Block
    loop: For | Split
    node: Node
    is_transposed: bool


def product(block: Block, node: Node) -> Array | None:
    """The product of two matrices by a kernel; None if neither is fixed, or there is no kernel for the dtype."""
    left, right = node.inputs
    if node.type.dtype not in block.nest.panels:
        return None
    if not is_one(block.array(right).sizes[1]):
        fixed = _fixed(block, right)
        return None if fixed is None else _multiplied(block, node, block.in_memory(left), fixed)
    fixed = _fixed(block, left)
    if fixed is None or is_one(block.array(left).sizes[0]):
        return None
    column = _transposed(block, block.in_memory(right))
    flipped = fixed._replace(is_transposed=not fixed.is_transposed)
    result = _multiplied(block, node, column, flipped)
    return None if result is None else _transposed(block, result)


def _fixed(block: Block, node: Node) -> _Fixed | None:
    """Where a matrix is first known that nothing changes afterwards; None if the innermost loop makes it."""
    found, flips = None, False
    while True:
        while node.op.name == "dimshuffle" and node.params[0] == (1, 0) and node.inputs[0].type.ndim == 2:
            node, flips = node.inputs[0], not flips
        enclosing = block.enclosing
        if enclosing is None or node not in enclosing.invariants:
            return found
        block, node = enclosing.block, enclosing.invariants[node]
        if node.type.ndim == 2:
            found = _Fixed(block, enclosing.loop, node, flips)


def _multiplied(block: Block, node: Node, a: Array, fixed: _Fixed) -> Array | None:
    nest = block.nest
    value = fixed.block.array(fixed.node)
    if value.memory is None:
        return None
    b = _transposed(block, value) if fixed.is_transposed else value
    block.require_equal(a.sizes[1], b.sizes[0])
    panels = _packed(fixed, b)
    held = new_array(nest, node.type.dtype, [a.sizes[0], b.sizes[1]])
    assert a.memory is not None
    assert held.memory is not None
    target, strides = held.memory, a.memory.strides
    args = [_start(block, a), *strides, panels, target.pointer, target.strides[0], a.sizes[0], *b.sizes]
    nest.kernel(f"kernels.multiply_{a.dtype}", args, target.pointer)
    return held


def _packed(fixed: _Fixed, b: Array) -> Expr:
    """The address of the panels of a fixed matrix, made before the outermost loop that leaves it alone."""
    block, nest = fixed.block, fixed.block.nest
    key = fixed.loop, fixed.node, fixed.is_transposed
    if key not in block.packed:
        assert b.memory is not None
        width = nest.panels[b.dtype]
        with nest.before(fixed.loop):
            some = nest.op("floor_div", nest.add(b.sizes[1], nest.const(width - 1)), nest.const(width))
            room = nest.mul(nest.mul(some, nest.const(width)), b.sizes[0])
            pointer = nest.alloc(nest.let(room), b.dtype)
            args = [_start(block, b), *b.memory.strides, pointer, *b.sizes]
            nest.kernel(f"kernels.pack_{b.dtype}", args, pointer)
        block.packed[key] = pointer
    return block.packed[key]


def _start(block: Block, x: Array) -> Expr:
    """The address of the first element."""
    assert x.memory is not None
    if isinstance(x.memory.offset, Const) and x.memory.offset.value == 0:
        return x.memory.pointer
    n_bytes = block.nest.mul(x.memory.offset, block.int(4 if x.dtype == "float32" else 8))
    return block.op("advance", x.memory.pointer, n_bytes, dtype="ptr")


def _transposed(block: Block, x: Array) -> Array:
    assert x.memory is not None
    region = Memory(x.memory.pointer, x.memory.offset, x.memory.strides[::-1])
    return in_memory(block.nest, x.dtype, x.sizes[::-1], region)
