"""A Loop on the device: for the shapes it meets, what surrounds its kernel, and the kernel."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ostinato.backends.triton.affine import MOST_LANES, phases
from ostinato.backends.triton.chunks import CutRunner, Steps
from ostinato.backends.triton.runners import KernelRunner, Runner
from ostinato.backends.triton.specialise import specialised_spec, uniform
from ostinato.backends.triton.split import split_loop
from ostinato.backends.triton.tensors import N_ARRAYS, Reversed
from ostinato.backends.triton.unsplit import UnsplitError
from ostinato.config import config
from ostinato.graph import Graph, Node, dependents
from ostinato.ops.loop import LOOP, LoopSpec, body_of, item, split
from ostinato.ops.movement import CONCATENATE

if TYPE_CHECKING:
    from ostinato.backends.triton.notes import Notes
    from ostinato.backends.triton.run import Program


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
        key = self._key(inputs)
        plan = self.plans.get(key)
        if plan is None:
            with self.lock:
                plan = self.plans.get(key)
                if plan is None:
                    plan = self.plans[key] = self._plan(*key[:2])
        try:
            return plan(*inputs)
        except UnsplitError as error:  # what only shows when a kernel is compiled
            plan = self.plans[key] = self._stepped(error)
            return plan(*inputs)

    def _key(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """What a plan is made for: the shapes of rows and of all else, and what is known of values."""
        s, c = 1 + self.spec.n_sequences, 1 + self.spec.n_sequences + self.spec.n_carries
        rows = [tuple(np.shape(x) if isinstance(x, np.generic) else x.shape)[1:] for x in inputs[1:s]]
        rest = [tuple(x.shape) if hasattr(x, "shape") else np.shape(x) for x in inputs[s:]]
        known = [
            int(x) if w and not isinstance(x, (torch.Tensor, Reversed)) else u
            for x, w, u in zip(inputs[c:], self.sized, self.uniform, strict=True)
        ]
        return ((), *rows, *rest), (*(None,) * c, *known), config.gpu_precision

    def bound(self, inputs: Sequence[Any]) -> Runner:
        """The same for inputs of exactly these kinds and sizes, with these numbers, that were met before."""
        plan = self.plans.get(self._key(inputs))
        if not isinstance(plan, _Around):
            return self
        run = plan.bound(inputs)

        def call(*inputs: Any) -> tuple[Any, ...]:
            try:
                return run(*inputs)
            except UnsplitError:  # Triton was to compile a kernel once more, and refused
                return self(*inputs)

        return call

    def _plan(self, shapes: Sequence[Any], known: Sequence[Any]) -> Runner:
        start, before = time.perf_counter(), self.notes.seconds["emit"]
        try:
            graph = split_loop(specialised_spec(self.spec, shapes, known))
            return _Around(graph, self.notes, self.name, self.chunk_major)
        except UnsplitError as error:
            nested = any(n.op is LOOP for n in self.spec.body.nodes())
            return self._stepped(UnsplitError("a loop within the loop") if nested else error)
        finally:
            emitting = self.notes.seconds["emit"] - before
            self.notes.seconds["split"] += time.perf_counter() - start - emitting

    def _stepped(self, why: UnsplitError) -> Runner:
        from ostinato.backends.triton.run import Program

        self.notes.stepped[self.name] = str(why)
        return Steps(self.spec, Program(self.spec.body, self.notes, remember=False))


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
            whole = KernelRunner(node.params[0], notes, name, _side_by_side(graph, node), chunk_major)
            cut = phases(node.params[0]) if whole.lanes <= MOST_LANES else None
            runners[node] = whole if cut is None else CutRunner(cut, whole)

        class Around(run.Program):
            def _instruction(self, node: Node) -> Any:
                return runners[node] if node in runners else super()._instruction(node)

        self.program: Program = Around(graph, notes)

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        return tuple(self.program.run(inputs))

    def bound(self, inputs: Sequence[Any]) -> Runner:
        run = self.program.bound(inputs)
        return self if run is None else lambda *inputs: tuple(run(inputs))


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
