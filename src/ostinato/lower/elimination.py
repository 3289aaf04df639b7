"""Lowering of what is done by elimination: general systems, inverses, determinants.

As in `linalg.py`, whose tools are used here, there are three ways: scalars for tiny matrices, loops for small
ones, LAPACK for large ones. Exchanging rows of scalars takes a choice per element, so what counts as tiny
is smaller here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ostinato.graph import Node
from ostinato.lower.arrays import Array, new_array, scalar, store
from ostinato.lower.blas import flag, lapack
from ostinato.lower.linalg import (
    Elements,
    Stack,
    call_routine,
    check_rows,
    fail_if_flagged,
    known,
    less_products,
    raise_flag,
    read_scalars,
    square_size,
    transposed,
    view,
    write_scalars,
)
from ostinato.lower.loopnest import Const, Expr
from ostinato.lower.scalarize import Block, lowering

# Code is straight up to this many rows * rows * (rows + columns); it gets long, and longer to generate.
_LONG = 256


def _is_tiny(n: Expr, columns: int | None = 0) -> bool:
    rows = known(n)
    return rows is not None and columns is not None and rows * rows * (rows + columns) <= _LONG


# ---- elimination ----------------------------------------------------------------------------------


class _Eliminated:
    """Scalars after elimination with partial pivoting: the upper triangle, what became of the right-hand sides."""

    def __init__(self, block: Block, a: Elements, b: Elements) -> None:
        self.block, self.a, self.b = block, [row[:] for row in a], [row[:] for row in b]
        dtype = a[0][0].dtype if a else "float64"
        self.swaps: list[Expr] = []
        self.zeros: list[Expr] = []
        zero, one = block.nest.const(0.0, dtype), block.nest.const(1.0, dtype)
        for k in range(len(a)):
            for r in range(k + 1, len(a)):
                self._order(k, r)
            pivot = self.a[k][k]
            is_zero = block.nest.let(block.op("eq", pivot, zero, dtype="bool"))
            self.zeros.append(is_zero)
            safe = block.nest.let(block.op("where", is_zero, one, pivot, dtype=dtype))
            for r in range(k + 1, len(a)):
                self._eliminate(k, r, safe)

    def _order(self, k: int, r: int) -> None:
        """Exchange rows k and r if the element of r is larger: after all r, that of k is the largest."""
        block, nest = self.block, self.block.nest
        sizes = [block.op("abs", self.a[i][k]) for i in (r, k)]
        swap = nest.let(block.op("gt", *sizes, dtype="bool"), "swap")
        self.swaps.append(swap)
        for rows, first in ((self.a, k), (self.b, 0)):
            for j in range(first, len(rows[k])):
                x, y = rows[k][j], rows[r][j]
                rows[k][j] = nest.let(block.op("where", swap, y, x, dtype=x.dtype))
                rows[r][j] = nest.let(block.op("where", swap, x, y, dtype=x.dtype))

    def _eliminate(self, k: int, r: int, pivot: Expr) -> None:
        block, nest = self.block, self.block.nest
        factor = nest.let(block.op("true_div", self.a[r][k], pivot))
        for rows, first in ((self.a, k + 1), (self.b, 0)):
            for j in range(first, len(rows[k])):
                rows[r][j] = nest.let(less_products(block, rows[r][j], [(factor, rows[k][j])]))

    def solution(self) -> Elements:
        """The right-hand sides, solved; fails for a singular matrix."""
        block, n = self.block, len(self.a)
        for is_zero in self.zeros:
            block.nest.fail_if(is_zero)
        x: Elements = [[] for _ in range(n)]
        for i in reversed(range(n)):
            for c, value in enumerate(self.b[i]):
                rest = less_products(block, value, [(self.a[i][j], x[j][c]) for j in range(i + 1, n)])
                x[i].append(block.nest.let(block.op("true_div", rest, self.a[i][i])))
        return x

    def sign(self, dtype: str) -> Expr:
        """1 for an even number of exchanges, -1 for an odd one."""
        block = self.block
        sign: Expr = block.nest.const(1.0, dtype)
        for swap in self.swaps:
            sign = block.nest.let(block.op("where", swap, block.op("neg", sign), sign, dtype=dtype))
        return sign


@lowering("solve")
def _solve(block: Block, node: Node) -> Array:
    a, b = (block.array(i) for i in node.inputs)
    n = square_size(block, a)
    check_rows(block, n, b)
    return _solved(block, a, b, block.sizes(node)[:-2], n)


@lowering("matrix_inverse")
def _inverse(block: Block, node: Node) -> Array:
    x = block.array(node.inputs[0])
    n = square_size(block, x)
    one, zero = block.nest.const(1.0, x.dtype), block.nest.const(0.0, x.dtype)

    def identity(index: Sequence[Expr]) -> Expr:
        i, j = index
        if isinstance(i, Const) and isinstance(j, Const):
            return one if i.value == j.value else zero
        return block.op("where", block.op("eq", i, j, dtype="bool"), one, zero, dtype=x.dtype)

    return _solved(block, x, Array(x.dtype, (n, n), identity), x.sizes[:-2], n)


def _solved(block: Block, a: Array, b: Array, lead: Sequence[Expr], n: Expr) -> Array:
    """The x with a @ x = b."""
    nest, columns = block.nest, b.sizes[-1]
    rows, width = known(n), known(columns)
    tiny = _is_tiny(n, width)
    # Columns beside each other, as LAPACK has them.
    held = new_array(nest, b.dtype, [*lead, n, columns] if tiny else [*lead, columns, n])
    given, right, solution = (Stack(block, x, lead) for x in (a, b, held))

    def solve(index: list[Expr]) -> None:
        matrix, wanted, x = given.matrix(index), right.matrix(index), solution.matrix(index)
        if tiny and rows is not None and width is not None:
            scalars = _Eliminated(
                block, read_scalars(block, matrix, rows, rows), read_scalars(block, wanted, rows, width)
            )
            return write_scalars(block, x, scalars.solution())
        lu = _Factored(block, matrix, n)
        fail_if_flagged(block, lu.failed)
        return lu.solve(wanted, x)

    nest.for_each(list(lead), solve)
    return held if tiny else transposed(block, held)


class _Factored:
    """A matrix in memory, factored with partial pivoting: L and U in one, column by column, and the exchanges."""

    def __init__(self, block: Block, x: Array, n: Expr) -> None:
        self.block, self.n = block, n
        nest = block.nest
        self.a = new_array(nest, x.dtype, [n, n])
        self.pivots = new_array(nest, "int32", [n])
        self.failed = flag(block)
        nest.for_each([n, n], lambda index: store(nest, self.a, index, x.at(index[::-1])))
        assert self.a.memory is not None
        args = {**self._args(), "failed": self.failed}

        def body(p: dict[str, Expr]) -> None:
            a = view(block, x.dtype, p["a"], block.int(0), p["n"], p["n"])
            lapack(
                block,
                "lu",
                p["n"],
                lambda: _factor(block, a, p["pivots"], p["failed"]),
                lambda: ("getrf", [p["n"], p["n"], a, p["n"], p["pivots"]]),
                p["failed"],
            )

        call_routine(block, f"lu.{x.dtype}", args, self.a, body)

    def _args(self) -> dict[str, Expr]:
        assert self.a.memory is not None
        assert self.pivots.memory is not None
        return {"a": self.a.memory.pointer, "pivots": self.pivots.memory.pointer, "n": self.n}

    def solve(self, b: Array, x: Array) -> None:
        """Put the solutions for the columns of b into the rows of x."""
        block, nest = self.block, self.block.nest
        nest.for_each(list(x.sizes), lambda index: store(nest, x, index, b.at(index[::-1])))
        assert x.memory is not None
        args = {**self._args(), "x": x.memory.pointer, "x_at": x.memory.offset, "columns": x.sizes[0]}

        def body(p: dict[str, Expr]) -> None:
            a = view(block, x.dtype, p["a"], block.int(0), p["n"], p["n"])
            y = view(block, x.dtype, p["x"], p["x_at"], p["columns"], p["n"])
            lapack(
                block,
                "lu_solve",
                p["n"],
                lambda: _solve_factored(block, a, p["pivots"], y),
                lambda: ("getrs", ["N", p["n"], p["columns"], a, p["n"], p["pivots"], y, p["n"]]),
                None,
            )

        call_routine(block, f"lu_solve.{x.dtype}", args, x, body)


def _factor(block: Block, a: Array, pivots: Expr, failed: Expr) -> None:
    """LU in place; row j of `a` is column j of the matrix."""
    nest, n = block.nest, a.sizes[0]
    with nest.loop(n, "k") as k:
        with nest.loop(block.op("sub", n, k.var), "r") as r:
            best = nest.carry(r, nest.const(-1.0, a.dtype), "best")
            where = nest.carry(r, k.var, "where")
            row = nest.add(k.var, r.var)
            size = nest.let(block.op("abs", a.at([k.var, row])))
            wins = nest.let(block.op("gt", size, best.var, dtype="bool"))
            best.next = block.op("where", wins, size, best.var, dtype=a.dtype)
            where.next = block.op("where", wins, row, where.var, dtype="int64")
        pivot_row = where.result
        first = nest.let(nest.add(k.var, block.int(1)))
        nest.emit_store(pivots, k.var, block.op("cast", nest.add(pivot_row, block.int(1)), dtype="int32"))
        with nest.loop(n, "j") as j:
            _swap(block, a, [j.var, k.var], [j.var, pivot_row])
        pivot = nest.let(a.at([k.var, k.var]))
        is_zero = nest.let(block.op("eq", pivot, nest.const(0.0, a.dtype), dtype="bool"))
        raise_flag(block, failed, is_zero)
        safe = nest.let(block.op("where", is_zero, nest.const(1.0, a.dtype), pivot, dtype=a.dtype))
        left = nest.let(block.op("sub", n, first))
        with nest.loop(left, "r", parallel=True) as r:
            at = [k.var, nest.add(first, r.var)]
            store(nest, a, at, block.op("true_div", a.at(at), safe))
        with nest.loop(left, "c") as c:
            column = nest.let(nest.add(first, c.var))
            _subtract(block, a, column, nest.let(a.at([column, k.var])), a, k.var, first, left)


def _swap(block: Block, x: Array, i: list[Expr], j: list[Expr]) -> None:
    first, second = block.nest.let(x.at(i)), block.nest.let(x.at(j))
    store(block.nest, x, i, second)
    store(block.nest, x, j, first)


def _subtract(block: Block, x: Array, row: Expr, factor: Expr, y: Array, other: Expr, first: Expr, count: Expr) -> None:
    """From `count` elements of a row of x, those of a row of y times a factor."""
    nest = block.nest
    with nest.loop(count, "r", parallel=True) as r:
        at = nest.add(first, r.var)
        product = block.op("mul", factor, y.at([other, at]))
        store(nest, x, [row, at], block.op("sub", x.at([row, at]), product))


def _solve_factored(block: Block, a: Array, pivots: Expr, x: Array) -> None:
    """In each row of x: the exchanges, forward substitution, backward substitution."""
    nest, n = block.nest, a.sizes[0]
    with nest.loop(x.sizes[0], "c") as c:
        with nest.loop(n, "i") as i:
            pivot = block.op("cast", nest.load(pivots, i.var, "int32"), dtype="int64")
            other = nest.let(block.op("sub", pivot, block.int(1)))
            _swap(block, x, [c.var, i.var], [c.var, other])
        with nest.loop(n, "j") as j:
            first = nest.let(nest.add(j.var, block.int(1)))
            factor = nest.let(x.at([c.var, j.var]))
            _subtract(block, x, c.var, factor, a, j.var, first, block.op("sub", n, first))
        with nest.loop(n, "j") as j:
            column = nest.let(block.op("sub", block.op("sub", n, block.int(1)), j.var))
            value = nest.let(block.op("true_div", x.at([c.var, column]), a.at([column, column])))
            store(nest, x, [c.var, column], value)
            _subtract(block, x, c.var, value, a, column, block.int(0), column)


# ---- determinants ---------------------------------------------------------------------------------


@lowering("det")
def _det(block: Block, node: Node) -> Array:
    x = block.array(node.inputs[0])

    def combine(sign: Expr, diagonal: Expr) -> Expr:
        return block.op("mul", sign, diagonal)

    one = block.nest.const(1.0, x.dtype)
    return _from_diagonal(block, x, [(one, combine)], lambda sign, results: [block.op("mul", sign, results[0])])[0]


@lowering("slogdet")
def _slogdet(block: Block, node: Node) -> list[Array]:
    x = block.array(node.inputs[0])
    zero, one = block.nest.const(0.0, x.dtype), block.nest.const(1.0, x.dtype)

    def turn(sign: Expr, d: Expr) -> Expr:
        turned = block.op("where", block.op("lt", d, zero, dtype="bool"), block.op("neg", sign), sign, dtype=x.dtype)
        return block.op("where", block.op("eq", d, zero, dtype="bool"), zero, turned, dtype=x.dtype)

    def grow(total: Expr, d: Expr) -> Expr:
        return block.op("add", total, block.op("log", block.op("abs", d)))

    def finish(sign: Expr, results: list[Expr]) -> list[Expr]:
        return [block.op("mul", sign, results[0]), results[1]]

    return _from_diagonal(block, x, [(one, turn), (zero, grow)], finish)


def _from_diagonal(
    block: Block,
    x: Array,
    folds: Sequence[tuple[Expr, Callable[[Expr, Expr], Expr]]],
    finish: Callable[[Expr, list[Expr]], list[Expr]],
) -> list[Array]:
    """Results that are folds over the diagonal of U, and know the sign of the exchanges."""
    nest, lead, n = block.nest, x.sizes[:-2], square_size(block, x)
    given, size = Stack(block, x, lead), known(n)

    def of(index: list[Expr]) -> list[Expr]:
        matrix = given.matrix(index)
        if size is not None and _is_tiny(n):
            scalars = _Eliminated(block, read_scalars(block, matrix, size, size), [[] for _ in range(size)])
            results = [start for start, _ in folds]
            for i in range(size):
                results = [nest.let(f(r, scalars.a[i][i])) for r, (_, f) in zip(results, folds, strict=True)]
            return finish(scalars.sign(x.dtype), results)
        return finish(*_folded(block, _Factored(block, matrix, n), folds))

    if not lead:
        return [scalar(nest.let(v)) for v in of([])]
    held = [new_array(nest, x.dtype, lead) for _ in folds]

    def put(index: list[Expr]) -> None:
        for target, value in zip(held, of(index), strict=True):
            store(nest, target, index, value)

    nest.for_each(list(lead), put)
    return held


def _folded(
    block: Block, lu: _Factored, folds: Sequence[tuple[Expr, Callable[[Expr, Expr], Expr]]]
) -> tuple[Expr, list[Expr]]:
    """The sign of the exchanges, and the folds over the diagonal."""
    nest = block.nest
    with nest.loop(lu.n, "i") as i:
        carried = [nest.carry(i, start, "fold") for start, _ in folds]
        sign = nest.carry(i, nest.const(1.0, lu.a.dtype), "sign")
        d = nest.let(lu.a.at([i.var, i.var]))
        for c, (_, f) in zip(carried, folds, strict=True):
            c.next = nest.let(f(c.var, d))
        place = block.op("cast", lu.pivots.at([i.var]), dtype="int64")
        stays = block.op("eq", place, nest.add(i.var, block.int(1)), dtype="bool")
        sign.next = block.op("where", stays, sign.var, block.op("neg", sign.var), dtype=lu.a.dtype)
    return sign.result, [c.result for c in carried]
