"""Clients of the servers among the examples: real ones on the kernel's loopback, simulated ones on
the simulated ring. They all live in the host's thread, and take turns with the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from pybpfvm.session import LoopRing, Ring
from pybpfvm.session.hostring import HostRing
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

    def connect(self, ring: HostRing, listener: int) -> None:
        """Be there."""
        self.meet(ring.world.connect(listener))

    def meet(self, peer: Peer) -> None:
        """Be there, at this end of a connection."""
        self._peer = peer

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


class Crowd:
    """Clients that come and go, at most `at_once` at a time."""

    def __init__(
        self, ring: HostRing, listener: int, clients: Iterable[Client], at_once: int
    ) -> None:
        self._ring, self._listener, self._at_once = ring, listener, at_once
        self._coming, self._active = iter(clients), list[Client]()
        self._last = time.monotonic()
        self.left = True  # whether somebody comes, or is there

    def come(self) -> None:
        """Let some connect."""
        more = True
        for _ in range(min(_AT_ONCE, self._at_once - len(self._active))):
            client = next(self._coming, None)
            more = client is not None
            if client is None:
                break
            client.connect(self._ring, self._listener)
            self._active.append(client)
        self.left = more or bool(self._active)

    def go(self) -> None:
        """Let all do what they can, and go when that was all.

        Raises TimeoutError when nobody has gone for a minute.
        """
        staying = [client for client in self._active if not client.turn()]
        if len(staying) < len(self._active):
            self._last = time.monotonic()
        elif staying and time.monotonic() - self._last > _PATIENCE_S:
            raise TimeoutError(f"{len(staying)} clients wait for the server")
        self._active = staying


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
    crowd = Crowd(ring, listener, clients, at_once)
    crowd.come()
    while crowd.left:
        ring.run_until_idle(_TURN_NS)
        between()
        crowd.go()
        crowd.come()


@contextmanager
def attend_inside(
    ring: LoopRing, listener: int, clients: Iterable[Client], *, at_once: int
) -> Iterator[None]:
    """The same, for the enter in this context: clients take their turns while it sleeps, and what
    they have not done when it is over, they do at the end."""
    crowd = Crowd(ring, listener, clients, at_once)

    def turn() -> None:
        crowd.go()
        crowd.come()
        if crowd.left:
            ring.at(_TURN_NS, turn)

    ring.at(0, turn)
    yield
    while crowd.left:
        ring.run_until_idle(_TURN_NS)
