"""A GPU that is not there: Triton compiles, and what it would launch is written down instead.

For tests of launches and for timing what the host does, on machines without a GPU. Arrays lie in the host's memory, and
results are whatever was there. To be used in a process of its own in which Triton's interpreter is off.
"""

from __future__ import annotations

from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from ostinato.backends.triton import kernels, tensors
from ostinato.backends.triton.layout import Machine

# What was launched, as Triton's launcher gets it, and the texts of kernels for which Triton was asked.
LAUNCHES: list[tuple[Any, ...]] = []
ASKED: list[str] = []


class _Utils:
    """Stands in for what loads machine code."""

    loaded = 0

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[Any, ...]:
        _Utils.loaded += 1
        return (object(), _Utils.loaded, 32, 0, 1024)

    def unload_module(self, module: object) -> None:
        pass

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232_448}


class _Launch:
    """Stands in for what launches a kernel: `grid x 3, stream, function, metadata x 2, hooks x 2, *arguments`."""

    def __init__(self, source: object, metadata: object) -> None:
        pass

    def __call__(self, *args: Any) -> None:
        LAUNCHES.append(args)


class _Driver:
    """Stands in for Triton's driver of a GPU."""

    utils, launcher_cls = _Utils(), _Launch

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def pretend() -> None:
    """Let there be a GPU whose memory is the host's."""
    driver.set_active(_Driver())
    torch.cuda.is_available = lambda: True
    torch.cuda.current_device = lambda: 0
    kernels._gpu = Machine  # type: ignore[assignment]
    tensors._gpu = lambda _: torch.device("cpu")  # type: ignore[assignment]
    made = kernels.made

    def noted(text: str) -> Any:
        ASKED.append(text)
        return made(text)

    kernels.made = noted
