"""The Loop: one op for every recurrence, and its reverse, which is a Loop again.

A Loop has exactly one kind of state, the carry. Its node is

    loop(trip_count, *sequences, *carries, *invariants) -> (*final carries, *outputs, trips_done)

and its body a Graph

    (t, *sequence slices, *carries, *invariants) -> (*next carries, *outputs[, keep_going])

Row t of a sequence is read at step t; t counts up from 0. Taps, reversals and offsets are views made
outside the loop by ordinary slices; a history is a carry that ordinary indexing ops read and write.
Only `split` and `body_of` know the flat orders above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ostinato.errors import VerificationError
from ostinato.graph import Graph, Node, dependents, make, redirect, substitute, topological
from ostinato.ops.elementwise import cast, le, minimum, where
from ostinato.ops.indexing import set_subtensor
from ostinato.ops.leaf import CONSTANT, constant, describe, new_input
from ostinato.ops.op import Op, Sample, register
from ostinato.ops.sizes import SIZE, Size, as_size_node, broadcast_to, same_size, sizes
from ostinato.types import TensorType, TupleType, fits, join


@dataclass(frozen=True)
class LoopSpec:
    """The static part of a Loop.

    Attributes
    ----------
    body : Graph
    n_sequences, n_carries : how the body's params and results divide.
    has_until : the body's last result says whether another step follows.
    truncate : how many of the last steps a derivative goes back; None for all.
    name : the user's name of the loop, for messages.
    """

    body: Graph
    n_sequences: int
    n_carries: int
    has_until: bool = False
    truncate: int | None = None
    name: str | None = None

    @property
    def n_outputs(self) -> int:
        return len(self.body.results) - self.n_carries - self.has_until


class LoopInputs(NamedTuple):
    """The inputs of a Loop node by kind."""

    trip_count: Any
    sequences: tuple[Any, ...]
    carries: tuple[Any, ...]
    invariants: tuple[Any, ...]


class Body(NamedTuple):
    """Params and results of a Loop's body by kind."""

    t: Any
    sequences: tuple[Any, ...]
    carries: tuple[Any, ...]
    invariants: tuple[Any, ...]
    next_carries: tuple[Any, ...]
    outputs: tuple[Any, ...]
    keep_going: Any


def split(spec: LoopSpec, inputs: Sequence[Any]) -> LoopInputs:
    """The flat inputs of a Loop (nodes or values) by kind."""
    s, c = 1 + spec.n_sequences, 1 + spec.n_sequences + spec.n_carries
    return LoopInputs(inputs[0], tuple(inputs[1:s]), tuple(inputs[s:c]), tuple(inputs[c:]))


def body_of(spec: LoopSpec) -> Body:
    """The params and results of the body by kind."""
    params = split(spec, spec.body.params)
    results, c = spec.body.results, spec.n_carries
    stop = c + spec.n_outputs
    return Body(*params, results[:c], results[c:stop], results[stop] if spec.has_until else None)


# ---- type, sizes ----------------------------------------------------------------------------------


def _loop_infer(*inputs: Node, spec: LoopSpec) -> TupleType:
    given, body = split(spec, inputs), body_of(spec)
    problems = [*_read_problems(given, body), *_carry_problems(given, body)]
    if given.trip_count.type != TensorType("int64", ()):
        problems.append(f"the trip count is an int64 scalar, not {given.trip_count.type}")
    if problems:
        raise VerificationError(f"loop {spec.name or ''}: " + "; ".join(problems))
    value = given.trip_count.params[0].array if given.trip_count.op is CONSTANT else None
    steps = None if spec.has_until or value is None else int(value)
    stacked = [o.type.with_shape((steps, *o.type.shape)) for o in body.outputs]
    return TupleType((*[c.type for c in body.carries], *stacked, TensorType("int64", ())))


def _read_problems(given: LoopInputs, body: Body) -> list[str]:
    problems = []
    for x, p in zip(given.sequences, body.sequences, strict=True):
        if x.type.ndim == 0 or not fits(x.type.with_shape(x.type.shape[1:]), p.type):
            problems.append(f"a row of {describe(x)} does not fit {describe(p)}")
    for x, p in zip(given.invariants, body.invariants, strict=True):
        if not fits(x.type, p.type):
            problems.append(f"invariant {describe(x)} does not fit {describe(p)}")
    return problems


def _carry_problems(given: LoopInputs, body: Body) -> list[str]:
    problems = []
    for x, p, n in zip(given.carries, body.carries, body.next_carries, strict=True):
        problems += [f"{describe(v)} does not fit carry {describe(p)}" for v in (x, n) if not fits(v.type, p.type)]
    return problems


def _item_infer(x: Node, *, index: int) -> TensorType:
    return x.type.items[index]


def _item_sizes(x: Node, *, index: int) -> list[Any]:
    if x.op is not LOOP and x.op.sizes is not None:
        return list(x.op.sizes(*x.inputs)[index])
    if x.op is not LOOP:
        return [None] * x.type.items[index].ndim
    spec: LoopSpec = x.params[0]
    given, body = split(spec, x.inputs), body_of(spec)
    if index < spec.n_carries:
        return list(sizes(given.carries[index]))
    if index == len(x.type.items) - 1:
        return []
    steps = item(x, len(x.type.items) - 1) if spec.has_until else given.trip_count
    return [steps, *sizes_outside(sizes(body.outputs[index - spec.n_carries]), given, body)]


def sizes_outside(inner: Sequence[Size], given: LoopInputs, body: Body) -> list[Any]:
    """Sizes (or other integers) of a body in terms of the loop's inputs; None where one depends on a step's values."""
    roots = [s for s in inner if isinstance(s, Node)]
    known = {**_known_sizes(body, given), **dict(zip(body.invariants, given.invariants, strict=True))}
    bound = {body.t, *body.sequences, *body.carries}
    moved = dict(zip(roots, substitute(roots, known), strict=True))
    stuck = {r for r in roots if dependents([moved[r]], bound)}
    return [None if s in stuck else moved.get(s, s) if isinstance(s, Node) else s for s in inner]


def _known_sizes(body: Body, given: LoopInputs) -> dict[Node, Any]:
    """The sizes of the body's params as seen from outside: rows of a sequence and carries keep theirs."""
    known: dict[Node, Any] = {}
    for params, outer, skip in (
        (body.sequences, given.sequences, 1),
        (body.carries, given.carries, 0),
        (body.invariants, given.invariants, 0),
    ):
        for p, x in zip(params, outer, strict=True):
            known.update({make(SIZE, (p,), (a,)): as_size_node(sizes(x)[a + skip]) for a in range(p.type.ndim)})
    return known


def _loop_numpy(*arrays: Any, spec: LoopSpec) -> Any:
    from ostinato.backends.reference import run_loop

    return run_loop(spec, arrays)


# ---- building -------------------------------------------------------------------------------------


def item(x: Node, index: int) -> Any:
    """One result of a node that has several."""
    return make(ITEM, (x,), (index,))


class LoopResults(NamedTuple):
    """The results of a Loop by kind."""

    finals: list[Any]
    outputs: list[Any]
    trips_done: Any


def results_of(node: Node) -> LoopResults:
    """All results of a Loop node."""
    spec: LoopSpec = node.params[0]
    items = [item(node, i) for i in range(len(node.type.items))]
    return LoopResults(items[: spec.n_carries], items[spec.n_carries : -1], items[-1])


def build_loop(body: Body, given: LoopInputs, truncate: int | None = None, name: str | None = None) -> LoopResults:
    """A Loop from a body that may use variables of the outside: they become invariants.

    Parameters
    ----------
    body : params are fresh inputs; results are any nodes. Its invariants must be empty.
    given : the inputs that stand for the params. Its invariants must be empty.

    Notes
    -----
    What does not depend on the params is computed once, outside, however large an expression it is;
    only constants stay in the body. Where the static shape of a carry is more special than what
    a step makes of it, the carry's type is made general enough for both.
    """
    body, given = _drop_unused_sequences(body, given)
    results = [*body.next_carries, *body.outputs, *([] if body.keep_going is None else [body.keep_going])]
    results = substitute(results, _known_sizes(body, given))
    params = [body.t, *body.sequences, *body.carries]
    captured = _captured(results, params)
    inner = [new_input(c.type, c.name) for c in captured]
    results = substitute(results, dict(zip(captured, inner, strict=True)))
    params, results = _generalise(params, results, len(body.sequences), given.carries)
    spec = LoopSpec(
        Graph((*params, *inner), tuple(results)),
        len(body.sequences),
        len(body.carries),
        body.keep_going is not None,
        truncate,
        name,
    )
    flat = (given.trip_count, *given.sequences, *given.carries, *captured)
    return results_of(make(LOOP, flat, (spec,)))


def _drop_unused_sequences(body: Body, given: LoopInputs) -> tuple[Body, LoopInputs]:
    """Sequences that no result reads are not read (their lengths count all the same: see `trip_count`)."""
    results = [*body.next_carries, *body.outputs, *([] if body.keep_going is None else [body.keep_going])]
    used = set(topological(results))
    kept = [i for i, s in enumerate(body.sequences) if s in used]
    return (
        body._replace(sequences=tuple(body.sequences[i] for i in kept)),
        given._replace(sequences=tuple(given.sequences[i] for i in kept)),
    )


def _captured(results: Sequence[Node], params: Sequence[Node]) -> list[Node]:
    """The largest expressions below `results` that need none of `params` and are no constants."""
    order = topological(results, stop=set(params))
    bound = dependents(results, set(params))
    frontier = [i for n in order if n in bound for i in n.inputs if i not in bound]
    frontier += [r for r in results if r not in bound]
    return [n for n in dict.fromkeys(frontier) if n.op is not CONSTANT]


def _generalise(
    params: list[Any], results: list[Any], n_sequences: int, inits: Sequence[Node]
) -> tuple[list[Any], list[Any]]:
    """Give each carry the most special type that fits its initial value and what a step returns."""
    for _ in range(1 + sum(i.type.ndim for i in inits)):
        carries = params[1 + n_sequences :]
        wanted = [
            join(join(p.type, i.type), r.type) for p, i, r in zip(carries, inits, results[: len(inits)], strict=True)
        ]
        if all(p.type == w for p, w in zip(carries, wanted, strict=True)):
            break
        fresh = [p if p.type == w else new_input(w, p.name) for p, w in zip(carries, wanted, strict=True)]
        results = substitute(results, dict(zip(carries, fresh, strict=True)))
        params = params[: 1 + n_sequences] + fresh
    return params, results


# ---- the reverse ----------------------------------------------------------------------------------


def _loop_vjp(cotangents: list[Any], node: Node, *inputs: Node, spec: LoopSpec) -> list[Any]:
    """Cotangents of a Loop's inputs by a Loop whose steps run backwards.

    The body is reversed once, symbolically. Values of the forward steps that it needs are recorded by
    the forward loop (or recomputed where that is cheap). The backward loop carries the cotangents of
    the carries and one sum per invariant, and makes as many steps as were done forward: the derivative
    of a `while` is a `for`.
    """
    given, body = split(spec, inputs), body_of(spec)
    reverse = _ReversedBody(spec, body, cotangents)
    body = reverse.body
    residuals = _residuals(reverse, body, given)
    forward = _recording(node, spec, body, residuals)
    steps = forward.trips_done if spec.has_until else given.trip_count
    back = steps if spec.truncate is None else minimum(steps, constant(spec.truncate, "int64"))
    tables = {r: forward.outputs[i] for r, i in _recorded(body, residuals).items()}
    finals, rows = _backward_loop(reverse, _Reading(given, body, tables, steps, back), cotangents)
    return reverse.collect(given, finals, rows, steps, back)


class _ReversedBody:
    """The reverse of one step: cotangents of the body's inputs from those of its results."""

    def __init__(self, spec: LoopSpec, body: Body, cotangents: list[Any]) -> None:
        c = spec.n_carries
        self.spec, self.body = spec, _with_merged_loops(body)
        self.active = {i for i in range(c) if cotangents[i] is not None}
        self.seeded = [j for j in range(spec.n_outputs) if cotangents[c + j] is not None]
        while True:  # a carry is active if any later step sends it a cotangent
            self._reverse()
            reached = {i for i, g in enumerate(self.carry_results) if g is not None}
            if reached <= self.active:
                break
            self.active |= reached
        self.carries = sorted(self.active)
        self.summed = [i for i, g in enumerate(self.invariant_results) if g is not None]
        self.stacked = [i for i, g in enumerate(self.sequence_results) if g is not None]

    def _reverse(self) -> None:
        from ostinato.grad import backward

        body = self.body
        self.carry_seeds = {i: new_input(body.carries[i].type, _bar(body.carries[i])) for i in sorted(self.active)}
        self.output_seeds = {j: new_input(body.outputs[j].type, _bar(body.outputs[j])) for j in self.seeded}
        seeds = [(body.next_carries[i], s) for i, s in self.carry_seeds.items()]
        seeds += [(body.outputs[j], s) for j, s in self.output_seeds.items()]
        wrt = [*body.sequences, *body.carries, *body.invariants]
        found = self._by_one_factor(seeds, wrt) if _is_one_scalar(seeds) else backward(seeds, wrt)
        s, c = len(body.sequences), len(body.carries)
        self.sequence_results, self.carry_results = found[:s], found[s : s + c]
        self.invariant_results = found[s + c :]

    def _by_one_factor(self, seeds: list[tuple[Any, Any]], wrt: list[Any]) -> list[Any]:
        """Cotangents that all come from one scalar: each is the scalar's times a derivative that it has no part in.

        Derivatives do not wait for the step before, so what passes from step to step is one product and one sum.
        """
        from ostinato.grad import backward

        value, total = seeds[0]
        for _, seed in seeds[1:]:
            total = total + seed
        derivatives = backward([(value, constant(1, value.type.dtype))], wrt)
        return [None if d is None else cast(d * total, w.type.dtype) for d, w in zip(derivatives, wrt, strict=True)]

    @property
    def seeds(self) -> list[Any]:
        return [*self.carry_seeds.values(), *self.output_seeds.values()]

    def next_carries(self) -> list[Any]:
        """The cotangents that go to the step before; zero where a step sends none."""
        results = [self.carry_results[i] for i in self.carries]
        return [_zeros(self.body.carries[i]) if r is None else r for i, r in zip(self.carries, results, strict=True)]

    def results(self) -> list[Any]:
        sums = [self.invariant_results[i] for i in self.summed]
        return [*self.next_carries(), *sums, *[self.sequence_results[i] for i in self.stacked]]

    def collect(self, given: LoopInputs, finals: list[Any], rows: list[Any], steps: Any, back: Any) -> list[Any]:
        """The backward loop's results as cotangents of the flat inputs."""
        found: dict[Node, Any] = {}
        whole = self.spec.truncate is None
        start = 0 if whole else steps - back
        for i, g in zip(self.carries, finals, strict=False):
            # Truncated before the first step: the initial value has no part in the last steps.
            value = g if whole else where(le(steps, back), g, _zeros(given.carries[i]))
            found["carry", i] = value  # type: ignore[index]
        for i, g in zip(self.summed, finals[len(self.carries) :], strict=True):
            found["invariant", i] = g  # type: ignore[index]
        for i, g in zip(self.stacked, rows, strict=True):
            found["sequence", i] = _embed(_flip(g), given.sequences[i], start, steps)  # type: ignore[index]
        kinds = (("sequence", given.sequences), ("carry", given.carries), ("invariant", given.invariants))
        return [None, *[found.get((k, i)) for k, xs in kinds for i in range(len(xs))]]  # type: ignore[call-overload]


def _is_one_scalar(seeds: list[tuple[Any, Any]]) -> bool:
    return len({n for n, _ in seeds}) == 1 and seeds[0][0].type.ndim == 0


def _bar(node: Node) -> str | None:
    return f"d_{node.name}" if node.name else None


def _zeros(x: Any) -> Any:
    return broadcast_to(constant(0, x.type.dtype), sizes(x))


def _flip(x: Any) -> Any:
    return x[::-1]


def _embed(rows: Any, x: Any, start: Any, stop: Any) -> Any:
    """Rows of a cotangent put at their place in zeros of the shape of x."""
    if same_size(sizes(x)[0], _known(stop)) and same_size(sizes(rows)[0], _known(stop)):
        return rows
    return set_subtensor(_zeros(x)[start:stop], rows)


def _known(size: Any) -> Any:
    value = size.params[0].array if size.op is CONSTANT else None
    return size if value is None else int(value)


# So many ops may be done once more for each value that need not be recorded.
_TWICE = 4


def _residuals(reverse: _ReversedBody, body: Body, given: LoopInputs) -> list[Node]:
    """The forward values to record: what the reversed body reads and what is not cheaply had otherwise.

    Sequences, invariants and the step number are at hand in the backward loop, and so are recorded outputs.
    """
    results = reverse.results()
    order = topological(results)
    at_hand = {body.t, *body.sequences, *body.invariants, *[o for o in body.outputs if o.op is not CONSTANT]}
    at_hand |= {n for n in order if n.op is SIZE and n.inputs[0] in body.carries}
    wanted = _wanted(results, order, at_hand, dependents(results, set(reverse.seeds)), body, given)
    wanted = [_without_views(n) for n in wanted]
    saved: dict[Node, None] = {}
    for n in wanted:  # first what must be saved anyway: it may make other values cheap
        if not n.op.cheap and not _derivable(n, at_hand | saved.keys()):
            saved[n] = None
    rest = [n for n in dict.fromkeys(wanted) if n.op.cheap and not _derivable(n, at_hand | saved.keys())]
    for n in _carries_instead(rest, at_hand | saved.keys(), body, given) or rest:
        if not _derivable(n, at_hand | saved.keys()):
            saved[n] = None
    return list(saved)


def _carries_instead(values: list[Node], at_hand: set[Node], body: Body, given: LoopInputs) -> list[Node]:
    """Carries from which values follow by cheap ops, if they are fewer than the values; else none.

    What the forward loop computes in any case would be computed twice; that must be little for each value less.
    """
    needed = topological(values, stop=at_hand)
    roots = [n for n in needed if n in body.carries]
    if any(not n.op.cheap for n in needed if n not in at_hand and n not in roots):
        return []
    if len(roots) >= len(values) or any(None in sizes_outside(sizes(r), given, body) for r in roots):
        return []
    test = [] if body.keep_going is None else [body.keep_going]
    forward = set(topological([*body.next_carries, *body.outputs, *test]))
    twice = sum(1 for n in needed if n.inputs and n in forward and n not in at_hand)
    return roots if twice <= _TWICE * (len(values) - len(roots)) else []


def _without_views(node: Node) -> Node:
    """What a transposed array is a view of: recorded in its own order, it may be at hand already."""
    while node.op.name == "dimshuffle":
        node = node.inputs[0]
    return node


def _wanted(
    results: list[Node], order: list[Node], at_hand: set[Node], bound: set[Node], body: Body, given: LoopInputs
) -> list[Node]:
    """The forward values that the reversed body reads, or what it computes them from.

    A value whose sizes differ from step to step cannot be recorded: it is computed again, from its inputs.
    """
    work = [i for n in order if n in bound for i in n.inputs if i not in bound]
    work += [r for r in results if r not in bound]
    wanted: set[Node] = set()
    seen: set[Node] = set()
    while work:
        n = work.pop()
        if n in seen or n in at_hand:
            continue
        seen.add(n)
        if isinstance(n.type, TupleType) or None in sizes_outside(sizes(n), given, body):
            work.extend(n.inputs)
        else:
            wanted.add(n)
    return [n for n in order if n in wanted]


def _derivable(node: Node, at_hand: set[Node]) -> bool:
    """Whether a value follows from what is at hand by cheap ops alone."""
    return all(n in at_hand or n.op.cheap for n in topological([node], stop=at_hand))


def _recorded(body: Body, residuals: list[Node]) -> dict[Node, int]:
    """Which output of the recording loop holds which forward value."""
    return {n: i for i, n in reversed(list(enumerate([*body.outputs, *residuals]))) if n.op is not CONSTANT}


def _recording(node: Node, spec: LoopSpec, body: Body, residuals: list[Node]) -> LoopResults:
    """The same loop with more outputs. It shares the body's params, so that `loop_merge` makes one of both."""
    if not residuals:
        return results_of(node)
    test = () if body.keep_going is None else (body.keep_going,)
    graph = Graph(spec.body.params, (*body.next_carries, *body.outputs, *residuals, *test))
    return results_of(make(LOOP, node.inputs, (replace(spec, body=graph),)))


def _with_merged_loops(body: Body) -> Body:
    """The body with inner loops merged that differ only in what they record: each is reversed once."""
    from ostinato.rewrite.loop_merge import merged_loops

    n, m = len(body.next_carries), len(body.outputs)
    roots = [*body.next_carries, *body.outputs, *([] if body.keep_going is None else [body.keep_going])]
    alias = merged_loops(roots)
    if not alias:
        return body
    new = redirect(roots, alias)
    return body._replace(
        next_carries=tuple(new[:n]),
        outputs=tuple(new[n : n + m]),
        keep_going=new[n + m] if len(new) > n + m else None,
    )


class _Reading(NamedTuple):
    """What the backward loop can read: the forward inputs and the recorded values, last row first."""

    given: LoopInputs
    body: Body
    tables: dict[Node, Any]
    steps: Any
    back: Any

    def rows(self, x: Any) -> Any:
        return _flip(x if same_size(sizes(x)[0], _known(self.steps)) else x[: self.steps])


def _backward_loop(reverse: _ReversedBody, reading: _Reading, cotangents: list[Any]) -> tuple[list[Any], list[Any]]:
    body, c = reading.body, reverse.spec.n_carries
    t = new_input(TensorType("int64", ()), "t")
    sums = [new_input(body.invariants[i].type, _bar(body.invariants[i])) for i in reverse.summed]
    tables = {**dict(zip(body.sequences, reading.given.sequences, strict=True)), **reading.tables}
    inner = {n: new_input(n.type, n.name) for n in tables}
    seeds = reverse.output_seeds
    mapping: dict[Node, Any] = {**_known_sizes(body, reading.given), body.t: reading.steps - 1 - t, **inner}
    mapping.update(zip(body.invariants, reading.given.invariants, strict=True))
    results = substitute(reverse.results(), mapping)
    n, s = len(reverse.carries), len(reverse.summed)
    sequences = {inner[n]: reading.rows(x) for n, x in tables.items()}
    sequences |= {p: reading.rows(cotangents[c + j]) for j, p in seeds.items()}
    next_sums = [a + b for a, b in zip(sums, results[n : n + s], strict=True)]
    inits = [_zeros(reading.given.carries[i]) if cotangents[i] is None else cotangents[i] for i in reverse.carries]
    inits += [_zeros(reading.given.invariants[i]) for i in reverse.summed]
    carries = [*[reverse.carry_seeds[i] for i in reverse.carries], *sums]
    loop = build_loop(
        Body(t, tuple(sequences), tuple(carries), (), (*results[:n], *next_sums), tuple(results[n + s :]), None),
        LoopInputs(reading.back, tuple(sequences.values()), tuple(inits), ()),
        name=f"gradient of {reverse.spec.name or 'loop'}",
    )
    return loop.finals, loop.outputs


# ---- the ops --------------------------------------------------------------------------------------


def _sample(x: Any, w: Any) -> Any:
    """h <- tanh(h * w + x_t) over the rows of x; the sum of the outputs and the last state."""
    t, row, h = (
        new_input(TensorType("int64", ())),
        new_input(x.type.with_shape(x.type.shape[1:])),
        new_input(w.type),
    )
    from ostinato.ops.elementwise import tanh
    from ostinato.ops.reduce import sum

    step = tanh(h * w + row)
    body = Body(t, (row,), (h,), (), (step,), (step,), None)
    loop = build_loop(body, LoopInputs(as_size_node(sizes(x)[0]), (x,), (_zeros(w),), ()))
    return sum(loop.outputs[0]) + sum(loop.finals[0] * w)


LOOP: Op = register(
    Op(
        "loop",
        infer=_loop_infer,
        numpy=_loop_numpy,
        vjp=_loop_vjp,
        params=("spec",),
        samples=(Sample(_sample, (np.arange(6.0).reshape(3, 2) / 7, np.array([0.4, -1.1]))),),
        doc="A recurrence: the body run `trip_count` times, carries passed from step to step.",
    )
)
ITEM: Op = register(
    Op(
        "item",
        infer=_item_infer,
        numpy=lambda x, *, index: x[index],
        sizes=_item_sizes,
        params=("index",),
        samples=(Sample(_sample, (np.arange(2.0).reshape(1, 2), np.array([0.4, -1.1]))),),
        doc="One result of an op that has several.",
    )
)
