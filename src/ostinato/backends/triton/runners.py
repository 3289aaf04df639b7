"""A Loop that is one kernel: memory for its results, and launches on the arrays of a call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ostinato.backends.triton.emit import Emitter
from ostinato.backends.triton.kernels import launch, machine
from ostinato.backends.triton.layout import Access, Kernel
from ostinato.backends.triton.notes import TO_HOST, Notes
from ostinato.backends.triton.tensors import Reversed, as_tensor, default_device, torch_dtype
from ostinato.config import config
from ostinato.errors import OstinatoValueError, ShapeError
from ostinato.ops.loop import LoopInputs, LoopSpec, body_of, split
from ostinato.types import TensorType

Runner = Callable[..., tuple[Any, ...]]
# Arrays by the kind of an `Access`, and by number.
Sources = dict[str, Sequence[Any]]

# One launch makes so many steps at most; a kernel counts them with 32 bits.
_LONGEST = 1 << 30

# A loop that stops by a condition makes so many steps, then twice as many, between looks at how far it is.
_FIRST_STEPS = 1024


class KernelRunner:
    """A Loop as one kernel.

    Parameters
    ----------
    groups : outputs whose rows are to lie side by side in memory.
    chunk_major : whether what is recorded is to lie in memory as if steps were the second axis.
    """

    def __init__(
        self, spec: LoopSpec, notes: Notes, name: str, groups: list[list[int]], chunk_major: bool = False
    ) -> None:
        self.spec, self.notes, self.groups, self.chunk_major = spec, notes, groups, chunk_major
        self.name, self.has_until = name, spec.has_until
        self.kernels: dict[frozenset[str], Kernel] = {}
        self.kernel = self._kernel(frozenset())
        self.constants = [as_tensor(c, c.dtype.name) for c in self.kernel.constants]
        self.body = body_of(spec)

    def _kernel(self, strided: frozenset[str]) -> Kernel:
        """The kernel for arrays of which some have rows that are not contiguous."""
        kernel = self.kernels.get(strided)
        if kernel is None:
            start = time.perf_counter()
            emitter = Emitter(self.spec, config.gpu_precision, machine(), strided)
            kernel = self.kernels[strided] = emitter.kernel()
            self.notes.seconds["emit"] += time.perf_counter() - start
        return kernel

    @property
    def lanes(self) -> int:
        """How many elements there are that programs share out."""
        return math.prod(axis.size for axis, _ in self.kernel.sizes)

    def __call__(self, *inputs: Any, first: int = 0) -> tuple[Any, ...]:
        """All results; `first` is the number of the first step."""
        given = split(self.spec, inputs)
        steps = int(given.trip_count)
        for x in given.sequences:
            if x.shape[0] < steps:
                raise ShapeError(f"a sequence of the loop has {x.shape[0]} rows, but {steps} steps are to be made")
        if self.spec.has_until:
            return self._until(given, steps)
        every = self.every(given)
        outputs = self.outputs(steps, every)
        if not steps:
            return (*given.carries, *outputs, np.int64(0))
        sources = self.sources(given)
        done = 0
        while done < steps:
            block = min(steps - done, _LONGEST)
            sources |= {"final": self.finals(), "output": _behind(outputs, every, done)} | self.exchanged()
            self._launch(sources, None, block, done, first)
            sources["carry"] = sources["final"]
            done += block
        return (*sources["carry"], *outputs, np.int64(steps))

    def every(self, given: LoopInputs) -> list[int]:
        every = self.spec.strides(given.invariants)
        if any(k < 1 for k in every):
            raise OstinatoValueError("each how many-th step is recorded is at least 1")
        return every

    def sources(self, given: LoopInputs) -> Sources:
        """What is read, by kind."""
        found = {"sequence": given.sequences, "carry": given.carries, "invariant": given.invariants}
        return {**found, "constant": self.constants}

    def finals(self) -> list[torch.Tensor]:
        """Memory for the last states."""
        return [_empty(c.type.shape, c.type.dtype) for c in self.body.carries]

    def outputs(self, steps: int, every: Sequence[int]) -> list[torch.Tensor]:
        """Memory for the rows of the outputs, of which each `every`-th is recorded."""
        found: dict[int, torch.Tensor] = {}
        for group in self.groups:
            rows = [self.body.outputs[j].type for j in group]
            widths = [int(row.shape[-1]) for row in rows]
            whole = _empty((steps, *rows[0].shape[:-1], sum(widths)), rows[0].dtype)
            found.update(zip(group, torch.split(whole, widths, dim=-1), strict=True))
        pairs = zip(self.body.outputs, every, strict=True)
        return [
            found[j] if j in found else self._output(count_recorded(k, 0, steps), y.type)
            for j, (y, k) in enumerate(pairs)
        ]

    def _output(self, steps: int, row: TensorType) -> torch.Tensor:
        sizes = _known(row)
        if self.chunk_major:
            return _empty((sizes[0], steps, *sizes[1:]), row.dtype).transpose(0, 1)
        return _empty((steps, *sizes), row.dtype)

    def _launch(self, sources: Sources, status: Any, steps: int, done: int, first: int) -> None:
        """Make steps from number `first + done` on; of sequences, `done` rows are behind."""
        kernel, tensors, numbers = self.prepared(sources, steps, done, first)
        tensors += [status] if self.has_until else []
        start = time.perf_counter()
        self.notes.launched(kernel, self.notes.told(self.name, kernel), launch(kernel, tensors, numbers), start)

    def prepared(
        self, sources: Sources, steps: int, done: int = 0, first: int = 0
    ) -> tuple[Kernel, list[Any], list[int]]:
        """The kernel for arrays, its accesses' tensors, and the numbers of a launch."""
        accesses = self.kernel.accesses
        pairs = [_rows(a, self._source(a, sources), done) for a in accesses]
        strided = [a.name for a, (x, _) in zip(accesses, pairs, strict=True) if not _has_dense_rows(a, x)]
        kernel = self._kernel(frozenset(strided))
        strides = [(t, x.stride()[a.stepped :]) for a, (x, t) in zip(kernel.accesses, pairs, strict=True)]
        every = [int(sources["invariant"][k]) for k in kernel.thinned.values()]
        return kernel, [x for x, _ in pairs], kernel.numbers(strides, every, steps, first + done)

    def _source(self, access: Access, sources: Sources) -> Any:
        value = sources[access.kind][access.number]
        types = {"carry": self.body.carries, "invariant": self.body.invariants}
        return as_tensor(value, types[access.kind][access.number].type.dtype) if access.kind in types else value

    def exchanged(self) -> Sources:
        """Memory in which programs exchange what they hold."""
        device = default_device()
        slots = [torch.zeros((2, *shape), dtype=torch.int64, device=device) for shape in self.kernel.exchanges]
        return {"exchange": slots, "partial": slots}

    def bound(self, inputs: Sequence[Any]) -> Runner:
        """The same for inputs of exactly these kinds and sizes, with these numbers: quicker from the second call on."""
        from ostinato.backends.triton.bound import BoundKernel

        given = split(self.spec, inputs)
        steps = int(given.trip_count)
        if self.has_until or not 0 < steps <= _LONGEST:
            return self
        return BoundKernel(self, inputs, steps)

    def _until(self, given: LoopInputs, limit: int) -> tuple[Any, ...]:
        """In blocks of steps: the state stays on the device, and the host looks after each how far it is."""
        done, block, going = 0, min(limit, _FIRST_STEPS), limit > 0
        every, sources = self.every(given), self.sources(given)
        sources["carry"] = [as_tensor(c, p.type.dtype) for c, p in zip(given.carries, self.body.carries, strict=True)]
        blocks: list[list[Any]] = [[] for _ in self.body.outputs]
        status = torch.zeros(2, dtype=torch.int64, device=default_device())
        while going:
            pairs = list(zip(self.body.outputs, every, strict=True))
            outputs = [_empty((count_recorded(k, done, block), *_known(y.type)), y.type.dtype) for y, k in pairs]
            sources |= {"final": self.finals(), "output": outputs} | self.exchanged()
            self._launch(sources, status, block, done, 0)
            made_steps, keep = (int(v) for v in status.cpu()) if not status.is_meta else (block, 0)
            self.notes.transfers[TO_HOST] += 1
            for held, rows, k in zip(blocks, outputs, every, strict=True):
                held.append(rows[: count_recorded(k, done, made_steps)])
            sources["carry"] = sources["final"]
            done += made_steps
            going = bool(keep) and done < limit
            block = min(2 * block, limit - done)
        rows = [_joined(b, y.type) for b, y in zip(blocks, self.body.outputs, strict=True)]
        return (*sources["carry"], *rows, np.int64(done))


def count_recorded(every: int, first: int, steps: int) -> int:
    """How many of steps from number `first` on are recorded."""
    return -(-(first + steps) // every) - -(-first // every)


def _behind(rows: Sequence[torch.Tensor], every: Sequence[int], done: int) -> list[torch.Tensor]:
    """The rows of outputs that come after `done` steps."""
    return [y[count_recorded(k, 0, done) :] if done else y for y, k in zip(rows, every, strict=True)]


def _joined(blocks: Sequence[torch.Tensor], row: TensorType) -> torch.Tensor:
    """The rows of an output of all blocks."""
    if not blocks:
        return _empty((0, *_known(row)), row.dtype)
    return torch.cat(list(blocks)) if len(blocks) > 1 else blocks[0]


def _known(row: TensorType) -> list[int]:
    return [int(s) for s in row.shape if s is not None]  # all are known here


def _has_dense_rows(access: Access, tensor: torch.Tensor) -> bool:
    expected = 1
    for size, stride in zip(reversed(tensor.shape[access.stepped :]), reversed(tensor.stride()), strict=False):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _rows(access: Access, value: Any, first: int) -> tuple[Any, int]:
    """The tensor that a kernel gets for an array, beginning with row `first`, and the stride of steps."""
    if not access.stepped:
        return value, 0
    if isinstance(value, Reversed):
        n = value.tensor.shape[0]
        # Row 0 is the last one; an empty array has none, and nothing will be read.
        return (value.tensor[n - 1 - first :] if n else value.tensor), -value.tensor.stride(0)
    return (value[first:] if access.kind == "sequence" and first else value), value.stride(0)


def _empty(shape: Sequence[int], dtype: str) -> torch.Tensor:
    return torch.empty(tuple(shape), dtype=torch_dtype(dtype), device=default_device())
