"""`scan` and its special cases `map`, `reduce`, `foldl`, `foldr`: one step in, the whole loop out.

The interface and its semantics are Theano's. Here arguments are read and checked, the step is traced,
and a Loop is built: taps become slices of sequences and rings of past values, shared variables that a
step updates become carries, whatever the step uses from outside becomes an invariant.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ostinato.errors import OstinatoTypeError, OstinatoValueError, at, bullet_list
from ostinato.function import fit_update
from ostinato.graph import Node, substitute, topological
from ostinato.ops.control import check_rows, trip_count
from ostinato.ops.elementwise import cast, logical_not, maximum, minimum
from ostinato.ops.indexing import set_subtensor
from ostinato.ops.leaf import CONSTANT, as_int_scalar, as_tensor, constant, describe, new_input, static_int
from ostinato.ops.loop import Body, LoopInputs, LoopResults, build_loop
from ostinato.ops.sizes import as_size_node, sizes
from ostinato.shared import SharedVariable
from ostinato.types import SIGNED, TensorType, is_lossless, promote

Updates = dict[Any, Any]


class until:
    """Returned by a step beside its outputs: stop after the step in which `condition` holds.

    Parameters
    ----------
    condition : scalar variable
        True (non-zero) after the last step that counts.
    """

    def __init__(self, condition: Any) -> None:
        node = as_tensor(condition)
        if node.type.ndim != 0:
            raise OstinatoTypeError(f"until expects a scalar condition, got {describe(node)}")
        self.condition = cast(node, "bool")


# ---- reading the arguments ------------------------------------------------------------------------


class _Sequence(NamedTuple):
    """A sequence with its taps: tap k reads row t + k."""

    node: Any
    taps: list[int]
    label: str

    @property
    def before(self) -> int:
        return -min(0, *self.taps, 0)

    @property
    def span(self) -> int:
        """By how many rows the taps shorten the sequence."""
        return max(0, *self.taps, 0) + self.before

    def length(self) -> Any:
        rows = as_size_node(sizes(self.node)[0])
        return maximum(rows - self.span, 0) if self.span else rows

    def view(self, tap: int, go_backwards: bool) -> Any:
        """Row t of the view is what the tap reads at step t."""
        start = tap + self.before
        if not go_backwards:
            return self.node[start:] if start else self.node
        stop = as_size_node(sizes(self.node)[0]) - (self.span - start)
        return (self.node[start:stop] if self.span else self.node)[::-1]

    def describe(self) -> str:
        taps = f" with taps {self.taps}" if self.taps != [0] else ""
        return f"sequence {self.label}{taps}"


class _State(NamedTuple):
    """An output that is fed back: its initial value and the lags at which steps read it."""

    init: Any
    taps: list[int]
    label: str
    weak: bool

    @property
    def depth(self) -> int:
        return max(-t for t in self.taps)

    @property
    def is_ring(self) -> bool:
        return self.taps != [-1]


def _listed(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _read_taps(taps: Any, what: str) -> list[int]:
    read = [taps] if isinstance(taps, (int, np.integer)) else list(taps)
    if not read or any(not isinstance(t, (int, np.integer)) or isinstance(t, bool) for t in read):
        raise OstinatoTypeError(f"{what}: taps are a list of ints, not {taps!r}")
    if len(set(read)) != len(read):
        raise OstinatoValueError(f"{what}: tap listed twice in {read}")
    return [int(t) for t in read]


def _check_keys(entry: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    unknown = [k for k in entry if k not in known]
    if unknown:
        raise OstinatoValueError(f"{what}: unknown key {unknown[0]!r}; there is {', '.join(known)}")


def _read_sequence(entry: Any, place: int) -> _Sequence:
    what = f"sequence {place}"
    taps: Any = [0]
    if isinstance(entry, Mapping):
        _check_keys(entry, ("input", "taps"), what)
        if "input" not in entry:
            raise OstinatoValueError(f"{what}: the dict needs the key 'input'")
        if entry.get("taps") is not None:
            taps = entry["taps"]
        entry = entry["input"]
    node = as_tensor(entry)
    if node.type.ndim == 0:
        raise OstinatoTypeError(f"{what}: a scalar cannot be iterated over: {describe(node)}")
    return _Sequence(node, _read_taps(taps, what), repr(node.name) if node.name else str(place))


def _read_state(entry: Any, place: int) -> _State | None:
    what = f"outputs_info[{place}]"
    taps: Any = [-1]
    if isinstance(entry, Mapping):
        _check_keys(entry, ("initial", "taps", "inplace", "return_steps"), what)
        if entry.get("taps") is not None:
            taps = entry["taps"]
        if entry.get("initial") is None:
            if "taps" in entry and entry["taps"] is not None:
                raise OstinatoValueError(f"{what}: taps need an 'initial' value")
            entry = None
        else:
            entry = entry["initial"]
    if entry is None:
        return None
    taps = _read_taps(taps, what)
    if any(t >= 0 for t in taps):
        raise OstinatoValueError(f"{what}: a state is read in the past, so its taps are negative, not {taps}")
    node = as_tensor(entry)
    weak = node.op is CONSTANT and node.params[0].weak and node.type.dtype in SIGNED
    state = _State(node, taps, node.name or f"output {place}", weak)
    if state.is_ring:
        state = state._replace(init=_history(state, what))
    return state


def _history(state: _State, what: str) -> Any:
    """The first rows of the initial value, oldest first: one per step that the taps look back."""
    node, depth = state.init, state.depth
    if node.type.ndim == 0:
        raise OstinatoTypeError(
            f"{what}: taps {state.taps} need {depth} initial rows, but {describe(node)} is a scalar"
        )
    rows = node.type.shape[0]
    if rows is not None and rows < depth:
        raise OstinatoValueError(
            f"{what}: taps {state.taps} need {depth} initial rows, but {describe(node)} has {rows}"
        )
    return check_rows(node, depth, f"the initial value {describe(node)}, read with taps {state.taps},")[:depth]


def _read_trip_count(n_steps: Any, sequences: list[_Sequence]) -> Any:
    lengths = [s.length() for s in sequences]
    if n_steps is None:
        if not sequences:
            raise OstinatoValueError(
                "scan without sequences needs n_steps: how many steps to make, or with until how many at most"
            )
        shortest = lengths[0]
        for length in lengths[1:]:
            shortest = shortest if shortest is length else minimum(shortest, length)
        return shortest
    n = as_int_scalar(n_steps, "n_steps")
    known = static_int(n)
    if known is not None and known < 0:
        raise OstinatoValueError(f"n_steps is {known}; it cannot be negative")
    if known is not None and not sequences:
        return n
    return trip_count(n, lengths, [s.describe() for s in sequences])


# ---- tracing the step -----------------------------------------------------------------------------


class _Step(NamedTuple):
    """What one call of the user's step returned."""

    outputs: list[Any]
    updates: list[tuple[SharedVariable, Any]]
    condition: Any


def _is_updates(value: Any) -> bool:
    if isinstance(value, Mapping):
        return True
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(isinstance(p, (list, tuple)) and len(p) == 2 and isinstance(p[0], SharedVariable) for p in value)
    )


def _read_step(returned: Any) -> _Step:
    """Sort what a step returned into outputs, updates and the condition to stop."""
    parts = [returned] if _is_updates(returned) or not isinstance(returned, (list, tuple)) else list(returned)
    conditions = [p.condition for p in parts if isinstance(p, until)]
    updates = [p for p in parts if _is_updates(p)]
    rest = [p for p in parts if not isinstance(p, until) and not _is_updates(p)]
    if len(conditions) > 1 or len(updates) > 1:
        raise OstinatoValueError("a step returns at most one until(...) and one collection of updates")
    if len(rest) == 1 and isinstance(rest[0], (list, tuple)):
        rest = list(rest[0])
    if (conditions or updates) and rest == [None]:
        rest = []
    _check_symbolic(rest)
    pairs = list(updates[0].items() if isinstance(updates[0], Mapping) else updates[0]) if updates else []
    return _Step(rest, _fit_updates(pairs), conditions[0] if conditions else None)


def _check_symbolic(outputs: list[Any]) -> None:
    wrong = [
        f"output {i} is {v!r:.60} of type {type(v).__name__}" for i, v in enumerate(outputs) if not isinstance(v, Node)
    ]
    if wrong:
        raise OstinatoTypeError(
            "the step must return symbolic variables (a number becomes one by T.constant), but " + bullet_list(wrong)
        )


def _fit_updates(pairs: list[tuple[Any, Any]]) -> list[tuple[SharedVariable, Any]]:
    wrong = [repr(v) for v, _ in pairs if not isinstance(v, SharedVariable)]
    if wrong:
        raise OstinatoTypeError(f"a step's updates are of shared variables, not of {', '.join(wrong)}")
    return [(v, fit_update(v, value)) for v, value in pairs]


class _Trace:
    """The step called on fresh variables, again until the dtypes of its states hold still."""

    def __init__(
        self, fn: Callable[..., Any], sequences: list[_Sequence], states: list[_State | None], rest: list[Any]
    ) -> None:
        self.t = new_input(TensorType("int64", ()), "t")
        self.slices = [
            new_input(s.node.type.with_shape(s.node.type.shape[1:]), _tap_name(s.node.name, tap))
            for s in sequences
            for tap in s.taps
        ]
        self.states = [_probe(s) for s in states if s is not None]
        for _ in range(6):  # int8 < int64 < float32 < float64 is the longest way up
            self.carries = [new_input(s.init.type, _carry_name(s)) for s in self.states]
            self.step = _read_step(self._call(fn, rest))
            fixed = [_fixpoint(s, v) for s, v in zip(self.states, self._returned(states), strict=True)]
            _check_states(self.states, fixed, self._returned(states))
            if all(f == s.init.type.dtype for f, s in zip(fixed, self.states, strict=True)):
                break
            self.states = [_with_dtype(s, f) for f, s in zip(fixed, self.states, strict=True)]

    def _returned(self, infos: list[_State | None]) -> list[Any]:
        """The outputs that are states, in order."""
        outputs = self.step.outputs
        if infos and len(outputs) != len(infos):
            raise OstinatoValueError(
                f"the step returns {len(outputs)} output(s), but outputs_info has {len(infos)} entries; "
                "there is one entry per output, None for an output that is not fed back"
            )
        return [o for o, info in zip(outputs, infos, strict=False) if info is not None]

    def _call(self, fn: Callable[..., Any], rest: list[Any]) -> Any:
        reads = [r for s, c in zip(self.states, self.carries, strict=True) for r in _reads(s, c, self.t)]
        args = [*self.slices, *reads, *rest]
        try:
            inspect.signature(fn).bind(*args)
        except TypeError as error:
            names = ", ".join(repr(a) for a in args) or "nothing"
            raise OstinatoTypeError(
                f"the step function cannot be called with what scan passes ({names}): {error}"
            ) from None
        except ValueError:
            pass  # a builtin that does not tell its signature
        return fn(*args)


def _tap_name(name: str | None, tap: int) -> str | None:
    return f"{name}[t{tap:+d}]" if name and tap else f"{name}[t]" if name else None


def _carry_name(state: _State) -> str:
    return f"{state.label}[t-1]" if not state.is_ring else f"{state.label}[t-{state.depth}:t]"


def _reads(state: _State, carry: Any, t: Any) -> list[Any]:
    """What the step sees of a state: the carry itself, or rows of the ring of past values."""
    if not state.is_ring:
        return [carry]
    reads = []
    for tap in state.taps:
        row = carry[(t + (state.depth + tap)) % state.depth]
        row.name = f"{state.label}[t{tap}]"
        reads.append(row)
    return reads


def _probe(state: _State) -> _State:
    """A bare integer starts as the smallest dtype, so that it does not widen what it meets."""
    return _with_dtype(state, "int8") if state.weak and -128 <= state.init.data < 128 else state


def _with_dtype(state: _State, dtype: str) -> _State:
    if state.init.type.dtype == dtype:
        return state
    value = state.init.params[0].array if state.init.op is CONSTANT else None
    init = cast(state.init, dtype) if value is None else constant(value.astype(dtype))
    if init.name is None:
        init.name = state.init.name
    return state._replace(init=init)


def _fixpoint(state: _State, returned: Any) -> str:
    """The dtype in which a state can start and be returned; its initial one if there is none better."""
    own, new = state.init.type.dtype, returned.type.dtype
    joined = promote(own, new)
    if state.weak and joined in SIGNED:
        joined = promote(joined, "int64")
    return joined


def _check_states(states: list[_State], fixed: list[str], returned: list[Any]) -> None:
    """All states whose initial value and returned value cannot have one type, in one message."""
    problems = []
    for state, dtype, value in zip(states, fixed, returned, strict=True):
        row = state.init.type.shape[1:] if state.is_ring else state.init.type.shape
        if len(row) != value.type.ndim or any(
            a is not None and b is not None and a != b for a, b in zip(row, value.type.shape, strict=True)
        ):
            problems.append(_shape_problem(state, row, value))
        elif not _keeps_value(state.init, dtype):
            problems.append(_dtype_problem(state, state.init, dtype, "start from"))
        elif not is_lossless(value.type.dtype, dtype):
            problems.append(_dtype_problem(state, value, dtype, "return"))
    if problems:
        raise OstinatoTypeError("scan: " + bullet_list(problems))


def _keeps_value(init: Any, dtype: str) -> bool:
    if init.op is CONSTANT:
        value = init.params[0].array
        with np.errstate(all="ignore"):
            return bool(
                np.array_equal(value.astype(dtype).astype(value.dtype), value, equal_nan=value.dtype.kind == "f")
            )
    return is_lossless(init.type.dtype, dtype)


def _shape_problem(state: _State, row: tuple[int | None, ...], value: Any) -> str:
    init = state.init.type.with_shape(row)
    fix = (
        "T.zeros_like of what the step returns"
        if len(row) == value.type.ndim
        else f"one of {value.type.ndim} dimension(s)"
    )
    return (
        f"the state {state.label!r} starts as {init}{at(state.init.source)}, but the step returns "
        f"{describe(value)}; a state keeps its shape: start from an initial value like it, {fix}"
    )


def _dtype_problem(state: _State, culprit: Any, dtype: str, verb: str) -> str:
    return (
        f"the state {state.label!r} starts as {state.init.type}{at(state.init.source)} and would have to become {dtype} "
        f"because of what the step returns; {describe(culprit)} does not convert without loss: "
        f"{verb} {culprit.name or 'it'}.astype({dtype!r})"
    )


# ---- scan -----------------------------------------------------------------------------------------


class _Built(NamedTuple):
    """A scan's Loop and what its results are."""

    loop: LoopResults
    outputs: list[Any]
    finals: Callable[[], list[Any]]
    updates: Updates


def _build(
    fn: Callable[..., Any],
    sequences: Any,
    outputs_info: Any,
    non_sequences: Any,
    n_steps: Any,
    truncate_gradient: int,
    go_backwards: bool,
    name: str | None,
    strict: bool,
) -> _Built:
    reads = [_read_sequence(s, i) for i, s in enumerate(_listed(sequences))]
    states = [_read_state(s, i) for i, s in enumerate(_listed(outputs_info))]
    rest = [as_tensor(v) for v in _listed(non_sequences)]
    n = _read_trip_count(n_steps, reads)
    trace = _Trace(fn, reads, states, rest)
    if strict:
        _check_strict(trace, rest)
    body, inits = _body(trace, states)
    given = LoopInputs(n, tuple(s.view(k, go_backwards) for s in reads for k in s.taps), tuple(inits), ())
    loop = build_loop(body, given, _read_truncate(truncate_gradient), name)
    return _Built(loop, loop.outputs, lambda: _finals(trace, states, loop), _final_updates(trace, loop))


def _read_truncate(truncate_gradient: Any) -> int | None:
    if not isinstance(truncate_gradient, (int, np.integer)) or truncate_gradient < -1 or truncate_gradient == 0:
        raise OstinatoValueError(
            f"truncate_gradient is how many last steps derivatives go back, or -1 for all, not {truncate_gradient!r}"
        )
    return None if truncate_gradient == -1 else int(truncate_gradient)


def _check_strict(trace: _Trace, rest: list[Any]) -> None:
    known = {trace.t, *trace.slices, *trace.carries, *rest}
    roots = [*trace.step.outputs, *[v for _, v in trace.step.updates]]
    updated = {v for v, _ in trace.step.updates}
    free = [n for n in topological(roots, stop=known) if not n.inputs and n.op is not CONSTANT]
    missed = [describe(n) for n in free if n not in known and n not in updated]
    if missed:
        raise MissingNonSequence(
            "with strict=True the step may use only what is passed; missing in non_sequences: " + ", ".join(missed)
        )


class MissingNonSequence(OstinatoValueError):
    """A strict scan's step uses a variable that is not among its arguments."""


def _body(trace: _Trace, infos: list[_State | None]) -> tuple[Body, list[Any]]:
    """The Loop's body and initial carries: states first, then shared variables that the step updates."""
    step, t = trace.step, trace.t
    returned = iter(zip(trace.states, trace.carries, strict=True))
    nexts, outputs = [], []
    for i, value in enumerate(step.outputs):
        if i < len(infos) and infos[i] is not None:
            state, carry = next(returned)
            value = cast(value, state.init.type.dtype)
            nexts.append(set_subtensor(carry[t % state.depth], value) if state.is_ring else value)
        outputs.append(value)
    updated = [v for v, _ in step.updates]
    inner = {v: new_input(v.type, v.name) for v in updated}
    go_on = [] if step.condition is None else [logical_not(step.condition)]
    results = substitute([*nexts, *[v for _, v in step.updates], *outputs, *go_on], inner)
    c = len(nexts) + len(updated)
    body = Body(
        t,
        tuple(trace.slices),
        (*trace.carries, *inner.values()),
        (),
        tuple(results[:c]),
        tuple(results[c : c + len(outputs)]),
        results[-1] if go_on else None,
    )
    return body, [*[s.init for s in trace.states], *updated]


def _finals(trace: _Trace, infos: list[_State | None], loop: LoopResults) -> list[Any]:
    """The last value of each output; for a state after no steps its initial value."""
    finals, carried = [], iter(zip(trace.states, loop.finals, strict=False))
    for i, output in enumerate(loop.outputs):
        if i < len(infos) and infos[i] is not None:
            state, final = next(carried)
            finals.append(final[(loop.trips_done - 1) % state.depth] if state.is_ring else final)
        else:
            finals.append(output[-1])
    return finals


def _final_updates(trace: _Trace, loop: LoopResults) -> Updates:
    n = len(trace.states)
    return {v: loop.finals[n + i] for i, (v, _) in enumerate(trace.step.updates)}


def _returned(values: list[Any], return_list: bool) -> Any:
    if return_list:
        return values
    return values[0] if len(values) == 1 else values or None


def scan(
    fn: Callable[..., Any],
    sequences: Any = None,
    outputs_info: Any = None,
    non_sequences: Any = None,
    n_steps: Any = None,
    truncate_gradient: int = -1,
    go_backwards: bool = False,
    mode: Any = None,
    name: str | None = None,
    profile: Any = False,
    allow_gc: Any = None,
    strict: bool = False,
    return_list: bool = False,
) -> tuple[Any, Updates]:
    """A loop from one symbolic step.

    Parameters
    ----------
    fn : callable
        The step. It gets, in this order: one slice per tap of each sequence, one past value per tap of
        each output that has an initial value, and the non-sequences. It returns the outputs of one step
        (a variable or a list of them), or updates of shared variables (a dict or list of pairs), or
        `until(condition)`, or a tuple of these. Variables that it takes from around it work as well.
    sequences : variable, dict, or list of these, optional
        What is read row by row along the first dimension. `{"input": x, "taps": [-1, 0]}` gives
        x[t - 1] and x[t]; the loop starts where all taps exist. Sequences of unequal length are read as
        far as the shortest goes.
    outputs_info : variable, dict, None, or list of these, optional
        One entry per output: its initial value, of the shape of one step's output; or
        `{"initial": h, "taps": [-2, -1]}` with as many initial rows as the taps look back, the oldest
        first; or None for an output that is not fed back. Initial values are not part of the outputs.
    non_sequences : variable or list of variables, optional
        Passed to each step as they are.
    n_steps : int or integer scalar, optional
        How many steps to make; by default as many as the sequences allow. Needed if there are none.
        With `until` the largest number of steps.
    truncate_gradient : int
        How many of the last steps derivatives go back through; -1 for all.
    go_backwards : bool
        Read sequences from their ends. The outputs stay in the order of the steps.
    name : str, optional
        For messages.
    strict : bool
        Refuse a step that uses variables it was not passed.
    return_list : bool
        Return a list of outputs also if there is only one.
    mode, profile, allow_gc
        Accepted for Theano's sake: a loop is compiled with the function around it.

    Returns
    -------
    outputs : variable, list or None
        Each output stacked along a new first dimension, one row per step made.
    updates : dict
        For each shared variable that the step updates its value after the last step: pass it to `function`.

    Raises
    ------
    OstinatoTypeError, OstinatoValueError
        If an argument, or what the step returns, does not fit; see the message.

    Notes
    -----
    A state whose initial value has another dtype than what the step returns is promoted where nothing is
    lost. A step may be called more than once to find that out. With no steps, outputs have 0 rows.
    """
    built = _build(fn, sequences, outputs_info, non_sequences, n_steps, truncate_gradient, go_backwards, name, strict)
    return _returned(built.outputs, return_list), built.updates


def map(
    fn: Callable[..., Any],
    sequences: Any,
    non_sequences: Any = None,
    truncate_gradient: int = -1,
    go_backwards: bool = False,
    mode: Any = None,
    name: str | None = None,
) -> tuple[Any, Updates]:
    """`fn` applied to each row of the sequences: a `scan` without feedback."""
    return scan(
        fn,
        sequences,
        None,
        non_sequences,
        truncate_gradient=truncate_gradient,
        go_backwards=go_backwards,
        mode=mode,
        name=name,
    )


def reduce(
    fn: Callable[..., Any],
    sequences: Any,
    outputs_info: Any,
    non_sequences: Any = None,
    go_backwards: bool = False,
    mode: Any = None,
    name: str | None = None,
) -> tuple[Any, Updates]:
    """The last outputs of a `scan`; after no steps the initial values."""
    built = _build(fn, sequences, outputs_info, non_sequences, None, -1, go_backwards, name, False)
    return _returned(built.finals(), False), built.updates


def foldl(
    fn: Callable[..., Any],
    sequences: Any,
    outputs_info: Any,
    non_sequences: Any = None,
    mode: Any = None,
    name: str | None = None,
) -> tuple[Any, Updates]:
    """`reduce` from the first row to the last."""
    return reduce(fn, sequences, outputs_info, non_sequences, False, mode, name)


def foldr(
    fn: Callable[..., Any],
    sequences: Any,
    outputs_info: Any,
    non_sequences: Any = None,
    mode: Any = None,
    name: str | None = None,
) -> tuple[Any, Updates]:
    """`reduce` from the last row to the first."""
    return reduce(fn, sequences, outputs_info, non_sequences, True, mode, name)
