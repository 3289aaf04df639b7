"""Sums taken out of loops before they are lowered: what is taken out, and that results stay what they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from numeric import central
from ostinato.graph import Graph
from ostinato.ops.loop import LOOP
from ostinato.rewrite.engine import run_passes
from ostinato.rewrite.loop_accumulate import loop_accumulate
from ostinato.rewrite.loop_prune import loop_prune
from ostinato.rewrite.pipeline import rewrite

RNG = np.random.default_rng(3)


def carries(graph: Graph) -> list[int]:
    """How many carries each loop has, those in bodies after the loop around them."""
    found = []
    for node in graph.nodes():
        if node.op is LOOP:
            found += [node.params[0].n_carries, *carries(node.params[0].body)]
    return found


def taken(inputs: list[Any], results: list[Any]) -> tuple[list[int], list[int]]:
    graph = rewrite(Graph(tuple(inputs), tuple(results)))
    return carries(graph), carries(run_passes(graph, (loop_accumulate, loop_prune)))


def agree(inputs: list[Any], results: list[Any], *arrays: Any) -> list[Any]:
    """Native results, which are those of the reference to rounding."""
    native, reference = (ostinato.function(inputs, results, mode=m)(*arrays) for m in ("native", "reference"))
    for a, b in zip(native, reference, strict=True):
        np.testing.assert_allclose(a, b, 1e-11, 1e-13)
    return list(native)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_products_are_one_product(steps: int) -> None:
    X, G, W = T.dtensor3("X"), T.dtensor3("G"), T.dmatrix("W")
    last = ostinato.foldl(lambda x, g, W: W + T.dot(x.T, g), [X, G], W)[0]
    assert taken([X, G, W], [last]) == ([1], []), "not even the loop is left"
    x, g, w = RNG.normal(size=(steps, 3, 20)), RNG.normal(size=(steps + 1, 3, 18)), RNG.normal(size=(20, 18))
    found = ostinato.function([X, G, W], last, mode="native")(x, g, w)
    np.testing.assert_allclose(found, w + np.einsum("tbi,tbj->ij", x, g[:steps]), 1e-12, 1e-13)


def test_what_is_read_on_the_way_stays() -> None:
    X, W = T.dtensor3("X"), T.dmatrix("W")
    recorded = ostinato.scan(lambda x, W: W + T.dot(x.T, x), X, W)[0]
    assert taken([X, W], [recorded]) == ([1], [1])
    used = ostinato.foldl(lambda x, W: W + T.dot(x.T, T.dot(x, W)), X, W)[0]
    assert taken([X, W], [used]) == ([1], [1])
    stopped = ostinato.scan(lambda x, W: (W + T.dot(x.T, x), ostinato.until(x[0, 0] > 9)), X, W)[0][-1]
    assert taken([X, W], [stopped]) == ([1], [1])
    agree([X, W], [recorded, used, stopped], RNG.normal(size=(4, 3, 18)) / 9, RNG.normal(size=(18, 18)))


def test_what_would_have_to_be_recorded_for_it_alone_stays() -> None:
    """Rows of data that are read as a whole in every step are not kept for every step."""
    D, W, v = T.dmatrix("D"), T.dmatrix("W"), T.dvector("v")
    made = ostinato.foldl(lambda s, W, D: W + T.dot(T.sin(D * s).T, T.cos(D + s)), v, W, D)[0]
    fixed = ostinato.foldl(lambda s, W, D: W + T.dot(D.T, T.cos(D + s)), v, W, D)[0]
    assert taken([D, W, v], [made]) == taken([D, W, v], [fixed]) == ([1], [1])
    agree([D, W, v], [made, fixed], RNG.normal(size=(30, 18)), RNG.normal(size=(18, 18)), RNG.normal(size=4))


def test_sums_over_elements_are_taken_at_the_end() -> None:
    x, s, v = T.dmatrix("x"), T.dscalar("s"), T.dvector("v")
    total = ostinato.foldl(lambda x, s: s + T.sum(T.exp(-x * x)), x, s)[0]
    columns = ostinato.foldl(lambda x, v: T.sum(T.outer(x, x), axis=0) + v, x, v)[0]
    before, after = taken([x, s, v], [total, columns])
    assert before == after == [1, 1]
    array = RNG.normal(size=(5, 30))
    found = agree([x, s, v], [total, columns], array, 2.5, RNG.normal(size=30))
    np.testing.assert_allclose(found[0], 2.5 + np.exp(-(array**2)).sum(), 1e-13)
    agree([x, s, v], [total, columns], np.zeros((0, 30)), 2.5, np.ones(30))


def test_gradient_of_a_network() -> None:
    X, h, W, U, b = T.dtensor3("X"), T.dmatrix("h"), T.dmatrix("W"), T.dmatrix("U"), T.dvector("b")
    hs, _ = ostinato.scan(lambda x, h, W, U, b: T.tanh(T.dot(x, W) + T.dot(h, U) + b), X, h, [W, U, b])
    inputs, cost = [X, h, W, U, b], T.sum(hs**2)
    gradients = T.grad(cost, inputs)
    graph = rewrite(Graph(tuple(inputs), tuple(gradients)))
    assert carries(graph) == [1, 4]
    assert carries(run_passes(graph, (loop_accumulate, loop_prune))) == [1, 2], (
        "the products are gone, the bias has a sum per row"
    )
    arrays = [RNG.normal(size=n) / 4 for n in ((4, 3, 5), (3, 18), (5, 18), (18, 18), (18,))]
    found = agree(inputs, gradients, *arrays)
    value = ostinato.function(inputs, cost, mode="reference")
    for k, g in enumerate(found):
        np.testing.assert_allclose(g, central(value, arrays, k), 1e-6, 1e-7)


def test_loops_in_loops() -> None:
    X, W = T.dtensor3("X"), T.dmatrix("W")

    def outer(x: Any, total: Any, W: Any) -> Any:
        h = ostinato.foldl(lambda row, h, W: T.tanh(T.dot(h, W) + row), x, T.zeros_like(x[0]), W)[0]
        return total + T.sum(h**2)

    cost = ostinato.foldl(outer, X, T.constant(0.0), W)[0]
    inputs, results = [X, W], [cost, *T.grad(cost, [X, W])]
    before, after = taken(inputs, results)
    assert sum(after) < sum(before)
    agree(inputs, results, RNG.normal(size=(3, 4, 20)), RNG.normal(size=(20, 20)) / 5)


def test_second_derivatives() -> None:
    X, W = T.dmatrix("X"), T.dmatrix("W")
    h = ostinato.foldl(lambda x, h, W: T.tanh(T.dot(h, W) + x), X, T.zeros_like(X[0]), W)[0]
    gradient = T.grad(T.sum(h**2), W)
    agree([X, W], [T.grad(T.sum(T.sin(gradient)), W)], RNG.normal(size=(4, 18)), RNG.normal(size=(18, 18)) / 5)
