"""Outputs of which some steps are recorded, and derivatives that keep some states: as kernels on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from on_gpu import compare, kinds, normal, same, torch  # noqa: F401 - skips where the extra is not installed
from ostinato import every

scan = ostinato.scan


def chain(keep: Any, until: Any = None) -> tuple[list[Any], Any]:
    """A state per lane, and twice it, of which `keep` is recorded."""
    x, a = T.dmatrix("x"), T.dvector("a")

    def step(x_t: Any, h: Any) -> Any:
        h = T.tanh(a * h + x_t)
        outputs = [h, 2 * h + x_t]
        return outputs if until is None else (outputs, {}, ostinato.until(until(h)))

    y, _ = scan(step, x, [T.zeros_like(x[0]), None], keep=keep)
    return [x, a], y


@pytest.mark.parametrize("k", [1, 2, 3, 8, 50])
def test_each_so_many_th_step(k: int) -> None:
    inputs, y = chain([every(k), every(k)])
    a = normal(3, dtype="float64")
    f = compare(inputs, y, [normal(9, 3, dtype="float64"), a])
    g = ostinato.function(inputs, y, mode="reference")
    for n in (0, 1, 2, 3, 7, 8):  # the same kernel
        x = normal(n, 3, dtype="float64")
        for found, wanted in zip(f(x, a), g(x, a), strict=True):
            same(found, wanted)
    assert f.compilations == 1


def test_different_numbers_known_at_the_call() -> None:
    k, m = T.iscalar("k"), T.iscalar("m")
    inputs, y = chain([every(k), every(m)])
    f = ostinato.function([*inputs, k, m], y, mode="gpu")
    x, a = normal(11, 3, dtype="float64"), normal(3, dtype="float64")
    h, rows = np.zeros(3), []
    for x_t in x:
        h = np.tanh(a * h + x_t)
        rows.append([h, 2 * h + x_t])
    for strides in [(1, 1), (2, 3), (3, 2), (1, 11), (12, 4), (2, 3)]:
        for found, j, stride in zip(f(x, a, *strides), range(2), strides, strict=True):
            np.testing.assert_allclose(found, [r[j] for r in rows[::stride]], rtol=1e-12)
    assert kinds(f) == {"kernel"}
    assert f.compilations == 1
    with pytest.raises(ostinato.OstinatoValueError, match="at least 1"):
        f(x, a, 0, 1)


def test_some_whole_some_thinned_and_costly_ones_after_the_loop() -> None:
    x, U, V = T.ftensor3("x"), T.fmatrix("U"), T.fmatrix("V")

    def step(x_t: Any, h: Any) -> Any:
        h = T.tanh(T.dot(h, U) + x_t)
        return h, T.dot(h, V), T.dot(x_t, V), T.exp(h), x_t, T.ones_like(h)

    keep = [None, every(3), every(2), None, every(3), every(4)]
    y, _ = scan(step, x, [T.zeros_like(x[0]), *[None] * 5], keep=keep)
    f = compare([x, U, V], y, [normal(8, 2, 5), normal(5, 5), normal(5, 4)])
    # Neither products nor rows of what only thinned outputs need are made for all steps.
    assert "every" in f.explain("triton")


@pytest.mark.parametrize("stop", [0.5, -9, 9])
def test_until(stop: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of 2, 4, 8 ... steps, whose first row may be that of any of their steps."""
    monkeypatch.setattr("ostinato.backends.triton.runners._FIRST_STEPS", 2)
    for k in (1, 2, 3, 5):
        inputs, y = chain([every(k), None], until=lambda h: h[0] > stop)
        x = np.linspace(-1, 2, 24)[:, None] + normal(24, 1, dtype="float64") / 9
        compare(inputs, y, [x, np.array([0.3])])


def test_more_steps_than_one_launch_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostinato.backends.triton.runners._LONGEST", 4)
    for k in (1, 3, 5, 7):
        inputs, y = chain([every(k), None])
        compare(inputs, y, [normal(14, 2, dtype="float64"), normal(2, dtype="float64")])


@pytest.mark.parametrize("checkpoint", [1, 3, 100, "1kB"])
def test_derivatives_that_keep_some_states(checkpoint: Any) -> None:
    x, a = T.dmatrix("x"), T.dvector("a")
    y, _ = scan(lambda x_t, h: T.tanh(a * h + x_t), x, T.zeros_like(x[0]), checkpoint=checkpoint, name="cell")
    outputs = [y[-1], *T.grad(T.sum(y[-1] ** 2), [x, a])]
    f = compare([x, a], outputs, [normal(12, 3, dtype="float64"), normal(3, dtype="float64")], became="")
    # The host goes from block to block. All that makes steps is a kernel.
    assert set(f._run.notes.stepped) <= {"blocks of gradient of cell"}
    assert "Loop cell: one lane-parallel kernel" in f.explain()
    whole = ostinato.function([x, a], outputs, mode="reference")
    for n in (1, 7):
        for found, wanted in zip(f(np.ones((n, 3)), np.ones(3)), whole(np.ones((n, 3)), np.ones(3)), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-10)
