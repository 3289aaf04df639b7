"""A Graph compiled for the device, as a callable: what comes in, what goes out, and its report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ostinato.backends import Report
from ostinato.backends.reference import Interpreter
from ostinato.backends.triton.kernels import is_interpreted, is_rehearsal
from ostinato.backends.triton.notes import TO_DEVICE, Notes
from ostinato.backends.triton.replay import Replay
from ostinato.backends.triton.run import Program, is_kept, on_device, place_of, signature, to_device, to_host
from ostinato.backends.triton.tensors import default_device, torch_dtype
from ostinato.config import config
from ostinato.device import require_gpu
from ostinato.errors import MemoryBudgetError, OstinatoError, OstinatoTypeError
from ostinato.graph import Graph
from ostinato.memory import half
from ostinato.rewrite.engine import run_passes
from ostinato.rewrite.log_products import written_out
from ostinato.types import DTYPES, TensorType, is_lossless

# A result that lies in memory of so many times its size is copied, so that the rest can be used again.
_WASTE = 4


class DeviceExecutable:
    """A Graph compiled for the device: a callable from arrays, one per param, to arrays of NumPy, one per result.

    Parameters
    ----------
    frugal : makes the same Graph within so many bytes for what its loops keep, for calls that memory is too small for.
    """

    def __init__(self, graph: Graph, frugal: Callable[[int], Graph] | None = None) -> None:
        graph = run_passes(graph, (written_out,))
        self._graph, self.notes, self._frugal = graph, Notes(), frugal
        self._precision = config.gpu_precision
        start = time.perf_counter()
        self._program = Program(graph, self.notes)
        self._replay = Replay(self._program, graph)
        self.notes.seconds["plan"] += time.perf_counter() - start
        # The constants are tensors that every call reads.
        self._constants = {place_of(x) for x in self._program.template if isinstance(x, torch.Tensor)}
        # By the sizes that memory is too small for, what computes the same and keeps less; and by its budget.
        self._for_sizes: dict[Any, Program] = {}
        self._for_budget: dict[int, Program] = {}

    def __call__(self, values: Sequence[Any]) -> list[Any]:
        return [self.as_array(r) for r in self.run([self.moved(v) for v in values])]

    # ---- in ----

    def moved(self, value: Any) -> Any:
        """An argument where it is wanted: integers on the host, all else on the device."""
        if not isinstance(value, torch.Tensor):
            return to_device(value, self.notes)
        if value.ndim == 0 and not value.is_floating_point():
            return to_host(value, self.notes)
        if value.device == default_device():
            return value
        self.notes.transfers[TO_DEVICE] += 1
        return value.to(default_device())

    def run(self, values: Sequence[Any]) -> list[Any]:
        """The results of values that were `moved`: tensors, which may share memory, and integers.

        Raises
        ------
        OstinatoError
            What the reference says of the same values, if it fails too: it knows names, lines and steps.
        """
        self.notes.calls += 1
        if config.gpu_precision == self._precision:
            return self._results(values)
        with config.change_flags(gpu_precision=self._precision):
            return self._results(values)

    def _results(self, values: Sequence[Any]) -> list[Any]:
        try:
            if self._for_sizes and (found := self._for_sizes.get(signature(values))) is not None:
                return found.run(values)
            try:
                return self._replay.run(values)
            except torch.cuda.OutOfMemoryError as error:
                if self._frugal is None:
                    raise
                return self._within_memory(values, error)
        except OstinatoError:
            if not is_rehearsal():
                Interpreter(self._graph)([to_host(v, self.notes) for v in values])
            raise

    def _within_memory(self, values: Sequence[Any], error: Exception) -> list[Any]:
        """The results, by a program that keeps no more than half of the memory that is free."""
        budget = half(free_memory())
        assert self._frugal is not None
        try:
            program = self._for_budget.get(budget)
            if program is None:
                graph = run_passes(self._frugal(budget), (written_out,))
                program = self._for_budget[budget] = Program(graph, self.notes)
            results = program.run(values)
        except (MemoryBudgetError, torch.cuda.OutOfMemoryError):
            raise error from None
        self._constants |= {place_of(x) for x in program.template if isinstance(x, torch.Tensor)}
        self._for_sizes[signature(values)] = program
        self.notes.kept_less = True
        return results

    # ---- out ----

    def owned(self, results: Sequence[Any], given: Sequence[Any], types: Sequence[TensorType]) -> list[torch.Tensor]:
        """Results as contiguous tensors that share memory with nothing else.

        Parameters
        ----------
        given : what the call was made with.
        """
        taken = {place_of(x) for x in given if isinstance(x, torch.Tensor)} | self._constants
        return [_own(on_device(r, t.dtype), taken) for r, t in zip(results, types, strict=True)]

    def as_array(self, result: Any) -> Any:
        """A result as an array of NumPy."""
        return result if is_rehearsal() else np.asarray(to_host(result, self.notes))

    # ---- what was done ----

    @property
    def compilations(self) -> int:
        """How many kernels its loops have become so far."""
        return self.notes.compilations

    @property
    def report(self) -> Report:
        """What was done so far; kernels are made when a loop meets its arrays."""
        notes = self.notes
        where = "in Triton's interpreter, without a GPU" if is_interpreted() else f"on {_device_name()}"
        return Report(
            f"run {where}, with a kernel for all steps of a loop",
            dict(notes.seconds),
            {"triton": lambda: notes.texts},
            sorted(notes.called_out),
            note="\n".join(notes.lines),
        )


def free_memory() -> int:
    """The bytes of the GPU's memory that could still be taken."""
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info()[0])


def _device_name() -> str:
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "no GPU"


def _own(result: torch.Tensor, taken: set[int]) -> torch.Tensor:
    """A result that shares memory with nothing else and is contiguous."""
    place = place_of(result)
    is_part = result.untyped_storage().nbytes() > _WASTE * result.nbytes
    if place in taken or is_kept(result) or is_part or not result.is_contiguous():
        result = result.clone(memory_format=torch.contiguous_format)
    taken.add(place_of(result))
    return result


def is_foreign(value: Any) -> bool:
    """Whether a value is a tensor, or something else than NumPy's that speaks DLPack."""
    return isinstance(value, torch.Tensor) or (hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray))


def adopt(value: Any, type_: TensorType, what: str, allow_downcast: bool | None = None, strict: bool = False) -> Any:
    """A tensor, or anything that speaks DLPack, as a tensor of a type, where it lies; not copied if it can be helped.

    Parameters
    ----------
    what : how a message names the value.
    allow_downcast : whether it may be converted with loss of precision.
    strict : accept no conversion at all.

    Raises
    ------
    OstinatoTypeError
        If dtype, number of dimensions or known sizes are not those of the type.
    """
    try:
        tensor = value if isinstance(value, torch.Tensor) else torch.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise OstinatoTypeError(
            f"{what}: expected {type_}, got a {type(value).__name__} that is no array: {error}"
        ) from error
    dtype = str(tensor.dtype).removeprefix("torch.")
    sizes = zip(type_.shape, tensor.shape, strict=False)
    problem = None
    if tensor.layout is not torch.strided or dtype not in DTYPES:
        problem = "; there is no form of it here"
    elif tensor.ndim != type_.ndim or any(wanted not in (None, size) for wanted, size in sizes):
        problem = ""
    elif dtype != type_.dtype and (strict or not (allow_downcast or is_lossless(dtype, type_.dtype))):
        problem = f", which may lose precision; convert it by .to(torch.{type_.dtype})"
    if problem is not None:
        got = f"got a tensor of {dtype} and shape {tuple(tensor.shape)}"
        raise OstinatoTypeError(f"{what}: expected {type_}, {got}{problem}")
    # A view of an imaginary part may have its sign elsewhere than in memory.
    return tensor.detach().to(torch_dtype(type_.dtype)).resolve_neg()


def compile_graph(graph: Graph) -> DeviceExecutable:
    """The Graph as a callable from arrays, one per param, to arrays of NumPy, one per result."""
    require_gpu()
    return DeviceExecutable(graph)
