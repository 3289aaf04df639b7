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
from ostinato.ops.leaf import as_operands, as_tensor
from ostinato.ops.movement import shape_padleft
from ostinato.ops.reduce import argmax

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


def softmax_with_bias(x: Any, b: Any) -> Any:
    """`softmax(x + b)`."""
    return softmax(x + as_tensor(b))


def sigmoid_binary_crossentropy(output: Any, target: Any) -> Any:
    """`binary_crossentropy(sigmoid(output), target)`, elementwise, accurate for any finite `output`."""
    x, t = as_operands(output, target)
    return t * softplus(-x) + (1 - t) * softplus(x)


def crossentropy_categorical_1hot(coding_dist: Any, true_one_of_n: Any) -> Any:
    """`categorical_crossentropy` for the indices of the right classes."""
    return categorical_crossentropy(coding_dist, as_tensor(true_one_of_n, ndim=1))


def crossentropy_softmax_1hot(x: Any, y_idx: Any) -> tuple[Any, Any]:
    """The cross-entropy of each row, and the softmax.

    Parameters
    ----------
    x : matrix of floats
        Logarithms of weights: a row per case, a column per class.
    y_idx : vector of integers
        The right class of each row.
    """
    p = softmax(x)
    return crossentropy_categorical_1hot(p, y_idx), p


def crossentropy_softmax_1hot_with_bias(x: Any, b: Any, y_idx: Any) -> tuple[Any, Any, Any]:
    """`crossentropy_softmax_1hot(x + b, y_idx)`, and the most likely class of each row."""
    scores = _rows(x + as_tensor(b))
    return (*crossentropy_softmax_1hot(scores, y_idx), argmax(scores, axis=1))


def selu(x: Any) -> Any:
    """The scaled `elu` of self-normalising networks (Klambauer et al., 2017): keeps mean 0 and variance 1."""
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    return scale * elu(x, alpha)


def softsign(x: Any) -> Any:
    """`x / (1 + abs(x))`."""
    node = as_tensor(x)
    return node / (1 + abs(node))


def _rows(x: Any) -> Any:
    node = as_tensor(x)
    return shape_padleft(node) if node.type.ndim == 1 else node


__all__ = [
    "binary_crossentropy",
    "categorical_crossentropy",
    "crossentropy_categorical_1hot",
    "crossentropy_softmax_1hot",
    "crossentropy_softmax_1hot_with_bias",
    "elu",
    "hard_sigmoid",
    "logsoftmax",
    "relu",
    "selu",
    "sigmoid",
    "sigmoid_binary_crossentropy",
    "softmax",
    "softmax_with_bias",
    "softplus",
    "softsign",
    "ultra_fast_sigmoid",
]
