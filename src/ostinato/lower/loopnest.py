"""The loop nest: the imperative form of a computation, a grammar that fits on a page.

    expr  = Const | Var | Op(name, exprs) | Load(pointer, offset)
    stmt  = Let(var, expr)                          evaluate now, name the value
          | Store(pointer, offset, expr)            offsets count elements
          | Alloc(var, count, result)               memory that lives until the end of the enclosing scope
          | For(var, stop, body, carried, until)    var counts 0, 1, …; carried values pass from pass to pass
          | Fail(condition)                         give up; the reference interpreter says why
          | Call(routine, exprs)                    a loop nest with params of its own, written once
          | CallOut(site, words, results)           an op's NumPy reference computes; its results lie where it says
          | Data(var, array)                        the address of a constant array
          | Extern(symbol, exprs, info)             a library's function; scalars are passed by reference
          | Split(first, n, count, body)            lanes first, …, first + n - 1 of count, in any number of parts
    Carried(var, init, next, result)                like a phi: var within the loop, result after it
    Column(pointer, result, first, row, dtype)      memory of a For for one row per iteration, growing as it goes

Values of dtype "ptr" are addresses; "bool" is a truth value, one byte in memory. Every iteration of a
`For` is a scope: what it allocates is gone when it ends. Expressions are pure and interned by the
`Nest` that builds them, so that a backend may evaluate an expression once per scope; a `Let` marks
where a value must be read before memory changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from ostinato.lower.expressions import Const, Expr, Load, Op, Var, parts_of
from ostinato.lower.integers import Integers

__all__ = [
    "Alloc", "Call", "CallOut", "Carried", "Column", "Const", "Data", "Expr", "Extern", "Fail", "For", "Knows", "Let",
    "Load", "Nest", "Op", "Routine", "Split", "Stmt", "Store", "Var", "format_expr", "format_nest",
]  # fmt: skip


@dataclass(frozen=True, eq=False, slots=True)
class Let:
    var: Var
    value: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Store:
    pointer: Expr
    offset: Expr
    value: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Alloc:
    """`result`: where among the words of the results the address is noted, for memory that the caller keeps.

    `holds`: what it is for, in words.
    """

    var: Var
    count: Expr
    dtype: str
    result: int | None = None
    holds: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class Fail:
    condition: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Routine:
    """A loop nest as a function of its params; it takes no memory and does not fail."""

    name: str
    params: tuple[Var, ...]
    body: list[Stmt]


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """`writes`: the pointer to what the routine changes."""

    routine: Routine
    args: tuple[Expr, ...]
    writes: Expr


@dataclass(frozen=True, eq=False, slots=True)
class CallOut:
    """A call of the reference of the node `Nest.sites[site]`.

    `words`: per operand its address, its sizes and its strides, counted in elements. `results`: per result its
    address and its sizes, which are known after the call. The results stay until the same statement is
    executed again; nobody may write to them. Routines have no call-outs.
    """

    site: int
    words: tuple[Expr, ...]
    results: tuple[Var, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Data:
    """`place`: where the array stands in `Nest.arrays`; None if it is written into the code."""

    var: Var
    array: np.ndarray[Any, Any]
    place: int | None


@dataclass(frozen=True, eq=False, slots=True)
class Extern:
    """A call of a Fortran routine of a library, such as `lapack.dpotrf`, or of a kernel.

    Fortran takes everything by reference: args that are no addresses are put somewhere, and their address is
    passed, unless `by_value`. `writes`: the pointers to what the routine changes. `info`: where the routine has a
    last argument that says how it went, the int64 variable that holds it afterwards.
    """

    symbol: str
    args: tuple[Expr, ...]
    writes: tuple[Expr, ...]
    info: Var | None = None
    by_value: bool = False


@dataclass(eq=False, slots=True)
class Carried:
    """A value that passes from one iteration to the next; `next` is set when the body is complete."""

    var: Var
    init: Expr
    result: Var
    next: Expr | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Column:
    """Rows of a number of elements, one per iteration of a loop whose length is not known beforehand.

    There is room for `first` rows when the loop begins; it doubles whenever it is used up. `pointer` is
    the address of row 0 within the loop, `result` after it. `used`: how many rows there are after an
    iteration, if not as many as iterations. `more`: there is room for so many further rows at any time; there is
    from the beginning, besides `first`.
    """

    pointer: Var
    result: Var
    first: Expr
    row: Expr
    dtype: str
    used: Expr | None = None
    more: int = 0


@dataclass(eq=False, slots=True)
class For:
    """`until`: an expression of the body; where it is false no further iteration follows.
    `trips`: the number of iterations made. `parallel`: iterations are independent of each other.
    `label`: which loop of the program it is, if it is one. `in_place`: how many arrays it passes on in one buffer.
    `conditional`: there is one iteration or none.
    `tile`: each iteration makes all steps of a loop of the program, for one of its lanes, and may be made twice."""

    var: Var
    stop: Expr
    body: list[Stmt]
    carried: list[Carried] = field(default_factory=list)
    until: Expr | None = None
    trips: Var | None = None
    parallel: bool = False
    columns: list[Column] = field(default_factory=list)
    label: str = ""
    in_place: int = 0
    conditional: bool = False
    tile: bool = False


@dataclass(eq=False, slots=True)
class Split:
    """Work on `count` lanes that are independent of each other: the body does it for the `n` lanes from `first` on.

    It is executed for parts of the lanes, at least once, in several threads at the same time. `work`: what all of
    it costs, in additions. `least`: a part has so many lanes, or a multiple. It has no call-outs, keeps no
    memory for results, and no other `Split` is in it.
    `label`: which loop of the program it is.
    """

    first: Var
    n: Var
    count: Expr
    work: Expr
    least: int
    body: list[Stmt]
    label: str = ""


Stmt = Let | Store | Alloc | Fail | Call | CallOut | Data | Extern | Split | For


# Nested loops of so many iterations are written out.
_UNROLLED = 16
# The fewest elements of a row that are computed as one vector.
_FEWEST_AT_ONCE = 3
# Of how many expressions at most.
_LONGEST_AT_ONCE = 200

# (name, dtypes of the operands, dtype of the result) -> whether a backend has this scalar operation.
Knows = Callable[[str, Sequence[str], str], bool]

# Constant arrays of more bytes are no part of the code: they are handed over with each call.
_LARGEST_IN_CODE = 1 << 16


class Nest:
    """A loop nest under construction: interned expressions, and statements where the cursor is.

    Attributes
    ----------
    integers : what is known of sizes and other integers.
    knows : the scalar operations of the backend for which it is made; None for any.
    called_out : nodes that call their reference, whatever rule they have.
    whole : loops that are not divided into lanes.
    tiles : whether the backend makes iterations of a loop many at a time; None for none at all.
    untiled : loops of which it cannot.
    panels : the columns of a panel of a packed matrix, for dtypes with kernels of products.
    sites : the node of each `CallOut`.
    arrays : constants that are handed over with each call.
    emitted : the number of statements so far.
    purpose : what memory that is allocated now is for, in words.
    """

    def __init__(
        self,
        knows: Knows | None = None,
        optimistic: bool = False,
        called_out: Collection[Any] = (),
        whole: Collection[Any] = (),
        panels: Mapping[str, int] | None = None,
        tiles: Callable[[For], bool] | None = None,
        untiled: Collection[Any] = (),
    ) -> None:
        self.integers = Integers(self, optimistic)
        self.knows, self.called_out, self.whole = knows, called_out, whole
        self.tiles, self.untiled = tiles, untiled
        self.panels = panels or {}
        self.sites: list[Any] = []
        self.arrays: list[np.ndarray[Any, Any]] = []
        self.emitted = 0
        self.purpose = ""
        self.body: list[Stmt] = []
        self._cursor = self.body
        self._repeating = 0  # how many loops (and routines) enclose the cursor
        self._interned: dict[Any, Expr] = {}
        self._count = itertools.count()
        self._serials: dict[Var, int] = {}
        self._outside: dict[For | Split, list[Stmt]] = {}  # what comes before a loop that is being made
        self.routines: dict[str, Routine] = {}
        self.splits = False  # whether there is a `Split`
        self.one_blas_thread = False  # whether it calls a library where threads would cost more than they bring

    @property
    def in_loop(self) -> bool:
        """Whether what is emitted now may run more than once."""
        return self._repeating > 0

    # ---- expressions ----

    def const(self, value: Any, dtype: str = "int64") -> Expr:
        # By representation, which tells 0.0 from -0.0 and is the same for equal NaNs.
        return self._interned.setdefault(("const", repr(value), dtype), Const(value, dtype))

    def var(self, name: str, dtype: str) -> Var:
        serial = next(self._count)
        var = Var(f"{name}.{serial}", dtype)
        self._serials[var] = serial
        return var

    def op(self, name: str, *args: Expr, dtype: str | None = None) -> Expr:
        """An operation; arithmetic of known integers is done at once."""
        known = self.integers.fold(name, args)
        if isinstance(known, (bool, int)):
            return self.const(known, "bool" if isinstance(known, bool) else "int64")
        if known is not None:
            return known
        key = (name, args, dtype)
        return self._interned.setdefault(key, Op(name, args, dtype or args[0].dtype))

    def load(self, pointer: Expr, offset: Expr, dtype: str) -> Expr:
        return self._interned.setdefault(("load", pointer, offset, dtype), Load(pointer, offset, dtype))

    def add(self, a: Expr, b: Expr) -> Expr:
        return self.op("add", a, b)

    def mul(self, a: Expr, b: Expr) -> Expr:
        return self.op("mul", a, b)

    # ---- statements ----

    def emit(self, stmt: Stmt) -> None:
        self.emitted += 1
        self._cursor.append(stmt)

    def emit_store(self, pointer: Expr, offset: Expr, value: Expr) -> None:
        self.emit(Store(pointer, offset, value))

    def fail_if(self, condition: Expr) -> None:
        if not isinstance(condition, Const) or condition.value:
            self.emit(Fail(condition))

    def let(self, value: Expr, name: str = "v") -> Expr:
        """The value, evaluated here; constants and variables need no name."""
        if isinstance(value, (Const, Var)):
            return value
        var = self.var(name, value.dtype)
        self.emit(Let(var, value))
        if value.dtype == "int64" and isinstance(value, Op):
            self.integers.define(var, value)
        return var

    def alloc(self, count: Expr, dtype: str) -> Var:
        var = self.var("buffer", "ptr")
        self.emit(Alloc(var, count, dtype, holds=self.purpose))
        return var

    @contextmanager
    def memory_for(self, purpose: str) -> Iterator[None]:
        """Memory that is allocated within the `with` block is for something, in words."""
        outer, self.purpose = self.purpose, purpose
        try:
            yield
        finally:
            self.purpose = outer

    def call_out(self, node: Any, words: Sequence[Expr], results: Sequence[Var]) -> None:
        self.emit(CallOut(len(self.sites), tuple(words), tuple(results)))
        self.sites.append(node)

    def data(self, array: np.ndarray[Any, Any]) -> Var:
        """The address of a constant array in C order."""
        place = None
        if array.nbytes > _LARGEST_IN_CODE:
            known = [k for k, a in enumerate(self.arrays) if a is array]
            place = known[0] if known else len(self.arrays)
            if not known:
                self.arrays.append(array)
        var = self.var("data", "ptr")
        self.emit(Data(var, array, place))
        return var

    def relocate(self, loop: For, pointer: Expr, place: Expr, sizes: Sequence[tuple[Expr, Expr]]) -> bool:
        """Let memory that each iteration of a loop takes lie at a place that is there anyway; whether that can be.

        `sizes`: pairs that must be equal, or else the memory would not fit.
        """
        for k, stmt in enumerate(loop.body):
            if isinstance(stmt, Alloc) and stmt.var is pointer:
                # The checks must be made here; that sizes are known to be equal may be due to checks further down.
                checks = [Fail(Op("neq", pair, "bool")) for pair in sizes if pair[0] is not pair[1]]
                loop.body[k : k + 1] = [*checks, Let(stmt.var, place)]
                return True
        return False

    def can_keep(self, pointer: Expr) -> bool:
        """Whether memory is allocated here, out of all loops."""
        return any(isinstance(stmt, Alloc) and stmt.var is pointer for stmt in self.body)

    def keep(self, pointer: Expr, word: int) -> None:
        """Let the caller keep the memory at `pointer`, its address in a word of the results."""
        for k, stmt in enumerate(self.body):
            if isinstance(stmt, Alloc) and stmt.var is pointer:
                self.body[k] = replace(stmt, result=word)

    def call(self, name: str, args: Mapping[str, Expr], writes: Expr, body: Callable[[dict[str, Expr]], None]) -> None:
        """A call of the routine `name`; where there is none yet, `body` writes it in terms of its params."""
        if name not in self.routines:
            params = {n: self.var(n, e.dtype) for n, e in args.items()}
            outer, self._cursor = self._cursor, []
            self._repeating += 1
            try:
                body(dict(params))
                self.routines[name] = Routine(name, tuple(params.values()), self._cursor)
            finally:
                self._cursor = outer
                self._repeating -= 1
        self.emit(Call(self.routines[name], tuple(args.values()), writes))

    def extern(self, symbol: str, args: list[Expr], writes: list[Expr], has_info: bool = False) -> Expr | None:
        """A call of a library's routine; its `info` if it has one, 0 where all is well."""
        info = self.var("info", "int64") if has_info else None
        self.emit(Extern(symbol, tuple(args), tuple(writes), info))
        return info

    def kernel(self, symbol: str, args: list[Expr], writes: Expr) -> None:
        """A call of a function that takes its arguments as they are."""
        self.emit(Extern(symbol, tuple(args), (writes,), by_value=True))

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """Statements for where a condition holds: a loop of one iteration or of none."""
        with self.loop(self.op("cast", condition, dtype="int64"), "once") as once:
            once.conditional = True
            self._repeating -= 1
            try:
                yield
            finally:
                self._repeating += 1

    @contextmanager
    def loop(self, stop: Expr, name: str = "i", parallel: bool = False) -> Iterator[For]:
        """A loop; statements emitted within the `with` block are its body."""
        loop = For(self.integers.count(self.var(name, "int64")), stop, [], parallel=parallel)  # type: ignore[arg-type]
        outer, self._cursor = self._cursor, loop.body
        self._outside[loop] = outer
        self._repeating += 1
        try:
            yield loop
        finally:
            self._cursor = outer
            self._repeating -= 1
        self.emit(loop)

    @contextmanager
    def split(self, count: Expr, work: Expr, least: int) -> Iterator[Split]:
        """Lanes in parts; statements emitted within the `with` block are the body."""
        part = Split(self.var("first", "int64"), self.var("n", "int64"), count, work, least, [])
        self.integers.count(part.first)
        self.integers.count(part.n)
        outer, self._cursor = self._cursor, part.body
        self._outside[part] = outer
        self._repeating += 1
        try:
            yield part
        finally:
            self._cursor = outer
            self._repeating -= 1
        self.splits = True
        self.emit(part)

    @contextmanager
    def before(self, loop: For | Split) -> Iterator[None]:
        """While a loop is being made: statements emitted within the `with` block come before it."""
        inner, self._cursor = self._cursor, self._outside[loop]
        try:
            yield
        finally:
            self._cursor = inner

    def is_known_before(self, loop: For, expr: Expr) -> bool:
        """Whether an expression, which reads no memory, can be evaluated before a loop that is being made."""
        if isinstance(expr, Var):
            return self._serials[expr] < self._serials[loop.var]
        return isinstance(expr, Const) or (
            isinstance(expr, Op) and all(self.is_known_before(loop, a) for a in expr.args)
        )

    def carry(self, loop: For, init: Expr, name: str) -> Carried:
        carried = Carried(self.var(name, init.dtype), init, self.var(name, init.dtype))
        loop.carried.append(carried)
        return carried

    def column(self, loop: For, first: Expr, row: Expr, dtype: str, used: Expr | None = None, more: int = 0) -> Column:
        column = Column(self.var("rows", "ptr"), self.var("rows", "ptr"), first, row, dtype, used, more)
        loop.columns.append(column)
        return column

    def for_each(self, stops: list[Expr], body: Callable[[list[Expr]], None]) -> None:
        """Nested parallel loops over all index tuples; the innermost loops of a few known iterations are unrolled."""
        unrolled, n = len(stops), 1
        while unrolled and isinstance(last := stops[unrolled - 1], Const) and n * last.value <= _UNROLLED:
            unrolled -= 1
            n *= last.value

        def nest(done: list[Expr]) -> None:
            if len(done) == len(stops):
                return body(done)
            stop = stops[len(done)]
            if len(done) == len(stops) - 1 >= 1 and self._as_one_vector(stop, lambda i: body([*done, i])):
                return None
            if isinstance(stop, Const) and (stop.value == 1 or len(done) >= unrolled):
                for i in range(stop.value):
                    nest([*done, self.const(i)])
                return None
            with self.loop(stop, parallel=True) as loop:
                nest([*done, loop.var])
            return None

        nest([])

    def _as_one_vector(self, stop: Expr, body: Callable[[Expr], None]) -> bool:
        """Write a loop of few iterations, of a number known beforehand, if a backend makes all of them at once."""
        if self.tiles is None or not isinstance(stop, Const) or not _FEWEST_AT_ONCE <= stop.value <= _UNROLLED:
            return False
        with self.loop(stop, parallel=True) as loop:
            body(loop.var)
        # An element that is chosen among many by its index is a long expression, and better known beforehand.
        parts = parts_of([s.value for s in loop.body if isinstance(s, (Let, Store))])
        if sum(1 for _ in parts) <= _LONGEST_AT_ONCE and self.tiles(loop):
            return True
        self._cursor.pop()
        return False


# ---- text -----------------------------------------------------------------------------------------


def format_nest(body: list[Stmt], indent: str = "") -> str:
    """A loop nest as text, for readers and golden tests."""
    return "\n".join(line for stmt in body for line in _lines(stmt, indent))


def format_expr(expr: Expr, names: Mapping[Expr, str] = MappingProxyType({})) -> str:
    """An expression as text, with names for some of its parts."""
    if expr in names:
        return names[expr]
    if isinstance(expr, Const):
        return f"{expr.value}"
    if isinstance(expr, Var):
        return expr.name
    if isinstance(expr, Load):
        return f"{format_expr(expr.pointer, names)}[{format_expr(expr.offset, names)}]"
    return f"{expr.name}({', '.join([format_expr(a, names) for a in expr.args])})"


# An expression of more parts is written with names for those that occur more than once: else its text may
# be far longer than it is.
_LONG_TEXT = 100


def _named_parts(value: Expr, indent: str) -> tuple[list[str], str]:
    """Lines that name parts of a long expression, and its text in terms of them."""
    order: list[Expr] = []
    stack: list[tuple[Expr, bool]] = [(value, False)]
    parents: dict[Expr, int] = {}
    while stack:
        expr, complete = stack.pop()
        if complete:
            order.append(expr)
        elif expr not in parents:
            parents[expr] = 0
            stack.append((expr, True))
            stack += [(a, False) for a in (expr.args if isinstance(expr, Op) else ())]
    sizes: dict[Expr, int] = {}
    for expr in order:
        args = expr.args if isinstance(expr, Op) else ()
        sizes[expr] = 1 + sum(sizes[a] for a in args)
        for a in args:
            parents[a] += 1
    if sizes[value] <= _LONG_TEXT:
        return [], format_expr(value)
    names: dict[Expr, str] = {}
    lines = []
    for expr in order:
        if isinstance(expr, Op) and parents[expr] > 1:
            text = format_expr(expr, names)
            names[expr] = f"part.{len(names)}"
            lines.append(f"{indent}{names[expr]} = {text}")
    return lines, format_expr(value, names)


def _lines(stmt: Stmt, indent: str) -> Iterator[str]:
    if isinstance(stmt, Let):
        parts, value = _named_parts(stmt.value, indent)
        yield from parts
        yield f"{indent}{stmt.var.name} = {value}"
    elif isinstance(stmt, Store):
        parts, value = _named_parts(stmt.value, indent)
        yield from parts
        yield f"{indent}{format_expr(stmt.pointer)}[{format_expr(stmt.offset)}] = {value}"
    elif isinstance(stmt, Alloc):
        kept = "" if stmt.result is None else f" kept as results[{stmt.result}]"
        yield f"{indent}{stmt.var.name} = alloc {stmt.dtype}[{format_expr(stmt.count)}]{kept}"
    elif isinstance(stmt, Fail):
        yield f"{indent}fail if {format_expr(stmt.condition)}"
    elif isinstance(stmt, Call):
        yield f"{indent}call {stmt.routine.name}({', '.join(map(format_expr, stmt.args))})"
    elif isinstance(stmt, CallOut):
        results = ", ".join(r.name for r in stmt.results)
        yield f"{indent}{results} = call out {stmt.site}({', '.join(map(format_expr, stmt.words))})"
    elif isinstance(stmt, Data):
        yield f"{indent}{stmt.var.name} = data {stmt.array.dtype}{list(stmt.array.shape)}"
    elif isinstance(stmt, Extern):
        info = f"{stmt.info.name} = " if stmt.info is not None else ""
        yield f"{indent}{info}extern {stmt.symbol}({', '.join(map(format_expr, stmt.args))})"
    elif isinstance(stmt, Split):
        yield f"{indent}split {format_expr(stmt.count)} lanes, at {stmt.first.name} for {stmt.n.name}:"
        for inner in stmt.body:
            yield from _lines(inner, indent + "  ")
    else:
        inits = ", ".join(f"{c.var.name} = {format_expr(c.init)}" for c in stmt.carried)
        kind = "parallel for" if stmt.parallel else "for"
        yield f"{indent}{kind} {stmt.var.name} < {format_expr(stmt.stop)}{' carrying ' + inits if inits else ''}:"
        for c in stmt.columns:
            used = "" if c.used is None else f", {format_expr(c.used)} used,"
            used += f" and {c.more} more" if c.more else ""
            yield f"{indent}  column {c.pointer.name} of {c.dtype}[{format_expr(c.row)}]{used} -> {c.result.name}"
        for inner in stmt.body:
            yield from _lines(inner, indent + "  ")
        if stmt.until is not None:
            yield f"{indent}  while {format_expr(stmt.until)}"
        nexts = ", ".join(format_expr(c.next) for c in stmt.carried if c.next is not None)
        if nexts:
            yield f"{indent}  next {nexts} -> {', '.join(c.result.name for c in stmt.carried)}"
