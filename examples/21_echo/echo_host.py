"""An echo server with many clients: quick ones, slow readers, and some that never say a word."""

from __future__ import annotations

import argparse
import struct
from pathlib import Path
from typing import Any, cast

from pybpfvm.examples.clients import Client, attend
from pybpfvm.session import Machine, Ring
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
SLOTS_MAX, BUFFER = 1024, 1024


def client(number: int) -> Client:
    """One of three kinds."""
    match number % 10:
        case 7:
            return Client(b"", silent_turns=3)
        case 3:
            return Client(b"%04d" % (number % 10000) * 1500, pace=900)
        case _:
            return Client(b"hello, I am %d" % number)


def main(
    backend: BackendName, version: str, clients: int = 40, slots: int = 16, engine: str = "auto"
) -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            8, [2048], backend=backend, abi=obj.profile, machine=machine, engine=engine
        ) as ring:
            ring.register_bpf([obj["echo"]])
            listener = ring.world.listen(4096)  # who waits for a slot waits here
            buffers = ring.user.alloc(SLOTS_MAX * BUFFER)
            job = struct.pack("<QiIQ", buffers.addr, listener, slots, clients)
            ring.get_sqe().prep_bpf(0, user_data=ring.user.alloc(job).addr)
            ring.submit()

            people = [client(number) for number in range(clients)]
            attend(ring, listener, people, at_once=slots + min(slots, 64))
            served = ring.wait_cqe()
            state = cast("dict[str, Any]", obj.maps["state"][0])
            heard = sum(one.got == one.says and one.ended for one in people if one.says)
            said = sum(len(one.says) for one in people)
            print(f"{served.user_data} clients were served, error {served.res}")
            print(f"{heard} heard what they said; bytes are right: {state['bytes'] == said}")
            print(f"never more than {slots} at a time: {state['most'] <= slots}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--slots", type=int, default=16, help="served at a time")
    args = parser.parse_args()
    main(args.backend, args.version, args.clients, args.slots)
