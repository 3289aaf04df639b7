"""Rewrites: golden pairs, soundness of every rule by evaluation, and functions with and without passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from numeric import central
from ostinato.backends.reference import compile_graph
from ostinato.graph import Graph, leaves, topological
from ostinato.rewrite import algebra as algebra_module
from ostinato.rewrite.algebra import algebra
from ostinato.rewrite.constants import constant_folding
from ostinato.rewrite.engine import PASSES, run_passes
from ostinato.rewrite.last_only import last_only
from ostinato.rewrite.loop_absorb import loop_absorb
from ostinato.rewrite.loop_merge import loop_merge
from ostinato.rewrite.loop_prune import loop_prune
from ostinato.rewrite.loop_shorten import loop_shorten
from ostinato.rewrite.native import EARLY, NATIVE
from ostinato.rewrite.pattern import rule
from ostinato.rewrite.pipeline import PIPELINE, rewrite
from ostinato.rewrite.reduce_in_loop import reduce_in_loop
from ostinato.rewrite.rows_in_loop import rows_in_loop
from ostinato.verify import verify


def loops(graph: Graph) -> list[Any]:
    return [n for n in graph.nodes() if n.op.name == "loop"]


def test_every_pass_is_in_the_pipeline() -> None:
    assert set(PASSES.values()) == {*PIPELINE, *EARLY, *NATIVE}


# ---- algebra --------------------------------------------------------------------------------------

SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.1, -2.5, 1e-320, 1e308, -1e308, np.inf, -np.inf, np.nan])


@pytest.mark.parametrize("index", range(len(algebra_module.RULES)), ids=lambda i: algebra_module.RULES[i].__name__)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rules_hold_bit_for_bit(index: int, dtype: str) -> None:
    r = rule(algebra_module.RULES[index], dtype)
    run = compile_graph(Graph(r.variables, (r.left, r.right)))
    with np.errstate(over="ignore"):
        values = SPECIAL.astype(dtype)
    for sides in itertools.product(values, repeat=len(r.variables)):
        left, right = run(sides)
        assert left.dtype == right.dtype == dtype
        np.testing.assert_array_equal(left, right)
        assert np.isnan(left) or np.signbit(left) == np.signbit(right)


def rewritten(make_result: Callable[..., Any], *inputs: Any) -> Any:
    return algebra(Graph(inputs, (make_result(*inputs),))).results[0]


def test_algebra_keeps_the_type() -> None:
    row, matrix = T.tensor("float64", (1, None), "row"), T.dmatrix("m")
    assert rewritten(lambda x: x * 1, matrix) is matrix
    ones = T.constant(np.ones((3, 1)))
    assert rewritten(lambda x: x * ones, row) is row * ones  # broadcasts: not the same type
    i = T.iscalar("i")
    assert rewritten(lambda x: x * 1, i) is i
    assert rewritten(lambda x: x**2, T.fvector("f")).op.name == "mul"


def test_zero_is_not_added_away() -> None:
    """-0 + 0 is 0, so x + 0 is not x; x - 0 is."""
    x = T.dscalar("x")
    assert rewritten(lambda x: x + 0.0, x) is x + 0.0
    assert rewritten(lambda x: x - 0.0, x) is x
    minus_zero = T.constant(-0.0, dtype="float64")
    assert rewritten(lambda x: x - minus_zero, x) is x - minus_zero


# ---- constants ------------------------------------------------------------------------------------


def test_constant_folding() -> None:
    x = T.dvector("x")
    two = T.constant(2.0, dtype="float64")
    graph = constant_folding(Graph((x,), (x * (two + two), T.arange(3) * 2)))
    assert graph.results[0] is x * T.constant(4.0, dtype="float64")
    assert graph.results[1].data.tolist() == [0, 2, 4]


def test_constant_folding_leaves_large_results_and_failures_alone() -> None:
    assert constant_folding(Graph((), (T.arange(1000) * 2,))).results[0].op.name == "mul"
    i = T.constant(np.array([7]))
    outside = T.constant(np.arange(3.0))[i]
    assert constant_folding(Graph((), (outside,))).results[0].op.name == "gather"
    with pytest.raises(IndexError, match="out of bounds"):
        ostinato.function([], outside)()


# ---- loops ----------------------------------------------------------------------------------------


def recurrence() -> tuple[Any, Any, Any]:
    """A cost and its gradient, which needs the state before each step: a recording loop."""
    x, w = T.dvector("x"), T.dscalar("w")
    ys, _ = ostinato.scan(lambda v, h: T.tanh(h * w + v), sequences=x, outputs_info=T.constant(0.1, dtype="float64"))
    cost = (ys**2).sum()
    return (x, w), cost, T.grad(cost, w)


@pytest.mark.parametrize("mode", ["native", "reference"])
def test_loops_in_the_bodies_of_merged_loops_are_merged(mode: str) -> None:
    """Each step solves an equation; the gradient records how, and needs no other solution for that."""
    x, y, d = T.dvector("x"), T.dscalar("y"), T.dscalar("d")

    def step(x_t: Any, y: Any) -> Any:
        def newton(z: Any) -> Any:
            error = z - y - d * (x_t - z**3)
            return z - error / (1 + 3 * d * z * z), ostinato.until(abs(error) < 1e-9)

        return ostinato.scan(newton, outputs_info=y, n_steps=50)[0][-1]

    ys, _ = ostinato.scan(step, x, y)
    f = ostinato.function([x, y, d], [ys, *T.grad(ys[-1], [y, d])], mode=mode)
    forwards, backwards = loops(f.graph)
    assert len(loops(forwards.params[0].body)) == 2, "the solver, and its gradient"
    assert loops(backwards.params[0].body) == []
    given = [np.array([0.5, -1.0, 0.25]), 0.5, 0.5]
    found, _, slope = f(*given)
    for xs, before, after in zip(given[0], [0.5, *found], found, strict=False):
        assert after + 0.5 * after**3 == pytest.approx(before + 0.5 * xs, abs=1e-9)
    moved = [f(*given[:2], 0.5 + h)[0][-1] for h in (1e-5, -1e-5)]
    assert slope == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-7)


def test_loop_merge_makes_one_of_the_loop_and_its_recording() -> None:
    inputs, cost, g = recurrence()
    h = T.dscalar("h")
    zs, _ = ostinato.scan(lambda v, h: T.exp(h * v), sequences=inputs[0], outputs_info=h)  # left alone
    graph = Graph((*inputs, h), (cost, g, zs))
    assert len(loops(graph)) == 4
    merged = loop_merge(graph)
    verify(merged)
    assert len(loops(merged)) == 3
    values = [np.linspace(-1, 1, 5), np.float64(0.7), np.float64(0.2)]
    for a, b in zip(compile_graph(graph)(values), compile_graph(merged)(values), strict=True):
        np.testing.assert_array_equal(a, b)


def test_loop_prune_drops_what_nobody_needs() -> None:
    x, w = T.dvectors("x", "w")
    zero = T.constant(0.0, dtype="float64")
    (a, b, c), _ = ostinato.scan(
        lambda x_t, w_t, a, b: (a + x_t, b + a * w_t, T.exp(w_t)), sequences=[x, w], outputs_info=[zero, zero, None]
    )
    for result, sequences, carries in ((a, 1, 1), (b, 2, 2), (c, 1, 0)):
        pruned = loop_prune(Graph((x, w), (result,)))
        verify(pruned)
        (loop,) = loops(pruned)
        assert (loop.params[0].n_sequences, loop.params[0].n_carries) == (sequences, carries)
        assert len(loop.type.items) == carries + 1 + 1
        before, after = (
            compile_graph(g)([np.arange(3.0), np.arange(3.0) + 1])[0] for g in (Graph((x, w), (result,)), pruned)
        )
        np.testing.assert_array_equal(before, after)


def test_loop_prune_keeps_what_the_condition_needs() -> None:
    zero = T.constant(0.0, dtype="float64")
    (_, b), _ = ostinato.scan(
        lambda a, b: ([a + 1, b + 2], ostinato.until(a >= 3)), outputs_info=[zero, zero], n_steps=10
    )
    assert ostinato.function([], b)().tolist() == [2, 4, 6, 8]


def same_values(before: Graph, after: Graph, *values: Any) -> None:
    verify(after)
    for a, b in zip(compile_graph(before)(values), compile_graph(after)(values), strict=True):
        np.testing.assert_array_equal(a, b)


ABSORBED = """\
graph(x: float64[?], w: float64):
  %0 = size[axis=0] x : int64
  %1 = loop[1 sequences, 2 carries] %0 x 0.5 0. w : (float64, float64, float64[?], float64[?], int64)  # tangent of loop
    body(t: int64, x[t]: float64, output 0[t-1]: float64, t_output 0[t-1]: float64, w: float64):
      %0 = mul output 0[t-1] w : float64
      %1 = add %0 x[t] : float64
      %2 = mul t_output 0[t-1] w : float64
      %3 = add %2 output 0[t-1] : float64
      return %1, %3, %1, %3
  %2 = item[index=2] %1 : float64[?]
  %3 = item[index=3] %1 : float64[?]
  return %2, %3"""


def test_loop_absorb_makes_one_of_the_loop_and_its_tangent() -> None:
    x, w = T.dvector("x"), T.dscalar("w")
    ys, _ = ostinato.scan(lambda v, h: h * w + v, sequences=x, outputs_info=T.constant(0.5, dtype="float64"))
    graph = Graph((x, w), (ys, ostinato.jvp(ys, w, 1.0)))
    assert len(loops(graph)) == 2
    assert len(loops(loop_absorb(graph))) == 1
    assert str(rewrite(graph)) == ABSORBED
    same_values(graph, loop_absorb(graph), np.linspace(-1, 1, 5), np.float64(0.7))


def test_loop_absorb_tells_states_that_start_alike_apart() -> None:
    """The small loop has the second state of the large one; a third has other steps altogether."""
    x = T.dvector("x")
    zero = T.constant(0.0, dtype="float64")
    (a, b), _ = ostinato.scan(lambda v, a, b: [a + v, b - v], sequences=x, outputs_info=[zero, zero])
    sums, _ = ostinato.scan(lambda v, a: a + v, sequences=x, outputs_info=zero)
    others, _ = ostinato.scan(lambda v, a: a * v, sequences=x, outputs_info=zero)
    squares, _ = ostinato.map(lambda v: v**2, sequences=x)
    graph = Graph((x,), (a, b, sums, others, squares))
    after = loop_absorb(graph)
    assert len(loops(after)) == 2  # what has no state can be recorded by any of them
    same_values(graph, after, np.arange(4.0))


def test_loop_absorb_leaves_loops_that_need_each_other() -> None:
    """The direction of the tangent is made of the values: they must be there first."""
    x, w = T.dvector("x"), T.dscalar("w")
    ys, _ = ostinato.scan(lambda v, h: T.sin(h * w) + v, sequences=x, outputs_info=T.constant(0.5, dtype="float64"))
    graph = Graph((x, w), (ys, ostinato.jvp(ys, x, T.cos(ys))))
    assert len(loops(loop_absorb(graph))) == 2
    same_values(graph, loop_absorb(graph), np.linspace(-1, 1, 5), np.float64(0.7))


def test_loop_absorb_with_until() -> None:
    x, w = T.dvector("x"), T.dscalar("w")
    ys, _ = ostinato.scan(
        lambda v, h: (h * w + v, ostinato.until(h > 2)), sequences=x, outputs_info=T.constant(0.5, dtype="float64")
    )
    first = ostinato.jvp(ys, [x, w], [T.ones_like(x), 1.0])
    graph = Graph((x, w), (ys, ys.shape[0], first, ostinato.jvp(first, w, 1.0)))
    assert len(loops(loop_absorb(graph))) == 1
    same_values(graph, loop_absorb(graph), np.linspace(0, 2, 9), np.float64(0.9))


GOLDEN = """\
graph(x: float64[?], w: float64[?]):
  %0 = size[axis=0] x : int64
  %1 = size[axis=0] w : int64
  %2 = minimum %0 %1 : int64
  %3 = loop[1 sequences, 1 carries] %2 x 0. : (float64, float64[?], int64)
    body(t: int64, x[t]: float64, output 0[t-1]: float64):
      %0 = add output 0[t-1] x[t] : float64
      return %0, %0
  %4 = item[index=1] %3 : float64[?]
  return %4"""


def test_golden_text_of_a_pruned_loop() -> None:
    x, w = T.dvectors("x", "w")
    zero = T.constant(0.0, dtype="float64")
    (a, _), _ = ostinato.scan(lambda x_t, w_t, a, b: (a + x_t, b * w_t), sequences=[x, w], outputs_info=[zero, zero])
    text = str(rewrite(Graph((x, w), (a,))))
    assert text == GOLDEN


def test_passes_reach_bodies_of_loops() -> None:
    x = T.dvector("x")
    ys, _ = ostinato.map(lambda v: v * 1 + T.constant(2.0) * 3.0, sequences=x)
    graph = run_passes(Graph((x,), (ys,)), PIPELINE)
    body = loops(graph)[0].params[0].body
    assert [n.op.name for n in topological(body.results) if n.inputs] == ["add"]


@pytest.mark.parametrize("order", [PIPELINE, PIPELINE[::-1], ()], ids=["as is", "reversed", "none"])
def test_results_do_not_depend_on_the_passes(order: Any) -> None:
    inputs, cost, g = recurrence()
    plain = Graph(inputs, (cost, g, T.grad(g, inputs[0])))
    graph = run_passes(plain, order)
    verify(graph)
    values = [np.linspace(-1, 1, 7), np.float64(0.7)]
    for a, b in zip(compile_graph(graph)(values), compile_graph(plain)(values), strict=True):
        np.testing.assert_array_equal(a, b)


def test_orders_of_derivatives_do_not_multiply_loops() -> None:
    """Each order reverses every loop of the order before once, however often it is recorded."""
    x = T.dscalar("x")
    ys, _ = ostinato.scan(lambda p: p * x, outputs_info=T.ones_like(x), n_steps=5)
    y, counts = ys[-1], []
    for _ in range(4):
        y = T.grad(y, x)
        counts.append(len(loops(rewrite(Graph((x,), (y,))))))
    assert counts[:2] == [2, 4]
    assert all(later <= 2 * earlier for earlier, later in itertools.pairwise(counts))


def test_loop_absorb_of_twins_that_record_more_and_less() -> None:
    """Loops of the same params, as gradients make them: what one becomes by recording more may be the other."""
    inputs, cost, g = recurrence()
    again = T.grad(g, inputs[0])
    graph = Graph(inputs, (cost, g, again, ostinato.jvp(g, inputs[0], T.ones_like(inputs[0]))))
    after = loop_absorb(graph)
    assert len(loops(after)) < len(loops(graph))
    same_values(graph, after, np.linspace(-1, 1, 5), np.float64(0.7))


def test_loop_absorb_keeps_which_rows_are_recorded() -> None:
    x, w = T.dvector("x"), T.dscalar("w")
    ys, _ = ostinato.scan(
        lambda v, h: T.sin(h * w) + v,
        sequences=x,
        outputs_info=T.constant(0.5, dtype="float64"),
        keep=ostinato.every(3),
    )
    tangent = ostinato.jvp(ys, w, 1.0)
    graph = Graph((x, w), (ys, tangent, ys.shape[0], T.grad((tangent**2).sum(), w)))
    after = loop_absorb(graph)
    assert len(loops(after)) < len(loops(graph))
    same_values(graph, after, np.linspace(-1, 1, 8), np.float64(0.7))


# ---- last_only --------------------------------------------------------------------------------------


def last_rows(kind: str) -> tuple[list[Any], Any]:
    """What is read of the ends of a loop's outputs: of a state, of an output that is not fed back, of several rows."""
    x, n = T.dvector("x"), T.lscalar("n")

    def step(x_t: Any, h: Any) -> Any:
        outputs = [T.tanh(h + x_t), T.exp(x_t)]
        return (outputs, ostinato.until(x_t > 2)) if kind == "until" else outputs

    (h, y), _ = ostinato.scan(step, x[:n], [T.constant(0.5), None])
    return [x, n], [h[-1], y[-1], y[-2:], h[-3:-1].sum(), y[-1] * h[-1]]


@pytest.mark.parametrize("kind", ["for", "until"])
def test_last_only_stores_no_rows(kind: str) -> None:
    inputs, results = last_rows(kind)
    before = loop_merge(Graph(tuple(inputs), tuple(results)))
    after = loop_prune(last_only(before))
    verify(after)
    (loop,) = loops(after)
    assert loop.params[0].n_outputs == 0
    assert loop.params[0].n_carries == 1 + 2 + 2  # h, its two rows before, two of y
    for n in (3, 4, 9):
        values = [np.linspace(-1, 3, 9), np.int64(n)]
        for a, b in zip(compile_graph(before)(values), compile_graph(after)(values), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", ["reference", "native"])
def test_rows_that_were_never_made_are_missed_as_before(mode: str) -> None:
    inputs, (h, y, few, *_) = last_rows("for")
    state, output, two = (ostinato.function(inputs, r, mode=mode) for r in (h, y, few))
    for f in (state, output):
        with pytest.raises(IndexError):
            f(np.ones(3), 0)
    assert [len(two(np.ones(3), n)) for n in range(4)] == [0, 1, 2, 2]


def test_last_only_leaves_rows_that_are_read_otherwise() -> None:
    x = T.dvector("x")
    y, _ = ostinato.scan(lambda x_t: T.exp(x_t), x)
    for results in ([y[-1], y], [y[-1], y.sum()], [y[-9]], [y[0]], [y[::-1][-1]], [y[-1:0]], [y[T.lscalar("i")]]):
        params = [n for n in leaves(results) if n.op.name == "input"]
        graph = Graph(tuple(params), tuple(results))
        assert last_only(graph) == graph


def test_last_only_golden() -> None:
    x = T.dvector("x")
    h, _ = ostinato.scan(lambda x_t, h: T.tanh(h + x_t), x, T.constant(0.5))
    graph = Graph((x,), (h[-1],))
    after = loop_prune(last_only(graph))
    (before_loop,), (loop,) = loops(graph), loops(after)
    assert [str(t) for t in before_loop.type.items] == ["float64", "float64[?]", "int64"]
    assert [str(t) for t in loop.type.items] == ["float64", "int64"]
    assert np.array_equal(compile_graph(graph)([np.ones(4)])[0], compile_graph(after)([np.ones(4)])[0])


# ---- what is reduced, and what a loop alone reads -------------------------------------------------


def squares() -> Graph:
    """A sum of squares, and its derivative with respect to a number."""
    x, a = T.matrix("x"), T.vector("a")
    ys, _ = ostinato.scan(lambda x_t, h, a: h * a + x_t, x, T.zeros_like(a), a)
    return Graph((x, a), (((ys - x) * (ys - x)).sum(axis=0),))


def test_golden_text_of_a_sum_that_is_carried() -> None:
    graph = squares()
    after = run_passes(graph, (reduce_in_loop, loop_prune))
    (loop,) = loops(after)
    assert loop.params[0].n_carries == 2
    assert loop.params[0].n_outputs == 0
    assert [n.op.name for n in loop.params[0].body.nodes() if n.inputs] == ["mul", "add", "sub", "mul", "add"]
    assert [n.op.name for n in after.nodes()][-3:] == ["minimum", "subtensor", "sum"]
    values = [np.arange(12.0).reshape(4, 3), np.array([0.5, -0.1, 2.0])]
    np.testing.assert_array_equal(compile_graph(after)(values), compile_graph(graph)(values))


def test_golden_text_of_rows_made_in_the_loop() -> None:
    x, g = T.matrix("x"), T.scalar("g")
    last, _ = ostinato.foldl(lambda d_t, s: T.tanh(s) + d_t, (2 * x * g)[::-1], T.zeros_like(x[0]))
    graph = Graph((x, g), (last,))
    after = run_passes(graph, (rows_in_loop,))
    (before,), (loop,) = loops(graph), loops(after)
    assert [n.op.name for n in before.params[0].body.nodes()].count("mul") == 0
    assert [n.op.name for n in loop.params[0].body.nodes()].count("mul") == 2
    assert loop.inputs[1].op.name == "subtensor"
    assert loop.inputs[1].inputs[0] is x
    array = np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(compile_graph(after)([array, 0.3]), compile_graph(graph)([array, 0.3]))


def shortened(cost: Any, wrt: list[Any], inputs: list[Any]) -> bool:
    notes = ostinato.function(inputs, T.grad(cost, wrt), mode="native").explain()
    return "loop_shorten: loop 'gradient of loop' begins with the last row that is read." in notes


def test_golden_text_of_a_loop_that_begins_with_the_last_row() -> None:
    x, a = T.dmatrix("x"), T.dscalar("a")
    ys, _ = ostinato.scan(lambda x_t, h, a: a * h + x_t, x, T.zeros_like(x[0]), a)
    graph = rewrite(Graph((x, a), (T.grad((ys[:-1] ** 2).sum(), a),)))
    after = run_passes(graph, (loop_shorten,))
    (_, before), (_, loop) = loops(graph), loops(after)
    assert "inc_subtensor" in [n.op.name for n in graph.nodes()]
    assert "inc_subtensor" not in [n.op.name for n in after.nodes()]
    assert len(loop.inputs) == len(before.inputs) + 1
    assert [str(n.op) for n in topological(loop.inputs[:1])].count("maximum") == 1  # all rows but one
    array = np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(compile_graph(after)([array, 0.3]), compile_graph(graph)([array, 0.3]))


@pytest.mark.parametrize("stop", [-7, -1, 0, 1, 3, 40])
def test_gradients_of_first_rows_are_those_of_differences(stop: int) -> None:
    x, h0, a = T.dmatrix("x"), T.dvector("h0"), T.dvector("a")

    def step(x: Any, t: Any, h: Any, a: Any) -> Any:
        return T.tanh(a * h + x) + 0.1 * t * h

    ys, _ = ostinato.scan(step, [x, T.arange(x.shape[0])], h0, a)
    cost = (T.sin(ys[:stop]) * x[: ys[:stop].shape[0]]).sum()
    f = ostinato.function([x, h0, a], [cost, *T.grad(cost, [h0, a])], mode="native")
    other = ostinato.function([x, h0, a], [cost, *T.grad(cost, [h0, a])], mode="reference")

    def plain(x: Any, h: Any, a: Any) -> float:
        rows = []
        for t, now in enumerate(x):
            h = np.tanh(a * h + now) + 0.1 * t * h
            rows.append(h)
        rows = rows[:stop]
        return float(np.sum([np.sin(r) * now for r, now in zip(rows, x, strict=False)]))

    for n in (0, 1, 2, 6):
        rng = np.random.default_rng(n)
        arrays = [rng.normal(size=(n, 20)), rng.normal(size=20), rng.normal(size=20) / 2]
        found = f(*arrays)
        assert found[0] == pytest.approx(plain(*arrays), rel=1e-13, abs=1e-13)
        for k, g in enumerate(found[1:], 1):
            np.testing.assert_allclose(g, central(plain, arrays, k, 1e-5), rtol=1e-6, atol=1e-8)
        for g, expected in zip(found, other(*arrays), strict=True):
            np.testing.assert_allclose(g, expected, rtol=1e-12, atol=1e-14)


def test_what_begins_with_the_last_row_that_is_read_and_what_does_not() -> None:
    x, h0, a = T.dmatrix("x"), T.dvector("h0"), T.dscalar("a")
    ys, _ = ostinato.scan(lambda x_t, h, a: a * h + x_t, x, h0, a)
    inputs = [x, h0, a]
    first = (ys[:-1] ** 2).sum()
    assert shortened(first, [a], inputs)
    assert shortened(first, [a, h0], inputs)
    assert not shortened(first, [a, x], inputs)  # rows are recorded
    assert not shortened((ys[1:] ** 2).sum(), [a], inputs)  # the last row counts
    assert not shortened(first + ys[-1].sum(), [a], inputs)
    kept, _ = ostinato.scan(lambda x_t, h, a: a * h + x_t, x, h0, a, checkpoint=3)
    assert not shortened((kept[:-1] ** 2).sum(), [a], inputs)
    numbers, _ = ostinato.scan(lambda x_t, h, a: a * h + x_t, x[:, 0], h0[0], a)
    assert not shortened((numbers[:-1] ** 2).sum(), [a], inputs)


def test_steps_that_change_zeros_are_made() -> None:
    """A loop that has the form of a derivative, and is none: its state grows where all that it reads is zero."""
    x = T.dmatrix("x")
    cotangent = T.inc_subtensor(T.zeros_like(x)[:-2], 2.0 * x[:-2])
    zero = T.zeros((x.shape[1],), "float64")
    for step, stays in (
        (lambda g, h: g + h * 2.0, False),
        (lambda g, h: g + T.exp(h), True),
        (lambda g, h: T.maximum(g, h) + 1.0, True),
        (lambda g, h: T.cos(g) * h, False),
        (lambda g, h: T.where(h > 0.0, g, 1.0), True),
    ):
        last, _ = ostinato.foldl(step, cotangent[::-1], zero)
        graph = rewrite(Graph((x,), (last,)))
        after = run_passes(graph, (loop_shorten,))
        assert (after == graph) is stays
        values = [np.random.default_rng(5).normal(size=(5, 4))]
        np.testing.assert_array_equal(compile_graph(after)(values), compile_graph(graph)(values))


def test_arrays_of_sizes_that_may_differ_stay_outside() -> None:
    x, y, h = T.matrix("x"), T.matrix("y"), T.vector("h")
    ys, _ = ostinato.scan(lambda x_t, h: T.tanh(h) + x_t, x, h)
    graph = Graph((x, y, h), ((ys * y).sum(),))
    assert run_passes(graph, (reduce_in_loop,)) == graph
    one = ostinato.function([x, y, h], graph.results, mode="native")
    assert one(np.ones((1, 2)), np.ones((5, 2)), np.zeros(2))[0] == 10  # one row meets five


def test_rows_that_are_read_elsewhere_are_kept() -> None:
    x, h = T.matrix("x"), T.vector("h")
    ys, _ = ostinato.scan(lambda x_t, h: T.tanh(h) + x_t, x, h)
    for graph in (Graph((x, h), (ys.sum(), ys)), Graph((x, h), (ys.sum(), ys[3])), Graph((x, h), (ys.sum(axis=1),))):
        assert run_passes(graph, (reduce_in_loop,)) == graph


@pytest.mark.parametrize("reduced", ["max", "sum", "prod"])
def test_what_a_reduction_of_a_loop_is_compared_with_comes_from_outside(reduced: str) -> None:
    """The height of a wave, and its gradient: which rows reach it is only known after the loop."""
    rate, days = T.dscalar("rate"), T.iscalar("days")

    def step(s: Any, i: Any, rate: Any) -> Any:
        new = rate * s * i
        return s - new, i + new - 0.1 * i

    starts = [T.constant(0.9, dtype="float64"), T.constant(0.1, dtype="float64")]
    (_, i), _ = ostinato.scan(step, outputs_info=starts, non_sequences=rate, n_steps=days)
    height = getattr(T, reduced)(i)
    share = T.sum(T.where(T.eq(i, T.max(i)), i / T.sum(i), 0.0))
    f = ostinato.function([rate, days], [height, T.grad(height, rate), share], mode="native")

    def plain(rate: float) -> Any:
        s, i, rows = 0.9, 0.1, []
        for _ in range(30):
            s, i = s - rate * s * i, i + rate * s * i - 0.1 * i
            rows.append(i)
        return np.array(rows)

    value, slope, part = f(0.4, 30)
    rows = plain(0.4)
    assert value == pytest.approx(getattr(np, reduced)(rows), rel=1e-13)
    assert part == pytest.approx(rows.max() / rows.sum(), rel=1e-13)
    up, down = (getattr(np, reduced)(plain(0.4 + d)) for d in (1e-6, -1e-6))
    assert slope == pytest.approx((up - down) / 2e-6, rel=1e-6)
