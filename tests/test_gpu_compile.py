"""Kernels of all classes compiled for an H100 that need not be there: that Triton takes them, and what they need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import on_gpu  # noqa: F401 - skips all of this where the extra is not installed
from gpu_programs import CHAINS, PROGRAMS

# Bytes of shared memory that a program may have, on an H100 or H200.
SHARED = 232_448
# Bytes per thread that do not fit into registers, where that is known to happen; elsewhere none do.
STACK = {
    "functions": 32,  # where tan looks up digits of pi, for large angles
    "hmm-64": 32,
    "layer-norm": 192,
    "lstm-64": 32,
    "lstm-128-bf16": 64,
    "lstm-1024-one-row": 128,
}
# What has no kernel even on a GPU, by the program.
STEPPED = {"functions": {"psi of float32 within a kernel"}}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What the kernels of each program need; all are compiled in one process, which interprets nothing."""
    environ = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environ["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    script = Path(__file__).with_name("gpu_programs.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), *PROGRAMS, "chains"],
        env=environ,
        cwd=script.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kernels: dict[str, list[dict[str, Any]]] = {name: [] for name in (*PROGRAMS, "chains")}
    for line in done.stdout.splitlines():
        told = json.loads(line)
        kernels[told["program"]].append(told)
    return kernels


@pytest.mark.parametrize("program", PROGRAMS)
def test_kernels_compile_and_fit(program: str, found: dict[str, list[dict[str, Any]]]) -> None:
    assert found[program]
    for kernel in found[program]:
        assert kernel["shared"] <= SHARED, kernel
        assert kernel["stack"] <= STACK.get(program, 0), kernel
        assert set(kernel["stepped"].values()) == STEPPED.get(program, set()), kernel


def test_kernels_that_time_operations_keep_their_chains(found: dict[str, list[dict[str, Any]]]) -> None:
    assert [kernel["kernel"] for kernel in found["chains"]] == [", ".join(chain) for chain in CHAINS]
    # Tensor cores make a product in halves of its columns, and these of TF32 in two parts.
    parts = {"product, tf32": 4, "product, bf16": 2}
    for kernel in found["chains"]:
        assert kernel["instructions"] >= 8 * parts.get(kernel["kernel"], 1), kernel
        assert kernel["shared"] <= SHARED, kernel
        assert kernel["stack"] == 0, kernel
