"""A Loop on the device: for the shapes it meets, what surrounds its kernel, and the kernel."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ostinato.backends.triton.affine import LEAST_STEPS, MOST_LANES, Phases, division, phases
from ostinato.backends.triton.emit import Emitter
from ostinato.backends.triton.kernels import launch, machine
from ostinato.backends.triton.layout import Access, Kernel
from ostinato.backends.triton.notes import TO_HOST
from ostinato.backends.triton.specialise import specialised_spec, uniform
from ostinato.backends.triton.split import split_loop
from ostinato.backends.triton.tensors import N_ARRAYS, Reversed, as_tensor, default_device, torch_dtype
from ostinato.backends.triton.unsplit import UnsplitError
from ostinato.config import config
from ostinato.errors import OstinatoError, ShapeError
from ostinato.graph import Graph, Node, dependents
from ostinato.ops.loop import LOOP, LoopSpec, body_of, item, split
from ostinato.ops.movement import CONCATENATE
from ostinato.types import TensorType

if TYPE_CHECKING:
    from ostinato.backends.triton.notes import Notes
    from ostinato.backends.triton.run import Program

# One launch makes so many steps at most; a kernel counts them with 32 bits.
_LONGEST = 1 << 30

# A loop that stops by a condition makes so many steps, then twice as many, between looks at how far it is.
_FIRST_STEPS = 1024

Runner = Callable[..., tuple[Any, ...]]


class LoopRunner:
    """A Loop of a Graph: finds, for the shapes of a call, what to run."""

    def __init__(self, node: Node, notes: Notes, chunk_major: bool = False) -> None:
        self.chunk_major = chunk_major
        self.spec: LoopSpec = node.params[0]
        self.notes, self.name = notes, self.spec.name or "without a name"
        self.has_until = self.spec.has_until
        self.sized = _sizing(self.spec)
        self.uniform = [uniform(i) for i in split(self.spec, node.inputs).invariants]
        self.plans: dict[Any, Runner] = {}
        self.lock = threading.Lock()

    def sized_by(self, inputs: Sequence[int]) -> Sequence[int]:
        """The input that the sizes of results follow from, if it is a number: how many steps there are."""
        return inputs[:1]

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        given = split(self.spec, inputs)
        rows = [tuple(np.shape(s) if isinstance(s, np.generic) else s.shape)[1:] for s in given.sequences]
        shapes = [
            (),
            *rows,
            *[tuple(np.shape(x)) if not hasattr(x, "shape") else tuple(x.shape) for x in inputs[1 + len(rows) :]],
        ]
        known: list[Any] = [None] * (1 + len(rows) + len(given.carries))
        known += [
            int(x) if w and not isinstance(x, (torch.Tensor, Reversed)) else u
            for x, w, u in zip(given.invariants, self.sized, self.uniform, strict=True)
        ]
        key = (tuple(shapes), tuple(known), config.gpu_precision)
        plan = self.plans.get(key)
        if plan is None:
            with self.lock:
                plan = self.plans.get(key)
                if plan is None:
                    plan = self.plans[key] = self._plan(shapes, known)
        try:
            return plan(*inputs)
        except UnsplitError as error:  # what only shows when a kernel is compiled
            plan = self.plans[key] = self._stepped(error)
            return plan(*inputs)

    def _plan(self, shapes: Sequence[Any], known: Sequence[Any]) -> Runner:
        start, before = time.perf_counter(), self.notes.seconds["emit"]
        try:
            if self.spec.is_thinned:
                raise UnsplitError("an output that is not recorded at every step")
            graph = split_loop(specialised_spec(self.spec, shapes, known))
            return _Around(graph, self.notes, self.name, self.chunk_major)
        except UnsplitError as error:
            return self._stepped(error)
        finally:
            emitting = self.notes.seconds["emit"] - before
            self.notes.seconds["split"] += time.perf_counter() - start - emitting

    def _stepped(self, why: UnsplitError) -> Runner:
        from ostinato.backends.triton.run import Program

        self.notes.stepped[self.name] = str(why)
        return _Steps(self.spec, Program(self.spec.body, self.notes, remember=False))


def _sizing(spec: LoopSpec) -> list[bool]:
    """Which invariants are integers that sizes, or parts that are taken of arrays, depend on."""
    roots: list[Node] = []
    for node in spec.body.nodes():
        first = N_ARRAYS.get(node.op.name)
        if first is not None:
            roots += node.inputs[first:]
        if node.op is LOOP:
            roots += [i for i in node.inputs if i.type.ndim == 0 and i.type.dtype == "int64"]
    found = []
    for w in body_of(spec).invariants:
        is_size = w.type.ndim == 0 and w.type.dtype == "int64"
        found.append(is_size and bool(roots) and bool(dependents(roots, {w}) & set(roots)))
    return found


class _Around:
    """A split Loop: the Graph around its kernel, whose Loop is run by the kernel."""

    def __init__(self, graph: Graph, notes: Notes, name: str, chunk_major: bool) -> None:
        from ostinato.backends.triton import run

        self.notes = notes
        runners: dict[Node, Any] = {}
        for node in (n for n in graph.nodes() if n.op is LOOP):
            whole = _KernelRunner(node.params[0], notes, name, _side_by_side(graph, node), chunk_major)
            cut = phases(node.params[0]) if whole.lanes <= MOST_LANES else None
            runners[node] = whole if cut is None else _CutRunner(cut, whole)

        class Around(run.Program):
            def _instruction(self, node: Node) -> Any:
                return runners[node] if node in runners else super()._instruction(node)

        self.program: Program = Around(graph, notes)

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        return tuple(self.program.run(inputs))


def _side_by_side(graph: Graph, loop: Node) -> list[list[int]]:
    """Groups of outputs of a Loop that are joined along their last axis afterwards, by number."""
    spec: LoopSpec = loop.params[0]
    items = {item(loop, spec.n_carries + j): j for j in range(spec.n_outputs)}
    groups: list[list[int]] = []
    taken: set[int] = set()
    for node in graph.nodes():
        if node.op is CONCATENATE and node.params[0] == node.type.ndim - 1 and all(i in items for i in node.inputs):
            group = [items[i] for i in node.inputs]
            if taken.isdisjoint(group) and len(set(group)) == len(group):
                groups.append(group)
                taken.update(group)
    return groups


class _KernelRunner:
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
        outputs = self._outputs(steps)
        if not steps:
            return (*given.carries, *outputs, np.int64(0))
        carries: Sequence[Any] = given.carries
        done = 0
        while done < steps:
            block = min(steps - done, _LONGEST)
            finals = [_empty(c.type.shape, c.type.dtype) for c in self.body.carries]
            self._launch(given, carries, done, finals, [y[done:] for y in outputs], None, block, first)
            carries, done = finals, done + block
        return (*carries, *outputs, np.int64(steps))

    def _groups(self) -> int:
        """How many groups of programs with the same rows there are."""
        return next(-(-axis.size // block) for axis, block in self.kernel.sizes if axis.rows)

    def _outputs(self, steps: int) -> list[torch.Tensor]:
        """Memory for the rows of the outputs."""
        found: dict[int, torch.Tensor] = {}
        for group in self.groups:
            rows = [self.body.outputs[j].type for j in group]
            widths = [int(row.shape[-1]) for row in rows]
            whole = _empty((steps, *rows[0].shape[:-1], sum(widths)), rows[0].dtype)
            found.update(zip(group, torch.split(whole, widths, dim=-1), strict=True))
        return [found[j] if j in found else self._output(steps, y.type) for j, y in enumerate(self.body.outputs)]

    def _output(self, steps: int, row: TensorType) -> torch.Tensor:
        sizes = [int(s) for s in row.shape if s is not None]  # all are known here
        if self.chunk_major:
            return _empty((sizes[0], steps, *sizes[1:]), row.dtype).transpose(0, 1)
        return _empty((steps, *sizes), row.dtype)

    def _launch(
        self,
        given: Any,
        carries: Sequence[Any],
        done: int,
        finals: Any,
        outputs: Any,
        status: Any,
        steps: int,
        first: int = 0,
    ) -> None:
        sources = {
            "carry": carries, "invariant": given.invariants, "constant": self.constants, "sequence": given.sequences,
            "final": finals, "output": outputs,
        }  # fmt: skip
        types = {"carry": self.body.carries, "invariant": self.body.invariants}
        arrays: list[tuple[Any, int]] = []
        slots = [_empty((2, *shape), "float32") for shape in self.kernel.exchanges]
        arrivals = torch.zeros(self._groups(), dtype=torch.int64, device=default_device()) if slots else None
        sources |= {"exchange": slots, "partial": slots}
        for access in self.kernel.accesses:
            value = sources[access.kind][access.number]
            if access.kind in types:
                value = _as_array(value, types[access.kind][access.number].type.dtype)
            arrays.append(_rows(access, value, done))
        pairs = zip(self.kernel.accesses, arrays, strict=True)
        kernel = self._kernel(frozenset([a.name for a, (x, _) in pairs if not _has_contiguous_rows(a, x)]))
        with self.notes.launching(self.name, kernel) as compiled:
            compiled.append(launch(kernel, arrays, status, steps, first + done, arrivals))

    def _until(self, given: Any, limit: int) -> tuple[Any, ...]:
        """In blocks of steps: the state stays on the device, and the host looks after each how far it is."""
        done, block, going = 0, min(limit, _FIRST_STEPS), limit > 0
        carries = [_as_array(c, p.type.dtype) for c, p in zip(given.carries, self.body.carries, strict=True)]
        blocks: list[list[Any]] = [[] for _ in self.body.outputs]
        status = torch.zeros(2, dtype=torch.int64, device=default_device())
        while going:
            finals = [_empty(c.type.shape, c.type.dtype) for c in self.body.carries]
            outputs = [_empty((block, *y.type.shape), y.type.dtype) for y in self.body.outputs]
            self._launch(given, carries, done, finals, outputs, status, block)
            made_steps, keep = (int(v) for v in status.cpu()) if not status.is_meta else (block, 0)
            self.notes.transfers[TO_HOST] += 1
            for held, rows in zip(blocks, outputs, strict=True):
                held.append(rows[:made_steps])
            carries, done = finals, done + made_steps
            going = bool(keep) and done < limit
            block = min(2 * block, limit - done)
        rows = [
            torch.cat(b) if b else _empty((0, *y.type.shape), y.type.dtype)
            for b, y in zip(blocks, self.body.outputs, strict=True)
        ]
        return (*carries, *rows, np.int64(done))


class _CutRunner:
    """A Loop whose state enters affinely: in chunks that run at the same time, if it makes many steps."""

    def __init__(self, cut: Phases, whole: _KernelRunner) -> None:
        self.cut, self.whole, self.notes = cut, whole, whole.notes
        self.programs: tuple[Program, ...] = ()

    def _made(self) -> tuple[Program, ...]:
        """The programs of the phases; made when first needed, since the second is cut again."""
        from ostinato.backends.triton import run

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
            ends[affine.index(k)] if k in affine else _as_array(given.carries[k], str(x.dtype)[6:]) + x.sum(0)
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


def _has_contiguous_rows(access: Access, tensor: torch.Tensor) -> bool:
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


def _as_array(value: Any, dtype: str) -> torch.Tensor:
    return as_tensor(value, dtype)


class _Steps:
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
                    held.append(_as_array(value, node.type.dtype))
            done += 1
            if spec.has_until and not bool(results[-1]):
                break
        if not done:
            host = [x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in
                    (given.trip_count, *sequences, *given.carries, *given.invariants)]  # fmt: skip
            empty = [as_tensor(e, e.dtype.name) for e in empty_outputs(spec, host)]
            return (*carries, *empty, np.int64(0))
        return (*carries, *[torch.stack(r) for r in rows], np.int64(done))
