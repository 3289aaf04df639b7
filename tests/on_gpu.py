"""Helpers of the tests of the GPU backend: run a computation there and on the reference, and compare.

The tests run kernels in Triton's interpreter, which is slow, so arrays are tiny. With `make test-gpu` they run on a
GPU. Where the extra `gpu` is not installed they are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T

WHY = "the extra gpu is not installed: pip install 'ostinato[gpu]'"
torch: Any = pytest.importorskip("torch", reason=WHY)
pytest.importorskip("triton", reason=WHY)

ON_GPU = os.environ.get("OSTINATO_TEST_GPU") == "1"
TOLERANCE = {"float16": 4e-3, "float32": 3e-5, "float64": 1e-10}


def normal(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray[Any, Any]:
    """Normal random numbers, halved, that depend on the arguments alone."""
    return (np.random.default_rng((seed, *shape)).normal(size=shape) / 2).astype(dtype)


def kinds(function: Any) -> set[str]:
    """What became of the loops of a function: "kernel", "steps"."""
    notes = function._run.notes
    return {*(["kernel"] if notes.kernels else []), *(["steps"] if notes.stepped else [])}


def compare(
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    arrays: Sequence[Any],
    tol: float | None = None,
    became: str = "kernel",
) -> Any:
    """Run a computation on the device and on the reference; results have equal dtypes, shapes and values.

    Parameters
    ----------
    became : what is to become of the loops: "kernel", "steps", or "" for either.

    Returns
    -------
    Function
        The one on the device.
    """
    flags: dict[str, Any] = {"on_unused_input": "ignore"}
    expected = ostinato.function(inputs, list(outputs), mode="reference", **flags)(*arrays)
    f = ostinato.function(inputs, list(outputs), mode="gpu", **flags)
    for found, wanted in zip(f(*arrays), expected, strict=True):
        same(found, wanted, tol)
    if became:
        assert kinds(f) == {became}, f.explain()
    return f


def same(found: Any, wanted: Any, tol: float | None = None) -> None:
    """Equal dtypes and shapes, and values up to rounding."""
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    t = TOLERANCE.get(wanted.dtype.name, 0) if tol is None else tol
    np.testing.assert_allclose(found, wanted, rtol=t, atol=t if wanted.dtype.kind == "f" else 0)


def variables(arrays: Sequence[Any]) -> list[Any]:
    """An input for each array, of its dtype and rank."""
    return [T.tensor(np.asarray(a).dtype.name, (None,) * np.ndim(a), f"x{i}") for i, a in enumerate(arrays)]
