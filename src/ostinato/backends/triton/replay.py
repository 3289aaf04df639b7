"""Small calls that come again are recorded as a CUDA graph and replayed: one launch instead of a hundred.

Starting an operation takes the host some microseconds. A call on small arrays has the GPU wait for that most of
the time. What a call does depends on nothing but the shapes of its arrays, as long as the host looks at no
result; so the third call with the same shapes is recorded, and later ones copy their arguments to where the
recorded one found its own, replay it, and copy the results.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

from ostinato.backends.triton.kernels import is_interpreted, is_rehearsal
from ostinato.backends.triton.run import Program
from ostinato.config import config
from ostinato.errors import OstinatoError
from ostinato.graph import Graph
from ostinato.ops.loop import LOOP, LoopSpec

# Bytes of arguments and results that may be copied, and of all that a recorded call keeps for itself.
_COPIED, _HELD = 1 << 26, 1 << 29
# How many calls are recorded for different shapes.
_MOST = 8
# After so many calls with the same shapes one is recorded.
_CALLS = 2


class Replay:
    """Runs a Program, and records and replays what it does where that is possible.

    Several threads may use it: arguments, replay and results of one call follow each other on the caller's
    stream, and a call on another stream waits for them.
    """

    def __init__(self, program: Program, graph: Graph) -> None:
        self._program, self._lock = program, threading.Lock()
        self._possible = config.gpu_replay and not _looks_at_results(graph)
        self._calls: dict[Any, int] = {}
        self._recorded: dict[Any, _Recorded | None] = {}

    def run(self, values: Sequence[Any]) -> list[Any]:
        """The results of values on the device; see `Program.run`."""
        if not self._possible or is_interpreted() or is_rehearsal():
            return self._program.run(values)
        key = _key(values)
        if key in self._recorded:
            recorded = self._recorded[key]
            return self._program.run(values) if recorded is None else recorded.replay(values)
        self._calls[key] = self._calls.get(key, 0) + 1
        if self._calls[key] <= _CALLS or len(self._recorded) >= _MOST or torch.cuda.is_current_stream_capturing():
            return self._program.run(values)
        with self._lock:
            if key not in self._recorded:
                self._recorded[key] = self._record(values)
        return self.run(values)

    def _record(self, values: Sequence[Any]) -> _Recorded | None:
        notes = self._program.notes
        copied = sum(v.nbytes for v in values if isinstance(v, torch.Tensor))
        if notes.called_out or notes.stepped or copied > _COPIED or self._program.held_bytes > _HELD:
            return None
        if any(isinstance(v, torch.Tensor) and not _is_dense(v) for v in values):
            return None
        try:
            recorded = _Recorded(self._program, values)
        except (RuntimeError, OstinatoError):  # something that cannot be recorded; it can be done all the same
            torch.cuda.synchronize()
            return None
        return recorded if recorded.result_bytes <= _COPIED else None


class _Recorded:
    """A recorded call."""

    def __init__(self, program: Program, values: Sequence[Any]) -> None:
        self._inputs = [torch.empty_like(v).copy_(v) if isinstance(v, torch.Tensor) else v for v in values]
        self._lock, self._graph = threading.Lock(), torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._results = program.run(self._inputs)
        self._tensors = [x for x in self._inputs if isinstance(x, torch.Tensor)]
        self._done = torch.cuda.Event()
        self._done.record()

    @property
    def result_bytes(self) -> int:
        return sum(r.nbytes for r in self._results if isinstance(r, torch.Tensor))

    def replay(self, values: Sequence[Any]) -> list[Any]:
        """The same for other values of the same shapes."""
        given = [v for v in values if isinstance(v, torch.Tensor)]
        with self._lock:
            torch.cuda.current_stream().wait_event(self._done)
            if given:
                torch._foreach_copy_(self._tensors, given)
            self._graph.replay()
            results = [r.clone() if isinstance(r, torch.Tensor) else r for r in self._results]
            self._done.record()
        return results


def _key(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple([(*v.shape, *v.stride()) if isinstance(v, torch.Tensor) else v.item() for v in values])


def _is_dense(x: torch.Tensor) -> bool:
    """Whether its elements fill a piece of memory without gaps, so that an empty tensor like it has its strides."""
    return bool(x.stride() == torch.empty_like(x, device="meta").stride())


def _looks_at_results(graph: Graph) -> bool:
    """Whether the host waits for a loop, to find out how many steps it made."""
    waiting = [graph]
    while waiting:
        for node in waiting.pop().nodes():
            if node.op is LOOP:
                spec: LoopSpec = node.params[0]
                if spec.has_until:
                    return True
                waiting.append(spec.body)
    return False
