"""Adapters: the programs of the suite in other libraries, each as its experts would write them.

They run in a Python that has the library and need not have Ostinato: this package imports nothing but NumPy, and is
found under its own name, `peers`, there. `serve` speaks with `ostinato.testing.conformance.peer`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


# What an adapter may take.
_BYTES = 8 * 2**30


class CannotError(Exception):
    """The library has no way to express a program, or a quantity of it; the message says why. A person's judgement."""


def encode(array: Any) -> dict[str, Any]:
    """An array for JSON. Numbers survive exactly, and so do sizes of 0."""
    a = np.asarray(array)
    data = a.reshape(-1).astype("float64" if a.dtype.kind == "f" else "int64").tolist()
    return {"dtype": a.dtype.name, "shape": list(a.shape), "data": data}


def decode(value: Mapping[str, Any]) -> Array:
    """The array that `encode` had."""
    return np.array(value["data"], value["dtype"]).reshape(value["shape"])


def weights(place: int, size: int) -> Array:
    """How much each element of an output counts in the cost; the same as the suite's."""
    return ((5 * (np.arange(size) + place) + 3) % 11 + 1) / 8


def gives_gradient(quantity: str) -> bool:
    """Whether an array per argument is asked for, or one number along the directions; the same as the suite's."""
    return len(quantity) <= 2 and "R" in quantity


def serve(module: str) -> None:
    """Answer requests, one a line, until there are no more."""
    _limit_memory()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the library prints is no answer

    def send(value: Mapping[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        adapter = importlib.import_module(f"{__name__}.{module}")
    except Exception as error:
        send({"status": "raises", "reason": _told(error)})
        return
    send({"versions": adapter.versions()})
    for line in sys.stdin:
        send(_answer(adapter, json.loads(line)))


def _limit_memory() -> None:
    """Let a library that asks for too much fail, and not the machine."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _answer(adapter: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {n: decode(v) for n, v in request["arguments"].items()}
    directions = {n: decode(v) for n, v in request["directions"].items()}
    try:
        arrays, draws = adapter.run(
            request["program"], request["quantity"], request["dtype"], arguments, directions, request["calls"]
        )
        found = {"status": "ok", "arrays": [encode(a) for a in arrays]}
        return found if draws is None else {**found, "draws": encode(draws)}
    except CannotError as error:
        return {"status": "cannot", "reason": str(error)}
    except Exception as error:
        return {"status": "raises", "reason": _told(error)}


def _told(error: Exception) -> str:
    lines = f"{type(error).__name__}: {error}".strip().split("\n")
    return lines[0][:300]  # what follows is of this machine
