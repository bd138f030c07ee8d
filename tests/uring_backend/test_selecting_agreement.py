"""Random transfers that select buffers, one after the other, on both rings: what they come to,
which buffer they name, what is left of a ring of buffers, and what is in memory."""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from pybpfvm.errors import UnsupportedError
from pybpfvm.memory import AddressSpace, Region, RegionKind
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.base import Completion, Peer
from pybpfvm.uring_backend.kernel import KernelBackend
from pybpfvm.uring_backend.kernel.probe import available
from pybpfvm.uring_backend.lawbench import Bench, MakeBackend
from pybpfvm.uring_backend.sim import SimBackend
from tests.support.seeded import each_seed

pytestmark = pytest.mark.kernel_ring

_GROUP, _COUNT, _SIZE, _AT = 5, 32, 24, 4096
_KINDS = ("provided", "ring", "incremental")
_FILES = ("file", "write-only", "directory", "reader", "writer", "counter", "stream", "none")


@dataclass(frozen=True)
class Transfer:
    op: Op
    file: str
    flags: int
    off: int
    size: int
    rw_flags: int
    filled: int  # bytes that come into pipe, socket or counter before

    def __str__(self) -> str:
        return (
            f"{self.op.name} {self.file} flags {self.flags:#x} off {self.off} len {self.size} "
            f"rw_flags {self.rw_flags:#x} after {self.filled} bytes"
        )


def generate(seed: int) -> tuple[str, list[Transfer]]:
    """A kind of group, and transfers that select from it. None of them waits."""
    chance = random.Random(seed)
    transfers = []
    for _ in range(chance.randint(10, 40)):
        file = chance.choice(_FILES)
        op = chance.choice((Op.READ, Op.READ, Op.READ, Op.READV, Op.RECV))
        waits = file in ("reader", "counter", "stream")
        filled = chance.choice((1, 8, 30)) if waits else 0
        rw_flags = 0
        if op is not Op.RECV:
            odd = (0, 0, 0, 0, abi.RWF_HIPRI, abi.RWF_NOWAIT, abi.RWF_APPEND, 1 << 25)
            rw_flags = chance.choice(odd)
            if rw_flags == abi.RWF_NOWAIT and waits and chance.random() < 0.5:
                filled = 0
        transfers.append(
            Transfer(
                op,
                file,
                chance.choice((0, 0, 0, abi.SQE_ASYNC)),
                chance.choice((0, 0, 3, 100, 1 << 63)) if op is not Op.RECV else 0,
                chance.choice((1, 4, 10, 24, 60)),
                rw_flags,
                filled,
            )
        )
    return chance.choice(_KINDS), transfers


@dataclass
class Player:
    """A backend with the files, and a group of the kind."""

    bench: Bench
    kind: str
    fds: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bench, world = self.bench, self.bench.world
        world.add_file("d/f", b"0123456789" * 3)
        self.fds["file"] = world.open("d/f", abi.O_RDWR)
        self.fds["write-only"] = world.open("d/f", abi.O_WRONLY)
        path = bench.path("d")
        opening = Sqe(Op.OPENAT, fd=abi.AT_FDCWD, addr=path, op_flags=abi.O_DIRECTORY, user_data=1)
        self.fds["directory"] = bench.result(opening)
        self.fds["reader"], self.fds["writer"] = world.pipe()
        self.fds["counter"] = world.eventfd()
        self.fds["stream"], self.peer = world.socketpair()
        self.fds["none"] = -1
        if self.kind == "provided":
            fields = {"fd": _COUNT, "len": _SIZE, "addr": bench.block + _AT, "buf_index": _GROUP}
            assert bench.result(Sqe(Op.PROVIDE_BUFFERS, **fields)) == 0
            return
        self.table = table = bench.memory.alloc(_COUNT * 16, RegionKind.USER, "ring of buffers")
        for index in range(_COUNT):
            at = bench.block + _AT + index * _SIZE
            entry = abi.BUFFER_RING_ENTRY.pack(at, _SIZE, index)[:14]
            bench.memory.user_write(table.start + 16 * index, entry)
        tail = _COUNT.to_bytes(2, "little")
        bench.memory.user_write(table.start + abi.BUFFER_RING_TAIL_AT, tail)
        flags = abi.PBUF_RING_INC if self.kind == "incremental" else 0
        assert bench.backend.register_buffer_ring(table.start, _COUNT, _GROUP, flags) == 0

    peer: Peer = field(init=False)
    table: Region | None = None

    def play(self, transfer: Transfer) -> object:
        """What it comes to; what it leaves unread is taken out."""
        bench, backend = self.bench, self.bench.backend
        self._fill(transfer)
        size, addr = transfer.size, 0
        if transfer.op is Op.READV:
            size, addr = 1, bench.put(abi.IOVEC.pack(0, transfer.size), 2048)
        bench.submit(
            Sqe(
                transfer.op,
                abi.SQE_BUFFER_SELECT | transfer.flags,
                fd=self.fds[transfer.file],
                off=transfer.off,
                addr=addr,
                len=size,
                op_flags=transfer.rw_flags,
                buf_index=_GROUP,
                user_data=1,
            )
        )
        (event,) = bench.collect(1)
        assert isinstance(event, Completion)
        head = backend.buffer_ring_head(_GROUP) if self.table is not None else 0
        content = bench.get(_COUNT * _SIZE, _AT)
        self._empty(transfer)
        return event.res, hex(event.flags), head, self._left(head), content.rstrip(b"\0")

    def _left(self, head: int) -> int:
        """Bytes in the first buffer of the ring."""
        if self.table is None or head >= _COUNT:
            return 0
        raw = self.bench.memory.user_read(self.table.start + 16 * head + 8, 4)
        return int.from_bytes(raw, "little")

    def _fill(self, transfer: Transfer) -> None:
        if not transfer.filled:
            return
        data = bytes(range(65, 65 + transfer.filled))
        if transfer.file == "reader":
            write = Sqe(Op.WRITE, fd=self.fds["writer"], addr=self.bench.put(data), len=len(data))
            assert self.bench.result(write) == len(data)
        elif transfer.file == "counter":
            self.bench.world.signal(self.fds["counter"])
        elif transfer.file == "stream":
            assert self.peer.send(data) == len(data)

    def _empty(self, transfer: Transfer) -> None:
        """With a READ that does not wait and selects nothing."""
        if transfer.file in ("reader", "counter", "stream"):
            fields = {"addr": self.bench.block, "len": 64, "op_flags": abi.RWF_NOWAIT}
            self.bench.result(Sqe(Op.READ, fd=self.fds[transfer.file], **fields))


def compare(seed: int) -> list[str]:
    """The first transfer that comes to something else, in words; empty if there is none."""
    kind, transfers = generate(seed)
    with ExitStack() as stack:
        players = []
        makers: tuple[MakeBackend, ...] = (SimBackend, KernelBackend)
        for make in makers:
            memory = stack.enter_context(AddressSpace())
            backend = make(memory)
            stack.callback(backend.close)
            players.append(Player(Bench(backend, memory, make), kind))
        done: list[str] = []
        for transfer in transfers:
            done.append(str(transfer))
            try:
                ours, theirs = (player.play(transfer) for player in players)
            except UnsupportedError:
                return []
            if ours != theirs:
                return [kind, *done, f"sim    {ours}", f"kernel {theirs}"]
    return []


def test_buffers_are_selected_alike() -> None:
    if reason := available():
        pytest.skip(f"no io_uring: {reason}")
    each_seed("PYBPFVM_SELECTING", compare, count=300, seconds=20)
