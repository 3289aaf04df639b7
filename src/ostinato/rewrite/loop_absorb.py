"""loop_absorb: a loop whose steps another loop makes among others is dropped.

before:  y      = loop(n, x, h; (x_t, h) -> (h', y))
         y, dy  = loop(n, x, dx, h, dh; (x_t, dx_t, h, dh) -> (h', dh', y, dy))   # the tangent of the first one
after:   y, dy  = loop(n, x, dx, h, dh; (x_t, dx_t, h, dh) -> (h', dh', y, dy))

The larger loop must not need a result of the smaller one. What the smaller one records and the larger does
not, the larger records from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from ostinato.graph import Graph, Node, dependents, make, redirect, substitute, topological
from ostinato.ops.loop import (
    LOOP,
    Body,
    LoopResults,
    LoopSpec,
    Recorded,
    body_of,
    recorded_by,
    recording,
    results_of,
    split,
)
from ostinato.rewrite.engine import rewrite_pass
from ostinato.rewrite.loop_merge import merged_loops
from ostinato.rewrite.notes import tell

_MOST_PAIRS = 10_000  # the budget of a search


@rewrite_pass
def loop_absorb(graph: Graph) -> Graph:
    """Drop the loops of a graph whose steps are made by larger ones."""
    return Graph(graph.params, tuple(without_absorbed(graph.results)))


def without_twins(roots: Sequence[Any]) -> list[Any]:
    """The roots, computed by loops of which no two make the same steps: what a derivative is best taken of."""
    replaced = merged_loops(roots)
    return without_absorbed(redirect(roots, replaced) if replaced else roots)


def without_absorbed(roots: Sequence[Any]) -> list[Any]:
    """The roots, computed by loops of which none makes only steps that another one makes too."""
    found = list(roots)
    while alias := _absorbed(found):
        found = redirect(found, alias)
    return found


def _absorbed(roots: Iterable[Node]) -> dict[Node, Any]:
    """For each result of one loop that can go, the result of the larger loop; empty if there is none."""
    roots = list(roots)
    groups: dict[Any, list[Node]] = {}
    for node in topological(roots):
        if node.op is LOOP:
            spec: LoopSpec = node.params[0]
            groups.setdefault((node.inputs[0], spec.has_until, spec.truncate, spec.checkpoint), []).append(node)
    for small, large in _pairs(groups.values()):
        if (alias := _into(small, large)) and large not in dependents([large], {small}):
            return alias
    return {}


def _pairs(groups: Iterable[list[Node]]) -> Iterator[tuple[Node, Node]]:
    """Loops that might be absorbed, each with one that might absorb it; not all if there are very many."""
    pairs = ((a, b) for group in groups for a in group for b in group if a is not b)
    yield from islice(pairs, _MOST_PAIRS)
    if next(pairs, None):
        tell(f"loop_absorb: there are many loops; {_MOST_PAIRS} pairs of them were compared, and no more.")


def _into(small: Node, large: Node) -> dict[Node, Any]:
    """The results of one loop as results of another one that makes its steps; empty if that does not."""
    own, whole = small.params[0], large.params[0]
    body, larger = body_of(own), body_of(whole)
    places = _places(small, large, body, larger)
    if places is None:
        return {}
    results = substitute(own.body.results, places)
    c, y = own.n_carries, own.n_carries + own.n_outputs
    carries = {p: i for i, p in enumerate(larger.carries)}
    at = [carries[places[p]] for p in body.carries]
    if any(n is not larger.next_carries[i] for n, i in zip(results[:c], at, strict=True)):
        return {}
    if own.has_until and results[y] is not larger.keep_going:
        return {}
    invariants = {p: i for i, p in enumerate(larger.invariants)}
    every = [None if k is None else invariants[places[body.invariants[k]]] for k in map(own.thinned, range(y - c))]
    wanted = list(zip(results[c:y], every, strict=True))
    new, row = _recording(large, wanted)
    was, had = results_of(small), results_of(large)
    pairs = [*zip(was.finals, [new.finals[i] for i in at], strict=True), (was.trips_done, new.trips_done)]
    pairs += [(old, row[o]) for old, o in zip(was.outputs, wanted, strict=True)]
    pairs += [*zip(had.finals, new.finals, strict=True), (had.trips_done, new.trips_done)]
    pairs += [(old, row[o]) for old, o in zip(had.outputs, recorded_by(whole), strict=True)]
    # Of twins one may be what the other one becomes.
    return {old: n for old, n in pairs if old is not n}


def _recording(node: Node, wanted: Sequence[Recorded]) -> tuple[LoopResults, dict[Recorded, Any]]:
    """The same loop recording more, and where its results have what it records: each once."""
    outputs = list(dict.fromkeys([*recorded_by(node.params[0]), *wanted]))
    new = results_of(make(LOOP, node.inputs, (recording(node.params[0], outputs),)))
    return new, dict(zip(outputs, new.outputs, strict=True))


def _places(small: Node, large: Node, body: Body, larger: Body) -> dict[Node, Any] | None:
    """What stands in the larger body for each param of the smaller: what is given the same outside. None if not all."""
    given, wider = split(small.params[0], small.inputs), split(large.params[0], large.inputs)
    if len(body.carries) > len(larger.carries) or not set(given.sequences) <= set(wider.sequences):
        return None
    places: dict[Node, Any] = {body.t: larger.t}
    for params, values, others, there in (
        (body.sequences, given.sequences, larger.sequences, wider.sequences),
        (body.carries, given.carries, larger.carries, wider.carries),
        (body.invariants, given.invariants, larger.invariants, wider.invariants),
    ):
        free = list(zip(others, there, strict=True))
        for p, x in zip(params, values, strict=True):
            # States may start alike; those of the larger loop that come from the smaller stand in its order.
            fit = next((q for q in free if q[1] is x and q[0].type == p.type), None)
            if fit is None:
                return None
            free.remove(fit)
            places[p] = fit[0]
    return places
