"""Call-outs: what has no native form runs by its NumPy reference, called from within native code.

The ops of these tests have no rule for native code; they are not in the registry. Results are compared with
the reference interpreter or with loops in plain Python.
"""

from __future__ import annotations

import ctypes
import gc
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special

import ostinato
import ostinato.tensor as T
from ostinato.backends.llvm import callouts
from ostinato.backends.llvm.emit import CALL_OUT
from ostinato.backends.llvm.entry import CONTEXT
from ostinato.backends.llvm.run import Native, compile_graph
from ostinato.backends.reference import compile_graph as compile_reference
from ostinato.errors import OstinatoError, OstinatoValueError, ShapeError, VerificationError
from ostinato.graph import Graph, make
from ostinato.lower.program import lower_graph
from ostinato.lower.scalarize import RULES
from ostinato.ops import OPS, Op, Sample
from ostinato.ops.logspace import WRITTEN_OUT
from ostinato.ops.loop import item
from ostinato.ops.sizes import sizes
from ostinato.rewrite.pipeline import rewrite
from ostinato.types import DTYPES, TensorType, TupleType
from test_ops import CASES, variables


def op(name: str, numpy: Callable[..., Any], infer: Callable[..., Any] = lambda *xs: xs[0].type, **rules: Any) -> Op:
    return Op(name, infer=infer, numpy=numpy, **rules)


# Some of its argument: how many elements there are only the value knows.
POSITIVE = op("positive", lambda x: x[x > 0], lambda x: x.type.with_shape([None]), sizes=lambda x: [None])
CUBE_ROOT = op(
    "cube_root",
    np.cbrt,
    vjp=lambda g, out, x: (g / (3 * make(CUBE_ROOT, (x,)) ** 2),),
    sizes=lambda x: sizes(x),
)
SPREAD = op(
    "spread",
    lambda x: (np.float64(x.max() - x.min()), np.sort(x), np.int64(x.size)),
    lambda x: TupleType((TensorType("float64", ()), x.type, TensorType("int64", ()))),
)


def positive(x: Any) -> Any:
    return make(POSITIVE, (x,))


def cube_root(x: Any) -> Any:
    return make(CUBE_ROOT, (x,))


def native(inputs: list[Any], outputs: list[Any]) -> Native:
    """The compiled function, which makes call-outs."""
    found = compile_graph(rewrite(Graph(tuple(inputs), tuple(outputs))))
    assert isinstance(found, Native)
    assert found.build.program.nest.sites
    return found


def check(inputs: list[Any], outputs: list[Any], *arrays: Any, rtol: float = 1e-13) -> list[str]:
    """Native results are those of the interpreter; what was called out."""
    run = native(inputs, outputs)
    held = [np.asarray(a) for a in arrays]
    for _ in range(2):  # the second call finds what the first one left behind
        for a, b in zip(run(held), compile_reference(run.graph)(held), strict=True):
            b = np.asarray(b)
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
    return list(run.report.called_out)


# ---- where they stand -----------------------------------------------------------------------------


def test_outside_of_loops_with_sizes_that_only_the_call_knows() -> None:
    x = T.dvector("x")
    y = positive(x * 2)
    called = check([x], [y, y + 1, (y * y).sum(), y.shape[0], T.exp(y[::-1])], [1.0, -2.0, 3.0, 0.5, -1.0])
    assert called == ["positive"]
    assert ostinato.function([x], y, mode="native")([-1.0]).tolist() == []


def test_operands_may_be_views_scalars_and_results_of_other_call_outs() -> None:
    x, a = T.dmatrix("x"), T.dscalar("a")
    y = positive(x.T[1, ::2])
    outputs = [
        cube_root(x.T),
        cube_root(a),
        cube_root(cube_root(a) + y),
        cube_root(T.ones((2, 3)) * a),
        cube_root(x[:0]),
    ]
    check([x, a], outputs, np.linspace(-3, 5, 20).reshape(5, 4), -8.0)


def test_in_a_loop_and_in_a_loop_within_a_loop() -> None:
    x = T.dmatrix("x")

    def row(r: Any, total: Any) -> Any:
        inner, _ = ostinato.scan(lambda v, h: cube_root(h + v), r, T.constant(0.5, dtype="float64"), name="inner")
        return total + positive(r - inner[-1]).sum()

    ys, _ = ostinato.scan(row, x, T.constant(0.0, dtype="float64"), name="outer")
    array = np.random.default_rng(0).normal(size=(7, 5))
    called = check([x], [ys], array)
    assert sorted(called) == ["cube_root (in loop 'inner' within loop 'outer')", "positive (in loop 'outer')"]

    total, expected = 0.0, []
    for r in array:
        h = 0.5
        for v in r:
            h = np.cbrt(h + v)
        total += sum(v for v in r - h if v > 0)
        expected.append(total)
    np.testing.assert_allclose(ostinato.function([x], ys, mode="native")(array), expected, rtol=1e-12)


def test_the_result_of_a_step_is_the_state_of_the_next() -> None:
    """States are kept where the next call cannot touch them: read one and two steps later, and at the end."""
    x = T.dvector("x")
    state = {"initial": T.stack([x, x + 1]), "taps": [-2, -1]}
    (ys, zs), _ = ostinato.scan(
        lambda y2, y1, z: [cube_root(y2 - y1), cube_root(z + y1)], outputs_info=[state, x], n_steps=6
    )
    check([x], [ys, zs, zs[-1]], [0.3, -1.0, 2.0], rtol=1e-11)


@pytest.mark.parametrize("steps", [1, 3, 64, 200])
def test_in_a_loop_that_stops_by_a_condition(steps: int) -> None:
    n = T.dscalar("n")
    (ks, rows), _ = ostinato.scan(
        lambda k: ([k + 1, cube_root(T.stack([k, -k]))], ostinato.until(cube_root((k + 1) ** 3) >= n)),
        outputs_info=[T.constant(0.0, dtype="float64"), None],
        n_steps=10**9,
    )
    check([n], [ks, rows], steps - 1e-6)


def test_several_results() -> None:
    x = T.dmatrix("x")

    def step(r: Any) -> list[Any]:
        several = make(SPREAD, (r,))
        return [item(several, 0), item(several, 1) * 2, item(several, 2)]

    outputs, _ = ostinato.map(step, x)
    check([x], [*outputs, item(make(SPREAD, (x[0],)), 2)], np.random.default_rng(1).normal(size=(4, 3)))


def test_a_loop_whose_rows_have_sizes_of_their_own_is_called_as_a_whole() -> None:
    x = T.dmatrix("x")
    ys, _ = ostinato.map(positive, x, name="pick")
    called = check([x], [ys, T.exp(ys).sum()], np.array([[1.0, -1.0, 2.0], [3.0, 4.0, -5.0]]))
    assert called == ["loop 'pick'"]


def test_gradients_pass() -> None:
    x = T.dvector("x")
    ys, _ = ostinato.scan(lambda v, h: cube_root(h * v + 2), x, T.constant(1.0, dtype="float64"))
    cost = (ys**2).sum()
    first = T.grad(cost, x)
    array = np.array([0.3, 1.5, 2.0, -0.4])
    check([x], [cost, first, T.grad(first.sum(), x)], array, rtol=1e-11)
    value = ostinato.function([x], cost, mode="native")
    steps = 1e-6 * np.eye(4)
    differences = [(value(array + s) - value(array - s)) / 2e-6 for s in steps]
    np.testing.assert_allclose(ostinato.function([x], first, mode="native")(array), differences, rtol=1e-7)


# ---- what has no rule, or not for these dtypes ----------------------------------------------------


def test_functions_without_a_native_form() -> None:
    x, k, n = T.dvector("x"), T.lvector("k"), T.lscalar("n")
    outputs = [T.polygamma(1, x), k ** T.abs(n), x[:: n + 1], T.arange(0.0, x[0], 0.25), T.arange(0, 9, n)]
    called = check([x, k, n], outputs, [1.5, 2.5, 0.5], [2, -3, 5], 2)
    assert {"arange", "polygamma", "subtensor"} & {c.split(",")[0] for c in called}
    run = ostinato.function([x], T.polygamma(1, x).sum(), mode="native")
    np.testing.assert_allclose(run([1.5, 2.5]), special.polygamma(1, [1.5, 2.5]).sum(), rtol=1e-14)


def test_a_rule_that_gives_up_midway_leaves_nothing_behind() -> None:
    x, n = T.dmatrix("x"), T.lscalar("n")
    y = T.tanh(x)
    outputs = [T.set_subtensor(y[1:, ::n], 0.0) + y, y[n:, ::n], T.exp(y).sum()]
    called = check([x, n], outputs, np.arange(12.0).reshape(3, 4) / 9, 2)
    assert sorted(called) == ["set_subtensor", "subtensor"]


@pytest.fixture
def without_rule(request: pytest.FixtureRequest) -> Any:
    name = request.param.name
    held = RULES.pop(name, None)
    yield request.param
    if held is not None:
        RULES[name] = held


def _samples() -> list[Any]:
    # The parts of a call-out's results; and what a pass makes other operations of.
    own = {"item", "size", *[op.name for op in WRITTEN_OUT]}
    return [pytest.param(c.values[0], c.values[1], id=c.id) for c in CASES if c.values[0].name not in own]


@pytest.mark.parametrize(("without_rule", "sample"), _samples(), indirect=["without_rule"])
def test_every_op_without_its_rule(without_rule: Op, sample: Sample) -> None:
    inputs = variables(sample, static=False)
    result = sample.build(*inputs)
    graph = Graph(tuple(inputs), (result,))
    run = compile_graph(graph)
    assert isinstance(run, Native)
    assert without_rule in {n.op for n in run.build.program.nest.sites}
    arrays = [np.asarray(a) for a in sample.arrays]
    (found,), (expected,) = run(arrays), compile_reference(graph)(arrays)
    assert (found.dtype, found.shape) == (np.asarray(expected).dtype, np.shape(expected))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("op", [o for o in OPS.values() if o.samples], ids=lambda op: op.name)
def test_every_op_on_every_dtype_that_it_takes(op: Op) -> None:
    """Floats of a sample as integers, truth values and float16: native results are the reference's."""
    sample, inputs, outputs, arrays, expected = op.samples[0], [], [], [], []
    for dtype in DTYPES:
        values = [_converted(np.asarray(a), dtype) for a in sample.arrays]
        given = variables(Sample(sample.build, tuple(values)), static=False)
        result = _taken(sample, given, values)
        if result is not None:
            inputs += given
            arrays += values
            outputs.append(sample.build(*given))
            expected.append(result)
    assert outputs
    run = compile_graph(Graph(tuple(inputs), tuple(outputs)))
    assert isinstance(run, Native)
    for found, wanted in zip(run(arrays), expected, strict=True):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        tolerance = {"float64": 1e-13, "float32": 2e-6}.get(found.dtype.name, 0)
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def _converted(array: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    if array.dtype.kind != "f":
        return array
    return (abs(array) if dtype.startswith("uint") else array).astype(dtype)


def _taken(sample: Sample, given: list[Any], values: list[Any]) -> Any:
    """The reference's result, None if the op is not meant for these dtypes."""
    try:
        node = sample.build(*given)
        found = np.asarray(compile_reference(Graph(tuple(given), (node,)))(values)[0])
    except (OstinatoError, TypeError):
        return None
    return found if found.dtype == node.type.dtype else None


def test_float16_rounds_after_each_operation() -> None:
    """Arithmetic, comparisons and casts are native; sums and functions are called out."""
    x, y = (T.tensor("float16", (None,), n) for n in "xy")
    rng = np.random.default_rng(2)
    a, b = ((rng.normal(size=4000) * 10.0 ** rng.integers(-4, 5, 4000)).astype("float16") for _ in range(2))
    plain = [x * y + x - y / x, T.maximum(x, -y), T.sqrt(abs(x)), x < y, T.cast(x, "float64"), T.cast(x, "int32")]
    run = Native(Graph((x, y), tuple(plain)))
    assert run.report.called_out == []
    for found, expected in zip(run([a, b]), compile_reference(run.graph)([a, b]), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    ys, _ = ostinato.scan(lambda v, h: T.tanh(h * v) + v, x, T.constant(0.0, dtype="float16"))
    outputs = [x.sum(), T.exp(x), T.dot(x, y), T.cast(T.cast(x, "float64") * 1.1, "float16"), ys]
    run = native([x, y], outputs)
    for found, expected in zip(run([a, b]), compile_reference(run.graph)([a, b]), strict=True):
        assert found.dtype == "float16"
        np.testing.assert_array_equal(found, expected)


# ---- constants ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8", "bool"])
@pytest.mark.parametrize("n", [3, 8, 9, 1000, 100_000])
def test_constant_arrays_of_any_size(n: int, dtype: str) -> None:
    table = (np.arange(2 * n).reshape(2, n) % 7 > 3) if dtype == "bool" else np.arange(2 * n).reshape(2, n) % 100
    table = table.astype(dtype)
    i = T.lvector("i")
    held = T.constant(table)
    rows, _ = ostinato.map(lambda k: held[1, k], i)
    run = Native(Graph((i,), (held, rows, held.T[i, 0])))
    index = np.array([0, n - 1, 1])
    whole, found, column = run([index])
    np.testing.assert_array_equal(whole, table)
    assert whole.dtype == dtype
    np.testing.assert_array_equal(found, table[1, index])
    np.testing.assert_array_equal(column, table.T[index, 0])
    whole[:] = 0  # what a function returns is the caller's own
    np.testing.assert_array_equal(run([index])[0], table)
    assert len(run.build.llvm) < 100_000 + 4 * 65536


# ---- errors ---------------------------------------------------------------------------------------


def refuse(x: Any) -> Any:
    if x > 2:
        raise ValueError(f"{x} is more than 2")
    return x


def test_errors_are_told_as_by_the_interpreter() -> None:
    limited = op("limited", refuse)
    x = T.dvector("x")
    ys, _ = ostinato.map(lambda v: make(limited, (v,)) * 2, x, name="lookup")
    run = ostinato.function([x], ys, mode="native")
    assert run([1.0, 2.0]).tolist() == [2, 4]
    with pytest.raises(OstinatoValueError, match=r"step 2 of lookup: .*test_callouts\.py:\d+.*3\.0 is more than 2"):
        run([1.0, 2.0, 3.0])
    assert run([2.0]).tolist() == [4]


def test_sizes_that_do_not_fit_what_a_call_made() -> None:
    x = T.dvector("x")
    run = ostinato.function([x], positive(x) + x, mode="native")
    assert run([1.0, 2.0]).tolist() == [2, 4]
    with pytest.raises(ShapeError, match=r"test_callouts\.py:\d+"):
        run([1.0, -2.0, 3.0])


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_not_lost(interruption: type[BaseException]) -> None:
    seen: list[float] = []

    def interrupted(x: Any) -> Any:
        seen.append(float(x))
        if x == 3:
            raise interruption
        return x

    x = T.dvector("x")
    ys, _ = ostinato.map(lambda v: make(op("interrupted", interrupted), (v,)), x)
    run = ostinato.function([x], ys, mode="native")
    with pytest.raises(interruption):
        run([1.0, 3.0, 5.0])
    assert seen == [1, 3]  # nothing is computed again
    assert run([4.0]).tolist() == [4]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_before_the_reference_is_entered() -> None:
    """As by a signal that comes while native code runs."""
    x = T.dvector("x")
    run = native([x], [cube_root(x)])

    def early(site: int, words: int, context: int) -> None:
        raise KeyboardInterrupt

    entry = callouts._ENTRY(early)
    address = ctypes.cast(entry, ctypes.c_void_p).value
    word = CONTEXT + CALL_OUT
    before = run._descriptor[word]
    run._descriptor[word] = address
    with pytest.raises(KeyboardInterrupt):
        run([np.array([8.0])])
    run._descriptor[word] = before
    np.testing.assert_allclose(run([np.array([8.0])])[0], [2.0])


@pytest.mark.parametrize(
    ("numpy", "message"),
    [
        (lambda x: x.astype("float32"), r"made float32\(2,\), declared float64\[\?\]"),
        (lambda x: x.sum(), r"made float64\(\), declared float64\[\?\]"),
    ],
)
def test_a_reference_that_breaks_the_promise_of_its_op(numpy: Any, message: str) -> None:
    x = T.dvector("x")
    run = ostinato.function([x], make(op("wrong", numpy), (x,)), mode="native")
    with pytest.raises(VerificationError, match=f"wrong {message}"):
        run([1.0, 2.0])


# ---- many calls -----------------------------------------------------------------------------------


def test_calls_in_many_threads_at_once() -> None:
    x = T.dvector("x")
    ys, _ = ostinato.scan(lambda v, h: cube_root(h + v), x, T.constant(0.0, dtype="float64"))
    run = ostinato.function([x], [ys, positive(x)], mode="native")
    inputs = [np.linspace(-k, k + 1, 300) for k in range(6)]
    expected = [run(v) for v in inputs]
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(10):
            if any(not np.array_equal(a, b) for a, b in zip(run(inputs[k]), expected[k], strict=True)):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_a_reference_may_call_the_function_that_calls_it() -> None:
    n = T.lscalar("n")
    run: list[Any] = []
    factorial = op("factorial", lambda k: np.int64(1) if k <= 1 else k * run[0](k - 1)[()])
    values, _ = ostinato.map(lambda k: make(factorial, (k,)) + 0 * n, T.arange(n, n + 1))
    run.append(ostinato.function([n], values[0], mode="native"))
    assert run[0](10) == 3628800


def test_memory_does_not_grow_with_the_steps() -> None:
    x, n = T.dvector("x"), T.lscalar("n")
    sums, _ = ostinato.map(lambda k: cube_root(x * k).sum(), T.arange(n))
    run = native([x, n], [sums])
    array = np.linspace(0, 1, 1000)

    def peak(steps: int) -> int:
        tracemalloc.start()
        run([array, np.int64(steps)])
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    few, many = peak(10), peak(5000)
    assert many < few + 200_000  # 5000 results are 40 MB, the sums of them 40 KB
    gc.collect()
    assert run._callouts is not None
    assert run._callouts._calls.running == []


def test_a_workspace_that_is_too_small_at_first() -> None:
    x = T.dvector("x")
    ys, _ = ostinato.map(lambda v: cube_root(v) * x, x)
    check([x], [ys], np.linspace(-1, 1, 300))


# ---- what is told ---------------------------------------------------------------------------------


def test_explain_tells_what_is_called_and_where() -> None:
    x = T.dvector("x")
    ys, _ = ostinato.scan(lambda v, h: cube_root(h) + cube_root(v), x, T.constant(1.0, dtype="float64"))
    text = ostinato.function([x], [ys, positive(x)], mode="native").explain()
    assert "compiled to one native function" in text
    assert "Calls out to NumPy: positive, cube_root (in a loop), 2 times.\n" in text
    plain = ostinato.function([x], x + 1, mode="native").explain()
    assert "NumPy" not in plain


def test_text_of_a_call_out() -> None:
    x = T.dvector("x")
    lines = str(lower_graph(Graph((x,), (positive(x), T.constant(np.arange(20.0)))))).splitlines()
    assert "result.4, size.5 = call out 0(advance(word.2, 0), word.3, 1)" in lines
    assert "data.6 = data float64[20]" in lines


def test_code_has_no_addresses_of_this_process() -> None:
    x = T.dvector("x")
    graph = Graph((x,), (positive(x) + T.constant(np.arange(9000.0))[0],))
    assert Native(graph).build.llvm == Native(graph).build.llvm
