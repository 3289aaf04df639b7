"""Kernels from their text: made once per text, launched on the arrays of a call."""

from __future__ import annotations

import hashlib
import linecache
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from types import ModuleType
from typing import Any

from ostinato.backends.triton.layout import Kernel, Machine
from ostinato.backends.triton.unsplit import UnsplitError

_MADE: dict[str, Any] = {}
_LOCK = threading.Lock()
_INTERPRETER = threading.Lock()  # Triton's interpreter has one state for all threads


# Where kernels go that are compiled and not run; None for launching them.
_REHEARSAL: ContextVar[list[Any] | None] = ContextVar("rehearsal", default=None)


@contextmanager
def rehearsal() -> Iterator[list[tuple[Kernel, list[Any]]]]:
    """A block in which kernels are not launched: functions get tensors without memory, and kernels are listed.

    Yields
    ------
    list
        Of each kernel in turn, with the arguments it would be launched with. For compiling kernels on machines
        without a GPU; results are tensors without memory too.
    """
    found: list[tuple[Kernel, list[Any]]] = []
    token = _REHEARSAL.set(found)
    try:
        yield found
    finally:
        _REHEARSAL.reset(token)


def is_rehearsal() -> bool:
    """Whether kernels are listed instead of launched."""
    return _REHEARSAL.get() is not None


@lru_cache(maxsize=1)
def _interprets() -> bool:
    """What Triton is told by the environment when it is imported."""
    return os.environ.get("TRITON_INTERPRET", "0") in ("1", "true", "yes", "on")


def is_interpreted() -> bool:
    """Whether Triton's interpreter runs kernels, on the CPU, step by step; for tests without a GPU."""
    return _interprets() and not is_rehearsal()


@lru_cache(maxsize=1)
def _gpu() -> Machine:
    import torch

    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    shared = getattr(found, "shared_memory_per_block_optin", Machine().shared)
    return Machine(processors=int(found.multi_processor_count), shared=int(shared))


def machine() -> Machine:
    """What kernels are made for: the GPU, or one like an H100 where there is none."""
    if is_interpreted() or is_rehearsal():
        return Machine(interpreted=is_interpreted())
    return _gpu()


def made(text: str) -> Any:
    """The Triton function of a kernel's text; the same object for the same text."""
    with _LOCK:
        function = _MADE.get(text)
        if function is None:
            function = _MADE[text] = _module(text).loop
        return function


def _module(text: str) -> ModuleType:
    """The text as a module. Triton reads the source of its functions: `linecache` has it, no file is needed."""
    name = f"<ostinato kernel {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    module = ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
    return module


def launch(kernel: Kernel, tensors: Sequence[Any], numbers: Sequence[int]) -> Any:
    """Run a kernel.

    Parameters
    ----------
    tensors, numbers : what its params stand for, in their order; see `Kernel.numbers`.

    Returns
    -------
    triton.compiler.CompiledKernel or None
        What was run; None if nothing was compiled.

    Raises
    ------
    UnsplitError
        If Triton cannot compile the kernel, or the GPU has too little for it.
    """
    arguments = [*tensors, *numbers]
    if (listed := _REHEARSAL.get()) is not None:
        listed.append((kernel, arguments))
        return None
    if kernel.exchanges and is_interpreted():
        from ostinato.backends.triton.interpreter import run_concurrently

        run_concurrently(made(kernel.text), kernel.programs, arguments)
        return None
    return _compiled_and_run(kernel, arguments)


def _compiled_and_run(kernel: Kernel, arguments: Sequence[Any]) -> Any:
    from triton.compiler import CompilationError
    from triton.runtime import OutOfResources

    options: dict[str, Any] = {"num_warps": kernel.warps, "num_stages": kernel.stages, "enable_fp_fusion": True}
    if kernel.exchanges:  # programs wait for each other: all of them must run at the same time
        options["launch_cooperative_grid"] = True
    try:
        with _INTERPRETER if is_interpreted() else nullcontext():
            found = made(kernel.text)[(kernel.programs,)](*arguments, **options)
    except (CompilationError, OutOfResources) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise UnsplitError(f"Triton refused its kernel: {lines[-1] if lines else type(error).__name__}") from error
    return None if is_interpreted() else found


class Launcher:
    """Launches of one kernel with the same numbers.

    To find what it has compiled for a launch, Triton looks at every argument: at dtypes and places of tensors, at
    values of numbers. If nothing but the places differs, and 16 divides all of them, that is what it was before, and
    is launched without being looked for.
    """

    def __init__(self, kernel: Kernel, numbers: Sequence[int]) -> None:
        self.kernel, self._numbers = kernel, tuple(numbers)
        self._ready: dict[int, Any] = {}  # by device

    def __call__(self, tensors: Sequence[Any]) -> Any:
        """Run the kernel; what was compiled, or None if it was launched before; see `launch`."""
        places = 0
        for tensor in tensors:
            places |= tensor.data_ptr()
        if places % 16:
            return launch(self.kernel, tensors, self._numbers)
        device = tensors[0].get_device()
        ready = self._ready.get(device)
        if ready is not None and not is_rehearsal():
            ready(*tensors, *self._numbers)
            return None
        compiled = launch(self.kernel, tensors, self._numbers)
        if compiled is not None:
            self._ready[device] = compiled[(self.kernel.programs, 1, 1)]
        return compiled


def compiled_for(kernel: Kernel, arguments: Sequence[Any], capability: int = 90) -> Any:
    """A kernel compiled for a kind of NVIDIA GPU that need not be there.

    Parameters
    ----------
    arguments : what it would be launched with, as a `rehearsal` lists them.
    capability : of the GPU, times 10.

    Returns
    -------
    triton.compiler.CompiledKernel
        Its `metadata.shared` is the shared memory that a program needs, in bytes.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = made(kernel.text)
    signature, constants, divisible = {}, {}, {}
    for k, (param, value) in enumerate(zip(function.params, arguments, strict=True)):
        name = param.name
        if isinstance(value, int):
            signature[name] = "i64" if abs(value) >= 1 << 31 else "i32"
            if value == 1 and not param.do_not_specialize:
                signature[name], constants[(k,)] = "constexpr", 1
        else:
            signature[name] = f"*{_POINTERS[str(value.dtype).removeprefix('torch.')]}"
        if not isinstance(value, int) or (value % 16 == 0 and not param.do_not_specialize):
            divisible[(k,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=divisible)
    return triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": kernel.warps, "num_stages": kernel.stages, "enable_fp_fusion": True},
    )


_POINTERS = {
    "bool": "i1", "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64", "uint8": "u8", "uint16": "u16",
    "uint32": "u32", "uint64": "u64", "float16": "fp16", "float32": "fp32", "float64": "fp64",
}  # fmt: skip
