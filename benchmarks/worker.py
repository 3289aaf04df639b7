"""A process that has one system, and builds, runs and times workloads with it when its parent says so.

    python benchmarks/worker.py SYSTEM

Parent and worker exchange pickles over the worker's standard input and output: a request is the name of a method of
`Worker` and its arguments, an answer is ("done", value) or ("failed", sentence). What a library prints goes to the
standard error output. Nothing is done between two requests, so that the workers of several systems take turns.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

import threads

if __name__ == "__main__":
    threads.use_one()

import numpy as np

import workloads  # noqa: F401
from suite import WORKLOADS, Arguments, Workload
from systems import SYSTEMS
from table import repeats, seconds


class Worker:
    """One system, and the workload that it has built last."""

    def __init__(self, system: str) -> None:
        self.system = SYSTEMS[system]
        self.run: Callable[[], Any] | None = None
        self.repeats = 1
        self.given: tuple[Workload, str, Arguments] | None = None

    def version(self) -> str | None:
        return self.system.version()

    def prepare(self, name: str, kind: str, smallest: bool = False) -> bool:
        """Import what is needed and make the arguments; whether the system has this workload."""
        self.run = self.given = None  # what was built before is not to take memory
        workload = WORKLOADS[name].smallest() if smallest else WORKLOADS[name]
        if not self.system.can(workload, kind):
            return False
        self.system.wake()
        self.given = workload, kind, workload.arguments(np.random.default_rng(1))
        return True

    def first(self) -> tuple[float, float, list[Any]]:
        """Seconds from the description to the first result, those of the call among them, and the results."""
        made: list[Any] = []

        def build() -> None:
            self.run = self.system.build(*self.given, tune=False)  # type: ignore[misc]

        building = seconds(build)
        calling = seconds(lambda: made.append(self.run()))  # type: ignore[misc]
        return building + calling, calling, [np.array(a) for a in self.system.arrays(made[0])]

    def tune(self) -> list[Any]:
        """Take the fastest of the forms that a system has, see how often to call it, and give its results again."""
        if self.system.has_forms(self.given[0]):  # type: ignore[index]
            self.run = self.system.build(*self.given, tune=True)  # type: ignore[misc]
        assert self.run is not None
        self.repeats = repeats(self.run)
        return [np.array(a) for a in self.system.arrays(self.run())]

    def time(self) -> float:
        """Seconds of one call, as a mean over some."""
        assert self.run is not None
        return seconds(self.run, self.repeats)


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    worker = Worker(sys.argv[1])
    while True:
        try:
            method, *arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = "done", getattr(worker, method)(*arguments)
        except Exception as error:
            line = next(iter(str(error).strip().splitlines()), "")
            answer = "failed", f"{type(error).__name__}: {line}"
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
