"""`grad`: its options, its errors, and derivatives of loops that random programs do not reach."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from numeric import central
from ostinato.errors import DisconnectedInputError, OstinatoTypeError, OstinatoValueError
from ostinato.grad import connected
from ostinato.gradient import disconnected_grad, zero_grad
from ostinato.ops import OPS


def value(node: Any, given: dict[Any, Any]) -> Any:
    return ostinato.function(list(given), node, on_unused_input="ignore")(*given.values())


# ---- options --------------------------------------------------------------------------------------


def test_form_of_the_result_is_that_of_wrt() -> None:
    x, y = T.dscalars("x", "y")
    cost = x * x * y
    assert repr(T.grad(cost, x).type) == repr(x.type)
    assert isinstance(T.grad(cost, [x, y]), list)
    assert isinstance(T.grad(cost, (x, y)), tuple)
    assert T.grad(cost, []) == []


def test_gradients_are_named() -> None:
    x, y = T.dscalars("x", "y")
    cost = x * T.exp(y)
    cost.name = "cost"
    assert T.grad(cost, y).name == "d(cost)/d(y)"


def test_with_respect_to_an_intermediate_expression() -> None:
    x = T.dvector("x")
    h = T.sin(x)
    cost = (h * h * x).sum()
    found = value(T.grad(cost, [h, x]), {x: [0.3, -1.0]})
    v = np.array([0.3, -1.0])
    np.testing.assert_allclose(found[0], 2 * np.sin(v) * v, rtol=1e-14)
    np.testing.assert_allclose(found[1], np.sin(v) ** 2 + 2 * np.sin(v) * np.cos(v) * v, rtol=1e-14)


def test_with_respect_to_an_expression_and_to_what_it_is_made_of() -> None:
    """The derivative passes through one variable on its way to another, whichever is asked for beside it."""
    x = T.dvector("x")
    h = T.sin(x * 2)
    v = np.array([0.3, -1.0])
    for cost, slope in (((h * x).sum(), np.sin(2 * v) + 2 * np.cos(2 * v) * v), ((h * h).sum(), 2 * np.sin(4 * v))):
        np.testing.assert_allclose(value(T.grad(cost, x), {x: v}), slope, rtol=1e-13)
        np.testing.assert_allclose(value(T.grad(cost, [h, x])[1], {x: v}), slope, rtol=1e-13)


def test_with_respect_to_shared_variables_in_a_loop() -> None:
    W = ostinato.shared(np.array([[0.2, -0.4], [0.5, 0.1]]), "W")
    x = T.dmatrix("x")
    hs, _ = ostinato.scan(lambda v, h: T.tanh(T.dot(h, W) + v), sequences=x, outputs_info=T.zeros((2,)))
    g = value(T.grad(hs.sum(), W), {x: np.ones((3, 2))})

    def plain(w: Any) -> float:
        h, total = np.zeros(2), 0.0
        for _ in range(3):
            h = np.tanh(h @ w + 1)
            total += h.sum()
        return total

    np.testing.assert_allclose(g, central(plain, [W.get_value()], 0), rtol=1e-9)


def test_consider_constant() -> None:
    x = T.dscalar("x")
    a = x * x
    assert value(T.grad(a * T.exp(x), x, consider_constant=[a]), {x: 2.0}) == pytest.approx(4 * np.exp(2))
    with pytest.raises(DisconnectedInputError):
        T.grad(a, x, consider_constant=[a])


def test_known_grads_start_the_walk() -> None:
    x, y = T.dvectors("x", "y")
    h = x * y
    given = {x: [1.0, 2.0], y: [3.0, 4.0]}
    found = value(T.grad(None, [x, y], known_grads={h: T.constant(np.array([10.0, 100.0]))}), given)
    np.testing.assert_array_equal(found, [[30, 400], [10, 200]])
    both = value(T.grad(h.sum(), x, known_grads={h: np.array([10.0, 100.0])}), given)
    np.testing.assert_array_equal(both, [33, 404])
    with pytest.raises(OstinatoTypeError, match="known_grads: the gradient of"):
        T.grad(None, x, known_grads={h: 1.0})
    with pytest.raises(OstinatoValueError, match="needs a cost"):
        T.grad(None, x)


def test_disconnected_inputs() -> None:
    x, y = T.dscalar("x"), T.dvector("y")
    with pytest.raises(DisconnectedInputError, match=r"does not depend on 'y' of type float64\[\?\] \(test_grad"):
        T.grad(x * x, [x, y])
    with pytest.warns(UserWarning, match="does not depend on 'y'"):
        T.grad(x * x, [x, y], disconnected_inputs="warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = value(T.grad(x * x, [x, y], disconnected_inputs="ignore"), {x: 3.0, y: [1.0, 2.0]})
    assert found[0] == 6
    assert found[1].tolist() == [0, 0]
    assert T.grad(x, [y], disconnected_inputs="ignore", return_disconnected="None") == [None]
    with pytest.raises(OstinatoValueError, match="'raise', 'warn' or 'ignore'"):
        T.grad(x, x, disconnected_inputs="shout")


def test_a_cost_that_uses_only_the_shape_is_disconnected() -> None:
    x = T.dvector("x")
    with pytest.raises(DisconnectedInputError):
        T.grad(T.cast(x.shape[0], "float64"), x)


def test_what_a_loop_passes_from_step_to_step_connects_and_nothing_else_does() -> None:
    """Each output depends on what reaches it, some steps later perhaps, and not on the rest of the loop."""
    x, y, w, c0 = T.dvector("x"), T.dvector("y"), T.dscalar("w"), T.dscalar("c0")
    (a, b, c), _ = ostinato.scan(
        lambda u, v, a, b, c: [b * u, c * 0.5, T.cos(c) * w],
        sequences=[x, y],
        outputs_info=[T.constant(1.0, dtype="float64"), T.constant(1.0, dtype="float64"), c0],
    )
    assert connected([a], [x, y, w, c0]) == [True, False, True, True]
    assert connected([b], [x, y, w, c0]) == [False, False, True, True]
    with pytest.raises(DisconnectedInputError, match="does not depend on 'x'"):
        T.grad(c.sum(), x)
    inner, _ = ostinato.map(lambda u: ostinato.scan(lambda h: h * u, outputs_info=w, n_steps=2)[0][-1], sequences=x)
    assert connected([inner], [x, w, y]) == [True, True, False]


def test_through_integers_and_rounding_the_derivative_is_zero() -> None:
    x = T.dvector("x")
    for cost in (T.floor(x).sum(), T.cast(T.argmax(x), "float64"), T.where(x > 0, 1.0, 2.0).sum()):
        assert value(T.grad(cost, x), {x: [0.5, -1.0]}).tolist() == [0, 0]


def test_stopping_derivatives() -> None:
    x = T.dscalar("x")
    assert value(T.grad(x * zero_grad(x), x), {x: 3.0}) == 3
    assert value(T.grad(x * disconnected_grad(x), x), {x: 3.0}) == 3
    assert value(T.grad(zero_grad(x) ** 2, x), {x: 3.0}) == 0
    with pytest.raises(DisconnectedInputError):
        T.grad(disconnected_grad(x), x)


def test_what_cannot_be_differentiated_is_refused() -> None:
    x, i = T.dvector("x"), T.lscalar("i")
    with pytest.raises(OstinatoTypeError, match=r"scalar cost, got 'x' .*; reduce it with \.sum\(\)"):
        T.grad(x, x)
    with pytest.raises(OstinatoTypeError, match="cost of floats, got"):
        T.grad(i * 2, i)
    with pytest.raises(OstinatoTypeError, match="with respect to floats, not 'i' of type int64"):
        T.grad(x.sum() * i, [x, i])


def test_dtype_of_a_gradient_is_that_of_its_variable() -> None:
    x, y = T.fvector("x"), T.dvector("y")
    gx, gy = T.grad((x * y).sum(), [x, y])
    assert (gx.dtype, gy.dtype) == ("float32", "float64")


# ---- loops ----------------------------------------------------------------------------------------


def test_orders_one_to_four_of_a_power() -> None:
    """Repeated squaring: x**32 after five steps."""
    x = T.dscalar("x")
    ys, _ = ostinato.scan(lambda p: p * p, outputs_info=x, n_steps=5)
    y, factor, power = ys[-1], 1.0, 32
    for _ in range(4):
        y = T.grad(y, x)
        factor, power = factor * power, power - 1
        assert value(y, {x: 1.1}) == pytest.approx(factor * 1.1**power, rel=1e-13)


def truncated(k: int, n: int) -> Any:
    """Cost and inputs of a loop with truncation, and of the same loop unrolled with derivatives stopped."""
    x, w, h0 = T.dvector("x"), T.dscalar("w"), T.dscalar("h0")

    def step(v: Any, h: Any, w: Any) -> Any:
        return T.tanh(h * w + v)

    hs, _ = ostinato.scan(step, sequences=x, outputs_info=h0, non_sequences=w, truncate_gradient=k)
    unrolled, h = [], h0
    for t in range(n):
        if t < n - k:
            h = disconnected_grad(step(disconnected_grad(x[t]), disconnected_grad(h), disconnected_grad(w)))
        else:
            h = step(x[t], h, w)
        unrolled.append(h)
    weights = np.cos(np.arange(n))
    return [x, w, h0], (hs * weights).sum(), sum(float(q) * h for q, h in zip(weights, unrolled, strict=True))


@pytest.mark.parametrize("k", [1, 2, 5, 6, 9])
def test_truncated_gradient_is_that_of_the_unrolled_loop_with_early_steps_held_constant(k: int) -> None:
    inputs, cost, reference = truncated(k, 6)
    arrays = [np.linspace(-1, 1, 6), 0.8, 0.3]
    found = value(T.grad(cost, inputs), dict(zip(inputs, arrays, strict=True)))
    expected = value(T.grad(reference, inputs, disconnected_inputs="ignore"), dict(zip(inputs, arrays, strict=True)))
    for g, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-13, atol=1e-15)
    assert (found[2] == 0) == (k < 6)


def test_gradient_of_until_is_that_of_the_steps_made() -> None:
    s = T.dvector("s")
    zero = T.constant(0.0, dtype="float64")
    ys, _ = ostinato.scan(lambda v, a: (a + v**2, ostinato.until(a + v**2 > 10)), sequences=s, outputs_info=zero)
    rows, g = value([ys, T.grad(ys[-1], s)], {s: np.arange(6.0)})
    assert rows.tolist() == [0, 1, 5, 14]
    assert g.tolist() == [0, 2, 4, 6, 0, 0]


def test_second_order_through_until_with_a_huge_bound() -> None:
    """A fixed point by iteration: cost and derivatives go by the steps made, not by n_steps."""
    a = T.dscalar("a")
    ys, _ = ostinato.scan(
        lambda x: (new := 0.5 * (x + a / x), ostinato.until(abs(new - x) < 1e-14)), outputs_info=a, n_steps=10**9
    )
    root = ys[-1]
    first = T.grad(root, a)
    second = T.grad(first, a)
    found = value([root, first, second, ys.shape[0]], {a: 2.0})
    np.testing.assert_allclose(found[:3], [2**0.5, 0.5 / 2**0.5, -0.25 / 2**1.5], rtol=1e-10)
    assert found[3] < 10


def test_gradient_reaches_a_shared_variable_that_the_step_updates() -> None:
    """The value at the start is the initial value of a carry."""
    s = ostinato.shared(0.7, "s")
    x = T.dvector("x")
    ys, updates = ostinato.scan(lambda v: (s * v, {s: s * s + v}), sequences=x)
    g = value(T.grad(ys.sum() + updates[s], s), {x: [0.1, 0.2, 0.3]})

    def plain(start: Any) -> float:
        state, total = float(start), 0.0
        for v in (0.1, 0.2, 0.3):
            total += state * v
            state = state * state + v
        return total + state

    np.testing.assert_allclose(g, central(plain, [0.7], 0), rtol=1e-9)


def test_gradient_of_a_gradient_step_inside_a_loop() -> None:
    """Gradient descent as a scan whose step takes a gradient; the rate is then differentiated."""
    rate, w0 = T.dscalar("rate"), T.dvector("w0")

    def descend(w: Any) -> Any:
        loss = ((w - 1.0) ** 4).sum()
        return w - rate * T.grad(loss, w)

    ws, _ = ostinato.scan(descend, outputs_info=w0, n_steps=4)
    final = ((ws[-1] - 1.0) ** 4).sum()
    found = value(T.grad(final, [rate, w0]), {rate: 0.05, w0: [0.2, 1.7]})

    def plain(rate: Any, w: Any) -> Any:
        for _ in range(4):
            w = w - rate * 4 * (w - 1) ** 3
        return ((w - 1) ** 4).sum()

    for i in range(2):
        np.testing.assert_allclose(found[i], central(plain, [0.05, [0.2, 1.7]], i), rtol=1e-8)


def test_integer_states_beside_float_ones() -> None:
    x = T.dvector("x")
    (counts, sums), _ = ostinato.scan(
        lambda v, i, s: (i + 1, s + v * T.cast(i, "float64")),
        sequences=x,
        outputs_info=[T.constant(0, dtype="int64"), T.constant(0.0, dtype="float64")],
    )
    assert counts.dtype == "int64"
    assert value(T.grad(sums[-1], x), {x: np.ones(4)}).tolist() == [0, 1, 2, 3]


def test_a_long_history_in_a_carry() -> None:
    """Appending to an array by set_subtensor, and its gradient."""
    p0 = T.dvector("p0")
    start = T.set_subtensor(T.zeros((5, 2))[0], p0)
    hist, _ = ostinato.scan(
        lambda i, P: T.set_subtensor(P[i], T.sin(P[i - 1]) + P[0]), sequences=T.arange(1, 5), outputs_info=start
    )

    def plain(p: Any) -> Any:
        rows = [p]
        for _ in range(4):
            rows.append(np.sin(rows[-1]) + rows[0])
        return np.sum(np.array(rows) ** 2)

    found = value([(hist[-1] ** 2).sum(), T.grad((hist[-1] ** 2).sum(), p0)], {p0: [0.3, -0.8]})
    np.testing.assert_allclose(found[0], plain(np.array([0.3, -0.8])), rtol=1e-14)
    np.testing.assert_allclose(found[1], central(plain, [[0.3, -0.8]], 0), rtol=1e-9)


def test_broadcasting_found_out_at_run_time_inside_a_loop() -> None:
    """Rows of width 1 are stretched by a state of width 3; the gradient is summed back."""
    x, h0 = T.dmatrix("x"), T.dvector("h0")
    hs, _ = ostinato.scan(lambda v, h: T.tanh(h + v), sequences=x, outputs_info=h0)
    cost = (hs**2).sum()
    arrays = [np.array([[0.1], [0.4]]), np.array([0.5, -0.2, 0.9])]
    found = value(T.grad(cost, [x, h0]), dict(zip([x, h0], arrays, strict=True)))

    def plain(x: Any, h: Any) -> Any:
        total = 0.0
        for v in x:
            h = np.tanh(h + v)
            total += (h**2).sum()
        return total

    for i in range(2):
        assert found[i].shape == arrays[i].shape
        np.testing.assert_allclose(found[i], central(plain, arrays, i), rtol=1e-9)


@pytest.mark.parametrize("n", [0, 3])
def test_known_cotangents_of_one_column(n: int) -> None:
    """A constant sequence of rows of one element, beside others whose width only the arrays tell."""
    x, w = T.dmatrix("x"), T.dvector("w")
    ys, _ = ostinato.scan(lambda v, w: T.tanh(v * w), sequences=x, non_sequences=w)
    data = np.linspace(0.1, 0.5, n).reshape(n, 1)
    g = value(T.grad(None, x, known_grads={ys: T.constant(np.ones((n, 1)))}), {x: data, w: [0.7]})
    np.testing.assert_allclose(g, 0.7 * (1 - np.tanh(0.7 * data) ** 2), rtol=1e-13)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_zero_and_few_steps(n: int) -> None:
    x, h0 = T.dvector("x"), T.dscalar("h0")
    hs, _ = ostinato.scan(lambda v, h: h * v, sequences=x, outputs_info=h0)
    last, _ = ostinato.reduce(lambda v, h: h * v, sequences=x, outputs_info=h0)
    data = np.arange(2.0, 2.0 + n)
    found = value([hs, *T.grad(hs.sum(), [x, h0]), last, *T.grad(last, [x, h0])], {x: data, h0: 3.0})
    products = np.cumprod(data)
    np.testing.assert_allclose(found[0], 3 * products)
    assert found[1].shape == (n,)
    assert found[2] == products.sum()
    assert found[3] == 3 * np.prod(data)
    assert found[5] == np.prod(data)


def test_inner_loops_of_other_lengths_at_every_step() -> None:
    """What an inner loop records has as many rows as it made steps: it cannot be kept for all outer steps."""
    x, w = T.dvector("x"), T.dscalar("w")

    def halve(start: Any) -> Any:
        walk, _ = ostinato.scan(
            lambda h: (T.sin(h * w) * 0.9, ostinato.until(h < 0.3)), outputs_info=start, n_steps=10**6
        )
        return T.log(walk).sum() * walk[-1]

    outputs, _ = ostinato.map(halve, sequences=x)
    arrays = [np.array([0.2, 0.9, 0.5, 1.4]), 0.8]
    found = value([outputs, *T.grad((outputs**2).sum(), [x, w])], dict(zip([x, w], arrays, strict=True)))

    def plain(starts: Any, w: Any) -> Any:
        total = 0.0
        for h in starts:
            logs = 0.0
            while True:
                before, h = h, np.sin(h * w) * 0.9
                logs += np.log(h)
                if before < 0.3:
                    break
            total += (logs * h) ** 2
        return total

    np.testing.assert_allclose((found[0] ** 2).sum(), plain(*arrays), rtol=1e-13)
    for i in range(2):
        np.testing.assert_allclose(found[1 + i], central(plain, arrays, i, step=1e-4), rtol=1e-7)


def test_a_derivative_records_the_carry_where_all_it_needs_follows_from_that() -> None:
    """Two values per step follow from the state by cheap operations: one number is recorded, not two."""
    r, x0 = T.dscalar("r"), T.dscalar("x0")
    path, _ = ostinato.scan(lambda x, r: r * x * (1 - x), outputs_info=x0, non_sequences=r, n_steps=20)
    run = ostinato.function([r, x0], T.grad((path**2).sum(), [r, x0]))
    loops = [n for n in run.graph.nodes() if n.op is OPS["loop"]]
    assert [n.params[0].n_outputs for n in loops] == [2, 0]

    def plain(r: float, x: float) -> float:
        total = 0.0
        for _ in range(20):
            x = r * x * (1 - x)
            total += x * x
        return total

    found = run(2.9, 0.3)
    for k, g in enumerate(found):
        expected = central(plain, [np.float64(2.9), np.float64(0.3)], k, 1e-4)
        np.testing.assert_allclose(g, expected, rtol=1e-6)
