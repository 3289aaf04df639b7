"""The reference backend: a NumPy interpreter of Graphs, Loops step by step.

It is the oracle that every other backend is tested against, so it does the obvious thing. A Graph is
turned once into a tape of instructions over numbered slots; running it is one pass over the tape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from ostinato.backends import Report
from ostinato.config import config
from ostinato.errors import (
    LinearAlgebraError,
    OstinatoError,
    OstinatoIndexError,
    OstinatoTypeError,
    OstinatoValueError,
    ShapeError,
    at,
)
from ostinato.graph import Graph, Node
from ostinato.ops.leaf import CONSTANT
from ostinato.ops.loop import LOOP, LoopSpec, body_of, split
from ostinato.ops.op import params_of
from ostinato.ops.sizes import as_size_nodes, sizes
from ostinato.printing import behind_views, short
from ostinato.types import TupleType

Instruction = tuple[Callable[..., Any], tuple[int, ...], int]


class Interpreter:
    """A Graph run by the interpreter: a callable from arrays, one per param, to arrays, one per result."""

    def __init__(self, graph: Graph, reason: str = "") -> None:
        self._tape = Tape(graph)
        self.report = Report(f"interpreted with NumPy, step by step{reason}")

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        with np.errstate(all="ignore"):
            return self._tape.run(arrays)


def compile_graph(graph: Graph) -> Interpreter:
    """The Graph as a callable from arrays, one per param, to arrays, one per result."""
    return Interpreter(graph)


class Tape:
    """A Graph as instructions over slots.

    Each instruction reads slots and writes one; constants are filled in beforehand. A tape may be run
    by several threads at once: every run has its own slots.
    """

    def __init__(self, graph: Graph) -> None:
        self.nodes: list[Node] = list(dict.fromkeys([*graph.params, *graph.nodes()]))
        slot = {n: i for i, n in enumerate(self.nodes)}
        self.template: list[Any] = [None] * len(self.nodes)
        self.param_slots = [slot[p] for p in graph.params]
        self.result_slots = [slot[r] for r in graph.results]
        self.code: list[Instruction] = []
        params = set(graph.params)
        for node in self.nodes:
            if node.op is CONSTANT:
                array = node.params[0].array
                self.template[slot[node]] = array[()] if array.ndim == 0 else array
            elif node not in params:
                self.code.append((_instruction(node), tuple(slot[i] for i in node.inputs), slot[node]))

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """The results for the given params."""
        slots = self.template.copy()
        for i, array in zip(self.param_slots, arrays, strict=True):
            slots[i] = array
        out = 0
        try:
            for function, inputs, out in self.code:
                slots[out] = function(*[slots[i] for i in inputs])
        except Exception as error:
            raise _explained(error, self.nodes[out], slots, self.nodes) from error
        if config.verify:
            self.check_types(slots)
        return [slots[i] for i in self.result_slots]

    def check_types(self, slots: list[Any]) -> None:
        """Every value has the dtype and fits the static shape that its node declares."""
        for node, value in zip(self.nodes, slots, strict=True):
            if isinstance(node.type, TupleType):
                continue
            shape = np.shape(value)
            ok = value.dtype == node.type.dtype and len(shape) == node.type.ndim
            if not ok or any(d not in (None, s) for d, s in zip(node.type.shape, shape, strict=True)):
                raise AssertionError(f"{node.op} made {value.dtype}{shape}, declared {node.type}")


def _instruction(node: Node) -> Callable[..., Any]:
    if node.op is LOOP:
        return _loop_instruction(node.params[0])
    params = params_of(node)
    return partial(node.op.numpy, **params) if params else node.op.numpy


def _loop_instruction(spec: LoopSpec) -> Callable[..., Any]:
    tape = _body_tape(spec.body)
    return lambda *arrays: _run_steps(spec, tape, arrays)


@lru_cache(maxsize=256)
def _body_tape(body: Graph) -> Tape:
    return Tape(body)


# ---- loops ----------------------------------------------------------------------------------------


def run_loop(spec: LoopSpec, arrays: Sequence[Any]) -> tuple[Any, ...]:
    """All results of a Loop: final carries, stacked outputs, steps done."""
    return _run_steps(spec, _body_tape(spec.body), arrays)


def _run_steps(spec: LoopSpec, tape: Tape, arrays: Sequence[Any]) -> tuple[Any, ...]:
    n, sequences, carries, invariants = split(spec, arrays)
    every = spec.strides(invariants)
    if any(k < 1 for k in every):
        raise OstinatoValueError("each how many-th step is recorded is at least 1")
    columns = zip(body_of(spec).outputs, every, strict=True)
    outputs = [_Column(-(-int(n) // k), growing=spec.has_until, node=y) for y, k in columns]
    c, done = spec.n_carries, 0
    shapes = [np.shape(v) for v in carries]
    while done < n:
        try:
            results = tape.run((np.int64(done), *[s[done] for s in sequences], *carries, *invariants))
            carries = tuple(results[:c])
            check_shapes(spec, carries, shapes)
            for column, value, k in zip(outputs, results[c:], every, strict=False):
                if done % k == 0:
                    column.append(value)
        except OstinatoError as error:
            raise at_step(error, spec, done) from error.__cause__
        done += 1
        if spec.has_until and not results[-1]:
            break
    rows = [y.rows() for y in outputs] if done else empty_outputs(spec, arrays)
    return (*carries, *rows, np.int64(done))


class _Column:
    """The rows of one output, in one array that is as long as the loop or grows as it goes."""

    def __init__(self, n: int, growing: bool, node: Node) -> None:
        self.node = node
        self.capacity = min(n, 64) if growing else n
        self.limit = n
        self.used = 0
        self.array: np.ndarray[Any, Any] | None = None

    def append(self, value: Any) -> None:
        if self.array is None:
            self.array = np.empty((self.capacity, *np.shape(value)), value.dtype)
        elif np.shape(value) != self.array.shape[1:]:
            raise ShapeError(
                f"the output {short(self.node)}{at(self.node.source)} has shape {np.shape(value)}, "
                f"but had shape {self.array.shape[1:]} in the steps before"
            )
        if self.used == self.capacity:
            self.capacity = min(2 * self.capacity, self.limit)
            grown = np.empty((self.capacity, *self.array.shape[1:]), self.array.dtype)
            grown[: self.used] = self.array
            self.array = grown
        self.array[self.used] = value
        self.used += 1

    def rows(self) -> np.ndarray[Any, Any]:
        assert self.array is not None
        return self.array if self.used == self.capacity else self.array[: self.used].copy()


def empty_outputs(spec: LoopSpec, arrays: Sequence[Any]) -> list[Any]:
    """Outputs of no steps: their row shapes come from the body's size expressions, with rows of zeros."""
    given, body = split(spec, arrays), body_of(spec)
    wanted = [as_size_nodes(sizes(o)) for o in body.outputs]
    probe = Tape(Graph(spec.body.params, tuple(s for w in wanted for s in w)))
    rows = [np.zeros(np.shape(s)[1:], s.dtype) for s in given.sequences]
    found = iter(probe.run((np.int64(0), *rows, *given.carries, *given.invariants)))
    return [
        np.zeros((0, *[int(next(found)) for _ in w]), o.type.dtype) for w, o in zip(wanted, body.outputs, strict=True)
    ]


# ---- errors ---------------------------------------------------------------------------------------


def _explained(error: Exception, node: Node, slots: list[Any], nodes: list[Node]) -> Exception:
    """A NumPy error as one of Ostinato's, with the operation, its operands and the user's line."""
    if isinstance(error, (AssertionError, MemoryError)) or (isinstance(error, OstinatoError) and node.op is LOOP):
        return error
    if isinstance(error, OstinatoError):
        what = f"{short(node.inputs[0])}: " if node.op.name == "specify_shape" else ""
        return type(error)(f"{what}{error}{at(node.source)}")
    kind: type[OstinatoError] = OstinatoValueError
    if isinstance(error, np.linalg.LinAlgError):
        kind = LinearAlgebraError
    elif isinstance(error, IndexError):
        kind = OstinatoIndexError
    elif isinstance(error, TypeError):
        kind = OstinatoTypeError
    elif isinstance(error, ValueError) and any(w in str(error) for w in ("shape", "broadcast", "dimension", "size")):
        kind = ShapeError
    place = {n: i for i, n in enumerate(nodes)}
    inputs = [behind_views(i, named=False) for i in node.inputs]
    operands = ", ".join(f"{short(i)} of shape {np.shape(slots[place[i]])}" for i in inputs)
    return kind(f"{short(node)}{at(node.source)} failed: {error}; operands: {operands}")


def at_step(error: OstinatoError, spec: LoopSpec, step: int) -> OstinatoError:
    name = f" of {spec.name}" if spec.name else ""
    return type(error)(f"step {step}{name}: {error}")


def check_shapes(spec: LoopSpec, values: Sequence[Any], shapes: list[tuple[int, ...]]) -> None:
    """A state keeps its shape from step to step."""
    body = body_of(spec)
    for value, before, param, node in zip(values, shapes, body.carries, body.next_carries, strict=True):
        if np.shape(value) != before:
            raise ShapeError(
                f"the state {param.name or short(param)} has shape {tuple(before)} before the step and "
                f"{tuple(np.shape(value))} after it, from {short(node)}{at(node.source)}; a state keeps its shape: "
                "start from an initial value of the shape that the step returns"
            )
