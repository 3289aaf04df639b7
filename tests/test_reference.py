"""The reference backend: what it says when a run fails, growth of outputs, types at run time, threads.

The native one says the same, so what calls a function is tried in either mode.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from ostinato.backends import BACKENDS, DEFAULT, find_backend
from ostinato.backends.reference import Tape, compile_graph, run_loop
from ostinato.config import Config
from ostinato.errors import OstinatoError, OstinatoIndexError, OstinatoValueError, ShapeError
from ostinato.graph import Graph


@pytest.fixture(autouse=True, params=["reference", "native"])
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    with ostinato.config.change_flags(mode=request.param):
        yield request.param


def test_the_table_of_backends() -> None:
    assert set(BACKENDS) >= {"reference", "native"}
    assert find_backend("reference") is compile_graph
    with ostinato.config.change_flags(mode=DEFAULT):
        assert find_backend("FAST_RUN") is find_backend(None)
    with ostinato.config.change_flags(mode="reference"):
        assert find_backend("FAST_RUN") is find_backend(None) is find_backend("reference")
    with ostinato.config.change_flags(mode="FAST_COMPILE"):
        assert find_backend(None) is find_backend(DEFAULT)
    assert Config({}).mode == DEFAULT
    with pytest.raises(OstinatoValueError, match=r"there is no mode .quantum.; there is gpu, native, reference"):
        ostinato.function([], T.constant(1), mode="quantum")


def test_a_failure_names_the_operation_its_operands_and_the_line() -> None:
    x, y = T.dvectors("x", "y")
    run = ostinato.function([x, y], x * 2 + y)
    with pytest.raises(ShapeError) as caught:
        run([1.0, 2.0], [1.0, 2.0, 3.0])
    text = str(caught.value)
    assert "((x * 2.) + y) (test_reference.py:" in text
    assert "(x * 2.) of shape (2,), y of shape (3,)" in text
    assert isinstance(caught.value, ValueError)


def test_a_product_that_does_not_fit_is_told_in_the_users_shapes() -> None:
    W, x = T.dmatrix("W"), T.dvector("x")
    text = r"shapes do not fit, 3 columns meet 4 rows; operands: W of shape \(2, 3\), x of shape \(4,\)"
    with pytest.raises(ShapeError, match=text):
        ostinato.function([W, x], T.dot(W, x))(np.ones((2, 3)), np.ones(4))


def test_a_failure_in_a_loop_names_the_step() -> None:
    x, i = T.dvector("x"), T.lvector("i")
    ys, _ = ostinato.map(lambda k: x[k], sequences=i, name="lookup")
    run = ostinato.function([x, i], ys)
    assert run([5.0, 6.0], [1, 0]).tolist() == [6, 5]
    with pytest.raises(OstinatoIndexError, match=r"step 2 of lookup: subtensor\(x, i\[t\]\) \(test_reference.py:\d+\)"):
        run([5.0, 6.0], [1, 0, 2])


def test_a_failure_in_a_nested_loop_names_both_steps() -> None:
    x = T.lmatrix("x")
    table = T.constant(np.arange(3.0))
    ys, _ = ostinato.map(
        lambda row: ostinato.map(lambda k: table[k], sequences=row, name="inner")[0].sum(), x, name="outer"
    )
    with pytest.raises(OstinatoIndexError, match="step 1 of outer: step 2 of inner: "):
        ostinato.function([x], ys)([[0, 1, 2], [0, 1, 3]])


def test_a_state_that_changes_its_shape() -> None:
    x, h = T.dmatrix("x"), T.dvector("h")
    ys, _ = ostinato.scan(lambda v, h: h + v, sequences=x, outputs_info=h)
    run = ostinato.function([x, h], ys)
    assert run(np.ones((2, 3)), np.zeros(3)).tolist() == [[1, 1, 1], [2, 2, 2]]
    with pytest.raises(ShapeError, match=r"step 0: the state h\[t-1\] has shape \(1,\) before .* \(3,\) after"):
        run(np.ones((2, 3)), np.zeros(1))


def test_an_output_that_changes_its_shape() -> None:
    n = T.lvector("n")
    ys, _ = ostinato.map(lambda k: T.arange(k), sequences=n)
    run = ostinato.function([n], ys)
    assert run([2, 2]).tolist() == [[0, 1], [0, 1]]
    with pytest.raises(ShapeError, match=r"step 1: the output arange.* has shape \(3,\), but had shape \(2,\)"):
        run([2, 3])


@pytest.mark.parametrize("steps", [1, 63, 64, 65, 128, 129, 1000])
def test_outputs_of_until_grow_to_the_steps_made(steps: int) -> None:
    ys, _ = ostinato.scan(lambda k: (k + 1, ostinato.until(k + 1 >= steps)), outputs_info=0, n_steps=10**12)
    found = ostinato.function([], ys)()
    assert found.tolist() == list(range(1, steps + 1))
    assert found.base is None


def test_row_shapes_of_no_steps_come_from_size_expressions() -> None:
    x, w = T.dmatrix("x"), T.dmatrix("w")
    (a, b, c), _ = ostinato.map(
        lambda v: [T.dot(v, w), T.outer(v, v), T.concatenate([v, T.arange(3) * 1.0])[1:]], sequences=x
    )
    found = ostinato.function([x, w], [a, b, c])(np.zeros((0, 2)), np.zeros((2, 5)))
    assert [f.shape for f in found] == [(0, 5), (0, 2, 2), (0, 4)]


def test_types_are_checked_at_run_time_on_request() -> None:
    x = T.tensor("float64", (3,), "x")
    tape = Tape(Graph((x,), (x * 2,)))
    assert tape.run([np.ones(3)])[0].tolist() == [2, 2, 2]
    with ostinato.config.change_flags(verify=True), pytest.raises(AssertionError, match=r"declared float64\[3\]"):
        tape.run([np.ones(4)])


def test_run_loop_is_the_reference_of_the_op() -> None:
    x = T.dvector("x")
    ys, _ = ostinato.scan(lambda v, a: a + v, sequences=x, outputs_info=T.constant(0.0, dtype="float64"))
    loop = ys.inputs[0]
    final, rows, done = run_loop(loop.params[0], [np.int64(3), np.arange(3.0), np.float64(0)])
    assert (final, rows.tolist(), done) == (3, [0, 1, 3], 3)


def test_one_function_in_many_threads() -> None:
    x = T.dvector("x")
    ys, _ = ostinato.scan(lambda v, h: T.tanh(h + v), sequences=x, outputs_info=T.constant(0.0, dtype="float64"))
    run = ostinato.function([x], [ys, T.grad(ys.sum(), x)])
    inputs = [np.linspace(-k, k, 30) for k in range(8)]
    expected = [run(v) for v in inputs]
    found: dict[int, Any] = {}

    def work(k: int) -> None:
        for _ in range(5):
            found[k] = run(inputs[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k in range(8):
        np.testing.assert_array_equal(found[k], expected[k])


def test_numpy_warnings_stay_inside() -> None:
    """Overflow and NaN are values; what the caller set for NumPy is neither used nor changed."""
    x = T.dvector("x")
    with np.errstate(all="raise"):
        found = ostinato.function([x], [T.log(x), 1 / x, T.exp(x * 1e4)])([-1.0, 0.0, 1.0])
        assert np.geterr()["divide"] == "raise"
    assert np.isnan(found[0][0])
    assert np.isinf(found[1][1])
    assert np.isinf(found[2][2])


def test_all_errors_are_of_one_family() -> None:
    assert issubclass(ShapeError, OstinatoError)
    assert issubclass(ShapeError, ValueError)
