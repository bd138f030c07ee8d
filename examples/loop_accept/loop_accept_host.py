"""An accept loop inside one enter that many clients come to, some of which are gone at once."""

from __future__ import annotations

from pathlib import Path

from pybpfvm.examples.clients import Client, attend_inside
from pybpfvm.examples.loops import attached, command
from pybpfvm.session.hostring import BackendName

GREETING = b"good day"


def main(backend: BackendName, abi: str, clients: int = 60, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    with attached(Path(__file__).parent, "server", backend, abi, engine) as (ring, variables):
        variables["listener"] = listener = ring.world.listen(4096)
        variables["greeting"] = ring.user.alloc(GREETING).addr
        variables["greeting_bytes"] = len(GREETING)
        variables["clients"] = clients

        hasty = [i % 10 == 7 for i in range(clients)]
        people = [Client(b"", silent_turns=int(gone)) for gone in hasty]
        with attend_inside(ring, listener, people, at_once=100):
            ring.enter()
        accepted, error = variables["accepted"], variables["error"]
        greeted = sum(client.got == GREETING and client.ended for client in people)
        print(f"{accepted} clients were served, {variables['closed']} closed, error {error}")
        print(f"greeted and let go: {greeted}; gone before: {sum(hasty)}")
        print(f"accepts submitted: {variables['armed']}")


if __name__ == "__main__":
    command(main, __doc__, clients=60)
