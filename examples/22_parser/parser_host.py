"""A protocol parser with many clients, and the user space that answers what it can not."""

from __future__ import annotations

import argparse
import struct
from pathlib import Path
from typing import Any, cast

from pybpfvm.examples.clients import Client, attend
from pybpfvm.session import Block, Machine, Ring
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
SLOTS, BUFFER = 64, 256
PING, PONG, QUESTION, ANSWER = 1, 2, 7, 8
ANSWERED = 4  # the kind of completion by which user space answers


def frame(kind: int, text: bytes) -> bytes:
    """A frame of the protocol."""
    return struct.pack("<IB", 1 + len(text), kind) + text


def client(number: int) -> Client:
    """Mostly two pings and a question; some send nothing, part of a frame, or nonsense."""
    asks = frame(PING, b"%d" % number) + frame(QUESTION, b"abc") + frame(PING, b"!")
    match number % 10:
        case 7:
            return Client(b"", silent_turns=3)
        case 3:
            return Client(asks[:5])
        case 5:
            return Client(b"\xff\xff\xff\xff\x01")
        case _:
            return Client(asks, len(asks), pace=5 if number % 2 else 4096)


class Answers:
    """User space's part: it turns questions round."""

    def __init__(self, ring: Ring, inputs: Block, outputs: Block) -> None:
        self._ring, self._inputs, self._outputs = ring, inputs, outputs
        self.given = 0
        self.ended: int | None = None

    def give(self) -> None:
        """Answer what has been asked since."""
        for cqe in self._ring.reap():
            if cqe.res <= 0:  # the server's end (negative: its listener's), then its request's
                self.ended = cqe.user_data if self.ended is None else self.ended
                continue
            slot = cqe.user_data
            asked = self._inputs.read(4 + cqe.res, slot * BUFFER)
            answer = frame(ANSWER, asked[5:][::-1])
            self._outputs.write(answer, slot * BUFFER)
            token = len(answer) << 32 | slot << 8 | ANSWERED
            self._ring.get_sqe().prep_nop(user_data=token, cq_idx=1)
            self._ring.submit()
            self.given += 1


def main(backend: BackendName, version: str, clients: int = 40, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            8, [256], backend=backend, abi=obj.profile, machine=machine, engine=engine
        ) as ring:
            ring.register_bpf([obj["parser"]])
            listener = ring.world.listen()
            inputs, outputs = (ring.user.alloc(SLOTS * BUFFER) for _ in range(2))
            job = struct.pack("<QQiI", inputs.addr, outputs.addr, listener, clients)
            ring.get_sqe().prep_bpf(0, user_data=ring.user.alloc(job).addr)
            ring.submit()

            answers = Answers(ring, inputs, outputs)
            people = [client(number) for number in range(clients)]
            attend(ring, listener, people, at_once=SLOTS, between=answers.give)
            while answers.ended is None:
                ring.run_until_idle(1_000_000)
                answers.give()
            right = sum(one.got == expected(number) for number, one in enumerate(people))
            state = cast("dict[str, Any]", obj.maps["state"][0])
            print(f"{answers.ended} clients were served, {right} got what was theirs")
            print(f"answered in the ring: {state['pings']}, by user space: {answers.given}")
            print(f"closed for nonsense: {state['violations']}")


def expected(number: int) -> bytes:
    """What client `number` should get."""
    if number % 10 in (3, 5, 7):
        return b""
    return frame(PONG, b"%d" % number) + frame(ANSWER, b"cba") + frame(PONG, b"!")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    parser.add_argument("--clients", type=int, default=40)
    args = parser.parse_args()
    main(args.backend, args.version, args.clients)
