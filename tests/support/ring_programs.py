"""Python functions in the place of BPF programs: what ring tests register and run."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass

from pybpfvm.memory import AddressSpace
from pybpfvm.profiles import PROFILES
from pybpfvm.uring_backend.abi import Cqe, Op, Sqe
from pybpfvm.uring_backend.ring import Ring

RING_PROFILES = tuple(name for name, profile in PROFILES.items() if profile.ring is not None)
BPF = 37

Program = Callable[["Run"], int | None]


def sqe(
    opcode: int = Op.NOP,
    *,
    user_data: int = 0,
    cq: int = 0,
    flags: int = 0,
    fd: int = -1,
    off: int = 0,
    addr: int = 0,
    len: int = 0,
    op_flags: int = 0,
    ioprio: int = 0,
    personality: int = 0,
) -> bytes:
    """An SQE of the 2021 ABI; everything not named is 0 (fd: -1)."""
    return Sqe(
        opcode=opcode,
        flags=flags,
        ioprio=ioprio,
        fd=fd,
        off=off,
        addr=addr,
        len=len,
        op_flags=op_flags,
        user_data=user_data,
        personality=personality,
        addr3=cq,
    ).pack()


def bpf(slot: int, *, user_data: int = 0, cq: int = 0, flags: int = 0) -> bytes:
    """An SQE that runs the program in `slot`."""
    return sqe(BPF, off=slot, user_data=user_data, cq=cq, flags=flags)


@dataclass
class Run:
    """What one run of a Python program sees: its context and the helpers."""

    ring: Ring
    memory: AddressSpace
    ctx_addr: int
    number: int
    wait_by_return: bool

    @property
    def user_data(self) -> int:
        return int(struct.unpack("<Q", self.memory.read(self.ctx_addr, 8))[0])

    @property
    def wait_fields(self) -> tuple[int, int]:
        """(wait_nr, wait_idx) as the context holds them now."""
        nr, idx = struct.unpack("<II", self.memory.read(self.ctx_addr + 8, 8))
        return nr, idx

    def submit(self, raw: bytes) -> int:
        return self.ring.bpf_submit(raw)

    def emit(self, cq: int, user_data: int, res: int = 0, flags: int = 0) -> int:
        return self.ring.bpf_emit(cq, user_data, res, flags)

    def reap(self, cq: int) -> Cqe | int:
        got = self.ring.bpf_reap(cq)
        return got if isinstance(got, int) else Cqe.unpack(got)

    def requeue(self, source: int, target: int, most: int = 1) -> int:
        return self.ring.bpf_requeue(source, target, most)

    def wait(self, nr: int, cq: int) -> int:
        """Ask for another run; the value to return."""
        self.memory.write(self.ctx_addr + 8, struct.pack("<II", nr, cq))
        return 1 if self.wait_by_return else 0

    def done(self) -> int:
        """Ask for no other run; the value to return."""
        self.memory.write(self.ctx_addr + 8, struct.pack("<II", 0, 0))
        return 0


class PythonRunner:
    """A ProgramRunner: program `n` is the n-th function given. 1000 is no descriptor, 1001 one
    that is no program. `runs` counts all runs."""

    def __init__(self, memory: AddressSpace, *programs: Program) -> None:
        self.memory = memory
        self.programs = programs
        self.ring: Ring | None = None
        self.runs = 0

    def check(self, program: int) -> int:
        if 0 <= program < len(self.programs):
            return 0
        return errno.EINVAL if program == 1001 else errno.EBADF

    def name(self, program: int) -> str:
        name: str = getattr(self.programs[program], "__name__", "program")
        return name

    def run(self, program: int, ctx_addr: int) -> int:
        assert self.ring is not None
        self.runs += 1
        rules = self.ring.profile.ring
        assert rules is not None
        by_return = bool(rules.wait_value)
        run = Run(self.ring, self.memory, ctx_addr, self.runs, by_return)
        return self.programs[program](run) or 0

    def executed(self) -> int:
        return 1
