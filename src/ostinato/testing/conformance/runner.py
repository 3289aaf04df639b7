"""Running the suite: systems times programs times quantities, with results that can be kept and gone on with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ostinato.errors import OstinatoValueError
from ostinato.testing.conformance.cells import Cell, System, judge
from ostinato.testing.conformance.program import QUANTITIES, Program
from ostinato.testing.conformance.programs import PROGRAMS

_FORMAT = 1

# By quantity.
Row = dict[str, Cell]


@dataclass
class Measured:
    """What one system did: by dtype, by program, by quantity."""

    versions: dict[str, str]
    date: str
    cells: dict[str, dict[str, Row]] = field(default_factory=dict)

    def row(self, dtype: str, program: str) -> Row:
        """The cells of a program, to be added to."""
        return self.cells.setdefault(dtype, {}).setdefault(program, {})


# By the name of the system.
Results = dict[str, Measured]


def select(pattern: str | None = None) -> list[Program]:
    """The programs whose name or topic a pattern with `*` fits, or a part of it; all if there is none."""
    if pattern is None:
        return list(PROGRAMS.values())
    wide = f"*{pattern}*"
    found = [p for p in PROGRAMS.values() if fnmatchcase(p.name, wide) or fnmatchcase(p.topic, wide)]
    if not found:
        raise OstinatoValueError(f"no program fits {pattern!r}; there is {', '.join(PROGRAMS)}")
    return found


def run_suite(
    systems: Sequence[System],
    programs: Sequence[Program] | None = None,
    dtypes: Sequence[str] = ("float64", "float32"),
    quantities: Sequence[str] = QUANTITIES,
    results: Results | None = None,
    report: Callable[[System, Program, str, str, Cell], None] | None = None,
) -> Results:
    """Ask systems for the values and derivatives of programs, and judge the answers.

    Parameters
    ----------
    systems : for instance `[OstinatoSystem("native")]`.
    programs : all unless given.
    quantities : "value" and words of R and F; each program is asked for those of them that it has.
    results : of a run before: cells that it has of the same versions of a system are not run again.
    report : called after each cell that was run.

    Returns
    -------
    dict
        By the name of a system what it did; `results`, if they were given, with more in them.
    """
    found: Results = {} if results is None else results
    for system in systems:
        measured = _measured(found, system)
        for dtype in dtypes:
            for program in PROGRAMS.values() if programs is None else programs:
                if dtype in program.dtypes:
                    _run_program(system, measured, program, dtype, quantities, report)
    return found


def _measured(results: Results, system: System) -> Measured:
    versions = system.versions()
    known = results.get(system.name)
    if known is None or known.versions != versions:
        results[system.name] = Measured(versions, datetime.now(UTC).date().isoformat())
    return results[system.name]


def _run_program(
    system: System,
    measured: Measured,
    program: Program,
    dtype: str,
    quantities: Sequence[str],
    report: Callable[[System, Program, str, str, Cell], None] | None,
) -> None:
    row = measured.row(dtype, program.name)
    for quantity in program.quantities:
        if quantity in quantities and quantity not in row:
            row[quantity] = judge(program, quantity, dtype, system.answer(program, quantity, dtype))
            if report is not None:
                report(system, program, quantity, dtype, row[quantity])


# ---- files ----------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> Results:
    """Results from a file; none if there is no such file.

    Raises
    ------
    OstinatoValueError
        If the file has something else in it.
    """
    try:
        text = Path(path).read_text("utf-8")
    except FileNotFoundError:
        return {}
    try:
        data = json.loads(text)
        if data["format"] != _FORMAT:
            raise KeyError("format")
        return {name: _from_json(value) for name, value in data["systems"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OstinatoValueError(f"{os.fspath(path)} is no file of results of this suite: {error!r}") from None


def save(results: Results, path: str | os.PathLike[str]) -> None:
    """Write results to a file; what was there before stays until all is written."""
    systems = ",\n".join(f"{json.dumps(name)}: {_text(m)}" for name, m in results.items())
    part = Path(f"{os.fspath(path)}.{os.getpid()}.part")
    part.write_text(f'{{"format": {_FORMAT}, "systems": {{\n{systems}\n}}}}\n', "utf-8")
    os.replace(part, path)


def _text(measured: Measured) -> str:
    """JSON with a line per program, so that what changed can be seen."""
    blocks = []
    for dtype, rows in measured.cells.items():
        lines = [
            f"{json.dumps(name)}: {json.dumps({q: c.to_json() for q, c in row.items()})}" for name, row in rows.items()
        ]
        blocks.append(f"{json.dumps(dtype)}: {{\n" + ",\n".join(lines) + "\n}")
    head = f'"versions": {json.dumps(measured.versions)}, "date": {json.dumps(measured.date)}'
    return f'{{{head}, "cells": {{' + ", ".join(blocks) + "}}"


def _from_json(data: dict[str, Any]) -> Measured:
    cells = {
        dtype: {name: {q: Cell(**c) for q, c in row.items()} for name, row in rows.items()}
        for dtype, rows in data["cells"].items()
    }
    return Measured(dict(data["versions"]), data["date"], cells)
