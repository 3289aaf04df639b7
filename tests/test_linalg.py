"""Linear algebra: values against NumPy and SciPy, derivatives against differences, native code against the reference.

`tests/test_ops.py` checks each primitive by itself; here are the functions that users call, and all the
ways in which native code computes them: unrolled, in loops of its own, by LAPACK.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.special

import ostinato
import ostinato.tensor as T
from numeric import central
from ostinato.errors import LinearAlgebraError, OstinatoError, OstinatoTypeError, OstinatoValueError, ShapeError
from ostinato.graph import Graph
from support import check, check_gradient, evaluate, normal, same

L = T.linalg

MODES = ["reference", "native"]


def matrix(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Matrices that are far from singular; elimination has to exchange rows."""
    x = normal(*shape, seed=seed)
    return x + 2 * np.eye(shape[-1])[::-1]


def definite(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    x = normal(*shape, seed=seed)
    return x @ np.swapaxes(x, -1, -2) + np.eye(shape[-1])


def compiled(inputs: list[Any], outputs: Any, mode: str) -> Any:
    """A function in a mode; in native mode really native."""
    run = ostinato.function(inputs, outputs, mode=mode, on_unused_input="ignore")
    if mode == "native":
        assert "compiled to one native function" in run.explain(), run.explain()
    return run


# ---- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 4, 4), (0, 0), (2, 0, 0), (0, 3, 3)])
def test_values_are_numpys(shape: tuple[int, ...]) -> None:
    x, p = matrix(*shape), definite(*shape)
    check(L.cholesky, np.linalg.cholesky, p)
    check(lambda a: L.cholesky(a, lower=False), lambda a: np.swapaxes(np.linalg.cholesky(a), -1, -2), p)
    check(L.inv, np.linalg.inv, x, rtol=1e-11)
    check(L.det, np.linalg.det, x)
    check(lambda a: L.slogdet(a)[0], lambda a: np.linalg.slogdet(a)[0], x)
    check(lambda a: L.slogdet(a)[1], lambda a: np.linalg.slogdet(a)[1], x)
    check(L.logdet, lambda a: np.linalg.slogdet(a)[1], x)


@pytest.mark.parametrize(
    ("of_a", "of_b"),
    [
        ((3, 3), (3,)),
        ((3, 3), (3, 2)),
        ((2, 3, 3), (3, 1)),
        ((3, 3), (2, 3, 2)),
        ((4, 1, 2, 2), (3, 2, 2)),
        ((0, 0), (0,)),
        ((0, 0), (0, 2)),
        ((2, 2), (2, 0)),
    ],
)
def test_solutions_solve(of_a: tuple[int, ...], of_b: tuple[int, ...]) -> None:
    a, p, b = matrix(*of_a), definite(*of_a), normal(*of_b, seed=3)

    def residual(solution: Callable[..., Any], left: Any, effective: Any) -> None:
        x = evaluate(solution, left, b)
        expected = np.broadcast_shapes(of_a[:-2], of_b[:-2]) + of_b[-2:] if len(of_b) > 1 else of_b
        assert x.shape == expected
        np.testing.assert_allclose(effective @ x, np.broadcast_to(b, x.shape), rtol=1e-9, atol=1e-9)

    residual(L.solve, a, a)
    residual(lambda a, b: L.solve(a, b, assume_a="sym"), p, p)
    residual(lambda a, b: L.solve(a, b, assume_a="pos"), p, p)
    residual(lambda a, b: L.solve(a, b, assume_a="pos", lower=True), p, p)
    residual(lambda a, b: L.cho_solve((L.cholesky(a), True), b), p, p)
    residual(lambda a, b: L.cho_solve((L.cholesky(a, lower=False), False), b), p, p)
    low, up, transposed = np.tril(p), np.triu(p), np.swapaxes(p, -1, -2)
    residual(lambda a, b: L.solve(a, b, assume_a="lower triangular"), p, low)
    residual(lambda a, b: L.solve(a, b, assume_a="upper triangular"), p, up)
    residual(lambda a, b: L.solve_triangular(a, b, trans="T"), p, np.triu(transposed))
    residual(lambda a, b: L.solve_triangular(a, b, lower=False, trans=1), p, np.tril(transposed))
    ones = np.tril(p, -1) / 9 + np.eye(of_a[-1])
    residual(lambda a, b: L.solve_triangular(a / 9, b, unit_diagonal=True), p, ones)


def test_the_other_triangle_is_not_read() -> None:
    p = definite(4, 4)
    nan = np.full((4, 4), np.nan)
    low, up = np.tril(p) + np.triu(nan, 1), np.triu(p) + np.tril(nan, -1)
    same(evaluate(L.cholesky, low), np.linalg.cholesky(p))
    same(evaluate(lambda x: L.cholesky(x, lower=False), up), np.linalg.cholesky(p).T)
    b = normal(4)
    same(evaluate(L.solve_triangular, low, b), scipy.linalg.solve_triangular(np.tril(p), b, lower=True))
    solved = scipy.linalg.solve_triangular(np.triu(p), b)
    same(evaluate(lambda a, y: L.solve_triangular(a, y, lower=False), up, b), solved)


def test_dtypes() -> None:
    a, b = definite(3, 3), normal(3)
    single = evaluate(L.solve, a.astype("float32"), b.astype("float32"))
    same(single, np.linalg.solve(a.astype("float32"), b.astype("float32")), rtol=1e-5)
    assert evaluate(L.solve, a.astype("float32"), b).dtype == "float64"
    whole = np.array([[2, 1], [1, 3]])
    same(evaluate(L.det, whole), np.float64(5))
    half = evaluate(L.cholesky, a.astype("float16"))
    same(half, np.linalg.cholesky(a.astype("float16").astype("float32")).astype("float16"))


def test_composites() -> None:
    a, b = matrix(3, 3), normal(2, 4)
    check(L.kron, np.kron, a, b)
    for n in (0, 1, 2, 5, -1, -3):
        check(lambda x, n=n: L.matrix_power(x, n), lambda x, n=n: np.linalg.matrix_power(x, n), a, rtol=1e-10)
    check(lambda x, y, z: L.matrix_dot(x, y, z), lambda x, y, z: x @ y @ z, a, a, normal(3, 2))
    check(T.nlinalg.alloc_diag, np.diag, normal(3))
    check(T.nlinalg.extract_diag, np.diag, a)


def test_theanos_names() -> None:
    a, b = definite(3, 3), normal(3)
    same(evaluate(T.nlinalg.matrix_inverse, a), np.linalg.inv(a), rtol=1e-10)
    same(evaluate(T.nlinalg.det, a), np.linalg.det(a))
    same(evaluate(T.nlinalg.trace, a), np.trace(a))
    same(evaluate(T.slinalg.cholesky, a), np.linalg.cholesky(a))
    same(evaluate(T.slinalg.solve, a, b), np.linalg.solve(a, b), rtol=1e-10)
    same(evaluate(T.slinalg.solve_symmetric, a, b), np.linalg.solve(a, b), rtol=1e-10)
    low = scipy.linalg.solve_triangular(a, b, lower=True)
    same(evaluate(T.slinalg.solve_lower_triangular, a, b), low, rtol=1e-10)
    same(evaluate(T.slinalg.solve_upper_triangular, a, b), scipy.linalg.solve_triangular(a, b), rtol=1e-10)


def test_the_theano_layer_has_the_modules() -> None:
    from ostinato.compat import theano as layer

    layer.install(force=True)
    try:
        import theano.tensor.nlinalg
        import theano.tensor.slinalg

        assert theano.tensor.slinalg.cholesky is L.cholesky
        assert theano.tensor.nlinalg.matrix_inverse is L.inv
    finally:
        layer.uninstall()


# ---- derivatives ----------------------------------------------------------------------------------


def test_derivatives_of_composed_functions() -> None:
    p, b = definite(3, 3), normal(3)
    symmetric = lambda a: (a + a.T) / 2  # noqa: E731
    check_gradient(lambda a: L.cholesky(symmetric(a), lower=False), p, order=2, tol=1e-6)
    check_gradient(lambda a, y: L.solve(symmetric(a), y, assume_a="pos"), p, b, order=2, tol=1e-6)
    check_gradient(lambda a, y: L.solve_triangular(a, y, lower=False, trans=1), p, b, order=2, tol=1e-6)
    check_gradient(lambda a: L.logdet(a), p, order=2, tol=1e-6)
    check_gradient(lambda a: L.matrix_power(a, -2), p, tol=1e-6)


def test_derivatives_of_broadcast_stacks() -> None:
    check_gradient(lambda a, b: L.solve(a, b), matrix(2, 2, 2), normal(2, 1), tol=1e-6)
    check_gradient(lambda a, b: L.solve_triangular(a, b), definite(2, 2), normal(3, 2, 1), tol=1e-6)


def test_the_gaussian_density_in_two_ways() -> None:
    """The same derivative by way of the inverse and the determinant, and by way of the Cholesky factor."""
    x, S = T.dvector("x"), T.dmatrix("S")
    plain = (L.slogdet(S)[1] + T.dot(x, T.dot(L.inv(S), x))) / 2
    factor = L.cholesky((S + S.T) / 2)
    white = L.solve_triangular(factor, x)
    careful = T.log(L.diag(factor)).sum() + (white**2).sum() / 2
    f = ostinato.function([x, S], [plain, careful, *T.grad(plain, [x, S]), *T.grad(careful, [x, S])])
    a, b, ga, ha, gb, hb = f(normal(4), definite(4, 4))
    np.testing.assert_allclose(a, b, rtol=1e-12)
    np.testing.assert_allclose(ga, gb, rtol=1e-10)
    np.testing.assert_allclose((ha + ha.T) / 2, (hb + hb.T) / 2, rtol=1e-9, atol=1e-12)


# ---- native code ----------------------------------------------------------------------------------


def all_of_them(a: Any, p: Any, b: Any) -> list[Any]:
    return [
        L.cholesky(p),
        L.cholesky(p, lower=False),
        L.solve(a, b),
        L.inv(a),
        L.det(a),
        *L.slogdet(a),
        L.solve_triangular(p, b),
        L.solve_triangular(p, b, lower=False),
        L.solve_triangular(p, b, trans=1),
        L.solve_triangular(p / 99, b, lower=False, unit_diagonal=True),
        L.solve(p, b, assume_a="pos"),
    ]


def compare(values: list[Any], expected: list[Any], tolerance: float) -> None:
    for found, wanted in zip(values, expected, strict=True):
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        scale = np.max(np.abs(wanted), initial=1.0)
        np.testing.assert_allclose(found / scale, wanted / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_all_sizes_by_one_function(dtype: str) -> None:
    """Loops of our own for few rows, LAPACK for many: one compilation."""
    inputs = [T.TensorType(dtype, (None, None))(name) for name in "apb"]
    native, reference = (compiled(inputs, all_of_them(*inputs), mode) for mode in ("native", "reference"))
    for n, columns in [(0, 0), (0, 2), (2, 0), (1, 1), (2, 3), (7, 1), (31, 4), (33, 5), (65, 1), (70, 66)]:
        arrays = [x.astype(dtype) for x in (matrix(n, n), definite(n, n), normal(n, columns))]
        arrays[0] /= 1 + np.sqrt(n)  # a determinant of float32 that does not overflow
        compare(native(*arrays), reference(*arrays), 1e-10 if dtype == "float64" else 2e-3)


@pytest.mark.parametrize(("n", "columns"), [(0, 1), (1, 1), (2, 3), (3, 1), (4, 4), (6, 2), (8, 1), (9, 2)])
def test_tiny_sizes_that_are_known(n: int, columns: int) -> None:
    square, right = T.TensorType("float64", (n, n)), T.TensorType("float64", (n, columns))
    inputs = [square("a"), square("p"), right("b")]
    arrays = [matrix(n, n), definite(n, n), normal(n, columns)]
    native, reference = (compiled(inputs, all_of_them(*inputs), mode) for mode in ("native", "reference"))
    compare(native(*arrays), reference(*arrays), 1e-11)
    assert ("routine" not in native.explain("nest")) == (n < 5 or (n, columns) == (6, 0))


def test_every_order_of_rows() -> None:
    """Unrolled elimination exchanges rows without knowing which."""
    a = T.TensorType("float64", (4, 4))("a")
    f = compiled([a], [L.inv(a), L.det(a), *L.slogdet(a)], "native")
    rows = np.triu(normal(4, 4)) + 2 * np.eye(4)
    for order in itertools.permutations(range(4)):
        x = rows[list(order)]
        compare(f(x), [np.linalg.inv(x), np.linalg.det(x), *np.linalg.slogdet(x)], 1e-12)


@pytest.mark.parametrize("static", [True, False])
def test_stacks(static: bool) -> None:
    arrays = [matrix(2, 1, 3, 3), definite(2, 1, 3, 3), normal(4, 3, 2)]
    inputs = [
        T.TensorType("float64", x.shape if static else (None,) * x.ndim)(n) for x, n in zip(arrays, "apb", strict=True)
    ]
    native, reference = (compiled(inputs, all_of_them(*inputs), mode) for mode in ("native", "reference"))
    compare(native(*arrays), reference(*arrays), 1e-12)


@pytest.mark.parametrize("n", [4, 70])
def test_operands_that_are_views(n: int) -> None:
    a, b = T.dmatrix("a"), T.dmatrix("b")
    outputs = [
        L.solve_triangular(a.T[1:, 1:], b.T[1:, ::2]),
        L.solve_triangular(a[::2, ::2], b[::2].T[::2]),
        L.solve(a[::-1].T, b.T),
        L.cholesky(a.T[::2, ::2]),
        L.solve_triangular(L.cholesky(a), T.exp(b), trans=1),
    ]
    native, reference = (compiled([a, b], outputs, mode) for mode in ("native", "reference"))
    arrays = definite(n, n), normal(n, n)
    compare(native(*arrays), reference(*arrays), 1e-9)


def test_library_functions_are_linked_by_name() -> None:
    a = T.dmatrix("a")
    f = compiled([a], L.cholesky(a), "native")
    text = f.explain("llvm")
    assert '@"lapack.dpotrf"' in text
    assert not re.search(r"inttoptr i64 \d", text)  # no address of this process
    assert "extern lapack.dpotrf(" in f.explain("nest")


def test_threads_of_the_library_are_as_before() -> None:
    from ostinato.backends.llvm import externals

    control = externals._thread_control()
    if control is None:
        pytest.skip("SciPy's BLAS has no known control")
    get, put = control
    before = get()
    try:
        put(2)
        with externals.one_blas_thread():
            assert get() == 1
            with externals.one_blas_thread():
                assert get() == 1
            assert get() == 1
        assert get() == 2
        a = T.dmatrix("a")
        compiled([a], L.inv(a), "native")(matrix(50, 50))
        assert get() == 2
    finally:
        put(before)


def test_an_unknown_symbol() -> None:
    from ostinato.backends.llvm.externals import address_of

    with pytest.raises(KeyError):
        address_of("blas.nothing")


@pytest.mark.parametrize("flip_a", [False, True])
@pytest.mark.parametrize("flip_b", [False, True])
@pytest.mark.parametrize("flip_c", [False, True])
def test_products_by_the_library(flip_a: bool, flip_b: bool, flip_c: bool) -> None:
    """`gemm` for every order in memory, by a loop nest made for it."""
    for dtype, (m, k, n) in itertools.product(["float64", "float32"], [(3, 4, 5), (1, 1, 1), (0, 2, 3), (2, 0, 3)]):
        a, b = normal(m, k).astype(dtype), normal(k, n).astype(dtype)
        found = _gemm(a.T if flip_a else a, b.T if flip_b else b, flip_a, flip_b, flip_c)
        np.testing.assert_allclose(found, a @ b, rtol=1e-4 if dtype == "float32" else 1e-12, atol=1e-6)


def _gemm(a: Any, b: Any, flip_a: bool, flip_b: bool, flip_c: bool) -> Any:
    """The product of (transposed) arrays, into an array that is (not) transposed."""
    from ostinato.backends.llvm.run import Native
    from ostinato.lower import scalarize
    from ostinato.lower.arrays import new_array
    from ostinato.lower.blas import _flipped, gemm

    def rule(block: Any, node: Any) -> Any:
        x, y = (block.in_memory(i) for i in node.inputs)
        x, y = _flipped(block, x) if flip_a else x, _flipped(block, y) if flip_b else y
        sizes = [x.sizes[0], y.sizes[1]]
        z = new_array(block.nest, x.dtype, sizes[::-1] if flip_c else sizes)
        z = _flipped(block, z) if flip_c else z
        assert gemm(block, x, y, z)
        return z

    inputs = [T.TensorType(v.dtype.name, (None, None))(name) for v, name in ((a, "a"), (b, "b"))]
    product = T.dot(*inputs)  # of the right type; only its rule is another one
    usual = scalarize.RULES["matmul"]
    scalarize.RULES["matmul"] = rule
    try:
        return Native(Graph(tuple(inputs), (product,)))([np.ascontiguousarray(a), np.ascontiguousarray(b)])[0]
    finally:
        scalarize.RULES["matmul"] = usual


# ---- in loops -------------------------------------------------------------------------------------


def kalman(static: bool) -> tuple[list[Any], Any]:
    """The log likelihood of a linear Gaussian model with 3 states and 2 observations."""
    sizes = [(3, 3), (2, 3), (3, 3), (2, 2)]
    F, H, Q, R = [T.TensorType("float64", s if static else (None, None))(n) for s, n in zip(sizes, "FHQR", strict=True)]
    ys = T.TensorType("float64", (None, 2) if static else (None, None))("ys")
    m0, P0 = T.as_tensor(np.zeros(3)), T.as_tensor(np.eye(3))

    def step(y: Any, m: Any, P: Any) -> Any:
        m, P = T.dot(F, m), T.dot(T.dot(F, P), F.T) + Q
        S = T.dot(T.dot(H, P), H.T) + R
        factor = T.slinalg.cholesky(S)
        white = T.slinalg.solve_lower_triangular(factor, y - T.dot(H, m))
        gain = T.slinalg.solve(S, T.dot(H, P)).T
        density = -T.log(L.diag(factor)).sum() - 0.5 * (white**2).sum() - T.log(2 * np.pi)
        m_next = m + T.dot(gain, y - T.dot(H, m))
        return m_next, P - T.dot(gain, T.dot(H, P)), density

    (_, _, densities), _ = ostinato.scan(step, sequences=ys, outputs_info=[m0, P0, None])
    return [ys, F, H, Q, R], densities.sum()


def kalman_by_hand(ys: Any, F: Any, H: Any, Q: Any, R: Any) -> float:
    m, P, total = np.zeros(3), np.eye(3), 0.0
    for y in ys:
        m, P = F @ m, F @ P @ F.T + Q
        S = H @ P @ H.T + R
        e = y - H @ m
        total += -0.5 * (np.log(np.linalg.det(2 * np.pi * S)) + e @ np.linalg.inv(S) @ e)
        K = P @ H.T @ np.linalg.inv(S)
        m, P = m + K @ e, P - K @ H @ P
    return total


def kalman_arguments(n: int) -> list[Any]:
    return [normal(n, 2), 0.8 * np.eye(3) + 0.1 * normal(3, 3), normal(2, 3), definite(3, 3) / 5, definite(2, 2)]


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_a_kalman_filter(mode: str, static: bool) -> None:
    inputs, cost = kalman(static)
    grads = T.grad(cost, inputs[1:])
    f = compiled(inputs, [cost, *grads], mode)
    given = kalman_arguments(7)
    value, *found = f(*given)
    np.testing.assert_allclose(value, kalman_by_hand(*given), rtol=1e-10)
    for k, g in enumerate(found, start=1):
        # The factor reads one triangle, so what is not symmetric is not the same function: R is compared in its sum.
        expected = central(kalman_by_hand, given, k)
        if k in (3, 4):
            g, expected = g + g.T, expected + expected.T
        np.testing.assert_allclose(g, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_large_systems_in_a_loop(mode: str) -> None:
    A, b = T.dmatrix("A"), T.dvector("b")
    xs, _ = ostinato.scan(lambda x: L.solve(A, x) + L.det(A / 9), outputs_info=b, n_steps=3)
    a, x = matrix(40, 40) / 6, normal(40)
    expected = x
    for _ in range(3):
        expected = np.linalg.solve(a, expected) + np.linalg.det(a / 9)
    np.testing.assert_allclose(compiled([A, b], xs[-1], mode)(a, x), expected, rtol=1e-8)


# ---- failures -------------------------------------------------------------------------------------

FAILURES: list[tuple[Callable[..., Any], Any]] = [
    (lambda a: L.solve(a, a[0]), [[1.0, 2.0], [2.0, 4.0]]),
    (L.inv, [[1.0, 2.0], [2.0, 4.0]]),
    (L.cholesky, [[1.0, 2.0], [2.0, 1.0]]),
    (lambda a: L.solve_triangular(a, a[0]), [[1.0, 2.0], [2.0, 0.0]]),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize(("build", "array"), FAILURES)
def test_failures_name_the_variable_and_the_line(build: Any, array: Any, static: bool, mode: str) -> None:
    cov = T.TensorType("float64", (2, 2) if static else (None, None))("cov")
    f = compiled([cov], build(cov), mode)
    with pytest.raises(LinearAlgebraError, match=r"cov.*test_linalg\.py:\d+.*failed: .*cov of shape \(2, 2\)"):
        f(np.array(array))
    assert np.isfinite(f(np.array(array) + 3 * np.eye(2))).all()


def test_the_error_is_numpys_too() -> None:
    assert issubclass(LinearAlgebraError, (OstinatoError, np.linalg.LinAlgError))
    x = T.dmatrix("x")
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        ostinato.function([x], L.cholesky(x))(-np.eye(2))


@pytest.mark.parametrize("n", [3, 40, 70])
@pytest.mark.parametrize("mode", MODES)
def test_failures_of_all_sizes(mode: str, n: int) -> None:
    x = T.dmatrix("x")
    singular = np.diag(np.r_[np.ones(n - 1), 0.0])
    for build in (lambda x: L.solve(x, x), L.inv, L.cholesky, lambda x: L.solve_triangular(x, x)):
        with pytest.raises(LinearAlgebraError):
            compiled([x], build(x), mode)(singular)
    det, sign, logdet = compiled([x], [L.det(x), *L.slogdet(x)], mode)(singular)
    assert (det, sign, logdet) == (0.0, 0.0, -np.inf)


@pytest.mark.parametrize("mode", MODES)
def test_a_failure_in_a_loop_names_the_step(mode: str) -> None:
    P = T.dmatrix("P")
    out, _ = ostinato.scan(lambda t, P: L.cholesky(P - t * T.eye(2)), sequences=T.arange(5.0), non_sequences=P)
    with pytest.raises(LinearAlgebraError, match=r"step 3: cholesky\(.*test_linalg\.py:\d+\) failed: .*not positive"):
        compiled([P], out, mode)(2.5 * np.eye(2))


@pytest.mark.parametrize("mode", MODES)
def test_nan_passes_where_numpy_lets_it(mode: str) -> None:
    x = T.TensorType("float64", (2, 2))("x")
    y = T.dmatrix("y")
    for v in (x, y):
        inverse, det = compiled([v], [L.inv(v), L.det(v)], mode)(np.array([[np.nan, 1.0], [2.0, 3.0]]))
        assert np.isnan(inverse).any()
        assert np.isnan(det)


def test_shapes_that_do_not_fit_are_told_when_the_graph_is_built() -> None:
    wide, square, right = (T.TensorType("float64", s)("v") for s in ((2, 3), (3, 3), (2, 1)))
    for build in (L.cholesky, L.inv, L.det, L.slogdet, lambda x: L.cholesky(x, lower=False)):
        with pytest.raises(ShapeError, match=r"expected a square matrix, got 'v'"):
            build(wide)
    for solve in (L.solve, L.solve_triangular):
        with pytest.raises(ShapeError, match=r"has 3 rows, but 'v' .* has 2"):
            solve(square, right)
    with pytest.raises(ShapeError, match="stacks"):
        L.solve(T.TensorType("float64", (2, 3, 3))("a"), T.TensorType("float64", (4, 3, 1))("b"))
    with pytest.raises(OstinatoTypeError, match="expected a matrix of floats"):
        L.det(T.dvector("v"))
    with pytest.raises(OstinatoTypeError, match="vector or a matrix on the right"):
        L.solve(square, T.dscalar("s"))
    with pytest.raises(OstinatoValueError, match="trans"):
        L.solve_triangular(square, square, trans=2)
    with pytest.raises(OstinatoValueError, match="assume_a"):
        L.solve(square, square, assume_a="banded")
    with pytest.raises(OstinatoTypeError, match="int"):
        L.matrix_power(square, 0.5)


@pytest.mark.parametrize("mode", MODES)
def test_shapes_that_do_not_fit_at_run_time(mode: str) -> None:
    a, b = T.dmatrix("a"), T.dmatrix("b")
    for build in (L.solve, L.solve_triangular, lambda a, b: L.cholesky(a), lambda a, b: L.det(a)):
        f = compiled([a, b], build(a, b), mode)
        with pytest.raises(ShapeError, match="shapes do not fit"):
            f(np.ones((2, 3)), np.ones((2, 1)))
    with pytest.raises(ShapeError, match="3 columns meet 2 rows"):
        compiled([a, b], L.solve(a, b), mode)(np.eye(3), np.ones((2, 1)))


def test_the_sizes_of_results_are_those_of_operands() -> None:
    from ostinato.ops.sizes import sizes

    a, b = T.dmatrix("a"), T.dmatrix("b")
    assert sizes(L.solve(a, b)) == sizes(b)
    stack = T.dtensor3("stack")
    sign, _ = L.slogdet(stack)
    assert sizes(sign) == sizes(stack)[:1]


# ---- special functions ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_functions_of_the_library(dtype: str) -> None:
    x = T.TensorType(dtype, (None,))("x")
    f = compiled([x], [T.gammaln(x), T.psi(x), 2 * T.gammaln(x[::2] + 1)], "native")
    at = np.r_[np.geomspace(1e-3, 1e3, 37), -0.5, -2.5, 0.0, -1.0, np.inf, np.nan].astype(dtype)
    values = f(at)
    for found, wanted in zip(values, (scipy.special.gammaln(at), scipy.special.psi(at)), strict=False):
        np.testing.assert_allclose(found, wanted, rtol=1e-15 if dtype == "float64" else 2e-7)
    one = at[::2] + np.ones(1, dtype)
    np.testing.assert_allclose(values[2], 2 * scipy.special.gammaln(one), rtol=1e-6)
    assert '@"special.gammaln"' in f.explain("llvm")


def test_a_library_function_in_a_loop() -> None:
    n, x0 = T.lscalar("n"), T.dscalar("x0")
    xs, _ = ostinato.scan(lambda x: T.gammaln(x + 2) + 1, outputs_info=x0, n_steps=n)
    total = xs.sum()
    native, reference = (compiled([n, x0], [total, T.grad(total, x0)], mode) for mode in ("native", "reference"))
    np.testing.assert_allclose(native(6, 0.7), reference(6, 0.7), rtol=1e-14)


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint64"])
def test_integer_powers(dtype: str) -> None:
    x, y = (T.TensorType(dtype, (None,))(n) for n in "xy")
    f = compiled([x, y], x**y, "native")
    bases = np.array([0, 0, 1, 2, 3, 7, 11, 100, 5], dtype)
    powers = np.array([0, 3, 100, 7, 4, 5, 0, 1, 60], dtype)
    np.testing.assert_array_equal(f(bases, powers), bases**powers)
    if dtype.startswith("int"):
        np.testing.assert_array_equal(f(-bases, powers), (-bases) ** powers)
        with pytest.raises(OstinatoValueError, match="negative integer powers"):
            f(bases, -powers)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_ranges_of_floats(dtype: str) -> None:
    inputs = [T.TensorType(dtype, ())(name) for name in ("start", "stop", "step")]
    f = compiled(inputs, [T.arange(*inputs), T.arange(*inputs).sum()], "native")
    for given in [(0.0, 1.0, 0.1), (1.0, -2.0, -0.3), (2.0, 1.0, 0.5), (0.5, 7.5, 1.0), (0.0, 0.0, 1.0)]:
        start, stop, step = (np.dtype(dtype).type(v) for v in given)
        found, total = f(start, stop, step)
        wanted = np.arange(start, stop, step, dtype=dtype)
        np.testing.assert_allclose(found, wanted, rtol=1e-6 if dtype == "float32" else 1e-14, atol=1e-7)
        np.testing.assert_allclose(total, wanted.sum(), rtol=1e-5)
    with pytest.raises(OstinatoValueError, match="step cannot be 0"):
        f(0.0, 1.0, 0.0)
    with pytest.raises(OstinatoValueError, match="step cannot be 0"):
        f(1.0, 0.0, 0.0)
