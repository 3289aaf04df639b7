"""Forms that `algebra` makes simpler, bit for bit; the rules of its table are tested in `test_rewrite.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from ostinato.backends.reference import compile_graph
from ostinato.graph import Graph, make
from ostinato.ops.movement import DIMSHUFFLE, RESHAPE
from ostinato.ops.sizes import BROADCAST, SUM_TO, as_size_nodes, sizes
from ostinato.rewrite.algebra import FORMS, algebra

SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.1, -2.5, 1e-320, -3e-310, 1e308, -1e308, np.inf, -np.inf, np.nan])
GRID = np.resize(SPECIAL, (3, 4))

x, y, m, d = T.dvector("x"), T.dvector("y"), T.dmatrix("m"), T.dscalar("d")
c, i, f = T.vector("c", dtype="bool"), T.ivector("i"), T.fvector("f")

# What is written, and what it becomes.
SIMPLER: dict[str, Callable[[], tuple[Any, Any]]] = {
    "where(c, x, x)": lambda: (T.where(c, x, x), x),
    "where(True, x, y)": lambda: (T.where(T.constant(True), x, y), x),
    "where(False, x, y)": lambda: (T.where(T.constant(False), x, y), y),
    "where(not c, x, y)": lambda: (T.where(T.logical_not(c), x, y), T.where(c, y, x)),
    "not not c": lambda: (T.logical_not(T.logical_not(c)), c),
    "float32 by way of float64": lambda: (T.cast(T.cast(f, "float64"), "float32"), f),
    "int32 by way of float64": lambda: (T.cast(T.cast(i, "float64"), "float32"), T.cast(i, "float32")),
    "transposed twice": lambda: (make(DIMSHUFFLE, (make(DIMSHUFFLE, (m,), ((1, 0),)),), ((1, 0),)), m),
    "reversed twice": lambda: (m[::-1][::-1], m),
    "own sizes, reshaped": lambda: (make(RESHAPE, (m, *as_size_nodes(sizes(m)))), m),
    "own sizes, broadcast": lambda: (make(BROADCAST, (m, *as_size_nodes(sizes(m)))), m),
    "own sizes, summed to": lambda: (make(SUM_TO, (m, *as_size_nodes(sizes(m)))), m),
    "x / 4": lambda: (x / 4.0, x * 0.25),
    "x / -0.5": lambda: (x / -0.5, x * -2.0),
    "x / powers of two": lambda: (m / np.array([1.0, 2.0, 0.25, -8.0]), m * np.array([1.0, 0.5, 4.0, -0.125])),
}

# What must stay what it is.
AS_IT_WAS: dict[str, Callable[[], Any]] = {
    "x - x": lambda: x - x,
    "x / x": lambda: x / x,
    "0 * x": lambda: 0 * x,
    "x + 0": lambda: x + 0,
    "-(x - y)": lambda: -(x - y),
    "x / 3": lambda: x / 3.0,
    "x / 2**-1074": lambda: x / 5e-324,
    "x / 2**1023": lambda: x / 2.0**1023,
    "x / 0": lambda: x / 0.0,
    "x / inf": lambda: x / np.inf,
    "float64 by way of float32": lambda: T.cast(T.cast(x, "float32"), "float64"),
    "where of another type": lambda: T.where(c, d, d),
    "where of some": lambda: T.where(T.constant(np.resize([True, False], SPECIAL.size)), x, y),
    "reversed once": lambda: m[::-1],
    "reversed along two": lambda: m[::-1][:, ::-1],
}

ARGUMENTS = {
    x: SPECIAL, y: SPECIAL[::-1].copy(), m: GRID, c: np.resize([True, False, False], SPECIAL.size), d: np.float64(-0.0),
    i: np.arange(-6, 7, dtype="int32") * 12345679, f: SPECIAL[:8].astype("float32"),
}  # fmt: skip


def values(*results: Any) -> list[Any]:
    with np.errstate(all="ignore"):
        return compile_graph(Graph(tuple(ARGUMENTS), results))(list(ARGUMENTS.values()))


@pytest.mark.parametrize("name", SIMPLER)
def test_what_becomes_simpler(name: str) -> None:
    before, after = SIMPLER[name]()
    assert algebra(Graph(tuple(ARGUMENTS), (before,))).results == (after,)
    old, new = values(before, after)
    assert old.dtype == new.dtype
    np.testing.assert_array_equal(old, new)
    assert old.dtype.kind != "f" or np.array_equal(np.signbit(old)[~np.isnan(old)], np.signbit(new)[~np.isnan(new)])


@pytest.mark.parametrize("name", AS_IT_WAS)
def test_what_would_not_be_the_same(name: str) -> None:
    before = AS_IT_WAS[name]()
    assert algebra(Graph(tuple(ARGUMENTS), (before,))).results == (before,)


def test_every_form_has_an_example() -> None:
    ops = {SIMPLER[name]()[0].op.name for name in SIMPLER}
    assert set(FORMS) <= ops


@pytest.mark.parametrize("mode", ["native", "reference"])
def test_both_backends(mode: str) -> None:
    befores = [SIMPLER[name]()[0] for name in SIMPLER]
    given = [p for p in ARGUMENTS if p is not d]
    with np.errstate(all="ignore"):
        found = ostinato.function(given, befores, mode=mode)(*[ARGUMENTS[p] for p in given])
    for a, b in zip(found, values(*befores), strict=True):
        np.testing.assert_array_equal(a, b)


def test_last_only_tells_what_is_not_stored() -> None:
    h, _ = ostinato.scan(lambda v, h: T.tanh(h + v), x, T.constant(0.0, dtype="float64"), name="network")
    squares = ostinato.scan(lambda v: v * v + T.exp(v), y, name="squares")[0]
    run = ostinato.function([x, y], [h[-1], squares[-2]], mode="reference")
    first, second = [n for n in run.notes if n.startswith("last_only")]
    assert first.startswith("last_only: of 'tanh', an output of loop 'network' (test_algebra.py:")
    assert first.endswith("), only the last row is read: it is carried, and no others stored.")
    assert "of 'add', an output of loop 'squares'" in second
    assert second.endswith("only the last 2 rows are read: they are carried, and no others stored.")
    assert first in run.explain()
    stored = ostinato.function([x], [h[-1], h], mode="reference")
    assert not any(n.startswith("last_only") for n in stored.notes)
