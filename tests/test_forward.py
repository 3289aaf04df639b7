"""Forward mode: `jvp` of ops and loops, its options and errors, and how it composes with reverse mode.

The generated tests of `test_ops.py` check the rules of single ops. Here random loops, drawn as in
`test_loops.py`, are compared with complex steps of plain Python loops, and with reverse mode.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings

import ostinato
import ostinato.tensor as T
from test_loops import Program, inputs_of, plain, programs, symbolic

# ---- random loops ---------------------------------------------------------------------------------


def plain_tangents(program: Program, arrays: list[Any], u: list[Any]) -> list[Any]:
    """By a complex step of the plain loop."""
    moved = [a + 1e-30j * t for a, t in zip(arrays, u, strict=True)]
    return [np.imag(c) / 1e-30 for c in plain(program, moved)]


SETTINGS = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@SETTINGS
@given(programs())
def test_tangents_of_random_loops(program: Program) -> None:
    """Right by a complex step, and the transposed of reverse mode."""
    arrays = program.arrays()
    inputs = inputs_of(arrays)
    rng = np.random.default_rng((program.seed, 5))
    u = [rng.uniform(-1, 1, a.shape) for a in arrays]
    outputs = symbolic(program, inputs)
    tangents = ostinato.jvp(outputs, inputs, u, disconnected_outputs="ignore")
    shapes = [y.shape for y in plain(program, arrays)]
    v = [rng.uniform(-1, 1, s) for s in shapes]
    pulled = ostinato.vjp(outputs, inputs, v, disconnected_inputs="ignore")
    found = ostinato.function(inputs, [*tangents, *pulled], on_unused_input="ignore")(*arrays)
    n = len(outputs)
    for t, expected in zip(found[:n], plain_tangents(program, arrays, u), strict=True):
        np.testing.assert_allclose(t, expected, rtol=1e-10, atol=1e-11)
    pushed_side = sum(float((t * q).sum()) for t, q in zip(found[:n], v, strict=True))
    pulled_side = sum(float((g * q).sum()) for g, q in zip(found[n:], u, strict=True))
    np.testing.assert_allclose(pushed_side, pulled_side, rtol=1e-10, atol=1e-10)


@settings(SETTINGS, max_examples=12)
@given(programs())
def test_second_order_of_random_loops_in_all_orders(program: Program) -> None:
    """Reverse over forward, forward over reverse and forward over forward agree with reverse over reverse."""
    arrays = program.arrays()
    inputs = inputs_of(arrays)
    rng = np.random.default_rng((program.seed, 6))
    u, w = ([rng.uniform(-1, 1, a.shape) for a in arrays] for _ in range(2))
    outputs = symbolic(program, inputs)
    cost = sum(((T.sin(y) * rng.uniform(-1, 1)).sum() for y in outputs), T.constant(0.0, dtype="float64"))

    def along(gradients: Any, direction: Any) -> Any:
        return sum((g * q).sum() for g, q in zip(gradients, direction, strict=True))

    def grad(x: Any) -> Any:
        return T.grad(x, inputs, disconnected_inputs="ignore")

    def push(x: Any, direction: Any) -> Any:
        return ostinato.jvp(x, inputs, direction, disconnected_outputs="ignore")

    found = ostinato.function(
        inputs,
        [
            along(grad(along(grad(cost), u)), w),
            along(grad(push(cost, u)), w),
            push(along(grad(cost), u), w),
            push(push(cost, u), w),
        ],
        mode="reference",
        on_unused_input="ignore",
    )(*arrays)
    np.testing.assert_allclose(found[1:], [found[0]] * 3, rtol=1e-9, atol=1e-10)
