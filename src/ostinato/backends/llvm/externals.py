"""Functions of libraries that compiled code calls: where they are in this process.

SciPy's Cython modules publish C pointers to BLAS, LAPACK and special functions; names here are `blas.dgemm`,
`lapack.dpotrf`, `special.gammaln`. Those that begin with `kernels` are our own, see `kernels.py`. Code refers to
them by name, and gets addresses when it is linked, so neither its text nor its object code depends on the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from typing import Any

from ostinato.backends.llvm import kernels

# The module behind each prefix; imported when something of it is needed.
_MODULES = {
    "blas": "scipy.linalg.cython_blas",
    "lapack": "scipy.linalg.cython_lapack",
    "special": "scipy.special.cython_special",
}
# Functions of several dtypes have a pointer for each, under Cython's name for it.
_DOUBLE = {"psi": "__pyx_fuse_1psi"}


@cache
def address_of(symbol: str) -> int:
    """The address of a library's function.

    Raises
    ------
    KeyError
        If there is no function of that name.
    """
    prefix, _, name = symbol.partition(".")
    if prefix == "kernels":
        return kernels.address_of(name)
    table = _module(_MODULES[prefix]).__pyx_capi__
    return _pointer(table[_DOUBLE.get(name, name)])


def _module(name: str) -> Any:
    """A module of SciPy. Those that need no other are loaded without the package that they are in, which takes long."""
    package, _, short = name.rpartition(".")
    if name in sys.modules or package in sys.modules or short == "cython_special":
        return import_module(name)
    root = find_spec("scipy")  # SciPy itself must be imported: it may have to prepare its libraries
    import_module("scipy")
    assert root is not None
    assert root.submodule_search_locations is not None
    folder = os.path.join(root.submodule_search_locations[0], package.rpartition(".")[2])
    loader = (ExtensionFileLoader, EXTENSION_SUFFIXES)
    found = FileFinder(folder, loader).find_spec(short)
    if found is None or found.origin is None:
        return import_module(name)
    spec = spec_from_file_location(name, found.origin)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module  # for whoever imports it later, since it can be loaded once
    return module


def _pointer(capsule: Any) -> int:
    api = ctypes.pythonapi
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", api))
    address = pointer_of(capsule, name_of(capsule))
    assert address is not None
    return address


# ---- threads --------------------------------------------------------------------------------------

# What OpenBLAS calls its functions: as it is built for SciPy's wheels, and elsewhere.
_THREADS = [(f"{name}_get_num_threads", f"{name}_set_num_threads") for name in ("scipy_openblas", "openblas")]

_lock = threading.Lock()
_entered = 0
_before = 1


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """While this lasts, SciPy's BLAS does not start threads, as far as it can be told.

    A product within a loop is over long before threads have met, and on a busy machine they may wait for
    each other for milliseconds. The number is one for the whole process: the first to enter sets it, the
    last to leave puts it back.
    """
    global _entered, _before
    control = _thread_control()
    if control is None:
        yield
        return
    get, put = control
    with _lock:
        _entered += 1
        if _entered == 1:
            _before = get()
            if _before != 1:
                put(1)
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            if _entered == 0 and _before != 1:
                put(_before)


@cache
def _thread_control() -> tuple[Callable[[], int], Callable[[int], Any]] | None:
    """What reads and what sets the number of threads of SciPy's BLAS; None if it is not OpenBLAS."""
    module = _module(_MODULES["blas"])
    library = ctypes.CDLL(module.__file__)  # a symbol is looked for in what the module is linked to, too
    for get, put in _THREADS:
        if hasattr(library, get) and hasattr(library, put):
            return getattr(library, get), getattr(library, put)
    return None
