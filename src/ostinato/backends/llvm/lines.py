"""Instructions as lines of text: a builder that is called as llvmlite's is, and takes a fraction of its time.

llvmlite keeps instructions as objects that can be changed, and writes them out at the end. Here nothing is changed
once it is made, so that an instruction is the line that it will be in the text, its type and its name. What is rare
(stack slots, atomics, aggregates) is left to llvmlite; both kinds stand in the blocks of llvmlite's functions.

Integers that are known are computed at once, and an address that is not moved stays what it is.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

_VOID, _BIT = ir.VoidType(), ir.IntType(1)
_SIGNS = {">": "gt", "<": "lt", ">=": "ge", "<=": "le", "==": "eq", "!=": "ne"}
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    ">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


class Line(ir.Value):  # type: ignore[misc]
    """An instruction: its type, how others refer to it, and its text."""

    __slots__ = ("_name", "_text", "type")

    def __init__(self, type_: Any, name: str, text: str) -> None:
        self.type, self._name, self._text = type_, name, text

    def get_reference(self) -> str:
        """How others refer to it."""
        return self._name

    def __str__(self) -> str:
        return self._text

    @property
    def function_type(self) -> Any:
        """The type of the function that lies at this address."""
        return self.type.pointee


class Phi(Line):
    """What a block gets from those before it; they are told when they are there."""

    __slots__ = ("_incoming",)

    def __init__(self, type_: Any, name: str) -> None:
        super().__init__(type_, name, "")
        self._incoming: list[str] = []

    def add_incoming(self, value: Any, block: Any) -> None:
        """The value that comes from a block."""
        self._incoming.append(f"[{value.get_reference()}, {block.get_reference()}]")

    def __str__(self) -> str:
        return f"{self._name} = phi {self.type} {', '.join(self._incoming)}"


class Branch(Line):
    """A branch to one of two blocks."""

    __slots__ = ("_module",)

    def __init__(self, text: str, module: Any) -> None:
        super().__init__(_VOID, "", text)
        self._module = module

    def set_weights(self, weights: Sequence[int]) -> None:
        """How often each of the two is taken, in proportion."""
        words = [ir.MetaDataString(self._module, "branch_weights"), *[ir.Constant(ir.IntType(32), w) for w in weights]]
        self._text += f", !prof {self._module.add_metadata(words).get_reference()}"


class Builder(ir.IRBuilder):  # type: ignore[misc]
    """Writes instructions, at the end of a block unless it was sent elsewhere."""

    def __init__(self, block: Any) -> None:
        super().__init__(block)
        self._at_end = True
        if not hasattr(block.scope, "numbers"):  # of the function
            block.scope.numbers = itertools.count(1)

    def _insert(self, line: Any) -> None:
        if self._at_end:
            self._block.instructions.append(line)
        else:
            super()._insert(line)

    def position_at_end(self, block: Any) -> None:
        """Go on at the end of a block."""
        self._block, self._at_end = block, True

    def position_after_phis(self, block: Any) -> None:
        """Go on where a block begins to compute."""
        self._block, self._at_end = block, False
        self._anchor = next(
            (k for k, line in enumerate(block.instructions) if not isinstance(line, Phi)), len(block.instructions)
        )

    def position_at_start(self, block: Any) -> None:
        """Go on at the start of a block."""
        self._at_end = False
        super().position_at_start(block)

    @contextmanager
    def goto_block(self, block: Any) -> Iterator[None]:
        """Write at the end of another block for a while, before the branch with which it may end."""
        before = self._block
        self._block, self._at_end = block, block.terminator is None
        self._anchor = len(block.instructions) - 1
        try:
            yield
        finally:
            self.position_at_end(before)

    def _line(self, type_: Any, text: str) -> Line:
        name = f"%v{next(self._block.scope.numbers)}"
        line = Line(type_, name, f"{name} = {text}")
        self._insert(line)
        return line

    def _binary(self, op: str, x: Any, y: Any) -> Line:
        return self._line(x.type, f"{op} {x.type} {x.get_reference()}, {y.get_reference()}")

    def _integers(self, op: str, compute: Callable[[int, int], int], x: Any, y: Any) -> Any:
        a, b = _known(x), _known(y)
        return self._binary(op, x, y) if a is None or b is None else _wrapped(x.type, compute(a, b))

    # ---- integers ----

    def add(self, lhs: Any, rhs: Any) -> Any:
        """lhs + rhs."""
        if _known(rhs) == 0:
            return lhs
        return rhs if _known(lhs) == 0 else self._integers("add", operator.add, lhs, rhs)

    def sub(self, lhs: Any, rhs: Any) -> Any:
        """lhs - rhs."""
        return lhs if _known(rhs) == 0 else self._integers("sub", operator.sub, lhs, rhs)

    def mul(self, lhs: Any, rhs: Any) -> Any:
        """lhs * rhs."""
        if _known(rhs) == 1:
            return lhs
        return rhs if _known(lhs) == 1 else self._integers("mul", operator.mul, lhs, rhs)

    def and_(self, lhs: Any, rhs: Any) -> Any:
        """lhs & rhs."""
        if _all_set(rhs):
            return lhs
        return self._integers("and", operator.and_, lhs, rhs)

    def or_(self, lhs: Any, rhs: Any) -> Any:
        """lhs | rhs."""
        return self._integers("or", operator.or_, lhs, rhs)

    def xor(self, lhs: Any, rhs: Any) -> Any:
        """lhs ^ rhs."""
        return self._integers("xor", operator.xor, lhs, rhs)

    def shl(self, lhs: Any, rhs: Any) -> Any:
        """lhs shifted to higher bits."""
        return self._binary("shl", lhs, rhs)

    def lshr(self, lhs: Any, rhs: Any) -> Any:
        """lhs shifted to lower bits, zeros behind."""
        return self._binary("lshr", lhs, rhs)

    def not_(self, value: Any) -> Any:
        """All bits the other way."""
        return self.xor(value, ir.Constant(value.type, [-1] * value.type.count if _is_vector(value.type) else -1))

    def neg(self, value: Any) -> Any:
        """-value."""
        return self.sub(ir.Constant(value.type, [0] * value.type.count if _is_vector(value.type) else 0), value)

    def icmp_signed(self, cmpop: str, lhs: Any, rhs: Any) -> Any:
        """A comparison of signed integers."""
        return self._icmp("s", cmpop, lhs, rhs)

    def icmp_unsigned(self, cmpop: str, lhs: Any, rhs: Any) -> Any:
        """A comparison of unsigned integers, or of addresses."""
        return self._icmp("u", cmpop, lhs, rhs)

    def _icmp(self, prefix: str, cmpop: str, x: Any, y: Any) -> Any:
        a, b = _known(x), _known(y)
        if a is not None and b is not None:
            bits, half = (1 << x.type.width) - 1, 1 << x.type.width - 1 if prefix == "s" else 0
            pair = [((n & bits) ^ half) - half for n in (a, b)]
            return _BIT(int(_COMPARISONS[cmpop](*pair)))
        sign = _SIGNS[cmpop] if cmpop in ("==", "!=") else prefix + _SIGNS[cmpop]
        return self._compare(f"icmp {sign}", x, y)

    def _compare(self, op: str, x: Any, y: Any) -> Line:
        kind = ir.VectorType(_BIT, x.type.count) if _is_vector(x.type) else _BIT
        return self._line(kind, f"{op} {x.type} {x.get_reference()}, {y.get_reference()}")

    # ---- floats ----

    def fadd(self, lhs: Any, rhs: Any, flags: Sequence[str] = ()) -> Any:
        """lhs + rhs."""
        return self._binary(" ".join(("fadd", *flags)), lhs, rhs)

    def fsub(self, lhs: Any, rhs: Any, flags: Sequence[str] = ()) -> Any:
        """lhs - rhs."""
        return self._binary(" ".join(("fsub", *flags)), lhs, rhs)

    def fmul(self, lhs: Any, rhs: Any, flags: Sequence[str] = ()) -> Any:
        """lhs * rhs."""
        return self._binary(" ".join(("fmul", *flags)), lhs, rhs)

    def fdiv(self, lhs: Any, rhs: Any, flags: Sequence[str] = ()) -> Any:
        """lhs / rhs."""
        return self._binary(" ".join(("fdiv", *flags)), lhs, rhs)

    def fneg(self, arg: Any) -> Any:
        """-arg."""
        return self._line(arg.type, f"fneg {arg.type} {arg.get_reference()}")

    def fcmp_ordered(self, cmpop: str, lhs: Any, rhs: Any) -> Any:
        """A comparison, false if either is NaN."""
        return self._compare(f"fcmp {'o' + _SIGNS[cmpop] if cmpop in _SIGNS else cmpop}", lhs, rhs)

    def fcmp_unordered(self, cmpop: str, lhs: Any, rhs: Any) -> Any:
        """A comparison, true if either is NaN."""
        return self._compare(f"fcmp {'u' + _SIGNS[cmpop] if cmpop in _SIGNS else cmpop}", lhs, rhs)

    # ---- any values ----

    def select(self, cond: Any, lhs: Any, rhs: Any) -> Any:
        """One of two values."""
        known = _known(cond)
        if known is not None:
            return lhs if known else rhs
        x, y = f"{lhs.type} {lhs.get_reference()}", f"{rhs.type} {rhs.get_reference()}"
        return self._line(lhs.type, f"select {cond.type} {cond.get_reference()}, {x}, {y}")

    def _cast(self, op: str, value: Any, typ: Any) -> Any:
        if value.type == typ:
            return value
        return self._line(typ, f"{op} {value.type} {value.get_reference()} to {typ}")

    def trunc(self, value: Any, typ: Any) -> Any:
        """The low bits."""
        return self._cast("trunc", value, typ)

    def zext(self, value: Any, typ: Any) -> Any:
        """More bits, zeros."""
        return self._cast("zext", value, typ)

    def sext(self, value: Any, typ: Any) -> Any:
        """More bits, those of the sign."""
        return self._cast("sext", value, typ)

    def bitcast(self, value: Any, typ: Any) -> Any:
        """The same bits as another type."""
        return self._cast("bitcast", value, typ)

    def ptrtoint(self, value: Any, typ: Any) -> Any:
        """An address as a number."""
        return self._cast("ptrtoint", value, typ)

    def inttoptr(self, value: Any, typ: Any) -> Any:
        """A number as an address."""
        return self._cast("inttoptr", value, typ)

    # ---- vectors ----

    def insert_element(self, vector: Any, value: Any, idx: Any) -> Any:
        """The vector with another element at a place."""
        return self._line(vector.type, f"insertelement {_typed(vector)}, {_typed(value)}, {_typed(idx)}")

    def extract_element(self, vector: Any, idx: Any) -> Any:
        """The element at a place."""
        return self._line(vector.type.element, f"extractelement {_typed(vector)}, {_typed(idx)}")

    def shuffle_vector(self, vector1: Any, vector2: Any, mask: Any) -> Any:
        """Elements of two vectors."""
        kind = ir.VectorType(vector1.type.element, mask.type.count)
        return self._line(kind, f"shufflevector {_typed(vector1)}, {_typed(vector2)}, {_typed(mask)}")

    # ---- memory ----

    def gep(self, ptr: Any, indices: Sequence[Any], inbounds: bool = False, source_etype: Any = None) -> Any:
        """The address so many elements on."""
        (index,) = indices
        if _known(index) == 0:
            return ptr
        op = "getelementptr inbounds" if inbounds else "getelementptr"
        return self._line(ptr.type, f"{op} {source_etype}, {_typed(ptr)}, {_typed(index)}")

    def load(self, ptr: Any, align: int | None = None, typ: Any = None) -> Any:
        """What lies at an address."""
        return self._line(typ, f"load {typ}, {_typed(ptr)}{_aligned(align)}")

    def store(self, value: Any, ptr: Any, align: int | None = None) -> Any:
        """Put a value at an address."""
        self._insert(Line(_VOID, "", f"store {_typed(value)}, {_typed(ptr)}{_aligned(align)}"))

    # ---- control ----

    def branch(self, target: Any) -> Any:
        """Go on at a block."""
        return self._set_terminator(Line(_VOID, "", f"br label {target.get_reference()}"))

    def cbranch(self, cond: Any, truebr: Any, falsebr: Any) -> Any:
        """Go on at one of two blocks."""
        there, else_ = truebr.get_reference(), falsebr.get_reference()
        text = f"br i1 {cond.get_reference()}, label {there}, label {else_}"
        return self._set_terminator(Branch(text, self._block.module))

    def phi(self, typ: Any) -> Phi:
        """What comes from the blocks before."""
        phi = Phi(typ, f"%v{next(self._block.scope.numbers)}")
        self._insert(phi)
        return phi

    def call(self, fn: Any, args: Sequence[Any], name: str = "") -> Any:
        """Call a function, or what lies at an address; `name` is for llvmlite's own calls of this."""
        kind = fn.function_type.return_type
        text = f"call {kind} {fn.get_reference()}({', '.join([_typed(a) for a in args])})"
        if kind != _VOID:
            return self._line(kind, text)
        return self._insert(Line(_VOID, "", text))


def _known(x: Any) -> int | None:
    """The value of a constant integer; None for all else."""
    if type(x) is ir.Constant and type(x.type) is ir.IntType and isinstance(x.constant, int):
        return x.constant
    return None


def _all_set(x: Any) -> bool:
    value = _known(x)
    return value is not None and (value == -1 or (value == 1 and x.type.width == 1))


def _is_vector(kind: Any) -> bool:
    return isinstance(kind, ir.VectorType)


def _wrapped(kind: Any, value: int) -> Any:
    """A constant of an integer type, modulo its range."""
    half = 1 << kind.width - 1
    return kind((value + half) % (2 * half) - half if kind.width > 1 else value & 1)


def _typed(x: Any) -> str:
    return f"{x.type} {x.get_reference()}"


def _aligned(align: int | None) -> str:
    return "" if align is None else f", align {align}"
