"""Functions that move elements without computing, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ostinato
import ostinato.tensor as T
from ostinato import OstinatoTypeError, OstinatoValueError, ShapeError
from support import DTYPES, check, check_gradient, evaluate, normal


@pytest.fixture(autouse=True)
def verified() -> Any:
    with ostinato.config.change_flags(verify=True):
        yield


A = np.arange(24.0).reshape(2, 3, 4)

# ---- dimshuffle and its kin -----------------------------------------------------------------------


@pytest.mark.parametrize("axes", [None, (0, 1, 2), (2, 0, 1), [1, 0, 2], (-1, 0, 1)], ids=str)
def test_transpose(axes: Any) -> None:
    check(lambda x: T.transpose(x, axes), lambda x: np.transpose(x, axes), A)
    check(lambda x: x.transpose(axes), lambda x: x.transpose(axes), A)
    if axes is not None:
        check(lambda x: x.transpose(*axes), lambda x: x.transpose(*axes), A)
    check_gradient(lambda x: T.transpose(x, axes) ** 2, A / 24, order=2)


def test_transpose_of_vectors_and_scalars() -> None:
    for x in (A, A[0], A[0, 0], A[0, 0, 0]):
        check(lambda x: x.T, lambda x: x.T, x)
        check(lambda x: x.transpose(), lambda x: x.transpose(), x)
    check(lambda x: x.transpose(0), lambda x: x.transpose(0), A[0, 0])
    check(lambda x: x.transpose(np.int64(1), np.int64(0)), lambda x: x.T, A[0])


@pytest.mark.parametrize("axes", [(0, 1), (0, 0, 1), (0, 1, 3), (0, 1, 2, 2)], ids=str)
def test_wrong_transposes_are_refused(axes: Any) -> None:
    with pytest.raises(OstinatoValueError, match=r"permutation|no dimension"):
        T.transpose(T.dtensor3("x"), axes)


def test_dimshuffle() -> None:
    check(lambda x: x.dimshuffle(1, "x", 0), lambda x: x.T[:, None], A[0])
    check(lambda x: x.dimshuffle(("x", 0)), lambda x: x[None], A[0, 0])
    check(lambda x: x.dimshuffle([0, "x"]), lambda x: x[:, None], A[0, 0])
    check(lambda x: x.dimshuffle("x", "x"), lambda x: x[None, None], A[0, 0, 0])
    check(lambda x: T.dimshuffle(x, 1), lambda x: x[0], A[:1, 0])
    check(lambda x: x.dimshuffle(1, 0).dimshuffle("x", 1, 0), lambda x: x[None], A[0])
    check(lambda x: x.dimshuffle(-1, "x", 0), lambda x: x.T[:, None], A[0])
    check_gradient(lambda x: x.dimshuffle("x", 1, 0) ** 3, normal(2, 3), order=2)
    check_gradient(lambda x: x.dimshuffle(1) ** 3, normal(1, 3), order=2)


def test_dropped_dimensions_have_size_1() -> None:
    with pytest.raises(ShapeError, match="cannot drop dimension 0 of 'x'"):
        T.TensorType("float64", (2, 3))("x").dimshuffle(1)
    with pytest.raises(ShapeError, match="size not equal to one"):
        evaluate(lambda x: x.dimshuffle(1), A[0])
    with pytest.raises(OstinatoValueError, match="takes a dimension twice"):
        T.dmatrix("x").dimshuffle(0, 0)
    with pytest.raises(OstinatoValueError, match="no dimension 2"):
        T.dmatrix("x").dimshuffle(0, 1, 2)
    with pytest.raises(OstinatoTypeError, match="a dimension is an int, not 'y'"):
        T.dmatrix("x").dimshuffle(0, 1, "y")


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 0), (-1, 0), (2, 2), (-2, -1)])
def test_swapaxes(a: int, b: int) -> None:
    check(lambda x: T.swapaxes(x, a, b), lambda x: np.swapaxes(x, a, b), A)
    check(lambda x: x.swapaxes(a, b), lambda x: x.swapaxes(a, b), A)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_expand_dims(axis: int) -> None:
    for function in (T.expand_dims, T.shape_padaxis):
        check(lambda x, f=function: f(x, axis), lambda x: np.expand_dims(x, axis), A[0])


@pytest.mark.parametrize("axis", [0, -1, (0,), (0, 2), [0, -1], np.int64(0)], ids=str)
def test_squeeze(axis: Any) -> None:
    given = tuple(axis) if isinstance(axis, list) else axis
    check(lambda x: T.squeeze(x, axis), lambda x: np.squeeze(x, given), A[:1, :, :1])
    check(lambda x: x.squeeze(axis), lambda x: x.squeeze(given), A[:1, :, :1])
    check_gradient(lambda x: T.squeeze(x, axis) ** 2, A[:1, :, :1] / 24)


def test_squeeze_of_what_is_known_to_be_1() -> None:
    x = T.TensorType("float64", (1, None, 1, 3))("x")
    assert x.squeeze().type.shape == (None, 3)
    with pytest.raises(ShapeError, match="cannot drop dimension 3"):
        x.squeeze(3)


def test_padding_of_shapes() -> None:
    for n in (0, 1, 3):
        check(lambda x, n=n: T.shape_padleft(x, n), lambda x, n=n: x.reshape((1,) * n + x.shape), A[0])
        check(lambda x, n=n: T.shape_padright(x, n), lambda x, n=n: x.reshape(x.shape + (1,) * n), A[0])
    assert T.shape_padleft(T.dvector("x")).broadcastable == (True, False)


# ---- reshape --------------------------------------------------------------------------------------

SHAPES = [(24,), (4, 6), (2, -1), (-1,), (-1, 2, 3), (1, 24, 1), (2, 3, 4), (4, 3, 2), 24, -1, [6, 4], (2, -1, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reshape(shape: Any) -> None:
    check(lambda x: T.reshape(x, shape), lambda x: np.reshape(x, shape), A)
    check(lambda x: x.reshape(shape), lambda x: x.reshape(shape), A)
    if isinstance(shape, tuple):
        check(lambda x: x.reshape(*shape), lambda x: x.reshape(*shape), A)
    check_gradient(lambda x: T.reshape(x, shape) ** 2, A / 24, order=2)


def test_reshape_to_symbolic_sizes() -> None:
    check(lambda x: x.reshape((x.shape[0], -1)), lambda x: x.reshape(2, 12), A)
    check(lambda x: x.reshape((x.shape[0] * x.shape[2], x.shape[1])), lambda x: x.reshape(8, 3), A)
    check(lambda x: x.reshape((-1, x.shape[2])), lambda x: x.reshape(6, 4), A)
    check(lambda x: x.reshape((x.shape[2], -1, x.shape[0])), lambda x: x.reshape(4, 3, 2), A)
    check(lambda x: x.reshape(x.shape[::-1]), lambda x: x.reshape(4, 3, 2), A)
    check(lambda x, y: x.reshape(y.shape), lambda x, y: x.reshape(y.shape), A, np.zeros((6, 4)))
    check(lambda x, n: x.reshape((n, -1)), lambda x, n: x.reshape(n, -1), A, np.int8(6))
    check(lambda x, n: x.reshape((n, 3, -1)), lambda x, n: x.reshape(n, 3, -1), A, np.int64(2))
    check_gradient(lambda x: x.reshape((x.shape[0], -1)) ** 2, A / 24)


def test_reshape_to_a_vector_of_sizes() -> None:
    sizes = np.array([4, 6])
    assert T.reshape(A, sizes).type.shape == (4, 6)
    check(lambda x, s: T.reshape(x, s, ndim=2), lambda x, s: x.reshape(s), A, sizes)
    check(lambda x, s: x.reshape(s, ndim=2), lambda x, s: x.reshape(s), A, sizes)
    check(lambda x, s: x.reshape(s, 2), lambda x, s: x.reshape(s), A, sizes)
    with pytest.raises(OstinatoTypeError, match="known length"):
        T.reshape(T.dvector("x"), T.lvector("s"))
    with pytest.raises(OstinatoValueError, match=r"2 dimension\(s\), not 3"):
        T.reshape(T.dvector("x"), (2, 3), ndim=3)


def test_reshape_of_little() -> None:
    check(lambda x: x.reshape(()), lambda x: x.reshape(()), np.ones((1, 1)))
    check(lambda x: x.reshape((1, 1)), lambda x: x.reshape(1, 1), np.float64(3))
    check(lambda x: x.reshape(-1), lambda x: x.reshape(-1), np.float64(3))
    check(lambda x: x.reshape((0, 5)), lambda x: x.reshape(0, 5), np.ones((2, 0)))
    check(lambda x: x.reshape((3, -1)), lambda x: x.reshape(3, -1), np.ones((2, 0)))
    check(lambda x: x.reshape((x.shape[0], -1)), lambda x: x.reshape(0, 6), np.ones((0, 2, 3)))


def test_static_shapes_of_reshapes() -> None:
    x = T.TensorType("float64", (2, 3, 4))("x")
    assert x.reshape((-1, 6)).type.shape == (4, 6)
    assert x.flatten(2).type.shape == (2, 12)
    y = T.TensorType("float64", (None, 3, 4))("y")
    assert y.reshape((y.shape[0], -1)).type.shape == (None, 12)


def test_wrong_reshapes_are_refused() -> None:
    x = T.TensorType("float64", (2, 3))("x")
    with pytest.raises(ShapeError, match=r"'x' .* has 6 elements, not 8"):
        x.reshape((2, 4))
    with pytest.raises(ShapeError, match="do not split into rows of 4"):
        x.reshape((-1, 4))
    with pytest.raises(OstinatoValueError, match="at most one size may be -1"):
        x.reshape((-1, -1))
    with pytest.raises(OstinatoValueError, match="-2"):
        x.reshape((-2, 3))
    for bad in ((2.5, 2), ("2", 3), (T.dscalar("n"), 2)):
        with pytest.raises(OstinatoTypeError):
            x.reshape(bad)
    with pytest.raises(ShapeError, match="cannot reshape array of size 24"):
        evaluate(lambda x: x.reshape((5, 5)), A)
    with pytest.raises(ShapeError, match="cannot reshape"):
        evaluate(lambda x: x.reshape((5, -1)), A)


@given(st.lists(st.integers(0, 4), max_size=4), st.integers(0, 4))
@settings(max_examples=60)
def test_flatten(shape: list[int], ndim: int) -> None:
    x = np.zeros(shape)
    if 1 <= ndim <= max(len(shape), 1):
        expected = x.reshape(*shape[: ndim - 1], int(np.prod(shape[ndim - 1 :])))
        check(lambda x: T.flatten(x, ndim), lambda x: expected, x)
        check(lambda x: x.flatten(ndim), lambda x: expected, x)
    check(lambda x: x.ravel(), np.ravel, x)


def test_wrong_flatten_is_refused() -> None:
    for ndim in (0, 3, -1):
        with pytest.raises(OstinatoValueError, match=f"cannot make {ndim} dimensions of 'x'"):
            T.flatten(T.dmatrix("x"), ndim)


# ---- concatenate, stack ---------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_concatenate(axis: int) -> None:
    parts = [np.take(A, i, axis) for i in ([0, 1], [], [1, 0, 1])]
    check(lambda *xs: T.concatenate(xs, axis), lambda *xs: np.concatenate(xs, axis), *parts)
    check(lambda *xs: T.concatenate(list(xs), axis=axis), lambda *xs: np.concatenate(xs, axis), *parts)
    check(lambda *xs: T.join(axis, *xs), lambda *xs: np.concatenate(xs, axis), *parts)
    check(lambda x: T.concatenate([x], axis), lambda x: x, A)
    check_gradient(lambda *xs: T.concatenate(xs, axis) ** 2, *[p[:, :2, :2] / 9 for p in parts], order=2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_concatenation_promotes(dtype: str) -> None:
    check(lambda x, y: T.concatenate([x, y]), lambda x, y: np.concatenate([x, y]), np.ones(2, dtype), np.ones(2, "i2"))
    check(lambda x, y: T.stack([x, y]), lambda x, y: np.stack([x, y]), np.ones(2, dtype), np.ones(2, "f4"))


def test_concatenation_of_arrays_and_lists() -> None:
    check(lambda x: T.concatenate([x, np.ones(2), [3.0]]), lambda x: np.concatenate([x, [1, 1, 3]]), np.zeros(2))
    check(lambda x: T.concatenate([[x, 1.0], [2 * x]]), lambda x: np.array([x, 1, 2 * x]), np.float64(3))


def test_static_shape_of_concatenations() -> None:
    x, y = T.TensorType("float64", (2, None))("x"), T.TensorType("float64", (3, 4))("y")
    assert T.concatenate([x, y]).type.shape == (5, 4)
    assert T.stack([y, y], axis=1).type.shape == (3, 2, 4)


def test_wrong_concatenations_are_refused() -> None:
    x, y, z = T.TensorType("float64", (2, 3))("x"), T.TensorType("float64", (2, 4))("y"), T.dvector("z")
    with pytest.raises(ShapeError, match=r"sizes along axis 1 differ: 'x' .*, 'y'"):
        T.concatenate([x, y])
    with pytest.raises(OstinatoTypeError, match=r"arrays like 'x' .* got 'z'"):
        T.concatenate([x, z])
    with pytest.raises(OstinatoTypeError, match="no dimension to join along"):
        T.concatenate([T.dscalar("s"), T.dscalar("t")])
    for bad in ([], (), z, 3):
        with pytest.raises(OstinatoTypeError, match="non-empty list or tuple"):
            T.concatenate(bad)
        with pytest.raises(OstinatoTypeError, match="non-empty list or tuple"):
            T.stack(bad)
    for axis in (1, -2):
        with pytest.raises(OstinatoValueError, match="no dimension"):
            T.concatenate([z, z], axis)
        with pytest.raises(OstinatoValueError, match="no dimension"):
            T.concatenate([z], axis)
    with pytest.raises(OstinatoTypeError, match="one rank"):
        T.stack([x, z])
    with pytest.raises(ShapeError, match=r"dimensions .* must match"):
        evaluate(lambda a, b: T.concatenate([a, b]), np.ones((2, 3)), np.ones((2, 4)))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_stack(axis: int) -> None:
    check(lambda x, y: T.stack([x, y], axis), lambda x, y: np.stack([x, y], axis), A[0], A[1])
    check(lambda x: T.stack([x], axis), lambda x: np.stack([x], axis), A[0])
    check_gradient(lambda x, y: T.stack([x, y], axis) ** 2, A[0] / 24, A[1] / 24)


def test_stack_of_scalars_and_numbers() -> None:
    check(lambda x: T.stack([x, 1, 2.5]), lambda x: np.array([x, 1, 2.5], "float32"), np.float32(3))
    check(lambda x: T.as_tensor_variable([[x, 1], [0, x]]), lambda x: np.array([[x, 1], [0, x]]), np.float64(3))


def test_stacks_of_matrices() -> None:
    check(T.horizontal_stack, lambda *xs: np.hstack(xs), A[0], A[1][:, :2])
    check(T.vertical_stack, lambda *xs: np.vstack(xs), A[0], A[1][:2])
    with pytest.raises(OstinatoTypeError, match="expected 2 dimensions"):
        T.horizontal_stack(T.dvector("x"), T.dvector("y"))


# ---- repeat, tile, roll, flip ---------------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_repeat(axis: int | None) -> None:
    for n in (0, 1, 3):
        check(lambda x, n=n: T.repeat(x, n, axis), lambda x, n=n: np.repeat(x, n, axis), A)
        check(lambda x, n: x.repeat(n, axis), lambda x, n: x.repeat(n, axis), A, np.int64(n))
    check_gradient(lambda x: T.repeat(x, 2, axis) ** 2, A[:, :2, :2] / 24, order=2)
    counts = np.arange(24 if axis is None else A.shape[axis]) % 3
    check(lambda x: T.repeat(x, counts, axis), lambda x: np.repeat(x, counts, axis), A)
    check(lambda x, n: T.repeat(x, n, axis), lambda x, n: np.repeat(x, n, axis), A, counts.astype("int8"))
    check(lambda x, n: T.repeat(x, n, axis), lambda x, n: np.repeat(x, n, axis), A, np.array([2]))
    check_gradient(lambda x, n: T.repeat(x, n, axis) ** 2, A / 24, counts)


def test_repeat_of_nothing() -> None:
    check(lambda x, n: T.repeat(x, n), lambda x, n: np.repeat(x, n), np.zeros(0), np.zeros(0, int))
    check(lambda x, n: T.repeat(x, n), lambda x, n: np.repeat(x, n), np.ones(3), np.zeros(3, int))
    with pytest.raises(OstinatoTypeError, match="repeats expects integers"):
        T.repeat(T.dvector("x"), T.dvector("n"))


@pytest.mark.parametrize("reps", [0, 2, (2,), (3, 1), (1, 2, 3), (2, 1, 1, 2)], ids=str)
def test_tile(reps: Any) -> None:
    for x in (A, A[0], A[0, 0]):
        check(lambda x: T.tile(x, reps), lambda x: np.tile(x, reps), x)
    check_gradient(lambda x: T.tile(x, reps) ** 2, A[0, :2, :2] / 24, order=2)


def test_tile_with_symbolic_counts() -> None:
    check(lambda x, n: T.tile(x, (n, 1)), lambda x, n: np.tile(x, (n, 1)), A[0], np.int64(3))
    check(lambda x, n: T.tile(x, n), lambda x, n: np.tile(x, n), A[0], np.int64(2))
    check(lambda x: T.tile(x, 2, ndim=3), lambda x: np.tile(x, (1, 1, 2)), A[0])


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("shift", [0, 1, -1, 3, -7, 100])
def test_roll(shift: int, axis: int | None) -> None:
    check(lambda x: T.roll(x, shift, axis), lambda x: np.roll(x, shift, axis), A)
    check(lambda x, s: T.roll(x, s, axis), lambda x, s: np.roll(x, s, axis), A, np.int64(shift))


def test_roll_of_little() -> None:
    check(lambda x: T.roll(x, 2, 1), lambda x: np.roll(x, 2, 1), np.zeros((2, 0)))
    check(lambda x, s: T.roll(x, s), lambda x, s: np.roll(x, int(s)), A[0, 0], np.uint8(1))
    check_gradient(lambda x: T.roll(x, 1, 1) ** 2, A[0] / 24, order=2)


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), ()], ids=str)
def test_flip(axis: Any) -> None:
    check(lambda x: T.flip(x, axis), lambda x: np.flip(x, axis), A)
    check_gradient(lambda x: T.flip(x, axis) ** 2, A / 24)


# ---- broadcasts and declared sizes ----------------------------------------------------------------


def test_broadcast_to() -> None:
    row = A[0, :1]
    check(lambda x: T.broadcast_to(x, (3, 4)), lambda x: np.broadcast_to(x, (3, 4)), row)
    check(lambda x: T.broadcast_to(x, (2, 3, 4)), lambda x: np.broadcast_to(x, (2, 3, 4)), row)
    check(lambda x, n: T.broadcast_to(x, (n, 4)), lambda x, n: np.broadcast_to(x, (n, 4)), row, np.int64(0))
    check(lambda x, y: T.broadcast_to(x, y.shape), lambda x, y: np.broadcast_to(x, y.shape), row, A)
    check_gradient(lambda x: T.broadcast_to(x, (2, 3, 4)) ** 2, row / 4, order=2)
    with pytest.raises(ShapeError, match="cannot broadcast 'x'"):
        T.broadcast_to(T.TensorType("float64", (3,))("x"), (4,))


def test_specify_shape() -> None:
    x = T.dmatrix("x")
    known = T.specify_shape(x, (2, None))
    assert known.type.shape == (2, None)
    assert T.specify_shape(known, (None, None)) is known
    check(lambda x: T.specify_shape(x, (3, None)), lambda x: x, A[0])
    check(lambda x, y: T.specify_shape(x, y.shape), lambda x, y: x, A[0], A[1])
    check_gradient(lambda x: T.specify_shape(x, (3, None)) ** 2, A[0] / 24, order=2)
    with pytest.raises(ShapeError, match=r"expected shape \(2, 4\), got \(3, 4\)"):
        ostinato.function([x], known)(A[0])
    with pytest.raises(ShapeError, match="cannot have shape"):
        T.specify_shape(known, (3, 4))
    with pytest.raises(ShapeError, match="2 dimension"):
        T.specify_shape(x, (3,))


def test_declared_broadcasts() -> None:
    x = T.dmatrix("x")
    row = T.addbroadcast(x, 0)
    assert row.broadcastable == (True, False)
    assert T.patternbroadcast(x, (False, True)).broadcastable == (False, True)
    assert T.unbroadcast(row, 0) is row
    np.testing.assert_array_equal(ostinato.function([x], row)(A[0, :1]), A[0, :1])
    with pytest.raises(ShapeError, match=r"expected shape \(1, 4\), got \(3, 4\)"):
        ostinato.function([x], row)(A[0])
