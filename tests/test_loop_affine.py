"""Recurrences whose steps can be composed, in chunks side by side: against NumPy, SciPy and the sequential form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

import affine as affine_benchmark
import ostinato
import ostinato.tensor as T
from numeric import central
from ostinato.errors import OstinatoValueError
from ostinato.graph import Graph
from ostinato.ops.loop import Parallel
from ostinato.rewrite import loop_affine as loop_affine_module
from ostinato.rewrite.loop_affine import loop_affine
from ostinato.rewrite.loop_prune import loop_prune
from ostinato.rewrite.pipeline import rewrite
from ostinato.verify import verify

RNG = np.random.default_rng(11)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Blocks of 16 or 32 steps, so that few steps make several; code made for them is not kept."""
    monkeypatch.setattr(loop_affine_module, "_STEPS", 4)
    monkeypatch.setattr(loop_affine_module, "_ELEMENTS", 8)
    with ostinato.config.change_flags(cache=False):
        yield


LENGTHS = (0, 1, 15, 16, 33, 63, 64, 200)
# A program: from whether it is parallel to inputs and results.
Program = Callable[[Parallel], tuple[list[Any], list[Any]]]


def native(inputs: list[Any], results: Any) -> Any:
    return ostinato.function(inputs, results, mode="native")


def n_chunked(run: Any) -> int:
    return sum("side by side." in n and "runs as" in n for n in run.notes)


def check(program: Program, arrays: Callable[[int], list[Any]], loops: int = 1, rtol: float = 1e-9) -> None:
    """In chunks as step by step by the interpreter, for all lengths; so many loops are in chunks."""
    run = native(*program(True))
    assert n_chunked(run) == loops, run.notes
    reference = ostinato.function(*program(False), mode="reference")
    for n in LENGTHS:
        given = arrays(n)
        for a, b in zip(run(*given), reference(*given), strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol, 1e-11)


# ---- known recurrences ----------------------------------------------------------------------------


@pytest.mark.parametrize("n", LENGTHS)
def test_moving_averages_are_filters(n: int) -> None:
    x, a, h = T.dvector("x"), T.dscalar("a"), T.dscalar("h")
    y, _ = ostinato.scan(lambda x, h, a: h + a * (x - h), x, h, a, parallel=True, name="ewma")
    run, v = native([x, h, a], y), RNG.normal(size=n)
    expected = lfilter([0.1], [1, -0.9], v, zi=[0.9 * 0.3])[0] if n else v
    np.testing.assert_allclose(run(v, 0.3, 0.1), expected, 1e-12, 1e-14)
    assert run.notes == ["loop_affine: loop 'ewma' is affine in its state: runs as 8 chunks of 4 steps side by side."]


@pytest.mark.parametrize("order", [2, 3])
def test_autoregressions_are_filters(order: int) -> None:
    x, start = T.dvector("x"), T.dvector("start")
    a = RNG.normal(size=order) / (2 * order)

    def step(x: Any, *past: Any) -> Any:
        return x + sum(float(c) * p for c, p in zip(a, past, strict=True))

    info = {"initial": start, "taps": list(range(-1, -order - 1, -1))}
    y, _ = ostinato.scan(step, x, info, parallel=True)
    run = native([x, start], y)
    assert n_chunked(run) == 1
    for n in LENGTHS:
        v = RNG.normal(size=n)
        np.testing.assert_allclose(run(v, np.zeros(order)), lfilter([1], [1, *-a], v) if n else v, 1e-11, 1e-13)


RUNNING: dict[str, tuple[Any, Any]] = {
    "add": (lambda x, h: h + x, np.add.accumulate),
    "mul": (lambda x, h: x * h, np.multiply.accumulate),
    "maximum": (T.maximum, np.maximum.accumulate),
    "minimum": (lambda x, h: T.minimum(T.minimum(h, x), x), np.minimum.accumulate),
    "logaddexp": (T.logaddexp, np.logaddexp.accumulate),
    "greater": (lambda x, h: T.where(x > h, x, h), np.maximum.accumulate),
    "not greater": (lambda x, h: T.where(h <= x, h, x), np.minimum.accumulate),
}


@pytest.mark.parametrize("kind", RUNNING)
@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_running_values(kind: str, dtype: str) -> None:
    if (kind, dtype) == ("logaddexp", "int64"):
        return
    step, expected = RUNNING[kind]
    x = T.vector("x", dtype=dtype)
    y, _ = ostinato.scan(lambda x, h: T.cast(step(x, h), dtype), x[1:], x[0], parallel=True)
    run = native([x], y)
    assert n_chunked(run) == 1
    for n in (1, 64, 501):
        v = RNG.uniform(-1.5, 1.5, size=n) if dtype != "int64" else RNG.integers(-50, 50, size=n)
        v = v.astype(dtype)
        with np.errstate(under="ignore"):
            np.testing.assert_allclose(run(v), expected(v)[1:], 1e-4 if dtype == "float32" else 1e-12, 1e-5)


@pytest.mark.parametrize("kind", ["and_", "or_", "xor"])
@pytest.mark.parametrize("dtype", ["bool", "int32", "uint8"])
def test_running_bits(kind: str, dtype: str) -> None:
    x = T.vector("x", dtype=dtype)
    y, _ = ostinato.scan(getattr(T, kind), x[1:], x[0], parallel=True)
    v = RNG.integers(0, 2 if dtype == "bool" else 100, size=300).astype(dtype)
    ufunc = {"and_": np.bitwise_and, "or_": np.bitwise_or, "xor": np.bitwise_xor}[kind]
    run = native([x], y)
    assert n_chunked(run) == 1
    np.testing.assert_array_equal(run(v), ufunc.accumulate(v)[1:])


def test_extremes_of_shifted_values() -> None:
    """Maximum and addition, as in the best score of an alignment; logaddexp and addition, as in a hidden chain."""
    x, a, h = T.dvector("x"), T.dvector("a"), T.dscalar("h")
    for name, ufunc in (("maximum", np.maximum), ("logaddexp", np.logaddexp), ("minimum", np.minimum)):
        y, _ = ostinato.scan(lambda x, a, h, name=name: getattr(T, name)(x, h + a) - 0.5, [x, a], h, parallel=True)
        run = native([x, a, h], y)
        assert n_chunked(run) == 1
        v, w = RNG.normal(size=(2, 300))
        state, expected = 0.7, []
        for p, q in zip(v, w, strict=True):
            state = ufunc(p, state + q) - 0.5
            expected.append(state)
        np.testing.assert_allclose(run(v, w, 0.7), expected, 1e-11)


@pytest.mark.parametrize("comparison", ["gt", "ge"])
def test_running_argmax(comparison: str) -> None:
    x, best, at = T.dvector("x"), T.dscalar("best"), T.lscalar("at")

    def step(x: Any, t: Any, best: Any, at: Any) -> Any:
        better = getattr(T, comparison)(x, best)
        return T.where(better, x, best), T.where(better, t, at)

    results, _ = ostinato.scan(step, [x, T.arange(x.shape[0])], [best, at], parallel=True)
    run = native([x, best, at], results)
    assert n_chunked(run) == 1
    for n in LENGTHS:
        v = RNG.integers(-20, 20, size=n).astype(float)
        v[n // 2 :] = np.where(RNG.uniform(size=n - n // 2) < 0.1, np.nan, v[n // 2 :])
        m, k, expected = -3.0, -1, []
        for t, value in enumerate(v):
            if value > m or (comparison == "ge" and value == m):
                m, k = value, t
            expected.append((m, k))
        values, places = run(v, -3.0, -1)
        np.testing.assert_array_equal(values, [m for m, _ in expected])
        np.testing.assert_array_equal(places, [k for _, k in expected])


def test_nan_and_infinities_in_extremes() -> None:
    x = T.dvector("x")
    for name in ("maximum", "minimum", "logaddexp"):
        y, _ = ostinato.scan(getattr(T, name), x, T.constant(-1.0), parallel=True)
        run, ufunc = native([x], y), getattr(np, name)
        for special in (np.nan, np.inf, -np.inf):
            for place in (0, 40, 299):
                v = RNG.normal(size=300)
                v[place] = special
                with np.errstate(invalid="ignore"):
                    expected = ufunc.accumulate(np.concatenate([[-1.0], v]))[1:]
                np.testing.assert_allclose(run(v), expected, 1e-12)


def test_nan_and_infinities_in_sums_and_what_is_forgotten() -> None:
    x, h = T.dvector("x"), T.dscalar("h")
    steps: list[tuple[Any, Any]] = [
        (lambda x, h: h + x, lambda x, h: h + x),
        (lambda x, h: 0.5 * h - x, lambda x, h: 0.5 * h - x),
        (lambda x, h: T.where(x > 1, x, 0.5 * h + x), lambda x, h: x if x > 1 else 0.5 * h + x),
        (lambda x, h: T.where(x > 1, x, h), lambda x, h: x if x > 1 else h),
    ]
    for step, plain in steps:
        y, _ = ostinato.scan(step, x, h, parallel=True)
        run = native([x, h], [y, *T.grad(T.sum(y), [x])])
        assert n_chunked(run) == 2
        for special in (np.nan, np.inf, -np.inf):
            for place in (0, 40, 199):
                v = RNG.normal(size=200)
                v[place] = special
                state, expected = special if place == 0 else 0.3, []
                start = state
                with np.errstate(invalid="ignore"):
                    for value in v:
                        state = plain(value, np.float64(state))
                        expected.append(state)
                np.testing.assert_allclose(run(v, start)[0], expected, 1e-12)


def test_states_that_no_sequence_enters() -> None:
    """Chunks of which nothing that they are given says how many there are."""
    count, n = T.lscalar("count"), T.lscalar("n")
    (c, rows), _ = ostinato.scan(lambda c: (c + 2, T.arange(3) + c), None, [count, None], n_steps=n, parallel=True)
    run = native([count, n], [c, rows])
    assert n_chunked(run) == 1
    for steps in (0, 5, 77):
        first, second = run(6, steps)
        np.testing.assert_array_equal(first, 8 + 2 * np.arange(steps))
        np.testing.assert_array_equal(second, 6 + 2 * np.arange(steps)[:, None] + np.arange(3))


def test_integers_wrap_as_step_by_step() -> None:
    x = T.vector("x", dtype="int16")
    y, _ = ostinato.scan(lambda x, h: T.cast(3 * h + x, "int16"), x, T.constant(7, dtype="int16"), parallel=True)
    v = RNG.integers(-99, 99, size=333).astype("int16")
    sequential, _ = ostinato.scan(lambda x, h: T.cast(3 * h + x, "int16"), x, T.constant(7, dtype="int16"))
    np.testing.assert_array_equal(native([x], y)(v), ostinato.function([x], sequential, mode="reference")(v))


# ---- forms in which affine recurrences are written ------------------------------------------------


def gated(parallel: Parallel) -> tuple[list[Any], list[Any]]:
    x, z, h = T.dmatrix("x"), T.dmatrix("z"), T.dvector("h")
    y, _ = ostinato.scan(lambda x, z, h: (1 - T.sigmoid(z)) * h + T.sigmoid(z) * x, [x, z], h, parallel=parallel)
    return [x, z, h], [y, y[-1:]]


def resetting(parallel: Parallel) -> tuple[list[Any], list[Any]]:
    x, h = T.dmatrix("x"), T.dvector("h")
    y, _ = ostinato.scan(lambda x, h: T.where(x > 1, x, -(h / 2 - x)), x, h, parallel=parallel)
    return [x, h], [y]


def coupled(parallel: Parallel) -> tuple[list[Any], list[Any]]:
    """A rotation that loses speed, and what depends on it."""
    x, h, v = T.dmatrix("x"), T.dvector("h"), T.dvector("v")

    def step(x: Any, h: Any, v: Any, total: Any) -> Any:
        h = h + 0.1 * v
        return h, 0.9 * v - 0.2 * h + x, total + T.exp(-h * h), T.sin(h) * total

    results, _ = ostinato.scan(step, x, [h, v, T.zeros_like(h), None], parallel=parallel)
    return [x, h, v], results


def matrices(parallel: Parallel) -> tuple[list[Any], list[Any]]:
    A, b, h = T.dtensor3("A"), T.dmatrix("b"), T.dvector("h")
    y, _ = ostinato.scan(lambda A, b, h: h + 0.1 * (T.dot(A, h) - b * h) + b, [A, b], h, parallel=parallel)
    return [A, b, h], [y]


def row_vectors(parallel: Parallel) -> tuple[list[Any], list[Any]]:
    A, b, h = T.dtensor3("A"), T.dmatrix("b"), T.dvector("h")
    y, _ = ostinato.scan(lambda A, b, h: T.dot(h, A) - b, [A, b], h, parallel=parallel)
    return [A, b, h], [y]


def vectors(parallel: Parallel) -> tuple[list[Any], list[Any]]:
    """Two taps as a vector of two elements, and sums of products written out."""
    x, A, h = T.dvector("x"), T.tensor("float64", (None, 2, 2), "A"), T.tensor("float64", (2,), "h")
    taps, _ = ostinato.scan(lambda x, h: T.stack([0.5 * h[0] - h[1] / 3 + x, h[0]]), x, h, parallel=parallel)
    y, _ = ostinato.scan(lambda A, x, h: T.sum(A * h, axis=1) / 2 + h[::-1] * x / 4, [A, x], h, parallel=parallel)
    return [x, A, h], [taps, y, T.dot(y, h)]


def products(parallel: Parallel) -> tuple[list[Any], list[Any]]:
    A, b, h = T.dtensor3("A"), T.dmatrix("b"), T.dvector("h")
    S, _ = ostinato.scan(lambda A, S: T.dot(A, S) / 2, A, T.eye(3), parallel=parallel)
    R, _ = ostinato.scan(lambda A, R, W: T.dot(T.dot(R, W), A) + A, A, T.eye(3), T.outer(h, h), parallel=parallel)
    return [A, b, h], [S, R, b]


def of_rows(n: int) -> list[Any]:
    return [RNG.normal(size=(n, 3)), RNG.normal(size=3), RNG.normal(size=3)]


def of_matrices(n: int) -> list[Any]:
    return [RNG.normal(size=(n, 3, 3)) / 3, RNG.normal(size=(n, 3)), RNG.normal(size=3) / 2]


def test_gates() -> None:
    check(gated, lambda n: [RNG.normal(size=(n, 3)), RNG.normal(size=(n, 3)), RNG.normal(size=3)])


def test_resets() -> None:
    check(resetting, lambda n: of_rows(n)[:2])


def test_coupled_states_and_others_that_read_them() -> None:
    check(coupled, of_rows)


@pytest.mark.parametrize("program", [matrices, row_vectors])
def test_matrices(program: Program) -> None:
    check(program, of_matrices)


def test_vectors_of_a_few_elements() -> None:
    check(vectors, lambda n: [RNG.normal(size=n), RNG.normal(size=(n, 2, 2)) / 2, RNG.normal(size=2)])


def test_small_matrices_are_written_out() -> None:
    """Elements of matrices of a known size are lanes; of other sizes, products of matrices do the same."""
    A, b, h = T.tensor("float64", (None, 3, 3), "A"), T.dmatrix("b"), T.tensor("float64", (3,), "h")
    y, _ = ostinato.scan(lambda A, b, h: T.dot(A, h) + b, [A, b], h, parallel=True)
    run = native([A, b, h], [y, *T.grad(T.sum(T.sin(y)), [A, b, h])])
    assert n_chunked(run) == 2
    for n in (5, 90):
        arrays = of_matrices(n)
        state, expected = arrays[2], []
        for p, q in zip(*arrays[:2], strict=True):
            state = p @ state + q
            expected.append(state)
        np.testing.assert_allclose(run(*arrays)[0], expected, 1e-11, 1e-13)


@pytest.mark.parametrize("fold", [ostinato.foldl, ostinato.foldr, ostinato.reduce])
def test_folds(fold: Any) -> None:
    x, h = T.dvector("x"), T.dscalar("h")
    last = fold(lambda x, h: x - 0.5 * h, x, h, parallel=True)[0]
    run = native([x, h], last)
    assert n_chunked(run) == 1
    v = RNG.normal(size=100)
    state = 0.2
    for value in v[::-1] if fold is ostinato.foldr else v:
        state = value - 0.5 * state
    np.testing.assert_allclose(run(v, 0.2), state, 1e-12)


def test_products_of_matrices() -> None:
    check(products, of_matrices)


def test_what_is_recorded_besides() -> None:
    """Outputs at some steps only, the last state, the number of the step, sequences read from the end."""

    def program(parallel: Parallel) -> tuple[list[Any], list[Any]]:
        x, h = T.dvector("x"), T.dscalar("h")
        step = lambda x, t, h: (0.5 * h + x * t, T.exp(-h) + t, h * x)  # noqa: E731
        keep = ["last", ostinato.every(7), "all"]
        reads = [x, T.arange(2000)]
        kept, _ = ostinato.scan(step, reads, [h, None, None], go_backwards=True, keep=keep, parallel=parallel)
        return [x, h], kept

    check(program, lambda n: [RNG.normal(size=n), 0.3])


def test_operations_without_a_form_for_chunks_are_made_step_by_step() -> None:
    """The Cholesky factor of what depends on a state, and reading a table at a place that depends on the step."""

    def program(parallel: Parallel) -> tuple[list[Any], list[Any]]:
        x, h = T.dvector("x"), T.dscalar("h")
        eye = T.eye(2)

        def step(x: Any, h: Any) -> Any:
            return 0.5 * h + x, T.linalg.cholesky(eye * (1 + h * h))[0, 0], h * 2

        y, _ = ostinato.scan(step, x, [h, None, None], parallel=parallel)
        return [x, h], y

    check(program, lambda n: [RNG.normal(size=n), 0.3])


# ---- derivatives ----------------------------------------------------------------------------------


def _derivatives(parallel: Parallel, truncate: int = -1, checkpoint: Any = None) -> tuple[list[Any], list[Any]]:
    x, a, h = T.dvector("x"), T.dscalar("a"), T.dscalar("h")

    def step(x: Any, h: Any, a: Any) -> Any:
        return h + T.sigmoid(a) * (x - h)

    y, _ = ostinato.scan(
        step, x, h, a, truncate_gradient=truncate, checkpoint=checkpoint, parallel=parallel, name="ewma"
    )
    cost = T.sum(T.sin(y))
    first = T.grad(cost, [a, h, x])
    second = T.grad(T.sum(first[0] ** 2), [a, h])
    return [x, a, h], [cost, *first, *second, T.Rop(y, a, T.constant(1.5))]


def test_derivatives_are_in_chunks_too() -> None:
    check(lambda p: _derivatives(p), lambda n: [RNG.normal(size=n), 0.3, -0.2], loops=3, rtol=1e-8)
    run = native(*_derivatives(True))
    arrays = [RNG.normal(size=130), np.float64(0.3), np.float64(-0.2)]
    found = run(*arrays)
    value = lambda *args: run(*args)[0]  # noqa: E731
    for k, g in ((1, found[1]), (2, found[2]), (0, found[3])):
        np.testing.assert_allclose(g, central(value, arrays, k), 1e-5, 1e-7)
    squared = lambda *args: run(*args)[1] ** 2  # noqa: E731
    for k, g in ((1, found[4]), (2, found[5])):
        np.testing.assert_allclose(g, central(squared, arrays, k), 1e-5, 1e-7)


def test_truncated_derivatives_and_checkpoints() -> None:
    arrays = [RNG.normal(size=400), 0.3, -0.2]
    for extra in ({"truncate": 150}, {"checkpoint": 90}):
        results = [ostinato.function(*_derivatives(p, **extra), mode=m)(*arrays) for p, m in _BOTH]
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, 1e-9, 1e-12)


_BOTH: tuple[tuple[Parallel, str], ...] = ((True, "native"), (False, "reference"))


@pytest.mark.parametrize("program", [gated, coupled, matrices, products])
def test_derivatives_of_all_forms(program: Program) -> None:
    given = {gated: [RNG.normal(size=(150, 3)), RNG.normal(size=(150, 3)), RNG.normal(size=3)], coupled: of_rows(150)}
    arrays = given.get(program) or of_matrices(150)
    results = []
    for parallel, mode in _BOTH:
        inputs, outputs = program(parallel)
        gradients = T.grad(sum(T.sum(T.cos(y)) for y in outputs), inputs)
        results.append(ostinato.function(inputs, gradients, mode=mode)(*arrays))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, 1e-9, 1e-11)


@pytest.mark.parametrize("kind", ["maximum", "logaddexp", "greater"])
def test_derivatives_of_extremes(kind: str) -> None:
    x, h = T.dvector("x"), T.dscalar("h")
    y, _ = ostinato.scan(RUNNING[kind][0], x, h, parallel=True)
    cost = T.sum(y * T.cos(T.arange(y.shape[0])))
    run = native([x, h], [cost, *T.grad(cost, [x, h])])
    assert n_chunked(run) == 2
    arrays = [RNG.normal(size=140) + np.linspace(0, 3, 140), np.float64(0.1)]
    _, *gradients = run(*arrays)
    for k, g in enumerate(gradients):
        np.testing.assert_allclose(g, central(lambda *a: run(*a)[0], arrays, k), 1e-5, 1e-7)


# ---- random affine bodies -------------------------------------------------------------------------


def _random_program(seed: int, states: int, lanes: bool, by_matrix: bool) -> Program:
    def program(parallel: Parallel) -> tuple[list[Any], list[Any]]:
        rng = np.random.default_rng(seed)
        x = (T.dmatrix if lanes or by_matrix else T.dvector)("x")
        inits = [x[0] * 0 + float(rng.normal()) for _ in range(states)]

        def step(x: Any, *h: Any) -> Any:
            out = []
            for _ in range(states):
                value: Any = T.sin(x * float(rng.normal()))
                for j in rng.choice(states, size=rng.integers(1, states + 1), replace=False):
                    factor = [0.3, T.sigmoid(x) / 2, T.where(x > 0.5, 0.0, 0.4)][rng.integers(3)]
                    value = [value + factor * h[j], value - h[j] / 3, h[j] * factor + value][rng.integers(3)]
                out.append(T.where(x < -1.5, x, value) if rng.uniform() < 0.3 else value)
            if by_matrix:
                W = T.constant(rng.normal(size=(3, 3)) / 3)
                return T.dot(W * T.cos(x), h[0]) * 0.9 + T.dot(h[0], W) * x[0] / 9 + x - h[0] * x
            return [*out, T.tanh(out[0])]

        infos = inits[:1] if by_matrix else [*inits, None]
        y, _ = ostinato.scan(step, x, infos, parallel=parallel, return_list=True)
        return [x], [*y, *T.grad(sum(T.sum(v * v) for v in y), [x])]

    return program


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    states=st.integers(1, 3),
    kind=st.sampled_from(["scalars", "lanes", "matrix"]),
    lengths=st.lists(st.integers(1, 200), min_size=2, max_size=4),
)
def test_random_affine_bodies(seed: int, states: int, kind: str, lengths: list[int]) -> None:
    program = _random_program(seed, 1 if kind == "matrix" else states, kind == "lanes", kind == "matrix")
    run = native(*program(True))
    assert n_chunked(run) >= 1
    reference = ostinato.function(*program(False), mode="reference")
    for n in lengths:
        v = np.random.default_rng(seed + n).normal(size=n if kind == "scalars" else (n, 3))
        for a, b in zip(run(v), reference(v), strict=True):
            np.testing.assert_allclose(a, b, 1e-8, 1e-10)


# ---- what is said ---------------------------------------------------------------------------------


def test_what_is_left_alone_and_told() -> None:
    x, h = T.dvector("x"), T.dscalar("h")
    y, _ = ostinato.scan(lambda x, h: 0.5 * h + x, x, h, name="ewma")
    told = native([x, h], y).explain()
    assert "loop 'ewma' stays sequential; its steps can be composed (affine in its state): with scan(" in told
    for step, parallel in ((lambda x, h: T.tanh(h + x), "auto"), (lambda x, h: 0.5 * h + x, False)):
        y, _ = ostinato.scan(step, x, h, parallel=parallel)
        assert not native([x, h], y).notes


def test_states_that_cannot_be_composed_are_refused() -> None:
    x, h = T.dvector("x"), T.dscalar("h")
    with pytest.raises(OstinatoValueError, match=r"the state h\[t-1\] enters through tanh.*test_loop_affine.py:\d+\)"):
        ostinato.scan(lambda x, h: T.tanh(0.5 * h + x), x, h, parallel=True)
    with pytest.raises(OstinatoValueError, match=r"parallel=True needs states .* h\[t-1\] enters through .h.t-1. \* h"):
        ostinato.scan(lambda x, h: h * h + x, x, h, parallel=True)
    with pytest.raises(OstinatoValueError, match=r"with parallel=True .*until\(\.\.\.\) decides after each step"):
        ostinato.scan(lambda x, h: (h + x, ostinato.until(h > 1)), x, h, parallel=True)
    with pytest.raises(OstinatoValueError, match="parallel is True, False or \"auto\", not 'fast'"):
        ostinato.scan(lambda x, h: h + x, x, h, parallel="fast")


BLOCKS = """\
graph(x: float64[?], h: float64):
  %0 = size[axis=0] x : int64
  %1 = maximum %0 0 : int64
  %2 = floor_div %1 32 : int64
  %3 = mul %2 32 : int64
  %4 = subtensor[pattern=((False, True, False),)] x %3 : float64[?]
  %5 = reshape %4 %2 32 : float64[?, 32]
  %6 = broadcast_to 0. 8 : float64[8]
  %7 = loop[1 sequences, 1 carries] %2 %5 h %6 : (float64, float64[?, 32], int64)  # half
    body(block: int64, p1: float64[32], h[t-1]: float64, p3: float64[8]):
      %0 = reshape p1 8 4 : float64[8, 4]
      %1 = dimshuffle[order=(1, 0)] %0 : float64[4, 8]
      %2 = reshape %1 32 : float64[32]
      %3 = reshape %2 4 8 : float64[4, 8]
      %4 = loop[1 sequences, 2 carries] 4 %3 1. p3 : (float64, float64[8], int64)  # half
        body(t: int64, p1: float64[8], p2: float64, p3: float64[8]):
          %0 = mul 0.5 p2 : float64
          %1 = mul 0.5 p3 : float64[8]
          %2 = add %1 p1 : float64[8]
          return %0, %2
      %5 = item[index=1] %4 : float64[8]
      %6 = item[index=0] %4 : float64
      %7 = loop[1 sequences, 1 carries] 8 %5 h[t-1] %6 : (float64, float64[8], int64)  # half
        body(t: int64, p1: float64, h[t-1]: float64, p3: float64):
          %0 = mul p3 h[t-1] : float64
          %1 = add %0 p1 : float64
          return %1, h[t-1]
      %8 = item[index=0] %7 : float64
      %9 = item[index=1] %7 : float64[8]
      %10 = loop[1 sequences, 1 carries] 4 %3 %9 : (float64[8], float64[4, 8], int64)  # half
        body(t: int64, p1: float64[8], h[t-1]: float64[8]):
          %0 = mul 0.5 h[t-1] : float64[8]
          %1 = add %0 p1 : float64[8]
          return %1, %1
      %11 = item[index=1] %10 : float64[4, 8]
      %12 = dimshuffle[order=(1, 0)] %11 : float64[8, 4]
      %13 = reshape %12 32 : float64[32]
      return %8, %13
  %8 = item[index=1] %7 : float64[?, 32]
  %9 = reshape %8 %3 : float64[?]
  %10 = sub %0 %3 : int64
  %11 = subtensor[pattern=((True, False, False),)] x %3 : float64[?]
  %12 = item[index=0] %7 : float64
  %13 = loop[1 sequences, 1 carries] %10 %11 %12 : (float64, float64[?], int64)  # half
    body(t: int64, x[t]: float64, h[t-1]: float64):
      %0 = mul 0.5 h[t-1] : float64
      %1 = add %0 x[t] : float64
      return %1, %1
  %14 = item[index=1] %13 : float64[?]
  %15 = concatenate[axis=0] %9 %14 : float64[?]
  return %15
"""


def test_golden_pair() -> None:
    """Blocks of chunks where it was asked for; nothing where it was not."""
    x, h = T.dvector("x"), T.dscalar("h")
    for parallel in (True, False, "auto"):
        y, _ = ostinato.scan(lambda x, h: 0.5 * h + x, x, h, parallel=parallel, name="half")
        graph = rewrite(Graph((x, h), (y,)))
        after = loop_affine(graph)
        verify(after)
        if parallel is True:
            assert str(loop_prune(after)) == BLOCKS.rstrip("\n")
        else:
            assert after is graph


@pytest.mark.parametrize("n", [0, 511, 512, 1700])
def test_blocks_of_their_own_size(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    x, a, h = T.dvector("x"), T.dvector("a"), T.dscalar("h")
    y, _ = ostinato.scan(lambda x, a, h: (h * a + x, T.tanh(h)), [x, a], [h, None], parallel=True)
    run = native([x, a, h], y)
    assert run.notes[0] == "loop_affine: a loop is affine in its state: runs as 32 chunks of 16 steps side by side."
    v, w = RNG.normal(size=n), RNG.uniform(-1, 1, size=n)
    state, expected = 0.4, []
    for p, q in zip(v, w, strict=True):
        expected.append((state * q + p, np.tanh(state)))
        state = expected[-1][0]
    np.testing.assert_allclose(np.transpose(run(v, w, 0.4)), np.reshape(expected, (n, 2)), 1e-11, 1e-13)


# ---- the benchmark --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", affine_benchmark.RECURRENCES)
def test_both_ways_of_the_benchmark_agree(name: str) -> None:
    recurrence = affine_benchmark.RECURRENCES[name]
    arrays = [RNG.uniform(-0.7, 0.7, size=(70, *w)) for w in recurrence.widths]
    arrays += [RNG.normal(size=s) for s in recurrence.states]
    found = [affine_benchmark.ours(recurrence, arrays, parallel)[0]() for parallel in (False, True)]
    for a, b in zip(*[f if isinstance(f, list) else [f] for f in found], strict=True):
        np.testing.assert_allclose(a, b, 1e-9, 1e-11)
