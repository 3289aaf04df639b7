"""Sorting along one dimension: the op `argsort`, and `sort`, which reads by it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ostinato.errors import OstinatoValueError
from ostinato.graph import Node, make
from ostinato.ops.batch import along_one_axis
from ostinato.ops.creation import arange
from ostinato.ops.leaf import as_tensor
from ostinato.ops.movement import dimshuffle, normalize_axis
from ostinato.ops.op import Op, Sample, register
from ostinato.ops.sizes import as_size_node, sizes

# What users find in `ostinato.tensor`.
__all__ = [
    "argsort",
    "sort",
]

ARGSORT: Op = register(
    Op(
        "argsort",
        infer=lambda x, *, axis: x.type.with_dtype("int64"),
        numpy=lambda x, *, axis: np.argsort(x, axis=axis, kind="stable").astype("int64", copy=False),
        sizes=lambda x, *, axis: sizes(x),
        batch=along_one_axis,
        params=("axis",),
        samples=(
            Sample(lambda x: make(ARGSORT, (x,), (1,)), (np.array([[2.0, -1.0, 0.5], [0.0, 3.0, 2.5]]),)),
            Sample(lambda x: make(ARGSORT, (x,), (0,)), (np.array([[2, -1, 0], [0, 3, 3]]),)),
        ),
        doc="The order of the elements along one dimension.",
    )
)


def _axis(x: Any, axis: int | None) -> tuple[Node, int]:
    node = as_tensor(x)
    if axis is None:
        return node.flatten(), 0
    return node, normalize_axis(axis, node.type.ndim)


def _check_kind(kind: Any, order: Any) -> None:
    if kind not in (None, "quicksort", "mergesort", "heapsort", "stable") or order is not None:
        raise OstinatoValueError(f"kind={kind!r}, order={order!r}: all sorting here is stable, and order must be None")


def argsort(x: Any, axis: int | None = -1, kind: str | None = None, order: None = None) -> Any:
    """The positions of the elements of `x` in ascending order, as int64.

    Parameters
    ----------
    axis : int or None
        Along which dimension; None for all elements.
    kind, order
        Accepted for Theano's sake. Equal elements keep their order; NaN comes last.
    """
    _check_kind(kind, order)
    node, place = _axis(x, axis)
    return make(ARGSORT, (node,), (place,))


def along_axis(x: Any, positions: Any, axis: int) -> Any:
    """The elements of `x` at `positions` along one dimension, as NumPy's `take_along_axis`."""
    index = [
        positions
        if a == axis
        else dimshuffle(arange(as_size_node(n)), [0 if b == a else "x" for b in range(x.type.ndim)])
        for a, n in enumerate(sizes(x))
    ]
    return x[tuple(index)]


def sort(x: Any, axis: int | None = -1, kind: str | None = None, order: None = None) -> Any:
    """`x` in ascending order along one dimension; see `argsort`. Its derivative goes to where the elements were."""
    _check_kind(kind, order)
    node, place = _axis(x, axis)
    return along_axis(node, make(ARGSORT, (node,), (place,)), place)
