"""From IR to an object file: the only module that knows llvmlite."""

from __future__ import annotations

import hashlib
import threading
from functools import cache
from typing import Any

from pybpfvm.errors import InputError, InternalError

# Stack maps need not say which machine registers are live besides: finding that out costs time and
# stops LLVM at registers that DWARF has no number for. The option concerns patchpoints alone.
_OPTIONS = ("-enable-patchpoint-liveness=0",)
# Of the passes over IR; machine code is made at O2. O2's passes take twice the time, and bench/
# shows no program that they make faster.
_LEVEL = 1
_lock = threading.Lock()  # of LLVM's global context


class Compiler:
    """LLVM for this machine."""

    def __init__(self, binding: Any) -> None:
        self._llvm = llvm = binding
        for option in _OPTIONS:
            llvm.set_option("pybpfvm", option)
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self._triple = llvm.get_process_triple()
        cpu = llvm.get_host_cpu_name()
        features = llvm.get_host_cpu_features().flatten()
        self._machine = llvm.Target.from_triple(self._triple).create_target_machine(
            cpu=cpu, features=features, opt=2, reloc="pic", codemodel="small"
        )
        version = ".".join(str(part) for part in llvm.llvm_version_info)
        known = (_llvmlite_version(), version, self._triple, cpu, features, str(_LEVEL), *_OPTIONS)
        self._identity = "\0".join(known)

    def key(self, text: str) -> str:
        """What the object of this IR is called: everything it depends on, hashed."""
        return hashlib.sha256(f"{self._identity}\0{text}".encode()).hexdigest()

    def compile(self, text: str) -> bytes:
        """The object file. InternalError if LLVM does not take the IR."""
        llvm = self._llvm
        with _lock:
            try:
                module = llvm.parse_assembly(text)
            except RuntimeError as error:
                raise InternalError(f"LLVM refuses our IR: {error}") from error
            module.triple = self._triple
            options = llvm.create_pipeline_tuning_options(speed_level=_LEVEL)
            builder = llvm.create_pass_builder(self._machine, options)
            builder.getModulePassManager().run(module, builder)
            made: bytes = self._machine.emit_object(module)
            return made


def _llvmlite_version() -> str:
    import llvmlite

    return str(llvmlite.__version__)


@cache
def compiler() -> Compiler:
    """The process's compiler. InputError without llvmlite."""
    try:
        import llvmlite.binding
    except ImportError as error:
        raise InputError(
            "the engine llvm needs llvmlite",
            where="engine",
            remedy="pip install pybpfvm[llvm], or use --engine jit",
        ) from error
    return Compiler(llvmlite.binding)
