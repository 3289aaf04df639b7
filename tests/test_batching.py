"""Operations of many steps at once against a plain loop over the steps: each op of the registry, and expressions."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from ostinato.graph import topological
from ostinato.ops import OPS, Op, Sample
from ostinato.ops.batch import NoBatchError, aligned
from ostinato.ops.leaf import new_input
from ostinato.rewrite.batching import batched, can_batch
from ostinato.types import TensorType

STEPS = 3
CASES = [
    pytest.param(op, sample, id=f"{op.name}-{i}")
    for op in OPS.values()
    if op.batch is not None
    for i, sample in enumerate(op.samples)
    if sample.arrays
]
# Ops of which a size or a bound among the operands must be the same at all steps; a loop in a sample is none.
BOUND_BY_SIZES = {"reshape", "broadcast_to", "sum_to", "specify_shape"}


def test_ops_without_a_rule() -> None:
    without = {op.name for op in OPS.values() if op.batch is None}
    assert without == {
        "constant", "input", "size", "trip_count", "within_budget", "steps_reached", "check_rows", "arange", "loop",
        "unset", "accumulate", "log_dot_exp", "softmax_dot",
    }  # fmt: skip


def rows_of(array: Any) -> np.ndarray[Any, Any]:
    """An array of other values for each step, with what ops may ask of them: signs, ranges, definiteness."""
    array = np.asarray(array)
    if array.dtype.kind == "f":
        scaled = [array * (1 - r / 16) for r in range(STEPS)]
    else:
        scaled = [np.roll(array, r) for r in range(STEPS)]
    return np.array(scaled, array.dtype)


def for_all_steps(sample: Sample, varies: tuple[bool, ...]) -> tuple[list[Any], Any, list[Any], Any]:
    arrays = [np.asarray(a) for a in sample.arrays]
    inputs = [TensorType(a.dtype.name, (None,) * a.ndim)(f"x{i}") for i, a in enumerate(arrays)]
    node = sample.build(*inputs)
    steps = T.lscalar("steps")
    whole = [x.type.with_shape((None, *x.type.shape))(x.name) if v else x for x, v in zip(inputs, varies, strict=True)]
    table = {x: w for x, w, v in zip(inputs, whole, varies, strict=True) if v}
    return inputs, node, [*whole, steps], batched([node], table, steps)[0]


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_against_a_loop(op: Op, sample: Sample) -> None:
    some = 0
    for varies in product([True, False], repeat=len(sample.arrays)):
        if not any(varies):
            continue
        try:
            inputs, node, params, whole = for_all_steps(sample, varies)
        except NoBatchError:
            bound = op.name in BOUND_BY_SIZES and any(
                v and np.ndim(a) == 0 and np.asarray(a).dtype.kind == "i"
                for v, a in zip(varies, sample.arrays, strict=True)
            )
            assert bound or op.name == "item", varies
            continue
        some += 1
        given = [rows_of(a) if v else a for v, a in zip(varies, sample.arrays, strict=True)]
        one = ostinato.function(inputs, node, mode="reference", on_unused_input="ignore")
        rows = [[g[r] if v else g for v, g in zip(varies, given, strict=True)] for r in range(STEPS)]
        expected = np.array([one(*row) for row in rows])
        found = ostinato.function(params, whole, mode="reference", on_unused_input="ignore")(*given, STEPS)
        assert found.dtype == expected.dtype
        assert whole.type.ndim == node.type.ndim + 1
        np.testing.assert_allclose(found, expected, 1e-12, 1e-14)
        if all(varies) and op.batch is not aligned:
            native = ostinato.function(params, whole, mode="native", on_unused_input="ignore")(*given, STEPS)
            np.testing.assert_allclose(native, expected, 2e-6 if expected.dtype == "float32" else 1e-11, 1e-13)
    assert some or op.name == "item"


X, Y = np.arange(60.0).reshape(3, 4, 5), np.cos(np.arange(24.0).reshape(4, 6))
I, J = np.array([2, 0, 1]), np.array([-1, 3, 0])


@pytest.mark.parametrize(
    "step",
    [
        lambda x, i, j, y: x[i],
        lambda x, i, j, y: x[:, i],
        lambda x, i, j, y: x[1:, i],
        lambda x, i, j, y: x[i, j],
        lambda x, i, j, y: x[2, j],
        lambda x, i, j, y: y[i],
        lambda x, i, j, y: y[1:3, i],
        lambda x, i, j, y: y[i, j],
        lambda x, i, j, y: y[i, ::2],
        lambda x, i, j, y: y[:, T.stack([i, j])],
        lambda x, i, j, y: x[:, T.stack([i, j])],
        lambda x, i, j, y: x[T.stack([i, j, i])],
        lambda x, i, j, y: x[T.stack([i, j])[:, None], T.stack([i, j])],
        lambda x, i, j, y: T.set_subtensor(x[i], 2.0),
        lambda x, i, j, y: T.inc_subtensor(x[:, j], x[:, i]),
        lambda x, i, j, y: T.set_subtensor(y[i, j], x[0, 0]),
        lambda x, i, j, y: T.set_subtensor(y[i, 2], x[0, 0]),
        lambda x, i, j, y: T.inc_subtensor(y[T.stack([i, i])], T.stack([y[j], y[i]])),
        lambda x, i, j, y: T.set_subtensor(x[:, 1:3], 7.0),
        lambda x, i, j, y: T.sort(x, axis=0) + T.sum(x[0]),
        lambda x, i, j, y: T.max(x, axis=1) * T.argmax(x, axis=1),
        lambda x, i, j, y: T.dot(x.T, y),
        lambda x, i, j, y: T.dot(y.T, x),
        lambda x, i, j, y: T.dot(x[:, 0], y),
        lambda x, i, j, y: T.dot(y.T, x[:, 0]),
        lambda x, i, j, y: T.dot(x[0], x[1]),
        lambda x, i, j, y: T.outer(x[0], x[1]),
        lambda x, i, j, y: T.outer(x[0], y[1]),
        lambda x, i, j, y: T.dot(x, T.dot(x.T, y)),
        lambda x, i, j, y: T.nlinalg.matrix_inverse(T.dot(x.T, x) + T.eye(5)),
        lambda x, i, j, y: T.slinalg.solve(T.dot(y, y.T) + T.eye(4), x),
        lambda x, i, j, y: T.concatenate([x, y], axis=1).reshape((-1,)),
        lambda x, i, j, y: T.zeros_like(x) + x.shape[0] * y.shape[1],
        lambda x, i, j, y: T.switch(i > 0, x[:2], y[:2, :5]),
    ],
)
def test_expressions(step: Any) -> None:
    """`x`, `i` and `j` are of a step; `y` is not."""
    x, i, j, y = T.dmatrix("x"), T.lscalar("i"), T.lscalar("j"), T.dmatrix("y")
    node = step(x, i, j, y)
    steps, table = T.lscalar("steps"), {v: new_input(v.type.with_shape((None, *v.type.shape))) for v in (x, i, j)}
    assert can_batch([node], table)
    whole = batched([node], table, steps)[0]
    one = ostinato.function([x, i, j, y], node, mode="reference", on_unused_input="ignore")
    expected = np.array([one(X[t] / 9, I[t], J[t], Y) for t in range(3)])
    for mode in ("reference", "native"):
        run = ostinato.function([*table.values(), y, steps], whole, mode=mode, on_unused_input="ignore")
        np.testing.assert_allclose(run(X / 9, I, J, Y, 3), expected, 1e-10, 1e-12)


def test_a_fixed_matrix_makes_one_product() -> None:
    """Rows of all steps are rows of one matrix, whichever side the vector of a step stands on."""
    x, W, steps = T.dvector("x"), T.dmatrix("W"), T.lscalar("steps")
    for node in (T.dot(x, W), T.dot(W, x)):
        whole = batched([node], {x: T.dmatrix("xs")}, steps)[0]
        assert [n.type.ndim for n in topological([whole]) if n.op.name == "matmul"] == [2]


def test_what_has_no_rule_says_so() -> None:
    x, n = T.dvector("x"), T.lscalar("n")
    for node in (T.arange(n), x[n:], T.zeros((n,))):
        assert not can_batch([node], {n})
    assert can_batch([x[n:]], {x})
