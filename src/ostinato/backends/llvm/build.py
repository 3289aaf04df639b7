"""From a Graph to machine code: loaded from the cache if it is there, else lowered, emitted and generated.

What is loaded needs neither the rewritten graph nor any stage below it; they are made when somebody asks,
and only then are the modules of these stages imported.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ostinato.backends import Report
from ostinato.backends.llvm.cache import Entry, Store, open_store
from ostinato.backends.llvm.jit import Compiled, generate, target_text
from ostinato.config import config
from ostinato.digest import NoDigestError, compiler_digest, graph_digest
from ostinato.graph import Graph
from ostinato.lower.callouts import where_called
from ostinato.rewrite.notes import timing

if TYPE_CHECKING:
    from ostinato.lower.inventory import Inventory, Measured
    from ostinato.lower.program import Program

_SYMBOL = "run"

# What the caller of the code must know: it calls out, or reads constants by address, which needs objects of this
# process; SciPy's BLAS must have one thread meanwhile; it fails where assumptions about sizes do not hold; it divides
# lanes of loops among threads.
CALLS_OUT, ONE_BLAS_THREAD, ASSUMES, SPLITS = "calls out", "one BLAS thread", "assumes sizes", "splits loops"


class Build:
    """A Graph on its way to machine code.

    Parameters
    ----------
    closed : Graph
    rewritten : optional
        Makes the graph that is compiled in the place of `closed`. Without it `closed` itself is compiled,
        and the cache is not used.
    optimistic : bool
        Whether sizes that meet may be assumed to be equal; see `lower.integers`.
    """

    def __init__(self, closed: Graph, rewritten: Callable[[], Graph] | None = None, optimistic: bool = True) -> None:
        self.closed = closed
        self._rewritten, self._optimistic = rewritten, optimistic
        self._passes: dict[str, float] = {}  # the seconds that each took

    @cached_property
    def graph(self) -> Graph:
        """What is compiled."""
        return self._rewritten() if self._rewritten else self.closed

    @cached_property
    def program(self) -> Program:
        """The loop nest."""
        from ostinato.backends.llvm.emit import knows
        from ostinato.backends.llvm.kernels import panel_columns
        from ostinato.backends.llvm.vectors import vector_widths
        from ostinato.lower.program import lower_graph

        return lower_graph(self.graph, knows, self._optimistic, panel_columns(), lambda loop: bool(vector_widths(loop)))

    @cached_property
    def llvm(self) -> str:
        """What LLVM is given."""
        from ostinato.backends.llvm.emit import Emitter

        return str(Emitter(self.program).module)

    def without_assumptions(self) -> Build:
        """The same Graph, compiled for sizes of which nothing is assumed."""
        return Build(self.closed, self._rewritten, optimistic=False)

    def compile(self) -> tuple[Found, Report]:
        """The machine code in this process, and how it came about.

        Raises
        ------
        UnsupportedError
            If the graph has no native form.
        """
        watch = Watch()
        found = load_or_make(self._identity if self._rewritten else None, lambda: self._make(watch), watch)
        texts = {"nest": lambda: str(self.program), "llvm": lambda: self.llvm}
        texts["time"] = lambda: times(watch.laps, self._passes, found.loaded)
        how = "compiled to one native function for all sizes" + (", loaded from the cache" if found.loaded else "")
        called = where_called(self.program.graph, self.program.nest.sites) if CALLS_OUT in found.marks else []
        return found, Report(how, watch.laps, texts, called, found.loaded, found.note, self.notes, self.details)

    def memory(self, arguments: Sequence[Any]) -> Measured:
        """The bytes of a call."""
        return self._inventory().measure(self._values(arguments))

    def _inventory(self) -> Inventory:
        from ostinato.backends.llvm.vectors import combining_width, vector_widths
        from ostinato.lower.inventory import Inventory

        return Inventory(self.program, lambda loop: max([*vector_widths(loop), combining_width(loop)[0]]))

    def _values(self, arguments: Sequence[Any]) -> dict[str, int]:
        """The sizes and integers of arguments, by the names that the inventory has for them."""
        from ostinato.lower.program import labels

        given = list(zip(labels(self.graph), map(np.asarray, arguments), strict=True))
        values = {f"{n}.shape[{axis}]": size for n, a in given for axis, size in enumerate(a.shape)}
        return values | {n: int(a) for n, a in given if not a.shape and a.dtype.kind in "iu"}

    def notes(self) -> Sequence[str]:
        """What the passes for native code told."""
        return self.program.notes

    def details(self, arguments: Sequence[Any] | None) -> list[str]:
        """What was compiled, and the memory of a call, in lines of words; see `Function.explain`."""
        inventory = self._inventory()
        values = None if arguments is None else self._values(arguments)
        loops = inventory.loops()
        head = "Loops and calls, in order:" if loops else "No loops: a few operations on numbers."
        return [head, *loops, "Bytes of a call:", *inventory.memory(values)]

    def _identity(self) -> str:
        return f"graph {graph_digest(self.closed)} {config.floatX} {self._optimistic}"

    def _make(self, watch: Watch) -> Entry:
        # For what they leave behind.
        with timing() as self._passes:
            _ = self.graph
            watch.lap("rewrite")
            nest = self.program.nest
            watch.lap("lower")
        text = self.llvm
        watch.lap("emit")
        known = {
            CALLS_OUT: nest.sites or nest.arrays,
            ONE_BLAS_THREAD: nest.one_blas_thread,
            ASSUMES: nest.integers.assumptions,
            SPLITS: nest.splits,
        }
        return Entry(_SYMBOL, (generate(text),), tuple([mark for mark, holds in known.items() if holds]))


def times(stages: Mapping[str, float], passes: Mapping[str, float], loaded: bool) -> str:
    """Where the time of compiling went, the longest first."""

    def lines(head: str, seconds: Mapping[str, float]) -> list[str]:
        width = max(map(len, seconds), default=0)
        longest_first = sorted(seconds.items(), key=lambda pair: -pair[1])
        return [head, *[f"  {name:{width}} {1e3 * s:8.1f}" for name, s in longest_first]]

    found = lines(f"Milliseconds of {'loading' if loaded else 'compiling'}:", stages)
    return "\n".join(found + (lines("of these, in passes:", passes) if passes else []))


class Watch:
    """How long each of several stages takes."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now


class Found(NamedTuple):
    """Machine code, whether it was loaded from the cache, and what hinders that it will be, as a sentence."""

    compiled: Compiled
    marks: tuple[str, ...]
    loaded: bool
    note: str


def load_or_make(identity: Callable[[], str] | None, make: Callable[[], Entry], watch: Watch) -> Found:
    """Machine code from the cache, else made and kept there.

    Parameters
    ----------
    identity : what the code depends on, apart from the compiler and this machine; None for code that is not kept.
    make : makes the code.
    watch : is told of the stages.
    """
    place = _Place(identity) if identity and config.cache else None
    watch.lap("key")
    entry = place.load() if place else None
    watch.lap("read")
    compiled = _linked(entry) if entry else None
    watch.lap("link")
    if compiled is not None:
        return Found(compiled, entry.marks if entry else (), True, "")
    watch.restart()
    entry = make()
    compiled = Compiled(entry.objects, entry.symbol)
    watch.lap("generate")
    return Found(compiled, entry.marks, False, place.save(entry) if place else "")


class _Place:
    """Where code is kept; nowhere if there is no digest of what it depends on."""

    def __init__(self, identity: Callable[[], str]) -> None:
        self._store: Store = open_store()
        self._problem = ""
        try:
            parts = [identity(), compiler_digest(), target_text()]
        except NoDigestError as error:
            self._problem = str(error)
        else:
            self._key = hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def load(self) -> Entry | None:
        return None if self._problem else self._store.load(self._key)

    def save(self, entry: Entry) -> str:
        """Keep the code; what hinders that, as a sentence."""
        if CALLS_OUT in entry.marks:
            return "The code is not kept for other processes: it calls out, or holds large constants."
        if not self._problem and self._store.save(self._key, entry):
            return ""
        return f"The code is not kept for other processes: {self._problem or self._store.problem}."


def _linked(entry: Entry) -> Compiled | None:
    """The code of an entry, if all that it calls is still there."""
    try:
        return Compiled(entry.objects, entry.symbol)
    except (RuntimeError, LookupError):
        return None
