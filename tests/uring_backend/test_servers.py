"""An echo server of BPF requests (data/servers/echo.bpf.c) and its clients, many at a time."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pybpfvm
from pybpfvm.errors import RingError
from pybpfvm.session import Budgets, LoadedObject, Ring
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.base import Peer
from pybpfvm.uring_backend.conditions import Conditions
from tests.support.echo_clients import SLOW_BYTES
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

ROOT = Path(__file__).resolve().parents[2]
OBJECT = ROOT / "tests/data/servers/echo.{version}.bpf.o"
BUFFER_BYTES = 512
CONNECTIONS = 4096
_LIMIT_S = 100
_BUDGETS = Budgets(max_runs=1 << 30, max_events=1 << 30)


def start(ring: Ring, version: str) -> tuple[LoadedObject, int]:
    """The server's object, and the listener's descriptor."""
    obj = pybpfvm.load(str(OBJECT).format(version=version), abi=f"iouring-{version}")
    ring.register_bpf([obj["echo"]])
    listener = ring.world.listen(backlog=1024)
    buffers = ring.user.alloc(BUFFER_BYTES * CONNECTIONS, "buffers")
    described = struct.pack("<iIQI4x", listener, BUFFER_BYTES, buffers.addr, CONNECTIONS)
    ring.get_sqe().prep_bpf(0, user_data=ring.user.alloc(described, "server").addr)
    ring.submit()
    return obj, listener


def state(obj: LoadedObject) -> dict[str, int]:
    found = obj.maps["state"][0]
    assert isinstance(found, dict)
    return {name: value for name, value in found.items() if isinstance(value, int)}


@pytest.mark.kernel_ring
@pytest.mark.timeout(180)
@pytest.mark.parametrize("version", ["v2", "v3"])
def test_a_thousand_clients_over_loopback(version: str) -> None:
    need_backend("kernel")
    busy, messages, slow, silent, resets = 1000, 3, 5, 50, 20
    with pybpfvm.Ring(256, [8192], backend="kernel", budgets=_BUDGETS) as ring:
        obj, listener = start(ring, version)
        port = int.from_bytes(ring.world.address(listener)[2:4], "big")
        numbers = map(str, (port, busy, messages, slow, silent, resets))
        with subprocess.Popen(
            [sys.executable, "-m", "tests.support.echo_clients", *numbers],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as clients:
            end = time.monotonic() + _LIMIT_S
            while clients.poll() is None and time.monotonic() < end:
                ring.run_until_idle(20_000_000)
            clients.kill()
            assert clients.stdout is not None
            assert clients.stdout.read().strip() == "ok"
        everybody = busy + slow + silent + resets
        while state(obj)["closed"] < everybody and time.monotonic() < end:
            ring.run_until_idle(20_000_000)
        told = state(obj)
        assert told["accepted"] == told["closed"] == everybody
        assert told["received"] >= 64 * busy * messages + slow * SLOW_BYTES
        assert ring.backend.in_flight() == 2, "the parked program's, and the multishot ACCEPT"


def test_clients_of_a_simulated_server_behind_a_slow_network() -> None:
    with pybpfvm.Ring(256, [8192], budgets=_BUDGETS) as ring:
        network = ring.world.network
        assert network is not None
        obj, listener = start(ring, "v3")
        network.set(Conditions(latency_ns=20_000_000, jitter_ns=5_000_000))
        clients: list[Peer] = []
        for _ in range(2):  # the backlog holds a half of them
            clients += [ring.world.connect(listener) for _ in range(1000)]
            ring.run_until_idle(100_000_000)
        for index, client in enumerate(clients):
            client.send(index.to_bytes(4, "little"))
        start_ns = ring.backend.now_ns()
        answers: list[bytes] = []
        while len(answers) < len(clients) and ring.backend.now_ns() - start_ns < 1_000_000_000:
            ring.run_until_idle(1_000_000)
            answers += [data for client in clients if (data := client.recv(9))]
        assert sorted(answers) == sorted(i.to_bytes(4, "little") for i in range(len(clients)))
        assert ring.backend.now_ns() - start_ns >= 40_000_000
        for client in clients:
            client.close()
        ring.run_until_idle(100_000_000)
        assert state(obj)["closed"] == len(clients)


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_the_host_gives_a_ring_of_buffers(backend: BackendName) -> None:
    need_backend(backend)
    with pybpfvm.Ring(8, [8], backend=backend, abi="iouring-v3") as ring:
        table = ring.user.alloc(4 * 16, "ring")
        data = ring.user.alloc(64, "data")
        ring.register_buffer_ring(table, 4, 7, incremental=True)
        table.write(struct.pack("<QIHH", data.addr, data.size, 3, 1))
        fd, peer = ring.world.socketpair()
        for text in (b"piece", b"by piece"):
            peer.send(text)
            ring.get_sqe().set(opcode=27, fd=fd, flags=1 << 5, buf_index=7, user_data=1)
            ring.submit()
            cqe = ring.wait_cqe(10_000_000_000)
            assert (cqe.res, cqe.flags) == (len(text), 3 << 16 | 0x11)
        assert data.read(13) == b"pieceby piece"
        with pytest.raises(RingError, match="EEXIST"):
            ring.register_buffer_ring(table, 4, 7)
