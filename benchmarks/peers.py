"""Time Ostinato against its peers: the workloads of `workloads/`, forward and with gradient, on every system.

Each system's results are checked before it is timed. Then each round times all systems of a row one after
the other, so that a machine that is busy for a while slows all alike; reported are medians over the rounds: of the
time Ostinato takes, and of the ratios of a peer's time to Ostinato's in the same round. Above 1, Ostinato is
faster. All have one thread of one core, and times are CPU times. The table is in Markdown, with a row per workload:
what it is for forward, then for the gradient.

    python benchmarks/peers.py [--only PART]... [--kind KIND] [--systems NAME]... [--rounds N] [--limit SECONDS]
"""

from __future__ import annotations

import argparse
import platform
import signal
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import threads

if __name__ == "__main__":
    threads.use_one()

import numpy as np

import workloads  # noqa: F401
from suite import KINDS, WORKLOADS, Reference, Workload
from systems import SYSTEMS, System
from table import OURS, duration, markdown, ratio, repeats, seconds


class TooLongError(BaseException):
    """A system was not done in the time it had; not an Exception, which libraries catch."""


@contextmanager
def at_most(limit: float) -> Iterator[None]:
    """Interrupt what takes longer, where the platform can; what is not Python runs to its end first."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit)
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
        reference = Reference(workload, arguments)
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
        """Our time, or the ratio of a peer's to ours, or why there is none."""
        if name not in self.times:
            return self.notes.get(name, "")
        if name == OURS or OURS not in self.times:
            return duration(statistics.median(self.times[name]))
        return ratio(self.times[name], self.times[OURS])


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time Ostinato against its peers.")
    parser.add_argument("--only", action="append", metavar="PART", help="workloads that have this in their name")
    parser.add_argument("--kind", choices=KINDS, action="append", help="both unless given")
    parser.add_argument("--systems", action="append", choices=SYSTEMS, metavar="NAME", help=", ".join(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="how often each system is timed")
    parser.add_argument("--limit", type=float, default=120, metavar="SECONDS", help="to compile one function")
    args = parser.parse_args(argv)
    args.systems = args.systems or [n for n in SYSTEMS if n != "NumPy"]
    if args.rounds < 1:
        parser.error("--rounds: 1 at least")
    return args


def cells(workload: Workload, kinds: Sequence[str], chosen: Sequence[System], args: argparse.Namespace) -> list[str]:
    """The row of a workload, built, checked and measured; told as it comes."""
    found = []
    for kind in kinds:
        row = Row(workload, kind, chosen, args.limit)
        row.measure(args.rounds)
        found.append([row.cell(s.name) for s in chosen])
        print(" | ".join([row.label, *found[-1]]), file=sys.stderr, flush=True)
    both = zip(*found, strict=True)
    return [workload.name, *(" / ".join(c or "–" for c in cell) if any(cell) else "" for cell in both)]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmarks and print the table."""
    args = read_arguments(argv)
    chosen = [s for n, s in SYSTEMS.items() if n in args.systems and s.version()]
    parts = [part.lower() for part in args.only or [""]]
    named = [w for w in WORKLOADS.values() if any(p in w.name.lower() for p in parts)]
    kinds = [k for k in KINDS if k in (args.kind or KINDS)]
    rows = [cells(workload, kinds, chosen, args) for workload in named]
    versions = ", ".join(f"{s.name} {s.version()}" for s in chosen)
    print(f"{versions}; NumPy {np.__version__}, Python {platform.python_version()}, {platform.machine()}.")
    print(f"Ostinato's time, and how many times as long each peer takes: {' / '.join(kinds)}.")
    print(f"Medians of {args.rounds} rounds, one thread.\n")
    print(markdown(["workload", *(s.name for s in chosen)], rows))


if __name__ == "__main__":
    main()
