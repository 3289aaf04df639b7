"""What a function did on the device, and how that is told."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ostinato.backends.triton.layout import Kernel

TO_HOST, TO_DEVICE = "to the host", "to the device"


class Notes:
    """What a function did on the device, for its report.

    Attributes
    ----------
    kernels : by the text of a kernel the loop that it is of and what it is, for the arrays that it met last.
    compiled : what Triton compiled them to; kept, so that no other has the same id.
    stepped : why a loop runs step by step, by the loop.
    called_out : ops that NumPy computes, on arrays that go to the host and back.
    transfers : how many arrays went which way, those of arguments and results included.
    calls : of the function.
    kept_less : whether memory was too small for a call, so that its loops kept less.
    seconds : spent on making kernels, by stage.
    """

    def __init__(self) -> None:
        self.kernels: dict[str, str] = {}
        self.compiled: dict[int, Any] = {}
        self.stepped: dict[str, str] = {}
        self.called_out: set[str] = set()
        self.transfers: Counter[str] = Counter()
        self.calls = 0
        self.kept_less = False
        self.seconds: dict[str, float] = defaultdict(float)

    def told(self, loop: str, kernel: Kernel) -> str:
        """What is told of a kernel of a loop."""
        return f"{loop}: {kernel.description}, {_plural(kernel.programs, 'program')}"

    def launched(self, kernel: Kernel, told: str, compiled: Any, start: float) -> None:
        """A kernel was launched, for which Triton compiled something, or not; `start` is when that began."""
        self.kernels[kernel.text] = told
        if compiled is not None and id(compiled) not in self.compiled:
            self.compiled[id(compiled)] = compiled
            self.seconds["compile"] += time.perf_counter() - start

    @property
    def compilations(self) -> int:
        """How many kernels were made; Triton compiles some again for arrays whose sizes 16 divides."""
        return max(len(self.kernels), len(self.compiled))

    @property
    def texts(self) -> str:
        """The kernels, each under a line that says what it is."""
        found = [f"# Loop {told}\n{text}" for text, told in self.kernels.items()]
        return "\n".join(found) or "# No kernel was made so far: that happens when a loop meets its arrays."

    @property
    def lines(self) -> list[str]:
        """What was done, in plain words."""
        lines = [f"Loop {told}." for told in self.kernels.values()]
        lines += [f"Loop {name} runs step by step on the device: {why}." for name, why in sorted(self.stepped.items())]
        if not lines:
            lines.append("No loop was run so far.")
        if self.kept_less:
            lines.append("Memory was too small for a call: its loops kept less, and made steps again.")
        moved = ", ".join(f"{_plural(n, 'array')} {way}" for way, n in sorted(self.transfers.items())) or "nothing"
        lines.append(f"Moved in {_plural(self.calls, 'call')}: {moved}; nothing while a kernel runs.")
        return lines


def _plural(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
