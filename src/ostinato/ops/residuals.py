"""What the forward steps of a loop record for its reverse: the least cut through the graph of a step.

On one side is what only forward steps have, on the other what the reverse reads. What lies between is recorded, or
made again from what is. Values at hand are never recorded: sequences, invariants, the number of the step, and
outputs. To make this a cut of a network, each value is two places, before and after it is recorded:

- from before to after leads what a step takes for recording it, so cutting that is to record it;
- from the source to before leads what it takes to make it again, cut if the reverse does: nothing where forward steps
  do not need it, and more than all else together for products and solvers;
- from after a value to before what is made of it leads what is never cut: whoever makes that again has all operands;
- from after what the reverse reads to the sink leads what is never cut.

So P. Jain et al. put it as an integer program ("Checkmate: Breaking the Memory Wall with Optimal Tensor
Rematerialization", 2020); that one cut decides if there is one reverse, and that it is found as a maximal flow, is from
H. He and S. Yu, "Transcending Runtime-Memory Tradeoffs in Checkpointing by being Fusion Aware", 2023.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import prod
from typing import Any

import numpy as np

from ostinato.graph import Node, dependents, topological
from ostinato.ops.costs import additions, per_element
from ostinato.ops.leaf import static_int
from ostinato.ops.least_cut import Network
from ostinato.ops.loop import Body, LoopInputs, all_sizes_outside
from ostinato.ops.op import params_of
from ostinato.ops.sizes import SIZE, Size, sizes
from ostinato.types import TupleType

# To write and to read a value takes as long as so many additions of such values, where rows do not stay in cache. Where
# they do it is a quarter of that: for additions that hardly matters, but what takes many times as long, divisions and
# functions, is weighed accordingly.
_RECORDING, _IN_CACHE = 16, 4
# What a recorded row takes besides its elements, in bytes.
_ROW = 1
# What sizes are taken for that are not known before a function is called.
_TYPICAL = 64


def residuals(
    results: Sequence[Node], seeds: Iterable[Node], recorded: Collection[Node], body: Body, given: LoopInputs
) -> list[Node]:
    """The values of a forward step to record, of those that a reversed step reads.

    Parameters
    ----------
    results : of the reversed body, in terms of the params of the forward body and of seeds
    seeds : the cotangents that a reversed step begins with; what needs one can only be made there.
    recorded : values of each step that are there in any case
    """
    order = topological(results)
    at_hand = _at_hand(results, order, recorded, body)
    bound = dependents(results, set(seeds))
    read = [i for n in order if n in bound for i in n.inputs if i not in bound]
    read += [r for r in results if r not in bound]
    values = [n for n in topological(read, stop=at_hand) if n not in at_hand]
    return _cut(values, {n for n in read if n not in at_hand}, _Weights(values, recorded, body, given), body)


def _at_hand(results: Sequence[Node], order: Sequence[Node], recorded: Collection[Node], body: Body) -> set[Node]:
    """What the reverse has anyway, or can compute once for all steps."""
    moving = dependents(results, {body.t, *body.sequences, *body.carries})
    found = {body.t, *body.sequences, *body.invariants, *recorded}
    found |= {n for n in order if n.op is SIZE and n.inputs[0] in body.carries}
    return found | {n for n in order if n not in moving}


def _cut(values: Sequence[Node], read: Collection[Node], weights: _Weights, body: Body) -> list[Node]:
    never = weights.never
    network: Network[Any] = Network()
    places = set(values)
    for n in values:
        network.connect(("before", n), ("after", n), weights.to_record(n))
        network.connect("source", ("before", n), never if n in body.carries else weights.to_repeat(n))
        for i in n.inputs:
            if i in places:
                network.connect(("after", i), ("before", n), never)
        if n in read:
            network.connect(("after", n), "sink", never)
    side = network.source_side("source", "sink")
    return [n for n in values if ("before", n) in side and ("after", n) not in side]


class _Weights:
    """What it takes to record values of a step and to make them again, in additions of single bytes."""

    def __init__(self, values: Sequence[Node], recorded: Collection[Node], body: Body, given: LoopInputs) -> None:
        nodes = [n for n in dict.fromkeys(n for v in values for n in (v, *v.inputs)) if _is_array(n)]
        outside = all_sizes_outside([sizes(n) for n in nodes], given, body)
        guess = _guesses(s for row in outside for s in row if s is not None)
        self._counts = {
            n: prod(_TYPICAL if s is None else guess[s] for s in row) for n, row in zip(nodes, outside, strict=True)
        }
        self._unknown = {n for n, row in zip(nodes, outside, strict=True) if None in row}
        test = [] if body.keep_going is None else [body.keep_going]
        self._forward = set(topological([*body.next_carries, *body.outputs, *test]))
        # A carry whose next value is recorded is the same rows, one earlier: they are only read once more.
        self._shifted = {c for c, n in zip(body.carries, body.next_carries, strict=True) if n in recorded}
        # More than all that may be cut; and more than that again.
        self._dear = 1 + sum(self._known(n) + (self._again(n) or 0) for n in values if _is_array(n))
        self.never = self._dear * (1 + len(values))

    def to_record(self, n: Node) -> int:
        """The row of a value; values whose sizes differ from step to step have none."""
        return self.never if not _is_array(n) or n in self._unknown else self._known(n)

    def _known(self, n: Node) -> int:
        whole = _RECORDING * (self._counts[n] * np.dtype(n.type.dtype).itemsize + _ROW)
        return whole // 2 if n in self._shifted else whole

    def to_repeat(self, n: Node) -> int:
        """Making a value again, of the same operands."""
        again = self._again(n) if _is_array(n) else None
        return self._dear if again is None else again

    def _again(self, n: Node) -> int | None:
        cost = additions(n, self._counts.__getitem__)
        width = max(np.dtype(i.type.dtype).itemsize for i in (n, *n.inputs) if _is_array(i))
        if cost is None:
            return None
        weighed = cost * _RECORDING // _IN_CACHE if per_element(n) > 1 else cost
        return weighed * width if n in self._forward else 0


def _is_array(n: Node) -> bool:
    return not isinstance(n.type, TupleType)


class _Typical:
    """The nodes of which nothing can be guessed: all but numbers that are computed from others by cheap operations."""

    def __contains__(self, node: object) -> bool:
        assert isinstance(node, Node)
        of_numbers = all(_is_array(i) and not i.type.ndim for i in (node, *node.inputs))
        return not of_numbers or not (node.op.cheap or node.op.name == "floor_div")


def _guesses(wanted: Iterable[Size]) -> dict[Size, int]:
    """What some sizes are, or would be if all of what they are computed from were typical; one at least."""
    found = list(dict.fromkeys(wanted))
    values: dict[Any, Any] = {}
    typical = _Typical()
    for n in topological([s for s in found if isinstance(s, Node)], stop=typical):
        known = static_int(n)
        if known is not None:
            values[n] = np.int64(known)
        elif n.inputs and n not in typical:
            with np.errstate(all="ignore"):
                values[n] = n.op.numpy(*[values[i] for i in n.inputs], **params_of(n))
        else:
            values[n] = np.int64(_TYPICAL)
    return {s: max(int(values.get(s, s)), 1) for s in found}
