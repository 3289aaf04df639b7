"""Run the Python blocks of the README and the docs as tests, and keep compiled code in a folder of the run's own.

And let no process that died while it wrote what it had covered spoil what all others had.
"""

import gc
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
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
    gc.unfreeze()
    if not _is_worker:
        shutil.rmtree(os.environ["OSTINATO_CACHE_DIR"], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """Do not search for garbage while thousands of tests are collected, nor among them afterwards: they stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True, trylast=True)  # within the wrapper that adds data files up
def pytest_runtestloop(session: pytest.Session) -> Iterator[Any]:
    """Delete damaged data files of the coverage, which would end the adding up, before it begins."""
    result = yield
    if not _is_worker:
        for path in session.config.rootpath.glob(".coverage.*"):
            if not is_whole(path):
                path.unlink(missing_ok=True)
    return result


def is_whole(path: Path) -> bool:
    """Whether a file is a database that was written to its end."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            database.execute("select count(*) from coverage_schema")
            return bool(database.execute("pragma quick_check").fetchone() == ("ok",))
    except sqlite3.Error:
        return False


# Workers share the processors, so how long one example takes says nothing.
settings.register_profile("ostinato", deadline=None)
settings.load_profile("ostinato")

# The blocks of one document share a namespace.
_parsers = [PythonCodeBlockParser(), SkipParser()]
_readme = Sybil(_parsers, patterns=["README.md"])
_docs = Sybil(_parsers, path="docs", patterns=["*.md"])  # at any depth

pytest_collect_file = (_readme + _docs).pytest()
