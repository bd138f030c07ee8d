"""What runs the six programs of bench/programs/engines: our engines, native code, the running
kernel, libubpf. One class each; all are given the same text and compute the same words.
"""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from pybpfvm import bpfsys
from pybpfvm.engine import Engine, RunEnvironment
from pybpfvm.errors import InputError
from pybpfvm.image import Image
from pybpfvm.loader import load
from pybpfvm.memory import RegionKind
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.ordinary import profile_of_section
from pybpfvm.program import Program
from pybpfvm.session.engines import make_engine
from pybpfvm.session.kernel_object import KernelObject
from pybpfvm.session.objects import helpers_of

FOLDER = Path(__file__).parent / "programs/engines"
PROGRAMS = ("alu", "copy", "hash", "tokens", "calls", "helpers")
TEXT = (b"the quick brown fox 1234 jumps over 56 lazy dogs 7 times " * 80)[:4096]

_RUN = struct.Struct("<QQQ")  # struct run of speed.h: turns, state, zero
_BUDGET = 1 << 60
_NATIVE_FLAGS = ("-O2", "-std=gnu17", "-fno-strict-aliasing", "-fPIC", "-fvisibility=hidden")


class Side(Protocol):
    """One way of running the programs."""

    name: str

    def run(self, program: str, turns: int, state: int) -> int:
        """The state after so many turns."""

    def close(self) -> None:
        """Give everything back."""


class Missing(Exception):
    """A side can not be had here; the text says why."""


def syscall_profile() -> Profile:
    """That of the programs measured."""
    profile = profile_of_section("syscall")
    assert profile is not None
    return profile


MakeEngine = Callable[[Image, Profile, RunEnvironment], Engine]


class EngineSide:
    """An engine of ours. The programs' image and context are `image` and `ctx`."""

    def __init__(self, name: str, make: MakeEngine) -> None:
        self.name = name
        self.image = Image(load(FOLDER / "speed.bpf.o"))
        memory = self.image.memory
        self.ctx = memory.alloc(_RUN.size, RegionKind.CTX, "run")
        data = self.image.maps[".bss"]
        data.host_update(bytes(4), TEXT.ljust(data.spec.value_size, b"\0"))
        profile = syscall_profile()
        self.engine = make(self.image, profile, RunEnvironment(profile=profile))

    def program(self, name: str) -> Program:
        """One of the six."""
        return self.image.programs[name]

    def begin(self, turns: int, state: int) -> int:
        """Fill the context for a run; its address."""
        self.image.memory.write(self.ctx.start, _RUN.pack(turns, state, 0))
        return self.ctx.start

    def run(self, program: str, turns: int, state: int) -> int:
        at = self.begin(turns, state)
        self.engine.run(self.image.programs[program], at, budget_insns=_BUDGET)
        _, after, _ = _RUN.unpack(self.image.memory.read(at, _RUN.size))
        return int(after)

    def insns(self, program: str, turns: int) -> int:
        """Instructions executed in so many turns, for engines that count them."""
        at = self.begin(turns, 1)
        return self.engine.run(self.image.programs[program], at, budget_insns=_BUDGET).insns

    def close(self) -> None:
        self.engine.close()
        self.image.close()


def chosen_engine(choice: str) -> MakeEngine:
    """The engine that `--engine choice` means, every program trusted."""

    def make(image: Image, profile: Profile, environment: RunEnvironment) -> Engine:
        try:
            return make_engine(
                choice, image, helpers_of(profile), environment, trusted=lambda _: True
            )
        except InputError as error:
            raise Missing(error.reason) from None

    return make


def jit_engine(**options: object) -> MakeEngine:
    """The JIT with these options of its own."""

    def make(image: Image, profile: Profile, environment: RunEnvironment) -> Engine:
        from pybpfvm.jit.engine import JitEngine

        try:
            return JitEngine(image, helpers_of(profile), environment, **options)  # type: ignore[arg-type]
        except InputError as error:
            raise Missing(error.reason) from None

    return make


def llvm_engine(**options: object) -> MakeEngine:
    """The engine llvm with these options of its own, nothing from its cache."""

    def make(image: Image, profile: Profile, environment: RunEnvironment) -> Engine:
        try:
            from pybpfvm.jit.llvm.engine import LlvmEngine

            return LlvmEngine(image, helpers_of(profile), environment, cache=None, **options)  # type: ignore[arg-type]
        except InputError as error:
            raise Missing(error.reason) from None

    return make


class NativeSide:
    """The same C, compiled for this machine."""

    def __init__(self, name: str, compiler: str) -> None:
        found = shutil.which(compiler)
        if found is None:
            raise Missing(f"{compiler} is not installed")
        self.name = name
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "speed.so"
            sources = [str(FOLDER / "speed.bpf.c"), str(FOLDER / "helper.c")]
            command = [found, *_NATIVE_FLAGS, "-DNATIVE", "-shared", "-o", str(made), *sources]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Missing(f"{compiler}: {done.stderr.strip().splitlines()[-1]}")
            self._library = ctypes.CDLL(str(made))
        ctypes.memmove(ctypes.addressof(ctypes.c_char.in_dll(self._library, "text")), TEXT, 4096)
        self._functions = {program: self._library[program] for program in PROGRAMS}

    def run(self, program: str, turns: int, state: int) -> int:
        run = ctypes.create_string_buffer(_RUN.pack(turns, state, 0))
        self._functions[program](run)
        return int(_RUN.unpack_from(run.raw)[1])

    def close(self) -> None:
        """The library stays: nothing unloads one."""


class KernelSide:
    """The running kernel's JIT; turns are called back by bpf_loop."""

    name = "kernel JIT"

    def __init__(self) -> None:
        refused = bpfsys.available()
        if refused is not None:
            raise Missing(refused)
        obj = load(FOLDER / "speed.kernel.bpf.o")
        self._stack = ExitStack()
        held = self._stack.enter_context(KernelObject(obj))
        size = next(spec.value_size for spec in obj.maps if spec.name == ".bss")
        bpfsys.map_update_elem(held.maps[".bss"], bytes(4), TEXT.ljust(size, b"\0"))
        self._programs = {program.name: self._loaded(held, program) for program in obj.programs}

    def _loaded(self, held: KernelObject, program: Program) -> bpfsys.Fd:
        answer = held.load(program, syscall_profile(), log_level=1)
        if answer.fd is None:
            self._stack.close()
            words = answer.log.strip().splitlines() or [""]
            raise Missing(f"the kernel does not take {program.name}: {words[-1]}")
        return self._stack.enter_context(answer.fd)

    def run(self, program: str, turns: int, state: int) -> int:
        done = bpfsys.prog_test_run(self._programs[program], ctx=_RUN.pack(turns, state, 0))
        return int(_RUN.unpack(done.ctx)[1])

    def close(self) -> None:
        self._stack.close()


INTERP, VERIFIED, SANDBOXED = "interp", "jit, verified", "jit, sandboxed"
NATIVE, KERNEL = "gcc -O2", "kernel JIT"


def makers() -> Iterator[tuple[str, Callable[[], Side]]]:
    """Every side by name, and how it is made; making it may raise Missing."""
    from pybpfvm.jit.options import Checks

    def ours(name: str, make: MakeEngine) -> tuple[str, Callable[[], Side]]:
        return name, lambda: EngineSide(name, make)

    yield ours(INTERP, chosen_engine("interp"))
    yield ours(VERIFIED, jit_engine(checks=Checks.NONE, counted=False))
    yield ours("jit, verified, counted", jit_engine(checks=Checks.NONE))
    yield ours(SANDBOXED, jit_engine(checks=Checks.EXACT))
    yield ours("jit, paged", jit_engine(checks=Checks.PAGES))
    yield ours("llvm, verified", llvm_engine(checks=Checks.NONE, counted=False))
    yield ours("llvm, sandboxed", llvm_engine(checks=Checks.EXACT))
    yield ours("llvm, paged, not counted", llvm_engine(checks=Checks.PAGES, counted=False))
    yield NATIVE, lambda: NativeSide(NATIVE, "gcc")
    yield "clang-19 -O2", lambda: NativeSide("clang-19 -O2", "clang-19")
    yield KERNEL, KernelSide
    yield ours("ubpf JIT", chosen_engine("ubpf"))
