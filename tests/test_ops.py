"""Generated tests: every op of the registry, from nothing but its declaration.

For each sample: the reference makes the declared dtype and shape, the symbolic sizes are the real ones,
and first and second derivatives agree with differences of the reference. Forward derivatives do so, too, and
agree with the reverse ones to rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from numeric import central
from ostinato import forward
from ostinato.errors import NoGradientError
from ostinato.forward import push_forward as push
from ostinato.forward import transposed
from ostinato.graph import Graph, topological
from ostinato.ops import OPS, Op, Sample
from ostinato.ops.sizes import as_size_nodes, sizes
from ostinato.types import TensorType
from ostinato.verify import verify

CASES = [pytest.param(op, sample, id=f"{op.name}-{i}") for op in OPS.values() for i, sample in enumerate(op.samples)]
FLOAT_CASES = [
    c for c in CASES if c.values[1].differentiable and any(np.asarray(a).dtype.kind == "f" for a in c.values[1].arrays)
]


def variables(sample: Sample, static: bool) -> list[Any]:
    """Inputs for a sample: with the shapes of its arrays, or with unknown sizes."""
    arrays = [np.asarray(a) for a in sample.arrays]
    return [TensorType(a.dtype.name, a.shape if static else (None,) * a.ndim)(f"x{i}") for i, a in enumerate(arrays)]


SMOOTH_CASES = [c for c in FLOAT_CASES if c.values[1].build(*variables(c.values[1], static=False)).type.is_float]


def test_every_op_has_a_sample() -> None:
    leaves = {"constant", "input"}
    assert [op.name for op in OPS.values() if not op.samples and op.name not in leaves] == []


@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
@pytest.mark.parametrize(("op", "sample"), CASES)
def test_type_and_sizes(op: Op, sample: Sample, static: bool) -> None:
    inputs = variables(sample, static)
    node = sample.build(*inputs)
    assert op in {n.op for n in topological([node])}
    with ostinato.config.change_flags(verify=True):
        run = ostinato.function(inputs, [node, *as_size_nodes(sizes(node))], on_unused_input="ignore")
        value, *found = run(*sample.arrays)
    assert value.dtype == node.dtype
    assert value.shape == tuple(int(n) for n in found)
    assert all(s in (None, n) for s, n in zip(node.type.shape, value.shape, strict=True))
    verify(Graph(tuple(inputs), (node,)))


def weighted(node: Any) -> Any:
    """A scalar that weighs all elements of a result differently, so that no error cancels."""
    flat = node.flatten()
    return (flat * T.cos(1.0 + T.arange(flat.shape[0]))).sum()


def float_places(sample: Sample) -> list[int]:
    return [i for i, a in enumerate(sample.arrays) if np.asarray(a).dtype.kind == "f"]


@pytest.mark.parametrize(("op", "sample"), FLOAT_CASES)
def test_derivatives(op: Op, sample: Sample) -> None:
    inputs = variables(sample, static=False)
    cost = weighted(sample.build(*inputs))
    check_gradient(inputs, cost, sample, tolerance=2e-8)
    places = float_places(sample)
    first = T.grad(cost, [inputs[i] for i in places], disconnected_inputs="ignore")
    second = sum(weighted(T.sin(g)) for g in first)
    check_gradient(inputs, second, sample, tolerance=2e-6)


@pytest.mark.parametrize(("op", "sample"), SMOOTH_CASES)
def test_forward_and_reverse_rules_are_transposed(op: Op, sample: Sample) -> None:
    """<v, J u> is <J' v, u>, by the op's own forward rule and by its reverse rule transposed."""
    inputs = variables(sample, static=False)
    out = sample.build(*inputs)
    places = float_places(sample)
    rng = np.random.default_rng(3)
    u = {i: rng.uniform(-1, 1, np.shape(sample.arrays[i])) for i in places}
    v = T.cos(2.0 + T.arange(out.size)).reshape(out.shape)
    pulled = T.grad((out * v).sum(), [inputs[i] for i in places], disconnected_inputs="ignore")
    expected = sum((g * u[i]).sum() for i, g in zip(places, pulled, strict=True))
    shared: list[Any] = []
    for rule in ("own", "transposed"):
        with pytest.MonkeyPatch.context() as patch:
            if rule == "transposed" and op.name not in ("loop", "item"):
                patch.setattr(forward, "push_forward", lambda n, g: (transposed if n.op is op else push)(n, g))
            pushed = ostinato.jvp(
                out, [inputs[i] for i in places], [u[i] for i in places], disconnected_outputs="ignore"
            )
        assert pushed.type.ndim == out.type.ndim
        shared += [(pushed * v).sum(), *as_size_nodes(sizes(pushed))]
        assert rule == "transposed" or pushed.type.dtype == out.type.dtype
    run = ostinato.function(
        inputs, [expected, *as_size_nodes(sizes(out)), *shared], mode="reference", on_unused_input="ignore"
    )
    one, *rest = np.array([float(r) for r in run(*sample.arrays)]).reshape(3, -1)
    for other in rest:
        np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("op", "sample"), SMOOTH_CASES)
def test_forward_derivatives(op: Op, sample: Sample) -> None:
    """One direction: by the forward rule and by differences; then the same of the derivative itself."""
    inputs = variables(sample, static=False)
    places = float_places(sample)
    rng = np.random.default_rng(4)
    u = {i: rng.uniform(-1, 1, np.shape(sample.arrays[i])) for i in places}

    def push_on(node: Any) -> Any:
        return ostinato.jvp(node, [inputs[i] for i in places], list(u.values()), disconnected_outputs="ignore")

    value = weighted(sample.build(*inputs))
    first = push_on(value)
    run = ostinato.function(inputs, [value, first, push_on(first)], mode="reference", on_unused_input="ignore")

    def at(h: float) -> Any:
        return run(*[np.asarray(a) + h * u[i] if i in u else a for i, a in enumerate(sample.arrays)])

    h = 1e-3
    coarse, fine = ([(p - m) / (2 * d) for p, m in zip(at(d), at(-d), strict=True)] for d in (h, h / 2))
    expected = [(4 * f - c) / 3 for c, f in zip(coarse, fine, strict=True)]
    np.testing.assert_allclose(at(0)[1:], expected[:2], rtol=1e-6, atol=1e-7)


def check_gradient(inputs: list[Any], cost: Any, sample: Sample, tolerance: float) -> None:
    places = float_places(sample)
    grads = T.grad(cost, [inputs[i] for i in places], disconnected_inputs="ignore")
    value = ostinato.function(inputs, cost, on_unused_input="ignore")
    found = ostinato.function(inputs, grads, on_unused_input="ignore")(*sample.arrays)
    for i, g in zip(places, found, strict=True):
        expected = central(
            _with_integers(value, sample), [np.asarray(sample.arrays[k]) for k in places], places.index(i)
        )
        np.testing.assert_allclose(g, expected, rtol=tolerance, atol=tolerance)


def _with_integers(value: Any, sample: Sample) -> Any:
    """The function of the float arguments alone."""
    places = float_places(sample)

    def of_floats(*floats: Any) -> Any:
        arrays = list(sample.arrays)
        for i, a in zip(places, floats, strict=True):
            arrays[i] = a
        return value(*arrays)

    return of_floats


WITHOUT_RULE = [op for op in OPS.values() if op.vjp is None and op.name not in ("input", "item", "size", "make_vector")]


@pytest.mark.parametrize("op", WITHOUT_RULE, ids=lambda op: op.name)
def test_ops_without_a_rule_make_no_floats(op: Op) -> None:
    """A missing rule is harmless where no derivative can arrive: at integers and booleans."""
    for sample in op.samples:
        node = sample.build(*variables(sample, static=False))
        assert not node.type.is_float or not sample.differentiable


def test_missing_rule_is_an_error_that_names_the_op() -> None:
    step = T.dscalar("step")
    with pytest.raises(NoGradientError, match=r"no derivative of arange, which makes .*test_ops\.py:\d+"):
        T.grad(T.arange(0.0, 1.0, step).sum(), step)
