"""Elementwise functions and operators against NumPy and SciPy: dtypes, special values, broadcasting."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest
import scipy.special

import ostinato
import ostinato.tensor as T
from ostinato import OstinatoTypeError, OstinatoValueError, ShapeError
from ostinato.errors import OstinatoError
from support import DTYPES, FLOAT_DTYPES, INTEGER_DTYPES, check, check_gradient, evaluate, normal, same


@pytest.fixture(autouse=True)
def verified() -> Any:
    with ostinato.config.change_flags(verify=True):
        yield


def values(dtype: str) -> np.ndarray:
    """A few values of a dtype: negative where it has them, zero, one."""
    if dtype == "bool":
        return np.array([True, False, True, False])
    if dtype.startswith("u"):
        return np.array([3, 0, 1, 7], dtype)
    if dtype.startswith("i"):
        return np.array([-3, 0, 1, 7], dtype)
    return np.array([-2.5, 0.0, 1.0, 3.75], dtype)


def others(dtype: str) -> np.ndarray:
    """Values to pair with `values`, without zeros."""
    return np.array([2, 1, 3, 2], dtype) if dtype != "bool" else np.array([True, True, False, False])


NUMBERS = [d for d in DTYPES if d != "bool"]
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e308, -1e308, 5e-324, 0.5, -2.5])


def special(dtype: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return SPECIAL.astype(dtype)


# ---- promotion ------------------------------------------------------------------------------------

ARITHMETIC = [(operator.add, T.add), (operator.sub, T.sub), (operator.mul, T.mul), (np.maximum, T.maximum)]


@pytest.mark.parametrize("a", NUMBERS)
@pytest.mark.parametrize("b", NUMBERS)
def test_arrays_promote_as_in_numpy(a: str, b: str) -> None:
    for reference, function in ARITHMETIC[:1] + ARITHMETIC[2:]:
        check(function, reference, values(a), others(b))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", [operator.add, operator.mul, operator.sub])
def test_bool_counts_as_an_integer_beside_a_number(dtype: str, op: Any) -> None:
    if dtype != "bool":
        check(op, op, values("bool"), values(dtype))


@pytest.mark.parametrize("op", [operator.add, operator.mul, operator.sub])
def test_arithmetic_on_booleans_is_done_in_int8(op: Any) -> None:
    a, b = values("bool"), others("bool")
    same(evaluate(op, a, b), op(a.astype("int8"), b.astype("int8")))
    same(evaluate(operator.neg, a), -a.astype("int8"))


def test_extremes_and_choices_of_booleans_are_booleans() -> None:
    a, b = values("bool"), others("bool")
    for function, reference in ((T.maximum, np.maximum), (T.minimum, np.minimum)):
        check(function, reference, a, b)
    check(lambda x, y: T.where(x, y, x), lambda x, y: np.where(x, y, x), a, b)
    check(T.abs, np.abs, a)


@pytest.mark.parametrize("dtype", NUMBERS)
def test_bare_numbers_take_the_dtype_of_their_partner(dtype: str) -> None:
    check(lambda x: x + 1, lambda x: x + 1, values(dtype))
    check(lambda x: 2 * x, lambda x: 2 * x, values(dtype))
    check(lambda x: x + True, lambda x: x + True, values(dtype))
    check(lambda x: T.maximum(x, 1), lambda x: np.maximum(x, 1), values(dtype))
    check(lambda x: T.where(x > 0, x, 0), lambda x: np.where(x > 0, x, 0), values(dtype))
    check(lambda x: x % 3, lambda x: x % 3, values(dtype))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_bare_floats_take_the_dtype_of_float_arrays(dtype: str) -> None:
    check(lambda x: 0.5 * x - 1.5, lambda x: 0.5 * x - 1.5, values(dtype))
    check(lambda x: x / 2, lambda x: x / 2, values(dtype))
    check(lambda x: 1 / x, lambda x: 1 / x, values(dtype))
    check(lambda x: x**2.5, lambda x: x**2.5, others(dtype))
    check(lambda x: x > 0.5, lambda x: x > 0.5, values(dtype))


@pytest.mark.parametrize("dtype", ["bool", *INTEGER_DTYPES])
def test_bare_floats_make_integers_floats(dtype: str) -> None:
    check(lambda x: x * 0.5, lambda x: x.astype("float64") * 0.5, values(dtype))
    check(lambda x: 2.5 - x, lambda x: 2.5 - x.astype("float64"), values(dtype))


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_bare_integers_make_booleans_int64(dtype: str) -> None:
    check(lambda x: x * 2, lambda x: x * 2, values("bool"))
    check(lambda x: x + 1, lambda x: x + 1, values("bool"))


def test_numpy_scalars_are_not_bare() -> None:
    x = values("float32")
    check(lambda v: v * np.float64(2), lambda v: v * np.float64(2), x)
    check(lambda v: np.float64(2) * v, lambda v: np.float64(2) * v, x)
    check(lambda v: v * np.int64(2), lambda v: v * np.int64(2), x)
    check(lambda v: np.float32(2) * v, lambda v: np.float32(2) * v, x)


def test_integers_become_floats_of_floatx() -> None:
    x = T.lvector("x")
    with ostinato.config.change_flags(floatX="float32"):
        assert (x / 2).dtype == "float32"
        assert T.exp(x).dtype == "float32"
        assert T.mean(x).dtype == "float32"
        assert (T.bvector("b") * 0.5).dtype == "float32"
        assert T.where(T.bvector("c"), 1.0, 0.5).dtype == "float32"
    assert (x / 2).dtype == "float64"


def test_explicitly_cast_numbers_keep_their_dtype() -> None:
    x = T.fvector("x")
    assert (T.cast(2.0, "float64") * x).dtype == "float64"
    assert (T.constant(2.0, dtype="float64") * x).dtype == "float64"
    assert (T.constant(2.0) * x).dtype == "float32"
    assert (T.as_tensor_variable(2) * x).dtype == "float32"


# ---- arithmetic -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NUMBERS)
def test_division_and_modulo_signs(dtype: str) -> None:
    a = np.array([7, 7, 5, 0, 1], dtype)
    b = np.array([2, 3, 5, 3, 2], dtype)
    if not dtype.startswith("u"):
        a, b = np.concatenate([a, -a, a, -a]), np.concatenate([b, b, -b, -b])
    check(operator.floordiv, operator.floordiv, a, b)
    check(operator.mod, operator.mod, a, b)
    check(lambda x, y: divmod(x, y)[0], operator.floordiv, a, b)
    check(lambda x, y: divmod(x, y)[1], operator.mod, a, b)


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_integer_division_by_zero_is_zero_as_in_numpy(dtype: str) -> None:
    a, b = np.array([7, 0], dtype), np.array([0, 0], dtype)
    check(operator.floordiv, operator.floordiv, a, b)
    check(operator.mod, operator.mod, a, b)


@pytest.mark.parametrize("dtype", ["bool", *INTEGER_DTYPES])
def test_true_division_of_integers(dtype: str) -> None:
    a, b = values(dtype), np.array([1, 2, 0, 1], dtype)
    check(operator.truediv, lambda x, y: x.astype("float64") / y, a, b)


def test_float_division_special_values() -> None:
    a, b = np.repeat(SPECIAL, SPECIAL.size), np.tile(SPECIAL, SPECIAL.size)
    for op in (operator.truediv, operator.floordiv, operator.mod, operator.add, operator.mul, operator.pow):
        check(op, op, a, b)


def test_sign_of_zero() -> None:
    zeros = np.array([-0.0, 0.0])
    for build in (lambda x: x * 1, lambda x: x + 0 * x, lambda x: x - 0, lambda x: 0 - x, lambda x: x / 1):
        np.testing.assert_array_equal(np.signbit(evaluate(build, zeros)), np.signbit(build(zeros)))
    np.testing.assert_array_equal(np.signbit(evaluate(T.neg, zeros)), np.signbit(-zeros))
    np.testing.assert_array_equal(np.signbit(evaluate(lambda x: T.neg(-x), zeros)), np.signbit(zeros))


@pytest.mark.parametrize("dtype", NUMBERS)
def test_pow(dtype: str) -> None:
    exponent = np.array([0, 3, 1, 2], dtype)
    check(operator.pow, operator.pow, values(dtype), exponent)
    for p in (0, 1, 2, 3):
        check(lambda x, p=p: x**p, lambda x, p=p: x**p, values(dtype))
    check(lambda x: 2**x, lambda x: 2**x, np.abs(values(dtype)))


def test_pow_of_integers_with_negative_exponents_is_refused() -> None:
    with pytest.raises(OstinatoValueError, match="negative integer powers"):
        evaluate(operator.pow, np.array([2, 3]), np.array([-1, 2]))
    check(lambda x: x**-1.0, lambda x: x**-1.0, np.array([2, 4]))


@pytest.mark.parametrize("exponent", [2, 3, 0, 1, -1, 0.5, -1.5])
def test_pow_gradient(exponent: float) -> None:
    check_gradient(lambda x: x**exponent, np.array([0.5, 1.5, 2.0]), order=2)
    check_gradient(lambda x, p: x**p, np.array([0.5, 1.5, 2.0]), np.float64(exponent), order=2)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3])
def test_pow_gradient_at_zero_and_below(exponent: int) -> None:
    point = np.array([0.0, -1.5])
    check_gradient(lambda x: x**exponent, point, order=2)
    x, p = T.dvector("x"), T.dscalar("p")
    slope = ostinato.function([x, p], T.grad(T.sum(x**p), x))
    np.testing.assert_array_equal(slope(point, float(exponent)), exponent * point ** max(exponent - 1, 0))


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("name", ["neg", "abs", "sign"])
def test_signs(dtype: str, name: str) -> None:
    reference = {"neg": np.negative, "abs": np.abs, "sign": np.sign}[name]
    check(getattr(T, name), reference, values(dtype))
    if dtype in FLOAT_DTYPES:
        check(getattr(T, name), reference, special(dtype))


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_extremes_of_two(name: str) -> None:
    function, reference = getattr(T, name), getattr(np, name)
    a, b = np.repeat(SPECIAL, SPECIAL.size), np.tile(SPECIAL, SPECIAL.size)
    check(function, reference, a, b)
    check_gradient(function, np.array([1.0, 2.0, -1.0]), np.array([0.5, 2.5, 0.0]))
    x, y = T.dvector("x"), T.dvector("y")
    grads = ostinato.function([x, y], T.grad(T.sum(function(x, y)), [x, y]))(np.ones(2), np.ones(2))
    np.testing.assert_array_equal(grads, np.full((2, 2), 0.5))


# ---- comparisons and logic ------------------------------------------------------------------------

COMPARISONS = [
    (T.lt, operator.lt),
    (T.le, operator.le),
    (T.gt, operator.gt),
    (T.ge, operator.ge),
    (T.eq, operator.eq),
    (T.neq, operator.ne),
]


@pytest.mark.parametrize(("function", "reference"), COMPARISONS)
def test_comparisons(function: Any, reference: Any) -> None:
    check(function, reference, np.repeat(SPECIAL, SPECIAL.size), np.tile(SPECIAL, SPECIAL.size))
    for a in DTYPES:
        check(function, reference, values(a), others(a))
        check(function, reference, values(a), others("float64"))
        check(lambda x, f=function: f(x, 1), lambda x, r=reference: r(x, 1), values(a))


def test_comparisons_with_numbers_out_of_range() -> None:
    for value in (-1, 300):
        for op in (operator.lt, operator.ge):
            check(lambda x, v=value, op=op: op(x, v), lambda x, v=value, op=op: op(x, v), values("uint8"))


def test_comparison_operators_are_elementwise() -> None:
    a, b = values("float64"), others("float64")
    for op in (operator.lt, operator.le, operator.gt, operator.ge):
        check(op, op, a, b)
        check(lambda x, op=op: op(1.0, x), lambda x, op=op: op(1.0, x), a)


def test_equality_is_identity() -> None:
    x, y = T.vectors("x", "y")
    assert x == x
    assert x != y
    assert {x: 1}[x] == 1


@pytest.mark.parametrize("dtype", ["bool", *INTEGER_DTYPES])
def test_bitwise(dtype: str) -> None:
    a, b = values(dtype), others(dtype)
    for op in (operator.and_, operator.or_, operator.xor):
        check(op, op, a, b)
    check(operator.invert, operator.invert, a)
    check(lambda x: x & 1, lambda x: x & 1, a)
    check(lambda x: True ^ x, lambda x: True ^ x, values("bool"))
    check(T.bitwise_and, np.bitwise_and, a, others("uint8"))


def test_bitwise_of_floats_is_refused() -> None:
    x, y = T.dvector("x"), T.lvector("y")
    with pytest.raises(OstinatoTypeError, match=r"and: expected booleans or integers, got 'x'.* and 'y'"):
        _ = x & y
    with pytest.raises(OstinatoTypeError, match="invert"):
        _ = ~x


@pytest.mark.parametrize("dtype", DTYPES)
def test_logic(dtype: str) -> None:
    a, b = values(dtype), others(dtype)[::-1].copy()
    check(T.logical_and, np.logical_and, a, b)
    check(T.logical_or, np.logical_or, a, b)
    check(T.logical_not, np.logical_not, a)
    check(T.isnan, np.isnan, a)
    check(T.isinf, np.isinf, a)


def test_tests_of_special_values() -> None:
    for dtype in FLOAT_DTYPES:
        for name in ("isnan", "isinf", "logical_not"):
            check(getattr(T, name), getattr(np, name), special(dtype))
    with ostinato.config.change_flags(floatX="float16"):
        check(T.isinf, np.isinf, np.array([100_000]))


# ---- mathematical functions -----------------------------------------------------------------------

FUNCTIONS: dict[str, Any] = {
    f.__name__: f
    for f in (
        *(np.exp, np.exp2, np.expm1, np.log, np.log2, np.log10, np.log1p, np.sqrt),
        *(np.sin, np.cos, np.tan, np.arcsin, np.arccos, np.arctan),
        *(np.sinh, np.cosh, np.tanh, np.arcsinh, np.arccosh, np.arctanh),
    )
}
FUNCTIONS |= {
    "sigmoid": scipy.special.expit,
    "erf": scipy.special.erf,
    "erfc": scipy.special.erfc,
    "gammaln": scipy.special.gammaln,
    "psi": scipy.special.psi,
    "softplus": lambda x: np.logaddexp(x, np.zeros_like(x)),
    "sqr": np.square,
    "deg2rad": np.deg2rad,
    "rad2deg": np.rad2deg,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_on_floats(name: str) -> None:
    function, reference = getattr(T, name), FUNCTIONS[name]
    check(function, reference, SPECIAL)
    points = normal(2, 5)
    check(function, reference, points)
    check(function, reference, np.float64(0.75))
    check(function, reference, points[:0])
    for dtype in ("float16", "float32"):
        x = points.astype(dtype)
        with np.errstate(all="ignore"):
            expected = reference(x.astype("float64")).astype(dtype)
        same(evaluate(function, x), expected, rtol=2e-3 if dtype == "float16" else 2e-6)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "sqr"])
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64"])
def test_functions_on_integers(name: str, dtype: str) -> None:
    check(getattr(T, name), lambda x: FUNCTIONS[name](x.astype("float64")), values(dtype))


SMOOTH = {name: np.array([0.3, 0.55, 0.8]) for name in FUNCTIONS} | {"arccosh": np.array([1.5, 2.0, 3.0])}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_functions(name: str) -> None:
    check_gradient(getattr(T, name), SMOOTH[name], order=2, tol=1e-6)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_rounding_of_floats(dtype: str) -> None:
    x = np.array([-2.5, -1.5, -0.5, -0.2, 0.0, 0.5, 1.5, 2.5, 1.49, np.nan, np.inf, -np.inf], dtype)
    for name in ("floor", "ceil", "round", "trunc"):
        check(getattr(T, name), getattr(np, name), x)
        check_gradient(getattr(T, name), np.array([0.3, -1.7]))
    away = np.array([-3, -2, -1, 0, 0, 1, 2, 3, 1, np.nan, np.inf, -np.inf], dtype)
    check(lambda v: T.round(v, mode="half_away_from_zero"), lambda v: away, x)
    check(lambda v: T.round(v, "half_away_from_zero"), lambda v: np.zeros(1), np.array([0.49999999999999994]))


@pytest.mark.parametrize("dtype", ["bool", *INTEGER_DTYPES])
def test_rounding_keeps_integers(dtype: str) -> None:
    x = values(dtype)
    for name in ("floor", "ceil", "round", "trunc"):
        check(getattr(T, name), lambda v: v, x)
    check(lambda v: v.round(), lambda v: v, np.array([2**53 + 1]))


def test_rounding_has_two_modes() -> None:
    with pytest.raises(OstinatoValueError, match="half_to_even"):
        T.round(T.dvector("x"), mode="up")


def test_polygamma() -> None:
    x = np.array([0.5, 1.0, 2.5, 10.0])
    for order in (1, 2, 3):
        check(lambda v, n=order: T.polygamma(n, v), lambda v, n=order: scipy.special.polygamma(n, v), x)
        check_gradient(lambda v, n=order: T.polygamma(n, v), x + 1)
    same(evaluate(lambda v: T.polygamma(1, v), x.astype("float32")), scipy.special.polygamma(1, x).astype("float32"))
    with pytest.raises(OstinatoError, match="order"):
        T.polygamma(0, T.dvector("x"))


def test_functions_of_two_points() -> None:
    a, b = np.repeat(SPECIAL, SPECIAL.size), np.tile(SPECIAL, SPECIAL.size)
    check(T.arctan2, np.arctan2, a, b)
    check(T.logaddexp, np.logaddexp, a, b)
    point = np.array([0.3, -1.2, 2.0]), np.array([-0.7, 0.4, 1.5])
    check_gradient(T.arctan2, *point, order=2)
    check_gradient(T.logaddexp, *point, order=2)
    check(T.arctan2, lambda y, x: np.arctan2(y.astype("float64"), x), np.array([1, -2]), np.array([-1, 3]))


def test_softplus_and_sigmoid_do_not_overflow() -> None:
    x = np.array([-np.inf, -1e4, -800.0, -30.0, 0.0, 30.0, 800.0, 1e4, np.inf])
    check(T.softplus, lambda v: np.logaddexp(v, 0), x)
    check(T.sigmoid, scipy.special.expit, x)
    v = T.dvector("v")
    slope = ostinato.function([v], T.grad(T.sum(T.softplus(v)), v))(x)
    np.testing.assert_allclose(slope, scipy.special.expit(x), rtol=1e-14)


def test_gradients_at_infinities_are_finite() -> None:
    x = T.dvector("x")
    at = np.array([-np.inf, np.inf])
    for build, expected in ((T.sigmoid, [0, 0]), (T.tanh, [0, 0]), (lambda v: T.logaddexp(v, v), [1, 1])):
        np.testing.assert_array_equal(ostinato.function([x], T.grad(T.sum(build(x)), x))(at), expected)


# ---- where, cast, clip ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_condition_of_where_may_be_a_number(dtype: str) -> None:
    c = np.array([1, 0, 1, 0], dtype)
    check(T.where, lambda c, a, b: np.where(c, a, b), c, values("float32"), others("float32"))
    check(T.switch, lambda c, a, b: np.where(c, a, b), c, values("int8"), others("float32"))


def test_where_broadcasts_all_three() -> None:
    c, a, b = np.array([[True], [False]]), normal(3), np.float64(2)
    check(T.where, np.where, c, a, b)
    check(T.where, np.where, np.bool_(True), a, b)
    check(T.where, np.where, c, np.float64(1), b)
    check_gradient(T.where, c, a, b)


def test_where_of_bare_numbers() -> None:
    c = np.array([True, False])
    check(lambda v: T.where(v, 1, 0), lambda v: np.where(v, 1, 0), c)
    check(lambda v: T.where(v, 1.0, 0), lambda v: np.where(v, 1.0, 0), c)
    check(lambda v: T.where(v, True, False), lambda v: np.where(v, True, False), c)


def test_where_does_not_let_nan_of_the_other_side_pass() -> None:
    x = T.dvector("x")
    safe = T.where(T.gt(x, 0), T.log(T.where(T.gt(x, 0), x, 1)), 0)
    slope = ostinato.function([x], T.grad(T.sum(safe), x))(np.array([-1.0, 0.0, 2.0]))
    np.testing.assert_array_equal(slope, [0, 0, 0.5])


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
def test_cast(source: str, target: str) -> None:
    x = np.abs(values(source))
    check(lambda v: T.cast(v, target), lambda v: v.astype(target), x)
    check(lambda v: v.astype(target), lambda v: v.astype(target), x)


def test_cast_wraps_integers_and_names_unknown_dtypes() -> None:
    check(lambda v: v.astype("int8"), lambda v: v.astype("int8"), np.array([127, 128, -129, 1000]))
    x = T.dvector("x")
    assert T.cast(float("nan"), "int32").dtype == "int32"
    assert x.astype("floatX").dtype == ostinato.config.floatX
    assert x.astype(np.float32).dtype == "float32"
    with pytest.raises(OstinatoTypeError, match="complex64"):
        x.astype("complex64")


def test_gradient_of_cast() -> None:
    x = T.fvector("x")
    g = T.grad(T.sum(T.cast(x, "float64") ** 2), x)
    assert g.dtype == "float32"
    np.testing.assert_array_equal(ostinato.function([x], g)(np.array([1, 3], "float32")), [2, 6])
    cut = T.grad(T.sum(T.cast(T.cast(x, "int32"), "float32") * x), x)
    np.testing.assert_array_equal(ostinato.function([x], cut)(np.array([1.5, 3.5], "float32")), [1, 3])


@pytest.mark.parametrize("dtype", NUMBERS)
def test_clip(dtype: str) -> None:
    check(lambda x: T.clip(x, 1, 3), lambda x: np.clip(x, 1, 3), values(dtype))
    check(lambda x: x.clip(0, 2), lambda x: x.clip(0, 2), values(dtype))


def test_clip_of_special_values() -> None:
    check(lambda x: T.clip(x, -1.0, 2.0), lambda x: np.clip(x, -1.0, 2.0), SPECIAL)
    x = T.dvector("x")
    slope = ostinato.function([x], T.grad(T.sum(T.clip(x, -1, 2)), x))(np.array([-2.0, -1.0, 0.0, 2.0, 3.0]))
    np.testing.assert_array_equal(slope, [0, 1, 1, 1, 0])
    check_gradient(T.clip, np.array([-2.0, 0.5, 3.0]), np.float64(-1), np.float64(2))


# ---- broadcasting ---------------------------------------------------------------------------------

SHAPES = [
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((2, 3), (1, 3)),
    ((2, 1), (1, 3)),
    ((1,), (4,)),
    ((2, 3), ()),
    ((), ()),
    ((0,), (1,)),
    ((0, 3), (3,)),
    ((2, 0), (1, 1)),
    ((1, 2, 1), (3, 1, 4)),
]


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_broadcasting(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = normal(*a), normal(*b, seed=1)
    for op in (operator.add, operator.mul, operator.lt):
        check(op, op, x, y)
        check(op, op, y, x)
    check_gradient(operator.mul, x, y, order=2)


def test_static_shapes_of_broadcasts() -> None:
    x, y = T.TensorType("float64", (2, 1, None))("x"), T.TensorType("float64", (3, 1))("y")
    assert (x + y).type.shape == (2, 3, None)
    assert (y + y).type.shape == (3, 1)


def test_sizes_that_do_not_fit_name_the_variables() -> None:
    x, y = T.TensorType("float64", (2,))("x"), T.TensorType("float64", (3,))("y")
    with pytest.raises(ShapeError, match=r"add: the shapes of 'x' .* and 'y' .* do not fit: sizes 2 and 3"):
        _ = x + y
    u, v = T.dvectors("u", "v")
    with pytest.raises(ShapeError, match="u of shape"):
        ostinato.function([u, v], u + v)(np.ones(2), np.ones(3))


def test_sums_and_products_of_several() -> None:
    a, b, c = normal(3).astype("float32"), normal(2, 1).astype("float32"), np.float32(2)
    check(T.add, lambda a, b, c: a + b + c, a, b, c)
    check(T.mul, lambda a, b, c: a * b * c, a, b, c)
    check(lambda a: T.add(1, 2.5, a), lambda a: 3.5 + a, a)
    check(T.or_, lambda a, b, c: a | b | c, values("int8"), others("int8"), np.int8(8))


def test_wrong_operands_are_refused() -> None:
    x = T.dvector("x")
    with pytest.raises(TypeError):
        x + "one"
    with pytest.raises(TypeError):
        x + None
    with pytest.raises(TypeError, match="operand"):
        T.exp(x, x)
    with pytest.raises(TypeError, match="operand"):
        T.sub(x, x, x)
    with pytest.raises(OstinatoTypeError, match="object"):
        T.exp(object())


# ---- composites -----------------------------------------------------------------------------------


def test_isclose() -> None:
    a = np.repeat(np.append(SPECIAL, 1.0 + 1e-7), 13)
    b = np.tile(np.append(SPECIAL, 1.0), 13)
    check(T.isclose, np.isclose, a, b)
    check(lambda x, y: T.isclose(x, y, equal_nan=True), lambda x, y: np.isclose(x, y, equal_nan=True), a, b)
    check(lambda x, y: T.isclose(x, y, 0.1, 0.5), lambda x, y: np.isclose(x, y, 0.1, 0.5), a, b)
    check(T.isclose, np.isclose, np.array([1, 2], "uint8"), np.array([2, 2], "uint8"))
    check(T.allclose, np.allclose, np.ones(3), np.ones(3))
    check(T.allclose, np.allclose, np.ones(3), np.array([1, 1, 2.0]))


def test_inverse() -> None:
    check(T.inv, lambda x: 1 / x, others("float32"))
    check(T.inv, lambda x: 1 / x, others("int8").astype("int64"))


def relu(x: np.ndarray, alpha: float = 0) -> np.ndarray:
    return np.where(x > 0, x, alpha * x)


def test_rectifiers() -> None:
    x = np.array([-3.0, -0.5, 0.5, 2.0, np.inf, np.nan])
    check(T.relu, relu, x)
    check(lambda v: T.relu(v, 0.1), lambda v: relu(v, 0.1), x)
    check(lambda v, a: T.relu(v, a), lambda v, a: relu(v, a), x, np.float64(0.3))
    check(T.elu, lambda v: np.where(v > 0, v, np.expm1(np.minimum(v, 0))), x)
    check(lambda v: T.elu(v, 0.5), lambda v: np.where(v > 0, v, 0.5 * np.expm1(np.minimum(v, 0))), x)
    check(T.hard_sigmoid, lambda v: np.clip(0.2 * v + 0.5, 0, 1), x)
    for function in (T.relu, T.elu, T.hard_sigmoid, lambda v: T.relu(v, 0.1)):
        check_gradient(function, x[:4], tol=1e-6)
        assert evaluate(function, x.astype("float32")).dtype == "float32"


def test_derivatives_of_rectifiers_at_zero() -> None:
    x = T.dscalar("x")
    for build, slope in ((T.relu, 0.5), (lambda v: T.relu(v, 0.1), 0.55), (T.elu, 1.0), (T.abs, 0.0)):
        assert ostinato.function([x], T.grad(build(x), x))(0.0) == pytest.approx(slope)


def test_binary_crossentropy() -> None:
    p, q = np.array([0.1, 0.5, 0.9]), np.array([0.0, 0.3, 1.0])
    reference = lambda p, q: -(q * np.log(p) + (1 - q) * np.log(1 - p))  # noqa: E731
    check(T.binary_crossentropy, reference, p, q)
    check(T.nnet.binary_crossentropy, reference, p, np.array([0, 1, 1]))
    check_gradient(T.binary_crossentropy, p, q, order=2, tol=1e-6)
