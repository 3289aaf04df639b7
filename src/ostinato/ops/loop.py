"""The Loop: one op for every recurrence, and its reverse, which is a Loop again.

A Loop has exactly one kind of state, the carry. Its node is

    loop(trip_count, *sequences, *carries, *invariants) -> (*final carries, *outputs, trips_done)

and its body a Graph

    (t, *sequence slices, *carries, *invariants) -> (*next carries, *outputs[, keep_going])

Row t of a sequence is read at step t; t counts up from 0. An output has a row per step, or, if it is
thinned, one for each k-th step from the first on, where k is an invariant. Taps, reversals and offsets are views made
outside the loop by ordinary slices; a history is a carry that ordinary indexing ops read and write.
Only `split` and `body_of` know the flat orders above. The reverse is in `loop_reverse`, the forward derivative in
`loop_forward`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from ostinato.errors import VerificationError
from ostinato.graph import Graph, Node, dependents, make, rewrite_nodes, substitute, topological
from ostinato.ops.leaf import CONSTANT, constant, describe, new_input
from ostinato.ops.op import Op, Sample, register
from ostinato.ops.sizes import SIZE, Size, as_size_node, broadcast_to, met_again, sizes
from ostinato.types import TensorType, TupleType, fits, join


@dataclass(frozen=True)
class Checkpoint:
    """How derivatives of a loop save memory: the carries are kept at every so many-th step, and steps are made again.

    Attributes
    ----------
    every : that many steps, or None
    budget : bytes that what is kept may take, or None; one of both is given, or neither: then all is kept.
    shared : whether the budget is for all loops of a function together.
    """

    every: int | None = None
    budget: int | None = None
    shared: bool = False


Parallel = bool | Literal["auto"]


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
    thinning : per output which invariant says that only each so many-th step is recorded; None for every step.
        Shorter than the outputs, it stands for all of them that follow, too.
    checkpoint : what a derivative may keep of the steps; see `rewrite.checkpoints`. None leaves it to others.
    parallel : whether chunks of steps may run side by side, which changes roundings; see `rewrite.loop_affine`.
        "auto" leaves it as it is, and tells where it could be; loops of derivatives are not told of.
    """

    body: Graph
    n_sequences: int
    n_carries: int
    has_until: bool = False
    truncate: int | None = None
    name: str | None = None
    thinning: tuple[int | None, ...] = ()
    checkpoint: Checkpoint | None = None
    parallel: Parallel = False

    @property
    def n_outputs(self) -> int:
        return len(self.body.results) - self.n_carries - self.has_until

    def thinned(self, j: int) -> int | None:
        """Which invariant says how output j is thinned; None if it is not."""
        return self.thinning[j] if j < len(self.thinning) else None

    @property
    def is_counted(self) -> bool:
        """Whether it makes as many steps as it is told, and each has a row in all outputs."""
        return not (self.has_until or self.is_thinned)

    @property
    def is_thinned(self) -> bool:
        """Whether any output is thinned."""
        return any(k is not None for k in self.thinning)

    def strides(self, invariants: Sequence[Any]) -> list[int]:
        """For each output that each so many-th step is recorded, from the values of the invariants."""
        places = map(self.thinned, range(self.n_outputs))
        return [1 if k is None else int(invariants[k]) for k in places]


# An output of a body, and which invariant thins it.
Recorded = tuple[Node, int | None]


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


COUNT = TensorType("int64", ())


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
    counts = [given.invariants[k] for k in spec.thinning if k is not None]
    problems += [f"what thins an output is an int64 scalar, not {k.type}" for k in counts if k.type != COUNT]
    if given.trip_count.type != COUNT:
        problems.append(f"the trip count is an int64 scalar, not {given.trip_count.type}")
    if problems:
        raise VerificationError(f"loop {spec.name or ''}: " + "; ".join(problems))
    value = given.trip_count.params[0].array if given.trip_count.op is CONSTANT else None
    steps = None if spec.has_until or value is None else int(value)
    rows = [steps if spec.thinned(j) is None else None for j in range(spec.n_outputs)]
    stacked = [o.type.with_shape((n, *o.type.shape)) for n, o in zip(rows, body.outputs, strict=True)]
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
    given = split(spec, x.inputs)
    if index < spec.n_carries:
        return list(sizes(given.carries[index]))
    if index == len(x.type.items) - 1:
        return []
    steps = steps_made(x)
    thinned = spec.thinned(index - spec.n_carries)
    rows = steps if thinned is None else kept_rows(steps, given.invariants[thinned])
    return [rows, *_row_sizes(x)[index - spec.n_carries]]


@lru_cache(maxsize=16)
def _row_sizes(node: Node) -> list[tuple[Any, ...]]:
    """The sizes of a row of each output of a Loop, as seen from outside."""
    spec: LoopSpec = node.params[0]
    body = body_of(spec)
    return all_sizes_outside([sizes(o) for o in body.outputs], split(spec, node.inputs), body)


def steps_made(node: Node) -> Any:
    """The number of steps of a Loop: known beforehand, or what it tells."""
    return item(node, len(node.type.items) - 1) if node.params[0].has_until else node.inputs[0]


def kept_rows(steps: Any, every: Any) -> Any:
    """How many of some steps are recorded if each so many-th is, from the first on."""
    return (steps + (every - 1)) // every


def sizes_outside(inner: Sequence[Size], given: LoopInputs, body: Body) -> list[Any]:
    """Sizes (or other integers) of a body in terms of the loop's inputs; None where one depends on a step's values."""
    roots = list(dict.fromkeys(s for s in inner if isinstance(s, Node)))
    if not roots:
        return list(inner)
    known = {**known_sizes(body, given), **dict(zip(body.invariants, given.invariants, strict=True))}
    bound = {body.t, *body.sequences, *body.carries}
    moved = dict(zip(roots, rewrite_nodes(roots, met_again, known), strict=True))
    reaching = dependents(moved.values(), bound)
    stuck = {r for r in roots if moved[r] in reaching}
    return [None if s in stuck else moved.get(s, s) if isinstance(s, Node) else s for s in inner]


def all_sizes_outside(inner: Sequence[Sequence[Size]], given: LoopInputs, body: Body) -> list[tuple[Any, ...]]:
    """`sizes_outside` of many values at once, for little more than that of one."""
    outside = iter(sizes_outside([s for row in inner for s in row], given, body))
    return [tuple([next(outside) for _ in row]) for row in inner]


def known_sizes(body: Body, given: LoopInputs) -> dict[Node, Any]:
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


def _loop_vjp(cotangents: list[Any], node: Node, *inputs: Node, spec: LoopSpec) -> list[Any]:
    from ostinato.ops.loop_reverse import reverse_loop

    return reverse_loop(cotangents, node, inputs, spec)


def _loop_jvp(tangents: Sequence[Any], node: Node, *inputs: Node, spec: LoopSpec) -> list[Any]:
    from ostinato.ops.loop_forward import push_loop

    return push_loop(tangents, node, *inputs, spec=spec)


def _loop_numpy(*arrays: Any, spec: LoopSpec) -> Any:
    from ostinato.backends.reference import run_loop

    return run_loop(spec, arrays)


def recorded_by(spec: LoopSpec) -> list[Recorded]:
    """What a loop records."""
    return [(o, spec.thinned(j)) for j, o in enumerate(body_of(spec).outputs)]


def recording(spec: LoopSpec, outputs: Sequence[Recorded]) -> LoopSpec:
    """The same loop with other outputs."""
    body = body_of(spec)
    test = () if body.keep_going is None else (body.keep_going,)
    graph = Graph(spec.body.params, (*body.next_carries, *[o for o, _ in outputs], *test))
    return replace(spec, body=graph, thinning=tuple([k for _, k in outputs]))


# ---- building -------------------------------------------------------------------------------------


def item(x: Node, index: int) -> Any:
    """One result of a node that has several."""
    return make(ITEM, (x,), (index,))


def thin(loop: LoopResults, every: Mapping[int, Any]) -> LoopResults:
    """A loop of some of whose outputs each so many-th row is recorded; the rest is as it was.

    Parameters
    ----------
    every : for the number of each such output an int64 scalar
    """
    node = loop.trips_done.inputs[0]
    spec: LoopSpec = node.params[0]
    first = len(node.inputs)
    counts = list(dict.fromkeys(every.values()))
    params = [new_input(COUNT, "every") for _ in counts]
    place = {c: first - 1 - spec.n_sequences - spec.n_carries + k for k, c in enumerate(counts)}
    thinning = [place[every[j]] if j in every else spec.thinned(j) for j in range(spec.n_outputs)]
    body = Graph((*spec.body.params, *params), spec.body.results)
    new = make(LOOP, (*node.inputs, *counts), (replace(spec, body=body, thinning=tuple(thinning)),))
    return results_of(new)


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


def build_loop(
    body: Body,
    given: LoopInputs,
    truncate: int | None = None,
    name: str | None = None,
    checkpoint: Checkpoint | None = None,
    parallel: Parallel = False,
) -> LoopResults:
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
    results = substitute(results, known_sizes(body, given))
    params = [body.t, *body.sequences, *body.carries]
    outer = captured(results, params)
    inner = [new_input(c.type, c.name) for c in outer]
    results = substitute(results, dict(zip(outer, inner, strict=True)))
    params, results = _generalise(params, results, len(body.sequences), given.carries)
    spec = LoopSpec(
        Graph((*params, *inner), tuple(results)),
        len(body.sequences),
        len(body.carries),
        body.keep_going is not None,
        truncate,
        name,
        checkpoint=checkpoint,
        parallel=parallel,
    )
    flat = (given.trip_count, *given.sequences, *given.carries, *outer)
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


def captured(results: Sequence[Node], params: Sequence[Node]) -> list[Node]:
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


def zeros_of(x: Any) -> Any:
    """Zeros of the shape and dtype of x."""
    return broadcast_to(constant(0, x.type.dtype), sizes(x))


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
    loop = build_loop(body, LoopInputs(as_size_node(sizes(x)[0]), (x,), (zeros_of(w),), ()))
    return sum(loop.outputs[0]) + sum(loop.finals[0] * w)


LOOP: Op = register(
    Op(
        "loop",
        infer=_loop_infer,
        numpy=_loop_numpy,
        vjp=_loop_vjp,
        jvp=_loop_jvp,
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
        jvp=lambda tangents, out, x, *, index: tangents[0][index],
        sizes=_item_sizes,
        batch=lambda rows, *, index: rows.made(rows.inputs, index),
        params=("index",),
        samples=(Sample(_sample, (np.arange(2.0).reshape(1, 2), np.array([0.4, -1.1]))),),
        doc="One result of an op that has several.",
    )
)
