"""Products of matrices against NumPy."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from ostinato import OstinatoTypeError, OstinatoValueError, ShapeError
from support import DTYPES, TOLERANCE, check, check_gradient, evaluate, normal, same


@pytest.fixture(autouse=True)
def verified() -> Any:
    with ostinato.config.change_flags(verify=True):
        yield


# Shapes whose last dimension meets the last but one (or only one) of the other.
DOT_SHAPES = [
    ((), ()),
    ((), (3,)),
    ((2, 3), ()),
    ((3,), (3,)),
    ((3,), (3, 2)),
    ((2, 3), (3,)),
    ((2, 3), (3, 4)),
    ((1, 3), (3, 1)),
    ((3,), (2, 3, 4)),
    ((2, 3, 4), (4,)),
    ((2, 3, 4), (4, 2)),
    ((2, 4), (3, 4, 2)),
    ((2, 1, 4), (3, 4, 2)),
    ((2, 0), (0, 3)),
    ((0,), (0,)),
    ((0, 3), (3, 2)),
    ((2, 0, 3), (3, 0)),
]


@pytest.mark.parametrize(("a", "b"), DOT_SHAPES)
def test_dot(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = normal(*a), normal(*b, seed=1)
    check(T.dot, np.dot, x, y)
    check(lambda x, y: x.dot(y), np.dot, x, y)
    check_gradient(T.dot, x, y, order=2)


MATMUL_SHAPES = [
    ((3,), (3,)),
    ((3,), (3, 2)),
    ((2, 3), (3,)),
    ((2, 3), (3, 4)),
    ((3,), (2, 3, 4)),
    ((2, 3, 4), (4,)),
    ((2, 3, 4), (4, 2)),
    ((2, 4), (3, 4, 2)),
    ((5, 2, 3), (5, 3, 2)),
    ((1, 2, 3), (4, 3, 2)),
    ((2, 1, 2, 3), (3, 3, 2)),
    ((2, 0, 3), (3, 4)),
    ((0, 2, 3), (1, 3, 4)),
    ((2, 0), (0, 2)),
]


@pytest.mark.parametrize(("a", "b"), MATMUL_SHAPES)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = normal(*a), normal(*b, seed=1)
    check(T.matmul, np.matmul, x, y)
    check(operator.matmul, operator.matmul, x, y)
    check_gradient(T.matmul, x, y, order=2)


def test_matmul_of_arrays_and_variables() -> None:
    x = normal(2, 3)
    check(lambda v: np.ones((4, 2)) @ v, lambda v: np.ones((4, 2)) @ v, x)
    check(lambda v: v @ np.ones((3, 4)), lambda v: v @ np.ones((3, 4)), x)
    check(lambda v: v @ [1.0, 2.0, 3.0], lambda v: v @ [1.0, 2.0, 3.0], x)


@pytest.mark.parametrize("function", [T.dot, T.matmul, T.tensordot, T.outer, T.batched_dot])
@pytest.mark.parametrize("b", ["float32", "int8", "int64"])
@pytest.mark.parametrize("a", [d for d in DTYPES if d != "bool"])
def test_dtypes(a: str, b: str, function: Any) -> None:
    x, y = np.array([[1, 2], [3, 0]], a), np.array([[2, 1], [1, 5]], b)
    reference = {T.batched_dot: lambda x, y: np.sum(x * y, -1, dtype=np.result_type(x, y))}
    expected = reference.get(function) or getattr(np, function.__name__)
    check(function, expected, x, y, rtol=TOLERANCE["float16"] if "float16" in (a, b) else None)


def test_products_of_booleans_count() -> None:
    x = np.arange(600).reshape(2, 300) % 3 > 0
    same(evaluate(lambda x: T.dot(x, x.T), x), x.astype("int64") @ x.T.astype("int64"))


def test_float_and_bare_number() -> None:
    check(lambda x: T.dot(2, x), lambda x: 2 * x, normal(2, 3).astype("float32"))


def test_batched_dot() -> None:
    x, y = normal(3, 2, 4), normal(3, 4, 5, seed=1)
    check(T.batched_dot, np.matmul, x, y)
    check(T.batched_dot, lambda x, y: np.einsum("bi,bij->bj", x, y), x[:, 0], y)
    check(T.batched_dot, lambda x, y: np.einsum("bij,bj->bi", x, y), x, y[:, :, 0])
    check(T.batched_dot, lambda x, y: np.einsum("bi,bi->b", x, y), x[:, 0], y[:, :, 0])
    check(T.batched_dot, lambda x, y: x * y, x[:, 0, 0], y[:, 0, 0])
    check(T.batched_dot, lambda x, y: x[:, None, None] * y, x[:, 0, 0], y)
    check(T.batched_dot, lambda x, y: x * y[:, None], x[:, 0], y[:, 0, 0])
    check_gradient(T.batched_dot, x, y, order=2)
    check_gradient(T.batched_dot, x[:, 0], y, order=2)
    for bad in (T.dscalar("s"), T.dtensor4("t")):
        with pytest.raises(OstinatoTypeError, match="1 to 3 dimensions"):
            T.batched_dot(bad, T.dtensor3("x"))


@pytest.mark.parametrize("axes", [0, 1, 2, [[0], [1]], [[2, 1], [0, 1]], [(-1, -2), (0, 1)], (1, 1), [[], []]], ids=str)
def test_tensordot(axes: Any) -> None:
    shapes = {"1": ((2, 3, 4), (4, 2)), "[[0], [1]]": ((2, 3, 4), (5, 2)), "(1, 1)": ((2, 3), (4, 3))}
    a, b = shapes.get(str(axes), ((2, 3, 4), (3, 4, 2)))
    if str(axes) in ("[[2, 1], [0, 1]]", "[(-1, -2), (0, 1)]"):
        b = (4, 3, 2)
    x, y = normal(*a), normal(*b, seed=1)
    check(lambda x, y: T.tensordot(x, y, axes), lambda x, y: np.tensordot(x, y, axes), x, y)
    check_gradient(lambda x, y: T.tensordot(x, y, axes), x, y)


def test_tensordot_of_nothing() -> None:
    check(lambda x, y: T.tensordot(x, y, 1), lambda x, y: np.tensordot(x, y, 1), np.ones((2, 0)), np.ones((0, 3)))
    check(lambda x, y: T.tensordot(x, y, 2), lambda x, y: np.tensordot(x, y, 2), np.ones((2, 0)), np.ones((2, 0)))


@pytest.mark.parametrize(
    ("axes", "formula", "a", "b"),
    [
        (1, "bij,bjk->bik", (3, 2, 4), (3, 4, 5)),
        (2, "bij,bijk->bk", (3, 2, 4), (3, 2, 4, 5)),
        (0, "bi,bj->bij", (3, 2), (3, 4)),
        ([[1], [2]], "bij,bki->bjk", (3, 2, 4), (3, 5, 2)),
        ([1, 1], "bij,bi->bj", (3, 2, 4), (3, 2)),
    ],
)
def test_batched_tensordot(axes: Any, formula: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = normal(*a), normal(*b, seed=1)
    check(lambda x, y: T.batched_tensordot(x, y, axes), lambda x, y: np.einsum(formula, x, y), x, y)
    check_gradient(lambda x, y: T.batched_tensordot(x, y, axes), x, y)


def test_outer() -> None:
    for a, b in (((3,), (2,)), ((2, 2), (3,)), ((), (3,)), ((0,), (2,))):
        check(T.outer, np.outer, normal(*a), normal(*b, seed=1))
    check_gradient(T.outer, normal(3), normal(2, seed=1), order=2)


def test_static_shapes() -> None:
    x, y = T.TensorType("float64", (2, None))("x"), T.TensorType("float64", (3, 4))("y")
    assert (x @ y).type.shape == (2, 4)
    assert T.dot(x, T.dvector("v")).type.shape == (2,)
    assert T.tensordot(y, y, [[0, 1], [0, 1]]).type.shape == ()


def test_sizes_that_differ_name_the_variables() -> None:
    x, y = T.TensorType("float64", (2, 3))("x"), T.TensorType("float64", (4, 5))("y")
    for function in (T.dot, T.matmul):
        with pytest.raises(ShapeError, match=r"'x' .* has 3 columns, but 'y' .* has 4 rows"):
            function(x, y)
    with pytest.raises(ShapeError, match=r"'x' .* has 3 columns, but 'v' .* has 2 rows"):
        T.dot(x, T.TensorType("float64", (2,))("v"))
    with pytest.raises(ShapeError, match=r"dimension 1 of 'x' .* has size 3, but dimension 0 of 'y' .* has size 4"):
        T.tensordot(x, y, 1)
    stack = T.TensorType("float64", (2, 3, 4))("s")
    with pytest.raises(ShapeError, match=r"the stacks 's' .* and 't' .* do not fit: sizes 2 and 3"):
        T.matmul(stack, T.TensorType("float64", (3, 4, 2))("t"))


def test_sizes_that_differ_at_run_time() -> None:
    for function in (T.dot, T.matmul, lambda x, y: T.tensordot(x, y, 1)):
        with pytest.raises(ShapeError, match=r"x0 of shape \(2, 3\)"):
            evaluate(function, np.ones((2, 3)), np.ones((4, 5)))
    with pytest.raises(ShapeError, match=r"\(2, 3\)"):  # as many elements, but not in pairs
        evaluate(lambda x, y: T.tensordot(x, y, 2), np.ones((2, 3)), np.ones((3, 2)))


def test_wrong_arguments_are_refused() -> None:
    x, y = T.dmatrix("x"), T.dtensor3("y")
    with pytest.raises(OstinatoTypeError, match=r"scalars are multiplied with \*"):
        T.matmul(x, 2)
    for axes in (3, -1, [[0, 1], [0]], [[0]], [[0, 0], [1, 2]]):
        with pytest.raises(OstinatoValueError, match="tensordot"):
            T.tensordot(x, y, axes)
    with pytest.raises(OstinatoValueError, match="no dimension 2"):
        T.tensordot(x, y, [[2], [0]])
    with pytest.raises(OstinatoValueError, match="common"):
        T.batched_tensordot(x, y, [[0], [0]])
    with pytest.raises(OstinatoTypeError, match="no common dimension"):
        T.batched_tensordot(T.dscalar("s"), y)
