"""Ops on tiles: what an op of a loop's body is in the text of a kernel, products of matrices apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ostinato.backends.triton import philox, scalars
from ostinato.backends.triton.layout import Value, as_slice, expand, is_literal, literal
from ostinato.backends.triton.slices import is_elementwise, read_ranges
from ostinato.backends.triton.text import Text
from ostinato.backends.triton.unsplit import UnsplitError
from ostinato.graph import Node
from ostinato.ops.leaf import CONSTANT
from ostinato.ops.random import RANDOM

PRODUCT_OF = """

@triton.jit
def product_of(a, b):
    return a * b
"""
REDUCTIONS = {
    "sum": "tl.sum({0}, axis={1})",
    "prod": "tl.reduce({0}, {1}, product_of)",
    "max": 'tl.where(tl.max(({0} != {0}).to(tl.int32), axis={1}) > 0, float("nan"), tl.max({0}, axis={1}))',
    "min": 'tl.where(tl.max(({0} != {0}).to(tl.int32), axis={1}) > 0, float("nan"), tl.min({0}, axis={1}))',
    "any": "tl.max({0}.to(tl.int32), axis={1})",
    "all": "tl.min({0}.to(tl.int32), axis={1})",
}
COMBINE = {
    "sum": "{0} + {1}",
    "prod": "{0} * {1}",
    "max": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "min": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "any": "{0} | {1}",
    "all": "{0} & {1}",
}


def neutral(name: str, dtype: str) -> str:
    return {"sum": "0", "prod": "1", "max": 'float("-inf")', "min": 'float("inf")', "any": "0", "all": "1"}[name]


# The method of `Operations`, or of a class that is made of it, for each op that is not elementwise.
_RULES = {
    "broadcast_to": "_broadcast",
    "dimshuffle": "_dimshuffle",
    "reshape": "_reshape",
    "subtensor": "_subtensor",
    "set_subtensor": "_write",
    "inc_subtensor": "_write",
    "concatenate": "_concatenate",
    "cumsum": "_cumsum",
    "argmax": "_position",
    "argmin": "_position",
    "matmul": "_matmul",
}


class Operations(Text):
    """Text that knows ops on tiles."""

    def emitted(self, node: Node) -> Value:
        """The value of a node, computed where the text is now."""
        if node.op is CONSTANT:
            return self._constant(node)
        if is_elementwise(node):
            return self._elementwise(node)
        if node.op.name in REDUCTIONS:
            return self._reduction(node)
        value: Value = getattr(self, _RULES[node.op.name])(node)
        return value

    def _constant(self, node: Node) -> Value:
        array, axes = node.params[0].array, self.axes.of(node)
        tiles = self.tiles_over(axes)
        if (array.size and (array == array.flat[0]).all()) or (
            array.size and np.isnan(array.flat[0]) and np.isnan(array).all()
        ):
            tiles.fill(literal(array.flat[0]))
            return Value(axes, tiles)
        if all(a.kind == "unrolled" for a in axes):
            for index in np.ndindex(tiles.shape):
                tiles[index] = literal(array[index])
            return Value(axes, tiles)
        access = self.access("constant", len(self.constants), node, False)
        self.constants.append(array)
        inside, self.lines = self.lines, self.before
        value = self.loaded(access, node)
        self.lines = inside
        return value

    def _elementwise(self, node: Node) -> Value:
        axes = self.axes.of(node)
        tiles = self.tiles_over(axes)
        for index in np.ndindex(tiles.shape):
            operands = [self.operand(i, axes, index) for i in node.inputs]
            tiles[index] = self.apply(node, operands)
        return Value(axes, tiles)

    def apply(self, node: Node, operands: Sequence[str]) -> str:
        """An elementwise operation on tiles."""
        name, dtype = node.op.name, node.inputs[-1].type.dtype
        if name in RANDOM:
            tiles = [self.put(f"tl.full((), {o}, tl.int64)") if is_literal(o) else o for o in operands]
            return self.put(philox.text(node, tiles))
        if name == "cast":
            return self._cast(operands[0], node.inputs[0].type.dtype, node.type.dtype)
        if name == "logaddexp":
            return self._logaddexp(*operands)
        if name == "true_div" and dtype not in ("float16", "float32", "float64"):
            raise UnsplitError("a quotient of integers within a kernel")
        template = scalars.text(name, dtype, self.interpreted)
        if template is None:
            raise UnsplitError(f"{name} of {dtype} within a kernel")
        if all(map(is_literal, operands)):
            operands = [f"tl.full((), {operands[0]}, {scalars.DTYPES[node.inputs[0].type.dtype]})", *operands[1:]]
        return self.put(template.format(*operands, type=scalars.DTYPES[dtype]))

    def _cast(self, x: str, source: str, target: str) -> str:
        if is_literal(x):
            return self.put(f"tl.full((), {x}, {scalars.DTYPES[target]})")
        if target == "bool":
            return self.put(f"{x} != 0")
        return self.put(f"{x}.to({scalars.DTYPES[target]})")

    def _logaddexp(self, a: str, b: str) -> str:
        log1p = "interpreted_log1p" if self.interpreted else "libdevice.log1p"
        high = self.put(f"tl.maximum({a}, {b}, propagate_nan=tl.PropagateNan.ALL)")
        low = self.put(f"tl.minimum({a}, {b}, propagate_nan=tl.PropagateNan.ALL)")
        return self.put(
            f"tl.where({high} == {low}, {high} + 0.6931471805599453, {high} + {log1p}(tl.exp({low} - {high})))"
        )

    def _reduction(self, node: Node) -> Value:
        x, over = node.inputs[0], node.params[0]
        value, axes = self.values[x], self.axes.of(node)
        name, dtype = node.op.name, x.type.dtype
        tiles = self.tiles_over(axes)
        kept_unrolled = [d for d, a in enumerate(value.axes) if a.kind == "unrolled" and d not in over]
        for index in np.ndindex(tiles.shape):
            place = dict(zip(kept_unrolled, index, strict=True))
            choices = [
                [place[d]] if d in place else range(a.size) for d, a in enumerate(value.axes) if a.kind == "unrolled"
            ]
            found = [self.reduced_tile(value, i, over, name, dtype) for i in itertools.product(*choices)]
            result = found[0]
            for other in found[1:]:
                result = self.put(COMBINE[name].format(result, other))
            tiles[index] = result
        return Value(axes, tiles)

    def reduced_tile(
        self, value: Value, index: Any, over: Sequence[int], name: str, dtype: str, masked: bool = False
    ) -> str:
        tile, tiled = value.tiles[index], value.tiled
        along = [k for k, d in enumerate(tiled) if d in over]
        if not along:
            return tile
        tile = self.typed(value, index, dtype)
        masks = [
            f"m{value.axes[tiled[k]].number}{expand(k, len(tiled))}"
            for k in along
            if masked or self.has_mask(value.axes[tiled[k]])
        ]
        if masks:
            tile = self.put(f"tl.where({' & '.join(masks)}, {tile}, {neutral(name, dtype)})")
        for k in reversed(along):
            tile = self.put(REDUCTIONS[name].format(tile, k))
        if name in ("any", "all"):
            tile = self.put(f"{tile} != 0")
        return tile

    def _broadcast(self, node: Node) -> Value:
        axes = self.axes.of(node)
        tiles = self.tiles_over(axes)
        for index in np.ndindex(tiles.shape):
            tile = self.operand(node.inputs[0], axes, index)
            if not is_literal(tile) and self.values[node.inputs[0]].tiled != [
                d for d, a in enumerate(axes) if a.kind != "unrolled"
            ]:
                tile = self.put(f"tl.broadcast_to({tile}, {self.shape(axes)})")
            tiles[index] = tile
        return Value(axes, tiles)

    def _dimshuffle(self, node: Node) -> Value:
        value, axes, order = self.values[node.inputs[0]], self.axes.of(node), node.params[0]
        old = [d for d, a in enumerate(value.axes) if a.kind == "unrolled"]
        new = [d for d, a in enumerate(axes) if a.kind == "unrolled"]
        tiles = self.tiles_over(axes)
        for index in np.ndindex(tiles.shape):
            place = {order[d]: i for d, i in zip(new, index, strict=True)}
            tile = value.tiles[tuple(place.get(d, 0) for d in old)]
            tiles[index] = tile if is_literal(tile) else self._shuffled(tile, value, node)
        return Value(axes, tiles)

    def _shuffled(self, tile: str, value: Value, node: Node) -> str:
        """A tile with its dimensions in another order; those of one row come and go."""
        axes, order = self.axes.of(node), node.params[0]
        kept = [d for d in value.tiled if d in order]
        tile = self.without(tile, value, {d for d in value.tiled if d not in order}, node.type.dtype)
        moved = [kept.index(o) for o in order if o != "x" and o in kept]
        if moved != sorted(moved):
            tile = self.put(f"tl.permute({tile}, {moved})")
        tiled = [d for d, a in enumerate(axes) if a.kind != "unrolled"]
        if any(order[d] == "x" for d in tiled):
            shown = ", ".join("None" if order[d] == "x" else ":" for d in tiled)
            tile = self.put(f"tl.broadcast_to({tile}{f'[{shown}]' if kept else ''}, {self.shape(axes)})")
        return tile

    def _reshape(self, node: Node) -> Value:
        value, axes = self.values[node.inputs[0]], self.axes.of(node)
        if [a for a in value.axes if a.size != 1] == [a for a in axes if a.size != 1] and len(value.tiled) == sum(
            a.kind != "unrolled" for a in axes
        ):
            return Value(axes, value.tiles.reshape(self.tiles_over(axes).shape))
        if value.tiled:
            raise UnsplitError("a reshape of a large array within a kernel")
        return Value(axes, value.tiles.reshape(node.type.shape))

    # ---- parts ----

    def _subtensor(self, node: Node) -> Value:
        value, axes = self.values[node.inputs[0]], self.axes.of(node)
        ranges = read_ranges(node, 1)
        if ranges is None:
            return Value(axes, self._dynamic(node, value))
        index = []
        for given, r, a in zip(node.params[0], ranges, value.axes, strict=True):
            if a.kind == "unrolled":
                taken = list(range(a.size))[as_slice(r)]
                index.append(taken[0] if given is None else taken)
        tiles = value.tiles
        for k in reversed(range(len(index))):
            tiles = np.take(tiles, index[k], axis=k)
        return Value(axes, np.asarray(tiles, object).reshape(self.tiles_over(axes).shape))

    def _dynamic(self, node: Node, value: Value) -> Any:
        """An element at a position that changes from step to step: chosen among all."""
        values = iter(node.inputs[1:])
        tiles, axis = value.tiles, 0
        for given, a in zip(node.params[0], value.axes, strict=True):
            if a.kind != "unrolled":
                continue
            if given is not None:
                axis += 1
                continue
            position = self._wrapped(self.values[next(values)].tiles[()], a.size)
            parts = [np.take(tiles, i, axis=axis) for i in range(a.size)]
            tiles = self._chosen(position, parts)
        return np.asarray(tiles, object)

    def _wrapped(self, position: str, size: int) -> str:
        return self.put(f"tl.where({position} < 0, {position} + {size}, {position})")

    def _chosen(self, position: str, parts: Sequence[Any]) -> Any:
        result: Any = np.empty(np.shape(parts[0]), object)
        tile: Any
        for index in np.ndindex(result.shape):
            tile = np.asarray(parts[0], object)[index]
            for k, part in enumerate(parts[1:], 1):
                tile = self.put(f"tl.where({position} == {k}, {np.asarray(part, object)[index]}, {tile})")
            result[index] = tile
        return result

    def _write(self, node: Node) -> Value:
        x, y = node.inputs[:2]
        value, axes = self.values[x], self.axes.of(node)
        tiles = value.tiles.copy()
        ranges = read_ranges(node, 2)
        positions = iter(node.inputs[2:])
        choices: list[Any] = []
        dynamic: list[tuple[int, str]] = []
        for d, (given, a) in enumerate(zip(node.params[0], value.axes, strict=True)):
            if a.kind != "unrolled":
                choices.append(None)
            elif ranges is not None:
                taken = list(range(a.size))[as_slice(ranges[d])]
                choices.append(taken)
            elif given is None:
                dynamic.append((d, self._wrapped(self.values[next(positions)].tiles[()], a.size)))
                choices.append(list(range(a.size)))
            else:
                choices.append(list(range(a.size)))
        unrolled = [d for d, a in enumerate(value.axes) if a.kind == "unrolled"]
        kept = [d for d, given in enumerate(node.params[0]) if given is not None]
        part_axes = [value.axes[d] for d in kept]
        adds = node.op.name == "inc_subtensor"
        for counter in itertools.product(*[range(len(choices[d])) for d in unrolled]):
            place = dict(zip(unrolled, counter, strict=True))
            target = tuple(choices[d][place[d]] for d in unrolled)
            source = [place[d] for d in kept if d in place]
            tile = self.operand(y, part_axes, source)
            old = tiles[target]
            new = self.put(f"{old} + {tile}") if adds else tile
            for d, position in dynamic:
                hit = target[unrolled.index(d)]
                new = self.put(f"tl.where({position} == {hit}, {new}, {old})")
            tiles[target] = self.full(new, axes)
        return Value(axes, tiles)

    def _concatenate(self, node: Node) -> Value:
        axes = self.axes.of(node)
        unrolled = [d for d, a in enumerate(axes) if a.kind == "unrolled"]
        where = unrolled.index(node.params[0])
        return Value(axes, np.concatenate([self.values[i].tiles for i in node.inputs], axis=where))

    def _cumsum(self, node: Node) -> Value:
        value = self.values[node.inputs[0]]
        where = [d for d, a in enumerate(value.axes) if a.kind == "unrolled"].index(node.params[0])
        tiles = np.moveaxis(value.tiles.copy(), where, 0)
        for k in range(1, len(tiles)):
            for index in np.ndindex(tiles.shape[1:]):
                tiles[(k, *index)] = self.put(f"{tiles[(k - 1, *index)]} + {tiles[(k, *index)]}")
        return Value(value.axes, np.moveaxis(tiles, 0, where))

    def _position(self, node: Node) -> Value:
        """The first largest or least element's place along an unrolled axis."""
        value, axes = self.values[node.inputs[0]], self.axes.of(node)
        where = [d for d, a in enumerate(value.axes) if a.kind == "unrolled"].index(node.params[0])
        parts = np.moveaxis(value.tiles, where, 0)
        tiles = self.tiles_over(axes)
        better = (
            "(({0} > {1}) | (({0} != {0}) & ({1} == {1})))"
            if node.op.name == "argmax"
            else ("(({0} < {1}) | (({0} != {0}) & ({1} == {1})))")
        )
        for index in np.ndindex(tiles.shape):
            best = parts[(0, *index)]
            place = "tl.full((), 0, tl.int64)"
            for k in range(1, len(parts)):
                hit = self.put(better.format(parts[(k, *index)], best))
                place = self.put(f"tl.where({hit}, {k}, {place}).to(tl.int64)")
                best = self.put(f"tl.where({hit}, {parts[(k, *index)]}, {best})")
            tiles[index] = self.full(self.put(place) if place.startswith("tl.full") else place, axes)
        return Value(axes, tiles)
