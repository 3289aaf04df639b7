"""Two-sided rules: patterns and replacements that are both nodes, so that a rule tests itself.

A rule is a function from variables to a pair (left, right) of expressions. Where the left side matches,
the right side is put, if it has the same type. Soundness is tested by evaluating both sides
(`tests/test_rewrite.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ostinato.graph import Node, leaves, substitute
from ostinato.ops.leaf import CONSTANT, INPUT, constant, new_input
from ostinato.ops.op import Op
from ostinato.types import TensorType


@dataclass(frozen=True)
class Rule:
    """left -> right; the variables of both are inputs of scalar type."""

    name: str
    variables: tuple[Any, ...]
    left: Any
    right: Any


def rule(make_sides: Callable[..., tuple[Any, Any]], dtype: str = "float64") -> Rule:
    """A rule from a function of variables that returns both sides."""
    names = list(inspect.signature(make_sides).parameters)
    variables = tuple(new_input(TensorType(dtype, ()), n) for n in names)
    left, right = make_sides(*variables)
    return Rule(make_sides.__name__, variables, left, right)


def match(pattern: Node, node: Node, found: dict[Node, Node], opaque: Container[Node] = ()) -> bool:
    """Whether `node` has the form of `pattern`; fills in what each variable stands for.

    What `opaque` nodes are computed from is not looked at, unless it is `node` itself.
    """
    stack = [(pattern, node)]
    while stack:
        p, n = stack.pop()
        if p.op is INPUT:
            if found.setdefault(p, n) is not n:
                return False
        elif p.op is CONSTANT:
            if not _same_constant(p, n):
                return False
        elif not _has_form(p, n) or (n is not node and n in opaque):
            return False
        else:
            stack.extend(zip(p.inputs, n.inputs, strict=True))
    return True


def _has_form(pattern: Node, node: Node) -> bool:
    """Whether a node is of the op of a pattern; its inputs are another matter."""
    return pattern.op is node.op and pattern.params == node.params and len(pattern.inputs) == len(node.inputs)


def _same_constant(pattern: Node, node: Node) -> bool:
    """A scalar constant of a pattern stands for its value in any dtype and shape."""
    if node.op is not CONSTANT:
        return False
    value, wanted = node.params[0].array, pattern.params[0].array
    return bool(value.size and (value == wanted).all() and (wanted != 0 or not _negative_zero(value)))


def _negative_zero(value: Any) -> bool:
    return bool(value.dtype.kind == "f" and np.signbit(value).any())


def build(pattern: Node, found: dict[Node, Node], dtype: str) -> Any:
    """The expression of `pattern` with its variables replaced, constants in the given dtype."""
    constants = [n for n in leaves([pattern]) if n.op is CONSTANT and n.type.dtype != dtype]
    converted = {n: constant(n.params[0].array, dtype) for n in constants}
    return substitute([pattern], {**converted, **found})[0]


class RuleTable:
    """Rules by the op at the root of their left side."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self._by_op: dict[Op, list[Rule]] = {}
        for r in rules:
            self._by_op.setdefault(r.left.op, []).append(r)

    def first(self, node: Node, opaque: Container[Node] = ()) -> tuple[Rule, Any] | None:
        """The first rule that matches a node and keeps its type, and the replacement; None if there is none."""
        for r in self._by_op.get(node.op, ()):
            found: dict[Node, Node] = {}
            if match(r.left, node, found, opaque):
                new = build(r.right, found, node.type.dtype)
                if new.type == node.type:
                    return r, new
        return None

    def apply(self, node: Node) -> Node | None:
        """The replacement of a node by the first rule that matches and keeps its type, or None."""
        found = self.first(node)
        return None if found is None else found[1]
