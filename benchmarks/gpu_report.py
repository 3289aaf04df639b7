"""What the measurements of `gpu.py` say: cells and tables, as they come and for the documentation."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gpu_chains
from gpu_systems import SYSTEMS
from gpu_workloads.base import ROWS
from table import OURS, figures, markdown

SCAN = "lax.scan"
ORDER = [OURS, *(name for name in SYSTEMS if name != OURS)]
BEST, FLOOR = "best peer ÷ ours", "floor ÷ ours"
# Not in the documentation: others run the same, and are never slower by much.
LEFT_OUT = {"torch loop", "lax.scan, unrolled"}

Record = dict[str, Any]


@dataclass
class Results:
    """What was measured: the event that a run starts with, and a record per row."""

    start: Record = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)

    @classmethod
    def read(cls, content: Record) -> Results:
        """From what a run has left in its file; rows that there are no more are left out."""
        rows = {record["row"]: record for record in content["rows"] if record["row"] in ROWS}
        return cls({name: value for name, value in content.items() if name != "rows"}, rows)

    def content(self) -> Record:
        """What goes to a file."""
        return {**self.start, "rows": list(self.records.values())}

    def head(self) -> str:
        """Where, when and with what, and how fast the device is at the least things."""
        versions = ", ".join(f"{name} {version}" for name, version in self.start["versions"].items())
        told = [f"{self.start['date']}, {self.start['device']}, {versions}"]
        if "bandwidth" in self.start:
            told.append(f"a copy moves {figures(self.start['bandwidth'] / 1e12)} TB/s")
        waits = [
            f"{operation} {figures(1e9 * seconds)} ({kind})"
            for kind, times in self.start.get("latency", {}).items()
            for operation, seconds in times.items()
        ]
        if waits:
            told.append(f"ns of an operation that waits for the one before: {', '.join(waits)}")
        return "; ".join(told) + "."

    def cells(self, record: Record) -> list[tuple[str, str]]:
        """The cells of a row, with the heads of their columns."""
        if "systems" not in record:
            why = "not measured: no time left" if record.get("late") else record["failed"]
            return [("", record["row"]), (OURS, why)]
        found, systems = [("", record["row"])], record["systems"]
        medians = medians_of(record)
        for name in ORDER:
            if name in medians:
                found.append((name, time_of(record, name)))
            elif name in systems:
                found.append((name, short(systems[name].get("failed", "no result"))))
        peers = {n: m for n, m in medians.items() if n != OURS}
        if OURS in medians:
            if peers:
                best = min(peers, key=lambda n: peers[n])
                found.append((BEST, f"{ratio(systems, best)} ({best})"))
            if SCAN in peers:
                found.append(("lax.scan ÷ ours", ratio(systems, SCAN)))
            found.append((FLOOR, self.floor(record)))
            found.append(("compile, s", figures(max(systems[OURS]["compile"], 1e-3))))
            found.append(("kernels", systems[OURS].get("kernels", "?")))
        return found

    def floor(self, record: Record) -> str:
        """The larger one of the floors of memory and of latency, in parts of our time, and which one it is."""
        floors = {}
        if "bytes" in record and "bandwidth" in self.start:
            floors["memory"] = record["bytes"] / self.start["bandwidth"] / record["steps"]
        if record.get("chain") and self.start.get("latency"):
            path = tuple(record["chain"][operation] for operation in gpu_chains.OPERATIONS)
            costs = gpu_chains.costs(self.start["latency"], ROWS[record["row"]].task)
            floors["latency"] = gpu_chains.seconds(path, costs)
        if not floors or OURS not in medians_of(record):
            return ""
        which = max(floors, key=lambda name: floors[name])
        part = floors[which] / medians_of(record)[OURS]
        return f"{figures(part) if part > 1e-3 else '0'} ({which})"

    def table(self) -> str:
        """All rows, those of a family together."""
        rows = [dict(self.cells(self.records[name])) for name in ROWS if name in self.records]
        last = [BEST, "lax.scan ÷ ours", FLOOR, "compile, s", "kernels"]
        columns = [c for c in [*ORDER, *last] if any(c in row for row in rows)]
        body = [[row.get(column, "") for column in ("", *columns)] for row in rows]
        return markdown(["µs per step", *columns], body)

    def document(self) -> str:
        """The table of the documentation, and all other rows there are, as not measured."""
        measured = {name: record for name, record in self.records.items() if medians_of(record)}
        rows = {name: self._documented(measured[name]) for name in ROWS if name in measured}
        columns = [c for c in (*ORDER, FLOOR) if any(row.get(c) for row in rows.values())]
        head = ["µs per step", *("Ostinato" if c == OURS else c for c in columns)]
        table = markdown(head, [[name, *(row.get(c, "") for c in columns)] for name, row in rows.items()])
        missing = not_measured([name for name in ROWS if name not in measured])
        return f"{table}\n\nNot measured:\n\n{missing}" if missing else table

    def _documented(self, record: Record) -> dict[str, str]:
        """The cells of a row by system, the fastest one in bold if it is not ours."""
        row = ROWS[record["row"]]
        found = {FLOOR: self.floor(record)}
        medians = {name: m for name, m in medians_of(record).items() if name not in LEFT_OUT}
        for name, system in SYSTEMS.items():
            if name in LEFT_OUT:
                continue
            if name in medians:
                best = name != OURS and medians[name] == min(medians.values())
                found[name] = f"**{time_of(record, name)}**" if best else time_of(record, name)
            elif name in record["systems"]:
                found[name] = "failed"
            elif system.can(row.task, row.kind) and system.package not in self.start["versions"]:
                found[name] = "not measured"
        return found


def not_measured(names: list[str]) -> str:
    """A list of rows, an item per family: what is common to the names comes first, and kinds of one task together."""
    families: dict[str, dict[str, list[str]]] = {}
    for name in names:
        family, _, rest = ROWS[name].task.name.partition(", ")
        families.setdefault(family, {}).setdefault(rest, []).append(ROWS[name].kind)
    items = [
        f"- {family}: " + "; ".join(f"{rest} ({', '.join(kinds)})" for rest, kinds in tasks.items())
        for family, tasks in families.items()
    ]
    return "\n".join(
        textwrap.fill(item, 118, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
        for item in items
    )


def medians_of(record: Record) -> dict[str, float]:
    """Seconds per step of the systems that have a time."""
    systems: Mapping[str, Record] = record.get("systems", {})
    return {n: statistics.median(c["times"]) / c["steps"] for n, c in systems.items() if timed(c)}


def time_of(record: Record, name: str) -> str:
    """Microseconds per step of a system, marked where it ran fewer steps."""
    mark = "~" if record["systems"][name]["steps"] < record["steps"] else ""
    return mark + figures(1e6 * medians_of(record)[name])


def timed(cell: Record) -> bool:
    return "times" in cell and "failed" not in cell


def ratio(systems: Record, peer: str) -> str:
    """How many times as long as we a peer takes per step: the median over the rounds."""
    ours, theirs = systems[OURS], systems[peer]
    scale = ours["steps"] / theirs["steps"]
    return figures(scale * statistics.median(t / o for t, o in zip(theirs["times"], ours["times"], strict=True)))


def short(failed: str) -> str:
    """A failure for a cell; what it says in full is printed below its row."""
    return failed if failed.startswith(("AssertionError: differs", "longer")) else failed.partition(":")[0]
