"""How `vector_math` writes its functions: floating-point lanes with operators that emit LLVM IR.

A `Float` is a value of the function under construction, one number or a vector; `x * x + 1.0` emits two
instructions. An `Emitter` knows the type, its constants and the instructions that have no operator.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from llvmlite import ir

from ostinato.backends.llvm.lines import Builder
from ostinato.backends.llvm.scalar import repeated
from ostinato.backends.llvm.vector_math_tables import DOUBLE, SINGLE, Tables


def suffix(type_: ir.Type) -> str:
    """What LLVM calls a type in the names of intrinsics: f64, v4f32."""
    if isinstance(type_, ir.VectorType):
        return f"v{type_.count}{type_.element.intrinsic_name}"
    return str(type_.intrinsic_name)


class Emitter:
    """Emits instructions on values of one floating-point type, and knows that type's constants."""

    def __init__(self, builder: Builder, type_: ir.Type) -> None:
        self.builder = builder
        self.type = type_
        self.lanes: int | None = type_.count if isinstance(type_, ir.VectorType) else None
        self.scalar = type_ if self.lanes is None else type_.element
        self.double = isinstance(self.scalar, ir.DoubleType)
        self.tables: Tables = DOUBLE if self.double else SINGLE
        self.mantissa = 52 if self.double else 23  # explicit bits of it
        self.bias = 1023 if self.double else 127  # of exponents
        self.smallest_normal = 2.0 ** (1 - self.bias)
        self.integer = self.across(ir.IntType(64 if self.double else 32))
        # Adding this to a number rounds it to an integer, which is then in the low bits of the sum.
        self.rounder = 1.5 * 2.0**self.mantissa

    def across(self, scalar: ir.Type) -> ir.Type:
        """The type with as many lanes and another element."""
        return scalar if self.lanes is None else ir.VectorType(scalar, self.lanes)

    def pick(self, double: float, single: float) -> float:
        """One of two numbers, by the precision."""
        return double if self.double else single

    def splat(self, type_: ir.Type, scalar: ir.Constant) -> ir.Constant:
        """A constant in all lanes."""
        return scalar if self.lanes is None else repeated(type_, scalar)

    def const(self, x: float) -> Float:
        return Float(self, self.splat(self.type, ir.Constant(self.scalar, x)))

    def int_const(self, n: int) -> ir.Constant:
        scalar = self.integer if self.lanes is None else self.integer.element
        return self.splat(self.integer, ir.Constant(scalar, n))

    def bits_of(self, x: float) -> int:
        """The bits of a constant, as an integer."""
        form = "<d" if self.double else "<f"
        return int.from_bytes(struct.pack(form, x), "little")

    def lift(self, x: Float | float) -> Float:
        return x if isinstance(x, Float) else self.const(x)

    def intrinsic(self, name: str, *operands: ir.Value) -> ir.Value:
        symbol = f"llvm.{name}.{suffix(self.type)}"
        function = self.builder.module.globals.get(symbol)
        if function is None:
            kind = ir.FunctionType(self.type, [self.type] * len(operands))
            function = ir.Function(self.builder.module, kind, symbol)
        return self.builder.call(function, operands)

    def fma(self, a: Float, b: Float | float, c: Float | float) -> Float:
        """a b + c, rounded once."""
        return Float(self, self.intrinsic("fma", a.value, self.lift(b).value, self.lift(c).value))

    def mad(self, a: Float, b: Float | float, c: Float | float) -> Float:
        """a b + c, rounded once or twice, whichever is faster."""
        return Float(self, self.intrinsic("fmuladd", a.value, self.lift(b).value, self.lift(c).value))

    def polynomial(self, x: Float, coefficients: Sequence[float]) -> Float:
        """By Estrin's scheme: pairs, pairs of pairs and so on, so that few operations wait for each other."""
        terms: list[Float] = [self.const(c) for c in coefficients]
        power = x
        while len(terms) > 1:
            pairs = [self.mad(terms[i + 1], power, terms[i]) for i in range(0, len(terms) - 1, 2)]
            terms = pairs + terms[2 * len(pairs) :]
            if len(terms) > 1:
                power = power * power
        return terms[0]

    def where(self, condition: ir.Value, x: Float | float, y: Float | float) -> Float:
        return Float(self, self.builder.select(condition, self.lift(x).value, self.lift(y).value))

    def power_of_two(self, n: ir.Value) -> Float:
        """2^n for an integer in the low bits of n; infinity for 2^(bias + 1), 0 for 2^-bias."""
        shifted = self.builder.shl(n, self.int_const(self.mantissa))
        return self.from_bits(self.builder.add(shifted, self.int_const(self.bias << self.mantissa)))

    def from_bits(self, bits: ir.Value) -> Float:
        return Float(self, self.builder.bitcast(bits, self.type))

    def any(self, condition: ir.Value) -> ir.Value:
        """Whether a condition is true in any lane."""
        if self.lanes is None:
            return condition
        packed = self.builder.bitcast(condition, ir.IntType(self.lanes))
        return self.builder.icmp_unsigned("!=", packed, ir.Constant(packed.type, 0))


class Float:
    """A float, or a vector of them, in the function that is being emitted. Operators emit instructions."""

    __slots__ = ("emitter", "value")

    def __init__(self, emitter: Emitter, value: ir.Value) -> None:
        self.emitter = emitter
        self.value = value

    def _binary(self, op: str, x: Float | float, y: Float | float) -> Float:
        m = self.emitter
        return Float(m, getattr(m.builder, op)(m.lift(x).value, m.lift(y).value))

    def __add__(self, other: Float | float) -> Float:
        return self._binary("fadd", self, other)

    def __radd__(self, other: float) -> Float:
        return self._binary("fadd", other, self)

    def __sub__(self, other: Float | float) -> Float:
        return self._binary("fsub", self, other)

    def __rsub__(self, other: float) -> Float:
        return self._binary("fsub", other, self)

    def __mul__(self, other: Float | float) -> Float:
        return self._binary("fmul", self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Float | float) -> Float:
        return self._binary("fdiv", self, other)

    def __rtruediv__(self, other: float) -> Float:
        return self._binary("fdiv", other, self)

    def __neg__(self) -> Float:
        return Float(self.emitter, self.emitter.builder.fneg(self.value))

    def __abs__(self) -> Float:
        return self._intrinsic("fabs")

    def __lt__(self, other: Float | float) -> ir.Value:
        return self.compare("<", other)

    def __gt__(self, other: Float | float) -> ir.Value:
        return self.compare(">", other)

    def __ge__(self, other: Float | float) -> ir.Value:
        return self.compare(">=", other)

    def compare(self, op: str, other: Float | float) -> ir.Value:
        """An ordered comparison, false if either is NaN."""
        return self.emitter.builder.fcmp_ordered(op, self.value, self.emitter.lift(other).value)

    def equals(self, other: Float | float) -> ir.Value:
        return self.compare("==", other)

    def _intrinsic(self, name: str, *others: Float) -> Float:
        return Float(self.emitter, self.emitter.intrinsic(name, self.value, *[o.value for o in others]))

    def sqrt(self) -> Float:
        return self._intrinsic("sqrt")

    def trunc(self) -> Float:
        return self._intrinsic("trunc")

    def copysign(self, sign: Float) -> Float:
        return self._intrinsic("copysign", sign)

    def at_most(self, bound: float) -> Float:
        return self.emitter.where(self > bound, bound, self)

    def at_least(self, bound: float) -> Float:
        return self.emitter.where(self < bound, bound, self)

    def bits(self) -> ir.Value:
        return self.emitter.builder.bitcast(self.value, self.emitter.integer)

    def has_sign(self) -> ir.Value:
        """Whether the sign is set, be it of a zero."""
        return self.emitter.builder.icmp_signed("<", self.bits(), self.emitter.int_const(0))
