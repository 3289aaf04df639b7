"""Calls that come again: what is launched then, and on what.

Results are checked with the interpreter, launches with a stand-in for a GPU's driver.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from on_gpu import normal, torch
from ostinato.backends.triton.tensors import default_device

scan = ostinato.scan


# ---- launches -------------------------------------------------------------------------------------


def launches() -> list[dict[str, Any]]:
    environ = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("gpu_launches.py")
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, env=environ, cwd=script.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_launch_that_comes_again_is_what_triton_would_launch() -> None:
    both = launches()
    found, expected = both[: len(both) // 2], both[len(both) // 2 :]
    asked = {launch["call"]: launch.pop("asked") for launch in found}
    assert all(launch.pop("asked") == 1 for launch in expected)
    assert found == expected
    assert len(found) == len(asked) == 10
    # Where places are not aligned, and where strides are others than at first, Triton is asked.
    assert {call for call, times in asked.items() if times == 0} == {"once more", "as at first"}
    by_call = {launch["call"]: launch for launch in found}
    assert by_call["first"]["arrays"] == ["a", "new", "last of x", "new", "new"]
    same = {**by_call["first"], "call": "as at first"}
    assert by_call["as at first"] == same
    assert by_call["not aligned"]["kernel"] != by_call["first"]["kernel"] != by_call["strided"]["kernel"]
    assert by_call["longer"]["kernel"] == by_call["first"]["kernel"] != by_call["wider"]["kernel"]


# ---- arrays ---------------------------------------------------------------------------------------


def on_device(x: Any) -> Any:
    return torch.from_numpy(np.asarray(x)).to(default_device())


def test_calls_with_other_strides_and_values_of_the_same_sizes() -> None:
    x, a, k = T.fmatrix("x"), T.fvector("a"), T.iscalar("k")
    y, _ = scan(lambda x_t, h: T.tanh(a * h + x_t), x, T.zeros_like(x[0]), go_backwards=True)
    last, _ = ostinato.foldl(lambda x_t, h: h + k * x_t, x, a)
    f = ostinato.function([x, a, k], [y, last], device="cuda")
    g = ostinato.function([x, a, k], [y, last], mode="reference")
    dense = [normal(6, 4, seed=s) for s in range(6)]
    turned = [np.ascontiguousarray(d.T).T for d in dense]
    every_other = [np.repeat(d, 2, axis=1)[:, ::2] for d in dense]
    for s, rows in enumerate([dense[0], dense[1], turned[2], dense[3], every_other[4], every_other[5], dense[0]]):
        for b in (normal(4, seed=s), normal(8, seed=s)[::2]):
            for number in (s, 3):
                strides = torch.from_numpy(rows)
                on_gpu = torch.empty_strided(strides.shape, strides.stride(), device=default_device()).copy_(strides)
                for found, wanted in zip(f(on_gpu, on_device(b.copy()), number), g(rows, b, number), strict=True):
                    np.testing.assert_allclose(found.cpu(), wanted, rtol=1e-5, atol=1e-6)


def test_a_number_of_steps_that_changes_between_equal_calls() -> None:
    n, h0 = T.iscalar("n"), T.fvector("h0")
    h, _ = scan(lambda h: h * np.float32(0.5), outputs_info=h0, n_steps=n)
    f = ostinato.function([n, h0], h, device="cuda")
    start = on_device(np.ones(3, "float32"))
    for steps in (2, 2, 3, 0, 2, 0, 3):
        found = f(steps, start)
        assert found.shape == (steps, 3)
        np.testing.assert_array_equal(found.cpu(), 0.5 ** np.arange(1, steps + 1)[:, None] * np.ones(3))


def test_results_of_calls_share_no_memory_and_arguments_stay() -> None:
    x = T.fmatrix("x")
    y, _ = scan(lambda x_t, h: h + x_t, x, T.zeros_like(x[0]))
    f = ostinato.function([x], [y, x, x[0]], device="cuda")
    argument = on_device(np.ones((3, 4), "float32"))
    calls = [f(argument) for _ in range(3)]
    places = {r.untyped_storage().data_ptr() for found in calls for r in found} | {argument.data_ptr()}
    assert len(places) == 10
    calls[0][0].fill_(7)
    np.testing.assert_array_equal(calls[2][0].cpu(), np.cumsum(np.ones((3, 4)), axis=0))
    np.testing.assert_array_equal(argument.cpu(), np.ones((3, 4)))


def test_tensors_that_are_not_quite_what_is_wanted() -> None:
    """Truth values and integers, other dtypes and classes, signs and derivatives that torch keeps elsewhere."""
    x, n = T.fvector("x"), T.lscalar("n")
    f = ostinato.function([x, n], x * n, device="cuda")
    plain = on_device(np.arange(3, dtype="float32"))
    variants = {
        "plain": plain,
        "parameter": torch.nn.Parameter(plain.clone()),
        "requires_grad": plain.clone().requires_grad_(),
        "half": plain.half(),
        "lazily negative": torch.complex(plain, -plain).conj().imag,
        "numpy": plain.cpu().numpy(),
    }
    assert variants["lazily negative"].is_neg()
    for name, value in variants.items():
        for number in (2, torch.tensor(2), torch.tensor(2, device=default_device())):
            found = f(value, number)
            assert not found.requires_grad
            np.testing.assert_array_equal(found.cpu(), [0, 2, 4], err_msg=name)
    for wrong in (plain.double(), plain[None], plain.to_sparse()):
        with pytest.raises(ostinato.OstinatoTypeError, match="expected float32"):
            f(wrong, 2)
    with pytest.raises(ostinato.OstinatoTypeError, match="at most 2"):
        f(plain, 2, 3)


@pytest.mark.parametrize("most", [None, 0])
def test_numbers_that_are_kept_between_calls_are_nobody_elses(
    most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if most is not None:
        monkeypatch.setattr("ostinato.backends.triton.run._MOST_SCALARS", most)
    x = T.fvector("x")
    y, _ = scan(lambda h: h + x, outputs_info=T.zeros_like(x) + np.float32(0.12345 + (most is None)), n_steps=2)
    f = ostinato.function([x], [y, T.zeros_like(x) + np.float32(7.25), T.ones_like(x)], device="cuda")
    for _ in range(4):
        rows, sevens, ones = f(on_device(np.ones(5, "float32")))
        np.testing.assert_allclose(rows[:, 0].cpu(), np.array([1, 2]) + 0.12345 + (most is None), rtol=1e-6)
        np.testing.assert_array_equal(sevens.cpu(), np.full(5, 7.25))
        np.testing.assert_array_equal(ones.cpu(), np.ones(5))
        for result in (rows, sevens, ones):
            result.fill_(-1)
