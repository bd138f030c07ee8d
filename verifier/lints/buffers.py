"""Buffers of requests: inside what the contract declares, and not used while in flight."""

from __future__ import annotations

from dataclasses import replace

from pybpfvm.uring_backend.abi import IOVEC, SQE_BUFFER_SELECT, TIMESPEC, Pointer, Target
from pybpfvm.verifier.lints.notes import Flight
from pybpfvm.verifier.lints.site import Site
from pybpfvm.verifier.lints.sqe import Sqe
from pybpfvm.verifier.lints.submission import info_of
from pybpfvm.verifier.states.regstate import Reg, RegType
from pybpfvm.verifier.usermemory.origin import ADDRESSES, Origin
from pybpfvm.verifier.verdict import Rule

_READS = frozenset({Target.IN, Target.STRING, Target.TIMESPEC, Target.IOVEC_IN, Target.IOVEC_OUT})
_BYTES = {
    Target.STRING: 1,
    Target.TIMESPEC: TIMESPEC.size,
    Target.MSGHDR_IN: 56,
    Target.MSGHDR_OUT: 56,
}
# Of these the buffer itself is named by the SQE, not by what it points to.
_DIRECT = {Target.IN: False, Target.OUT: True}
assert IOVEC.size == 16  # the unit of IOVEC pointers in the table


def submitted(site: Site, sqe: Sqe) -> None:
    """The blocks that an SQE points to."""
    info = info_of(site, sqe.opcode)
    flags = sqe.value("flags")
    if info is None or flags is None or flags & SQE_BUFFER_SELECT:
        return
    for pointer in info.pointers:
        if pointer.field == "addr3" or pointer.only_with:
            continue
        held = sqe.number(pointer.field)
        origin = None if held is None else held.origin
        if origin is None or origin.off is None or origin.source not in ADDRESSES:
            continue
        size = _bytes(sqe, pointer)
        _check_block(site, origin, pointer, size)
        if pointer.target in _DIRECT and size:
            _fly(site, sqe, origin, size, _DIRECT[pointer.target])


def _bytes(sqe: Sqe, pointer: Pointer) -> int:
    """How many bytes the request certainly uses; 0 if that is not known."""
    if pointer.target in _BYTES:
        return _BYTES[pointer.target]
    if not pointer.count:
        return pointer.unit
    count = sqe.value(pointer.count)
    return 0 if count is None else count * pointer.unit


def _check_block(site: Site, origin: Origin, pointer: Pointer, size: int) -> None:
    block, off = origin.block, origin.off
    if block is None or off is None:
        return
    writes = pointer.target in (Target.OUT, Target.SOCKADDR_OUT, Target.FIXED_OUT)
    reads = pointer.target in _READS
    if (writes and not block.writable) or (reads and not block.readable):
        way = "writes" if writes else "reads"
        site.warn(
            Rule.SQE_BUFFER,
            f"the request {way} block {block.name} against its declared direction",
            f"{origin.name} points to {block.name}, which the contract opens for "
            f"{'reading' if writes else 'writing'} only",
            f"declare access of blocks.{block.name} as it is used, or give another buffer",
        )
        return
    low, high = off.var.smin, off.var.smax
    if low + max(size, 1) > block.size or high < 0:
        site.warn(
            Rule.SQE_BUFFER,
            f"the request's {pointer.field} reaches beyond block {block.name}: "
            f"off={low} size={max(size, 1)} block_size={block.size}",
            f"{origin.name} points to {block.size} bytes",
            "keep offset + length inside the block",
        )


def _fly(site: Site, sqe: Sqe, origin: Origin, size: int, writes: bool) -> None:
    """A buffer is given away, if its place is known, until something is reaped."""
    assert origin.off is not None
    if origin.off.var.mask:
        return
    low = origin.off.var.smin
    flight = Flight(origin.key, low, low + size, writes, sqe.pc)
    notes = site.notes
    if notes.chain < 0:
        _check_flights(site, flight, "the request")
    site.notes = replace(notes, flights=notes.flights | {flight})


def copied(site: Site, addr: Reg, size: Reg, *, writes: bool) -> None:
    """The program itself reads or writes user memory."""
    origin = addr.origin
    if origin is None or origin.off is None or origin.off.var.mask:
        return
    if size.type is RegType.SCALAR_VALUE and not size.var.mask:
        low = origin.off.var.smin
        flight = Flight(origin.key, low, low + size.var.value, writes, site.pc)
        _check_flights(site, flight, "the copy")


def _check_flights(site: Site, new: Flight, what: str) -> None:
    for old in site.notes.flights:
        if old.key != new.key or not (old.writes or new.writes):
            continue
        if old.low < new.high and new.low < old.high:
            site.warn(
                Rule.BUFFER_IN_FLIGHT,
                f"{what} uses a buffer that the request submitted at instruction {old.at} may "
                "still use",
                f"bytes {max(old.low, new.low)} to {min(old.high, new.high) - 1} are "
                f"{'written' if old.writes else 'read'} by that request whenever it comes to it",
                "reap its completion first, link the requests, or use another buffer",
            )
            return


def reaped(site: Site) -> None:
    """Something is reaped: which requests are done is not followed."""
    if site.notes.flights:
        site.notes = replace(site.notes, flights=frozenset())
