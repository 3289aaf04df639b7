"""Several sums that a step adds to a carry made one: graphs before and after, and results that stay what they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from ostinato.graph import Graph
from ostinato.ops.loop import LOOP
from ostinato.rewrite.engine import run_passes
from ostinato.rewrite.native import rewrite_for_native
from ostinato.rewrite.pipeline import rewrite
from ostinato.rewrite.sums_together import sums_together

RNG = np.random.default_rng(31)


def body(graph: Graph) -> str:
    return str(next(n for n in graph.nodes() if n.op is LOOP).params[0].body)


def two_sums() -> tuple[list[Any], Any]:
    x, y = T.dmatrix("x"), T.dmatrix("y")
    total = ostinato.foldl(lambda x, y, s: s + (T.sum(x * y) + T.sum(T.exp(y))), [x, y], T.constant(2.0))[0]
    return [x, y], total


def test_before_and_after() -> None:
    inputs, total = two_sums()
    graph = rewrite(Graph(tuple(inputs), (total,)))
    assert body(graph).splitlines()[1:] == [
        "  %0 = mul x[t] y[t] : float64[?]",
        "  %1 = sum[axes=(0,)] %0 : float64",
        "  %2 = exp y[t] : float64[?]",
        "  %3 = sum[axes=(0,)] %2 : float64",
        "  %4 = add %1 %3 : float64",
        "  %5 = add output 0[t-1] %4 : float64",
        "  return %5",
    ]
    assert body(run_passes(graph, (sums_together,))).splitlines()[1:] == [
        "  %0 = mul x[t] y[t] : float64[?]",
        "  %1 = exp y[t] : float64[?]",
        "  %2 = add %0 %1 : float64[?]",
        "  %3 = sum[axes=(0,)] %2 : float64",
        "  %4 = add output 0[t-1] %3 : float64",
        "  return %4",
    ]


def test_it_is_told() -> None:
    inputs, total = two_sums()
    f = ostinato.function(inputs, total, mode="native")
    assert "sums_together: 2 sums in each step of a loop are 1." in f.explain()


@pytest.mark.parametrize(("n", "m"), [(7, 7), (1, 1), (0, 0), (1, 6), (6, 1)])
def test_sizes_that_only_a_call_knows(n: int, m: int) -> None:
    """Where a size is 1 and another is not, there are two sums of their own."""
    x, y = T.dmatrix("x"), T.dmatrix("y")
    total = ostinato.foldl(lambda x, y, s: s + (T.sum(x**2) + T.sum(T.exp(y))), [x, y], T.constant(2.0))[0]
    f = ostinato.function([x, y], total, mode="native")
    a, b = RNG.normal(size=(5, n)), RNG.normal(size=(5, m))
    np.testing.assert_allclose(f(a, b), 2.0 + (a**2).sum() + np.exp(b).sum(), rtol=1e-12)


def test_code_for_any_sizes_has_all_sums() -> None:
    inputs, total = two_sums()
    graph = rewrite(Graph(tuple(inputs), (total,)))
    assert "add %1 %3" in str(graph)
    assert rewrite_for_native(graph, optimistic=False) != rewrite_for_native(graph)


@pytest.mark.parametrize(
    "step",
    [
        lambda x, y, s: s + (T.sum(x) + T.max(y)),
        lambda x, y, s: s + (T.sum(x) + y[0]),
        lambda x, y, s: s * (T.sum(x) + T.sum(y)),
        lambda x, y, s: s + T.sum(x) * T.sum(y),
    ],
)
def test_other_terms_stay(step: Any) -> None:
    x, y = T.dmatrix("x"), T.dmatrix("y")
    total = ostinato.foldl(step, [x, y], T.constant(2.0))[0]
    graph = rewrite(Graph((x, y), (total,)))
    assert run_passes(graph, (sums_together,)) == graph
    a, b = RNG.uniform(size=(3, 4)), RNG.uniform(size=(3, 4))
    native, reference = (ostinato.function([x, y], total, mode=m)(a, b) for m in ("native", "reference"))
    np.testing.assert_allclose(native, reference, rtol=1e-12)


def test_gradients_of_rates_that_all_lanes_share() -> None:
    """The reverse of a Heun step; the derivatives by central differences."""
    x, a, b = T.dvector("x"), T.dscalar("a"), T.dscalar("b")

    def step(x: Any, a: Any, b: Any) -> Any:
        first = a * x - b * x * x
        moved = x + 0.1 * first
        return x + 0.05 * (first + a * moved - b * moved * moved)

    states, _ = ostinato.scan(step, outputs_info=x, non_sequences=[a, b], n_steps=20)
    cost = T.sum(states[-1] ** 2)
    f = ostinato.function([x, a, b], [cost, *T.grad(cost, [a, b])], mode="native")
    assert "sums_together: 4 sums" in f.explain()
    start, rates, h = RNG.uniform(0.5, 1.5, 33), np.array([0.8, 0.3]), 1e-6
    _, *gradients = f(start, *rates)
    for k, gradient in enumerate(gradients):
        moved = np.eye(2)[k] * h
        wanted = (f(start, *(rates + moved))[0] - f(start, *(rates - moved))[0]) / (2 * h)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-6)
