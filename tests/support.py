"""Helpers of the tests of `ostinato.tensor`: run an expression on arrays, compare it with NumPy, check derivatives."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import ostinato
import ostinato.tensor as T
from numeric import central
from ostinato.ops.sizes import as_size_nodes, sizes

Expression = Callable[..., Any]  # variables -> node

INTEGER_DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOAT_DTYPES = ("float16", "float32", "float64")
DTYPES = ("bool", *INTEGER_DTYPES, *FLOAT_DTYPES)
TOLERANCE = {"float16": 4e-3, "float32": 2e-6, "float64": 1e-12}


def unmeasured() -> dict[str, str]:
    """The environment, for a process whose coverage is not to count: one that runs a copy of the package, or may be
    stopped while it writes, since a part of a data file cannot be added up with the others."""
    return {n: v for n, v in os.environ.items() if not n.startswith("COV")}


def normal(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Normal random numbers that depend on the arguments alone."""
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def inputs_for(arrays: Sequence[Any], static: bool = False) -> list[Any]:
    """An input variable for each array: of its dtype and rank, with unknown sizes or with its own."""
    given = [np.asarray(a) for a in arrays]
    return [T.TensorType(a.dtype.name, a.shape if static else (None,) * a.ndim)(f"x{i}") for i, a in enumerate(given)]


def evaluate(build: Expression, *arrays: Any, static: bool = False) -> np.ndarray[Any, Any]:
    """The value of `build(*variables)` at `arrays`.

    Checked on the way: the value has the declared dtype, fits the declared static shape, and has the sizes
    that the size expressions of the node give.
    """
    inputs = inputs_for(arrays, static)
    node = build(*inputs)
    with ostinato.config.change_flags(verify=True):
        run = ostinato.function(inputs, [node, *as_size_nodes(sizes(node))], on_unused_input="ignore")
        value, *found = run(*[np.asarray(a) for a in arrays])
    assert value.dtype.name == node.dtype, f"{node} is declared {node.type}, but made {value.dtype}"
    assert value.shape == tuple(map(int, found)), f"{node} has shape {value.shape}, by its sizes {found}"
    assert len(node.type.shape) == value.ndim
    assert all(s in (None, n) for s, n in zip(node.type.shape, value.shape, strict=True)), (node.type, value.shape)
    return value


def check(build: Expression, reference: Callable[..., Any], *arrays: Any, rtol: float | None = None) -> Any:
    """Compare `build` with NumPy in value, dtype and shape, with sizes that are unknown and that are known.

    Returns the node of unknown sizes.
    """
    with np.errstate(all="ignore"):
        expected = np.asarray(reference(*[np.asarray(a) for a in arrays]))
    for static in (False, True):
        same(evaluate(build, *arrays, static=static), expected, rtol)
    return build(*inputs_for(arrays))


def same(value: Any, expected: Any, rtol: float | None = None) -> None:
    """Equal dtype, shape and, up to rounding, values."""
    expected = np.asarray(expected)
    assert value.dtype == expected.dtype, f"got {value.dtype}, NumPy has {expected.dtype}"
    assert value.shape == expected.shape, f"got shape {value.shape}, NumPy has {expected.shape}"
    tolerance = rtol if rtol is not None else TOLERANCE.get(expected.dtype.name, 0)
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance if expected.dtype.kind == "f" else 0)


def weighted(node: Any) -> Any:
    """A scalar that weighs all elements of a result differently, so that no error cancels."""
    flat = T.flatten(node)
    return T.sum(flat * T.cos(1.0 + T.arange(flat.shape[0])))


def check_gradient(build: Expression, *arrays: Any, order: int = 1, tol: float = 1e-7, step: float = 1e-3) -> None:
    """Compare derivatives of `build` with central differences, in float64.

    Arrays of floats are varied, all others are held. With `order=2` the derivative of (the sine of) the
    first derivative is checked as well.
    """
    given = [np.asarray(a, dtype="float64" if np.asarray(a).dtype.kind == "f" else None) for a in arrays]
    places = [i for i, a in enumerate(given) if a.dtype.kind == "f"]
    inputs = inputs_for(given)
    wrt = [inputs[i] for i in places]
    cost = weighted(build(*inputs))
    for _ in range(order):
        grads = T.grad(cost, wrt, disconnected_inputs="ignore")
        with ostinato.config.change_flags(verify=True):
            found = ostinato.function(inputs, grads, on_unused_input="ignore")(*given)
        value = ostinato.function(inputs, cost, on_unused_input="ignore")
        for k, g in enumerate(found):
            assert g.dtype == "float64"
            expected = central(_of_floats(value, given, places), [given[i] for i in places], k, step)
            np.testing.assert_allclose(g, expected, rtol=tol, atol=tol)
        cost = sum(weighted(T.sin(g)) for g in grads)
        tol *= 100


def _of_floats(value: Any, given: Sequence[Any], places: Sequence[int]) -> Any:
    """The function of the varied arguments alone."""

    def call(*floats: Any) -> Any:
        arrays = list(given)
        for i, a in zip(places, floats, strict=True):
            arrays[i] = a
        return value(*arrays)

    return call
