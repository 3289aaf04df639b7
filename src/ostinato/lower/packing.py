"""Products with a matrix that a loop does not change: it is packed once, before the loop, for a kernel.

Which matrices these are: invariants of the loop, as they are or transposed, and followed outwards as long as they
are invariants of the loops around it, too. So h @ W, dz @ W.T and W @ v are packed; what is packed of
one matrix in one way serves all products that read it so.
"""

from __future__ import annotations

from typing import NamedTuple

from ostinato.graph import Graph, Node
from ostinato.lower.arrays import Array, Memory, copied, in_memory, is_one, new_array, placed, start_of
from ostinato.lower.loopnest import Expr, For, Nest, Split
from ostinato.lower.scalarize import Block
from ostinato.printing import standalone
from ostinato.rewrite.notes import tell


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
    column = transposed(block, block.in_memory(right))
    flipped = fixed._replace(is_transposed=not fixed.is_transposed)
    result = _multiplied(block, node, column, flipped)
    return None if result is None else transposed(block, result)


def is_fixed(block: Block, right: Node) -> bool:
    """Whether a matrix that stands on the right of a product has a kernel and does not change."""
    return right.type.dtype in block.nest.panels and _fixed(block, right) is not None


def product_with_fixed(block: Block, node: Node, a: Array, right: Node) -> Array | None:
    """The product of a matrix in memory and one that does not change."""
    fixed = _fixed(block, right)
    return None if fixed is None else _multiplied(block, node, a, fixed)


def turned(block: Block, node: Node) -> Array | None:
    """A transpose that a loop does not change, its rows put in order before the loop; None for any other matrix."""
    fixed = _fixed(block, node)
    if fixed is None:
        return None
    outside, key = fixed.block, (fixed.loop, fixed.node, fixed.is_transposed)
    if key in outside.turned:
        return outside.turned[key]
    value = outside.array(fixed.node)
    if value.memory is None:
        return None
    value = transposed(block, value) if fixed.is_transposed else value
    assert value.memory is not None
    if is_one(value.memory.strides[1]):
        return None
    with block.nest.before(fixed.loop):
        outside.turned[key] = copied(block.nest, value)
    return outside.turned[key]


def only_packed(nest: Nest, body: Graph) -> set[Node]:
    """The params of a body that only products of matrices read: how these lie does not matter if they are packed."""
    read: set[Node] = set(body.results)
    for node in body.nodes():
        if node.op.name != "matmul" or node.type.ndim != 2:
            read.update(node.inputs)
    return {p for p in body.params if p not in read and p.type.ndim == 2 and p.type.dtype in nest.panels}


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
    b = transposed(block, value) if fixed.is_transposed else value
    block.require_equal(a.sizes[1], b.sizes[0])
    key = fixed.loop, fixed.node, fixed.is_transposed
    if key not in fixed.block.packed:
        with nest.before(fixed.loop):
            fixed.block.packed[key] = _packed(block, b)
        _tell(fixed)
    held = new_array(nest, node.type.dtype, [a.sizes[0], b.sizes[1]])
    _multiply(block, a, b, fixed.block.packed[key], held)
    return held


def _tell(fixed: _Fixed) -> None:
    matrix = standalone(fixed.node)
    turned = ", transposed," if fixed.is_transposed else ""
    loop = fixed.loop.label or "a loop"
    tell(f"packing: {matrix}{turned} is packed once before {loop}, for the products of all steps.")


def multiply(block: Block, a: Array, b: Array, c: Array) -> None:
    """c = a @ b, for matrices in memory; b is packed for this product alone."""
    _multiply(block, a, b, _packed(block, b), c)


# So many terms of a sum are added before those of the next element are: what they are made of stays in the cache.
TERMS = 128


def add_product(block: Block, a: Array, b: Array, c: Array) -> None:
    """c = c + a @ b, for matrices in memory; each element of c is a sum to which one term after the other is added."""
    assert a.memory is not None
    assert b.memory is not None
    nest = block.nest
    inner, columns = b.sizes
    panels = nest.alloc(nest.mul(_width_of_panels(block, b), nest.op("minimum", inner, block.int(TERMS))), b.dtype)
    some = nest.op("floor_div", nest.add(inner, block.int(TERMS - 1)), block.int(TERMS))
    with nest.loop(nest.let(some)) as part:
        first = nest.let(nest.mul(part.var, block.int(TERMS)))
        n = nest.let(nest.op("minimum", nest.op("sub", inner, first), block.int(TERMS)))
        rows = placed(nest, b, [first, block.int(0)], [n, columns])
        assert rows.memory is not None
        nest.kernel(f"kernels.pack_{b.dtype}", [start_of(block, rows), *b.memory.strides, panels, *rows.sizes], panels)
        _multiply(block, placed(nest, a, [block.int(0), first], [a.sizes[0], n]), rows, panels, c, "add")


def _width_of_panels(block: Block, b: Array) -> Expr:
    """The columns of all panels of a matrix, of which the last may be less than full."""
    nest, width = block.nest, block.int(block.nest.panels[b.dtype])
    some = nest.op("floor_div", nest.add(b.sizes[1], nest.op("sub", width, nest.const(1))), width)
    return nest.mul(some, width)


def _packed(block: Block, b: Array) -> Expr:
    """The address of the panels of a matrix, made here."""
    assert b.memory is not None
    nest = block.nest
    pointer = nest.alloc(nest.mul(_width_of_panels(block, b), b.sizes[0]), b.dtype)
    nest.kernel(f"kernels.pack_{b.dtype}", [start_of(block, b), *b.memory.strides, pointer, *b.sizes], pointer)
    return pointer


def _multiply(block: Block, a: Array, b: Array, panels: Expr, c: Array, kernel: str = "multiply") -> None:
    assert a.memory is not None
    assert c.memory is not None
    args = [
        start_of(block, a),
        *a.memory.strides,
        panels,
        start_of(block, c),
        c.memory.strides[0],
        a.sizes[0],
        *b.sizes,
    ]
    block.nest.kernel(f"kernels.{kernel}_{a.dtype}", args, c.memory.pointer)


def transposed(block: Block, x: Array) -> Array:
    assert x.memory is not None
    region = Memory(x.memory.pointer, x.memory.offset, x.memory.strides[::-1])
    return in_memory(block.nest, x.dtype, x.sizes[::-1], region)
