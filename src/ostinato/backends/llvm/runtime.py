"""The runtime of native code in this process: the pool of memory, and two ways to call a compiled function.

The fast way is the C function of `entry.py`. It relies on the layout of Python's and NumPy's objects, so it is
used where that layout is as expected and a trial call works: on CPython with a GIL. Elsewhere ctypes does the
same, slower, and copies results. Machine code is made once; what it needs to know of this process stands in
tables, so that the code itself can be kept on disk.

Nothing here is ever freed: arrays that outlive everything else give their memory back to the pool.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import sysconfig
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ostinato.backends.llvm import entry as e
from ostinato.backends.llvm import pool
from ostinato.backends.llvm.build import Watch, load_or_make
from ostinato.backends.llvm.cache import Entry
from ostinato.backends.llvm.emit import DONE, N_CONTEXT, NO_MEMORY, RUNTIME, TAKE
from ostinato.backends.llvm.jit import generate
from ostinato.backends.llvm.threads import Threads

Words = np.ndarray[Any, np.dtype[np.int64]]
Parameter = tuple[np.dtype[Any], tuple[int | None, ...]]  # dtype and static shape

_WAITING_LIMIT = 1 << 28  # bytes of memory that may wait for their next use
_FIRST_WORKSPACE = 1 << 16
NO_LIMIT = 1 << 62
_NO_MEMORY = b"there is not enough memory for the results of a natively compiled function, or to compute them"
_FASTCALL = 0x80
_OWNER_NAME = b"mem_handler"  # NumPy insists on it
_INTEGER, _POINTER = ctypes.c_int64, ctypes.c_void_p


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (("name", ctypes.c_char_p), ("call", _POINTER), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p))


class _Owner(ctypes.Structure):
    """PyDataMem_Handler: how NumPy returns memory that arrays own."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", _POINTER),
        ("malloc", _POINTER),
        ("calloc", _POINTER),
        ("realloc", _POINTER),
        ("free", _POINTER),
    )


class Signature(NamedTuple):
    """What goes into a compiled function and what comes out: dtypes and static shapes."""

    params: Sequence[Parameter]
    results: Sequence[Parameter]


class Runtime:
    """The one runtime of a process; see `runtime`."""

    def __init__(self) -> None:
        self._compiled = load_or_make(
            lambda: "runtime", lambda: Entry("start", (generate(str(e.runtime_module())),)), Watch()
        ).compiled
        table = (_INTEGER * len(e.FUNCTIONS))()
        ctypes.CFUNCTYPE(None, _POINTER)(self._compiled.address)(table)
        self.functions = dict(zip(e.FUNCTIONS, table, strict=True))
        self.words = np.zeros(e.LISTS + pool.N_LISTS, "int64")
        self.words[pool.LIMIT] = _WAITING_LIMIT
        self.words[pool.MALLOC] = _address(ctypes.pythonapi.PyMem_RawMalloc)
        self.words[pool.FREE] = _address(ctypes.pythonapi.PyMem_RawFree)
        self.words[pool.ADVISE] = _madvise()
        self.address: int = self.words.ctypes.data
        self.threads = Threads(self.words, e.OF_THREADS, self.functions["work"])
        self._take = ctypes.CFUNCTYPE(_POINTER, _POINTER, _INTEGER)(self.functions["take"])
        self._give = ctypes.CFUNCTYPE(None, _POINTER, _POINTER)(self.functions["give"])
        self._run = ctypes.CFUNCTYPE(ctypes.c_int32, _POINTER, _POINTER)(self.functions["run"])
        self._trim = ctypes.CFUNCTYPE(None, _POINTER, _INTEGER)(self.functions["trim"])
        self._drop = ctypes.CFUNCTYPE(None, _POINTER, _POINTER)(self.functions["drop"])

    @property
    def waiting(self) -> int:
        """The bytes that wait in the pool."""
        return int(self.words[pool.WAITING])

    def trim(self) -> None:
        """Free all memory that waits in the pool."""
        self._trim(self.address, 0)

    def descriptor(self, function: int, signature: Signature, context: dict[int, int], most: int = NO_LIMIT) -> Words:
        """The table that describes the native function at an address to `entry.py`; see there.

        Parameters
        ----------
        context : words of the context with which a run begins, by their number.
        most : bytes beyond which the function gives up instead of taking a larger workspace.
        """
        n_arguments = sum(1 + len(shape) for _, shape in signature.params)
        n_results = sum(1 + len(shape) for _, shape in signature.results)
        head = [function, _FIRST_WORKSPACE, self.address, 0, len(signature.params), len(signature.results)]
        start = {RUNTIME: self.address, TAKE: self.functions["take"], **context}
        words = [*head, n_arguments, n_results, most, 0, *[start.get(k, 0) for k in range(N_CONTEXT)]]
        for dtype, shape in signature.params:
            scalar = id(dtype.type) if not shape else 0
            number = id(float) if not shape and dtype == np.float64 else 0
            words += [id(dtype), len(shape), scalar, number, *[-1 if n is None else n for n in shape]]
        for dtype, shape in signature.results:
            words += [id(dtype), len(shape)]
        return np.array(words, "int64")

    def fast(self, descriptor: Words, keep: Any, single: bool = False) -> Callable[..., Any] | None:
        """The C function for a descriptor; None where it cannot be used.

        It returns None for arguments that it does not expect, and where the native code fails.

        Parameters
        ----------
        keep : what must live as long as the function.
        single : return the first result instead of a list of all.
        """
        if not self.is_fast:
            return None
        own = descriptor.copy()
        own[e.SINGLE] = single
        return self._c_function(own, keep)

    def _c_function(self, descriptor: Words, keep: Any) -> Callable[..., Any]:
        # The last argument is meant for the module of the function, and may be any object.
        make = ctypes.PYFUNCTYPE(ctypes.py_object, _POINTER, ctypes.py_object, ctypes.py_object)(
            ("PyCFunction_NewEx", ctypes.pythonapi)
        )
        made: Callable[..., Any] = make(ctypes.addressof(self._method), descriptor, keep)
        return made

    @functools.cached_property
    def is_fast(self) -> bool:
        """Whether the C function works here."""
        return _layout_is_known() and self._prepare() and self._trial()

    def _prepare(self) -> bool:
        """Enter what the C function needs of Python and NumPy into the runtime."""
        api, words = ctypes.pythonapi, self.words
        table = _numpy_table()
        for k, function in (
            (e.SAVE_THREAD, api.PyEval_SaveThread),
            (e.RESTORE_THREAD, api.PyEval_RestoreThread),
            (e.INCREF, api.Py_IncRef),
            (e.DECREF, api.Py_DecRef),
            (e.NEW_LIST, api.PyList_New),
            (e.SET_ITEM, api.PyList_SetItem),
            (e.SET_ERROR, api.PyErr_SetString),
        ):
            words[k] = _address(function)
        self._message = ctypes.c_char_p(_NO_MEMORY)
        words[e.MESSAGE] = ctypes.cast(self._message, _POINTER).value or 0
        words[e.MEMORY_ERROR], words[e.NONE], words[e.ARRAY_TYPE] = id(MemoryError), id(None), id(np.ndarray)
        words[e.NEW_ARRAY], words[e.NEW_COPY] = table[94], table[85]  # PyArray_NewFromDescr, PyArray_NewCopy
        if table[2] != id(np.ndarray):
            return False
        memory = [self.functions[n] for n in ("malloc", "calloc", "realloc", "free")]
        self._owner = _Owner(b"ostinato", 1, self.address, *memory)
        capsule = ctypes.PYFUNCTYPE(ctypes.py_object, _POINTER, ctypes.c_char_p, _POINTER)(
            ("PyCapsule_New", ctypes.pythonapi)
        )
        self._owner_name = ctypes.c_char_p(_OWNER_NAME)
        self._owner_capsule = capsule(ctypes.addressof(self._owner), self._owner_name, None)
        words[e.OWNER] = id(self._owner_capsule)
        self._method = _Method(b"native", self.functions["call"], _FASTCALL, None)
        return True

    def _trial(self) -> bool:
        """Whether a call of a small function goes as it should."""
        matrix: Parameter = (np.dtype("float64"), (None, 3))
        call = self._c_function(self.descriptor(self.functions["probe"], Signature([matrix], [matrix]), {}), self)
        given = np.arange(6.0).reshape(2, 3)
        before = sys.getrefcount(given)
        results = call(given)
        if type(results) is not list or len(results) != 1 or type(results[0]) is not np.ndarray:
            return False
        found = results[0]
        good = found.dtype is given.dtype and np.array_equal(found, given) and not np.shares_memory(found, given)
        good = good and found.flags.owndata and found.flags.carray and found.base is None
        good = good and sys.getrefcount(given) == before
        turned = call(given[::-1, ::-1])[0]
        good = good and np.array_equal(turned, given[::-1, ::-1]) and turned.flags.carray
        refused = [given.T, given.astype("float32"), given[0], np.zeros((2, 4)), given.tolist(), 1.0]
        good = good and all(call(r) is None for r in refused) and call() is None and call(given, given) is None
        waiting = self.waiting
        del found, results, turned
        return bool(good and self.waiting > waiting)

    def by_ctypes(
        self,
        descriptor: Words,
        signature: Signature,
        arrays: Sequence[Any],
        ended: Callable[[int], int] = lambda code: code,
    ) -> list[Any] | None:
        """Call a native function with contiguous arrays of its dtypes; None where it fails.

        Parameters
        ----------
        ended : is told the return code, and may raise an exception or return another one.
        """
        n_arguments, n_results = (int(descriptor[k]) for k in (e.N_ARGUMENT_WORDS, e.N_RESULT_WORDS))
        block = _POINTER(self._take(self.address, int(descriptor[e.WORKSPACE])))
        if not block.value:
            raise MemoryError(_NO_MEMORY.decode())
        try:
            words = [w for a in arrays for w in (_data(a), *a.shape)]
            start = block.value + 8 * (N_CONTEXT + n_results)
            (_INTEGER * n_arguments).from_address(start)[:] = words
            code = ended(self._run(descriptor.ctypes.data, ctypes.byref(block)))
            if code == NO_MEMORY:
                raise MemoryError(_NO_MEMORY.decode())
            if code != DONE:
                return None
            try:
                results = (_INTEGER * n_results).from_address(block.value + 8 * N_CONTEXT)
                return _copied(iter(results), signature.results)
            finally:
                self._drop(descriptor.ctypes.data, block)
        finally:
            self._give(self.address, block)


def _copied(words: Any, results: Sequence[Parameter]) -> list[Any]:
    """Results as arrays with memory of NumPy."""
    found = []
    for dtype, static in results:
        address = next(words)
        array = np.empty([next(words) for _ in static], dtype)
        ctypes.memmove(_data(array), address, array.nbytes)
        found.append(array)
    return found


def _data(array: Any) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _address(function: Any) -> int:
    return ctypes.cast(function, _POINTER).value or 0


def _madvise() -> int:
    """The address of a function that asks for large pages; 0 where there is none."""
    return _address(ctypes.pythonapi.madvise) if sys.platform == "linux" else 0


def _numpy_table() -> Any:
    """NumPy's table of C functions, as words."""
    pointer = ctypes.PYFUNCTYPE(_POINTER, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
    capsule = np._core._multiarray_umath._ARRAY_API  # type: ignore[attr-defined]
    return (_INTEGER * 100).from_address(pointer(capsule, None))


def _layout_is_known() -> bool:
    """Whether objects lie in memory as `entry.py` expects; found by reading, without calling anything."""
    if sys.implementation.name != "cpython" or sys.maxsize != 2**63 - 1 or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return False
    if np.ndarray.__basicsize__ < e.OWNER_AT + 8 or hasattr(sys, "getobjects"):
        return False
    samples = (np.zeros((3, 5), "float32"), np.zeros((2, 3, 4), "int64").T, np.zeros(7, "bool")[1:])
    samples[2].flags.writeable = False
    return all(map(_lies_as_expected, samples)) and all(map(_number_lies_as_expected, (1.5, np.float64(-2.5))))


def _lies_as_expected(array: np.ndarray[Any, Any]) -> bool:
    def word(at: int) -> int:
        return _INTEGER.from_address(id(array) + at).value

    def half(at: int) -> int:
        return ctypes.c_int32.from_address(id(array) + at).value

    found = (word(e.TYPE_AT), word(e.DATA_AT), half(e.NDIM_AT), word(e.DTYPE_AT), half(e.FLAGS_AT))
    expected = (id(np.ndarray), array.ctypes.data, array.ndim, id(array.dtype), array.flags.num)
    if found != expected:
        return False
    sizes = (_INTEGER * array.ndim).from_address(word(e.SIZES_AT))
    owner = word(e.OWNER_AT)
    if tuple(sizes) != array.shape or bool(owner) != array.flags.owndata:
        return False
    capsule = id(type(np._core._multiarray_umath._ARRAY_API))  # type: ignore[attr-defined]
    return not owner or _INTEGER.from_address(owner + e.TYPE_AT).value == capsule


def _number_lies_as_expected(number: float) -> bool:
    return ctypes.c_double.from_address(id(number) + e.NUMBER_AT).value == number


_lock = threading.Lock()
_runtime: Runtime | None = None


def runtime() -> Runtime:
    """The runtime of this process, made when it is first asked for."""
    global _runtime
    with _lock:
        if _runtime is None:
            made = Runtime()
            # What it holds must outlive the interpreter's last array: one reference more than there are holders.
            for kept in (made, made._compiled, made.words):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
            _runtime = made
    return _runtime
