"""How a `Split` is written in LLVM IR: its body as a function of its own, of the lanes to compute.

What the body uses from outside is captured: the variables go into a table on the stack, and the function reads
them from there when it begins. The runtime (`threads.py`) decides who computes which lanes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir

from ostinato.backends.llvm.lines import Builder
from ostinato.backends.llvm.scalar import I32, I64, PTR
from ostinato.backends.llvm.writer import words_on_stack
from ostinato.lower.loopnest import Split, Var

if TYPE_CHECKING:
    from ostinato.backends.llvm.emit import Emitter

_PART_TYPE = ir.FunctionType(I32, [PTR, I64, I64, PTR])
_SPREAD_TYPE = ir.FunctionType(I32, [PTR, PTR, PTR, I64, I64, I64])


class Captures:
    """The variables of outside that a function uses.

    Parameters
    ----------
    scopes : what is known where the function is called.
    entry : the block that reads them, from the table at `table`.
    """

    def __init__(self, scopes: list[Any], entry: Any, table: Any) -> None:
        self._scopes, self._table = scopes, table
        self._builder = Builder(entry)
        self.outside: list[Any] = []

    def find(self, var: Var) -> Any:
        """A variable's value within the function; None if it is not known outside."""
        for scope in reversed(self._scopes):
            if var in scope.values:
                return self._captured(scope.values[var])
        return None

    def _captured(self, value: Any) -> Any:
        if isinstance(value, ir.Constant):
            return value
        place = self._builder.gep(self._table, [I64(len(self.outside))], source_etype=I64)
        self.outside.append(value)
        return self._builder.load(place, typ=value.type)

    def close(self, start: Any) -> None:
        """End the entry: what follows is at `start`."""
        self._builder.branch(start)


def split(emitter: Emitter, stmt: Split, spread_word: Any) -> Any:
    """Write the body as a function and call it through the runtime; the return code.

    `spread_word` is the address of the word of the context where the address of `spread` stands.
    """
    count, work = emitter.value(stmt.count), emitter.value(stmt.work)
    function, captures = _outlined(emitter, stmt)
    b = emitter.builder
    with b.goto_entry_block():
        table = words_on_stack(b, max(len(captures.outside), 1))
    for k, value in enumerate(captures.outside):
        b.store(value, b.gep(table, [I64(k)], source_etype=I64))
    spread = b.load(spread_word, typ=_SPREAD_TYPE.as_pointer())
    return b.call(spread, [emitter.context, function, table, count, work, I64(stmt.least)])


def _outlined(emitter: Emitter, stmt: Split) -> tuple[Any, Captures]:
    outer = emitter.state()
    name = f"part.{sum(f.name.startswith('part.') for f in emitter.module.functions)}"
    function = ir.Function(emitter.module, _PART_TYPE, name)
    function.linkage = "internal"
    table, first, n, context = function.args
    captures = Captures(emitter.scopes, function.append_basic_block("entry"), table)
    start = function.append_basic_block("start")
    emitter.begin(function, start, context, captures)
    emitter.define(stmt.first, first)
    emitter.define(stmt.n, n)
    emitter.statements(stmt.body)
    emitter.builder.ret(I32(0))
    captures.close(start)
    emitter.restore(outer)
    return function, captures
