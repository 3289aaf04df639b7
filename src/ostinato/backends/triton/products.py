"""Products of matrices on tiles: element by element, tile by tile, or by tensor cores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ostinato.backends.triton.layout import Access, Value, is_literal
from ostinato.backends.triton.operations import Operations
from ostinato.graph import Node


class Products(Operations):
    """Text that knows products of matrices."""

    def _matmul(self, node: Node) -> Value:
        a = node.inputs[0]
        if self.by_tensor_cores(node):
            return self._dot(node)
        axes = self.axes.of(node)
        inner = self.axes.of(a)[-1]
        tiles = self.tiles_over(axes)
        for index in np.ndindex(tiles.shape):
            tiles[index] = (
                self._product_unrolled(node, index) if inner.kind == "unrolled" else self._product_tiles(node, index)
            )
        return Value(axes, tiles)

    def _factors(self, node: Node, index: Sequence[int], k: int) -> tuple[str, str]:
        """Tiles of both factors for one element of the inner axis, in the dimensions of the result."""
        axes = self.axes.of(node)
        place = dict(zip([d for d, x in enumerate(axes) if x.kind == "unrolled"], index, strict=True))
        n = len(axes)
        found = []
        for x, row, column in ((node.inputs[0], n - 2, None), (node.inputs[1], None, n - 1)):
            value = self.values[x]
            r = len(value.axes)
            own, tiled = [], []
            for d, a in enumerate(value.axes):
                out = n - r + d if d < r - 2 else (row if d == r - 2 else column)
                if out is None:
                    own.append(k)
                elif a.kind == "unrolled":
                    own.append(0 if a.size == 1 else place[out])
                else:
                    tiled.append(out)
            tile = value.tiles[tuple(own)]
            wanted = [d for d, a in enumerate(axes) if a.kind != "unrolled"]
            if tiled and tiled != wanted and not is_literal(tile):
                tile = f"{tile}[{', '.join(':' if d in tiled else 'None' for d in wanted)}]"
            found.append(tile)
        return found[0], found[1]

    def _product_unrolled(self, node: Node, index: Sequence[int]) -> str:
        total = ""
        for k in range(self.axes.of(node.inputs[0])[-1].size):
            x, y = self._factors(node, index, k)
            total = self.put(f"{total} + {x} * {y}" if total else f"{x} * {y}")
        return total

    def _product_tiles(self, node: Node, index: Sequence[int]) -> str:
        """The inner axis is a dimension of the tiles: products of all elements, summed over it."""
        axes = self.axes.of(node)
        n = len(axes)
        place = dict(zip([d for d, x in enumerate(axes) if x.kind == "unrolled"], index, strict=True))
        order = [*range(n - 1), "inner", n - 1]
        tiled_out = [d for d, a in enumerate(axes) if a.kind != "unrolled"]
        wanted = [d for d in order if d == "inner" or d in tiled_out]
        found = []
        for x, last in ((node.inputs[0], (n - 2, "inner")), (node.inputs[1], ("inner", n - 1))):
            value = (
                self.values[x] if not isinstance(self.values[x].tiles, Access) else self.loaded(self.values[x].tiles, x)
            )
            r = len(value.axes)
            dims = [*range(n - r, n - 2), *last]
            own = [
                0 if a.size == 1 else place[d] for d, a in zip(dims, value.axes, strict=True) if a.kind == "unrolled"
            ]
            tiled = [d for d, a in zip(dims, value.axes, strict=True) if a.kind != "unrolled"]
            tile = self.typed(value, tuple(own), x.type.dtype)
            inner = self.axes.of(node.inputs[0])[-1]
            if self.has_mask(inner):
                shown = ", ".join(":" if d == "inner" else "None" for d in tiled)
                tile = self.put(
                    f"tl.where(m{inner.number}[{shown}], {tile}, 0)"
                    if len(tiled) > 1
                    else f"tl.where(m{inner.number}, {tile}, 0)"
                )
            if tiled != wanted:
                tile = f"{tile}[{', '.join(':' if d in tiled else 'None' for d in wanted)}]"
            found.append(tile)
        return self.put(f"tl.sum({found[0]} * {found[1]}, axis={wanted.index('inner')})")

    def _dot(self, node: Node) -> Value:
        a, b = node.inputs
        x = self.typed(self.values[a], (), "float32")
        if self.has_mask(self.axes.of(a)[1]):
            x = self.put(f"tl.where(m{self.axes.of(a)[1].number}[None, :], {x}, 0.0)")
        held = self.values[b]
        w = self._streamed(held.tiles, b) if isinstance(held.tiles, Access) else self.typed(held, (), "float32")
        if self.precision == "bf16":
            x = f"{x}.to(tl.bfloat16)"
            w = w if self.feeds_dots_only(b) and b in self.body.invariants else f"{w}.to(tl.bfloat16)"
            return Value(self.axes.of(node), np.array(self.put(f"tl.dot({x}, {w})"), object).reshape(()))
        found = self.put(f'tl.dot({x}, {w}, input_precision="{self.dot_precision()}")')
        return Value(self.axes.of(node), np.array(found, object).reshape(()))

    def _streamed(self, access: Access, node: Node) -> str:
        """A matrix read again at every step; the sum with a zero keeps the compiler from holding it."""
        return str(self.loaded(access, node, " + at * ZERO").tiles[()])

    def dot_precision(self) -> str:
        # Three products of TF32 come as close as one of float32, and run on tensor cores.
        return "tf32x3" if self.precision == "ieee" else self.precision
