"""Likelihoods of two state-space models and their derivatives: a Kalman filter, and hidden Markov chains.

Independent references: SciPy's multivariate normal density of all observations at once, the sum over all paths, and
complex steps through plain NumPy filters.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal

import ostinato
import ostinato.tensor as T
from numeric import central

RNG = np.random.default_rng(12)

# ---- a Kalman filter with three states and two observations ----------------------------------------

A0 = np.array([[0.8, 0.2, 0.0], [-0.1, 0.7, 0.3], [0.05, 0.0, 0.6]])
C0 = np.array([[1.0, 0.5, 0.0], [0.0, -0.3, 1.0]])
Q0 = np.array([[0.5, 0.1, 0.0], [0.1, 0.4, -0.05], [0.0, -0.05, 0.3]])
R0 = np.array([[0.3, 0.05], [0.05, 0.2]])
M0 = np.array([0.2, -0.1, 0.4])
Y = RNG.normal(size=(6, 2))
KALMAN = [A0, C0, Q0, R0, M0, Y]


def kalman(A: Any, C: Any, Q: Any, R: Any, m0: Any, y: Any) -> Any:
    """The log-likelihood by the filter, as an expression; the state starts at m0 with covariance Q."""

    def step(y_t: Any, m: Any, P: Any) -> list[Any]:
        S = T.dot(C, T.dot(P, C.T)) + R
        v = y_t - T.dot(C, m)
        K = T.dot(P, T.dot(C.T, T.linalg.inv(S)))
        density = -0.5 * (T.dot(v, T.linalg.solve(S, v)) + T.linalg.logdet(S) + 2 * np.log(2 * np.pi))
        m, P = m + T.dot(K, v), P - T.dot(K, T.dot(C, P))
        return [T.dot(A, m), T.dot(A, T.dot(P, A.T)) + Q, density]

    (_, _, terms), _ = ostinato.scan(step, sequences=y, outputs_info=[m0, Q, None])
    return terms.sum()


def kalman_plain(A: Any, C: Any, Q: Any, R: Any, m: Any, y: Any) -> Any:
    """The same with NumPy, for complex numbers too."""
    P, total = Q, 0.0
    for y_t in y:
        S = C @ P @ C.T + R
        v = y_t - C @ m
        total = total - 0.5 * (v @ np.linalg.solve(S, v) + np.log(np.linalg.det(S)) + 2 * np.log(2 * np.pi))
        K = P @ C.T @ np.linalg.inv(S)
        m, P = m + K @ v, P - K @ C @ P
        m, P = A @ m, A @ P @ A.T + Q
    return total


def kalman_at_once() -> float:
    """The density of all observations together, which are jointly normal."""
    n, powers = len(Y), [np.linalg.matrix_power(A0, k) for k in range(len(Y))]
    variances = [Q0]
    for _ in range(n - 1):
        variances.append(A0 @ variances[-1] @ A0.T + Q0)
    blocks = [
        [powers[max(s - t, 0)] @ variances[min(s, t)] @ powers[max(t - s, 0)].T for t in range(n)] for s in range(n)
    ]
    covariance = np.block([[C0 @ b @ C0.T + (s == t) * R0 for t, b in enumerate(r)] for s, r in enumerate(blocks)])
    mean = np.concatenate([C0 @ p @ M0 for p in powers])
    return float(multivariate_normal(mean, covariance).logpdf(Y.ravel()))


def complex_gradient(f: Any, arrays: list[Any], which: int) -> Any:
    result = np.zeros(arrays[which].shape)
    for index in np.ndindex(result.shape):
        moved = [np.array(a, complex) for a in arrays]
        moved[which][index] += 1e-30j
        result[index] = np.imag(f(*moved)) / 1e-30
    return result


def check_derivatives(value: Any, inputs: list[Any], arrays: list[Any], plain: Any) -> Any:
    """Gradient, a tangent and a product with the Hessian; returns the value."""
    u = [RNG.uniform(-1, 1, a.shape) for a in arrays]
    outputs = [
        value,
        ostinato.jvp(value, inputs, u),
        *T.grad(value, inputs),
        *ostinato.hessian_vector_product(value, inputs, u),
    ]
    found, tangent, *rest = ostinato.function(inputs, outputs)(*arrays)
    n = len(arrays)
    slope = sum((g * q).sum() for g, q in zip(rest[:n], u, strict=True))
    np.testing.assert_allclose(tangent, slope, rtol=1e-11)
    for i in range(n):
        np.testing.assert_allclose(rest[i], complex_gradient(plain, arrays, i), rtol=1e-8, atol=1e-10)

    def gradients(h: float) -> list[Any]:
        moved = [a + h * q for a, q in zip(arrays, u, strict=True)]
        return [complex_gradient(plain, moved, i) for i in range(n)]

    coarse, fine = ([(p - m) / (2 * h) for p, m in zip(gradients(h), gradients(-h), strict=True)] for h in (1e-3, 5e-4))
    for h, c, f in zip(rest[n:], coarse, fine, strict=True):
        np.testing.assert_allclose(h, (4 * f - c) / 3, rtol=1e-7, atol=1e-7)
    return found


def test_a_kalman_filter() -> None:
    inputs = [T.dmatrix(n) for n in "ACQR"] + [T.dvector("m0"), T.dmatrix("y")]
    value = check_derivatives(kalman(*inputs), inputs, KALMAN, kalman_plain)
    np.testing.assert_allclose(value, kalman_at_once(), rtol=1e-12)


def test_a_kalman_filter_of_known_sizes() -> None:
    """The matrices are unrolled then."""
    inputs = [T.tensor("float64", a.shape) for a in KALMAN[:-1]] + [T.tensor("float64", (None, 2))]
    outputs = T.grad(kalman(*inputs), inputs)
    for i, g in enumerate(ostinato.function(inputs, outputs)(*KALMAN)):
        np.testing.assert_allclose(g, complex_gradient(kalman_plain, KALMAN, i), rtol=1e-8, atol=1e-10)


# ---- the forward algorithm of a hidden Markov chain with three states ------------------------------

START = np.array([0.3, -0.2, 0.5])
MOVES = RNG.normal(size=(3, 3))
SEEN = RNG.normal(size=(6, 3))  # logarithms of the densities of each observation in each state
CHAIN = [START, MOVES, SEEN]


def chain_in_logarithms(start: Any, moves: Any, seen: Any) -> Any:
    """By sums of exponentials; parameters are logits."""
    steps = T.log_softmax(moves)
    first = T.log_softmax(start) + seen[0]
    last, _ = ostinato.reduce(
        lambda e, a, steps: T.logsumexp(a.dimshuffle(0, "x") + steps, axis=0) + e,
        sequences=seen[1:],
        outputs_info=first,
        non_sequences=steps,
    )
    return T.logsumexp(last)


def chain_scaled(start: Any, moves: Any, seen: Any) -> Any:
    """By probabilities that are scaled to a sum of one at each step."""
    steps = T.softmax(moves)

    def step(e: Any, p: Any, steps: Any) -> list[Any]:
        joint = T.dot(p, steps) * T.exp(e)
        total = joint.sum()
        return [joint / total, T.log(total)]

    first = T.softmax(start) * T.exp(seen[0])
    (_, terms), _ = ostinato.scan(
        step, sequences=seen[1:], outputs_info=[first / first.sum(), None], non_sequences=steps
    )
    return T.log(first.sum()) + terms.sum()


def chain_plain(start: Any, moves: Any, seen: Any) -> Any:
    """The sum over all paths."""
    p, steps = np.exp(start) / np.exp(start).sum(), np.exp(moves) / np.exp(moves).sum(1, keepdims=True)
    total = 0.0
    for path in itertools.product(range(3), repeat=len(seen)):
        likelihood = p[path[0]] * np.exp(seen[0, path[0]])
        for t in range(1, len(seen)):
            likelihood = likelihood * steps[path[t - 1], path[t]] * np.exp(seen[t, path[t]])
        total = total + likelihood
    return np.log(total)


def filter_plain(start: Any, moves: Any, seen: Any) -> Any:
    """The same by matrices, quick enough for many complex steps."""
    p, steps = np.exp(start) / np.exp(start).sum(), np.exp(moves) / np.exp(moves).sum(1, keepdims=True)
    p = p * np.exp(seen[0])
    for e in seen[1:]:
        p = (p @ steps) * np.exp(e)
    return np.log(p.sum())


@pytest.mark.parametrize("form", [chain_in_logarithms, chain_scaled])
def test_the_forward_algorithm(form: Any) -> None:
    inputs = [T.dvector("start"), T.dmatrix("moves"), T.dmatrix("seen")]
    value = check_derivatives(form(*inputs), inputs, CHAIN, filter_plain)
    np.testing.assert_allclose(value, chain_plain(*CHAIN), rtol=1e-12)


def test_a_state_that_is_never_entered() -> None:
    """Probabilities of zero, -inf in logarithms: derivatives are finite."""
    start, seen = T.dvector("start"), T.dmatrix("seen")
    with np.errstate(divide="ignore"):
        steps = np.log(np.array([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0], [0.1, 0.1, 0.8]]))
    first = T.log_softmax(start) + seen[0]
    last, _ = ostinato.reduce(
        lambda e, a: T.logsumexp(a.dimshuffle(0, "x") + steps, axis=0) + e, sequences=seen[1:], outputs_info=first
    )
    value = T.logsumexp(last)
    run = ostinato.function([start, seen], [value, *T.grad(value, [start, seen])])

    def plain(start: Any, seen: Any) -> Any:
        p = np.exp(start) / np.exp(start).sum() * np.exp(seen[0])
        for e in seen[1:]:
            p = (p @ np.exp(steps)) * np.exp(e)
        return np.log(p.sum())

    found = run(START, SEEN)
    np.testing.assert_allclose(found[0], plain(START, SEEN), rtol=1e-12)
    for i in range(2):
        np.testing.assert_allclose(found[1 + i], central(plain, [START, SEEN], i), rtol=1e-8, atol=1e-10)
