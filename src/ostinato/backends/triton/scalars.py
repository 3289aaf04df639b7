"""What Triton's text for an elementwise operation is: one table.

`{0}`, `{1}`, ... stand for the operands, `{float}` for the dtype of the first. Where the GPU has a function
of CUDA's `libdevice`, that is used; Triton's interpreter has none, so a formula of the same meaning stands
beside it.
"""

from __future__ import annotations

from ostinato.types import FLOATS

DTYPES = {
    "bool": "tl.int1",
    "int8": "tl.int8",
    "int16": "tl.int16",
    "int32": "tl.int32",
    "int64": "tl.int64",
    "uint8": "tl.uint8",
    "uint16": "tl.uint16",
    "uint32": "tl.uint32",
    "uint64": "tl.uint64",
    "float16": "tl.float16",
    "float32": "tl.float32",
    "float64": "tl.float64",
}

_ANY = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "neg": "-{0}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "eq": "{0} == {1}",
    "neq": "{0} != {1}",
    "where": "tl.where({0}, {1}, {2})",
    "abs": "tl.abs({0})",
    "sign": "tl.where({0} > 0, 1, tl.where({0} < 0, -1, {0})).to({type})",
}

_FLOAT = {
    "true_div": "{0} / {1}",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "exp": "tl.exp({0})",
    "sqrt": "tl.sqrt_rn({0})",
    "sigmoid": "tl.sigmoid({0})",
    "tanh": "tanh_of({0})",
    "floor": "tl.floor({0})",
    "ceil": "tl.ceil({0})",
    "isnan": "{0} != {0}",
    "mod": "{0} - tl.floor({0} / {1}) * {1}",
    "floor_div": "tl.floor({0} / {1})",
    "isinf": "tl.abs({0}) == float('inf')",
    "erf": "tl.erf({0})",
}

# The name in libdevice, and the interpreter's formula.
_LIBRARY = {
    "log": ("log", "tl.log({0})"),
    "log2": ("log2", "tl.log2({0})"),
    "exp2": ("exp2", "tl.exp2({0})"),
    "sin": ("sin", "tl.sin({0})"),
    "cos": ("cos", "tl.cos({0})"),
    "tan": ("tan", "tl.sin({0}) / tl.cos({0})"),
    "log1p": ("log1p", "interpreted_log1p({0})"),
    "expm1": ("expm1", "interpreted_expm1({0})"),
    "log10": ("log10", "tl.log({0}) * 0.4342944819032518"),
    "sinh": ("sinh", "0.5 * (tl.exp({0}) - tl.exp(-{0}))"),
    "cosh": ("cosh", "0.5 * (tl.exp({0}) + tl.exp(-{0}))"),
    "trunc": ("trunc", "tl.where({0} < 0, tl.ceil({0}), tl.floor({0}))"),
    "round": ("rint", None),
    "pow": ("pow", "interpreted_pow({0}, {1})"),
    "arcsin": ("asin", None),
    "arccos": ("acos", None),
    "arctan": ("atan", None),
    "arctan2": ("atan2", None),
    "arcsinh": ("asinh", None),
    "arccosh": ("acosh", None),
    "arctanh": ("atanh", None),
    "gammaln": ("lgamma", None),
    "erfc": ("erfc", "1.0 - tl.erf({0})"),
}

_INTEGER = {
    "maximum": "tl.maximum({0}, {1})",
    "minimum": "tl.minimum({0}, {1})",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "xor": "{0} ^ {1}",
    "invert": "~{0}",
    "logical_not": "{0} == 0",
    "mod": "(({0} % {1}) + {1}) % {1}",
    "floor_div": "({0} - ((({0} % {1}) + {1}) % {1})) // {1}",
}

# `tanh` without branches, which libdevice's has; for float64 its series would be too short.
TANH = """

@triton.jit
def tanh_of(x):
    e = tl.exp(-2.0 * tl.abs(x))
    large = (1.0 - e) / (1.0 + e)
    square = x * x
    series = 0.13333333333333333 - square * (0.05396825396825397 - square * 0.021869488536155203)
    series = x * (1.0 - square * (0.3333333333333333 - square * series))
    return tl.where(tl.abs(x) < 0.2, series, tl.where(x < 0, -large, large))
"""

# The functions that formulas for the interpreter call; they are part of every module of a kernel there.
# What a program does that waits, in the interpreter: let others go on.
PAUSE = "time.sleep(1e-4)"

INTERPRETED = """
import time


@triton.jit
def interpreted_tanh(x):
    small = tl.abs(x) < 0.04
    e = tl.exp(-2.0 * tl.abs(x))
    large = (1.0 - e) / (1.0 + e)
    square = x * x
    series = x * (1.0 - square * (0.3333333333333333 - square * (0.13333333333333333 - square * 0.05396825396825397)))
    return tl.where(small, series, tl.where(x < 0, -large, large))


@triton.jit
def interpreted_log1p(x):
    u = 1.0 + x
    exact = u - 1.0
    value = tl.log(u) * (x / tl.where(exact == 0.0, 1.0, exact))
    return tl.where(exact == 0.0, x, tl.where(u == float("inf"), u, value))


@triton.jit
def interpreted_expm1(x):
    series = x * (1.0 + x * (0.5 + x * (0.16666666666666666 + x * (0.041666666666666664 + x * 0.008333333333333333))))
    return tl.where(tl.abs(x) < 0.02, series, tl.exp(x) - 1.0)


@triton.jit
def interpreted_pow(x, y):
    size = tl.exp(y * tl.log(tl.abs(x)))
    odd = (tl.floor(y) == y) & (tl.floor(y * 0.5) * 2.0 != y)
    value = tl.where(x < 0, tl.where(tl.floor(y) == y, tl.where(odd, -size, size), float("nan")), size)
    return tl.where(y == 0.0, 1.0, tl.where(x == 0.0, tl.where(y > 0, 0.0, float("inf")), value))
"""


def text(name: str, dtype: str, interpreted: bool) -> str | None:
    """The text of an operation on operands of a dtype; None if there is none."""
    if dtype in FLOATS:
        if dtype == "float16" and name not in _ANY:
            return None  # Triton's functions, and its quotients, are those of float32
        if name == "sqrt" and dtype == "float64":
            return "tl.sqrt({0})"  # it has no sqrt_rn, and this one rounds to nearest too
        if name == "tanh" and dtype == "float64":
            return "interpreted_tanh({0})" if interpreted else "libdevice.tanh({0})"
        if name in _FLOAT:
            return _FLOAT[name]
        if name in _LIBRARY:
            function, formula = _LIBRARY[name]
            operands = "{0}, {1}" if name in ("pow", "arctan2") else "{0}"
            return formula if interpreted else f"libdevice.{function}({operands})"
    elif name in _INTEGER:
        return _INTEGER[name]
    return _ANY.get(name)
