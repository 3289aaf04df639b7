"""The expressions of the loop nest; what they mean is said in `loopnest`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, eq=False, slots=True)
class Const:
    value: Any
    dtype: str


@dataclass(frozen=True, eq=False, slots=True)
class Var:
    name: str
    dtype: str


@dataclass(frozen=True, eq=False, slots=True)
class Op:
    name: str
    args: tuple[Expr, ...]
    dtype: str


@dataclass(frozen=True, eq=False, slots=True)
class Load:
    pointer: Expr
    offset: Expr
    dtype: str


Expr = Const | Var | Op | Load

_NONE: Mapping[Expr, Expr] = MappingProxyType({})


def parts_of(roots: Iterable[Expr], definitions: Mapping[Expr, Expr] = _NONE) -> Iterator[Expr]:
    """All expressions that some are made of, each once; also through variables whose `definitions` are given."""
    seen: set[Expr] = set()
    waiting = list(roots)
    while waiting:
        expr = waiting.pop()
        if expr in seen:
            continue
        seen.add(expr)
        yield expr
        if isinstance(expr, Op):
            waiting += expr.args
        elif isinstance(expr, Load):
            waiting += (expr.pointer, expr.offset)
        elif expr in definitions:
            waiting.append(definitions[expr])
