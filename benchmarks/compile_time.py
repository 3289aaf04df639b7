"""How long compiling takes, stage by stage and pass by pass, and how it grows with the operations of a step.

Steps of several kinds, of more and more operations; forward alone, and with its gradient. Nothing is loaded from a
cache, and what is imported is imported before the clock starts. The growth is the exponent g of time = c * n^g between
the two largest sizes: 1 where twice the operations take twice the time.

    python benchmarks/compile_time.py [--kinds NAME]... [--sizes N...] [--passes]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

import threads

if __name__ == "__main__":
    threads.use_one()

import ostinato
import ostinato.tensor as T
from table import clock, figures, markdown

SIZES = (10, 100, 500, 1000, 2000, 4000)

Step = Callable[[int, Any, Any, Any], list[Any]]  # number of operations, row, state, parameter -> next states


def _chain(n: int, x: Any, h: Any, a: Any) -> list[Any]:
    """Each operation on what the one before made."""
    v = h
    for k in range(n // 4):
        v = T.sin(v * a) + x
        v = v * h if k % 2 else v - h
    return [v]


def _wide(n: int, x: Any, h: Any, a: Any) -> list[Any]:
    """Many short expressions of the same few values, summed in pairs."""
    terms = [T.tanh(a * h + x * (0.1 * k)) for k in range(max(n // 5, 1))]
    while len(terms) > 1:
        terms = [sum(terms[k : k + 2]) for k in range(0, len(terms), 2)]
    return terms


def _products(n: int, x: Any, h: Any, a: Any) -> list[Any]:
    """A matrix product for every ten elementwise operations."""
    v = h
    for _ in range(max(n // 10, 1)):
        v = T.tanh(T.dot(v, a))
        for _ in range(2):
            v = T.sin(v * h) + x - v
    return [v]


def _many(n: int, x: Any, h: Any, a: Any) -> list[Any]:
    """Eight operations on each of many states."""
    return [T.tanh(a * h[k] + x * h[k - 1]) * T.exp(-h[k] * h[k]) for k in range(len(h))]


class Kind:
    """Steps of one kind.

    Attributes
    ----------
    step : writes a step
    types : of the sequence, the state and the parameter
    n_states : from the number of operations
    """

    def __init__(self, step: Step, types: Sequence[Any], n_states: Callable[[int], int] = lambda n: 1) -> None:
        self.step, self.types, self.n_states = step, types, n_states

    def graph(self, n: int, gradient: bool) -> tuple[list[Any], list[Any], float]:
        """Inputs, outputs, and the seconds that the gradient took."""
        x, h, a = (make(name) for make, name in zip(self.types, "xha", strict=True))
        states = self.n_states(n)

        def body(row: Any, *args: Any) -> list[Any]:
            held = list(args[:states])
            return self.step(n, row, held if states > 1 else held[0], args[states])

        starts = [h + k for k in range(states)]
        ys, _ = ostinato.scan(body, sequences=x, outputs_info=starts, non_sequences=a)
        cost = sum((y[-1] ** 2).sum() for y in (ys if isinstance(ys, list) else [ys]))
        start = clock()
        outputs = [cost, *(ostinato.grad(cost, [h, a]) if gradient else [])]
        return [x, h, a], outputs, clock() - start


_SCALARS = (T.dvector, T.dscalar, T.dscalar)
_VECTORS = (T.dmatrix, T.dvector, T.dvector)

KINDS: dict[str, Kind] = {
    "chain of scalars": Kind(_chain, _SCALARS),
    "many scalars": Kind(_wide, _SCALARS),
    "chain of vectors": Kind(_chain, _VECTORS),
    "many vectors": Kind(_wide, _VECTORS),
    "products": Kind(_products, (T.dtensor3, T.dmatrix, T.dmatrix)),
    "many states": Kind(_many, _SCALARS, lambda n: max(n // 8, 2)),
}

TRACE, GRAD, TOTAL = "trace", "grad", "total"


def compiled(kind: Kind, n: int, gradient: bool) -> tuple[dict[str, float], str]:
    """Seconds of every stage on the way to machine code, and where the time of compiling went, as text.

    The total and the first two stages are CPU time; the others are as `explain` has them, by the clock on the wall.
    """
    start = clock()
    inputs, outputs, grad = kind.graph(n, gradient)
    traced = clock()
    with ostinato.config.change_flags(cache=False):
        function = ostinato.function(inputs, outputs, mode="native", on_unused_input="ignore")
    total = clock() - start
    stages = dict(function._run.report.seconds)
    return {TRACE: traced - start - grad, GRAD: grad, **stages, TOTAL: total}, function.explain("time")


def growth(sizes: Sequence[int], seconds: Sequence[float]) -> str:
    """The exponent between the two largest sizes."""
    if len(sizes) < 2 or not min(seconds[-2:]):
        return ""
    return figures(max(math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2]), 0.01))


def measure(name: str, sizes: Sequence[int], gradient: bool, passes: bool) -> str:
    """The table of one kind: milliseconds of each stage for each size."""
    found = [compiled(KINDS[name], n, gradient) for n in sizes]
    stages = list(dict.fromkeys(stage for times, _ in found for stage in times))
    rows = []
    for stage in stages:
        seconds = [times.get(stage, 0.0) for times, _ in found]
        rows.append([stage, *[f"{1e3 * s:.0f}" for s in seconds], growth(sizes, seconds)])
    head = [f"{name}, {'with gradient' if gradient else 'forward'}", *map(str, sizes), "growth"]
    return markdown(head, rows) + (f"\n\n{found[-1][1]}" if passes else "")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description="Time the compiler.")
    parser.add_argument("--kinds", action="append", choices=KINDS, metavar="NAME", help=", ".join(KINDS))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="operations of a step")
    parser.add_argument("--passes", action="store_true", help="also where the time of the largest went, by pass")
    args = parser.parse_args(argv)
    compiled(KINDS["products"], 10, True)  # imports what compiles, and makes what every process makes once
    print("Milliseconds to machine code, by the number of operations of a step:")
    for name in args.kinds or KINDS:
        for gradient in (False, True):
            print("\n" + measure(name, args.sizes, gradient, args.passes), flush=True)


if __name__ == "__main__":
    main()
