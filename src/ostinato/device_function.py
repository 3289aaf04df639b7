"""Functions on a GPU: arguments from anywhere, results as tensors or arrays, and shared values that stay there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ostinato.backends.triton.executable import DeviceExecutable, adopt, is_foreign
from ostinato.backends.triton.kernels import is_rehearsal
from ostinato.backends.triton.tensors import default_device, torch_dtype
from ostinato.closing import Closed, In
from ostinato.config import config
from ostinato.device import Choice
from ostinato.function import Function
from ostinato.graph import Graph
from ostinato.ops.loop import LOOP
from ostinato.rewrite.checkpoints import with_budget
from ostinato.rewrite.pipeline import rewrite
from ostinato.shared import SHARED_VALUES
from ostinato.types import TensorType


class DeviceFunction(Function):
    """A computation compiled for a GPU; made by `function`.

    Calls take arrays of NumPy, numbers, tensors of torch and whatever else has `__dlpack__`. What lies on the GPU is
    not copied, and work is put on torch's current stream. They return tensors, or arrays of NumPy if `choice.tensors`
    is false. What torch's autograd knows of an argument is not continued: derivatives are made by `grad`.
    """

    def __init__(
        self, closed: Closed, keys: Any, choice: Choice, name: str | None, allow_input_downcast: bool | None
    ) -> None:
        super().__init__(closed, keys, choice, name, allow_input_downcast)
        self._inputs = [_DeviceIn(i) for i in closed.inputs]
        self._wanted = [_Wanted(i.variable.type) for i in closed.inputs]
        self._defaults = [None if d is None else self._run.moved(d) for d in self._defaults]

    def _compiled(self, closed: Graph) -> DeviceExecutable:
        if config.memory_budget != "auto" or not any(n.op is LOOP for n in closed.nodes()):
            return DeviceExecutable(self.graph)

        def frugal(budget: int) -> Graph:
            with config.change_flags(floatX=self._floatX):
                return rewrite(with_budget(closed, budget))

        return DeviceExecutable(self.graph, frugal)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the computation; see `Function`. Results that are tensors may still be being computed when it returns."""
        run: DeviceExecutable = self._run
        values = self._tensors(args) if not kwargs and len(args) == len(self._wanted) else None
        if values is None:
            values = [run.moved(v) for v in self._arguments(args, kwargs)]
        values += self._device_values()
        results, types = run.run(values), self.graph.result_types
        n = len(results) - len(self._updated)
        # Updates first: a result may be copied for their sake, and is not wanted on the device if it is not a tensor.
        kept = [k for k in range(n, len(results)) if not _stays(results[k])]
        if self.choice.tensors:
            kept += range(n)
        tensors = run.owned([results[k] for k in kept], values, [types[k] for k in kept])
        for k, tensor in zip(kept, tensors, strict=True):
            results[k] = tensor
        if not self.choice.tensors:
            results[:n] = [run.as_array(r) for r in results[:n]]
        results[n:] = [np.asarray(r) if _stays(r) else r for r in results[n:]]
        if is_rehearsal():  # nothing was computed, so nothing changes
            return self._shaped(results[:n])
        return self._finished(results)

    def _tensors(self, args: Sequence[Any]) -> list[Any] | None:
        """The arguments if all are tensors just as they are wanted; every call asks that first, so it is quick."""
        device = default_device()
        for wanted, x in zip(self._wanted, args, strict=True):
            if not wanted.is_met_by(x, device):
                return None
        return list(args)

    def _device_values(self) -> list[Any]:
        """The values of shared variables; integers stay on the host."""
        if not self._shared:
            return []
        device = default_device()
        with SHARED_VALUES:
            return [
                s._on_host()[()] if s.type.ndim == 0 and not s.type.is_float else s._on_device(device, self._run.moved)
                for s in self._shared
            ]


def _stays(value: Any) -> bool:
    """Whether a new value of a shared variable is an integer, which every function wants on the host."""
    return not isinstance(value, torch.Tensor) and np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iub"


class _Wanted:
    """What a tensor has to be for nothing to be done to it."""

    def __init__(self, type_: TensorType) -> None:
        self.dtype = torch_dtype(type_.dtype)
        self.ndim = type_.ndim if type_.ndim or type_.is_float else -1  # integers and truth values go to the host
        self.known = [(axis, n) for axis, n in enumerate(type_.shape) if n is not None]

    def is_met_by(self, x: Any, device: torch.device) -> bool:
        return (
            type(x) is torch.Tensor
            and x.dtype is self.dtype
            and x.ndim == self.ndim
            and x.device == device
            and x.layout is torch.strided
            and not (x.requires_grad or x.is_neg())
            and (not self.known or all(x.shape[axis] == n for axis, n in self.known))
        )


class _DeviceIn(In):
    """An input that takes tensors as well."""

    def __init__(self, spec: In) -> None:
        super().__init__(spec.variable, spec.name, spec.value, spec.allow_downcast, spec.strict)

    def convert(self, value: Any, position: int, allow_downcast: bool | None) -> Any:
        """An argument as a tensor or an array of the variable's type."""
        if not is_foreign(value):
            return super().convert(value, position, allow_downcast)
        own = allow_downcast if self.allow_downcast is None else self.allow_downcast
        return adopt(value, self.variable.type, self._label(position), own, self.strict)
