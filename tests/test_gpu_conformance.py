"""The programs of the conformance suite on the device: values and gradients, against their plain references."""

from __future__ import annotations

import pytest

import on_gpu  # noqa: F401 - skips where the extra is not installed
from ostinato.testing.conformance import PROGRAMS, Answer, Program, judge
from ostinato.testing.conformance.ostinato_ import run

CASES = [pytest.param(p, dtype, id=f"{p.name}-{dtype}") for p in PROGRAMS.values() for dtype in p.dtypes]


@pytest.mark.parametrize(("program", "dtype"), CASES)
def test_loops_are_right_on_the_device(program: Program, dtype: str) -> None:
    quantities = [q for q in ("value", "R") if q in program.quantities]
    found, draws = run(program, quantities, dtype, "gpu")
    for quantity, arrays in found.items():
        cell = judge(program, quantity, dtype, Answer("ok", arrays, draws))
        assert cell.status == "ok", f"{quantity}: {cell}"
