"""How a map of callbacks gets onto a ring, and off again. abi/iouring-bpf-upstream, 1.4 and 1.5."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pybpfvm.errors import RingError
from pybpfvm.uring_backend import abi

if TYPE_CHECKING:
    from pybpfvm.uring_backend.loop.ring import LoopRing, Stepper


@dataclass(slots=True)
class OpsValue:
    """A map of callbacks, loaded: its program, the ring it was made for, and where it is now.

    `priv`: the kernel's own member, which nobody else may set.
    """

    step: Stepper | None
    ring_fd: int
    priv: int = 0
    bound: LoopRing | None = None


class RingTable:
    """Descriptors of rings, and of other files, in one process."""

    def __init__(self) -> None:
        self._rings: dict[int, LoopRing | None] = {}
        self._next = 3

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
        if value.bound is not None:
            raise RingError(errno.EBUSY, "these callbacks are on another ring")
        if value.step is None:
            raise RingError(errno.EINVAL, f"{rules.callback or 'the program'} is not set")
        ring.attached, value.bound = value, ring
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
        """Take the callbacks off the ring, which is an ordinary one from then on; twice is fine."""
        value, self._value = self._value, None
        if value is not None:
            release(value)


def release(value: OpsValue) -> None:
    """Unbind callbacks and ring, whichever goes first."""
    ring, value.bound = value.bound, None
    if ring is not None:
        ring.attached = None
        ring.look_up()
