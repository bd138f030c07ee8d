"""The simulated network: when things arrive, what is lost, and what cut and broken links do."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from pybpfvm.errors import InputError
from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.base import Completion
from pybpfvm.uring_backend.conditions import Conditions, port_of
from pybpfvm.uring_backend.lawbench import Bench
from pybpfvm.uring_backend.sim import SimBackend

MS = 1_000_000
S = 1000 * MS


class Net(Bench):
    """A bench with a TCP connection on request."""

    def __init__(self, seed: int) -> None:
        self.space = AddressSpace()
        self.sim = SimBackend(self.space, seed=seed)
        super().__init__(self.sim, self.space, SimBackend)
        self.network = self.sim.world.network

    def connection(self) -> tuple[int, int]:
        """The two ends of a connection between requests."""
        listener = self.world.listen()
        client = self.world.socket()
        addr = self.put(self.world.address(listener))
        accept = Sqe(Op.ACCEPT, fd=listener, user_data=1)
        results = dict(self.run(accept, Sqe(Op.CONNECT, fd=client, addr=addr, off=16, user_data=2)))
        assert results[2] == 0
        return client, results[1]

    def send(self, fd: int, size: int = 100, **fields: int) -> int:
        return self.result(Sqe(Op.SEND, fd=fd, addr=self.block, len=size, user_data=5, **fields))

    def recv(self, fd: int, size: int = 1 << 14, **fields: int) -> int:
        return self.result(
            Sqe(Op.RECV, fd=fd, addr=self.block + 20000, len=size, user_data=6, **fields)
        )

    def took(self) -> int:
        return self.sim.now_ns()


@pytest.fixture
def net() -> Iterator[Net]:
    made = Net(seed=1)
    yield made
    made.sim.close()
    made.space.close()


def make(seed: int) -> Net:
    return Net(seed)


def test_everything_is_at_once_without_conditions(net: Net) -> None:
    client, server = net.connection()
    net.send(client)
    assert net.recv(server) == 100
    assert net.took() == 0


def test_latency_is_paid_by_connecting_and_by_data(net: Net) -> None:
    net.network.set(Conditions(latency_ns=10 * MS))
    client, server = net.connection()
    assert net.took() == 20 * MS, "there and back"
    net.send(client)
    assert net.took() == 20 * MS, "a send does not wait for the network"
    assert net.recv(server, op_flags=abi.MSG_DONTWAIT) == -errno.EAGAIN
    assert net.recv(server) == 100
    assert net.took() == 30 * MS


def test_bandwidth_spreads_arrivals(net: Net) -> None:
    client, server = net.connection()
    net.network.set(Conditions(bandwidth=1_000_000))  # a byte each microsecond
    net.send(client, 10_000)
    assert net.recv(server, 10_000, op_flags=abi.MSG_WAITALL) == 10_000
    assert net.took() == 10 * MS


def test_the_sender_waits_when_the_network_holds_enough(net: Net) -> None:
    client, server = net.connection()
    net.network.set(Conditions(latency_ns=S))
    sent = 0
    while (done := net.send(client, 16384, op_flags=abi.MSG_DONTWAIT)) > 0:
        sent += done
    assert done == -errno.EAGAIN
    assert sent == 128 << 10
    net.submit(Sqe(Op.SEND, fd=client, addr=net.block, len=10, user_data=9))
    assert net.recv(server, 16384, op_flags=abi.MSG_WAITALL) == 16384
    assert net.sim.in_flight() == 1, "less than half is free"


@pytest.mark.parametrize("seed", range(20))
def test_a_stream_keeps_its_order_whatever_the_jitter_and_loss(seed: int) -> None:
    net = make(seed)
    client, server = net.connection()
    net.network.set(Conditions(latency_ns=MS, jitter_ns=50 * MS, loss=0.3))
    wanted = b""
    for index in range(30):
        piece = bytes([index]) * (index + 1)
        wanted += piece
        net.put(piece)
        net.send(client, len(piece))
    net.sim.wait(1000 * S)
    assert net.recv(server, len(wanted), op_flags=abi.MSG_WAITALL) == len(wanted)
    assert net.get(len(wanted), 20000) == wanted
    net.sim.close()
    net.space.close()


def datagrams(seed: int, conditions: Conditions) -> list[int]:
    """The first byte of each datagram that arrives, of 100 that are sent."""
    net = make(seed)
    net.network.set(conditions)
    one, two = net.world.datagrams(), net.world.datagrams()
    to = net.put(net.world.address(two), 1024)
    for index in range(100):
        net.put(bytes([index]))
        assert net.send(one, 1, off=to, file_index=16) == 1
    net.sim.wait(10 * S)
    found: list[int] = []
    while net.recv(two, op_flags=abi.MSG_DONTWAIT) == 1:
        found += net.get(1, 20000)
    net.sim.close()
    net.space.close()
    return found


def test_datagrams_are_lost_by_the_seed() -> None:
    first = datagrams(1, Conditions(loss=0.2))
    assert 60 < len(first) < 95
    assert first == sorted(first)
    assert datagrams(1, Conditions(loss=0.2)) == first
    assert datagrams(2, Conditions(loss=0.2)) != first


def test_jitter_reorders_datagrams() -> None:
    found = datagrams(1, Conditions(jitter_ns=MS))
    assert sorted(found) == list(range(100))
    assert found != sorted(found)


def test_a_partition_holds_a_stream_back_and_swallows_datagrams(net: Net) -> None:
    client, server = net.connection()
    one, two = net.world.datagrams(), net.world.datagrams()
    net.network.partition()
    net.send(client)
    to = net.put(net.world.address(two), 1024)
    assert net.send(one, 4, off=to, file_index=16) == 4
    net.submit(Sqe(Op.RECV, fd=server, addr=net.block, len=200, user_data=7))
    assert not net.sim.wait(5 * S)
    net.network.heal()
    assert net.collect(1) == [Completion(7, 100, 0)]
    assert net.recv(two, op_flags=abi.MSG_DONTWAIT) == -errno.EAGAIN


def test_connecting_through_a_partition_times_out(net: Net) -> None:
    listener, client = net.world.listen(), net.world.socket()
    net.network.partition()
    connect = Sqe(
        Op.CONNECT, fd=client, addr=net.put(net.world.address(listener)), off=16, user_data=1
    )
    net.submit(connect)
    assert net.result(Sqe(**_fields(connect) | {"user_data": 2})) == -errno.EALREADY
    assert net.sim.wait(200 * S)
    assert net.sim.poll() == [Completion(1, -errno.ETIMEDOUT, 0)]
    assert net.took() == 127 * S


def _fields(sqe: Sqe) -> dict[str, int]:
    return {name: getattr(sqe, name) for name in Sqe.__slots__}


def test_connecting_to_nobody_takes_the_way_there_and_back(net: Net) -> None:
    net.network.set(Conditions(latency_ns=3 * MS))
    addr = net.put(abi.SOCKADDR_IN.pack(2, (9999).to_bytes(2, "big"), bytes((127, 0, 0, 1))))
    connect = Sqe(Op.CONNECT, fd=net.world.socket(), addr=addr, off=16, user_data=1)
    assert net.result(connect) == -errno.ECONNREFUSED
    assert net.took() == 6 * MS


def test_a_reset_breaks_both_ends(net: Net) -> None:
    client, server = net.connection()
    net.submit(Sqe(Op.RECV, fd=server, addr=net.block, len=200, user_data=7))
    net.network.reset()
    assert net.results(1) == [(7, -errno.ECONNRESET)]
    assert net.send(client) == -errno.ECONNRESET
    assert net.send(client) == -errno.EPIPE


def test_the_link_of_one_client(net: Net) -> None:
    listener = net.world.listen()
    near, far = net.world.connect(listener), net.world.connect(listener)
    net.network.set(Conditions(latency_ns=50 * MS), port_of(far.address()))
    fds = [net.result(Sqe(Op.ACCEPT, fd=listener, user_data=1)) for _ in range(2)]
    near.send(b"near")
    far.send(b"far")
    assert net.recv(fds[0]) == 4
    assert net.took() == 0
    assert net.recv(fds[1]) == 3
    assert net.took() == 50 * MS
    net.send(fds[1])
    assert far.recv(500) is None, "the host sees the same network"
    net.sim.wait(50 * MS)
    assert far.recv(500) == bytes(100)
    far.close()
    assert net.recv(fds[1]) == 0
    assert net.took() == 150 * MS


def test_a_closed_end_answers_late_data_with_a_reset(net: Net) -> None:
    client, server = net.connection()
    net.network.set(Conditions(latency_ns=MS))
    net.send(client)
    net.world.close(server)
    assert net.recv(client) == 0, "its FIN"
    net.sim.wait(MS)
    assert net.send(client) == -errno.EPIPE, "the RST for the data"


def test_a_cork_holds_less_than_a_segment_for_a_while(net: Net) -> None:
    client, server = net.connection()
    net.send(client, 10, op_flags=abi.MSG_MORE)
    assert net.recv(server, op_flags=abi.MSG_DONTWAIT) == -errno.EAGAIN
    net.send(client, 10)
    assert net.recv(server) == 20
    net.send(client, 10, op_flags=abi.MSG_MORE)
    assert net.recv(server) == 10
    assert net.took() == 200 * MS


def test_conditions_that_make_no_sense() -> None:
    with pytest.raises(InputError, match="not negative"):
        Conditions(latency_ns=-1)
    with pytest.raises(InputError, match="loss"):
        Conditions(loss=1.0)
