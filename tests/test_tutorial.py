"""The computations by which Theano's documentation teaches scan, each beside the same recurrence as a plain loop.

A test builds the scan as a script for Theano would, and the loop over NumPy rows without looking at it.
`check` compares their values, and the gradient of a weighted sum of all outputs with the complex-step
derivative of the loop, in float32 and float64. Numbers that the documentation prints are checked as well,
and so is the script `examples/tutorial.py`. What scan refuses, and why, is tested elsewhere.
"""

import runpy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostinato as theano
import ostinato.tensor as T

EXAMPLE = Path(__file__).parents[1] / "examples" / "tutorial.py"
STEP = 1e-30  # of the complex-step derivative, which has no cancellation and so no smallest useful step
TOLERANCE = {"float32": 5e-6, "float64": 1e-13}  # relative to the largest element
PRINTED = {"float32": 1e-6, "float64": 1e-8}  # of numbers printed with nine digits

Loop = Callable[..., Any]


@pytest.fixture(params=["float32", "float64"], autouse=True)
def floatX(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test runs in both precisions."""
    with theano.config.change_flags(floatX=request.param):
        yield request.param


# ---- the checks -----------------------------------------------------------------------------------


def random(*shape: int, seed: int = 0, scale: float = 0.7) -> Any:
    return np.random.default_rng([seed, *shape]).normal(scale=scale, size=shape)


def assert_close(got: Any, want: Any, dtype: str) -> None:
    """Equal up to rounding in `dtype`, of shape and dtype as expected."""
    want = np.asarray(want)
    assert np.isfinite(want).all()
    assert got.dtype == dtype
    assert got.shape == want.shape
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max(initial=0))


def complex_step(loss: Callable[..., Any], values: Sequence[Any], k: int) -> Any:
    """The gradient of a real analytic function with respect to its k-th argument."""
    gradient = np.zeros(values[k].shape)
    for place in np.ndindex(gradient.shape):
        moved = values[k].astype(complex)
        moved[place] += STEP * 1j
        gradient[place] = loss(*values[:k], moved, *values[k + 1 :]).imag / STEP
    return gradient


def check(
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    loop: Loop,
    *values: Any,
    fixed: Sequence[Any] = (),
    dtype: str | None = None,
) -> list[Any]:
    """Compare symbolic outputs, and gradients with respect to all float inputs, with a plain loop.

    Parameters
    ----------
    loop : takes the inputs as float64, complex or integer arrays and returns the list of outputs.
    values : one array per input, rounded to its dtype before anybody sees it.
    fixed : inputs by which nothing is differentiated.
    dtype : that of the outputs; `config.floatX` unless given.

    Returns
    -------
    list of arrays
        The values of the outputs, for further looks.
    """
    dtype = dtype or theano.config.floatX
    given = [np.asarray(v).astype(i.dtype) for i, v in zip(inputs, values, strict=True)]
    exact = [g.astype("float64") if g.dtype.kind == "f" else g for g in given]
    wanted = [np.asarray(w) for w in loop(*exact)]
    got = theano.function(inputs, outputs)(*given)
    for g, w in zip(got, wanted, strict=True):
        assert_close(g, w, dtype)

    weights = [random(*w.shape, seed=100 + i, scale=1.0).astype(dtype) for i, w in enumerate(wanted)]
    places = [k for k, i in enumerate(inputs) if i.dtype in ("float32", "float64") and i not in fixed]
    cost = sum((o * T.constant(w)).sum() for o, w in zip(outputs, weights, strict=True))
    gradients = T.grad(cost, [inputs[k] for k in places])

    def loss(*arguments: Any) -> Any:
        return sum((np.asarray(o) * w.astype("float64")).sum() for o, w in zip(loop(*arguments), weights, strict=True))

    for k, g in zip(places, theano.function(inputs, gradients, on_unused_input="ignore")(*given), strict=True):
        assert_close(g, complex_step(loss, exact, k), inputs[k].dtype)
    return got


def assert_printed(got: Any, numbers: Any) -> None:
    """Equal to numbers as a documentation prints them."""
    np.testing.assert_allclose(got, numbers, rtol=0, atol=PRINTED[theano.config.floatX] * np.abs(numbers).max())


def test_check_notices_a_wrong_value() -> None:
    x = T.vector("x")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check([x], [x * x], lambda x: [x * x + 1e-4], random(3))


def test_check_notices_a_wrong_gradient() -> None:
    x = T.vector("x")
    y = theano.gradient.disconnected_grad(x) * x
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check([x], [y], lambda x: [x * x], random(3))


# ---- a layer, row by row --------------------------------------------------------------------------


def layer_by_scan(X: Any, W: Any, b: Any) -> Any:
    return theano.scan(lambda x: T.tanh(T.dot(x, W) + b), sequences=X)[0]


def layer_by_strict_scan(X: Any, W: Any, b: Any) -> Any:
    outputs, updates = theano.scan(
        fn=lambda x, W, b: T.tanh(T.dot(x, W) + b),
        sequences=[X],
        outputs_info=[None],
        non_sequences=[W, b],
        strict=True,
        return_list=True,
    )
    assert isinstance(outputs, list)
    assert len(outputs) == 1
    assert len(updates) == 0
    return outputs[0]


def layer_by_map(X: Any, W: Any, b: Any) -> Any:
    return theano.map(lambda x, W, b: T.tanh(T.dot(x, W) + b), X, [W, b])[0]


def layer_backwards(X: Any, W: Any, b: Any) -> Any:
    return theano.map(lambda x: T.tanh(T.dot(x, W) + b), X, go_backwards=True)[0][::-1]


LAYERS = [layer_by_scan, layer_by_strict_scan, layer_by_map, layer_backwards]


@pytest.mark.parametrize("layer", LAYERS)
def test_layer(layer: Callable[..., Any], floatX: str) -> None:
    def loop(X: Any, W: Any, b: Any) -> Any:
        rows = []
        for x in X:
            rows.append(np.tanh(x.dot(W) + b))
        return [np.array(rows)]

    X, W, b = T.matrix("X"), T.matrix("W"), T.vector("b")
    rows = layer(X, W, b)
    check([X, W, b], [rows], loop, random(6, 3), random(3, 4), random(4))

    compute = theano.function([X, W, b], rows)
    got = compute(np.eye(2, dtype=floatX), np.ones((2, 2), floatX), np.array([1, 2], floatX))
    assert_printed(got, [[0.96402758, 0.99505475], [0.96402758, 0.99505475]])
    assert_close(compute(np.zeros((0, 2), floatX), np.ones((2, 3), floatX), [1, 2, 3]), np.zeros((0, 3)), floatX)


# ---- two sequences, one of them reversed ----------------------------------------------------------


def reversed_by_slice(step: Callable[..., Any], Y: Any, P: Any, h0: Any) -> Any:
    return theano.scan(step, sequences=[Y, P[::-1]], outputs_info=[h0])[0]


def reversed_by_go_backwards(step: Callable[..., Any], Y: Any, P: Any, h0: Any) -> Any:
    return theano.scan(step, sequences=[Y[::-1], P], outputs_info=h0, go_backwards=True)[0]


def reversed_with_explicit_taps(step: Callable[..., Any], Y: Any, P: Any, h0: Any) -> Any:
    sequences = [{"input": Y, "taps": [0]}, {"input": P[::-1], "taps": 0}]
    return theano.scan(step, sequences, [{"initial": h0, "taps": [-1]}], n_steps=Y.shape[0])[0]


@pytest.mark.parametrize("build", [reversed_by_slice, reversed_by_go_backwards, reversed_with_explicit_taps])
def test_two_sequences(build: Callable[..., Any], floatX: str) -> None:
    def loop(h0: Any, W: Any, Y: Any, U: Any, P: Any, V: Any) -> Any:
        h, states = h0, []
        for t in range(len(Y)):
            h = np.tanh(h.dot(W) + Y[t].dot(U) + P[len(P) - 1 - t].dot(V))
            states.append(h)
        return [np.array(states)]

    h0, (W, Y, U, P, V) = T.vector("h0"), T.matrices("W", "Y", "U", "P", "V")
    inputs = [h0, W, Y, U, P, V]
    h = build(lambda y, p, h: T.tanh(T.dot(h, W) + T.dot(y, U) + T.dot(p, V)), Y, P, h0)
    check(inputs, [h], loop, random(3), random(3, 3), random(5, 2), random(2, 3), random(5, 4), random(4, 3))

    ones, y, p = np.ones((2, 2), floatX), np.ones((5, 2), floatX), np.ones((5, 2), floatX)
    y[0], p[0] = -3, 3
    got = theano.function(inputs, h)(np.array([0, 1], floatX), ones, y, ones, p, ones)
    assert_printed(got, np.repeat([[-0.99505475], [0.96471973], [0.99998585], [0.99998771], [1.0]], 2, axis=1))


def test_outputs_of_a_backward_scan_stay_in_the_order_of_the_steps() -> None:
    def loop(X: Any, h0: Any, decay: Any) -> Any:
        h, states = h0, []
        for t in (4, 3, 2, 1, 0):
            h = decay * h + np.sin(X[t])
            states.append(h)
        return [np.array(states), states[-1]]

    X, h0, decay = T.vector("X"), T.scalar("h0"), T.scalar("decay")
    h, _ = theano.scan(lambda x, h: decay * h + T.sin(x), X, h0, go_backwards=True)
    last, _ = theano.foldr(lambda x, h: decay * h + T.sin(x), X, h0)
    check([X, h0, decay], [h, last], loop, random(5), 0.3, 0.8)


# ---- norms of rows and columns --------------------------------------------------------------------


@pytest.mark.parametrize("over", [theano.scan, theano.map])
def test_norms(over: Callable[..., Any], floatX: str) -> None:
    def loop(X: Any) -> Any:
        rows, columns = [], []
        for i in range(X.shape[0]):
            total = 0.0
            for j in range(X.shape[1]):
                total = total + X[i, j] * X[i, j]
            rows.append(np.sqrt(total))
        for j in range(X.shape[1]):
            total = 0.0
            for i in range(X.shape[0]):
                total = total + X[i, j] * X[i, j]
            columns.append(np.sqrt(total))
        return [np.array(rows), np.array(columns)]

    X = T.matrix("X")
    rows, _ = over(lambda x: T.sqrt((x**2).sum()), sequences=[X])
    columns, _ = over(lambda x: T.sqrt((x**2).sum()), sequences=[X.T])
    check([X], [rows, columns], loop, random(4, 6))

    of_rows, of_columns = theano.function([X], [rows, columns])(np.diag(np.arange(1, 6, dtype=floatX), 1))
    assert_close(of_rows, [1.0, 2.0, 3.0, 4.0, 5.0, 0.0], floatX)
    assert_close(of_columns, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], floatX)


# ---- sums over positions --------------------------------------------------------------------------


def trace_by_scan(X: Any, numbers: list[Any], floatX: str) -> Any:
    start = np.asarray(0, dtype=floatX)
    sums, _ = theano.scan(lambda i, j, so_far: T.cast(X[i, j] + so_far, floatX), sequences=numbers, outputs_info=start)
    return sums[-1]


def trace_by_reduce(X: Any, numbers: list[Any], floatX: str) -> Any:
    return theano.reduce(lambda i, j, so_far: so_far + X[i, j], numbers, T.zeros((), dtype=floatX))[0]


def trace_by_foldl(X: Any, numbers: list[Any], floatX: str) -> Any:
    return theano.foldl(lambda i, j, so_far, M: so_far + M[i, j], numbers, [0], [X])[0]


@pytest.mark.parametrize("build", [trace_by_scan, trace_by_reduce, trace_by_foldl])
@pytest.mark.parametrize("shape", [(5, 5), (3, 6), (6, 4)])
def test_trace(build: Callable[..., Any], shape: tuple[int, int], floatX: str) -> None:
    def loop(X: Any) -> Any:
        total = 0.0
        for i in range(min(X.shape)):
            total = total + X[i, i]
        return [total]

    X = T.matrix("X")
    trace = build(X, [T.arange(X.shape[0]), T.arange(X.shape[1])], floatX)
    check([X], [trace], loop, random(*shape))

    x = np.eye(5, dtype=floatX)
    x[0] = np.arange(5)
    assert theano.function([X], trace)(x) == 4.0


def test_a_scan_over_columns_within_a_scan_over_rows() -> None:
    def loop(X: Any, decay: Any) -> Any:
        total, totals = 0.0, []
        for i in range(X.shape[0]):
            for j in range(X.shape[1]):
                total = decay * total + np.tanh(X[i, j] + 0.1 * i)
            totals.append(total)
        return [np.array(totals)]

    X, decay = T.matrix("X"), T.scalar("decay")

    def sum_row(i: Any, so_far: Any) -> Any:
        within, _ = theano.scan(
            lambda j, so_far, i: decay * so_far + T.tanh(X[i, j] + 0.1 * i.astype(X.dtype)),
            sequences=T.arange(X.shape[1]),
            outputs_info=so_far,
            non_sequences=i,
        )
        return within[-1]

    totals, _ = theano.scan(sum_row, sequences=T.arange(X.shape[0]), outputs_info=T.zeros((), dtype=X.dtype))
    check([X, decay], [totals], loop, random(4, 3), 0.9)


# ---- two taps -------------------------------------------------------------------------------------

TWO_TAPS = [
    [1.40514825, 1.40514825],
    [2.88898899, 2.38898899],
    [4.34018291, 4.34018291],
    [6.53463142, 6.78463142],
    [9.82972243, 9.82972243],
    [14.22203814, 14.09703814],
    [20.07439936, 20.07439936],
    [28.12291843, 28.18541843],
    [39.1913681, 39.1913681],
    [54.28407732, 54.25282732],
]


def two_taps_loop(X: Any, U: Any, V: Any, W: Any, b: Any, n: Any) -> Any:
    past = [X[0], X[1]]  # further rows are not read
    for _ in range(n):
        past.append(past[-2].dot(U) + past[-1].dot(V) + np.tanh(past[-1].dot(W) + b))
    return [np.array(past[2 : 2 + n])]


@pytest.mark.parametrize("taps", [[-2, -1], [-1, -2]])
def test_two_taps(taps: list[int], floatX: str) -> None:
    X, (U, V, W), b, n = T.matrix("X"), T.matrices("U", "V", "W"), T.vector("b"), T.iscalar("n")

    def step(*past: Any) -> Any:
        x_tm2, x_tm1 = past[taps.index(-2)], past[taps.index(-1)]
        return T.dot(x_tm2, U) + T.dot(x_tm1, V) + T.tanh(T.dot(x_tm1, W) + b)

    x, _ = theano.scan(step, n_steps=n, outputs_info=[{"initial": X, "taps": taps}])
    inputs = [X, U, V, W, b, n]
    weights = [random(3, 3, seed=s, scale=0.4) for s in (1, 2, 3)]
    for steps, rows in [(1, 2), (2, 2), (7, 2), (5, 4)]:
        check(inputs, [x], two_taps_loop, random(rows, 3), *weights, random(3), steps)

    half, swap = np.full((2, 2), 0.5, floatX), np.array([[0, 0.5], [0.5, 0]], floatX)
    first = np.array([[0, 0], [0, 1]], floatX)
    assert_printed(theano.function(inputs, x)(first, swap, half, half, np.ones(2, floatX), 10), TWO_TAPS)


def test_an_output_read_in_several_places() -> None:
    def loop(*values: Any) -> Any:
        (x,) = two_taps_loop(*values, 6)
        return [x, x[-1] * x[0], (x[1:] - x[:-1]) ** 2]

    X, (U, V, W), b = T.matrix("X"), T.matrices("U", "V", "W"), T.vector("b")
    x, _ = theano.scan(
        lambda x_tm2, x_tm1: T.dot(x_tm2, U) + T.dot(x_tm1, V) + T.tanh(T.dot(x_tm1, W) + b),
        outputs_info={"initial": X, "taps": [-2, -1]},
        n_steps=6,
    )
    values = [random(2, 3), *[random(3, 3, seed=s, scale=0.4) for s in (1, 2, 3)], random(3)]
    check([X, U, V, W, b], [x, x[-1] * x[0], (x[1:] - x[:-1]) ** 2], loop, *values)


def test_taps_into_the_past_and_the_future_of_a_sequence() -> None:
    def loop(x: Any, y: Any, h0: Any) -> Any:
        h, states = h0, []
        for t in range(2, len(x) - 1):
            h = np.sin(h * x[t - 2] + x[t] * x[t + 1] + y[t - 2])
            states.append(h)
        return [np.array(states)]

    x, y, h0 = T.vector("x"), T.vector("y"), T.scalar("h0")
    h, _ = theano.scan(
        lambda x_tm2, x_t, x_tp1, y_t, h: T.sin(h * x_tm2 + x_t * x_tp1 + y_t),
        sequences=[{"input": x, "taps": [-2, 0, 1]}, y],
        outputs_info=h0,
    )
    check([x, y, h0], [h], loop, random(9), random(8), 0.4)


# ---- a Jacobian -----------------------------------------------------------------------------------


def test_jacobian_of_a_layer(floatX: str) -> None:
    def loop(A: Any, x: Any) -> Any:
        rows = []
        for a in A:
            rows.append((1 - np.tanh(a.dot(x)) ** 2) * a)
        return [np.array(rows)]

    A, x = T.matrix("A"), T.vector("x")
    y = T.tanh(T.dot(A, x))
    rows, _ = theano.scan(lambda i: T.grad(y[i], x), sequences=T.arange(y.shape[0]))
    check([A, x], [rows], loop, random(3, 5), random(5))

    a, one = np.eye(3, 5, dtype=floatX), np.eye(5, dtype=floatX)[0]
    a[:, 2] = 1
    got = theano.function([A, x], rows, allow_input_downcast=True)(a, one)
    assert_printed(got, [[0.41997434, 0, 0.41997434, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 0, 0]])


def test_jacobian_of_a_scan() -> None:
    """A scan of gradients of a scan; what `check` differentiates is a derivative already."""

    def last(W: Any, h: Any, x: Any) -> Any:
        for row in x:
            h = np.tanh(h.dot(W) + row)
        return h

    def loop(W: Any, h0: Any, X: Any) -> Any:
        h, jacobian = h0, np.eye(len(h0))
        for row in X:
            h = np.tanh(h.dot(W) + row)
            jacobian = ((1 - h**2) * W).T.dot(jacobian)
        return [jacobian]

    W, h0, X = T.matrix("W"), T.vector("h0"), T.matrix("X")
    h, _ = theano.scan(lambda x, h: T.tanh(T.dot(h, W) + x), X, h0)
    y = h[-1]
    rows, _ = theano.scan(lambda i: T.grad(y[i], h0), T.arange(y.shape[0]))
    values = [random(3, 3), random(3), random(4, 3)]
    check([W, h0, X], [rows], loop, *values)
    for i, row in enumerate(loop(*values)[0]):
        assert_close(row, complex_step(lambda W, h0, X, i=i: last(W, h0, X)[i], values, 1), "float64")


# ---- shared variables that a step updates ---------------------------------------------------------

FORMS: dict[str, Callable[[Any, Any], Any]] = {
    "dict": lambda k, v: {k: v},
    "OrderedDict": lambda k, v: OrderedDict([(k, v)]),
    "list of pairs": lambda k, v: [(k, v)],
}


@pytest.mark.parametrize("form", FORMS)
def test_counter(form: str) -> None:
    count, n = theano.shared(1, name="count"), T.iscalar("n")
    outputs, updates = theano.scan(lambda: FORMS[form](count, count + 1), n_steps=n)
    assert outputs is None
    assert list(updates) == [count]
    before, after = count + 1, updates[count] + 1

    look = theano.function([n], [before, after])
    advance = theano.function([n], [before, after], updates=updates)
    assert look(10) == look(10) == [2, 12]
    assert count.get_value() == 1
    assert advance(10) == [2, 12]
    assert count.get_value() == 11
    assert advance(10) == [12, 22]
    assert count.get_value() == 21
    assert advance(0) == [22, 22]
    assert count.get_value() == 21
    count.set_value(-5)
    assert theano.function([n], updates=updates)(3) is None
    assert count.get_value() == -2


@pytest.mark.parametrize("form", FORMS)
def test_a_step_may_return_outputs_and_updates(form: str, floatX: str) -> None:
    def loop(X: Any, decay: Any) -> Any:
        level, seen = 0.5, []
        for x in X:
            seen.append(level * x)  # what it was before this step
            level = decay * level + np.sin(x)
        return [np.array(seen), level]

    level = theano.shared(np.asarray(0.5, floatX), name="level")
    X, decay = T.vector("X"), T.scalar("decay")
    seen, updates = theano.scan(lambda x: (level * x, FORMS[form](level, decay * level + T.sin(x))), sequences=X)
    x = random(5).astype(floatX)
    check([X, decay], [seen, updates[level]], loop, x, 0.75)
    assert level.get_value() == 0.5

    wanted_seen, wanted_level = loop(x.astype("float64"), 0.75)
    assert_close(theano.function([X, decay], seen, updates=updates)(x, 0.75), wanted_seen, floatX)
    assert_close(level.get_value(), wanted_level, floatX)


def test_gradient_by_the_first_value_of_an_updated_shared_variable(floatX: str) -> None:
    level = theano.shared(np.asarray(0.5, floatX), name="level")
    n = T.iscalar("n")
    _, updates = theano.scan(lambda: {level: T.sin(level)}, n_steps=n)

    def loop(level: Any) -> Any:
        for _ in range(4):
            level = np.sin(level)
        return level

    got = theano.function([n], T.grad(updates[level], level))(4)
    assert_close(got, complex_step(loop, [np.asarray(0.5)], 0), floatX)


# ---- powers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True])
def test_power(strict: bool, floatX: str) -> None:
    def loop(A: Any, k: Any) -> Any:
        result = np.ones_like(A)
        for _ in range(k):
            result = result * A
        return [result]

    A, k = T.vector("A"), T.iscalar("k")
    powers, updates = theano.scan(
        fn=lambda so_far, A: so_far * A, outputs_info=T.ones_like(A), non_sequences=A, n_steps=k, strict=strict
    )
    for exponent in (1, 2, 7):
        check([A, k], [powers[-1]], loop, random(5, scale=1.5), exponent)

    compute = theano.function(inputs=[A, k], outputs=powers[-1], updates=updates)
    assert_close(compute(range(10), 2), [0, 1, 4, 9, 16, 25, 36, 49, 64, 81], floatX)
    assert_close(compute(range(10), 4), [0, 1, 16, 81, 256, 625, 1296, 2401, 4096, 6561], floatX)
    assert_close(compute([-1, 1], 1001), [-1, 1], floatX)
    with pytest.raises(IndexError, match="out of bounds"):
        compute([1, 2], 0)  # there is no last power


def test_a_strict_step_names_what_it_was_not_passed() -> None:
    A, scale = T.vector("A"), T.scalar("scale")
    with pytest.raises(ValueError, match=r"missing in non_sequences.*scale"):
        theano.scan(
            lambda so_far, A: so_far * A * scale, outputs_info=T.ones_like(A), non_sequences=A, n_steps=3, strict=True
        )


# ---- a polynomial ---------------------------------------------------------------------------------


def horner(c: Any, x: Any) -> Any:
    value = 0.0 * x
    for coefficient in c[::-1]:
        value = value * x + coefficient
    return [value]


def polynomial_by_terms(c: Any, x: Any, powers: Any) -> Any:
    terms, _ = theano.scan(
        fn=lambda coefficient, power, x: coefficient * (x**power),
        outputs_info=None,
        sequences=[c, powers],
        non_sequences=x,
    )
    return terms.sum()


def polynomial_by_map(c: Any, x: Any, powers: Any) -> Any:
    return theano.map(lambda coefficient, power: coefficient * x**power, [c, powers])[0].sum()


def polynomial_by_accumulation(c: Any, x: Any, powers: Any) -> Any:
    start = T.as_tensor_variable(np.asarray(0, c.dtype))
    step = lambda coefficient, power, so_far, x: so_far + coefficient * x**power  # noqa: E731
    return theano.scan(step, [c, powers], start, x)[0][-1]


def polynomial_by_reduce(c: Any, x: Any, powers: Any) -> Any:
    return theano.reduce(lambda coefficient, power, so_far: so_far + coefficient * x**power, [c, powers], 0)[0]


POLYNOMIALS = [polynomial_by_terms, polynomial_by_map, polynomial_by_accumulation, polynomial_by_reduce]


@pytest.mark.parametrize("build", POLYNOMIALS)
@pytest.mark.parametrize("powers", ["int64", "int16"])
def test_polynomial(build: Callable[..., Any], powers: str, floatX: str) -> None:
    c, x = T.vector("coefficients"), T.scalar("x")
    polynomial = build(c, x, T.arange(10000, dtype=powers))
    dtype = str(np.result_type(floatX, powers))  # float32 ** int64 is float64
    for place in (1.3, -0.7, 0.0):
        check([c, x], [polynomial], horner, random(6), place, dtype=dtype)

    calculate = theano.function([c, x], polynomial)
    assert calculate(np.asarray([1, 0, 2], "float32"), 3) == 19.0
    assert calculate([1.5], 0) == 1.5
    if build is not polynomial_by_accumulation:  # which has no last sum then
        assert calculate([], 3) == 0.0


def test_polynomial_by_foldr() -> None:
    c, x = T.vector("coefficients"), T.scalar("x")
    polynomial, _ = theano.foldr(lambda coefficient, so_far, x: so_far * x + coefficient, c, 0.0, x)
    check([c, x], [polynomial], horner, random(6), 1.3)


def test_the_shorter_sequence_ends_a_polynomial() -> None:
    c, x = T.vector("coefficients"), T.scalar("x")
    polynomial = polynomial_by_terms(c, x, T.arange(4, dtype="int16"))
    check([c, x], [polynomial], lambda c, x: horner(c[:4], x), random(7), 1.3)


# ---- sums -----------------------------------------------------------------------------------------

ZEROS: dict[str, Callable[[str], Any]] = {
    "zero of the dtype": lambda dtype: T.as_tensor_variable(np.asarray(0, dtype)),
    "constant": lambda dtype: T.constant(0, dtype=dtype),
    "variable without dtype": lambda dtype: T.as_tensor_variable(0),
    "zero": lambda dtype: 0,
    "list": lambda dtype: [0],
}


@pytest.mark.parametrize("zero", ZEROS)
def test_sums(zero: str, floatX: str) -> None:
    def loop(x: Any) -> Any:
        total, sums = 0.0, []
        for element in x:
            total = total + element
            sums.append(total)
        return [np.array(sums), total, total, total]

    def add(element: Any, so_far: Any) -> Any:
        return so_far + element

    x = T.vector("x")
    start = ZEROS[zero](floatX)
    sums, _ = theano.scan(add, outputs_info=start, sequences=x)
    totals = [fold(add, x, start)[0] for fold in (theano.reduce, theano.foldl, theano.foldr)]
    check([x], [sums, *totals], loop, random(9))
    nothing = theano.function([x], [sums, *totals])([])
    for got, want in zip(nothing, [np.zeros(0), 0, 0, 0], strict=True):
        assert_close(got, want, floatX)


@pytest.mark.parametrize("zero", ZEROS)
def test_triangular_numbers(zero: str) -> None:
    up_to = T.iscalar("up_to")
    numbers = T.arange(up_to)
    sums, _ = theano.scan(
        fn=lambda number, so_far: so_far + number, outputs_info=ZEROS[zero](numbers.dtype), sequences=numbers
    )
    got = theano.function([up_to], sums)(15)
    assert got.dtype == numbers.dtype == "int64"
    assert got.tolist() == [n * (n + 1) // 2 for n in range(15)]


RETURNS: dict[str, Callable[[Any], Any]] = {
    "variable": lambda h: h,
    "list": lambda h: [h],
    "tuple": lambda h: (h,),
    "variable and dict": lambda h: (h, {}),
    "list and dict": lambda h: ([h], {}),
    "list and list of pairs": lambda h: ([h], []),
    "variable, dict and until": lambda h: (h, {}, theano.until(h > 1e9)),
    "list and until": lambda h: ([h], theano.until(h > 1e9)),
}


@pytest.mark.parametrize("form", RETURNS)
def test_forms_in_which_a_step_returns_one_output(form: str) -> None:
    x = T.vector("x")
    sums, updates = theano.scan(lambda element, so_far: RETURNS[form](so_far + element), x, 0)
    assert not updates
    check([x], [sums], lambda x: [np.cumsum(x)], random(5))


@pytest.mark.parametrize("fold", [theano.foldl, theano.foldr])
def test_two_folds_at_once(fold: Callable[..., Any]) -> None:
    def loop(x: Any, y: Any, decay: Any) -> Any:
        a, b = 0.0, np.ones(2)
        pairs = list(zip(x, y, strict=True))
        for u, v in pairs if fold is theano.foldl else pairs[::-1]:
            a, b = decay * a + u, np.cos(b * a + v)
        return [a, b]

    x, y, decay = T.vector("x"), T.matrix("y"), T.scalar("decay")
    folded, updates = fold(
        lambda u, v, a, b, decay: [decay * a + u, T.cos(b * a + v)], [x, y], [0.0, T.ones(2)], [decay]
    )
    assert not updates
    check([x, y, decay], folded, loop, random(5), random(5, 2), 0.9)


# ---- a recurrent network with taps ----------------------------------------------------------------


def network_loop(u: Any, x0: Any, y0: Any, W: Any, W_in_1: Any, W_in_2: Any, W_feedback: Any, W_out: Any) -> Any:
    x, y = list(x0), y0  # x[-1] is the state of the step before, x[-3] that of three steps before
    states, outputs, readings = [], [], []
    for now in range(4, len(u)):
        drive = u[now].dot(W_in_1) + u[now - 4].dot(W_in_2) + y.dot(W_feedback)
        new_x, new_y = np.tanh(x[-1].dot(W) + drive), x[-3].dot(W_out)
        readings.append((new_x * y.sum()).sum())
        x.append(new_x)
        y = new_y
        states.append(new_x)
        outputs.append(new_y)
    return [np.array(states), np.array(outputs), np.array(readings)]


def one_step(u_tm4, u_t, x_tm3, x_tm1, y_tm1, W, W_in_1, W_in_2, W_feedback, W_out):
    drive = T.dot(u_t, W_in_1) + T.dot(u_tm4, W_in_2) + T.dot(y_tm1, W_feedback)
    x_t = T.tanh(T.dot(x_tm1, W) + drive)
    return [x_t, T.dot(x_tm3, W_out), (x_t * y_tm1.sum()).sum()]


NETWORK_SIZES = [(10, 2), (3, 4), (2,), (4, 4), (2, 4), (2, 4), (2, 4), (4, 2)]


def network_variables() -> list[Any]:
    weights = T.matrices("W", "W_in_1", "W_in_2", "W_feedback", "W_out")
    return [T.matrix("u"), T.matrix("x0"), T.vector("y0"), *weights]


@pytest.mark.parametrize("strict", [False, True])
def test_network(strict: bool) -> None:
    u, x0, y0, *weights = network_variables()
    outputs, updates = theano.scan(
        fn=one_step,
        sequences=dict(input=u, taps=[-4, -0]),  # noqa: C408
        outputs_info=[dict(initial=x0, taps=[-3, -1]), y0, None],  # noqa: C408
        non_sequences=weights,
        strict=strict,
    )
    assert not updates
    values = [random(*size, seed=i) for i, size in enumerate(NETWORK_SIZES)]
    x, _, _ = check([u, x0, y0, *weights], outputs, network_loop, *values)
    assert len(x) == 6  # the first four rows of u are its past


def test_dot_is_also_at_the_top() -> None:
    assert theano.dot is T.dot


def test_network_of_closures_and_of_a_given_length() -> None:
    u, x0, y0, *weights = network_variables()
    outputs, _ = theano.scan(
        lambda u_t, u_tm4, x_tm1, x_tm3, y_tm1: one_step(u_tm4, u_t, x_tm3, x_tm1, y_tm1, *weights),
        sequences=[{"input": u, "taps": [0, -4]}],
        outputs_info=[{"initial": x0, "taps": [-1, -3]}, {"initial": y0}, None],
        n_steps=3,
    )
    values = [random(*size, seed=i) for i, size in enumerate(NETWORK_SIZES)]
    check([u, x0, y0, *weights], outputs, lambda u, *rest: network_loop(u[:7], *rest), *values)


# ---- until a condition holds ----------------------------------------------------------------------


def growth_loop(bound: Any, start: Any, rate: Any) -> Any:
    value, values = start, []
    for _ in range(1024):
        value = value * rate
        values.append(value)
        if value.real > bound.real:
            break
    return [np.array(values)]


def test_powers_of_two(floatX: str) -> None:
    def double(last: Any, bound: Any) -> Any:
        return last * 2, theano.scan_module.until(last * 2 > bound)

    bound = T.scalar("bound")
    values, _ = theano.scan(double, outputs_info=T.constant(1.0), non_sequences=bound, n_steps=1024)
    f = theano.function([bound], values)
    assert_close(f(45), [2, 4, 8, 16, 32, 64], floatX)
    assert_close(f(64), [2, 4, 8, 16, 32, 64, 128], floatX)
    assert_close(f(0), [2], floatX)


def test_powers_of_two_to_the_most_steps() -> None:
    bound = T.scalar("bound")
    values, _ = theano.scan(
        lambda last: (last * 2, theano.until(last * 2 > bound)), outputs_info=T.constant(1, dtype="int64"), n_steps=5
    )
    assert theano.function([bound], values)(1000).tolist() == [2, 4, 8, 16, 32]
    assert theano.function([bound], values)(8).tolist() == [2, 4, 8, 16]


@pytest.mark.parametrize("bound", [0.1, 5.0, 400.0])
def test_growth_until_a_bound(bound: float) -> None:
    """Derivatives see the steps that were made."""
    limit, start, rate = T.scalars("limit", "start", "rate")

    def grow(last: Any, rate: Any, limit: Any) -> Any:
        return [last * rate], theano.scan_module.until(last * rate > limit)

    values, _ = theano.scan(grow, outputs_info=start, non_sequences=[rate, limit], n_steps=1024)
    check([limit, start, rate], [values], growth_loop, bound, 0.5, 1.625, fixed=[limit])


# ---- values set at positions ----------------------------------------------------------------------


def positions_by_scan(put: Callable[..., Any], places: Any, values: Any, model: Any) -> Any:
    return theano.scan(put, outputs_info=None, sequences=[places, values], non_sequences=model)[0]


def positions_by_map(put: Callable[..., Any], places: Any, values: Any, model: Any) -> Any:
    return theano.map(put, [places, values], [model])[0]


@pytest.mark.parametrize("build", [positions_by_scan, positions_by_map])
def test_values_at_positions(build: Callable[..., Any], floatX: str) -> None:
    def loop(places: Any, values: Any, model: Any) -> Any:
        matrices = np.zeros((len(values), *model.shape), values.dtype)
        for t in range(len(values)):
            matrices[t, places[t, 0], places[t, 1]] = values[t]
        return [matrices]

    def put(place: Any, value: Any, model: Any) -> Any:
        zeros = T.zeros_like(model)
        return T.set_subtensor(zeros[place[0], place[1]], value)

    places, values, model = T.imatrix("places"), T.vector("values"), T.matrix("model")
    result = build(put, places, values, model)
    inputs = [places, values, model]
    spots = [[1, 1], [2, 3], [0, -1], [1, 1]]
    check(inputs, [result], loop, spots, random(4), np.zeros((3, 5)), fixed=[model])

    got = theano.function(inputs, result)([[1, 1], [2, 3]], np.asarray([42, 50], "float32"), np.zeros((5, 5), floatX))
    wanted = np.zeros((2, 5, 5))
    wanted[0, 1, 1], wanted[1, 2, 3] = 42, 50
    assert_close(got, wanted, floatX)


def test_values_written_one_after_the_other() -> None:
    """What is overwritten gets no gradient."""

    def loop(places: Any, values: Any, start: Any) -> Any:
        current, states = start.astype(np.result_type(start, values)), []
        for place, value in zip(places, values, strict=True):
            current = current.copy()
            current[place] = value * current[0]
            states.append(current)
        return [np.array(states), current]

    places, values, start = T.ivector("places"), T.vector("values"), T.vector("start")

    def put(place: Any, value: Any, current: Any) -> Any:
        return T.set_subtensor(current[place], value * current[0])

    states, _ = theano.scan(put, sequences=[places, values], outputs_info=start)
    last, _ = theano.foldl(put, [places, values], start)
    check([places, values, start], [states, last], loop, [2, 0, 2, 3, -1], random(5), random(6))


# ---- the script -----------------------------------------------------------------------------------


PRINTED_BY_EXAMPLE = {
    "layer": np.tanh([[2, 3], [2, 3]]),
    "layer_by_map": np.tanh([[2, 3], [2, 3]]),
    "two_sequences": np.repeat([-0.99505475, 0.96471973, 0.99998585, 0.99998771, 1.0], 2),
    "row_norms": [1, 2, 3, 4, 5, 0],
    "column_norms": [0, 1, 2, 3, 4, 5],
    "trace": [4],
    "two_taps": TWO_TAPS,
    "jacobian": [[0.41997434, 0, 0.41997434, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 0, 0]],
    "counter": [5, 8],
    "power": [np.arange(10) ** 2, np.arange(10) ** 4],
    "polynomial": [19, 12],
    "polynomial_by_foldr": [19],
    "running_sums": np.cumsum(np.arange(15)),
    "total_by_reduce": [105],
    "powers_of_two": [2, 4, 8, 16, 32, 64],
}


def sections_of(text: str) -> dict[str, list[float]]:
    """What the script printed: the numbers below each line of the form `name: what it is`."""
    sections: dict[str, list[float]] = {}
    for line in text.splitlines():
        name, colon, _ = line.partition(": ")
        if colon:
            numbers = sections.setdefault(name, [])
        else:
            numbers += [float(word) for word in line.translate(str.maketrans("[],", "   ")).split()]
    return sections


def test_example(capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(EXAMPLE), run_name="__main__")
    sections = sections_of(capsys.readouterr().out)
    assert list(sections) == [section.__name__ for section in script["SECTIONS"]]
    for name, numbers in PRINTED_BY_EXAMPLE.items():
        np.testing.assert_allclose(sections[name], np.ravel(numbers), rtol=1e-6, atol=1e-6, err_msg=name)

    rng = np.random.default_rng(0)
    _, outputs, _ = network_loop(*[rng.normal(scale=0.5, size=size) for size in NETWORK_SIZES])
    np.testing.assert_allclose(sections["network"], outputs.ravel(), rtol=0, atol=2e-6)
    assert np.flatnonzero(sections["values_at_positions"]).tolist() == [5, 23]
    assert {42.0, 50.0} < set(sections["values_at_positions"])
