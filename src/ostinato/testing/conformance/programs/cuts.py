"""Programs whose derivatives are cut (truncated, or stopped), or made with checkpoints.

References run the part that is cut on arguments left alone.
"""

from __future__ import annotations

from typing import Any

import ostinato.tensor as T
from ostinato.scan import scan
from ostinato.testing.conformance.program import program

TOPIC = "derivatives that are cut, or saved memory for"


@program(
    TOPIC,
    "the last 3 steps alone, of a linear loop",
    orders=1,
    x=[0.5, -1.0, 0.25, 0.75, 1.5, -0.5],
    a=0.75,
    w=1.25,
    h=0.5,
)
def truncated(x: Any, a: Any, w: Any, h: Any) -> Any:
    """h ← a h + w x_t; the last h; derivatives through the last 3 steps"""
    return [scan(lambda x_t, h: a * h + w * x_t, x, h, truncate_gradient=3)[0][-1]]


@truncated.reference
def _(m: Any, x: Any, a: Any, w: Any, h: Any, frozen: Any) -> Any:
    h = frozen["h"]
    for t in range(len(x)):
        if t < len(x) - 3:
            h = frozen["a"] * h + frozen["w"] * frozen["x"][t]
        else:
            h = a * h + w * x[t]
    return [h]


@program(
    TOPIC,
    "the last 2 steps alone, with a cost of every row",
    orders=1,
    x=[[0.5, -1.0], [0.25, 0.75], [1.5, -0.5], [1.0, 0.25]],
    a=0.75,
    h=[0.5, -0.25],
)
def truncated_rows(x: Any, a: Any, h: Any) -> Any:
    """h ← tanh(a h + x_t); every h; derivatives through the last 2 steps"""
    return [scan(lambda x_t, h: T.tanh(a * h + x_t), x, h, truncate_gradient=2)[0]]


@truncated_rows.reference
def _(m: Any, x: Any, a: Any, h: Any, frozen: Any) -> Any:
    h, rows = frozen["h"], []
    for t in range(len(x)):
        if t < len(x) - 2:
            h = m.tanh(frozen["a"] * h + frozen["x"][t])
        else:
            h = m.tanh(a * h + x[t])
        rows.append(h)
    return [m.stack(rows)]


@program(
    TOPIC, "the last 2 steps alone, of a loop that looks 2 steps back", orders=1, a=0.75, b=-0.5, start=[0.25, 1.5], n=5
)
def truncated_taps(a: Any, b: Any, start: Any, n: Any) -> Any:
    """y_t = sin(a y_(t-1)) + b y_(t-2); the last y; derivatives through the last 2 steps"""
    info = {"initial": start, "taps": [-2, -1]}
    rows, _ = scan(lambda two, one: T.sin(a * one) + b * two, outputs_info=info, n_steps=n, truncate_gradient=2)
    return [rows[-1]]


@truncated_taps.reference
def _(m: Any, a: Any, b: Any, start: Any, n: Any, frozen: Any) -> Any:
    y = list(frozen["start"])
    for t in range(n):
        if t < n - 2:
            y.append(m.sin(frozen["a"] * y[-1]) + frozen["b"] * y[-2])
        else:
            y.append(m.sin(a * y[-1]) + b * y[-2])
    return [y[-1]]


@program(TOPIC, "more steps allowed for derivatives than there are: nothing is cut", x=[0.5, -1.0, 0.25], a=0.75, h=0.5)
def truncated_never(x: Any, a: Any, h: Any) -> Any:
    """h ← tanh(a h + x_t), 3 times; every h; derivatives through the last 5 steps"""
    return [scan(lambda x_t, h: T.tanh(a * h + x_t), x, h, truncate_gradient=5)[0]]


@truncated_never.reference
def _(m: Any, x: Any, a: Any, h: Any) -> Any:
    rows = []
    for x_t in x:
        h = m.tanh(a * h + x_t)
        rows.append(h)
    return [m.stack(rows)]


@program(TOPIC, "a state taken as a constant in each step", x=[0.5, -1.0, 0.25, 0.75], a=0.75, h=0.5)
def stopped(x: Any, a: Any, h: Any) -> Any:
    """h ← tanh(a stop(h) + x_t) + h / 2, where no derivative passes stop; every h"""
    return [scan(lambda x_t, h: T.tanh(a * T.disconnected_grad(h) + x_t) + h / 2, x, h)[0]]


@stopped.reference
def _(m: Any, x: Any, a: Any, h: Any, frozen: Any) -> Any:
    still, rows = frozen["h"], []
    for t in range(len(x)):
        h = m.tanh(a * still + x[t]) + h / 2
        still = m.tanh(frozen["a"] * still + frozen["x"][t]) + still / 2
        rows.append(h)
    return [m.stack(rows)]


@program(TOPIC, "checkpoints every 2 steps", orders=3, x=[0.5, -1.0, 0.25, 0.75, 1.5, -0.5], a=0.75, h=0.5)
def checkpointed(x: Any, a: Any, h: Any) -> Any:
    """h ← tanh(a h + x_t); the last h; for derivatives every second h is kept, and steps are made again"""
    return [scan(lambda x_t, h: T.tanh(a * h + x_t), x, h, checkpoint=2)[0][-1]]


@checkpointed.reference
def _(m: Any, x: Any, a: Any, h: Any) -> Any:
    for x_t in x:
        h = m.tanh(a * h + x_t)
    return [h]
