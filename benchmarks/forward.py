"""Forward mode of loops: a direction through all outputs, by `jvp`, by two reverse passes, and by JAX.

The derivative of all outputs of a loop in one direction can be had without a forward rule as well: as the reverse
derivative of the reverse derivative with respect to its cotangent. That records values of all steps. Each figure is CPU
time of a call in a process with one thread, rounds take the forms in turn; the ratio is to the loop itself. The first
call is timed from the graph on: derivation, compilation, and a call.

    python benchmarks/forward.py [--rounds N] [--steps N]
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from collections.abc import Callable
from typing import Any

import threads

if __name__ == "__main__":
    threads.use_one()

import numpy as np

import ostinato
import ostinato.tensor as T
from table import duration, figures, markdown, repeats, seconds

Form = Callable[[], Any]


def network(steps: int, units: int = 32) -> tuple[list[Any], list[Any], Any, list[Any]]:
    """A tanh network of one row: variables, arrays, its outputs, the same for JAX."""
    rng = np.random.default_rng(0)
    x, h0, W = T.dmatrix("x"), T.dvector("h0"), T.dmatrix("W")
    hs, _ = ostinato.scan(lambda v, h, W: T.tanh(T.dot(h, W) + v), sequences=x, outputs_info=h0, non_sequences=W)
    arrays = [rng.normal(size=(steps, units)), np.zeros(units), rng.normal(size=(units, units)) / units**0.5]
    return [x, h0, W], arrays, hs, [lambda jax: jax.numpy.tanh, lambda v, h, W, tanh: tanh(h @ W + v)]


def garch(steps: int) -> tuple[list[Any], list[Any], Any, list[Any]]:
    """The variances of a GARCH(1,1) model."""
    rng = np.random.default_rng(0)
    r, start, p = T.dvector("r"), T.dscalar("start"), T.dvector("p")
    hs, _ = ostinato.scan(
        lambda v, h, p: p[0] + p[1] * v**2 + p[2] * h, sequences=r, outputs_info=start, non_sequences=p
    )
    arrays = [rng.normal(size=steps), np.float64(1.0), np.array([0.1, 0.08, 0.9])]
    return [r, start, p], arrays, hs, [lambda jax: None, lambda v, h, p, _: p[0] + p[1] * v**2 + p[2] * h]


def forms(make: Any, steps: int) -> dict[str, tuple[float, Form]]:
    """By name: seconds from the graph to the first result, and a call."""
    inputs, arrays, ys, (prepare, step) = make(steps)
    rng = np.random.default_rng(1)
    u = [rng.normal(size=a.shape) for a in arrays]
    directions = [T.TensorType("float64", (None,) * a.ndim)() for a in u]
    v = ys.type()
    both, pushed = [*inputs, *directions], lambda: ostinato.jvp(ys, inputs, directions)
    builders = {
        "the loop": lambda: ostinato.function(inputs, ys),
        "jvp": lambda: ostinato.function(both, pushed()),
        "value and jvp": lambda: ostinato.function(both, [ys, pushed()]),
        "two reverse passes": lambda: ostinato.function(
            both, ostinato.vjp(ostinato.vjp(ys, inputs, v), v, directions), givens={v: T.zeros_like(ys)}
        ),
    }
    found: dict[str, tuple[float, Form]] = {}
    results = {}
    for name, build in builders.items():
        found[name] = _timed(name, build, arrays if name == "the loop" else [*arrays, *u], results)
    if importlib.util.find_spec("jax"):
        found |= _jax(arrays, u, prepare, step, results)
    for name in ("two reverse passes", "JAX jvp"):
        if name in results:
            np.testing.assert_allclose(results[name], results["jvp"], rtol=1e-9, atol=1e-9)
    return found


def _timed(name: str, build: Any, given: list[Any], results: dict[str, Any]) -> tuple[float, Form]:
    functions: list[Any] = []

    def first() -> None:
        functions.append(build())
        results[name] = functions[0](*given)

    return seconds(first), lambda: functions[0](*given)


def _jax(arrays: list[Any], u: list[Any], prepare: Any, step: Any, results: dict[str, Any]) -> dict[str, Any]:
    import jax

    jax.config.update("jax_enable_x64", True)
    extra = prepare(jax)

    def loop(x: Any, h: Any, p: Any) -> Any:
        def one(h: Any, v: Any) -> Any:
            new = step(v, h, p, extra)
            return new, new

        return jax.lax.scan(one, h, x)[1]

    given, moved = [jax.numpy.asarray(a) for a in arrays], [jax.numpy.asarray(a) for a in u]
    plain = jax.jit(loop)
    pushed = jax.jit(lambda a, d: jax.jvp(loop, a, d)[1])
    calls = {
        "JAX loop": lambda: plain(*given).block_until_ready(),
        "JAX jvp": lambda: pushed(tuple(given), tuple(moved)).block_until_ready(),
    }
    return {n: (seconds(lambda c=c, n=n: results.update({n: c()})), c) for n, c in calls.items()}


def main() -> None:
    """Measure in rounds, and print a table per loop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10_000)
    options = parser.parse_args()
    with ostinato.config.change_flags(cache=False):
        for make in (network, garch):
            found = forms(make, options.steps)
            times = {name: repeats(call) for name, (_, call) in found.items()}
            took: dict[str, list[float]] = {name: [] for name in found}
            for _ in range(options.rounds):
                for name, (_, call) in found.items():
                    took[name].append(seconds(call, times[name]))
            base = statistics.median(took["the loop"])
            rows = [
                [n, duration(statistics.median(t)), figures(statistics.median(t) / base), duration(found[n][0])]
                for n, t in took.items()
            ]
            doc = (make.__doc__ or "").split(":")[0].rstrip(".")
            print(markdown([doc, "a call", "to the loop", "first call"], rows) + "\n")


if __name__ == "__main__":
    main()
