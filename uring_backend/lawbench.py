"""What a law of the contract works with: a fresh backend, user memory, short ways to use them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, Protocol

from pybpfvm.errors import errno_name
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.uring_backend.abi import NOP_INJECT_RESULT, TIMESPEC, Op, Sqe
from pybpfvm.uring_backend.base import EXTERNAL, Backend, Completion, Event

PATIENCE_NS: Final = 2_000_000_000  # for what must happen
QUIET_NS: Final = 20_000_000  # for what must not
_U32: Final = 1 << 32


class MakeBackend(Protocol):
    """Makes a backend over a memory, with these set-up flags."""

    def __call__(self, memory: AddressSpace, *, flags: int = 0) -> Backend: ...


class Broken(AssertionError):
    """A backend broke a law."""


class Bench:
    """A backend under test, a block of user memory, and short ways to use both."""

    def __init__(self, backend: Backend, memory: AddressSpace, make: MakeBackend) -> None:
        self.backend = backend
        self._make = make
        self._others: list[Bench] = []
        self.memory = memory
        self.world = backend.world
        self.block = memory.alloc(1 << 16, RegionKind.USER, "contract").start
        self._strings = self.block + (1 << 15)

    def another(self, flags: int = 0) -> Bench:
        """A second backend of the same kind over the same memory, made with set-up `flags`; closed
        with this bench."""
        bench = Bench(self._make(self.memory, flags=flags), self.memory, self._make)
        self._others.append(bench)
        return bench

    def close(self) -> None:
        """Close the backends, twice, which is fine."""
        for bench in (self, *self._others):
            bench.backend.close()
            bench.backend.close()

    def submit(self, *sqes: Sqe) -> int:
        """Issue SQEs in one batch."""
        return self.backend.submit([sqe.pack() for sqe in sqes])

    def collect(self, count: int) -> list[Event]:
        """Wait for `count` events; Broken if more or fewer come."""
        events = self.backend.poll()
        while len(events) < count and self.backend.wait(PATIENCE_NS):
            events += self.backend.poll()
        expect("number of events", len(events), count, events)
        return events

    def run(self, *sqes: Sqe) -> list[tuple[int, int]]:
        """Issue SQEs, all of which post one CQE: (token, res) in order."""
        expect("consumed", self.submit(*sqes), len(sqes))
        return self.results(len(sqes))

    def results(self, count: int) -> list[tuple[int, int]]:
        """The next `count` completions as (token, res)."""
        return [completed(event) for event in self.collect(count)]

    def result(self, sqe: Sqe) -> int:
        """The result of one request."""
        return self.run(sqe)[0][1]

    def quiet(self) -> None:
        """Broken if anything happens within a while."""
        happened = self.backend.wait(QUIET_NS)
        expect("event that must not come", self.backend.poll() if happened else [], [])

    def put(self, data: bytes, offset: int = 0) -> int:
        """Store data in the block: its address."""
        self.memory.user_write(self.block + offset, data)
        return self.block + offset

    def get(self, size: int, offset: int = 0) -> bytes:
        """Bytes of the block."""
        return self.memory.user_read(self.block + offset, size)

    def path(self, name: str, slot: int = 0) -> int:
        """Address of the path of the file `name`; up to four at a time (`slot`)."""
        return self.put(self.world.path(name) + b"\0", (1 << 15) + slot * 4096)

    def timespec(self, time_ns: int, slot: int = 0) -> int:
        """Address of a timespec; up to sixteen at a time (`slot`)."""
        return self.put(TIMESPEC.pack(*divmod(time_ns, 1_000_000_000)), (1 << 14) + slot * 16)

    def timeout(
        self, token: int, time_ns: int, *, count: int = 0, flags: int = 0, on: int = 0
    ) -> Sqe:
        """A TIMEOUT; `on` are SQE flags, `flags` timeout flags."""
        return Sqe(
            Op.TIMEOUT,
            on,
            addr=self.timespec(time_ns, token),
            len=1,
            off=count,
            op_flags=flags,
            user_data=token,
        )

    def guard(self, token: int, time_ns: int, on: int = 0) -> Sqe:
        """A LINK_TIMEOUT."""
        addr = self.timespec(time_ns, token)
        return Sqe(Op.LINK_TIMEOUT, on, addr=addr, len=1, user_data=token)


def res_of(event: Event) -> int:
    """The result of a completion; Broken for an external request's start."""
    if not isinstance(event, Completion):
        raise Broken(f"{event} instead of a completion")
    return event.res


def completed(event: Event) -> tuple[int, int]:
    """(token, result) of a completion; Broken for anything else."""
    res = res_of(event)
    assert isinstance(event, Completion)
    return event.token, res


def expect(what: str, actual: object, wanted: object, detail: object = "") -> None:
    """Broken unless both are equal."""
    if actual != wanted:
        raise Broken(f"{what}: {actual!r} instead of {wanted!r} {detail}".rstrip())


def expect_errno(what: str, actual: int, number: int) -> None:
    """Broken unless `actual` is -`number`."""
    if actual != -number:
        raise Broken(f"{what}: {actual} instead of -{errno_name(number)}")


def nop(token: int, flags: int = 0, *, fails: bool = False) -> Sqe:
    """A NOP, with result -EIO if it `fails`."""
    if not fails:
        return Sqe(Op.NOP, flags, user_data=token)
    injected = _U32 - errno.EIO
    return Sqe(Op.NOP, flags, len=injected, op_flags=NOP_INJECT_RESULT, user_data=token)


def bad(token: int, flags: int = 0) -> Sqe:
    """An SQE that is refused when it is read: -EINVAL."""
    return Sqe(Op.NOP, flags, ioprio=1, user_data=token)


def external(token: int, flags: int = 0) -> Sqe:
    """An external request."""
    return Sqe(EXTERNAL, flags, user_data=token)


Law = Callable[[Bench], None]
"""Raises Broken where a backend does something else than mainline io_uring."""
