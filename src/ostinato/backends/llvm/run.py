"""A compiled Graph as a callable.

`entry.py` and `runtime.py` know how native code is called. Here arguments are made such that it can read them:
contiguous and aligned. If the native code fails, a version compiled without assumptions about sizes runs instead; if
that fails too (an index out of range, shapes that do not fit), the reference interpreter runs and raises the error
that names the step and the user's line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from ostinato.backends import Executable, Report
from ostinato.backends.llvm.callouts import CallOuts
from ostinato.backends.llvm.emit import ARRAYS, CALL_OUT, Emitter, knows
from ostinato.backends.llvm.externals import one_blas_thread
from ostinato.backends.llvm.jit import Compiled
from ostinato.backends.llvm.runtime import Signature, runtime
from ostinato.backends.reference import Interpreter
from ostinato.graph import Graph
from ostinato.lower.callouts import where_called
from ostinato.lower.program import lower_graph
from ostinato.lower.scalarize import UnsupportedError


def compile_graph(graph: Graph) -> Executable:
    """The Graph as machine code; by the reference interpreter should neither code nor call-outs do."""
    try:
        return Native(graph)
    except UnsupportedError as missing:
        return Interpreter(graph, f", since it has no native form: {missing}")


class Native:
    """A Graph compiled for this machine.

    Calls from several threads at once are fine: each works in memory of its own, without the GIL.
    """

    def __init__(self, graph: Graph, optimistic: bool = True) -> None:
        self.graph = graph
        self._made = 0
        start = time.perf_counter()
        self.program = lower_graph(graph, knows, optimistic)
        lowered = time.perf_counter()
        emitter = Emitter(self.program)
        self.llvm = str(emitter.module)
        emitted = time.perf_counter()
        self._compiled = self._compile(emitter.externals)
        seconds = {"lower": lowered - start, "emit": emitted - lowered, "generate": time.perf_counter() - emitted}
        texts = {"nest": lambda: str(self.program), "llvm": lambda: self.llvm}
        nest = self.program.nest
        self._callouts = CallOuts(nest.sites, nest.arrays) if nest.sites or nest.arrays else None
        called = where_called(graph, nest.sites)
        self.report = Report("compiled to one native function for all sizes", seconds, texts, called)
        params, results = ([(np.dtype(n.type.dtype), n.type.shape) for n in ns] for ns in (graph.params, graph.results))
        self._signature = Signature(params, results)
        self._dtypes = [dtype for dtype, _ in params]
        context = {CALL_OUT: self._callouts.address, ARRAYS: self._callouts.arrays} if self._callouts else {}
        self._descriptor = runtime().descriptor(self._compiled.address, self._signature, context)
        self._fast = runtime().fast(self._descriptor, (self._compiled, self._callouts))
        self._otherwise: Executable | None = None

    def _compile(self, externals: Sequence[str]) -> Compiled:
        self._made += 1
        return Compiled(self.llvm, "run", externals)

    @property
    def compilations(self) -> int:
        """How often machine code was made for the graph."""
        return self._made + getattr(self._otherwise, "compilations", 0)

    def direct(self, single: bool) -> Callable[..., Any] | None:
        """A C function that takes arrays and returns arrays, without any Python between; None if there is none.

        It returns None for what it leaves to `__call__`: arguments that need a conversion, and failures.

        Parameters
        ----------
        single : return the first result instead of a list of all.
        """
        nest = self.program.nest
        if nest.sites or nest.one_blas_thread:
            return None
        return runtime().fast(self._descriptor, (self._compiled, self._callouts), single)

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        ready = [_readable(a, dtype) for a, dtype in zip(arrays, self._dtypes, strict=True)]
        with one_blas_thread() if self.program.nest.one_blas_thread else nullcontext():
            found = self._found(ready)
        return self._without_assumptions(arrays) if found is None else found

    def _found(self, ready: Sequence[Any]) -> list[Any] | None:
        """The results; None if native code fails."""
        if self.program.nest.sites:
            assert self._callouts is not None
            with self._callouts.call() as ended:
                return runtime().by_ctypes(self._descriptor, self._signature, ready, ended)
        if self._fast is not None:
            return self._fast(*ready)
        return runtime().by_ctypes(self._descriptor, self._signature, ready)

    def _without_assumptions(self, arrays: Sequence[Any]) -> list[Any]:
        """What was assumed does not hold, or the call is at fault: what assumes less runs it instead."""
        if self._otherwise is None:
            assumed = self.program.nest.integers.assumptions
            self._otherwise = Native(self.graph, optimistic=False) if assumed else Interpreter(self.graph)
        return self._otherwise(arrays)


def _readable(value: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array as native code reads it: in C order, aligned, of NumPy's own object for the dtype."""
    array = np.asarray(value, dtype)
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else array.copy()
