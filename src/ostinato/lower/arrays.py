"""What lowering knows of an array: sizes, and how to get at an element; in memory or not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ostinato.lower.loopnest import Const, Expr, Nest

if TYPE_CHECKING:
    from ostinato.lower.scalarize import Block


@dataclass(frozen=True)
class Array:
    """A value of some sizes whose elements can be asked for.

    Attributes
    ----------
    dtype : str
    sizes : expressions, one per dimension; none for a scalar.
    at : from one index expression per dimension to the element
        Where the array lies in memory a load, else the computation itself: such an array is fused into
        whatever reads it.
    memory : where the elements lie, if they do.
    depth : how many operations deep the computation of an element is.
    cost : what the computation of an element costs, in additions.
    """

    dtype: str
    sizes: tuple[Expr, ...]
    at: Callable[[Sequence[Expr]], Expr]
    memory: Memory | None = None
    depth: int = 0
    cost: int = 0

    @property
    def ndim(self) -> int:
        return len(self.sizes)

    def readable(self, block: Block) -> Array:
        """The same array in a form whose elements can be asked for."""
        return self


@dataclass(frozen=True)
class Memory:
    """A strided region: an element lies at offset + sum(index * stride), counted in elements.

    `fresh`: allocated by this computation, contiguous, and nobody else's. `backwards`: the same with rows in the
    other order, where these were written from the last to the first because all readers want them so.
    """

    pointer: Expr
    offset: Expr
    strides: tuple[Expr, ...]
    fresh: bool = False
    backwards: Memory | None = None


def in_memory(nest: Nest, dtype: str, sizes: Sequence[Expr], memory: Memory) -> Array:
    """The array that a region holds."""

    def at(index: Sequence[Expr]) -> Expr:
        return nest.load(memory.pointer, place(nest, memory, index), dtype)

    return Array(dtype, tuple(sizes), at, memory)


def place(nest: Nest, memory: Memory, index: Sequence[Expr]) -> Expr:
    """The offset of an element; the innermost index is added last, so that it stays visible."""
    offset = memory.offset
    for i, stride in zip(index, memory.strides, strict=True):
        offset = nest.add(offset, nest.mul(i, stride))
    return offset


def contiguous_strides(nest: Nest, sizes: Sequence[Expr]) -> tuple[Expr, ...]:
    """The strides of an array in C order."""
    strides: list[Expr] = []
    step: Expr = nest.const(1)
    for size in reversed(sizes):
        strides.insert(0, step)
        step = nest.mul(step, size)
    return tuple(strides)


def is_contiguous(nest: Nest, value: Array) -> bool:
    """Whether an array is known to lie in C order, without gaps."""
    if value.memory is None:
        return False
    pairs = zip(value.memory.strides, contiguous_strides(nest, value.sizes), value.sizes, strict=True)
    return all(is_one(size) or nest.integers.same(own, wanted) for own, wanted, size in pairs)


def reshaped(nest: Nest, value: Array, sizes: Sequence[Expr]) -> Array:
    """The elements of a contiguous array under other sizes."""
    assert value.memory is not None
    return in_memory(nest, value.dtype, sizes, replace(value.memory, strides=contiguous_strides(nest, sizes)))


def count(nest: Nest, sizes: Sequence[Expr]) -> Expr:
    """The number of elements."""
    total: Expr = nest.const(1)
    for size in sizes:
        total = nest.mul(total, size)
    return total


def scalar(value: Expr) -> Array:
    """A value without dimensions."""
    return Array(value.dtype, (), lambda index: value)


def is_one(size: Expr) -> bool:
    return isinstance(size, Const) and size.value == 1


# Arrays of so many elements, known beforehand, are values of their own: registers, not memory.
TINY = 16


def static_count(sizes: Sequence[Expr]) -> int | None:
    """The number of elements, if it is known."""
    known = [s.value for s in sizes if isinstance(s, Const)]
    return math.prod(known) if len(known) == len(sizes) else None


def is_tiny(sizes: Sequence[Expr]) -> bool:
    """Whether an array is better held element by element."""
    n = static_count(sizes)
    return bool(sizes) and n is not None and n <= TINY


def all_indices(nest: Nest, sizes: Sequence[Expr]) -> list[list[Expr]]:
    """Every index of an array whose sizes are known, in C order."""
    stops = [range(s.value) for s in sizes if isinstance(s, Const)]
    return [[nest.const(i) for i in index] for index in itertools.product(*stops)]


def of_elements(nest: Nest, dtype: str, sizes: Sequence[Expr], elements: Sequence[Expr]) -> Array:
    """An array of known sizes, given by its elements in C order."""

    def at(index: Sequence[Expr]) -> Expr:
        place: Expr = nest.const(0)
        for i, stride in zip(index, contiguous_strides(nest, sizes), strict=True):
            place = nest.add(place, nest.mul(i, stride))
        if not elements or (isinstance(place, Const) and not 0 <= place.value < len(elements)):
            return nest.const(0, dtype)  # nobody gets here: what reads it makes no iteration, or fails before
        if isinstance(place, Const):
            return elements[place.value]
        found = elements[0]
        for k, element in enumerate(elements[1:], 1):
            found = nest.op("where", nest.op("eq", place, nest.const(k), dtype="bool"), element, found, dtype=dtype)
        return found

    return Array(dtype, tuple(sizes), at)


def in_registers(nest: Nest, value: Array) -> Array:
    """The same array, tiny, with every element computed now."""
    elements = [nest.let(value.at(index)) for index in all_indices(nest, value.sizes)]
    return of_elements(nest, value.dtype, value.sizes, elements)


def start_of(block: Block, x: Array) -> Expr:
    """The address of the first element of an array of floats in memory."""
    assert x.memory is not None
    if isinstance(x.memory.offset, Const) and x.memory.offset.value == 0:
        return x.memory.pointer
    n_bytes = block.nest.mul(x.memory.offset, block.int(4 if x.dtype == "float32" else 8))
    return block.op("advance", x.memory.pointer, n_bytes, dtype="ptr")


def new_array(nest: Nest, dtype: str, sizes: Sequence[Expr]) -> Array:
    """Uninitialised memory for an array in C order."""
    pointer = nest.alloc(count(nest, sizes), dtype)
    region = Memory(pointer, nest.const(0), contiguous_strides(nest, sizes), fresh=True)
    return in_memory(nest, dtype, sizes, region)


def filled(nest: Nest, dtype: str, sizes: Sequence[Expr], value: float) -> Array:
    """Equal elements; takes no memory."""
    element = nest.const(value, dtype)
    return Array(dtype, tuple(sizes), lambda index: element)


def placed(nest: Nest, value: Array, starts: Sequence[Expr], sizes: Sequence[Expr]) -> Array:
    """The part of an array in memory that begins at `starts`."""
    assert value.memory is not None
    region = Memory(value.memory.pointer, place(nest, value.memory, starts), value.memory.strides)
    return in_memory(nest, value.dtype, sizes, region)


def lanes(nest: Nest, value: Array, axis: int, first: Expr, n: Expr) -> Array:
    """The part of an array that begins at `first` along one dimension and has `n` there."""
    sizes = tuple(n if a == axis else s for a, s in enumerate(value.sizes))
    memory = value.memory
    if memory is not None:
        start = nest.add(memory.offset, nest.mul(first, memory.strides[axis]))
        return in_memory(nest, value.dtype, sizes, Memory(memory.pointer, start, memory.strides))

    def at(index: Sequence[Expr]) -> Expr:
        return value.at([nest.add(i, first) if a == axis else i for a, i in enumerate(index)])

    return Array(value.dtype, sizes, at, depth=value.depth, cost=value.cost)


def store(nest: Nest, target: Array, index: Sequence[Expr], value: Expr) -> None:
    """Write one element of an array in memory."""
    assert target.memory is not None
    nest.emit_store(target.memory.pointer, place(nest, target.memory, index), value)


def copied(nest: Nest, value: Array) -> Array:
    """The same array in memory of its own, in C order."""
    held = new_array(nest, value.dtype, value.sizes)
    copy_all(nest, [(held, value)])
    return held


def copy_all(nest: Nest, pairs: Sequence[tuple[Array, Array]]) -> None:
    """Write each second array to the first, which has its sizes; one loop serves all pairs of equal sizes."""
    rest = list(pairs)
    while rest:
        sizes = rest[0][0].sizes
        group = [p for p in rest if _same_sizes(nest, p[0].sizes, sizes)]
        rest = [p for p in rest if p not in group]

        def put(index: list[Expr], group: list[tuple[Array, Array]] = group) -> None:
            for target, source in group:
                store(nest, target, index, source.at(index))

        nest.for_each(list(sizes), put)


def _same_sizes(nest: Nest, a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    return len(a) == len(b) and all(map(nest.integers.same, a, b))
