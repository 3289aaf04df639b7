"""Time draws of `RandomStreams` against NumPy's generator of the same family, `Generator(Philox)`.

One thread, results in memory that is reused, the two in turn; the best of some rounds of CPU time.

    python benchmarks/random_numbers.py [--size N] [--rounds N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import ostinato
from ostinato import RandomStreams, distributions, function

DRAWS: dict[str, tuple[Callable[[RandomStreams, int], Any], Callable[[np.random.Generator, int], Any]]] = {
    "uniform": (lambda s, n: s.uniform((n,)), lambda g, n: g.random(n)),
    "uniform float32": (lambda s, n: s.uniform((n,), dtype="float32"), lambda g, n: g.random(n, "float32")),
    "normal": (lambda s, n: s.normal((n,)), lambda g, n: g.standard_normal(n)),
    "normal float32": (
        lambda s, n: s.normal((n,), dtype="float32"),
        lambda g, n: g.standard_normal(n, "float32"),
    ),
    "normal by the inverse": (lambda s, n: by_inverse(s, n), lambda g, n: g.standard_normal(n)),
    "exponential": (lambda s, n: s.exponential((n,)), lambda g, n: g.standard_exponential(n)),
    "gamma of 2.5": (lambda s, n: s.gamma((n,), 2.5), lambda g, n: g.standard_gamma(2.5, n)),
    "bernoulli": (lambda s, n: s.bernoulli((n,), 0.3), lambda g, n: g.binomial(1, 0.3, n)),
    "binomial of 100": (lambda s, n: s.binomial((n,), 100, 0.3), lambda g, n: g.binomial(100, 0.3, n)),
    "poisson of 3": (lambda s, n: s.poisson((n,), 3.0), lambda g, n: g.poisson(3.0, n)),
    "poisson of 50": (lambda s, n: s.poisson((n,), 50.0), lambda g, n: g.poisson(50.0, n)),
    "randint": (lambda s, n: s.randint((n,), 0, 1000), lambda g, n: g.integers(0, 1000, n)),
}


def by_inverse(streams: RandomStreams, n: int) -> Any:
    """Normal numbers by the inverse of the distribution function, which `normal` does not use."""
    return streams._drawn(lambda source: distributions.normal_quantile(source.uniform([n], "float64") + 2.0**-54))


def seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row per kind of draw."""
    parser = argparse.ArgumentParser(description="Time draws of random numbers.")
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args(argv)
    generator = np.random.Generator(np.random.Philox(1))
    print("| draw | Ostinato, ns | NumPy, ns | ratio |\n|---|---|---|---|")
    for name, (ours, numpys) in DRAWS.items():
        with ostinato.config.change_flags(threads=1):
            f = function([], ours(RandomStreams(1), args.size))
        f()
        pairs = [(seconds(f), seconds(lambda n=numpys: n(generator, args.size))) for _ in range(args.rounds)]
        a, b = (min(p[k] for p in pairs) / args.size * 1e9 for k in (0, 1))
        print(f"| {name} | {a:.1f} | {b:.1f} | {a / b:.2f} |", flush=True)


if __name__ == "__main__":
    main()
