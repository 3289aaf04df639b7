"""Make the constants of the native backend's mathematical functions, with mpmath.

    python tools/fit_polynomials.py > src/ostinato/backends/llvm/vector_math_tables.py

Every polynomial is a minimax one, found by Remez's exchange algorithm on a grid at 60 digits: of all
polynomials of its degree it makes the largest weighted error smallest. The weight says how an error of the
polynomial shows, relatively, in the function that it is a part of. The degree is the smallest that reaches
the goal, 0.02 to 0.1 units in the last place; the error that is printed is that of the rounded coefficients.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath as mp

mp.mp.dps = 60
Real = Callable[[Any], Any]
BITS = {"SINGLE": 24, "DOUBLE": 53}
FITTED_ANEW = 4

HEADER = '''"""Constants of the mathematical functions of `vector_math`, for each precision.

Made by `tools/fit_polynomials.py`; do not edit. Coefficients go from the constant term up. The error of
a polynomial is the largest that it causes in its function, relative to the function.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tables:
    """The polynomials, and constants as sums of numbers of the precision."""
'''


@dataclass
class Fit:
    """A function to approximate by a polynomial in x on an interval, with a weight for its error."""

    name: str
    what: str
    function: Real
    weight: Real
    interval: Callable[[str], tuple[Any, Any]]
    goal: dict[str, int]  # bits of the largest error


def rounded(x: Any, precision: str) -> float:
    """The nearest number of a precision."""
    if precision == "DOUBLE":
        return float(x)
    return float(struct.unpack("<f", struct.pack("<f", float(x)))[0])


def evaluate(coefficients: Any, x: Any) -> Any:
    """The value of a polynomial."""
    return mp.polyval(list(reversed(list(coefficients))), x)


def chebyshev(a: Any, b: Any, n: int) -> list[Any]:
    """n + 1 extrema of a Chebyshev polynomial on an interval, in rising order."""
    return [(a + b) / 2 - (b - a) / 2 * mp.cos(mp.pi * k / n) for k in range(n + 1)]


def extrema(errors: list[Any], n: int) -> list[int] | None:
    """Places of n errors of alternating sign, each the largest of its run; None if there are fewer runs."""
    best: list[int] = []
    for i, e in enumerate(errors):
        if best and (errors[best[-1]] > 0) == (e > 0):
            if abs(e) > abs(errors[best[-1]]):
                best[-1] = i
        else:
            best.append(i)
    while len(best) > n:
        best.pop(0 if abs(errors[best[0]]) < abs(errors[best[-1]]) else -1)
    return best if len(best) == n else None


def remez(function: Real, weight: Real, a: Any, b: Any, degree: int) -> list[Any]:
    """The coefficients of the minimax polynomial."""
    n = degree + 2
    grid = [a + (b - a) * mp.mpf("1e-7"), *chebyshev(a, b, 48 * n + 1)[1:]]
    values, weights = [function(x) for x in grid], [weight(x) for x in grid]
    places = [round((len(grid) - 1) * k / (n - 1)) for k in range(n)]  # Chebyshev's, as the grid is
    best: list[Any] = []
    least = mp.inf
    for _ in range(12):
        A, y = mp.matrix(n, n), mp.matrix(n, 1)
        for row, i in enumerate(places):
            for j in range(degree + 1):
                A[row, j] = weights[i] * grid[i] ** j
            A[row, degree + 1] = (-1) ** row
            y[row] = weights[i] * values[i]
        solution = list(mp.lu_solve(A, y))
        errors = [w * (v - evaluate(solution[:-1], x)) for x, v, w in zip(grid, values, weights, strict=True)]
        if max(map(abs, errors)) < least:
            best, least = solution[:-1], max(map(abs, errors))
        found = extrema(errors, n)
        if found is None or found == places:
            break
        places = found
    return best


def rounded_fits(fit: Fit, a: Any, b: Any, degree: int, precision: str) -> list[list[float]]:
    """Coefficients of a precision: all rounded at once; or the first, and then the others found anew; and so on."""
    kept: list[float] = []
    candidates = []
    for k in range(min(FITTED_ANEW, degree)):

        def rest(x: Any, k: int = k) -> Any:
            return (fit.function(x) - evaluate(kept, x)) / x**k if k else fit.function(x)

        def weight(x: Any, k: int = k) -> Any:
            return fit.weight(x) * abs(x) ** k

        coefficients = [rounded(c, precision) for c in remez(rest, weight, a, b, degree - k)]
        candidates.append([*kept, *coefficients])
        kept.append(coefficients[0])
    return candidates


def solve(fit: Fit, precision: str) -> tuple[list[float], int, Any, Any, Any]:
    """Rounded coefficients of the lowest degree that reaches the goal, with degree, interval and error."""
    a, b = (mp.mpf(x) for x in fit.interval(precision))
    points = chebyshev(a, b, 301)[1:-1]

    def worst(c: Any) -> Any:
        return max(abs(fit.weight(x) * (fit.function(x) - evaluate(c, x))) for x in points)

    for degree in range(2, 40):
        if worst(remez(fit.function, fit.weight, a, b, degree)) < mp.mpf(2) ** -fit.goal[precision]:
            break
    kept = min(rounded_fits(fit, a, b, degree, precision), key=worst)
    return kept, degree, a, b, worst(kept)


LN2_2 = mp.log(2) / 2 * mp.mpf("1.01")
ATANH_Z = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2 * mp.mpf("1.01")
TRIG_Z = {"SINGLE": (mp.pi / 4 * mp.mpf("1.03")) ** 2, "DOUBLE": (mp.pi / 4 * mp.mpf("1.001")) ** 2}
ERFC_SHIFT = 2  # of t = (a - shift) / (a + shift), which takes a >= 0 to -1 <= t < 1


def to_t(a: Any) -> Any:
    return (mp.mpf(a) - ERFC_SHIFT) / (mp.mpf(a) + ERFC_SHIFT)


def erfc_factor(t: Any) -> Any:
    """(a + shift) exp(a^2) erfc(a), at t; smooth and of the order of 1."""
    a = ERFC_SHIFT * (1 + t) / (1 - t)
    return (a + ERFC_SHIFT) * mp.exp(a * a) * mp.erfc(a)


def erf_weight(t: Any) -> Any:
    """How an error of the factor shows in erf = 1 - erfc."""
    a = ERFC_SHIFT * (1 + t) / (1 - t)
    return mp.exp(-a * a) / (a + ERFC_SHIFT) / mp.erf(a)


def root(f: Real) -> Real:
    """A function of a square."""
    return lambda z: f(mp.sqrt(z))


ALL = {"SINGLE": 28, "DOUBLE": 57}
FITS = [
    Fit(
        "exp",
        "exp(x) = 1 + x + x^2 P(x)",
        lambda x: (mp.expm1(x) - x) / x**2,
        lambda x: x**2 / abs(mp.expm1(x)),
        lambda p: (-LN2_2, LN2_2),
        {"SINGLE": 25, "DOUBLE": 54},
    ),
    Fit(
        "log",
        "2 atanh(s) = 2 s + s x P(x), x = s^2",
        root(lambda s: (2 * mp.atanh(s) / s - 2) / s**2),
        lambda x: x / 2,
        lambda p: (0, ATANH_Z),
        ALL,
    ),
    Fit(
        "log1p_unit",
        "2 atanh(s) = q + q x P(x), q = 2 s, x = s^2",
        root(lambda s: (mp.atanh(s) / s - 1) / s**2),
        root(lambda s: s**3 / mp.atanh(s)),
        lambda p: (0, mp.mpf(1) / 9 * mp.mpf("1.001")),
        ALL,
    ),
    Fit(
        "log_exact",
        "2 atanh(s) = 2 s + s x (2/3 + x P(x)), x = s^2",
        root(lambda s: ((2 * mp.atanh(s) / s - 2) / s**2 - mp.mpf(2) / 3) / s**2),
        lambda x: x**2 / 2,
        lambda p: (0, ATANH_Z),
        {"DOUBLE": 69},
    ),
    Fit(
        "sin",
        "sin(r) = r + r x P(x), x = r^2",
        root(lambda r: (mp.sin(r) / r - 1) / r**2),
        root(lambda r: r**3 / mp.sin(r)),
        lambda p: (0, TRIG_Z[p]),
        ALL,
    ),
    Fit(
        "cos",
        "cos(r) = 1 - x / 2 + x^2 P(x), x = r^2",
        root(lambda r: (mp.cos(r) - 1 + r**2 / 2) / r**4),
        root(lambda r: r**4 / mp.cos(r)),
        lambda p: (0, TRIG_Z[p]),
        ALL,
    ),
    Fit(
        "arctan",
        "arctan(t) = t + t x P(x), x = t^2",
        root(lambda t: (mp.atan(t) / t - 1) / t**2),
        root(lambda t: t**3 / mp.atan(t)),
        lambda p: (0, mp.tan(mp.pi / 8) ** 2 * mp.mpf("1.001")),
        ALL,
    ),
    Fit(
        "arcsin",
        "arcsin(s) = s + s x P(x), x = s^2",
        root(lambda s: (mp.asin(s) / s - 1) / s**2),
        root(lambda s: s**3 / mp.asin(s)),
        lambda p: (0, 0.25),
        ALL,
    ),
    Fit(
        "erf",
        "erf(a) = a + a P(x), x = a^2",
        root(lambda a: mp.erf(a) / a - 1),
        root(lambda a: a / mp.erf(a)),
        lambda p: (0, 1),
        ALL,
    ),
    Fit(
        "erf_tail",
        "erf(a) = 1 - exp(-a^2) P(x) / (a + 2), x = (a - 2) / (a + 2)",
        erfc_factor,
        erf_weight,
        lambda p: (to_t(1), to_t({"SINGLE": 4, "DOUBLE": 6}[p])),
        ALL,
    ),
    Fit(
        "erfc",
        "erfc(a) = exp(-a^2) P(x) / (a + 2), x = (a - 2) / (a + 2)",
        erfc_factor,
        lambda t: 1 / erfc_factor(t),
        lambda p: (to_t(0.5), to_t({"SINGLE": 10.1, "DOUBLE": 27.3}[p])),
        ALL,
    ),
]

# Constants as sums of 1 to 3 numbers. Some keep trailing zeros in the first, so that products of it with
# an exponent are exact.
SPLITS = [
    ("ln2", "log(2), the first with zeros at its end", mp.log(2), 2, {"SINGLE": 15, "DOUBLE": 41}),
    ("ln2_nearest", "log(2)", mp.log(2), 1, None),
    ("log2_e", "1 / log(2)", 1 / mp.log(2), 2, None),
    ("log10_e", "1 / log(10)", 1 / mp.log(10), 2, None),
    ("log10_2", "log10(2), the first with zeros at its end", mp.log10(2), 2, {"SINGLE": 15, "DOUBLE": 41}),
    ("half_pi", "pi / 2", mp.pi / 2, 3, None),
    ("two_over_pi", "2 / pi", 2 / mp.pi, 1, None),
    ("two_thirds", "2 / 3", mp.mpf(2) / 3, 2, None),
]


def split(x: Any, parts: int, precision: str, first_bits: int | None) -> list[float]:
    """Numbers of a precision that sum to x, each as near as it can be; the first of `first_bits` bits."""
    numbers = []
    for k in range(parts):
        part = rounded(x, precision)
        if k == 0 and first_bits is not None:
            unit = mp.mpf(2) ** (mp.floor(mp.log(abs(x), 2)) + 1 - first_bits)
            part = float(mp.nint(x / unit) * unit)
        numbers.append(part)
        x = x - mp.mpf(part)
    return numbers


def show(x: Any) -> str:
    return mp.nstr(x, 5, strip_zeros=True)


def print_tables(precision: str) -> None:
    """The constants of one precision, as Python."""
    print(f"\n\n{precision} = Tables(")
    for fit in FITS:
        if precision not in fit.goal:
            print(f"    # {fit.what}: not needed in this precision.\n    {fit.name}=(),")
            continue
        coefficients, degree, a, b, error = solve(fit, precision)
        error_text = f"{show(error)}, {show(error * 2 ** BITS[precision])} ULP"
        print(f"    # {fit.what}\n    # on [{show(a)}, {show(b)}]; degree {degree}; error {error_text}.")
        print(f"    {fit.name}=(\n" + "".join(f"        {c!r},\n" for c in coefficients) + "    ),")
    for name, _, x, parts, first_bits in SPLITS:
        numbers = split(x, parts, precision, first_bits[precision] if first_bits else None)
        print(f"    {name}=({', '.join(map(repr, numbers))}{',' if parts == 1 else ''}),")
    print(")")


def main() -> None:
    print(HEADER)
    for fit in FITS:
        print(f"    {fit.name}: tuple[float, ...]  # {fit.what}")
    for name, what, *_ in SPLITS:
        print(f"    {name}: tuple[float, ...]  # {what}")
    for precision in BITS:
        print_tables(precision)


if __name__ == "__main__":
    main()
