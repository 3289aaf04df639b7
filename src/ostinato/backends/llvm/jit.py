"""Machine code: LLVM IR to an object for this kind of machine, objects to an address in this process.

`generate` is slow, and what it makes may be kept and loaded by another process; `Compiled` only links.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from ostinato.backends.llvm.cache import Object

_LOCK = threading.RLock()
_serial = itertools.count()
_OURS = ("llvm.", "ostinato.")  # intrinsics, and functions of the other objects that are linked along


def generate(ir_text: str) -> Object:
    """The machine code of a module."""
    with _LOCK:
        machine = _machine()
        module = llvm.parse_assembly(ir_text)
        module.triple = llvm.get_process_triple()
        module.data_layout = str(machine.target_data)
        # A function of a library is named `library.function`; names without a dot are those of C's own library.
        declared = [f.name for f in module.functions if f.is_declaration]
        externals = tuple(sorted(n for n in declared if "." in n and not n.startswith(_OURS)))
        return Object(machine.emit_object(module), externals)


class Compiled:
    """Machine code in this process; it lives as long as this object.

    Parameters
    ----------
    objects : the modules, which may call each other.
    symbol : the function whose address is wanted.

    Raises
    ------
    RuntimeError, LookupError
        If something that the code calls is not there.
    """

    def __init__(self, objects: Sequence[Object], symbol: str) -> None:
        with _LOCK:
            builder = llvm.JITLibraryBuilder()
            for name in {n: None for o in objects for n in o.externals}:
                builder.import_symbol(name, _address_of(name))
            for o in objects:
                builder.add_object_img(o.image)
            builder.add_current_process()
            builder.export_symbol(symbol)
            # The tracker owns the code; names of libraries cannot be used twice.
            self._tracker = builder.link(_linker(), f"ostinato_{next(_serial)}")
            self.address: int = self._tracker[symbol]


def _address_of(symbol: str) -> int:
    from ostinato.backends.llvm import externals  # most code calls nothing

    return externals.address_of(symbol)


@cache
def target_text() -> str:
    """Everything about LLVM and this machine that machine code depends on."""
    version = ".".join(map(str, llvm.llvm_version_info))
    return "\n".join([llvmlite.__version__, version, llvm.get_process_triple(), *_processor()])


@cache
def _processor() -> tuple[str, str]:
    """Its name and its features, as LLVM writes them."""
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


@cache
def _target() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_triple(llvm.get_process_triple())


@cache
def _machine() -> Any:
    """What generates code."""
    cpu, features = _processor()
    return _target().create_target_machine(cpu=cpu, features=features, opt=2, codemodel="jitdefault", jit=True)


@cache
def _linker() -> Any:
    """What links objects. It generates no code, so the processor is of no interest to it."""
    return llvm.create_lljit_compiler(_target().create_target_machine(jit=True))
