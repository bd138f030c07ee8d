"""Every call on a socket in every state comes to the same on the simulated ring and the kernel's.

A state is made by requests (and the host's end), then one call is made and, for those that end
something, a few more. What differs by nature is left out in `_LEFT_OUT`, with the reason.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest

from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.base import Completion, Peer
from pybpfvm.uring_backend.kernel import KernelBackend
from pybpfvm.uring_backend.kernel.probe import available
from pybpfvm.uring_backend.lawbench import Bench, MakeBackend
from pybpfvm.uring_backend.sim import SimBackend

pytestmark = pytest.mark.kernel_ring

DONT = abi.MSG_DONTWAIT
INET, UNIX = abi.AF_INET, abi.AF_UNIX
STREAM, DGRAM, SEQPACKET = abi.SOCK_STREAM, abi.SOCK_DGRAM, abi.SOCK_SEQPACKET
_MAY_WAIT = frozenset({Op.RECV, Op.RECVMSG, Op.POLL_ADD, Op.ACCEPT})
Result = tuple[tuple[int, int], ...]


class Socket:
    """A socket under test, `fd`, and whoever is at the other end: `peer`, or a socket `other`."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.fd = -1
        self.other = -1
        self.peer: Peer | None = None

    def run(self, sqe: Sqe) -> Result:
        """(res, flags) of all completions; what waits is cancelled and shows as "pending"."""
        bench = self.bench
        bench.submit(sqe)
        events = bench.backend.poll()
        patience_ns = 20_000_000 if sqe.opcode in _MAY_WAIT else 2_000_000_000
        while bench.backend.in_flight() and bench.backend.wait(patience_ns):
            events += bench.backend.poll()
        found = [(e.res, e.flags) for e in events if isinstance(e, Completion)]
        if bench.backend.in_flight():
            cancel = abi.ASYNC_CANCEL_ANY | abi.ASYNC_CANCEL_ALL
            bench.submit(Sqe(Op.ASYNC_CANCEL, op_flags=cancel, user_data=99))
            while bench.backend.in_flight() and bench.backend.wait(1_000_000_000):
                bench.backend.poll()
            bench.backend.poll()
            found.append((-1, -1))
        return tuple(found)

    def on(self, op: Op, *, fd: int | None = None, **fields: int) -> Result:
        return self.run(Sqe(op, fd=self.fd if fd is None else fd, user_data=1, **fields))

    def send(self, size: int = 4, fd: int | None = None, **fields: int) -> Result:
        fields.setdefault("op_flags", DONT)
        return self.on(Op.SEND, fd=fd, addr=self.bench.put(b"datadata"), len=size, **fields)

    def recv(self, size: int = 9, fd: int | None = None, **fields: int) -> Result:
        fields.setdefault("op_flags", DONT)
        return self.on(Op.RECV, fd=fd, addr=self.bench.block + 64, len=size, **fields)

    def address(self, raw: bytes) -> tuple[int, int]:
        return self.bench.put(raw, 256), len(raw)

    def made(self, domain: int, kind: int) -> int:
        return self.bench.world.socket(domain, kind)


# --- states -------------------------------------------------------------------------------------


def fresh(domain: int, kind: int) -> Callable[[Socket], None]:
    def make(s: Socket) -> None:
        s.fd = s.made(domain, kind)

    return make


def bound(domain: int, kind: int) -> Callable[[Socket], None]:
    def make(s: Socket) -> None:
        s.fd = s.made(domain, kind)
        addr, size = s.address(name(domain, b"bound"))
        assert s.on(Op.BIND, addr=addr, off=size) == ((0, 0),)

    return make


def listening(
    domain: int, kind: int, *after: Callable[[Socket], object]
) -> Callable[[Socket], None]:
    def make(s: Socket) -> None:
        bound(domain, kind)(s)
        assert s.on(Op.LISTEN, len=5) == ((0, 0),)
        for act in after:
            act(s)

    return make


def tcp(*acts: Callable[[Socket], object]) -> Callable[[Socket], None]:
    """A connection that was accepted; the host's end is the peer."""

    def make(s: Socket) -> None:
        listener = s.bench.world.listen()
        s.peer = s.bench.world.connect(listener)
        s.fd = s.on(Op.ACCEPT, fd=listener)[0][0]
        for act in acts:
            act(s)

    return make


def refused(s: Socket) -> None:
    s.fd = s.made(INET, STREAM)
    addr, size = s.address(name(INET, b"", port=1))
    assert s.on(Op.CONNECT, addr=addr, off=size) == ((-errno.ECONNREFUSED, 0),)


def udp(*acts: Callable[[Socket], object]) -> Callable[[Socket], None]:
    """Two UDP sockets that are connected to one another."""

    def make(s: Socket) -> None:
        s.fd, s.other = s.bench.world.datagrams(), s.bench.world.datagrams()
        for one, two in ((s.fd, s.other), (s.other, s.fd)):
            addr, size = s.address(s.bench.world.address(two))
            assert s.on(Op.CONNECT, fd=one, addr=addr, off=size) == ((0, 0),)
        for act in acts:
            act(s)

    return make


def pair(kind: int, *acts: Callable[[Socket], object]) -> Callable[[Socket], None]:
    def make(s: Socket) -> None:
        s.fd, s.peer = s.bench.world.socketpair(kind)
        for act in acts:
            act(s)

    return make


def name(domain: int, text: bytes, port: int = 0) -> bytes:
    if domain == UNIX:
        return struct.pack("<H", UNIX) + b"\0" + text
    return struct.pack(">HH4s8x", 0x0200, port, bytes((127, 0, 0, 1)))


def peer_of(s: Socket) -> Peer:
    assert s.peer is not None
    return s.peer


def peer_sends(s: Socket) -> None:
    peer_of(s).send(b"data")


def peer_shuts(s: Socket) -> None:
    peer_of(s).shutdown()


def peer_closes(s: Socket) -> None:
    peer_of(s).close()


def peer_resets(s: Socket) -> None:
    peer_of(s).close(reset=True)


def sends(s: Socket) -> None:
    s.send()


def shuts(how: int) -> Callable[[Socket], object]:
    return lambda s: s.on(Op.SHUTDOWN, len=how)


def other(act: str, how: int = 0) -> Callable[[Socket], object]:
    def do(s: Socket) -> None:
        if act == "send":
            s.send(fd=s.other)
        elif act == "close":
            s.bench.world.close(s.other)
        else:
            s.on(Op.SHUTDOWN, fd=s.other, len=how)

    return do


STATES: dict[str, Callable[[Socket], None]] = {
    "tcp fresh": fresh(INET, STREAM),
    "tcp bound": bound(INET, STREAM),
    "tcp listening": listening(INET, STREAM),
    "tcp listening, shut": listening(INET, STREAM, shuts(2)),
    "tcp refused": refused,
    "tcp": tcp(),
    "tcp, data": tcp(peer_sends),
    "tcp, peer shut": tcp(peer_shuts),
    "tcp, data, peer shut": tcp(peer_sends, peer_shuts),
    "tcp, peer closed": tcp(peer_closes),
    "tcp, peer closed, sent": tcp(peer_closes, sends),
    "tcp, data, peer closed, sent": tcp(peer_sends, peer_closes, sends),
    "tcp, peer closed unread": tcp(sends, peer_closes),
    "tcp, data, peer closed unread": tcp(sends, peer_sends, peer_closes),
    "tcp, peer shut, then closed unread": tcp(sends, peer_shuts, peer_closes),
    "tcp, reset": tcp(peer_resets),
    "tcp, data, reset": tcp(peer_sends, peer_resets),
    "tcp, shut rd": tcp(shuts(0)),
    "tcp, shut wr": tcp(shuts(1)),
    "tcp, shut": tcp(shuts(2)),
    "tcp, shut wr, peer shut": tcp(shuts(1), peer_shuts),
    "tcp, peer shut, shut wr": tcp(peer_shuts, shuts(1)),
    "tcp, data, shut rd": tcp(peer_sends, shuts(0)),
    "tcp, shut rd, data": tcp(shuts(0), peer_sends),
    "udp fresh": fresh(INET, DGRAM),
    "udp bound": bound(INET, DGRAM),
    "udp": udp(),
    "udp, data": udp(other("send")),
    "udp, peer closed": udp(other("close")),
    "udp, peer closed, sent": udp(other("close"), sends),
    "udp, data, peer closed, sent": udp(other("send"), other("close"), sends),
    "udp, shut wr": udp(shuts(1)),
    "udp, shut": udp(shuts(2)),
    "udp fresh, shut": lambda s: (fresh(INET, DGRAM)(s), shuts(2)(s), None)[2],
    "tcp fresh, shut": lambda s: (fresh(INET, STREAM)(s), shuts(2)(s), None)[2],
}
for _name, _kind in (("stream", STREAM), ("dgram", DGRAM), ("seqpacket", SEQPACKET)):
    STATES |= {
        f"{_name} fresh": fresh(UNIX, _kind),
        f"{_name} bound": bound(UNIX, _kind),
        f"{_name}": pair(_kind),
        f"{_name}, data": pair(_kind, peer_sends),
        f"{_name}, peer shut": pair(_kind, peer_shuts),
        f"{_name}, peer closed": pair(_kind, peer_closes),
        f"{_name}, data, peer closed": pair(_kind, peer_sends, peer_closes),
        f"{_name}, peer closed unread": pair(_kind, sends, peer_closes),
        f"{_name}, data, peer closed unread": pair(_kind, sends, peer_sends, peer_closes),
        f"{_name}, shut rd": pair(_kind, shuts(0)),
        f"{_name}, shut wr": pair(_kind, shuts(1)),
        f"{_name}, shut": pair(_kind, shuts(2)),
        f"{_name}, data, shut rd": pair(_kind, peer_sends, shuts(0)),
    }
for _name, _kind in (("stream", STREAM), ("seqpacket", SEQPACKET)):
    STATES |= {
        f"{_name} listening": listening(UNIX, _kind),
        f"{_name} listening, shut": listening(UNIX, _kind, shuts(2)),
    }


# --- calls --------------------------------------------------------------------------------------


def to(s: Socket, domain: int, **fields: int) -> Result:
    addr, size = s.address(name(domain, b"nobody", port=1))
    return s.send(off=addr, file_index=size, **fields)


def connect(s: Socket, raw: bytes) -> Result:
    addr, size = s.address(raw)
    return s.on(Op.CONNECT, addr=addr, off=size)


def bind(s: Socket, raw: bytes) -> Result:
    addr, size = s.address(raw)
    return s.on(Op.BIND, addr=addr, off=size)


def option(s: Socket, number: int) -> Result:
    at = s.bench.put(bytes(8), 512)
    got = s.on(Op.URING_CMD, off=2, addr=1 | number << 32, file_index=4, addr3=at)
    return (*got, (int.from_bytes(s.bench.get(4, 512), "little"), 0))


def set_option(s: Socket, level: int, number: int) -> Result:
    at = s.bench.put(struct.pack("<ii", 1, 0), 512)
    return s.on(Op.URING_CMD, off=3, addr=level | number << 32, file_index=8, addr3=at)


def several(*calls: Callable[[Socket], Result]) -> Callable[[Socket], Result]:
    return lambda s: tuple(part for call in calls for part in call(s))


def message(s: Socket, flags: int = DONT) -> Result:
    """RECVMSG, then what it said of the message."""
    bench = s.bench
    vectors = struct.pack("<QQQQ", bench.block + 1024, 2, bench.block + 1100, 1)
    header = abi.MSGHDR.pack(
        bench.block + 2048, 32, bench.put(vectors, 768), 2, bench.block + 2100, 64, 0
    )
    got = s.on(Op.RECVMSG, addr=bench.put(header, 600), op_flags=flags)
    fields = abi.MSGHDR.unpack(bench.get(56, 600))
    return (*got, (fields[1], fields[6]), (fields[5], 0))


def at_offset(s: Socket, op: Op, *, size: int = 4, off: int = 7, op_flags: int = 0) -> Result:
    """A transfer at an offset, then one of what is there."""
    op_flags |= abi.RWF_NOWAIT
    got = s.on(op, addr=s.bench.block + 64, len=size, off=off, op_flags=op_flags)
    return (*got, *s.recv())


def vectored(s: Socket, op: Op) -> Result:
    at = s.bench.put(abi.IOVEC.pack(s.bench.block + 64, 4), 768)
    return s.on(op, addr=at, len=1, off=7, op_flags=abi.RWF_NOWAIT)


def poll(s: Socket) -> Result:
    return s.on(Op.POLL_ADD, op_flags=0xFFFF)


CALLS: dict[str, Callable[[Socket], Result]] = {
    "send": lambda s: s.send(),
    "send nothing": lambda s: s.send(0),
    "send twice, recv twice": several(Socket.send, Socket.send, Socket.recv, Socket.recv),
    "recv twice, send twice": several(Socket.recv, Socket.recv, Socket.send, Socket.send),
    "recv": lambda s: s.recv(),
    "recv a part": several(lambda s: s.recv(3), Socket.recv),
    "recv, length": several(lambda s: s.recv(3, op_flags=DONT | abi.MSG_TRUNC), Socket.recv),
    "peek": several(lambda s: s.recv(3, op_flags=DONT | abi.MSG_PEEK), Socket.recv),
    "peek, length": several(
        lambda s: s.recv(3, op_flags=DONT | abi.MSG_PEEK | abi.MSG_TRUNC), Socket.recv
    ),
    "recv nothing": lambda s: s.recv(0),
    "recv all": lambda s: s.recv(3, op_flags=DONT | abi.MSG_WAITALL),
    "recv too much": lambda s: s.recv(9, op_flags=DONT | abi.MSG_WAITALL),
    "recv, waiting": lambda s: s.recv(op_flags=0),
    "recv, polling first": lambda s: s.recv(op_flags=0, ioprio=abi.RECVSEND_POLL_FIRST),
    "recvmsg": message,
    "recvmsg, length": lambda s: message(s, DONT | abi.MSG_TRUNC),
    "read": lambda s: s.on(
        Op.READ, addr=s.bench.block, len=9, off=abi.CURRENT_POSITION, op_flags=abi.RWF_NOWAIT
    ),
    "write": lambda s: s.on(
        Op.WRITE, addr=s.bench.block, len=4, off=abi.CURRENT_POSITION, op_flags=abi.RWF_NOWAIT
    ),
    "read at an offset": lambda s: at_offset(s, Op.READ),
    "read at a far offset": lambda s: at_offset(s, Op.READ, off=abi.MAX_OFFSET - 2),
    "read at no offset": lambda s: at_offset(s, Op.READ, off=(1 << 64) - 2),
    "read nothing at an offset": lambda s: at_offset(s, Op.READ, size=0),
    "readv at an offset": lambda s: vectored(s, Op.READV),
    "read into nothing at an offset": lambda s: s.on(
        Op.READ, addr=0, len=4, off=7, op_flags=abi.RWF_NOWAIT
    ),
    "read more than once at an offset": lambda s: s.on(
        Op.READ_MULTISHOT, flags=abi.SQE_BUFFER_SELECT, off=7, op_flags=abi.RWF_NOWAIT
    ),
    "write at an offset": lambda s: at_offset(s, Op.WRITE),
    "write at an offset, append": lambda s: at_offset(s, Op.WRITE, op_flags=abi.RWF_APPEND),
    "write at no offset": lambda s: at_offset(s, Op.WRITE, off=(1 << 64) - 2),
    "write nothing at an offset": lambda s: at_offset(s, Op.WRITE, size=0),
    "writev at an offset": lambda s: vectored(s, Op.WRITEV),
    "poll": poll,
    "poll after recv": several(Socket.recv, poll),
    "shutdown rd, poll": several(lambda s: s.on(Op.SHUTDOWN, len=0), poll, Socket.recv),
    "shutdown wr, poll": several(lambda s: s.on(Op.SHUTDOWN, len=1), poll, Socket.send),
    "shutdown, poll": several(lambda s: s.on(Op.SHUTDOWN, len=2), poll, Socket.recv, Socket.send),
    "shutdown 9": lambda s: s.on(Op.SHUTDOWN, len=9),
    "sendto inet": lambda s: to(s, INET),
    "sendto unix": lambda s: to(s, UNIX),
    "connect inet": lambda s: connect(s, name(INET, b"", port=1)),
    "connect unix": lambda s: connect(s, name(UNIX, b"nobody")),
    "connect nothing": lambda s: connect(s, b""),
    "connect short": lambda s: connect(s, b"\2\0abc"),
    "disconnect, poll": several(lambda s: connect(s, bytes(16)), poll, Socket.recv, Socket.send),
    "bind inet": lambda s: bind(s, name(INET, b"")),
    "bind unix": lambda s: bind(s, name(UNIX, b"new")),
    "bind low": lambda s: bind(s, name(INET, b"", port=80)),
    "bind elsewhere": lambda s: bind(s, struct.pack(">HH4s8x", 0x0200, 0, bytes((8, 8, 8, 8)))),
    "bind family": lambda s: bind(s, b"\x10\0" + bytes(14)),
    "listen": several(lambda s: s.on(Op.LISTEN, len=3), poll),
    "accept": lambda s: s.on(Op.ACCEPT, ioprio=abi.ACCEPT_DONTWAIT),
    "inq": lambda s: s.on(Op.URING_CMD, off=0),
    "outq": lambda s: s.on(Op.URING_CMD, off=1),
    "unknown command": lambda s: s.on(Op.URING_CMD, off=77),
    "error": several(lambda s: option(s, abi.SO_ERROR), Socket.recv, Socket.send),
    "type": lambda s: option(s, abi.SO_TYPE),
    "domain": lambda s: option(s, abi.SO_DOMAIN),
    "protocol": lambda s: option(s, abi.SO_PROTOCOL),
    "accepts": lambda s: option(s, abi.SO_ACCEPTCONN),
    "reuse": several(lambda s: set_option(s, 1, abi.SO_REUSEADDR), lambda s: option(s, 2)),
    "no delay": lambda s: set_option(s, abi.SOL_TCP, abi.TCP_NODELAY),
    "send_zc": lambda s: s.on(
        Op.SEND_ZC, addr=s.bench.block, len=4, ioprio=abi.SEND_ZC_REPORT_USAGE, op_flags=DONT
    ),
}

# SIOCOUTQ counts sequence numbers, those of SYN and FIN too, until they are acknowledged.
_LEFT_OUT = {
    (state, "outq")
    for state in STATES
    if state.startswith("tcp") and any(word in state for word in ("shut", "closed", "refused"))
}


def play(make: MakeBackend, state: str) -> dict[str, Result]:
    found = {}
    for call, act in CALLS.items():
        with AddressSpace() as memory:
            backend = make(memory)
            try:
                socket = Socket(Bench(backend, memory, make))
                STATES[state](socket)
                found[call] = act(socket)
            finally:
                backend.close()
    return found


def words(result: Result) -> str:
    return " ".join(
        f"{errno.errorcode.get(-res, res) if res < -1 else res}{f'/{flags:#x}' if flags else ''}"
        for res, flags in result
    )


@pytest.mark.parametrize("state", STATES)
def test_a_socket_in_a_state(state: str) -> None:
    reason = available()
    if reason is not None:
        pytest.skip(f"no io_uring: {reason}")
    ours = play(SimBackend, state)
    theirs = play(KernelBackend, state)
    different = [
        f"{call}: sim {words(ours[call])}, kernel {words(theirs[call])}"
        for call in CALLS
        if ours[call] != theirs[call] and (state, call) not in _LEFT_OUT
    ]
    assert not different, "\n".join(different)
