"""What a loop nest consists of, in words: its loops in order, and its memory. For `Function.explain`."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ostinato.lower.callouts import bytes_of
from ostinato.lower.expressions import parts_of
from ostinato.lower.loopnest import Alloc, Call, CallOut, Const, Expr, Extern, For, Let, Op, Split, Stmt
from ostinato.lower.program import Program

_SIGNS = {"add": " + ", "sub": " - ", "mul": " * "}
_ALIGN = 64  # what memory begins at a multiple of
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floor_div": lambda a, b: a // b,
    "maximum": max,
    "minimum": min,
}


class Inventory:
    """The loops and the memory of a program.

    Parameters
    ----------
    program : Program
    lanes : how many iterations of a loop the backend computes at a time.
    """

    def __init__(self, program: Program, lanes: Callable[[For], int]) -> None:
        self.program, self._lanes = program, lanes
        statements = list(_all(program.nest.body))
        self._definitions: dict[Expr, Expr] = {s.var: s.value for s in statements if isinstance(s, Let)}
        self._definitions |= {s.n: s.count for s in statements if isinstance(s, Split)}  # in all parts together

    # ---- loops ----

    def loops(self) -> list[str]:
        """A line per loop, per call of a routine or a library, and per call-out; indented like the nest."""
        return list(self._described(self.program.nest.body, "  "))

    def _described(self, body: Sequence[Stmt], indent: str) -> Iterator[str]:
        lines = [line for stmt in body for line in self._statement(stmt, indent)]
        while lines:  # one line for lines that say the same
            n = next((k for k, line in enumerate(lines) if line != lines[0]), len(lines))
            yield lines[0] + (f" ({n} times)" if n > 1 else "")
            del lines[:n]

    def _statement(self, stmt: Stmt, indent: str) -> Iterator[str]:
        if isinstance(stmt, For) and stmt.conditional:
            yield f"{indent}if a condition holds:"
            yield from self._described(stmt.body, indent + "  ")
        elif isinstance(stmt, For):
            inner, dims = _innermost(stmt)
            yield indent + self._loop(inner, " x ".join(map(self.formula, dims)))
            if not inner.tile:
                yield from self._described(inner.body, indent + "  ")
        elif isinstance(stmt, Split):
            yield f"{indent}{self.formula(stmt.count)} lanes, in parts that threads may share:"
            yield from self._described(stmt.body, indent + "  ")
        elif isinstance(stmt, Call):
            yield f"{indent}call of {stmt.routine.name}"
        elif isinstance(stmt, Extern):
            yield f"{indent}call of {stmt.symbol}"
        elif isinstance(stmt, CallOut):
            yield f"{indent}call of NumPy: {self.program.nest.sites[stmt.site].op.name}"

    def _loop(self, loop: For, times: str) -> str:
        if loop.tile:
            steps = next(s for s in loop.body if isinstance(s, For))
            made = f"{self.formula(steps.stop)} steps, one after the other, of {times} lanes"
            until = "" if steps.until is None else ", each until nothing in it changes"
            return f"{loop.label}: {made}, in tiles of {self._lanes(loop)} lanes kept in registers{until}"
        if loop.label:
            arrays = [c.var.dtype for c in loop.carried].count("ptr")  # two pointers each
            state = [
                (len(loop.carried) - arrays, "number", "in registers"),
                (arrays // 2, "array", "in memory"),
                (loop.in_place, "array", "changed in place"),
            ]
            carried = " and ".join(f"{_number(n, what)} {where}" for n, what, where in state if n) or "no state"
            until = ", until a condition" if loop.until is not None else ""
            return f"{loop.label}: {times} steps, one after the other{until}, with {carried}"
        lanes = self._lanes(loop)
        width = f", {lanes} at a time" if lanes else ""
        if loop.parallel:
            return f"for {times} elements{width}"
        return f"over {times}, carrying {_number(len(loop.carried), 'number')}{width}"

    # ---- memory ----

    def memory(self, values: Mapping[str, int] | None) -> list[str]:
        """Lines with the bytes of results and of what is kept on the way, as formulas or, for given sizes, numbers."""
        allocs = [s for s in _all(self.program.nest.body) if isinstance(s, Alloc)]
        kept = [a for a in allocs if a.result is not None]
        lines = [f"  results: {self._bytes(kept, values)}"] if kept else []
        grows = any(isinstance(s, For) and s.columns for s in _all(self.program.nest.body))
        rows = ", and rows of loops that end by a condition" if grows else ""
        return [*lines, f"  on the way: {self._bytes([a for a in allocs if a.result is None], values)}{rows}"]

    def measure(self, values: Mapping[str, int]) -> Measured:
        """The bytes of a call for given sizes and integers."""
        return Measure(self, values).measured()

    def _bytes(self, allocs: Sequence[Alloc], values: Mapping[str, int] | None) -> str:
        if values is not None:
            measure = Measure(self, values)
            found = [measure.count(a) for a in allocs]
            total = sum(n * bytes_of(a.dtype) for n, a in zip(found, allocs, strict=True) if n is not None)
            unknown = f", and {_number(found.count(None), 'buffer')} whose size depends on values"
            return f"{total}{unknown if None in found else ''}"
        products: Counter[str] = Counter()  # bytes by how often they are taken
        for a in allocs:
            factors = [self._factor(f) for f in _factors(self._defined(a.count))]
            number = math.prod(int(f) for f in factors if f.isdecimal())
            products[" * ".join(sorted(f for f in factors if not f.isdecimal()))] += number * bytes_of(a.dtype)
        return " + ".join(f"{n} * {times}" if times else f"{n}" for times, n in products.items()) or "0"

    def _defined(self, expr: Expr) -> Expr:
        while expr in self._definitions and expr not in self.program.names:
            expr = self._definitions[expr]
        return expr

    # ---- integers ----

    def formula(self, expr: Expr) -> str:
        """An integer in terms of the sizes of params; `?` where it depends on anything else."""
        if expr in self.program.names:
            return self.program.names[expr]
        if isinstance(expr, Const):
            return str(expr.value)
        if expr in self._definitions:
            return self.formula(self._definitions[expr])
        if not isinstance(expr, Op):
            return "?"
        if expr.name == "mul":
            return " * ".join(map(self._factor, _factors(expr)))
        parts = [self.formula(a) for a in expr.args]
        known = [p for p in parts if "?" not in p]
        if expr.name == "minimum" and len(known) == 1:  # the steps of a block, of which the last one may have fewer
            return f"at most {known[0]}"
        if "?" in parts or expr.name not in _ARITHMETIC:
            return "?"
        return _SIGNS[expr.name].join(parts) if expr.name in _SIGNS else f"{expr.name}({', '.join(parts)})"

    def _factor(self, expr: Expr) -> str:
        text = self.formula(expr)
        return f"({text})" if " + " in text or " - " in text else text


# ---- bytes of a call ------------------------------------------------------------------------------

Number = int | float | bool | None
# Sizes that are rounded from floats are those of blocks of steps.
_NUMERIC: dict[str, Callable[..., Any]] = {
    **_ARITHMETIC,
    "true_div": operator.truediv,
    "mod": operator.mod,
    "neg": operator.neg,
    "abs": abs,
    "sqrt": math.sqrt,
    "floor": math.floor,
    "ceil": math.ceil,
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "and": lambda a, b: bool(a and b),
    "or": lambda a, b: bool(a or b),
    "logical_not": operator.not_,
}
_CASTS: dict[str, Callable[[Any], Any]] = {"int64": int, "int32": int, "float64": float, "bool": bool}
# Memory of a loop of so many steps is looked at step by step, where it differs; of longer ones, at the ends.
_FEW_STEPS = 4096


class Measured(NamedTuple):
    """The bytes of a call; None where only values tell.

    Attributes
    ----------
    results : of each result.
    buffers : of what is kept on the way, by what it holds.
    workspace : the most that there are of these at a time, if one thread computes all lanes.
    """

    results: list[int | None]
    buffers: dict[str, int | None]
    workspace: int | None


class Measure:
    """A walk over a program that takes memory as a call would."""

    def __init__(self, inventory: Inventory, values: Mapping[str, int]) -> None:
        self._program, self._definitions = inventory.program, inventory._definitions
        self._given = {e: values.get(name) for e, name in self._program.names.items()}
        self._steps: dict[Expr, int] = {}  # the variables of the loops around
        self._known: dict[Expr, Number] = dict(self._given)
        self._bytes: dict[Alloc, int | None] = {}  # the most of all iterations
        self._growing: dict[str, int | None] = {}

    def measured(self) -> Measured:
        most = self._most(self._program.nest.body, 0)
        kept = sorted([(a.result, n) for a, n in self._bytes.items() if a.result is not None], key=lambda pair: pair[0])
        buffers = dict(self._growing)
        for a, n in self._bytes.items():
            if a.result is None:
                before = buffers.get(a.holds, 0)
                buffers[a.holds] = None if n is None or before is None else before + n
        return Measured([n for _, n in kept], buffers, most)

    def _most(self, body: Sequence[Stmt], top: int) -> int | None:
        """The most bytes at a time, of which `top` are taken before; an iteration gives back what it took."""
        most: int | None = top
        for stmt in body:
            within: int | None = top
            if isinstance(stmt, Alloc):
                n = self._size(stmt)
                if stmt.result is None and n is not None:
                    top += -(-n // _ALIGN) * _ALIGN
                within = top if stmt.result is not None or n is not None else None
            elif isinstance(stmt, For):
                within = self._most_of_steps(stmt, top)
            elif isinstance(stmt, Split):
                within = self._most(stmt.body, top)
            most = None if most is None or within is None else max(most, within)
        return most

    def _most_of_steps(self, loop: For, top: int) -> int | None:
        if loop.columns:
            self._growing[f"{loop.label}: rows, until a condition ends it"] = None
        stop = self._value(loop.stop)
        most: int | None = top
        for t in self._telling_steps(loop, stop):
            self._enter({**self._steps, loop.var: t})
            within = self._most(loop.body, top)
            most = None if most is None or within is None else max(most, within)
        if loop.var in self._steps:
            self._enter({v: t for v, t in self._steps.items() if v is not loop.var})
        return None if loop.columns else most

    def _telling_steps(self, loop: For, stop: Number) -> Sequence[int]:
        """The iterations that show how much memory all take."""
        allocs = [s for s in _all(loop.body) if isinstance(s, Alloc)]
        if not allocs and not any(isinstance(s, For) and s.columns for s in _all(loop.body)):
            return []
        parts = parts_of([a.count for a in allocs], self._definitions)
        if not isinstance(stop, int) or loop.var not in parts:
            return [0] if stop != 0 else []
        return range(stop) if stop <= _FEW_STEPS else [0, 1, stop - 2, stop - 1]

    def _enter(self, steps: dict[Expr, int]) -> None:
        self._steps, self._known = steps, {**self._given, **steps}

    def _size(self, alloc: Alloc) -> int | None:
        count = self.count(alloc)
        n = None if count is None else count * bytes_of(alloc.dtype)
        before = self._bytes.get(alloc, 0)
        self._bytes[alloc] = None if n is None or before is None else max(before, n)
        return n

    def count(self, alloc: Alloc) -> int | None:
        """How many elements memory has that is taken once."""
        n = self._value(alloc.count)
        return None if n is None else int(n)

    def _value(self, expr: Expr) -> Number:
        if isinstance(expr, Const):
            return expr.value
        if expr not in self._known:
            self._known[expr] = self._computed(expr)
        return self._known[expr]

    def _computed(self, expr: Expr) -> Number:
        if expr in self._definitions:
            return self._value(self._definitions[expr])
        if not isinstance(expr, Op):
            return None
        found = [self._value(a) for a in expr.args]
        if expr.name == "where":
            return None if found[0] is None else found[1] if found[0] else found[2]
        rule = _CASTS.get(expr.dtype) if expr.name == "cast" else _NUMERIC.get(expr.name)
        if rule is None or None in found:
            return None
        try:
            return rule(*found)
        except (ArithmeticError, ValueError):
            return None


def _factors(expr: Expr) -> Iterator[Expr]:
    if isinstance(expr, Op) and expr.name == "mul":
        for a in expr.args:
            yield from _factors(a)
    else:
        yield expr


def _all(body: Sequence[Stmt]) -> Iterator[Stmt]:
    """All statements, those of loops included."""
    for stmt in body:
        yield stmt
        if isinstance(stmt, (For, Split)):
            yield from _all(stmt.body)


def _innermost(loop: For) -> tuple[For, list[Expr]]:
    """Through parallel loops that hold nothing but another parallel loop: the last, and the stops of all."""
    stops = [loop.stop]
    while loop.parallel and len(loop.body) == 1 and isinstance(inner := loop.body[0], For) and inner.parallel:
        loop = inner
        stops.append(loop.stop)
    return loop, stops


def _number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
