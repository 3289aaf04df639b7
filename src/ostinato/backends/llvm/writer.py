"""A few words with which functions of the runtime are written in LLVM IR: words of memory, counted loops, calls.

Memory is seen as 64-bit words here. Variables are places on the stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from ostinato.backends.llvm.lines import Builder
from ostinato.backends.llvm.scalar import I1, I8, I64, PTR

NULL = PTR(None)


def words_on_stack(builder: Builder, n: int) -> Any:
    """The address of n words on the stack, of no particular type."""
    return builder.inttoptr(builder.ptrtoint(builder.alloca(I64, n), I64), PTR)


class Writer:
    """One function being written; `args` are its arguments, `b` is the builder behind."""

    def __init__(self, module: ir.Module, name: str, result: Any, params: Sequence[Any], export: bool = False) -> None:
        self.function = ir.Function(module, ir.FunctionType(result, params), name)
        if not export:
            self.function.linkage = "internal"
        self.module, self.args = module, self.function.args
        self.b = Builder(self.function.append_basic_block("entry"))

    def variable(self, value: Any) -> Any:
        """A place on the stack; `self.now` reads it, `self.set` writes it."""
        with self.b.goto_entry_block():
            place = self.b.alloca(value.type)
        self.set(place, value)
        return place

    def now(self, place: Any) -> Any:
        return self.b.load(place, typ=place.allocated_type)

    def set(self, place: Any, value: Any) -> None:
        self.b.store(value, place)

    def at(self, pointer: Any, k: Any) -> Any:
        """The address of a word."""
        return self.b.gep(pointer, [I64(k) if isinstance(k, int) else k], source_etype=I64)

    def beyond(self, pointer: Any, n_bytes: Any) -> Any:
        return self.b.gep(pointer, [I64(n_bytes) if isinstance(n_bytes, int) else n_bytes], source_etype=I8)

    def word(self, pointer: Any, k: Any = 0, type_: Any = I64) -> Any:
        """The word number k from a pointer on."""
        return self.b.load(self.at(pointer, k), typ=type_)

    def put(self, pointer: Any, k: Any, value: Any) -> None:
        self.b.store(value, self.at(pointer, k))

    def call(self, address: Any, result: Any, args: Sequence[Any]) -> Any:
        """Call what lies at an address that is known at run time only."""
        type_ = ir.FunctionType(result, [a.type for a in args])
        return self.b.call(self.b.inttoptr(address, type_.as_pointer()), args)

    def intrinsic(self, name: str, result: Any, *args: Any) -> Any:
        known = self.module.globals.get(name)
        return self.b.call(
            known or ir.Function(self.module, ir.FunctionType(result, [a.type for a in args]), name), args
        )

    def copy(self, target: Any, source: Any, n_bytes: Any) -> None:
        self.intrinsic("llvm.memcpy.p0.p0.i64", ir.VoidType(), target, source, n_bytes, I1(0))

    def clear(self, target: Any, n_bytes: Any) -> None:
        self.intrinsic("llvm.memset.p0.i64", ir.VoidType(), target, I8(0), n_bytes, I1(0))

    def is_(self, a: Any, sign: str, b: Any) -> Any:
        """A comparison, of unsigned numbers or of addresses."""
        return self.b.icmp_unsigned(sign, a, b)

    @contextmanager
    def loop(self) -> Iterator[Any]:
        """An endless loop; yields the block to branch to in order to leave it."""
        body, after = self.function.append_basic_block("loop"), self.function.append_basic_block("after")
        self.b.branch(body)
        self.b.position_at_end(body)
        yield after
        if not self.b.block.is_terminated:
            self.b.branch(body)
        self.b.position_at_end(after)

    @contextmanager
    def count(self, n: Any) -> Iterator[Any]:
        """A loop for k = 0, 1, … below n."""
        k = self.variable(I64(0))
        with self.loop() as after:
            value = self.now(k)
            self.leave_if(self.is_(value, ">=", n), after)
            yield value
            self.set(k, self.b.add(value, I64(1)))

    def leave_if(self, condition: Any, block: Any) -> None:
        on = self.function.append_basic_block("on")
        self.b.cbranch(condition, block, on)
        self.b.position_at_end(on)

    def block(self, name: str) -> Any:
        return self.function.append_basic_block(name)

    def when(self, condition: Any) -> Any:
        """`with w.when(condition):` — what is written within runs if the condition holds."""
        return self.b.if_then(condition)
