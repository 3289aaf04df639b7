"""Loops over elements and rows of arrays: powers, fixed points, the Mandelbrot set, norms, a layer, a sampler."""

from __future__ import annotations

from typing import Any

import numpy as np

from suite import FORWARD, Arguments, Workload, register


class Layer(Workload):
    """Rows through a layer of tanh units, one at a time, in float32: a loop without a recurrence."""

    name, wrt, c, c_gradient = "rows through tanh(x W + b)", ("W", "b"), "layer", "layer_gradient"
    tolerance = 1e-3
    steps, units = 2_000, 256

    def arguments(self, rng: np.random.Generator) -> Arguments:
        n = self.units
        W, b = rng.normal(size=(n, n)) / n**0.5, rng.normal(size=n)
        return {
            "X": rng.normal(size=(self.steps, n)).astype("float32"),
            "W": W.astype("float32"),
            "b": b.astype("float32"),
        }

    def cost(self, results: Any, arguments: Arguments) -> Any:
        return (results[0] ** 2).sum()

    def numpy(self, X: Any, W: Any, b: Any) -> list[Any]:
        return [np.stack([np.tanh(x @ W + b) for x in X])]

    def symbolic(self, T: Any, scan: Any, X: Any, W: Any, b: Any) -> list[Any]:
        return [scan(lambda x, W, b: T.tanh(T.dot(x, W) + b), X, None, [W, b])]

    def jax(self, jax: Any, scan: Any, X: Any, W: Any, b: Any) -> list[Any]:
        return [jax.vmap(lambda x: jax.numpy.tanh(x @ W + b))(X)]

    def torch(self, torch: Any, jit: Any, X: Any, W: Any, b: Any) -> list[Any]:
        return [jit(lambda X, W, b: torch.tanh(torch.addmm(b, X, W)))(X, W, b)]

    def numba(self, njit: Any) -> Any:
        @njit
        def rows(X: Any, W: Any, b: Any) -> Any:
            y = np.dot(X, W)
            for i in range(len(y)):
                for j in range(len(b)):
                    y[i, j] = np.tanh(y[i, j] + b[j])
            return y

        return rows

    def numba_gradient(self, njit: Any) -> Any:
        rows = self.numba(njit)

        @njit
        def gradient(X: Any, W: Any, b: Any) -> Any:
            y, cost, of_b = rows(X, W, b), 0.0, np.zeros_like(b)
            for i in range(len(y)):
                for j in range(len(b)):
                    v = y[i, j]
                    cost += v * v
                    y[i, j] = 2 * v * (1 - v * v)
                    of_b[j] += y[i, j]
            return cost, np.dot(X.T, y), of_b

        return gradient


class Norms(Workload):
    """Norms of all rows and of all columns of a matrix, as Theano's tutorial has them: two loops."""

    name, wrt, c, c_gradient = "norms of rows and columns", ("X",), "norms", "norms_gradient"
    steps = 1_000

    def arguments(self, rng: np.random.Generator) -> Arguments:
        return {"X": rng.normal(size=(self.steps, self.steps))}

    def cost(self, results: Any, arguments: Arguments) -> Any:
        return results[0].sum() + results[1].sum()

    def numpy(self, X: Any) -> list[Any]:
        return [np.array([np.sqrt((x**2).sum()) for x in rows]) for rows in (X, X.T)]

    def symbolic(self, T: Any, scan: Any, X: Any) -> list[Any]:
        return [scan(lambda x: T.sqrt((x**2).sum()), rows) for rows in (X, X.T)]

    def jax(self, jax: Any, scan: Any, X: Any) -> list[Any]:
        norm = jax.vmap(lambda x: jax.numpy.sqrt((x**2).sum()))
        return [norm(X), norm(X.T)]

    def torch(self, torch: Any, jit: Any, X: Any) -> list[Any]:
        def both(X: Any) -> Any:
            squares = X**2
            return torch.sqrt(squares.sum(1)), torch.sqrt(squares.sum(0))

        return list(jit(both)(X))

    def numba(self, njit: Any) -> Any:
        @njit
        def norms(X: Any) -> Any:
            rows, columns = np.zeros(X.shape[0]), np.zeros(X.shape[1])
            for i in range(len(rows)):
                total = 0.0
                for j in range(len(columns)):
                    square = X[i, j] * X[i, j]
                    total += square
                    columns[j] += square
                rows[i] = np.sqrt(total)
            return rows, np.sqrt(columns)

        return norms

    def numba_gradient(self, njit: Any) -> Any:
        norms = self.numba(njit)

        @njit
        def gradient(X: Any) -> Any:
            rows, columns = norms(X)
            total, g = rows.sum() + columns.sum(), np.empty_like(X)
            for i in range(len(rows)):
                rows[i] = 1.0 / rows[i]
            for j in range(len(columns)):
                columns[j] = 1.0 / columns[j]
            for i in range(len(rows)):
                for j in range(len(columns)):
                    g[i, j] = X[i, j] * (rows[i] + columns[j])
            return total, g

        return gradient


class Power(Workload):
    """The power A ** k by k products, as Theano's tutorial has it."""

    wrt, c, c_gradient = ("A",), "power", "power_gradient"
    unrolls = (1, 8, 32)

    def __init__(self, size: int, steps: int) -> None:
        self.size, self.steps = size, steps
        self.name = f"A ** {steps}, {size:,} elements"

    def arguments(self, rng: np.random.Generator) -> Arguments:
        return {"A": rng.uniform(0.95, 1.05, self.size), "k": self.steps}

    def cost(self, results: Any, arguments: Arguments) -> Any:
        return results[0].sum()

    def numpy(self, A: Any, k: Any) -> list[Any]:
        p = np.ones_like(A)
        for _ in range(int(k)):
            p = p * A
        return [p]

    def symbolic(self, T: Any, scan: Any, A: Any, k: Any) -> list[Any]:
        return [scan(lambda p, A: p * A, outputs_info=T.ones_like(A), non_sequences=A, n_steps=k)[-1]]

    def jax(self, jax: Any, scan: Any, A: Any, k: Any) -> list[Any]:
        return [scan(lambda p, _: (p * A, None), jax.numpy.ones_like(A), None, length=self.steps)[0]]

    def torch(self, torch: Any, jit: Any, A: Any, k: Any) -> list[Any]:
        p, step = torch.ones_like(A), jit(lambda p, A: p * A)
        for _ in range(self.steps):
            p = step(p, A)
        return [p]

    def numba(self, njit: Any) -> Any:
        @njit
        def power(A: Any, k: int) -> Any:
            p = np.ones_like(A)
            for _ in range(k):
                for i in range(len(A)):
                    p[i] *= A[i]
            return p

        return power

    def numba_gradient(self, njit: Any) -> Any:
        @njit
        def gradient(A: Any, k: int) -> Any:
            p, g = np.empty((k + 1, len(A))), np.ones_like(A)
            p[0] = 1.0
            for t in range(k):
                for i in range(len(A)):
                    p[t + 1, i] = p[t, i] * A[i]
            of_A = np.zeros_like(A)
            for t in range(k - 1, -1, -1):
                for i in range(len(A)):
                    of_A[i] += g[i] * p[t, i]
                    g[i] *= A[i]
            return p[k].sum(), of_A

        return gradient


class Convergence(Workload):
    """x = cos(a x) for 100 values until nothing moves: about 60 of at most 10,000 steps."""

    name, wrt, c, c_gradient = "cosine until nothing moves", ("a", "x0"), "convergence", "convergence_gradient"
    steps, size, moving = 10_000, 100, 1e-10

    def arguments(self, rng: np.random.Generator) -> Arguments:
        return {"x0": rng.uniform(size=self.size), "a": 1.0, "most": self.steps}

    def cost(self, results: Any, arguments: Arguments) -> Any:
        return results[0].sum()

    def numpy(self, x0: Any, a: Any, most: Any) -> list[Any]:
        x = x0
        for _ in range(int(most)):
            before, x = x, np.cos(a * x)
            if np.abs(x - before).max() < self.moving:
                break
        return [x]

    def symbolic(self, T: Any, scan: Any, x0: Any, a: Any, most: Any) -> list[Any]:
        def step(x: Any, a: Any) -> Any:
            new = T.cos(a * x)
            return new, scan.until(T.max(abs(new - x)) < self.moving)

        return [scan(step, outputs_info=x0, non_sequences=a, n_steps=most)[-1]]

    def jax(self, jax: Any, scan: Any, x0: Any, a: Any, most: Any) -> list[Any]:
        jnp = jax.numpy

        def goes_on(state: Any) -> Any:
            x, before, t = state
            return (t < most) & (jnp.abs(x - before).max() >= self.moving)

        def step(state: Any) -> Any:
            x, _, t = state
            return jnp.cos(a * x), x, t + 1

        return [jax.lax.while_loop(goes_on, step, (x0, x0 + 1.0, 0))[0]]

    jax_gradient = False  # its while_loop has no reverse derivative

    def torch(self, torch: Any, jit: Any, x0: Any, a: Any, most: Any) -> list[Any]:
        x = x0
        for _ in range(self.steps):
            before, x = x, torch.cos(a * x)
            if (x - before).abs().max() < self.moving:
                break
        return [x]

    def numba(self, njit: Any) -> Any:
        moving = self.moving

        @njit
        def last(x0: Any, a: float, most: int) -> Any:
            x = x0.copy()
            for _ in range(most):
                moved = 0.0
                for i in range(len(x)):
                    new = np.cos(a * x[i])
                    moved = max(moved, abs(new - x[i]))
                    x[i] = new
                if moved < moving:
                    break
            return x

        return last

    def numba_gradient(self, njit: Any) -> Any:
        moving = self.moving

        @njit
        def gradient(x0: Any, a: float, most: int) -> Any:
            tape, n = [x0], len(x0)
            for _ in range(most):
                x, new, moved = tape[-1], np.empty(n), 0.0
                for i in range(n):
                    new[i] = np.cos(a * x[i])
                    moved = max(moved, abs(new[i] - x[i]))
                tape.append(new)
                if moved < moving:
                    break
            g, of_a = np.ones(n), 0.0
            for t in range(len(tape) - 2, -1, -1):
                x = tape[t]
                for i in range(n):
                    slope = -g[i] * np.sin(a * x[i])
                    of_a += slope * x[i]
                    g[i] = slope * a
            return tape[-1].sum(), of_a, g

        return gradient


class Mandelbrot(Workload):
    """How many steps each point of a grid stays near; of 100 steps only the last count is kept."""

    name, wrt, c = "Mandelbrot set, 400 × 400, 100 steps", (), "mandelbrot"
    kinds = (FORWARD,)
    differing = 0.002  # on the border of the set rounding decides
    size, steps = 400, 100

    def arguments(self, rng: np.random.Generator) -> Arguments:
        real, imaginary = np.linspace(-2.0, 0.6, self.size), np.linspace(-1.3, 1.3, self.size)
        x, y = np.meshgrid(real, imaginary)
        return {"x": x.copy(), "y": y.copy(), "n": self.steps}

    def numpy(self, x: Any, y: Any, n: Any) -> list[Any]:
        a, b, count = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
        for _ in range(int(n)):
            live = a * a + b * b < 4
            count = count + live
            a, b = np.where(live, a * a - b * b + x, a), np.where(live, 2 * a * b + y, b)
        return [count]

    def symbolic(self, T: Any, scan: Any, x: Any, y: Any, n: Any) -> list[Any]:
        def step(a: Any, b: Any, count: Any, x: Any, y: Any) -> Any:
            live = a * a + b * b < 4
            new_a, new_b = T.switch(live, a * a - b * b + x, a), T.switch(live, 2 * a * b + y, b)
            return new_a, new_b, count + T.switch(live, 1.0, 0.0)

        zero = T.zeros_like(x)
        return [scan(step, outputs_info=[zero, zero, zero], non_sequences=[x, y], n_steps=n)[2][-1]]

    def jax(self, jax: Any, scan: Any, x: Any, y: Any, n: Any) -> list[Any]:
        jnp = jax.numpy

        def step(state: Any, _: Any) -> Any:
            a, b, count = state
            live = a * a + b * b < 4
            return (jnp.where(live, a * a - b * b + x, a), jnp.where(live, 2 * a * b + y, b), count + live), None

        zero = jnp.zeros_like(x)
        return [scan(step, (zero, zero, zero), None, length=self.steps)[0][2]]

    def torch(self, torch: Any, jit: Any, x: Any, y: Any, n: Any) -> list[Any]:
        def step(a: Any, b: Any, count: Any, x: Any, y: Any) -> Any:
            live = a * a + b * b < 4
            return torch.where(live, a * a - b * b + x, a), torch.where(live, 2 * a * b + y, b), count + live

        a = b = count = torch.zeros_like(x)
        step = jit(step)
        for _ in range(self.steps):
            a, b, count = step(a, b, count, x, y)
        return [count]

    def numba(self, njit: Any) -> Any:
        @njit
        def counts(x: Any, y: Any, n: int) -> Any:
            count = np.empty_like(x)
            for i in range(x.shape[0]):
                for j in range(x.shape[1]):
                    a = b = 0.0
                    steps = 0
                    while steps < n and a * a + b * b < 4:
                        a, b = a * a - b * b + x[i, j], 2 * a * b + y[i, j]
                        steps += 1
                    count[i, j] = steps
            return count

        return counts


class Gibbs(Workload):
    """Gibbs sampling of a restricted Boltzmann machine, in float32: the mean probability of each visible unit.

    Each system draws its own numbers, so that results agree as means of as many draws do.
    """

    name, wrt, c = "Gibbs sampling of an RBM, 784 × 256, batch 20", (), "gibbs"
    kinds = (FORWARD,)
    tolerance = 0.05  # several standard errors
    steps, visible, hidden, batch = 200, 784, 256, 20
    unrolls = (1,)

    def arguments(self, rng: np.random.Generator) -> Arguments:
        W, bv, bh = (rng.normal(size=size) for size in ((self.visible, self.hidden), self.visible, self.hidden))
        floats = {"W": W / 16, "bv": bv, "bh": bh, "v0": rng.uniform(size=(self.batch, self.visible)) < 0.5}
        return {**{n: v.astype("float32") for n, v in floats.items()}, "n": self.steps}

    def numpy(self, W: Any, bv: Any, bh: Any, v0: Any, n: Any) -> list[Any]:
        rng, v, total = np.random.default_rng(7), v0, np.zeros_like(bv)
        for _ in range(int(n)):
            h = rng.random((len(v), len(bh))) < 1 / (1 + np.exp(-(v @ W + bh)))
            p = 1 / (1 + np.exp(-(h.astype(W.dtype) @ W.T + bv)))
            v = (rng.random(p.shape) < p).astype(W.dtype)
            total = total + p.mean(axis=0)
        return [total / n]

    def symbolic(self, T: Any, scan: Any, W: Any, bv: Any, bh: Any, v0: Any, n: Any) -> list[Any]:
        draw = scan.streams(7).bernoulli

        def step(v: Any, total: Any, W: Any, bv: Any, bh: Any) -> Any:
            q = T.sigmoid(T.dot(v, W) + bh)
            h = draw(q.shape, q, dtype="float32")
            p = T.sigmoid(T.dot(h, W.T) + bv)
            return draw(p.shape, p, dtype="float32"), total + p.mean(axis=0)

        total = scan(step, outputs_info=[v0, T.zeros_like(bv)], non_sequences=[W, bv, bh], n_steps=n)[1][-1]
        return [total / T.cast(n, "float32")]

    def jax(self, jax: Any, scan: Any, W: Any, bv: Any, bh: Any, v0: Any, n: Any) -> list[Any]:
        def step(state: Any, key: Any) -> Any:
            v, total = state
            first, second = jax.random.split(key)
            h = jax.random.bernoulli(first, jax.nn.sigmoid(v @ W + bh)).astype(W.dtype)
            p = jax.nn.sigmoid(h @ W.T + bv)
            return (jax.random.bernoulli(second, p).astype(W.dtype), total + p.mean(axis=0)), None

        keys = jax.random.split(jax.random.key(7), self.steps)
        return [scan(step, (v0, jax.numpy.zeros_like(bv)), keys)[0][1] / self.steps]

    def torch(self, torch: Any, jit: Any, W: Any, bv: Any, bh: Any, v0: Any, n: Any) -> list[Any]:
        v, total = v0, torch.zeros_like(bv)
        for _ in range(self.steps):
            h = torch.bernoulli(torch.sigmoid(torch.addmm(bh, v, W)))
            p = torch.sigmoid(torch.addmm(bv, h, W.T))
            v, total = torch.bernoulli(p), total + p.mean(0)
        return [total / self.steps]

    def numba(self, njit: Any) -> Any:
        uniform = np.random.random

        @njit
        def mean(W: Any, bv: Any, bh: Any, v0: Any, n: int) -> Any:
            v, turned, total = v0, W.T.copy(), np.zeros_like(bv)
            one = np.float32(1)
            for _ in range(n):
                h = np.dot(v, W)
                for i in range(h.shape[0]):
                    for j in range(h.shape[1]):
                        h[i, j] = uniform() < one / (one + np.exp(-(h[i, j] + bh[j])))
                v = np.dot(h, turned)
                for i in range(v.shape[0]):
                    for j in range(v.shape[1]):
                        p = one / (one + np.exp(-(v[i, j] + bv[j])))
                        total[j] += p
                        v[i, j] = uniform() < p
            return total / np.float32(n * len(v0))

        return mean


register(Layer(), Norms(), Power(10_000, 100), Power(10, 10), Convergence(), Mandelbrot(), Gibbs())
