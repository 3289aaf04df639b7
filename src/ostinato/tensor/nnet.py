"""`tensor.nnet`: functions of neural networks under Theano's names."""

from __future__ import annotations

from typing import Any

from ostinato.ops import composite
from ostinato.ops.composite import (
    binary_crossentropy,
    categorical_crossentropy,
    elu,
    hard_sigmoid,
    relu,
    softplus,
)
from ostinato.ops.elementwise import sigmoid
from ostinato.ops.leaf import as_tensor
from ostinato.ops.movement import shape_padleft

ultra_fast_sigmoid = sigmoid


def softmax(x: Any) -> Any:
    """The softmax of each row of a matrix. A vector is taken as a matrix of one row, as in Theano.

    See Also
    --------
    ostinato.tensor.softmax : along any axis, of the shape of its operand.
    """
    return composite.softmax(_rows(x))


def logsoftmax(x: Any) -> Any:
    """The logarithm of `softmax`, without underflow."""
    return composite.log_softmax(_rows(x))


def _rows(x: Any) -> Any:
    node = as_tensor(x)
    return shape_padleft(node) if node.type.ndim == 1 else node


__all__ = [
    "binary_crossentropy",
    "categorical_crossentropy",
    "elu",
    "hard_sigmoid",
    "logsoftmax",
    "relu",
    "sigmoid",
    "softmax",
    "softplus",
    "ultra_fast_sigmoid",
]
