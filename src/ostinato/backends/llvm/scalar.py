"""How each scalar operation of the loop nest is written in LLVM IR: one table.

The rules work on scalars and on vectors of floats alike. Semantics are those of the NumPy reference:
NaN passes through maximum and minimum, division of integers by zero gives 0, floor division and modulo
round towards minus infinity.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from ostinato.backends.llvm.lines import Builder
from ostinato.lower.scalarize import UnsupportedError
from ostinato.types import FLOATS, UNSIGNED

I1, I8, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
PTR = ir.PointerType()
_TYPES: dict[str, Any] = {
    "bool": I1,
    "int8": I8,
    "int16": ir.IntType(16),
    "int32": I32,
    "int64": I64,
    "uint8": I8,
    "uint16": ir.IntType(16),
    "uint32": I32,
    "uint64": I64,
    "float16": ir.HalfType(),
    "float32": ir.FloatType(),
    "float64": ir.DoubleType(),
    "ptr": PTR,
}

_SIZES = {"bool": 1, "ptr": 8}

Rule = Callable[..., Any]


def llvm_type(dtype: str) -> Any:
    """The LLVM type of a value of a dtype."""
    if dtype not in _TYPES:
        raise UnsupportedError(f"dtype {dtype} has no native form")
    return _TYPES[dtype]


def memory_type(dtype: str) -> Any:
    """The LLVM type of a dtype in memory: a truth value takes a byte."""
    return I8 if dtype == "bool" else llvm_type(dtype)


def item_size(dtype: str) -> int:
    """Bytes per element in memory."""
    return _SIZES.get(dtype) or int("".join(c for c in dtype if c.isdigit())) // 8


def is_float(dtype: str) -> bool:
    return dtype in FLOATS


def splat(builder: Builder, value: Any, width: int) -> Any:
    """A vector of equal elements."""
    vector = ir.VectorType(value.type, width)
    if isinstance(value, ir.Constant):
        return repeated(vector, value)
    single = builder.insert_element(written(vector, "undef"), value, I32(0))
    return builder.shuffle_vector(single, single, written(ir.VectorType(I32, width), "zeroinitializer"))


def like(builder: Builder, x: Any, number: float) -> Any:
    """A constant of the type of x."""
    return constant(x.type, number)


def constant(kind: Any, number: float) -> Any:
    """A constant of a type; of a vector, the same in all lanes."""
    if isinstance(kind, ir.VectorType):
        return repeated(kind, ir.Constant(kind.element, number))
    return ir.Constant(kind, number)


def repeated(vector: Any, scalar: ir.Constant) -> Any:
    """A constant in all lanes, in the short form that LLVM has from version 19 on."""
    return written(vector, f"splat ({scalar.type} {scalar.get_reference()})")


def written(kind: Any, text: str) -> Any:
    """A constant by its text."""
    value = ir.FormattedConstant(kind, "")
    value.constant = text
    return value


def _both(float_rule: Rule, int_rule: Rule) -> Rule:
    return lambda b, dtype, *args: (float_rule if is_float(dtype) else int_rule)(b, dtype, *args)


def _plain(name: str) -> Rule:
    def rule(b: Builder, dtype: str, *args: Any) -> Any:
        # float16 is computed in single precision and rounded after each operation, as NumPy does.
        return getattr(b, name)(*args, flags=() if dtype == "float16" else ("contract",))

    return rule


def _integer(name: str) -> Rule:
    return lambda b, dtype, *args: getattr(b, name)(*args)


def _add_integers(b: Builder, dtype: str, x: Any, y: Any) -> Any:
    return b.or_(x, y) if dtype == "bool" else b.add(x, y)


def _compare(symbol: str) -> Rule:
    def rule(b: Builder, dtype: str, x: Any, y: Any) -> Any:
        if is_float(dtype):  # NaN is unequal to everything, itself included
            return b.fcmp_unordered(symbol, x, y) if symbol == "!=" else b.fcmp_ordered(symbol, x, y)
        unsigned = dtype in UNSIGNED or dtype == "bool"
        return b.icmp_unsigned(symbol, x, y) if unsigned else b.icmp_signed(symbol, x, y)

    return rule


def _extreme(symbol: str) -> Rule:
    def rule(b: Builder, dtype: str, x: Any, y: Any) -> Any:
        wins = _compare(symbol)(b, dtype, x, y)
        if is_float(dtype):
            wins = b.or_(wins, b.fcmp_unordered("uno", x, x))
        return b.select(wins, x, y)

    return rule


def _sign(b: Builder, dtype: str, x: Any) -> Any:
    zero = like(b, x, 0)
    negative = b.select(_compare("<")(b, dtype, x, zero), like(b, x, -1), x)
    positive = b.select(_compare(">")(b, dtype, x, zero), like(b, x, 1), negative)
    return b.select(_compare("==")(b, dtype, x, zero), zero, positive)


def _abs(b: Builder, dtype: str, x: Any) -> Any:
    if is_float(dtype):
        return intrinsic(b, "fabs", x)
    if dtype in UNSIGNED:
        return x
    return b.select(b.icmp_signed("<", x, like(b, x, 0)), b.neg(x), x)


def intrinsic(b: Builder, name: str, *args: Any) -> Any:
    """A call of `llvm.name` on floats, or vectors of floats, of one type."""
    symbol = f"llvm.{name}.{_suffix(args[0].type)}"
    function = b.module.globals.get(symbol)
    if function is None:
        function = ir.Function(b.module, ir.FunctionType(args[0].type, [a.type for a in args]), symbol)
    return b.call(function, args)


def _suffix(type_: Any) -> str:
    if isinstance(type_, ir.VectorType):
        return f"v{type_.count}{_suffix(type_.element)}"
    return {ir.HalfType(): "f16", ir.FloatType(): "f32"}.get(type_, "f64")


def _float_divmod(b: Builder, x: Any, y: Any) -> tuple[Any, Any]:
    """Quotient and remainder with the sign of the divisor, as NumPy computes them."""
    zero = like(b, x, 0.0)
    rest = b.frem(x, y)
    quotient = b.fdiv(b.fsub(x, rest), y)
    nonzero = b.fcmp_unordered("!=", rest, zero)
    mixed = b.xor(b.fcmp_ordered("<", y, zero), b.fcmp_ordered("<", rest, zero))
    adjust = b.and_(nonzero, mixed)
    rest = b.select(adjust, b.fadd(rest, y), b.select(nonzero, rest, intrinsic(b, "copysign", zero, y)))
    quotient = b.select(adjust, b.fsub(quotient, like(b, x, 1.0)), quotient)
    low = intrinsic(b, "floor", quotient)
    above = b.fcmp_ordered(">", b.fsub(quotient, low), like(b, x, 0.5))
    rounded = b.select(above, b.fadd(low, like(b, x, 1.0)), low)
    is_zero = b.fcmp_ordered("==", quotient, zero)
    rounded = b.select(is_zero, intrinsic(b, "copysign", zero, b.fdiv(x, y)), rounded)
    by_zero = b.fcmp_ordered("==", y, zero)
    return b.select(by_zero, b.fdiv(x, y), rounded), rest


def _int_divmod(b: Builder, dtype: str, x: Any, y: Any) -> tuple[Any, Any]:
    """As NumPy: rounded down; 0 for a divisor of 0. No operands trap."""
    zero, one = like(b, x, 0), like(b, x, 1)
    by_zero = b.icmp_unsigned("==", y, zero)
    if dtype in UNSIGNED:
        safe = b.select(by_zero, one, y)
        return b.select(by_zero, zero, b.udiv(x, safe)), b.select(by_zero, zero, b.urem(x, safe))
    by_minus_one = b.icmp_signed("==", y, like(b, x, -1))  # the smallest number has no opposite: no sdiv
    safe = b.select(b.or_(by_zero, by_minus_one), one, y)
    quotient, rest = b.sdiv(x, safe), b.srem(x, safe)
    mixed = b.icmp_signed("<", b.xor(rest, safe), zero)
    adjust = b.and_(b.icmp_signed("!=", rest, zero), mixed)
    quotient = b.select(adjust, b.sub(quotient, one), quotient)
    rest = b.select(adjust, b.add(rest, safe), rest)
    quotient = b.select(by_minus_one, b.neg(x), b.select(by_zero, zero, quotient))
    return quotient, b.select(b.or_(by_zero, by_minus_one), zero, rest)


def _floor_div(b: Builder, dtype: str, x: Any, y: Any) -> Any:
    return _float_divmod(b, x, y)[0] if is_float(dtype) else _int_divmod(b, dtype, x, y)[0]


def _mod(b: Builder, dtype: str, x: Any, y: Any) -> Any:
    return _float_divmod(b, x, y)[1] if is_float(dtype) else _int_divmod(b, dtype, x, y)[1]


def _isinf(b: Builder, dtype: str, x: Any) -> Any:
    return b.fcmp_ordered("==", intrinsic(b, "fabs", x), like(b, x, float("inf")))


def _logical_not(b: Builder, dtype: str, x: Any) -> Any:
    return b.xor(x, like(b, x, 1))


# On operands of one dtype, which is handed to the rule.
RULES: dict[str, Rule] = {
    "add": _both(_plain("fadd"), _add_integers),
    "sub": _both(_plain("fsub"), _integer("sub")),
    "mul": _both(_plain("fmul"), _integer("mul")),
    "true_div": _plain("fdiv"),
    "floor_div": _floor_div,
    "mod": _mod,
    "neg": _both(lambda b, d, x: b.fneg(x), _integer("neg")),
    "abs": _abs,
    "sign": _sign,
    "maximum": _extreme(">"),
    "minimum": _extreme("<"),
    "lt": _compare("<"),
    "le": _compare("<="),
    "gt": _compare(">"),
    "ge": _compare(">="),
    "eq": _compare("=="),
    "neq": _compare("!="),
    "isnan": lambda b, d, x: b.fcmp_unordered("uno", x, x),
    "isinf": _isinf,
    "logical_not": _logical_not,
    "and": _integer("and_"),
    "or": _integer("or_"),
    "xor": _integer("xor"),
    "invert": lambda b, d, x: b.xor(x, like(b, x, -1 if d != "bool" else 1)),
    "sqrt": lambda b, d, x: intrinsic(b, "sqrt", x),
    "floor": lambda b, d, x: intrinsic(b, "floor", x),
    "ceil": lambda b, d, x: intrinsic(b, "ceil", x),
    "trunc": lambda b, d, x: intrinsic(b, "trunc", x),
    "round": lambda b, d, x: intrinsic(b, "roundeven", x),
}

_FLOATS_ONLY = {"true_div", "isnan", "isinf", "sqrt", "floor", "ceil", "trunc", "round"}
_NO_FLOATS = {"and", "or", "xor", "invert"}
_ON_FLOAT16 = {
    "add", "sub", "mul", "true_div", "neg", "abs", "maximum", "minimum", "isnan", "isinf", "sqrt",
    "lt", "le", "gt", "ge", "eq", "neq",
}  # fmt: skip


def has_rule(name: str, dtype: str) -> bool:
    """Whether an operation of `RULES` is meant for operands of a dtype."""
    if dtype == "float16":
        return name in _ON_FLOAT16 and _has_float16()
    if name == "logical_not":
        return dtype == "bool"
    return name not in (_NO_FLOATS if is_float(dtype) else _FLOATS_ONLY)


@cache
def _has_float16() -> bool:
    """Whether the machine converts float16; elsewhere LLVM would call a library that may not be there."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    return bool(llvm.get_host_cpu_features().get("f16c"))


# ---- integer powers -------------------------------------------------------------------------------


def integer_power(b: Builder, dtype: str, x: Any, y: Any) -> Any:
    """x ** y for integers and y >= 0, modulo the range of the dtype: one function per width, by squaring."""
    name = f"ostinato.power.{x.type}"
    function = b.module.globals.get(name) or _write_power(b.module, name, x.type)
    return b.call(function, [x, y])


def _write_power(module: ir.Module, name: str, kind: Any) -> Any:
    function = ir.Function(module, ir.FunctionType(kind, [kind, kind]), name)
    function.linkage = "internal"
    entry, step, done = (function.append_basic_block(n) for n in ("entry", "step", "done"))
    x, y = function.args
    one, zero = ir.Constant(kind, 1), ir.Constant(kind, 0)
    b = Builder(entry)
    b.cbranch(b.icmp_unsigned("==", y, zero), done, step)
    b.position_at_end(step)
    base, left, product = (b.phi(kind) for _ in range(3))
    multiplied = b.select(b.trunc(left, I1), b.mul(product, base), product)
    nexts = b.mul(base, base), b.lshr(left, one), multiplied
    for phi, first, following in zip((base, left, product), (x, y, one), nexts, strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(following, step)
    b.cbranch(b.icmp_unsigned("==", nexts[1], zero), done, step)
    b.position_at_end(done)
    result = b.phi(kind)
    result.add_incoming(one, entry)
    result.add_incoming(multiplied, step)
    b.ret(result)
    return function


# ---- conversion -----------------------------------------------------------------------------------


def can_convert(source: str, target: str) -> bool:
    """Whether `convert` is meant for these dtypes."""
    if "float16" not in (source, target):
        return True
    # From float64 to float16 there is no instruction, and by way of float32 it would round twice.
    return _has_float16() and (source, target) != ("float64", "float16")


def convert(b: Builder, x: Any, source: str, target: str) -> Any:
    """A scalar of one dtype, or a vector of them, in another one, as NumPy's astype."""
    if source == target:
        return x
    if target == "float16" and source != "float32":
        return convert(b, convert(b, x, source, "float32"), "float32", target)
    if source == "float16" and target != "float32":
        return convert(b, convert(b, x, source, "float32"), "float32", target)
    if target == "bool":
        return RULES["neq"](b, source, x, like(b, x, 0))
    to, bits = _like_type(x, llvm_type(target)), None if is_float(target) else llvm_type(target).width
    if is_float(source):
        if is_float(target):
            widens = FLOATS.index(source) < FLOATS.index(target)
            return b.fpext(x, to) if widens else b.fptrunc(x, to)
        if target == "uint64":
            return b.fptoui(x, to)
        wide = b.fptosi(x, _like_type(x, I64))  # narrow targets take the low bits, as the C compiler's casts do
        return wide if bits == 64 else b.trunc(wide, to)
    unsigned = source in UNSIGNED or source == "bool"
    if is_float(target):
        return b.uitofp(x, to) if unsigned else b.sitofp(x, to)
    own = llvm_type(source).width
    if bits == own:
        return x
    if bits < own:
        return b.trunc(x, to)
    return b.zext(x, to) if unsigned else b.sext(x, to)


def _like_type(x: Any, kind: Any) -> Any:
    """A scalar type; or, for a vector, that of a vector of as many."""
    return ir.VectorType(kind, x.type.count) if isinstance(x.type, ir.VectorType) else kind
