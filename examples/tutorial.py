"""Small computations with `scan`, from a map over rows to a recurrent network with taps.

Each function below is one computation as one would write it for Theano: symbolic variables, a scan,
a compiled function, a call. Its docstring is the line printed above its result. Run the file, in
double or in single precision:

    python examples/tutorial.py
    OSTINATO_FLOATX=float32 python examples/tutorial.py
"""

import numpy as np

import ostinato as theano
import ostinato.tensor as T

floatX = theano.config.floatX  # noqa: N816 - the name it has in Theano


def layer():
    """A layer: tanh(x·W + b) for each row x of a matrix."""
    X, W, b = T.matrix("X"), T.matrix("W"), T.vector("b")
    rows, _ = theano.scan(lambda x: T.tanh(T.dot(x, W) + b), sequences=X)
    compute = theano.function([X, W, b], rows)
    return compute(np.eye(2, dtype=floatX), np.ones((2, 2), floatX), [1, 2])


def layer_by_map():
    """The same layer by map, which is a scan without feedback."""
    X, W, b = T.matrix("X"), T.matrix("W"), T.vector("b")
    rows, _ = theano.map(lambda x, W, b: T.tanh(T.dot(x, W) + b), sequences=X, non_sequences=[W, b])
    compute = theano.function([X, W, b], rows)
    return compute(np.eye(2, dtype=floatX), np.ones((2, 2), floatX), [1, 2])


def two_sequences():
    """h_t = tanh(h_(t-1)·W + y_t·U + p_(T-t)·V): one sequence read forwards, one from its end."""
    h0, Y, P = T.vector("h0"), T.matrix("Y"), T.matrix("P")
    W, U, V = T.matrices("W", "U", "V")

    def step(y, p, h):
        return T.tanh(T.dot(h, W) + T.dot(y, U) + T.dot(p, V))

    h, _ = theano.scan(step, sequences=[Y, P[::-1]], outputs_info=h0)
    compute = theano.function([h0, Y, P, W, U, V], h)
    y, p, ones = np.ones((5, 2), floatX), np.ones((5, 2), floatX), np.ones((2, 2), floatX)
    y[0], p[0] = -3, 3
    return compute([0, 1], y, p, ones, ones, ones)


def row_norms():
    """The norms of the rows of a matrix."""
    X = T.matrix("X")
    norms, _ = theano.scan(lambda x: T.sqrt((x**2).sum()), sequences=X)
    compute = theano.function([X], norms)
    return compute(np.diag(np.arange(1, 6, dtype=floatX), 1))


def column_norms():
    """The norms of the columns: the rows of the transpose."""
    X = T.matrix("X")
    norms, _ = theano.scan(lambda x: T.sqrt((x**2).sum()), sequences=X.T)
    compute = theano.function([X], norms)
    return compute(np.diag(np.arange(1, 6, dtype=floatX), 1))


def trace():
    """A trace, by accumulation over row and column numbers."""
    X = T.matrix("X")
    sums, _ = theano.scan(
        lambda i, j, so_far: so_far + X[i, j],
        sequences=[T.arange(X.shape[0]), T.arange(X.shape[1])],
        outputs_info=np.asarray(0, floatX),
    )
    compute = theano.function([X], sums[-1])
    x = np.eye(5, dtype=floatX)
    x[0] = np.arange(5)
    return compute(x)


def two_taps():
    """Ten steps of x_t = x_(t-2)·U + x_(t-1)·V + tanh(x_(t-1)·W + b)."""
    X, b, n = T.matrix("X"), T.vector("b"), T.iscalar("n")
    U, V, W = T.matrices("U", "V", "W")

    def step(x_tm2, x_tm1):
        return T.dot(x_tm2, U) + T.dot(x_tm1, V) + T.tanh(T.dot(x_tm1, W) + b)

    x, _ = theano.scan(step, outputs_info={"initial": X, "taps": [-2, -1]}, n_steps=n)
    compute = theano.function([X, U, V, W, b, n], x)
    half = np.full((2, 2), 0.5, floatX)
    return compute([[0, 0], [0, 1]], half - half * np.eye(2, dtype=floatX), half, half, [1, 1], 10)


def jacobian():
    """The Jacobian of tanh(A·x), one gradient per step."""
    A, x = T.matrix("A"), T.vector("x")
    y = T.tanh(T.dot(A, x))
    rows, _ = theano.scan(lambda i: T.grad(y[i], x), sequences=T.arange(y.shape[0]))
    compute = theano.function([A, x], rows)
    return compute([[1, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 0, 0]], [1, 0, 0, 0, 0])


def counter():
    """A counter in a shared variable: its value after a call with 5 steps and one with 3."""
    count, n = theano.shared(0, name="count"), T.iscalar("n")
    _, updates = theano.scan(lambda: {count: count + 1}, n_steps=n)
    advance = theano.function([n], updates=updates)
    seen = []
    for steps in (5, 3):
        advance(steps)
        seen.append(int(count.get_value()))
    return seen


def power():
    """A**k for k = 2 and k = 4, as the last of k products."""
    A, k = T.vector("A"), T.iscalar("k")
    powers, _ = theano.scan(lambda so_far, A: so_far * A, outputs_info=T.ones_like(A), non_sequences=A, n_steps=k)
    compute = theano.function([A, k], powers[-1])
    return np.stack([compute(range(10), 2), compute(range(10), 4)])


def polynomial():
    """1 + 2x² at x = 3 and its derivative there; the shorter of two sequences decides how many steps are made."""
    coefficients, x = T.vector("coefficients"), T.scalar("x")
    terms, _ = theano.scan(
        lambda c, power, x: c * x**power,
        sequences=[coefficients, T.arange(10000)],
        non_sequences=x,
    )
    value = terms.sum()
    compute = theano.function([coefficients, x], [value, T.grad(value, x)])
    return [float(v) for v in compute([1, 0, 2], 3)]


def polynomial_by_foldr():
    """1 + 2x² at x = 3 by Horner's rule: a fold from the last coefficient to the first."""
    coefficients, x = T.vector("coefficients"), T.scalar("x")
    value, _ = theano.foldr(lambda c, so_far, x: so_far * x + c, coefficients, T.zeros_like(x), x)
    return theano.function([coefficients, x], value)([1, 0, 2], 3)


def running_sums():
    """The sums 0 + 1 + … + i for all i below 15."""
    n = T.iscalar("n")
    numbers = T.arange(n)
    start = T.as_tensor_variable(np.asarray(0, numbers.dtype))
    sums, _ = theano.scan(lambda x, z: z + x, sequences=numbers, outputs_info=start)
    return theano.function([n], sums)(15)


def total_by_reduce():
    """The last of these sums, by reduce."""
    n = T.iscalar("n")
    total, _ = theano.reduce(lambda x, z: z + x, T.arange(n), 0)
    return theano.function([n], total)(15)


def network():
    """The output of a network that sees its input of now and 4 steps ago, its state of 1 and 3 steps ago."""
    u, x0, y0 = T.matrix("u"), T.matrix("x0"), T.vector("y0")
    W, W_in_1, W_in_2, W_feedback, W_out = T.matrices("W", "W_in_1", "W_in_2", "W_feedback", "W_out")

    def one_step(u_tm4, u_t, x_tm3, x_tm1, y_tm1, W, W_in_1, W_in_2, W_feedback, W_out):
        drive = T.dot(u_t, W_in_1) + T.dot(u_tm4, W_in_2) + T.dot(y_tm1, W_feedback)
        return [T.tanh(T.dot(x_tm1, W) + drive), T.dot(x_tm3, W_out)]

    weights = [W, W_in_1, W_in_2, W_feedback, W_out]
    (_, y), _ = theano.scan(
        one_step,
        sequences={"input": u, "taps": [-4, 0]},
        outputs_info=[{"initial": x0, "taps": [-3, -1]}, y0],
        non_sequences=weights,
        strict=True,
    )
    compute = theano.function([u, x0, y0, *weights], y)
    rng = np.random.default_rng(0)
    sizes = [(10, 2), (3, 4), (2,), (4, 4), (2, 4), (2, 4), (2, 4), (4, 2)]
    return compute(*[rng.normal(scale=0.5, size=size).astype(floatX) for size in sizes])


def powers_of_two():
    """Powers of two, up to the first one above 45."""
    bound = T.scalar("bound")

    def double(last, bound):
        return last * 2, theano.scan_module.until(last * 2 > bound)

    powers, _ = theano.scan(double, outputs_info=T.constant(1.0), non_sequences=bound, n_steps=1024)
    return theano.function([bound], powers)(45)


def values_at_positions():
    """For each place and value a matrix of zeros but for that value."""
    places, values, model = T.imatrix("places"), T.vector("values"), T.matrix("model")

    def put(place, value, model):
        return T.set_subtensor(T.zeros_like(model)[place[0], place[1]], value)

    matrices, _ = theano.scan(put, sequences=[places, values], non_sequences=model)
    compute = theano.function([places, values, model], matrices)
    return compute([[1, 1], [2, 3]], [42, 50], np.zeros((3, 4), floatX))


SECTIONS = [
    layer,
    layer_by_map,
    two_sequences,
    row_norms,
    column_norms,
    trace,
    two_taps,
    jacobian,
    counter,
    power,
    polynomial,
    polynomial_by_foldr,
    running_sums,
    total_by_reduce,
    network,
    powers_of_two,
    values_at_positions,
]


def main():
    with np.printoptions(precision=6, suppress=True):
        for section in SECTIONS:
            print(f"{section.__name__}: {section.__doc__}")
            print(section(), end="\n\n")


if __name__ == "__main__":
    main()
