"""Slices of large axes are moved inwards, to the operands, so that the core of a loop need not take tiles apart.

    (x @ W)[:, a:b]                                   ->  x @ W[:, a:b]
    f(x, y)[:, a:b]                                   ->  f(x[:, a:b], y[:, a:b])
    (0 with p at [:, a:b] + 0 with q at [:, c:d]) @ V ->  p @ V[a:b] + q @ V[c:d]

The last line is what the reverse of the first two leaves. Short axes stay: they are unrolled anyhow.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ostinato.graph import Graph, Node, make, rebuild
from ostinato.ops.contraction import MATMUL
from ostinato.ops.indexing import INC_SUBTENSOR, SUBTENSOR
from ostinato.ops.leaf import CONSTANT, constant, static_int
from ostinato.ops.movement import CONCATENATE, DIMSHUFFLE
from ostinato.ops.op import OPS
from ostinato.ops.random import RANDOM
from ostinato.ops.sizes import BROADCAST, broadcast_to
from ostinato.types import TensorType

# Axes of at most so many elements may be held element by element.
UNROLLED = 16

_FULL = (False, False, False)


def is_elementwise(node: Node) -> bool:
    """Whether an element of a node's value is a function of the corresponding elements of its operands."""
    return node.op.infer.__module__ == "ostinato.ops.elementwise" or node.op.name in RANDOM


class Range(NamedTuple):
    """Elements start, start + step, ... before stop, of an axis of `size`; positions count from 0."""

    start: int
    stop: int
    step: int
    size: int

    @property
    def is_all(self) -> bool:
        return self == (0, self.size, 1, self.size)

    @property
    def length(self) -> int:
        return len(range(self.start, self.stop, self.step))


def read_ranges(node: Node, first: int) -> list[Range] | None:
    """What a subtensor or a write takes of each axis; None if that is not known.

    Parameters
    ----------
    first : where among the inputs the indices begin.
    """
    shape, values, ranges = node.inputs[0].type.shape, iter(node.inputs[first:]), []
    for size, given in zip(shape, node.params[0], strict=True):
        parts = [next(values) if g else None for g in (given or (True, False, False))]
        known = [None if p is None else static_int(p) for p in parts]
        if size is None or any(k is None for k, p in zip(known, parts, strict=True) if p is not None):
            return None
        if given is None:
            at = known[0] % size if known[0] is not None and size else 0
            ranges.append(Range(at, at + 1, 1, size))
        else:
            start, stop, step = slice(*known).indices(size)
            ranges.append(Range(start, stop if step < 0 else max(start, stop), step, size))
    return ranges


def sliced(x: Any, ranges: Sequence[Range]) -> Any:
    """The part of an array that ranges take; all axes are kept."""
    if all(r.is_all for r in ranges):
        return x
    pattern = tuple(_FULL if r.is_all else (True, True, True) for r in ranges)
    bounds = [b for r in ranges if not r.is_all for b in (r.start, _stop(r), r.step)]
    return make(SUBTENSOR, (x, *[constant(b, "int64") for b in bounds]), (pattern,))


def _stop(r: Range) -> int:
    return r.stop if r.stop >= 0 else -r.size - 1  # down to the first element and with it


def moved_slice(node: Node) -> Any:
    """A slice of a large axis, taken of the operands; None if there is nothing to move."""
    if node.op is not SUBTENSOR or node.type.__class__ is not TensorType:
        return None
    ranges = read_ranges(node, 1)
    if ranges is None or all(r.is_all or r.size <= UNROLLED for r in ranges):
        return None
    found = _of_operands(node.inputs[0], ranges)
    if found is None:
        return None
    kept = [axis for axis, given in enumerate(node.params[0]) if given is not None]
    from ostinato.ops.movement import dimshuffle

    return found if len(kept) == len(ranges) else dimshuffle(found, kept)


def _of_operands(x: Node, ranges: list[Range]) -> Any:
    """The part of x that ranges take, computed from parts of what x is made of."""
    if is_elementwise(x):
        return rebuild(x, tuple([_part(i, ranges) for i in x.inputs]))
    if x.op is SUBTENSOR:
        return _of_slice(x, ranges)
    if x.op is BROADCAST:
        return broadcast_to(_part(x.inputs[0], ranges), [r.length for r in ranges])
    if x.op is DIMSHUFFLE:
        return _of_shuffled(x, ranges)
    if x.op is MATMUL and x.type.ndim == 2 and x.inputs[0].type.ndim == x.inputs[1].type.ndim == 2:
        a, b = x.inputs
        inner = _all(a.type.shape[1])
        return make(MATMUL, (sliced(a, [ranges[0], inner]), sliced(b, [inner, ranges[1]])))
    if x.op is CONCATENATE:
        return _of_joined(x, ranges)
    if x.op is INC_SUBTENSOR and is_zero(x.inputs[0]) and read_ranges(x, 2) == ranges and None not in x.params[0]:
        part = x.inputs[1]
        return broadcast_to(part, [r.length for r in ranges])
    return None


def _all(size: int) -> Range:
    return Range(0, size, 1, size)


def _part(x: Node, ranges: Sequence[Range]) -> Any:
    """The part of an operand that broadcasts against others; what it repeats is not sliced."""
    own = ranges[len(ranges) - x.type.ndim :]
    return sliced(x, [_all(s) if s == 1 != r.size else r for s, r in zip(x.type.shape, own, strict=True)])


def _of_slice(x: Node, ranges: list[Range]) -> Any:
    """A slice of a slice is one slice."""
    inner = read_ranges(x, 1)
    if inner is None or None in x.params[0]:
        return None
    joined = []
    for outer, r in zip(ranges, inner, strict=True):
        taken = range(r.start, r.stop, r.step)[outer.start : outer.stop if outer.stop >= 0 else None : outer.step]
        joined.append(Range(taken.start, taken.stop, taken.step, r.size))
    return sliced(x.inputs[0], joined)


def _of_shuffled(x: Node, ranges: list[Range]) -> Any:
    order, source = x.params[0], x.inputs[0]
    if any(o == "x" and not r.is_all for o, r in zip(order, ranges, strict=True)):
        return None
    place = {o: r for o, r in zip(order, ranges, strict=True) if o != "x"}
    own = [place.get(axis, _all(size)) for axis, size in enumerate(source.type.shape)]
    return make(DIMSHUFFLE, (sliced(source, own),), (order,))


def _of_joined(x: Node, ranges: list[Range]) -> Any:
    """A slice that lies within one of the arrays that were joined."""
    axis, start = x.params[0], 0
    wanted = ranges[axis]
    for piece in x.inputs:
        size = piece.type.shape[axis]
        if start <= wanted.start and wanted.stop <= start + size and wanted.step > 0:
            own = Range(wanted.start - start, wanted.stop - start, wanted.step, size)
            return sliced(piece, [own if a == axis else r for a, r in enumerate(ranges)])
        start += size
    return None


# ---- axes that slices cut into parts ---------------------------------------------------------------

Cuts = Mapping[int, tuple[int, ...]]

# An axis is taken in at most so many parts.
_PARTS = 8
_COMBINE = {"sum": "add", "max": "maximum", "min": "minimum"}


def cuts_of(graph: Graph) -> Cuts:
    """Where slices cut last axes, by the size of the axis: 0, the bounds between parts, the size."""
    found: dict[int, set[int]] = {}
    for node in graph.nodes():
        if node.op not in (SUBTENSOR, INC_SUBTENSOR) or node.inputs[0].type.ndim == 0:
            continue
        ranges = read_ranges(node, 1 if node.op is SUBTENSOR else 2)
        last = ranges[-1] if ranges else None
        if last is not None and last.step == 1 and last.size > UNROLLED and not last.is_all and node.params[0][-1]:
            found.setdefault(last.size, {0, last.size}).update((last.start, last.stop))
    return {size: tuple(sorted(bounds)) for size, bounds in found.items() if len(bounds) <= _PARTS + 1}


def parts_of(x: Any, cuts: Cuts) -> list[Any]:
    """The parts into which slices cut the last axis of an array; itself if they do not."""
    bounds = cuts.get(x.type.shape[-1]) if x.type.ndim else None
    if bounds is None:
        return [x]
    whole = [_all(size) for size in x.type.shape[:-1]]
    size = x.type.shape[-1]
    return [sliced(x, [*whole, Range(a, b, 1, size)]) for a, b in itertools.pairwise(bounds)]


def reduced_by_parts(node: Node, cuts: Cuts) -> Any:
    """A sum, an extreme or a product along an axis that slices cut, of the parts' own: so nobody needs the whole.

    sum(x, -1), where x[:, :n] and x[:, n:] are read too    ->  sum(x[:, :n], -1) + sum(x[:, n:], -1)
    """
    if node.op is MATMUL and node.type.ndim == 2:
        x, y = node.inputs[0], side_by_side(node.inputs[0], cuts)
        return None if x is y else make(MATMUL, (y, node.inputs[1]))  # see `split_product`
    if node.op.name not in _COMBINE or node.inputs[0].type.ndim - 1 not in node.params[0]:
        return None
    parts = parts_of(node.inputs[0], cuts)
    if len(parts) == 1:
        return None
    found = [make(node.op, (p,), node.params) for p in parts]
    return functools.reduce(lambda a, b: make(OPS[_COMBINE[node.op.name]], (a, b)), found)


def side_by_side(x: Any, cuts: Cuts) -> Any:
    """An array that is computed, as its parts side by side; itself if slices do not cut it."""
    if not is_elementwise(x) and x.op is not MATMUL:
        return x
    parts = parts_of(x, cuts)
    return x if len(parts) == 1 else make(CONCATENATE, tuple(parts), (x.type.ndim - 1,))


# ---- sums of parts --------------------------------------------------------------------------------


def is_zero(x: Node) -> bool:
    """Whether all elements are the constant 0."""
    while x.op in (BROADCAST, DIMSHUFFLE):
        x = x.inputs[0]
    return x.op is CONSTANT and not x.params[0].array.any()


def pieces(x: Node) -> list[tuple[Range, Node]] | None:
    """The parts of which a matrix is put together along its last axis; None if it is of one piece."""
    if x.op is CONCATENATE and x.params[0] == x.type.ndim - 1:
        ends = list(itertools.accumulate(i.type.shape[-1] for i in x.inputs))
        return [(Range(e - i.type.shape[-1], e, 1, ends[-1]), i) for e, i in zip(ends, x.inputs, strict=True)]
    if x.op is OPS["add"] and x.inputs[0].type.shape == x.inputs[1].type.shape:
        found = [pieces(i) for i in x.inputs]
        if found[0] is None or found[1] is None:
            return None
        return found[0] + found[1]
    if x.op is not INC_SUBTENSOR or not is_zero(x.inputs[0]) or None in x.params[0]:
        return None
    ranges = read_ranges(x, 2)
    if ranges is None or not all(r.is_all for r in ranges[:-1]) or x.inputs[1].type.ndim != x.type.ndim:
        return None
    return [(ranges[-1], broadcast_to(x.inputs[1], [r.length for r in ranges]))]


def joined(node: Node) -> Any:
    """A sum of parts that fill an array, as the parts side by side."""
    if node.op is not OPS["add"] or node.type.ndim == 0 or node.type.shape[-1] in (None, *range(UNROLLED + 1)):
        return None
    parts = pieces(node)
    if parts is None or any(p.op is CONCATENATE for _, p in parts):
        return None
    parts.sort(key=lambda part: part[0].start)
    ends = [0, *[r.stop for r, _ in parts]]
    if (
        any(r.step != 1 or r.start != end for (r, _), end in zip(parts, ends, strict=False))
        or ends[-1] != node.type.shape[-1]
    ):
        return None
    return make(CONCATENATE, tuple([p for _, p in parts]), (node.type.ndim - 1,))


def split_product(node: Node) -> Any:
    """The product of a matrix put together from parts, as the sum of the products of the parts."""
    if node.op is not MATMUL or node.type.ndim != 2 or node.inputs[0].type.shape[-1] in (None, *range(UNROLLED + 1)):
        return None
    parts = pieces(node.inputs[0])
    if parts is None:
        return None
    b = node.inputs[1]
    products = [make(MATMUL, (p, sliced(b, [r, _all(b.type.shape[1])]))) for r, p in parts]
    return functools.reduce(operator.add, products)
