"""What a user passes to `scan`, read and checked: sequences with their taps, initial values, the number of steps.

Nothing here knows the step; `ostinato.scan` calls it and builds the loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ostinato.errors import OstinatoTypeError, OstinatoValueError, SourceLine, at
from ostinato.memory import read_bytes
from ostinato.ops.control import check_rows, trip_count
from ostinato.ops.elementwise import cast, maximum, minimum
from ostinato.ops.indexing import set_subtensor
from ostinato.ops.leaf import CONSTANT, as_int_scalar, constant, describe, new_input, static_int
from ostinato.ops.loop import Checkpoint, Parallel
from ostinato.ops.sizes import as_size_node, sizes
from ostinato.types import INTEGERS, TensorType, is_lossless
from ostinato.values import as_variable, convert, is_weak


def listed(given: Any) -> list[Any]:
    """One or several as a list; None as no entry."""
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def source_of(node: Any) -> SourceLine | None:
    """The user's line that made a node; None for a constant, which may be older than its use here."""
    return None if node.op is CONSTANT else node.source


def _read_taps(taps: Any, what: str) -> list[int]:
    read = list(taps) if isinstance(taps, (list, tuple, range, np.ndarray)) else [taps]
    if not read or any(not isinstance(t, (int, np.integer)) or isinstance(t, bool) for t in read):
        raise OstinatoTypeError(f"{what}: taps are a list of at least one int, not {taps!r}")
    if len(set(read)) != len(read):
        raise OstinatoValueError(f"{what}: a tap is listed twice in {read}")
    return [int(t) for t in read]


def _check_keys(entry: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    unknown = [repr(k) for k in entry if k not in known]
    if unknown:
        raise OstinatoValueError(f"{what}: unknown key {', '.join(unknown)}; there is {', '.join(map(repr, known))}")


# ---- sequences ------------------------------------------------------------------------------------


class ReadSequence(NamedTuple):
    """A sequence with its taps: tap k reads row t + k, counted from the first row where all taps exist."""

    node: Any
    taps: list[int]
    place: int

    @property
    def before(self) -> int:
        """How many rows the earliest tap looks back."""
        return -min(0, *self.taps, 0)

    @property
    def span(self) -> int:
        """By how many rows the taps shorten the sequence."""
        return max(0, *self.taps, 0) + self.before

    def length(self) -> Any:
        """How many steps it allows: an int where that is known, else a node."""
        rows: Any = sizes(self.node)[0]
        known = static_int(rows)
        if known is not None:
            return max(known - self.span, 0)
        return maximum(rows - self.span, 0) if self.span else rows

    def view(self, tap: int, go_backwards: bool) -> Any:
        """Row t of the view is what the tap reads at step t."""
        start = tap + self.before
        if not go_backwards:
            return self.node[start:] if start else self.node
        stop = as_size_node(sizes(self.node)[0]) - (self.span - start)
        return (self.node[start:stop] if self.span else self.node)[::-1]

    def slices(self) -> list[Any]:
        """Fresh variables for what a step reads: one row per tap."""
        row = self.node.type.with_shape(self.node.type.shape[1:])
        name = self.node.name or f"sequence {self.place}"
        return [new_input(row, f"{name}[t{k:+d}]" if k else f"{name}[t]") for k in self.taps]

    def describe(self) -> str:
        """As a message names it."""
        name = repr(self.node.name) if self.node.name else str(self.place)
        taps = f" with taps {self.taps}" if self.taps != [0] else ""
        return f"sequence {name}{at(source_of(self.node))}{taps}"


def read_sequence(entry: Any, place: int) -> ReadSequence:
    """One entry of `sequences`: a variable, or a dict with the keys "input" and "taps"."""
    what = f"sequences[{place}]"
    taps: Any = None
    if isinstance(entry, Mapping):
        _check_keys(entry, ("input", "taps"), what)
        if entry.get("input") is None:
            raise OstinatoValueError(f"{what}: the dict needs the key 'input'")
        entry, taps = entry["input"], entry.get("taps")
    node = as_variable(entry, what)
    if node.type.ndim == 0:
        raise OstinatoTypeError(
            f"{what}: a scalar has no rows to go through: {describe(node)}; what is the same at every step "
            "belongs into non_sequences, how many steps to make into n_steps"
        )
    return ReadSequence(node, [0] if taps is None else _read_taps(taps, what), place)


# So many past values are passed on one by one; more are kept in a ring, of which a step overwrites one row.
_SHIFTED = 4

# ---- states ---------------------------------------------------------------------------------------


class State(NamedTuple):
    """An output that is fed back: its initial value and the lags at which steps read it.

    Attributes
    ----------
    given : the initial value as the user gave it; of a ring, its first rows.
    init : the same in the dtype with which the loop starts.
    name, source : the user's name of the initial value, if there is one, and the line that made it.
    place : which output it is.
    """

    given: Any
    init: Any
    taps: list[int]
    name: str | None
    source: SourceLine | None
    place: int

    @property
    def label(self) -> str:
        """How variables are named after it."""
        return self.name or f"output {self.place}"

    @property
    def title(self) -> str:
        """How messages name it."""
        return repr(self.name) if self.name else f"of output {self.place}"

    @property
    def depth(self) -> int:
        """How many past values a step can look back."""
        return max(-t for t in self.taps)

    @property
    def is_ring(self) -> bool:
        """Whether several past values are kept, or one that is not the last."""
        return self.taps != [-1]

    @property
    def is_bare(self) -> bool:
        """Whether it starts from a bare Python integer, which takes the dtype of what the step returns."""
        return is_weak(self.given) and self.given.type.dtype in INTEGERS

    @property
    def row(self) -> TensorType:
        """The type of one value."""
        whole: TensorType = self.init.type
        return whole.with_shape(whole.shape[1:]) if self.is_ring else whole

    @property
    def is_shifted(self) -> bool:
        """Whether past values are a carry each, handed on from step to step, and not rows of one."""
        return self.is_ring and self.depth <= _SHIFTED

    def inits(self) -> list[Any]:
        """What the carries start from; of shifted ones the last value first."""
        return [self.init[k] for k in reversed(range(self.depth))] if self.is_shifted else [self.init]

    def carries(self) -> list[Any]:
        """Fresh variables for what is passed from step to step."""
        if self.is_shifted:
            return [new_input(self.row, f"{self.label}[t-{k}]") for k in range(1, self.depth + 1)]
        return [new_input(self.init.type, f"{self.label}[t-{self.depth}:t]" if self.is_ring else f"{self.label}[t-1]")]

    def reads(self, carries: Sequence[Any], t: Any) -> list[Any]:
        """What a step sees of it: the carry itself, or several past values."""
        if not self.is_ring:
            return list(carries)
        if self.is_shifted:
            return [carries[-tap - 1] for tap in self.taps]
        rows = [carries[0][(t + (self.depth + tap)) % self.depth] for tap in self.taps]
        for row, tap in zip(rows, self.taps, strict=True):
            row.name = f"{self.label}[t{tap}]"
        return rows

    def nexts(self, carries: Sequence[Any], value: Any, t: Any) -> list[Any]:
        """The carries of the next step after one that returns `value`."""
        if self.is_shifted:
            return [value, *carries[:-1]]
        return [set_subtensor(carries[0][t % self.depth], value) if self.is_ring else value]

    def last(self, finals: Sequence[Any], trips_done: Any) -> Any:
        """The last value, from the final carries."""
        return finals[0][(trips_done - 1) % self.depth] if self.is_ring and not self.is_shifted else finals[0]

    def narrowed(self) -> State:
        """With the smallest dtype that holds a bare integer, so that it does not widen what it meets."""
        smallest = np.min_scalar_type(self.given.data.item()).name if self.is_bare else "uint64"
        return self if smallest == "uint64" else self.with_dtype(smallest)

    def widened(self) -> State:
        """With int64, where a bare integer met nothing but integers: counters do not overflow."""
        own = self.init.type.dtype
        return self.with_dtype("int64") if self.is_bare and own in INTEGERS and own != "uint64" else self

    def with_dtype(self, dtype: str) -> State:
        """Started in another dtype; `can_start_as` tells whether that loses something."""
        if self.init.type.dtype == dtype:
            return self
        if self.is_bare:
            what = f"the initial value of the state {self.title}"
            return self._replace(init=constant(convert(self.given.data.item(), TensorType(dtype, ()), what)))
        if self.given.op is CONSTANT:
            return self._replace(init=constant(self.given.data.astype(dtype)))
        return self._replace(init=cast(self.given, dtype))

    def can_start_as(self, dtype: str) -> bool:
        """Whether the initial value keeps its value in a dtype; a bare integer may be rounded."""
        if self.is_bare:
            return True  # `with_dtype` raises where it is out of range
        if self.given.op is CONSTANT:
            own = self.given.data
            with np.errstate(all="ignore"):
                back = own.astype(dtype).astype(own.dtype)
            return bool(np.array_equal(back, own, equal_nan=own.dtype.kind == "f"))
        return is_lossless(self.given.type.dtype, dtype)


def read_state(entry: Any, place: int) -> State | None:
    """One entry of `outputs_info`; None for an output that is not fed back."""
    what = f"outputs_info[{place}]"
    taps: Any = None
    if isinstance(entry, Mapping):
        _check_keys(entry, ("initial", "taps", "inplace"), what)
        taps = entry.get("taps")
        if entry.get("initial") is None and taps is not None:
            raise OstinatoValueError(f"{what}: taps {taps} need an 'initial' value")
        entry = entry.get("initial")
    if entry is None:
        return None
    taps = [-1] if taps is None else _read_taps(taps, what)
    if any(t >= 0 for t in taps):
        raise OstinatoValueError(
            f"{what}: a state is read in the past, so its taps are negative, not {taps}; -1 is the step before"
        )
    node = as_variable(entry, what)
    state = State(node, node, taps, node.name, source_of(node), place)
    if state.is_ring:
        rows = _history(state, what)
        state = state._replace(given=rows, init=rows)
    return state


def _history(state: State, what: str) -> Any:
    """The first rows of the initial value, oldest first: one per step that the taps look back."""
    node, depth = state.given, state.depth
    rows = node.type.shape[0] if node.type.ndim else None
    if node.type.ndim == 0 or (rows is not None and rows < depth):
        found = "is a scalar" if node.type.ndim == 0 else f"has {rows}"
        raise OstinatoValueError(
            f"{what}: taps {state.taps} need {depth} initial row(s), one per step that they look back and the oldest "
            f"first, but {describe(node)} {found}"
        )
    if node.op is CONSTANT:
        return constant(node.data[:depth])
    return check_rows(node, depth, f"the initial value {describe(node)}, read with taps {state.taps},")[:depth]


# ---- how many steps -------------------------------------------------------------------------------


def read_trip_count(n_steps: Any, sequences: Sequence[ReadSequence]) -> Any:
    """The number of steps as an int64 scalar node, checked here where it is known and at run time where it is not."""
    lengths = [s.length() for s in sequences]
    if n_steps is None:
        return _shortest(lengths)
    node = as_variable(n_steps, "n_steps")
    if node.type.dtype not in INTEGERS or node.type.ndim:
        raise OstinatoTypeError(
            f"n_steps is an integer scalar, not {describe(node)}; "
            "convert it by int(...), or by T.cast(..., 'int64') if it is symbolic"
        )
    n = as_int_scalar(node, "n_steps")
    known = static_int(n)
    if known is not None:
        _check_steps(known, sequences, lengths)
    open_ones = [i for i, k in enumerate(lengths) if known is None or not isinstance(k, int)]
    if known is not None and not open_ones:
        return n
    return trip_count(n, [as_size_node(lengths[i]) for i in open_ones], [sequences[i].describe() for i in open_ones])


def _shortest(lengths: Sequence[Any]) -> Any:
    if not lengths:
        raise OstinatoValueError(
            "scan without sequences needs n_steps: how many steps to make, or with until how many at most"
        )
    known = [k for k in lengths if isinstance(k, int)]
    nodes = [k for k in dict.fromkeys(lengths) if not isinstance(k, int)]
    candidates = [*nodes, *([as_size_node(min(known))] if known else [])]
    shortest = candidates[0]
    for length in candidates[1:]:
        shortest = minimum(shortest, length)
    return shortest


def _check_steps(n: int, sequences: Sequence[ReadSequence], lengths: Sequence[Any]) -> None:
    if n < 0:
        raise OstinatoValueError(f"n_steps is {n}; it cannot be negative")
    short = [
        f"{s.describe()} allows {k}" for s, k in zip(sequences, lengths, strict=True) if isinstance(k, int) and k < n
    ]
    if short:
        raise OstinatoValueError(f"n_steps is {n}, but {', '.join(short)}")


# ---- memory ---------------------------------------------------------------------------------------


def read_checkpoint(given: Any) -> Checkpoint | None:
    """The argument `checkpoint` of `scan`; None where nothing was asked for."""
    if given is None or given == "auto":
        return None
    if isinstance(given, str):
        return Checkpoint() if given == "none" else Checkpoint(budget=read_bytes(given, "checkpoint"))
    if isinstance(given, (int, np.integer)) and not isinstance(given, bool) and given >= 1:
        return Checkpoint(every=int(given))
    raise OstinatoValueError(
        "checkpoint is None, 'auto', 'none', how many steps there are between two states that are kept (at least 1), "
        f"or a number of bytes such as '64MB', not {given!r}"
    )


def read_parallel(given: Any) -> Parallel:
    """Whether chunks of steps may run side by side."""
    if isinstance(given, (bool, np.bool_)):
        return bool(given)
    if isinstance(given, str) and given == "auto":
        return "auto"
    raise OstinatoValueError(f'parallel is True, False or "auto", not {given!r}')
