"""Laws of sockets: messages, datagrams, buffer rings, zero-copy sends, commands."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pybpfvm.errors import UnsupportedError
from pybpfvm.uring_backend.abi import (
    AF_INET,
    AF_UNIX,
    BUFFER_RING_ENTRY,
    BUFFER_RING_TAIL_AT,
    CMSG,
    CQE_BUFFER_SHIFT,
    CQE_F_BUF_MORE,
    CQE_F_BUFFER,
    CQE_F_MORE,
    CQE_F_NOTIF,
    FD,
    IOVEC,
    MSG_TRUNC,
    MSGHDR,
    PBUF_RING_INC,
    RECV_MULTISHOT,
    RECVMSG_OUT,
    RECVSEND_BUNDLE,
    SCM_RIGHTS,
    SO_REUSEADDR,
    SO_TYPE,
    SOCK_DGRAM,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    SOCKADDR_IN,
    SOCKET_OP_GETSOCKOPT,
    SOCKET_OP_SETSOCKOPT,
    SOCKET_OP_SIOCINQ,
    SOL_SOCKET,
    SQE_BUFFER_SELECT,
    SQE_CQE_SKIP_SUCCESS,
    SQE_IO_HARDLINK,
    SQE_IO_LINK,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.base import Completion
from pybpfvm.uring_backend.lawbench import Bench, Broken, Law, bad, expect, expect_errno, nop


def _message(
    bench: Bench, blocks: Sequence[tuple[int, int]], *, name: tuple[int, int] = (0, 0), at: int = 0
) -> int:
    """Address of a struct msghdr; two at a time (`at`: 0 or 1)."""
    vectors = b"".join(IOVEC.pack(bench.block + offset, size) for offset, size in blocks)
    where = (1 << 14) - 2048 + at * 1024
    header = MSGHDR.pack(*name, bench.put(vectors, where + 64), len(blocks), 0, 0, 0)
    return bench.put(header, where)


def messages(bench: Bench) -> None:
    """SENDMSG gathers, RECVMSG scatters; a stream has no sender's name."""
    fd, peer = bench.world.socketpair()
    bench.put(b"gather", 100)
    addr = _message(bench, [(100, 3), (200, 0), (103, 3)])
    expect("sent", bench.result(Sqe(Op.SENDMSG, fd=fd, addr=addr, user_data=1)), 6)
    expect("received", peer.recv(100), b"gather")
    peer.send(b"scatter")
    addr = _message(bench, [(300, 4), (400, 10)], name=(bench.block + 500, 20))
    expect("received", bench.result(Sqe(Op.RECVMSG, fd=fd, addr=addr, user_data=1)), 7)
    expect("data", (bench.get(4, 300), bench.get(3, 400)), (b"scat", b"ter"))
    header = MSGHDR.unpack(bench.memory.user_read(addr, MSGHDR.size))
    expect("name, control, flags", (header[1], header[5], header[6]), (0, 0, 0))
    for wrong, number in ((8, errno.EFAULT), (0, errno.EFAULT)):
        expect_errno("bad header", bench.result(_of(Op.RECVMSG, fd, wrong)), number)
        bench.quiet()


def _of(op: Op, fd: int, addr: int) -> Sqe:
    return Sqe(op, fd=fd, addr=addr, user_data=1)


def datagrams(bench: Bench) -> None:
    """UDP: whole messages, with the sender's address, to which an answer can be sent."""
    world = bench.world
    fd = world.datagrams()
    peer = world.connect(fd)
    peer.send(b"question")
    addr = _message(bench, [(100, 4)], name=(bench.block + 500, 16))
    expect("received", bench.result(_of(Op.RECVMSG, fd, addr)), 4)
    header = MSGHDR.unpack(bench.memory.user_read(addr, MSGHDR.size))
    expect("cut", (bench.get(4, 100), header[6]), (b"ques", MSG_TRUNC))
    expect("sender", (header[1], bench.get(16, 500)), (16, peer.address()))
    bench.put(b"answer", 100)
    sending = Sqe(
        Op.SEND, fd=fd, addr=bench.block + 100, len=6, off=bench.block + 500, file_index=16,
        user_data=1,
    )  # fmt: skip
    expect("sent", (bench.result(sending), peer.recv(100)), (6, b"answer"))
    unnamed = Sqe(Op.SEND, fd=fd, addr=bench.block, len=6, user_data=1)
    expect_errno("to nobody", bench.result(unnamed), errno.EDESTADDRREQ)
    peer.send(b"one")
    peer.send(b"two")
    receiving = Sqe(Op.RECV, fd=fd, addr=bench.block + 100, len=100, user_data=1)
    expect("apart", (bench.result(receiving), bench.result(receiving)), (3, 3))
    other = world.datagrams()
    bench.put(world.address(fd), 500)
    expect("between requests", bench.result(replace(sending, fd=other)), 6)
    expect("received", bench.result(receiving), 6)


def sequenced_packets(bench: Bench) -> None:
    """SOCK_SEQPACKET and AF_UNIX datagrams keep boundaries; the former end."""
    for kind in (SOCK_SEQPACKET, SOCK_DGRAM):
        fd, peer = bench.world.socketpair(kind)
        peer.send(b"first")
        peer.send(b"second")
        receiving = Sqe(Op.RECV, fd=fd, addr=bench.block, len=3, user_data=1)
        expect("cut", (bench.result(receiving), bench.get(3)), (3, b"fir"))
        expect("next", (bench.result(receiving), bench.get(3)), (3, b"sec"))
        if kind == SOCK_SEQPACKET:
            peer.close()
            expect("end", bench.result(receiving), 0)


def binding(bench: Bench) -> None:
    """SOCKET, BIND, LISTEN: a listener that requests make; loopback only."""

    def made() -> int:
        return bench.result(Sqe(Op.SOCKET, fd=AF_INET, off=SOCK_STREAM, user_data=1))

    fd = made()
    expect("socket", fd >= 0, True)
    loopback = SOCKADDR_IN.pack(AF_INET, bytes(2), bytes((127, 0, 0, 1)))
    bind = Sqe(Op.BIND, fd=fd, addr=bench.put(loopback), off=16, user_data=1)
    expect("bind", bench.result(bind), 0)
    expect_errno("twice", bench.result(bind), errno.EINVAL)
    expect("listen", bench.result(Sqe(Op.LISTEN, fd=fd, len=4, user_data=1)), 0)
    peer = bench.world.connect(fd)
    end = bench.result(Sqe(Op.ACCEPT, fd=fd, user_data=1))
    peer.send(b"hello")
    receiving = Sqe(Op.RECV, fd=end, addr=bench.block + 64, len=9, user_data=1)
    expect("data", bench.result(receiving), 5)
    taken = Sqe(Op.BIND, fd=made(), addr=bench.put(bench.world.address(fd)), off=16, user_data=1)
    expect_errno("taken", bench.result(taken), errno.EADDRINUSE)
    for port, host in ((80, (127, 0, 0, 1)), (0, (192, 0, 2, 1))):
        raw = SOCKADDR_IN.pack(AF_INET, port.to_bytes(2, "big"), bytes(host))
        elsewhere = Sqe(Op.BIND, fd=made(), addr=bench.put(raw), off=16, user_data=1)
        expect_errno("elsewhere", bench.result(elsewhere), errno.EADDRNOTAVAIL)


def names_of_unix_sockets(bench: Bench) -> None:
    """Abstract names: bound, listened at, connected to; a path is unsupported by name."""
    address = AF_UNIX.to_bytes(2, "little") + b"\0service"
    listener = bench.world.socket(AF_UNIX, SOCK_STREAM)
    at = bench.put(address)
    bind = Sqe(Op.BIND, fd=listener, addr=at, off=len(address), user_data=1)
    expect("bind", bench.result(bind), 0)
    expect("listen", bench.result(Sqe(Op.LISTEN, fd=listener, len=4, user_data=1)), 0)
    client = bench.world.socket(AF_UNIX, SOCK_STREAM)
    connect = Sqe(Op.CONNECT, fd=client, addr=at, off=len(address), user_data=1)
    expect("connect", bench.result(connect), 0)
    expect("accept", bench.result(Sqe(Op.ACCEPT, fd=listener, user_data=1)) >= 0, True)
    other = bench.world.socket(AF_UNIX, SOCK_STREAM)
    expect_errno("taken", bench.result(replace(bind, fd=other)), errno.EADDRINUSE)
    path = AF_UNIX.to_bytes(2, "little") + b"/tmp/socket"
    bench.put(path, 64)
    try:
        bench.submit(replace(bind, fd=other, addr=bench.block + 64, off=len(path)))
    except UnsupportedError as refused:
        expect("named", "path" in str(refused), True)
    else:
        raise Broken("a path was bound")


def half_closed(bench: Bench) -> None:
    """A peer that has shut down still receives; a reset breaks both directions."""
    listener = bench.world.listen()
    peer = bench.world.connect(listener)
    fd = bench.result(Sqe(Op.ACCEPT, fd=listener, user_data=1))
    sending = Sqe(Op.SEND, fd=fd, addr=bench.put(b"late"), len=4, user_data=1)
    receiving = Sqe(Op.RECV, fd=fd, addr=bench.block + 64, len=9, user_data=1)
    peer.shutdown()
    expect("end", bench.result(receiving), 0)
    expect("other direction", (bench.result(sending), peer.recv(9)), (4, b"late"))
    peer = bench.world.connect(listener)
    fd = bench.result(Sqe(Op.ACCEPT, fd=listener, user_data=1))
    peer.close(reset=True)
    expect_errno("reset", bench.result(replace(receiving, fd=fd)), errno.ECONNRESET)
    expect_errno("afterwards", bench.result(replace(sending, fd=fd)), errno.EPIPE)


class _BufferRing:
    """A ring of `entries` buffers of 16 bytes in the bench's block."""

    def __init__(self, bench: Bench, group: int, flags: int = 0, entries: int = 4) -> None:
        self._bench = bench
        self._at = 3 << 12
        self.data = 2 << 12
        self.tail = 0
        registered = bench.backend.register_buffer_ring(
            bench.block + self._at, entries, group, flags
        )
        expect("register", registered, 0)

    def add(self, buffer_id: int, size: int = 16) -> None:
        """Give a buffer to the ring."""
        addr = self._bench.block + self.data + 16 * buffer_id
        entry = BUFFER_RING_ENTRY.pack(addr, size, buffer_id)[:BUFFER_RING_TAIL_AT]
        self._bench.put(entry, self._at + 16 * (self.tail & 3))
        self.tail += 1
        self._bench.put(self.tail.to_bytes(2, "little"), self._at + BUFFER_RING_TAIL_AT)


def rings_of_buffers(bench: Bench) -> None:
    """Receives take buffers from the head of a ring; its head can be asked for."""
    backend = bench.backend
    expect_errno("no such ring", backend.buffer_ring_head(7), errno.ENOENT)
    expect_errno("three", backend.register_buffer_ring(bench.block, 3, 7), errno.EINVAL)
    expect_errno("foreign", backend.register_buffer_ring(4096, 4, 7), errno.EFAULT)
    fd, peer = bench.world.socketpair()
    ring = _BufferRing(bench, 7)
    again = backend.register_buffer_ring(bench.block, 4, 7)
    expect_errno("twice", again, errno.EEXIST)
    receiving = Sqe(Op.RECV, SQE_BUFFER_SELECT, fd=fd, buf_index=7, user_data=1)
    peer.send(b"data")
    expect_errno("empty", bench.result(receiving), errno.ENOBUFS)
    ring.add(3)
    bench.submit(receiving)
    flags = CQE_F_BUFFER | 3 << CQE_BUFFER_SHIFT
    expect("received", bench.collect(1), [Completion(1, 4, flags)])
    expect("data", bench.get(4, ring.data + 48), b"data")
    expect("head", backend.buffer_ring_head(7), 1)
    for buffer_id in (0, 1, 2):
        ring.add(buffer_id)
    peer.send(bytes(40))
    bench.submit(replace(receiving, ioprio=RECVSEND_BUNDLE, len=100))
    expect("bundle", bench.collect(1), [Completion(1, 40, CQE_F_BUFFER)])
    expect("head", backend.buffer_ring_head(7), 4)
    expect("unregister", backend.unregister_buffer_ring(7), 0)
    expect_errno("again", backend.unregister_buffer_ring(7), errno.ENOENT)


def buffers_used_piece_by_piece(bench: Bench) -> None:
    """IOU_PBUF_RING_INC: F_BUF_MORE while a buffer has room; the next piece follows."""
    fd, peer = bench.world.socketpair()
    ring = _BufferRing(bench, 7, PBUF_RING_INC)
    ring.add(2)
    receiving = Sqe(Op.RECV, SQE_BUFFER_SELECT, fd=fd, buf_index=7, user_data=1)
    named = CQE_F_BUFFER | 2 << CQE_BUFFER_SHIFT
    for data, flags in ((b"one", CQE_F_BUF_MORE), (b"two", CQE_F_BUF_MORE), (bytes(10), 0)):
        peer.send(data)
        bench.submit(receiving)
        expect("piece", bench.collect(1), [Completion(1, len(data), named | flags)])
    expect("data", bench.get(6, ring.data + 32), b"onetwo")


def messages_again_and_again(bench: Bench) -> None:
    """Multishot RECVMSG: a header, the sender and the data in each buffer."""
    fd = bench.world.datagrams()
    peer = bench.world.connect(fd)
    provide = Sqe(Op.PROVIDE_BUFFERS, fd=4, len=100, addr=bench.block, off=1, user_data=1)
    bench.result(provide)
    addr = _message(bench, [], name=(bench.block + 500, 16))
    again = Sqe(Op.RECVMSG, SQE_BUFFER_SELECT, fd=fd, addr=addr, ioprio=RECV_MULTISHOT, user_data=1)
    bench.submit(again)
    for index, data in enumerate((b"one", b"three")):
        peer.send(data)
        flags = CQE_F_BUFFER | CQE_F_MORE | index + 1 << CQE_BUFFER_SHIFT
        size = RECVMSG_OUT.size + 16 + len(data)
        expect("message", bench.collect(1), [Completion(1, size, flags)])
        head = RECVMSG_OUT.unpack(bench.get(RECVMSG_OUT.size, 100 * index))
        expect("header", head, (16, 0, len(data), 0))
        found = bench.get(16 + len(data), 100 * index + RECVMSG_OUT.size)
        expect("sender and data", found, peer.address() + data)


def sends_without_copies(bench: Bench) -> None:
    """SEND_ZC, SENDMSG_ZC: the result with F_MORE, then a notification, of failures too; one that
    ends because another one of its chain failed has no F_MORE, and its notification always."""
    listener = bench.world.listen()
    peer = bench.world.connect(listener)
    fd = bench.result(Sqe(Op.ACCEPT, fd=listener, user_data=1))
    pair, _ = bench.world.socketpair()
    bench.put(b"zero", 100)
    message = _message(bench, [(100, 4)])
    plain = Sqe(Op.SEND_ZC, fd=fd, addr=bench.block + 100, len=4, user_data=1)
    cases = (
        (plain, 4),
        (Sqe(Op.SENDMSG_ZC, fd=fd, addr=message, user_data=1), 4),
        (replace(plain, fd=pair), -errno.EOPNOTSUPP),
        (replace(plain, fd=900), -errno.EBADF),
    )
    for sqe, res in cases:
        bench.submit(sqe)
        wanted = [Completion(1, res, CQE_F_MORE), Completion(1, 0, CQE_F_NOTIF)]
        expect("both", bench.collect(2), wanted)
        expect("in flight", bench.backend.in_flight(), 0)
    expect("data", peer.recv(100), b"zerozero")
    failing, later = nop(2, SQE_IO_LINK, fails=True), replace(plain, fd=900)
    refused = replace(plain, ioprio=1 << 15)
    silent = SQE_IO_LINK | SQE_CQE_SKIP_SUCCESS
    chains = (
        ((failing, later), [(2, -errno.EIO, 0), (1, -errno.ECANCELED, 0)]),
        ((replace(failing, flags=silent), later), [(2, -errno.EIO, 0)]),
        ((nop(2, SQE_IO_LINK), refused), [(2, -errno.ECANCELED, 0), (1, -errno.EINVAL, 0)]),
        ((bad(2, SQE_IO_HARDLINK), later), [(2, -errno.EINVAL, 0), (1, -errno.ECANCELED, 0)]),
    )
    for chain, ends in chains:
        bench.submit(*chain)
        wanted = [Completion(*end, notified=end[0] == 1) for end in ends]
        wanted.append(Completion(1, 0, CQE_F_NOTIF))
        expect("taken along", bench.collect(len(wanted)), wanted)
        expect("in flight", bench.backend.in_flight(), 0)


def commands_to_sockets(bench: Bench) -> None:
    """URING_CMD: what is unread, options; other options are unsupported by name."""
    listener = bench.world.listen()
    peer = bench.world.connect(listener)
    fd = bench.result(Sqe(Op.ACCEPT, fd=listener, user_data=1))
    peer.send(b"unread")
    expect("inq", bench.result(Sqe(Op.URING_CMD, fd=fd, off=SOCKET_OP_SIOCINQ, user_data=1)), 6)

    def option(command: int, name: int) -> Sqe:
        return Sqe(
            Op.URING_CMD, fd=fd, off=command, addr=SOL_SOCKET | name << 32, file_index=4,
            addr3=bench.block + 64, user_data=1,
        )  # fmt: skip

    expect("type", bench.result(option(SOCKET_OP_GETSOCKOPT, SO_TYPE)), 4)
    expect("stream", bench.get(4, 64), SOCK_STREAM.to_bytes(4, "little"))
    bench.put(b"\1\0\0\0", 64)
    expect("set", bench.result(option(SOCKET_OP_SETSOCKOPT, SO_REUSEADDR)), 0)
    unknown = Sqe(Op.URING_CMD, fd=fd, off=500, user_data=1)
    expect_errno("unknown command", bench.result(unknown), errno.EOPNOTSUPP)
    try:
        bench.submit(option(SOCKET_OP_SETSOCKOPT, 36))  # SO_MARK
    except UnsupportedError as refused:
        expect("named", "socket option 36" in str(refused), True)
    else:
        raise Broken("SO_MARK was set")


def descriptors_are_not_sent(bench: Bench) -> None:
    """SENDMSG with SCM_RIGHTS is unsupported by name, and nothing is consumed."""
    fd, peer = bench.world.socketpair()
    control = CMSG.pack(20, SOL_SOCKET, SCM_RIGHTS) + FD.pack(fd) + bytes(4)
    vector = bench.put(IOVEC.pack(bench.block, 4), 64)
    header = MSGHDR.pack(0, 0, vector, 1, bench.put(control, 128), 24, 0)
    try:
        bench.submit(nop(2), _of(Op.SENDMSG, fd, bench.put(header, 256)))
    except UnsupportedError as refused:
        expect("named", "SCM_RIGHTS" in str(refused), True)
    else:
        raise Broken("a descriptor was sent")
    expect("nothing", (peer.recv(10), bench.backend.poll()), (None, []))


LAWS: Final[Sequence[Law]] = (
    messages,
    datagrams,
    sequenced_packets,
    binding,
    names_of_unix_sockets,
    half_closed,
    rings_of_buffers,
    buffers_used_piece_by_piece,
    messages_again_and_again,
    sends_without_copies,
    commands_to_sockets,
    descriptors_are_not_sent,
)
