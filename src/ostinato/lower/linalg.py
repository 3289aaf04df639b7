"""Lowering of linear algebra: straight-line code for tiny matrices, loops for small ones, LAPACK for large ones.

What is tiny is known when the graph is built: such matrices are unrolled, with all their elements as scalars.
Other sizes are known at run time only, and so is who works: loops of our own up to a measured size, above
it the library (`blas.py`). Both work in place on the same memory, in LAPACK's order (by columns) for
elimination; transposed matrices are views with exchanged strides, not copies. Failures are only noticed
here: native code gives up, and the reference says what was wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ostinato.graph import Node
from ostinato.lower.arrays import (
    Array,
    Memory,
    copied,
    in_memory,
    is_one,
    new_array,
    place,
    scalar,
    store,
)
from ostinato.lower.blas import flag, lapack, trsm
from ostinato.lower.loopnest import Const, Expr
from ostinato.lower.rules import stretch_factor
from ostinato.lower.scalarize import Block, lowering

# Matrices with more rows are not unrolled; nor are those whose code would be long, which n * n * columns measures.
_TINY, _LONG = 8, 1024

Elements = list[list[Expr]]


# ---- stacks ---------------------------------------------------------------------------------------


class _Stack:
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


def _transposed(block: Block, x: Array) -> Array:
    """The matrices of an array in memory transposed, as a view."""
    assert x.memory is not None
    sizes = [*x.sizes[:-2], x.sizes[-1], x.sizes[-2]]
    *lead, rows, columns = x.memory.strides
    region = Memory(x.memory.pointer, x.memory.offset, (*lead, columns, rows))
    return in_memory(block.nest, x.dtype, sizes, region)


def _square(block: Block, x: Array) -> Expr:
    """The number of rows, which has to be that of columns; the one that is known when the graph is built, if any."""
    rows, columns = x.sizes[-2:]
    if rows is not columns:
        block.fail_unless(block.op("eq", rows, columns, dtype="bool"))
    return rows if isinstance(rows, Const) else columns


def _known(size: Expr) -> int | None:
    return int(size.value) if isinstance(size, Const) else None


def _is_tiny(n: Expr, columns: int | None = 0) -> bool:
    rows = _known(n)
    return rows is not None and columns is not None and rows <= _TINY and rows * rows * (rows + columns) <= _LONG


# ---- scalars --------------------------------------------------------------------------------------


def _read(block: Block, x: Array, rows: int, columns: int, keep: Callable[[int, int], bool] | None = None) -> Elements:
    """The elements of a small matrix as scalars, each read once; zeros where they are not wanted."""
    zero = block.nest.const(0.0, x.dtype)
    return [
        [
            block.nest.let(x.at([block.int(i), block.int(j)]), "x") if keep is None or keep(i, j) else zero
            for j in range(columns)
        ]
        for i in range(rows)
    ]


def _write(block: Block, target: Array, values: Elements) -> None:
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            store(block.nest, target, [block.int(i), block.int(j)], value)


def _less(block: Block, x: Expr, pairs: Sequence[tuple[Expr, Expr]]) -> Expr:
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
    n, lead = _square(block, x), x.sizes[:-2]
    held = new_array(nest, x.dtype, [*lead, n, n])
    given, upper = _Stack(block, x, lead), _Stack(block, held, lead)
    size = _known(n)

    def factor(index: list[Expr]) -> None:
        if size is not None and _is_tiny(n):
            _write(block, upper.matrix(index), _cholesky_of_scalars(block, given.matrix(index), size))
        else:
            _cholesky_in_place(block, given.matrix(index), upper.matrix(index), n)

    nest.for_each(list(lead), factor)
    return held if _is_tiny(n) else _transposed(block, held)


def _cholesky_of_scalars(block: Block, x: Array, n: int) -> Elements:
    nest = block.nest
    lower = _read(block, x, n, n, lambda i, j: i >= j)
    for j in range(n):
        square = nest.let(_less(block, lower[j][j], [(v, v) for v in lower[j][:j]]))
        block.fail_unless(block.op("gt", square, nest.const(0.0, x.dtype), dtype="bool"))
        lower[j][j] = nest.let(block.op("sqrt", square))
        for i in range(j + 1, n):
            rest = _less(block, lower[i][j], list(zip(lower[i][:j], lower[j][:j], strict=True)))
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
        u = _view(block, x.dtype, p["x"], p["start"], p["n"], p["n"])
        lapack(
            block,
            "cholesky",
            p["n"],
            lambda: _cholesky_by_rows(block, u, p["n"], p["failed"]),
            lambda: ("potrf", ["L", p["n"], u, p["n"]]),
            p["failed"],
        )

    nest.call(f"cholesky.{x.dtype}", args, upper.memory.pointer, body)
    _fail_if_flagged(block, args["failed"])


def _cholesky_by_rows(block: Block, u: Array, n: Expr, failed: Expr) -> None:
    nest = block.nest
    with nest.loop(n, "k") as k:
        square = nest.let(u.at([k.var, k.var]))
        good = block.op("gt", square, nest.const(0.0, u.dtype), dtype="bool")
        _raise_flag(block, failed, block.op("logical_not", good, dtype="bool"))
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
    n, columns = _square(block, a), b.sizes[-1]
    _same_rows(block, n, b)
    rows = _known(n)
    if rows is None or not _is_tiny(n):
        a = _with_unit_stride(block, node.inputs[0])
    lead = block.sizes(node)[:-2]
    held = new_array(nest, b.dtype, [*lead, n, columns])
    matrices, right, solution = (_Stack(block, x, lead) for x in (a, b, held))

    def solve(index: list[Expr]) -> None:
        ours = matrices.matrix(index), right.matrix(index), solution.matrix(index)
        if rows is not None and _is_tiny(n):
            _substitute_scalars(block, *ours, rows, lower, unit)
        else:
            _substitute(block, *ours, lower, unit)

    nest.for_each(list(lead), solve)
    return held


def _same_rows(block: Block, n: Expr, b: Array) -> None:
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
    t = _read(block, a, n, n, lambda i, j: (i > j if lower else i < j) or (i == j and not unit))
    if not unit:
        for i in range(n):
            _fail_at_zero(block, t[i][i])

    def column(c: Expr) -> None:
        done: dict[int, Expr] = {}
        for i, before in _order(n, lower):
            rest = _less(block, b.at([block.int(i), c]), [(t[i][j], done[j]) for j in before])
            done[i] = nest.let(rest if unit else block.op("true_div", rest, t[i][i]))
        for i, value in done.items():
            store(nest, x, [block.int(i), c], value)

    known = _known(b.sizes[1])
    if known is not None and n * n * known <= _LONG:
        for c in range(known):
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
        y = _view(block, x.dtype, p["x"], p["x_at"], p["n"], p["columns"])
        if not unit:
            with nest.loop(p["n"], "i") as i:
                zero = block.op("eq", t.at([i.var, i.var]), nest.const(0.0, a.dtype), dtype="bool")
                _raise_flag(block, p["failed"], zero)
        lapack(
            block,
            "solve_triangular",
            p["n"],
            lambda: _substitute_rows(block, t, y, lower, unit),
            lambda: trsm(block, t, y, lower, unit),
            None,
        )

    kind = f"{'lower' if lower else 'upper'}{'.unit' if unit else ''}{'' if by_rows else '.columns'}"
    nest.call(f"solve.{kind}.{x.dtype}", args, x.memory.pointer, body)
    _fail_if_flagged(block, args["failed"])


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
                rows[r][j] = nest.let(_less(block, rows[r][j], [(factor, rows[k][j])]))

    def solution(self) -> Elements:
        """The right-hand sides, solved; fails for a singular matrix."""
        block, n = self.block, len(self.a)
        for is_zero in self.zeros:
            block.nest.fail_if(is_zero)
        x: Elements = [[] for _ in range(n)]
        for i in reversed(range(n)):
            for c, value in enumerate(self.b[i]):
                rest = _less(block, value, [(self.a[i][j], x[j][c]) for j in range(i + 1, n)])
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
    n = _square(block, a)
    _same_rows(block, n, b)
    return _solved(block, a, b, block.sizes(node)[:-2], n)


@lowering("matrix_inverse")
def _inverse(block: Block, node: Node) -> Array:
    x = block.array(node.inputs[0])
    n = _square(block, x)
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
    rows, width = _known(n), _known(columns)
    tiny = _is_tiny(n, width)
    # Columns beside each other, as LAPACK has them.
    held = new_array(nest, b.dtype, [*lead, n, columns] if tiny else [*lead, columns, n])
    given, right, solution = (_Stack(block, x, lead) for x in (a, b, held))

    def solve(index: list[Expr]) -> None:
        matrix, wanted, x = given.matrix(index), right.matrix(index), solution.matrix(index)
        if tiny and rows is not None and width is not None:
            scalars = _Eliminated(block, _read(block, matrix, rows, rows), _read(block, wanted, rows, width))
            return _write(block, x, scalars.solution())
        lu = _Factored(block, matrix, n)
        _fail_if_flagged(block, lu.failed)
        return lu.solve(wanted, x)

    nest.for_each(list(lead), solve)
    return held if tiny else _transposed(block, held)


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
            a = _view(block, x.dtype, p["a"], block.int(0), p["n"], p["n"])
            lapack(
                block,
                "lu",
                p["n"],
                lambda: _factor(block, a, p["pivots"], p["failed"]),
                lambda: ("getrf", [p["n"], p["n"], a, p["n"], p["pivots"]]),
                p["failed"],
            )

        nest.call(f"lu.{x.dtype}", args, self.a.memory.pointer, body)

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
            a = _view(block, x.dtype, p["a"], block.int(0), p["n"], p["n"])
            y = _view(block, x.dtype, p["x"], p["x_at"], p["columns"], p["n"])
            lapack(
                block,
                "lu_solve",
                p["n"],
                lambda: _solve_factored(block, a, p["pivots"], y),
                lambda: ("getrs", ["N", p["n"], p["columns"], a, p["n"], p["pivots"], y, p["n"]]),
                None,
            )

        nest.call(f"lu_solve.{x.dtype}", args, x.memory.pointer, body)


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
        _raise_flag(block, failed, is_zero)
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


def _subtract(
    block: Block, x: Array, row: Expr, factor: Expr, y: Array, other: Expr, first: Expr, count: Expr
) -> None:
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
    nest, lead, n = block.nest, x.sizes[:-2], _square(block, x)
    given, size = _Stack(block, x, lead), _known(n)

    def of(index: list[Expr]) -> list[Expr]:
        matrix = given.matrix(index)
        if size is not None and _is_tiny(n):
            scalars = _Eliminated(block, _read(block, matrix, size, size), [[] for _ in range(size)])
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


# ---- small things ---------------------------------------------------------------------------------


def _view(block: Block, dtype: str, pointer: Expr, offset: Expr, rows: Expr, columns: Expr) -> Array:
    """A matrix in C order within a routine."""
    return in_memory(block.nest, dtype, (rows, columns), Memory(pointer, offset, (columns, block.int(1))))


def _raise_flag(block: Block, failed: Expr, condition: Expr) -> None:
    nest = block.nest
    now = nest.load(failed, block.int(0), "int64")
    nest.emit_store(failed, block.int(0), block.op("where", condition, block.int(1), now, dtype="int64"))


def _fail_if_flagged(block: Block, failed: Expr) -> None:
    now = block.nest.let(block.nest.load(failed, block.int(0), "int64"))
    block.nest.fail_if(block.op("neq", now, block.int(0), dtype="bool"))

