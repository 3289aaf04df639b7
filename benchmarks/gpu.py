"""Time Ostinato on a GPU against its peers: the rows of `gpu_workloads/`, each on every system that has it.

Each system's results are compared with the float64 reference at a small size before it is timed, and with those of a
peer at the full size. Then each round times all systems of a row one after the other; reported are medians over
the rounds: microseconds per step, and the ratios of a peer's time to Ostinato's in the same round. Above 1, Ostinato is
faster. A row is printed as soon as it is measured, and the table, in Markdown, at the end.

Rows are measured in a process of their own: where a system takes it down or never returns, another one goes on.

    python benchmarks/gpu.py [--quick] [--only PART]... [--budget SECONDS] [--out FILE.json] [--device cpu]
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import itertools
import json
import os
import platform
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

if __name__ == "__main__":  # before libraries are imported; processes that are started inherit it
    # Each library takes memory as it needs it: the others need some too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["OSTINATO_CACHE"] = "0"  # compiling is timed, not loading

import numpy as np

import gpu_chains
import gpu_latency
import gpu_systems
import gpu_workloads  # noqa: F401
from gpu_report import Record, Results
from gpu_systems import CUDA, SYSTEMS, Runner, System
from gpu_workloads.base import ROWS, Draw, Row
from limits import TooLongError, at_most
from suite import Reference
from table import OURS

ENOUGH = 2e-3  # seconds: a shorter call is repeated until one timing takes that long
MOST = 200  # calls in one timing
PROCESSES = 8  # that may measure, one after the other


class BrokenError(Exception):
    """The device does not answer this process any more."""


# ---- measuring, in the process that has the device ------------------------------------------


class Measuring:
    """Measures rows, one after the other."""

    def __init__(
        self, args: argparse.Namespace, deadline: float, latency: gpu_latency.Measured, tell: Callable[[Record], None]
    ) -> None:
        self.args, self.deadline, self.latency, self.tell = args, deadline, latency, tell
        self._passed: set[tuple[Any, ...]] = set()
        self._references: dict[Any, tuple[dict[str, Any], Reference]] = {}

    def row(self, row: Row, skip: dict[str, str]) -> Record:
        """Build, check and time all systems of a row."""
        device = self.args.device
        task = row.task if device == CUDA else row.task.small()
        gpu_systems.set_precision(task)
        arguments = gpu_systems.drawn(task, device)
        cells: dict[str, Record] = {}
        runners: dict[str, Runner] = {}
        record: Record = {"event": "row", "row": row.name, "steps": task.steps, "systems": cells}
        believed: tuple[str, list[Any], float] | None = None
        for system in self._asked(row):
            cell = cells[system.name] = {}
            if system.name in skip:
                cell["failed"] = skip[system.name]
                continue
            self.tell({"event": "doing", "row": row.name, "system": system.name})
            with self._noted(cell):
                if system.slow and time.time() > self.deadline:
                    raise TimeoutError("no time left")
                some, theirs = task, arguments
                if system.most_steps and task.steps > system.most_steps:
                    some, theirs = task.shortened(system.most_steps, arguments)
                cell["steps"] = some.steps
                start = time.perf_counter()
                runner = system.build(some, row.kind, theirs, device)
                out = runner.call()
                runner.wait(out)
                cell["ready"] = time.perf_counter() - start
                if not system.slow:
                    self._check_small(system, row)
                if some is task:
                    results = runner.arrays(out)
                    record["bytes"] = gpu_systems.bytes_of([*arguments.values(), *results])
                    tolerance = system.as_computed(task).tolerance
                    believed = believed or (system.name, results, tolerance)
                    cell["difference"] = gpu_systems.difference(results, believed[1])
                    if not cell["difference"] <= 5 * max(tolerance, believed[2]):
                        raise AssertionError(f"differs from {believed[0]} by {cell['difference']:.1e}")
                    del results
                del out
                runners[system.name] = runner
        believed = None
        record["chain"] = self._chain(row, task, arguments)
        self._time(row, runners, cells)
        if OURS in runners and "times" in cells[OURS]:
            cells[OURS]["kernels"] = SYSTEMS[OURS].kernels(runners[OURS], device)  # type: ignore[attr-defined]
        return record

    def _chain(self, row: Row, task: Any, arguments: dict[str, Any]) -> dict[str, float]:
        """How many operations per step wait for each other, by what they are; none if they cannot be counted."""
        if not self.latency:
            return {}
        shapes = {name: tuple(value.shape) for name, value in arguments.items()}
        try:
            path = gpu_chains.chain(task, row.kind, shapes, gpu_chains.costs(self.latency, task))
        except Exception as error:  # a floor less; the times are what counts
            print(f"{row.name}: the chain of operations cannot be counted: {error!r}", file=sys.stderr)
            return {}
        return dict(zip(gpu_chains.OPERATIONS, path, strict=True))

    def _asked(self, row: Row) -> list[System]:
        """The systems of a row, in the order in which they are built."""
        return [
            s
            for s in SYSTEMS.values()
            if (s.name in self.args.systems and s.can(row.task, row.kind) and s.version())
            and not (s.gpu_only and self.args.device != CUDA)
            and not (s.slow and (self.args.quick or s.name not in row.extras))
        ]

    @contextlib.contextmanager
    def _noted(self, cell: Record) -> Any:
        """What goes wrong inside is what the cell says; only a broken device stops the process."""
        limit = max(5.0, min(self.args.limit, self.deadline + 10 - time.time()))
        try:
            with at_most(limit):
                yield
        except TooLongError:
            cell["failed"] = f"longer than {limit:.0f} s"
        except Exception as error:
            cell["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            torch = gpu_systems.torch_module()
            if self.args.device == CUDA and torch is not None:
                try:
                    torch.cuda.synchronize()
                except Exception as broken:
                    raise BrokenError(cell["failed"]) from broken

    def _check_small(self, system: System, row: Row) -> None:
        """Compare the results at a small size with the reference, once for all sizes."""
        task, device = row.task.small(), self.args.device
        shape_of_results = task.__dict__.get("returns") if system.name == OURS else None
        key = (system.name, type(task), row.kind, task.precision, task.dtype, shape_of_results)
        if key in self._passed:
            return
        arguments, reference = self._reference(system.as_computed(task))
        torch = gpu_systems.torch_module()
        placed = arguments if torch is None else {n: torch.from_numpy(v).to(device) for n, v in arguments.items()}
        runner = system.build(task, row.kind, placed, device)
        out = runner.call()
        runner.wait(out)
        reference.check(row.kind, [gpu_systems.exact(r) for r in runner.arrays(out)], system.name)
        self._passed.add(key)

    def _reference(self, task: Any) -> tuple[dict[str, Any], Reference]:
        if task not in self._references:
            arguments = task.arguments(Draw(task.dtype))
            self._references[task] = arguments, Reference(task, arguments)
        return self._references[task]

    def _time(self, row: Row, runners: dict[str, Runner], cells: dict[str, Record]) -> None:
        """Rounds in which every system has its turn; as many as the time for a row allows."""
        repeats = {}
        for name, runner in runners.items():
            self.tell({"event": "doing", "row": row.name, "system": name})
            with self._noted(cells[name]):
                repeats[name] = enough(runner)
        round_takes = sum(times * took for times, took in repeats.values())
        rounds = max(3, min(self.args.rounds, int(self.args.seconds / max(round_takes, 1e-9))))
        for _ in range(rounds):
            for name, (times, _) in repeats.items():
                if "failed" not in cells[name]:
                    self.tell({"event": "doing", "row": row.name, "system": name})
                    with self._noted(cells[name]):
                        cells[name].setdefault("times", []).append(seconds(runners[name], times))
        for name in repeats:
            if "failed" not in cells[name]:
                cells[name]["compile"] = max(0.0, cells[name]["ready"] - statistics.median(cells[name]["times"]))


def seconds(runner: Runner, times: int) -> float:
    """How long a call takes, as a mean over some calls that follow each other."""
    start = time.perf_counter()
    for _ in range(times):
        out = runner.call()
    runner.wait(out)
    return (time.perf_counter() - start) / times


def enough(runner: Runner) -> tuple[int, float]:
    """How many calls make one timing long enough, and how long one takes."""
    seconds(runner, 1)
    times = 1
    while (took := seconds(runner, times)) * times < ENOUGH and times < MOST:
        times = min(MOST, max(2 * times, round(ENOUGH / max(took, 1e-9))))
    return times, took


def measure_all(args: argparse.Namespace, job: Record, tell: Callable[[Record], None]) -> None:
    """Measure the rows of a job, as long as there is time to start one."""
    gpu_systems.quiet()
    torch = gpu_systems.torch_module()
    if args.device == CUDA and (torch is None or not torch.cuda.is_available()):
        sys.exit("There is no torch with a GPU here; --device cpu tries this script at tiny sizes.")
    if args.device != CUDA and torch is not None:
        torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if args.device == CUDA else f"CPU, {platform.machine()}, tiny sizes"
    versions = {s.package: s.version() for s in SYSTEMS.values() if s.version()}
    versions |= {"NumPy": np.__version__, "Python": platform.python_version()}
    with contextlib.suppress(ImportError):
        import triton

        versions["triton"] = triton.__version__
    speed, latency = gpu_systems.bandwidth(args.device), latency_of(job["rows"], args.device)
    tell({"event": "start", "device": name, "versions": versions, "bandwidth": speed, "latency": latency})
    measuring = Measuring(args, job["deadline"], latency, tell)
    for row in job["rows"]:
        if time.time() > job["deadline"]:
            tell({"event": "row", "row": row, "late": True})
            continue
        tell({"event": "doing", "row": row, "system": None})
        start = time.perf_counter()
        try:
            record = measuring.row(ROWS[row], job["skip"].get(row, {}))
            tell({**record, "seconds": time.perf_counter() - start})
        except BrokenError as error:
            tell({"event": "broken", "why": str(error)})
            raise
        except Exception as error:  # of what no system has a part in, such as memory for the arguments
            tell({"event": "row", "row": row, "failed": f"{type(error).__name__}: {str(error)[:300]}"})
        gc.collect()
        if args.device == CUDA:
            torch.cuda.empty_cache()


def latency_of(rows: Sequence[str], device: str) -> gpu_latency.Measured:
    """What operations take that wait for each other; nothing if it cannot be measured."""
    try:
        return gpu_latency.measured([ROWS[row].task for row in rows], device == CUDA)
    except Exception as error:  # no reason to measure nothing else
        print(f"latencies cannot be measured: {error!r}", file=sys.stderr)
        return {}


# ---- telling, in the process that was started ------------------------------------------


class Telling:
    """Prints rows as they come, and the table at the end; keeps all in a file, if there is to be one."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.results = args, Results()

    def hear(self, event: Record) -> None:
        results = self.results
        if event["event"] == "start" and not results.start:
            results.start = {**event, "date": datetime.date.today().isoformat()}
            print(results.head(), flush=True)
        elif event["event"] == "row" and results.start:
            results.records[event["row"]] = event
            print(" | ".join(f"{name} {text}" if name else text for name, text in results.cells(event)), flush=True)
            for name, cell in event.get("systems", {}).items():
                if "failed" in cell:
                    print(f"    {name}: {cell['failed']}", flush=True)
            if self.args.out:
                with open(self.args.out, "w", encoding="utf-8") as file:
                    json.dump(results.content(), file, indent=1)


def supervise(args: argparse.Namespace, job: Record, tell: Callable[[Record], None]) -> None:
    """Have the rows measured by another process, and by the next where it dies or does not answer."""
    why = ""
    for _ in range(PROCESSES):
        if not job["rows"]:
            return
        doing: Record = {}
        why = ""
        for event in worker(args, job):
            if event["event"] == "doing":
                doing = event
            elif event["event"] == "broken":
                why = event["why"]
            elif event["event"] == "ended":
                why = why or event["why"]
            else:
                tell(event)
                if event["event"] == "row":
                    job["rows"].remove(event["row"])
                    doing = {}
        if not doing:
            break
        row, system = doing["row"], doing["system"]
        skipped = job["skip"].setdefault(row, {})
        if system is None or system in skipped:
            job["rows"].remove(row)
            tell({"event": "row", "row": row, "failed": why})
        else:
            skipped[system] = why
    for row in job["rows"]:
        tell({"event": "row", "row": row, "failed": why})


def worker(args: argparse.Namespace, job: Record) -> Any:
    """The events of a measuring process, and why it ended if it did so before its time."""
    command = [sys.executable, os.path.abspath(__file__), "--worker", *args.argv]
    caches = tempfile.mkdtemp() if args.cold else None
    environment = {name: caches for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR") if caches}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()

    def read(stream: Any) -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, args=(process.stdout,), daemon=True).start()
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job))
            process.stdin.close()
        patience = args.limit + 15
        while True:
            try:
                line = lines.get(timeout=patience)
            except queue.Empty:
                yield {"event": "ended", "why": f"no answer in {patience:.0f} s"}
                return
            if line is None:
                if process.wait() != 0:  # what it did last is to blame
                    yield {"event": "ended", "why": f"died with status {process.returncode}"}
                return
            yield json.loads(line)
    finally:
        process.kill()
        process.wait()
        if caches:
            shutil.rmtree(caches, ignore_errors=True)


def work(args: argparse.Namespace) -> None:
    """Be the measuring process: nothing but events goes to where the other one listens."""
    job = json.load(sys.stdin)
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(event: Record) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    measure_all(args, job, tell)
    events.flush()
    os._exit(0)  # what libraries do when Python ends is not waited for


def read_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time Ostinato on a GPU against its peers.")
    parser.add_argument("--quick", action="store_true", help="some rows, and no systems that compile for long")
    parser.add_argument("--only", action="append", metavar="PART", help="rows that have this in their name")
    parser.add_argument("--systems", action="append", choices=SYSTEMS, metavar="NAME", help=", ".join(SYSTEMS))
    parser.add_argument("--budget", type=float, default=210, metavar="SECONDS", help="after which no row is started")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="how often each system is timed, at most")
    parser.add_argument("--seconds", type=float, default=0.6, help="for the rounds of a row; there are three at least")
    parser.add_argument("--limit", type=float, default=40, metavar="SECONDS", help="to build one function")
    parser.add_argument("--out", metavar="FILE.json", help="where every time goes, after each row")
    parser.add_argument(
        "--report", metavar="FILE.json", help="measure nothing; the documentation's table of such a file"
    )
    parser.add_argument("--device", choices=(CUDA, "cpu"), default=CUDA, help="cpu: tiny sizes, to try this script")
    parser.add_argument("--dynamic", action="store_true", help="do not tell Ostinato the sizes of a model")
    parser.add_argument("--cold", action="store_true", help="without what earlier runs left in Triton's cache")
    parser.add_argument("--list", action="store_true", help="print the names of the rows only")
    parser.add_argument("--one-process", action="store_true", help="measure here; a crash ends it all")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.argv = [*argv]
    args.systems = args.systems or list(SYSTEMS)
    gpu_systems.Ostinato.sizes_known = not args.dynamic
    return args


def chosen_rows(args: argparse.Namespace) -> list[str]:
    """Names of rows: those of a quick run first, then one of each family in turn, and the huge ones last."""
    parts = [part.lower() for part in args.only or [""]]
    named = [row for row in ROWS.values() if any(p in row.name.lower() for p in parts)]
    rest: dict[type, list[str]] = {}
    for row in [] if args.quick else named:
        if not row.quick:
            rest.setdefault(type(row.task), []).append(row.name)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*rest.values()))
    others = sorted((name for name in turns if name), key=lambda name: ROWS[name].task.huge)
    return [r.name for r in named if r.quick] + others


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmarks and print the table."""
    args = read_arguments(sys.argv[1:] if argv is None else argv)
    if args.worker:
        return work(args)
    if args.list:
        return print("\n".join(chosen_rows(args)))
    if args.report:
        with open(args.report, encoding="utf-8") as file:
            results = Results.read(json.load(file))
        return print(f"{results.head()}\n\n{results.document()}")
    telling = Telling(args)
    job = {"rows": chosen_rows(args), "skip": {}, "deadline": time.time() + args.budget}
    (measure_all if args.one_process else supervise)(args, job, telling.hear)
    if not telling.results.start:
        sys.exit("Nothing could be measured.")
    print(f"\n{telling.results.head()}\n")
    print("Microseconds per step; ~: fewer steps were run. Ratios are medians over the rounds.\n")
    print(telling.results.table(), flush=True)
    return None


if __name__ == "__main__":
    main()
