"""The systems: how each compiles a workload, is called, and gives results back as NumPy arrays.

A system's build makes a callable without arguments that returns when the results are there; its own arrays are made
before, so that no call pays for a conversion.
"""

from __future__ import annotations

import functools
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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
        return workload.has(self.method(kind))

    @abstractmethod
    def build(self, workload: Workload, kind: str, arguments: Arguments, tune: bool = True) -> Runner:
        """Trace, compile, bring the arguments into place; choose among variants by time, if told to tune."""

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
        return self.parts()[1].scan(*args, **options)[0]

    def graph(self, workload: Workload, kind: str, arguments: Arguments) -> tuple[list[Any], list[Any]]:
        """Inputs and outputs."""
        T, _ = self.parts()
        inputs = {}
        for name, value in arguments.items():
            array = np.asarray(value)
            shape = array.shape if name in workload.static else (None,) * array.ndim
            inputs[name] = T.tensor(dtype=str(array.dtype), shape=shape, name=name)
        results = workload.symbolic(T, self.scan, **inputs)  # type: ignore[attr-defined]
        if kind == FORWARD:
            return list(inputs.values()), results
        cost = workload.cost(results, inputs)
        return list(inputs.values()), [cost, *T.grad(cost, [inputs[n] for n in workload.wrt])]


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

    def build(self, workload: Workload, kind: str, arguments: Arguments, tune: bool = True) -> Runner:
        unrolls = workload.unrolls if tune else (1,)
        return fastest([self.jitted(workload, kind, arguments, unroll) for unroll in unrolls])

    def wake(self) -> None:
        import jax

        jax.block_until_ready(jax.device_put(np.zeros(1)))

    def jitted(self, workload: Workload, kind: str, arguments: Arguments, unroll: int) -> Runner:
        import jax

        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        names = list(arguments)
        scan = functools.partial(jax.lax.scan, unroll=unroll)

        def forward(*values: Any) -> Any:
            return workload.jax(jax, scan, **dict(zip(names, values, strict=True)))  # type: ignore[attr-defined]

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

        function = getattr(workload, self.method(kind))(numba.njit)
        values = [float(v) if np.ndim(v) == 0 else np.asarray(v) for v in arguments.values()]
        return functools.partial(function, *values)


class Torch(System):
    """Eagerly, on the CPU."""

    name = package = "torch"

    def method(self, kind: str) -> str:
        return "torch"

    def build(self, workload: Workload, kind: str, arguments: Arguments, tune: bool = True) -> Runner:
        import torch

        torch.set_num_threads(1)
        tensors = {
            n: torch.tensor(v, requires_grad=kind != FORWARD and n in workload.wrt) for n, v in arguments.items()
        }
        parameters = [tensors[n] for n in workload.wrt]

        def forward() -> Any:
            with torch.inference_mode():
                return workload.torch(torch, **tensors)  # type: ignore[attr-defined]

        def gradient() -> Any:
            cost = workload.cost(workload.torch(torch, **tensors), tensors)  # type: ignore[attr-defined]
            return [cost.detach(), *torch.autograd.grad(cost, parameters)]

        return forward if kind == FORWARD else gradient

    def arrays(self, results: Any) -> list[Any]:
        return [r.numpy() for r in results]


class NumPy(System):
    """The plain loop that is the reference, with no thought of speed."""

    name, package = "NumPy", "numpy"

    def method(self, kind: str) -> str:
        return "numpy" if kind == FORWARD else "numpy_gradient"

    def build(self, workload: Workload, kind: str, arguments: Arguments, tune: bool = True) -> Runner:
        return functools.partial(getattr(workload, self.method(kind)), **arguments)


SYSTEMS: dict[str, System] = {s.name: s for s in (Ostinato(), Numba(), JAX(), PyTensor(), Torch(), NumPy())}


def fastest(candidates: Sequence[Runner], rounds: int = 5) -> Runner:
    """The candidate whose best call is the shortest."""
    if len(candidates) == 1:
        return candidates[0]
    for candidate in candidates:
        candidate()
    best = [min(seconds(candidate) for _ in range(rounds)) for candidate in candidates]
    return candidates[best.index(min(best))]
