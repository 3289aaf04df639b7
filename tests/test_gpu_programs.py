"""Programs that people write, on the device: lookups, shifts, factorisations, sizes of zero and one, and the like."""

from __future__ import annotations

from typing import Any

import numpy as np

import ostinato
import ostinato.tensor as T
from on_gpu import compare, normal

scan = ostinato.scan


def test_numbers_in_a_vector() -> None:
    x = T.dmatrix("x")
    y, _ = scan(
        lambda i, h, v: h * 0.5 + v * 1.0,
        T.arange(4),
        T.zeros_like(x[0]),
        non_sequences=T.stack([x.shape[0], x.shape[1], x.shape[0]]),
    )
    compare([x], [y], [normal(4, 3, dtype="float64")], became="")


def test_numbers_and_booleans_that_stay() -> None:
    x = T.dmatrix("x")
    n = T.lscalar("n")
    b = T.tensor("bool", (), "b")
    y, _ = scan(lambda x_t, h: T.switch(b, h + x_t * n, h), x, T.zeros_like(x[0]))
    compare([x, n, b], [y, T.grad(T.sum(y), x)], [normal(4, 3, dtype="float64"), 3, True], became="")


def test_an_element_at_a_given_place() -> None:
    x = T.dmatrix("x")
    i = T.lscalar("i")
    y, _ = scan(lambda x_t, h: h * 0.5 + x_t[i], x, T.constant(0.0, dtype="float64"))
    compare([x, i], [y, T.grad(T.sum(y), x)], [normal(4, 3, dtype="float64"), -1], became="")


def test_rows_looked_up() -> None:
    x = T.dmatrix("x")
    k = T.lvector("k")
    y, _ = scan(lambda k_t, h: h * 0.5 + x[k_t], k, T.zeros_like(x[0]))
    compare([x, k], [y, T.grad(T.sum(y**2), x)], [normal(4, 3, dtype="float64"), np.array([0, 3, -1, 2, 2])], became="")


def test_rows_by_the_number_of_the_step() -> None:
    x = T.dmatrix("x")
    y, _ = scan(lambda t, h: h * 0.5 + x[t] + x[x.shape[0] - 1 - t], T.arange(x.shape[0]), T.zeros_like(x[0]))
    compare([x], [y, T.grad(T.sum(y**2), x)], [normal(5, 3, dtype="float64")], became="")


def test_a_short_shift_register() -> None:
    x = T.dtensor3("x")
    y, _ = scan(
        lambda x_t, h: T.concatenate([h[:, 1:], T.sum(x_t, axis=1, keepdims=True)], axis=1), x, T.zeros_like(x[0])
    )
    compare([x], [y, T.grad(T.sum(y**2), x)], [normal(4, 3, 5, dtype="float64")], became="")


def test_a_long_shift_register() -> None:
    x = T.dtensor3("x")
    y, _ = scan(
        lambda x_t, h: T.concatenate([h[:, 1:], T.sum(x_t, axis=1, keepdims=True)], axis=1), x, T.zeros_like(x[0])
    )
    compare([x], [y, T.grad(T.sum(y**2), x)], [normal(4, 3, 40, dtype="float64")], became="")


def test_products_of_stacks() -> None:
    x = T.dmatrix("x")
    A = T.dtensor3("A")
    y, _ = scan(lambda x_t, h: T.batched_dot(A, h[:, :, None])[:, :, 0] + x_t[None], x, T.zeros_like(A[:, 0]))
    compare(
        [x, A],
        [y, T.grad(T.sum(y**2), A)],
        [normal(4, 3, dtype="float64"), normal(2, 3, 3, dtype="float64")],
        became="",
    )


def test_an_inverse() -> None:
    x = T.dmatrix("x")
    L = T.dmatrix("L")
    y, _ = scan(lambda x_t, P: T.linalg.inv(P + T.eye(3, dtype="float64") * 2) + T.outer(x_t, x_t), x, L)
    compare([x, L], [y, T.grad(T.sum(y**2), L)], [normal(3, 3, dtype="float64"), np.eye(3)], became="")


def test_largest_values_and_their_places() -> None:
    x = T.dmatrix("x")
    (a, b), _ = scan(
        lambda x_t, a, b: (T.maximum(a, x_t), T.cast(T.argmax(x_t), "int64") + b * 0), x, [x[0], T.constant(0)]
    )
    compare([x], [a, b], [normal(4, 5, dtype="float64")], became="")


def test_short_cumulative_sums() -> None:
    x = T.dmatrix("x")
    y, _ = scan(lambda x_t, h: T.cumsum(x_t + h) + T.prod(x_t + 1), x, T.zeros_like(x[0]))
    compare([x], [y, T.grad(T.sum(y**2), x)], [normal(3, 5, dtype="float64") * 0.1], became="")


def test_long_cumulative_sums() -> None:
    x = T.dmatrix("x")
    y, _ = scan(lambda x_t, h: T.cumsum(x_t + h) * 0.1, x, T.zeros_like(x[0]))
    compare([x], [y, T.grad(T.sum(y**2), x)], [normal(3, 50, dtype="float64") * 0.1], became="")


def test_a_state_times_itself() -> None:
    x = T.dmatrix("x")
    h0 = T.dmatrix("h0")
    y, _ = scan(lambda x_t, h: T.dot(h, h.T) * 0.1 + x_t[0], x, h0)
    compare(
        [x, h0], [y, T.grad(T.sum(y**2), h0)], [normal(3, 4, dtype="float64"), normal(4, 4, dtype="float64")], became=""
    )


def test_a_large_state_times_itself() -> None:
    x = T.fmatrix("x")
    h0 = T.fmatrix("h0")
    y, _ = scan(lambda x_t, h: T.dot(h, h.T) * np.float32(0.1) + x_t[0], x, h0)
    compare([x, h0], [y, T.grad(T.sum(y**2), h0)], [normal(3, 20), normal(20, 20)], tol=1e-3, became="")


def test_a_softmax_of_two_products() -> None:
    x = T.ftensor3("x")
    h0 = T.fmatrix("h0")
    U = T.fmatrix("U")
    V = T.fmatrix("V")

    def step(x_t: Any, h: Any) -> Any:
        s = T.dot(T.tanh(T.dot(h, U)), V)
        e = T.exp(s - T.max(s, axis=1, keepdims=True))
        return e / T.sum(e, axis=1, keepdims=True) + x_t

    y, _ = scan(step, x, h0)
    compare(
        [x, h0, U, V],
        [y, *T.grad(T.sum(y**2), [U, V, x])],
        [normal(3, 2, 12), normal(2, 12), normal(12, 20), normal(20, 12)],
        tol=1e-3,
        became="",
    )


def test_a_mean_over_the_batch() -> None:
    x = T.tensor("float64", (None, None, None), "x")
    y, _ = scan(lambda x_t, h: h * 0.5 + T.mean(x_t * h, axis=0, keepdims=True), x, T.zeros_like(x[0]))
    compare([x], [y, T.grad(T.sum(y**2), x)], [normal(3, 40, 7, dtype="float64")], became="")


def test_a_chain_of_integers() -> None:
    x = T.ivector("x")
    y, _ = scan(lambda x_t, h: h * 2 + x_t // 3, x, T.constant(1, dtype="int32"))
    compare([x], [y], [np.arange(-4, 4, dtype="int32")], became="")


def test_no_lanes_at_all() -> None:
    x = T.dmatrix("x")
    y, _ = scan(
        lambda x_t, h: (
            h + x_t,
            T.sum(h),
        ),
        x,
        [T.zeros_like(x[0]), None],
    )
    compare([x], y, [np.zeros((3, 0))], became="")


def test_rearranged_states() -> None:
    s = T.dvector("s")
    y, _ = scan(lambda h: h.reshape((2, 3)).T.reshape((6,)) * 0.5 + 1, outputs_info=[s], n_steps=4)
    compare([s], [y, T.grad(T.sum(y**2), s)], [normal(6, dtype="float64")], became="")


def test_tangents_beside_values() -> None:
    x, w = T.dmatrix("x"), T.dvector("w")
    y, _ = scan(lambda x_t, h: T.tanh(h * w + x_t), x, T.zeros_like(x[0]))
    outputs = [y, ostinato.jvp(y, [x, w], [T.cos(x), T.ones_like(w)]), ostinato.hessian_vector_product(y.sum(), w, w)]
    compare([x, w], outputs, [normal(4, 3, dtype="float64"), normal(3, dtype="float64")], became="kernel")


def test_gradients_clipped_and_scaled() -> None:
    x = T.dmatrix("x")
    y, _ = scan(lambda x_t, h: T.grad_clip(2 * h + T.grad_scale(x_t, 3), -1.5, 1.5), x, T.zeros_like(x[0]))
    compare([x], [y, T.grad(T.sum(y[-1]), x)], [normal(4, 3, dtype="float64")], became="kernel")
