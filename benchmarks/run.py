"""Benchmarks: every workload, forwards and with gradient, on every system that is there, in one interleaved run.

    python benchmarks/run.py [--only PART]... [--kind KIND] [--systems NAME]... [--quick] [--write]

Each system runs in a process of its own, in the first of the environments that has it, and all on one core with one
thread. Rounds take them in turn, so that a machine that is busy for a while slows all alike; times are CPU times.
Nothing is timed whose results are not those of NumPy in float64. With `--write`, results are kept in
`docs/reference/benchmarks.json`, and what is made of it is made anew: the table in README.md and the plot.
`--from-json` does that alone, and `--add` puts the cells of some systems beside those kept. The page of compile reports
is written by `--explain`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import threads

if __name__ == "__main__":
    threads.use_one()

import explain
import plot
import report
import workloads  # noqa: F401
from measure import Remote, compilation, overhead, row, started
from suite import KINDS, WORKLOADS, Workload
from systems import SYSTEMS

# What is compiled in new processes: scalars, a batch, sums of exponentials.
COMPILED = ("GARCH(1,1) likelihood", "LSTM, 64 units, batch 8, 100 steps", "hidden Markov model, 32 states")
PROCESSES = 2  # of each system, without caches and with
LAST = report.ROOT / "build" / "benchmarks" / "last.json"
PEERS = Path(__file__).parent.parent / ".venv-bench" / "bin" / "python"
DEFAULT = [s for s in SYSTEMS if s != "torch.compile"]


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time Ostinato beside C, NumPy and other systems.")
    parser.add_argument("--only", action="append", metavar="PART", help="workloads that have this in their name")
    parser.add_argument("--kind", choices=KINDS, action="append", help="both unless given")
    parser.add_argument("--systems", action="append", choices=SYSTEMS, metavar="NAME", help=", ".join(SYSTEMS))
    parser.add_argument("--quick", action="store_true", help="few rounds, and no new processes")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each system is timed")
    parser.add_argument("--limit", type=float, default=30, metavar="SECONDS", help="to compile one function")
    parser.add_argument("--python", action="append", default=[], metavar="PATH", help="another environment")
    parser.add_argument("--json", type=Path, default=LAST, metavar="PATH", help="where rows are kept as they come")
    parser.add_argument("--write", action="store_true", help="keep results, and write what is made of them")
    parser.add_argument("--add", action="store_true", help="keep the other systems' cells alone, beside what is kept")
    parser.add_argument("--from-json", action="store_true", help="only write what is made of the results kept")
    parser.add_argument("--explain", action="store_true", help="only write the page of compile reports")
    parser.add_argument("--list", action="store_true", help="only list the workloads")
    args = parser.parse_args(argv)
    args.rounds = args.rounds or (3 if args.quick else 9)
    args.systems = args.systems or DEFAULT
    if args.rounds < 1:
        parser.error("--rounds: 1 at least")
    return args


def chosen(parts: Sequence[str] | None) -> list[Workload]:
    wanted = [part.lower() for part in parts or [""]]
    return [w for w in WORKLOADS.values() if any(p in w.name.lower() for p in wanted)]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All that is asked for; rows are told as they come."""
    pythons = [sys.executable, *([str(PEERS)] if PEERS.exists() else []), *args.python]
    kinds = [k for k in KINDS if k in (args.kind or KINDS)]
    selected = chosen(args.only)
    with started(pythons, [s for s in SYSTEMS if s in args.systems]) as remotes:
        missing = [s for s in args.systems if s not in remotes]
        if missing:
            tell(f"not installed, and left out: {', '.join(missing)}")
        results = _conditions(args, remotes)
        results["rows"] = rows = []
        for workload in selected:
            for kind in (k for k in kinds if k in workload.kinds):
                rows.append(row(workload, kind, remotes, args.rounds, args.limit))
                tell(_told(rows[-1], list(remotes)))
                keep(results, args.json)
        if args.quick:
            return results
        fast = {s: r for s, r in remotes.items() if s not in ("NumPy", "PyTensor", "torch.compile")}
        results["overhead"] = [overhead(w, fast, args.rounds, args.limit) for w in selected]
        keep(results, args.json)
        compiled = [w for w in selected if w.name in COMPILED]
        fast = {s: r for s, r in remotes.items() if s not in ("C", "torch", "NumPy")}
        results["compilation"] = [compilation(w, k, fast, PROCESSES, args.limit) for w in compiled for k in kinds]
        keep(results, args.json)
    return results


def keep(results: Mapping[str, Any], path: Path) -> None:
    """For whoever has to stop a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report.save(results, path)


def _conditions(args: argparse.Namespace, remotes: Mapping[str, Remote]) -> dict[str, Any]:
    versions = {s: r.ask("version") for s, r in remotes.items()}
    cores = os.cpu_count()
    return {
        "date": datetime.date.today().isoformat(),
        "versions": versions,
        "machine": f"one thread of a shared {platform.machine()} machine with {cores} cores",
        "rounds": args.rounds,
    }


def _told(found: Mapping[str, Any], systems: Sequence[str]) -> str:
    cells = [f"{report.NAMES.get(s, s)} {report.cell(found, s)}" for s in systems if s in found["cells"]]
    return f"{found['workload']}, {found['kind']}: {', '.join(cells)}"


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def write(results: Mapping[str, Any]) -> None:
    """The plot and the table in README.md."""
    plot.write(results)
    report.write_readme(results)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and keep them if told so."""
    args = read_arguments(argv)
    if args.list:
        print("\n".join(f"{w.name} ({', '.join(w.kinds)})" for w in chosen(args.only)))
    elif args.explain:
        explain.write(chosen(args.only))
    elif args.from_json:
        write(report.load())
    else:
        results = measure(args)
        print(report.wide_table(results["rows"]), report.summary(results["rows"]), sep="\n\n")
        for title, table in (("overhead", report.overhead_table), ("compilation", report.compilation_table)):
            if results.get(title):
                print(f"\n{title}:\n\n{table(results[title])}")
        if args.add:
            results = report.added(report.load(), results)
        if args.write or args.add:
            report.save(results)
            write(results)


if __name__ == "__main__":
    main()
