"""algebra: identities of arithmetic, as a table of two-sided rules, and of views, choices and conversions.

before:  sub (mul x 1) (neg y)      where c x x      true_div x 4.      reversed (reversed x)
after:   add x y                    x                mul x 0.25         x

Only rules that hold bit for bit are here, NaN and infinities included, so the result of a function does
not depend on whether this pass ran. A replacement must have the type of what it replaces.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from ostinato.graph import Graph, Node, rewrite_nodes
from ostinato.ops.elementwise import cast, maximum, minimum, neg, where
from ostinato.ops.indexing import is_reversal
from ostinato.ops.leaf import constant, constant_value
from ostinato.ops.movement import dimshuffle
from ostinato.ops.sizes import as_size_nodes, same_size, sizes
from ostinato.rewrite.engine import rewrite_pass
from ostinato.rewrite.pattern import RuleTable, rule
from ostinato.types import is_lossless

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


def times_minus_one(x: Any) -> Sides:
    return x * -1, -x


def minus_one_times(x: Any) -> Sides:
    return -1 * x, -x


def over_minus_one(x: Any) -> Sides:
    return x / -1, -x


def quotient_of_negatives(x: Any, y: Any) -> Sides:
    return -x / -y, x / y


def size_of_negative(x: Any) -> Sides:
    return abs(-x), abs(x)


def size_of_size(x: Any) -> Sides:
    return abs(abs(x)), abs(x)


def maximum_of_same(x: Any) -> Sides:
    return maximum(x, x), x


def minimum_of_same(x: Any) -> Sides:
    return minimum(x, x), x


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
    times_minus_one,
    minus_one_times,
    over_minus_one,
    quotient_of_negatives,
    size_of_negative,
    size_of_size,
    maximum_of_same,
    minimum_of_same,
)


# ---- forms that are no pairs of expressions of numbers ------------------------------------------------


def choice_of_same(node: Node) -> Any:
    """`where(c, x, x)`, and a choice by a condition that is known or a negation."""
    condition, x, y = node.inputs
    known = constant_value(condition)
    if x is y:
        return x
    if known is not None and known.size and (known == known.flat[0]).all():
        return x if known.flat[0] else y
    return where(condition.inputs[0], y, x) if condition.op.name == "logical_not" else None


def cast_of_cast(node: Node) -> Any:
    """A conversion by way of a dtype that holds every value."""
    inner = node.inputs[0]
    if inner.op.name != "cast" or not is_lossless(inner.inputs[0].type.dtype, inner.type.dtype):
        return None
    return cast(inner.inputs[0], node.type.dtype)


def not_not(node: Node) -> Any:
    """The negation of a negation of truth values."""
    inner = node.inputs[0]
    return inner.inputs[0] if inner.op.name == "logical_not" and inner.inputs[0].type.dtype == "bool" else None


def shuffled_twice(node: Node) -> Any:
    """A rearrangement of dimensions of a rearrangement."""
    inner = node.inputs[0]
    return dimshuffle(inner, node.params[0]) if inner.op is node.op else None


def reversed_twice(node: Node) -> Any:
    """`x[::-1][::-1]`."""
    inner = node.inputs[0]
    return inner.inputs[0] if is_reversal(node) and is_reversal(inner) else None


def of_own_sizes(node: Node) -> Any:
    """What is brought to the sizes that it has."""
    x, *wanted = node.inputs
    own = as_size_nodes(sizes(x))
    return x if len(own) == len(wanted) and all(map(same_size, own, wanted)) else None


def over_power_of_two(node: Node) -> Any:
    """A product is quicker than a quotient, and the same where the reciprocal is exact."""
    x, y = node.inputs
    value = constant_value(y)
    if value is None or value.dtype.name not in ("float32", "float64") or not value.size:
        return None
    with np.errstate(all="ignore"):
        reciprocal = (1 / value).astype(value.dtype)
    exact = np.isfinite(value) & (np.frexp(value)[0] ** 2 == 0.25) & (abs(reciprocal) >= np.finfo(value.dtype).tiny)
    return x * constant(reciprocal) if np.all(exact & np.isfinite(reciprocal)) else None


FORMS: dict[str, Callable[[Node], Any]] = {
    "where": choice_of_same,
    "cast": cast_of_cast,
    "logical_not": not_not,
    "dimshuffle": shuffled_twice,
    "subtensor": reversed_twice,
    "reshape": of_own_sizes,
    "broadcast_to": of_own_sizes,
    "sum_to": of_own_sizes,
    "true_div": over_power_of_two,
}


@lru_cache(maxsize=1)
def table() -> RuleTable:
    return RuleTable([rule(r) for r in RULES])


@rewrite_pass
def algebra(graph: Graph) -> Graph:
    """Apply the table bottom-up."""
    return Graph(graph.params, tuple(rewrite_nodes(graph.results, _simpler)))


def _simpler(node: Node) -> Any:
    found = table().apply(node)
    if found is not None or node.op.name not in FORMS:
        return found
    new = FORMS[node.op.name](node)
    return new if new is not None and new.type == node.type else None
