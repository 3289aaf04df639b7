"""`gradient`: derivatives, what stops, changes or checks them, under Theano's name of the module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ostinato.errors import DisconnectedInputError, GradientMismatchError
from ostinato.forward import Rop, jvp
from ostinato.grad import Lop, grad, vjp
from ostinato.jacobian import hessian, hessian_vector_product, jacobian
from ostinato.ops.control import disconnected_grad, grad_clip, grad_scale, zero_grad

consider_constant = disconnected_grad
GradientError = GradientMismatchError


def verify_grad(
    fun: Callable[..., Any],
    pt: Sequence[Any],
    n_tests: int = 2,
    rng: Any = None,
    eps: float | None = None,
    out_type: Any = None,
    abs_tol: float | None = None,
    rel_tol: float | None = None,
    mode: Any = None,
    cast_to_output_type: bool = False,
    no_debug_ref: bool = True,
) -> None:
    """Check the gradient of a program, with Theano's arguments; `ostinato.testing.verify_grad` can do more.

    Parameters
    ----------
    fun : callable
        From symbolic variables to a variable of floats.
    pt : list of arrays
        Where to check.
    n_tests : int
        How many random weights of the outputs to try.
    rng : numpy.random.RandomState, numpy.random.Generator or int, optional
        Where these come from.
    eps : float, optional
        The step of differences. Unless it is given, a complex step is made where that is possible.
    abs_tol, rel_tol : float, optional
        What a derivative may differ by, absolutely plus relative to what is expected.
    mode : as of `function`
    out_type, cast_to_output_type, no_debug_ref
        Accepted for Theano's sake.

    Raises
    ------
    GradientMismatchError
        With the argument, the index, the derivative and what was expected. Theano's name of it is `GradientError`.
    """
    from ostinato.testing import verify_grad as verify

    if isinstance(rng, np.random.RandomState):
        rng = int(rng.randint(2**31 - 1))
    points = [np.asarray(p) for p in pt]
    verify(fun, points, derivative="reverse", rtol=rel_tol, atol=abs_tol, eps=eps, n_tests=n_tests, rng=rng, mode=mode)


verify_grad.E_grad = GradientError  # type: ignore[attr-defined]

__all__ = [
    "DisconnectedInputError",
    "GradientError",
    "GradientMismatchError",
    "Lop",
    "Rop",
    "consider_constant",
    "disconnected_grad",
    "grad",
    "grad_clip",
    "grad_scale",
    "hessian",
    "hessian_vector_product",
    "jacobian",
    "jvp",
    "verify_grad",
    "vjp",
    "zero_grad",
]
