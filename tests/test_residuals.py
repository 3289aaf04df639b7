"""What the steps of a loop record for its reverse: the least cut, against every other one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ostinato
import ostinato.tensor as T
from numeric import central
from ostinato.graph import Node, dependents, topological
from ostinato.ops import loop_reverse
from ostinato.ops.leaf import new_input
from ostinato.ops.least_cut import Network
from ostinato.ops.loop import Body, LoopInputs, body_of
from ostinato.ops.op import OPS
from ostinato.ops.residuals import residuals
from ostinato.types import TensorType

LOOP = OPS["loop"]


def recorded(expressions: Any, inputs: Any) -> list[list[Node]]:
    """The outputs of each loop of a function, as the reference runs it."""
    loops = [n for n in ostinato.function(inputs, expressions, mode="reference").graph.nodes() if n.op is LOOP]
    return [list(body_of(n.params[0]).outputs) for n in loops]


# ---- the cut of a network -------------------------------------------------------------------------


@given(
    st.integers(2, 7).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.integers(0, 9)), max_size=20),
        )
    )
)
@settings(max_examples=200, deadline=None)
def test_no_cut_of_a_network_is_smaller(problem: tuple[int, list[tuple[int, int, int]]]) -> None:
    n, connections = problem
    network: Network[int] = Network()
    for a, b, capacity in connections:
        network.connect(a, b, capacity)

    def cut(side: set[int]) -> int:
        return sum(c for a, b, c in connections if a in side and b not in side)

    found = network.source_side(0, n - 1)
    assert 0 in found
    assert n - 1 not in found
    others = [{0, *chosen} for k in range(n - 1) for chosen in itertools.combinations(range(1, n - 1), k)]
    least = min(map(cut, others))
    assert cut(found) == least
    assert all(found <= side for side in others if cut(side) == least)  # the one next to the source


# ---- the cut of a step ----------------------------------------------------------------------------

# What a test takes operations and rows to cost, per element of 8 bytes: written down again, on purpose.
COSTS = {"add": 1, "sub": 1, "mul": 1, "sin": 80, "true_div": 32, "lt": 1, "where": 1, "sum": 2, "matmul": None}
ROW = TensorType("float64", (6,))


def random_step(rng: np.random.Generator) -> tuple[Body, LoopInputs, list[Any], list[Any]]:
    """A body, what its loop is given, values that the reverse reads, and what is recorded in any case."""

    def one_of(values: Any) -> Any:
        return values[rng.integers(len(values))]

    x, a = new_input(ROW, "x"), new_input(ROW, "a")
    carries = [new_input(ROW, "h"), new_input(TensorType("float64", ()), "c")]
    values: list[Any] = [x, a, *carries]
    for _ in range(rng.integers(2, 9)):
        u, v = one_of(values[-3:]), one_of(values)
        made = [u + v, u * v, u - v, T.sin(u), u / v, T.switch(u < v, u, v)]
        made += [u.sum(), u.dot(v)] if u.type.ndim and v.type.ndim else []
        values.append(one_of(made))
    following = [one_of([v for v in values if v.type.ndim == c.type.ndim]) for c in carries]
    outputs = [one_of(values) for _ in range(rng.integers(3))]
    read = list(dict.fromkeys(one_of(values[4:]) for _ in range(rng.integers(1, 5))))
    t = new_input(TensorType("int64", ()), "t")
    body = Body(t, (x,), tuple(carries), (a,), tuple(following), tuple(outputs), None)
    whole = new_input(TensorType("float64", (None, 6)), "xs")
    initial = tuple([new_input(c.type, "initial") for c in carries])
    return body, LoopInputs(new_input(t.type, "n"), (whole,), initial, (a,)), read, outputs


def cost_of(chosen: set[Node], read: list[Node], free: set[Node], body: Body) -> float:
    """What it costs to record some values and to make what else is read again; infinite if it cannot be."""
    forward = set(topological([*body.next_carries, *body.outputs]))
    shifted = {c for c, n in zip(body.carries, body.next_carries, strict=True) if n in body.outputs}
    total = sum((16 * bytes_of(n) + 16) // (2 if n in shifted else 1) for n in chosen)
    needed, work = set(), list(read)
    while work:
        n = work.pop()
        if n in needed or n in free or n in chosen:
            continue
        needed.add(n)
        if n in body.carries or COSTS.get(n.op.name, 0) is None:
            return float("inf")
        work.extend(n.inputs)
        if n in forward and n.inputs:
            elements = (n.inputs[0] if n.op.name == "sum" else n).type.shape
            width = max(np.dtype(i.type.dtype).itemsize for i in (n, *n.inputs))
            total += COSTS.get(n.op.name, 0) * int(np.prod(elements)) * width
    return total


def bytes_of(n: Node) -> int:
    return int(np.prod(n.type.shape)) * np.dtype(n.type.dtype).itemsize


@pytest.mark.parametrize("seed", range(12))
def test_nothing_else_costs_less_than_what_is_recorded(seed: int) -> None:
    for k in range(30):
        body, inputs, read, outputs = random_step(np.random.default_rng([seed, k]))
        of_next = new_input(ROW, "seed")
        found = residuals([of_next * v for v in read], [of_next], outputs, body, inputs)
        moving = dependents(read, {*body.sequences, *body.carries})
        free = {*body.sequences, *outputs, *[n for n in topological(read) if n not in moving]}
        candidates = [n for n in topological(read, stop=free) if n not in free]
        every = itertools.chain.from_iterable(
            itertools.combinations(candidates, n) for n in range(min(len(candidates), 4) + 1)
        )
        least = min(cost_of(set(others), read, free, body) for others in every)
        assert cost_of(set(found), read, free, body) == least < float("inf") or len(found) > 4


# ---- programs -------------------------------------------------------------------------------------


def normal(size: Any) -> Any:
    """The same numbers for the same size."""
    return np.random.default_rng(7).normal(size=size)


def mean() -> tuple[list[Any], Any, list[Any]]:
    """The error of a moving mean, which reads its input and its state a step before."""
    x, a = T.dmatrix("x"), T.dscalar("a")
    y, _ = ostinato.scan(lambda x, y, a: y + a * (x - y), x[1:], x[0], a)
    return [x, a], ((x[2:] - y[:-1]) ** 2).sum(), [normal(size=(9, 5)), 0.3]


def masked() -> tuple[list[Any], Any, list[Any]]:
    x, w, h0 = T.dmatrix("x"), T.dmatrix("w"), T.dvector("h0")
    h, _ = ostinato.scan(lambda x, h, w: T.maximum(h @ w + x, 0.0) - 0.1 * h, x, h0, w)
    return [x, w, h0], (h**2).sum(), [normal(size=(8, 5)), normal(size=(5, 5)) / 2, np.full(5, 0.2)]


def ratio() -> tuple[list[Any], Any, list[Any]]:
    x, a, h0 = T.dvector("x"), T.dvector("a"), T.dvector("h0")
    h, _ = ostinato.scan(lambda x, h, a: a * T.sin(h) / (2.0 + h * h) + x / (1.0 + T.exp(-h)), x, h0, a)
    return [x, a, h0], (h**2).sum(), [normal(size=7), normal(size=4), normal(size=4)]


def several() -> tuple[list[Any], Any, list[Any]]:
    """Lags, a state that is read whole, a stop, and a loop in the loop."""
    a, h0 = T.dscalar("a"), T.dvector("h0")

    def step(h: Any, s: Any, a: Any) -> Any:
        inner, _ = ostinato.scan(lambda k, z: 0.1 * (T.tanh(z * a) + k), T.arange(3), s)
        new = T.roll(h, 1) * a + inner.sum()
        return [new, T.cos(new[0] * s)], ostinato.until(abs(new).max() > 1e3)

    (h, s), _ = ostinato.scan(step, outputs_info=[h0, T.constant(0.4)], non_sequences=a, n_steps=6)
    return [a, h0], (h**2).sum() + (s**3).sum(), [0.7, normal(size=3)]


PROGRAMS = [mean, masked, ratio, several]


def evaluated(program: Any, mode: str) -> list[Any]:
    """A cost and its gradient."""
    inputs, cost, arrays = program()
    found: list[Any] = ostinato.function(inputs, [cost, *T.grad(cost, inputs)], mode=mode)(*arrays)
    return found


@pytest.mark.parametrize("mode", ["reference", "native"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_gradients_are_those_of_differences(program: Any, mode: str) -> None:
    inputs, cost, arrays = program()
    value = ostinato.function(inputs, cost, mode="reference")
    for k, g in enumerate(evaluated(program, mode)[1:]):
        expected = central(lambda *v: float(value(*v)), [np.asarray(v) for v in arrays], k, 1e-5)
        np.testing.assert_allclose(g, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("program", PROGRAMS)
def test_not_a_bit_depends_on_what_is_recorded(program: Any, monkeypatch: Any) -> None:
    """All that a reversed step reads itself, against the least cut: what is made again is made of the same operands."""

    def all_that_is_read(results: Any, seeds: Any, known: Any, body: Body, given: LoopInputs) -> list[Node]:
        bound = dependents(results, set(seeds))
        read = [i for n in topological(results) if n in bound for i in n.inputs] + list(results)
        moving = dependents(read, {*body.sequences, *body.carries}) - {*body.sequences, *known}
        return [n for n in dict.fromkeys(read) if n in moving and n not in bound and n.type.is_float]

    found = evaluated(program, "reference")
    monkeypatch.setattr(loop_reverse, "residuals", all_that_is_read)
    for a, b in zip(found, evaluated(program, "reference"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("program", PROGRAMS)
def test_second_derivatives_are_those_of_differences(program: Any) -> None:
    inputs, cost, arrays = program()
    total = sum((g * g).sum() for g in T.grad(cost, inputs))
    value = ostinato.function(inputs, total, mode="reference")
    for k, g in enumerate(ostinato.function(inputs, T.grad(total, inputs), mode="native")(*arrays)):
        expected = central(lambda *v: float(value(*v)), [np.asarray(v) for v in arrays], k, 1e-6)
        np.testing.assert_allclose(g, expected, rtol=1e-4, atol=1e-5)


def test_a_mean_records_its_state_and_no_difference() -> None:
    """The state before a step is the output a row earlier: what follows from it is not recorded beside them."""
    inputs, cost, _ = mean()
    gradient = T.grad(cost, inputs[1])
    forward, backward = recorded([cost, gradient], inputs)
    assert [n.op.name for n in forward] == ["add", "input"]
    assert not backward
    table = ostinato.function(inputs, [cost, gradient], mode="native").memory(np.zeros((1001, 100)), 0.3)
    rows = sum(taken or 0 for name, taken in table.items() if "records" in name)
    assert 1000 * 100 * 8 <= rows <= 1001 * 100 * 8


def test_sizes_that_only_a_run_tells_are_typical() -> None:
    """The number of steps of a loop with a condition is the size of the state of another one."""
    x, a = T.dvector("x"), T.dscalar("a")
    falls, _ = ostinato.scan(lambda h: (0.5 * h, ostinato.until(h < 0.1)), outputs_info=x[0], n_steps=100)
    h, _ = ostinato.scan(lambda x, h, a: T.sin(a * h[: h.shape[0] // 2 + 1]).sum() * h + x, x, falls, a)
    f = ostinato.function([x, a], T.grad((h**2).sum(), a), mode="native")

    def plain(a: Any) -> float:
        h, total = [0.5], 0.0
        while 2 * h[-1] >= 0.1:
            h.append(h[-1] / 2)
        h = np.array(h)
        for now in (1.0, -0.4, 0.3):
            h = np.sin(a * h[: len(h) // 2 + 1]).sum() * h + now
            total += (h**2).sum()
        return total

    found = f(np.array([1.0, -0.4, 0.3]), 0.7)
    assert found == pytest.approx((plain(0.7 + 1e-6) - plain(0.7 - 1e-6)) / 2e-6, rel=1e-6)


def test_sizes_that_are_given_are_typical() -> None:
    x, a, shape = T.dvector("x"), T.dscalar("a"), T.lvector("shape")
    h, _ = ostinato.scan(lambda x, h, a: T.sin(a * h) + x, x, T.ones((shape[1] // shape[0],), "float64"), a)
    f = ostinato.function([x, a, shape], T.grad(h[-1].sum(), a))
    h_, slope = np.ones(3), np.zeros(3)
    for now in (0.3, -0.1):
        h_, slope = np.sin(0.7 * h_) + now, np.cos(0.7 * h_) * (h_ + 0.7 * slope)
    assert f(np.array([0.3, -0.1]), 0.7, np.array([2, 7])) == pytest.approx(slope.sum(), rel=1e-12)


def test_what_is_true_takes_a_byte() -> None:
    """Of values that only decide which branch a derivative takes, the decision is recorded."""
    x, h0 = T.dmatrix("x"), T.dvector("h0")
    h, _ = ostinato.scan(lambda x, h: T.switch(T.exp(h) * x > 0.5, 0.9 * h, 0.1 * h) + x, x, h0)
    first, _ = recorded([T.grad(h[-1].sum(), h0)], [x, h0])
    assert [str(n.type) for n in first] == ["bool[?]"]
    run = ostinato.function([x, h0], T.grad(h[-1].sum(), h0), mode="native")
    xs, start = normal(size=(50, 37)), normal(size=37)
    slope, now = np.ones(37), start
    for row in xs:
        factor = np.where(np.exp(now) * row > 0.5, 0.9, 0.1)
        slope, now = slope * factor, factor * now + row
    np.testing.assert_allclose(run(xs, start), slope, rtol=1e-13)


def test_squares_and_inputs_are_made_again() -> None:
    r, a, s = T.dvector("r"), T.dscalar("a"), T.dscalar("s")
    h, _ = ostinato.scan(lambda r, h, a: 0.1 + a * r**2 + 0.8 * h, r, s, a)
    assert [len(outputs) for outputs in recorded([T.grad(T.log(h).sum(), a)], [r, a, s])] == [1, 0]


def test_only_what_is_asked_for_is_recorded() -> None:
    """The derivative by a sequence needs the coefficients; that by the initial value alone needs one number less."""
    x, h0 = T.dvector("x"), T.dscalar("h0")
    h, _ = ostinato.scan(lambda x, h: T.sin(x) * h, x, h0)
    by_start = recorded([T.grad(h[-1], h0)], [x, h0])
    by_both = recorded(T.grad(h[-1], [x, h0]), [x, h0])
    assert [len(by_start[0]), len(by_both[0])] == [1, 2]


def test_large_states_are_recorded_where_they_save_several_values() -> None:
    """Stages of a Runge–Kutta step follow from the state: rows of two states, not of eight stages."""

    def slope(x: Any, y: Any) -> tuple[Any, Any]:
        return x * (1.0 - y), y * (x - 0.7)

    def step(x: Any, y: Any) -> list[Any]:
        a, b = slope(x, y)
        c, d = slope(x + 0.05 * a, y + 0.05 * b)
        return [x + 0.1 * c, y + 0.1 * d]

    x0, y0 = T.dvector("x0"), T.dvector("y0")
    (x, y), _ = ostinato.scan(step, outputs_info=[x0, y0], n_steps=30)
    cost = (x[-1] * y[-1]).sum()
    forward, _ = recorded(T.grad(cost, [x0, y0]), [x0, y0])
    assert [n.op.name for n in forward] == ["input", "input"]


def test_what_is_recorded_is_told() -> None:
    inputs, cost, arrays = ratio()
    f = ostinato.function(inputs, T.grad(cost, inputs[1]), mode="native")
    assert any("records" in line and "output" in line for line in f.explain().splitlines())
    assert any("records" in name for name in f.memory(*arrays))


def test_a_peak_is_that_of_what_is_recorded() -> None:
    """Masks instead of rows of numbers: the derivative of `masked` takes a byte for each."""
    inputs, cost, _ = masked()
    f = ostinato.function(inputs, T.grad(cost, inputs[1]), mode="native")
    n, width = 4000, 40
    table = f.memory(np.zeros((n, width)), np.zeros((width, width)), np.zeros(width))
    rows = {name: taken for name, taken in table.items() if "loop records" in name}
    assert sorted(rows.values()) == [
        n * width,
        n * width,
        8 * (n + 1) * width,
    ]  # the state after a step is the next one's


def test_loops_in_loops_are_not_run_again() -> None:
    """What an inner loop made is recorded, however dear; it is there once in the derivative."""
    x, w = T.dtensor3("x"), T.dscalar("w")

    def outer(row: Any, h: Any) -> Any:
        inner, _ = ostinato.scan(lambda v, s: T.tanh(w * s + v), row, h)
        return inner[-1]

    h, _ = ostinato.scan(outer, x, T.constant(np.full(2, 0.1)))
    loops = [n for n in ostinato.function([x, w], T.grad(h.sum(), w), mode="reference").graph.nodes() if n.op is LOOP]
    inner = [[n for n in loop.params[0].body.nodes() if n.op is LOOP] for loop in loops]
    assert [len(found) for found in inner] == [1, 1]
