"""Requests on names and open files: opening, closing, describing, renaming, resizing."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pybpfvm.bits import U32, s32, s64
from pybpfvm.memory import UserFault
from pybpfvm.uring_backend.abi import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_NO_AUTOMOUNT,
    AT_REMOVEDIR,
    AT_STATX_SYNC_TYPE,
    AT_SYMLINK_NOFOLLOW,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    FD,
    FILE_INDEX_ALLOC,
    FIXED_FD_NO_CLOEXEC,
    FSYNC_DATASYNC,
    MAX_OFFSET,
    O_CLOEXEC,
    O_CREAT,
    O_TRUNC,
    OPEN_HOW,
    OPEN_VALID,
    PATH_MAX,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    SQE_BUFFER_SELECT,
    SQE_FIXED_FILE,
    STATX,
    STATX_BASIC_STATS,
    STATX_BTIME,
    STATX_RESERVED,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.sim.clock import NS_PER_S
from pybpfvm.uring_backend.sim.descriptors import Node, OpenFile
from pybpfvm.uring_backend.sim.opening import UMASK, open_path, unsupported_flags
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request
from pybpfvm.uring_backend.sim.vfs import CHUNK, Directory, Inode, Last, RegularFile

if TYPE_CHECKING:
    from pybpfvm.memory import AddressSpace
    from pybpfvm.uring_backend.sim.core import Core

_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_RESOLVE_IN_ROOT: Final = 0x10
_RESOLVE_CACHED: Final = 0x20
_RESOLVE: Final = 0x3F
_HOW_MAX: Final = 4096
_DEVICE: Final = (8, 1)  # of every simulated file


def unsupported(sqe: Sqe, memory: AddressSpace) -> str:
    """What an SQE on names asks for that the simulated world lacks; "" if nothing."""
    flags = 0
    if sqe.opcode == Op.OPENAT:
        flags = sqe.op_flags
    elif sqe.opcode == Op.OPENAT2 and sqe.len >= OPEN_HOW.size:
        if memory.is_user(sqe.off, OPEN_HOW.size):
            flags = OPEN_HOW.unpack(memory.user_read(sqe.off, OPEN_HOW.size))[0]
    elif sqe.opcode == Op.FALLOCATE:
        mode = sqe.len & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)
        return f"FALLOCATE with mode {mode:#x}" if mode else ""
    name = unsupported_flags(flags)
    return f"open with {name}" if name else ""


def read_path(core: Core, addr: int, *, may_be_empty: bool = False) -> bytes:
    """The path at `addr`. Refused EFAULT, ENAMETOOLONG, ENOENT when empty."""
    try:
        path = core.memory.user_cstring(addr, PATH_MAX)
    except UserFault:
        readable = core.memory.is_user(addr, PATH_MAX)
        raise Refused(errno.ENAMETOOLONG if readable else errno.EFAULT) from None
    if not path and not may_be_empty:
        raise Refused(errno.ENOENT)
    return path


def starting_point(core: Core, dirfd: int, path: bytes) -> Directory | None:
    """Where a path begins: the root, or the directory that `dirfd` names."""
    if path.startswith(b"/") or dirfd == AT_FDCWD:
        return None
    return core.world.directory(dirfd)


# --- direct descriptors -------------------------------------------------------------------------


def prepare_slot(sqe: Sqe, flags: int) -> None:
    """A direct descriptor can not be close-on-exec."""
    if sqe.file_index and flags & O_CLOEXEC:
        raise Refused(errno.EINVAL)


def install(core: Core, file_index: int, file: OpenFile) -> int:
    """Give a new file its descriptor (the result) or slot (0, or the slot when allocated)."""
    if not file_index:
        return core.fds.install(file)
    if file_index == FILE_INDEX_ALLOC:
        slot = core.slots.alloc()
        core.slots.install(slot, file)
        return slot
    core.slots.install(file_index - 1, file)
    return 0


# --- opening and closing ------------------------------------------------------------------------


def prepare_openat(core: Core, request: Request) -> Issue:
    """OPENAT: flags in Sqe.op_flags, mode in Sqe.len."""
    sqe = request.sqe
    return _prepare_open(core, request, sqe.op_flags & OPEN_VALID, sqe.len & 0o7777, 0)


def prepare_openat2(core: Core, request: Request) -> Issue:
    """OPENAT2: struct open_how of Sqe.len bytes at Sqe.off."""
    sqe = request.sqe
    if sqe.len < OPEN_HOW.size:
        raise Refused(errno.EINVAL)
    if sqe.len > _HOW_MAX:
        raise Refused(errno.E2BIG)
    try:
        raw = core.memory.user_read(sqe.off, sqe.len)
    except UserFault:
        raise Refused(errno.EFAULT) from None
    if any(raw[OPEN_HOW.size :]):
        raise Refused(errno.E2BIG)
    flags, mode, resolve = OPEN_HOW.unpack_from(raw)
    return _prepare_open(core, request, flags, mode, resolve, strict=True)


def _prepare_open(
    core: Core, request: Request, flags: int, mode: int, resolve: int, *, strict: bool = False
) -> Issue:
    sqe = request.sqe
    if sqe.buf_index:
        raise Refused(errno.EINVAL)
    if sqe.flags & SQE_FIXED_FILE:
        raise Refused(errno.EBADF)
    path = read_path(core, sqe.addr)
    prepare_slot(sqe, flags)
    if flags & (O_CREAT | O_TRUNC):
        request.through_worker = True
    beneath = "refuse" if resolve & _RESOLVE_BENEATH else ""
    if resolve & _RESOLVE_IN_ROOT:
        beneath = "pin"

    def issue() -> int:
        if strict:
            _check_how(flags, mode, resolve)
        start = starting_point(core, sqe.fd, b"" if beneath == "pin" else path)
        if not sqe.file_index:
            core.fds.free()
        links = not resolve & _RESOLVE_NO_SYMLINKS
        opened = open_path(core.world.vfs, path, flags, mode, start, beneath=beneath, links=links)
        file = opened.hold()
        try:
            return install(core, sqe.file_index, file)
        finally:
            file.drop()

    return issue


def _check_how(flags: int, mode: int, resolve: int) -> None:
    """openat2(2) refuses what openat(2) ignores."""
    if flags & ~OPEN_VALID or resolve & ~_RESOLVE:
        raise Refused(errno.EINVAL)
    if resolve & _RESOLVE_BENEATH and resolve & _RESOLVE_IN_ROOT:
        raise Refused(errno.EINVAL)
    if mode & ~0o7777 or (mode and not flags & O_CREAT):
        raise Refused(errno.EINVAL)
    if resolve & _RESOLVE_CACHED and flags & (O_CREAT | O_TRUNC):
        raise Refused(errno.EAGAIN)


def prepare_close(core: Core, request: Request) -> Issue:
    """CLOSE: descriptor Sqe.fd, or slot Sqe.file_index - 1."""
    sqe = request.sqe
    if sqe.off or sqe.addr or sqe.len or sqe.op_flags or sqe.buf_index:
        raise Refused(errno.EINVAL)
    if sqe.flags & SQE_FIXED_FILE:
        raise Refused(errno.EBADF)
    if sqe.file_index and sqe.fd:
        raise Refused(errno.EINVAL)

    def issue() -> int:
        if sqe.file_index:
            core.slots.remove(sqe.file_index - 1)
        else:
            core.fds.close(sqe.fd)
        return 0

    return issue


def prepare_fixed_fd_install(core: Core, request: Request) -> Issue:
    """FIXED_FD_INSTALL: a descriptor for the file in slot Sqe.fd."""
    sqe = request.sqe
    if sqe.off or sqe.addr or sqe.len or sqe.buf_index or sqe.file_index or sqe.addr3:
        raise Refused(errno.EINVAL)
    if not sqe.flags & SQE_FIXED_FILE:
        raise Refused(errno.EBADF)
    if sqe.op_flags & ~FIXED_FD_NO_CLOEXEC:
        raise Refused(errno.EINVAL)
    if sqe.personality:  # whoever opens a descriptor does so as itself
        raise Refused(errno.EPERM)
    return lambda: core.fds.install(core.file_of(request))


def prepare_files_update(core: Core, request: Request) -> Issue:
    """FILES_UPDATE: Sqe.len descriptors at Sqe.addr for the slots from Sqe.off on."""
    sqe = request.sqe
    if sqe.flags & (SQE_FIXED_FILE | SQE_BUFFER_SELECT):
        raise Refused(errno.EINVAL)
    if sqe.op_flags or sqe.file_index or not sqe.len:
        raise Refused(errno.EINVAL)

    def issue() -> int:
        if sqe.off & U32 == FILE_INDEX_ALLOC:
            return _allocate_slots(core, sqe)
        core.slots.check_range(sqe.off & U32, sqe.len)
        try:
            raw = core.memory.user_read(sqe.addr, sqe.len * FD.size)
        except UserFault:
            raise Refused(errno.EFAULT) from None
        return core.slots.update(sqe.off & U32, [fd for (fd,) in FD.iter_unpack(raw)])

    return issue


def _allocate_slots(core: Core, sqe: Sqe) -> int:
    """Any free slots for the descriptors, which their numbers replace: how many."""
    if not core.slots.exists:
        raise Refused(errno.ENXIO)
    for done in range(sqe.len):
        at = sqe.addr + done * FD.size
        try:
            (fd,) = FD.unpack(core.memory.user_read(at, FD.size))
            file = core.fds.get(fd)
            if file.node.is_ring:
                raise Refused(errno.EBADF)
            slot = core.slots.alloc()
            core.slots.install(slot, file)
            core.memory.user_write(at, FD.pack(slot))
        except UserFault:
            return done or -errno.EFAULT
        except Refused as refused:
            return done or -refused.errno
    return sqe.len


# --- open files ---------------------------------------------------------------------------------


def prepare_fsync(core: Core, request: Request) -> Issue:
    """FSYNC: nothing to do for simulated storage, but a file must be able to sync."""
    sqe = request.sqe
    if sqe.addr or sqe.buf_index or sqe.file_index or sqe.op_flags & ~FSYNC_DATASYNC:
        raise Refused(errno.EINVAL)
    if s64(sqe.off) < 0:
        raise Refused(errno.EINVAL)
    request.through_worker = True

    def issue() -> int:
        if s64(sqe.off) + sqe.len > MAX_OFFSET:
            raise Refused(errno.EINVAL)
        if not isinstance(core.file_of(request).node, Inode):
            raise Refused(errno.EINVAL)
        return 0

    return issue


def prepare_fallocate(core: Core, request: Request) -> Issue:
    """FALLOCATE: mode in Sqe.len, length in Sqe.addr."""
    sqe = request.sqe
    if sqe.buf_index or sqe.op_flags or sqe.file_index:
        raise Refused(errno.EINVAL)
    request.through_worker = True
    keep = bool(sqe.len & FALLOC_FL_KEEP_SIZE)

    def issue() -> int:
        file, offset, size = core.file_of(request), s64(sqe.off), s64(sqe.addr)
        if offset < 0 or size <= 0:
            raise Refused(errno.EINVAL)
        punch, zero = sqe.len & FALLOC_FL_PUNCH_HOLE, sqe.len & FALLOC_FL_ZERO_RANGE
        if (punch and zero) or (punch and not keep):
            raise Refused(errno.EOPNOTSUPP)
        if not file.writable:
            raise Refused(errno.EBADF)
        node = file.node
        if not isinstance(node, RegularFile):
            raise Refused(_no_range_errno(node))
        if offset + size > MAX_OFFSET:
            raise Refused(errno.EFBIG)
        if punch or zero:
            node.punch(offset, size)
        if not punch:
            node.reserve(offset, size)
            if not keep and offset + size > node.size():
                node.truncate(offset + size)
        return 0

    return issue


def _no_range_errno(node: Node) -> int:
    if isinstance(node, Directory):
        return errno.EISDIR
    return errno.ESPIPE if node.mode & 0o170000 == 0o010000 else errno.ENODEV


def prepare_ftruncate(core: Core, request: Request) -> Issue:
    """FTRUNCATE to Sqe.off bytes."""
    sqe = request.sqe
    if sqe.op_flags or sqe.addr or sqe.len or sqe.buf_index or sqe.file_index or sqe.addr3:
        raise Refused(errno.EINVAL)
    request.through_worker = True

    def issue() -> int:
        file = core.file_of(request)
        if s64(sqe.off) < 0:
            raise Refused(errno.EINVAL)
        if not isinstance(file.node, RegularFile) or not file.writable:
            raise Refused(errno.EINVAL)
        file.node.truncate(sqe.off)
        return 0

    return issue


# --- names --------------------------------------------------------------------------------------


def prepare_statx(core: Core, request: Request) -> Issue:
    """STATX: mask in Sqe.len, flags in Sqe.op_flags, the result goes to Sqe.off."""
    sqe = request.sqe
    if sqe.buf_index or sqe.file_index:
        raise Refused(errno.EINVAL)
    if sqe.flags & SQE_FIXED_FILE:
        raise Refused(errno.EBADF)
    empty = bool(sqe.op_flags & AT_EMPTY_PATH)
    path = read_path(core, sqe.addr, may_be_empty=empty)
    request.through_worker = True

    def issue() -> int:
        allowed = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE
        if sqe.len & STATX_RESERVED or sqe.op_flags & ~allowed:
            raise Refused(errno.EINVAL)
        if sqe.op_flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE:
            raise Refused(errno.EINVAL)
        if path:
            last = Last.SLASH if sqe.op_flags & AT_SYMLINK_NOFOLLOW else Last.FOLLOW
            start = starting_point(core, sqe.fd, path)
            node: Node = core.world.vfs.walk(path, start, last=last).existing()
        elif sqe.fd == AT_FDCWD:
            node = core.world.vfs.root
        else:
            node = core.fds.get(sqe.fd).node
        try:
            core.memory.user_write(sqe.off, _statx(node))
        except UserFault:
            raise Refused(errno.EFAULT) from None
        return 0

    return issue


def _statx(node: Node) -> bytes:
    """struct statx of a node, all the simulated world knows of it."""
    number, links, blocks = 0, 1, 0
    times = (0, 0, 0, 0)
    mask = STATX_BASIC_STATS
    if isinstance(node, Inode):
        number = node.number
        links = 2 + node.subdirectories() if isinstance(node, Directory) else node.links
        kept = node.times
        times = (kept.accessed, kept.born, kept.changed, kept.modified)
        mask |= STATX_BTIME
    if isinstance(node, RegularFile):
        blocks = node.allocated_bytes() // 512
    stamps = [part for time in times for part in divmod(time, NS_PER_S)]
    head = (mask, CHUNK, 0, links, 0, 0, node.mode, number, node.size(), blocks, 0)
    return STATX.pack(*head, *stamps, 0, 0, *_DEVICE)


def prepare_unlinkat(core: Core, request: Request) -> Issue:
    """UNLINKAT: a file, or with AT_REMOVEDIR an empty directory."""
    sqe = request.sqe
    if sqe.off or sqe.len or sqe.buf_index or sqe.file_index:
        raise Refused(errno.EINVAL)
    if sqe.flags & SQE_FIXED_FILE:
        raise Refused(errno.EBADF)
    if sqe.op_flags & ~AT_REMOVEDIR:
        raise Refused(errno.EINVAL)
    path = read_path(core, sqe.addr)
    request.through_worker = True

    def issue() -> int:
        vfs = core.world.vfs
        place = vfs.walk(path, starting_point(core, sqe.fd, path), last=Last.KEEP)
        if sqe.op_flags & AT_REMOVEDIR:
            last = path.rstrip(b"/").rpartition(b"/")[2]
            if last in (b".", b".."):
                raise Refused(errno.EINVAL if last == b"." else errno.ENOTEMPTY)
            vfs.remove_dir(place)
        else:
            vfs.unlink(place)
        return 0

    return issue


def prepare_mkdirat(core: Core, request: Request) -> Issue:
    """MKDIRAT: mode in Sqe.len."""
    sqe = request.sqe
    if sqe.off or sqe.op_flags or sqe.buf_index or sqe.file_index:
        raise Refused(errno.EINVAL)
    if sqe.flags & SQE_FIXED_FILE:
        raise Refused(errno.EBADF)
    path = read_path(core, sqe.addr)
    request.through_worker = True

    def issue() -> int:
        place = core.world.vfs.walk(path, starting_point(core, sqe.fd, path), last=Last.KEEP)
        core.world.vfs.make_dir(place, sqe.len & 0o1777 & ~UMASK)
        return 0

    return issue


def prepare_renameat(core: Core, request: Request) -> Issue:
    """RENAMEAT: from Sqe.addr under Sqe.fd to Sqe.off under Sqe.len."""
    sqe = request.sqe
    if sqe.buf_index or sqe.file_index:
        raise Refused(errno.EINVAL)
    if sqe.flags & SQE_FIXED_FILE:
        raise Refused(errno.EBADF)
    old, new = read_path(core, sqe.addr), read_path(core, sqe.off)
    request.through_worker = True

    def issue() -> int:
        flags = sqe.op_flags
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == RENAME_NOREPLACE + 2:
            raise Refused(errno.EINVAL)
        vfs = core.world.vfs
        # Mainline finds both directories, then the old name in its one, then the new one.
        try:
            source = vfs.walk(old, starting_point(core, sqe.fd, old), last=Last.KEEP)
        except Refused as refused:
            if refused.errno == errno.ENAMETOOLONG:
                vfs.walk(new, starting_point(core, s32(sqe.len), new), last=Last.KEEP)
            raise
        try:
            target = vfs.walk(new, starting_point(core, s32(sqe.len), new), last=Last.KEEP)
        except Refused as refused:
            if refused.errno == errno.ENAMETOOLONG:
                source.existing()
            raise
        exchange = bool(flags & RENAME_EXCHANGE)
        vfs.rename(source, target, replace=not flags & RENAME_NOREPLACE, exchange=exchange)
        return 0

    return issue
