"""Loop nest to LLVM IR: one function, plain SSA, no optimisation pipeline needed afterwards.

An expression is evaluated once per scope, and in the outermost scope that knows its operands, so loop
invariants leave loops by construction. Innermost loops whose iterations are independent and whose
accesses are contiguous are written with vectors, followed by a scalar loop for the rest.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from llvmlite import ir

from ostinato.backends.llvm import library_calls, parts, philox, vector_math
from ostinato.backends.llvm.lines import Builder
from ostinato.backends.llvm.scalar import (
    I8,
    I32,
    I64,
    PTR,
    RULES,
    can_convert,
    convert,
    has_rule,
    integer_power,
    is_float,
    item_size,
    llvm_type,
    memory_type,
    splat,
)
from ostinato.backends.llvm.vectors import (
    VectorBody,
    combining_width,
    has_masks,
    joined_lanes,
    start_of_lanes,
    vector_widths,
)
from ostinato.lower.loopnest import (
    Alloc,
    Call,
    CallOut,
    Column,
    Const,
    Data,
    Expr,
    Extern,
    Fail,
    For,
    Let,
    Load,
    Op,
    Routine,
    Split,
    Stmt,
    Store,
    Var,
)
from ostinato.lower.program import Program
from ostinato.lower.scalarize import UnsupportedError

# No instruction at all, but code generation does not see through it: it would spend half of its time on rewriting
# how loops count (loop strength reduction), which these loops, whose addresses are base + index, gain nothing from.
_HIDDEN = ir.InlineAsm(ir.FunctionType(I64, [I64]), "", "=r,0")

# Return codes of a compiled function.
DONE, FAILED, TOO_SMALL, NO_MEMORY = 0, 2, 3, 4
# The return code of a function that a call-out did not come back to: an exception passed it by.
INTERRUPTED = 5
# The words of the context: start, size and fill of the workspace in bytes, and how much was wanted; the runtime
# (see pool.py) and the address of its `take`, which gives memory for results; whom call-outs call, and where the
# addresses of constant arrays stand that are no part of the code; the address of `spread` (see threads.py), and among
# how many threads it may divide lanes.
BASE, CAPACITY, TOP, WANTED, RUNTIME, TAKE, CALL_OUT, ARRAYS, SPREAD, THREADS = range(10)
N_CONTEXT = 10
_TAKE_TYPE = ir.FunctionType(PTR, [PTR, I64])
_ALIGN = 64
_MOST = 1 << 48  # no machine has so many bytes
_LONG_BLOCK = 400  # instructions


def knows(name: str, operands: Sequence[str], result: str) -> bool:
    """Whether there is a scalar operation of this name for operands and a result of these dtypes."""
    if name == "cast":
        return can_convert(operands[0], result)
    if name == "where":
        return True
    if philox.is_random(name):
        return result != "float16"
    dtype = operands[0]
    if name in RULES:
        return has_rule(name, dtype)
    if name == "pow" and not is_float(dtype):
        return dtype != "bool"
    known = name in vector_math.SUPPORTED or name in library_calls.SPECIAL
    return known and dtype in ("float32", "float64")


class Scope:
    """What is known within a loop (or the function): values, and where its invariants are put.

    `preheader` is the block before the loop that computes them; it ends with a jump to `enter`.
    """

    def __init__(self, preheader: Any, enter: Any, depth: int) -> None:
        self.preheader, self.enter = preheader, enter
        self.depth = depth
        self.takes_memory = False
        self.values: dict[Any, Any] = {}
        self.loads: set[Load] = set()


class Frame(NamedTuple):
    """A loop that was begun and waits for its end."""

    t: Any
    phis: list[Any]
    start: Any
    stop: Any
    step: int
    inits: list[Any]
    enter: Any
    body: Any
    after: Any


class Emitter:
    """One function being written."""

    def __init__(self, program: Program, name: str = "run") -> None:
        self.module = ir.Module(name="ostinato")
        self.externals: list[str] = []  # the library functions that have to be linked
        function = ir.Function(self.module, ir.FunctionType(I32, [PTR, PTR, PTR]), name)
        self.begin(function, function.append_basic_block("entry"), function.args[2])
        self.results = function.args[1]
        # What depends on the step before, of a loop of the program; and what is a product.
        self._late: set[Expr] = set()
        self._products: set[Expr] = set()
        self.define(program.arguments, function.args[0])
        self.define(program.results, function.args[1])
        self.statements(program.nest.body)
        self.builder.ret(I32(DONE))

    def begin(self, function: Any, block: Any, context: Any, captures: parts.Captures | None = None) -> None:
        """Write a function from here on. `context` is None for a routine, which takes no memory and does not fail."""
        self.function, self.builder, self.context = function, Builder(block), context
        self.scopes = [Scope(None, None, 0)]
        self.captures = captures
        if context is not None:
            self.failed = self._exit_block("failed", FAILED)
            self.too_small = self._exit_block("too_small", TOO_SMALL)
            self.no_memory = self._exit_block("no_memory", NO_MEMORY)

    def state(self) -> tuple[Any, ...]:
        """What `restore` needs to go on with the function that is being written."""
        exits = self.failed, self.too_small, self.no_memory
        return self.function, self.builder, self.context, self.scopes, self.captures, exits

    def restore(self, state: tuple[Any, ...]) -> None:
        self.function, self.builder, self.context, self.scopes, self.captures, exits = state
        self.failed, self.too_small, self.no_memory = exits

    def _exit_block(self, name: str, code: int) -> Any:
        block = self.function.append_basic_block(name)
        Builder(block).ret(I32(code))
        return block

    # ---- values ----

    def define(self, var: Var, value: Any) -> None:
        self.scopes[-1].values[var] = value

    def _known(self, expr: Expr) -> tuple[Any, int] | None:
        for scope in reversed(self.scopes):
            if expr in scope.values:
                return scope.values[expr], scope.depth
        return None

    def value(self, expr: Expr) -> Any:
        """The SSA value of an expression."""
        return self._value(expr)[0]

    def _value(self, expr: Expr) -> tuple[Any, int]:
        if isinstance(expr, Const):
            return self._constant(expr), 0
        known = self._known(expr)
        if known is not None:
            return known
        if isinstance(expr, Var):
            captured = self.captures.find(expr) if self.captures else None
            assert captured is not None, f"{expr.name} is not defined here"
            self.scopes[0].values[expr] = captured
            return captured, 0
        if isinstance(expr, Load):
            value = self.load(self.place(expr.pointer, expr.offset, expr.dtype), expr.dtype)
            depth = self.scopes[-1].depth  # memory may change: no further out
            self.scopes[depth].loads.add(expr)
        else:
            pairs = [self._value(a) for a in expr.args]
            depth = max((d for _, d in pairs), default=0)
            value = self._placed(depth, lambda: self.operation(expr, [v for v, _ in pairs]))
            if not self._late.isdisjoint(expr.args):
                self._late.add(expr)
            if expr.name == "mul":
                self._products.add(expr)
        self.scopes[depth].values[expr] = value
        return value, depth

    def _placed(self, depth: int, make: Callable[[], Any]) -> Any:
        with self._at(depth):
            return make()

    @contextmanager
    def _at(self, depth: int) -> Iterator[None]:
        """Emit in the scope of the given depth: before the loop that encloses everything deeper."""
        if depth == self.scopes[-1].depth:
            yield
            return
        b, block, inner = self.builder, self.builder.block, self.scopes[depth + 1]
        jump = inner.preheader.terminator
        last = inner.preheader.instructions.pop()
        assert last is jump, "a block ends with its terminator"
        inner.preheader.terminator = None
        b.position_at_end(inner.preheader)
        yield
        self.part_long_block()
        inner.preheader = b.block  # what was emitted may have branched
        b.branch(inner.enter)
        b.position_at_end(block)

    def _constant(self, expr: Const) -> Any:
        value = expr.value
        if expr.dtype == "bool":
            value = int(value)
        return ir.Constant(llvm_type(expr.dtype), value)

    def operation(self, expr: Op, args: list[Any]) -> Any:
        """One scalar operation."""
        b = self.builder
        if expr.name == "cast":
            return convert(b, args[0], expr.args[0].dtype, expr.dtype)
        if expr.name == "where":
            return b.select(*args)
        if expr.name == "advance":
            return b.gep(args[0], [args[1]], inbounds=True, source_etype=I8)
        if philox.is_random(expr.name):
            return philox.call(b, expr.name, expr.dtype, args, self._blocks(expr))
        if expr.name == "address":
            return b.ptrtoint(args[0], I64)
        dtype = expr.args[0].dtype
        if expr.name in ("add", "sub") and dtype in ("float32", "float64") and self._waits(expr):
            return (b.fadd if expr.name == "add" else b.fsub)(*args)
        if expr.name in RULES:
            return RULES[expr.name](b, dtype, *args)
        if expr.name in library_calls.SPECIAL:
            return library_calls.special(self, expr.name, *args)
        if expr.name == "pow" and not is_float(dtype):
            return integer_power(b, dtype, *args)
        if expr.name in vector_math.SUPPORTED and is_float(dtype):
            return vector_math.call(b, expr.name, *args)
        raise UnsupportedError(f"{expr.name} on {dtype} has no native form")

    def _blocks(self, expr: Op) -> dict[Any, Any]:
        """The blocks of Philox that are known where an operation is written: in the scope of its operands."""
        depth = max(self._value(a)[1] for a in expr.args)
        own: dict[Any, Any] = self.scopes[depth].values.setdefault("blocks", {})
        return own

    def _waits(self, expr: Op) -> bool:
        """Whether a sum is better not fused with the product in it.

        A product that is there before the step before has ended need not be waited for; a fused instruction takes
        longer than a sum.
        """
        late = [a in self._late for a in expr.args]
        return any(
            late[i] and expr.args[i] not in self._products and not late[1 - i] and expr.args[1 - i] in self._products
            for i in (0, 1)
        )

    # ---- memory ----

    def place(self, pointer: Expr, offset: Expr, dtype: str) -> Any:
        """The address of an element; of a sum as offset, the part that loops leave alone is added outside of them."""
        kind, fixed = memory_type(dtype), None
        if isinstance(offset, Op) and offset.name == "add":
            (_, near), (_, far) = (self._value(a) for a in offset.args)
            if near < far:
                fixed, offset = offset.args
        address, depth = self._value(pointer)
        if fixed is not None:
            value, own = self._value(fixed)
            depth, outer = max(depth, own), address
            address = self._placed(depth, lambda: self._element(outer, value, kind))
        return self._element(address, self.value(offset), kind)

    def _element(self, address: Any, offset: Any, kind: Any) -> Any:
        return self.builder.gep(address, [offset], inbounds=True, source_etype=kind)

    def load(self, place: Any, dtype: str) -> Any:
        value = self.builder.load(place, typ=memory_type(dtype), align=item_size(dtype))
        return self.builder.trunc(value, llvm_type("bool")) if dtype == "bool" else value

    def store(self, stmt: Store) -> None:
        b, dtype = self.builder, stmt.value.dtype
        value = self.value(stmt.value)
        place = self.place(stmt.pointer, stmt.offset, dtype)
        b.store(b.zext(value, I8) if dtype == "bool" else value, place, align=item_size(dtype))
        self.forget(stmt.pointer)

    def forget(self, pointer: Expr) -> None:
        """Values read from memory that was just written are not known any more."""
        for k, scope in enumerate(self.scopes):
            if any(load.pointer is pointer for load in scope.loads):
                for inner in self.scopes[k:]:  # and with them what was computed from them
                    inner.values = {e: v for e, v in inner.values.items() if isinstance(e, Var)}
                    inner.loads.clear()
                return

    def _word(self, k: int) -> Any:
        return self.builder.gep(self.context, [I64(k)], inbounds=True, source_etype=I64)

    def allocs(self, stmts: Sequence[Alloc]) -> None:
        """Take memory, of the workspace at once for all that follow each other in a scope."""
        wanted: dict[int, list[tuple[Alloc, Any]]] = {}
        for stmt in stmts:
            count, depth = self._value(stmt.count)
            if stmt.result is not None:
                self.define(stmt.var, self._kept(stmt.dtype, count, stmt.result))
            else:
                wanted.setdefault(depth, []).append((stmt, count))
        for depth, pairs in wanted.items():
            self.scopes[depth].takes_memory = True
            with self._at(depth):
                pointers = self._taken([(stmt.dtype, count) for stmt, count in pairs])
            self.scopes[depth].values.update({stmt.var: p for (stmt, _), p in zip(pairs, pointers, strict=True)})

    def _kept(self, dtype: str, count: Any, word: int) -> Any:
        """Memory that the caller keeps. It is noted at once, so that the caller can free it if the function fails."""
        b = self.builder
        take = b.load(self._word(TAKE), typ=_TAKE_TYPE.as_pointer())
        pointer = b.call(take, [b.load(self._word(RUNTIME), typ=PTR), self._n_bytes(dtype, count)])
        b.store(pointer, b.gep(self.results, [I64(word)], inbounds=True, source_etype=I64))
        self._branch_out(b.icmp_unsigned("!=", pointer, PTR(None)), self.no_memory)
        return pointer

    def _n_bytes(self, dtype: str, count: Any) -> Any:
        """The bytes of so many elements; more than there are for a count so large that the product would overflow."""
        b = self.builder
        sane = b.icmp_unsigned("<=", count, I64(_MOST))
        return b.select(sane, b.mul(count, I64(item_size(dtype))), I64(_MOST))

    def _taken(self, wanted: Sequence[tuple[str, Any]]) -> list[Any]:
        """Memory off the workspace, for elements of these dtypes, so many of each.

        If there is not enough, the function says how much was wanted and returns.
        """
        b = self.builder
        tops = [b.load(self._word(TOP), typ=I64)]
        for dtype, count in wanted:
            rounded = b.and_(b.add(self._n_bytes(dtype, count), I64(_ALIGN - 1)), I64(-_ALIGN))
            tops.append(b.add(tops[-1], rounded))
        b.store(tops[-1], self._word(WANTED))
        fits = b.icmp_signed("<=", tops[-1], b.load(self._word(CAPACITY), typ=I64))
        self._branch_out(fits, self.too_small)
        b.store(tops[-1], self._word(TOP))
        base = b.load(self._word(BASE), typ=PTR)
        return [b.gep(base, [top], inbounds=True, source_etype=I8) for top in tops[:-1]]

    def _branch_out(self, good: Any, otherwise: Any) -> None:
        going_on = self.function.append_basic_block("on")
        self.builder.cbranch(good, going_on, otherwise)
        self.builder.position_at_end(going_on)

    def part_long_block(self) -> None:
        """Begin another block where one is long: the time of the code generator grows faster than a block does.

        The branch to it depends on what is always so, but the code generator cannot know; else it would join them.
        """
        if self.context is not None and len(self.builder.block.instructions) > _LONG_BLOCK:
            self._branch_out(self.builder.icmp_unsigned("!=", self.context, PTR(None)), self.failed)

    # ---- statements ----

    def statements(self, body: list[Stmt]) -> None:
        for kind, group in itertools.groupby(body, type):
            if kind is Alloc:
                self.part_long_block()
                self.allocs([s for s in group if isinstance(s, Alloc)])
            else:
                self._statements(group)

    def _statements(self, body: Iterable[Stmt]) -> None:
        for stmt in body:
            self.part_long_block()
            if isinstance(stmt, Let):
                self.let(stmt)
            elif isinstance(stmt, Store):
                self.store(stmt)
            elif isinstance(stmt, Fail):
                self.fail(stmt)
            elif isinstance(stmt, Call):
                self.call(stmt)
            elif isinstance(stmt, CallOut):
                self.call_out(stmt)
            elif isinstance(stmt, Data):
                self.define(stmt.var, self._data(stmt))
            elif isinstance(stmt, Extern):
                library_calls.routine(self, stmt)
            elif isinstance(stmt, Split):
                self.split(stmt)
            elif isinstance(stmt, For):
                self.loop(stmt)

    def let(self, stmt: Let) -> None:
        self.define(stmt.var, self.value(stmt.value))
        for known in (self._late, self._products):
            if stmt.value in known:
                known.add(stmt.var)

    def call(self, stmt: Call) -> None:
        args = [self.value(a) for a in stmt.args]
        name = f"ostinato.{stmt.routine.name}"
        self.builder.call(self.module.globals.get(name) or self._routine(stmt.routine, name), args)
        self.forget(stmt.writes)

    def split(self, stmt: Split) -> None:
        """Lanes in parts, which the runtime gives to threads; whatever a part writes is not known any more."""
        assert self.context is not None, "a routine has no lanes"
        code = parts.split(self, stmt, self._word(SPREAD))
        self._return_unless_done(code)
        for scope in self.scopes:
            scope.values = {e: v for e, v in scope.values.items() if isinstance(e, Var)}
            scope.loads.clear()

    def _return_unless_done(self, code: Any) -> None:
        b = self.builder
        stopped = self.function.append_basic_block("stopped")
        self._branch_out(b.icmp_signed("==", code, I32(DONE)), stopped)
        with b.goto_block(stopped):
            b.ret(code)

    def call_out(self, stmt: CallOut) -> None:
        """Call the function that the context names with words on the stack: status, operands, results."""
        assert self.context is not None, "a routine has no call-outs"
        b = self.builder
        words = [I64(INTERRUPTED), *[self._as_word(e) for e in stmt.words]]
        with b.goto_entry_block():  # so that a loop takes no more of the stack
            block = b.alloca(I64, len(words) + len(stmt.results))
        places = [b.gep(block, [I64(k)], source_etype=I64) for k in range(len(words) + len(stmt.results))]
        for value, place in zip(words, places, strict=False):
            b.store(value, place)
        target = ir.FunctionType(ir.VoidType(), [I64, PTR, PTR]).as_pointer()
        b.call(b.load(self._word(CALL_OUT), typ=target), [I64(stmt.site), block, self.context])
        self._return_unless_done(b.trunc(b.load(places[0], typ=I64), I32))
        for var, place in zip(stmt.results, places[len(words) :], strict=True):
            self.define(var, b.load(place, typ=llvm_type(var.dtype)))

    def _as_word(self, expr: Expr) -> Any:
        value = self.value(expr)
        return self.builder.ptrtoint(value, I64) if expr.dtype == "ptr" else value

    def _data(self, stmt: Data) -> Any:
        """The address of a constant array: of this module, or from the table of the context."""
        b = self.builder
        if stmt.place is not None:
            table = b.load(self._word(ARRAYS), typ=PTR)
            return b.load(b.gep(table, [I64(stmt.place)], inbounds=True, source_etype=I64), typ=PTR)
        raw = bytearray(stmt.array.tobytes())
        name = f"data.{hashlib.blake2b(raw, digest_size=16).hexdigest()}"
        known = self.module.globals.get(name)
        if known is None:
            known = ir.GlobalVariable(self.module, ir.ArrayType(I8, len(raw)), name)
            known.initializer = ir.Constant(known.value_type, raw)
            known.global_constant, known.linkage, known.align = True, "private", _ALIGN
        return b.bitcast(known, PTR)

    def _routine(self, routine: Routine, name: str) -> Any:
        """Write a routine, as a function of the module's own."""
        types = [llvm_type(p.dtype) for p in routine.params]
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), types), name)
        function.linkage = "internal"
        outer = self.state()
        self.begin(function, function.append_basic_block("entry"), None)
        for param, value in zip(routine.params, function.args, strict=True):
            self.define(param, value)
        self.statements(routine.body)
        self.builder.ret_void()
        self.restore(outer)
        return function

    def fail(self, stmt: Fail) -> None:
        condition, depth = self._value(stmt.condition)
        with self._at(depth):
            going_on = self.function.append_basic_block("on")
            self.builder.cbranch(condition, self.failed, going_on)
            self.builder.position_at_end(going_on)

    def loop(self, stmt: For) -> None:
        for pointer in _written(stmt.body):  # what is known of it holds in the first iteration only
            self.forget(pointer)
        widths = vector_widths(stmt)
        if isinstance(stmt.stop, Const) and widths == [stmt.stop.value]:
            self.define(stmt.var, I64(0))
            return VectorBody(self, stmt, widths[0]).emit()
        stop = self.value(stmt.stop)
        inits = [self.value(c.init) for c in stmt.carried]
        start: Any = I64(0)
        for width in widths:  # ever narrower, each from where the one before stopped
            overlaps = stmt.tile and width == widths[-1]
            start = self._overlapping(stmt, width, start, stop) if overlaps else self._vectors(stmt, width, start, stop)
        if widths and has_masks(stmt):
            return self._rest(stmt, widths[-1], start, stop)
        start, inits = self._combined(stmt, start, stop, inits)
        rows = [v for c in stmt.columns for v in self._first_rows(c)]
        frame = self.open(start, stop, 1, [*inits, *rows])
        self.define(stmt.var, frame.t)
        n = len(inits)
        names = [*[c.var for c in stmt.carried], *[c.pointer for c in stmt.columns]]
        for var, phi in zip(names, [*frame.phis[:n], *frame.phis[n::2]], strict=True):
            self.define(var, phi)
        if stmt.label:
            self._late.update(c.var for c in stmt.carried)
        self.statements(stmt.body)
        nexts = [self.value(c.next) for c in stmt.carried if c.next is not None]
        until = self.value(stmt.until) if stmt.until is not None else None
        rows = [
            v
            for c, p, q in zip(stmt.columns, frame.phis[n::2], frame.phis[n + 1 :: 2], strict=True)
            for v in self._grown(c, p, q, frame)
        ]
        finals, trips = self.close(frame, [*nexts, *rows], until, stmt.trips is not None)
        names = [*[c.result for c in stmt.carried], *[c.result for c in stmt.columns]]
        for var, final in zip(names, [*finals[:n], *finals[n::2]], strict=True):
            self.define(var, final)
        if stmt.trips is not None:
            self.define(stmt.trips, trips)

    def _vectors(self, stmt: For, width: int, start: Any, stop: Any) -> Any:
        """Iterations many at a time; where they end."""
        reached = self.builder.and_(stop, I64(-width))
        frame = self.open(start, reached, width, [])
        self.define(stmt.var, frame.t)
        VectorBody(self, stmt, width).emit()
        self.close(frame, [])
        return reached

    def _rest(self, stmt: For, width: int, start: Any, stop: Any) -> None:
        """The last iterations as one vector, of which only so many elements count: there are less than `width`."""
        if isinstance(stmt.stop, Const) and stmt.stop.value % width == 0:
            return
        b = self.builder
        left = b.sub(stop, start)
        with self._if(b.icmp_signed(">", left, I64(0))):
            self.define(stmt.var, start)
            places = ir.Constant(ir.VectorType(I64, width), list(range(width)))
            VectorBody(self, stmt, width, b.icmp_signed("<", places, splat(b, left, width))).emit()

    @contextmanager
    def _if(self, condition: Any) -> Iterator[None]:
        """What is emitted meanwhile runs if a condition holds; its invariants are computed in any case."""
        b = self.builder
        before = b.block
        enter, body, after = (self.function.append_basic_block(n) for n in ("enter", "body", "after"))
        b.branch(enter)
        b.position_at_end(enter)
        b.cbranch(condition, body, after)
        b.position_at_end(body)
        self.scopes.append(Scope(before, enter, len(self.scopes)))
        yield
        assert not self.scopes.pop().takes_memory, "a vector takes no memory"
        b.branch(after)
        b.position_at_end(after)

    def _overlapping(self, stmt: For, width: int, start: Any, stop: Any) -> Any:
        """All the rest many at a time, if there are enough: the last ones a second time, with the same results."""
        b = self.builder
        reached = b.select(b.icmp_signed(">=", stop, I64(width)), stop, start)
        frame = self.open(start, reached, width, [])
        latest = b.sub(stop, I64(width))
        self.define(stmt.var, b.select(b.icmp_signed("<", frame.t, latest), frame.t, latest))
        VectorBody(self, stmt, width).emit()
        self.close(frame, [])
        return reached

    def _combined(self, stmt: For, start: Any, stop: Any, inits: list[Any]) -> tuple[Any, list[Any]]:
        """Many iterations at a time of a loop that only sums up: where they end, and what is carried there."""
        width, parts = combining_width(stmt)
        if not width or (isinstance(stmt.stop, Const) and stmt.stop.value < width):
            return start, inits
        b = self.builder
        reached = b.and_(stop, I64(-width))
        lanes = [start_of_lanes(b, c, i, width) for c, i in zip(parts, inits, strict=True)]
        frame = self.open(start, reached, width, lanes)
        self.define(stmt.var, frame.t)
        lanes, _ = self.close(frame, VectorBody(self, stmt, width).combine(parts, frame.phis))
        return reached, [joined_lanes(b, c, i, v) for c, i, v in zip(parts, inits, lanes, strict=True)]

    def _first_rows(self, column: Column) -> tuple[Any, Any]:
        """Memory for the first rows of a column, and for how many."""
        rows = self.value(column.first)
        rows = self.builder.add(rows, I64(column.more)) if column.more else rows
        self.scopes[-1].takes_memory = True
        return self._taken([(column.dtype, self.builder.mul(rows, self.value(column.row)))])[0], rows

    def _grown(self, column: Column, pointer: Any, room: Any, frame: Frame) -> tuple[Any, Any]:
        """The memory of a column for the next iteration: twice as much, and a copy, where the room is used up.

        It belongs to the scope outside, so what this iteration took is given back before.
        """
        b = self.builder
        if self.scopes[-1].takes_memory:
            b.store(self._top(frame), self._word(TOP))
            self.scopes[-1].takes_memory = False
        used = b.add(frame.t, I64(1)) if column.used is None else self.value(column.used)
        stop = frame.stop
        if column.more:
            used, stop = b.add(used, I64(column.more)), b.add(stop, I64(column.more))
        full = b.and_(b.icmp_signed("==", used, room), b.icmp_signed("<", used, stop))
        here, grow, on = b.block, self.function.append_basic_block("grow"), self.function.append_basic_block("on")
        b.cbranch(full, grow, on)
        b.position_at_end(grow)
        double = b.mul(room, I64(2))
        larger = b.select(b.icmp_signed("<", double, stop), double, stop)
        row = self.value(column.row)
        (new,) = self._taken([(column.dtype, b.mul(larger, row))])
        n_bytes = b.mul(b.mul(room, row), I64(item_size(column.dtype)))
        b.call(self._memcpy(), [new, pointer, n_bytes, ir.Constant(ir.IntType(1), 0)])
        grown = b.block
        b.branch(on)
        b.position_at_end(on)
        pairs = []
        for before, after in ((pointer, new), (room, larger)):
            phi = self._phi(before, here)
            phi.add_incoming(after, grown)
            pairs.append(phi)
        return pairs[0], pairs[1]

    def _memcpy(self) -> Any:
        name = "llvm.memcpy.p0.p0.i64"
        known = self.module.globals.get(name)
        return known or ir.Function(self.module, ir.FunctionType(ir.VoidType(), [PTR, PTR, I64, ir.IntType(1)]), name)

    def open(self, start: Any, stop: Any, step: int, inits: list[Any]) -> Frame:
        """Begin a loop whose variable goes from start to stop; what is emitted next is its body."""
        b = self.builder
        before = b.block
        enter, body, after = (self.function.append_basic_block(n) for n in ("enter", "body", "after"))
        b.branch(enter)
        b.position_at_end(enter)
        b.cbranch(b.icmp_signed("<", start, stop), body, after)
        b.position_at_end(body)
        t = self._phi(start, enter)
        phis = [self._phi(init, enter) for init in inits]
        self.scopes.append(Scope(before, enter, len(self.scopes)))
        return Frame(t, phis, start, stop, step, inits, enter, body, after)

    def _top(self, frame: Frame) -> Any:
        """How much of the workspace was taken when an iteration began."""
        b = Builder(frame.body)
        b.position_after_phis(frame.body)
        return b.load(b.gep(self.context, [I64(TOP)], inbounds=True, source_etype=I64), typ=I64)

    def close(self, frame: Frame, nexts: list[Any], until: Any = None, counts: bool = False) -> tuple[list[Any], Any]:
        """End a loop: what it carried after the last iteration (or at first), and on demand where it stopped."""
        b = self.builder
        if self.scopes.pop().takes_memory:
            b.store(self._top(frame), self._word(TOP))
        following = b.call(_HIDDEN, [b.add(frame.t, I64(frame.step))])
        again = b.icmp_signed("<", following, frame.stop)
        latch = b.block
        b.cbranch(again if until is None else b.and_(again, until), frame.body, frame.after)
        for phi, value in zip([frame.t, *frame.phis], [following, *nexts], strict=True):
            phi.add_incoming(value, latch)
        b.position_at_end(frame.after)
        finals = [self._joined(first, value, frame, latch) for first, value in zip(frame.inits, nexts, strict=True)]
        return finals, self._joined(frame.start, following, frame, latch) if counts else None

    def _joined(self, first: Any, last: Any, frame: Frame, latch: Any) -> Any:
        phi = self._phi(first, frame.enter)
        phi.add_incoming(last, latch)
        return phi

    def _phi(self, first: Any, before: Any) -> Any:
        phi = self.builder.phi(first.type)
        phi.add_incoming(first, before)
        return phi


def _written(body: Sequence[Stmt]) -> Iterator[Expr]:
    """The pointers that statements write to, those in loops included."""
    for stmt in body:
        if isinstance(stmt, Store):
            yield stmt.pointer
        elif isinstance(stmt, Call):
            yield stmt.writes
        elif isinstance(stmt, Extern):
            yield from stmt.writes
        elif isinstance(stmt, For):
            yield from _written(stmt.body)
