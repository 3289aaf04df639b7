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


def is_interpreted() -> bool:
    """Whether Triton's interpreter runs kernels, on the CPU, step by step; for tests without a GPU."""
    return not is_rehearsal() and os.environ.get("TRITON_INTERPRET", "0") in ("1", "true", "yes", "on")


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


def launch(
    kernel: Kernel, arrays: Sequence[tuple[Any, int]], status: Any, steps: int, first: int = 0, arrivals: Any = None
) -> Any:
    """Run a kernel.

    Parameters
    ----------
    arrays : per access a tensor and the stride of its steps; other strides are the tensor's own.
    status : int64 tensor of two elements for loops that stop by a condition: steps made, and whether to go on.

    Returns
    -------
    triton.compiler.CompiledKernel or None
        What was run; None if nothing was compiled.

    Raises
    ------
    UnsplitError
        If Triton cannot compile the kernel, or the GPU has too little for it.
    """
    strides: list[int] = []
    for access, (tensor, stride) in zip(kernel.accesses, arrays, strict=True):
        if access.stepped:
            strides.append(stride)
        if access.name in kernel.strided:
            strides += tensor.stride()[access.stepped :]
    sizes = [axis.size for axis, _ in kernel.sizes]
    extra = [arrivals] if kernel.exchanges else []
    extra += [status] if kernel.has_until else []
    arguments = [*[t for t, _ in arrays], *strides, *sizes, *extra, steps, first, 0]
    if (listed := _REHEARSAL.get()) is not None:
        listed.append((kernel, arguments))
        return None
    options: dict[str, Any] = {"num_warps": kernel.warps, "num_stages": kernel.stages, "enable_fp_fusion": True}
    if kernel.exchanges:  # programs wait for each other: all of them must run at the same time
        if is_interpreted():
            from ostinato.backends.triton.interpreter import run_concurrently

            run_concurrently(made(kernel.text), kernel.programs, arguments)
            return None
        options["launch_cooperative_grid"] = True
    return _compiled_and_run(kernel, arguments, options)


def _compiled_and_run(kernel: Kernel, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    from triton.compiler import CompilationError
    from triton.runtime import OutOfResources

    try:
        with _INTERPRETER if is_interpreted() else nullcontext():
            found = made(kernel.text)[(kernel.programs,)](*arguments, **options)
    except (CompilationError, OutOfResources) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise UnsplitError(f"Triton refused its kernel: {lines[-1] if lines else type(error).__name__}") from error
    return None if is_interpreted() else found


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
    for k, (name, value) in enumerate(zip(function.arg_names, arguments, strict=True)):
        if isinstance(value, int):
            signature[name] = "i64" if abs(value) >= 1 << 31 else "i32"
            if value == 1 and name != "T":
                signature[name], constants[(k,)] = "constexpr", 1
        else:
            signature[name] = f"*{_POINTERS[str(value.dtype).removeprefix('torch.')]}"
        if not isinstance(value, int) or value % 16 == 0:
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
