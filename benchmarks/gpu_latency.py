"""How long an operation takes that waits for the one before: measured on the device, with chains of nothing else.

On a GPU the chains are Triton's kernels, of one warp; on a CPU, loops in Ostinato's native code. The time of
an operation is the difference of a long and a short chain, so that launches and calls do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import ostinato
import ostinato.tensor as T
from gpu_chains import INNER, OPERATIONS, kind_of_product
from gpu_workloads.base import Task

ROUNDS = 5
AT_ONCE = 8  # operations in one round of a kernel's loop
SHORT, LONG = 1_600, 16_000  # rounds of a kernel's loop; multiples of 16, which Triton compiles for
STEPS = {"arithmetic": 100_000, "quotient": 50_000, "function": 50_000, "product": 5_000}  # of a loop on the CPU

# A state, a constant, and what a state becomes; by these numbers it goes on for ever, neither 0 nor infinite.
START = {"arithmetic": (0.3, 0.1), "quotient": (2.0, 3.0), "function": (0.3, 0.0), "product": (1.0, 1 / INNER)}
STEP: dict[str, Callable[[Any, Any], Any]] = {
    "arithmetic": lambda x, c: x * x + c,
    "quotient": lambda x, c: c / x,
    "function": lambda x, c: T.exp(-x),
    "product": T.dot,
}

Measured = dict[str, dict[str, float]]


def measured(tasks: Iterable[Task], on_gpu: bool) -> Measured:
    """Seconds of each operation by dtype, and of a product by its precision, as far as tasks need them."""
    found: Measured = {}
    for task in tasks:
        if task.dtype not in found:
            found[task.dtype] = {name: measure(name, task.dtype, on_gpu) for name in OPERATIONS[:-1]}
        kind = kind_of_product(task)
        if task.has_products and kind not in found:
            found[kind] = {"product": measure("product", kind, on_gpu)}
    return found


def measure(operation: str, kind: str, on_gpu: bool) -> float:
    """Seconds of one operation, for a dtype or the precision of a product."""
    run, short, long, at_once = (_gpu_chain if on_gpu else _cpu_chain)(operation, kind)
    run(short)
    times = [[_clocked(run, n) for n in (short, long)] for _ in range(ROUNDS)]
    short_took, long_took = np.min(times, axis=0)
    return max(1e-12, float(long_took - short_took) / ((long - short) * at_once))


def _clocked(run: Callable[[int], Any], n: int) -> float:
    start = time.perf_counter()
    run(n)
    return time.perf_counter() - start


def _cpu_chain(operation: str, kind: str) -> tuple[Callable[[int], Any], int, int, int]:
    """A loop of numbers, or of a matrix of the size of a product, and how many steps are short and long."""
    dtype = kind if kind in ("float32", "float64") else "float32"
    shape = (INNER, INNER) if operation == "product" else ()
    x0, c, n = T.tensor(dtype, shape, "x0"), T.tensor(dtype, shape, "c"), T.iscalar("n")
    x, _ = ostinato.scan(STEP[operation], outputs_info=x0, non_sequences=c, n_steps=n)
    f = ostinato.function([x0, c, n], x[-1], mode="native", on_unused_input="ignore")
    values = [np.full(shape, v, dtype) for v in START[operation]]
    return lambda n: f(*values, n), STEPS[operation] // 10, STEPS[operation], 1


def _gpu_chain(
    operation: str, kind: str, device: str = "cuda", at_once: int = AT_ONCE
) -> tuple[Callable[[int], Any], int, int, int]:
    """A kernel of one warp on elements, or on the matrices of a product, and how many rounds are short and long."""
    import torch

    from gpu_kernels import KERNELS

    dtype = getattr(torch, kind if kind in ("float32", "float64") else "float32")
    start, constant = (torch.full((INNER, INNER), v, dtype=dtype, device=device) for v in START[operation])
    result = torch.empty_like(start)
    options: dict[str, Any] = {"HALF": kind == "bf16"} if operation == "product" else {}

    def run(n: int) -> Any:
        KERNELS[operation][(1,)](
            start, constant, result, n, AT_ONCE=at_once, **options, num_warps=1, enable_fp_fusion=True
        )
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    return run, SHORT, LONG, at_once
