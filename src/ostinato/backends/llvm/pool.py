"""The pool: memory for results and workspaces that outlives what asked for it, written in LLVM IR.

Pages that were never touched are dear, so memory that is given back waits for whoever wants so much again.
There are four sizes per power of two, each with a list of blocks. How much waits is bounded; beyond that,
blocks of other sizes are freed, in turn. All of this runs without the GIL and from many threads: a lock
guards the lists, and who does not get it soon takes from the system instead of waiting.

A block is aligned to 64 bytes; the 64 bytes before it belong to the pool. The state of the pool is a table of
words, the *runtime*, which Python allocates and fills (`runtime.py`).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ostinato.backends.llvm.scalar import I1, I64, PTR
from ostinato.backends.llvm.writer import NULL, Writer

# Words of the runtime: the lock, bytes that wait and how many may, whose turn it is to be freed, the addresses of
# malloc and free. Then what else the runtime is made of, see entry.py; the lists come last.
LOCK, WAITING, LIMIT, TURN, MALLOC, FREE, ADVISE = range(7)
N_POOL = 7
N_LISTS = 256

# Words of a block's head: what malloc gave, the list, the room in bytes, the next block in the list.
_GIVEN, _LIST, _ROOM, _NEXT = range(-8, -4)
_ALIGN = 64
_SMALLEST = 256
_LARGEST = 1 << 46  # more than there is: such a size is a mistake, or a negative number
_ATTEMPTS = 100
_HUGE_PAGE, _USE_HUGE_PAGES = 1 << 21, 14  # of Linux


class Pool:
    """Writes the functions of the pool into a module; `lists` is the word where the lists begin."""

    def __init__(self, module: ir.Module, lists: int) -> None:
        self.module, self.lists = module, lists
        self.lock = self._lock()
        self.trim = self._trim()
        self.take = self._take()
        self.give = self._give()
        self.free = self._free_block()

    def _writer(self, name: str, result: Any, *params: Any) -> Writer:
        return Writer(self.module, f"pool.{name}", result, params)

    def _lock(self) -> Any:
        """Try to get the lock; whether that succeeded."""
        w = self._writer("lock", I1, PTR)
        with w.count(I64(_ATTEMPTS)):
            before = w.b.atomic_rmw("xchg", w.at(w.args[0], LOCK), I64(1), "acquire")
            with w.when(w.is_(before, "==", I64(0))):
                w.b.ret(I1(1))
        w.b.ret(I1(0))
        return w.function

    def _unlock(self, w: Writer) -> None:
        w.b.atomic_rmw("xchg", w.at(w.args[0], LOCK), I64(0), "release")

    def _popped(self, w: Writer, list_: Any, head: Any) -> None:
        """Take the first block off a list."""
        runtime = w.args[0]
        w.put(runtime, list_, w.word(head, _NEXT))
        w.put(runtime, WAITING, w.b.sub(w.word(runtime, WAITING), w.word(head, _ROOM)))

    def _trim(self) -> Any:
        """Free blocks until no more than so many bytes wait."""
        w = self._writer("trim", ir.VoidType(), PTR, I64)
        runtime, limit = w.args
        freed = w.variable(NULL)
        out = w.block("out")
        w.leave_if(w.is_(w.word(runtime, WAITING), "<=", limit), out)
        w.leave_if(w.b.not_(w.b.call(self.lock, [runtime])), out)
        with w.loop() as after:
            w.leave_if(w.is_(w.word(runtime, WAITING), "<=", limit), after)
            turn = w.b.and_(w.b.add(w.word(runtime, TURN), I64(1)), I64(N_LISTS - 1))
            w.put(runtime, TURN, turn)
            list_ = w.b.add(turn, I64(self.lists))
            head = w.word(runtime, list_, PTR)
            with w.when(w.is_(head, "!=", NULL)):
                self._popped(w, list_, head)
                w.put(head, _NEXT, w.now(freed))
                w.set(freed, head)
        self._unlock(w)
        with w.loop() as after:  # not under the lock: to free a large block takes long
            head = w.now(freed)
            w.leave_if(w.is_(head, "==", NULL), after)
            w.set(freed, w.word(head, _NEXT, PTR))
            self._free(w, head)
        w.b.branch(out)
        w.b.position_at_end(out)
        w.b.ret_void()
        return w.function

    def _free(self, w: Writer, block: Any) -> None:
        w.call(w.word(w.args[0], FREE), ir.VoidType(), [w.word(block, _GIVEN, PTR)])

    def _free_block(self) -> Any:
        """Give a block to the system."""
        w = self._writer("free", ir.VoidType(), PTR, PTR)
        self._free(w, w.args[1])
        w.b.ret_void()
        return w.function

    def _take(self) -> Any:
        """A block with room for so many bytes; null if there is no memory."""
        w = self._writer("take", PTR, PTR, I64)
        b, (runtime, n_bytes) = w.b, w.args
        with w.when(w.is_(n_bytes, ">", I64(_LARGEST))):
            b.ret(NULL)
        small = w.is_(n_bytes, "<", I64(_SMALLEST))
        last = b.sub(b.select(small, I64(_SMALLEST), n_bytes), I64(1))
        octave = b.sub(I64(63), b.ctlz(last, I1(1)))
        shift = b.sub(octave, I64(2))
        part = b.lshr(last, shift)
        room = b.shl(b.add(part, I64(1)), shift)
        number = b.add(b.mul(octave, I64(4)), b.and_(part, I64(3)))
        list_ = b.add(number, I64(self.lists))
        with w.when(b.call(self.lock, [runtime])):
            head = w.word(runtime, list_, PTR)
            with w.when(w.is_(head, "!=", NULL)):
                self._popped(w, list_, head)
                self._unlock(w)
                b.ret(head)
            self._unlock(w)
        b.ret(self._new(w, list_, room))
        return w.function

    def _new(self, w: Writer, list_: Any, room: Any) -> Any:
        """A block from the system; if there is none, from what waits in other lists."""
        b, runtime = w.b, w.args[0]
        size = b.add(room, I64(2 * _ALIGN))
        given = w.variable(w.call(w.word(runtime, MALLOC), PTR, [size]))
        with w.when(w.is_(w.now(given), "==", NULL)):
            b.call(self.trim, [runtime, I64(0)])
            w.set(given, w.call(w.word(runtime, MALLOC), PTR, [size]))
        with w.when(w.is_(w.now(given), "==", NULL)):
            b.ret(NULL)
        start = b.ptrtoint(w.now(given), I64)
        block = b.inttoptr(b.and_(b.add(start, I64(2 * _ALIGN - 1)), I64(-_ALIGN)), PTR)
        w.put(block, _GIVEN, w.now(given))
        w.put(block, _LIST, list_)
        w.put(block, _ROOM, room)
        advise = w.word(runtime, ADVISE)
        large = w.is_(room, ">=", I64(2 * _HUGE_PAGE))
        with w.when(b.and_(large, w.is_(advise, "!=", I64(0)))):
            first = b.and_(b.add(start, I64(_HUGE_PAGE - 1)), I64(-_HUGE_PAGE))
            n_bytes = b.sub(b.add(start, size), first)
            w.call(advise, ir.IntType(32), [first, n_bytes, ir.IntType(32)(_USE_HUGE_PAGES)])
        return block

    def _give(self) -> Any:
        """Give a block back; nothing if it is null."""
        w = self._writer("give", ir.VoidType(), PTR, PTR)
        b, (runtime, block) = w.b, w.args
        with w.when(w.is_(block, "==", NULL)):
            b.ret_void()
        room, limit = w.word(block, _ROOM), w.word(runtime, LIMIT)
        with w.when(w.is_(room, "<=", limit)):
            b.call(self.trim, [runtime, b.sub(limit, room)])
            with w.when(b.call(self.lock, [runtime])):
                waiting = b.add(w.word(runtime, WAITING), room)
                with w.when(w.is_(waiting, "<=", limit)):
                    list_ = w.word(block, _LIST)
                    w.put(block, _NEXT, w.word(runtime, list_))
                    w.put(runtime, list_, block)
                    w.put(runtime, WAITING, waiting)
                    self._unlock(w)
                    b.ret_void()
                self._unlock(w)
        self._free(w, block)
        b.ret_void()
        return w.function


def room(w: Writer, block: Any) -> Any:
    """The bytes that a block has room for."""
    return w.word(block, _ROOM)


def allocator(module: ir.Module, pool: Pool) -> list[Any]:
    """The four functions that NumPy asks of whoever owns the memory of an array (its NEP 49); `pool` is behind."""
    malloc = Writer(module, "array.malloc", PTR, [PTR, I64])
    malloc.b.ret(malloc.b.call(pool.take, malloc.args))
    calloc = Writer(module, "array.calloc", PTR, [PTR, I64, I64])
    n_bytes = calloc.b.mul(calloc.args[1], calloc.args[2])
    zeros = calloc.b.call(pool.take, [calloc.args[0], n_bytes])
    with calloc.when(calloc.is_(zeros, "!=", NULL)):
        calloc.clear(zeros, n_bytes)
    calloc.b.ret(zeros)
    free = Writer(module, "array.free", ir.VoidType(), [PTR, PTR, I64])
    free.b.call(pool.give, free.args[:2])
    free.b.ret_void()
    return [malloc.function, calloc.function, _realloc(module, pool), free.function]


def _realloc(module: ir.Module, pool: Pool) -> Any:
    w = Writer(module, "array.realloc", PTR, [PTR, PTR, I64])
    runtime, old, n_bytes = w.args
    with w.when(w.is_(old, "==", NULL)):
        w.b.ret(w.b.call(pool.take, [runtime, n_bytes]))
    with w.when(w.is_(n_bytes, "<=", room(w, old))):
        w.b.ret(old)
    new = w.b.call(pool.take, [runtime, n_bytes])
    with w.when(w.is_(new, "!=", NULL)):
        w.copy(new, old, room(w, old))
        w.b.call(pool.give, [runtime, old])
    w.b.ret(new)
    return w.function
