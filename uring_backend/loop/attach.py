"""How a map of callbacks gets onto a ring, and off again. abi/iouring-bpf-upstream, 1.4 and 1.5."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pybpfvm.errors import RingError
from pybpfvm.uring_backend import abi

if TYPE_CHECKING:
    from pybpfvm.uring_backend.loop.operations import Performed
    from pybpfvm.uring_backend.loop.ring import LoopRing


class Stepper(Protocol):
    """Runs a callback of a ring."""

    def step(self) -> int:
        """r0 of a run on the ring and its parameters; of the last one, where the ring's `native`
        loop makes some of them."""

    def call(self, *args: int) -> int:
        """r0 of a run with these arguments."""


@dataclass(slots=True)
class OpsMap:
    """A map of callbacks: the ring that it was put on last, and how many links keep it."""

    bound: LoopRing | None = None
    links: int = 0


@dataclass(slots=True)
class OpsValue:
    """A map of callbacks, loaded: its program, and the ring it was made for.

    `priv`: the kernel's own member, which nobody else may set. `calls` are the other members that
    are programs, by name. `number`: which of the ring's operations it is; `in_flight` requests
    are performed by it.
    """

    step: Stepper | None
    ring_fd: int
    priv: int = 0
    map: OpsMap = field(default_factory=OpsMap)
    calls: Mapping[str, Stepper] = field(default_factory=dict)
    number: int = 0
    in_flight: int = 0


class RingTable:
    """Descriptors of rings, and of other files, in one process. `operations` are programs that
    perform requests of every ring, by id, `requests` those that are performed, by their data."""

    def __init__(self) -> None:
        self._rings: dict[int, LoopRing | None] = {}
        self._next = 3
        self.operations: dict[int, OpsValue] = {}
        self.requests: dict[int, Performed] = {}

    def add(self, ring: LoopRing | None) -> int:
        """A descriptor for a ring, or (None) for a file that is no ring."""
        fd = self._next
        self._next += 1
        self._rings[fd] = ring
        return fd

    def close(self, fd: int) -> None:
        """Forget a descriptor."""
        self._rings.pop(fd, None)

    def ring(self, fd: int) -> LoopRing | None:
        """The ring behind a descriptor, None if it is none."""
        return self._rings.get(fd)

    def attach(self, value: OpsValue) -> Link:
        """BPF_LINK_CREATE of a struct_ops map: the checks of the register hook, in its order.

        Raises RingError.
        """
        if value.priv:
            raise RingError(errno.EINVAL, "the kernel's own member is set, and must be zero")
        if value.ring_fd not in self._rings:
            raise RingError(errno.EBADF, f"{value.ring_fd} is no open descriptor")
        ring = self._rings[value.ring_fd]
        if ring is None:
            raise RingError(errno.EOPNOTSUPP, f"descriptor {value.ring_fd} is no io_uring")
        flags = ring.setup.flags
        rules = ring.rules
        if rules.deferred and flags & (abi.SETUP_SQPOLL | abi.SETUP_IOPOLL):
            raise RingError(errno.EOPNOTSUPP, "a ring with SQPOLL or IOPOLL takes no callbacks")
        if rules.deferred and not flags & abi.SETUP_DEFER_TASKRUN:
            raise RingError(errno.EOPNOTSUPP, "the ring was made without DEFER_TASKRUN")
        if ring.attached is not None:
            raise RingError(errno.EBUSY, "the ring has callbacks already")
        if value.map.bound is not None and not rules.rebinds:
            raise RingError(errno.EBUSY, "these callbacks are on another ring")
        if value.step is None and (not rules.gate or rules.gate not in value.calls):
            wanted = " and ".join(filter(None, (rules.callback or "the program", rules.gate)))
            raise RingError(errno.EINVAL, f"{wanted} is not set")
        ring.take_callbacks(value)
        value.map.bound = ring
        value.map.links += 1
        return Link(value)


class Link:
    """Keeps callbacks on a ring; a context manager. It does not keep the ring alive."""

    def __init__(self, value: OpsValue) -> None:
        self._value: OpsValue | None = value

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()

    def destroy(self) -> None:
        """Take the callbacks off the ring, which is an ordinary one from then on; twice is fine.
        Operations wait until no request is performed by them: RingHang when that never comes."""
        value = self._value
        if value is not None:
            release(value.map)
            value.map.links -= 1
            self._value = None


def release(ops: OpsMap) -> None:
    """Unbind callbacks and ring, whichever goes first."""
    if ops.bound is not None:
        ops.bound.lose_callbacks(ops)
        ops.bound = None
