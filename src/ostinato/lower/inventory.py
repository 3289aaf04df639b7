"""What a loop nest consists of, in words: its loops in order, and its memory. For `Function.explain`."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from ostinato.lower.callouts import bytes_of
from ostinato.lower.loopnest import Alloc, Call, CallOut, Const, Expr, Extern, For, Let, Op, Split, Stmt
from ostinato.lower.program import Program

_SIGNS = {"add": " + ", "sub": " - ", "mul": " * "}
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
        if isinstance(stmt, For):
            inner, dims = _innermost(stmt)
            yield indent + self._loop(inner, " x ".join(map(self.formula, dims)))
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

    def _bytes(self, allocs: Sequence[Alloc], values: Mapping[str, int] | None) -> str:
        if values is not None:
            found = [self._value(a.count, values) for a in allocs]
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
        if "?" in parts or expr.name not in _ARITHMETIC:
            return "?"
        return _SIGNS[expr.name].join(parts) if expr.name in _SIGNS else f"{expr.name}({', '.join(parts)})"

    def _factor(self, expr: Expr) -> str:
        text = self.formula(expr)
        return f"({text})" if " + " in text or " - " in text else text

    def _value(self, expr: Expr, values: Mapping[str, int]) -> int | None:
        if expr in self.program.names:
            return values.get(self.program.names[expr])
        if isinstance(expr, Const):
            return int(expr.value)
        if expr in self._definitions:
            return self._value(self._definitions[expr], values)
        if not isinstance(expr, Op) or expr.name not in _ARITHMETIC:
            return None
        found = [self._value(a, values) for a in expr.args]
        return functools.reduce(_ARITHMETIC[expr.name], found) if None not in found else None  # type: ignore[arg-type]


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
