"""Three are asked: two answers are enough, at the deadline one is, and a late one is not lost."""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

from pybpfvm.session import Machine, Ring, timespec
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
SOCKETS_MAX, ANSWER = 8, 32
NAMES = ("ann", "bob", "cy")
MINUTE_NS, SOON_NS = 60_000_000_000, 30_000_000


def main(backend: BackendName, version: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            8, [32], backend=backend, abi=obj.profile, machine=machine, engine=engine
        ) as ring:
            ring.register_bpf([obj["gather"]])
            ends = [ring.world.socketpair() for _ in NAMES]
            fds = [fd for fd, _ in ends]
            ann, bob, cy = (peer for _, peer in ends)

            cy.send(b"yes")
            ann.send(b"no")
            print(f"two are enough: {gather(ring, fds, 2, MINUTE_NS)}")
            bob.send(b"perhaps")
            begun = ring.now_ns()
            print(f"at the deadline: {gather(ring, fds, 2, SOON_NS)}")
            print(f"it was waited for: {ring.now_ns() - begun >= SOON_NS}")
            cy.send(b"no, after all")
            print(f"too late for that, heard by the next: {gather(ring, fds, 1, MINUTE_NS)}")


def gather(ring: Ring, fds: list[int], wanted: int, deadline_ns: int) -> str:
    """Ask them all; who said what in time."""
    answers = ring.user.alloc(SOCKETS_MAX * ANSWER)
    sockets = fds + [0] * (SOCKETS_MAX - len(fds))
    request = struct.pack("<QII8iII", answers.addr, len(fds), wanted, *sockets, 0, 0)
    job = ring.user.alloc(timespec(deadline_ns) + request)
    ring.get_sqe().prep_bpf(0, user_data=job.addr)
    ring.submit()
    ring.wait_cqe()
    got, mask = job.u32(offset=64), job.u32(offset=68)
    said = {
        name: answers.read(ANSWER, place * ANSWER).rstrip(b"\0").decode()
        for place, name in enumerate(NAMES)
        if mask & 1 << place
    }
    return f"{got} of {wanted}, " + ", ".join(f"{name}: {text!r}" for name, text in said.items())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)
