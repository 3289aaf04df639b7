"""What is legal in a Graph. A violation is a defect of Ostinato, so the message is for its developers."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from ostinato.errors import OstinatoError, VerificationError
from ostinato.graph import Graph, Node
from ostinato.ops.leaf import INPUT
from ostinato.ops.loop import LOOP
from ostinato.ops.op import params_of

# What the ops of nodes inferred. Nodes do not change, and most are in every graph on the way through the passes.
_inferred: WeakKeyDictionary[Node, Any] = WeakKeyDictionary()


def verify(graph: Graph, when: str = "") -> None:
    """Check a graph and the bodies of its loops.

    Checked: every leaf is a param, a constant or a shared variable; no param is listed twice; the type
    of each node is what its op infers; bodies of loops are closed without shared variables.

    Raises
    ------
    VerificationError
        With all violations found.
    """
    problems = _problems(graph, inside_loop=False)
    if problems:
        raise VerificationError(f"the graph is not legal {when}:\n  " + "\n  ".join(problems))


def _problems(graph: Graph, inside_loop: bool) -> list[str]:
    problems: list[str] = []
    params = set(graph.params)
    if len(params) != len(graph.params):
        problems.append("a param is listed twice")
    problems += [f"param {p} is no input but {p.op}" for p in params if p.op is not INPUT]
    for node in graph.nodes():
        problems += _node_problems(node, params, inside_loop)
        if node.op is LOOP:
            problems += [f"in the body of loop: {p}" for p in _problems(node.params[0].body, inside_loop=True)]
    return problems


def _node_problems(node: Node, params: set[Node], inside_loop: bool) -> list[str]:
    if node.op is INPUT:
        return [] if node in params else [f"input {node.name or node.params[0]} is free"]
    if node.op.name == "shared":
        return [f"shared variable {node.name} inside a loop"] if inside_loop else []
    if _inferred.get(node) is node.type:
        return []
    try:
        inferred = node.op.infer(*node.inputs, **params_of(node))
    except OstinatoError as error:
        return [f"{node.op}: {error}"]
    if inferred != node.type:
        return [f"{node.op} has type {node.type}, but infers {inferred}"]
    _inferred[node] = node.type
    return []
