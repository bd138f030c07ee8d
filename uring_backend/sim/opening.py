"""open(2): flags, modes, creation. Used by requests and by the host."""

from __future__ import annotations

import errno
from typing import Final

from pybpfvm.uring_backend.abi import (
    O_ACCMODE,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_NOFOLLOW,
    O_PATH,
    O_RDONLY,
    O_TMPFILE,
    O_TRUNC,
)
from pybpfvm.uring_backend.sim.descriptors import OpenFile
from pybpfvm.uring_backend.sim.request import Refused
from pybpfvm.uring_backend.sim.vfs import Directory, Inode, Last, RegularFile, Symlink, Vfs

PERMISSIONS: Final = 0o7777
UMASK: Final = 0o022


def unsupported_flags(flags: int) -> str:
    """The name of an open flag the simulated file system lacks; "" if there is none."""
    if flags & O_PATH:
        return "O_PATH"
    return "O_TMPFILE" if flags & O_TMPFILE & ~O_DIRECTORY else ""


def open_path(
    vfs: Vfs,
    path: bytes,
    flags: int,
    mode: int,
    start: Directory | None = None,
    *,
    beneath: str = "",
    links: bool = True,
) -> OpenFile:
    """A new open file, not yet in any table. Refused with open(2)'s errno."""
    if flags & O_CREAT and flags & O_DIRECTORY:
        raise Refused(errno.EINVAL)
    last = path.rstrip(b"/").rpartition(b"/")[2]
    if flags & O_CREAT and path.endswith(b"/") and last not in (b"", b".", b".."):
        parent = path[: path.rstrip(b"/").rfind(b"/") + 1] or b"."
        vfs.walk(parent, start, beneath=beneath, links=links).existing()
        raise Refused(errno.EISDIR)  # before the name is looked up
    follow = not flags & O_NOFOLLOW and flags & (O_CREAT | O_EXCL) != O_CREAT | O_EXCL
    at_end = Last.FOLLOW if follow else Last.SLASH
    place = vfs.walk(path, start, beneath=beneath, last=at_end, links=links)
    node: Inode
    if flags & O_CREAT and place.must_be_dir and place.name:
        raise Refused(errno.EISDIR)
    if place.node is None and flags & O_CREAT:
        node = vfs.create(place, mode & PERMISSIONS & ~UMASK)
    else:
        if flags & O_CREAT and place.node is not None:
            if flags & O_EXCL:
                raise Refused(errno.EEXIST)
            if place.node.is_dir:
                raise Refused(errno.EISDIR)
        node = place.existing()
    if isinstance(node, Symlink):
        raise Refused(errno.ENOTDIR if flags & O_DIRECTORY else errno.ELOOP)
    if isinstance(node, Directory) and (flags & O_ACCMODE != O_RDONLY or flags & O_TRUNC):
        raise Refused(errno.EISDIR)
    if flags & O_DIRECTORY and not node.is_dir:
        raise Refused(errno.ENOTDIR)
    if isinstance(node, RegularFile):
        node.opened += 1
        if flags & O_TRUNC and node.size():
            node.truncate(0)
    return OpenFile(node, flags)
