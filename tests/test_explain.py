"""`Function.explain`: what it says of interpreted and of native functions, and the texts of stages."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from ostinato.errors import OstinatoTypeError, OstinatoValueError


def recurrence(mode: str) -> Any:
    x = T.dvector("x")
    inner = {"sequences": T.arange(3), "outputs_info": T.constant(0.0, dtype="float64")}
    ys, _ = ostinato.scan(
        lambda v, h: ostinato.scan(lambda k, a: a + h * v, **inner)[0][-1],
        sequences=x,
        outputs_info=T.constant(1.0, dtype="float64"),
        name="outer",
        truncate_gradient=2,
    )
    return ostinato.function([x], ys, mode=mode, name="sums")


def test_an_interpreted_function() -> None:
    text = recurrence("reference").explain()
    assert text.splitlines() == [
        "sums(x): interpreted with NumPy, step by step.",
        "What was rewritten:",
        "  last_only: of 'add', an output of a loop (test_explain.py:20), only the last row is read: it is carried, "
        "and no others stored.",
        "The graph has 2 operations outside of loops.",
        "Loop 'outer': 3 operations per step; reads 1 sequence, carries 1 value, records 1 output; "
        "derivatives go back 2 steps.",
        "  Loop: 1 operation per step; reads 0 sequences, carries 1 value, records 0 outputs.",
        "    Computed once, before the loop: output 0[t-1] * x[t].",
        "Text of a stage: explain('graph').",
    ]


def test_a_native_function() -> None:
    with ostinato.config.change_flags(cache=False):
        run = recurrence("native")
    first, second, *_ = run.explain().splitlines()
    assert first == "sums(x): compiled to one native function for all sizes."
    assert second.startswith("Compiling took ")
    assert "ms (rewrite " in second
    assert run.explain("graph") == str(run.graph)
    assert "for t." in run.explain("nest")
    assert 'define i32 @"run"' in run.explain("llvm")
    with pytest.raises(OstinatoValueError, match=r"has no stage 'ptx'; there is graph, nest, llvm, time, memory"):
        run.explain("ptx")


def test_loops_and_memory_of_a_native_function() -> None:
    x, a, W = T.dvector("x"), T.dscalar("a"), T.dmatrix("W")
    h, _ = ostinato.scan(lambda v, h: T.tanh(a * h + v), x, T.constant(0.0, dtype="float64"), name="network")
    run = ostinato.function([x, a, W], [h, T.tanh(W), T.cast(W.sum(axis=1) > 0, "int8")], mode="native")
    lines = run.explain().splitlines()
    start, stop = lines.index("Loops and calls, in order:"), lines.index("Bytes of a call:")
    assert lines[start + 1 : stop] == [
        "  loop 'network': x.shape[0] steps, one after the other, with 1 number in registers",
        "  for W.shape[0] elements",
        "    over W.shape[1], carrying 1 number, 16 at a time",
        "  for W.shape[0] x W.shape[1] elements, 8 at a time",
        "  for W.shape[0] elements",
    ]
    assert lines[stop + 1 : -1] == [
        "  results: 8 * x.shape[0] + 8 * W.shape[0] * W.shape[1] + 1 * W.shape[0]",
        "  on the way: 8 * W.shape[0]",
    ]
    given = [np.ones(1000), 0.5, np.ones((20, 3))]
    told = run.explain(arguments=given).splitlines()
    assert told[stop + 1 : -1] == [f"  results: {sum(r.nbytes for r in run(*given))}", f"  on the way: {8 * 20}"]
    with pytest.raises(OstinatoTypeError, match="missing input"):
        run.explain(arguments=given[:1])


def test_what_is_told_of_loops_in_loops_products_and_calls() -> None:
    n, X, W = T.lscalar("n"), T.dmatrix("X"), T.dmatrix("W")
    h, _ = ostinato.scan(
        lambda v, h: T.polygamma(1, T.tanh(T.dot(h, W)) + v), X, T.zeros((n,), "float64"), name="outer"
    )
    walk, _ = ostinato.scan(lambda k: (k + 1, ostinato.until(k > 3)), outputs_info=0, n_steps=n)
    run = ostinato.function([n, X, W], [h[-1], walk, T.linalg.cholesky(W)], mode="native")
    text = run.explain()
    assert (
        "  loop 'outer': X.shape[0] steps, one after the other, with 1 array in memory\n"
        "    call of kernels.multiply_float64\n" in text
    )
    assert "\n    call of NumPy: polygamma\n" in text
    assert "  loop: n steps, one after the other, until a condition, with 1 number in registers\n" in text
    assert "  call of cholesky.float64\n" in text or "  call of lapack.dpotrf" in text
    assert re.search(r"  on the way: .*\b8 \* W.shape\[1\].*, and rows of loops that end by a condition$", text, re.M)
    assert re.search(r"  on the way: \d+, and rows", run.explain(arguments=[3, np.ones((5, 3)), np.eye(3)]), re.M)


def test_a_function_without_loops() -> None:
    x = T.dscalar()
    text = ostinato.function([x], x + 1, mode="native").explain()
    assert "No loops: a few operations on numbers.\nBytes of a call:\n  results: 8\n  on the way: 0\n" in text


def test_a_condition_is_told() -> None:
    ys, _ = ostinato.scan(lambda k: (k + 1, ostinato.until(k > 3)), outputs_info=0, n_steps=9)
    assert "stops by a condition" in ostinato.function([], ys).explain()


def test_products_outside_of_loops_are_those_of_a_library() -> None:
    a, b = T.dmatrices("a", "b")
    nest = ostinato.function([a, b], [T.dot(a, b), T.dot(b, a), T.dot(a, b.T)], mode="native").explain("nest")
    assert nest.count("extern blas.dgemm(") == 3


def test_products_of_matrices_share_a_routine() -> None:
    a, b = T.lmatrices("a", "b")
    nest = ostinato.function([a, b], [T.dot(a, b), T.dot(b, a), T.dot(a, b.T)], mode="native").explain("nest")
    assert nest.count("routine product.int64(rows.") == 1
    assert nest.count("call product.int64(") == 3


def test_what_is_computed_once_is_told() -> None:
    X, W, U, h0 = T.dtensor3("X"), T.dmatrix("W"), T.dmatrix("U"), T.dmatrix("h0")
    h, _ = ostinato.scan(lambda x, h: T.tanh(T.dot(x, W.T * 2) + T.dot(h, U) + T.exp(U.sum())), X, h0, name="network")
    for outputs in (h, [h, T.grad(h.sum(), W)]):
        lines = (
            ostinato.function([X, W, U, h0], outputs, mode="native", on_unused_input="ignore").explain().splitlines()
        )
        assert "  Computed once, before the loop: W * 2. and exp(sum(U))." in lines
        told = lines[lines.index("What was rewritten:") :]
        packed = "is packed once before loop 'network', for the products of all steps."
        assert f"  packing: W * 2. {packed}" in told
        assert f"  packing: U {packed}" in told
    assert (
        "  loop_accumulate: a sum over the steps of loop 'gradient of network' made after it, from all steps at once."
        in told
    )


def test_variables_are_no_news() -> None:
    x, a = T.dvector("x"), T.dscalar("a")
    h, _ = ostinato.scan(lambda v, h: a * h + v, x, T.constant(0.0, dtype="float64"))
    assert "Computed once" not in ostinato.function([x, a], h).explain()


def test_alternatives_are_told() -> None:
    x, w = T.dtensor3("x"), T.dmatrix("w")
    h, _ = ostinato.scan(lambda v, h: T.tanh(T.dot(v, w) + h), x, T.dmatrix("h0"), name="network")
    inputs = [i for i in ostinato.graph.leaves([h]) if i.op.name == "input"]
    text = ostinato.function(inputs, T.dot(h[-1], w), mode="native").explain()
    assert "\n  if a condition holds:\n    call of blas.dgemm\n" in text
    assert "?" not in text[text.index("Loops and calls") : text.index("Bytes of a call")]
