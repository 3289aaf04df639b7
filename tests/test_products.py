"""Products of matrices natively: packed kernels, products within loops, BLAS outside of them; against NumPy."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from ostinato.backends.llvm import kernels
from ostinato.graph import make
from ostinato.ops.contraction import ACCUMULATE

RNG = np.random.default_rng(7)
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
DTYPES = tuple(TOLERANCE)


def kernel(name: str, *types: Any) -> Any:
    return ctypes.CFUNCTYPE(None, *types)(kernels.address_of(name))


def multiplied(a: Any, w: Any) -> Any:
    """a @ w by the kernels, into the middle of a larger matrix, whose rest must stay as it is."""
    dtype, size, word = a.dtype.name, a.itemsize, ctypes.c_int64
    pack = kernel(f"pack_{dtype}", ctypes.c_void_p, word, word, ctypes.c_void_p, word, word)
    multiply = kernel(
        f"multiply_{dtype}", *[ctypes.c_void_p, word, word, ctypes.c_void_p, ctypes.c_void_p, *[word] * 4]
    )
    (rows, inner), columns = a.shape, w.shape[1]
    width = kernels.panel_columns()[dtype]
    panels = np.full(-(-columns // width) * width * inner + 1, np.nan, dtype)
    pack(w.ctypes.data, *[s // size for s in w.strides], panels.ctypes.data, inner, columns)
    c = np.full((rows + 1, columns + 3), 7, dtype)
    steps = [s // size for s in a.strides]
    multiply(a.ctypes.data, *steps, panels.ctypes.data, c.ctypes.data, columns + 3, rows, inner, columns)
    assert panels[-1] != panels[-1], "a word after the panels was written"
    assert (c[rows] == 7).all()
    assert (c[:, columns:] == 7).all()
    return c[:rows, :columns]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", [0, 1, 5, 33])
@pytest.mark.parametrize("columns", [0, 1, 3, 15, 16, 17, 63, 64, 65, 128, 150, 257])
def test_kernels(dtype: str, inner: int, columns: int) -> None:
    for rows in (0, 1, 2, 3, 5, 6, 7, 8, 12, 13):
        a, w = RNG.normal(size=(rows, inner)).astype(dtype), RNG.normal(size=(inner, columns)).astype(dtype)
        expected = a.astype("float64") @ w.astype("float64")
        for left in (a, np.asfortranarray(a)):
            for right in (w, np.asfortranarray(w)):
                np.testing.assert_allclose(multiplied(left, right), expected, TOLERANCE[dtype], TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_of_a_row_do_not_depend_on_the_others(dtype: str) -> None:
    a, w = RNG.normal(size=(13, 37)).astype(dtype), RNG.normal(size=(37, 150)).astype(dtype)
    together = multiplied(a, w)
    for rows in (1, 2, 5, 6, 8):
        np.testing.assert_array_equal(multiplied(a[:rows], w), together[:rows])


def test_special_values_stay_in_their_columns() -> None:
    a, w = np.ones((3, 2)), np.ones((2, 70))
    w[1, 5], w[0, 69] = np.inf, np.nan
    product = multiplied(a, w)
    assert np.isinf(product[:, 5]).all()
    assert np.isnan(product[:, 69]).all()
    assert np.isfinite(np.delete(product, [5, 69], axis=1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 17, 70])
def test_sums_go_on_whatever_is_added_at_a_time(dtype: str, columns: int) -> None:
    """In both orders of rows, with bits that do not depend on how rows are divided."""
    rows, own = 300, 13
    C, X, Y = T.matrix("C", dtype), T.matrix("X", dtype), T.matrix("Y", dtype)
    c, x, y = (RNG.normal(size=shape).astype(dtype) for shape in ((own, columns), (rows, own), (rows, columns)))
    for backwards in (False, True):
        add = ostinato.function([C, X, Y], make(ACCUMULATE, (C, X, Y), (backwards,)), mode="native")
        assert f"kernels.add_{dtype}" in add.explain("nest")
        whole = add(c, x, y)
        np.testing.assert_allclose(whole, c + x.T.astype("float64") @ y, TOLERANCE[dtype], 10 * TOLERANCE[dtype])
        for cuts in ([0, 1, 300], [0, 128, 300], [0, 7, 7, 129, 257, 300]):
            total = c
            parts = list(itertools.pairwise(cuts))
            for start, stop in reversed(parts) if backwards else parts:
                total = add(total, x[start:stop], y[start:stop])
            np.testing.assert_array_equal(total, whole)
        with pytest.raises(ValueError, match="accumulate"):
            add(c, x, y[1:])


# ---- within loops ---------------------------------------------------------------------------------


def network(x: Any, h: Any, W: Any, U: Any, tanh: Any, dot: Any) -> Any:
    return tanh(dot(x, W) + dot(h, U))


def plain(X: Any, h: Any, W: Any, U: Any) -> Any:
    hs = []
    for x in X:
        h = network(x, h, W, U, np.tanh, np.dot)
        hs.append(h)
    return np.array(hs).reshape(len(X), *h.shape)


SIZES = [(4, 1, 3, 5), (5, 2, 20, 33), (3, 7, 70, 64), (0, 3, 20, 20), (2, 6, 1, 17)]  # steps, batch, inputs, units


@pytest.mark.parametrize("dtype", DTYPES)
def test_network(dtype: str) -> None:
    """One compilation for all sizes, of a batch and of a single sequence."""
    X, h, W, U = T.tensor3("X", dtype), T.matrix("h", dtype), T.matrix("W", dtype), T.matrix("U", dtype)
    v = T.vector("v", dtype)

    def step(x: Any, h: Any, W: Any, U: Any) -> Any:
        return network(x, h, W, U, T.tanh, T.dot)

    batch, _ = ostinato.scan(step, X, h, [W, U])
    single, _ = ostinato.scan(step, X[:, 0], v, [W, U])
    run = ostinato.function([X, h, v, W, U], [batch, single], mode="native")
    assert "kernels.multiply" in run.explain("nest")
    for steps, rows, inputs, units in SIZES:
        x, h0 = RNG.normal(size=(steps, rows, inputs)).astype(dtype), RNG.normal(size=(rows, units)).astype(dtype)
        w, u = (RNG.normal(size=(n, units)).astype(dtype) / 8 for n in (inputs, units))
        found = run(x, h0, h0[0], w, u)
        np.testing.assert_allclose(found[0], plain(x, h0, w, u), TOLERANCE[dtype], TOLERANCE[dtype])
        np.testing.assert_allclose(found[1], plain(x[:, 0], h0[0], w, u), TOLERANCE[dtype], TOLERANCE[dtype])
    assert run.compilations == 1


@pytest.mark.parametrize("turned", [False, True], ids=["W v", "W.T v"])
def test_matrix_from_the_left(turned: bool) -> None:
    W, v, B = T.dmatrix("W"), T.dvector("v"), T.dmatrix("B")

    def step(v: Any, B: Any, W: Any) -> Any:
        matrix = W.T if turned else W
        return [T.tanh(T.dot(matrix, v)), T.sin(T.dot(matrix, B))]

    (vs, Bs), _ = ostinato.scan(step, outputs_info=[v, B], non_sequences=W, n_steps=4)
    run = ostinato.function([W, v, B], [vs, Bs], mode="native")
    for n, columns in ((1, 1), (5, 3), (21, 1), (40, 70)):
        w, x, b = RNG.normal(size=(n, n)) / n, RNG.normal(size=n), RNG.normal(size=(n, columns))
        found = run(w, x, b)
        m = w.T if turned else w
        for k in range(4):
            x, b = np.tanh(m @ x), np.sin(m @ b)
            np.testing.assert_allclose(found[0][k], x, 1e-12, 1e-14)
            np.testing.assert_allclose(found[1][k], b, 1e-12, 1e-14)


def test_what_several_loops_leave_alone_is_packed_once() -> None:
    W, h = T.dmatrix("W"), T.dmatrix("h")

    def inner(h: Any, W: Any) -> Any:
        return T.tanh(T.dot(h, W)) + T.dot(T.sin(h), W)

    def outer(h: Any, W: Any) -> Any:
        return ostinato.scan(inner, outputs_info=h, non_sequences=W, n_steps=3)[0][-1] * 2

    hs, _ = ostinato.scan(outer, outputs_info=h, non_sequences=W, n_steps=2)
    run = ostinato.function([W, h], hs, mode="native")
    lines = run.explain("nest").splitlines()
    packs = [line for line in lines if "kernels.pack" in line]
    assert len(packs) == 1
    assert not packs[0].startswith(" "), "it is packed before all loops"
    w, x = RNG.normal(size=(20, 20)) / 5, RNG.normal(size=(3, 20))
    found = run(w, x)
    for k in range(2):
        for _ in range(3):
            x = np.tanh(x @ w) + np.sin(x) @ w
        x = x * 2
        np.testing.assert_allclose(found[k], x, 1e-12, 1e-14)


def test_a_matrix_that_changes_is_not_packed() -> None:
    A, h = T.dmatrix("A"), T.dmatrix("h")
    (hs, _), _ = ostinato.scan(lambda h, A: [T.tanh(T.dot(h, A)), A * 0.9], outputs_info=[h, A], n_steps=3)
    run = ostinato.function([A, h], hs, mode="native")
    assert "kernels" not in run.explain("nest")
    a, x = RNG.normal(size=(20, 20)), RNG.normal(size=(3, 20))
    found = run(a, x)
    for k in range(3):
        x, a = np.tanh(x @ a), a * 0.9
        np.testing.assert_allclose(found[k], x, 1e-12, 1e-14)


def test_sizes_that_do_not_fit() -> None:
    W, h = T.dmatrix("W"), T.dmatrix("h")
    hs, _ = ostinato.scan(lambda h, W: T.dot(h, W), outputs_info=h, non_sequences=W, n_steps=3)
    run = ostinato.function([W, h], hs, mode="native")
    with pytest.raises(ValueError, match="step 0"):
        run(np.ones((20, 20)), np.ones((3, 19)))


# ---- outside of loops -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 40])
def test_products_outside(dtype: str, n: int) -> None:
    """Small ones by our own loops, large ones by BLAS; strided, transposed and in stacks."""
    X, W, S = T.matrix("X", dtype), T.matrix("W", dtype), T.tensor3("S", dtype)
    results = [T.dot(X, W), T.dot(X.T, W), T.dot(X, W.T), T.dot(X[::2], W), T.dot(X, W[::-1])]
    results += [S @ W, T.dot(S, W), S @ S]
    run = ostinato.function([X, W, S], results, mode="native")
    assert "blas.sgemm" in run.explain("nest") or "blas.dgemm" in run.explain("nest")
    x, w, s = (RNG.normal(size=shape).astype(dtype) for shape in ((n, n), (n, n), (3, n, n)))
    a, b, c = (v.astype("float64") for v in (x, w, s))
    expected = [a @ b, a.T @ b, a @ b.T, a[::2] @ b, a @ b[::-1], c @ b, c @ b, c @ c]
    for found, exact in zip(run(x, w, s), expected, strict=True):
        np.testing.assert_allclose(found, exact, TOLERANCE[dtype], TOLERANCE[dtype] * n)


def test_gradient_of_a_stack_with_one_matrix() -> None:
    S, W, C = T.dtensor3("S"), T.dmatrix("W"), T.dtensor3("C")
    gradients = T.grad(T.sum((S @ W) * C), [S, W])
    for mode in ("reference", "native"):
        run = ostinato.function([S, W, C], gradients, mode=mode)
        s, w, c = (RNG.normal(size=shape) for shape in ((5, 3, 4), (4, 2), (5, 3, 2)))
        for found, exact in zip(run(s, w, c), (c @ w.T, np.einsum("tij,tik->jk", s, c)), strict=True):
            np.testing.assert_allclose(found, exact, 1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), [(6, 6), (3, 7), (9, 3), (5, 13), (9, 2)])
def test_small_matrices_of_known_sizes(dtype: str, n: int, m: int) -> None:
    """Rows of few elements are one vector each, also of a transpose that the loop does not change."""
    h, a, q = (T.tensor(dtype, shape, name) for shape, name in (((n, m), "h"), ((m, m), "a"), ((n, n), "q")))

    def step(h: Any, a: Any, q: Any) -> Any:
        moved = T.dot(T.dot(q.T, h), a.T)
        return T.tanh(moved + T.dot(h, a)) / (2.0 + T.sum(h[0] * h[0]))

    states, _ = ostinato.scan(step, outputs_info=h, non_sequences=[a, q], n_steps=5)
    f = ostinato.function([h, a, q], states, mode="native")
    state, by, rows = (RNG.normal(size=s).astype(dtype) for s in ((n, m), (m, m), (n, n)))
    got, wanted = f(state, by, rows), state.astype("float64")
    for k in range(5):
        wanted = np.tanh(rows.T @ wanted @ by.T + wanted @ by) / (2.0 + (wanted[0] ** 2).sum())
        np.testing.assert_allclose(got[k], wanted, rtol=200 * TOLERANCE[dtype], atol=10 * TOLERANCE[dtype])
    if (n, m) == (6, 6):
        assert "for 6 x 6 elements, 6 at a time" in f.explain()
