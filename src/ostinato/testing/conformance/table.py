"""The table: programs down, systems across, and in each cell how many of the quantities are right, and why not."""

from __future__ import annotations

from collections.abc import Sequence

from ostinato.testing.conformance.cells import Cell
from ostinato.testing.conformance.program import QUANTITIES
from ostinato.testing.conformance.programs import PROGRAMS
from ostinato.testing.conformance.runner import Measured, Results, Row

# In the order in which a cell tells of them.
_FAILURES = ("wrong", "raises", "timeout", "cannot")


def summary(row: Row) -> str:
    """`11 ok`, or `4 ok, R RR raise`; what a cell of the table says."""
    if not row:
        return "—"
    good = sum(1 for c in row.values() if c.status == "ok")
    parts = [f"{good} ok"] if good else []
    for status in _FAILURES:
        words = [q for q in QUANTITIES if q in row and row[q].status == status]
        if words:
            everything = len(words) == len(row)
            parts.append(status if everything else f"{status}: {' '.join(words)}")
    return ", ".join(parts)


def text_table(results: Results, dtype: str) -> str:
    """The table of a dtype for a terminal, with the systems that were asked for it."""
    results = _asked(results, dtype)
    rows = [["program", *results], *([name, *cells] for name, cells in _rows(results, dtype))]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join([*lines, "", *_footer(results, dtype)])


def markdown_table(results: Results, dtype: str) -> str:
    """The same in Markdown, with the reasons as numbered notes."""
    results = _asked(results, dtype)
    reasons: dict[str, int] = {}
    lines = ["| program | " + " | ".join(results) + " |", "|---" * (1 + len(results)) + "|"]
    for name, cells in _rows(results, dtype):
        marked = [
            cell + _marks(m.cells.get(dtype, {}).get(name, {}), reasons)
            for cell, m in zip(cells, results.values(), strict=True)
        ]
        lines.append(f"| `{name}` | " + " | ".join(marked) + " |")
    notes = [f"{k}. {_escaped(reason)}" for reason, k in reasons.items()]
    return "\n".join([*lines, "", *[f"{line}\n" for line in _footer(results, dtype)], *notes])


def _asked(results: Results, dtype: str) -> Results:
    return {name: m for name, m in results.items() if any(m.cells.get(dtype, {}).values())}


def _rows(results: Results, dtype: str) -> list[tuple[str, list[str]]]:
    ran = {name for m in results.values() for name in m.cells.get(dtype, {})}
    return [
        (name, [summary(m.cells.get(dtype, {}).get(name, {})) for m in results.values()])
        for name in PROGRAMS
        if name in ran
    ]


def _footer(results: Results, dtype: str) -> list[str]:
    return [f"{name}: {_totals(m, dtype)} ({_versions(m)}; {m.date})" for name, m in results.items()]


def _totals(measured: Measured, dtype: str) -> str:
    cells = [c for row in measured.cells.get(dtype, {}).values() for c in row.values()]
    counts = [(s, sum(1 for c in cells if c.status == s)) for s in ("ok", *_FAILURES)]
    worst = max((c.error for c in cells if c.status == "ok" and c.error is not None), default=None)
    told = ", ".join(f"{n} {s}" for s, n in counts if n)
    return told + (f", largest error of those {worst:.1e}" if worst is not None else "")


def _versions(measured: Measured) -> str:
    return ", ".join(f"{k} {v}" for k, v in measured.versions.items())


def _marks(row: Row, reasons: dict[str, int]) -> str:
    """The numbers of the notes of a cell; new ones for reasons that are new."""
    told = [c.reason for c in row.values() if c.status != "ok" and c.reason and c.status != "wrong"]
    numbers = [reasons.setdefault(_shortened(r), len(reasons) + 1) for r in dict.fromkeys(told)]
    return f" [{', '.join(map(str, dict.fromkeys(numbers)))}]" if numbers else ""


def _shortened(reason: str) -> str:
    line = reason.strip().split("\n")[0]
    return line if len(line) <= 160 else line[:157] + "..."


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def failures(results: Results) -> list[tuple[str, str, str, str, Cell]]:
    """(system, dtype, program, quantity, cell) of all that is not right."""
    return [
        (system, dtype, name, quantity, cell)
        for system, m in results.items()
        for dtype, rows in m.cells.items()
        for name, row in rows.items()
        for quantity, cell in row.items()
        if cell.status != "ok"
    ]


def list_of_programs(names: Sequence[str] | None = None) -> str:
    """The programs in Markdown, by topic: the name, what it shows, the statement, and what is asked."""
    lines: list[str] = []
    topic = ""
    for p in PROGRAMS.values():
        if names is not None and p.name not in names:
            continue
        if p.topic != topic:
            topic = p.topic
            lines += ["", f"### {topic[0].upper()}{topic[1:]}", "", "| program | what it shows | the loop | orders |"]
            lines.append("|---|---|---|---|")
        statement = " ".join(p.statement.split()).replace("|", "\\|").replace("*", "\\*")
        lines.append(f"| `{p.name}` | {p.shows} | {statement} | {p.orders} |")
    return "\n".join(lines).strip()
