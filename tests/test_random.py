"""Random streams: Philox, what a draw depends on, states, loops, derivatives; and every distribution by its moments.

Seeds are fixed, so the statistical tests either always pass or never; their bounds are those of a test at 0.001.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats as st

import ostinato
import ostinato.tensor as T
from numeric import central
from ostinato import RandomStreams, distributions, function, scan, shared, until
from ostinato.errors import (
    DisconnectedInputError,
    MissingInputError,
    OstinatoTypeError,
    OstinatoValueError,
    ShapeError,
)
from ostinato.ops import random as ops

N = 8_000
MODES = ("native", "reference")
Draw = Callable[[RandomStreams], Any]


def drawn(draw: Draw, seed: Any = 7, mode: str = "native") -> np.ndarray[Any, Any]:
    return function([], draw(RandomStreams(seed)), mode=mode)()


@cache
def sample(name: str, mode: str = "native") -> np.ndarray[Any, Any]:
    """A sample of a distribution of the tables below."""
    return drawn(ARRAYS.get(name) or {**CONTINUOUS, **DISCRETE}[name][0], mode=mode)


# ---- Philox ---------------------------------------------------------------------------------------

# D. E. Shaw Research, Random123, known answers of philox4x32-10: counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def as_int64(low: int, high: int) -> int:
    return int(np.uint64(low | high << 32).astype(np.int64))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers_of_random123(
    mode: str, counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    operands = as_int64(*key), as_int64(*counter[2:]), as_int64(*counter[:2])
    variables = T.lscalars("key", "high", "low")
    words = function(variables, [ops.bits(*variables, 0), ops.bits(*variables, 1)], mode=mode)(*operands)
    assert [int(w) for w in words] == [as_int64(*expected[:2]), as_int64(*expected[2:])]


def philox_by_the_paper(counter: list[int], key: list[int], bits: int) -> list[int]:
    """Philox 4xW-10 in Python's integers, for words of 32 or 64 bits."""
    multipliers = {32: (0xD2511F53, 0xCD9E8D57), 64: (0xD2E7470EE14C6C93, 0xCA5A826395121157)}[bits]
    weyl = {32: (0x9E3779B9, 0xBB67AE85), 64: (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)}[bits]
    size = 1 << bits
    for r in range(10):
        (h0, l0), (h1, l1) = (divmod(m * c, size) for m, c in zip(multipliers, counter[::2], strict=True))
        k0, k1 = ((k + r * w) % size for k, w in zip(key, weyl, strict=True))
        counter = [h1 ^ counter[1] ^ k0, l1, h0 ^ counter[3] ^ k1, l0]
    return counter


def test_philox_is_numpys_but_for_the_size_of_its_words() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        counter, key = rng.integers(0, 2**63, 4), rng.integers(0, 2**63, 2)
        numpys = np.random.Philox(counter=counter, key=key).random_raw(4)
        first = [int(counter[0]) + 1, *map(int, counter[1:])]  # NumPy counts up before it draws
        assert list(map(int, numpys)) == philox_by_the_paper(first, list(map(int, key)), 64)
        key32, counter32 = [int(k) % 2**32 for k in key], [int(c) % 2**32 for c in counter]
        ours = ops.philox(as_int64(*key32), as_int64(*counter32[2:]), as_int64(*counter32[:2]))
        expected = philox_by_the_paper(counter32, key32, 32)
        assert [int(w) % 2**32 for w in ours] == expected[::2]
        assert [int(w) >> 32 for w in ours] == expected[1::2]


@pytest.mark.parametrize("n", [1, 7, 8, 16, 1003])
@pytest.mark.parametrize("interval", ops.INTERVALS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_bits_are_equal_on_all_backends(dtype: str, interval: str, n: int) -> None:
    key, high = T.lscalars("key", "high")
    size = T.lscalar("size")
    u = [ops.unit(key, high, T.arange(size), dtype, word, interval) for word in (0, 1)]
    for found, wanted in zip(*[function([key, high, size], u, mode=mode)(-5, 2**40, n) for mode in MODES], strict=True):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, wanted)


def test_uniform_numbers_are_the_upper_bits() -> None:
    low, high = ops.philox(3, 4, np.arange(100))
    u = ops.UNIFORM.numpy(3, 4, np.arange(100), dtype="float64", word=0, interval="from_zero")
    assert [int(v * 2.0**53) for v in u] == [int(x) >> 11 for x in low]
    u = ops.UNIFORM.numpy(3, 4, np.arange(100), dtype="float32", word=1, interval="to_one")
    np.testing.assert_allclose(u, [(int(x) >> 32) / 2**32 + 2.0**-32 for x in high], rtol=2.0**-24)


@pytest.mark.parametrize("n", [1, 6, 2**33 + 1, 2**62, 2**63 - 1])
def test_integers_below_are_products(n: int) -> None:
    words = [int(w) for w in ops.philox(3, 4, np.arange(50))[0]]
    key, high, e, m = T.lscalar(), T.lscalar(), T.lvector(), T.lscalar()
    for mode in MODES:
        found = function([key, high, e, m], ops.below(key, high, e, m), mode=mode)(3, 4, np.arange(50), n)
        assert found.tolist() == [w * n >> 64 for w in words]


def test_blocks_are_read_from_memory_as_well_as_counted() -> None:
    """Elements of which the numbers lie in memory, backwards too, among others that are counted."""
    key, e, x = T.lscalar(), T.lvector(), T.dvector()
    u = ops.unit(key, 1, e, "float64") + x * ops.unit(key, 2, e[::-1], "float64")
    results = [function([key, e, x], u, mode=mode)(9, np.arange(37) ** 2, np.arange(37.0)) for mode in MODES]
    np.testing.assert_allclose(*results, rtol=1e-15)


# ---- distributions --------------------------------------------------------------------------------

CONTINUOUS: dict[str, tuple[Draw, Any]] = {
    "uniform": (lambda s: s.uniform((N,), -1.0, 3.0), st.uniform(-1, 4)),
    "uniform float32": (lambda s: s.uniform((N,), dtype="float32"), st.uniform()),
    "uniform of arrays": (lambda s: s.uniform((2, N // 2), np.array([[-1.0], [2.0]]), 3.0), None),
    "normal": (lambda s: s.normal((N // 4, 4), 1.0, 2.0), st.norm(1, 2)),
    "normal float32": (lambda s: s.normal((N,), dtype="float32"), st.norm()),
    "exponential": (lambda s: s.exponential((N,), 3.0), st.expon(scale=3)),
    "gamma of 0.05": (lambda s: s.gamma((N,), 0.05, 2.0), st.gamma(0.05, scale=2)),
    "gamma of 0.7": (lambda s: s.gamma((N,), 0.7), st.gamma(0.7)),
    "gamma of 4": (lambda s: s.gamma((N,), 4.0, 0.5), st.gamma(4, scale=0.5)),
    "gamma of 300 float32": (lambda s: s.gamma((N,), 300.0, dtype="float32"), st.gamma(300)),
    "beta of 0.1, 0.2": (lambda s: s.beta((N,), 0.1, 0.2), st.beta(0.1, 0.2)),
    "beta of 2, 5": (lambda s: s.beta((N,), 2.0, 5.0), st.beta(2, 5)),
    "truncated normal": (lambda s: s.truncated_normal((N,), 1.0, 2.0), st.truncnorm(-2, 2, 1, 2)),
    "truncated above": (lambda s: s.truncated_normal((N,), low=1.0, high=np.inf), st.truncnorm(1, np.inf)),
    "truncated in a tail": (lambda s: s.truncated_normal((N,), low=8.0, high=8.5), st.truncnorm(8, 8.5)),
    "truncated far out": (lambda s: s.truncated_normal((N,), low=-np.inf, high=-200.0), None),
}


@pytest.mark.parametrize("name", [n for n, (_, d) in CONTINUOUS.items() if d is not None])
def test_continuous_distribution(name: str) -> None:
    """Kolmogorov's and Smirnov's test, and mean and variance within 4 standard errors."""
    x, expected = sample(name).ravel().astype("float64"), CONTINUOUS[name][1]
    assert st.kstest(x, expected.cdf).pvalue > 0.001
    mean, variance, kurtosis = map(float, expected.stats(moments="mvk"))
    assert abs(x.mean() - mean) < 4 * np.sqrt(variance / N)
    assert abs(x.var() - variance) < 4 * variance * np.sqrt((kurtosis + 2) / N)


def test_far_out_a_truncated_normal_is_nearly_exponential() -> None:
    for low in (200.0, 1e6):
        x = drawn(lambda s, low=low: s.truncated_normal((N,), low=low, high=np.inf))
        assert (x >= low).all()
        assert st.kstest((x - low) * low, st.expon.cdf).pvalue > 0.001
    exact = st.truncnorm(26, 27)
    x = drawn(lambda s: s.truncated_normal((N,), low=26.0, high=27.0))
    assert st.kstest(x, exact.cdf).pvalue > 0.001


DISCRETE: dict[str, tuple[Draw, Any]] = {
    "bernoulli": (lambda s: s.bernoulli((N,), 0.3), st.bernoulli(0.3)),
    "binomial of 1": (lambda s: s.binomial((N,), 1, 0.8), st.bernoulli(0.8)),
    "binomial of 10": (lambda s: s.binomial((N,), 10, 0.5), st.binom(10, 0.5)),
    "binomial of 40, 0.95": (lambda s: s.binomial((N,), 40, 0.95), st.binom(40, 0.95)),
    "binomial of 100": (lambda s: s.binomial((N,), 100, 0.3), st.binom(100, 0.3)),
    "binomial of 100, 0.8": (lambda s: s.binomial((N,), 100, 0.8), st.binom(100, 0.8)),
    "binomial of 10**9": (lambda s: s.binomial((N,), 10**9, 0.25), st.binom(10**9, 0.25)),
    "poisson of 0.3": (lambda s: s.poisson((N,), 0.3), st.poisson(0.3)),
    "poisson of 9.9": (lambda s: s.poisson((N,), 9.9), st.poisson(9.9)),
    "poisson of 10": (lambda s: s.poisson((N,), 10.0), st.poisson(10)),
    "poisson of 1000": (lambda s: s.poisson((N,), 1000.0), st.poisson(1000)),
    "randint": (lambda s: s.randint((N,), -3, 9), st.randint(-3, 9)),
    "random_integers": (lambda s: s.random_integers((N,), 1, 6), st.randint(1, 7)),
    "choice": (lambda s: s.choice((N,), 5), st.randint(0, 5)),
}


@pytest.mark.parametrize("name", list(DISCRETE))
def test_discrete_distribution(name: str) -> None:
    """A chi-squared test over the values that are not rare, and mean and variance within 4 standard errors."""
    x, expected = sample(name), DISCRETE[name][1]
    assert x.dtype == "int64"
    mean, variance, kurtosis = map(float, expected.stats(moments="mvk"))
    assert abs(x.mean() - mean) < 4 * np.sqrt(variance / N)
    assert abs(x.var() - variance) < 4 * variance * np.sqrt((kurtosis + 2) / N)
    if variance > 1e4:
        assert st.kstest(x, expected.cdf).pvalue > 0.001
        return
    values = np.arange(x.min(), x.max() + 1)
    often = expected.pmf(values) * N >= 8
    seen, wanted = np.bincount(x - x.min())[often], expected.pmf(values)[often] * N
    seen, wanted = np.append(seen, N - seen.sum()), np.append(wanted, N - wanted.sum())
    if wanted[-1] < 4:
        seen, wanted = seen[:-1], wanted[:-1] * seen[:-1].sum() / wanted[:-1].sum()
    assert st.chisquare(seen, wanted).pvalue > 0.001


ARRAYS: dict[str, Draw] = {
    "multinomial": lambda s: s.multinomial((30,), 20, [0.2, 0.5, 0.3]),
    "multinomial of 1": lambda s: s.multinomial(None, 1, np.full((5, 3), 1 / 3)),
    "permutation": lambda s: s.permutation((5,), 7),
    "choice without replacement": lambda s: s.choice((3,), 10, replace=False),
    "choice of weights": lambda s: s.choice((40,), 4, p=[0.1, 0.2, 0.3, 0.4]),
    "choice of weights once": lambda s: s.choice((2, 2), np.arange(6.0), False, p=np.arange(1, 7) / 21),
    "shuffled": lambda s: s.shuffle_row_elements(np.arange(12.0).reshape(3, 4)),
}


@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE, *ARRAYS])
def test_the_native_backend_draws_what_the_reference_draws(name: str) -> None:
    """The same integers, and floats up to the rounding of logarithms and cosines."""
    found, wanted = (sample(name, mode) for mode in MODES)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    exact = wanted.dtype.kind == "i" or name.startswith("uniform")
    tolerance = 0 if exact else 3e-6 if wanted.dtype == "float32" else 1e-13
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def test_multinomial() -> None:
    p = np.array([0.2, 0.5, 0.3])
    x = drawn(lambda s: s.multinomial((N,), 20, p))
    assert x.shape == (N, 3)
    assert (x.sum(-1) == 20).all()
    for k in range(3):
        assert (
            st.chisquare(
                np.bincount(x[:, k], minlength=21)[3:14], st.binom(20, p[k]).pmf(range(3, 14)) * N, sum_check=False
            ).pvalue
            > 0.001
            or p[k] != 0.5
        )
        assert abs(x[:, k].mean() - 20 * p[k]) < 4 * np.sqrt(20 * p[k] * (1 - p[k]) / N)
    expected = 20 * (np.diag(p) - np.outer(p, p))
    np.testing.assert_allclose(np.cov(x.T), expected, atol=0.15)


def test_multinomial_of_one_and_choice_with_weights() -> None:
    p = np.array([0.1, 0.2, 0.3, 0.4])
    x = drawn(lambda s: s.multinomial((N,), 1, p))
    assert (x.sum(-1) == 1).all()
    assert st.chisquare(x.sum(0), p * N).pvalue > 0.001
    y = drawn(lambda s: s.choice((N,), 4, p=p))
    assert st.chisquare(np.bincount(y), p * N).pvalue > 0.001
    z = drawn(lambda s: s.choice((N,), np.array([3.0, 5.0]), p=[0.25, 0.75]))
    assert z.dtype == "float64"
    assert set(z) == {3.0, 5.0}


def test_permutations_are_all_as_probable() -> None:
    x = drawn(lambda s: s.permutation((6000,), 3))
    assert (np.sort(x, axis=-1) == np.arange(3)).all()
    _, counts = np.unique(x, axis=0, return_counts=True)
    assert len(counts) == 6
    assert st.chisquare(counts).pvalue > 0.001


def test_choice_without_replacement_takes_none_twice() -> None:
    draws = RandomStreams(3)
    plain, weighted = draws.choice((2,), 4, replace=False), draws.choice((2,), 4, False, p=[0.1, 0.2, 0.3, 0.4])
    f = function([], [plain, weighted])
    found = np.array([f() for _ in range(1500)])
    assert (found[:, :, 0] != found[:, :, 1]).all()
    assert st.chisquare(np.bincount(found[:, 0].ravel())).pvalue > 0.001
    assert st.chisquare(np.bincount(found[:, 1, 0]), np.array([0.1, 0.2, 0.3, 0.4]) * 1500).pvalue > 0.001
    # The second, by the rule of products: p_j / (1 - p_i), summed over the first.
    p = np.array([0.1, 0.2, 0.3, 0.4])
    second = np.array([sum(p[i] * p[j] / (1 - p[i]) for i in range(4) if i != j) for j in range(4)])
    assert st.chisquare(np.bincount(found[:, 1, 1]), second * 1500).pvalue > 0.001


def test_rows_are_shuffled_each_in_its_own_order() -> None:
    x = np.arange(400.0).reshape(20, 20)
    y = drawn(lambda s: s.shuffle_row_elements(x))
    assert (np.sort(y, axis=-1) == x).all()
    assert len({tuple(row % 20) for row in y}) == 20


def test_normal_quantile() -> None:
    p = np.concatenate([10.0 ** -np.arange(1, 300, 7), np.linspace(0.001, 0.999, 97), 1 - 10.0 ** -np.arange(3, 15)])
    v = T.dvector()
    found = function([v], distributions.normal_quantile(v))(p)
    np.testing.assert_allclose(found, scipy.special.ndtri(p), rtol=2e-14, atol=1e-15)


def test_stirlings_remainder() -> None:
    k = np.array([0, 1, 2, 5, 8, 9, 10, 11, 50, 10**6], "float64")
    v = T.dvector()
    found = function([v], distributions._stirling(v))(k)
    with mpmath.workdps(40):
        half = mpmath.mpf(1) / 2
        wanted = [
            float(mpmath.loggamma(n + 1) - (n + half) * mpmath.log(n + 1) + n + 1 - mpmath.log(2 * mpmath.pi) / 2)
            for n in map(mpmath.mpf, k)
        ]
    np.testing.assert_allclose(found, wanted, atol=5e-9)


# ---- what a draw depends on -----------------------------------------------------------------------


def test_every_call_draws_afresh_and_the_same_anew_from_the_seed() -> None:
    def three() -> list[Any]:
        f = function([], RandomStreams(42).normal((4,)))
        return [f() for _ in range(3)]

    first, again = three(), three()
    np.testing.assert_array_equal(first, again)
    assert len({v for row in first for v in row}) == 12


def test_call_sites_seeds_and_places_give_different_numbers() -> None:
    draws = RandomStreams(1)
    x, y = draws.uniform((2, 50)), draws.uniform((2, 50))
    other = RandomStreams(2).uniform((2, 50))
    found = np.array(function([], [x, y, other])())
    assert len(np.unique(found)) == 300


def test_the_shape_does_not_matter_for_the_numbers() -> None:
    wide = drawn(lambda s: s.uniform((2, 3, 4)))
    np.testing.assert_array_equal(wide.ravel(), drawn(lambda s: s.uniform((24,))))
    np.testing.assert_array_equal(wide.ravel()[:5], drawn(lambda s: s.uniform((5,))))
    assert wide[0, 0, 0] == drawn(lambda s: s.uniform())


def test_one_draw_in_two_places_is_one_number() -> None:
    draw = RandomStreams(1).normal((3,))
    a, b = function([], [draw + 1, draw * 2])()
    np.testing.assert_allclose(a - 1, b / 2, rtol=1e-15, atol=1e-15)


def test_two_functions_share_the_count_of_calls() -> None:
    draw = RandomStreams(1).uniform()
    f, g = function([], draw), function([], draw)
    together = [f(), g(), f(), g()]
    alone = function([], RandomStreams(1).uniform())
    assert together == [alone() for _ in range(4)]


def test_threads_do_not_matter() -> None:
    x = np.ones((300, 8))
    v = T.dmatrix()
    found = []
    for threads in (1, 2, 3):
        with ostinato.config.change_flags(threads=threads):
            draws = RandomStreams(3)
            out, _ = scan(lambda h, draws=draws: T.tanh(h + draws.normal(v.shape)), outputs_info=v, n_steps=40)
            found.append(function([v], out)(x))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, 2**64, 10**30, [1, 2, 3], np.int64(5)])
def test_any_integer_is_a_seed(seed: Any) -> None:
    np.testing.assert_array_equal(*[drawn(lambda s: s.uniform((3,)), seed) for _ in range(2)])


def test_unlike_seeds_are_told_apart() -> None:
    seeds = [0, 1, -1, 2**64, [0], [1], [0, 1], [1, 0], None, None]
    assert len({float(drawn(lambda s: s.uniform(), seed)) for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("seed", [1.5, "1", [], [1.5], True])
def test_what_is_no_seed(seed: Any) -> None:
    with pytest.raises(OstinatoTypeError, match="a seed is an int or a sequence of ints"):
        RandomStreams(seed)


# ---- states ---------------------------------------------------------------------------------------


def test_the_state_of_a_draw_can_be_kept_and_set() -> None:
    draws = RandomStreams(9)
    x, y = draws.uniform(), draws.uniform()
    f = function([], [x, y])
    f()
    kept = x.rng.get_value()
    assert kept.tolist() == [9, 0, 1]
    first = f()
    x.rng.set_value(kept)
    second = f()
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_the_state_of_a_stream_goes_on_in_another_program() -> None:
    def program(seed: Any) -> tuple[RandomStreams, Any]:
        draws = RandomStreams(seed)
        return draws, function([], [draws.normal((2,)), draws.randint((2,), 0, 100)])

    draws, f = program(1)
    f()
    state = draws.get_state()
    assert state.dtype == "int64"
    assert state.tolist() == [[1, 0, 1], [1, 1, 1]]
    expected = f()
    other, g = program(5)
    other.set_state(state)
    for found, wanted in zip(g(), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_states_that_do_not_fit() -> None:
    draws = RandomStreams(1)
    draws.uniform()
    with pytest.raises(OstinatoTypeError, match=r"an int64 array of shape \(draws, 3\)"):
        draws.set_state(np.zeros((1, 3)))
    with pytest.raises(OstinatoValueError, match=r"that of 2 draw\(s\), but 1 were made"):
        draws.set_state(np.zeros((2, 3), "int64"))
    with pytest.raises(AttributeError, match="no draw of a random stream"):
        _ = T.dvector("x").rng


def test_seeding_starts_anew() -> None:
    draws = RandomStreams(1)
    f = function([], [draws.uniform(), draws.normal()])
    first = f()
    f()
    draws.seed(1)
    assert f() == first
    draws.seed(2)
    assert f() != first
    z = draws.uniform()
    assert z.rng.get_value().tolist() == [2, 2, 0]


def test_a_failed_call_leaves_the_state() -> None:
    draw = RandomStreams(1).uniform((3,))
    x = T.dvector("x")
    f = function([x], draw + x)
    with pytest.raises(ShapeError):
        f(np.zeros(2))
    assert draw.rng.get_value().tolist() == [1, 0, 0]
    f(np.zeros(3))
    assert draw.rng.get_value().tolist() == [1, 0, 1]


def test_updates_as_users_of_theano_know_them() -> None:
    draws = RandomStreams(1)
    x, y = draws.uniform(), draws.uniform()
    f = function([], x, updates=draws.state_updates)
    assert f() != f()
    assert [s.get_value()[2] for s in (x.rng, y.rng)] == [2, 2]
    assert draws.updates() == draws.state_updates


def test_no_default_updates() -> None:
    draws = RandomStreams(1)
    x, y = draws.uniform(), draws.uniform()
    f = function([], [x, y], no_default_updates=True)
    assert f() == f()
    g = function([], [x, y], no_default_updates=[y.rng])
    (a, b), (c, d) = g(), g()
    assert a != c
    assert b == d
    with pytest.raises(OstinatoTypeError, match="no_default_updates is True, False or a list of shared"):
        function([], x, no_default_updates=["x"])


def test_default_updates_of_any_shared_variable() -> None:
    """They are found through updates and through other default updates, and yield to what a user gives."""
    a, b, c = (shared(1.0, n) for n in "abc")
    a.default_update = a + b
    b.default_update = b * 2
    f = function([], c + 1, updates={c: c + a})
    f()
    f()
    assert [float(v.get_value()) for v in (a, b, c)] == [4, 4, 4]
    function([], a, updates={a: a * 10})()
    assert [float(v.get_value()) for v in (a, b)] == [40, 4]
    function([], a, givens={b: 100.0})()
    assert [float(v.get_value()) for v in (a, b)] == [140, 4]
    a.default_update = None
    function([], a)()
    assert float(a.get_value()) == 140
    with pytest.raises(OstinatoTypeError, match="the default update of 'a'"):
        a.default_update = T.dvector()


def test_threads_that_call_one_function() -> None:
    """Nothing is torn: as many calls are counted as were made, or fewer, and all numbers are of the stream."""
    draw = RandomStreams(1).uniform((100,))
    f = function([], draw)
    alone = function([], RandomStreams(1).uniform((100,)))
    expected = {alone().tobytes() for _ in range(40)}
    found: list[bytes] = []
    workers = [threading.Thread(target=lambda: found.extend(f().tobytes() for _ in range(20))) for _ in range(2)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert set(found) <= expected


# ---- loops ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_step_draws_afresh(mode: str) -> None:
    draws = RandomStreams(1)
    x, updates = scan(lambda: draws.uniform((3,)), n_steps=5)
    f = function([], x, mode=mode)
    first, second = f(), f()
    assert len(np.unique([first, second])) == 30
    assert list(updates) == [s for s, _ in draws.state_updates]


def test_passing_the_updates_of_scan_changes_nothing() -> None:
    found = []
    for passed in (True, False):
        draws = RandomStreams(1)
        x, updates = scan(lambda draws=draws: draws.uniform(), n_steps=3)
        f = function([], x, updates=updates if passed else None)
        found.append([f().tolist() for _ in range(2)])
    assert found[0] == found[1]


@pytest.mark.parametrize("mode", MODES)
def test_steps_of_all_loops_count(mode: str) -> None:
    draws = RandomStreams(1)

    def outer() -> Any:
        inner, updates = scan(lambda: draws.uniform(), n_steps=3)
        assert updates == {}  # they are the outer loop's
        return inner

    x, updates = scan(outer, n_steps=4)
    assert len(updates) == 1
    f = function([], x, updates=updates, mode=mode)
    assert len(np.unique([f(), f()])) == 24


def test_the_numbers_are_those_that_the_documentation_says() -> None:
    """A draw in a loop in a loop, from its seed: keys are folded with all but the innermost step."""

    def fold(key: int, n: int) -> int:
        return int(ops.philox(key, -1, n)[0].astype(np.int64))

    draws = RandomStreams(17)
    draws.normal()
    x, _ = scan(lambda: scan(lambda: draws.uniform((2,)), n_steps=3)[0], n_steps=2)
    f = function([], x)
    f()
    found = f()
    for i, j, e in np.ndindex(2, 3, 2):
        key = fold(fold(fold(17, 1), 1), i)
        assert found[i, j, e] == (int(ops.philox(key, j, e)[0]) >> 11) * 2.0**-53
    outside = function([], RandomStreams(17).uniform())
    assert outside() == (int(ops.philox(fold(17, 0), 0, 0)[0]) >> 11) * 2.0**-53


def test_a_draw_from_outside_is_one_number_in_all_steps() -> None:
    draw = RandomStreams(1).normal()
    x = T.dvector()
    out, updates = scan(lambda v: v * 0 + draw, x)
    assert updates == {}
    f = function([x], [out, draw])
    values, one = f(np.zeros(4))
    assert (values == one).all()
    assert f(np.zeros(1))[1] != one


def test_a_loop_of_one_step_and_of_none() -> None:
    draws = RandomStreams(1)
    one, _ = scan(lambda: draws.uniform((2,)), n_steps=1)
    none, _ = scan(lambda: draws.uniform((2,)), n_steps=0)
    f = function([], [one, none])
    (a, e), (b, _) = f(), f()
    assert e.shape == (0, 2)
    assert len(np.unique([a, b])) == 4


def test_a_step_that_is_called_more_than_once_makes_sites_of_its_own_each_time() -> None:
    def program() -> list[Any]:
        draws = RandomStreams(1)
        x, _ = scan(lambda h: h + draws.normal(), outputs_info=0, n_steps=3)  # the dtype is found by a second call
        y = draws.normal()
        return function([], [x, y])()

    first, second = program(), program()
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]


@pytest.mark.parametrize("mode", MODES)
def test_until_a_draw_says_so(mode: str) -> None:
    draws = RandomStreams(5)

    def step(h: Any) -> Any:
        h = h + draws.exponential()
        return h, until(h > 3)

    x, _ = scan(step, outputs_info=T.constant(0.0), n_steps=100)
    f = function([], x, mode=mode)
    rows = [f() for _ in range(20)]
    assert all(r[-1] > 3 and (r[:-1] <= 3).all() for r in rows)
    assert len({len(r) for r in rows}) > 1


def test_draws_that_take_attempts_in_the_steps_of_a_loop() -> None:
    a = np.random.default_rng(1).uniform(0.2, 3, (6, 5))
    results = []
    for mode in MODES:
        draws, shapes = RandomStreams(1), T.dmatrix()

        def step(x: Any, draws: RandomStreams = draws) -> list[Any]:
            return [draws.gamma(None, x), draws.poisson(None, 20 * x), draws.binomial(None, 50, 0.4)]

        results.append(function([shapes], scan(step, shapes)[0], mode=mode)(a))
    for found, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert len(np.unique(results[0][0])) == 30


def test_strict_does_not_ask_for_states() -> None:
    draws = RandomStreams(1)
    x, _ = scan(lambda: scan(lambda: draws.uniform(), n_steps=2, strict=True)[0], n_steps=2, strict=True)
    assert function([], x)().shape == (2, 2)
    outside = draws.uniform()
    s = shared(1.0, "s")
    with pytest.raises(MissingInputError, match=r"random state 1.*'s'"):
        scan(lambda: outside + s, n_steps=2, strict=True)


@pytest.mark.parametrize("form", ["dict", "pairs", "with until"])
def test_updates_of_inner_loops_are_carried_by_outer_ones(form: str) -> None:
    """The step returns what the inner loop did to a shared variable: a plain Python loop does the same."""
    s = shared(1.0, "s")

    def outer(v: Any) -> Any:
        seen, updates = scan(lambda w: (s + w, {s: s * 2 + w}), T.stack([v, v + 1]))
        returned = list(updates.items()) if form == "pairs" else updates
        return (seen, returned, until(v > 100)) if form == "with until" else (seen, returned)

    x = T.dvector()
    out, updates = scan(outer, x)
    assert list(updates) == [s]
    f = function([x], out, updates=updates)
    state, rows = 1.0, []
    for v in (0.5, -1.0, 2.0):
        row = []
        for w in (v, v + 1):
            row.append(state + w)
            state = state * 2 + w
        rows.append(row)
    np.testing.assert_allclose(f([0.5, -1.0, 2.0]), rows)
    assert float(s.get_value()) == state


# ---- derivatives ----------------------------------------------------------------------------------


def held(build: Callable[..., Any], *arrays: Any, order: int = 1, tolerance: float = 1e-7) -> None:
    """Derivatives of draws by their parameters, against differences of the same draws: no update, no other numbers."""
    inputs = [T.dvector(f"p{i}") for i in range(len(arrays))]
    draw = build(RandomStreams(4), *inputs)
    cost = (draw * T.cos(1.0 + T.arange(draw.shape[0]))).sum()
    for _ in range(order):
        grads = T.grad(cost, inputs)
        flags: dict[str, Any] = {"no_default_updates": True, "on_unused_input": "ignore"}
        value, derived = function(inputs, cost, **flags), function(inputs, grads, **flags)
        for k, g in enumerate(derived(*arrays)):
            np.testing.assert_allclose(g, central(value, arrays, k), rtol=tolerance, atol=tolerance)
        cost = sum((T.sin(g) * T.arange(1.0, 4.0)).sum() for g in grads)
        tolerance *= 100


POINTS = np.array([-0.4, 0.3, 1.2])


def test_derivatives_of_uniform_normal_and_exponential_draws() -> None:
    held(lambda s, a, b: s.uniform(None, T.sin(a), 3 + b * a), POINTS, POINTS + 1)
    held(lambda s, a, b: s.normal(None, a * a, T.exp(b)), POINTS, POINTS, order=2)
    held(lambda s, a: s.exponential(None, T.exp(a)), POINTS)


def test_derivatives_of_truncated_normal_draws() -> None:
    low, high = np.array([-1.0, 3.0, -0.3]), np.array([0.5, 4.0, 5.0])
    held(lambda s, a, b, c, d: s.truncated_normal(None, a, T.exp(b), c, d), POINTS, POINTS / 3, low, high)
    held(lambda s, a, b, c: s.truncated_normal(None, a, T.exp(b), c, np.inf), POINTS, POINTS / 3, low + 30.0)


def test_derivatives_in_a_loop() -> None:
    def walk(s: RandomStreams, a: Any, b: Any) -> Any:
        out, _ = scan(lambda h: T.tanh(a * h) + b * s.normal(a.shape), outputs_info=T.zeros_like(a), n_steps=4)
        return out[-1]

    held(walk, POINTS, POINTS + 0.5, order=2)


def test_derivatives_of_gamma_draws_are_those_of_the_inverse() -> None:
    """Against mpmath, and against differences of SciPy's inverse at the place in the distribution that was drawn."""
    alpha = np.array([0.02, 0.3, 0.9, 1.0, 2.5, 10.0, 80.0])
    a = T.dvector()
    z = RandomStreams(1).gamma(None, a)
    slope = T.grad(z.sum(), a)
    second = T.grad(slope.sum(), a)
    with mpmath.workdps(30):
        for mode in MODES:
            values, slopes, seconds = function([a], [z, slope, second], mode=mode)(alpha)
            for x, v, g in zip(alpha, values, slopes, strict=True):
                below = mpmath.diff(lambda q, v=v: mpmath.gammainc(q, 0, v, regularized=True), x)
                density = mpmath.mpf(v) ** (x - 1) * mpmath.exp(-v) / mpmath.gamma(x)
                assert abs(float(-below / density) / g - 1) < 1e-12
    place = scipy.special.gammainc(alpha, values)
    h = 1e-3 * alpha
    curve = [scipy.special.gammaincinv(alpha + d, place) for d in (-h, 0, h)]
    np.testing.assert_allclose(seconds[1:], ((curve[0] - 2 * curve[1] + curve[2]) / h**2)[1:], rtol=2e-3, atol=1e-5)


def test_forward_mode_gives_the_same_derivatives() -> None:
    a, u = T.dvector(), T.dvector()
    draws = RandomStreams(1)
    for x in (draws.gamma(None, a), draws.normal(None, a, a), draws.truncated_normal(None, a, 1.0, 0.0, 5.0)):
        pushed, pulled = ostinato.jvp(x, a, u), T.grad((x * u).sum(), a)
        np.testing.assert_allclose(*function([a, u], [pushed, pulled])([0.3, 1.0, 4.0], [1.0, 2.0, -1.0]), rtol=1e-12)


def test_the_mean_of_derivatives_is_the_derivative_of_the_mean() -> None:
    n = 4000
    a, b = T.dscalar(), T.dscalar()
    draws = RandomStreams(2)
    gammas, betas = draws.gamma((n,), a, b), draws.beta((n,), a, b)
    found = function([a, b], [*T.grad(gammas.mean(), [a, b]), *T.grad(betas.mean(), [a, b])], mode="reference")(
        1.7, 0.6
    )
    np.testing.assert_allclose(found, [0.6, 1.7, 0.6 / 2.3**2, -1.7 / 2.3**2], atol=0.05)


@pytest.mark.parametrize("name", ["binomial", "binomial of many", "poisson", "multinomial"])
def test_draws_of_integers_are_disconnected(name: str) -> None:
    p = T.dvector("p")
    draws = RandomStreams(1)
    x = {
        "binomial": lambda: draws.binomial(None, 1, p, dtype="float64"),
        "binomial of many": lambda: draws.binomial(None, 30, p, dtype="float64"),
        "poisson": lambda: draws.poisson(None, p, dtype="float64"),
        "multinomial": lambda: draws.multinomial(None, 3, p, dtype="float64"),
    }[name]()
    with pytest.raises(DisconnectedInputError, match=r"'?p'?"):
        T.grad(x.sum(), p)
    g = T.grad((x * p).sum(), p)
    value, slope = function([p], [x, g], mode="reference")(np.array([0.2, 0.5, 0.3]))
    np.testing.assert_array_equal(value, slope)


def test_derivatives_go_along_with_shuffled_rows() -> None:
    x = T.dmatrix()
    y = RandomStreams(1).shuffle_row_elements(x)
    w = np.arange(6.0).reshape(2, 3)
    values = np.random.default_rng(0).normal(size=(2, 3))
    shuffled, g = function([x], [y, T.grad((y * w).sum(), x)])(values)
    for row, weights, before, slope in zip(shuffled, w, values, g, strict=True):
        assert [weights[list(row).index(v)] for v in before] == list(slope)


# ---- sizes, dtypes, bad input ---------------------------------------------------------------------


def test_sizes() -> None:
    draws = RandomStreams(1)
    n, v, x = T.lscalar(), T.lvector(), T.dmatrix()
    outs = [
        draws.uniform(3), draws.uniform((n, 2)), draws.normal(x.shape), draws.normal(v, ndim=3),
        draws.normal(None, x, x[0]), draws.uniform(()), draws.uniform((0, n)),
        draws.permutation((n,), n), draws.choice(n, 3), draws.binomial(x.shape, 1, x), draws.multinomial((n,), 2, x[0]),
    ]  # fmt: skip
    found = function([n, v, x], outs, mode="reference")(4, [1, 2, 3], np.full((2, 3), 1 / 3))
    wanted = [(3,), (4, 2), (2, 3), (1, 2, 3), (2, 3), (), (0, 4), (4, 4), (4,), (2, 3), (4, 3)]
    assert [f.shape for f in found] == wanted


def test_dtypes() -> None:
    draws, x = RandomStreams(1), T.fvector()
    assert draws.uniform().dtype == ostinato.config.floatX
    assert draws.normal(None, x, 1.0).dtype == "float32"
    assert draws.normal(None, x, T.dscalar()).dtype == "float64"
    assert draws.normal((2,), 1, 2).dtype == ostinato.config.floatX
    assert draws.poisson((2,), 3, dtype="int8").dtype == "int8"
    assert draws.binomial((2,), dtype="bool").dtype == "bool"
    with ostinato.config.change_flags(floatX="float32"):
        assert draws.gamma((2,), 2.0).dtype == "float32"
    half = function([], [draws.uniform((4000,), dtype="float16"), draws.normal((4000,), 1, 2, dtype="float16")])
    for mode_value, low, high in zip(half(), (0, -9), (1, 11), strict=True):
        assert mode_value.dtype == "float16"
        assert (mode_value >= low).all()
        assert (mode_value < high).all()


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda s: s.normal((2,), 0.0, -1.0), OstinatoValueError, "normal: std must not be negative"),
        (lambda s: s.uniform((2,), 1.0, 0.0), OstinatoValueError, "uniform: high must not be below low"),
        (lambda s: s.exponential((2,), -1.0), OstinatoValueError, "exponential: scale must not be negative"),
        (lambda s: s.gamma((2,), 0.0), OstinatoValueError, "gamma: shape must be positive"),
        (lambda s: s.beta((2,), 1.0, -1.0), OstinatoValueError, "beta: b must be positive"),
        (lambda s: s.truncated_normal((2,), 0.0, 0.0), OstinatoValueError, "truncated_normal: std must be positive"),
        (lambda s: s.binomial((2,), 3, 1.5), OstinatoValueError, r"binomial: p must be within \[0, 1\]"),
        (lambda s: s.binomial((2,), -3, 0.5), OstinatoValueError, "binomial: n must not be negative"),
        (lambda s: s.binomial((2,), 1.5, 0.5), OstinatoTypeError, "binomial: n must be integers"),
        (lambda s: s.poisson((2,), -1.0), OstinatoValueError, "poisson: lam must not be negative"),
        (lambda s: s.multinomial((2,), 1, [0.5, 0.9]), OstinatoValueError, "multinomial: probabilities must add up"),
        (lambda s: s.multinomial((2,), 1, 0.5), OstinatoTypeError, "multinomial: probabilities along a last"),
        (lambda s: s.randint((2,), 3, 3), OstinatoValueError, "randint: high must be above low"),
        (lambda s: s.choice((5,), 3, replace=False), OstinatoValueError, "choice: 5 of 3 cannot be chosen"),
        (lambda s: s.choice((5,), T.dmatrix("m")), OstinatoTypeError, "choice: a is a vector or a number, not"),
        (lambda s: s.normal((2, 2), ndim=3), OstinatoValueError, r"ndim is 3, but the size has 2 dimension\(s\)"),
        (lambda s: s.normal((2,), np.zeros(3)), ShapeError, "normal: a parameter does not fit the size"),
        (lambda s: s.normal((-1,)), OstinatoValueError, "normal: a size cannot be negative, got -1"),
        (lambda s: s.normal((1.5,)), OstinatoTypeError, "the size of normal"),
        (lambda s: s.normal((2,), "x"), OstinatoTypeError, "normal: avg: expected a symbolic variable"),
        (lambda s: s.uniform((2,), dtype="int64"), OstinatoTypeError, "uniform: the dtype is one of float16"),
        (lambda s: s.shuffle_row_elements(1.0), OstinatoTypeError, "shuffle_row_elements expects rows"),
    ],
)
def test_bad_input(draw: Draw, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        draw(RandomStreams(1))


@pytest.mark.parametrize("mode", MODES)
def test_parameters_that_are_out_of_range_when_it_runs(mode: str) -> None:
    x = T.dvector()
    draws = RandomStreams(1)
    floats = [
        draws.normal(None, 0.0, x), draws.exponential(None, x), draws.gamma(None, x), draws.gamma(None, 2.0, x),
        draws.beta(None, x, 1.0), draws.truncated_normal(None, 0.0, x), draws.poisson(None, x, dtype="float64"),
    ]  # fmt: skip
    for found in function([x], floats, mode=mode)([-1.0, 2.0, np.nan]):
        assert np.isnan(found).tolist() == [True, False, True]
    integers = [draws.poisson(None, x), draws.binomial(None, 30, x / 4), draws.binomial(None, 1, x)]
    a, b, c = function([x], integers, mode=mode)([-1.0, 2.0, np.nan])
    assert (a[0], a[2], b[0], b[2]) == (-1, -1, -1, -1)
    assert c.tolist() == [0, 1, 0]
    n = T.lscalar()
    assert function([n], draws.randint((3,), 5, n), mode=mode)(2).tolist() == [5, 5, 5]


def test_means_of_zero_and_certain_successes() -> None:
    draws = RandomStreams(1)
    x = T.dvector()
    f = function(
        [x],
        [draws.poisson(None, x * 0), draws.binomial(None, 30, x * 0), draws.binomial(None, 30, x * 0 + 1),
         draws.normal(None, x, x * 0), draws.binomial(None, 0, x)],
        mode="reference",
    )  # fmt: skip
    a, b, c, d, e = f([0.5, 0.1])
    assert a.tolist() == [0, 0]
    assert b.tolist() == [0, 0]
    assert c.tolist() == [30, 30]
    assert d.tolist() == [0.5, 0.1]
    assert e.tolist() == [0, 0]


# ---- Theano's modules -----------------------------------------------------------------------------


def test_theanos_modules() -> None:
    from ostinato.compat.theano.rng_mrg import MRG_RandomStreams
    from ostinato.tensor.shared_randomstreams import RandomStreams as Shared

    assert Shared is RandomStreams
    draws = MRG_RandomStreams(seed=3, use_cuda=False)
    outs = [
        draws.uniform((4,), nstreams=2),
        draws.normal((500,), 1.0, 2.0, truncate=True),
        draws.truncated_normal((500,), 1.0, 2.0),
        draws.binomial(size=(4,), prob=0.5),
        draws.multinomial(pvals=np.full((3, 2), 0.5)),
        draws.choice(size=(3,), a=5, replace=False),
        draws.normal(size=(2,)),
    ]
    found = function([], outs, mode="reference")()
    assert [f.shape for f in found] == [(4,), (500,), (500,), (4,), (3, 2), (3,), (2,)]
    assert all(abs(f - 1).max() <= 4 for f in found[1:3])


def test_repr() -> None:
    draws = RandomStreams(3)
    draws.uniform()
    assert repr(draws) == "<RandomStreams with seed 3 and 1 draw(s)>"
