"""The benchmarks: what each system computes at the smallest size is the reference, and what is made of results."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import compiled_c
import explain
import forward
import limits
import measure
import plot
import report
import run
import until
import workloads
from suite import FORWARD, GRADIENT, KINDS, WORKLOADS, Reference, Workload
from systems import SYSTEMS, Ostinato
from table import duration, figures, markdown, size

NAMES = list({type(w): name for name, w in WORKLOADS.items()}.values())  # sizes are cut down anyway
SAMPLERS = {"Gibbs"}  # they need many steps, so that means agree
ROOT = Path(__file__).resolve().parent.parent

assert workloads


def small(name: str) -> tuple[Workload, dict[str, Any], Reference]:
    """The smallest form of a workload, its arguments and its reference."""
    workload = WORKLOADS[name].smallest()
    if type(workload).__name__ in SAMPLERS:
        vars(workload)["steps"] = 400
    arguments = workload.arguments(np.random.default_rng(3))
    return workload, arguments, Reference(workload, arguments)


def computed(system: Ostinato, workload: Workload, kind: str, arguments: dict[str, Any]) -> list[Any]:
    return system.arrays(system.build(workload, kind, arguments)())


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Ostinato:
    """The native backend has tests of its own, and compiles for long."""
    system = Ostinato()
    monkeypatch.setattr(system, "mode", "reference")
    return system


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_ostinato_computes_the_reference(name: str, kind: str, interpreted: Ostinato) -> None:
    workload, arguments, reference = small(name)
    if kind not in workload.kinds:
        pytest.skip("has no derivative")
    reference.check(kind, computed(interpreted, workload, kind, arguments), name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_loops_for_numba_compute_the_reference_as_plain_python(name: str, kind: str) -> None:
    workload, arguments, reference = small(name)
    system = SYSTEMS["numba"]
    if not system.can(workload, kind):
        pytest.skip("not written for numba")
    np.random.seed(0)  # noqa: NPY002 - what numba's generator is as plain Python
    function = getattr(workload, system.method(kind))(lambda f: f)
    reference.check(kind, system.arrays(function(*arguments.values())), name)


@pytest.mark.skipif(not compiled_c.version(), reason="there is no gcc")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WORKLOADS)
def test_c_computes_the_reference(name: str, kind: str) -> None:
    workload, arguments, reference = small(name)
    system = SYSTEMS["C"]
    if not system.can(workload, kind):
        pytest.skip("not written in C")
    reference.check(kind, system.arrays(system.build(workload, kind, arguments)()), name)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_result_is_found(name: str, interpreted: Ostinato) -> None:
    workload, arguments, reference = small(name)
    forward = computed(interpreted, workload, FORWARD, arguments)
    with pytest.raises(AssertionError):
        reference.check(FORWARD, [1.1 * forward[0], *forward[1:]], name)
    if GRADIENT not in workload.kinds:
        return
    gradient = computed(interpreted, workload, GRADIENT, arguments)
    for i in range(len(gradient)):
        wrong = [1.1 * g if i == k else g for k, g in enumerate(gradient)]
        with pytest.raises(AssertionError):
            reference.check(GRADIENT, wrong, name)


# ---- measuring ------------------------------------------------------------------------------------


def test_systems_in_processes_of_their_own_take_turns(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Really: two systems, a workload of microseconds, one round."""
    kept = tmp_path / "kept.json"
    systems = ["--systems", "ostinato", "--systems", "NumPy"]
    run.main(["--only", "A ** 10,", "--rounds", "1", "--quick", "--json", str(kept), *systems])
    assert [r["kind"] for r in report.load(kept)["rows"]] == [FORWARD, GRADIENT]
    out, err = capsys.readouterr()
    head, rule, row, *_ = out.splitlines()
    assert (head, rule) == ("| workload | Ostinato | NumPy |", "|---|--:|--:|")
    number = r"[\d.]+"
    assert re.fullmatch(
        rf"\| A \*\* 10, 10 elements \| {number}\s[µn]s / {number}\s[µn]s \| (\*\*)?{number}.* / – \|", row
    )
    assert "A ** 10, 10 elements, gradient: Ostinato " in err


def test_what_takes_too_long_is_interrupted() -> None:
    def forever() -> None:
        with limits.at_most(0.05):
            while True:
                pass

    with pytest.raises(limits.TooLongError):
        forever()


def test_a_worker_that_takes_too_long_or_fails_is_told() -> None:
    remote = measure.Remote(sys.executable, "NumPy")
    try:
        assert remote.ask("version") == np.__version__
        with pytest.raises(measure.FailedError, match="KeyError"):
            remote.ask("prepare", "no such workload", FORWARD)
        with pytest.raises(measure.TooLongError):
            remote.ask("prepare", "tanh network, 64 units, 100,000 steps", FORWARD, limit=0)
        assert remote.ask("prepare", "EWMA", FORWARD)  # by a new process
        assert remote.peak() is None or remote.peak() > 10**6
    finally:
        remote.end()


# ---- what is made of results ----------------------------------------------------------------------

ROWS = [
    {
        "workload": "one",
        "kind": FORWARD,
        "cells": {
            "JAX": {"time": 4e-3, "ratio": 2.0, "first": 0.1},
            "C": {"time": 1e-3, "ratio": 0.5},
            "ostinato": {"time": 2e-3, "first": 0.2},
        },
    },
    {
        "workload": "one",
        "kind": GRADIENT,
        "cells": {
            "ostinato": {"time": 8e-3},
            "JAX": {"time": 4e-3, "ratio": 0.5},
            "PyTensor": {"note": "> 30 s"},
        },
    },
]


def test_the_tables() -> None:
    assert report.wide_table(ROWS).splitlines()[0] == "| workload | Ostinato | C | JAX | PyTensor |"
    assert report.wide_table(ROWS).replace("\N{NO-BREAK SPACE}", " ").splitlines()[2] == (
        "| one | 2.0 ms / 8.0 ms | **0.50** / – | 2.0 / **0.50** | – / > 30 s |"
    )
    assert report.against_table(ROWS).splitlines()[2:] == [
        "| one, forward | 2.0 (JAX) | 2.0 |",
        "| one, gradient | 0.50 (JAX) |  |",
    ]
    assert report.first_table(ROWS).splitlines()[2] == "| one, forward | 200 ms | 100 ms |"
    lines = report.summary(ROWS).splitlines()
    assert lines[0].startswith("forward: the fastest peer takes 2.0 times as long as Ostinato")
    assert lines[1].startswith("forward: Ostinato takes 2.0 times as long as C")
    assert lines[-2:] == ["- one, forward: 2.0 times as long as C", "- one, gradient: 2.0 times as long as JAX"]
    cells = {"ostinato": {"cold": 0.2, "warm": 0.02, "memory": 3e6}, "JAX": {"note": "> 9 s"}}
    compiled = [{"workload": "one", "kind": FORWARD, "cells": cells}]
    assert report.compilation_table(compiled).splitlines()[2] == "| one, forward | 200 ms / 20 ms | > 9 s |"
    assert report.memory_table(compiled).splitlines()[2] == "| one, forward | 3.0 MB |"


def test_cells_of_another_run_are_put_beside_those_kept() -> None:
    kept = {"versions": {"ostinato": "1"}, "rows": copy.deepcopy(ROWS)}
    cells = {"ostinato": {"time": 4e-3}, "numba": {"time": 8e-3, "ratio": 2.0}}
    new = {"versions": {"ostinato": "2", "numba": "3"}, "rows": [{"workload": "one", "kind": FORWARD, "cells": cells}]}
    both = report.added(kept, new)
    assert (both["versions"], both["apart"]) == ({"ostinato": "1", "numba": "3"}, ["numba"])
    assert report.wide_table(both["rows"], ["ostinato", "numba"]).endswith(" | 4.0 / – |")


def test_the_plot_is_a_picture_with_a_mark_for_each_ratio() -> None:
    root = ElementTree.fromstring(plot.picture(ROWS))
    titles = [e.text for e in root.iter("{http://www.w3.org/2000/svg}title")]
    assert sorted(titles) == ["C: 0.5", "JAX: 0.5", "JAX: 2"]
    assert plot.place(1e9) == plot.place(plot.HIGH) > plot.place(1) > plot.place(0) == plot.place(plot.LOW)


def test_what_is_kept_is_what_the_pages_say(tmp_path: Path) -> None:
    """After a change of tables or plot: python benchmarks/run.py --from-json."""
    results = report.load()
    report.save(results, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text("utf-8") == report.RESULTS.read_text("utf-8")
    readme = tmp_path / "README.md"
    readme.write_text((ROOT / "README.md").read_text("utf-8"), "utf-8")
    report.write_readme(results, readme)
    assert readme.read_text("utf-8") == (ROOT / "README.md").read_text("utf-8")
    assert plot.picture(results["rows"]) == plot.PATH.read_text("utf-8")
    assert {r["workload"] for r in results["rows"]} == set(WORKLOADS)


def test_the_page_of_compile_reports_can_be_made_again(tmp_path: Path) -> None:
    """After a change of workloads: python benchmarks/run.py --explain."""
    workload = WORKLOADS["GARCH(1,1) likelihood"]
    explain.write([workload], tmp_path / "page.md")
    made = (tmp_path / "page.md").read_text("utf-8")
    kept = explain.PAGE.read_text("utf-8")
    assert kept.startswith(explain.HEAD)
    assert re.findall(r"^## (.*)", kept, re.M) == list(WORKLOADS)
    assert made.count("```text\nfunction(r, start, omega, alpha, beta): compiled to one native function") == 2
    assert "Compiling took" not in made


def test_figures_have_two_digits() -> None:
    assert [figures(v) for v in (0.01234, 0.996, 1.25, 12.34, 567.8, 0)] == ["0.012", "1.0", "1.2", "12", "570", "0"]
    assert [duration(v) for v in (2.5, 1.234e-3, 4.56e-5, 7.89e-8)] == ["2.5 s", "1.2 ms", "46 µs", "79 ns"]
    assert [size(v) for v in (2.5e9, 3e6, 0.0)] == ["2.5 GB", "3.0 MB", "0"]
    assert measure.ratio([2.0, 9.0, 5.0], [1.0, 3.0, 2.5, 1.0]) == 2.0
    assert markdown(["a", "b"], [["x", "1"]]) == "| a | b |\n|---|--:|\n| x | 1 |"


# ---- scripts that measure one thing ---------------------------------------------------------------


@pytest.mark.parametrize("system", [s for s in until.SYSTEMS if s.startswith("ostinato")])
def test_the_bound_of_until(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(until, "START", until.START[:2, :2])
    assert until.measure_here(system, 10**9)["call"] < 1
    assert until.row(system, 200, [{"first": 1.0, "call": 2e-3, "memory": 100.0}])[2:] == ["2.0 ms", "100 MiB", "1.0 s"]
    assert until.row(system, 200, ["out of memory"])[2:] == ["out of memory", "", ""]


@pytest.mark.parametrize("loop", [forward.network, forward.garch])
def test_forward_mode_and_two_reverse_passes(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward.importlib.util, "find_spec", lambda name: None)  # no JAX
    assert list(forward.forms(loop, 7)) == ["the loop", "jvp", "value and jvp", "two reverse passes"]


def test_the_smallest_numbers_stay_when_c_is_loaded() -> None:
    """Code that is compiled with -ffast-math may have the processor take them for zero, in all of the process."""
    if compiled_c.version() is None:
        pytest.skip("no gcc")
    compiled_c.library()
    assert (np.array([1e-160]) * np.array([1e-155]))[0] > 0
