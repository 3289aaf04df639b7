"""Forward rules that ops share: those of linear ops, which do to tangents what they do to values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ostinato.graph import Node, make
from ostinato.ops.leaf import constant
from ostinato.ops.sizes import broadcast_to, sizes


def push_linear(tangents: Sequence[Any], out: Node, *inputs: Node, **params: Any) -> Any:
    """The tangent of an op that is linear in all its inputs of floats together; others stay as they are."""
    moved = [_zeros(x) if t is None and x.type.is_float else t for t, x in zip(tangents, inputs, strict=True)]
    return make(out.op, tuple([x if t is None else t for t, x in zip(moved, inputs, strict=True)]), out.params)


def push_write(tangents: Sequence[Any], out: Node, x: Node, y: Node, *indices: Node, **params: Any) -> Any:
    """The tangent of `x` with `y` put, or added, at places: the same write of tangents."""
    of_x, of_y = tangents[0], tangents[1]
    base = _zeros(x) if of_x is None else of_x
    value = constant(0, y.type.dtype) if of_y is None else of_y
    return make(out.op, (base, value, *indices), out.params)


def push_addition(tangents: Sequence[Any], out: Node, x: Node, y: Node, *indices: Node, **params: Any) -> Any:
    """As `push_write`, where `y` is added to what is there: without a tangent of `y` nothing is."""
    return tangents[0] if tangents[1] is None else push_write(tangents, out, x, y, *indices)


def _zeros(x: Node) -> Any:
    return broadcast_to(constant(0, x.type.dtype), sizes(x))
