"""The order of the passes. The order is for speed only: no pass relies on another one for correctness.

These passes are for all backends; what they make is what users see as the graph of a function. More follow where
native code is made, see `native`. They change no bit of any result, but for `stability`, which makes results better.
"""

from __future__ import annotations

from ostinato.graph import Graph
from ostinato.rewrite.algebra import algebra
from ostinato.rewrite.checkpoints import checkpoints
from ostinato.rewrite.constants import constant_folding
from ostinato.rewrite.engine import Pass, run_passes
from ostinato.rewrite.last_only import last_only
from ostinato.rewrite.loop_absorb import loop_absorb
from ostinato.rewrite.loop_merge import loop_merge
from ostinato.rewrite.loop_prune import loop_prune
from ostinato.rewrite.stability import stability

PIPELINE: tuple[Pass, ...] = (
    stability,
    loop_merge,
    loop_absorb,
    last_only,
    loop_prune,
    checkpoints,
    constant_folding,
    algebra,
)


def rewrite(graph: Graph, native: bool = False) -> Graph:
    """The graph after all passes of the pipeline; before `last_only` come some more if it is for native code."""
    if not native:
        return run_passes(graph, PIPELINE)
    from ostinato.rewrite.native import EARLY

    place = PIPELINE.index(last_only)
    return run_passes(graph, (*PIPELINE[:place], *EARLY, *PIPELINE[place:]))
