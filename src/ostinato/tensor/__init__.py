"""What users call `T`: symbolic arrays and the functions on them (`import ostinato.tensor as T`)."""

from __future__ import annotations

from typing import Any

from ostinato.errors import OstinatoTypeError
from ostinato.forward import Rop as Rop
from ostinato.grad import Lop as Lop
from ostinato.grad import grad as grad
from ostinato.jacobian import hessian as hessian
from ostinato.jacobian import jacobian as jacobian
from ostinato.ops.composite import *
from ostinato.ops.contraction import *
from ostinato.ops.control import *
from ostinato.ops.creation import *
from ostinato.ops.elementwise import *
from ostinato.ops.indexing import *
from ostinato.ops.leaf import as_tensor, constant_value
from ostinato.ops.movement import *
from ostinato.ops.reduce import *
from ostinato.ops.sizes import broadcast_to as broadcast_to
from ostinato.ops.sizes import shape_vector
from ostinato.ops.sorting import *
from ostinato.tensor import linalg as linalg
from ostinato.tensor import nlinalg as nlinalg
from ostinato.tensor import nnet as nnet
from ostinato.tensor import slinalg as slinalg
from ostinato.tensor.constructors import all_constructors
from ostinato.tensor.constructors import tensor as tensor
from ostinato.tensor.variable import TensorConstant, TensorVariable
from ostinato.types import FLOATS, INTEGERS
from ostinato.types import TensorType as TensorType

# Theano's other names for the same things.
abs_ = abs
addbroadcast = add_broadcast
unbroadcast = unbroadcast_axes
as_tensor_variable = as_tensor
bitwise_and, bitwise_or, bitwise_xor, bitwise_not = and_, or_, xor, invert
digamma = psi
int_div = floor_div
lgamma = gammaln
round_ = round
sgn = sign
shape = shape_vector
square = sqr
switch = where
Constant = TensorConstant
Variable = TensorVariable
discrete_dtypes = list(INTEGERS)
float_dtypes = list(FLOATS)


def constant(x: Any, name: str | None = None, ndim: int | None = None, dtype: str | None = None) -> Any:
    """`x` as a constant variable.

    Parameters
    ----------
    x : number, array or nested list
        A bare number takes the dtype of what it meets in an expression, unless `dtype` is given.
    ndim : int, optional
        Check that `x` has this number of dimensions.

    Raises
    ------
    OstinatoTypeError
        If `x` is symbolic, or no array can be made of it.
    """
    node = as_tensor(x, ndim=ndim, dtype=dtype)
    if constant_value(node) is None:
        raise OstinatoTypeError(f"a constant has a value, but {node!r} is symbolic")
    if name is not None:
        node.name = name
    return node


def patternbroadcast(x: Any, broadcastable: Any) -> Any:
    """`x` with the dimensions that the pattern marks declared to have size 1; checked at run time."""
    return add_broadcast(x, *[i for i, one in enumerate(broadcastable) if one])


def identity(x: Any) -> Any:
    """`x` itself, as a variable."""
    return as_tensor(x)


globals().update(all_constructors())

# The constructors are made by a table; named here for readers and type checkers.
scalar: Any
vector: Any
row: Any
col: Any
matrix: Any
tensor3: Any
tensor4: Any


def __getattr__(name: str) -> Any:
    import difflib

    close = difflib.get_close_matches(name, globals(), 3)
    hint = f"; close to it: {', '.join(close)}" if close else ""
    raise AttributeError(f"ostinato.tensor has no {name!r}{hint}")
