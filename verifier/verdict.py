"""What verification answers: a verdict is a value, never an exception.

`Accepted` and `Rejected` are decisions; `Inconclusive` says that none was reached, and why.
Names of rules, kinds and categories are part of the JSON output and only ever added to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from html import escape

from pybpfvm.errors import SourceLine


class Kind(Enum):
    """Why a program was not accepted."""

    UNSAFE = "unsafe"  # concrete inputs make it fault
    UNPROVEN = "unproven"  # safe or not: the analysis lost the fact it needs
    POLICY = "policy"  # forbidden for this program type, licence or capability
    LIMIT = "limit"  # too complex: a kernel's limit (rejected), or our budget (inconclusive)
    UNSUPPORTED = "unsupported"  # a feature that this verifier does not have (inconclusive)
    LINT = "lint"  # a warning: no kernel refuses it, and it is probably a bug


class Rule(Enum):
    """What must hold; the value is the id that `explain` and reports use.

    Each rule has one place in `checks.py` (or the module it names) that can break it.
    """

    # control flow
    UNREACHABLE = "unreachable-insn"
    BAD_JUMP = "jump-out-of-range"
    FALL_THROUGH = "falls-off-the-end"
    INFINITE_LOOP = "infinite-loop"
    RECURSION = "recursion"
    CALL_DEPTH = "call-depth"
    STACK_DEPTH = "stack-depth"
    # registers
    UNINIT_REG = "uninitialised-register"
    ILLEGAL_INSN = "illegal-instruction"
    FRAME_POINTER = "frame-pointer-read-only"
    POINTER_ARITH = "pointer-arithmetic"
    POINTER_BOUNDS = "pointer-bounds"
    POINTER_LEAK = "pointer-leak"
    RETURN_VALUE = "return-value"
    # memory
    NOT_A_POINTER = "not-a-pointer"
    POSSIBLY_NULL = "possibly-null"
    STACK_ACCESS = "stack-access"
    STACK_UNINIT = "stack-uninitialised"
    CTX_ACCESS = "ctx-access"
    MAP_VALUE_ACCESS = "map-value-access"
    PACKET_ACCESS = "packet-access"
    MEM_ACCESS = "mem-access"
    BTF_ACCESS = "btf-access"
    READ_ONLY = "read-only-memory"
    MISALIGNED = "misaligned-access"
    # loaders with less privilege
    CAPABILITY = "missing-capability"
    SPECULATION = "speculation"
    # calls
    UNKNOWN_HELPER = "unknown-helper"
    HELPER_ARG = "helper-argument"
    HELPER_NOT_ALLOWED = "helper-not-allowed"
    REFERENCE_LEAK = "reference-leak"
    RELEASE_UNOWNED = "release-of-unowned"
    LOCK = "lock"
    KPTR = "kernel-pointer"
    TIMER = "timer"
    OBJECT = "own-object"
    ITERATOR = "iterator"
    DYNPTR = "dynptr"
    ARENA = "arena"
    KFUNC_NOT_ALLOWED = "kfunc-not-allowed"
    KFUNC_ARG = "kfunc-argument"
    TRUST = "untrusted-pointer"
    REGION = "unbalanced-region"
    ATTACH_TARGET = "attach-target"
    # user memory (verifier/usermemory/contract.py)
    USER_RANGE = "user-range"
    USER_POINTER = "user-pointer"
    # lints (verifier/lints/): warnings, never part of a verdict
    USER_UNPROVEN = "user-range-unproven"
    DOUBLE_FETCH = "double-fetch"
    FORGED_POINTER = "forged-user-pointer"
    POINTER_EXPOSED = "pointer-exposed"
    FAILED_REAP = "failed-reap-used"
    ERRNO_AS_COUNT = "errno-as-count"
    RESULT_IGNORED = "completion-result-ignored"
    SUBMIT_UNCHECKED = "submit-result-ignored"
    FILE_OFFSET = "file-offset-32-bit"
    USER_DATA_SHARED = "user-data-shared"
    BUFFER_IN_FLIGHT = "buffer-in-flight"
    CQ_INDEX = "cq-index"
    CQ_OWNERSHIP = "cq-ownership"
    WAIT_NEVER = "wait-never-satisfied"
    WAIT_NO_PROGRESS = "wait-without-progress"
    WAIT_STALE = "wait-fields-stale"
    LINK_DANGLING = "link-without-successor"
    DRAIN = "drain-from-program"
    SQE_OPCODE = "sqe-opcode"
    SQE_FLAGS = "sqe-flags"
    SQE_FIELD = "sqe-field"
    SQE_BUFFER = "sqe-buffer"
    # of rings with a loop
    RING_OWNER = "ring-word-ownership"
    HEAD_STALE = "cq-head-stale"
    CQ_MASK = "cq-mask"
    SUBMIT_COUNT = "submit-count"
    RING_REGION = "ring-region"
    RING_SETUP = "ring-setup"
    # of iouring-x
    REQUEUE_UNLINKED = "requeue-without-link"
    # outside
    BUDGET = "budget"
    UNSUPPORTED = "unsupported"


# Rules whose findings are warnings, docs/lints.md: a contract may allow these.
LINTS = (
    Rule.USER_UNPROVEN,
    Rule.DOUBLE_FETCH,
    Rule.FORGED_POINTER,
    Rule.POINTER_EXPOSED,
    Rule.FAILED_REAP,
    Rule.ERRNO_AS_COUNT,
    Rule.RESULT_IGNORED,
    Rule.SUBMIT_UNCHECKED,
    Rule.FILE_OFFSET,
    Rule.USER_DATA_SHARED,
    Rule.BUFFER_IN_FLIGHT,
    Rule.CQ_INDEX,
    Rule.CQ_OWNERSHIP,
    Rule.WAIT_NEVER,
    Rule.WAIT_NO_PROGRESS,
    Rule.WAIT_STALE,
    Rule.LINK_DANGLING,
    Rule.DRAIN,
    Rule.SQE_OPCODE,
    Rule.SQE_FLAGS,
    Rule.SQE_FIELD,
    Rule.SQE_BUFFER,
    Rule.RING_OWNER,
    Rule.HEAD_STALE,
    Rule.CQ_MASK,
    Rule.SUBMIT_COUNT,
    Rule.RING_REGION,
    Rule.RING_SETUP,
    Rule.REQUEUE_UNLINKED,
)


@dataclass(frozen=True, slots=True)
class PathStep:
    """A step of the causal path: the instruction that produced or narrowed what went wrong."""

    pc: int
    note: str
    source: SourceLine | None = None


@dataclass(frozen=True, slots=True)
class Witness:
    """Inputs under which the interpreter traps at the instruction of the finding.

    Everything a program can learn from outside: bytes of the context and of the packet, of each
    map's values (by map name and key), of user memory (by address), results of helpers in the
    order of their calls, and the seed of what is left. `trap` is the kind of the trap.

    `results` are those of calls that the machine answers (random numbers, the clock, user memory,
    the ring, whether there is room), as `session.sandbox.Answer` defines them; `filled` says of
    some of them, by number, which bytes they left in the program's memory; `user` repeats those
    that came from user memory. `pc` is where the trap is: at the finding, or where the value that
    it refuses is used.
    """

    trap: str
    ctx: bytes = b""
    packet: bytes = b""
    maps: tuple[tuple[str, bytes, bytes], ...] = ()
    user: tuple[tuple[int, bytes], ...] = ()
    results: tuple[tuple[str, int], ...] = ()
    seed: int = 0
    filled: tuple[tuple[int, bytes], ...] = ()
    pc: int = -1


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule. `message` is one line close to the kernel's wording, `reason` the
    explanation for people, `path` the history from the first cause to the instruction,
    `registers` what is known there of those that the instruction uses, in words."""

    rule: Rule
    kind: Kind
    pc: int
    message: str
    reason: str = ""
    suggestion: str = ""
    source: SourceLine | None = None
    path: tuple[PathStep, ...] = ()
    feature: str = ""  # for Kind.UNSUPPORTED: what is missing
    witness: Witness | None = None
    registers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Statistics:
    """Work done: instructions processed (each time one is stepped over), states stored, the most
    stored at once, stack bytes of the deepest call chain."""

    insns: int = 0
    processed_insns: int = 0
    states: int = 0
    peak_states: int = 0
    stack_depth: int = 0


@dataclass(frozen=True, slots=True)
class Accepted:
    """The program can not fault, leak or hang, as far as the rules of its profile go.

    `probes`: it accesses objects that only a kernel has, or looks through pointers that may be
    stale or a number that was put in the place of one. Kernels catch the faults of such accesses.
    """

    stats: Statistics
    warnings: tuple[Finding, ...] = ()
    probes: bool = False

    def _repr_html_(self) -> str:
        return _html("accepted", self.warnings)


@dataclass(frozen=True, slots=True)
class Rejected:
    """`errors`, first cause first (at least one)."""

    stats: Statistics
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        assert self.errors, "a rejection says why"

    def _repr_html_(self) -> str:
        return _html("rejected", (*self.errors, *self.warnings))


@dataclass(frozen=True, slots=True)
class Inconclusive:
    """No decision: a feature is missing (UNSUPPORTED) or a budget ran out (LIMIT)."""

    stats: Statistics
    finding: Finding
    warnings: tuple[Finding, ...] = field(default=())

    def _repr_html_(self) -> str:
        return _html("inconclusive", (self.finding, *self.warnings))


Verdict = Accepted | Rejected | Inconclusive


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while a program was judged. `verdict` is what was known by then: `cut_short` before
    one was reached, else the verdict, perhaps without some of what explains it."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__()
        self.verdict = verdict


def cut_short(stats: Statistics, pc: int = 0, source: SourceLine | None = None) -> Inconclusive:
    """The verdict after Ctrl-C, at `pc`, where no error had been found."""
    return Inconclusive(
        stats,
        Finding(
            Rule.BUDGET,
            Kind.LIMIT,
            pc,
            "interrupted",
            reason="Ctrl-C came before every path was explored",
            suggestion="run it again; --budget-seconds bounds the time that it takes",
            source=source,
        ),
    )


def _html(word: str, findings: tuple[Finding, ...]) -> str:
    """A verdict for notebooks."""
    rows = []
    for found in findings:
        where = f"instruction {found.pc}" + (f", {found.source}" if found.source else "")
        rows.append(
            f"<li><code>{escape(found.message)}</code> at {escape(where)}"
            f"<br>{escape(found.reason)}<br><i>{escape(found.suggestion)}</i></li>"
        )
    return f"<div><b>{word}</b><ul>{''.join(rows)}</ul></div>"
