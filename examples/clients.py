"""Clients of the servers among the examples: real ones on the kernel's loopback, simulated ones on
the simulated ring. They all live in the host's thread, and take turns with the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from pybpfvm.session import Ring
from pybpfvm.uring_backend.base import Peer

_AT_ONCE = 64  # that connect in one turn: fewer than a listener's backlog
_TURN_NS = 50_000
_PATIENCE_S = 60.0


class Client:
    """Says its piece, reads until it has `wanted` bytes or the end, and closes.

    `pace` is how much it reads in a turn. `silent_turns` is for those that say and read nothing,
    and go away after so many turns.
    """

    def __init__(
        self, says: bytes, wanted: int = 0, *, pace: int = 65536, silent_turns: int = 0
    ) -> None:
        self.says, self.wanted, self.pace = says, wanted, pace
        self.silent_turns = silent_turns
        self.got = b""
        self.ended = False
        self._peer: Peer | None = None
        self._sent = 0

    def connect(self, ring: Ring, listener: int) -> None:
        """Be there."""
        self._peer = ring.world.connect(listener)

    def turn(self) -> bool:
        """Do what can be done now; whether that was all."""
        peer = self._peer
        assert peer is not None
        if self.silent_turns:
            self.silent_turns -= 1
            done = not self.silent_turns
        else:
            if self._sent < len(self.says):
                self._sent += peer.send(self.says[self._sent :])
                if self._sent == len(self.says) and not self.wanted:
                    peer.shutdown()
            data = peer.recv(self.pace)
            self.ended = data == b""
            self.got += data or b""
            done = self.ended or bool(self.wanted and len(self.got) >= self.wanted)
        if done:
            peer.close()
        return done


def attend(
    ring: Ring,
    listener: int,
    clients: Iterable[Client],
    *,
    at_once: int,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Let all clients come and go, at most `at_once` at a time; `between` is called each turn.

    Raises TimeoutError when nobody has gone for a minute.
    """
    coming, active = iter(clients), list[Client]()
    last = time.monotonic()
    more = True
    while more or active:
        for _ in range(min(_AT_ONCE, at_once - len(active))):
            client = next(coming, None)
            more = client is not None
            if client is None:
                break
            client.connect(ring, listener)
            active.append(client)
        ring.run_until_idle(_TURN_NS)
        between()
        staying = [client for client in active if not client.turn()]
        if len(staying) < len(active):
            last = time.monotonic()
        elif time.monotonic() - last > _PATIENCE_S:
            raise TimeoutError(f"{len(active)} clients wait for the server")
        active = staying
