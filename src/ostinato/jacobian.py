"""Whole matrices of derivatives, `jacobian` and `hessian`, and products with the Hessian.

They take `grad` and `jvp` once per row or column, in a loop; what does not depend on the row is outside of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ostinato.errors import OstinatoValueError
from ostinato.forward import jvp
from ostinato.grad import grad, vjp
from ostinato.graph import Node
from ostinato.ops.creation import arange
from ostinato.ops.elementwise import cast, eq
from ostinato.ops.leaf import as_tensor, new_input
from ostinato.ops.loop import Body, LoopInputs, build_loop
from ostinato.ops.movement import dimshuffle, reshape
from ostinato.ops.sizes import as_size_node, broadcast_to, product, sizes
from ostinato.types import TensorType


def jacobian(
    expression: Any,
    wrt: Any,
    consider_constant: Sequence[Any] | None = None,
    disconnected_inputs: str = "raise",
    mode: str = "auto",
) -> Any:
    """All derivatives of an expression with respect to variables.

    Parameters
    ----------
    expression : variable of floats, of any number of dimensions
    wrt : variable, or list or tuple of variables
    consider_constant : list of variables
        Derivatives do not pass these.
    disconnected_inputs : {"raise", "warn", "ignore"}
        What to do if the expression does not depend on one of `wrt`; ignored, its derivatives are zero.
    mode : {"auto", "reverse", "forward"}
        Row by row by reverse mode, or column by column by forward mode. By default the latter for variables
        that are known to have fewer elements than the expression, or few where the size of that is not known.

    Returns
    -------
    variable, list or tuple like `wrt`
        Each of the shape of the expression followed by that of the variable: element [i, j] is the derivative of
        expression[i] with respect to variable[j].

    Raises
    ------
    OstinatoTypeError, DisconnectedInputError, NoGradientError
        As in `grad`.

    Notes
    -----
    Theano takes expressions of at most one dimension, and always goes row by row.
    """
    if mode not in ("auto", "reverse", "forward"):
        raise OstinatoValueError(f"jacobian: mode is 'auto', 'reverse' or 'forward', not {mode!r}")
    y = as_tensor(expression)
    targets = [as_tensor(w) for w in wrt] if isinstance(wrt, (list, tuple)) else [as_tensor(wrt)]
    # Errors and warnings of options come from here, once and for all variables.
    vjp(y, targets, broadcast_to(cast(0, y.type.dtype), sizes(y)), consider_constant, disconnected_inputs)
    found = [
        _matrix(y, w, consider_constant, mode == "forward" or (mode == "auto" and _is_tall(y, w))) for w in targets
    ]
    return type(wrt)(found) if isinstance(wrt, (list, tuple)) else found[0]


# So many columns are taken by forward mode where the number of rows is not known.
_FEW = 8


def _is_tall(y: Node, w: Node) -> bool:
    """Whether there are fewer columns than rows, as far as the types tell."""
    rows, columns = product(sizes(y)), product(sizes(w))
    if not isinstance(columns, int):
        return False
    return columns < rows if isinstance(rows, int) else columns <= _FEW


def _matrix(y: Any, w: Any, constants: Sequence[Any] | None, forward: bool) -> Any:
    along, other = (w, y) if forward else (y, w)

    def derivative(direction: Any) -> Any:
        if forward:
            return jvp(y, w, direction, constants, disconnected_outputs="ignore")
        return vjp(y, w, direction, constants, disconnected_inputs="ignore")

    rows = _per_unit(along, derivative)
    if not forward:
        return rows
    n, m = along.type.ndim, other.type.ndim
    return dimshuffle(rows, [*range(n, n + m), *range(n)])


def _per_unit(x: Any, derivative: Any) -> Any:
    """What a linear function gives for each array of the shape of x with a single 1 in it; x's dimensions first."""
    if x.type.ndim == 0:
        return derivative(cast(1, x.type.dtype))
    count = as_size_node(product(sizes(x)))
    t = new_input(TensorType("int64", ()), "t")
    unit = reshape(cast(eq(arange(count), t), x.type.dtype), sizes(x))
    loop = build_loop(
        Body(t, (), (), (), (), (derivative(unit),), None), LoopInputs(count, (), (), ()), name="jacobian"
    )
    rows = loop.outputs[0]
    return rows if x.type.ndim == 1 else reshape(rows, [*sizes(x), *sizes(rows)[1:]])


def hessian(
    cost: Any,
    wrt: Any,
    consider_constant: Sequence[Any] | None = None,
    disconnected_inputs: str = "raise",
) -> Any:
    """The second derivatives of a scalar with respect to variables, each by itself.

    Parameters
    ----------
    cost : scalar variable of floats
    wrt : variable, or list or tuple of variables
    consider_constant : list of variables
        Derivatives do not pass these.
    disconnected_inputs : {"raise", "warn", "ignore"}
        What to do if the cost does not depend on one of `wrt`.

    Returns
    -------
    variable, list or tuple like `wrt`
        For a vector the symmetric matrix; for n dimensions an array of 2 n.

    Raises
    ------
    OstinatoTypeError, DisconnectedInputError, NoGradientError
        As in `grad`.

    Notes
    -----
    Forward over reverse: row i is the forward derivative of the gradient in the direction of variable i. For
    derivatives across variables, make the variables parts of one vector. Theano takes vectors only.
    """
    targets = [as_tensor(w) for w in wrt] if isinstance(wrt, (list, tuple)) else [as_tensor(wrt)]
    gradients = grad(cost, targets, consider_constant, disconnected_inputs)

    def of(w: Any, g: Any) -> Any:
        return _per_unit(w, lambda unit: jvp(g, w, unit, consider_constant, disconnected_outputs="ignore"))

    found = [of(w, g) for w, g in zip(targets, gradients, strict=True)]
    return type(wrt)(found) if isinstance(wrt, (list, tuple)) else found[0]


def hessian_vector_product(
    cost: Any,
    wrt: Any,
    vectors: Any,
    consider_constant: Sequence[Any] | None = None,
    disconnected_inputs: str = "raise",
) -> Any:
    """The Hessian of a scalar times vectors, without the Hessian: for a few times the cost of a gradient.

    Parameters
    ----------
    cost : scalar variable of floats
    wrt : variable, or list or tuple of variables
    vectors : variable or array, or list or tuple of these, one for each of `wrt`
        Each of the shape of its variable; None stands for zero.
    consider_constant, disconnected_inputs : as in `grad`

    Returns
    -------
    variable, list or tuple like `wrt`
        The derivatives of the gradient in the direction of `vectors`, those across variables included.

    Raises
    ------
    OstinatoTypeError, OstinatoValueError, ShapeError, DisconnectedInputError, NoGradientError
        As in `grad` and `jvp`.
    """
    gradients = grad(cost, wrt, consider_constant, disconnected_inputs)
    return jvp(gradients, wrt, vectors, consider_constant, disconnected_outputs="ignore")
