"""sums_together: what a step adds up of several arrays is added up of one.

before:  s = loop(n, x, s0; (x_t, s) -> s + (sum(f(x_t)) + sum(g(x_t))))
after:   s = loop(n, x, s0; (x_t, s) -> s + sum(f(x_t) + g(x_t)))

The gradient of a parameter that a step reads in several places is such a sum, as that of a rate in a Runge–Kutta
step; with one sum, `loop_accumulate` takes it out of the loop. Arrays whose sizes only a call knows are taken to be
of equal sizes: code made so gives up where they are not, and code for any sizes is made without this pass.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import reduce

from ostinato.graph import Graph, Node, make, rewrite_nodes, substitute
from ostinato.lower.arrays import TINY
from ostinato.ops.elementwise import add, summands
from ostinato.ops.loop import LOOP, LoopSpec, body_of
from ostinato.rewrite.engine import rewrite_pass
from ostinato.rewrite.loop_accumulate import added_to
from ostinato.rewrite.notes import called, tell


@rewrite_pass
def sums_together(graph: Graph) -> Graph:
    """Join the sums that steps of loops add to a carry."""
    return Graph(graph.params, tuple(rewrite_nodes(graph.results, lambda n: _joined(n) if n.op is LOOP else None)))


def _joined(node: Node) -> Node | None:
    """The same loop with fewer sums; None if it stays as it is."""
    spec: LoopSpec = node.params[0]
    uses = Counter(i for n in spec.body.nodes() for i in n.inputs)
    mapping: dict[Node, Node] = {}
    before = after = 0
    for i in range(spec.n_carries):
        term = added_to(spec, i)
        terms = summands(term, lambda n: uses[n] <= 1) if term is not None and term.op.name == "add" else []
        groups = _groups(terms)
        if len(groups) == len(terms):
            continue
        sums = [reduce(add, [t.inputs[0] for t in g]) if len(g) > 1 else g[0] for g in groups]
        new = [make(g[0].op, (s,), g[0].params) if len(g) > 1 else s for g, s in zip(groups, sums, strict=True)]
        assert term is not None
        mapping[body_of(spec).next_carries[i]] = add(body_of(spec).carries[i], reduce(add, new))
        before, after = before + len(terms), after + len(groups)
    if not mapping:
        return None
    tell(f"sums_together: {before} sums in each step of {called(spec)} are {after}.")
    body = Graph(spec.body.params, tuple(substitute(spec.body.results, mapping)))
    return make(LOOP, node.inputs, (replace(spec, body=body),))


def _groups(terms: list[Node]) -> list[list[Node]]:
    """Sums that can be one, each in the place of the first."""
    found: dict[object, list[Node]] = {}
    for k, t in enumerate(terms):
        x = t.inputs[0] if t.op.name == "sum" else t
        is_large = t.op.name == "sum" and (None in x.type.shape or any(s > TINY for s in x.type.shape if s))
        found.setdefault((t.params, x.type) if is_large else k, []).append(t)
    return list(found.values())
