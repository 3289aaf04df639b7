"""The tasks of the benchmarks for the GPU, at tiny sizes and without one: all systems compute the reference.

What needs torch or JAX is skipped, and says so, where these are not installed. lax.scan unrolled and torch.compile
run the same bodies as lax.scan and torch's loop, and take minutes to compile all; the script compares their results.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import itertools
import json
import pathlib
import re
import sys
import types
from typing import Any

import numpy as np
import pytest

import gpu
import gpu_chains
import gpu_latency
import gpu_systems
import ostinato
import ostinato.tensor as T
from gpu_systems import SYSTEMS, torch_module
from gpu_workloads.base import ROWS, TOLERANCE, Draw, Row, Task, power, register
from ostinato.graph import Graph
from ostinato.ops.loop import LOOP
from suite import FORWARD, KINDS, Reference

PEERS = ("cuDNN", "lax.scan", "associative_scan", "torch loop")
FLASH = ("flash-linear-attention", "flash-linear-attention, chunked")


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
    torch = gpu_systems.torch_module() if system in FLASH or SYSTEMS[system].package == "torch" else None
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
    if not SYSTEMS[system].can(row.task, row.kind):
        assert system in ("cuDNN", "associative_scan")
        return
    pytest.importorskip(SYSTEMS[system].package)
    reference, results = computed(system, row)
    reference.check(row.kind, results, name)


def gated_delta_rule(
    q: Any, k: Any, v: Any, g: Any = None, beta: Any = None, scale: Any = None, initial_state: Any = None
) -> tuple[Any, None]:
    """What flash-linear-attention documents of its functions, as a loop; (batch, steps, heads, size) are the axes."""
    (batch, steps, heads, keys), values = k.shape, v.shape[-1]
    assert q.shape == k.shape
    assert g.shape == beta.shape == (batch, steps, heads)
    assert initial_state.shape == (batch, heads, keys, values)
    S, found = initial_state, []
    for t in range(steps):
        S = S * g[:, t, :, None, None].exp()
        error = v[:, t] - (S * k[:, t, :, :, None]).sum(-2)
        S = S + k[:, t, :, :, None] * (beta[:, t, :, None] * error)[:, :, None, :]
        found.append((S * q[:, t, :, :, None]).sum(-2) * (keys**-0.5 if scale is None else scale))
    return torch_module().stack(found, 1), None  # without output_final_state


@pytest.mark.parametrize("system", FLASH)
def test_flash_linear_attention_gets_and_gives_what_the_rule_says(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    function = SYSTEMS[system].function  # type: ignore[attr-defined]
    there = {"fla": {}, "fla.ops": {}, "fla.ops.gated_delta_rule": {function: gated_delta_rule}}
    for name, content in there.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(Draw, "zeros", Draw.normal)  # states that do not start from nothing
    rows = [row for row in VARIANTS.values() if SYSTEMS[system].can(row.task, row.kind)]
    assert {row.kind for row in rows} == {FORWARD} if function.startswith("fused_recurrent") else set(KINDS)
    for row in rows:
        reference, results = computed(system, row)
        reference.check(row.kind, results, row.name)
        on_tensor_cores = TOLERANCE["ieee" if function.startswith("fused_recurrent") else "tf32"]
        assert SYSTEMS[system].as_computed(row.task).tolerance == on_tensor_cores


def test_flash_linear_attention_is_there_if_it_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"fla-core": "0.6.0"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    for spec, wanted in ((None, None), ("found", "0.6.0")):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, spec=spec: spec)
        assert {SYSTEMS[system].version() for system in FLASH} == {wanted}
    installed["flash-linear-attention"] = "0.5.1"
    assert {SYSTEMS[system].version() for system in FLASH} == {"0.5.1"}
    installed.clear()
    assert {SYSTEMS[system].version() for system in FLASH} == {None}


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


# Seconds of an operation such that each kind counts, in the order of `gpu_chains.OPERATIONS`.
COSTS = (1.0, 10.0, 20.0, 100.0)


def counted(name: str, **sizes: int) -> tuple[float, ...]:
    """The longest chain of a row, at other sizes."""
    task = dataclasses.replace(ROWS[name].task, **sizes)
    shapes = {n: np.shape(v) for n, v in task.arguments(Draw(task.dtype)).items()}
    return gpu_chains.chain(task, ROWS[name].kind, shapes, COSTS)


@pytest.mark.parametrize(
    ("name", "sizes", "wanted"),
    [
        # 1 - x and a product with it; r x is there by then.
        ("logistic map, 10⁴ lanes, last states, forward", {}, (2, 0, 0, 0)),
        # Per slope, a - b y is one and the product with x another; per stage, one to go there, and one at the end.
        ("Lotka–Volterra, RK4, 10⁴ lanes, last states, forward", {"lanes": 3}, (4 * 2 + 3 + 1, 0, 0, 0)),
        # A gate, i g + f c, tanh of it, o times that; each number adds up 128 products, 16 in what is measured.
        ("LSTM, B = 32, H = 128, tf32, forward", {"batch": 2, "steps": 3}, (2 + 3, 0, 2, 1)),
        # r, r hn + xn, its tanh, h - n, n + z of it.
        ("GRU, B = 32, H = 128, tf32, forward", {"batch": 2, "steps": 3, "units": 16}, (1 + 2 + 1, 0, 2, 1)),
        # k S, the sum of 64 of them, times b k, times a, less that.
        ("gated delta rule, 64 heads, d = 64, forward", {"heads": 1, "steps": 3}, (1 + 6 + 1 + 1, 0, 0, 0)),
        # The largest of 32, less it, exp, a sum over 32, log, plus the largest and e.
        ("HMM forward, 10³ sequences, K = 32, float32, forward", {"lanes": 2, "steps": 3}, (5 + 1 + 1 + 1, 0, 2, 1)),
        # A tree; in the gradient two, one after the other.
        ("h = a h + b, 10² lanes, T = 10⁵, forward", {"lanes": 2, "steps": 1024}, (10 / 1024, 0, 0, 0)),
        ("h = a h + b, 10² lanes, T = 10⁵, gradient", {"lanes": 2, "steps": 1024}, (20 / 1024, 0, 0, 0)),
    ],
)
def test_chains_are_those_counted_by_hand(name: str, sizes: dict[str, int], wanted: tuple[float, ...]) -> None:
    assert counted(name, **sizes) == pytest.approx(wanted)


def test_a_normalized_state_waits_for_its_mean_variance_and_root() -> None:
    # Two norms, each two sums of n with what is done to them, a root, and the product with its reciprocal.
    found = counted("LayerNorm-LSTM, B = 32, H = 128, tf32, forward", batch=2, steps=3, units=16)
    sums = 2 * 6 + 2 * 4  # log2 of 64 and of 16
    assert found[1:] == (2, 2, 1)
    assert sums + 6 <= found[0] <= sums + 16


def test_the_longest_cycle_of_states_counts_and_not_the_longest_step() -> None:
    x, y = (T.tensor("float32", (4,), name) for name in "xy")

    def chain(step: Any) -> tuple[float, ...]:
        outputs, _ = ostinato.scan(step, outputs_info=[x, y], n_steps=9)
        (loop,) = {node for node in Graph((x, y), tuple(outputs)).nodes() if node.op is LOOP}
        return gpu_chains.of_loop(loop.params[0], 9, lambda path: gpu_chains.seconds(path, COSTS))

    # From x to y 3 functions and from y to x none, so 3 in two steps; or 2 from y to itself, which are more in one.
    assert chain(lambda x, y: [y, T.exp(T.exp(T.exp(x)))]) == (0, 0, 1.5, 0)
    assert chain(lambda x, y: [y + 1, T.exp(T.exp(T.exp(x)))]) == (0.5, 0, 1.5, 0)
    assert chain(lambda x, y: [y, T.exp(T.exp(T.exp(x))) + T.exp(T.tanh(y))]) == (1, 0, 2, 0)
    # What no state waits for is not a chain: y is read by nobody.
    assert chain(lambda x, y: [T.exp(x), T.exp(T.exp(x))]) == (0, 0, 1, 0)
    assert chain(lambda x, y: [1 / (2 + x), x]) == (1, 1, 0, 0)


@pytest.mark.parametrize("operation", gpu_chains.OPERATIONS)
def test_chains_that_are_timed_compute_what_they_say(operation: str) -> None:
    kind = "tf32" if operation == "product" else "float64"
    x, c = (np.full((16, 16), v) for v in gpu_latency.START[operation])
    step = {"function": lambda x, c: np.exp(-x), "product": np.matmul}.get(operation, gpu_latency.STEP[operation])
    for _ in range(6):
        x = step(x, c)
    run, short, long, at_once = gpu_latency._cpu_chain(operation, kind)
    assert (short < long, at_once) == (True, 1)
    np.testing.assert_allclose(run(6), x if operation == "product" else x[0, 0], rtol=1e-6)
    if importlib.util.find_spec("triton") is None or torch_module() is None:
        pytest.skip("without triton there are no kernels")
    run, short, long, at_once = gpu_latency._gpu_chain(operation, kind, "cpu", at_once=3)
    assert (short % 16, long % 16, at_once) == (0, 0, 3)
    of_some = x if operation == "product" else x.ravel()[:32]  # a warp has 32 threads
    np.testing.assert_allclose(run(2).numpy().ravel()[: of_some.size], of_some.ravel(), rtol=1e-6)


def test_what_is_measured_is_what_tasks_need() -> None:
    tasks = [
        ROWS[name].task for name in ("LSTM, B = 32, H = 128, bf16, forward", "LSTM, B = 32, H = 128, float32, forward")
    ]
    tasks.append(next(row.task for row in ROWS.values() if row.task.dtype == "float64"))
    found = gpu_latency.measured(tasks, on_gpu=False)
    assert {kind: [*times] for kind, times in found.items()} == {
        "float32": ["arithmetic", "quotient", "function"],
        "bf16": ["product"],
        "tf32": ["product"],
        "float64": ["arithmetic", "quotient", "function"],
    }
    assert all(1e-12 < seconds < 1e-4 for times in found.values() for seconds in times.values())
    assert gpu_chains.costs(found, tasks[0])[-1] == found["bf16"]["product"]
    assert gpu_chains.costs(found, tasks[1])[-1] == found["tf32"]["product"]  # three of them, at least
    assert gpu_chains.costs(found, tasks[2])[-1] == 0


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
        floor = rf"{number} \((memory|latency)\)"
        assert re.fullmatch(rf"\| GARCH.*, gradient \| {number} \| {floor} \| {number} \| \? \|", line)
    assert third.startswith("| h = a h + b, 10⁴ lanes, T = 10⁴, forward | ")
    rows = json.loads(out.read_text())["rows"]
    assert [r["row"].split(",")[0] for r in rows] == ["GARCH(1"] * 2 + ["h = a h + b"]
    assert all(len(r["systems"]["ostinato"]["times"]) == 3 for r in rows)


def record(row: str, bytes_: int, ours: list[float], **peers: Any) -> dict[str, Any]:
    """A row's part of a file, of 1000 steps; a peer has times of 250 steps, or a failure."""
    cells: dict[str, Any] = {"ostinato": {"steps": 1000, "times": ours, "compile": 1.0}}
    for name, found in peers.items():
        cells[name] = {"failed": found} if isinstance(found, str) else {"steps": 250, "times": found}
    chain = {"arithmetic": 2.0, "quotient": 0.0, "function": 0.0, "product": 1.0}
    return {"row": row, "steps": 1000, "bytes": bytes_, "chain": chain, "systems": cells}


def test_the_table_of_the_documentation_is_made_of_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    lstm, delta = "LSTM, B = 32, H = 128, tf32, ", "gated delta rule, 64 heads, d = 64, forward"
    content = {
        "date": "2027-01-01",
        "device": "a GPU",
        "versions": {"torch": "2.99", "jax": "0.99"},
        "bandwidth": 2e12,
        "latency": {"float32": {"arithmetic": 1e-9, "quotient": 0, "function": 0}, "tf32": {"product": 1e-7}},
        "rows": [
            record(
                lstm + "forward",
                2 * 10**6,
                [2e-4, 4e-4, 4e-4],
                cuDNN=[1e-5, 1e-4, 2e-5],
                **{"lax.scan": "OutOfMemory: x"},
            ),
            record(delta, 4 * 10**8, [1e-3], **{"lax.scan": [2.5e-3], "torch loop": [1e-9]}),
            record("a row that was once", 1, [1.0]),
            {"row": lstm + "gradient", "late": True},
        ],
    }
    (tmp_path / "times.json").write_text(json.dumps(content))
    run("--report", str(tmp_path / "times.json"))
    told, _, listed = capsys.readouterr().out.partition("\n\nNot measured:\n\n")
    head, empty, *table = told.split("\n")
    assert head == (
        "2027-01-01, a GPU, torch 2.99, jax 0.99; a copy moves 2.0 TB/s; ns of an operation that waits for the one "
        "before: arithmetic 1.0 (float32), quotient 0 (float32), function 0 (float32), product 100 (tf32)."
    )
    assert table == [
        "| µs per step | Ostinato | cuDNN | lax.scan | flash-linear-attention | flash-linear-attention, chunked "
        "| floor ÷ ours |",
        "|---|--:|--:|--:|--:|--:|--:|",
        # 400 kB per step in 0.2 µs; the product of 0.1 µs and two more are what a step of the LSTM waits for.
        f"| {delta} | 1.0 |  | ~10 | not measured | not measured | 0.20 (memory) |",
        f"| {lstm}forward | 0.40 | **~0.080** | failed |  |  | 0.26 (latency) |",
    ]
    assert empty == ""
    assert names_listed(listed) == set(ROWS) - {delta, lstm + "forward"}
    assert max(map(len, listed.splitlines())) <= 120


def names_listed(text: str) -> set[str]:
    """The names of the rows that a list has by families."""
    found = set()
    for item in re.split(r"^- ", text, flags=re.MULTILINE)[1:]:
        family, tasks = " ".join(item.partition("\n\n")[0].split()).split(": ", 1)
        for task in tasks.split("; "):
            rest, kinds = task.removesuffix(")").rsplit(" (", 1)
            found |= {f"{family}, {rest}, {kind}" for kind in kinds.split(", ")}
    return found


def test_the_documentation_has_all_rows() -> None:
    page = (pathlib.Path(__file__).parent.parent / "docs/how-to/run-on-a-gpu.md").read_text(encoding="utf-8")
    text = page[page.index("## How fast") :]
    measured = {line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")}
    missing = names_listed(text[text.index("\nNot measured:") :])
    assert (measured - {"µs per step"}) | missing == set(ROWS)
    assert not measured & missing


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
    huge = [ROWS[name].task.huge for name in every]
    assert any(huge)
    assert huge == sorted(huge)
    families = {type(ROWS[name].task) for name in every}
    assert families == {type(ROWS[name].task) for name in quick}
