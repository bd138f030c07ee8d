"""Laws of names: links, extended attributes, advice about files."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from pybpfvm.uring_backend.abi import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_FOLLOW,
    AT_SYMLINK_NOFOLLOW,
    FADV_NORMAL,
    MADV_WILLNEED,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_NOFOLLOW,
    O_RDONLY,
    O_RDWR,
    S_IFLNK,
    S_IFMT,
    SQE_FIXED_FILE,
    SQE_IO_LINK,
    STATX,
    STATX_BASIC_STATS,
    XATTR_CREATE,
    XATTR_REPLACE,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.lawbench import Bench, Law, expect, expect_errno, nop
from pybpfvm.uring_backend.trees import Entry

_HERE: Final = AT_FDCWD & 0xFFFF_FFFF
_ANSWER: Final = 8192  # offset of what requests write


def _text(bench: Bench, text: bytes, slot: int) -> int:
    return bench.put(text + b"\0", (1 << 15) + slot * 4096)


def _symlink(bench: Bench, target: bytes, name: bytes, **fields: int) -> int:
    sqe = Sqe(
        Op.SYMLINKAT,
        fd=fields.pop("fd", AT_FDCWD),
        addr=_text(bench, target, 0),
        off=_text(bench, name, 1),
        user_data=1,
        **fields,
    )
    return bench.result(sqe)


def _link(bench: Bench, old: bytes, new: bytes, flags: int = 0, fd: int = AT_FDCWD) -> int:
    return bench.result(
        Sqe(
            Op.LINKAT,
            fd=fd,
            len=_HERE,
            addr=_text(bench, old, 0),
            off=_text(bench, new, 1),
            op_flags=flags,
            user_data=1,
        )
    )


def _open(bench: Bench, name: bytes, flags: int) -> int:
    addr = _text(bench, name, 0)
    return bench.result(
        Sqe(Op.OPENAT, fd=AT_FDCWD, addr=addr, op_flags=flags, len=0o644, user_data=1)
    )


def _stat(bench: Bench, name: bytes, flags: int = 0) -> tuple[int, int, int]:
    """(links, type, size) of a file."""
    result = bench.result(
        Sqe(
            Op.STATX,
            fd=AT_FDCWD,
            addr=_text(bench, name, 0),
            off=bench.block + _ANSWER,
            len=STATX_BASIC_STATS,
            op_flags=flags,
            user_data=1,
        )
    )
    expect(f"statx {name!r}", result, 0)
    fields = STATX.unpack(bench.get(256, _ANSWER))
    return fields[3], fields[6] & S_IFMT, fields[8]


def symbolic_links(bench: Bench) -> None:
    """Followed on the way always, at the end unless the request is about the name."""
    bench.world.add_file("d/f", b"content")
    expect("relative", _symlink(bench, b"f", b"d/l"), 0)
    expect("directory", _symlink(bench, b"d", b"dd"), 0)
    expect("absolute", _symlink(bench, b"/d/f", b"d/abs"), 0)
    expect("dangling", _symlink(bench, b"new", b"dang"), 0)
    expect("loop", _symlink(bench, b"loop", b"loop"), 0)
    for name in (b"d/l", b"dd/l", b"dd/f", b"d/abs", b"dd/abs", b"dd/../d/f"):
        expect(f"size of {name!r}", _stat(bench, name)[2], 7)
        fd = _open(bench, name, O_RDONLY)
        read = Sqe(Op.READ, fd=fd, addr=bench.block, len=20, user_data=1)
        expect(f"read {name!r}", (fd >= 0, bench.result(read)), (True, 7))
    expect("itself", _stat(bench, b"d/l", AT_SYMLINK_NOFOLLOW)[1:], (S_IFLNK, 1))
    expect_errno("exists", _symlink(bench, b"x", b"dang"), errno.EEXIST)
    expect_errno("no target", _symlink(bench, b"", b"y"), errno.ENOENT)
    expect_errno("slash", _symlink(bench, b"x", b"y/"), errno.ENOENT)
    expect_errno("len", _symlink(bench, b"x", b"y", len=1), errno.EINVAL)
    expect_errno("fixed", _symlink(bench, b"x", b"y", flags=SQE_FIXED_FILE), errno.EBADF)
    expect_errno("not followed", _open(bench, b"d/l", O_NOFOLLOW), errno.ELOOP)
    expect_errno("no directory", _open(bench, b"dd", O_NOFOLLOW | O_DIRECTORY), errno.ENOTDIR)
    expect_errno("loop", _open(bench, b"loop", O_RDONLY), errno.ELOOP)
    expect_errno("dangling", _open(bench, b"dang", O_RDONLY), errno.ENOENT)
    expect_errno("exclusive", _open(bench, b"dang", O_CREAT | O_EXCL), errno.EEXIST)
    expect("made through the link", _open(bench, b"dang", O_CREAT | O_RDWR) >= 0, True)
    expect("it is there", bench.world.file_data("new"), b"")
    unlink = Sqe(Op.UNLINKAT, fd=AT_FDCWD, addr=_text(bench, b"d/l", 0), user_data=1)
    expect("unlink", bench.result(unlink), 0)
    expect("the file stays", bench.world.file_data("d/f"), b"content")


def links_do_not_lead_out(bench: Bench) -> None:
    """Neither an absolute target nor any number of ".." leaves the world."""
    for name, target in ((b"a", b"/etc/passwd"), (b"b", b"../../../../../../../etc/passwd")):
        expect("link", _symlink(bench, target, name), 0)
        expect_errno(f"open {target!r}", _open(bench, name, O_RDONLY), errno.ENOENT)
    expect("up", _symlink(bench, b"../../../../..", b"up"), 0)
    expect_errno("beyond", _open(bench, b"up/etc/passwd", O_RDONLY), errno.ENOENT)
    bench.world.add_file("f", b"")
    expect("the root", _open(bench, b"up/up/f", O_RDONLY) >= 0, True)


def hard_links(bench: Bench) -> None:
    """Another name for the same file, as long as it has one."""
    bench.world.add_file("f", b"one")
    bench.world.add_file("d/x", b"")
    expect("link", _link(bench, b"f", b"d/g"), 0)
    expect("links", _stat(bench, b"d/g")[0], 2)
    bench.world.add_file("f", b"other")
    expect("same file", bench.world.file_data("d/g"), b"other")
    expect_errno("exists", _link(bench, b"f", b"d/g"), errno.EEXIST)
    expect_errno("nothing there", _link(bench, b"no", b"d/g"), errno.ENOENT)
    expect_errno("directory", _link(bench, b"d", b"e"), errno.EPERM)
    expect_errno("flags", _link(bench, b"f", b"e", 1), errno.EINVAL)
    expect("to a link", _symlink(bench, b"f", b"l"), 0)
    expect("the link itself", _link(bench, b"l", b"l2"), 0)
    expect("kind", _stat(bench, b"l2", AT_SYMLINK_NOFOLLOW)[:2], (2, S_IFLNK))
    expect("followed", _link(bench, b"l", b"h", AT_SYMLINK_FOLLOW), 0)
    expect("links", _stat(bench, b"h")[0], 3)
    fd = bench.world.open("f", O_RDWR)
    expect("by descriptor", _link(bench, b"", b"k", AT_EMPTY_PATH, fd), 0)
    for name in (b"f", b"d/g", b"h", b"k"):
        unlink = Sqe(Op.UNLINKAT, fd=AT_FDCWD, addr=_text(bench, name, 0), user_data=1)
        expect("unlink", bench.result(unlink), 0)
    expect_errno("no name left", _link(bench, b"", b"z", AT_EMPTY_PATH, fd), errno.ENOENT)


def names_break_no_links(bench: Bench) -> None:
    """Errors of requests on names do not end a chain."""
    taken = _text(bench, b"f", 1)
    bench.world.add_file("f", b"")
    sqe = Sqe(
        Op.SYMLINKAT,
        SQE_IO_LINK,
        fd=AT_FDCWD,
        addr=_text(bench, b"x", 0),
        off=taken,
        user_data=1,
    )
    expect("chain", bench.run(sqe, nop(2)), [(1, -errno.EEXIST), (2, 0)])


def _set(bench: Bench, fd: int, name: bytes, value: bytes, flags: int = 0) -> int:
    return bench.result(
        Sqe(
            Op.FSETXATTR,
            fd=fd,
            addr=_text(bench, name, 0),
            off=bench.put(value, _ANSWER),
            len=len(value),
            op_flags=flags,
            user_data=1,
        )
    )


def _get(bench: Bench, fd: int, name: bytes, size: int = 100) -> tuple[int, bytes]:
    bench.put(bytes(100), _ANSWER)
    result = bench.result(
        Sqe(
            Op.FGETXATTR,
            fd=fd,
            addr=_text(bench, name, 0),
            off=bench.block + _ANSWER,
            len=size,
            user_data=1,
        )
    )
    return result, bench.get(max(result, 0), _ANSWER)


def extended_attributes(bench: Bench) -> None:
    """Set, read and found again by path; only `user.` names exist."""
    bench.world.add_file("f", b"")
    fd = bench.world.open("f", O_RDWR)
    expect("set", _set(bench, fd, b"user.a", b"value"), 0)
    expect("get", _get(bench, fd, b"user.a"), (5, b"value"))
    expect("size", _get(bench, fd, b"user.a", 0)[0], 5)
    expect_errno("room", _get(bench, fd, b"user.a", 4)[0], errno.ERANGE)
    expect_errno("absent", _get(bench, fd, b"user.b")[0], errno.ENODATA)
    expect_errno("create", _set(bench, fd, b"user.a", b"x", XATTR_CREATE), errno.EEXIST)
    expect_errno("replace", _set(bench, fd, b"user.b", b"x", XATTR_REPLACE), errno.ENODATA)
    expect_errno("flags", _set(bench, fd, b"user.b", b"x", 4), errno.EINVAL)
    expect_errno("empty name", _set(bench, fd, b"", b"x"), errno.ERANGE)
    expect_errno("long name", _set(bench, fd, b"user." + b"n" * 251, b"x"), errno.ERANGE)
    expect_errno("only a prefix", _set(bench, fd, b"user.", b"x"), errno.EINVAL)
    for name in (b"trusted.x", b"security.x", b"system.x", b"x"):
        expect_errno(f"{name!r}", _set(bench, fd, name, b"x"), errno.EOPNOTSUPP)
    reader, _ = bench.world.pipe()
    expect_errno("pipe", _set(bench, reader, b"user.a", b"x"), errno.EPERM)
    expect_errno("pipe", _get(bench, reader, b"user.a")[0], errno.ENODATA)

    path_name, where = _text(bench, b"user.p", 0), _text(bench, b"/f", 1)
    value = bench.put(b"by path", _ANSWER)
    by_path = Sqe(Op.SETXATTR, addr=path_name, off=value, len=7, addr3=where, user_data=1)
    expect("by path", bench.result(by_path), 0)
    expect("found", _get(bench, fd, b"user.p"), (7, b"by path"))
    again = Sqe(Op.GETXATTR, addr=path_name, off=value, len=50, addr3=where, user_data=1)
    _text(bench, b"user.p", 0)
    expect("get by path", bench.result(again), 7)
    nowhere = Sqe(
        Op.GETXATTR, addr=path_name, off=value, len=50, addr3=_text(bench, b"no", 1), user_data=1
    )
    expect_errno("no file", bench.result(nowhere), errno.ENOENT)


def advice(bench: Bench) -> None:
    """FADVISE, MADVISE and SYNC_FILE_RANGE check their arguments."""
    bench.world.add_file("f", bytes(10))
    fd = bench.world.open("f", O_RDWR)
    reader, _ = bench.world.pipe()
    for advised in range(6):
        sqe = Sqe(Op.FADVISE, fd=fd, addr=5, op_flags=advised, user_data=1)
        expect("fadvise", bench.result(sqe), 0)
    refused = [
        (Sqe(Op.FADVISE, fd=fd, addr=5, op_flags=6), errno.EINVAL),
        (Sqe(Op.FADVISE, fd=fd, addr=1 << 63, op_flags=FADV_NORMAL), errno.EINVAL),
        (Sqe(Op.FADVISE, fd=reader, len=5), errno.ESPIPE),
        (Sqe(Op.FADVISE, fd=fd, buf_index=1), errno.EINVAL),
        (Sqe(Op.SYNC_FILE_RANGE, fd=fd, len=5, op_flags=8), errno.EINVAL),
        (Sqe(Op.SYNC_FILE_RANGE, fd=fd, off=1 << 63, len=5), errno.EINVAL),
        (Sqe(Op.SYNC_FILE_RANGE, fd=reader, len=5), errno.ESPIPE),
        (Sqe(Op.SYNC_FILE_RANGE, fd=fd, addr=1), errno.EINVAL),
        (Sqe(Op.MADVISE, addr=bench.block + 1, len=5, op_flags=MADV_WILLNEED), errno.EINVAL),
        (Sqe(Op.MADVISE, addr=1 << 20, len=5, op_flags=MADV_WILLNEED), errno.ENOMEM),
        (Sqe(Op.MADVISE, addr=bench.block, file_index=1), errno.EINVAL),
    ]
    for sqe, number in refused:
        expect_errno(f"{sqe}", bench.result(sqe), number)
    expect("sync", bench.result(Sqe(Op.SYNC_FILE_RANGE, fd=fd, len=5, op_flags=7)), 0)
    needed = Sqe(Op.MADVISE, addr=bench.block, len=4096, op_flags=MADV_WILLNEED)
    expect("madvise", bench.result(needed), 0)


def trees(bench: Bench) -> None:
    """A world is seeded with a tree, and tells what has become of it."""
    entries = [
        Entry("d", 0o040755),
        Entry("d/f", 0o100640, b"content"),
        Entry("d/up", S_IFLNK | 0o777, b"../g"),
        Entry("g", 0o100644, b"top"),
        Entry("top", S_IFLNK | 0o777, b"/d/f"),
    ]
    bench.world.seed(entries)
    expect("links work", [_stat(bench, name)[2] for name in (b"d/up", b"top")], [3, 7])
    expect("as it was", bench.world.tree(), entries)
    unlink = Sqe(Op.UNLINKAT, fd=AT_FDCWD, addr=_text(bench, b"g", 0), user_data=1)
    expect("unlink", bench.result(unlink), 0)
    expect("as it is", bench.world.tree(), [*entries[:3], entries[4]])


LAWS: Final[Sequence[Law]] = (
    symbolic_links,
    links_do_not_lead_out,
    hard_links,
    names_break_no_links,
    extended_attributes,
    advice,
    trees,
)
