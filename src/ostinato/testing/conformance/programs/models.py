"""Programs that people fit: likelihoods of time series, a cell of a network, a differential equation."""

from __future__ import annotations

from typing import Any

import ostinato.tensor as T
from ostinato.scan import foldl, scan
from ostinato.testing.conformance.program import program

TOPIC = "models"


@program(
    TOPIC,
    "a hidden Markov model of 3 states: the forward algorithm with log-sum-exp",
    x=[0.5, -1.0, 0.25, 0.75],
    mean=[-1.0, 0.0, 1.5],
    A=[[0.5, -0.5, 0.25], [0.0, 1.0, -0.25], [0.75, 0.25, 0.5]],
)
def markov(x: Any, mean: Any, A: Any) -> Any:
    """l_j ← log Σ_i exp(l_i + A_ij) - (x_t - mean_j)² / 2, from 0; log Σ exp(l) after the last row"""

    def step(x_t: Any, l: Any) -> Any:
        return T.logsumexp(l[:, None] + A, axis=0) - (x_t - mean) ** 2 / 2

    return [T.logsumexp(foldl(step, x, T.zeros_like(mean))[0])]


@markov.reference
def _(m: Any, x: Any, mean: Any, A: Any) -> Any:
    l = 0 * mean
    for x_t in x:
        l = m.log(m.exp(l[:, None] + A).sum(axis=0)) - (x_t - mean) * (x_t - mean) / 2
    return [m.log(m.exp(l).sum())]


@program(
    TOPIC,
    "a Kalman filter of 3 states: the log likelihood",
    y=[0.5, -1.0, 0.25, 0.75],
    F=[[0.75, 0.25, 0.0], [-0.25, 0.5, 0.25], [0.0, 0.125, 0.5]],
    c=[1.0, 0.5, -0.25],
    q=0.5,
    r=0.25,
)
def kalman(y: Any, F: Any, c: Any, q: Any, r: Any) -> Any:
    """x ← F x, P ← F P Fᵀ + q I; s = cᵀ P c + r, e = y_t - cᵀ x, k = P c / s; x ← x + k e, P ← P - s k kᵀ, from x = 0,
    P = I; the sum of -(log s + e² / s) / 2"""

    def step(y_t: Any, x: Any, P: Any, total: Any) -> Any:
        x, P = T.dot(F, x), T.dot(T.dot(F, P), F.T) + q * T.eye(3, dtype=y.dtype)
        Pc = T.dot(P, c)
        s, e = T.dot(c, Pc) + r, y_t - T.dot(c, x)
        k = Pc / s
        return [x + k * e, P - s * T.outer(k, k), total - (T.log(s) + e * e / s) / 2]

    starts = [T.zeros_like(c), T.eye(3, dtype=y.dtype), T.zeros_like(q)]
    return [foldl(step, y, starts)[0][2]]


@kalman.reference
def _(m: Any, y: Any, F: Any, c: Any, q: Any, r: Any) -> Any:
    x, P, total = m.zeros(3), m.zeros((3, 3)), 0 * q
    P[[0, 1, 2], [0, 1, 2]] += 1
    for y_t in y:
        x, P = F @ x, F @ P @ F.T
        P[[0, 1, 2], [0, 1, 2]] += q
        s, e = c @ P @ c + r, y_t - c @ x
        k = (P @ c) / s
        x, P = x + k * e, P - s * k[:, None] * k[None, :]
        total = total - (m.log(s) + e * e / s) / 2
    return [total]


@program(TOPIC, "GARCH(1, 1): the log likelihood", orders=3, r=[0.5, -1.0, 0.25, 0.75], w=0.25, a=0.125, b=0.75, v=0.5)
def garch(r: Any, w: Any, a: Any, b: Any, v: Any) -> Any:
    """v_t = w + a r_(t-1)² + b v_(t-1) from v_0 = v; Σ -(log v_t + r_t² / v_t) / 2 over the rows after the first"""
    taps = {"input": r, "taps": [-1, 0]}

    def step(before: Any, now: Any, v: Any) -> Any:
        v = w + a * before**2 + b * v
        return [v, -(T.log(v) + now**2 / v) / 2]

    (_, terms), _ = scan(step, taps, [v, None])
    return [T.sum(terms)]


@garch.reference
def _(m: Any, r: Any, w: Any, a: Any, b: Any, v: Any) -> Any:
    total = 0 * v
    for t in range(1, len(r)):
        v = w + a * r[t - 1] * r[t - 1] + b * v
        total = total - (m.log(v) + r[t] * r[t] / v) / 2
    return [total]


@program(
    TOPIC,
    "an LSTM cell, a batch of 2",
    x=[[[0.5, -1.0], [0.75, 0.5]], [[1.0, 0.25], [-0.25, 0.5]]],
    W=[[0.5, -0.25, 0.75, 0.25], [0.25, 0.75, -0.5, 0.5]],
    U=[[0.25, -0.5, 0.5, 1.0]],
    b=[0.125, -0.25, 0.5, 0.0],
    h=[[0.25], [-0.5]],
    c=[[0.5], [0.125]],
)
def lstm(x: Any, W: Any, U: Any, b: Any, h: Any, c: Any) -> Any:
    """(i, f, o, g) = x_t W + h U + b; c ← σ(f) c + σ(i) tanh(g), h ← σ(o) tanh(c); every h"""

    def step(x_t: Any, h: Any, c: Any) -> Any:
        gates = T.dot(x_t, W) + T.dot(h, U) + b
        i, f, o, g = (gates[:, k : k + 1] for k in range(4))
        c = T.sigmoid(f) * c + T.sigmoid(i) * T.tanh(g)
        return [T.sigmoid(o) * T.tanh(c), c]

    return [scan(step, x, [h, c])[0][0]]


@lstm.reference
def _(m: Any, x: Any, W: Any, U: Any, b: Any, h: Any, c: Any) -> Any:
    rows = []
    for x_t in x:
        i, f, o, g = (x_t @ W + h @ U + b).T
        c = m.sigmoid(f)[:, None] * c + (m.sigmoid(i) * m.tanh(g))[:, None]
        h = m.sigmoid(o)[:, None] * m.tanh(c)
        rows.append(h)
    return [m.stack(rows)]


def _growth(u: Any, v: Any, p: Any) -> Any:
    return u * (p[0] - p[1] * v), v * (p[3] * u - p[2])


def _runge_kutta(u: Any, v: Any, p: Any, d: Any) -> Any:
    """One step of the classical method of fourth order."""
    du1, dv1 = _growth(u, v, p)
    du2, dv2 = _growth(u + d / 2 * du1, v + d / 2 * dv1, p)
    du3, dv3 = _growth(u + d / 2 * du2, v + d / 2 * dv2, p)
    du4, dv4 = _growth(u + d * du3, v + d * dv3, p)
    return [u + d * (du1 + 2 * du2 + 2 * du3 + du4) / 6, v + d * (dv1 + 2 * dv2 + 2 * dv3 + dv4) / 6]


@program(
    TOPIC, "Lotka–Volterra by Runge–Kutta steps of fourth order", z=[1.0, 0.5], p=[1.0, 0.5, 0.75, 0.25], d=0.125, n=3
)
def predators(z: Any, p: Any, d: Any, n: Any) -> Any:
    """(u, v)' = (u (p_0 - p_1 v), v (p_3 u - p_2)), n steps of length d; every u and v"""
    return scan(lambda u, v: _runge_kutta(u, v, p, d), outputs_info=[z[0], z[1]], n_steps=n)[0]


@predators.reference
def _(m: Any, z: Any, p: Any, d: Any, n: Any) -> Any:
    def growth(z: Any) -> Any:
        return m.stack([p[0] * z[0] - p[1] * z[0] * z[1], p[3] * z[0] * z[1] - p[2] * z[1]])

    rows = []
    for _ in range(n):
        slopes = [growth(z)]
        for part in (d / 2, d / 2, d):
            slopes.append(growth(z + part * slopes[-1]))
        z = z + d / 6 * (slopes[0] + 2 * (slopes[1] + slopes[2]) + slopes[3])
        rows.append(z)
    return [m.stack(rows)[:, 0], m.stack(rows)[:, 1]]


@program(
    TOPIC,
    "an affine recurrence with another matrix in each step",
    orders=3,
    A=[[[0.5, -1.0], [0.25, 0.75]], [[1.0, 0.25], [-0.25, 0.5]], [[0.75, 0.5], [-0.5, 1.0]]],
    b=[[0.5, 0.25], [-0.25, 1.0], [0.75, -0.5]],
    h=[0.5, -0.25],
)
def affine(A: Any, b: Any, h: Any) -> Any:
    """h ← A_t h + b_t; every h"""
    return [scan(lambda A_t, b_t, h: T.dot(A_t, h) + b_t, [A, b], h)[0]]


@affine.reference
def _(m: Any, A: Any, b: Any, h: Any) -> Any:
    rows = []
    for A_t, b_t in zip(A, b, strict=True):
        h = A_t @ h + b_t
        rows.append(h)
    return [m.stack(rows)]
