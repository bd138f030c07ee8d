"""States in a recording: what a replay has at the beginning of a run, so that one can begin there.

A recorder keeps a `Standing`, which learns from each record what it changes. The rest is read off
the machine when a state is due: what the maps hold, and the bytes of memory as a replay has them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgpack

from pybpfvm.errors import InputError
from pybpfvm.events import Event
from pybpfvm.image import Image
from pybpfvm.memory import PAGE, AddressSpace, Region, RegionKind
from pybpfvm.trace.following import MOST_PAGES, Following
from pybpfvm.trace.format import MAX_ARRAYS, Counting
from pybpfvm.trace.records import REGION_KINDS, WORLD_KINDS, Kind, items
from pybpfvm.trace.ringstate import RingState, SqState, numbers

if TYPE_CHECKING:
    from pybpfvm.trace.format import Record

_MOST_REGIONS = 1 << 12
_MOST_HANDLES = 1 << 12
_MOST_BYTES = 1 << 24  # that are looked at
_MOST_PACKED = 1 << 25  # of all but pages, so that all has room in a chunk
_KINDS = {number: kind for kind, number in REGION_KINDS.items()}
# What a state tells the bytes of. Frames are blank when a run begins; what programs reserved in
# ring buffers is there within runs only.
_TOLD_KINDS = WORLD_KINDS | {RegionKind.MAP_VALUE}
_ZERO = bytes(PAGE)

Pages = dict[int, bytes]  # by address; those that are all zeroes are left out


@dataclass(frozen=True, slots=True)
class State:
    """What a STATE record says. `regions` are (start, size, kind, name, writable, followed)."""

    place: tuple[int, int]
    handles: tuple[tuple[int, int, str, str, int], ...]
    regions: tuple[tuple[int, int, int, str, bool, bool], ...]
    pages: Pages
    maps: tuple[tuple[Any, ...], ...]
    rings: Mapping[int, Any]

    @classmethod
    def of(cls, record: Record) -> State:
        """Raises InputError for what is none."""
        place, *packed = items(record, *STATE_TYPES)[6:]
        handles, regions, pages, maps, rings = _unpacked(packed)
        try:
            numbers(place, 2)
            _check_queues(record[5])
            _check_most(handles, _MOST_HANDLES, "handles")
            _check_most(regions, _MOST_REGIONS, "regions")
            for one in handles:
                items((Kind.HANDLE, *one), int, int, str, str, int)
            for one in regions:
                items((Kind.CAME, *one), int, int, int, str, bool, bool)
                if _KINDS.get(one[2]) not in _TOLD_KINDS:
                    raise InputError(f"a region of kind {one[2]}")
            for one in (maps, *maps):
                if not isinstance(one, tuple):
                    raise InputError(f"{one!r:.60}, where what maps are stands")
            found = cls(place, handles, regions, dict(pages), maps, dict(rings))
            for addr, data in found.pages.items():
                whole = type(addr) is int and addr % PAGE == 0
                if not whole or not isinstance(data, bytes) or len(data) > PAGE:
                    raise InputError(f"{data!r:.60}, where a page stands")
            if sum(map(len, found.pages.values())) > _MOST_BYTES + MOST_PAGES * PAGE:
                raise InputError(f"{len(found.pages)} pages")
            for number, one in found.rings.items():
                numbers((number,), 1)
                RingState("").become(one)
        except (TypeError, ValueError) as error:
            raise InputError(f"a state that is none: {error}") from None
        return found

    def followed(self) -> set[int]:
        """Where the regions begin that are followed."""
        return {one[0] for one in self.regions if one[5]}


# Runs, instructions, events, digests, queues; then as in State.
STATE_TYPES = (int, int, int, int, tuple, tuple, bytes, bytes, bytes, bytes, bytes)


class Standing:
    """What records come to that were written so far."""

    def __init__(self) -> None:
        self.events = self.digests = 0
        self._regions: dict[int, tuple[Any, ...]] = {}
        self._handles: list[tuple[Any, ...]] = []
        self._rings = Rings()
        # (ring, event) as they are written, and SQES: what rings show when all is folded.
        self.told: list[tuple[int, Event] | Record] = []

    def note(self, record: Record) -> None:
        """A record that is no event's is written."""
        kind = record[0]
        if kind == Kind.SQES:
            self.told.append(record)
        elif kind == Kind.CAME:
            self._regions[record[1]] = tuple(record[1:])
        elif kind == Kind.WENT:
            self._regions.pop(record[1], None)
        elif kind == Kind.HANDLE:
            self._handles.append(tuple(record[1:]))
        elif kind == Kind.RING:
            self.fold()
            self._rings.made(record)

    def fold(self) -> None:
        """Have the rings show what they told."""
        for told in self.told:
            if len(told) == _PAIR:
                number, event = told
                self.events += 1
                self._rings[number].apply(event)
            else:
                self._rings.queued(told)
        self.told.clear()

    def state(
        self,
        memory: AddressSpace,
        images: Sequence[Image],
        following: Following,
        runs: int,
        insns: int,
        queues: tuple[Any, ...],
    ) -> Record | None:
        """The STATE record of here, between two runs; None where it would be too large, or there is
        what it can not tell."""
        if following.lost or len(self._handles) > _MOST_HANDLES:
            return None
        own = [one for one in memory.regions() if one.kind is RegionKind.MAP_VALUE]
        regions = [*(_as_told(one) for one in own), *self._regions.values()]
        told = sum(map(len, following.copies())) + sum(one.size for one in own)
        reserved = any(one.kind is RegionKind.RINGBUF for one in memory.regions())
        if reserved or len(regions) > _MOST_REGIONS or told > _MOST_BYTES:
            return None
        self.fold()
        pages: Pages = following.rest()
        for start, data in following.copies_at():
            pages.update(pages_of(start, data))
        for one in own:
            pages.update(pages_of(one.start, memory.view(one)))
        maps = tuple(map_states(image) for image in images)
        parts = (self._handles, regions, pages, maps, self._rings.packed())
        counts = (runs, insns, self.events, self.digests, queues, memory.place)
        packed = [msgpack.packb(one, **_PACKED) for one in parts]
        if not _can_be_read(packed):
            return None
        return (Kind.STATE, *counts, *packed)


class Rings(dict[int, RingState]):
    """All rings by number, folded from what was recorded of them. One that nobody made is there
    when it is asked for."""

    def __missing__(self, number: int) -> RingState:
        found = self[number] = RingState("")
        return found

    def made(self, record: Record) -> None:
        """A RING."""
        self[record[1]] = RingState.made("", record[2])

    def queued(self, record: Record) -> None:
        """SQES."""
        _, number, head, tail, dropped, sqes = record
        self[number].queue = SqState(head, tail, dropped, deque(sqes))

    def packed(self) -> dict[int, tuple[Any, ...]]:
        """See RingState.become."""
        return {number: ring.packed() for number, ring in self.items()}


_PAIR = 2
_PACKED: Any = {"unicode_errors": "surrogateescape"}


def _unpacked(parts: Sequence[bytes]) -> list[Any]:
    """What is packed in the parts of a state, all of which together are held to what they may
    cost."""
    counting = Counting()
    try:
        return [
            msgpack.unpackb(
                data,
                raw=False,
                use_list=False,
                strict_map_key=False,
                unicode_errors="surrogateescape",
                list_hook=counting.array,
                object_hook=counting.table,
            )
            for data in parts
        ]
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise InputError(f"a state that is none: {error}") from None


def _can_be_read(parts: Sequence[bytes]) -> bool:
    """Whether `_unpacked` takes these. Pages are few."""
    handles, regions, _, maps, rings = map(len, parts)
    size = handles + regions + maps + rings
    if size < MAX_ARRAYS:  # each has a byte
        return True
    if size > _MOST_PACKED:
        return False
    try:
        _unpacked(parts)
    except InputError:
        return False
    return True


def _check_most(given: Any, most: int, what: str) -> None:
    if not isinstance(given, tuple) or not all(isinstance(one, tuple) for one in given):
        raise InputError(f"{given!r:.60}, where {what} stand")
    if len(given) > most:
        raise InputError(f"{len(given)} {what}")


def _check_queues(given: tuple[Any, ...]) -> None:
    """As in a digest: of each ring, what its CQs counted."""
    for counted in given:
        for one in counted or ():
            numbers(one, 4)


def _as_told(region: Region) -> tuple[int, int, int, str, bool, bool]:
    kind = REGION_KINDS[region.kind]
    return region.start, region.size, kind, region.name, region.writable, False


def map_states(image: Image) -> tuple[Any, ...]:
    """What its maps are beside their bytes, in the image's order."""
    return tuple(live.state() for live in image.maps.values())


def pages_of(start: int, data: bytes | bytearray | memoryview) -> Iterator[tuple[int, bytes]]:
    """(address, bytes) of the pages that are not all zeroes."""
    for at in range(0, len(data), PAGE):
        page = bytes(data[at : at + PAGE])
        if not _ZERO.startswith(page):
            yield start + at, page


def enter(memory: AddressSpace, images: Sequence[Image], state: State) -> None:
    """Have memory and maps as the state says: of a replay that stands at its beginning, all but
    handles. InputError for what can not be."""
    for start, size, number, name, writable, _ in state.regions:
        kind, found = _KINDS[number], memory.region_at(start)
        if found is None:
            memory.alloc_at(start, size, kind, name, writable=writable)
        elif (found.start, found.size, found.kind) != (start, size, kind):
            raise InputError(f"a region at {start:#x}, where there is another")
    memory.place = state.place
    pages = dict(state.pages)
    for region in _told_regions(memory):
        view = memory.view(region)
        for at in range(0, region.size, PAGE):
            page = pages.pop(region.start + at, _ZERO)
            with view[at : at + PAGE] as now:  # nothing is to hold it where this raises
                if now != page[: len(now)]:
                    now[:] = page[: len(now)]
    if pages:
        raise InputError(f"bytes for {min(pages):#x}, where there is no memory")
    if len(state.maps) > len(images):
        raise InputError(f"the maps of {len(state.maps)} objects")
    for image, states in zip(images, state.maps, strict=False):
        if len(states) != len(image.maps):
            raise InputError(f"{len(states)} maps")
        for live, given in zip(image.maps.values(), states, strict=True):
            try:
                accepted = isinstance(given, tuple) and live.accepts(given)
            except (TypeError, ValueError, AttributeError, LookupError, OverflowError):
                accepted = False
            if not accepted:
                raise InputError(f"what map {live.spec.name} can not be")
            live.restore(given)


def _told_regions(memory: AddressSpace) -> Iterator[Region]:
    return (one for one in memory.regions() if one.kind in _TOLD_KINDS)


def differences(
    memory: AddressSpace, images: Sequence[Image], state: State
) -> Iterator[tuple[str, str, str]]:
    """(what, in the state, here) of what differs here, in a replay that has come so far."""
    told = {one[:3] for one in state.regions}
    here = {_as_told(one)[:3] for one in _told_regions(memory)}
    for start, size, number in sorted(told - here):
        yield f"memory at {start:#x}", f"{size} bytes of {_KINDS[number].value}", "none"
    pages: Pages = {}
    for region in _told_regions(memory):
        if _as_told(region)[:3] in told:
            pages.update(pages_of(region.start, memory.view(region)))
    for addr in sorted(pages.keys() | state.pages.keys()):
        then, now = state.pages.get(addr, b""), pages.get(addr, b"")
        if then != now:
            yield (f"the memory at {addr:#x}", *_first_difference(addr, then, now))
    for image, states in zip(images, state.maps, strict=False):
        if len(states) != len(image.maps):
            yield "how many maps there are", str(len(states)), str(len(image.maps))
        for live, one in zip(image.maps.values(), states, strict=False):
            other = live.state()
            if one != other:
                yield f"the state of map {live.spec.name}", f"{one!r:.60}", f"{other!r:.60}"


def _first_difference(addr: int, then: bytes, now: bytes) -> tuple[str, str]:
    size = max(len(then), len(now))
    one, other = then.ljust(size, b"\0"), now.ljust(size, b"\0")
    at = next(at for at in range(size) if one[at] != other[at])
    shown = slice(at, at + 8)
    return f"{one[shown].hex()} at {addr + at:#x}", other[shown].hex()
