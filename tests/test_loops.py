"""Random loops against a plain Python loop: values, first and second derivatives.

A program is drawn by hypothesis: sequences with taps, states with lags, an output that is not fed back,
invariants, an inner loop, reversal, zero steps. It is run twice: built with `scan`, and as a Python loop
over NumPy numbers. The Python loop works in complex numbers too, so that its first derivatives come from
a complex step, exact to rounding; second derivatives are central differences of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ostinato
import ostinato.tensor as T


@dataclass(frozen=True)
class Program:
    """A random loop: what it reads and how a step mixes it."""

    steps: int
    width: int  # 0: scalars
    sequence_taps: tuple[tuple[int, ...], ...]
    state_lags: tuple[tuple[int, ...], ...]
    free_output: bool
    inner_loop: bool
    go_backwards: bool
    given_steps: bool
    seed: int

    def row(self) -> tuple[int, ...]:
        return (self.width,) if self.width else ()

    def sequence_length(self, taps: tuple[int, ...]) -> int:
        return self.steps + max(0, *taps, 0) - min(0, *taps, 0)

    def arrays(self) -> list[np.ndarray]:
        """Sequences, initial values, two invariants."""
        rng = np.random.default_rng(self.seed)
        shapes = [(self.sequence_length(taps), *self.row()) for taps in self.sequence_taps]
        shapes += [self.row() if lags == (-1,) else (-min(lags), *self.row()) for lags in self.state_lags]
        return [rng.uniform(-1, 1, s) for s in [*shapes, (), self.row()]]

    def mix(self, place: int, args: list[Any], m: Any) -> Any:
        """One output of a step; `m` is the module of functions (NumPy or Ostinato's)."""
        rng = np.random.default_rng((self.seed, place))
        total: Any = 0.1
        for a in args:
            total = total + float(rng.uniform(-1, 1)) * a
        i, j = rng.integers(len(args), size=2)
        return m.tanh(total) + 0.3 * m.sin(args[i] * args[j])


def lags() -> st.SearchStrategy[tuple[int, ...]]:
    several = st.lists(st.integers(-4, -1), min_size=1, max_size=3, unique=True).map(tuple)
    return st.one_of(st.just((-1,)), several)


def taps() -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(-2, 2), min_size=1, max_size=3, unique=True).map(tuple)


@st.composite
def programs(draw: Any) -> Program:
    sequences = draw(st.lists(taps(), max_size=2))
    return Program(
        steps=draw(st.integers(0, 6)),
        width=draw(st.sampled_from([0, 0, 1, 2])),
        sequence_taps=tuple(sequences),
        state_lags=tuple(draw(st.lists(lags(), min_size=0 if sequences else 1, max_size=2))),
        free_output=draw(st.booleans()) or not sequences,
        inner_loop=draw(st.booleans()),
        go_backwards=draw(st.booleans()),
        given_steps=draw(st.booleans()) or not sequences,
        seed=draw(st.integers(0, 10**6)),
    )


# ---- as a plain loop ------------------------------------------------------------------------------


def plain(program: Program, arrays: list[Any]) -> list[Any]:
    """The stacked outputs."""
    p, rest = program, list(arrays)
    sequences = [rest.pop(0) for _ in p.sequence_taps]
    history = [[h] if lag == (-1,) else list(h) for lag in p.state_lags for h in [rest.pop(0)]]
    w, v = rest
    columns: list[list[Any]] = [[] for _ in range(len(p.state_lags) + p.free_output)]
    for t in range(p.steps):
        args = []
        for x, taps_ in zip(sequences, p.sequence_taps, strict=True):
            before = -min(0, *taps_, 0)
            for tap in taps_:
                position = p.steps - 1 - t if p.go_backwards else t
                args.append(x[position + before + tap])
        args += [h[lag] for h, lags_ in zip(history, p.state_lags, strict=True) for lag in lags_]
        args += [w, v]
        if p.inner_loop:
            inner = 0.0 * v
            for k in range(3):
                inner = np.tanh(inner * w + args[0] * (k + 1))
            args.append(inner)
        for i, column in enumerate(columns):
            column.append(p.mix(i, args, np))
        for h, column in zip(history, columns, strict=False):
            h.append(column[-1])
    dtype = np.result_type(*arrays)
    return [np.array(c, dtype).reshape(p.steps, *p.row()) for c in columns]


def weights(columns: list[Any], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng((seed, 99))
    return [rng.uniform(-1, 1, c.shape) for c in columns]


def plain_cost(program: Program, arrays: list[Any]) -> Any:
    columns = plain(program, arrays)
    total: Any = 0.0
    for c, q in zip(columns, weights(columns, program.seed), strict=True):
        total = total + (c * q).sum() + (c * c).sum() / 3
    return total


def plain_gradient(program: Program, arrays: list[Any]) -> list[np.ndarray]:
    """By a complex step: no difference is taken, so no digit is lost."""
    gradient = []
    for i, a in enumerate(arrays):
        g = np.zeros(a.shape)
        for index in np.ndindex(a.shape):
            moved = [np.array(b, complex) for b in arrays]
            moved[i][index] += 1e-30j
            g[index] = np.imag(plain_cost(program, moved)) / 1e-30
        gradient.append(g)
    return gradient


# ---- with scan ------------------------------------------------------------------------------------


def symbolic(program: Program, inputs: list[Any]) -> list[Any]:
    p, rest = program, list(inputs)
    sequences = [{"input": rest.pop(0), "taps": list(taps_)} for taps_ in p.sequence_taps]
    states = [
        init if lags_ == (-1,) else {"initial": init, "taps": list(lags_)}
        for lags_ in p.state_lags
        for init in [rest.pop(0)]
    ]
    w, v = rest

    def step(*args: Any) -> list[Any]:
        args_ = [*args[:-1], w, args[-1]]  # w is closed over, v is passed
        if p.inner_loop:
            inner, _ = ostinato.scan(
                lambda k, h: T.tanh(h * w + args_[0] * (k + 1)), sequences=T.arange(3), outputs_info=0.0 * args_[-1]
            )
            args_.append(inner[-1])
        return [p.mix(i, args_, T) for i in range(len(p.state_lags) + p.free_output)]

    outputs, updates = ostinato.scan(
        step,
        sequences=sequences,
        outputs_info=states + [None] * p.free_output,
        non_sequences=v,
        n_steps=p.steps if p.given_steps else None,
        go_backwards=p.go_backwards,
        return_list=True,
    )
    assert updates == {}
    return outputs


def symbolic_cost(program: Program, outputs: list[Any]) -> Any:
    shapes = [np.zeros((program.steps, *program.row()))] * len(outputs)
    total: Any = T.constant(0.0, dtype="float64")
    for y, q in zip(outputs, weights(shapes, program.seed), strict=True):
        total = total + (y * q).sum() + (y * y).sum() / 3
    return total


def inputs_of(arrays: list[Any]) -> list[Any]:
    return [T.tensor("float64", (None,) * a.ndim, f"x{i}") for i, a in enumerate(arrays)]


@pytest.fixture(autouse=True)
def _verified() -> Any:
    with ostinato.config.change_flags(verify=True):
        yield


SETTINGS = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SETTINGS
@given(programs())
def test_values_and_first_derivatives(program: Program) -> None:
    arrays = program.arrays()
    inputs = inputs_of(arrays)
    outputs = symbolic(program, inputs)
    grads = T.grad(symbolic_cost(program, outputs), inputs, disconnected_inputs="ignore")
    found = ostinato.function(inputs, [*outputs, *grads], on_unused_input="ignore")(*arrays)
    for y, expected in zip(found, plain(program, arrays), strict=False):
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-13)
    for g, expected in zip(found[len(outputs) :], plain_gradient(program, arrays), strict=True):
        np.testing.assert_allclose(g, expected, rtol=1e-10, atol=1e-11)


@settings(SETTINGS, max_examples=30)
@given(programs())
def test_second_derivatives(program: Program) -> None:
    arrays = program.arrays()
    inputs = inputs_of(arrays)
    rng = np.random.default_rng((program.seed, 7))
    u, v = [[rng.uniform(-1, 1, a.shape) for a in arrays] for _ in range(2)]
    grads = T.grad(symbolic_cost(program, symbolic(program, inputs)), inputs, disconnected_inputs="ignore")
    along_u = sum((g * q).sum() for g, q in zip(grads, u, strict=True))
    twice = T.grad(along_u, inputs, disconnected_inputs="ignore")
    found = ostinato.function(inputs, twice, on_unused_input="ignore")(*arrays)
    curvature = sum(float((h * q).sum()) for h, q in zip(found, v, strict=True))

    def slope(h: float) -> float:
        moved = [a + h * q for a, q in zip(arrays, v, strict=True)]
        return sum(float((g * q).sum()) for g, q in zip(plain_gradient(program, moved), u, strict=True))

    step = 1e-4  # first derivatives are exact to rounding, so it may be small
    coarse = (slope(step) - slope(-step)) / (2 * step)
    fine = (slope(step / 2) - slope(-step / 2)) / step
    np.testing.assert_allclose(curvature, (4 * fine - coarse) / 3, rtol=1e-7, atol=1e-8)
