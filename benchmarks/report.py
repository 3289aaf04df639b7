"""What measurements say: tables, ratios to the fastest peer and to C, rows that fall short; from a JSON file alone.

`docs/reference/benchmarks.md` is made of these tables, and so is a part of README.md.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from table import OURS, duration, figures, markdown, size, three_digits

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "reference" / "benchmarks.json"
LIMIT = "C"  # not a peer: what is possible
NAMES = {OURS: "Ostinato"}
FORWARD, GRADIENT = "forward", "gradient"
NEAR_LIMIT, AS_FAST = 1.25, 0.95  # less is no more than noise

Row = Mapping[str, Any]


def load(path: Path = RESULTS) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def save(results: Mapping[str, Any], path: Path = RESULTS) -> None:
    """One row a line, so that a change of a row is one of a line."""
    parts = []
    for name, value in results.items():
        if isinstance(value, list):
            lines = ",\n".join(f"  {json.dumps(v, ensure_ascii=False)}" for v in value)
            parts.append(f" {json.dumps(name)}: [\n{lines}\n ]")
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")


def added(kept: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept, and the new cells of all systems but Ostinato, with ratios to those of its times that are kept."""
    for part in ("rows", "overhead", "compilation"):
        cells = {(r["workload"], r.get("kind")): r["cells"] for r in new.get(part, [])}
        for row in kept.get(part, []):
            found = cells.get((row["workload"], row.get("kind")), {})
            ours = row["cells"].get(OURS)
            row["cells"] |= {s: _beside(c, ours) for s, c in found.items() if s != OURS}
    apart = sorted({*kept.get("apart", []), *new["versions"]} - {OURS})
    return {**kept, "versions": {**new["versions"], **kept["versions"]}, "apart": apart}


def _beside(cell: Any, ours: Any) -> Any:
    """A cell with its ratio to the time of Ostinato's, where there are both."""
    if not isinstance(cell, dict) or "ratio" not in cell or "time" not in (ours or {}):
        return cell
    return {**cell, "ratio": three_digits(cell["time"] / ours["time"])}


# ---- what a row says ------------------------------------------------------------------------------


def peers(row: Row) -> dict[str, float]:
    """How many times as long as Ostinato each peer takes."""
    return {s: c["ratio"] for s, c in row["cells"].items() if "ratio" in c and s not in (OURS, LIMIT)}


def to_fastest_peer(row: Row) -> tuple[str, float] | None:
    """The fastest peer, and how many times as long as Ostinato it takes."""
    found = peers(row)
    return min(found.items(), key=lambda item: item[1]) if found else None


def to_limit(row: Row) -> float | None:
    """How many times as long as C Ostinato takes."""
    value = row["cells"].get(LIMIT, {}).get("ratio")
    return 1 / value if value else None


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def summary(rows: Sequence[Row]) -> str:
    """How Ostinato compares with the fastest peer of each row and with C, and the rows where it falls short."""
    lines = []
    for kind in (FORWARD, GRADIENT):
        of_kind = [r for r in rows if r["kind"] == kind]
        fastest = [f[1] for r in of_kind if (f := to_fastest_peer(r))]
        limits = [v for r in of_kind if (v := to_limit(r))]
        if fastest:
            won = sum(f >= AS_FAST for f in fastest)
            lines.append(
                f"{kind}: the fastest peer takes {figures(geometric_mean(fastest))} times as long as Ostinato "
                f"(geometric mean of {len(fastest)} rows; Ostinato is as fast or faster in {won})"
            )
        if limits:
            near = sum(v <= NEAR_LIMIT for v in limits)
            lines.append(
                f"{kind}: Ostinato takes {figures(geometric_mean(limits))} times as long as C "
                f"(geometric mean of {len(limits)} rows; {near} within {NEAR_LIMIT})"
            )
    short = [line for row in rows if (line := short_of(row))]
    return "\n".join([*lines, "", "rows that fall short:" if short else "no row falls short", *short])


def short_of(row: Row) -> str:
    """What a row falls short of, or nothing."""
    fastest, limit, parts = to_fastest_peer(row), to_limit(row), []
    if fastest and fastest[1] < AS_FAST:
        parts.append(f"{figures(1 / fastest[1])} times as long as {fastest[0]}")
    if limit and limit > NEAR_LIMIT:
        parts.append(f"{figures(limit)} times as long as C")
    return f"- {_label(row)}: {' and '.join(parts)}" if parts else ""


# ---- tables ---------------------------------------------------------------------------------------


def systems_of(rows: Sequence[Row]) -> list[str]:
    """Those that have a cell, Ostinato first and C next, then in the order in which they come."""
    found = list(dict.fromkeys(s for r in rows for s in r["cells"]))
    return sorted(found, key=lambda s: (s != OURS, s != LIMIT))


def cell(row: Row | None, system: str) -> str:
    """Ostinato's time, the ratio of another system's to it, or why there is none."""
    found = (row or {"cells": {}})["cells"].get(system)
    if found is None:
        return ""
    if "note" in found:
        return str(found["note"])
    if system == OURS or "ratio" not in found:
        return duration(found["time"])
    return f"**{figures(found['ratio'])}**" if found["ratio"] < AS_FAST else figures(found["ratio"])


def wide_table(rows: Sequence[Row], systems: Sequence[str] | None = None) -> str:
    """A row per workload: forward, and after the stroke the gradient."""
    systems = systems or systems_of(rows)
    by_name: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_name.setdefault(row["workload"], {})[row["kind"]] = row
    lines = []
    for name, kinds in by_name.items():
        pairs = [(cell(kinds.get(FORWARD), s), cell(kinds.get(GRADIENT), s)) for s in systems]
        lines.append([name, *(" / ".join(p or "–" for p in pair) if any(pair) else "" for pair in pairs)])
    table = markdown(["workload", *(NAMES.get(s, s) for s in systems)], lines)
    return re.sub(r"(\d) ([mµn]?s)\b", "\\1\N{NO-BREAK SPACE}\\2", table)


def against_table(rows: Sequence[Row]) -> str:
    """Each row's fastest peer and C."""
    lines = []
    for row in rows:
        fastest, limit = to_fastest_peer(row), to_limit(row)
        against = f"{figures(fastest[1])} ({fastest[0]})" if fastest else ""
        lines.append([_label(row), against, figures(limit) if limit else ""])
    return markdown(["", "fastest peer ÷ Ostinato", "Ostinato ÷ C"], lines)


def first_table(rows: Sequence[Row]) -> str:
    """What the first result takes in a process that has compiled other functions before."""
    return _simple([(_label(r), {s: c.get("first") for s, c in r["cells"].items()}) for r in rows])


def overhead_table(rows: Sequence[Row]) -> str:
    """What a call of the smallest size takes."""
    return _simple([(r["workload"], r["cells"]) for r in rows])


def compilation_table(rows: Sequence[Row]) -> str:
    """Cold and warm in new processes."""

    def told(found: Mapping[str, Any]) -> str | None:
        return found.get("note") or " / ".join(duration(found[w]) if w in found else "–" for w in ("cold", "warm"))

    return _simple([(_label(r), {s: told(c) for s, c in r["cells"].items()}) for r in rows])


def memory_table(rows: Sequence[Row]) -> str:
    """Peaks of memory above what was there before."""
    return _simple([(_label(r), {s: c.get("memory") for s, c in r["cells"].items()}) for r in rows], size)


def _label(row: Row) -> str:
    return f"{row['workload']}, {row['kind']}"


def _simple(rows: Sequence[tuple[str, Mapping[str, Any]]], form: Callable[[float], str] = duration) -> str:
    systems = systems_of([{"cells": {s: 1 for s, v in cells.items() if v is not None}} for _, cells in rows])
    lines = [[n, *(_text(cells.get(s), form) for s in systems)] for n, cells in rows]
    return markdown(["", *(NAMES.get(s, s) for s in systems)], lines)


def _text(value: Any, form: Callable[[float], str]) -> str:
    return "" if value is None else value if isinstance(value, str) else form(value)


def conditions(results: Mapping[str, Any]) -> str:
    """When, with what and on what was measured."""
    versions = ", ".join(f"{NAMES.get(n, n)} {v}" for n, v in results["versions"].items())
    rounds = f"medians of up to {results['rounds']} rounds"
    if results.get("apart"):
        rounds += f"; {' and '.join(results['apart'])} in runs apart"
    return f"Measured on {results['date']}: {versions}; {results['machine']}; {rounds}."


# ---- README ---------------------------------------------------------------------------------------

IN_README = (OURS, LIMIT, "numba", "JAX", "PyTensor", "torch")
PART = re.compile(r"(<!-- benchmarks: begin -->\n).*(<!-- benchmarks: end -->)", re.S)


def write_readme(results: Mapping[str, Any], path: Path = ROOT / "README.md") -> None:
    """Put the table into its place."""
    systems = [s for s in IN_README if s in systems_of(results["rows"])]
    text = f"{wide_table(results['rows'], systems)}\n\n({conditions(results)})\n"
    page = path.read_text("utf-8")
    assert PART.search(page), f"{path.name} has no place for the table of benchmarks"
    path.write_text(PART.sub(lambda m: f"{m[1]}{text}{m[2]}", page), "utf-8")
