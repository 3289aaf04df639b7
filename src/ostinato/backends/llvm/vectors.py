"""Innermost loops several iterations at a time, with explicit vectors.

A loop qualifies if its iterations are independent, it only stores floats of one dtype, and every access
is either contiguous in the loop's variable or does not depend on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir

from ostinato.backends.llvm import vector_math
from ostinato.backends.llvm.scalar import RULES, llvm_type, splat
from ostinato.lower.loopnest import Const, Expr, For, Let, Load, Store, Var

if TYPE_CHECKING:
    from ostinato.backends.llvm.emit import Emitter

# Bytes of a vector register; wider vectors are split by the code generator.
_REGISTER = 32
_UNROLL = 2
_ANY_DTYPE = {"where"}


def vector_width(loop: For) -> int:
    """How many iterations at once; 1 if the loop does not qualify."""
    if not loop.parallel or loop.carried or loop.until is not None or not loop.body:
        return 1
    if any(not isinstance(s, (Let, Store)) for s in loop.body):
        return 1
    dtypes = {s.value.dtype for s in loop.body if isinstance(s, Store)}
    if len(dtypes) != 1 or not (dtype := dtypes.pop()).startswith("float") or dtype == "float16":
        return 1
    if isinstance(loop.stop, Const) and loop.stop.value < 8:
        return 1
    check = _Check(loop, dtype)
    if not all(check.statement(s) for s in loop.body):
        return 1
    return _UNROLL * _REGISTER // (4 if dtype == "float32" else 8)


def slope(expr: Expr, var: Var, inner: set[Expr]) -> int | None:
    """By how much an integer expression grows per iteration: 0, 1, …; None if that is not known."""
    if expr is var:
        return 1
    if isinstance(expr, Const):
        return 0
    if isinstance(expr, Var):
        return None if expr in inner else 0
    if isinstance(expr, Load):
        return 0 if slope(expr.offset, var, inner) == 0 and slope(expr.pointer, var, inner) == 0 else None
    slopes = [slope(a, var, inner) for a in expr.args]
    if all(s == 0 for s in slopes):
        return 0
    if None in slopes:
        return None
    known = [s for s in slopes if s is not None]
    if expr.name == "add":
        return sum(known)
    if expr.name == "sub":
        return known[0] - known[1]
    if expr.name == "mul":
        for s, other in ((known[0], expr.args[1]), (known[1], expr.args[0])):
            if isinstance(other, Const):
                return s * int(other.value)
    return None


class _Check:
    """Whether the statements of a loop can be written with vectors."""

    def __init__(self, loop: For, dtype: str) -> None:
        self.var, self.dtype = loop.var, dtype
        self.inner: set[Expr] = {s.var for s in loop.body if isinstance(s, Let)}
        self.seen: dict[Expr, bool] = {}

    def statement(self, stmt: Any) -> bool:
        if isinstance(stmt, Let):
            return self.vector(stmt.value)
        return slope(stmt.offset, self.var, self.inner) == 1 and self.vector(stmt.value)

    def vector(self, expr: Expr) -> bool:
        if expr not in self.seen:
            self.seen[expr] = self._vector(expr)
        return self.seen[expr]

    def _vector(self, expr: Expr) -> bool:
        if slope(expr, self.var, self.inner) == 0:
            return True
        if isinstance(expr, Var):
            return expr in self.inner
        if expr.dtype not in (self.dtype, "bool") or isinstance(expr, Const):
            return False
        if isinstance(expr, Load):
            return expr.dtype == self.dtype and slope(expr.offset, self.var, self.inner) in (0, 1)
        if expr.name not in RULES and expr.name not in vector_math.SUPPORTED and expr.name not in _ANY_DTYPE:
            return False
        return all(a.dtype in (self.dtype, "bool") and self.vector(a) for a in expr.args)


class VectorBody:
    """The body of a qualifying loop, written for `width` iterations at once."""

    def __init__(self, emitter: Emitter, loop: For, width: int) -> None:
        self.emitter, self.loop, self.width = emitter, loop, width
        self.inner: set[Expr] = {s.var for s in loop.body if isinstance(s, Let)}
        self.values: dict[Expr, Any] = {}

    def emit(self) -> None:
        for stmt in self.loop.body:
            if isinstance(stmt, Let):
                self.values[stmt.var] = self.value(stmt.value)
            elif isinstance(stmt, Store):
                self._store(stmt)

    def value(self, expr: Expr) -> Any:
        if expr not in self.values:
            self.values[expr] = self._value(expr)
        return self.values[expr]

    def _value(self, expr: Expr) -> Any:
        if slope(expr, self.loop.var, self.inner) == 0:
            return splat(self.emitter.builder, self.emitter.value(expr), self.width)
        if isinstance(expr, Load):
            return self._load(expr)
        assert not isinstance(expr, (Const, Var))
        args = [self.value(a) for a in expr.args]
        if expr.name == "where":
            return self.emitter.builder.select(*args)
        if expr.name in RULES:
            return RULES[expr.name](self.emitter.builder, expr.args[0].dtype, *args)
        return vector_math.call(self.emitter.builder, expr.name, *args)

    def _place(self, pointer: Expr, offset: Expr, dtype: str) -> Any:
        address, position = self.emitter.value(pointer), self.emitter.value(offset)
        return self.emitter.builder.gep(address, [position], inbounds=True, source_etype=llvm_type(dtype))

    def _load(self, expr: Load) -> Any:
        place = self._place(expr.pointer, expr.offset, expr.dtype)
        vector = ir.VectorType(llvm_type(expr.dtype), self.width)
        return self.emitter.builder.load(place, typ=vector, align=4 if expr.dtype == "float32" else 8)

    def _store(self, stmt: Store) -> None:
        value = self.value(stmt.value)
        place = self._place(stmt.pointer, stmt.offset, stmt.value.dtype)
        self.emitter.builder.store(value, place, align=4 if stmt.value.dtype == "float32" else 8)
        self.emitter.forget(stmt.pointer)
