"""Lowering rules of elementwise ops, views, reductions and small things: from the values of inputs to a node's own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ostinato.graph import Node
from ostinato.lower.arrays import (
    Array,
    Memory,
    all_indices,
    contiguous_strides,
    count,
    in_memory,
    is_contiguous,
    is_one,
    is_tiny,
    new_array,
    of_elements,
    place,
    scalar,
    static_count,
    store,
)
from ostinato.lower.loopnest import Const, Expr
from ostinato.lower.scalarize import CHEAP, Block, UnsupportedError, lowering
from ostinato.ops.control import IDENTITIES
from ostinato.ops.costs import COSTS
from ostinato.ops.indexing import is_reversal
from ostinato.ops.op import params_of
from ostinato.ops.random import RANDOM
from ostinato.ops.sizes import is_met, same_size
from ostinato.ops.sizes import sizes as symbolic_sizes

Index = Sequence[Expr]

# ---- elementwise ----------------------------------------------------------------------------------

# The names that a backend must know as scalar operations.
ELEMENTWISE = """
    add sub mul true_div floor_div mod pow neg abs sign maximum minimum
    lt le gt ge eq neq isnan isinf logical_not and or xor invert where cast
    exp exp2 expm1 log log2 log10 log1p sqrt sin cos tan arcsin arccos arctan arctan2
    sinh cosh tanh arcsinh arccosh arctanh sigmoid logaddexp erf erfc gammaln psi floor ceil round trunc
    random_bits random_uniform random_below
""".split()  # noqa: SIM905 (a table reads better)


@lowering(*ELEMENTWISE)
def elementwise(block: Block, node: Node) -> Array:
    """An expression of the operands' elements, not computed yet."""
    if node.op.name == "where" and is_met(node):
        _, b, a = map(block.scalar, node.inputs)
        if block.nest.integers.optimistic and not (is_one(a) or is_one(b)):
            block.nest.integers.assume_equal(a, b)
            return scalar(block.nest.integers.representative(a))
    sizes = joined(block, node)
    operands = [_Operand(block, i, node, sizes) for i in node.inputs]
    dtype, name = node.type.dtype, scalar_name(node)
    if node.op.name == "pow" and not node.type.is_float:
        _check_exponents(block, block.array(node.inputs[1]))

    def at(index: Index) -> Expr:
        return block.op(name, *[o.read(index) for o in operands], dtype=dtype)

    block.fuses(node, [i for i, o in zip(node.inputs, operands, strict=True) if o.aligned])
    depth = 1 + max((o.value.depth for o in operands), default=0)
    cost = COSTS.get(node.op.name, 1) + sum(o.value.cost for o in operands)
    return Array(dtype, sizes, at, depth=depth, cost=cost)


def scalar_name(node: Node) -> str:
    """The name of the scalar operation: with the params of an op that has some which the dtype does not tell."""
    if node.op.name not in RANDOM:
        return node.op.name
    return ".".join([node.op.name, *[str(p) for n, p in params_of(node).items() if n != "dtype"]])


def _check_exponents(block: Block, y: Array) -> None:
    """An integer has no negative powers that are integers."""
    if y.dtype.startswith("int"):
        zero = block.nest.const(0, y.dtype)
        block.nest.for_each(
            list(y.sizes), lambda index: block.nest.fail_if(block.op("lt", y.at(index), zero, dtype="bool"))
        )


def joined(block: Block, node: Node, drop: int = 0) -> tuple[Expr, ...]:
    """The sizes to which the inputs of a node broadcast, without the last `drop` dimensions of each."""
    ndim = node.type.ndim - drop
    if not block.nest.integers.optimistic:
        return block.sizes(node)[:ndim]
    values = [block.unsettled(i).sizes for i in node.inputs]
    values = [v[: len(v) - drop] for v in values]
    return tuple([_joined(block, [v[axis] for v in values if axis >= -len(v)]) for axis in range(-ndim, 0)])


def _joined(block: Block, sizes: list[Expr]) -> Expr:
    """The one size of a dimension that several arrays share; of those that are not known to be 1."""
    several = [s for s in sizes if not is_one(s)] or sizes
    for other in several[1:]:
        block.nest.integers.assume_equal(several[0], other)
    return block.nest.integers.representative(several[0])


class _Operand:
    """An input of an elementwise node.

    Attributes
    ----------
    value : Array
    aligned : whether every index of the result reads the same index of the operand.
    """

    def __init__(self, block: Block, x: Node, out: Node, sizes: Index) -> None:
        value = block.unsettled(x)
        own, target = symbolic_sizes(x), symbolic_sizes(out)
        self._lead = lead = len(target) - len(own)
        factors: list[Expr] = []
        for axis, size in enumerate(own):
            known = same_size(size, target[lead + axis])
            factors.append(block.int(1) if known else stretch_factor(block, value.sizes[axis], sizes[lead + axis]))
        self.aligned = not lead and all(map(is_one, factors))
        if not self.aligned:
            value = block.array(x)
            if value.cost > CHEAP:
                value = block.in_memory(x)  # it would be computed once per element of the result
        self.value, self._factors, self._nest = value, factors, block.nest

    def read(self, index: Index) -> Expr:
        """The operand's element for an index of the result."""
        return self.value.at([self._nest.mul(i, f) for i, f in zip(index[self._lead :], self._factors, strict=True)])


def stretch_factor(block: Block, size: Expr, target: Expr) -> Expr:
    """0 if a size is 1 at run time (and is stretched), else 1; fails if it does not fit."""
    integers = block.nest.integers
    if is_one(size) or integers.same(size, target):
        return block.int(0 if is_one(size) else 1)
    if integers.optimistic:
        integers.assume_equal(size, target)
        return block.int(1)
    many = block.nest.let(block.op("neq", size, block.int(1), dtype="bool"))
    differs = block.op("neq", size, target, dtype="bool")
    block.nest.fail_if(block.op("and", many, differs, dtype="bool"))
    return block.nest.let(block.op("cast", many, dtype="int64"))


# ---- views ----------------------------------------------------------------------------------------


@lowering("log_gamma_sample", *sorted(IDENTITIES))
def same_elements(block: Block, node: Node) -> Array:
    """The value of the first input."""
    block.fuses(node, node.inputs[:1])
    return block.unsettled(node.inputs[0])


@lowering("dimshuffle")
def _dimshuffle(block: Block, node: Node) -> Array:
    x, order = block.array(node.inputs[0]), node.params[0]
    one, zero = block.int(1), block.int(0)
    sizes = [one if o == "x" else x.sizes[o] for o in order]
    for axis in range(x.ndim):
        if axis not in order and not is_one(x.sizes[axis]):
            block.require_equal(x.sizes[axis], one)
    if x.memory is not None:
        strides = tuple(zero if o == "x" else x.memory.strides[o] for o in order)
        return in_memory(block.nest, x.dtype, sizes, Memory(x.memory.pointer, x.memory.offset, strides))

    def at(index: Index) -> Expr:
        return x.at([index[order.index(a)] if a in order else zero for a in range(x.ndim)])

    return Array(x.dtype, tuple(sizes), at, depth=x.depth + 1, cost=x.cost)


@lowering("broadcast_to")
def _broadcast_to(block: Block, node: Node) -> Array:
    x = block.array(node.inputs[0])
    sizes = block.sizes(node)
    operand = _Operand(block, node.inputs[0], node, sizes)
    return Array(x.dtype, sizes, operand.read, depth=x.depth + 1, cost=operand.value.cost)


@lowering("subtensor")
def _subtensor(block: Block, node: Node) -> Array:
    x = block.array(node.inputs[0])
    if x.memory is not None and x.memory.backwards is not None and is_reversal(node):
        return in_memory(block.nest, x.dtype, x.sizes, x.memory.backwards)
    return part(block, x, node.params[0], [block.scalar(i) for i in node.inputs[1:]])


def part(block: Block, x: Array, pattern: Any, values: Sequence[Expr]) -> Array:
    """The part of an array that a basic index takes, as a view."""
    rest = iter(values)
    starts: list[Expr] = []
    steps: list[Expr | None] = []  # None where the dimension goes
    sizes: list[Expr] = []
    for size, entry in zip(x.sizes, pattern, strict=True):
        if entry is None:
            starts.append(position(block, next(rest), size))
            steps.append(None)
            continue
        parts = [next(rest) if given else None for given in entry]
        start, step, length = _slice(block, parts, size)
        starts.append(start)
        steps.append(step)
        sizes.append(length)
    return _strided(block, x, starts, steps, sizes)


def _strided(block: Block, x: Array, starts: list[Expr], steps: list[Expr | None], sizes: list[Expr]) -> Array:
    nest = block.nest
    if x.memory is not None:
        offset = place(nest, x.memory, starts)
        strides = [nest.mul(s, step) for s, step in zip(x.memory.strides, steps, strict=True) if step is not None]
        region = Memory(x.memory.pointer, nest.let(offset), tuple(strides))
        return in_memory(nest, x.dtype, sizes, region)

    def at(index: Index) -> Expr:
        rest = iter(index)
        return x.at(
            [
                start if step is None else nest.add(start, nest.mul(next(rest), step))
                for start, step in zip(starts, steps, strict=True)
            ]
        )

    return Array(x.dtype, tuple(sizes), at, depth=x.depth + 1, cost=x.cost)


def position(block: Block, index: Expr, size: Expr) -> Expr:
    """An index counted from the front; fails outside the dimension."""
    if isinstance(index, Const):
        wrapped = index if index.value >= 0 else block.nest.add(size, index)
    elif block.nest.integers.is_count(index):
        wrapped = index
    else:
        negative = block.op("lt", index, block.int(0), dtype="bool")
        wrapped = block.op("where", negative, block.nest.add(index, size), index, dtype="int64")
    wrapped = block.nest.let(wrapped, "index")
    low = block.op("lt", wrapped, block.int(0), dtype="bool")
    high = block.op("ge", wrapped, size, dtype="bool")
    block.nest.fail_if(block.op("or", low, high, dtype="bool"))
    return wrapped


def _slice(block: Block, parts: list[Expr | None], size: Expr) -> tuple[Expr, Expr, Expr]:
    """Start, step and length of a slice of a dimension, by Python's rules."""
    step = parts[2] or block.int(1)
    if not isinstance(step, Const):
        raise UnsupportedError("a slice whose step is not known")
    if step.value == 1 and block.nest.integers.optimistic:
        return _forward_slice(block, parts, size)
    up = step.value > 0
    low, high = (block.int(0), size) if up else (block.int(-1), block.op("sub", size, block.int(1)))
    start = (low if up else high) if parts[0] is None else _bound(block, parts[0], size, low, high)
    stop = (high if up else low) if parts[1] is None else _bound(block, parts[1], size, low, high)
    distance = block.op("sub", stop, start) if up else block.op("sub", start, stop)
    stride = min(abs(step.value), 2**63 - 1)  # the largest that fits; no dimension is longer
    if stride != 1:  # written so that no step, however large, overflows
        steps = block.op("floor_div", block.op("sub", distance, block.int(1)), block.int(stride))
        distance = block.nest.add(steps, block.int(1))
    if parts[0] is not None or parts[1] is not None:
        distance = block.op("maximum", distance, block.int(0))
    distance = block.nest.integers.count(block.nest.let(distance, "length"))
    return block.nest.let(start, "start"), step, distance


def _forward_slice(block: Block, parts: list[Expr | None], size: Expr) -> tuple[Expr, Expr, Expr]:
    nest, integers = block.nest, block.nest.integers
    start, stop = forward_bounds(block, parts[0], parts[1], size)
    length = integers.count(nest.let(block.op("sub", stop, start), "length"))
    return integers.count(nest.let(start, "start")), block.int(1), length


def forward_bounds(block: Block, start: Expr | None, stop: Expr | None, size: Expr) -> tuple[Expr, Expr]:
    """Start and stop of a slice with step 1, assumed to be in order and within the dimension."""
    first = block.int(0) if start is None else _from_front(block, start, size)
    last = size if stop is None else _from_front(block, stop, size)
    block.nest.integers.assume(block.op("le", first, last, dtype="bool"))
    block.nest.integers.assume(block.op("le", last, size, dtype="bool"))
    return first, last


def _from_front(block: Block, bound: Expr, size: Expr) -> Expr:
    """A bound of a slice counted from the front: constants may be below zero, others are assumed not to be."""
    if isinstance(bound, Const) and bound.value < 0:
        bound = block.nest.add(size, bound)
    block.nest.integers.assume(block.op("ge", bound, block.int(0), dtype="bool"))
    return bound


def _bound(block: Block, bound: Expr, size: Expr, low: Expr, high: Expr) -> Expr:
    negative = block.op("lt", bound, block.int(0), dtype="bool")
    wrapped = block.op("where", negative, block.nest.add(bound, size), bound, dtype="int64")
    return block.op("maximum", block.op("minimum", wrapped, high), low)


@lowering("reshape")
def _reshape(block: Block, node: Node) -> Array:
    x = block.array(node.inputs[0])
    sizes = tuple(block.scalar(s) for s in node.inputs[1:])
    nest = block.nest
    for s in sizes:
        block.fail_unless(block.op("ge", s, block.int(0), dtype="bool"))
    block.require_equal(count(nest, sizes), count(nest, x.sizes))
    held = x if is_contiguous(nest, x) else block.contiguous(x)
    assert held.memory is not None
    region = Memory(held.memory.pointer, held.memory.offset, contiguous_strides(nest, sizes))
    return in_memory(nest, x.dtype, sizes, region)


@lowering("check_rows")
def _check_rows(block: Block, node: Node) -> Array:
    x = same_elements(block, node)
    block.fail_unless(block.op("ge", x.sizes[0], block.int(node.params[0]), dtype="bool"))
    return x


@lowering("specify_shape")
def _specify_shape(block: Block, node: Node) -> Array:
    x, sizes = same_elements(block, node), block.sizes(node)
    for own, wanted in zip(x.sizes, sizes, strict=True):
        block.require_equal(own, wanted)
    return Array(x.dtype, sizes, x.at, x.memory, x.depth, x.cost)


@lowering("item")
def _item(block: Block, node: Node) -> Array:
    results = block.values[node.inputs[0]]
    assert isinstance(results, list)
    return results[node.params[0]]


# ---- small things ---------------------------------------------------------------------------------


@lowering("make_vector")
def _make_vector(block: Block, node: Node) -> Array:
    held = new_array(block.nest, "int64", [block.int(len(node.inputs))])
    for i, value in enumerate(node.inputs):
        store(block.nest, held, [block.int(i)], block.scalar(value))
    return held


@lowering("trip_count")
def _trip_count(block: Block, node: Node) -> Array:
    n = block.scalar(node.inputs[0])
    block.fail_unless(block.op("ge", n, block.int(0), dtype="bool"))
    for length in node.inputs[1:]:
        block.fail_unless(block.op("ge", block.scalar(length), n, dtype="bool"))
    return scalar(n)


@lowering("steps_reached")
def _steps_reached(block: Block, node: Node) -> Array:
    x = same_elements(block, node)
    block.fail_unless(block.op("ge", block.scalar(node.inputs[1]), x.sizes[0], dtype="bool"))
    return x


@lowering("within_budget")
def _within_budget(block: Block, node: Node) -> Array:
    x, least = (block.scalar(i) for i in node.inputs)
    block.fail_unless(block.op("le", least, block.int(node.params[0]), dtype="bool"))
    return scalar(x)


@lowering("unset")
def _unset(block: Block, node: Node) -> Array:
    zero = block.nest.const(0, node.type.dtype)
    return Array(node.type.dtype, block.sizes(node), lambda index: zero)


@lowering("arange")
def _arange(block: Block, node: Node) -> Array:
    start, stop, step = (block.scalar(i) for i in node.inputs)
    dtype = node.type.dtype
    if start.dtype != "int64":
        return _arange_of_floats(block, start, stop, step, dtype)
    if not isinstance(step, Const):
        raise UnsupportedError("arange with a step that is not known")
    span = block.op("sub", stop, start) if step.value > 0 else block.op("sub", start, stop)
    by, length = abs(step.value), span
    if by != 1:
        length = block.op("floor_div", block.nest.add(span, block.int(by - 1)), block.int(by))
    length = block.nest.let(block.op("maximum", length, block.int(0)), "length")

    def at(index: Index) -> Expr:
        value = block.nest.add(start, block.nest.mul(index[0], step))
        return value if dtype == "int64" else block.op("cast", value, dtype=dtype)

    return Array(dtype, (length,), at)


def _arange_of_floats(block: Block, start: Expr, stop: Expr, step: Expr, dtype: str) -> Array:
    """As NumPy: the distance of two numbers is that of the first two."""
    nest, source = block.nest, start.dtype
    steps = block.op("ceil", block.op("true_div", block.op("sub", stop, start), step))
    most = nest.const(2.0**53, source)
    block.fail_unless(block.op("lt", block.op("abs", steps), most, dtype="bool"))  # nor NaN, as for a step of 0
    some = block.op("maximum", steps, nest.const(0.0, source))
    length = nest.let(block.op("cast", some, dtype="int64"), "length")
    distance = nest.let(block.op("sub", block.op("add", start, step), start))

    def at(index: Index) -> Expr:
        place = block.op("cast", index[0], dtype=source)
        value = block.op("add", start, block.op("mul", place, distance))
        return value if dtype == source else block.op("cast", value, dtype=dtype)

    return Array(dtype, (length,), at)


@lowering("concatenate")
def _concatenate(block: Block, node: Node) -> Array:
    axis, nest = node.params[0], block.nest
    parts = [block.array(i) for i in node.inputs]
    along: Expr = block.int(0)
    for p in parts:
        along = nest.add(along, p.sizes[axis])
    sizes = [along if a == axis else s for a, s in enumerate(parts[0].sizes)]
    held = new_array(nest, parts[0].dtype, sizes)
    start: Expr = block.int(0)
    for p in parts:
        for a, s in enumerate(p.sizes):
            if a != axis:
                block.require_equal(s, sizes[a])

        def put(index: list[Expr], p: Array = p, start: Expr = start) -> None:
            moved = [nest.add(i, start) if a == axis else i for a, i in enumerate(index)]
            store(nest, held, moved, p.at(index))

        nest.for_each(list(p.sizes), put)
        start = nest.let(nest.add(start, p.sizes[axis]))
    return held


# ---- reductions -----------------------------------------------------------------------------------


def _identity_of(name: str) -> Any:
    return {"sum": 0, "prod": 1, "any": False, "all": True}.get(name)


_COMBINE = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum", "any": "or", "all": "and"}


@lowering("sum", "prod", "max", "min", "any", "all")
def _reduction(block: Block, node: Node) -> Array:
    x, axes = block.array(node.inputs[0]), node.params[0]
    inner = [x.sizes[a] for a in axes]
    if node.op.name in ("max", "min"):
        block.fail_unless(block.op("gt", count(block.nest, inner), block.int(0), dtype="bool"))

    def element(outer: Index) -> Expr:
        def read(index: Index) -> Expr:
            rest, reduced = iter(outer), iter(index)
            return x.at([next(reduced) if a in axes else next(rest) for a in range(x.ndim)])

        return _folded(block, node.op.name, x.dtype, inner, read)

    return _from_elements(block, x.dtype, [s for a, s in enumerate(x.sizes) if a not in axes], element)


def _from_elements(block: Block, dtype: str, sizes: Sequence[Expr], element: Any) -> Array:
    """An array in memory whose elements take statements to compute."""
    if not sizes:
        return scalar(element([]))
    if is_tiny(sizes):
        elements = [block.nest.let(element(index)) for index in all_indices(block.nest, sizes)]
        return of_elements(block.nest, dtype, sizes, elements)
    held = new_array(block.nest, dtype, sizes)
    block.nest.for_each(list(sizes), lambda index: store(block.nest, held, index, element(index)))
    return held


def _folded(block: Block, name: str, dtype: str, stops: Sequence[Expr], read: Any) -> Expr:
    """All elements that `read` gives, combined by nested loops that carry the result so far."""
    nest, combine = block.nest, _COMBINE[name]
    if stops and (is_tiny(stops)) and static_count(stops):
        elements = [read(index) for index in all_indices(nest, stops)]
        return functools.reduce(lambda a, b: block.op(combine, a, b, dtype=dtype), elements)
    first = _identity_of(name)
    start = nest.const(first, dtype) if first is not None else read([block.int(0)] * len(stops))

    def fold(done: list[Expr], so_far: Expr) -> Expr:
        if len(done) == len(stops):
            return block.op(combine, so_far, read(done), dtype=dtype)
        if is_one(stops[len(done)]):
            return fold([*done, block.int(0)], so_far)
        with nest.loop(stops[len(done)]) as loop:
            carried = nest.carry(loop, so_far, "acc")
            carried.next = fold([*done, loop.var], carried.var)
        return carried.result

    return fold([], start)


@lowering("argmax", "argmin")
def _arg_reduction(block: Block, node: Node) -> Array:
    x, axis, nest = block.array(node.inputs[0]), node.params[0], block.nest
    better = "gt" if node.op.name == "argmax" else "lt"
    block.fail_unless(block.op("gt", x.sizes[axis], block.int(0), dtype="bool"))

    def element(outer: Index) -> Expr:
        def read(i: Expr) -> Expr:
            return x.at([*outer[:axis], i, *outer[axis:]])

        with nest.loop(x.sizes[axis]) as loop:
            best = nest.carry(loop, read(block.int(0)), "best")
            where = nest.carry(loop, block.int(0), "where")
            value = nest.let(read(loop.var))
            wins = block.op(better, value, best.var, dtype="bool")
            if x.dtype.startswith("float"):  # the first NaN wins
                nan = block.op("and", _isnan(block, value), _not(block, _isnan(block, best.var)), dtype="bool")
                known = _not(block, _isnan(block, best.var))
                wins = block.op("or", block.op("and", wins, known, dtype="bool"), nan, dtype="bool")
            wins = nest.let(wins)
            best.next = block.op("where", wins, value, best.var, dtype=x.dtype)
            where.next = block.op("where", wins, loop.var, where.var, dtype="int64")
        return where.result

    return _from_elements(block, "int64", [s for a, s in enumerate(x.sizes) if a != axis], element)


def _isnan(block: Block, value: Expr) -> Expr:
    return block.op("isnan", value, dtype="bool")


def _not(block: Block, value: Expr) -> Expr:
    return block.op("logical_not", value, dtype="bool")


@lowering("cumsum")
def _cumsum(block: Block, node: Node) -> Array:
    x, axis, nest = block.array(node.inputs[0]), node.params[0], block.nest
    held = new_array(nest, x.dtype, x.sizes)

    def lane(outer: list[Expr]) -> None:
        with nest.loop(x.sizes[axis]) as loop:
            total = nest.carry(loop, nest.const(0, x.dtype), "total")
            index = [*outer[:axis], loop.var, *outer[axis:]]
            total.next = nest.let(block.op("add", total.var, x.at(index), dtype=x.dtype))
            store(nest, held, index, total.next)

    nest.for_each([s for a, s in enumerate(x.sizes) if a != axis], lane)
    return held


@lowering("sum_to")
def _sum_to(block: Block, node: Node) -> Array:
    x, nest = block.unsettled(node.inputs[0]), block.nest
    wanted = [block.scalar(w) for w in node.inputs[1:]]
    lead = x.ndim - len(wanted)
    repeats: list[Expr] = []
    for size, w in zip(x.sizes[lead:], wanted, strict=True):
        if not is_one(w) and nest.integers.optimistic:
            nest.integers.assume_equal(size, w)
        if nest.integers.same(size, w):
            repeats.append(block.int(1))
            continue
        one = block.op("eq", w, block.int(1), dtype="bool")
        repeats.append(nest.let(block.op("where", one, size, block.int(1), dtype="int64"), "repeats"))
        same = block.op("eq", w, size, dtype="bool")
        block.fail_unless(block.op("or", one, same, dtype="bool"))

    if not lead and all(map(is_one, repeats)):
        return same_elements(block, node)
    x = block.array(node.inputs[0])

    def element(outer: Index) -> Expr:
        def read(index: Index) -> Expr:
            return x.at([*index[:lead], *[nest.add(i, r) for i, r in zip(outer, index[lead:], strict=True)]])

        return _folded(block, "sum", x.dtype, [*x.sizes[:lead], *repeats], read)

    return _from_elements(block, x.dtype, wanted, element)
