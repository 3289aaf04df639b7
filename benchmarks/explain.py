"""The page of compile reports: what Ostinato decided for each workload, in the words of `explain()`."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from suite import FORWARD, Workload
from systems import Ostinato

PAGE = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "compile-reports.md"

HEAD = """\
# What the compiler decides

What `explain()` says of each workload of the benchmarks, forwards and with the gradient: what was computed
before a loop or after it, what was merged or packed, what is recorded for the gradient, and which loops are left. The
step as it was written stands before; its sizes are only known when the function is called. How many elements are
taken at a time depends on the machine.

This page is written by `python benchmarks/run.py --explain`. [](../reference/benchmarks.md) has the times.
"""

# What differs from one process to the next, or is of no use on a page.
LEFT_OUT = ("Compiling took", "Text of a stage", "Its code was")


def write(workloads: Sequence[Workload], path: Path = PAGE) -> None:
    """The whole page."""
    path.write_text("\n".join([HEAD, *map(section, workloads)]), "utf-8")


def section(workload: Workload) -> str:
    """A workload: what it is, what was written, and a report for each kind."""
    doc = inspect.cleandoc(type(workload).__doc__ or "").split("\n\n")[0]
    source = textwrap.dedent(inspect.getsource(type(workload).symbolic))  # type: ignore[attr-defined]
    parts = [f"## {workload.name}\n\n{doc}\n", f"```text\n{source}```\n"]
    for kind in workload.kinds:
        parts.append(f"{kind.capitalize()}:\n\n```text\n{report(workload, kind)}\n```\n")
    return "\n".join(parts)


def report(workload: Workload, kind: str = FORWARD) -> str:
    """What `explain()` says, without times."""
    import ostinato

    inputs, outputs = Ostinato().graph(workload, kind, workload.arguments(np.random.default_rng(1)))
    with ostinato.config.change_flags(cache=False):
        text = ostinato.function(inputs, outputs, mode="native").explain()
    return "\n".join(line for line in text.splitlines() if not line.startswith(LEFT_OUT))
