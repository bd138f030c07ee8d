"""Families of generated requests beyond plain files and sockets, and what the host does for them.

A family makes the members of one chain; `uses` names what they touch, as in ring_sequences.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pybpfvm.errors import InputError
from pybpfvm.fuzz.ring_specs import At, Fd, Resolve, Spec, Value
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op

if TYPE_CHECKING:
    from pybpfvm.fuzz.ring_sequences import Generator, Player

FAMILY_FILES: Final = ("k1", "k2", "k3", "kd/x", "kf", "spliced", "v")
WORDS_AT: Final = 40  # offset of two futex words, below what the generator gives out
_NOWHERE: Final = abi.CURRENT_POSITION
_HERE: Final = abi.AT_FDCWD & 0xFFFF_FFFF
_SERVER_SLOT: Final = 5
_RING_AT: Final = (1 << 18) - 4096  # of a buffer ring, at the end of the block
_RING_GROUP: Final = 3
_SOME_NUMBER: Final = 8  # of a ring; lower ones may be in use
_PRIVATE: Final = abi.FUTEX2_PRIVATE | abi.FUTEX2_SIZE_U32


@dataclass(frozen=True)
class Family:
    make: Callable[[Generator], list[Spec]]
    uses: frozenset[str]


def links(g: Generator) -> list[Spec]:
    """Symbolic and hard links among names of their own, and requests that meet them."""
    random = g.random
    names = ("k1", "k2", "k3", "kd", "kd/x", "kf", "kd/../k1", "kf/", "k1/", "no/k", "")
    specs: list[Spec] = []
    for _ in range(random.choice((1, 2, 3))):
        name, other = random.choice(names), random.choice(names)
        target = random.choice(("k1", "k2", "k3", "kf", "kd", "../kf", "kd/x", ".", "..", "kf/"))
        here: dict[str, Value] = {"fd": abi.AT_FDCWD}
        what = random.randrange(9)
        if what <= 2:
            extra = random.choice(({}, {}, {}, {"len": 1}, {"op_flags": 1}))
            text = g.data(target.encode() + b"\0")
            specs.append(g.spec(Op.SYMLINKAT, addr=text, off=g.path(other), **here, **extra))
        elif what <= 4:
            flags = random.choice((0, 0, abi.AT_SYMLINK_FOLLOW, abi.AT_EMPTY_PATH, 1))
            specs.append(
                g.spec(
                    Op.LINKAT,
                    fd=Fd("kf") if flags == abi.AT_EMPTY_PATH and not name else abi.AT_FDCWD,
                    len=_HERE,
                    addr=g.path(name),
                    off=g.path(other),
                    op_flags=flags,
                )
            )
        elif what == 5:
            flags = random.choice((0, 0, abi.AT_REMOVEDIR))
            specs.append(g.spec(Op.UNLINKAT, addr=g.path(name), op_flags=flags, **here))
        elif what == 6:
            specs.append(
                g.spec(
                    Op.RENAMEAT,
                    len=_HERE,
                    addr=g.path(name),
                    off=g.path(other),
                    op_flags=random.choice((0, 0, abi.RENAME_NOREPLACE)),
                    **here,
                )
            )
        elif what == 7:
            out = g.out(abi.STATX_BYTES)
            g.statx_at.append(out.offset)
            flags = random.choice((0, abi.AT_SYMLINK_NOFOLLOW))
            specs.append(
                g.spec(Op.STATX, addr=g.path(name), off=out, len=7, op_flags=flags, **here)
            )
        else:
            flags = random.choice(
                (abi.O_RDONLY, abi.O_CREAT | abi.O_RDWR, abi.O_NOFOLLOW,
                 abi.O_CREAT | abi.O_EXCL, abi.O_NOFOLLOW | abi.O_DIRECTORY, abi.O_DIRECTORY)
            )  # fmt: skip
            specs.append(g.spec(Op.OPENAT, addr=g.path(name), op_flags=flags, len=0o644, **here))
    return specs


def xattrs(g: Generator) -> list[Spec]:
    """Extended attributes of one file, by descriptor and by path."""
    random = g.random
    specs: list[Spec] = []
    for _ in range(random.choice((1, 2))):
        name = random.choice(
            (
                b"user.a",
                b"user.a",
                b"user.b",
                b"user.",
                b"trusted.a",
                b"x",
                b"",
                b"user." + b"n" * 251,
            )
        )
        addr: Value = g.wild() if random.random() < 0.05 else g.data(name + b"\0")
        size = random.choice((0, 1, 20, 20, 70000 if random.random() < 0.1 else 5))
        by_path = random.random() < 0.4
        where: dict[str, Value] = {"fd": random.choice((Fd("x"),) * 6 + (Fd("reader2"), -1))}
        if by_path:
            path = random.choice(("x", "x", "/x", "../x", "none", "x/", ""))
            where = {"addr3": g.data(path.encode() + b"\0")}
        if random.random() < 0.04:
            where["flags"] = abi.SQE_FIXED_FILE
        if random.random() < 0.5:
            value: Value = g.data(g.noise(min(size, 20)).ljust(min(size, 100), b"v"))
            if size > 100 or random.random() < 0.04:
                value = g.wild()
            flags = random.choice((0, 0, 0, abi.XATTR_CREATE, abi.XATTR_REPLACE, 4))
            op = Op.SETXATTR if by_path else Op.FSETXATTR
            specs.append(g.spec(op, addr=addr, off=value, len=size, op_flags=flags, **where))
        else:
            room: Value = g.wild() if random.random() < 0.05 else g.room(min(size, 100))
            op = Op.GETXATTR if by_path else Op.FGETXATTR
            size = min(size, 100)
            specs.append(g.spec(op, addr=addr, off=room, len=size, **where))
    return specs


def advice(g: Generator) -> list[Spec]:
    """FADVISE and MADVISE."""
    random = g.random
    fd: Value = random.choice((Fd("v"), Fd("v"), Fd("v"), Fd("reader2"), Fd("sub"), -1))
    off = random.choice((0, 0, 100, 1 << 63))
    what = random.randrange(3)
    if what == 0:
        size = random.choice((0, 10, 1 << 63))
        kind = random.randrange(7)
        return [g.spec(Op.FADVISE, fd=fd, off=off, addr=size, op_flags=kind)]
    if what == 1:
        flags = random.choice((0, 1, 7, 8))
        return [g.spec(Op.SYNC_FILE_RANGE, fd=fd, off=off, len=100, op_flags=flags)]
    addr: Value = g.wild() if random.random() < 0.2 else At(random.choice((0, 4096, 1)))
    kind = random.choice((0, 1, 2, 3, 20))
    return [g.spec(Op.MADVISE, addr=addr, len=random.choice((0, 1, 4096)), op_flags=kind)]


def moves(g: Generator) -> list[Spec]:
    """SPLICE and TEE that never wait, between two pipes and a file."""
    random = g.random
    specs: list[Spec] = []
    ends = ((Fd("reader2"), Fd("writer2")), (Fd("reader3"), Fd("writer3")))
    for _ in range(random.choice((1, 2, 3))):
        size = random.choice((0, 1, 10, 100, 600))
        (r1, w1), (r2, w2) = random.sample(ends, 2)
        flags = abi.SPLICE_F_NONBLOCK | random.choice((0, 0, 0, 1, 16))
        what = random.randrange(7)
        position = random.choice((_NOWHERE, 0, 50))
        fields: dict[str, Value] = {"len": size, "op_flags": flags}
        if what == 0:
            data = g.noise(random.randint(1, 60))
            specs.append(g.spec(Op.WRITE, fd=w1, addr=g.data(data), len=len(data), off=_NOWHERE))
        elif what == 1:
            specs.append(
                g.spec(
                    Op.SPLICE,
                    fd=w1,
                    file_index=Fd("source"),
                    addr=position,
                    off=_NOWHERE if random.random() < 0.9 else 0,
                    **fields,
                )
            )
        elif what == 2:
            specs.append(
                g.spec(
                    Op.SPLICE,
                    fd=Fd("spliced"),
                    file_index=r1,
                    addr=_NOWHERE,
                    off=position,
                    **fields,
                )
            )
        elif what == 3:
            target = w2 if random.random() < 0.9 else w1
            specs.append(
                g.spec(Op.SPLICE, fd=target, file_index=r1, addr=_NOWHERE, off=_NOWHERE, **fields)
            )
        elif what == 4:
            target = w2 if random.random() < 0.9 else w1
            specs.append(g.spec(Op.TEE, fd=target, file_index=r1, **fields))
        elif what == 5:
            slot = random.choice((0, 3, 9))
            fields["op_flags"] = flags | abi.SPLICE_F_FD_IN_FIXED
            specs.append(g.spec(Op.SPLICE, fd=w1, file_index=slot, addr=0, off=_NOWHERE, **fields))
        else:
            wrong = random.choice((r2, Fd("source"), -1))
            specs.append(
                g.spec(Op.SPLICE, fd=wrong, file_index=r1, addr=_NOWHERE, off=_NOWHERE, **fields)
            )
    return specs


def pipes(g: Generator) -> list[Spec]:
    """PIPE, with descriptors or slots; what it writes differs from backend to backend."""
    random = g.random
    slot = random.choice((0, 0, 5, 6, 7, abi.FILE_INDEX_ALLOC))
    flags = random.choice((0, 0, abi.O_NONBLOCK, abi.O_CLOEXEC, 0x100))
    addr: Value = g.wild() if random.random() < 0.1 else g.out(8)
    return [g.spec(Op.PIPE, fd=0, addr=addr, op_flags=flags, file_index=slot)]


def slots(g: Generator) -> list[Spec]:
    """FIXED_FD_INSTALL, and FILES_UPDATE that looks for free slots."""
    random = g.random
    if random.random() < 0.5:
        return [
            g.spec(
                Op.FIXED_FD_INSTALL,
                fd=random.choice((0, 1, 2, 3, 4, 9)),
                flags=random.choice((abi.SQE_FIXED_FILE,) * 5 + (0,)),
                op_flags=random.choice((0, 0, abi.FIXED_FD_NO_CLOEXEC, 2)),
            )
        ]
    fds: list[Value] = [random.choice((Fd("d"), Fd("a"), -1, 9999)) for _ in range(2)]
    addr = g.out(8)
    g.pokes.append((addr.offset, lambda r: b"".join(abi.FD.pack(r(fd)) for fd in fds)))
    return [g.spec(Op.FILES_UPDATE, addr=addr, len=2, off=abi.FILE_INDEX_ALLOC)]


def fixed_vectors(g: Generator) -> list[Spec]:
    """READV_FIXED and WRITEV_FIXED."""
    random = g.random
    start = (1 << 17) - 16384 + 2 * 4096 - 1000  # of a part that only these use, see `set_up`
    pieces = [
        (At(start + random.choice((0, 100, 950))), random.choice((0, 1, 20, 50, 60)))
        for _ in range(random.choice((1, 1, 2, 3)))
    ]
    array = g.out(16 * len(pieces))

    def make(resolve: Resolve) -> bytes:
        return b"".join(abi.IOVEC.pack(resolve(base), size) for base, size in pieces)

    g.pokes.append((array.offset, make))
    op = random.choice((Op.READV_FIXED, Op.WRITEV_FIXED))
    addr: Value = g.wild() if random.random() < 0.05 else array
    index = random.choice((1, 1, 1, 0, 2))
    off = random.choice((0, 10, _NOWHERE))
    count = len(pieces) if random.random() < 0.95 else 0
    return [g.spec(op, fd=Fd("v"), addr=addr, len=count, off=off, buf_index=index)]


def eventfds(g: Generator) -> list[Spec]:
    """Counts of an eventfd, written and read."""
    random = g.random
    specs: list[Spec] = []
    for _ in range(random.choice((1, 1, 2))):
        fd: Value = random.choice((Fd("eventfd"), Fd("eventfd"), Fd("semaphore")))
        what = random.randrange(4)
        if what == 0:
            size = random.choice((8, 8, 8, 4, 20))
            spec = g.spec(Op.READ, fd=fd, addr=g.room(size), len=size, off=_NOWHERE)
            g.pending.append((spec.token, spec.op))
        elif what == 1:
            value = random.choice((0, 1, 3, 1 << 40, (1 << 64) - 1))
            size = random.choice((8, 8, 8, 4, 16))
            data = g.data(struct.pack("<QQ", value, 0))
            spec = g.spec(Op.WRITE, fd=fd, addr=data, len=size, off=_NOWHERE)
        else:
            events = random.choice((abi.POLLIN, abi.POLLOUT, abi.POLLIN | abi.POLLOUT))
            spec = g.spec(Op.POLL_ADD, fd=fd, op_flags=events)
            g.pending.append((spec.token, spec.op))
        specs.append(spec)
    if any(spec.op == Op.WRITE for spec in specs):
        if any(op == Op.READ for _, op in g.pending):
            specs = specs[:1]  # two that read: time would decide
        return specs  # mainline hands them to a worker, and time would decide
    return g.timed(specs)


def epolls(g: Generator) -> list[Spec]:
    """EPOLL_CTL and EPOLL_WAIT."""
    random = g.random
    specs: list[Spec] = []
    for _ in range(random.choice((1, 1, 2))):
        if random.random() < 0.6:
            fd: Value = random.choice(
                (Fd("eventfd"), Fd("eventfd"), Fd("semaphore"), Fd("v"), Fd("epoll"), -1)
            )
            data = g.token + 1
            events = random.choice((abi.POLLIN, abi.POLLIN | abi.POLLOUT, abi.POLLPRI))
            events |= random.choice((0, 0, abi.EPOLLET, abi.EPOLLONESHOT))
            operation = random.choice((1, 1, 1, 2, 3, 4))
            addr = g.data(abi.EPOLL_EVENT.pack(events, data))
            event: Value = g.wild() if random.random() < 0.04 else addr
            specs.append(
                g.spec(
                    Op.EPOLL_CTL,
                    fd=random.choice((Fd("epoll"),) * 8 + (Fd("eventfd"), -1)),
                    len=operation,
                    off=fd,
                    addr=event,
                )
            )
        else:
            most = random.choice((1, 2, 5, 0))
            room: Value = g.wild() if random.random() < 0.04 else g.room(12 * most)
            spec = g.spec(Op.EPOLL_WAIT, fd=Fd("epoll"), addr=room, len=most)
            g.pending.append((spec.token, spec.op))
            specs.append(spec)
    return specs


def futexes(g: Generator) -> list[Spec]:
    """FUTEX_WAIT, FUTEX_WAKE and FUTEX_WAITV."""
    random = g.random
    at: Value = At(WORDS_AT + random.choice((0, 0, 0, 4, 1)))
    if random.random() < 0.05:
        at = g.wild()
    flags = random.choice((_PRIVATE,) * 6 + (abi.FUTEX2_SIZE_U32, abi.FUTEX2_PRIVATE))
    mask = random.choice((0xFFFF_FFFF, 0xFFFF_FFFF, 1, 2, 0))
    what = random.randrange(5)
    if what <= 1:
        spec = g.spec(Op.FUTEX_WAIT, fd=flags, addr=at, off=random.choice((5, 5, 5, 6)), addr3=mask)
        g.pending.append((spec.token, spec.op))
        return g.timed([spec])
    if what <= 3:
        most = random.choice((0, 1, 1, 2, 100))
        return [g.spec(Op.FUTEX_WAKE, fd=flags, addr=at, off=most, addr3=mask)]
    words = [(random.choice((5, 5, 6)), At(WORDS_AT + 4 * at)) for at in (0, 1)]
    array = g.out(24 * len(words))

    def make(resolve: Resolve) -> bytes:
        return b"".join(
            abi.FUTEX_WAITV_STRUCT.pack(value, resolve(addr), _PRIVATE, 0) for value, addr in words
        )

    g.pokes.append((array.offset, make))
    spec = g.spec(Op.FUTEX_WAITV, fd=0, addr=array, len=random.choice((1, 2, 2, 0)))
    g.pending.append((spec.token, spec.op))
    return [spec]


def children(g: Generator) -> list[Spec]:
    """WAITID of one child; the siginfo has its number in it, which differs."""
    random = g.random
    options = random.choice((abi.WEXITED,) * 3 + (0, 0x100)) | random.choice(
        (0, abi.WNOHANG, abi.WNOHANG, abi.WNOWAIT)
    )
    if any(op == Op.WAITID for _, op in g.pending):
        options |= abi.WNOHANG  # two that wait: time would decide
    info: Value = random.choice((0, g.out(32)))
    pid: Value = random.choice((Fd("child"),) * 6 + (1, -1))
    spec = g.spec(Op.WAITID, fd=pid, len=abi.P_PID, off=info, file_index=options)
    g.pending.append((spec.token, spec.op))
    return [spec]


def messages(g: Generator) -> list[Spec]:
    """MSG_RING to the ring itself."""
    random = g.random
    flags = random.choice((0, 0, 0, abi.MSG_RING_FLAGS_PASS, abi.MSG_RING_CQE_SKIP, 4))
    passed = 0x1234 if flags == abi.MSG_RING_FLAGS_PASS else random.choice((0, 0, 0, 1))
    fd: Value = random.choice((Fd("ring"),) * 6 + (Fd("a"), -1))
    kind = random.choice((0, 0, 0, 0, 1, 2))
    number = random.choice((0, 7, 0xFFFF_FFFF))
    return [
        g.spec(
            Op.MSG_RING,
            fd=fd,
            addr=kind,
            off=1000 + g.token,
            len=number,
            op_flags=flags,
            file_index=passed,
        )
        for _ in range(random.choice((1, 1, 2)))
    ]


def multishot_reads(g: Generator) -> list[Spec]:
    """READ_MULTISHOT of a pipe."""
    fd: Value = g.random.choice((Fd("reader"),) * 5 + (Fd("v"),))
    flags = g.random.choice((abi.SQE_BUFFER_SELECT,) * 6 + (0,))
    group = g.random.choice((1, 2))
    spec = g.spec(Op.READ_MULTISHOT, fd=fd, off=_NOWHERE, buf_index=group, flags=flags)
    g.pending.append((spec.token, spec.op))
    return [spec]


def servers(g: Generator) -> list[Spec]:
    """What makes a socket a server, in a slot: SOCKET, BIND, LISTEN, and commands on it."""
    random = g.random
    inet = random.random() < 0.5
    domain = abi.AF_INET if inet else abi.AF_UNIX
    stream, datagram = abi.SOCK_STREAM, abi.SOCK_DGRAM
    kind = random.choice((stream, stream, datagram, datagram if inet else abi.SOCK_SEQPACKET))
    wrong = random.choice((0,) * 9 + (1 << 20,))
    made = {"fd": domain, "off": kind, "len": 0, "op_flags": wrong, "file_index": _SERVER_SLOT + 1}
    fixed: dict[str, Value] = {"fd": _SERVER_SLOT, "flags": abi.SQE_FIXED_FILE}
    specs = [g.spec(Op.SOCKET, **made)] if random.random() < 0.7 else []
    for _ in range(random.choice((1, 2, 3))):
        what = random.randrange(5)
        if what <= 1:
            port = struct.pack("<H", abi.AF_INET) + random.choice((b"\0\0", b"\0\x50"))
            address = port + bytes((127, 0, 0, 1)) + bytes(8)
            if inet == (random.random() < 0.1):
                # Long enough for an AF_INET socket: docs/sim-kernel-differences.md
                address = struct.pack("<H", abi.AF_UNIX) + b"\0the name of server %d" % g.token
            size = random.choice((len(address),) * 8 + (0, 1, 200))
            addr: Value = g.wild() if random.random() < 0.04 else g.data(address)
            specs.append(g.spec(Op.BIND, addr=addr, off=size, **fixed))
        elif what == 2:
            bad = random.choice(({},) * 8 + ({"off": 1}, {"op_flags": 1}))
            specs.append(g.spec(Op.LISTEN, len=random.choice((0, 5, 1 << 31)), **bad, **fixed))
        else:
            specs.append(_command(g, fixed))
    if random.random() < 0.2:
        specs.append(g.spec(Op.CLOSE, fd=0, file_index=_SERVER_SLOT + 1))
    return specs


def _command(g: Generator, socket: dict[str, Value]) -> Spec:
    """URING_CMD: how much is queued, an option got or set."""
    random = g.random
    command = random.randrange(4)
    if command < abi.SOCKET_OP_GETSOCKOPT:
        return g.spec(Op.URING_CMD, off=command, **socket)
    names: tuple[int, ...] = (abi.SO_REUSEADDR, abi.SO_KEEPALIVE, abi.SO_BROADCAST)
    if command == abi.SOCKET_OP_GETSOCKOPT:
        names += (abi.SO_TYPE, abi.SO_ERROR, abi.SO_ACCEPTCONN, abi.SO_PROTOCOL, abi.SO_DOMAIN)
    option = abi.SOL_SOCKET | random.choice(names) << 32
    size = random.choice((4, 4, 4, 8, 2, 0))
    value = g.data(struct.pack("<ii", random.choice((0, 1)), 0))
    place: Value = g.wild() if random.random() < 0.05 else value
    fields: dict[str, Value] = {"addr": option, "file_index": size, "addr3": place}
    return g.spec(Op.URING_CMD, off=command, **fields, **socket)


def zero_copy(g: Generator) -> list[Spec]:
    """SEND_ZC and SENDMSG_ZC where there is no such thing, and on what is no socket."""
    fd: Value = g.random.choice((Fd("sock"), Fd("sock"), Fd("a"), Fd("client"), -1))
    data = g.data(g.noise(20))
    report = g.random.choice((0, 0, 0, abi.SEND_ZC_REPORT_USAGE, 1 << 15))
    if g.random.random() < 0.5:
        return [g.spec(Op.SEND_ZC, fd=fd, addr=data, len=20, ioprio=report)]
    header = g.out(abi.MSGHDR.size)
    vector = g.out(abi.IOVEC.size)
    g.pokes.append((vector.offset, lambda r: abi.IOVEC.pack(r(data), 20)))
    g.pokes.append((header.offset, lambda r: abi.MSGHDR.pack(0, 0, r(vector), 1, 0, 0, 0)))
    return [g.spec(Op.SENDMSG_ZC, fd=fd, addr=header, ioprio=report)]


FAMILIES: Final = (
    Family(links, frozenset({"links"})),
    Family(links, frozenset({"links"})),
    Family(xattrs, frozenset({"xattrs"})),
    Family(advice, frozenset({"advice"})),
    Family(moves, frozenset({"moves", "a", "d"})),
    Family(moves, frozenset({"moves", "a", "d"})),
    Family(pipes, frozenset({"d"})),
    Family(slots, frozenset({"d"})),
    Family(fixed_vectors, frozenset({"vectors"})),
    Family(eventfds, frozenset({"eventfd", "epoll"})),
    Family(epolls, frozenset({"eventfd", "epoll"})),
    Family(epolls, frozenset({"eventfd", "epoll"})),
    Family(futexes, frozenset({"futex"})),
    Family(futexes, frozenset({"futex"})),
    Family(children, frozenset({"child"})),
    Family(messages, frozenset({"messages"})),
    Family(multishot_reads, frozenset({"pipe", "sock"})),
    Family(servers, frozenset({"d"})),
    Family(servers, frozenset({"d"})),
    Family(zero_copy, frozenset({"sock", "client", "a"})),
)


# --- the host -----------------------------------------------------------------------------------


def set_up_families(player: Player) -> None:
    """Files and descriptors that the families name."""
    world, fds = player.backend.world, player.fds
    world.add_file("kf", b"links")
    world.add_file("kd/x", b"directory")
    world.add_file("x", b"")
    world.add_file("source", bytes(range(256)) * 2)
    world.add_file("spliced", b"")
    world.add_file("v", bytes(range(200)))
    for name in ("kf", "x", "source", "spliced", "v"):
        fds[name] = world.open(name, abi.O_RDWR)
    for number in (2, 3):
        fds[f"reader{number}"], fds[f"writer{number}"] = world.pipe()
    fds["eventfd"] = world.eventfd()
    fds["semaphore"] = world.eventfd(semaphore=True)
    fds["epoll"] = world.epoll()
    specs = player.specs.values()
    fds["child"] = world.child() if any(spec.op == Op.WAITID for spec in specs) else -1
    fds["ring"] = player.backend.ring_fd(player.backend)
    at = player.block.start + WORDS_AT
    player.memory.user_write(at, struct.pack("<II", 5, 5))


def _signal(player: Player, data: bytes) -> object:
    player.backend.world.signal(player.fds["eventfd"], len(data))
    return None


def _end_child(player: Player, data: bytes) -> object:
    pid = player.fds["child"]
    if pid < 0:
        return None
    try:
        player.backend.world.end_child(pid, len(data) % 100)
    except InputError:
        return "refused"
    return None


def _tagged_files(player: Player, data: bytes) -> object:
    """FILES_UPDATE2: slot 4 gets a file with a tag, or loses it."""
    fd = player.fds["b"] if len(data) % 2 else -1
    tag = 2000 + len(data) if len(data) % 3 else 0
    return player.backend.update_files(4, [fd], [tag])


def _tagged_buffers(player: Player, data: bytes) -> object:
    fixed = player.block.start + (1 << 17) - 16384
    address = fixed if len(data) % 5 else 8
    return player.backend.update_buffers(0, [(address, 4096)], [3000 + len(data)])


def _sync_cancel(player: Player, data: bytes) -> object:
    """Of everything there is, or of one request that may be there."""
    if len(data) % 10 == 0:
        flags = abi.ASYNC_CANCEL_ANY | abi.ASYNC_CANCEL_ALL
        return player.backend.sync_cancel(flags=flags)
    pending = sorted(token for token, spec in player.specs.items() if spec.op in _WAITING)
    if not pending:
        return None
    return player.backend.sync_cancel(pending[len(data) % len(pending)])


def _alloc_range(player: Player, data: bytes) -> object:
    return player.backend.file_alloc_range(len(data) % 4, len(data) % 5)


def _unregister_files(player: Player, data: bytes) -> object:
    return player.backend.unregister_files() if len(data) % 5 == 0 else None


def _clone_buffers(player: Player, data: bytes) -> object:
    """From the ring itself: slots that are taken are refused without `replace`."""
    offset, target, count = len(data) % 3, len(data) // 3 % 4, len(data) // 12 % 3
    backend = player.backend
    return backend.clone_buffers(backend, offset, target, count, replace=len(data) % 2 > 0)


def _buffer_ring(player: Player, data: bytes) -> object:
    addr = player.block.start + _RING_AT + (len(data) % 7 == 0) * 64
    entries = (4, 4, 8, 3)[len(data) % 4]
    return player.backend.register_buffer_ring(addr, entries, _RING_GROUP)


def _no_buffer_ring(player: Player, data: bytes) -> object:
    return player.backend.unregister_buffer_ring(_RING_GROUP - (len(data) % 5 == 0))


def _buffer_ring_head(player: Player, data: bytes) -> object:
    return player.backend.buffer_ring_head(_RING_GROUP - (len(data) % 5 == 0))


def _personality(player: Player, data: bytes) -> object:
    return player.backend.settings.register_personality()


def _no_personality(player: Player, data: bytes) -> object:
    return player.backend.settings.unregister_personality(len(data) % 4)


def _cpus(player: Player, data: bytes) -> object:
    return player.backend.settings.register_iowq_aff(range(len(data) % 4))


def _no_cpus(player: Player, data: bytes) -> object:
    return player.backend.settings.unregister_iowq_aff()


def _workers(player: Player, data: bytes) -> object:
    """The numbers that the machine began with are no answer, and come back."""
    settings, size = player.backend.settings, len(data)
    before = settings.iowq_max_workers(2 + size % 5, size % 3)
    assert isinstance(before, tuple)
    answers = settings.iowq_max_workers(0, -(size % 2)), settings.iowq_max_workers(*before)
    return [answer if isinstance(answer, int) else answer[0] for answer in answers]


def _clock(player: Player, data: bytes) -> object:
    return player.backend.settings.register_clock(len(data) % 12)


def _ring_number(player: Player, data: bytes) -> object:
    return player.backend.settings.register_ring_fd(_SOME_NUMBER + len(data) % 10)


def _no_ring_number(player: Player, data: bytes) -> object:
    return player.backend.settings.unregister_ring_fd(_SOME_NUMBER + len(data) % 10)


def _sync_message(player: Player, data: bytes) -> object:
    """To the ring itself, or to what is none."""
    size = len(data)
    sqe = abi.Sqe(
        Op.MSG_RING if size % 11 else Op.NOP,
        fd=player.fds[("ring", "ring", "ring", "eventfd", "epoll")[size % 5]],
        off=7000 + size,
        len=size,
        addr=size % 13 == 0,
        op_flags=abi.MSG_RING_FLAGS_PASS if size % 2 else 0,
        file_index=size % 7,
    )
    return player.backend.settings.sync_message(sqe.pack())


def _probe(player: Player, data: bytes) -> object:
    return sorted(player.backend.settings.probe())


def _query(player: Player, data: bytes) -> object:
    return player.backend.settings.query()


_WAITING: Final = frozenset({Op.POLL_ADD, Op.TIMEOUT, Op.FUTEX_WAIT, Op.EPOLL_WAIT, Op.RECV})

HOST_ACTIONS: Final[dict[str, Callable[[Player, bytes], object]]] = {
    "signal": _signal,
    "end_child": _end_child,
    "tagged_files": _tagged_files,
    "tagged_buffers": _tagged_buffers,
    "sync_cancel": _sync_cancel,
    "alloc_range": _alloc_range,
    "unregister_files": _unregister_files,
    "clone_buffers": _clone_buffers,
    "buffer_ring": _buffer_ring,
    "no_buffer_ring": _no_buffer_ring,
    "buffer_ring_head": _buffer_ring_head,
    "personality": _personality,
    "no_personality": _no_personality,
    "cpus": _cpus,
    "no_cpus": _no_cpus,
    "workers": _workers,
    "clock": _clock,
    "ring_number": _ring_number,
    "no_ring_number": _no_ring_number,
    "sync_message": _sync_message,
    "probe": _probe,
    "query": _query,
}

# What the player does on each sequence, and what an action of the host stands for.
ALWAYS_REGISTERED: Final = (
    abi.Register.FILES,
    abi.Register.FILES2,
    abi.Register.BUFFERS,
    abi.Register.BUFFERS2,
)
ACTIONS_REGISTER: Final[dict[str, abi.Register]] = {
    "files": abi.Register.FILES_UPDATE,
    "unregister": abi.Register.UNREGISTER_BUFFERS,
    "tagged_files": abi.Register.FILES_UPDATE2,
    "tagged_buffers": abi.Register.BUFFERS_UPDATE,
    "sync_cancel": abi.Register.SYNC_CANCEL,
    "alloc_range": abi.Register.FILE_ALLOC_RANGE,
    "unregister_files": abi.Register.UNREGISTER_FILES,
    "clone_buffers": abi.Register.CLONE_BUFFERS,
    "buffer_ring": abi.Register.PBUF_RING,
    "no_buffer_ring": abi.Register.UNREGISTER_PBUF_RING,
    "buffer_ring_head": abi.Register.PBUF_STATUS,
    "personality": abi.Register.PERSONALITY,
    "no_personality": abi.Register.UNREGISTER_PERSONALITY,
    "cpus": abi.Register.IOWQ_AFF,
    "no_cpus": abi.Register.UNREGISTER_IOWQ_AFF,
    "workers": abi.Register.IOWQ_MAX_WORKERS,
    "clock": abi.Register.CLOCK,
    "ring_number": abi.Register.RING_FDS,
    "no_ring_number": abi.Register.UNREGISTER_RING_FDS,
    "sync_message": abi.Register.SEND_MSG_RING,
    "probe": abi.Register.PROBE,
    "query": abi.Register.QUERY,
}
