"""Filling submission entries the way liburing does: `ring.get_sqe().prep_read(fd, addr, n, 0)`."""

from __future__ import annotations

import dataclasses
import os
import struct

from pybpfvm.errors import InputError
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Sqe

AT_FDCWD = -100

_FIELDS = frozenset(field.name for field in dataclasses.fields(Sqe))


class SqeBuilder:
    """A submission entry in the making; `ring.submit()` sends it.

    Every `prep_` method fills the opcode's fields and takes the common ones by keyword:
    `user_data`, `flags` (abi.SQE_* bits), `cq_idx`, `personality`, `buf_index`. Later calls of
    `set` change single fields. Numbers that do not fit their field raise InputError.
    """

    def __init__(self, bpf_opcode: int | None, operation: int | None = None) -> None:
        self.sqe = Sqe(Op.NOP)
        self._bpf_opcode = bpf_opcode
        self._operation = operation

    def set(self, *, cq_idx: int | None = None, **fields: int) -> SqeBuilder:
        """Replace fields by name (those of `abi.Sqe`, and `cq_idx`)."""
        strangers = fields.keys() - _FIELDS
        if strangers:
            raise InputError(
                f"an SQE has no field {min(strangers)!r}",
                remedy=f"fields: {', '.join(sorted(_FIELDS))}",
            )
        if cq_idx is not None:
            addr3 = fields.get("addr3", self.sqe.addr3)
            fields["addr3"] = (addr3 & ~0xFFFF) | (cq_idx & 0xFFFF)
            if cq_idx != cq_idx & 0xFFFF:
                raise InputError(f"cq_idx {cq_idx} does not fit its 16 bits")
        self.sqe = dataclasses.replace(self.sqe, **fields)
        return self

    def pack(self) -> bytes:
        """The 64 bytes; InputError names the field that does not fit."""
        try:
            return self.sqe.pack()
        except struct.error:
            name, bits = next(self.sqe.misfits())
            raise InputError(
                f"{name} {getattr(self.sqe, name)} does not fit its {bits} bits"
            ) from None

    def _prep(self, opcode: int, common: dict[str, int], **fields: int) -> SqeBuilder:
        self.sqe = Sqe(opcode)
        return self.set(**fields, **common)

    def prep_nop(self, **common: int) -> SqeBuilder:
        """Do nothing; completes with 0."""
        return self._prep(Op.NOP, common)

    def prep_bpf(self, index: int, **common: int) -> SqeBuilder:
        """Run registered program `index`; `user_data` is its token."""
        if self._bpf_opcode is None:
            raise InputError("this ring has no BPF requests", remedy="attach a program to it")
        return self._prep(self._bpf_opcode, common, off=index)

    def prep_operation(self, number: int, opf: int = 0, **common: int) -> SqeBuilder:
        """Have program `number` perform it; the 24 bits of `opf` are the program's. For
        rings with IORING_OP_BPF."""
        if self._operation is None:
            raise InputError(
                "programs perform no requests of this ring", remedy="make one with abi=op-bpf-v3"
            )
        if not 0 <= number < 1 << 8 or not 0 <= opf < 1 << 24:
            raise InputError(f"operation {number} with opf {opf:#x} does not fit 8 + 24 bits")
        return self._prep(self._operation, common, op_flags=number << 24 | opf)

    def prep_read(self, fd: int, addr: int, length: int, offset: int, **common: int) -> SqeBuilder:
        """Read `length` bytes at file `offset` (2**64-1: the file position) to user `addr`."""
        return self._prep(Op.READ, common, fd=fd, addr=addr, len=length, off=offset)

    def prep_write(self, fd: int, addr: int, length: int, offset: int, **common: int) -> SqeBuilder:
        """Write `length` bytes from user `addr` at file `offset`."""
        return self._prep(Op.WRITE, common, fd=fd, addr=addr, len=length, off=offset)

    def prep_readv(self, fd: int, iov: int, count: int, offset: int, **common: int) -> SqeBuilder:
        """Read into `count` struct iovec at user address `iov`."""
        return self._prep(Op.READV, common, fd=fd, addr=iov, len=count, off=offset)

    def prep_writev(self, fd: int, iov: int, count: int, offset: int, **common: int) -> SqeBuilder:
        """Write from `count` struct iovec at user address `iov`."""
        return self._prep(Op.WRITEV, common, fd=fd, addr=iov, len=count, off=offset)

    def prep_fsync(self, fd: int, datasync: bool = False, **common: int) -> SqeBuilder:
        """Flush a file."""
        return self._prep(Op.FSYNC, common, fd=fd, op_flags=int(datasync))

    def prep_openat(
        self, path: int, flags: int, mode: int = 0o644, dirfd: int = AT_FDCWD, **common: int
    ) -> SqeBuilder:
        """Open the NUL-terminated path at user address `path`."""
        return self._prep(Op.OPENAT, common, fd=dirfd, addr=path, len=mode, op_flags=flags)

    def prep_close(self, fd: int, **common: int) -> SqeBuilder:
        """Close an fd."""
        return self._prep(Op.CLOSE, common, fd=fd)

    def prep_timeout(
        self, timespec: int, count: int = 0, timeout_flags: int = 0, **common: int
    ) -> SqeBuilder:
        """Complete with -ETIME after the struct __kernel_timespec at user address `timespec`, or
        with 0 after `count` completions."""
        return self._prep(
            Op.TIMEOUT, common, addr=timespec, len=1, off=count, op_flags=timeout_flags
        )

    def prep_timeout_remove(self, target: int, **common: int) -> SqeBuilder:
        """Cancel the timeout whose user_data is `target`."""
        return self._prep(Op.TIMEOUT_REMOVE, common, addr=target)

    def prep_link_timeout(self, timespec: int, timeout_flags: int = 0, **common: int) -> SqeBuilder:
        """Cancel the request linked before this one when the time is over."""
        return self._prep(Op.LINK_TIMEOUT, common, addr=timespec, len=1, op_flags=timeout_flags)

    def prep_cancel(self, target: int, cancel_flags: int = 0, **common: int) -> SqeBuilder:
        """Cancel the request whose user_data is `target`."""
        return self._prep(Op.ASYNC_CANCEL, common, addr=target, op_flags=cancel_flags)

    def prep_poll_add(self, fd: int, events: int, **common: int) -> SqeBuilder:
        """Complete when `events` (POLLIN, ...) are there."""
        return self._prep(Op.POLL_ADD, common, fd=fd, op_flags=events)

    def prep_accept(self, fd: int, accept_flags: int = 0, **common: int) -> SqeBuilder:
        """Accept a connection; the peer's address is not asked for."""
        return self._prep(Op.ACCEPT, common, fd=fd, op_flags=accept_flags)

    def prep_connect(self, fd: int, addr: int, addr_len: int = 16, **common: int) -> SqeBuilder:
        """Connect to the sockaddr at user address `addr`."""
        return self._prep(Op.CONNECT, common, fd=fd, addr=addr, off=addr_len)

    def prep_send(
        self, fd: int, addr: int, length: int, msg_flags: int = 0, **common: int
    ) -> SqeBuilder:
        """Send from user memory."""
        return self._prep(Op.SEND, common, fd=fd, addr=addr, len=length, op_flags=msg_flags)

    def prep_recv(
        self, fd: int, addr: int, length: int, msg_flags: int = 0, **common: int
    ) -> SqeBuilder:
        """Receive into user memory."""
        return self._prep(Op.RECV, common, fd=fd, addr=addr, len=length, op_flags=msg_flags)


def timespec(nanoseconds: int) -> bytes:
    """A struct __kernel_timespec, 16 bytes."""
    return struct.pack("<qq", *divmod(nanoseconds, 1_000_000_000))


def cstring(text: str | bytes) -> bytes:
    """`text` with a NUL after it."""
    return os.fsencode(text) + b"\0"


__all__ = ["AT_FDCWD", "SqeBuilder", "abi", "cstring", "timespec"]
