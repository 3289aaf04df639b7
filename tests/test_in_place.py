"""Carries that are changed in place: random programs of writes and reads against plain Python loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ostinato
import ostinato.tensor as T
from ostinato.errors import OstinatoError

ROWS, WIDTH, STEPS = 20, 3, 5  # more elements than are held in registers


# ---- random programs ------------------------------------------------------------------------------


class Symbols:
    """What a program of the tests does, by Ostinato."""

    @staticmethod
    def set(x: Any, index: Any, y: Any) -> Any:
        return T.set_subtensor(x[index], y)

    @staticmethod
    def inc(x: Any, index: Any, y: Any) -> Any:
        return T.inc_subtensor(x[index], y)

    where = staticmethod(T.where)

    @staticmethod
    def repeat(step: Callable[[Any, Any], Any], x: Any, k: int) -> Any:
        return ostinato.reduce(step, T.arange(k), [x])[0]


class Numbers:
    """The same by NumPy, one thing after the other."""

    @staticmethod
    def set(x: Any, index: Any, y: Any) -> Any:
        x = x.copy()
        x[index] = y
        return x

    @staticmethod
    def inc(x: Any, index: Any, y: Any) -> Any:
        x = x.copy()
        np.add.at(x, index, y)
        return x

    @staticmethod
    def where(condition: Any, a: Any, b: Any) -> Any:
        return np.where(condition, a, b)

    @staticmethod
    def repeat(step: Callable[[Any, Any], Any], x: Any, k: int) -> Any:
        for j in range(k):
            x = step(j, x)
        return x


@st.composite
def programs(draw: Any) -> list[tuple[Any, ...]]:
    """Actions on a pool of arrays (all versions of both states) and a pool of rows."""
    actions: list[tuple[Any, ...]] = []
    arrays, rows = 2, 1
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(
            st.sampled_from(["read", "read", "set", "set", "inc", "slice", "scatter", "choose", "inner", "sum"])
        )
        x, y = draw(st.integers(0, arrays - 1)), draw(st.integers(0, rows - 1))
        actions.append((kind, x, y, draw(st.integers(0, 3)), draw(st.integers(0, arrays - 1))))
        if kind in ("read", "sum"):
            rows += 1
        else:
            arrays += 1
    latest = draw(st.booleans())
    ends = [draw(st.integers(0, arrays - 1)) for _ in range(2)]
    outputs = draw(st.sampled_from(["row", "row", "row", "array", "old"]))
    return [*actions, ("end", latest, ends, outputs)]


def changed(ops: Any, kind: str, x: Any, y: Any, i: Any, k: int) -> Any:
    """An array after one of the actions that write."""
    place = (i + k) % ROWS
    if kind == "set":
        return ops.set(x, place, y * 0.75)
    if kind == "inc":
        return ops.inc(x, place, y)
    if kind == "slice":
        return ops.set(x, slice(k, k + 3), x[k + 1 : k + 4] * 0.5 + y)
    if kind == "scatter":
        index = np.array([k, 2 * k + 1, k])
        return ops.inc(x, index, x[index] * 0.25)
    if kind == "choose":
        return ops.where((i + k) % 2 > 0, ops.inc(x, place, y), x)
    return ops.repeat(lambda j, a: ops.set(a, (j + k) % ROWS, a[(j + 2 * k) % ROWS] * 0.5 + y), x, 3)


def step_of(ops: Any, actions: list[tuple[Any, ...]], until: bool = False) -> Callable[..., Any]:
    """The step of a program: from an index, a row, and two states to the next states and an output."""

    def step(i: Any, row: Any, p: Any, q: Any) -> Any:
        arrays, rows, newest = [p, q], [row], {0: 0, 1: 1}
        roots = [0, 1]
        for kind, x, y, k, other in actions[:-1]:
            if kind in ("read", "sum"):
                more = arrays[other][(i + 2 * k) % ROWS] if kind == "sum" else arrays[x][(i + k) % ROWS] * -0.5
                rows.append(arrays[x][(i + k) % ROWS] + more)
                continue
            arrays.append(changed(ops, kind, arrays[x], rows[y], i, k))
            roots.append(roots[x])
            newest[roots[x]] = len(arrays) - 1
        _, latest, ends, outputs = actions[-1]
        nexts = [arrays[newest[0]], arrays[newest[1]]] if latest else [arrays[e] for e in ends]
        output = {"row": rows[-1], "array": nexts[0], "old": p}[outputs]
        return [*nexts, output]

    return step


def by_hand(actions: list[tuple[Any, ...]], p: Any, q: Any, rows: Any, until: int | None = None) -> list[Any]:
    step, outputs = step_of(Numbers, actions), []
    for t in range(len(rows)):
        p, q, y = step(t, rows[t], p, q)
        outputs.append(y)
        if until is not None and t >= until:
            break
    return [p, q, np.array(outputs)]


def symbolic(actions: list[tuple[Any, ...]], until: int | None = None) -> tuple[list[Any], list[Any]]:
    """The params, and the last states and stacked outputs."""
    p, q, rows = T.matrix("p"), T.matrix("q"), T.matrix("rows")
    made = step_of(Symbols, actions)

    def step(i: Any, row: Any, a: Any, b: Any) -> Any:
        results = made(i, row, a, b)
        return results if until is None else (results, ostinato.until(i >= until))

    (ps, qs, outputs), _ = ostinato.scan(step, [T.arange(rows.shape[0]), rows], [p, q, None], name="random")
    return [p, q, rows], [ps[-1], qs[-1], outputs]


def example_arrays(seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(ROWS, WIDTH)), rng.normal(size=(ROWS, WIDTH)), rng.normal(size=(STEPS, WIDTH))]


@settings(max_examples=40, deadline=None)
@given(programs(), st.sampled_from([None, None, 2]))
def test_random_programs_are_what_plain_loops_do(actions: list[tuple[Any, ...]], until: int | None) -> None:
    params, results = symbolic(actions, until)
    arrays = example_arrays()
    kept = [a.copy() for a in arrays]
    wanted = by_hand(actions, *arrays, until=until)
    found = ostinato.function(params, results)(*arrays)
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-13)
    for before, after in zip(kept, arrays, strict=True):
        np.testing.assert_array_equal(before, after)


@settings(max_examples=15, deadline=None)
@given(programs())
def test_gradients_of_random_programs_are_those_of_the_reference(actions: list[tuple[Any, ...]]) -> None:
    params, results = symbolic(actions)
    weights = [np.cos(np.arange(ROWS * WIDTH)).reshape(ROWS, WIDTH), 0.5]
    cost = (results[0] ** 2 * weights[0]).sum() + (results[1] * weights[1]).sum() + (results[2] ** 2).sum()
    grads = ostinato.grad(cost, params, disconnected_inputs="ignore")
    second = ostinato.grad(sum((g**2).sum() for g in grads), params, disconnected_inputs="ignore")
    arrays = example_arrays()
    found = ostinato.function(params, [*grads, *second])(*arrays)
    wanted = ostinato.function(params, [*grads, *second], mode="reference")(*arrays)
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


# ---- what is changed in place, and what is not ----------------------------------------------------


def in_place(f: ostinato.Function) -> int:
    """How many arrays the loops of a function change in place."""
    return sum(
        int(line.split(" changed in place")[0].split()[-2]) for line in f.explain().splitlines() if "place" in line
    )


def history(step: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    """A matrix, and what it is after a step for each of its rows but the first."""
    p = T.matrix("p")
    return p, ostinato.reduce(step, T.arange(1, p.shape[0]), [p])[0]


def test_a_history_is_one_buffer_forward_and_backward_and_backward_again() -> None:
    p, final = history(lambda i, h: T.set_subtensor(h[i], h[i - 1] * 0.5 + h[i] ** 2))
    first = ostinato.grad((final**2).sum(), p)
    second = ostinato.grad((first**2).sum(), p)
    x = example_arrays()[0]
    for result, loops in ((final, 1), (first, 2), (second, 4)):
        f = ostinato.function([p], result)
        assert in_place(f) == loops
        assert "array in memory" not in f.explain()
        wanted = ostinato.function([p], result, mode="reference")(x)
        np.testing.assert_allclose(f(x), wanted, rtol=1e-12)


def test_the_gradient_of_a_history_takes_memory_for_rows_and_not_for_all_at_each_step() -> None:
    # Two rows are read: the carry that both come from is one array, but a large one.
    p, final = history(lambda i, h: T.set_subtensor(h[i], h[i - 1] * h[i - 2] * 0.5))
    f = ostinato.function([p], ostinato.grad((final**2).sum(), p))
    assert all(t.ndim <= 2 for n in f.graph.nodes() if n.op.name == "loop" for t in n.type.items)
    x = example_arrays()[0]
    e, d = 1e-6, np.cos(np.arange(x.size)).reshape(x.shape)

    def cost(x: Any) -> float:
        h = x.copy()
        for i in range(1, len(h)):
            h[i] = h[i - 1] * h[i - 2] * 0.5
        return float((h**2).sum())

    np.testing.assert_allclose((f(x) * d).sum(), (cost(x + e * d) - cost(x - e * d)) / (2 * e), rtol=1e-8)


def test_a_table_that_all_steps_read_gets_its_gradient_row_by_row() -> None:
    table, k, x0 = T.matrix("table"), T.lvector("k"), T.vector("x0")
    final, _ = ostinato.reduce(lambda i, x, table: T.tanh(x + table[i]), k, [x0], [table])
    f = ostinato.function([table, k, x0], ostinato.grad(final.sum(), table))
    assert "array changed in place" in f.explain()
    rng = np.random.default_rng(0)
    values, picked, start = rng.normal(size=(9, 4)), np.array([3, 0, 3, 8, 3]), rng.normal(size=4)
    wanted = np.zeros((9, 4))
    states = [start]
    for i in picked:
        states.append(np.tanh(states[-1] + values[i]))
    g = np.ones(4)
    for i, after in zip(picked[::-1], states[:0:-1], strict=True):
        g = g * (1 - after**2)
        wanted[i] += g
    np.testing.assert_allclose(f(values, picked, start), wanted, rtol=1e-12)


def test_many_past_values_are_a_ring_of_which_a_step_writes_one_row() -> None:
    first, n = T.matrix("first"), T.lscalar("n")
    ys, _ = ostinato.scan(
        lambda a, b: 0.5 * a + 0.25 * b, outputs_info=[{"initial": first, "taps": [-7, -1]}], n_steps=n
    )
    first_rows = np.random.default_rng(0).normal(size=(7, 5))
    rows = list(first_rows)
    for _ in range(30):
        rows.append(0.5 * rows[-7] + 0.25 * rows[-1])
    f = ostinato.function([first, n], ys)
    assert in_place(f) == 1
    np.testing.assert_allclose(f(first_rows, 30), rows[7:], rtol=1e-13)
    g = ostinato.function([first, n], ostinato.grad((ys**2).sum(), first))
    assert in_place(g) == 2
    wanted = ostinato.function([first, n], ostinato.grad((ys**2).sum(), first), mode="reference")(first_rows, 30)
    np.testing.assert_allclose(g(first_rows, 30), wanted, rtol=1e-12)


def test_blocks_of_rows_are_written_where_they_belong() -> None:
    p, k = T.matrix("p"), T.lscalar("k")

    def step(t: Any, h: Any) -> Any:
        return T.set_subtensor(h[t * k : (t + 1) * k], h[(t - 1) * k : t * k] * 0.5 + 1)

    final, _ = ostinato.reduce(step, T.arange(1, p.shape[0] // k), [p])
    f = ostinato.function([p, k], final)
    assert in_place(f) == 1
    x = np.random.default_rng(0).normal(size=(24, 3))
    wanted = x.copy()
    for t in range(1, 6):
        wanted[t * 4 : t * 4 + 4] = wanted[t * 4 - 4 : t * 4] * 0.5 + 1
    np.testing.assert_allclose(f(x, 4), wanted, rtol=1e-14)


@pytest.mark.parametrize("early", [False, True])
def test_overlapping_parts_are_read_before_they_are_written(early: bool) -> None:
    p, n = T.vector("p"), T.lscalar("n")

    def step(h: Any) -> Any:
        h = T.set_subtensor(h[1:], h[:-1])
        return T.set_subtensor(h[0], h[7] + 1) if early else h

    final, _ = ostinato.scan(lambda t, h: step(h), T.arange(n), [p])
    f = ostinato.function([p, n], final[-1])
    x = np.random.default_rng(0).normal(size=50)
    wanted = x.copy()
    for _ in range(9):
        wanted[1:] = wanted[:-1].copy()
        if early:
            wanted[0] = wanted[7] + 1
    np.testing.assert_array_equal(f(x, 9), wanted)


def test_an_inner_loop_works_on_the_array_of_the_outer_one() -> None:
    p = T.vector("p")

    def inner(j: Any, h: Any) -> Any:
        return T.set_subtensor(h[0], h[0] * 0.5 + h[j])

    def outer(i: Any, h: Any) -> Any:
        first = h[0]  # read at the same place before, within and after
        h, _ = ostinato.reduce(inner, T.arange(3), [h])
        return T.set_subtensor(h[i], h[0] - first)

    final, _ = ostinato.reduce(outer, T.arange(1, p.shape[0]), [p])
    f = ostinato.function([p], final)
    assert in_place(f) == 2
    x = np.random.default_rng(0).normal(size=40)
    wanted = x.copy()
    for i in range(1, 40):
        first = wanted[0]
        for j in range(3):
            wanted[0] = wanted[0] * 0.5 + wanted[j]
        wanted[i] = wanted[0] - first
    np.testing.assert_allclose(f(x), wanted, rtol=1e-13)
    g = ostinato.grad((final**2).sum(), p)
    np.testing.assert_allclose(ostinato.function([p], g)(x), ostinato.function([p], g, mode="reference")(x), rtol=1e-10)


def test_what_users_hold_is_never_written_to() -> None:
    p, final = history(lambda i, h: T.set_subtensor(h[i], h[i - 1] + 1))
    x = example_arrays()[0]
    kept = x.copy()
    f = ostinato.function([p], [final, p])
    after, same = f(x)
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(same, kept)
    assert not np.shares_memory(after, x)

    state = ostinato.shared(x.copy(), name="state")
    last, _ = ostinato.reduce(lambda i, h: T.set_subtensor(h[i], h[i - 1] + 1), T.arange(1, 5), [state])
    g = ostinato.function([], last.sum())
    assert g() == g()
    np.testing.assert_array_equal(state.get_value(), kept)


def test_after_no_steps_it_is_the_initial_value() -> None:
    p, n = T.matrix("p"), T.lscalar("n")
    final, _ = ostinato.reduce(lambda i, h: T.set_subtensor(h[i], 0), T.arange(n), [p])
    x = example_arrays()[0]
    f = ostinato.function([p, n], final)
    np.testing.assert_array_equal(f(x, 0), x)
    assert (f(x, 3)[:3] == 0).all()


@pytest.mark.parametrize("when", [False, True])
def test_an_index_out_of_bounds_fails_in_its_step_and_changes_nothing(when: bool) -> None:
    p, k = T.matrix("p"), T.lvector("k")
    state = ostinato.shared(np.zeros(3), name="state")

    def step(i: Any, h: Any) -> Any:
        written = T.set_subtensor(h[i], h[i - 1] + 1)
        return T.where(i < 0, written, h) if when else written  # checked though it is not chosen

    final, _ = ostinato.reduce(step, k, [p], name="writing")
    f = ostinato.function([p, k], final, updates=[(state, state + final[0])])
    x = example_arrays()[0]
    kept = x.copy()
    with pytest.raises(OstinatoError, match="step 2"):
        f(x, np.array([1, 2, 50]))
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(state.get_value(), np.zeros(3))
    f(x, np.array([1, 2, 3]))


def test_carries_that_change_places_or_become_one_keep_two_buffers() -> None:
    p, q = T.matrix("p"), T.matrix("q")

    def step(i: Any, a: Any, b: Any, c: Any) -> list[Any]:
        written = T.set_subtensor(a[i], b[i - 1])
        return [written, written, T.set_subtensor(b[0], c[i])]

    finals, _ = ostinato.reduce(step, T.arange(1, p.shape[0]), [p, q, p + q])
    x, y, _ = example_arrays()
    found = ostinato.function([p, q], finals)(x, y)
    a, b, c = x.copy(), y.copy(), x + y
    for i in range(1, ROWS):
        written, last = a.copy(), b.copy()
        written[i], last[0] = b[i - 1], c[i]
        a, b, c = written, written, last
    for got, want in zip(found, (a, b, c), strict=True):
        np.testing.assert_array_equal(got, want)


def test_lanes_of_a_history_are_divided_among_threads() -> None:
    p = T.tensor3("p")
    final, _ = ostinato.reduce(lambda i, h: T.set_subtensor(h[i], T.tanh(h[i - 1])), T.arange(1, p.shape[0]), [p])
    f = ostinato.function([p], final)
    x = np.random.default_rng(0).normal(size=(30, 64, 20))
    wanted = x.copy()
    for i in range(1, 30):
        wanted[i] = np.tanh(wanted[i - 1])
    with ostinato.config.change_flags(threads=2):
        np.testing.assert_allclose(f(x), wanted, rtol=1e-14)


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("condition", [False, True])
def test_a_history_of_a_state_that_an_inner_loop_changes(adds: bool, condition: bool) -> None:
    """The write of the state as it was comes at the end of the step, when the inner loop has changed it."""
    p, h = T.matrix("p"), T.vector("h")
    write = T.inc_subtensor if adds else T.set_subtensor

    def step(i: Any, p: Any, h: Any) -> list[Any]:
        inner, _ = ostinato.reduce(lambda k, v: T.tanh(v + 0.1 * k), T.arange(3), [h])
        written = write(p[i], h)
        return [T.where(T.gt(i, 1), written, p) if condition else written, inner]

    finals, _ = ostinato.reduce(step, T.arange(p.shape[0]), [p, h])
    history, state = np.ones((5, 30)), np.linspace(-1, 1, 30)
    found = ostinato.function([p, h], finals, mode="native")(history, state)
    for i in range(5):
        if i > 1 or not condition:
            history[i] = history[i] * adds + state
        for k in range(3):
            state = np.tanh(state + 0.1 * k)
    for got, want in zip(found, (history, state), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)
