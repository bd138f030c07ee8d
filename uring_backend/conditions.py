"""What a simulated network is like, and how a host changes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pybpfvm.errors import InputError


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a link is like. `bandwidth` in bytes a second, 0: without bounds; `loss` is the
    probability that a piece is lost."""

    latency_ns: int = 0
    jitter_ns: int = 0
    bandwidth: int = 0
    loss: float = 0.0
    partitioned: bool = False

    def __post_init__(self) -> None:
        if self.latency_ns < 0 or self.jitter_ns < 0 or self.bandwidth < 0:
            raise InputError("latency, jitter and bandwidth of a link are not negative")
        if not 0.0 <= self.loss < 1.0:
            raise InputError(
                f"a loss of {self.loss}", remedy="give a probability below 1; or use a partition"
            )


class VirtualNetwork(Protocol):
    """The network between AF_INET sockets. A link is named by the port of a listener, of a bound
    UDP socket, or of one client (`port_of` an address); None stands for all links."""

    def set(self, conditions: Conditions, port: int | None = None) -> None:
        """From now on; None: for all links that have no conditions of their own."""

    def conditions(self, port: int | None = None) -> Conditions:
        """What was set for a port, or for all links."""

    def partition(self, port: int | None = None) -> None:
        """Cut the link: nothing arrives before `heal`, datagrams never."""

    def heal(self, port: int | None = None) -> None:
        """End a partition."""

    def reset(self, port: int | None = None) -> None:
        """Break the connections: both ends see -ECONNRESET."""


def port_of(address: bytes) -> int:
    """The port in a sockaddr_in."""
    return int.from_bytes(address[2:4], "big")
