"""States that are recorded before and after the steps of a loop: one buffer, and the results of two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ostinato
import ostinato.tensor as T
from numeric import central
from ostinato.backends.llvm import entry
from ostinato.backends.llvm.runtime import runtime
from ostinato.errors import OstinatoValueError
from ostinato.graph import Graph
from ostinato.lower import loops, tiling
from ostinato.ops.creation import UNSET
from ostinato.ops.loop import LOOP
from ostinato.rewrite.native import rewrite_for_native
from ostinato.rewrite.pipeline import rewrite

RNG = np.random.default_rng(31)


def compiled(inputs: list[Any], results: Any, shared: bool = True, tiled: bool | None = None, threads: int = 1) -> Any:
    """A native function; not `shared`: states before and after the steps are two arrays."""
    with pytest.MonkeyPatch.context() as patch, ostinato.config.change_flags(cache=False, threads=threads):
        if not shared:
            patch.setattr(loops, "recorded_states", lambda *args: [])
        if tiled is not None:
            patch.setattr(tiling, "_is_worth_it", lambda spec, grid: tiled)
        return ostinato.function(inputs, results, mode="native", on_unused_input="ignore")


def called(f: Any, args: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    """The results of a call in which any work is worth a thread."""
    words, k = runtime().words, entry.OF_THREADS.worth
    before, words[k] = int(words[k]), 1
    try:
        return list(f(*args))
    finally:
        words[k] = before


def one_buffer(f: Any, args: Sequence[Any]) -> list[str]:
    """What `memory` has lines for that tell of states in one buffer."""
    return [name for name in f.memory(*args) if ", in one buffer" in name]


def check(
    inputs: list[Any],
    results: list[Any],
    *calls: Sequence[Any],
    buffers: int | None = 1,
    tiled: bool | None = None,
    plain: Callable[..., Sequence[Any]] | None = None,
) -> Any:
    """The bits of two arrays, with threads too, and what the reference (and plain NumPy) gives."""
    f, two, threads = (compiled(inputs, results, s, tiled, n) for s, n in ((True, 1), (False, 1), (True, 2)))
    reference = plain or ostinato.function(inputs, results, mode="reference", on_unused_input="ignore")
    if buffers is not None:
        assert len(one_buffer(f, calls[0])) == buffers, f.memory(*calls[0])
        assert not one_buffer(two, calls[0])
    for args in calls:
        found = called(f, args)
        for a, b, c, d in zip(found, called(two, args), called(threads, args), reference(*args), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)
            np.testing.assert_allclose(a, d, rtol=1e-10, atol=1e-12)
            assert a.dtype == np.asarray(d).dtype
    return f


# ---- what derivatives read ------------------------------------------------------------------------


X, h, W = T.dtensor3("X"), T.dmatrix("h"), T.dmatrix("W")
hs, _ = ostinato.scan(lambda x, h, W: T.tanh(T.dot(h, W) + x), X, h, W, name="net")


def network(n: int = 7, rows: int = 5, units: int = 6) -> list[Any]:
    return [RNG.normal(size=(n, rows, units)), RNG.normal(size=(rows, units)), RNG.normal(size=(units, units)) / 2]


def by_hand(x: Any, h: Any, W: Any) -> list[Any]:
    """The gradient of the sum of all squared states, written with NumPy."""
    states = [h]
    for row in x:
        states.append(np.tanh(states[-1] @ W + row))
    g_x, g_h, g_w = np.zeros_like(x), np.zeros_like(h), np.zeros_like(W)
    for t in range(len(x))[::-1]:
        g = (g_h + 2 * states[t + 1]) * (1 - states[t + 1] ** 2)
        g_x[t], g_w, g_h = g, g_w + states[t].T @ g, g @ W.T
    return [g_x, g_h, g_w]


def test_a_network_keeps_each_state_once() -> None:
    gradient = T.grad(T.sum(hs**2), [X, h, W])
    calls = [network(), network(1, 1, 1), network(40, 33, 17)]
    f = check([X, h, W], gradient, *calls, plain=by_hand)
    (line,) = one_buffer(f, calls[0])
    assert line.startswith("on the way: loop 'net' records tanh (test_states.py")
    assert line.endswith(" and h[t-1], in one buffer")
    assert f.memory(*calls[0])[line] == (7 + 1) * 5 * 6 * 8
    two = compiled([X, h, W], gradient, shared=False)
    args = network(500)
    saved = two.memory(*args)["peak"] - f.memory(*args)["peak"]
    assert saved > (500 - 2) * 5 * 6 * 8


def test_no_step_and_one() -> None:
    check([X, h, W], T.grad(T.sum(hs**2) + T.sum(h), [X, h, W]), network(0), network(1), network(2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_states_with_gates(dtype: str) -> None:
    x, h, c, w = (T.tensor(dtype, shape=(None,) * n, name=v) for v, n in (("x", 3), ("h", 2), ("c", 2), ("w", 2)))

    def step(x: Any, h: Any, c: Any, w: Any) -> Any:
        g = T.dot(h, w) + x
        c = T.sigmoid(g[:, :4]) * c + T.sigmoid(g[:, 4:8]) * T.tanh(g[:, 8:12])
        return [T.sigmoid(g[:, 12:]) * T.tanh(c), c]

    (ys, _), _ = ostinato.scan(step, x, [h, c], w)
    given = [RNG.normal(size=s).astype(dtype) for s in ((9, 3, 16), (3, 4), (3, 4), (4, 16))]
    f, two = (compiled([x, h, c, w], T.grad(T.sum(ys**2), [x, h, c, w]), s) for s in (True, False))
    assert len(one_buffer(f, given)) == 1
    for a, b in zip(f(*given), two(*given), strict=True):
        np.testing.assert_array_equal(a, b)
    cost = ostinato.function([x, h, c, w], T.sum(ys**2), mode="reference")
    if dtype == "float64":
        for k, g in enumerate(f(*given)):
            np.testing.assert_allclose(g, central(cost, given, k), rtol=1e-6, atol=1e-8)


def test_numbers_and_their_lags() -> None:
    """Taps hold what a state was before: further rows in front of the same buffer."""
    e, first, a = T.dvector("e"), T.dvector("first"), T.dvector("a")

    def step(e: Any, y3: Any, y1: Any, a: Any) -> Any:
        return T.tanh(a[0] * y1 + a[1] * y3) + e

    ys, _ = ostinato.scan(step, e, {"initial": first, "taps": [-3, -1]}, a)
    cost = T.sum(ys**2)
    args = [RNG.normal(size=12), RNG.normal(size=3), np.array([0.4, -0.3])]
    f = check([e, first, a], T.grad(cost, [e, first, a]), args, [np.zeros(0), *args[1:]])
    value = ostinato.function([e, first, a], cost, mode="reference")
    for k, g in enumerate(f(*args)):
        np.testing.assert_allclose(g, central(value, args, k), rtol=1e-6, atol=1e-8)
    (line,) = one_buffer(f, args)
    assert f.memory(*args)[line] == (12 + 3) * 8


@pytest.mark.parametrize("size", [2, 30])
def test_lags_of_arrays(size: int) -> None:
    """Of few elements in registers, and of more in memory."""
    e, first, w = T.dmatrix("e"), T.dmatrix("first"), T.tensor("float64", shape=(size, size), name="w")

    def step(e: Any, y2: Any, y1: Any, w: Any) -> Any:
        return T.tanh(T.dot(w, y1) - y2 * y1 + e)

    ys, _ = ostinato.scan(step, e, {"initial": first, "taps": [-2, -1]}, w)
    args = [RNG.normal(size=s) for s in ((9, size), (2, size))] + [RNG.normal(size=(size, size)) / size]
    check([e, first, w], T.grad(T.sum(T.exp(ys)), [e, first, w]), args, [args[0][:1], *args[1:]])


def test_higher_orders() -> None:
    gradient = T.grad(T.sum(hs**2), W)
    check([X, h, W], [T.grad(T.sum(gradient**2), W)], network(), buffers=None)


# ---- in which order, and for whom -----------------------------------------------------------------


x, u = T.dmatrix("x"), T.dvector("u")


def both(step: Callable[..., Any], **options: Any) -> tuple[Any, Any]:
    """The states before and after each step."""

    def recording(x: Any, u: Any) -> Any:
        new = step(x, u)
        return [new, u]

    (after, before), _ = ostinato.scan(recording, x, [u, None], **options)
    return before, after


def states(x: Any, u: Any) -> tuple[Any, Any]:
    """Those of the recurrence u = sin(u) + x."""
    found = [u]
    for row in x:
        found.append(np.sin(found[-1]) + row)
    return np.array(found)[:-1], np.array(found)[1:]


SIZES = [(5, 3), (1, 40), (70, 40), (0, 40), (4, 0)]
ARGUMENTS = [[RNG.normal(size=s), RNG.normal(size=s[1:])] for s in SIZES]


def running(ys: Any, like: Any) -> Any:
    """What a loop makes of rows that it reads one by one."""
    return ostinato.scan(lambda y, a: 0.5 * T.cos(a) + y, ys, T.zeros_like(like))[0]


def np_running(ys: Any, like: Any) -> Any:
    a, found = np.zeros_like(like), np.zeros_like(ys)
    for t, y in enumerate(ys):
        a = found[t] = 0.5 * np.cos(a) + y
    return found


READERS: dict[str, tuple[Callable[..., list[Any]], Callable[..., list[Any]], int]] = {
    "both in the order of steps": (
        lambda b, a, u: [running(b, u), running(a, u)],
        lambda b, a, u: [np_running(b, u), np_running(a, u)],
        1,
    ),
    "both in the other order": (
        lambda b, a, u: [running(b[::-1], u), running(a[::-1], u)],
        lambda b, a, u: [np_running(b[::-1], u), np_running(a[::-1], u)],
        1,
    ),
    "each in another order": (
        lambda b, a, u: [running(b[::-1], u), running(a, u)],
        lambda b, a, u: [np_running(b[::-1], u), np_running(a, u)],
        1,
    ),
    "one in both orders": (
        lambda b, a, u: [running(b[::-1], u), running(b, u), running(a[::-1], u)],
        lambda b, a, u: [np_running(b[::-1], u), np_running(b, u), np_running(a[::-1], u)],
        1,
    ),
    "a product of all rows": (
        lambda b, a, u: [T.dot(b.T, a)],
        lambda b, a, u: [b.T @ a],
        1,
    ),
    "a turned array in vectors": (
        lambda b, a, u: [running(a, u), T.cumsum(T.exp(b[::-1]), axis=0)],
        lambda b, a, u: [np_running(a, u), np.cumsum(np.exp(b[::-1]), axis=0)],
        0,
    ),
    "the states before are a result": (
        lambda b, a, u: [b, running(a, u)],
        lambda b, a, u: [b, np_running(a, u)],
        0,
    ),
    "the states after are a result": (
        lambda b, a, u: [running(b, u), a],
        lambda b, a, u: [np_running(b, u), a],
        0,
    ),
    "results in the other order": (
        lambda b, a, u: [b[::-1], a[::-1]],
        lambda b, a, u: [b[::-1], a[::-1]],
        0,
    ),
    "parts are results": (
        lambda b, a, u: [b[1:], running(a, u), a[::2]],
        lambda b, a, u: [b[1:], np_running(a, u), a[::2]],
        1,
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_readers(name: str) -> None:
    read, by_numpy, buffers = READERS[name]
    before, after = both(lambda x, u: T.sin(u) + x)

    def plain(x: Any, u: Any) -> list[Any]:
        return by_numpy(*states(x, u), u)

    check([x, u], read(before, after, u), *ARGUMENTS, buffers=buffers, tiled=False, plain=plain)


def test_results_belong_to_the_caller() -> None:
    """Results of a call are no part of memory that others have, or that the next call takes."""
    before, after = both(lambda x, u: T.sin(u) + x)
    f = compiled([x, u], [before, after, running(before, u), after[1:]])
    results = f(*ARGUMENTS[2])
    expected = states(*ARGUMENTS[2])
    f(*[a + 1 for a in ARGUMENTS[2]])
    np.testing.assert_allclose(results[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(results[1], expected[1], rtol=1e-12)
    assert all(r.flags.owndata and r.flags.c_contiguous for r in results)
    assert not any(np.shares_memory(a, b) for i, a in enumerate(results) for b in results[:i])


@pytest.mark.parametrize("name", ["both in the order of steps", "both in the other order", "each in another order"])
@pytest.mark.parametrize("lanes", [3, 40, 129])
def test_tiles(name: str, lanes: int) -> None:
    """Time inside: each lane writes its column of the buffer."""
    read, by_numpy, buffers = READERS[name]
    before, after = both(lambda x, u: T.sin(u) + x)
    args = [RNG.normal(size=(6, lanes)), RNG.normal(size=lanes)]

    def plain(x: Any, u: Any) -> list[Any]:
        return by_numpy(*states(x, u), u)

    f = check([x, u], read(before, after, u), args, buffers=buffers, tiled=True, plain=plain)
    assert "in tiles of" in f.explain()


def test_states_before_the_steps_alone_are_written_where_they_stay() -> None:
    """The gradient of a power reads no more; a state is then not copied, nor has it memory of its own."""
    a, k = T.dvector("a"), T.lscalar("k")
    last, _ = ostinato.reduce(lambda _, p, a: p * a, T.arange(k), T.ones_like(a), a)
    calls = [[RNG.normal(size=40), k] for k in (9, 1, 0)]
    f = check([a, k], [T.grad(last.sum(), a)], *calls, buffers=0, tiled=False)
    table = f.memory(np.ones(40), 9)
    forward = {n: b for n, b in table.items() if n.startswith("on the way: loop ") and "gradient" not in n}
    assert [b for n, b in forward.items() if "records" in n] == [(9 + 1) * 40 * 8]
    assert not any("carries" in n for n in forward)


def test_columns_as_lanes_are_left_alone() -> None:
    """A part of the columns of a matrix does not lie in C order, so no state can live there."""
    A, H = T.dmatrix("A"), T.dmatrix("H")
    ys, _ = ostinato.scan(lambda x, H, A: T.tanh(T.dot(A, H) + x), X, H, A)
    args = [RNG.normal(size=(6, 4, 33)), RNG.normal(size=(4, 4)), RNG.normal(size=(4, 33))]
    check([X, A, H], T.grad(T.sum(ys**2), [X, A, H]), args, buffers=0)


# ---- other loops ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 2, 40])
@pytest.mark.parametrize("steps", [0, 1, 63, 64, 65, 127, 128, 129, 300])
def test_until(steps: int, size: int | None) -> None:
    """What grows has room for the last states, whenever it ends."""
    n, k = T.lscalar("n"), T.lscalar("k")
    u = T.dscalar("u") if size is None else T.tensor("float64", shape=(size if size == 2 else None,), name="u")

    def step(i: Any, u: Any, k: Any) -> Any:
        new = T.cos(u) + 0.001 * i
        return [new, u], ostinato.until(T.ge(i + 1, k))

    (after, before), _ = ostinato.scan(step, T.arange(n), [u, None], k)

    def scaled(ys: Any) -> Any:
        return ostinato.scan(lambda y, a: T.sin(a) + y, ys, T.zeros_like(u))[0][-1]

    f, two = (compiled([u, k, n], [scaled(before), scaled(after[::-1])], s) for s in (True, False))
    start = RNG.normal(size=() if size is None else size)
    made = max(steps, 1)
    rows = [start]
    for i in range(made):
        rows.append(np.cos(rows[-1]) + 0.001 * i)

    def plain(ys: Any) -> Any:
        a = np.zeros_like(start)
        for y in ys:
            a = np.sin(a) + y
        return a

    for limit in (made, made + 1000):
        found, expected = f(start, steps, limit), [plain(rows[:-1]), plain(rows[:0:-1])]
        for a, b, c in zip(found, two(start, steps, limit), expected, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_allclose(a, c, rtol=1e-11)
    assert f.compilations == 1
    assert " and 1 more" in f.explain("nest")


def test_until_with_lags_and_its_gradient() -> None:
    e, first, a = T.dvector("e"), T.dvector("first"), T.dscalar("a")

    def step(e: Any, y2: Any, y1: Any, a: Any) -> Any:
        y = T.tanh(a * y1 - y2 * y1) + e
        return y, ostinato.until(T.gt(y, 2.9))

    ys, _ = ostinato.scan(step, e, {"initial": first, "taps": [-2, -1]}, a)
    args = [RNG.uniform(-1, 1, size=200), RNG.normal(size=2), 0.7]
    early = [np.where(np.arange(200) == 70, 9.0, args[0]), *args[1:]]
    check([e, first, a], T.grad(T.sum(T.exp(ys)), [e, first, a]), args, early, buffers=None)


def test_thinned_outputs_are_left_alone() -> None:
    def step(x: Any, u: Any) -> Any:
        return [T.sin(u) + x, u]

    (after, before), _ = ostinato.scan(step, x, [u, None], keep=["all", ostinato.every(3)])
    check([x, u], [running(before, u), running(after, u)], *ARGUMENTS[:4], buffers=0, tiled=False)


def test_states_that_others_change_in_place() -> None:
    """A history of which a step writes a row, and that is recorded before the step, is copied."""
    p = T.dmatrix("p")

    def step(i: Any, p: Any) -> Any:
        return [T.set_subtensor(p[i], T.sin(p[i - 1])), p]

    (after, before), _ = ostinato.scan(step, T.arange(1, p.shape[0]), [p, None])
    reading = [ostinato.scan(lambda y: T.dot(y, y.T).sum(), ys)[0] for ys in (before, after)]
    check([p], reading, [RNG.normal(size=(7, 3))], [RNG.normal(size=(6, 30))], buffers=None)


def test_loops_in_loops() -> None:
    """The buffer of an inner loop serves all steps of the outer one; what the outer one records has its own."""

    def outer(x: Any, u: Any) -> Any:
        ys, _ = ostinato.scan(lambda i, v: T.tanh(v * 0.5 + 0.1 * i), T.arange(4), u)
        return T.grad(T.sum(ys**2), u) + x

    found, _ = ostinato.scan(outer, x, u)
    args = [ARGUMENTS[0], ARGUMENTS[2]]
    check([x, u], [found], *args, buffers=None)
    check([x, u], T.grad(T.sum(T.exp(found)), [x, u]), *args, buffers=None)


def test_blocks_and_budgets() -> None:
    """States made again block by block; the memory that a budget allows is not exceeded."""
    args = network(300, 4, 8)
    for checkpoint in (7, "200kB"):
        ys, _ = ostinato.scan(lambda x, h, W: T.tanh(T.dot(h, W) + x), X, h, W, checkpoint=checkpoint)
        f = check([X, h, W], T.grad(ys[-1].sum(), [X, h, W])[1:], args, buffers=None)
        if checkpoint == "200kB":
            table = f.memory(*args)
            assert table["peak"] - sum(n for name, n in table.items() if name.startswith("result")) < 200_000


@pytest.mark.parametrize("n", [None, 300])
def test_blocks_of_steps_whose_inputs_are_made_before(n: int | None) -> None:
    """`loop_split` writes a state once, too: to one history for all blocks, the lags of the first step in front."""
    u = T.tensor("float64", shape=(n, 50), name="u")
    first, w, v = T.dmatrix("first"), T.dmatrix("w"), T.dmatrix("v")

    def step(u: Any, y3: Any, y1: Any, w: Any, v: Any) -> Any:
        return T.tanh(T.dot(y1, w) + T.dot(u, v) - T.dot(y3, w))

    ys, _ = ostinato.scan(step, u, {"initial": first, "taps": [-3, -1]}, [w, v])
    shapes = ((3, 40), (40, 40), (50, 40))
    calls = [[RNG.normal(size=s) / 9 for s in ((k, 50), *shapes)] for k in (300, 0, 1, 127, 128, 129)]
    gradient = T.grad(T.sum(ys**2), [u, first, w, v])
    f = check([u, first, w, v], gradient, *(calls if n is None else calls[:1]), buffers=None)
    assert "loop_split: of a loop" in f.explain()
    graph = rewrite_for_native(rewrite(Graph((u, first, w, v), tuple(gradient))))
    forward = next(node for node in graph.nodes() if node.op is LOOP)
    assert (
        sum(x.op is UNSET for x in forward.inputs) == 1
    )  # of three outputs: the state, and itself one and three steps ago
    check([u, first, w, v], [ys, *gradient], calls[0], buffers=None)


def test_swapped_states_have_no_order() -> None:
    v, w = T.dvector("v"), T.dvector("w")

    def step(x: Any, v: Any, w: Any) -> Any:
        return [w, v, v, w]

    outputs, _ = ostinato.scan(step, x, [v, w, None, None])
    args = [np.zeros((5, 30)), RNG.normal(size=30), RNG.normal(size=30)]
    check([x, v, w], [running(y + 1.0, v) for y in outputs], args, buffers=None)


def test_a_state_of_another_size_than_its_lag() -> None:
    """Sizes that differ are told as they are by the interpreter."""
    v, w = T.dvector("v"), T.dvector("w")

    def step(x: Any, v: Any, w: Any) -> Any:
        return [T.sin(v) + x, v, v, w]

    (after, _, before, older), _ = ostinato.scan(step, x, [v, w, None, None])
    reading = [running(y, v) for y in (after, before)] + [running(older, w)]
    f = compiled([x, v, w], reading)
    args = [np.ones((3, 30)), np.ones(30), np.ones(30)]
    assert len(one_buffer(f, args)) == 1
    with pytest.raises(OstinatoValueError):
        f(args[0], args[1], np.ones(4))


# ---- programs -------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_random_programs(data: st.DataObject) -> None:
    """Several states, each computed or handed on by another, recorded in any way and read in any order."""
    n_states = data.draw(st.integers(1, 4), "states")
    size = data.draw(st.sampled_from([None, 3, 20]), "size")
    sources = [data.draw(st.integers(-1, n_states - 1), f"source {i}") for i in range(n_states)]
    n_outputs = data.draw(st.integers(1, 5), "outputs")
    picks = [data.draw(st.tuples(st.booleans(), st.integers(0, n_states - 1)), "output") for _ in range(n_outputs)]
    turns = [data.draw(st.sampled_from(["forwards", "backwards", "both", "result"]), "order") for _ in picks]
    rows = data.draw(st.sampled_from([0, 1, 2, 5, 70]), "rows")
    ends = data.draw(st.sampled_from([None, 1, 4, 66]), "until")

    shape = () if size is None else (size,)
    xs = T.tensor("float64", shape=(None,) * (1 + len(shape)), name="xs")
    starts = [T.tensor("float64", shape=(None,) * len(shape), name=f"s{i}") for i in range(n_states)]

    def following(x: Any, old: Sequence[Any], sin: Any) -> list[Any]:
        made = [0.3 * s + 0.5 * sin(old[i - 1]) + x * (i + 1) for i, s in enumerate(old)]
        return [made[i] if k < 0 else old[k] for i, k in enumerate(sources)]

    def step(i: Any, x: Any, *old: Any) -> Any:
        new = following(x, old, T.sin)
        outputs = [*new, *[(new if after else old)[k] for after, k in picks]]
        return outputs if ends is None else (outputs, ostinato.until(T.ge(i + 1, ends)))

    ys, _ = ostinato.scan(step, [T.arange(xs.shape[0]), xs], [*starts, *[None] * n_outputs])
    ys = ys if isinstance(ys, list) else [ys]
    read: list[Any] = []
    for y, turn in zip(ys[n_states:], turns, strict=True):
        read += [y] if turn == "result" else []
        read += [running(y, starts[0])] if turn in ("forwards", "both") else []
        read += [running(y[::-1], starts[0])] if turn in ("backwards", "both") else []

    def plain(x: Any, *old: Any) -> list[Any]:
        found: list[list[Any]] = [[] for _ in picks]
        for row in x[: ends or len(x)]:
            new = following(row, old, np.sin)
            for y, (after, k) in zip(found, picks, strict=True):
                y.append((new if after else old)[k])
            old = tuple(new)
        arrays = [np.array(y).reshape(len(y), *np.shape(old[0])) for y in found]
        expected = []
        for y, turn in zip(arrays, turns, strict=True):
            expected += [y] if turn == "result" else []
            expected += [np_running(y, old[0])] if turn in ("forwards", "both") else []
            expected += [np_running(y[::-1], old[0])] if turn in ("backwards", "both") else []
        return expected

    args = [RNG.normal(size=(rows, *shape)), *[RNG.normal(size=shape) for _ in starts]]
    f, two = (compiled([xs, *starts], read, s) for s in (True, False))
    for a, b, c in zip(f(*args), two(*args), plain(*args), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=1e-10, atol=1e-12)
