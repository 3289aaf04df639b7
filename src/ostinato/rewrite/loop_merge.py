"""loop_merge: loops over the same steps that record different outputs become one loop.

before:  y      = loop(n, x, h; body -> (h', y))
         y, r   = loop(n, x, h; body -> (h', y, r))      # the recording loop that a gradient adds
after:   y, r   = loop(n, x, h; body -> (h', y, r))

Bodies that come from one another share their params, and params are never shared otherwise: loops with
the same inputs and the same params make the same steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ostinato.graph import Graph, Node, make, redirect, topological
from ostinato.ops.loop import LOOP, LoopResults, LoopSpec, recorded_by, recording, results_of
from ostinato.rewrite.engine import rewrite_pass


@rewrite_pass
def loop_merge(graph: Graph) -> Graph:
    """Merge the loops of a graph that make the same steps."""
    alias = merged_loops(graph.results)
    return Graph(graph.params, tuple(redirect(graph.results, alias))) if alias else graph


def merged_loops(roots: Iterable[Node]) -> dict[Node, Node]:
    """For each result of a loop that has a twin, the result of the merged loop that replaces it."""
    groups: dict[Any, list[Node]] = {}
    for node in topological(roots):
        if node.op is LOOP:
            groups.setdefault((node.inputs, node.params[0].body.params), []).append(node)
    alias: dict[Node, Node] = {}
    for group in groups.values():
        if len(group) > 1:
            merged = results_of(_merge(group))
            for node in group:
                alias.update(_correspondence(node, merged))
    return {old: new for old, new in alias.items() if old is not new}


def _merge(group: list[Node]) -> Node:
    """One loop that records what any of the group records; it makes the steps of the first."""
    specs: list[LoopSpec] = [n.params[0] for n in group]
    outputs = list(dict.fromkeys(r for s in specs for r in recorded_by(s)))
    return make(LOOP, group[0].inputs, (recording(specs[0], outputs),))


def _correspondence(node: Node, merged: LoopResults) -> dict[Node, Node]:
    own = results_of(node)
    spec: LoopSpec = merged.trips_done.inputs[0].params[0]
    place = {r: i for i, r in enumerate(recorded_by(spec))}
    pairs = [*zip(own.finals, merged.finals, strict=True), (own.trips_done, merged.trips_done)]
    pairs += [(y, merged.outputs[place[r]]) for y, r in zip(own.outputs, recorded_by(node.params[0]), strict=True)]
    return dict(pairs)
