"""Innermost loops several iterations at a time, with explicit vectors.

A loop qualifies if its iterations are independent, it only stores floats of one dtype and truth values, and
every access is either contiguous in the loop's variable, forwards or backwards, or does not depend on it.
Inner loops may carry sums: so are the columns of a matrix product, or sums over rows, computed many at a
time. A loop that does nothing but carry sums (products, extremes) qualifies too: every lane has its own.
In a tile, where each iteration makes all steps of a loop of the program for a lane, values may be of any dtypes,
and what all lanes have in common is a scalar.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir

from ostinato.backends.llvm import philox, vector_math
from ostinato.backends.llvm.lines import Builder
from ostinato.backends.llvm.scalar import I32, I64, RULES, convert, is_float, item_size, llvm_type, memory_type, splat
from ostinato.lower.expressions import parts_of
from ostinato.lower.loopnest import Carried, Const, Expr, For, Let, Load, Op, Stmt, Store, Var

if TYPE_CHECKING:
    from ostinato.backends.llvm.emit import Emitter

# Bytes of a vector register; wider vectors are split by the code generator.
_REGISTER = 32
# The fewest iterations that are worth a vector of their own.
_FEWEST = 3
_ANY_DTYPE = {"where", "cast"}
# What may be combined in any order, and what it starts from; None for the first element.
_COMBINING: dict[str, float | None] = {"add": 0.0, "mul": 1.0, "maximum": None, "minimum": None}


def vector_widths(loop: For) -> list[int]:
    """How many iterations at once, from the widest down; none if the loop does not qualify."""
    if not loop.parallel or loop.carried or loop.columns or loop.until is not None:
        return []
    if loop.tile:
        return _tile_widths(loop)
    dtypes = {s.value.dtype for s in loop.body if isinstance(s, Store)} - {"bool"} or _compared(loop)
    if len(dtypes) != 1 or not (dtype := dtypes.pop()).startswith("float") or dtype == "float16":
        return []
    check = _Check(loop, dtype)
    if not all(check.statement(s) for s in loop.body):
        return []
    lanes = _lanes(dtype)
    # A sum carried through an inner loop waits for the sum before: several registers keep the machine busy.
    sums = max([len(s.carried) for s in loop.body if isinstance(s, For)], default=0)
    wanted = [2 * lanes] if not sums else [max(8 // sums, 2) * lanes, lanes]
    if isinstance(loop.stop, Const) and _FEWEST <= loop.stop.value < wanted[-1]:
        return [loop.stop.value]  # a single vector
    return [w for w in wanted if not isinstance(loop.stop, Const) or loop.stop.value >= w]


@cache
def _registers() -> int:
    """How many vectors the machine holds.

    A step of a tile waits for the step before: eight vectors keep a machine busy that starts two operations per cycle
    and has the result four cycles later.
    """
    return 32 if _has_avx512() else 16


@cache
def _has_avx512() -> bool:
    return bool(llvm.get_host_cpu_features().get("avx512vl"))


def _tile_widths(loop: For) -> list[int]:
    """How many lanes of a tile at once; a last tile of the least number overlaps the one before."""
    check = _Check(loop, None)
    if not all(check.statement(s) for s in loop.body):
        return []
    lanes = (64 if _has_avx512() else _REGISTER) // max(map(item_size, check.dtypes), default=8)
    carried = sum(check.slopes.of(c.var) is None for s in loop.body if isinstance(s, For) for c in s.carried)
    many = next((n for n in (8, 4, 2) if n * carried <= _registers()), 1)
    wanted = [lanes * n for n in dict.fromkeys((many, 1))]
    return [w for w in wanted if not isinstance(loop.stop, Const) or loop.stop.value >= w]


def has_masks(loop: For) -> bool:
    """Whether the last iterations of a loop with vectors are one more vector, of which only some elements count."""
    stores = [s for s in _statements(loop.body) if isinstance(s, Store)]
    if loop.tile or not stores or not _has_avx512():
        return False
    lets: dict[Expr, Expr] = {s.var: s.value for s in _statements(loop.body) if isinstance(s, Let)}
    carried = [
        v for s in _statements(loop.body) if isinstance(s, For) for c in s.carried for v in (c.init, c.next) if v
    ]
    slopes = _Slopes(loop)
    parts = parts_of([*[s.value for s in stores], *carried, *lets.values()], lets)
    return not any(isinstance(e, Load) and slopes.of(e.offset) == -1 for e in parts)


def _compared(loop: For) -> set[str]:
    """The dtypes of floats from which a loop computes truth values."""
    lets: dict[Expr, Expr] = {s.var: s.value for s in loop.body if isinstance(s, Let)}
    parts = parts_of([s.value for s in loop.body if isinstance(s, Store)], lets)
    return {e.dtype for e in parts if e.dtype.startswith("float")}


def _lanes(dtype: str) -> int:
    return _REGISTER // (4 if dtype == "float32" else 8)


class Combined(NamedTuple):
    """A value that a loop carries by combining it with an element in every iteration."""

    carried: Carried
    name: str
    element: Expr


def combining_width(loop: For) -> tuple[int, list[Combined]]:
    """How many iterations at once of a loop that only combines elements, and how; 0 if it does not qualify."""
    found = [c for c in map(_combined, loop.carried) if c is not None]
    dtypes = {c.var.dtype for c in loop.carried}
    if loop.until is not None or loop.columns or len(found) != len(loop.carried) or len(dtypes) != 1:
        return 0, []
    dtype = dtypes.pop()
    parts = list(parts_of([f.element for f in found], {s.var: s.value for s in loop.body if isinstance(s, Let)}))
    if dtype not in ("float32", "float64") or any(c.var in parts for c in loop.carried):
        return 0, []
    check = _Check(loop, dtype)
    if not all(isinstance(s, Let) and check.statement(s) for s in loop.body):
        return 0, []
    if not all(check.vector(f.element) for f in found):
        return 0, []
    costly = any(isinstance(e, Op) and e.name in vector_math.SUPPORTED for e in parts)
    width = (2 if costly else 4) * _lanes(dtype)
    return (0 if isinstance(loop.stop, Const) and loop.stop.value < width else width), found


def _combined(carried: Carried) -> Combined | None:
    value = carried.next
    if isinstance(value, Op) and value.name in _COMBINING:
        for own, element in (value.args, value.args[::-1]):
            if own is carried.var:
                return Combined(carried, value.name, element)
    return None


class _Slopes:
    """By how much expressions grow per iteration of a loop: 0, 1, …; None where that is not known.

    `inner` are the variables of the body that differ from iteration to iteration.
    """

    def __init__(self, loop: For) -> None:
        self.var = loop.var
        self.inner: set[Expr] = set(_bound(loop.body))
        self.known: dict[Expr, int | None] = {}
        if loop.tile:
            self._find_common(loop)

    def _find_common(self, loop: For) -> None:
        """Take out of `inner` what all lanes have in common: as long as nothing speaks against it, all is."""
        lets = {s.var: s.value for s in _statements(loop.body) if isinstance(s, Let)}
        carried = [c for s in _statements(loop.body) if isinstance(s, For) for c in s.carried]
        different: set[Expr] = set()
        while True:
            self.inner, self.known = set(different), {}
            for var, value in lets.items():  # in order: what a value needs comes before
                if var not in different and self.of(value) != 0:
                    different.add(var)
                    self.inner.add(var)
            found = [c for c in carried if c.var not in different and (self.of(c.init), self.of(c.next)) != (0, 0)]  # type: ignore[arg-type]
            if not found:
                self.known = {}
                return
            different.update(v for c in found for v in (c.var, c.result))

    def of(self, expr: Expr) -> int | None:
        stack = [] if expr in self.known else [expr]
        while stack:  # expressions may be deep
            inner = [e for e in _operands(stack[-1]) if e not in self.known]
            if inner:
                stack += inner
            else:
                last = stack.pop()
                self.known[last] = self._of(last)
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


def _operands(expr: Expr) -> tuple[Expr, ...]:
    if isinstance(expr, Load):
        return expr.pointer, expr.offset
    return expr.args if isinstance(expr, Op) else ()


def _bound(body: list[Stmt]) -> Iterator[Var]:
    """The variables of a body that hold values of the iteration."""
    for stmt in body:
        if isinstance(stmt, Let):
            yield stmt.var
        elif isinstance(stmt, For):
            yield from _bound(stmt.body)
            for carried in stmt.carried:
                yield from (carried.var, carried.result)


def _statements(body: list[Stmt]) -> Iterator[Stmt]:
    """All statements, those of loops included."""
    for stmt in body:
        yield stmt
        if isinstance(stmt, For):
            yield from _statements(stmt.body)


class _Check:
    """Whether the statements of a loop can be written with vectors; for a tile, `dtype` is None."""

    def __init__(self, loop: For, dtype: str | None) -> None:
        self.dtype, self.slopes = dtype, _Slopes(loop)
        self.dtypes: set[str] = set()  # of what differs from lane to lane
        self.seen: dict[Expr, bool] = {}
        self.lets: dict[Expr, bool] = {}  # int64 variables of the body, and whether they can be had in lanes

    def statement(self, stmt: Stmt) -> bool:
        if self.dtype is None:
            return self._of_tile(stmt)
        if isinstance(stmt, Let) and stmt.value.dtype == "int64":
            self.lets[stmt.var] = self.integers(stmt.value)
            return self.lets[stmt.var]
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

    def _of_tile(self, stmt: Stmt) -> bool:
        if isinstance(stmt, Let):
            return self.slopes.of(stmt.value) == 0 or self.vector(stmt.value)
        if isinstance(stmt, Store):
            return self.slopes.of(stmt.offset) == 1 and self.vector(stmt.value)
        if not isinstance(stmt, For) or stmt.columns or self.slopes.of(stmt.stop) != 0:
            return False
        values = [v for c in stmt.carried for v in (c.init, c.next) if v is not None]
        values += [stmt.until] if stmt.until is not None else []
        return all(map(self._of_tile, stmt.body)) and all(map(self.vector, values))

    def _fits(self, dtype: str) -> bool:
        """Whether values of a dtype may differ from lane to lane."""
        if self.dtype is not None:
            return dtype in (self.dtype, "bool")
        if dtype in ("float16", "ptr"):
            return False
        if dtype != "bool":
            self.dtypes.add(dtype)
        return True

    def integers(self, expr: Expr) -> bool:
        """Whether int64 operands of random numbers can be had in lanes: as they count up, or from memory."""
        if self.slopes.of(expr) is not None:
            return True
        if isinstance(expr, Var):
            return expr in self.slopes.inner and expr.dtype == "int64" and self.lets.get(expr, False)
        return isinstance(expr, Load) and self.slopes.of(expr.pointer) == 0 and self.slopes.of(expr.offset) == 1

    def vector(self, expr: Expr) -> bool:
        if expr not in self.seen:
            self.seen[expr] = self._vector(expr)
        return self.seen[expr]

    def _vector(self, expr: Expr) -> bool:
        if self.slopes.of(expr) == 0:
            return True
        if isinstance(expr, Var):
            return expr in self.slopes.inner
        if not self._fits(expr.dtype) or isinstance(expr, Const):
            return False
        if self.dtype is None and self.slopes.of(expr) is not None:
            return expr.dtype == "int64"  # it counts up with the lanes
        if isinstance(expr, Load):
            return self.slopes.of(expr.pointer) == 0 and self.slopes.of(expr.offset) in (1, -1)
        if philox.is_random(expr.name):
            return self.dtype is not None and expr.dtype == self.dtype and all(map(self.integers, expr.args))
        if expr.name not in RULES and expr.name not in vector_math.SUPPORTED and expr.name not in _ANY_DTYPE:
            return False
        if expr.name in vector_math.SUPPORTED and not is_float(expr.args[0].dtype):
            return False
        if self.dtype is not None and expr.name == "cast" and expr.args[0].dtype != "bool":
            return False
        return all(self._fits(a.dtype) and self.vector(a) for a in expr.args)


class VectorBody:
    """The body of a qualifying loop, written for `width` iterations at once."""

    def __init__(self, emitter: Emitter, loop: For, width: int, mask: Any = None) -> None:
        self.emitter, self.loop, self.width, self.mask = emitter, loop, width, mask
        self.slopes = _Slopes(loop)
        self.values: dict[Expr, Any] = {}
        self.read: set[Expr] = set()  # the memory that some of them were loaded from
        self.blocks: dict[Any, Any] = {}  # see `philox.call`

    def emit(self) -> None:
        self._statements(self.loop.body)

    def _statements(self, body: list[Stmt]) -> None:
        for stmt in body:
            self.emitter.part_long_block()
            if isinstance(stmt, Let) and self.loop.tile and self.slopes.of(stmt.var) == 0:
                self.emitter.let(stmt)
            elif isinstance(stmt, Let):
                whole = stmt.value.dtype == "int64"
                self.values[stmt.var] = self.integers(stmt.value) if whole else self.value(stmt.value)
            elif isinstance(stmt, Store):
                self._store(stmt)
            elif isinstance(stmt, For):
                self._inner_loop(stmt)

    def _inner_loop(self, loop: For) -> None:
        if self.loop.tile:  # what is known of what it writes holds in the first iteration only
            self._forget_written(loop)
        common = [self.loop.tile and self.slopes.of(c.var) == 0 for c in loop.carried]
        inits = [self._common_or_lanes(c.init, own) for c, own in zip(loop.carried, common, strict=True)]
        frame = self.emitter.open(I64(0), self.emitter.value(loop.stop), 1, inits)
        self.emitter.define(loop.var, frame.t)
        outside, blocks, read = dict(self.values), dict(self.blocks), set(self.read)
        for c, phi, own in zip(loop.carried, frame.phis, common, strict=True):
            self._define(c.var, phi, own)
        self._statements(loop.body)
        nexts = [self._common_or_lanes(c.next, own) for c, own in zip(loop.carried, common, strict=True) if c.next]
        until = None if loop.until is None else self._anywhere(loop.until)
        finals, _ = self.emitter.close(frame, nexts, until)
        self.values, self.blocks = outside, blocks
        self.read |= read
        for c, final, own in zip(loop.carried, finals, common, strict=True):
            self._define(c.result, final, own)
        if self.loop.tile:
            self._forget_written(loop)

    def _anywhere(self, condition: Expr) -> Any:
        """Whether a condition holds in any lane."""
        if self.slopes.of(condition) == 0:
            return self.emitter.value(condition)
        b, bits = self.emitter.builder, ir.IntType(self.width)
        return b.icmp_unsigned("!=", b.bitcast(self.value(condition), bits), bits(0))

    def _common_or_lanes(self, expr: Expr, is_common: bool) -> Any:
        return self.emitter.value(expr) if is_common else self.value(expr)

    def _define(self, var: Var, value: Any, is_common: bool) -> None:
        if is_common:
            self.emitter.define(var, value)
        else:
            self.values[var] = value

    def _forget_written(self, loop: For) -> None:
        written = {s.pointer for s in _statements(loop.body) if isinstance(s, Store)}
        for pointer in written:
            self.emitter.forget(pointer)
        if any(isinstance(e, Load) and e.pointer in written for e in self.values):
            self.values = {e: v for e, v in self.values.items() if isinstance(e, Var)}

    def value(self, expr: Expr) -> Any:
        if expr not in self.values:
            self.values[expr] = self._value(expr)
        return self.values[expr]

    def integers(self, expr: Expr) -> Any:
        """An int64 operand of random numbers in all lanes."""
        if expr not in self.values:
            slope = self.slopes.of(expr)
            if slope is None:
                self.values[expr] = self._load(expr) if isinstance(expr, Load) else self.value(expr)
            else:
                first = splat(self.emitter.builder, self.emitter.value(expr), self.width)
                steps = ir.Constant(first.type, [slope * k for k in range(self.width)])
                self.values[expr] = self.emitter.builder.add(first, steps) if slope else first
        return self.values[expr]

    def _value(self, expr: Expr) -> Any:
        slope = self.slopes.of(expr)
        if slope == 0:
            return splat(self.emitter.builder, self.emitter.value(expr), self.width)
        if isinstance(expr, Load):
            return self._load(expr)
        if self.loop.tile and slope is not None:
            return self.integers(expr)
        assert not isinstance(expr, (Const, Var)), f"{expr} is not known in lanes"
        if philox.is_random(expr.name):
            args = [self.integers(a) for a in expr.args]
            return philox.call(self.emitter.builder, expr.name, expr.dtype, args, self.blocks)
        args = [self.value(a) for a in expr.args]
        if expr.name == "where":
            return self.emitter.builder.select(*args)
        if expr.name == "cast":
            return convert(self.emitter.builder, args[0], expr.args[0].dtype, expr.dtype)
        if expr.name in RULES:
            return RULES[expr.name](self.emitter.builder, expr.args[0].dtype, *args)
        return vector_math.call(self.emitter.builder, expr.name, *args)

    def combine(self, parts: list[Combined], phis: list[Any]) -> list[Any]:
        """What every lane carries on to the next iteration."""
        self._statements(self.loop.body)
        b = self.emitter.builder
        return [RULES[c.name](b, c.element.dtype, p, self.value(c.element)) for c, p in zip(parts, phis, strict=True)]

    def _load(self, expr: Load) -> Any:
        b, slope = self.emitter.builder, self.slopes.of(expr.offset)
        place = self.emitter.place(expr.pointer, expr.offset, expr.dtype)
        kind = ir.VectorType(memory_type(expr.dtype), self.width)
        if slope == -1:  # the lanes lie before the first one
            place = b.gep(place, [I64(1 - self.width)], inbounds=True, source_etype=memory_type(expr.dtype))
        value = self._loaded(place, kind, item_size(expr.dtype))
        self.read.add(expr.pointer)
        if slope == -1:
            value = b.shuffle_vector(value, value, _lanes_of(reversed(range(self.width))))
        return b.trunc(value, ir.VectorType(llvm_type("bool"), self.width)) if expr.dtype == "bool" else value

    def _store(self, stmt: Store) -> None:
        b, dtype = self.emitter.builder, stmt.value.dtype
        value = self.value(stmt.value)
        if dtype == "bool":
            value = b.zext(value, ir.VectorType(memory_type("bool"), self.width))
        place = self.emitter.place(stmt.pointer, stmt.offset, dtype)
        self._stored(value, place, item_size(dtype))
        self.emitter.forget(stmt.pointer)
        if stmt.pointer in self.read:
            self.values = {e: v for e, v in self.values.items() if isinstance(e, Var)}
            self.read.clear()

    def _loaded(self, place: Any, kind: Any, align: int) -> Any:
        if self.mask is None:
            return self.emitter.builder.load(place, typ=kind, align=align)
        types = [place.type, I32, self.mask.type, kind]
        function = self._intrinsic("masked.load", kind, ir.FunctionType(kind, types))
        # Elements that do not count are 1, of which no operation makes anything that is slow.
        ones = ir.Constant(kind, [kind.element(1)] * self.width)
        return self.emitter.builder.call(function, [place, I32(align), self.mask, ones])

    def _stored(self, value: Any, place: Any, align: int) -> None:
        if self.mask is None:
            self.emitter.builder.store(value, place, align=align)
            return
        types = [value.type, place.type, I32, self.mask.type]
        function = self._intrinsic("masked.store", value.type, ir.FunctionType(ir.VoidType(), types))
        self.emitter.builder.call(function, [value, place, I32(align), self.mask])

    def _intrinsic(self, name: str, kind: Any, signature: Any) -> Any:
        element = {ir.FloatType(): "f32", ir.DoubleType(): "f64"}.get(kind.element) or str(kind.element)
        symbol = f"llvm.{name}.v{kind.count}{element}.p0"
        module = self.emitter.module
        return module.globals.get(symbol) or ir.Function(module, signature, symbol)


def _lanes_of(order: Iterable[int]) -> Any:
    places = list(order)
    return ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)


def start_of_lanes(builder: Builder, part: Combined, init: Any, width: int) -> Any:
    """What the lanes of a combined value start from."""
    neutral = _COMBINING[part.name]
    return splat(builder, init if neutral is None else ir.Constant(init.type, neutral), width)


def joined_lanes(builder: Builder, part: Combined, init: Any, lanes: Any) -> Any:
    """All lanes and the value before the loop, combined: halves with halves."""
    rule, dtype, n = RULES[part.name], part.element.dtype, lanes.type.count
    while n > 1:
        n //= 2
        halves = [builder.shuffle_vector(lanes, lanes, _lanes_of(range(k, k + n))) for k in (0, n)]
        lanes = rule(builder, dtype, *halves)
    single = builder.extract_element(lanes, ir.Constant(ir.IntType(32), 0))
    return rule(builder, dtype, init, single)
