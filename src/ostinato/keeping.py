"""Which steps of an output a loop keeps: all, the last, each so many-th, or given ones: `keep`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ostinato.errors import OstinatoTypeError, OstinatoValueError
from ostinato.errors import at as at_line
from ostinato.graph import Node
from ostinato.ops.control import steps_reached
from ostinato.ops.elementwise import cast, eq, where
from ostinato.ops.indexing import set_subtensor
from ostinato.ops.leaf import as_int_scalar, constant, describe, new_input, static_int
from ostinato.ops.loop import COUNT, Body, LoopInputs, LoopResults, sizes_outside, thin
from ostinato.ops.movement import concatenate
from ostinato.ops.sizes import as_size_node, broadcast_to, sizes
from ostinato.types import INTEGERS
from ostinato.values import as_variable


class every:  # noqa: N801 (a word of the vocabulary, as `until`)
    """For `keep` of `scan`: the first step and each k-th after it, as `ys[::k]` has them; nothing else is stored.

    Parameters
    ----------
    k : int or integer scalar variable, at least 1
    """

    def __init__(self, k: Any) -> None:
        self.k = as_int_scalar(k, "every(k)")
        known = static_int(self.k)
        if known is not None and known < 1:
            raise OstinatoValueError(f"every(k) keeps each k-th step, k being at least 1, not {known}")


class at:  # noqa: N801
    """For `keep` of `scan`: the steps with these numbers, as `ys[indices]` has them; nothing else is stored.

    Parameters
    ----------
    indices : list, array or vector variable of integers
        Numbers of steps, counted from 0, each larger than the one before.
    """

    def __init__(self, indices: Any) -> None:
        self.indices = as_variable(np.asarray(indices, "int64") if _is_empty(indices) else indices, "at(indices)")
        if self.indices.type.ndim != 1 or self.indices.type.dtype not in INTEGERS:
            raise OstinatoTypeError(f"at(indices) takes a vector of integers, not {describe(self.indices)}")
        self.indices = cast(self.indices, "int64")
        values = np.asarray(indices) if not isinstance(indices, Node) else np.zeros(0)
        if values.size and (values[0] < 0 or (np.diff(values) <= 0).any()):
            raise OstinatoValueError(f"at(indices) takes numbers of steps in ascending order, not {values.tolist()}")


def _is_empty(indices: Any) -> bool:
    return not isinstance(indices, Node) and np.size(indices) == 0


Keep = Any  # "all", "last", every or at


def read_keep(given: Any, n_outputs: int, label: str) -> list[Keep]:
    """One entry per output; one that is not in a list is for all of them."""
    entries = list(given) if isinstance(given, (list, tuple)) else [given] * n_outputs
    if len(entries) != n_outputs:
        raise OstinatoValueError(
            f"keep has {len(entries)} entries, but {label} returns {n_outputs} output(s); there is one per output"
        )
    entries = ["all" if e is None else e for e in entries]
    wrong = [repr(e) for e in entries if not isinstance(e, (every, at)) and not (isinstance(e, str) and e in _WORDS)]
    if wrong:
        raise OstinatoValueError(f"keep is 'all', 'last', every(k) or at(indices), not {', '.join(wrong)}")
    return entries


_WORDS = ("all", "last")


class _Picked(NamedTuple):
    """What a loop carries along for an output of which given steps are kept: the rows, and how many there are."""

    rows: Any
    found: Any


class Kept:
    """The outputs of a loop of which some steps are kept.

    Parameters
    ----------
    keeps : one per output; see `read_keep`.
    names : what a message calls each output.
    """

    def __init__(self, keeps: Sequence[Keep], names: Sequence[str]) -> None:
        self.keeps, self._names = keeps, names
        self._chosen = [j for j, k in enumerate(keeps) if isinstance(k, at)]

    def extended(self, body: Body, given: LoopInputs) -> tuple[Body, LoopInputs]:
        """The loop, which collects the steps that are given by their numbers."""
        carries, following, inits = list(body.carries), list(body.next_carries), list(given.carries)
        for j in self._chosen:
            output, indices = body.outputs[j], self.keeps[j].indices
            row = sizes_outside(sizes(output), given, body)
            if None in row:
                what = f"{describe(output)}{at_line(output.source)}"
                raise OstinatoValueError(f"keep=at(...): the sizes of {what} are not known before the loop")
            # One row and one number more than are asked for: what comes after the last step goes there.
            ends = concatenate([indices, constant(np.array([-1]), "int64")])
            n = as_size_node(sizes(indices)[0])
            first = broadcast_to(constant(0, output.type.dtype), [n + 1, *row])
            picked = _Picked(new_input(first.type), new_input(COUNT))
            hit = eq(ends[picked.found], body.t)
            value = where(hit, output, picked.rows[picked.found])
            carries += picked
            following += [set_subtensor(picked.rows[picked.found], value), picked.found + cast(hit, "int64")]
            inits += [first, constant(0, "int64")]
        return (
            body._replace(carries=tuple(carries), next_carries=tuple(following)),
            given._replace(carries=tuple(inits)),
        )

    def thinned(self, loop: LoopResults) -> LoopResults:
        """The loop, which records some outputs at some steps only."""
        counts = {j: k.k for j, k in enumerate(self.keeps) if isinstance(k, every)}
        return thin(loop, counts) if counts else loop

    def outputs(self, loop: LoopResults, finals: Callable[[], list[Any]]) -> list[Any]:
        """What is kept of each output; `finals` has the last values."""
        found = list(loop.outputs)
        if any(isinstance(k, str) and k == "last" for k in self.keeps):
            last = finals()
            found = [last[j] if k == "last" else y for j, (k, y) in enumerate(zip(self.keeps, found, strict=True))]
        collected = loop.finals[len(loop.finals) - 2 * len(self._chosen) :]
        for i, j in enumerate(self._chosen):
            rows, n = collected[2 * i], as_size_node(sizes(self.keeps[j].indices)[0])
            found[j] = steps_reached(rows[:n], collected[2 * i + 1], loop.trips_done, self._names[j])
        return found
