"""Loops whose steps do not wait for each other: what becomes of them, that results stay, and what stays a loop."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from numeric import central
from ostinato.graph import Graph
from ostinato.ops.loop import LOOP
from ostinato.rewrite.loop_to_map import loop_to_map
from ostinato.rewrite.native import rewrite_for_native
from ostinato.rewrite.pipeline import rewrite

RNG = np.random.default_rng(8)


def mapped(inputs: list[Any], results: list[Any]) -> Graph:
    return rewrite_for_native(rewrite(Graph(tuple(inputs), tuple(results))))


def loops(graph: Graph) -> int:
    return sum(n.op is LOOP for n in graph.nodes())


def agree(inputs: list[Any], results: list[Any], *arrays: Any) -> list[Any]:
    """Native results, which are those of the reference to rounding."""
    native, reference = (ostinato.function(inputs, results, mode=m)(*arrays) for m in ("native", "reference"))
    for a, b in zip(native, reference, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, 1e-11, 1e-13)
    return list(native)


def test_before_and_after() -> None:
    x, W = T.dmatrix("x"), T.dmatrix("W")
    y, _ = ostinato.scan(lambda x, W: T.tanh(T.dot(x, W)), x, None, W)
    graph = rewrite(Graph((x, W), (y,)))
    assert re.sub(r"\s+", " ", str(loop_to_map(graph))) == (
        "graph(x: float64[?, ?], W: float64[?, ?]): "
        "%0 = matmul x W : float64[?, ?] "
        "%1 = tanh %0 : float64[?, ?] "
        "return %1"
    )
    assert loops(graph) == 1


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_rows_through_a_layer_and_gradients(steps: int) -> None:
    X, W, b = T.dmatrix("X"), T.dmatrix("W"), T.dvector("b")
    y, _ = ostinato.scan(lambda x, W, b: T.tanh(T.dot(x, W) + b), X, None, [W, b])
    inputs, results = [X, W, b], [y, *T.grad(T.sum(y**3), [X, W, b])]
    graph = mapped(inputs, results)
    assert loops(graph) == 0
    products = [n for n in graph.nodes() if n.op.name in ("matmul", "accumulate")]
    assert len(products) == 3
    assert all(n.type.ndim == 2 for n in products), "each is one product"
    arrays = [RNG.normal(size=n) for n in ((steps, 4), (4, 3), (3,))]
    found = agree(inputs, results, *arrays)
    np.testing.assert_allclose(found[0], np.tanh(arrays[0] @ arrays[1] + arrays[2]), 1e-12, 1e-14)
    cost = ostinato.function(inputs, T.sum(y**3), mode="reference")
    for k, g in enumerate(found[1:]):
        np.testing.assert_allclose(g, central(cost, arrays, k), 1e-6, 1e-7)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_values_that_are_only_handed_on(steps: int) -> None:
    """What was a state is a sequence one row late, a sum is taken at the end, a last value is of the last step."""
    x, a0, s0, l0 = T.dmatrix("x"), T.dvector("a0"), T.dvector("s0"), T.dvector("l0")

    def step(x: Any, a: Any, b: Any, s: Any, last: Any) -> Any:
        return T.sin(x), a * x, s + a * b, x**2, a + b

    y = ostinato.scan(step, x, [a0, a0, s0, l0, None])[0][-1]
    inputs, results = [x, a0, s0, l0], [y, *T.grad(T.sum(y * y), [x, a0])]
    assert loops(mapped(inputs, [y])) == 0
    (fa, fb, fs, fl), _ = ostinato.foldl(lambda x, a, b, s, last: step(x, a, b, s, last)[:4], x, [a0, a0, s0, l0])
    assert loops(mapped(inputs, [fa, fb, fs, fl])) == 0
    arrays = [RNG.normal(size=n) for n in ((steps, 3), (3,), (3,), (3,))]
    rows, finals = plain(*arrays)
    found = agree(inputs, [*results, fa, fb, fs, fl], *arrays)
    np.testing.assert_allclose(found[0], rows, 1e-13, 1e-14)
    for f, g in zip(found[3:], finals, strict=True):
        np.testing.assert_allclose(f, g, 1e-13, 1e-14)


def plain(x: Any, a: Any, s: Any, last: Any) -> tuple[Any, list[Any]]:
    b, rows = a, np.zeros((len(x), 3))
    for t, row in enumerate(x):
        rows[t] = a + b
        a, b, s, last = np.sin(row), a * row, s + a * b, row**2
    return rows, [a, b, s, last]


@pytest.mark.parametrize(("taps", "steps"), [([-2, 0], None), ([0, 1], 3), ([0], 2)])
def test_taps_and_given_steps(taps: list[int], steps: int | None) -> None:
    x, n = T.dmatrix("x"), T.lscalar("n")
    y, _ = ostinato.scan(
        lambda *rows: sum(T.exp(r) * (k + 1) for k, r in enumerate(rows)), {"input": x, "taps": taps}, None,
        n_steps=None if steps is None else n,
    )  # fmt: skip
    assert loops(mapped([x, n], [y])) == 0
    given = RNG.normal(size=(6, 2))
    first, last = -min(taps), 6 - max(taps)
    expected = [sum(np.exp(given[t + o]) * (k + 1) for k, o in enumerate(taps)) for t in range(first, last)]
    found = ostinato.function([x, n], y, mode="native", on_unused_input="ignore")(given, steps or 0)
    np.testing.assert_allclose(found, expected[:steps], 1e-13)
    if steps is not None:
        with pytest.raises(ValueError, match="n_steps is 7"):
            ostinato.function([x, n], y, mode="native")(given, 7)


def test_numbers_of_steps_indices_and_systems() -> None:
    x, i, A, table = T.dmatrix("x"), T.lvector("i"), T.dmatrix("A"), T.dmatrix("table")

    def step(x: Any, i: Any, A: Any, table: Any) -> Any:
        return table[i] * x[i], T.slinalg.solve(A, x), T.sort(x), T.concatenate([x, x[::-1]]), T.argmax(x)

    results, _ = ostinato.scan(step, [x, i], None, [A, table])
    powers, _ = ostinato.scan(lambda t, x: x[0] ** t, T.arange(4), None, x)
    assert loops(mapped([x, i, A, table], [*results, powers])) == 0
    arrays = RNG.normal(size=(4, 3)), np.array([2, -1, 0, 1]), RNG.normal(size=(3, 3)), RNG.normal(size=(3, 3))
    agree([x, i, A, table], [*results, powers], *arrays)


def test_what_stays_a_loop() -> None:
    x, W, h = T.dmatrix("x"), T.dmatrix("W"), T.dvector("h")
    state, _ = ostinato.scan(lambda x, h: T.tanh(x + h), x, h)
    stopped, _ = ostinato.scan(lambda x: (T.exp(x), ostinato.until(x[0] > 9)), x)
    ranges, _ = ostinato.scan(lambda x: T.sum(T.arange(T.argmax(x) + 1)), x)
    wide, _ = ostinato.scan(lambda x, W: T.sum(T.tanh(T.dot(x, W)), axis=0), x, None, W)
    for result in (state, stopped, ranges, wide):
        assert loops(mapped([x, W, h], [result])) == 1
    agree([x, W, h], [state, stopped, ranges, wide], *[RNG.normal(size=n) for n in ((5, 4), (4, 30), (4,))])


def test_memory_of_all_steps_is_that_of_what_is_kept() -> None:
    """The products of a row's elements are summed as they are made; a matrix of them per step is never there."""
    x = T.dmatrix("x")
    total = ostinato.foldl(lambda x, s: s + T.sum(T.outer(x, T.exp(x)), axis=0), x, T.zeros_like(x[0]))[0]
    assert loops(mapped([x], [total])) <= 1
    run = ostinato.function([x], total, mode="native")
    array = RNG.normal(size=(300, 40))
    assert (run.memory(array)["peak"] or 0) < 4 * array.nbytes
    np.testing.assert_allclose(run(array), (array.sum(1)[:, None] * np.exp(array)).sum(0), 1e-10)


def test_failures_name_the_step() -> None:
    A, b = T.dtensor3("A"), T.dmatrix("b")
    y, _ = ostinato.scan(lambda A, b: T.slinalg.solve(A, b), [A, b])
    assert loops(mapped([A, b], [y])) == 0
    matrices = np.array([np.eye(3)] * 4)
    matrices[2] = 0
    with pytest.raises(np.linalg.LinAlgError, match="step 2"):
        ostinato.function([A, b], y, mode="native")(matrices, np.ones((4, 3)))


def test_explained() -> None:
    x = T.dmatrix("x")
    y, _ = ostinato.scan(lambda x: T.exp(x), x, name="waves")
    text = ostinato.function([x], y, mode="native").explain()
    assert "loop_to_map: the steps of loop 'waves' do not wait for each other: all are made at once." in text
