"""loop_prune: what a loop records, carries or reads for nobody is dropped.

before:  a, b, y, z = loop(n, x, w, a0, b0; (x_t, w_t, a, b) -> (a', b', y, z))   # only y is used; y needs a
after:   a, y       = loop(n, x, a0; (x_t, a) -> (a', y))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ostinato.graph import Graph, Node, make, redirect, topological
from ostinato.ops.loop import ITEM, LOOP, Body, LoopSpec, body_of, results_of, split
from ostinato.rewrite.engine import rewrite_pass


@rewrite_pass
def loop_prune(graph: Graph) -> Graph:
    """Drop dead outputs, carries, sequences and invariants of the loops of a graph."""
    while alias := _pruned(graph.results):
        graph = Graph(graph.params, tuple(redirect(graph.results, alias)))
    return graph


def _pruned(roots: Sequence[Node]) -> dict[Node, Any]:
    """For each used result of a loop that can shrink, the result of the smaller loop."""
    used: dict[Node, set[int]] = {}
    for node in topological(roots):
        if node.op is ITEM and node.inputs[0].op is LOOP:
            used.setdefault(node.inputs[0], set()).add(node.params[0])
    alias: dict[Node, Any] = {}
    for loop, wanted in used.items():
        alias.update(_shrink(loop, wanted))
    return alias


def _shrink(node: Node, wanted: set[int]) -> dict[Node, Any]:
    spec: LoopSpec = node.params[0]
    body, given = body_of(spec), split(spec, node.inputs)
    outputs = [j for j in range(spec.n_outputs) if spec.n_carries + j in wanted]
    carries = _live_carries(body, {i for i in wanted if i < spec.n_carries}, [body.outputs[j] for j in outputs])
    roots = [body.next_carries[i] for i in carries] + [body.outputs[j] for j in outputs]
    roots += [] if body.keep_going is None else [body.keep_going]
    needed = set(topological(roots))
    sequences = [i for i, s in enumerate(body.sequences) if s in needed]
    thinning = [spec.thinned(j) for j in outputs]
    invariants = [i for i, w in enumerate(body.invariants) if w in needed or i in thinning]
    if len(roots) == len(spec.body.results) and len(sequences) + len(invariants) == len(body.sequences) + len(
        body.invariants
    ):
        return {}
    params = (
        body.t,
        *_pick(body.sequences, sequences),
        *_pick(body.carries, carries),
        *_pick(body.invariants, invariants),
    )
    inputs = (
        given.trip_count,
        *_pick(given.sequences, sequences),
        *_pick(given.carries, carries),
        *_pick(given.invariants, invariants),
    )
    smaller = replace(
        spec,
        body=Graph(params, tuple(roots)),
        n_sequences=len(sequences),
        n_carries=len(carries),
        thinning=tuple([None if k is None else invariants.index(k) for k in thinning]),
    )
    new, old = results_of(make(LOOP, inputs, (smaller,))), results_of(node)
    alias = {old.finals[i]: f for i, f in zip(carries, new.finals, strict=True)}
    alias |= {old.outputs[j]: y for j, y in zip(outputs, new.outputs, strict=True)}
    return {**alias, old.trips_done: new.trips_done}


def _pick(values: Sequence[Any], places: Sequence[int]) -> list[Any]:
    return [values[i] for i in places]


def _live_carries(body: Body, wanted: set[int], outputs: list[Any]) -> list[int]:
    """The carries that are read from outside, by a live output or test, or by a live carry's next value."""
    live = set(wanted)
    tests = [] if body.keep_going is None else [body.keep_going]
    while True:
        needed = set(topological([*[body.next_carries[i] for i in live], *outputs, *tests]))
        grown = live | {i for i, c in enumerate(body.carries) if c in needed}
        if grown == live:
            return sorted(live)
        live = grown
