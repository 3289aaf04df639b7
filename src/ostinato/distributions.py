"""Distributions: from a source of uniform numbers to draws, as composites of ops and loops.

Every function takes a `Source`; parameters are nodes of floats, of the sizes of the result where these are not given.
Nothing here keeps a state; who reads what users give is `ostinato.random`. Where a draw takes several attempts, all
elements make them in a loop until the last one has succeeded; the attempt's number is part of what numbers are made of.

Sources of the methods: G. E. P. Box, M. E. Muller, Ann. Math. Stat. 29 (1958), normal; G. Marsaglia, W. W. Tsang, ACM
TOMS 26 (2000), gamma; M. Figurnov, S. Mohamed, A. Mnih, NeurIPS 2018, derivatives of gamma draws; W. Hörmann, "The
generation of binomial random variates", J. Stat. Comput. Simul. 46 (1993), and "The transformed rejection method for
generating Poisson random variables", Insurance: Math. Econ. 12 (1993); M. J. Wichura, Algorithm AS 241, Appl. Stat. 37
(1988), the inverse of the normal distribution function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ostinato.graph import make
from ostinato.ops import elementwise as e
from ostinato.ops import random as r
from ostinato.ops.control import disconnected_grad
from ostinato.ops.creation import arange
from ostinato.ops.leaf import constant, constant_value, new_input
from ostinato.ops.loop import Body, LoopInputs, build_loop
from ostinato.ops.movement import dimshuffle
from ostinato.ops.reduce import all as all_of
from ostinato.ops.reduce import any as any_of
from ostinato.ops.reduce import cumsum
from ostinato.ops.reduce import sum as sum_of
from ostinato.ops.sizes import Size, as_size_node, broadcast_to, product, sizes
from ostinato.types import TensorType

Sizes = Sequence[Size]

# More attempts than any draw needs: the probability that one is rejected is below 0.4.
_ATTEMPTS = 1000
# The most terms of the series of `log_gamma_slope`; it has about as many as the draw is large.
_TERMS = 10_000_000
# The counter of a `Source` where its key is made into another key: no step and no call has this number.
_FOLD = -1


class Source(NamedTuple):
    """Where uniform numbers come from: a key, and the upper half of the counter. The lower half counts elements.

    Sources of one key have different counters, and so different blocks of numbers.
    """

    key: Any
    counter: Any

    def inner(self, counter: Any) -> Source:
        """The source number `counter` of those that belong to this one, under a key of their own."""
        return Source(r.bits(self.key, _FOLD, self.counter), counter)

    def uniform(self, shape: Sizes, dtype: str, word: int = 0) -> Any:
        """Numbers in [0, 1)."""
        return r.unit(self.key, self.counter, elements(shape), dtype, word)

    def positive(self, shape: Sizes, dtype: str, word: int = 0) -> Any:
        """Numbers in (0, 1]."""
        return r.unit(self.key, self.counter, elements(shape), dtype, word, "to_one")

    def below(self, shape: Sizes, n: Any) -> Any:
        """Integers from 0 up to, without, n."""
        return r.below(self.key, self.counter, elements(shape), n)

    def bits(self, shape: Sizes) -> Any:
        """64 random bits each, as int64."""
        return r.bits(self.key, self.counter, elements(shape))


def elements(shape: Sizes) -> Any:
    """The numbers of the elements of an array, in C order."""
    index: Any = constant(0, "int64")
    for axis, size in enumerate(shape):
        along = arange(as_size_node(size))
        place = dimshuffle(along, ["x"] * axis + [0] + ["x"] * (len(shape) - axis - 1))
        part = place * as_size_node(product(shape[axis + 1 :]))
        index = index + part if axis else part
    return index


# ---- by transformation ----------------------------------------------------------------------------


def normal(source: Source, shape: Sizes, dtype: str) -> Any:
    """Standard normal numbers, the cosine of Box and Muller's two: within 8.6 (float64) or 6.7 (float32) of 0."""
    radius = e.sqrt(-2 * e.log(source.positive(shape, dtype)))
    return radius * e.cos((2 * math.pi) * source.uniform(shape, dtype, word=1))


def exponential(source: Source, shape: Sizes, dtype: str) -> Any:
    """Exponential numbers of mean 1."""
    return -e.log(source.positive(shape, dtype))


# Wichura's rational functions: the coefficients of numerator and denominator, from the constant ones upwards.
_CENTRE = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
     2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)  # fmt: skip
_TAIL = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
     1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)  # fmt: skip
_FAR_TAIL = (
    (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
     7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)  # fmt: skip


def normal_quantile(p: Any) -> Any:
    """Where the standard normal distribution function is p, a float64 within (0, 1), to about 1e-15 of itself."""
    q = p - 0.5
    far = e.sqrt(-e.log(e.minimum(p, 1 - p)))
    tail = e.where(e.le(far, 5), _ratio(_TAIL, far - 1.6), _ratio(_FAR_TAIL, far - 5))
    centre = q * _ratio(_CENTRE, 0.180625 - q * q)
    return e.where(e.le(e.abs(q), 0.425), centre, e.where(e.lt(q, 0), -tail, tail))


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Any) -> Any:
    above, below = (_polynomial(c, x) for c in coefficients)
    return above / below


def _polynomial(coefficients: Sequence[float], x: Any) -> Any:
    result: Any = coefficients[-1]
    for c in coefficients[-2::-1]:
        result = result * x + c
    return result


# From here on outwards `erfc` is replaced by its asymptotic series, long before it becomes 0.
_FAR = 25.0


def truncated_normal(u: Any, low: Any, high: Any) -> Any:
    """Standard normal numbers within [low, high], from uniform ones in (0, 1], by the inverse; all in float64.

    What lies above 0 is mirrored, so that probabilities are small numbers, not such that are close to 1.
    """
    mirrored = e.gt(low, 0)
    low, high = e.where(mirrored, -high, low), e.where(mirrored, -low, high)
    below, above = (0.5 * e.erfc(b * -math.sqrt(0.5)) for b in (low, high))
    far = e.lt(high, -_FAR)
    p = below + e.where(far, 0.5, u * (above - below))
    p = e.minimum(e.where(far, 0.5, p), 1 - 2.0**-53)
    near = e.minimum(e.maximum(normal_quantile(p), low), high)
    x = e.where(far, _beyond(u, e.where(far, -high, _FAR), e.where(far, high - low, 1)), near)
    return e.where(mirrored, -x, x)


def _beyond(u: Any, start: Any, width: Any) -> Any:
    """The negatives of normal numbers from `start`, at least `_FAR`, up to `start + width`.

    Solves Q(start + s) = Q(start) * (1 - u + u * Q(start + width) / Q(start)) for s by Newton's method, where Q is
    the probability of more, in logarithms and in terms of s, so that nothing is lost however far out `start` is.
    """

    def lost(s: Any) -> Any:
        """log(Q(start) / Q(start + s))."""
        y = start + s
        return s * (start + 0.5 * s) + e.log1p(s / start) + e.log1p(_asymptotic(start)) - e.log1p(_asymptotic(y))

    # What lies further than that has no weight; it may be infinite.
    rest = e.exp(-lost(e.minimum(width, 800 / start)))
    target = -e.log1p(-(1 - u) * (1 - rest))
    s = 2 * target / (start + e.sqrt(start * start + 2 * target))
    for _ in range(3):
        y = start + s
        s = s - (lost(s) - target) / (y + 1 / y)
    return -(start + e.minimum(e.maximum(s, 0), width))


def _asymptotic(y: Any) -> Any:
    """sqrt(2 pi) y exp(y**2 / 2) Q(y) - 1, for large y."""
    v = 1 / (y * y)
    return -v * (1 - v * (3 - v * (15 - v * (105 - v * 945))))


# ---- by rejection ---------------------------------------------------------------------------------


def _accepted(source: Source, done: Any, dtype: str, attempt: Callable[[Source], tuple[Any, Any]]) -> Any:
    """The first values that are accepted.

    Parameters
    ----------
    done : where no value is wanted; there it is 0.
    attempt : from the source for an attempt to values and whether they are accepted.
    """
    t = new_input(TensorType("int64", ()), "attempt")
    start = broadcast_to(constant(0, dtype), sizes(done))
    value, known = new_input(start.type, "value"), new_input(done.type, "done")
    candidate, good = attempt(source.inner(t))
    known_next = e.or_(known, good)
    nexts = e.where(known, value, candidate), known_next
    body = Body(t, (), (value, known), (), nexts, (), e.logical_not(all_of(known_next)))
    given = LoopInputs(constant(_ATTEMPTS, "int64"), (), (start, done), ())
    return build_loop(body, given, name="attempts").finals[0]


def log_gamma(source: Source, alpha: Any) -> Any:
    """The logarithm of gamma numbers of shape `alpha` and scale 1, with derivatives by `alpha`.

    The logarithm, since numbers of small shapes are smaller than any float. NaN where `alpha` is not positive.
    """
    shape, dtype, given = sizes(alpha), alpha.type.dtype, disconnected_grad(alpha)
    valid, small = e.and_(e.gt(given, 0), e.lt(given, math.inf)), e.lt(given, 1)
    d = e.where(valid, e.where(small, given + 1, given), 1) - 1 / 3
    c = 1 / e.sqrt(9 * d)

    def attempt(own: Source) -> tuple[Any, Any]:
        x = normal(own, shape, dtype)
        w = 1 + c * x
        log_v = 3 * e.log(e.where(e.gt(w, 0), w, 1))
        u = own.inner(0).positive(shape, dtype)
        good = e.lt(e.log(u), 0.5 * x * x + d * (1 - w * w * w + log_v))
        return log_v, e.and_(e.gt(w, 0), good)

    found = _accepted(source.inner(0), e.logical_not(valid), dtype, attempt)
    # A draw of a small shape is one of a shape that is larger by 1, times a power of a uniform number.
    factor = e.where(small, e.log(source.inner(1).positive(shape, dtype)) / given, 0)
    value = e.where(valid, e.log(d) + found + factor, math.nan)
    return make(r.LOG_GAMMA, (value, alpha))


def log_gamma_slope(alpha: Any, log_z: Any) -> Any:
    """d log(z) / d alpha for a gamma number z of shape `alpha` whose place in the distribution is held.

    With F the distribution function and p its derivative, dz / d alpha = -(dF / d alpha) / p. F is the sum over k of
    z**(alpha + k) exp(-z) / gamma(alpha + k + 1); what all terms and p have in common cancels. A loop adds up as many
    terms as it takes, so that derivatives of any order are those of a loop.
    """
    a, x = e.cast(alpha, "float64"), e.cast(log_z, "float64")
    z, start = e.exp(x), x - e.psi(a + 1)
    k = new_input(TensorType("int64", ()), "k")
    term, slope, total = (new_input(start.type, name) for name in ("term", "slope", "total"))
    n = a + (k + 1)
    next_term, next_slope = term * z / n, slope - 1 / n
    next_total = total + next_term * next_slope
    # Beyond the largest term each is smaller than the one before.
    rest = next_term * (1 + e.abs(next_slope))
    small = e.and_(e.lt(z, n), e.le(rest, 1e-18 * e.abs(next_total)))
    over = e.or_(small, e.or_(e.eq(next_term, 0), e.isnan(rest)))
    nexts = next_term, next_slope, next_total
    body = Body(k, (), (term, slope, total), (), nexts, (), e.logical_not(all_of(over)))
    inits = broadcast_to(constant(1.0, "float64"), sizes(start)), start, start
    loop = build_loop(body, LoopInputs(constant(_TERMS, "int64"), (), inits, ()), name="series of gamma")
    return e.cast(-loop.finals[2] / a, log_z.type.dtype)


# ---- integers -------------------------------------------------------------------------------------


def _by_inversion(u: Any, first: Any, following: Callable[[Any, Any], Any], mode: Any, wanted: Any) -> Any:
    """The least k for which the probabilities of 0, …, k add up to more than u, where that is `wanted`.

    Parameters
    ----------
    first : the probability of 0. `following`: from k and its probability to that of k + 1.
    mode : from there on probabilities fall.
    """
    k, p, rest = (new_input(u.type, name) for name in ("value", "probability", "rest"))
    # Rounding may leave a rest that no number reaches: what is as improbable as that is taken for the last one.
    last = e.and_(e.gt(k, mode), e.lt(p, 2.0**-60))
    going = e.and_(e.and_(wanted, e.ge(rest, p)), e.logical_not(last))
    nexts = (e.where(going, k + 1, k), e.where(going, following(k, p), p), e.where(going, rest - p, rest))
    t = new_input(TensorType("int64", ()), "k")
    body = Body(t, (), (k, p, rest), (), nexts, (), any_of(going))
    given = LoopInputs(constant(_ATTEMPTS, "int64"), (), (u * 0, first + u * 0, u), ())
    return build_loop(body, given, name="inversion").finals[0]


def _stirling(k: Any) -> Any:
    """log(k!) - (k + 1/2) log(k + 1) + (k + 1) - log(2 pi) / 2, for whole numbers k >= 0."""
    n, few = k + 1, e.minimum(k, 10)
    v = 1 / (n * n)
    series = (1 / 12 - (1 / 360 - v / 1260) * v) / n
    # Few are the eighth number before one for which the series is exact.
    later = few + 9
    w = 1 / (later * later)
    passed: Any = few + 1
    for j in range(2, 9):
        passed = passed * (few + j)
    exact = (1 / 12 - (1 / 360 - (1 / 1260 - w / 1680) * w) * w) / later - e.log(passed)
    exact = exact + (later - 0.5) * e.log(later) - (few + 0.5) * e.log(few + 1) - 8
    return e.where(e.lt(k, 10), exact, series)


def _always(test: Callable[..., Any], *nodes: Any) -> bool:
    """Whether a condition on arrays is known to hold: they are constants, broadcast to whatever shape."""
    values = []
    for node in nodes:
        while node.op.name in ("broadcast_to", "disconnected_grad", "cast"):
            node = node.inputs[0]
        values.append(constant_value(node))
    return all(v is not None for v in values) and bool(np.all(test(*values)))


def poisson(source: Source, mean: Any) -> Any:
    """Poisson numbers as float64, like the mean; NaN where that is none.

    Below a mean of 10 by inversion, one number after the other; else by Hörmann's PTRS.
    """
    mean = disconnected_grad(mean)
    valid, small = e.and_(e.ge(mean, 0), e.lt(mean, math.inf)), e.lt(mean, 10)
    low: Any = 0
    if not _always(lambda m: m >= 10, mean):
        u = source.inner(0).uniform(sizes(mean), "float64")
        low = _by_inversion(u, e.exp(-mean), lambda k, p: p * mean / (k + 1), mean, e.and_(valid, small))
    if not _always(lambda m: m < 10, mean):
        large = e.and_(valid, e.logical_not(small))
        high = _poisson_of_large_mean(source.inner(1), e.where(large, mean, 10), e.logical_not(large))
        low = e.where(small, low, high)
    return e.where(valid, low, math.nan)


def _poisson_of_large_mean(source: Source, mean: Any, done: Any) -> Any:
    b = 0.931 + 2.53 * e.sqrt(mean)
    a = -0.059 + 0.02483 * b
    inverse_alpha, quick = 1.1239 + 1.1328 / (b - 3.4), 0.9277 - 3.6224 / (b - 2)

    def attempt(own: Source) -> tuple[Any, Any]:
        u, v = own.uniform(sizes(mean), "float64") - 0.5, own.positive(sizes(mean), "float64", word=1)
        us = 0.5 - e.abs(u)
        k = e.floor((2 * a / us + b) * u + mean + 0.43)
        n = e.maximum(k, 0) + 1
        log_p = (n - 1) * e.log(mean / n) - 0.5 * e.log(n) + (n - mean) - 0.5 * math.log(2 * math.pi) - _stirling(n - 1)
        accepted = e.le(e.log(v * inverse_alpha / (a / (us * us) + b)), log_p)
        at_once = e.and_(e.ge(us, 0.07), e.le(v, quick))
        return k, e.and_(e.ge(k, 0), e.or_(at_once, accepted))

    return _accepted(source, done, "float64", attempt)


def binomial(source: Source, n: Any, p: Any) -> Any:
    """Binomial numbers as float64, like n (whole numbers) and p, of equal sizes; NaN where these are none.

    Where fewer than 10 successes (or failures) are expected by inversion; else by Hörmann's BTRS.
    """
    n, p = disconnected_grad(n), disconnected_grad(p)
    valid = e.and_(e.and_(e.ge(n, 0), e.lt(n, math.inf)), e.and_(e.ge(p, 0), e.le(p, 1)))
    q = e.minimum(p, 1 - p)
    small = e.lt(n * q, 10)
    odds = q / (1 - q)
    count: Any = 0
    if not _always(lambda n, p: n * np.minimum(p, 1 - p) >= 10, n, p):
        u, first = source.inner(0).uniform(sizes(n), "float64"), e.exp(n * e.log1p(-q))
        wanted = e.and_(valid, small)
        count = _by_inversion(u, first, lambda k, c: c * odds * (n - k) / (k + 1), n * q, wanted)
    if not _always(lambda n, p: n * np.minimum(p, 1 - p) < 10, n, p):
        large = e.and_(valid, e.logical_not(small))
        trials, chance = e.where(large, n, 40), e.where(large, q, 0.5)
        high = _binomial_of_large_mean(source.inner(1), trials, chance, e.logical_not(large))
        count = e.where(small, count, high)
    return e.where(valid, e.where(e.gt(p, 0.5), n - count, count), math.nan)


def _binomial_of_large_mean(source: Source, n: Any, p: Any, done: Any) -> Any:
    spread = e.sqrt(n * p * (1 - p))
    b = 1.15 + 2.53 * spread
    a = -0.0873 + 0.0248 * b + 0.01 * p
    quick, alpha = 0.92 - 4.2 / b, (2.83 + 5.1 / b) * spread
    odds, mode = p / (1 - p), e.floor((n + 1) * p)

    def attempt(own: Source) -> tuple[Any, Any]:
        u, v = own.uniform(sizes(n), "float64") - 0.5, own.positive(sizes(n), "float64", word=1)
        us = 0.5 - e.abs(u)
        k = e.floor((2 * a / us + b) * u + n * p + 0.5)
        inside = e.and_(e.ge(k, 0), e.le(k, n))
        i = e.where(inside, k, mode)
        log_ratio = (
            (mode + 0.5) * e.log((mode + 1) / (odds * (n - mode + 1)))
            + (n + 1) * e.log((n - mode + 1) / (n - i + 1))
            + (i + 0.5) * e.log(odds * (n - i + 1) / (i + 1))
            + (_stirling(mode) + _stirling(n - mode) - _stirling(i) - _stirling(n - i))
        )
        accepted = e.le(e.log(v * alpha / (a / (us * us) + b)), log_ratio)
        at_once = e.and_(e.ge(us, 0.07), e.le(v, quick))
        return k, e.and_(inside, e.or_(at_once, accepted))

    return _accepted(source, done, "float64", attempt)


def category(source: Source, probabilities: Any, shape: Sizes) -> Any:
    """The number of a category each, of probabilities along the last dimension; the last one takes the rest."""
    reached = cumsum(disconnected_grad(probabilities), axis=-1)[..., :-1]
    u = source.uniform(shape, "float64")
    u = dimshuffle(u, [*range(u.type.ndim), "x"])
    return sum_of(e.cast(e.ge(u, reached), "int64"), axis=-1)


def multinomial(source: Source, n: Any, probabilities: Any) -> Any:
    """How many of n fall into each category, as float64; n has the sizes of `probabilities` without the last.

    One binomial number per category, of those that are left, in a loop over the categories.
    """
    ndim = probabilities.type.ndim
    p = dimshuffle(disconnected_grad(probabilities), [ndim - 1, *range(ndim - 1)])
    t = new_input(TensorType("int64", ()), "category")
    row = new_input(p.type.with_shape(p.type.shape[1:]), "p")
    left, rest = new_input(n.type, "left"), new_input(row.type, "rest")
    share = e.where(e.gt(rest, 0), e.minimum(row / rest, 1), 0)
    share = e.where(e.eq(t, as_size_node(sizes(p)[0]) - 1), 1 + 0 * share, share)
    drawn = binomial(source.inner(t), left + 0 * row, share)
    body = Body(t, (row,), (left, rest), (), (left - drawn, rest - row), (drawn,), None)
    ones = broadcast_to(constant(1.0, "float64"), sizes(p)[1:])
    given = LoopInputs(as_size_node(sizes(p)[0]), (p,), (n, ones), ())
    counts = build_loop(body, given, name="categories").outputs[0]
    return dimshuffle(counts, [*range(1, ndim), 0])
