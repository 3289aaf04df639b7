"""The native backend against the reference: every op, special values, long arrays, random loops.

What has no native form calls its reference: see `test_callouts.py`.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import ostinato
import ostinato.tensor as T
from ostinato.backends.llvm.run import Native
from ostinato.backends.reference import compile_graph as compile_reference
from ostinato.errors import OstinatoIndexError
from ostinato.graph import Graph, Node
from ostinato.lower.program import lower_graph
from ostinato.lower.rules import ELEMENTWISE
from ostinato.lower.scalarize import RULES
from ostinato.ops import OPS, Op, Sample
from ostinato.ops.logspace import WRITTEN_OUT
from ostinato.ops.sizes import SIZE
from ostinato.rewrite.pipeline import rewrite
from test_loops import Program, inputs_of, programs, symbolic, symbolic_cost
from test_ops import CASES, variables


def compare(graph: Graph, arrays: list[Any], rtol: float = 1e-13, signs: bool = True) -> None:
    """Native results are those of the reference, to rounding; signs of zeros too, unless they come from sums."""
    held = [np.asarray(a) for a in arrays]
    native, reference = Native(graph)(held), compile_reference(graph)(held)
    for a, b in zip(native, reference, strict=True):
        b = np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol / 10)
        if a.dtype.kind == "f" and signs:
            np.testing.assert_array_equal(np.signbit(a[b == 0]), np.signbit(b[b == 0]))


@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
@pytest.mark.parametrize(("op", "sample"), CASES)
def test_every_op(op: Op, sample: Sample, static: bool) -> None:
    inputs = variables(sample, static)
    graph = Graph(tuple(inputs), (sample.build(*inputs),))
    compare(graph, list(sample.arrays))
    missing = op.name not in RULES and op is not SIZE and op not in WRITTEN_OUT  # a pass makes others of these
    assert bool(Native(graph).report.called_out) == missing


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.5, 1e-310, 1e300, -1e300, np.inf, -np.inf, np.nan])
UNARY = [n for n in ELEMENTWISE if n in OPS and OPS[n].samples and len(OPS[n].samples[0].arrays) == 1 and n != "cast"]
BINARY = [n for n in ELEMENTWISE if n in OPS and OPS[n].samples and len(OPS[n].samples[0].arrays) == 2]
FLOAT_ONLY = {"true_div"}
BITS = {"and", "or", "xor", "invert", "logical_not"}


def build(name: str, *operands: Any) -> Any:
    return getattr(T, {"and": "and_", "or": "or_"}.get(name, name))(*operands)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", [n for n in UNARY if n not in BITS])
def test_functions_at_special_values_and_on_long_arrays(name: str, dtype: str) -> None:
    """13 special values make scalars of the tail; 39 of them fill vectors too."""
    x = T.tensor(dtype, (None,), "x")
    graph = Graph((x,), (build(name, x),))
    values = SPECIAL.astype(dtype, copy=True) if dtype == "float64" else np.clip(SPECIAL, -3e38, 3e38).astype(dtype)
    for array in (values, np.repeat(values, 3), np.linspace(-0.9, 0.9, 101).astype(dtype)):
        compare(graph, [array], rtol=1e-14 if dtype == "float64" else 2e-6)


@pytest.mark.parametrize("name", [n for n in BINARY if n not in BITS])
def test_binary_operations_at_special_values(name: str) -> None:
    x, y = T.dvectors("x", "y")
    graph = Graph((x, y), (build(name, x, y),))
    a, b = np.meshgrid(SPECIAL, SPECIAL)
    compare(graph, [a.ravel(), b.ravel()], rtol=1e-14)


INTEGERS = ["int8", "int32", "int64", "uint8", "uint64"]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "floor_div", "mod", "maximum", "lt", "eq", "and", "or", "xor"])
def test_integers(name: str, dtype: str) -> None:
    info = np.iinfo(dtype)
    values = np.array([info.min, info.min + 1, 0, 1, 2, 7, info.max], dtype)
    if dtype.startswith("int"):
        values = np.append(values, np.array([-1, -7], dtype))
    a, b = np.meshgrid(values, values)
    x, y = (T.tensor(dtype, (None,), n) for n in "xy")
    compare(Graph((x, y), (build(name, x, y),)), [a.ravel(), b.ravel()])


@pytest.mark.parametrize("source", ["bool", *INTEGERS, "float32", "float64"])
@pytest.mark.parametrize("target", ["bool", "int8", "int32", "int64", "uint8", "float32", "float64"])
def test_casts(source: str, target: str) -> None:
    values = np.array([0, 1, 2, 100]).astype(source)
    if source.startswith(("int", "float")):
        values = np.append(values, np.array([-1, -100], source))
    if source.startswith("float") and target.startswith("uint"):
        values = values[values >= 0]
    x = T.tensor(source, (None,), "x")
    compare(Graph((x,), (T.cast(x, target),)), [values])


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 16, 17, 100])
def test_lengths_around_the_width_of_vectors(n: int) -> None:
    x, y = T.dvectors("x", "y")
    graph = Graph((x, y), (x * y + 1, (x * y).sum(), T.where(x > y, x, -y)))
    compare(graph, [np.linspace(-1, 1, n), np.linspace(2, -3, n)])


def test_sizes_that_are_1_at_run_time_are_stretched() -> None:
    x, y = T.dmatrices("x", "y")
    graph = Graph((x, y), (x + y, T.grad((x * y).sum(), x)))
    native = Native(graph)
    for a, b in (((3, 4), (3, 4)), ((1, 4), (3, 4)), ((3, 1), (1, 4)), ((1, 1), (3, 1))):
        arrays = [np.random.default_rng(0).normal(size=s) for s in (a, b)]
        for found, expected in zip(native(arrays), compile_reference(graph)(arrays), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-14)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_random_loops_and_their_gradients(program: Program) -> None:
    arrays = program.arrays()
    inputs = inputs_of(arrays)
    outputs = symbolic(program, inputs)
    grads = T.grad(symbolic_cost(program, outputs), inputs, disconnected_inputs="ignore")
    compare(rewrite(Graph(tuple(inputs), (*outputs, *grads))), arrays, rtol=1e-11)


def recurrence() -> tuple[Node, Any]:
    x = T.dvector("x")
    ys, _ = ostinato.scan(lambda v, h: T.tanh(h * 0.5 + v), sequences=x, outputs_info=T.constant(0.0, dtype="float64"))
    return x, ys


def test_one_compilation_serves_all_lengths_and_the_workspace_grows() -> None:
    x, ys = recurrence()
    native = Native(Graph((x,), (ys, T.grad(ys.sum(), x))))
    reference = compile_reference(native.graph)
    for n in (0, 1, 5, 1000, 100_000, 3):
        array = np.cos(np.arange(n))
        for a, b in zip(native([array]), reference([array]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_loops_that_stop_by_a_condition() -> None:
    """Values and derivatives to second order; the bound on the steps costs nothing."""
    a, v = T.dscalar("a"), T.dvector("v")
    ys, _ = ostinato.scan(
        lambda x: (new := T.cos(x * a), ostinato.until(abs(new - x).max() < 1e-10)), outputs_info=v, n_steps=10**9
    )
    first = T.grad(ys[-1].sum() + (ys**2).sum(), [a, v])
    graph = rewrite(Graph((a, v), (ys, *first, *T.grad(first[0], [a, v]), ys.shape[0])))
    for width in (1, 3, 40):
        compare(graph, [0.9, np.linspace(0, 1, width)], rtol=1e-11, signs=False)


@pytest.mark.parametrize("steps", [1, 63, 64, 65, 128, 129, 5000])
def test_outputs_grow_to_the_steps_made(steps: int) -> None:
    a = T.lscalar("a")
    (ks, rows, flags), _ = ostinato.scan(
        lambda k: ([k + 1, T.stack([k, -k]) * 0.5, k > 2], ostinato.until(k + 1 >= a)),
        outputs_info=[T.constant(0, dtype="int64"), None, None],
        n_steps=10**12,
    )
    compare(Graph((a,), (ks, rows, flags)), [np.int64(steps)])


def test_loops_that_stop_by_a_condition_within_loops() -> None:
    """Each inner loop makes another number of steps; what it takes of the workspace is given back."""
    x = T.dvector("x")

    def collatz(start: Any) -> list[Any]:
        walk, _ = ostinato.scan(
            lambda k: (T.where(k % 2 < 0.5, k / 2, 3 * k + 1), ostinato.until(k <= 2)),
            outputs_info=start,
            n_steps=10**6,
        )
        return [walk.max(), T.cast(walk.shape[0], "float64"), T.log(walk).sum()]

    outputs, _ = ostinato.map(collatz, sequences=x)
    graph = rewrite(Graph((x,), (*outputs, T.grad(outputs[2].sum(), x))))
    compare(graph, [np.array([27.0, 5.0, 97.0, 871.0, 3.0] * 40)], rtol=1e-12)


def test_a_failure_is_told_by_the_interpreter() -> None:
    x, i = T.dvector("x"), T.lvector("i")
    ys, _ = ostinato.map(lambda k: x[k] * 2, sequences=i, name="lookup")
    run = ostinato.function([x, i], ys, mode="native")
    assert run([5.0, 6.0], [1, -2]).tolist() == [12, 10]
    with pytest.raises(OstinatoIndexError, match=r"step 1 of lookup: .*test_native\.py:\d+"):
        run([5.0, 6.0], [0, 2])
    y = T.dvector("y")
    with pytest.raises(ValueError, match=r"\(x \+ y\) \(test_native\.py:\d+\) failed"):
        ostinato.function([x, y], x + y, mode="native")([1.0, 2.0], [1.0, 2.0, 3.0])


def test_strided_and_read_only_arguments() -> None:
    x = T.dmatrix("x")
    run = ostinato.function([x], [x * 2, x.sum(axis=0), x.T], mode="native")
    base = np.arange(24.0).reshape(4, 6)
    base.flags.writeable = False
    for view in (base[::2], base[:, ::-1], base.T, base[1:3, 2:5]):
        doubled, columns, turned = run(view)
        np.testing.assert_array_equal(doubled, view * 2)
        np.testing.assert_allclose(columns, view.sum(axis=0))
        np.testing.assert_array_equal(turned, view.T)
        turned[:] = 0  # results are the caller's own


def test_updates_and_several_results_in_native_mode() -> None:
    s = ostinato.shared(np.array([1.0, 2.0]), "s")
    x = T.dvector("x")
    run = ostinato.function([x], [s * x, s], updates={s: s + x}, mode="native")
    product, before = run([3.0, 4.0])
    assert product.tolist() == [3, 8]
    assert before.tolist() == [1, 2]
    assert s.get_value().tolist() == [4, 6]


def test_one_compiled_function_in_many_threads() -> None:
    x, ys = recurrence()
    run = ostinato.function([x], [ys, T.grad(ys.sum(), x)], mode="native")
    inputs = [np.linspace(-k, k, 5000) for k in range(8)]
    expected = [run(v) for v in inputs]
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(20):
            if any(not np.array_equal(a, b) for a, b in zip(run(inputs[k]), expected[k], strict=True)):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


NEST = """\
word.2 = arguments.0[0]
word.3 = arguments.0[1]
buffer.9 = alloc float64[word.3] kept as results[0]
for t.4 < word.3 carrying output 0[t-1].5 = 0.0:
  row.7 = word.2[t.4]
  add.8 = add(output 0[t-1].5, row.7)
  buffer.9[t.4] = add.8
  next add.8 -> output 0[t-1].6
results.1[1] = word.3"""


def test_text_of_a_loop_nest() -> None:
    x = T.dvector("x")
    ys, _ = ostinato.scan(lambda v, a: a + v, sequences=x, outputs_info=T.constant(0.0, dtype="float64"))
    lines = [line for line in str(lower_graph(Graph((x,), (ys,)))).splitlines() if "fail if" not in line]
    assert "\n".join(lines) == NEST


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(1, 5, 1), (3, 0, 4), (4, 7, 8), (2, 3, 33), (5, 64, 71), (0, 3, 2)]
)
def test_matrix_products_of_sizes_around_the_widths(rows: int, inner: int, columns: int, dtype: str) -> None:
    a, b = (T.tensor(dtype, (None, None), n) for n in "ab")
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(rows, inner)).astype(dtype), rng.normal(size=(inner, columns)).astype(dtype)
    graph = Graph((a, b), (T.dot(a, b), T.dot(b.T, a.T), T.dot(a, b).sum(axis=0), T.dot(a, b).sum(axis=1)))
    for found, expected in zip(Native(graph)([x, y]), compile_reference(graph)([x, y]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12 if dtype == "float64" else 2e-4, atol=1e-5)


def test_a_long_chain_of_elementwise_operations() -> None:
    """Deep expressions go through memory on the way: neither lowering nor emission overflows the stack."""
    x = T.dvector("x")
    y = x
    for i in range(3000):
        y = T.sin(y) + x if i % 2 else y * 0.5
    compare(Graph((x,), (y,)), [np.linspace(-1, 1, 19)], rtol=1e-12)


def test_reductions_over_every_axis_of_long_arrays() -> None:
    x = T.dtensor3("x")
    outputs = [f(x, axis=a) for f in (T.sum, T.max, T.prod) for a in (0, 1, 2, (0, 1), (1, 2), None)]
    compare(Graph((x,), tuple(outputs)), [np.cos(np.arange(3 * 4 * 37.0)).reshape(3, 4, 37)], rtol=1e-12)


def test_sequences_that_cost_little_are_computed_where_they_are_read() -> None:
    """Rows of scalars and of a few numbers; what costs more, or is no row of few numbers, goes to memory."""
    x, m, w = T.dvector("x"), T.tensor("float64", (None, 2), "m"), T.dmatrix("w")
    start = T.constant(0.0, dtype="float64")
    scalars, _ = ostinato.scan(lambda v, k, h: h * 0.5 + v * k, [2.0 * x[::-1], T.arange(x.shape[0])], start)
    tiny, _ = ostinato.scan(lambda v, h: T.sin(h) + v[0] * v[1] + v.sum(), 1.0 - m, start)
    rows, _ = ostinato.scan(lambda v, h: h * 0.5 + v.sum(), -w, start)
    costly, _ = ostinato.scan(lambda v, h: h * 0.5 + v, T.exp(x), start)
    tables, _ = ostinato.scan(lambda v, h: h * 0.5 + v, T.constant(np.arange(5.0)), start)
    outputs = [scalars, tiny, rows, costly, tables]
    graph = rewrite(Graph((x, m, w), (*outputs, *T.grad(sum(o.sum() for o in outputs), [x, m, w]))))
    rng = np.random.default_rng(0)
    for n in (0, 1, 9):
        compare(graph, [rng.normal(size=n), rng.normal(size=(n, 2)), rng.normal(size=(n, 3))], rtol=1e-12)
    kept = [a.dtype for a in lower_graph(Graph((x,), (scalars,))).nest.body if type(a).__name__ == "Alloc"]
    assert kept == ["float64"]  # the result


def test_sums_that_wait_for_the_step_before_are_not_fused_with_products_that_do_not() -> None:
    x, a = T.dvector("x"), T.dscalar("a")
    ys, _ = ostinato.scan(lambda v, h: h + 3.0 * v, x, a)
    zs, _ = ostinato.scan(lambda v, h: 3.0 * h + v, x, a)
    late, early = (ostinato.function([x, a], o, mode="native").explain("llvm") for o in (ys, zs))
    assert "fadd contract double" not in late
    assert "fadd double" in late
    assert "fadd contract double" in early
    for o in (ys, zs):
        compare(Graph((x, a), (o,)), [np.linspace(-1, 1, 33), np.float64(0.3)])


def test_sizes_whose_equalities_lead_around_in_a_circle() -> None:
    """Products of the same three sizes in several orders; then one of these is found equal to a fourth."""
    x, y = T.dvector("x"), T.dtensor3("y")
    cost = T.sin(T.dot(x, y)).sum()
    first = T.grad(cost, [x, y])
    graph = rewrite(Graph((x, y), tuple(T.grad(sum(T.sin(g).sum() for g in first), [x, y]))))
    rng = np.random.default_rng(0)
    compare(graph, [rng.normal(size=3), rng.normal(size=(2, 3, 4))], rtol=1e-12)


def test_one_compile_for_two_hundred_lengths_and_other_sizes() -> None:
    """A network and its gradient: no length, batch or width is compiled again, and all are right."""
    x, h0, U = T.dtensor3("x"), T.dmatrix("h0"), T.dmatrix("U")
    y, _ = ostinato.scan(lambda x_t, h: T.tanh(x_t + T.dot(h, U)), x, h0)
    outputs = [y[-1], T.grad(T.sum(y**2), U)]
    run = ostinato.function([x, h0, U], outputs, mode="native")
    rng = np.random.default_rng(3)
    for n in range(1, 201):
        batch, width = 1 + n % 5, 1 + n % 7
        arrays = [rng.normal(size=s) / 2 for s in ((n, batch, width), (batch, width), (width, width))]
        state = arrays[1]
        for row in arrays[0]:
            state = np.tanh(row + state @ arrays[2])
        last, gradient = run(*arrays)
        np.testing.assert_allclose(last, state, rtol=1e-10, atol=1e-12)
        assert gradient.shape == (width, width)
    assert run.compilations == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_number_of_elements(dtype: str) -> None:
    """The last elements, which do not fill a vector, have the digits that all others have."""
    x = T.vector("x", dtype=dtype)
    f = ostinato.function([x], [T.exp(x) * x + 1.0, x > 0.5], mode="native")
    g = ostinato.function([x], x[::-1] * 2.0, mode="native")
    whole = np.random.default_rng(5).normal(size=200).astype(dtype)
    expected = f(whole)
    for n in [*range(40), 63, 65, 100]:
        first, larger = f(whole[:n])
        np.testing.assert_array_equal(first, expected[0][:n])
        np.testing.assert_array_equal(g(whole[:n]), whole[:n][::-1] * 2)
        np.testing.assert_array_equal(larger, whole[:n] > 0.5)
