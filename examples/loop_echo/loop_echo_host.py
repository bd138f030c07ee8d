"""An echo server inside one enter: most of its many clients say something, some much and slowly."""

from __future__ import annotations

from pathlib import Path

from pybpfvm.examples.clients import Client, attend_inside
from pybpfvm.examples.loops import attached, command
from pybpfvm.session.hostring import BackendName

SLOTS, BUFFER = 4, 1024


def client(number: int) -> Client:
    """One of ten never says a word and goes, another says much and is slow to read it."""
    match number % 10:
        case 7:
            return Client(b"", silent_turns=3)
        case 3:
            return Client(b"%04d" % (number % 10000) * 1500, pace=900)
        case _:
            return Client(b"hello, I am %d" % number)


def main(backend: BackendName, abi: str, clients: int = 40, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    with attached(Path(__file__).parent, "server", backend, abi, engine) as (ring, variables):
        variables["listener"] = listener = ring.world.listen(4096)
        variables["buffers"] = ring.user.alloc(SLOTS * BUFFER).addr
        variables["clients"] = clients

        people = [client(number) for number in range(clients)]
        with attend_inside(ring, listener, people, at_once=2 * SLOTS):
            ring.enter()
        heard = sum(one.got == one.says and one.ended for one in people if one.says)
        said = sum(len(one.says) for one in people)
        print(f"{variables['served']} clients were served, error {variables['error']}")
        print(f"{heard} heard what they said; bytes are right: {variables['echoed'] == said}")


if __name__ == "__main__":
    command(main, __doc__, clients=40)
