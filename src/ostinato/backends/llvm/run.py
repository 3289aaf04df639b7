"""A compiled Graph as a callable.

`entry.py` and `runtime.py` know how native code is called. Here arguments are made such that it can read them:
contiguous and aligned. If the native code fails, a version compiled without assumptions about sizes runs instead; if
that fails too (an index out of range, shapes that do not fit), the reference interpreter runs and raises the error
that names the step and the user's line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ostinato.backends import Executable
from ostinato.backends.llvm.build import ASSUMES, CALLS_OUT, ONE_BLAS_THREAD, SPLITS, Build
from ostinato.backends.llvm.callouts import CallOuts
from ostinato.backends.llvm.emit import ARRAYS, CALL_OUT, SPREAD, THREADS
from ostinato.backends.llvm.entry import EXCEEDED, WORKSPACE
from ostinato.backends.llvm.externals import one_blas_thread
from ostinato.backends.llvm.runtime import NO_LIMIT, Signature, runtime
from ostinato.backends.llvm.threads import available_cores
from ostinato.backends.reference import Interpreter
from ostinato.config import config
from ostinato.graph import Graph
from ostinato.lower.scalarize import UnsupportedError
from ostinato.memory import available_memory, half
from ostinato.ops.loop import LOOP

if TYPE_CHECKING:
    from ostinato.lower.inventory import Measured


def compile_graph(graph: Graph) -> Executable:
    """The Graph as machine code; by the reference interpreter should neither code nor call-outs do."""
    return _native_or_interpreted(Build(graph))


def compile_closed(closed: Graph, rewritten: Callable[[], Graph]) -> Executable:
    """The same for a closed Graph; it is rewritten only if its code is not in the cache.

    By default it gives up when it would take most of the memory, and one whose loops keep less runs instead.
    """
    most = available_memory() if config.memory_budget == "auto" else None
    if most is None or not any(n.op is LOOP for n in closed.nodes()):
        return _native_or_interpreted(Build(closed, rewritten))
    most = half(most)
    floatX = config.floatX

    def frugal() -> Build:
        from ostinato.rewrite.checkpoints import with_budget
        from ostinato.rewrite.pipeline import rewrite

        with config.change_flags(floatX=floatX):
            marked = with_budget(closed, most)
            return Build(marked, lambda: rewrite(marked, native=True))

    return _native_or_interpreted(Build(closed, rewritten), most, frugal)


def _native_or_interpreted(build: Build, most: int = NO_LIMIT, frugal: Callable[[], Build] | None = None) -> Executable:
    try:
        return Native(build, most, frugal)
    except UnsupportedError as missing:
        return Interpreter(build.graph, f", since it has no native form: {missing}")


class Native:
    """A Graph compiled for this machine.

    Calls from several threads at once are fine: each works in memory of its own, without the GIL.
    """

    def __init__(self, graph: Graph | Build, most: int = NO_LIMIT, frugal: Callable[[], Build] | None = None) -> None:
        self._frugal, self._frugal_run = frugal, cast("Native | None", None)
        self._most = most
        self.build = build = graph if isinstance(graph, Build) else Build(graph)
        found, self.report = build.compile()
        self._compiled, self._marks = found.compiled, found.marks
        self._callouts: CallOuts | None = None
        self._calls_out = False
        context: dict[int, int] = {}
        if CALLS_OUT in self._marks:
            nest = build.program.nest
            self._callouts = CallOuts(nest.sites, nest.arrays)
            self._calls_out = bool(nest.sites)
            context = {CALL_OUT: self._callouts.address, ARRAYS: self._callouts.arrays}
        if SPLITS in self._marks:
            n = config.threads or available_cores()
            runtime().threads.want(n)
            context |= {SPREAD: runtime().functions["spread"], THREADS: n}
        ends = build.closed.params, build.closed.results
        params, results = ([(np.dtype(n.type.dtype), n.type.shape) for n in ns] for ns in ends)
        self._signature = Signature(params, results)
        self._dtypes = [dtype for dtype, _ in params]
        self._descriptor = runtime().descriptor(self._compiled.address, self._signature, context, most)
        self._functions: list[Callable[..., Any]] = []
        self._fast = self._c_function(single=False)
        self._otherwise: Executable | None = None
        self.report = replace(self.report, texts={**self.report.texts, "memory": self._memory})

    def _memory(self) -> str:
        return f"{self.build.program.usage}; calls so far made a workspace of {self.workspace} bytes."

    @property
    def workspace(self) -> int:
        """The bytes of memory in which a call computes; calls that needed more have made it larger."""
        descriptors = [self._descriptor, *[f.__self__ for f in self._functions]]  # type: ignore[attr-defined]
        return max(*[int(d[WORKSPACE]) for d in descriptors], getattr(self._otherwise, "workspace", 0))

    @property
    def graph(self) -> Graph:
        """What was compiled."""
        return self.build.graph

    @property
    def compilations(self) -> int:
        """How often machine code was made for the graph, or loaded."""
        others = (self._otherwise, self._frugal_run)
        return 1 + sum(getattr(other, "compilations", 0) for other in others)

    def memory(self, arrays: Sequence[Any]) -> Measured:
        """The bytes of a call, by the program that would run; nothing runs."""
        found = self.build.memory(arrays)
        if self._frugal is not None and found.workspace is not None and found.workspace > self._most:
            return (self._frugal() if self._frugal_run is None else self._frugal_run.build).memory(arrays)
        return found

    def direct(self, single: bool) -> Callable[..., Any] | None:
        """A C function that takes arrays and returns arrays, without any Python between; None if there is none.

        It returns None for what it leaves to `__call__`: arguments that need a conversion, and failures.

        Parameters
        ----------
        single : return the first result instead of a list of all.
        """
        if self._calls_out or ONE_BLAS_THREAD in self._marks:
            return None
        return self._c_function(single)

    def _c_function(self, single: bool) -> Callable[..., Any] | None:
        made = runtime().fast(self._descriptor, (self._compiled, self._callouts), single)
        if made is not None:
            self._functions.append(made)
        return made

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        if self._frugal is not None and self._gave_up():
            return self._frugally(arrays)
        ready = [_readable(a, dtype) for a, dtype in zip(arrays, self._dtypes, strict=True)]
        with one_blas_thread() if ONE_BLAS_THREAD in self._marks else nullcontext():
            found = self._found(ready)
        if found is None and self._frugal is not None and self._gave_up():
            return self._frugally(arrays)
        return self._without_assumptions(arrays) if found is None else found

    def _gave_up(self) -> bool:
        """Whether a run wanted more memory than there is to be; forgotten by being told."""
        words = [self._descriptor, *[f.__self__ for f in self._functions]]  # type: ignore[attr-defined]
        gave_up = any(d[EXCEEDED] for d in words)
        for d in words:
            d[EXCEEDED] = 0
        return gave_up

    def _frugally(self, arrays: Sequence[Any]) -> list[Any]:
        """The results, with less kept for derivatives."""
        assert self._frugal is not None
        if self._frugal_run is None:
            self._frugal_run = Native(self._frugal())
            note = "A call would have filled more than half of the free memory; derivatives keep less in such calls."
            self.report = replace(self.report, note=f"{self.report.note} {note}".strip())
        return self._frugal_run(arrays)

    def _found(self, ready: Sequence[Any]) -> list[Any] | None:
        """The results; None if native code fails."""
        if self._calls_out:
            assert self._callouts is not None
            with self._callouts.call() as ended:
                return runtime().by_ctypes(self._descriptor, self._signature, ready, ended)
        if self._fast is not None:
            return self._fast(*ready)
        return runtime().by_ctypes(self._descriptor, self._signature, ready)

    def _without_assumptions(self, arrays: Sequence[Any]) -> list[Any]:
        """What was assumed does not hold, or the call is at fault: what assumes less runs it instead."""
        if self._otherwise is None:
            assumed = ASSUMES in self._marks
            self._otherwise = Native(self.build.without_assumptions()) if assumed else Interpreter(self.graph)
        return self._otherwise(arrays)


def _readable(value: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array as native code reads it: in C order, aligned, of NumPy's own object for the dtype."""
    array = np.asarray(value, dtype)
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else array.copy()
