"""How calls of library functions are written in LLVM IR; `externals.py` knows where the functions are.

A module declares what it calls by the name of the symbol, and the emitter keeps a list of these names for
linking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir

from ostinato.backends.llvm.lines import Builder
from ostinato.backends.llvm.scalar import I32, I64, PTR, memory_type
from ostinato.lower.loopnest import Extern

if TYPE_CHECKING:
    from ostinato.backends.llvm.emit import Emitter

_DOUBLE = ir.DoubleType()

# Functions of one float that are computed in float64, by the name of the operation.
SPECIAL = {"gammaln": "special.gammaln", "psi": "special.psi"}


def special(emitter: Emitter, name: str, x: Any) -> Any:
    """A function of `SPECIAL`."""
    b = emitter.builder
    # The last argument tells Cython not to look for an overriding Python method.
    function = _declared(emitter, SPECIAL[name], ir.FunctionType(_DOUBLE, [_DOUBLE, I32]))
    narrow = x.type != _DOUBLE
    value = b.call(function, [b.fpext(x, _DOUBLE) if narrow else x, I32(0)])
    return b.fptrunc(value, x.type) if narrow else value


def routine(emitter: Emitter, stmt: Extern) -> None:
    """A call of a kernel, or of a Fortran routine: addresses as they are, scalars by reference."""
    b = emitter.builder
    if stmt.by_value:
        args = [emitter.value(a) for a in stmt.args]
        b.call(_declared(emitter, stmt.symbol, ir.FunctionType(ir.VoidType(), [a.type for a in args])), args)
        for pointer in stmt.writes:
            emitter.forget(pointer)
        return
    places = [emitter.value(a) if a.dtype == "ptr" else _place(emitter, a) for a in stmt.args]
    info = _slot(emitter, I32) if stmt.info is not None else None
    given = places if info is None else [*places, info]
    b.call(_declared(emitter, stmt.symbol, ir.FunctionType(ir.VoidType(), [PTR] * len(given))), given)
    for pointer in stmt.writes:
        emitter.forget(pointer)
    if stmt.info is not None:
        emitter.define(stmt.info, b.sext(b.load(info, typ=I32), I64))


def _place(emitter: Emitter, arg: Any) -> Any:
    value = emitter.value(arg)
    slot = _slot(emitter, memory_type(arg.dtype))
    emitter.builder.store(value, slot)
    return slot


def _slot(emitter: Emitter, kind: Any) -> Any:
    """Room for a scalar on the machine's stack, taken once per call of the function."""
    b = Builder(emitter.function.entry_basic_block)
    b.position_at_start(emitter.function.entry_basic_block)
    return b.alloca(kind)


def _declared(emitter: Emitter, symbol: str, kind: ir.FunctionType) -> Any:
    if symbol not in emitter.externals:
        emitter.externals.append(symbol)
    return emitter.module.globals.get(symbol) or ir.Function(emitter.module, kind, symbol)
