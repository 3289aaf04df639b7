"""What an op does for many steps at once: the inputs of its `batch` rule, and rules that families share.

A rule gets a `Rows`: the operands of one node, those that change from step to step with a leading axis of steps. It
returns the node of all steps, (steps, ...), or raises `NoBatchError` where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ostinato.graph import Node, make


class NoBatchError(Exception):
    """What a rule raises for an operation that is not known for all steps at once."""


@dataclass(frozen=True)
class Rows:
    """The operands of a node of a loop's body, for all steps.

    Attributes
    ----------
    node : as it stands in the body: of one step
    inputs : those that change from step to step have one axis more, of the steps, in front
    varies : per input whether it changes
    steps : int64 scalar node, how many steps there are
    """

    node: Node
    inputs: tuple[Any, ...]
    varies: tuple[bool, ...]
    steps: Any

    def fixed(self, first: int = 0) -> tuple[Any, ...]:
        """The inputs from a place on, which must be the same at all steps."""
        if any(self.varies[first:]):
            raise NoBatchError(f"{self.node.op.name} by what changes from step to step")
        return self.inputs[first:]

    def all_steps(self, i: int) -> Any:
        """An input with an axis of steps, also if it is the same at all."""
        from ostinato.ops.sizes import broadcast_to, sizes

        x = self.inputs[i]
        return x if self.varies[i] else broadcast_to(x, (self.steps, *sizes(x)))

    def padded(self, i: int, rank: int) -> Any:
        """An input whose rows have `rank` dimensions, for broadcasting; as it is if it is the same at all steps."""
        from ostinato.ops.movement import dimshuffle

        x = self.inputs[i]
        own = x.type.ndim - 1
        if not self.varies[i] or own == rank:
            return x
        return dimshuffle(x, [0, *["x"] * (rank - own), *range(1, own + 1)])

    def made(self, inputs: Sequence[Any], *params: Any) -> Any:
        """The node's op on other inputs, with other static parameters."""
        return make(self.node.op, tuple(inputs), tuple(params))


def aligned(rows: Rows, **params: Any) -> Any:
    """The rule of elementwise ops: rows broadcast against each other as they did."""
    rank = rows.node.type.ndim
    return rows.made([rows.padded(i, rank) for i in range(len(rows.inputs))], *rows.node.params)


def along_one_axis(rows: Rows, *, axis: int) -> Any:
    """The rule of ops of one operand that go along one dimension."""
    return rows.made(rows.inputs, axis + 1)


def over_axes(rows: Rows, *, axes: tuple[int, ...]) -> Any:
    """The rule of reductions."""
    return rows.made(rows.inputs, tuple([a + 1 for a in axes]))


def stacked(rows: Rows, **params: Any) -> Any:
    """The rule of ops of one matrix, or a stack of them: a longer stack."""
    return rows.made(rows.inputs, *rows.node.params)


def sized(rows: Rows, **params: Any) -> Any:
    """The rule of ops whose further inputs are the sizes of the result, which has as many elements."""
    return rows.made([rows.inputs[0], rows.steps, *rows.fixed(1)])
