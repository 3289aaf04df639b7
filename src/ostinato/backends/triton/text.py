"""The ground that a kernel's text stands on: names of values, tiles and their shapes, places in memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from ostinato.backends.triton import scalars
from ostinato.backends.triton.axes import Axes, Axis
from ostinato.backends.triton.layout import Access, Machine, Value, expand, is_literal
from ostinato.graph import Node
from ostinato.ops.loop import LoopSpec, body_of
from ostinato.ops.op import OPS

# Up to so many rows a product is better computed without tensor cores, which take 16 at a time.
FEW_ROWS = 4


class Text:
    """Text being written, for a Loop whose body has static types.

    Parameters
    ----------
    precision : of products of matrices: "ieee", "tf32" or "bf16".
    machine : what the text is for.
    strided : names of the accesses whose rows are not contiguous, so that their strides come with each launch.
    """

    def __init__(
        self,
        spec: LoopSpec,
        precision: str,
        machine: Machine,
        strided: Collection[str] = (),
    ) -> None:
        self.spec, self.body, self.axes = spec, body_of(spec), Axes(spec)
        self.precision, self.machine, self.interpreted = precision, machine, machine.interpreted
        self.strided = frozenset(strided)
        self.values: dict[Node, Value] = {}
        self.before: list[str] = []
        self.inside: list[str] = []
        self.lines = self.before
        self.count = itertools.count()
        self.accesses: list[Access] = []
        self.constants: list[np.ndarray[Any, Any]] = []
        self.offsets: dict[Any, str] = {}
        self.exchanged: dict[Node, Access] = {}
        self.offered: list[Node] = []
        self.received: dict[Node, list[str]] = {}
        self.unsummed: dict[Node, str] = {}
        self.spread: Axis | None = None
        outputs = range(len(self.body.outputs))
        self.thinned = {j: place for j in outputs if (place := spec.thinned(j)) is not None}
        self.products = {n for n in spec.body.nodes() if self.by_tensor_cores(n)}
        self.uses_dot = bool(self.products)
        self.blocks: dict[Axis, int] = {}

    def put(self, expression: str, name: str = "v") -> str:
        """Name the value of an expression."""
        var = f"{name}{next(self.count)}"
        self.lines.append(f"{var} = {expression}")
        return var

    def shape(self, axes: Iterable[Axis]) -> str:
        """The shape of a tile over axes."""
        return "[" + ", ".join(str(self.extent(a)) for a in axes if a.kind != "unrolled") + "]"

    def typed(self, value: Value, index: Any, dtype: str) -> str:
        """A tile in full shape and of exactly a dtype; literals are neither."""
        tile = value.tiles[index]
        if is_literal(tile):
            return f"tl.full({self.shape(value.axes)}, {tile}, {scalars.DTYPES[dtype]})"
        return tile

    def full(self, tile: str, axes: Sequence[Axis]) -> str:
        return (
            tile
            if is_literal(tile) or all(a.kind == "unrolled" for a in axes)
            else self.put(f"tl.broadcast_to({tile}, {self.shape(axes)})")
        )

    def extent(self, axis: Axis) -> int:
        return axis.padded if axis.kind == "local" else self.blocks[axis]

    def has_mask(self, axis: Axis) -> bool:
        return axis.kind == "parallel" or axis.padded != axis.size

    def tiles_over(self, axes: Iterable[Axis]) -> Any:
        return np.empty([a.size for a in axes if a.kind == "unrolled"], object)

    def local_elements(self, node: Node) -> int:
        return math.prod(a.padded for a in self.axes.of(node) if a.kind == "local")

    def tile_elements(self, node: Node) -> int:
        """How many elements a tile of a node's value has."""
        return math.prod(self.extent(a) for a in self.axes.of(node) if a.kind != "unrolled")

    def by_rows(self) -> bool:
        """Whether the products of programs that exchange columns are computed row by row, without tensor cores."""
        return next(block for axis, block in self.blocks.items() if axis.rows) <= FEW_ROWS

    def count_warps(self) -> int:
        """How many warps a program has."""
        largest = max(map(self.tile_elements, self.spec.body.nodes()), default=1)
        if self.spread:
            return 8 if self.by_rows() or max(self.blocks.values()) > 32 else 4
        if self.uses_dot:
            widest = max((a.padded for a in self.axes.all if a.kind == "local"), default=1)
            return max(4, min(16, widest // 8))  # tensor cores make 8 columns at a time
        return max(1, min(8, largest // 256 if largest > 128 else largest // 32))

    # ---- arrays in memory ----

    def access(self, kind: str, number: int, node: Node, stepped: bool) -> Access:
        access = Access(f"{kind}{number}", kind, number, self.axes.of(node), stepped)
        self.accesses.append(access)
        return access

    def place(self, access: Access, axes: Sequence[Axis], index: Sequence[int]) -> tuple[str, str]:
        """The offset of a tile of an array, as text to be added to its pointer, and the mask of what exists of it."""
        key = (access.name, tuple(index))
        tiled = [a for a in axes if a.kind != "unrolled"]
        masks = [f"m{a.number}{expand(k, len(tiled))}" for k, a in enumerate(tiled) if self.has_mask(a)]
        if key not in self.offsets:
            unrolled, terms, k = iter(index), [], 0
            for d, a in enumerate(axes):
                if a.kind == "unrolled":
                    i = next(unrolled)
                    terms += [f"{i} * {access.name}_s{d}"] if i else []
                else:
                    terms.append(f"i{a.number}{expand(k, len(tiled))} * {access.name}_s{d}")
                    k += 1
            self.offsets[key] = ""
            if terms:
                name = f"o{next(self.count)}"
                self.before.append(f"{name} = {' + '.join(terms)}")
                self.offsets[key] = f" + {name}"
        return self.offsets[key], " & ".join(f"({m})" for m in masks) if len(masks) > 1 else "".join(masks)

    def loaded(self, access: Access, node: Node, at: str = "") -> Value:
        axes = self.axes.of(node)
        tiles = self.tiles_over(axes)
        dtype = node.type.dtype
        for index in np.ndindex(tiles.shape):
            place, mask = self.place(access, axes, index)
            options = f", mask={mask}, other=0" if mask else ""
            loaded = f"tl.load({access.name}{at}{place}{options})"
            loaded += ".to(tl.int1)" if dtype == "bool" else ""
            if self.is_weight(node) and self.precision == "bf16" and self.feeds_dots_only(node):
                loaded += ".to(tl.bfloat16)"
            tiles[index] = self.put(loaded, f"of_{access.name}_")
        return Value(axes, tiles)

    def is_weight(self, node: Node) -> bool:
        axes = self.axes.of(node)
        return len(axes) == 2 and all(a.kind == "local" or a is self.spread for a in axes)

    def feeds_dots_only(self, node: Node) -> bool:
        users = [n for n in self.spec.body.nodes() if node in n.inputs]
        return all(self.by_tensor_cores(n) for n in users)

    def by_tensor_cores(self, node: Node) -> bool:
        if self.spread:
            return node in self.products
        if node.op is not OPS["matmul"] or node.type.ndim != 2 or node.type.dtype != "float32":
            return False
        a, b = (self.axes.of(i) for i in node.inputs)
        return (
            a[0].kind == "parallel" and a[1].kind == "local" and b[1].kind == "local" and min(a[1].size, b[1].size) > 8
        )

    def without(self, tile: str, value: Value, rows: Collection[int], dtype: str) -> str:
        """A tile of a value without some dimensions of it, along which there is one element."""
        left = value.tiled
        for k in reversed([k for k, d in enumerate(left) if d in rows]):
            mask = f"m{value.axes[left[k]].number}{expand(k, len(left))}"
            tile = self.put(f"tl.sum(tl.where({mask}, {tile}, 0), axis={k}).to({scalars.DTYPES[dtype]})")
            left = [*left[:k], *left[k + 1 :]]
        return tile

    def operand(self, x: Node, out_axes: Sequence[Axis], index: Sequence[int]) -> str:
        """The tile of an operand that meets the tile `index` of a result, with its dimensions where they belong."""
        value = self.values[x]
        lead = len(out_axes) - len(value.axes)
        place = dict(zip([d for d, a in enumerate(out_axes) if a.kind == "unrolled"], index, strict=True))
        own = []
        for d, a in enumerate(value.axes):
            if a.kind == "unrolled":
                own.append(0 if a.size == 1 else place[lead + d])
        tile = value.tiles[tuple(own)]
        # A single row of a product is shared out as rows are. Where it meets another axis, it holds for all of that.
        rows = {d for d in value.tiled if value.axes[d].size == 1 != out_axes[lead + d].size}
        if not is_literal(tile):
            tile = self.without(tile, value, rows, x.type.dtype)
        tiled = [lead + d for d in value.tiled if d not in rows]
        wanted = [d for d, a in enumerate(out_axes) if a.kind != "unrolled"]
        if tiled == wanted or not tiled or is_literal(tile):
            return tile
        return f"{tile}[{', '.join(':' if d in tiled else 'None' for d in wanted)}]"
