"""Time `ostinato.function` in new processes: with an empty cache of compiled code, and with a warm one.

Measured is the call of `function` alone, native mode, with the graph built and everything imported; reported
are medians over the rounds, and the middle half. A round times every workload cold and then warm, each in a
process of its own, so that a machine that is busy for a while slows all alike. The warm process must have
loaded its code, and its results must be those of the cold one to the last bit.

    python benchmarks/cache.py [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding
import numpy as np

import ostinato
import ostinato.backends.llvm.run
import ostinato.tensor as T

assert llvmlite.binding  # imported for its time

Built = tuple[list[Any], list[Any], list[np.ndarray]]


def lstm() -> Built:
    """The cost of an LSTM of 32 units over 100 steps, and its derivatives by all weights."""
    rng, units, inputs = np.random.default_rng(1), 32, 16
    x, W, U = T.dmatrices("x", "W", "U")
    b, h0, c0 = T.dvectors("b", "h0", "c0")

    def step(x_t: Any, h: Any, c: Any) -> tuple[Any, Any]:
        z = T.dot(W, x_t) + T.dot(U, h) + b
        i, f, o = (T.sigmoid(z[k * units : (k + 1) * units]) for k in range(3))
        c = f * c + i * T.tanh(z[3 * units :])
        return o * T.tanh(c), c

    (h, _), _ = ostinato.scan(step, sequences=x, outputs_info=[h0, c0])
    cost = T.sum(h**2)
    shapes = [(100, inputs), (4 * units, inputs), (4 * units, units), (4 * units,), (units,), (units,)]
    return [x, W, U, b, h0, c0], [cost, *T.grad(cost, [W, U, b])], [rng.normal(size=s) / 4 for s in shapes]


def garch() -> Built:
    """The likelihood of a GARCH(1,1) model of 2000 returns, and its derivatives."""
    returns = T.dvector("returns")
    before, omega, alpha, beta = T.dscalars("before", "omega", "alpha", "beta")

    def step(r: Any, s2: Any) -> Any:
        return omega + alpha * r**2 + beta * s2

    s2, _ = ostinato.scan(step, sequences=returns, outputs_info=before)
    cost = T.sum(T.log(s2) + returns**2 / s2)
    values = [np.random.default_rng(1).normal(size=2000), *np.array([1.0, 0.05, 0.1, 0.85])]
    return [returns, before, omega, alpha, beta], [cost, *T.grad(cost, [omega, alpha, beta])], values


WORKLOADS: dict[str, Callable[[], Built]] = {"lstm": lstm, "garch": garch}


def measure(name: str) -> None:
    """In a process of its own: print how long `function` took, and what it made."""
    inputs, outputs, arguments = WORKLOADS[name]()
    start = time.perf_counter()
    function = ostinato.function(inputs, outputs, mode="native")
    seconds = time.perf_counter() - start
    loaded = "loaded from the cache" in function.explain()
    results = [np.asarray(r).tobytes().hex() for r in function(*arguments)]
    print(json.dumps({"seconds": seconds, "loaded": loaded, "results": results}))


def process(name: str, folder: str) -> dict[str, Any]:
    environment = os.environ | {"OSTINATO_CACHE_DIR": folder, "OSTINATO_CACHE": "1"}
    command = [sys.executable, __file__, "--measure", name]
    return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)


def one_round(name: str) -> tuple[float, float]:
    """Seconds with an empty cache and with a warm one."""
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = (process(name, folder) for _ in range(2))
    if (cold["loaded"], warm["loaded"]) != (False, True) or cold["results"] != warm["results"]:
        raise AssertionError(f"{name}: the cache does not work")
    return cold["seconds"], warm["seconds"]


def cell(seconds: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(seconds, n=4)
    return f"{1e3 * middle:.1f} ms ({1e3 * low:.1f} to {1e3 * high:.1f})"


def main() -> None:
    """Run the benchmark and print a table in Markdown."""
    parser = argparse.ArgumentParser(description="Time function() with an empty and with a warm cache.")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="how often all is measured; 2 at least")
    parser.add_argument("--measure", choices=WORKLOADS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in WORKLOADS}
    for _ in range(args.rounds):
        for name, found in times.items():
            found.append(one_round(name))
    print("| workload | empty cache | warm cache |\n|---|--:|--:|")
    for name, found in times.items():
        cold, warm = zip(*found, strict=True)
        print(f"| {name}, value and gradient | {cell(cold)} | {cell(warm)} |")


if __name__ == "__main__":
    main()
