"""The expressions of the loop nest; what they mean is said in `loopnest`."""

from __future__ import annotations

from dataclasses import dataclass
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
