"""Triton's kernels in which each operation waits for the one before; `gpu_latency` times them.

Each thread of the warp has an element, or the warp two matrices. What a state becomes is what `gpu_latency.STEP` says.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def arithmetic(start, constant, result, n, AT_ONCE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Products with an addition, in one instruction."""
    lane = tl.arange(0, 32)
    x, c = tl.load(start + lane), tl.load(constant + lane)
    for _ in range(n):
        for _ in tl.static_range(AT_ONCE):
            x = x * x + c
    tl.store(result + lane, x)


@triton.jit  # type: ignore[untyped-decorator]
def quotient(start, constant, result, n, AT_ONCE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Divisions by the state."""
    lane = tl.arange(0, 32)
    x, c = tl.load(start + lane), tl.load(constant + lane)
    for _ in range(n):
        for _ in tl.static_range(AT_ONCE):
            x = c / x
    tl.store(result + lane, x)


@triton.jit  # type: ignore[untyped-decorator]
def function(start, constant, result, n, AT_ONCE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Exponentials."""
    lane = tl.arange(0, 32)
    x = tl.load(start + lane)
    for _ in range(n):
        for _ in tl.static_range(AT_ONCE):
            x = tl.exp(-x)
    tl.store(result + lane, x)


@triton.jit  # type: ignore[untyped-decorator]
def product(start, constant, result, n, AT_ONCE: tl.constexpr, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    """Products of matrices of 16 by 16 on tensor cores, whose result is a factor of the next one."""
    place = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
    x, c = tl.load(start + place), tl.load(constant + place)
    for _ in range(n):
        for _ in tl.static_range(AT_ONCE):
            if HALF:
                x = tl.dot(x.to(tl.bfloat16), c.to(tl.bfloat16))
            else:
                x = tl.dot(x, c, input_precision="tf32")
    tl.store(result + place, x)


KERNELS: dict[str, Any] = {k.__name__: k for k in (arithmetic, quotient, function, product)}
