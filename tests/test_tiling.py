"""Loops by lanes, time inside: which they are, and results that are those of time outside and of the reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ostinato
import ostinato.tensor as T
from ostinato.backends.llvm import entry
from ostinato.backends.llvm.runtime import runtime
from ostinato.errors import OstinatoIndexError
from ostinato.lower import tiling

RNG = np.random.default_rng(23)


def compiled(inputs: list[Any], results: list[Any], tiled: bool | None = True, threads: int = 1) -> Any:
    """`tiled`: None to decide as the compiler does."""
    with pytest.MonkeyPatch.context() as patch, ostinato.config.change_flags(cache=False, threads=threads):
        if tiled is not None:
            patch.setattr(tiling, "_is_worth_it", lambda spec, grid: tiled)
        return ostinato.function(inputs, results, mode="native", on_unused_input="ignore")


def n_tiled(function: Any) -> int:
    return sum("kept in registers" in line for line in function.explain().splitlines())


def check(inputs: list[Any], results: list[Any], *calls: tuple[Any, ...], expect: int = 1, rtol: float = 1e-12) -> Any:
    """Tiles give the digits that lanes inside give, and what the reference gives; so they do with threads."""
    tiles, rows, shared = (compiled(inputs, results, *how) for how in ((True,), (False,), (True, 2)))
    reference = ostinato.function(inputs, results, mode="reference", on_unused_input="ignore")
    assert (n_tiled(tiles), n_tiled(rows)) == (expect, 0), tiles.explain()
    for args in calls:
        expected = reference(*args)
        wanted = rows(*args)
        words, k = runtime().words, entry.OF_THREADS.worth
        before, words[k] = int(words[k]), 1
        try:
            divided = shared(*args)
        finally:
            words[k] = before
        for a, b, c, d in zip(tiles(*args), wanted, divided, expected, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(c, b)
            np.testing.assert_allclose(a, d, rtol=rtol, atol=1e-12)
            assert a.dtype == d.dtype
    return tiles


# ---- which loops, and what they say -----------------------------------------------------------------


def power(n_steps: Any) -> tuple[list[Any], Any]:
    a, k = T.dvector("a"), T.lscalar("k")
    powers, _ = ostinato.scan(lambda p, a: p * a, outputs_info=T.ones_like(a), non_sequences=a, n_steps=k)
    return [a, k], powers[-1]


def test_power_by_lanes_is_told() -> None:
    inputs, result = power(None)
    f = compiled(inputs, [result], None)
    line = next(line for line in f.explain().splitlines() if "registers" in line)
    assert line.strip().startswith("loop: k steps, one after the other, of a.shape[0] lanes, in tiles of ")
    assert line.endswith(" lanes kept in registers")
    assert int(line.split("tiles of ")[1].split()[0]) in (32, 64)
    a = RNG.uniform(0.9, 1.1, 37)
    np.testing.assert_allclose(f(a, 50)[0], a**50, rtol=1e-13)


def test_memory_of_a_tiled_loop() -> None:
    """The carries take none, but for what is read of them after the loop."""
    inputs, result = power(None)
    tiles, rows = compiled(inputs, [result], True), compiled(inputs, [result], False)
    a = np.ones(64)
    assert rows.memory(a, 9)["peak"] - tiles.memory(a, 9)["peak"] == 512


def test_what_is_stored_decides() -> None:
    x, h = T.dmatrix("x"), T.dvector("h")
    all_rows, _ = ostinato.scan(lambda x, h: 0.9 * h + x, sequences=x, outputs_info=h)
    assert n_tiled(compiled([x, h], [all_rows[-1]], None)) == 1
    assert n_tiled(compiled([x, h], [all_rows], None)) == 0


def test_much_work_in_a_step_decides() -> None:
    h = T.dvector("h")
    states, _ = ostinato.scan(lambda h: T.tanh(h) * 0.5 + T.sin(h), outputs_info=h, n_steps=20)
    assert n_tiled(compiled([h], [states[-1]], None)) == 0


@pytest.mark.parametrize(
    "step",
    [
        lambda h: h - T.mean(h),
        lambda h: T.dot(T.eye(20), h),
        lambda h: h[::-1] * 0.5,
        lambda h: T.set_subtensor(h[2], 1.0),
        lambda h: T.cumsum(h) * 0.1,
        lambda h: h + T.arange(20),
    ],
)
def test_lanes_that_know_of_each_other_are_left_alone(step: Callable[[Any], Any]) -> None:
    h = T.dvector("h")
    states, _ = ostinato.scan(step, outputs_info=h, n_steps=7)
    check([h], [states[-1]], (RNG.normal(size=20),), expect=0, rtol=1e-10)


def test_a_condition_for_all_lanes_is_left_alone() -> None:
    h = T.dvector("h")

    def step(h: Any) -> Any:
        return 0.5 * h, ostinato.until(T.max(h) < 0.1)

    states, _ = ostinato.scan(step, outputs_info=h, n_steps=50)
    check([h], [states[-1]], (RNG.uniform(size=9),), expect=0)


def test_operations_without_vectors_are_left_alone() -> None:
    h = T.dvector("h")
    states, _ = ostinato.scan(lambda h: T.gammaln(h + 2.0), outputs_info=h, n_steps=3)
    check([h], [states[-1]], (RNG.uniform(size=9),), expect=0, rtol=1e-10)


# ---- results ------------------------------------------------------------------------------------------


SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 40, 67]


def test_all_numbers_of_lanes_and_steps() -> None:
    inputs, result = power(None)
    f = compiled(inputs, [result])
    for n, k in itertools.product(SIZES, [0, 1, 5]):
        a = RNG.uniform(0.5, 1.5, n)
        if k:
            np.testing.assert_allclose(f(a, k)[0], a**k, rtol=1e-14)


def test_rows_are_recorded_where_they_belong() -> None:
    x, h = T.dmatrix("x"), T.dvector("h")
    states, _ = ostinato.scan(lambda x, h: 0.9 * h + x, sequences=x, outputs_info=h)
    f = compiled([x, h], [states])
    assert n_tiled(f) == 1
    for n, k in itertools.product(SIZES, [0, 1, 4]):
        xs, state, expected = RNG.normal(size=(k, n)), np.ones(n), []
        for row in xs:
            state = 0.9 * state + row
            expected.append(state)
        np.testing.assert_allclose(f(xs, np.ones(n))[0], np.reshape(expected, (k, n)), rtol=1e-12, atol=1e-14)


def test_mandelbrot() -> None:
    """Floats, truth values and counts of the steps side by side, in two dimensions of lanes."""
    re, im = T.dmatrix("re"), T.dmatrix("im")

    def step(x: Any, y: Any, n: Any, re: Any, im: Any) -> list[Any]:
        inside = x * x + y * y < 4.0
        return [T.where(inside, x * x - y * y + re, x), T.where(inside, 2.0 * x * y + im, y), n + inside]

    zeros = T.zeros_like(re)
    states, _ = ostinato.scan(
        step, outputs_info=[zeros, zeros, T.cast(zeros, "int64")], non_sequences=[re, im], n_steps=40
    )
    points = np.meshgrid(np.linspace(-2.0, 0.5, 21), np.linspace(-1.25, 1.25, 11))
    f = compiled([re, im], [states[2][-1]], None)
    assert n_tiled(f) == 1
    assert "kept in registers, each until nothing in it changes" in f.explain()
    c = points[0] + 1j * points[1]
    z, count = np.zeros_like(c), np.zeros(c.shape, "int64")
    for _ in range(40):
        inside = abs(z) < 2.0
        count += inside
        z = np.where(inside, z * z + c, z)
    assert (f(*points)[0] != count).mean() < 0.01  # rounded in other places, a few points at the border differ
    check([re, im], [states[2][-1]], tuple(points))


@pytest.mark.parametrize("dtype", ["float64", "int64", "float32"])
def test_a_tile_ends_when_nothing_in_it_changes(dtype: str) -> None:
    """Numbers double until they are large, at the latest after 1000 steps; NaN is never large, 0 never gets so."""
    h, k = T.vector("h", dtype=dtype), T.lscalar("k")

    def step(h: Any, n: Any) -> list[Any]:
        small = h < 1000
        return [T.where(small, h + h, h), n + T.cast(small, dtype)]

    states, _ = ostinato.scan(step, outputs_info=[h, T.zeros_like(h)], n_steps=k)
    values = np.concatenate([RNG.integers(1, 9, 70), [0, 3, 5000]]).astype(dtype)
    if dtype != "int64":
        values[3], values[71], values[0] = np.nan, -0.0, np.inf
    tiles = check([h, k], [s[-1] for s in states], (values, 1), (values, 5), (values[:64], 1000), (values, 1000))
    assert "until nothing in it changes" in tiles.explain()


@pytest.mark.parametrize(
    "step",
    [
        lambda t, h, n: [T.where(h + t < 5.0, h + 1.0 - n, h), n + 1.0],
        lambda t, h, n: [T.where(t < 3.0, h + 1.0 - n, h), n],
        lambda t, h, n: [T.where(n < 3.0, h + 1.0, h), n + T.cast(h < 2.0, "float64")],
        lambda t, h, n: [T.where(h < 5.0, h + 1.0, n), n],
        lambda t, h, n: [T.where(h < 5.0, h + 1.0, h), n + T.where(h < 3.0, 1.0, 0.5)],
        lambda t, h, n: [T.where(h < 5.0, h, h + 1.0 - n), n],
    ],
)
def test_what_may_change_again_goes_on(step: Callable[..., Any]) -> None:
    ts, h = T.dvector("ts"), T.dvector("h")
    states, _ = ostinato.scan(step, sequences=ts, outputs_info=[h, T.zeros_like(h)])
    tiles = check([ts, h], [s[-1] for s in states], (np.array([9.0, 0.0, 2.0, 1.0, 9.0, 0.0]), RNG.normal(size=70)))
    assert "until nothing" not in tiles.explain()


def test_lanes_of_few_elements() -> None:
    """A lane may have a small vector or matrix, before or after it."""
    h, x = T.tensor("float64", (None, 2, 3), "h"), T.tensor("float64", (None, None, 3), "x")
    w = T.dvector("w")

    def step(x: Any, h: Any, w: Any) -> Any:
        first = h[:, 0] * w[:, None] + x
        return T.stack([first, h[:, 1] * 0.5 + T.sum(h, axis=(1, 2))[:, None]], axis=1)

    states, _ = ostinato.scan(step, sequences=x, outputs_info=h, non_sequences=w)
    args = RNG.normal(size=(9, 2, 3)), RNG.normal(size=(6, 9, 3)), RNG.normal(size=9)
    compiled_so = compiled([h, x, w], [states[-1]])
    expected, (state, xs, ws) = None, args
    for row in xs:
        first = state[:, 0] * ws[:, None] + row
        second = state[:, 1] * 0.5 + state.sum(axis=(1, 2))[:, None]
        state = expected = np.stack([first, second], axis=1)
    np.testing.assert_allclose(compiled_so(*args)[0], expected, rtol=1e-12)


def test_rows_of_lanes_that_broadcast() -> None:
    h, b, x = T.dmatrix("h"), T.dvector("b"), T.dmatrix("x")
    states, _ = ostinato.scan(lambda x, h, b: h * b[:, None] + x, sequences=x, outputs_info=h, non_sequences=b)
    check([h, b, x], [states[-1]], (RNG.normal(size=(5, 13)), RNG.normal(size=5), RNG.normal(size=(6, 13))))


def test_several_lags() -> None:
    """Taps are numbers of their own, whichever lane it is."""
    start = T.dmatrix("start")
    states, _ = ostinato.scan(
        lambda a, b: 0.3 * a - 0.2 * b, outputs_info={"initial": start, "taps": [-3, -1]}, n_steps=9
    )
    expected = ostinato.function([start], [states[-1]], mode="reference")
    f = compiled([start], [states[-1]])
    args = RNG.normal(size=(3, 21))
    np.testing.assert_allclose(f(args)[0], expected(args)[0], rtol=1e-13)


def test_gradients_of_many_series() -> None:
    """The reverse loop has lanes, too; what is summed over the steps is."""
    r, h, a, b = T.dmatrix("r"), T.dvector("h"), T.dvector("a"), T.dscalar("b")
    states, _ = ostinato.scan(lambda r, h, a, b: a * r**2 + b * h, sequences=r, outputs_info=h, non_sequences=[a, b])
    cost = T.sum(T.log(states[-1]))
    results = [cost, *T.grad(cost, [r, h, a, b])]
    args = [(RNG.normal(size=(9, n)), RNG.uniform(1, 2, n), RNG.uniform(size=n), 0.8) for n in (1, 6, 40)]
    check([r, h, a, b], results, *args, expect=2)


def test_failures_are_explained() -> None:
    h, x, k = T.dvector("h"), T.dmatrix("x"), T.lvector("k")
    states, _ = ostinato.scan(lambda k, h, x: h * 0.5 + x[k], sequences=k, outputs_info=h, non_sequences=x)
    f = compiled([h, x, k], [states[-1]])
    args = RNG.normal(size=8), RNG.normal(size=(3, 8))
    expected = (args[0] * 0.5 + args[1][2]) * 0.5 + args[1][0]
    np.testing.assert_allclose(f(*args, np.array([2, 0]))[0], expected, rtol=1e-13)
    with pytest.raises(OstinatoIndexError, match="step 1"):
        f(*args, np.array([2, 3]))


# ---- any step -----------------------------------------------------------------------------------------

FLOAT_OPS: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b,
    lambda a, b: a - 0.5 * b,
    lambda a, b: a * b,
    lambda a, b: T.maximum(a, b),
    lambda a, b: T.where(a < b, a, 0.25 * b),
    lambda a, b: a / (1.0 + abs(b)),
    lambda a, b: T.tanh(a) - b,
    lambda a, b: T.cast(T.cast(a * 4.0, "int64") % 5, "float64") + T.exp(-abs(b)),
    lambda a, b: T.sqrt(abs(a)) * T.sign(b),
]


@st.composite
def steps(draw: Any) -> Any:
    """A step of two carries of floats, one of integers and one of truth values, as a list of choices."""
    dtypes = draw(st.sampled_from([("float64", "float64"), ("float32", "float32"), ("float64", "float32")]))
    ops = draw(
        st.lists(st.tuples(st.integers(0, len(FLOAT_OPS) - 1), st.integers(0, 99), st.integers(0, 99)), max_size=5)
    )
    return dtypes, ops, draw(st.sampled_from([1, 3, 5, 18, 37])), draw(st.sampled_from([0, 1, 6])), draw(st.booleans())


@given(steps())
@settings(max_examples=12, deadline=None)
def test_any_step(made: Any) -> None:
    (first, second), ops, n, n_steps, with_rows = made
    x, scale = T.matrix("x", dtype=first), T.dvector("scale")
    starts = [T.vector("u", dtype=first), T.vector("v", dtype=second), T.lvector("k"), T.vector("live", dtype="bool")]

    def step(x: Any, u: Any, v: Any, k: Any, live: Any, scale: Any) -> list[Any]:
        values = [u, v, x, scale]
        for op, i, j in ops:
            values.append(FLOAT_OPS[op](values[i % len(values)], values[j % len(values)]))
        new = T.where(live, T.clip(values[-1], -9.0, 9.0), u)
        still = T.and_(live, new < 5.0)
        return [
            T.cast(new, first),
            T.cast(0.5 * v + T.where(still, values[-2], 0.0), second),
            k + still * 3 - k // 7,
            still,
        ]

    states, _ = ostinato.scan(step, sequences=x, outputs_info=starts, non_sequences=scale)
    results = [*states] if with_rows else [s[-1] for s in states] if n_steps else [states[0]]
    args = (
        RNG.normal(size=(n_steps, n)).astype(first),
        RNG.normal(size=n),
        RNG.normal(size=n).astype(first),
        RNG.normal(size=n).astype(second),
        RNG.integers(-9, 9, n),
        RNG.uniform(size=n) < 0.8,
    )
    check([x, scale, *starts], results, args, rtol=1e-4 if "float32" in (first, second) else 1e-9)
