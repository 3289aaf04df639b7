"""rows_in_loop: what a loop reads row by row, and is cheaply computed from rows of others, is computed in the loop.

before:  d = broadcast_to(g, n, …) * 2 * (ys - x)        # a row per step, for one loop that reads it
         r = loop(n, d[::-1], …; (d_t, …) -> …)
after:   r = loop(n, ys[::-1], x[::-1], …, g; (y_t, x_t, …, g) -> … with d_t = g * 2 * (y_t - x_t))

So the cotangents of what is summed up over all steps, as of a likelihood, are not stored for all steps. Only arrays
move whose sizes are known to be equal before the program runs. What costs more than sums, products and the like moves
if nobody else reads it, and rows are more than a few numbers: else many are better computed at a time outside.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

from ostinato.graph import Graph, Node
from ostinato.lower.arrays import TINY
from ostinato.lower.rules import ELEMENTWISE
from ostinato.ops.indexing import is_reversal
from ostinato.ops.sizes import BROADCAST, SUM_TO
from ostinato.rewrite.engine import keeps_types, replace_loops, rewrite_pass
from ostinato.rewrite.notes import called, tell
from ostinato.rewrite.opened_loop import Opened


@rewrite_pass
def rows_in_loop(graph: Graph) -> Graph:
    """Compute in loops what they alone read."""
    uses = Counter(graph.results)
    for node in graph.nodes():
        uses.update(node.inputs)
    return replace_loops(graph, lambda loop: _moved(loop, uses))


def _moved(node: Node, uses: Counter[Node]) -> dict[Node, Any]:
    """For each result of a loop that of one that computes more; nothing if there is nothing to move."""
    loop = Opened(node)
    n = 0
    for param, x in zip(loop.body.sequences, loop.given.sequences, strict=True):
        whole = x.inputs[0] if is_reversal(x) else x
        if not _moves(whole) or (max(uses[x], uses[whole]) > 1 and not _is_free(whole)):
            continue
        row = loop.row(x, lambda i: not _moves(i) or (uses[i] > 1 and not _is_free(i)))
        if row is not None and row is not param and row.type == param.type:
            loop.replaced[param] = row
            n += 1
    if not n:
        return {}
    alias, _ = loop.closed()
    if not keeps_types(alias):
        return {}
    arrays = "an array" if n == 1 else f"{n} arrays"
    tell(f"rows_in_loop: {arrays} that {called(loop.spec)} reads row by row made in the loop, not stored.")
    return alias


def _is_free(x: Node) -> bool:
    """Whether it costs no more to compute rows once more than to read them."""
    return x.op.cheap or x.op in (BROADCAST, SUM_TO)


def _moves(x: Node) -> bool:
    """Whether an array may be computed in a loop: from rows, and at as little cost."""
    if x.op.name in ELEMENTWISE:
        row = x.type.shape[1:]
        return x.op.cheap or (len(row) > 0 and (None in row or prod(n for n in row if n is not None) > TINY))
    return x.op in (BROADCAST, SUM_TO) or (x.op.name == "dimshuffle" and x.params[0][:1] == (0,))
