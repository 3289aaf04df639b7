"""Programs that wait for each other, in Triton's interpreter: one thread per program.

The interpreter itself runs programs one after another, so the first would wait forever for the second.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from typing import Any

# Held while the interpreter rewrites a function that a kernel calls, which it does at the first call: CPython 3.11
# counts the depth of syntax trees once for all threads, and refuses a tree if two are parsed at the same time.
_REWRITING = threading.Lock()


def run_concurrently(function: Any, programs: int, arguments: Sequence[Any]) -> None:
    """Interpret all programs of a kernel at the same time.

    Parameters
    ----------
    function : a Triton function, made while the interpreter is switched on.
    arguments : tensors on the CPU and integers, one per param.
    """
    from triton.runtime import interpreter

    builder, mine = interpreter.interpreter_builder, threading.local()
    rewrite = interpreter.InterpretedFunction.rewrite
    scope = interpreter._patch_lang(function.fn)
    named = inspect.getcallargs(function.fn, *arguments)
    converted = {name: interpreter._implicit_cvt(value) for name, value in named.items()}
    errors: list[BaseException] = []

    class Index:
        """The index of the program that asks, where the interpreter has one for all."""

        def __getitem__(self, axis: int) -> int:
            return mine.number if axis == 0 else 0

    def rewrite_alone(function: Any) -> Any:
        with _REWRITING:
            return rewrite(function)

    def run(number: int) -> None:
        mine.number = number
        try:
            function.fn(**converted)
        except BaseException as error:
            errors.append(error)

    try:
        interpreter.InterpretedFunction.rewrite = rewrite_alone
        builder.set_grid_dim(programs, 1, 1)
        builder.grid_idx = Index()
        threads = [threading.Thread(target=run, args=(k,), daemon=True) for k in range(programs)]
        for thread in threads:
            thread.start()
        while any(t.is_alive() for t in threads) and not errors:
            for thread in threads:
                thread.join(0.05)
    finally:
        if scope is not None:
            scope.restore()
        builder.grid_idx = None
        interpreter.InterpretedFunction.rewrite = rewrite
    if errors:
        raise errors[0]
