"""Loops as kernels: recurrences of all shapes, and their derivatives, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import ostinato
import ostinato.tensor as T
from gpu_programs import PROGRAMS
from on_gpu import ON_GPU, compare, normal
from ostinato.backends.triton.kernels import rehearsal
from test_loops import Program, inputs_of, programs, symbolic, symbolic_cost

scan, until = ostinato.scan, ostinato.until


def with_gradients(inputs: list[Any], outputs: list[Any], wrt: list[Any]) -> list[Any]:
    """The outputs, and derivatives of a sum of their squares."""
    cost = sum(T.sum(y**2) for y in outputs if y.type.is_float)
    return [*outputs, *T.grad(cost, wrt)]


# ---- lanes ----------------------------------------------------------------------------------------


def tanh_rnn(dtype: str = "float64") -> tuple[list[Any], Any]:
    x, a = T.tensor(dtype, (None, None), "x"), T.tensor(dtype, (None,), "a")
    y, _ = scan(lambda x_t, h: T.tanh(a * h + x_t), x, T.zeros_like(x[0]), name="rnn")
    return [x, a], y


@pytest.mark.parametrize("lanes", [1, 3, 17, 20, 40])
@pytest.mark.parametrize("steps", [0, 1, 2, 7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lanes(steps: int, lanes: int, dtype: str) -> None:
    inputs, y = tanh_rnn(dtype)
    arrays = [normal(steps, lanes, dtype=dtype), normal(lanes, dtype=dtype)]
    compare(inputs, with_gradients(inputs, [y], inputs), arrays, became="kernel" if steps else "")


def test_a_scalar_chain() -> None:
    x, a = T.dvector("x"), T.dscalar("a")
    y, _ = scan(lambda x_t, h: T.tanh(a * h + x_t), x, T.constant(0.0, dtype="float64"))
    compare([x, a], with_gradients([x, a], [y], [x, a]), [normal(9, dtype="float64"), 0.4])


def test_lanes_of_two_axes() -> None:
    x, a = T.ftensor3("x"), T.fvector("a")
    y, _ = scan(lambda x_t, h: T.sin(a * h + x_t), x, T.zeros_like(x[0]))
    compare([x, a], with_gradients([x, a], [y], [x, a]), [normal(4, 3, 5), normal(5)])


def test_states_that_broadcast() -> None:
    x, w, h0 = T.fmatrix("x"), T.fmatrix("w"), T.fmatrix("h0")
    y, _ = scan(lambda x_t, h: T.tanh(h * 0.5 + w * x_t[None, :]), x, h0)
    compare([x, w, h0], with_gradients([x, w, h0], [y], [x, w]), [normal(4, 5), normal(3, 1), normal(3, 5)])


def test_a_state_that_starts_as_one_row_for_all() -> None:
    x, h0 = T.fmatrix("x"), T.fvector("h0")
    y, _ = scan(lambda x_t, h: h * 0.5 + x_t, x, T.zeros_like(x[0]) + h0[0])
    compare([x, h0], with_gradients([x, h0], [y], [x, h0]), [normal(4, 5), normal(2)])


def test_a_system_of_equations() -> None:
    s0, p = T.fmatrix("s0"), T.fvector("p")

    def slope(s: Any) -> Any:
        return T.stack([s[0] * (p[0] - p[1] * s[1]), s[1] * (p[2] * s[0] - p[3])])

    def step(s: Any) -> Any:
        h = np.float32(0.05)
        k1 = slope(s)
        k2 = slope(s + h / 2 * k1)
        return s + h * k2

    y, _ = scan(step, outputs_info=[s0], n_steps=6)
    arrays = [np.abs(normal(2, 7)) + np.float32(0.5), np.abs(normal(4)) + np.float32(0.2)]
    compare([s0, p], with_gradients([s0, p], [y], [s0, p]), arrays)


def test_garch() -> None:
    r, p = T.dmatrix("r"), T.dmatrix("p")
    v, _ = scan(lambda r_t, v: p[0] + p[1] * r_t**2 + p[2] * v, r, T.mean(r**2, axis=0))
    cost = T.sum(T.log(v) + r**2 / v)
    arrays = [normal(9, 6, dtype="float64"), np.abs(normal(3, 6, dtype="float64")) * 0.3 + 0.1]
    compare([r, p], [v, cost, *T.grad(cost, [r, p])], arrays)


# ---- rows and products ----------------------------------------------------------------------------


def lstm(x_t: Any, h: Any, c: Any, W: Any, U: Any, b: Any) -> tuple[Any, Any]:
    n = U.shape[0]
    z = T.dot(x_t, W) + T.dot(h, U) + b
    i, f, g, o = [z[:, k * n : (k + 1) * n] for k in range(4)]
    c = T.nnet.sigmoid(f) * c + T.nnet.sigmoid(i) * T.tanh(g)
    return T.nnet.sigmoid(o) * T.tanh(c), c


@pytest.mark.parametrize(("rows", "inputs", "hidden"), [(3, 18, 20), (1, 3, 17), (17, 2, 3), (2, 5, 1), (2, 16, 32)])
def test_lstm(rows: int, inputs: int, hidden: int) -> None:
    x, h0, c0, W, U, b = T.ftensor3("x"), *T.fmatrices("h0", "c0", "W", "U"), T.fvector("b")
    (h, c), _ = scan(lambda x_t, h, c: lstm(x_t, h, c, W, U, b), x, [h0, c0])
    given = [x, h0, c0, W, U, b]
    shapes = [
        (4, rows, inputs),
        (rows, hidden),
        (rows, hidden),
        (inputs, 4 * hidden),
        (hidden, 4 * hidden),
        (4 * hidden,),
    ]
    compare(given, with_gradients(given, [h, c], given), [normal(*s, seed=k) for k, s in enumerate(shapes)], tol=1e-4)


def test_gru() -> None:
    x, h0, W, U = T.ftensor3("x"), *T.fmatrices("h0", "W", "U")
    n = h0.shape[1]

    def step(x_t: Any, h: Any) -> Any:
        a, b = T.dot(x_t, W), T.dot(h, U)
        r, z = (T.nnet.sigmoid(a[:, k * n : (k + 1) * n] + b[:, k * n : (k + 1) * n]) for k in range(2))
        new = T.tanh(a[:, 2 * n :] + r * b[:, 2 * n :])
        return new + z * (h - new)

    y, _ = scan(step, x, [h0])
    given = [x, h0, W, U]
    compare(
        given,
        with_gradients(given, [y], given),
        [normal(4, 2, 18), normal(2, 20), normal(18, 60), normal(20, 60)],
        tol=1e-4,
    )


@pytest.mark.parametrize(("rows", "hidden"), [(3, 12), (1, 20)])
def test_layer_norm(rows: int, hidden: int) -> None:
    x, h0, U, g = T.ftensor3("x"), *T.fmatrices("h0", "U"), T.fvector("g")

    def step(x_t: Any, h: Any) -> Any:
        z = T.dot(h, U) + x_t
        centred = z - T.mean(z, axis=1, keepdims=True)
        return T.tanh(centred / T.sqrt(T.mean(centred**2, axis=1, keepdims=True) + np.float32(1e-2)) * g)

    y, _ = scan(step, x, [h0])
    arrays = [normal(4, rows, hidden), normal(rows, hidden), normal(hidden, hidden), normal(hidden)]
    compare([x, h0, U, g], with_gradients([], [y], [U, g, x]), arrays, tol=2e-4)


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
def test_precision_of_products(precision: str) -> None:
    """Rounded factors come close; the interpreter does not round to TF32."""
    if precision == "bf16" and not ON_GPU:
        pytest.skip("Triton's interpreter multiplies matrices of bfloat16 wrongly")
    x, h0, U = T.ftensor3("x"), *T.fmatrices("h0", "U")
    y, _ = scan(lambda x_t, h: T.tanh(T.dot(h, U) + x_t), x, h0)
    with ostinato.config.change_flags(gpu_precision=precision):
        compare(
            [x, h0, U],
            [y],
            [normal(4, 2, 20), normal(2, 20), normal(20, 20)],
            tol=3e-5 if precision == "ieee" else 5e-2,
        )


def test_products_of_float64() -> None:
    x, h0, U = T.dtensor3("x"), *T.dmatrices("h0", "U")
    y, _ = scan(lambda x_t, h: T.tanh(T.dot(h, U) + x_t), x, h0)
    shapes = [(4, 2, 10), (2, 10), (10, 10)]
    compare([x, h0, U], with_gradients([], [y], [x, U]), [normal(*s, dtype="float64") for s in shapes])


@pytest.mark.parametrize("hidden", [1, 3, 17, 20])
def test_a_vector_state_and_a_matrix(hidden: int) -> None:
    x, U = T.fmatrix("x"), T.fmatrix("U")
    y, _ = scan(lambda x_t, h: T.tanh(T.dot(h, U) + x_t), x, T.zeros_like(x[0]))
    compare([x, U], with_gradients([], [y], [x, U]), [normal(4, hidden), normal(hidden, hidden)], tol=1e-4, became="")


def test_delta_rule() -> None:
    q, k, v = (T.ftensor3(n) for n in "qkv")
    b, S0 = T.fmatrix("b"), T.ftensor3("S0")

    def step(q_t: Any, k_t: Any, v_t: Any, b_t: Any, S: Any) -> tuple[Any, Any]:
        error = v_t - T.sum(k_t[:, :, None] * S, axis=1)
        S = S + (b_t[:, None] * k_t)[:, :, None] * error[:, None, :]
        return S, T.sum(q_t[:, :, None] * S, axis=1)

    (S, y), _ = scan(step, [q, k, v, b], [S0, None])
    arrays = [normal(5, 3, 10), normal(5, 3, 10, seed=1), normal(5, 3, 12), normal(5, 3), normal(3, 10, 12)]
    cost = T.sum(y**2)
    compare([q, k, v, b, S0], [y, S[-1], *T.grad(cost, [q, k, v, b, S0])], arrays, tol=2e-4)


def test_hidden_markov_model() -> None:
    e, A = T.ftensor3("e"), T.fmatrix("A")

    def step(e_t: Any, a: Any) -> Any:
        z = a[:, :, None] + A
        top = T.max(z, axis=1, keepdims=True)
        return T.log(T.sum(T.exp(z - top), axis=1)) + top[:, 0, :] + e_t

    y, _ = scan(step, e, [e[0]])
    cost = T.sum(y[-1])
    compare([e, A], [y, *T.grad(cost, [e, A])], [normal(5, 3, 9), normal(9, 9)])


def test_kalman_filter() -> None:
    z, F, Q = T.dtensor3("z"), *T.dmatrices("F", "Q")

    def step(z_t: Any, m: Any, P: Any) -> tuple[Any, Any, Any]:
        m = T.dot(m, F.T)
        P = T.sum(F[None, :, :, None] * P[:, None, :, :], axis=2)
        P = T.sum(P[:, :, :, None] * F.T[None, None], axis=2) + Q
        S = P[:, 0, 0] + 0.5
        K, r = P[:, :, 0] / S[:, None], z_t[:, 0] - m[:, 0]
        return m + K * r[:, None], P - K[:, :, None] * P[:, 0, :][:, None, :], T.log(S) + r**2 / S

    starts = [T.zeros((4, 3), dtype="float64"), T.tile(T.eye(3, dtype="float64")[None], (4, 1, 1)), None]
    (_, _, loss), _ = scan(step, z, starts)
    cost = T.sum(loss)
    arrays = [normal(5, 4, 1, dtype="float64"), normal(3, 3, dtype="float64") * 0.8, np.eye(3) * 0.2]
    compare([z, F, Q], [cost, *T.grad(cost, [F, Q])], arrays)


# ---- taps, conditions, loops in loops -------------------------------------------------------------


@pytest.mark.parametrize("taps", [[-1], [-2], [-3, -1], [-5, -4, -1]])
@pytest.mark.parametrize("row", [(), (5,), (1,)])
def test_taps_of_states(taps: list[int], row: tuple[int, ...]) -> None:
    x, init = (T.tensor("float32", (None,) * (1 + len(row)), n) for n in ("x", "init"))
    step: Any = lambda x_t, *past: x_t + sum(np.float32(0.3) * h for h in past)  # noqa: E731
    y, _ = scan(step, x, [{"initial": init if taps != [-1] else init[0], "taps": taps}])
    compare([x, init], with_gradients([], [y], [x, init]), [normal(8, *row), normal(-min(taps), *row)])


def test_taps_of_sequences() -> None:
    x = T.fmatrix("x")
    y, _ = scan(lambda a, b, h: h * 0.5 + a * b, [{"input": x, "taps": [-1, 1]}], T.zeros_like(x[0]))
    compare([x], with_gradients([], [y], [x]), [normal(7, 4)])


def test_until() -> None:
    x = T.fvector("x")

    def step(h: Any) -> Any:
        h = h * np.float32(0.7)
        return h, until(T.max(T.abs(h)) < 0.1)

    y, _ = scan(step, outputs_info=[x], n_steps=1_000_000)
    f = compare([x], with_gradients([], [y], [x]), [normal(6)], became="")
    assert f([1.0, 1.0])[0].shape == (7, 2)
    assert f([0.0])[0].shape == (1, 1)


def test_until_in_several_blocks_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostinato.backends.triton.runners._FIRST_STEPS", 2)
    x = T.fvector("x")
    (k, y), _ = scan(lambda k, y: ((k + 1, y * 0.5 + k), until(k >= 12)), None, [T.constant(0), x], n_steps=10**6)
    f = compare([x], [k[-1], y, y.shape[0]], [normal(5)], became="")
    assert int(f([1.0])[2]) == 13


@pytest.mark.parametrize("n", [2, 12])
def test_a_vector_as_a_row_and_as_a_column(n: int) -> None:
    v, M = T.dvector("v"), T.dmatrix("M")

    def step(v: Any, M: Any) -> Any:
        return T.tanh(T.dot(M, v) + T.dot(v, v) / 4), M / 2 + T.outer(v, v)

    (vs, Ms), _ = scan(step, outputs_info=[v, M], n_steps=3)
    arrays = [normal(n, dtype="float64"), normal(n, n, dtype="float64")]
    compare([v, M], with_gradients([], [vs, Ms], [v, M]), arrays, became="")


def test_until_counts_its_steps_at_every_call() -> None:
    """How many steps there are follows from values, even where all shapes are those of the call before."""
    x = T.dscalar("x")
    y, _ = scan(lambda h: (h * 0.5, until(h < 1.0)), outputs_info=x, n_steps=100)
    f = compare([x], [y, y.shape[0], T.grad(y[-1], x)], [np.float64(3.0)], became="")
    for value, steps in ((100.0, 8), (3.0, 3), (0.5, 1), (1000.0, 11)):
        found, n, slope = f(value)
        assert (found.shape, int(n)) == ((steps,), steps)
        assert slope == 0.5**steps


def test_a_loop_in_a_loop_runs_step_by_step() -> None:
    x, a = T.dmatrix("x"), T.dscalar("a")

    def outer(x_t: Any, h: Any) -> Any:
        r, _ = scan(lambda s: T.tanh(a * s + x_t), outputs_info=[h], n_steps=3, name="inner")
        return r[-1]

    y, _ = scan(outer, x, T.zeros_like(x[0]), name="outer")
    f = compare([x, a], with_gradients([], [y], [x, a]), [normal(5, 4, dtype="float64"), 0.3], became="")
    assert "Loop outer runs step by step on the device: a loop within the loop." in f.explain()


def test_map() -> None:
    x, W, b = T.ftensor3("x"), T.fmatrix("W"), T.fvector("b")
    y, _ = ostinato.map(lambda r: T.tanh(T.dot(r, W) + b), x)
    compare([x, W, b], with_gradients([], [y], [x, W, b]), [normal(4, 3, 5), normal(5, 6), normal(6)], became="")


def test_reduce_and_fold() -> None:
    x = T.dmatrix("x")
    total, _ = ostinato.reduce(lambda r, s: s * 0.5 + r, x, T.zeros_like(x[0]))
    right, _ = ostinato.foldr(lambda r, s: s * 0.5 + r, x, T.zeros_like(x[0]))
    compare([x], with_gradients([], [total, right], [x]), [normal(6, 5, dtype="float64")])


# ---- kinds of arrays ------------------------------------------------------------------------------


def test_integers_and_booleans() -> None:
    x = T.lmatrix("x")
    start = [T.zeros_like(x[0]), T.zeros_like(x[0]) > 1, T.zeros_like(x[0]).astype("int8")]
    y, _ = scan(lambda x_t, h, k, s: (h + x_t % 3, k | (x_t > 2), (s + x_t).astype("int8")), x, start)
    compare([x], y, [np.random.default_rng(0).integers(-5, 5, size=(6, 4))])


def test_the_number_of_the_step() -> None:
    x = T.fmatrix("x")
    y, _ = scan(lambda t, x_t, h: h * 0.5 + x_t * t.astype("float32"), [T.arange(x.shape[0]), x], T.zeros_like(x[0]))
    compare([x], [y], [normal(5, 4)])


@pytest.mark.parametrize("backwards", [False, True])
def test_reversed_and_strided_inputs(backwards: bool) -> None:
    x, a = T.dmatrix("x"), T.dvector("a")
    y, _ = scan(lambda x_t, h: T.tanh(a * h + x_t), x, T.zeros_like(x[0]), go_backwards=backwards)
    z, _ = scan(lambda x_t, h: a * h + x_t, x[::-2], T.zeros_like(x[0]))
    arrays = [normal(12, 10, dtype="float64")[::-2, ::2], normal(5, dtype="float64")[::-1]]
    compare([x, a], with_gradients([], [y, z], [x, a]), arrays)
    compare([x, a], with_gradients([], [y, z], [x, a]), [np.asfortranarray(arrays[0]), arrays[1]])


def test_several_outputs_and_a_state_that_is_not_recorded() -> None:
    x = T.fmatrix("x")
    (a, b, c), _ = scan(
        lambda x_t, a, b: (a + x_t, b * 0.5 + a, a * b), x, [T.zeros_like(x[0]), T.ones_like(x[0]), None]
    )
    compare([x], with_gradients([], [a[-1], c], [x]), [normal(5, 4)])
    compare([x], [b[-1], a, c[1:]], [normal(5, 4)])


@pytest.mark.parametrize("rows", [(), (2,)])
def test_masks_are_recorded_for_derivatives(rows: tuple[int, ...]) -> None:
    """Where a derivative only asks which branch was taken, steps record that: booleans."""
    x, w, h0 = T.tensor("float64", (None,) * (2 + len(rows)), "x"), T.dmatrix("w"), T.vector("h0", "float64")
    start = h0 + T.zeros_like(x[0])

    def step(x_t: Any, h: Any) -> Any:
        return T.maximum(T.dot(h, w) + x_t, 0.0) - T.switch(h * x_t > 0.2, h, 0.1 * h)

    y, _ = scan(step, x, start)
    arrays = [normal(6, *rows, 5, dtype="float64"), normal(5, 5, dtype="float64") / 2, normal(5, dtype="float64")]
    compare([x, w, h0], with_gradients([], [y], [w, h0]), arrays, became="kernel")


def test_states_that_change_places() -> None:
    a, b = T.fvectors("a", "b")
    (p, q), _ = scan(lambda p, q: (q, p + q), outputs_info=[a, b], n_steps=5)
    compare([a, b], [p, q], [normal(3), normal(3, seed=1)])


def test_truncated_gradients() -> None:
    x, a = T.dmatrix("x"), T.dvector("a")
    y, _ = scan(lambda x_t, h: T.tanh(a * h + x_t), x, T.zeros_like(x[0]), truncate_gradient=2)
    compare([x, a], with_gradients([], [y], [x, a]), [normal(6, 4, dtype="float64"), normal(4, dtype="float64")])


def test_second_derivatives() -> None:
    (x, a), y = tanh_rnn()
    g = T.grad(T.sum(y**2), a)
    compare([x, a], [T.grad(T.sum(g**2), a)], [normal(5, 4, dtype="float64"), normal(4, dtype="float64")])


def test_an_operation_without_a_kernel_runs_step_by_step_and_is_told() -> None:
    x = T.dmatrix("x")
    y, _ = scan(lambda x_t, h: h + T.polygamma(1, x_t), x, T.zeros_like(x[0]), name="trigamma")
    f = compare([x], [y], [np.abs(normal(3, 2, dtype="float64")) + 1], became="steps")
    assert "Loop trigamma runs step by step on the device: polygamma of float64 within a kernel." in f.explain()
    assert "Calls out to NumPy: polygamma." in f.explain()


def test_float16() -> None:
    x = T.tensor("float16", (None, None), "x")
    y, _ = scan(lambda x_t, h: h * T.constant(0.5, dtype="float16") + x_t, x, T.zeros_like(x[0]))
    z, _ = scan(lambda x_t, h: T.exp(h - 1) + x_t, x, T.zeros_like(x[0]))
    compare([x], [y, z], [normal(4, 3, dtype="float16")], tol=2e-2, became="")


# ---- not a number ---------------------------------------------------------------------------------

NAN, INF = np.nan, np.inf
AWKWARD = [
    [0.0, NAN, 1.0, INF, -INF, -0.0, 3.0],
    [NAN, 2.0, -1.0, INF, INF, 0.0, -2.0],
    [1.0, 1.0, NAN, -INF, 0.0, 1.0, 1.0],
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(T.maximum, id="maximum"),
        pytest.param(T.minimum, id="minimum"),
        pytest.param(lambda x, h: T.switch(x > 0, x, h), id="where"),
        pytest.param(lambda x, h: T.switch(T.isnan(x), h, x), id="isnan"),
        pytest.param(lambda x, h: T.switch(T.isinf(x), h, x), id="isinf"),
        pytest.param(lambda x, h: h + T.max(x), id="max"),
        pytest.param(lambda x, h: h + T.min(x), id="min"),
        pytest.param(lambda x, h: h * x, id="mul"),
        pytest.param(lambda x, h: T.nnet.sigmoid(x) + 0 * h, id="sigmoid"),
        pytest.param(lambda x, h: T.tanh(x) + 0 * h, id="tanh"),
        pytest.param(lambda x, h: T.exp(x) + 0 * h, id="exp"),
        pytest.param(lambda x, h: T.log(x) + 0 * h, id="log"),
        pytest.param(lambda x, h: T.sqrt(x) + 0 * h, id="sqrt"),
        pytest.param(lambda x, h: T.sgn(x) + 0 * h, id="sign"),
        pytest.param(lambda x, h: T.logaddexp(x, h), id="logaddexp"),
        pytest.param(lambda x, h: T.floor(x) + h * 0, id="floor"),
        pytest.param(lambda x, h: x % 2.0 + h * 0, id="mod"),
    ],
)
def test_nan_and_infinity(step: Any, dtype: str) -> None:
    x = T.tensor(dtype, (None, None), "x")
    y, _ = scan(step, x, T.ones_like(x[0]))
    compare([x], [y], [np.array(AWKWARD, dtype)], became="")


@pytest.mark.parametrize("size", [3, 7, 17])
@pytest.mark.parametrize("reduce", [T.max, T.min, T.sum, T.prod, T.mean, T.any, T.all, T.argmax, T.argmin])
def test_reductions_of_padded_axes(reduce: Any, size: int) -> None:
    x = T.fmatrix("x")

    def step(x_t: Any, h: Any) -> Any:
        value = x_t > h if reduce in (T.any, T.all) else x_t + h * 0.1
        return h * 0.5 + reduce(value).astype("float32")

    y, _ = scan(step, x, T.ones_like(x[0]))
    compare([x], [y], [-np.abs(normal(4, size)) - 1], became="")


# ---- how often kernels are made -------------------------------------------------------------------


def test_one_kernel_for_all_lengths_and_batches() -> None:
    """Kernels are made, but not run: that would take the interpreter long."""
    inputs, y = tanh_rnn("float32")
    with rehearsal():
        f = ostinato.function(inputs, [y[-1]], mode="gpu")
        for steps in range(50):
            f(normal(steps + 1, 3), normal(3))
        assert f.compilations == 1
        for lanes in (2, 31, 32, 33, 100, 1 << 16):
            f(normal(2, lanes), normal(lanes))
        assert f.compilations == 1
        f(normal(2, 100_000), normal(100_000))
        assert f.compilations == 2  # many lanes are taken in larger blocks


@pytest.mark.parametrize("hidden", [3, 20])
def test_one_kernel_for_all_lengths_and_batches_of_a_network(hidden: int) -> None:
    x, h0, c0, W, U, b = T.ftensor3("x"), *T.fmatrices("h0", "c0", "W", "U"), T.fvector("b")
    (h, c), _ = scan(lambda x_t, h, c: lstm(x_t, h, c, W, U, b), x, [h0, c0])
    given = [x, h0, c0, W, U, b]
    weights = [normal(4, 4 * hidden), normal(hidden, 4 * hidden), normal(4 * hidden)]
    with rehearsal():
        f = ostinato.function(given, with_gradients(given, [h, c], [W, U, b]), mode="gpu")
        for steps, rows in [*((k, 18) for k in range(1, 8)), (2, 64), (3, 100)]:
            f(normal(steps, rows, 4), normal(rows, hidden), normal(rows, hidden), *weights)
    assert f.compilations == 2, f.explain()  # there and back


# ---- on a GPU only: sizes that would take the interpreter hours --------------------------------------


@pytest.mark.skipif(not ON_GPU, reason="too large for Triton's interpreter")
@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_large(program: str) -> None:
    """The programs that other tests compile only, at their sizes."""
    make, precision = PROGRAMS[program]
    inputs, outputs, shapes = make()
    given = zip(inputs, shapes, strict=True)
    arrays = [(np.abs(normal(*s, seed=k)) / s[0] ** 0.5).astype(i.dtype) for k, (i, s) in enumerate(given)]
    expected = ostinato.function(inputs, outputs, mode="native")(*arrays)
    with ostinato.config.change_flags(gpu_precision=precision):
        found = ostinato.function(inputs, outputs, mode="gpu")(*arrays)
    for y, wanted in zip(found, expected, strict=True):
        near = 2e-3 if precision == "ieee" else 5e-2
        np.testing.assert_allclose(y, wanted, rtol=near, atol=near * max(1.0, float(np.nanmax(np.abs(wanted)))))


# ---- random loops ---------------------------------------------------------------------------------


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(programs())
def test_random_loops(program: Program) -> None:
    arrays = program.arrays()
    inputs = inputs_of(arrays)
    outputs = symbolic(program, inputs)
    grads = T.grad(symbolic_cost(program, outputs), inputs, disconnected_inputs="ignore")
    compare(inputs, [*outputs, *grads], arrays, became="")


@pytest.mark.parametrize("rows", [0, 2, 3, 6])
def test_taps_of_a_loop_without_states(rows: int) -> None:
    """The sequences, one per tap, are longer than the loop; all steps are done at once."""
    x = T.fmatrix("x")
    y, _ = ostinato.scan(lambda a, b, c: T.tanh(a * 2 - b) + c, {"input": x, "taps": [0, 1, 2]})
    compare(
        [x], [y, T.grad(T.sum(y**2), x)], [np.linspace(-1, 1, 2 * rows, dtype="float32").reshape(rows, 2)], became=""
    )


def test_a_state_that_changes_its_shape() -> None:
    x, w = T.dtensor3("x"), T.dmatrix("w")
    y, _ = scan(lambda page, h: T.tanh(page + h * w), x, T.zeros((1, w.shape[1])))
    f = compare([x, w], [y], [normal(4, 1, 3, dtype="float64"), normal(1, 3, dtype="float64")])
    with pytest.raises(
        ostinato.ShapeError, match=r"step 0: the state .* shape \(1, 3\) before the step and \(2, 3\) after"
    ):
        f(normal(4, 2, 3, dtype="float64"), normal(2, 3, dtype="float64"))
