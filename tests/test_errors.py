"""What bad input gets: the class of the error, and a message that a user can act on.

A message names the user's variable and the line where it was made, says what was expected, what came and
how to mend it, and inside a loop which step it was. Messages about arguments of compiled functions and values
of shared variables are tested in `test_function.py` and `test_shared.py`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from ostinato import function, scan, shared, until
from ostinato.errors import OstinatoError


def line() -> str:
    """The line from which this is called, as messages write it."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return f"(test_errors.py:{frame.f_back.f_lineno})"


def message(kind: type[Exception], call: Callable[[], Any]) -> str:
    """What is said when `call` fails; its error is one of Ostinato's and of the built-in kind."""
    with pytest.raises(OstinatoError) as caught:
        call()
    assert isinstance(caught.value, kind), f"{type(caught.value)}: {caught.value}"
    told = str(caught.value)
    for word in ("uint8", "int8", "<ostinato", "0x"):  # dtypes that were only tried, addresses
        assert word not in told
    return told


def check(kind: type[Exception], call: Callable[[], Any], *parts: str) -> None:
    """`call` fails with a message in which all parts occur, in this order."""
    told = rest = message(kind, call)
    for part in parts:
        assert part in rest, f"{part!r} is not (or not there) in: {told}"
        rest = rest[rest.index(part) + len(part) :]


# ---- the family -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("OstinatoTypeError", TypeError),
        ("OstinatoValueError", ValueError),
        ("OstinatoIndexError", IndexError),
        ("ShapeError", ValueError),
        ("MissingInputError", ValueError),
        ("UnusedInputError", ValueError),
        ("DisconnectedInputError", ValueError),
        ("NoGradientError", TypeError),
    ],
)
def test_each_error_is_a_builtin_one_too(name: str, builtin: type[Exception]) -> None:
    assert issubclass(getattr(ostinato, name), builtin)
    assert issubclass(getattr(ostinato, name), ostinato.OstinatoError)


# ---- outside of loops -----------------------------------------------------------------------------


def test_shapes_that_do_not_meet_at_run_time() -> None:
    x, y = T.vectors("x", "y")
    total, at_total = x + y, line()
    f = function([x, y], total)
    check(ValueError, lambda: f(np.ones(2), np.ones(3)), "(x + y)", at_total, "x of shape (2,)", "y of shape (3,)")
    W = T.matrix("W")
    product, at_product = T.dot(W, x), line()
    f = function([W, x], product)
    check(ValueError, lambda: f(np.ones((2, 3)), np.ones(4)), at_product, "W of shape (2, 3)", "x of shape (4")


def test_shapes_that_are_known_not_to_meet() -> None:
    x, at_x = T.tensor("float64", (3,), "x"), line()
    y, at_y = T.tensor("float64", (4,), "y"), line()
    check(ValueError, lambda: x + y, "'x'", "float64[3]", at_x, "'y'", "float64[4]", at_y)


def test_a_missing_input_of_a_function() -> None:
    x, at_x = T.vector("x"), line()
    w, at_w = T.scalar("w"), line()
    out, _ = scan(lambda v, h: h * w + v, x, 0.0)
    check(ValueError, lambda: function([], out), "'x' of type float64[?] " + at_x, "'w' of type float64 " + at_w)


def test_deciding_on_a_symbolic_value() -> None:
    x, at_x = T.scalar("x"), line()
    check(TypeError, lambda: 1 if x else 0, "'x' of type float64 " + at_x, "has no value yet", "`if`", "where(")
    positive, at_positive = x > 0, line()
    check(TypeError, lambda: x if positive else -x, "(x > 0.) of type bool " + at_positive, "`if`", "where(")
    check(TypeError, lambda: positive and x, "(x > 0.)", "`and`", "where(")


def test_going_through_a_symbolic_value() -> None:
    X, at_X = T.matrix("X"), line()
    check(TypeError, lambda: list(X), "'X' of type float64[?, ?] " + at_X, "cannot be iterated over", "use scan")
    check(TypeError, lambda: len(X), "'X' of type float64[?, ?] " + at_X, "x.shape[0]")
    assert len(list(T.zeros((2, 3)))) == 2


def test_values_of_symbolic_numbers() -> None:
    n, at_n = T.lscalar("n"), line()
    for convert in (int, float, range):
        check(TypeError, lambda convert=convert: convert(n), "'n' of type int64 " + at_n, "has no value yet")


def test_writing_into_a_symbolic_array() -> None:
    x = T.vector("x")

    def write() -> None:
        x[0] = 1.0

    check(TypeError, write, "cannot be changed", "set_subtensor(x[...], value)")


def test_indexing_by_booleans() -> None:
    x, at_x = T.vector("x"), line()
    check(IndexError, lambda: x[x > 0], "'x' of type float64[?] " + at_x, "booleans", "where(")
    check(IndexError, lambda: x[[True, False]], "'x' of type float64[?] " + at_x, "booleans", "where(")


def test_an_index_out_of_bounds() -> None:
    x, i = T.vector("x"), T.iscalar("i")
    element, at_element = x[i], line()
    check(IndexError, lambda: element.eval({x: [1.0], i: 3}), at_element, "index 3 is out of bounds", "x of shape (1,)")


# ---- derivatives ----------------------------------------------------------------------------------


def test_a_gradient_of_what_is_no_scalar() -> None:
    x, at_x = T.vector("x"), line()
    check(TypeError, lambda: T.grad(x, x), "scalar cost", "'x' of type float64[?] " + at_x, ".sum() or .mean()")


def test_a_gradient_of_integers() -> None:
    k = T.lvector("k")
    total, at_total = k.sum(), line()
    check(TypeError, lambda: T.grad(total, k), "a cost of floats", "sum(k) of type int64 " + at_total)


def test_a_gradient_with_respect_to_integers() -> None:
    x, k, at_k = T.vector("x"), T.lvector("k"), line()
    b, at_b = T.TensorType("bool", ())("b"), line()
    check(
        TypeError, lambda: T.grad((x * k * b).sum(), [x, k, b]),
        "with respect to floats", "'k' of type int64[?] " + at_k, "'b' of type bool " + at_b,
    )  # fmt: skip


def test_a_gradient_of_what_does_not_depend_on_it() -> None:
    x, at_x = T.vector("x"), line()
    y, at_y = T.vector("y"), line()
    z, cost = T.scalar("z"), (x**2).sum()
    cost.name = "cost"
    check(
        ValueError, lambda: T.grad(cost, [x, y, z]),
        "'cost' of type float64", "does not depend on 'y' of type float64[?] " + at_y, "'z'",
        "disconnected_inputs='ignore'",
    )  # fmt: skip
    assert at_x not in message(ValueError, lambda: T.grad(cost, [x, y, z]))
    out, _ = scan(lambda v, w: 2 * v, x, non_sequences=y)
    with pytest.raises(ostinato.DisconnectedInputError, match="'y'"):
        T.grad(out.sum(), y)


# ---- in a step, when it runs ----------------------------------------------------------------------


def test_shapes_that_do_not_meet_in_a_step() -> None:
    X, y, where = T.matrix("X"), T.vector("y"), []

    def step(row: Any) -> Any:
        total, at_total = row + y, line()
        where.append(at_total)
        return total

    out, _ = scan(step, X)
    check(
        ValueError, lambda: out.eval({X: np.ones((3, 2)), y: np.ones(4)}),
        "step 0: ", "(X[t] + y)", where[-1], "X[t] of shape (2,)", "y of shape (4,)",
    )  # fmt: skip


@pytest.mark.parametrize("name", [None, "encoder"])
def test_the_number_of_the_step_that_fails(name: str | None) -> None:
    x, indices, where = T.vector("x"), T.ivector("indices"), []

    def step(i: Any) -> Any:
        element, at_element = x[i], line()
        where.append(at_element)
        return element

    out, _ = scan(step, indices, name=name)
    check(
        IndexError, lambda: out.eval({x: np.ones(3), indices: [0, 2, -3, 5, 1]}),
        "step 3 of encoder: " if name else "step 3: ", where[-1], "index 5 is out of bounds", "x of shape (3,)",
    )  # fmt: skip


def test_the_numbers_of_the_steps_of_nested_loops() -> None:
    x, indices = T.vector("x"), T.imatrix("indices")
    out, _ = scan(lambda row: scan(lambda i: x[i], row, name="inner")[0], indices, name="outer")
    check(
        IndexError, lambda: out.eval({x: np.ones(3), indices: [[0, 1], [1, 2], [2, 3]]}),
        "step 2 of outer: step 1 of inner: ", "index 3 is out of bounds",
    )  # fmt: skip


def test_an_error_in_a_derivative_tells_the_step_too() -> None:
    x, indices = T.vector("x"), T.ivector("indices")
    out, _ = scan(lambda i, h: h * x[i], indices, T.constant(1.0))
    told = message(IndexError, lambda: T.grad(out[-1], x).eval({x: np.ones(3), indices: [0, 7]}))
    assert "step 1: " in told


def test_a_state_that_changes_its_shape_when_it_runs() -> None:
    h0 = T.vector("h0")
    out, _ = scan(lambda h: T.concatenate([h, h]), outputs_info=h0, n_steps=3)
    check(
        ValueError, lambda: out.eval({h0: np.ones(2)}),
        "step 0: ", "state", "h0", "(2,)", "(4,)", "a state keeps its shape", "initial value",
    )  # fmt: skip


def test_a_state_that_changes_its_shape_later() -> None:
    h0, n = T.vector("h0"), T.ivector("n")
    out, _ = scan(lambda k, h: h[:k], n, h0)
    told = message(ValueError, lambda: out.eval({h0: np.ones(3), n: [3, 3, 2]}))
    assert told.startswith("step 2: ")
    assert "(3,)" in told
    assert "(2,)" in told


def test_an_output_that_changes_its_shape() -> None:
    x, n = T.vector("x"), T.ivector("n")
    out, _ = scan(lambda k: x[:k], n)
    check(ValueError, lambda: out.eval({x: np.ones(3), n: [2, 2, 1]}), "step 2: ", "(1,)", "(2,)")


def test_a_shared_variable_that_changes_its_shape() -> None:
    s = shared(np.ones(2), "s")
    _, updates = scan(lambda: {s: T.concatenate([s, s])}, n_steps=2)
    check(ValueError, lambda: function([], updates=updates)(), "step 0: ", "state s ", "(2,)", "(4,)")
    assert s.get_value().shape == (2,)


# ---- in a step, when it is built ------------------------------------------------------------------


def test_deciding_in_a_step() -> None:
    x, where = T.vector("x"), []

    def step(v: Any) -> Any:
        positive, at_positive = v > 0, line()
        where.append(at_positive)
        return v if positive else -v

    told = message(TypeError, lambda: scan(step, x))
    assert told.startswith(f"(x[t] > 0.) of type bool {where[0]} has no value yet")
    assert "use where(" in told


def test_going_through_a_row() -> None:
    X = T.matrix("X")
    check(TypeError, lambda: scan(lambda row: sum(row), X), "'X[t]' of type float64[?]", "cannot be iterated", "scan")


def test_a_boolean_mask_in_a_step() -> None:
    X = T.matrix("X")
    check(IndexError, lambda: scan(lambda row: row[row > 0], X), "'X[t]' of type float64[?]", "booleans", "where(")


def test_an_until_that_is_no_scalar() -> None:
    X, where = T.matrix("X"), []

    def step(row: Any) -> Any:
        positive, at_positive = row > 0, line()
        where.append(at_positive)
        return row, until(positive)

    told = message(TypeError, lambda: scan(step, X))
    assert told == (
        f"until expects a scalar condition, got (X[t] > 0.) of type bool[?] {where[0]}; reduce it by .all() or .any()"
    )
    check(TypeError, lambda: until("x"), "until: expected a symbolic variable", "'x' of type str")


# ---- what a step returns --------------------------------------------------------------------------


def nothing(v: Any) -> None:
    """A step that forgot its return statement."""


@pytest.mark.parametrize(
    ("returned", "wrong"),
    [
        (lambda v: 1.5, ["output 0 is 1.5 of type float"]),
        (lambda v: "h", ["output 0 is 'h' of type str"]),
        (lambda v: True, ["output 0 is True of type bool"]),
        (lambda v: np.ones(2), ["output 0 is array([1., 1.]) of type ndarray"]),
        (lambda v: [v, None], ["output 1 is None of type NoneType"]),
        (lambda v: [v, 2, "h", None], ["output 1 is 2 of type int", "output 2 is 'h' of", "output 3 is None of"]),
        (lambda v: ([v, 2.5], {}), ["output 1 is 2.5 of type float"]),
        (lambda v: ([2.5], until(v > 0)), ["output 0 is 2.5 of type float"]),
        (lambda v: [v, [v, v]], ["output 1 is [x[t], x[t]] of type list"]),
        (lambda v: {v}, ["output 0 is {x[t]} of type set"]),
    ],
)
def test_a_step_that_returns_what_is_not_symbolic(returned: Callable[..., Any], wrong: list[str]) -> None:
    x = T.vector("x")
    at_step = f"(test_errors.py:{returned.__code__.co_firstlineno})"
    check(
        TypeError, lambda: scan(returned, x), f"the step '<lambda>' {at_step} must return symbolic variables",
        "T.constant", "T.as_tensor", *wrong,
    )  # fmt: skip


def test_a_step_that_returns_nothing() -> None:
    x = T.vector("x")
    at_step = f"(test_errors.py:{nothing.__code__.co_firstlineno})"
    told = f"the step 'nothing' {at_step} returns None instead of symbolic variables; is its return statement missing?"
    assert message(TypeError, lambda: scan(nothing, x)) == told
    assert message(TypeError, lambda: scan(functools.partial(nothing), x)) == told


def test_two_conditions_or_two_collections_of_updates() -> None:
    x, s = T.vector("x"), shared(0.0)
    for step in (lambda v: (v, until(v > 0), until(v > 1)), lambda v: (v, {s: v}, {s: 2 * v})):
        check(ValueError, lambda step=step: scan(step, x), "the step '<lambda>'", "more than one until(...) or")


def test_updates_of_what_is_not_shared() -> None:
    x, y, at_y = T.vector("x"), T.scalar("y"), line()
    check(TypeError, lambda: scan(lambda v: {y: v}, x), "only shared variables", "'y' of type float64 " + at_y)
    check(TypeError, lambda: scan(lambda v: {"h": v}, x), "the step '<lambda>'", "outputs go into a list", "not 'h'")


def test_updates_that_do_not_fit() -> None:
    x, at_x = T.dvector("x"), line()
    s, at_s = shared(np.float32(0), "s"), line()
    check(
        TypeError, lambda: scan(lambda v: {s: v}, x),
        "the update of 's' of type float32 " + at_s, "lose precision", "expected float32, got 'x[t]' of type float64",
        ".astype('float32')",
    )  # fmt: skip
    check(TypeError, lambda: scan(lambda v: {s: x}, x), "the update of 's'", "1 dimension(s) instead of 0", at_x)
    check(ValueError, lambda: scan(lambda v: [(s, s), (s, s + 1)], x), "'s' of type float32 " + at_s, "updated twice")


# ---- states whose type changes --------------------------------------------------------------------


def test_a_state_of_another_dtype() -> None:
    x = T.dvector("x")
    h0, at_h0 = T.lscalar("h0"), line()
    where = []

    def step(v: Any, h: Any) -> Any:
        new, at_new = h + v, line()
        where.append(at_new)
        return new

    told, at_scan = message(TypeError, lambda: scan(step, x, h0)), line()
    assert told == (
        f"the step 'step' (test_errors.py:{step.__code__.co_firstlineno}): the state 'h0' starts as int64 {at_h0}, but "
        f"the step returns (h0[t-1] + x[t]) of type float64 {where[0]}, because of 'x[t]' of type float64 {at_scan}; "
        "int64 does not become float64 without loss: start from h0.astype('float64')"
    )
    out, _ = scan(step, x, h0.astype("float64"))  # as the message says
    assert out.eval({x: [0.5, 1.0], h0: 3}).tolist() == [3.5, 4.5]


def test_a_step_that_returns_what_the_state_cannot_hold() -> None:
    h0, at_h0 = T.dscalar("h0"), line()
    count = T.lscalar("count")
    check(
        TypeError, lambda: scan(lambda h: count + 1, outputs_info=h0, n_steps=2),
        "the state 'h0' starts as float64 " + at_h0, "the step returns (count + 1) of type int64 (test_errors.py:",
        "int64 does not become float64 without loss: return it converted by .astype('float64')",
    )  # fmt: skip
    out, _ = scan(lambda h: (count + 1).astype("float64"), outputs_info=h0, n_steps=2)
    assert out.eval({h0: 0.0, count: 4}).tolist() == [5, 5]


def test_a_constant_start_that_a_float_does_not_hold() -> None:
    x = T.vector("x")
    check(
        TypeError, lambda: scan(lambda v, h: h + v, x, np.array(2**53 + 1)),
        "the state of output 0 starts as int64, but the step returns", "because of 'x[t]' of type float64",
        "int64 does not become float64 without loss: convert the initial value by .astype('float64')",
    )  # fmt: skip


def test_a_state_and_a_step_that_need_a_third_dtype() -> None:
    h0, x = T.lscalar("h0"), T.fvector("x")
    check(
        TypeError, lambda: scan(lambda v, h: T.cast(h, "float32") + v, x, h0),
        "'h0' starts as int64", "returns", "of type float32", "int64 does not become float64 without loss",
        "start from h0.astype('float64')",
    )  # fmt: skip
    h0, x = T.lscalar("h0"), T.TensorType("uint64", (None,))("x")
    with pytest.raises(TypeError) as caught:
        scan(lambda v, h: v, x, h0)
    assert "start from h0.astype('float64'), and uint64 does not become float64" in str(caught.value)


@pytest.mark.parametrize(
    ("initial", "returned", "fix"),
    [
        (lambda: T.vector("h0"), lambda h: T.outer(h, h), "start from an initial value with 2 dimension(s)"),
        (lambda: T.vector("h0"), lambda h: h.sum(), "start from an initial value with 0 dimension(s)"),
        (lambda: T.scalar("h0"), lambda h: h + T.ones(3), "start from an initial value with 1 dimension(s)"),
        (
            lambda: T.tensor("float64", (3,), "h0"), lambda h: T.concatenate([h, h]),
            "start from an initial value of shape (6,), or return one of shape (3,)",
        ),
        (
            lambda: T.tensor("float64", (1, None), "h0"), lambda h: T.concatenate([h, h]),
            "start from an initial value of shape (2, ?), or return one of shape (1, ?)",
        ),
        (
            lambda: {"initial": T.matrix("h0"), "taps": [-2, -1]}, lambda a, b: T.stack([a, b]),
            "start from an initial value with 3 dimension(s)",
        ),
        (
            lambda: {"initial": T.tensor("float64", (2, 3), "h0"), "taps": [-2]}, lambda a: a[:2],
            "start from an initial value of shape (2,), or return one of shape (3,)",
        ),
    ],
)  # fmt: skip
def test_a_state_of_another_shape(initial: Callable[[], Any], returned: Callable[..., Any], fix: str) -> None:
    kind = TypeError if "with" in fix else ValueError
    told = message(kind, lambda: scan(returned, outputs_info=initial(), n_steps=2))
    assert isinstance(told, str)
    assert "the state 'h0' starts as float64" in told
    assert "(test_errors.py:" in told
    assert "but the step returns " in told
    assert told.endswith(f"; a state keeps its shape: {fix}")


def test_all_states_that_change_are_told_at_once() -> None:
    x, X, i0, at_i0 = T.dvector("x"), T.matrix("X"), T.lscalar("i0"), line()
    b0, at_b0 = T.vector("b0"), line()
    fine, c0, at_c0 = T.scalar("fine"), T.tensor("float64", (3,), "c0"), line()
    told = message(
        TypeError, lambda: scan(lambda v, i, b, f, c: [i + v, X, f + v, T.ones(4) * v], x, [i0, b0, fine, c0])
    )
    first, *rest = told.splitlines()
    assert first.startswith("the step '<lambda>' (test_errors.py:")
    assert len(rest) == 3
    expected = [("i0", at_i0, "float64"), ("b0", at_b0, "float64[?, ?]"), ("c0", at_c0, "float64[4]")]
    for problem, (name, at, came) in zip(rest, expected, strict=True):
        assert problem.startswith(f"  - the state {name!r} starts as ")
        assert at in problem
        assert f"of type {came} (test_errors.py:" in problem
    assert "fine" not in told


def test_a_state_of_several_taps_is_told_where_its_initial_value_was_made() -> None:
    h0, at_h0 = T.lvector("h0"), line()
    check(
        TypeError, lambda: scan(lambda a, b: (a + b) / 2, outputs_info={"initial": h0, "taps": [-2, -1]}, n_steps=3),
        "the state 'h0' starts as int64[?]", at_h0, "returns", "of type float64 ", "because of 2.;",
        "start from h0.astype('float64')",
    )  # fmt: skip


def test_a_state_without_a_name_is_numbered() -> None:
    x = T.vector("x")
    check(
        ValueError, lambda: scan(lambda v, h, g: [h + v, T.ones(3)], x, [0.0, T.zeros(2)]),
        "the state of output 1 starts as float64[2]", "but the step returns", "float64[3]", "shape (3,)",
    )  # fmt: skip


def test_a_bare_integer_is_told_as_what_it_usually_is() -> None:
    x = T.matrix("x")
    told = message(TypeError, lambda: scan(lambda row, h: h + row, x, 0))
    assert "the state of output 0 starts as int64" in told
    seen = []

    def step(h: Any) -> Any:
        seen.append(h.dtype)
        raise KeyError(h.dtype)

    with pytest.raises(KeyError, match="int64"):
        scan(step, outputs_info=0, n_steps=2)
    assert seen[-1] == "int64"


# ---- n_steps --------------------------------------------------------------------------------------


def add(v: Any, h: Any) -> Any:
    """A step of a sum."""
    return h + v


def test_n_steps_that_is_no_integer() -> None:
    x, k, at_k = T.vector("x"), T.scalar("k"), line()
    check(
        TypeError, lambda: scan(add, x, 0.0, n_steps=2.0), "n_steps is an integer scalar", "2.", "float64", "int(...)"
    )
    check(TypeError, lambda: scan(add, x, 0.0, n_steps=True), "n_steps is an integer scalar", "True of type bool")
    check(
        TypeError, lambda: scan(add, x, 0.0, n_steps=k),
        "n_steps is an integer scalar, not 'k' of type float64 " + at_k, "T.cast(..., 'int64')",
    )  # fmt: skip
    check(TypeError, lambda: scan(add, x, 0.0, n_steps=T.ivector("k")), "scalar", "'k' of type int32[?]")
    check(TypeError, lambda: scan(add, x, 0.0, n_steps="3"), "n_steps: expected a symbolic variable", "'3' of type str")


def test_negative_n_steps() -> None:
    n, x = T.iscalar("n"), T.vector("x")
    told = "n_steps is -1; it cannot be negative"
    assert message(ValueError, lambda: scan(add, x, 0.0, n_steps=-1)) == told
    assert message(ValueError, lambda: scan(lambda h: h, outputs_info=0.0, n_steps=-1)) == told
    for out in (scan(add, x, 0.0, n_steps=n)[0], scan(lambda h: h + 1, outputs_info=0.0, n_steps=n)[0]):
        check(ValueError, lambda out=out: function([x, n], out, on_unused_input="ignore")([1.0], -1), told)


def test_more_steps_than_a_sequence_allows_when_it_is_built() -> None:
    x, at_x = T.tensor("float64", (4,), "x"), line()
    y = T.tensor("float64", (3,), "y")
    fine = T.tensor("float64", (9,), "fine")
    told = message(ValueError, lambda: scan(lambda *v: v[0], [{"input": x, "taps": [-1, 0]}, y, fine], n_steps=5))
    assert told.startswith(f"n_steps is 5, but sequence 'x' {at_x} with taps [-1, 0] allows 3, sequence 'y' ")
    assert told.endswith(" allows 3")
    assert "fine" not in told
    check(ValueError, lambda: scan(add, np.ones(2), 0.0, n_steps=3), "n_steps is 3, but sequence 0 allows 2")


def test_more_steps_than_a_sequence_allows_when_it_runs() -> None:
    x, at_x = T.vector("x"), line()
    y, n = T.vector("y"), T.iscalar("n")
    for count in (n, 5):
        out, _ = scan(lambda a, b, c: a + b + c, [{"input": x, "taps": [0, 2]}, y], n_steps=count)
        f = function([x, y, n], out, on_unused_input="ignore")
        told = message(ValueError, lambda f=f: f(np.ones(4), np.ones(9), 5))
        assert told.startswith(f"n_steps is 5, but sequence 'x' {at_x} with taps [0, 2] allows 2 (test_errors.py:")
        check(ValueError, lambda f=f: f(np.ones(4), np.ones(4), 5), "'x'", "allows 2, sequence 'y'", "allows 4")
        assert f(np.ones(7), np.ones(9), 5).tolist() == [3] * 5


def test_no_bound_on_the_number_of_steps() -> None:
    for step in (lambda h: h, lambda h: (h, until(h > 10))):
        check(
            ValueError, lambda step=step: scan(step, outputs_info=0.0),
            "scan without sequences needs n_steps", "with until how many at most",
        )  # fmt: skip


# ---- other arguments ------------------------------------------------------------------------------


def test_a_scalar_as_sequence() -> None:
    a, at_a = T.scalar("a"), line()
    check(
        TypeError, lambda: scan(add, a, 0.0),
        "sequences[0]: a scalar has no rows", "'a' of type float64 " + at_a, "non_sequences", "n_steps",
    )  # fmt: skip
    check(TypeError, lambda: scan(add, [np.ones(2), 3], 0.0), "sequences[1]: a scalar has no rows", "3 of type int64")


X = T.vector("X")


NOT_SYMBOLIC = "expected a symbolic variable, a number or an array, got "


@pytest.mark.parametrize(
    ("kind", "entries", "told"),
    [
        (ValueError, {"inputs": X}, "sequences[0]: unknown key 'inputs'; there is 'input', 'taps'"),
        (ValueError, [X, {"input": X, "tap": 1, "n": 2}], "sequences[1]: unknown key 'tap', 'n'"),
        (ValueError, {"taps": [0]}, "sequences[0]: the dict needs the key 'input'"),
        (TypeError, {"input": X, "taps": [0.5]}, "sequences[0]: taps are a list of at least one int, not [0.5]"),
        (TypeError, {"input": X, "taps": []}, "sequences[0]: taps are a list of at least one int, not []"),
        (TypeError, {"input": X, "taps": "01"}, "sequences[0]: taps are a list of at least one int, not '01'"),
        (TypeError, {"input": X, "taps": [True]}, "sequences[0]: taps are a list of at least one int, not [True]"),
        (ValueError, {"input": X, "taps": [0, 1, 0]}, "sequences[0]: a tap is listed twice in [0, 1, 0]"),
        (TypeError, [X, None], f"sequences[1]: {NOT_SYMBOLIC}None"),
        (TypeError, [X, "x"], f"sequences[1]: {NOT_SYMBOLIC}'x'"),
    ],
)
def test_wrong_sequences(kind: type[Exception], entries: Any, told: str) -> None:
    check(kind, lambda: scan(lambda *args: X, entries), told)


@pytest.mark.parametrize(
    ("kind", "entries", "told"),
    [
        (ValueError, {"init": X}, "outputs_info[0]: unknown key 'init'; there is 'initial', 'taps'"),
        (ValueError, [0.0, {"initial": X, "return_steps": 1}], "outputs_info[1]: unknown key 'return_steps'"),
        (ValueError, {"initial": X, "taps": [-1, 0]}, "so its taps are negative, not [-1, 0]; -1 is the step before"),
        (ValueError, {"initial": X, "taps": [1]}, "outputs_info[0]: a state is read in the past, so its taps"),
        (ValueError, {"initial": X, "taps": [-2, -2]}, "outputs_info[0]: a tap is listed twice in [-2, -2]"),
        (TypeError, {"initial": X, "taps": []}, "outputs_info[0]: taps are a list of at least one int, not []"),
        (ValueError, {"taps": [-2]}, "outputs_info[0]: taps [-2] need an 'initial' value"),
        (TypeError, ["h"], f"outputs_info[0]: {NOT_SYMBOLIC}'h'"),
    ],
)
def test_wrong_initial_values(kind: type[Exception], entries: Any, told: str) -> None:
    check(kind, lambda: scan(lambda *args: X, X, entries), told)


@pytest.mark.parametrize(
    ("kind", "arguments", "told"),
    [
        (TypeError, {"non_sequences": [X, None]}, f"non_sequences[1]: {NOT_SYMBOLIC}None"),
        (ValueError, {"truncate_gradient": 0}, "truncate_gradient is how many last steps"),
        (ValueError, {"truncate_gradient": -2}, "or -1 for all, not -2"),
        (ValueError, {"truncate_gradient": 2.0}, "truncate_gradient is how many last steps"),
        (TypeError, {"fn": None}, "scan expects a function that makes one step, got None"),
        (TypeError, {"fn": X}, "scan expects a function that makes one step, got X"),
    ],
)
def test_other_wrong_arguments(kind: type[Exception], arguments: dict[str, Any], told: str) -> None:
    check(kind, lambda: scan(**{"fn": lambda *args: X, "sequences": X, **arguments}), told)


@pytest.mark.parametrize("taps", [[-3], [-3, -1]])
def test_too_few_initial_rows(taps: list[int]) -> None:
    x, h0, at_h0 = T.vector("x"), T.vector("h0"), line()
    known, at_known = T.tensor("float64", (2,), "h0"), line()
    one = T.scalar("h0")

    def build(initial: Any) -> Any:
        return scan(lambda v, *past: v + sum(past), x, {"initial": initial, "taps": taps})[0]

    check(
        ValueError, lambda: build(known),
        f"outputs_info[0]: taps {taps} need 3 initial row(s)", "the oldest first",
        "'h0' of type float64[2] " + at_known + " has 2",
    )  # fmt: skip
    check(ValueError, lambda: build(one), "need 3 initial row(s)", "'h0' of type float64 ", "is a scalar")
    run = function([x, h0], build(h0))
    check(
        ValueError, lambda: run(np.ones(4), np.ones(2)),
        "the initial value 'h0' of type float64[?] " + at_h0, f"read with taps {taps}",
        "has 2 row(s), but 3 are needed",
    )  # fmt: skip
    assert run(np.ones(4), np.ones(3)).shape == (4,)


@pytest.mark.parametrize(("outputs", "infos"), [(2, 1), (1, 2), (1, 3), (3, 2)])
def test_outputs_info_of_the_wrong_number(outputs: int, infos: int) -> None:
    x = T.vector("x")
    told = message(ValueError, lambda: scan(lambda v, *past: [v] * outputs, x, [0.0, None, None][:infos]))
    assert told.startswith("the step '<lambda>' (test_errors.py:")
    assert f"returns {outputs} output(s), but outputs_info has {infos}; there is one entry per output" in told
    assert "None for an output that is not fed back" in told


class Cell:
    """A step that is no function."""

    def __call__(self, v: Any) -> Any:
        return v


@pytest.mark.parametrize(
    ("step", "name", "signature", "complaint"),
    [
        (lambda v: v, "<lambda>", "(v)", "too many positional arguments"),
        (lambda v, h, w, z: v, "<lambda>", "(v, h, w, z)", "missing a required argument: 'z'"),
        (lambda v, h, w, *, z: v, "<lambda>", "(v, h, w, *, z)", "missing a required"),
        (Cell(), "Cell", "(v: 'Any') -> 'Any'", "too many positional arguments"),
        (functools.partial(lambda v, h, w: v, 1.0), "<lambda>", "(h, w)", "too many positional arguments"),
    ],
)
def test_a_step_with_the_wrong_parameters(step: Any, name: str, signature: str, complaint: str) -> None:
    x, h0, W = T.vector("x"), T.scalar("h0"), T.matrix("W")
    check(
        TypeError, lambda: scan(step, x, h0, [W]),
        f"the step {name!r} (test_errors.py:", f"takes {signature}, but scan passes 3 argument(s): x[t], h0[t-1], W",
        complaint, "a row per tap of each sequence", "a past value per tap of each output", "the non-sequences",
    )  # fmt: skip


def test_an_error_of_the_step_itself_is_left_alone() -> None:
    def step(v: Any) -> Any:
        raise TypeError("of the step's own")

    with pytest.raises(TypeError, match=r"^of the step's own$") as caught:
        scan(step, T.vector("x"))
    assert not isinstance(caught.value, OstinatoError)


def test_arguments_without_names_are_numbered() -> None:
    told = message(TypeError, lambda: scan(lambda: T.constant(1.0), [np.ones(2), T.vector()], [T.scalar(), None]))
    assert "scan passes 3 argument(s): sequence 0[t], sequence 1[t], output 0[t-1]; too many" in told


def test_strict() -> None:
    x, w, at_w = T.vector("x"), T.scalar("w"), line()
    s, at_s = shared(1.0, "s"), line()
    with pytest.raises(ostinato.MissingInputError) as caught:
        scan(lambda v, h: (h * w + v, until(v > s)), x, 0.0, strict=True)
    told = str(caught.value)
    assert told.startswith("with strict=True the step may use only what is passed; missing in non_sequences: ")
    assert f"'w' of type float64 {at_w}" in told
    assert f"'s' of type float64 {at_s}" in told
    assert "'x'" not in told


def test_a_fold_of_no_rows_without_an_initial_value() -> None:
    x = T.vector("x")
    last, _ = ostinato.reduce(lambda v: v * 2, x, None)
    check(IndexError, lambda: last.eval({x: []}), "size 0")
