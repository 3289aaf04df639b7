"""Kalman filters with few states: the log-likelihood of a linear Gaussian state-space model."""

from __future__ import annotations

from typing import Any

import numpy as np

from suite import Arguments, Workload, register


class Kalman3(Workload):
    """Three states and one observation per step; the gradient has those of both matrices of the transition."""

    name, wrt, static = "Kalman filter, 3 states", ("F", "Q", "r"), ("F", "Q", "z", "m0", "P0")
    unrolls = (1, 4)
    steps = 1_000

    def arguments(self, rng: np.random.Generator) -> Arguments:
        return {
            "y": rng.normal(size=self.steps).cumsum(),
            "F": np.array([[1.0, 1.0, 0.0], [0.0, 0.9, 0.1], [0.0, -0.1, 0.8]]),
            "Q": np.diag([0.1, 0.2, 0.3]),
            "z": np.array([1.0, 0.0, 0.5]),
            "r": 0.5,
            "m0": np.zeros(3),
            "P0": np.eye(3),
        }

    @staticmethod
    def step(xp: Any, dot: Any, y: Any, m: Any, P: Any, F: Any, Q: Any, z: Any, r: Any) -> tuple[Any, Any, Any]:
        """State, covariance and the term of the likelihood, for all systems with arrays."""
        m, P = dot(F, m), dot(dot(F, P), F.T) + Q
        Pz, zP = dot(P, z), dot(z, P)
        s, v = dot(z, Pz) + r, y - dot(z, m)
        m, P = m + Pz * (v / s), P - Pz[:, None] * zP[None, :] / s
        return m, P, -0.5 * (xp.log(2 * np.pi * s) + v**2 / s)

    def numpy(self, y: Any, F: Any, Q: Any, z: Any, r: Any, m0: Any, P0: Any) -> list[Any]:
        m, P, total = m0, P0, 0.0
        for y_t in y:
            m, P, term = self.step(np, np.dot, y_t, m, P, F, Q, z, r)
            total = total + term
        return [total]

    def symbolic(self, T: Any, scan: Any, y: Any, F: Any, Q: Any, z: Any, r: Any, m0: Any, P0: Any) -> list[Any]:
        _, _, terms = scan(
            lambda y, m, P, F, Q, z, r: self.step(T, T.dot, y, m, P, F, Q, z, r),
            sequences=y,
            outputs_info=[m0, P0, None],
            non_sequences=[F, Q, z, r],
        )
        return [T.sum(terms)]

    def jax(self, jax: Any, scan: Any, y: Any, F: Any, Q: Any, z: Any, r: Any, m0: Any, P0: Any) -> list[Any]:
        jnp = jax.numpy

        def step(state: Any, y: Any) -> Any:
            m, P = state
            m, P, term = self.step(jnp, jnp.dot, y, m, P, F, Q, z, r)
            return (m, P), term

        return [jnp.sum(scan(step, (m0, P0), y)[1])]

    def numba(self, njit: Any) -> Any:
        @njit
        def likelihood(y: Any, F: Any, Q: Any, z: Any, r: float, m0: Any, P0: Any) -> float:
            k = len(m0)
            m, P, total = m0.copy(), P0.copy(), 0.0
            FP, mp, Pz, zP = np.empty((k, k)), np.empty(k), np.empty(k), np.empty(k)
            for t in range(len(y)):
                for i in range(k):
                    mp[i] = 0.0
                    for j in range(k):
                        mp[i] += F[i, j] * m[j]
                        FP[i, j] = 0.0
                        for l in range(k):
                            FP[i, j] += F[i, l] * P[l, j]
                for i in range(k):
                    for j in range(k):
                        total_ij = Q[i, j]
                        for l in range(k):
                            total_ij += FP[i, l] * F[j, l]
                        P[i, j] = total_ij
                s, v = r, y[t]
                for i in range(k):
                    Pz[i] = zP[i] = 0.0
                    for j in range(k):
                        Pz[i] += P[i, j] * z[j]
                        zP[i] += z[j] * P[j, i]
                    s += z[i] * Pz[i]
                    v -= z[i] * mp[i]
                for i in range(k):
                    m[i] = mp[i] + Pz[i] * (v / s)
                    for j in range(k):
                        P[i, j] -= Pz[i] * zP[j] / s
                total += -0.5 * (np.log(2 * np.pi * s) + v * v / s)
            return total

        return likelihood


class Kalman6(Workload):
    """Six states, positions, velocities and accelerations in the plane, and two observations per step."""

    name, wrt, static = "Kalman filter, 6 states", ("F", "Q", "R"), ("F", "Q", "H", "R", "m0", "P0")
    unrolls = (1, 4)
    steps = 1_000

    def arguments(self, rng: np.random.Generator) -> Arguments:
        block = np.array([[1.0, 0.1, 0.005], [0.0, 1.0, 0.1], [0.0, 0.0, 0.95]])
        return {
            "y": rng.normal(size=(self.steps, 2)).cumsum(axis=0),
            "F": np.kron(np.eye(2), block),
            "Q": np.kron(np.eye(2), np.diag([0.1, 0.2, 0.3])),
            "H": np.kron(np.eye(2), np.array([[1.0, 0.0, 0.0]])),
            "R": np.array([[0.5, 0.1], [0.1, 0.4]]),
            "m0": np.zeros(6),
            "P0": np.eye(6),
        }

    @staticmethod
    def step(
        xp: Any, dot: Any, stack: Any, y: Any, m: Any, P: Any, F: Any, Q: Any, H: Any, R: Any
    ) -> tuple[Any, Any, Any]:
        """State, covariance and the term of the likelihood, for all systems with arrays."""
        m, P = dot(F, m), dot(dot(F, P), F.T) + Q
        HP, PH = dot(H, P), dot(P, H.T)
        S, v = dot(H, PH) + R, y - dot(H, m)
        det = S[0, 0] * S[1, 1] - S[0, 1] * S[1, 0]
        w = stack([S[1, 1] * v[0] - S[0, 1] * v[1], S[0, 0] * v[1] - S[1, 0] * v[0]]) / det
        adjoint = stack([S[1, 1] * HP[0] - S[0, 1] * HP[1], S[0, 0] * HP[1] - S[1, 0] * HP[0]])
        m, P = m + dot(PH, w), P - dot(PH, adjoint) / det
        return m, P, -0.5 * (2 * np.log(2 * np.pi) + xp.log(det) + dot(v, w))

    def numpy(self, y: Any, F: Any, Q: Any, H: Any, R: Any, m0: Any, P0: Any) -> list[Any]:
        m, P, total = m0, P0, 0.0
        for y_t in y:
            m, P, term = self.step(np, np.dot, np.stack, y_t, m, P, F, Q, H, R)
            total = total + term
        return [total]

    def symbolic(self, T: Any, scan: Any, y: Any, F: Any, Q: Any, H: Any, R: Any, m0: Any, P0: Any) -> list[Any]:
        _, _, terms = scan(
            lambda y, m, P, F, Q, H, R: self.step(T, T.dot, T.stack, y, m, P, F, Q, H, R),
            sequences=y,
            outputs_info=[m0, P0, None],
            non_sequences=[F, Q, H, R],
        )
        return [T.sum(terms)]

    def jax(self, jax: Any, scan: Any, y: Any, F: Any, Q: Any, H: Any, R: Any, m0: Any, P0: Any) -> list[Any]:
        jnp = jax.numpy

        def step(state: Any, y: Any) -> Any:
            m, P = state
            m, P, term = self.step(jnp, jnp.dot, jnp.stack, y, m, P, F, Q, H, R)
            return (m, P), term

        return [jnp.sum(scan(step, (m0, P0), y)[1])]

    def numba(self, njit: Any) -> Any:
        @njit
        def likelihood(y: Any, F: Any, Q: Any, H: Any, R: Any, m0: Any, P0: Any) -> float:
            k = len(m0)
            m, P, total = m0.copy(), P0.copy(), 0.0
            FP, mp = np.empty((k, k)), np.empty(k)
            HP, PH, gain = np.empty((2, k)), np.empty((k, 2)), np.empty((2, k))
            S, v = np.empty((2, 2)), np.empty(2)
            for t in range(len(y)):
                for i in range(k):
                    mp[i] = 0.0
                    for j in range(k):
                        mp[i] += F[i, j] * m[j]
                        FP[i, j] = 0.0
                        for l in range(k):
                            FP[i, j] += F[i, l] * P[l, j]
                for i in range(k):
                    for j in range(k):
                        total_ij = Q[i, j]
                        for l in range(k):
                            total_ij += FP[i, l] * F[j, l]
                        P[i, j] = total_ij
                for i in range(2):
                    v[i] = y[t, i]
                    for j in range(k):
                        v[i] -= H[i, j] * mp[j]
                        HP[i, j] = PH[j, i] = 0.0
                        for l in range(k):
                            HP[i, j] += H[i, l] * P[l, j]
                            PH[j, i] += P[j, l] * H[i, l]
                for i in range(2):
                    for j in range(2):
                        S[i, j] = R[i, j]
                        for l in range(k):
                            S[i, j] += H[i, l] * PH[l, j]
                det = S[0, 0] * S[1, 1] - S[0, 1] * S[1, 0]
                w0 = (S[1, 1] * v[0] - S[0, 1] * v[1]) / det
                w1 = (S[0, 0] * v[1] - S[1, 0] * v[0]) / det
                for j in range(k):
                    m[j] = mp[j] + PH[j, 0] * w0 + PH[j, 1] * w1
                    gain[0, j] = (S[1, 1] * HP[0, j] - S[0, 1] * HP[1, j]) / det
                    gain[1, j] = (S[0, 0] * HP[1, j] - S[1, 0] * HP[0, j]) / det
                for i in range(k):
                    for j in range(k):
                        P[i, j] -= PH[i, 0] * gain[0, j] + PH[i, 1] * gain[1, j]
                total += -0.5 * (2 * np.log(2 * np.pi) + np.log(det) + v[0] * w0 + v[1] * w1)
            return total

        return likelihood


register(Kalman3(), Kalman6())
