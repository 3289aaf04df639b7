"""Loops that are more than one kernel, or none: in chunks of steps at the same time, and step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ostinato.backends.triton.affine import LEAST_STEPS, Phases, division
from ostinato.backends.triton.runners import KernelRunner
from ostinato.backends.triton.tensors import Reversed, as_tensor, default_device, torch_dtype
from ostinato.errors import OstinatoError
from ostinato.graph import Node
from ostinato.ops.loop import LOOP, LoopSpec, body_of, split

if TYPE_CHECKING:
    from ostinato.backends.triton.run import Program


class CutRunner:
    """A Loop whose state enters affinely: in chunks that run at the same time, if it makes many steps."""

    def __init__(self, cut: Phases, whole: KernelRunner) -> None:
        self.cut, self.whole, self.notes = cut, whole, whole.notes
        self.programs: tuple[Program, ...] = ()

    def _made(self) -> tuple[Program, ...]:
        """The programs of the phases; made when first needed, since the second is cut again."""
        from ostinato.backends.triton import run
        from ostinato.backends.triton.loops import LoopRunner

        class ChunkMajor(run.Program):
            def _instruction(self, node: Node) -> Any:
                return LoopRunner(node, self.notes, True) if node.op is LOOP else super()._instruction(node)

        if not self.programs:
            cut = self.cut
            self.programs = (
                run.Program(cut.transfer, self.notes),
                run.Program(cut.starts, self.notes),
                ChunkMajor(cut.run, self.notes),
            )
        return self.programs

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        given = split(self.whole.spec, inputs)
        steps, affine = int(given.trip_count), self.cut.affine
        if steps < LEAST_STEPS or any(x.shape[0] < steps for x in given.sequences):
            return self.whole(*inputs)
        chunks, length = division(steps, self.whole.lanes)
        rows = [_in_chunks(x, chunks, length) for x in given.sequences]
        sizes = (np.int64(length), np.int64(chunks))
        transfer, starts, run = self._made()
        moves = transfer.run((*sizes, *rows, *given.invariants))
        found = starts.run((sizes[1], *moves, *[given.carries[k] for k in affine]))
        ends, before = found[: len(affine)], found[len(affine) :]
        states = self._states(given.carries, before, chunks)
        results = run.run((*sizes, *rows, *states, *given.invariants))
        c = len(given.carries)
        finals = [
            ends[affine.index(k)] if k in affine else as_tensor(given.carries[k], str(x.dtype)[6:]) + x.sum(0)
            for k, x in enumerate(results[:c])
        ]
        outputs = [y.transpose(0, 1).flatten(0, 1) for y in results[c:]]
        return self._completed(given, finals, outputs, chunks * length, steps)

    def _states(self, carries: Sequence[Any], before: Sequence[Any], chunks: int) -> list[Any]:
        """Each chunk's own start: the state there, or nothing added up so far."""
        found, types = [], self.whole.body.carries
        for k, _ in enumerate(carries):
            shape = (chunks, *types[k].type.shape)
            zeros = torch.zeros(shape, dtype=torch_dtype(types[k].type.dtype), device=default_device())
            found.append(before[self.cut.affine.index(k)] if k in self.cut.affine else zeros)
        return found

    def _completed(self, given: Any, finals: list[Any], outputs: list[Any], done: int, steps: int) -> tuple[Any, ...]:
        """With the few steps that were left over."""
        if done == steps:
            return (*finals, *outputs, np.int64(steps))
        rows = [(x.plain() if isinstance(x, Reversed) else x)[done:steps] for x in given.sequences]
        rest = self.whole(np.int64(steps - done), *rows, *finals, *given.invariants, first=done)
        c = len(finals)
        joined = [torch.cat(pair) for pair in zip(outputs, rest[c:-1], strict=True)]
        return (*rest[:c], *joined, np.int64(steps))


def _in_chunks(x: Any, chunks: int, length: int) -> torch.Tensor:
    """Rows of a sequence as (steps of a chunk, chunks, ...)."""
    whole = x.plain() if isinstance(x, Reversed) else x
    return whole[: chunks * length].unflatten(0, (chunks, length)).transpose(0, 1)


class Steps:
    """A Loop that has no kernel: its body step by step, on the device."""

    def __init__(self, spec: LoopSpec, program: Program) -> None:
        self.spec, self.program, self.body = spec, program, body_of(spec)

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        from ostinato.backends.reference import at_step, check_shapes, empty_outputs

        spec, given = self.spec, split(self.spec, inputs)
        steps, c, done = int(given.trip_count), spec.n_carries, 0
        sequences = [x.plain() if isinstance(x, Reversed) else x for x in given.sequences]
        carries = tuple(given.carries)
        rows: list[list[Any]] = [[] for _ in self.body.outputs]
        every, shapes = spec.strides(given.invariants), [np.shape(v) for v in carries]
        while done < steps:
            try:
                results = self.program.run((np.int64(done), *[s[done] for s in sequences], *carries, *given.invariants))
                carries = tuple(results[:c])
                check_shapes(spec, carries, shapes)
            except OstinatoError as error:
                raise at_step(error, spec, done) from error.__cause__
            for held, value, node, k in zip(rows, results[c:], self.body.outputs, every, strict=False):
                if done % k == 0:
                    held.append(as_tensor(value, node.type.dtype))
            done += 1
            if spec.has_until and not bool(results[-1]):
                break
        if not done:
            host = [x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in
                    (given.trip_count, *sequences, *given.carries, *given.invariants)]  # fmt: skip
            empty = [as_tensor(e, e.dtype.name) for e in empty_outputs(spec, host)]
            return (*carries, *empty, np.int64(0))
        return (*carries, *[torch.stack(r) for r in rows], np.int64(done))
