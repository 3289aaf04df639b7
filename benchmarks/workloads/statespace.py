"""State-space models: the log-likelihoods of linear Gaussian ones, by a Kalman filter, and of a hidden Markov model."""

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

    def torch(self, torch: Any, jit: Any, y: Any, F: Any, Q: Any, z: Any, r: Any, m0: Any, P0: Any) -> list[Any]:
        step, m, P, terms = self.step, m0, P0, []
        for now in y.unbind():
            m, P, term = step(torch, torch.matmul, now, m, P, F, Q, z, r)
            terms.append(term)
        return [torch.stack(terms).sum()]

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
    c = "kalman6"
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

    def torch(self, torch: Any, jit: Any, y: Any, F: Any, Q: Any, H: Any, R: Any, m0: Any, P0: Any) -> list[Any]:
        step, m, P, terms = self.step, m0, P0, []
        for now in y.unbind():
            m, P, term = step(torch, torch.matmul, torch.stack, now, m, P, F, Q, H, R)
            terms.append(term)
        return [torch.stack(terms).sum()]

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


class HiddenMarkov(Workload):
    """The forward algorithm in log space; the gradient is posterior probabilities."""

    name, wrt = "hidden Markov model, 32 states", ("logB", "logA", "start")
    static, c, c_gradient = (), "hmm", "hmm_gradient"
    unrolls = (1, 4)
    steps, states = 5_000, 32

    def arguments(self, rng: np.random.Generator) -> Arguments:
        A, start = rng.dirichlet(np.ones(self.states), self.states), rng.dirichlet(np.ones(self.states))
        return {"logB": rng.normal(size=(self.steps, self.states)), "logA": np.log(A), "start": np.log(start)}

    def numpy(self, logB: Any, logA: Any, start: Any) -> list[Any]:
        alpha = start + logB[0]
        for b in logB[1:]:
            alpha = b + _logsumexp(alpha[:, None] + logA, 0)
        return [_logsumexp(alpha, 0)]

    def symbolic(self, T: Any, scan: Any, logB: Any, logA: Any, start: Any) -> list[Any]:
        def step(b: Any, alpha: Any, logA: Any) -> Any:
            return b + T.logsumexp(alpha[:, None] + logA, axis=0)

        alpha = scan(step, logB[1:], start + logB[0], logA)
        return [T.logsumexp(alpha[-1])]

    def jax(self, jax: Any, scan: Any, logB: Any, logA: Any, start: Any) -> list[Any]:
        logsumexp = jax.scipy.special.logsumexp

        def step(alpha: Any, b: Any) -> Any:
            return b + logsumexp(alpha[:, None] + logA, axis=0), None

        return [logsumexp(scan(step, start + logB[0], logB[1:])[0])]

    def jax_other(self, jax: Any, scan: Any, logB: Any, logA: Any, start: Any) -> list[Any]:
        """By a product of probabilities instead of logarithms of sums of exponentials."""
        jnp, A = jax.numpy, jax.numpy.exp(logA)

        def step(alpha: Any, b: Any) -> Any:
            top = jax.lax.stop_gradient(alpha.max())
            return b + top + jnp.log(jnp.exp(alpha - top) @ A), None

        return [jax.scipy.special.logsumexp(scan(step, start + logB[0], logB[1:])[0])]

    def torch(self, torch: Any, jit: Any, logB: Any, logA: Any, start: Any) -> list[Any]:
        step = jit(lambda alpha, b: b + torch.logsumexp(alpha[:, None] + logA, 0))
        alpha = start + logB[0]
        for b in logB[1:].unbind():
            alpha = step(alpha, b)
        return [torch.logsumexp(alpha, 0)]

    def numba(self, njit: Any) -> Any:
        @njit
        def likelihood(logB: Any, logA: Any, start: Any) -> float:
            A, total = np.exp(logA), 0.0
            alpha = np.exp(start)
            for t in range(len(logB)):
                top, scale = logB[t].max(), 0.0
                if t:
                    alpha = np.dot(alpha, A)
                for j in range(len(alpha)):
                    alpha[j] *= np.exp(logB[t, j] - top)
                    scale += alpha[j]
                alpha /= scale
                total += np.log(scale) + top
            return total

        return likelihood

    def numba_gradient(self, njit: Any) -> Any:
        @njit
        def gradient(logB: Any, logA: Any, start: Any) -> Any:
            n, k = logB.shape
            A, total = np.exp(logA), 0.0
            turned, alpha, B, scales = A.T.copy(), np.empty((n, k)), np.empty((n, k)), np.empty(n)
            for t in range(n):
                top, scale = logB[t].max(), 0.0
                row = np.dot(alpha[t - 1], A) if t else np.exp(start)
                for j in range(k):
                    B[t, j] = np.exp(logB[t, j] - top)
                    alpha[t, j] = row[j] * B[t, j]
                    scale += alpha[t, j]
                alpha[t] /= scale
                scales[t] = scale
                total += np.log(scale) + top
            beta, of_B, rows = np.ones(k), np.empty((n, k)), np.empty((n, k))
            for t in range(n - 1, -1, -1):
                for j in range(k):
                    of_B[t, j] = alpha[t, j] * beta[j]
                    rows[t, j] = B[t, j] * beta[j] / scales[t]
                beta = np.dot(rows[t], turned)
            return total, of_B, np.dot(alpha[: n - 1].T, rows[1:]) * A, of_B[0].copy()

        return gradient


def _logsumexp(x: Any, axis: int) -> Any:
    """For complex numbers too, whose real parts decide."""
    top = x.real.max(axis=axis)
    return top + np.log(np.sum(np.exp(x - top), axis=axis))


register(Kalman3(), Kalman6(), HiddenMarkov())
