"""`scan` and its special cases `map`, `reduce`, `foldl`, `foldr`: one step in, the whole loop out.

The interface and its semantics are Theano's. Here the step is traced and a Loop is built: taps become
slices of sequences and rings of past values, shared variables that a step updates become carries, whatever
the step uses from outside becomes an invariant. How arguments are read: `ostinato.scan_arguments`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from ostinato.closing import read_updates
from ostinato.errors import (
    MissingInputError,
    OstinatoTypeError,
    OstinatoValueError,
    ShapeError,
    SourceLine,
    bullet_list,
)
from ostinato.errors import at as at_line
from ostinato.graph import Node, dependents, substitute, topological
from ostinato.keeping import Kept, at, read_keep
from ostinato.ops.creation import arange
from ostinato.ops.elementwise import cast, logical_not, minimum
from ostinato.ops.leaf import CONSTANT, describe, new_input
from ostinato.ops.loop import Body, LoopInputs, LoopResults, build_loop, kept_rows
from ostinato.scan_arguments import (
    ReadSequence,
    State,
    listed,
    read_checkpoint,
    read_parallel,
    read_sequence,
    read_state,
    read_trip_count,
)
from ostinato.shared import SharedVariable
from ostinato.tracing import Step, enclosing, tracing
from ostinato.types import TensorType, is_lossless, promote
from ostinato.values import as_variable

Updates = dict[Any, Any]


class until:  # noqa: N801  (Theano's name: it reads as a word of the step)
    """Returned by a step beside its outputs: stop after the step in which `condition` holds.

    Parameters
    ----------
    condition : scalar variable
        True (non-zero) after the last step that counts.

    Raises
    ------
    OstinatoTypeError
        If the condition is not a scalar.
    """

    def __init__(self, condition: Any) -> None:
        node = as_variable(condition, "until")
        if node.type.ndim != 0:
            raise OstinatoTypeError(
                f"until expects a scalar condition, got {describe(node)}; reduce it by .all() or .any()"
            )
        self.condition = cast(node, "bool")


# ---- what a step returned -------------------------------------------------------------------------


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


def _read_step(returned: Any, label: str) -> _Step:
    """Sort what a step returned into outputs, updates and the condition to stop."""
    parts = [returned] if _is_updates(returned) or not isinstance(returned, (list, tuple)) else list(returned)
    conditions = [p.condition for p in parts if isinstance(p, until)]
    updates = [p for p in parts if _is_updates(p)]
    rest = [p for p in parts if not isinstance(p, until) and not _is_updates(p)]
    rest = [p for p in rest if not isinstance(p, (list, tuple)) or p]  # an empty list is no updates as pairs
    if len(conditions) > 1 or len(updates) > 1:
        raise OstinatoValueError(f"{label} returns more than one until(...) or more than one collection of updates")
    if len(rest) == 1 and isinstance(rest[0], (list, tuple)):
        rest = list(rest[0])
    if (conditions or updates) and len(rest) == 1 and rest[0] is None:
        rest = []
    _check_symbolic(rest, label)
    what = f"{label} returns updates (outputs go into a list)"
    pairs = read_updates(updates[0], what) if updates else []
    return _Step(rest, pairs, conditions[0] if conditions else None)


def _check_symbolic(outputs: list[Any], label: str) -> None:
    if len(outputs) == 1 and outputs[0] is None:
        raise OstinatoTypeError(f"{label} returns None instead of symbolic variables; is its return statement missing?")
    wrong = [
        f"output {i} is {v!r:.60} of type {type(v).__name__}" for i, v in enumerate(outputs) if not isinstance(v, Node)
    ]
    if wrong:
        raise OstinatoTypeError(
            f"{label} must return symbolic variables (T.constant makes one of a number, T.as_tensor of an array), but "
            + bullet_list(wrong)
        )


def _step_label(fn: Callable[..., Any]) -> str:
    """How a message names the step: `the step 'step' (model.py:14)`."""
    inner: Any = fn
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__name__", type(inner).__name__)
    inner = inspect.unwrap(inner)
    code = getattr(inner, "__code__", None) or getattr(inner.__call__, "__code__", None)
    return f"the step {name!r}{at_line(SourceLine(code.co_filename, code.co_firstlineno) if code else None)}"


# ---- tracing the step -----------------------------------------------------------------------------


class _Trace:
    """The step called on fresh variables, again until the dtypes of its states hold still.

    Attributes
    ----------
    t : the number of the step.
    slices : what the step reads of the sequences.
    made : the step as draws of random streams know it, and the states of those that it makes.
    states, carries : the outputs that are fed back, and the variables for what is passed on.
    step : what the last call returned.
    """

    states: list[State]
    carries: list[list[Any]]
    step: _Step

    def __init__(
        self, fn: Callable[..., Any], sequences: Sequence[ReadSequence], infos: Sequence[State | None], rest: list[Any]
    ) -> None:
        if not callable(fn):
            raise OstinatoTypeError(f"scan expects a function that makes one step, got {fn!r:.60}")
        self._fn, self._infos, self._rest = fn, infos, rest
        self.label = _step_label(fn)
        self.t = new_input(TensorType("int64", ()), "t")
        self.made = Step(self.t)
        self.slices = [x for s in sequences for x in s.slices()]
        narrow = [s.narrowed() for s in infos if s is not None]
        try:
            self._settle(narrow)
            wide = [s.widened() for s in self.states]
            settled = all(new is old for new, old in zip(wide, self.states, strict=True))
        except Exception:
            if not any(s.is_bare for s in narrow):
                raise
            # Once more with the dtype that bare integers usually have: that is what a message should tell of.
            wide, settled = [s.widened() for s in narrow], False
        if not settled:
            self._settle(wide)

    def _settle(self, states: list[State]) -> None:
        """Call the step, widening its states, until each returns the dtype in which it starts."""
        while True:  # each turn but the last widens a state, and there are few dtypes
            self.made.states.clear()
            self.states, self.carries = states, [s.carries() for s in states]
            with tracing(self.made):
                returned_by_user = self._call()
            self.step = _read_step(returned_by_user, self.label)
            returned = self._fed_back()
            dtypes = [promote(s.init.type.dtype, v.type.dtype) for s, v in zip(states, returned, strict=True)]
            self._check(dtypes, returned)
            states = [s.with_dtype(d) for s, d in zip(states, dtypes, strict=True)]
            if all(new is old for new, old in zip(states, self.states, strict=True)):
                return

    def _call(self) -> Any:
        """The step's result for these variables; an error of Ostinato if it takes others."""
        reads = [r for s, c in zip(self.states, self.carries, strict=True) for r in s.reads(c, self.t)]
        args = [*self.slices, *reads, *self._rest]
        try:
            signature = inspect.signature(self._fn)
        except (ValueError, TypeError):  # a builtin that does not tell its signature
            return self._fn(*args)
        try:
            signature.bind(*args)
        except TypeError as error:
            passed = ", ".join(str(a) for a in args) or "nothing"
            raise OstinatoTypeError(
                f"{self.label} takes {signature}, but scan passes {len(args)} argument(s): {passed}; {error}. "
                "It gets a row per tap of each sequence, a past value per tap of each output that has an initial "
                "value, and the non-sequences"
            ) from None
        return self._fn(*args)

    def _fed_back(self) -> list[Any]:
        """The outputs that are states, in order."""
        outputs, infos = self.step.outputs, self._infos
        if infos and len(outputs) != len(infos):
            raise OstinatoValueError(
                f"{self.label} returns {len(outputs)} output(s), but outputs_info has {len(infos)}; "
                "there is one entry per output, None for an output that is not fed back"
            )
        return [o for o, info in zip(outputs, infos, strict=False) if info is not None]

    def _check(self, dtypes: list[str], returned: list[Any]) -> None:
        """Raise if a state's initial value and what the step returns cannot have one type; all of them at once."""
        problems, only_sizes = [], True
        for state, carries, dtype, value in zip(self.states, self.carries, dtypes, returned, strict=True):
            row = state.row.shape
            if len(row) != value.type.ndim or any(
                a is not None and b is not None and a != b for a, b in zip(row, value.type.shape, strict=True)
            ):
                problems.append(_shape_problem(state, value))
                only_sizes = only_sizes and len(row) == value.type.ndim
            elif not (state.can_start_as(dtype) and is_lossless(value.type.dtype, dtype)):
                problems.append(_dtype_problem(state, carries, dtype, value))
                only_sizes = False
        if problems:
            kind = ShapeError if only_sizes else OstinatoTypeError
            raise kind(f"{self.label}: {bullet_list(problems)}")


def _what(state: State) -> str:
    dtype = f" and is read as {state.init.type.dtype}" if state.init.type.dtype != state.given.type.dtype else ""
    ring = f" (one row per tap of {state.taps})" if state.is_ring else ""
    return f"the state {state.title} starts as {state.given.type}{ring}{at_line(state.source)}{dtype}"


def _shape_problem(state: State, value: Any) -> str:
    row = state.row.shape
    if len(row) == value.type.ndim:
        fix = f"start from an initial value of shape {_shape(value.type)}, or return one of shape {_shape(state.row)}"
    else:
        fix = f"start from an initial value with {value.type.ndim + state.is_ring} dimension(s)"
    return f"{_what(state)}, but the step returns {describe(value)}; a state keeps its shape: {fix}"


def _shape(type_: TensorType) -> str:
    sizes = ", ".join("?" if s is None else str(s) for s in type_.shape)
    return f"({sizes},)" if type_.ndim == 1 else f"({sizes})"


def _dtype_problem(state: State, carries: list[Any], dtype: str, value: Any) -> str:
    start, own = state.given.type.dtype, value.type.dtype
    fixes = []
    if not state.can_start_as(dtype):
        fix = f"start from {state.name}" if state.name else "convert the initial value by "
        fixes.append(f"{start} does not become {dtype} without loss: {fix}.astype({dtype!r})")
    if not is_lossless(own, dtype):
        fixes.append(f"{own} does not become {dtype} without loss: return it converted by .astype({dtype!r})")
    return f"{_what(state)}, but the step returns {describe(value)}{_cause(carries, value)}; {', and '.join(fixes)}"


def _cause(carries: list[Any], value: Any) -> str:
    """What in the step brought a dtype that the state does not have."""
    below = dependents([value], set(carries))
    for node in topological([value], stop=set(carries)):
        if node in below and node.type.dtype == value.type.dtype != carries[0].type.dtype:
            others = [i for i in node.inputs if i not in below and i.type.dtype == value.type.dtype]
            if others:
                return f", because of {others[0] if others[0].op is CONSTANT else describe(others[0])}"
    return ""


# ---- building the loop ----------------------------------------------------------------------------


class _Built(NamedTuple):
    """A scan's results: stacked outputs, last values of outputs, shared variables' values after the last step."""

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
    checkpoint: Any = None,
    keep: Any = None,
    parallel: Any = "auto",
) -> _Built:
    reads = [read_sequence(s, i) for i, s in enumerate(listed(sequences))]
    infos = [read_state(s, i) for i, s in enumerate(listed(outputs_info))]
    rest = [as_variable(v, f"non_sequences[{i}]") for i, v in enumerate(listed(non_sequences))]
    n = read_trip_count(n_steps, reads)
    truncate = _read_truncate(truncate_gradient)
    trace = _Trace(fn, reads, infos, rest)
    if strict:
        _check_strict(trace, rest)
    body, inits = _body(trace, infos)
    views = tuple([s.view(k, go_backwards) for s in reads for k in s.taps])
    kept = Kept(read_keep(keep, len(body.outputs), trace.label), [describe(o) for o in body.outputs])
    body, given = kept.extended(body, LoopInputs(n, views, tuple(inits), ()))
    parallel = read_parallel(parallel)
    loop = kept.thinned(build_loop(body, given, truncate, name, read_checkpoint(checkpoint), parallel))
    if parallel is True:
        from ostinato.rewrite.associative import check_composable

        check_composable(loop.trips_done.inputs[0], trace.label)
    updated = [v for v, _ in trace.step.updates]
    changed = loop.finals[len(inits) - len(updated) : len(inits)]

    # Only who asks for last values must have some: an output that is not fed back has none after no steps.
    updates = dict(zip(updated, changed, strict=True))
    if not enclosing():  # in a step of another loop they would be counted there too
        updates |= {s: s.default_update for s in trace.made.states if s not in updates}

    def finals() -> list[Any]:
        return _finals(trace, infos, loop)

    return _Built(kept.outputs(loop, finals), finals, updates)


def _read_truncate(truncate_gradient: Any) -> int | None:
    if not isinstance(truncate_gradient, (int, np.integer)) or truncate_gradient < -1 or truncate_gradient == 0:
        raise OstinatoValueError(
            f"truncate_gradient is how many last steps derivatives go back, or -1 for all, not {truncate_gradient!r}"
        )
    return None if truncate_gradient == -1 else int(truncate_gradient)


def _check_strict(trace: _Trace, rest: list[Any]) -> None:
    step = trace.step
    known = {trace.t, *trace.slices, *chain.from_iterable(trace.carries), *rest, *[v for v, _ in step.updates]}
    known |= {*trace.made.states, *[s.t for s in enclosing()]}
    roots = [*step.outputs, *[v for _, v in step.updates], *([] if step.condition is None else [step.condition])]
    missed = [n for n in topological(roots, stop=known) if not n.inputs and n.op is not CONSTANT and n not in known]
    if missed:
        raise MissingInputError(
            "with strict=True the step may use only what is passed; missing in non_sequences: "
            + ", ".join([describe(n) for n in missed])
        )


def _body(trace: _Trace, infos: Sequence[State | None]) -> tuple[Body, list[Any]]:
    """The Loop's body and initial carries: states first, then shared variables that the step updates."""
    step, t = trace.step, trace.t
    returned = iter(zip(trace.states, trace.carries, strict=True))
    nexts: list[Any] = []
    outputs = []
    for i, value in enumerate(step.outputs):
        if i < len(infos) and infos[i] is not None:
            state, carries = next(returned)
            value = cast(value, state.init.type.dtype)
            nexts += state.nexts(carries, value, t)
        outputs.append(value)
    updated = [v for v, _ in step.updates]
    inner: dict[Node, Any] = {v: new_input(v.type, v.name) for v in updated}
    go_on = [] if step.condition is None else [logical_not(step.condition)]
    results = substitute([*nexts, *[v for _, v in step.updates], *outputs, *go_on], inner)
    c = len(nexts) + len(updated)
    body = Body(
        t,
        tuple(trace.slices),
        (*chain.from_iterable(trace.carries), *inner.values()),
        (),
        tuple(results[:c]),
        tuple(results[c : c + len(outputs)]),
        results[-1] if go_on else None,
    )
    return body, [*[i for s in trace.states for i in s.inits()], *updated]


def _finals(trace: _Trace, infos: Sequence[State | None], loop: LoopResults) -> list[Any]:
    """The last value of each output; for a state after no steps its initial value."""
    finals, rest, states = [], iter(loop.finals), iter(trace.states)
    for i, output in enumerate(loop.outputs):
        if i < len(infos) and infos[i] is not None:
            state = next(states)
            finals.append(state.last([next(rest) for _ in state.inits()], loop.trips_done))
        else:
            finals.append(output[-1])
    return finals


def _returned(values: list[Any], return_list: bool) -> Any:
    if return_list:
        return values
    return values[0] if len(values) == 1 else values or None


# ---- the public functions -------------------------------------------------------------------------


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
    checkpoint: int | str | None = None,
    keep: Any = None,
    parallel: bool | str = "auto",
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
    checkpoint : None, "auto", "none", int or str
        What derivatives keep of the steps. By default, and for "none", all that they need. An int k: the states
        at every k-th step, from which the steps between are made again when they are needed. A number of bytes
        as a string, such as "64MB" or "2GiB": as much as fits. Derivatives are the same.
    keep : "all", "last", every(k), at(indices), or a list of these, optional
        Which steps of an output are kept, one entry per output or one for all; nothing else is stored. With
        "last" the output has no dimension of steps. See `every` and `at`.
    parallel : bool or "auto"
        True: chunks of the steps run side by side, which fills vectors and can be divided among threads. The states
        must be of a kind whose steps can be composed before the states are known: affine in the state (sums,
        products, moving averages, filters, gated linear networks, products of matrices), running extremes,
        logsumexp and the like. Results differ by roundings. "auto" and False: one step after the other;
        for "auto" `Function.explain` tells where True would be possible.
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
    OstinatoTypeError, OstinatoValueError, ShapeError
        If an argument, or what the step returns, does not fit; see the message.
    MissingInputError
        See `strict`.

    Notes
    -----
    A state whose initial value has another dtype than what the step returns is promoted where nothing is
    lost. A bare integer as initial value, such as 0, takes the dtype of what the step returns, int64 among
    integers. A step may be called more than once to find that out. With no steps, outputs have 0 rows.
    """
    built = _build(
        fn,
        sequences,
        outputs_info,
        non_sequences,
        n_steps,
        truncate_gradient,
        go_backwards,
        name,
        strict,
        checkpoint,
        keep,
        parallel,
    )
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
    """`fn` applied to each row of the sequences: a `scan` without feedback.

    Parameters
    ----------
    fn, sequences, non_sequences, truncate_gradient, go_backwards, mode, name
        See `scan`.

    Returns
    -------
    outputs, updates
        See `scan`.
    """
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
    checkpoint: int | str | None = None,
    parallel: bool | str = "auto",
) -> tuple[Any, Updates]:
    """The last outputs of a `scan`; after no steps the initial values.

    Parameters
    ----------
    fn, sequences, outputs_info, non_sequences, go_backwards, mode, name, checkpoint, parallel
        See `scan`.

    Returns
    -------
    outputs : variable, list or None
        One value per output, of the shape of one step's output.
    updates : dict
        See `scan`.

    Raises
    ------
    OstinatoIndexError
        When it runs, if there are no steps and an output has no initial value.
    """
    built = _build(
        fn, sequences, outputs_info, non_sequences, None, -1, go_backwards, name, False, checkpoint, parallel=parallel
    )
    return _returned(built.finals(), False), built.updates


def foldl(
    fn: Callable[..., Any],
    sequences: Any,
    outputs_info: Any,
    non_sequences: Any = None,
    mode: Any = None,
    name: str | None = None,
    checkpoint: int | str | None = None,
    parallel: bool | str = "auto",
) -> tuple[Any, Updates]:
    """`reduce` from the first row to the last; see there."""
    return reduce(fn, sequences, outputs_info, non_sequences, False, mode, name, checkpoint, parallel)


def foldr(
    fn: Callable[..., Any],
    sequences: Any,
    outputs_info: Any,
    non_sequences: Any = None,
    mode: Any = None,
    name: str | None = None,
    checkpoint: int | str | None = None,
    parallel: bool | str = "auto",
) -> tuple[Any, Updates]:
    """`reduce` from the last row to the first; see there."""
    return reduce(fn, sequences, outputs_info, non_sequences, True, mode, name, checkpoint, parallel)


def scan_checkpoints(
    fn: Callable[..., Any],
    sequences: Any = None,
    outputs_info: Any = None,
    non_sequences: Any = None,
    name: str | None = None,
    n_steps: Any = None,
    save_every_N: int = 10,
    padding: bool = True,
) -> tuple[Any, Updates]:
    """Theano's `scan` with checkpoints: each N-th step is kept, and derivatives make the steps between again.

    Parameters
    ----------
    fn, sequences, outputs_info, non_sequences, name, n_steps
        See `scan`. Taps, several states and outputs that are not fed back are allowed, which they were not in Theano.
    save_every_N : int
        How many steps there are between two that are kept, at least 1.
    padding : bool
        Accepted for Theano's sake: any number of steps will do.

    Returns
    -------
    outputs : variable, list or None
        Of each output the values after N, 2 N, ... steps, and after the last one, which is the last row.
    updates : dict
        See `scan`.

    Notes
    -----
    `scan` itself does this, and more, with its arguments `checkpoint` and `keep`.
    """
    every: Any = save_every_N
    if not isinstance(every, (int, np.integer)) or isinstance(every, bool) or every < 1:
        raise OstinatoValueError(f"save_every_N is a number of steps of at least 1, not {every!r}")
    every = int(every)
    n = read_trip_count(n_steps, [read_sequence(s, i) for i, s in enumerate(listed(sequences))])
    ends = minimum((arange(kept_rows(n, every)) + 1) * every, n) - 1
    return scan(fn, sequences, outputs_info, non_sequences, n_steps, name=name, checkpoint=every, keep=at(ends))
