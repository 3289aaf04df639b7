"""Time the way from a program to its first result: trace, differentiate, compile, call, each time in a new process.

What is imported is imported before the clock starts, and nothing that was compiled before is there: caches on disk
are in folders that are new for each process. Rounds take the systems in turn.

    python benchmarks/cold.py [--rounds N] [--systems NAME]...
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import threads

if __name__ == "__main__":
    threads.use_one()

import numpy as np

import workloads  # noqa: F401
from suite import FORWARD, GRADIENT, WORKLOADS
from systems import SYSTEMS
from table import OURS, duration, markdown, ratio, seconds

MEASURED = (
    ("LSTM, 64 units, batch 8", FORWARD),
    ("LSTM, 64 units, batch 8", GRADIENT),
    ("GARCH(1,1) likelihood", GRADIENT),
)
COMPILERS = ("ostinato", "JAX", "PyTensor", "numba")


def first_result(name: str, kind: str, system_name: str) -> float:
    """Seconds to the first result, in this process."""
    workload, system = WORKLOADS[name], SYSTEMS[system_name]
    arguments = workload.arguments(np.random.default_rng(1))
    system.wake()
    return seconds(lambda: system.build(workload, kind, arguments, tune=False)())


def in_new_process(name: str, kind: str, system_name: str, limit: float) -> float | None:
    """The same in a process of its own, without caches; None if it takes too long."""
    with tempfile.TemporaryDirectory() as empty:
        caches = {
            "OSTINATO_CACHE_DIR": empty,
            "NUMBA_CACHE_DIR": empty,
            "PYTENSOR_FLAGS": f"base_compiledir={empty}",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
        }
        command = [sys.executable, __file__, "--child", name, kind, system_name]
        try:
            child = subprocess.run(
                command, env={**os.environ, **caches}, stdout=subprocess.PIPE, text=True, timeout=limit, check=True
            )
        except subprocess.TimeoutExpired:
            return None
    return float(child.stdout.splitlines()[-1])


def measure(rounds: int, names: Sequence[str], limit: float) -> list[list[str]]:
    """The rows of the table."""
    tasks = [(*m, s) for m in MEASURED for s in names if SYSTEMS[s].can(WORKLOADS[m[0]], m[1])]
    times: dict[tuple[str, str, str], list[float]] = {task: [] for task in tasks}
    slow: set[tuple[str, str, str]] = set()
    for i in range(rounds):
        for task in tasks:
            if task in slow:
                continue
            took = in_new_process(*task, limit)
            print(f"round {i + 1}: {', '.join(task)}: {took}", file=sys.stderr, flush=True)
            if took is None:
                slow.add(task)
            else:
                times[task].append(took)
    return [
        [f"{name}, {kind}", *(_cell(times, slow, (name, kind, s), limit) for s in names)] for name, kind in MEASURED
    ]


def _cell(
    times: dict[tuple[str, str, str], list[float]],
    slow: set[tuple[str, str, str]],
    task: tuple[str, str, str],
    limit: float,
) -> str:
    if task in slow:
        return f"> {limit:.0f} s"
    if task not in times:
        return ""
    ours = times.get((*task[:2], OURS))
    took = duration(statistics.median(times[task]))
    return took if not ours or task[2] == OURS else f"{took} ({ratio(times[task], ours)})"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Time compilation from nothing.")
    parser.add_argument("--systems", action="append", choices=COMPILERS, metavar="NAME", help=", ".join(COMPILERS))
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="processes for each cell")
    parser.add_argument("--limit", type=float, default=600, metavar="SECONDS", help="for one process")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        print(first_result(*args.child))
        return
    names = [n for n in args.systems or COMPILERS if SYSTEMS[n].version()]
    print("From the start of tracing to the first result, and how many times as long as Ostinato:\n")
    print(markdown(["compiled from nothing", *names], measure(args.rounds, names, args.limit)))


if __name__ == "__main__":
    main()
