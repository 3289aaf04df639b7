"""Recurrences of one or two scalars: a step takes nanoseconds, so that all else a system does per step shows."""

from __future__ import annotations

from typing import Any

import numpy as np

from suite import Arguments, Workload, register


class AR2(Workload):
    """An autoregression with two lags: the sum of its squares."""

    name, wrt, c, c_gradient = "AR(2)", ("a", "b"), "ar2", "ar2_gradient"
    unrolls = (1, 8, 32)
    steps = 10_000

    def arguments(self, rng: np.random.Generator) -> Arguments:
        return {"noise": rng.normal(size=self.steps), "first": np.array([0.3, -0.2]), "a": 0.6, "b": 0.3}

    def numpy(self, noise: Any, first: Any, a: Any, b: Any) -> list[Any]:
        y2, y1 = first
        total = 0.0
        for e in noise:
            y2, y1 = y1, a * y1 + b * y2 + e
            total = total + y1 * y1
        return [total]

    def symbolic(self, T: Any, scan: Any, noise: Any, first: Any, a: Any, b: Any) -> list[Any]:
        y = scan(
            lambda e, y2, y1, a, b: a * y1 + b * y2 + e,
            sequences=noise,
            outputs_info={"initial": first, "taps": [-2, -1]},
            non_sequences=[a, b],
        )
        return [T.sum(y**2)]

    def jax(self, jax: Any, scan: Any, noise: Any, first: Any, a: Any, b: Any) -> list[Any]:
        def step(state: Any, e: Any) -> Any:
            y2, y1 = state
            y = a * y1 + b * y2 + e
            return (y1, y), y

        _, y = scan(step, (first[0], first[1]), noise)
        return [jax.numpy.sum(y**2)]

    def torch(self, torch: Any, jit: Any, noise: Any, first: Any, a: Any, b: Any) -> list[Any]:
        y = list(first.unbind())
        for e in noise.unbind():
            y.append(a * y[-1] + b * y[-2] + e)
        return [(torch.stack(y[2:]) ** 2).sum()]

    def numba(self, njit: Any) -> Any:
        @njit
        def total(noise: Any, first: Any, a: float, b: float) -> float:
            y2, y1, s = first[0], first[1], 0.0
            for e in noise:
                y2, y1 = y1, a * y1 + b * y2 + e
                s += y1 * y1
            return s

        return total

    def numba_gradient(self, njit: Any) -> Any:
        @njit
        def gradient(noise: Any, first: Any, a: float, b: float) -> tuple[float, float, float]:
            n = len(noise)
            y = np.empty(n + 2)
            y[0], y[1] = first[0], first[1]
            s = 0.0
            for t in range(n):
                y[t + 2] = a * y[t + 1] + b * y[t] + noise[t]
                s += y[t + 2] * y[t + 2]
            g1 = g2 = of_a = of_b = 0.0
            for t in range(n - 1, -1, -1):
                g = 2.0 * y[t + 2] + a * g1 + b * g2
                g2, g1 = g1, g
                of_a += g * y[t + 1]
                of_b += g * y[t]
            return s, of_a, of_b

        return gradient


class GARCH(Workload):
    """The likelihood of a GARCH(1,1) model."""

    name, wrt, c, c_gradient = "GARCH(1,1) likelihood", ("omega", "alpha", "beta"), "garch", "garch_gradient"
    unrolls = (1, 8, 32)
    steps = 5_000

    def arguments(self, rng: np.random.Generator) -> Arguments:
        return {"r": rng.normal(size=self.steps), "start": 1.0, "omega": 0.05, "alpha": 0.1, "beta": 0.85}

    def numpy(self, r: Any, start: Any, omega: Any, alpha: Any, beta: Any) -> list[Any]:
        s2, total = start, 0.0
        for t in range(len(r)):
            total = total + 0.5 * (np.log(s2) + r[t] ** 2 / s2)
            s2 = omega + alpha * r[t] ** 2 + beta * s2
        return [total]

    def symbolic(self, T: Any, scan: Any, r: Any, start: Any, omega: Any, alpha: Any, beta: Any) -> list[Any]:
        later = scan(
            lambda r, s2, omega, alpha, beta: omega + alpha * r**2 + beta * s2,
            sequences=r[:-1],
            outputs_info=start,
            non_sequences=[omega, alpha, beta],
        )
        s2 = T.concatenate([T.stack([start]), later])
        return [0.5 * T.sum(T.log(s2) + r**2 / s2)]

    def jax(self, jax: Any, scan: Any, r: Any, start: Any, omega: Any, alpha: Any, beta: Any) -> list[Any]:
        def step(s2: Any, r: Any) -> Any:
            s2 = omega + alpha * r**2 + beta * s2
            return s2, s2

        jnp = jax.numpy
        _, later = scan(step, start, r[:-1])
        s2 = jnp.concatenate([start[None], later])
        return [0.5 * jnp.sum(jnp.log(s2) + r**2 / s2)]

    def jax_associative(self, jax: Any, r: Any, start: Any, omega: Any, alpha: Any, beta: Any) -> list[Any]:
        jnp = jax.numpy
        later = affine(jax, jnp.full(len(r) - 1, beta), omega + alpha * r[:-1] ** 2, start)
        s2 = jnp.concatenate([start[None], later])
        return [0.5 * jnp.sum(jnp.log(s2) + r**2 / s2)]

    def torch(self, torch: Any, jit: Any, r: Any, start: Any, omega: Any, alpha: Any, beta: Any) -> list[Any]:
        s2, drive = [start], omega + alpha * r[:-1] ** 2
        for d in drive.unbind():
            s2.append(d + beta * s2[-1])
        s2 = torch.stack(s2)
        return [0.5 * (torch.log(s2) + r**2 / s2).sum()]

    def numba(self, njit: Any) -> Any:
        @njit
        def likelihood(r: Any, start: float, omega: float, alpha: float, beta: float) -> float:
            s2, total = start, 0.0
            for t in range(len(r)):
                square = r[t] * r[t]
                total += np.log(s2) + square / s2
                s2 = omega + alpha * square + beta * s2
            return 0.5 * total

        return likelihood

    def numba_gradient(self, njit: Any) -> Any:
        @njit
        def gradient(r: Any, start: float, omega: float, alpha: float, beta: float) -> Any:
            n = len(r)
            s2 = np.empty(n)
            s2[0] = start
            total = 0.0
            for t in range(n):
                square = r[t] * r[t]
                total += np.log(s2[t]) + square / s2[t]
                if t + 1 < n:
                    s2[t + 1] = omega + alpha * square + beta * s2[t]
            g = of_omega = of_alpha = of_beta = 0.0
            for t in range(n - 1, 0, -1):
                reciprocal = 1.0 / s2[t]
                g = 0.5 * (1.0 - r[t] * r[t] * reciprocal) * reciprocal + beta * g
                of_omega += g
                of_alpha += g * r[t - 1] * r[t - 1]
                of_beta += g * s2[t - 1]
            return 0.5 * total, of_omega, of_alpha, of_beta

        return gradient


class EWMA(Workload):
    """An exponentially weighted mean; the gradient is that of its squared forecast errors."""

    wrt = ("alpha",)
    unrolls = (1, 8, 32)
    steps = 10_000

    def __init__(self, lanes: int = 1) -> None:
        self.lanes = lanes
        self.name = "EWMA" if lanes == 1 else f"EWMA, {lanes} lanes"
        self.c = "ewma" if lanes == 1 else "ewma_lanes"
        self.c_gradient = f"{self.c}_gradient"

    def arguments(self, rng: np.random.Generator) -> Arguments:
        shape = (self.steps, self.lanes)[: 1 if self.lanes == 1 else 2]
        return {"x": rng.normal(size=shape).cumsum(axis=0), "alpha": 0.1}

    def numpy(self, x: Any, alpha: Any) -> list[Any]:
        y = np.empty((len(x) - 1, *x.shape[1:]), dtype=np.result_type(x, alpha))
        level = x[0]
        for t in range(1, len(x)):
            level = level + alpha * (x[t] - level)
            y[t - 1] = level
        return [y]

    def cost(self, results: Any, arguments: Arguments) -> Any:
        return ((arguments["x"][2:] - results[0][:-1]) ** 2).sum()

    def symbolic(self, T: Any, scan: Any, x: Any, alpha: Any) -> list[Any]:
        return [scan(lambda x, y, alpha: y + alpha * (x - y), x[1:], x[0], alpha)]

    def jax(self, jax: Any, scan: Any, x: Any, alpha: Any) -> list[Any]:
        def step(y: Any, x: Any) -> Any:
            y = y + alpha * (x - y)
            return y, y

        return [scan(step, x[0], x[1:])[1]]

    def jax_associative(self, jax: Any, x: Any, alpha: Any) -> list[Any]:
        return [affine(jax, jax.numpy.full_like(x[1:], 1 - alpha), alpha * x[1:], x[0])]

    def torch(self, torch: Any, jit: Any, x: Any, alpha: Any) -> list[Any]:
        y = [x[0]]
        for now in x[1:].unbind():
            y.append(y[-1] + alpha * (now - y[-1]))
        return [torch.stack(y[1:])]

    def numba(self, njit: Any) -> Any:
        if self.lanes > 1:
            return self.numba_lanes(njit)

        @njit
        def mean(x: Any, alpha: float) -> Any:
            y = np.empty(len(x) - 1)
            level = x[0]
            for t in range(len(y)):
                level += alpha * (x[t + 1] - level)
                y[t] = level
            return y

        return mean

    def numba_lanes(self, njit: Any) -> Any:
        @njit
        def means(x: Any, alpha: float) -> Any:
            n, lanes = x.shape
            y = np.empty((n - 1, lanes))
            for j in range(lanes):
                y[0, j] = x[0, j] + alpha * (x[1, j] - x[0, j])
            for t in range(1, n - 1):
                for j in range(lanes):
                    y[t, j] = y[t - 1, j] + alpha * (x[t + 1, j] - y[t - 1, j])
            return y

        return means

    def numba_lanes_gradient(self, njit: Any) -> Any:
        means = self.numba_lanes(njit)

        @njit
        def gradient(x: Any, alpha: float) -> tuple[float, float]:
            y = means(x, alpha)
            n, lanes = y.shape
            g, cost, of_alpha = np.zeros(lanes), 0.0, 0.0
            for t in range(n - 1, -1, -1):
                for j in range(lanes):
                    if t + 1 < n:
                        error = x[t + 2, j] - y[t, j]
                        cost += error * error
                        g[j] -= 2.0 * error
                    before = y[t - 1, j] if t else x[0, j]
                    of_alpha += g[j] * (x[t + 1, j] - before)
                    g[j] *= 1.0 - alpha
            return cost, of_alpha

        return gradient

    def numba_gradient(self, njit: Any) -> Any:
        if self.lanes > 1:
            return self.numba_lanes_gradient(njit)

        @njit
        def gradient(x: Any, alpha: float) -> tuple[float, float]:
            n = len(x) - 1
            y = np.empty(n)
            level, cost = x[0], 0.0
            for t in range(n):
                level += alpha * (x[t + 1] - level)
                y[t] = level
                if t + 2 <= n:
                    cost += (x[t + 2] - level) ** 2
            g = of_alpha = 0.0
            for t in range(n - 1, -1, -1):
                direct = -2.0 * (x[t + 2] - y[t]) if t + 2 <= n else 0.0
                g = direct + (1.0 - alpha) * g
                of_alpha += g * (x[t + 1] - (y[t - 1] if t else x[0]))
            return cost, of_alpha

        return gradient


class Logistic(Workload):
    """The logistic map on a periodic orbit; the gradient is that of a squared distance to observations."""

    name, wrt, c, c_gradient = "logistic map", ("r", "x0"), "logistic", "logistic_gradient"
    unrolls = (1, 8, 32)
    steps = 10_000

    def arguments(self, rng: np.random.Generator) -> Arguments:
        return {"observed": rng.uniform(size=self.steps), "r": 3.5, "x0": 0.3}

    def numpy(self, observed: Any, r: Any, x0: Any) -> list[Any]:
        x, path = x0, np.empty(len(observed), dtype=np.result_type(r, x0))
        for t in range(len(path)):
            path[t] = x = r * x * (1 - x)
        return [path]

    def cost(self, results: Any, arguments: Arguments) -> Any:
        return ((results[0] - arguments["observed"]) ** 2).sum()

    def symbolic(self, T: Any, scan: Any, observed: Any, r: Any, x0: Any) -> list[Any]:
        return [scan(lambda x, r: r * x * (1 - x), None, x0, r, n_steps=observed.shape[0])]

    def jax(self, jax: Any, scan: Any, observed: Any, r: Any, x0: Any) -> list[Any]:
        def step(x: Any, _: Any) -> Any:
            x = r * x * (1 - x)
            return x, x

        return [scan(step, x0, None, length=len(observed))[1]]

    def torch(self, torch: Any, jit: Any, observed: Any, r: Any, x0: Any) -> list[Any]:
        path = [x0]
        for _ in range(len(observed)):
            path.append(r * path[-1] * (1 - path[-1]))
        return [torch.stack(path[1:])]

    def numba(self, njit: Any) -> Any:
        @njit
        def path(observed: Any, r: float, x0: float) -> Any:
            x, path = x0, np.empty(len(observed))
            for t in range(len(path)):
                x = r * x * (1 - x)
                path[t] = x
            return path

        return path

    def numba_gradient(self, njit: Any) -> Any:
        @njit
        def gradient(observed: Any, r: float, x0: float) -> tuple[float, float, float]:
            n = len(observed)
            path = np.empty(n + 1)
            path[0] = x = x0
            cost = 0.0
            for t in range(n):
                x = r * x * (1 - x)
                path[t + 1] = x
                cost += (x - observed[t]) ** 2
            g = of_r = 0.0
            for t in range(n - 1, -1, -1):
                g += 2.0 * (path[t + 1] - observed[t])
                x = path[t]
                of_r += g * x * (1 - x)
                g *= r * (1 - 2 * x)
            return cost, of_r, g

        return gradient


class LotkaVolterra(Workload):
    """Predators and prey, by Runge and Kutta's method of fourth order; a squared distance to observed paths."""

    name, wrt = "Lotka–Volterra, RK4", ("x0", "y0", "a", "b", "c", "d")
    c, c_gradient = "predators", "predators_gradient"
    steps, h = 10_000, 0.01

    def arguments(self, rng: np.random.Generator) -> Arguments:
        start = {"x0": 1.0, "y0": 0.5, "a": 1.1, "b": 0.4, "c": 0.4, "d": 0.1}
        return {"observed": rng.uniform(0, 5, size=(2, self.steps)), **start}

    def step(self, x: Any, y: Any, a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any]:
        """One step, for all systems that can inline a method."""
        h = self.h

        def slope(x: Any, y: Any) -> tuple[Any, Any]:
            return a * x - b * x * y, d * x * y - c * y

        kx1, ky1 = slope(x, y)
        kx2, ky2 = slope(x + h / 2 * kx1, y + h / 2 * ky1)
        kx3, ky3 = slope(x + h / 2 * kx2, y + h / 2 * ky2)
        kx4, ky4 = slope(x + h * kx3, y + h * ky3)
        return x + h / 6 * (kx1 + 2 * kx2 + 2 * kx3 + kx4), y + h / 6 * (ky1 + 2 * ky2 + 2 * ky3 + ky4)

    def numpy(self, observed: Any, x0: Any, y0: Any, *args: Any, **rates: Any) -> list[Any]:
        x, y = x0, y0
        xs, ys = [], []
        for _ in range(observed.shape[1]):
            x, y = self.step(x, y, *args, **rates)
            xs.append(x)
            ys.append(y)
        return [np.array(xs), np.array(ys)]

    def cost(self, results: Any, arguments: Arguments) -> Any:
        observed = arguments["observed"]
        return ((results[0] - observed[0]) ** 2).sum() + ((results[1] - observed[1]) ** 2).sum()

    def symbolic(self, T: Any, scan: Any, observed: Any, x0: Any, y0: Any, **rates: Any) -> list[Any]:
        return list(
            scan(self.step, outputs_info=[x0, y0], non_sequences=list(rates.values()), n_steps=observed.shape[1])
        )

    def jax(self, jax: Any, scan: Any, observed: Any, x0: Any, y0: Any, **rates: Any) -> list[Any]:
        def step(state: Any, _: Any) -> Any:
            state = self.step(*state, **rates)
            return state, state

        return list(scan(step, (x0, y0), None, length=observed.shape[1])[1])

    def torch(self, torch: Any, jit: Any, observed: Any, x0: Any, y0: Any, **rates: Any) -> list[Any]:
        step, x, y, path = jit(self.step), x0, y0, []
        for _ in range(observed.shape[1]):
            x, y = step(x, y, **rates)
            path.append(torch.stack([x, y]))
        return list(torch.stack(path).T)

    def numba(self, njit: Any) -> Any:
        step = numba_step(njit, self.h)

        @njit
        def paths(observed: Any, x: float, y: float, a: float, b: float, c: float, d: float) -> Any:
            n = observed.shape[1]
            xs, ys = np.empty(n), np.empty(n)
            for t in range(n):
                x, y = step(x, y, a, b, c, d)
                xs[t], ys[t] = x, y
            return xs, ys

        return paths

    def numba_gradient(self, njit: Any) -> Any:
        step, pull = numba_step(njit, self.h), numba_pull(njit, self.h)

        @njit
        def gradient(observed: Any, x: float, y: float, a: float, b: float, c: float, d: float) -> Any:
            n = observed.shape[1]
            xs, ys, cost = np.empty(n + 1), np.empty(n + 1), 0.0
            xs[0], ys[0] = x, y
            for t in range(n):
                xs[t + 1], ys[t + 1] = x, y = step(x, y, a, b, c, d)
                cost += (x - observed[0, t]) ** 2 + (y - observed[1, t]) ** 2
            gx = gy = ga = gb = gc = gd = 0.0
            for t in range(n - 1, -1, -1):
                gx += 2 * (xs[t + 1] - observed[0, t])
                gy += 2 * (ys[t + 1] - observed[1, t])
                gx, gy, pa, pb, pc, pd = pull(xs[t], ys[t], gx, gy, a, b, c, d)
                ga, gb, gc, gd = ga + pa, gb + pb, gc + pc, gd + pd
            return cost, gx, gy, ga, gb, gc, gd

        return gradient


class Trajectories(LotkaVolterra):
    """Many trajectories at once, of which the last states count; their squares are the cost."""

    wrt = ("x0", "y0", "a", "b", "c", "d")
    c, c_gradient = "predators_lanes", "predators_lanes_gradient"
    steps, lanes = 10_000, 256
    unrolls = (1, 4)

    def __init__(self) -> None:
        self.name = f"Lotka–Volterra, RK4, {self.lanes} trajectories"

    def arguments(self, rng: np.random.Generator) -> Arguments:
        starts = {"x0": rng.uniform(0.5, 1.5, self.lanes), "y0": rng.uniform(0.3, 0.8, self.lanes)}
        return {**starts, "a": 1.1, "b": 0.4, "c": 0.4, "d": 0.1, "n": self.steps}

    def cost(self, results: Any, arguments: Arguments) -> Any:
        return (results[0] ** 2).sum() + (results[1] ** 2).sum()

    def numpy(self, x0: Any, y0: Any, n: Any, **rates: Any) -> list[Any]:
        x, y = x0, y0
        for _ in range(int(n)):
            x, y = self.step(x, y, **rates)
        return [x, y]

    def symbolic(self, T: Any, scan: Any, x0: Any, y0: Any, n: Any, **rates: Any) -> list[Any]:
        xs, ys = scan(self.step, outputs_info=[x0, y0], non_sequences=list(rates.values()), n_steps=n)
        return [xs[-1], ys[-1]]

    def jax(self, jax: Any, scan: Any, x0: Any, y0: Any, n: Any, **rates: Any) -> list[Any]:
        def step(state: Any, _: Any) -> Any:
            return self.step(*state, **rates), None

        return list(scan(step, (x0, y0), None, length=self.steps)[0])

    def torch(self, torch: Any, jit: Any, x0: Any, y0: Any, n: Any, **rates: Any) -> list[Any]:
        step, x, y = jit(self.step), x0, y0
        for _ in range(self.steps):
            x, y = step(x, y, **rates)
        return [x, y]

    def numba(self, njit: Any) -> Any:
        step = numba_step(njit, self.h)

        @njit
        def last(x0: Any, y0: Any, a: float, b: float, c: float, d: float, n: int) -> Any:
            x, y = x0.copy(), y0.copy()
            for _ in range(n):
                for j in range(len(x)):
                    x[j], y[j] = step(x[j], y[j], a, b, c, d)
            return x, y

        return last

    def numba_gradient(self, njit: Any) -> Any:
        step, pull = numba_step(njit, self.h), numba_pull(njit, self.h)

        @njit
        def gradient(x0: Any, y0: Any, a: float, b: float, c: float, d: float, n: int) -> Any:
            lanes, cost, ga, gb, gc, gd = len(x0), 0.0, 0.0, 0.0, 0.0, 0.0
            xs, ys = np.empty((n + 1, lanes)), np.empty((n + 1, lanes))
            xs[0], ys[0] = x0, y0
            for t in range(n):
                for j in range(lanes):
                    xs[t + 1, j], ys[t + 1, j] = step(xs[t, j], ys[t, j], a, b, c, d)
            for j in range(lanes):
                cost += xs[n, j] ** 2 + ys[n, j] ** 2
            gx, gy = 2 * xs[n], 2 * ys[n]
            for t in range(n - 1, -1, -1):
                for j in range(lanes):
                    gx[j], gy[j], pa, pb, pc, pd = pull(xs[t, j], ys[t, j], gx[j], gy[j], a, b, c, d)
                    ga, gb, gc, gd = ga + pa, gb + pb, gc + pc, gd + pd
            return cost, gx, gy, ga, gb, gc, gd

        return gradient


# ---- pieces ---------------------------------------------------------------------------------------


def affine(jax: Any, factors: Any, terms: Any, start: Any) -> Any:
    """All states of y = factor y + term, by an associative scan."""

    def combined(first: Any, then: Any) -> Any:
        return first[0] * then[0], first[1] * then[0] + then[1]

    products, sums = jax.lax.associative_scan(combined, (factors, terms))
    return products * start + sums


def numba_step(njit: Any, h: float) -> Any:
    """A step of predators and prey for numba."""

    @njit
    def slope(x: float, y: float, a: float, b: float, c: float, d: float) -> tuple[float, float]:
        return a * x - b * x * y, d * x * y - c * y

    @njit
    def step(x: float, y: float, a: float, b: float, c: float, d: float) -> tuple[float, float]:
        kx1, ky1 = slope(x, y, a, b, c, d)
        kx2, ky2 = slope(x + h / 2 * kx1, y + h / 2 * ky1, a, b, c, d)
        kx3, ky3 = slope(x + h / 2 * kx2, y + h / 2 * ky2, a, b, c, d)
        kx4, ky4 = slope(x + h * kx3, y + h * ky3, a, b, c, d)
        return x + h / 6 * (kx1 + 2 * kx2 + 2 * kx3 + kx4), y + h / 6 * (ky1 + 2 * ky2 + 2 * ky3 + ky4)

    return step


def numba_pull(njit: Any, h: float) -> Any:
    """The reverse of a step: from cotangents of the new state to those of the old one and of the rates."""

    @njit
    def pull_slope(x: float, y: float, gu: float, gv: float, a: float, b: float, c: float, d: float) -> Any:
        gx, gy = gu * (a - b * y) + gv * d * y, gv * (d * x - c) - gu * b * x
        return gx, gy, gu * x, -gu * x * y, -gv * y, gv * x * y

    @njit
    def pull(x: float, y: float, gx: float, gy: float, a: float, b: float, c: float, d: float) -> Any:
        kx1, ky1 = a * x - b * x * y, d * x * y - c * y
        x2, y2 = x + h / 2 * kx1, y + h / 2 * ky1
        kx2, ky2 = a * x2 - b * x2 * y2, d * x2 * y2 - c * y2
        x3, y3 = x + h / 2 * kx2, y + h / 2 * ky2
        kx3, ky3 = a * x3 - b * x3 * y3, d * x3 * y3 - c * y3
        x4, y4 = x + h * kx3, y + h * ky3
        px4, py4, pa4, pb4, pc4, pd4 = pull_slope(x4, y4, h / 6 * gx, h / 6 * gy, a, b, c, d)
        px3, py3, pa3, pb3, pc3, pd3 = pull_slope(x3, y3, h / 3 * gx + h * px4, h / 3 * gy + h * py4, a, b, c, d)
        px2, py2, pa2, pb2, pc2, pd2 = pull_slope(
            x2, y2, h / 3 * gx + h / 2 * px3, h / 3 * gy + h / 2 * py3, a, b, c, d
        )
        px1, py1, pa1, pb1, pc1, pd1 = pull_slope(x, y, h / 6 * gx + h / 2 * px2, h / 6 * gy + h / 2 * py2, a, b, c, d)
        of_a, of_b = pa1 + pa2 + pa3 + pa4, pb1 + pb2 + pb3 + pb4
        of_c, of_d = pc1 + pc2 + pc3 + pc4, pd1 + pd2 + pd3 + pd4
        return gx + px1 + px2 + px3 + px4, gy + py1 + py2 + py3 + py4, of_a, of_b, of_c, of_d

    return pull


register(AR2(), GARCH(), EWMA(), EWMA(64), Logistic(), LotkaVolterra(), Trajectories())
