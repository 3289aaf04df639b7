"""What a kernel is made of: the arrays it reads and writes, values as tiles, and the kernel itself."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ostinato.backends.triton.axes import Axis
from ostinato.backends.triton.slices import Range


class Machine(NamedTuple):
    """What of a GPU a kernel is made for.

    Attributes
    ----------
    interpreted : whether it is none, but Triton's interpreter.
    processors : how many programs run at the same time for certain.
    shared : bytes of memory that the warps of a program can share.
    """

    interpreted: bool = False
    processors: int = 132
    shared: int = 227 * 1024


@dataclass(frozen=True)
class Access:
    """An array that a kernel reads or writes.

    Attributes
    ----------
    name : of its pointer param; strides are `{name}_s0`, ... per dimension and `{name}_t` per step.
    kind : "sequence", "carry", "invariant", "constant", "final" or "output".
    number : which of its kind.
    axes : of a row.
    stepped : whether there is one row per step.
    """

    name: str
    kind: str
    number: int
    axes: tuple[Axis, ...]
    stepped: bool

    @property
    def ndim(self) -> int:
        return len(self.axes)

    def strides(self, strided: Collection[str]) -> list[str]:
        """The names of the strides that come with each launch."""
        own = [f"s{d}" for d in range(self.ndim)] if self.name in strided else []
        return ["t", *own] if self.stepped else own


@dataclass
class Kernel:
    """The text of a kernel and how to launch it.

    Attributes
    ----------
    accesses : the arrays, in the order of params.
    sizes : per parallel axis its size and how many of it a program takes, last axis fastest.
    strided : names of the accesses whose strides come with each launch.
    thinned : per output that is recorded at some steps only, which invariant says that it is each so many-th.
    exchanges : for programs that exchange parts at every step, the sizes of what they exchange, in the order of its
        accesses: int64 and zero at first, twice, for even and for odd steps.
    constants : arrays that the kernel reads beside the loop's own.
    """

    text: str
    accesses: list[Access]
    sizes: list[tuple[Axis, int]]
    warps: int
    stages: int
    has_until: bool
    strided: frozenset[str] = frozenset()
    thinned: dict[int, int] = field(default_factory=dict)
    exchanges: list[tuple[int, ...]] = field(default_factory=list)
    constants: list[np.ndarray[Any, Any]] = field(default_factory=list)
    description: str = ""

    @property
    def programs(self) -> int:
        """How many programs share out the parallel axes."""
        return count_programs(self.sizes)

    def numbers(
        self, strides: Sequence[tuple[int, Sequence[int]]], every: Sequence[int], steps: int, first: int
    ) -> list[int]:
        """The numbers that follow the tensors of a launch.

        Parameters
        ----------
        strides : per access that of its steps, and those of its dimensions.
        every : per thinned output that each so many-th step is recorded.
        steps : how many are made.
        first : the number of the first one.
        """
        found: list[int] = []
        for access, (of_steps, own) in zip(self.accesses, strides, strict=True):
            found += [of_steps] if access.stepped else []
            found += own if access.name in self.strided else []
        return [*found, *[axis.size for axis, _ in self.sizes], *every, steps, first, 0]


def count_programs(sizes: Iterable[tuple[Axis, int]]) -> int:
    """How many programs share out axes in blocks."""
    return math.prod(-(-axis.size // block) for axis, block in sizes)


@dataclass
class Value:
    """Tiles by the unrolled dimensions of a node; names are texts of Triton expressions."""

    axes: tuple[Axis, ...]
    tiles: Any  # an object array of texts, one dimension per unrolled dimension

    @property
    def tiled(self) -> list[int]:
        """The dimensions that are dimensions of the tiles."""
        return [d for d, a in enumerate(self.axes) if a.kind != "unrolled"]


# ---- text ------------------------------------------------------------------------------------------


def as_slice(r: Range) -> slice:
    return slice(r.start, r.stop if r.stop >= 0 else None, r.step)


def expand(k: int, n: int) -> str:
    """How an index along dimension k of n is written as a tile."""
    return "" if n <= 1 else "[" + ", ".join(":" if j == k else "None" for j in range(n)) + "]"


def literal(value: Any) -> str:
    if isinstance(value, (np.bool_, bool)):
        return "1" if value else "0"
    if isinstance(value, np.integer):
        return f"({int(value)})"
    value = float(value)
    return f"({value!r})" if math.isfinite(value) else f'(float("{value}"))'


def is_literal(tile: str) -> bool:
    return tile.startswith("(") or tile in ("0", "1")
