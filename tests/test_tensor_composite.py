"""Composites that are neither elementwise nor reductions nor arrangements; and `tensor.nnet`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special

import ostinato
import ostinato.tensor as T
from ostinato import OstinatoTypeError
from ostinato.graph import topological
from support import DTYPES, check, check_gradient, evaluate, normal


@pytest.fixture(autouse=True)
def verified() -> Any:
    with ostinato.config.change_flags(verify=True):
        yield


# ---- diagonals and triangles ----------------------------------------------------------------------

OFFSETS = [0, 1, -1, 2, -3, 7, -7]


@pytest.mark.parametrize("k", OFFSETS)
@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2), (1, 1), (0, 3), (3, 0)])
def test_diagonal_of_a_matrix(shape: tuple[int, int], k: int) -> None:
    check(lambda x: T.diag(x, k), lambda x: np.diag(x, k), normal(*shape))
    check(lambda x: x.diagonal(k), lambda x: x.diagonal(k), normal(*shape))


@pytest.mark.parametrize("k", OFFSETS)
def test_matrix_of_a_diagonal(k: int) -> None:
    for n in (0, 1, 3):
        check(lambda x: T.diag(x, k), lambda x: np.diag(x, k), normal(n))
    check(lambda x: T.diag(x, k), lambda x: np.diag(x, k), np.array([1, 2], "int8"))


@pytest.mark.parametrize("k", [0, 1, -1])
def test_gradients_of_diagonals(k: int) -> None:
    check_gradient(lambda x: T.diag(x, k) ** 2, normal(3, 3), order=2)
    check_gradient(lambda x: T.diag(x, k) ** 2, normal(3), order=2)
    check_gradient(lambda x: T.tril(x, k) ** 2, normal(2, 3), order=2)
    check_gradient(lambda x: T.trace(x @ x), normal(3, 3), order=2)


def test_static_shapes_of_diagonals() -> None:
    x = T.TensorType("float64", (3, 5))("x")
    assert T.diag(x, 3).type.shape == (2,)
    assert T.diag(T.diag(x), -1).type.shape == (4, 4)
    for bad in (T.dscalar("x"), T.dtensor3("x")):
        with pytest.raises(OstinatoTypeError, match="diag expects a vector or a matrix, got 'x'"):
            T.diag(bad)
    with pytest.raises(OstinatoTypeError, match="expected 2 dimensions, got 'v'"):
        T.dvector("v").diagonal()


def test_trace() -> None:
    for shape in ((3, 3), (2, 4), (0, 2)):
        check(T.trace, np.trace, normal(*shape))
    check(lambda x: x.trace(), np.trace, np.array([[1, 2], [3, 4]], "int8"))


@pytest.mark.parametrize("k", OFFSETS)
@pytest.mark.parametrize("name", ["tril", "triu"])
def test_triangles(name: str, k: int) -> None:
    for shape in ((3, 3), (2, 4), (0, 2), (2, 3, 3)):
        check(lambda x: getattr(T, name)(x, k), lambda x: getattr(np, name)(x, k), normal(*shape))
    check(lambda x: getattr(T, name)(x, k), lambda x: getattr(np, name)(x, k), np.ones((2, 2), "bool"))
    with pytest.raises(OstinatoTypeError, match="expect a matrix"):
        getattr(T, name)(T.dvector("x"))


# ---- one hot, crossentropy ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d[0] in "iu"])
def test_to_one_hot(dtype: str) -> None:
    labels = np.array([0, 2, 1, 2], dtype)
    check(lambda y: T.to_one_hot(y, 3), lambda y: np.eye(3)[y], labels)
    check(lambda y: T.to_one_hot(y, nb_class=4, dtype="int8"), lambda y: np.eye(4, dtype="int8")[y], labels)
    check(lambda y, n: T.to_one_hot(y, n), lambda y, n: np.eye(3)[y], labels, np.int64(3))


def test_to_one_hot_of_what_is_no_class() -> None:
    check(lambda y: T.to_one_hot(y, 2), lambda y: np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), np.array([2, 1, -1]))
    for bad in (T.dvector("y"), T.lmatrix("y")):
        with pytest.raises(OstinatoTypeError, match="'y'"):
            T.to_one_hot(bad, 3)
    with ostinato.config.change_flags(floatX="float32"):
        assert T.to_one_hot(T.lvector("y"), 3).dtype == "float32"


def test_categorical_crossentropy() -> None:
    p = scipy.special.softmax(normal(4, 3), axis=1)
    q = scipy.special.softmax(normal(4, 3, seed=1), axis=1)
    labels = np.array([0, 2, 1, 2])
    for function in (T.categorical_crossentropy, T.nnet.categorical_crossentropy):
        check(function, lambda p, q: -np.sum(q * np.log(p), axis=1), p, q)
        check(function, lambda p, y: -np.log(p[np.arange(4), y]), p, labels)
        check(function, lambda p, y: -np.log(p[np.arange(4), y]), p.astype("float32"), labels.astype("int8"))
        check_gradient(function, p, q)
        check_gradient(function, p, labels, order=2, tol=1e-6)


# ---- nnet -----------------------------------------------------------------------------------------


def test_nnet_softmax_of_a_vector_is_a_row() -> None:
    check(T.nnet.softmax, lambda x: scipy.special.softmax(x)[None], normal(3))
    check(T.nnet.softmax, lambda x: scipy.special.softmax(x, 1), normal(2, 3))
    check(T.nnet.logsoftmax, lambda x: scipy.special.log_softmax(x)[None], normal(3))
    check(T.nnet.logsoftmax, lambda x: scipy.special.log_softmax(x, 1), normal(2, 3))
    assert T.nnet.softmax(T.dvector("x")).broadcastable == (True, False)
    check_gradient(T.nnet.softmax, normal(2, 3), order=2)


def test_nnet_has_the_functions_of_the_main_module() -> None:
    for name in ("relu", "elu", "sigmoid", "hard_sigmoid", "softplus", "binary_crossentropy"):
        assert getattr(T.nnet, name) is getattr(T, name)
    x = normal(5)
    np.testing.assert_array_equal(evaluate(T.nnet.ultra_fast_sigmoid, x), evaluate(T.sigmoid, x))


# ---- float32 ----------------------------------------------------------------------------------------

OF_MATRIX = """abs arcsin arctan cos erf erfc exp exp2 expm1 gammaln log log1p log2 psi sigmoid sin sqrt tan tanh
    sqr inv softplus relu elu hard_sigmoid deg2rad mean var std norm ptp logsumexp softmax log_softmax cumprod cumsum
    prod sum max min diag trace tril flip""".split()  # noqa: SIM905
OF_TWO = "add sub mul true_div floor_div mod pow maximum minimum arctan2 logaddexp dot outer matmul".split()  # noqa: SIM905
OTHERS: dict[str, Any] = {
    "number": lambda x, v, i: 2.5 * x + 1,
    "power": lambda x, v, i: x**2.5,
    "norm of order 3": lambda x, v, i: T.norm(x, 3),
    "clip": lambda x, v, i: T.clip(x, 0, 1),
    "leaky relu": lambda x, v, i: T.relu(x, 0.1),
    "crossentropy": lambda x, v, i: T.categorical_crossentropy(x, i),
    "binary crossentropy": lambda x, v, i: T.binary_crossentropy(x, v),
    "write": lambda x, v, i: T.set_subtensor(x[i], v),
    "repeat": lambda x, v, i: T.repeat(x, i, 0),
    "where": lambda x, v, i: T.where(x > 0.5, 1.0, x),
    "polygamma": lambda x, v, i: T.polygamma(1, x),
}
OTHERS |= {n: lambda x, v, i, n=n: getattr(T, n)(x) for n in OF_MATRIX}
OTHERS |= {n: lambda x, v, i, n=n: getattr(T, n)(x, v) for n in OF_TWO}


@pytest.mark.parametrize("name", OTHERS)
def test_float32_stays_float32(name: str) -> None:
    """No part of a value, nor of its first and second derivatives, is computed in float64."""
    x, v, i = T.fmatrix("x"), T.fvector("v"), T.lvector("i")
    value = OTHERS[name](x, v, i)
    first = T.grad(T.sum(value), [x, v], disconnected_inputs="ignore")
    second = T.grad(sum(T.sum(T.sqr(g)) for g in first), [x, v], disconnected_inputs="ignore")
    nodes = topological([value, *first, *second])
    for loop in [n for n in nodes if n.op.name == "loop"]:
        nodes += loop.params[0].body.nodes()
    assert [n for n in nodes if getattr(n.type, "dtype", None) == "float64"] == []


# ---- all together ---------------------------------------------------------------------------------


def test_log_density_of_a_normal_distribution() -> None:
    def log_density(x: Any, mean: Any, scale: Any) -> Any:
        return T.sum(-0.5 * T.sqr((x - mean) / scale) - T.log(scale) - 0.5 * np.log(2 * np.pi))

    x = normal(5)
    check_gradient(log_density, x, np.float64(0.3), np.float64(1.7), order=2, tol=1e-6)
    value = evaluate(log_density, x, np.float64(0.3), np.float64(1.7))
    z = (x - 0.3) / 1.7
    assert value == pytest.approx(np.sum(-0.5 * z**2 - np.log(1.7) - 0.5 * np.log(2 * np.pi)))


def test_two_layers() -> None:
    def loss(x: Any, w: Any, b: Any, v: Any, y: Any) -> Any:
        hidden = T.tanh(T.dot(x, w) + b)
        return T.mean(T.categorical_crossentropy(T.softmax(T.dot(hidden, v)), y))

    arrays = normal(4, 3), normal(3, 5, seed=1), normal(5), normal(5, 2, seed=2), np.array([0, 1, 1, 0])
    check_gradient(loss, *arrays, order=1)
    v = [a.astype("float32") if a.dtype.kind == "f" else a for a in arrays]
    assert evaluate(loss, *v).dtype == "float32"
