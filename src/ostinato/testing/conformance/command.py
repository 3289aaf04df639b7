"""The command `ostinato conformance`: run the suite and print its table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ostinato.errors import OstinatoError, OstinatoValueError
from ostinato.testing.conformance.cells import Cell, System
from ostinato.testing.conformance.ostinato_ import OstinatoSystem
from ostinato.testing.conformance.peer import PEERS, PeerSystem, is_importable
from ostinato.testing.conformance.program import QUANTITIES, Program
from ostinato.testing.conformance.runner import Results, load, run_suite, save, select
from ostinato.testing.conformance.table import failures, list_of_programs, markdown_table, text_table

_DTYPES = ("float64", "float32")
_MODES = ("native", "reference")
# The package that has to be there for a peer.
_PACKAGES = {name: name.partition(" ")[0] for name in PEERS}


def main(args: Sequence[str]) -> int:
    """Follow a command line; 1 if anything of Ostinato is not right, 2 if it cannot be followed."""
    options = _parser().parse_args(list(args))
    if options.list:
        print(list_of_programs([p.name for p in select(options.only)]))
        return 0
    try:
        results = _run(options)
    except OstinatoError as error:
        print(f"ostinato conformance: {error}", file=sys.stderr)
        return 2
    dtypes = [d for d in _DTYPES if any(d in m.cells for m in results.values())]
    for dtype in dtypes:
        print(f"## {dtype}\n" if options.markdown else dtype)
        print(markdown_table(results, dtype) if options.markdown else text_table(results, dtype))
        print()
    bad = [f for f in failures(results) if f[0].startswith("ostinato")]
    for system, dtype, name, quantity, cell in bad:
        print(f"{system}, {dtype}: {name} {quantity}: {cell.status}: {cell.reason}", file=sys.stderr)
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ostinato conformance",
        description="Run loop programs and compare their values and derivatives with references that are computed "
        "without any rule of differentiation. R is a step of reverse mode, F one of forward mode; FR is forward over "
        "reverse.",
    )
    known = ["ostinato", *PEERS, "all"]
    parser.add_argument("--system", action="append", choices=known, help="what to run; ostinato unless given")
    parser.add_argument("--python", help="the Python that has the other libraries; this one unless given")
    parser.add_argument("--mode", choices=[*_MODES, "all"], default="all", help="the backend of Ostinato")
    parser.add_argument("--dtype", choices=[*_DTYPES, "all"], default="all")
    parser.add_argument("--only", metavar="PATTERN", help="programs whose name or topic this fits")
    parser.add_argument("--quantities", metavar="WORDS", help=f"of {','.join(QUANTITIES)}, separated by commas")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for an answer of another library")
    parser.add_argument("--json", metavar="FILE", help="keep results here, and go on from those that are there")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    parser.add_argument("--list", action="store_true", help="list the programs, in Markdown, and run nothing")
    return parser


def _run(options: argparse.Namespace) -> Results:
    programs = select(options.only)
    dtypes = _DTYPES if options.dtype == "all" else (options.dtype,)
    quantities = _quantities(options.quantities)
    results: Results = load(options.json) if options.json else {}
    systems = _systems(options)

    def report(system: System, program: Program, quantity: str, dtype: str, cell: Cell) -> None:
        if sys.stderr.isatty():
            print(f"\r{system.name} {dtype} {program.name} {quantity}: {cell.status}\x1b[K", end="", file=sys.stderr)
        if options.json and (not system.name.startswith("ostinato") or quantity == program.quantities[-1]):
            save(results, options.json)

    try:
        run_suite(systems, programs, dtypes, quantities, results, report)
    finally:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr)
        for system in systems:
            system.close()
        if options.json:
            save(results, options.json)
    return results


def _quantities(given: str | None) -> Sequence[str]:
    if given is None:
        return QUANTITIES
    words = given.split(",")
    unknown = [w for w in words if w not in QUANTITIES]
    if unknown:
        raise OstinatoValueError(f"there is no quantity {', '.join(unknown)}; there is {', '.join(QUANTITIES)}")
    return words


def _systems(options: argparse.Namespace) -> list[System]:
    asked = options.system or ["ostinato"]
    systems: list[System] = []
    if "ostinato" in asked or "all" in asked:
        systems += [OstinatoSystem(m) for m in (_MODES if options.mode == "all" else (options.mode,))]
    for name in PEERS:
        # Of all, those that are there.
        if name in asked or ("all" in asked and is_importable(_PACKAGES[name], options.python)):
            systems.append(PeerSystem(name, options.python, options.timeout))
    return systems
