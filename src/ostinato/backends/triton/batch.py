"""Operations of a loop's body for all steps at once: what depends on t gets a leading axis of steps.

before:  matmul x[t] W           # x[t]: (batch, inputs)
after:   matmul x W              # x: (steps, batch, inputs)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ostinato.backends.triton.slices import is_elementwise
from ostinato.graph import Node, make, rebuild, topological
from ostinato.ops.contraction import MATMUL
from ostinato.ops.indexing import INC_SUBTENSOR, SET_SUBTENSOR, SUBTENSOR
from ostinato.ops.movement import CONCATENATE, DIMSHUFFLE, dimshuffle
from ostinato.ops.op import OPS
from ostinato.ops.sizes import BROADCAST, SUM_TO, broadcast_to, sizes

_FULL = (False, False, False)
_REDUCTIONS = {"sum", "prod", "max", "min", "any", "all"}
_ALONG = {"argmax", "argmin", "cumsum"}


class NoBatchError(Exception):
    """What an operation raises that is not known for all steps at once."""


def batched(roots: Iterable[Node], table: Mapping[Node, Any], steps: Any) -> list[Any]:
    """The roots for all steps: (steps, ...) each, also those that are the same at every step.

    Parameters
    ----------
    table : for nodes of the body their values for all steps, of one axis more.
    steps : int64 scalar node, the number of steps.

    Raises
    ------
    NoBatchError
        If an operation on the way has no form for all steps at once.
    """
    roots = tuple(roots)
    found: dict[Node, Any] = dict(table)
    for node in topological(roots, stop=found.keys()):
        if node not in found and any(i in found for i in node.inputs):
            found[node] = _batched_node(node, found, steps)
    return [found[r] if r in found else broadcast_to(r, (steps, *sizes(r))) for r in roots]


def can_batch(roots: Iterable[Node], sources: Iterable[Node]) -> bool:
    """Whether all operations between `sources` and `roots` have a form for all steps at once."""
    found = set(sources)
    for node in topological(roots, stop=set(found)):
        if node not in found and any(i in found for i in node.inputs):
            found.add(node)
            if not _has_rule(node) or (
                node.op in (SUBTENSOR, INC_SUBTENSOR, SET_SUBTENSOR) and not _fixed(node, found)
            ):
                return False
    return True


def _fixed(node: Node, found: set[Node]) -> bool:
    first = 1 if node.op is SUBTENSOR else 2
    return not any(i in found for i in node.inputs[first:])


def _has_rule(node: Node) -> bool:
    return is_elementwise(node) or node.op.name in _RULES or node.op.name in _REDUCTIONS | _ALONG


def _batched_node(node: Node, found: Mapping[Node, Any], steps: Any) -> Any:
    if not _has_rule(node):
        raise NoBatchError(node.op.name)
    inputs = [found.get(i, i) for i in node.inputs]
    grown = [i in found for i in node.inputs]
    if is_elementwise(node):
        rank = node.type.ndim
        return rebuild(node, tuple([_padded(x, rank) if g else x for x, g in zip(inputs, grown, strict=True)]))
    if node.op.name in _REDUCTIONS:
        return make(node.op, (inputs[0],), (tuple(a + 1 for a in node.params[0]),))
    if node.op.name in _ALONG:
        return make(node.op, (inputs[0],), (node.params[0] + 1,))
    return _RULES[node.op.name](node, inputs, grown, steps)


def _padded(x: Any, rank: int) -> Any:
    """An array of all steps whose rows have `rank` dimensions, for broadcasting."""
    own = x.type.ndim - 1
    return x if own == rank else dimshuffle(x, [0, *["x"] * (rank - own), *range(1, own + 1)])


def _matmul(node: Node, inputs: list[Any], grown: list[bool], steps: Any) -> Any:
    rank = node.type.ndim
    return make(MATMUL, tuple([_padded(x, rank) if g else x for x, g in zip(inputs, grown, strict=True)]))


def _dimshuffle(node: Node, inputs: list[Any], grown: list[bool], steps: Any) -> Any:
    return make(DIMSHUFFLE, (inputs[0],), ((0, *["x" if o == "x" else o + 1 for o in node.params[0]]),))


def _subtensor(node: Node, inputs: list[Any], grown: list[bool], steps: Any) -> Any:
    if any(grown[1:]):
        raise NoBatchError("an index that changes")
    return make(SUBTENSOR, tuple(inputs), ((_FULL, *node.params[0]),))


def _write(node: Node, inputs: list[Any], grown: list[bool], steps: Any) -> Any:
    if any(grown[2:]):
        raise NoBatchError("an index that changes")
    x, y = inputs[:2]
    if not grown[0]:
        x = broadcast_to(x, (steps, *sizes(node.inputs[0])))
    if grown[1]:
        y = _padded(y, node.type.ndim - sum(p is None for p in node.params[0]))
    return make(node.op, (x, y, *inputs[2:]), ((_FULL, *node.params[0]),))


def _concatenate(node: Node, inputs: list[Any], grown: list[bool], steps: Any) -> Any:
    full = [x if g else broadcast_to(x, (steps, *sizes(x))) for x, g in zip(inputs, grown, strict=True)]
    return make(CONCATENATE, tuple(full), (node.params[0] + 1,))


def _broadcast(node: Node, inputs: list[Any], grown: list[bool], steps: Any) -> Any:
    if any(grown[1:]):
        raise NoBatchError("a size that changes")
    return make(BROADCAST, (_padded(inputs[0], node.type.ndim), steps, *inputs[1:]))


def _reshape(node: Node, inputs: list[Any], grown: list[bool], steps: Any) -> Any:
    if any(grown[1:]):
        raise NoBatchError("a size that changes")
    return make(node.op, (inputs[0], steps, *inputs[1:]))


def _sum_to(node: Node, inputs: list[Any], grown: list[bool], steps: Any) -> Any:
    if any(grown[1:]) or node.type.ndim != node.inputs[0].type.ndim:
        raise NoBatchError("a sum to another number of dimensions")
    return make(SUM_TO, (inputs[0], steps, *inputs[1:]))


_RULES: dict[str, Any] = {
    "matmul": _matmul,
    "dimshuffle": _dimshuffle,
    "subtensor": _subtensor,
    "set_subtensor": _write,
    "inc_subtensor": _write,
    "concatenate": _concatenate,
    "broadcast_to": _broadcast,
    "reshape": _reshape,
    "sum_to": _sum_to,
}
assert _RULES.keys() | _REDUCTIONS | _ALONG <= OPS.keys()
