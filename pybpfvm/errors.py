"""Everything pybpfvm raises, as one tree.

    PybpfvmError
    ├── InputError          bad ELF, BTF, bytecode, text, option: who gave it can mend it  (exit 2)
    │   ├── UnsupportedErrorwell-formed, but a feature this version does not have          (exit 3)
    │   └── NotAccepted     a program that must be safe, and is not, or may not be     (exit 1, 3)
    ├── RingError           an io_uring call was refused; carries errno                    (exit 2)
    ├── LoadRejected        a program the kernel of its ABI would not load; carries errno  (exit 1)
    ├── Trap                a running program did something it must not                    (exit 4)
    ├── RingHang            a ring that can make no progress, or exhausted its budget      (exit 1)
    └── InternalError       our own bug                                                    (exit 70)

Every message has one line; location, reason and remedy are fields so that each
surface (text, JSON, editor) shows them its own way.
"""

from __future__ import annotations

import errno as _errno
from dataclasses import dataclass
from enum import Enum


class PybpfvmError(Exception):
    """Base of all errors above; `exit_code` is what the command line returns for it."""

    exit_code = 70


class InputError(PybpfvmError):
    """Input that cannot be used.

    `where` names the place ("count.bpf.o: section .BTF, offset 0x1c"), `reason` what is wrong
    there, `remedy` what to do about it (empty when nothing sensible can be said).
    """

    exit_code = 2

    def __init__(self, reason: str, *, where: str = "", remedy: str = "") -> None:
        self.where = where
        self.reason = reason
        self.remedy = remedy
        text = f"{where}: {reason}" if where else reason
        super().__init__(f"{text} ({remedy})" if remedy else text)

    def inside(self, place: str) -> InputError:
        """The same error, of the same class, with `place` put before where it was."""
        where = f"{place}: {self.where}" if self.where else place
        return InputError(self.reason, where=where, remedy=self.remedy)


class UnsupportedError(InputError):
    """Valid input that uses `feature`, which this version does not have."""

    exit_code = 3

    def __init__(self, feature: str, *, where: str = "", remedy: str = "") -> None:
        self.feature = feature
        super().__init__(f"unsupported: {feature}", where=where, remedy=remedy)

    def inside(self, place: str) -> UnsupportedError:
        """As for every InputError."""
        where = f"{place}: {self.where}" if self.where else place
        return UnsupportedError(self.feature, where=where, remedy=self.remedy)


# Errors that the kernel has for itself and that bpf(2) lets through all the same.
_KERNEL_ONLY = {512: "ERESTARTSYS", 524: "ENOTSUPP"}


def errno_name(number: int) -> str:
    """`EINVAL` for 22 or -22; the decimal number where neither the platform nor the kernel has a
    name."""
    number = abs(number)
    return _errno.errorcode.get(number) or _KERNEL_ONLY.get(number, str(number))


class NotAccepted(InputError):
    """A program that the verifier does not accept, where only what it accepts is run.

    `exit_code` is 1 for one that it rejects, 3 for one of which it does not know.
    """

    def __init__(self, reason: str, *, where: str, remedy: str, rejected: bool) -> None:
        super().__init__(reason, where=where, remedy=remedy)
        self.exit_code = 1 if rejected else 3


class RingError(PybpfvmError):
    """An io_uring call was refused with `errno` (positive), as the kernel of the ABI would."""

    exit_code = 2

    def __init__(self, errno: int, reason: str) -> None:
        self.errno = errno
        self.reason = reason
        super().__init__(f"{reason} (-{errno_name(errno)})")


class LoadRejected(PybpfvmError):
    """The kernel of this ABI refuses to load the program: `errno` (positive), and where.
    `program` is its name."""

    exit_code = 1

    def __init__(self, errno: int, reason: str, *, where: str = "", program: str = "") -> None:
        self.errno = errno
        self.reason = reason
        self.where = where
        self.program = program
        text = f"{where}: {reason}" if where else reason
        super().__init__(f"{text} (-{errno_name(errno)})")


class TrapKind(Enum):
    """Why a running program was stopped. The value is the text shown to people."""

    OUT_OF_BOUNDS = "memory access outside every region"
    READ_ONLY = "write to read-only memory"
    USER_MEMORY = "plain access to user memory (use a copy helper)"
    NULL = "NULL pointer access"
    NOT_MEMORY = "access through a pointer that is not memory (map, function or context handle)"
    CTX_ACCESS = "access to the context that its ABI does not allow"
    MISALIGNED = "misaligned atomic access"
    STACK_DEPTH = "more than 8 frames of calls"
    BUDGET = "instruction budget exhausted"
    BAD_INSN = "instruction that cannot be executed"
    BAD_PC = "control flow left the program"
    BAD_HELPER = "call of a helper that is not available"
    BAD_HELPER_ARG = "helper argument of the wrong kind"
    BAD_RETURN = "return value outside the range its ABI allows"
    UNSUPPORTED = "feature that this engine does not have"
    # What only a sandbox that looks for it stops (session/witness.py): runs define or allow it.
    UNINIT_REGISTER = "read of a register that was never written"
    UNINIT_STACK = "read of a stack byte that was never written"
    HELD = "end of the program with a reference held"


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line of C: 1-based `line` and `column` (0 = unknown), `text` as in the line info."""

    file: str
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Trap(PybpfvmError):
    """A running program did something it must not.

    `pc` is in 8-byte slots of the program named `program`; `addr` the address concerned, if
    one is; `region` the name of the region it falls in or nearest to; `regs` r0..r10 before
    the instruction; `insns` the instructions that the run executed until then.
    """

    exit_code = 4

    def __init__(
        self,
        kind: TrapKind,
        detail: str = "",
        *,
        pc: int = -1,
        program: str = "",
        insn: str = "",
        addr: int | None = None,
        size: int = 0,
        region: str = "",
        source: SourceLine | None = None,
        regs: tuple[int, ...] = (),
        insns: int = 0,
    ) -> None:
        self.kind = kind
        self.detail = detail
        self.pc = pc
        self.program = program
        self.insn = insn
        self.addr = addr
        self.size = size
        self.region = region
        self.source = source
        self.regs = regs
        self.insns = insns
        super().__init__(kind.value)

    @property
    def summary(self) -> str:
        """What happened, in one line and without its place."""
        parts = [self.kind.value]
        if self.detail:
            parts.append(f": {self.detail}")
        if self.addr is not None:
            parts.append(f", address {self.addr:#x}")
            if self.size:
                parts.append(f" size {self.size}")
        if self.region:
            parts.append(f" ({self.region})")
        return "".join(parts)

    def __str__(self) -> str:
        parts = [self.summary]
        if self.program:
            parts.append(f"\n  at {self.program}+{self.pc}: {self.insn}")
        if self.source is not None:
            parts.append(f"\n  in {self.source}: {self.source.text.strip()}")
        return "".join(parts)


_MOST_WAITERS = 20  # lines of a message; `waiters` has them all


LIVELOCK = "live-lock"  # how the reason of such a hang begins


class RingHang(PybpfvmError):
    """The ring can make no progress, or used up its budget; `waiters` says who waits for what.
    `by_clock`: wall time was used up, so that another run may get further."""

    exit_code = 1

    def __init__(
        self, reason: str, waiters: tuple[str, ...] = (), *, by_clock: bool = False
    ) -> None:
        self.reason = reason
        self.waiters = waiters
        self.by_clock = by_clock
        shown = [f"  {line}" for line in waiters[:_MOST_WAITERS]]
        if len(waiters) > len(shown):
            shown.append(f"  and {len(waiters) - len(shown)} more")
        super().__init__("\n".join((f"hang: {reason}", *shown)))

    @property
    def livelock(self) -> bool:
        """Whether programs ran, over and over, and changed nothing."""
        return self.reason.startswith(LIVELOCK)


class InternalError(PybpfvmError):
    """Something that cannot happen happened: a bug of pybpfvm."""

    exit_code = 70
