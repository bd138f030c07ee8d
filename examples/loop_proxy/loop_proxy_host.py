"""A proxy inside one enter, between two ends that say much to each other, one of them slow."""

from __future__ import annotations

import random
from pathlib import Path

from pybpfvm.examples.clients import Client
from pybpfvm.examples.loops import attached, command
from pybpfvm.session.hostring import BackendName

BUFFER, TURN_NS = 1024, 50_000
QUESTION, ANSWER = random.Random(23).randbytes(70_001), random.Random(24).randbytes(200_003)


def main(backend: BackendName, abi: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    with attached(Path(__file__).parent, "proxy", backend, abi, engine) as (ring, variables):
        left, ann = ring.world.socketpair()
        right, bob = ring.world.socketpair()
        variables["sockets"] = [left, right]
        variables["buffers"] = ring.user.alloc(2 * BUFFER).addr
        ends = Client(QUESTION, pace=3000), Client(ANSWER)
        for end, peer in zip(ends, (ann, bob), strict=True):
            end.meet(peer)
        talking = list(ends)

        def turn() -> None:
            talking[:] = [end for end in talking if not end.turn()]
            if talking:
                ring.at(TURN_NS, turn)

        ring.at(0, turn)
        ring.enter()
        while talking:  # of what is still to be read
            ring.run_until_idle(TURN_NS)
        carried = [one["carried"] for one in variables["directions"]]
        print(f"carried {carried[0]} bytes there and {carried[1]} back")
        print(f"they are alike: {(ends[1].got, ends[0].got) == (QUESTION, ANSWER)}")


if __name__ == "__main__":
    command(main, __doc__)
