"""Derivatives that keep less of the steps, and outputs of which less is kept: the same numbers, in less memory."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ostinato
import ostinato.tensor as T
from numeric import central
from ostinato import at, every
from ostinato.graph import make, rewrite_nodes
from ostinato.memory import available_memory, read_bytes
from ostinato.ops.loop import LOOP, Checkpoint
from test_loops import Program, inputs_of, programs, symbolic, symbolic_cost

MODES = ["reference", "native"]
POLICIES = ["none", 1, 5, 100, "2kB", "20kB"]


@pytest.fixture(autouse=True)
def _verified() -> Any:
    with ostinato.config.change_flags(verify=True):
        yield


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).uniform(-1, 1, shape)


# ---- programs ---------------------------------------------------------------------------------------


def recurrent(checkpoint: Any) -> tuple[list[Any], list[Any], list[np.ndarray]]:
    """A network of three units whose last state counts."""
    x, h, w = T.matrix("x"), T.vector("h"), T.matrix("w")
    last, _ = ostinato.foldl(lambda x_t, h, w: T.tanh(T.dot(h, w) + x_t), x, h, w, checkpoint=checkpoint)
    return [x, h, w], [(last**2).sum()], [rows(17, 3), rows(3), rows(3, 3)]


def all_steps_count(checkpoint: Any) -> tuple[list[Any], list[Any], list[np.ndarray]]:
    """Taps, two states, an output that is not fed back; all steps of all of them are read."""
    x, h, c = T.vector("x"), T.vector("h"), T.scalar("c")

    def step(x0: Any, x1: Any, h2: Any, h1: Any, c: Any) -> list[Any]:
        h = T.sin(h1 * x0 - 0.5 * h2) + c
        return [h, 0.9 * c + x1 * h1, T.exp(h * c)]

    outputs, _ = ostinato.scan(
        step,
        {"input": x, "taps": [0, 1]},
        [{"initial": h, "taps": [-2, -1]}, c, None],
        checkpoint=checkpoint,
    )
    return [x, h, c], [sum((y * y).sum() for y in outputs)], [rows(12), rows(2), np.float64(0.3)]


def until_it_stops(checkpoint: Any) -> tuple[list[Any], list[Any], list[np.ndarray]]:
    """A loop that ends by itself, long before it must."""
    x = T.vector("x")

    def step(a: Any, x: Any) -> Any:
        b = T.cos(a * x)
        return b, ostinato.until(abs(b - a).max() < 1e-3)

    ys, _ = ostinato.scan(step, outputs_info=T.ones_like(x), non_sequences=x, n_steps=10**9, checkpoint=checkpoint)
    return [x], [ys[-1].sum() + (ys**2).sum()], [np.array([0.7, 0.9])]


def nested(checkpoint: Any) -> tuple[list[Any], list[Any], list[np.ndarray]]:
    """Loops in a loop, which counts its steps."""
    x, w = T.matrix("x"), T.scalar("w")

    def outer(row: Any, t: Any, total: Any, w: Any) -> Any:
        inner, _ = ostinato.scan(lambda a, s, w: T.tanh(s * w + a), row, total, w)
        return inner[-1] * (1 + 0.1 * t)

    ys, _ = ostinato.scan(outer, [x, T.arange(x.shape[0])], 0.25 * w, w, go_backwards=True, checkpoint=checkpoint)
    return [x, w], [(ys**2).sum()], [rows(7, 4), np.float64(0.8)]


def integers_too(checkpoint: Any) -> tuple[list[Any], list[Any], list[np.ndarray]]:
    """A counter beside a float, in single precision."""
    x = T.fvector("x")
    (_, ys), _ = ostinato.scan(
        lambda x_t, k, y: [k + 1, T.tanh(y * x_t) + T.cast(k, "float32") / 8],
        x,
        [T.constant(0), T.constant(np.float32(0.5))],
        checkpoint=checkpoint,
    )
    return [x], [T.cast((ys * ys).sum(), "float32")], [rows(9).astype("float32")]


def random(checkpoint: Any) -> tuple[list[Any], list[Any], list[np.ndarray]]:
    """New draws in every step, which are made again with the steps."""
    x = T.vector("x")
    streams = ostinato.RandomStreams(seed=7)
    ys, _ = ostinato.scan(
        lambda h, x: T.tanh(h * x + 0.3 * streams.normal((3,))), outputs_info=x, non_sequences=x, n_steps=13,
        checkpoint=checkpoint,
    )  # fmt: skip
    return [x], [(ys**2).sum()], [rows(3)]


def truncated(checkpoint: Any) -> tuple[list[Any], list[Any], list[np.ndarray]]:
    """Derivatives that go back four steps."""
    x, h = T.vector("x"), T.scalar("h")
    ys, _ = ostinato.scan(lambda x_t, h: T.tanh(h + x_t), x, h, truncate_gradient=4, checkpoint=checkpoint)
    return [x, h], [ys[-1] + (ys**2).sum()], [rows(11), np.float64(0.1)]


PROGRAMS = [recurrent, all_steps_count, until_it_stops, nested, integers_too, random, truncated]


def derivatives(program: Any, checkpoint: Any, mode: str, order: int) -> list[np.ndarray]:
    inputs, (cost,), arrays = program(checkpoint)
    wanted = [cost]
    for _ in range(order):
        gradient = T.grad(cost, inputs)
        wanted += gradient
        cost = sum(T.cast((g * g).sum() + g.sum() / 3, "float64") for g in gradient)
    return ostinato.function(inputs, wanted, mode=mode)(*arrays)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_derivatives_are_those_of_all_steps_kept(program: Any, mode: str) -> None:
    for order in (1, 2):
        whole = derivatives(program, None, mode, order)
        for policy in POLICIES if order == 1 else (2, "20kB"):
            found = derivatives(program, policy, mode, order)
            for a, b in zip(found, whole, strict=True):
                if mode == "reference" or program is not random:
                    np.testing.assert_array_equal(a, b)
                else:  # its states are in registers or in memory, and so a product is fused with a sum or not
                    np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


def gated(checkpoint: Any, dtype: str) -> tuple[list[Any], list[Any]]:
    """A network with a batch, gates, a weight for what comes in and one for the states, and a bias."""
    x, h, c = T.tensor3("x", dtype), T.matrix("h", dtype), T.matrix("c", dtype)
    w, u, b = T.matrix("w", dtype), T.matrix("u", dtype), T.vector("b", dtype)

    def step(x_t: Any, h: Any, c: Any, w: Any, u: Any, b: Any) -> list[Any]:
        gates = T.dot(x_t, u) + T.dot(h, w) + b
        n = h.shape[1]
        c = T.sigmoid(gates[:, :n]) * c + T.sigmoid(gates[:, n : 2 * n]) * T.tanh(gates[:, 2 * n :])
        return [T.tanh(c), c]

    (hs, cs), _ = ostinato.scan(step, x, [h, c], [w, u, b], checkpoint=checkpoint)
    return [x, h, c, w, u, b], [(hs[-1] ** 2).sum() + cs[-1].sum()]


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.integers(1, 40), st.sampled_from(["100kB", "200kB"])),
    st.integers(1, 300),
    st.integers(1, 9),
    st.sampled_from(["float32", "float64"]),
)
def test_native_bits_do_not_depend_on_the_length_of_blocks(policy: Any, steps: int, batch: int, dtype: str) -> None:
    """The sums over steps, too: those of products and those of rows, whose terms come in the order of the steps."""
    arrays = [rows(steps, batch, 6), rows(batch, 4), rows(batch, 4), rows(4, 12), rows(6, 12), rows(12)]
    found = []
    for checkpoint in ("none", policy):
        inputs, (cost,) = gated(checkpoint, dtype)
        f = ostinato.function(inputs, T.grad(cost, inputs), mode="native")
        found.append(f(*[a.astype(dtype) for a in arrays]))
    for whole, parts in zip(*found, strict=True):
        np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize("mode", MODES)
def test_against_differences(mode: str) -> None:
    inputs, (cost,), arrays = all_steps_count(3)
    value = ostinato.function(inputs, cost, mode="reference")
    found = ostinato.function(inputs, T.grad(cost, inputs), mode=mode)(*arrays)
    for i, g in enumerate(found):
        np.testing.assert_allclose(g, central(lambda *a: value(*a), arrays, i), rtol=1e-7, atol=1e-9)


def test_third_order() -> None:
    whole, found = (derivatives(recurrent, c, "reference", 3) for c in (None, 4))
    for a, b in zip(found, whole, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("program", [recurrent, all_steps_count, until_it_stops])
def test_forward_mode(program: Any, mode: str) -> None:
    """A derivative of a derivative in the other mode, both ways."""
    results = []
    for checkpoint in (None, 4):
        inputs, (cost,), arrays = program(checkpoint)
        along = [T.constant(rows(*np.shape(a), seed=1)) for a in arrays]
        gradient = T.grad(cost, inputs)
        wanted = ostinato.jvp(gradient, inputs, along) + T.grad(ostinato.jvp(cost, inputs, along), inputs)
        results.append(ostinato.function(inputs, wanted, mode=mode)(*arrays))
    half = len(results[0]) // 2
    for a, b in zip(results[0], results[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)
    for a, b in zip(results[1][:half], results[1][half:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def with_policy(outputs: list[Any], policy: Checkpoint) -> list[Any]:
    """The same outputs, their loops with a policy."""

    def marked(node: Any) -> Any:
        if node.op is not LOOP:
            return None
        return make(LOOP, node.inputs, (replace(node.params[0], checkpoint=policy),))

    return rewrite_nodes(outputs, marked)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(programs())
def test_random_loops(program: Program) -> None:
    arrays = program.arrays()
    inputs = inputs_of(arrays)
    outputs = symbolic(program, inputs)
    first = T.grad(symbolic_cost(program, outputs), inputs, disconnected_inputs="ignore")
    second = T.grad(sum((g * g).sum() for g in first), inputs, disconnected_inputs="ignore")
    wanted = [*outputs, *first, *second]
    whole, parts = (
        ostinato.function(inputs, o, on_unused_input="ignore", mode="reference")(*arrays)
        for o in (wanted, with_policy(wanted, Checkpoint(every=1 + program.seed % 4)))
    )
    for a, b in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [0, 1, 2, 5, 6, 7, 40])
def test_any_number_of_steps(n: int, mode: str) -> None:
    results = []
    for policy in (None, 1, 3, 6, "2kB"):
        inputs, (cost,), (_, h, w) = recurrent(policy)
        results.append(ostinato.function(inputs, [cost, *T.grad(cost, inputs)], mode=mode)(rows(n, 3), h, w))
    for found in results[1:]:
        for a, b in zip(found, results[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("checkpoint", [0, -3, True, 2.5, "much", "64", "0B", [4]])
def test_what_is_no_policy(checkpoint: Any) -> None:
    with pytest.raises(ValueError, match="checkpoint"):
        ostinato.scan(lambda h: h + 1, outputs_info=T.scalar("h"), n_steps=3, checkpoint=checkpoint)


@pytest.mark.parametrize("mode", MODES)
def test_a_budget_that_is_too_small_says_what_the_least_is(mode: str) -> None:
    def compiled(budget: str) -> Any:
        h, n = T.vector("h"), T.lscalar("n")
        last, _ = ostinato.foldl(lambda _, h: T.tanh(h), T.arange(n), h, checkpoint=budget)
        return ostinato.function([h, n], T.grad(last.sum(), h), mode=mode)

    with pytest.raises(ostinato.MemoryBudgetError, match="too little") as caught:
        compiled("3kB")(rows(10), 2000)
    enough = int(str(caught.value).split("; ")[1].split()[0])
    assert 3000 < enough < 40_000
    assert compiled(f"{enough}B")(rows(10), 2000).shape == (10,)


def test_a_loop_that_goes_on_for_longer_than_its_budget() -> None:
    h = T.scalar("h")
    ys, _ = ostinato.scan(
        lambda h: (T.sin(h), ostinato.until(h < 1e-2)), outputs_info=h, n_steps=10**9, checkpoint="400B", keep="last"
    )
    f = ostinato.function([h], T.grad(ys, h))
    np.testing.assert_allclose(f(0.01), np.cos(0.01) * np.cos(np.sin(0.01)))  # it looks at the value before
    with pytest.raises(ostinato.MemoryBudgetError, match="more steps"):
        f(1.0)


# ---- the memory that is really taken ----------------------------------------------------------------

_CHILD = """
import sys
import numpy as np, ostinato, ostinato.tensor as T
h, w, n = T.vector("h"), T.matrix("w"), T.lscalar("n")
checkpoint = None if sys.argv[1] == "None" else sys.argv[1]
last, _ = ostinato.foldl(lambda _, h, w: T.tanh(T.dot(w, h)), T.arange(n), h, w, checkpoint=checkpoint)
f = ostinato.function([h, w, n], T.grad(last.sum(), [h, w]))
rng = np.random.default_rng(0)
arguments = rng.normal(size=64), rng.normal(size=(64, 64)) / 9
f(*arguments, 100)
def peak():  # unlike that of getrusage, not that of the parent
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
f(*arguments, 60_000)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak as Linux counts it")
def test_the_peak_stays_within_the_budget() -> None:
    peaks = {}
    for checkpoint in ("None", "4MB"):
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, checkpoint],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OSTINATO_MODE": "native"},
        )
        peaks[checkpoint] = int(done.stdout) * 1024
    assert peaks["4MB"] < 4_000_000
    assert peaks["None"] > 50_000_000


def test_by_default_less_is_kept_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, (cost,), (_, h, w) = recurrent(None)
    wanted = [cost, *T.grad(cost, inputs)]
    x = rows(20_000, 3)
    whole = ostinato.function(inputs, wanted, mode="native")
    monkeypatch.setattr("ostinato.backends.llvm.run.available_memory", lambda: 500_000)
    short = ostinato.function(inputs, wanted, mode="native")
    for n in (10, 20_000, 10, 20_000):
        for a, b in zip(short(x[:n], h, w), whole(x[:n], h, w), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)
    assert whole.compilations == 1
    assert short.compilations == 2
    assert "half of the free memory" in short.explain()
    assert "free memory" not in whole.explain()
    with ostinato.config.change_flags(memory_budget="none"):
        assert ostinato.function(inputs, wanted, mode="native")(x, h, w)[0] == whole(x, h, w)[0]


@pytest.mark.parametrize("mode", MODES)
def test_a_budget_for_a_function_is_shared_by_its_loops(mode: str) -> None:
    def build() -> Any:
        inputs, (cost,), (_, h, w) = recurrent(None)
        other, _ = ostinato.foldr(lambda x_t, h: T.sin(h + x_t), inputs[0], inputs[1])
        wanted = T.grad(cost + other.sum(), inputs)
        return ostinato.function(inputs, wanted, mode=mode), [rows(300, 3), h, w]

    f, arguments = build()
    with ostinato.config.change_flags(memory_budget="6kB"):
        g, _ = build()
    for a, b in zip(g(*arguments), f(*arguments), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)
    with ostinato.config.change_flags(memory_budget="1kB"):
        g, _ = build()
    with pytest.raises(ostinato.MemoryBudgetError, match="too little"):
        g(*arguments)
    with pytest.raises(ValueError, match="memory_budget"), ostinato.config.change_flags(memory_budget="little"):
        pass


def test_numbers_of_bytes(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"64MB": 64_000_000, "2GiB": 2**31, " 1.5 kb ": 1500, "10B": 10, "1TiB": 2**40}
    assert {text: read_bytes(text, "it") for text in sizes} == sizes
    found = available_memory()
    assert found is None or found > 0
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    monkeypatch.setattr("ostinato.memory._CGROUP", tmp_path)
    assert available_memory() == 600
    monkeypatch.setattr("ostinato.memory._MEMINFO", tmp_path / "nothing")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() is None or available_memory() > 600


# ---- keep -------------------------------------------------------------------------------------------


def kept(keep: Any, checkpoint: Any = None) -> tuple[list[Any], list[Any]]:
    x, h = T.matrix("x"), T.vector("h")

    def step(x_t: Any, h: Any) -> list[Any]:
        y = T.tanh(h + x_t)
        return [y, (y * y).sum(), T.exp(y)]

    outputs, _ = ostinato.scan(step, x, [h, None, None], keep=keep, checkpoint=checkpoint)
    return [x, h], outputs


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("checkpoint", [None, 3])
@pytest.mark.parametrize("n", [11, 12, 30])
def test_what_is_kept_is_what_would_be_taken_of_all(n: int, checkpoint: Any, mode: str) -> None:
    i = T.lvector("i")
    pairs = []
    for keep, taken in (
        (every(3), lambda y: y[::3]),
        (every(T.constant(40)), lambda y: y[::40]),
        (at([0, 4, 5, 10]), lambda y: y[[0, 4, 5, 10]]),
        (at(i), lambda y: y[i]),
        ("last", lambda y: y[-1]),
        ([at([7]), "all", every(5)], None),
    ):
        inputs, found = kept(keep, checkpoint)
        inputs_, whole = kept(None)
        whole = [whole[0][[7]], whole[1], whole[2][::5]] if taken is None else [taken(y) for y in whole]
        for inputs__, ys in ((inputs, found), (inputs_, whole)):
            cost = sum((y**2).sum() + y.sum() for y in ys)
            first = T.grad(cost, inputs__)
            second = T.grad(sum((g**2).sum() for g in first), inputs__)
            f = ostinato.function([*inputs__, i], [*ys, *first, *second], mode=mode, on_unused_input="ignore")
            pairs.append(f(rows(n, 3), rows(3), [1, 9]))
        for a, b in zip(pairs[-2], pairs[-1], strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_every_k_th_step_of_a_loop_that_ends_by_itself(mode: str) -> None:
    x, k = T.scalar("x"), T.lscalar("k")

    def build(keep: Any) -> Any:
        ys, _ = ostinato.scan(lambda a: (0.9 * a, ostinato.until(a < 1)), outputs_info=x, n_steps=10**9, keep=keep)
        return ys

    f = ostinato.function([x, k], [build(every(k)), build(None), T.grad(build(every(k)).sum(), x)], mode=mode)
    for size in (1.0, 50.0, 1e9):
        for step in (1, 2, 7, 1000):
            few, whole, g = f(size, step)
            np.testing.assert_array_equal(few, whole[::step])
            np.testing.assert_allclose(g, (0.9 ** np.arange(1, len(whole) + 1))[::step].sum(), rtol=1e-12)
    with pytest.raises(ValueError, match="at least 1"):
        f(1.0, 0)


@pytest.mark.parametrize("mode", MODES)
def test_tangents_of_what_is_kept(mode: str) -> None:
    tangents = []
    for keep, of in ((every(3), lambda y: y[::3]), (at([1, 4]), lambda y: y[[1, 4]])):
        for k, take in ((keep, lambda y: y), (None, of)):
            inputs, outputs = kept(k)
            found = ostinato.jvp([take(y) for y in outputs], inputs, [T.ones_like(i) for i in inputs])
            tangents.append(ostinato.function(inputs, found, mode=mode)(rows(8, 3), rows(3)))
        for a, b in zip(*tangents[-2:], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_steps_that_were_not_made(mode: str) -> None:
    i = T.lvector("i")
    inputs, (_, s, _) = kept(at(i))
    f = ostinato.function([*inputs, i], s, mode=mode)
    for wrong in ([0, 11], [3, 3], [5, 2], [-1]):
        with pytest.raises(IndexError, match="ascending order"):
            f(rows(11, 3), rows(3), wrong)
    assert f(rows(11, 3), rows(3), np.zeros(0, int)).shape == (0,)
    assert f(rows(0, 3), rows(3), np.zeros(0, int)).shape == (0,)


@pytest.mark.parametrize("keep", ["first", 3, [None], [None] * 4, ["all", "last", 3.0]])
def test_what_cannot_be_kept(keep: Any) -> None:
    with pytest.raises(ValueError, match="keep"):
        kept(keep)


def test_arguments_of_every_and_at() -> None:
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            every(wrong)
    for indices in ([3, 1], [-1], [2, 2]):
        with pytest.raises(ValueError, match="ascending"):
            at(indices)
    for indices in ([0.5], [[1]], 3):
        with pytest.raises(TypeError, match="vector of integers"):
            at(indices)


# ---- Theano's scan_checkpoints ----------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 4, 5, 12, 13])
def test_scan_checkpoints(n: int) -> None:
    x, h, w = T.matrix("x"), T.vector("h"), T.matrix("w")

    def step(x_t: Any, h: Any, w: Any) -> Any:
        return T.tanh(T.dot(h, w) + x_t)

    few, _ = ostinato.scan_checkpoints(step, x, [h], [w], save_every_N=4)
    whole, _ = ostinato.scan(step, x, [h], [w])
    f = ostinato.function(
        [x, h, w], [few, whole, *T.grad(few[-1].sum(), [x, h, w]), *T.grad(whole[-1].sum(), [x, h, w])]
    )
    few_, whole_, *gradients = f(rows(n, 3), rows(3), rows(3, 3))
    ends = np.minimum(np.arange(4, n + 4, 4), n) - 1
    np.testing.assert_array_equal(few_, whole_[ends])
    for a, b in zip(gradients[:3], gradients[3:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)
    with pytest.raises(ValueError, match="save_every_N"):
        ostinato.scan_checkpoints(step, x, [h], [w], save_every_N=0)
