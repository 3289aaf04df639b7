"""The workloads of the benchmarks: what each system computes in a few steps is what the NumPy reference says."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import forward
import peers
import until
import workloads
from suite import FORWARD, GRADIENT, KINDS, WORKLOADS, Reference, Workload
from systems import SYSTEMS, Ostinato
from table import duration, figures, markdown, ratio

STEPS = 7
NAMES = list({type(w): name for name, w in WORKLOADS.items()}.values())  # sizes are cut down anyway

assert workloads


def small(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Workload, dict[str, Any], Reference]:
    """A workload cut down to a few steps, its arguments and its reference."""
    workload = WORKLOADS[name]
    monkeypatch.setattr(workload, "steps", STEPS)
    for size in ("units", "batch"):
        if hasattr(workload, size):
            monkeypatch.setattr(workload, size, min(3, getattr(workload, size)))
    arguments = workload.arguments(np.random.default_rng(3))
    return workload, arguments, Reference(workload, arguments)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_ostinato_computes_the_reference(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    workload, arguments, reference = small(name, monkeypatch)
    system = Ostinato()
    monkeypatch.setattr(system, "mode", "reference")  # the native backend has tests of its own, and compiles for long
    reference.check(kind, system.arrays(system.build(workload, kind, arguments)()), name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_loops_for_numba_compute_the_reference_as_plain_python(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload, arguments, reference = small(name, monkeypatch)
    system = SYSTEMS["numba"]
    if not system.can(workload, kind):
        pytest.skip("not written for numba")
    function = getattr(workload, system.method(kind))(lambda f: f)
    reference.check(kind, system.arrays(function(*arguments.values())), name)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_result_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    workload, arguments, reference = small(name, monkeypatch)
    system = Ostinato()
    monkeypatch.setattr(system, "mode", "reference")
    forward = system.arrays(system.build(workload, FORWARD, arguments)())
    gradient = system.arrays(system.build(workload, GRADIENT, arguments)())
    with pytest.raises(AssertionError):
        reference.check(FORWARD, [1.1 * forward[0], *forward[1:]], name)
    for i in range(len(gradient)):
        wrong = [1.1 * g if i == k else g for k, g in enumerate(gradient)]
        with pytest.raises(AssertionError):
            reference.check(GRADIENT, wrong, name)


def test_the_table_has_a_row_per_workload(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AR(2)", "EWMA"):
        monkeypatch.setattr(WORKLOADS[name], "steps", STEPS)
    peers.main(["--only", "ar(2)", "--only", "ewma", "--rounds", "1", "--systems", "ostinato", "--systems", "NumPy"])
    *_, head, rule, first, second = capsys.readouterr().out.splitlines()
    assert head == "| workload | ostinato | NumPy |"
    assert rule == "|---|--:|--:|"
    number = r"[\d.]+"
    assert re.fullmatch(rf"\| AR\(2\) \| {number} [mµn]s / {number} [mµn]s \| {number} / – \|", first)
    assert second.startswith("| EWMA | ")


def test_a_system_that_takes_too_long_is_interrupted() -> None:
    def forever() -> None:
        with peers.at_most(0.05):
            while True:
                pass

    with pytest.raises(peers.TooLongError):
        forever()


def test_figures_have_two_digits() -> None:
    assert [figures(v) for v in (0.01234, 0.996, 1.25, 12.34, 567.8)] == ["0.012", "1.0", "1.2", "12", "570"]
    assert [duration(v) for v in (2.5, 1.234e-3, 4.56e-5, 7.89e-8)] == ["2.5 s", "1.2 ms", "46 µs", "79 ns"]
    assert ratio([2.0, 9.0, 5.0], [1.0, 3.0, 2.5]) == "2.0"
    assert markdown(["a", "b"], [["x", "1"]]) == "| a | b |\n|---|--:|\n| x | 1 |"


@pytest.mark.parametrize("system", [s for s in until.SYSTEMS if s.startswith("ostinato")])
def test_the_bound_of_until(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(until, "START", until.START[:2, :2])
    assert until.measure_here(system, 10**9)["call"] < 1
    assert until.row(system, 200, [{"first": 1.0, "call": 2e-3, "memory": 100.0}])[2:] == ["2.0 ms", "100 MiB", "1.0 s"]
    assert until.row(system, 200, ["out of memory"])[2:] == ["out of memory", "", ""]


@pytest.mark.parametrize("loop", [forward.network, forward.garch])
def test_forward_mode_and_two_reverse_passes(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward.importlib.util, "find_spec", lambda name: None)  # no JAX
    assert list(forward.forms(loop, STEPS)) == ["the loop", "jvp", "value and jvp", "two reverse passes"]
