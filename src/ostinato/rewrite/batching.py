"""Operations of a loop's body for all steps at once: what depends on t gets a leading axis of steps.

before:  matmul x[t] W           # x[t]: (batch, inputs)
after:   matmul x W              # x: (steps, batch, inputs)

What an op makes of all steps is its `batch` rule, declared with the op; an op without one stays in its loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ostinato.graph import Node, rebuild, topological
from ostinato.ops.batch import NoBatchError, Rows
from ostinato.ops.leaf import new_input
from ostinato.ops.op import params_of
from ostinato.ops.sizes import SIZE, as_size_node, broadcast_to, sizes
from ostinato.types import TensorType, TupleType

_COUNT = TensorType("int64", ())


def batched(
    roots: Iterable[Node], table: Mapping[Node, Any], steps: Any, fixed: Mapping[Node, Any] | None = None
) -> list[Any]:
    """The roots for all steps: (steps, ...) each, also those that are the same at every step.

    Parameters
    ----------
    table : for nodes of the body their values for all steps, of one axis more.
    steps : int64 scalar node, the number of steps.
    fixed : for nodes of the body that are the same at every step what they are outside; else they stay.

    Raises
    ------
    NoBatchError
        If an operation on the way has no form for all steps at once.
    """
    roots = tuple(roots)
    varying: dict[Node, Any] = dict(table)
    same: dict[Node, Any] = dict(fixed or {})  # what does not vary, as sizes do not: what it is outside the body
    for node in topological(roots, stop=varying.keys() | same.keys()):
        if node in varying or node in same:
            continue
        inputs = tuple([varying[i] if i in varying else same.get(i, i) for i in node.inputs])
        varies = tuple([i in varying for i in node.inputs])
        if node.op is SIZE and varies[0]:
            same[node] = as_size_node(sizes(inputs[0])[node.params[0] + 1])
        elif not any(varies):
            same[node] = rebuild(node, inputs)
        else:
            varying[node] = _batched_node(Rows(node, inputs, varies, steps))
    return [varying[r] if r in varying else broadcast_to(same[r], (steps, *sizes(same[r]))) for r in roots]


def can_batch(roots: Iterable[Node], sources: Iterable[Node]) -> bool:
    """Whether all operations between `sources` and `roots` have a form for all steps at once."""
    sources = list(sources)
    if any(isinstance(s.type, TupleType) for s in sources):
        return False
    table = {s: new_input(s.type.with_shape((None, *s.type.shape))) for s in sources}
    try:
        batched(roots, table, new_input(_COUNT))
    except NoBatchError:
        return False
    return True


def _batched_node(rows: Rows) -> Any:
    node = rows.node
    if node.op.batch is None:
        raise NoBatchError(node.op.name)
    return node.op.batch(rows, **params_of(node))
