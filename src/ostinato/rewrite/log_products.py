"""log_products: products of exponentials whose logarithms are wanted take an exponential per element, not per pair.

before:  y = log_dot_exp a b                      # log(sum over k of exp(a[m, k] + b[k, n]))
after:   p, e = exp(a - max of each row of a), exp(b - max of each column of b)
         y = log(p @ e) + both maxima             # computed as before where p @ e is next to nothing

If a step of a loop computes it with a matrix b that no step changes, e is computed once. Where p @ e is next to nothing
it may have lost terms, each of which is a product of two small numbers. Then, and where anything is infinite or no
number, a loop of one step computes it the long way; it makes no step otherwise. The same for `softmax_dot`, of
derivatives. (Scaled factors are how the forward algorithm is computed in practice: L. R. Rabiner, "A tutorial on hidden
Markov models and selected applications in speech recognition", 1989, section V.A.)
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ostinato.graph import Graph, Node, make, rewrite_nodes
from ostinato.ops import elementwise as e
from ostinato.ops.contraction import MATMUL
from ostinato.ops.leaf import constant, new_input
from ostinato.ops.logspace import (
    LOG_DOT_EXP,
    SOFTMAX_DOT,
    WRITTEN_OUT,
    finite_peak,
    log_dot_exp_written_out,
    softmax_dot_written_out,
)
from ostinato.ops.loop import COUNT, Body, LoopInputs, build_loop
from ostinato.ops.movement import expand_dims, transpose
from ostinato.ops.op import params_of
from ostinato.ops.reduce import all as all_
from ostinato.rewrite.engine import rewrite_pass
from ostinato.rewrite.notes import tell

# Terms below the smallest number of full precision are lost; of a sum of this size, they are less than its last digit.
_SURE = {"float32": 1e-28, "float64": 1e-280}


@rewrite_pass
def log_products(graph: Graph) -> Graph:
    """Compute products in log space by products."""
    return Graph(graph.params, tuple(rewrite_nodes(graph.results, _by_product)))


def written_out(graph: Graph) -> Graph:
    """The same without these ops, by their definition: for backends that have no form of them."""

    def rule(node: Node) -> Any:
        definition = WRITTEN_OUT.get(node.op)
        return definition(*node.inputs, **params_of(node)) if definition else None

    return Graph(graph.params, tuple(rewrite_nodes(graph.results, rule)))


def _by_product(node: Node) -> Any:
    if node.op is LOG_DOT_EXP:
        tell("log_products: a logsumexp is computed by a product of matrices, with an exponential per element.")
        return _log_dot_exp(*node.inputs)
    return _softmax_dot(node.inputs, **params_of(node)) if node.op is SOFTMAX_DOT else None


def _log_dot_exp(a: Any, b: Any) -> Any:
    rows, columns = finite_peak(a, (1,)), finite_peak(b, (0,))
    product = make(MATMUL, (e.exp(a - rows), e.exp(b - columns)))
    return _unless(product, e.log(product) + rows + columns, log_dot_exp_written_out, (a, b))


def _softmax_dot(inputs: tuple[Any, ...], of: str) -> Any:
    a, b, g = inputs
    left, right = e.exp(a - finite_peak(a, (1,))), e.exp(b - finite_peak(b, (0,)))
    product = make(MATMUL, (left, right))
    ratio = g / product
    if of == "a":
        result = left * make(MATMUL, (ratio, transpose(right)))
    elif a.type.shape[0] == 1:
        result = right * (transpose(left) * ratio)
    else:
        result = right * make(MATMUL, (transpose(left), ratio))
    return _unless(product, result, partial(softmax_dot_written_out, of=of), inputs)


def _unless(product: Any, result: Any, otherwise: Any, matrices: tuple[Any, ...]) -> Any:
    """A result if a product is large enough everywhere, else what a function makes of matrices."""
    sure = all_(e.gt(product, constant(_SURE[product.type.dtype], product.type.dtype)))
    t, carry = new_input(COUNT, "t"), new_input(result.type, None)
    rows = [new_input(m.type, m.name) for m in matrices]
    body = Body(t, tuple(rows), (carry,), (), (otherwise(*rows),), (), None)
    # As rows of sequences: what only depends on invariants would be computed before the loop, needed or not.
    given = LoopInputs(e.cast(~sure, "int64"), tuple([expand_dims(m, 0) for m in matrices]), (result,), ())
    return build_loop(body, given, name="products in log space, the long way").finals[0]
