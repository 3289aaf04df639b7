"""`Function.explain`: what it says of interpreted and of native functions, and the texts of stages."""

from __future__ import annotations

from typing import Any

import pytest

import ostinato
import ostinato.tensor as T
from ostinato.errors import OstinatoValueError


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
        "The graph has 2 operations outside of loops.",
        "Loop 'outer': 4 operations per step; reads 1 sequence, carries 1 value, records 1 output; "
        "derivatives go back 2 steps.",
        "  Loop: 1 operation per step; reads 0 sequences, carries 1 value, records 1 output.",
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
    with pytest.raises(OstinatoValueError, match=r"has no stage 'ptx'; there is graph, nest, llvm, memory"):
        run.explain("ptx")


def test_a_condition_is_told() -> None:
    ys, _ = ostinato.scan(lambda k: (k + 1, ostinato.until(k > 3)), outputs_info=0, n_steps=9)
    assert "stops by a condition" in ostinato.function([], ys).explain()


def test_products_of_matrices_share_a_routine() -> None:
    a, b = T.lmatrices("a", "b")
    nest = ostinato.function([a, b], [T.dot(a, b), T.dot(b, a), T.dot(a, b.T)], mode="native").explain("nest")
    assert nest.count("routine product.int64(rows.") == 1
    assert nest.count("call product.int64(") == 3
