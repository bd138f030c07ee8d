"""What is registered with a ring with a loop, and leaves it: callbacks, memory, filters, sizes."""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from dataclasses import replace

from pybpfvm.bits import s32
from pybpfvm.errors import InputError, RingError
from pybpfvm.interrupts import uninterrupted
from pybpfvm.memory import Region
from pybpfvm.profiles.base import Region as RingRegion
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Register
from pybpfvm.uring_backend.base import Wake
from pybpfvm.uring_backend.filtering import RequestFilter
from pybpfvm.uring_backend.loop.attach import OpsMap, OpsValue
from pybpfvm.uring_backend.loop.entering import Entering
from pybpfvm.uring_backend.loop.setup import check_setup
from pybpfvm.uring_backend.restrictions import Row


class Registering(Entering):
    """A ring that things are registered with."""

    def register_restrictions(self, rows: Sequence[Row]) -> None:
        """IORING_REGISTER_RESTRICTIONS (see restrictions). Raises RingError."""
        self._check_open()
        self.restrictions.command(Register.RESTRICTIONS)
        self.restrictions.register(rows)

    def enable(self) -> None:
        """IORING_REGISTER_ENABLE_RINGS: the caller becomes the submitter."""
        self._check_open()
        self.restrictions.enable()
        self._submitter = threading.get_ident()

    @uninterrupted
    def resize(self, entries: int, cq_entries: int = 0, *, clamp: bool = False) -> None:
        """IORING_REGISTER_RESIZE_RINGS: other sizes, at other addresses; `cq_entries` 0: twice as
        many. RingError EINVAL without DEFER_TASKRUN, EEXIST from another thread than the
        submitter's, EOVERFLOW for less than what is in a queue."""
        self._check_open()
        self.restrictions.command(Register.RESIZE_RINGS)
        if self._inside:
            raise InputError("the ring is inside an enter", remedy="call it afterwards")
        single = self.setup.flags & abi.SETUP_SINGLE_ISSUER and not self.restrictions.disabled
        if single and threading.get_ident() != self._submitter:
            raise RingError(errno.EEXIST, "only the thread that made the ring may resize it")
        if not self.setup.defers:
            raise RingError(errno.EINVAL, "only rings with DEFER_TASKRUN can be resized")
        size_flags = abi.SETUP_CQSIZE | abi.SETUP_CLAMP
        flags = self.setup.flags & ~size_flags
        asked = (abi.SETUP_CQSIZE if cq_entries else 0) | (abi.SETUP_CLAMP if clamp else 0)
        setup = check_setup(entries, flags | asked, cq_entries)
        setup = replace(setup, flags=self.setup.flags)
        self.queues.resize(setup)
        self.queues.show(abi.SQ_NEED_WAKEUP | abi.SQ_TASKRUN, on=True)  # "look", whatever it was
        self.setup = self.requests.setup = setup
        if self._shown is not None:
            self._shown.fill(self.setup, self._clock)

    def take_callbacks(self, value: OpsValue) -> None:
        """A map of callbacks gets onto this ring. RingError as what they are for says."""
        if self.operations is not None:
            self.operations.put(value)
            return
        if self.rules.gate in value.calls:
            self.backend.gate_polls(self._lets_through)
        self.attached = value

    def lose_callbacks(self, ops: OpsMap) -> None:
        """The callbacks leave the ring; operations when no request is performed by them."""
        if self.operations is not None:
            self._unregister(ops)
        elif self.attached is not None and self.attached.map is ops:
            if self.rules.gate in self.attached.calls:
                self.backend.gate_polls(None)
            self.attached = None
            self.look_up()

    def _unregister(self, ops: OpsMap) -> None:
        assert self.operations is not None
        value = self.operations.of_map(ops)
        if self._closed:
            value.step, value.calls = None, {}
        else:
            name = f"the program of operation {value.number} is asked to leave"
            self._wait_for(lambda: not value.in_flight, None, name)
        self.operations.remove(value)

    def _lets_through(self, wake: Wake) -> bool:
        """Whether the program of the gate lets a wake count."""
        value = self.attached
        if value is None or self.rules.gate not in value.calls:
            return True
        self._event.wake = wake
        try:
            return s32(value.calls[self.rules.gate].call(self._event_handle)) == 0
        finally:
            self._event.wake = None

    def register_clock(self, clock: int) -> None:
        """IORING_REGISTER_CLOCK, which the backend has taken: programs see it."""
        self._clock = clock
        if self._shown is not None:
            self._shown.fill(self.setup, self._clock)

    def register_eventfd(self, fd: int) -> None:
        """IORING_REGISTER_EVENTFD: an eventfd of the world counts CQEs from now on. Raises
        RingError EBUSY; InputError for another descriptor."""
        self._check_open()
        self.restrictions.command(Register.EVENTFD)
        if self.posts.signal is not None:
            raise RingError(errno.EBUSY, "an eventfd is already registered")
        world = self.backend.world
        world.signal(fd, 0)
        self.posts.signal = lambda count: world.signal(fd, count)
        self.look_up()

    def unregister_eventfd(self) -> None:
        """IORING_UNREGISTER_EVENTFD. Raises RingError ENXIO."""
        self._check_open()
        self.restrictions.command(Register.UNREGISTER_EVENTFD)
        if self.posts.signal is None:
            raise RingError(errno.ENXIO, "no eventfd is registered")
        self.posts.signal = None

    def register_mem(self, region: Region) -> None:
        """IORING_REGISTER_MEM_REGION with memory of the host's."""
        self._check_open()
        self.restrictions.command(Register.MEM_REGION)
        if self.queues.region(RingRegion.MEM) is not None:
            raise RingError(errno.EBUSY, "a memory region is registered")
        self.queues.set_mem(region)
        if self.native is not None:
            self.native.show_regions()

    def put_filter(self, filter_: RequestFilter) -> None:
        """Requests pass this filter from now on."""
        self._check_open()
        self.requests.gate.put(filter_)
        if self.native is not None:
            self.native.look_up()
