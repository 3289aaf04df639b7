"""algebra: identities of arithmetic, as a table of two-sided rules.

before:  sub (mul x 1) (neg y)
after:   add x y

Only rules that hold bit for bit are here, NaN and infinities included, so the result of a function does
not depend on whether this pass ran. A replacement must have the type of what it replaces.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ostinato.graph import Graph, rewrite_nodes
from ostinato.ops.elementwise import neg
from ostinato.rewrite.engine import rewrite_pass
from ostinato.rewrite.pattern import RuleTable, rule

Sides = tuple[Any, Any]


def times_one(x: Any) -> Sides:
    return x * 1, x


def one_times(x: Any) -> Sides:
    return 1 * x, x


def over_one(x: Any) -> Sides:
    return x / 1, x


def minus_zero(x: Any) -> Sides:
    return x - 0, x


def double_negation(x: Any) -> Sides:
    return -neg(x), x


def plus_negative(x: Any, y: Any) -> Sides:
    return x + -y, x - y


def minus_negative(x: Any, y: Any) -> Sides:
    return x - -y, x + y


def negative_times(x: Any, y: Any) -> Sides:
    return -x * -y, x * y


def to_the_one(x: Any) -> Sides:
    return x**1, x


def to_the_two(x: Any) -> Sides:
    return x**2, x * x


RULES = (
    times_one,
    one_times,
    over_one,
    minus_zero,
    double_negation,
    plus_negative,
    minus_negative,
    negative_times,
    to_the_one,
    to_the_two,
)


@lru_cache(maxsize=1)
def table() -> RuleTable:
    return RuleTable([rule(r) for r in RULES])


@rewrite_pass
def algebra(graph: Graph) -> Graph:
    """Apply the table bottom-up."""
    return Graph(graph.params, tuple(rewrite_nodes(graph.results, table().apply)))
