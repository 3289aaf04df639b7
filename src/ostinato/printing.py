"""Text forms: a short expression for messages, the whole graph for tests and readers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from ostinato.graph import Graph, Node

_INFIX = {"add": "+", "sub": "-", "mul": "*", "true_div": "/", "floor_div": "//", "mod": "%", "pow": "**"}
_INFIX |= {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "neq": "!=", "matmul": "@"}


# What a message does not show: the operand stands for them.
VIEWS = ("cast", "dimshuffle", "broadcast_to")


def short(node: Node, depth: int = 3) -> str:
    """A node as a user would write it, cut off at a depth: `tanh(h * w + x)`."""
    if node.name:
        return node.name
    if node.op.name == "constant":
        return repr(node.params[0])
    if not node.inputs:
        return f"<{node.type}>"
    if node.op.name in VIEWS:
        return short(node.inputs[0], depth)
    if depth == 0:
        return "..."
    parts = [short(i, depth - 1) for i in node.inputs]
    if node.op.name in _INFIX:
        return f"({parts[0]} {_INFIX[node.op.name]} {parts[1]})"
    if node.op.name == "neg":
        return f"-{parts[0]}"
    if node.op.name == "item":
        return f"{parts[0]}[{node.params[0]}]"
    if node.op.name == "loop":
        return node.params[0].name or "scan"
    return f"{node.op.name}({', '.join(parts)})"


def behind_views(node: Node, named: bool = True) -> Node:
    """What a node is a view of; unless `named`, one that has a name is looked at itself."""
    while node.op.name in VIEWS and (named or not node.name):
        node = node.inputs[0]
    return node


def enumerated(words: Sequence[str], most: int | None = None) -> str:
    """Words as a sentence has them: `a, b and c`; or `a, b and 5 more` if there are more than `most`."""
    if most is not None and len(words) > most:
        words = [*words[:most], f"{len(words) - most} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def standalone(node: Node, depth: int = 3) -> str:
    """The same where nothing stands beside it: without parentheses around all of it."""
    text = short(node, depth)
    node = behind_views(node, named=False)
    return text[1:-1] if not node.name and node.op.name in _INFIX else text


def format_graph(graph: Graph) -> str:
    """The whole graph as text: one line per node, bodies of loops indented below their loop.

    The text depends on structure, names and types only, so that tests can compare it.
    """
    return "\n".join(_lines(graph, "graph", ""))


class _Labels(dict[Node, str]):
    """The names of nodes within one graph: the user's where there is one, else numbers."""

    def __init__(self) -> None:
        super().__init__()
        self._taken: dict[str, int] = {}
        self._count = 0

    def named(self, node: Node, name: str) -> None:
        n = self._taken[name] = self._taken.get(name, 0) + 1
        self[node] = name if n == 1 else f"{name}#{n}"

    def numbered(self, node: Node) -> None:
        self[node] = f"%{self._count}"
        self._count += 1


def _lines(graph: Graph, title: str, indent: str) -> list[str]:
    labels = _Labels()
    for i, p in enumerate(graph.params):
        labels.named(p, p.name or f"p{i}")
    params = ", ".join(f"{labels[p]}: {p.type}" for p in graph.params)
    lines = [f"{indent}{title}({params}):"]
    for node in graph.nodes():
        if node in labels:
            continue
        if node.op.name == "constant":
            labels[node] = f"{node.params[0]!r}"
        elif node.op.name == "shared":
            labels.named(node, node.name or "shared")
        else:
            labels.numbered(node)
            lines += _node_lines(node, labels, indent + "  ")
    lines.append(f"{indent}  return {', '.join(labels[r] for r in graph.results)}")
    return lines


def _node_lines(node: Node, labels: _Labels, indent: str) -> list[str]:
    inputs = " ".join(labels[i] for i in node.inputs)
    if node.op.name == "loop":
        spec = node.params[0]
        flags = " until" if spec.has_until else ""
        flags += f" truncate={spec.truncate}" if spec.truncate is not None else ""
        head = f"{indent}{labels[node]} = loop[{spec.n_sequences} sequences, {spec.n_carries} carries{flags}] {inputs}"
        name = f"  # {spec.name}" if spec.name else ""
        return [f"{head} : {node.type}{name}", *_lines(spec.body, "body", indent + "  ")]
    params = ", ".join(f"{k}={v}" for k, v in zip(node.op.params, node.params, strict=True))
    head = f"{node.op.name}[{params}]" if params else node.op.name
    name = f"  # {node.name}" if node.name else ""
    return [f"{indent}{labels[node]} = {head} {inputs} : {node.type}{name}"]


def debugprint(what: Any, file: TextIO | None = None) -> None:
    """Print the graph of a variable, a list of variables, or a compiled function.

    Parameters
    ----------
    file : where to; standard output if not given.
    """
    from ostinato.ops.leaf import INPUT

    graph = getattr(what, "graph", None)
    if graph is None:
        results = tuple(what) if isinstance(what, (list, tuple)) else (what,)
        from ostinato.graph import leaves

        graph = Graph(tuple(n for n in leaves(results) if n.op is INPUT), results)
    (file or sys.stdout).write(format_graph(graph) + "\n")
