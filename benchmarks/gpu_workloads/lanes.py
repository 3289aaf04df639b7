"""Many small recurrences side by side, whose steps know nothing of each other: maps, equations, likelihoods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gpu_workloads.base import FLOAT64, Draw, Task, power, register
from suite import FORWARD, GRADIENT


@dataclass(frozen=True)
class Ensemble(Task):
    """Equations for many parameters: the sum of the last states, these states, or those of all steps."""

    lanes: int = 10_000
    returns: str = "last"

    tiny: ClassVar[dict[str, int]] = {"lanes": 5, "steps": 7}
    label: ClassVar[str]
    RETURNS: ClassVar[dict[str, str]] = {"value": "one number", "last": "last states", "all": "all states"}

    @property
    def title(self) -> str:
        return f"{self.label}, {power(self.lanes)} lanes, {self.RETURNS[self.returns]}"

    def chosen(self, last: Any, every: Any) -> list[Any]:
        """The results, of the states after the last step and after every step."""
        if self.returns == "value":
            return [sum(x.sum() for x in last)]
        return list(last if self.returns == "last" else every)

    def cost(self, results: Any, arguments: dict[str, Any]) -> Any:
        return sum(r.sum() for r in results)


@dataclass(frozen=True)
class Logistic(Ensemble):
    """The logistic map where it does not become chaotic: results can be compared."""

    label, wrt = "logistic map", ("x0", "r")

    def arguments(self, draw: Draw) -> dict[str, Any]:
        return {"x0": draw.uniform(0.1, 0.9, self.lanes), "r": draw.uniform(2.0, 2.9, self.lanes)}

    def body(self, ops: Any, scan: Any, product: Any, x0: Any, r: Any) -> list[Any]:
        def step(state: Any, _: Any) -> Any:
            (x,) = state
            x = r * x * (1 - x)
            return (x,), ((x,) if self.returns == "all" else None)

        return self.chosen(*scan(step, (x0,), None, length=self.steps))

    def symbolic(self, T: Any, scan: Any, x0: Any, r: Any) -> list[Any]:
        x = scan(lambda x, r: r * x * (1 - x), outputs_info=x0, non_sequences=r, n_steps=self.steps)
        return self.chosen([x[-1]], [x])


@dataclass(frozen=True)
class LotkaVolterra(Ensemble):
    """Predators and prey by Runge and Kutta's method of fourth order."""

    label, wrt = "Lotka–Volterra, RK4", ("x0", "y0", "a", "b", "c", "d")
    h: ClassVar[float] = 0.01

    def arguments(self, draw: Draw) -> dict[str, Any]:
        ranges = {"x0": (0.5, 2), "y0": (0.5, 2), "a": (0.8, 1.2), "b": (0.3, 0.5), "c": (0.3, 0.5), "d": (0.8, 1.2)}
        return {name: draw.uniform(*range_, self.lanes) for name, range_ in ranges.items()}

    def next(self, x: Any, y: Any, a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any]:
        """A step, in operators that all systems have."""
        h = self.h

        def slope(x: Any, y: Any) -> tuple[Any, Any]:
            return (a - b * y) * x, (c * x - d) * y

        kx1, ky1 = slope(x, y)
        kx2, ky2 = slope(x + h / 2 * kx1, y + h / 2 * ky1)
        kx3, ky3 = slope(x + h / 2 * kx2, y + h / 2 * ky2)
        kx4, ky4 = slope(x + h * kx3, y + h * ky3)
        return x + h / 6 * (kx1 + 2 * (kx2 + kx3) + kx4), y + h / 6 * (ky1 + 2 * (ky2 + ky3) + ky4)

    def body(self, ops: Any, scan: Any, product: Any, x0: Any, y0: Any, **rates: Any) -> list[Any]:
        def step(state: Any, _: Any) -> Any:
            state = self.next(*state, **rates)
            return state, (state if self.returns == "all" else None)

        return self.chosen(*scan(step, (x0, y0), None, length=self.steps))

    def symbolic(self, T: Any, scan: Any, x0: Any, y0: Any, **rates: Any) -> list[Any]:
        x, y = scan(
            lambda *values: list(self.next(*values)),
            outputs_info=[x0, y0],
            non_sequences=list(rates.values()),
            n_steps=self.steps,
        )
        return self.chosen([x[-1], y[-1]], [x, y])


@dataclass(frozen=True)
class GARCH(Task):
    """The likelihood of many series, each with parameters of its own."""

    lanes: int = 10_000

    wrt = ("omega", "alpha", "beta")
    tiny: ClassVar[dict[str, int]] = {"lanes": 5, "steps": 7}
    sequences = ("r",)

    @property
    def title(self) -> str:
        return f"GARCH(1,1) likelihood, {power(self.lanes)} series{'' if self.dtype == FLOAT64 else ', float32'}"

    def arguments(self, draw: Draw) -> dict[str, Any]:
        ranges = {"start": (0.5, 2), "omega": (0.03, 0.1), "alpha": (0.05, 0.15), "beta": (0.7, 0.8)}
        return {
            "r": draw.normal(self.steps, self.lanes),
            **{name: draw.uniform(*range_, self.lanes) for name, range_ in ranges.items()},
        }

    def body(self, ops: Any, scan: Any, product: Any, r: Any, start: Any, omega: Any, alpha: Any, beta: Any) -> Any:
        squares = r * r

        def step(state: Any, x: Any) -> Any:
            (s2,), (square,) = state, x
            return (omega + alpha * square + beta * s2,), s2

        _, s2 = scan(step, (start,), (squares,), length=self.steps)
        return [0.5 * (ops.log(s2) + squares / s2).sum(0)]

    def symbolic(self, T: Any, scan: Any, r: Any, start: Any, omega: Any, alpha: Any, beta: Any) -> list[Any]:
        squares = r * r
        later = scan(
            lambda square, s2, omega, alpha, beta: omega + alpha * square + beta * s2,
            sequences=squares[:-1],
            outputs_info=start,
            non_sequences=[omega, alpha, beta],
        )
        s2 = T.concatenate([start[None], later])
        return [0.5 * T.sum(T.log(s2) + squares / s2, axis=0)]

    def cost(self, results: Any, arguments: dict[str, Any]) -> Any:
        return results[0].sum()


SLOW = ("lax.scan, unrolled", "torch.compile")

for ensemble in (LotkaVolterra, Logistic):
    for exponent in (4, 2, 6, 3, 5):
        for returns in ("all", "last", "value"):
            if returns == "value" and exponent % 2:
                continue
            central = exponent == 4 and returns != "value"
            slow = SLOW if central and (ensemble, returns) == (LotkaVolterra, "last") else ()
            task = ensemble(lanes=10**exponent, returns=returns)
            register(task, FORWARD, quick=central or (exponent == 6 and returns == "last"), extras=slow)
register(LotkaVolterra(returns="value"), GRADIENT)
register(GARCH(dtype=FLOAT64), GRADIENT, quick=True)
register(GARCH(), GRADIENT, quick=True, extras=("lax.scan, unrolled",))
