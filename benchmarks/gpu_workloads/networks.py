"""Recurrent networks over batches: LSTM and GRU, which cuDNN has, and an LSTM with layer norms, which it has not.

The cost is the sum of the squares of all hidden states; a training step is its gradient for all parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from gpu_workloads.base import EPSILON, Draw, Task, register
from suite import FORWARD, GRADIENT


@dataclass(frozen=True)
class Network(Task):
    """Gates from projections of the inputs, made for all steps at once, and of the hidden state."""

    steps: int = 256
    precision: str = "tf32"
    batch: int = 32
    units: int = 128

    has_products = True
    tiny: ClassVar[dict[str, int]] = {"batch": 3, "units": 16, "steps": 6}
    sequences = ("X",)
    static: ClassVar[dict[str, int]] = {"X": 1, "h0": 1, "W": 2, "U": 2, "b": 1}
    wrt = ("W", "U", "b")
    label: ClassVar[str]
    gates: ClassVar[int]

    @property
    def title(self) -> str:
        shorter = "" if self.steps == Network.steps else f", T = {self.steps}"
        return f"{self.label}, B = {self.batch}, H = {self.units}{shorter}"

    @property
    def huge(self) -> bool:
        return self.batch * self.units > 10**6

    def arguments(self, draw: Draw) -> dict[str, Any]:
        n, width = self.units, self.gates * self.units
        return {
            "X": draw.normal(self.steps, self.batch, n),
            "h0": draw.zeros(self.batch, n),
            "W": draw.normal(n, width) / n**0.5,
            "U": draw.normal(n, width) / n**0.5,
            "b": draw.normal(width),
        }

    def cost(self, results: Any, arguments: dict[str, Any]) -> Any:
        return (results[0] ** 2).sum()

    def parts(self, z: Any) -> list[Any]:
        """The gates of a symbolic matrix."""
        return [z[:, k * self.units : (k + 1) * self.units] for k in range(self.gates)]


@dataclass(frozen=True)
class LSTM(Network):
    """Gates in torch's order: input, forget, cell, output."""

    label, gates, cudnn = "LSTM", 4, "LSTM"

    def body(self, ops: Any, scan: Any, product: Any, X: Any, h0: Any, W: Any, U: Any, b: Any) -> list[Any]:
        recurrent = product(U)

        def step(state: Any, x: Any) -> Any:
            h, c = state
            i, f, g, o = ops.split(recurrent(h, x[0]), 4)
            c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
            h = ops.sigmoid(o) * ops.tanh(c)
            return (h, c), h

        return [scan(step, (h0, h0), (product(W)(X, b),), length=self.steps)[1]]

    def symbolic(self, T: Any, scan: Any, X: Any, h0: Any, W: Any, U: Any, b: Any) -> list[Any]:
        def step(x: Any, h: Any, c: Any, U: Any) -> list[Any]:
            i, f, g, o = self.parts(x + T.dot(h, U))
            c = T.sigmoid(f) * c + T.sigmoid(i) * T.tanh(g)
            return [T.sigmoid(o) * T.tanh(c), c]

        return [scan(step, sequences=T.dot(X, W) + b, outputs_info=[h0, h0], non_sequences=U)[0]]


@dataclass(frozen=True)
class GRU(Network):
    """Gates in torch's order, reset, update, new, and the reset applied to the product, as torch does."""

    label, gates, cudnn = "GRU", 3, "GRU"

    def body(self, ops: Any, scan: Any, product: Any, X: Any, h0: Any, W: Any, U: Any, b: Any) -> list[Any]:
        recurrent = product(U)

        def step(state: Any, x: Any) -> Any:
            (h,) = state
            (xr, xz, xn), (hr, hz, hn) = ops.split(x[0], 3), ops.split(recurrent(h), 3)
            r, z = ops.sigmoid(xr + hr), ops.sigmoid(xz + hz)
            new = ops.tanh(xn + r * hn)
            h = new + z * (h - new)
            return (h,), h

        return [scan(step, (h0,), (product(W)(X, b),), length=self.steps)[1]]

    def symbolic(self, T: Any, scan: Any, X: Any, h0: Any, W: Any, U: Any, b: Any) -> list[Any]:
        def step(x: Any, h: Any, U: Any) -> Any:
            (xr, xz, xn), (hr, hz, hn) = self.parts(x), self.parts(T.dot(h, U))
            r, z = T.sigmoid(xr + hr), T.sigmoid(xz + hz)
            new = T.tanh(xn + r * hn)
            return new + z * (h - new)

        return [scan(step, sequences=T.dot(X, W) + b, outputs_info=h0, non_sequences=U)]


@dataclass(frozen=True)
class LayerNormLSTM(Network):
    """An LSTM that normalizes both projections and the cell."""

    label, gates = "LayerNorm-LSTM", 4
    wrt = ("W", "U", "b", "gx", "gh", "gc", "bc")
    static: ClassVar[dict[str, int]] = {**Network.static, "gx": 1, "gh": 1, "gc": 1, "bc": 1}

    def arguments(self, draw: Draw) -> dict[str, Any]:
        n = self.units
        gains = {name: draw.uniform(0.5, 1.5, size) for name, size in (("gx", 4 * n), ("gh", 4 * n), ("gc", n))}
        return {**super().arguments(draw), **gains, "bc": draw.normal(n)}

    def body(
        self,
        ops: Any,
        scan: Any,
        product: Any,
        X: Any,
        h0: Any,
        W: Any,
        U: Any,
        b: Any,
        gx: Any,
        gh: Any,
        gc: Any,
        bc: Any,
    ) -> list[Any]:
        recurrent = product(U)

        def step(state: Any, x: Any) -> Any:
            h, c = state
            i, f, g, o = ops.split(x[0] + ops.layer_norm(recurrent(h), gh), 4)
            c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
            h = ops.sigmoid(o) * ops.tanh(ops.layer_norm(c, gc, bc))
            return (h, c), h

        return [scan(step, (h0, h0), (ops.layer_norm(product(W)(X), gx, b),), length=self.steps)[1]]

    def symbolic(
        self, T: Any, scan: Any, X: Any, h0: Any, W: Any, U: Any, b: Any, gx: Any, gh: Any, gc: Any, bc: Any
    ) -> list[Any]:
        def layer_norm(x: Any, gain: Any) -> Any:
            x = x - T.mean(x, axis=-1, keepdims=True)
            return x / T.sqrt(T.mean(x**2, axis=-1, keepdims=True) + EPSILON) * gain

        def step(x: Any, h: Any, c: Any, U: Any, gh: Any, gc: Any, bc: Any) -> list[Any]:
            i, f, g, o = self.parts(x + layer_norm(T.dot(h, U), gh))
            c = T.sigmoid(f) * c + T.sigmoid(i) * T.tanh(g)
            return [T.sigmoid(o) * T.tanh(layer_norm(c, gc) + bc), c]

        x = layer_norm(T.dot(X, W), gx) + b
        return [scan(step, sequences=x, outputs_info=[h0, h0], non_sequences=[U, gh, gc, bc])[0]]


SHAPES = ((32, 128), (32, 256), (256, 128), (1, 1024), (2048, 128), (1, 128), (32, 64), (64, 512))
CORNERS = ((1, 64), (2048, 64), (32, 1024), (256, 1024), (2048, 1024))
BOTH = (FORWARD, GRADIENT)

for network in (LSTM, LayerNormLSTM, GRU):
    for batch, units in SHAPES[:5] if network is LayerNormLSTM else (*SHAPES, *CORNERS):
        central = (batch, units) == (32, 128) or (network is LSTM and (batch, units) in SHAPES[:3])
        compiled = (network, batch, units) in ((LayerNormLSTM, 32, 128), (LSTM, 32, 256))
        task = network(batch=batch, units=units)
        if task.huge:  # what torch's loop keeps for derivatives has to fit, too
            task = replace(task, steps=64)
        register(task, FORWARD, quick=central, extras=("torch.compile",) if compiled else ())
        register(task, GRADIENT, quick=central, extras=("torch.compile",) if compiled and network is not LSTM else ())
for batch, units in SHAPES[:3]:
    register(LSTM(batch=batch, units=units, precision="bf16"), *BOTH)
register(LSTM(precision="ieee"), *BOTH)
