"""Ops that move elements without computing: dimshuffle, reshape, concatenate, and their composites."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from ostinato.errors import OstinatoTypeError, OstinatoValueError, ShapeError
from ostinato.graph import Node, make
from ostinato.ops.batch import Rows, sized
from ostinato.ops.leaf import as_operands, as_tensor, constant, describe, static_int
from ostinato.ops.linear import push_linear
from ostinato.ops.op import Op, Sample, register
from ostinato.ops.sizes import Size, as_size_nodes, product, read_sizes, same_size, sizes, static_shape
from ostinato.types import TensorType, promote

# What users find in `ostinato.tensor`.
__all__ = [
    "add_broadcast",
    "concatenate",
    "dimshuffle",
    "expand_dims",
    "flatten",
    "join",
    "reshape",
    "shape_padaxis",
    "shape_padleft",
    "shape_padright",
    "specify_shape",
    "squeeze",
    "swapaxes",
    "transpose",
    "unbroadcast_axes",
]

_A23 = np.arange(6.0).reshape(2, 3) - 2.5

# ---- dimshuffle -----------------------------------------------------------------------------------


def _dimshuffle_infer(x: Node, *, order: tuple[int | str, ...]) -> TensorType:
    for axis, size in enumerate(x.type.shape):
        if axis not in order and size not in (1, None):
            raise ShapeError(f"cannot drop dimension {axis} of {describe(x)}: its size is not 1")
    return x.type.with_shape(1 if o == "x" else x.type.shape[o] for o in order)


def _dimshuffle_numpy(x: Any, *, order: tuple[int | str, ...]) -> Any:
    dropped = tuple(a for a in range(np.ndim(x)) if a not in order)
    kept = [o for o in order if o != "x"]
    ranks = {o: i for i, o in enumerate(sorted(kept, key=int))}
    moved = np.transpose(np.squeeze(x, dropped) if dropped else x, [ranks[o] for o in kept])
    return np.expand_dims(moved, [i for i, o in enumerate(order) if o == "x"])


def _dimshuffle_vjp(g: Any, out: Node, x: Any, *, order: tuple[int | str, ...]) -> tuple[Any]:
    inverse = [order.index(a) if a in order else "x" for a in range(x.type.ndim)]
    return (dimshuffle(g, inverse),)


DIMSHUFFLE: Op = register(
    Op(
        "dimshuffle",
        infer=_dimshuffle_infer,
        numpy=_dimshuffle_numpy,
        vjp=_dimshuffle_vjp,
        jvp=push_linear,
        sizes=lambda x, *, order: [1 if o == "x" else sizes(x)[o] for o in order],
        batch=lambda rows, *, order: dimshuffle(rows.inputs[0], [0, *["x" if o == "x" else o + 1 for o in order]]),
        params=("order",),
        samples=(
            Sample(lambda x: make(DIMSHUFFLE, (x,), ((1, "x", 0),)), (_A23,)),
            Sample(lambda x: make(DIMSHUFFLE, (x,), ((1,),)), (_A23[:1],)),
        ),
        cheap=True,
        doc="Permute dimensions, insert ('x') and drop ones of size 1.",
    )
)


def dimshuffle(x: Any, *order: Any) -> Any:
    """Permute, insert and drop dimensions.

    Parameters
    ----------
    order : ints and "x"
        Per dimension of the result the dimension of `x` it comes from, or "x" for a new one of size 1.
        Dimensions of `x` that are left out must have size 1. One sequence of these is accepted too.
    """
    node = as_tensor(x)
    if len(order) == 1 and isinstance(order[0], (list, tuple)):
        order = tuple(order[0])
    pattern = tuple(o if o == "x" else normalize_axis(o, node.type.ndim) for o in order)
    kept = [o for o in pattern if o != "x"]
    if len(set(kept)) != len(kept):
        raise OstinatoValueError(f"dimshuffle{pattern} takes a dimension twice")
    if node.op is DIMSHUFFLE:  # a shuffle of a shuffle is one shuffle
        inner, node = node.params[0], node.inputs[0]
        pattern = tuple(o if o == "x" else inner[o] for o in pattern)
    if pattern == tuple(range(node.type.ndim)):
        return node
    return make(DIMSHUFFLE, (node,), (pattern,))


def normalize_axis(axis: Any, ndim: int) -> int:
    """A dimension's number counted from the front."""
    if not isinstance(axis, (int, np.integer)) or isinstance(axis, bool):
        raise OstinatoTypeError(f"a dimension is an int, not {axis!r}")
    if not -ndim <= axis < ndim:
        raise OstinatoValueError(f"there is no dimension {axis} in an array of {ndim} dimensions")
    return int(axis) % ndim


def transpose(x: Any, axes: Sequence[int] | None = None) -> Any:
    """`x` with its dimensions permuted by `axes`, reversed if not given."""
    node = as_tensor(x)
    order = range(node.type.ndim)[::-1] if axes is None else axes
    if sorted(normalize_axis(a, node.type.ndim) for a in order) != list(range(node.type.ndim)):
        raise OstinatoValueError(f"transpose: axes {tuple(order)} are no permutation of {node.type.ndim} dimensions")
    return dimshuffle(node, *order)


def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    """`x` with two dimensions exchanged."""
    node = as_tensor(x)
    order = list(range(node.type.ndim))
    a, b = normalize_axis(axis1, node.type.ndim), normalize_axis(axis2, node.type.ndim)
    order[a], order[b] = order[b], order[a]
    return dimshuffle(node, *order)


def expand_dims(x: Any, axis: int) -> Any:
    """`x` with a new dimension of size 1 at position `axis` of the result."""
    node = as_tensor(x)
    order: list[int | str] = list(range(node.type.ndim))
    order.insert(normalize_axis(axis, node.type.ndim + 1), "x")
    return dimshuffle(node, *order)


def squeeze(x: Any, axis: int | Sequence[int] | None = None) -> Any:
    """`x` without the dimensions `axis`, or without all whose size is known to be 1."""
    node = as_tensor(x)
    if axis is None:
        dropped = {i for i, s in enumerate(node.type.shape) if s == 1}
    else:
        given = [axis] if isinstance(axis, (int, np.integer)) else axis
        dropped = {normalize_axis(a, node.type.ndim) for a in given}
    return dimshuffle(node, [i for i in range(node.type.ndim) if i not in dropped])


def shape_padleft(x: Any, n_ones: int = 1) -> Any:
    """`x` with `n_ones` new dimensions of size 1 in front."""
    node = as_tensor(x)
    return dimshuffle(node, ["x"] * n_ones + list(range(node.type.ndim)))


def shape_padright(x: Any, n_ones: int = 1) -> Any:
    """`x` with `n_ones` new dimensions of size 1 at the end."""
    node = as_tensor(x)
    return dimshuffle(node, list(range(node.type.ndim)) + ["x"] * n_ones)


def shape_padaxis(x: Any, axis: int) -> Any:
    """`x` with a new dimension of size 1 at position `axis` of the result, as Theano spells `expand_dims`."""
    return expand_dims(x, axis)


# ---- reshape --------------------------------------------------------------------------------------

RESHAPE: Op = register(
    Op(
        "reshape",
        infer=lambda x, *wanted: TensorType(x.type.dtype, static_shape(wanted)),
        numpy=lambda x, *wanted: np.reshape(x, wanted),
        vjp=lambda g, out, x, *wanted: (reshape(g, sizes(x)), *[None] * len(wanted)),
        jvp=push_linear,
        sizes=lambda x, *wanted: wanted,
        batch=sized,
        samples=(
            Sample(lambda x, n: make(RESHAPE, (x, n, constant(2))), (_A23, np.int64(3))),
            Sample(lambda x: make(RESHAPE, (x,)), (np.array([[2.0]]),)),
        ),
        cheap=True,
    )
)


def reshape(x: Any, shape: Any, ndim: int | None = None) -> Any:
    """`x` with another shape of as many elements, in C order.

    Parameters
    ----------
    shape : ints or integer scalars (one of them may be the int -1: what is left), or an integer vector
    ndim : the length of `shape` where it is a vector of unknown length; else not needed.

    Raises
    ------
    ShapeError
        If the numbers of elements are known to differ; when a function runs if they turn out to.
    """
    node = as_tensor(x)
    if isinstance(shape, Node) and shape.type.shape == (None,) and ndim is not None:
        vector: Any = shape
        shape = [vector[i] for i in range(ndim)]
    wanted = read_sizes(shape)
    if ndim is not None and ndim != len(wanted):
        raise OstinatoValueError(f"reshape: {shape!r} gives {len(wanted)} dimension(s), not {ndim}")
    free = [i for i, s in enumerate(wanted) if static_int(s) == -1]
    if len(free) > 1 or any((static_int(s) or 0) < -1 for s in wanted):
        raise OstinatoValueError(f"reshape: at most one size may be -1, got {shape!r}")
    if free:
        wanted[free[0]] = _what_is_left(node, [s for i, s in enumerate(wanted) if i not in free])
    own = sizes(node)
    if len(own) == len(wanted) and all(map(same_size, own, wanted)):
        return node
    have, want = product(own), product(wanted)
    if isinstance(have, int) and isinstance(want, int) and have != want:
        raise ShapeError(f"reshape: {describe(node)} has {have} elements, not {want} as {shape!r} needs")
    return make(RESHAPE, (node, *as_size_nodes(wanted)))


def _what_is_left(node: Node, others: list[Size]) -> Size:
    own = list(sizes(node))
    for s in list(others):  # cancel what is the same on both sides
        twin = next((o for o in own if same_size(o, s)), None)
        if twin is not None:
            own.pop(next(i for i, o in enumerate(own) if o is twin))
            others.pop(next(i for i, o in enumerate(others) if o is s))
    total, rest = product(own), product(others)
    if isinstance(total, int) and isinstance(rest, int):
        if rest == 0 or total % rest:
            raise ShapeError(f"reshape: the elements of {describe(node)} do not split into rows of {rest}")
        return total // rest
    return total // rest if rest != 1 else total  # type: ignore[operator]


def flatten(x: Any, ndim: int = 1) -> Any:
    """`x` with its last dimensions merged so that `ndim` are left."""
    node = as_tensor(x)
    if not 1 <= ndim <= max(node.type.ndim, 1):
        raise OstinatoValueError(f"flatten: cannot make {ndim} dimensions of {describe(node)}")
    own = sizes(node)
    return reshape(node, [*own[: ndim - 1], product(own[ndim - 1 :])])


# ---- concatenate ----------------------------------------------------------------------------------


def _concatenate_infer(*inputs: Node, axis: int) -> TensorType:
    first = inputs[0].type
    wrong = [describe(i) for i in inputs if i.type.ndim != first.ndim or i.type.dtype != first.dtype]
    if wrong:
        raise OstinatoTypeError(f"concatenate: expected arrays like {describe(inputs[0])}, got {', '.join(wrong)}")
    shape: list[int | None] = []
    for a in range(first.ndim):
        known = [i.type.shape[a] for i in inputs]
        if a == axis:
            shape.append(None if None in known else sum(k for k in known if k is not None))
            continue
        found = {k for k in known if k is not None}
        if len(found) > 1:
            raise ShapeError(f"concatenate: sizes along axis {a} differ: {', '.join(map(describe, inputs))}")
        shape.append(found.pop() if found else None)
    return first.with_shape(shape)


def _concatenate_sizes(*inputs: Node, axis: int) -> list[Size]:
    along: Any = sizes(inputs[0])[axis]
    for i in inputs[1:]:
        along = along + sizes(i)[axis]
    return [along if a == axis else s for a, s in enumerate(sizes(inputs[0]))]


def _concatenate_vjp(g: Any, out: Node, *inputs: Node, axis: int) -> list[Any]:
    stops: list[Any] = list(accumulate(sizes(i)[axis] for i in inputs))
    lead = (slice(None),) * axis
    return [g[(*lead, slice(start, stop))] for start, stop in pairwise([None, *stops[:-1], None])]


def _concatenate_batch(rows: Rows, *, axis: int) -> Any:
    return rows.made([rows.all_steps(i) for i in range(len(rows.inputs))], axis + 1)


CONCATENATE: Op = register(
    Op(
        "concatenate",
        infer=_concatenate_infer,
        numpy=lambda *arrays, axis: np.concatenate(arrays, axis),
        vjp=_concatenate_vjp,
        jvp=push_linear,
        sizes=_concatenate_sizes,
        batch=_concatenate_batch,
        params=("axis",),
        samples=(
            Sample(lambda x, y: make(CONCATENATE, (x, y), (1,)), (_A23, _A23[:, :1])),
            Sample(lambda x, y: make(CONCATENATE, (x, y, x), (0,)), (_A23, _A23[:0])),
        ),
    )
)


def concatenate(tensors: Sequence[Any], axis: int = 0) -> Any:
    """Arrays joined along an existing dimension.

    Parameters
    ----------
    tensors : non-empty list or tuple of arrays
        Of one rank, not 0, and one shape but for `axis`. Their dtypes are promoted.
    axis : int

    Raises
    ------
    ShapeError
        If other sizes are known to differ; when a function runs if they turn out to.
    """
    if not isinstance(tensors, (list, tuple)) or not tensors:
        raise OstinatoTypeError("concatenate expects a non-empty list or tuple of arrays")
    from ostinato.ops.elementwise import cast

    nodes = as_operands(*tensors)
    if nodes[0].type.ndim == 0:
        raise OstinatoTypeError(f"concatenate: {describe(nodes[0])} has no dimension to join along; see stack")
    place = normalize_axis(axis, nodes[0].type.ndim)
    if len(nodes) == 1:
        return nodes[0]
    dtype = promote(*[n.type.dtype for n in nodes])
    return make(CONCATENATE, tuple([cast(n, dtype) for n in nodes]), (place,))


def join(axis: int, *tensors: Any) -> Any:
    """`concatenate(tensors, axis)`, as Theano spells it."""
    return concatenate(tensors, axis)


# ---- sizes that the user vouches for ----------------------------------------------------------------


def _specify_infer(x: Node, *wanted: Node) -> TensorType:
    shape = static_shape(wanted)
    if len(shape) != x.type.ndim:
        raise ShapeError(f"specify_shape: {describe(x)} has {x.type.ndim} dimension(s), not {len(shape)}")
    if any(own is not None and size is not None and own != size for own, size in zip(x.type.shape, shape, strict=True)):
        raise ShapeError(f"specify_shape: {describe(x)} cannot have shape {shape}")
    return x.type.with_shape(own if size is None else size for own, size in zip(x.type.shape, shape, strict=True))


def _specify_numpy(x: Any, *wanted: Any) -> Any:
    if np.shape(x) != wanted:
        raise ShapeError(f"expected shape {tuple(map(int, wanted))}, got {np.shape(x)}")
    return x


SPECIFY_SHAPE: Op = register(
    Op(
        "specify_shape",
        infer=_specify_infer,
        numpy=_specify_numpy,
        vjp=lambda g, out, x, *wanted: (g, *[None] * len(wanted)),
        jvp=push_linear,
        sizes=lambda x, *wanted: wanted,
        batch=sized,
        samples=(Sample(lambda x, n: make(SPECIFY_SHAPE, (x, n, constant(3))), (_A23, np.int64(2))),),
        cheap=True,
        doc="The array itself, whose sizes are checked at run time.",
    )
)


def specify_shape(x: Any, shape: Sequence[Any]) -> Any:
    """`x`, declared to have these sizes, which is checked at run time.

    Parameters
    ----------
    shape : one int, integer scalar or None (any size) per dimension

    Raises
    ------
    ShapeError
        If the sizes are known to differ; when a function runs if they turn out to.
    """
    node = as_tensor(x)
    own = sizes(node)
    if isinstance(shape, (list, tuple)) and len(shape) == len(own):
        shape = [o if s is None else s for s, o in zip(shape, own, strict=True)]
    wanted = read_sizes(shape)
    if len(own) == len(wanted) and all(map(same_size, own, wanted)):
        return node
    return make(SPECIFY_SHAPE, (node, *as_size_nodes(wanted)))


def add_broadcast(x: Any, *axes: int) -> Any:
    """`x`, whose dimensions `axes` are declared to have size 1; checked at run time."""
    node = as_tensor(x)
    chosen = {normalize_axis(a, node.type.ndim) for a in axes}
    return specify_shape(node, [1 if i in chosen else None for i in range(node.type.ndim)])


def unbroadcast_axes(x: Any, *axes: int) -> Any:
    """`x`: a size of 1 needs no undoing here, since a size that varies in a loop generalises by itself."""
    return as_tensor(x)
