"""On which device a function runs, and why. Nothing here imports what a GPU needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

from ostinato.config import config, device_name
from ostinato.errors import DeviceError, OstinatoValueError
from ostinato.graph import Graph, Node
from ostinato.ops.loop import LOOP, LoopSpec, body_of

GPU = "gpu"  # the mode that runs functions on a GPU, for programs that know of NumPy only

# So few elements of a state are no lanes that could be shared out: one program holds them.
_FEW = 16
_ADDING = ("add", "inc_subtensor", "scatter_add")
_INDEXING = ("subtensor", "set_subtensor", "inc_subtensor")


class Choice(NamedTuple):
    """Where a function runs.

    Attributes
    ----------
    device : "cpu" or "cuda".
    mode : the backend's name; None for that of `config.mode`.
    tensors : whether a call returns tensors of torch; else arrays of NumPy.
    why : what was decided by device="auto" and why, in words; empty if it was not asked.
    """

    device: str
    mode: Any = None
    tensors: bool = False
    why: str = ""


def choose(device: Any, mode: Any, graph: Graph) -> Choice:
    """The device of a function whose arguments `device` and `mode` are these, or None.

    Raises
    ------
    OstinatoValueError
        If there is no such device, or the mode does not run on it.
    DeviceError
        If it is a GPU, and none can be used.
    """
    from ostinato.backends import is_default_mode, mode_name

    asked, own = _named(device), None if is_default_mode(mode) else mode_name(mode)
    wanted, name = asked or ("cpu" if own else config.device), own or mode_name(None)
    if asked is None and wanted == "cpu" and name == GPU:
        return _on_gpu(tensors=False)
    _check_modes(wanted, name, own is not None)
    if wanted == "auto":
        cpu, why = _automatic(graph)
        return Choice("cpu", mode, why=f"cpu, {why}") if cpu else _on_gpu(tensors=True, why=f"cuda, {why}")
    return Choice("cpu", mode) if wanted == "cpu" else _on_gpu(tensors=True)


def _named(device: Any) -> Any:
    name = device_name(device)
    if name not in (None, "cpu", "cuda", "auto"):
        name = str(device)
    if name not in (None, "cpu", "cuda", "auto"):
        raise OstinatoValueError(f"function: device is one of 'cpu', 'cuda', 'auto', not {device!r}")
    return name


def _check_modes(device: str, mode: str, is_given: bool) -> None:
    if device != "cuda" and mode == GPU:
        where = "" if is_given else " of the configuration"
        raise OstinatoValueError(f"device={device!r} and mode='gpu'{where} contradict each other; give mode='native'")
    if device == "cuda" and mode != GPU and is_given:
        raise OstinatoValueError(f"device='cuda' and mode={mode!r}, which runs on the CPU: give one of them only")


def _on_gpu(tensors: bool, why: str = "") -> Choice:
    require_gpu()
    return Choice("cuda", GPU, tensors, why)


def require_gpu() -> None:
    """Raise `DeviceError` if functions cannot run on a GPU."""
    problem = why_unusable()
    if problem is not None:
        raise DeviceError(
            f"no GPU can be used: {problem}. Install what a GPU needs by `pip install ostinato[gpu]`, or run on the "
            "CPU with device='cpu', or with device='auto', which uses a GPU only where there is one"
        )


def why_unusable() -> str | None:
    """What is missing for functions to run on a GPU; None if nothing is."""
    missing = [m for m in ("torch", "triton") if find_spec(m) is None]
    if missing:
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
    from ostinato.backends.triton.kernels import is_interpreted, is_rehearsal

    if is_interpreted() or is_rehearsal():
        return None
    import torch

    if torch.cuda.is_available():
        return None
    hidden = " (CUDA_VISIBLE_DEVICES is set)" if "CUDA_VISIBLE_DEVICES" in os.environ else ""
    return f"torch {torch.__version__} finds none{hidden}"


# ---- device="auto" --------------------------------------------------------------------------------


def _automatic(graph: Graph) -> tuple[bool, str]:
    """Whether the CPU is to be preferred for a graph, and why."""
    problem = why_unusable()
    if problem is not None:
        return True, f"since no GPU can be used: {problem}"
    return prefers_cpu(graph)


def prefers_cpu(graph: Graph) -> tuple[bool, str]:
    """Whether a graph has no work to share out among the lanes of a GPU, and why one thinks so."""
    loops = list(_loops(graph))
    if not loops:
        return True, "since there is no loop to make a kernel of"
    for spec in loops:
        reason = _shared_out(spec)
        if reason:
            return False, f"since {reason}"
    return True, f"since {_them(len(loops))} a single scalar chain: a CPU is faster"


def _them(n: int) -> str:
    return "its loop is" if n == 1 else "each of its loops is"


def _loops(graph: Graph) -> Iterator[LoopSpec]:
    waiting = [graph]
    while waiting:
        for node in waiting.pop().nodes():
            if node.op is LOOP:
                yield node.params[0]
                waiting.append(node.params[0].body)


def _shared_out(spec: LoopSpec) -> str:
    """What of a loop can be shared out, in words; empty if it is one chain of a few numbers."""
    body, name = body_of(spec), f"loop {spec.name!r}" if spec.name else "a loop"
    users: dict[Node, list[Node]] = {c: [] for c in body.carries}
    for node in spec.body.nodes():
        for i in node.inputs:
            if i in users:
                users[i].append(node)
    chains = [
        c
        for c, n in zip(body.carries, body.next_carries, strict=True)
        if n is not c and not (users[c] == [n] and n.op.name in _ADDING)
    ]
    if not chains:
        return f"{name} has steps that do not wait for each other"
    for c in chains:
        if _has_lanes(c, users[c]):
            return f"{name} carries states of type {c.type}, whose elements can be shared out"
    return ""


def _has_lanes(carry: Node, users: list[Node]) -> bool:
    """Whether a state has more than a few elements; axes whose elements the step takes one by one do not count."""
    shape = list(carry.type.shape)
    if any(u.op.name in _INDEXING and u.inputs[0] is carry and u.params[0][:1] == (None,) for u in users):
        shape = shape[1:]
    count = 1
    for size in shape:
        if size is None:
            return True
        count *= size
    return count > _FEW
