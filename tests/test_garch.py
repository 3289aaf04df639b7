"""examples/garch.py: its model against a plain loop and against arch, and the program from end to end."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "garch.py"
THETA = np.array([0.03, 0.08, 0.07, 0.88])  # mu, omega, alpha, beta: no maximum, so that no derivative is small


def load_example():
    spec = importlib.util.spec_from_file_location("garch_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


garch = load_example()


# ---- the same model as a plain loop, for real and complex parameters ------------------------------


def plain_terms(theta, returns):
    """The summands of the log-likelihood, and the conditional variances."""
    mu, omega, alpha, beta = theta
    u = returns - returns.mean()
    weights = 0.94 ** np.arange(75)
    before = np.sum(weights / weights.sum() * u[:75] ** 2)
    e = returns - mu
    s2 = np.empty(len(returns), theta.dtype)
    s2[0] = omega + (alpha + beta) * before
    for t in range(1, len(returns)):
        s2[t] = omega + alpha * e[t - 1] ** 2 + beta * s2[t - 1]
    return -0.5 * (np.log(2 * np.pi) + np.log(s2) + e**2 / s2), s2


def plain_gradient(theta, returns, h=1e-30):
    """Exact to rounding: f(x + ih) = f(x) + ih f'(x), without any difference."""
    return np.array([plain_terms(theta + 1j * h * one, returns)[0].sum().imag / h for one in np.eye(4)])


def plain_hessian(theta, returns):
    """Central differences of the exact gradient, extrapolated once."""

    def slope(k, h):
        step = h * np.eye(4)[k]
        return (plain_gradient(theta + step, returns) - plain_gradient(theta - step, returns)) / (2 * h)

    return np.array([(4 * slope(k, h / 2) - slope(k, h)) / 3 for k, h in enumerate(1e-4 * theta)])


@pytest.fixture(scope="module")
def short():
    return garch.load_returns()[1][:300]


@pytest.fixture(scope="module")
def short_model(short):
    return garch.build_model(short)


@pytest.fixture(scope="module")
def reference():
    return json.loads(garch.REFERENCE.read_text(encoding="utf-8"))


def test_likelihood_and_variances_equal_the_plain_loop(short, short_model):
    terms, s2 = plain_terms(THETA, short)
    loglik, variances = short_model.variances(THETA)
    np.testing.assert_allclose(loglik, terms.sum(), rtol=1e-12)
    np.testing.assert_allclose(variances, s2, rtol=1e-12)


def test_gradient_equals_the_complex_step(short, short_model):
    np.testing.assert_allclose(short_model.derivatives(THETA)[0], plain_gradient(THETA, short), rtol=1e-9)


def test_hessian_equals_differences_of_the_complex_step(short, short_model):
    hessian = short_model.derivatives(THETA)[1]
    np.testing.assert_allclose(hessian, plain_hessian(THETA, short), rtol=1e-7)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-10)


def test_objective_is_the_likelihood_of_free_parameters(short, short_model):
    x = np.array([0.05, 0.2, 2.5, -2.0])
    p, s = 1 / (1 + np.exp(-x[2:]))
    theta = np.array([x[0], np.exp(x[1]) * (1 - p), p * s, p * (1 - s)])
    np.testing.assert_allclose(short_model.natural(x), theta, rtol=1e-14)

    value, gradient = short_model.objective(x)
    np.testing.assert_allclose(value, -plain_terms(theta, short)[0].sum() / 300, rtol=1e-12)
    jacobian = [
        (short_model.natural(x + h) - short_model.natural(x - h)) / 2e-6 for h in 1e-6 * np.eye(4)
    ]  # row i: by x[i]
    np.testing.assert_allclose(gradient, -np.array(jacobian) @ plain_gradient(theta, short) / 300, rtol=1e-6)


def test_likelihood_of_all_days_is_the_one_arch_recorded(reference):
    _, returns = garch.load_returns()
    assert len(returns) == reference["nobs"]
    np.testing.assert_allclose(garch.backcast(returns), reference["backcast"], rtol=1e-12)
    theta = [reference["estimates"][name] for name in garch.NAMES]
    loglik, s2 = garch.build_model(returns).variances(theta)
    np.testing.assert_allclose(loglik, reference["loglik"], rtol=1e-8)
    np.testing.assert_allclose(s2[0], reference["initial_variance"], rtol=1e-12)


# ---- the program ----------------------------------------------------------------------------------


def test_program_on_all_days_agrees_with_arch_and_with_the_exact_maximum(capsys, reference):
    fitted = garch.main(["--no-plot"])
    exact = reference["plain_loop"]
    np.testing.assert_allclose(fitted.theta, [exact["estimates"][n] for n in garch.NAMES], rtol=1e-6)
    np.testing.assert_allclose(fitted.loglik, exact["loglik"], rtol=1e-12)
    errors = [exact["standard_errors"]["classic"][n] for n in garch.NAMES]
    np.testing.assert_allclose(fitted.standard_errors, errors, rtol=1e-5)
    printed = capsys.readouterr().out
    assert "all figures agree with arch's" in printed
    assert "half gone after 54 trading days" in printed


def test_program_on_few_days_draws_and_returns_estimates(tmp_path, capsys):
    picture = tmp_path / "new" / "garch.png"
    fitted = garch.main(["--first", "600", "--output", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")
    assert fitted.theta.shape == fitted.standard_errors.shape == (4,)
    assert fitted.s2.shape == (600,)
    assert 0 < fitted.persistence < 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  evaluation") for line in lines) < fitted.evaluations / 2
    assert lines[-2].startswith("A shock")
    assert lines[-1].startswith("Volatility")


def test_disagreement_ends_the_program(reference):
    wrong = [garch.Comparison("estimate", "mu", 1.001, 1.0), garch.Comparison("estimate", "beta", 1.0, 1.0)]
    with pytest.raises(SystemExit, match=r"mu: off by 1\.0e-03") as caught:
        garch.check(wrong)
    assert "beta" not in str(caught.value)
    with pytest.raises(SystemExit, match="mu: off by nan"):
        garch.check([garch.Comparison("estimate", "mu", np.nan, 1.0)])


def test_maximum_at_the_edge_is_reported():
    # No heteroscedasticity in the first 300 days: alpha goes to 0.
    with pytest.raises(SystemExit, match="edge of the parameter space"):
        garch.main(["--first", "300", "--no-plot"])


def test_progress_is_rewritten_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    progress = garch.Progress()
    for value in (-3.0, -2.0, -1.0):
        progress.update(value)
    progress.finish()
    printed = capsys.readouterr().out
    assert printed.count("\r") == 3
    assert printed.count("\n") == 1


def test_missing_matplotlib_is_said_before_the_fit(monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find_spec(name, *rest)
    )
    with pytest.raises(SystemExit):
        garch.main(["--first", "600"])
    assert "pip install -e '.[demo]'" in capsys.readouterr().err


def test_picture_that_cannot_be_written_is_reported(tmp_path):
    with pytest.raises(SystemExit, match="cannot write the picture"):
        garch.main(["--first", "600", "--output", str(tmp_path / "garch.nonsense")])
