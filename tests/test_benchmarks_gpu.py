"""The tasks of the benchmarks for the GPU, at tiny sizes and without one: all systems compute the reference.

What needs torch or JAX is skipped, and says so, where these are not installed. lax.scan unrolled and torch.compile
run the same bodies as lax.scan and torch's loop, and take minutes to compile all; the script compares their results.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest

import gpu
import gpu_systems
from gpu_systems import SYSTEMS
from gpu_workloads.base import ROWS, TOLERANCE, Draw, Row, Task, power, register
from suite import FORWARD, KINDS, Reference

PEERS = ("cuDNN", "lax.scan", "associative_scan", "torch loop")


def variants() -> dict[str, Row]:
    """One row for each form of a task, whatever its size."""
    found: dict[Any, Row] = {}
    for row, kind in itertools.product(ROWS.values(), KINDS):
        task = row.task.small()
        found.setdefault((task, kind), Row(task, kind, False, ()))
    return {row.name: row for row in found.values()}


VARIANTS = variants()


@pytest.fixture(autouse=True)
def in_reference_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """The native backend has tests of its own, and compiles for long."""
    monkeypatch.setattr(gpu_systems.Ostinato, "mode", "reference")


def computed(system: str, row: Row) -> tuple[Reference, list[Any]]:
    """The reference of a row and what a system computes."""
    arguments = row.task.arguments(Draw(row.task.dtype))
    gpu_systems.set_precision(row.task)
    torch = gpu_systems.torch_module() if SYSTEMS[system].package == "torch" else None
    placed = arguments if torch is None else {n: torch.from_numpy(v) for n, v in arguments.items()}
    runner = SYSTEMS[system].build(row.task, row.kind, placed, "cpu")
    out = runner.call()
    runner.wait(out)
    if system == "ostinato":
        assert {str(r.dtype) for r in out} == {row.task.dtype}
    return Reference(row.task, arguments), [gpu_systems.exact(r) for r in runner.arrays(out)]


@pytest.mark.parametrize("name", VARIANTS)
def test_ostinato_computes_the_reference(name: str) -> None:
    row = VARIANTS[name]
    reference, results = computed("ostinato", row)
    reference.check(row.kind, results, name)
    for i in range(len(results)):
        wrong = [5 * r if i == k else r for k, r in enumerate(results)]
        with pytest.raises(AssertionError):
            reference.check(row.kind, wrong, name)


@pytest.mark.parametrize("system", PEERS)
@pytest.mark.parametrize("name", VARIANTS)
def test_peers_compute_the_reference(name: str, system: str) -> None:
    row = VARIANTS[name]
    if not SYSTEMS[system].can(row.task):
        assert system in ("cuDNN", "associative_scan")
        return
    pytest.importorskip(SYSTEMS[system].package)
    reference, results = computed(system, row)
    reference.check(row.kind, results, name)


def test_ostinato_does_not_have_to_know_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_systems.Ostinato, "sizes_known", False)
    row = next(row for name, row in VARIANTS.items() if name.startswith("LSTM") and row.kind != FORWARD)
    reference, results = computed("ostinato", row)
    reference.check(row.kind, results, row.name)


def test_every_row_says_what_it_is() -> None:
    for name, row in ROWS.items():
        assert name == row.name
        assert row.task.precision in TOLERANCE
        assert row.task.small() != row.task
        assert set(row.task.sequences) | set(row.task.static) | set(row.task.wrt) <= set(
            row.task.small().arguments(Draw(row.task.dtype))
        )
        assert set(row.extras) <= {n for n, s in SYSTEMS.items() if s.slow}
    row = next(iter(ROWS.values()))
    with pytest.raises(ValueError, match="there is a row"):
        register(row.task, row.kind)
    assert [power(n) for n in (1, 64, 100, 10**7, 20000)] == ["1", "64", "10²", "10⁷", "20000"]


def test_shortened_tasks_have_fewer_steps() -> None:
    for row in VARIANTS.values():
        whole = row.task.arguments(Draw(row.task.dtype))
        task, arguments = row.task.shortened(4, whole)
        shapes = {n: np.shape(v) for n, v in task.arguments(Draw(task.dtype)).items()}
        assert task.steps == 4
        assert {n: np.shape(v) for n, v in arguments.items()} == shapes
        if row.kind == FORWARD:
            assert all(np.isfinite(np.asarray(r, "float64")).all() for r in task.numpy(**arguments))


def run(*options: str) -> None:
    gpu.main(["--device", "cpu", "--one-process", "--rounds", "1", "--seconds", "0", *options])


def test_the_table_has_a_row_per_task(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    out = tmp_path / "times.json"
    run("--quick", "--only", "10⁴ lanes, T", "--only", "garch", "--systems", "ostinato", "--out", str(out))
    *_, head, rule, first, second, third = capsys.readouterr().out.splitlines()
    assert head == "| µs per step | ostinato | floor ÷ ours | compile, s | kernels |"
    assert rule == "|---|--:|--:|--:|--:|"
    number = r"[\d.]+"
    for line in (first, second):
        assert re.fullmatch(rf"\| GARCH.*, gradient \| {number} \| {number} \| {number} \| \? \|", line)
    assert third.startswith("| h = a h + b, 10⁴ lanes, T = 10⁴, forward | ")
    rows = json.loads(out.read_text())["rows"]
    assert [r["row"].split(",")[0] for r in rows] == ["GARCH(1"] * 2 + ["h = a h + b"]
    assert all(len(r["systems"]["ostinato"]["times"]) == 3 for r in rows)


def test_nothing_is_started_without_time(capsys: pytest.CaptureFixture[str]) -> None:
    run("--only", "T = 10⁷", "--systems", "ostinato", "--budget", "-1")
    assert "T = 10⁷, forward | not measured: no time left |" in capsys.readouterr().out


class Wrong(gpu_systems.Ostinato):
    """A system whose results are a little off, or that has none."""

    def build(self, task: Task, *args: Any) -> gpu_systems.Runner:
        if task.title.startswith("GARCH"):
            raise NotImplementedError("no GARCH:\nnot at all")
        right = super().build(task, *args)
        return right._replace(call=lambda: [1.1 * r for r in right.call()])


def test_a_cell_says_what_went_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYSTEMS, "ostinato", Wrong())
    run("--quick", "--only", "10⁴ lanes, T", "--only", "garch", "--systems", "ostinato")
    *lines, head, _, garch, _, affine = capsys.readouterr().out.splitlines()
    assert head == "| µs per step | ostinato |"
    assert garch.endswith("| NotImplementedError |")
    assert affine.endswith("| AssertionError |")
    assert "    ostinato: NotImplementedError: no GARCH: not at all" in lines


def test_a_process_that_dies_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(ROWS)[:4]
    jobs: list[dict[str, Any]] = []

    def doing(row: str, system: str | None) -> dict[str, Any]:
        return {"event": "doing", "row": row, "system": system}

    def worker(args: Any, job: dict[str, Any]) -> Any:
        jobs.append(json.loads(json.dumps(job)))
        left, skip = [*job["rows"]], job["skip"]
        for row in left:
            yield doing(row, None)
            if row == rows[3]:
                yield {"event": "ended", "why": "died early"}
                return
            yield doing(row, "torch loop")
            if row == rows[1] and "torch loop" not in skip.get(row, {}):
                yield {"event": "broken", "why": "illegal memory access"}
                yield {"event": "ended", "why": "died with status 1"}
                return
            yield {"event": "row", "row": row, "systems": {}}

    monkeypatch.setattr(gpu, "worker", worker)
    told: list[dict[str, Any]] = []
    gpu.supervise(gpu.read_arguments([]), {"rows": [*rows], "skip": {}}, told.append)
    assert [event["row"] for event in told] == rows
    assert told[3]["failed"] == "died early"
    assert jobs[1] == {"rows": rows[1:], "skip": {rows[1]: {"torch loop": "illegal memory access"}}}
    assert len(jobs) == 2


def test_quick_runs_have_some_rows_and_all_runs_begin_with_them() -> None:
    quick, every = (gpu.chosen_rows(gpu.read_arguments(options)) for options in (["--quick"], []))
    assert every[: len(quick)] == quick
    assert sorted(every) == sorted(ROWS)
    assert len(quick) < len(every) / 2
    families = {type(ROWS[name].task) for name in every}
    assert families == {type(ROWS[name].task) for name in quick}
