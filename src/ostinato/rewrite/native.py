"""The passes for native code: before loops are told what to keep, and after all others; imported with the compiler.

They may change the order of sums, and with it the last digits of results, which those of `pipeline` must not: the
reference is to compute what was written.
"""

from __future__ import annotations

from ostinato.graph import Graph
from ostinato.rewrite.algebra import algebra
from ostinato.rewrite.engine import Pass, run_passes
from ostinato.rewrite.log_products import log_products
from ostinato.rewrite.loop_accumulate import loop_accumulate
from ostinato.rewrite.loop_affine import loop_affine
from ostinato.rewrite.loop_invariant import loop_invariant
from ostinato.rewrite.loop_prune import loop_prune
from ostinato.rewrite.loop_shorten import loop_shorten
from ostinato.rewrite.loop_split import loop_split
from ostinato.rewrite.loop_to_map import loop_to_map
from ostinato.rewrite.reduce_in_loop import reduce_in_loop
from ostinato.rewrite.rows_in_loop import rows_in_loop
from ostinato.rewrite.sums_together import sums_together

# What is done before outputs of which little is read are looked for, and before derivatives are told what to keep.
EARLY: tuple[Pass, ...] = (
    algebra,
    loop_shorten,
    rows_in_loop,
    reduce_in_loop,
)
NATIVE: tuple[Pass, ...] = (
    sums_together,
    loop_accumulate,
    loop_prune,
    loop_to_map,
    loop_affine,
    loop_prune,
    log_products,
    loop_invariant,
    loop_split,
)


# Those that take sizes for equal which meet, as optimistic lowering does; see `lower.integers`.
OPTIMISTIC = frozenset({sums_together})


def rewrite_for_native(graph: Graph, optimistic: bool = True) -> Graph:
    """The graph as it is lowered to native code."""
    return run_passes(graph, [p for p in NATIVE if optimistic or p not in OPTIMISTIC])
