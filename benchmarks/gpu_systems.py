"""The systems that are timed on the GPU: how each builds a task, is called, and hands over results.

A build makes a Runner. Its call may return before the work is done; its wait returns when the results of the last call
are there. Arguments are where a system wants them before any clock starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib.metadata
import importlib.util
import re
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

import ostinato
import ostinato.tensor as T
from gpu_workloads.base import FLOAT64, Draw, Ops, Task, TorchDraw, loop, stacked
from gpu_workloads.linear import DeltaRule
from suite import FORWARD

UNROLL = 8  # steps of lax.scan in one round of its loop
CHUNK, CHUNK_OF_PRODUCTS = 8, 4  # steps that torch.compile gets at once
LOOP_STEPS = 256  # of loops in Python: each step takes as long as the one before
SCAN_STEPS = 10_000  # of lax.scan: each takes microseconds

CUDA = "cuda"


class Runner(NamedTuple):
    """A function without arguments, ready to be timed."""

    call: Callable[[], Any]
    wait: Callable[[Any], Any]  # gets what the call returned
    arrays: Callable[[Any], list[Any]] = list  # the results as arrays that `difference` can compare
    function: Any = None  # Ostinato's


def torch_module() -> Any:
    """Torch, or None."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch


def drawn(task: Task, device: str) -> dict[str, Any]:
    """The arguments of a task: torch tensors on the device; without torch, NumPy arrays."""
    torch = torch_module()
    return task.arguments(Draw(task.dtype) if torch is None else TorchDraw(torch, device, task.dtype))


def bytes_of(arrays: Any) -> int:
    return sum(int(a.nbytes) for a in arrays)


def exact(array: Any) -> Any:
    """As a NumPy array in float64."""
    return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array, "float64")


def difference(results: list[Any], trusted: list[Any]) -> float:
    """The largest difference of two lists of results, each relative to the largest element."""
    worst = 0.0
    for ours, theirs in zip(results, trusted, strict=True):
        assert tuple(ours.shape) == tuple(theirs.shape), f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
        ours, theirs = alike(ours, theirs)
        error, scale = float(abs(ours - theirs).max()), float(abs(theirs).max())
        worst = max(worst, error / max(scale, 1e-30) if np.isfinite(error) else np.inf)
    return worst


def alike(a: Any, b: Any) -> tuple[Any, Any]:
    """Two arrays of one library: torch's, if both can be had there without a copy to the host."""
    torch = torch_module()
    if torch is not None:
        with contextlib.suppress(TypeError, RuntimeError, BufferError, ValueError):
            return tuple(x.detach() if isinstance(x, torch.Tensor) else torch.from_dlpack(x) for x in (a, b))
    return exact(a), exact(b)


def set_precision(task: Task) -> None:
    """Bring all libraries to the precision of a task: what none may have, none has."""
    tf32 = task.precision != "ieee"
    torch = torch_module()
    if torch is not None:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
    if importlib.util.find_spec("jax") is not None:
        import jax

        jax.config.update("jax_enable_x64", task.dtype == FLOAT64)
        jax.config.update("jax_default_matmul_precision", "tensorfloat32" if tf32 else "highest")
    with contextlib.suppress(ostinato.errors.UnknownFlagError):
        ostinato.config.gpu_precision = task.precision


class System(ABC):
    """A way to compute tasks."""

    name: ClassVar[str]
    package: ClassVar[str]
    gpu_only: ClassVar[bool] = False
    slow: ClassVar[bool] = False  # to compile: asked where a row says so; compared with other systems only
    most_steps: ClassVar[int | None] = None  # more are not run; a step's time tells that of all

    def version(self) -> str | None:
        """The version that is installed, or None."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def can(self, task: Task, kind: str) -> bool:
        return True

    def as_computed(self, task: Task) -> Task:
        """The task with the precision that the system's results have, if it has no choice."""
        return task

    @abstractmethod
    def build(self, task: Task, kind: str, arguments: dict[str, Any], device: str) -> Runner:
        """Trace and compile what there is to be compiled before the first call."""


class Ostinato(System):
    """A function for the device; without a GPU, the native backend."""

    name = package = "ostinato"
    sizes_known: ClassVar[bool] = True  # declare the sizes that belong to the model
    mode: ClassVar[str] = "native"  # on the CPU
    captures: ClassVar[bool] = True  # CUDA graphs of calls can be made

    def version(self) -> str | None:
        return ostinato.__version__

    def compiled(self, inputs: list[Any], outputs: list[Any], device: str) -> Any:
        """Where it is decided what runs the graph."""
        if device == CUDA:
            return ostinato.function(inputs, outputs, device=CUDA)
        return ostinato.function(inputs, outputs, mode=self.mode)

    def build(self, task: Task, kind: str, arguments: dict[str, Any], device: str) -> Runner:
        inputs = {}
        for name, value in arguments.items():
            known = task.static.get(name, 0) if self.sizes_known else 0
            shape = [n if i >= value.ndim - known else None for i, n in enumerate(value.shape)]
            inputs[name] = T.tensor(dtype=task.dtype, shape=tuple(shape), name=name)
        outputs = task.symbolic(T, lambda *args, **options: ostinato.scan(*args, **options)[0], **inputs)
        if kind != FORWARD:
            cost = task.cost(outputs, inputs)
            outputs = [cost, *T.grad(cost, [inputs[n] for n in task.wrt])]
        function = self.compiled(list(inputs.values()), outputs, device)
        if device == CUDA:
            values, wait = list(arguments.values()), lambda _: torch_module().cuda.synchronize()
        else:
            values, wait = [np.asarray(v) for v in arguments.values()], lambda _: None
        return Runner(lambda: function(*values), wait, list, function)

    def kernels(self, runner: Runner, device: str) -> str:
        """How many kernels a call launches, counted in a CUDA graph; else what `explain` says; else a question mark."""
        if device == CUDA and self.captures:
            try:
                return str(kernels_captured(torch_module(), runner.call))
            except Exception:  # a call that waits for results, an older torch: not tried again
                type(self).captures = False
        told = re.search(r"(\d+) kernels?\b", runner.function.explain())
        return told[1] if told else "?"


class Scan(System):
    """JAX's scan, jitted."""

    name, package = "lax.scan", "jax"
    most_steps = SCAN_STEPS
    unroll: ClassVar[int] = 1

    def body(self, jax: Any, task: Task, arguments: dict[str, Any]) -> list[Any]:
        def scan(step: Any, state: Any, xs: Any, length: int) -> Any:
            return jax.lax.scan(step, state, xs, length=length, unroll=min(self.unroll, length))

        return task.body(jax_ops(jax), scan, jax_product(jax, task.precision), **arguments)

    def build(self, task: Task, kind: str, arguments: dict[str, Any], device: str) -> Runner:
        import jax

        names = list(arguments)

        def forward(*values: Any) -> Any:
            return self.body(jax, task, dict(zip(names, values, strict=True)))

        def cost(*values: Any) -> Any:
            return task.cost(forward(*values), dict(zip(names, values, strict=True)))

        if kind == FORWARD:
            function = jax.jit(forward)
        else:
            both = jax.value_and_grad(cost, tuple(names.index(n) for n in task.wrt))
            function = jax.jit(lambda *values: flat(both(*values)))
        if device == CUDA:
            torch_module().cuda.synchronize()
            arrays = [jax.dlpack.from_dlpack(v) for v in arguments.values()]
        else:
            arrays = [jax.device_put(np.asarray(v), jax.devices("cpu")[0]) for v in arguments.values()]
        return Runner(lambda: function(*arrays), jax.block_until_ready)


class UnrolledScan(Scan):
    """The same with several steps per round of its loop."""

    name, unroll, slow = "lax.scan, unrolled", UNROLL, True


class AssociativeScan(Scan):
    """JAX's associative_scan, for what can be written so."""

    name = "associative_scan"
    most_steps = None

    def can(self, task: Task, kind: str) -> bool:
        return hasattr(task, "associative")

    def body(self, jax: Any, task: Task, arguments: dict[str, Any]) -> list[Any]:
        return task.associative(jax.lax.associative_scan, **arguments)  # type: ignore[attr-defined]


class TorchLoop(System):
    """A loop in Python over torch's operations."""

    name, package = "torch loop", "torch"
    most_steps = LOOP_STEPS

    def scan(self, torch: Any, task: Task) -> Callable[..., Any]:
        return lambda step, state, xs, length: loop(torch.stack, step, state, xs, length)

    def function(self, task: Task, kind: str, arguments: dict[str, Any]) -> Callable[[], list[Any]]:
        import torch

        ops, scan, product = torch_ops(torch), self.scan(torch, task), torch_product(torch, task.precision)
        if kind == FORWARD:

            def forward() -> list[Any]:
                with torch.no_grad():
                    return task.body(ops, scan, product, **arguments)

            return forward
        leaves = {n: v.detach().clone().requires_grad_() if n in task.wrt else v for n, v in arguments.items()}
        parameters = [leaves[n] for n in task.wrt]

        def gradient() -> list[Any]:
            cost = task.cost(task.body(ops, scan, product, **leaves), leaves)
            return [cost.detach(), *torch.autograd.grad(cost, parameters)]

        return gradient

    def build(self, task: Task, kind: str, arguments: dict[str, Any], device: str) -> Runner:
        return Runner(self.function(task, kind, arguments), torch_wait(device))


class Graph(TorchLoop):
    """The same loop, captured in a CUDA graph."""

    name, gpu_only = "CUDA graph", True

    def build(self, task: Task, kind: str, arguments: dict[str, Any], device: str) -> Runner:
        import torch

        return captured(torch, self.function(task, kind, arguments))


class Compiled(TorchLoop):
    """The loop, some steps at a time given to torch.compile; on a GPU, all of it captured in a CUDA graph."""

    name, slow = "torch.compile", True

    def scan(self, torch: Any, task: Task) -> Callable[..., Any]:
        chunk = CHUNK_OF_PRODUCTS if task.has_products else CHUNK

        def scan(step: Any, state: Any, xs: Any, length: int) -> Any:
            fast = torch.compile(lambda state, xs: loop(torch.stack, step, state, xs, chunk), dynamic=False)
            whole, kept = length - length % chunk, []
            for t in range(0, whole, chunk):
                state, ys = fast(state, None if xs is None else tuple(x[t : t + chunk] for x in xs))
                kept.append(ys)
            if whole < length:
                rest = None if xs is None else tuple(x[whole:length] for x in xs)
                state, ys = loop(torch.stack, step, state, rest, length - whole)
                kept.append(ys)
            return state, stacked(torch.cat, kept)

        return scan

    def build(self, task: Task, kind: str, arguments: dict[str, Any], device: str) -> Runner:
        import torch

        torch._dynamo.reset()
        function = self.function(task, kind, arguments)
        return captured(torch, function) if device == CUDA else Runner(function, torch_wait(device))


class Cudnn(System):
    """The module of torch.nn, which calls cuDNN on a GPU."""

    name, package = "cuDNN", "torch"

    def can(self, task: Task, kind: str) -> bool:
        return bool(task.cudnn)

    def build(self, task: Task, kind: str, arguments: dict[str, Any], device: str) -> Runner:
        import torch

        X, h0, W, U, b = arguments.values()
        dtype = torch.bfloat16 if task.precision == "bf16" else X.dtype
        net = getattr(torch.nn, task.cudnn)(X.shape[2], h0.shape[1]).to(device)
        with torch.no_grad():
            net.weight_ih_l0.copy_(W.T)
            net.weight_hh_l0.copy_(U.T)
            net.bias_ih_l0.copy_(b)
            net.bias_hh_l0.zero_()
        net = net.to(dtype)
        net.flatten_parameters()
        X, h0 = X.to(dtype), h0.to(dtype)[None]
        start = (h0, h0) if task.cudnn == "LSTM" else h0

        def forward() -> list[Any]:
            with torch.no_grad():
                return [net(X, start)[0]]

        parameters = [net.weight_ih_l0, net.weight_hh_l0, net.bias_ih_l0]

        def gradient() -> list[Any]:
            cost = task.cost(net(X, start), arguments)
            of_W, of_U, of_b = torch.autograd.grad(cost, parameters)
            return [cost.detach(), of_W.T, of_U.T, of_b]

        def arrays(results: list[Any]) -> list[Any]:
            return [r.to(torch.float32) for r in results]

        return Runner(forward if kind == FORWARD else gradient, torch_wait(device), arrays)


class FlashLinearAttention(System):
    """The kernel of flash-linear-attention that goes step by step: by hand, in Triton, without a gradient.

    It computes, for each of H heads of a batch of B, with keys k, values v, queries q and rates of writing beta,

        S = exp(g) S;  S = S + k (beta (v - k S));  o = scale q S,

    from arrays of shape (B, steps, H, size), (B, steps, H) for g and beta, and (B, H, size, size) for S. That is our
    rule with g = log a, scale 1 and a batch of one. The logarithm is taken before the clock starts.
    """

    name = package = "flash-linear-attention"
    function: ClassVar[str] = "fused_recurrent_gated_delta_rule"
    gpu_only = True

    def version(self) -> str | None:
        """The version of the package, or of `fla-core`, which has the kernels since 2025 and can be installed alone."""
        if importlib.util.find_spec("fla") is None:
            return None
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return super().version() or importlib.metadata.version("fla-core")
        return None

    def can(self, task: Task, kind: str) -> bool:
        return isinstance(task, DeltaRule) and kind == FORWARD

    def build(self, task: Task, kind: str, arguments: dict[str, Any], device: str) -> Runner:
        import torch

        q, k, v, a, b, S0 = (x[None] for x in arguments.values())
        leaves = [x.detach().clone().requires_grad_(kind != FORWARD) for x in (q, k, v)]
        rule = getattr(importlib.import_module("fla.ops.gated_delta_rule"), self.function)
        given = {"g": a.log(), "beta": b, "initial_state": S0, "scale": 1.0}

        def forward() -> list[Any]:
            with torch.no_grad():
                return [rule(*leaves, **given)[0][0]]

        def gradient() -> list[Any]:
            cost = task.cost([rule(*leaves, **given)[0][0]], arguments)
            return [cost.detach(), *(slope[0] for slope in torch.autograd.grad(cost, leaves))]

        return Runner(forward if kind == FORWARD else gradient, torch_wait(device))


class ChunkedAttention(FlashLinearAttention):
    """Its other form: chunks of steps as products of matrices on tensor cores, which round to TF32; with a gradient."""

    name = "flash-linear-attention, chunked"
    function = "chunk_gated_delta_rule"

    def can(self, task: Task, kind: str) -> bool:
        return isinstance(task, DeltaRule)

    def as_computed(self, task: Task) -> Task:
        return dataclasses.replace(task, precision="tf32")


SYSTEMS: dict[str, System] = {
    s.name: s
    for s in (
        Cudnn(),
        Scan(),
        AssociativeScan(),
        FlashLinearAttention(),
        TorchLoop(),
        Graph(),
        UnrolledScan(),
        Compiled(),
        ChunkedAttention(),
        Ostinato(),
    )
}  # in the order in which they are built; those to be believed before those that are compared with them


def flat(pair: Any) -> list[Any]:
    """The cost and the tuple of its gradients as one list."""
    return [pair[0], *pair[1]]


def jax_ops(jax: Any) -> Ops:
    jnp = jax.numpy

    def layer_norm(x: Any, gain: Any, bias: Any = 0) -> Any:
        return jax.nn.standardize(x, epsilon=1e-5) * gain + bias

    return Ops(
        tanh=jnp.tanh,
        exp=jnp.exp,
        log=jnp.log,
        sigmoid=jax.nn.sigmoid,
        peak=lambda x: x.max(-1, keepdims=True),
        split=lambda x, n: jnp.split(x, n, -1),
        contract=lambda k, S: (k[:, :, None] * S).sum(1),
        layer_norm=layer_norm,
    )


def jax_product(jax: Any, precision: str) -> Callable[[Any], Callable[..., Any]]:
    def product(W: Any) -> Callable[..., Any]:
        if precision != "bf16":
            return lambda h, x=0: x + h @ W
        half = jax.numpy.bfloat16
        V = W.astype(half)
        return lambda h, x=0: x + jax.numpy.matmul(h.astype(half), V, preferred_element_type=W.dtype)

    return product


def torch_ops(torch: Any) -> Ops:
    def layer_norm(x: Any, gain: Any, bias: Any = None) -> Any:
        return torch.nn.functional.layer_norm(x, gain.shape, gain, bias)

    return Ops(
        tanh=torch.tanh,
        exp=torch.exp,
        log=torch.log,
        sigmoid=torch.sigmoid,
        peak=lambda x: x.amax(-1, keepdim=True),
        split=lambda x, n: x.chunk(n, -1),
        contract=lambda k, S: torch.bmm(k[:, None, :], S)[:, 0],
        layer_norm=layer_norm,
    )


def torch_product(torch: Any, precision: str) -> Callable[[Any], Callable[..., Any]]:
    def product(W: Any) -> Callable[..., Any]:
        V = W.bfloat16() if precision == "bf16" else W

        def apply(h: Any, x: Any = None) -> Any:
            if precision == "bf16":
                y = (h.bfloat16() @ V).to(W.dtype)
                return y if x is None else x + y
            if x is None:
                return h @ V
            return torch.addmm(x, h, V) if h.ndim == 2 else x + h @ V

        return apply

    return product


def torch_wait(device: str) -> Callable[[Any], None]:
    return (lambda _: torch_module().cuda.synchronize()) if device == CUDA else (lambda _: None)


def captured(torch: Any, function: Callable[[], list[Any]]) -> Runner:
    """A function's work as a CUDA graph."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):
            function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()

    def replay() -> list[Any]:
        graph.replay()
        return results

    return Runner(replay, torch_wait(CUDA))


def kernels_captured(torch: Any, function: Callable[[], Any]) -> int:
    """How many kernels a function launches: the kernel nodes of its CUDA graph."""
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(graph):
        kept = function()
    driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_size_t()
    raw = ctypes.c_void_p(graph.raw_cuda_graph())
    if driver.cuGraphGetNodes(raw, None, ctypes.byref(count)):
        raise RuntimeError("the nodes of a CUDA graph cannot be counted")
    nodes = (ctypes.c_void_p * count.value)()
    driver.cuGraphGetNodes(raw, nodes, ctypes.byref(count))
    found, of_kernels = 0, 0
    for node in nodes:
        kind = ctypes.c_int()
        driver.cuGraphNodeGetType(ctypes.c_void_p(node), ctypes.byref(kind))
        found += kind.value == of_kernels
    del kept
    return found


def bandwidth(device: str) -> float:
    """Bytes per second of a copy, read and written."""
    torch = torch_module()
    if torch is None:
        a, b = np.ones(1 << 22, "float32"), np.ones(1 << 22, "float32")
        runner = Runner(lambda: np.copyto(a, b), lambda _: None)
    else:
        a, b = (torch.ones(1 << (28 if device == CUDA else 22), device=device) for _ in range(2))
        runner = Runner(lambda: a.copy_(b), torch_wait(device))
    best = np.inf
    for _ in range(5):
        runner.wait(None)
        start = time.perf_counter()
        for _ in range(5):
            runner.call()
        runner.wait(None)
        best = min(best, (time.perf_counter() - start) / 5)
    return 2 * a.nbytes / best


def quiet() -> None:
    """No warnings about settings that are about to be renamed, or about compilations that took long."""
    warnings.filterwarnings("ignore")
