"""One speaker and three listeners, one of whom goes away in between."""

from __future__ import annotations

import argparse
import struct
from pathlib import Path
from typing import Any, cast

from pybpfvm.session import Machine, Ring
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.base import Peer

OBJECT = "prog.{version}.bpf.o"
SINKS_MAX, BUFFER = 8, 4096
NAMES = ("ann", "bob", "cy")


def main(backend: BackendName, version: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            8, [16], backend=backend, abi=obj.profile, machine=machine, engine=engine
        ) as ring:
            ring.register_bpf([obj["tee"]])
            source, speaker = ring.world.socketpair()
            ends = [ring.world.socketpair() for _ in NAMES]
            listeners = {name: peer for name, (_, peer) in zip(NAMES, ends, strict=True)}
            fds = [fd for fd, _ in ends] + [0] * (SINKS_MAX - len(ends))
            buffer = ring.user.alloc(BUFFER)
            job = struct.pack("<QiI8i", buffer.addr, source, len(ends), *fds)
            ring.get_sqe().prep_bpf(0, user_data=ring.user.alloc(job).addr)
            ring.submit()

            say(ring, speaker, b"to all of you", listeners)
            listeners.pop("bob").close()
            say(ring, speaker, b"to who is left", listeners)
            speaker.close()
            said = ring.wait_cqe()
            print(f"{said.user_data} bytes in {said.res} messages; done: res {ring.wait_cqe().res}")
            sinks = [
                cast("dict[str, Any]", obj.maps["sinks"][place]) for place in range(len(NAMES))
            ]
            for name, sink in zip(NAMES, sinks, strict=True):
                print(f"{name} took {sink['bytes']} bytes" + " and has gone" * sink["gone"])


def say(ring: Ring, speaker: Peer, message: bytes, listeners: dict[str, Peer]) -> None:
    """Send a message, and let everybody hear all of it."""
    speaker.send(message)
    for name, listener in listeners.items():
        heard = b""
        while len(heard) < len(message):
            ring.run_until_idle(1_000_000)
            heard += listener.recv(len(message)) or b""
        print(f"{name} hears {heard.decode()!r}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)
