"""Derivatives of loops that end by `until`: of the steps made, at the cost of the steps made, in both modes.

The reference is a plain Python loop that stops by itself, differentiated by complex steps.
"""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T

DATA = np.linspace(0.4, 1.6, 9)
W, A0 = 0.7, 0.2
HUGE = 10**9


def symbolic() -> tuple[list[Any], Any]:
    x, w, a0 = T.dvector("x"), T.dscalar("w"), T.dscalar("a0")
    ys, _ = ostinato.scan(
        lambda v, a: (T.tanh(a * w) + v**2, ostinato.until(T.tanh(a * w) + v**2 > 1.5)), sequences=x, outputs_info=a0
    )
    return [x, w, a0], ys


def plain(x: Any, w: Any, a: Any) -> Any:
    rows = []
    for v in x:
        a = np.tanh(a * w) + v**2
        rows.append(a)
        if np.real(a) > 1.5:
            break
    return np.array(rows)


def derivative(u: list[Any], h: float = 0.0, u2: Any = (0, 0, 0)) -> Any:
    moved = [a + h * q + 1e-30j * t for a, t, q in zip((DATA, W, A0), u, u2, strict=True)]
    return np.imag(plain(*moved)) / 1e-30


U = [np.cos(np.arange(9.0)), 0.3, -0.5]
U2 = [np.sin(np.arange(9.0)), -0.6, 0.4]


def test_rows_are_those_of_the_steps_made_in_every_derivative() -> None:
    inputs, ys = symbolic()
    tangent = ostinato.jvp(ys, inputs, U)
    gradients = T.grad((ys**3).sum(), inputs)
    outputs = [ys, ys.shape[0], tangent, *gradients, *T.grad(ys[-1], inputs)]
    for mode in ("native", "reference"):
        made, n, t, gx, gw, ga, last, _, _ = ostinato.function(inputs, outputs, mode=mode)(DATA, W, A0)
        expected = plain(DATA, W, A0)
        assert n == len(made) == len(expected) == len(t)
        assert 3 < n < 9
        np.testing.assert_allclose(made, expected, rtol=1e-14)
        np.testing.assert_allclose(t, derivative(U), rtol=1e-12)
        np.testing.assert_allclose((gx * U[0]).sum() + gw * U[1] + ga * U[2], (3 * made**2 * t).sum(), rtol=1e-12)
        assert gx.shape == last.shape == DATA.shape
        assert not gx[n:].any()
        assert not last[n:].any()
        assert gx[:n].all()


def test_orders_two_and_three_in_mixed_modes() -> None:
    inputs, ys = symbolic()
    cost = (ys**2).sum()

    def pull(c: Any, u: Any) -> Any:
        return sum((g * q).sum() for g, q in zip(T.grad(c, inputs), u, strict=True))

    def push(c: Any, u: Any) -> Any:
        return ostinato.jvp(c, inputs, u)

    second = [f(g(cost, U), U2) for f in (pull, push) for g in (pull, push)]
    third = [f(second[0], U) for f in (pull, push)] + [push(second[3], U)]
    found = ostinato.function(inputs, [*second, *third])(DATA, W, A0)

    def slope(h: float) -> Any:
        values = np.real(plain(*[a + h * q for a, q in zip((DATA, W, A0), U2, strict=True)]))
        return (2 * values * derivative(U, h, U2)).sum()

    h = 1e-3
    coarse, fine = ((slope(d) - slope(-d)) / (2 * d) for d in (h, h / 2))
    np.testing.assert_allclose(found[:4], [(4 * fine - coarse) / 3] * 4, rtol=1e-8)
    np.testing.assert_allclose(found[4:], [found[4]] * 3, rtol=1e-11)

    def curvature(h: float) -> Any:  # U enters twice, so that its third difference is wanted with U2 once
        return ostinato_second(DATA + h * U[0], W + h * U[1], A0 + h * U[2])

    ostinato_second = ostinato.function(inputs, second[0])
    coarse, fine = ((curvature(d) - curvature(-d)) / (2 * d) for d in (h, h / 2))
    np.testing.assert_allclose(found[4], (4 * fine - coarse) / 3, rtol=1e-8)


def fixed_point(bound: int) -> tuple[Any, list[Any]]:
    """cos iterated to its fixed point, and derivatives of where it ends."""
    z, a = T.dvector("z"), T.dscalar("a")
    zs, _ = ostinato.scan(
        lambda y: (T.cos(a * y), ostinato.until(T.max(abs(T.cos(a * y) - y)) < 1e-11)), outputs_info=z, n_steps=bound
    )
    cost = zs[-1].sum()
    first = T.grad(cost, a)
    return [z, a], [zs.shape[0], cost, first, ostinato.jvp(cost, a, 1.0), ostinato.jvp(first, a, 1.0)]


@pytest.mark.parametrize("mode", ["native", "reference"])
def test_the_bound_costs_nothing(mode: str) -> None:
    inputs, outputs = fixed_point(HUGE)
    run = ostinato.function(inputs, outputs, mode=mode)
    tracemalloc.start()
    steps, value, first, forward, second = run(np.linspace(0.5, 1.0, 4), 1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert steps < 100
    assert peak < 2**20
    x = 0.7390851332151607  # where cos(x) = x
    s, c = np.sin(x), np.cos(x)
    slope = -s * x / (1 + s)
    bend = -(c * (x + slope) ** 2 + 2 * s * slope) / (1 + s)
    np.testing.assert_allclose([value, first, forward, second], [4 * x, 4 * slope, 4 * slope, 4 * bend], rtol=1e-7)


def test_the_number_of_steps_alone_keeps_no_rows() -> None:
    z = T.dvector("z")
    zs, _ = ostinato.scan(lambda y: (y * 0.999, ostinato.until(y.sum() < 1e-3)), outputs_info=z, n_steps=HUGE)
    run = ostinato.function([z], zs.shape[0])
    (loop,) = [n for n in run.graph.nodes() if n.op.name == "loop"]
    assert loop.params[0].n_outputs == 0
    assert run(np.ones(1000)) == np.ceil(np.log(1e-6) / np.log(0.999)) + 1


def test_a_loop_that_never_stops_early_is_a_plain_loop() -> None:
    x, w = T.dvector("x"), T.dscalar("w")

    def build(with_until: bool) -> list[Any]:
        def step(v: Any, a: Any) -> Any:
            new = T.sin(a * w) + v
            return (new, ostinato.until(new > 1e9)) if with_until else new

        ys, _ = ostinato.scan(step, sequences=x, outputs_info=T.constant(0.1, dtype="float64"))
        first = T.grad((ys**2).sum(), [x, w])
        return [*first, ostinato.jvp(ys, [x, w], [T.cos(x), 0.5]), *T.grad(first[0].sum() + first[1], [x, w])]

    found = ostinato.function([x, w], [*build(True), *build(False)])(np.linspace(-1, 1, 5), 0.8)
    for a, b in zip(found[:5], found[5:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)
