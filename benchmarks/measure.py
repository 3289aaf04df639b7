"""Measurements: rounds in which the processes of all systems take turns, and new processes with and without caches."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suite import FORWARD, Reference, Workload
from table import OURS, three_digits

HERE = Path(__file__).parent
ENOUGH_OF_A_ROW = 2.0  # seconds that the rounds of one system may take in a row
SLOW = 1.0  # seconds of a call that is not made again, for systems that do not compile in their first call


class TooLongError(Exception):
    """A worker did not answer in time, and was ended."""


class FailedError(Exception):
    """A worker could not do what it was told, or ended."""


class Remote:
    """A worker of a system in a process of its own, which is started again if it had to be ended."""

    def __init__(self, python: str, system: str, environment: Mapping[str, str] | None = None) -> None:
        self.python, self.system, self.environment = python, system, {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def compiles(self) -> bool:
        """Whether a first call takes longer than others."""
        return self.system not in ("torch", "NumPy", "C")

    def ask(self, *request: Any, limit: float = 120.0) -> Any:
        """The worker's answer, within so many seconds of CPU time where that can be read, else of wall time."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(request, process.stdin)
            process.stdin.flush()
            before = self._clock()
            while not select.select([process.stdout], [], [], 0.1)[0]:
                if self._clock() - before > limit:
                    self.end()
                    raise TooLongError
            outcome, value = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError) as error:
            self.end()
            raise FailedError("its process ended") from error
        if outcome == "failed":
            raise FailedError(value)
        return value

    def peak(self) -> int | None:
        """The most bytes that the process has had in memory, as the system tells; None where it does not."""
        try:
            status = Path(f"/proc/{self._started().pid}/status").read_text()
        except OSError:
            return None
        return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), None)

    def _clock(self) -> float:
        """Seconds that the process and its children have had, so that a busy machine costs nobody his time."""
        try:
            fields = Path(f"/proc/{self._started().pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return time.perf_counter()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [self.python, str(HERE / "worker.py"), self.system],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self.environment,
            )
        return self._process


@contextlib.contextmanager
def started(pythons: Sequence[str], systems: Sequence[str]) -> Iterator[dict[str, Remote]]:
    """A worker for each system, in the first environment that has it; those that none has are left out."""
    found: dict[str, Remote] = {}
    folder = tempfile.TemporaryDirectory()
    # Nothing is loaded that another run has compiled.
    alone = {"OSTINATO_CACHE": "0", "PYTENSOR_FLAGS": f"base_compiledir={folder.name}"}
    try:
        for system, python in itertools.product(systems, pythons):
            if system in found:
                continue
            remote = Remote(python, system, alone)
            with contextlib.suppress(FailedError):
                if remote.ask("version"):
                    found[system] = remote
                    continue
            remote.end()
        yield found
    finally:
        for remote in found.values():
            remote.end()
        folder.cleanup()


# ---- rounds ---------------------------------------------------------------------------------------


def row(workload: Workload, kind: str, remotes: Mapping[str, Remote], rounds: int, limit: float) -> dict[str, Any]:
    """The cells of a workload of a kind: what each system that has it takes for a call, and for the first."""
    reference = Reference(workload, workload.arguments(np.random.default_rng(1)))
    cells: dict[str, dict[str, Any]] = {}
    for system, remote in remotes.items():
        cell = _built(workload, kind, remote, reference, limit)
        if cell:
            cells[system] = cell
    times = _rounds({s: remotes[s] for s, cell in cells.items() if not {"note", "time"} & cell.keys()}, rounds)
    times |= {s: [cell["time"]] for s, cell in cells.items() if "time" in cell}
    for system, took in times.items():
        cells[system]["time"] = three_digits(statistics.median(took))
        if OURS in times and system != OURS:
            cells[system]["ratio"] = three_digits(ratio(took, times[OURS]))
    return {"workload": workload.name, "kind": kind, "cells": cells}


def _built(workload: Workload, kind: str, remote: Remote, reference: Reference, limit: float) -> dict[str, Any]:
    """A system has compiled a workload, and its results are right; or a note why not."""
    try:
        if not remote.ask("prepare", workload.name, kind):
            return {}
        first, call, results = remote.ask("first", limit=limit)
        reference.check(kind, results, f"{workload.name}, {kind}, {remote.system}")
        if call > SLOW and not remote.compiles:
            return {"first": three_digits(first), "time": three_digits(call)}
        tuned = remote.ask("tune", limit=3 * limit)
        reference.check(kind, tuned, f"{workload.name}, {kind}, {remote.system}, the fastest form")
    except TooLongError:
        return {"note": f"> {limit:.0f} s"}
    except FailedError as error:
        print(f"{workload.name}, {kind}: {remote.system} failed: {error}", file=sys.stderr, flush=True)
        return {"note": "fails"}
    return {"first": three_digits(first)}


def _rounds(remotes: Mapping[str, Remote], rounds: int) -> dict[str, list[float]]:
    """Times by system, taken in turns; a system that is slow leaves after some rounds."""
    times: dict[str, list[float]] = {system: [] for system in remotes}
    spent = dict.fromkeys(remotes, 0.0)
    for _ in range(rounds):
        for system, remote in remotes.items():
            if spent[system] < ENOUGH_OF_A_ROW:
                start = time.perf_counter()
                times[system].append(remote.ask("time", limit=600))
                spent[system] += time.perf_counter() - start
    return times


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How many times as long as we they take: the median over the rounds that both were in."""
    return statistics.median(t / o for t, o in zip(theirs, ours, strict=False))


def overhead(workload: Workload, remotes: Mapping[str, Remote], rounds: int, limit: float) -> dict[str, Any]:
    """What a call of the smallest size takes, by system: next to nothing is computed."""
    cells: dict[str, Any] = {}
    ready = {}
    for system, remote in remotes.items():
        with contextlib.suppress(TooLongError, FailedError):
            if remote.ask("prepare", workload.name, FORWARD, True):
                remote.ask("first", limit=limit)
                remote.ask("tune", limit=limit)
                ready[system] = remote
    for system, took in _rounds(ready, rounds).items():
        cells[system] = three_digits(statistics.median(took))
    return {"workload": workload.name, "cells": cells}


# ---- new processes --------------------------------------------------------------------------------


def caches(folder: str) -> dict[str, str]:
    """Variables that put all caches of compiled code into a folder."""
    return {
        "OSTINATO_CACHE": "1",
        "OSTINATO_CACHE_DIR": folder,
        "NUMBA_CACHE_DIR": folder,
        "PYTENSOR_FLAGS": f"base_compiledir={folder}",
        "TORCHINDUCTOR_CACHE_DIR": folder,
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def compilation(
    workload: Workload, kind: str, remotes: Mapping[str, Remote], rounds: int, limit: float
) -> dict[str, Any]:
    """From the description to the first result in new processes: without caches, then with; and the memory added."""
    found: dict[str, dict[str, list[float]]] = {}
    notes: dict[str, str] = {}
    for _, (system, remote) in itertools.product(range(rounds), remotes.items()):
        if system in notes:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                for which in ("cold", "warm"):
                    for name, value in _in_new_process(remote, folder, workload, kind, limit).items():
                        label = name if name == "memory" else which
                        found.setdefault(system, {}).setdefault(label, []).append(value)
            except TooLongError:
                notes[system] = f"> {limit:.0f} s"
            except FailedError:
                notes[system] = "fails"
    cells: dict[str, dict[str, Any]] = {system: {"note": note} for system, note in notes.items()}
    for system, values in found.items():
        if system not in notes:
            # With a warm cache no compiler takes memory, where a system has a cache: the smallest peak counts.
            cells[system] = {
                n: three_digits(min(v) if n == "memory" else statistics.median(v)) for n, v in values.items()
            }
    return {"workload": workload.name, "kind": kind, "cells": cells}


def _in_new_process(remote: Remote, folder: str, workload: Workload, kind: str, limit: float) -> dict[str, float]:
    fresh = Remote(remote.python, remote.system, caches(folder))
    try:
        if not fresh.ask("prepare", workload.name, kind):
            return {}
        before = fresh.peak()
        took, *_ = fresh.ask("first", limit=limit)
        fresh.ask("time")
        after = fresh.peak()
    finally:
        fresh.end()
    return {"seconds": took} | ({"memory": float(after - before)} if before is not None and after is not None else {})
