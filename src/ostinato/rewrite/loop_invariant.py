"""loop_invariant: what a step computes of nothing that changes from step to step is computed once, before the loop.

before:  y = loop(n, h, w; (h, w) -> h @ exp(w))
after:   y = loop(n, h, exp(w); (h, v) -> h @ v)

A loop as it is written has no such expressions, since they never enter it. Other passes make some.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ostinato.graph import Graph, Node, make, rewrite_nodes, substitute
from ostinato.ops.leaf import new_input
from ostinato.ops.loop import LOOP, LoopSpec, body_of, captured, split
from ostinato.printing import behind_views, enumerated, standalone
from ostinato.rewrite.engine import rewrite_pass
from ostinato.rewrite.notes import called, tell


@rewrite_pass
def loop_invariant(graph: Graph) -> Graph:
    """Take what does not depend on the steps out of the loops of a graph."""
    return Graph(graph.params, tuple(rewrite_nodes(graph.results, _without_invariants)))


def _without_invariants(node: Node) -> Node | None:
    if node.op is not LOOP:
        return None
    spec: LoopSpec = node.params[0]
    body, given = body_of(spec), split(spec, node.inputs)
    found = [v for v in captured(spec.body.results, (body.t, *body.sequences, *body.carries)) if v.inputs]
    if not found:
        return None
    params = [new_input(v.type, v.name) for v in found]
    results = substitute(spec.body.results, dict(zip(found, params, strict=True)))
    outside: list[Any] = substitute(found, dict(zip(body.invariants, given.invariants, strict=True)))
    _tell(found, spec)
    smaller = replace(spec, body=Graph((*spec.body.params, *params), tuple(results)))
    return make(LOOP, (*node.inputs, *outside), (smaller,))


def _tell(found: list[Node], spec: LoopSpec) -> None:
    """Name arrays that are more than another view of a variable, a few of them."""
    names = list(dict.fromkeys(standalone(n) for n in found if behind_views(n).inputs and n.type.ndim))
    if names:
        verb = "is" if len(names) == 1 else "are"
        tell(f"loop_invariant: {enumerated(names, 3)} {verb} computed once, before {called(spec)}.")
