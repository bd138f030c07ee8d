"""Faults of compiled code: a signal handler of machine code that sends them to the engine's exit.

One handler for SIGSEGV and SIGBUS serves the process. If the instruction lies in our code area,
it notes instruction and address and continues at the exit of the entry that runs; everything else
goes on to the handler that was there before. It calls nothing, so it is safe wherever it comes.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import mmap
import signal
import struct
import threading

from pybpfvm.errors import InputError
from pybpfvm.jit.pages import code_area
from pybpfvm.jit.x86 import (
    AE,
    CMP,
    MOV,
    MOV_TO,
    R8,
    R10,
    RAX,
    RDX,
    RET,
    RSI,
    SUB,
    SYSCALL,
    TEST,
    Assembler,
    E,
    jump_reg,
    mov_imm,
    rm,
    rr,
)

# Words of the record that the handler and the entries share.
CURRENT, FAULT_RIP, FAULT_ADDR = range(3)

_UCONTEXT_RIP = 40 + 16 * 8  # uc_mcontext.gregs[REG_RIP], <sys/ucontext.h>
_SIGINFO_ADDR = 16
_NR_RT_SIGACTION = 13
_SA_SIGINFO, _SA_ONSTACK = 4, 0x08000000
_SIGNALS = (signal.SIGSEGV, signal.SIGBUS)
_SIG_DFL, _SIG_IGN = 0, 1

_libc = ctypes.CDLL(None, use_errno=True)
_sigaction = _libc["sigaction"]
_sigaction.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_SIGACTION = struct.Struct("<Q128sI4xQ")  # struct sigaction of glibc: handler, mask, flags


class FaultHandler:
    """The process's handler; `record` is the address of its words."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.record = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self.words = memoryview(self._page).cast("Q")
        self._ours: dict[int, int] = {}
        self._placed: dict[int, int] = {}  # handlers of ours, by the one that each goes on to
        self._seen = (ctypes.c_uint64 * (_SIGACTION.size // 8))()
        self._seen_at = ctypes.addressof(self._seen)
        for number in _SIGNALS:
            self._install(number)

    def ensure(self) -> None:
        """Be the first handler again if another one was put before us (faulthandler, say)."""
        for number, ours in self._ours.items():
            _sigaction(number, None, self._seen_at)
            seen = self._seen[0]
            if seen != ours:
                if seen in self._placed.values():  # another one of ours, that somebody put back
                    self._ours[number] = seen
                else:
                    self._install(number)

    def _install(self, number: int) -> None:
        old = _installed(number)
        if old[0] not in self._placed:  # for ever: others may go on to it
            self._placed[old[0]] = code_area().place(self._code(old[0])).start
        ours = self._placed[old[0]]
        action = ctypes.create_string_buffer(
            _SIGACTION.pack(ours, old[1], _SA_SIGINFO | _SA_ONSTACK, 0)
        )
        if _sigaction(number, action, None) != 0:
            raise InputError("the system refuses a signal handler", where="jit")
        self._ours[number] = ours

    def _code(self, old: int) -> bytes:
        """The handler: (rdi signal, rsi siginfo, rdx ucontext)."""
        area = code_area()
        asm = Assembler()
        asm(
            rm(MOV, RAX, RDX, _UCONTEXT_RIP),
            rr(MOV, R8, RAX),
            mov_imm(R10, area.start),
            rr(SUB, RAX, R10),
            mov_imm(R10, area.end - area.start),
            rr(CMP, RAX, R10),
        )
        asm.jump("not ours", AE)
        asm(mov_imm(R10, self.record), rm(MOV, RAX, R10, 8 * CURRENT), rr(TEST, RAX, RAX))
        asm.jump("not ours", E)
        asm(
            rm(MOV_TO, R8, R10, 8 * FAULT_RIP),
            rm(MOV_TO, RAX, RDX, _UCONTEXT_RIP),
            rm(MOV, RAX, RSI, _SIGINFO_ADDR),
            rm(MOV_TO, RAX, R10, 8 * FAULT_ADDR),
            # A fault of the way out would be a bug of ours: not to be sent there again.
            mov_imm(RAX, 0),
            rm(MOV_TO, RAX, R10, 8 * CURRENT),
            RET,
        )
        asm.label("not ours")
        if old == _SIG_IGN:
            old = _SIG_DFL  # a fault can not be ignored
        if old == _SIG_DFL:
            # Make it the default again: the instruction faults once more, and ends the process.
            asm(
                mov_imm(RSI, self.record + 64),  # a zeroed struct sigaction
                mov_imm(RDX, 0),
                mov_imm(R10, 8),
                mov_imm(RAX, _NR_RT_SIGACTION),
                SYSCALL,
                RET,
            )
        else:
            asm(mov_imm(RAX, old), jump_reg(RAX))
        return asm.finish()


def _installed(number: int) -> tuple[int, bytes]:
    """Handler and mask of the action that is installed."""
    buffer = ctypes.create_string_buffer(_SIGACTION.size)
    _sigaction(number, None, buffer)
    handler, mask, _, _ = _SIGACTION.unpack(buffer.raw)
    return handler, mask


_handler: FaultHandler | None = None
_lock = threading.Lock()


def fault_handler() -> FaultHandler:
    """The handler, installed at first use."""
    global _handler
    with _lock:
        if _handler is None:
            _handler = FaultHandler()
        return _handler
