"""What expressions see of a loaded object and the rings that run it: see pybpfvm.expr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from errno import ENOENT
from typing import Literal

from pybpfvm.bits import u32
from pybpfvm.expr.scope import Moment, RingView, Unreadable
from pybpfvm.maps.base import MapError
from pybpfvm.program import MapSpec, MapType, Program
from pybpfvm.session.hostring import HostRing
from pybpfvm.session.loopring import LoopRing
from pybpfvm.session.objects import LoadedObject
from pybpfvm.session.ring import Ring
from pybpfvm.session.user import Block
from pybpfvm.source.info import DebugInfo, debug_info
from pybpfvm.uring_backend.cq import CompletionQueue

_NULL_BYTES = 4096
# To ask where an element of these lies changes nothing.
_STILL = frozenset({MapType.ARRAY, MapType.HASH, MapType.PERCPU_ARRAY, MapType.PERCPU_HASH})


class LiveScope:
    """The scope of `obj`, whose programs run on `rings`. `blocks` are those that have a name.

    `program`, `pc`, `regs` and `moment` are for whoever stops a run, or looks at an event, to set.
    """

    def __init__(
        self,
        obj: LoadedObject,
        rings: Mapping[str, HostRing],
        blocks: Mapping[str, Block],
        debug: DebugInfo | None = None,
    ) -> None:
        self.program: Program | None = None
        self.pc = 0
        self.regs: Sequence[int] | None = None
        self.moment: Moment | None = None
        self.debug = debug if debug is not None else debug_info(obj.object)
        self.rings: Mapping[str, RingView] = {
            name: ring_view(ring, obj) for name, ring in rings.items()
        }
        self.byteorder: Literal["little", "big"] = obj.image.memory.byteorder
        rules = None if obj.known_profile is None else obj.known_profile.ring
        self.constants: Mapping[str, int] = (
            {} if rules is None else {"IORING_OP_BPF": rules.bpf_opcode}
        )
        self._object = obj
        self._blocks = blocks
        self._memory = obj.image.memory
        self._specs = {name: live.spec for name, live in obj.image.maps.items()}
        self._sections = {
            live.spec.section: live
            for live in obj.image.maps.values()
            if live.spec.data is not None
        }

    def read(self, addr: int, size: int) -> bytes:
        """So many bytes of memory of programs or of the user. Raises Unreadable."""
        data = self._memory.look(addr, size)
        if data is None:
            if addr < _NULL_BYTES:
                raise Unreadable("NULL pointer" if not addr else f"NULL pointer + {addr}")
            raise Unreadable(f"no {size} bytes at {addr:#x}: {self._memory.explain(addr)}")
        return data

    def block(self, name: str) -> tuple[int, int] | None:
        """(address, bytes) of a block of user memory."""
        found = self._blocks.get(name)
        return None if found is None else (found.addr, found.size)

    def block_names(self) -> Iterable[str]:
        """Their names."""
        return self._blocks

    def describe(self, addr: int) -> str:
        """`block+offset` or `map+offset`, "" for what has no name."""
        region = self._memory.region_at(addr)
        if region is None:
            return ""
        offset = addr - region.start
        return f"{region.name}+{offset}" if offset else region.name

    def maps(self) -> Mapping[str, MapSpec]:
        """The object's maps."""
        return self._specs

    def element(self, name: str, key: bytes) -> bytes | None:
        """A value as the host finds it; of a per-CPU map that of CPU 0, where programs run."""
        live = self._object.image.maps[name]
        try:
            return live.host_lookup(key)[: live.spec.value_size]
        except MapError as error:
            if error.errno == ENOENT:
                return None
            raise Unreadable(error.reason) from None

    def element_addr(self, name: str, key: bytes) -> int | None:
        """Where it lies; of maps that count a look as use, nobody is told."""
        live = self._object.image.maps[name]
        return live.lookup(key, 0) or None if live.spec.type in _STILL else None

    def keys(self, name: str) -> Iterator[bytes]:
        """The keys of a map, in its order."""
        live, key = self._object.image.maps[name], None
        while True:
            try:
                key = live.next_key(key)
            except MapError as error:
                if error.errno == ENOENT:
                    return
                raise Unreadable(error.reason) from None
            yield key

    def data_address(self, section: str, offset: int) -> int | None:
        """Where a byte of a data section lies."""
        live = self._sections.get(section)
        if live is None or offset >= live.spec.value_size:
            return None
        return live.lookup(bytes(live.spec.key_size), 0) + offset


def ring_view(ring: HostRing, obj: LoadedObject) -> RingView:
    """A ring as expressions see it; `obj` tells which programs could run on it."""
    if isinstance(ring, LoopRing):
        return _LoopView(ring, obj)
    assert isinstance(ring, Ring)
    return _RingView(ring, obj)


class _View:
    """What is alike in both kinds."""

    def __init__(self, ring: HostRing, obj: LoadedObject) -> None:
        self._host = ring
        self._programs = set(obj.image.programs)

    def runs(self, program: str) -> int | None:
        """How often it ran."""
        counts = self._host.counts.runs
        return counts[program] if program in self._programs or program in counts else None


def _cq_field(queue: CompletionQueue, field: str) -> int:
    ready = queue.count()
    match field:
        case "ready":
            return ready
        case "head":
            return queue.head
        case "tail":
            return u32(queue.head + ready)
        case "free":
            return max(queue.entries - ready, 0)
        case _:
            return queue.entries


class _RingView(_View):
    def __init__(self, ring: Ring, obj: LoadedObject) -> None:
        super().__init__(ring, obj)
        self._ring = ring

    def cqs(self) -> int:
        return len(self._ring.core.cqs)

    def cq(self, index: int, field: str) -> int:
        return _cq_field(self._ring.core.cqs.queues[index], field)

    def cqe(self, index: int, ahead: int) -> bytes | None:
        return self._ring.core.cqs.queues[index].peek(ahead)

    def sq(self, field: str) -> int:
        queue = self._ring.core.sq
        match field:
            case "ready":
                return queue.ready()
            case "head":
                return queue.head
            case "tail":
                return queue.tail
            case "dropped":
                return queue.dropped
            case _:
                return queue.entries

    def word(self, field: str) -> int:
        core = self._ring.core
        match field:
            case "inflight":
                return core.in_flight()
            case "parked":
                return core.parked
            case "overflow":
                return core.cq_overflow
            case "backlog":
                return core.cqs.backlog
            case _:
                return self._ring.now_ns()


class _LoopView(_View):
    def __init__(self, ring: LoopRing, obj: LoadedObject) -> None:
        super().__init__(ring, obj)
        self._ring = ring

    def cqs(self) -> int:
        return 1

    def cq(self, index: int, field: str) -> int:
        return _cq_field(self._ring.core.queues.cq, field)

    def cqe(self, index: int, ahead: int) -> bytes | None:
        return self._ring.core.queues.cq.peek(ahead)

    def sq(self, field: str) -> int:
        core = self._ring.core
        words = core.queues.words
        match field:
            case "ready":
                return u32(words["sq_tail"] - words["sq_head"])
            case "entries":
                return core.setup.sq_entries
            case _:
                return words[f"sq_{field}"]

    def word(self, field: str) -> int:
        core = self._ring.core
        match field:
            case "inflight":
                return core.in_flight()
            case "overflow":
                return self._ring.cq_overflow
            case "backlog":
                return core.queues.backlog
            case "time":
                return core.now_ns()
            case _:
                raise Unreadable("programs of a ring's loop are never parked")
