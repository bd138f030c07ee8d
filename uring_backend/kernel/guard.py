"""What a program's SQE may reach on the host: checked, and if need be rewritten, before the kernel
sees it.

A request that names memory or descriptors which are not its own is not dropped: the offending
field is replaced by one that the kernel itself refuses with the right errno (an address where
nothing is ever mapped, descriptor -1), so that completion, chain and order come out as mainline's.

    pointers     inside one block of user memory, else -EFAULT
    descriptors  the world's or opened by requests, else -EBADF; slots are the ring's own
    paths        confined to the world's directory, which is their "/" (".." stops there);
                 symbolic links, too, where that directory is a mount of its own (`pinned`)
    addresses    CONNECT and sends reach only sockets of the world, else -ECONNREFUSED; BIND takes
                 loopback ports; AF_UNIX names are the world's own (`names`)
    processes    WAITID reaches only children of the world, else -ECHILD
    opcodes      those of SUPPORTED and numbers no kernel knows; others never get here

Indirect arguments that must not change between check and use (iovec arrays, paths, open_how,
sockaddr, descriptor arrays) are copied to private memory when the SQE is submitted; mainline
reads them when it comes to the SQE, so a request of the same batch can not alter them here.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from typing import Final, Protocol

from pybpfvm.bits import U16, U32, s32, s64, u32
from pybpfvm.memory import PAGE, AddressSpace, UserFault
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import FdUse, Op, Pointer, Sqe, Target
from pybpfvm.uring_backend.addresses import socket_refusal, unsupported_socket
from pybpfvm.uring_backend.base import UNKNOWN_OPCODE
from pybpfvm.uring_backend.control import unsupported_control
from pybpfvm.uring_backend.kernel import messages
from pybpfvm.uring_backend.kernel.unixnames import UnixNames
from pybpfvm.uring_backend.socketoptions import unsupported_option

SUPPORTED: Final = frozenset(
    {
        Op.NOP,
        Op.READV,
        Op.WRITEV,
        Op.FSYNC,
        Op.READ_FIXED,
        Op.WRITE_FIXED,
        Op.POLL_ADD,
        Op.POLL_REMOVE,
        Op.TIMEOUT,
        Op.TIMEOUT_REMOVE,
        Op.ACCEPT,
        Op.ASYNC_CANCEL,
        Op.LINK_TIMEOUT,
        Op.CONNECT,
        Op.OPENAT,
        Op.CLOSE,
        Op.FILES_UPDATE,
        Op.STATX,
        Op.READ,
        Op.WRITE,
        Op.SEND,
        Op.RECV,
        Op.OPENAT2,
        Op.PROVIDE_BUFFERS,
        Op.REMOVE_BUFFERS,
        Op.SHUTDOWN,
        Op.SOCKET,
        Op.FALLOCATE,
        Op.FTRUNCATE,
        Op.UNLINKAT,
        Op.MKDIRAT,
        Op.RENAMEAT,
        Op.SENDMSG,
        Op.RECVMSG,
        Op.BIND,
        Op.LISTEN,
        Op.SEND_ZC,
        Op.SENDMSG_ZC,
        Op.URING_CMD,
        Op.SYMLINKAT,
        Op.LINKAT,
        Op.SETXATTR,
        Op.FSETXATTR,
        Op.GETXATTR,
        Op.FGETXATTR,
        Op.FADVISE,
        Op.MADVISE,
        Op.SYNC_FILE_RANGE,
        Op.SPLICE,
        Op.TEE,
        Op.PIPE,
        Op.FIXED_FD_INSTALL,
        Op.READV_FIXED,
        Op.WRITEV_FIXED,
        Op.READ_MULTISHOT,
        Op.EPOLL_CTL,
        Op.EPOLL_WAIT,
        Op.FUTEX_WAIT,
        Op.FUTEX_WAKE,
        Op.FUTEX_WAITV,
        Op.WAITID,
        Op.MSG_RING,
    }
)

# Of these a wild pointer is found out when they are performed, wherever it points.
_FOUND_OUT_LATE: Final = frozenset(
    {
        Op.ACCEPT,
        Op.FILES_UPDATE,
        Op.MADVISE,
        Op.PIPE,
        Op.URING_CMD,
        Op.EPOLL_WAIT,
        Op.FUTEX_WAIT,
        Op.FUTEX_WAKE,
        Op.WAITID,
    }
)

# Opcodes of which some uses are unsupported.
_NAMING: Final = frozenset(
    {
        Op.SOCKET,
        Op.BIND,
        Op.CONNECT,
        Op.SEND,
        Op.SEND_ZC,
        Op.SENDMSG,
        Op.SENDMSG_ZC,
        Op.URING_CMD,
    }
)

TOKEN_LIMIT: Final = 1 << 62  # tokens at and above are the backend's hidden requests
NO_TOKEN: Final = (1 << 64) - 1  # never given to any request

_NO_FD = 0x7FFF_FFFF  # in descriptor arrays, where -1 and -2 have a meaning
_NO_FAMILY = 0x7FFF  # of sockets and of addresses
_HARD_FAULT = 1 << 63  # refused before anything is transferred
_RESOLVE_BENEATH = 0x08
_RESOLVE_IN_ROOT = 0x10
_OPEN_HOW_LIMIT = 4096
# What open(2) looks at: it ignores other bits, openat2(2) refuses them.
_OPEN_FLAGS = (
    abi.O_ACCMODE
    | abi.O_CREAT
    | abi.O_EXCL
    | abi.O_NOCTTY
    | abi.O_TRUNC
    | abi.O_APPEND
    | abi.O_NONBLOCK
    | abi.O_SYNC
    | abi.O_DIRECT
    | abi.O_LARGEFILE
    | abi.O_NOFOLLOW
    | abi.O_NOATIME
    | abi.O_CLOEXEC
    | abi.O_PATH
    | abi.O_TMPFILE  # includes O_DIRECTORY
)
_PATH_FLAGS = abi.O_DIRECTORY | abi.O_NOFOLLOW | abi.O_PATH | abi.O_CLOEXEC
_OPEN_MODE = 0o7777
_STORAGE_BYTES = 128  # struct sockaddr_storage: longer addresses are -EINVAL
_SOCK_TYPE = 0xF
_INET = abi.AF_INET.to_bytes(2, "little")
_LOOPBACK = bytes((127, 0, 0, 1))
_NOT_LOCAL = bytes((203, 0, 113, 1))  # TEST-NET-3: no host has it (RFC 5737)
_UNPRIVILEGED = 1024
_NO_COMMAND = 0x7FFF
_OPTION_BYTES = 16  # no option that is let through is longer
_FUTEX_BYTES = 4
_SIGINFO_BYTES = 28  # as far as WAITID writes
_XATTR_USER = b"user."
_TO_THE_TOP = b"../" * 64  # where a pinned root ends it, from any reasonable depth
_NO_NAMESPACE = b"none."  # of extended attributes: -EOPNOTSUPP
_MEMORY_ADVICE = frozenset(  # that changes no content
    {
        abi.MADV_NORMAL,
        abi.MADV_RANDOM,
        abi.MADV_SEQUENTIAL,
        abi.MADV_WILLNEED,
        abi.MADV_COLD,
        abi.MADV_PAGEOUT,
    }
)
_DISK_BYTES = 256 << 20  # the most that one FALLOCATE may ask for
_NS_PER_S = 1_000_000_000
_FAR_SECONDS = 1 << 33  # beyond it every time means never

_HEAD = struct.Struct("<BBHiQQII")


class Places(Protocol):
    """What the guard asks the world for."""

    @property
    def owned(self) -> Set[int]:
        """Descriptors that requests may use."""

    def is_child(self, pid: int) -> bool:
        """Whether requests may wait for this process."""

    @property
    def root_fd(self) -> int:
        """The directory that is the requests' root and working directory."""

    def may_reach(self, address: bytes) -> bool:
        """Whether the sockaddr_in is that of a socket which listens, or is bound, in this world."""

    def is_inet(self, fd: int) -> bool:
        """Whether the descriptor is an AF_INET socket."""

    @property
    def names(self) -> UnixNames:
        """What AF_UNIX addresses stand for."""

    @property
    def pinned(self) -> bool:
        """Whether the kernel itself ends every ".." at the root: symbolic links do no harm."""

    def adopt(self, fd: int) -> None:
        """A request opened `fd`."""

    def refusing_address(self) -> bytes:
        """A loopback sockaddr_in at which connections are refused."""


def _unsupported_on_sockets(sqe: Sqe, memory: AddressSpace) -> str:
    """What an SQE of _NAMING asks for that must not reach the kernel; "" if nothing."""
    found = unsupported_control(sqe, memory) or unsupported_option(sqe)
    return found or unsupported_socket(sqe, memory)


class _Out:
    """Private memory that the kernel writes."""

    __slots__ = ("addr", "buffer")

    def __init__(self, data: bytes) -> None:
        self.buffer = ctypes.create_string_buffer(data, len(data))
        self.addr = ctypes.addressof(self.buffer)

    @property
    def data(self) -> bytes:
        return self.buffer.raw

    def u32(self, at: int) -> int:
        return int.from_bytes(self.buffer.raw[at : at + 4], "little")

    def set_u32(self, at: int, value: int) -> None:
        ctypes.c_uint32.from_buffer(self.buffer, at).value = value


class Effect:
    """What an admitted SQE needs until its last CQE: private memory, what a result does.

    `total`: bytes that its iovecs ask for, -1 when there are none. `bad_sqe`: what it
    points to is such that the kernel refuses the SQE itself.
    """

    __slots__ = ("bad_sqe", "kept", "on_result", "total")

    def __init__(self, kept: object, total: int, bad_sqe: bool) -> None:
        self.bad_sqe = bad_sqe
        self.kept = kept
        self.total = total
        self.on_result: Callable[[int], None] | None = None


class Guard:
    """Admits SQEs for one address space and one world. Changes neither. Its clock is that of the
    guard `beside`, if there is one."""

    def __init__(self, memory: AddressSpace, places: Places, beside: Guard | None = None) -> None:
        self._memory = memory
        self._places = places
        self._epoch_ns = {
            0: time.clock_gettime_ns(time.CLOCK_MONOTONIC),
            abi.TIMEOUT_BOOTTIME: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        }
        if beside is not None:
            self._epoch_ns = beside._epoch_ns
        # 4 GiB from here are never committed: the kernel faults on the first byte.
        self.fault_addr = memory.base + (1 << 31)
        self.personalities: set[int] = set()  # what Sqe.personality may be, beside 0
        # Of the SQE being admitted.
        self._kept: list[ctypes.Array[ctypes.c_char]] = []
        self._on_result: Callable[[int], None] | None = None
        self._total = -1
        self._bad = False
        self._looked_up: list[int] = []

    def admit(self, raw: bytes) -> tuple[bytes, Effect | None]:
        """The SQE to submit in place of `raw` (64 bytes), and what it needs kept."""
        opcode, flags, ioprio, fd, off, addr, length, op_flags = _HEAD.unpack_from(raw)
        if opcode not in SUPPORTED:
            return bytes((UNKNOWN_OPCODE,)) + raw[1:], None
        if opcode in _TRANSFERS:
            if (
                (flags & abi.SQE_FIXED_FILE or fd in self._places.owned)
                and (opcode in _FIXED or self._memory.is_user(addr, length))
                and raw[56:] == _NO_ATTRIBUTES
            ):
                return raw, None
        elif opcode in _PLAIN_MESSAGES:
            if (
                (flags & abi.SQE_FIXED_FILE or fd in self._places.owned)
                and (flags & abi.SQE_BUFFER_SELECT or self._memory.is_user(addr, length))
                and not off
                and not ioprio & abi.SEND_VECTORIZED
            ):
                return raw, None
        elif opcode == Op.NOP and not op_flags & abi.NOP_FILE:
            return raw, None
        self._kept, self._total, self._bad, self._on_result = [], -1, False, None
        self._looked_up = []
        sqe = Sqe.unpack(raw)
        sqe = replace(sqe, fd=self._admit_fd(sqe))
        special = _SPECIAL.get(opcode)
        if special is not None:
            sqe = special(self, sqe)
        else:
            for pointer in abi.OPS[Op(opcode)].pointers:
                sqe = self._admit_pointer(sqe, pointer)
        effect = None
        bad = self._bad and opcode not in _FOUND_OUT_LATE
        if self._kept or bad or self._on_result:
            effect = Effect(self._kept, self._total, bad)
            effect.on_result = self._on_result
        if effect is not None and opcode == Op.FILES_UPDATE and sqe.off == abi.FILE_INDEX_ALLOC:
            effect.on_result = self._slots_back(addr, self._kept[0])
        return sqe.pack(), effect

    def admit_waiting(self, raw: bytes) -> tuple[bytes, Effect | None, tuple[int, ...]]:
        """`admit`, and the descriptors that must not become anybody else's before its turn."""
        self._looked_up = []
        admitted, effect = self.admit(raw)
        if not self._looked_up and not raw[1] & abi.SQE_FIXED_FILE:  # admitted as it is
            self._owns(int.from_bytes(raw[4:8], "little", signed=True))
        return admitted, effect, tuple(self._looked_up)

    def unsupported(self, raw: bytes) -> str:
        """What this SQE asks for that must not reach the kernel; "" if nothing."""
        opcode = raw[0]
        if opcode in _NAMING:
            return _unsupported_on_sockets(Sqe.unpack(raw), self._memory)
        if opcode < abi.OP_LAST and opcode not in SUPPORTED:
            return f"opcode {Op(opcode).name}"
        if opcode == Op.SYMLINKAT and not self._places.pinned:
            return "SYMLINKAT without CAP_SYS_ADMIN"
        if opcode == Op.WAITID and Sqe.unpack(raw).len != abi.P_PID:
            return "WAITID of anything but one child"
        if opcode in (Op.FUTEX_WAIT, Op.FUTEX_WAKE):
            numa = Sqe.unpack(raw).fd & (abi.FUTEX2_NUMA | abi.FUTEX2_MPOL)
            return f"{Op(opcode).name} with a NUMA node" if numa else ""
        if opcode == Op.MADVISE:
            advice = Sqe.unpack(raw).op_flags
            return "" if advice in _MEMORY_ADVICE else f"MADVISE with advice {advice}"
        return ""

    @property
    def owned(self) -> Set[int]:
        """Descriptors that requests may use."""
        return self._places.owned

    def now_ns(self) -> int:
        """Nanoseconds since this guard was made: the clock of absolute timeouts in SQEs."""
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC) - self._epoch_ns[0]

    def copy_fds(self, fds: Sequence[int]) -> list[int]:
        """Descriptors for registration: foreign ones become one that is never open."""
        return [fd if fd in (-1, -2) or self._owns(fd) else _NO_FD for fd in fds]

    # --- descriptors ------------------------------------------------------------------------

    def _owns(self, fd: int) -> bool:
        owned = fd in self._places.owned
        if owned:
            self._looked_up.append(fd)
        return owned

    def _admit_fd(self, sqe: Sqe) -> int:
        use = abi.OPS[Op(sqe.opcode)].fd
        fixed = bool(sqe.flags & abi.SQE_FIXED_FILE)
        if sqe.opcode == Op.NOP:
            checked = bool(sqe.op_flags & abi.NOP_FILE)
            fixed = bool(sqe.op_flags & abi.NOP_FIXED_FILE)
        elif sqe.opcode == Op.ASYNC_CANCEL:
            checked = bool(sqe.op_flags & abi.ASYNC_CANCEL_FD)
            fixed = fixed or bool(sqe.op_flags & abi.ASYNC_CANCEL_FD_FIXED)
        elif sqe.opcode == Op.CLOSE:
            checked, fixed = not sqe.file_index, False
        elif sqe.opcode == Op.EPOLL_CTL:
            checked, fixed = True, False
        elif use is FdUse.DIRECTORY:
            if sqe.fd == abi.AT_FDCWD:
                return self._places.root_fd
            checked, fixed = True, False
        else:
            checked = use is FdUse.FILE
        return sqe.fd if not checked or fixed or self._owns(sqe.fd) else -1

    # --- pointers ---------------------------------------------------------------------------

    def _admit_pointer(self, sqe: Sqe, pointer: Pointer) -> Sqe:
        addr: int = getattr(sqe, pointer.field)
        if pointer.only_with and not sqe.op_flags & pointer.only_with:
            return sqe
        if pointer.nullable and not addr:
            return sqe
        selecting = bool(sqe.flags & abi.SQE_BUFFER_SELECT)
        selecting = selecting and abi.OPS[Op(sqe.opcode)].buffer_select
        count: int = getattr(sqe, pointer.count) if pointer.count else 1
        match pointer.target:
            case Target.IN | Target.OUT:
                if not selecting and not self._memory.is_user(addr, count * pointer.unit):
                    addr = self._refused(addr)
            case Target.TIMESPEC:
                addr = self._timespec(addr, sqe.op_flags)
            case Target.IOVEC_IN | Target.IOVEC_OUT:
                if not selecting:
                    addr = self._iovecs(addr, count)
                elif not self._memory.is_user(addr, abi.IOVEC.size):
                    addr = self._refused(addr)
            case Target.BUFFERS:
                size = sqe.fd * sqe.len
                if size > 0 and not self._memory.is_user(addr, size):
                    addr = _HARD_FAULT
            case Target.FDS:
                addr = self._fds(addr, count)
            case Target.SOCKADDR_OUT:
                return self._peer(sqe, addr)
            case Target.FIXED_IN | Target.FIXED_OUT:
                pass  # the kernel compares with the registered buffer, which was checked
            case _:
                addr = _HARD_FAULT
        return replace(sqe, **{pointer.field: addr})

    def _refused(self, addr: int) -> int:
        """An address that faults where `addr` would have: at once in the kernel's half."""
        if addr >> 63:
            self._bad = True
            return _HARD_FAULT
        return self.fault_addr

    def _unreadable(self, addr: int) -> int:
        """The same for what the kernel reads when it takes the SQE."""
        self._bad = True
        return self._refused(addr)

    def _keep(self, data: bytes) -> int:
        """The address of a private copy that lives as long as the request."""
        buffer = ctypes.create_string_buffer(data, max(len(data), 1))
        self._kept.append(buffer)
        return ctypes.addressof(buffer)

    def _timespec(self, addr: int, flags: int) -> int:
        """Absolute times count from when the backend was made; the kernel's from boot."""
        try:
            seconds, nanoseconds = abi.TIMESPEC.unpack(
                self._memory.user_read(addr, abi.TIMESPEC.size)
            )
        except UserFault:
            return self._unreadable(addr)
        epoch_ns = self._epoch_ns.get(flags & (abi.TIMEOUT_BOOTTIME | abi.TIMEOUT_REALTIME))
        absolute = flags & abi.TIMEOUT_ABS and epoch_ns is not None
        if not absolute or not 0 <= seconds < _FAR_SECONDS or not 0 <= nanoseconds < _NS_PER_S:
            return addr
        time_ns = seconds * _NS_PER_S + nanoseconds + (epoch_ns or 0)
        return self._keep(abi.TIMESPEC.pack(*divmod(time_ns, _NS_PER_S)))

    def _iovecs(self, addr: int, count: int) -> int:
        if count > abi.IOV_MAX:
            return self._unreadable(addr)  # -EINVAL comes before it is read
        try:
            raw = self._memory.user_read(addr, count * abi.IOVEC.size)
        except UserFault:
            return self._unreadable(addr)
        safe = bytearray()
        self._total = 0
        for base, size in abi.IOVEC.iter_unpack(raw):
            inside = not size or self._memory.is_user(base, size)
            self._total += size
            safe += abi.IOVEC.pack(base if inside else self._refused(base), size)
        return self._keep(bytes(safe))

    def _fds(self, addr: int, count: int) -> int:
        try:
            raw = self._memory.user_read(addr, count * abi.FD.size)
        except UserFault:
            return self._refused(addr)
        fds = self.copy_fds([fd for (fd,) in abi.FD.iter_unpack(raw)])
        return self._keep(b"".join(map(abi.FD.pack, fds)))

    def _slots_back(self, addr: int, buffer: ctypes.Array[ctypes.c_char]) -> Callable[[int], None]:
        def write_back(res: int) -> None:
            # The block may be gone by now: then nobody is left to read it.
            with contextlib.suppress(UserFault):
                self._memory.user_write(addr, buffer.raw[: max(res, 0) * abi.FD.size])

        return write_back

    def _peer(self, sqe: Sqe, addr: int) -> Sqe:
        try:
            (room,) = abi.SOCKLEN.unpack(self._memory.user_read(sqe.off, abi.SOCKLEN.size))
        except UserFault:
            return replace(sqe, off=self._refused(sqe.off))
        if self._places.names and not room >> 31:
            return self._translated_peer(sqe, addr, room)
        # The kernel reads the length again, but what it may write beyond ends in the guard gap.
        if not self._memory.is_user(addr, min(room, abi.SOCKADDR_IN.size)):
            return replace(sqe, addr=self._refused(addr))
        return sqe

    def _translated_peer(self, sqe: Sqe, addr: int, room: int) -> Sqe:
        if not self._memory.is_user(addr, min(room, _STORAGE_BYTES)):
            return replace(sqe, addr=self._refused(addr))
        name, length = _Out(bytes(_STORAGE_BYTES)), _Out(abi.SOCKLEN.pack(_STORAGE_BYTES))
        at = sqe.off

        def write_back(res: int) -> None:
            if res >= 0:
                address = self._places.names.shown(name.data[: length.u32(0)])
                with contextlib.suppress(UserFault):
                    self._memory.user_write(addr, address[:room])
                    self._memory.user_write(at, abi.SOCKLEN.pack(len(address)))
                length.set_u32(0, _STORAGE_BYTES)

        self._kept += [name.buffer, length.buffer]
        self._on_result = write_back
        return replace(sqe, addr=name.addr, off=length.addr)

    # --- opcodes with rules of their own ------------------------------------------------------

    def _transfer(self, sqe: Sqe) -> Sqe:
        if sqe.pad:  # attr_type_mask: points to more memory; no set of bits but one is known
            sqe = replace(sqe, pad=(1 << 64) - 1)
        return self._admit_pointer(sqe, abi.OPS[Op(sqe.opcode)].pointers[0])

    def _send(self, sqe: Sqe) -> Sqe:
        fixed = sqe.opcode == Op.SEND_ZC and bool(sqe.ioprio & abi.RECVSEND_FIXED_BUF)
        if sqe.ioprio & abi.SEND_VECTORIZED and not sqe.flags & abi.SQE_BUFFER_SELECT:
            sqe = replace(sqe, addr=self._iovecs(sqe.addr, sqe.len))
        elif not fixed:
            sqe = self._admit_pointer(sqe, abi.OPS[Op.SEND].pointers[0])
        if sqe.off:
            addr, size = self._sockaddr(sqe, sqe.off, sqe.file_index & U16)
            sqe = replace(sqe, off=addr, file_index=sqe.file_index & ~U16 | size)
        return sqe

    def _sendmsg(self, sqe: Sqe) -> Sqe:
        try:
            raw = self._memory.user_read(sqe.addr, abi.MSGHDR.size)
        except UserFault:
            return replace(sqe, addr=self._unreadable(sqe.addr))
        name, name_bytes, iov, count, control, control_bytes, flags = abi.MSGHDR.unpack(raw)
        if name and s32(name_bytes) > 0:
            name, name_bytes = self._sockaddr(sqe, name, min(name_bytes, _STORAGE_BYTES))
        iov = self._message_iovecs(iov, count)
        if control and control_bytes:  # what could be read was refused by name
            control = self._refused(control)
        header = abi.MSGHDR.pack(name, name_bytes, iov, count, control, control_bytes, flags)
        return replace(sqe, addr=self._keep(header))

    def _message_iovecs(self, addr: int, count: int) -> int:
        return self._iovecs(addr, count) if count <= abi.IOV_MAX else self._refused(addr)

    def _recvmsg(self, sqe: Sqe) -> Sqe:
        """With a header of our own; what the kernel writes there is copied back."""
        at, memory = sqe.addr, self._memory
        try:
            raw = memory.user_read(at, abi.MSGHDR.size)
        except UserFault:
            return replace(sqe, addr=self._unreadable(at))
        name, name_bytes, iov, count, control, control_bytes, flags = abi.MSGHDR.unpack(raw)
        if not sqe.flags & abi.SQE_BUFFER_SELECT:
            iov = self._message_iovecs(iov, count)
        elif count == 1:
            iov = self._length_only(iov)
        if control and control_bytes and not memory.is_user(control, control_bytes):
            control = self._refused(control)
        multishot = bool(sqe.ioprio & abi.RECV_MULTISHOT)
        room = min(name_bytes, _STORAGE_BYTES)
        sender = _Out(bytes(_STORAGE_BYTES))
        ours, ours_bytes = name, name_bytes
        if name and not name_bytes >> 31:
            ours = sender.addr if memory.is_user(name, room) else self._refused(name)
            if not multishot:
                ours_bytes = _STORAGE_BYTES
        header = _Out(abi.MSGHDR.pack(ours, ours_bytes, iov, count, control, control_bytes, flags))

        def write_back(res: int) -> None:
            if res < 0 or multishot:
                return
            with contextlib.suppress(UserFault):
                if name:
                    address = self._places.names.shown(sender.data[: header.u32(8)])
                    memory.user_write(name, address[:room])
                    memory.user_write(at + 8, abi.SOCKLEN.pack(len(address)))
                memory.user_write(at + 40, header.data[40:52])

        self._kept += [sender.buffer, header.buffer]
        self._on_result = write_back
        return replace(sqe, addr=header.addr)

    def _length_only(self, addr: int) -> int:
        """An iovec that only says how much of a selected buffer is wanted."""
        try:
            return self._keep(bytes(8) + self._memory.user_read(addr + 8, 8))
        except UserFault:
            return self._unreadable(addr)

    def _connect(self, sqe: Sqe) -> Sqe:
        addr, size = self._sockaddr(sqe, sqe.addr, sqe.off & U32)
        return replace(sqe, addr=addr, off=sqe.off & ~U32 | size)

    def _sockaddr(self, sqe: Sqe, addr: int, size: int) -> tuple[int, int]:
        """An address that is sent or connected to: (where its copy is, its size)."""
        if size > _STORAGE_BYTES:
            return self._refused(addr), size
        try:
            address = self._memory.user_read(addr, size)
        except UserFault:
            return self._refused(addr), size
        family = int.from_bytes(address[:2], "little")
        if family == abi.AF_UNIX:
            address = self._unix_name(sqe, address, make=False)
        elif family in (abi.AF_INET, abi.AF_UNSPEC) and size >= 16:
            # AF_UNSPEC: dissolves a connection, or is taken for AF_INET by a send.
            if not self._places.may_reach(_INET + address[2:]):
                address = address[:2] + self._places.refusing_address()[2:8] + address[8:]
        elif family != abi.AF_INET and family != abi.AF_UNSPEC:
            address = _NO_FAMILY.to_bytes(2, "little")[:size] + address[2:]
        return self._keep(address), len(address)

    def _unix_name(self, sqe: Sqe, address: bytes, *, make: bool) -> bytes:
        """A name of this world only, whatever the descriptor will be by the time it is used: an
        AF_INET socket refuses another family just as it does this one."""
        if not sqe.flags & abi.SQE_FIXED_FILE and self._places.is_inet(sqe.fd):
            return _NO_FAMILY.to_bytes(2, "little")[: len(address)] + address[2:]
        return self._places.names.real(address, make=make)

    def _bind(self, sqe: Sqe) -> Sqe:
        """Only loopback, and only ports that everybody may take: else -EADDRNOTAVAIL."""
        size = sqe.off & U32
        if size > _STORAGE_BYTES:
            return replace(sqe, addr=self._refused(sqe.addr))
        try:
            address = self._memory.user_read(sqe.addr, size)
        except UserFault:
            return replace(sqe, addr=self._refused(sqe.addr))
        family = int.from_bytes(address[:2], "little")
        if family == abi.AF_UNIX:
            address = self._unix_name(sqe, address, make=True)
        elif family == abi.AF_INET or (family == abi.AF_UNSPEC and address[4:8] == bytes(4)):
            port, host = int.from_bytes(address[2:4], "big"), address[4:8]
            if host not in (_LOOPBACK, bytes(4)) or 0 < port < _UNPRIVILEGED:
                host = _NOT_LOCAL
            else:
                host = _LOOPBACK
            if size >= 8:
                address = _INET + address[2:4] + host + address[8:]
        elif size >= 2:
            address = _NO_FAMILY.to_bytes(2, "little") + address[2:]
        kept = self._keep(address)
        return replace(sqe, addr=kept, off=sqe.off & ~U32 | len(address))

    def _uring_cmd(self, sqe: Sqe) -> Sqe:
        """Socket commands alone, with the options that `unsupported_option` lets through."""
        command = sqe.off & U32
        if command > abi.SOCKET_OP_SETSOCKOPT or unsupported_option(sqe):
            sqe = replace(sqe, off=sqe.off & ~U32 | _NO_COMMAND)
        if sqe.op_flags:
            sqe = replace(sqe, op_flags=1 << 31)  # no set of flags but the empty one is known
        size = sqe.file_index
        if not size >> 31 and not self._memory.is_user(sqe.addr3, min(size, _OPTION_BYTES)):
            sqe = replace(sqe, addr3=self._refused(sqe.addr3))
        if not size >> 31:
            sqe = replace(sqe, file_index=min(size, _OPTION_BYTES))
        return sqe

    def _socket(self, sqe: Sqe) -> Sqe:
        if not socket_refusal(sqe.fd, sqe.off & _SOCK_TYPE, sqe.len):
            return sqe
        return replace(sqe, fd=_NO_FAMILY)

    def _openat(self, sqe: Sqe) -> Sqe:
        """As OPENAT2, whose resolve flags keep the path inside the world (or below `fd`)."""
        flags = sqe.op_flags & _OPEN_FLAGS
        if flags & abi.O_PATH:
            flags &= _PATH_FLAGS
        creates = flags & abi.O_CREAT or flags & abi.O_TMPFILE == abi.O_TMPFILE
        mode = sqe.len & _OPEN_MODE if creates else 0
        addr, absolute = self._own_path(sqe.addr)
        if absolute:
            sqe = replace(sqe, fd=self._places.root_fd)
        resolve = 0 if self._is_pinned_below(sqe.fd) else _RESOLVE_IN_ROOT
        how = self._keep(abi.OPEN_HOW.pack(flags, mode, resolve))
        return replace(
            sqe, opcode=Op.OPENAT2, op_flags=0, addr=addr, off=how, len=abi.OPEN_HOW.size
        )

    def _openat2(self, sqe: Sqe) -> Sqe:
        addr, absolute = self._own_path(sqe.addr)
        sqe = replace(sqe, addr=addr)
        if not abi.OPEN_HOW.size <= sqe.len <= _OPEN_HOW_LIMIT:
            return replace(sqe, off=self._refused(sqe.off))  # its length is refused first
        try:
            raw = self._memory.user_read(sqe.off, sqe.len)
        except UserFault:
            return replace(sqe, off=self._refused(sqe.off))
        flags, mode, resolve = abi.OPEN_HOW.unpack_from(raw)
        if not resolve & (_RESOLVE_BENEATH | _RESOLVE_IN_ROOT):
            if absolute:
                sqe = replace(sqe, fd=self._places.root_fd)
            if not self._is_pinned_below(sqe.fd):
                resolve |= _RESOLVE_IN_ROOT
        how = abi.OPEN_HOW.pack(flags, mode, resolve) + raw[abi.OPEN_HOW.size :]
        return replace(sqe, off=self._keep(how))

    def _statx(self, sqe: Sqe) -> Sqe:
        sqe = self._path(sqe)
        bad_path = self._bad and not sqe.op_flags & abi.AT_EMPTY_PATH
        sqe = self._admit_pointer(sqe, abi.OPS[Op.STATX].pointers[1])
        self._bad = bad_path  # where the answer goes is found out at the end
        return sqe

    def _path(self, sqe: Sqe) -> Sqe:
        fd, addr = self._place(sqe.fd, sqe.addr)
        return replace(sqe, fd=fd, addr=addr)

    def _renameat(self, sqe: Sqe) -> Sqe:
        target_fd = s32(sqe.len)
        if target_fd == abi.AT_FDCWD:
            target_fd = self._places.root_fd
        elif not self._owns(target_fd):
            target_fd = -1
        target_fd, target = self._place(target_fd, sqe.off)
        return replace(self._path(sqe), len=u32(target_fd), off=target)

    def _place(self, fd: int, addr: int) -> tuple[int, int]:
        """Where a path starts, and a private, confined copy; absolute ones start at the root."""
        path = self._read_path(addr)
        self._bad |= not path or len(path) >= abi.PATH_MAX
        if path is None:
            return fd, self._refused(addr)
        if path.startswith(b"/"):
            fd = self._places.root_fd
        return fd, self._keep(self._inside(path) + b"\0")

    def _inside(self, path: bytes) -> bytes:
        """A path that begins where its directory is, and does not leave the world."""
        if not self._places.pinned:
            return confine(path)
        return path.lstrip(b"/") or b"." if path else path

    def _is_pinned_below(self, dirfd: int) -> bool:
        """Whether ".." may lead out of `dirfd`, which is not the root, because it ends there."""
        return self._places.pinned and dirfd != self._places.root_fd

    def _own_path(self, addr: int) -> tuple[int, bool]:
        """A private copy of a path that the kernel confines, and whether it is absolute."""
        path = self._read_path(addr)
        self._bad = not path or len(path) >= abi.PATH_MAX
        if path is None:
            return self._refused(addr), False
        return self._keep(path + b"\0"), path.startswith(b"/")

    def _read_path(self, addr: int) -> bytes | None:
        try:
            return self._memory.user_cstring(addr, abi.PATH_MAX)
        except UserFault:
            # No end within PATH_MAX: the kernel says -ENAMETOOLONG.
            readable = self._memory.is_user(addr, abi.PATH_MAX)
            return b"x" * abi.PATH_MAX if readable else None

    def _symlinkat(self, sqe: Sqe) -> Sqe:
        """An absolute target would begin at the process' root: it becomes one that climbs."""
        target = self._read_path(sqe.addr)
        self._bad |= not target or len(target) >= abi.PATH_MAX
        if target is None:
            addr = self._refused(sqe.addr)
        else:
            addr = self._keep(inside_target(target) + b"\0")
        fd, name = self._place(sqe.fd, sqe.off)
        return replace(sqe, fd=fd, addr=addr, off=name)

    def _from_root(self, path: bytes) -> bytes:
        """The path as the process, whose root is elsewhere, finds it."""
        return b"/proc/self/fd/%d/%s" % (self._places.root_fd, path.lstrip(b"/"))

    def _linkat(self, sqe: Sqe) -> Sqe:
        if not self._places.pinned:  # there are no symbolic links, and none may be followed
            sqe = replace(sqe, op_flags=sqe.op_flags & ~abi.AT_SYMLINK_FOLLOW)
        empty_is_fine = sqe.op_flags & abi.AT_EMPTY_PATH and self._read_path(sqe.addr) == b""
        if not empty_is_fine:
            return self._renameat(sqe)
        admitted = self._renameat(sqe)
        new = self._read_path(sqe.off)
        self._bad = not new or len(new) >= abi.PATH_MAX
        return admitted

    def _xattr(self, sqe: Sqe) -> Sqe:
        try:
            name: bytes | None = self._memory.user_cstring(sqe.addr, abi.XATTR_NAME_MAX + 1)
        except UserFault:
            readable = self._memory.is_user(sqe.addr, abi.XATTR_NAME_MAX + 1)
            name = b"x" * (abi.XATTR_NAME_MAX + 1) if readable else None
        self._bad |= not name or len(name) > abi.XATTR_NAME_MAX
        if name is None:
            addr = self._refused(sqe.addr)
        else:
            if 0 < len(name) <= abi.XATTR_NAME_MAX and not name.startswith(_XATTR_USER):
                name = _NO_NAMESPACE + b"x"
            addr = self._keep(name + b"\0")
        value = sqe.off
        if not self._memory.is_user(value, sqe.len):
            self._bad |= sqe.opcode in (Op.SETXATTR, Op.FSETXATTR)
            value = self._refused(value) if not value >> 63 else _HARD_FAULT
        sqe = replace(sqe, addr=addr, off=value)
        if sqe.opcode in (Op.SETXATTR, Op.GETXATTR):
            path = self._read_path(sqe.addr3)
            self._bad |= not path or len(path) >= abi.PATH_MAX
            if path is None:
                return replace(sqe, addr3=self._refused(sqe.addr3))
            whole = self._from_root(self._inside(path)) if path else path
            sqe = replace(sqe, addr3=self._keep(whole + b"\0"))
        return sqe

    def _splice(self, sqe: Sqe) -> Sqe:
        fixed = sqe.op_flags & abi.SPLICE_F_FD_IN_FIXED
        if fixed or self._owns(s32(sqe.file_index)):
            return sqe
        return replace(sqe, file_index=U32)

    def _pipe(self, sqe: Sqe) -> Sqe:
        """The descriptors are told to the world before a program sees them."""
        if not self._memory.is_user(sqe.addr, 2 * abi.FD.size):
            return replace(sqe, addr=self._refused(sqe.addr))
        addr = self._keep(bytes(2 * abi.FD.size))
        self._on_result = self._pipe_made(sqe, self._kept[0])
        return replace(sqe, addr=addr)

    def _pipe_made(self, sqe: Sqe, buffer: ctypes.Array[ctypes.c_char]) -> Callable[[int], None]:
        def made(res: int) -> None:
            if res < 0:
                return
            if not sqe.file_index:
                for (fd,) in abi.FD.iter_unpack(buffer.raw[: 2 * abi.FD.size]):
                    self._places.adopt(fd)
            with contextlib.suppress(UserFault):
                self._memory.user_write(sqe.addr, buffer.raw[: 2 * abi.FD.size])

        return made

    def _epoll_ctl(self, sqe: Sqe) -> Sqe:
        if not self._owns(s32(sqe.off)):
            sqe = replace(sqe, off=U32)
        if sqe.len == abi.EPOLL_CTL_DEL:
            return sqe
        return self._admit_pointer(sqe, abi.OPS[Op.EPOLL_CTL].pointers[0])

    def _futex(self, sqe: Sqe) -> Sqe:
        return replace(sqe, addr=self._futex_word(sqe.addr))

    def _futex_word(self, addr: int) -> int:
        """An unaligned word is refused before it is looked at."""
        if addr % _FUTEX_BYTES or self._memory.is_user(addr, _FUTEX_BYTES):
            return addr
        return self._refused(addr)

    def _futex_waitv(self, sqe: Sqe) -> Sqe:
        if not 0 < sqe.len <= abi.FUTEX_WAITV_MAX:
            return replace(sqe, addr=_HARD_FAULT)
        step = abi.FUTEX_WAITV_STRUCT
        kept = bytearray()
        for index in range(sqe.len):
            try:
                raw = self._memory.user_read(sqe.addr + index * step.size, step.size)
            except UserFault:
                if not kept:
                    return replace(sqe, addr=self._unreadable(sqe.addr))
                # The kernel refuses what is wrong in the first ones, then what it can not read.
                kept += step.pack(0, 0, 0, 1)
                return replace(sqe, addr=self._keep(bytes(kept)), len=index + 1)
            value, addr, flags, reserved = step.unpack(raw)
            if flags & (abi.FUTEX2_NUMA | abi.FUTEX2_MPOL):
                flags = 0  # another size is refused alike
            kept += step.pack(value, self._futex_word(addr), flags, reserved)
        return replace(sqe, addr=self._keep(bytes(kept)))

    def _waitid(self, sqe: Sqe) -> Sqe:
        if sqe.off and not self._memory.is_user(sqe.off, _SIGINFO_BYTES):
            sqe = replace(sqe, off=self._refused(sqe.off))
        if sqe.fd > 0 and not self._places.is_child(sqe.fd):
            sqe = replace(sqe, fd=_NO_FD)
        return sqe

    def _msg_ring(self, sqe: Sqe) -> Sqe:
        """The message travels under a token that the ring it is for can tell from its own."""
        token = messages.post(sqe.off)
        silent = sqe.op_flags & abi.MSG_RING_CQE_SKIP

        def done(res: int) -> None:
            if res < 0 or silent:
                messages.take(token)

        self._on_result = done
        return replace(sqe, off=token)

    def _madvise(self, sqe: Sqe) -> Sqe:
        if self._memory.is_user(sqe.addr, sqe.off or sqe.len):
            return sqe
        return replace(sqe, addr=_HARD_FAULT | sqe.addr & (PAGE - 1))

    def _fallocate(self, sqe: Sqe) -> Sqe:
        """A program must not fill the host's disk with one request: -EFBIG."""
        if not sqe.len & abi.FALLOC_FL_PUNCH_HOLE and _DISK_BYTES < sqe.addr <= abi.MAX_OFFSET:
            sqe = replace(sqe, addr=abi.MAX_OFFSET)
            if not s64(sqe.off):
                sqe = replace(sqe, off=1)
        return sqe

    def _named(self, sqe: Sqe) -> Sqe:
        """Requests that name another: a program's number must not name a hidden request."""
        if sqe.addr >= TOKEN_LIMIT:
            sqe = replace(sqe, addr=NO_TOKEN)
        for pointer in abi.OPS[Op(sqe.opcode)].pointers:
            sqe = self._admit_pointer(sqe, pointer)
        return sqe


def inside_target(target: bytes) -> bytes:
    """The target of a symbolic link in a pinned world: an absolute one climbs to its root."""
    return _TO_THE_TOP + target.lstrip(b"/") if target.startswith(b"/") else target


def outside_target(target: bytes) -> bytes:
    """What `inside_target` was made from."""
    return b"/" + target[len(_TO_THE_TOP) :] if target.startswith(_TO_THE_TOP) else target


def confine(path: bytes) -> bytes:
    """The path relative to the root it starts from, with the `..` that would leave it taken out.

    Counting components is enough because the world has no symbolic links and no request that
    makes one. The empty path stays empty (-ENOENT).
    """
    if not path:
        return path
    depth, parts = 0, []
    for part in path.lstrip(b"/").split(b"/"):
        if part == b"..":
            if depth == 0:
                continue
            depth -= 1
        elif part not in (b"", b"."):
            depth += 1
        parts.append(part)
    return b"/".join(parts) or b"."


_FIXED = frozenset({Op.READ_FIXED, Op.WRITE_FIXED})
_TRANSFERS = frozenset({Op.READ, Op.WRITE}) | _FIXED
_PLAIN_MESSAGES = frozenset({Op.SEND, Op.RECV})
_NO_ATTRIBUTES = bytes(8)
_SPECIAL: Final[dict[int, Callable[[Guard, Sqe], Sqe]]] = {
    Op.READ: Guard._transfer,
    Op.WRITE: Guard._transfer,
    Op.READV: Guard._transfer,
    Op.WRITEV: Guard._transfer,
    Op.READ_FIXED: Guard._transfer,
    Op.WRITE_FIXED: Guard._transfer,
    Op.SEND: Guard._send,
    Op.SEND_ZC: Guard._send,
    Op.SENDMSG: Guard._sendmsg,
    Op.SENDMSG_ZC: Guard._sendmsg,
    Op.RECVMSG: Guard._recvmsg,
    Op.BIND: Guard._bind,
    Op.URING_CMD: Guard._uring_cmd,
    Op.CONNECT: Guard._connect,
    Op.SOCKET: Guard._socket,
    Op.OPENAT: Guard._openat,
    Op.OPENAT2: Guard._openat2,
    Op.STATX: Guard._statx,
    Op.UNLINKAT: Guard._path,
    Op.MKDIRAT: Guard._path,
    Op.RENAMEAT: Guard._renameat,
    Op.FALLOCATE: Guard._fallocate,
    Op.SYMLINKAT: Guard._symlinkat,
    Op.LINKAT: Guard._linkat,
    Op.SETXATTR: Guard._xattr,
    Op.FSETXATTR: Guard._xattr,
    Op.GETXATTR: Guard._xattr,
    Op.FGETXATTR: Guard._xattr,
    Op.SPLICE: Guard._splice,
    Op.TEE: Guard._splice,
    Op.PIPE: Guard._pipe,
    Op.MADVISE: Guard._madvise,
    Op.EPOLL_CTL: Guard._epoll_ctl,
    Op.FUTEX_WAIT: Guard._futex,
    Op.FUTEX_WAKE: Guard._futex,
    Op.FUTEX_WAITV: Guard._futex_waitv,
    Op.WAITID: Guard._waitid,
    Op.MSG_RING: Guard._msg_ring,
    Op.READV_FIXED: Guard._transfer,
    Op.WRITEV_FIXED: Guard._transfer,
    Op.READ_MULTISHOT: Guard._transfer,
    Op.ASYNC_CANCEL: Guard._named,
    Op.POLL_REMOVE: Guard._named,
    Op.TIMEOUT_REMOVE: Guard._named,
}
