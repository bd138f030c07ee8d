"""SYMLINKAT and LINKAT: further names for files, and paths in place of files."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pybpfvm.bits import s32
from pybpfvm.uring_backend.abi import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_FOLLOW,
    SQE_FIXED_FILE,
)
from pybpfvm.uring_backend.sim.names import read_path, starting_point
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request
from pybpfvm.uring_backend.sim.vfs import Inode, Last

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

_LINK_FLAGS: Final = AT_SYMLINK_FOLLOW | AT_EMPTY_PATH


def prepare_symlinkat(core: Core, request: Request) -> Issue:
    """SYMLINKAT: a link with the text at Sqe.addr, named Sqe.off under Sqe.fd."""
    sqe = request.sqe
    if sqe.len or sqe.op_flags or sqe.buf_index or sqe.file_index:
        raise Refused(errno.EINVAL)
    if sqe.flags & SQE_FIXED_FILE:
        raise Refused(errno.EBADF)
    target, name = read_path(core, sqe.addr), read_path(core, sqe.off)
    request.through_worker = True

    def issue() -> int:
        vfs = core.world.vfs
        place = vfs.walk(name, starting_point(core, sqe.fd, name), last=Last.KEEP)
        vfs.make_symlink(place, target)
        return 0

    return issue


def prepare_linkat(core: Core, request: Request) -> Issue:
    """LINKAT: the file Sqe.addr under Sqe.fd gets the name Sqe.off under Sqe.len, too."""
    sqe = request.sqe
    if sqe.buf_index or sqe.file_index:
        raise Refused(errno.EINVAL)
    if sqe.flags & SQE_FIXED_FILE:
        raise Refused(errno.EBADF)
    flags = sqe.op_flags
    old = read_path(core, sqe.addr, may_be_empty=bool(flags & AT_EMPTY_PATH))
    new = read_path(core, sqe.off)
    request.through_worker = True

    def issue() -> int:
        if flags & ~_LINK_FLAGS:
            raise Refused(errno.EINVAL)
        vfs = core.world.vfs
        node = _source(core, sqe.fd, old, follow=bool(flags & AT_SYMLINK_FOLLOW))
        place = vfs.walk(new, starting_point(core, s32(sqe.len), new), last=Last.KEEP)
        if not isinstance(node, Inode):
            place.check_free()
            raise Refused(errno.EXDEV)
        vfs.link(node, place)
        return 0

    return issue


def _source(core: Core, dirfd: int, path: bytes, *, follow: bool) -> object:
    """What an old name means; the empty one is the open file `dirfd`."""
    if path:
        last = Last.FOLLOW if follow else Last.SLASH
        return core.world.vfs.walk(path, starting_point(core, dirfd, path), last=last).existing()
    return core.world.vfs.root if dirfd == AT_FDCWD else core.fds.get(dirfd).node
