"""One cell of the table: what a system gives for one program and one quantity, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from ostinato.testing.conformance.program import VALUE, Array, Program
from ostinato.testing.conformance.reference import expected_along, expected_gradient, expected_outputs

# What may be between a result and the reference, relative to the largest element of the array, by order.
TOLERANCES = {"float64": (1e-13, 1e-12, 2e-12, 1e-11, 1e-10), "float32": (2e-6, 1e-5, 2e-5, 1e-4, 1e-3)}


@dataclass(frozen=True)
class Answer:
    """What a system has to say: arrays, or why there are none.

    Attributes
    ----------
    status : "ok", "raises", "cannot" (it cannot express this) or "timeout"
    arrays : of a value the outputs, of a derivative what `shape_of_answer` says.
    draws : what a random program drew.
    reason : in a few words.
    """

    status: str
    arrays: Sequence[Array] = ()
    draws: Array | None = None
    reason: str = ""
    seconds: float = 0.0


class System(Protocol):
    """Something that runs programs: Ostinato in a mode, or another library in a process of its own."""

    name: str

    def versions(self) -> dict[str, str]:
        """Of what takes part."""

    def answer(self, program: Program, quantity: str, dtype: str) -> Answer:
        """Run a program. An exception of the system is an answer, too."""

    def close(self) -> None:
        """End what was started."""


@dataclass(frozen=True)
class Cell:
    """What is said of an answer.

    Attributes
    ----------
    status : "ok", "wrong", "raises", "cannot", "timeout"
    error : the largest relative error, if there are numbers.
    reason : why it is not "ok".
    """

    status: str
    error: float | None = None
    reason: str = ""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Without what is empty, and with as many digits as mean something."""
        found = {k: v for k, v in asdict(self).items() if v not in (None, "")}
        found["seconds"] = round(self.seconds, 2)
        if self.error is not None:
            found["error"] = float(f"{self.error:.2g}")
        return found


def order_of(quantity: str) -> int:
    """The order of a derivative; 0 of the value."""
    return 0 if quantity == VALUE else len(quantity)


def gives_gradient(quantity: str) -> bool:
    """Whether the answer is an array per argument of `wrt`.

    So it is for first and second derivatives with an R; all others are one number, the derivative along the
    directions.
    """
    return quantity != VALUE and len(quantity) <= 2 and "R" in quantity


def judge(program: Program, quantity: str, dtype: str, answer: Answer) -> Cell:
    """Compare an answer with the reference."""
    if answer.status != "ok":
        return Cell(answer.status, None, answer.reason, answer.seconds)
    if program.is_random and (problem := _problem_of_draws(answer.draws)):
        return Cell("wrong", None, problem, answer.seconds)
    expected = _expected(program, quantity, answer.draws)
    problem = _problem_of_types(program, quantity, dtype, answer.arrays, expected)
    if problem:
        return Cell("wrong", None, problem, answer.seconds)
    errors = _errors(answer.arrays, expected)
    excess = [e / _allowed(a, quantity) for a, e in zip(answer.arrays, errors, strict=True)]
    worst = int(np.argmax(excess)) if excess else -1
    if worst < 0 or excess[worst] <= 1:
        return Cell("ok", max(errors, default=0.0), "", answer.seconds)
    reason = f"{_short(answer.arrays[worst])} for {_short(expected[worst])}"
    return Cell("wrong", errors[worst], reason, answer.seconds)


def _allowed(array: Array, quantity: str) -> float:
    return TOLERANCES[array.dtype.name][order_of(quantity)] if array.dtype.kind == "f" else 1e-15


def _expected(program: Program, quantity: str, draws: Any) -> list[Array]:
    if quantity == VALUE:
        return expected_outputs(program, draws)
    order = order_of(quantity)
    if gives_gradient(quantity):
        return list(expected_gradient(program, order, draws).values())
    return [np.asarray(expected_along(program, order, draws))]


def _problem_of_draws(draws: Array | None) -> str:
    """What is wrong with draws of a normal or uniform distribution that were made one per step."""
    flat = np.ravel([] if draws is None else draws)
    if not flat.size or not np.all(np.isfinite(flat)):
        return "no draws"
    if len(np.unique(flat)) < flat.size:
        return "the same draw more than once"
    return "" if np.all(np.abs(flat) < 8) else "draws out of range"


def _problem_of_types(
    program: Program, quantity: str, dtype: str, arrays: Sequence[Array], expected: Sequence[Array]
) -> str:
    if len(arrays) != len(expected):
        return f"{len(arrays)} results for {len(expected)}"
    dtypes = _dtypes(program, quantity, dtype, expected)
    for k, (a, e, wanted) in enumerate(zip(arrays, expected, dtypes, strict=True)):
        if a.shape != e.shape:
            return f"result {k} has shape {a.shape}, not {e.shape}"
        if a.dtype.kind == "f" and a.dtype != wanted and not (gives_gradient(quantity) and a.dtype == "float64"):
            return f"result {k} is {a.dtype}, not {wanted}"
        if (a.dtype.kind == "f") != (e.dtype.kind == "f"):
            return f"result {k} is {a.dtype}"
    return ""


def _dtypes(program: Program, quantity: str, dtype: str, expected: Sequence[Array]) -> list[str]:
    if gives_gradient(quantity):
        return [program.own_dtypes.get(n, dtype) for n in program.wrt]
    return [dtype] * len(expected)


# The largest element of an array counts as at least this part of the largest of all arrays: what is small because
# large terms cancel cannot be had more exactly than these.
_LEAST = 1 / 64


def _errors(found: Sequence[Array], expected: Sequence[Array]) -> list[float]:
    """For each array the largest difference, relative to the largest element; infinite for what is not a number."""
    largest = [float(np.max(np.abs(e), initial=0)) for e in expected]
    total = max(largest, default=0.0)
    scales = [max(v, _LEAST * total) or 1.0 for v in largest]
    return [_difference(f, e) / scale for f, e, scale in zip(found, expected, scales, strict=True)]


def _difference(found: Array, expected: Array) -> float:
    difference = float(np.max(np.abs(found.astype("float64") - expected), initial=0))
    return difference if np.isfinite(difference) else float("inf")


def _short(array: Array) -> str:
    text = np.array2string(np.asarray(array, "float64"), precision=6, threshold=6, separator=" ").replace("\n", "")
    return text if len(text) <= 60 else text[:57] + "..."
