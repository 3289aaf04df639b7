"""Where temporaries lie: those that are not needed at the same time have one place. The last pass over a loop nest.

before:  a = alloc float64[n]          after:  a = alloc float64[maximum(n, m)]
         … a …                                 … a …
         b = alloc float64[m]                  b = a
         … b …                                 … b …

First, what a loop allocates in each iteration, of a size that is known before it, is allocated before it; so
temporaries of loops that follow each other can share places, too. Then each list of statements is gone through in
order: memory is free after the last statement that refers to it, by whatever name. The larger of two sizes is never
more than both, so a place is shared even if nothing is known of them. Memory that the caller keeps is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ostinato.lower.expressions import parts_of
from ostinato.lower.loopnest import (
    Alloc,
    Call,
    CallOut,
    Data,
    Expr,
    Extern,
    Fail,
    For,
    Let,
    Load,
    Nest,
    Split,
    Stmt,
    Store,
    Var,
)

_PER_UNIT = {
    **dict.fromkeys(("bool", "int8", "uint8"), 8),
    **dict.fromkeys(("int16", "uint16", "float16"), 4),
    **dict.fromkeys(("int32", "uint32", "float32"), 2),
}
_UNIT = "float64"  # of places that arrays of several sizes or dtypes share


@dataclass(frozen=True)
class Usage:
    """How many temporaries there are, and in how many places of the workspace."""

    temporaries: int
    places: int

    def __str__(self) -> str:
        return f"{self.temporaries} temporaries in {self.places} places"


def share_places(nest: Nest) -> Usage:
    """Give temporaries of a nest common places where that can be; changes the nest."""
    _hoist(nest.body)
    names = _Names()
    names.enter(nest.body)
    before = _count(nest.body)
    _share(nest, nest.body, names)
    return Usage(before, _count(nest.body))


def _count(body: Iterable[Stmt]) -> int:
    own = 0
    for stmt in body:
        own += isinstance(stmt, Alloc) and stmt.result is None
        own += _count(stmt.body) if isinstance(stmt, (For, Split)) else 0
    return own


# ---- out of loops ---------------------------------------------------------------------------------


def _hoist(body: list[Stmt]) -> None:
    """Move allocations before the loops that make them, where their size is known there."""
    k = 0
    while k < len(body):
        stmt = body[k]
        if isinstance(stmt, (For, Split)):
            _hoist(stmt.body)
        if isinstance(stmt, For):
            moved = _fixed_statements(stmt)
            if moved:
                stmt.body[:] = [s for s in stmt.body if s not in moved]
                body[k:k] = moved
                k += len(moved)
        k += 1


def _fixed_statements(loop: For) -> list[Stmt]:
    """Allocations of the same size in each iteration, with the integers and checks that go with them; or nothing."""
    bound = set(_bound(loop))
    found: list[Stmt] = []
    for stmt in loop.body:
        fixed = isinstance(stmt, Fail) and _is_fixed(stmt.condition, bound)
        fixed |= isinstance(stmt, Alloc) and stmt.result is None and _is_fixed(stmt.count, bound)
        if isinstance(stmt, Let) and stmt.var.dtype == "int64" and _is_fixed(stmt.value, bound):
            bound.discard(stmt.var)
            fixed = True
        if fixed:
            found.append(stmt)
    return found if any(isinstance(s, Alloc) for s in found) else []


def _is_fixed(expr: Expr, bound: set[Var]) -> bool:
    """Whether an expression reads no memory and none of some variables."""
    parts = list(parts_of([expr]))
    return not any(isinstance(p, Load) or p in bound for p in parts)


def _bound(stmt: Stmt) -> Iterator[Var]:
    """The variables that a statement defines, for those after it or within it."""
    if isinstance(stmt, (Let, Alloc, Data)):
        yield stmt.var
    elif isinstance(stmt, CallOut):
        yield from stmt.results
    elif isinstance(stmt, Extern) and stmt.info is not None:
        yield stmt.info
    elif isinstance(stmt, Split):
        yield from (stmt.first, stmt.n)
    elif isinstance(stmt, For):
        yield from (v for c in stmt.carried for v in (c.var, c.result))
        yield from (v for c in stmt.columns for v in (c.pointer, c.result))
        yield from (v for v in (stmt.var, stmt.trips) if v is not None)
    if isinstance(stmt, (For, Split)):
        for inner in stmt.body:
            yield from _bound(inner)


# ---- what refers to what --------------------------------------------------------------------------


def _expressions(stmt: Stmt) -> Iterator[Expr]:
    """What a statement evaluates, without what is in its body."""
    if isinstance(stmt, Let):
        yield stmt.value
    elif isinstance(stmt, Store):
        yield from (stmt.pointer, stmt.offset, stmt.value)
    elif isinstance(stmt, Alloc):
        yield stmt.count
    elif isinstance(stmt, Fail):
        yield stmt.condition
    elif isinstance(stmt, Call):
        yield from (*stmt.args, stmt.writes)
    elif isinstance(stmt, CallOut):
        yield from stmt.words
    elif isinstance(stmt, Extern):
        yield from (*stmt.args, *stmt.writes)
    elif isinstance(stmt, Split):
        yield from (stmt.count, stmt.work)
    elif isinstance(stmt, For):
        yield stmt.stop
        yield from (e for c in stmt.carried for e in (c.init, c.next) if e is not None)
        yield from (e for c in stmt.columns for e in (c.first, c.row, c.used) if e is not None)
        if stmt.until is not None:
            yield stmt.until


class _Names:
    """By which variables memory is referred to: for each variable that is an address, the allocations it may lie in."""

    def __init__(self) -> None:
        self._of: dict[Var, set[Var]] = {}

    def enter(self, body: Iterable[Stmt]) -> None:
        for stmt in body:
            if isinstance(stmt, Alloc):
                self._of[stmt.var] = {stmt.var}
            elif isinstance(stmt, Let) and stmt.value.dtype == "ptr":
                self._of[stmt.var] = self.of([stmt.value])
            elif isinstance(stmt, CallOut):  # what is returned may be a view of what was given
                self._of.update({r: self.of(stmt.words) for r in stmt.results if r.dtype == "ptr"})
            elif isinstance(stmt, Split):
                self.enter(stmt.body)
            elif isinstance(stmt, For):
                self._enter_loop(stmt)

    def _enter_loop(self, loop: For) -> None:
        """Addresses that are carried may all change places."""
        carried = [c for c in loop.carried if c.var.dtype == "ptr"]
        common = self.of([c.init for c in carried])
        self._of.update({v: common for c in carried for v in (c.var, c.result)})
        self.enter(loop.body)
        common |= self.of([c.next for c in carried if c.next is not None])
        self.enter(loop.body)

    def of(self, roots: Iterable[Expr]) -> set[Var]:
        """The allocations that some expressions refer to."""
        return {a for p in parts_of(roots) if isinstance(p, Var) for a in self._of.get(p, ())}

    def in_statement(self, stmt: Stmt) -> set[Var]:
        """The allocations that a statement refers to, in its body too."""
        found = self.of(_expressions(stmt))
        if isinstance(stmt, (For, Split)):
            for inner in stmt.body:
                found |= self.in_statement(inner)
        return found


# ---- places ---------------------------------------------------------------------------------------


@dataclass
class _Place:
    """Memory in a list of statements: where it is allocated, for what, and until which statement it is in use."""

    index: int
    first: Alloc
    sizes: list[tuple[Expr, str]]
    until: int
    uses: list[str]


def _share(nest: Nest, body: list[Stmt], names: _Names) -> None:
    for stmt in body:
        if isinstance(stmt, (For, Split)):
            _share(nest, stmt.body, names)
    last: dict[Var, int] = {}
    for k, stmt in enumerate(body):
        last.update(dict.fromkeys(names.in_statement(stmt), k))
    defined = {v: k for k, stmt in enumerate(body) for v in _bound(stmt)}
    places: list[_Place] = []
    for k, stmt in enumerate(body):
        if not isinstance(stmt, Alloc) or stmt.result is not None:
            continue
        end = last.get(stmt.var, k)
        place = _free_place(places, stmt, k, defined)
        if place is None:
            places.append(_Place(k, stmt, [(stmt.count, stmt.dtype)], end, [stmt.holds]))
            continue
        place.until = end
        if (stmt.count, stmt.dtype) not in place.sizes:
            place.sizes.append((stmt.count, stmt.dtype))
        if stmt.holds not in place.uses:
            place.uses.append(stmt.holds)
        body[k] = Let(stmt.var, place.first.var)
    for place in places:
        if len(place.sizes) > 1:
            place.first = replace(place.first, count=_largest(nest, place.sizes), dtype=_UNIT)
        if len(place.uses) > 1:
            place.first = replace(place.first, holds="; then ".join(place.uses))
        body[place.index] = place.first


def _free_place(places: Sequence[_Place], stmt: Alloc, k: int, defined: dict[Var, int]) -> _Place | None:
    """A place that is not in use any more, best of the same size."""
    free = [p for p in places if p.until < k]
    same = [p for p in free if (stmt.count, stmt.dtype) in p.sizes]
    if same:
        return same[0]
    parts = list(parts_of([stmt.count]))
    if any(isinstance(p, Load) for p in parts):
        return None
    known = max((defined.get(p, -1) for p in parts if isinstance(p, Var)), default=-1)
    return next((p for p in free if p.index > known), None)


def _largest(nest: Nest, sizes: Sequence[tuple[Expr, str]]) -> Expr:
    """The most of several sizes, in units of 8 bytes; written so that no size overflows that did not before."""
    units: list[Expr] = []
    for n, dtype in sizes:
        per_unit = _PER_UNIT.get(dtype, 1)
        above = nest.add(n, nest.const(per_unit - 1))
        rounded = n if per_unit == 1 else nest.op("floor_div", above, nest.const(per_unit))
        if rounded not in units:
            units.append(rounded)
    largest = units[0]
    for u in units[1:]:
        largest = nest.op("maximum", largest, u)
    return largest
