"""The helpers of BPF requests in bytecode of our own, each against the helper in Python.

Two rings over the kernel's have the same past; one call is made as machine code on the first and
as the Python helper on the second.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from pybpfvm.bits import U64
from pybpfvm.helpers.table import HELPERS
from pybpfvm.jit.assemble import SOURCES
from pybpfvm.jit.bytecode import binary
from pybpfvm.jit.engine import JitEngine
from pybpfvm.jit.ringcode import LOOP_SOURCES, RING, LoopSource
from pybpfvm.jit.state import Slot
from pybpfvm.memory import RegionKind
from pybpfvm.session import Block, Machine, Ring
from pybpfvm.uring_backend.abi import Sqe
from pybpfvm.uring_backend.kernel.loop import KernelLoop
from pybpfvm.uring_backend.requests import BpfRequest
from tests.support.session_ring import need_backend

DATA = Path(__file__).resolve().parents[1] / "data" / "loops"
FILE = bytes(range(256)) * 4


@pytest.mark.parametrize("name", SOURCES)
def test_the_binary_is_what_the_source_comes_to(name: str) -> None:
    assert binary(name).read_bytes() == SOURCES[name](), "run make bytecode"


@pytest.mark.parametrize("source", LOOP_SOURCES.values(), ids=LOOP_SOURCES)
def test_every_native_helper_is_a_function_of_the_source(source: LoopSource) -> None:
    assert set(source.native.values()) == set(source.entries) - {"loop"}


@dataclass
class Side:
    """One ring; `native` says who answers `call`."""

    ring: Ring
    native: bool
    length_checked: bool
    fd: int
    block: Block
    small: Block

    def __post_init__(self) -> None:
        engine = next(iter(self.ring._runner._engines.values()))
        assert isinstance(engine, JitEngine)
        self.engine = engine
        core = self.ring.core
        assert core._loop is not None
        self.loop: KernelLoop = core._loop
        memory = self.ring.machine.memory
        self.scratch = memory.alloc(256, RegionKind.MAP_VALUE, "scratch")
        self.ctx_addr = engine.ctx_addr
        self.request = BpfRequest(1 << 40, bytes(64), 0, 0, "test")
        self.request.program = 0

    def call(self, helper: str, *args: int) -> int:
        """r0 of the helper, within a run of its own that then ends."""
        core = self.ring.core
        core._bpf.current = self.request
        try:
            result = self._native(helper, args) if self.native else self._python(helper, args)
        finally:
            core._bpf.current = None
            core._submitter.end_run()
            core._submitter.drain()
            core._submitter.settle()
        return result & U64

    def _python(self, helper: str, args: tuple[int, ...]) -> int:
        impl = HELPERS[helper].impl
        assert impl is not None
        return impl(self.engine, *args, *(0 for _ in range(5 - len(args))))

    def _native(self, helper: str, args: tuple[int, ...]) -> int:
        loop, engine = self.loop, self.engine
        assert engine._loops is not None
        code = engine._loops._code
        with loop.direct.turn({0}, 0):
            loop._origin = "test"
            loop.direct.lend(self.ring.core.cqs.queues)
            words = engine._state.words
            for number, value in enumerate(args, 1):
                words[Slot.REGS + number] = value & U64
            words[Slot.REGS + 10] = words[Slot.FIRST_FRAME]
            try:
                return engine._guarded(engine._thunks.enter, code.entries[RING.native[helper]])
            finally:
                loop._take_back()

    def put(self, data: bytes) -> int:
        """The address of program memory with this content."""
        self.ring.machine.memory.write(self.scratch.start, data)
        return self.scratch.start

    def state(self) -> object:
        """What can be seen: memory of the program and the user, queues."""
        core = self.ring.core
        memory = self.ring.machine.memory
        return (
            memory.read(self.scratch.start, 256),
            self.block.read(),
            self.small.read(),
            core.cq_overflow,
            core.sq_flags,
            [
                [core.peek(cq, index) for index in range(core.ready(cq))]
                for cq in range(len(core.cqs))
            ],
        )


@pytest.fixture(params=["v2", "v3"])
def sides(request: pytest.FixtureRequest) -> Iterator[tuple[Side, Side]]:
    need_backend("kernel")
    profile = request.param
    with Machine() as ours, Machine() as theirs:
        made = []
        rings = []
        for machine in (ours, theirs):
            obj = machine.load(DATA / f"loops.{profile}.bpf.o", abi=f"iouring-{profile}")
            ring = Ring(8, (8, 4), backend="kernel", abi=obj.profile, machine=machine)
            rings.append(ring)
            ring.register_bpf([obj["guest"]])
            for _ in range(2):  # at the second request the loop is used
                ring.get_sqe().prep_bpf(0)
                ring.submit()
            ring.reap()
            ring.world.add_file("data", FILE)
            fd = ring.world.open("data", os.O_RDWR)
            blocks = ring.user.alloc(bytes(range(200))), ring.user.alloc(bytes(16))
            made.append(Side(ring, machine is ours, profile == "v2", fd, *blocks))
        yield made[0], made[1]
        for ring in rings:
            ring.close()


def _same(sides: tuple[Side, Side], results: list[int]) -> None:
    assert results[0] == results[1]
    assert sides[0].state() == sides[1].state()


@pytest.mark.kernel_ring
def test_emit_and_reap(sides: tuple[Side, Side]) -> None:
    random = Random(7)
    for _ in range(600):
        cq = random.choice([0, 1, 2, 3, 9, 1 << 32, (1 << 32) + 1, U64])
        user_data, flags = random.getrandbits(64), random.getrandbits(40)
        res = random.choice([0, 1, -5 & U64, 0xFFFF_FFFB, random.getrandbits(64)])
        length = random.choice([16, 16, 8, 40, (1 << 32) + 16])
        reaps = random.random() < 0.45
        results = []
        for side in sides:
            if reaps:
                out = side.put(bytes([0xEE]) * 256)
                sized = length if side.length_checked else 16
                results.append(side.call(_name(side, "reap"), side.ctx_addr, cq, out, sized))
            else:
                args = side.ctx_addr, cq, user_data, res, flags
                results.append(side.call(_name(side, "emit"), *args))
        _same(sides, results)


@pytest.mark.kernel_ring
def test_copies(sides: tuple[Side, Side]) -> None:
    random = Random(8)
    for _ in range(600):
        size = random.choice([0, 1, 7, 8, 9, 16, 17, 100, 200, 256, (1 << 32) + 3])
        offset = random.choice([-1, 0, 1, 5, 100, 184, 192, 199, 200, 4096, 1 << 33, -(1 << 40)])
        first = random.random() < 0.7
        content = random.randbytes(256)
        out = random.random() < 0.5
        results = []
        for side in sides:
            block = side.block if first else side.small
            user = (block.addr + offset) & U64
            program = side.put(content)
            if out:
                results.append(side.call("bpf_copy_to_user", user, program, size))
            else:
                results.append(side.call("copy_from_user", program, size, user))
        _same(sides, results)


@pytest.mark.kernel_ring
def test_submit(sides: tuple[Side, Side]) -> None:
    random = Random(9)
    for _ in range(500):
        opcode = random.choice([0, 0, 0, 22, 22, 22, 23, 4, 5, 99])
        flags = random.choice([0, 0, 0, 0, 1, 2, 16, 64, 128])
        odd = random.choice([*"...........", "ioprio", "personality", "pad", "op_flags", "len"])
        cq = random.choice([1, 1, 1, 2, 0, 3, 60000])
        where = random.choice([0, 0, 0, 8, 196, 200, -4, 1 << 33])
        off = random.choice([0, 0, 5, 1020, 1024, 4000, 1 << 63, U64])
        size = random.choice([0, 4, 4, 8, 100])
        foreign = random.random() < 0.1
        user_data = random.getrandbits(64)
        # Where the kernel may put a request off, whether its -EINVAL comes in time is a race.
        if flags == 16:
            opcode, odd = opcode % 99, "."
        if flags > 1 or where:
            off &= 0xFFFF
        if off == U64 & 0xFFFF:
            off = 0
        if opcode in (5, 23):
            off, size = min(off, 1000) & 0xFF, 4  # no large files
        results = []
        for side in sides:
            sqe = Sqe(
                opcode,
                flags=flags,
                fd=2 if foreign else side.fd,
                off=off,
                addr=(side.block.addr + where) & U64,
                len=size,
                user_data=user_data,
                addr3=cq,
            )
            raw = bytearray(sqe.pack())
            if odd == "ioprio":
                raw[2] = 0 if opcode in (5, 23) else 1
            elif odd == "personality":
                raw[42] = 3
            elif odd == "pad":
                raw[56] = 9
            elif odd == "op_flags":
                struct.pack_into("<I", raw, 28, 1 << 30)
            args = side.ctx_addr, side.put(bytes(raw)), 63 if odd == "len" else 64
            results.append(side.call(_name(side, "submit"), *args))
            side.put(bytes(64))  # descriptors and addresses differ
            side.ring.run_until_idle(1_000_000_000)
        _same(sides, results)
        if random.random() < 0.3:
            for side in sides:
                for queue in range(3):
                    side.ring.reap(queue)


def _name(side: Side, native: str) -> str:
    """What the side's profile calls the helper."""
    second = {"submit": "iouring_queue_sqe", "emit": "iouring_emit_cqe", "reap": "iouring_reap_cqe"}
    return second[native] if side.length_checked else f"io_uring_{_THIRD.get(native, native)}"


_THIRD = {"emit": "emit_cqe", "reap": "reap_cqe"}
