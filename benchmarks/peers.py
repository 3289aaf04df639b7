"""Time Ostinato against its peers: the workloads of `workloads/`, forward and with gradient, on every system.

Each system's results are checked before it is timed. Then each round times all systems of a row one after
the other, so that a machine that is busy for a while slows all alike; reported are medians over the rounds: of the
time Ostinato takes, and of the ratios of a peer's time to Ostinato's in the same round. Above 1, Ostinato is faster.

    python benchmarks/peers.py [--only PART]... [--systems NAME]... [--rounds N] [--markdown]
"""

from __future__ import annotations

import argparse
import math
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import systems

systems.use_one_thread()

import numpy as np  # noqa: E402

import workloads  # noqa: E402, F401
from suite import GRADIENT, KINDS, WORKLOADS, Reference, Workload  # noqa: E402
from systems import SYSTEMS, System  # noqa: E402

OURS = "ostinato"
ENOUGH = 5e-3  # seconds: a shorter call is repeated until one timing takes that long


class TooLongError(Exception):
    """A system was not done in the time it had."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer, where the platform can; a library is interrupted between its steps."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Row:
    """A workload of a kind under measurement: every system that has it, built and checked."""

    def __init__(self, workload: Workload, kind: str, chosen: Sequence[System], limit: float) -> None:
        self.label = f"{workload.name}, {kind}"
        self.notes: dict[str, str] = {}
        self.runners: dict[str, Callable[[], Any]] = {}
        arguments = workload.arguments(np.random.default_rng(1))
        reference = Reference(workload, arguments, np.random.default_rng(2))
        for system in chosen:
            if not system.can(workload, kind):
                continue
            try:
                with at_most(limit):
                    run = system.build(workload, kind, arguments)
                    results = system.arrays(run())
            except TooLongError:
                self.notes[system.name] = f"> {limit:.0f} s to compile"
                continue
            reference.check(kind, results, f"{self.label}, {system.name}")
            self.runners[system.name] = run
        self.repeats = {name: repeats(run) for name, run in self.runners.items()}
        self.times: dict[str, list[float]] = {name: [] for name in self.runners}

    def measure(self, rounds: int) -> None:
        for _ in range(rounds):
            for name, run in self.runners.items():
                self.times[name].append(seconds(run, self.repeats[name]))

    def cell(self, name: str) -> str:
        """Our time, or the ratio of a peer's to ours."""
        if name not in self.times:
            return self.notes.get(name, "")
        if name == OURS:
            return duration(statistics.median(self.times[name]))
        if OURS not in self.times:
            return duration(statistics.median(self.times[name]))
        return figures(statistics.median(p / o for p, o in zip(self.times[name], self.times[OURS], strict=True)))


def figures(value: float) -> str:
    """A ratio with two digits: more is not to be had from such a measurement."""
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}" if value < 100 else f"{float(f'{value:.2g}'):.0f}"


def duration(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            break
    return f"{value / size:.3g} {unit}"


def seconds(run: Callable[[], Any], times: int) -> float:
    """How long one call takes, as a mean over some calls."""
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


def repeats(run: Callable[[], Any]) -> int:
    """How many calls make one timing long enough."""
    return max(1, math.ceil(ENOUGH / min(seconds(run, 1) for _ in range(3))))


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time Ostinato against its peers.")
    parser.add_argument("--only", action="append", metavar="PART", help="workloads whose name has this part")
    parser.add_argument("--kind", choices=KINDS, action="append", help="forward or gradient; both unless given")
    parser.add_argument("--systems", action="append", choices=SYSTEMS, metavar="NAME", help=", ".join(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="how often each system is timed")
    parser.add_argument("--limit", type=float, default=120, metavar="SECONDS", help="to compile one function")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmarks and print the table."""
    args = read_arguments(argv)
    names = args.systems or [n for n in SYSTEMS if n != "NumPy"]
    chosen = [s for n, s in SYSTEMS.items() if n in names and s.version()]
    versions = ", ".join(f"{s.name} {s.version()}" for s in chosen)
    print(f"{versions}; NumPy {np.__version__}, Python {platform.python_version()}, {platform.machine()}; "
          f"medians of {args.rounds} rounds, one thread\n")
    print(f"| workload | {' | '.join(s.name for s in chosen)} |\n|---{'|--:' * len(chosen)}|", flush=True)
    for workload in WORKLOADS.values():
        if args.only and not any(part.lower() in workload.name.lower() for part in args.only):
            continue
        for kind in args.kind or KINDS:
            try:
                row = Row(workload, kind, chosen, args.limit)
            except Exception as e:  # noqa: BLE001
                import traceback; traceback.print_exc()
                print(f"| {workload.name}, {kind}: {e!r:.200}", flush=True)
                continue
            row.measure(args.rounds)
            print(f"| {row.label} | {' | '.join(row.cell(s.name) for s in chosen)} |", flush=True)


if __name__ == "__main__":
    main()
