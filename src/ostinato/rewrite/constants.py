"""constant_folding: an op on small constants becomes a constant.

before:  mul 2 3
after:   6
"""

from __future__ import annotations

import math

import numpy as np

from ostinato.errors import OstinatoError
from ostinato.graph import Graph, Node, rewrite_nodes
from ostinato.ops.leaf import CONSTANT, constant
from ostinato.ops.loop import ITEM, LOOP
from ostinato.ops.op import params_of
from ostinato.rewrite.engine import rewrite_pass

# Larger results are cheaper to compute than to keep.
_MAX_ELEMENTS = 64


@rewrite_pass
def constant_folding(graph: Graph) -> Graph:
    """Replace what follows from small constants alone."""
    return Graph(graph.params, tuple(rewrite_nodes(graph.results, folded)))


def folded(node: Node) -> Node | None:
    """The constant that a node is, if it follows from small constants alone; else None."""
    if not node.inputs or node.op in (LOOP, ITEM) or any(i.op is not CONSTANT for i in node.inputs):
        return None
    shape = node.type.shape
    if None in shape or math.prod(shape) > _MAX_ELEMENTS:
        return None
    arrays = [i.params[0].array for i in node.inputs]
    try:
        with np.errstate(all="ignore"):
            value = node.op.numpy(*[a[()] if a.ndim == 0 else a for a in arrays], **params_of(node))
    except (OstinatoError, ValueError, IndexError):
        return None  # it fails when the function runs, with a message that names the operands
    return constant(value, node.type.dtype)
