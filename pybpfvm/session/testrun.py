"""Runs of a program outside any ring, as BPF_PROG_TEST_RUN does them: context, packet, result.

What a kernel fills in for a test run is filled in here: the length and addressee of the packet,
its protocol, the interface it came by. The bytes that the host gives for such context fields must
be 0 or right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pybpfvm.engine import Engine
from pybpfvm.errors import InputError
from pybpfvm.memory import Region, RegionKind
from pybpfvm.profiles.base import CtxField, CtxHolds, PacketRules, Profile
from pybpfvm.program import Program

ETHERNET_BYTES = 14
MAX_PACKET_BYTES = 1 << 16
MAX_CTX_BYTES = 1 << 16

_ETHERTYPE_MIN = 0x600  # below it, the field is a length: IEEE 802.3
_P_802_3 = 1  # linux/if_ether.h: Novell's raw frames
_P_802_2 = 4  # and those with a logical link control header

# To whom a packet is addressed: linux/if_packet.h. Test runs come by the loopback interface, which
# has no broadcast address: such packets are multicast.
_HOST, _MULTICAST, _OTHER_HOST = 0, 2, 3
_OWN_ADDRESS = bytes(6)


@dataclass(frozen=True, slots=True)
class TestRun:
    """What one run of a program gave: r0 (unsigned), instructions, the packet and context after."""

    __test__ = False  # the name is the kernel's; pytest must not collect it

    retval: int
    insns: int
    data: bytes
    ctx: bytes


def run_program(
    engine: Engine,
    profile: Profile,
    program: Program,
    ctx: bytes | None,
    data: bytes,
    *,
    repeat: int,
    budget_insns: int,
    after_each: Callable[[int], None] | None = None,
    whole_frames: bool = True,
) -> TestRun:
    """Run `program` `repeat` times on one context and one packet, which keep what it changes.

    `whole_frames`: the packet must be one, as for a kernel's test run; without, any bytes.
    Raises InputError for a context or packet that its type can not be run with, and Trap.
    """
    memory = engine.image.memory
    if repeat < 1:
        raise InputError(f"repeat {repeat}", remedy="1 or more")
    rules = profile.packet
    where = f"{program.name} ({profile.title})"
    _check_data(rules, data, where, whole=whole_frames)
    hidden = rules.hidden_bytes if rules is not None else 0
    content = _context(profile, ctx or b"", data, memory.byteorder, where)
    region = memory.alloc(len(content), RegionKind.CTX, f"context of {program.name}")
    packet: Region | None = None
    owned: Region | None = None
    insns = retval = 0
    try:
        memory.write(region.start, content)
        if rules is not None:
            shown = data[hidden:]
            owned = memory.alloc(
                max(1, len(shown)), RegionKind.PACKET, "data", writable=rules.writable
            )
            memory.write(owned.start, shown)
            packet = replace(owned, size=len(shown))
        for _ in range(repeat):
            done = engine.run(program, region.start, budget_insns=budget_insns, packet=packet)
            retval, insns = done.r0, insns + done.insns
            if after_each is not None:
                after_each(done.insns)
        after = b""
        if packet is not None:
            after = bytes(hidden) + memory.read(packet.start, packet.size)
        return TestRun(retval, insns, after, memory.read(region.start, len(content)))
    finally:
        memory.free(region)
        if owned is not None:
            memory.free(owned)


def _check_data(rules: PacketRules | None, data: bytes, where: str, *, whole: bool) -> None:
    if rules is None:
        if data:
            raise InputError(
                "programs of this type run on no packet", where=where, remedy="leave the data out"
            )
        return
    least = ETHERNET_BYTES + 1 if whole else 0
    if not least <= len(data) <= MAX_PACKET_BYTES:
        raise InputError(
            f"a packet of {len(data)} bytes",
            where=where,
            remedy=f"give an Ethernet frame of {ETHERNET_BYTES + 1} to {MAX_PACKET_BYTES} bytes "
            "(--data HEX or @FILE, data= in Python)",
        )


def _context(
    profile: Profile, given: bytes, data: bytes, order: Literal["little", "big"], where: str
) -> bytes:
    """The context's bytes before the run."""
    known = profile.ctx_bytes if profile.packet is not None else MAX_CTX_BYTES
    if len(given) > known:
        raise InputError(
            f"a context of {len(given)} bytes", where=where, remedy=f"give at most {known}"
        )
    content = bytearray(given.ljust(profile.ctx_bytes, b"\0"))
    if profile.packet is None:
        return bytes(content)
    filled = _filled_in(profile.packet, data, order)
    for one in profile.ctx_fields:
        place = slice(one.offset, one.offset + one.size)
        value = int.from_bytes(content[place], order)
        expected = filled.get(one.holds, 0)
        if one.holds is CtxHolds.GIVEN:
            value = value or one.default
        elif value not in (0, expected):
            raise InputError(
                f"{profile.ctx_name}.{one.name} is {value}",
                where=where,
                remedy=_remedy(one, expected),
            )
        else:
            value = expected
        content[place] = value.to_bytes(one.size, order)
    return bytes(content)


def _remedy(ctx_field: CtxField, expected: int) -> str:
    if expected:
        return f"it is {expected} for this packet: give that, or 0"
    return f"give 0: it holds {ctx_field.holds.value}"


def _filled_in(
    rules: PacketRules, data: bytes, order: Literal["little", "big"]
) -> Mapping[CtxHolds, int]:
    return {
        CtxHolds.LENGTH: len(data) - rules.hidden_bytes,
        CtxHolds.PROTOCOL: int.from_bytes(_protocol(data).to_bytes(2, "big"), order),
        CtxHolds.PACKET_TYPE: _addressed_to(data[:6]),
    }


def _protocol(frame: bytes) -> int:
    ethertype = int.from_bytes(frame[12:14], "big")
    if ethertype >= _ETHERTYPE_MIN:
        return ethertype
    return _P_802_3 if frame[14:16] == b"\xff\xff" else _P_802_2


def _addressed_to(address: bytes) -> int:
    if address == _OWN_ADDRESS:
        return _HOST
    return _MULTICAST if address[:1] and address[0] & 1 else _OTHER_HOST
