"""Streams of random numbers: `RandomStreams`, with the methods of Theano's.

A draw is a pure function of integers: the seed, the number of its call site among those of the stream, how many calls
of functions have drawn there before, the steps of all loops around it, and the place of the element. Only the number
of calls is remembered, in a shared variable per call site that every function which draws there counts up by itself.
What goes where is told in the documentation, under "Random numbers".
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from ostinato import distributions as d
from ostinato.config import config
from ostinato.distributions import Source
from ostinato.errors import OstinatoTypeError, OstinatoValueError, ShapeError
from ostinato.graph import Node
from ostinato.ops import elementwise as e
from ostinato.ops.control import disconnected_grad
from ostinato.ops.creation import arange
from ostinato.ops.leaf import as_int_scalar, as_tensor, constant, constant_value, describe, is_number
from ostinato.ops.movement import dimshuffle
from ostinato.ops.sizes import Size, as_size_node, broadcast_sizes, broadcast_to, product, read_sizes, sizes
from ostinato.ops.sorting import along_axis, argsort
from ostinato.shared import SharedVariable, shared
from ostinato.tracing import enclosing
from ostinato.types import FLOATS, INTEGERS, check_dtype, promote

__all__ = ["RandomStreams"]

# The places of a state.
_SEED, _SITE, _CALLS = range(3)


class RandomStreams:
    """A stream of random numbers, from which symbolic draws are made.

    Parameters
    ----------
    seed : int or sequence of int, optional
        Streams of equal seeds give equal numbers to equal programs. Fresh from the system unless given.

    Notes
    -----
    Each draw is a call site of its own, numbered in the order in which they are made. A compiled function draws
    afresh in every call, and in every step of a loop in whose step the draw is made; one draw that is used twice is
    one number. All methods begin with `size`: an int or a tuple of ints and integer scalars, or a symbolic vector
    of integers; without it, a result has the shape to which the parameters broadcast.
    """

    def __init__(self, seed: Any = None) -> None:
        self._seed = _read_seed(seed)
        self._states: list[SharedVariable] = []

    # ---- states ----

    @property
    def state_updates(self) -> list[tuple[SharedVariable, Any]]:
        """Pairs of the state of each draw and its next value. Functions make these updates by themselves."""
        return [(s, s.default_update) for s in self._states]

    def updates(self) -> list[tuple[SharedVariable, Any]]:
        """The same as `state_updates`, as Theano spells it too."""
        return self.state_updates

    def seed(self, seed: Any = None) -> None:
        """Start anew with another seed (fresh from the system unless given): all draws made so far, and to be made."""
        self._seed = _read_seed(seed)
        for site, state in enumerate(self._states):
            state.set_value(np.array([self._seed, site, 0]))

    def get_state(self) -> np.ndarray[Any, Any]:
        """What is to be kept to go on later: a row of int64 (seed, call site, calls so far) per draw, in order."""
        return np.array([s.get_value() for s in self._states], "int64").reshape(-1, 3)

    def set_state(self, state: Any) -> None:
        """Go on from what `get_state` returned, in this program or another one that makes the same draws.

        Raises
        ------
        OstinatoTypeError
            If it is no array of int64 of three columns.
        OstinatoValueError
            If it is of another number of draws.
        """
        rows = np.asarray(state)
        if rows.dtype != np.int64 or rows.ndim != 2 or rows.shape[1] != 3:
            raise OstinatoTypeError(
                f"the state of a stream is an int64 array of shape (draws, 3), as get_state returns it, "
                f"not {rows.dtype} of shape {rows.shape}"
            )
        if len(rows) != len(self._states):
            raise OstinatoValueError(
                f"the state is that of {len(rows)} draw(s), but {len(self._states)} were made of this stream; "
                "make the same draws before its state is set"
            )
        for variable, row in zip(self._states, rows, strict=True):
            variable.set_value(row)

    def _source(self) -> tuple[Source, SharedVariable]:
        """A new call site: where its numbers come from, and its state."""
        site = len(self._states)
        state = shared(np.array([self._seed, site, 0]), f"random state {site}")
        state.default_update = state + constant(np.array([0, 0, 1]))
        self._states.append(state)
        source = Source(state[_SEED], state[_SITE]).inner(state[_CALLS])
        for step in enclosing():
            source = source.inner(step.t)
            step.states[state] = None
        return source, state

    def _drawn(self, make: Any) -> Any:
        """A draw that `make` makes of a source; it knows its state."""
        source, state = self._source()
        node = make(source)
        node.tag.rng = state
        return node

    # ---- floats ----

    def uniform(
        self, size: Any = None, low: Any = 0.0, high: Any = 1.0, ndim: int | None = None, dtype: Any = None
    ) -> Any:
        """Uniform numbers in [low, high), with derivatives by both.

        Parameters
        ----------
        ndim : int, optional
            The number of dimensions, to be checked; or the length of a `size` that is a vector of unknown length.
        dtype : str, optional
            A float dtype; that of the parameters unless given, `config.floatX` for bare numbers.
        """
        (low, high), own, wide = _floats("uniform", dtype, low=low, high=high)
        _known("uniform", "high must not be below low", _where(high, low, lambda a, b: a >= b))
        shape = _shape("uniform", size, ndim, low, high)
        low, high = _fitted("uniform", shape, low, high)

        def make(source: Source) -> Any:
            u = _unit(source, shape, own)
            return u if _is(low, 0) and _is(high, 1) else e.cast(low + (high - low) * e.cast(u, wide), own)

        return self._drawn(make)

    def normal(
        self, size: Any = None, avg: Any = 0.0, std: Any = 1.0, ndim: int | None = None, dtype: Any = None
    ) -> Any:
        """Normal numbers of mean `avg` and standard deviation `std`, with derivatives by both.

        `ndim`, `dtype` : see `uniform`. NaN where `std` is negative when it runs.
        """
        (avg, std), own, wide = _floats("normal", dtype, avg=avg, std=std)
        std = _at_least_zero("normal", "std", std)
        shape = _shape("normal", size, ndim, avg, std)
        avg, std = _fitted("normal", shape, avg, std)
        return self._drawn(lambda source: _scaled(d.normal(source, shape, wide), avg, std, own))

    def truncated_normal(
        self,
        size: Any = None,
        avg: Any = 0.0,
        std: Any = 1.0,
        low: Any = None,
        high: Any = None,
        ndim: int | None = None,
        dtype: Any = None,
    ) -> Any:
        """Normal numbers of which only those within [low, high] are taken, with derivatives by all four parameters.

        Parameters
        ----------
        low, high : optional
            Two standard deviations from the mean unless given, as in Theano. They may be infinite.
        ndim, dtype : see `uniform`.

        Notes
        -----
        By the inverse of the distribution function, in float64: exact far out in the tails too. NaN where `std` is
        not positive, or `high` below `low`.
        """
        given = {"avg": avg, "std": std} | {n: v for n, v in (("low", low), ("high", high)) if v is not None}
        nodes, own, _ = _floats("truncated_normal", dtype, **given)
        avg, std, *bounds = [e.cast(n, "float64") for n in nodes]
        _known("truncated_normal", "std must be positive", _where(std, 0, lambda a, b: a > b))
        low = bounds.pop(0) if low is not None else None
        high = bounds.pop(0) if high is not None else None
        shape = _shape("truncated_normal", size, ndim, *[n for n in (avg, std, low, high) if n is not None])
        avg, std = _fitted("truncated_normal", shape, avg, std)
        a = constant(-2.0) if low is None else _standardised(_fitted("truncated_normal", shape, low)[0], avg, std)
        b = constant(2.0) if high is None else _standardised(_fitted("truncated_normal", shape, high)[0], avg, std)
        valid = e.and_(e.gt(std, 0), e.le(a, b))

        def make(source: Source) -> Any:
            x = d.truncated_normal(source.positive(shape, "float64"), e.where(valid, a, 0), e.where(valid, b, 0))
            return e.cast(e.where(valid, avg + std * x, math.nan), own)

        return self._drawn(make)

    def exponential(self, size: Any = None, scale: Any = 1.0, ndim: int | None = None, dtype: Any = None) -> Any:
        """Exponential numbers of mean `scale`, with a derivative by it.

        `ndim`, `dtype` : see `uniform`. NaN where `scale` is negative when it runs.
        """
        (scale,), own, wide = _floats("exponential", dtype, scale=scale)
        scale = _at_least_zero("exponential", "scale", scale)
        shape = _shape("exponential", size, ndim, scale)
        (scale,) = _fitted("exponential", shape, scale)
        return self._drawn(lambda source: _scaled(d.exponential(source, shape, wide), None, scale, own))

    def gamma(
        self, size: Any = None, shape: Any = 1.0, scale: Any = 1.0, ndim: int | None = None, dtype: Any = None
    ) -> Any:
        """Gamma numbers, with derivatives by both parameters.

        Parameters
        ----------
        shape : of the distribution, positive. Its derivative is that of the number whose place in the distribution
            is held.
        scale : not negative.
        ndim, dtype : see `uniform`.

        Notes
        -----
        NaN where a parameter is out of range when it runs.
        """
        (alpha, scale), own, wide = _floats("gamma", dtype, shape=shape, scale=scale)
        _known("gamma", "shape must be positive", _where(alpha, 0, lambda a, b: a > b))
        scale = _at_least_zero("gamma", "scale", scale)
        wanted = _shape("gamma", size, ndim, alpha, scale)
        alpha, scale = broadcast_to(alpha, wanted), _fitted("gamma", wanted, scale)[0]
        return self._drawn(lambda source: _scaled(e.exp(d.log_gamma(source, e.cast(alpha, wide))), None, scale, own))

    def beta(self, size: Any = None, a: Any = 1.0, b: Any = 1.0, ndim: int | None = None, dtype: Any = None) -> Any:
        """Beta numbers, with derivatives by both parameters, which are positive; NaN where they are not.

        `ndim`, `dtype` : see `uniform`.
        """
        (a, b), own, wide = _floats("beta", dtype, a=a, b=b)
        for name, node in (("a", a), ("b", b)):
            _known("beta", f"{name} must be positive", _where(node, 0, lambda x, y: x > y))
        shape = _shape("beta", size, ndim, a, b)
        a, b = (e.cast(broadcast_to(x, shape), wide) for x in (a, b))

        def make(source: Source) -> Any:
            # The share of one gamma number in the sum of two, from their logarithms.
            return e.cast(e.sigmoid(d.log_gamma(source.inner(0), a) - d.log_gamma(source.inner(1), b)), own)

        return self._drawn(make)

    # ---- integers ----

    def randint(
        self, size: Any = None, low: Any = 0, high: Any = None, ndim: int | None = None, dtype: Any = "int64"
    ) -> Any:
        """Integers from `low` up to, without, `high`, all as probable; of one bound from 0 up to it.

        `ndim`, `dtype` : see `binomial`. `low` where there is no such integer when it runs.
        """
        low, high = (0, low) if high is None else (low, high)
        low, high = (_integer("randint", n, v) for n, v in (("low", low), ("high", high)))
        _known("randint", "high must be above low", _where(high, low, lambda a, b: a > b))
        shape = _shape("randint", size, ndim, low, high)
        low, high = _fitted("randint", shape, low, high)
        span = high - low if _is_known(low) and _is_known(high) else e.maximum(high - low, 0)
        dtype = _dtype("randint", dtype, (*INTEGERS, *FLOATS))
        return self._drawn(lambda source: e.cast(low + source.below(shape, span), dtype))

    def random_integers(
        self, size: Any = None, low: Any = 0, high: Any = 1, ndim: int | None = None, dtype: Any = "int64"
    ) -> Any:
        """Integers from `low` to `high`, both included: Theano's `randint`. See there."""
        low, high = (_integer("random_integers", n, v) for n, v in (("low", low), ("high", high)))
        return self.randint(size, low, high + 1, ndim, dtype)

    def bernoulli(self, size: Any = None, p: Any = 0.5, ndim: int | None = None, dtype: Any = "int64") -> Any:
        """1 with probability `p`, else 0: `binomial` of one trial."""
        return self.binomial(size, 1, p, ndim, dtype)

    def binomial(
        self,
        size: Any = None,
        n: Any = 1,
        p: Any = 0.5,
        ndim: int | None = None,
        dtype: Any = "int64",
        prob: Any = None,
    ) -> Any:
        """How many of n trials succeed, each with probability p.

        Parameters
        ----------
        n : integers, not negative.
        p : within [0, 1]. `prob` is its other name in Theano.
        ndim : see `uniform`.
        dtype : str
            Integers or floats.

        Notes
        -----
        No derivative passes. With n given as 1, a probability beyond 0 or 1 is taken for that bound when it runs.
        For other n the result is -1 (or NaN) where n or p is out of range.
        """
        n, (p,), dtype = (
            _integer("binomial", "n", n),
            _floats("binomial", None, p=p if prob is None else prob)[0],
            _dtype("binomial", dtype, (*INTEGERS, *FLOATS, "bool")),
        )
        _known("binomial", "n must not be negative", _where(n, 0, lambda a, b: a >= b))
        _known("binomial", "p must be within [0, 1]", _where(p, p, lambda a, _: (a >= 0) & (a <= 1)))
        shape = _shape("binomial", size, ndim, n, p)
        if _is(n, 1):
            (p,) = _fitted("binomial", shape, p)
            exact = p.type.dtype if p.type.dtype != "float16" else "float32"
            chance = e.cast(disconnected_grad(p), exact)
            return self._drawn(lambda source: e.cast(e.lt(source.uniform(shape, exact), chance), dtype))
        n, p = (e.cast(broadcast_to(x, shape), "float64") for x in (n, p))
        return self._drawn(lambda source: _whole(d.binomial(source, n, p), dtype))

    def poisson(self, size: Any = None, lam: Any = 1.0, ndim: int | None = None, dtype: Any = "int64") -> Any:
        """Poisson numbers of mean `lam`.

        `ndim`, `dtype` : see `binomial`. No derivative passes. -1 (or NaN) where `lam` is negative when it runs.
        """
        (lam,), _, _ = _floats("poisson", None, lam=lam)
        dtype = _dtype("poisson", dtype, (*INTEGERS, *FLOATS))
        _known("poisson", "lam must not be negative", _where(lam, 0, lambda a, b: a >= b))
        shape = _shape("poisson", size, ndim, lam)
        mean = e.cast(broadcast_to(lam, shape), "float64")
        return self._drawn(lambda source: _whole(d.poisson(source, mean), dtype))

    def multinomial(
        self,
        size: Any = None,
        n: Any = 1,
        pvals: Any = (0.5, 0.5),
        ndim: int | None = None,
        dtype: Any = "int64",
    ) -> Any:
        """How many of n fall into each category.

        Parameters
        ----------
        size : the shape without the dimension of the categories; that of `pvals` and `n` unless given.
        n : integers.
        pvals : probabilities along the last dimension; as in NumPy, the last category takes what the others leave.
        ndim : of the size.
        dtype : see `binomial`.

        Notes
        -----
        No derivative passes. With n given as 1 exactly one category has a 1.
        """
        n, (p,) = _integer("multinomial", "n", n), _floats("multinomial", None, pvals=pvals)[0]
        dtype = _dtype("multinomial", dtype, (*INTEGERS, *FLOATS))
        _check_pvals("multinomial", p)
        one = dimshuffle(n, [*range(n.type.ndim), "x"])
        shape = _shape("multinomial", size, ndim, e.cast(one, p.type.dtype) + p, skip=1)
        k = sizes(p)[-1]
        p = e.cast(broadcast_to(p, [*shape, k]), "float64")
        if _is(n, 1):

            def pick(source: Source) -> Any:
                chosen = d.category(source, p, shape)
                return e.cast(e.eq(arange(as_size_node(k)), dimshuffle(chosen, [*range(len(shape)), "x"])), dtype)

            return self._drawn(pick)
        trials = e.cast(broadcast_to(n, shape), "float64")
        return self._drawn(lambda source: _whole(d.multinomial(source, trials, p), dtype))

    # ---- choosing ----

    def choice(
        self,
        size: Any = None,
        a: Any = 2,
        replace: bool = True,
        p: Any = None,
        ndim: int | None = None,
        dtype: Any = "int64",
    ) -> Any:
        """Elements of a vector, or of 0, …, a - 1, chosen at random.

        Parameters
        ----------
        size : one element unless given.
        a : vector, or number of integers.
        replace : bool
            Whether an element may be chosen more than once.
        p : vector of probabilities, optional
            Equal ones unless given. Without replacement, each choice is made with those of what is left.
        ndim : see `uniform`.
        dtype : that of the result, unless `a` is a vector.

        Raises
        ------
        OstinatoValueError
            If more are to be chosen without replacement than there are; when it runs, where that is known only then.
        """
        a = as_tensor(a)
        if a.type.ndim > 1:
            raise OstinatoTypeError(f"choice: a is a vector or a number, not {describe(a)}")
        shape = _shape("choice", size, ndim)
        count = sizes(a)[0] if a.type.ndim else _size_of(as_int_scalar(a, "a of choice"))
        weights = None
        if p is not None:
            (weights,) = _floats("choice", None, p=p)[0]
            if weights.type.ndim != 1:
                raise OstinatoTypeError(f"choice: p is a vector of probabilities, not {describe(weights)}")
            _check_pvals("choice", weights)
            weights = e.cast(weights, "float64")
        dtype, how = _dtype("choice", dtype, (*INTEGERS, *FLOATS)), _chosen if replace else _chosen_once

        def make(source: Source) -> Any:
            found = how(source, count, weights, shape)
            return a[found] if a.type.ndim else e.cast(found, dtype)

        return self._drawn(make)

    def permutation(self, size: Any = None, n: Any = 1, ndim: int | None = None, dtype: Any = "int64") -> Any:
        """0, …, n - 1 in random order, along a last dimension.

        Parameters
        ----------
        size : how many of them, as a shape; one unless given.
        n : integer scalar.
        ndim : of the size. dtype : see `binomial`.
        """
        count = _size_of(as_int_scalar(n, "n of permutation"))
        shape = _shape("permutation", size, ndim)
        dtype = _dtype("permutation", dtype, (*INTEGERS, *FLOATS))
        return self._drawn(lambda source: e.cast(argsort(source.bits([*shape, count]), axis=-1), dtype))

    def shuffle_row_elements(self, input: Any) -> Any:
        """Each row of an array (its last dimension) in a random order of its own; derivatives go along."""
        x = as_tensor(input)
        if x.type.ndim == 0:
            raise OstinatoTypeError(f"shuffle_row_elements expects rows, got {describe(x)}")
        last = x.type.ndim - 1
        return self._drawn(lambda source: along_axis(x, argsort(source.bits(sizes(x)), axis=-1), last))

    def __repr__(self) -> str:
        return f"<RandomStreams with seed {self._seed} and {len(self._states)} draw(s)>"


# ---- reading what users give ----------------------------------------------------------------------


def _read_seed(seed: Any) -> int:
    """A seed as an int64: an int of 64 bits itself, whatever else by a hash."""
    if seed is None:
        return int(np.uint64(secrets.randbits(64)).astype(np.int64))
    numbers = seed if isinstance(seed, (list, tuple, np.ndarray)) else [seed]
    if not len(numbers) or not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in numbers):
        raise OstinatoTypeError(f"a seed is an int or a sequence of ints, not {seed!r:.60}")
    if numbers is not seed and -(2**63) <= int(seed) < 2**63:
        return int(seed)
    text = ",".join(str(int(n)) for n in numbers)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _dtype(name: str, dtype: Any, allowed: Sequence[str]) -> str:
    found = check_dtype(dtype)
    if found not in allowed:
        raise OstinatoTypeError(f"{name}: the dtype is one of {', '.join(allowed)}, not {found}")
    return found


def _floats(name: str, dtype: Any, **parameters: Any) -> tuple[list[Any], str, str]:
    """Parameters as nodes of one float dtype, the dtype of the result, and the one to compute in."""
    nodes = {n: _parameter(name, n, v) for n, v in parameters.items()}
    strong = [n.type.dtype for n, v in zip(nodes.values(), parameters.values(), strict=True) if not is_number(v)]
    floats = [s if s in FLOATS else config.floatX for s in strong]
    own = _dtype(name, dtype, FLOATS) if dtype is not None else promote(*floats) if floats else config.floatX
    wide = promote(own, "float32")
    return [e.cast(n, wide) for n in nodes.values()], own, wide


def _parameter(name: str, parameter: str, value: Any) -> Any:
    try:
        return as_tensor(value)
    except OstinatoTypeError as error:
        raise OstinatoTypeError(f"{name}: {parameter}: {error}") from None


def _integer(name: str, parameter: str, value: Any) -> Any:
    node = _parameter(name, parameter, value)
    if node.type.dtype not in INTEGERS:
        raise OstinatoTypeError(f"{name}: {parameter} must be integers, got {describe(node)}")
    return e.cast(node, "int64")


def _where(a: Any, b: Any, test: Any) -> Any:
    """Whether a condition on two values holds everywhere; None where one is not known yet."""
    values = [constant_value(v) if isinstance(v, Node) else np.asarray(v) for v in (a, b)]
    return None if any(v is None for v in values) else bool(np.all(test(*values)))


def _known(name: str, rule: str, holds: bool | None) -> None:
    if holds is False:
        raise OstinatoValueError(f"{name}: {rule}")


def _at_least_zero(name: str, parameter: str, node: Any) -> Any:
    """A parameter that is NaN where it is negative; an error if that is known now."""
    holds = _where(node, 0, lambda a, b: ~(a < b))
    _known(name, f"{parameter} must not be negative", holds)
    return node if holds else e.where(e.lt(node, 0), math.nan, node)


def _check_pvals(name: str, p: Any) -> None:
    if p.type.ndim == 0:
        raise OstinatoTypeError(f"{name}: probabilities along a last dimension expected, got {describe(p)}")
    value = constant_value(p)
    if value is not None:
        _known(name, "probabilities must not be negative", bool(np.all(value >= 0)))
        _known(name, "probabilities must add up to 1", bool(np.all(np.abs(value.sum(-1) - 1) < 1e-3)))


def _shape(name: str, size: Any, ndim: int | None, *parameters: Any, skip: int = 0) -> list[Size]:
    """The sizes of a result: what is given, else those to which the parameters broadcast (without the last `skip`)."""
    if size is None:
        found = list(broadcast_sizes(parameters))
        found = found[: len(found) - skip]
    elif ndim is not None and isinstance(size, Node) and size.type.ndim == 1 and size.type.shape[0] is None:
        vector: Any = size
        found = read_sizes([vector[i] for i in range(ndim)], f"the size of {name}")
    else:
        found = read_sizes(size, f"the size of {name}")
    if ndim is not None and ndim != len(found):
        raise OstinatoValueError(f"{name}: ndim is {ndim}, but the size has {len(found)} dimension(s)")
    negative = [s for s in found if not isinstance(s, Node) and s < 0]
    if negative:
        raise OstinatoValueError(f"{name}: a size cannot be negative, got {negative[0]}")
    return found


def _size_of(node: Any) -> Size:
    value = constant_value(node)
    return node if value is None else int(value)


def _fitted(name: str, shape: list[Size], *parameters: Any) -> list[Any]:
    """Parameters that broadcast to the sizes of the result, and to nothing larger; scalars stay as they are."""
    fitted = []
    for p in parameters:
        try:
            fitted.append(broadcast_to(p, shape) if p.type.ndim else p)
        except ShapeError as error:
            raise ShapeError(f"{name}: a parameter does not fit the size: {error}") from None
    return fitted


def _is_known(node: Any) -> bool:
    return constant_value(node) is not None


def _is(node: Any, value: float) -> bool:
    known = constant_value(node)
    return known is not None and known.ndim == 0 and bool(known == value)


# ---- making what users get ------------------------------------------------------------------------


def _unit(source: Source, shape: list[Size], dtype: str) -> Any:
    if dtype != "float16":
        return source.uniform(shape, dtype)
    return e.cast(e.floor(source.uniform(shape, "float32") * 2.0**11) * 2.0**-11, dtype)


def _scaled(x: Any, avg: Any, std: Any, dtype: str) -> Any:
    scaled = x if _is(std, 1) else std * x
    return e.cast(scaled if avg is None or _is(avg, 0) else avg + scaled, dtype)


def _standardised(bound: Any, avg: Any, std: Any) -> Any:
    """(bound - avg) / std, without NaN as a derivative where the bound is infinite."""
    endless = e.isinf(bound)
    return e.where(endless, bound, (e.where(endless, 0, bound) - avg) / std)


def _whole(x: Any, dtype: str) -> Any:
    """Whole numbers as a dtype; what is no number is -1 as an integer."""
    return e.cast(x if dtype in FLOATS else e.where(e.isnan(x), -1, x), dtype)


def _chosen(source: Source, count: Size, weights: Any, shape: list[Size]) -> Any:
    """Positions below `count`, each anew."""
    return source.below(shape, count) if weights is None else d.category(source, weights, shape)


def _chosen_once(source: Source, count: Size, weights: Any, shape: list[Size]) -> Any:
    """Positions below `count`, none twice: those of the least of random keys.

    Exponential numbers divided by weights come in the order in which one after the other would be chosen
    (P. S. Efraimidis, P. G. Spirakis, Inf. Process. Lett. 97 (2006)).
    """
    wanted = product(shape)
    if isinstance(wanted, int) and isinstance(count, int) and wanted > count:
        raise OstinatoValueError(f"choice: {wanted} of {count} cannot be chosen without replacement")
    keys = source.bits([count]) if weights is None else d.exponential(source, [count], "float64") / weights
    return argsort(keys)[: as_size_node(wanted)].reshape(shape)
