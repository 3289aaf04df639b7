"""Ostinato: a compiler for recurrences. Write one step of a loop; get the loop, and its derivatives.

The public names are here, nothing else is. `import ostinato as theano` runs code written for Theano.
"""

from ostinato import gradient, printing, scan_module, tensor
from ostinato._version import __version__
from ostinato.closing import In, Out
from ostinato.config import config
from ostinato.errors import (
    DeviceError,
    DisconnectedInputError,
    LinearAlgebraError,
    MemoryBudgetError,
    MissingInputError,
    NoGradientError,
    OstinatoError,
    OstinatoIndexError,
    OstinatoTypeError,
    OstinatoValueError,
    ShapeError,
    UnusedInputError,
)
from ostinato.forward import Rop, jvp
from ostinato.function import Function, function
from ostinato.grad import Lop, grad, vjp
from ostinato.graph import Graph, Node
from ostinato.jacobian import hessian, hessian_vector_product, jacobian
from ostinato.keeping import at, every
from ostinato.random import RandomStreams
from ostinato.scan import foldl, foldr, map, reduce, scan, scan_checkpoints, until
from ostinato.shared import SharedVariable, shared
from ostinato.tensor import dot
from ostinato.tensor import shared_randomstreams as _shared_randomstreams  # noqa: F401  (so that T has it)
from ostinato.tensor.variable import TensorVariable

# Theano's other names.
Variable = TensorVariable
Param = In

__all__ = [
    "DeviceError",
    "DisconnectedInputError",
    "Function",
    "Graph",
    "In",
    "LinearAlgebraError",
    "Lop",
    "MemoryBudgetError",
    "MissingInputError",
    "NoGradientError",
    "Node",
    "OstinatoError",
    "OstinatoIndexError",
    "OstinatoTypeError",
    "OstinatoValueError",
    "Out",
    "Param",
    "RandomStreams",
    "Rop",
    "ShapeError",
    "SharedVariable",
    "TensorVariable",
    "UnusedInputError",
    "Variable",
    "__version__",
    "at",
    "config",
    "dot",
    "every",
    "foldl",
    "foldr",
    "function",
    "grad",
    "gradient",
    "hessian",
    "hessian_vector_product",
    "jacobian",
    "jvp",
    "map",
    "printing",
    "reduce",
    "scan",
    "scan_checkpoints",
    "scan_module",
    "shared",
    "tensor",
    "until",
    "vjp",
]
