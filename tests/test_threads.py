"""Lanes of loops divided among threads: which loops have lanes, and results that do not depend on threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from ostinato.backends.llvm import entry
from ostinato.backends.llvm.runtime import runtime
from ostinato.errors import OstinatoIndexError, OstinatoValueError
from ostinato.graph import Graph
from ostinato.lower.lanes import lanes_of
from ostinato.ops.loop import LOOP, body_of
from ostinato.rewrite.native import rewrite_for_native
from ostinato.rewrite.pipeline import rewrite

RNG = np.random.default_rng(11)


@pytest.fixture(autouse=True)
def any_work_is_worth_a_thread() -> Iterator[None]:
    words, k = runtime().words, entry.OF_THREADS.worth
    before, words[k] = int(words[k]), 1
    yield
    words[k] = before


def compiled(inputs: list[Any], results: Any, threads: int) -> Any:
    with ostinato.config.change_flags(threads=threads):
        return ostinato.function(inputs, results, mode="native", on_unused_input="ignore")


def check(inputs: list[Any], results: list[Any], *calls: tuple[Any, ...], rtol: float = 1e-11) -> None:
    """The same bits with any number of threads, and what the reference gives, to rounding."""
    reference = ostinato.function(inputs, results, mode="reference", on_unused_input="ignore")
    several = [compiled(inputs, results, n) for n in (1, 2, 3, 8)]
    assert "split" in several[0].explain("nest")
    for arrays in calls:
        found = [f(*arrays) for f in several]
        for k, expected in enumerate(reference(*arrays)):
            np.testing.assert_allclose(found[0][k], expected, rtol, rtol)
            for other in found[1:]:
                np.testing.assert_array_equal(other[k], found[0][k])
    assert all(f.compilations == 1 for f in several)


def lanes(results: list[Any], inputs: list[Any]) -> list[list[int | None] | None]:
    """For every loop, the dimension of lanes of each array carry and output; None for a loop that has none."""
    graph = rewrite_for_native(rewrite(Graph(tuple(inputs), tuple(results))))
    found: list[list[int | None] | None] = []
    for node in graph.nodes():
        if node.op is LOOP:
            known, body = lanes_of(node.params[0]), body_of(node.params[0])
            own = [n for n in (*body.carries, *body.outputs) if n.type.ndim]
            found.append(None if known is None else [known.axes[n] for n in own])
    return found


# ---- which loops have lanes -----------------------------------------------------------------------


def rnn(x: Any, h: Any, U: Any, b: Any) -> Any:
    return T.tanh(x + T.dot(h, U) + b)


X, h, U, b = T.dtensor3("X"), T.dmatrix("h"), T.dmatrix("U"), T.dvector("b")
hs, _ = ostinato.scan(rnn, X, h, [U, b])
NETWORK = [X, h, U, b]
GRADIENT = [T.sum(hs**2), *T.grad(T.sum(hs**2), NETWORK)]


def test_rows_of_a_network_are_lanes() -> None:
    assert lanes([hs], NETWORK) == [[0, 0]]
    assert all(found is not None and set(found) == {0} for found in lanes(GRADIENT, NETWORK))


def test_elements_and_columns_are_lanes() -> None:
    v, A, H = T.dvector("v"), T.dmatrix("A"), T.dmatrix("H")
    powers = ostinato.scan(lambda p, v: p * v, outputs_info=T.ones_like(v), non_sequences=v, n_steps=5)[0]
    assert lanes([powers], [v]) == [[0, 0]]
    columns = ostinato.scan(lambda H, A: T.tanh(T.dot(A, H)), outputs_info=H, non_sequences=A, n_steps=5)[0]
    assert lanes([columns], [A, H]) == [[1, 1]]


v, M, k = T.dvector("v"), T.dmatrix("M"), T.iscalar("k")
WITHOUT = {
    "a sum over lanes": ([v], lambda v: v - T.sum(v), v, []),
    "neighbours": ([v], lambda v: T.concatenate([v[1:], v[:1]]), v, []),
    "an index": ([v], lambda v: v + v[0], v, []),
    "cumulative": ([v], T.cumsum, v, []),
    "both sides of a product": ([M], lambda M: T.dot(M, M), M, []),
    "transposed each step": ([M], lambda M: M.T + M, M, []),
    "a matrix that all share": ([M, v], lambda M, v: [M * 0.5, T.dot(v, M)], [M, v], []),
    "a condition": ([v], lambda v: (v * 2, ostinato.until(v[0] > 9)), v, []),
    "registers": ([T.tensor("float64", shape=(3,), name="w")], lambda v: v * 2, None, []),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_loops_without_lanes(name: str) -> None:
    inputs, step, init, fixed = WITHOUT[name]
    outputs, _ = ostinato.scan(step, outputs_info=inputs[0] if init is None else init, non_sequences=fixed, n_steps=3)
    results = outputs if isinstance(outputs, list) else [outputs]
    assert lanes(results, inputs) == [None]


def test_a_part_knows_its_own_size_only() -> None:
    """Sizes that a step uses as sizes are those of the part; a size that it computes with is that of the whole."""
    v, s = T.dmatrix("v"), T.dvector("s")

    def step(v: Any, s: Any) -> Any:
        ones = T.ones((v.shape[0], 1))
        return v * 0.5 + T.zeros_like(v) + ones * T.sum(v, axis=1, keepdims=True) / v.shape[0]

    found, _ = ostinato.scan(step, outputs_info=v, non_sequences=s, n_steps=4)
    check([v, s], [found], (RNG.normal(size=(37, 5)), np.ones(3)), (RNG.normal(size=(2, 1)), np.ones(3)))


# ---- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 4, 9, 40])
def test_network(rows: int) -> None:
    sizes = ((5, rows, 18), (rows, 18), (18, 18), (18,))
    check(NETWORK, [hs, *GRADIENT], tuple(RNG.normal(size=s) / 4 for s in sizes))


@pytest.mark.parametrize("columns", [1, 5, 33])
def test_columns_that_are_recorded(columns: int) -> None:
    """A part of the columns of a matrix has no rows in C order, so no carry can live in them."""
    X, A, H = T.dtensor3("X"), T.dmatrix("A"), T.dmatrix("H")
    states, _ = ostinato.scan(lambda x, H, A: T.tanh(T.dot(A, H) + x), sequences=X, outputs_info=H, non_sequences=A)
    arrays = RNG.normal(size=(7, 4, columns)), RNG.normal(size=(4, 4)), RNG.normal(size=(4, columns))
    check([X, A, H], [states], arrays)
    check([X, A, H], [states, T.exp(states)], arrays)
    check([X, A, H], T.grad(T.sum(states**2), [X, A, H]), arrays)


def test_more_workspace_than_there_is() -> None:
    sizes = ((2, 40, 700), (40, 700), (700, 700), (700,))
    check(NETWORK, GRADIENT, tuple(RNG.normal(size=s) / 40 for s in sizes), rtol=1e-9)


def test_single_elements() -> None:
    v, c = T.dvector("v"), T.dvector("c")
    last = ostinato.foldl(lambda t, v, c: T.sin(v * v + c) + t, T.arange(6.0), v, c)[0]
    calls = [(RNG.normal(size=n), RNG.normal(size=n)) for n in (1, 15, 16, 17, 33, 100, 1000)]
    check([v, c], [last, *T.grad(T.sum(last**2), [v, c])], *calls, rtol=1e-9)


def test_likelihood_of_many_series() -> None:
    """A sum over lanes and steps: every lane sums its own steps, whatever the part it is in."""
    Y, w, a = T.dmatrix("Y"), T.dscalar("w"), T.dvector("a")

    def step(y: Any, s: Any, total: Any, w: Any, a: Any) -> Any:
        s = w + a * s + 0.1 * y**2
        return [s, total + T.sum(T.log(s) + y**2 / s)]

    (_, total), _ = ostinato.foldl(step, Y, [T.ones_like(a), T.constant(0.0)], [w, a])
    results = [total, *T.grad(total, [w, a])]
    for n in (1, 20, 300):
        check([Y, w, a], results, (RNG.normal(size=(7, n)), 0.2, RNG.uniform(0.1, 0.5, size=n)), rtol=1e-10)


def test_scalars_beside_lanes() -> None:
    """A carry that all lanes share is computed in every part, and is what it would be."""
    v = T.dvector("v")
    (vs, rates), _ = ostinato.scan(lambda v, rate: [v * rate, rate * 0.9], outputs_info=[v, T.constant(1.0)], n_steps=4)
    assert lanes([vs], [v]) == [[0, 0]]
    assert lanes([vs, rates], [v]) == [None], "rows of outputs that are no lanes have no place in a part"
    last = ostinato.foldl(lambda t, v, r: [v * r, r * 0.9], T.arange(4.0), [v, T.constant(1.0)])[0]
    check([v], list(last), (RNG.normal(size=100),))


def test_strides() -> None:
    """Lanes of arrays that are transposed, reversed or parts of something."""
    A, c = T.dtensor3("A"), T.dmatrix("c")
    step = lambda x, h: T.tanh(x * h) + x  # noqa: E731
    outputs, _ = ostinato.scan(step, A[::-1, 1::2].dimshuffle(0, 2, 1), c.T[:, ::-1])
    check([A, c], [outputs[::-1], outputs[-1]], (RNG.normal(size=(4, 6, 50)), RNG.normal(size=(3, 50))))


def test_what_calls_out_is_not_divided() -> None:
    v = T.matrix("v", dtype="float16")
    found, _ = ostinato.scan(lambda v: T.cumsum(v, axis=1) * 0.5, outputs_info=v, n_steps=3)
    run = compiled([v], found, 2)
    assert "split" not in run.explain("nest")
    array = np.ones((40, 3), "float16")
    np.testing.assert_array_equal(run(array), ostinato.function([v], found, mode="reference")(array))


def test_failures_name_the_step() -> None:
    Y, v = T.dmatrix("Y"), T.dvector("v")
    found, _ = ostinato.scan(lambda y, v: y + v, Y, v)
    run = compiled([Y, v], found, 2)
    assert "split" in run.explain("nest")
    with pytest.raises(ValueError, match="step 0"):
        run(np.ones((3, 40)), np.ones(41))
    index = T.ivector("index")
    picked, _ = ostinato.scan(lambda i, v, Y: v * Y[i], index, v, Y)
    with pytest.raises(OstinatoIndexError, match="step 1"):
        compiled([index, v, Y], picked, 2)(np.array([0, 7], "int32"), np.ones(40), np.ones((3, 40)))


def test_calls_from_many_threads() -> None:
    run, alone = compiled(NETWORK, GRADIENT, 3), compiled(NETWORK, GRADIENT, 1)
    calls = [[RNG.normal(size=s) / 4 for s in ((6, n, 20), (n, 20), (20, 20), (20,))] for n in (16, 24, 40, 48)]
    expected = [alone(*c) for c in calls]
    wrong: list[Any] = []

    def work(k: int) -> None:
        for _ in range(30):
            for a, b in zip(run(*calls[k]), expected[k], strict=True):
                if not np.array_equal(a, b):
                    wrong.append(k)

    callers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for c in callers:
        c.start()
    for c in callers:
        c.join()
    assert not wrong


def test_threads_persist() -> None:
    run = compiled(NETWORK, hs, 3)
    names = {t.name for t in threading.enumerate() if t.name.startswith("ostinato-")}
    assert {"ostinato-1", "ostinato-2"} <= names
    for _ in range(3):
        run(*[RNG.normal(size=s) for s in ((6, 40, 20), (40, 20), (20, 20), (20,))])
    assert names == {t.name for t in threading.enumerate() if t.name.startswith("ostinato-")}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_forked_process() -> None:
    run = compiled(NETWORK, hs, 2)
    arrays = [RNG.normal(size=s) for s in ((6, 40, 20), (40, 20), (20, 20), (20,))]
    expected = run(*arrays)
    child = os.fork()
    if not child:
        os._exit(0 if np.array_equal(run(*arrays), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_flag() -> None:
    assert ostinato.config.threads == 0
    with pytest.raises(OstinatoValueError, match="threads"):
        ostinato.config.threads = -1
