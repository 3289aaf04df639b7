"""The ops on torch's tensors: what a Graph does outside of loops, on the device.

One table. Integer scalars are plain ints of Python and stay on the host, since sizes and positions are
made of them. What has no rule is computed by its NumPy reference, on arrays that go to the host and back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ostinato.backends.triton.kernels import is_interpreted, is_rehearsal
from ostinato.config import config
from ostinato.ops.control import STEPS_REACHED

# How many of an op's inputs are arrays; the rest are sizes and positions, which stay on the host.
N_ARRAYS = {
    "broadcast_to": 1, "reshape": 1, "sum_to": 1, "specify_shape": 1, "subtensor": 1, "set_subtensor": 2,
    "inc_subtensor": 2, "arange": 0,
}  # fmt: skip

_CPU, _META = torch.device("cpu"), torch.device("meta")

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


@lru_cache(maxsize=64)
def torch_dtype(name: str) -> torch.dtype:
    """Torch's dtype of a name."""
    found: torch.dtype = getattr(torch, name)
    return found


@dataclass(frozen=True)
class Reversed:
    """A tensor whose first axis is read backwards; torch has no negative strides, kernels have."""

    tensor: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape

    def plain(self) -> torch.Tensor:
        return torch.flip(self.tensor, (0,))


def plain(value: Any) -> Any:
    """A value without reversal."""
    return value.plain() if isinstance(value, Reversed) else value


def rule(name: str) -> Callable[[Rule], Rule]:
    """Enter the rule of an op: it gets the op's inputs and, by name, its params."""

    def enter(function: Rule) -> Rule:
        RULES[name] = function
        return function

    return enter


def _enter_elementwise() -> None:
    names = {
        "add": torch.add, "sub": torch.sub, "mul": torch.mul, "floor_div": torch.floor_divide,
        "mod": torch.remainder, "pow": torch.pow, "neg": torch.neg, "abs": torch.abs, "sign": torch.sign,
        "maximum": torch.maximum, "minimum": torch.minimum, "lt": torch.lt, "le": torch.le, "gt": torch.gt,
        "ge": torch.ge, "eq": torch.eq, "neq": torch.ne, "isnan": torch.isnan, "isinf": torch.isinf,
        "logical_not": torch.logical_not, "and": torch.bitwise_and, "or": torch.bitwise_or,
        "xor": torch.bitwise_xor, "invert": torch.bitwise_not, "exp": torch.exp, "exp2": torch.exp2,
        "expm1": torch.expm1, "log": torch.log, "log2": torch.log2, "log10": torch.log10, "log1p": torch.log1p,
        "sqrt": torch.sqrt, "sin": torch.sin, "cos": torch.cos, "tan": torch.tan, "arcsin": torch.arcsin,
        "arccos": torch.arccos, "arctan": torch.arctan, "sinh": torch.sinh, "cosh": torch.cosh,
        "tanh": torch.tanh, "arcsinh": torch.arcsinh, "arccosh": torch.arccosh, "arctanh": torch.arctanh,
        "arctan2": torch.arctan2, "sigmoid": torch.sigmoid, "logaddexp": torch.logaddexp, "erf": torch.erf,
        "erfc": torch.erfc, "gammaln": torch.lgamma, "psi": torch.digamma, "floor": torch.floor,
        "ceil": torch.ceil, "trunc": torch.trunc, "round": torch.round, "where": torch.where,
    }  # fmt: skip
    RULES.update(names)


_enter_elementwise()


@rule("true_div")
def _true_div(x: Any, y: Any) -> Any:
    return torch.true_divide(x, y)


@rule("cast")
def _cast(x: Any, *, dtype: str) -> Any:
    return x.to(torch_dtype(dtype))


@rule("disconnected_grad")
@rule("zero_grad")
@rule("grad_clip")
@rule("grad_scale")
def _same(x: Any, **params: Any) -> Any:
    return x


@rule("log_gamma_sample")
def _first(x: Any, shape: Any) -> Any:
    return x


@rule("argsort")
def _argsort(x: Any, *, axis: int) -> Any:
    return torch.argsort(x, dim=axis, stable=True)


@rule("dimshuffle")
def _dimshuffle(x: Any, *, order: tuple[Any, ...]) -> Any:
    for axis in reversed([a for a in range(x.ndim) if a not in order]):
        x = x.squeeze(axis)
    kept = [o for o in order if o != "x"]
    ranks = {o: i for i, o in enumerate(sorted(kept))}
    x = x.permute([ranks[o] for o in kept])
    for place, o in enumerate(order):
        if o == "x":
            x = x.unsqueeze(place)
    return x


@rule("reshape")
def _reshape(x: Any, *shape: Any) -> Any:
    return x.reshape([int(s) for s in shape])


@rule("broadcast_to")
def _broadcast_to(x: Any, *shape: Any) -> Any:
    return torch.broadcast_to(x, [int(s) for s in shape])


@rule("concatenate")
def _concatenate(*xs: Any, axis: int) -> Any:
    whole = _lying_side_by_side(xs, axis)
    return torch.cat(xs, dim=axis) if whole is None else whole


def _lying_side_by_side(xs: Sequence[Any], axis: int) -> Any:
    """The tensor of which tensors are adjacent parts that make up the whole; None if they are not."""
    whole = xs[0]._base
    if whole is None or whole.ndim != xs[0].ndim or whole.numel() != sum(x.numel() for x in xs):
        return None
    start = whole.storage_offset()
    for x in xs:
        if x._base is not whole or x.stride() != whole.stride() or x.storage_offset() != start:
            return None
        start += x.shape[axis] * whole.stride(axis)
    return whole


@rule("specify_shape")
def _specify_shape(x: Any, *shape: Any) -> Any:
    if tuple(x.shape) != tuple(int(s) for s in shape):
        raise ValueError(f"the shape is {tuple(x.shape)}, not {tuple(int(s) for s in shape)}")
    return x


@rule("steps_reached")
def _steps_reached(rows: Any, found: Any, made: Any, *, label: str) -> Any:
    if int(found) < rows.shape[0]:
        STEPS_REACHED.numpy(range(rows.shape[0]), int(found), int(made), label=label)  # says what is wrong
    return rows


@rule("check_rows")
def _check_rows(x: Any, *, least: int, label: str) -> Any:
    from ostinato.errors import OstinatoValueError

    if x.shape[0] < least:
        raise OstinatoValueError(f"{label} has {x.shape[0]} row(s), but {least} are needed")
    return x


@rule("sum_to")
def _sum_to(x: Any, *wanted: Any) -> Any:
    target = tuple(int(w) for w in wanted)
    lead = x.ndim - len(target)
    axes = [*range(lead), *(lead + i for i, w in enumerate(target) if w == 1 and x.shape[lead + i] != 1)]
    result = x.sum(dim=axes, keepdim=True) if axes else x
    if tuple(result.shape[lead:]) != target:
        raise ValueError(f"cannot sum an array of shape {tuple(x.shape)} to shape {target}")
    return result.reshape(target)


@rule("matmul")
def _matmul(x: Any, y: Any) -> Any:
    if not x.is_cuda or config.gpu_precision == "ieee" or x.dtype != torch.float32:
        return torch.matmul(x, y)
    if config.gpu_precision == "bf16":
        return torch.matmul(x.to(torch.bfloat16), y.to(torch.bfloat16)).to(torch.float32)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return torch.matmul(x, y)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@rule("sum")
def _sum(x: Any, *, axes: tuple[int, ...]) -> Any:
    return torch.sum(x, dim=axes, dtype=x.dtype)


@rule("prod")
def _prod(x: Any, *, axes: tuple[int, ...]) -> Any:
    for axis in reversed(axes):
        x = torch.prod(x, dim=axis, dtype=x.dtype)
    return x


@rule("max")
def _max(x: Any, *, axes: tuple[int, ...]) -> Any:
    return torch.amax(x, dim=axes)


@rule("min")
def _min(x: Any, *, axes: tuple[int, ...]) -> Any:
    return torch.amin(x, dim=axes)


@rule("any")
def _any(x: Any, *, axes: tuple[int, ...]) -> Any:
    return torch.any(x, dim=axes) if x.ndim else x


@rule("all")
def _all(x: Any, *, axes: tuple[int, ...]) -> Any:
    return torch.all(x, dim=axes) if x.ndim else x


@rule("argmax")
def _argmax(x: Any, *, axis: int) -> Any:
    return torch.argmax(x, dim=axis)


@rule("argmin")
def _argmin(x: Any, *, axis: int) -> Any:
    return torch.argmin(x, dim=axis)


@rule("cumsum")
def _cumsum(x: Any, *, axis: int) -> Any:
    return torch.cumsum(x, dim=axis, dtype=x.dtype)


def index_of(pattern: Any, values: Sequence[Any]) -> tuple[Any, ...]:
    """An index expression; see `ostinato.ops.indexing`."""
    rest = iter(values)
    return tuple(
        [int(next(rest)) if p is None else slice(*[int(next(rest)) if given else None for given in p]) for p in pattern]
    )


def _forward(index: Sequence[Any], shape: Sequence[int]) -> tuple[tuple[Any, ...], list[int]]:
    """The same index with slices upwards only, and the axes to be turned round afterwards."""
    upward, turned, kept = [], [], 0
    for i, size in zip(index, shape, strict=True):
        if isinstance(i, slice):
            taken = range(*i.indices(size))
            if taken.step < 0:
                turned.append(kept)
                taken = taken[::-1]
            upward.append(slice(taken.start, taken.stop, taken.step) if len(taken) else slice(0, 0))
            kept += 1
        else:
            if not -size <= i < size:
                raise IndexError(f"index {i} is out of bounds for size {size}")
            upward.append(i)
    return tuple(upward), turned


@rule("subtensor")
def _subtensor(x: Any, *values: Any, pattern: Any) -> Any:
    index = index_of(pattern, values)
    if not index:
        return x
    first, rest = index[0], index[1:]
    if first == slice(None, None, -1) and all(r == slice(None) for r in rest):
        return x.tensor if isinstance(x, Reversed) else Reversed(x)
    if isinstance(x, Reversed):
        x = x.plain()
    upward, turned = _forward(index, x.shape)
    part = x[upward]
    return torch.flip(part, turned) if turned else part


def _write(x: Any, y: Any, values: Sequence[Any], pattern: Any, add: bool) -> Any:
    index = index_of(pattern, values)
    upward, turned = _forward(index, x.shape)
    result = x.clone(memory_format=torch.contiguous_format)
    part = result[upward] if upward else result
    y = torch.broadcast_to(y, part.shape)
    y = torch.flip(y, turned) if turned else y
    part.add_(y) if add else part.copy_(y)
    return result


@rule("set_subtensor")
def _set_subtensor(x: Any, y: Any, *values: Any, pattern: Any) -> Any:
    return _write(x, y, values, pattern, add=False)


@rule("inc_subtensor")
def _inc_subtensor(x: Any, y: Any, *values: Any, pattern: Any) -> Any:
    return _write(x, y, values, pattern, add=True)


@rule("gather")
def _gather(x: Any, *indices: Any, axes: tuple[int, ...], sliced: bool) -> Any:
    index: list[Any] = [slice(None)] * x.ndim
    for axis, i in zip(axes, indices, strict=True):
        index[axis] = i.long()
    return x[tuple(index)]


@rule("scatter_add")
def _scatter_add(x: Any, y: Any, *indices: Any, axes: tuple[int, ...]) -> Any:
    if axes != tuple(range(len(axes))):
        raise NotImplementedError
    result = x.clone(memory_format=torch.contiguous_format)
    return result.index_put_(tuple(i.long() for i in indices), y, accumulate=True)


@rule("arange")
def _arange(start: Any, stop: Any, step: Any, *, dtype: str) -> Any:
    count = max(0, math.ceil((stop - start) / step))
    values = torch.arange(count, dtype=torch_dtype(dtype), device=default_device())
    return values * step + start


@rule("cholesky")
def _cholesky(x: Any) -> Any:
    return torch.linalg.cholesky(x)


def default_device() -> torch.device:
    """Where arrays are made: the GPU, or the CPU where Triton's interpreter stands in for one."""
    if is_rehearsal():
        return _META
    return _CPU if is_interpreted() else _gpu(torch.cuda.current_device())


@lru_cache(maxsize=64)
def _gpu(number: int) -> torch.device:
    return torch.device("cuda", number)


def as_tensor(value: Any, dtype: str) -> torch.Tensor:
    """A value of any kind as a tensor on the device; tensors that are there already are not copied."""
    if isinstance(value, Reversed):
        return value.plain()
    if isinstance(value, torch.Tensor):
        return value
    array = np.asarray(value)
    if not array.flags.writeable or any(s < 0 for s in array.strides):
        array = array.copy()
    return torch.from_numpy(array if array.ndim else array.reshape(())).to(
        device=default_device(), dtype=torch_dtype(dtype)
    )
