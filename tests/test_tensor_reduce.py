"""Reductions and statistics against NumPy and SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special

import ostinato
import ostinato.tensor as T
from ostinato import OstinatoTypeError, OstinatoValueError
from support import DTYPES, FLOAT_DTYPES, check, check_gradient, evaluate, normal, same


@pytest.fixture(autouse=True)
def verified() -> Any:
    with ostinato.config.change_flags(verify=True):
        yield


X = normal(2, 3, 4)
AXES = [None, 0, 1, -1, (0,), (0, 2), (-1, 0), [1, 2], (0, 1, 2), ()]
REDUCTIONS = ["sum", "prod", "max", "min", "any", "all", "mean", "var", "std"]


def values(dtype: str) -> np.ndarray:
    """A matrix of small numbers with a zero."""
    return (np.arange(6).reshape(2, 3) % 4).astype(dtype)


# ---- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_axes(name: str, axis: Any, keepdims: bool) -> None:
    given = tuple(axis) if isinstance(axis, list) else axis
    reference = getattr(np, name)
    check(
        lambda x: getattr(T, name)(x, axis=axis, keepdims=keepdims),
        lambda x: reference(x, axis=given, keepdims=keepdims),
        X,
    )
    check(lambda x: getattr(x, name)(axis=axis, keepdims=keepdims), lambda x: reference(x, given, keepdims=keepdims), X)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "any", "all", "argmax", "argmin"])
def test_dtypes(name: str, dtype: str) -> None:
    check(getattr(T, name), getattr(np, name), values(dtype))
    check(lambda x: getattr(T, name)(x, axis=1), lambda x: getattr(np, name)(x, axis=1), values(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
def test_dtypes_of_running_reductions(name: str, dtype: str) -> None:
    for axis in (None, 0, 1, -1):
        check(lambda x, a=axis: getattr(T, name)(x, a), lambda x, a=axis: getattr(np, name)(x, a), values(dtype))
        check(lambda x, a=axis: getattr(x, name)(a), lambda x, a=axis: getattr(np, name)(x, a), values(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["mean", "var", "std"])
def test_dtypes_of_statistics(name: str, dtype: str) -> None:
    for axis in (None, 0):
        with np.errstate(all="ignore"):
            expected = np.asarray(getattr(np, name)(values(dtype).astype("float64"), axis))
        expected = expected.astype(dtype if dtype in FLOAT_DTYPES else "float64")
        same(evaluate(lambda x, a=axis: getattr(T, name)(x, a), values(dtype)), expected)


def test_small_integers_are_added_in_64_bits() -> None:
    for dtype in ("int8", "uint8", "int32", "bool"):
        check(T.sum, np.sum, np.ones(300, dtype))
        check(T.cumsum, np.cumsum, np.ones(300, dtype))


def test_dtype_of_the_result_may_be_chosen() -> None:
    for dtype in ("float32", "int16", "float64"):
        check(lambda x, d=dtype: T.sum(x, dtype=d), lambda x, d=dtype: np.sum(x, dtype=d), values("int8"))
        check(lambda x, d=dtype: x.prod(0, d), lambda x, d=dtype: np.prod(x, 0, dtype=d), values("int8"))
    check(lambda x: T.mean(x, dtype="float32"), lambda x: np.mean(x, dtype="float32"), X)
    with ostinato.config.change_flags(floatX="float32"):
        assert T.sum(T.lvector("x"), dtype="floatX").dtype == "float32"
        assert T.mean(T.lvector("x")).dtype == "float32"


def test_statistics_of_many_float16() -> None:
    x = np.full(3000, 60.0, "float16")
    assert evaluate(T.mean, x) == np.float16(60)
    assert evaluate(T.var, np.concatenate([x, -x])) == np.float16(3600)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
@pytest.mark.parametrize("name", ["sum", "prod", "any", "all", "mean", "var"])
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:Degrees of freedom")
def test_nothing_to_reduce(name: str, shape: tuple[int, ...]) -> None:
    x = np.zeros(shape)
    for axis in (None, 0, -1):
        check(lambda x, a=axis: getattr(T, name)(x, a), lambda x, a=axis: getattr(np, name)(x, a), x)


def test_extremes_of_nothing() -> None:
    check(lambda x: T.max(x, 0), lambda x: np.max(x, 0), np.zeros((2, 0)))
    check(lambda x: T.argmin(x, 0), lambda x: np.argmin(x, 0), np.zeros((2, 0)))
    for name in ("max", "min", "argmax"):
        with pytest.raises(OstinatoValueError, match=f"{name}.*empty|{name}.*zero-size"):
            evaluate(getattr(T, name), np.zeros(0))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_scalars(name: str) -> None:
    check(getattr(T, name), getattr(np, name), np.float64(2.5))
    check(lambda x: getattr(T, name)(x, axis=()), lambda x: getattr(np, name)(x, axis=()), np.float64(2.5))


@pytest.mark.parametrize("name", ["sum", "max", "min", "prod", "mean", "any", "argmax", "argmin", "cumsum", "cumprod"])
def test_special_values(name: str) -> None:
    rows = np.array([[1.0, np.nan, 2.0], [np.inf, 1.0, -np.inf], [np.inf, 0.0, 1.0], [-0.0, 0.0, -0.0]])
    check(lambda x: getattr(T, name)(x, axis=1), lambda x: getattr(np, name)(x, axis=1), rows)


def test_wrong_axes_are_refused() -> None:
    x = T.dmatrix("x")
    for axis, message in ((2, "no dimension 2"), (-3, "no dimension -3"), ((0, -2), "named twice")):
        with pytest.raises(OstinatoValueError, match=message):
            T.sum(x, axis=axis)
    with pytest.raises(OstinatoTypeError, match=r"a dimension is an int, not 0\.5"):
        T.max(x, axis=(0.5,))
    with pytest.raises(OstinatoValueError, match="no dimension 3"):
        T.argmax(x, axis=3)


def test_static_shapes() -> None:
    x = T.TensorType("float64", (2, None, 4))("x")
    assert T.sum(x, axis=1).type.shape == (2, 4)
    assert T.max(x, axis=0, keepdims=True).type.shape == (1, None, 4)
    assert T.argmax(x, axis=-1).type.shape == (2, None)
    assert T.mean(x).type.shape == ()
    assert T.cumsum(x, axis=1).type.shape == (2, None, 4)


# ---- argmax, cumulative ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_first_of_ties_is_chosen(name: str) -> None:
    x = np.array([[1, 3, 3, 0, 0], [2, 2, 2, 2, 2]])
    for axis in (None, 0, 1, -1):
        for keepdims in (False, True):
            check(
                lambda x, a=axis, k=keepdims: getattr(T, name)(x, axis=a, keepdims=k),
                lambda x, a=axis, k=keepdims: getattr(np, name)(x, axis=a, keepdims=k),
                x,
            )
    check(lambda x: getattr(x, name)(1), lambda x: getattr(np, name)(x, 1), x)


def test_gradient_through_argmax_is_that_of_the_element() -> None:
    check_gradient(lambda x: x[T.arange(2), T.argmax(x, axis=1)], normal(2, 3))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_gradients_of_running_reductions(axis: int | None) -> None:
    check_gradient(lambda x: T.cumsum(x, axis), normal(2, 3), order=2)
    check_gradient(lambda x: T.cumprod(x, axis), normal(2, 3), order=2)
    check_gradient(lambda x: T.cumprod(x, axis), np.array([[1.5, 0.0, 2.0], [0.0, -1.0, 0.0]]), order=2)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
def test_running_reductions_of_nothing(name: str, axis: int | None) -> None:
    for shape in ((0, 3), (3, 0)):
        check(lambda x: getattr(T, name)(x, axis), lambda x: getattr(np, name)(x, axis), np.zeros(shape))


# ---- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 1, (0, 2), ()], ids=str)
@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "mean", "var", "std"])
def test_gradients(name: str, axis: Any) -> None:
    if name == "std" and axis == ():
        return  # the root of 0
    check_gradient(lambda x: getattr(T, name)(x, axis=axis), X[:, :2, :3] + 0.1, order=2, tol=1e-6)


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)], ids=str)
@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
def test_gradient_of_prod_is_exact_at_zeros(zeros: int, axis: Any) -> None:
    x = np.array([[0.5, 0.75, 1.25], [1.5, 0.625, -1.0]])
    x.flat[[0, 4, 1][:zeros]] = 0
    check_gradient(lambda v: T.prod(v, axis), x, order=2, tol=1e-6)
    v = T.dmatrix("v")
    found = ostinato.function([v], T.grad(T.sum(T.prod(v, axis)), v))(x)
    np.testing.assert_array_equal(found, products_of_others(x, axis))


def products_of_others(x: np.ndarray, axis: Any) -> np.ndarray:
    result = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        without = x.copy()
        without[place] = 1
        changed = np.zeros_like(x)
        changed[place] = 1
        hit = np.sum(changed, axis) != 0
        result[place] = np.prod(without, axis)[hit].item()
    return result


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_hessian_of_prod_is_exact_at_zeros(zeros: int) -> None:
    x = np.array([2.0, 3.0, 5.0, 7.0])
    x[:zeros] = 0
    expected = np.zeros((4, 4))
    for i, j in np.ndindex(4, 4):
        expected[i, j] = 0 if i == j else np.prod(np.delete(x, [i, j]))
    v = T.dvector("v")
    g = T.grad(T.prod(v), v)
    rows = ostinato.function([v], [T.grad(g[i], v) for i in range(4)])(x)
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("name", ["max", "min"])
def test_ties_share_the_gradient(name: str) -> None:
    x = T.dmatrix("x")
    point = np.array([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]]) * (1 if name == "max" else -1)
    slope = ostinato.function([x], T.grad(T.sum(getattr(T, name)(x, axis=1)), x))(point)
    np.testing.assert_array_equal(slope, [[0, 0.5, 0.5], np.full(3, 1 / 3)])


def test_gradients_of_reductions_of_nothing() -> None:
    x = T.dmatrix("x")
    for build in (T.sum, T.prod, T.mean, lambda v: T.sum(T.cumprod(v, 0)), lambda v: T.sum(T.max(v, axis=0))):
        assert ostinato.function([x], T.grad(build(x), x))(np.zeros((2, 0))).shape == (2, 0)


def test_any_and_all_end_derivatives() -> None:
    x = T.dvector("x")
    cost = T.sum(T.where(T.any(x > 1), x, 2 * x))
    np.testing.assert_array_equal(ostinato.function([x], T.grad(cost, x))(np.array([0.0, 1.0])), [2, 2])


# ---- norms, ranges --------------------------------------------------------------------------------

ORDERS = [0, 1, 2, 3, 0.5, -1, np.inf, -np.inf, None]


@pytest.mark.parametrize("ord", ORDERS)
def test_norm(ord: Any) -> None:
    x = normal(3, 4)
    x[0, 0] = 0 if ord != -1 else 1
    for axis in (0, 1, -1):
        for keepdims in (False, True):
            check(
                lambda x, a=axis, k=keepdims: T.norm(x, ord, a, k),
                lambda x, a=axis, k=keepdims: np.linalg.norm(x, ord, a, k),
                x,
            )
    check(lambda x: T.norm(x, ord), lambda x: np.linalg.norm(x.ravel(), ord), x)
    check(lambda x: x.norm(ord, axis=1), lambda x: np.linalg.norm(x, ord, 1), x)
    check_gradient(lambda x: T.norm(x, ord, axis=1), normal(3, 4), order=2, tol=1e-5)


def test_norm_of_other_dtypes() -> None:
    check(lambda x: T.norm(x, 1, 0), lambda x: np.linalg.norm(x, 1, 0), np.array([[-3, 4], [5, -12]]))
    check(lambda x: T.norm(x, 3, 0), lambda x: np.linalg.norm(x, 3, 0), normal(3, 4).astype("float32"))
    with pytest.raises(OstinatoValueError, match="nuc"):
        T.norm(T.dmatrix("x"), "nuc")


@pytest.mark.parametrize("ddof", [0, 1, 2])
def test_degrees_of_freedom(ddof: int) -> None:
    for axis in (None, 1, (1, 2)):
        check(lambda x, a=axis: T.var(x, a, ddof), lambda x, a=axis: np.var(x, a, ddof=ddof), X)
        check(lambda x, a=axis: x.std(a, ddof), lambda x, a=axis: np.std(x, a, ddof=ddof), X)


def test_range() -> None:
    for axis in (None, 0, 1):
        check(lambda x, a=axis: T.ptp(x, a), lambda x, a=axis: np.ptp(x, a), X)


# ---- exponentials ---------------------------------------------------------------------------------

EXTREME = np.array(
    [
        [0.0, 1.0, -2.0],
        [1e4, 1e4 - 1, 0.0],
        [-1e4, -1e4, -1e5],
        [-np.inf, 0.0, 1.0],
        [-np.inf, -np.inf, -np.inf],
        [np.inf, 0.0, 1.0],
        [np.inf, -np.inf, 0.0],
        [np.nan, 0.0, 1.0],
    ]
)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 1)])
def test_logsumexp(axis: Any, keepdims: bool) -> None:
    def reference(x: np.ndarray) -> Any:
        return scipy.special.logsumexp(x, axis=axis, keepdims=keepdims)

    check(lambda x: T.logsumexp(x, axis, keepdims), reference, EXTREME)
    check(lambda x: T.logsumexp(x, axis, keepdims), reference, normal(3, 4))
    check_gradient(lambda x: T.logsumexp(x, axis, keepdims), normal(3, 4), order=2, tol=1e-6)


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name: str, axis: int) -> None:
    function, reference = getattr(T, name), getattr(scipy.special, name)
    finite = EXTREME[[0, 1, 2, 3, 7]]
    check(lambda x: function(x, axis), lambda x: reference(x, axis), finite)
    check(lambda x: function(x, axis), lambda x: reference(x, axis), normal(3, 4))
    check(lambda x: function(x, axis), lambda x: reference(x, axis), normal(3, 4).astype("float32"))
    check_gradient(lambda x: function(x, axis), normal(3, 4), order=2, tol=1e-6)


def test_softmax_of_infinities() -> None:
    rows = EXTREME[4:7]
    assert np.isnan(evaluate(T.softmax, rows)[:, 0]).all()


def test_gradient_of_logsumexp_at_minus_infinity() -> None:
    """Impossible events (log-probability -inf) leave the derivatives of the others alone."""
    x = T.dmatrix("x")
    rows = EXTREME[[3, 4]]
    slope = ostinato.function([x], T.grad(T.sum(T.logsumexp(x, axis=1)), x))(rows)
    np.testing.assert_allclose(slope, [[0, 1 / (1 + np.e), np.e / (1 + np.e)], [0, 0, 0]], rtol=1e-14)
    second = ostinato.function([x], T.grad(T.sum(T.grad(T.sum(T.logsumexp(x, axis=1)), x) ** 2), x))(rows)
    assert np.isfinite(second).all()


def test_logsumexp_of_integers() -> None:
    check(lambda x: T.logsumexp(x, 0), lambda x: scipy.special.logsumexp(x, 0), np.array([[1, 2], [3, 4]]))
    check(T.softmax, scipy.special.softmax, np.array([1, 2, 3]))
