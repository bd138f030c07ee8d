"""Families of generated requests beyond plain files and sockets, and what the host does for them.

A family makes the members of one chain; `uses` names what they touch, as in ring_sequences.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pybpfvm.errors import InputError
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op
from tests.support.ring_specs import At, Fd, Resolve, Spec, Value

if TYPE_CHECKING:
    from tests.support.ring_sequences import Generator, Player

FAMILY_FILES: Final = ("k1", "k2", "k3", "kd/x", "kf", "spliced", "v")
WORDS_AT: Final = 40  # offset of two futex words, below what the generator gives out
_NOWHERE: Final = abi.CURRENT_POSITION
_HERE: Final = abi.AT_FDCWD & 0xFFFF_FFFF
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
        return specs  # mainline hands them to a worker, and time would decide
    return g.timed(specs)


def epolls(g: Generator) -> list[Spec]:
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
    fd: Value = g.random.choice((Fd("reader"),) * 5 + (Fd("v"),))
    flags = g.random.choice((abi.SQE_BUFFER_SELECT,) * 6 + (0,))
    group = g.random.choice((1, 2))
    spec = g.spec(Op.READ_MULTISHOT, fd=fd, off=_NOWHERE, buf_index=group, flags=flags)
    g.pending.append((spec.token, spec.op))
    return [spec]


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


_WAITING: Final = frozenset({Op.POLL_ADD, Op.TIMEOUT, Op.FUTEX_WAIT, Op.EPOLL_WAIT, Op.RECV})

HOST_ACTIONS: Final[dict[str, Callable[[Player, bytes], object]]] = {
    "signal": _signal,
    "end_child": _end_child,
    "tagged_files": _tagged_files,
    "tagged_buffers": _tagged_buffers,
    "sync_cancel": _sync_cancel,
    "alloc_range": _alloc_range,
}

# What the player does on each sequence, and what an action of the host stands for.
ALWAYS_REGISTERED: Final = (abi.Register.FILES, abi.Register.BUFFERS)
ACTIONS_REGISTER: Final[dict[str, abi.Register]] = {
    "files": abi.Register.FILES_UPDATE,
    "unregister": abi.Register.UNREGISTER_BUFFERS,
    "tagged_files": abi.Register.FILES_UPDATE2,
    "tagged_buffers": abi.Register.BUFFERS_UPDATE,
    "sync_cancel": abi.Register.SYNC_CANCEL,
    "alloc_range": abi.Register.FILE_ALLOC_RANGE,
}
