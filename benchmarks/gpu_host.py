"""Time what the host does for a call of a function on a GPU, without one: all but the driver's own work.

Triton compiles, and a stand-in takes the launches; arrays are the host's. A short loop takes a GPU less time than
the host takes to start it, so this decides how fast small ensembles are. Each way is timed back to back with an
addition by torch, round after round; reported are medians over the rounds, in microseconds and in additions.

    python benchmarks/gpu_host.py [--rounds N] [--calls N]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch

import ostinato
import ostinato.tensor as T
from ostinato.testing.pretended_gpu import pretend
from table import markdown, seconds

Call = Callable[[], object]


def ensemble(outputs: Callable[[Any], Any]) -> Call:
    """The logistic map of 128 lanes."""
    x, r = T.fvector("x"), T.fvector("r")
    xs, _ = ostinato.scan(lambda x, r: r * x * (1 - x), outputs_info=x, non_sequences=r, n_steps=1000)
    f = ostinato.function([x, r], outputs(xs), device="cuda")
    arguments = torch.zeros(128), torch.zeros(128)
    return lambda: f(*arguments)


def oscillators() -> Call:
    """Two states, four parameters, and the gradient by all of them."""
    x, y, a, b, c, d = variables = T.fvectors(*"xyabcd")

    def step(x: Any, y: Any, a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any]:
        return x + 0.01 * (a - b * y) * x, y + 0.01 * (c * x - d) * y

    (xs, ys), _ = ostinato.scan(step, outputs_info=[x, y], non_sequences=[a, b, c, d], n_steps=1000)
    f = ostinato.function(list(variables), T.grad(T.sum(xs[-1] + ys[-1]), list(variables)), device="cuda")
    arguments = [torch.zeros(128) for _ in variables]
    return lambda: f(*arguments)


def ways() -> dict[str, Call]:
    one, two = torch.zeros(128), torch.zeros(128)
    return {
        "torch: x + y": lambda: one + two,
        "logistic map, last states": ensemble(lambda xs: xs[-1]),
        "logistic map, all states": ensemble(lambda xs: xs),
        "Lotka–Volterra, gradient": oscillators(),
    }


def main(argv: list[str] | None = None) -> None:
    """Time all ways and print a table."""
    parser = argparse.ArgumentParser(description="Time what the host does for a call on a GPU, without one.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=300)
    args = parser.parse_args(argv)
    pretend()
    torch.set_num_threads(1)
    calls = ways()
    for call in calls.values():
        seconds(call, 4)  # compiles, and binds to the sizes
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            taken[name].append(seconds(call, args.calls))
    addition = taken["torch: x + y"]
    rows = []
    for name, found in taken.items():
        ratio = statistics.median(t / a for t, a in zip(found, addition, strict=True))
        rows.append([name, f"{statistics.median(found) * 1e6:.1f}", f"{ratio:.0f}"])
    print(markdown(["a call of", "µs", "additions"], rows))


if __name__ == "__main__":
    main()
