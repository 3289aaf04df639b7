"""The receiving end of call-outs: native code calls, the NumPy reference of an op computes.

Native code passes the number of the call-out and a block of 64-bit words: a status, then per operand its
address, its sizes and its strides, then room for the address and the sizes of each result. The results
are kept alive until the same call-out of the same running call comes again.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from ostinato.errors import VerificationError
from ostinato.graph import Node
from ostinato.ops.op import params_of
from ostinato.types import TensorType, TupleType

# Statuses are return codes of the compiled function; `emit` says what they mean.
_DONE, _FAILED, _INTERRUPTED = 0, 2, 5

_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


class CallOuts:
    """The call-outs of one compiled function, and the constant arrays that it reads by address.

    Calls from several threads at once, and from within each other, are told apart: native code calls out in
    the thread that called it, and of several calls there the last one is running.

    Attributes
    ----------
    address : whom native code calls; 0 if there are no call-outs.
    arrays : where the addresses of the constant arrays stand; 0 if there are none.
    """

    def __init__(self, nodes: Sequence[Node], arrays: Sequence[np.ndarray[Any, Any]]) -> None:
        self._sites = [_Site(n) for n in nodes]
        self._calls = threading.local()
        self._entry = _ENTRY(self._enter) if nodes else None
        self.address = ctypes.cast(self._entry, ctypes.c_void_p).value or 0 if self._entry else 0
        self._arrays = list(arrays)
        self._table = (ctypes.c_int64 * len(arrays))(*[_address(a) for a in arrays])
        self.arrays = ctypes.addressof(self._table) if arrays else 0

    def _enter(self, site: int, words: int, context: int) -> None:
        """What native code calls. Nothing may be raised from here: it would be lost."""
        call = self._calls.running[-1]
        try:
            self._sites[site].run(words, call.held, site)
        except BaseException as error:
            call.error = error
            _status(words, _FAILED)

    @contextmanager
    def call(self) -> Iterator[Callable[[int], int]]:
        """While this lasts, native code runs that calls out; the result is told the return code when it has ended."""
        running = self._calls.__dict__.setdefault("running", [])
        running.append(_Call())
        try:
            yield running[-1].ended
        finally:
            running.pop()


class _Call:
    """One running call of native code: what it holds, and what went wrong in a call-out."""

    def __init__(self) -> None:
        self.held: dict[int, list[Any]] = {}
        self.error: BaseException | None = None

    def ended(self, code: int) -> int:
        """The return code of the native code, unless it was interrupted.

        An ordinary exception makes the call fail, and the interpreter tells why. What it could not repeat is
        raised here: an interruption, or a reference that breaks the promises of its op.
        """
        error = self.error
        if error is not None and (not isinstance(error, Exception) or isinstance(error, VerificationError)):
            raise error
        if code == _INTERRUPTED:  # so early that no handler was there; Python has printed what it was
            raise KeyboardInterrupt
        return code


class _Site:
    """One call-out: how its words are read, what computes, how results are written."""

    def __init__(self, node: Node) -> None:
        self.node = node
        params = params_of(node)
        self.compute: Callable[..., Any] = partial(node.op.numpy, **params) if params else node.op.numpy
        self.operands = [(np.dtype(i.type.dtype), i.type.ndim) for i in node.inputs]
        self.several = isinstance(node.type, TupleType)
        self.types: Sequence[TensorType] = node.type.items if self.several else (node.type,)
        n_words = 1 + sum(1 + 2 * ndim for _, ndim in self.operands) + sum(1 + t.ndim for t in self.types)
        self.words = ctypes.c_int64 * n_words

    def run(self, address: int, held: dict[int, list[Any]], key: int) -> None:
        words = self.words.from_address(address)
        given, stop = [], 1
        for dtype, ndim in self.operands:
            place, *rest = words[stop : stop + 1 + 2 * ndim]
            given.append(_view(dtype, place, rest[:ndim], rest[ndim:]))
            stop += 1 + 2 * ndim
        with np.errstate(all="ignore"):
            results = self.compute(*given)
        arrays = list(self._checked(results if self.several else (results,)))
        held[key] = arrays
        for array in arrays:
            words[stop : stop + 1 + array.ndim] = (_address(array), *array.shape)
            stop += 1 + array.ndim
        words[0] = _DONE

    def _checked(self, results: Sequence[Any]) -> Iterator[np.ndarray[Any, Any]]:
        """The results in C order and in memory of their own, of the declared types."""
        if len(results) != len(self.types):
            raise VerificationError(f"{self.node.op} made {len(results)} results, declared {len(self.types)}")
        for value, type_ in zip(results, self.types, strict=True):
            array = np.asarray(value, order="C")
            fits = all(s in (None, n) for s, n in zip(type_.shape, array.shape, strict=False))
            if array.dtype != type_.dtype or array.ndim != type_.ndim or not fits:
                raise VerificationError(f"{self.node.op} made {array.dtype}{array.shape}, declared {type_}")
            # A view may be one of an operand, whose memory native code may use for something else.
            yield array if array.flags.owndata else array.copy()


class _Region:
    """Memory that NumPy may read as an array."""

    def __init__(self, address: int, dtype: np.dtype[Any], sizes: Sequence[int], strides: Sequence[int]) -> None:
        self.__array_interface__ = {
            "data": (address, True),
            "typestr": dtype.str,
            "shape": tuple(sizes),
            "strides": tuple([s * dtype.itemsize for s in strides]),
            "version": 3,
        }


def _view(dtype: np.dtype[Any], address: int, sizes: Sequence[int], strides: Sequence[int]) -> Any:
    """The operand that lies at an address: a read-only array, or a NumPy scalar."""
    if not sizes:
        return np.frombuffer(ctypes.string_at(address, dtype.itemsize), dtype)[0]
    return np.asarray(_Region(address, dtype, sizes, strides))


def _address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _status(words: int, status: int) -> None:
    ctypes.c_int64.from_address(words).value = status
