"""Clocks, figures and tables, for all scripts that compare systems."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

OURS = "ostinato"
ENOUGH = 5e-3  # seconds: a shorter call is repeated until one timing takes that long

clock = time.process_time  # not wall time: what others do on the machine is not ours to count


def seconds(run: Callable[[], Any], times: int = 1) -> float:
    """How long one call takes, as a mean over some calls."""
    start = clock()
    for _ in range(times):
        run()
    return (clock() - start) / times


def repeats(run: Callable[[], Any]) -> int:
    """How many calls make one timing long enough."""
    times = 1
    while (took := seconds(run, times)) * times < ENOUGH:
        times = math.ceil(min(10 * times, 1.1 * ENOUGH / max(took, 1e-9)))
    return times


def three_digits(value: float) -> float:
    """What is kept of a measurement."""
    return float(f"{value:.3g}")


def figures(value: float) -> str:
    """Two digits: more is not to be had from such a measurement."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.2g}")
    return f"{rounded:.{max(0, 1 - math.floor(math.log10(rounded)))}f}"


def duration(value: float) -> str:
    """A time in the unit that suits it."""
    unit, size = next((u, s) for u, s in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 0.0)) if value >= s)
    return f"{figures(value / (size or 1e-9))} {unit}"


def size(value: float) -> str:
    """A number of bytes in the unit that suits it."""
    unit, one = next((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 0.0)) if value >= s)
    return f"{figures(value / (one or 1.0))} {unit}" if value > 0 else "0"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, its first column to the left and the others to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- |", "|---|").replace(" --: |", "--:|")
