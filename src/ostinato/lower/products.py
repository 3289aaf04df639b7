"""Lowering of the matrix product.

A few known sizes are written out. The product with what a loop does not change is a kernel's work, see
`packing`; large ones outside of loops are BLAS's. For all others there is one routine per dtype, which they share.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ostinato.graph import Node
from ostinato.lower import blas, packing
from ostinato.lower.arrays import (
    Array,
    Memory,
    copied,
    count,
    in_memory,
    is_contiguous,
    is_one,
    is_tiny,
    new_array,
    place,
    reshaped,
    store,
)
from ostinato.lower.loopnest import Expr
from ostinato.lower.rules import joined, stretch_factor
from ostinato.lower.scalarize import Block, lowering

# Products whose sizes are known and no larger are written out, as sums of so many terms in one expression.
_TERMS, _COLUMNS = 12, 32


# Outside of loops, products of so many multiplications or more are given to BLAS, as measured.
_LARGE = 1 << 15


@lowering("matmul")
def _matmul(block: Block, node: Node) -> Array:
    if _is_small(node):
        return _written_out(block, node)
    if node.type.ndim == 2 and (known := packing.product(block, node)) is not None:
        return known
    if block.nest.in_loop and (known := _product_of_stack(block, node)) is not None:
        return known
    a, b = block.in_memory(node.inputs[0]), block.rows_in_order(node.inputs[1])
    nest = block.nest
    rows, inner, columns = a.sizes[-2], a.sizes[-1], b.sizes[-1]
    block.require_equal(inner, b.sizes[-2])
    lead = joined(block, node, drop=2)
    held = new_array(nest, node.type.dtype, [*lead, rows, columns])
    if b.ndim == 2 and is_contiguous(nest, a):  # a stack of matrices is one with as many rows
        rows = count(nest, [*lead, rows])
        merged = [reshaped(nest, x, [rows, x.sizes[-1]]) for x in (a, held)]
        _one_product(block, merged[0], b, merged[1])
        return held
    heads = [_stacked(block, i, lead) for i in node.inputs]

    def product(head: list[Expr]) -> None:
        left, right = ([nest.mul(i, f) for i, f in zip(head[skip:], factors, strict=True)] for skip, factors in heads)
        _one_product(block, _matrix(block, a, left), _matrix(block, b, right), _matrix(block, held, head))

    nest.for_each(list(lead), product)
    return held


def _product_of_stack(block: Block, node: Node) -> Array | None:
    """In a loop, a stack of matrices times one that the loop does not change: one product of as many rows."""
    if node.inputs[0].type.ndim != 3 or node.inputs[1].type.ndim != 2 or not packing.is_fixed(block, node.inputs[1]):
        return None
    nest, a = block.nest, block.in_memory(node.inputs[0])
    if not is_contiguous(nest, a):
        a = copied(nest, a)
    n, rows, inner = a.sizes
    merged = reshaped(nest, a, [nest.let(nest.mul(n, rows)), inner])
    result = packing.product_with_fixed(block, node, merged, node.inputs[1])
    return None if result is None else reshaped(nest, result, [n, rows, result.sizes[1]])


def _one_product(block: Block, a: Array, b: Array, c: Array) -> None:
    """By loops of our own; where it is computed once by a kernel or, if it is large, by BLAS."""
    nest = block.nest
    if nest.in_loop or not blas.has_gemm(a, b, c) or c.dtype not in nest.panels:
        return _call_product(block, a, b, c)
    work = count(nest, [*c.sizes, a.sizes[1]])
    large = block.op("ge", work, block.int(_LARGE), dtype="bool")
    for x in (a, b):
        large = block.op("and", large, blas.is_apart(block, x), dtype="bool")
    large = nest.let(large)
    with nest.when(block.op("logical_not", large, dtype="bool")):
        packing.multiply(block, a, b, c)
    with nest.when(large):
        blas.gemm(block, a, b, c)
    return None


@lowering("accumulate")
def _accumulate(block: Block, node: Node) -> Array:
    """Terms are added one after the other to what is there, so the sums do not show how many were added at a time."""
    nest, (backwards,) = block.nest, node.params
    begun = block.array(node.inputs[0])
    x, b = (block.in_memory(i) for i in node.inputs[1:])
    block.require_equal(x.sizes[0], b.sizes[0])
    for own, wanted in zip(begun.sizes, (x.sizes[1], b.sizes[1]), strict=True):
        block.require_equal(own, wanted)
    c = copied(nest, begun)
    if backwards:
        x, b = _upside_down(block, x), _upside_down(block, b)
    a = packing.transposed(block, x)
    if c.dtype in nest.panels:
        packing.add_product(block, a, b, c)
    else:
        nest.for_each(list(c.sizes), lambda index: _add_terms(block, a, b, c, index))
    return c


def _add_terms(block: Block, a: Array, b: Array, c: Array, index: Sequence[Expr]) -> None:
    nest, (i, j) = block.nest, index
    with nest.loop(b.sizes[0], "k") as k:
        total = nest.carry(k, c.at(index), "sum")
        product = block.op("mul", a.at([i, k.var]), b.at([k.var, j]), dtype=c.dtype)
        total.next = block.op("add", total.var, product, dtype=c.dtype)
    store(nest, c, index, total.result)


def _upside_down(block: Block, x: Array) -> Array:
    """The rows of a matrix from the last to the first."""
    assert x.memory is not None
    nest, (row, column) = block.nest, x.memory.strides
    last = nest.mul(nest.op("sub", x.sizes[0], nest.const(1)), row)
    region = Memory(x.memory.pointer, nest.add(x.memory.offset, last), (nest.mul(row, nest.const(-1)), column))
    return in_memory(nest, x.dtype, x.sizes, region)


def _is_small(node: Node) -> bool:
    """Whether a product of matrices is known to be so small that loops would cost more than the work."""
    (rows, inner), columns = node.inputs[0].type.shape[-2:], node.inputs[1].type.shape[-1]
    known = inner is not None and rows is not None and columns is not None
    return known and 0 < inner <= _TERMS and max(rows, columns) <= _COLUMNS and node.type.ndim == 2


def _written_out(block: Block, node: Node) -> Array:
    """A product that is not computed yet: an element is a sum of products."""
    in_loops = not is_tiny(block.sizes(node))  # then the rows of a are not known beforehand
    a = block.in_memory(node.inputs[0]) if in_loops else _readable_often(block, node.inputs[0])
    b = (packing.turned(block, node.inputs[1]) if in_loops else None) or _readable_often(block, node.inputs[1])
    dtype, inner = node.type.dtype, node.inputs[0].type.shape[-1]

    def at(index: Sequence[Expr]) -> Expr:
        terms = [(a.at([index[0], block.int(k)]), b.at([block.int(k), index[1]])) for k in range(inner)]
        products = [block.op("mul", x, y, dtype=dtype) for x, y in terms]
        return functools.reduce(lambda x, y: block.op("add", x, y, dtype=dtype), products)

    return Array(dtype, (a.sizes[0], b.sizes[1]), at, depth=inner, cost=2 * inner)


def _readable_often(block: Block, node: Node) -> Array:
    """An operand whose elements may be read many times."""
    value = block.array(node)
    return value if is_tiny(value.sizes) and not value.cost else block.in_memory(node)


def _stacked(block: Block, x: Node, lead: tuple[Expr, ...]) -> tuple[int, list[Expr]]:
    """How the leading dimensions of an operand broadcast: dimensions it lacks, stretch factors."""
    own = block.array(x).sizes[:-2]
    skip = len(lead) - len(own)
    return skip, [stretch_factor(block, s, t) for s, t in zip(own, lead[skip:], strict=True)]


def _matrix(block: Block, x: Array, head: list[Expr]) -> Array:
    """One matrix of a stack."""
    assert x.memory is not None
    offset = place(block.nest, x.memory, [*head, block.int(0), block.int(0)])
    return in_memory(block.nest, x.dtype, x.sizes[-2:], Memory(x.memory.pointer, offset, x.memory.strides[-2:]))


def _call_product(block: Block, a: Array, b: Array, c: Array) -> None:
    """c = a @ b by a routine that all products of the dtype and kind share: less code to generate."""
    nest = block.nest
    assert a.memory is not None
    assert b.memory is not None
    assert c.memory is not None
    column = is_one(b.sizes[1])
    args = {"rows": a.sizes[0], "inner": a.sizes[1], "columns": b.sizes[1]}
    for name, x in (("a", a.memory), ("b", b.memory), ("c", c.memory)):
        args |= {name: x.pointer, f"{name}_at": x.offset, f"{name}_row": x.strides[0]}
    args |= {"a_column": a.memory.strides[1]}

    def body(p: dict[str, Expr]) -> None:
        one = block.int(1)
        sizes = {"a": (p["rows"], p["inner"]), "b": (p["inner"], p["columns"]), "c": (p["rows"], p["columns"])}
        steps = {"a": p["a_column"], "b": one, "c": one}
        x, y, z = (
            in_memory(nest, c.dtype, sizes[n], Memory(p[n], p[f"{n}_at"], (p[f"{n}_row"], steps[n]))) for n in "abc"
        )
        (_column_product if column else _product)(block, x, y, z)

    nest.call(f"{'column_' if column else ''}product.{c.dtype}", args, c.memory.pointer, body)


def _column_product(block: Block, a: Array, b: Array, c: Array) -> None:
    """One column: a dot product per row."""
    nest = block.nest
    with nest.loop(a.sizes[0], parallel=True) as i:
        with nest.loop(a.sizes[1], "k") as k:
            total = nest.carry(k, nest.const(0, c.dtype), "dot")
            product = block.op("mul", a.at([i.var, k.var]), b.at([k.var, block.int(0)]), dtype=c.dtype)
            total.next = block.op("add", total.var, product, dtype=c.dtype)
        store(nest, c, [i.var, block.int(0)], total.result)


# So many rows of a product are computed together, so that what is read of the right matrix serves all of them.
_ROWS = 4


def _product(block: Block, a: Array, b: Array, c: Array) -> None:
    """Each element is a sum along the inner dimension; a backend computes many columns at a time."""
    nest, rows = block.nest, a.sizes[0]
    groups = nest.let(block.op("floor_div", rows, block.int(_ROWS)))
    done = nest.let(nest.mul(groups, block.int(_ROWS)))
    with nest.loop(groups, parallel=True) as i:
        first = nest.let(nest.mul(i.var, block.int(_ROWS)))
        _some_rows(block, a, b, c, [nest.let(nest.add(first, block.int(r))) for r in range(_ROWS)])
    with nest.loop(block.op("sub", rows, done), parallel=True) as i:
        _some_rows(block, a, b, c, [nest.let(nest.add(done, i.var))])


def _some_rows(block: Block, a: Array, b: Array, c: Array, rows: list[Expr]) -> None:
    nest = block.nest
    with nest.loop(c.sizes[1], "j", parallel=True) as j:
        with nest.loop(a.sizes[1], "k") as k:
            totals = [nest.carry(k, nest.const(0, c.dtype), "sum") for _ in rows]
            factor = nest.let(b.at([k.var, j.var]))
            for total, row in zip(totals, rows, strict=True):
                product = block.op("mul", a.at([row, k.var]), factor, dtype=c.dtype)
                total.next = block.op("add", total.var, product, dtype=c.dtype)
        for total, row in zip(totals, rows, strict=True):
            store(nest, c, [row, j.var], total.result)
