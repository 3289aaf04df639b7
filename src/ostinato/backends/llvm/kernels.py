"""Kernels of matrix products with a packed right-hand side, written in LLVM IR; machine code made once per process.

`pack` lays a matrix out in *panels* of as many columns as a tile of registers has, row after row and filled
up with zeros: what a product reads follows in memory. `multiply` goes over tiles of 6, 2 or 1 rows. An element of
the result is one sum from the first term to the last, in whichever tile it lies, so that its bits depend neither on
the number of rows nor on how they are divided. `add` goes on with sums that were begun: nor do they depend then on how
the terms are divided.

Compiled functions refer to kernels by name, `kernels.multiply_float32`, like to functions of libraries; so they
have no part in the time it takes to compile a function.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir

from ostinato.backends.llvm.lines import Builder
from ostinato.backends.llvm.scalar import I32, I64, PTR, item_size, llvm_type

DTYPES = ("float32", "float64")
FUNCTIONS = ("pack", "multiply", "add")
# The rows of tiles, of full panels and of what is left of the columns. Each is code, and costs compile time.
_TILES, _TAIL_TILES = (6, 2, 1), (6, 1)


@cache
def _registers() -> tuple[int, int]:
    """Bytes of a vector register of this machine, and how many vectors of columns a tile has."""
    if llvm.get_host_cpu_features().get("avx512f"):
        return 64, 4
    if llvm.get_host_cpu_features().get("avx"):
        return 32, 2
    return 16, 4 if llvm.get_process_triple().startswith(("aarch64", "arm64")) else 2


def panel_columns() -> dict[str, int]:
    """The columns of a panel, by dtype."""
    size, vectors = _registers()
    return {dtype: vectors * (size // item_size(dtype)) for dtype in DTYPES}


def address_of(name: str) -> int:
    """Where a kernel is in this process; its name ends with its dtype."""
    return _addresses(name.rpartition("_")[2])[name]


@cache
def _addresses(dtype: str) -> dict[str, int]:
    from ostinato.backends.llvm.build import Watch, load_or_make
    from ostinato.backends.llvm.cache import Entry
    from ostinato.backends.llvm.jit import generate

    def make() -> Entry:
        return Entry("start", (generate(str(kernel_module(dtype))),))

    compiled = load_or_make(lambda: f"kernels {dtype}", make, Watch()).compiled
    _kept.append(compiled)
    table = (ctypes.c_int64 * len(FUNCTIONS))()
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(compiled.address)(table)
    return {f"{name}_{dtype}": address for name, address in zip(FUNCTIONS, table, strict=True)}


_kept: list[Any] = []  # machine code that compiled functions call


def kernel_module(dtype: str) -> ir.Module:
    """The kernels of a dtype, and `start(table)` that tells where they are."""
    module = ir.Module(name="ostinato.kernels")
    functions = [_pack(module, dtype), _multiply(module, dtype, False), _multiply(module, dtype, True)]
    start = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR]), "start")
    b = Builder(start.append_basic_block())
    for k, function in enumerate(functions):
        b.store(function, b.gep(start.args[0], [I64(k)], source_etype=I64))
    b.ret_void()
    return module


class _Kernel:
    """A function being written: its builder, and counted loops in SSA form."""

    def __init__(self, module: ir.Module, name: str, dtype: str, params: Sequence[Any]) -> None:
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), params), f"{name}_{dtype}")
        self.function.linkage = "internal"
        self.b = Builder(self.function.append_basic_block("entry"))
        self.kind = llvm_type(dtype)
        self.size = item_size(dtype)
        self.lanes = _registers()[0] // self.size
        self.vectors = _registers()[1]
        self.columns = self.vectors * self.lanes
        self.vector = ir.VectorType(self.kind, self.lanes)

    def at(self, pointer: Any, offset: Any) -> Any:
        """The address of an element."""
        offset = I64(offset) if isinstance(offset, int) else offset
        return self.b.gep(pointer, [offset], inbounds=True, source_etype=self.kind)

    def count(
        self, start: Any, stop: Any, step: int, inits: Sequence[Any], body: Callable[[Any, list[Any]], Sequence[Any]]
    ) -> list[Any]:
        """A loop for i = start, start + step, … while i + step <= stop; what it carried, after i."""
        b = self.b
        head, inner, after = (self.function.append_basic_block(n) for n in ("head", "inner", "after"))
        before = b.block
        b.branch(head)
        b.position_at_end(head)
        phis = [b.phi(v.type) for v in (start, *inits)]
        for phi, v in zip(phis, (start, *inits), strict=True):
            phi.add_incoming(v, before)
        following = b.add(phis[0], I64(step))
        b.cbranch(b.icmp_signed("<=", following, stop), inner, after)
        b.position_at_end(inner)
        nexts = body(phis[0], phis[1:])
        for phi, v in zip(phis, (following, *nexts), strict=True):
            phi.add_incoming(v, b.block)
        b.branch(head)
        b.position_at_end(after)
        return phis

    def intrinsic(self, name: str, result: Any, *args: Any) -> Any:
        known = self.function.module.globals.get(name)
        kind = ir.FunctionType(result, [a.type for a in args])
        return self.b.call(known or ir.Function(self.function.module, kind, name), args)

    def suffix(self) -> str:
        return f"v{self.lanes}f{8 * self.size}"


def _pack(module: ir.Module, dtype: str) -> Any:
    """pack(w, distance of rows, of columns, panels, rows, columns)."""
    k = _Kernel(module, "pack", dtype, [PTR, I64, I64, PTR, I64, I64])
    w, step, across, panels, rows, columns = k.function.args
    b = k.b
    full = b.icmp_signed("==", across, I64(1))

    def panel(first: Any, _: list[Any]) -> Sequence[Any]:
        rest = b.sub(columns, first)
        width = b.select(b.icmp_signed("<", rest, I64(k.columns)), rest, I64(k.columns))
        copied = b.select(b.and_(full, b.icmp_signed("==", width, I64(k.columns))), I64(k.columns), I64(0))
        target = k.at(panels, b.mul(first, rows))
        source = k.at(w, b.mul(first, across))

        def row(i: Any, _: list[Any]) -> Sequence[Any]:
            place, given = k.at(target, b.mul(i, I64(k.columns))), k.at(source, b.mul(i, step))

            def vector(j: Any, _: list[Any]) -> Sequence[Any]:
                b.store(b.load(k.at(given, j), typ=k.vector, align=k.size), k.at(place, j), align=k.size)
                return []

            def element(j: Any, _: list[Any]) -> Sequence[Any]:
                b.store(b.load(k.at(given, b.mul(j, across)), typ=k.kind, align=k.size), k.at(place, j))
                return []

            def zero(j: Any, _: list[Any]) -> Sequence[Any]:
                b.store(k.kind(0.0), k.at(place, j))
                return []

            k.count(I64(0), copied, k.lanes, [], vector)
            k.count(copied, width, 1, [], element)
            k.count(width, I64(k.columns), 1, [], zero)
            return []

        k.count(I64(0), rows, 1, [], row)
        return []

    # The last panel may be less than full: it begins before the end.
    k.count(I64(0), b.add(columns, I64(k.columns - 1)), k.columns, [], panel)
    b.ret_void()
    return k.function


def _multiply(module: ir.Module, dtype: str, adds: bool) -> Any:
    """multiply(a, distance of rows, of columns, panels, c, distance of rows, rows, inner, columns): c = a @ w.

    `add` has the same arguments: the sums begin with what c holds.
    """
    k = _Kernel(module, "add" if adds else "multiply", dtype, [PTR, I64, I64, PTR, PTR, I64, I64, I64, I64])
    a, a_row, a_column, panels, c, c_row, rows, inner, columns = k.function.args
    b = k.b
    n_bytes = b.mul(inner, I64(k.columns))  # a panel, in elements

    def tiles(panel: Any, first: Any, vectors: int, mask: Any) -> None:
        """All rows of some columns."""
        i: Any = I64(0)
        for height in _TILES if mask is None else _TAIL_TILES:

            def tile(i: Any, _: list[Any], height: int = height) -> Sequence[Any]:
                left, out = k.at(a, b.mul(i, a_row)), k.at(c, b.add(b.mul(i, c_row), first))
                starts = [k.at(panel, v * k.lanes) for v in range(vectors)]
                _tile(k, left, (a_row, a_column), starts, _Target(out, c_row, mask, adds), inner, height)
                return []

            (i,) = k.count(i, rows, height, [], tile)

    def panel(first: Any, _: list[Any]) -> Sequence[Any]:
        tiles(k.at(panels, b.mul(first, inner)), first, k.vectors, None)
        return []

    def two_panels(first: Any, _: list[Any]) -> Sequence[Any]:
        start = k.at(panels, b.mul(first, inner))
        both = (start, k.at(start, n_bytes))
        starts = [k.at(p, v * k.lanes) for p in both for v in range(k.vectors)]
        _tile(k, a, (a_row, a_column), starts, _Target(k.at(c, first), c_row, None, adds), inner, 1)
        return []

    def tail(first: Any, _: list[Any]) -> Sequence[Any]:
        begin = b.and_(first, I64(-k.columns))
        start = k.at(k.at(panels, b.mul(begin, inner)), b.sub(first, begin))
        order = ir.Constant(ir.VectorType(I64, k.lanes), list(range(k.lanes)))
        rest = _splat(k, b.sub(columns, first), I64)
        tiles(start, first, 1, b.icmp_signed("<", order, rest))
        return []

    # A single row has too few sums to keep the machine busy, unless they are those of two panels.
    single = b.select(b.icmp_signed("==", rows, I64(1)), columns, I64(0))
    (done,) = k.count(I64(0), single, 2 * k.columns, [], two_panels)
    (done,) = k.count(done, columns, k.columns, [], panel)
    k.count(done, b.add(columns, I64(k.lanes - 1)), k.lanes, [], tail)
    b.ret_void()
    return k.function


class _Target(NamedTuple):
    """Where the sums of a tile go: the distance of rows, which elements of a vector if not all; whether they add up."""

    start: Any
    row: Any
    mask: Any
    adds: bool


def _tile(
    k: _Kernel, a: Any, steps: tuple[Any, Any], starts: list[Any], target: _Target, inner: Any, height: int
) -> None:
    """The sums of a tile, in registers until they are complete.

    `starts`: the first row of each vector of columns; the next row is a panel's width further.
    """
    b, n = k.b, len(starts)
    lefts = [k.at(a, b.mul(steps[0], I64(r))) if r else a for r in range(height)]
    name = f"llvm.fma.{k.suffix()}"

    def term(i: Any, sums: list[Any]) -> Sequence[Any]:
        row, column = b.mul(i, I64(k.columns)), b.mul(i, steps[1])
        rights = [b.load(k.at(s, row), typ=k.vector, align=k.size) for s in starts]
        found = []
        for r, left in enumerate(lefts):
            factor = _splat(k, b.load(k.at(left, column), typ=k.kind, align=k.size), k.kind)
            found += [k.intrinsic(name, k.vector, factor, rights[v], sums[r * n + v]) for v in range(n)]
        return found

    # The vectors of two panels follow each other in the result, too.
    rows = [k.at(target.start, b.mul(target.row, I64(r))) if r else target.start for r in range(height)]
    places = [k.at(row, v * k.lanes) for row in rows for v in range(n)]
    zero = ir.Constant(k.vector, [k.kind(0.0)] * k.lanes)
    begun = [_begun(k, p, target.mask, zero) for p in places] if target.adds else [zero] * len(places)
    _, *sums = k.count(I64(0), inner, 1, begun, term)
    for place, total in zip(places, sums, strict=True):
        if target.mask is None:
            b.store(total, place, align=k.size)
        else:
            name = f"llvm.masked.store.{k.suffix()}.p0"
            k.intrinsic(name, ir.VoidType(), total, place, I32(k.size), target.mask)


def _begun(k: _Kernel, place: Any, mask: Any, zero: Any) -> Any:
    """What a vector of sums is at first."""
    if mask is None:
        return k.b.load(place, typ=k.vector, align=k.size)
    return k.intrinsic(f"llvm.masked.load.{k.suffix()}.p0", k.vector, place, I32(k.size), mask, zero)


def _splat(k: _Kernel, value: Any, kind: Any) -> Any:
    many = ir.VectorType(kind, k.lanes)
    single = k.b.insert_element(ir.Constant(many, ir.Undefined), value, I32(0))
    order = ir.Constant(ir.VectorType(I32, k.lanes), [0] * k.lanes)
    return k.b.shuffle_vector(single, ir.Constant(many, ir.Undefined), order)
