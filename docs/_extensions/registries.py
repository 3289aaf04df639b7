"""Pages generated from the registries: what is declared once in the code is not written twice.

A line `<!-- generated: NAME -->` (or `NAME of FAMILY`) of a page is replaced, before the page is parsed, by what
the function of that name in `GENERATORS` returns. A new op, rewrite or function therefore gets its row by itself.
Sphinx loads this as an extension; `tests/test_docs_meta.py` uses it without Sphinx.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ostinato.rewrite.native
import ostinato.rewrite.pipeline  # fills the registry of passes
import ostinato.tensor as T
from ostinato.ops import OPS, Op
from ostinato.rewrite.engine import PASSES
from ostinato.tensor import constructors

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MARK = re.compile(r"<!-- generated: (\w+)(?: of (\w+))? -->")


def family(op: Op) -> str:
    """The file in which an op is declared, without its suffix."""
    return op.infer.__module__.rpartition(".")[2]


def summary(op: Op) -> str:
    """What an op does in a line: its own words, else those of the function that builds it."""
    builder = getattr(importlib.import_module(op.infer.__module__), op.name, None)
    text = DESCRIPTIONS.get(op.name) or op.doc or inspect.getdoc(builder) or ""
    return text.split("\n\n")[0].replace("\n", " ")


# Ops whose own words, if they have any, say little to those who do not know the code.
DESCRIPTIONS = {
    "arange": "Evenly spaced numbers from a start up to a stop.",
    "constant": "A value known when the graph is built.",
    "input": "A variable whose value comes with a call.",
    "size": "The size of one dimension.",
    "loop": "One step, repeated over sequences: see [](scan-semantics.md).",
    "item": "One result of an op that has several.",
    "subtensor": "Read a basic slice: `x[1, :3]`.",
    "gather": "Read at arrays of positions: `x[[0, 2]]`.",
    "scatter_set": "A copy with values put at arrays of positions.",
    "scatter_add": "A copy with values added at arrays of positions; where positions repeat, all count.",
}


def ops() -> str:
    """Tables of all ops, one per family."""
    families: dict[str, list[Op]] = {}
    for op in sorted(OPS.values(), key=lambda op: (family(op), op.name)):
        families.setdefault(family(op), []).append(op)
    return "\n\n".join(
        f"## {title}\n\n{_table(members)}" for title, members in families.items()
    )


def _table(members: list[Op]) -> str:
    rows = ["| op | derivative | what it does |", "|---|---|---|"]
    for op in members:
        name = f"{op.name}[{', '.join(op.params)}]" if op.params else op.name
        text = summary(op).replace("|", "\\|")
        rows.append(f"| `{name}` | {'yes' if op.vjp else 'no'} | {text} |")
    return "\n".join(rows)


def rewrites() -> str:
    """Each pass, in order, with its before and after; those for native code last."""
    parts = []
    native = ostinato.rewrite.native
    passes = ostinato.rewrite.pipeline.PIPELINE + native.EARLY + native.NATIVE
    for step in dict.fromkeys(passes):
        title, picture, *rest = paragraphs(PASSES[step.__name__])
        name, _, text = title.partition(": ")
        parts.append(
            f"## {name}\n\n{text[0].upper()}{text[1:]}\n\n```text\n{picture}\n```\n\n"
            + "\n\n".join(rest)
        )
    return "\n\n".join(parts)


def paragraphs(step: Callable[..., Any]) -> list[str]:
    """The docstring of the module of a pass: a title, before and after, and what else there is to say."""
    return (inspect.getdoc(inspect.getmodule(step)) or "").split("\n\n")


def functions(of: str) -> str:
    """The documentation of all functions that a family of ops exports to `ostinato.tensor`."""
    names = importlib.import_module(f"ostinato.ops.{of}").__all__
    return autodoc([f"ostinato.tensor.{n}" for n in sorted(names)])


def autodoc(names: list[str]) -> str:
    return "\n".join(
        ["```{eval-rst}", *[f".. autofunction:: {n}" for n in names], "```"]
    )


def aliases() -> str:
    """A table of Theano's other names for what has a name already."""
    first: dict[int, str] = {}
    rows = ["| name | is |", "|---|---|"]
    for name, value in public(T).items():
        known = first.setdefault(id(value), name)
        if known != name:
            rows.append(f"| `{name}` | `{known}` |")
    return "\n".join(rows)


def public(module: Any) -> dict[str, Any]:
    """The functions and classes that a module offers: its own and Ostinato's, no helpers, no modules."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__module__", "").startswith("ostinato")
    }


def inputs() -> str:
    """A table of the functions that make input variables."""
    rows = [
        "| dimensions | " + " | ".join(["`floatX`", *PREFIXED]) + " |",
        "|---|" + "---|" * (len(PREFIXED) + 1),
    ]
    for kind, shape in constructors._SHAPES.items():
        sizes = ", ".join("1" if s == 1 else "?" for s in shape)
        names = [f"`{prefix}{kind}`" for prefix in ("", *PREFIXED.values())]
        rows.append(f"| ({sizes}) | " + " | ".join(names) + " |")
    return "\n".join(rows)


def conformance_programs() -> str:
    """Tables of the programs of the conformance suite, by topic."""
    from ostinato.testing.conformance.table import list_of_programs

    return list_of_programs()


def conformance_table(dtype: str) -> str:
    """What was measured, from the file beside the page."""
    from ostinato.testing.conformance import load, markdown_table

    return markdown_table(load(MEASURED), dtype)


def benchmarks() -> tuple[Any, dict[str, Any]]:
    """The module that makes tables of the benchmarks, which is no part of the package, and what was measured."""
    folder = str(Path(__file__).parents[2] / "benchmarks")
    if folder not in sys.path:
        sys.path.append(folder)
    report = importlib.import_module("report")
    return report, report.load()


def benchmark_conditions() -> str:
    """When, with what and on what the benchmarks were measured."""
    report, results = benchmarks()
    return report.conditions(results)


def benchmark_calls() -> str:
    """A row per workload, a column per system."""
    report, results = benchmarks()
    return report.wide_table(results["rows"])


def benchmark_against() -> str:
    """A summary, and each row against its fastest peer and C."""
    report, results = benchmarks()
    rows = results["rows"]
    return f"```text\n{report.summary(rows)}\n```\n\n{report.against_table(rows)}"


def benchmark_first() -> str:
    """What compiling in a running process takes."""
    report, results = benchmarks()
    return report.first_table(results["rows"])


def benchmark_overhead() -> str:
    """What a call of the smallest size takes."""
    report, results = benchmarks()
    return report.overhead_table(results.get("overhead", []))


def benchmark_compilation() -> str:
    """What the first result takes in new processes."""
    report, results = benchmarks()
    return report.compilation_table(results.get("compilation", []))


def benchmark_memory() -> str:
    """Peaks of memory."""
    report, results = benchmarks()
    return report.memory_table(results.get("compilation", []))


MEASURED = Path(__file__).parent.parent / "reference" / "conformance.json"

PREFIXED = {dtype: prefix for prefix, dtype in constructors._PREFIXES.items() if dtype}

GENERATORS: dict[str, Callable[..., str]] = {
    "ops": ops,
    "rewrites": rewrites,
    "functions": functions,
    "aliases": aliases,
    "inputs": inputs,
    "conformance_programs": conformance_programs,
    "conformance_table": conformance_table,
    "benchmark_conditions": benchmark_conditions,
    "benchmark_calls": benchmark_calls,
    "benchmark_against": benchmark_against,
    "benchmark_first": benchmark_first,
    "benchmark_overhead": benchmark_overhead,
    "benchmark_compilation": benchmark_compilation,
    "benchmark_memory": benchmark_memory,
}


def expand(text: str) -> str:
    """A page with its marks replaced."""
    return MARK.sub(lambda m: GENERATORS[m[1]](*[m[2]] if m[2] else []), text)


def literal_bars(line: str) -> str:
    """A line of a docstring in which |x| is an absolute value, and no substitution of reStructuredText."""
    return re.sub(r"`[^`]*`|\|", lambda m: "\\|" if m[0] == "|" else m[0], line)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""

    def on_source_read(app: Sphinx, docname: str, source: list[str]) -> None:
        source[0] = expand(source[0])

    def on_docstring(
        app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]
    ) -> None:
        lines[:] = map(literal_bars, lines)

    app.connect("source-read", on_source_read)
    app.connect("autodoc-process-docstring", on_docstring)
    return {"parallel_read_safe": True}
