"""Sizes of nodes as expressions, and what broadcasting needs of them.

`sizes(node)` gives one int (where the type knows it) or one int64 scalar node per dimension, expressed
in the sizes of the inputs wherever an op's rule allows. Two sizes are known to be equal when they are
the same object, since nodes are interned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ostinato.errors import OstinatoTypeError, ShapeError
from ostinato.graph import Node, make, topological
from ostinato.ops.batch import Rows
from ostinato.ops.leaf import as_int_scalar, as_tensor, constant, describe, static_int
from ostinato.ops.op import Op, Sample, params_of, register
from ostinato.types import INTEGERS, TensorType, TupleType

Size = int | Node

SIZE: Op = register(
    Op(
        "size",
        infer=lambda x, *, axis: TensorType("int64", ()),
        numpy=lambda x, *, axis: np.int64(np.shape(x)[axis]),
        params=("axis",),
        samples=(Sample(lambda x: make(SIZE, (x,), (1,)), (np.zeros((2, 3)),)),),
        cheap=True,
        connected=False,
        doc="The size of one dimension.",
    )
)


def _make_vector_batch(rows: Rows) -> Any:
    from ostinato.ops.composite import stack

    return stack([rows.all_steps(i) for i in range(len(rows.inputs))], axis=1)


MAKE_VECTOR: Op = register(
    Op(
        "make_vector",
        infer=lambda *scalars: TensorType("int64", (len(scalars),)),
        numpy=lambda *scalars: np.array(scalars, "int64"),
        sizes=lambda *scalars: (len(scalars),),
        batch=_make_vector_batch,
        samples=(Sample(lambda a, b: make(MAKE_VECTOR, (a, b)), (np.int64(3), np.int64(5))),),
        cheap=True,
        doc="int64 scalars as a vector: the symbolic shape of an array.",
    )
)


def sizes(node: Node) -> tuple[Size, ...]:
    """The sizes of a node's value, ints where the type knows them."""
    if node._sizes is not None:
        return node._sizes
    # Rules ask for the sizes of inputs: fill those in first, from the leaves up, so nothing recurses.
    for n in topological([node], stop=_Known()) if any(i._sizes is None for i in node.inputs) else [node]:
        if n._sizes is None and not isinstance(n.type, TupleType):
            n._sizes = _own_sizes(n)
    assert node._sizes is not None, "the results of a loop have sizes, not the loop"
    return node._sizes


class _Known:
    """The set of nodes whose sizes are known already."""

    def __contains__(self, node: object) -> bool:
        return isinstance(node, Node) and node._sizes is not None


def _own_sizes(node: Node) -> tuple[Size, ...]:
    shape = node.type.shape
    if None not in shape:
        return tuple(shape)
    ruled = node.op.sizes(*node.inputs, **params_of(node)) if node.op.sizes else [None] * len(shape)
    chosen: list[Size] = []
    for axis, (known, size) in enumerate(zip(shape, ruled, strict=True)):
        if known is None and size is not None:
            known = static_int(size)
        chosen.append(known if known is not None else size if size is not None else make(SIZE, (node,), (axis,)))
    return tuple(chosen)


def as_size_node(size: Size) -> Any:
    return size if isinstance(size, Node) else constant(size, "int64")


def as_size_nodes(wanted: Sequence[Size]) -> tuple[Any, ...]:
    return tuple([as_size_node(s) for s in wanted])


def static_shape(wanted: Sequence[Size]) -> tuple[int | None, ...]:
    return tuple([static_int(s) for s in wanted])


def shape_vector(x: Any) -> Any:
    """The shape of `x` as an int64 vector of known length."""
    return make(MAKE_VECTOR, as_size_nodes(sizes(x)))


def read_sizes(wanted: Any, what: str = "a shape") -> list[Size]:
    """Sizes from what a user gives as a shape: ints, integer scalars, a sequence of these or a vector."""
    if isinstance(wanted, Node) and wanted.type.ndim == 1:
        return _sizes_of_vector(wanted, what)
    if not isinstance(wanted, (list, tuple, np.ndarray)):
        wanted = [wanted]
    read: list[Size] = []
    for size in wanted:
        node = as_int_scalar(size, f"a size in {what}")
        known = static_int(node)
        read.append(node if known is None else known)
    return read


def _sizes_of_vector(vector: Any, what: str) -> list[Size]:
    if vector.op is MAKE_VECTOR:
        return [s if (known := static_int(s)) is None else known for s in vector.inputs]
    length = vector.type.shape[0]
    if vector.type.dtype not in INTEGERS or length is None:
        raise OstinatoTypeError(
            f"{what} is given by a vector of integers of known length, got {describe(vector)}; "
            "give a tuple of scalars instead"
        )
    return read_sizes([vector[i] for i in range(length)], what)


def product(wanted: Sequence[Size]) -> Size:
    """The number of elements of an array of these sizes."""
    known = math.prod(s for s in wanted if not isinstance(s, Node))
    result: Any = known
    for s in wanted:
        if isinstance(s, Node):
            result = s if result is known and known == 1 else s * result
    return result


def known_size(size: Size) -> Size:
    """A size as an int, if that is known of it."""
    known = static_int(size)
    return size if known is None else known


def same_size(a: Size, b: Size) -> bool:
    """Whether two sizes are known to be equal."""
    return a is b or (not isinstance(a, Node) and not isinstance(b, Node) and a == b)


def broadcast_sizes(inputs: Sequence[Node]) -> tuple[Size, ...]:
    """The sizes of the elementwise result of `inputs`."""
    ndim = max((i.type.ndim for i in inputs), default=0)
    padded = [(1,) * (ndim - i.type.ndim) + sizes(i) for i in inputs]
    return tuple([_broadcast_size([p[axis] for p in padded]) for axis in range(ndim)])


def _broadcast_size(candidates: list[Size]) -> Size:
    for s in candidates:
        if not isinstance(s, Node) and s != 1:
            return s
    distinct = list(dict.fromkeys(s for s in candidates if isinstance(s, Node)))
    if not distinct:
        return 1
    result: Any = distinct[0]
    for s in distinct[1:]:
        result = _met(result, s)
    return result


def _met(a: Any, b: Any) -> Any:
    """The size of what two dimensions broadcast to.

    What was met before is met again in nearly every operation that follows: the size stays what it is then, and does
    not grow with the number of operations. Sizes that do not fit make the operation itself fail, whatever is said here.
    """
    if a is b or static_int(b) == 1:
        return a
    if (known := static_int(a)) is not None:
        return b if known == 1 else a
    of_a, of_b = _parts(a), _parts(b)
    if of_b <= of_a:
        return a
    if of_a <= of_b:
        return b
    from ostinato.ops.elementwise import eq, where

    return where(eq(a, 1), b, a)


_PARTS: WeakKeyDictionary[Node, frozenset[Node]] = WeakKeyDictionary()


def _parts(size: Any) -> frozenset[Node]:
    """The sizes that have met in one."""
    if not is_met(size):
        return frozenset((size,))
    if size not in _PARTS:
        for node in topological([size], stop=_PARTS):
            if node not in _PARTS and is_met(node):
                _PARTS[node] = frozenset().union(*[_PARTS.get(i) or (i,) for i in node.inputs[1:]])
    return _PARTS[size]


def met_again(node: Node) -> Any:
    """What becomes of the size of what two dimensions broadcast to when more is known of these; else None."""
    return _met(node.inputs[2], node.inputs[1]) if is_met(node) else None


def is_met(node: Node) -> bool:
    """Whether a node is `where(eq(a, 1), b, a)`: the size of a dimension of two arrays that broadcast."""
    if node.op.name != "where" or node.type.ndim or node.type.dtype != "int64":
        return False
    condition, _, a = node.inputs
    return condition.op.name == "eq" and condition.inputs[0] is a and static_int(condition.inputs[1]) == 1


# ---- the reverse of broadcasting ------------------------------------------------------------------


def _sum_to_numpy(x: Any, *wanted: Any) -> Any:
    lead = np.ndim(x) - len(wanted)
    axes = [*range(lead), *(lead + i for i, w in enumerate(wanted) if w == 1 and x.shape[lead + i] != 1)]
    result = np.sum(x, axis=tuple(axes), keepdims=True, dtype=x.dtype) if axes else x
    if result.shape[lead:] != tuple(wanted):
        raise ValueError(f"cannot sum an array of shape {x.shape} to shape {tuple(map(int, wanted))}")
    return result.reshape(tuple(wanted))


def _sum_to_batch(rows: Rows) -> Any:
    from ostinato.ops.reduce import sum

    x, wanted = rows.inputs[0], rows.fixed(1)
    lead = x.type.ndim - 1 - len(wanted)
    return rows.made((sum(x, tuple(range(1, lead + 1))), rows.steps, *wanted))


SUM_TO: Op = register(
    Op(
        "sum_to",
        infer=lambda x, *wanted: TensorType(x.type.dtype, static_shape(wanted)),
        numpy=_sum_to_numpy,
        vjp=lambda g, out, x, *wanted: (broadcast_to(g, sizes(x)), *[None] * len(wanted)),
        jvp=lambda tangents, out, x, *wanted: make(SUM_TO, (tangents[0], *wanted)),
        sizes=lambda x, *wanted: wanted,
        batch=_sum_to_batch,
        samples=(
            Sample(lambda x, n: make(SUM_TO, (x, constant(1), n)), (np.arange(6.0).reshape(2, 3), np.int64(3))),
            Sample(lambda x, n: make(SUM_TO, (x, n)), (np.arange(6.0).reshape(2, 3), np.int64(3))),
        ),
        doc="Sum over the dimensions that broadcasting to the shape of x would have stretched.",
    )
)

BROADCAST: Op = register(
    Op(
        "broadcast_to",
        infer=lambda x, *wanted: _broadcast_infer(x, *wanted),
        numpy=lambda x, *wanted: np.broadcast_to(x, wanted),
        vjp=lambda g, out, x, *wanted: (unbroadcast(g, x), *[None] * len(wanted)),
        jvp=lambda tangents, out, x, *wanted: make(BROADCAST, (tangents[0], *wanted)),
        sizes=lambda x, *wanted: wanted,
        batch=lambda rows: rows.made((rows.padded(0, rows.node.type.ndim), rows.steps, *rows.fixed(1))),
        samples=(
            Sample(lambda x, n: make(BROADCAST, (x, n, constant(3))), (np.array([[1.0], [2.0]]), np.int64(2))),
            Sample(lambda x: make(BROADCAST, (x, constant(2), constant(3))), (np.float64(1.5),)),
        ),
        cheap=True,
    )
)


def _broadcast_infer(x: Node, *wanted: Node) -> TensorType:
    shape = static_shape(wanted)
    if x.type.ndim > len(shape):
        raise ShapeError(f"cannot broadcast {describe(x)} to {len(shape)} dimensions")
    for given, size in zip(x.type.shape[::-1], shape[::-1], strict=False):
        if given not in (None, 1) and size is not None and size != given:
            raise ShapeError(f"cannot broadcast {describe(x)} to shape {shape}")
    return x.type.with_shape(shape)


def broadcast_to(x: Any, shape: Any) -> Any:
    """`x` repeated to `shape` by NumPy's rules of broadcasting; a view at run time.

    Parameters
    ----------
    shape : ints or integer scalars, a sequence of these, or an integer vector of known length.
    """
    node, wanted = as_tensor(x), read_sizes(shape)
    own = sizes(node)
    if len(own) == len(wanted) and all(map(same_size, own, wanted)):
        return node
    return make(BROADCAST, (node, *as_size_nodes(wanted)))


def unbroadcast(g: Any, x: Any) -> Any:
    """The cotangent `g` of a broadcast of `x`, summed to the shape of `x`."""
    return sum_to(g, sizes(x))


def sum_to(g: Any, wanted: Sequence[Size]) -> Any:
    """`g` summed to the sizes `wanted`: over leading dimensions and where the wanted size is 1.

    Which dimensions these are is decided when the graph is built where the types tell, else at run time.
    """
    own = sizes(g)
    lead = len(own) - len(wanted)
    if lead == 0 and all(map(same_size, own, wanted)):
        return g
    pairs = list(zip(own[lead:], wanted, strict=True))
    if any(not same_size(o, w) and static_int(w) != 1 for o, w in pairs):
        return make(SUM_TO, (g, *as_size_nodes(wanted)))
    from ostinato.ops.movement import dimshuffle
    from ostinato.ops.reduce import sum

    summed = [i for i, (o, w) in enumerate(pairs) if not same_size(o, w)]
    total = sum(g, axis=(*range(lead), *(lead + i for i in summed)))
    kept = iter(range(len(pairs) - len(summed)))
    return dimshuffle(total, ["x" if i in summed else next(kept) for i in range(len(pairs))])
