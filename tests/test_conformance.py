"""The conformance suite: Ostinato is right, wrong answers are seen, and other systems are asked well."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ostinato import cli
from ostinato.errors import MissingPackageError, OstinatoValueError
from ostinato.testing.conformance import (
    PROGRAMS,
    Answer,
    Cell,
    OstinatoSystem,
    PeerSystem,
    Program,
    expected_gradient,
    expected_outputs,
    judge,
    load,
    markdown_table,
    run_suite,
    save,
    select,
    text_table,
)
from ostinato.testing.conformance.arithmetic import NumPyArithmetic
from ostinato.testing.conformance.ostinato_ import run
from ostinato.testing.conformance.peers import decode, encode
from ostinato.testing.conformance.program import direction, weights

CASES = [
    pytest.param(p, dtype, mode, id=f"{p.name}-{dtype}-{mode}")
    for p in PROGRAMS.values()
    for dtype in p.dtypes
    for mode in ("native", "reference")
]

ASKED = {
    ("float64", "native"): ("value", "R", "F"),
    ("float64", "reference"): ("value", "R", "F", "FR"),
    ("float32", "native"): ("value", "R"),
    ("float32", "reference"): ("value", "R"),
}


@pytest.mark.parametrize(("program", "dtype", "mode"), CASES)
def test_ostinato_is_right(program: Program, dtype: str, mode: str) -> None:
    """Values, gradients and, in float64, forward mode, over reverse mode too; `ostinato conformance` runs the rest."""
    found, draws = run(program, [q for q in ASKED[dtype, mode] if q in program.quantities], dtype, mode)
    for quantity, arrays in found.items():
        cell = judge(program, quantity, dtype, Answer("ok", arrays, draws))
        assert cell.status == "ok", f"{quantity}: {cell}"
        if quantity == "R":
            assert [a.dtype for a in arrays] == [v.dtype for v in program.directions(dtype).values()]


HIGHEST = [p for p in PROGRAMS.values() if p.orders == 4]


@pytest.mark.parametrize("program", HIGHEST, ids=lambda p: p.name)
def test_derivatives_up_to_the_fourth(program: Program) -> None:
    found, _ = run(program, program.quantities, "float64", "reference")
    for quantity, arrays in found.items():
        assert judge(program, quantity, "float64", Answer("ok", arrays)).status == "ok", quantity


# ---- references -----------------------------------------------------------------------------------

# Programs whose reference has nothing that a complex number could not pass.
SMOOTH = [p for p in PROGRAMS.values() if not p.is_random and p.orders]


@pytest.mark.parametrize("program", SMOOTH, ids=lambda p: p.name)
def test_the_reference_agrees_with_a_complex_step_of_the_same_loop(program: Program) -> None:
    m = NumPyArithmetic()
    point = {n: m.number(np.asarray(v)) for n, v in program.arguments.items()}

    def cost(moved: dict[str, Any]) -> Any:
        outputs = [np.asarray(o) for o in program.outputs(m, moved, point)]
        flat = [o.reshape(-1) for o in outputs]
        return sum(np.sum(o * weights(k, o.size)) for k, o in enumerate(flat) if o.dtype.kind in "fc")

    for name, expected in expected_gradient(program, 1).items():
        for index in np.ndindex(expected.shape):
            moved = np.array(point[name], "complex128")
            moved[index] += 1e-20j
            found = np.imag(cost({**point, name: moved[()]})) / 1e-20
            assert np.isclose(found, expected[index], rtol=1e-10, atol=1e-12), (name, index)


def test_the_reference_of_a_power_is_the_formula() -> None:
    program, x = PROGRAMS["power"], 1.0625
    assert np.isclose(expected_outputs(program)[0], x**32, rtol=1e-15)
    v = direction(0, ()) * weights(0, 1)[0]
    assert np.isclose(expected_gradient(program, 2)["x"], v * 32 * 31 * x**30, rtol=1e-14)


def test_every_program_says_what_it_shows() -> None:
    assert len(PROGRAMS) >= 45
    for p in PROGRAMS.values():
        assert p.shows, p.name
        assert p.statement, p.name
        assert p._reference is not None, p.name
        assert all(np.all(d) for d in p.directions("float64").values()), p.name


def test_without_mpmath_there_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    from ostinato.testing.conformance.arithmetic import MpmathArithmetic

    monkeypatch.setitem(sys.modules, "mpmath", None)
    with pytest.raises(MissingPackageError, match=r"ostinato\[testing\]"):
        MpmathArithmetic()


# ---- judging --------------------------------------------------------------------------------------


def judged(arrays: Sequence[Any], quantity: str = "value", dtype: str = "float64") -> Cell:
    return judge(PROGRAMS["pendulum"], quantity, dtype, Answer("ok", [np.asarray(a) for a in arrays]))


def test_wrong_answers_are_seen() -> None:
    q, v = expected_outputs(PROGRAMS["pendulum"])
    assert judged([q, v]).status == "ok"
    assert judged([q, v * (1 + 1e-9)]).status == "wrong"
    assert judged([q, v.astype("float32")]).reason == "result 1 is float32, not float64"
    assert judged([q]).reason == "1 results for 2"
    assert judged([q, v[:2]]).reason == "result 1 has shape (2,), not (4,)"
    nan = judged([q, np.where(v < 0, np.nan, v)])
    assert (nan.status, nan.error) == ("wrong", float("inf"))
    assert judged([q.astype("float32"), v.astype("float32")], dtype="float32").status == "ok"


def test_a_gradient_of_nothing_and_integers_are_judged() -> None:
    pointer = PROGRAMS["pointer"]
    h, i = expected_outputs(pointer)
    assert judge(pointer, "value", "float64", Answer("ok", [h, i])).status == "ok"
    assert judge(pointer, "value", "float64", Answer("ok", [h, i + 1])).status == "wrong"
    assert judge(pointer, "value", "float64", Answer("ok", [h, i.astype("float64")])).status == "wrong"
    assert judge(pointer, "value", "float64", Answer("raises", reason="why")).reason == "why"


# ---- results and tables ---------------------------------------------------------------------------


def test_results_are_kept_and_gone_on_with(tmp_path: Path) -> None:
    programs, system = select("newton"), OstinatoSystem("reference")
    asked: list[str] = []
    results = run_suite([system], programs, ["float64"], ["value"], report=lambda *a: asked.append(a[2]))
    save(results, tmp_path / "r.json")
    again = load(tmp_path / "r.json")
    kept = again[system.name].row("float64", "newton")["value"]
    assert kept.status == "ok"
    assert kept.to_json() == results[system.name].row("float64", "newton")["value"].to_json()
    run_suite([system], programs, ["float64"], ["value", "R"], again, report=lambda *a: asked.append(a[2]))
    assert asked == ["value", "R"]
    again[system.name].versions["numpy"] = "0.1"
    run_suite([system], programs, ["float64"], ["value"], again, report=lambda *a: asked.append(a[2]))
    assert asked == ["value", "R", "value"]
    assert load(tmp_path / "none.json") == {}
    (tmp_path / "r.json").write_text("[1]")
    with pytest.raises(OstinatoValueError, match="no file of results"):
        load(tmp_path / "r.json")


def test_the_table_of_the_documentation_has_every_program_and_ostinato_is_right_in_it() -> None:
    """Where it does not: `ostinato conformance --json docs/reference/conformance.json`."""
    measured = load(Path(__file__).parent.parent / "docs" / "reference" / "conformance.json")
    for mode in ("native", "reference"):
        for dtype in ("float64", "float32"):
            rows = measured[f"ostinato ({mode})"].cells[dtype]
            asked = {p.name: list(p.quantities) for p in PROGRAMS.values() if dtype in p.dtypes}
            assert {name: list(row) for name, row in rows.items()} == asked
            assert {c.status for row in rows.values() for c in row.values()} == {"ok"}


def test_the_tables() -> None:
    results = run_suite([OstinatoSystem("reference")], select("newton"), ["float64"], ["value", "R"])
    row = results["ostinato (reference)"].row("float64", "newton")
    assert "newton   2 ok" in text_table(results, "float64")
    row["R"] = Cell("raises", reason="no | such_thing")
    text, page = text_table(results, "float64"), markdown_table(results, "float64")
    assert "newton   1 ok, raises: R" in text
    assert "1 ok, 1 raises, largest error" in text
    assert "| `newton` | 1 ok, raises: R [1] |" in page
    assert "1. no \\| such\\_thing" in page


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["conformance", "--only", "no_*", "--mode", "reference", "--quantities", "value,R"]
    assert cli.main([*asked, "--json", str(tmp_path / "r.json")]) == 0
    shown = capsys.readouterr().out
    assert "no_steps  2 ok" in shown
    assert "float32" in shown
    assert set(json.loads((tmp_path / "r.json").read_text())["systems"]) == {"ostinato (reference)"}
    assert cli.main([*asked, "--markdown", "--json", str(tmp_path / "r.json")]) == 0
    assert "| `no_steps` | 2 ok |" in capsys.readouterr().out
    monkeypatch.setattr(OstinatoSystem, "answer", lambda *a: Answer("raises", reason="broken"))
    assert cli.main([*asked, "--dtype", "float64"]) == 1
    assert "no_steps R: raises: broken" in capsys.readouterr().err


def test_the_command_with_wrong_arguments(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["conformance", "--only", "nothing of the kind"]) == 2
    assert "no program fits" in capsys.readouterr().err
    assert cli.main(["conformance", "--quantities", "X"]) == 2
    assert "there is no quantity X" in capsys.readouterr().err
    assert cli.main(["conformance", "--system", "jax", "--python", str(tmp_path / "none")]) == 2
    assert "jax cannot be run" in capsys.readouterr().err
    assert cli.main(["conformance", "--list", "--only", "models"]) == 0
    assert "| `kalman` |" in capsys.readouterr().out


# ---- other systems --------------------------------------------------------------------------------

FAKE = """
import json, sys, time
print(json.dumps({"versions": {"fake": "1.0"}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    what = request["quantity"]
    if what == "value":
        a = request["arguments"]["a"]["data"][0]
        reply = {"status": "ok", "arrays": [{"dtype": "float64", "shape": [], "data": [a]}]}
    elif what == "R":
        reply = {"status": "cannot", "reason": "there are no derivatives"}
    elif what == "RR":
        print("Traceback", file=sys.stderr); print("Died: of it", file=sys.stderr)
        sys.exit(3)
    elif what == "FF":
        print("no JSON", flush=True)
        continue
    else:
        time.sleep(60)
    print(json.dumps(reply), flush=True)
"""


def fake(code: str = FAKE, timeout: float = 20) -> PeerSystem:
    return PeerSystem("fake", timeout=timeout, command=[sys.executable, "-c", code])


def test_a_system_in_another_process() -> None:
    program, system = PROGRAMS["newton"], fake()
    try:
        assert system.versions() == {"fake": "1.0"}
        value = system.answer(program, "value", "float64")
        assert (value.status, value.arrays[0].tolist()) == ("ok", 2.0)
        assert judge(program, "value", "float64", value).status == "wrong"
        assert system.answer(program, "R", "float64").reason == "there are no derivatives"
        died = system.answer(program, "RR", "float64")
        assert (died.status, died.reason) == ("raises", "the process ended: Died: of it")
        assert system.answer(program, "value", "float64").status == "ok"  # a new process
        assert "no JSON" in system.answer(program, "FF", "float64").reason
        system.timeout = 0.2
        late = system.answer(program, "RRR", "float64")
        assert (late.status, late.reason) == ("timeout", "no answer in 0.2 s")
    finally:
        system.close()


def test_a_system_that_does_not_start() -> None:
    for code, why in (("raise SystemExit('no such library')", "no such library"), ("print('{}')", "its versions")):
        with pytest.raises(OstinatoValueError, match=f"fake cannot be run by .*{why}"):
            fake(code).versions()
    with pytest.raises(OstinatoValueError, match="there is no adapter"):
        PeerSystem("other")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 0), (2, 3)])
def test_arrays_survive_the_way(dtype: str, shape: tuple[int, ...]) -> None:
    a = (np.random.default_rng(0).normal(size=shape) * 10).astype(dtype)
    b = decode(json.loads(json.dumps(encode(a))))
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert np.array_equal(a, b)
