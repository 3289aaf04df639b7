"""Recurrences that are linear in the state: scalars, matrices under the gated delta rule, and a hidden Markov model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gpu_workloads.base import Draw, Task, power, register
from suite import FORWARD, GRADIENT


@dataclass(frozen=True)
class Affine(Task):
    """h = a h + b with a and b that change from step to step."""

    lanes: int = 1

    wrt = ("a", "b")
    tiny: ClassVar[dict[str, int]] = {"lanes": 3, "steps": 9}
    sequences = ("a", "b")

    @property
    def title(self) -> str:
        return f"h = a h + b, {power(self.lanes)} lane{'s' * (self.lanes > 1)}, T = {power(self.steps)}"

    @property
    def huge(self) -> bool:
        return self.steps * self.lanes >= 10**9

    def arguments(self, draw: Draw) -> dict[str, Any]:
        shape = self.steps, self.lanes
        return {"a": draw.uniform(0.5, 1.0, *shape), "b": draw.normal(*shape), "h0": draw.normal(self.lanes)}

    def body(self, ops: Any, scan: Any, product: Any, a: Any, b: Any, h0: Any) -> list[Any]:
        def step(state: Any, x: Any) -> Any:
            (h,), (a, b) = state, x
            h = a * h + b
            return (h,), h

        return [scan(step, (h0,), (a, b), length=self.steps)[1]]

    def associative(self, associative_scan: Any, a: Any, b: Any, h0: Any) -> list[Any]:
        """The same as pairs (a, b) of maps, to be composed in any grouping."""
        whole, rest = associative_scan(lambda p, q: (p[0] * q[0], p[1] * q[0] + q[1]), (a, b))
        return [whole * h0 + rest]

    def symbolic(self, T: Any, scan: Any, a: Any, b: Any, h0: Any) -> list[Any]:
        return [scan(lambda a, b, h: a * h + b, sequences=[a, b], outputs_info=h0)]

    def cost(self, results: Any, arguments: dict[str, Any]) -> Any:
        return (results[0] ** 2).sum()


@dataclass(frozen=True)
class DeltaRule(Task):
    """The gated delta rule of linear attention: a matrix per head forgets, corrects what k recalls, and answers q."""

    steps: int = 512
    heads: int = 64  # of all sequences of the batch
    size: int = 64

    wrt = ("q", "k", "v")
    tiny: ClassVar[dict[str, int]] = {"heads": 3, "size": 16, "steps": 6}
    static: ClassVar[dict[str, int]] = {"q": 1, "k": 1, "v": 1, "S0": 2}
    sequences = ("q", "k", "v", "a", "b")

    @property
    def title(self) -> str:
        return f"gated delta rule, {self.heads} heads, d = {self.size}"

    def arguments(self, draw: Draw) -> dict[str, Any]:
        shape = self.steps, self.heads
        q, k, v = (draw.normal(*shape, self.size) for _ in range(3))
        return {
            "q": q,
            "k": k / (k**2).sum(-1)[..., None] ** 0.5,
            "v": v,
            "a": draw.uniform(0.9, 1.0, *shape),
            "b": draw.uniform(0.0, 1.0, *shape),
            "S0": draw.zeros(self.heads, self.size, self.size),
        }

    def body(self, ops: Any, scan: Any, product: Any, q: Any, k: Any, v: Any, a: Any, b: Any, S0: Any) -> list[Any]:
        def step(state: Any, x: Any) -> Any:
            (S,), (q, k, v, a, b) = state, x
            write, recalled = (b[:, None] * k)[:, :, None], ops.contract(k, S)
            S = a[:, None, None] * (S - write * recalled[:, None, :]) + write * v[:, None, :]
            return (S,), ops.contract(q, S)

        return [scan(step, (S0,), (q, k, v, a, b), length=self.steps)[1]]

    def symbolic(self, T: Any, scan: Any, q: Any, k: Any, v: Any, a: Any, b: Any, S0: Any) -> list[Any]:
        def step(q: Any, k: Any, v: Any, a: Any, b: Any, S: Any) -> list[Any]:
            write, recalled = (b[:, None] * k)[:, :, None], T.sum(k[:, :, None] * S, axis=1)
            S = a[:, None, None] * (S - write * recalled[:, None, :]) + write * v[:, None, :]
            return [S, T.sum(q[:, :, None] * S, axis=1)]

        return [scan(step, sequences=[q, k, v, a, b], outputs_info=[S0, None])[1]]

    def cost(self, results: Any, arguments: dict[str, Any]) -> Any:
        return (results[0] ** 2).sum()


@dataclass(frozen=True)
class HMM(Task):
    """The forward algorithm in logarithms: a probability per sequence."""

    steps: int = 200
    lanes: int = 1000
    states: int = 32

    has_products = True
    wrt = ("transitions", "first")
    tiny: ClassVar[dict[str, int]] = {"lanes": 3, "states": 16, "steps": 6}
    static: ClassVar[dict[str, int]] = {"emissions": 1, "transitions": 2, "first": 1}
    sequences = ("emissions",)

    @property
    def title(self) -> str:
        return f"HMM forward, {power(self.lanes)} sequences, K = {self.states}"

    def arguments(self, draw: Draw) -> dict[str, Any]:
        n = self.states
        emissions = draw.normal(self.steps, self.lanes, n)
        return {"emissions": emissions, "transitions": draw.normal(n, n) - n**0.5, "first": draw.normal(n)}

    def body(self, ops: Any, scan: Any, product: Any, emissions: Any, transitions: Any, first: Any) -> list[Any]:
        mix = product(ops.exp(transitions))

        def step(state: Any, x: Any) -> Any:
            (alpha,), (e,) = state, x
            peak = ops.peak(alpha)
            return (ops.log(mix(ops.exp(alpha - peak))) + (peak + e),), None

        (alpha,), _ = scan(step, (first + emissions[0],), (emissions[1:],), length=self.steps - 1)
        peak = ops.peak(alpha)
        return [ops.log(ops.exp(alpha - peak).sum(-1)) + peak[:, 0]]

    def symbolic(self, T: Any, scan: Any, emissions: Any, transitions: Any, first: Any) -> list[Any]:
        def step(e: Any, alpha: Any, mixing: Any) -> Any:
            peak = T.max(alpha, axis=-1, keepdims=True)
            return T.log(T.dot(T.exp(alpha - peak), mixing)) + (peak + e)

        alpha = scan(step, sequences=emissions[1:], outputs_info=first + emissions[0], non_sequences=T.exp(transitions))
        return [T.logsumexp(alpha[-1], axis=-1)]

    def cost(self, results: Any, arguments: dict[str, Any]) -> Any:
        return results[0].sum()


register(DeltaRule(), FORWARD, quick=True, extras=("torch.compile",))
register(DeltaRule(size=128), FORWARD, quick=True)
register(DeltaRule(), GRADIENT)
register(DeltaRule(size=128), GRADIENT)
for lanes, steps in ((1, 10**7), (100, 10**6), (10**4, 10**4)):
    register(Affine(lanes=lanes, steps=steps), FORWARD, quick=lanes != 100)
register(Affine(lanes=10**4, steps=2 * 10**4), FORWARD)
register(Affine(lanes=100, steps=10**5), FORWARD, GRADIENT)
for lanes, steps in ((10, 10**7), (10**3, 10**5), (10**3, 10**6), (100, 10**7)):  # 10⁴ lanes of 10⁷ fit no GPU
    register(Affine(lanes=lanes, steps=steps), FORWARD)
register(HMM(), FORWARD, GRADIENT, quick=True)
