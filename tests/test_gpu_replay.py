"""Calls that are recorded and replayed. There is no GPU here that could record one, so a stand-in does.

The stand-in replays by running the same instructions on the same tensors again, into the results of the recording,
which is what a CUDA graph does. What is tested is all around it: which calls are recorded, and whose tensors they get.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from on_gpu import normal, torch

replay = pytest.importorskip("ostinato.backends.triton.replay")


class Graph:
    """Stands in for a CUDA graph."""

    made = 0

    def __init__(self) -> None:
        Graph.made += 1
        self.again: Any = None

    def replay(self) -> None:
        self.again()


class Event:
    def record(self) -> None:
        pass


class Stream:
    def wait_event(self, event: Event) -> None:
        pass


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    Graph.made = 0
    recorded: list[Graph] = []

    @contextmanager
    def recording(graph: Graph, capture_error_mode: str) -> Iterator[None]:
        recorded.append(graph)
        yield

    first = replay._Recorded.__init__

    def start(self: Any, program: Any, values: Any) -> None:
        first(self, program, values)

        def again() -> None:
            for held, found in zip(self._results, program.run(self._inputs), strict=True):
                if isinstance(held, torch.Tensor):
                    held.copy_(found)

        recorded[-1].again = again

    monkeypatch.setattr(replay._Recorded, "__init__", start)
    monkeypatch.setattr(replay, "is_interpreted", lambda: False)
    for name, value in {
        "CUDAGraph": Graph,
        "Event": Event,
        "graph": recording,
        "synchronize": lambda: None,
        "current_stream": Stream,
        "is_current_stream_capturing": lambda: False,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)


def ensemble() -> tuple[list[Any], list[Any]]:
    x, a = T.fmatrix("x"), T.fvector("a")
    h, _ = ostinato.scan(lambda x_t, h: T.tanh(a * h + x_t), x, T.zeros_like(x[0]))
    return [x, a], [h, T.grad(T.sum(h**2), a)]


def test_later_calls_replay_and_get_their_own_results() -> None:
    inputs, outputs = ensemble()
    expected = ostinato.function(inputs, outputs, mode="reference")
    with ostinato.config.change_flags(gpu_replay=True):
        f = ostinato.function(inputs, outputs, device="cuda")
        held = []
        for k in range(6):
            arrays = [normal(4, 5, seed=k), normal(5, seed=k + 100)]
            held.append((f(*arrays), expected(*arrays)))
            assert Graph.made == (k >= 2)
        f(normal(4, 6), normal(6))  # other shapes are no reason to replay
    assert Graph.made == 1
    for found, wanted in held:  # no call wrote to the results of another one
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-6)


def test_it_is_off_unless_asked_for() -> None:
    f = ostinato.function(*ensemble(), device="cuda")
    for k in range(4):
        f(normal(4, 5, seed=k), normal(5))
    assert Graph.made == 0


def test_what_the_host_looks_at_is_not_recorded() -> None:
    x = T.fvector("x")
    y, _ = ostinato.scan(lambda h: (h * 0.5, ostinato.until(T.max(h) < 0.1)), outputs_info=[x], n_steps=100)
    with ostinato.config.change_flags(gpu_replay=True):
        f = ostinato.function([x], y[-1], device="cuda")
        for k in range(4):
            f(np.abs(normal(3, seed=k)))
    assert Graph.made == 0


def test_large_calls_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_COPIED", 10)
    with ostinato.config.change_flags(gpu_replay=True):
        f = ostinato.function(*ensemble(), device="cuda")
        for k in range(4):
            f(normal(4, 5, seed=k), normal(5))
    assert Graph.made == 0
