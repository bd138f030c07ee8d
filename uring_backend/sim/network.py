"""The virtual network between AF_INET sockets: how long what is sent takes, and what is lost.

A link is named by a port: that of a listener or of one client. Both directions of a connection
have the conditions of the client's port if those were set, else of the server's, else the
network's own. Without conditions everything arrives in the moment it is sent, as on loopback.

    arrival = end of transmission (size / bandwidth, one piece after the other) + latency + jitter

A stream keeps its order and loses nothing: a lost piece is sent again after a timeout that
doubles each time (RFC 6298, section 5), and what a partition holds back leaves when it is healed.
A datagram that is lost, or meets a partition, is gone. Draws come from the seed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from typing import Final, Protocol

from pybpfvm.uring_backend.conditions import Conditions
from pybpfvm.uring_backend.sim.clock import NS_PER_S, Clock

RETRANSMIT_NS: Final = 200_000_000  # the least retransmission timeout of Linux
CONNECT_LIMIT_NS: Final = 127 * NS_PER_S  # a SYN and six more of them, net.ipv4.tcp_syn_retries
_MAX_DOUBLINGS: Final = 9


_LOOPBACK: Final = Conditions()


class Resettable(Protocol):
    """An end of a connection that the network can break."""

    port: int
    peer_port: int

    def abort(self) -> None:
        """The connection is reset."""


class Path:
    """One direction of the link between a client's and a server's port."""

    def __init__(self, network: Network, ports: tuple[int, int], *, ordered: bool) -> None:
        self._network = network
        self.ports = ports
        self._ordered = ordered
        self._free_ns = 0  # when the link has sent what it was given
        self._arrived_ns = 0  # of the piece that was sent last
        self._in_flight = 0
        self._held: deque[tuple[int, Callable[[], None]]] = deque()  # by a partition

    def carry(self, size: int, arrive: Callable[[], None]) -> None:
        """Send `size` bytes: `arrive` is called when they are there, at once on loopback."""
        conditions = self._network.between(self.ports)
        if self._held or (conditions.partitioned and self._ordered):
            self._held.append((size, arrive))
            return
        if conditions.partitioned:
            return
        delay = self._delay_ns(size, conditions)
        if delay is None:
            return
        clock = self._network.clock
        due = clock.now_ns + delay
        if self._ordered:
            due = self._arrived_ns = max(due, self._arrived_ns)
        if due <= clock.now_ns and not (self._ordered and self._in_flight):
            arrive()
            return
        self._in_flight += 1

        def arrived() -> None:
            self._in_flight -= 1
            arrive()

        clock.at(due, arrived)

    def _delay_ns(self, size: int, conditions: Conditions) -> int | None:
        """How long a piece is under way; None: it is lost."""
        if conditions == _LOOPBACK:
            return 0
        random, now = self._network.random, self._network.clock.now_ns
        delay = 0
        if conditions.loss:
            lost = 0
            while random.random() < conditions.loss:
                if not self._ordered:
                    return None
                delay += RETRANSMIT_NS << min(lost, _MAX_DOUBLINGS)
                lost += 1
        if conditions.bandwidth:
            start = max(now, self._free_ns)
            self._free_ns = start + size * NS_PER_S // conditions.bandwidth
            delay += self._free_ns - now
        jitter = random.randint(0, conditions.jitter_ns) if conditions.jitter_ns else 0
        return delay + conditions.latency_ns + jitter

    def release(self) -> None:
        """A partition may have been healed: send what it held back."""
        if self._held and not self._network.between(self.ports).partitioned:
            held, self._held = self._held, deque()
            for size, arrive in held:
                self.carry(size, arrive)

    def forget(self) -> None:
        """Nobody is left to send, or to receive what is held back."""
        self._held.clear()


class Network:
    """Conditions by port, and the connections they hold for."""

    def __init__(self, clock: Clock, seed: int) -> None:
        self.clock = clock
        self.random = Random(seed ^ 0x6E657477)
        self._default = _LOOPBACK
        self._by_port: dict[int, Conditions] = {}
        self._paths: dict[Path, None] = {}
        self._ends: dict[Resettable, None] = {}

    def between(self, ports: tuple[int, int]) -> Conditions:
        """The conditions between a client's and a server's port."""
        if not self._by_port:
            return self._default
        client, server = ports
        return self._by_port.get(client) or self._by_port.get(server) or self._default

    def set(self, conditions: Conditions, port: int | None = None) -> None:
        """From now on; None: for all links that have no conditions of their own."""
        if port is None:
            self._default = conditions
        else:
            self._by_port[port] = conditions
        self._release()

    def conditions(self, port: int | None = None) -> Conditions:
        """What was set for a port, or for all links."""
        return self._default if port is None else self._by_port.get(port, self._default)

    def partition(self, port: int | None = None) -> None:
        """Cut the link of a port, or all: nothing arrives before `heal`, datagrams never."""
        if port is None:
            self._set_all(partitioned=True)
        else:
            self.set(replace(self.conditions(port), partitioned=True), port)

    def heal(self, port: int | None = None) -> None:
        """End a partition."""
        if port is None:
            self._set_all(partitioned=False)
        else:
            self.set(replace(self.conditions(port), partitioned=False), port)

    def _set_all(self, *, partitioned: bool) -> None:
        self._default = replace(self._default, partitioned=partitioned)
        for port, conditions in self._by_port.items():
            self._by_port[port] = replace(conditions, partitioned=partitioned)
        self._release()

    def reset(self, port: int | None = None) -> None:
        """Break the connections of a port, or all: both ends see -ECONNRESET."""
        for end in list(self._ends):
            if end in self._ends and (port is None or port in (end.port, end.peer_port)):
                end.abort()

    def path(self, ports: tuple[int, int], *, ordered: bool) -> Path:
        """A direction to send in; `drop` it when it is no more used."""
        path = Path(self, ports, ordered=ordered)
        if ordered:
            self._paths[path] = None
        return path

    def drop(self, paths: Iterable[Path]) -> None:
        """These are over."""
        for path in paths:
            path.forget()
            self._paths.pop(path, None)

    def join(self, end: Resettable) -> None:
        """An end of a connection that `reset` breaks."""
        self._ends[end] = None

    def leave(self, end: Resettable) -> None:
        """It is no connection any more."""
        self._ends.pop(end, None)

    def _release(self) -> None:
        for path in list(self._paths):
            path.release()
