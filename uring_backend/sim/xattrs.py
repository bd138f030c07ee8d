"""Extended attributes of files: only those of the `user.` namespace exist."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pybpfvm.memory import UserFault
from pybpfvm.uring_backend.abi import (
    SQE_FIXED_FILE,
    XATTR_CREATE,
    XATTR_NAME_MAX,
    XATTR_REPLACE,
    XATTR_SIZE_MAX,
    Op,
)
from pybpfvm.uring_backend.sim.descriptors import Node
from pybpfvm.uring_backend.sim.names import read_path
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request
from pybpfvm.uring_backend.sim.vfs import Directory, Inode, RegularFile

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

_USER: Final = b"user."
_BY_PATH: Final = frozenset({Op.SETXATTR, Op.GETXATTR})
_ALL_BYTES: Final = 4000  # names and values of one file: about what a block of ext4 holds


def prepare_setxattr(core: Core, request: Request) -> Issue:
    """SETXATTR and FSETXATTR: name at Sqe.addr, Sqe.len bytes of value at Sqe.off; the path of
    SETXATTR at Sqe.addr3."""
    sqe = request.sqe
    if sqe.flags & SQE_FIXED_FILE and sqe.opcode in _BY_PATH:
        raise Refused(errno.EBADF)
    if sqe.op_flags & ~(XATTR_CREATE | XATTR_REPLACE):
        raise Refused(errno.EINVAL)
    name = _name(core, sqe.addr)
    if sqe.len > XATTR_SIZE_MAX:
        raise Refused(errno.E2BIG)
    try:
        value = core.memory.user_read(sqe.off, sqe.len)
    except UserFault:
        raise Refused(errno.EFAULT) from None
    find = _finder(core, request)
    request.through_worker = True

    def issue() -> int:
        node = _checked(find(), name, errno.EPERM)
        if name in node.xattrs:
            if sqe.op_flags & XATTR_CREATE:
                raise Refused(errno.EEXIST)
        elif sqe.op_flags & XATTR_REPLACE:
            raise Refused(errno.ENODATA)
        others = sum(len(n) + len(v) for n, v in node.xattrs.items() if n != name)
        if others + len(name) + len(value) > _ALL_BYTES:
            raise Refused(errno.ENOSPC)
        node.xattrs[name] = value
        node.times.changed = node.vfs.realtime_ns()
        return 0

    return issue


def prepare_getxattr(core: Core, request: Request) -> Issue:
    """GETXATTR and FGETXATTR: the size of the value, which goes to Sqe.off if Sqe.len is not 0."""
    sqe = request.sqe
    if sqe.flags & SQE_FIXED_FILE and sqe.opcode in _BY_PATH:
        raise Refused(errno.EBADF)
    if sqe.op_flags:
        raise Refused(errno.EINVAL)
    name = _name(core, sqe.addr)
    find = _finder(core, request)
    request.through_worker = True

    def issue() -> int:
        node = _checked(find(), name, errno.ENODATA)
        if name not in node.xattrs:
            raise Refused(errno.ENODATA)
        value = node.xattrs[name]
        if not sqe.len:
            return len(value)
        if sqe.len < len(value):
            raise Refused(errno.ERANGE)
        if value:
            if not core.memory.is_user(sqe.off, sqe.len):
                raise Refused(errno.EFAULT)
            core.memory.user_write(sqe.off, value)
        return len(value)

    return issue


def _name(core: Core, addr: int) -> bytes:
    """The attribute name at `addr`; Refused EFAULT, or ERANGE when empty or too long."""
    try:
        name = core.memory.user_cstring(addr, XATTR_NAME_MAX + 1)
    except UserFault:
        readable = core.memory.is_user(addr, XATTR_NAME_MAX + 1)
        raise Refused(errno.ERANGE if readable else errno.EFAULT) from None
    if not name:
        raise Refused(errno.ERANGE)
    return name


def _checked(node: Node, name: bytes, elsewhere: int) -> Inode:
    """The file, if it may have an attribute of this name; Refused(`elsewhere`) if it is none."""
    if not name.startswith(_USER):
        raise Refused(errno.EOPNOTSUPP)
    if not isinstance(node, (RegularFile, Directory)):
        raise Refused(elsewhere)
    if name == _USER:
        raise Refused(errno.EINVAL)
    return node


def _finder(core: Core, request: Request) -> Callable[[], Node]:
    """Who looks the file up when the request is performed."""
    if request.sqe.opcode in (Op.FSETXATTR, Op.FGETXATTR):
        return lambda: core.file_of(request).node
    path = read_path(core, request.sqe.addr3)
    return lambda: core.world.vfs.walk(path).existing()
