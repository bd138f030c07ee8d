"""What filters see of a request: struct io_uring_bpf_ctx, made from an SQE.

    byte  0          8       9          10        11   16
          user_data  opcode  sqe_flags  pdu_size  pad  payload

abi/iouring-bpf-upstream, section 6.1. The payload is what the kernel read when it prepared the
request; of most opcodes it is empty. Bytes that are not filled are zero.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pybpfvm.bits import U8, U32, U64
from pybpfvm.errors import InputError
from pybpfvm.memory import AddressSpace, UserFault
from pybpfvm.uring_backend.abi import (
    AF_INET,
    O_CLOEXEC,
    O_CREAT,
    O_DIRECTORY,
    O_LARGEFILE,
    O_NOFOLLOW,
    O_PATH,
    O_TMPFILE,
    OP_LAST,
    OPEN_HOW,
    OPEN_VALID,
    Op,
    Sqe,
)

CONTEXT_BYTES: Final = 40
AF_INET6: Final = 10
LATEST: Final = "7.2"
KERNELS: Final = ("7.0", "7.1", LATEST)  # that have filters, oldest first
_HEAD: Final = struct.Struct("<QBBB5x")
_SOCKET: Final = struct.Struct("<III")
_PATH_FLAGS: Final = O_DIRECTORY | O_NOFOLLOW | O_PATH | O_CLOEXEC
_MODE: Final = 0o7777
_SOCKADDR_IN_BYTES: Final = 16
_SOCKADDR_IN6_BYTES: Final = 28
_FAMILY_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class Field:
    """A member of the context: `size` bytes at `offset`; `network`: in network byte order."""

    name: str
    offset: int
    size: int
    network: bool = False


COMMON: Final = (
    Field("user_data", 0, 8),
    Field("opcode", 8, 1),
    Field("sqe_flags", 9, 1),
    Field("pdu_size", 10, 1),
)
_OPEN: Final = (Field("flags", 16, 8), Field("mode", 24, 8), Field("resolve", 32, 8))
PAYLOADS: Final[Mapping[int, tuple[Field, ...]]] = {
    Op.SOCKET: (Field("family", 16, 4), Field("type", 20, 4), Field("protocol", 24, 4)),
    Op.OPENAT: _OPEN,
    Op.OPENAT2: _OPEN,
    Op.CONNECT: (
        Field("family", 16, 4),
        Field("port", 20, 2, network=True),
        Field("v4", 24, 4, network=True),
        Field("v6", 24, 16, network=True),
    ),
}
_SIZES: Final[Mapping[int, int]] = {Op.SOCKET: 12, Op.OPENAT: 24, Op.OPENAT2: 24, Op.CONNECT: 24}
_SAID: Final = ("opcode", "pdu_size")  # by the opcode's name
# The addresses of the two families begin at the same place.
_OTHER_FAMILY: Final[Mapping[int, str]] = {AF_INET: "v6", AF_INET6: "v4"}
_SINCE: Final[Mapping[int, str]] = {Op.CONNECT: "7.2"}


def kernel_named(name: str) -> str:
    """`name` if that kernel's filters are known; InputError else."""
    if name not in KERNELS:
        raise InputError(
            f"filters of Linux {name} are not known", remedy=f"known are {', '.join(KERNELS)}"
        )
    return name


def pdu_size(opcode: int, kernel: str = LATEST) -> int:
    """How many bytes of payload the filters of an opcode see."""
    since = _SINCE.get(opcode, KERNELS[0])
    return _SIZES.get(opcode, 0) if KERNELS.index(kernel) >= KERNELS.index(since) else 0


def fields(opcode: int | None, kernel: str = LATEST) -> tuple[Field, ...]:
    """The members of the context of such requests; None: of all requests."""
    seen = opcode is not None and pdu_size(opcode, kernel) > 0
    return COMMON + (PAYLOADS[opcode] if opcode is not None and seen else ())


def told(opcode: int, context: bytes, kernel: str = LATEST) -> dict[str, int]:
    """The members of a context and their values: the payload, and of the rest what is set."""
    found: dict[str, int] = {}
    for field in fields(opcode, kernel):
        raw = context[field.offset : field.offset + field.size]
        value = int.from_bytes(raw, "big" if field.network else "little")
        if field in COMMON and (not value or field.name in _SAID):
            continue
        if field.name != _OTHER_FAMILY.get(found.get("family", AF_INET)):
            found[field.name] = value
    return found


def build(
    opcode: int,
    values: Mapping[str, int],
    *,
    user_data: int = 0,
    sqe_flags: int = 0,
    kernel: str = LATEST,
) -> bytes:
    """A context with these members of the payload. Raises InputError for others."""
    for name, value, limit in (("user_data", user_data, U64), ("sqe_flags", sqe_flags, U8)):
        if not 0 <= value <= limit:
            raise InputError(f"{name} {value:#x} does not fit")
    raw = bytearray(_head(opcode, user_data, sqe_flags, kernel, b""))
    known = {field.name: field for field in fields(opcode, kernel)[len(COMMON) :]}
    if "v4" in values and "v6" in values:
        raise InputError("v4 and v6 are in the same place", remedy="give one of them")
    for name, value in values.items():
        field = known.get(name)
        if field is None:
            text = ", ".join(known) or "nothing but user_data, opcode and sqe_flags"
            raise InputError(
                f"filters of {opcode_name(opcode)} see no {name!r}", remedy=f"they see {text}"
            )
        if not 0 <= value < 1 << 8 * field.size:
            raise InputError(f"{name} {value} does not fit its {field.size} bytes")
        raw[field.offset : field.offset + field.size] = value.to_bytes(
            field.size, "big" if field.network else "little"
        )
    return bytes(raw)


def contexts(raw: bytes, memory: AddressSpace, kernel: str = LATEST) -> tuple[bytes, ...]:
    """What filters may see of a 64-byte SQE that was prepared.

    More than one where it is not known what a kernel shows: opens, to whose flags it may have
    added O_LARGEFILE.
    """
    sqe = Sqe.unpack(raw)
    payloads = [b""]
    if pdu_size(sqe.opcode, kernel):
        if sqe.opcode == Op.SOCKET:
            payloads = [_SOCKET.pack(sqe.fd & U32, sqe.off & U32, sqe.len)]
        elif sqe.opcode == Op.CONNECT:
            payloads = [_connect(sqe, memory)]
        else:
            payloads = _opens(*_how(sqe, memory))
    return tuple(_head(sqe.opcode, sqe.user_data, sqe.flags, kernel, each) for each in payloads)


def _head(opcode: int, user_data: int, sqe_flags: int, kernel: str, payload: bytes) -> bytes:
    head = _HEAD.pack(user_data, opcode, sqe_flags, pdu_size(opcode, kernel))
    return (head + payload).ljust(CONTEXT_BYTES, b"\0")


def _how(sqe: Sqe, memory: AddressSpace) -> tuple[int, int, int]:
    """Flags, mode and resolve of an open as the kernel prepares it; zeros for one it refuses."""
    if sqe.opcode == Op.OPENAT2:
        try:
            if sqe.len < OPEN_HOW.size:
                return 0, 0, 0
            flags, mode, resolve = OPEN_HOW.unpack(memory.user_read(sqe.off, OPEN_HOW.size))
        except UserFault:
            return 0, 0, 0
        return flags, mode, resolve
    flags, mode = sqe.op_flags & OPEN_VALID, sqe.len & _MODE
    if flags & O_PATH:
        flags &= _PATH_FLAGS
    if not flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)):
        mode = 0
    return flags, mode, 0


def _opens(flags: int, mode: int, resolve: int) -> list[bytes]:
    shown = [flags]
    if not flags & (O_PATH | O_LARGEFILE):
        shown.append(flags | O_LARGEFILE)
    return [OPEN_HOW.pack(each, mode, resolve) for each in shown]


def _connect(sqe: Sqe, memory: AddressSpace) -> bytes:
    """Family, port and address; an address cut short leaves out what it does not hold whole."""
    size = sqe.off & U32
    try:
        address = memory.user_read(sqe.addr, min(size, _SOCKADDR_IN6_BYTES))
    except UserFault:
        return b""
    if len(address) < _FAMILY_BYTES:
        return b""
    family = int.from_bytes(address[:_FAMILY_BYTES], "little")
    payload = family.to_bytes(4, "little")
    if family == AF_INET and len(address) >= _SOCKADDR_IN_BYTES:
        return payload + address[2:4] + bytes(2) + address[4:8]
    if family == AF_INET6 and len(address) >= _SOCKADDR_IN6_BYTES:
        return payload + address[2:4] + bytes(2) + address[8:24]
    return payload


def opcode_name(opcode: int) -> str:
    """`SOCKET` for 45."""
    return Op(opcode).name if opcode < OP_LAST else f"opcode {opcode}"


def word_name(offset: int, opcode: int | None, kernel: str = LATEST) -> str:
    """What is in the word at `offset` of the context, low bits first: `family`,
    `flags (high half)`, `opcode, sqe_flags << 8, pdu_size << 16`."""
    names = []
    for field in fields(opcode, kernel):
        if not (field.offset < offset + 4 and offset < field.offset + field.size):
            continue
        shift, part = 8 * (field.offset - offset), (offset - field.offset) // 4
        if field.size == 8:
            names.append(f"{field.name} ({'high' if part else 'low'} half)")
        elif field.size == 16:
            names.append(f"{field.name}[{4 * part}:{4 * part + 4}]")
        else:
            names.append(field.name + (f" << {shift}" if shift else ""))
    return ", ".join(names)
