"""A HelperContext without an engine: clock, random numbers, ring and callbacks are plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pybpfvm.bits import U64
from pybpfvm.helpers.context import BadArgument, LoopPort, RingPort
from pybpfvm.helpers.proto import HelperImpl
from pybpfvm.helpers.table import HELPERS
from pybpfvm.maps import make_map
from pybpfvm.maps.base import BpfMap
from pybpfvm.maps.live import LiveMap
from pybpfvm.memory import AddressSpace, Region, RegionKind
from pybpfvm.program import MapSpec, MapType

Callback = Callable[..., int]


class FakeRing:
    """A RingPort that records what it is asked and answers what it is told to."""

    def __init__(self, answer: int | bytes = 0) -> None:
        self.answer = answer
        self.asked: list[tuple[object, ...]] = []

    def bpf_submit(self, sqe: bytes) -> int:
        """The answer."""
        self.asked.append(("submit", sqe))
        assert isinstance(self.answer, int)
        return self.answer

    def bpf_emit(self, cq_idx: int, user_data: int, res: int, flags: int) -> int:
        """The answer."""
        self.asked.append(("emit", cq_idx, user_data, res, flags))
        assert isinstance(self.answer, int)
        return self.answer

    def bpf_reap(self, cq_idx: int) -> bytes | int:
        """The answer."""
        self.asked.append(("reap", cq_idx))
        return self.answer

    def bpf_requeue(self, source: int, target: int, most: int) -> int:
        """The answer."""
        self.asked.append(("requeue", source, target, most))
        assert isinstance(self.answer, int)
        return self.answer


class FakeContext:
    """A program's surroundings, with one scratch region and one block of user memory."""

    def __init__(self, *, ring: RingPort | None = None, length_checked: bool = True) -> None:
        self.memory = self.user_memory = AddressSpace(limit_bytes=64 << 20)
        self.ring = ring
        self.loop: LoopPort | None = None
        self.helper_length_checked = length_checked
        self.cpu = 0
        self.packet: Region | None = None
        self.clock_ns = 0
        self.randoms = [0]
        self.lines: list[str] = []
        self.ctx_addr = self.memory.alloc(16, RegionKind.CTX, "ctx").start
        self.scratch = self.memory.alloc(4096, RegionKind.STACK, "scratch")
        self.user = self.memory.alloc(4096, RegionKind.USER, "block")
        self._callbacks: dict[int, Callback] = {}

    def __enter__(self) -> FakeContext:
        return self

    def __exit__(self, *_: object) -> None:
        self.memory.close()

    def map(
        self, type_: MapType, key: int, value: int, entries: int, flags: int = 0, *, cpus: int = 1
    ) -> BpfMap:
        """A live map."""
        return make_map(
            MapSpec(type_.name.lower(), type_, key, value, entries, flags), self.memory, cpus=cpus
        )

    def put(self, data: bytes, offset: int = 0) -> int:
        """Write into the scratch region; the address."""
        addr = self.scratch.start + offset
        self.memory.write(addr, data)
        return addr

    def get(self, size: int, offset: int = 0) -> bytes:
        """Read from the scratch region."""
        return self.memory.read(self.scratch.start + offset, size)

    def function(self, callback: Callback) -> int:
        """A handle for a Python function, for callback helpers."""
        handle = self.memory.handle(callback)
        self._callbacks[handle] = callback
        return handle

    def run(self, name: str, *args: int) -> int:
        """Call the helper `name` with argument registers; its result as the engine sees it."""
        impl: HelperImpl | None = HELPERS[name].impl
        assert impl is not None, f"{name} has no implementation"
        registers = [arg & U64 for arg in args] + [0] * (5 - len(args))
        return impl(self, *registers)

    def map_at(self, addr: int, index: int) -> BpfMap:
        """The map whose handle is `addr`."""
        found = self.memory.resolve(addr)
        if not isinstance(found, LiveMap):
            raise BadArgument(index, f"{addr:#x} is not a map")
        return found

    def now_ns(self) -> int:
        """The clock as set."""
        return self.clock_ns

    def random_u32(self) -> int:
        """The next of the numbers given."""
        return self.randoms.pop(0)

    def call(self, function: int, args: Sequence[int]) -> int:
        """The Python function behind the handle."""
        if function not in self._callbacks:
            raise BadArgument(2, f"{function:#x} is not a function")
        return self._callbacks[function](*args)

    def log(self, text: str) -> None:
        """Kept in `lines`."""
        self.lines.append(text)
