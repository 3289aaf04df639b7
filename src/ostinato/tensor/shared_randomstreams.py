"""Theano's module of this name: `RandomStreams`."""

from ostinato.random import RandomStreams

__all__ = ["RandomStreams"]
