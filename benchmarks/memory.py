"""Gradients of long loops with all memory they like, and within budgets: time, and the peak of memory.

    python benchmarks/memory.py [--peers PYTHON] [--rounds N] [PATTERN]

Each measurement is a process of its own, whose peak the parent reads; systems take turns. `--peers` names a Python
that has JAX, PyTensor or torch. Given are the median of the times of a second call, and the largest peak above that
of the process before the first call, less what the results take.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

SIZES: dict[str, dict[str, int]] = {
    "tanh recurrence, 64 states, 10^6 steps": {"steps": 10**6, "batch": 0, "units": 64},
    "tanh recurrence, 64 states, 10^7 steps": {"steps": 10**7, "batch": 0, "units": 64},
    "network, 64 units, batch of 8, 20,000 steps": {"steps": 20_000, "batch": 8, "units": 64},
}
SYSTEMS: dict[str, list[str]] = {
    "tanh recurrence, 64 states, 10^6 steps": ["all kept", "16MB", "1MB", "JAX", "JAX, checkpoints"],
    "tanh recurrence, 64 states, 10^7 steps": ["16MB"],
    "network, 64 units, batch of 8, 20,000 steps": [
        "all kept", "64MB", "8MB", "JAX", "JAX, checkpoints", "PyTensor", "torch",
    ],
}  # fmt: skip


# ---- the systems: from sizes to a function of no arguments that computes a gradient -------------------


def arrays(steps: int, batch: int, units: int) -> tuple[Any, ...]:
    import numpy as np

    rng = np.random.default_rng(0)
    w = rng.normal(size=(units, units)) / units**0.5
    if not batch:
        return rng.normal(size=units), w
    return rng.normal(size=(steps, batch, units)) / 2, np.zeros((batch, units)), w


def ours(policy: str, steps: int, batch: int, units: int) -> Any:
    import ostinato
    import ostinato.tensor as T

    checkpoint = "none" if policy == "all kept" else policy
    w = T.matrix("w")
    if batch:
        x, h = T.tensor3("x"), T.matrix("h")
        last, _ = ostinato.foldl(lambda x_t, h, w: T.tanh(T.dot(h, w) + x_t), x, h, w, checkpoint=checkpoint)
        f = ostinato.function([x, h, w], T.grad(last.sum(), [h, w]))
        given = arrays(steps, batch, units)
    else:
        h, n = T.vector("h"), T.lscalar("n")
        last, _ = ostinato.foldl(lambda _, h, w: T.tanh(T.dot(w, h)), T.arange(n), h, w, checkpoint=checkpoint)
        f = ostinato.function([h, w, n], T.grad(last.sum(), [h, w]))
        given = (*arrays(steps, batch, units), steps)
    return lambda: f(*given)


def with_jax(policy: str, steps: int, batch: int, units: int) -> Any:
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from jax import lax

    given = [jnp.asarray(a) for a in arrays(steps, batch, units)]
    *x, h, w = given
    blocks = int(steps**0.5)
    while steps % blocks:
        blocks -= 1

    def step(h: Any, x_t: Any, w: Any) -> Any:
        return jnp.tanh(h @ w + x_t) if batch else jnp.tanh(w @ h)

    def cost(h: Any, w: Any) -> Any:
        def one(h: Any, x_t: Any) -> Any:
            return step(h, x_t, w), None

        if policy == "JAX":
            return lax.scan(one, h, x[0] if x else None, length=steps)[0].sum()

        @jax.checkpoint
        def block(h: Any, rows: Any) -> Any:
            return lax.scan(one, h, rows, length=steps // blocks)

        rows = x[0].reshape(blocks, steps // blocks, *x[0].shape[1:]) if x else None
        return lax.scan(block, h, rows, length=blocks)[0].sum()

    f = jax.jit(jax.grad(cost, (0, 1)))
    return lambda: jax.block_until_ready(f(h, w))


def with_pytensor(policy: str, steps: int, batch: int, units: int) -> Any:
    import pytensor
    import pytensor.tensor as pt

    x, h, w = pt.dtensor3("x"), pt.dmatrix("h"), pt.dmatrix("w")
    states = pytensor.scan(
        lambda x_t, h, w: pt.tanh(h @ w + x_t), sequences=x, outputs_info=h, non_sequences=w, return_updates=False
    )
    f = pytensor.function([x, h, w], pytensor.grad(states[-1].sum(), [h, w]))
    given = arrays(steps, batch, units)
    return lambda: f(*given)


def with_torch(policy: str, steps: int, batch: int, units: int) -> Any:
    import torch

    torch.set_num_threads(1)
    x, h, w = (torch.tensor(a) for a in arrays(steps, batch, units))
    h.requires_grad_(True)
    network = torch.nn.RNN(units, units, bias=False, dtype=torch.float64)
    with torch.no_grad():
        network.weight_hh_l0.copy_(w.T)
        network.weight_ih_l0.copy_(torch.eye(units))

    def gradient() -> Any:
        _, last = network(x, h[None])
        return torch.autograd.grad(last.sum(), [h, network.weight_hh_l0])

    return gradient


MAKERS = {"JAX": with_jax, "JAX, checkpoints": with_jax, "PyTensor": with_pytensor, "torch": with_torch}

# ---- children and parent ------------------------------------------------------------------------------


def peak() -> int:
    """The most bytes that this process has had in memory."""
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def child(system: str, sizes: dict[str, int]) -> None:
    import time

    small = {**sizes, "steps": 100}
    maker = MAKERS.get(system, ours)
    maker(system, **small)()  # what a first call of a system takes once
    run = maker(system, **sizes)
    before = peak()
    run()
    start = time.perf_counter()
    found = run()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak": peak() - before, "check": float(found[1].sum())}))


def measured(python: str, system: str, sizes: dict[str, int]) -> dict[str, float] | str:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OSTINATO_THREADS"), "1")
    threads["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    command = [python, os.path.abspath(__file__), "--child", system, json.dumps(sizes)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads}, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return lines[-1][:100] if lines else f"ended with {done.returncode}"
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", default="", help="rows whose names contain it")
    parser.add_argument("--peers", help="a Python with JAX, PyTensor or torch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child[0], json.loads(options.child[1]))
    print("| gradient | system | seconds | peak, MB |\n|---|---|--:|--:|")
    for row, sizes in SIZES.items():
        systems = [s for s in SYSTEMS[row] if s not in MAKERS or options.peers]
        if options.pattern not in row:
            continue
        results: dict[str, list[Any]] = {s: [] for s in systems}
        for _ in range(options.rounds):
            for s in systems:
                if not any(isinstance(r, str) for r in results[s]):
                    results[s].append(measured(options.peers if s in MAKERS else sys.executable, s, sizes))
        for s in systems:
            failed = [r for r in results[s] if isinstance(r, str)]
            if failed:
                print(f"| {row} | {s} | {failed[0]} | |")
                continue
            seconds = statistics.median(r["seconds"] for r in results[s])
            peak = max(r["peak"] for r in results[s]) / 1e6
            print(f"| {row} | {s} | {seconds:.2f} | {peak:.1f} |", flush=True)
    return None


if __name__ == "__main__":
    main()
