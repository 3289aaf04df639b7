"""Sums of squares about a value of the row, of programs that exchange columns: as in layer norms.

before:  m = (sum of x) / n;  v = sum of (x - m)**2          # waits for m, and then for v
after:   each program offers the sum of its own x, and of their squares about their own mean, at once;
         v follows from these and m

With p over programs, n_p columns each, of mean m_p and squares s_p about it, and the mean u of all n columns:

         v = sum over p of (s_p + n_p (m_p - u)**2) + n (u - m)**2

where nothing cancels, since no term is negative. Source of the formula: T. F. Chan, G. H. Golub and R. J. LeVeque,
"Updating formulae and a pairwise algorithm for computing sample variances", 1979.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ostinato.backends.triton.exchange import Exchange
from ostinato.backends.triton.layout import Value
from ostinato.graph import Node, topological
from ostinato.ops.op import OPS


class _Centred(NamedTuple):
    """A sum of squares of x about m, which is one number per row; and the sum of x, which m follows from."""

    x: Node
    m: Node
    total: Node


class Centred(Exchange):
    """Text for programs that exchange sums, among them sums of squares about a mean."""

    def centred(self, node: Node) -> Any:
        """What a sum is of, if it is one of squares about a value that follows from the sum of the same columns."""
        if not self.is_exchanged_sum(node) or node.op.name != "sum":
            return None
        square = node.inputs[0]
        if square.op is not OPS["mul"] or square.inputs[0] is not square.inputs[1]:
            return None
        away = square.inputs[0]
        if away.op is not OPS["sub"]:
            return None
        x, m = away.inputs
        per_row = m.type.ndim == 2 and m.type.shape[1] == 1 and self.axes.of(m)[0] is self.axes.of(x)[0]
        if not per_row or self.axes.of(x) != self.axes.of(square) or x.type.dtype != "float32":
            return None
        for total in topological([m]):
            if total.op is node.op and total.params == node.params and total.inputs[0] is x:
                return _Centred(x, m, total)
        return None

    def waits(self, node: Node) -> bool:
        return super().waits(node) and self.centred(node) is None

    def offered_with(self, node: Node) -> Node:
        found = self.centred(node)
        return super().offered_with(node) if found is None else found.x

    def partial(self, node: Node) -> str:
        found, axis = self.centred(node), self.spread
        if found is None or axis is None:
            return super().partial(node)
        x = self.values[found.x]
        mean = self.put(f"{super().partial(found.total)} / {self._own_columns()}")
        away = self.put(f"{self.typed(x, (), 'float32')} - {mean}[:, None]")
        square = Value(x.axes, np.array(self.put(f"{away} * {away}"), object).reshape(()))
        return self.reduced_tile(square, (), node.params[0], "sum", "float32", masked=True)

    def _own_columns(self) -> str:
        """How many columns a program has."""
        axis = self.spread
        assert axis is not None
        block = self.blocks[axis]
        return f"tl.minimum({block}, n{axis.number} - b{axis.number} * {block}).to(tl.float32)"

    def _reduction(self, node: Node) -> Value:
        found, axis = self.centred(node), self.spread
        if found is None or axis is None:
            return super()._reduction(node)
        (squares,), (sums,) = self.received_of(node), self.received_of(found.total)
        block, (others, there) = self.blocks[axis], self.others(node)
        columns = self.put(f"tl.minimum({block}, {axis.size} - {others} * {block}).to(tl.float32)")
        total, m = self.values[found.total].tiles[()], self.values[found.m].tiles[(0,)]
        mean = self.put(f"{total} / {axis.size}.0")
        away = self.put(f"{sums} / {columns} - {mean}[None, :]")
        each = self.put(f"tl.where({there}, {squares} + {columns} * {away} * {away}, 0)")
        off = self.put(f"{mean} - {m}")
        value = self.put(f"tl.sum({each}, axis=0) + {axis.size}.0 * {off} * {off}")
        return Value(self.axes.of(node), np.array(value, object).reshape(()))
