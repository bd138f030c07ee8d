"""A proxy between many clients and as many connections to servers, which answer at the end."""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

from pybpfvm.examples.clients import Client, attend
from pybpfvm.session import Machine, Ring
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.base import Peer

OBJECT = "prog.{version}.bpf.o"
SESSIONS_MAX, BUFFER = 128, 4096
LONG = 6000  # bytes of a long request, more than a buffer


class Server:
    """The host's end of a connection: sends back in capitals what it got, at the end of it."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._got = b""
        self._left: bytes | None = None  # None: it has not all arrived
        self._done = False

    def turn(self) -> None:
        """Do what can be done now."""
        if self._done:
            return
        if self._left is None:
            data = self._peer.recv(65536)
            self._got += data or b""
            if data == b"":
                self._left = self._got.upper()
        if self._left:
            self._left = self._left[self._peer.send(self._left) :]
        if self._left == b"":
            self._peer.close()
            self._done = True


def client(number: int) -> Client:
    """Some say nothing, some much and read it slowly."""
    match number % 10:
        case 7:
            return Client(b"", silent_turns=3)
        case 3:
            return Client((b"long %d " % number * LONG)[:LONG], pace=500)
        case _:
            return Client(b"request %d" % number)


def main(backend: BackendName, version: str, clients: int = 40, engine: str = "auto") -> None:
    """Run the example and print what happened: a ring for every SESSIONS_MAX clients."""
    served = right = 0
    for first in range(0, clients, SESSIONS_MAX):
        people = [client(n) for n in range(first, min(first + SESSIONS_MAX, clients))]
        served += serve(backend, version, people, engine)
        right += sum(one.got == one.says.upper() for one in people)
    print(f"{served} sessions are over, {right} clients got their answers")


def serve(backend: BackendName, version: str, people: list[Client], engine: str) -> int:
    """Sessions for these clients; how many there were."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            8, [1024], backend=backend, abi=obj.profile, machine=machine, engine=engine
        ) as ring:
            ring.register_bpf([obj["proxy"]])
            listener = ring.world.listen()
            ends = [ring.world.socketpair() for _ in people]
            servers = [Server(peer) for _, peer in ends]
            fds = struct.pack(f"<{len(ends)}i", *(fd for fd, _ in ends))
            block = ring.user.alloc(fds.ljust(4 * SESSIONS_MAX, b"\0"))
            buffers = ring.user.alloc(2 * SESSIONS_MAX * BUFFER)
            job = struct.pack("<QQiI", buffers.addr, block.addr, listener, len(people))
            ring.get_sqe().prep_bpf(0, user_data=ring.user.alloc(job).addr)
            ring.submit()

            def between() -> None:
                for server in servers:
                    server.turn()

            attend(ring, listener, people, at_once=SESSIONS_MAX, between=between)
            while not ring.ready():
                ring.run_until_idle(1_000_000)
                between()
            return ring.wait_cqe().user_data


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    parser.add_argument("--clients", type=int, default=40)
    args = parser.parse_args()
    main(args.backend, args.version, args.clients)
