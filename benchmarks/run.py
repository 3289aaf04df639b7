"""Time Ostinato's backends against the same computation written by hand, with NumPy arrays and Python floats.

Every workload of the registry below gives a pair for its value and a pair for its gradient: a graph, which each
backend compiles, and a function written by hand, the gradient with backpropagation by hand. All get the same
arguments, and their results must agree before anything is timed. Each round then times all pairs one after
the other, and the systems of a pair back to back, so that a machine that is busy for a while slows all alike;
reported are medians over the rounds, of the times and of their ratios. The table is in Markdown.

What has no native form is run by the interpreter, also if the native backend is asked for. Such a cell says so.

    python benchmarks/run.py [--quick] [--only NAME] [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

# Products as small as these gain nothing from threads, which wait for each other on a busy machine.
os.environ.update(OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_NUM_THREADS="1", VECLIB_MAXIMUM_THREADS="1")
os.environ["OSTINATO_CACHE"] = "0"  # compiling is timed, not loading; that is what cache.py does

import numpy as np

import ostinato
import ostinato.tensor as T
from ostinato.backends.llvm.run import Native

BY_HAND = "by hand"
MODES = ("reference", "native")
BUILDS = 3  # how often each function is built: a median again
ENOUGH = 5e-3  # seconds: a shorter call is repeated until one timing takes that long


class Pair(NamedTuple):
    """Two functions of the same arguments that return the same arrays."""

    build: Callable[[], ostinato.Function]  # builds the graph and compiles it, in the mode that is set
    by_hand: Callable[..., Sequence[Any]]


class Workload(NamedTuple):
    """A computation and its arguments."""

    arguments: tuple[Any, ...]
    value: Pair
    gradient: Pair


WORKLOADS: dict[str, tuple[str, Callable[[np.random.Generator], Workload]]] = {}


def workload(what: str) -> Callable[..., Any]:
    """Enter a maker of a workload into the registry, under its own name."""

    def enter(make: Callable[[np.random.Generator], Workload]) -> Callable[[np.random.Generator], Workload]:
        WORKLOADS[make.__name__] = (what, make)
        return make

    return enter


def compiled(inputs: list[Any], cost: Any, wrt: list[Any] | None = None) -> Any:
    """The function from inputs to the cost, or to its gradient."""
    return ostinato.function(inputs, [cost] if wrt is None else T.grad(cost, wrt))


# ---- GARCH: one scalar state ----------------------------------------------------------------------


@workload("a scalar state, 2000 steps, then the likelihood of a GARCH model")
def garch(rng: np.random.Generator) -> Workload:
    def build(with_gradient: bool) -> Any:
        squares, start = T.vector("squares"), T.scalar("start")
        omega, alpha, beta = T.scalars("omega", "alpha", "beta")
        later, _ = ostinato.scan(
            lambda square, s2, omega, alpha, beta: omega + alpha * square + beta * s2,
            sequences=squares[:-1],
            outputs_info=start,
            non_sequences=[omega, alpha, beta],
        )
        s2 = T.concatenate([T.stack([start]), later])
        cost = T.sum(T.log(s2) + squares / s2)
        wrt = [omega, alpha, beta]
        return compiled([squares, start, *wrt], cost, wrt if with_gradient else None)

    def variances(squares: Any, start: float, omega: float, alpha: float, beta: float) -> Any:
        s2, all_of_them = start, [start]
        for square in squares[:-1].tolist():
            s2 = omega + alpha * square + beta * s2
            all_of_them.append(s2)
        return np.array(all_of_them)

    def value(squares: Any, *parameters: float) -> list[Any]:
        s2 = variances(squares, *parameters)
        return [np.sum(np.log(s2) + squares / s2)]

    def gradient(squares: Any, start: float, omega: float, alpha: float, beta: float) -> list[Any]:
        s2 = variances(squares, start, omega, alpha, beta)
        direct = (1 - squares / s2) / s2
        g, all_of_them = 0.0, []
        for d in direct[:0:-1].tolist():
            g = d + beta * g
            all_of_them.append(g)
        bar = np.array(all_of_them[::-1])
        return [bar.sum(), bar @ squares[:-1], bar @ s2[:-1]]

    arguments = (rng.normal(size=2000) ** 2, 1.0, 0.05, 0.1, 0.85)
    return Workload(arguments, Pair(lambda: build(False), value), Pair(lambda: build(True), gradient))


# ---- a recurrent network --------------------------------------------------------------------------


@workload("a recurrent network of 32 tanh units, batch of 8, 300 steps")
def rnn(rng: np.random.Generator) -> Workload:
    return network(rng, 300, 8, 32)


@workload("the same with 256 units, batch of 32, 30 steps: nearly all of the time goes into matrix products")
def wide(rng: np.random.Generator) -> Workload:
    return network(rng, 30, 32, 256)


def network(rng: np.random.Generator, steps: int, batch: int, units: int) -> Workload:
    def build(with_gradient: bool) -> Any:
        X, h0, W, U = T.tensor3("X"), T.matrix("h0"), T.matrix("W"), T.matrix("U")
        h, _ = ostinato.scan(
            lambda x, h, U: T.tanh(x + T.dot(h, U)), sequences=T.dot(X, W), outputs_info=h0, non_sequences=U
        )
        cost = T.sum(h**2)
        return compiled([X, h0, W, U], cost, [W, U, h0] if with_gradient else None)

    def states(X: Any, h0: Any, W: Any, U: Any) -> Any:
        h, projected = np.empty((len(X) + 1, *h0.shape)), X @ W
        h[0] = h0
        for t in range(len(X)):
            np.tanh(projected[t] + h[t] @ U, out=h[t + 1])
        return h

    def value(*arguments: Any) -> list[Any]:
        return [np.sum(states(*arguments)[1:] ** 2)]

    def gradient(X: Any, h0: Any, W: Any, U: Any) -> list[Any]:
        h = states(X, h0, W, U)
        g, bar, slope = np.zeros_like(h0), np.empty_like(X), 1 - h[1:] ** 2
        for t in range(len(X) - 1, -1, -1):
            bar[t] = (g + 2 * h[t + 1]) * slope[t]
            g = bar[t] @ U.T
        flat = bar.reshape(-1, units)
        return [X.reshape(-1, units).T @ flat, h[:-1].reshape(-1, units).T @ flat, g]

    arguments = (
        rng.normal(size=(steps, batch, units)),
        np.zeros((batch, units)),
        rng.normal(size=(units, units)) / units,
        rng.normal(size=(units, units)) / units**0.5,
    )
    return Workload(arguments, Pair(lambda: build(False), value), Pair(lambda: build(True), gradient))


# ---- taps -----------------------------------------------------------------------------------------


@workload("a scalar state with taps -2 and -1, an AR(2) process, 2000 steps")
def taps(rng: np.random.Generator) -> Workload:
    def build(with_gradient: bool) -> Any:
        noise, first = T.vector("noise"), T.vector("first")
        a, b = T.scalars("a", "b")
        y, _ = ostinato.scan(
            lambda e, y2, y1, a, b: a * y1 + b * y2 + e,
            sequences=noise,
            outputs_info={"initial": first, "taps": [-2, -1]},
            non_sequences=[a, b],
        )
        return compiled([noise, first, a, b], T.sum(y**2), [a, b] if with_gradient else None)

    def series(noise: Any, first: Any, a: float, b: float) -> Any:
        y2, y1 = first.tolist()
        y = [y2, y1]
        for e in noise.tolist():
            y2, y1 = y1, a * y1 + b * y2 + e
            y.append(y1)
        return np.array(y)

    def value(*arguments: Any) -> list[Any]:
        return [np.sum(series(*arguments)[2:] ** 2)]

    def gradient(noise: Any, first: Any, a: float, b: float) -> list[Any]:
        y = series(noise, first, a, b)
        g1 = g2 = 0.0
        bar = []
        for direct in (2 * y[:1:-1]).tolist():
            g1, g2 = direct + a * g1 + b * g2, g1
            bar.append(g1)
        reverse = np.array(bar[::-1])
        return [reverse @ y[1:-1], reverse @ y[:-2]]

    arguments = (rng.normal(size=2000), np.array([0.3, -0.2]), 0.6, 0.3)
    return Workload(arguments, Pair(lambda: build(False), value), Pair(lambda: build(True), gradient))


# ---- a loop that ends by itself -------------------------------------------------------------------


@workload("x = cos(a x) for 100 values until nothing moves: about 60 of at most 10000 steps")
def until(rng: np.random.Generator) -> Workload:
    tolerance, most = 1e-10, 10_000

    def build(with_gradient: bool) -> Any:
        x0, a = T.vector("x0"), T.scalar("a")

        def step(x: Any, a: Any) -> Any:
            new = T.cos(a * x)
            return new, ostinato.until(T.max(abs(new - x)) < tolerance)

        x, _ = ostinato.reduce(lambda i, x, a: step(x, a), T.arange(most), x0, a)
        return compiled([x0, a], x.sum(), [a, x0] if with_gradient else None)

    def steps(x: Any, a: float) -> list[Any]:
        tape = [x]
        for _ in range(most):
            tape.append(np.cos(a * tape[-1]))
            if np.abs(tape[-1] - tape[-2]).max() < tolerance:
                break
        return tape

    def value(x0: Any, a: float) -> list[Any]:
        x = x0
        for _ in range(most):
            before, x = x, np.cos(a * x)
            if np.abs(x - before).max() < tolerance:
                break
        return [x.sum()]

    def gradient(x0: Any, a: float) -> list[Any]:
        g, of_a = np.ones_like(x0), 0.0
        for x in steps(x0, a)[-2::-1]:
            slope = -g * np.sin(a * x)
            of_a += slope @ x
            g = slope * a
        return [of_a, g]

    arguments = (rng.uniform(size=100), 1.0)
    return Workload(arguments, Pair(lambda: build(False), value), Pair(lambda: build(True), gradient))


# ---- measuring ------------------------------------------------------------------------------------


class Row:
    """A pair under measurement: what is written by hand, and its graph compiled by each backend."""

    def __init__(self, label: str, pair: Pair, arguments: tuple[Any, ...]) -> None:
        self.label, self.arguments = label, arguments
        self.systems: dict[str, Callable[..., Sequence[Any]]] = {BY_HAND: pair.by_hand}
        self.building: dict[str, float] = {}
        expected = pair.by_hand(*arguments)
        for mode in MODES:
            with ostinato.config.change_flags(mode=mode):
                function = pair.build()
                self.building[mode] = statistics.median(seconds(pair.build, (), 1) for _ in range(BUILDS))
            for ours, by_hand in zip(function(*arguments), expected, strict=True):
                np.testing.assert_allclose(ours, by_hand, rtol=1e-8, atol=1e-10, err_msg=f"{label}, {mode}")
            if mode == "native" and not isinstance(function._run, Native):
                continue
            self.systems[mode] = function
        self.repeats = {name: repeats(system, arguments) for name, system in self.systems.items()}
        self.times: dict[str, list[float]] = {name: [] for name in self.systems}

    def measure(self) -> None:
        """One more round."""
        for name, system in self.systems.items():
            self.times[name].append(seconds(system, self.arguments, self.repeats[name]))

    def __str__(self) -> str:
        cells = [self.label, f"{figures(1e3 * statistics.median(self.times[BY_HAND]))} ms"]
        cells += [self._cell(mode) for mode in MODES]
        cells += [", ".join(f"{1e3 * self.building[mode]:.0f} ms" for mode in MODES)]
        return f"| {' | '.join(cells)} |"

    def _cell(self, mode: str) -> str:
        """Time, ratio to what is written by hand, and the middle half of the ratios."""
        if mode not in self.systems:
            return "interpreted"
        ratios = sorted(ours / by_hand for ours, by_hand in zip(self.times[mode], self.times[BY_HAND], strict=True))
        low, middle, high = (figures(r) for r in quartiles(ratios))
        return f"{figures(1e3 * statistics.median(self.times[mode]))} ms: **{middle}** ({low} to {high})"


def quartiles(ordered: Sequence[float]) -> tuple[float, float, float]:
    """The ends of the middle half and the median between them."""
    quarter = len(ordered) // 4
    return ordered[quarter], statistics.median(ordered), ordered[-1 - quarter]


def figures(value: float) -> str:
    """A number with two digits, or three where it is above 100: more is not to be had from such a measurement."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def seconds(function: Callable[..., Any], arguments: tuple[Any, ...], times: int) -> float:
    """How long one call takes, as a mean over some calls."""
    start = time.perf_counter()
    for _ in range(times):
        function(*arguments)
    return (time.perf_counter() - start) / times


def repeats(function: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    """How many calls make one timing long enough."""
    return max(1, int(ENOUGH / min(seconds(function, arguments, 1) for _ in range(3))))


def report(rows: Sequence[Row]) -> str:
    """The table."""
    head = "| workload | by hand | reference | native | build and compile: " + ", ".join(MODES) + " |"
    lines = [f"- {n}: {what}" for n, (what, _) in WORKLOADS.items() if any(r.label.startswith(n) for r in rows)]
    return "\n".join([*lines, "", head, "|---|--:|--:|--:|--:|", *map(str, rows)])


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time Ostinato's backends against loops written by hand.")
    parser.add_argument("--quick", action="store_true", help="few rounds: does everything run and agree?")
    parser.add_argument("--only", choices=WORKLOADS, action="append", metavar="NAME", help=", ".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each system is timed")
    args = parser.parse_args(argv)
    args.rounds = args.rounds or (3 if args.quick else 25)
    if args.rounds < 1:
        parser.error("--rounds: 1 at least")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmarks and print the table."""
    args = read_arguments(argv)
    rows = []
    for name in args.only or WORKLOADS:
        case = WORKLOADS[name][1](np.random.default_rng(1))
        rows += [Row(f"{name}, value", case.value, case.arguments)]
        rows += [Row(f"{name}, gradient", case.gradient, case.arguments)]
    for i in range(args.rounds):
        if sys.stderr.isatty():
            print(f"\rround {i + 1} of {args.rounds}", end="", file=sys.stderr, flush=True)
        for row in rows:
            row.measure()
    if sys.stderr.isatty():
        print(file=sys.stderr)
    versions = f"Ostinato {ostinato.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"
    print(f"{versions}, {platform.machine()}; medians of {args.rounds} rounds\n")
    print("Time, **ratio to by hand**, and the middle half of the ratios: below 1 is faster than by hand.\n")
    print(report(rows))


if __name__ == "__main__":
    main()
