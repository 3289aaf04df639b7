"""The plot of the benchmarks, as SVG: a row per workload, a panel per kind, a mark per system on a logarithmic axis.

Distances along the axis are ratios to Ostinato's time, which is the line at 1: to its right are systems that take
longer, and what is far off stands at the edge. The picture follows the reader's choice of light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from report import FORWARD, GRADIENT, LIMIT, ROOT, Row

PATH = ROOT / "docs" / "reference" / "benchmarks.svg"
SYSTEMS = (LIMIT, "numba", "JAX", "torch", "PyTensor", "NumPy")
COLOURS = {
    LIMIT: ("#57606a", "#adb5bd"),
    "numba": ("#1a7f37", "#57ab5a"),
    "JAX": ("#0969da", "#539bf5"),
    "torch": ("#cf5c00", "#f0883e"),
    "PyTensor": ("#8250df", "#b083f0"),
    "NumPy": ("#bf3989", "#e275ad"),
}
LOW, HIGH = 0.25, 128.0
LABELS, PANEL, GAP, LINE, TOP, BOTTOM, EDGE = 296, 290, 22, 23, 96, 30, 16
WIDTH = LABELS + 2 * PANEL + GAP + EDGE

STYLE = """
text { font: 12px -apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 14px; font-weight: 600 }
.tick, .note { font-size: 11px; fill: #59636e }
.page { fill: #ffffff } .band { fill: #f6f8fa } .line { stroke: #d8dee4 }
.behind { fill: #d1242f; fill-opacity: 0.06 }
.ours { stroke: #1f2328; stroke-width: 1.5 } .span { stroke: #afb8c1; stroke-width: 1.5 }
"""
DARK = """
text { fill: #d1d7e0 } .tick, .note { fill: #9198a1 }
.page { fill: #0d1117 } .band { fill: #161b22 } .line { stroke: #30363d }
.ours { stroke: #f0f6fc } .span { stroke: #545d68 }
"""


def write(results: Mapping[str, Any], path: Path = PATH) -> None:
    path.write_text(picture(results["rows"]), "utf-8")


def picture(rows: Sequence[Row]) -> str:
    """The whole picture."""
    names = list(dict.fromkeys(r["workload"] for r in rows))
    found = {(r["workload"], r["kind"]): r["cells"] for r in rows}
    height = TOP + LINE * len(names) + BOTTOM
    present = [s for s in SYSTEMS if any("ratio" in r["cells"].get(s, {}) for r in rows)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="Times of other systems as ratios to those of Ostinato">',
        f"<style>{STYLE}{_colours(0)}@media (prefers-color-scheme: dark) {{{DARK}{_colours(1)}}}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>',
        *_legend(present),
        *_names(names),
    ]
    for k, kind in enumerate((FORWARD, GRADIENT)):
        left = LABELS + k * (PANEL + GAP)
        parts += _axis(left, kind, len(names))
        for i, name in enumerate(names):
            parts += _marks(left, TOP + LINE * i + LINE / 2, found.get((name, kind), {}), present)
    return "\n".join([*parts, "</svg>\n"])


def _colours(theme: int) -> str:
    return "\n".join(f".{s} {{ fill: {c[theme]}; stroke: {c[theme]} }}" for s, c in COLOURS.items()) + "\n"


def _legend(systems: Sequence[str]) -> Iterator[str]:
    x, y = float(LABELS), 24.0
    yield f'<text class="title" x="{EDGE}" y="{y + 4}">Time of a call ÷ Ostinato’s</text>'
    for system in systems:
        yield _mark(system, x + 6, y)
        label = "C, by hand" if system == LIMIT else system
        yield f'<text x="{x + 16}" y="{y + 4}">{label}</text>'
        x += 38 + 6.5 * len(label)


def _names(names: Sequence[str]) -> Iterator[str]:
    for i, name in enumerate(names):
        y = TOP + LINE * i
        if i % 2 == 0:
            yield f'<rect class="band" x="{EDGE / 2}" y="{y}" width="{WIDTH - EDGE}" height="{LINE}" rx="3"/>'
        yield f'<text x="{EDGE}" y="{y + LINE / 2 + 4}">{escape(_short(name))}</text>'


def _short(name: str) -> str:
    """A name that fits beside the panels."""
    return name if len(name) <= 46 else f"{name[:45]}…"


def place(ratio: float) -> float:
    """How far along a panel a ratio stands."""
    inside = min(max(ratio, LOW), HIGH)
    return 10 + (PANEL - 20) * math.log(inside / LOW) / math.log(HIGH / LOW)


def _axis(left: float, kind: str, lines: int) -> Iterator[str]:
    end = TOP + LINE * lines
    one, start, height = left + place(1), left + place(LOW) - 6, end - TOP + 4
    yield f'<rect class="behind" x="{start:.1f}" y="{TOP - 4}" width="{one - start:.1f}" height="{height}"/>'
    yield f'<text class="title" x="{left + 4:.1f}" y="{TOP - 42}">{kind}</text>'
    yield f'<text class="note" x="{one - 8:.1f}" y="{TOP - 26}" text-anchor="end">← faster</text>'
    yield f'<text class="note" x="{one + 8:.1f}" y="{TOP - 26}">slower than Ostinato →</text>'
    for tick in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128):
        x = left + place(tick)
        style = "ours" if tick == 1 else "line"
        yield f'<line class="{style}" x1="{x:.1f}" y1="{TOP - 4}" x2="{x:.1f}" y2="{end}"/>'
        label = {0.25: "≤¼", 0.5: "½", 128: "≥128"}.get(tick, f"{tick:g}")
        for y in (TOP - 9, end + 14):
            yield f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{label}</text>'


def _marks(left: float, y: float, cells: Mapping[str, Any], systems: Sequence[str]) -> Iterator[str]:
    placed = [(s, left + place(cells[s]["ratio"])) for s in systems if "ratio" in cells.get(s, {})]
    if placed:
        xs = [x for _, x in placed] + [left + place(1)]
        yield f'<line class="span" x1="{min(xs):.1f}" y1="{y}" x2="{max(xs):.1f}" y2="{y}"/>'
    for system, x in reversed(placed):
        text = f"{system}: {cells[system]['ratio']:.2g}"
        yield f"<g>{_mark(system, x, y)}<title>{text}</title></g>"


def _mark(system: str, x: float, y: float) -> str:
    """A circle; C, which is a limit and no peer, is a bar across the line."""
    if system == LIMIT:
        return f'<rect class="{system}" x="{x - 1.5:.1f}" y="{y - 7}" width="3" height="14" rx="1"/>'
    return f'<circle class="{system}" cx="{x:.1f}" cy="{y}" r="4.5" fill-opacity="0.85"/>'
