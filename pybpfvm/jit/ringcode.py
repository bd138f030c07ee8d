"""The hot paths of programs on a ring as BPF of our own, compiled for an engine without checks.

The sources are `code/ring.s` for BPF requests and `code/step.s` for programs that drive a ring from
inside io_uring_enter; `code/take.s` is in both. Their functions are the loop of a program and what
that calls in place of the helpers: the same arguments, the same results as the helpers in Python,
which they call for whatever is not simple.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pybpfvm.isa.opcodes import MAY_GOTO_ITERATIONS
from pybpfvm.jit.bytecode import Bytecode, assembled
from pybpfvm.jit.pages import code_area
from pybpfvm.jit.state import Slot, State
from pybpfvm.jit.thunks import Thunks, load, store
from pybpfvm.jit.x86 import (
    AND,
    MOV,
    MOV_TO,
    OR,
    R8,
    R9,
    R10,
    R12,
    RAX,
    RBP,
    RCX,
    RDI,
    RDX,
    RET,
    RSI,
    RSP,
    SUB,
    SYSCALL,
    Assembler,
    call_reg,
    group,
    imm32,
    mov_imm,
    pop,
    push,
    rm,
    rr,
)
from pybpfvm.uring_backend.abi import ENTER_EXT_ARG, ENTER_GETEVENTS, SQ_CQ_OVERFLOW
from pybpfvm.uring_backend.kernel import direct
from pybpfvm.uring_backend.kernel.direct import Queue, Stop, Word

_NR_ENTER = 426
_ADD_TO = 0x01  # add [memory], reg
_NS_PER_S = 1_000_000_000
_CLOCK_MONOTONIC = 1
_GETEVENTS_ARG_BYTES = 24


@dataclass(frozen=True, slots=True)
class LoopSource:
    """A loop, by `name`: the `sources` in `code/` that it comes from. `entries` are the functions
    that are entered from outside, `native` says which of them stands for which helper, `slow` what
    they call by number in Python: the helper that a function stands for, and how many registers
    that looks at."""

    name: str
    sources: tuple[str, ...]
    entries: tuple[str, ...]
    native: Mapping[str, str]
    slow: Mapping[int, tuple[str, int]]


RING = LoopSource(
    "ring",
    ("ring", "take", "user"),
    ("loop", "submit", "emit", "reap", "copy_from_user", "copy_to_user"),
    {
        "io_uring_submit": "submit",
        "iouring_queue_sqe": "submit",
        "io_uring_emit_cqe": "emit",
        "iouring_emit_cqe": "emit",
        "io_uring_reap_cqe": "reap",
        "iouring_reap_cqe": "reap",
        "copy_from_user": "copy_from_user",
        "probe_read_user": "copy_from_user",
        "bpf_copy_to_user": "copy_to_user",
    },
    {
        4: ("submit", 3),
        5: ("emit", 5),
        7: ("copy_from_user", 3),
        8: ("copy_to_user", 3),
    },
)
STEP = LoopSource(
    "step",
    ("step", "take"),
    ("loop", "submit", "region"),
    {"io_uring_submit_sqes": "submit", "io_uring_get_region": "region"},
    {4: ("submit", 2)},
)
LOOP_SOURCES: Mapping[str, LoopSource] = {source.name: source for source in (RING, STEP)}

# What both call by number: machine code.
_STUBS: Mapping[int, str] = {1: "run", 2: "sleep", 3: "enter", 6: "clock"}
_SYNC = 9
_ALONE = frozenset({"copy_from_user", "copy_to_user"})  # these do not look at the ring


def _names() -> Mapping[str, int]:
    """What `@NAME` stands for in the source."""
    words = {word.name: 8 * word for word in Word}
    queues = {f"Q_{word.name}": 8 * word for word in Queue}
    first = {f"Q0_{word.name}": direct.QUEUES_AT + 8 * word for word in Queue}
    slots = {f"S_{word.name}": 8 * word for word in direct.Slot}
    return {
        **words,
        **queues,
        **first,
        **slots,
        "QUEUE_BYTES": direct.QUEUE_BYTES,
        "QUEUE_SHIFT": direct.QUEUE_SHIFT,
        "BATCH": direct.BATCH,
        "LOOK_RUNS": direct.LOOK_RUNS,
        "LOOK_MASK": direct.LOOK_RUNS - 1,
        "OPCODE_SHIFT": direct.OPCODE_SHIFT,
        "CHECKED": direct.Care.CHECKED,
        "HELD": direct.Care.HELD,
        "PYTHONS": direct.Care.PYTHONS,
        "DONE": Stop.DONE,
        "FOREIGN": Stop.FOREIGN,
        "WATCHED_QUEUE": Stop.WATCHED,
        "FULL": Stop.FULL,
        "RUNS_MADE": Stop.RUNS,
        "STUCK": Stop.STUCK,
        "INTERRUPTED": Stop.INTERRUPTED,
        "NO_CHANGE": Stop.NO_CHANGE,
        "NO_OVERFLOW": ~SQ_CQ_OVERFLOW,
    }


def assembled_loop(source: LoopSource) -> bytes:
    """The source's instructions as bytes."""
    return assembled(source.sources, source.entries, _names())


class RingCode:
    """The compiled functions of `source` for one engine and one block of words; `entries` by name.

    `slow` are the helpers in Python by the names of entries; `interrupted` is entered around
    those that use the ring, as Python does, and around `sync`, which takes in what completed.
    """

    def __init__(
        self,
        source: LoopSource,
        state: State,
        thunks: Thunks,
        words: int,
        slow: Mapping[str, Callable[..., int]],
        interrupted: Callable[[], AbstractContextManager[None]],
        sync: Callable[[], None],
    ) -> None:
        self._state = state
        self._thunks = thunks
        self._words = words
        stubs = Assembler()
        for name in _STUBS.values():
            stubs.label(name)
            getattr(self, f"_{name}")(stubs)
        self._pages = code_area().place(stubs.finish())
        at = self._pages.start
        callees: dict[int, int | tuple[object, int]] = {
            number: at + stubs.offset(name) for number, name in _STUBS.items()
        }
        for number, (name, count) in source.slow.items():
            alone = name in _ALONE
            callees[number] = slow[name] if alone else _around(slow[name], interrupted), count
        callees[_SYNC] = _around(_synced(sync), interrupted), 0
        self.code = Bytecode(
            source.name, source.entries, state, thunks, words=words, callees=callees
        )
        self.entries = self.code.entries

    def close(self) -> None:
        """Give the pages back."""
        self.code.close()
        code_area().release(self._pages)

    def _word(self, word: Word) -> int:
        """Displacement of a word of the block from the window's base."""
        return self._words - self._state.base + 8 * word

    def _run(self, asm: Assembler) -> None:
        """Run the program once: r0. It is verified, so what is in the other registers does not
        matter to it, and the loop needs none of them. LLVM's code takes fuel and context from the
        state."""
        disp, word = self._state.disp, self._word
        asm(
            load(RBP, disp(Slot.FIRST_FRAME)),
            rm(MOV, R9, R12, word(Word.BUDGET)),
            mov_imm(RAX, MAY_GOTO_ITERATIONS),
            rm(MOV_TO, RAX, R12, disp(Slot.MAY_GOTO)),
            store(disp(Slot.FUEL), R9),
            rm(MOV, RDI, R12, word(Word.CTX)),
            rm(0xFF, 2, R12, word(Word.PROGRAM), False),  # call it
            rm(MOV, R10, R12, word(Word.BUDGET)),
            rr(SUB, R10, R9),
            rm(MOV_TO, R10, R12, word(Word.INSNS)),
            rm(_ADD_TO, R10, R12, word(Word.ALL_INSNS)),
            RET,
        )

    def _enter(self, asm: Assembler) -> None:
        """io_uring_enter(r1 fd, r2 to_submit, r3 min_complete, r4 flags): the system call's
        result. The fuel of a program may be in r9."""
        asm(
            push(R9),
            rr(MOV, R10, RCX),
            mov_imm(R8, 0),
            mov_imm(R9, 0),
            mov_imm(RAX, _NR_ENTER),
            SYSCALL,
            pop(R9),
            RET,
        )

    def _clock(self, asm: Assembler) -> None:
        """Nanoseconds of CLOCK_MONOTONIC. The C library does it without a system call."""
        asm(
            push(RBP),
            rr(MOV, RBP, RSP),
            group(SUB, RSP, 16),
            group(AND, RSP, -16),
            mov_imm(RDI, _CLOCK_MONOTONIC),
            rr(MOV, RSI, RSP),
            mov_imm(RAX, _clock_gettime()),
            call_reg(RAX),
            rm(0x69, RAX, RSP, 0) + imm32(_NS_PER_S),  # imul rax, [rsp], 10**9
            rm(0x03, RAX, RSP, 8),  # add rax, [rsp + 8]
            rr(MOV, RSP, RBP),
            pop(RBP),
            RET,
        )

    def _sleep(self, asm: Assembler) -> None:
        """Wait for r1 CQEs, other threads running meanwhile: 0 or -errno."""
        word = self._word
        asm(
            push(RBP),
            rr(MOV, RBP, RSP),
            group(SUB, RSP, 32),
            group(AND, RSP, -16),
            rm(MOV_TO, RDI, RSP, 16),
            mov_imm(RAX, self._thunks.api("PyEval_SaveThread")),
            call_reg(RAX),
            rm(MOV_TO, RAX, RSP, 0),
            rm(MOV, RDI, R12, word(Word.FD)),
            mov_imm(RSI, 0),
            rm(MOV, RDX, RSP, 16),
            mov_imm(R10, ENTER_GETEVENTS | ENTER_EXT_ARG),
            rm(OR, R10, R12, word(Word.ENTER_FLAGS)),
            rm(MOV, R8, R12, word(Word.WAIT_ARG)),
            mov_imm(R9, _GETEVENTS_ARG_BYTES),
            mov_imm(RAX, _NR_ENTER),
            SYSCALL,
            rm(MOV_TO, RAX, RSP, 8),
            rm(MOV, RDI, RSP, 0),
            mov_imm(RAX, self._thunks.api("PyEval_RestoreThread")),
            call_reg(RAX),
        )
        self._thunks.be_current(asm)
        asm(rm(MOV, RAX, RSP, 8), rr(MOV, RSP, RBP), pop(RBP), RET)


def _synced(sync: Callable[[], None]) -> Callable[..., int]:
    def call(*_: object) -> int:
        sync()
        return 0

    return call


def _around(
    helper: Callable[..., int], interrupted: Callable[[], AbstractContextManager[None]]
) -> object:
    def call(*args: object) -> int:
        with interrupted():
            return helper(*args)

    return call


def _clock_gettime() -> int:
    found = ctypes.cast(ctypes.CDLL(None).clock_gettime, ctypes.c_void_p).value
    assert found is not None
    return found
