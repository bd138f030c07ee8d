"""The argument of IORING_REGISTER_BPF_FILTER as bytes: struct io_uring_bpf, 72 bytes.

    byte  0         2          4     8       12     16          20        21    24          32
          cmd_type  cmd_flags  resv  opcode  flags  filter_len  pdu_size  resv  filter_ptr  resv2

abi/iouring-bpf-upstream, section 6.1.
"""

from __future__ import annotations

import errno
import struct
from typing import Final, Protocol

from pybpfvm.errors import RingError
from pybpfvm.filters.cbpf import INSN_BYTES, MAX_INSNS, decode
from pybpfvm.filters.table import Registration, SizeError
from pybpfvm.memory import AddressSpace, UserFault

CMD_FILTER: Final = 1
_ARGUMENT: Final = struct.Struct("<HHIIIIB3sQ40s")
ARGUMENT_BYTES: Final = _ARGUMENT.size
PDU_SIZE_AT: Final = 20


class Registrar(Protocol):
    """A task or a ring."""

    def register_filter(self, wanted: Registration) -> int:
        """The kernel's pdu_size."""


def register(
    registrar: Registrar, addr: int, memory: AddressSpace, *, nr_args: int = 1, name: str = ""
) -> None:
    """The call as a host makes it, with the argument at `addr` of user memory: RingError, or it is
    done. The kernel's pdu_size is written back in either case, once it was compared."""
    if nr_args != 1:
        raise RingError(errno.EINVAL, f"{nr_args} arguments, the call takes 1")
    wanted = unpack(addr, memory, name)
    try:
        size = registrar.register_filter(wanted)
    except SizeError as error:
        memory.user_write(addr + PDU_SIZE_AT, bytes((error.size,)))
        raise
    memory.user_write(addr + PDU_SIZE_AT, bytes((size,)))


def pack(wanted: Registration, program_addr: int) -> bytes:
    """The argument for a program that is at `program_addr`."""
    size = wanted.pdu_size or 0
    count = len(wanted.program)
    head = (CMD_FILTER, 0, 0, wanted.opcode, wanted.flags, count, size)
    return _ARGUMENT.pack(*head, bytes(3), program_addr, bytes(40))


def unpack(addr: int, memory: AddressSpace, name: str = "") -> Registration:
    """The registration that a task's argument at `addr` asks for.

    Raises RingError EFAULT where it or its program can not be read, EINVAL for a wrong type,
    flags, reserved bytes that are set, or no length that a program can have.
    """
    try:
        raw = memory.user_read(addr, ARGUMENT_BYTES)
    except UserFault:
        raise RingError(errno.EFAULT, "the argument can not be read") from None
    cmd, cmd_flags, resv, opcode, flags, count, size, resv1, at, resv2 = _ARGUMENT.unpack(raw)
    if cmd != CMD_FILTER or cmd_flags:
        raise RingError(errno.EINVAL, f"command {cmd} with flags {cmd_flags:#x}")
    if resv or any(resv1) or any(resv2):
        raise RingError(errno.EINVAL, "a reserved byte is not zero")
    if not 0 < count <= MAX_INSNS:
        raise RingError(errno.EINVAL, f"{count} instructions, 1 to {MAX_INSNS} can be")
    try:
        code = memory.user_read(at, count * INSN_BYTES)
    except UserFault:
        raise RingError(errno.EFAULT, "the program can not be read") from None
    return Registration(opcode, decode(code), flags, size, name)
