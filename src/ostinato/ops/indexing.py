"""Reading and writing parts of arrays: basic slices (`subtensor`) and arrays of indices (`gather`).

Both come in three: read, set, add. Each of the six is the reverse of another one, so derivatives of
any order stay within this file. A write makes a new array; nothing is ever changed in place here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ostinato.errors import OstinatoIndexError, OstinatoTypeError, ShapeError
from ostinato.graph import Node, make
from ostinato.ops.batch import NoBatchError, Rows
from ostinato.ops.elementwise import cast, eq, lt, maximum, minimum, where
from ostinato.ops.leaf import as_int_scalar, as_tensor, constant, constant_value, describe, static_int
from ostinato.ops.linear import push_addition, push_linear, push_write
from ostinato.ops.movement import DIMSHUFFLE, dimshuffle, normalize_axis, shape_padleft
from ostinato.ops.op import Op, Rule, Sample, register
from ostinato.ops.sizes import (
    MAKE_VECTOR,
    Size,
    as_size_node,
    broadcast_sizes,
    broadcast_to,
    product,
    sizes,
    unbroadcast,
)
from ostinato.types import FLOATS, INTEGERS, TensorType, broadcast_static, promote

# What users find in `ostinato.tensor`.
__all__ = [
    "inc_subtensor",
    "set_subtensor",
    "take",
]

# How one dimension is indexed: None for a single index (one input), or which of start, stop and step
# of a slice are given (one input each).
Pattern = tuple[tuple[bool, bool, bool] | None, ...]
_FULL = (False, False, False)
_LARGEST = 2**63 - 1  # no size is larger
_A = np.arange(12.0).reshape(3, 4) - 4.5


def _unflatten(pattern: Pattern, values: Sequence[Any]) -> tuple[Any, ...]:
    """The index expression: one entry per dimension, a value or a slice of values and Nones."""
    rest = iter(values)
    return tuple([next(rest) if p is None else slice(*[next(rest) if given else None for given in p]) for p in pattern])


# ---- types and sizes ------------------------------------------------------------------------------


def _subtensor_infer(x: Node, *values: Node, pattern: Pattern) -> TensorType:
    shape = []
    for size, index in zip(x.type.shape, _unflatten(pattern, values), strict=True):
        if isinstance(index, slice):
            shape.append(_static_length(index, size))
        elif size is not None and (i := static_int(index)) is not None and not -size <= i < size:
            raise OstinatoIndexError(f"index {i} is out of bounds for size {size} of {describe(x)}")
    return x.type.with_shape(shape)


def _static_length(index: slice, size: int | None) -> int | None:
    parts = [index.start, index.stop, index.step]
    known = [None if p is None else static_int(p) for p in parts]
    if size is None or any(k is None for k, p in zip(known, parts, strict=True) if p is not None):
        return None
    return len(range(*slice(*known).indices(size)))


def is_reversal(node: Node) -> bool:
    """Whether a node is `x[::-1]`: all of an array, from the last row to the first."""
    if node.op is not SUBTENSOR or node.params[0][:1] != ((False, False, True),):
        return False
    return static_int(node.inputs[1]) == -1 and all(p == _FULL for p in node.params[0][1:])


def is_start(node: Node) -> bool:
    """Whether a node is `x[:n]`: the first rows of an array."""
    if node.op is not SUBTENSOR or not node.params[0] or node.params[0][0] != (False, True, False):
        return False
    return all(p == _FULL for p in node.params[0][1:])


def is_last(node: Node) -> bool:
    """Whether a node is `x[-1]`: the last row of an array."""
    if node.op is not SUBTENSOR or not node.params[0] or node.params[0][0] is not None:
        return False
    return static_int(node.inputs[1]) == -1 and all(p == _FULL for p in node.params[0][1:])


def _subtensor_sizes(x: Node, *values: Node, pattern: Pattern) -> list[Size | None]:
    pairs = zip(sizes(x), _unflatten(pattern, values), strict=True)
    return [_length(index, size) for size, index in pairs if isinstance(index, slice)]


def _length(index: slice, size: Any) -> Any:
    """How many elements a slice takes of a dimension, as an expression; None if only the value knows."""
    step = 1 if index.step is None else static_int(index.step)
    if index.start is None and index.stop is None and step in (1, -1):
        return size
    if not step:
        return None
    span = _span_up(index, size) if step > 0 else _span_down(index, size)
    stride = min(step if step > 0 else -step, _LARGEST)
    return span if stride == 1 else (span - 1) // stride + 1


def _span_up(index: slice, size: Any) -> Any:
    """How many elements lie between start and stop of an upward slice."""
    start = static_int(index.start) if index.start is not None else 0
    if index.stop is None and start is not None and start > 0:
        return _shortened(size, start)
    stop = size if index.stop is None else _bound(index.stop, size, 0)
    return stop if start == 0 else maximum(stop - _bound(index.start, size, 0), 0)


def _span_down(index: slice, size: Any) -> Any:
    """How many elements lie between start and stop of a downward slice."""
    start = as_size_node(size) - 1 if index.start is None else _bound(index.start, size, -1)
    return start + 1 if index.stop is None else maximum(start - _bound(index.stop, size, -1), 0)


def _bound(bound: Any, size: Any, lowest: int) -> Any:
    """Start or stop of a slice as a position: at least `lowest`, less than `lowest + size + 1`."""
    known, size = static_int(bound), as_size_node(size)
    if known is None:
        return maximum(minimum(where(lt(bound, 0), bound + size, bound), size + lowest), lowest)
    if known < 0 == lowest:
        return _shortened(size, -known)
    return minimum(size + lowest, known) if known >= 0 else maximum(size + known, lowest)


def _shortened(size: Any, by: int) -> Any:
    """The size less a number, or 0; of one form if it was shortened before: x[2:] and x[1:][:-1] have one size."""
    base, offset = as_size_node(size), -by
    if base.op.name == "maximum" and static_int(base.inputs[1]) == 0:
        base = base.inputs[0]
    while base.op.name in ("add", "sub") and (known := static_int(base.inputs[1])) is not None:
        offset += known if base.op.name == "add" else -known
        base = base.inputs[0]
    return maximum(base + offset, 0)


# ---- for many steps at once ---------------------------------------------------------------------


def _subtensor_batch(rows: Rows, *, pattern: Pattern) -> Any:
    """Where an index changes from step to step, it picks elements after the slices are taken."""
    x, values = rows.inputs[0], rows.inputs[1:]
    if not any(rows.varies[1:]):
        own: Pattern = (_FULL, *pattern) if rows.varies[0] else pattern
        return make(SUBTENSOR, (x, *values), (own,))
    if any(v for v, scalar in zip(rows.varies[1:], _are_single(pattern), strict=True) if not scalar):
        raise NoBatchError("a slice whose bounds change from step to step")
    rest = iter(zip(values, rows.varies[1:], strict=True))
    left: list[tuple[bool, bool, bool] | None] = [_FULL] if rows.varies[0] else []
    taken, index, axes = [], [], []
    dimension = len(left)
    for entry in pattern:
        own_values = [next(rest) for _ in range(1 if entry is None else sum(entry))]
        if entry is None and own_values[0][1]:
            index.append(own_values[0][0])
            axes.append(dimension)
            entry = _FULL
        else:
            taken += [v for v, _ in own_values]
        left.append(entry)
        dimension += entry is not None
    part = make(SUBTENSOR, (x, *taken), (tuple(left),))
    if rows.varies[0]:
        index, axes = [_counted(rows.steps), *index], [0, *axes]
    result = _gather(part, index, tuple(axes))
    place = axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0
    return dimshuffle(result, [place, *[a for a in range(result.type.ndim) if a != place]])


def _are_single(pattern: Pattern) -> list[bool]:
    """For each value of an index whether it is a single position, not a bound of a slice."""
    return [entry is None for entry in pattern for _ in range(1 if entry is None else sum(entry))]


def _counted(steps: Any, ndim: int = 0) -> Any:
    """The numbers of the steps, for indices of `ndim` dimensions."""
    from ostinato.ops.creation import arange

    return dimshuffle(arange(steps), [0, *["x"] * ndim])


def _write_batch(rows: Rows, *, pattern: Pattern) -> Any:
    x, node = rows.all_steps(0), rows.node
    if any(rows.varies[2:]):
        if any(entry not in (None, _FULL) for entry in pattern):
            raise NoBatchError("a write to slices by an index that changes from step to step")
        axes = [0, *[1 + a for a, entry in enumerate(pattern) if entry is None]]
        index = [
            i if varies else dimshuffle(i, "x") for i, varies in zip(rows.inputs[2:], rows.varies[2:], strict=True)
        ]
        part = node.type.ndim - len(index)
        advanced = SCATTER_SET if node.op is SET_SUBTENSOR else SCATTER_ADD
        return make(advanced, (x, rows.padded(1, part), _counted(rows.steps), *index), (tuple(axes),))
    y = rows.padded(1, node.type.ndim - sum(entry is None for entry in pattern))
    return rows.made((x, y, *rows.inputs[2:]), (_FULL, *pattern))


def _gather_batch(rows: Rows, *, axes: tuple[int, ...], sliced: bool) -> Any:
    """The place of the picked dimensions among the others is that of NumPy's rule for the node of one step."""
    rank = max(i.type.ndim for i in rows.node.inputs[1:])
    index = [rows.padded(i, rank) for i in range(1, len(rows.inputs))]
    place = axes[0] if axes == tuple(range(axes[0], axes[0] + len(axes))) else 0
    if rows.varies[0]:
        result = _gather(rows.inputs[0], [_counted(rows.steps, rank), *index], (0, *[a + 1 for a in axes]), sliced)
        picked, rest = list(range(1, 1 + rank)), list(range(1 + rank, result.type.ndim))
        return dimshuffle(result, [0, *rest[:place], *picked, *rest[place:]])
    result = _gather(rows.inputs[0], index, axes, sliced)
    return dimshuffle(result, [place, *[a for a in range(result.type.ndim) if a != place]])


def _scatter_batch(rows: Rows, *, axes: tuple[int, ...]) -> Any:
    """The picked dimensions come first of all; so they must already stand first in what is written."""
    node = rows.node
    rank = max(i.type.ndim for i in node.inputs[2:])
    if axes[0] != 0 and axes == tuple(range(axes[0], axes[0] + len(axes))):
        raise NoBatchError("a write by arrays of indices that is not along the first dimension")
    index = [_counted(rows.steps, rank), *[rows.padded(i, rank) for i in range(2, len(rows.inputs))]]
    y = rows.padded(1, rank + node.type.ndim - len(axes))
    return rows.made((rows.all_steps(0), y, *index), (0, *[a + 1 for a in axes]))


# ---- basic indexing -------------------------------------------------------------------------------


def _subtensor_numpy(x: Any, *values: Any, pattern: Pattern) -> Any:
    return x[_unflatten(pattern, values)] if pattern else x


def _written(x: Any) -> np.ndarray[Any, Any]:
    return np.array(x)


def _set_numpy(x: Any, y: Any, *values: Any, pattern: Pattern) -> Any:
    result = _written(x)
    result[_unflatten(pattern, values)] = y
    return result


def _inc_numpy(x: Any, y: Any, *values: Any, pattern: Pattern) -> Any:
    result = _written(x)
    result[_unflatten(pattern, values)] += y
    return result


def _subtensor_vjp(g: Any, out: Node, x: Node, *values: Node, pattern: Pattern) -> list[Any]:
    return [make(INC_SUBTENSOR, (_zeros_like(x), g, *values), (pattern,)), *[None] * len(values)]


def _set_vjp(g: Any, out: Node, x: Node, y: Node, *values: Node, pattern: Pattern) -> list[Any]:
    part = make(SUBTENSOR, (g, *values), (pattern,))
    hole = make(SET_SUBTENSOR, (g, constant(0, g.type.dtype), *values), (pattern,))
    return [hole, unbroadcast(part, y), *[None] * len(values)]


def _inc_vjp(g: Any, out: Node, x: Node, y: Node, *values: Node, pattern: Pattern) -> list[Any]:
    part = make(SUBTENSOR, (g, *values), (pattern,))
    return [g, unbroadcast(part, y), *[None] * len(values)]


def _zeros_like(x: Node) -> Any:
    return broadcast_to(constant(0, x.type.dtype), sizes(x))


def _write_infer(x: Node, y: Node, *values: Node, **params: Any) -> TensorType:
    """The type of a write is that of x; y must broadcast to the part that is written."""
    read = _gather_infer if "axes" in params else _subtensor_infer
    part = read(x, *values, **params)
    if y.type.dtype != x.type.dtype:
        raise OstinatoTypeError(f"cannot write {describe(y)} into {describe(x)}")
    try:
        joined = broadcast_static([part.shape, y.type.shape])
    except ShapeError as error:
        raise ShapeError(f"cannot write {describe(y)} into a part of shape {part.shape}: {error}") from None
    if len(joined) > part.ndim or any(
        p is not None and j is not None and j > p for j, p in zip(joined, part.shape, strict=True)
    ):
        raise ShapeError(f"cannot write {describe(y)} into a part of type {part} of {describe(x)}")
    return x.type


_SLICE_SAMPLES = (
    ((None, _FULL), (1,)),
    (((True, True, False), (False, False, True)), (1, 3, -1)),
    ((_FULL, (True, False, True)), (-3, 2)),
)


def _basic_samples(write: bool) -> tuple[Sample, ...]:
    """Each sample index, applied to a matrix; for a write the value is a scalar."""

    def sample(pattern: Pattern, index: tuple[int, ...]) -> Sample:
        def build(op: Op, *variables: Node) -> Any:
            return make(op, (*variables, *[constant(i, "int64") for i in index]), (pattern,))

        return Sample(build, (_A, np.float64(2.5)) if write else (_A,))

    return tuple(sample(p, i) for p, i in _SLICE_SAMPLES)


def _bind(op_of: Rule, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """Samples whose builder is handed the op itself, which does not exist yet where they are written."""

    def bound(build: Rule) -> Rule:
        return lambda *variables: build(op_of(), *variables)

    return tuple(Sample(bound(s.build), s.arrays, s.differentiable) for s in samples)


SUBTENSOR: Op = register(
    Op(
        "subtensor",
        infer=_subtensor_infer,
        numpy=_subtensor_numpy,
        vjp=_subtensor_vjp,
        jvp=push_linear,
        sizes=_subtensor_sizes,
        batch=_subtensor_batch,
        params=("pattern",),
        samples=_bind(lambda: SUBTENSOR, _basic_samples(write=False)),
        cheap=True,
        doc="The part of an array that ints and slices take.",
    )
)
SET_SUBTENSOR: Op = register(
    Op(
        "set_subtensor",
        infer=_write_infer,
        numpy=_set_numpy,
        vjp=_set_vjp,
        jvp=push_write,
        sizes=lambda x, y, *values, pattern: sizes(x),
        batch=_write_batch,
        params=("pattern",),
        samples=_bind(lambda: SET_SUBTENSOR, _basic_samples(write=True)),
    )
)
INC_SUBTENSOR: Op = register(
    Op(
        "inc_subtensor",
        infer=_write_infer,
        numpy=_inc_numpy,
        vjp=_inc_vjp,
        jvp=push_addition,
        sizes=lambda x, y, *values, pattern: sizes(x),
        batch=_write_batch,
        params=("pattern",),
        samples=_bind(lambda: INC_SUBTENSOR, _basic_samples(write=True)),
    )
)

# ---- indexing by arrays ---------------------------------------------------------------------------


def _gathered(whole: Sequence[Any], picked: Sequence[Any], axes: tuple[int, ...]) -> list[Any]:
    """Where the dimensions of the index arrays go: in the place of adjacent axes, else in front (NumPy's rule)."""
    kept = [w for i, w in enumerate(whole) if i not in axes]
    place = axes[0] if axes == tuple(range(axes[0], axes[0] + len(axes))) else 0
    return [*kept[:place], *picked, *kept[place:]]


def _gather_infer(x: Node, *indices: Node, axes: tuple[int, ...], sliced: bool = False) -> TensorType:
    try:
        picked = broadcast_static([i.type.shape for i in indices])
    except ShapeError as error:
        named = " and ".join(map(describe, indices))
        raise ShapeError(f"the indices {named} of {describe(x)} do not fit: {error}") from None
    return x.type.with_shape(_gathered(x.type.shape, picked, axes))


def _gather_index(ndim: int, indices: Sequence[Any], axes: tuple[int, ...]) -> tuple[Any, ...]:
    index: list[Any] = [slice(None)] * ndim
    for axis, array in zip(axes, indices, strict=True):
        index[axis] = array
    return tuple(index)


def _gather_numpy(x: Any, *indices: Any, axes: tuple[int, ...], sliced: bool) -> Any:
    return x[_gather_index(np.ndim(x), indices, axes)]


def _scatter_set_numpy(x: Any, y: Any, *indices: Any, axes: tuple[int, ...]) -> Any:
    result = _written(x)
    result[_gather_index(result.ndim, indices, axes)] = y
    return result


def _scatter_add_numpy(x: Any, y: Any, *indices: Any, axes: tuple[int, ...]) -> Any:
    result = _written(x)
    np.add.at(result, _gather_index(result.ndim, indices, axes), y)
    return result


def _gather(x: Node, indices: Sequence[Node], axes: tuple[int, ...], sliced: bool = False) -> Any:
    return make(GATHER, (x, *indices), (axes, sliced))


def _gather_vjp(g: Any, out: Node, x: Node, *indices: Node, axes: tuple[int, ...], sliced: bool) -> list[Any]:
    return [make(SCATTER_ADD, (_zeros_like(x), g, *indices), (axes,)), *[None] * len(indices)]


def _scatter_set_vjp(g: Any, out: Node, x: Node, y: Node, *indices: Node, axes: tuple[int, ...]) -> list[Any]:
    """Where an element is written more than once, the last write counts, and only it gets a derivative."""
    part = _gather(g, indices, axes)
    shape = sizes(part)
    from ostinato.ops.creation import arange

    order = arange(product(shape)).reshape(shape)
    winners = make(SCATTER_SET, (broadcast_to(constant(-1, "int64"), sizes(x)), order, *indices), (axes,))
    gy = where(eq(_gather(winners, indices, axes), order), part, 0)
    hole = make(SCATTER_SET, (g, constant(0, g.type.dtype), *indices), (axes,))
    return [hole, unbroadcast(gy, y), *[None] * len(indices)]


def _scatter_add_vjp(g: Any, out: Node, x: Node, y: Node, *indices: Node, axes: tuple[int, ...]) -> list[Any]:
    return [g, unbroadcast(_gather(g, indices, axes), y), *[None] * len(indices)]


_I, _J = np.array([[2, 0], [2, 1]]), np.array([3, 0])
_READS = (
    Sample(lambda op, x, i: make(op, (x, i), ((0,), False)), (_A, _I)),
    Sample(lambda op, x, i, j: make(op, (x, i, j), ((0, 1), False)), (_A, _I, _J)),
    Sample(lambda op, x, i, j: make(op, (x, i, j), ((0, 2), False)), (_A.reshape(3, 1, 4), _I, _J)),
)
_WRITES = (
    Sample(lambda op, x, y, i: make(op, (x, y, i), ((0,),)), (_A, np.arange(16.0).reshape(2, 2, 4), _I)),
    Sample(lambda op, x, y, i, j: make(op, (x, y, i, j), ((0, 1),)), (_A, np.array([1.5, -2.0]), _I, _J)),
)
GATHER: Op = register(
    Op(
        "gather",
        infer=_gather_infer,
        numpy=_gather_numpy,
        vjp=_gather_vjp,
        jvp=push_linear,
        sizes=lambda x, *indices, axes, sliced: _gathered(sizes(x), broadcast_sizes(indices), axes),
        batch=_gather_batch,
        params=("axes", "sliced"),
        samples=_bind(lambda: GATHER, _READS),
        doc="Elements at arrays of positions along `axes`. `sliced` is for writes alone and changes no value: "
        "slices and new axes of the same index made x, so what is written to is the array that x is a part of.",
    )
)
SCATTER_SET: Op = register(
    Op(
        "scatter_set",
        infer=_write_infer,
        numpy=_scatter_set_numpy,
        vjp=_scatter_set_vjp,
        jvp=push_write,
        sizes=lambda x, y, *indices, axes: sizes(x),
        batch=_scatter_batch,
        params=("axes",),
        samples=_bind(lambda: SCATTER_SET, _WRITES),
        doc="A copy of an array with elements at arrays of indices replaced; of repeated writes the last counts.",
    )
)
SCATTER_ADD: Op = register(
    Op(
        "scatter_add",
        infer=_write_infer,
        numpy=_scatter_add_numpy,
        vjp=_scatter_add_vjp,
        jvp=push_addition,
        sizes=lambda x, y, *indices, axes: sizes(x),
        batch=_scatter_batch,
        params=("axes",),
        samples=_bind(lambda: SCATTER_ADD, _WRITES),
        doc="A copy of an array with values added at arrays of indices; repeated ones all count.",
    )
)

# ---- what users write: x[...] ---------------------------------------------------------------------


class _Entry(NamedTuple):
    """One entry of an index, with the dimension of x that it takes (None for a new axis)."""

    value: Any  # a slice, a scalar node, an array node, or None
    axis: int | None


def getitem(x: Any, index: Any) -> Any:
    """`x[index]` by NumPy's rules: ints, slices, Ellipsis, None, integer arrays; no boolean masks."""
    node = as_tensor(x)
    if node.op is MAKE_VECTOR and (element := _element(node, index)) is not None:
        return element
    entries = _aligned(node, index)
    if any(isinstance(e.value, Node) and e.value.type.ndim for e in entries):
        return _advanced(node, entries)
    result = _basic(node, [e for e in entries if e.axis is not None])
    if any(e.axis is None for e in entries):
        kept = iter(range(result.type.ndim))
        result = dimshuffle(
            result, ["x" if e.axis is None else next(kept) for e in entries if not isinstance(e.value, Node)]
        )
    return result


def _element(vector: Node, index: Any) -> Any:
    """An element (or elements) of a symbolic shape, taken apart without an op."""
    n = len(vector.inputs)
    if isinstance(index, (int, np.integer)) and not isinstance(index, bool) and -n <= index < n:
        return vector.inputs[int(index)]
    if isinstance(index, slice) and all(p is None or isinstance(p, int) for p in (index.start, index.stop, index.step)):
        return make(MAKE_VECTOR, vector.inputs[index])
    return None


def _aligned(x: Node, index: Any) -> list[_Entry]:
    """The index as one entry per dimension of x and per new axis, checked."""
    given = list(index) if isinstance(index, tuple) else [index]
    read = [_read_entry(x, g) for g in given]
    taken = len([r for r in read if r is not None and r is not Ellipsis])
    if taken > x.type.ndim:
        raise OstinatoIndexError(f"{taken} indices are too many for {describe(x)}")
    if read.count(Ellipsis) > 1:
        raise OstinatoIndexError("an index can have one Ellipsis ('...') only")
    place = read.index(Ellipsis) if Ellipsis in read else len(read)
    read[place : place + 1] = [slice(None)] * (x.type.ndim - taken)
    axes = iter(range(x.type.ndim))
    return [_Entry(r, None if r is None else next(axes)) for r in read]


def _read_entry(x: Node, entry: Any) -> Any:
    if entry is None or entry is Ellipsis:
        return entry
    if isinstance(entry, slice):
        parts = [
            None if p is None else as_int_scalar(p, "a bound of a slice") for p in (entry.start, entry.stop, entry.step)
        ]
        if parts[2] is not None and static_int(parts[2]) == 0:
            raise OstinatoIndexError("the step of a slice cannot be 0")
        return slice(*parts)
    node = as_tensor(entry)
    if node.type.dtype == "bool":
        raise OstinatoIndexError(
            f"{describe(x)} is indexed by booleans: how many elements that takes depends on their values. "
            "Use where(condition, x, 0) to mask, or an array of integer positions"
        )
    value = constant_value(node)
    if value is not None and value.size == 0 and value.dtype.kind == "f":
        return constant(value, "int64")  # the empty list
    if node.type.dtype not in INTEGERS:
        raise OstinatoIndexError(f"an index is an integer, a slice or an integer array, not {describe(node)}")
    return as_int_scalar(node, "an index") if node.type.ndim == 0 else cast(node, "int64")


def _flatten(entries: Sequence[_Entry]) -> tuple[Pattern, tuple[Any, ...]]:
    pattern: list[tuple[bool, bool, bool] | None] = []
    values: list[Any] = []
    for entry in entries:
        if isinstance(entry.value, slice):
            parts = [entry.value.start, entry.value.stop, entry.value.step]
            given = [p is not None for p in parts]
            pattern.append((given[0], given[1], given[2]))
            values += [p for p in parts if p is not None]
        else:
            pattern.append(None)
            values.append(entry.value)
    return tuple(pattern), tuple(values)


def _basic(x: Node, entries: Sequence[_Entry]) -> Any:
    pattern, values = _flatten(entries)
    return make(SUBTENSOR, (x, *values), (pattern,))


def _advanced(x: Any, entries: list[_Entry]) -> Any:
    """Slices and new axes first: then every entry has a dimension, and arrays are left."""
    sliced = any(not isinstance(e.value, Node) and e.value != slice(None) for e in entries)
    if sliced:
        x = _basic(x, [_slice_only(e) for e in entries if e.axis is not None])
        x = dimshuffle(x, ["x" if e.axis is None else e.axis for e in entries])
    picked = {axis: e.value for axis, e in enumerate(entries) if isinstance(e.value, Node)}
    return _gather(x, tuple(picked.values()), tuple(picked), sliced)


def _slice_only(entry: _Entry) -> _Entry:
    return _Entry(slice(None), entry.axis) if isinstance(entry.value, Node) else entry


def take(x: Any, indices: Any, axis: int | None = None) -> Any:
    """The elements of `x` at integer `indices` along `axis`, or of the flattened array."""
    node = as_tensor(x)
    if axis is None:
        return getitem(node.reshape((-1,)), indices)
    return getitem(node, (*(slice(None),) * normalize_axis(axis, node.type.ndim), indices))


# ---- writing --------------------------------------------------------------------------------------


def set_subtensor(part: Any, y: Any) -> Any:
    """`x` with the part `x[...]` replaced by `y`: `set_subtensor(x[2:], 0)` is a new array.

    Parameters
    ----------
    part : the expression `x[...]`; which part of what is read off it.
    y : broadcasts to the part. Its dtype must convert to that of `x`. Where an element is named twice, the
        last value counts.

    Raises
    ------
    OstinatoTypeError
        If `part` is no such expression, or `y` would lose its kind in the dtype of `x`.
    ShapeError
        If `y` is known not to broadcast to the part.
    """
    return _write(part, y, SET_SUBTENSOR, SCATTER_SET, "set_subtensor")


def inc_subtensor(part: Any, y: Any) -> Any:
    """`x` with `y` added to the part `x[...]`; where indices repeat, all additions count.

    Parameters and errors are those of `set_subtensor`.
    """
    return _write(part, y, INC_SUBTENSOR, SCATTER_ADD, "inc_subtensor")


def _write(part: Any, y: Any, basic: Op, advanced: Op, what: str) -> Any:
    value = as_tensor(y)
    shuffled = isinstance(part, Node) and part.op is DIMSHUFFLE and part.inputs[0].op is SUBTENSOR
    if shuffled and value.type.ndim:
        value = _unshuffled(value, part)
    inner: Any = part.inputs[0] if shuffled else part
    if not isinstance(inner, Node) or inner.op not in (SUBTENSOR, GATHER):
        shown = describe(part) if isinstance(part, Node) else repr(part)
        raise OstinatoTypeError(f"{what} expects the part to be written as x[...], got {shown}")
    x, indices = inner.inputs[0], inner.inputs[1:]
    value = _fitting(value, x, what)
    if inner.op is SUBTENSOR:
        return make(basic, (x, value, *indices), inner.params)
    axes, sliced = inner.params
    written = make(advanced, (x, value, *indices), (axes,))
    return _write(x, written, SET_SUBTENSOR, SCATTER_SET, what) if sliced else written


def _unshuffled(y: Any, part: Node) -> Any:
    """What is to be written into a slice with new axes, in the order of the dimensions of the slice."""
    if y.type.ndim > part.type.ndim:
        raise ShapeError(f"cannot write {describe(y)} into a part of type {part.type}")
    order = part.params[0]
    y = shape_padleft(y, part.type.ndim - y.type.ndim)
    return dimshuffle(y, [order.index(a) if a in order else "x" for a in range(part.inputs[0].type.ndim)])


def _fitting(value: Any, x: Node, what: str) -> Any:
    """A value to write, in the dtype of what it is written into."""
    own, known = x.type.dtype, constant_value(value)
    if known is not None and value.params[0].weak:
        if not _number_fits(known, own):
            raise OstinatoTypeError(f"{what}: the number {known} does not fit into {describe(x)}")
    elif promote(own, value.type.dtype) != own:
        raise OstinatoTypeError(
            f"{what}: {describe(value)} does not fit into {describe(x)}; cast it with .astype({own!r})"
        )
    return cast(value, own)


def _number_fits(number: Any, dtype: str) -> bool:
    """Whether a bare number may be written into an array of a dtype."""
    if dtype in FLOATS or number.dtype.kind == "f":
        return dtype in FLOATS
    return dtype == "bool" or bool(np.iinfo(dtype).min <= number <= np.iinfo(dtype).max)
