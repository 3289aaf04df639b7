"""Run the Python blocks of the README and the docs as tests."""

import os

from hypothesis import settings
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

# Plots in documents are drawn, never shown.
os.environ.setdefault("MPLBACKEND", "Agg")

# Workers share the processors, so how long one example takes says nothing.
settings.register_profile("ostinato", deadline=None)
settings.load_profile("ostinato")

# The blocks of one document share a namespace.
_parsers = [PythonCodeBlockParser(), SkipParser()]
_readme = Sybil(_parsers, patterns=["README.md"])
_docs = Sybil(_parsers, path="docs", patterns=["*.md"])  # at any depth

pytest_collect_file = (_readme + _docs).pytest()
