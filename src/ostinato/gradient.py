"""`gradient`: derivatives and what stops them, under Theano's name of the module."""

from ostinato.errors import DisconnectedInputError
from ostinato.grad import grad
from ostinato.ops.control import disconnected_grad, zero_grad

consider_constant = disconnected_grad

__all__ = ["DisconnectedInputError", "consider_constant", "disconnected_grad", "grad", "zero_grad"]
