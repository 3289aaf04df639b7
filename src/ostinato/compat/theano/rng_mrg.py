"""`theano.sandbox.rng_mrg`: its streams, with their own defaults. The generator is the one of `ostinato.random`."""

from __future__ import annotations

from typing import Any

from ostinato.random import RandomStreams

__all__ = ["MRG_RandomStreams"]


class MRG_RandomStreams(RandomStreams):  # noqa: N801  (Theano's name)
    """`RandomStreams` with the signatures of Theano's class of this name; its numbers are not those of MRG31k3p.

    Parameters
    ----------
    seed : int or sequence of int
    use_cuda : accepted for Theano's sake.
    """

    def __init__(self, seed: Any = 12345, use_cuda: Any = None) -> None:
        super().__init__(seed)

    def uniform(
        self,
        size: Any = None,
        low: Any = 0.0,
        high: Any = 1.0,
        ndim: int | None = None,
        dtype: Any = None,
        nstreams: Any = None,
        **kwargs: Any,
    ) -> Any:
        """See `RandomStreams.uniform`; `nstreams` is accepted for Theano's sake."""
        return super().uniform(size, low, high, ndim, dtype)

    def normal(
        self,
        size: Any = None,
        avg: Any = 0.0,
        std: Any = 1.0,
        ndim: int | None = None,
        dtype: Any = None,
        nstreams: Any = None,
        truncate: bool = False,
        **kwargs: Any,
    ) -> Any:
        """See `RandomStreams.normal`; with `truncate` see `RandomStreams.truncated_normal`."""
        if truncate:
            return super().truncated_normal(size, avg, std, ndim=ndim, dtype=dtype)
        return super().normal(size, avg, std, ndim, dtype)

    def truncated_normal(  # type: ignore[override]
        self,
        size: Any = None,
        avg: Any = 0.0,
        std: Any = 1.0,
        ndim: int | None = None,
        dtype: Any = None,
        nstreams: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Normal numbers within two standard deviations; see `RandomStreams.truncated_normal`."""
        return super().truncated_normal(size, avg, std, ndim=ndim, dtype=dtype)

    def binomial(  # type: ignore[override]
        self,
        size: Any = None,
        n: Any = 1,
        p: Any = 0.5,
        ndim: int | None = None,
        dtype: Any = "int64",
        nstreams: Any = None,
        prob: Any = None,
        **kwargs: Any,
    ) -> Any:
        """See `RandomStreams.binomial`."""
        return super().binomial(size, n, p if prob is None else prob, ndim, dtype)

    def multinomial(
        self,
        size: Any = None,
        n: Any = 1,
        pvals: Any = (0.5, 0.5),
        ndim: int | None = None,
        dtype: Any = "int64",
        nstreams: Any = None,
        **kwargs: Any,
    ) -> Any:
        """See `RandomStreams.multinomial`. `ndim` is that of the result, which has no `size` here."""
        return super().multinomial(size, n, pvals, None, dtype)

    def choice(
        self,
        size: Any = None,
        a: Any = 2,
        replace: bool = True,
        p: Any = None,
        ndim: int | None = None,
        dtype: Any = "int64",
        nstreams: Any = None,
        **kwargs: Any,
    ) -> Any:
        """See `RandomStreams.choice`."""
        return super().choice(size, a, replace, p, None, dtype)
