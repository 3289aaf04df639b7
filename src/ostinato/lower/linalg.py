"""Lowering of linear algebra: straight-line code for tiny matrices, loops for small ones, LAPACK for large ones.

What is tiny is known when the graph is built: such matrices are unrolled, with all their elements as scalars.
Other sizes are known at run time only, and so is who works: loops of our own up to a measured size, above
it the library (`blas.py`). Both work in place on the same memory; transposed matrices are views with
exchanged strides, not copies. Failures are only noticed here: native code gives up, and the reference says
what was wrong. General systems and determinants are in `elimination.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ostinato.graph import Node
from ostinato.lower.arrays import Array, Memory, copied, in_memory, is_one, new_array, place, store
from ostinato.lower.blas import flag, lapack, prepare_for_library, trsm
from ostinato.lower.loopnest import Const, Expr
from ostinato.lower.rules import stretch_factor
from ostinato.lower.scalarize import Block, lowering

# Matrices with more rows are not unrolled; nor are right-hand sides of so many columns that n * n * columns is more.
_TINY, _LONG = 8, 1024

Elements = list[list[Expr]]


# ---- stacks ---------------------------------------------------------------------------------------


class Stack:
    """Matrices under leading dimensions, which broadcast to those of a result."""

    def __init__(self, block: Block, x: Array, lead: Sequence[Expr]) -> None:
        self.block, self.x = block, x
        own = x.sizes[:-2]
        self.skip = len(lead) - len(own)
        self.factors = [self._factor(s, t) for s, t in zip(own, lead[self.skip :], strict=True)]

    def _factor(self, size: Expr, target: Expr) -> Expr:
        if size is target:
            return self.block.int(1)
        return self.block.int(0) if is_one(size) else stretch_factor(self.block, size, target)

    def matrix(self, index: Sequence[Expr]) -> Array:
        """The matrix that belongs to an index of the result's leading dimensions."""
        nest, x = self.block.nest, self.x
        own = [nest.mul(i, f) for i, f in zip(index[self.skip :], self.factors, strict=True)]
        if x.memory is None:
            return Array(x.dtype, x.sizes[-2:], lambda ij: x.at([*own, *ij]))
        zero = self.block.int(0)
        offset = nest.let(place(nest, x.memory, [*own, zero, zero]), "matrix")
        return in_memory(nest, x.dtype, x.sizes[-2:], Memory(x.memory.pointer, offset, x.memory.strides[-2:]))


def transposed(block: Block, x: Array) -> Array:
    """The matrices of an array in memory transposed, as a view."""
    assert x.memory is not None
    sizes = [*x.sizes[:-2], x.sizes[-1], x.sizes[-2]]
    *lead, rows, columns = x.memory.strides
    region = Memory(x.memory.pointer, x.memory.offset, (*lead, columns, rows))
    return in_memory(block.nest, x.dtype, sizes, region)


def square_size(block: Block, x: Array) -> Expr:
    """The number of rows, which has to be that of columns; the one that is known when the graph is built, if any."""
    rows, columns = x.sizes[-2:]
    if rows is not columns:
        block.fail_unless(block.op("eq", rows, columns, dtype="bool"))
    return rows if isinstance(rows, Const) else columns


def known(size: Expr) -> int | None:
    return int(size.value) if isinstance(size, Const) else None


def _is_tiny(n: Expr) -> bool:
    rows = known(n)
    return rows is not None and rows <= _TINY


# ---- scalars --------------------------------------------------------------------------------------


def read_scalars(
    block: Block, x: Array, rows: int, columns: int, keep: Callable[[int, int], bool] | None = None
) -> Elements:
    """The elements of a small matrix as scalars, each read once; zeros where they are not wanted."""
    zero = block.nest.const(0.0, x.dtype)
    return [
        [
            block.nest.let(x.at([block.int(i), block.int(j)]), "x") if keep is None or keep(i, j) else zero
            for j in range(columns)
        ]
        for i in range(rows)
    ]


def write_scalars(block: Block, target: Array, values: Elements) -> None:
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            store(block.nest, target, [block.int(i), block.int(j)], value)


def less_products(block: Block, x: Expr, pairs: Sequence[tuple[Expr, Expr]]) -> Expr:
    """x less the sum of products."""
    for a, b in pairs:
        x = block.op("sub", x, block.op("mul", a, b))
    return x


def _fail_at_zero(block: Block, x: Expr) -> None:
    block.nest.fail_if(block.op("eq", x, block.nest.const(0.0, x.dtype), dtype="bool"))


# ---- Cholesky -------------------------------------------------------------------------------------


@lowering("cholesky")
def _cholesky(block: Block, node: Node) -> Array:
    x, nest = block.array(node.inputs[0]), block.nest
    n, lead = square_size(block, x), x.sizes[:-2]
    held = new_array(nest, x.dtype, [*lead, n, n])
    given, upper = Stack(block, x, lead), Stack(block, held, lead)
    size = known(n)

    def factor(index: list[Expr]) -> None:
        if size is not None and _is_tiny(n):
            write_scalars(block, upper.matrix(index), _cholesky_of_scalars(block, given.matrix(index), size))
        else:
            _cholesky_in_place(block, given.matrix(index), upper.matrix(index), n)

    nest.for_each(list(lead), factor)
    return held if _is_tiny(n) else transposed(block, held)


def _cholesky_of_scalars(block: Block, x: Array, n: int) -> Elements:
    nest = block.nest
    lower = read_scalars(block, x, n, n, lambda i, j: i >= j)
    for j in range(n):
        square = nest.let(less_products(block, lower[j][j], [(v, v) for v in lower[j][:j]]))
        block.fail_unless(block.op("gt", square, nest.const(0.0, x.dtype), dtype="bool"))
        lower[j][j] = nest.let(block.op("sqrt", square))
        for i in range(j + 1, n):
            rest = less_products(block, lower[i][j], list(zip(lower[i][:j], lower[j][:j], strict=True)))
            lower[i][j] = nest.let(block.op("true_div", rest, lower[j][j]))
    return lower


def _cholesky_in_place(block: Block, x: Array, upper: Array, n: Expr) -> None:
    """The upper factor row by row, which are the columns of the lower one."""
    nest = block.nest
    zero = nest.const(0.0, x.dtype)

    def copy(index: list[Expr]) -> None:
        i, j = index
        value = block.op("where", block.op("ge", j, i, dtype="bool"), x.at([j, i]), zero, dtype=x.dtype)
        store(nest, upper, index, value)

    nest.for_each([n, n], copy)
    assert upper.memory is not None
    args = {"x": upper.memory.pointer, "start": upper.memory.offset, "n": n, "failed": flag(block)}

    def body(p: dict[str, Expr]) -> None:
        u = view(block, x.dtype, p["x"], p["start"], p["n"], p["n"])
        lapack(
            block,
            "cholesky",
            p["n"],
            lambda: _cholesky_by_rows(block, u, p["n"], p["failed"]),
            lambda: ("potrf", ["L", p["n"], u, p["n"]]),
            p["failed"],
        )

    call_routine(block, f"cholesky.{x.dtype}", args, upper, body)
    fail_if_flagged(block, args["failed"])


def _cholesky_by_rows(block: Block, u: Array, n: Expr, failed: Expr) -> None:
    nest = block.nest
    with nest.loop(n, "k") as k:
        square = nest.let(u.at([k.var, k.var]))
        good = block.op("gt", square, nest.const(0.0, u.dtype), dtype="bool")
        raise_flag(block, failed, block.op("logical_not", good, dtype="bool"))
        root = nest.let(block.op("sqrt", square))
        store(nest, u, [k.var, k.var], root)
        first = nest.let(nest.add(k.var, block.int(1)))
        with nest.loop(block.op("sub", n, first), "j", parallel=True) as j:
            at = [k.var, nest.add(first, j.var)]
            store(nest, u, at, block.op("true_div", u.at(at), root))
        with nest.loop(block.op("sub", n, first), "i") as i:
            row = nest.let(nest.add(first, i.var))
            factor = nest.let(u.at([k.var, row]))
            with nest.loop(block.op("sub", n, row), "j", parallel=True) as j:
                column = nest.add(row, j.var)
                product = block.op("mul", factor, u.at([k.var, column]))
                store(nest, u, [row, column], block.op("sub", u.at([row, column]), product))


# ---- triangular systems ---------------------------------------------------------------------------


@lowering("solve_triangular")
def _solve_triangular(block: Block, node: Node) -> Array:
    lower, unit = node.params
    a, b, nest = block.array(node.inputs[0]), block.array(node.inputs[1]), block.nest
    n, columns = square_size(block, a), b.sizes[-1]
    check_rows(block, n, b)
    rows = known(n)
    if rows is None or not _is_tiny(n):
        a = _with_unit_stride(block, node.inputs[0])
    lead = block.sizes(node)[:-2]
    held = new_array(nest, b.dtype, [*lead, n, columns])
    matrices, right, solution = (Stack(block, x, lead) for x in (a, b, held))

    def solve(index: list[Expr]) -> None:
        ours = matrices.matrix(index), right.matrix(index), solution.matrix(index)
        if rows is not None and _is_tiny(n):
            _substitute_scalars(block, *ours, rows, lower, unit)
        else:
            _substitute(block, *ours, lower, unit)

    nest.for_each(list(lead), solve)
    return held


def check_rows(block: Block, n: Expr, b: Array) -> None:
    if n is not b.sizes[-2]:
        block.fail_unless(block.op("eq", n, b.sizes[-2], dtype="bool"))


def _with_unit_stride(block: Block, node: Node) -> Array:
    """A node's value in memory such that rows or columns are contiguous."""
    x = block.in_memory(node)
    assert x.memory is not None
    return x if any(map(is_one, x.memory.strides[-2:])) else copied(block.nest, x)


def _order(n: int, lower: bool) -> list[tuple[int, range]]:
    """The rows in the order in which they are solved, and which are solved before."""
    return [(i, range(i)) for i in range(n)] if lower else [(i, range(i + 1, n)) for i in reversed(range(n))]


def _substitute_scalars(block: Block, a: Array, b: Array, x: Array, n: int, lower: bool, unit: bool) -> None:
    nest = block.nest
    t = read_scalars(block, a, n, n, lambda i, j: (i > j if lower else i < j) or (i == j and not unit))
    if not unit:
        for i in range(n):
            _fail_at_zero(block, t[i][i])

    def column(c: Expr) -> None:
        done: dict[int, Expr] = {}
        for i, before in _order(n, lower):
            rest = less_products(block, b.at([block.int(i), c]), [(t[i][j], done[j]) for j in before])
            done[i] = nest.let(rest if unit else block.op("true_div", rest, t[i][i]))
        for i, value in done.items():
            store(nest, x, [block.int(i), c], value)

    columns = known(b.sizes[1])
    if columns is not None and n * n * columns <= _LONG:
        for c in range(columns):
            column(block.int(c))
    else:
        nest.for_each([b.sizes[1]], lambda index: column(index[0]))


def _substitute(block: Block, a: Array, b: Array, x: Array, lower: bool, unit: bool) -> None:
    """By a routine in place: x is b at first."""
    nest = block.nest
    nest.for_each(list(b.sizes), lambda index: store(nest, x, index, b.at(index)))
    assert a.memory is not None
    assert x.memory is not None
    by_rows = is_one(a.memory.strides[1])
    args = {"a": a.memory.pointer, "a_at": a.memory.offset, "step": a.memory.strides[0 if by_rows else 1]}
    args |= {"x": x.memory.pointer, "x_at": x.memory.offset, "n": a.sizes[0], "columns": x.sizes[1]}
    args |= {"failed": flag(block)}

    def body(p: dict[str, Expr]) -> None:
        strides = (p["step"], block.int(1)) if by_rows else (block.int(1), p["step"])
        t = in_memory(nest, a.dtype, (p["n"], p["n"]), Memory(p["a"], p["a_at"], strides))
        y = view(block, x.dtype, p["x"], p["x_at"], p["n"], p["columns"])
        if not unit:
            with nest.loop(p["n"], "i") as i:
                zero = block.op("eq", t.at([i.var, i.var]), nest.const(0.0, a.dtype), dtype="bool")
                raise_flag(block, p["failed"], zero)
        lapack(
            block,
            "solve_triangular",
            p["n"],
            lambda: _substitute_rows(block, t, y, lower, unit),
            lambda: trsm(block, t, y, lower, unit),
            None,
        )

    kind = f"{'lower' if lower else 'upper'}{'.unit' if unit else ''}{'' if by_rows else '.columns'}"
    call_routine(block, f"solve.{kind}.{x.dtype}", args, x, body)
    fail_if_flagged(block, args["failed"])


def _substitute_rows(block: Block, a: Array, x: Array, lower: bool, unit: bool) -> None:
    nest, n = block.nest, a.sizes[0]
    with nest.loop(n, "i") as i:
        last = block.op("sub", n, block.int(1))
        row = i.var if lower else nest.let(block.op("sub", last, i.var))
        diagonal = None if unit else nest.let(a.at([row, row]))
        with nest.loop(x.sizes[1], "c", parallel=True) as c:
            with nest.loop(i.var, "j") as j:
                before = j.var if lower else block.op("sub", last, j.var)
                total = nest.carry(j, nest.const(0.0, x.dtype), "sum")
                product = block.op("mul", a.at([row, before]), x.at([before, c.var]))
                total.next = block.op("add", total.var, product)
            rest = block.op("sub", x.at([row, c.var]), total.result)
            store(nest, x, [row, c.var], rest if diagonal is None else block.op("true_div", rest, diagonal))


# ---- small things ---------------------------------------------------------------------------------


def call_routine(
    block: Block, name: str, args: dict[str, Expr], writes: Array, body: Callable[[dict[str, Expr]], None]
) -> None:
    """A call of a routine that takes n rows, and calls the library if these are many."""
    assert writes.memory is not None
    prepare_for_library(block, args["n"])
    block.nest.call(name, args, writes.memory.pointer, body)


def view(block: Block, dtype: str, pointer: Expr, offset: Expr, rows: Expr, columns: Expr) -> Array:
    """A matrix in C order within a routine."""
    return in_memory(block.nest, dtype, (rows, columns), Memory(pointer, offset, (columns, block.int(1))))


def raise_flag(block: Block, failed: Expr, condition: Expr) -> None:
    nest = block.nest
    now = nest.load(failed, block.int(0), "int64")
    nest.emit_store(failed, block.int(0), block.op("where", condition, block.int(1), now, dtype="int64"))


def fail_if_flagged(block: Block, failed: Expr) -> None:
    now = block.nest.let(block.nest.load(failed, block.int(0), "int64"))
    block.nest.fail_if(block.op("neq", now, block.int(0), dtype="bool"))
