"""Loops of no step, of one, and of arrays without elements: values and derivatives of first and second order.

Number of steps constant, symbolic, or computed from data; the reference is a plain Python loop by complex steps.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T

MODES = ["native", "reference"]


def step(m: Any, v: Any, h: Any, w: Any) -> Any:
    return m.tanh(h * w) + m.sin(v) * h


def derivatives(cost: Any, outputs: Any, inputs: list[Any], u: list[Any]) -> list[Any]:
    """First order in both modes, second in all four: numbers, so that they can be compared."""

    def pull(c: Any) -> Any:
        return sum((g * q).sum() for g, q in zip(T.grad(c, inputs), u, strict=True))

    def push(c: Any) -> Any:
        return ostinato.jvp(c, inputs, u)

    return [ostinato.jvp(outputs, inputs, u), *[f(cost) for f in (pull, push)]] + [
        f(g(cost)) for f in (pull, push) for g in (pull, push)
    ]


def check(found: list[Any], plain: Any, arrays: list[Any], u: list[Any]) -> None:
    """`found` holds rows and what `derivatives` makes of sin(rows).sum() + the sum of squares of the arrays."""

    def moved(h: complex) -> list[Any]:
        return [a + h * q for a, q in zip(arrays, u, strict=True)]

    def cost(values: list[Any]) -> Any:
        return np.sin(plain(*values)).sum() + sum((a * a).sum() for a in values)

    def slope(h: float) -> Any:
        return np.imag(cost(moved(h + 1e-30j))) / 1e-30

    rows, tangent, *rest = found
    np.testing.assert_allclose(rows, plain(*arrays), rtol=1e-14)
    assert rows.shape == plain(*arrays).shape == tangent.shape
    np.testing.assert_allclose(tangent, np.imag(plain(*moved(1e-30j))) / 1e-30, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(rest[:2], [slope(0)] * 2, rtol=1e-12)
    h = 1e-3
    coarse, fine = ((slope(d) - slope(-d)) / (2 * d) for d in (h, h / 2))
    np.testing.assert_allclose(rest[2:], [(4 * fine - coarse) / 3] * 4, rtol=1e-7)


def cost_of(rows: Any, inputs: list[Any]) -> Any:
    return T.sin(rows).sum() + sum((a * a).sum() for a in inputs)


def directions(arrays: list[Any]) -> list[Any]:
    rng = np.random.default_rng(2)
    return [rng.uniform(-1, 1, np.shape(a)) for a in arrays]


@pytest.mark.parametrize("mode", MODES)
def test_one_compiled_function_for_no_steps_and_few(mode: str) -> None:
    """Arrays of no elements at every place, too."""
    x, h0, w = T.dmatrix("x"), T.dvector("h0"), T.dscalar("w")
    rows, _ = ostinato.scan(lambda v, h: step(T, v, h, w), sequences=x, outputs_info=h0)
    us = [T.dmatrix(), T.dvector(), T.dscalar()]
    run = ostinato.function(
        [x, h0, w, *us], [rows, *derivatives(cost_of(rows, [x, h0, w]), rows, [x, h0, w], us)], mode=mode
    )

    def plain(x: Any, h: Any, w: Any) -> Any:
        found = [h := step(np, v, h, w) for v in x]
        return np.array(found).reshape(x.shape)

    for n, width in itertools.product((0, 1, 2), (0, 1, 2)):
        arrays = [np.linspace(-1, 1, n * width).reshape(n, width), np.linspace(0.3, 0.9, width), np.float64(0.8)]
        u = directions(arrays)
        check(run(*arrays, *u), plain, arrays, u)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [0, 1])
def test_constant_number_of_steps(n: int, mode: str) -> None:
    h0, w = T.dvector("h0"), T.dscalar("w")
    rows, _ = ostinato.scan(lambda h: step(T, h, h, w), outputs_info=h0, n_steps=n)
    arrays = [np.array([0.3, 0.9]), np.float64(0.8)]
    u = directions(arrays)
    forms = derivatives(cost_of(rows, [h0, w]), rows, [h0, w], u)
    run = ostinato.function([h0, w], [rows, *forms], mode=mode)

    def plain(h: Any, w: Any) -> Any:
        return np.array([step(np, h, h, w)] * n).reshape(n, 2)

    check(run(*arrays), plain, arrays, u)


@pytest.mark.parametrize("mode", MODES)
def test_number_of_steps_that_the_data_decide(mode: str) -> None:
    """It comes from the values through a cast to integers, so it passes no derivative itself."""
    h0, w = T.dvector("h0"), T.dscalar("w")
    n = h0.sum().astype("int64")
    rows, _ = ostinato.scan(lambda h: step(T, h, h, w), outputs_info=h0, n_steps=n)
    us = [T.dvector(), T.dscalar()]
    run = ostinato.function([h0, w, *us], [rows, *derivatives(cost_of(rows, [h0, w]), rows, [h0, w], us)], mode=mode)

    def plain(h: Any, w: Any) -> Any:
        found = [h := step(np, h, h, w) for _ in range(int(np.real(h).sum()))]
        return np.array(found).reshape(len(found), 2)

    for start in ([0.2, 0.3], [0.8, 0.6], [2.2, 1.4]):
        arrays = [np.array(start), np.float64(0.8)]
        u = directions(arrays)
        check(run(*arrays, *u), plain, arrays, u)


@pytest.mark.parametrize("mode", MODES)
def test_taps_with_just_as_many_rows_as_needed(mode: str) -> None:
    """A sequence read at t-1, t and t+1, a state with lags 1 and 3: the shortest arrays give no step."""
    x, h0, w = T.dvector("x"), T.dvector("h0"), T.dscalar("w")
    rows, _ = ostinato.scan(
        lambda a, b, c, h3, h1, w: step(T, a + b * c, h1, w) + 0.3 * h3,
        sequences={"input": x, "taps": [-1, 0, 1]},
        outputs_info={"initial": h0, "taps": [-3, -1]},
        non_sequences=w,
    )
    us = [T.dvector(), T.dvector(), T.dscalar()]
    run = ostinato.function(
        [x, h0, w, *us], [rows, *derivatives(cost_of(rows, [x, h0, w]), rows, [x, h0, w], us)], mode=mode
    )

    def plain(x: Any, h: Any, w: Any) -> Any:
        history = list(h)
        for a, b, c in zip(x, x[1:], x[2:], strict=False):
            history.append(step(np, a + b * c, history[-1], w) + 0.3 * history[-3])
        return np.array(history[3:])

    for n in (2, 3, 6):
        arrays = [np.linspace(-1, 1, n), np.array([0.1, -0.4, 0.6]), np.float64(0.8)]
        u = directions(arrays)
        check(run(*arrays, *u), plain, arrays, u)
    with pytest.raises(ostinato.OstinatoValueError, match=r"has 2 row\(s\), but 3 are needed"):
        run(np.ones(4), np.ones(2), 0.8, np.ones(4), np.ones(2), 0.1)


@pytest.mark.parametrize("mode", MODES)
def test_products_of_matrices_without_rows(mode: str) -> None:
    """A network for a batch of 0 rows, and one of width 0."""
    x, h0, W = T.dtensor3("x"), T.dmatrix("h0"), T.dmatrix("W")
    rows, _ = ostinato.scan(lambda v, h, W: T.tanh(T.dot(h, W) + v), sequences=x, outputs_info=h0, non_sequences=W)
    us = [T.dtensor3(), T.dmatrix(), T.dmatrix()]
    inputs = [x, h0, W]
    run = ostinato.function([*inputs, *us], [rows, *derivatives(cost_of(rows, inputs), rows, inputs, us)], mode=mode)

    def plain(x: Any, h: Any, W: Any) -> Any:
        found = [h := np.tanh(h @ W + v) for v in x]
        return np.array(found).reshape(x.shape)

    for shape in ((0, 2, 3), (2, 0, 3), (2, 3, 0), (1, 1, 1), (2, 2, 3)):
        rng = np.random.default_rng(shape)
        arrays = [rng.normal(size=shape), rng.normal(size=shape[1:]), rng.normal(size=shape[2:] * 2)]
        u = directions(arrays)
        check(run(*arrays, *u), plain, arrays, u)


@pytest.mark.parametrize("n", [0, 1])
def test_last_values_of_no_steps_are_the_initial_ones(n: int) -> None:
    x, h0 = T.dvector("x"), T.dscalar("h0")
    last, _ = ostinato.reduce(lambda v, h: h * v, sequences=x, outputs_info=h0)
    forms = [last, *T.grad(last, [x, h0]), ostinato.jvp(last, [x, h0], [T.ones_like(x), 0.5])]
    value, gx, gh, tangent = ostinato.function([x, h0], forms)(np.full(n, 2.0), 3.0)
    assert (value, gh, tangent) == ((3, 1, 0.5) if n == 0 else (6, 2, 4))
    assert gx.tolist() == [3.0] * n
