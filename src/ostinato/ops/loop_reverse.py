"""The reverse of a Loop: a Loop whose steps run backwards, and what the forward steps record for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ostinato.graph import Graph, Node, dependents, make, redirect, substitute, topological
from ostinato.ops.elementwise import cast, eq, le, minimum, where
from ostinato.ops.indexing import set_subtensor
from ostinato.ops.leaf import CONSTANT, constant, new_input
from ostinato.ops.loop import (
    LOOP,
    Body,
    LoopInputs,
    LoopResults,
    LoopSpec,
    body_of,
    build_loop,
    known_sizes,
    results_of,
    split,
    zeros_of,
)
from ostinato.ops.residuals import residuals
from ostinato.ops.sizes import same_size, sizes
from ostinato.types import TensorType


def reverse_loop(
    cotangents: list[Any], node: Node, inputs: Sequence[Node], spec: LoopSpec, wanted: Sequence[bool] | None = None
) -> list[Any]:
    """Cotangents of a Loop's inputs by a Loop whose steps run backwards.

    The body is reversed once, symbolically. Values of the forward steps that it needs are recorded by
    the forward loop, or made again where that takes less (see `residuals`). The backward loop carries the cotangents of
    the carries and one sum per invariant, and makes as many steps as were done forward: the derivative
    of a `while` is a `for`. `wanted` says of which inputs cotangents are read, all if it is not given: what only
    others need is neither recorded nor made.
    """
    given, body = split(spec, inputs), body_of(spec)
    reverse = _ReversedBody(spec, body, cotangents, split(spec, [True] * len(inputs) if wanted is None else wanted))
    body = reverse.body
    kept = residuals(reverse.results(), reverse.seeds, _recorded(spec, body, []), body, given)
    forward = _recording(node, spec, body, kept)
    steps = forward.trips_done if spec.has_until else given.trip_count
    back = steps if spec.truncate is None else minimum(steps, constant(spec.truncate, "int64"))
    tables = {r: forward.outputs[i] for r, i in _recorded(spec, body, kept).items()}
    finals, rows = _backward_loop(reverse, _Reading(given, body, tables, steps, back), cotangents)
    return reverse.collect(given, finals, rows, steps, back)


class _ReversedBody:
    """The reverse of one step: cotangents of the body's inputs from those of its results."""

    def __init__(self, spec: LoopSpec, body: Body, cotangents: list[Any], wanted: LoopInputs) -> None:
        c = spec.n_carries
        self.spec, self.body = spec, _with_merged_loops(body)
        self.wrt = self._reaching(wanted)
        self.active = {i for i in range(c) if cotangents[i] is not None and self.body.carries[i] in self.wrt}
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

    def _reaching(self, wanted: LoopInputs) -> dict[Node, None]:
        """The params that cotangents are needed of: those wanted, and carries by whose next values they are reached."""
        body = self.body
        kinds = (
            (body.sequences, wanted.sequences),
            (body.carries, wanted.carries),
            (body.invariants, wanted.invariants),
        )
        found = {p for params, flags in kinds for p, is_wanted in zip(params, flags, strict=True) if is_wanted}
        while True:
            reached = dependents(body.next_carries, found)
            more = {c for c, n in zip(body.carries, body.next_carries, strict=True) if n in reached} - found
            if not more:
                return dict.fromkeys(p for params, _ in kinds for p in params if p in found)
            found |= more

    def _reverse(self) -> None:
        from ostinato.grad import backward

        body = self.body
        self.carry_seeds = {i: new_input(body.carries[i].type, _bar(body.carries[i])) for i in sorted(self.active)}
        self.output_seeds = {j: new_input(body.outputs[j].type, _bar(body.outputs[j])) for j in self.seeded}
        seeds = [(body.next_carries[i], s) for i, s in self.carry_seeds.items()]
        seeds += [(body.outputs[j], s) for j, s in self.output_seeds.items()]
        wrt = list(self.wrt)
        made = self._by_one_factor(seeds, wrt) if _is_one_scalar(seeds) else backward(seeds, wrt)
        found = dict(zip(wrt, made, strict=True))
        self.sequence_results = [found.get(p) for p in body.sequences]
        self.carry_results = [found.get(p) for p in body.carries]
        self.invariant_results = [found.get(p) for p in body.invariants]

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
        return [zeros_of(self.body.carries[i]) if r is None else r for i, r in zip(self.carries, results, strict=True)]

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
            value = g if whole else where(le(steps, back), g, zeros_of(given.carries[i]))
            found["carry", i] = value  # type: ignore[index]
        for i, g in zip(self.summed, finals[len(self.carries) :], strict=True):
            found["invariant", i] = g  # type: ignore[index]
        for i, g in zip(self.stacked, rows, strict=True):
            found["sequence", i] = _embed(_flip(g), given.sequences[i], start, steps)  # type: ignore[index]
        kinds = (("sequence", given.sequences), ("carry", given.carries), ("invariant", given.invariants))
        return [None, *[found.get((k, i)) for k, xs in kinds for i in range(len(xs))]]  # type: ignore[call-overload]


def _is_one_scalar(seeds: list[tuple[Any, Any]]) -> bool:
    return len({n for n, _ in seeds}) == 1 and seeds[0][0].type.ndim == 0 and _is_linear([seeds[0][0]])


def _is_linear(roots: Sequence[Node]) -> bool:
    """Whether cotangents are linear in those that they come from: not where a gradient is clipped on the way."""
    nodes = topological(roots)
    inner = [r for n in nodes if n.op is LOOP for r in n.params[0].body.results]
    return all(n.op.linear for n in nodes) and (not inner or _is_linear(inner))


def _bar(node: Node) -> str | None:
    return f"d_{node.name}" if node.name else None


def _flip(x: Any) -> Any:
    return x[::-1]


def _embed(rows: Any, x: Any, start: Any, stop: Any) -> Any:
    """Rows of a cotangent put at their place in zeros of the shape of x."""
    if same_size(sizes(x)[0], _known(stop)) and same_size(sizes(rows)[0], _known(stop)):
        return rows
    return set_subtensor(zeros_of(x)[start:stop], rows)


def _known(size: Any) -> Any:
    value = size.params[0].array if size.op is CONSTANT else None
    return size if value is None else int(value)


def _recorded(spec: LoopSpec, body: Body, kept: Sequence[Node]) -> dict[Node, int]:
    """Which output of the recording loop holds which forward value of every step."""
    places = reversed(list(enumerate([*body.outputs, *kept])))
    return {n: i for i, n in places if n.op is not CONSTANT and spec.thinned(i) is None}


def _recording(node: Node, spec: LoopSpec, body: Body, kept: Sequence[Node]) -> LoopResults:
    """The same loop with more outputs. It shares the body's params, so that `loop_merge` makes one of both."""
    if not kept:
        return results_of(node)
    test = () if body.keep_going is None else (body.keep_going,)
    graph = Graph(spec.body.params, (*body.next_carries, *body.outputs, *kept, *test))
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

    def thinned_row(self, x: Any, place: int | None, t: Any) -> Any:
        """The cotangent of a thinned output at a step that may not be recorded: it is zero then."""
        assert place is not None
        every, step = self.given.invariants[place], self.steps - 1 - t
        row = x[step // every]
        return where(eq(step % every, 0), row, zeros_of(row))


def _backward_loop(reverse: _ReversedBody, reading: _Reading, cotangents: list[Any]) -> tuple[list[Any], list[Any]]:
    body, c = reading.body, reverse.spec.n_carries
    t = new_input(TensorType("int64", ()), "t")
    sums = [new_input(body.invariants[i].type, _bar(body.invariants[i])) for i in reverse.summed]
    tables = {**dict(zip(body.sequences, reading.given.sequences, strict=True)), **reading.tables}
    inner = {n: new_input(n.type, n.name) for n in tables}
    seeds = reverse.output_seeds
    thinned = {j: p for j, p in seeds.items() if reverse.spec.thinned(j) is not None}
    mapping: dict[Node, Any] = {**known_sizes(body, reading.given), body.t: reading.steps - 1 - t, **inner}
    mapping.update(zip(body.invariants, reading.given.invariants, strict=True))
    mapping |= {p: reading.thinned_row(cotangents[c + j], reverse.spec.thinned(j), t) for j, p in thinned.items()}
    results = substitute(reverse.results(), mapping)
    n, s = len(reverse.carries), len(reverse.summed)
    sequences = {inner[n]: reading.rows(x) for n, x in tables.items()}
    sequences |= {p: reading.rows(cotangents[c + j]) for j, p in seeds.items() if j not in thinned}
    next_sums = [a + b for a, b in zip(sums, results[n : n + s], strict=True)]
    inits = [zeros_of(reading.given.carries[i]) if cotangents[i] is None else cotangents[i] for i in reverse.carries]
    inits += [zeros_of(reading.given.invariants[i]) for i in reverse.summed]
    carries = [*[reverse.carry_seeds[i] for i in reverse.carries], *sums]
    loop = build_loop(
        Body(t, tuple(sequences), tuple(carries), (), (*results[:n], *next_sums), tuple(results[n + s :]), None),
        LoopInputs(reading.back, tuple(sequences.values()), tuple(inits), ()),
        name=f"gradient of {reverse.spec.name or 'loop'}",
        parallel=reverse.spec.parallel is True,
    )
    return loop.finals, loop.outputs
