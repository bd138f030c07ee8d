"""Which filters apply to a request, and what they say: stacks by opcode, tasks, rings.

abi/iouring-bpf-upstream, sections 6.3 and 6.4. A table never changes: registering makes a new
one, so a forked child keeps what it inherited whatever its parent registers, and the reverse.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Final

from pybpfvm.errors import RingError, UnsupportedError
from pybpfvm.filters.cbpf import Insn
from pybpfvm.filters.check import check
from pybpfvm.filters.context import LATEST, contexts, kernel_named, opcode_name, pdu_size
from pybpfvm.filters.run import Ran, run_checked
from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend.abi import OP_LAST

FILTER_DENY_REST: Final = 1
FILTER_SZ_STRICT: Final = 2
_KNOWN_FLAGS: Final = FILTER_DENY_REST | FILTER_SZ_STRICT
_MAX_OPCODE: Final = 0xFF


class Scope(Enum):
    """What a filter was registered on."""

    RING = "ring"
    TASK = "task"


@dataclass(frozen=True, slots=True)
class Registration:
    """struct io_uring_bpf_filter: a program for an opcode. `pdu_size` None is the kernel's own;
    `name` is for messages."""

    opcode: int
    program: tuple[Insn, ...]
    flags: int = 0
    pdu_size: int | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Filter:
    """A registered filter; `program` None is the sentinel of a DENY_REST, which denies all."""

    name: str
    scope: Scope
    program: tuple[Insn, ...] | None

    def __str__(self) -> str:
        return f"{self.name} ({self.scope.value})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a stack said: the filters that were asked, newest first, each with its run (None: a
    sentinel). `denied_by` is the last of them if it denied, `not_asked` those below it."""

    opcode: int
    context: bytes
    asked: tuple[tuple[Filter, Ran | None], ...]
    denied_by: Filter | None
    not_asked: tuple[Filter, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether the request goes on."""
        return self.denied_by is None

    @property
    def reason(self) -> str:
        """Who denies it, in a few words; "" if it is allowed."""
        if self.denied_by is None:
            return ""
        sentinel = self.denied_by.program is None
        return f"denied by {self.denied_by}" + (", as it had no filter then" if sentinel else "")


@dataclass(frozen=True, slots=True)
class FilterTable:
    """Filters by opcode, newest first. `kernel` decides what payloads there are."""

    stacks: Mapping[int, tuple[Filter, ...]] = field(default_factory=lambda: MappingProxyType({}))
    kernel: str = LATEST

    def __bool__(self) -> bool:
        return bool(self.stacks)

    def register(self, wanted: Registration, scope: Scope) -> tuple[FilterTable, int]:
        """The table with one filter more, and the kernel's pdu_size, which it writes back.

        Raises RingError with the errno of section 6.5; SizeError, which has the size too, for
        EMSGSIZE; UnsupportedError for opcodes newer than our table of them.
        """
        if not 0 <= wanted.opcode <= _MAX_OPCODE:
            raise RingError(errno.EINVAL, f"there is no opcode {wanted.opcode}")
        if wanted.opcode >= OP_LAST:
            raise UnsupportedError(
                f"filters of opcode {wanted.opcode}",
                remedy=f"opcodes 0 to {OP_LAST - 1} are known",
            )
        if wanted.flags & ~_KNOWN_FLAGS:
            unknown = wanted.flags & ~_KNOWN_FLAGS
            raise RingError(errno.EINVAL, f"unknown filter flags {unknown:#x}")
        size = pdu_size(wanted.opcode, self.kernel)
        asked = size if wanted.pdu_size is None else wanted.pdu_size
        if asked > size or (asked != size and wanted.flags & FILTER_SZ_STRICT):
            raise SizeError(wanted.opcode, asked, size)
        problems = check(wanted.program)
        if problems:
            first = problems[0]
            place = "" if first.index is None else f"l{first.index}: "
            remedy = f" ({first.remedy})" if first.remedy else ""
            raise RingError(errno.EINVAL, f"{place}{first.reason}{remedy}")
        name = wanted.name or f"filter of {opcode_name(wanted.opcode)}"
        stacks = dict(self.stacks)
        added = Filter(name, scope, wanted.program)
        stacks[wanted.opcode] = (added, *stacks.get(wanted.opcode, ()))
        if wanted.flags & FILTER_DENY_REST:
            sentinel = (Filter(f"DENY_REST of {name}", scope, None),)
            # Also for opcodes of proposals, which our table does not have.
            stacks = {opcode: stacks.get(opcode, sentinel) for opcode in range(_MAX_OPCODE + 1)}
        return replace(self, stacks=MappingProxyType(stacks)), size

    def judge(self, opcode: int, context: bytes) -> Verdict:
        """What the filters of an opcode say of a request that shows them `context`."""
        stack = self.stacks.get(opcode, ())
        asked: list[tuple[Filter, Ran | None]] = []
        for place, one in enumerate(stack, 1):
            ran = None if one.program is None else run_checked(one.program, context)
            asked.append((one, ran))
            if ran is None or ran.result == 0:
                return Verdict(opcode, context, tuple(asked), one, stack[place:])
        return Verdict(opcode, context, tuple(asked), None)

    def judge_sqe(self, sqe: bytes, memory: AddressSpace) -> Verdict:
        """The same for a 64-byte SQE that was prepared. UnsupportedError where the answer hangs on
        what is not known of kernels."""
        seen = contexts(sqe, memory, self.kernel)
        verdicts = [self.judge(sqe[0], each) for each in seen]
        if len({verdict.denied_by for verdict in verdicts}) > 1:
            raise UnsupportedError(
                "a filter whose answer hangs on O_LARGEFILE, which kernels may add to the flags",
                where=f"filters of {opcode_name(sqe[0])}",
                remedy="mask that bit, 0x8000, in the filter",
            )
        return verdicts[0]


class SizeError(RingError):
    """-EMSGSIZE: the payload that a registration asks for is not the kernel's `size`."""

    def __init__(self, opcode: int, asked: int, size: int) -> None:
        self.size = size
        name = opcode_name(opcode)
        super().__init__(
            errno.EMSGSIZE, f"pdu_size {asked}, but filters of {name} see {size} bytes"
        )


@dataclass
class Task:
    """A task that registers filters for the rings it will make, and hands them down.

    `privileged` is CAP_SYS_ADMIN in its user namespace. Nothing is ever unregistered.
    """

    no_new_privs: bool = False
    privileged: bool = True
    kernel: str = LATEST

    def __post_init__(self) -> None:
        self._table = FilterTable(kernel=kernel_named(self.kernel))

    @property
    def table(self) -> FilterTable:
        """What rings that it makes now begin with."""
        return self._table

    def register_filter(self, wanted: Registration) -> int:
        """IORING_REGISTER_BPF_FILTER with fd -1: the kernel's pdu_size. Raises RingError."""
        if not (self.no_new_privs or self.privileged):
            raise RingError(
                errno.EACCES, "a task needs no_new_privs or CAP_SYS_ADMIN for filters of its own"
            )
        self._table, size = self._table.register(wanted, Scope.TASK)
        return size

    def fork(self, *, privileged: bool | None = None) -> Task:
        """A child with the same filters; what either registers later, the other does not see."""
        keeps = self.privileged if privileged is None else privileged
        child = Task(self.no_new_privs, keeps, self.kernel)
        child._table = self._table
        return child
