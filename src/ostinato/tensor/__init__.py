"""What users call `T`: symbolic arrays and the functions on them (`import ostinato.tensor as T`)."""

from __future__ import annotations

from typing import Any

from ostinato.errors import OstinatoTypeError
from ostinato.grad import grad
from ostinato.ops.composite import (
    binary_crossentropy,
    categorical_crossentropy,
    clip,
    cumprod,
    deg2rad,
    diag,
    elu,
    flip,
    hard_sigmoid,
    inv,
    isclose,
    log_softmax,
    logsumexp,
    mean,
    norm,
    ptp,
    rad2deg,
    relu,
    repeat,
    roll,
    softmax,
    softplus,
    sqr,
    stack,
    std,
    tile,
    to_one_hot,
    trace,
    tril,
    triu,
    var,
)
from ostinato.ops.contraction import batched_dot, dot, matmul, outer, tensordot
from ostinato.ops.creation import (
    alloc,
    arange,
    eye,
    full,
    full_like,
    identity_like,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from ostinato.ops.elementwise import (
    abs,
    add,
    and_,
    arccos,
    arccosh,
    arcsin,
    arcsinh,
    arctan,
    arctan2,
    arctanh,
    cast,
    ceil,
    cos,
    cosh,
    eq,
    erf,
    erfc,
    exp,
    exp2,
    expm1,
    floor,
    floor_div,
    gammaln,
    ge,
    gt,
    invert,
    isinf,
    isnan,
    le,
    log,
    log1p,
    log2,
    log10,
    logaddexp,
    logical_not,
    lt,
    maximum,
    minimum,
    mod,
    mul,
    neg,
    neq,
    or_,
    polygamma,
    pow,
    psi,
    round,
    sigmoid,
    sign,
    sin,
    sinh,
    sqrt,
    sub,
    tan,
    tanh,
    true_div,
    trunc,
    where,
    xor,
)
from ostinato.ops.indexing import inc_subtensor, set_subtensor, take
from ostinato.ops.leaf import as_tensor, constant_value
from ostinato.ops.movement import (
    add_broadcast,
    concatenate,
    dimshuffle,
    expand_dims,
    flatten,
    join,
    reshape,
    shape_padleft,
    shape_padright,
    squeeze,
    swapaxes,
    transpose,
    unbroadcast_axes,
)
from ostinato.ops.reduce import all, any, argmax, argmin, cumsum, max, min, prod, sum
from ostinato.ops.sizes import broadcast_to, shape_vector
from ostinato.tensor import nnet
from ostinato.tensor.constructors import all_constructors, tensor
from ostinato.tensor.variable import TensorConstant, TensorVariable
from ostinato.types import FLOATS, INTEGERS, TensorType

# Theano's other names for the same things.
abs_ = abs
addbroadcast = add_broadcast
unbroadcast = unbroadcast_axes
as_tensor_variable = as_tensor
bitwise_and, bitwise_or, bitwise_xor, bitwise_not = and_, or_, xor, invert
digamma = psi
int_div = floor_div
lgamma = gammaln
logical_and, logical_or = and_, or_
mod_ = mod
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
