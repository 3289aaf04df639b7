"""How long the steps of a row must take at least, since operations wait for each other: the floor of latency.

Counted is the longest chain of dependent operations per step, in the loops of the graph that Ostinato makes of a row,
forward and in reverse. A path that leads from a state to itself, over as many steps as it takes, repeats for ever,
so its operations per step are a floor for any way to go step by step; the longest such path counts, and the
chains of loops that need each other's results add up. A step takes at least what these operations take one after
the other, each measured on the device at hand: see `gpu_latency`.

What is counted are the graph's operations as they stand. What is doubtful is decided so that the chain is shorter:

- copies, slices, casts, signs cost nothing, nor does an addition to a product, which are one instruction together;
- any function, such as exp, tanh or the sigmoid, counts as one exp, whatever it is made of;
- a quotient counts where the divisor waits for the state, else it is a product with a number known before;
- sums and extremes of n elements are log2 n operations, as if no element had to come from another thread;
- a product of matrices is the smallest one that tensor cores do, with the way of its result into the next one,
  and for inner sizes above 16 the additions of log2(size / 16) partial sums;
- a loop that Ostinato can cut into chunks, as its state enters affinely, is a tree: log2 of the steps for all of them.

Not counted: what memory, arithmetic units and the exchange between processors have to do. Another order of
operations, or another algorithm, may have a shorter chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from operator import add, mul
from typing import Any

import ostinato
import ostinato.tensor as T
from gpu_workloads.base import Task
from ostinato.backends.triton.affine import phases
from ostinato.graph import Graph, topological
from ostinato.ops.loop import LOOP, LoopSpec, body_of
from ostinato.rewrite.pipeline import rewrite
from suite import FORWARD

OPERATIONS = ("arithmetic", "quotient", "function", "product")

# How many of each of these operations lie on a path.
Path = tuple[float, ...]
NOTHING, ARITHMETIC, QUOTIENT, FUNCTION, PRODUCT = (
    tuple(float(name == operation) for operation in OPERATIONS) for name in ("", *OPERATIONS)
)

INNER = 16  # the inner size of the product that is measured

_FREE = {
    "constant", "input", "size", "make_vector", "broadcast_to", "cast", "neg", "abs", "dimshuffle", "reshape",
    "concatenate", "specify_shape", "subtensor", "set_subtensor", "inc_subtensor", "gather", "item",
    "disconnected_grad", "zero_grad", "grad_clip", "grad_scale",
}  # fmt: skip
_FUNCTIONS = {
    "pow", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "arcsin", "arccos", "arctan",
    "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "arctan2", "sigmoid", "logaddexp", "erf", "erfc",
    "gammaln", "psi", "polygamma",
}  # fmt: skip
_REDUCTIONS = {"sum", "sum_to", "prod", "max", "min", "any", "all", "argmax", "argmin"}


def costs(measured: Mapping[str, Mapping[str, float]], task: Task) -> Path:
    """Seconds of each operation for a task, from what was measured for dtypes and for precisions of products."""
    product = measured[kind_of_product(task)]["product"] if task.has_products else 0.0
    return (*(measured[task.dtype][operation] for operation in OPERATIONS[:-1]), product)


def kind_of_product(task: Task) -> str:
    """How the products of a task are measured; those of float32 take no less than those of TF32."""
    return "bf16" if task.precision == "bf16" else "tf32"


def seconds(path: Path, costs: Path) -> float:
    """What a path takes."""
    return sum(map(mul, path, costs))


def chain(task: Task, kind: str, shapes: Mapping[str, tuple[int, ...]], costs: Path) -> Path:
    """The operations per step of the longest chain, which are not all integers, from the shapes of the arguments."""
    inputs = {name: T.tensor(dtype=task.dtype, shape=tuple(shape), name=name) for name, shape in shapes.items()}
    outputs = task.symbolic(T, lambda *args, **options: ostinato.scan(*args, **options)[0], **inputs)
    if kind != FORWARD:
        cost = task.cost(outputs, inputs)
        outputs = [cost, *T.grad(cost, [inputs[n] for n in task.wrt])]
    graph = rewrite(Graph(tuple(inputs.values()), tuple(outputs)))

    def key(path: Path) -> float:
        return seconds(path, costs)

    found: dict[Any, Path] = {}
    for node in graph.nodes():
        before = max((found[i] for i in node.inputs), key=key, default=NOTHING)
        found[node] = _sum(before, of_loop(node.params[0], task.steps, key)) if node.op is LOOP else before
    return max((found[node] for node in graph.results), key=key)


def of_loop(spec: LoopSpec, steps: int, key: Callable[[Path], float]) -> Path:
    """The operations per step of the longest chain from states to states: the best mean of a cycle of states.

    Closed walks of at most as many steps as there are states have all cycles among them.
    """
    if phases(spec) is not None:
        return _scaled(ARITHMETIC, math.log2(steps) / steps)
    body = body_of(spec)
    once = [_reached(carry, body.next_carries, key) for carry in body.carries]
    walks, means = once, []
    for length in range(1, len(once) + 1):
        means += [_scaled(row[i], 1 / length) for i, row in enumerate(walks) if row[i] is not None]
        walks = [[_longest(_joined(row, once, j), key) for j in range(len(once))] for row in walks]
    return max(means, key=key, default=NOTHING)


def _joined(row: list[Any], once: list[list[Any]], j: int) -> Iterable[Path]:
    """The walks to the state j with a step more."""
    return (_sum(path, once[i][j]) for i, path in enumerate(row) if path is not None and once[i][j] is not None)


def _reached(carry: Any, results: Iterable[Any], key: Callable[[Path], float]) -> list[Path | None]:
    """The longest path from a state to each of the next ones, None where there is none."""
    found: dict[Any, Path] = {carry: NOTHING}
    for node in topological(results):
        ways = [_sum(found[x], operation(node, k, found)) for k, x in enumerate(node.inputs) if x in found]
        if ways:
            found[node] = max(ways, key=key)
    return [found.get(result) for result in results]


def operation(node: Any, k: int, waiting: Mapping[Any, Path]) -> Path:
    """What an operation adds to a path that comes to it through the k-th of its inputs."""
    name, inputs = node.op.name, node.inputs
    if name in _FREE or (name in ("add", "sub") and inputs[k].op.name in ("mul", "matmul")):
        return NOTHING
    if name == "matmul":
        return _sum(PRODUCT, _scaled(ARITHMETIC, _levels(inputs[0].type.shape[-1], INNER)))
    if name in _REDUCTIONS:
        return _scaled(ARITHMETIC, _levels(_elements(inputs[0]), _elements(node)))
    if name == "true_div":  # by a root: a product with the reciprocal of the root, which is one instruction
        return QUOTIENT if k == 1 and inputs[1] in waiting and inputs[1].op.name != "sqrt" else ARITHMETIC
    return QUOTIENT if name == "sqrt" else FUNCTION if name in _FUNCTIONS else ARITHMETIC


def _elements(node: Any) -> int | None:
    return None if None in node.type.shape else math.prod(node.type.shape)


def _levels(many: int | None, few: int | None) -> int:
    """How deep a tree is that makes few numbers of many; one, if their numbers are not known."""
    return 1 if many is None or few is None else max(0, math.ceil(math.log2(many / max(few, 1))))


def _sum(a: Path, b: Path) -> Path:
    return tuple(map(add, a, b))


def _scaled(path: Path, factor: float) -> Path:
    return tuple(factor * n for n in path)


def _longest(paths: Iterable[Path], key: Callable[[Path], float]) -> Path | None:
    return max(paths, key=key, default=None)
