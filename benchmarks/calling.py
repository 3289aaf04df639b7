"""Time what a call of a natively compiled function costs, apart from what it computes.

The function has six arrays of five numbers and two results, so that computing takes next to nothing. Every way of
calling it is timed back to back with the others and with one addition of two such arrays by NumPy, round after
round; reported are medians over the rounds, in nanoseconds per call and in additions.

    python benchmarks/calling.py [--rounds N] [--calls N]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np

import ostinato
import ostinato.tensor as T
from ostinato.backends.llvm.runtime import runtime

Call = Callable[[], object]


def compiled(updates: bool = False) -> ostinato.Function:
    """Two elementwise results of six vectors; with two shared vectors that it updates."""
    a, b, c, d, e, f = vectors = T.dvectors(*"abcdef")
    total, level = (ostinato.shared(np.zeros(5)) for _ in range(2))
    pairs = {total: total + a, level: level * b} if updates else None
    return ostinato.function(list(vectors), [a + b + c, d + e * f], updates=pairs, mode="native")


def without_entry() -> ostinato.Function:
    """A function that is called by ctypes, as where the C entry does not work."""
    before = runtime().is_fast
    vars(runtime())["is_fast"] = False
    try:
        return compiled()
    finally:
        vars(runtime())["is_fast"] = before


def ways() -> dict[str, Call]:
    """All ways of calling, by what the table calls them."""
    arrays = [np.arange(5.0) + k for k in range(6)]
    strided = [np.repeat(a, 2)[::2] for a in arrays]
    lists = [a.tolist() for a in arrays]
    by_name = dict(zip("def", arrays[3:], strict=True))
    run, updating, slow = compiled(), compiled(updates=True), without_entry()
    x, y, z, u, v, w = arrays
    return {
        "NumPy: x + y": lambda: x + y,
        "NumPy: x + y + z, u + v * w": lambda: [x + y + z, u + v * w],
        "six arrays": lambda: run(x, y, z, u, v, w),
        "six arrays, the C function alone": lambda direct=run._direct: direct(x, y, z, u, v, w),
        "six strided arrays, which are copied": lambda: run(*strided),
        "NumPy: six such copies": lambda: [s.copy() for s in strided],
        "three arrays by name": lambda: run(x, y, z, **by_name),
        "six lists": lambda: run(*lists),
        "six arrays, two updates": lambda: updating(x, y, z, u, v, w),
        "six arrays, by ctypes": lambda: slow(x, y, z, u, v, w),
    }


def measured(calls: dict[str, Call], rounds: int, n: int) -> dict[str, list[float]]:
    """Nanoseconds per call, one number per round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter_ns()
            for _ in range(n):
                call()
            times[name].append((time.perf_counter_ns() - start) / n)
    return times


def outputs_in_reused_memory(rounds: int) -> tuple[float, float]:
    """Milliseconds to write a result of 51 MB: into memory from the pool, and into memory that is new."""
    x = T.dscalar("x")
    run = ostinato.function([x], T.zeros((6_400_000,)) + x, mode="native")
    reused, new = [], []
    for _ in range(rounds):
        held = [run(1.0)]
        for times, keep in ((new, True), (reused, False)):
            if not keep:
                held.clear()
            start = time.perf_counter()
            result = run(1.0)
            times.append((time.perf_counter() - start) * 1e3)
            held.append(result)
            del result
        held.clear()
        runtime().trim()
    return statistics.median(reused), statistics.median(new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--calls", type=int, default=1000, help="calls per round")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}")
    if not runtime().is_fast:
        print("The C entry does not work here: all calls are by ctypes.")
        return
    times = measured(ways(), options.rounds, options.calls)
    addition = times["NumPy: x + y"]
    print("| call | ns | additions |\n|---|---:|---:|")
    for name, values in times.items():
        ratio = statistics.median(v / a for v, a in zip(values, addition, strict=True))
        print(f"| {name} | {statistics.median(values):.0f} | {ratio:.1f} |")
    reused, new = outputs_in_reused_memory(min(options.rounds, 15))
    print(f"\nA result of 51 MB: {reused:.1f} ms in reused memory, {new:.1f} ms in new memory.")


if __name__ == "__main__":
    main()
