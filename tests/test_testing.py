"""`ostinato.testing`: it finds what is wrong, passes what is right, and says what, where and by how much."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from ostinato.errors import BackendMismatchError, GradientMismatchError, OstinatoTypeError, OstinatoValueError
from ostinato.graph import Graph, make
from ostinato.ops import OPS, Op, Sample
from ostinato.ops.sizes import sizes
from ostinato.testing import compare_backends, verify_grad
from ostinato.testing.complex_step import NotAnalyticError, complex_step
from ostinato.testing.differences import difference

# x², with a reverse rule that forgets the factor 2.
WRONG_SQUARE = Op(
    "wrong_square",
    infer=lambda x: x.type,
    numpy=lambda x: x * x,
    vjp=lambda g, out, x: (g * x,),
    sizes=lambda x: sizes(x),
)
# x², with a rule that is right, and whose own rule, that of the second derivative, is not.
WRONG_SECOND = Op(
    "wrong_second",
    infer=lambda x: x.type,
    numpy=lambda x: x * x,
    vjp=lambda g, out, x: (g * (make(WRONG_SQUARE, (x + 1,)) - x * x - 1),),
    sizes=lambda x: sizes(x),
)


def leaky(x: Any, decay: Any, h: Any) -> Any:
    return ostinato.scan(lambda x_t, h: T.tanh(decay * h + x_t), x, h)[0]


POINT = [np.array([0.5, -1.0, 0.25]), np.array(0.75), np.array(0.5)]


# ---- verify_grad ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_right_derivatives_pass(dtype: str) -> None:
    verify_grad(leaky, [p.astype(dtype) for p in POINT], order=2, rng=3)


def test_a_wrong_gradient_is_told_with_argument_index_and_both_numbers() -> None:
    def cost(x: Any, weight: Any) -> Any:
        return T.sum(make(WRONG_SQUARE, (x,))) * weight

    with pytest.raises(GradientMismatchError) as caught:
        verify_grad(cost, [np.array([0.5, 1.0, 0.0]), np.array(2.0)], derivative="reverse", mode="reference")
    message = str(caught.value)
    assert "order 1 of cost, by reverse mode" in message
    assert "argument 0, 'x' at [1]" in message
    assert "'weight'" not in message
    found, expected = (float(w) for w in message.split("it is ")[1].replace(", by differences", "").split()[:2])
    assert np.isclose(2 * found, expected)
    assert isinstance(caught.value, AssertionError)


def test_all_arguments_that_are_wrong_are_in_one_message() -> None:
    def both(x: Any, y: Any) -> Any:
        return make(WRONG_SQUARE, (x,)) + make(WRONG_SQUARE, (y,))

    with pytest.raises(GradientMismatchError, match=r"(?s)argument 0, 'x'.*argument 1, 'y'"):
        verify_grad(both, [np.array(1.0), np.array(2.0)], derivative="reverse", mode="reference")


def test_a_wrong_second_derivative_is_found_by_order_two_alone() -> None:
    def square(x: Any) -> Any:
        return make(WRONG_SECOND, (x,))

    verify_grad(square, [np.array([0.5, 1.0])], derivative="reverse", mode="reference")
    with pytest.raises(GradientMismatchError, match="order 2 of square, by reverse over reverse"):
        verify_grad(square, [np.array([0.5, 1.0])], order=2, derivative="reverse", mode="reference")


def test_a_wrong_forward_rule_is_found() -> None:
    rules = {"jvp": lambda tangents, out, x: 3 * x * tangents[0]}
    op = Op("wrong_forward", lambda x: x.type, lambda x: x * x, lambda g, out, x: (2 * g * x,), **rules)
    verify_grad(lambda x: make(op, (x,)), [np.array(1.0)], derivative="reverse", mode="reference")
    with pytest.raises(GradientMismatchError, match="by forward mode, is wrong: with respect to the directions"):
        verify_grad(lambda x: make(op, (x,)), [np.array(1.0)], derivative="forward", mode="reference")


def test_integers_are_held_and_arguments_without_influence_have_no_derivative() -> None:
    def pick(table: Any, i: Any, unused: Any) -> Any:
        return [T.sin(table[i]), i + 1]

    verify_grad(pick, [np.array([0.5, 1.0]), np.array([1, 1, 0]), np.array(1.0)], derivative="reverse")


def test_bare_numbers_have_the_dtype_of_the_configuration() -> None:
    seen = []
    with ostinato.config.change_flags(floatX="float32"):
        verify_grad(lambda x: seen.append(x.dtype) or x * x, [0.5], derivative="reverse")
    assert "float32" in seen


def test_a_step_of_ones_own_means_differences() -> None:
    def kink(x: Any) -> Any:
        return abs(x)

    verify_grad(kink, [np.array(0.01)], derivative="reverse")  # a complex step stays on its side
    with pytest.raises(GradientMismatchError, match="by differences"):
        verify_grad(kink, [np.array(0.01)], derivative="reverse", eps=0.1)


def test_a_truncated_gradient_is_named_as_the_reason() -> None:
    def cut(x: Any, h: Any) -> Any:
        return ostinato.scan(lambda x_t, h: T.tanh(x_t * h), x, h, truncate_gradient=2)[0]

    with pytest.raises(GradientMismatchError, match="truncate_gradient=2, whose gradient is not the derivative"):
        verify_grad(cut, [np.array([0.5, 1.0, 2.0]), np.array(0.5)], derivative="reverse")


def test_what_is_marked_as_constant_is_held() -> None:
    verify_grad(lambda x: x * T.disconnected_grad(T.exp(x)), [np.array([0.5, 1.0])], derivative="reverse", order=2)


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "match"),
    [
        ((T.sin, np.array([1.0])), {}, OstinatoTypeError, "a list of points"),
        ((T.sin, [np.array([1])]), {}, OstinatoTypeError, "none of the points is of floats"),
        ((lambda x: x > 0, [1.0]), {}, OstinatoTypeError, "returns no floats"),
        ((T.sin, [1.0]), {"order": 0}, OstinatoValueError, "at least 1"),
        ((T.sin, [1.0]), {"derivative": "sideways"}, OstinatoValueError, "'reverse', 'forward' or both"),
    ],
)
def test_what_cannot_be_checked_is_an_error(
    arguments: tuple[Any, ...], options: dict[str, Any], kind: type[Exception], match: str
) -> None:
    with pytest.raises(kind, match=match):
        verify_grad(*arguments, **options)


def test_theanos_verify_grad() -> None:
    from ostinato.gradient import GradientError, verify_grad

    rng = np.random.RandomState(2)
    verify_grad(leaky, POINT, n_tests=1, rng=rng, rel_tol=1e-8, abs_tol=1e-8)
    verify_grad(leaky, POINT, 1, rng, 1e-4, no_debug_ref=False, cast_to_output_type=True)
    with pytest.raises(GradientError):
        verify_grad(lambda x: make(WRONG_SQUARE, (x,)), [np.array([1.0])], mode="reference")
    assert verify_grad.E_grad is GradientMismatchError


# ---- complex step ---------------------------------------------------------------------------------

SAMPLES = [
    pytest.param(op, s, id=f"{op.name}-{k}")
    for op in OPS.values()
    for k, s in enumerate(op.samples)
    if s.differentiable and any(np.asarray(a).dtype.kind == "f" for a in s.arrays)
]


@pytest.mark.parametrize(("op", "sample"), SAMPLES)
def test_a_complex_step_of_every_op_agrees_with_differences(op: Op, sample: Sample) -> None:
    arrays = [np.asarray(a) for a in sample.arrays]
    variables = [T.TensorType(a.dtype.name, (None,) * a.ndim)() for a in arrays]
    node = sample.build(*variables)
    rng = np.random.default_rng(1)
    directions = {i: rng.uniform(0.5, 1.5, a.shape) for i, a in enumerate(arrays) if a.dtype.kind == "f"}
    f = ostinato.function(variables, node, mode="reference", on_unused_input="ignore")

    def along(step: float) -> Any:
        return f(*[a + step * directions[i] if i in directions else a for i, a in enumerate(arrays)])

    try:
        (found,) = complex_step(Graph(tuple(variables), (node,)), arrays, directions)
    except NotAnalyticError:
        pytest.skip(f"{op.name} has no complex form: verify_grad uses differences")
    np.testing.assert_allclose(found, difference(along, 2**-8), rtol=1e-8, atol=1e-8)


def test_a_complex_step_is_exact_where_differences_are_not() -> None:
    x = T.dscalar("x")
    (found,) = complex_step(Graph((x,), (T.sin(1e4 * x) ** 2,)), [np.array(0.3)], {0: np.array(1.0)})
    assert np.isclose(found, 1e4 * np.sin(2e4 * 0.3), rtol=1e-13)


def test_shared_variables_and_loops_that_end_early_have_a_complex_step() -> None:
    a, x = ostinato.shared(np.float64(2.0)), T.dvector("x")
    rows, _ = ostinato.scan(lambda v, s: (s + a * v * v, ostinato.until(s > 1)), x, T.constant(0.0))
    point = np.array([0.5, 1.0, 0.5, 3.0])
    (found,) = complex_step(Graph((x,), (rows[-1],)), [point], {0: np.ones(4)})
    assert np.isclose(found, 4 * (0.5 + 1.0 + 0.5))


def test_a_loop_that_records_some_steps_has_a_complex_step() -> None:
    def thinned(x: Any) -> Any:
        return ostinato.scan(lambda x_t, h: T.tanh(x_t + h), x, T.constant(0.5), keep=ostinato.every(2))[0]

    verify_grad(thinned, [np.array([0.5, -1.0, 0.25, 0.75, 1.0])])


def test_richardson_is_exact_for_polynomials() -> None:
    assert difference(lambda t: (1 + t) ** 6, 0.25) == pytest.approx(6, rel=1e-13)


# ---- compare_backends -----------------------------------------------------------------------------


def test_backends_that_agree_give_the_results_of_the_first() -> None:
    x = T.dvector("x")
    total = ostinato.shared(np.float64(1.0), "total")
    f = ostinato.function([x], [T.tanh(x), x > 0], updates={total: total + T.sum(x)})
    found = compare_backends(f, [[0.5, 1.0]])
    assert [r.dtype.name for r in found] == ["float64", "bool", "float64"]
    assert found[2] == 2.5
    assert total.get_value() == 1.0


def test_every_result_that_differs_is_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    from ostinato.testing import backends

    def broken(mode: str, graph: Graph, rewritten: Any) -> Any:
        values = [np.array([1.0, 2.0]), np.array([1, 2]), np.array(3.0)]
        if mode == "native":
            values = [np.array([1.0, 2.5]), np.array([1, 3]), np.array(3.0, "float32")]
        return lambda arrays: values

    monkeypatch.setattr(backends, "compile_closed", broken)
    x = T.dvector("x")
    with pytest.raises(BackendMismatchError) as caught:
        compare_backends(([x], [x, 2 * x, T.sum(x)]), [[1.0, 2.0]])
    message = str(caught.value)
    assert "output 0 (x): 1 of 2 elements differ, first at [1]: np.float64(2.0) by reference" in message
    assert "output 1" in message
    assert "output 2" in message
    assert "float32 of shape () by native" in message


def test_an_error_of_one_backend_alone_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    from ostinato.testing import backends

    def broken(mode: str, graph: Graph, rewritten: Any) -> Any:
        def run(arrays: Any) -> Any:
            if mode == "native":
                raise ValueError("no such thing")
            return [np.array(1.0)]

        return run

    monkeypatch.setattr(backends, "compile_closed", broken)
    x = T.dscalar("x")
    with pytest.raises(BackendMismatchError, match="results by reference, ValueError: no such thing by native"):
        compare_backends(([x], x), [1.0])


def test_an_error_of_all_backends_is_raised() -> None:
    x = T.dvector("x")
    with pytest.raises(IndexError):
        compare_backends(([x], x[3]), [[1.0]])
    with pytest.raises(OstinatoTypeError, match="missing input"):
        compare_backends(([x], x[0]), [])
    with pytest.raises(OstinatoValueError, match="two modes"):
        compare_backends(([x], x[0]), [[1.0]], modes=["native"])
    with pytest.raises(OstinatoTypeError, match="a pair of inputs and outputs"):
        compare_backends(x, [[1.0]])


def test_not_a_number_is_equal_to_itself_and_tolerance_is_of_the_largest_element() -> None:
    x = T.dvector("x")
    compare_backends(([x], T.log(x)), [[-1.0, 0.0, 1.0]])
    compare_backends(([x], T.exp(x)), [[-1.0, 0.0, 700.0]], rtol={"float64": 1e-13})


def test_import_ostinato_does_not_import_testing() -> None:
    code = "import sys, ostinato, ostinato.gradient; sys.exit('ostinato.testing' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
