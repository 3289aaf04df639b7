"""Loops whose states are shared out among programs, which exchange their columns at every step."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from on_gpu import compare, normal, torch

emit = pytest.importorskip("ostinato.backends.triton.emit")
exchange = pytest.importorskip("ostinato.backends.triton.exchange")
rehearsal = pytest.importorskip("ostinato.backends.triton.kernels").rehearsal


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """States of 17 columns are wide enough."""
    monkeypatch.setattr(emit, "_SPREAD_FROM", 17)


def network(rows: int, columns: int, step: Any, gates: int = 1) -> tuple[list[Any], list[Any], list[Any]]:
    """Inputs, outputs (states, and derivatives of their sum of squares) and arguments."""
    x, h0, U, g = T.ftensor3("x"), T.fmatrix("h0"), T.fmatrix("U"), T.fvector("g")
    y, _ = ostinato.scan(lambda x_t, h: step(x_t, h, U, g), x, h0)
    cost = T.sum(y**2)
    arrays = [
        normal(3, rows, gates * columns),
        normal(rows, columns),
        normal(columns, gates * columns),
        normal(columns),
    ]
    return [x, h0, U, g], [y, *T.grad(cost, [x, h0, U, g])], arrays


def tanh_cell(x_t: Any, h: Any, U: Any, g: Any) -> Any:
    return T.tanh(x_t + T.dot(h, U)) * g


def gru(x_t: Any, h: Any, U: Any, g: Any) -> Any:
    n = h.shape[1]
    a = T.dot(h, U)
    r = T.nnet.sigmoid(x_t[:, :n] + a[:, :n])
    z = T.nnet.sigmoid(x_t[:, n : 2 * n] + a[:, n : 2 * n])
    new = T.tanh(x_t[:, 2 * n :] + r * a[:, 2 * n :]) * g
    return new + z * (h - new)


def layer_norm(x_t: Any, h: Any, U: Any, g: Any) -> Any:
    """Sums along the columns, one of them of what waits for the other."""
    z = T.dot(h, U) + x_t
    away = z - T.mean(z, axis=1, keepdims=True)
    return T.tanh(away / T.sqrt(T.mean(away**2, axis=1, keepdims=True) + 1e-5) * g)


def extremes(x_t: Any, h: Any, U: Any, g: Any) -> Any:
    """Several results of the columns that do not wait for each other."""
    z = T.dot(h, U) + x_t
    return (z - T.max(z, axis=1, keepdims=True)) / (1 + T.sum(T.exp(-z * g), axis=1, keepdims=True))


def two_products(x_t: Any, h: Any, U: Any, g: Any) -> Any:
    """A product of a product: programs wait for each other twice in a step."""
    return T.tanh(T.dot(T.tanh(T.dot(h, U) + x_t), U) * g)


@pytest.mark.parametrize("rows", [1, 3, 18])  # one, a few without tensor cores, and more than a block of them
def test_a_cell(rows: int) -> None:
    f = compare(*network(rows, 33, tanh_cell))  # no multiple of a block
    assert "exchange their columns" in f.explain()


@pytest.mark.parametrize(
    ("step", "gates", "rows"),
    [(gru, 3, 18), (gru, 3, 2), (layer_norm, 1, 2), (layer_norm, 1, 17), (extremes, 1, 5), (two_products, 1, 17)],
)
def test_cells(step: Any, gates: int, rows: int) -> None:
    f = compare(*network(rows, 36, step, gates), tol=1e-4)
    assert "exchange their columns" in f.explain()


def about(share: float, offset: float) -> Any:
    """A cell that is divided by the root mean square of what lies far from zero, about a share of its mean."""

    def step(x_t: Any, h: Any, U: Any, g: Any) -> Any:
        z = T.dot(h, U) + x_t + np.float32(offset)
        away = z - np.float32(share) * T.mean(z, axis=1, keepdims=True)
        return (z - np.float32(offset)) / T.sqrt(T.mean(away**2, axis=1, keepdims=True)) * g

    return step


@pytest.mark.parametrize("rows", [2, 18])
@pytest.mark.parametrize(("share", "offset"), [(1, 0), (1, 300), (0.5, 1), (0, 1)])
def test_squares_about_a_mean_are_not_waited_for(share: float, offset: float, rows: int) -> None:
    inputs, outputs, arrays = network(rows, 19, about(share, offset))
    f = compare(inputs, outputs[:1], arrays, tol=1e-4 * (1 + offset))
    # For the state, and for the sum of what it becomes; squares about that wait for nothing more.
    assert f.explain("triton").count("while tl.min") == 2
    if offset > 1:
        compare(inputs, outputs, arrays, tol=3e-3 * (1 + offset))


def test_squares_about_something_else_are_waited_for() -> None:
    def step(x_t: Any, h: Any, U: Any, g: Any) -> Any:
        z = T.dot(h, U) + x_t
        away = z - T.mean(z * g, axis=1, keepdims=True)  # which follows from no sum of z
        return z / T.sqrt(T.mean(away**2, axis=1, keepdims=True))

    inputs, outputs, arrays = network(2, 37, step)
    f = compare(inputs, outputs[:1], arrays, tol=1e-4)
    assert f.explain("triton").count("while tl.min") == 3


def lstm_like(x_t: Any, h: Any, U: Any, g: Any) -> Any:
    """Four products, whose derivatives are added up."""
    n = h.shape[1]
    i, f, c, o = [(x_t + T.dot(h, U))[:, k * n : (k + 1) * n] for k in range(4)]
    return T.nnet.sigmoid(o) * T.tanh(T.nnet.sigmoid(f) * h * g + T.nnet.sigmoid(i) * T.tanh(c))


@pytest.mark.parametrize(("most", "rows"), [(0.3, 1), (0, 2), (8, 3), (16, 5)])
def test_what_is_waited_for_together(most: float, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_AT_ONCE_BY_ROWS", most)
    monkeypatch.setattr(exchange, "_AT_ONCE", most)
    f = compare(*network(rows, 20, lstm_like, 4), tol=1e-4)
    text = f.explain("triton")
    # Forwards for the state, backwards for four derivatives: at once, or each by itself.
    assert text.count("while tl.min") == {0: 5, 0.3: 3}.get(most, 2)
    # The derivative by the state is a sum of four products, and summed over the columns once.
    assert text.count("tl.sum(") == (5 if rows < 5 else 0)


def test_an_inner_axis_in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_INNER", 16)
    f = compare(*network(17, 70, tanh_cell))
    assert "words" in f.explain("triton")
    assert f.explain("triton").count("tl.dot(") == 2 * 8


def test_programs_that_overtake_each_other() -> None:
    """Threads that change places as often as can be: whoever is a step ahead takes nothing from the others."""
    before = sys.getswitchinterval()
    inputs, outputs, arrays = network(2, 24, two_products)
    arrays[0], arrays[2] = normal(6, 2, 24), arrays[2] / 4
    f = compare(inputs, outputs, arrays, tol=1e-4)
    expected = f(*arrays)
    try:
        sys.setswitchinterval(1e-6)
        for found, wanted in zip(f(*arrays), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    finally:
        sys.setswitchinterval(before)


def test_weights_that_no_program_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read again at every step."""
    monkeypatch.setattr(emit, "_OTHERWISE", 1 << 30)
    f = compare(*network(18, 40, tanh_cell))
    assert "at * ZERO" in f.explain("triton")


def test_what_is_too_wide_for_all_programs_runs_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emit, "_LARGEST", 1 << 9)
    monkeypatch.setattr(emit.Emitter, "_choose_spread", lambda self, rows: None)
    compare(*network(18, 40, tanh_cell), became="steps")


def test_sums_along_an_axis_that_slices_cut() -> None:
    """A cell that normalises all its gates together and takes them apart afterwards."""
    x, h0, W, U = T.ftensor3("x"), T.fmatrix("h0"), T.fmatrix("W"), T.fmatrix("U")
    gains = T.fvectors("gx", "gh")
    n = h0.shape[1]

    def norm(z: Any, gain: Any) -> Any:
        away = z - T.mean(z, axis=-1, keepdims=True)
        return away / T.sqrt(T.mean(away**2, axis=-1, keepdims=True) + 1e-5) * gain

    def step(x_t: Any, h: Any, c: Any) -> Any:
        z = norm(T.dot(x_t, W), gains[0]) + norm(T.dot(h, U), gains[1])
        i, f, g, o = [z[:, k * n : (k + 1) * n] for k in range(4)]
        c = T.nnet.sigmoid(f) * c + T.nnet.sigmoid(i) * T.tanh(g)
        return T.nnet.sigmoid(o) * T.tanh(c), c

    (h, _), _ = ostinato.scan(step, x, [h0, h0])
    inputs = [x, h0, W, U, *gains]
    arrays = [normal(3, 3, 12), normal(3, 18), normal(12, 72), normal(18, 72), normal(72), normal(72, seed=1)]
    compare(inputs, [h, *T.grad(T.sum(h**2), inputs)], arrays, tol=2e-4)


@pytest.mark.parametrize(
    ("precision", "rows", "columns", "shared"),
    [("tf32", 32, 128, True), ("tf32", 2048, 128, False), ("tf32", 32, 64, False), ("bf16", 32, 128, False)],
)
def test_when_columns_are_exchanged(
    precision: str, rows: int, columns: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a program could hold the weights, only if more programs then have something to do."""
    monkeypatch.setattr(emit, "_SPREAD_FROM", 256)
    inputs, outputs, arrays = network(rows, columns, gru, 3)
    with rehearsal() as found, ostinato.config.change_flags(gpu_precision=precision):
        f = ostinato.function(inputs, outputs[:1], mode="gpu", on_unused_input="ignore")
        f(*[torch.empty(x.shape, device="meta") for x in arrays])
    assert [("exchange" in kernel.description) for kernel, _ in found] == [shared]
