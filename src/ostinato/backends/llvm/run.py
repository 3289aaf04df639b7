"""A compiled Graph as a callable: packs arguments, lends a workspace, reads results.

If the workspace is too small the function returns and is called again with a larger one: it has no
side effects. If it fails, a version compiled without assumptions about sizes runs instead; if that fails
too (an index out of range, shapes that do not fit), the reference interpreter runs and raises the error
that names the step and the user's line.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ostinato.backends import Executable, Report
from ostinato.backends.llvm.callouts import CallOuts
from ostinato.backends.llvm.emit import (
    ARRAYS,
    BASE,
    CALL_OUT,
    CAPACITY,
    CONTEXT_WORDS,
    DONE,
    TOO_SMALL,
    TOP,
    WANTED,
    Emitter,
    knows,
)
from ostinato.backends.llvm.externals import one_blas_thread
from ostinato.backends.llvm.jit import Compiled
from ostinato.backends.reference import Interpreter
from ostinato.graph import Graph
from ostinato.lower.callouts import where_called
from ostinato.lower.program import lower_graph
from ostinato.lower.scalarize import UnsupportedError

_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_FIRST_WORKSPACE = 1 << 16


def compile_graph(graph: Graph) -> Executable:
    """The Graph as machine code; by the reference interpreter should neither code nor call-outs do."""
    try:
        return Native(graph)
    except UnsupportedError as missing:
        return Interpreter(graph, f", since it has no native form: {missing}")


class _Workspace:
    """Memory that one call works in, and the words by which it is called."""

    def __init__(self, n_bytes: int, n_arguments: int, n_results: int, callouts: CallOuts) -> None:
        self.memory = np.empty(n_bytes, "uint8")
        self.address: int = self.memory.__array_interface__["data"][0]
        self.arguments = (ctypes.c_int64 * n_arguments)()
        self.results = (ctypes.c_int64 * n_results)()
        self._context = (ctypes.c_int64 * CONTEXT_WORDS)()
        self._context[CALL_OUT], self._context[ARRAYS] = callouts.address, callouts.arrays
        self._callouts = callouts
        start = -self.address % 64
        self._context[BASE], self._context[CAPACITY] = self.address + start, n_bytes - start

    def run(self, function: Callable[..., int]) -> int:
        self._context[TOP] = 0
        return self._callouts.ended(self._context, function(self.arguments, self.results, self._context))

    def wanted(self) -> int:
        """A size that is enough for what the last run asked for."""
        return max(2 * self.memory.size, self._context[WANTED] + (1 << 12))


class Native:
    """A Graph compiled for this machine.

    Calls from several threads at once are fine: each takes a workspace of its own.
    """

    def __init__(self, graph: Graph, optimistic: bool = True) -> None:
        self.graph = graph
        start = time.perf_counter()
        self.program = lower_graph(graph, knows, optimistic)
        lowered = time.perf_counter()
        emitter = Emitter(self.program)
        self.llvm = str(emitter.module)
        emitted = time.perf_counter()
        self._compiled = Compiled(self.llvm, "run", emitter.externals)
        seconds = {"lower": lowered - start, "emit": emitted - lowered, "generate": time.perf_counter() - emitted}
        texts = {"nest": lambda: str(self.program), "llvm": lambda: self.llvm}
        nest = self.program.nest
        self._callouts = CallOuts(nest.sites, nest.arrays)
        called = where_called(graph, nest.sites)
        self.report = Report("compiled to one native function for all sizes", seconds, texts, called)
        self._function = _FUNCTION(self._compiled.address)
        if self.program.nest.one_blas_thread:
            self._function = one_blas_thread()(self._function)
        self._otherwise: Executable | None = None
        self._types = [(np.dtype(r.type.dtype), r.type.ndim) for r in graph.results]
        self._n_words = sum(1 + n for _, n in self._types)
        self._n_arguments = sum(1 + p.type.ndim for p in graph.params)
        self._idle: list[_Workspace] = []

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        held = [np.ascontiguousarray(a) if np.ndim(a) else np.asarray(a) for a in arrays]
        words = [w for a in held for w in (a.__array_interface__["data"][0], *a.shape)]
        workspace = self._idle.pop() if self._idle else self._workspace(_FIRST_WORKSPACE)
        try:
            workspace.arguments[:] = words
            code = workspace.run(self._function)
            while code == TOO_SMALL:
                workspace = self._workspace(workspace.wanted())
                workspace.arguments[:] = words
                code = workspace.run(self._function)
            if code == DONE:
                return self._read(workspace)
        finally:
            self._idle.append(workspace)
        return self._without_assumptions(arrays)

    def _workspace(self, n_bytes: int) -> _Workspace:
        return _Workspace(n_bytes, self._n_arguments, self._n_words, self._callouts)

    def _read(self, workspace: _Workspace) -> list[Any]:
        found, words = [], iter(workspace.results)
        for dtype, ndim in self._types:
            start = next(words) - workspace.address
            shape = tuple([next(words) for _ in range(ndim)])
            stop = start + dtype.itemsize * math.prod(shape)
            found.append(workspace.memory[start:stop].view(dtype).reshape(shape).copy())
        return found

    def _without_assumptions(self, arrays: Sequence[Any]) -> list[Any]:
        """What was assumed does not hold, or the call is at fault: what assumes less runs it instead."""
        if self._otherwise is None:
            assumed = self.program.nest.integers.assumptions
            self._otherwise = Native(self.graph, optimistic=False) if assumed else Interpreter(self.graph)
        return self._otherwise(arrays)
