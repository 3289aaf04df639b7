"""Calls of natively compiled functions: arguments in every form, results of their own, memory, threads.

What does not say otherwise is tested for both ways of calling: the C entry, and ctypes where there is none.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from ostinato.backends.llvm import entry, pool
from ostinato.backends.llvm import runtime as runtime_module
from ostinato.backends.llvm.runtime import runtime

needs_entry = pytest.mark.skipif(not runtime().is_fast, reason="the C entry does not work with this Python")


@pytest.fixture(params=["entry", "ctypes"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """How functions that a test compiles are called."""
    if request.param == "entry" and not runtime().is_fast:
        pytest.skip("the C entry does not work with this Python")
    monkeypatch.setitem(vars(runtime()), "is_fast", request.param == "entry")
    yield request.param
    gc.collect()


def native(inputs: Any, outputs: Any, **options: Any) -> ostinato.Function:
    return ostinato.function(inputs, outputs, mode="native", **options)


def unaligned(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same array at an odd address."""
    memory = np.zeros(array.nbytes + 1, "uint8")
    moved = memory[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    assert not moved.flags.aligned
    return moved


class Special(np.ndarray[Any, Any]):
    """An array that multiplies differently."""

    def __mul__(self, other: Any) -> Any:
        raise AssertionError("native code knows nothing of this")


def locked(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    held = array.copy()
    held.flags.writeable = False
    return held


MATRIX = np.arange(24.0).reshape(4, 6)
FORMS: dict[str, Any] = {
    "contiguous": MATRIX,
    "every other row": MATRIX[::2],
    "every third column": MATRIX[:, ::3],
    "backwards": MATRIX[::-1, ::-1],
    "Fortran": np.asfortranarray(MATRIX),
    "transposed": MATRIX.T,
    "a broadcast row": np.broadcast_to(MATRIX[1], (5, 6)),
    "a window": MATRIX[1:3, 2:5],
    "no rows": MATRIX[:0],
    "no columns": MATRIX[:, :0],
    "one row": MATRIX[2:3],
    "read-only": locked(MATRIX),
    "read-only and strided": locked(MATRIX)[:, ::-2],
    "big-endian": MATRIX.astype(">f8"),
    "misaligned": unaligned(MATRIX),
    "misaligned and strided": unaligned(MATRIX)[:, ::2],
    "a subclass": MATRIX.view(Special),
    "an unmasked masked array": np.ma.masked_array(MATRIX),
    "float32": MATRIX.astype("float32"),
    "integers": MATRIX.astype("int32"),
    "lists": MATRIX.tolist(),
    "a memory view": memoryview(MATRIX),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_arguments(form: str) -> None:
    x, a = T.dmatrix("x"), T.dscalar("a")
    run = native([x, a], [x * a, x.T, (x * x).sum(axis=0), x])
    given = FORMS[form]
    plain = np.array(given, dtype="float64", subok=False)
    for found, expected in zip(run(given, 2.0), [plain * 2, plain.T, (plain * plain).sum(axis=0), plain], strict=True):
        assert type(found) is np.ndarray
        np.testing.assert_allclose(found, expected, rtol=1e-15)
    np.testing.assert_array_equal(np.array(given, dtype="float64", subok=False), plain)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "int64", "uint64", "float32", "float64"])
def test_dtypes_and_scalars(dtype: str) -> None:
    v, s = T.tensor(dtype, (None,), "v"), T.tensor(dtype, (), "s")
    run = native([v, s], [v, s])
    number = np.dtype(dtype).type(1)
    vector = np.array([0, 1, 1], dtype)
    for scalar in (number, np.array(number), np.array([number, 0], dtype)[0:1].reshape(())):
        for form in (vector, vector[::-1], vector.astype(vector.dtype.newbyteorder(">"))):
            found_vector, found_number = run(form, scalar)
            assert (found_vector.dtype, found_number.dtype) == (dtype, dtype)
            assert found_vector.tolist() == form.tolist()
            assert found_number.shape == ()
            assert found_number == number


@pytest.mark.skipif(np.dtype("q") is np.dtype("int64"), reason="no two dtypes of 64-bit integers here")
def test_dtypes_that_are_equal_but_not_the_same() -> None:
    v = T.lvector("v")
    run = native([v], v + 1)
    assert run(np.arange(3, dtype="longlong")).tolist() == [1, 2, 3]
    assert run(np.arange(3, dtype=np.dtype("int64", metadata={"unit": "m"}))).tolist() == [1, 2, 3]


@pytest.mark.parametrize("number", [1.5, 2, True, np.float32(0.1), np.float64(-0.0), np.int8(3), "longdouble"])
def test_numbers_are_what_they_are_in_the_reference(number: Any) -> None:
    s = T.dscalar("s")
    value = np.longdouble(1) if number == "longdouble" else number
    results = []
    for mode in ("native", "reference"):
        try:
            results.append(ostinato.function([s], s * 3, mode=mode)(value).tolist())
        except ostinato.OstinatoError as error:
            results.append(str(error))
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "float16", "float32", "float64"])
def test_integers_that_a_dtype_holds_and_those_it_does_not(dtype: str, way: str) -> None:
    """With the interpreter: float16 has no native form, and all conversions are made before either."""
    if way == "ctypes":
        pytest.skip("the same in either way")
    s = T.tensor(dtype, (), "s")
    run = ostinato.function([s], s, mode="reference", allow_input_downcast=False)
    for bits in range(63):
        for number in (2**bits - 1, 2**bits, 2**bits + 1, -(2**bits), -(2**bits) - 1):
            with np.errstate(all="ignore"):
                there = np.array(number).astype(dtype)
            if np.isfinite(there) and int(there) == number:
                assert int(run(number)) == number
                assert run(number).dtype == dtype
            else:
                with pytest.raises(ostinato.OstinatoTypeError, match=f"out of the range of {dtype}|lose precision"):
                    run(number)


def test_a_strict_input_takes_no_bare_number() -> None:
    s = T.dscalar("s")
    run = native([ostinato.In(s, strict=True)], s * 2)
    assert run(np.array(2.0)) == run(np.float64(2.0)) == 4
    with pytest.raises(ostinato.OstinatoTypeError, match="exactly float64"):
        run(2.0)


def messages(mode: str, calls: list[Callable[[Any], Any]]) -> list[str]:
    x, y, s = T.dvector("x"), T.TensorType("float32", (None, 3))("y"), T.lscalar("s")
    run = ostinato.function([x, y, ostinato.In(s, value=1)], [x[s], y * 2], mode=mode)
    told = []
    for call in calls:
        with pytest.raises(ostinato.OstinatoError) as caught:
            call(run)
        told.append(f"{type(caught.value).__name__}: {caught.value}")
    return told


def test_errors_are_those_of_the_reference() -> None:
    vector, rows = np.zeros(2), np.zeros((2, 3), "float32")
    calls: list[Callable[[Any], Any]] = [
        lambda f: f(),
        lambda f: f(vector),
        lambda f: f(vector, rows, 1, 2),
        lambda f: f(rows, rows),
        lambda f: f(vector, np.zeros((2, 4), "float32")),
        lambda f: f(vector, np.zeros((2, 3))),
        lambda f: f(vector, rows, 1.5),
        lambda f: f(vector * 1j, rows),
        lambda f: f("text", rows, s=1),
        lambda f: f(vector, rows, z=1),
        lambda f: f(vector, rows, x=vector),
        lambda f: f(np.ma.masked_array(vector, [True, False]), rows),
        lambda f: f(vector, rows, 5),
        lambda f: f(vector, rows, s=-3),
    ]
    assert messages("native", calls) == messages("reference", calls)


def test_outputs_in_every_form_with_shared_variables() -> None:
    s, x = ostinato.shared(np.array([1.0, 2.0]), "s"), T.dvector("x")
    one, two = np.ones(2), np.full(2, 2.0)
    for given in (one, [1.0, 1.0], np.ones(4)[::2]):
        assert native([x], s + x)(given).tolist() == [2, 3]
        assert native([x], [s + x])(x=given)[0].tolist() == [2, 3]
        assert native([x], {"sum": s + x})(given)["sum"].tolist() == [2, 3]
    assert native([], s)().tolist() == [1, 2]
    assert native([x], x * 2, updates={s: s + x})(one).tolist() == [2, 2]
    assert native([x], None, updates={s: s * x})(two) is None
    assert native([], s.sum())() == 10
    s.set_value(np.arange(6.0)[::3], borrow=True)
    assert native([x], s * x)(two).tolist() == [0, 6]


def test_keywords_that_are_no_inputs() -> None:
    s, x = ostinato.shared(np.ones(2), "s"), T.dvector("x")
    for run in (native([], [s * 2]), native([x], x * 2), native([x], s * x, updates={s: s + 1})):
        for call in (lambda f=run: f(z=1), lambda f=run: f(np.ones(2), z=1), lambda f=run: f(np.ones(2), x=np.ones(2))):
            with pytest.raises(ostinato.OstinatoTypeError, match=r"no input named|given twice"):
                call()
    assert s.get_value().tolist() == [1, 1]


def test_keywords_defaults_and_every_form_of_outputs() -> None:
    a, b = T.dvector("a"), T.dvector("b")
    inputs = [a, ostinato.In(b, value=[10.0, 20.0])]
    one = np.array([1.0, 2.0])
    assert native(inputs, a + b)(one).tolist() == [11, 22]
    assert native(inputs, [a + b])(b=one, a=one)[0].tolist() == [2, 4]
    both = native(inputs, {"sum": a + b, "product": a * b})(one, one)
    assert {k: v.tolist() for k, v in both.items()} == {"sum": [2, 4], "product": [1, 4]}
    assert native(inputs, None, on_unused_input="ignore")(one, one) is None
    assert native([], [T.constant(1.0) + 1, T.zeros((2,))])()[0] == 2


def test_many_params_and_results() -> None:
    xs = [T.dvector(f"x{k}") for k in range(60)]
    run = native(xs, [x * k for k, x in enumerate(xs)])
    for k, found in enumerate(run(*[np.full(3, 2.0) for _ in xs])):
        assert found.tolist() == [2.0 * k] * 3


# ---- results are the caller's own -----------------------------------------------------------------


def many_results() -> tuple[Any, list[Any]]:
    """Results that could share memory: params, views, one twice, a loop's rows and its last row, constants."""
    x = T.dmatrix("x")
    states, _ = ostinato.scan(lambda row, h: T.tanh(row + h), sequences=x, outputs_info=T.zeros((3,)))
    doubled = x * 2
    return x, [x, x, x.T, x[1:], doubled, doubled, doubled.flatten(), doubled[0], states, states[-1], states[1:]]


def test_results_share_memory_with_nothing() -> None:
    x, outputs = many_results()
    run = native([x], [*outputs, T.constant(np.arange(3.0)), T.constant(2.0)])
    given = np.arange(12.0).reshape(4, 3)
    first, second = run(given), run(given)
    kept = [f.copy() for f in first]
    everything = [given, *first, *second]
    for k, found in enumerate(everything):
        assert not any(np.shares_memory(found, other) for other in everything[k + 1 :])
    for k, found in enumerate(first):
        found[...] = np.nan
        for other, expected in zip(
            [*first[k + 1 :], *second, *run(given)], [*kept[k + 1 :], *kept, *kept], strict=True
        ):
            np.testing.assert_array_equal(other, expected)
    assert given.tolist() == np.arange(12.0).reshape(4, 3).tolist()


def test_results_are_ordinary_arrays(way: str) -> None:
    x = T.dmatrix("x")
    run = native([x], [x + 1, x.sum(), T.cast(x[:0] > 0, "bool")])
    for found, shape in zip(run(MATRIX), [(4, 6), (), (0, 6)], strict=True):
        assert type(found) is np.ndarray
        assert found.shape == shape
        assert found.flags.owndata
        assert found.flags.carray
        assert found.base is None
        if way == "entry":
            assert found.ctypes.data % 64 == 0


def test_results_can_be_resized_in_place() -> None:
    x = T.dvector("x")
    found = native([x], x * 1)(np.arange(100.0))
    for n in (10, 100, 5000, 300_000, 3):
        before = found.copy()
        found.resize(n, refcheck=False)
        np.testing.assert_array_equal(found[:100], np.pad(before, (0, n))[: min(n, 100)])


def test_results_outlive_the_function() -> None:
    x = T.dvector("x")
    run = native([x], [x * 2, x.sum()])
    results = [run(np.full(1000, float(k))) for k in range(50)]
    views = [r[0][::7] for r in results]
    del run
    gc.collect()
    for k, (found, view) in enumerate(zip(results, views, strict=True)):
        assert found[0].tolist() == [2.0 * k] * 1000
        assert found[1] == 1000.0 * k
        assert (view == 2 * k).all()


def test_results_outlive_the_interpreter() -> None:
    program = """
import sys, numpy as np, ostinato, ostinato.tensor as T
x = T.dvector("x")
f = ostinato.function([x], [x + 1, x * 2], mode="native")
np.kept = f(np.arange(1000.0))  # modules are cleared late
sys.kept = f(np.arange(100_000.0)), f
class Last:
    def __del__(self):
        assert sum(map(np.sum, sys.kept[0])) > 0
sys.last = Last()
print("done")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


# ---- memory ---------------------------------------------------------------------------------------


def test_references_and_memory_stay_the_same() -> None:
    """Over 10,000 calls that succeed, that are refused, and that fail."""
    x, i = T.dvector("x"), T.lscalar("i")
    run = native([x, i], [x * 2, x[i], x])
    vector, strided, number = np.arange(4.0), np.arange(8.0)[::2], np.array(1)
    watched = [vector, strided, number, vector.dtype, np.ndarray]
    calls = [(vector, number), (strided, number), (vector, 2)]

    def work(n: int) -> None:
        for k in range(n):
            run(*calls[k % 3])
            if k % 50 == 0:
                with pytest.raises(ostinato.OstinatoError):
                    run(vector, 99)
                with pytest.raises(ostinato.OstinatoError):
                    run(vector, 0.5)

    work(200)
    gc.collect()
    tracemalloc.start()
    try:
        work(200)
        gc.collect()
        counts, memory = [sys.getrefcount(w) for w in watched], [tracemalloc.get_traced_memory()[0]]
        for _ in range(2):
            work(5000)
            gc.collect()
            memory.append(tracemalloc.get_traced_memory()[0])
        assert [sys.getrefcount(w) for w in watched] == pytest.approx(counts, abs=5)
        assert min(np.diff(memory)) < 20_000  # some table of Python may grow, once
    finally:
        tracemalloc.stop()


def test_memory_returns_to_the_pool_when_the_last_view_is_gone(way: str) -> None:
    if way == "ctypes":
        pytest.skip("results are copied into memory of NumPy")
    x = T.dvector("x")
    run = native([x], x + 1)
    given = np.zeros(100_000)
    run(given)
    before = runtime().waiting
    found = run(given)
    address = found.ctypes.data
    assert before - runtime().waiting >= found.nbytes
    view = found[::2]
    del found
    assert before - runtime().waiting >= 800_000
    del view
    assert runtime().waiting == before
    assert run(given).ctypes.data == address


def test_a_failure_returns_its_memory_and_changes_no_shared_variable() -> None:
    s = ostinato.shared(np.zeros(5000), "s")
    i = T.lscalar("i")
    rows, _ = ostinato.map(lambda k: s[k] + 1, sequences=T.arange(i))
    run = native([i], [s * 2, rows], updates={s: s + 1})
    run(10)
    before, value = runtime().waiting, s.get_value(borrow=True)
    for _ in range(3):
        with pytest.raises(ostinato.OstinatoIndexError, match=r"step 5000"):
            run(5001)
        assert s.get_value(borrow=True) is value
    gc.collect()
    assert runtime().waiting >= before
    run(3)
    assert s.get_value().tolist() == [2.0] * 5000


@pytest.fixture
def limit() -> Iterator[int]:
    """A small bound on what may wait in the pool."""
    words = runtime().words
    before, words[pool.LIMIT] = int(words[pool.LIMIT]), 1 << 20
    yield 1 << 20
    words[pool.LIMIT] = before


def test_the_pool_is_bounded(limit: int, way: str) -> None:
    x = T.dvector("x")
    run = native([x], [x * 2, x + 1])
    for n in (10, 1000, 30_000, 60_000, 200_000, 7, 90_000):
        found = [run(np.full(n, 1.0)) for _ in range(10)]
        assert all((a == 2).all() and (b == 2).all() for a, b in found)
        del found
        assert runtime().waiting <= limit
    held = [run(np.zeros(50)) for _ in range(100)]
    del held
    assert 0 < runtime().waiting <= limit
    held = [run(np.zeros(2000)) for _ in range(100)]  # more than may wait, of one size
    del held
    assert runtime().waiting > limit * 0.8
    run(np.zeros(40_000))  # blocks of that size make room for larger ones
    waiting = runtime().waiting
    found = run(np.zeros(40_000))
    assert way == "ctypes" or runtime().waiting < waiting
    del found
    runtime().trim()
    assert runtime().waiting == 0


@pytest.mark.parametrize("n", [2**40, 2**45, 2**60, 2**61, 2**62])
def test_results_that_no_memory_can_hold(n: int) -> None:
    s = ostinato.shared(np.array(0.0))
    k = T.lscalar("k")
    run = native([k], T.zeros((k,)) + 1, updates={s: s + 1})
    assert run(2).tolist() == [1, 1]
    with pytest.raises(MemoryError):
        run(n)
    assert s.get_value() == 1
    assert run(3).tolist() == [1, 1, 1]


def test_the_workspace_grows() -> None:
    x = T.dmatrix("x")
    run = native([x], T.dot(T.dot(T.tanh(x), x.T), x))
    for n in (2, 300, 3, 700, 5):
        given = np.cos(np.arange(n * 4.0)).reshape(n, 4)
        np.testing.assert_allclose(run(given), np.tanh(given) @ given.T @ given, rtol=1e-11, atol=1e-11)


# ---- threads --------------------------------------------------------------------------------------


def in_threads(n: int, work: Callable[[int], None]) -> None:
    problems: list[BaseException] = []

    def guarded(k: int) -> None:
        try:
            work(k)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=guarded, args=(k,)) for k in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert problems == []


def test_many_threads_while_garbage_is_collected() -> None:
    """Arrays of many sizes come and go, arguments are contiguous or not, and some calls fail."""
    x, i = T.dvector("x"), T.lscalar("i")
    run = native([x, i], [T.cumsum(x), x[i], T.dot(T.outer(x, x), x)])

    def work(k: int) -> None:
        rng, kept = np.random.default_rng(k), []
        for round_ in range(60):
            given = rng.normal(size=int(rng.integers(1, 150)))
            given = given[::-1] if round_ % 3 == 0 else given
            sums, last, product = run(given, -1)
            np.testing.assert_allclose(sums, np.cumsum(given), rtol=1e-9, atol=1e-12)
            assert last == given[-1]
            np.testing.assert_allclose(product, given * (given @ given), rtol=1e-9, atol=1e-12)
            kept = [*kept[-5:], sums[::2], product]
            if round_ % 20 == k:
                with pytest.raises(ostinato.OstinatoIndexError):
                    run(given, 1000)
            if round_ % 10 == 0:
                gc.collect()

    gc.freeze()  # what other tests left behind need not be looked at so often
    try:
        in_threads(8, work)
    finally:
        gc.unfreeze()


def test_the_gil_is_released() -> None:
    """While a long call runs, another thread gets on with Python code: it ends the call by what it writes."""
    x = T.dvector("x")
    # Each step reads the other of two elements, so that none can be read once, before the loop.
    steps, _ = ostinato.scan(
        lambda k: (k + 1, ostinato.until(x[k % 2] > 0)), outputs_info=T.constant(0, dtype="int64"), n_steps=10**12
    )
    run = native([x], steps[-1])
    given = np.zeros(2)
    started = threading.Event()

    def work(k: int) -> None:
        if k == 0:
            started.set()
            run(given)
        else:
            started.wait()
            given[:] = 1.0

    in_threads(2, work)


def test_updates_are_seen_together() -> None:
    """Readers never see one of two variables updated and the other not."""
    a, b = ostinato.shared(np.zeros(3)), ostinato.shared(np.zeros(3))
    step = native([], [], updates={a: a + 1, b: b + 1})
    read = native([], [a, b])

    def work(k: int) -> None:
        for _ in range(300):
            if k % 2:
                step()
            else:
                first, second = read()
                assert first.tolist() == second.tolist()

    in_threads(6, work)


# ---- how it is called -----------------------------------------------------------------------------


def test_one_compilation_for_all_lengths() -> None:
    x = T.dvector("x")
    sums, _ = ostinato.scan(lambda v, s: s + v, sequences=x, outputs_info=T.constant(0.0))
    run = native([x], sums)
    for n in range(200):
        np.testing.assert_array_equal(run(np.arange(float(n))), np.cumsum(np.arange(float(n))))
    assert run.compilations == 1
    assert ostinato.function([x], sums, mode="reference").compilations == 0


def test_functions_are_verified_and_explained() -> None:
    x = T.dvector("x")
    with ostinato.config.change_flags(verify=True):
        run = native([x], [x * 2, x + 1])
    assert run(np.ones(2))[0].tolist() == [2, 2]
    assert "kept as results[0]" in run.explain("nest")
    assert len(run.graph.results) == 2


def test_how_functions_are_called(way: str) -> None:
    x = T.dvector("x")
    run = native([x], x * 2)
    assert (run._direct is not None) == (way == "entry")


@needs_entry
@pytest.mark.parametrize("place", ["TYPE_AT", "DATA_AT", "NDIM_AT", "SIZES_AT", "DTYPE_AT", "FLAGS_AT", "NUMBER_AT"])
def test_an_unknown_layout_of_objects_is_noticed(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime_module._layout_is_known()
    monkeypatch.setattr(entry, place, getattr(entry, place) + 8 if place != "NUMBER_AT" else 0)
    monkeypatch.setattr(entry, "SIZES_AT", 16) if place == "SIZES_AT" else None
    assert not runtime_module._layout_is_known()


@needs_entry
def test_without_a_gil_or_another_python_it_is_called_by_ctypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module.sysconfig, "get_config_var", lambda name: 1 if "GIL" in name else None)
    assert not runtime_module._layout_is_known()
