"""reduce_in_loop: of outputs of which only sums, products or extremes over the steps are read no rows are stored.

before:  ys = loop(n, x, h; (x_t, h) -> (h', y_t))
         s  = sum((ys - z) ** 2)
after:   v  = loop(n, x, z, h, zeros; (x_t, z_t, h, v) -> (h', v + (y_t - z_t) ** 2))
         s  = sum(v)

What is reduced may be any elementwise expression of outputs and of arrays with a row per step, if their sizes are known
to be equal before the program runs. A carry has the sizes of a row; what is left of it is reduced after the loop. Loops
may read the rows besides, as those of derivatives do: these are told elsewhere what to keep and what to make again.
Of rows that are single numbers only sums, products and the like are computed in the loop: others are better done many
at a time, unless derivatives were told to keep less. Sums are in another order then, and differ in the last digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ostinato.graph import Graph, Node, make, redirect, topological
from ostinato.lower.rules import ELEMENTWISE
from ostinato.ops.elementwise import maximum, minimum
from ostinato.ops.indexing import SUBTENSOR, is_reversal, is_start
from ostinato.ops.leaf import constant
from ostinato.ops.loop import ITEM, LOOP, LoopSpec
from ostinato.ops.movement import expand_dims
from ostinato.ops.sizes import broadcast_to, sizes
from ostinato.rewrite.engine import keeps_types, rewrite_pass
from ostinato.rewrite.loop_accumulate import added_to
from ostinato.rewrite.notes import called, tell
from ostinato.rewrite.opened_loop import Opened
from ostinato.types import fits

# How two rows become one, and what changes nothing.
_NEUTRAL = {"sum": 0.0, "prod": 1.0, "max": -np.inf, "min": np.inf}


@rewrite_pass
def reduce_in_loop(graph: Graph) -> Graph:
    """Carry what outputs are reduced to, where nothing else of them is read."""
    left = [n for n in graph.nodes() if _is_over_steps(n)]
    while left:
        loop = _last_loop(left[0])
        group = [r for r in left if _last_loop(r) is loop]
        left = [r for r in left if r not in group]
        alias = _carried(graph, loop, group) if loop is not None else {}
        if alias:
            graph = Graph(graph.params, tuple(redirect(graph.results, alias)))
            left = [n for n in graph.nodes() if _is_over_steps(n) and _last_loop(n) is not None and n in left]
    return graph


def _is_over_steps(node: Node) -> bool:
    """Whether a node reduces the first dimension of floats."""
    return node.op.name in _NEUTRAL and node.type.dtype in ("float32", "float64") and 0 in node.params[0]


def _last_loop(node: Node) -> Node | None:
    """The loop of whose outputs something is reduced, the last one if there are several."""
    seen: set[Node] = set()
    work = [node.inputs[0]]
    while work:
        n = work.pop()
        if n not in seen:
            seen.add(n)
            work.extend(n.inputs if _is_by_rows(n) or is_reversal(n) or is_start(n) else ())
    loops = {n.inputs[0] for n in seen if n.op is ITEM and n.inputs[0].op is LOOP}
    order = topological(loops) if len(loops) > 1 else list(loops)
    return next((n for n in reversed(order) if n in loops), None)


def _is_by_rows(n: Node) -> bool:
    return n.op.name in ELEMENTWISE or n.op.name in ("broadcast_to", "sum_to", "dimshuffle")


def _carried(graph: Graph, node: Node, group: Sequence[Node]) -> dict[Node, Any]:
    """For each result of a loop, and each reduction of its outputs, what takes its place."""
    loop = Opened(node)
    spec: LoopSpec = loop.spec
    if spec.parallel is True or all(added_to(spec, i) is not None for i in range(spec.n_carries)):
        return {}  # steps that need no other one are better done together
    asks = spec.checkpoint is not None and (spec.checkpoint.every is not None or spec.checkpoint.budget is not None)
    begun = []
    for r in group:
        row = loop.row(r.inputs[0], lambda x: not _is_by_rows(x))
        if row is None or not (asks or _is_fast(row, loop)):
            continue
        first = broadcast_to(constant(_NEUTRAL[r.op.name], row.type.dtype), list(sizes(r.inputs[0])[1:]))
        if not fits(first.type, row.type):
            continue
        carry = loop.carry(first, row.type)
        loop.follows(carry, _joined(r.op.name, carry, row))
        begun.append(r)
    if not begun or not _spares_rows(graph, node, begun):
        return {}
    alias, finals = loop.closed()
    alias |= {r: _reduced(r, f, loop.steps) for r, f in zip(begun, finals, strict=True)}
    if not keeps_types(alias):
        return {}
    what = "a reduction" if len(begun) == 1 else f"{len(begun)} reductions"
    tell(
        f"reduce_in_loop: {what} over the steps of {called(spec)} carried from step to step; no rows are stored for it."
    )
    return alias


def _joined(name: str, carry: Any, row: Any) -> Any:
    if name == "sum":
        return carry + row
    if name == "prod":
        return carry * row
    return maximum(carry, row) if name == "max" else minimum(carry, row)


def _reduced(node: Node, final: Any, steps: Any) -> Any:
    """The reduction of what is left: of one row, or of none if there was no step."""
    rows = expand_dims(final, 0)
    known = not hasattr(steps, "op") and steps > 0
    return make(node.op, (rows if known else rows[: minimum(steps, 1)],), node.params)


def _is_fast(row: Node, loop: Opened) -> bool:
    """Whether a row is as fast computed by itself: what is not cheap, of numbers, is better done for many at once."""
    stop = {*loop.spec.body.params, *loop.body.outputs}
    work = [n for n in topological([row], stop=stop) if n.inputs and n not in stop]
    return row.type.ndim > 0 or all(n.op.cheap for n in work)


def _spares_rows(graph: Graph, node: Node, reductions: Sequence[Node]) -> bool:
    """Whether rows need not be stored any more, or loops alone read them."""
    below = topological([r.inputs[0] for r in reductions])
    c, spec = node.params[0].n_carries, node.params[0]
    outputs = [n for n in below if n.op is ITEM and n.inputs[0] is node and 0 <= n.params[0] - c < spec.n_outputs]
    rest = topological(graph.results, stop=set(reductions))
    readers: dict[Node, list[Node | None]] = {r: [None] for r in graph.results}
    for n in rest:
        for i in n.inputs if n not in reductions else ():
            readers.setdefault(i, []).append(n)
    return any(_is_spared(y, readers) for y in outputs)


def _is_spared(y: Node, readers: dict[Node, list[Node | None]]) -> bool:
    """Whether nobody reads an output, or only loops do that can have it made again."""
    for reader in readers.get(y, ()):
        if reader is None:
            return False
        if reader.op is SUBTENSOR and (is_reversal(reader) or is_start(reader)):
            if not _is_spared(reader, readers):
                return False
        elif reader.op is not LOOP:
            return False
    return True
