"""Compiled loops while another thread registers, filters and calls, against Python's loop.

A program reads a pipe, 8 bytes at a time, until that ends; its host waits in one thread. Another
one feeds it, and whenever a read is in flight does what a host may do meanwhile: generated
sequences. What each call comes to, what the program gets and what is counted must not depend on who
runs the loop. data/loops has the programs.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from random import Random

import pytest

from pybpfvm.errors import InputError, RingError
from pybpfvm.filters.asm import assemble
from pybpfvm.filters.cbpf import Insn
from pybpfvm.filters.table import Registration
from pybpfvm.session.hostring import HostRing
from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.kernel.loop import KernelLoop
from pybpfvm.uring_backend.kernel.world import KernelWorld
from tests.support.session_ring import need_backend
from tests.uring_backend import test_ring_loop as requests
from tests.uring_backend import test_step_loop as steps

pytestmark = pytest.mark.kernel_ring

_COMPILING = ("jit", "llvm") if find_spec("llvmlite") is not None else ("jit",)
_SEEDS = range(int(os.environ.get("PYBPFVM_LOOP_SCRIPTS", "8")))
_BLOCK = b"8 bytes."
_LIMIT_S = 20.0
_PROGRAM = 7  # user_data of its request
_ALLOW, _DENY = assemble("ret #1"), assemble("ret #0")


class Side(ABC):
    """A program on `ring`, and the pipe that it reads; `told`: what its host was told."""

    def __init__(self, ring: HostRing) -> None:
        self.ring = ring
        self.told: list[object] = []
        assert isinstance(ring.world, KernelWorld)
        self.read_end, self.write_end = os.pipe()
        ring.world.adopt(self.read_end)
        self.buffer = ring.user.alloc(8)

    @property
    @abstractmethod
    def looped(self) -> int:
        """Runs that the native loop has made."""

    @abstractmethod
    def progress(self) -> tuple[int, int]:
        """(transfers that the program has seen, the result of the last)."""

    @abstractmethod
    def waits(self, transfers: int) -> bool:
        """Whether it has seen more transfers than that, and waits for the next."""

    @abstractmethod
    def serve(self) -> None:
        """Wait, in the thread that made the ring, until the program is over."""

    @abstractmethod
    def calls(self) -> Mapping[str, Callable[[], object]]:
        """What else a host may do with such a ring from another thread."""

    def stop(self) -> None:
        """End the program, if it runs yet."""
        os.close(self.write_end)

    def everything(self) -> Mapping[str, Callable[[], object]]:
        """What a host may do meanwhile, by name."""
        ring = self.ring
        return {
            "files": partial(ring.register_files, [self.read_end, -1]),
            "buffers": partial(ring.register_buffers, [self.buffer]),
            "allow reads": partial(self._filter, Op.READ, _ALLOW),
            "deny sends": partial(self._filter, Op.SEND, _DENY),
            "deny reads": partial(self._filter, Op.READ, _DENY),
            "block": self._block,
            "socket": self._socket,
            "look": self.buffer.read,
            **self.calls(),
        }

    def _filter(self, opcode: int, code: tuple[Insn, ...]) -> int:
        return self.ring.register_filter(Registration(opcode, code))

    def _block(self) -> bytes:
        block = self.ring.user.alloc(_BLOCK)
        found = block.read()
        block.free()
        return found

    def _socket(self) -> None:
        fd, peer = self.ring.world.socketpair()
        self.ring.world.close(fd)
        peer.close()


class RequestSide(Side):
    """The program is a BPF request."""

    def __init__(self, table: requests.Table) -> None:
        super().__init__(table.ring)
        self.table = table
        self._loop: KernelLoop | None = None  # a filter takes it off the ring

    @property
    def looped(self) -> int:
        return self._loop.looped if self._loop is not None else 0

    def progress(self) -> tuple[int, int]:
        runs = requests._out(self.table, 0)
        return runs - 1, requests._out(self.table, 1)

    def waits(self, transfers: int) -> bool:
        with self.table.ring.core.turns:  # no run is under way
            return self.progress()[0] > transfers

    def serve(self) -> None:
        ring = self.table.ring
        self.table.args(self.read_end, 0, Op.READ, self.buffer.addr, 1000, 0)
        ring.register_bpf([self.table.obj["transfers"]])
        ring.get_sqe().prep_bpf(0, user_data=_PROGRAM)
        ring.submit()
        self._loop = ring.core._loop
        while (cqe := ring.wait_cqe(int(_LIMIT_S * 1e9))).user_data != _PROGRAM:
            self.told.append((cqe.user_data, cqe.res))
        self.told.append((cqe.user_data, cqe.res))

    def calls(self) -> Mapping[str, Callable[[], object]]:
        ring = self.table.ring
        return {
            "no files": ring.core.unregister_files,
            "other files": partial(ring.core.update_files, 1, [self.read_end]),
            "no buffers": ring.core.unregister_buffers,
            "nop": partial(self._submit, Op.NOP),
            "cancel of nothing": partial(self._submit, Op.ASYNC_CANCEL),
            "counts": lambda: (ring.counts.posted[0], ring.ready(1), ring.cq_overflow),
        }

    def _submit(self, opcode: int) -> int:
        sqe = self.table.ring.get_sqe()
        sqe.set(opcode=opcode, user_data=100 + len(self.told))
        return self.table.ring.submit()


class StepSide(Side):
    """The program drives the ring from inside an enter."""

    def __init__(self, table: steps.Table) -> None:
        super().__init__(table.ring)
        self.table = table
        counts = table.obj.globals
        counts["fd"], counts["opcode"], counts["flags"] = self.read_end, Op.READ, 0
        counts["buffer"], counts["result"] = self.buffer.addr, 0

    @property
    def looped(self) -> int:
        return self.table.looped

    def progress(self) -> tuple[int, int]:
        result = self.table.obj.globals["result"]
        assert isinstance(result, int)
        return self.table.number("reaped"), result

    def waits(self, transfers: int) -> bool:
        return self.progress()[0] > transfers and self.table.ring.core.in_flight() == 1

    def serve(self) -> None:
        try:
            self.told.append(self.table.ring.enter())
        except RingError as error:
            self.told.append(-error.errno)

    def calls(self) -> Mapping[str, Callable[[], object]]:
        ring = self.table.ring
        return {
            "memory": lambda: ring.register_mem(4096) is None,
            "counts": lambda: (ring.cq_overflow, ring.core.attached is None),
            "enter": ring.enter,
        }

    def stop(self) -> None:
        """It does not stop at the pipe's end."""
        self.table.ring.core.signal()
        super().stop()


@contextmanager
def side_of(kind: str, engine: str) -> Iterator[Side]:
    """A ring with its program, for one sequence."""
    if kind == "request":
        with requests.looping("v3", engine=engine) as table:
            table.obj.maps["args"][5] = 0
            yield RequestSide(table)
    else:
        with steps.looping("transfers", mem=False, engine=engine, abi=kind) as step:
            yield StepSide(step)


def played(kind: str, engine: str, seed: int) -> tuple[list[object], int]:
    """(what both threads saw, runs of the native loop) of a generated sequence."""
    random = Random(seed)
    with side_of(kind, engine) as side:
        seen: list[object] = []
        over = threading.Event()

        def feed() -> None:
            """Until the program is over."""
            limit = time.monotonic() + _LIMIT_S
            everything = side.everything()
            try:
                for done in range(12):
                    os.write(side.write_end, _BLOCK)
                    if ("deny reads", 0) in seen:
                        over.wait(_LIMIT_S)  # the one in flight was its last
                        break
                    while not over.wait(0.001) and time.monotonic() < limit:
                        if side.waits(done):
                            break
                    seen.append((side.progress(), side.buffer.read()))
                    for name in random.sample(sorted(everything), random.choice([0, 1, 1, 3])):
                        seen.append((name, _outcome(everything[name])))
            finally:
                side.stop()

        feeder = threading.Thread(target=feed)
        feeder.start()
        try:
            side.serve()
        finally:
            over.set()
            feeder.join()
        counts = side.ring.counts
        last = side.progress(), dict(counts.posted), side.ring.backend.in_flight()
        return [*seen, side.told, last], side.looped


def _outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except RingError as error:
        return errno.errorcode[error.errno]
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("seed", _SEEDS)
@pytest.mark.parametrize("kind", ["request", *steps.RELEASES])
def test_what_other_threads_do_meanwhile(kind: str, seed: int) -> None:
    need_backend("kernel")
    ordinary, none = played(kind, "interp", seed)
    assert none == 0
    for engine in _COMPILING:
        looped, runs = played(kind, engine, seed)
        assert looped == ordinary, engine
        assert runs > 0, engine
