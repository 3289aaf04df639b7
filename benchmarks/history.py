"""A history that each step appends a row to: what n rows cost, forwards and in the gradient.

    python benchmarks/history.py [--rounds N] [--sizes N]... [--longest SECONDS]

Row i of an array of n x 10 x 10 is the sine of row i - 1; what is asked for is the sum of the last row, and its
gradient with respect to the whole array. Systems take turns, call by call, with one thread and CPU time. JAX has
columns where it is installed; a system is left out after the size where one call takes too long. With each time
stands how many times that of half as many rows it is: 2 is what appending should cost.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Callable
from typing import Any

import threads

if __name__ == "__main__":
    threads.use_one()

import numpy as np

from table import duration, figures, markdown, repeats, seconds

SIZES = (500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000)
Run = Callable[[Any], Any]


def ours() -> tuple[Run, Run]:
    """The cost and its gradient by Ostinato, for all sizes."""
    import ostinato
    import ostinato.tensor as T

    p = T.tensor3("p")
    rows = T.arange(1, p.shape[0])
    final, _ = ostinato.scan(lambda i, h: T.set_subtensor(h[i], T.sin(h[i - 1])), rows, [p])
    cost = final[-1][-1].sum()
    return ostinato.function([p], cost), ostinato.function([p], T.grad(cost, p))


def with_jax() -> tuple[Run, Run]:
    """The same by JAX, compiled for each size."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from jax import lax

    def cost(p: Any) -> Any:
        rows = jnp.arange(1, p.shape[0])
        return lax.scan(lambda h, i: (h.at[i].set(jnp.sin(h[i - 1])), None), p, rows)[0][-1].sum()

    forward, gradient = jax.jit(cost), jax.jit(jax.grad(cost))
    return lambda p: forward(p).block_until_ready(), lambda p: gradient(p).block_until_ready()


SYSTEMS: dict[str, tuple[str, Callable[[], tuple[Run, Run]]]] = {
    "ostinato": ("ostinato", ours),
    "JAX": ("jax", with_jax),
}


def check(found: dict[str, Any]) -> None:
    """All systems give the same."""
    first, *others = found.values()
    for other in others:
        np.testing.assert_allclose(np.asarray(other), np.asarray(first), rtol=1e-9, atol=1e-12)


def measured(runs: dict[str, Run], size: int, rounds: int) -> dict[str, float]:
    """The median time of a call by each system, at one size."""
    start = np.zeros((size, 10, 10)) + np.linspace(0.1, 1, 10)
    calls = {name: (lambda run=run: run(start)) for name, run in runs.items()}
    check({name: call() for name, call in calls.items()})
    times = {name: repeats(call) for name, call in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(seconds(call, times[name]))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Measure size by size, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, action="append")
    parser.add_argument("--longest", type=float, default=1.0, help="seconds of a call after which a system is left out")
    options = parser.parse_args()
    made = {name: make() for name, (module, make) in SYSTEMS.items() if importlib.util.find_spec(module)}
    columns = [(what, k, name) for k, what in enumerate(("cost", "gradient")) for name in made]
    before: dict[tuple[int, str], tuple[int, float]] = {}
    rows = []
    for size in options.sizes or SIZES:
        line = [f"{size:,}"]
        for k in (0, 1):
            runs = {n: r[k] for n, r in made.items() if before.get((k, n), (0, 0.0))[1] <= options.longest}
            found = measured(runs, size, options.rounds)
            for name in made:
                line.append(cell(found.get(name), size, before.get((k, name))))
            before |= {(k, name): (size, value) for name, value in found.items()}
        print(" ".join(line), file=sys.stderr, flush=True)
        rows.append(line)
    print(markdown(["rows", *[f"{what}, {name}" for what, _, name in columns]], rows))


def cell(value: float | None, size: int, before: tuple[int, float] | None) -> str:
    """A time, and how many times that of half the size it is, if that is known."""
    if value is None:
        return ""
    grown = f" (x {figures(value / before[1])})" if before and before[0] * 2 == size else ""
    return f"{duration(value)}{grown}"


if __name__ == "__main__":
    main()
