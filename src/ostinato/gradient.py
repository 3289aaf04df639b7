"""`gradient`: derivatives and what stops or changes them, under Theano's name of the module."""

from ostinato.errors import DisconnectedInputError
from ostinato.forward import Rop, jvp
from ostinato.grad import Lop, grad, vjp
from ostinato.jacobian import hessian, hessian_vector_product, jacobian
from ostinato.ops.control import disconnected_grad, zero_grad

consider_constant = disconnected_grad

__all__ = [
    "DisconnectedInputError",
    "Lop",
    "Rop",
    "consider_constant",
    "disconnected_grad",
    "grad",
    "hessian",
    "hessian_vector_product",
    "jacobian",
    "jvp",
    "vjp",
    "zero_grad",
]
