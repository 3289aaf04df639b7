"""Run the Python blocks of the README and the docs as tests, and keep compiled code in a folder of the run's own."""

import os
import shutil
import tempfile

from hypothesis import settings
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

# Plots in documents are drawn, never shown.
os.environ.setdefault("MPLBACKEND", "Agg")

# Without a GPU to test, kernels are interpreted; Triton asks when it is imported.
if os.environ.get("OSTINATO_TEST_GPU") != "1":
    os.environ["TRITON_INTERPRET"] = "1"

# Set before Ostinato is imported; workers, and the processes that tests start, inherit it.
_is_worker = "PYTEST_XDIST_WORKER" in os.environ
if not _is_worker:
    os.environ["OSTINATO_CACHE_DIR"] = tempfile.mkdtemp(prefix="ostinato-test-cache-")


def pytest_unconfigure() -> None:
    """Delete that folder, which the workers share, once all are done."""
    if not _is_worker:
        shutil.rmtree(os.environ["OSTINATO_CACHE_DIR"], ignore_errors=True)


# Workers share the processors, so how long one example takes says nothing.
settings.register_profile("ostinato", deadline=None)
settings.load_profile("ostinato")

# The blocks of one document share a namespace.
_parsers = [PythonCodeBlockParser(), SkipParser()]
_readme = Sybil(_parsers, patterns=["README.md"])
_docs = Sybil(_parsers, path="docs", patterns=["*.md"])  # at any depth

pytest_collect_file = (_readme + _docs).pytest()
