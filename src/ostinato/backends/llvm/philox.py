"""Philox 4x32-10 in LLVM IR, on scalars and on vectors: the scalar operations `random_*` of the loop nest.

The words of 32 bits live in integers of 64, whose product of two is what the machine has an instruction for, in
vectors too. See `ostinato.ops.random` for what the operations mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from ostinato.backends.llvm.lines import Builder
from ostinato.backends.llvm.scalar import I64, constant, like
from ostinato.ops.random import MULTIPLIERS, RANDOM, ROUNDS, WEYL

_MASK = 0xFFFFFFFF
# The bits of 2**52 and of 2**84 as float64: or-ed into them, 32 bits are added to the number.
_LOW_EXPONENT, _HIGH_EXPONENT = 0x4330000000000000, 0x4530000000000000


def is_random(name: str) -> bool:
    """Whether a scalar operation is one of Philox's."""
    return name.partition(".")[0] in RANDOM


def call(b: Builder, name: str, dtype: str, args: Sequence[Any], blocks: dict[Any, Any]) -> Any:
    """An operation on integers, or vectors of them.

    Parameters
    ----------
    dtype : that of the result.
    blocks : the words of Philox by the operands they were made of; filled here. What it has must be known
        where `b` is.
    """
    op, word, *interval = name.split(".")
    key = tuple(args[:3])
    if key not in blocks:
        blocks[key] = _block(b, *key)
    low, high = blocks[key][2 * int(word) : 2 * int(word) + 2]
    if op == "random_uniform":
        return _uniform(b, dtype, interval[0], low, high)
    bits = b.or_(low, b.shl(high, like(b, high, 32)))
    return bits if op == "random_bits" else _upper_product(b, bits, args[3])


def _block(b: Builder, key: Any, high: Any, low: Any) -> tuple[Any, Any, Any, Any]:
    """Philox's four words, each in the lower half of 64 bits."""
    mask, half = like(b, low, _MASK), like(b, low, 32)
    c0, c1, c2, c3 = b.and_(low, mask), b.lshr(low, half), b.and_(high, mask), b.lshr(high, half)
    k0, k1 = b.and_(key, mask), b.lshr(key, half)
    for r in range(ROUNDS):
        if r:
            k0 = b.and_(b.add(k0, like(b, key, WEYL[0])), mask)
            k1 = b.and_(b.add(k1, like(b, key, WEYL[1])), mask)
        p0, p1 = b.mul(c0, like(b, low, MULTIPLIERS[0])), b.mul(c2, like(b, low, MULTIPLIERS[1]))
        c0, c2 = b.xor(b.xor(b.lshr(p1, half), c1), k0), b.xor(b.xor(b.lshr(p0, half), c3), k1)
        c1, c3 = b.and_(p1, mask), b.and_(p0, mask)
    return c0, c1, c2, c3


def _typed(x: Any, kind: Any) -> Any:
    """`kind`, or a vector of it where x is one."""
    return ir.VectorType(kind, x.type.count) if isinstance(x.type, ir.VectorType) else kind


def _uniform(b: Builder, dtype: str, interval: str, low: Any, high: Any) -> Any:
    """The upper 53 (float64), 24 or 32 (float32) bits as a number; exact but for the rounding of 32 bits."""
    double, single = _typed(low, ir.DoubleType()), _typed(low, ir.FloatType())
    if dtype == "float64":
        # The number is high * 2**32 + low without its last 11 bits; both halves become numbers by their exponents.
        low = b.and_(low, like(b, low, _MASK & ~0x7FF))
        upper = b.bitcast(b.or_(high, like(b, high, _HIGH_EXPONENT)), double)
        lower = b.bitcast(b.or_(low, like(b, low, _LOW_EXPONENT)), double)
        whole = b.fadd(b.fsub(upper, constant(double, 2.0**84 + 2.0**52)), lower)
        value = b.fmul(whole, constant(double, 2.0**-64))
        return value if interval == "from_zero" else b.fadd(value, constant(double, 2.0**-53))
    if interval == "from_zero":
        whole = b.trunc(b.lshr(high, like(b, high, 8)), _typed(low, ir.IntType(32)))
        return b.fmul(b.sitofp(whole, single), constant(single, 2.0**-24))
    number = b.bitcast(b.or_(high, like(b, high, _LOW_EXPONENT)), double)
    number = b.fsub(number, constant(double, 2.0**52 - 1.0))
    return b.fptrunc(b.fmul(number, constant(double, 2.0**-32)), single)


def _upper_product(b: Builder, x: Any, y: Any) -> Any:
    """The upper half of the product of two unsigned scalars of 64 bits."""
    wide = ir.IntType(128)
    product = b.mul(b.zext(x, wide), b.zext(y, wide))
    return b.trunc(b.lshr(product, ir.Constant(wide, 64)), I64)
