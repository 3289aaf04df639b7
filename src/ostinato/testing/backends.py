"""`compare_backends`: the same function by several backends, and all that differs in one message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ostinato.backends import compile_closed
from ostinato.errors import BackendMismatchError, OstinatoTypeError, OstinatoValueError, bullet_list
from ostinato.function import Function, function
from ostinato.printing import short

Array = np.ndarray[Any, Any]

# Backends may add in another order, and have functions of their own.
RTOL: dict[str, float] = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2}


def compare_backends(
    computation: Any,
    arguments: Sequence[Any],
    *,
    modes: Sequence[str] = ("reference", "native"),
    rtol: float | Mapping[str, float] | None = None,
) -> list[Array]:
    """Run a computation by several backends and check that they agree.

    Parameters
    ----------
    computation : Function, or pair (inputs, outputs)
        What was compiled by `function`, or what one would give to it.
    arguments : list
        One value per input.
    modes : list of str
        Names of backends. The first one says what is right.
    rtol : float, or mapping from dtype to float, optional
        What floats may differ by, relative to the largest element of an array: 1e-12 for float64, 1e-5 for float32 and
        1e-2 for float16 unless given. Integers and booleans must be equal, and NaN is equal to NaN.

    Returns
    -------
    list of arrays
        The results of the first backend: the outputs, then new values of shared variables, which are not set.

    Raises
    ------
    BackendMismatchError
        With every result that differs, by dtype, shape or value; or if one backend raises and another does not.
    OstinatoTypeError, OstinatoValueError
        If the arguments do not fit, or there are fewer than two modes.

    Examples
    --------
    >>> import ostinato.tensor as T
    >>> from ostinato.testing import compare_backends
    >>> x = T.vector("x")
    >>> compare_backends(([x], T.tanh(x)), [[0.0, 1.0]])[0].shape
    (2,)
    """
    if len(modes) < 2:
        raise OstinatoValueError(f"compare_backends needs two modes or more, got {list(modes)}")
    tolerances = {**RTOL, **({d: float(rtol) for d in RTOL} if isinstance(rtol, (int, float)) else rtol or {})}
    f = _function(computation)
    results = {mode: _results(f, mode, arguments) for mode in modes}
    first, *others = modes
    problems: list[str] = []
    for mode in others:
        problems += _problems(f, first, mode, results, tolerances)
    if problems:
        raise BackendMismatchError(f"{f}: {bullet_list(problems)}")
    found = results[first]
    if isinstance(found, Exception):
        raise found
    return found


def _function(computation: Any) -> Function:
    if isinstance(computation, Function):
        return computation
    if not isinstance(computation, (list, tuple)) or len(computation) != 2:
        raise OstinatoTypeError(
            f"compare_backends expects a function, or a pair of inputs and outputs, got {computation!r:.60}"
        )
    inputs, outputs = computation
    # Not compiled until it is run by a mode of the comparison.
    return function(inputs, outputs, mode="reference", on_unused_input="ignore")


def _results(f: Function, mode: str, arguments: Sequence[Any]) -> list[Array] | Exception:
    """The results by a backend, or what it raised. Arguments that do not fit are nobody's result."""
    arrays = [*f._arguments(arguments, {}), *f._shared_values(ready=False)]
    try:
        run = compile_closed(mode, f._closed, lambda: f.graph)
        return [np.array(r) for r in run(arrays)]
    except Exception as error:
        return error


def _labels(f: Function) -> list[str]:
    """How a message names the results."""
    n = len(f._closed.results) - len(f._updated)
    outputs = [f"output {k} ({short(node)})" for k, node in enumerate(f._closed.results[:n])]
    return outputs + [f"the update of {v.name or 'a shared variable'}" for v in f._updated]


def _problems(
    f: Function,
    first: str,
    mode: str,
    results: Mapping[str, list[Array] | Exception],
    tolerances: Mapping[str, float],
) -> list[str]:
    a, b = results[first], results[mode]
    if isinstance(a, Exception) or isinstance(b, Exception):
        if isinstance(a, Exception) and isinstance(b, Exception):
            return []
        return [f"{_outcome(a)} by {first}, {_outcome(b)} by {mode}"]
    found = [_problem(x, y, first, mode, tolerances) for x, y in zip(a, b, strict=True)]
    return [f"{label}: {p}" for label, p in zip(_labels(f), found, strict=True) if p]


def _outcome(result: list[Array] | Exception) -> str:
    return f"{type(result).__name__}: {result}" if isinstance(result, Exception) else "results"


def _problem(x: Array, y: Array, first: str, mode: str, tolerances: Mapping[str, float]) -> str:
    if x.dtype != y.dtype or x.shape != y.shape:
        return f"{x.dtype} of shape {x.shape} by {first}, {y.dtype} of shape {y.shape} by {mode}"
    if x.dtype.kind != "f":
        wrong = x != y
    else:
        largest = float(np.max(np.abs(x), initial=0, where=np.isfinite(x)))
        with np.errstate(invalid="ignore"):
            close = np.abs(x.astype("float64") - y) <= tolerances[x.dtype.name] * largest
        wrong = ~(close | (x == y) | (np.isnan(x) & np.isnan(y)))
    if not wrong.any():
        return ""
    place = tuple(int(i[0]) for i in np.nonzero(wrong)) if wrong.ndim else ()
    index = f" at {list(place)}" if place else ""
    values = f"{x[place]!r} by {first}, {y[place]!r} by {mode}"
    return f"{int(wrong.sum())} of {wrong.size} elements differ, first{index}: {values}"
