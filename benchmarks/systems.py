"""The systems: how each compiles a workload, is called, and gives results back as NumPy arrays.

A system's build makes a callable without arguments that returns when the results are there; its own arrays are made
before, so that no call pays for a conversion.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import compiled_c
from suite import FORWARD, Arguments, Workload
from table import seconds

Runner = Callable[[], Any]


class System(ABC):
    """A library that computes workloads."""

    name: str
    package: str

    def version(self) -> str | None:
        """The version that is installed, or None."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None

    @abstractmethod
    def method(self, kind: str) -> str:
        """The method by which a workload says what this system does."""

    def can(self, workload: Workload, kind: str) -> bool:
        return kind in workload.kinds and workload.has(self.method(kind))

    @abstractmethod
    def build(self, workload: Workload, kind: str, arguments: Arguments, tune: bool = True) -> Runner:
        """Trace, compile, bring the arguments into place; choose among variants by time, if told to tune."""

    def has_forms(self, workload: Workload) -> bool:
        """Whether a build that is told to tune has something to choose from."""
        return False

    def wake(self) -> None:
        """Import what a build needs, and start what starts once in a process."""
        importlib.import_module(self.package)

    def arrays(self, results: Any) -> list[Any]:
        """Results as NumPy arrays."""
        return [np.asarray(r) for r in (results if isinstance(results, (tuple, list)) else [results])]


class Symbolic(System):
    """What has Theano's interface. The body of a workload is the same for all of these."""

    def method(self, kind: str) -> str:
        return "symbolic"

    @abstractmethod
    def parts(self) -> tuple[Any, Any]:
        """The tensor module and the module that has function and scan."""

    def scan(self, *args: Any, **options: Any) -> Any:
        """The outputs of a scan alone."""
        return self.parts()[1].scan(*args, **options)[0]

    def until(self, condition: Any) -> Any:
        return self.parts()[1].until(condition)

    def streams(self, seed: int) -> Any:
        """Random numbers, for systems that draw in a step."""
        raise NotImplementedError

    def graph(self, workload: Workload, kind: str, arguments: Arguments) -> tuple[list[Any], list[Any]]:
        """Inputs and outputs."""
        T, _ = self.parts()
        inputs = {}
        for name, value in arguments.items():
            array = np.asarray(value)
            shape = array.shape if name in workload.static else (None,) * array.ndim
            inputs[name] = T.tensor(dtype=str(array.dtype), shape=shape, name=name)
        results = workload.symbolic(T, Words(self), **inputs)  # type: ignore[attr-defined]
        if kind == FORWARD:
            return list(inputs.values()), results
        cost = workload.cost(results, inputs)
        return list(inputs.values()), [cost, *T.grad(cost, [inputs[n] for n in workload.wrt])]


class Words:
    """What a symbolic workload says besides tensors: it is called as scan, and has what a step may use."""

    def __init__(self, system: Symbolic) -> None:
        self.until, self.streams, self._scan = system.until, system.streams, system.scan

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._scan(*args, **options)


class Ostinato(Symbolic):
    """Compiled by the native backend."""

    name = package = "ostinato"
    mode = "native"

    def version(self) -> str | None:
        import ostinato

        return ostinato.__version__  # metadata lacks where the source tree is on the path and not installed

    def wake(self) -> None:
        import ostinato.backends.llvm.run  # noqa: F401

    def parts(self) -> tuple[Any, Any]:
        import ostinato
        import ostinato.tensor

        return ostinato.tensor, ostinato

    def streams(self, seed: int) -> Any:
        import ostinato

        return ostinato.RandomStreams(seed)

    def build(self, workload: Workload, kind: str, arguments: Arguments, tune: bool = True) -> Runner:
        import ostinato

        inputs, outputs = self.graph(workload, kind, arguments)
        function = ostinato.function(inputs, outputs, mode=self.mode)
        if self.mode == "native" and "native function" not in function.explain().splitlines()[0]:
            raise NotImplementedError(f"{workload.name}, {kind}, is interpreted: {function.explain()}")
        return functools.partial(function, *(np.asarray(v) for v in arguments.values()))


class PyTensor(Symbolic):
    """In its default mode."""

    name, package = "PyTensor", "pytensor"

    def parts(self) -> tuple[Any, Any]:
        import pytensor
        import pytensor.tensor

        return pytensor.tensor, pytensor

    def scan(self, *args: Any, **options: Any) -> Any:
        return super().scan(*args, **options, return_list=False)

    def until(self, condition: Any) -> Any:
        from pytensor.scan.utils import until

        return until(condition)

    def can(self, workload: Workload, kind: str) -> bool:
        return super().can(workload, kind) and getattr(workload, "pytensor", True)

    def build(self, workload: Workload, kind: str, arguments: Arguments, tune: bool = True) -> Runner:
        import pytensor

        inputs, outputs = self.graph(workload, kind, arguments)
        function = pytensor.function(inputs, outputs, on_unused_input="ignore")
        function.trust_input = True
        return functools.partial(function, *(np.asarray(v) for v in arguments.values()))


class JAX(System):
    """Jitted, in 64 bits, with the unrolling of loops that turns out fastest."""

    name, package = "JAX", "jax"

    def method(self, kind: str) -> str:
        return "jax"

    def can(self, workload: Workload, kind: str) -> bool:
        return super().can(workload, kind) and (kind == FORWARD or getattr(workload, "jax_gradient", True))

    def has_forms(self, workload: Workload) -> bool:
        return True

    def build(self, workload: Workload, kind: str, arguments: Arguments, tune: bool = True) -> Runner:
        self.wake()
        if not tune:
            return self.jitted(workload, kind, arguments, "jax", 1)
        forms = [(form, unroll) for form in ("jax", "jax_other") if workload.has(form) for unroll in workload.unrolls]
        forms += [("jax_associative", 0)] if workload.has("jax_associative") else []
        return fastest([self.jitted(workload, kind, arguments, *form) for form in forms])

    def wake(self) -> None:
        import jax

        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_cpu_enable_async_dispatch", False)  # has no effect once a device was used
        jax.block_until_ready(jax.device_put(np.zeros(1)))

    def jitted(self, workload: Workload, kind: str, arguments: Arguments, form: str, unroll: int) -> Runner:
        """A function compiled from a form of a workload; one without scan has nothing to unroll."""
        import jax

        names = list(arguments)
        words = (jax, functools.partial(jax.lax.scan, unroll=unroll)) if unroll else (jax,)

        def forward(*values: Any) -> Any:
            return getattr(workload, form)(*words, **dict(zip(names, values, strict=True)))

        def cost(*values: Any) -> Any:
            return workload.cost(forward(*values), dict(zip(names, values, strict=True)))

        if kind == FORWARD:
            function = jax.jit(forward)
        else:
            function = jax.jit(jax.value_and_grad(cost, tuple(names.index(n) for n in workload.wrt)))
        arrays = [jax.device_put(np.asarray(v)) for v in arguments.values()]
        return lambda: jax.block_until_ready(function(*arrays))

    def arrays(self, results: Any) -> list[Any]:
        flat = [*results[:1], *results[1]] if len(results) == 2 and isinstance(results[1], tuple) else results
        return super().arrays(flat)


class Numba(System):
    """Loops written by hand, derivatives too where a workload has them."""

    name = package = "numba"

    def method(self, kind: str) -> str:
        return "numba" if kind == FORWARD else "numba_gradient"

    def build(self, workload: Workload, kind: str, arguments: Arguments, tune: bool = True) -> Runner:
        import numba

        njit = functools.partial(numba.njit, cache=True) if "NUMBA_CACHE_DIR" in os.environ else numba.njit
        function = getattr(workload, self.method(kind))(njit)
        return functools.partial(function, *plain(arguments))


class C(System):
    """Loops and derivatives written by hand and compiled by gcc for this machine: how fast it can be."""

    name, package = "C", "gcc"

    def version(self) -> str | None:
        return compiled_c.version()

    def wake(self) -> None:
        compiled_c.library()

    def method(self, kind: str) -> str:
        return "c" if kind == FORWARD else "c_gradient"

    def build(self, workload: Workload, kind: str, arguments: Arguments, tune: bool = True) -> Runner:
        function = compiled_c.function(getattr(workload, self.method(kind)))
        given = [np.ascontiguousarray(v) if np.ndim(v) else np.array(float(v)) for v in arguments.values()]
        results = result_arrays(workload, kind, arguments)
        return compiled_c.call(function, given, results)


class Torch(System):
    """Eagerly, on the CPU."""

    name = package = "torch"

    def method(self, kind: str) -> str:
        return "torch"

    def jit(self, torch: Any) -> Callable[[Any], Any]:
        """What a workload passes its step through."""
        return lambda step: step

    def build(self, workload: Workload, kind: str, arguments: Arguments, tune: bool = True) -> Runner:
        import torch

        torch.set_num_threads(1)
        tensors = {
            n: torch.tensor(v, dtype=None if isinstance(v, (int, np.ndarray)) else torch.float64)
            for n, v in arguments.items()
        }
        parameters = [tensors[n].requires_grad_() for n in workload.wrt] if kind != FORWARD else []
        jit = self.jit(torch)

        def forward() -> Any:
            with torch.no_grad():
                return workload.torch(torch, jit, **tensors)  # type: ignore[attr-defined]

        def gradient() -> Any:
            cost = workload.cost(workload.torch(torch, jit, **tensors), tensors)  # type: ignore[attr-defined]
            return [cost.detach(), *torch.autograd.grad(cost, parameters)]

        return forward if kind == FORWARD else gradient

    def arrays(self, results: Any) -> list[Any]:
        return [r.numpy() for r in results]


class TorchCompiled(Torch):
    """With `torch.compile` of a step, where a workload has one apart."""

    name = "torch.compile"

    def can(self, workload: Workload, kind: str) -> bool:
        return super().can(workload, kind) and "jit(" in inspect.getsource(type(workload).torch)  # type: ignore[attr-defined]

    def jit(self, torch: Any) -> Callable[[Any], Any]:
        return functools.partial(torch.compile, dynamic=False)


class NumPy(System):
    """The plain loop that is the reference, with no thought of speed."""

    name, package = "NumPy", "numpy"

    def method(self, kind: str) -> str:
        return "numpy" if kind == FORWARD else "numpy_gradient"

    def build(self, workload: Workload, kind: str, arguments: Arguments, tune: bool = True) -> Runner:
        return functools.partial(getattr(workload, self.method(kind)), **arguments)


SYSTEMS: dict[str, System] = {
    s.name: s for s in (Ostinato(), C(), Numba(), JAX(), PyTensor(), Torch(), TorchCompiled(), NumPy())
}


def plain(arguments: Arguments) -> list[Any]:
    """Arguments as Python numbers and arrays."""
    return [v if isinstance(v, int) else float(v) if np.ndim(v) == 0 else np.asarray(v) for v in arguments.values()]


def result_arrays(workload: Workload, kind: str, arguments: Arguments) -> list[Any]:
    """Empty arrays for results; networks compute in float32, and so do they where all their arrays are."""
    dtype = np.result_type(*(v for v in arguments.values() if np.ndim(v)))
    if kind == FORWARD:
        return [np.zeros(np.shape(r), dtype) for r in workload.numpy(**arguments)]
    return [np.zeros((), dtype), *(np.zeros(np.shape(arguments[n]), dtype) for n in workload.wrt)]


def fastest(candidates: Sequence[Runner], rounds: int = 3) -> Runner:
    """The candidate whose best call is the shortest."""
    if len(candidates) == 1:
        return candidates[0]
    for candidate in candidates:
        candidate()
    best = [min(seconds(candidate) for _ in range(rounds)) for candidate in candidates]
    return candidates[best.index(min(best))]
