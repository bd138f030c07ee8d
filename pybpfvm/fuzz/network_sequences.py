"""Seeded sequences of network requests, one step at a time, and a player that observes each.

One socket of a kind is under test, with the host at its other end, so nothing races: a step is
over when as much has happened as on the simulated ring, where time shows that nothing more will.
Addresses and ports differ from backend to backend; the player shows them relative to the block,
or by name.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from random import Random

from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.base import Completion, Peer
from pybpfvm.uring_backend.lawbench import Bench

KINDS = ("tcp", "udp", "stream", "dgram", "seqpacket")
PROVIDED, RING, INC, NOBODY = 1, 2, 3, 4  # groups
ENTRIES = 8
_BUFFERS = 4096  # of the block, from here on: buffers to select
_BUFFER_BYTES = 256
_RINGS = {RING: 32768, INC: 36864}
_HEADERS = 40960  # msghdr, iovecs and names: they hold addresses, and are looked at by field
_ALONE_NS = 5_000_000_000
_QUIET_NS = 1_000_000


@dataclass(frozen=True)
class Step:
    """What to do: a method of the player, and its arguments."""

    what: str
    numbers: dict[str, int]

    def __str__(self) -> str:
        return f"{self.what}({', '.join(f'{k}={v:#x}' for k, v in self.numbers.items() if v)})"


def generate(seed: int) -> tuple[str, list[Step]]:
    """The kind of socket, and the steps."""
    random = Random(seed)
    kind = random.choice(KINDS)
    steps = [Step("provide", {"count": random.choice((0, 2, 4)), "size": 40})]
    for group in (RING, INC):
        steps.append(Step("add", {"group": group, "count": random.choice((0, 2, 5)), "size": 30}))
    for _ in range(random.randint(4, 14)):
        steps.append(_step(random))
    return kind, steps


def _step(random: Random) -> Step:
    chosen = random.choices(
        ("peer_send", "peer_recv", "recv", "send", "add", "provide", "cancel", "end", "remove"),
        (30, 6, 34, 20, 8, 4, 6, 2, 1),
    )[0]

    def maybe(value: int, odds: float = 0.3) -> int:
        return value if random.random() < odds else 0

    group = random.choice((PROVIDED, RING, RING, INC, INC, NOBODY))
    link = maybe(random.choice((abi.SQE_IO_LINK, abi.SQE_IO_HARDLINK)), 0.15)
    if chosen == "peer_send":
        return Step(chosen, {"size": random.choice((1, 3, 10, 25, 60, 100, 170))})
    if chosen == "peer_recv":
        return Step(chosen, {"size": random.choice((5, 1000))})
    if chosen in ("add", "provide"):
        size = random.choice((4, 10, 30, 90, 250))
        return Step(chosen, {"group": group, "count": random.choice((1, 2, 4)), "size": size})
    if chosen in ("cancel", "remove"):
        return Step(chosen, {"group": group})
    if chosen == "end":
        return Step(chosen, {"how": random.randrange(6)})
    flags = maybe(abi.MSG_DONTWAIT)
    common = {"group": group, "link": link, "select": maybe(1, 0.6), "message": maybe(1)}
    common["length"] = random.choice((0, 0, 3, 20, 50, 100))
    common["first"] = maybe(abi.RECVSEND_POLL_FIRST, 0.15)
    if chosen == "recv":
        flags |= maybe(abi.MSG_WAITALL, 0.15) | maybe(abi.MSG_TRUNC, 0.1)
        flags |= maybe(abi.MSG_PEEK, 0.1)
        common |= {"multishot": maybe(abi.RECV_MULTISHOT, 0.5), "flags": flags}
        common |= {"bundle": maybe(abi.RECVSEND_BUNDLE), "limit": maybe(25, 0.15)}
        if common["multishot"] or flags & abi.MSG_WAITALL:
            common["flags"] &= ~abi.MSG_PEEK  # it would peek at the same bytes for ever
        return Step(chosen, common)
    flags |= maybe(abi.MSG_WAITALL) | maybe(abi.MSG_MORE, 0.1)
    common |= {"flags": flags, "zero_copy": maybe(1), "bundle": maybe(abi.RECVSEND_BUNDLE)}
    common |= {"vectorized": maybe(abi.SEND_VECTORIZED, 0.2), "fill": random.randrange(256)}
    common["report"] = maybe(abi.SEND_ZC_REPORT_USAGE)
    return Step(chosen, common)


Observation = tuple[object, ...]


class Player:
    """Plays the steps of one sequence on one backend."""

    def __init__(self, bench: Bench, kind: str) -> None:
        self.bench = bench
        self.backend = bench.backend
        self.kind = kind
        self.token = 0
        self.next_id = 0
        self.sent = 0
        self.tails = {RING: 0, INC: 0}
        for group, flags in ((RING, 0), (INC, abi.PBUF_RING_INC)):
            at = bench.block + _RINGS[group]
            assert self.backend.register_buffer_ring(at, ENTRIES, group, flags) == 0
        self.fd, self.peer = self._connect(kind)
        self.header = 0
        self.ended = False

    def _connect(self, kind: str) -> tuple[int, Peer]:
        world, bench = self.bench.world, self.bench
        if kind == "tcp":
            listener = world.listen()
            peer = world.connect(listener)
            fd = bench.result(Sqe(Op.ACCEPT, fd=listener, user_data=1))
            no_delay = {
                "addr": abi.SOL_TCP | abi.TCP_NODELAY << 32,
                "off": abi.SOCKET_OP_SETSOCKOPT,
            }
            one = bench.put((1).to_bytes(4, "little"), _HEADERS)
            sqe = Sqe(Op.URING_CMD, fd=fd, file_index=4, addr3=one, user_data=1, **no_delay)
            assert bench.result(sqe) == 0  # what it sends arrives at once
            bench.put(bytes(4), _HEADERS)
            return fd, peer
        if kind == "udp":
            fd = world.datagrams()
            return fd, world.connect(fd)
        kinds = {"stream": abi.SOCK_STREAM, "dgram": abi.SOCK_DGRAM}
        return world.socketpair(kinds.get(kind, abi.SOCK_SEQPACKET))

    def play(self, step: Step, expected: tuple[int, int] | None) -> tuple[Observation, int, int]:
        """What was seen, events so far in this step, and requests in flight after it."""
        self.header = 0
        host = getattr(self, step.what)(**step.numbers)
        events = self._settle(expected)
        seen: dict[int, list[tuple[int, int]]] = {}
        for event in events:
            seen.setdefault(event.token, []).append((event.res, event.flags))
        heads = tuple(self.backend.buffer_ring_head(group) for group in (RING, INC))
        rings = tuple(self._ring(group) for group in (RING, INC))
        memory = self.bench.get(_RINGS[RING])
        memory = memory.replace(self.peer.address()[:8] or b"\0no peer", b"the peer")
        flight = self.backend.in_flight()
        observed = (host, sorted(seen.items()), heads, rings, self._header_fields(), memory)
        return observed, len(events), flight

    def _settle(self, expected: tuple[int, int] | None) -> list[Completion]:
        events: list[Completion] = []

        def take() -> None:
            events.extend(e for e in self.backend.poll() if isinstance(e, Completion))

        take()
        if expected is None:
            while self.backend.wait(300_000_000):  # virtual: longer than a cork holds
                take()
            return events
        end = time.monotonic_ns() + _ALONE_NS
        while (len(events), self.backend.in_flight()) != expected:
            left = end - time.monotonic_ns()
            if left < 0 or not self.backend.wait(left):
                break
            take()
        if self.backend.wait(_QUIET_NS):
            take()
        return events

    def _ring(self, group: int) -> tuple[tuple[int, int, int], ...]:
        raw = self.bench.get(ENTRIES * 16, _RINGS[group])
        entries = (abi.BUFFER_RING_ENTRY.unpack_from(raw, at) for at in range(0, len(raw), 16))
        return tuple((addr - self.bench.block if addr else 0, n, bid) for addr, n, bid in entries)

    def _header_fields(self) -> Observation:
        """What RECVMSG wrote: lengths, flags, the family of the sender."""
        if not self.header:
            return ()
        fields = abi.MSGHDR.unpack(self.bench.get(56, self.header))
        return fields[1], fields[5], fields[6], self.bench.get(2, _HEADERS + 2048)

    # --- steps ----------------------------------------------------------------------------------

    def peer_send(self, size: int) -> object:
        """The other end sends."""
        self.sent += 1
        if self.kind == "udp" and size > 100:
            size = 100
        return self.peer.send(bytes((self.sent + i) & 0xFF for i in range(size)))

    def peer_recv(self, size: int) -> object:
        """The other end receives: what it got."""
        return self.peer.recv(size)

    def end(self, how: int) -> object:
        """An end comes: a SHUTDOWN of ours, or the other side's."""
        self.ended = True
        if how <= 2:
            if self.kind in ("udp", "dgram"):
                how = abi.SHUT_WR  # docs/sim-kernel-differences.md
            return self._submit(Sqe(Op.SHUTDOWN, fd=self.fd, len=how))
        if how == 3:
            self.peer.shutdown()
        if how == 4 and self.kind != "udp":
            self.peer.close(reset=True)
            self.peer = _Gone()
        return None

    def _place(self, size: int) -> int:
        at = _BUFFERS + self.next_id % 100 * _BUFFER_BYTES
        self.next_id += 1
        return self.bench.block + at

    def add(self, group: int, count: int, size: int) -> object:
        """Give buffers to a buffer ring."""
        if group not in _RINGS:
            return self.provide(group, count, size)
        for _ in range(count):
            head = self.backend.buffer_ring_head(group)
            if (self.tails[group] - head) & 0xFFFF >= ENTRIES:
                break
            bid = self.next_id % 100
            raw = struct.pack("<QIH", self._place(size), size, bid)
            at = _RINGS[group] + self.tails[group] % ENTRIES * 16
            self.bench.put(raw, at)
            self.tails[group] = (self.tails[group] + 1) & 0xFFFF
            self.bench.put(self.tails[group].to_bytes(2, "little"), _RINGS[group] + 14)
        return None

    def provide(self, count: int, size: int, group: int = PROVIDED) -> object:
        """Provide buffers by a request."""
        if count:
            group = PROVIDED if group == NOBODY else group
            size = min(size, _BUFFER_BYTES)
            bid = self.next_id % 100
            at = self._place(size)
            count = min(count, 100 - bid, _BUFFER_BYTES // size)
            self._submit(
                Sqe(Op.PROVIDE_BUFFERS, fd=count, addr=at, len=size, off=bid, buf_index=group)
            )
        return None

    def remove(self, group: int) -> object:
        """Take provided buffers away."""
        return self._submit(Sqe(Op.REMOVE_BUFFERS, fd=1, buf_index=group))

    def cancel(self, group: int) -> object:
        """Cancel all that is in flight."""
        flags = abi.ASYNC_CANCEL_ANY | abi.ASYNC_CANCEL_ALL
        return self._submit(Sqe(Op.ASYNC_CANCEL, op_flags=flags))

    def _submit(self, sqe: Sqe, link: int = 0) -> int:
        self.token += 1
        fields = {name: getattr(sqe, name) for name in Sqe.__slots__}
        fields |= {"flags": sqe.flags | link, "user_data": self.token}
        sqes = [Sqe(**fields)]
        if link:
            self.token += 1
            sqes.append(Sqe(Op.NOP, user_data=self.token))
        return self.bench.submit(*sqes)

    def _vectors(self, length: int, at: int) -> tuple[int, int]:
        """Two vectors of `length` bytes together, in plain memory."""
        half = length // 2
        block = self.bench.block
        raw = abi.IOVEC.pack(block + 1024, half) + abi.IOVEC.pack(block + 1536, length - half)
        return self.bench.put(raw, at), 2

    def recv(self, **n: int) -> object:
        """Submit a RECV or RECVMSG."""
        flags = abi.SQE_BUFFER_SELECT if n["select"] else 0
        if n["multishot"] and self.ended:
            n["first"] = 0  # docs/sim-kernel-differences.md
        ioprio = n["first"] | n["multishot"] | n["bundle"]
        fields = {"fd": self.fd, "flags": flags, "ioprio": ioprio, "op_flags": n["flags"]}
        fields["buf_index"] = n["group"] if n["select"] else 0
        if n["bundle"] and not n["message"]:
            fields["op_flags"] &= ~(abi.MSG_WAITALL | abi.MSG_TRUNC)  # the former has a name
            n["length"] = n["length"] or 60  # docs/sim-kernel-differences.md
        if not n["message"]:
            addr = 0 if n["select"] else self.bench.block + 1024
            sqe = Sqe(Op.RECV, addr=addr, len=n["length"], file_index=n["limit"], **fields)
            return self._submit(sqe, n["link"])
        if n["select"]:
            vectors, count = self.bench.put(abi.IOVEC.pack(0, n["length"]), _HEADERS), 1
        else:
            vectors, count = self._vectors(n["length"], _HEADERS)
        control = 20 if n["limit"] else 0
        name = self.bench.put(bytes(32), _HEADERS + 2048)
        header = abi.MSGHDR.pack(name, 16, vectors, count, name + 64, control, 0)
        self.header = _HEADERS + 1024
        at = self.bench.put(header, self.header)
        return self._submit(Sqe(Op.RECVMSG, addr=at, **fields), n["link"])

    def send(self, **n: int) -> object:
        """Submit a send of some kind."""
        length, fill = n["length"], n["fill"]
        if self.kind == "tcp":
            n["flags"] &= ~abi.MSG_MORE  # it would wait, for real time or virtual
        self.bench.put(bytes((fill + i) & 0xFF for i in range(128)), 1024)
        self.bench.put(bytes((fill + i) & 0xFF for i in range(128)), 1536)
        if n["group"] == INC and self.backend.in_flight():
            n["group"] = RING  # docs/sim-kernel-differences.md
        select = n["select"] and not n["message"] and not n["zero_copy"]
        flags = abi.SQE_BUFFER_SELECT if select else 0
        ioprio = n["first"] | n["bundle"] | (n["report"] if n["zero_copy"] else 0)
        fields = {"fd": self.fd, "flags": flags, "op_flags": n["flags"]}
        fields["buf_index"] = n["group"] if select else 0
        address = 0
        if self.kind == "udp":
            address = self.bench.put(self.peer.address() or bytes(16), _HEADERS + 3000)
        if n["message"]:
            vectors, count = self._vectors(length, _HEADERS)
            header = abi.MSGHDR.pack(address, 16 if address else 0, vectors, count, 0, 0, 0)
            at = self.bench.put(header, _HEADERS + 512)
            op = Op.SENDMSG_ZC if n["zero_copy"] else Op.SENDMSG
            return self._submit(Sqe(op, addr=at, ioprio=ioprio, **fields), n["link"])
        op = Op.SEND_ZC if n["zero_copy"] else Op.SEND
        addr = 0 if select else self.bench.block + 1024
        if n["vectorized"] and not select:
            addr, length = self._vectors(length, _HEADERS)
            ioprio |= n["vectorized"]
        sqe = Sqe(
            op, addr=addr, len=length, ioprio=ioprio, off=address,
            file_index=16 if address else 0, **fields,
        )  # fmt: skip
        return self._submit(sqe, n["link"])


class _Gone:
    """A peer that has been closed."""

    def send(self, data: bytes) -> int:
        return 0

    def recv(self, size: int) -> bytes | None:
        return None

    def shutdown(self) -> None:
        """Nothing."""

    def address(self) -> bytes:
        return b""

    def close(self, *, reset: bool = False) -> None:
        """Nothing."""
