"""A kernel bound to sizes: what a launch needs besides the places of arrays is worked out once.

The host takes longer to start a short loop than a GPU to run it. Calls with the same sizes differ in little more
than where their arrays lie.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ostinato.backends.triton.kernels import Launcher
from ostinato.backends.triton.runners import KernelRunner, count_recorded
from ostinato.backends.triton.tensors import Reversed, as_tensor, default_device, torch_dtype
from ostinato.ops.loop import split


class BoundKernel:
    """A `KernelRunner` for inputs of the kinds, sizes and strides of those that it is made with.

    Other strides are left to the runner. Several threads may call it at the same time.
    """

    def __init__(self, runner: KernelRunner, inputs: Sequence[Any], steps: int) -> None:
        self._runner, self._steps = runner, steps
        spec, body, given = runner.spec, runner.body, split(runner.spec, inputs)
        self._every = runner.every(given)
        sources = runner.sources(given) | {"final": runner.finals(), "output": runner.outputs(steps, self._every)}
        self._kernel, _, numbers = runner.prepared(sources | runner.exchanged(), steps)
        self._launcher = Launcher(self._kernel, numbers)
        self._told = runner.notes.told(runner.name, self._kernel)
        self._order = _places(runner, len(inputs))
        self._finals = [(c.type.shape, torch_dtype(c.type.dtype)) for c in body.carries]
        self._rows = [
            ((count_recorded(k, 0, steps), *y.type.shape), torch_dtype(y.type.dtype))
            for y, k in zip(body.outputs, self._every, strict=True)
        ]
        read = sorted({i for i in self._order if i < len(inputs)})
        types = [p.type for p in spec.body.params]
        self._strides = [(i, inputs[i].stride()) for i in read if isinstance(inputs[i], torch.Tensor)]
        self._turned = [(i, inputs[i].tensor.stride()) for i in read if isinstance(inputs[i], Reversed)]
        held = {i for i, _ in (*self._strides, *self._turned)}
        self._others = [(i, types[i].dtype) for i in read if i not in held]

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """All results, as of the runner."""
        runner, have = self._runner, list(inputs)
        for i, stride in self._strides:
            if have[i].stride() != stride:
                return runner(*inputs)
        for i, stride in self._turned:
            if have[i].tensor.stride() != stride:
                return runner(*inputs)
            have[i] = have[i].tensor[-1:]  # where the first step reads
        for i, dtype in self._others:
            have[i] = as_tensor(have[i], dtype)
        device = default_device()
        finals = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in self._finals]
        if runner.groups or runner.chunk_major:
            rows = runner.outputs(self._steps, self._every)
        else:
            rows = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in self._rows]
        have += [*runner.constants, *finals, *rows]
        have += runner.exchanged()["exchange"] if self._kernel.exchanges else []
        self._launch([have[i] for i in self._order])
        return (*finals, *rows, np.int64(self._steps))

    def _launch(self, tensors: Sequence[Any]) -> None:
        start = time.perf_counter()
        self._runner.notes.launched(self._kernel, self._told, self._launcher(tensors), start)


def _places(runner: KernelRunner, n: int) -> list[int]:
    """Per access where its array is, among the `n` inputs, constants, last states, rows and what is exchanged."""
    spec = runner.spec
    first = {"sequence": 1, "carry": 1 + spec.n_sequences, "constant": n}
    first["invariant"] = first["carry"] + spec.n_carries
    first["final"] = n + len(runner.constants)
    first["output"] = first["final"] + spec.n_carries
    first["exchange"] = first["partial"] = first["output"] + spec.n_outputs
    return [first[a.kind] + a.number for a in runner.kernel.accesses]
