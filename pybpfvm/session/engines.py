"""Which engine runs a program, and making it. Engines are imported when they are chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module

from pybpfvm.engine import Engine, RunEnvironment, trust_nobody
from pybpfvm.errors import InputError
from pybpfvm.helpers.proto import Helper
from pybpfvm.image import Image
from pybpfvm.memory import AddressSpace
from pybpfvm.program import Program
from pybpfvm.recording import NOTHING, Recording

# What hosts and --engine may say. `auto` is the JIT where it can run, else the interpreter; `llvm`
# needs an extra and takes long to compile, `ubpf` is a peer for comparisons: never chosen unasked.
ENGINES = ("auto", "interp", "jit", "llvm", "ubpf")
_MODULES = {
    "interp": "pybpfvm.vm.interp",
    "jit": "pybpfvm.jit.engine",
    "llvm": "pybpfvm.jit.llvm.engine",
    "ubpf": "pybpfvm.peers.ubpf",
}


@dataclass(slots=True)
class Kept:
    """What rings that come one after the other, with the same programs and the same contract, need
    not make again: engines, and what require_accepted said of programs. It is for one ring at a
    time, and whoever makes it closes it."""

    # By identity of object and contract, which are kept alive beside what was said.
    _accepted: dict[tuple[int, str, int], tuple[bool, object, object]] = field(default_factory=dict)
    _engines: dict[object, Engine] = field(default_factory=dict)

    def accepted(self, owner: object, name: str, contract: object) -> bool | None:
        """What was said of that program of `owner` under this contract; None: not asked."""
        found = self._accepted.get((id(owner), name, id(contract)))
        return None if found is None else found[0]

    def accept(self, owner: object, name: str, contract: object, unchecked: bool) -> None:
        """Keep what was said."""
        self._accepted[id(owner), name, id(contract)] = unchecked, owner, contract

    def engine(
        self,
        key: object,
        memory: AddressSpace,
        environment: RunEnvironment,
        make: Callable[[], Engine],
    ) -> Engine:
        """The engine that is kept under this key, for runs in `environment`; the first time, the
        one that is made, whose frames in `memory` are lasting."""
        engine = self._engines.get(key)
        if engine is None:
            with memory.lasting():
                engine = self._engines[key] = make()
        else:
            engine.environment = environment
        return engine

    def close(self) -> None:
        """Close the engines."""
        for engine in self._engines.values():
            engine.close()


@cache
def jit_refusal() -> str | None:
    """Why the JIT can not run here, None if it can."""
    from pybpfvm.jit.cpu import unsupported

    why = unsupported()
    if why is not None:
        return why
    from pybpfvm.jit.pages import code_area

    try:
        code_area().release(code_area().place(b"\xc3"))
    except InputError as error:
        return error.reason
    return None


def chosen(choice: str, image: Image) -> str:
    """The engine that `choice` means for this image. InputError for one that can not run it."""
    if choice not in ENGINES:
        raise InputError(
            f"no engine is called {choice!r}", where="engine", remedy=" or ".join(ENGINES)
        )
    if choice == "ubpf":
        _need_ubpf(image)
    if choice not in ("auto", "jit", "llvm"):
        return choice
    why = "the object is big-endian" if image.object.big_endian else jit_refusal()
    if why is None:
        return "llvm" if choice == "llvm" else "jit"
    if choice != "auto":
        name = "JIT" if choice == "jit" else "engine llvm"
        raise InputError(
            f"the {name} can not run this: {why}", where="engine", remedy="choose interp or auto"
        )
    return "interp"


def prepare(choice: str, image: Image) -> None:
    """Import what `chosen` says, so that no run on a ring of real time waits for it. InputError as
    there."""
    import_module(_MODULES[chosen(choice, image)])


def _need_ubpf(image: Image) -> None:
    from pybpfvm.peers.library import library

    if image.object.big_endian:
        raise InputError(
            "libubpf can not run this: the object is big-endian",
            where="engine",
            remedy="choose interp or auto",
        )
    library()


def make_engine(
    choice: str,
    image: Image,
    helpers: Mapping[int, Helper],
    environment: RunEnvironment,
    *,
    trusted: Callable[[Program], bool] = trust_nobody,
    record: Recording = NOTHING,
) -> Engine:
    """An engine for the programs of `image`; those that `trusted` names were verified, and may
    run without checks of their memory accesses. `record` is what runs leave in `recorded`.
    InputError for what the engine can not do."""
    engine = chosen(choice, image)
    if engine == "jit":
        from pybpfvm.jit.engine import JitEngine

        return JitEngine(image, helpers, environment, trusted=trusted, record=record)
    if engine == "llvm":
        from pybpfvm.jit.llvm.cache import default_cache
        from pybpfvm.jit.llvm.engine import LlvmEngine

        return LlvmEngine(
            image, helpers, environment, trusted=trusted, record=record, cache=default_cache()
        )
    if engine == "ubpf":
        from pybpfvm.peers.ubpf import UbpfEngine

        if record != NOTHING:
            raise InputError("libubpf records nothing", where="engine", remedy="choose jit")
        peer = UbpfEngine(image, helpers, environment, trusted=trusted)
        peer.make_stack()
        return peer
    from pybpfvm.vm.interp import Interpreter

    interpreter = Interpreter(image, helpers, environment, record=record)
    # Compiled code has its frames from the beginning, and programs see where they are.
    interpreter.make_stack()
    return interpreter
