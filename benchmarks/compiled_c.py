"""The sources in `c/`: compiled once by gcc for this machine, and called by ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SOURCES = Path(__file__).parent / "c"
BUILD = Path(__file__).parent.parent / "build" / "benchmarks"
# -ffast-math is for this limit alone; nothing that is compared with it gets it. Nor may the library, when loaded, have
# the processor take the smallest numbers for zero from then on: what does that comes with the start files.
OPTIONS = ("-O3", "-march=native", "-ffast-math", "-mprefer-vector-width=512", "-shared", "-fPIC", "-nostartfiles")


@functools.cache
def version() -> str | None:
    """That of gcc, or None where it is missing or another compiler has its name; the sources use what only gcc has."""
    if sys.platform != "linux" or not shutil.which("gcc"):
        return None
    told = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+\.\d+(\.\d+)?", told)
    return found[0] if found and "Free Software Foundation" in told else None


@functools.cache
def library() -> ctypes.CDLL:
    """All functions, with the BLAS that SciPy brings."""
    sources = sorted(SOURCES.glob("*.[ch]"))
    key = hashlib.sha256(b"".join(s.read_bytes() for s in sources) + " ".join(OPTIONS).encode()).hexdigest()[:16]
    path = BUILD / f"{key}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        inputs = [str(s) for s in sources if s.suffix == ".c"]
        subprocess.run(["gcc", *OPTIONS, *inputs, "-o", str(part), "-lm"], check=True)
        part.replace(path)
    loaded = ctypes.CDLL(str(path))
    loaded.set_blas(*(ctypes.c_void_p(blas(name)) for name in ("dgemm", "sgemm")))
    return loaded


def blas(name: str) -> int:
    """The address of a function of SciPy's BLAS."""
    from scipy.linalg import cython_blas

    capsule = cython_blas.__pyx_capi__[name]
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return pointer_of(capsule, name_of(capsule))


def function(name: str) -> Any:
    """A function by its name: of arrays, their shapes, and arrays for results."""
    found = getattr(library(), name)
    found.restype = None
    return found


def call(function: Any, arguments: Sequence[np.ndarray[Any, Any]], results: list[Any]) -> Callable[[], list[Any]]:
    """A call that fills the results; all pointers are ready before."""
    pointers = ctypes.c_void_p * max(len(arguments), len(results))
    shapes = [(ctypes.c_long * max(1, v.ndim))(*v.shape) for v in arguments]
    a = pointers(*(v.ctypes.data for v in arguments))
    s = pointers(*(ctypes.addressof(shape) for shape in shapes))
    r = pointers(*(v.ctypes.data for v in results))
    kept = (arguments, shapes)

    def run(kept: Any = kept) -> list[Any]:
        function(a, s, r)
        return results

    return run
