"""`Function.explain`: what was made of a computation, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ostinato.backends import Report
from ostinato.device import prefers_cpu
from ostinato.errors import OstinatoValueError
from ostinato.graph import Graph, Node
from ostinato.ops.loop import LOOP, LoopSpec, split
from ostinato.ops.sizes import SIZE
from ostinato.printing import behind_views, enumerated, standalone

if TYPE_CHECKING:
    from ostinato.function import Function


def explain(
    function: Function, report: Report | None, stage: str | None, arguments: Sequence[Any] | None = None
) -> str:
    """A summary, or the text of a stage."""
    texts = {"graph": lambda: str(function.graph), **(report.texts if report else {})}
    if stage is not None:
        if stage not in texts:
            raise OstinatoValueError(f"{function} has no stage {stage!r}; there is {', '.join(texts)}")
        return texts[stage]()
    how = report.how if report else "run by a backend that does not say how"
    lines = [f"{function}: {how}."]
    if function.choice.why:
        lines.append(f"The device is {function.choice.why}.")
    elif function.choice.device == "cuda" and (alone := prefers_cpu(function.graph))[0]:
        lines.append(f"The CPU may be the better device, {alone[1]}.")
    if report and report.seconds:
        total = sum(report.seconds.values())
        parts = ", ".join(f"{name} {seconds * 1e3:.0f}" for name, seconds in report.seconds.items())
        what = "Loading" if report.loaded else "Compiling"
        lines.append(f"{what} took {total * 1e3:.0f} ms ({parts}).")
    if report and report.note:
        lines.append(report.note)
    if report and report.called_out:
        lines.append(f"Calls out to NumPy: {', '.join(report.called_out)}.")
    if notes := function.notes:
        lines += ["What was rewritten:", *[f"  {n}" for n in notes]]
    lines.append(_count(function.graph))
    lines += _loops(function.graph, "")
    if report and report.details:
        lines += report.details(arguments)
    lines.append(f"Text of a stage: explain({') or explain('.join(map(repr, texts))}).")
    return "\n".join(lines)


def _count(graph: Graph) -> str:
    operations = sum(1 for n in graph.nodes() if n.inputs and n.op.name != "item")
    return f"The graph has {_plural(operations, 'operation')} outside of loops."


def _plural(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _loops(graph: Graph, indent: str) -> list[str]:
    lines: list[str] = []
    for node in graph.nodes():
        if node.op is LOOP:
            lines.append(indent + _loop(node))
            lines += [f"{indent}  Computed once, before the loop: {h}." for h in _hoisted(node)]
            lines += _loops(node.params[0].body, indent + "  ")
    return lines


def _loop(node: Node) -> str:
    spec: LoopSpec = node.params[0]
    steps = sum(1 for n in spec.body.nodes() if n.inputs)
    name = f" {spec.name!r}" if spec.name else ""
    line = (
        f"Loop{name}: {_plural(steps, 'operation')} per step; reads {_plural(spec.n_sequences, 'sequence')}, "
        f"carries {_plural(spec.n_carries, 'value')}, records {_plural(spec.n_outputs, 'output')}"
    )
    if spec.has_until:
        line += "; stops by a condition"
    if spec.truncate is not None:
        line += f"; derivatives go back {_plural(spec.truncate, 'step')}"
    return line + "."


# So many expressions are named.
_SOME = 4


def _hoisted(node: Node) -> list[str]:
    """What a step uses and is the same in all of them, if it is more than a variable: one line, or none."""
    found: dict[str, None] = {}
    for x in split(node.params[0], node.inputs).invariants:
        x = behind_views(x)
        if x.inputs and x.op is not SIZE and x.type.is_float and x.op.name != "item":
            found[standalone(x)] = None
    return [enumerated(list(found), _SOME)] if found else []
