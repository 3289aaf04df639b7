"""Recurrences whose steps can be composed, step by step and in chunks; where it is installed, by JAX in its two ways.

Of each recurrence: the milliseconds to compile and of a call, both of CPU time on one core; calls of all ways take
turns, and quotients are medians over the rounds.

    python benchmarks/affine.py [--steps N] [--rounds R] [--only NAME]...
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import threads

if __name__ == "__main__":
    threads.use_one()

import numpy as np

import ostinato
import ostinato.tensor as T
from table import clock, duration, figures, markdown, repeats, seconds

Arrays = list[np.ndarray[Any, Any]]


class Recurrence(NamedTuple):
    """A recurrence over the rows of some sequences.

    Attributes
    ----------
    step : (*rows, *states) -> next states, and what is recorded after them
    widths : of each sequence the sizes of a row
    states : of each state the sizes
    with_gradient : whether the gradient of the sum of squares is computed, and not the values
    keep : as in `scan`
    compose : for JAX, from (maps, maps) to maps, where they are (factor, summand)
    """

    step: Callable[..., Any]
    widths: Sequence[tuple[int, ...]]
    states: Sequence[tuple[int, ...]]
    with_gradient: bool = False
    keep: str | None = None
    compose: str | None = None


def _average(x: Any, h: Any) -> Any:
    return h + 0.1 * (x - h)


def _two_taps(x: Any, p: Any, q: Any) -> Any:
    return 0.5 * p - 0.3 * q + x, p


def _with_output(x: Any, h: Any) -> Any:
    h = h + 0.1 * (x - h)
    return h, T.exp(-h * h) * T.sin(x)


RECURRENCES: dict[str, Recurrence] = {
    "moving average": Recurrence(_average, [()], [()], compose="affine"),
    "moving average, last value": Recurrence(_average, [()], [()], keep="last"),
    "moving average, gradient": Recurrence(_average, [()], [()], True, compose="affine"),
    "moving average, exp and sin of it": Recurrence(_with_output, [()], [()]),
    "a[t] h + b[t]": Recurrence(lambda a, b, h: a * h + b, [(), ()], [()], compose="affine"),
    "two taps": Recurrence(_two_taps, [()], [(), ()]),
    "maximum": Recurrence(T.maximum, [()], [()], compose="maximum"),
    "logaddexp": Recurrence(T.logaddexp, [()], [()], compose="logaddexp"),
    "A[t] @ h + b[t], 2 x 2": Recurrence(lambda A, b, h: T.dot(A, h) + b, [(2, 2), (2,)], [(2,)], compose="matrices"),
    "A[t] @ h + b[t], 2 x 2, gradient": Recurrence(
        lambda A, b, h: T.dot(A, h) + b, [(2, 2), (2,)], [(2,)], True, compose="matrices"
    ),
    "a[t] h + b[t], 64 lanes": Recurrence(lambda a, b, h: a * h + b, [(64,), (64,)], [(64,)], compose="affine"),
}

Way = tuple[Callable[[], Any], float]  # a call, and the seconds that compiling took


def ours(recurrence: Recurrence, arrays: Arrays, parallel: bool) -> Way:
    """The recurrence compiled by Ostinato."""
    inputs = [T.tensor("float64", (None, *w), f"x{k}") for k, w in enumerate(recurrence.widths)]
    inputs += [T.tensor("float64", s, f"h{k}") for k, s in enumerate(recurrence.states)]
    n = len(recurrence.widths)
    infos = [*inputs[n:], *([None] if recurrence.step is _with_output else [])]
    start = clock()
    ys, _ = ostinato.scan(recurrence.step, inputs[:n], infos, keep=recurrence.keep, parallel=parallel, return_list=True)
    y = ys[-1] if recurrence.step is _with_output else ys[0]
    result = T.grad(T.sum(y * y), inputs[:n]) if recurrence.with_gradient else y
    with ostinato.config.change_flags(cache=False):
        run = ostinato.function(inputs, result, mode="native")
    return (lambda: run(*arrays)), clock() - start


def jax_ways(recurrence: Recurrence, arrays: Arrays) -> dict[str, Way]:
    """The recurrence by `lax.scan` and by `lax.associative_scan`; nothing without JAX."""
    if importlib.util.find_spec("jax") is None or recurrence.compose is None:
        return {}
    import jax

    jax.config.update("jax_enable_x64", True)
    given = [jax.numpy.asarray(a) for a in arrays]
    found = {}
    for name in ("scan", "associative_scan"):
        function = _jax_function(recurrence, name)
        start = clock()
        run = jax.jit(function).lower(*given).compile()
        found[f"JAX {name}"] = ((lambda run=run: jax.block_until_ready(run(*given))), clock() - start)
    return found


def _jax_function(recurrence: Recurrence, name: str) -> Callable[..., Any]:
    import jax
    from jax import lax
    from jax import numpy as jnp

    kind = recurrence.compose
    average = recurrence.step is _average

    def maps(xs: Sequence[Any]) -> Any:
        return (jnp.full_like(xs[0], 0.9), 0.1 * xs[0]) if average else tuple(xs)

    def product(a: Any, h: Any) -> Any:
        return jnp.einsum("...ij,...j->...i", a, h) if kind == "matrices" else a * h

    def values(*args: Any) -> Any:
        *xs, h = args
        if kind in ("maximum", "logaddexp"):
            combine = getattr(jnp, kind)
            if name == "associative_scan":
                return combine(lax.associative_scan(combine, xs[0]), h)
            return lax.scan(lambda h, x: (combine(h, x),) * 2, h, xs[0])[1]
        if name == "scan":
            return lax.scan(lambda h, ab: (product(ab[0], h) + ab[1],) * 2, h, maps(xs))[1]
        a, b = lax.associative_scan(
            lambda p, q: (q[0] @ p[0] if kind == "matrices" else q[0] * p[0], product(q[0], p[1]) + q[1]), maps(xs)
        )
        return product(a, h) + b

    if not recurrence.with_gradient:
        return values
    return jax.grad(lambda *args: (values(*args) ** 2).sum(), tuple(range(len(recurrence.widths))))


def measure(name: str, steps: int, rounds: int) -> list[list[str]]:
    """The rows of a recurrence: one per way."""
    recurrence, rng = RECURRENCES[name], np.random.default_rng(1)
    arrays = [rng.uniform(-0.7, 0.7, size=(steps, *w)) for w in recurrence.widths]
    arrays += [rng.normal(size=s) for s in recurrence.states]
    ways = {"step by step": ours(recurrence, arrays, False), "chunks": ours(recurrence, arrays, True)}
    ways |= jax_ways(recurrence, arrays)
    times: dict[str, list[float]] = {way: [] for way in ways}
    often = {way: repeats(call) for way, (call, _) in ways.items()}
    for _ in range(rounds):
        for way, (call, _) in ways.items():
            times[way].append(seconds(call, often[way]))
    base = times["step by step"]
    return [
        [
            f"{name}: {way}",
            duration(ways[way][1]),
            duration(statistics.median(own)),
            figures(statistics.median([b / o for b, o in zip(base, own, strict=True)])),
        ]
        for way, own in times.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Time recurrences whose steps can be composed.")
    parser.add_argument("--steps", type=int, default=100_000, metavar="N", help="of each recurrence")
    parser.add_argument("--rounds", type=int, default=7, metavar="R", help="in which all ways take turns")
    parser.add_argument("--only", action="append", choices=RECURRENCES, metavar="NAME", help=", ".join(RECURRENCES))
    args = parser.parse_args(argv)
    rows = [row for name in args.only or RECURRENCES for row in measure(name, args.steps, args.rounds)]
    print(markdown([f"{args.steps} steps", "to compile", "a call", "times as fast as step by step"], rows))


if __name__ == "__main__":
    main()
