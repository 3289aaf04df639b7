"""Ops that compute nothing: they stop derivatives or check values at run time."""

from __future__ import annotations

from typing import Any

import numpy as np

from ostinato.errors import OstinatoValueError
from ostinato.graph import Node, make
from ostinato.ops.leaf import as_tensor, constant
from ostinato.ops.op import Op, Sample, register
from ostinato.ops.sizes import sizes
from ostinato.types import TensorType

# What users find in `ostinato.tensor`.
__all__ = [
    "disconnected_grad",
    "zero_grad",
]

STOP: Op = register(
    Op(
        "disconnected_grad",
        infer=lambda x: x.type,
        numpy=lambda x: x,
        vjp=lambda g, out, x: (None,),
        jvp=lambda tangents, out, x: None,
        sizes=lambda x: sizes(x),
        samples=(Sample(lambda x: make(STOP, (x,)), (np.array([1.0, 2.0]),), differentiable=False),),
        cheap=True,
        connected=False,
    )
)
ZERO: Op = register(
    Op(
        "zero_grad",
        infer=lambda x: x.type,
        numpy=lambda x: x,
        vjp=lambda g, out, x: (None,),
        jvp=lambda tangents, out, x: None,
        sizes=lambda x: sizes(x),
        samples=(Sample(lambda x: make(ZERO, (x,)), (np.array([1.0, 2.0]),), differentiable=False),),
        cheap=True,
    )
)


def disconnected_grad(x: Any) -> Any:
    """`x`, taken as a constant by derivatives: the cost does not depend on it."""
    return make(STOP, (as_tensor(x),))


def zero_grad(x: Any) -> Any:
    """`x`, with a derivative of zero."""
    return make(ZERO, (as_tensor(x),))


def _trip_count_numpy(n: Any, *lengths: Any, labels: tuple[str, ...]) -> Any:
    if n < 0:
        raise OstinatoValueError(f"n_steps is {int(n)}; it cannot be negative")
    short = [f"{label} allows {int(k)}" for label, k in zip(labels, lengths, strict=True) if k < n]
    if short:
        raise OstinatoValueError(f"n_steps is {int(n)}, but " + ", ".join(short))
    return n


TRIP_COUNT: Op = register(
    Op(
        "trip_count",
        infer=lambda n, *lengths, labels: TensorType("int64", ()),
        numpy=_trip_count_numpy,
        params=("labels",),
        samples=(Sample(lambda n: make(TRIP_COUNT, (n, constant(5)), (("x",),)), (np.int64(4),)),),
        doc="The number of steps of a loop, checked against the lengths of what it reads.",
    )
)


def trip_count(n: Node, lengths: list[Node], labels: list[str]) -> Any:
    """`n`, checked at run time to be at least 0 and at most each of `lengths`."""
    return make(TRIP_COUNT, (n, *lengths), (tuple(labels),))


def _check_rows_numpy(x: Any, *, least: int, label: str) -> Any:
    if len(x) < least:
        raise OstinatoValueError(f"{label} has {len(x)} row(s), but {least} are needed")
    return x


CHECK_ROWS: Op = register(
    Op(
        "check_rows",
        infer=lambda x, *, least, label: x.type,
        numpy=_check_rows_numpy,
        vjp=lambda g, out, x, *, least, label: (g,),
        jvp=lambda tangents, out, x, *, least, label: tangents[0],
        sizes=lambda x, *, least, label: sizes(x),
        params=("least", "label"),
        samples=(Sample(lambda x: make(CHECK_ROWS, (x,), (2, "x")), (np.array([1.0, 2.0]),)),),
        cheap=True,
        doc="The array itself, checked at run time to have enough rows.",
    )
)


def check_rows(x: Any, least: int, label: str) -> Any:
    """`x`, which must have at least `least` rows; `label` names it in the message if not."""
    rows = x.type.shape[0]
    if rows is not None and rows >= least:
        return x
    return make(CHECK_ROWS, (x,), (least, label))
