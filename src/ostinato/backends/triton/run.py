"""A Graph on the device: its ops one by one on torch's tensors, each of its loops as one kernel.

Integer scalars stay on the host, as NumPy's, since sizes are made of them: nothing has to come back from the
device to know how much memory a result takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from ostinato.backends.triton.loops import LoopRunner
from ostinato.backends.triton.notes import TO_DEVICE, TO_HOST, Notes
from ostinato.backends.triton.slices import is_elementwise
from ostinato.backends.triton.tensors import N_ARRAYS, RULES, Reversed, as_tensor, default_device, plain, torch_dtype
from ostinato.errors import OstinatoError, OstinatoIndexError, OstinatoValueError, at
from ostinato.graph import Graph, Node
from ostinato.ops.leaf import CONSTANT
from ostinato.ops.loop import ITEM, LOOP
from ostinato.ops.op import params_of
from ostinato.ops.sizes import MAKE_VECTOR, SIZE
from ostinato.printing import short
from ostinato.types import TensorType

# For so many combinations of shapes a program remembers what follows from them.
_REMEMBERED = 256

Instruction = tuple[Callable[..., Any], tuple[int, ...], int]
Step = tuple[Callable[..., Any], tuple[int, ...], int, tuple[int, ...]]


class Program:
    """A Graph as instructions over numbered slots, run on the device."""

    def __init__(self, graph: Graph, notes: Notes, remember: bool = True) -> None:
        self.notes = notes
        self._remember, self.held_bytes = remember, 0
        self._known: dict[Any, tuple[list[Any], list[Step]]] = {}
        self.nodes: list[Node] = list(dict.fromkeys([*graph.params, *graph.nodes()]))
        slot = {n: i for i, n in enumerate(self.nodes)}
        self.template: list[Any] = [None] * len(self.nodes)
        self.params, self.results = [slot[p] for p in graph.params], [slot[r] for r in graph.results]
        self.code: list[Instruction] = []
        given = set(graph.params)
        for node in self.nodes:
            if node.op is CONSTANT:
                self.template[slot[node]] = _constant(node, notes)
            elif node not in given:
                inputs = tuple([slot[i] for i in node.inputs])
                self.code.append((self._instruction(node), inputs, slot[node]))
        self._steps = self._with_deaths(self.code)

    def run(self, values: Sequence[Any]) -> list[Any]:
        """The results for params: tensors on the device, and NumPy's integer scalars."""
        key = signature(values) if self._remember else None
        known = self._known.get(key) if key is not None else None
        if known is not None:
            return self._run(values, *known)
        if key is None or len(self._known) >= _REMEMBERED:
            return self._run(values, self.template, self._steps)
        watch = _Steady(self)
        results = self._run(values, self.template, self._steps, watch)
        self._known[key], self.held_bytes = (watch.template, self._with_deaths(watch.rest)), watch.held_bytes
        return results

    def bound(self, values: Sequence[Any]) -> Callable[[Sequence[Any]], list[Any]] | None:
        """`run` for values of exactly these kinds and sizes, with these numbers; None if it was not run for them."""
        known = self._known.get(signature(values)) if self._remember else None
        return None if known is None else lambda values: self._run(values, *known)

    def _run(
        self, values: Sequence[Any], template: list[Any], steps: Sequence[Step], watch: _Steady | None = None
    ) -> list[Any]:
        slots = template.copy()
        for i, value in zip(self.params, values, strict=True):
            slots[i] = value
        out = 0
        try:
            for function, inputs, out, dead in steps:
                slots[out] = function(*[slots[i] for i in inputs])
                if watch is not None:
                    watch.see(function, inputs, out, slots)
                for i in dead:
                    slots[i] = None
        except (OstinatoError, torch.cuda.OutOfMemoryError):
            raise
        except (ValueError, IndexError, TypeError, RuntimeError) as error:
            raise _explained(error, self.nodes[out]) from error
        return [slots[i] for i in self.results]

    def _with_deaths(self, code: Sequence[Instruction]) -> list[Step]:
        """Instructions, each with the slots that are needed no more after it, whose memory can be used again."""
        last = {i: k for k, (_, inputs, _) in enumerate(code) for i in inputs}
        kept = {*self.results, *(i for i, v in enumerate(self.template) if v is not None)}
        dead: list[list[int]] = [[] for _ in code]
        for slot, k in last.items():
            if slot not in kept:
                dead[k].append(slot)
        return [(*instruction, tuple(d)) for instruction, d in zip(code, dead, strict=True)]

    def _instruction(self, node: Node) -> Callable[..., Any]:
        if node.op is LOOP:
            return LoopRunner(node, self.notes)
        if node.op is ITEM:
            index = node.params[0]
            return lambda values: values[index]
        if node.op is SIZE:
            axis = node.params[0]
            return lambda x: np.int64(x.shape[axis])
        return _Operation(node, self.notes)


def signature(values: Sequence[Any]) -> tuple[Any, ...]:
    """What sizes follow from: the shapes of tensors and the values of scalars on the host."""
    return tuple([(type(v), v.shape) if isinstance(v, (torch.Tensor, Reversed)) else v.item() for v in values])


class _Steady:
    """Which values on the host follow from the signature of a call alone, and so need not be computed again.

    What works out much from the sizes of its inputs, where these follow from the signature, is bound to them.
    """

    def __init__(self, program: Program) -> None:
        self.template, self.held_bytes = program.template.copy(), 0
        self.fixed = {i for i, v in enumerate(self.template) if v is not None}  # what has the same value in every call
        self.steady = {i for i, v in enumerate(program.template) if v is not None} | set(program.params)
        self.rest: list[Instruction] = []

    def see(self, function: Callable[..., Any], inputs: tuple[int, ...], out: int, slots: Sequence[Any]) -> None:
        """An instruction was executed."""
        found = slots[out]
        sized = function.sized_by(inputs) if hasattr(function, "sized_by") else ()
        given = all(i in self.steady for i in inputs)
        steady = given and not getattr(function, "has_until", False)
        # A number that NumPy made of a tensor's elements follows from more than its shape.
        if isinstance(function, _Operation) and isinstance(found, np.generic):
            steady = steady and not any(isinstance(slots[i], (torch.Tensor, Reversed)) for i in inputs)
        steady = steady and not any(isinstance(slots[i], torch.Tensor) for i in sized)
        if steady:
            self.steady.add(out)
        if isinstance(found, tuple):
            self.held_bytes += sum(x.nbytes for x in found if isinstance(x, torch.Tensor))
        if steady and isinstance(found, (np.generic, np.ndarray)):
            self.template[out] = found
            self.fixed.add(out)
        elif self.fixed.issuperset(inputs) and isinstance(found, torch.Tensor) and is_kept(found):
            self.template[out] = found  # a number, spread out
            self.fixed.add(out)
        elif given and hasattr(function, "bound"):
            self.rest.append((function.bound([slots[i] for i in inputs]), inputs, out))
        else:
            self.rest.append((function, inputs, out))


def _explained(error: Exception, node: Node) -> OstinatoError:
    """An error of torch's as one of Ostinato's, with the operation and the user's line."""
    kind = OstinatoIndexError if isinstance(error, IndexError) else OstinatoValueError
    return kind(f"{short(node)}{at(node.source)} failed on the device: {error}")


class _Operation:
    """An op: on the host if all it needs is there and it is a scalar, else on the device."""

    def __init__(self, node: Node, notes: Notes) -> None:
        self.node, self.notes, self.params = node, notes, params_of(node)
        type_ = node.type
        self.may_stay = node.op is MAKE_VECTOR or (type(type_) is TensorType and type_.ndim == 0)
        self.rule = RULES.get(node.op.name)
        n = len(node.inputs)
        self.n_arrays = N_ARRAYS.get(node.op.name, n) if self.rule else n
        self.elementwise = is_elementwise(node)

    def sized_by(self, inputs: Sequence[int]) -> Sequence[int]:
        """The inputs that the size of the result follows from, if they are numbers."""
        return inputs[self.n_arrays :]

    def __call__(self, *inputs: Any) -> Any:
        if self.may_stay and not any(isinstance(i, (torch.Tensor, Reversed)) for i in inputs):
            with np.errstate(all="ignore"):
                return self.node.op.numpy(*inputs, **self.params)
        if self.rule is None:
            return self._called_out(inputs)
        keep = self.node.op.name == "subtensor"
        arrays = [
            x if keep and isinstance(x, Reversed) else on_device(x, i.type.dtype)
            for x, i in zip(inputs[: self.n_arrays], self.node.inputs, strict=False)
        ]
        try:
            return self.rule(*arrays, *inputs[self.n_arrays :], **self.params)
        except NotImplementedError:
            return self._called_out(inputs)

    def bound(self, inputs: Sequence[Any]) -> Callable[..., Any]:
        """The same for inputs of these kinds and sizes, with these numbers."""
        n, arrays = self.n_arrays, inputs[: self.n_arrays]
        as_they_are = all(isinstance(x, torch.Tensor) for x in arrays) and len(arrays) > 0
        if self.rule is None or not as_they_are or self.node.op.name in self.notes.called_out:
            return self
        rule = partial(self.rule, **self.params) if self.params else self.rule
        numbers = tuple(inputs[n:])
        return (lambda *inputs: rule(*inputs[:n], *numbers)) if numbers else rule

    def _called_out(self, inputs: Sequence[Any]) -> Any:
        self.notes.called_out.add(self.node.op.name)
        arrays = [to_host(i, self.notes) for i in inputs]
        with np.errstate(all="ignore"):
            result = self.node.op.numpy(*arrays, **self.params)
        if isinstance(result, tuple):
            return tuple(to_device(r, self.notes) for r in result)
        return to_device(result, self.notes)


# Numbers as tensors, which every call would copy to the device again; and where they lie, since nobody else may.
_SCALARS: dict[Any, torch.Tensor] = {}
_SCALAR_PLACES: set[int] = set()
_MOST_SCALARS = 1024


def _scalar(value: Any, dtype: str, device: torch.device) -> torch.Tensor:
    key = (repr(value), dtype, device)
    found = _SCALARS.get(key)
    if found is None:
        found = torch.tensor(value, dtype=torch_dtype(dtype), device=device)
        if len(_SCALARS) < _MOST_SCALARS:  # they are kept for good, since programs hold views of them
            _SCALAR_PLACES.add(place_of(found))
            _SCALARS[key] = found
    return found


def place_of(tensor: torch.Tensor) -> int:
    """What tells which memory a tensor lies in."""
    return int(tensor.untyped_storage()._cdata)


def is_kept(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one of a number, that others read too."""
    return place_of(tensor) in _SCALAR_PLACES


def on_device(value: Any, dtype: str) -> torch.Tensor:
    """A value of any kind as a tensor on the device, to be read only."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, Reversed):
        return value.plain()
    if np.ndim(value) == 0:
        return _scalar(value.item(), dtype, default_device())
    return as_tensor(value, dtype)


def _constant(node: Node, notes: Notes) -> Any:
    array = node.params[0].array
    return array[()] if array.ndim == 0 else to_device(array, notes)


def to_host(value: Any, notes: Notes) -> Any:
    """A value as NumPy's."""
    if not isinstance(value, (torch.Tensor, Reversed)):
        return value
    notes.transfers[TO_HOST] += 1
    array = plain(value).detach().cpu().numpy()
    return array[()] if array.ndim == 0 else array


def to_device(value: Any, notes: Notes) -> Any:
    """A value of NumPy's as a tensor; integer and boolean scalars stay on the host."""
    if isinstance(value, torch.Tensor):
        return value
    array = np.asarray(value)
    if array.ndim == 0 and array.dtype.kind in "iub":
        return array[()]
    notes.transfers[TO_DEVICE] += 1
    return as_tensor(array, array.dtype.name)
