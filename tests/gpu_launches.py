"""Launches on a GPU that is not there: `python gpu_launches.py`, a process that interprets nothing.

Triton compiles for real and then gives what it would launch to a stand-in for its driver, which writes it down. Printed
is a line of JSON per launch: the call of the function, the number of the kernel, the numbers among its arguments, for
each tensor the argument in whose place it lies, and whether Triton was asked for the kernel. All calls are made by two
functions, for the second of which it always is.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

import ostinato
import ostinato.tensor as T
from ostinato.backends.triton import kernels
from ostinato.testing.pretended_gpu import ASKED, LAUNCHES, pretend


def told(call: str, launch: tuple[Any, ...], places: dict[int, str]) -> dict[str, Any]:
    """A launch in words."""
    arguments = launch[9:]
    where = [places.get(a.data_ptr(), "new") for a in arguments if isinstance(a, torch.Tensor)]
    numbers = [a for a in arguments if not isinstance(a, torch.Tensor)]
    return {
        "call": call,
        "grid": launch[:3],
        "kernel": launch[4],
        "arrays": where,
        "numbers": numbers,
        "asked": len(ASKED),
    }


def aligned(*shape: int, offset: int = 0) -> torch.Tensor:
    """Zeros that begin where 64 divides the place, or so many elements after that."""
    n = int(np.prod(shape))
    memory = torch.zeros(n + 64)
    first = (-memory.data_ptr() // 4) % 16 + offset
    return memory[first : first + n].view(shape)


def calls(f: Any) -> None:
    """Call a function on arrays that differ in this and that."""
    kept = []  # so that no memory is used twice
    for call, x, a in [
        ("first", aligned(8, 48), aligned(48)),
        ("again", aligned(8, 48), aligned(48)),
        ("once more", aligned(8, 48), aligned(48)),
        ("not aligned", aligned(8, 48, offset=1), aligned(48)),
        ("not aligned again", aligned(8, 48, offset=1), aligned(48)),
        ("strided", aligned(48, 8).T, aligned(48)),
        ("strided again", aligned(48, 8).T, aligned(48)),
        ("as at first", aligned(8, 48), aligned(48)),
        ("longer", aligned(9, 48), aligned(48)),
        ("wider", aligned(8, 49), aligned(49)),
    ]:
        LAUNCHES.clear()
        ASKED.clear()
        kept.append((x, a, f(x, a)))
        places = {x.data_ptr(): "x", x[-1].data_ptr(): "last of x", a.data_ptr(): "a"}
        for launch in LAUNCHES:
            print(json.dumps(told(call, launch, places)))


def main() -> None:
    """Print the launches of both functions."""
    pretend()
    x, a = T.fmatrix("x"), T.fvector("a")
    y, _ = ostinato.scan(lambda x_t, h: T.tanh(a * h + x_t), x, T.zeros_like(x[0]), go_backwards=True)
    f, g = (ostinato.function([x, a], [y, y[-1]], device="cuda") for _ in range(2))
    calls(f)
    kernels.Launcher.__call__ = lambda self, tensors: kernels.launch(self.kernel, tensors, self._numbers)  # type: ignore[method-assign]
    calls(g)


if __name__ == "__main__":
    main()
