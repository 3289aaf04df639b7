"""Instructions as lines of text say to LLVM what llvmlite's own builder says, and what is known is computed rightly."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import ir

from ostinato.backends.llvm.lines import Builder
from ostinato.backends.llvm.scalar import I1, I8, I32, I64, PTR, constant

DOUBLE = ir.DoubleType()
LANES = ir.VectorType(DOUBLE, 4)
MASK = ir.Constant(ir.VectorType(I32, 2), [3, 1])

# What a builder writes of a pointer, two integers, two floats, two vectors and a truth value.
WRITTEN: dict[str, Callable[..., Any]] = {
    **{name: lambda b, p, i, j, *_, op=name: getattr(b, op)(i, j) for name in ("add", "sub", "mul", "shl", "lshr")},
    **{name: lambda b, p, i, j, *_, op=name: getattr(b, op)(i, j) for name in ("and_", "or_", "xor", "sdiv", "urem")},
    **{name: lambda b, p, i, j, x, y, *_, op=name: getattr(b, op)(x, y) for name in ("fadd", "fsub", "fmul", "frem")},
    "flags": lambda b, p, i, j, x, y, *_: b.fmul(b.fdiv(x, y, flags=("contract",)), y, flags=("contract", "nnan")),
    "fneg": lambda b, p, i, j, x, *_: b.fneg(x),
    "not": lambda b, p, i, *_: b.not_(i),
    "neg": lambda b, p, i, *_: b.neg(i),
    "signed": lambda b, p, i, j, *_: b.icmp_signed("<=", i, j),
    "unsigned": lambda b, p, i, j, *_: b.icmp_unsigned(">", i, j),
    "equal": lambda b, p, i, j, *_: b.icmp_signed("==", i, j),
    "addresses": lambda b, p, *_: b.icmp_unsigned("!=", p, PTR(None)),
    "ordered": lambda b, p, i, j, x, y, v, w, c: b.select(b.fcmp_ordered(">=", v, w), v, w),
    "unordered": lambda b, p, i, j, x, y, *_: b.fcmp_unordered("uno", x, y),
    "select": lambda b, p, i, j, x, y, v, w, c: b.select(c, v, w),
    "casts": lambda b, p, i, *_: b.sitofp(b.sext(b.trunc(b.zext(b.trunc(i, I8), I32), I8), I64), DOUBLE),
    "bits": lambda b, p, i, j, x, *_: b.inttoptr(b.add(b.bitcast(x, I64), b.ptrtoint(p, I64)), PTR),
    "same": lambda b, p, i, *_: b.add(b.zext(i, I64), i),
    "places": lambda b, p, i, j, x, y, v, *_: b.insert_element(v, b.extract_element(v, i), I32(1)),
    "shuffle": lambda b, p, i, j, x, y, v, w, c: b.shuffle_vector(v, w, MASK),
    "memory": lambda b, p, i, *_: b.store(b.load(b.gep(p, [i], source_etype=I8), align=2, typ=I32), p, align=4),
    "lanes": lambda b, p, i, *_: b.store(b.load(b.gep(p, [i], inbounds=True, source_etype=I64), typ=LANES), p),
    "call": lambda b, p, i, *_: b.call(b.inttoptr(i, ir.FunctionType(I32, [PTR, I64]).as_pointer()), [p, i]),
    "call nothing": lambda b, p, i, *_: b.call(b.inttoptr(i, ir.FunctionType(ir.VoidType(), []).as_pointer()), []),
}


def text(builder: type, write: Callable[..., Any]) -> str:
    """What LLVM reads, with names in order."""
    module = ir.Module()
    kinds = [PTR, I64, I64, DOUBLE, DOUBLE, LANES, LANES, I1]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "f")
    b = builder(function.append_basic_block("entry"))
    write(b, *function.args)
    b.ret_void()
    names: dict[str, str] = {}
    body = str(llvm.parse_assembly(str(module)))
    return re.sub(r"%[\w.]+", lambda m: names.setdefault(m[0], f"%{len(names)}"), body)


@pytest.mark.parametrize("name", WRITTEN)
def test_lines_are_what_llvmlite_writes(name: str) -> None:
    assert text(Builder, WRITTEN[name]) == text(ir.IRBuilder, WRITTEN[name])


def branches(b: Any, p: Any, i: Any, *_: Any) -> None:
    """A loop with a rare branch, and something put before the branch that ends the first block."""
    first, head, after = b.block, b.append_basic_block("head"), b.append_basic_block("after")
    b.branch(head)
    with b.goto_entry_block():
        place = b.alloca(I64)
        b.store(i, place)
    b.position_at_end(head)
    count = b.phi(I64)
    with b.if_then(b.icmp_signed("<", count, i), likely=False):
        b.store(count, place)
    following = b.add(count, I64(1))
    count.add_incoming(I64(0), first)
    count.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, i), head, after)
    b.position_at_end(after)


def test_branches_are_what_llvmlite_writes() -> None:
    assert text(Builder, branches) == text(ir.IRBuilder, branches)


@pytest.mark.parametrize("number", [2.5, -0.0, float("nan"), float("-inf")])
def test_a_repeated_constant_is_that_in_all_lanes(number: float) -> None:
    listed, short = ir.Constant(LANES, [number] * 4), constant(LANES, number)
    assert text(Builder, lambda b, p, *_: b.store(short, p)) == text(Builder, lambda b, p, *_: b.store(listed, p))


WORDS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)
OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply,
    "and_": np.bitwise_and, "or_": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip
COMPARISONS = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "==": np.equal}


@given(WORDS, WORDS)
def test_what_is_known_is_computed_as_machines_do(a: int, b: int) -> None:
    module = ir.Module()
    block = ir.Function(module, ir.FunctionType(ir.VoidType(), []), "f").append_basic_block("entry")
    builder = Builder(block)
    x, y = I64(a), I64(b)
    with np.errstate(over="ignore"):
        for name, compute in OPERATIONS.items():
            assert getattr(builder, name)(x, y).constant == int(compute(np.int64(a), np.int64(b))), name
    for sign, compare in COMPARISONS.items():
        assert builder.icmp_signed(sign, x, y).constant == int(compare(a, b)), sign
        assert builder.icmp_unsigned(sign, x, y).constant == int(compare(a % 2**64, b % 2**64)), sign
        assert builder.select(builder.icmp_signed(sign, x, y), x, y) is (x if compare(a, b) else y)
    assert not block.instructions  # nothing was written


def test_what_changes_nothing_is_not_written() -> None:
    def write(b: Any, p: Any, i: Any, j: Any, x: Any, y: Any, v: Any, w: Any, c: Any) -> None:
        assert b.add(i, I64(0)) is b.add(I64(0), i) is b.sub(i, I64(0)) is b.mul(i, I64(1)) is b.mul(I64(1), i) is i
        assert b.and_(i, I64(-1)) is i
        assert b.and_(c, I1(1)) is c
        assert b.gep(p, [I64(0)], source_etype=I64) is p

    assert "= " not in text(Builder, write).partition("entry:")[2]
