"""Elementwise ops: arithmetic, comparisons, logic, mathematical functions, `where`, `cast`.

The family carries what is common: operands are promoted to one dtype and broadcast against each other,
reverse rules are written as if all operands had the shape of the result. An op of the family is one
call of `elementwise`.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ostinato.config import config
from ostinato.errors import OstinatoTypeError, OstinatoValueError, ShapeError
from ostinato.graph import Node, make
from ostinato.ops.batch import aligned
from ostinato.ops.leaf import as_operands, as_tensor, constant, constant_value, describe, is_constant
from ostinato.ops.op import Op, Rule, Sample, register
from ostinato.ops.sizes import broadcast_sizes, broadcast_to, sizes, unbroadcast
from ostinato.types import FLOATS, TensorType, broadcast_static, check_dtype, promote

# What users find in `ostinato.tensor`.
__all__ = [
    "abs",
    "add",
    "and_",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "cast",
    "ceil",
    "cos",
    "cosh",
    "eq",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "floor_div",
    "gammaln",
    "ge",
    "gt",
    "invert",
    "isinf",
    "isnan",
    "le",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "logical_not",
    "lt",
    "maximum",
    "minimum",
    "mod",
    "mul",
    "neg",
    "neq",
    "or_",
    "polygamma",
    "pow",
    "psi",
    "round",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "sub",
    "tan",
    "tanh",
    "true_div",
    "trunc",
    "where",
    "xor",
]


class Builder(Protocol):
    """A function that builds nodes of one op."""

    op: Op
    __name__: str

    def __call__(self, *args: Any) -> Any: ...


# What an op's operands are converted to, given their dtypes.
def _number(*dtypes: str) -> str:
    joined = promote(*dtypes)
    return "int8" if joined == "bool" else joined


def _float(*dtypes: str) -> str:
    joined = promote(*dtypes)
    return joined if joined in FLOATS else config.floatX


def _wide_float(*dtypes: str) -> str:
    """A float that no integer overflows, whatever `config.floatX` is."""
    joined = promote(*dtypes)
    return joined if joined in FLOATS else "float64"


def _bits(*dtypes: str) -> str:
    joined = promote(*dtypes)
    if joined in FLOATS:
        raise OstinatoTypeError("expected booleans or integers")
    return joined


def _bool(*dtypes: str) -> str:
    return "bool"


_DOMAINS: dict[str, tuple[float, ...]] = {
    "real": (-1.7, -0.3, 0.4, 2.1),
    "other": (0.9, -1.2, 1.5, 0.6),
    "positive": (0.2, 0.7, 1.3, 3.1),
    "unit": (-0.8, -0.1, 0.3, 0.9),
    "above one": (1.1, 1.6, 2.5, 4.0),
    "above minus one": (-0.7, -0.2, 0.5, 2.0),
}


def elementwise(
    name: str,
    numpy: Rule,
    vjp: Rule | None,
    *,
    operands: Callable[..., str] = _number,
    result: str | None = None,
    domain: tuple[str, ...] = ("real",),
    doc: str,
) -> Builder:
    """Declare an elementwise op and return the function that builds its nodes.

    Parameters
    ----------
    numpy : (*arrays) -> array
        On operands of one dtype.
    vjp : (g, out, *operands) -> cotangents, each of the shape of the result; None for integer results.
    operands : the dtype that the operands are converted to.
    result : dtype of the result; that of the operands if not given.
    domain : per operand, the name of the sample values for tests.
    """

    def infer(*inputs: Node) -> TensorType:
        dtypes = {i.type.dtype for i in inputs}
        if len(dtypes) != 1:
            raise OstinatoTypeError(f"{name}: operands of one dtype expected, got {dtypes}")
        return TensorType(result or inputs[0].type.dtype, _common_shape(name, inputs))

    def pull_back(g: Node, out: Node, *inputs: Node) -> list[Node | None]:
        assert vjp is not None
        return [unbroadcast(c, i) if c is not None else None for c, i in zip(vjp(g, out, *inputs), inputs, strict=True)]

    def push_forward(tangents: Sequence[Any], out: Node, *inputs: Node) -> Any:
        """Elements do not mix, so a derivative is its own transposed: the reverse rule of each operand, summed."""
        assert vjp is not None
        parts = [None if t is None else vjp(t, out, *inputs)[i] for i, t in enumerate(tangents)]
        return stretched_sum(parts, out)

    op = register(
        Op(
            name,
            infer=infer,
            numpy=numpy,
            vjp=pull_back if vjp else None,
            jvp=push_forward if vjp else None,
            sizes=lambda *inputs: broadcast_sizes(inputs),
            batch=aligned,
            samples=_samples(name, domain, operands),
            cheap=name in _CHEAP,
            doc=doc,
        )
    )
    return _builder(op, operands, len(domain))


def stretched_sum(parts: Sequence[Any], out: Node) -> Any:
    """The sum of those parts that there are, broadcast to the sizes of a result; None if there is none."""
    there = [p for p in parts if p is not None]
    return broadcast_to(functools.reduce(operator.add, there), sizes(out)) if there else None


_CHEAP = {"add", "sub", "mul", "neg", "abs", "maximum", "minimum", "sign", "floor", "ceil", "cast", "where"} | {
    "lt", "le", "gt", "ge", "eq", "neq", "and", "or", "xor", "invert", "isnan", "isinf", "logical_not", "mod"
}  # fmt: skip

# Ops that take more than two operands too, combined from the left, as Theano's do.
_OF_SEVERAL = {"add", "mul", "and", "or", "xor"}


def _samples(name: str, domain: tuple[str, ...], operands: Callable[..., str]) -> tuple[Sample, ...]:
    names = [d if d != "real" or i == 0 else "other" for i, d in enumerate(domain)]
    values = [np.array(_DOMAINS[d]) for d in names]
    if operands is _bits:
        values = [np.array([True, False, True, False]), np.array([True, True, False, False])][: len(domain)]
    elif operands is _bool:
        values = [v > 0.5 for v in values]

    def build(*variables: Node) -> Any:
        return make(_op(name), variables)

    row = [v if i == 0 else v[:1] for i, v in enumerate(values)]
    return (Sample(build, tuple(values)), Sample(build, tuple(v.reshape(1, -1) for v in row)))


def _op(name: str) -> Op:
    from ostinato.ops.op import OPS

    return OPS[name]


def _common_shape(name: str, inputs: tuple[Node, ...]) -> tuple[int | None, ...]:
    try:
        return broadcast_static([i.type.shape for i in inputs])
    except ShapeError as error:
        named = " and ".join(describe(i) for i in inputs)
        raise ShapeError(f"{name}: the shapes of {named} do not fit: {error}") from None


def _builder(op: Op, operands: Callable[..., str], arity: int) -> Builder:
    def build(*args: Any) -> Any:
        if len(args) != arity and not (op.name in _OF_SEVERAL and len(args) > arity):
            raise TypeError(f"{op.name}() takes {arity} operand(s), got {len(args)}")
        nodes = as_operands(*args)
        try:
            dtype = operands(*[n.type.dtype for n in nodes])
        except OstinatoTypeError as error:
            raise OstinatoTypeError(f"{op.name}: {error}, got {' and '.join(map(describe, nodes))}") from None
        converted = tuple([cast(n, dtype) for n in nodes])
        first = make(op, converted[:arity])
        return functools.reduce(lambda x, y: make(op, (x, y)), converted[arity:], first)

    names = "xyz"[:arity]
    build.__name__ = build.__qualname__ = op.name.rstrip("_")
    build.__doc__ = op.doc
    build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in names]
    )
    build.op = op  # type: ignore[attr-defined]
    return build  # type: ignore[return-value]


# ---- cast and where: their operands differ in dtype -----------------------------------------------


def _cast_numpy(x: Any, *, dtype: str) -> Any:
    return x.astype(dtype)


CAST: Op = register(
    Op(
        "cast",
        infer=lambda x, *, dtype: x.type.with_dtype(dtype),
        numpy=_cast_numpy,
        vjp=lambda g, out, x, *, dtype: (cast(g, x.type.dtype) if x.type.is_float else None,),
        jvp=lambda tangents, out, x, *, dtype: cast(tangents[0], dtype),
        sizes=lambda x, *, dtype: broadcast_sizes((x,)),
        batch=aligned,
        params=("dtype",),
        samples=(
            Sample(lambda x: make(CAST, (x,), ("float32",)), (np.array([1.5, -2.25]),), differentiable=False),
            Sample(lambda x: make(CAST, (x,), ("float64",)), (np.array([1.5, -2.25]),)),
            Sample(lambda x: make(CAST, (x,), ("int16",)), (np.array([1.5, -2.25]),)),
        ),
        cheap=True,
    )
)


def cast(x: Any, dtype: str) -> Any:
    """`x` converted to `dtype`; values that do not fit wrap or are cut, as in NumPy's `astype`."""
    node, dtype = as_tensor(x), check_dtype(dtype)
    value = constant_value(node)
    if node.type.dtype == dtype and not (value is not None and node.params[0].weak):
        return node
    if value is not None and value.size <= 64:
        with np.errstate(all="ignore"):
            return constant(value.astype(dtype))
    return make(CAST, (node,), (dtype,))


def _where_infer(condition: Node, x: Node, y: Node) -> TensorType:
    if condition.type.dtype != "bool" or x.type.dtype != y.type.dtype:
        raise OstinatoTypeError("where: expected a boolean condition and two operands of one dtype")
    return TensorType(x.type.dtype, _common_shape("where", (condition, x, y)))


def _where_numpy(condition: Any, x: Any, y: Any) -> Any:
    if np.ndim(condition) or np.ndim(x) or np.ndim(y):
        return np.where(condition, x, y)
    return x if condition else y


def _where_vjp(g: Any, out: Any, condition: Any, x: Any, y: Any) -> tuple[Any, ...]:
    zero = constant(0, g.type.dtype)
    gx, gy = make(WHERE, (condition, g, zero)), make(WHERE, (condition, zero, g))
    return None, unbroadcast(gx, x), unbroadcast(gy, y)


def _where_jvp(tangents: Sequence[Any], out: Any, condition: Any, x: Any, y: Any) -> Any:
    zero = constant(0, out.type.dtype)
    moved = make(WHERE, (condition, *[zero if t is None else t for t in tangents[1:]]))
    return broadcast_to(moved, sizes(out))


_CONDITION = np.array([True, False, False, True])
WHERE: Op = register(
    Op(
        "where",
        infer=_where_infer,
        numpy=_where_numpy,
        vjp=_where_vjp,
        jvp=_where_jvp,
        sizes=lambda *inputs: broadcast_sizes(inputs),
        batch=aligned,
        samples=(
            Sample(
                lambda c, x, y: make(WHERE, (c, x, y)),
                (_CONDITION, np.array(_DOMAINS["real"]), np.array(_DOMAINS["other"])),
            ),
            Sample(
                lambda c, x, y: make(WHERE, (c, x, y)),
                (_CONDITION, np.array(_DOMAINS["real"])[:1], np.array([_DOMAINS["other"]])),
            ),
        ),
        cheap=True,
    )
)


def where(condition: Any, x: Any, y: Any) -> Any:
    """Elementwise `x` where `condition` is true (non-zero), else `y`; all three broadcast."""
    test = cast(as_tensor(condition), "bool")
    nodes = as_operands(x, y)
    dtype = promote(*[n.type.dtype for n in nodes])
    return make(WHERE, (test, cast(nodes[0], dtype), cast(nodes[1], dtype)))


# ---- arithmetic -----------------------------------------------------------------------------------

add: Builder = elementwise("add", operator.add, lambda g, out, x, y: (g, g), domain=("real", "real"), doc="`x + y`.")
sub: Builder = elementwise("sub", operator.sub, lambda g, out, x, y: (g, -g), domain=("real", "real"), doc="`x - y`.")
mul: Builder = elementwise(
    "mul",
    operator.mul,
    lambda g, out, x, y: (None if is_constant(x) else g * y, None if is_constant(y) else g * x),
    domain=("real", "real"),
    doc="`x * y`.",
)
true_div: Builder = elementwise(
    "true_div",
    operator.truediv,
    lambda g, out, x, y: (g / y, None if is_constant(y) else -(g * out) / y),
    operands=_float,
    domain=("real", "real"),
    doc="`x / y`; integers are divided as `config.floatX`.",
)
floor_div: Builder = elementwise(
    "floor_div",
    operator.floordiv,
    lambda g, out, x, y: (None, None),
    domain=("real", "real"),
    doc="`x // y`, rounded towards minus infinity. Its derivative is zero.",
)
mod: Builder = elementwise(
    "mod",
    operator.mod,
    lambda g, out, x, y: (g, -g * floor_div(x, y)),
    domain=("real", "real"),
    doc="`x % y`, with the sign of `y`, as in Python.",
)


def _pow_vjp(g: Any, out: Any, x: Any, y: Any) -> tuple[Any, Any]:
    exponent = constant_value(y)
    if exponent is None:
        origin = and_(eq(x, 0), eq(y, 0))  # x**0 is 1 for every x, zero included
        gy = where(eq(x, 0), 0, out * log(where(eq(x, 0), 1, x)))
        return g * (y * where(origin, 1, x) ** (y - 1)), g * gy
    if exponent.ndim == 0 and exponent == 0:
        return None, None
    base = x if np.all(exponent != 0) else where(and_(eq(x, 0), eq(y, 0)), 1, x)
    return g * (y * base ** constant(exponent - 1)), None


pow: Builder = elementwise(
    "pow",
    operator.pow,
    _pow_vjp,
    domain=("positive", "real"),
    doc="`x ** y`. NaN for a negative float base with a fractional exponent.",
)
neg: Builder = elementwise("neg", operator.neg, lambda g, out, x: (-g,), doc="`-x`.")
abs: Builder = elementwise(
    "abs",
    np.abs,
    lambda g, out, x: (g * sign(x),),
    operands=promote,
    doc="Absolute value; its derivative at 0 is 0.",
)
sign: Builder = elementwise("sign", np.sign, lambda g, out, x: (None,), doc="-1, 0 or 1. Its derivative is zero.")


def _share(g: Any, x: Any, y: Any, wins: Any) -> Any:
    """The part of g that goes to x: all where x wins over y, half at a tie."""
    return g * where(wins, 1, where(eq(x, y), constant(0.5, g.type.dtype), constant(0, g.type.dtype)))


maximum: Builder = elementwise(
    "maximum",
    np.maximum,
    lambda g, out, x, y: (_share(g, x, y, gt(x, y)), _share(g, y, x, gt(y, x))),
    operands=promote,
    domain=("real", "real"),
    doc="The larger of two; NaN if either is. At a tie each operand gets half of the derivative.",
)
minimum: Builder = elementwise(
    "minimum",
    np.minimum,
    lambda g, out, x, y: (_share(g, x, y, lt(x, y)), _share(g, y, x, lt(y, x))),
    operands=promote,
    domain=("real", "real"),
    doc="The smaller of two; NaN if either is. At a tie each operand gets half of the derivative.",
)

# ---- comparisons and logic ------------------------------------------------------------------------


def _comparison(name: str, numpy: Rule, symbol: str) -> Builder:
    return elementwise(
        name,
        numpy,
        None,
        operands=promote,
        result="bool",
        domain=("real", "real"),
        doc=f"Elementwise `x {symbol} y`, as booleans.",
    )


lt: Builder = _comparison("lt", operator.lt, "<")
le: Builder = _comparison("le", operator.le, "<=")
gt: Builder = _comparison("gt", operator.gt, ">")
ge: Builder = _comparison("ge", operator.ge, ">=")
eq: Builder = _comparison("eq", operator.eq, "==")
neq: Builder = _comparison("neq", operator.ne, "!=")
isnan: Builder = elementwise("isnan", np.isnan, None, operands=_wide_float, result="bool", doc="Whether x is NaN.")
isinf: Builder = elementwise("isinf", np.isinf, None, operands=_wide_float, result="bool", doc="Whether x is infinite.")
logical_not: Builder = elementwise(
    "logical_not", np.logical_not, None, operands=_bool, result="bool", doc="True where x is zero or False."
)
and_: Builder = elementwise(
    "and", operator.and_, None, operands=_bits, domain=("real", "real"), doc="`x & y`, bitwise on integers."
)
or_: Builder = elementwise(
    "or", operator.or_, None, operands=_bits, domain=("real", "real"), doc="`x | y`, bitwise on integers."
)
xor: Builder = elementwise(
    "xor", operator.xor, None, operands=_bits, domain=("real", "real"), doc="`x ^ y`, bitwise on integers."
)
invert: Builder = elementwise("invert", np.invert, None, operands=_bits, doc="`~x`, bitwise on integers.")

# ---- mathematical functions -----------------------------------------------------------------------


def _function(name: str, numpy: Rule, vjp: Rule, doc: str, domain: str = "real") -> Builder:
    return elementwise(name, numpy, vjp, operands=_float, domain=(domain,), doc=doc)


def _rounding(name: str, numpy: Rule, doc: str) -> Builder:
    doc += " Integers stay as they are. The derivative is zero."
    of_floats = _function(name, numpy, lambda g, out, x: (None,), doc)

    @functools.wraps(of_floats)
    def build(x: Any) -> Any:
        node = as_tensor(x)
        return of_floats(node) if node.type.is_float else node

    return build  # type: ignore[return-value]


def _special(name: str) -> Callable[..., Any]:
    """A function of `scipy.special`, imported at its first use since that takes longer than all else.

    SciPy computes float16 in float32; the result keeps the dtype of the last operand.
    """

    def compute(*operands: Any) -> Any:
        import scipy.special

        return getattr(scipy.special, name)(*operands).astype(operands[-1].dtype, copy=False)

    return compute


exp: Builder = _function("exp", np.exp, lambda g, out, x: (g * out,), "e to the power x.")
exp2: Builder = _function("exp2", np.exp2, lambda g, out, x: (g * out * math.log(2),), "2 to the power x.")
expm1: Builder = _function("expm1", np.expm1, lambda g, out, x: (g * (out + 1),), "exp(x) - 1, accurate near 0.")
log: Builder = _function("log", np.log, lambda g, out, x: (g / x,), "Natural logarithm; NaN below 0.", "positive")
log2: Builder = _function(
    "log2", np.log2, lambda g, out, x: (g / (x * math.log(2)),), "Logarithm to base 2.", "positive"
)
log10: Builder = _function(
    "log10", np.log10, lambda g, out, x: (g / (x * math.log(10)),), "Logarithm to base 10.", "positive"
)
log1p: Builder = _function(
    "log1p", np.log1p, lambda g, out, x: (g / (1 + x),), "log(1 + x), accurate near 0.", "above minus one"
)
sqrt: Builder = _function("sqrt", np.sqrt, lambda g, out, x: (g * 0.5 / out,), "Square root; NaN below 0.", "positive")
sin: Builder = _function("sin", np.sin, lambda g, out, x: (g * cos(x),), "Sine of x in radians.")
cos: Builder = _function("cos", np.cos, lambda g, out, x: (-g * sin(x),), "Cosine of x in radians.")
tan: Builder = _function("tan", np.tan, lambda g, out, x: (g * (1 + out * out),), "Tangent of x in radians.", "unit")
arcsin: Builder = _function(
    "arcsin", np.arcsin, lambda g, out, x: (g / sqrt(1 - x * x),), "Inverse sine, radians.", "unit"
)
arccos: Builder = _function(
    "arccos", np.arccos, lambda g, out, x: (-g / sqrt(1 - x * x),), "Inverse cosine, radians.", "unit"
)
arctan: Builder = _function("arctan", np.arctan, lambda g, out, x: (g / (1 + x * x),), "Inverse tangent, radians.")
sinh: Builder = _function("sinh", np.sinh, lambda g, out, x: (g * cosh(x),), "Hyperbolic sine.")
cosh: Builder = _function("cosh", np.cosh, lambda g, out, x: (g * sinh(x),), "Hyperbolic cosine.")
tanh: Builder = _function("tanh", np.tanh, lambda g, out, x: (g * (1 - out * out),), "Hyperbolic tangent.")
arcsinh: Builder = _function(
    "arcsinh", np.arcsinh, lambda g, out, x: (g / sqrt(1 + x * x),), "Inverse hyperbolic sine."
)
arccosh: Builder = _function(
    "arccosh", np.arccosh, lambda g, out, x: (g / sqrt(x * x - 1),), "Inverse hyperbolic cosine.", "above one"
)
arctanh: Builder = _function(
    "arctanh", np.arctanh, lambda g, out, x: (g / (1 - x * x),), "Inverse hyperbolic tangent.", "unit"
)
arctan2: Builder = elementwise(
    "arctan2",
    np.arctan2,
    lambda g, out, y, x: (g * x / (x * x + y * y), -g * y / (x * x + y * y)),
    operands=_float,
    domain=("real", "real"),
    doc="The angle, in radians, of the point with ordinate x (first) and abscissa y (second operand).",
)
sigmoid: Builder = _function(
    "sigmoid", _special("expit"), lambda g, out, x: (g * out * (1 - out),), "1 / (1 + exp(-x))."
)


def _logaddexp_vjp(g: Any, out: Any, x: Any, y: Any) -> tuple[Any, Any]:
    difference = x - y
    difference = where(isnan(difference), 0, difference)  # both are the same infinity
    return g * sigmoid(difference), g * sigmoid(-difference)


logaddexp: Builder = elementwise(
    "logaddexp",
    np.logaddexp,
    _logaddexp_vjp,
    operands=_float,
    domain=("real", "real"),
    doc="log(exp(x) + exp(y)) without overflow.",
)
erf: Builder = _function(
    "erf",
    _special("erf"),
    lambda g, out, x: (g * (2 / math.sqrt(math.pi)) * exp(-x * x),),
    "The error function.",
)
erfc: Builder = _function(
    "erfc",
    _special("erfc"),
    lambda g, out, x: (-g * (2 / math.sqrt(math.pi)) * exp(-x * x),),
    "1 - erf(x), accurate for large x.",
)
gammaln: Builder = _function(
    "gammaln",
    _special("gammaln"),
    lambda g, out, x: (g * psi(x),),
    "Logarithm of the absolute value of the gamma function.",
    "above one",
)
psi: Builder = _function(
    "psi",
    _special("psi"),
    lambda g, out, x: (g * polygamma(1, x),),
    "The digamma function, derivative of `gammaln`.",
    "above one",
)
floor: Builder = _rounding("floor", np.floor, "The largest integer not above x, as a float.")
ceil: Builder = _rounding("ceil", np.ceil, "The smallest integer not below x, as a float.")
trunc: Builder = _rounding("trunc", np.trunc, "x without its fraction, as a float.")
_half_to_even: Builder = _rounding("round", np.round, "The nearest integer, as a float; halves go to the even one.")


def round(x: Any, mode: str = "half_to_even") -> Any:
    """The nearest integer, as a float. Integers stay as they are. The derivative is zero.

    Parameters
    ----------
    mode : {"half_to_even", "half_away_from_zero"}
        Where halves go.
    """
    if mode == "half_to_even":
        return _half_to_even(x)
    if mode != "half_away_from_zero":
        raise OstinatoValueError(f"round: mode is 'half_to_even' or 'half_away_from_zero', not {mode!r}")
    whole = trunc(x)
    return whole + where(ge(abs(x - whole), 0.5), sign(x), 0) if as_tensor(x).type.is_float else whole


POLYGAMMA: Op = register(
    Op(
        "polygamma",
        infer=lambda x, *, order: x.type,
        numpy=lambda x, *, order: _special("polygamma")(order, x),
        vjp=lambda g, out, x, *, order: (g * polygamma(order + 1, x),),
        jvp=lambda tangents, out, x, *, order: tangents[0] * polygamma(order + 1, x),
        sizes=lambda x, *, order: broadcast_sizes((x,)),
        batch=aligned,
        params=("order",),
        samples=(Sample(lambda x: polygamma(1, x), (np.array(_DOMAINS["above one"]),)),),
    )
)


def polygamma(order: int, x: Any) -> Any:
    """The derivative of `psi` of the given order (an int >= 1) at x."""
    if order < 1:
        raise OstinatoTypeError(f"the order of polygamma is an int >= 1, not {order!r}")
    node = as_tensor(x)
    return make(POLYGAMMA, (cast(node, _float(node.type.dtype)),), (order,))


def summands(node: Node, joins: Callable[[Node], bool]) -> list[Node]:
    """What additions add up, from left to right, by those of them alone that join."""
    found: list[Node] = []
    waiting = [node]
    while waiting:
        n = waiting.pop()
        if n.op is add.op and joins(n):
            waiting += n.inputs[::-1]
        else:
            found.append(n)
    return found
