"""Mainline io_uring as numbers (Linux 6.18): layouts, flags, what each opcode refers to.

Both backends and the ring read these tables; none of them writes an offset or an opcode number.
Everything is little-endian. Names are the kernel's without the IORING_ or IOSQE_ prefix.
The 2021 prototype shares this layout; it puts `cq_idx` (u16) at byte 48, in the low bits of the
later `addr3`.

    byte  0      1      2       4    8             16    24   28        32         40
          opcode flags  ioprio  fd   off / addr2   addr  len  op_flags  user_data  buf_index
    byte 42           44                         48                56
         personality  file_index / splice_fd_in  addr3 (cq_idx)    pad
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import Enum, IntEnum
from typing import Final

from pybpfvm.bits import U16


class Op(IntEnum):
    """Opcodes of Linux 6.18."""

    NOP = 0
    READV = 1
    WRITEV = 2
    FSYNC = 3
    READ_FIXED = 4
    WRITE_FIXED = 5
    POLL_ADD = 6
    POLL_REMOVE = 7
    SYNC_FILE_RANGE = 8
    SENDMSG = 9
    RECVMSG = 10
    TIMEOUT = 11
    TIMEOUT_REMOVE = 12
    ACCEPT = 13
    ASYNC_CANCEL = 14
    LINK_TIMEOUT = 15
    CONNECT = 16
    FALLOCATE = 17
    OPENAT = 18
    CLOSE = 19
    FILES_UPDATE = 20
    STATX = 21
    READ = 22
    WRITE = 23
    FADVISE = 24
    MADVISE = 25
    SEND = 26
    RECV = 27
    OPENAT2 = 28
    EPOLL_CTL = 29
    SPLICE = 30
    PROVIDE_BUFFERS = 31
    REMOVE_BUFFERS = 32
    TEE = 33
    SHUTDOWN = 34
    RENAMEAT = 35
    UNLINKAT = 36
    MKDIRAT = 37
    SYMLINKAT = 38
    LINKAT = 39
    MSG_RING = 40
    FSETXATTR = 41
    SETXATTR = 42
    FGETXATTR = 43
    GETXATTR = 44
    SOCKET = 45
    URING_CMD = 46
    SEND_ZC = 47
    SENDMSG_ZC = 48
    READ_MULTISHOT = 49
    WAITID = 50
    FUTEX_WAIT = 51
    FUTEX_WAKE = 52
    FUTEX_WAITV = 53
    FIXED_FD_INSTALL = 54
    FTRUNCATE = 55
    BIND = 56
    LISTEN = 57
    RECV_ZC = 58
    EPOLL_WAIT = 59
    READV_FIXED = 60
    WRITEV_FIXED = 61
    PIPE = 62


OP_LAST: Final = 63


class Register(IntEnum):
    """Commands of io_uring_register, Linux 6.18."""

    BUFFERS = 0
    UNREGISTER_BUFFERS = 1
    FILES = 2
    UNREGISTER_FILES = 3
    EVENTFD = 4
    UNREGISTER_EVENTFD = 5
    FILES_UPDATE = 6
    EVENTFD_ASYNC = 7
    PROBE = 8
    PERSONALITY = 9
    UNREGISTER_PERSONALITY = 10
    RESTRICTIONS = 11
    ENABLE_RINGS = 12
    FILES2 = 13
    FILES_UPDATE2 = 14
    BUFFERS2 = 15
    BUFFERS_UPDATE = 16
    IOWQ_AFF = 17
    UNREGISTER_IOWQ_AFF = 18
    IOWQ_MAX_WORKERS = 19
    RING_FDS = 20
    UNREGISTER_RING_FDS = 21
    PBUF_RING = 22
    UNREGISTER_PBUF_RING = 23
    SYNC_CANCEL = 24
    FILE_ALLOC_RANGE = 25
    PBUF_STATUS = 26
    NAPI = 27
    UNREGISTER_NAPI = 28
    CLOCK = 29
    CLONE_BUFFERS = 30
    SEND_MSG_RING = 31
    ZCRX_IFQ = 32
    RESIZE_RINGS = 33
    MEM_REGION = 34
    QUERY = 35


# --- submission entries ---------------------------------------------------------------------

SQE_BYTES: Final = 64
_SQE = struct.Struct("<BBHiQQIIQHHIQQ")

# Sqe.flags
SQE_FIXED_FILE: Final = 1 << 0
SQE_IO_DRAIN: Final = 1 << 1
SQE_IO_LINK: Final = 1 << 2
SQE_IO_HARDLINK: Final = 1 << 3
SQE_ASYNC: Final = 1 << 4
SQE_BUFFER_SELECT: Final = 1 << 5
SQE_CQE_SKIP_SUCCESS: Final = 1 << 6
SQE_VALID_FLAGS: Final = (1 << 7) - 1
SQE_ANY_LINK: Final = SQE_IO_LINK | SQE_IO_HARDLINK

FILE_INDEX_ALLOC: Final = 0xFFFF_FFFF  # Sqe.file_index: any free slot; otherwise slot + 1


@dataclass(frozen=True, slots=True)
class Sqe:
    """A submission entry. Unions have the name of their commonest member: `off` is also addr2,
    `op_flags` is rw_flags, timeout_flags, open_flags, poll32_events, ..., `file_index` is also
    splice_fd_in, `buf_index` is also the buffer group."""

    opcode: int
    flags: int = 0
    ioprio: int = 0
    fd: int = -1
    off: int = 0
    addr: int = 0
    len: int = 0
    op_flags: int = 0
    user_data: int = 0
    buf_index: int = 0
    personality: int = 0
    file_index: int = 0
    addr3: int = 0
    pad: int = 0

    @property
    def cq_idx(self) -> int:
        """The 2021 prototype's CQ index (byte 48, u16)."""
        return self.addr3 & U16

    def pack(self) -> bytes:
        """The 64 bytes; struct.error when a field does not fit its width."""
        return _SQE.pack(
            self.opcode,
            self.flags,
            self.ioprio,
            self.fd,
            self.off,
            self.addr,
            self.len,
            self.op_flags,
            self.user_data,
            self.buf_index,
            self.personality,
            self.file_index,
            self.addr3,
            self.pad,
        )

    def misfits(self) -> Iterator[tuple[str, int]]:
        """Fields that do not fit their width, with that width in bits."""
        for field, code in zip(fields(self), _SQE.format[1:], strict=True):
            try:
                struct.pack(code, getattr(self, field.name))
            except struct.error:
                yield field.name, 8 * struct.calcsize(code)

    @classmethod
    def unpack(cls, raw: bytes | bytearray | memoryview) -> Sqe:
        """The entry in `raw`, exactly 64 bytes long (struct.error otherwise)."""
        return cls(*_SQE.unpack(raw))


# --- completion entries ---------------------------------------------------------------------

CQE_BYTES: Final = 16
_CQE = struct.Struct("<QiI")
BIG_CQE: Final = struct.Struct("<QiIQQ")  # with SETUP_CQE32; with SETUP_CQE_MIXED, some
NO_EXTRA: Final = (0, 0)

CQE_F_BUFFER: Final = 1 << 0  # the upper 16 bits of flags are the buffer's id
CQE_F_MORE: Final = 1 << 1
CQE_F_SOCK_NONEMPTY: Final = 1 << 2
CQE_F_NOTIF: Final = 1 << 3
CQE_F_BUF_MORE: Final = 1 << 4
CQE_F_SKIP: Final = 1 << 5  # on rings with SETUP_CQE_MIXED: no CQE, the next one did not fit here
CQE_F_32: Final = 1 << 15  # there: it has a second half
CQE_BUFFER_SHIFT: Final = 16


@dataclass(frozen=True, slots=True)
class Cqe:
    """A completion entry; `extra` is big_cqe, the second half on rings with SETUP_CQE32."""

    user_data: int
    res: int
    flags: int = 0
    extra: tuple[int, int] = NO_EXTRA

    def __repr__(self) -> str:
        extra = f", extra={self.extra}" if any(self.extra) else ""
        return f"Cqe(user_data={self.user_data}, res={self.res}, flags={self.flags}{extra})"

    def pack(self) -> bytes:
        """The first 16 bytes, which are all of it without SETUP_CQE32."""
        return _CQE.pack(self.user_data, self.res, self.flags)

    @classmethod
    def unpack(cls, raw: bytes | bytearray | memoryview) -> Cqe:
        """The entry in `raw`, exactly 16 or 32 bytes long."""
        if len(raw) == BIG_CQE.size:
            user_data, res, flags, *extra = BIG_CQE.unpack(raw)
            return cls(user_data, res, flags, (extra[0], extra[1]))
        return cls(*_CQE.unpack(raw))


# --- io_uring_setup, io_uring_enter, io_uring_register ------------------------------------------

SETUP_IOPOLL: Final = 1 << 0
SETUP_SQPOLL: Final = 1 << 1
SETUP_SQ_AFF: Final = 1 << 2
SETUP_CQSIZE: Final = 1 << 3
SETUP_CLAMP: Final = 1 << 4
SETUP_ATTACH_WQ: Final = 1 << 5
SETUP_R_DISABLED: Final = 1 << 6
SETUP_SUBMIT_ALL: Final = 1 << 7
SETUP_COOP_TASKRUN: Final = 1 << 8
SETUP_TASKRUN_FLAG: Final = 1 << 9
SETUP_SQE128: Final = 1 << 10
SETUP_CQE32: Final = 1 << 11
SETUP_SINGLE_ISSUER: Final = 1 << 12
SETUP_DEFER_TASKRUN: Final = 1 << 13
SETUP_NO_MMAP: Final = 1 << 14
SETUP_REGISTERED_FD_ONLY: Final = 1 << 15
SETUP_NO_SQARRAY: Final = 1 << 16
SETUP_HYBRID_IOPOLL: Final = 1 << 17
SETUP_CQE_MIXED: Final = 1 << 18
SETUP_SQE_MIXED: Final = 1 << 19  # Linux 6.19
SETUP_SQ_REWIND: Final = 1 << 20  # Linux 7.0
ENTRY_SIZES: Final = SETUP_SQE128 | SETUP_CQE32
# The set-up flags of which requests notice something.
NOTICED: Final = ENTRY_SIZES | SETUP_CQE_MIXED | SETUP_IOPOLL


def sqe_bytes(setup_flags: int) -> int:
    """What one SQE takes on a ring with these flags."""
    return SQE_BYTES << bool(setup_flags & SETUP_SQE128)


def cqe_bytes(setup_flags: int) -> int:
    """What one CQE takes on a ring with these flags."""
    return CQE_BYTES << bool(setup_flags & SETUP_CQE32)


SETUP_PARAMS_BYTES: Final = 120
MAX_SQ_ENTRIES: Final = 32768
MAX_CQ_ENTRIES: Final = 65536

ENTER_GETEVENTS: Final = 1 << 0
ENTER_SQ_WAKEUP: Final = 1 << 1
ENTER_SQ_WAIT: Final = 1 << 2
ENTER_EXT_ARG: Final = 1 << 3
ENTER_REGISTERED_RING: Final = 1 << 4
ENTER_ABS_TIMER: Final = 1 << 5
ENTER_EXT_ARG_REG: Final = 1 << 6
ENTER_NO_IOWAIT: Final = 1 << 7
ENTER_ALL: Final = (1 << 8) - 1

REGISTER_BUFFERS: Final = 0
UNREGISTER_BUFFERS: Final = 1
REGISTER_FILES: Final = 2
UNREGISTER_FILES: Final = 3
REGISTER_EVENTFD: Final = 4
UNREGISTER_EVENTFD: Final = 5
REGISTER_FILES_UPDATE: Final = 6
REGISTER_PROBE: Final = 8
REGISTER_RING_FDS: Final = 20
UNREGISTER_RING_FDS: Final = 21
REGISTER_PBUF_RING: Final = 22
UNREGISTER_PBUF_RING: Final = 23
REGISTER_SYNC_CANCEL: Final = 24
REGISTER_PBUF_STATUS: Final = 26

# struct io_uring_buf_reg: ring_addr, ring_entries, bgid, flags; struct io_uring_buf_status
BUFFER_RING: Final = struct.Struct("<QIHH24x")
BUFFER_RING_STATUS: Final = struct.Struct("<II32x")
BUFFER_RING_ENTRY: Final = struct.Struct("<QIHxx")  # addr, len, bid
BUFFER_RING_TAIL_AT: Final = 14
MAX_BUFFER_RING: Final = 1 << 16
PBUF_RING_MMAP: Final = 1 << 0
PBUF_RING_INC: Final = 1 << 1

REGISTER_FILES2: Final = 13
REGISTER_FILES_UPDATE2: Final = 14
REGISTER_BUFFERS2: Final = 15
REGISTER_BUFFERS_UPDATE: Final = 16
REGISTER_FILE_ALLOC_RANGE: Final = 25
REGISTER_CLONE_BUFFERS: Final = 30
REGISTER_BPF_FILTER: Final = 37  # from Linux 7.0

CLONE_DST_REPLACE: Final = 1 << 1

REGISTER_FILES_SKIP: Final = -2

OFF_SQ_RING: Final = 0
OFF_CQ_RING: Final = 0x8000000
OFF_SQES: Final = 0x10000000

SQ_NEED_WAKEUP: Final = 1 << 0
SQ_CQ_OVERFLOW: Final = 1 << 1
SQ_TASKRUN: Final = 1 << 2

FEAT_SINGLE_MMAP: Final = 1 << 0
FEAT_NODROP: Final = 1 << 1
FEAT_EXT_ARG: Final = 1 << 8

# --- per-opcode flags ------------------------------------------------------------------------

FSYNC_DATASYNC: Final = 1 << 0

TIMEOUT_ABS: Final = 1 << 0
TIMEOUT_UPDATE: Final = 1 << 1
TIMEOUT_BOOTTIME: Final = 1 << 2
TIMEOUT_REALTIME: Final = 1 << 3
LINK_TIMEOUT_UPDATE: Final = 1 << 4
TIMEOUT_ETIME_SUCCESS: Final = 1 << 5
TIMEOUT_MULTISHOT: Final = 1 << 6

# Sqe.len of POLL_ADD and POLL_REMOVE
POLL_ADD_MULTI: Final = 1 << 0
POLL_UPDATE_EVENTS: Final = 1 << 1
POLL_UPDATE_USER_DATA: Final = 1 << 2
POLL_ADD_LEVEL: Final = 1 << 3

POLLIN: Final = 0x001
POLLPRI: Final = 0x002
POLLOUT: Final = 0x004
POLLERR: Final = 0x008
POLLHUP: Final = 0x010
POLLNVAL: Final = 0x020
POLLRDNORM: Final = 0x040
POLLRDBAND: Final = 0x080
POLLWRNORM: Final = 0x100
POLLWRBAND: Final = 0x200
POLLRDHUP: Final = 0x2000
DEFAULT_POLL: Final = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM  # of files that never block

ASYNC_CANCEL_ALL: Final = 1 << 0
ASYNC_CANCEL_FD: Final = 1 << 1
ASYNC_CANCEL_ANY: Final = 1 << 2
ASYNC_CANCEL_FD_FIXED: Final = 1 << 3
ASYNC_CANCEL_USERDATA: Final = 1 << 4
ASYNC_CANCEL_OP: Final = 1 << 5  # the opcode to look for is in Sqe.len

# Sqe.ioprio of SEND, RECV and their relatives
RECVSEND_POLL_FIRST: Final = 1 << 0
RECV_MULTISHOT: Final = 1 << 1
RECVSEND_FIXED_BUF: Final = 1 << 2
SEND_ZC_REPORT_USAGE: Final = 1 << 3
RECVSEND_BUNDLE: Final = 1 << 4
SEND_VECTORIZED: Final = 1 << 5
# Of a private branch, which nobody wrote the number down of: the first that is free.
RECV_POLL_BPF: Final = 1 << 6

# Sqe.ioprio of ACCEPT
ACCEPT_MULTISHOT: Final = 1 << 0
ACCEPT_DONTWAIT: Final = 1 << 1
ACCEPT_POLL_FIRST: Final = 1 << 2

# Sqe.op_flags of NOP
NOP_INJECT_RESULT: Final = 1 << 0  # the result is in Sqe.len
NOP_FILE: Final = 1 << 1
NOP_FIXED_FILE: Final = 1 << 2
NOP_FIXED_BUFFER: Final = 1 << 3
NOP_TW: Final = 1 << 4
NOP_CQE32: Final = 1 << 5

NOTIF_USAGE_ZC_COPIED: Final = 1 << 31  # in the result of a notification

# Sqe.off of URING_CMD on a socket
SOCKET_OP_SIOCINQ: Final = 0
SOCKET_OP_SIOCOUTQ: Final = 1
SOCKET_OP_GETSOCKOPT: Final = 2
SOCKET_OP_SETSOCKOPT: Final = 3

MSG_OOB: Final = 0x1
MSG_PEEK: Final = 0x2
MSG_TRUNC: Final = 0x20
MSG_DONTWAIT: Final = 0x40
MSG_WAITALL: Final = 0x100
MSG_NOSIGNAL: Final = 0x4000
MSG_MORE: Final = 0x8000
MSG_CMSG_CLOEXEC: Final = 0x4000_0000

SOL_SOCKET: Final = 1
SO_REUSEADDR: Final = 2
SO_TYPE: Final = 3
SO_ERROR: Final = 4
SO_BROADCAST: Final = 6
SO_KEEPALIVE: Final = 9
SO_LINGER: Final = 13
SO_ACCEPTCONN: Final = 30
SO_PROTOCOL: Final = 38
SO_DOMAIN: Final = 39
SOL_TCP: Final = 6
SOL_UDP: Final = 17
TCP_NODELAY: Final = 1
TCP_CORK: Final = 3
TCP_QUICKACK: Final = 12
SCM_RIGHTS: Final = 1

SHUT_RD: Final = 0
SHUT_WR: Final = 1
SHUT_RDWR: Final = 2

AF_UNSPEC: Final = 0
AF_UNIX: Final = 1
AF_INET: Final = 2
SOCK_STREAM: Final = 1
SOCK_DGRAM: Final = 2
SOCK_SEQPACKET: Final = 5
SOCK_NONBLOCK: Final = 0o4000
SOCK_CLOEXEC: Final = 0o2000000

O_ACCMODE: Final = 3
O_RDONLY: Final = 0
O_WRONLY: Final = 1
O_RDWR: Final = 2
O_CREAT: Final = 0o100
O_EXCL: Final = 0o200
O_NOCTTY: Final = 0o400
O_TRUNC: Final = 0o1000
O_APPEND: Final = 0o2000
O_NONBLOCK: Final = 0o4000
O_DSYNC: Final = 0o10000
O_DIRECT: Final = 0o40000
O_LARGEFILE: Final = 0o100000
O_DIRECTORY: Final = 0o200000
O_NOFOLLOW: Final = 0o400000
O_NOATIME: Final = 0o1000000
O_CLOEXEC: Final = 0o2000000
O_SYNC: Final = 0o4010000
O_PATH: Final = 0o10000000
O_TMPFILE: Final = 0o20200000
_FASYNC: Final = 0o20000
# What open(2) looks at; O_SYNC and O_TMPFILE include O_DSYNC and O_DIRECTORY.
OPEN_VALID: Final = (
    O_ACCMODE
    | O_CREAT
    | O_EXCL
    | O_NOCTTY
    | O_TRUNC
    | O_APPEND
    | O_NONBLOCK
    | O_SYNC
    | O_DIRECT
    | O_LARGEFILE
    | O_NOFOLLOW
    | O_NOATIME
    | O_CLOEXEC
    | O_PATH
    | O_TMPFILE
    | _FASYNC
)

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_REMOVEDIR: Final = 0x200
AT_SYMLINK_FOLLOW: Final = 0x400
AT_NO_AUTOMOUNT: Final = 0x800
AT_EMPTY_PATH: Final = 0x1000
AT_STATX_SYNC_TYPE: Final = 0x6000

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2

RWF_HIPRI: Final = 0x01
RWF_DSYNC: Final = 0x02
RWF_SYNC: Final = 0x04
RWF_NOWAIT: Final = 0x08
RWF_APPEND: Final = 0x10
RWF_NOAPPEND: Final = 0x20

FALLOC_FL_KEEP_SIZE: Final = 0x01
FALLOC_FL_PUNCH_HOLE: Final = 0x02
FALLOC_FL_ZERO_RANGE: Final = 0x10

STATX_BASIC_STATS: Final = 0x7FF
STATX_BTIME: Final = 0x800
STATX_RESERVED: Final = 0x8000_0000

S_IFMT: Final = 0o170000
S_IFIFO: Final = 0o010000
S_IFDIR: Final = 0o040000
S_IFREG: Final = 0o100000
S_IFLNK: Final = 0o120000
S_IFSOCK: Final = 0o140000

# Sqe.op_flags of SPLICE and TEE
SPLICE_F_NONBLOCK: Final = 1 << 1
SPLICE_F_ALL: Final = 0xF
SPLICE_F_FD_IN_FIXED: Final = 1 << 31  # Sqe.file_index is a slot

FIXED_FD_NO_CLOEXEC: Final = 1 << 0  # Sqe.op_flags of FIXED_FD_INSTALL

XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
XATTR_NAME_MAX: Final = 255
XATTR_SIZE_MAX: Final = 65536

FADV_NORMAL: Final = 0
FADV_LAST: Final = 5
SYNC_FILE_RANGE_ALL: Final = 7
MADV_NORMAL: Final = 0
MADV_RANDOM: Final = 1
MADV_SEQUENTIAL: Final = 2
MADV_WILLNEED: Final = 3
MADV_COLD: Final = 20
MADV_PAGEOUT: Final = 21

FUTEX2_SIZE_U32: Final = 2
FUTEX2_SIZE_MASK: Final = 3
FUTEX2_NUMA: Final = 4
FUTEX2_MPOL: Final = 8
FUTEX2_PRIVATE: Final = 128
FUTEX_WAITV_MAX: Final = 128

P_ALL: Final = 0  # Sqe.len of WAITID
P_PID: Final = 1
WNOHANG: Final = 1
WSTOPPED: Final = 2
WEXITED: Final = 4
WCONTINUED: Final = 8
WNOWAIT: Final = 0x1000000
WSTATES: Final = WSTOPPED | WEXITED | WCONTINUED
WAITID_OPTIONS: Final = (
    WSTATES | WNOHANG | WNOWAIT | 0xE0000000
)  # and __WNOTHREAD, __WALL, __WCLONE
SIGCHLD: Final = 17
CLD_EXITED: Final = 1
CLD_KILLED: Final = 2

EPOLL_CTL_ADD: Final = 1
EPOLL_CTL_DEL: Final = 2
EPOLL_CTL_MOD: Final = 3
EPOLLEXCLUSIVE: Final = 1 << 28
EPOLLWAKEUP: Final = 1 << 29
EPOLLONESHOT: Final = 1 << 30
EPOLLET: Final = 1 << 31

MSG_DATA: Final = 0  # Sqe.addr of MSG_RING
MSG_SEND_FD: Final = 1
MSG_RING_CQE_SKIP: Final = 1 << 0
MSG_RING_FLAGS_PASS: Final = 1 << 1  # the CQE's flags are in Sqe.file_index

PATH_MAX: Final = 4096
NAME_MAX: Final = 255
IOV_MAX: Final = 1024
MAX_RW_COUNT: Final = 0x7FFF_F000  # one transfer is cut to this many bytes
MAX_OFFSET: Final = (1 << 63) - 1
CURRENT_POSITION: Final = (1 << 64) - 1  # Sqe.off: read or write where the file position is

# --- structures in user memory ---------------------------------------------------------------

TIMESPEC: Final = struct.Struct("<qq")  # __kernel_timespec: seconds, nanoseconds
GETEVENTS_ARG = struct.Struct("<QIIQ")  # sigmask, its size, min_wait_usec, timespec
IOVEC: Final = struct.Struct("<QQ")  # iov_base, iov_len
MSGHDR: Final = struct.Struct("<QIxxxxQQQQIxxxx")  # name, namelen, iov, iovlen, control, len, flags
OPEN_HOW: Final = struct.Struct("<QQQ")  # flags, mode, resolve
RECVMSG_OUT: Final = struct.Struct("<IIII")  # namelen, controllen, payloadlen, flags
CMSG: Final = struct.Struct("<Qii")  # cmsg_len, cmsg_level, cmsg_type
SOCKADDR_IN: Final = struct.Struct("<H2s4s8x")  # family, port and address in network order
SOCKLEN: Final = struct.Struct("<I")
FD: Final = struct.Struct("<i")
EPOLL_EVENT: Final = struct.Struct("<IQ")  # events, data; packed
FUTEX_WAITV_STRUCT: Final = struct.Struct("<QQII")  # value, address, flags, reserved
# mask blksize attributes | nlink uid gid mode | ino size blocks attributes_mask |
# atime btime ctime mtime, each (sec, nsec) | rdev and dev, major and minor
STATX: Final = struct.Struct("<IIQIIIHxxQQQQqIxxxxqIxxxxqIxxxxqIxxxxIIII112x")
STATX_BYTES: Final = 256


# --- what each opcode refers to ---------------------------------------------------------------


class Target(Enum):
    """What a pointer field of an SQE points to, and which way data flows."""

    IN = "bytes the request reads"
    OUT = "bytes the request writes"
    STRING = "NUL-terminated string the request reads"
    TIMESPEC = "struct __kernel_timespec the request reads"
    IOVEC_IN = "array of struct iovec naming bytes the request reads"
    IOVEC_OUT = "array of struct iovec naming bytes the request writes"
    MSGHDR_IN = "struct msghdr naming bytes the request reads"
    MSGHDR_OUT = "struct msghdr naming bytes the request writes, itself updated"
    FIXED_IN = "bytes inside a registered buffer that the request reads"
    FIXED_OUT = "bytes inside a registered buffer that the request writes"
    BUFFERS = "consecutive buffers to provide: Sqe.fd of them, Sqe.len bytes each"
    FDS = "array of s32 descriptors the request reads, and may overwrite"
    SOCKADDR_OUT = "socket address written, bounded by the u32 that the `length_at` field points to"
    OPAQUE = "memory of a kind these tables do not describe"


class FdUse(Enum):
    """What Sqe.fd is."""

    NONE = "not a descriptor"
    FILE = "the file the request works on (a slot with SQE_FIXED_FILE)"
    DIRECTORY = "where a relative path starts, or AT_FDCWD"
    OTHER = "a descriptor outside the rules above (CLOSE, EPOLL_CTL, ASYNC_CANCEL by fd)"


@dataclass(frozen=True, slots=True)
class Pointer:
    """A field of the SQE that points into user memory.

    The block is `unit` bytes times the SQE field `count` (1 when `count` is ""). `nullable`: 0
    means absent. `only_with`: the pointer is there only when op_flags has one of these bits.
    """

    field: str
    target: Target
    count: str = ""
    unit: int = 1
    nullable: bool = False
    only_with: int = 0
    length_at: str = ""


@dataclass(frozen=True, slots=True)
class OpInfo:
    """What the fields of one opcode's SQE mean, as far as they refer to anything.

    `ioprio`: the field may be non-zero. `buffer_select`: SQE_BUFFER_SELECT may be set, and then
    `addr` is not a pointer. `file_index`: Sqe.file_index names a direct descriptor slot.
    """

    fd: FdUse = FdUse.NONE
    pointers: tuple[Pointer, ...] = ()
    ioprio: bool = False
    buffer_select: bool = False
    file_index: bool = False
    second_fd: str = ""


_PATH = Pointer("addr", Target.STRING)
_PATH2 = Pointer("off", Target.STRING)
_TIMESPEC = Pointer("addr", Target.TIMESPEC)
_BYTES_IN = Pointer("addr", Target.IN, "len")
_BYTES_OUT = Pointer("addr", Target.OUT, "len")
_PEER = Pointer("addr", Target.SOCKADDR_OUT, nullable=True, length_at="off")

_F = FdUse.FILE
_D = FdUse.DIRECTORY

OPS: Final[Mapping[Op, OpInfo]] = {
    Op.NOP: OpInfo(),
    Op.READV: OpInfo(_F, (Pointer("addr", Target.IOVEC_OUT, "len", 16),), True, True),
    Op.WRITEV: OpInfo(_F, (Pointer("addr", Target.IOVEC_IN, "len", 16),), True),
    Op.FSYNC: OpInfo(_F),
    Op.READ_FIXED: OpInfo(_F, (Pointer("addr", Target.FIXED_OUT, "len"),), True),
    Op.WRITE_FIXED: OpInfo(_F, (Pointer("addr", Target.FIXED_IN, "len"),), True),
    Op.POLL_ADD: OpInfo(_F),
    Op.POLL_REMOVE: OpInfo(),
    Op.SYNC_FILE_RANGE: OpInfo(_F),
    Op.SENDMSG: OpInfo(_F, (Pointer("addr", Target.MSGHDR_IN),), True),
    Op.RECVMSG: OpInfo(_F, (Pointer("addr", Target.MSGHDR_OUT),), True, True),
    Op.TIMEOUT: OpInfo(pointers=(_TIMESPEC,)),
    Op.TIMEOUT_REMOVE: OpInfo(
        pointers=(Pointer("off", Target.TIMESPEC, only_with=TIMEOUT_UPDATE | LINK_TIMEOUT_UPDATE),)
    ),
    Op.ACCEPT: OpInfo(_F, (_PEER,), True, file_index=True),
    Op.ASYNC_CANCEL: OpInfo(FdUse.OTHER),
    Op.LINK_TIMEOUT: OpInfo(pointers=(_TIMESPEC,)),
    Op.CONNECT: OpInfo(_F, (Pointer("addr", Target.IN, "off"),)),
    Op.FALLOCATE: OpInfo(_F),
    Op.OPENAT: OpInfo(_D, (_PATH,), file_index=True),
    Op.CLOSE: OpInfo(FdUse.OTHER, file_index=True),
    Op.FILES_UPDATE: OpInfo(pointers=(Pointer("addr", Target.FDS, "len", 4),)),
    Op.STATX: OpInfo(_D, (_PATH, Pointer("off", Target.OUT, unit=STATX_BYTES))),
    Op.READ: OpInfo(_F, (_BYTES_OUT,), True, True),
    Op.WRITE: OpInfo(_F, (_BYTES_IN,), True),
    Op.FADVISE: OpInfo(_F),
    Op.MADVISE: OpInfo(pointers=(Pointer("addr", Target.OPAQUE),)),
    Op.SEND: OpInfo(_F, (_BYTES_IN, Pointer("off", Target.OPAQUE, nullable=True)), True, True),
    Op.RECV: OpInfo(_F, (_BYTES_OUT,), True, True),
    Op.OPENAT2: OpInfo(_D, (_PATH, Pointer("off", Target.IN, "len")), file_index=True),
    Op.EPOLL_CTL: OpInfo(FdUse.OTHER, (Pointer("addr", Target.IN, unit=12),), second_fd="off"),
    Op.SPLICE: OpInfo(_F, second_fd="file_index"),
    Op.PROVIDE_BUFFERS: OpInfo(pointers=(Pointer("addr", Target.BUFFERS),)),
    Op.REMOVE_BUFFERS: OpInfo(),
    Op.TEE: OpInfo(_F, second_fd="file_index"),
    Op.SHUTDOWN: OpInfo(_F),
    Op.RENAMEAT: OpInfo(_D, (_PATH, _PATH2), second_fd="len"),
    Op.UNLINKAT: OpInfo(_D, (_PATH,)),
    Op.MKDIRAT: OpInfo(_D, (_PATH,)),
    Op.SYMLINKAT: OpInfo(_D, (_PATH, _PATH2)),
    Op.LINKAT: OpInfo(_D, (_PATH, _PATH2), second_fd="len"),
    Op.MSG_RING: OpInfo(_F),
    Op.FSETXATTR: OpInfo(_F, (_PATH, Pointer("off", Target.IN, "len"))),
    Op.SETXATTR: OpInfo(
        pointers=(_PATH, Pointer("off", Target.IN, "len"), Pointer("addr3", Target.STRING))
    ),
    Op.FGETXATTR: OpInfo(_F, (_PATH, Pointer("off", Target.OUT, "len"))),
    Op.GETXATTR: OpInfo(
        pointers=(_PATH, Pointer("off", Target.OUT, "len"), Pointer("addr3", Target.STRING))
    ),
    Op.SOCKET: OpInfo(file_index=True),  # fd: domain, off: type, len: protocol
    Op.URING_CMD: OpInfo(_F, (Pointer("addr", Target.OPAQUE),), buffer_select=True),
    Op.SEND_ZC: OpInfo(_F, (_BYTES_IN, Pointer("off", Target.OPAQUE, nullable=True)), True),
    Op.SENDMSG_ZC: OpInfo(_F, (Pointer("addr", Target.MSGHDR_IN),), True),
    Op.READ_MULTISHOT: OpInfo(_F, (_BYTES_OUT,), True, True),
    Op.WAITID: OpInfo(pointers=(Pointer("off", Target.OPAQUE, nullable=True),)),
    Op.FUTEX_WAIT: OpInfo(pointers=(Pointer("addr", Target.OPAQUE),)),
    Op.FUTEX_WAKE: OpInfo(pointers=(Pointer("addr", Target.OPAQUE),)),
    Op.FUTEX_WAITV: OpInfo(pointers=(Pointer("addr", Target.OPAQUE),)),
    Op.FIXED_FD_INSTALL: OpInfo(_F),
    Op.FTRUNCATE: OpInfo(_F),
    Op.BIND: OpInfo(_F, (Pointer("addr", Target.IN, "off"),)),
    Op.LISTEN: OpInfo(_F),
    Op.RECV_ZC: OpInfo(_F, ioprio=True),
    Op.EPOLL_WAIT: OpInfo(_F, (Pointer("addr", Target.OUT, "len", 12),)),
    Op.READV_FIXED: OpInfo(_F, (Pointer("addr", Target.IOVEC_OUT, "len", 16),), True),
    Op.WRITEV_FIXED: OpInfo(_F, (Pointer("addr", Target.IOVEC_IN, "len", 16),), True),
    Op.PIPE: OpInfo(pointers=(Pointer("addr", Target.OUT, unit=8),), file_index=True),
}

# What a ring with SETUP_IOPOLL takes: what moves data of files, and what needs none.
POLLED_OPS: Final = frozenset(
    {
        Op.NOP,
        *(Op.READ, Op.READV, Op.READ_FIXED, Op.READV_FIXED),
        *(Op.WRITE, Op.WRITEV, Op.WRITE_FIXED, Op.WRITEV_FIXED),
        *(Op.FILES_UPDATE, Op.PROVIDE_BUFFERS, Op.REMOVE_BUFFERS),
        *(Op.MSG_RING, Op.URING_CMD),
    }
)

# Mainline reports what these come to without marking the request as failed: an error breaks no
# link, and IOSQE_CQE_SKIP_SUCCESS hides it.
NEVER_FAILS: Final = frozenset(
    {
        Op.FSYNC,
        Op.FALLOCATE,
        Op.FTRUNCATE,
        Op.STATX,
        Op.UNLINKAT,
        Op.MKDIRAT,
        Op.RENAMEAT,
        Op.SHUTDOWN,
        Op.SYMLINKAT,
        Op.LINKAT,
        Op.SETXATTR,
        Op.FSETXATTR,
        Op.GETXATTR,
        Op.FGETXATTR,
        Op.SYNC_FILE_RANGE,
        Op.MADVISE,
    }
)
