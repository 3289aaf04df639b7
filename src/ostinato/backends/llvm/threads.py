"""Threads: lanes of a loop divided among them, and the threads that wait for work; native parts in LLVM IR.

A compiled function calls `spread` with one of its own functions, which computes some of the lanes. If there is
enough to do, parts of the lanes are lined up, and whoever is free takes the next: the caller, and threads that wait in
`work` for as long as the process lives. Python starts these, and they come back never; they have no GIL, and wait on
locks of Python's, which is all that is asked of the system. Nothing waits for anything else while a part is
computed. A thread that was called and did not wake in time is called off: its part is computed by those who did.

Each part has its own workspace. What the lanes have in common is computed for each part again, so that results do
not depend on how many parts there are.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

from llvmlite import ir

from ostinato.backends.llvm.emit import BASE, CAPACITY, DONE, N_CONTEXT, NO_MEMORY, RUNTIME, THREADS, TOO_SMALL, TOP
from ostinato.backends.llvm.emit import WANTED as WANTED_BYTES
from ostinato.backends.llvm.pool import Pool, room
from ostinato.backends.llvm.scalar import I32, I64, PTR
from ostinato.backends.llvm.writer import NULL, Writer, words_on_stack

# At most so many threads wait for work.
MOST = 63
# What pays for a thread, in additions (see `lower.lanes.costs`); about 0.15 ms.
_WORTH = 5_000_000

# Words of a thread that waits: what it does, for whom, the lock that wakes it and the one that tells it is done.
_STATE, _TASK, _WAKE, _READY = range(4)
WORDS = 16  # so that no two share a line of cache
_IDLE, _TAKEN, _CALLED, _RUNNING = range(4)

# Words of a task: function and closure, lanes in all, in a part, parts, the next part, a return code that is not DONE,
# the context, and bytes of workspace.
_FUNCTION, _CLOSURE, _COUNT, _SIZE, _PARTS, _NEXT, _STATUS, _CONTEXT, _ROOM = range(9)
_N_TASK = 9
_HEAD = (8 * N_CONTEXT + 63) // 64 * 64
_FIRST_ROOM, _SLACK = 1 << 16, 1 << 12
PART_TYPE = ir.FunctionType(I32, [PTR, I64, I64, PTR])


class Names:
    """The words of the runtime that concern threads: Python's locks, threads that wait, what pays for one."""

    def __init__(self, first: int) -> None:
        self.acquire, self.release, self.waiting, self.n_waiting, self.worth = range(first, first + 5)


N_WORDS = 5


def functions(module: ir.Module, pool: Pool, names: Names) -> tuple[Any, Any]:
    """`spread(context, function, closure, lanes, work, least lanes of a part) -> code`, and `work(runtime, words)`."""
    part = _part(module, pool)
    parts = _parts(module, part)
    return _spread(module, parts, names), _work(module, parts, names)


def _part(module: ir.Module, pool: Pool) -> Any:
    """Compute one part in a workspace of its own, a larger one if it must be: part(task, number)."""
    w = Writer(module, "threads.part", ir.VoidType(), [PTR, I64])
    b, (task, number) = w.b, w.args
    context = w.word(task, _CONTEXT, PTR)
    runtime = w.word(context, RUNTIME, PTR)
    first = b.mul(number, w.word(task, _SIZE))
    rest, size = b.sub(w.word(task, _COUNT), first), w.word(task, _SIZE)
    n = b.select(w.is_(rest, "<", size), rest, size)
    with w.loop():
        block = b.call(pool.take, [runtime, w.word(task, _ROOM)])
        with w.when(w.is_(block, "==", NULL)):
            w.put(task, _STATUS, I64(NO_MEMORY))
            b.ret_void()
        w.copy(block, context, I64(8 * N_CONTEXT))
        w.put(block, BASE, w.beyond(block, I64(_HEAD)))
        w.put(block, CAPACITY, b.sub(room(w, block), I64(_HEAD)))
        w.put(block, TOP, I64(0))
        function = b.inttoptr(w.word(task, _FUNCTION), PART_TYPE.as_pointer())
        code = b.call(function, [w.word(task, _CLOSURE, PTR), first, n, block])
        wanted, double = b.add(w.word(block, WANTED_BYTES), I64(_HEAD + _SLACK)), b.mul(room(w, block), I64(2))
        b.call(pool.give, [runtime, block])
        with w.when(w.is_(code, "!=", I32(TOO_SMALL))):
            with w.when(w.is_(code, "!=", I32(DONE))):
                w.put(task, _STATUS, b.zext(code, I64))
            b.ret_void()
        w.put(task, _ROOM, b.select(w.is_(wanted, "<", double), double, wanted))
    b.unreachable()
    return w.function


def _parts(module: ir.Module, part: Any) -> Any:
    """Take parts and compute them until there are none: parts(task)."""
    w = Writer(module, "threads.parts", ir.VoidType(), [PTR])
    task = w.args[0]
    with w.loop() as after:
        number = w.b.atomic_rmw("add", w.at(task, _NEXT), I64(1), "seq_cst")
        w.leave_if(w.is_(number, ">=", w.word(task, _PARTS)), after)
        w.b.call(part, [task, number])
    w.b.ret_void()
    return w.function


def _exchange(w: Writer, worker: Any, before: int, after: int) -> Any:
    """Change the state of a thread, if it is the one expected; whether it was."""
    pair = w.b.cmpxchg(w.at(worker, _STATE), I64(before), I64(after), "seq_cst", "seq_cst")
    return w.b.extract_value(pair, 1)


def _set_state(w: Writer, worker: Any, state: int) -> None:
    w.b.atomic_rmw("xchg", w.at(worker, _STATE), I64(state), "seq_cst")


def _spread(module: ir.Module, parts: Any, names: Names) -> Any:
    w = Writer(module, "threads.spread", I32, [PTR, PTR, PTR, I64, I64, I64])
    b, (context, function, closure, count, work, least) = w.b, w.args
    runtime = w.word(context, RUNTIME, PTR)
    wanted = w.variable(w.word(context, THREADS))
    for limit in (b.sdiv(work, w.word(runtime, names.worth)), b.sdiv(count, least)):
        with w.when(b.icmp_signed("<", limit, w.now(wanted))):
            w.set(wanted, limit)
    with w.when(b.icmp_signed("<=", w.now(wanted), I64(1))):
        top = w.word(context, TOP)
        code = w.call(b.ptrtoint(function, I64), I32, [closure, I64(0), count, context])
        w.put(context, TOP, top)  # what a part takes is of use to nobody else
        b.ret(code)
    with b.goto_entry_block():
        task, called = (words_on_stack(b, n) for n in (_N_TASK, MOST))
    # Whole vectors, and whole lines of cache where lanes lie beside each other.
    size = b.udiv(b.sub(b.add(count, w.now(wanted)), I64(1)), w.now(wanted))
    size = b.mul(b.udiv(b.add(size, b.sub(least, I64(1))), least), least)
    n_parts = b.udiv(b.sub(b.add(count, size), I64(1)), size)
    for k, value in (
        (_FUNCTION, function), (_CLOSURE, closure), (_COUNT, count), (_SIZE, size), (_PARTS, n_parts),
        (_NEXT, I64(0)), (_STATUS, I64(DONE)), (_CONTEXT, context), (_ROOM, I64(_FIRST_ROOM)),
    ):  # fmt: skip
        w.put(task, k, value)
    n_called = w.variable(I64(0))
    with w.count(w.word(runtime, names.n_waiting)) as k:
        worker = w.at(w.word(runtime, names.waiting, PTR), b.mul(k, I64(WORDS)))
        more = w.is_(b.add(w.now(n_called), I64(1)), "<", n_parts)
        with w.when(more), w.when(_exchange(w, worker, _IDLE, _TAKEN)):
            w.put(worker, _TASK, task)
            _set_state(w, worker, _CALLED)
            w.call(w.word(runtime, names.release), ir.VoidType(), [w.word(worker, _WAKE, PTR)])
            w.put(called, w.now(n_called), worker)
            w.set(n_called, b.add(w.now(n_called), I64(1)))
    b.call(parts, [task])
    with w.count(w.now(n_called)) as k:
        worker = w.word(called, k, PTR)
        with w.when(b.not_(_exchange(w, worker, _CALLED, _IDLE))):
            w.call(w.word(runtime, names.acquire), I32, [w.word(worker, _READY, PTR), I32(1)])
            _set_state(w, worker, _IDLE)
    b.ret(b.trunc(w.word(task, _STATUS), I32))
    return w.function


def _work(module: ir.Module, parts: Any, names: Names) -> Any:
    """Wait for tasks and take part in them, for ever: work(runtime, words of this thread)."""
    w = Writer(module, "threads.work", ir.VoidType(), [PTR, PTR])
    runtime, worker = w.args
    with w.loop():
        w.call(w.word(runtime, names.acquire), I32, [w.word(worker, _WAKE, PTR), I32(1)])
        with w.when(_exchange(w, worker, _CALLED, _RUNNING)):  # else it was called off
            w.b.call(parts, [w.word(worker, _TASK, PTR)])
            w.call(w.word(runtime, names.release), ir.VoidType(), [w.word(worker, _READY, PTR)])
    w.b.unreachable()
    return w.function


# ---- the threads themselves -----------------------------------------------------------------------


def available_cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Threads:
    """The threads of a process that wait for work.

    Parameters
    ----------
    words : the words of the runtime.
    work : the address of the native function in which they wait.
    """

    def __init__(self, words: Any, names: Names, work: int) -> None:
        self._words, self._names = words, names
        self._work = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(work)
        self._table = (ctypes.c_int64 * (WORDS * MOST))()
        api = ctypes.pythonapi
        words[names.waiting] = ctypes.addressof(self._table)
        words[names.acquire] = ctypes.cast(api.PyThread_acquire_lock, ctypes.c_void_p).value
        words[names.release] = ctypes.cast(api.PyThread_release_lock, ctypes.c_void_p).value
        words[names.worth] = _WORTH
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def want(self, n: int) -> None:
        """See to it that with the caller's there are n threads, as far as the system gives them."""
        with self._lock:
            while (k := int(self._words[self._names.n_waiting])) < min(n - 1, MOST):
                first = k * WORDS
                self._table[first : first + 4] = [_IDLE, 0, _closed_lock(), _closed_lock()]
                place = ctypes.addressof(self._table) + 8 * first
                args = (self._words.ctypes.data, place)
                try:
                    threading.Thread(target=self._work, args=args, daemon=True, name=f"ostinato-{k + 1}").start()
                except RuntimeError:  # there are as many as there can be
                    return
                self._words[self._names.n_waiting] = k + 1

    def _forget(self) -> None:
        """A forked process has none of the threads; it gets new ones with the next function that is compiled."""
        self._lock = threading.Lock()
        self._words[self._names.n_waiting] = 0


def _closed_lock() -> int:
    """A lock of Python's, held: who wants it waits until it is released."""
    api = ctypes.pythonapi
    allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", api))
    acquire = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(("PyThread_acquire_lock", api))
    lock = allocate()
    if not lock:
        raise MemoryError
    acquire(lock, 0)
    return int(lock)
