"""Innermost loops several iterations at a time, with explicit vectors.

A loop qualifies if its iterations are independent, it only stores floats of one dtype, and every access
is either contiguous in the loop's variable or does not depend on it. Inner loops may carry sums: so are
the columns of a matrix product, or sums over rows, computed many at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from ostinato.backends.llvm import vector_math
from ostinato.backends.llvm.scalar import I64, RULES, llvm_type, splat
from ostinato.lower.loopnest import Const, Expr, For, Let, Load, Stmt, Store, Var

if TYPE_CHECKING:
    from ostinato.backends.llvm.emit import Emitter

# Bytes of a vector register; wider vectors are split by the code generator.
_REGISTER = 32
_ANY_DTYPE = {"where"}


def vector_widths(loop: For) -> list[int]:
    """How many iterations at once, from the widest down; none if the loop does not qualify."""
    if not loop.parallel or loop.carried or loop.columns or loop.until is not None:
        return []
    dtypes = {s.value.dtype for s in loop.body if isinstance(s, Store)}
    if len(dtypes) != 1 or not (dtype := dtypes.pop()).startswith("float") or dtype == "float16":
        return []
    check = _Check(loop, dtype)
    if not all(check.statement(s) for s in loop.body):
        return []
    lanes = _REGISTER // (4 if dtype == "float32" else 8)
    # A sum carried through an inner loop waits for the sum before: several registers keep the machine busy.
    sums = max([len(s.carried) for s in loop.body if isinstance(s, For)], default=0)
    wanted = [2 * lanes] if not sums else [max(8 // sums, 2) * lanes, lanes]
    return [w for w in wanted if not isinstance(loop.stop, Const) or loop.stop.value >= w]


class _Slopes:
    """By how much expressions grow per iteration of a loop: 0, 1, …; None where that is not known.

    `inner` are the variables of the body that differ from iteration to iteration.
    """

    def __init__(self, loop: For) -> None:
        self.var = loop.var
        self.inner: set[Expr] = set(_bound(loop.body))
        self.known: dict[Expr, int | None] = {}

    def of(self, expr: Expr) -> int | None:
        if expr not in self.known:
            self.known[expr] = self._of(expr)
        return self.known[expr]

    def _of(self, expr: Expr) -> int | None:
        if expr is self.var:
            return 1
        if isinstance(expr, Const):
            return 0
        if isinstance(expr, Var):
            return None if expr in self.inner else 0
        if isinstance(expr, Load):
            return 0 if self.of(expr.offset) == 0 and self.of(expr.pointer) == 0 else None
        slopes = [self.of(a) for a in expr.args]
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


def _bound(body: list[Stmt]) -> Iterator[Var]:
    """The variables of a body that hold values of the iteration."""
    for stmt in body:
        if isinstance(stmt, Let):
            yield stmt.var
        elif isinstance(stmt, For):
            yield from _bound(stmt.body)
            for carried in stmt.carried:
                yield from (carried.var, carried.result)


class _Check:
    """Whether the statements of a loop can be written with vectors."""

    def __init__(self, loop: For, dtype: str) -> None:
        self.dtype, self.slopes = dtype, _Slopes(loop)
        self.seen: dict[Expr, bool] = {}

    def statement(self, stmt: Stmt) -> bool:
        if isinstance(stmt, Let):
            return self.vector(stmt.value)
        if isinstance(stmt, Store):
            return self.slopes.of(stmt.offset) == 1 and self.vector(stmt.value)
        return isinstance(stmt, For) and self._inner_loop(stmt)

    def _inner_loop(self, loop: For) -> bool:
        """A loop of as many iterations in all lanes, which carries values of the dtype and stores nothing."""
        values = [v for c in loop.carried for v in (c.init, c.next) if v is not None]
        return (
            loop.until is None
            and not loop.columns
            and self.slopes.of(loop.stop) == 0
            and all(isinstance(s, (Let, For)) and self.statement(s) for s in loop.body)
            and all(v.dtype == self.dtype and (self.vector(v) or isinstance(v, Const)) for v in values)
        )

    def vector(self, expr: Expr) -> bool:
        if expr not in self.seen:
            self.seen[expr] = self._vector(expr)
        return self.seen[expr]

    def _vector(self, expr: Expr) -> bool:
        if self.slopes.of(expr) == 0:
            return True
        if isinstance(expr, Var):
            return expr in self.slopes.inner
        if expr.dtype not in (self.dtype, "bool") or isinstance(expr, Const):
            return False
        if isinstance(expr, Load):
            return expr.dtype == self.dtype and self.slopes.of(expr.pointer) == 0 and self.slopes.of(expr.offset) == 1
        if expr.name not in RULES and expr.name not in vector_math.SUPPORTED and expr.name not in _ANY_DTYPE:
            return False
        return all(a.dtype in (self.dtype, "bool") and self.vector(a) for a in expr.args)


class VectorBody:
    """The body of a qualifying loop, written for `width` iterations at once."""

    def __init__(self, emitter: Emitter, loop: For, width: int) -> None:
        self.emitter, self.loop, self.width = emitter, loop, width
        self.slopes = _Slopes(loop)
        self.values: dict[Expr, Any] = {}

    def emit(self) -> None:
        self._statements(self.loop.body)

    def _statements(self, body: list[Stmt]) -> None:
        for stmt in body:
            if isinstance(stmt, Let):
                self.values[stmt.var] = self.value(stmt.value)
            elif isinstance(stmt, Store):
                self._store(stmt)
            elif isinstance(stmt, For):
                self._inner_loop(stmt)

    def _inner_loop(self, loop: For) -> None:
        inits = [self.value(c.init) for c in loop.carried]
        frame = self.emitter.open(I64(0), self.emitter.value(loop.stop), 1, inits)
        self.emitter.define(loop.var, frame.t)
        outside = dict(self.values)
        self.values.update(zip([c.var for c in loop.carried], frame.phis, strict=True))
        self._statements(loop.body)
        nexts = [self.value(c.next) for c in loop.carried if c.next is not None]
        finals, _ = self.emitter.close(frame, nexts)
        self.values = outside | dict(zip([c.result for c in loop.carried], finals, strict=True))

    def value(self, expr: Expr) -> Any:
        if expr not in self.values:
            self.values[expr] = self._value(expr)
        return self.values[expr]

    def _value(self, expr: Expr) -> Any:
        if self.slopes.of(expr) == 0:
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
