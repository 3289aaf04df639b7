"""examples/rbm.py: its sampler against all states of a small machine, and what it learns, on little work."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

EXAMPLE = Path(__file__).parents[1] / "examples" / "rbm.py"


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("rbm_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rbm = load_example()


def test_the_marginals_of_the_sampler_are_those_of_all_states() -> None:
    m = rbm.machine(3, 2, 1.0, seed=5)
    W, b, c = (x.get_value() for x in m)
    weights = {}
    for v in np.ndindex(2, 2, 2):
        for h in np.ndindex(2, 2):
            energy = -sum(b * v) - sum(c * h) - sum(W[i, j] * v[i] * h[j] for i in range(3) for j in range(2))
            weights[v] = weights.get(v, 0.0) + np.exp(-energy)
    p = np.array(list(weights.values())) / sum(weights.values())
    np.testing.assert_allclose(rbm.probabilities(m), p, rtol=1e-12)
    means, products = rbm.sample(m, n_chains=400, n_steps=200, seed=6)
    v = rbm.patterns(3)
    np.testing.assert_allclose(means, p @ v, atol=0.01)
    np.testing.assert_allclose(products, (v.T * p) @ v, atol=0.01)


def test_the_program_on_little_work(capsys: Any) -> None:
    found = rbm.main(["--chains", "200", "--steps", "200", "--updates", "2000"])
    assert max(found.means, found.products) < 0.05
    assert found.after > 3 * found.before
    assert "images of bars among 512" in capsys.readouterr().out
