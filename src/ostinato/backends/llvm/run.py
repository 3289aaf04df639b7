"""A compiled Graph as a callable: packs arguments, lends a workspace, reads results.

If the workspace is too small the function returns and is called again with a larger one: it has no
side effects. If it fails (an index out of range, shapes that do not fit), the reference interpreter
runs instead and raises the error that names the step and the user's line.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ostinato.backends import Executable, Report
from ostinato.backends.llvm.emit import BASE, CAPACITY, DONE, TOO_SMALL, TOP, WANTED, Emitter
from ostinato.backends.llvm.jit import Compiled
from ostinato.backends.reference import Interpreter
from ostinato.graph import Graph
from ostinato.lower.program import lower_graph
from ostinato.lower.scalarize import UnsupportedError

_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_FIRST_WORKSPACE = 1 << 16


def compile_graph(graph: Graph) -> Executable:
    """The Graph as machine code; by the reference interpreter where it has no native form."""
    try:
        return Native(graph)
    except UnsupportedError as missing:
        return Interpreter(graph, f", since it has no native form: {missing}")


class Native:
    """A Graph compiled for this machine.

    Calls from several threads at once are fine: each takes a workspace of its own.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        start = time.perf_counter()
        self.program = lower_graph(graph)
        lowered = time.perf_counter()
        self.llvm = str(Emitter(self.program).module)
        emitted = time.perf_counter()
        self._compiled = Compiled(self.llvm, "run")
        seconds = {"lower": lowered - start, "emit": emitted - lowered, "generate": time.perf_counter() - emitted}
        texts = {"nest": lambda: str(self.program), "llvm": lambda: self.llvm}
        self.report = Report("compiled to one native function for all sizes", seconds, texts)
        self._function = _FUNCTION(self._compiled.address)
        self._reference: Executable | None = None
        self._types = [(np.dtype(r.type.dtype), r.type.ndim) for r in graph.results]
        self._n_words = sum(1 + n for _, n in self._types)
        self._idle: list[np.ndarray[Any, Any]] = []

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        held = [np.ascontiguousarray(a) if np.ndim(a) else np.asarray(a) for a in arrays]
        words = [w for a in held for w in (a.ctypes.data, *a.shape)]
        arguments = np.array(words, "int64")
        results = np.empty(max(self._n_words, 1), "int64")
        workspace = self._idle.pop() if self._idle else np.empty(_FIRST_WORKSPACE, "uint8")
        try:
            while True:
                code, wanted = self._call(arguments, results, workspace)
                if code != TOO_SMALL:
                    break
                workspace = np.empty(max(2 * workspace.size, wanted + (1 << 12)), "uint8")
            if code == DONE:
                return self._read(results, workspace)
        finally:
            self._idle.append(workspace)
        return self._explain(arrays)

    def _call(self, arguments: Any, results: Any, workspace: Any) -> tuple[int, int]:
        context = np.zeros(4, "int64")
        start = -workspace.ctypes.data % 64
        context[BASE], context[CAPACITY] = workspace.ctypes.data + start, workspace.size - start
        context[TOP] = 0
        code = self._function(arguments.ctypes.data, results.ctypes.data, context.ctypes.data)
        return code, int(context[WANTED])

    def _read(self, results: Any, workspace: Any) -> list[Any]:
        word, found = 0, []
        for dtype, ndim in self._types:
            shape = tuple(int(s) for s in results[word + 1 : word + 1 + ndim])
            start = int(results[word]) - workspace.ctypes.data
            n_bytes = dtype.itemsize * int(np.prod(shape, dtype="int64"))
            found.append(workspace[start : start + n_bytes].view(dtype).reshape(shape).copy())
            word += 1 + ndim
        return found

    def _explain(self, arrays: Sequence[Any]) -> list[Any]:
        if self._reference is None:
            self._reference = Interpreter(self.graph)
        return self._reference(arrays)
