"""What registering or attaching a program asks of the verifier, and what its runs owe to it."""

from __future__ import annotations

from pybpfvm.errors import InternalError, LoadRejected, Trap, TrapKind, UnsupportedError
from pybpfvm.session.objects import LoadedProgram
from pybpfvm.verifier.errnos import errno_of
from pybpfvm.verifier.usermemory.contract import Contract
from pybpfvm.verifier.verdict import Finding, Inconclusive, Rejected


def require_accepted(
    program: LoadedProgram, *, strict_ctx: bool, contract: Contract | None = None
) -> bool:
    """Raise unless the verifier accepts the program. Whether it may run without checks of its
    memory accesses: kernels catch what some accesses may come to, here nobody does."""
    verdict = program.verdict(strict_ctx=strict_ctx, contract=contract)
    if isinstance(verdict, Rejected):
        first = verdict.errors[0]
        raise LoadRejected(
            errno_of(first.rule),
            _told(first),
            where=_place(program, first),
            program=program.name,
        )
    if isinstance(verdict, Inconclusive):
        raise UnsupportedError(
            f"{program.name} can not be verified: {_told(verdict.finding)}",
            where=_place(program, verdict.finding),
            remedy="register it with verify=False (--no-verify) to run it sandboxed, unverified",
        )
    return not verdict.probes


# What also verified programs may meet: budgets are ours, and so is what engines lack. Eight frames
# are what there is, also for programs that tail calls bring to deeper ones.
_NOT_VERIFIED = frozenset({TrapKind.BUDGET, TrapKind.UNSUPPORTED, TrapKind.STACK_DEPTH})


def blame_verifier(program: str, trap: Trap) -> None:
    """A verified program trapped: raise InternalError if it was verified not to."""
    if trap.kind not in _NOT_VERIFIED:
        raise InternalError(f"{program} was verified, and faulted all the same: {trap}") from trap


def _told(finding: Finding) -> str:
    return f"{finding.message}: {finding.reason}" if finding.reason else finding.message


def _place(program: LoadedProgram, finding: Finding) -> str:
    line = finding.source
    text = f" ({line}: {line.text.strip()})" if line is not None else ""
    return f"{program.name}+{finding.pc}{text}"
