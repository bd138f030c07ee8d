"""SQEs when they are submitted: what the ring would refuse, or take otherwise than meant.

iouring-bpf-2021, sections 1.1, 1.6 and 3.3; fields of each opcode from `uring_backend.abi`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from pybpfvm.isa.opcodes import AluOp, Operand
from pybpfvm.isa.opcodes import Kind as InsnKind
from pybpfvm.uring_backend.abi import (
    OPS,
    SQE_BUFFER_SELECT,
    SQE_BYTES,
    SQE_CQE_SKIP_SUCCESS,
    SQE_FIXED_FILE,
    SQE_IO_DRAIN,
    FdUse,
    Op,
    OpInfo,
)
from pybpfvm.uring_backend.contexts import BPF_CONTEXT
from pybpfvm.uring_backend.requests import LINK
from pybpfvm.verifier.lints.completions import check_count, check_user_data
from pybpfvm.verifier.lints.fetches import address
from pybpfvm.verifier.lints.site import Site, u32_span
from pybpfvm.verifier.lints.sqe import Sqe, sqe_at
from pybpfvm.verifier.states.regstate import Reg, RegType
from pybpfvm.verifier.verdict import Rule

_V2_FLAGS = 0x3F
_U32 = (1 << 32) - 1
# Opcodes whose `off` is a position in a file.
_AT_OFFSET = frozenset(
    {Op.READV, Op.WRITEV, Op.READ_FIXED, Op.WRITE_FIXED, Op.READ, Op.WRITE, Op.FALLOCATE}
    | {Op.FADVISE, Op.SYNC_FILE_RANGE, Op.FSYNC}
)
# Operations that can exceed their width, on the greatest operands.
_WRAPPING: Mapping[object, Callable[[int, int], int]] = {
    AluOp.MUL: lambda a, b: a * b,
    AluOp.LSH: lambda a, b: a << (b & 31),
    AluOp.ADD: lambda a, b: a + b,
}
_HISTORY = 8
_UNUSED_BY_BPF = ("ioprio", "addr", "len", "op_flags")


def submitted(site: Site) -> Sqe | None:
    """Check an SQE that is about to be submitted; gives it if its place is known."""
    length = site.regs[3]
    known = length.type is RegType.SCALAR_VALUE and not length.var.mask
    size = length.var.value & _U32 if known else SQE_BYTES
    if site.ring.length_checked and size != SQE_BYTES:
        site.warn(
            Rule.SQE_FIELD,
            f"{size} bytes are submitted, an SQE has {SQE_BYTES}",
            "the helper answers -EINVAL and submits nothing",
            "pass sizeof(struct io_uring_sqe)",
        )
    sqe = sqe_at(site)
    if sqe is None:
        return None
    _check_flags(site, sqe)
    _check_fields(site, sqe)
    cq = sqe.cq_idx
    if cq is not None:
        site.check_cq("the SQE's cq_idx", (cq, cq))
    token = sqe.number("user_data")
    if cq == 0 and token is not None and not sqe.silent:
        check_user_data(site, token.origin, "an SQE")
    return sqe


def info_of(site: Site, opcode: int | None) -> OpInfo | None:
    """What the fields of an opcode's SQE mean; None for BPF and opcodes that do not exist."""
    if opcode is None or opcode >= site.ring.bpf_opcode:
        return None
    return OPS[Op(opcode)]


def _check_flags(site: Site, sqe: Sqe) -> None:
    opcode, flags = sqe.opcode, sqe.value("flags")
    bpf = site.ring.bpf_opcode
    if opcode is not None and opcode > bpf and not site.ring.later_opcodes:
        site.warn(
            Rule.SQE_OPCODE,
            f"opcode {opcode} does not exist",
            f"opcodes of this ABI end at {bpf} (BPF); the request completes with -EINVAL",
            "compile with the header of the ABI that the program runs on",
        )
    if flags is None:
        return
    valid = _V2_FLAGS | (SQE_CQE_SKIP_SUCCESS if site.ring.cqe_skip else 0)
    if flags & ~valid:
        site.warn(
            Rule.SQE_FLAGS,
            f"flags 0x{flags:x} have bits that {site.profile.name} does not know",
            "the request completes with -EINVAL",
            f"use bits of 0x{valid:x} only",
        )
    if flags & SQE_IO_DRAIN:
        site.warn(
            Rule.DRAIN,
            "IO_DRAIN in an SQE that a program submits",
            "drains count the SQ's entries, which programs do not use: what the request waits "
            "for is not defined",
            "link the requests, or wait for completions in the program",
        )
    info = info_of(site, opcode)
    selects = bool(flags & SQE_BUFFER_SELECT)
    if (info is not None and selects and not info.buffer_select) or (selects and opcode == bpf):
        site.warn(
            Rule.SQE_FLAGS,
            f"BUFFER_SELECT on opcode {opcode}, which takes no buffer",
            "the request completes with -EOPNOTSUPP",
            "leave the flag out",
        )
    elif opcode == bpf and flags & SQE_FIXED_FILE:
        site.warn(
            Rule.SQE_FLAGS,
            "FIXED_FILE on a BPF request, which has no file",
            "the request completes with -EINVAL",
            "leave the flag out",
        )


def _check_fields(site: Site, sqe: Sqe) -> None:
    opcode = sqe.opcode
    info = info_of(site, opcode)
    takes_file = info is not None and info.fd is FdUse.FILE
    for field in ("len", "off", "fd") if takes_file else ("len", "off"):
        number = sqe.number(field)
        if number is not None:
            check_count(site, number, f"the SQE's {field}")
    if opcode == site.ring.bpf_opcode:
        names_memory = site.ring.contexts and sqe.value("op_flags") in (None, BPF_CONTEXT)
        for field in ("ioprio",) if names_memory else _UNUSED_BY_BPF:
            value = sqe.value(field)
            if value:
                _field(site, field, value, "a BPF request has no such field: it must be 0")
    if info is None:
        return
    ioprio = sqe.value("ioprio")
    if ioprio and not info.ioprio:
        _field(site, "ioprio", ioprio, f"opcode {opcode} has no priority: it must be 0")
    for pointer in info.pointers:
        held = sqe.number(pointer.field) if pointer.field != "addr3" else None
        if held is not None:
            address(site, held)
    if opcode in _AT_OFFSET:
        _check_offset(site, sqe)


def _field(site: Site, field: str, value: int, why: str) -> None:
    site.warn(
        Rule.SQE_FIELD,
        f"the SQE's {field} is {value}",
        f"{why}, or the request completes with -EINVAL",
        "clear the SQE before filling it in",
    )


def _check_offset(site: Site, sqe: Sqe) -> None:
    """A position that 32-bit arithmetic made, and that may have wrapped in it."""
    number = sqe.number("off")
    at = None if number is None else _wraps_at(site, number)
    if at is not None:
        site.warn(
            Rule.FILE_OFFSET,
            "the file offset was computed in 32 bits",
            f"instruction {at} drops what lies beyond 4 GiB, so the request goes to "
            "another place of the file",
            "convert the factors to u64 before multiplying",
        )


def _wraps_at(site: Site, number: Reg) -> int | None:
    """The 32-bit instruction that may have dropped upper bits of the number."""
    for _ in range(_HISTORY):
        insn = site.code.get(number.at)
        if insn is None or insn.spec.kind is not InsnKind.ALU or not number.deps:
            return None
        op, spec = insn.spec.op, insn.spec
        left = number.deps[0].var.u32max
        if spec.operand is Operand.X:
            right = number.deps[-1].var.u32max
        else:
            right = insn.imm & _U32
        if spec.width == 32 and op in _WRAPPING:
            return number.at if _WRAPPING[op](left, right) > _U32 else None
        if op is not AluOp.MOV:
            return None
        number = number.deps[0]
    return None


def linked(site: Site, sqe: Sqe) -> None:
    """Remember whether the chain is open."""
    site.notes = replace(site.notes, chain=sqe.pc if sqe.linked else -1)


def requeued(site: Site) -> None:
    """Requests that wait are moved, from the queue in r2 to that in r3 or behind the chain."""
    site.check_cq("the CQ that is requeued from", u32_span(site.regs[2]))
    target = u32_span(site.regs[3])
    if target != (LINK, LINK):
        site.check_cq("the CQ that is requeued to", target)
    elif site.notes.chain < 0:
        site.warn(
            Rule.REQUEUE_UNLINKED,
            "a request is to go on behind the chain, and none is open",
            "the call answers -EINVAL and moves nothing: who should go on waits for ever",
            "submit what it is to wait for first, in the same run, with a link flag",
        )
    else:
        site.notes = replace(site.notes, chain=-1)


def ended(site: Site) -> None:
    """The run ends: a link that leads nowhere."""
    chain = site.notes.chain
    if chain >= 0:
        site.warn_at(
            chain,
            Rule.LINK_DANGLING,
            "the SQE is linked to a next one, and the run ends without submitting it",
            "the end of a run closes its chains: the link has no effect, and a request of the "
            "next run starts without waiting for this one",
            "submit what depends on it in the same run, or leave the flag out",
        )
