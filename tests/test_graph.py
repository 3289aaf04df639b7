"""Nodes and Graphs: interning, walks, substitution, depth, threads; and the printed text form."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from ostinato.backends.reference import compile_graph
from ostinato.errors import VerificationError
from ostinato.graph import Graph, Node, dependents, leaves, make, redirect, substitute, topological
from ostinato.ops.elementwise import exp, neg
from ostinato.ops.leaf import new_input
from ostinato.rewrite.pipeline import rewrite
from ostinato.types import TensorType
from ostinato.verify import verify


def test_equal_expressions_are_one_node() -> None:
    x, y = T.dvectors("x", "y")
    assert T.tanh(x + y) is T.tanh(x + y)
    assert T.tanh(x + y) is not T.tanh(y + x)
    assert x[1:3] is x[1:3]
    assert x[1:3] is not x[1:4]


def test_constants_are_equal_by_bits_and_dtype() -> None:
    one = T.constant(np.float64(1))
    assert one is T.constant(np.float64(1))
    assert one is not T.constant(np.float32(1))
    assert T.constant(np.float64(0.0)) is not T.constant(np.float64(-0.0))
    assert T.constant(np.array([np.nan])) is T.constant(np.array([np.nan]))
    big = np.arange(1000.0)
    assert T.constant(big) is T.constant(big.copy())
    assert T.constant(big) is not T.constant(big + 1)


def test_a_constant_does_not_change_with_the_array_it_was_made_of() -> None:
    a = np.zeros(3)
    c = T.constant(a)
    a[:] = 1
    assert c.data.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        c.data[0] = 1


def test_variables_of_one_name_are_different() -> None:
    assert T.dscalar("x") is not T.dscalar("x")


def test_interning_keeps_nothing_alive() -> None:
    x = T.dvector("x")
    gone = weakref.ref(T.tanh(x * 3.25))
    gc.collect()
    assert gone() is None


def test_names_and_lines_are_no_part_of_identity() -> None:
    x = T.dscalar("x")
    a = x * 17
    a.name = "a"
    assert (x * 17) is a
    assert a.source is not None
    assert str(a.source).startswith("test_graph.py:")
    a.tag.note = "kept"
    assert (x * 17).tag.note == "kept"


def test_copies_are_the_node_itself_and_pickling_is_refused() -> None:
    x = T.dscalar("x")
    assert copy.copy(x) is x
    assert copy.deepcopy([x + 1])[0] is x + 1
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(x)


def test_topological_order_has_inputs_first_and_each_node_once() -> None:
    x = T.dscalar("x")
    a = x + 1
    b = a * a + T.exp(a)
    order = topological([b, a])
    assert len(order) == len(set(order))
    for node in order:
        assert all(order.index(i) < order.index(node) for i in node.inputs)
    assert topological([b], stop={a})[0] is a


def test_substitution_is_simultaneous() -> None:
    x, y = T.dscalars("x", "y")
    (swapped,) = substitute([x - 2 * y], {x: y, y: x})
    assert swapped is y - 2 * x


def test_redirect_reaches_the_replacements_too() -> None:
    x, y = T.dscalars("x", "y")
    a, b = T.sin(x), T.cos(y)
    first, second = redirect([a + b], {a: b * 2, b: T.exp(x)})[0].inputs
    assert first is T.exp(x) * 2
    assert second is T.exp(x)


def test_substitution_keeps_names_and_lines() -> None:
    x, y = T.dscalars("x", "y")
    z = T.sinh(x) * 3.5
    z.name = "z"
    (moved,) = substitute([z], {x: y})
    assert moved.name == "z"
    assert moved.source == z.source


def test_dependents_and_leaves() -> None:
    x, y = T.dscalars("x", "y")
    a, b = T.exp(x), T.exp(y)
    root = a + b
    assert dependents([root], {x}) == {x, a, root}
    assert set(leaves([root])) == {x, y}


def test_a_chain_of_100_000_operations() -> None:
    """Building, walking, sizes, derivative, rewriting, verifying, printing, running and freeing."""
    x = T.dvector("x")
    y = x
    for _ in range(100_000):
        y = make(neg.op, (y,))
    assert str(y.shape[0]) == "size(x)"
    (g,) = T.grad(y.sum(), [x])
    graph = Graph((x,), (y, g))
    verify(graph)
    assert str(graph).count("\n") > 100_000
    value, slope = compile_graph(graph)([np.array([1.0, 2.0])])
    assert value.tolist() == [1, 2]
    assert slope.tolist() == [1, 1]
    assert rewrite(Graph((x,), (y,))).results == (x,)  # pairs of minus signs go
    del y, g, graph
    gc.collect()


def test_many_threads_build_one_node() -> None:
    x = T.dscalar("x")
    found: list[Node] = []
    barrier = threading.Barrier(8)

    def build() -> None:
        barrier.wait()
        node = x
        for _ in range(200):
            node = T.sin(node)
        found.append(node)

    threads = [threading.Thread(target=build) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 8
    assert all(n is found[0] for n in found)


# ---- Graph ----------------------------------------------------------------------------------------


def test_apply_puts_arguments_for_params() -> None:
    x, y = T.dscalars("x", "y")
    graph = Graph((x,), (T.exp(x), x * 2))
    assert graph.apply([y]) == [T.exp(y), y * 2]
    assert graph.param_types == (x.type,)
    assert [str(t) for t in graph.result_types] == ["float64", "float64"]


def test_verify_tells_what_is_wrong() -> None:
    x, y = T.dscalars("x", "y")
    verify(Graph((x, y), (x + y,)))
    with pytest.raises(VerificationError, match="input y is free"):
        verify(Graph((x,), (x + y,)))
    with pytest.raises(VerificationError, match="listed twice"):
        verify(Graph((x, x), (x,)))
    with pytest.raises(VerificationError, match="is no input but exp"):
        verify(Graph((T.exp(x),), (x + 1,)))


def test_verify_finds_a_type_that_was_tampered_with() -> None:
    x = new_input(TensorType("float64", (3,)), "x")
    node = make(exp.op, (x,))
    node.type = TensorType("float64", (4,))
    with pytest.raises(VerificationError, match=r"exp has type float64\[4\], but infers float64\[3\]"):
        verify(Graph((x,), (node,)))


def test_verify_looks_into_loops() -> None:
    x = T.dvector("x")
    ys, _ = ostinato.scan(lambda v, acc: acc + v, sequences=x, outputs_info=T.constant(0.0))
    verify(Graph((x,), (ys,)))
    loop = ys.inputs[0]
    body = loop.params[0].body
    body.results[0].type = TensorType("float32", ())
    with pytest.raises(VerificationError, match="in the body of loop"):
        verify(Graph((x,), (ys,)))


TEXT = """\
graph(x: float64[?], s: float64):
  %0 = size[axis=0] x : int64
  %1 = loop[1 sequences, 1 carries] %0 x 0. s : (float64, float64[?], int64)
    body(t: int64, x[t]: float64, output 0[t-1]: float64, s: float64):
      %0 = mul output 0[t-1] s : float64
      %1 = add %0 x[t] : float64
      return %1, %1
  %2 = item[index=1] %1 : float64[?]
  return %2"""


def test_text_form() -> None:
    x, s = T.dvector("x"), T.dscalar("s")
    ys, _ = ostinato.scan(lambda v, acc: acc * s + v, sequences=x, outputs_info=T.constant(0.0, dtype="float64"))
    assert str(Graph((x, s), (ys,))) == TEXT


def test_text_form_tells_same_names_apart_and_shows_names_and_params() -> None:
    a, b = T.dscalar("x"), T.dscalar("x")
    y = T.cast(a + b, "float32")
    y.name = "y"
    assert str(Graph((a, b), (y,))) == (
        "graph(x: float64, x#2: float64):\n"
        "  %0 = add x x#2 : float64\n"
        "  %1 = cast[dtype=float32] %0 : float32  # y\n"
        "  return %1"
    )


def test_debugprint_of_variables_and_functions(capsys: pytest.CaptureFixture[str]) -> None:
    x = T.dscalar("x")
    ostinato.printing.debugprint(x * 2)
    ostinato.printing.debugprint(ostinato.function([x], x * 2))
    first, second = capsys.readouterr().out.split("graph(")[1:]
    assert first == second == "x: float64):\n  %0 = mul x 2. : float64\n  return %0\n"


def test_repr_reads_like_the_source() -> None:
    x, W = T.dvector("x"), T.dmatrix("W")
    assert repr(T.tanh(x * 2 + 1)) == "tanh(((x * 2.) + 1.))"
    assert repr(T.dot(x, W)) == "(x @ W)"
    assert repr(-T.sqrt(x)) == "-sqrt(x)"
