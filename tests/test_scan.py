"""The rules of `scan` and its special cases, one by one, against a plain Python loop.

`plain_scan` below is the rules in Python: rows are picked by position, nothing is sliced, shifted or turned
round. Derivatives of loops are tested in `test_loops.py` and `test_grad.py`; what bad input gets in
`test_errors.py`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ostinato
import ostinato.tensor as T
from ostinato import function, scan, shared, until

# ---- the reference --------------------------------------------------------------------------------


def plain_scan(
    step: Callable[..., Any],
    sequences: Sequence[tuple[Any, Sequence[int]]] = (),
    infos: Sequence[tuple[Any, Sequence[int]] | None] = (),
    n_steps: int | None = None,
    go_backwards: bool = False,
) -> list[list[Any]]:
    """The outputs of a loop, each as a list with one entry per step.

    `step` takes what a step of `scan` takes, as NumPy values, and returns a list of outputs and whether to stop.
    An entry of `infos` is an initial value with taps; for the taps (-1,) the value itself, else rows.
    """
    spans = [(min(0, *taps, 0), max(0, *taps, 0)) for _, taps in sequences]
    allowed = [max(0, len(x) + low - high) for (x, _), (low, high) in zip(sequences, spans, strict=True)]
    steps = min(allowed) if n_steps is None else n_steps
    assert all(steps <= a for a in allowed)
    outputs: list[list[Any]] = []
    for t in range(steps):
        args = []
        for (x, taps), (low, _), length in zip(sequences, spans, allowed, strict=True):
            now = (length - 1 - t if go_backwards else t) - low  # the row that tap 0 reads
            args += [x[now + k] for k in taps]
        for j, info in enumerate(infos):
            args += [] if info is None else [_past(info, [o[j] for o in outputs], t + k) for k in info[1]]
        results, stop = step(*args)
        outputs.append(results)
        if stop:
            break
    return [list(column) for column in zip(*outputs, strict=True)]


def _past(info: tuple[Any, Sequence[int]], made: list[Any], time: int) -> Any:
    """The value of a state at a time; before 0 it is an initial one, the oldest first."""
    init, taps = info
    if time >= 0:
        return made[time]
    return init if tuple(taps) == (-1,) else init[time - min(taps)]


def run(outputs: Any, values: dict[Any, Any] | None = None, updates: Any = None) -> Any:
    """The value of expressions with every type checked on the way."""
    values = values or {}
    with ostinato.config.change_flags(verify=True):
        f = function(list(values), outputs, updates=updates, on_unused_input="ignore")
        return f(*values.values())


def random(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def mixed(seed: int, args: Sequence[Any], tanh: Callable[[Any], Any]) -> Any:
    """A mixture of all arguments that tells them apart, whatever their order."""
    weights = np.random.default_rng((seed, len(args))).normal(size=len(args))
    total: Any = 0.1
    for w, a in zip(weights, args, strict=True):
        total = total + float(w) * a
    return tanh(total)


# ---- everything together --------------------------------------------------------------------------

_taps = st.lists(st.integers(-3, 3), min_size=1, max_size=3, unique=True)
_lags = st.one_of(st.just([-1]), st.lists(st.integers(-4, -1), min_size=1, max_size=3, unique=True))


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_any_combination(data: Any) -> None:
    draw = data.draw
    taps = draw(st.lists(_taps, max_size=2), "taps of sequences")
    lengths = [draw(st.integers(0, 8), "length") for _ in taps]
    infos = draw(st.lists(st.none() | _lags, min_size=1, max_size=3), "taps of outputs")
    surplus = [draw(st.integers(0, 2), "surplus rows") for _ in infos]
    go_backwards = draw(st.booleans(), "go_backwards")
    width = draw(st.sampled_from([None, 0, 1, 2]), "width")
    stop_above = draw(st.sampled_from([None, -2.0, 0.3, 0.6, 2.0]), "stop above")
    allowed = min([max(0, n - max(0, *k, 0) + min(0, *k, 0)) for n, k in zip(lengths, taps, strict=True)], default=6)
    n_steps = draw(st.integers(0, allowed) if not taps else st.none() | st.integers(0, allowed), "n_steps")
    symbolic = draw(st.booleans(), "symbolic n_steps")

    row = () if width is None else (width,)
    xs = [random(n, *row, seed=i) for i, n in enumerate(lengths)]
    inits = [
        None if k is None else random(*row, seed=10 + i) if k == [-1] else random(s - min(k), *row, seed=10 + i)
        for i, (k, s) in enumerate(zip(infos, surplus, strict=True))
    ]
    outer = random(*row, seed=20)

    def mix(args: Sequence[Any], m: Any) -> list[Any]:
        return [mixed(seed, args, m.tanh) for seed in range(len(infos))]

    def numpy_step(*args: Any) -> tuple[list[Any], bool]:
        outputs = mix([*args, outer], np)
        return outputs, stop_above is not None and bool(np.sum(outputs[0]) > stop_above)

    def step(*args: Any) -> Any:
        outputs = mix(args, T)
        return outputs if stop_above is None else (outputs, until(T.sum(outputs[0]) > stop_above))

    expected = plain_scan(
        numpy_step,
        list(zip(xs, taps, strict=True)),
        [None if k is None else (x0, k) for x0, k in zip(inits, infos, strict=True)],
        n_steps,
        go_backwards,
    )
    symbols = [T.TensorType("float64", (None,) * x.ndim)() for x in xs]
    starts = [None if x0 is None else T.TensorType("float64", (None,) * x0.ndim)() for x0 in inits]
    invariant, n = T.TensorType("float64", (None,) * outer.ndim)(), T.iscalar()
    got, _ = scan(
        step,
        [{"input": x, "taps": k} for x, k in zip(symbols, taps, strict=True)],
        [None if s is None else {"initial": s, "taps": k} for s, k in zip(starts, infos, strict=True)],
        [invariant],
        n_steps=n if symbolic and n_steps is not None else n_steps,
        go_backwards=go_backwards,
        return_list=True,
    )
    values = dict(zip(symbols, xs, strict=True)) | {s: x for s, x in zip(starts, inits, strict=True) if s is not None}
    results = run(got, values | {invariant: outer, n: n_steps or 0})
    assert len(results) == len(infos)
    for j, result in enumerate(results):
        wanted = np.array(expected[j]) if expected else np.zeros((0, *row))
        np.testing.assert_allclose(result, wanted, rtol=1e-12, strict=True)


# ---- sequences ------------------------------------------------------------------------------------

FIVE = np.arange(5.0)


def rows_read(taps: Any, go_backwards: bool = False, n_steps: Any = None, length: int = 5) -> list[list[int]]:
    """What each step reads of the positions 0, 1, 2, …"""
    x = T.vector("x")
    read, _ = scan(
        lambda *slices: T.stack(slices), {"input": x, "taps": taps}, n_steps=n_steps, go_backwards=go_backwards
    )
    return run(read, {x: np.arange(float(length))}).astype(int).tolist()


@pytest.mark.parametrize(
    ("taps", "forwards", "backwards"),
    [
        ([0], [[0], [1], [2], [3], [4]], [[4], [3], [2], [1], [0]]),
        (0, [[0], [1], [2], [3], [4]], [[4], [3], [2], [1], [0]]),
        (None, [[0], [1], [2], [3], [4]], [[4], [3], [2], [1], [0]]),
        ([-1, 0], [[0, 1], [1, 2], [2, 3], [3, 4]], [[3, 4], [2, 3], [1, 2], [0, 1]]),
        ((0, -1), [[1, 0], [2, 1], [3, 2], [4, 3]], [[4, 3], [3, 2], [2, 1], [1, 0]]),
        ([-1, 1, 0], [[0, 2, 1], [1, 3, 2], [2, 4, 3]], [[2, 4, 3], [1, 3, 2], [0, 2, 1]]),
        ([2], [[2], [3], [4]], [[4], [3], [2]]),
        ([-2], [[0], [1], [2]], [[2], [1], [0]]),
        ([1, 2], [[1, 2], [2, 3], [3, 4]], [[3, 4], [2, 3], [1, 2]]),
        ([-2, -1], [[0, 1], [1, 2], [2, 3]], [[2, 3], [1, 2], [0, 1]]),
        (np.array([-1, 0]), [[0, 1], [1, 2], [2, 3], [3, 4]], [[3, 4], [2, 3], [1, 2], [0, 1]]),
        (range(-1, 1), [[0, 1], [1, 2], [2, 3], [3, 4]], [[3, 4], [2, 3], [1, 2], [0, 1]]),
        ([-4, 0], [[0, 4]], [[0, 4]]),
        ([-3, 2], [], []),
        ([-9, 9], [], []),
    ],
)
def test_taps_of_a_sequence(taps: Any, forwards: list[list[int]], backwards: list[list[int]]) -> None:
    assert rows_read(taps) == forwards
    assert rows_read(taps, go_backwards=True) == backwards


def test_fewer_steps_than_rows() -> None:
    assert rows_read([0], n_steps=2) == [[0], [1]]
    assert rows_read([-1, 0], n_steps=2) == [[0, 1], [1, 2]]
    assert rows_read([0], n_steps=2, go_backwards=True) == [[4], [3]]
    assert rows_read([-1, 0], n_steps=2, go_backwards=True) == [[3, 4], [2, 3]]
    assert rows_read([0, 2], n_steps=1, go_backwards=True) == [[2, 4]]


def test_as_many_steps_as_the_sequences_allow() -> None:
    assert rows_read([0, 2], n_steps=3) == [[0, 2], [1, 3], [2, 4]]
    out, _ = scan(lambda a, b: a + b, [FIVE, {"input": FIVE, "taps": [-1]}], n_steps=4)
    assert run(out).tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_sequence_that_is_shorter_than_its_taps_reach(length: int) -> None:
    assert rows_read([-1, 1], length=length) == []
    assert rows_read([-1, 1], length=length, go_backwards=True) == []
    out, _ = scan(lambda a, b: a + b, {"input": np.ones(length), "taps": [-1, 1]})
    assert run(out).shape == (0,)


@pytest.mark.parametrize("go_backwards", [False, True])
def test_sequences_of_unequal_length(go_backwards: bool) -> None:
    x, y, z = T.vector("x"), T.matrix("y"), T.ivector("z")
    values = {x: FIVE, y: random(4, 2), z: np.arange(7, dtype="int32")}
    out, _ = scan(
        lambda a, b1, b0, c: [a * 10 + c, b0 - b1], [x, {"input": y, "taps": [1, 0]}, z], go_backwards=go_backwards
    )
    wanted = plain_scan(
        lambda a, b1, b0, c: ([a * 10 + c, b0 - b1], False),
        [(values[x], [0]), (values[y], [1, 0]), (values[z], [0])],
        go_backwards=go_backwards,
    )
    assert len(wanted[0]) == 3
    for got, column in zip(run(out, values), wanted, strict=True):
        np.testing.assert_allclose(got, column)


def test_a_sequence_counts_for_the_length_even_if_the_step_makes_no_use_of_it() -> None:
    x, y = T.vectors("x", "y")
    out, _ = scan(lambda a, b: 2 * a, [x, y])
    assert run(out, {x: FIVE, y: np.zeros(3)}).tolist() == [0, 2, 4]


def test_sequences_may_be_values() -> None:
    for x in (FIVE, FIVE.tolist()):
        out, _ = scan(lambda a: 2 * a, [x])
        assert run(out).tolist() == [0, 2, 4, 6, 8]
        assert out.type.shape == (5,)


def test_one_sequence_several_times() -> None:
    x = T.vector("x")
    out, _ = scan(lambda a, b, c: a + 10 * b + 100 * c, [x, x, {"input": x, "taps": [1]}])
    assert run(out, {x: np.arange(4.0)}).tolist() == [100, 211, 322]


def test_a_sequence_may_be_an_expression_or_a_shared_variable() -> None:
    x, s = T.vector("x"), shared(FIVE)
    out, _ = scan(lambda a, b: a + b, [x[::2] * 10, s])
    assert run(out, {x: FIVE}).tolist() == [0, 21, 42]


def test_rows_of_a_tensor() -> None:
    x = T.tensor3("x")
    value = random(3, 2, 4)
    out, _ = scan(lambda page, h: [page.T, T.tanh(h.dot(page))[:, :2]], x, [None, T.constant(np.eye(2))])
    pages, states = run(out, {x: value})
    np.testing.assert_array_equal(pages, value.transpose(0, 2, 1))
    h = np.eye(2)
    for page, state in zip(value, states, strict=True):
        h = np.tanh(h.dot(page))[:, :2]
        np.testing.assert_allclose(state, h)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float32"])
def test_dtypes_of_sequences(dtype: str) -> None:
    x = T.TensorType(dtype, (None,))("x")
    value = np.array([0, 1, 1, 0]).astype(dtype)
    out, _ = scan(lambda now, before: [now, before], {"input": x, "taps": [0, -1]})
    now, before = run(out, {x: value})
    np.testing.assert_array_equal(now, value[1:], strict=True)
    np.testing.assert_array_equal(before, value[:-1], strict=True)


# ---- states ---------------------------------------------------------------------------------------


def values_seen(taps: list[int], init: Any, n_steps: int = 6) -> list[list[int]]:
    """What each step reads of a state whose initial rows are `init` and which becomes 10, 11, 12, …"""
    h0 = T.vector("h0")
    t = T.arange(10, 10 + n_steps).astype("float64")
    out, _ = scan(lambda v, *past: [v, T.stack(past)], t, [{"initial": h0, "taps": taps}, None])
    return run(out[1], {h0: init}).astype(int).tolist()


@pytest.mark.parametrize(
    ("taps", "init", "seen"),
    [
        ([-2, -1], [1, 2], [[1, 2], [2, 10], [10, 11], [11, 12], [12, 13], [13, 14]]),
        ([-1, -2], [1, 2], [[2, 1], [10, 2], [11, 10], [12, 11], [13, 12], [14, 13]]),
        ([-3, -1], [1, 2, 3], [[1, 3], [2, 10], [3, 11], [10, 12], [11, 13], [12, 14]]),
        ([-1, -3, -2], [1, 2, 3], [[3, 1, 2], [10, 2, 3], [11, 3, 10], [12, 10, 11], [13, 11, 12], [14, 12, 13]]),
        ([-2], [1, 2], [[1], [2], [10], [11], [12], [13]]),
        ([-4], [1, 2, 3, 4], [[1], [2], [3], [4], [10], [11]]),
        # further rows of the initial value are not read
        ([-2, -1], [1, 2, 3, 4], [[1, 2], [2, 10], [10, 11], [11, 12], [12, 13], [13, 14]]),
        ([-2], [1, 2, 3], [[1], [2], [10], [11], [12], [13]]),
    ],
)
def test_taps_of_a_state(taps: list[int], init: list[int], seen: list[list[int]]) -> None:
    assert values_seen(taps, init) == seen


def test_surplus_rows_of_a_constant() -> None:
    out, _ = scan(
        lambda a, b: 10 * a + b, outputs_info={"initial": np.array([1.0, 2.0, 7.0, 8.0]), "taps": [-2, -1]}, n_steps=3
    )
    assert run(out).tolist() == [12, 32, 152]


def test_a_state_with_more_taps_than_steps() -> None:
    assert values_seen([-4, -1], [1, 2, 3, 4], n_steps=2) == [[1, 4], [2, 10]]


@pytest.mark.parametrize("init", [5.0, np.array(5.0), {"initial": 5.0}, {"initial": 5.0, "taps": [-1]}])
@pytest.mark.parametrize("listed", [False, True])
def test_forms_of_an_initial_value(init: Any, listed: bool) -> None:
    x = T.vector("x")
    out, _ = scan(lambda v, h: h + v, x, [init] if listed else init)
    assert run(out, {x: FIVE}).tolist() == [5, 6, 8, 11, 15]


@pytest.mark.parametrize("info", [None, [None], {}, [{}], [{"initial": None}], [{"taps": None}], []])
def test_forms_of_no_feedback(info: Any) -> None:
    x = T.vector("x")
    out, _ = scan(lambda v: 2 * v, x, info)
    assert run(out, {x: FIVE}).tolist() == [0, 2, 4, 6, 8]


def test_inplace_is_accepted() -> None:
    out, _ = scan(lambda h: h + 1, outputs_info={"initial": 0.0, "inplace": "x"}, n_steps=2)
    assert run(out).tolist() == [1, 2]


def test_outputs_with_and_without_feedback_in_any_order() -> None:
    x, a0, b0 = T.vector("x"), T.scalar("a0"), T.matrix("b0")

    def step(v: Any, a: Any, b3: Any, b1: Any, w: Any) -> Any:
        return [v * a, a + v + w, b3.sum() - b1.sum() + a, b1 + v - b3 * w]

    infos = [None, a0, {}, {"initial": b0, "taps": [-3, -1]}]
    values = {x: random(6), a0: 0.3, b0: random(3, 2)}
    out, _ = scan(step, x, infos, [T.constant(0.7)])
    wanted = plain_scan(
        lambda v, a, b3, b1: (step(v, a, b3, b1, 0.7), False),
        [(values[x], [0])],
        [None, (values[a0], (-1,)), None, (values[b0], [-3, -1])],
    )
    for got, column in zip(run(out, values), wanted, strict=True):
        np.testing.assert_allclose(got, column, rtol=1e-12, strict=True)


def test_initial_values_are_not_among_the_outputs() -> None:
    out, _ = scan(lambda h: 2 * h, outputs_info=T.constant(1.0), n_steps=4)
    assert run(out).tolist() == [2, 4, 8, 16]


def test_outputs_of_any_rank() -> None:
    x = T.vector("x")
    out, _ = scan(lambda v: [v, v * T.ones(2), T.zeros((2, 3)) + v], x)
    assert [o.ndim for o in out] == [1, 2, 3]
    assert [o.shape for o in run(out, {x: FIVE})] == [(5,), (5, 2), (5, 2, 3)]


def test_an_output_that_is_a_constant_an_input_or_an_argument() -> None:
    x, w = T.vector("x"), T.vector("w")
    out, _ = scan(lambda v, h: [v, h, w, T.constant(2.5), h], x, [None, 1.0, None, None, None])
    got = run(out, {x: np.arange(2.0), w: np.array([7.0, 8.0])})
    assert [g.tolist() for g in got] == [[0, 1], [1, 1], [[7, 8], [7, 8]], [2.5, 2.5], [1, 1]]


def test_one_expression_as_several_outputs() -> None:
    def step(h: Any, g: Any) -> Any:
        new = h + 1
        return [new, new, new]

    out, _ = scan(step, outputs_info=[1.0, 5.0, None], n_steps=2)
    assert [g.tolist() for g in run(out)] == [[2, 3]] * 3


def test_states_that_change_places() -> None:
    out, _ = scan(lambda a, b: [b, a + b], outputs_info=[T.constant(0.0), T.constant(1.0)], n_steps=6)
    assert [g.tolist() for g in run(out)] == [[1, 1, 2, 3, 5, 8], [1, 2, 3, 5, 8, 13]]


# ---- number of steps ------------------------------------------------------------------------------

N = T.iscalar("n")


@pytest.mark.parametrize(
    ("n", "values"),
    [
        (3, {}),
        (np.int64(3), {}),
        (np.uint8(3), {}),
        (np.array(3), {}),
        (T.constant(3), {}),
        (T.constant(np.int8(3)), {}),
        (N, {N: 3}),
        (N + 1, {N: 2}),
        (T.lscalar("m"), None),
        (T.TensorType("uint8", ())("m"), None),
    ],
)
def test_forms_of_n_steps(n: Any, values: Any) -> None:
    out, _ = scan(lambda h: 2 * h, outputs_info=T.constant(1.0), n_steps=n)
    assert run(out, {n: 3} if values is None else values).tolist() == [2, 4, 8]


def test_n_steps_from_a_shape() -> None:
    x = T.vector("x")
    out, _ = scan(lambda h: h + 1, outputs_info=T.constant(1.0), n_steps=x.shape[0] - 1)
    assert run(out, {x: FIVE}).tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("n", [0, 1, 2, 5])
@pytest.mark.parametrize("static", [True, False])
def test_one_function_for_any_number_of_steps(n: int, static: bool) -> None:
    x = T.vector("x")
    out, _ = scan(lambda v, h: h + v, x, T.constant(1.0), n_steps=n if static else N)
    assert run(out, {x: FIVE, N: n}).tolist() == (1 + np.cumsum(FIVE))[:n].tolist()


def test_a_known_number_of_steps_is_a_known_size() -> None:
    h0 = T.tensor("float64", (None, 3))
    out, _ = scan(lambda h: 2 * h, outputs_info=h0, n_steps=4)
    assert out.type.shape == (4, None, 3)
    out, _ = scan(lambda a, b: a, [np.zeros((5, 2)), {"input": np.zeros(4), "taps": [1]}])
    assert out.type.shape == (3, 2)


# ---- no steps, no elements ------------------------------------------------------------------------


@pytest.mark.parametrize("static", [True, False])
def test_no_steps(static: bool) -> None:
    x, h0, r0, w = T.matrix("x"), T.fvector("h0"), T.matrix("r0"), T.matrix("w")
    n = T.iscalar("n")

    def step(row: Any, h: Any, r2: Any, r1: Any) -> Any:
        return [2 * h, r2 + r1, row.dot(w), T.zeros((3, 0)), T.sum(row) > 0, T.argmax(row)]

    infos = [h0, {"initial": r0, "taps": [-2, -1]}, None, None, None, None]
    out, _ = scan(step, x, infos, n_steps=0 if static else n)
    values = {x: random(4, 3), h0: np.ones(2, "float32"), r0: random(2, 5), w: random(3, 7), n: 0}
    got = run(out, values)
    assert [g.shape for g in got] == [(0, 2), (0, 5), (0, 7), (0, 3, 0), (0,), (0,)]
    assert [g.dtype.name for g in got] == ["float32", "float64", "float64", "float64", "bool", "int64"]


def test_an_empty_sequence() -> None:
    x, h0 = T.matrix("x"), T.vector("h0")
    out, _ = scan(lambda row, h: [h + row, row.sum()], x, [h0, None])
    got = run(out, {x: np.zeros((0, 3)), h0: np.ones(3)})
    assert [g.shape for g in got] == [(0, 3), (0,)]


def test_gradients_after_no_steps_are_zero() -> None:
    x, h0, w, n = T.matrix("x"), T.vector("h0"), T.scalar("w"), T.iscalar("n")
    out, _ = scan(lambda row, h: T.tanh(h * w + row), x, h0, n_steps=n)
    grads = T.grad(out.sum(), [x, h0, w])
    got = run(grads, {x: random(4, 3), h0: random(3), w: 0.5, n: 0})
    for g, shape in zip(got, [(4, 3), (3,), ()], strict=True):
        np.testing.assert_array_equal(g, np.zeros(shape), strict=True)
    got = run(grads, {x: np.zeros((0, 3)), h0: random(3), w: 0.5, n: 0})
    assert [g.shape for g in got] == [(0, 3), (3,), ()]


def test_the_gradient_of_a_last_value_after_no_steps_is_that_of_the_initial_value() -> None:
    x, h0, w = T.vector("x"), T.scalar("h0"), T.scalar("w")
    last, _ = ostinato.foldl(lambda v, h: h * w + v, x, h0)
    got = run([last, *T.grad(last, [h0, w, x])], {x: [], h0: 3.0, w: 0.5})
    assert [g.tolist() for g in got] == [3, 1, 0, []]


@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize("width", [0, 2])
def test_rows_without_elements(n: int, width: int) -> None:
    x, h0, w = T.matrix("x"), T.vector("h0"), T.matrix("w")
    out, _ = scan(lambda row, h: T.tanh(row.dot(w) + h), x, h0)
    value = {x: random(n, 0), h0: np.ones(width), w: random(0, width)}
    state, wanted = np.ones(width), []
    for _ in range(n):
        state = np.tanh(state)
        wanted.append(state)
    np.testing.assert_allclose(run(out, value), np.array(wanted).reshape(n, width), strict=True)
    assert [g.shape for g in run(T.grad(out.sum(), [x, h0, w]), value)] == [(n, 0), (width,), (0, width)]


# ---- what a step returns, and updates -------------------------------------------------------------

RETURNS: dict[str, tuple[int, Callable[..., Any]]] = {
    "variable": (1, lambda a, b, u, c: a),
    "list": (2, lambda a, b, u, c: [a, b]),
    "tuple": (2, lambda a, b, u, c: (a, b)),
    "list of one": (1, lambda a, b, u, c: [a]),
    "variable, updates": (1, lambda a, b, u, c: (a, u)),
    "list, updates": (2, lambda a, b, u, c: ([a, b], u)),
    "tuple, updates": (2, lambda a, b, u, c: ((a, b), u)),
    "variable, until": (1, lambda a, b, u, c: (a, c)),
    "list, until": (2, lambda a, b, u, c: ([a, b], c)),
    "variables, until": (2, lambda a, b, u, c: (a, b, c)),
    "list, updates, until": (2, lambda a, b, u, c: ([a, b], u, c)),
    "list of list, updates, until": (2, lambda a, b, u, c: [[a, b], u, c]),
    "updates": (0, lambda a, b, u, c: u),
    "updates, until": (0, lambda a, b, u, c: (u, c)),
    "no outputs, updates, until": (0, lambda a, b, u, c: ([], u, c)),
    "None, updates": (0, lambda a, b, u, c: (None, u)),
    "until": (0, lambda a, b, u, c: c),
    "list, no updates": (2, lambda a, b, u, c: ([a, b], {})),
    "list, empty list": (2, lambda a, b, u, c: ([a, b], [])),
}


@pytest.mark.parametrize("return_list", [False, True])
@pytest.mark.parametrize("pairs", [dict, list, lambda u: [list(p) for p in u], tuple])
@pytest.mark.parametrize("form", RETURNS)
def test_forms_of_what_a_step_returns(form: str, pairs: Callable[[Any], Any], return_list: bool) -> None:
    x, count = T.vector("x"), shared(np.int64(0))
    n_outputs, returned = RETURNS[form]
    out, updates = scan(
        lambda v: returned(2 * v, 3 * v, pairs([(count, count + 1)]), until(v > 2)), x, return_list=return_list
    )
    as_list = list(out or []) if return_list or n_outputs != 1 else [out]
    assert len(as_list) == n_outputs
    if n_outputs == 0:
        assert out == [] if return_list else out is None
    made = 4 if "until" in form else 5
    assert [g.tolist() for g in run(as_list, {x: FIVE}, updates)] == [
        (k * FIVE[:made]).tolist() for k in (2, 3)[:n_outputs]
    ]
    updating = "updates" in form and "no updates" not in form
    assert isinstance(updates, dict)
    assert list(updates) == ([count] if updating else [])
    assert count.get_value() == (made if updating else 0)


def test_updates_carry_from_step_to_step_and_from_call_to_call() -> None:
    s, x = shared(1.0), T.vector("x")
    seen, updates = scan(lambda v: (s, {s: s * 2 + v}), x)
    f = function([x], [seen, s], updates=updates)
    got, before = f([0.0, 1.0, 0.0])
    assert (got.tolist(), float(before)) == ([1, 2, 5], 1)
    assert s.get_value() == 10
    assert f([0.0])[0].tolist() == [10]
    assert s.get_value() == 20


def test_updates_not_passed_on_change_nothing() -> None:
    s = shared(1.0)
    seen, _ = scan(lambda: (s, {s: s * 2}), n_steps=3)
    assert run(seen).tolist() == [1, 2, 4]
    assert s.get_value() == 1


def test_updates_after_no_steps() -> None:
    s, n = shared(1.0), T.iscalar("n")
    _, updates = scan(lambda: {s: s * 2}, n_steps=n)
    run([], {n: 0}, updates)
    assert s.get_value() == 1


def test_updates_of_several_variables_are_simultaneous() -> None:
    a, b = shared(1.0), shared(10.0)
    _, updates = scan(lambda: {a: b, b: a + b}, n_steps=3)
    run([], {}, updates)
    assert (float(a.get_value()), float(b.get_value())) == (21, 32)


def test_the_value_after_the_last_step_is_an_expression() -> None:
    s, x = shared(1.0), T.vector("x")
    _, updates = scan(lambda v: {s: s + v}, x)
    updates[s] = updates[s] * 100
    run([], {x: FIVE}, updates)
    assert s.get_value() == 1100


def test_updates_of_a_narrower_dtype_are_converted() -> None:
    s, x = shared(np.float64(0)), T.bvector("x")
    _, updates = scan(lambda v: {s: v}, x)
    run([], {x: np.array([3, 4], "int8")}, updates)
    assert s.get_value() == 4


def test_an_updated_variable_is_itself_in_sequences_and_initial_values() -> None:
    s = shared(np.array([1.0, 2.0, 3.0]))
    out, updates = scan(lambda row, h: (h + row, {s: s * 10}), s, s.sum())
    f = function([], out, updates=updates)
    assert f().tolist() == [7, 9, 12]
    assert s.get_value().tolist() == [1000, 2000, 3000]


def test_an_updated_variable_beside_one_that_is_only_read() -> None:
    s, w, x = shared(0.0), shared(3.0), T.vector("x")
    out, updates = scan(lambda v, h: (h + s + w * v, {s: s + 1}), x, 0.0)
    assert run(out, {x: np.ones(3)}, updates).tolist() == [3, 7, 12]


# ---- until ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bound", "made"), [(-1.0, 1), (0.0, 2), (2.5, 4), (3.0, 5), (100.0, 5)])
@pytest.mark.parametrize("with_n_steps", [False, True])
def test_until(bound: float, made: int, with_n_steps: bool) -> None:
    x, b = T.vector("x"), T.scalar("b")
    out, _ = scan(lambda v, h: ([h + v, v], until(v > b)), x, [0.0, None], n_steps=N if with_n_steps else None)
    sums, rows = run(out, {x: FIVE, b: bound, N: 5})
    assert rows.tolist() == FIVE[:made].tolist()
    assert sums.tolist() == np.cumsum(FIVE)[:made].tolist()


@pytest.mark.parametrize(
    "condition",
    [lambda v: v > 2, lambda v: T.cast(v > 2, "int8"), lambda v: T.maximum(v - 2, 0), lambda v: (v > 2).sum()],
)
def test_conditions_of_any_dtype(condition: Callable[[Any], Any]) -> None:
    x = T.vector("x")
    out, _ = scan(lambda v: (v, until(condition(v))), x)
    assert run(out, {x: FIVE}).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("always", "made"), [(True, 1), (False, 5)])
def test_a_condition_that_is_known(always: Any, made: int) -> None:
    x = T.vector("x")
    out, _ = scan(lambda v: (v, until(always)), x)
    assert run(out, {x: FIVE}).tolist() == FIVE[:made].tolist()


def test_until_with_no_steps() -> None:
    x = T.vector("x")
    out, _ = scan(lambda v: (v, until(v > 2)), x)
    assert run(out, {x: []}).shape == (0,)


def test_until_with_a_huge_bound() -> None:
    out, _ = scan(lambda h: (2 * h, until(h > 100)), outputs_info=T.constant(1.0), n_steps=10**9)
    assert run(out).tolist() == [2, 4, 8, 16, 32, 64, 128, 256]


def test_until_with_states_of_several_taps_and_updates() -> None:
    f0, count = T.lvector("f0"), shared(np.int64(0))
    out, updates = scan(
        lambda a, b: (a + b, {count: count + 1}, until(a + b > 50)),
        outputs_info={"initial": f0, "taps": [-2, -1]},
        n_steps=1000,
    )
    assert run(out, {f0: [1, 1]}, updates).tolist() == [2, 3, 5, 8, 13, 21, 34, 55]
    assert count.get_value() == 8


def test_until_of_an_updated_variable() -> None:
    count = shared(np.int64(0))
    _, updates = scan(lambda: ({count: count + 1}, until(count >= 3)), n_steps=100)
    run([], {}, updates)
    assert count.get_value() == 4  # the condition sees the value before the update


def test_until_backwards() -> None:
    x = T.vector("x")
    out, _ = scan(lambda v: (v, until(v < 3)), x, go_backwards=True)
    assert run(out, {x: FIVE}).tolist() == [4, 3, 2]


# ---- steps of every kind --------------------------------------------------------------------------


class Cell:
    """Steps that are no plain functions."""

    def __init__(self, w: float) -> None:
        self.w = w

    def step(self, v: Any, h: Any) -> Any:
        return h * self.w + v

    def __call__(self, v: Any, h: Any) -> Any:
        return h * self.w + v

    @classmethod
    def of_the_class(cls, v: Any, h: Any) -> Any:
        return h * 2.0 + v

    @staticmethod
    def static(v: Any, h: Any) -> Any:
        return h * 2.0 + v


def _decorated(v: Any, h: Any) -> Any:
    return h * 2.0 + v


@functools.wraps(_decorated)
def _wrapper(*args: Any) -> Any:
    return _decorated(*args)


STEPS: dict[str, Callable[..., Any]] = {
    "method": Cell(2.0).step,
    "callable object": Cell(2.0),
    "class method": Cell.of_the_class,
    "static method": Cell.static,
    "lambda with defaults": lambda v, h, w=2.0: h * w + v,
    "keyword only with default": lambda v, h, *, w=2.0: h * w + v,
    "*args": lambda *args: args[1] * 2.0 + args[0],
    "*args, **kwargs": lambda *args, **kwargs: args[1] * 2.0 + args[0],
    "partial by position": functools.partial(lambda w, v, h: h * w + v, 2.0),
    "partial by keyword": functools.partial(lambda v, h, w: h * w + v, w=2.0),
    "partial of a partial of a method": functools.partial(functools.partial(Cell(2.0).step)),
    "decorated": _wrapper,
}


@pytest.mark.parametrize("kind", STEPS)
def test_kinds_of_steps(kind: str) -> None:
    x = T.vector("x")
    out, _ = scan(STEPS[kind], x, T.constant(1.0))
    h, wanted = 1.0, []
    for v in FIVE:
        h = h * 2.0 + v
        wanted.append(h)
    assert run(out, {x: FIVE}).tolist() == wanted


def test_a_step_is_called_once_if_the_dtypes_fit() -> None:
    calls = []

    def step(v: Any, h: Any) -> Any:
        calls.append(h.dtype)
        return h + v

    x = T.vector("x")
    scan(step, x, T.constant(1.0))
    assert calls == ["float64"]
    scan(step, x, T.fscalar())
    assert calls[1:] == ["float32", "float64"]


@pytest.mark.parametrize("add", [operator.add, T.add])
def test_builtin_functions_as_steps(add: Any) -> None:
    x = T.vector("x")
    assert run(scan(add, x, T.constant(1.0))[0], {x: FIVE}).tolist() == [1, 2, 4, 7, 11]


def test_keyword_arguments_of_scan() -> None:
    x, w = T.vector("x"), T.scalar("w")
    out, _ = ostinato.scan(
        fn=lambda v, h, w: h * w + v, sequences=x, outputs_info=T.constant(0.0), non_sequences=w, n_steps=3,
        truncate_gradient=-1, go_backwards=False, mode="FAST_RUN", name="loop", profile=True, allow_gc=True,
        strict=True, return_list=True,
    )  # fmt: skip
    assert [g.tolist() for g in run(out, {x: FIVE, w: 2.0})] == [[0, 1, 4]]


def test_non_sequences_are_the_same_at_every_step() -> None:
    x, w, s = T.vector("x"), T.vector("w"), shared(100.0)
    out, _ = scan(lambda v, a, b, c, d: v + a.sum() + b + c + d[0], x, non_sequences=[w, s, 1000, np.array([1e4])])
    assert run(out, {x: FIVE[:2], w: [1.0, 2.0]}).tolist() == [11103, 11104]


def test_a_sequence_as_non_sequence() -> None:
    x = T.vector("x")
    out, _ = scan(lambda v, whole: v / whole.sum(), x, non_sequences=x)
    np.testing.assert_allclose(run(out, {x: FIVE}), FIVE / 10)


def test_closures() -> None:
    x, w, s = T.vector("x"), T.scalar("w"), shared(100.0)
    array, total = np.array([1.0, 2.0]), T.sum(x) * w
    y, _ = scan(lambda v: v * w, x)
    out, _ = scan(lambda v, h: h + v * w + s + total + T.constant(array).sum() + y[-1], x, T.constant(0.0))
    w_, h, wanted = 0.5, 0.0, []
    for v in FIVE:
        h = h + v * w_ + 100 + FIVE.sum() * w_ + 3 + FIVE[-1] * w_
        wanted.append(h)
    np.testing.assert_allclose(run(out, {x: FIVE, w: w_}), wanted)


def test_strict_accepts_what_is_passed_or_made_from_it() -> None:
    x, w, s, u = T.vector("x"), T.scalar("w"), shared(3.0), shared(0.0)
    whole = w * 2
    out, updates = scan(
        lambda v, h, a, b: ([h + v * a + b + 1.5], {u: u + v}, until(v > 3 * b)), x, 0.0, [whole, s], strict=True
    )
    assert run(out, {x: FIVE[:2], w: 1.0}, updates)[0].tolist() == 4.5
    assert u.get_value() == 1


# ---- dtypes of states -----------------------------------------------------------------------------


def test_a_bare_integer_takes_the_dtype_of_what_the_step_returns() -> None:
    for dtype in ("float16", "float32", "float64"):
        x = T.TensorType(dtype, (None,))("x")
        out, _ = scan(lambda v, h: h + v, x, 0)
        assert out.dtype == dtype
        np.testing.assert_array_equal(run(out, {x: FIVE.astype(dtype)}), np.cumsum(FIVE).astype(dtype), strict=True)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"])
def test_counters_become_int64(dtype: str) -> None:
    x = T.TensorType(dtype, (None,))("x")
    out, _ = scan(lambda v, c, d: [c + 1, d + v], x, [0, 0])
    for got, wanted in zip(run(out, {x: np.ones(300, dtype)}), 2 * [np.arange(1, 301)], strict=True):
        np.testing.assert_array_equal(got, wanted, strict=True)


def test_counters_of_uint64() -> None:
    x = T.TensorType("uint64", (None,))("x")
    out, _ = scan(lambda v, h: h + v, x, 0)
    got = run(out, {x: np.array([2**63, 5], "uint64")})
    np.testing.assert_array_equal(got, np.array([2**63, 2**63 + 5], "uint64"), strict=True)


@pytest.mark.parametrize(("start", "step"), [(-1, lambda h: h - 1), (300, lambda h: h * 2), (2**40, lambda h: h + 1)])
def test_integers_of_any_size_at_the_start(start: int, step: Callable[[Any], Any]) -> None:
    out, _ = scan(step, outputs_info=start, n_steps=20)
    h, wanted = start, []
    for _ in range(20):
        h = step(h)
        wanted.append(h)
    np.testing.assert_array_equal(run(out), np.array(wanted, "int64"), strict=True)


def test_a_counter_beside_floats() -> None:
    x = T.fvector("x")
    out, _ = scan(lambda v, n, mean: [n + 1, mean + (v - mean) / T.cast(n + 1, "float32")], x, [0, 0])
    counts, means = run(out, {x: np.array([1, 2, 6], "float32")})
    np.testing.assert_array_equal(counts, np.array([1, 2, 3]), strict=True)
    np.testing.assert_allclose(means, np.array([1, 1.5, 3], "float32"), strict=True)


def test_bare_integers_in_a_chain_of_states() -> None:
    x = T.fvector("x")
    k = 12
    out, _ = scan(lambda v, *past: [v + past[0], *past[:-1]], x, [0] * k)
    assert [o.dtype for o in out] == ["float32"] * k
    value = np.arange(1, 16, dtype="float32")
    got = run(out, {x: value})
    for i, g in enumerate(got):
        wanted = np.concatenate([np.zeros(i), np.cumsum(value)])[:15].astype("float32")
        np.testing.assert_array_equal(g, wanted, strict=True)


def test_a_bare_integer_that_meets_functions() -> None:
    out, _ = scan(lambda a, b: [T.exp(a), b / 2], outputs_info=[0, 1], n_steps=2)
    assert [o.dtype for o in out] == ["float64", "float64"]
    got = run(out)
    np.testing.assert_allclose(got[0], [1, np.e])
    assert got[1].tolist() == [0.5, 0.25]


def test_a_bare_float_starts_as_floatX() -> None:
    x, y = T.fvector("x"), T.lvector("y")
    assert scan(lambda v, h: h + v, x, 0.0)[0].dtype == "float64"
    assert scan(lambda v, h: h + v, y, 0.0)[0].dtype == "float64"
    with ostinato.config.change_flags(floatX="float32"):
        assert scan(lambda v, h: h + v, x, 0.0)[0].dtype == "float32"
        assert scan(lambda h: h * 0.5, outputs_info=1.0, n_steps=2)[0].dtype == "float32"


@pytest.mark.parametrize(
    ("start", "other", "state"),
    [
        ("float32", "float64", "float64"),
        ("float64", "float32", "float64"),
        ("float16", "float32", "float32"),
        ("int32", "float64", "float64"),
        ("int8", "float16", "float16"),
        ("int32", "int64", "int64"),
        ("int64", "int8", "int64"),
        ("uint8", "int8", "int16"),
        ("bool", "int8", "int8"),
        ("bool", "float32", "float32"),
    ],
)
@pytest.mark.parametrize("ring", [False, True])
def test_states_are_promoted_where_nothing_is_lost(start: str, other: str, state: str, ring: bool) -> None:
    h0, x = T.TensorType(start, (None,) if ring else ())("h0"), T.TensorType(other, (None,))("x")
    out, _ = scan(lambda v, h: h + v, x, {"initial": h0, "taps": [-2]} if ring else h0)
    assert out.dtype == state
    first = np.array([1, 0]).astype(start) if ring else np.array(1).astype(start)
    got = run(out, {h0: first, x: np.array([1, 0, 1], other)})
    np.testing.assert_array_equal(got, np.array([2, 0, 3] if ring else [2, 2, 3]).astype(state), strict=True)


def test_what_a_step_returns_is_converted_where_nothing_is_lost() -> None:
    h0 = T.dscalar("h0")
    out, _ = scan(lambda h: T.cast(h, "float32"), outputs_info=h0, n_steps=2)
    np.testing.assert_array_equal(run(out, {h0: 0.1}), np.full(2, np.float64(np.float32(0.1))), strict=True)


def test_constants_at_the_start_are_judged_by_their_value() -> None:
    x = T.vector("x")
    out, _ = scan(lambda v, h: h + v, x, np.array(0))  # int64, which a variable could not be
    assert out.dtype == "float64"
    out, _ = scan(lambda v, h: h + v, x, np.zeros(2, "int64"))
    assert run(out, {x: FIVE[:2]}).tolist() == [[0, 0], [1, 1]]
    out, _ = scan(lambda v, h, g: h + v, x, {"initial": np.array([1, 2]), "taps": [-2, -1]})
    assert run(out, {x: FIVE[:3]}).tolist() == [1, 3, 3]


def test_complicated_promotion_of_several_states() -> None:
    x, a0, b0 = T.fvector("x"), T.bscalar("a0"), T.fscalar("b0")
    out, _ = scan(lambda v, a, b, c: [b, T.cast(c, "float64"), a + v], x, [a0, b0, 0])
    assert [o.dtype for o in out] == ["float64"] * 3
    a, b, c = 2.0, 3.0, 0.0
    rows = []
    for v in FIVE:
        a, b, c = b, c, a + v
        rows.append([a, b, c])
    got = run(out, {x: FIVE.astype("float32"), a0: 2, b0: 3})
    np.testing.assert_array_equal(np.array(got).T, rows)


# ---- shapes of states -----------------------------------------------------------------------------


def test_an_initial_row_that_a_step_makes_a_matrix() -> None:
    """The initial value has a size that is known to be 1, what the step returns a size that is not known."""
    x, w = T.tensor3("x"), T.matrix("w")
    h0 = T.zeros((1, w.shape[1]))
    out, _ = scan(lambda page, h: T.tanh(page + h * w), x, h0)
    assert out.type.shape == (None, None, None)
    values = {x: random(4, 1, 3), w: random(1, 3)}
    state, wanted = np.zeros((1, 3)), []
    for page in values[x]:
        state = np.tanh(page + state * values[w])
        wanted.append(state)
    np.testing.assert_allclose(run(out, values), wanted, strict=True)
    grads = run(T.grad((out**2).sum(), [x, w]), values)
    assert [g.shape for g in grads] == [(4, 1, 3), (1, 3)]
    with pytest.raises(ostinato.ShapeError, match="step 0"):  # here the state would change its shape
        run(out, {x: random(4, 2, 3), w: random(2, 3)})


@pytest.mark.parametrize("kind", [T.row, T.col])
def test_an_initial_value_of_a_known_size(kind: Callable[..., Any]) -> None:
    h0, w = kind("h0"), T.matrix("w")
    out, _ = scan(lambda h: h * w, outputs_info=h0, n_steps=3)
    start = np.array([[2.0]])
    assert run(out, {h0: start, w: np.array([[3.0]])}).tolist() == [[[6]], [[18]], [[54]]]


def test_a_matrix_start_and_a_step_of_known_size() -> None:
    h0 = T.matrix("h0")
    out, _ = scan(lambda h: T.addbroadcast(h, 0) * 2, outputs_info=h0, n_steps=2)
    assert run(out, {h0: np.ones((1, 3))}).tolist() == [[[2, 2, 2]], [[4, 4, 4]]]


def test_a_broadcast_start() -> None:
    x = T.matrix("x")
    out, _ = scan(lambda row, h: h + row, x, T.zeros_like(x[0]))
    np.testing.assert_allclose(run(out, {x: random(3, 2)}), np.cumsum(random(3, 2), axis=0))


# ---- loops within loops ---------------------------------------------------------------------------


def test_a_loop_within_a_step() -> None:
    X, w = T.matrix("X"), T.scalar("w")

    def row_sums(row: Any, total: Any) -> Any:
        partial, _ = scan(lambda v, h: T.tanh(h * w + v + total), row, T.constant(0.0))
        return [total + partial[-1], partial]

    out, _ = scan(row_sums, X, [T.constant(0.0), None])
    values = {X: random(3, 4), w: 0.5}
    total, totals, partials = 0.0, [], []
    for row in values[X]:
        h, partial = 0.0, []
        for v in row:
            h = np.tanh(h * 0.5 + v + total)
            partial.append(h)
        total = total + partial[-1]
        totals.append(total)
        partials.append(partial)
    got = run(out, values)
    np.testing.assert_allclose(got[0], totals)
    np.testing.assert_allclose(got[1], partials)


def test_updates_of_an_inner_loop() -> None:
    count, X = shared(np.int64(0)), T.matrix("X")

    def outer(row: Any) -> Any:
        seen, updates = scan(lambda v: (v + count, {count: count + 1}), row)
        return seen, updates

    out, updates = scan(outer, X)
    f = function([X], out, updates=updates)
    assert f(np.zeros((3, 2))).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert count.get_value() == 6
    assert f(np.zeros((1, 2))).tolist() == [[6, 7]]


def test_updates_of_an_inner_and_an_outer_loop() -> None:
    inner, outer = shared(1.0), shared(0.0)

    def step() -> Any:
        _, updates = scan(lambda: {inner: inner * 2}, n_steps=3)
        updates[outer] = outer + updates[inner]
        return updates

    _, updates = scan(step, n_steps=2)
    run([], {}, updates)
    assert (float(inner.get_value()), float(outer.get_value())) == (64, 8 + 64)


def test_three_loops() -> None:
    n = T.iscalar("n")

    def level(depth: int, base: Any) -> Any:
        if depth == 0:
            return base
        return scan(lambda h: level(depth - 1, h) + 1.0, outputs_info=base, n_steps=n)[0][-1]

    def plain(depth: int, base: float) -> float:
        h = base
        for _ in range(2 if depth else 0):
            h = plain(depth - 1, h) + 1.0
        return h

    assert run(level(3, T.constant(0.0)), {n: 2}) == plain(3, 0.0)


def test_an_inner_loop_whose_length_depends_on_the_step() -> None:
    lengths, x = T.ivector("lengths"), T.vector("x")
    out, _ = scan(lambda k: scan(lambda v, h: h + v, x[:k], T.constant(0.0))[0].sum(), lengths)
    assert run(out, {lengths: [0, 1, 3], x: [1.0, 2.0, 3.0]}).tolist() == [0, 1, 1 + 3 + 6]
    out, _ = scan(lambda k: ostinato.foldl(lambda v, h: h + v, T.arange(k), 0)[0], lengths)
    assert run(out, {lengths: [0, 1, 5]}).tolist() == [0, 0, 10]


def test_until_in_an_inner_loop() -> None:
    x = T.vector("x")

    def doublings(v: Any) -> Any:
        h, _ = scan(lambda h: (2 * h, until(2 * h > 10)), outputs_info=v, n_steps=100)
        return [h[-1], h.shape[0]]

    out, _ = scan(doublings, x)
    assert [g.tolist() for g in run(out, {x: [1.0, 6.0, 3.0]})] == [[16, 12, 12], [4, 1, 2]]


# ---- map, reduce, foldl, foldr --------------------------------------------------------------------


def test_map() -> None:
    x, y, w = T.vector("x"), T.matrix("y"), T.scalar("w")
    out, updates = ostinato.map(lambda a, b, w: a + b.sum() * w, [x, y], [w])
    assert updates == {}
    assert run(out, {x: FIVE, y: np.ones((4, 2)), w: 10.0}).tolist() == [20, 21, 22, 23]
    out, _ = ostinato.map(lambda a: [a, -a], x, go_backwards=True, name="both")
    assert [g.tolist() for g in run(out, {x: FIVE[:2]})] == [[1, 0], [-1, 0]]
    assert run(ostinato.map(lambda a: T.stack([a, a]), x)[0], {x: []}).shape == (0, 2)


@pytest.mark.parametrize(
    ("fold", "backwards"),
    [
        (ostinato.foldl, False),
        (ostinato.foldr, True),
        (ostinato.reduce, False),
        (functools.partial(ostinato.reduce, go_backwards=True), True),
    ],
)
@pytest.mark.parametrize("n", [0, 1, 5])
def test_folds(fold: Callable[..., Any], backwards: bool, n: int) -> None:
    x, w, start = T.vector("x"), T.scalar("w"), T.scalar("start")
    out, updates = fold(lambda v, h, w: h * w + v, x, start, [w])
    assert updates == {}
    h = 7.0
    for v in FIVE[:n][::-1] if backwards else FIVE[:n]:
        h = h * 2 + v
    assert run(out, {x: FIVE[:n], w: 2.0, start: 7.0}) == h


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_a_fold_of_several_outputs(n: int) -> None:
    x, h0, a0 = T.vector("x"), T.vector("h0"), T.matrix("a0")
    out, _ = ostinato.foldl(
        lambda v, three, one, a: [v + three - one, a * 2 + v],
        x,
        [{"initial": h0, "taps": [-3, -1]}, a0],
    )
    values = {x: FIVE[:n], h0: random(4), a0: random(2, 2)}
    history, a = list(values[h0][:3]), values[a0]
    for v in values[x]:
        history, a = [*history, v + history[-3] - history[-1]], a * 2 + v
    got = run(out, values)
    np.testing.assert_allclose(got[0], history[-1])
    np.testing.assert_allclose(got[1], a)


def test_a_fold_of_an_output_that_is_not_fed_back() -> None:
    x = T.vector("x")
    out, _ = ostinato.reduce(lambda v: 2 * v, x, None)
    assert run(out, {x: FIVE}) == 8
    with pytest.raises(IndexError):
        run(out, {x: []})


def test_a_fold_with_updates_and_until() -> None:
    x, count = T.vector("x"), shared(np.int64(0))
    out, updates = ostinato.foldl(lambda v, h: (h + v, {count: count + 1}, until(h + v >= 3)), x, T.constant(0.0))
    assert run(out, {x: FIVE}, updates) == 3
    assert count.get_value() == 3


def test_scan_module_has_the_same_names() -> None:
    for name in ("scan", "map", "reduce", "foldl", "foldr", "until"):
        assert getattr(ostinato.scan_module, name) is getattr(ostinato, name)


# ---- truncated derivatives ------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_truncate_gradient(k: int) -> None:
    x, w = T.vector("x"), T.scalar("w")
    out, _ = scan(lambda v, h: T.tanh(h * w + v), x, T.constant(0.3), truncate_gradient=k)
    value = random(5)
    got = run(T.grad(out[-1], [w, x]), {x: value, w: 0.7})

    def late(w_late: float, x_late: Any) -> float:
        """The last state, where only the last k steps know of the change."""
        h = 0.3
        for t, v in enumerate(value):
            last = t >= len(value) - k
            h = np.tanh(h * (w_late if last else 0.7) + (x_late[t] if last else v))
        return h

    e = 1e-6
    np.testing.assert_allclose(got[0], (late(0.7 + e, value) - late(0.7 - e, value)) / (2 * e), rtol=1e-7)
    for i, basis in enumerate(np.eye(5) * e):
        wanted = (late(0.7, value + basis) - late(0.7, value - basis)) / (2 * e)
        np.testing.assert_allclose(got[1][i], wanted, rtol=1e-7, atol=1e-10)
