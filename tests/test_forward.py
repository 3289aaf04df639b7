"""Forward mode: `jvp` of ops and loops, its options and errors, and how it composes with reverse mode.

The generated tests of `test_ops.py` check the rules of single ops. Here random loops, drawn as in
`test_loops.py`, are compared with complex steps of plain Python loops, and with reverse mode.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings

import ostinato
import ostinato.tensor as T
from numeric import central
from ostinato.errors import DisconnectedInputError, NoGradientError, OstinatoTypeError, OstinatoValueError, ShapeError
from ostinato.graph import leaves
from ostinato.ops.loop import LOOP
from test_loops import Program, inputs_of, plain, programs, symbolic


def run(outputs: Any, arguments: dict[Any, Any], mode: str | None = None) -> Any:
    return ostinato.function(list(arguments), outputs, mode=mode, on_unused_input="ignore")(*arguments.values())


def loops_of(*nodes: Any) -> list[Any]:
    inputs = [n for n in leaves(nodes) if n.op.name == "input"]
    return [n for n in ostinato.function(inputs, list(nodes)).graph.nodes() if n.op is LOOP]


# ---- random loops ---------------------------------------------------------------------------------


def plain_tangents(program: Program, arrays: list[Any], u: list[Any]) -> list[Any]:
    """By a complex step of the plain loop."""
    moved = [a + 1e-30j * t for a, t in zip(arrays, u, strict=True)]
    return [np.imag(c) / 1e-30 for c in plain(program, moved)]


SETTINGS = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@SETTINGS
@given(programs())
@example(Program(0, 0, ((0, 1),), ((-1,),), False, False, False, False, 27))  # what a loop is given is an empty part
def test_tangents_of_random_loops(program: Program) -> None:
    """Right by a complex step, and the transposed of reverse mode."""
    arrays = program.arrays()
    inputs = inputs_of(arrays)
    rng = np.random.default_rng((program.seed, 5))
    u = [rng.uniform(-1, 1, a.shape) for a in arrays]
    outputs = symbolic(program, inputs)
    tangents = ostinato.jvp(outputs, inputs, u, disconnected_outputs="ignore")
    values = plain(program, arrays)
    v = [rng.uniform(-1, 1, y.shape) for y in values]
    pulled = ostinato.vjp(outputs, inputs, v, disconnected_inputs="ignore")
    n = len(outputs)
    found = ostinato.function(inputs, [*tangents, *pulled, *outputs], on_unused_input="ignore")(*arrays)
    found, made = found[: n + len(inputs)], found[n + len(inputs) :]
    for y, expected in zip(made, values, strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-13)
    for t, expected in zip(found[:n], plain_tangents(program, arrays, u), strict=True):
        np.testing.assert_allclose(t, expected, rtol=1e-10, atol=1e-11)
    pushed_side = sum(float((t * q).sum()) for t, q in zip(found[:n], v, strict=True))
    pulled_side = sum(float((g * q).sum()) for g, q in zip(found[n:], u, strict=True))
    np.testing.assert_allclose(pushed_side, pulled_side, rtol=1e-10, atol=1e-10)


@settings(SETTINGS, max_examples=10)
@given(programs())
def test_second_order_of_random_loops_in_all_orders(program: Program) -> None:
    """Reverse over forward, forward over reverse and forward over forward agree with reverse over reverse."""
    arrays = program.arrays()
    inputs = inputs_of(arrays)
    rng = np.random.default_rng((program.seed, 6))
    u, w = ([rng.uniform(-1, 1, a.shape) for a in arrays] for _ in range(2))
    outputs = symbolic(program, inputs)
    cost = sum(((T.sin(y) * rng.uniform(-1, 1)).sum() for y in outputs), T.constant(0.0, dtype="float64"))

    def along(gradients: Any, direction: Any) -> Any:
        return sum((g * q).sum() for g, q in zip(gradients, direction, strict=True))

    def grad(x: Any) -> Any:
        return T.grad(x, inputs, disconnected_inputs="ignore")

    def push(x: Any, direction: Any) -> Any:
        return ostinato.jvp(x, inputs, direction, disconnected_outputs="ignore")

    found = ostinato.function(
        inputs,
        [
            along(grad(along(grad(cost), u)), w),
            along(grad(push(cost, u)), w),
            push(along(grad(cost), u), w),
            push(push(cost, u), w),
        ],
        mode="reference",
        on_unused_input="ignore",
    )(*arrays)
    np.testing.assert_allclose(found[1:], [found[0]] * 3, rtol=1e-9, atol=1e-10)


# ---- options and errors ---------------------------------------------------------------------------


def test_form_of_the_result_is_that_of_the_outputs() -> None:
    x, y = T.dscalars("x", "y")
    given_ = {x: 2.0, y: 3.0}
    assert run(ostinato.jvp(x * y, [x, y], [1.0, 10.0]), given_) == 3 + 20
    assert isinstance(ostinato.jvp([x * y], x, 1.0), list)
    pair = ostinato.jvp((x * y, x), (x, y), (1.0, None))
    assert isinstance(pair, tuple)
    assert run(list(pair), given_) == [3, 1]
    assert isinstance(ostinato.vjp((x * y, x), [x, y], (1.0, 2.0)), list)
    assert run(ostinato.vjp((x * y, x), (x, y), (1.0, 2.0))[0], given_) == 3 + 2
    assert ostinato.jvp([], x, 1.0) == []


def test_with_respect_to_expressions_and_what_they_are_made_of() -> None:
    """As in `grad`: a direction of an expression is added to what follows from those of its inputs."""
    x = T.dvector("x")
    h = T.sin(x)
    y = h * h * x
    v, (a, b) = np.array([0.3, -1.0]), np.array([[1.0, 2.0], [0.5, -0.5]])
    pushed, gh, gx = run([ostinato.jvp(y, [h, x], [a, b]), *T.grad(y.sum(), [h, x])], {x: v})
    np.testing.assert_allclose(pushed.sum(), (gh * a).sum() + (gx * b).sum(), rtol=1e-13)


def test_with_respect_to_shared_variables() -> None:
    W = ostinato.shared(np.array([[0.2, -0.4], [0.5, 0.1]]), "W")
    x = T.dmatrix("x")
    hs, _ = ostinato.scan(lambda v, h: T.tanh(T.dot(h, W) + v), sequences=x, outputs_info=T.zeros((2,)))
    U = np.array([[1.0, 0.5], [-0.5, 2.0]])
    tangent = run(ostinato.jvp(hs.sum(), W, U), {x: np.ones((3, 2))})

    def plain(h: Any) -> float:
        state, total = np.zeros(2), 0.0
        for _ in range(3):
            state = np.tanh(state @ (W.get_value() + h * U) + 1)
            total += state.sum()
        return total

    np.testing.assert_allclose(tangent, central(plain, [0.0], 0), rtol=1e-9)


def test_repeated_variables_and_constants() -> None:
    x = T.dscalar("x")
    a = x * x
    assert run(ostinato.jvp(a, [x, x], [1.0, 2.0]), {x: 3.0}) == 18
    assert run(ostinato.jvp(a * T.exp(x), x, 1.0, consider_constant=[a]), {x: 2.0}) == pytest.approx(4 * np.exp(2))
    with pytest.raises(DisconnectedInputError):
        ostinato.jvp(a, x, 1.0, consider_constant=[a])


def test_tangents_take_the_dtype_of_their_variable() -> None:
    x, y = T.fvector("x"), T.dvector("y")
    assert ostinato.jvp(x * 2, x, T.dvector("u")).dtype == "float32"
    assert ostinato.jvp(x * y, x, [1.0, 2.0]).dtype == "float64"


def test_disconnected_outputs() -> None:
    x, y = T.dscalar("x"), T.dvector("y")
    with pytest.raises(
        DisconnectedInputError, match=r"'y' of type float64\[\?\] \(test_forward.* depends on none of 'x'"
    ):
        ostinato.jvp([x * x, y], x, 1.0)
    with pytest.warns(UserWarning, match="'y' of .* depends on none of 'x'"):
        found = ostinato.jvp([x * x, y], x, 1.0, disconnected_outputs="warn")
    two, zeros = run(found, {x: 3.0, y: [1.0, 2.0]})
    assert two == 6
    assert zeros.tolist() == [0, 0]
    assert ostinato.jvp([y], x, 1.0, disconnected_outputs="ignore", return_disconnected="None") == [None]
    with pytest.raises(OstinatoValueError, match="'raise', 'warn' or 'ignore'"):
        ostinato.jvp(x, x, 1.0, disconnected_outputs="shout")


def test_what_does_not_fit_is_refused() -> None:
    x, i = T.dvector("x"), T.lvector("i")
    with pytest.raises(OstinatoTypeError, match=r"floats with respect to floats, not 'i' of type int64"):
        ostinato.jvp(x * i, i, i)
    with pytest.raises(OstinatoTypeError, match="not 'i' of type int64"):
        ostinato.jvp(i, x, x)
    with pytest.raises(OstinatoTypeError, match=r"as many dimensions .* that of 'x' of .* cannot be 1\. of"):
        ostinato.jvp(x * 2, x, 1.0)
    with pytest.raises(OstinatoValueError, match="2 variables need as many tangents, got 1"):
        ostinato.jvp(x * 2, [x, x], [x])
    with pytest.raises(OstinatoTypeError, match="a cotangent has as many dimensions"):
        ostinato.vjp(x * 2, x, 1.0)
    with pytest.raises(OstinatoTypeError, match="with respect to floats, not 'i'"):
        ostinato.vjp(x * i, i, x)
    f = ostinato.function([x], ostinato.jvp(x * 2, x, [1.0, 2.0, 3.0]), mode="reference")
    with pytest.raises(ShapeError, match=r"expected shape \(2,\), got \(3,\) \(test_forward\.py:\d+\)"):
        f([1.0, 2.0])
    u = T.dvector("u")
    f = ostinato.function([x, u], ostinato.jvp(x * 2, x, u))
    with pytest.raises(ShapeError, match=r"u: expected shape \(2,\), got \(3,\) \(test_forward\.py:\d+\)"):
        f([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ShapeError):
        ostinato.jvp(T.ones((2,)) * x[0], T.ones((2,)) * x[0], np.ones(3))


def test_a_missing_rule_names_the_op_and_what_to_do() -> None:
    step = T.dscalar("step")
    with pytest.raises(NoGradientError, match=r"no derivative of arange, .*test_forward\.py:\d+\); hold .* constant"):
        ostinato.jvp(T.arange(0.0, 1.0, step), step, 1.0)


def test_through_integers_rounding_and_stops_the_tangent_is_zero() -> None:
    x = T.dvector("x")
    u = np.array([1.0, -2.0])
    for y in (
        T.floor(x),
        T.cast(T.cast(x, "int64"), "float64"),
        T.where(x > 0, 1.0, 2.0),
        ostinato.gradient.zero_grad(x),
    ):
        assert run(ostinato.jvp(y, x, u), {x: [0.5, -1.0]}).tolist() == [0, 0]
    assert run(ostinato.jvp(x * T.disconnected_grad(x), x, u), {x: [0.5, -1.0]}).tolist() == [0.5, 2]
    with pytest.raises(DisconnectedInputError):
        ostinato.jvp(T.disconnected_grad(x), x, u)


@pytest.mark.parametrize("mode", ["native", "reference"])
def test_gradients_clipped_and_scaled(mode: str) -> None:
    x, w = T.dvector("x"), T.dscalar("w")

    def step(v: Any, h: Any) -> Any:
        return T.grad_clip(h * w + v, -1.5, 1.5)

    hs, _ = ostinato.scan(step, sequences=x, outputs_info=T.constant(0.0, dtype="float64"))
    found = run([hs[-1], T.grad(hs[-1], x), ostinato.jvp(hs[-1], x, T.ones_like(x))], {x: np.ones(4), w: 2.0}, mode)
    assert found[0] == 15
    assert found[1].tolist() == [1.5, 1.5, 1.5, 1]  # 8, 4, 2 and 1 without clipping
    assert found[2] == 15
    turned = T.grad_scale(x, -2) ** 2
    found = run([T.grad(turned.sum(), x), ostinato.jvp(turned, x, np.ones(2))], {x: [1.0, 3.0]}, mode)
    assert [f.tolist() for f in found] == [[-4, -12]] * 2
    with pytest.raises(OstinatoTypeError, match="grad_clip expects a number, not 'a'"):
        T.grad_clip(x, "a", 1)
    with pytest.raises(OstinatoValueError, match="lower bound 2"):
        T.grad_clip(x, 2, 1)
    with pytest.raises(OstinatoTypeError, match="grad_scale expects floats, got 'i'"):
        T.grad_scale(T.lscalar("i"), 2)


# ---- loops ----------------------------------------------------------------------------------------


def test_one_loop_and_nothing_recorded() -> None:
    """Tangents go along with the values; only what they reach has one."""
    x, h0, w = T.dvector("x"), T.dscalar("h0"), T.dscalar("w")
    (hs, counts), _ = ostinato.scan(
        lambda v, h, n: [T.tanh(h * w + v), T.cos(n)], sequences=x, outputs_info=[h0, T.constant(0.0, dtype="float64")]
    )
    (loop,) = loops_of(ostinato.jvp(hs[-1], [w, h0], [1.0, 2.0]))
    spec = loop.params[0]
    assert (spec.n_sequences, spec.n_carries, spec.n_outputs) == (1, 2, 0)
    assert ostinato.jvp([counts], h0, 1.0, disconnected_outputs="ignore", return_disconnected="None") == [None]


def test_orders_one_to_four_in_every_mixture() -> None:
    """Repeated squaring, x**32 after five steps, by each of the 2 + 4 + 8 + 16 sequences of modes."""
    x = T.dscalar("x")
    ys, _ = ostinato.scan(lambda p: p * p, outputs_info=x, n_steps=5)
    level, factor, power = [ys[-1]], 1.0, 32
    for _ in range(4):
        level = [d for y in level for d in (T.grad(y, x), ostinato.jvp(y, x, 1.0))]
        factor, power = factor * power, power - 1
        found = run(level, {x: 1.1}, "native" if len(level) < 8 else "reference")
        np.testing.assert_allclose(found, factor * 1.1**power, rtol=1e-12)
    np.testing.assert_allclose(run([level[0], level[6], level[-1]], {x: 1.1}), factor * 1.1**power, rtol=1e-12)


def test_integer_states_have_no_tangent() -> None:
    x = T.dvector("x")
    (counts, sums), _ = ostinato.scan(
        lambda v, i, s: (i + 1, s + v * T.cast(i, "float64")),
        sequences=x,
        outputs_info=[T.constant(0, dtype="int64"), T.constant(0.0, dtype="float64")],
    )
    assert counts.dtype == "int64"
    assert run(ostinato.jvp(sums, x, T.ones_like(x)), {x: np.ones(4)}).tolist() == [0, 1, 3, 6]


def test_a_gradient_step_inside_a_loop() -> None:
    rate, w0 = T.dscalar("rate"), T.dvector("w0")
    ws, _ = ostinato.scan(lambda w: w - rate * T.grad(((w - 1.0) ** 4).sum(), w), outputs_info=w0, n_steps=4)
    tangent = run(ostinato.jvp(ws[-1].sum(), [rate, w0], [1.0, [0.5, -0.25]]), {rate: 0.05, w0: [0.2, 1.7]})

    def plain(h: Any) -> Any:
        w = np.array([0.2, 1.7]) + h * np.array([0.5, -0.25])
        for _ in range(4):
            w = w - (0.05 + h) * 4 * (w - 1) ** 3
        return w.sum()

    np.testing.assert_allclose(tangent, central(plain, [0.0], 0), rtol=1e-8)


def test_a_forward_derivative_inside_a_loop() -> None:
    """Newton's method with the slope taken inside of the step, and the derivative of where it ends."""
    a, x0 = T.dscalar("a"), T.dscalar("x0")

    def newton(x: Any) -> Any:
        value = x**3 - a
        return x - value / ostinato.jvp(value, x, 1.0)

    xs, _ = ostinato.scan(newton, outputs_info=x0, n_steps=8)
    root = xs[-1]
    found = run([root, T.grad(root, a), ostinato.jvp(root, a, 1.0)], {a: 2.0, x0: 1.5})
    np.testing.assert_allclose(found, [2 ** (1 / 3), 2 ** (-2 / 3) / 3, 2 ** (-2 / 3) / 3], rtol=1e-13)


def test_inner_loops_of_other_lengths_at_every_step() -> None:
    x, w = T.dvector("x"), T.dscalar("w")

    def halve(start: Any) -> Any:
        walk, _ = ostinato.scan(
            lambda h: (T.sin(h * w) * 0.9, ostinato.until(h < 0.3)), outputs_info=start, n_steps=10**6
        )
        return T.log(walk).sum() * walk[-1]

    outputs, _ = ostinato.map(halve, sequences=x)
    arrays, u = [np.array([0.2, 0.9, 0.5, 1.4]), 0.8], [np.array([1.0, -0.5, 0.3, 2.0]), 0.7]
    pushed = ostinato.jvp(outputs, [x, w], u)
    found = run([pushed, *T.grad(outputs.sum(), [x, w])], dict(zip([x, w], arrays, strict=True)))
    np.testing.assert_allclose(found[0].sum(), (found[1] * u[0]).sum() + found[2] * u[1], rtol=1e-11)


# ---- jacobian, hessian ----------------------------------------------------------------------------


def test_jacobians_by_both_modes() -> None:
    x, h0, w = T.dvector("x"), T.dscalar("h0"), T.dmatrix("w")
    hs, _ = ostinato.scan(lambda v, h: T.tanh(h * w.sum() + v * w[0, 1]), sequences=x, outputs_info=h0)
    arrays = [np.linspace(-1, 1, 4), 0.3, np.array([[0.2, 0.7, -0.3], [0.1, 0.4, -0.5]])]
    inputs = [x, h0, w]
    kinds = [ostinato.jacobian(hs, inputs, mode=m) for m in ("reverse", "forward", "auto")]
    found = run([j for kind in kinds for j in kind], dict(zip(inputs, arrays, strict=True)))
    shapes = [(4, 4), (4,), (4, 2, 3)]
    value = ostinato.function(inputs, hs)
    for k in range(3):
        assert [f.shape for f in found[k::3]] == [shapes[k]] * 3
        for row in range(4):
            expected = central(lambda *a, row=row: value(*a)[row], arrays, k)
            for f in found[k::3]:
                np.testing.assert_allclose(f[row], expected, rtol=1e-8, atol=1e-9)


def test_jacobian_chooses_the_cheaper_mode() -> None:
    """One loop with tangents per column, or the two of reverse mode per row."""
    few, many = T.tensor("float64", (2,), "few"), T.dvector("many")
    ys, _ = ostinato.scan(lambda v, h: h * few[0] + v * few[1], sequences=many, outputs_info=T.constant(0.0))
    names = [[n.params[0].name for n in loops_of(ostinato.jacobian(ys, w))] for w in (few, many)]
    assert all("gradient of" not in (n or "") for n in names[0])
    wide = run(ostinato.jacobian(T.dot(T.ones((5, 2)), few), few), {few: [1.0, 2.0]})
    assert wide.tolist() == np.ones((5, 2)).tolist()
    with pytest.raises(OstinatoValueError, match="mode is 'auto', 'reverse' or 'forward'"):
        ostinato.jacobian(ys, few, mode="sideways")


def test_jacobian_of_scalars_and_matrices_and_of_nothing() -> None:
    x, M = T.dvector("x"), T.dmatrix("M")
    v, A = np.array([0.5, -1.0]), np.arange(6.0).reshape(2, 3)
    assert run(ostinato.jacobian((x**2).sum(), x), {x: v}).tolist() == [1, -2]
    of_matrix = run(ostinato.jacobian(M**2, M), {M: A})
    np.testing.assert_array_equal(of_matrix.reshape(6, 6), np.diag(2 * A.ravel()))
    assert run(ostinato.jacobian(x * 2, x), {x: []}).shape == (0, 0)
    with pytest.raises(DisconnectedInputError):
        ostinato.jacobian(x, [x, M])
    zero = ostinato.jacobian(x, [x, M], disconnected_inputs="ignore")[1]
    assert run(zero, {x: v, M: A}).tolist() == np.zeros((2, 2, 3)).tolist()


def test_hessians_and_products_with_them() -> None:
    x, w = T.dvector("x"), T.dvector("w")
    hs, _ = ostinato.scan(
        lambda v, h: T.tanh(h * w[0] + v * w[1]), sequences=x, outputs_info=T.constant(0.3, dtype="float64")
    )
    cost = (hs**2).sum()
    X, W = np.linspace(-1, 1, 5), np.array([0.8, -0.6])
    V, Q = np.arange(5.0), np.array([0.5, 2.0])
    product = ostinato.hessian_vector_product
    outputs = [*ostinato.hessian(cost, [x, w]), product(cost, x, V), *product(cost, [x, w], [V, Q])]
    hx, hw, px, bx, bw = run(outputs, {x: X, w: W})
    slope = ostinato.function([x, w], T.grad(cost, [x, w]))
    for i in range(5):
        np.testing.assert_allclose(hx[i], central(lambda a, i=i: slope(a, W)[0][i], [X], 0), rtol=1e-8, atol=1e-9)
    for i in range(2):
        np.testing.assert_allclose(hw[i], central(lambda a, i=i: slope(X, a)[1][i], [W], 0), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(px, hx @ V, rtol=1e-12)
    coarse, fine = (
        [(p - m) / (2 * h) for p, m in zip(slope(X + h * V, W + h * Q), slope(X - h * V, W - h * Q), strict=True)]
        for h in (1e-3, 5e-4)
    )
    for b, c, f in zip((bx, bw), coarse, fine, strict=True):
        np.testing.assert_allclose(b, (4 * f - c) / 3, rtol=1e-8, atol=1e-9)
    with pytest.raises(OstinatoTypeError, match="scalar cost"):
        ostinato.hessian(hs, x)


def test_a_hessian_product_of_a_loop_needs_no_loop_over_directions() -> None:
    x, w, u = T.dvector("x"), T.dvector("w"), T.dvector("u")
    hs, _ = ostinato.scan(lambda v, h: T.tanh(h * w[0] + v * w[1]), sequences=x, outputs_info=T.constant(0.3))
    assert len(loops_of(ostinato.hessian_vector_product((hs**2).sum(), w, u))) <= 4


def test_theanos_names() -> None:
    x, W, v = T.dvector("x"), T.dmatrix("W"), T.dvector("v")
    y = T.dot(x, W)
    J = T.jacobian(y, x)
    given_ = {x: [1.0, 2.0], W: [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], v: [0.5, -1.0]}
    matrix, right = run([J, T.Rop(y, x, v)], given_)
    np.testing.assert_allclose(right, matrix @ given_[v])
    left = run(T.Lop(y, x, T.constant(np.array([1.0, -1.0, 2.0]))), given_)
    np.testing.assert_allclose(left, np.array([1.0, -1.0, 2.0]) @ matrix)
    H = T.hessian((y**2).sum(), x)
    np.testing.assert_allclose(run(H, given_), 2 * np.array(given_[W]) @ np.array(given_[W]).T)
    names = ("Lop", "Rop", "grad", "hessian", "hessian_vector_product", "jacobian", "jvp", "vjp")
    assert all(getattr(ostinato, n) is getattr(ostinato.gradient, n) for n in names)
