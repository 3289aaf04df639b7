"""What a pass is, and how passes are run: in order, into the bodies of loops, verified on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ostinato.config import config
from ostinato.graph import Graph, Node, make, redirect, rewrite_nodes, topological
from ostinato.ops.loop import LOOP, LoopSpec
from ostinato.rewrite.notes import took
from ostinato.verify import verify

Pass = Callable[[Graph], Graph]

PASSES: dict[str, Pass] = {}
OUTERMOST: set[Pass] = set()


def rewrite_pass(function: Pass) -> Pass:
    """Enter a pass into the registry under its own name."""
    PASSES[function.__name__] = function
    return function


def outermost_pass(function: Pass) -> Pass:
    """Enter a pass into the registry that looks at the loops of a function which stand in no other loop."""
    OUTERMOST.add(function)
    return rewrite_pass(function)


def run_passes(graph: Graph, passes: Sequence[Pass]) -> Graph:
    """The graph after all passes, the bodies of its loops first."""
    graph = _in_bodies(graph, [p for p in passes if p not in OUTERMOST])
    for step in passes:
        start = time.perf_counter()
        graph = step(graph)
        took(step.__name__, time.perf_counter() - start)
        if config.verify:
            verify(graph, f"after {step.__name__}")
    return graph


def _in_bodies(graph: Graph, passes: Sequence[Pass]) -> Graph:
    """Run the passes on the body of every loop of the graph."""
    done: dict[Graph, Graph] = {}

    def rule(node: Node) -> Node | None:
        if node.op is not LOOP:
            return None
        spec: LoopSpec = node.params[0]
        if spec.body not in done:
            done[spec.body] = run_passes(spec.body, passes)
        return with_body(node, done[spec.body])

    return Graph(graph.params, tuple(rewrite_nodes(graph.results, rule)))


def with_body(node: Node, body: Graph) -> Node:
    """The same loop with another body of the same params and results."""
    spec: LoopSpec = node.params[0]
    if body == spec.body:
        return node
    return make(LOOP, node.inputs, (replace(spec, body=body),))


def replace_loops(graph: Graph, change: Callable[[Node], Mapping[Node, Any]]) -> Graph:
    """The graph with results of its loops replaced: `change` says for a loop by what, or nothing if it stays."""
    alias: dict[Node, Any] = {}
    for node in topological(graph.results):
        if node.op is LOOP:
            alias.update(change(node))
    return Graph(graph.params, tuple(redirect(graph.results, alias))) if alias else graph


def keeps_types(alias: Mapping[Node, Any]) -> bool:
    """Whether all that takes the place of nodes has their types."""
    return all(old.type == new.type for old, new in alias.items())
