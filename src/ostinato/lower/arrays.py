"""What lowering knows of an array: sizes, and how to get at an element; in memory or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    """A strided region: an element lies at offset + sum(index * stride), counted in elements."""

    pointer: Expr
    offset: Expr
    strides: tuple[Expr, ...]
    fresh: bool = False  # allocated by this computation, contiguous, and nobody else's


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
