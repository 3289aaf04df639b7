"""A restricted Boltzmann machine: a Gibbs sampler as one compiled loop, checked against all states, and learning.

Visible units v and hidden units h, all 0 or 1, have the energy -b·v - c·h - v·W·h. Given one layer, the units of the
other are independent, so a sampler draws layer after layer. The machine is so small that the sums over all states can
be written down, and that is what the sampler's averages are compared with. Then the machine learns the patterns of a
3 x 3 image of bars, by persistent contrastive divergence: the chains go on where they stopped in the call before.

    python examples/rbm.py
    python examples/rbm.py --steps 2000 --updates 3000
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import ostinato
import ostinato.tensor as T


class Machine(NamedTuple):
    """Weights and biases, as shared variables."""

    W: Any
    b: Any
    c: Any


def machine(n_visible: int, n_hidden: int, scale: float, seed: int) -> Machine:
    """A machine with random weights and biases."""
    rng = np.random.default_rng(seed)
    sizes = {"W": (n_visible, n_hidden), "b": (n_visible,), "c": (n_hidden,)}
    return Machine(*[ostinato.shared(scale * rng.normal(size=s), name=n) for n, s in sizes.items()])


def gibbs(m: Machine, v0: Any, n_steps: Any, streams: ostinato.RandomStreams) -> tuple[Any, Any]:
    """The states of the visible units after each step, and the probabilities from which they were drawn.

    Parameters
    ----------
    v0 : matrix, a chain per row.
    """

    def step(v: Any) -> tuple[Any, Any]:
        on = T.nnet.sigmoid(T.dot(v, m.W) + m.c)
        h = streams.binomial(on.shape, 1, on, dtype=v.dtype)
        mean = T.nnet.sigmoid(T.dot(h, m.W.T) + m.b)
        return streams.binomial(mean.shape, 1, mean, dtype=v.dtype), mean

    (v, mean), _ = ostinato.scan(step, outputs_info=[v0, None], n_steps=n_steps, name="gibbs")
    return v, mean


def free_energy(m: Machine, v: Any) -> Any:
    """-log of what the sum over the hidden units makes of exp(-energy), for each row of v."""
    return -T.dot(v, m.b) - T.sum(T.nnet.softplus(T.dot(v, m.W) + m.c), axis=-1)


# ---- all states, in plain NumPy -------------------------------------------------------------------


def patterns(n: int) -> np.ndarray[Any, Any]:
    """All rows of n zeros and ones."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=n)))


def probabilities(m: Machine) -> np.ndarray[Any, Any]:
    """The probability of each of the visible `patterns`, by sums over the hidden ones too."""
    W, b, c = (x.get_value() for x in m)
    v, h = patterns(len(b)), patterns(len(c))
    weights = np.exp((v @ b)[:, None] + h @ c + v @ W @ h.T).sum(1)
    return weights / weights.sum()


# ---- sampling and learning ------------------------------------------------------------------------


def sample(m: Machine, n_chains: int, n_steps: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The averages of the visible units and of the products of any two, over all chains and all steps but the first."""
    v0, n = T.dmatrix("v0"), T.lscalar("n")
    v, _ = gibbs(m, v0, n, ostinato.RandomStreams(seed))
    kept = v[n // 5 :].reshape((-1, v0.shape[1]))
    run = ostinato.function([v0, n], [kept.mean(axis=0), T.dot(kept.T, kept) / kept.shape[0]])
    return run(np.zeros((n_chains, len(m.b.get_value()))), n_steps)


def bars() -> np.ndarray[Any, Any]:
    """The 3 x 3 images whose rows, or whose columns, are each all 0 or all 1."""
    rows = [np.repeat(p, 3) for p in patterns(3)]
    return np.unique([*rows, *[r.reshape(3, 3).T.ravel() for r in rows]], axis=0)


def learn(m: Machine, data: np.ndarray[Any, Any], n_updates: int, n_chains: int, rate: float, seed: int) -> None:
    """Persistent contrastive divergence: the data's free energy is lowered, that of the chains raised."""
    chains = ostinato.shared(np.zeros((n_chains, data.shape[1])), name="chains")
    v, _ = gibbs(m, chains, 5, ostinato.RandomStreams(seed))
    end, batch = v[-1], T.dmatrix("batch")
    cost = free_energy(m, batch).mean() - free_energy(m, end).mean()
    updates = {p: p - rate * g for p, g in zip(m, T.grad(cost, list(m), consider_constant=[end]), strict=True)}
    train = ostinato.function([batch], updates={**updates, chains: end})
    for _ in range(n_updates):
        train(data)


# ---- the program ----------------------------------------------------------------------------------


class Found(NamedTuple):
    """How far averages are off, and the probability of the learnt patterns before and after."""

    means: float
    products: float
    before: float
    after: float


def main(argv: Sequence[str] | None = None) -> Found:
    """Run the example. Exits with a message if the sampler's averages are off."""
    parser = argparse.ArgumentParser(description="A Gibbs sampler of a restricted Boltzmann machine.")
    parser.add_argument("--chains", type=int, default=500, help="chains at the same time")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each chain")
    parser.add_argument("--updates", type=int, default=3000, help="updates of the weights while it learns")
    args = parser.parse_args(argv)

    m = machine(6, 4, 0.8, seed=1)
    means, products = sample(m, args.chains, args.steps, seed=2)
    p, v = probabilities(m), patterns(6)
    off = abs(means - p @ v).max(), abs(products - (v.T * p) @ v).max()
    print(f"6 visible and 4 hidden units, {args.chains} chains, {args.steps} steps:")
    print(f"  averages      {np.array2string(means, precision=3)}")
    print(f"  all states    {np.array2string(p @ v, precision=3)}")
    print(f"  largest difference {off[0]:.4f}, of products of two units {off[1]:.4f}")
    allowed = 5 / np.sqrt(args.chains * args.steps / 20)  # neighbours in a chain are alike
    if max(off) > allowed:
        sys.exit(f"rbm: the averages are off by more than {allowed:.4f}")

    data = bars()
    learner = machine(9, 8, 0.1, seed=3)
    states = {tuple(row): k for k, row in enumerate(patterns(9))}
    places = [states[tuple(row)] for row in data]
    before = probabilities(learner)[places].sum()
    learn(learner, data, args.updates, 200, 0.1, seed=4)
    after = probabilities(learner)[places].sum()
    print(f"\n{len(data)} images of bars among 512, {args.updates} updates:")
    print(f"  their probability together {before:.3f} before, {after:.3f} after")
    return Found(off[0], off[1], before, after)


if __name__ == "__main__":
    main()
