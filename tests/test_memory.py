"""Places of temporaries: what may share one, and that sharing changes no bit of a result."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings

import ostinato
import ostinato.tensor as T
from ostinato.backends.llvm.run import Native
from ostinato.graph import Graph
from ostinato.lower.loopnest import CallOut, Expr, Nest, format_nest
from ostinato.lower.memory import Usage, share_places
from ostinato.rewrite.pipeline import rewrite
from test_loops import Program, inputs_of, programs, symbolic, symbolic_cost

RNG = np.random.default_rng(5)


def used(nest: Nest, pointer: Expr) -> None:
    """A statement that writes to memory."""
    nest.emit_store(pointer, nest.const(0), nest.const(1.0, "float64"))


def shared(nest: Nest) -> str:
    share_places(nest)
    return format_nest(nest.body)


def test_one_after_the_other() -> None:
    nest = Nest()
    n, m = nest.var("n", "int64"), nest.var("m", "int64")
    a = nest.alloc(n, "float32")
    used(nest, a)
    b = nest.alloc(m, "float64")
    used(nest, b)
    c = nest.alloc(n, "float32")
    used(nest, c)
    used(nest, b)
    assert (
        shared(nest)
        == """\
buffer.2 = alloc float64[maximum(floor_div(add(n.0, 1), 2), m.1)]
buffer.2[0] = 1.0
buffer.3 = buffer.2
buffer.3[0] = 1.0
buffer.4 = alloc float32[n.0]
buffer.4[0] = 1.0
buffer.3[0] = 1.0"""
    )


def test_a_size_that_is_not_known_yet() -> None:
    """A place cannot be made large enough for what becomes known after it."""
    nest = Nest()
    used(nest, nest.alloc(nest.const(4), "float64"))
    n = nest.let(nest.load(nest.var("words", "ptr"), nest.const(0), "int64"))
    used(nest, nest.alloc(n, "float64"))
    assert share_places(nest) == Usage(2, 2)


@pytest.mark.parametrize("kept", ["a", "b"])
def test_what_the_caller_keeps_is_left_alone(kept: str) -> None:
    nest = Nest()
    a, b = nest.alloc(nest.const(4), "float64"), nest.alloc(nest.const(4), "float64")
    nest.keep(a if kept == "a" else b, 0)
    used(nest, a)
    used(nest, b)
    before = format_nest(nest.body)
    assert shared(nest) == before


def test_other_names_of_memory() -> None:
    """An address that was computed, or that loops carry, keeps memory in use."""
    nest = Nest()
    n = nest.const(4)
    a, b = nest.alloc(n, "float64"), nest.alloc(n, "float64")
    later = nest.let(nest.op("advance", a, nest.const(8), dtype="ptr"))
    with nest.loop(n) as loop:
        now, spare = nest.carry(loop, later, "now"), nest.carry(loop, b, "spare")
        now.next, spare.next = spare.var, now.var
    used(nest, nest.alloc(n, "float64"))
    used(nest, spare.result)
    used(nest, nest.alloc(n, "float64"))
    assert share_places(nest) == Usage(4, 3), "only the last one comes when all others are done with"


def test_what_is_called_out_may_return_what_it_was_given() -> None:
    nest = Nest()
    a, view = nest.alloc(nest.const(4), "float64"), nest.var("result", "ptr")
    nest.emit(CallOut(0, (a,), (view,)))
    used(nest, nest.alloc(nest.const(4), "float64"))
    used(nest, view)
    assert share_places(nest) == Usage(2, 2)


def test_loops_that_follow_each_other() -> None:
    nest = Nest()
    n = nest.var("n", "int64")
    for _ in range(3):
        with nest.loop(n):
            used(nest, nest.alloc(n, "float64"))
    assert share_places(nest) == Usage(3, 1)


def test_what_an_iteration_makes_for_itself() -> None:
    """Memory whose size differs from iteration to iteration stays where it is; within one, places are shared."""
    nest = Nest()
    with nest.loop(nest.const(5)) as loop:
        used(nest, nest.alloc(loop.var, "float64"))
        used(nest, nest.alloc(loop.var, "float64"))
    assert share_places(nest) == Usage(2, 1)
    assert [type(s).__name__ for s in nest.body] == ["For"]


# ---- results --------------------------------------------------------------------------------------


def same_bits(graph: Graph, arrays: list[Any]) -> None:
    """What a graph gives if every temporary has a place of its own, and if places are shared."""
    found = Native(graph)(arrays)
    with mock.patch("ostinato.lower.program.share_places", return_value=Usage(0, 0)):
        expected = Native(graph)(arrays)
    for a, b in zip(found, expected, strict=True):
        assert a.tobytes() == b.tobytes()


@settings(max_examples=25)
@given(programs())
def test_random_loops_and_their_gradients(program: Program) -> None:
    arrays = program.arrays()
    inputs = inputs_of(arrays)
    outputs = symbolic(program, inputs)
    gradients = T.grad(symbolic_cost(program, outputs), inputs, disconnected_inputs="ignore")
    same_bits(rewrite(Graph(tuple(inputs), (*outputs, *gradients))), arrays)


def test_networks() -> None:
    X, h, W, U = T.dtensor3("X"), T.dmatrix("h"), T.dmatrix("W"), T.dmatrix("U")

    def step(x: Any, h: Any, c: Any, W: Any, U: Any) -> Any:
        z = T.dot(x, W) + T.dot(h, U)
        n = h.shape[1]
        c = T.sigmoid(z[:, :n]) * c + T.tanh(z[:, n : 2 * n])
        return [T.sigmoid(z[:, 2 * n :]) * T.tanh(c), c]

    (hs, _), _ = ostinato.scan(step, X, [h, h], [W, U])
    cost = T.sum(T.dot(hs[-1], hs[0].T) ** 2)
    arrays = [RNG.normal(size=s) / 3 for s in ((6, 5, 9), (5, 11), (9, 33), (11, 33))]
    same_bits(rewrite(Graph((X, h, W, U), (cost, *T.grad(cost, [X, h, W, U])))), arrays)


def test_linear_algebra_and_call_outs() -> None:
    A, x = T.dmatrix("A"), T.dvector("x")
    S = T.dot(A, A.T) + 50 * T.eye(A.shape[0])
    results = [T.linalg.solve(S, x), T.linalg.inv(S), T.polygamma(1, x * x + 1)]
    for n in (3, 40):
        same_bits(Graph((A, x), tuple(results)), [RNG.normal(size=(n, n)), RNG.normal(size=n)])


def test_less_memory_is_needed() -> None:
    """A chain of products needs two matrices at a time, however long it is."""
    x = T.dmatrix("x")
    y = x
    for k in range(20):
        y = T.dot(y, x) if k % 2 else T.dot(T.sin(y), x)
    run, array = Native(Graph((x,), (T.sum(y),))), RNG.normal(size=(200, 200)) / 20
    run([array])
    with mock.patch("ostinato.lower.program.share_places", return_value=Usage(0, 0)):
        apart = Native(Graph((x,), (T.sum(y),)))
        apart([array])
    assert run.workspace < 0.6 * apart.workspace
    usage = run.build.program.usage
    assert usage.places < 0.5 * usage.temporaries
    assert run.report.texts["memory"]().startswith(f"{usage.temporaries} temporaries in {usage.places} places; ")
