"""Forms that overflow, underflow or cancel, and what takes their place: every rule against mpmath, derivatives too."""

from __future__ import annotations

from typing import Any

import mpmath as mp
import numpy as np
import pytest
from scipy import special

import ostinato
import ostinato.tensor as T
from ostinato.backends.reference import compile_graph
from ostinato.graph import Graph
from ostinato.rewrite import stability as module
from ostinato.rewrite.pattern import Rule, rule
from ostinato.rewrite.stability import stability

EPS = 2.0**-52
SWEEP = [0.0, *(s * v for v in (1e-300, 1e-20, 1e-8, 0.3, 0.69, 0.7, 1.0, 2.5, 30, 37, 100, 700, 1e3) for s in (1, -1))]
ALL = (*module.RULES, *module.RULES_OF_ONE_READER)

EXACT: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "true_div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "exp": mp.exp,
    "log": mp.log,
    "log1p": lambda a: mp.log(1 + a),
    "expm1": lambda a: mp.exp(a) - 1,
    "sigmoid": lambda a: 1 / (1 + mp.exp(-a)),
    "cast": lambda a: a,
}


def exactly(node: Any, values: dict[Any, Any]) -> Any:
    """The value of what is written, to a thousand digits; None where there is no real one."""
    if node in values:
        return values[node]
    if not node.inputs:
        return mp.mpf(float(node.params[0].array))
    args = [exactly(i, values) for i in node.inputs]
    try:
        found = None if None in args else EXACT[node.op.name](*args)
    except (ZeroDivisionError, ValueError):
        return None
    return found if found is None or mp.im(found) == 0 else None


def points(r: Rule) -> list[tuple[float, ...]]:
    if len(r.variables) == 1:
        return [(x,) for x in SWEEP]
    return [(x, y) for x in SWEEP[::2] for y in SWEEP[1::3]]


def error(found: float, exact: Any) -> float:
    return float(abs(mp.mpf(float(found)) - exact)) if np.isfinite(found) else np.inf


@pytest.mark.parametrize("make_sides", ALL, ids=lambda r: r.__name__)
def test_no_right_side_is_less_accurate(make_sides: Any) -> None:
    r = rule(make_sides)
    run = compile_graph(Graph(r.variables, (r.left, r.right)))
    with mp.workdps(1000), np.errstate(all="ignore"):
        for values in points(r):
            left, right = (float(v) for v in run([np.float64(v) for v in values]))
            exact = exactly(r.left, {x: mp.mpf(v) for x, v in zip(r.variables, values, strict=True)})
            if exact is None:
                assert np.isnan(right) or (np.isinf(right) and right == left), values
                continue
            of_sums = 4 * EPS * max(map(abs, values)) if len(values) > 1 else 0
            allowed = max(8 * EPS * float(abs(exact)), of_sums, 1e-320)
            assert error(right, exact) <= max(allowed, error(left, exact)), (values, left, right)
            assert error(right, exact) <= allowed, "never far off either"


@pytest.mark.parametrize("make_sides", ALL, ids=lambda r: r.__name__)
def test_special_values(make_sides: Any) -> None:
    r = rule(make_sides)
    run = compile_graph(Graph(r.variables, (r.left, r.right)))
    with np.errstate(all="ignore"):
        for x in (np.inf, -np.inf, np.nan):
            left, right = run([np.float64(x)] * len(r.variables))
            assert np.isnan(right) == np.isnan(x) or np.isnan(left), (x, left, right)
            assert np.isnan(left) or left == right, (x, left, right)


def test_native_code_computes_the_same() -> None:
    x = T.dvector("x")
    rules = [r for r in map(rule, ALL) if len(r.variables) == 1]
    graphs = [Graph(r.variables, (r.right,)).apply([x])[0] for r in rules]
    values = np.array([*SWEEP, np.inf, -np.inf, np.nan])
    with np.errstate(all="ignore"):
        native, reference = (ostinato.function([x], graphs, mode=m)(values) for m in ("native", "reference"))
    for a, b in zip(native, reference, strict=True):
        np.testing.assert_allclose(a, b, 1e-13, 1e-300)


def test_every_rule_is_used() -> None:
    x, y = T.dvector("x"), T.dvector("y")
    for make_sides in ALL:
        r = rule(make_sides)
        given = [x, y][: len(r.variables)]
        left, right = (Graph(r.variables, (side,)).apply(given)[0] for side in (r.left, r.right))
        inner = stability(Graph(tuple(given), (left,))).results[0]
        assert inner is right, make_sides.__name__


def test_what_a_function_of_two_readers_costs_is_not_doubled() -> None:
    """The derivative of a sigmoid is s (1 - s): that needs one exponential."""
    x = T.dvector("x")
    s = T.nnet.sigmoid(x)
    graph = Graph((x,), (s * (1 - s),))
    assert stability(graph).results == graph.results


@pytest.mark.parametrize("make_sides", [r for r in ALL if r.__name__ != "log_of_sum_of_exps"], ids=lambda r: r.__name__)
def test_derivatives_of_what_was_written_are_finite_and_right(make_sides: Any) -> None:
    r = rule(make_sides)
    x = T.dvector("x")
    cost = Graph(r.variables, (r.left,)).apply([x])[0].sum()
    values = np.array([v for v in (1e3, -1e3, 700, -700, 0.5, -0.5, 1e-20, -1e-20) if _is_inside(r, v)])
    with np.errstate(all="ignore"):
        found = ostinato.function([x], T.grad(cost, x), mode="reference")(values)
    for v, g in zip(values, found, strict=True):
        with mp.workdps(1000):
            at = mp.mpf(float(v))
            exact = mp.diff(lambda z: exactly(r.left, {r.variables[0]: z}), at, h=mp.mpf(10) ** -400)
        assert error(g, exact) <= max(1e-11 * float(abs(exact)), 1e-300), (v, g)


def _is_inside(r: Rule, v: float) -> bool:
    """Whether what is written is a number around a place."""
    with mp.workdps(1000):
        around = [exactly(r.left, {r.variables[0]: mp.mpf(v) + d}) for d in (-(mp.mpf(10) ** -390), mp.mpf(10) ** -390)]
    return None not in around


# ---- arrays -----------------------------------------------------------------------------------------

LOGITS = np.array([[1e3, -1e3, 700.0, 0.0], [0.5, 1e-20, -1.0, 2.0], [-1e3, -1e3, -1e3, -700.0]])


def softmaxes(x: Any, axis: int) -> list[Any]:
    weights = T.exp(x)
    peak = x.max(axis=axis, keepdims=True)
    shifted = T.exp(x - peak)
    return [
        T.softmax(x, axis=axis),
        weights / weights.sum(axis=axis, keepdims=True),
        shifted / shifted.sum(axis=axis, keepdims=True),
        weights / (weights.sum(axis=axis).dimshuffle(0, "x") if axis == 1 else weights.sum(axis=axis)),
    ]


@pytest.mark.parametrize("mode", ["native", "reference"])
@pytest.mark.parametrize("axis", [0, 1])
def test_logarithms_of_softmaxes(axis: int, mode: str) -> None:
    x, g = T.dmatrix("x"), T.dmatrix("g")
    logs = [T.log(p) for p in softmaxes(x, axis)]
    slopes = [T.grad((g * y).sum(), x) for y in logs]
    weights = np.random.default_rng(1).normal(size=LOGITS.shape)
    found = ostinato.function([x, g], [*logs, *slopes], mode=mode)(LOGITS, weights)
    exact = special.log_softmax(LOGITS, axis=axis)
    slope = weights - special.softmax(LOGITS, axis=axis) * weights.sum(axis=axis, keepdims=True)
    for y in found[: len(logs)]:
        np.testing.assert_allclose(y, exact, 1e-13, 1e-15)
    for d in found[len(logs) :]:
        np.testing.assert_allclose(d, slope, 1e-12, 1e-15)


def test_a_quotient_over_other_axes_is_no_softmax() -> None:
    x = T.dmatrix("x")
    weights = T.exp(x)
    wrong = T.log(weights / weights.sum(axis=1))  # broadcast along the rows
    run = ostinato.function([x], wrong, mode="reference")
    assert not run.notes
    values = np.random.default_rng(2).normal(size=(3, 3))
    np.testing.assert_allclose(run(values), values - special.logsumexp(values, axis=1), 1e-12)


@pytest.mark.parametrize("mode", ["native", "reference"])
def test_cross_entropies(mode: str) -> None:
    """As Theano's tutorials write them."""
    x, labels, z, t = T.dmatrix("x"), T.lvector("labels"), T.dvector("z"), T.dvector("t")
    p = T.nnet.softmax(x)
    costs = [
        -T.log(p)[T.arange(labels.shape[0]), labels].mean(),
        T.nnet.categorical_crossentropy(p, labels).mean(),
        T.nnet.crossentropy_categorical_1hot(p, labels).mean(),
        T.nnet.crossentropy_softmax_1hot(x, labels)[0].mean(),
    ]
    s = T.nnet.sigmoid(z)
    binary = [
        -(t * T.log(s) + (1 - t) * T.log(1 - s)).sum(),
        T.nnet.binary_crossentropy(s, t).sum(),
        T.nnet.sigmoid_binary_crossentropy(z, t).sum(),
    ]
    outputs = [*costs, *[T.grad(c, x) for c in costs], *binary, *[T.grad(c, z) for c in binary]]
    rows, places = LOGITS[:2], np.array([1, 3])
    zs, ts = np.array([1e3, -1e3, 1e-20, -700.0, 2.0]), np.array([0.0, 1.0, 0.25, 0.0, 1.0])
    found = ostinato.function([x, labels, z, t], outputs, mode=mode)(rows, places, zs, ts)
    nll = -special.log_softmax(rows, axis=1)[np.arange(2), places].mean()
    slope = (special.softmax(rows, axis=1) - np.eye(4)[places]) / 2
    entropy = (ts * np.logaddexp(0, -zs) + (1 - ts) * np.logaddexp(0, zs)).sum()
    for k in range(4):
        np.testing.assert_allclose(found[k], nll, 1e-13)
        np.testing.assert_allclose(found[4 + k], slope, 1e-12, 1e-15)
    for k in range(3):
        np.testing.assert_allclose(found[8 + k], entropy, 1e-13)
        np.testing.assert_allclose(found[11 + k], special.expit(zs) - ts, 1e-12, 1e-15)


@pytest.mark.parametrize("mode", ["native", "reference"])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_logarithms_of_sums_of_exponentials(axis: int | None, mode: str) -> None:
    x = T.dmatrix("x")
    y = T.log(T.exp(x).sum(axis=axis))
    kept = T.log(T.exp(x).sum(axis=axis, keepdims=True))
    values = np.where(LOGITS == 2.0, -np.inf, LOGITS)
    found, wide, slope = ostinato.function([x], [y, kept, T.grad(y.sum(), x)], mode=mode)(values)
    exact = special.logsumexp(values, axis=axis, keepdims=True)
    np.testing.assert_allclose(wide, exact, 1e-13, 1e-300)
    np.testing.assert_allclose(found, np.squeeze(exact, axis=axis), 1e-13, 1e-300)
    np.testing.assert_allclose(slope, np.exp(values - exact), 1e-12)
    nothing = ostinato.function([x], [y, T.grad(y.sum(), x)], mode=mode)(np.full((2, 2), -np.inf))
    assert np.all(nothing[0] == -np.inf)
    assert np.all(nothing[1] == 0)


@pytest.mark.parametrize("mode", ["native", "reference"])
def test_in_the_steps_of_a_loop(mode: str) -> None:
    """A hidden Markov model with the sum written out, for likelihoods far below the smallest number."""
    scores, jumps = T.dmatrix("scores"), T.dmatrix("jumps")

    def step(score: Any, alpha: Any) -> Any:
        return score + T.log(T.exp(alpha.dimshuffle(0, "x") + jumps).sum(axis=0))

    alphas, _ = ostinato.scan(step, scores, T.zeros_like(jumps[0]))
    cost = T.log(T.exp(alphas[-1]).sum())
    given = np.array([[-900.0, -1000.0], [-1100.0, -900.0], [-950.0, -950.0]]), np.log([[0.9, 0.1], [0.2, 0.8]])
    run = ostinato.function([scores, jumps], [cost, T.grad(cost, jumps), T.grad(cost, scores)], mode=mode)
    found, slope, weights = run(*given)
    alpha = np.zeros(2)
    for row in given[0]:
        alpha = row + special.logsumexp(alpha[:, None] + given[1], axis=0)
    np.testing.assert_allclose(found, special.logsumexp(alpha), 1e-13)
    np.testing.assert_allclose(weights.sum(axis=1), 1, 1e-12)
    np.testing.assert_allclose(slope.sum(), 3, 1e-12)


def test_what_a_derivative_is_asked_of_stays() -> None:
    x = T.dvector("x")
    p, s = T.softmax(x), T.nnet.sigmoid(x)
    values = np.array([0.5, -1.0, 2.0])
    of_p = ostinato.function([x], T.grad(T.log(p).sum(), p), mode="reference")(values)
    np.testing.assert_allclose(of_p, 1 / special.softmax(values), 1e-13)
    of_s = ostinato.function([x], T.grad(T.log(s).sum(), s), mode="reference")(values)
    np.testing.assert_allclose(of_s, 1 / special.expit(values), 1e-13)
    held = T.grad(T.log(s).sum() + x.sum(), x, consider_constant=[s])
    np.testing.assert_allclose(ostinato.function([x], held, mode="reference")(values), 1)
    forwards = T.Rop(T.log(s), s, T.ones_like(s))
    np.testing.assert_allclose(ostinato.function([x], forwards, mode="reference")(values), of_s, 1e-13)


# ---- matrices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["native", "reference"])
def test_logarithms_of_determinants(mode: str) -> None:
    a = T.dmatrix("a")
    y, size = T.log(T.nlinalg.det(a)), T.log(abs(T.nlinalg.det(a)))
    run = ostinato.function([a], [y, size, T.grad(y, a)], mode=mode)
    small = 1e-5 * np.eye(80)  # whose determinant is 0 in double precision
    found, magnitude, slope = run(small)
    np.testing.assert_allclose([found, magnitude], 80 * np.log(1e-5), 1e-13)
    np.testing.assert_allclose(slope, np.linalg.inv(small).T, 1e-12)
    negative = np.diag([-2.0, 3.0])
    assert np.isnan(ostinato.function([a], y, mode=mode)(negative))
    np.testing.assert_allclose(ostinato.function([a], size, mode=mode)(negative), np.log(6))
    assert ostinato.function([a], y, mode=mode)(np.zeros((2, 2))) == -np.inf


def test_products_with_an_inverse_solve() -> None:
    a, b, v = T.dmatrix("a"), T.dmatrix("b"), T.dvector("v")
    inverse = T.nlinalg.matrix_inverse(a)
    rng = np.random.default_rng(4)
    A, B, V = rng.normal(size=(3, 3)) + 3 * np.eye(3), rng.normal(size=(3, 3)), rng.normal(size=3)
    for y, expected in (
        (T.dot(inverse, b), np.linalg.solve(A, B)),
        (T.dot(b, inverse), B @ np.linalg.inv(A)),
        (T.dot(inverse, v), np.linalg.solve(A, V)),
    ):
        run = ostinato.function([a, b, v], y, mode="reference", on_unused_input="ignore")
        assert "matrix_inverse" not in str(run.graph)
        np.testing.assert_allclose(run(A, B, V), expected, 1e-12)
    twice = ostinato.function([a, b, v], [T.dot(inverse, b), T.dot(inverse, v)], mode="reference")
    assert str(twice.graph).count("matrix_inverse") == 1
    assert "solve" not in str(twice.graph)


# ---- the pass ---------------------------------------------------------------------------------------


def test_before_and_after() -> None:
    x = T.dvector("x")
    before = Graph((x,), (T.log(1 + T.exp(x)), T.log(1 - x)))
    assert str(stability(before)) == "\n".join(
        [
            "graph(x: float64[?]):",
            "  %0 = logaddexp x 0. : float64[?]",
            "  %1 = neg x : float64[?]",
            "  %2 = log1p %1 : float64[?]",
            "  return %0, %2",
        ]
    )


def test_it_is_told_with_the_line() -> None:
    x = T.dvector("x")
    y = T.log(1 - T.nnet.sigmoid(x))
    run = ostinato.function([x], y, mode="reference")
    assert f"stability: log(1 - sigmoid(x)) is computed as -softplus(x) ({y.source})." in run.notes
    assert "log(1 - sigmoid(x)) is computed as -softplus(x)" in run.explain()
    assert [n.source for n in run.graph.nodes() if n.inputs] == [y.source] * 2


def test_it_changes_nothing_twice() -> None:
    x = T.dmatrix("x")
    once = stability(Graph((x,), (T.log(T.softmax(x)), T.log(T.exp(x).sum()), T.log(1 - T.exp(x)))))
    assert stability(once) == once


# ---- functions of networks ----------------------------------------------------------------------------


def test_functions_that_theano_had() -> None:
    x, y, b = T.dmatrix("x"), T.lvector("y"), T.dvector("b")
    outputs = [
        T.nnet.selu(x),
        T.nnet.softsign(x),
        T.nnet.softmax_with_bias(x, b),
        *T.nnet.crossentropy_softmax_1hot_with_bias(x, b, y),
    ]
    values, labels, bias = LOGITS[1:2], np.array([2]), np.array([0.5, 0.0, -1.0, 2.0])
    selu, softsign, biased, nll, p, best = ostinato.function([x, y, b], outputs, mode="reference")(values, labels, bias)
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    np.testing.assert_allclose(selu, scale * np.where(values > 0, values, alpha * np.expm1(values)), 1e-13)
    np.testing.assert_allclose(softsign, values / (1 + abs(values)), 1e-13)
    np.testing.assert_allclose(biased, special.softmax(values + bias, axis=1), 1e-13)
    np.testing.assert_allclose(p, biased, 1e-13)
    np.testing.assert_allclose(nll, -special.log_softmax(values + bias, axis=1)[0, labels], 1e-13)
    assert best == np.argmax(values + bias)
