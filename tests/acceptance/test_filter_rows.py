"""Filters of requests: each row of abi/iouring-bpf-upstream, section 6.6, on both backends.

A row that names a task registers before the ring is made, one that names a ring on the ring. Where
a child process registers, a forked Task does. "ok" is "not denied": sockets that neither backend
has (AF_INET6) end with UnsupportedError once no filter stops them.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from pybpfvm.errors import RingError, UnsupportedError
from pybpfvm.filters import uapi
from pybpfvm.filters.asm import assemble
from pybpfvm.filters.cbpf import encode
from pybpfvm.filters.context import AF_INET6
from pybpfvm.filters.table import FILTER_DENY_REST, FILTER_SZ_STRICT, Registration, Task
from pybpfvm.session import LoopRing, Machine
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.abi import (
    AF_INET,
    AF_UNIX,
    AT_FDCWD,
    ENTER_GETEVENTS,
    O_CREAT,
    O_RDONLY,
    O_WRONLY,
    SOCK_DGRAM,
    SOCK_STREAM,
    Op,
)
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

OK = "ok"
DENIED = -errno.EACCES
_IN_ROOT = 0x10

ALLOW = "ret #1"
DENY = "ret #0"
INET_ONLY = "ld [16]\njeq #2, yes\nret #0\nyes: ret #1"
STREAM_ONLY = "ld [20]\nand #0xf\njeq #1, yes\nret #0\nyes: ret #1"
NO_CREAT = "ld [16]\njset #0x40, no\nret #1\nno: ret #0"
NO_IN_ROOT = "ld [32]\njset #0x10, no\nret #1\nno: ret #0"


def of(
    opcode: Op, text: str, *, rest: bool = False, strict: bool = False, size: int | None = None
) -> Registration:
    flags = (FILTER_DENY_REST if rest else 0) | (FILTER_SZ_STRICT if strict else 0)
    return Registration(opcode, assemble(text), flags, size)


def child() -> Task:
    """A child process of the test's: not root, with no_new_privs set."""
    return Task(no_new_privs=True, privileged=False)


@dataclass
class Bench:
    """A ring and short ways to try requests on it."""

    ring: LoopRing
    machine: Machine

    def result(self, opcode: Op, **fields: int) -> int | str:
        """What a request ends with: -EACCES, another result, or "ok" for one that only the
        backend does not have."""
        self.ring.get_sqe().set(opcode=opcode, **fields)
        try:
            assert self.ring.submit() == 1
        except UnsupportedError:
            return OK
        self.ring.enter(0, 1, ENTER_GETEVENTS)
        (cqe,) = self.ring.reap()
        return cqe.res

    def judged(self, opcode: Op, **fields: int) -> int | str:
        """The same, but for anything but a denial "ok"."""
        found = self.result(opcode, **fields)
        return DENIED if found == DENIED else OK

    def nop(self) -> int | str:
        return self.judged(Op.NOP)

    def socket(self, family: int, kind: int = SOCK_STREAM) -> int | str:
        return self.judged(Op.SOCKET, fd=family, off=kind)

    def user(self, content: bytes) -> int:
        return self.machine.user.alloc(content).addr

    def connect(self, address: bytes, length: int | None = None) -> int | str:
        fd = self.ring.world.socket()
        size = len(address) if length is None else length
        return self.result(Op.CONNECT, fd=fd, addr=self.user(address), off=size)


@contextmanager
def ring_of(backend: BackendName, task: Task | None = None) -> Iterator[Bench]:
    need_backend(backend)
    with Machine() as machine, LoopRing(8, backend=backend, machine=machine, task=task) as ring:
        yield Bench(ring, machine)


@contextmanager
def filtered(
    backend: BackendName, scope: str, registrations: Sequence[Registration]
) -> Iterator[Bench]:
    """A ring with these filters, of its task's or of its own."""
    task = child()
    if scope == "task":
        for wanted in registrations:
            task.register_filter(wanted)
    with ring_of(backend, task) as bench:
        if scope == "ring":
            for wanted in registrations:
                bench.ring.register_filter(wanted)
        yield bench


backends = pytest.mark.parametrize("backend", SIM_AND_KERNEL)
scopes = pytest.mark.parametrize("scope", ["task", "ring"])


def test_the_probe_and_privileges() -> None:
    with pytest.raises(RingError) as refused:
        Task(privileged=False).register_filter(of(Op.NOP, ALLOW))
    assert refused.value.errno == errno.EACCES
    assert Task(privileged=True).register_filter(of(Op.NOP, ALLOW)) == 0
    assert child().register_filter(of(Op.NOP, ALLOW)) == 0


@backends
@scopes
def test_deny_nop(backend: BackendName, scope: str) -> None:
    with filtered(backend, scope, [of(Op.NOP, DENY)]) as bench:
        assert bench.nop() == DENIED
        assert bench.socket(AF_INET) == OK


@backends
@scopes
def test_af_inet_only(backend: BackendName, scope: str) -> None:
    with filtered(backend, scope, [of(Op.SOCKET, INET_ONLY)]) as bench:
        assert bench.socket(AF_INET) == OK
        assert bench.socket(AF_INET6) == DENIED
        assert bench.socket(AF_UNIX) == DENIED


@backends
@scopes
def test_stream_only(backend: BackendName, scope: str) -> None:
    with filtered(backend, scope, [of(Op.SOCKET, STREAM_ONLY)]) as bench:
        assert bench.socket(AF_INET, SOCK_STREAM) == OK
        assert bench.socket(AF_INET6, SOCK_STREAM) == OK
        assert bench.socket(AF_INET, SOCK_DGRAM) == DENIED


@backends
@scopes
def test_deny_rest(backend: BackendName, scope: str) -> None:
    with filtered(backend, scope, [of(Op.NOP, ALLOW, rest=True)]) as bench:
        assert bench.nop() == OK
        assert bench.socket(AF_INET) == DENIED


@backends
def test_o_creat(backend: BackendName) -> None:
    task = child()
    with ring_of(backend, task) as before:
        task.register_filter(of(Op.OPENAT, NO_CREAT))
        with ring_of(backend, task) as after:
            for bench, creates in ((before, OK), (after, DENIED)):
                bench.ring.world.add_file("f", b"")
                path = bench.user(bench.ring.world.path("new") + b"\0")
                found = bench.judged(
                    Op.OPENAT, fd=AT_FDCWD, addr=path, op_flags=O_CREAT | O_WRONLY, len=0o600
                )
                assert found == creates
                path = bench.user(bench.ring.world.path("f") + b"\0")
                found = bench.result(Op.OPENAT, fd=AT_FDCWD, addr=path, op_flags=O_RDONLY)
                assert isinstance(found, int)
                assert found >= 0


@backends
def test_resolve_in_root(backend: BackendName) -> None:
    task = child()
    with ring_of(backend, task) as before:
        task.register_filter(of(Op.OPENAT2, NO_IN_ROOT))
        with ring_of(backend, task) as after:
            for bench, answer in ((before, OK), (after, DENIED)):
                path = bench.user(b".\0")
                for resolve, wanted in ((_IN_ROOT, answer), (0, OK)):
                    how = bench.user(struct.pack("<QQQ", O_RDONLY, 0, resolve))
                    found = bench.judged(Op.OPENAT2, fd=AT_FDCWD, addr=path, off=how, len=24)
                    assert found == wanted


@pytest.mark.parametrize(
    ("size", "strict", "refused"),
    [(24, False, errno.EMSGSIZE), (8, False, 0), (8, True, errno.EMSGSIZE), (12, True, 0)],
)
def test_pdu_size(size: int, strict: bool, refused: int) -> None:
    with ring_of("sim") as bench:
        memory = bench.machine.memory
        wanted = of(Op.SOCKET, INET_ONLY, strict=strict, size=size)
        code = bench.user(encode(wanted.program))
        argument = bench.user(uapi.pack(wanted, code))
        if refused:
            with pytest.raises(RingError) as error:
                uapi.register(bench.ring, argument, memory)
            assert error.value.errno == refused
        else:
            uapi.register(bench.ring, argument, memory)
        assert memory.user_read(argument + uapi.PDU_SIZE_AT, 1) == b"\x0c"
        assert bench.socket(AF_UNIX) == (OK if refused else DENIED)


@backends
def test_inheritance(backend: BackendName) -> None:
    task = child()
    task.register_filter(of(Op.NOP, DENY))
    with ring_of(backend, task.fork().fork()) as bench:
        assert bench.nop() == DENIED


@backends
def test_stacking(backend: BackendName) -> None:
    parent = child()
    parent.register_filter(of(Op.SOCKET, INET_ONLY))
    forked = parent.fork()
    forked.register_filter(of(Op.SOCKET, STREAM_ONLY))
    with ring_of(backend, forked) as bench:
        assert bench.socket(AF_INET, SOCK_STREAM) == OK
        assert bench.socket(AF_INET, SOCK_DGRAM) == DENIED
        assert bench.socket(AF_INET6, SOCK_STREAM) == DENIED
    with ring_of(backend, parent) as bench:  # the child's is not the parent's
        assert bench.socket(AF_INET, SOCK_DGRAM) == OK


def test_parents_and_children_part_ways() -> None:
    parent = child()
    forked = parent.fork()
    parent.register_filter(of(Op.NOP, DENY))
    assert parent.table
    assert not forked.table


@backends
def test_a_child_can_not_loosen(backend: BackendName) -> None:
    parent = child()
    parent.register_filter(of(Op.NOP, DENY))
    forked = parent.fork()
    forked.register_filter(of(Op.NOP, ALLOW))
    with ring_of(backend, forked) as bench:
        assert bench.nop() == DENIED


@backends
def test_three_levels(backend: BackendName) -> None:
    first = child()
    first.register_filter(of(Op.SOCKET, INET_ONLY))
    second = first.fork()
    second.register_filter(of(Op.SOCKET, STREAM_ONLY))
    third = second.fork()
    third.register_filter(of(Op.NOP, ALLOW, rest=True))
    with ring_of(backend, third) as bench:
        assert bench.nop() == OK
        assert bench.socket(AF_INET, SOCK_STREAM) == OK
        assert bench.socket(AF_INET, SOCK_DGRAM) == DENIED
        assert bench.socket(AF_INET6, SOCK_STREAM) == DENIED
        assert bench.judged(Op.TIMEOUT, addr=bench.user(bytes(16)), len=1) == DENIED


def test_nothing_reallows_below_a_sentinel() -> None:
    task = child()
    task.register_filter(of(Op.NOP, ALLOW, rest=True))
    task.register_filter(of(Op.SOCKET, ALLOW))
    with ring_of("sim", task) as bench:
        assert bench.socket(AF_INET) == DENIED


# --- CONNECT ------------------------------------------------------------------------------------


def v4(text: str, port: int) -> bytes:
    address = bytes(int(part) for part in text.split("."))
    return struct.pack("<H", AF_INET) + port.to_bytes(2, "big") + address + bytes(8)


def v6(address: bytes, port: int) -> bytes:
    head = struct.pack("<H", AF_INET6) + port.to_bytes(2, "big") + bytes(4)
    return head + address + bytes(4)


LOOPBACK6 = bytes(15) + b"\1"
OTHER6 = bytes.fromhex("20010db8000000000000000000000001")


def word(network: bytes) -> int:
    """A word in network byte order as a filter sees it, in the machine's."""
    return int.from_bytes(network, "little")


def equal(at: int, wanted: int, mask: int = 0xFFFF_FFFF, *, deny: bool = False) -> str:
    yes, no = (0, 1) if deny else (1, 0)
    return f"ld [{at}]\nand #{mask}\njeq #{wanted & mask}, yes\nret #{no}\nyes: ret #{yes}"


def all_words(address: bytes) -> str:
    lines = []
    for index in range(4):
        part = word(address[4 * index : 4 * index + 4])
        lines.append(f"ld [{24 + 4 * index}]\njne #{part}, no")
    return "\n".join([*lines, "ret #1", "no: ret #0"])


CONNECTS = [
    ("allow family", equal(16, AF_INET), v4("127.0.0.1", 9), v6(LOOPBACK6, 9)),
    ("deny family", equal(16, AF_INET6, deny=True), v4("127.0.0.1", 9), v6(LOOPBACK6, 9)),
    (
        "v4 address",
        equal(24, word(bytes((127, 0, 0, 1)))),
        v4("127.0.0.1", 9),
        v4("127.0.0.2", 9),
    ),
    ("port", equal(20, word(b"\0\x50"), 0xFFFF), v4("127.0.0.1", 80), v4("127.0.0.1", 81)),
    ("v6 address", all_words(LOOPBACK6), v6(LOOPBACK6, 9), v6(OTHER6, 9)),
    (
        "v4 /24",
        equal(24, word(bytes((127, 0, 0, 0))), word(b"\xff\xff\xff\0")),
        v4("127.0.0.77", 9),
        v4("127.0.1.1", 9),
    ),
    ("v6 /32", equal(24, word(OTHER6[:4])), v6(OTHER6, 9), v6(LOOPBACK6, 9)),
    (
        "v6 /16",
        equal(24, word(OTHER6[:2] + bytes(2)), word(b"\xff\xff\0\0")),
        v6(OTHER6, 9),
        v6(LOOPBACK6, 9),
    ),
]


@backends
@scopes
@pytest.mark.parametrize(
    ("text", "allowed", "denied"), [row[1:] for row in CONNECTS], ids=[row[0] for row in CONNECTS]
)
def test_connect(
    backend: BackendName, scope: str, text: str, allowed: bytes, denied: bytes
) -> None:
    with filtered(backend, scope, [of(Op.CONNECT, text, size=24, strict=True)]) as bench:
        assert bench.connect(allowed) != DENIED
        assert bench.connect(denied) == DENIED


def test_kernels_before_72_show_nothing_of_connect() -> None:
    task = Task(kernel="7.1")
    with pytest.raises(RingError) as refused:
        task.register_filter(of(Op.CONNECT, ALLOW, size=24))
    assert refused.value.errno == errno.EMSGSIZE


@backends
def test_a_stale_address_is_not_seen(backend: BackendName) -> None:
    with filtered(backend, "ring", [of(Op.CONNECT, equal(16, AF_INET, deny=True))]) as bench:
        address = v4("127.0.0.1", 9)
        assert bench.connect(address) == DENIED
        assert bench.connect(address, 1) == -errno.EINVAL
