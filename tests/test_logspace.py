"""Products of matrices in log space: where logsumexp is one, what it is natively, and that nothing gets lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

import ostinato
import ostinato.tensor as T
from ostinato.backends.reference import compile_graph
from ostinato.graph import Graph, make, substitute, topological
from ostinato.ops import OPS
from ostinato.ops.loop import LOOP, body_of
from ostinato.rewrite.engine import run_passes
from ostinato.rewrite.log_products import log_products, written_out
from ostinato.rewrite.loop_invariant import loop_invariant

RNG = np.random.default_rng(5)
NATIVE, REFERENCE = "native", "reference"


def is_product(node: Any) -> bool:
    return OPS["log_dot_exp"] in {n.op for n in topological([node])}


# ---- where logsumexp is a product -----------------------------------------------------------------


def test_forms_that_are_products() -> None:
    a, c, B, batch = T.dvector("a"), T.dvector("c"), T.dmatrix("B"), T.dmatrix("batch")
    one = np.float64(0.5)
    forms: list[tuple[Any, int, Any]] = [
        (a[:, None] + B, 0, lambda a, c, B, h: a[:, None] + B),
        (B + a[:, None], 0, lambda a, c, B, h: B + a[:, None]),
        (a + B.T, 1, lambda a, c, B, h: a + B.T),
        (a[:, None] + B + c + one, 0, lambda a, c, B, h: a[:, None] + B + c + one),
        ((a[:, None] + one) + (B + B), 0, lambda a, c, B, h: a[:, None] + one + 2 * B),
        (batch[:, :, None] + B, 1, lambda a, c, B, h: h[:, :, None] + B),
        (batch[:, None, :] + B.T, 2, lambda a, c, B, h: h[:, None, :] + B.T),
        (batch[:, :, None] + B + c, 1, lambda a, c, B, h: h[:, :, None] + B + c),
    ]
    values = [RNG.normal(size=s) * 5 for s in (4, 3, (4, 3), (6, 4))]
    for x, axis, expected in forms:
        for keepdims in (False, True):
            y = T.logsumexp(x, axis, keepdims)
            assert is_product(y), x
            wanted = scipy.special.logsumexp(expected(*values), axis=axis, keepdims=keepdims)
            for mode in (NATIVE, REFERENCE):
                f = ostinato.function([a, c, B, batch], y, mode=mode, on_unused_input="ignore")
                np.testing.assert_allclose(f(*values), wanted, rtol=1e-14, strict=True)


def test_forms_that_are_none() -> None:
    a, B, S = T.dvector("a"), T.dmatrix("B"), T.dtensor3("S")
    for x, axis in [
        (B, 0),
        (B + B, 0),
        (a + B, 0),
        (a[:, None] * B, 0),
        (a[:, None] + B, 1),
        (S + B, 1),
        (a[:, None] + B, None),
        (T.lmatrix() + T.lvector()[:, None], 0),
        (T.tensor("float16", (None, None)) + T.tensor("float16", (None,))[:, None], 0),
    ]:
        assert not is_product(T.logsumexp(x, axis)), x


def test_sizes_of_one_that_are_not_known() -> None:
    """Where a vector of one element meets a matrix of several rows, it is that of each row."""
    a, B = T.dvector("a"), T.dmatrix("B")
    y = T.logsumexp(a[:, None] + B, axis=0)
    for sizes in ((1, 4), (4, 1), (1, 1)):
        values = [RNG.normal(size=sizes[0]), RNG.normal(size=(sizes[1], 3))]
        wanted = scipy.special.logsumexp(values[0][:, None] + values[1], axis=0)
        shares = np.exp(values[0][:, None] + values[1] - wanted)
        of_a = shares.sum(axis=1) if sizes[0] > 1 else [shares.sum()]
        of_b = shares if sizes[1] > 1 else shares.sum(axis=0, keepdims=True)
        for mode in (NATIVE, REFERENCE):
            found = ostinato.function([a, B], [y, *T.grad(y.sum(), [a, B])], mode=mode)(*values)
            for ours, exact in zip(found, (wanted, of_a, of_b), strict=True):
                np.testing.assert_allclose(ours, exact, rtol=1e-13, strict=False)
                assert ours.shape == np.shape(exact)


# ---- nothing gets lost ----------------------------------------------------------------------------

INF = np.inf
HARD = [
    ([0.0, -1000.0], [[-2000.0, 0.0], [0.0, -2000.0]]),  # either factor alone is nothing beside the largest
    ([0.0, -800.0], [[-800.0, -1.0], [0.0, -1500.0]]),
    ([-INF, 0.0], [[0.0, 1.0], [2.0, -INF]]),
    ([0.0, -5.0], [[-INF, 0.0], [-INF, -1.0]]),  # a column of nothing
    ([-INF, -INF], [[0.0, 1.0], [2.0, 3.0]]),
    ([INF, 0.0], [[0.0, 1.0], [2.0, 3.0]]),
    ([INF, 0.0], [[-INF, 1.0], [2.0, 3.0]]),
    ([np.nan, 0.0], [[0.0, 1.0], [2.0, 3.0]]),
    ([1e300, -1e300], [[0.0, 1.0], [2.0, 3.0]]),
    ([708.0, 709.5], [[709.0, 709.9], [700.0, -700.0]]),
    ([-745.0, -700.0], [[-745.0, -1.0], [-30.0, -720.0]]),
]


def reference_shares(a: Any, B: Any) -> tuple[Any, Any]:
    with np.errstate(invalid="ignore"):
        terms = a[:, None] + B
        value = scipy.special.logsumexp(terms, axis=0)
        shares = np.where(np.isneginf(value), 0, np.exp(terms - value))
    return value, shares


@pytest.mark.parametrize("mode", [NATIVE, REFERENCE])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", range(len(HARD)))
def test_hard_values(case: int, dtype: str, mode: str) -> None:
    with np.errstate(over="ignore"):
        a, B = (np.asarray(v).astype(dtype) for v in HARD[case])
        value, shares = reference_shares(a.astype("float64"), B.astype("float64"))
    x, W = T.tensor(dtype, (None,), "x"), T.tensor(dtype, (None, None), "W")
    y = T.logsumexp(x[:, None] + W, axis=0)
    found, of_x, of_W = ostinato.function([x, W], [y, *T.grad(y.sum(), [x, W])], mode=mode)(a, B)
    # Of differences of numbers of some hundreds; and what of shares may be lost, see `log_products`.
    rtol, least = (1e-12, 1e-27) if dtype == "float64" else (1e-4, 1e-9)
    np.testing.assert_allclose(found, value, rtol=rtol / 50, atol=rtol / 50)
    if np.all(np.isfinite(shares)):
        np.testing.assert_allclose(of_W, shares, rtol=rtol, atol=least)
        np.testing.assert_allclose(of_x, shares.sum(axis=1), rtol=rtol, atol=least)


spread = st.sampled_from([0.0, 1.0, 30.0, 400.0, 1500.0])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**20), spread, spread, st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_random_values(seed: int, wide_a: float, wide_b: float, k: int, n: int, holes: bool) -> None:
    rng = np.random.default_rng(seed)
    a, B = rng.normal(size=k) * wide_a, rng.normal(size=(k, n)) * wide_b
    if holes:
        a[rng.uniform(size=k) < 0.3] = -INF
        B[rng.uniform(size=(k, n)) < 0.3] = -INF
    value, shares = reference_shares(a, B)
    found, of_a, of_B = COMPILED(a, B)
    np.testing.assert_allclose(found, value, rtol=1e-14, atol=1e-14)
    # Shares of all that are less than 1e-27 may be lost where the sum is near what counts as nothing.
    np.testing.assert_allclose(of_B, shares, rtol=1e-11, atol=1e-27)
    np.testing.assert_allclose(of_a, shares.sum(axis=1), rtol=1e-11, atol=1e-27)


def compiled() -> Any:
    a, B = T.dvector("a"), T.dmatrix("B")
    y = T.logsumexp(a[:, None] + B, axis=0)
    return ostinato.function([a, B], [y, *T.grad(y.sum(), [a, B])], mode=NATIVE)


COMPILED = compiled()


# ---- the passes -----------------------------------------------------------------------------------


def test_log_products_golden() -> None:
    a, b = T.tensor("float64", (1, None), "a"), T.dmatrix("b")
    node = T.logsumexp(a.T + b, axis=0)
    before = Graph((a, b), (node,))
    assert "log_dot_exp %0 b" in str(before)
    after = log_products(before)
    text = str(after)
    assert "log_dot_exp" not in text
    assert text.count(" = matmul ") == 1
    assert text.count(" = exp ") == 3, "two before the product, one in the loop that computes it the long way"
    assert " = loop[2 sequences, 1 carries] " in text
    assert text.splitlines()[-1].startswith("  return ")
    plain = str(written_out(before))
    assert "loop" not in plain
    assert plain.count(" = exp ") == 1


@pytest.mark.parametrize("rewriting", [log_products, written_out])
@pytest.mark.parametrize("name", ["log_dot_exp", "softmax_dot"])
def test_the_passes_keep_values(name: str, rewriting: Any) -> None:
    for sample in OPS[name].samples:
        inputs = [T.tensor("float64", (None,) * x.ndim) for x in sample.arrays]
        graph = Graph(tuple(inputs), (sample.build(*inputs),))
        (wanted,) = compile_graph(graph)(sample.arrays)
        (found,) = compile_graph(run_passes(graph, (rewriting,)))(sample.arrays)
        np.testing.assert_allclose(found, wanted, rtol=1e-12, strict=True)


def forward_algorithm(T_: Any) -> tuple[list[Any], Any]:
    seen, A, start = T_.dmatrix("seen"), T_.dmatrix("A"), T_.dvector("start")
    alphas, _ = ostinato.scan(
        lambda e, alpha, A: e + T.logsumexp(alpha[:, None] + A, axis=0), seen[1:], start + seen[0], A, name="forward"
    )
    return [seen, A, start], T.logsumexp(alphas[-1])


def test_what_no_step_changes_is_computed_once() -> None:
    inputs, value = forward_algorithm(T)
    before = run_passes(Graph(tuple(inputs), (value,)), (log_products,))
    after = loop_invariant(before)
    n_exp = [
        str(next(n for n in g.nodes() if n.op.name == "loop").params[0].body).count(" exp ") for g in (before, after)
    ]
    assert n_exp == [3, 2], "that of the matrix has left the loop"
    given = [RNG.normal(size=(6, 4)), RNG.normal(size=(4, 4)), RNG.normal(size=4)]
    for x, y in zip(compile_graph(before)(given), compile_graph(after)(given), strict=True):
        np.testing.assert_array_equal(x, y)
    text = ostinato.function(inputs, value, mode=NATIVE).explain()
    assert "log_products: a logsumexp is computed by a product of matrices, with an exponential per element." in text
    assert "loop_invariant: exp(" in text
    assert "computed once, before loop 'forward'." in text


def test_loop_invariant_golden() -> None:
    """A body as it is written has no such expressions; here one is put in by hand."""
    h, w = T.dvector("h"), T.dmatrix("w")
    y, _ = ostinato.scan(lambda h: T.dot(h, w), outputs_info=h, n_steps=2)
    (loop,) = [n for n in topological([y]) if n.op is LOOP]
    spec = loop.params[0]
    (param,) = body_of(spec).invariants
    results = substitute(spec.body.results, {param: T.exp(param)})
    slow = make(LOOP, loop.inputs, (replace(spec, body=Graph(spec.body.params, tuple(results))),))
    (changed,) = substitute([y], {loop: slow})
    before = Graph((h, w), (changed,))
    after = loop_invariant(before)
    (new,) = [n for n in after.nodes() if n.op is LOOP]
    assert "exp" not in str(new.params[0].body)
    assert new.inputs[-1] is T.exp(w)
    given = [RNG.normal(size=3), RNG.normal(size=(3, 3))]
    np.testing.assert_array_equal(compile_graph(before)(given)[0], compile_graph(after)(given)[0])
    assert str(loop_invariant(after)) == str(after)


@pytest.mark.parametrize("steps", [2, 3, 7])
def test_the_forward_algorithm_and_its_derivatives(steps: int) -> None:
    inputs, value = forward_algorithm(T)
    first = T.grad(value, inputs)
    second = T.grad(sum((g**2).sum() for g in first), inputs)
    given = [RNG.normal(size=(steps, 4)), np.log(RNG.dirichlet(np.ones(4), 4)), np.log(RNG.dirichlet(np.ones(4)))]
    native, reference = (
        ostinato.function(inputs, [value, *first, *second], mode=mode, on_unused_input="ignore")(*given)
        for mode in (NATIVE, REFERENCE)
    )
    for ours, exact in zip(native, reference, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-11, atol=1e-13)
    alpha = given[2] + given[0][0]
    for e in given[0][1:]:
        alpha = e + scipy.special.logsumexp(alpha[:, None] + given[1], axis=0)
    np.testing.assert_allclose(native[0], scipy.special.logsumexp(alpha), rtol=1e-14)
    np.testing.assert_allclose(native[1].sum(axis=1), np.ones(steps), rtol=1e-12)  # posterior probabilities
