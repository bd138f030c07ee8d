"""Seeded sequences of requests that mean the same on any backend, and a player for them.

What a request finishes with must not depend on races, or two backends could differ and both be
right. So the requests that one step submits side by side touch different things (`Unit.uses`);
only members of one chain share. Between steps the player waits for what the step completes.

Numbers that differ from backend to backend are symbols until the player resolves them: `At` an
offset in the user block, `Fd` a descriptor of the world or of an earlier OPENAT or ACCEPT, `Wild`
an address that is not user memory.
"""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from pybpfvm.errors import InputError
from pybpfvm.fuzz.ring_families import FAMILIES, FAMILY_FILES, HOST_ACTIONS, set_up_families
from pybpfvm.fuzz.ring_specs import At, Fd, Resolve, Spec, Value, Wild
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.base import EXTERNAL, Backend, Completion, Message, Peer, Started

BLOCK_BYTES = 1 << 18
OUT_START = 1 << 17  # answers with times and ports in them: compared field by field
FILES = ("a", "b", "sub/c", "d")
FILE_BYTES = 3000
SLOTS = 6
BUFFER_BYTES = 64
SETTLE_NS = 30_000_000  # virtual time that a step gets
LIMIT_NS = 5_000_000_000  # real time after which a missing completion is missing
GRACE_NS = 1_500_000  # real time in which an unexpected completion may show up


@dataclass
class Unit:
    """A chain (or a single request) and the things it touches."""

    specs: list[Spec]
    uses: frozenset[str]


@dataclass
class Step:
    """What the host does, then one submission."""

    host: list[tuple[str, bytes]] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)

    @property
    def specs(self) -> list[Spec]:
        """Its requests, in the order of submission."""
        return [spec for unit in self.units for spec in unit.specs]


@dataclass
class Sequence:
    seed: int
    pokes: list[tuple[int, Callable[[Resolve], bytes]]]
    steps: list[Step]
    statx_at: list[int]
    peer_at: list[int]


class Generator:
    """Makes one Sequence from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.seed = seed
        self.token = 0
        self.next_at = 64
        self.next_out = OUT_START
        self.pokes: list[tuple[int, Callable[[Resolve], bytes]]] = []
        self.pending: list[tuple[int, int]] = []  # (token, opcode) of what may still be there
        self.opened: list[str] = []
        self.statx_at: list[int] = []
        self.peer_at: list[int] = []
        self.drains = False

    def sequence(self) -> Sequence:
        """The sequence: 2 to 7 steps."""
        steps: list[Step] = []
        for _ in range(self.random.randint(2, 7)):
            steps.append(self.step())
            if self.drains:  # it may hold everything back, for workers to do at the same time
                break
        return Sequence(self.seed, self.pokes, steps, self.statx_at, self.peer_at)

    # --- memory -----------------------------------------------------------------------------

    def room(self, size: int) -> At:
        """Memory for so many bytes, which no other request has."""
        at = self.next_at
        self.next_at += size + 8
        assert self.next_at < OUT_START, "a longer sequence needs a larger block"
        return At(at)

    def out(self, size: int) -> At:
        """Memory for an answer that is not compared as bytes."""
        at = self.next_out
        self.next_out += size + 8
        return At(at)

    def poke(self, make: Callable[[Resolve], bytes], size: int) -> At:
        """Memory that holds what `make` gives once addresses are known."""
        at = self.room(size)
        self.pokes.append((at.offset, make))
        return at

    def data(self, data: bytes) -> At:
        """Memory that holds these bytes."""
        return self.poke(lambda _: data, len(data))

    def timespec(self, ns: int) -> Value:
        """A struct timespec of so many ns; seldom a bad one, or nowhere."""
        if self.random.random() < 0.04:
            return self.wild()
        bad = self.random.random() < 0.03
        return self.data(abi.TIMESPEC.pack(*divmod(ns, 10**9)) if not bad else b"\xff" * 16)

    def iovecs(self, total: int, fill: bytes = b"") -> tuple[Value, int]:
        """An array of vectors and their number; with content, none of them is wild."""
        count = self.random.choice((0, 1, 1, 2, 3, 5))
        parts: list[tuple[Value, int]] = []
        for index in range(count):
            size = self.random.randint(0, total // count)
            base: Value = self.data(fill[:size]) if fill else self.room(size)
            if self.random.random() < 0.04 and index == 0 and not fill:
                base = self.wild()
            parts.append((base, size))

        def make(resolve: Resolve) -> bytes:
            return b"".join(abi.IOVEC.pack(resolve(base), size) for base, size in parts)

        if self.random.random() < 0.04:
            return self.wild(), count
        at = self.out(16 * count)  # addresses differ from backend to backend
        self.pokes.append((at.offset, make))
        return at, count

    def wild(self) -> Value:
        """An address that is no user memory."""
        return Wild(self.random.choice(("null", "low", "program", "edge", "half")))

    def noise(self, size: int) -> bytes:
        """So many random bytes."""
        return self.random.randbytes(size)

    # --- steps ------------------------------------------------------------------------------

    def step(self) -> Step:
        """What the host does, and what it submits then."""
        random = self.random
        step = Step()
        for _ in range(random.choice((0, 0, 1, 1, 2))):
            step.host.append(self.host_action())
        used: set[str] = set()
        for _ in range(random.choice((1, 1, 2, 3, 4, 5))):
            unit = self.unit()
            if unit.uses & used:
                continue
            used |= unit.uses
            step.units.append(unit)
        if random.random() < 0.1 and step.units:
            self.drained(step, random.choice(step.units))
        return step

    def host_action(self) -> tuple[str, bytes]:
        """One thing that the host does between steps."""
        what: str = self.random.choice(
            ("send", "send", "send", "recv", "connect", "pipe", "pipe", "shutdown", "close",
             "files", "unregister", *HOST_ACTIONS)
        )  # fmt: skip
        if what in ("shutdown", "close", "unregister", "end_child") and self.random.random() < 0.7:
            what = "send"
        return what, self.noise(self.random.randint(1, 150))

    def drained(self, step: Step, unit: Unit) -> None:
        """Make the chain one that drains, unless it is of what may differ then."""
        again = any(spec.flags_of("ioprio") or spec.op == Op.READ_MULTISHOT for spec in step.specs)
        zero_copy = any(spec.op in (Op.SEND_ZC, Op.SENDMSG_ZC) for spec in step.specs)
        if again or zero_copy or unit.specs[-1].op == _LINKED:
            return  # docs/sim-kernel-differences.md
        self.drains = True
        index = self.random.randrange(len(unit.specs))
        spec = unit.specs[index]
        fields = {**spec.fields, "flags": spec.flags | abi.SQE_IO_DRAIN}
        unit.specs[index] = Spec(spec.op, spec.token, fields, spec.fails)

    def unit(self) -> Unit:
        """A chain, or a single request, of some kind."""
        random = self.random
        kinds: list[tuple[Callable[[], list[Spec]], str]] = [
            (lambda: self.file_ops("a"), "a"),
            (lambda: self.file_ops("b"), "b"),
            (lambda: self.file_ops("sub/c"), "sub/c"),
            (self.names, "names"),
            (self.opening, "d"),
            (self.pipe_ops, "pipe"),
            (self.socket_ops, "sock"),
            (self.accepting, "listener"),
            (self.connecting, "client"),
            (self.timers, "timers"),
            (self.cancels, "cancels"),
            (self.buffers, "sock"),
            (self.externals, "externals"),
            (self.junk, "junk"),
            (self.nops, "nops"),
        ]
        make, uses = random.choice(kinds)
        if random.random() < 0.45:
            family = random.choice(FAMILIES)
            return Unit(self.decorated(family.make(self)), family.uses)
        specs = make()
        # What is pending may belong to any of these, so a cancel stands alone among them.
        if uses == "client":
            return Unit(self.decorated(specs), frozenset({"client", "listener"}))
        if uses == "junk":
            return Unit(self.decorated(specs), frozenset({"junk", "a", "sub/c"}))
        shared = {"sock", "pipe", "listener", "timers", "cancels", "client", "externals"}
        shared |= {"eventfd", "epoll", "futex", "child"}
        many = abi.ASYNC_CANCEL_ANY | abi.ASYNC_CANCEL_OP
        if specs[0].flags_of("op_flags") & many and uses == "cancels":
            shared |= {"a", "b", "sub/c", "d", "names", "junk", "nops"}
            shared |= {use for family in FAMILIES for use in family.uses}
        return Unit(
            self.decorated(specs), frozenset({uses} | (shared if uses == "cancels" else set()))
        )

    def decorated(self, specs: list[Spec]) -> list[Spec]:
        """Links between the members, and a few odd flags."""
        random = self.random
        hard = random.random() < 0.3
        skip = random.random() < 0.12
        done: list[Spec] = []
        for index, spec in enumerate(specs):
            flags = spec.flags
            if index < len(specs) - 1:
                link = abi.SQE_IO_HARDLINK if hard else abi.SQE_IO_LINK
                if random.random() < 0.05:
                    link = abi.SQE_ANY_LINK
                flags |= link
            selects = flags & abi.SQE_BUFFER_SELECT  # docs/sim-kernel-differences.md
            if skip and random.random() < 0.6 and spec.op != EXTERNAL and not selects:
                flags |= abi.SQE_CQE_SKIP_SUCCESS
            waits = spec.fields.get("fd") in (Fd("reader"), Fd("writer"), Fd("sock"))
            if random.random() < 0.04 and spec.op in _MAY_GO_ASYNC and not waits:
                flags |= abi.SQE_ASYNC  # docs/sim-kernel-differences.md
            fields: dict[str, Value] = {**spec.fields, "flags": flags}
            if random.random() < 0.03 and spec.op != EXTERNAL:
                fields["personality"] = random.choice((1, 1, 2, 3))
            done.append(Spec(spec.op, spec.token, fields, spec.fails))
        return done

    def spec(self, op: int, /, **fields: Value) -> Spec:
        """A request with the next token."""
        self.token += 1
        return Spec(op, self.token, fields)

    # --- what requests do ---------------------------------------------------------------------

    def file_ops(self, name: str) -> list[Spec]:
        """Requests of one file."""
        count = self.random.choice((1, 1, 2, 3))
        specs = [self.file_op(name) for _ in range(count)]
        if self.random.random() < 0.1:
            specs.append(self.spec(Op.LINK_TIMEOUT, addr=self.timespec(60 * 10**9), len=1))
        return specs

    def file_op(self, name: str) -> Spec:
        """One request of a file."""
        random = self.random
        fields: dict[str, Value] = {"fd": Fd(name)}
        if random.random() < 0.25:
            fields = {"fd": FILES.index(name), "flags": abi.SQE_FIXED_FILE}
        elif random.random() < 0.06:
            fields = {"fd": random.choice((-1, 0, 9999, Fd("sub"), Fd("rdonly"), Fd("wronly")))}
        size = random.choice((0, 1, 10, 100, 600))
        offset = random.choice((0, 0, 1, 500, 2990, FILE_BYTES, 10_000, abi.CURRENT_POSITION))
        if random.random() < 0.03:
            offset = random.choice(((1 << 64) - 2, 1 << 63, abi.MAX_OFFSET))
        fields["off"] = offset
        if random.random() < 0.04:
            fields["ioprio"] = random.choice((1, 8, 0x2001, 0x4008, 0x6000, 0x8000))
        what = random.randrange(11)
        wild = random.random() < 0.06
        if what <= 1:
            addr = self.wild() if wild else self.room(size)
            return self.spec(Op.READ, addr=addr, len=size, **fields)
        if what <= 3:
            addr = self.wild() if wild else self.data(self.noise(size))
            if wild:
                fields["off"] = 0  # whether a fault extends the file is the file system's choice
            flags = random.choice((0, 0, 0, abi.RWF_APPEND, abi.RWF_DSYNC, 1 << 30))
            return self.spec(Op.WRITE, addr=addr, len=size, op_flags=flags, **fields)
        if what == 4:
            iov, count = self.iovecs(size)
            return self.spec(Op.READV, addr=iov, len=count, **fields)
        if what == 5:
            iov, count = self.iovecs(size, self.noise(size))
            return self.spec(Op.WRITEV, addr=iov, len=count, **fields)
        if what in (6, 7):
            # Each file has its own part of the registered buffers.
            index, start = random.choice(((0, 0), (0, 0), (1, 4096), (2, 0)))
            start += FILES.index(name) * 1000
            at: Value = At(OUT_START - 16384 + start + random.choice((0, 100, 4096)))
            op = Op.READ_FIXED if what == 6 else Op.WRITE_FIXED
            return self.spec(
                op, addr=self.wild() if wild else at, len=size, buf_index=index, **fields
            )
        if what == 8:
            if random.random() < 0.8:
                fields["off"] = 0
            flags = random.choice((0, abi.FSYNC_DATASYNC, 8))
            return self.spec(Op.FSYNC, op_flags=flags, **fields)
        if what == 9:
            if random.random() < 0.5:
                return self.spec(Op.FTRUNCATE, **{**fields, "off": random.choice((0, 100, 5000))})
            mode = random.choice((0, abi.FALLOC_FL_KEEP_SIZE, 3, 0x10))
            length = random.choice((0, 1, 4096, 10_000))
            return self.spec(Op.FALLOCATE, addr=length, len=mode, **fields)
        out = self.out(abi.STATX_BYTES)
        self.statx_at.append(out.offset)
        return self.spec(
            Op.STATX,
            fd=abi.AT_FDCWD,
            addr=self.path(name),
            off=self.wild() if wild else out,
            len=abi.STATX_BASIC_STATS,
        )

    def path(self, name: str) -> Value:
        """A path to a file, in one of its forms."""
        random = self.random
        if random.random() < 0.04:
            return self.wild()
        if not name:
            return self.data(b"\0")
        form = random.choice(
            ("{}", "{}", "{}", "/{}", "./{}", "../{}", "sub/../{}", "{}/", "/../../{}")
        )
        return self.data(form.format(name).encode() + b"\0")

    def names(self) -> list[Spec]:
        """Directories and files that only these requests name."""
        random = self.random
        specs = []
        for _ in range(random.choice((1, 2, 2))):
            name = random.choice(("n1", "n2", "nd", "nd/x", "no/such", "x" * 300, ""))
            what = random.randrange(4)
            if what == 0:
                specs.append(
                    self.spec(Op.MKDIRAT, fd=abi.AT_FDCWD, addr=self.path(name), len=0o755)
                )
            elif what == 1:
                flags = random.choice((0, 0, abi.AT_REMOVEDIR, 1))
                specs.append(
                    self.spec(Op.UNLINKAT, fd=abi.AT_FDCWD, addr=self.path(name), op_flags=flags)
                )
            elif what == 2:
                other = random.choice(("n1", "n2", "nd", "nd/y"))
                specs.append(
                    self.spec(
                        Op.RENAMEAT,
                        fd=abi.AT_FDCWD,
                        len=abi.AT_FDCWD & 0xFFFFFFFF,
                        addr=self.path(name),
                        off=self.path(other),
                        op_flags=random.choice((0, 0, abi.RENAME_NOREPLACE)),
                    )
                )
            else:
                # Slots are for those that have them to themselves.
                specs.append(self.open_spec(name, abi.O_CREAT | abi.O_RDWR, slots=False))
        return specs

    def open_spec(self, name: str, flags: int, *, slots: bool = True) -> Spec:
        """An OPENAT or OPENAT2."""
        random = self.random
        dirfd: Value = random.choice((abi.AT_FDCWD,) * 8 + (Fd("sub"), -1, 0, Fd("a")))
        # ".." ends at "sub" on the kernel's ring, at "/" in sim.
        path = self.data(name.encode() + b"\0") if dirfd == Fd("sub") else self.path(name)
        slot = 0
        if slots and random.random() < 0.2:
            slot = random.choice((5, 6, 7, abi.FILE_INDEX_ALLOC))
        if random.random() < 0.3:
            how = abi.OPEN_HOW.pack(
                flags, 0o644 if flags & abi.O_CREAT else 0, random.choice((0, 0, 8, 16, 0x80))
            )
            return self.spec(
                Op.OPENAT2,
                fd=dirfd,
                addr=path,
                off=self.data(how),
                len=random.choice((24, 24, 24, 16)),
                file_index=slot,
            )
        return self.spec(Op.OPENAT, fd=dirfd, addr=path, op_flags=flags, len=0o644, file_index=slot)

    def opening(self) -> list[Spec]:
        """Opens of "d" and what is done with them (their descriptors are known one step later)."""
        random = self.random
        if self.opened and random.random() < 0.6:
            name = random.choice(self.opened)
            if random.random() < 0.5:
                closing = [self.spec(Op.CLOSE, fd=Fd(name))]
                if random.random() < 0.4:  # in a chain it is another matter
                    closing.append(self.spec(Op.NOP))
                return closing
            return [self.spec(Op.READ, fd=Fd(name), addr=self.room(20), len=20)]
        if random.random() < 0.2:
            slot = random.choice((5, 6, 7))
            return [self.spec(Op.CLOSE, fd=0, file_index=slot)]
        if random.random() < 0.2:
            fds: list[Value] = [
                random.choice((-1, -2, 9999, 0, Fd("d"), Fd("a")))
                for _ in range(random.choice((1, 2)))
            ]
            addr = self.out(4 * len(fds))  # descriptors differ from backend to backend
            self.pokes.append((addr.offset, lambda r: b"".join(abi.FD.pack(r(fd)) for fd in fds)))
            start = random.choice((4, 5, 9))
            return [self.spec(Op.FILES_UPDATE, addr=addr, len=len(fds), off=start)]
        flags = random.choice(
            (abi.O_RDONLY, abi.O_RDONLY, abi.O_RDWR, abi.O_RDWR | abi.O_CREAT,
             abi.O_RDWR | abi.O_CREAT | abi.O_EXCL, abi.O_DIRECTORY, abi.O_WRONLY | abi.O_TRUNC)
        )  # fmt: skip
        spec = self.open_spec(random.choice(("d", "d", "d", "none", "sub")), flags)
        self.opened.append(f"#{spec.token}")
        return [spec]

    def pipe_ops(self) -> list[Spec]:
        """Reads and writes of a pipe."""
        random = self.random
        specs: list[Spec] = []
        for _ in range(random.choice((1, 1, 2))):
            what = random.randrange(5)
            if what <= 1:
                size = random.choice((0, 1, 20, 200))
                spec = self.spec(
                    Op.READ, fd=Fd("reader"), addr=self.room(size), len=size, off=_HERE
                )
                self.pending.append((spec.token, spec.op))
            elif what == 2:
                data = self.noise(random.randint(1, 60))
                spec = self.spec(
                    Op.WRITE, fd=Fd("writer"), addr=self.data(data), len=len(data), off=_HERE
                )
            else:
                spec = self.poll("reader" if what == 3 else "writer")
            specs.append(spec)
        return self.timed(specs)

    def timed(self, specs: list[Spec]) -> list[Spec]:
        """The requests, sometimes with a LINK_TIMEOUT behind them."""
        if self.random.random() < 0.2:
            late = self.random.random() < 0.4
            time_ns = 60 * 10**9 if late else 2_000_000
            flags = self.random.choice(
                (0, 0, abi.TIMEOUT_BOOTTIME, abi.TIMEOUT_ETIME_SUCCESS, abi.TIMEOUT_UPDATE)
            )
            timeout = self.spec(Op.LINK_TIMEOUT, addr=self.timespec(time_ns), len=1, op_flags=flags)
            if late:
                self.pending.append((timeout.token, timeout.op))
            specs.append(timeout)
        return specs

    def poll(self, name: str) -> Spec:
        """A POLL_ADD."""
        random = self.random
        events = random.choice((abi.POLLIN, abi.POLLOUT, abi.POLLIN | abi.POLLOUT, abi.POLLPRI))
        multi = random.choice((0, 0, abi.POLL_ADD_MULTI))
        spec = self.spec(Op.POLL_ADD, fd=Fd(name), op_flags=events, len=multi)
        self.pending.append((spec.token, spec.op))
        return spec

    def socket_ops(self) -> list[Spec]:
        """Sends and receives of a socket."""
        random = self.random
        what = random.randrange(10)
        if what >= 8:
            return self.timed([self.message(sending=what == 8)])
        if what <= 1:
            size = random.choice((1, 30, 200))
            flags = random.choice((0, 0, abi.MSG_WAITALL, abi.MSG_DONTWAIT, abi.MSG_PEEK))
            spec = self.spec(Op.RECV, fd=Fd("sock"), addr=self.room(size), len=size, op_flags=flags)
            self.pending.append((spec.token, spec.op))
            return self.timed([spec])
        if what <= 3:
            data = self.noise(random.randint(1, 100))
            addr: Value = self.wild() if random.random() < 0.05 else self.data(data)
            return [
                self.spec(
                    Op.SEND, fd=Fd("sock"), addr=addr, len=len(data), op_flags=abi.MSG_NOSIGNAL
                )
            ]
        if what == 4:
            return [self.poll("sock")]
        if what == 5:
            data = self.noise(random.randint(1, 50))
            recv = self.spec(Op.RECV, fd=Fd("sock"), addr=self.room(40), len=40)
            self.pending.append((recv.token, recv.op))
            send = self.spec(
                Op.SEND, fd=Fd("sock"), addr=self.data(data), len=len(data),
                op_flags=abi.MSG_NOSIGNAL,
            )  # fmt: skip
            return [recv, send]
        if what == 6:
            size = random.choice((10, 100))
            off = random.choice((0, 0, 0, _HERE, 7))
            spec = self.spec(Op.READ, fd=Fd("sock"), addr=self.room(size), len=size, off=off)
            self.pending.append((spec.token, spec.op))
            return [spec]
        if random.random() < 0.7:
            return [self.poll("sock")]
        return [self.spec(Op.SHUTDOWN, fd=Fd("sock"), len=random.choice((0, 1, 2, 3)))]

    def message(self, *, sending: bool) -> Spec:
        """A SENDMSG or RECVMSG with a header of its own."""
        random = self.random
        size = random.choice((0, 5, 40, 120))
        iov, count = self.iovecs(size, self.noise(size) if sending else b"")
        flags = random.choice((0, 0, abi.MSG_WAITALL, abi.MSG_DONTWAIT))
        at = self.out(abi.MSGHDR.size)

        def make(resolve: Resolve) -> bytes:
            return abi.MSGHDR.pack(0, 0, resolve(iov), count, 0, 0, 0)

        self.pokes.append((at.offset, make))
        addr: Value = self.wild() if random.random() < 0.05 else at
        op = Op.SENDMSG if sending else Op.RECVMSG
        spec = self.spec(op, fd=Fd("sock"), addr=addr, op_flags=flags | abi.MSG_NOSIGNAL)
        if not sending:
            self.pending.append((spec.token, spec.op))
        return spec

    def buffers(self) -> list[Spec]:
        """Provided buffers, and receives that select them."""
        random = self.random
        group = random.choice((1, 1, 2, 1, 1, 2, 3))
        what = random.randrange(6)
        if what <= 1:
            count = random.choice((1, 2, 4))
            addr: Value = self.room(count * BUFFER_BYTES)
            if random.random() < 0.05:
                addr = self.wild()
            return [
                self.spec(
                    Op.PROVIDE_BUFFERS,
                    fd=count if random.random() < 0.95 else 0,
                    addr=addr,
                    len=BUFFER_BYTES,
                    off=random.choice((0, 10, 65535)),
                    buf_index=group,
                )
            ]
        if what == 2:
            return [self.spec(Op.REMOVE_BUFFERS, fd=random.choice((0, 1, 3)), buf_index=group)]
        size = random.choice((0, 10, 64, 500))
        flags = abi.SQE_BUFFER_SELECT
        op = random.choice((Op.RECV, Op.RECV, Op.READ))
        multishot = abi.RECV_MULTISHOT if op == Op.RECV and random.random() < 0.6 else 0
        multishot = 0 if self.drains else multishot
        if multishot:
            size = 0
        spec = self.spec(
            op, fd=Fd("sock"), len=size, buf_index=group, ioprio=multishot, flags=flags
        )
        self.pending.append((spec.token, spec.op))
        return [spec]

    def accepting(self) -> list[Spec]:
        """ACCEPT and CONNECT."""
        random = self.random
        fields: dict[str, Value] = {}
        if random.random() < 0.3:
            addr, length = self.out(16), self.out(4)
            self.pokes.append((length.offset, lambda _: abi.SOCKLEN.pack(16)))
            self.peer_at.append(addr.offset)
            fields = {"addr": addr, "off": length}
        multi = abi.ACCEPT_MULTISHOT if random.random() < 0.4 else 0
        if multi:
            fields = {}
        spec = self.spec(Op.ACCEPT, fd=Fd("listener"), ioprio=multi, **fields)
        self.pending.append((spec.token, spec.op))
        self.opened.append(f"#{spec.token}")
        return [spec]

    def connecting(self) -> list[Spec]:
        """A socket of its own; nobody accepts, or nobody listens."""
        random = self.random
        what = random.choice(("there", "refused", "short", "family", "wild"))

        def make(resolve: Resolve) -> bytes:
            return struct.pack(">HH4s8x", 0x0200, 1, bytes((127, 0, 0, 1)))

        addr: Value = self.poke(make, 16)
        size = 16
        if what == "there":
            addr = At(0)  # the player puts the listener's address there
        elif what == "short":
            size = random.choice((0, 1, 2, 15, 200))
        elif what == "family":
            addr = self.data(b"\x0a" + bytes(27))
        elif what == "wild":
            addr = self.wild()
        return [
            self.spec(
                Op.CONNECT, fd=Fd("client2" if what == "there" else "client"), addr=addr, off=size
            )
        ]

    def timers(self) -> list[Spec]:
        """TIMEOUT, and what changes or removes it."""
        random = self.random
        what = random.randrange(6)
        if what == 0:
            spec = self.spec(Op.TIMEOUT, addr=self.timespec(60 * 10**9), len=1)
            self.pending.append((spec.token, spec.op))
            return [spec]
        if what == 1:
            flags = random.choice(
                (0, 0, abi.TIMEOUT_ETIME_SUCCESS, abi.TIMEOUT_BOOTTIME, abi.TIMEOUT_REALTIME,
                 abi.TIMEOUT_REALTIME | abi.TIMEOUT_BOOTTIME, 0x100)
            )  # fmt: skip
            specs = [self.spec(Op.TIMEOUT, addr=self.timespec(1_000_000), len=1, op_flags=flags)]
            if random.random() < 0.5:
                specs.append(self.spec(Op.NOP))
            return specs
        if what == 2:
            return [
                self.spec(
                    Op.TIMEOUT,
                    addr=self.timespec(1_000_000),
                    len=1,
                    op_flags=abi.TIMEOUT_MULTISHOT,
                    off=random.choice((1, 2, 3)),
                )
            ]
        if what == 3:
            return [self.spec(Op.LINK_TIMEOUT, addr=self.timespec(1_000_000), len=1)]
        if what == 4:
            # absolute, in the past
            clock = random.choice((0, abi.TIMEOUT_BOOTTIME, abi.TIMEOUT_REALTIME))
            flags = abi.TIMEOUT_ABS | clock | random.choice((0, 0, abi.TIMEOUT_MULTISHOT))
            return [self.spec(Op.TIMEOUT, addr=self.data(bytes(16)), len=1, op_flags=flags)]
        return [self.spec(Op.TIMEOUT, addr=self.timespec(1_000_000), len=random.choice((0, 2)))]

    def cancels(self) -> list[Spec]:
        """ASYNC_CANCEL and POLL_REMOVE of what may be there."""
        random = self.random
        target, op = random.choice(self.pending or [(10**6, Op.NOP)])
        what = random.randrange(7)
        timers = [each for each in self.pending if each[1] in (Op.TIMEOUT, _LINKED)]
        if timers and random.random() < 0.5:
            target, op = random.choice(timers)
            what = random.choice((3, 4))
        if random.random() < 0.15:
            target = 10**6  # nobody
        if what <= 1:
            flags = random.choice((0, 0, abi.ASYNC_CANCEL_ALL, 1 << 20))
            return [self.spec(Op.ASYNC_CANCEL, addr=target, op_flags=flags)]
        if what == 2:
            name = random.choice(("sock", "reader", "listener", "client2"))
            flags = abi.ASYNC_CANCEL_FD | abi.ASYNC_CANCEL_ALL
            fd: Value = Fd(name) if random.random() < 0.8 else 0
            return [self.spec(Op.ASYNC_CANCEL, fd=fd, op_flags=flags)]
        if op == Op.LINK_TIMEOUT and what != 5:
            ts = self.timespec(random.choice((1_000_000, 120 * 10**9)))
            flags = abi.LINK_TIMEOUT_UPDATE | random.choice((abi.TIMEOUT_UPDATE,) * 3 + (0,))
            return [self.spec(Op.TIMEOUT_REMOVE, addr=target, off=ts, op_flags=flags)]
        if random.random() < 0.2:
            flags = abi.ASYNC_CANCEL_OP | abi.ASYNC_CANCEL_ALL
            return [self.spec(Op.ASYNC_CANCEL, len=int(op), op_flags=flags)]
        if random.random() < 0.1:
            flags = random.choice(
                (abi.ASYNC_CANCEL_USERDATA, abi.ASYNC_CANCEL_USERDATA | abi.ASYNC_CANCEL_OP)
            )
            return [self.spec(Op.ASYNC_CANCEL, addr=target, len=int(op), op_flags=flags)]
        if what == 3 and op == Op.TIMEOUT:
            return [self.spec(Op.TIMEOUT_REMOVE, addr=target)]
        if what == 4 and op == Op.TIMEOUT:
            ts = self.timespec(random.choice((1_000_000, 120 * 10**9)))
            return [self.spec(Op.TIMEOUT_REMOVE, addr=target, off=ts, op_flags=abi.TIMEOUT_UPDATE)]
        if what == 5:
            return [self.spec(Op.POLL_REMOVE, addr=target)]
        if op == Op.POLL_ADD:
            return [
                self.spec(
                    Op.POLL_REMOVE,
                    addr=target,
                    len=abi.POLL_UPDATE_EVENTS,
                    op_flags=random.choice((abi.POLLIN, abi.POLLOUT)),
                )
            ]
        flags = abi.ASYNC_CANCEL_ANY | abi.ASYNC_CANCEL_ALL
        if random.random() < 0.3:
            return [self.spec(Op.ASYNC_CANCEL, op_flags=flags)]
        return [self.spec(Op.ASYNC_CANCEL, addr=target)]

    def externals(self) -> list[Spec]:
        """Requests that the caller performs itself."""
        random = self.random
        specs: list[Spec] = []
        for _ in range(random.choice((1, 1, 2, 3))):
            if random.random() < 0.6:
                spec = self.spec(EXTERNAL)
                specs.append(Spec(spec.op, spec.token, {}, fails=random.random() < 0.3))
            else:
                specs.append(self.spec(Op.NOP))
        return specs

    def nops(self) -> list[Spec]:
        """NOPs with results of their own."""
        random = self.random
        specs = []
        for _ in range(random.choice((1, 2, 4))):
            result = random.choice((0, 0, 5, -errno.EIO & 0xFFFFFFFF))
            flags = abi.NOP_INJECT_RESULT if result else 0
            specs.append(self.spec(Op.NOP, op_flags=flags, len=result))
        return specs

    def junk(self) -> list[Spec]:
        """A chain with a request in it that is refused."""
        random = self.random
        specs: list[Spec] = [self.nops()[0] for _ in range(random.choice((0, 1, 2)))]
        bad = random.choice(
            (
                self.spec(200),
                self.spec(Op.NOP, flags=0x80),
                self.spec(Op.NOP, ioprio=1),
                self.spec(Op.NOP, personality=3),
                self.spec(Op.NOP, flags=abi.SQE_BUFFER_SELECT),
                self.spec(Op.NOP, op_flags=1 << 31),
                self.spec(Op.TIMEOUT, addr=self.timespec(1_000_000), len=1, buf_index=1),
                self.spec(Op.READ, fd=Fd("a"), addr=self.wild(), len=10),
                self.spec(Op.READ_FIXED, fd=Fd("a"), addr=At(64), len=10, buf_index=40),
                self.spec(Op.CLOSE, fd=Fd("a"), len=1),
                self.spec(Op.CLOSE, fd=0),
                self.spec(Op.ACCEPT, fd=Fd("a")),
                self.spec(Op.RECV, fd=Fd("a"), addr=self.room(4), len=4),
                self.spec(Op.WRITE, fd=Fd("reader"), addr=self.room(4), len=4),
                self.spec(Op.READ, fd=Fd("writer"), addr=self.room(4), len=4),
                self.spec(Op.READ, fd=Fd("sub"), addr=self.room(4), len=4),
                self.spec(Op.POLL_ADD, fd=-1, op_flags=1),
                self.spec(Op.POLL_ADD, fd=Fd("a"), op_flags=1),
                self.spec(Op.STATX, fd=abi.AT_FDCWD, addr=self.path("a"), off=self.wild(), len=7),
            )
        )
        specs.insert(random.randrange(len(specs) + 1), bad)
        return specs


_LINKED = Op.LINK_TIMEOUT
_HERE = abi.CURRENT_POSITION
_MAY_GO_ASYNC = frozenset(
    {Op.NOP, Op.READ, Op.WRITE, Op.READV, Op.WRITEV, Op.READ_FIXED, Op.WRITE_FIXED, Op.OPENAT}
)
_OPENERS = frozenset({Op.OPENAT, Op.OPENAT2, Op.ACCEPT, Op.SOCKET, Op.FIXED_FD_INSTALL})


@dataclass
class Outcome:
    """What one backend made of a sequence. `events` are in order, descriptors replaced by "fd"."""

    consumed: list[int]
    events: list[tuple[int, object, int]]
    steps: list[tuple[int, int]]  # events so far, requests in flight after each step
    host: list[object]
    memory: bytes
    files: dict[str, bytes | None]
    facts: list[object]


class Player:
    """Plays a sequence on one backend, which it closes."""

    def __init__(self, sequence: Sequence, memory: AddressSpace, backend: Backend) -> None:
        self.sequence = sequence
        self.memory = memory
        self.backend = backend
        self.block = memory.alloc(BLOCK_BYTES, RegionKind.USER, "sequence")
        self.program = memory.alloc(4096, RegionKind.STACK, "program")
        self.fds: dict[str, int] = {}
        self.specs = {spec.token: spec for step in sequence.steps for spec in step.specs}
        self.events: list[tuple[int, object, int]] = []
        self.messages: list[tuple[int, int, int]] = []
        self.peer: Peer | None = None
        self.clients: list[Peer] = []

    def resolve(self, value: Value) -> int:
        """The number that a symbol stands for here."""
        if isinstance(value, At):
            return self.block.start + value.offset
        if isinstance(value, Fd):
            return self.fds.get(value.name, -1)
        if isinstance(value, Wild):
            places = {
                "null": 0,
                "low": 0x1234,
                "program": self.program.start,
                "edge": self.block.end,
                "half": 0xFFFF_8000_0000_0000,
            }
            return places[value.kind]
        return value

    def play(self, expected: list[tuple[int, int]] | None = None) -> Outcome:
        """`expected`: the `steps` of another backend; wait for as much to happen here."""
        self.set_up()
        consumed: list[int] = []
        host: list[object] = []
        steps: list[tuple[int, int]] = []
        for index, step in enumerate(self.sequence.steps):
            for what, data in step.host:
                host.append(self.act(what, data))
                self.take()
            consumed.append(self.backend.submit([spec.pack(self.resolve) for spec in step.specs]))
            self.settle(None if expected is None else expected[index])
            steps.append((len(self.events), self.backend.in_flight()))
        names = (*FILES, "n1", "n2", "nd/x", "nd/y", *FAMILY_FILES)
        files = {name: self.content(name) for name in names}
        memory = self.memory.user_read(self.block.start + 64, OUT_START - 64)
        facts = [self.statx(at) for at in self.sequence.statx_at]
        facts += [self.peer_family(at) for at in self.sequence.peer_at]
        facts.append(self.backend.in_flight())
        facts.append(sorted(self.messages))
        return Outcome(consumed, self.events, steps, host, memory, files, facts)

    def set_up(self) -> None:
        """Files, sockets, registered files and buffers, as for all sequences."""
        world, fill = self.backend.world, Random(self.sequence.seed ^ 0x5EED)
        for name in FILES:
            world.add_file(name, fill.randbytes(FILE_BYTES))
            self.fds[name] = world.open(name, abi.O_RDWR)
        world.add_file("e", b"")
        self.fds["rdonly"] = world.open("e", abi.O_RDONLY)
        self.fds["wronly"] = world.open("e", abi.O_WRONLY)
        self.fds["sub"] = world.open("sub", abi.O_RDONLY | abi.O_DIRECTORY)
        self.fds["reader"], self.fds["writer"] = world.pipe()
        self.fds["sock"], self.peer = world.socketpair()
        self.fds["listener"] = world.listen()
        self.fds["client"], self.fds["client2"] = world.socket(), world.socket()
        set_up_families(self)
        slots = [self.fds[name] for name in FILES] + [-1] * (SLOTS - len(FILES))
        tagged = self.sequence.seed % 3 == 0  # a tag tells when the file or buffer is let go
        file_tags = [(4000 + at) * (fd >= 0) for at, fd in enumerate(slots)] if tagged else ()
        assert self.backend.register_files(slots, file_tags) == 0
        fixed = self.block.start + OUT_START - 16384
        buffers = [(fixed, 4096), (fixed + 4096, 4096)]
        assert self.backend.register_buffers(buffers, (5000, 5001) if tagged else ()) == 0
        for offset, make in self.sequence.pokes:
            self.memory.user_write(self.block.start + offset, make(self.resolve))
        self.memory.user_write(self.block.start, world.address(self.fds["listener"]))

    def act(self, what: str, data: bytes) -> object:
        """What the host does between steps; the answer is compared, too."""
        assert self.peer is not None
        if what == "send":
            return self.guarded(lambda: self.peer.send(data) if self.peer else None)
        if what == "recv":
            return self.guarded(lambda: self.peer.recv(1000) if self.peer else None)
        if what == "shutdown":
            self.peer.shutdown()
        elif what == "close":
            self.peer.close()
        if what == "connect":
            self.clients.append(self.backend.world.connect(self.fds["listener"]))
            return None
        if what == "files":
            fds = [self.fds["a"], -1, 9999][: 1 + len(data) % 3]
            return self.backend.update_files(len(data) % 3 + SLOTS - 3, fds)
        if what == "unregister":
            return self.backend.unregister_buffers()
        if what in HOST_ACTIONS:
            return HOST_ACTIONS[what](self, data)
        return None

    @staticmethod
    def guarded(action: Callable[[], object]) -> object:
        """What the action gives, or "refused"."""
        try:
            return action()
        except InputError:
            return "refused"

    def settle(self, expected: tuple[int, int] | None) -> None:
        """Take events until the step is over."""
        if expected is None:
            end = self.backend.now_ns() + SETTLE_NS
            self.take()
            while (left := end - self.backend.now_ns()) > 0 and self.backend.wait(left):
                self.take()
            return
        self.take()
        end = time.monotonic_ns() + LIMIT_NS
        events, in_flight = expected
        while len(self.events) < events and time.monotonic_ns() < end:
            self.backend.wait(LIMIT_NS // 10)
            self.take()
        while self.backend.in_flight() > in_flight and time.monotonic_ns() < end:
            self.backend.wait(GRACE_NS)  # silent requests, with nothing to report
            self.take()
        while self.backend.wait(GRACE_NS):
            self.take()

    def take(self) -> None:
        """Take the events there are."""
        while events := self.backend.poll():
            for event in events:
                if isinstance(event, Started):
                    self.events.append((event.token, "started", 0))
                    self.backend.finish(event.token, failed=self.specs[event.token].fails)
                elif isinstance(event, Message):
                    self.messages.append((event.user_data, event.res, event.flags))
                else:
                    self.completed(event)

    def completed(self, event: Completion) -> None:
        """Note a completion."""
        spec = self.specs[event.token]
        res: object = event.res
        if spec.op in _OPENERS and event.res >= 0 and not spec.fields.get("file_index"):
            self.fds[f"#{event.token}"] = event.res
            res = "fd"
        self.events.append((event.token, res, event.flags))

    def content(self, name: str) -> bytes | None:
        """A file's bytes; None if there is no such file."""
        try:
            return self.backend.world.file_data(name)
        except InputError:
            return None

    def statx(self, at: int) -> object:
        """What STATX left there, as far as it must be alike."""
        raw = self.memory.user_read(self.block.start + at, abi.STATX_BYTES)
        fields = abi.STATX.unpack(raw)
        return fields[3], fields[6], fields[8]  # links, mode, size

    def peer_family(self, at: int) -> object:
        """The family of the address that ACCEPT left there."""
        return self.memory.user_read(self.block.start + at, 2)


def by_token(sequence: Sequence, outcome: Outcome) -> dict[int, list[tuple[object, int]]]:
    """The events of each request, in order, without what is a matter of moments.

    Wake-ups of a multishot poll that come together make one event of it; a LINK_TIMEOUT that
    rings while its request completes says -ENOENT instead of -ECANCELED.
    """
    specs = {spec.token: spec for step in sequence.steps for spec in step.specs}
    found: dict[int, list[tuple[object, int]]] = {}
    for token, res, flags in outcome.events:
        events = found.setdefault(token, [])
        if specs[token].op == Op.LINK_TIMEOUT and res == -errno.ENOENT:
            res = -errno.ECANCELED
        if specs[token].op != Op.POLL_ADD or (res, flags) not in events[-1:]:
            events.append((res, flags))
    return found


def disorder(sequence: Sequence, outcome: Outcome) -> Iterator[str]:
    """Where the order of completions breaks a promise of mainline.

    Members of a chain complete in their order (a LINK_TIMEOUT when it likes). A drained chain
    that succeeds starts after all that was submitted before it has completed. Anything else is
    free: which of several requests completes first, and even whether what is submitted after a
    drained request waits for it, once that has gone to a worker.
    """
    last = {token: index for index, (token, _, _) in enumerate(outcome.events)}
    first = {token: index for index, (token, _, _) in reversed(list(enumerate(outcome.events)))}
    results = {token: res for token, res, _ in outcome.events}
    before: list[int] = []
    for step in sequence.steps:
        for unit in step.units:
            tokens = [spec.token for spec in unit.specs if spec.token in last]
            timeouts = {spec.token for spec in unit.specs if spec.op == Op.LINK_TIMEOUT}
            members = [token for token in tokens if token not in timeouts]
            for one, two in pairwise(members):
                if last[one] > last[two]:
                    yield f"{two} completed before {one}, which is before it in a chain"
            if any(spec.flags & abi.SQE_IO_DRAIN for spec in unit.specs):
                for token in tokens:
                    late = [other for other in before if last[other] > first[token]]
                    if results[token] == 0 and late:
                        yield f"drained {token} did not wait for {late}"
            before.extend(tokens)


def play_on(
    sequence: Sequence,
    make: Callable[[AddressSpace], Backend],
    expected: list[tuple[int, int]] | None,
) -> Outcome:
    """Play on a fresh backend."""
    with ExitStack() as stack:
        memory = stack.enter_context(AddressSpace())
        backend = make(memory)
        stack.callback(backend.close)
        return Player(sequence, memory, backend).play(expected)
