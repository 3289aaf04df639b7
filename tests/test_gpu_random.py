"""Random numbers on the GPU: those of the reference, in kernels and outside of loops, in every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import on_gpu
import ostinato
import ostinato.tensor as T
from on_gpu import kinds, same
from ostinato import RandomStreams, scan
from ostinato.ops import random as ops


def zeros(dtype: str) -> Any:
    return T.zeros((5,), dtype)


def added(draw: Callable[[], Any], dtype: str) -> Any:
    """The sums of draws over the steps of a loop."""
    return scan(lambda h: h + draw(), outputs_info=zeros(dtype), n_steps=3)[0]


PROGRAMS: dict[str, tuple[Callable[[RandomStreams], Any], str]] = {
    "uniform": (lambda s: added(lambda: s.uniform((5,), dtype="float64"), "float64"), "kernel"),
    "uniform float32": (lambda s: added(lambda: s.uniform((5,), dtype="float32"), "float32"), "kernel"),
    "normal": (lambda s: added(lambda: s.normal((5,), dtype="float64"), "float64"), "kernel"),
    "normal float32": (lambda s: added(lambda: s.normal((5,), dtype="float32"), "float32"), "kernel"),
    "exponential float32": (lambda s: added(lambda: s.exponential((5,), dtype="float32"), "float32"), "kernel"),
    "randint": (lambda s: added(lambda: s.randint((5,), -5, 2**40), "int64"), "kernel"),
    "bernoulli": (lambda s: added(lambda: s.bernoulli((5,), 0.3), "int64"), "kernel"),
    "a draw from outside": (lambda s: (lambda z: added(lambda: z, "float64"))(s.normal((5,))), "kernel"),
    "two loops": (lambda s: scan(lambda: added(lambda: s.uniform((5,)), "float64")[-1], n_steps=2)[0], ""),
    "no loop": (lambda s: s.normal((2, 3)), ""),
    "gamma": (lambda s: s.gamma((4,), 0.7), ""),
    "poisson": (lambda s: s.poisson((4,), 20.0), ""),
    "binomial": (lambda s: s.binomial((4,), 30, 0.2), ""),
    "permutation": (lambda s: s.permutation((2,), 5), ""),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_device_draws_what_the_reference_draws(name: str) -> None:
    make, became = PROGRAMS[name]
    run = {mode: ostinato.function([], make(RandomStreams(3)), mode=mode) for mode in ("reference", "gpu")}
    for _ in range(3):
        same(run["gpu"](), run["reference"]())
    if became:
        assert kinds(run["gpu"]) == {became}, run["gpu"].explain()


@pytest.mark.parametrize("interval", ops.INTERVALS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_numbers_have_the_same_bits(dtype: str, interval: str) -> None:
    key, e = T.lscalar("key"), T.lvector("e")
    elements = np.array([0, 1, -1, 2**40, 7])
    draws = [ops.unit(key, 5, e, dtype, word, interval) for word in (0, 1)]
    loop, _ = scan(lambda h: h * 0 + ops.unit(key, 5, e, dtype, 1, interval), outputs_info=zeros(dtype), n_steps=2)
    outputs = [*draws, ops.bits(key, -3, e, 1), ops.below(key, 3, e, 2**62 + 1), loop]
    on_gpu.compare([key, e], outputs, [np.int64(-9), elements], tol=0)


def test_what_numpy_makes_of_a_tensors_elements_is_made_anew_in_every_call() -> None:
    """Not remembered as if it followed from the shape: here an integer that has no rule on the device."""
    s = ostinato.shared(np.array([4.0, 1.0]))
    n = T.cast(T.polygamma(1, s[0]) * 100, "int64")
    x, _ = scan(lambda h: h + n, outputs_info=T.zeros((2,), "int64"), n_steps=2)
    f = ostinato.function([], x, updates={s: s / 2}, mode="gpu")
    g = ostinato.function([], x, mode="reference")
    for _ in range(3):
        wanted = g()
        same(f(), wanted)
