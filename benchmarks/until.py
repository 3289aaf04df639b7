"""What the bound of a loop with `until` costs in a gradient: nothing, or much.

The cosine is iterated on a matrix of 100 x 100 until it moves by less than 1e-10, after some 60 steps, whatever
bound `n_steps` sets. Each row is a process of its own: compile, check, time calls from the second on, and the most
memory that the process ever had, measured from outside. Systems that are not installed are left out. JAX has no row:
its `while_loop` has no reverse derivative.

    python benchmarks/until.py [--rounds N] [--bounds N]... [--systems NAME]... [--limit SECONDS]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import threads

if __name__ == "__main__":
    threads.use_one()

import numpy as np

from table import duration, markdown, seconds

START = np.linspace(0.5, 1.5, 10_000).reshape(100, 100)
FIXED = 0.7390851332151607  # where cos(x) = x
BOUNDS = (200, 20_000, 1_000_000_000)


def ostinato_gradient(bound: int) -> Callable[[], Any]:
    import ostinato
    import ostinato.tensor as T

    z, w = _symbolic(ostinato, T, bound)
    run = ostinato.function([z], T.grad(w.sum(), z))
    return lambda: run(START)


def ostinato_forward(bound: int) -> Callable[[], Any]:
    import ostinato
    import ostinato.tensor as T

    z, w = _symbolic(ostinato, T, bound)
    run = ostinato.function([z], ostinato.jvp(w, z, T.ones_like(z)))
    return lambda: run(START)


def ostinato_hessian_product(bound: int) -> Callable[[], Any]:
    import ostinato
    import ostinato.tensor as T

    z, w = _symbolic(ostinato, T, bound)
    run = ostinato.function([z], ostinato.hessian_vector_product(w.sum(), z, T.ones_like(z)))
    return lambda: run(START)


def pytensor_gradient(bound: int) -> Callable[[], Any]:
    import pytensor
    import pytensor.tensor as pt
    from pytensor.scan.utils import until

    z = pt.dmatrix("z")
    w = pytensor.scan(
        lambda a: (pt.cos(a), until(pt.abs(pt.cos(a) - a).max() < 1e-10)),
        outputs_info=[z],
        n_steps=bound,
        return_updates=False,
    )
    run = pytensor.function([z], pt.grad(w[-1].sum(), z))
    return lambda: run(START)


def _symbolic(ostinato: Any, T: Any, bound: int) -> tuple[Any, Any]:
    z = T.dmatrix("z")
    w, _ = ostinato.scan(
        lambda a: (T.cos(a), ostinato.until(T.max(abs(T.cos(a) - a)) < 1e-10)), outputs_info=z, n_steps=bound
    )
    return z, w[-1]


SYSTEMS: dict[str, tuple[str, Callable[[int], Callable[[], Any]]]] = {
    "ostinato, gradient": ("ostinato", ostinato_gradient),
    "ostinato, jvp": ("ostinato", ostinato_forward),
    "ostinato, Hessian times vector": ("ostinato", ostinato_hessian_product),
    "PyTensor, gradient": ("pytensor", pytensor_gradient),
}


def measure_here(system: str, bound: int) -> dict[str, float]:
    """Wall time to the first result, CPU time of a call, and how far off the derivatives are (all tend to zero)."""
    start = time.perf_counter()
    run = SYSTEMS[system][1](bound)
    found = np.asarray(run())
    first = time.perf_counter() - start
    assert found.shape == START.shape
    assert np.abs(found).max() < 1e-7
    return {"first": first, "call": min(seconds(run) for _ in range(5))}


def in_new_process(system: str, bound: int, limit: float) -> dict[str, float] | str:
    """What `measure_here` gives, and the most memory that the process had; a word if it came to no end."""
    with tempfile.TemporaryDirectory() as empty:
        caches = {"OSTINATO_CACHE_DIR": empty, "NUMBA_CACHE_DIR": empty, "PYTENSOR_FLAGS": f"base_compiledir={empty}"}
        command = [sys.executable, __file__, "--child", system, str(bound)]
        child = subprocess.Popen(
            command, env={**os.environ, **caches}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        deadline = time.monotonic() + limit
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                child.kill()
                os.wait4(child.pid, 0)
                return f"over {limit:.0f} s"
            time.sleep(0.05)
        assert child.stdout is not None
        text = child.stdout.read()
    if status:
        return "out of memory" if "MemoryError" in text else "failed"
    return {**json.loads(text.splitlines()[-1]), "memory": usage.ru_maxrss / 1024}


def child(system: str, bound: int) -> None:
    """Print one measurement."""
    try:
        print(json.dumps(measure_here(system, bound)))
    except MemoryError:
        print("MemoryError")
        sys.exit(1)


def row(system: str, bound: int, found: Sequence[dict[str, float] | str]) -> list[str]:
    """One line of the table: medians over the rounds."""
    words = [f for f in found if isinstance(f, str)]
    if words:
        return [system, f"{bound:,}", words[0], "", ""]
    first, call, memory = (statistics.median(f[k] for f in found) for k in ("first", "call", "memory"))  # type: ignore[index]
    return [system, f"{bound:,}", duration(call), f"{memory:.0f} MiB", duration(first)]


def main() -> None:
    """Measure in rounds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bounds", type=int, action="append")
    parser.add_argument("--systems", action="append", choices=list(SYSTEMS))
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one process")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], int(options.child[1]))
        return
    systems = [s for s in options.systems or SYSTEMS if importlib.util.find_spec(SYSTEMS[s][0])]
    tasks = [(s, b) for s in systems for b in options.bounds or BOUNDS]
    found: dict[tuple[str, int], list[dict[str, float] | str]] = {task: [] for task in tasks}
    for i in range(options.rounds):
        for task in tasks:
            if not any(isinstance(f, str) for f in found[task]):
                found[task].append(in_new_process(*task, options.limit))
                print(f"round {i + 1}: {task[0]}, {task[1]}: {found[task][-1]}", file=sys.stderr, flush=True)
    head = ["", "bound", "a call", "peak memory", "first result"]
    print(markdown(head, [row(*task, found[task]) for task in tasks]))


if __name__ == "__main__":
    main()
