"""Makers of variables, constants and arrays; and what a variable can and cannot do."""

from __future__ import annotations

import copy
import operator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ostinato
import ostinato.tensor as T
from ostinato import OstinatoTypeError, OstinatoValueError, ShapeError
from ostinato.errors import OstinatoError
from support import DTYPES, check, evaluate, normal


@pytest.fixture(autouse=True)
def verified() -> Any:
    with ostinato.config.change_flags(verify=True):
        yield


# ---- input variables ------------------------------------------------------------------------------

KINDS: dict[str, tuple[str, tuple[int | None, ...]]] = {
    "scalar": ("scalars", ()),
    "vector": ("vectors", (None,)),
    "row": ("rows", (1, None)),
    "col": ("cols", (None, 1)),
    "matrix": ("matrices", (None, None)),
    "tensor3": ("tensor3s", (None,) * 3),
    "tensor4": ("tensor4s", (None,) * 4),
    "tensor5": ("tensor5s", (None,) * 5),
}
PREFIXES = {"b": "int8", "w": "int16", "i": "int32", "l": "int64", "f": "float32", "d": "float64"}


@pytest.mark.parametrize("kind", KINDS)
def test_constructors(kind: str) -> None:
    plural, shape = KINDS[kind]
    for prefix, dtype in PREFIXES.items():
        make = getattr(T, prefix + kind)
        assert make("v").type == T.TensorType(dtype, shape)
        assert make.__name__ == prefix + kind
        assert dtype in make.__doc__
        many = getattr(T, prefix + plural)("a", "b")
        assert [(v.name, v.type) for v in many] == [(n, T.TensorType(dtype, shape)) for n in "ab"]
    v = getattr(T, kind)()
    assert v.name is None
    assert v.dtype == ostinato.config.floatX
    assert getattr(T, kind)("v", dtype="int32").dtype == "int32"
    assert [w.name for w in getattr(T, plural)(3)] == [None] * 3
    assert [w.dtype for w in getattr(T, plural)("a", "b", dtype="int8")] == ["int8"] * 2


def test_dtype_of_constructors_is_that_of_the_moment() -> None:
    with ostinato.config.change_flags(floatX="float32"):
        assert T.matrix("x").dtype == "float32"
        assert T.matrix("x", dtype="floatX").dtype == "float32"
        assert T.dmatrix("x").dtype == "float64"
        assert T.zeros(3).dtype == T.constant(1.5).dtype == T.eye(2).dtype == "float32"
    assert T.matrix("x").dtype == "float64"


def test_every_variable_is_a_new_one() -> None:
    assert T.scalar("x") is not T.scalar("x")
    assert len({*T.vectors(3)}) == 3


def test_wrong_constructors_are_refused() -> None:
    with pytest.raises(OstinatoTypeError, match="name of a variable is a string, not 3"):
        T.scalar(3)
    with pytest.raises(OstinatoTypeError, match=r"fvector is float32; use vector\(dtype='int8'\)"):
        T.fvector("x", dtype="int8")
    with pytest.raises(OstinatoTypeError, match="complex128"):
        T.vector("x", dtype="complex128")
    with pytest.raises(AttributeError, match=r"no 'vectr'; close to it: vector"):
        T.vectr  # noqa: B018


def test_types_make_variables() -> None:
    x = T.TensorType("float32", (False, True))("x")
    assert (x.name, x.dtype, x.broadcastable, x.type.shape) == ("x", "float32", (False, True), (None, 1))
    assert T.TensorType("int8", (2, None))().type.shape == (2, None)
    assert T.tensor("float32", (None, 3), "y").type == T.TensorType("float32", (None, 3))
    assert T.tensor("int8", (False, True)).type.shape == (None, 1)
    assert T.tensor(dtype="int8", broadcastable=(True,), name="z").broadcastable == (True,)
    assert T.tensor(shape=(2,)).dtype == ostinato.config.floatX


# ---- constants ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_constants_keep_their_dtype(dtype: str) -> None:
    value = np.ones((2, 3), dtype)
    x = T.constant(value, name="c")
    assert (x.name, x.dtype, x.type.shape) == ("c", dtype, (2, 3))
    np.testing.assert_array_equal(x.eval(), value)
    assert T.constant(value[0, 0]).dtype == dtype


def test_constants_are_copies() -> None:
    value = np.ones(2)
    x = T.constant(value)
    value[0] = 5
    np.testing.assert_array_equal(x.data, [1, 1])
    with pytest.raises(ValueError, match="read-only"):
        x.value[0] = 3
    assert T.constant([1, 1]) is T.constant([1, 1])
    assert T.constant(0.0) is not T.constant(-0.0)


def test_constants_of_python_values() -> None:
    assert T.constant(1).dtype == "int64"
    assert T.constant(True).dtype == "bool"
    assert T.constant([[1, 2], [3, 4]]).type == T.TensorType("int64", (2, 2))
    assert T.constant(2, dtype="float32").dtype == "float32"
    assert T.constant([1.5], ndim=1).ndim == 1
    assert isinstance(T.constant(1.5), T.Constant)


def test_wrong_constants_are_refused() -> None:
    x = T.scalar("x")
    for bad, message in ((x, "symbolic"), ([x, 1], "symbolic"), ("a", "dtype|str"), (None, "None"), (1j, "complex")):
        with pytest.raises(OstinatoTypeError, match=message):
            T.constant(bad)
    with pytest.raises(OstinatoTypeError, match="expected 2 dimensions"):
        T.constant([1.0], ndim=2)
    with pytest.raises(OstinatoTypeError, match=r"inhomogeneous|array"):
        T.constant([[1], [2, 3]])


def test_as_tensor_variable() -> None:
    x = T.dscalar("x")
    assert T.as_tensor_variable(x) is x
    assert T.as_tensor is T.as_tensor_variable
    check(
        lambda x: T.as_tensor_variable([[x, 1], [2, T.exp(x)]]),
        lambda x: np.array([[x, 1], [2, np.exp(x)]]),
        np.ones(()),
    )
    check(lambda x: T.as_tensor_variable((x, x[::-1])), lambda x: np.array([x, x[::-1]]), normal(3))
    assert T.as_tensor_variable([1.5, 2], "c").name == "c"
    with pytest.raises(OstinatoTypeError, match="expected 1 dimensions, got 'x'"):
        T.as_tensor_variable(x, ndim=1)
    with pytest.raises(OstinatoTypeError, match="got None"):
        T.as_tensor_variable(None)


# ---- arrays from sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), 3, (2, 3), [2, 0], (1, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [None, "int8", "float32", "bool"])
def test_zeros_and_ones(shape: Any, dtype: str | None) -> None:
    for name in ("zeros", "ones"):
        check(lambda n=name: getattr(T, n)(shape, dtype), lambda n=name: getattr(np, n)(shape, dtype or "float64"))
        check(
            lambda n=name: getattr(T, n)(shape, dtype=dtype), lambda n=name: getattr(np, n)(shape, dtype or "float64")
        )
    assert T.zeros(shape).type.shape == np.zeros(shape).shape


def test_sizes_may_be_symbolic() -> None:
    check(lambda n: T.zeros((n, 3)), lambda n: np.zeros((n, 3)), np.int64(2))
    check(lambda n: T.ones(n), lambda n: np.ones(n), np.int8(2))
    check(lambda x: T.zeros(x.shape), np.zeros_like, normal(2, 3))
    check(lambda x: T.ones(x.shape[1:], "int8"), lambda x: np.ones(3, "int8"), normal(2, 3))
    check(lambda x: T.zeros((x.shape[0] + 1, *x.shape)), lambda x: np.zeros((3, 2, 3)), normal(2, 3))
    assert T.zeros((T.constant(2), 3)).type.shape == (2, 3)
    assert T.zeros(np.array([2, 3])).type.shape == (2, 3)
    for bad in (2.5, T.dscalar("x"), "a", [[1, 2]]):
        with pytest.raises(OstinatoTypeError):
            T.zeros(bad)
    with pytest.raises(OstinatoError):
        T.zeros((2, -1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_like_others(dtype: str) -> None:
    x = np.ones((2, 3), dtype)
    for name in ("zeros_like", "ones_like"):
        check(getattr(T, name), getattr(np, name), x)
        check(lambda x, n=name: getattr(T, n)(x, "int16"), lambda x, n=name: getattr(np, n)(x, "int16"), x)
    check(lambda x: x.zeros_like(), np.zeros_like, x)
    check(lambda x: x.ones_like("float32"), lambda x: np.ones_like(x, "float32"), x)
    check(lambda x: T.full_like(x, 1), lambda x: np.full_like(x, 1), x)
    check(lambda x: x.fill(1), lambda x: np.full_like(x, 1), x)
    check(lambda x: T.full_like(x, 1.5, "float32"), lambda x: np.full_like(x, 1.5, "float32"), x)


def test_full_and_alloc() -> None:
    check(lambda: T.full((2, 3), 1.5), lambda: np.full((2, 3), 1.5))
    check(lambda: T.full(2, 7), lambda: np.full(2, 7))
    check(lambda v: T.full((2,), v, "float32"), lambda v: np.full((2,), v, "float32"), np.float64(2))
    check(lambda v, n: T.alloc(v, n, 3), lambda v, n: np.full((n, 3), v), np.float32(2), np.int64(2))
    check(lambda v: T.alloc(v, 2, 3), lambda v: np.broadcast_to(v, (2, 3)), normal(3))
    check(lambda: T.alloc(0.0, (2, 3)), lambda: np.zeros((2, 3)))
    check(lambda: T.alloc(np.float32(1)), lambda: np.float32(1))
    with pytest.raises(OstinatoTypeError, match="full expects a scalar, got 'v'"):
        T.full((2, 3), T.dvector("v"))
    with pytest.raises(ShapeError, match="cannot broadcast"):
        T.alloc(np.ones(3), 2)


@pytest.mark.parametrize("k", [0, 1, -1, 3, -5])
def test_eye(k: int) -> None:
    for n, m in ((3, None), (2, 4), (4, 2), (0, 2), (1, 1)):
        check(lambda n=n, m=m: T.eye(n, m, k), lambda n=n, m=m: np.eye(n, m, k))
        check(lambda n=n, m=m: T.eye(n, m, k=k, dtype="int8"), lambda n=n, m=m: np.eye(n, m, k=k, dtype="int8"))
    check(lambda n, k: T.eye(n, 4, k), lambda n, k: np.eye(n, 4, k), np.int64(3), np.int64(k))
    check(lambda x: T.identity_like(x), lambda x: np.eye(2, 3, dtype="float32"), np.ones((2, 3), "float32"))
    check(lambda x: T.identity_like(x, "int8"), lambda x: np.eye(2, 3, dtype="int8"), np.ones((2, 3)))


RANGES: list[tuple[Any, ...]] = [
    (5,),
    (0,),
    (-3,),
    (2, 7),
    (7, 2),
    (2, 11, 3),
    (2, 12, 3),
    (10, 0, -1),
    (10, 0, -3),
    (10, 1, -3),
    (0, 10, -1),
    (5.0,),
    (0.5, 3.0),
    (0, 1, 0.1),
    (1.0, 0.0, -0.25),
    (1, 0, 0.5),
    (-128, 127, 100),
]


@pytest.mark.parametrize("given", RANGES, ids=str)
def test_arange(given: tuple[Any, ...]) -> None:
    check(lambda: T.arange(*given), lambda: np.arange(*given))
    check(lambda *bounds: T.arange(*bounds), lambda *bounds: np.arange(*given), *given)
    for dtype in ("float32", "int16", "float64", "int64"):
        if max(map(abs, given)) < 1000 and not (dtype[0] == "i" and any(isinstance(g, float) for g in given)):
            check(lambda d=dtype: T.arange(*given, dtype=d), lambda d=dtype: np.arange(*given, dtype=d))
    assert T.arange(*given).type.shape == np.arange(*given).shape


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(-5, 5).filter(bool), st.integers(0, 3))
@settings(max_examples=100)
def test_size_of_arange(start: int, stop: int, step: int, symbolic: int) -> None:
    """With none, one (stop), two, or all of the arguments symbolic."""

    def build(*bounds: Any) -> Any:
        chosen = [(), (1,), (0, 1), (0, 1, 2)][symbolic]
        return T.arange(*[bounds[i] if i in chosen else (start, stop, step)[i] for i in range(3)])

    check(build, np.arange, np.int64(start), np.int64(stop), np.int64(step))


def test_arange_from_variables() -> None:
    check(lambda x: T.arange(x.shape[0]), lambda x: np.arange(2), normal(2, 3))
    for dtype in ("int8", "uint8", "int32"):
        check(lambda n: T.arange(n), lambda n: np.arange(int(n)), np.array(3, dtype))
    check(lambda n: T.arange(n), lambda n: np.arange(n, dtype="float32"), np.float32(2.5))
    assert T.arange(0, T.fscalar("n"), 0.5).dtype == "float32"
    x = T.TensorType("float64", (4, None))("x")
    assert T.arange(x.shape[0]).type.shape == (4,)
    assert T.arange(x.shape[1]).shape[0] is x.shape[1]


def test_length_of_a_range_of_integers_is_exact() -> None:
    """NumPy computes it in floating point and makes one element less here."""
    expected = np.array([0, 2**52, 2**53])
    check(lambda n: T.arange(0, n, 2**52), lambda n: expected, np.int64(2**53 + 1))
    assert T.arange(0, 2**53 + 1, 2**52).type.shape == (3,)


def test_wrong_ranges_are_refused() -> None:
    with pytest.raises(OstinatoTypeError, match="arange expects scalars, got 'v'"):
        T.arange(T.lvector("v"))
    for zero in (0, 0.0):
        with pytest.raises(OstinatoValueError, match="the step cannot be 0"):
            T.arange(1, 5, zero)
        with pytest.raises(OstinatoValueError, match="the step cannot be 0"):
            evaluate(lambda s: T.arange(1, 5, s), zero)


# ---- what a variable is ---------------------------------------------------------------------------


def test_attributes() -> None:
    x = T.TensorType("float32", (None, 1, 3))("x")
    assert (x.dtype, x.ndim, x.broadcastable) == ("float32", 3, (False, True, False))
    assert x.owner is None
    assert T.exp(x).owner.inputs == (x,)
    assert x.shape.type == T.TensorType("int64", (3,))
    assert T.shape(x) is x.shape
    check(lambda x: x.shape, lambda x: np.array(x.shape), normal(2, 3))
    check(lambda x: x.size, lambda x: np.int64(x.size), normal(2, 3))
    check(lambda x: x.size, lambda x: np.int64(1), np.float64(2))
    x.tag.test_value = 3
    assert x.tag.test_value == 3


def test_names() -> None:
    x = T.scalar("x")
    assert x.name == "x"
    x.name = "y"
    assert (repr(x), str(x)) == ("y", "y")
    assert str(T.exp(x) + 1) == "(exp(y) + 1.)"


def test_shapes_unpack() -> None:
    rows, columns = T.dmatrix("x").shape
    check(lambda x: T.stack([*x.shape]), lambda x: np.array(x.shape), normal(2, 3))
    assert rows is not columns
    assert len(T.dmatrix("x").shape) == 2


def test_copies_are_the_variable_itself() -> None:
    x = T.scalar("x")
    assert x.copy() is copy.copy(x) is copy.deepcopy([x])[0] is T.identity(x) is +x is x


def test_eval() -> None:
    x, y = T.dscalars("x", "y")
    assert (x * y).eval({x: 2, y: 3.5}) == 7
    assert T.constant(2).eval() == 2
    assert (x * 2).eval({x: 2, y: 1}) == 4
    with pytest.raises(OstinatoError, match="'y'"):
        (x * y).eval({x: 2})


# ---- what it cannot do ----------------------------------------------------------------------------


def test_values_are_not_known_yet() -> None:
    x = T.dscalar("x")
    for decide in (bool, lambda v: 1 if v > 0 else 0, lambda v: v and 1, lambda v: not v, lambda v: 0 < v < 1):
        with pytest.raises(OstinatoTypeError, match="use where"):
            decide(x)
    for convert in (int, float, range, operator.index, lambda v: [1, 2][v], np.asarray, np.array):
        with pytest.raises(OstinatoTypeError, match=r"'x' .* has no value yet|has none yet"):
            convert(x)
    with pytest.raises(OstinatoTypeError, match="no elements yet"):
        _ = 1.0 in T.dvector("x")


def test_length_and_iteration() -> None:
    x, known, scalar = T.dvector("x"), T.TensorType("float64", (3,))("k"), T.dscalar("s")
    for v in (x, scalar):
        with pytest.raises(OstinatoTypeError, match="length of"):
            len(v)
        with pytest.raises(OstinatoTypeError, match=r"cannot be iterated over.*use scan"):
            iter(v)
        with pytest.raises(OstinatoTypeError, match="use scan"):
            sum(v)
    assert len(known) == 3
    a, b, c = known
    assert ostinato.function([known], a * b * c)(np.array([2.0, 3.0, 5.0])) == 30
    assert len([*T.zeros((2, 3))]) == 2


# ---- NumPy on the left ----------------------------------------------------------------------------

OPERATORS = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    operator.pow,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
]


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize(
    "left",
    [np.array([1.0, 2.0, 3.0]), np.float64(2), np.float32(2), np.int64(2), [1.0, 2.0, 3.0], 2, 2.5, True],
    ids=repr,
)
def test_values_on_the_left_make_variables(left: Any, op: Any) -> None:
    x = T.dvector("x")
    assert isinstance(op(left, x), T.TensorVariable)
    assert isinstance(op(x, left), T.TensorVariable)
    other = np.array(left) if isinstance(left, list) else left
    check(lambda x: op(left, x), lambda x: op(other, x), np.array([1.0, 2.0, 3.0]))
    check(lambda x: op(x, left), lambda x: op(x, other), np.array([1.0, 2.0, 3.0]))


def test_other_operators_on_the_left() -> None:
    x = np.array([5, 6, 7])
    for op in (operator.and_, operator.or_, operator.xor):
        check(lambda x, op=op: op(np.array([1, 2, 4]), x), lambda x, op=op: op(np.array([1, 2, 4]), x), x)
        check(lambda x, op=op: op(3, x), lambda x, op=op: op(3, x), x)
    check(lambda x: divmod(20, x)[0], lambda x: divmod(20, x)[0], x)
    check(lambda x: divmod(20, x)[1], lambda x: divmod(20, x)[1], x)
    check(lambda x: np.ones(3) @ x, lambda x: np.ones(3) @ x, x)
    check(abs, abs, -x)


def test_numpy_functions_are_refused() -> None:
    x = T.dvector("x")
    for function in (np.sum, np.mean, np.zeros_like, lambda x: np.dot(np.ones(2), x), lambda x: np.stack([x])):
        with pytest.raises(OstinatoTypeError, match=r"computes with values.*ostinato\.tensor"):
            function(x)
    with pytest.raises(TypeError):
        np.exp(x)


def test_foreign_operands_may_answer_themselves() -> None:
    class Foreign:
        def __radd__(self, other: Any) -> str:
            return "foreign"

    assert T.dvector("x") + Foreign() == "foreign"


# ---- names ----------------------------------------------------------------------------------------


def test_other_names() -> None:
    pairs = [
        ("abs_", "abs"),
        ("sgn", "sign"),
        ("switch", "where"),
        ("square", "sqr"),
        ("addbroadcast", "add_broadcast"),
        ("int_div", "floor_div"),
        ("round_", "round"),
        ("bitwise_or", "or_"),
        ("bitwise_not", "invert"),
        ("Variable", "TensorVariable"),
    ]
    for other, name in pairs:
        assert getattr(T, other) is getattr(T, name)


def test_public_functions_have_documentation() -> None:
    undocumented = [
        n for n in dir(T) if not n.startswith("_") and callable(getattr(T, n)) and not getattr(T, n).__doc__
    ]
    assert undocumented == []
