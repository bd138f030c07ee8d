"""Memory that others than programs change: a copy of what a replay has of it, and what is new."""

from __future__ import annotations

from collections.abc import Iterator

from pybpfvm.memory import PAGE, Region, RegionKind

# What programs reach by plain loads, and others write.
_PLAIN = frozenset({RegionKind.CTX, RegionKind.PACKET, RegionKind.RING, RegionKind.SHARED})
# What rings write to while they answer a program.
_LIVELY = frozenset({RegionKind.RING, RegionKind.SHARED})
_SMALL_BYTES = 4096  # blocks of user memory up to this are kept up to date
_SMALL_BYTES_IN_ALL = 1 << 16
MOST_PAGES = 1 << 10
_STEPS = (4096, 64)

Changes = tuple[tuple[int, bytes], ...]


class Followed:
    """One region: its live bytes, and those that a replay has."""

    __slots__ = ("copy", "kind", "start", "view")

    def __init__(self, region: Region, view: memoryview) -> None:
        self.start = region.start
        self.kind = region.kind
        self.view = view
        self.copy: bytes | bytearray = bytearray(region.size)

    def changes(self) -> Iterator[tuple[int, bytes]]:
        """What others changed; the copy is as the region then."""
        now = bytes(self.view)
        if now != self.copy:
            yield from _differing(self.copy, now, self.start, _STEPS)
            self.copy = now


def _differing(
    old: bytes | bytearray, new: bytes, start: int, steps: tuple[int, ...]
) -> Iterator[tuple[int, bytes]]:
    """(address, new bytes) of the parts that differ, as small as the last step."""
    if not steps or len(new) <= steps[-1]:
        yield start, new
        return
    step, pending = steps[0], -1
    for at in range(0, len(new), step):
        if old[at : at + step] == new[at : at + step]:
            if pending >= 0:
                yield from _differing(old[pending:at], new[pending:at], start + pending, steps[1:])
                pending = -1
        elif pending < 0:
            pending = at
    if pending >= 0:
        yield from _differing(old[pending:], new[pending:], start + pending, steps[1:])


class Following:
    """All regions that are followed. `rings`: also the memory of rings, for programs that may look
    into it."""

    def __init__(self) -> None:
        self.rings = False
        self._regions: dict[int, Followed] = {}
        self._lively: list[Followed] = []
        self._plain: list[Followed] = []
        self._user: dict[int, Followed] = {}
        self._user_bytes = 0
        # What a replay has of other user memory: the pages that programs read or wrote. `lost` when
        # these got too many.
        self.lost = False
        self._rest: dict[int, bytearray] = {}

    def follow(self, region: Region, view: memoryview) -> bool:
        """Follow a new region from now on, if it is to be; whether it is."""
        kind = region.kind
        if kind is RegionKind.RING and not self.rings:
            return False
        if kind is RegionKind.USER:
            more = self._user_bytes + region.size
            if region.size > _SMALL_BYTES or more > _SMALL_BYTES_IN_ALL:
                return False
            self._user_bytes = more
        elif kind not in _PLAIN:
            return False
        found = self._regions[region.start] = Followed(region, view)
        self._sort(found)
        return True

    def _sort(self, found: Followed) -> None:
        if found.kind is RegionKind.USER:
            self._user[found.start] = found
            return
        self._plain.append(found)
        if found.kind in _LIVELY:
            self._lively.append(found)

    def forget(self, region: Region) -> None:
        """The region is no more."""
        found = self._regions.pop(region.start, None)
        if found is None:
            for addr in [one for one in self._rest if region.start <= one < region.end]:
                del self._rest[addr]
            return
        if self._user.pop(region.start, None) is not None:
            self._user_bytes -= region.size
            return
        self._plain.remove(found)
        if found in self._lively:
            self._lively.remove(found)

    def before_run(self) -> Changes:
        """What others changed since the last run."""
        return tuple(part for one in self._regions.values() for part in one.changes())

    def before_answer(self) -> None:
        """What the program wrote until now is its own."""
        for one in self._lively:
            one.copy = bytes(one.view)

    def after_answer(self) -> Changes:
        """What the ring changed while it answered."""
        return tuple(part for one in self._lively for part in one.changes())

    def after_run(self) -> None:
        """What the program wrote is its own."""
        for one in self._plain:
            one.copy = bytes(one.view)

    def has(self, region: Region, offset: int, data: bytes) -> bool:
        """Whether a replay has these bytes at this place of user memory; from now on it has."""
        found = self._regions.get(region.start)
        if found is None:
            self._touched(region, offset, data)
            return False
        end = offset + len(data)
        if found.copy[offset:end] == data:
            return True
        if found.kind is RegionKind.USER:  # the rest may be what the program itself has written
            self._put(found, offset, data)
        return False

    def written(self, region: Region, offset: int, data: bytes) -> None:
        """The program wrote to user memory."""
        found = self._user.get(region.start)
        if found is not None:
            self._put(found, offset, data)
        elif region.kind is RegionKind.USER:
            self._touched(region, offset, data)

    def _touched(self, region: Region, offset: int, data: bytes) -> None:
        """A replay has these bytes of a region that is not followed."""
        at, end = offset, offset + len(data)
        while at < end and not self.lost:
            first = at & -PAGE
            page = self._rest.get(region.start + first)
            if page is None:
                if len(self._rest) >= MOST_PAGES:
                    self.lost = True
                    self._rest.clear()
                    return
                page = bytearray(min(PAGE, region.size - first))
                self._rest[region.start + first] = page
            upto = min(end, first + PAGE)
            page[at - first : upto - first] = data[at - offset : upto - offset]
            at = upto

    @staticmethod
    def _put(found: Followed, offset: int, data: bytes) -> None:
        if not isinstance(found.copy, bytearray):
            found.copy = bytearray(found.copy)
        found.copy[offset : offset + len(data)] = data

    def copies(self) -> Iterator[bytes | bytearray]:
        """What a replay has, in order of addresses."""
        for _, copy in self.copies_at():
            yield copy

    def copies_at(self) -> Iterator[tuple[int, bytes | bytearray]]:
        """The same, each with where it begins."""
        for start in sorted(self._regions):
            yield start, self._regions[start].copy

    def rest(self) -> dict[int, bytes]:
        """What a replay has of regions that are not followed: pages by address, but for those that
        are all zeroes."""
        return {addr: bytes(page) for addr, page in self._rest.items() if any(page)}
