"""Calls of BLAS and LAPACK in loop nests: which routine, with which flags, for arrays in C order.

A matrix in C order is, for Fortran, its own transpose; that is told by flags, so nothing is copied. Names
are those of the symbols in `backends/llvm/externals.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ostinato.lower.arrays import Array, Memory, in_memory, is_one, start_of
from ostinato.lower.loopnest import Const, Expr
from ostinato.lower.scalarize import Block

_LETTER = {"float32": "s", "float64": "d"}

# From how many rows on the library is faster than loops of our own, as measured.
LAPACK = {"cholesky": 32, "solve_triangular": 64, "lu": 32, "lu_solve": 32}

# A routine by its name without the letter of the dtype, and its arguments: flags as letters, arrays, numbers.
Routine = tuple[str, list[Any]]


def prepare_for_library(block: Block, n: Expr) -> None:
    """Note that the library may be called, unless so few rows never are given to it.

    OpenBLAS starts threads for systems of any size, and on a busy machine they may wait milliseconds for
    each other: so solving works in one thread, within loops and outside of them.
    """
    if not (isinstance(n, Const) and n.value <= min(LAPACK.values())):
        block.nest.one_blas_thread = True


def flag(block: Block) -> Expr:
    """A place for whether something failed, 0 at first: a routine cannot fail by itself."""
    place = block.nest.alloc(block.int(1), "int64")
    block.nest.emit_store(place, block.int(0), block.int(0))
    return place


def lapack(
    block: Block, what: str, n: Expr, ours: Callable[[], None], theirs: Callable[[], Routine], failed: Expr | None
) -> None:
    """Loops of our own or the library, by the number of rows; `failed` is raised if LAPACK's info is not 0."""
    nest = block.nest
    limit = block.int(LAPACK[what])
    with nest.when(block.op("le", n, limit, dtype="bool")):
        ours()
    with nest.when(block.op("gt", n, limit, dtype="bool")):
        name, args = theirs()
        info = _call(block, name, args)
        if failed is not None and info is not None:
            bad = block.op("neq", info, block.int(0), dtype="bool")
            now = nest.load(failed, block.int(0), "int64")
            nest.emit_store(failed, block.int(0), block.op("where", bad, block.int(1), now, dtype="int64"))


def _call(block: Block, name: str, args: list[Any]) -> Expr | None:
    """A routine of the dtype of the arrays among its args, which it may all change."""
    nest = block.nest
    arrays = [a for a in args if isinstance(a, Array)]
    given: list[Expr] = []
    for a in args:
        if isinstance(a, str):
            given.append(nest.const(ord(a), "uint8"))
        elif isinstance(a, Array):
            given.append(start_of(block, a))
        elif a.dtype == "int64":
            given.append(block.op("cast", a, dtype="int32"))
        else:
            given.append(a)
    module = "blas" if name in ("gemm", "trsm") else "lapack"
    pointers = [a.memory.pointer for a in arrays if a.memory is not None]
    others = [a for a in args if not isinstance(a, (str, Array)) and a.dtype == "ptr"]
    symbol = f"{module}.{_LETTER[arrays[0].dtype]}{name}"
    return nest.extern(symbol, given, [*pointers, *others], has_info=module == "lapack")


def trsm(block: Block, a: Array, x: Array, lower: bool, unit: bool) -> Routine:
    """x = inverse(a) @ x, in place, for a triangular a with contiguous rows or columns and x in C order.

    For Fortran x is transposed, so the inverse is applied from the right.
    """
    assert a.memory is not None
    by_rows = is_one(a.memory.strides[1])
    triangle = "U" if lower == by_rows else "L"
    step = _leading(block, a.memory.strides[0 if by_rows else 1], a.sizes[0])
    one = block.nest.const(1.0, a.dtype)
    columns, rows = x.sizes[1], x.sizes[0]
    flags = ["R", triangle, "N" if by_rows else "T", "U" if unit else "N"]
    return "trsm", [*flags, columns, rows, one, a, step, x, _leading(block, columns, columns)]


def _leading(block: Block, step: Expr, size: Expr) -> Expr:
    """The distance of rows (or columns) as Fortran wants it: not less than their length, nor than 1."""
    return block.op("maximum", block.op("maximum", step, size), block.int(1))


def gemm(block: Block, a: Array, b: Array, c: Array) -> bool:
    """c = a @ b by the library, for matrices in memory; False, and nothing emitted, where that cannot be done.

    Each must have contiguous rows or contiguous columns, known when the graph is lowered; no element may
    stand at several indices.
    """
    if not has_gemm(a, b, c):
        return False
    if not is_one(_strides(c)[1]):  # columns: the transposed product, in C order
        return gemm(block, _flipped(block, b), _flipped(block, a), _flipped(block, c))
    (rows, columns), inner = c.sizes, a.sizes[1]
    kind_b, step_b = _as_fortran(block, b)
    kind_a, step_a = _as_fortran(block, a)
    zero, one = block.nest.const(0.0, c.dtype), block.nest.const(1.0, c.dtype)
    step_c = _leading(block, _strides(c)[0], columns)
    args = [kind_b, kind_a, columns, rows, inner, one, b, step_b, a, step_a, zero, c, step_c]
    block.nest.one_blas_thread |= block.nest.in_loop
    _call(block, "gemm", args)
    return True


def has_gemm(*matrices: Array) -> bool:
    """Whether the library can multiply such matrices."""
    return all(x.dtype in _LETTER and x.memory is not None and any(map(is_one, _strides(x))) for x in matrices)


def is_apart(block: Block, x: Array) -> Expr:
    """Whether rows (or columns) follow each other in memory: not backwards, and none in the place of another."""
    (rows, columns), (m, n) = _strides(x), x.sizes
    if is_one(columns):
        return block.op("or", _at_most_one(block, m), block.op("ge", rows, n, dtype="bool"), dtype="bool")
    return block.op("or", _at_most_one(block, n), block.op("ge", columns, m, dtype="bool"), dtype="bool")


def _at_most_one(block: Block, size: Expr) -> Expr:
    return block.op("le", size, block.int(1), dtype="bool")


def _strides(x: Array) -> tuple[Expr, ...]:
    assert x.memory is not None
    return x.memory.strides


def _flipped(block: Block, x: Array) -> Array:
    assert x.memory is not None
    region = Memory(x.memory.pointer, x.memory.offset, x.memory.strides[::-1])
    return in_memory(block.nest, x.dtype, x.sizes[::-1], region)


def _as_fortran(block: Block, x: Array) -> tuple[str, Expr]:
    """The flag for a matrix whose transpose is meant, and its leading dimension."""
    rows, columns = _strides(x)
    if is_one(columns):
        return "N", _leading(block, rows, x.sizes[1])
    return "T", _leading(block, columns, x.sizes[0])
