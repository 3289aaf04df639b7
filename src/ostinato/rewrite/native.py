"""The passes that follow where native code is made; they are imported with the compiler.

They may change the order of sums, and with it the last digits of results, which those of `pipeline` must not: the
reference is to compute what was written.
"""

from __future__ import annotations

from ostinato.graph import Graph
from ostinato.rewrite.engine import Pass, run_passes
from ostinato.rewrite.loop_accumulate import loop_accumulate
from ostinato.rewrite.loop_affine import loop_affine
from ostinato.rewrite.loop_prune import loop_prune
from ostinato.rewrite.loop_to_map import loop_to_map

NATIVE: tuple[Pass, ...] = (
    loop_accumulate,
    loop_prune,
    loop_to_map,
    loop_affine,
    loop_prune,
)


def rewrite_for_native(graph: Graph) -> Graph:
    """The graph as it is lowered to native code."""
    return run_passes(graph, NATIVE)
