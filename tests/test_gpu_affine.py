"""Loops whose state enters affinely, cut into chunks that run at the same time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from on_gpu import compare, normal, torch  # noqa: F401 - skips where the extra is not installed

chunks = pytest.importorskip("ostinato.backends.triton.chunks")
affine = pytest.importorskip("ostinato.backends.triton.affine")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops of 8 steps are long enough to be cut."""
    monkeypatch.setattr(chunks, "LEAST_STEPS", 8)
    monkeypatch.setattr(chunks, "division", lambda steps, lanes: (4, steps // 4) if steps < 40 else (10, steps // 10))


def was_cut(f: Any) -> bool:
    return any(isinstance(r, chunks.CutRunner) and r.programs for r in runners(f))


def runners(f: Any) -> list[Any]:
    """All that runs loops of a function on the device."""
    found: list[Any] = []
    for function, _, _ in f._run._program.code:
        for plan in getattr(function, "plans", {}).values():
            found += [g for g, _, _ in plan.program.code]
    return found


@pytest.mark.parametrize("steps", [7, 8, 39, 103])  # too few; with and without steps left over; cut twice
def test_one_lane(steps: int) -> None:
    a, b, h0 = T.dvector("a"), T.dvector("b"), T.dscalar("h0")
    y, _ = ostinato.scan(lambda a_t, b_t, h: a_t * h + b_t, [a, b], h0)
    outputs = [y, y[-1], *T.grad(T.sum(y**2), [a, b, h0])]
    f = compare([a, b, h0], outputs, [normal(steps, dtype="float64"), normal(steps, dtype="float64", seed=1), 0.3])
    assert was_cut(f) == (steps >= 8)


def test_against_a_loop_by_hand() -> None:
    x, decay = T.dmatrix("x"), T.dvector("decay")
    y, _ = ostinato.scan(lambda x_t, h: decay * h + (1 - decay) * x_t, x, T.zeros_like(x[0]))
    f = ostinato.function([x, decay], y, mode="gpu")
    given, factors = normal(50, 3, dtype="float64"), np.array([0.9, 0.5, 0.99])
    h, expected = np.zeros(3), []
    for row in given:
        h = factors * h + (1 - factors) * row
        expected.append(h)
    np.testing.assert_allclose(f(given, factors), expected, rtol=1e-12)
    assert was_cut(f)


def test_all_that_keeps_a_state_affine() -> None:
    x, decay, s = T.dmatrix("x"), T.dvector("decay"), T.dscalar("s")

    def step(t: Any, x_t: Any, h: Any) -> Any:
        new = decay * h + (1 - decay) * x_t * s - h / 3 - -h * 0.1 + t.astype("float64") * 0.01
        new = T.where(x_t > 0, new, x_t)
        return new, T.tanh(new) * x_t

    (y, z), _ = ostinato.scan(step, [T.arange(x.shape[0]), x], [T.zeros_like(x[0]), None])
    cost = T.sum(y**2) + T.sum(z)
    arrays = [normal(50, 3, dtype="float64"), np.array([0.2, 0.5, 0.7]), 0.7]
    assert was_cut(compare([x, decay, s], [y, z, *T.grad(cost, [x, decay, s])], arrays))


def test_sums_of_states() -> None:
    """A running sum that is recorded needs the state at every step; its derivative does not."""
    x, rate = T.fmatrix("x"), T.fscalar("rate")
    (h, total), _ = ostinato.scan(
        lambda x_t, h, total: (h + rate * (x_t - h), total + h * h), x, [x[0], T.zeros_like(x[0])]
    )
    arrays = [normal(45, 2), np.float32(0.3)]
    assert not was_cut(compare([x, rate], [h[-1], total], arrays))
    compare([x, rate], [h[-1], total[-1]], arrays)
    compare([x, rate], T.grad(T.sum(total[-1]) + T.sum(h[-1]), [x, rate]), arrays)


@pytest.mark.parametrize(
    "step",
    [
        lambda x_t, h: 0.1 * h * h + x_t,
        lambda x_t, h: T.maximum(h, x_t),
        lambda x_t, h: T.sum(h) * 0.1 + x_t,
        lambda x_t, h: x_t / (2 + h),
    ],
)
def test_what_is_not_affine_is_not_cut(step: Any) -> None:
    x = T.dmatrix("x")
    y, _ = ostinato.scan(step, x, x[0])
    assert not was_cut(compare([x], [y], [normal(30, 3, dtype="float64")]))


def test_states_that_depend_on_each_other_are_not_cut() -> None:
    x = T.dmatrix("x")
    (a, b), _ = ostinato.scan(lambda x_t, a, b: (0.5 * a + 0.1 * b + x_t, 0.3 * b - 0.2 * a), x, [x[0], x[1]])
    assert not was_cut(compare([x], [a, b], [normal(30, 3, dtype="float64")]))


@pytest.mark.parametrize(("steps", "lanes"), [(2048, 1), (10**7, 1), (10**6 + 3, 100), (4099, 8192), (10**5, 1000)])
def test_division(steps: int, lanes: int) -> None:
    chunks, length = affine.division(steps, lanes)
    assert chunks >= 2
    assert length >= 1
    assert 0 <= steps - chunks * length < chunks
    assert steps - chunks * length <= 200
