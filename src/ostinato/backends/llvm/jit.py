"""From LLVM IR to an address: parse, generate code for this machine, link."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import llvmlite.binding as llvm

from ostinato.backends.llvm.externals import address_of

_LOCK = threading.Lock()
_serial = itertools.count()
_machine: Any = None
_jit: Any = None


def _start() -> None:
    """Prepare LLVM once per process."""
    global _machine, _jit
    if _machine is not None:
        return
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    _machine = target.create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=2,
        codemodel="jitdefault",
        jit=True,
    )
    _jit = llvm.create_lljit_compiler(
        target.create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2, jit=True
        )
    )


class Compiled:
    """Machine code in this process; it lives as long as this object."""

    def __init__(self, ir_text: str, symbol: str, externals: Sequence[str] = ()) -> None:
        with _LOCK:
            _start()
            module = llvm.parse_assembly(ir_text)
            module.triple = llvm.get_process_triple()
            module.data_layout = str(_machine.target_data)
            builder = llvm.JITLibraryBuilder()
            builder.add_object_img(_machine.emit_object(module))
            builder.add_current_process()
            for name in externals:
                builder.import_symbol(name, address_of(name))
            builder.export_symbol(symbol)
            # The tracker owns the code; names of libraries cannot be used twice.
            self._tracker = builder.link(_jit, f"ostinato_{next(_serial)}")
            self.address: int = self._tracker[symbol]
