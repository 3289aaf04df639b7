"""The fast way into a compiled function: one C function for all of them, written in LLVM IR.

Python calls it with arrays. It checks that each is exactly what the native code expects, copies those that are
not contiguous, packs addresses and sizes, releases the GIL, runs, takes the GIL and makes arrays of the results,
to which it gives the memory that they were written to. Whatever it does not expect, it leaves to Python: it
returns None. It knows how
CPython and NumPy lay out their objects; `runtime.py` uses it only where a test has shown that it is right.

What is particular to a compiled function stands in its *descriptor*, a table of words in an array that the C
function gets as `self`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ostinato.backends.llvm import threads
from ostinato.backends.llvm.emit import (
    BASE,
    CAPACITY,
    DONE,
    N_CONTEXT,
    NO_MEMORY,
    RUNTIME,
    TAKE,
    TOO_SMALL,
    TOP,
    WANTED,
)
from ostinato.backends.llvm.pool import N_POOL, Pool, allocator, room
from ostinato.backends.llvm.scalar import I32, I64, PTR
from ostinato.backends.llvm.threads import N_WORDS, Names
from ostinato.backends.llvm.writer import NULL, Writer

# Words of the runtime after those of the pool: addresses of functions of Python and NumPy, and of objects.
(
    SAVE_THREAD,
    RESTORE_THREAD,
    INCREF,
    DECREF,
    NEW_LIST,
    SET_ITEM,
    SET_ERROR,
    MEMORY_ERROR,
    MESSAGE,
    NEW_ARRAY,
    NEW_COPY,
    NONE,
    ARRAY_TYPE,
    OWNER,
) = range(N_POOL, N_POOL + 14)
OF_THREADS = Names(N_POOL + 14)
LISTS = N_POOL + 14 + N_WORDS

# Words of a descriptor: the native function, bytes of workspace to begin with, the runtime, whether a single
# result is returned without a list; how many params and results, and words for them; the bytes of the largest
# workspace that is wanted, and those that a run would have taken beyond; the words of the context as they are when a
# run begins; then for each param its dtype, number of dimensions, two types of scalars that are
# welcome and, per dimension, the size or -1; then for each result its dtype and number of dimensions.
FUNCTION, WORKSPACE, OF_RUNTIME, SINGLE, N_PARAMS, N_RESULTS, N_ARGUMENT_WORDS, N_RESULT_WORDS = range(8)
MOST, EXCEEDED = 8, 9
CONTEXT = 10
PARAMS = CONTEXT + N_CONTEXT
_DTYPE, _NDIM, _SCALAR, _NUMBER, _SIZES = range(5)

# The functions in the table that `start` fills.
FUNCTIONS = (
    "take", "give", "trim", "run", "drop", "call", "malloc", "calloc", "realloc", "free", "probe", "spread", "work",
)  # fmt: skip

# What runs once, or when something is wrong, or in Python's stead for arrays that grow in place.
_RARE = ("start", "probe", "drop", "pool.trim", "array.calloc", "array.realloc")

# Where things lie within objects, in bytes.
TYPE_AT, NUMBER_AT = 8, 16
DATA_AT, NDIM_AT, SIZES_AT, DTYPE_AT, FLAGS_AT, OWNER_AT = 16, 24, 32, 56, 64, 88
_CONTIGUOUS, _OWNS, _ALIGNED, _WRITEABLE = 1, 4, 0x100, 0x400
_SLACK = 1 << 12
_LARGE = 1 << 20  # bytes of a workspace


def runtime_module() -> ir.Module:
    """The pool, the entry and what they share; `start(table)` tells the addresses of `FUNCTIONS`."""
    module = ir.Module(name="ostinato.runtime")
    pool = Pool(module, LISTS)
    drop = _drop(module, pool)
    run = _run(module, pool, drop)
    call = _call(module, pool, run, _made(module, drop), _end(module, pool))
    functions = [pool.take, pool.give, pool.trim, run, drop, call, *allocator(module, pool), _probe(module)]
    functions += threads.functions(module, pool, OF_THREADS)
    w = Writer(module, "start", ir.VoidType(), [PTR], export=True)
    for k, function in enumerate(functions):
        w.put(w.args[0], k, function)
    w.b.ret_void()
    for function in module.functions:
        if function.name in _RARE:  # to generate them well takes longer than they will ever run
            function.attributes.add("optnone")
            function.attributes.add("noinline")
    return module


# A block holds all that a run needs: the words of the context, of results and of arguments, copies of arguments
# (or null), then the workspace.


def _results(w: Writer, block: Any) -> Any:
    return w.at(block, N_CONTEXT)


def _arguments(w: Writer, descriptor: Any, block: Any) -> Any:
    return w.at(_results(w, block), w.word(descriptor, N_RESULT_WORDS))


def _copies(w: Writer, descriptor: Any, block: Any) -> Any:
    return w.at(_arguments(w, descriptor, block), w.word(descriptor, N_ARGUMENT_WORDS))


def _words_end(w: Writer, descriptor: Any) -> Any:
    """The bytes of a block before the workspace."""
    n = w.b.add(w.word(descriptor, N_RESULT_WORDS), w.word(descriptor, N_ARGUMENT_WORDS))
    n = w.b.add(n, w.word(descriptor, N_PARAMS))
    return w.b.and_(w.b.add(w.b.mul(w.b.add(n, I64(N_CONTEXT)), I64(8)), I64(63)), I64(-64))


def _result_specs(w: Writer, descriptor: Any) -> Any:
    """Where the words about results begin: after those about params."""
    n_fixed = w.b.mul(w.word(descriptor, N_PARAMS), I64(_SIZES - 1))  # an argument has one word besides its sizes
    return w.at(descriptor, w.b.add(w.b.add(n_fixed, w.word(descriptor, N_ARGUMENT_WORDS)), I64(PARAMS)))


def _drop(module: ir.Module, pool: Pool) -> Any:
    """Give back the memory of all results that nobody owns yet: drop(descriptor, block)."""
    w = Writer(module, "drop", ir.VoidType(), [PTR, PTR])
    descriptor, block = w.args
    runtime = w.word(descriptor, OF_RUNTIME, PTR)
    result, spec = w.variable(_results(w, block)), w.variable(_result_specs(w, descriptor))
    with w.count(w.word(descriptor, N_RESULTS)):
        w.b.call(pool.give, [runtime, w.word(w.now(result), 0, PTR)])
        w.put(w.now(result), 0, I64(0))
        _next_result(w, result, spec)
    w.b.ret_void()
    return w.function


def _next_result(w: Writer, result: Any, spec: Any) -> None:
    w.set(result, w.at(w.now(result), w.b.add(w.word(w.now(spec), _NDIM), I64(1))))
    w.set(spec, w.at(w.now(spec), 2))


def _run(module: ir.Module, pool: Pool, drop: Any) -> Any:
    """Run with the arguments in the block, in a larger block if it must be: run(descriptor, place of block) -> code.

    The results of a run that fails are given back. Nothing here needs the GIL.
    """
    w = Writer(module, "run", I32, [PTR, PTR])
    b, (descriptor, place) = w.b, w.args
    runtime, end = w.word(descriptor, OF_RUNTIME, PTR), _words_end(w, descriptor)
    with w.loop():
        block = w.word(place, 0, PTR)
        w.copy(block, w.at(descriptor, CONTEXT), I64(8 * N_CONTEXT))
        results, arguments = _results(w, block), _arguments(w, descriptor, block)
        w.clear(results, b.mul(w.word(descriptor, N_RESULT_WORDS), I64(8)))
        w.put(block, BASE, w.beyond(block, end))
        w.put(block, CAPACITY, b.sub(room(w, block), end))
        w.put(block, TOP, I64(0))
        code = w.call(w.word(descriptor, FUNCTION), I32, [arguments, results, block])
        with w.when(w.is_(code, "==", I32(DONE))):
            b.ret(code)
        b.call(drop, [descriptor, block])
        with w.when(w.is_(code, "!=", I32(TOO_SMALL))):
            b.ret(code)
        n_bytes = b.add(b.add(w.word(block, WANTED), end), I64(_SLACK))
        # A small workspace grows fast: seldom, and so that little was used of those before. Pages of a large one are
        # dear: some reserve will do.
        more = b.mul(room(w, block), I64(4))
        least = b.select(w.is_(n_bytes, "<", I64(_LARGE)), more, b.add(n_bytes, b.ashr(n_bytes, I64(3))))
        larger = b.select(w.is_(n_bytes, "<", least), least, n_bytes)
        with w.when(w.is_(larger, ">", w.word(descriptor, MOST))):
            w.put(descriptor, EXCEEDED, larger)
            b.ret(code)
        new = b.call(pool.take, [runtime, larger])
        with w.when(w.is_(new, "==", NULL)):
            b.ret(I32(NO_MEMORY))
        w.copy(new, block, end)
        w.put(place, 0, new)
        b.call(pool.free, [runtime, block])  # not to wait for others: a budget counts it with the one that follows
        w.put(descriptor, WORKSPACE, larger)
    b.unreachable()
    return w.function


def _call(module: ir.Module, pool: Pool, run: Any, made: Any, end: Any) -> Any:
    """What Python calls: call(self, arguments, number of arguments) -> object."""
    w = Writer(module, "call", PTR, [PTR, PTR, I64])
    b, (self, given, n) = w.b, w.args
    descriptor = b.load(w.beyond(self, DATA_AT), typ=PTR)
    runtime = w.word(descriptor, OF_RUNTIME, PTR)
    left = w.block("left_to_python")
    w.leave_if(w.is_(n, "!=", w.word(descriptor, N_PARAMS)), left)
    place = w.variable(b.call(pool.take, [runtime, w.word(descriptor, WORKSPACE)]))
    no_memory = w.block("no_memory")
    w.leave_if(w.is_(w.now(place), "==", NULL), no_memory)
    surprise, failed = w.block("surprise"), w.block("failed")
    copies = _copies(w, descriptor, w.now(place))
    w.clear(copies, b.mul(n, I64(8)))
    _pack(w, descriptor, given, _arguments(w, descriptor, w.now(place)), copies, (surprise, failed))
    thread = w.call(w.word(runtime, SAVE_THREAD), PTR, [])
    code = b.call(run, [descriptor, place])
    w.call(w.word(runtime, RESTORE_THREAD), ir.VoidType(), [thread])
    with w.when(w.is_(code, "==", I32(DONE))):
        found = b.call(made, [descriptor, w.now(place)])
        b.call(end, [descriptor, w.now(place)])
        b.ret(found)
    with w.when(w.is_(code, "==", I32(NO_MEMORY))):
        b.call(end, [descriptor, w.now(place)])
        b.branch(no_memory)
    b.branch(surprise)
    b.position_at_end(surprise)
    b.call(end, [descriptor, w.now(place)])
    b.branch(left)
    b.position_at_end(failed)
    b.call(end, [descriptor, w.now(place)])
    b.ret(NULL)
    b.position_at_end(left)
    none = w.word(runtime, NONE, PTR)
    w.call(w.word(runtime, INCREF), ir.VoidType(), [none])
    b.ret(none)
    b.position_at_end(no_memory)
    w.call(w.word(runtime, SET_ERROR), ir.VoidType(), [w.word(runtime, MEMORY_ERROR), w.word(runtime, MESSAGE)])
    b.ret(NULL)
    return w.function


def _end(module: ir.Module, pool: Pool) -> Any:
    """Let go of a block and of copies of arguments: end(descriptor, block)."""
    w = Writer(module, "end", ir.VoidType(), [PTR, PTR])
    descriptor, block = w.args
    runtime, copies = w.word(descriptor, OF_RUNTIME, PTR), _copies(w, descriptor, block)
    with w.count(w.word(descriptor, N_PARAMS)) as k:
        copy = w.word(copies, k, PTR)
        with w.when(w.is_(copy, "!=", NULL)):
            w.call(w.word(runtime, DECREF), ir.VoidType(), [copy])
    w.b.call(pool.give, [runtime, block])
    w.b.ret_void()
    return w.function


def _pack(w: Writer, descriptor: Any, given: Any, arguments: Any, copies: Any, leave: tuple[Any, Any]) -> None:
    """Write address and sizes of each argument; `leave` for the first block if one is not as expected, and for
    the second after an error."""
    b, (surprise, failed) = w.b, leave
    runtime = w.word(descriptor, OF_RUNTIME, PTR)
    array_type, new_copy = w.word(runtime, ARRAY_TYPE), w.word(runtime, NEW_COPY)
    word, spec = w.variable(arguments), w.variable(w.at(descriptor, PARAMS))
    with w.count(w.word(descriptor, N_PARAMS)) as k:
        value, now = w.word(given, k, PTR), w.now(spec)
        type_ = b.load(w.beyond(value, TYPE_AT), typ=I64)
        ndim = w.word(now, _NDIM)
        with b.if_else(w.is_(type_, "==", array_type)) as (is_array, is_other):
            with is_array:
                _check_array(w, value, now, surprise)
                readable = w.variable(value)
                with w.when(b.not_(_is_readable(w, value))):
                    w.set(readable, w.call(new_copy, PTR, [value, I32(0)]))
                    w.put(copies, k, w.now(readable))
                    w.leave_if(w.is_(w.now(readable), "==", NULL), failed)
                w.put(w.now(word), 0, b.load(w.beyond(w.now(readable), DATA_AT), typ=I64))
                sizes = b.load(w.beyond(value, SIZES_AT), typ=PTR)
                with w.count(ndim) as axis:
                    size, wanted = w.word(sizes, axis), w.word(now, b.add(axis, I64(_SIZES)))
                    differs = b.and_(w.is_(wanted, "!=", I64(-1)), w.is_(wanted, "!=", size))
                    w.leave_if(differs, surprise)
                    w.put(w.now(word), b.add(axis, I64(1)), size)
            with is_other:  # a number is read where it lies
                scalar = w.is_(type_, "==", w.word(now, _SCALAR))
                number = w.is_(type_, "==", w.word(now, _NUMBER))
                w.leave_if(b.not_(b.or_(scalar, number)), surprise)
                w.put(w.now(word), 0, w.beyond(value, NUMBER_AT))
        w.set(word, w.at(w.now(word), b.add(ndim, I64(1))))
        w.set(spec, w.at(now, b.add(ndim, I64(_SIZES))))


def _check_array(w: Writer, value: Any, spec: Any, surprise: Any) -> None:
    b = w.b
    dtype = b.load(w.beyond(value, DTYPE_AT), typ=I64)
    ndim = b.zext(b.load(w.beyond(value, NDIM_AT), typ=I32), I64)
    fits = b.and_(w.is_(dtype, "==", w.word(spec, _DTYPE)), w.is_(ndim, "==", w.word(spec, _NDIM)))
    w.leave_if(b.not_(fits), surprise)


def _is_readable(w: Writer, value: Any) -> Any:
    flags = w.b.and_(w.b.load(w.beyond(value, FLAGS_AT), typ=I32), I32(_CONTIGUOUS | _ALIGNED))
    return w.is_(flags, "==", I32(_CONTIGUOUS | _ALIGNED))


def _made(module: ir.Module, drop: Any) -> Any:
    """The results as arrays, a list of them or a single one; null, and an error, if there is no memory."""
    w = Writer(module, "made", PTR, [PTR, PTR])
    b, (descriptor, block) = w.b, w.args
    runtime = w.word(descriptor, OF_RUNTIME, PTR)
    failed = w.block("failed")
    result, spec = w.variable(_results(w, block)), w.variable(_result_specs(w, descriptor))
    with w.when(w.is_(w.word(descriptor, SINGLE), "!=", I64(0))):
        array = _array(w, runtime, w.now(result), w.now(spec), failed)
        b.ret(array)
    found = w.call(w.word(runtime, NEW_LIST), PTR, [w.word(descriptor, N_RESULTS)])
    w.leave_if(w.is_(found, "==", NULL), failed)
    broken = w.block("broken")
    with w.count(w.word(descriptor, N_RESULTS)) as k:
        array = _array(w, runtime, w.now(result), w.now(spec), broken)
        w.call(w.word(runtime, SET_ITEM), I32, [found, k, array])
        _next_result(w, result, spec)
    b.ret(found)
    b.position_at_end(broken)
    w.call(w.word(runtime, DECREF), ir.VoidType(), [found])
    b.branch(failed)
    b.position_at_end(failed)
    b.call(drop, [descriptor, block])
    b.ret(NULL)
    return w.function


def _array(w: Writer, runtime: Any, result: Any, spec: Any, failed: Any) -> Any:
    """An array that owns the memory of a result, by way of NumPy's interface for foreign allocators."""
    b = w.b
    dtype, ndim = w.word(spec, _DTYPE, PTR), b.trunc(w.word(spec, _NDIM), I32)
    w.call(w.word(runtime, INCREF), ir.VoidType(), [dtype])  # NumPy takes a reference
    flags = I32(_CONTIGUOUS | _ALIGNED | _WRITEABLE)
    data, sizes = w.word(result, 0, PTR), w.at(result, 1)
    args = [w.word(runtime, ARRAY_TYPE, PTR), dtype, ndim, sizes, NULL, data, flags, NULL]
    array = w.call(w.word(runtime, NEW_ARRAY), PTR, args)
    w.leave_if(w.is_(array, "==", NULL), failed)
    owner = w.word(runtime, OWNER, PTR)
    w.call(w.word(runtime, INCREF), ir.VoidType(), [owner])
    b.store(owner, w.beyond(array, OWNER_AT))
    place = w.beyond(array, FLAGS_AT)
    b.store(b.or_(b.load(place, typ=I32), I32(_OWNS)), place)
    w.put(result, 0, I64(0))
    return array


def _probe(module: ir.Module) -> Any:
    """A function as the backend compiles them, for the test of the entry: it copies a matrix of float64."""
    w = Writer(module, "probe", I32, [PTR, PTR, PTR])
    arguments, results, context = w.args
    n_bytes = w.b.mul(w.b.mul(w.word(arguments, 1), w.word(arguments, 2)), I64(8))
    memory = w.call(w.word(context, TAKE), PTR, [w.word(context, RUNTIME, PTR), n_bytes])
    with w.when(w.is_(memory, "==", NULL)):
        w.b.ret(I32(NO_MEMORY))
    w.copy(memory, w.word(arguments, 0, PTR), n_bytes)
    w.put(results, 0, memory)
    for k in (1, 2):
        w.put(results, k, w.word(arguments, k))
    w.b.ret(I32(DONE))
    return w.function
