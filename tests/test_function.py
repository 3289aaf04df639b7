"""`function`: what goes in, what comes out, updates, replacements; arguments of every kind; threads."""

from __future__ import annotations

import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from ostinato import In, Out, function, shared


@pytest.fixture(autouse=True, params=[False, True], ids=["", "verify"])
def _verified(request: pytest.FixtureRequest) -> Iterator[None]:
    with ostinato.config.change_flags(verify=request.param):
        yield


def assert_equal(got: Any, expected: Any) -> None:
    """Same dtype, shape and values; NaN equals NaN."""
    assert type(got) is np.ndarray
    assert got.dtype == np.asarray(expected).dtype
    np.testing.assert_array_equal(got, expected, strict=True)


# ---- the form of inputs and outputs ---------------------------------------------------------------


def test_one_output() -> None:
    x = T.vector("x")
    assert_equal(function([x], 2 * x)([1, 2]), np.array([2.0, 4.0]))


def test_a_scalar_is_an_array_of_no_dimensions() -> None:
    x = T.scalar("x")
    assert_equal(function([x], x + 1)(2), np.array(3.0))


@pytest.mark.parametrize("form", [list, tuple])
def test_a_list_of_outputs(form: Callable[[Any], Any]) -> None:
    x, y = T.scalars("x", "y")
    got = function(form([x, y]), form([x + y, x - y]))(5, 3)
    assert type(got) is list
    assert [float(g) for g in got] == [8, 2]


def test_a_list_of_one_or_no_output_stays_a_list() -> None:
    x = T.scalar("x")
    assert [float(g) for g in function([x], [x])(5)] == [5]
    assert function([], [])() == []


def test_a_dict_of_outputs_keeps_its_order() -> None:
    x = T.scalar("x")
    got = function([x], {"twice": 2 * x, "once": x, "none": T.constant(0)})(5)
    assert type(got) is dict
    assert list(got) == ["twice", "once", "none"]
    assert [float(g) for g in got.values()] == [10, 5, 0]


def test_no_output() -> None:
    total, x = shared(0.0), T.scalar("x")
    add = function([x], updates={total: total + x})
    assert add(5) is None
    assert total.get_value() == 5


def test_outputs_may_be_wrapped() -> None:
    x = T.scalar("x")
    assert function([In(x)], Out(x + 1, borrow=True))(5) == 6


def test_outputs_may_be_values() -> None:
    assert_equal(function([], [1.5, np.arange(3, dtype="int8")])()[1], np.arange(3, dtype="int8"))


def test_the_same_output_several_times() -> None:
    x = T.vector("x")
    for got in function([x], [x + 1, x, x + 1, x])([1.0]):
        got += 10  # each is an array of its own
    assert [g.tolist() for g in function([x], [x + 1, x, x + 1, x])([1.0])] == [[2], [1], [2], [1]]


def test_order_of_inputs_is_that_of_the_list() -> None:
    x, y = T.scalars("x", "y")
    assert function([y, x], x - y)(1, 10) == 9


def test_inputs_may_share_a_value() -> None:
    x, y = T.vectors("x", "y")
    a = np.arange(3.0)
    assert_equal(function([x, y], x * y)(a, a), a * a)


def test_names_of_a_function() -> None:
    x, y = T.scalar("x"), T.fmatrix()
    assert str(function([x, y], x + y.sum(), name="total")) == "total(x, float32[?, ?])"
    assert repr(function([x], x)) == "<ostinato function(x)>"


# ---- keyword arguments, defaults ------------------------------------------------------------------


def test_keyword_arguments() -> None:
    x, y, z = T.scalars("x", "y", "z")
    f = function([x, y, z], 100 * x + 10 * y + z)
    assert f(1, 2, 3) == f(1, 2, z=3) == f(z=3, x=1, y=2) == f(1, z=3, y=2) == 123


def test_a_name_of_its_own() -> None:
    x, y = T.scalars("x", "y")
    f = function([In(x, name="left"), y], x - y)
    assert f(left=5, y=2) == f(5, y=2) == 3
    with pytest.raises(TypeError, match="there is no input named 'x'; there is 'left', 'y'"):
        f(x=5, y=2)


def test_inputs_of_one_name_are_given_by_position() -> None:
    first, second, y = T.scalar("x"), T.scalar("x"), T.scalar("y")
    given = [In(first), In(second), y]
    f = function(given, first - second + y)
    assert f(5, 3, y=1) == 3
    with pytest.raises(TypeError, match="several inputs are named 'x'; give them by position"):
        f(5, x=3, y=1)
    assert [i.name for i in given[:2]] == ["x", "x"]  # what the user passed is left alone
    assert function(given[1:], second + y)(x=1, y=2) == 3


def test_defaults() -> None:
    x, y, z = T.scalars("x", "y", "z")
    f = function([x, In(y, value=2), In(z, value=3.5)], [x, y, z])
    assert [float(v) for v in f(1)] == [1, 2, 3.5]
    assert [float(v) for v in f(1, 5)] == [1, 5, 3.5]
    assert [float(v) for v in f(1, z=5)] == [1, 2, 5]
    assert [float(v) for v in f(1, None, 5)] == [1, 2, 5]


def test_a_default_before_an_input_without() -> None:
    x, y = T.scalars("x", "y")
    assert function([In(x, value=2), y], x - y)(y=1) == 1


def test_a_default_is_taken_as_it_was() -> None:
    x = T.vector("x")
    start = np.zeros(3)
    f = function([In(x, value=start)], x)
    start += 1
    f()[:] = 7
    assert f().tolist() == [0, 0, 0]


def test_a_default_is_checked_when_the_function_is_made() -> None:
    x = T.vector("x")
    with pytest.raises(
        TypeError, match=r"default value of input 0 'x' \(test_function.py:\d+\): expected float64\[\?\]"
    ):
        function([In(x, value=3.0)], x)


# ---- inner variables as inputs --------------------------------------------------------------------


def test_an_inner_variable_as_input() -> None:
    x = T.vector("x")
    square = x**2
    assert_equal(function([square], square + 1)([3.0]), np.array([4.0]))
    assert_equal(function([x, square], x + square)([3.0], [10.0]), np.array([13.0]))


def test_inner_variables_of_each_other() -> None:
    x = T.scalar("x")
    y = x + 1
    z = y * 2
    assert function([x, y, z], [x, y, z])(1, 10, 100) == [1, 10, 100]
    assert function([y], z)(10) == 20


def test_an_inner_variable_that_a_loop_uses() -> None:
    x, scale = T.vector("x"), T.scalar("scale")
    factor = T.exp(scale)
    factor.name = "factor"
    y, _ = ostinato.scan(lambda v, h: h + v * factor, x, T.constant(0.0))
    assert function([x, factor], y)([1.0, 2.0], factor=3.0).tolist() == [3, 9]


def test_the_output_of_a_loop_as_input() -> None:
    x = T.vector("x")
    sums, _ = ostinato.scan(lambda v, h: h + v, x, T.constant(0.0))
    assert function([sums], sums[-1] + sums[0])([1.0, 5.0]) == 6


# ---- missing, unused, surplus ---------------------------------------------------------------------


def test_all_missing_inputs_are_named() -> None:
    x, y, z = T.vector("x"), T.fmatrix("y"), T.scalar("z")
    with pytest.raises(ostinato.MissingInputError) as caught:
        function([z], x.sum() + y.sum() + z)
    assert isinstance(caught.value, ValueError)
    for name, type_ in (("x", "float64[?]"), ("y", "float32[?, ?]")):
        assert f"'{name}' of type {type_} (test_function.py:" in str(caught.value)
    assert "'z'" not in str(caught.value)


def test_a_missing_input_of_an_update() -> None:
    x = T.scalar("x")
    with pytest.raises(ostinato.MissingInputError, match="'x' of type float64"):
        function([], updates={shared(0.0): x})


def test_a_variable_of_a_step_is_no_variable_of_the_outside() -> None:
    leaked, x = [], T.vector("x")

    def step(v: Any) -> Any:
        leaked.append(2 * v)
        return v

    ostinato.scan(step, x)
    with pytest.raises(ostinato.MissingInputError, match=r"'x\[t\]' of type float64"):
        function([x], leaked[0], on_unused_input="ignore")


def test_unused_inputs_raise() -> None:
    x, y, z = T.scalars("x", "y", "z")
    for options in ({}, {"on_unused_input": "raise"}):
        with pytest.raises(ostinato.UnusedInputError) as caught:
            function([x, y, z], y, **options)
        assert isinstance(caught.value, ValueError)
        assert "'x' of type float64 (test_function.py:" in str(caught.value)
        assert "'z' of type float64 (test_function.py:" in str(caught.value)
        assert "'y'" not in str(caught.value)
        assert "on_unused_input='ignore'" in str(caught.value)


def test_unused_inputs_warn() -> None:
    x, y = T.scalars("x", "y")
    with pytest.warns(UserWarning, match="nothing depends on input 'x' of type float64") as caught:
        f = function([x, y], y, on_unused_input="warn")
    assert caught[0].filename == __file__  # the user's line, not one of the library
    assert f(1, 2) == 2


def test_unused_inputs_ignored() -> None:
    x, y = T.scalars("x", "y")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f = function([x, y], y, on_unused_input="ignore")
    assert f(1, 2) == f(y=2, x=1) == 2
    with pytest.raises(TypeError, match="missing input 0: 'x'"):
        f(y=2)


def test_an_input_that_only_an_update_needs_is_used() -> None:
    x, s = T.scalar("x"), shared(0.0)
    assert function([x], T.constant(1.0), updates={s: x})(5) == 1
    assert s.get_value() == 5


def test_all_that_is_wrong_with_arguments_is_told_at_once() -> None:
    x, y, n, m = T.vector("x"), T.fmatrix("y"), T.iscalar("n"), T.scalar("m")
    f = function([x, y, n, m], [x, y, n, m], name="f")
    with pytest.raises(ostinato.OstinatoTypeError) as caught:
        f(np.ones((2, 2)), np.ones((2, 2)), n=2.5, q=1)
    assert isinstance(caught.value, TypeError)
    lines = str(caught.value).splitlines()
    assert lines[0] == "f(x, y, n, m): "
    told = [
        "  - there is no input named 'q'; there is 'x', 'y', 'n', 'm'",
        "  - input 0 'x' (test_function.py:", "expected float64[?], got float64[2, 2]; it has 2 dimension(s)",
        "  - input 1 'y' (test_function.py:", "expected float32[?, ?], got float64[2, 2], which may lose precision",
        "  - input 2 'n' (test_function.py:", "expected int32, got 2.5 of dtype float64",
        "  - missing input 3: 'm' of type float64 (test_function.py:",
    ]  # fmt: skip
    assert len(lines) == 6
    for part in told:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f(), "missing input 0: 'x' of type float64"),
        (lambda f: f(1, 2, 3), r"expected at most 2 argument\(s\), got 3"),
        (lambda f: f(1, 2, x=1), "input 'x' is given twice"),
        (lambda f: f(1, 2, y=1), "input 'y' is given twice"),
        (lambda f: f(1, 2, Y=1), "there is no input named 'Y'; there is 'x', 'y'"),
        (lambda f: f(1, None), "missing input 1: 'y'"),
    ],
)
def test_wrong_calls(call: Callable[[Any], Any], message: str) -> None:
    x, y = T.scalars("x", "y")
    with pytest.raises(ostinato.OstinatoTypeError, match=message):
        call(function([x, y], x + y))


def _s() -> Any:
    return shared(0.0, "s")


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda x, y: function(x, x), TypeError, r"expects a list of inputs, got x; write \[x\]"),
        (lambda x, y: function({x: y}, x), TypeError, "expects a list of inputs"),
        (lambda x, y: function("x", x), TypeError, "expects a list of inputs, got 'x'"),
        (lambda x, y: function([[x, y]], x), TypeError, r"an input is a symbolic variable, not \[x, y\]"),
        (lambda x, y: function([x, 3.0], x), TypeError, "an input is a symbolic variable, not 3.0"),
        (lambda x, y: function([x, y, x], x + y), TypeError, "'x' of type float64.* is listed twice"),
        (lambda x, y: function([T.constant(3.0)], x), TypeError, "is a shared variable or a constant"),
        (lambda x, y: function([x, _s()], x), TypeError, "'s' of type float64 .*see givens"),
        (lambda x, y: function([x], [x, None]), TypeError, "output 1: expected a symbolic variable.*got None"),
        (lambda x, y: function([x], {"a": x, "b": "c"}), TypeError, "output 'b': expected a symbolic .*got 'c'"),
        (lambda x, y: function([x], {1: x}), TypeError, "keys of a dict of outputs are strings, not 1"),
        (lambda x, y: function([x], Out("c")), TypeError, "an output: expected a symbolic variable"),
        (lambda x, y: function([x], x, on_unused_input="no"), ValueError, "'raise', 'warn' or 'ignore', not 'no'"),
        (lambda x, y: function([x], x, mode="fast"), ValueError, "there is no mode 'fast'; there is"),
        (lambda x, y: function([x], x, updates=_s()), TypeError, "expected a mapping or a list of pairs, got s"),
        (lambda x, y: function([x], x, updates=[(_s(), x, y)]), TypeError, "expected a mapping or a list of pairs"),
        (lambda x, y: function([x], x, updates={y: x}), TypeError, "only shared variables have updates, not 'y'"),
        (lambda x, y: function([x], x, updates={"s": x}), TypeError, "only shared variables have updates, not 's'"),
        (lambda x, y: function([x], x, updates={_s(): None}), TypeError, "update of 's' of type float64.*got None"),
        (lambda x, y: function([x], x, givens={"x": y}), TypeError, "givens replaces variables, not 'x'"),
        (lambda x, y: function([x], x, givens=[(x, y), (x, x)]), ValueError, "'x' of type float64.*two replacements"),
        (lambda x, y: function([x], x, givens={x: None}), TypeError, "replacement of 'x'.*got None"),
        (lambda x, y: In(x, values=3), TypeError, "In: unknown option values"),
        (lambda x, y: In(x, update=3), TypeError, r"unknown option update; a state belongs into shared\(\)"),
        (lambda x, y: In("x"), TypeError, "an input is a symbolic variable, not 'x'"),
    ],
)  # fmt: skip
def test_wrong_functions(make: Callable[[Any, Any], Any], kind: type[Exception], message: str) -> None:
    x, y = T.scalars("x", "y")
    with pytest.raises(kind, match=message) as caught:
        make(x, y)
    assert isinstance(caught.value, ostinato.OstinatoError)


def test_theanos_options_are_accepted() -> None:
    x = T.scalar("x")
    f = function(
        [In(x, borrow=True, mutable=True)], x, no_default_updates=True, accept_inplace=True, rebuild_strict=False,
        profile=True, mode="FAST_RUN",
    )  # fmt: skip
    assert f(1) == 1


# ---- updates --------------------------------------------------------------------------------------

FORMS: dict[str, Callable[[list[tuple[Any, Any]]], Any]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "list of tuples": list,
    "list of lists": lambda pairs: [list(p) for p in pairs],
    "tuple": tuple,
    "iterator": iter,
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_updates(form: str) -> None:
    a, b, x = shared(1.0), shared(np.zeros(2)), T.scalar("x")
    f = function([x], a, updates=FORMS[form]([(a, a + x), (b, b + a)]))
    assert [float(f(10)), float(f(10))] == [1, 11]
    assert a.get_value() == 21
    assert b.get_value().tolist() == [12, 12]


def test_updates_see_the_old_values() -> None:
    a, b = shared(1.0), shared(2.0)
    function([], updates={a: b, b: a})()
    assert (float(a.get_value()), float(b.get_value())) == (2, 1)


def test_values_after_a_swap_are_arrays_of_their_own() -> None:
    a, b = shared(np.zeros(2)), shared(np.ones(2))
    function([], updates={a: b, b: a})()
    a.get_value(borrow=True)[:] = 5
    assert b.get_value().tolist() == [0, 0]


def test_an_update_that_is_an_argument_is_a_copy() -> None:
    s, x = shared(np.zeros(2)), T.vector("x")
    given = np.array([1.0, 2.0])
    function([x], updates={s: x})(given)
    given[:] = 7
    assert s.get_value().tolist() == [1, 2]


def test_an_output_is_no_part_of_an_updated_variable() -> None:
    s = shared(np.zeros(2))
    got = function([], s + 1, updates={s: s + 1})()
    got[:] = 7
    assert s.get_value().tolist() == [1, 1]


def test_shapes_may_change() -> None:
    s = shared(np.zeros(2))
    f = function([], updates={s: T.concatenate([s, s])})
    f()
    f()
    assert s.get_value().shape == (8,)


@pytest.mark.parametrize(
    ("value", "dtype", "stored"),
    [
        (np.int64(0), "int8", 0),
        (np.float64(0), "float32", 0.5),
        (np.float64(0), "int32", 7),
        (np.float64(0), "bool", 1),
        (np.float32(0), "int16", 7),
        (np.int64(0), "bool", 1),
    ],
)
def test_updates_of_a_narrower_dtype_are_converted(value: Any, dtype: str, stored: float) -> None:
    s, x = shared(value), T.scalar("x", dtype=dtype)
    function([x], updates={s: x})(np.array(stored).astype(dtype))
    assert_equal(s.get_value(), np.array(stored).astype(value.dtype))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(np.float32(0), "float64"), (np.int64(0), "float64"), (np.float32(0), "int32"), (np.int32(0), "uint32"),
     (np.int32(0), "int64"), (np.bool_(0), "int8"), (np.float64(0), "int64")],
)  # fmt: skip
def test_updates_that_would_lose_precision(value: Any, dtype: str) -> None:
    s, x = shared(value, "s"), T.scalar("x", dtype=dtype)
    with pytest.raises(ostinato.OstinatoTypeError) as caught:
        function([x], updates={s: x})
    own = value.dtype.name
    message = str(caught.value)
    assert f"the update of 's' of type {own} (test_function.py:" in message
    assert f"expected {own}, got 'x' of type {dtype} (test_function.py:" in message
    assert f".astype({own!r})" in message
    function([x], updates={s: x.astype(own)})(1)
    assert_equal(s.get_value(), np.array(1).astype(own))


def test_updates_by_bare_numbers() -> None:
    s, n, b = shared(np.float32(0)), shared(np.int8(0)), shared(np.bool_(False))
    function([], updates={s: 0.1, n: 100, b: True})()
    assert_equal(s.get_value(), np.array(0.1, "float32"))
    assert_equal(n.get_value(), np.array(100, "int8"))
    assert_equal(b.get_value(), np.array(True))


@pytest.mark.parametrize(
    ("variable", "value"),
    [(np.int64(0), 0.5), (np.int8(0), 200), (np.uint8(0), -1), (np.float16(0), 1e6), (np.int64(0), 2.0)],
)
def test_bare_numbers_that_do_not_fit(variable: Any, value: Any) -> None:
    s = shared(variable, "s")
    with pytest.raises(ostinato.OstinatoTypeError, match=f"the update of 's'.* got {value!r}".replace("+", r"\+")):
        function([], updates={s: value})


def test_rank_of_an_update() -> None:
    s, x = shared(np.zeros(2), "s"), T.matrix("x")
    with pytest.raises(
        TypeError, match=r"update of 's'.* has 2 dimension\(s\) instead of 1.*'x' of type float64\[\?, \?\]"
    ):
        function([x], updates={s: x})


def test_an_update_of_fixed_sizes() -> None:
    s, x = shared(np.zeros((1, 3)), "s", broadcastable=(True, False)), T.matrix("x")
    with pytest.raises(ostinato.ShapeError, match=r"expected float64\[1, \?\], got 'x' .*T.addbroadcast\(..., 0\)"):
        function([x], updates={s: x})
    f = function([x], updates={s: T.addbroadcast(x, 0)})
    f(np.ones((1, 2)))
    with pytest.raises(ostinato.ShapeError):
        f(np.ones((2, 2)))
    assert s.get_value().tolist() == [[1, 1]]
    function([], updates={s: s - 0.5 * s})()
    assert s.get_value().tolist() == [[0.5, 0.5]]


def test_a_variable_is_updated_once() -> None:
    s = shared(0.0, "s")
    with pytest.raises(ostinato.OstinatoValueError, match=r"'s' of type float64 .* is updated twice"):
        function([], updates=[(s, 1.0), (s, 2.0)])


def test_a_call_that_fails_changes_nothing() -> None:
    a, b, c, x = shared(0.0), shared(np.zeros(3)), shared(np.zeros(2)), T.vector("x")
    f = function([x], x.sum(), updates=[(a, a + 1), (b, b + x), (c, c + 1)])
    for wrong, kind in ((np.ones(4), ValueError), (np.ones((2, 2)), TypeError), ("x", TypeError)):
        with pytest.raises(kind):
            f(wrong)
        assert a.get_value() == 0
        assert b.get_value().tolist() == [0, 0, 0]
        assert c.get_value().tolist() == [0, 0]
    assert f(np.ones(3)) == 3
    assert (float(a.get_value()), b.get_value().tolist()) == (1, [1, 1, 1])


def test_a_call_that_fails_in_a_late_step_changes_nothing() -> None:
    total, x, i = shared(0.0), T.vector("x"), T.ivector("i")
    y, updates = ostinato.scan(lambda k: (x[k], {total: total + x[k]}), i)
    f = function([x, i], y, updates=updates)
    with pytest.raises(IndexError, match="step 2"):
        f([1.0, 2.0], [0, 1, 5, 0])
    assert total.get_value() == 0
    f([1.0, 2.0], [0, 1, 1])
    assert total.get_value() == 5


def test_functions_share_variables() -> None:
    s, x = shared(0.0), T.scalar("x")
    add, get = function([x], updates={s: s + x}), function([], s)
    add(2)
    assert get() == 2
    s.set_value(10.0)
    add(2)
    assert get() == 12


# ---- givens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_givens_of_an_input(form: str) -> None:
    x, y = T.scalars("x", "y")
    assert function([y], x * 10, givens=FORMS[form]([(x, y + 1)]))(5) == 60


def test_givens_by_values() -> None:
    x, n, v = T.scalar("x"), T.iscalar("n"), T.vector("v")
    f = function([], [x, n, v], givens={x: 0.5, n: 3, v: np.array([1.0, 2.0])})
    assert [g.tolist() for g in f()] == [0.5, 3, [1, 2]]
    assert [g.dtype.name for g in f()] == ["float64", "int32", "float64"]


def test_givens_are_simultaneous() -> None:
    x, y = T.scalars("x", "y")
    assert function([x, y], 10 * x + y, givens={x: y, y: x})(1, 2) == 21
    assert function([x], x + 1, givens={x: x * 2})(5) == 11  # replaced once, not again and again


def test_givens_of_an_inner_expression() -> None:
    x, y = T.scalars("x", "y")
    square = x**2
    assert function([y], square + 1, givens={square: y})(5) == 6
    assert function([x, y], T.exp(square) + x, givens={square: y})(3, 0) == 4


def test_givens_of_an_expression_and_what_it_is_made_of() -> None:
    x, y = T.scalars("x", "y")
    square = x**2
    f = function([x, y], [square, x, square + x], givens={square: y, x: x + 100})
    assert f(1, 5) == [5, 101, 106]


def test_givens_of_a_shared_variable() -> None:
    s, x = shared(1.0), T.scalar("x")
    assert function([x], s + 1, givens={s: x})(5) == 6
    assert s.get_value() == 1


def test_givens_reach_updates() -> None:
    s, x, y = shared(1.0), T.scalar("x"), T.scalar("y")
    function([y], updates={s: s + x}, givens={x: y * 10})(2)
    assert s.get_value() == 21


def test_a_replaced_variable_is_still_updated_itself() -> None:
    s, x = shared(1.0), T.scalar("x")
    function([x], updates={s: s + 1}, givens={s: x})(5)
    assert s.get_value() == 6


def test_givens_reach_loops() -> None:
    x, w, y = T.vector("x"), T.scalar("w"), T.vector("y")
    data = shared(np.arange(12.0).reshape(4, 3))
    total, _ = ostinato.scan(lambda v, h: h * w + v, x, T.constant(0.0))
    i = T.lscalar("i")
    f = function([i], total[-1], givens={x: data[i], w: T.constant(2.0)})
    assert f(1) == (3 * 2 + 4) * 2 + 5
    assert function([y], total, givens={x: y[::-1], w: 1.0})([1.0, 2.0]).tolist() == [2, 3]


def test_minibatches() -> None:
    data, labels = shared(np.arange(20.0).reshape(10, 2)), shared(np.arange(10, dtype="int32"))
    i, x, y = T.lscalar("i"), T.matrix("x"), T.ivector("y")
    f = function([i], [x.sum(), y.sum()], givens={x: data[i * 5 : (i + 1) * 5], y: labels[i * 5 : (i + 1) * 5]})
    assert f(1) == [sum(range(10, 20)), 35]


def test_a_replaced_input_is_unused() -> None:
    x, y = T.scalars("x", "y")
    with pytest.raises(ostinato.UnusedInputError, match="'x'"):
        function([x, y], x, givens={x: y})


@pytest.mark.parametrize(
    ("variable", "value", "kind", "message"),
    [
        (T.fvector("v"), T.dvector("u"), TypeError, r"replacement of 'v' .*lose precision.*\.astype\('float32'\)"),
        (T.dvector("v"), T.dmatrix("u"), TypeError, r"replacement of 'v' .*2 dimension\(s\) instead of 1"),
        (T.row("v"), T.dmatrix("u"), ValueError, r"replacement of 'v' .*float64\[1, \?\].*T.addbroadcast"),
        (T.iscalar("v"), 0.5, TypeError, "replacement of 'v' .*got 0.5"),
    ],
)
def test_givens_that_do_not_fit(variable: Any, value: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        function([], variable.sum(), givens={variable: value})
    assert isinstance(caught.value, ostinato.OstinatoError)


def test_givens_of_a_narrower_dtype_are_converted() -> None:
    x, y = T.dvector("x"), T.fvector("y")
    assert_equal(function([y], x, givens={x: y})(np.array([0.5], "float32")), np.array([0.5]))


# ---- conversion of arguments ----------------------------------------------------------------------


def outcome(value: Any, dtype: str, allow: bool | None) -> Any:
    """What a function makes of a value for an input of this dtype, or the class of its error."""
    x = T.TensorType(dtype, (None,) * np.ndim(value))("x")
    try:
        got = function([x], x, allow_input_downcast=allow)(value)
    except ostinato.OstinatoTypeError as error:
        message = str(error)
    else:
        assert got.dtype == dtype
        return got.tolist()
    assert "input 0 'x' (test_function.py:" in message
    assert f"expected {x.type}" in message
    return "refused"


N = np.array
BIG = 2**53 + 1


@pytest.mark.parametrize(
    ("value", "dtype", "by_default", "never", "always"),
    [
        # bare numbers and lists of them take the dtype of the variable if it is one of floats
        (0.1, "float32", float(np.float32(0.1)), "refused", float(np.float32(0.1))),
        ([0.1, 0.5], "float32", [float(np.float32(0.1)), 0.5], "refused", [float(np.float32(0.1)), 0.5]),
        (((0.5,),), "float16", [[0.5]], "refused", [[0.5]]),
        (3, "float64", 3.0, 3.0, 3.0),
        ([True, 2, 0.5], "float32", [1, 2, 0.5], "refused", [1, 2, 0.5]),
        (BIG, "float64", float(BIG), "refused", float(BIG)),
        (10**30, "float64", "refused", "refused", "refused"),
        (True, "float64", 1.0, 1.0, 1.0),
        (True, "int8", 1, 1, 1),
        (1, "bool", True, True, True),
        (2, "bool", "refused", "refused", True),
        (0.5, "bool", "refused", "refused", True),
        (2.0, "int64", "refused", "refused", 2),
        ([2.7, -2.7], "int64", "refused", "refused", [2, -2]),
        ([], "int8", [], [], []),
        ([[], []], "bool", [[], []], [[], []], [[], []]),
        # what has a dtype is never rounded unasked
        (np.float64(0.1), "float32", "refused", "refused", float(np.float32(0.1))),
        ([np.float64(0.1)], "float32", "refused", "refused", [float(np.float32(0.1))]),
        (N([0.5]), "float32", "refused", "refused", [0.5]),
        (N([0.5], "float32"), "float16", "refused", "refused", [0.5]),
        (N([0.1], "float16"), "float64", [float(np.float16(0.1))], [float(np.float16(0.1))], [float(np.float16(0.1))]),
        (N([1.0]), "int64", "refused", "refused", [1]),
        (N([], "float64"), "int64", "refused", "refused", []),
        # integers are converted where the values fit
        (N([1, -128]), "int8", [1, -128], [1, -128], [1, -128]),
        (N([1, 128]), "int8", "refused", "refused", "refused"),
        (N([-1]), "uint8", "refused", "refused", "refused"),
        (N([0, 1]), "bool", [False, True], [False, True], [False, True]),
        (N([0, 2]), "bool", "refused", "refused", [False, True]),
        (N([True, False]), "float16", [1, 0], [1, 0], [1, 0]),
        (N([2**53]), "float64", [2.0**53], [2.0**53], [2.0**53]),
        (N([BIG]), "float64", "refused", "refused", [float(BIG)]),
        (N([2**24 + 1], "int32"), "float32", "refused", "refused", [2.0**24]),
        (N([70000]), "float16", "refused", "refused", "refused"),
        (N([2**63 - 1]), "float64", "refused", "refused", [2.0**63]),
        (N([2**31 - 1], "int32"), "float32", "refused", "refused", [2.0**31]),
        (N([2**64 - 1], "uint64"), "float64", "refused", "refused", [2.0**64]),
        (N([2**63], "uint64"), "float64", [2.0**63], [2.0**63], [2.0**63]),
        (N([2**63], "uint64"), "int64", "refused", "refused", "refused"),
        (N([7], "uint64"), "int64", [7], [7], [7]),
        (N([7]), "uint64", [7], [7], [7]),
        # what lies out of range is refused always
        (1e300, "float32", "refused", "refused", "refused"),
        (N([1e5]), "float16", "refused", "refused", "refused"),
        (N([1e300]), "int64", "refused", "refused", "refused"),
        (N([2.0**63]), "int64", "refused", "refused", "refused"),
        (N([-(2.0**63)]), "int64", "refused", "refused", [-(2**63)]),
        (N([np.nan]), "int64", "refused", "refused", "refused"),
        (N([np.inf]), "uint8", "refused", "refused", "refused"),
        (N([-0.9, 255.9]), "uint8", "refused", "refused", [0, 255]),
        (N([256.0]), "uint8", "refused", "refused", "refused"),
        # infinities stay what they are
        (float("inf"), "float32", np.inf, "refused", np.inf),
        (N([np.inf, -np.inf]), "float16", "refused", "refused", [np.inf, -np.inf]),
    ],
)
def test_conversion(value: Any, dtype: str, by_default: Any, never: Any, always: Any) -> None:
    assert outcome(value, dtype, None) == by_default
    assert outcome(value, dtype, False) == never
    assert outcome(value, dtype, True) == always


def test_nan_stays_nan() -> None:
    x, y = T.dvector("x"), T.fscalar("y")
    got = function([x, y], [x, y])([np.nan, 1.0], float("nan"))
    assert np.isnan(got[0]).tolist() == [True, False]
    assert np.isnan(got[1])
    assert_equal(function([x], x)(N([np.nan], "float32")), N([np.nan]))


def test_signs_of_zero_stay() -> None:
    x = T.fvector("x")
    assert np.signbit(function([x], x)([-0.0, 0.0])).tolist() == [True, False]


def test_conversion_does_not_depend_on_floatX() -> None:
    for floatX in ("float32", "float64"):
        with ostinato.config.change_flags(floatX=floatX):
            assert outcome([0.1], "float32", None) == [float(np.float32(0.1))]
            assert outcome(N([0.1]), "float32", None) == "refused"


def test_an_input_overrides_the_rule_of_its_function() -> None:
    x, y = T.fscalar("x"), T.fscalar("y")
    value = np.float64(0.1)
    f = function([In(x, allow_downcast=True), y], x + y)
    f(value, 1)
    with pytest.raises(TypeError, match="input 1 'y'"):
        f(value, value)
    f = function([In(x, allow_downcast=False), y], x + y, allow_input_downcast=True)
    f(1, value)
    with pytest.raises(TypeError, match="input 0 'x'"):
        f(0.1, value)


def test_strict_inputs() -> None:
    x = T.fvector("x")
    f = function([In(x, strict=True, allow_downcast=True)], x)
    assert f(N([0.5], "float32")).tolist() == [0.5]
    for wrong in ([0.5], N([0.5]), N([1], "int8")):
        with pytest.raises(TypeError, match=r"input 0 'x' .*expected an array of exactly float32, got"):
            f(wrong)


class OfArray:
    """Something that NumPy can make an array of."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array if dtype is None else self.array.astype(dtype)


class OfDLPack:
    """An array of another library."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class Elsewhere(OfDLPack):
    """An array on a device that is not the host."""

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("it is on device 2")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


class Subclass(np.ndarray):
    """An array with another kind of multiplication."""

    def __mul__(self, other: Any) -> Any:
        raise AssertionError("the subclass's method was called")


A = np.arange(12.0).reshape(3, 4) / 7
ARRAYS: dict[str, Callable[[], Any]] = {
    "contiguous": A.copy,
    "Fortran order": lambda: np.asfortranarray(A),
    "a part": lambda: np.pad(A, 2)[2:-2, 2:-2],
    "every other": lambda: np.repeat(np.repeat(A, 2, 0), 3, 1)[::2, ::3],
    "negative strides": lambda: A[::-1, ::-1].copy()[::-1, ::-1],
    "transposed": lambda: A.T.copy().T,
    "broadcast": lambda: np.broadcast_to(A[0], (3, 4)),
    "read-only": lambda: np.frombuffer(A.tobytes()).reshape(3, 4),
    "other byte order": lambda: A.astype(A.dtype.newbyteorder()),
    "unaligned": lambda: np.frombuffer(b"x" + A.tobytes(), "uint8")[1:].view("float64").reshape(3, 4),
    "field": lambda: np.rec.fromarrays([A, np.zeros((3, 4), "int8")], names="a,b")["a"],
    "subclass": lambda: A.copy().view(Subclass),
    "matrix": lambda: np.ma.masked_array(A, mask=False),
    "nested lists": A.tolist,
    "list of arrays": lambda: list(A),
    "list of numbers and 0-d arrays": lambda: [[np.array(v) for v in row] for row in A],
    "tuple of tuples": lambda: tuple(map(tuple, A.tolist())),
    "__array__": lambda: OfArray(A.copy()),
    "DLPack": lambda: OfDLPack(A.copy()),
    "DLPack, not contiguous": lambda: OfDLPack(A.T.copy().T),
    "float32": lambda: A.astype("float32"),
    "ints": lambda: (7 * A).astype("int16"),
    "memory view": lambda: memoryview(A.copy()),
    "no rows": lambda: A[:0],
    "no columns": lambda: A[:, :0],
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_kinds_of_arrays(kind: str) -> None:
    x, h0 = T.matrix("x"), T.vector("h0")
    h, _ = ostinato.scan(lambda row, h: T.tanh(row + h * 0.5), x, h0)
    f = function([x, h0], [x, 2 * x, x.T, x.sum(axis=0), h], name="f")
    value = ARRAYS[kind]()
    plain = np.array(value.array if isinstance(value, (OfArray, OfDLPack)) else value, dtype="float64", order="C")
    before = plain.copy()
    state, states = np.zeros(plain.shape[1]), []
    for row in plain:
        state = np.tanh(row + state * 0.5)
        states.append(state)
    expected = [plain, 2 * plain, plain.T, plain.sum(axis=0), np.array(states).reshape(plain.shape)]
    got = f(value, np.zeros(plain.shape[1]))
    for g, e in zip(got, expected, strict=True):
        assert type(g) is np.ndarray
        assert g.dtype == e.dtype
        assert g.dtype.isnative
        assert g.flags.writeable
        np.testing.assert_allclose(g, e, rtol=1e-12, strict=True)
        g[...] = np.nan  # must not reach the argument
    after = np.array(value.array if isinstance(value, (OfArray, OfDLPack)) else value, dtype="float64")
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("value", [2.5, np.float64(2.5), np.array(2.5), np.float32(2.5), OfArray(np.array(2.5))])
def test_kinds_of_scalars(value: Any) -> None:
    x = T.scalar("x")
    assert_equal(function([x], 2 * x)(value), np.array(5.0))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "missing input 0: 'x'"),
        ("abc", "expected float64[?], got 'abc' of type str; it is no array of numbers"),
        ([None], "got [None] of type list; it is no array of numbers"),
        ([1.0, "a"], "got [1.0, 'a'] of type list; it is no array of numbers"),
        ({1.0}, "got {1.0} of type set; it is no array of numbers"),
        ([[1], [1, 2]], "a value of type list that is no array: "),
        (10**30, "got 1000000000000000000000000000000, which no integer dtype holds"),
        (np.array([1j]), "an array of dtype complex128; there is bool, int8"),
        (np.array(["2020-01-01"], "datetime64[D]"), "an array of dtype datetime64[D]"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "a masked array, whose mask would be lost"),
        (T.vector("y"), "got the symbolic variable y, which has no value; see givens of function"),
        (OfDLPack(np.array([1j])), "an array of dtype complex128"),
        (Elsewhere(np.ones(2)), "a value of type Elsewhere that is no array: "),
        (lambda: 1, "; it is no array of numbers"),
        (3.5, "expected float64[?], got 3.5 of dtype float64; it has 0 dimension(s) instead of 1"),
        (np.float64(3.5), "expected float64[?], got float64; it has 0 dimension(s) instead of 1"),
        ([[3.5]], "expected float64[?], got float64[1, 1]; it has 2 dimension(s) instead of 1"),
    ],
)
def test_what_is_no_argument(value: Any, message: str) -> None:
    x = T.vector("x")
    with pytest.raises(ostinato.OstinatoTypeError) as caught:
        function([x], x)(value)
    assert message in str(caught.value)
    assert isinstance(caught.value, TypeError)


def test_sizes_that_a_variable_promises() -> None:
    x = T.tensor("float64", (None, 3, 1), "x")
    f = function([x], x)
    assert f(np.ones((2, 3, 1))).shape == (2, 3, 1)
    with pytest.raises(TypeError) as caught:
        f(np.ones((2, 4, 5)))
    assert "expected float64[?, 3, 1], got float64[2, 4, 5]; dimension 1 has size 4 instead of 3, " in str(caught.value)
    assert "dimension 2 has size 5 instead of 1" in str(caught.value)


# ---- outputs are arrays of their own --------------------------------------------------------------


def test_no_output_shares_memory() -> None:
    x, s = T.matrix("x"), shared(np.arange(6.0).reshape(2, 3))
    c = T.constant(np.arange(3.0))
    h, _ = ostinato.scan(lambda v, h: h + v, x, T.constant(np.zeros(3)))
    none, _ = ostinato.scan(lambda h: h + 1, outputs_info=x, n_steps=0)
    last, _ = ostinato.reduce(lambda v, h: h, x, c)
    outputs = [
        x, x, x.T, x[0], x[::-1], x.reshape((3, 2)), x.flatten(), x + 0, 1 * x, s, s.T, s[1], c, c, c[1:],
        h, h[-1], h[0], none, last, T.ones_like(x), T.ones((2, 3)), T.zeros(3), T.disconnected_grad(x),
    ]  # fmt: skip
    given, kept = np.arange(6.0).reshape(2, 3) + 1, s.get_value(borrow=True)
    f = function([x], outputs)
    first = [g.copy() for g in f(given)]
    results = f(given)
    for i, g in enumerate(results):
        assert g.flags.writeable
        assert not np.shares_memory(g, given)
        assert not np.shares_memory(g, kept)
        assert not any(np.shares_memory(g, other) for other in results[:i] if g.size)
        g[...] = np.nan
    for again, before in zip(f(given), first, strict=True):  # constants are what they were, too
        np.testing.assert_array_equal(again, before)


def test_outputs_of_an_earlier_call_stay() -> None:
    x = T.vector("x")
    h, _ = ostinato.scan(lambda v, h: h + v, x, T.constant(0.0))
    f = function([x], [h, 2 * x])
    first = f([1.0, 2.0])
    f([5.0, 6.0])
    assert [g.tolist() for g in first] == [[1, 3], [2, 4]]


# ---- threads --------------------------------------------------------------------------------------


@pytest.fixture
def _frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_frequent_switches")
def test_threads_call_one_function_at_once() -> None:
    x, w = T.matrix("x"), T.scalar("w")
    h, _ = ostinato.scan(lambda v, h: T.tanh(h * w + v), x, T.zeros_like(x[0]))
    f = function([x, w], [h, T.grad(h.sum(), w)])
    data = [(np.random.default_rng(i).normal(size=(5 + i, 3)), 0.1 * i) for i in range(8)]
    alone = [f(*d) for d in data]
    barrier = threading.Barrier(4)

    def work(worker: int) -> None:
        barrier.wait(10)
        for turn in range(10):
            i = (worker + turn) % len(data)
            for got, expected in zip(f(*data[i]), alone[i], strict=True):
                np.testing.assert_array_equal(got, expected)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@pytest.mark.usefixtures("_frequent_switches")
def test_no_thread_sees_half_of_an_update() -> None:
    a, b, x = shared(0.0), shared(0.0), T.scalar("x")
    write, read = function([x], updates={a: x, b: x}), function([], [a, b])
    done = threading.Event()

    def writer() -> None:
        for i in range(1, 300):
            write(float(i))
        done.set()

    thread = threading.Thread(target=writer)
    thread.start()
    seen = []
    while not done.is_set():
        seen.append(read())
    thread.join(30)
    assert all(p == q for p, q in seen)
    assert [float(v) for v in read()] == [299, 299]


@pytest.mark.parametrize("part", ["read", "write"])
def test_shared_variables_are_read_and_written_one_thread_at_a_time(part: str) -> None:
    s, x = shared(1.0), T.scalar("x")
    f = function([], s + 1) if part == "read" else function([x], updates={s: x})
    thread = threading.Thread(target=lambda: f(*[2.0] * (part == "write")))
    with sys.modules["ostinato.shared"].SHARED_VALUES:
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        assert s.get_value() == 1
    thread.join(30)
    assert not thread.is_alive()


def test_threads_make_functions_at_once() -> None:
    def work(i: int) -> float:
        x = T.vector("x")
        h, _ = ostinato.scan(lambda v, h: h * 0.5 + v * (i % 3), x, T.constant(0.0))
        return float(function([x], T.grad(h[-1], x).sum())(np.ones(4)))

    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(work, range(12)))
    assert got == [(1 + 0.5 + 0.25 + 0.125) * (i % 3) for i in range(12)]


# ---- large graphs ---------------------------------------------------------------------------------


def test_a_chain_that_is_longer_than_the_stack_of_python() -> None:
    x = T.scalar("x")
    y = x
    for _ in range(3 * sys.getrecursionlimit()):
        y = y + x
    assert function([x], y)(1) == 3 * sys.getrecursionlimit() + 1


def test_eval() -> None:
    x, y = T.scalars("x", "y")
    assert (x + y).eval({x: 1, y: 2}) == 3
    assert T.constant(2.0).eval() == 2
    with pytest.raises(ostinato.MissingInputError, match="'y' of type float64"):
        (x + y).eval({x: 1})
