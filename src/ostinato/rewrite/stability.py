"""stability: expressions that overflow, underflow or cancel are computed by forms of the same value that do not.

before:  log (1 + exp x)        log (sigmoid x)     log (softmax x)     log (sum (exp x))     log (det A)
after:   logaddexp x 0          -logaddexp -x 0     log_softmax x       logsumexp x           slogdet A

This is the one pass that changes results beyond rounding, and only for the better: log(1 + exp(1000)) is 1000
instead of infinity, and log(1 + 1e-20) is 1e-20 instead of 0. Derivatives are taken of the better forms, too, so they
are finite where those of what was written are not. A value that a derivative is asked for, or that is held constant,
stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any

from ostinato.errors import at, caller
from ostinato.graph import Graph, Node, make, rebuild, topological
from ostinato.ops import elementwise as e
from ostinato.ops.composite import logsumexp, softplus
from ostinato.ops.contraction import MATMUL
from ostinato.ops.control import IDENTITIES
from ostinato.ops.linalg import DET, MATRIX_INVERSE, slogdet, solve
from ostinato.ops.logspace import finite_peak
from ostinato.ops.loop import LOOP, LoopSpec
from ostinato.ops.movement import dimshuffle
from ostinato.ops.reduce import sum as sum_
from ostinato.rewrite.engine import rewrite_pass, with_body
from ostinato.rewrite.notes import tell
from ostinato.rewrite.pattern import RuleTable, rule

Sides = tuple[Any, Any]

_LOG_2 = math.log(2)


def _log1mexp(x: Any) -> Any:
    """log(1 - exp(x)) for x < 0; the branch that is not taken is kept where it is finite.

    It is written by products with -1, so that no rule takes its parts for something to be replaced.
    """
    near = e.gt(x, -_LOG_2)
    return e.where(near, e.log(-1 * e.expm1(x)), e.log1p(-1 * e.exp(e.where(near, -1, x))))


# ---- identities of elements: each a pair of what is written and what is computed -----------------------


def log_of_sigmoid(x: Any) -> Sides:
    return e.log(e.sigmoid(x)), -softplus(-x)


def log_of_one_minus_sigmoid(x: Any) -> Sides:
    return e.log(1 - e.sigmoid(x)), -softplus(x)


def log1p_of_minus_sigmoid(x: Any) -> Sides:
    return e.log1p(-e.sigmoid(x)), -softplus(x)


def log_of_one_plus_exp(x: Any) -> Sides:
    return e.log(1 + e.exp(x)), softplus(x)


def log_of_exp_plus_one(x: Any) -> Sides:
    return e.log(e.exp(x) + 1), softplus(x)


def log1p_of_exp(x: Any) -> Sides:
    return e.log1p(e.exp(x)), softplus(x)


def log_of_sum_of_exps(x: Any, y: Any) -> Sides:
    return e.log(e.exp(x) + e.exp(y)), e.logaddexp(x, y)


def log_of_minus_expm1(x: Any) -> Sides:
    return e.log(-e.expm1(x)), _log1mexp(x)


def log1p_of_minus_exp(x: Any) -> Sides:
    return e.log1p(-e.exp(x)), _log1mexp(x)


def log_of_exp(x: Any) -> Sides:
    return e.log(e.exp(x)), x


def log_of_one_plus(x: Any) -> Sides:
    return e.log(1 + x), e.log1p(x)


def log_of_plus_one(x: Any) -> Sides:
    return e.log(x + 1), e.log1p(x)


def log_of_one_minus(x: Any) -> Sides:
    return e.log(1 - x), e.log1p(-x)


def exp_minus_one(x: Any) -> Sides:
    return e.exp(x) - 1, e.expm1(x)


def one_minus_exp(x: Any) -> Sides:
    return 1 - e.exp(x), -e.expm1(x)


def one_over_one_plus_exp_of_minus(x: Any) -> Sides:
    return 1 / (1 + e.exp(-x)), e.sigmoid(x)


def one_over_exp_of_minus_plus_one(x: Any) -> Sides:
    return 1 / (e.exp(-x) + 1), e.sigmoid(x)


def one_over_one_plus_exp(x: Any) -> Sides:
    return 1 / (1 + e.exp(x)), e.sigmoid(-x)


def one_over_exp_plus_one(x: Any) -> Sides:
    return 1 / (e.exp(x) + 1), e.sigmoid(-x)


def exp_over_one_plus_exp(x: Any) -> Sides:
    return e.exp(x) / (1 + e.exp(x)), e.sigmoid(x)


def exp_over_exp_plus_one(x: Any) -> Sides:
    return e.exp(x) / (e.exp(x) + 1), e.sigmoid(x)


def one_minus_sigmoid(x: Any) -> Sides:
    return 1 - e.sigmoid(x), e.sigmoid(-x)


# The first that matches is taken: special forms stand before general ones.
RULES = (
    log_of_sigmoid,
    log_of_one_minus_sigmoid,
    log1p_of_minus_sigmoid,
    log_of_one_plus_exp,
    log_of_exp_plus_one,
    log1p_of_exp,
    log_of_sum_of_exps,
    log_of_minus_expm1,
    log1p_of_minus_exp,
    log_of_exp,
    log_of_one_plus,
    log_of_plus_one,
    log_of_one_minus,
    exp_minus_one,
    one_minus_exp,
    one_over_one_plus_exp_of_minus,
    one_over_exp_of_minus_plus_one,
    one_over_one_plus_exp,
    one_over_exp_plus_one,
    exp_over_one_plus_exp,
    exp_over_exp_plus_one,
)
# Worth it only where nothing else reads the inner value, else a function is computed twice; and not within a
# logarithm, for which there are rules of its own.
RULES_OF_ONE_READER = (one_minus_sigmoid,)


@lru_cache(maxsize=2)
def _table(rules: tuple[Callable[..., Sides], ...]) -> RuleTable:
    return RuleTable([rule(r) for r in rules])


# ---- forms of arrays ------------------------------------------------------------------------------------


class _Place:
    """A node with new inputs, and what is known of where it stands."""

    def __init__(self, node: Node, before: Node, readers: dict[Node, list[Node]], opaque: Collection[Node]) -> None:
        self.node, self.opaque = node, opaque
        self._readers, self._before = readers, before

    def sees(self, *nodes: Node) -> bool:
        """Whether none of some nodes must stay what it is."""
        return not any(n in self.opaque for n in nodes)

    def is_only_reader(self, k: int) -> bool:
        """Whether nothing else reads input k."""
        return len(self._readers[self._before.inputs[k]]) == 1

    def is_read_by(self, name: str) -> bool:
        """Whether a node of this op reads the node."""
        return any(r.op.name == name for r in self._readers[self._before])


# What only arranges elements of its first input, so that functions of elements may be taken before it.
_VIEWS = {"dimshuffle", "reshape", "subtensor", "gather", "broadcast_to", "specify_shape"}


def _log_of_softmax(place: _Place) -> Any:
    """log(exp(a) / sum(exp(a))), or that of some of its elements."""
    views: list[Node] = []
    inner = place.node.inputs[0]
    while inner.op.name in _VIEWS and place.sees(inner):
        views.append(inner)
        inner = inner.inputs[0]
    if inner.op.name != "true_div" or not place.sees(inner, *inner.inputs):
        return None
    top, bottom = inner.inputs
    axes = _normalised_over(top, bottom)
    if top.op.name != "exp" or axes is None:
        return None
    a = top.inputs[0]
    shifted = a if _is_shifted(a, axes) else a - finite_peak(a, axes)
    result = shifted - e.log(sum_(e.exp(shifted), axis=axes, keepdims=True))
    for view in reversed(views):
        result = make(view.op, (result, *view.inputs[1:]), view.params)
    return result


def _normalised_over(top: Node, bottom: Node) -> tuple[int, ...] | None:
    """The axes over which `bottom` is the sum of `top`, kept as sizes of 1."""
    total, order = bottom, None
    if total.op.name == "dimshuffle":
        total, order = total.inputs[0], total.params[0]
    if total.op.name != "sum" or total.inputs[0] is not top:
        return None
    axes: tuple[int, ...] = total.params[0]
    kept = iter(range(total.type.ndim))
    wanted = ["x" if i in axes else next(kept) for i in range(top.type.ndim)]
    found = list(range(total.type.ndim)) if order is None else list(order)
    return axes if ["x"] * (len(wanted) - len(found)) + found == wanted else None


def _is_shifted(a: Node, axes: tuple[int, ...]) -> bool:
    """Whether the maximum over some axes has been subtracted already."""
    if a.op.name != "sub":
        return False
    x, shift = a.inputs
    while shift.op.name in {"where", "dimshuffle", "broadcast_to", *IDENTITIES}:
        shift = shift.inputs[2 if shift.op.name == "where" else 0]
    return shift.op.name == "max" and shift.inputs[0] is x and shift.params[0] == axes


def _log_of_sum_of_exp(place: _Place) -> Any:
    """log(sum(exp(a))) over some axes."""
    total = place.node.inputs[0]
    view = total if total.op.name == "dimshuffle" and place.sees(total) else None
    total = total.inputs[0] if view is not None else total
    if total.op.name != "sum" or total.inputs[0].op.name != "exp" or not place.sees(total, total.inputs[0]):
        return None
    a, axes = total.inputs[0].inputs[0], total.params[0]
    if _is_shifted(a, axes):
        return None
    result = logsumexp(a, axis=axes)
    return result if view is None else make(view.op, (result,), view.params)


def _log_of_det(place: _Place) -> Any:
    """log(det(a)), and log(abs(det(a)))."""
    inner = place.node.inputs[0]
    if inner.op.name == "abs" and inner.inputs[0].op is DET and place.sees(inner, inner.inputs[0]):
        return slogdet(inner.inputs[0].inputs[0])[1]
    if inner.op is DET and place.sees(inner):
        sign, magnitude = slogdet(inner.inputs[0])
        return e.where(e.ge(sign, 0), magnitude, math.nan)
    return None


def _product_with_inverse(place: _Place) -> Any:
    """inv(a) @ b, and b @ inv(a), where nothing else reads the inverse."""
    a, b = place.node.inputs
    if a.type.ndim != 2 or b.type.ndim != 2:
        return None
    if a.op is MATRIX_INVERSE and place.is_only_reader(0) and place.sees(a):
        return solve(a.inputs[0], b)
    if b.op is MATRIX_INVERSE and place.is_only_reader(1) and place.sees(b):
        return dimshuffle(solve(dimshuffle(b.inputs[0], 1, 0), dimshuffle(a, 1, 0)), 1, 0)
    return None


FORMS: dict[str, tuple[Callable[[_Place], Any], ...]] = {
    "log": (_log_of_softmax, _log_of_sum_of_exp, _log_of_det),
    MATMUL.name: (_product_with_inverse,),
}
_NAMES: dict[Callable[[_Place], Any], str] = {
    _log_of_softmax: "log(softmax(x)) is computed as log_softmax(x)",
    _log_of_sum_of_exp: "log(sum(exp(x))) is computed as logsumexp(x)",
    _log_of_det: "log(det(A)) is computed by slogdet(A)",
    _product_with_inverse: "a product with inv(A) is computed by solve(A, ...)",
}


# ---- the walk -------------------------------------------------------------------------------------------


@rewrite_pass
def stability(graph: Graph) -> Graph:
    """Replace what is computed badly."""
    return Graph(graph.params, tuple(_walk(graph.results, (), in_bodies=False)))


def stable(roots: Sequence[Any], fixed: Collection[Node] = ()) -> list[Any]:
    """The roots, computed by better forms, in the bodies of loops too: what a derivative is best taken of.

    Parameters
    ----------
    fixed : nodes of which something is asked: they are not computed away.
    """
    return _walk(roots, fixed, in_bodies=True)


def _walk(roots: Sequence[Any], fixed: Collection[Node], in_bodies: bool) -> list[Any]:
    order = topological(roots)
    readers: dict[Node, list[Node]] = {n: [] for n in order}
    for node in order:
        for i in node.inputs:
            readers[i].append(node)
    for r in roots:
        readers[r].append(r)  # whoever asks for it
    fixed, opaque = set(fixed), set[Node]()
    new: dict[Node, Any] = {}
    for node in order:
        found = rebuild(node, tuple([new[i] for i in node.inputs]))
        if in_bodies and node.op is LOOP:
            found = _with_stable_body(found)
        elif (better := _better(_Place(found, node, readers, opaque))) is not None:
            found = better
        new[node] = found
        if node in fixed:
            opaque.add(found)
    return [new[r] for r in roots]


def _with_stable_body(node: Node) -> Node:
    spec: LoopSpec = node.params[0]
    return with_body(node, Graph(spec.body.params, tuple(stable(spec.body.results))))


def _better(place: _Place) -> Any:
    """What a node is better computed as; None if it is well as it is."""
    node = place.node
    for form in FORMS.get(node.op.name, ()):
        if (new := form(place)) is not None and new.type == node.type:
            return _told(node, new, _NAMES[form])
    alone = len(node.inputs) > 1 and place.is_only_reader(1) and not place.is_read_by("log")
    for rules in (RULES, RULES_OF_ONE_READER) if alone else (RULES,):
        if (match := _table(rules).first(node, place.opaque)) is not None:
            left, right = match[0].left, match[0].right
            lines = {n.source for n in topological([right])}
            return _told(node, match[1], f"{_written(left)} is computed as {_written(right)}", lines)
    return None


def _told(node: Node, new: Any, what: str, lines: Collection[Any] = ()) -> Any:
    """The new node, which is where the old one was for whoever asks for its line.

    Parameters
    ----------
    lines : where else its parts may come from, that are not the user's: he may have written some of them himself.
    """
    ours = {caller(), *lines}
    for n in topological([new], stop=node.inputs):
        if n.inputs and n._source in ours:
            n._source = node.source
    if new.name is None and node.name:
        new.name = node.name
    tell(f"stability: {what}{at(node.source)}.")
    return new


_SYMBOLS = {"add": " + ", "sub": " - ", "mul": " * ", "true_div": " / "}


def _written(node: Node) -> str:
    """A side of a rule, as a user would write it."""
    if not node.inputs:
        return node.name or f"{node.params[0].array.item():g}"
    parts = [_written(i) for i in node.inputs]
    if node.op.name == "where":
        return "log1mexp(x)"
    if node.op.name == "neg":
        return f"-{parts[0]}"
    if node.op.name == "logaddexp" and parts[1] == "0":
        return f"softplus({parts[0]})"
    if node.op.name in _SYMBOLS:
        wrapped = [f"({p})" if i.op.name in ("add", "sub") else p for p, i in zip(parts, node.inputs, strict=True)]
        return _SYMBOLS[node.op.name].join(wrapped)
    return f"{node.op.name}({', '.join(parts)})"
