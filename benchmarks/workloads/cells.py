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
    steps = 100

    def __init__(self, batch: int, units: int) -> None:
        self.batch, self.units = batch, units
        self.name = f"{self.kind}, {units} units, batch {batch}"

    def arguments(self, rng: np.random.Generator) -> Arguments:
        n, gates = self.units, self.gates
        return {
            "X": rng.normal(size=(self.steps, self.batch, n)).astype("float32"),
            "h0": np.zeros((self.batch, n), "float32"),
            "W": (rng.normal(size=(n, gates * n)) / n**0.5).astype("float32"),
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

    def torch(self, torch: Any, X: Any, h0: Any, W: Any, U: Any, b: Any) -> list[Any]:
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


register(*(cell(batch, units) for cell in (RNN, LSTM, GRU) for batch, units in ((1, 64), (1, 256), (8, 64), (32, 256))))
