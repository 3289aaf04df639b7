"""The native backend's mathematical functions: rounding errors, special values, every width of vector."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.special
from llvmlite import binding, ir

from ostinato.backends.llvm import vector_math

Array = np.ndarray[Any, Any]
TYPES = {"float32": ir.FloatType(), "float64": ir.DoubleType()}
BINARY = ("arctan2", "logaddexp", "pow")
EXTENDED = np.finfo(np.longdouble).nmant >= 63

# Largest allowed errors in units in the last place: float32, float64.
ULP = {
    "abs": (0.5, 0.5),
    "arccos": (1.25, 1.25),
    "arccosh": (2.25, 2.25),
    "arcsin": (1.75, 1.75),
    "arcsinh": (1.75, 1.75),
    "arctan": (2.0, 2.0),
    "arctan2": (2.0, 2.0),
    "arctanh": (2.25, 2.25),
    "ceil": (0.5, 0.5),
    "cos": (1.75, 1.75),
    "cosh": (1.75, 1.75),
    "erf": (1.25, 1.25),
    "erfc": (4.0, 4.0),
    "exp": (1.25, 1.25),
    "exp2": (1.25, 1.25),
    "expm1": (2.25, 2.25),
    "floor": (0.5, 0.5),
    "log": (0.8, 0.8),
    "log10": (0.8, 0.8),
    "log1p": (0.8, 0.8),
    "log2": (0.9, 0.9),
    "logaddexp": (2.5, 2.5),
    "pow": (0.51, 1.25),
    "round": (0.5, 0.5),
    "sigmoid": (2.5, 2.5),
    "sin": (1.75, 1.75),
    "sinh": (2.75, 2.75),
    "softplus": (3.0, 3.0),
    "sqrt": (0.51, 0.51),
    "tan": (3.5, 3.5),
    "tanh": (2.75, 2.75),
    "trunc": (0.5, 0.5),
}

# Where to look besides numbers of all exponents.
INTERVALS: dict[str, tuple[tuple[float, float], ...]] = {
    "arccos": ((-1, 1), (0.9, 1), (-1, -0.9)),
    "arccosh": ((1, 1.1), (1, 20), (1, 1e10)),
    "arcsin": ((-1, 1), (0.45, 0.55)),
    "arcsinh": ((-2, 2), (-1e3, 1e3)),
    "arctan": ((-3, 3), (0.35, 0.45), (-1e3, 1e3)),
    "arctan2": ((-3, 3), (-1e-3, 1e-3), (-1e3, 1e3)),
    "arctanh": ((-1, 1), (0.9, 1), (-1e-3, 1e-3)),
    "cos": ((-4, 4), (-1e3, 1e3), (-5e5, 5e5), (-1e12, 1e12)),
    "cosh": ((-2, 2), (-90, 90), (-711, 711)),
    "erf": ((-1.1, 1.1), (0.9, 6.1), (-4, 4)),
    "erfc": ((-3, 3), (0, 10.2), (0, 28), (-6, -0.5)),
    "exp": ((-1, 1), (-104, 89), (-746, 710)),
    "exp2": ((-1, 1), (-152, 129), (-1077, 1025)),
    "expm1": ((-1, 1), (-30, 5), (-50, 89), (0, 710)),
    "log": ((0.5, 2), (0.999, 1.001), (0, 100)),
    "log10": ((0.5, 2), (0.999, 1.001), (0, 1e4)),
    "log1p": ((-1, 1), (-1e-3, 1e-3), (-0.5, 100)),
    "log2": ((0.5, 2), (0.999, 1.001), (0, 100)),
    "logaddexp": ((0, 3), (-30, 30), (-700, 700)),
    "pow": ((0.5, 2), (0, 20), (0.999, 1.001)),
    "sigmoid": ((-2, 2), (-50, 20), (-746, 40), (-104, 20)),
    "sin": ((-4, 4), (-1e3, 1e3), (-5e5, 5e5), (-1e12, 1e12)),
    "sinh": ((-1, 1), (-5, 5), (-90, 90), (-711, 711)),
    "softplus": ((-3, 3), (-50, 40), (-750, 0), (-104, 0)),
    "tan": ((-2, 2), (-1e3, 1e3), (-5e5, 5e5), (-1e12, 1e12)),
    "tanh": ((-1, 1), (-10, 10), (-25, 25)),
}


# ---- running a function ---------------------------------------------------------------------------


def module_of(scalar: ir.Type, lanes: int | None) -> ir.Module:
    """A loop over two arrays for every function: it loads `lanes` elements at a time, or one."""
    module = ir.Module("functions")
    pointer, size = scalar.as_pointer(), ir.IntType(64)
    step = 1 if lanes is None else lanes
    type_ = scalar if lanes is None else ir.VectorType(scalar, lanes)
    for name in sorted(vector_math.SUPPORTED):
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 3 + [size]), f"run_{name}")
        out, x, y, n = function.args
        entry, loop, after = (function.append_basic_block(b) for b in ("entry", "loop", "after"))
        builder = ir.IRBuilder(entry)
        builder.branch(loop)
        builder.position_at_end(loop)
        i = builder.phi(size)
        i.add_incoming(ir.Constant(size, 0), entry)

        def at(array: ir.Value, builder: Any = builder, i: Any = i) -> ir.Value:
            return builder.bitcast(builder.gep(array, [i]), type_.as_pointer())

        operands = [builder.load(at(a), align=4) for a in ((x, y) if name in BINARY else (x,))]
        builder.store(vector_math.call(builder, name, *operands), at(out), align=4)
        following = builder.add(i, ir.Constant(size, step))
        i.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_unsigned("<", following, n), loop, after)
        ir.IRBuilder(after).ret_void()
    return module


@functools.cache
def compiled(dtype: str, lanes: int | None, features: str | None = None) -> Any:
    """An engine with the loops of all functions for this machine, or for one with fewer features."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    host = binding.get_host_cpu_features().flatten()
    machine = target.create_target_machine(
        cpu=binding.get_host_cpu_name() if features is None else "",
        features=host if features is None else features,
        opt=2,
    )
    parsed = binding.parse_assembly(str(module_of(TYPES[dtype], lanes)))
    parsed.verify()
    engine = binding.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    return engine


def run(name: str, x: Array, y: Array | None = None, lanes: int | None = 4, features: str | None = None) -> Array:
    """The function of all elements of arrays of one dtype, some lanes at a time."""
    step = 1 if lanes is None else lanes
    n = -(-len(x) // step) * step
    x_padded, y_padded, out = (np.resize(np.ascontiguousarray(a), n) for a in (x, x if y is None else y, x))
    address = compiled(x.dtype.name, lanes, features).get_function_address(f"run_{name}")
    pointer = ctypes.c_void_p
    function = ctypes.CFUNCTYPE(None, pointer, pointer, pointer, ctypes.c_int64)(address)
    function(out.ctypes.data, x_padded.ctypes.data, y_padded.ctypes.data, n)
    return out[: len(x)]


# ---- what it should be ----------------------------------------------------------------------------


def reference(name: str, x: Array, y: Array) -> Array:
    """The function in the precision of the arrays, by NumPy and SciPy."""
    own: dict[str, Callable[[], Array]] = {
        "erf": lambda: scipy.special.erf(x),
        "erfc": lambda: scipy.special.erfc(x),
        "round": lambda: np.rint(x),
        "sigmoid": lambda: np.where(x < 0, np.exp(-np.abs(x)), 1) / (1 + np.exp(-np.abs(x))),
        "softplus": lambda: np.logaddexp(np.zeros_like(x), x),
    }
    with np.errstate(all="ignore"):
        if name in own:
            return np.asarray(own[name]())
        return np.asarray(getattr(np, name)(x, y) if name in BINARY else getattr(np, name)(x))


EXACT: dict[str, Callable[..., Any]] = {
    "arccos": mpmath.acos,
    "arccosh": mpmath.acosh,
    "arcsin": mpmath.asin,
    "arcsinh": mpmath.asinh,
    "arctan": mpmath.atan,
    "arctan2": mpmath.atan2,
    "arctanh": mpmath.atanh,
    "erfc": lambda x: mpmath.erfc(min(x, 1000)),  # much larger ones it cannot do
    "log10": mpmath.log10,
    "log2": lambda x: mpmath.log(x, 2),
    "exp2": lambda x: mpmath.power(2, x),
    "logaddexp": lambda x, y: max(x, y) + mpmath.log1p(mpmath.exp(-abs(x - y))),
    "pow": mpmath.power,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    **{n: getattr(mpmath, n) for n in ("cos", "cosh", "erf", "exp", "expm1", "log", "log1p")},
    **{n: getattr(mpmath, n) for n in ("sin", "sinh", "tan", "tanh")},
}


def exact(name: str, x: Array, y: Array) -> Array:
    """The function of finite numbers by mpmath, in extended precision where there is one."""
    function, longdouble = EXACT[name], np.longdouble

    def rounded(v: Any) -> Any:
        high = float(v)
        return longdouble(high) + longdouble(float(v - mpmath.mpf(high))) if np.isfinite(high) else longdouble(high)

    with mpmath.workprec(160):
        pairs = zip(x.tolist(), y.tolist(), strict=True)
        values = [function(*map(mpmath.mpf, p[: 1 + (name in BINARY)])) for p in pairs]
        real = [v if isinstance(v, mpmath.mpf) else mpmath.nan for v in values]
        return np.array([rounded(v) for v in real], longdouble)


def ulps(found: Array, expected: Array, scale: Array | None = None) -> Array:
    """Errors in units in the last place of the expected values, which have more precision."""
    dtype = found.dtype
    with np.errstate(all="ignore"):
        near = expected.astype(dtype)
        size = np.abs(near if scale is None else np.maximum(np.abs(near), scale))
        unit = np.spacing(np.minimum(size, np.finfo(dtype).max)).astype(expected.dtype)
        error = np.abs(found.astype(expected.dtype) - expected) / unit
        same = (found == near) & ~np.isfinite(near) | np.isnan(found) & np.isnan(near)
    return np.where(same, 0, np.where(np.isnan(error), np.inf, error)).astype("float64")


def samples(name: str, dtype: str, n: int, seed: int = 0) -> tuple[Array, Array]:
    """Numbers of every exponent and sign, and numbers where the function is interesting."""
    rng = np.random.default_rng(seed)
    info = np.finfo(dtype)

    def any_exponent(m: int) -> Array:
        sizes = np.exp2(rng.uniform(info.minexp - info.nmant, info.maxexp, m))
        return sizes * rng.choice([-1.0, 1.0], m)

    parts = [any_exponent(n // 4)]
    intervals = INTERVALS.get(name, ((-10, 10),))
    parts += [rng.uniform(a, b, n // (2 * len(intervals))) for a, b in intervals]
    parts += [any_exponent(n)[: n - sum(map(len, parts))] * 0.5]
    x = np.concatenate(parts)
    y = x[rng.permutation(n)]
    if name == "pow":
        x = np.abs(x)
        with np.errstate(all="ignore"):
            y = rng.uniform(1.1 * (info.minexp - info.nmant), 1.1 * info.maxexp, n) / np.log2(x)
    with np.errstate(all="ignore"):
        return x.astype(dtype), y.astype(dtype)


def error_scale(name: str, x: Array, y: Array) -> Array | None:
    """What an error is compared with if that is not the result: log(exp(x) + exp(y)) may vanish."""
    return np.maximum(np.abs(x), np.abs(y)) if name == "logaddexp" else None


def wider(name: str, dtype: str) -> str:
    """The widest precision that NumPy and SciPy have the function in."""
    if dtype == "float32":
        return "float64"
    return "longdouble" if EXTENDED and name not in ("erf", "erfc") else dtype


def largest_error(name: str, dtype: str, n: int, lanes: int | None = 4) -> float:
    """The largest error in ULP on samples, by NumPy and SciPy in more precision or else by mpmath."""
    x, y = samples(name, dtype, n)
    wide = wider(name, dtype)
    if wide == dtype and name in EXACT:
        expected = exact(name, x, y)
    else:
        expected = reference(name, x.astype(wide), y.astype(wide))
    return float(np.max(ulps(run(name, x, y, lanes), expected, error_scale(name, x, y))))


# ---- tests ----------------------------------------------------------------------------------------

BASELINE = ""  # features of the target's most basic machine; on x86-64 without fused multiply-add
WIDTHS = {"float32": (None, 3, 8, 16), "float64": (None, 3, 4, 8)}
SPECIAL = (0.0, 1.0, 2.0, 3.0, 0.5, 1.5, 2.5, 1e-5, 10.0, 1000.0, 1e30, np.inf, np.nan)


def special_values(dtype: str) -> Array:
    """Zeros, infinities, NaN, the smallest and largest numbers and some in between, of both signs."""
    info = np.finfo(dtype)
    ends = [info.smallest_subnormal, info.smallest_normal, info.max, 1 + info.eps, 1 - info.epsneg]
    positive = np.array([*SPECIAL, *map(float, ends)], dtype)
    return np.concatenate([positive, -positive])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", sorted(ULP))
def test_errors_are_small(name: str, dtype: str) -> None:
    n = 3000 if wider(name, dtype) == dtype and name in EXACT else 20_000
    assert largest_error(name, dtype, n) <= ULP[name][dtype == "float64"]


@pytest.mark.parametrize("name", sorted(EXACT))
def test_errors_are_small_by_mpmath(name: str) -> None:
    """What the references of the other test say is so."""
    x, y = samples(name, "float64", 200, seed=1)
    assert np.max(ulps(run(name, x, y), exact(name, x, y), error_scale(name, x, y))) <= ULP[name][1]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", sorted(ULP))
def test_special_values(name: str, dtype: str) -> None:
    """Infinities, NaN, zeros with their signs, denormals and overflow, for all pairs if there are two operands."""
    values = special_values(dtype)
    x, y = (a.ravel() for a in np.meshgrid(values, values)) if name in BINARY else (values, values)
    expected, found = reference(name, x, y), run(name, x, y)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(found[np.isinf(expected)], expected[np.isinf(expected)])
    np.testing.assert_array_equal(np.signbit(found[number]), np.signbit(expected[number]))
    wide = wider(name, dtype)
    expected = reference(name, x.astype(wide), y.astype(wide))
    slack = 3 if wide == dtype else 0  # for the errors of NumPy or SciPy
    assert np.max(ulps(found, expected, error_scale(name, x, y))) <= ULP[name][dtype == "float64"] + slack


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", sorted(ULP))
def test_every_width_gives_the_same_bits(name: str, dtype: str) -> None:
    x, y = samples(name, dtype, 400)
    first, *others = [run(name, x, y, lanes) for lanes in WIDTHS[dtype]]
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("name", sorted(ULP))
def test_without_fused_multiply_add(name: str) -> None:
    """And without instructions that round: the C library has both."""
    x, y = samples(name, "float64", 400)
    expected = exact(name, x, y) if name in EXACT else reference(name, x, y)
    found = run(name, x, y, 3, BASELINE)
    assert np.max(ulps(found, expected, error_scale(name, x, y))) <= ULP[name][1] + 1


def test_powers() -> None:
    """Whole powers that are numbers of the precision, and whole logarithms of powers, are exact."""
    pairs = [(b, k) for b in range(-30, 200) for k in range(20) if abs(b) ** k < 2**53]
    x, y = (np.array(a, "float64") for a in zip(*pairs, strict=True))
    np.testing.assert_array_equal(run("pow", x, y), np.array([float(b**k) for b, k in pairs]))
    np.testing.assert_array_equal(run("log10", 10.0 ** np.arange(23.0)), np.arange(23))
    exponents = np.arange(-1074.0, 1024.0)
    np.testing.assert_array_equal(run("log2", np.exp2(exponents)), exponents)
    np.testing.assert_array_equal(run("exp2", exponents), np.exp2(exponents))


def test_large_angles() -> None:
    """A lane's result does not depend on its neighbours, though a large one brings the C library in."""
    for dtype, large in (("float32", 1e30), ("float64", 1e300)):
        x = np.array([1.25, 1e5, large, -0.0, np.inf, np.nan, -3.0, 7.5], dtype)
        for name in ("sin", "cos", "tan"):
            found, alone = run(name, x, lanes=8), np.concatenate([run(name, x[i : i + 1], lanes=8) for i in range(8)])
            np.testing.assert_array_equal(found, alone)
            assert np.max(ulps(found, reference(name, x.astype(wider(name, dtype)), x))) <= ULP[name][0]


def test_a_function_is_made_once_and_stays_inside() -> None:
    module = module_of(ir.DoubleType(), 4)
    function = module.globals["ostinato.exp.v4f64"]
    assert function.linkage == "internal"
    builder = ir.IRBuilder(module.globals["run_exp"].blocks[1])
    before = len(module.globals)
    builder.position_before(builder.block.terminator)
    x = ir.Constant(ir.VectorType(ir.DoubleType(), 4), [1.0] * 4)
    assert vector_math.call(builder, "exp", x).type == x.type
    assert len(module.globals) == before
    assert sorted(ULP) == sorted(vector_math.SUPPORTED)
