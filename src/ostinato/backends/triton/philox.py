"""Random numbers on the device: Philox on torch's tensors, and its text in kernels. See `ostinato.ops.random`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ostinato.backends.triton.tensors import RULES, torch_dtype
from ostinato.graph import Node
from ostinato.ops.op import params_of
from ostinato.ops.random import MULTIPLIERS, ROUNDS, WEYL

_MASK = 0xFFFFFFFF

# ---- tensors --------------------------------------------------------------------------------------


def _upper(x: Any) -> Any:
    """The upper 32 bits of 64, as a number without a sign."""
    return (x >> 32) & _MASK


def _words(key: Any, high: Any, low: Any) -> tuple[Any, Any, Any, Any]:
    """Philox's words, in int64; products of 64 bits keep theirs, with whatever sign."""
    c0, c1, c2, c3 = low & _MASK, _upper(low), high & _MASK, _upper(high)
    k0, k1 = key & _MASK, _upper(key)
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = _upper(p1) ^ c1 ^ k0, p1 & _MASK, _upper(p0) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + WEYL[0]) & _MASK, (k1 + WEYL[1]) & _MASK
    return torch.broadcast_tensors(c0, c1, c2, c3)


def _bits(key: Any, high: Any, low: Any, *, word: int) -> Any:
    lower, upper = _words(key, high, low)[2 * word : 2 * word + 2]
    return lower | (upper << 32)


def _uniform(key: Any, high: Any, low: Any, *, dtype: str, word: int, interval: str) -> Any:
    lower, upper = _words(key, high, low)[2 * word : 2 * word + 2]
    one = interval == "to_one"
    if dtype == "float64":
        return (((upper << 21) | (lower >> 11)) + one).to(torch.float64) * 2.0**-53
    whole, n = (upper + 1, 32) if one else (upper >> 8, 24)
    return (whole.to(torch.float64) * 2.0**-n).to(torch_dtype(dtype))


def _below(key: Any, high: Any, low: Any, n: Any, *, word: int) -> Any:
    x, y = _words(key, high, low)[2 * word : 2 * word + 2]
    a, b = n & _MASK, _upper(n)
    middle = y * a + _upper(x * a)
    carry = (middle & _MASK) + x * b
    return y * b + _upper(middle) + _upper(carry)


RULES.update({"random_bits": _bits, "random_uniform": _uniform, "random_below": _below})


# ---- kernels --------------------------------------------------------------------------------------

TEXT = """

@triton.jit
def random_words(key, high, low, word: tl.constexpr):
    nothing = (key + high + low) * 0
    key, high, low = key + nothing, high + nothing, low + nothing
    c0, c1 = (low & 0xFFFFFFFF).to(tl.uint32), ((low >> 32) & 0xFFFFFFFF).to(tl.uint32)
    c2, c3 = (high & 0xFFFFFFFF).to(tl.uint32), ((high >> 32) & 0xFFFFFFFF).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(key, c0, c1, c2, c3, 10)
    if word == 0:
        return w0.to(tl.uint64), w1.to(tl.uint64)
    else:
        return w2.to(tl.uint64), w3.to(tl.uint64)


@triton.jit
def random_bits(key, high, low, word: tl.constexpr):
    lower, upper = random_words(key, high, low, word)
    return (lower | (upper << 32)).to(tl.int64)


@triton.jit
def random_below(key, high, low, n, word: tl.constexpr):
    lower, upper = random_words(key, high, low, word)
    bits, n = tl.broadcast(lower | (upper << 32), n.to(tl.uint64))
    return tl.umulhi(bits, n).to(tl.int64)


@triton.jit
def random_float64(key, high, low, word: tl.constexpr, one: tl.constexpr):
    lower, upper = random_words(key, high, low, word)
    return (((upper << 21) | (lower >> 11)) + one).to(tl.float64) * 1.1102230246251565e-16


@triton.jit
def random_float32(key, high, low, word: tl.constexpr, one: tl.constexpr):
    lower, upper = random_words(key, high, low, word)
    if one:
        return (upper + 1).to(tl.float32) * 2.3283064365386963e-10
    else:
        return (upper >> 8).to(tl.float32) * 5.9604644775390625e-08
"""


def text(node: Node, operands: Sequence[str]) -> str:
    """A call of the functions of `TEXT`, for operands that are tiles."""
    params, name = params_of(node), node.op.name
    args = [*operands, str(params["word"])]
    if name == "random_uniform":
        name = f"random_{params['dtype']}"
        args.append("1" if params["interval"] == "to_one" else "0")
    return f"{name}({', '.join(args)})"
