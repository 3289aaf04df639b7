"""What compiling costs grows no faster than a step does: counted in lines of Python that run, not in seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from compile_time import KINDS, compiled, growth, measure
from ostinato.graph import Graph
from ostinato.lower.program import lower_graph
from ostinato.rewrite import loop_absorb
from ostinato.rewrite.pipeline import rewrite

MOST = 2.3  # times the work for twice the operations


def lines_run(run: Callable[[], Any]) -> int:
    """How many lines of the compiler run."""
    count = 0

    def within(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return within

    before = sys.gettrace()
    sys.settrace(lambda frame, event, arg: within if "ostinato" in frame.f_code.co_filename else None)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def way_down(name: str, n: int, gradient: bool) -> Callable[[], Any]:
    """Tracing, differentiation, all passes, lowering and emission of a step of n operations."""
    from ostinato.backends.llvm.emit import Emitter, knows

    def run() -> None:
        inputs, outputs, _ = KINDS[name].graph(n, gradient)
        graph = rewrite(Graph(tuple(inputs), tuple(outputs)))
        Emitter(lower_graph(graph, knows, True, {"float64": 8}))

    return run


@pytest.mark.parametrize(("name", "gradient"), [(n, True) for n in KINDS if n != "products"] + [("products", False)])
def test_twice_the_operations_are_twice_the_work(name: str, gradient: bool) -> None:
    n = 40 if name == "many states" else 60
    way_down(name, 10, gradient)()  # what happens once per process
    once, twice = (lines_run(way_down(name, k, gradient)) for k in (n, 2 * n))
    assert twice < MOST * once, (once, twice)


@pytest.mark.parametrize("name", ["chain of vectors", "many vectors"])
def test_long_steps_on_arrays_compile_and_are_right(name: str) -> None:
    """What is fused is not nested more deeply than the compiler can follow."""
    inputs, outputs, _ = KINDS[name].graph(800, name == "many vectors")
    rng = np.random.default_rng(1)
    values = [0.3 * rng.normal(size=(3,) * i.type.ndim) for i in inputs]
    found = ostinato.function(inputs, outputs, mode="native", on_unused_input="ignore")
    assert "native function" in found.explain().splitlines()[0]
    expected = ostinato.function(inputs, outputs, mode="reference", on_unused_input="ignore")(*values)
    for f, e in zip(found(*values), expected, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-9, atol=1e-12)


def test_sizes_that_meet_again_and_again_stay_one_expression() -> None:
    a, b = T.dvector("a"), T.dvector("b")
    x = a + b
    for _ in range(50):
        x = x * a + b
    from ostinato.ops.sizes import sizes

    assert sizes(x) == sizes(a + b)
    run = ostinato.function([a, b], x.shape[0], mode="reference")
    for n, m in ((3, 3), (1, 3), (3, 1), (1, 1)):
        assert run(np.ones(n), np.ones(m)) == max(n, m)


def test_a_profile_of_the_compiler() -> None:
    x = T.dvector("x")
    total, _ = ostinato.scan(lambda v, s: s + v * v, x, T.constant(0.0, dtype="float64"))
    with ostinato.config.change_flags(cache=False, verify=False):
        run = ostinato.function([x], total[-1], mode="native")
    lines = run.explain("time").splitlines()
    assert lines[0] == "Milliseconds of compiling:"
    stages, passes = lines[1 : lines.index("of these, in passes:")], lines[lines.index("of these, in passes:") + 1 :]
    assert {line.split()[0] for line in stages} == {"rewrite", "lower", "emit", "generate"}
    assert {"last_only", "algebra", "loop_accumulate"} <= {line.split()[0] for line in passes}
    figures = [float(line.split()[1]) for line in passes]
    assert figures == sorted(figures, reverse=True)


def test_the_search_for_loops_to_absorb_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_absorb, "_MOST_PAIRS", 3)
    x = T.dvector("x")
    ends = [ostinato.scan(lambda v, s, k=k: s * 0.5 + v * k, x, 1.0 * x[0])[0][-1] for k in range(1, 5)]
    run = ostinato.function([x], ends, mode="reference")
    run(np.ones(3))
    assert "loop_absorb: there are many loops; 3 pairs of them were compared, and no more." in run.notes


def test_the_benchmark_prints_a_table() -> None:
    stages, text = compiled(KINDS["chain of scalars"], 10, True)
    assert {"trace", "grad", "total", "emit"} <= set(stages)
    assert "algebra" in text or "compiling" in text
    assert measure("many scalars", [10, 20], False, False).count("\n") > 5
    assert growth([10, 20], [1.0, 4.0]) == "2.0"


def test_the_text_of_a_stage_is_no_longer_than_the_stage() -> None:
    """What is read twice is written once, or twenty squares would fill a million lines."""
    x = T.dvector("x")
    y = x
    for _ in range(25):
        y = T.sin(y) * y
    text = ostinato.function([x], y, mode="native").explain("nest")
    assert len(text) < 20_000
    assert text.count("part.") > 20


def test_long_sums_in_a_step() -> None:
    """A sum of very many terms is no deep recursion."""
    x, a = T.dvector("x"), T.dscalar("a")

    def step(v: Any, s: Any) -> Any:
        for k in range(1200):
            s = s + v * (0.001 * k)
        return s

    last = ostinato.foldl(step, x, a)[0]
    run = ostinato.function([x, a], [last, T.grad(last, a)], mode="native")
    values = np.linspace(0, 1, 5)
    np.testing.assert_allclose(run(values, 2.0)[0], 2 + values.sum() * 0.001 * sum(range(1200)), 1e-12)


def test_many_states_are_not_searched_for_what_is_only_told() -> None:
    inputs, outputs, _ = KINDS["many states"].graph(300, False)
    run = ostinato.function(inputs, outputs, mode="native")
    notes = [n for n in run.explain().splitlines() if "loop_affine" in n]
    assert notes == ["  loop_affine: a loop has 37 states: whether its steps can be composed was not asked."]
