"""Recurrent cells in float32: tanh units, LSTM and GRU, for one sequence and for a small batch.

All work on projections of the whole sequence at once, as their experts write them; biases belong to these.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from suite import Arguments, Workload, register


class Cell(Workload):
    """A recurrent network: hidden states of all steps, and the gradient of the sum of their squares."""

    wrt = ("W", "U", "b")
    tolerance = 1e-3  # sums of a million float32 from first to last lose as much
    kind: str
    gates: int
    unrolls = (1, 4)

    def __init__(self, batch: int, inputs: int, units: int, steps: int) -> None:
        self.batch, self.inputs, self.units, self.steps = batch, inputs, units, steps
        sizes = f"{units} units" if inputs == units else f"{inputs} → {units} units"
        self.name = f"{self.kind}, {sizes}, batch {batch}, {steps:,} steps"

    def arguments(self, rng: np.random.Generator) -> Arguments:
        m, n, gates = self.inputs, self.units, self.gates
        return {
            "X": rng.normal(size=(self.steps, self.batch, m)).astype("float32"),
            "h0": np.zeros((self.batch, n), "float32"),
            "W": (rng.normal(size=(m, gates * n)) / m**0.5).astype("float32"),
            "U": (rng.normal(size=(n, gates * n)) / n**0.5).astype("float32"),
            "b": rng.normal(size=gates * n).astype("float32"),
        }

    def cost(self, results: Any, arguments: Arguments) -> Any:
        return (results[0] ** 2).sum()

    def first(self, h0: Any) -> tuple[Any, ...]:
        """The state before the first step, h first."""
        return (h0,)

    def step(self, tanh: Any, sigmoid: Any, x: Any, state: tuple[Any, ...], hU: Any) -> tuple[Any, ...]:
        """The next state; x is projected, and hU is the product of h and U."""
        raise NotImplementedError

    def numpy(self, X: Any, h0: Any, W: Any, U: Any, b: Any) -> list[Any]:
        projected, state, hs = X @ W + b, self.first(h0), []
        for x in projected:
            state = self.step(np.tanh, lambda v: 1 / (1 + np.exp(-v)), x, state, state[0] @ U)
            hs.append(state[0])
        return [np.stack(hs)]

    def symbolic(self, T: Any, scan: Any, X: Any, h0: Any, W: Any, U: Any, b: Any) -> list[Any]:
        def step(x: Any, *state_and_U: Any) -> Any:
            *state, U = state_and_U
            return self.step(T.tanh, T.sigmoid, x, tuple(state), T.dot(state[0], U))

        states = scan(step, T.dot(X, W) + b, list(self.first(h0)), U)
        return [states[0] if isinstance(states, list) else states]

    def jax(self, jax: Any, scan: Any, X: Any, h0: Any, W: Any, U: Any, b: Any) -> list[Any]:
        def step(state: Any, x: Any) -> Any:
            state = self.step(jax.numpy.tanh, jax.nn.sigmoid, x, state, state[0] @ U)
            return state, state[0]

        return [scan(step, self.first(h0), X @ W + b)[1]]

    def torch(self, torch: Any, jit: Any, X: Any, h0: Any, W: Any, U: Any, b: Any) -> list[Any]:
        """What `torch.nn` calls, with our weights in its layout."""
        weights = [W.T, U.T, b, torch.zeros_like(b)]
        run = {"RNN": torch._VF.rnn_tanh, "LSTM": torch._VF.lstm, "GRU": torch._VF.gru}[self.kind]
        first = tuple(s[None] for s in self.first(h0))
        return [run(X, first if len(first) > 1 else first[0], weights, True, 1, 0.0, False, False, False)[0]]


class RNN(Cell):
    """Tanh units."""

    kind, gates = "RNN", 1

    def step(self, tanh: Any, sigmoid: Any, x: Any, state: tuple[Any, ...], hU: Any) -> tuple[Any, ...]:
        return (tanh(x + hU),)


class LSTM(Cell):
    """Gates in torch's order: input, forget, cell, output."""

    kind, gates = "LSTM", 4

    def first(self, h0: Any) -> tuple[Any, ...]:
        return h0, h0

    def step(self, tanh: Any, sigmoid: Any, x: Any, state: tuple[Any, ...], hU: Any) -> tuple[Any, ...]:
        n, (_, c), z = self.units, state, x + hU
        i, f, g, o = (z[:, k * n : (k + 1) * n] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c


class GRU(Cell):
    """Gates in torch's order, reset, update, new, and the reset applied to the product, as torch does."""

    kind, gates = "GRU", 3

    def step(self, tanh: Any, sigmoid: Any, x: Any, state: tuple[Any, ...], hU: Any) -> tuple[Any, ...]:
        n, (h,) = self.units, state
        r, z = sigmoid(x[:, :n] + hU[:, :n]), sigmoid(x[:, n : 2 * n] + hU[:, n : 2 * n])
        new = tanh(x[:, 2 * n :] + r * hU[:, 2 * n :])
        return ((1 - z) * new + z * h,)


class LongNetwork(Workload):
    """One row of tanh units for very many steps, in float64: hidden states, and the gradient of their squares."""

    name, wrt = "tanh network, 64 units, 100,000 steps", ("U", "h0")
    c, c_gradient = "tanh_network", "tanh_network_gradient"
    steps, units = 100_000, 64
    unrolls = (1, 8)

    def arguments(self, rng: np.random.Generator) -> Arguments:
        n = self.units
        U = 0.9 * rng.normal(size=(n, n)) / n**0.5
        return {"x": rng.normal(size=(self.steps, n)) / 2, "h0": np.zeros(n), "U": U}

    def cost(self, results: Any, arguments: Arguments) -> Any:
        return (results[0] ** 2).sum()

    def numpy(self, x: Any, h0: Any, U: Any) -> list[Any]:
        h, hs = h0, np.empty(x.shape, np.result_type(h0, U))
        for t in range(len(x)):
            hs[t] = h = np.tanh(x[t] + h @ U)
        return [hs]

    def symbolic(self, T: Any, scan: Any, x: Any, h0: Any, U: Any) -> list[Any]:
        return [scan(lambda x, h, U: T.tanh(x + T.dot(h, U)), x, h0, U)]

    def jax(self, jax: Any, scan: Any, x: Any, h0: Any, U: Any) -> list[Any]:
        def step(h: Any, x: Any) -> Any:
            h = jax.numpy.tanh(x + h @ U)
            return h, h

        return [scan(step, h0, x)[1]]

    def torch(self, torch: Any, jit: Any, x: Any, h0: Any, U: Any) -> list[Any]:
        same = torch.eye(self.units, dtype=x.dtype)
        zero = x.new_zeros(self.units)
        run, weights = torch._VF.rnn_tanh, [same, U.T, zero, zero]
        return [run(x[:, None], h0[None, None], weights, True, 1, 0.0, False, False, False)[0][:, 0]]

    def numba(self, njit: Any) -> Any:
        @njit
        def states(x: Any, h0: Any, U: Any) -> Any:
            h, hs = h0, np.empty_like(x)
            for t in range(len(x)):
                h = np.dot(h, U)
                for j in range(len(h)):
                    hs[t, j] = h[j] = np.tanh(x[t, j] + h[j])
            return hs

        return states

    def numba_gradient(self, njit: Any) -> Any:
        states = self.numba(njit)

        @njit
        def gradient(x: Any, h0: Any, U: Any) -> Any:
            hs, turned = states(x, h0, U), U.T.copy()
            n, units = hs.shape
            before, rows, g, cost = np.empty_like(hs), np.empty_like(hs), np.zeros(units), 0.0
            before[0], before[1:] = h0, hs[:-1]
            for t in range(n - 1, -1, -1):
                for j in range(units):
                    h = hs[t, j]
                    cost += h * h
                    rows[t, j] = (g[j] + 2.0 * h) * (1.0 - h * h)
                g = np.dot(rows[t], turned)
            return cost, np.dot(before.T, rows), g

        return gradient


class Tutorial(Workload):
    """The network of Theano's tutorial: lags of inputs, states and outputs, and five matrices, in float32."""

    wrt = ("W", "W_in_1", "W_in_2", "W_feedback", "W_out")
    tolerance = 1e-3
    steps, inputs, outputs = 1_000, 16, 8
    unrolls = (1, 4)

    def __init__(self, units: int) -> None:
        self.units = units
        self.name = f"network of Theano's tutorial, {units} units"

    def arguments(self, rng: np.random.Generator) -> Arguments:
        m, n, k = self.inputs, self.units, self.outputs

        def normal(*shape: int) -> Any:
            return (0.7 * rng.normal(size=shape) / shape[0] ** 0.5).astype("float32")

        start = {"u": rng.normal(size=(self.steps + 4, m)).astype("float32"), "x0": normal(3, n), "y0": normal(k)}
        weights = {"W": normal(n, n), "W_in_1": normal(m, n), "W_in_2": normal(m, n)}
        return {**start, **weights, "W_feedback": normal(k, n), "W_out": normal(n, k)}

    def cost(self, results: Any, arguments: Arguments) -> Any:
        return (results[0] ** 2).sum() + (results[1] ** 2).sum()

    def numpy(
        self, u: Any, x0: Any, y0: Any, W: Any, W_in_1: Any, W_in_2: Any, W_feedback: Any, W_out: Any
    ) -> list[Any]:
        xs, ys = list(x0), [y0]
        for t in range(4, len(u)):
            drive = u[t] @ W_in_1 + u[t - 4] @ W_in_2 + ys[-1] @ W_feedback
            y = xs[-3] @ W_out
            xs.append(np.tanh(xs[-1] @ W + drive))
            ys.append(y)
        return [np.stack(xs[3:]), np.stack(ys[1:])]

    def symbolic(self, T: Any, scan: Any, u: Any, x0: Any, y0: Any, **weights: Any) -> list[Any]:
        def step(before: Any, now: Any, x3: Any, x1: Any, y: Any, W: Any, W1: Any, W2: Any, back: Any, out: Any) -> Any:
            drive = T.dot(now, W1) + T.dot(before, W2) + T.dot(y, back)
            return [T.tanh(T.dot(x1, W) + drive), T.dot(x3, out)]

        outputs = [{"initial": x0, "taps": [-3, -1]}, y0]
        return list(scan(step, {"input": u, "taps": [-4, 0]}, outputs, list(weights.values())))

    def jax(self, jax: Any, scan: Any, u: Any, x0: Any, y0: Any, **weights: Any) -> list[Any]:
        W, W_in_1, W_in_2, W_feedback, W_out = weights.values()
        drives = u[4:] @ W_in_1 + u[:-4] @ W_in_2

        def step(state: Any, drive: Any) -> Any:
            x3, x2, x1, y = state
            x = jax.numpy.tanh(x1 @ W + (drive + y @ W_feedback))
            y = x3 @ W_out
            return (x2, x1, x, y), (x, y)

        return list(scan(step, (x0[0], x0[1], x0[2], y0), drives)[1])

    def torch(self, torch: Any, jit: Any, u: Any, x0: Any, y0: Any, **weights: Any) -> list[Any]:
        W, W_in_1, W_in_2, W_feedback, W_out = weights.values()

        def step(x1: Any, x3: Any, y: Any, drive: Any) -> Any:
            return torch.tanh(x1 @ W + (drive + y @ W_feedback)), x3 @ W_out

        xs, ys, step = list(x0.unbind()), [y0], jit(step)
        for drive in (u[4:] @ W_in_1 + u[:-4] @ W_in_2).unbind():
            x, y = step(xs[-1], xs[-3], ys[-1], drive)
            xs.append(x)
            ys.append(y)
        return [torch.stack(xs[3:]), torch.stack(ys[1:])]

    def numba(self, njit: Any) -> Any:
        @njit
        def states(
            u: Any, x0: Any, y0: Any, W: Any, W_in_1: Any, W_in_2: Any, W_feedback: Any, W_out: Any
        ) -> tuple[Any, Any]:
            n = len(u) - 4
            drives = np.dot(u[4:], W_in_1) + np.dot(u[:n], W_in_2)
            xs, ys = np.empty((n + 3, len(W)), np.float32), np.empty((n + 1, len(y0)), np.float32)
            xs[:3], ys[0] = x0, y0
            for t in range(n):
                xs[t + 3] = np.tanh(np.dot(xs[t + 2], W) + (drives[t] + np.dot(ys[t], W_feedback)))
                ys[t + 1] = np.dot(xs[t], W_out)
            return xs[3:], ys[1:]

        return states


register(
    Tutorial(64),
    Tutorial(256),
    *(cell(batch, inputs, units, steps) for cell in (RNN,) for batch, inputs, units, steps in ((32, 256, 256, 100),)),
    *(
        cell(batch, inputs, units, steps)
        for cell in (LSTM, GRU)
        for batch, inputs, units, steps in ((1, 128, 128, 1000), (8, 64, 64, 100), (32, 128, 256, 200))
    ),
    LongNetwork(),
)
