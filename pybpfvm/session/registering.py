"""What registering or attaching a program asks of the verifier."""

from __future__ import annotations

from pybpfvm.errors import LoadRejected, UnsupportedError
from pybpfvm.session.objects import LoadedProgram
from pybpfvm.verifier.errnos import errno_of
from pybpfvm.verifier.verdict import Finding, Inconclusive, Rejected


def require_accepted(program: LoadedProgram, *, strict_ctx: bool) -> None:
    """Raise unless the verifier accepts the program."""
    verdict = program.verdict(strict_ctx=strict_ctx)
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


def _told(finding: Finding) -> str:
    return f"{finding.message}: {finding.reason}" if finding.reason else finding.message


def _place(program: LoadedProgram, finding: Finding) -> str:
    line = finding.source
    text = f" ({line}: {line.text.strip()})" if line is not None else ""
    return f"{program.name}+{finding.pc}{text}"
