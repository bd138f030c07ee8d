"""Completions that a program takes and makes, and results that it does not look at.

iouring-bpf-2021, sections 2.4 (b), (c) and 3.5.
"""

from __future__ import annotations

from pybpfvm.profiles.base import Profile
from pybpfvm.uring_backend.abi import Op
from pybpfvm.verifier.lints.site import Report, Site, only, stack_place, u32_span
from pybpfvm.verifier.lints.sqe import Sqe
from pybpfvm.verifier.states.regstate import Reg, RegType
from pybpfvm.verifier.usermemory.origin import ERRNOS, Origin, Source, Status
from pybpfvm.verifier.usermemory.usernames import SUBMIT
from pybpfvm.verifier.verdict import Rule

_RES, _CQE_BYTES = (8, 12), 16
_OF_CQE = frozenset({Source.CQE, Source.CQE_RES, Source.CQE_USER_DATA})
# Requests that may do less than was asked: their res is a number of bytes.
_TRANSFERS = frozenset(
    {
        Op.READV,
        Op.WRITEV,
        Op.READ_FIXED,
        Op.WRITE_FIXED,
        Op.SENDMSG,
        Op.RECVMSG,
        Op.READ,
        Op.WRITE,
        Op.SEND,
        Op.RECV,
        Op.SPLICE,
        Op.TEE,
    }
)


class Results:
    """What a program does with results, over all its paths."""

    def __init__(self) -> None:
        self._read: set[int] = set()
        self._submits: dict[int, str] = {}
        self._transfers: dict[int, set[int | None]] = {}
        self._reaps: dict[int, set[int | None]] = {}
        self._owned: dict[int, bool] = {}
        self._looked = False

    def finish(self, profile: Profile, report: Report) -> None:
        """Warn of what was never looked at."""
        ring = profile.ring
        if ring is not None and ring.submit_returns_errno:
            for pc in sorted(self._submits.keys() - self._read):
                report(
                    Rule.SUBMIT_UNCHECKED,
                    pc,
                    "the result of submitting is never looked at",
                    "in this ABI a refused SQE posts no CQE: only the result tells",
                    "compare the result with 0",
                )
        if self._looked:
            return
        for pc, cqs in sorted(self._reaps.items()):
            waited = {cq for found in self._transfers.values() for cq in found}
            if cqs & waited - {None}:
                report(
                    Rule.RESULT_IGNORED,
                    pc,
                    "the res of completed transfers is never looked at",
                    "a transfer may be short, or have failed with EINTR, EAGAIN or ECANCELED; "
                    "nothing in the program would notice",
                    "compare res with the length that was asked for",
                )

    def submitted(self, sqe: Sqe) -> None:
        """An SQE goes out."""
        self._submits[sqe.pc] = "submit"
        if sqe.opcode in _TRANSFERS:
            self._transfers.setdefault(sqe.pc, set()).add(sqe.cq_idx)

    def reaped(self, site: Site) -> None:
        """The program is about to reap."""
        span = u32_span(site.regs[2])
        site.check_cq("the CQ to reap", span)
        # Where the index is not known, it is taken to be one of those that the program owns.
        owned = any(span[0] <= cq <= span[1] for cq in site.promise.owns_cqs)
        self._owned[site.pc] = self._owned.get(site.pc, True) and owned
        self._reaps.setdefault(site.pc, set()).add(only(span))
        if only(span) == 0 and not owned:
            site.warn(
                Rule.CQ_OWNERSHIP,
                "the program reaps CQ 0, where user space waits for its completions",
                "both advance the head of the queue without a lock, so completions are lost or "
                "seen twice",
                "use an extra CQ, or declare owns_cqs = [0] for this program",
            )

    def loaded(self, site: Site) -> None:
        """A load from the stack: of the res of a completion, perhaps."""
        insn = site.insn
        place = stack_place(site.state, site.regs[insn.src])
        if place is not None:
            self._look(site, place[1] + insn.off, int(insn.spec.size or 8), site.regs[insn.src])

    def _look(self, site: Site, low: int, size: int, pointer: Reg) -> None:
        frame = site.state.frames[pointer.frame]
        for base in range(low & -8, low + size, 8):
            slot = frame.stack.get(base)
            copied = None if slot is None else slot.copied
            if copied is None or not copied.cqe:
                continue
            first, last = low - copied.low, low + size - copied.low
            if first < _RES[1] and last > _RES[0]:
                self._looked = True

    def passed(self) -> None:
        """A function that is judged alone gets a pointer to the stack: perhaps to a completion."""
        self._looked = True

    def copied(self, site: Site, memory: Reg, size: Reg) -> None:
        """Memory of the program goes to user space: bytes of a completion among it?"""
        place = stack_place(site.state, memory)
        if place is None or size.type is not RegType.SCALAR_VALUE:
            return
        frame, low = place
        length = min(size.var.umax, 512)
        self._look(site, low, length, memory)
        for base in range(low & -8, low + length, 8):
            slot = frame.stack.get(base)
            copied = None if slot is None else slot.copied
            if copied is not None and copied.cqe and copied.status is not Status.GOOD:
                self._failed(site, copied.at, copied.status)

    def used(self, site: Site, reg: Reg) -> None:
        """A number decides a branch, or leaves the program."""
        origin = reg.origin
        if origin is None:
            return
        self.read(reg)
        if origin.source in _OF_CQE and origin.status is not Status.GOOD:
            self._failed(site, origin.at, origin.status)

    def read(self, reg: Reg) -> None:
        """A number is looked at."""
        origin = reg.origin
        if origin is not None and origin.source is Source.RESULT and origin.key[1] in SUBMIT:
            self._read.add(origin.at)

    def _failed(self, site: Site, at: int, status: Status) -> None:
        if status is Status.UNTESTED and self._owned.get(at):
            return
        how = "failed" if status is Status.FAILED else "may have failed"
        site.warn(
            Rule.FAILED_REAP,
            f"a completion is used, although the reap at instruction {at} {how}",
            "where nothing was there to reap, the completion is 16 zero bytes: user_data 0 and "
            "res 0 look like a success",
            "check the result first: use the completion only where reaping returned 0; declare the "
            "CQ in owns_cqs only if a completion there has woken each run that reaps (nothing "
            "wakes the first run of a program)",
        )


def emitted(site: Site) -> None:
    """A CQE is made."""
    span = u32_span(site.regs[2])
    site.check_cq("the CQ to emit to", span)
    if only(span) == 0:
        check_user_data(site, site.regs[3].origin, "a CQE")


def check_user_data(site: Site, origin: Origin | None, what: str) -> None:
    """What goes to CQ 0 carries the request's own `user_data`."""
    if origin is None or origin.source is not Source.USER_DATA or origin.off is None:
        return
    var = origin.off.var
    if var.mask or var.value:
        return
    site.warn(
        Rule.USER_DATA_SHARED,
        f"{what} to CQ 0 has the user_data of the request itself",
        "user space gets several completions with one user_data, and can not tell the request's "
        "own from those that the program made",
        "use another user_data, or another CQ",
    )


def check_count(site: Site, value: Reg, field: str) -> None:
    """A result that may be -errno is used as a count or a length."""
    origin = value.origin
    if origin is None or origin.source not in ERRNOS:
        return
    if origin.no_errno or value.var.s32min >= 0:
        return
    whose = "the res of a completion" if origin.source is Source.CQE_RES else "a helper's result"
    site.warn(
        Rule.ERRNO_AS_COUNT,
        f"{whose} becomes {field}, and may be a negative errno",
        f"the number was read at instruction {origin.at}; -EIO as a length is 4 GiB less 5 bytes",
        "leave early where it is negative",
    )
