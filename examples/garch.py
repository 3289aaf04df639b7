"""Fit a GARCH(1,1) model to 20 years of daily S&P 500 returns, with exact derivatives.

    r[t]  = mu + e[t],    e[t] normal with variance s2[t]
    s2[t] = omega + alpha * e[t-1]**2 + beta * s2[t-1]

The conditional variance s2 is a `scan`, the log-likelihood a sum over it. `grad` gives the exact gradient to
SciPy's L-BFGS-B and, applied twice, the exact Hessian from which the standard errors come. The result is
checked against figures made independently with the Python package arch. Returns are in percent.

    python examples/garch.py [--output PATH] [--no-plot] [--first N]

The model is Bollerslev's: Journal of Econometrics 31 (1986) 307-327.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

import ostinato
import ostinato.tensor as T

HERE = Path(__file__).resolve().parent
PRICES = HERE / "data" / "sp500.csv"
REFERENCE = HERE / "data" / "sp500_garch_arch.json"
PICTURE = HERE / "output" / "garch.png"

NAMES = ("mu", "omega", "alpha", "beta")
TRADING_DAYS = 252  # in a year

# By how much we may differ from arch, relatively. Its optimiser stops about 1e-6 from the maximum, and its
# standard errors come from finite differences.
TOLERANCES = {"estimate": 1e-5, "log-likelihood": 1e-9, "standard error": 2e-4}


# ---- data -----------------------------------------------------------------------------------------


def load_returns(path: Path = PRICES) -> tuple[np.ndarray, np.ndarray]:
    """Dates and simple daily returns in percent, from a file of closing levels."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    dates = np.array([row["date"] for row in rows], "datetime64[D]")
    close = np.array([float(row["close"]) for row in rows])
    return dates[1:], 100.0 * (close[1:] / close[:-1] - 1.0)


def backcast(returns: np.ndarray) -> float:
    """The variance before the first day: a mean over the first 75 days whose weights fall by 6% a day."""
    weights = 0.94 ** np.arange(min(75, len(returns)))
    squares = (returns - returns.mean())[: len(weights)] ** 2
    return float(squares @ weights / weights.sum())


# ---- the model ------------------------------------------------------------------------------------


class Model(NamedTuple):
    """Compiled functions of the natural parameters theta = (mu, omega, alpha, beta) and of the free ones, x."""

    objective: Callable[..., Any]  # x -> [-loglik / n, its gradient]
    natural: Callable[..., Any]  # x -> theta
    variances: Callable[..., Any]  # theta -> [loglik, s2]
    derivatives: Callable[..., Any]  # theta -> [gradient of loglik, Hessian of loglik]


def log_likelihood(theta: Any, returns: Any, before: Any) -> tuple[Any, Any]:
    """The log-likelihood and the conditional variances, symbolically; `before` is the variance before day 0."""
    mu, omega, alpha, beta = (theta[i] for i in range(4))
    squares = T.sqr(returns - mu)
    yesterday = T.concatenate([T.stack([before]), squares[:-1]])

    def step(square, s2, omega, alpha, beta):
        return omega + alpha * square + beta * s2

    s2, _ = ostinato.scan(step, sequences=yesterday, outputs_info=before, non_sequences=[omega, alpha, beta])
    return -0.5 * T.sum(np.log(2 * np.pi) + T.log(s2) + squares / s2), s2


def natural_parameters(x: Any) -> Any:
    """theta from x = (mu, log v, logit p, logit s).

    v is the long-run variance, p = alpha + beta the persistence, s = alpha / p the share of news in it. Any x
    is a legal model, so the optimiser needs no constraints.
    """
    mu, v, p, s = x[0], T.exp(x[1]), T.sigmoid(x[2]), T.sigmoid(x[3])
    return T.stack([mu, v * (1 - p), p * s, p * (1 - s)])


def build_model(returns: np.ndarray) -> Model:
    """Write the model for these returns symbolically and compile it."""
    r = ostinato.shared(returns, "returns")
    before = ostinato.shared(backcast(returns), "before")

    x = T.dvector("x")
    theta_of_x = natural_parameters(x)
    cost = -log_likelihood(theta_of_x, r, before)[0] / len(returns)

    theta = T.dvector("theta")
    loglik, s2 = log_likelihood(theta, r, before)
    gradient = ostinato.grad(loglik, theta)
    hessian = T.stack([ostinato.grad(gradient[i], theta) for i in range(4)])

    return Model(
        objective=ostinato.function([x], [cost, ostinato.grad(cost, x)]),
        natural=ostinato.function([x], theta_of_x),
        variances=ostinato.function([theta], [loglik, s2]),
        derivatives=ostinato.function([theta], [gradient, hessian]),
    )


# ---- the fit --------------------------------------------------------------------------------------


class Fit(NamedTuple):
    """Maximum-likelihood estimates and what follows from them."""

    theta: np.ndarray  # mu, omega, alpha, beta
    loglik: float
    covariance: np.ndarray  # of theta: the inverse of the negative Hessian
    s2: np.ndarray  # conditional variance of each day, in percent squared
    evaluations: int

    @property
    def standard_errors(self) -> np.ndarray:
        return np.sqrt(np.diag(self.covariance))

    @property
    def persistence(self) -> float:
        return float(self.theta[2] + self.theta[3])

    @property
    def persistence_error(self) -> float:
        return float(np.sqrt(self.covariance[2:, 2:].sum()))

    @property
    def long_run_variance(self) -> float:
        return float(self.theta[1]) / (1 - self.persistence)


class FitError(Exception):
    """The optimiser did not arrive at a maximum inside the parameter space."""


class Progress:
    """One line about the state of the fit: rewritten in place on a terminal, else a new one now and then."""

    def __init__(self, every: int = 5) -> None:
        self.every = every
        self.on_terminal = sys.stdout.isatty()
        self.start = time.perf_counter()
        self.evaluations = 0
        self.pending = ""

    def update(self, loglik: float) -> None:
        self.evaluations += 1
        elapsed = time.perf_counter() - self.start
        self.pending = f"  evaluation {self.evaluations:3d}   log-likelihood {loglik:14.6f}   {elapsed:5.1f} s"
        if self.on_terminal:
            print("\r" + self.pending, end="", flush=True)
        elif (self.evaluations - 1) % self.every == 0:
            self.finish()

    def finish(self) -> None:
        if self.pending:
            print("" if self.on_terminal else self.pending, flush=True)
        self.pending = ""


def fit(returns: np.ndarray, model: Model | None = None) -> Fit:
    """Maximise the likelihood, starting from persistence 0.95 with alpha 0.05."""
    model = model or build_model(returns)
    progress = Progress()

    def objective(x):
        value, gradient = model.objective(x)
        progress.update(-float(value) * len(returns))
        return float(value), gradient

    persistence, share = 0.95, 0.05 / 0.95
    start = [returns.mean(), np.log(returns.var()), _logit(persistence), _logit(share)]
    options = {"ftol": 1e-15, "gtol": 1e-8, "maxls": 40, "maxiter": 500}
    result = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    progress.finish()

    theta = model.natural(result.x)
    loglik, s2 = model.variances(theta)
    covariance = _covariance(theta, *model.derivatives(theta), result.message)
    return Fit(theta, float(loglik), covariance, s2, progress.evaluations)


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def _covariance(theta: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, message: str) -> np.ndarray:
    """The inverse of the negative Hessian, if this is a maximum.

    The derivatives tell, whatever the optimiser says: half of gradient' covariance gradient is how much
    higher than here the quadratic through this point goes.
    """
    here = ", ".join(f"{name} = {value:.4g}" for name, value in _named(theta)) + f" (L-BFGS-B: {message})"
    if min(theta[2], theta[3], 1 - theta[2] - theta[3]) < 1e-6:
        raise FitError(f"the likelihood is largest at the edge of the parameter space, at {here}")
    if not np.all(np.isfinite(hessian)) or np.linalg.eigvalsh(hessian).max() >= 0:
        raise FitError(f"no maximum was found; stopped at {here}")
    covariance = np.linalg.inv(-hessian)
    missing = 0.5 * gradient @ covariance @ gradient
    if not missing < 1e-6:
        raise FitError(f"the log-likelihood can still rise by about {missing:.2g}; stopped at {here}")
    return covariance


def _named(values: np.ndarray) -> list[tuple[str, float]]:
    return list(zip(NAMES, values.tolist(), strict=True))


# ---- the report -----------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """One of our figures beside arch's."""

    kind: str  # a key of TOLERANCES
    name: str
    ours: float
    theirs: float

    @property
    def difference(self) -> float:
        return self.ours / self.theirs - 1

    @property
    def agrees(self) -> bool:
        return abs(self.difference) <= TOLERANCES[self.kind]

    def __str__(self) -> str:
        return f"  {self.name:16s}{self.ours:16.8f}{self.theirs:16.8f}{self.difference:14.1e}"


def compare(fitted: Fit, reference: dict[str, Any]) -> list[Comparison]:
    """Our figures beside those that arch arrived at."""
    errors = reference["standard_errors"]["classic"]
    return [
        *[Comparison("estimate", n, v, reference["estimates"][n]) for n, v in _named(fitted.theta)],
        Comparison("log-likelihood", "log-likelihood", fitted.loglik, reference["loglik"]),
        *[Comparison("standard error", n, v, errors[n]) for n, v in _named(fitted.standard_errors)],
    ]


def report_comparison(comparisons: Sequence[Comparison]) -> None:
    header = f"{'ostinato':>16s}{'arch':>16s}{'rel. diff.':>14s}"
    print(f"\n  {'estimate':16s}{header}", *[c for c in comparisons if c.kind != "standard error"], sep="\n")
    print(f"\n  {'standard error':16s}{header}", *[c for c in comparisons if c.kind == "standard error"], sep="\n")


def report_alone(fitted: Fit) -> None:
    print(f"\n  {'':16s}{'estimate':>16s}{'standard error':>16s}")
    for name, value, error in zip(NAMES, fitted.theta, fitted.standard_errors, strict=True):
        print(f"  {name:16s}{value:16.8f}{error:16.8f}")
    print(f"  {'log-likelihood':16s}{fitted.loglik:16.8f}")


def annualised(s2: Any) -> Any:
    """Volatility in percent a year, of a daily variance."""
    return np.sqrt(TRADING_DAYS * s2)


def half_life(persistence: float) -> float:
    """Days until half of a shock to the variance is gone."""
    if persistence >= 1:
        return np.inf
    return float(np.log(0.5) / np.log(persistence)) if persistence > 0 else 0.0


def findings(fitted: Fit, dates: np.ndarray) -> list[str]:
    """What was learned, in two lines."""
    p, spread = fitted.persistence, 1.96 * fitted.persistence_error
    shortest, longest = half_life(p - spread), half_life(p + spread)
    upper = f"to {longest:.0f} days" if np.isfinite(longest) else "days upwards"
    volatility = annualised(fitted.s2)
    low, high = volatility.argmin(), volatility.argmax()
    return [
        f"A shock to the variance is half gone after {half_life(p):.0f} trading days "
        f"(persistence {p:.4f}; 95% interval {shortest:.0f} {upper}).",
        f"Volatility reverts to {annualised(fitted.long_run_variance):.1f}% a year; it was lowest on {dates[low]} "
        f"at {volatility[low]:.1f}% and highest on {dates[high]} at {volatility[high]:.1f}%.",
    ]


# ---- the picture ----------------------------------------------------------------------------------


def draw(path: Path, dates: np.ndarray, returns: np.ndarray, fitted: Fit) -> None:
    """Returns above, annualised conditional volatility below."""
    from matplotlib.figure import Figure  # draws into files, needs no display

    ink, soft, red = "#2b303b", "#8a93a3", "#b5442e"
    figure = Figure(figsize=(10, 6.4), dpi=160, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.12, hspace=0.04)
    top, bottom = figure.subplots(2, 1, sharex=True)
    volatility, long_run = annualised(fitted.s2), annualised(fitted.long_run_variance)

    mu, sigma = fitted.theta[0], np.sqrt(fitted.s2)
    top.fill_between(dates, mu - 2 * sigma, mu + 2 * sigma, color=red, alpha=0.2, linewidth=0)
    for side in (-2, 2):
        top.plot(dates, mu + side * sigma, color=red, linewidth=0.6)
    top.vlines(dates, 0, returns, color=ink, linewidth=0.5, zorder=3)
    outside = np.mean(np.abs(returns - mu) > 2 * sigma)
    _headline(top, "Daily return, %", f"red: mean ± 2 conditional standard deviations; {outside:.1%} of days outside")

    bottom.fill_between(dates, volatility, color=red, alpha=0.12, linewidth=0)
    bottom.plot(dates, volatility, color=red, linewidth=0.9)
    bottom.axhline(long_run, color=ink, linewidth=0.8, linestyle=(0, (5, 3)))
    for day in _peaks(volatility, 4):
        label = f"{dates[day].item():%b %Y}: {volatility[day]:.0f}%"
        bottom.annotate(label, (dates[day], volatility[day]), (0, 4), textcoords="offset points", ha="center", size=9)
    bottom.set_ylim(0, 1.12 * volatility.max())
    _headline(bottom, "Conditional volatility, % a year", f"dashed: long-run level, {long_run:.1f}%")

    for axes in (top, bottom):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y", color=soft, alpha=0.3, linewidth=0.6)
        axes.tick_params(length=0, labelcolor=ink)
        axes.set_axisbelow(True)
        axes.margins(x=0.01)
    top.spines["bottom"].set_visible(False)
    bottom.spines["bottom"].set_color(soft)
    bottom.tick_params(axis="x", length=3, color=soft)
    years = f"{dates[0].item():%Y} to {dates[-1].item():%Y}"
    figure.suptitle(
        f"S&P 500, {years}: returns and their volatility by GARCH(1,1)", x=0.015, ha="left", weight="bold", size=13
    )

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _headline(axes: Any, title: str, note: str) -> None:
    """What a panel shows, above it on the left, and how to read it on the right."""
    axes.set_title(title, loc="left", size=10.5)
    axes.set_title(note, loc="right", size=9, color="#5c6575")


def _peaks(values: np.ndarray, count: int) -> list[int]:
    """The days of the highest peaks that have room for a label: apart, and not at an edge."""
    around, edge = len(values) // 10, len(values) // 20
    inner = range(edge, len(values) - edge)
    tops = [day for day in inner if values[day] == values[max(0, day - around) : day + around + 1].max()]
    return sorted(tops, key=lambda day: -values[day])[:count]


# ---- the program ----------------------------------------------------------------------------------


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fit a GARCH(1,1) model to daily S&P 500 returns.")
    parser.add_argument("--output", type=Path, default=PICTURE, metavar="PATH", help="where the picture goes")
    parser.add_argument("--no-plot", action="store_true", help="draw no picture")
    parser.add_argument("--first", type=int, metavar="N", help="use the first N returns only; compares with nothing")
    args = parser.parse_args(argv)
    if args.first is not None and args.first < 100:
        parser.error("--first: 100 returns are the least that makes sense")
    if not args.no_plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("the picture needs matplotlib: pip install -e '.[demo]', or run with --no-plot")
    return args


def main(argv: Sequence[str] | None = None) -> Fit:
    """Run the example. Exits with a message if the fit fails or disagrees with arch."""
    args = read_arguments(argv)
    dates, returns = (column[: args.first] for column in load_returns())
    print(f"GARCH(1,1), constant mean: {len(returns)} daily S&P 500 returns (%), {dates[0]} to {dates[-1]}", flush=True)
    try:
        fitted = fit(returns)
    except FitError as error:
        sys.exit(f"garch: {error}")

    if args.first is None:
        comparisons = compare(fitted, json.loads(REFERENCE.read_text(encoding="utf-8")))
        report_comparison(comparisons)
        check(comparisons)
    else:
        report_alone(fitted)
    if not args.no_plot:
        try:
            draw(args.output, dates, returns, fitted)
        except (OSError, ValueError) as error:  # no such place, no such format
            sys.exit(f"garch: cannot write the picture {args.output}: {error}")
        print(f"\npicture: {args.output}")
    print("", *findings(fitted, dates), sep="\n")
    return fitted


def check(comparisons: Sequence[Comparison]) -> None:
    """Exit with a message that names every figure that is off."""
    wrong = [f"{c.kind} {c.name}: off by {c.difference:.1e}" for c in comparisons if not c.agrees]
    limits = ", ".join(f"{kind} {limit:g}" for kind, limit in TOLERANCES.items())
    if wrong:
        sys.exit(f"garch: disagrees with arch (allowed, relatively: {limits}): " + "; ".join(wrong))
    print(f"\n  all figures agree with arch's (allowed, relatively: {limits})")


if __name__ == "__main__":
    main()
