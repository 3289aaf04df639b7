"""What operations cost, in additions: to do work once more, or many times at once, is weighed by it.

Measured on vectors in cache, natively, and coarse: divisions wait for the divider, and functions are polynomials.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ostinato.graph import Node
from ostinato.ops.leaf import constant_value

# Additions per element, where that is more than one.
COSTS = dict.fromkeys("true_div floor_div mod sqrt".split(), 8) | dict.fromkeys(  # noqa: SIM905
    """pow exp exp2 expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan arctan2
    sinh cosh tanh arcsinh arccosh arctanh sigmoid logaddexp erf erfc gammaln psi
    random_bits random_uniform random_below""".split(),  # noqa: SIM905
    20,
)

# What computes nothing: another view of an array, or what is known of it.
_VIEWS = frozenset(
    """dimshuffle subtensor broadcast_to reshape specify_shape check_rows size make_vector constant unset
    disconnected_grad zero_grad grad_clip grad_scale log_gamma_sample""".split()  # noqa: SIM905
)
# What moves elements. Of an array that is changed in a place, all else may have to be copied.
_COPIES = frozenset(("concatenate", "set_subtensor", "inc_subtensor", "gather"))
# What brings elements together: each waits for the one before, or lanes for each other.
_REDUCTIONS, _PER_TERM = frozenset(("sum", "prod", "max", "min", "any", "all", "sum_to")), 2


def per_element(node: Node) -> int:
    """What an elementwise operation costs."""
    exponent = constant_value(node.inputs[1]) if node.op.name == "pow" else None
    return 1 if exponent is not None and np.all(exponent == 2) else COSTS.get(node.op.name, 1)


def additions(node: Node, elements: Callable[[Node], int]) -> int | None:
    """What it costs to make a node of its inputs; None for what is never done twice, such as products and solvers.

    Parameters
    ----------
    elements : how many elements the value of a node has, or is taken to have.
    """
    op = node.op
    if op.name in _VIEWS:
        return 0
    if op.name in _REDUCTIONS:
        return _PER_TERM * elements(node.inputs[0])
    if op.cheap or op.name in COSTS or op.name in _COPIES:
        return per_element(node) * elements(node)
    return None
