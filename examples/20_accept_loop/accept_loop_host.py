"""An accept loop that many clients come to, some of which are gone at once."""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

from pybpfvm.examples.clients import Client, attend
from pybpfvm.session import Machine, Ring
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
GREETING = b"good day"
ACCEPTS = 4


def main(backend: BackendName, version: str, clients: int = 60, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            8, [64], backend=backend, abi=obj.profile, machine=machine, engine=engine
        ) as ring:
            ring.register_bpf([obj["server"]])
            listener = ring.world.listen()
            greeting = ring.user.alloc(GREETING.ljust(64, b"\0"))
            job = struct.pack("<QiIII", greeting.addr, listener, len(GREETING), clients, ACCEPTS)
            ring.get_sqe().prep_bpf(0, user_data=ring.user.alloc(job.ljust(24, b"\0")).addr)
            ring.submit()

            hasty = [i % 10 == 7 for i in range(clients)]
            people = [Client(b"", silent_turns=int(gone)) for gone in hasty]
            attend(ring, listener, people, at_once=100)
            served = ring.wait_cqe()
            greeted = sum(client.got == GREETING and client.ended for client in people)
            print(f"{served.user_data} clients were served, error {served.res}")
            print(f"greeted and let go: {greeted}; gone before: {sum(hasty)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    parser.add_argument("--clients", type=int, default=60)
    args = parser.parse_args()
    main(args.backend, args.version, args.clients)
