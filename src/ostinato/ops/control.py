"""Ops that compute nothing: they stop or change derivatives, or check values at run time."""

from __future__ import annotations

from typing import Any

import numpy as np

from ostinato.errors import MemoryBudgetError, OstinatoIndexError, OstinatoTypeError, OstinatoValueError
from ostinato.graph import Node, make
from ostinato.ops.batch import aligned
from ostinato.ops.leaf import as_tensor, constant, describe
from ostinato.ops.op import Op, Sample, register
from ostinato.ops.sizes import sizes
from ostinato.types import TensorType

# What users find in `ostinato.tensor`.
__all__ = [
    "disconnected_grad",
    "grad_clip",
    "grad_scale",
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
        batch=aligned,
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
        batch=aligned,
        samples=(Sample(lambda x: make(ZERO, (x,)), (np.array([1.0, 2.0]),), differentiable=False),),
        cheap=True,
    )
)


def _grad_clip_vjp(g: Any, out: Node, x: Node, *, lower: float, upper: float) -> tuple[Any]:
    from ostinato.ops.composite import clip

    return (clip(g, lower, upper),)


GRAD_CLIP: Op = register(
    Op(
        "grad_clip",
        infer=lambda x, *, lower, upper: x.type,
        numpy=lambda x, *, lower, upper: x,
        vjp=_grad_clip_vjp,
        jvp=lambda tangents, out, x, *, lower, upper: tangents[0],
        sizes=lambda x, *, lower, upper: sizes(x),
        batch=aligned,
        params=("lower", "upper"),
        samples=(
            Sample(lambda x: make(GRAD_CLIP, (x,), (-5.0, 5.0)), (np.array([1.0, 2.0]),)),
            Sample(lambda x: make(GRAD_CLIP, (x,), (-0.1, 0.1)), (np.array([1.0, 2.0]),), differentiable=False),
        ),
        cheap=True,
        linear=False,
    )
)
GRAD_SCALE: Op = register(
    Op(
        "grad_scale",
        infer=lambda x, *, multiplier: x.type,
        numpy=lambda x, *, multiplier: x,
        vjp=lambda g, out, x, *, multiplier: (g * multiplier,),
        jvp=lambda tangents, out, x, *, multiplier: tangents[0] * multiplier,
        sizes=lambda x, *, multiplier: sizes(x),
        batch=aligned,
        params=("multiplier",),
        samples=(Sample(lambda x: make(GRAD_SCALE, (x,), (-2.0,)), (np.array([1.0, 2.0]),), differentiable=False),),
        cheap=True,
    )
)

# Whoever compiles takes these for their operand.
IDENTITIES = frozenset({"disconnected_grad", "zero_grad", "grad_clip", "grad_scale"})


def disconnected_grad(x: Any) -> Any:
    """`x`, taken as a constant by derivatives: the cost does not depend on it."""
    return make(STOP, (as_tensor(x),))


def zero_grad(x: Any) -> Any:
    """`x`, with a derivative of zero."""
    return make(ZERO, (as_tensor(x),))


def grad_clip(x: Any, lower_bound: float, upper_bound: float) -> Any:
    """`x`; what reverse derivatives send to it is limited to the range between two numbers, element by element.

    A common remedy for gradients that explode, put on the state of a recurrence. It is no derivative of
    any function: forward mode passes it unchanged, and so is not the transposed of reverse mode there.

    Parameters
    ----------
    x : variable of floats
    lower_bound, upper_bound : numbers

    Raises
    ------
    OstinatoTypeError
        If `x` is not of floats, or a bound is not a number.
    OstinatoValueError
        If the bounds leave nothing between them.
    """
    lower, upper = _number(lower_bound, "grad_clip"), _number(upper_bound, "grad_clip")
    if not lower <= upper:
        raise OstinatoValueError(f"grad_clip: the lower bound {lower} is not below the upper bound {upper}")
    return make(GRAD_CLIP, (_floats(x, "grad_clip"),), (lower, upper))


def grad_scale(x: Any, multiplier: float) -> Any:
    """`x`, whose derivatives count `multiplier` times (a number) in both modes: -1 turns a gradient around.

    Raises
    ------
    OstinatoTypeError
        If `x` is not of floats, or the multiplier is not a number.
    """
    return make(GRAD_SCALE, (_floats(x, "grad_scale"),), (_number(multiplier, "grad_scale"),))


def _floats(x: Any, what: str) -> Any:
    node = as_tensor(x)
    if not node.type.is_float:
        raise OstinatoTypeError(f"{what} expects floats, got {describe(node)}")
    return node


def _number(value: Any, what: str) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise OstinatoTypeError(f"{what} expects a number, not {value!r:.60}")
    return float(value)


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


def _within_budget_numpy(x: Any, needed: Any, *, budget: int, label: str) -> Any:
    if needed > budget:
        raise MemoryBudgetError(
            f"{label}: derivatives may keep {budget} bytes, which is too little; {int(needed)} bytes are enough"
        )
    return x


WITHIN_BUDGET: Op = register(
    Op(
        "within_budget",
        infer=lambda x, needed, *, budget, label: x.type,
        numpy=_within_budget_numpy,
        params=("budget", "label"),
        samples=(Sample(lambda n: make(WITHIN_BUDGET, (n, constant(5)), (8, "a loop")), (np.int64(4),)),),
        doc="An integer scalar, if so many bytes are within a budget.",
    )
)


def within_budget(x: Any, needed: Any, budget: int, label: str) -> Any:
    """The integer scalar `x`, checked at run time: `needed` bytes are not more than `budget`."""
    return make(WITHIN_BUDGET, (x, needed), (budget, label))


def _steps_reached_numpy(rows: Any, found: Any, made: Any, *, label: str) -> Any:
    if found < len(rows):
        raise OstinatoIndexError(
            f"{label}: keep=at(...) asks for {len(rows)} steps in ascending order, but only {int(found)} of them are "
            f"among the {int(made)} that were made"
        )
    return rows


STEPS_REACHED: Op = register(
    Op(
        "steps_reached",
        infer=lambda rows, found, made, *, label: rows.type,
        numpy=_steps_reached_numpy,
        vjp=lambda g, out, rows, found, made, *, label: (g, None, None),
        sizes=lambda rows, found, made, *, label: sizes(rows),
        params=("label",),
        samples=(
            Sample(lambda x: make(STEPS_REACHED, (x, constant(2), constant(5)), ("y",)), (np.array([1.0, 2.0]),)),
        ),
        doc="Rows that a loop collected, if it reached the step of each of them.",
    )
)


def steps_reached(rows: Any, found: Any, made: Any, label: str) -> Any:
    """`rows`, checked at run time to be as many as were found in so many steps."""
    return make(STEPS_REACHED, (rows, found, made), (label,))


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
