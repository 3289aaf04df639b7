"""Shared variables: making them, reading and replacing their values."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from ostinato import SharedVariable, function, shared
from ostinato.graph import Node

# ---- making ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dtype", "shape"),
    [
        (0, "int64", ()),
        (0.5, "float64", ()),
        (True, "bool", ()),
        (2**63, "uint64", ()),
        (np.float32(0.5), "float32", ()),
        ([1, 2], "int64", (2,)),
        ([[1.0], [2.0]], "float64", (2, 1)),
        (np.zeros((2, 0), "int8"), "int8", (2, 0)),
        (np.arange(3.0).astype(">f4"), "float32", (3,)),
        ([], "float64", (0,)),
    ],
)
def test_type_and_value(value: Any, dtype: str, shape: tuple[int, ...]) -> None:
    s = shared(value, "s")
    assert isinstance(s, SharedVariable)
    assert (s.name, s.dtype, s.ndim, s.type.shape) == ("s", dtype, len(shape), (None,) * len(shape))
    got = s.get_value()
    assert type(got) is np.ndarray
    assert (got.dtype, got.shape) == (np.dtype(dtype), shape)
    np.testing.assert_array_equal(got, value)


def test_dtype_does_not_depend_on_floatX() -> None:
    with ostinato.config.change_flags(floatX="float32"):
        assert shared(0.5).dtype == "float64"
        assert shared(np.zeros(2)).dtype == "float64"


def test_two_shared_variables_are_never_the_same() -> None:
    a, b = shared(0.0, "s"), shared(0.0, "s")
    assert a is not b
    assert a != b
    function([], updates={a: a + 1})()
    assert (float(a.get_value()), float(b.get_value())) == (1, 0)


def test_sizes_that_stay() -> None:
    s = shared(np.ones((1, 3)), broadcastable=(True, False))
    assert s.broadcastable == (True, False)
    x = T.matrix("x")
    assert function([x], x * s)(np.ones((2, 3))).shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: shared(None, "s"), "the value of 's': expected numbers, got None of type NoneType"),
        (lambda: shared("abc"), "the value of a shared variable: expected numbers, got 'abc' of type str"),
        (lambda: shared([[1], [1, 2]]), "got a value of type list that is no array"),
        (lambda: shared(1j), "got an array of dtype complex128; there is bool"),
        (lambda: shared(10**30, "s"), "which no integer dtype holds"),
        (lambda: shared(T.scalar("x"), "s"), "the value of 's': expected numbers, got the symbolic x; evaluate it"),
        (lambda: shared(shared(1.0, "r")), "got the symbolic r"),
        (lambda: shared(1.0, 2.0), "the name of a shared variable is a string, not 2.0"),
        (
            lambda: shared(np.ones((2, 3)), "s", broadcastable=(True, False)),
            "the value of 's' with broadcastable=(True, False): expected float64[1, ?], got float64[2, 3]; "
            "dimension 0 has size 2 instead of 1",
        ),
        (lambda: shared(np.ones(3), broadcastable=(False, False)), "it has 1 dimension(s) instead of 2"),
    ],
)
def test_what_cannot_be_shared(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ostinato.OstinatoTypeError) as caught:
        make()
    assert message in str(caught.value)
    assert isinstance(caught.value, TypeError)


# ---- copies and borrowing -------------------------------------------------------------------------


def test_the_first_value_is_a_copy() -> None:
    start = np.zeros(3)
    s = shared(start)
    start += 1
    assert s.get_value().tolist() == [0, 0, 0]


def test_the_first_value_borrowed() -> None:
    start = np.zeros(3)
    s = shared(start, borrow=True)
    start += 1
    assert s.get_value(borrow=True) is start
    assert function([], s.sum())() == 3


def test_get_value_is_a_copy() -> None:
    s = shared(np.zeros(3))
    s.get_value()[:] = 5
    assert s.get_value().tolist() == [0, 0, 0]
    assert s.get_value(borrow=False, return_internal_type=True) is not s.get_value()


def test_get_value_borrowed() -> None:
    s = shared(np.zeros(3))
    s.get_value(borrow=True)[:] = 5
    assert s.get_value().tolist() == [5, 5, 5]
    assert s.get_value(borrow=True, return_internal_type=True) is s.get_value(borrow=True)


def test_set_value_takes_a_copy() -> None:
    s, new = shared(np.zeros(3)), np.ones(2)
    s.set_value(new)
    new[:] = 5
    assert s.get_value().tolist() == [1, 1]


def test_set_value_borrowed() -> None:
    s, new = shared(np.zeros(3)), np.ones(2)
    s.set_value(new, borrow=True)
    assert s.get_value(borrow=True) is new


def test_a_value_set_from_a_read_only_array_can_be_written() -> None:
    new = np.ones(2)
    new.flags.writeable = False
    s = shared(new)
    s.set_value(new)
    s.get_value(borrow=True)[:] = 5
    assert new.tolist() == [1, 1]


def test_updates_do_not_write_into_a_borrowed_array() -> None:
    start = np.zeros(3)
    s = shared(start, borrow=True)
    function([], updates={s: s + 1})()
    assert start.tolist() == [0, 0, 0]
    assert s.get_value().tolist() == [1, 1, 1]


# ---- set_value ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "new", "expected"),
    [
        (np.zeros(3), np.ones((5,)), [1.0] * 5),
        (np.zeros(3), [1, 2], [1.0, 2.0]),
        (np.zeros(3), np.ones(2, "float32"), [1.0, 1.0]),
        (np.zeros(3), [], []),
        (np.zeros(2, "float32"), [0.5, 0.1], [0.5, float(np.float32(0.1))]),
        (np.float32(0), 0.1, float(np.float32(0.1))),
        (np.int8(0), 100, 100),
        (np.int8(0), np.int64(100), 100),
        (np.bool_(False), 1, True),
        (np.zeros((2, 2)), np.ones((0, 3)).T, [[], [], []]),
        (0.0, np.array(2.0), 2.0),
    ],
)
def test_set_value(start: Any, new: Any, expected: Any) -> None:
    s = shared(start)
    s.set_value(new)
    assert s.get_value().dtype == np.asarray(start).dtype
    assert s.get_value().tolist() == expected
    assert function([], s)().tolist() == expected


@pytest.mark.parametrize(
    ("start", "new", "message"),
    [
        (np.zeros(3), 1.0, "expected float64[?], got 1.0 of dtype float64; it has 0 dimension(s) instead of 1"),
        (np.zeros(3), np.zeros((1, 3)), "expected float64[?], got float64[1, 3]; it has 2 dimension(s) instead of 1"),
        (np.zeros(3, "float32"), np.zeros(3), "expected float32[?], got float64[3], which may lose precision"),
        (np.zeros(3, "float32"), np.arange(3) + 2**24, "got int64[3], which may lose precision as float32"),
        (np.int8(0), 128, "expected int8, got 128 of dtype int64, out of the range of int8"),
        (np.zeros(2, "int8"), [1, -129], "got int64[2], which holds -129, out of the range of int8"),
        (np.int64(0), 0.5, "expected int64, got 0.5 of dtype float64, which may lose precision as int64"),
        (np.bool_(0), 2, "expected bool, got 2 of dtype int64"),
        (np.zeros(2), "ab", "expected float64[?], got 'ab' of type str"),
        (np.zeros(2), None, "expected float64[?], got None of type NoneType"),
        (np.zeros(2), T.vector("x"), "expected float64[?], got the symbolic variable x, which has no value"),
    ],
)
def test_a_failed_set_value_leaves_the_value(start: Any, new: Any, message: str) -> None:
    s = shared(start, "s")
    before = s.get_value(borrow=True)
    with pytest.raises(ostinato.OstinatoTypeError) as caught:
        s.set_value(new)
    assert str(caught.value).startswith("the new value of 's' (test_shared.py:")
    assert message in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert s.get_value(borrow=True) is before
    np.testing.assert_array_equal(before, start)


def test_the_message_says_how_to_convert() -> None:
    s = shared(np.zeros(3, "float32"), "s")
    with pytest.raises(TypeError, match=r"convert it by np.asarray\(value\).astype\('float32'\)$"):
        s.set_value(np.zeros(3))


def test_a_size_that_stays_is_checked() -> None:
    s = shared(np.ones((1, 3)), broadcastable=(True, False))
    s.set_value(np.ones((1, 5)))
    with pytest.raises(TypeError, match=r"expected float64\[1, \?\], got float64\[2, 3\]"):
        s.set_value(np.ones((2, 3)))
    assert s.get_value().shape == (1, 5)


def test_strict() -> None:
    s = shared(np.zeros(2, "float32"), strict=True)
    s.set_value(np.ones(2, "float32"))
    with pytest.raises(TypeError, match="expected an array of exactly float32"):
        s.set_value([5.0, 5.0])
    assert s.get_value().tolist() == [1, 1]


def test_allow_downcast() -> None:
    s = shared(np.zeros(2, "float32"), allow_downcast=True)
    s.set_value(np.array([0.1, 1.0]))
    assert s.get_value().tolist() == [float(np.float32(0.1)), 1]
    never = shared(np.zeros(2, "float32"), allow_downcast=False)
    with pytest.raises(TypeError, match="may lose precision"):
        never.set_value([0.1, 1.0])


# ---- in graphs ------------------------------------------------------------------------------------


def test_a_function_reads_the_value_at_each_call() -> None:
    s = shared(1.0)
    double = function([], 2 * s)
    assert double() == 2
    s.set_value(5)
    assert double() == 10
    s.get_value(borrow=True)[...] = 6
    assert double() == 12


def test_gradients() -> None:
    s, x = shared(np.array([2.0, 3.0])), T.vector("x")
    assert function([x], T.grad((s**2 * x).sum(), s))([1.0, 10.0]).tolist() == [4, 60]


def test_descent() -> None:
    w, x, y = shared(np.zeros(2), "w"), T.matrix("x"), T.vector("y")
    loss = ((x.dot(w) - y) ** 2).sum()
    train = function([x, y], loss, updates=[(w, w - 0.1 * T.grad(loss, w))])
    data, target = np.eye(2), np.array([1.0, -2.0])
    losses = [float(train(data, target)) for _ in range(50)]
    assert losses[0] == 5
    assert all(after < before for before, after in itertools.pairwise(losses))
    np.testing.assert_allclose(w.get_value(), target, atol=1e-4)


def test_in_a_step_as_it_is_in_a_sequence_and_in_an_initial_value() -> None:
    x, h0, w = shared(np.arange(3.0)), shared(10.0), shared(2.0)
    h, updates = ostinato.scan(lambda v, h: h * w + v, x, h0)
    assert updates == {}
    f = function([], h)
    assert f().tolist() == [20, 41, 84]
    w.set_value(1.0)
    x.set_value([1.0])
    assert f().tolist() == [11]


def test_a_copy_is_the_variable_itself() -> None:
    s = shared(0.0)
    assert copy.copy(s) is s
    assert copy.deepcopy([s])[0] is s
    assert isinstance(s, Node)


def test_a_variable_is_not_pickled() -> None:
    with pytest.raises(TypeError, match="symbolic variables cannot be pickled"):
        pickle.dumps(shared(0.0))
