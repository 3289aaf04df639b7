"""loop_merge: loops over the same steps that record different outputs become one loop.

before:  y      = loop(n, x, h; body -> (h', y))
         y, r   = loop(n, x, h; body -> (h', y, r))      # the recording loop that a gradient adds
after:   y, r   = loop(n, x, h; body -> (h', y, r))

Bodies that come from one another share their params, and params are never shared otherwise: loops with
the same inputs and the same params make the same steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ostinato.graph import Graph, Node, make, redirect, topological
from ostinato.ops.loop import LOOP, LoopSpec, recorded_by, recording, results_of
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
            alias.update(_merged(group))
    return {old: new for old, new in alias.items() if old is not new}


def _merged(group: list[Node]) -> dict[Node, Node]:
    """For each result of a group that of one loop, which records what any of them records, and makes the steps of the
    first."""
    specs = _with_common_loops([n.params[0] for n in group])
    place = {r: i for i, r in enumerate(dict.fromkeys(r for s in specs for r in recorded_by(s)))}
    merged = results_of(make(LOOP, group[0].inputs, (recording(specs[0], list(place)),)))
    alias: dict[Node, Node] = {}
    for node, spec in zip(group, specs, strict=True):
        own = results_of(node)
        pairs = [*zip(own.finals, merged.finals, strict=True), (own.trips_done, merged.trips_done)]
        pairs += [(y, merged.outputs[place[r]]) for y, r in zip(own.outputs, recorded_by(spec), strict=True)]
        alias.update(pairs)
    return alias


def _with_common_loops(specs: list[LoopSpec]) -> list[LoopSpec]:
    """The loops with the loops in their bodies merged, too: what was one computation in both is one again."""
    alias = merged_loops([r for s in specs for r in s.body.results])
    if not alias:
        return specs
    return [replace(s, body=Graph(s.body.params, tuple(redirect(s.body.results, alias)))) for s in specs]
