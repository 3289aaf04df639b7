"""Kernels from their text: made once per text, launched on the arrays of a call."""

from __future__ import annotations

import hashlib
import linecache
import os
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ostinato.backends.triton.emit import Access, Kernel

_MADE: dict[str, Any] = {}
_LOCK = threading.Lock()


def is_interpreted() -> bool:
    """Whether Triton's interpreter runs kernels, on the CPU, step by step; for tests without a GPU."""
    return os.environ.get("TRITON_INTERPRET", "0") in ("1", "true", "yes", "on")


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


def launch(kernel: Kernel, arrays: Sequence[tuple[Any, int]], status: Any, steps: int, first: int = 0) -> None:
    """Run a kernel.

    Parameters
    ----------
    arrays : per access a tensor and the stride of its steps; other strides are the tensor's own.
    status : int64 tensor of two elements for loops that stop by a condition: steps made, and whether to go on.
    """
    strides: list[int] = []
    for access, (tensor, stride) in zip(kernel.accesses, arrays, strict=True):
        strides += _strides(access, tensor, stride)
    sizes = [axis.size for axis, _ in kernel.sizes]
    extra = [status] if kernel.has_until else []
    arguments = [*[t for t, _ in arrays], *strides, *sizes, *extra, steps, first, 0]
    made(kernel.text)[(kernel.programs,)](*arguments, num_warps=kernel.warps)


def _strides(access: Access, tensor: Any, stride: int) -> list[int]:
    own = list(tensor.stride())
    return [stride, *own[1:]] if access.stepped else own
