"""Loops split into blocks: what moves, that results stay, at every number of steps around that of a block."""

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
from ostinato.rewrite import loop_split as splitting
from ostinato.rewrite.loop_split import loop_split
from ostinato.rewrite.native import rewrite_for_native
from ostinato.rewrite.pipeline import rewrite

RNG = np.random.default_rng(4)
STEPS = [0, 1, 3, 4, 5, 13]


@pytest.fixture
def _blocks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps a block; code that was compiled for larger blocks is not used."""
    monkeypatch.setattr(splitting, "_ROWS", 4)
    monkeypatch.setattr(splitting, "_NUMBERS", 4)
    with ostinato.config.change_flags(cache=False):
        yield


def native(inputs: list[Any], results: list[Any]) -> Graph:
    return rewrite_for_native(rewrite(Graph(tuple(inputs), tuple(results))))


def depth(graph: Graph) -> int:
    """How deep loops stand in loops."""
    return max([1 + depth(n.params[0].body) for n in graph.nodes() if n.op is LOOP], default=0)


def agree(inputs: list[Any], results: list[Any], *arrays: Any, tolerance: float = 1e-11) -> list[Any]:
    """Native results, which are those of the reference to rounding."""
    own, reference = (ostinato.function(inputs, results, mode=m)(*arrays) for m in ("native", "reference"))
    for a, b in zip(own, reference, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, tolerance, tolerance / 100)
    return list(own)


def garch(dtype: str = "float64") -> tuple[list[Any], Any, Any, Any]:
    r = T.TensorType(dtype, (None,))("r")
    w, a, b, v0 = (T.TensorType(dtype, ())(name) for name in ("w", "a", "b", "v0"))

    def step(r: Any, v: Any, total: Any, w: Any, a: Any, b: Any) -> Any:
        c = T.log(v) + r**2 / v
        return w + a * r**2 + b * v, total + T.log(v) + r**2 / v, c

    zero = T.constant(0, dtype)
    (v, total, c), _ = ostinato.scan(step, r, [v0, zero, None], [w, a, b], name="garch")
    return [r, w, a, b, v0], v, total[-1], c


def plain_garch(r: Any, w: float, a: float, b: float, v: float) -> tuple[Any, Any]:
    variances, costs = [], []
    for x in r:
        costs.append(np.log(v) + x**2 / v)
        v = w + a * x**2 + b * v
        variances.append(v)
    return np.array(variances), np.array(costs)


def test_before_and_after() -> None:
    x, h = T.dvector("x"), T.dscalar("h")
    y, _ = ostinato.foldl(lambda x, h: T.exp(x) * h, x, h)
    graph = loop_split(rewrite(Graph((x, h), (y,))))
    assert re.sub(r"\s+", " ", str(graph)) == (
        "graph(x: float64[?], h: float64): "
        "%0 = size[axis=0] x : int64 "
        "%1 = add %0 511 : int64 "
        "%2 = floor_div %1 512 : int64 "
        "%3 = loop[0 sequences, 1 carries] %2 h %0 x : (float64, int64) "
        "body(block: int64, h[t-1]: float64, p2: int64, x: float64[?]): "
        "%0 = mul block 512 : int64 "
        "%1 = sub p2 %0 : int64 "
        "%2 = minimum %1 512 : int64 "
        "%3 = add %0 %2 : int64 "
        "%4 = subtensor[pattern=((True, True, False),)] x %0 %3 : float64[?] "
        "%5 = specify_shape %4 %2 : float64[?] "
        "%6 = exp %5 : float64[?] "
        "%7 = loop[1 sequences, 1 carries] %2 %6 h[t-1] : (float64, int64) "
        "body(t: int64, p1: float64, h[t-1]: float64): "
        "%0 = mul p1 h[t-1] : float64 "
        "return %0 "
        "%8 = item[index=0] %7 : float64 "
        "return %8 "
        "%4 = item[index=0] %3 : float64 "
        "return %4"
    )


@pytest.mark.usefixtures("_blocks_of_four")
def test_functions_of_numbers_and_their_gradients() -> None:
    inputs, v, total, c = garch()
    gradients = T.grad(total, inputs[1:])
    assert depth(native(inputs, [v, c])) == 2
    run = ostinato.function(inputs, [v, c, total, *gradients], mode="native")
    cost = ostinato.function(inputs, total, mode="reference")
    for steps in STEPS[1:]:
        arrays = [RNG.normal(size=steps), 0.1, 0.2, 0.7, 0.9]
        found_v, found_c, found_total, *found = run(*arrays)
        variances, costs = plain_garch(*arrays)
        np.testing.assert_allclose(found_v, variances, 1e-12)
        np.testing.assert_allclose(found_c, costs, 1e-12)
        np.testing.assert_allclose(found_total, costs.sum(), 1e-12)
        for k, g in enumerate(found):
            np.testing.assert_allclose(g, central(cost, arrays, 1 + k), 1e-6, 1e-7)
    assert [len(x) for x in ostinato.function(inputs, [v, c], mode="native")(np.zeros(0), 1, 1, 1, 1)] == [0, 0]


@pytest.mark.usefixtures("_blocks_of_four")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_network_of_vectors(dtype: str) -> None:
    X, W, U, V = (T.TensorType(dtype, (None, None))(n) for n in "XWUV")
    b, h0 = (T.TensorType(dtype, (None,))(n) for n in ("b", "h0"))

    def step(x: Any, h: Any, W: Any, U: Any, V: Any, b: Any) -> Any:
        h = T.tanh(T.dot(x, W) + T.dot(h, U) + b)
        return h, T.dot(V, h), T.sum(h)

    (h, y, s), _ = ostinato.scan(step, X, [h0, None, None], [W, U, V, b])
    inputs = [X, W, U, V, b, h0]
    results = [h, y, s, *T.grad(T.sum(y**2) + T.sum(s), inputs)]
    graph = native(inputs, [h, y, s])
    assert depth(graph) == 2
    tolerance = 1e-11 if dtype == "float64" else 2e-4
    for steps in STEPS:
        shapes = (steps, 3), (3, 5), (5, 5), (2, 5), (5,), (5,)
        arrays = [(RNG.normal(size=n) / 2).astype(dtype) for n in shapes]
        agree(inputs, results, *arrays, tolerance=tolerance)


@pytest.mark.usefixtures("_blocks_of_four")
def test_lanes_are_divided_among_threads_as_before() -> None:
    """Blocks have fewer steps of several rows; each part of the lanes writes its rows of the results."""
    X, h0, W, U, b = T.dtensor3("X"), T.dmatrix("h0"), T.dmatrix("W"), T.dmatrix("U"), T.dvector("b")

    def step(x: Any, h: Any, W: Any, U: Any, b: Any) -> Any:
        h = T.tanh(T.dot(x, W) + T.dot(h, U) + b)
        return h, T.sum(h, axis=1)

    (h, s), _ = ostinato.scan(step, X, [h0, None], [W, U, b])
    inputs = [X, h0, W, U, b]
    results = [h, s, *T.grad(T.sum(h**2) + T.sum(s), inputs)]
    run = ostinato.function(inputs, results, mode="native")
    text = run.explain()
    assert text.count("lanes, in parts that threads may share") == 2
    assert text.count("loop_split: of") == 2
    reference = ostinato.function(inputs, results, mode="reference")
    for steps, batch, read, units in [(0, 3, 4, 5), (1, 1, 4, 5), (5, 3, 4, 5), (13, 2, 3, 8), (40, 64, 48, 64)]:
        shapes = (steps, batch, read), (batch, units), (read, units), (units, units), (units,)
        arrays = [RNG.normal(size=n) / 8 for n in shapes]
        found = {}
        for threads in (1, 2):
            with ostinato.config.change_flags(threads=threads):
                found[threads] = run(*arrays)
        for one, two, wanted in zip(found[1], found[2], reference(*arrays), strict=True):
            np.testing.assert_array_equal(one, two)
            np.testing.assert_allclose(one, wanted, 1e-10, 1e-12 * max(1, np.abs(wanted).max(initial=0)))


@pytest.mark.usefixtures("_blocks_of_four")
@pytest.mark.parametrize("steps", [5, 12])
def test_taps_numbers_of_steps_and_integers(steps: int) -> None:
    """Given steps, sequences that are longer, steps that know their number, states of other dtypes."""
    x, i, n = T.dvector("x"), T.lvector("i"), T.lscalar("n")

    def step(t: Any, before: Any, after: Any, i: Any, s: Any, k: Any) -> Any:
        k = k + i
        s = s * 0.5 + T.exp(before) * T.sin(T.cast(t, "float64")) + T.cast(k, "float64")
        return s, k, T.exp(-s * s) + after, T.log(2.0 + T.cast(i, "float64")), i * 2

    results, _ = ostinato.scan(
        step, [T.arange(20), {"input": x, "taps": [0, 1]}, i], [T.constant(0.3), T.constant(0), None, None, None],
        n_steps=n,
    )  # fmt: skip
    assert depth(native([x, i, n], results)) == 2
    agree([x, i, n], results, RNG.normal(size=14), np.arange(17) - 3, steps)
    with pytest.raises(ValueError, match="n_steps is 14"):
        ostinato.function([x, i, n], results, mode="native")(np.zeros(14), np.arange(17), 14)


@pytest.mark.usefixtures("_blocks_of_four")
def test_second_derivatives_and_checkpoints() -> None:
    x, a = T.dvector("x"), T.dscalar("a")
    for checkpoint in (None, {"every": 5}):
        keywords = {} if checkpoint is None else {"checkpoint": checkpoint["every"]}
        h, _ = ostinato.scan(lambda x, h, a: T.tanh(a * h + T.exp(x)) / (1.0 + h * h), x, a, a, **keywords)
        first = T.grad(T.sum(h**2), a)
        second = T.grad(first, a)
        agree([x, a], [first, second], RNG.normal(size=13), 0.4, tolerance=1e-10)


@pytest.mark.usefixtures("_blocks_of_four")
def test_what_fails_names_its_step() -> None:
    x, table = T.lvector("x"), T.dvector("table")
    y, _ = ostinato.scan(lambda i, s, table: s * 0.5 + T.exp(table[i]), x, T.constant(0.0), table)
    assert depth(native([x, table], [y])) == 2
    index = np.arange(10)
    run = ostinato.function([x, table], y, mode="native")
    assert len(run(index, np.zeros(10))) == 10
    index[7] = 10
    with pytest.raises(IndexError, match="step 7"):
        run(index, np.zeros(10))


def test_what_is_not_split() -> None:
    x, X = T.dvector("x"), T.dtensor3("X")
    cheap, _ = ostinato.scan(lambda x, h: 0.5 * h + 2 * x, x, T.constant(0.0))
    waits, _ = ostinato.scan(lambda x, h: T.tanh(h + x), x, T.constant(0.0))
    stops, _ = ostinato.scan(lambda x, h: (h + T.exp(x), ostinato.until(h > 9)), x, T.constant(0.0))
    short, _ = ostinato.scan(lambda x, h: h + T.exp(x) * h, x[:40], T.constant(0.1), n_steps=30)
    lanes, _ = ostinato.scan(lambda x, h: h * T.exp(T.sum(x)), X, T.zeros_like(X[0]))
    for result in (cheap, waits, stops, short, lanes):
        assert depth(native([x, X], [result])) == 1


def test_memory_is_that_of_a_block() -> None:
    inputs, _, total, _ = garch()
    run = ostinato.function(inputs, total, mode="native")
    arrays = [RNG.normal(size=100_000), 0.1, 0.2, 0.7, 0.9]
    assert (run.memory(*arrays)["peak"] or 0) < 100_000
    np.testing.assert_allclose(run(*arrays), plain_garch(*arrays)[1].sum(), 1e-10)


def test_explained() -> None:
    inputs, v, _, c = garch()
    text = ostinato.function(inputs, [v, c], mode="native").explain()
    expected = (
        "loop_split: of loop 'garch', log and division are made after the steps, for blocks of 512 steps at once."
    )
    assert expected in text


def test_what_follows_from_a_loop_in_the_steps_stays_there() -> None:
    """An output reads a result of an inner loop that the state does not: there is no row of a whole loop."""
    x, h0 = T.dmatrix("x"), T.dscalar("h0")

    def step(row: Any, h: Any) -> Any:
        (a, b), _ = ostinato.scan(lambda v, a, b: [T.tanh(a * v), b + a * v], row, [h, T.constant(0.5)])
        return a[-1], T.exp(T.sin(b[-1]))

    (h, y), _ = ostinato.scan(step, x, [h0, None])
    xs = np.random.default_rng(3).normal(size=(900, 4))
    a, expected = 0.3, []
    for row in xs:
        b = 0.5
        for v in row:
            a, b = np.tanh(a * v), b + a * v
        expected.append((a, np.exp(np.sin(b))))
    found = ostinato.function([x, h0], [h, y], mode="native")(xs, 0.3)
    np.testing.assert_allclose(np.transpose(found), expected, rtol=1e-12)
