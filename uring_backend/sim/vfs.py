"""The simulated file system: directories, regular files and symbolic links in bounded memory.

Files are stored in chunks, so that a byte at a huge offset costs one chunk. Everyone is root:
mode bits are kept and shown, not enforced.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import Enum
from typing import Final

from pybpfvm.uring_backend.abi import (
    MAX_OFFSET,
    NAME_MAX,
    S_IFDIR,
    S_IFLNK,
    S_IFREG,
)
from pybpfvm.uring_backend.sim.descriptors import Node
from pybpfvm.uring_backend.sim.request import Refused

CHUNK: Final = 4096
DEFAULT_LIMIT_BYTES: Final = 256 << 20
MAX_NODES: Final = 1 << 16
_MAX_FOLLOWED: Final = 40  # symbolic links in one walk


class Times:
    """atime, mtime, ctime and btime of a node, nanoseconds of CLOCK_REALTIME."""

    __slots__ = ("accessed", "born", "changed", "modified")

    def __init__(self, now_ns: int) -> None:
        self.accessed = self.modified = self.changed = self.born = now_ns


class Inode(Node):
    """A node that has a name: file, directory or symbolic link. `links` counts its names, and
    `xattrs` are its extended attributes by full name."""

    def __init__(self, vfs: Vfs, mode: int) -> None:
        self.vfs = vfs
        self.mode = mode
        self.number = vfs.next_number()
        self.times = Times(vfs.realtime_ns())
        self.links = 1
        self.xattrs: dict[bytes, bytes] = {}

    @property
    def is_dir(self) -> bool:
        """Whether names can be looked up in it."""
        return isinstance(self, Directory)


class RegularFile(Inode):
    """Bytes, in chunks; absent chunks read as zeroes."""

    seekable = True

    def __init__(self, vfs: Vfs, permissions: int) -> None:
        super().__init__(vfs, S_IFREG | permissions)
        self._chunks: dict[int, bytearray] = {}
        self._size = 0
        self.busy_until_ns = 0  # workers write to one file one after the other

    def size(self) -> int:
        return self._size

    def allocated_bytes(self) -> int:
        """Bytes that the chunks take."""
        return len(self._chunks) * CHUNK

    def read(self, size: int, offset: int) -> bytes:
        size = max(0, min(size, self._size - offset))
        if not size:
            return b""
        first, last = offset // CHUNK, (offset + size - 1) // CHUNK
        empty = bytes(CHUNK)
        raw = b"".join(bytes(self._chunks.get(i, empty)) for i in range(first, last + 1))
        self.times.accessed = self.vfs.realtime_ns()
        start = offset - first * CHUNK
        return raw[start : start + size]

    def peek(self, offset: int) -> bool:
        return offset < self._size

    def write(self, data: bytes, offset: int) -> int:
        """As many bytes as the file system has room for; Refused(ENOSPC) if that is none."""
        if not data:
            return 0
        if offset >= MAX_OFFSET:
            raise Refused(errno.EFBIG)
        data = data[: MAX_OFFSET - offset]
        done = 0
        while done < len(data):
            index, start = divmod(offset + done, CHUNK)
            chunk = self._chunks.get(index)
            if chunk is None:
                if not self.vfs.take(CHUNK):
                    break
                chunk = self._chunks[index] = bytearray(CHUNK)
            piece = data[done : done + CHUNK - start]
            chunk[start : start + len(piece)] = piece
            done += len(piece)
        if not done:
            raise Refused(errno.ENOSPC)
        self._size = max(self._size, offset + done)
        self._touch()
        return done

    def truncate(self, size: int) -> None:
        """Cut or extend (with a hole) to `size` bytes."""
        if size < self._size:
            keep, rest = divmod(size, CHUNK)
            for index in [i for i in self._chunks if i > keep or (i == keep and not rest)]:
                del self._chunks[index]
                self.vfs.give_back(CHUNK)
            if rest and keep in self._chunks:
                self._chunks[keep][rest:] = bytes(CHUNK - rest)
        self._size = size
        self._touch()

    def punch(self, offset: int, size: int) -> None:
        """Make [offset, offset + size) read as zeroes."""
        for index in [
            i for i in self._chunks if offset < (i + 1) * CHUNK and i * CHUNK < offset + size
        ]:
            start = max(offset - index * CHUNK, 0)
            end = min(offset + size - index * CHUNK, CHUNK)
            if end - start == CHUNK:
                del self._chunks[index]
                self.vfs.give_back(CHUNK)
            else:
                self._chunks[index][start:end] = bytes(end - start)
        self._touch()

    def reserve(self, offset: int, size: int) -> None:
        """Allocate chunks for [offset, offset + size); Refused(ENOSPC) with none kept."""
        first, last = offset // CHUNK, (offset + size - 1) // CHUNK
        inside = sum(first <= index <= last for index in self._chunks)
        if not self.vfs.take((last - first + 1 - inside) * CHUNK):
            raise Refused(errno.ENOSPC)
        for index in range(first, last + 1):
            self._chunks.setdefault(index, bytearray(CHUNK))

    def _touch(self) -> None:
        self.times.modified = self.times.changed = self.vfs.realtime_ns()

    def discard(self) -> None:
        """The last name and the last open file are gone."""
        self.vfs.give_back(self.allocated_bytes())
        self.vfs.nodes -= 1
        self._chunks.clear()

    def released(self) -> None:
        self.opened -= 1
        if not self.opened and not self.links:
            self.discard()

    opened = 0


class Symlink(Inode):
    """A path in place of a file."""

    def __init__(self, vfs: Vfs, target: bytes) -> None:
        super().__init__(vfs, S_IFLNK | 0o777)
        self.target = target

    def size(self) -> int:
        return len(self.target)


class Directory(Inode):
    """Names and what they stand for."""

    def __init__(self, vfs: Vfs, permissions: int, parent: Directory | None) -> None:
        super().__init__(vfs, S_IFDIR | permissions)
        self.parent = parent or self
        self.entries: dict[bytes, Inode] = {}

    def read(self, size: int, offset: int) -> bytes:
        raise Refused(errno.EISDIR)

    def size(self) -> int:
        return CHUNK

    def subdirectories(self) -> int:
        """How many directories are directly inside."""
        return sum(entry.is_dir for entry in self.entries.values())

    def holds(self, other: Inode) -> bool:
        """Whether `other` is this directory or lies somewhere below it."""
        step: Inode = other
        while isinstance(step, Directory):
            if step is self:
                return True
            if step.parent is step:
                break
            step = step.parent
        return False


class Last(Enum):
    """What becomes of a symbolic link at the end of a path."""

    KEEP = "it is what the path means, for requests that make or remove names"
    SLASH = "the same, unless a slash follows"
    FOLLOW = "it is followed"


class Place:
    """Where a path leads: `name` in `parent`, and the node there, if any."""

    __slots__ = ("must_be_dir", "name", "node", "parent")

    def __init__(
        self, parent: Directory, name: bytes, node: Inode | None, must_be_dir: bool
    ) -> None:
        self.parent = parent
        self.name = name  # b"" when the path ends in "." or "..", or is the root
        self.node = node
        self.must_be_dir = must_be_dir

    def existing(self) -> Inode:
        """The node there; Refused ENOENT, or ENOTDIR after a trailing slash."""
        if self.node is None:
            raise Refused(errno.ENOENT)
        if self.must_be_dir and not self.node.is_dir:
            raise Refused(errno.ENOTDIR)
        return self.node

    def check_free(self) -> None:
        """Refused unless something other than a directory can be made here."""
        if self.node is not None or not self.name:
            raise Refused(errno.EEXIST)
        if self.must_be_dir:
            raise Refused(errno.ENOENT)
        self.check_parent()

    def check_parent(self) -> None:
        """Refused(ENOENT) in a directory that was removed while it was open."""
        if not self.parent.links:
            raise Refused(errno.ENOENT)


class Vfs:
    """The tree and its budget: `limit_bytes` of content, MAX_NODES files and directories."""

    def __init__(self, realtime_ns: Callable[[], int], limit_bytes: int) -> None:
        self.realtime_ns = realtime_ns
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.nodes = 0
        self._numbers = 0
        self.root = Directory(self, 0o700, None)

    def next_number(self) -> int:
        """An inode number."""
        self._numbers += 1
        return self._numbers

    def take(self, size: int) -> bool:
        """Whether `size` more bytes fit; they are counted if so."""
        if self.used_bytes + size > self.limit_bytes:
            return False
        self.used_bytes += size
        return True

    def give_back(self, size: int) -> None:
        """Bytes are free again."""
        self.used_bytes -= size

    def walk(
        self,
        path: bytes,
        start: Directory | None = None,
        *,
        beneath: str = "",
        last: Last = Last.FOLLOW,
        links: bool = True,
    ) -> Place:
        """Follow `path` from `start` (the root if None). Refused ENOENT, ENOTDIR, ENAMETOOLONG,
        ELOOP.

        `beneath`: "refuse" makes every step outside `start` EXDEV (RESOLVE_BENEATH), "pin" makes
        `start` the root (RESOLVE_IN_ROOT). `links`: False makes every link that would be followed
        ELOOP (RESOLVE_NO_SYMLINKS).
        """
        if not path:
            raise Refused(errno.ENOENT)
        top = start if beneath == "pin" and start else self.root
        here: Directory = start or self.root
        floor = here if beneath == "refuse" else top
        followed = 0
        left: list[bytes] = []
        trailing = False

        def push(text: bytes, *, at_end: bool) -> None:
            """Put the names of a path before those that are left."""
            nonlocal here, trailing
            if text.startswith(b"/"):
                if beneath == "refuse":
                    raise Refused(errno.EXDEV)
                here = top
            if at_end:
                trailing = trailing or text.endswith((b"/", b"/.")) or text == b"."
            names = [name for name in text.split(b"/") if name and name != b"."]
            left.extend(reversed(names))

        push(path, at_end=True)
        while left:
            name = left.pop()
            at_end = not left
            if len(name) > NAME_MAX:
                raise Refused(errno.ENAMETOOLONG)
            if name == b"..":
                if here is floor and beneath == "refuse":
                    raise Refused(errno.EXDEV)
                here = here if here is floor else here.parent
                continue
            node = here.entries.get(name)
            followed_here = last is Last.FOLLOW or (last is Last.SLASH and trailing)
            if isinstance(node, Symlink) and (not at_end or followed_here):
                followed += 1
                if followed > _MAX_FOLLOWED or not links:
                    raise Refused(errno.ELOOP)
                push(node.target, at_end=at_end)
                continue
            if at_end:
                return Place(here, name, node, trailing)
            if node is None:
                raise Refused(errno.ENOENT)
            if not isinstance(node, Directory):
                raise Refused(errno.ENOTDIR)
            here = node
        return Place(here, b"", here, True)

    def _new_node(self) -> None:
        if self.nodes >= MAX_NODES:
            raise Refused(errno.ENOSPC)
        self.nodes += 1

    def create(self, place: Place, permissions: int) -> RegularFile:
        """A new empty file at a free place."""
        place.check_parent()
        self._new_node()
        file = RegularFile(self, permissions)
        place.parent.entries[place.name] = file
        return file

    def make_dir(self, place: Place, permissions: int) -> Directory:
        """A new directory; Refused(EEXIST)."""
        if place.node is not None or not place.name:
            raise Refused(errno.EEXIST)
        place.check_parent()
        self._new_node()
        directory = Directory(self, permissions, place.parent)
        place.parent.entries[place.name] = directory
        return directory

    def make_symlink(self, place: Place, target: bytes) -> Symlink:
        """A new symbolic link."""
        place.check_free()
        self._new_node()
        link = Symlink(self, target)
        place.parent.entries[place.name] = link
        return link

    def link(self, node: Inode, place: Place) -> None:
        """Another name for a file; Refused EPERM for directories, ENOENT for one without name."""
        place.check_free()
        if node.is_dir:
            raise Refused(errno.EPERM)
        if not node.links:
            raise Refused(errno.ENOENT)
        node.links += 1
        node.times.changed = self.realtime_ns()
        place.parent.entries[place.name] = node

    def unlink(self, place: Place) -> None:
        """Take a file's name away."""
        node = place.node
        if not place.name:
            raise Refused(errno.EISDIR)
        if node is None:
            raise Refused(errno.ENOENT)
        if node.is_dir:
            raise Refused(errno.EISDIR)
        if place.must_be_dir:
            raise Refused(errno.ENOTDIR)
        del place.parent.entries[place.name]
        self._lost_a_name(node)

    def remove_dir(self, place: Place) -> None:
        """Remove an empty directory."""
        node = place.node
        if not place.name:
            raise Refused(errno.EBUSY)
        if node is None:
            raise Refused(errno.ENOENT)
        if not isinstance(node, Directory):
            raise Refused(errno.ENOTDIR)
        if node.entries:
            raise Refused(errno.ENOTEMPTY)
        del place.parent.entries[place.name]
        self._lost_a_name(node)

    def rename(self, old: Place, new: Place, *, replace: bool, exchange: bool) -> None:
        """rename(2) with the rules for directories; Refused with its errno."""
        if not old.name or not new.name:
            raise Refused(errno.EBUSY)
        if old.node is None:
            raise Refused(errno.ENOENT)
        if exchange and new.node is None:
            raise Refused(errno.ENOENT)
        if not replace and new.node is not None:
            raise Refused(errno.EEXIST)
        if not old.node.is_dir and (old.must_be_dir or (new.must_be_dir and not exchange)):
            raise Refused(errno.ENOTDIR)
        if isinstance(old.node, Directory) and old.node.holds(new.parent):
            raise Refused(errno.EINVAL)
        if isinstance(new.node, Directory) and new.node.holds(old.parent):
            raise Refused(errno.EINVAL if exchange else errno.ENOTEMPTY)
        if old.node is new.node:
            return
        target = new.node
        if target is not None and not exchange:
            if target.is_dir and not old.node.is_dir:
                raise Refused(errno.EISDIR)
            if old.node.is_dir and not target.is_dir:
                raise Refused(errno.ENOTDIR)
            if isinstance(target, Directory) and target.entries:
                raise Refused(errno.ENOTEMPTY)
        moved = old.node
        del old.parent.entries[old.name]
        new.parent.entries[new.name] = moved
        if isinstance(moved, Directory):
            moved.parent = new.parent
        if target is not None and exchange:
            old.parent.entries[old.name] = target
            if isinstance(target, Directory):
                target.parent = old.parent
        elif target is not None:
            self._lost_a_name(target)

    def _lost_a_name(self, node: Inode) -> None:
        node.links -= 1
        node.times.changed = self.realtime_ns()
        if node.links:
            return
        if isinstance(node, RegularFile):
            if not node.opened:
                node.discard()
        else:
            self.nodes -= 1
