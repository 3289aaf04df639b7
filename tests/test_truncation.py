"""`truncate_gradient`: derivatives of any order and mode see the last k steps and nothing before.

The reference is a plain loop that reads its arguments twice: early steps read one copy, the last k steps
another, and what early steps computed is a number to the late ones. Derivatives with respect to the second copy,
by complex steps (and differences of these), are what truncation means.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T


def step(m: Any, a_2: Any, a_1: Any, b: Any, x: Any, x_1: Any, w: Any) -> tuple[Any, Any, Any]:
    """Two states (one with two lags), a sequence with two taps, an invariant, an output of its own."""
    a = m.tanh(w * a_1 - 0.4 * a_2 + x) + 0.3 * b
    new_b = m.sin(b * w) + x_1 * a_1
    return a, new_b, a * b * x


def symbolic(k: int) -> tuple[list[Any], list[Any]]:
    x, a0, b0, w = T.dvector("x"), T.dvector("a0"), T.dscalar("b0"), T.dscalar("w")
    outputs, _ = ostinato.scan(
        lambda x_1, x, a_2, a_1, b, w: list(step(T, a_2, a_1, b, x, x_1, w)),
        sequences={"input": x, "taps": [-1, 0]},
        outputs_info=[{"initial": a0, "taps": [-2, -1]}, b0, None],
        non_sequences=w,
        truncate_gradient=k,
    )
    return [x, a0, b0, w], outputs


def plain(early: list[Any], late: list[Any], k: int) -> list[Any]:
    """Columns of outputs; late steps read `late`."""
    n = len(early[0]) - 1
    columns: list[list[Any]] = [[], [], []]
    (_, a, b, _) = late if n <= k else early
    history, b = list(a), b
    for t in range(n):
        x, _, _, w = late if t >= n - k else early
        a, b, y = step(np, history[-2], history[-1], b, x[t + 1], x[t], w)
        history.append(a)
        for column, v in zip(columns, (a, b, y), strict=True):
            column.append(v)
    return [np.array(c) for c in columns]


N = 6
ARRAYS = [np.linspace(-0.9, 1.1, N + 1), np.array([0.3, -0.5]), np.float64(0.7), np.float64(0.8)]
RNG = np.random.default_rng(8)
U, U2 = ([RNG.uniform(-1, 1, np.shape(a)) for a in ARRAYS] for _ in range(2))
V = [RNG.uniform(-1, 1, N) for _ in range(3)]


def along(direction: list[Any], h: complex) -> list[Any]:
    return [a + h * u for a, u in zip(ARRAYS, direction, strict=True)]


def expected_tangents(k: int, late: list[Any]) -> list[Any]:
    moved = [a + 1e-30j * u for a, u in zip(late, U, strict=True)]
    return [np.imag(c) / 1e-30 for c in plain(ARRAYS, moved, k)]


@pytest.mark.parametrize(
    ("k", "mode"), [(3, "native"), *[(k, "reference") for k in (1, 2, 3, N - 1, N, N + 3)]], ids=str
)
def test_both_modes_see_the_last_steps(k: int, mode: str) -> None:
    inputs, outputs = symbolic(k)
    tangents = ostinato.jvp(outputs, inputs, U)
    pulled = ostinato.vjp(outputs, inputs, V)
    found = ostinato.function(inputs, [*tangents, *pulled], mode=mode)(*ARRAYS)
    expected = expected_tangents(k, ARRAYS)
    for t, e in zip(found[:3], expected, strict=True):
        np.testing.assert_allclose(t, e, rtol=1e-12, atol=1e-13)
    for i, g in enumerate(found[3:]):
        for index in np.ndindex(np.shape(ARRAYS[i])):
            late = [np.array(a, complex) for a in ARRAYS]
            late[i][index] += 1e-30j
            slope = sum((np.imag(c) / 1e-30 * v).sum() for c, v in zip(plain(ARRAYS, late, k), V, strict=True))
            np.testing.assert_allclose(g[index], slope, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("k", [1, 3, N])
def test_second_order_in_all_orders_of_modes(k: int) -> None:
    inputs, outputs = symbolic(k)
    cost = sum((y * v).sum() for y, v in zip(outputs, V, strict=True))

    def dot(gradients: list[Any], direction: list[Any]) -> Any:
        return sum((g * u).sum() for g, u in zip(gradients, direction, strict=True))

    forms = [
        dot(T.grad(dot(T.grad(cost, inputs), U), inputs), U2),
        dot(T.grad(ostinato.jvp(cost, inputs, U), inputs), U2),
        ostinato.jvp(dot(T.grad(cost, inputs), U), inputs, U2),
        ostinato.jvp(ostinato.jvp(cost, inputs, U), inputs, U2),
    ]
    found = ostinato.function(inputs, forms)(*ARRAYS)

    def slope(h: float) -> Any:
        return sum((t * v).sum() for t, v in zip(expected_tangents(k, along(U2, h)), V, strict=True))

    h = 1e-3
    coarse, fine = ((slope(d) - slope(-d)) / (2 * d) for d in (h, h / 2))
    np.testing.assert_allclose(found, [(4 * fine - coarse) / 3] * 4, rtol=1e-8, atol=1e-10)


def test_a_linear_state_forgets_what_is_older() -> None:
    """The state is a plain sum of rows, the case of Theano's issue 4652: with k=3 each output counts by its age."""
    x, h0 = T.dvector("x"), T.dscalar("h0")
    hs, _ = ostinato.scan(lambda v, h: h + v, sequences=x, outputs_info=h0, truncate_gradient=3)
    g = ostinato.function([x, h0], T.grad(hs.sum(), [x, h0]), on_unused_input="ignore")
    rows, start = g(np.ones(6), 0.0)
    assert rows.tolist() == [0, 0, 0, 3, 2, 1]
    assert start == 0
    last = ostinato.function([x, h0], T.grad(hs[-1], [x, h0]), on_unused_input="ignore")(np.ones(6), 0.0)
    assert last[0].tolist() == [0, 0, 0, 1, 1, 1]
    rows, start = g(np.ones(3), 0.0)
    assert (rows.tolist(), start) == ([3, 2, 1], 3)


@pytest.mark.parametrize("k", [2, 50])
def test_truncation_with_until_counts_from_the_steps_made(k: int) -> None:
    x, w = T.dvector("x"), T.dscalar("w")
    hs, _ = ostinato.scan(
        lambda v, h: (h * w + v * v, ostinato.until(h * w + v * v > 4)),
        sequences=x,
        outputs_info=T.constant(0.5, dtype="float64"),
        truncate_gradient=k,
    )
    data, u = np.linspace(0.5, 2.0, 12), np.cos(np.arange(12.0))
    outputs = [hs, ostinato.jvp(hs, [x, w], [u, 0.3]), *ostinato.vjp(hs, [x, w], T.sin(hs))]
    made, tangent, gx, gw = ostinato.function([x, w], outputs)(data, 0.6)
    n = len(made)
    assert 2 < n < 12

    def steps(v: Any, w: Any) -> Any:
        h, column = 0.5, []
        for t in range(n):
            late = t >= n - k
            h = h * (w if late else 0.6) + (v[t] if late else data[t]) ** 2
            column.append(h)
        return np.array(column)

    np.testing.assert_allclose(made, steps(data, 0.6), rtol=1e-14)
    np.testing.assert_allclose(tangent, np.imag(steps(data + 1e-30j * u, 0.6 + 0.3e-30j)) / 1e-30, rtol=1e-12)
    np.testing.assert_allclose((gx * u).sum() + gw * 0.3, (tangent * np.sin(made)).sum(), rtol=1e-12)
    assert not gx[n:].any()
    assert not gx[: max(n - k, 0)].any()


def test_a_truncated_loop_inside_a_loop() -> None:
    """Each run of the inner loop forgets by itself; the outer loop forgets nothing."""
    x, w, h0 = T.dmatrix("x"), T.dscalar("w"), T.dscalar("h0")

    def outer(row: Any, h: Any) -> Any:
        inner, _ = ostinato.scan(
            lambda v, s: T.tanh(s * w + v) + 0.1 * h, sequences=row, outputs_info=h, truncate_gradient=2
        )
        return inner[-1] + inner[0]

    hs, _ = ostinato.scan(outer, sequences=x, outputs_info=h0)
    data, u = np.linspace(-1, 1, 12).reshape(3, 4), np.cos(np.arange(12.0)).reshape(3, 4)
    v = np.array([0.5, -1.0, 0.25])
    given = [x, w, h0]
    found = ostinato.function(given, [ostinato.jvp(hs, given, [u, 0.3, 0.7]), *ostinato.vjp(hs, given, v)])(
        data, 0.6, 0.2
    )

    def outer_plain(x: Any, w: Any, h: Any) -> Any:
        column = []
        for row in x:
            s, inner = np.real(h), []
            for t, r in enumerate(row):
                # Inside of the early steps everything is a number, the outer state included.
                late = t >= len(row) - 2
                s = np.tanh(s * (w if late else np.real(w)) + (r if late else np.real(r)))
                s = s + 0.1 * (h if late else np.real(h))
                inner.append(s)
            h = inner[-1] + inner[0]
            column.append(h)
        return np.array(column)

    tangent = np.imag(outer_plain(data + 1e-30j * u, 0.6 + 0.3e-30j, 0.2 + 0.7e-30j)) / 1e-30
    np.testing.assert_allclose(found[0], tangent, rtol=1e-12)
    pulled = (found[1] * u).sum() + found[2] * 0.3 + found[3] * 0.7
    np.testing.assert_allclose(pulled, (tangent * v).sum(), rtol=1e-12)
