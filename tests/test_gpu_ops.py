"""Every op of the registry on the device: by itself on torch's tensors, and within the kernel of a loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from on_gpu import compare, kinds, same, variables
from ostinato.backends.triton.slices import is_elementwise
from ostinato.graph import topological
from ostinato.ops import OPS, Op, Sample
from ostinato.types import TensorType

CASES = [pytest.param(op, sample, id=f"{op.name}-{i}") for op in OPS.values() for i, sample in enumerate(op.samples)]
REDUCTIONS = ("sum", "prod", "max", "min", "any", "all")

# What torch has no form of, or none that means the same: NumPy computes it, on arrays that go to the host and back.
# `accumulate` and `unset` are made by passes for native code alone.
CALLED_OUT = {
    "accumulate",
    "unset",
    "polygamma",
    "scatter_set",
    "solve",
    "solve_triangular",
    "matrix_inverse",
    "det",
    "slogdet",
}


@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
@pytest.mark.parametrize(("op", "sample"), CASES)
def test_by_itself(op: Op, sample: Sample, static: bool) -> None:
    arrays = [np.asarray(a) for a in sample.arrays]
    inputs = [TensorType(a.dtype.name, a.shape if static else (None,) * a.ndim)(f"x{i}") for i, a in enumerate(arrays)]
    node = sample.build(*inputs)
    expected = ostinato.function(inputs, node, mode="reference", on_unused_input="ignore")(*arrays)
    f = ostinato.function(inputs, node, mode="gpu", on_unused_input="ignore")
    same(f(*arrays), expected, tol=1e-12 if node.dtype == "float64" else None)
    assert f._run.notes.called_out <= CALLED_OUT


def samples(wanted: Any) -> list[Any]:
    found = []
    for op in OPS.values():
        for i, sample in enumerate(op.samples):
            node = sample.build(*variables(sample.arrays))
            if op in {n.op for n in topological([node])} and wanted(op, node):
                found.append(pytest.param(op, sample, id=f"{op.name}-{i}"))
    return found


def in_a_loop(op: Op, sample: Sample, repeat: int = 3) -> Any:
    """The sample's expression at every step, of rows that differ, with a state that adds up."""
    varied = "f" if op.name != "arange" else ""  # its size would change
    given = [np.asarray(a) for a in sample.arrays]
    arrays = [np.stack([a * (1 - k / 8) if a.dtype.kind == varied else a for k in range(repeat)]) for a in given]
    arrays = [x.astype(a.dtype) for x, a in zip(arrays, given, strict=True)]
    inputs = variables(arrays)
    start = T.cast(sample.build(*[x[0] for x in inputs]), "float64") * 0.0

    def step(*args: Any) -> Any:
        value = sample.build(*args[:-1])
        return args[-1] * 0.5 + T.cast(value, "float64"), value

    (total, values), _ = ostinato.scan(step, inputs, [start, None])
    return compare(inputs, [total, values], arrays, tol=1e-9, became="")


# What has no form within a kernel: such a loop runs step by step.
WITHOUT_KERNEL = {"polygamma", "psi"}
INTERPRETED_WITHOUT = {"round", "arcsin", "arccos", "arctan", "arctan2", "arcsinh", "arccosh", "arctanh", "gammaln"}


@pytest.mark.parametrize(
    ("op", "sample"), samples(lambda op, node: any(is_elementwise(n) and n.op is op for n in topological([node])))
)
def test_elementwise_within_a_loop(op: Op, sample: Sample) -> None:
    f = in_a_loop(op, sample)
    names = {n.op.name for n in topological([sample.build(*variables(sample.arrays))])}
    if not names & (WITHOUT_KERNEL | INTERPRETED_WITHOUT):
        assert kinds(f) == {"kernel"}, f.explain()
    if names & WITHOUT_KERNEL:
        assert kinds(f) == {"steps"}
        assert "runs step by step on the device: " in f.explain()


@pytest.mark.parametrize(("op", "sample"), samples(lambda op, node: op.name in REDUCTIONS))
def test_reductions_within_a_loop(op: Op, sample: Sample) -> None:
    in_a_loop(op, sample)


@pytest.mark.parametrize(
    ("op", "sample"),
    samples(lambda op, node: not any(is_elementwise(n) for n in topological([node])) and op.name not in REDUCTIONS),
)
def test_others_within_a_loop(op: Op, sample: Sample) -> None:
    in_a_loop(op, sample)
