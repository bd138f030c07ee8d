"""Machine code around the compiled programs: the way in, the ways out, the ways to Python.

Everything here is emitted once for an engine. Compiled code keeps r0 to r10, the window's base in
r12 and the fuel in r9; it reaches its state by displacements from r12 and these thunks through it.

    entry    PyCFunction: enter(address) with registers from the state; the r0 as an int,
             None after a fault, NULL with the exception that a callee raised
    callout  ask Python what to do: it may change all registers, and says where to go on (0: here)
    helper   call a Python object with the context and 0 to 5 argument registers; r0 is its result
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from pybpfvm.jit.faults import CURRENT, FAULT_ADDR, FAULT_RIP, FaultHandler
from pybpfvm.jit.pages import Pages, code_area
from pybpfvm.jit.state import Slot, State
from pybpfvm.jit.x86 import (
    ADD,
    AND,
    CMP,
    LEA,
    MOV,
    MOV_TO,
    NE,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    RAX,
    RBP,
    RBX,
    RCX,
    RDI,
    RDX,
    RET,
    RSI,
    RSP,
    SUB,
    TEST,
    Assembler,
    E,
    call_reg,
    group,
    jump_reg,
    mov_imm,
    pop,
    push,
    rm,
    rr,
)

# Where the registers of a program live: r0 to r10, as in the kernel's JIT, so the arguments of a
# call are in the places of the C calling convention.
BPF = (RAX, RDI, RSI, RDX, RCX, R8, RBX, R13, R14, R15, RBP)
FUEL = R9
BASE = R12
SAVED = (RBX, RBP, R12, R13, R14, R15)  # what C wants back

_PUSH_MEMORY, _POP_MEMORY = 6, 0  # digits of 0xFF and 0x8F

_api = ctypes.pythonapi

_KEPT = 16
_made: dict[tuple[int, int, int], tuple[bytes, Mapping[str, int]]] = {}


def _address(name: str) -> int:
    found = ctypes.cast(getattr(_api, name), ctypes.c_void_p).value
    assert found is not None
    return found


def load(reg: int, disp: int) -> bytes:
    """Load a word of the state."""
    return rm(MOV, reg, BASE, disp)


def store(disp: int, reg: int) -> bytes:
    """Store a word of the state."""
    return rm(MOV_TO, reg, BASE, disp)


def call_slot(disp: int) -> bytes:
    """Call the address in a word of the state."""
    return rm(0xFF, 2, BASE, disp, False)


class Thunks:
    """The thunks of one engine, in executable pages until `close`; `base` is the window's."""

    def __init__(self, state: State, base: int, faults: FaultHandler) -> None:
        self._state = state
        self.base = base
        self._faults = faults
        self._c = {
            name: _address(name)
            for name in (
                "PyLong_AsUnsignedLongLongMask",
                "PyLong_FromUnsignedLongLong",
                "PyObject_Vectorcall",
                "PyErr_Occurred",
                "Py_DecRef",
                "Py_IncRef",
            )
        }
        code, offsets = self._assembled()
        self.pages: Pages = code_area().place(code)
        at = self.pages.start
        words = state.words
        words[Slot.CALLOUT] = at + offsets["callout"]
        words[Slot.LEAVE_ERROR] = at + offsets["leave with an error"]
        words[Slot.LEAVE_FAULT] = at + offsets["leave after a fault"]
        for count in range(6):
            words[Slot.HELPER + count] = at + offsets[f"helper {count}"]
        self.enter: Callable[[int], int | None] = c_function(at + offsets["enter"])

    def _assembled(self) -> tuple[bytes, Mapping[str, int]]:
        """The code and its labels; engines that lie at the same place have the same."""
        key = self.base, self._state.start, self._faults.record
        if key not in _made:
            asm = Assembler()
            asm.label("enter")
            self._entry(asm)
            asm.label("callout")
            self._callout(asm)
            for count in range(6):
                asm.label(f"helper {count}")
                self._helper(asm, count)
            if len(_made) >= _KEPT:
                _made.clear()
            _made[key] = asm.finish(), asm.labels
        return _made[key]

    def close(self) -> None:
        """Give the pages back."""
        code_area().release(self.pages)

    def api(self, name: str) -> int:
        """The address of a function of the C API."""
        return _address(name)

    def be_current(self, asm: Assembler) -> None:
        """Another thread may have run code meanwhile: faults are ours again. Uses rax and r10."""
        asm(
            mov_imm(R10, self._faults.record + 8 * CURRENT),
            load(RAX, self._state.disp(Slot.LEAVE_FAULT)),
            rm(MOV_TO, RAX, R10, 0),
        )

    @cached_property
    def start(self) -> bytes:
        """The way into one program, put before its code: start(context) with fresh registers, the
        fuel from the state."""
        asm = Assembler()
        self._come_in(asm)
        asm(rr(MOV, RDI, R11), load(RBP, self._state.disp(Slot.FIRST_FRAME)))
        for reg in (RAX, RSI, RDX, RCX, R8, RBX, R13, R14, R15):
            asm(mov_imm(reg, 0))
        asm.call("main")
        self._go_out(asm)
        asm.label("main")
        return asm.finish()

    def taking_up(self, callers: Sequence[tuple[int, Sequence[int]]], target: int) -> bytes:
        """A way into code that is walked (see `frames`): past the prologues, at `target`, with the
        registers of the state. `callers` from the outermost: where each goes on, its r6 to r9."""
        asm = Assembler()
        self._come_in(asm)
        asm.call("go on")
        self._go_out(asm)
        asm.label("go on")
        for word in (0, 0, 0, 0, *(w for back, kept in callers for w in (back, *kept))):
            asm(mov_imm(RAX, word), push(RAX))
        asm(mov_imm(R11, target))
        self._load_registers(asm)
        asm(jump_reg(R11))
        return asm.finish()

    def _come_in(self, asm: Assembler) -> None:
        """From C, with one int in a vector at rsi: the int in r11, base, fuel and bookkeeping."""
        disp = self._state.disp
        for reg in SAVED:
            asm(push(reg))
        asm(
            group(SUB, RSP, 8),
            rm(MOV, RDI, RSI, 0),
            mov_imm(RAX, self._c["PyLong_AsUnsignedLongLongMask"]),
            call_reg(RAX),
            group(ADD, RSP, 8),
            rr(MOV, R11, RAX),
            mov_imm(R12, self.base),
            # Entries may nest: each keeps where the one outside it would leave.
            mov_imm(R10, self._faults.record + 8 * CURRENT),
            rm(0xFF, _PUSH_MEMORY, R10, 0, False),
            rm(0xFF, _PUSH_MEMORY, R12, disp(Slot.SAVED_RSP), False),
            store(disp(Slot.SAVED_RSP), RSP),
        )
        self.be_current(asm)
        asm(load(FUEL, disp(Slot.FUEL)))

    def _go_out(self, asm: Assembler) -> None:
        """Back to C with r0 as an int."""
        asm(store(self._state.disp(Slot.FUEL), FUEL), rr(MOV, RDI, RAX))
        self._unwind(asm)
        asm(mov_imm(RAX, self._c["PyLong_FromUnsignedLongLong"]), jump_reg(RAX))

    def _unwind(self, asm: Assembler) -> None:
        asm(
            rm(0x8F, _POP_MEMORY, R12, self._state.disp(Slot.SAVED_RSP), False),
            mov_imm(R10, self._faults.record + 8 * CURRENT),
            rm(0x8F, _POP_MEMORY, R10, 0, False),
        )
        for reg in reversed(SAVED):
            asm(pop(reg))

    def _entry(self, asm: Assembler) -> None:
        disp = self._state.disp
        self._come_in(asm)
        self._load_registers(asm)
        asm(call_reg(R11))
        self._go_out(asm)
        asm.label("leave after a fault")
        # The registers are still those of the faulting instruction, r12 perhaps LLVM's.
        asm(mov_imm(BASE, self.base))
        self._save_registers(asm)
        asm(
            mov_imm(R10, self._faults.record),
            rm(MOV, RAX, R10, 8 * FAULT_RIP),
            store(disp(Slot.PC), RAX),
            rm(MOV, RAX, R10, 8 * FAULT_ADDR),
            store(disp(Slot.FAULT), RAX),
            load(RSP, disp(Slot.SAVED_RSP)),
        )
        self._unwind(asm)
        none = id(None)
        asm(
            group(SUB, RSP, 8),
            mov_imm(RDI, none),
            mov_imm(RAX, self._c["Py_IncRef"]),
            call_reg(RAX),
            group(ADD, RSP, 8),
            mov_imm(RAX, none),
            RET,
        )
        asm.label("leave with an error")
        asm(load(RSP, disp(Slot.SAVED_RSP)))
        self._unwind(asm)
        asm(mov_imm(RAX, 0), RET)

    def _save_registers(self, asm: Assembler) -> None:
        for number, reg in enumerate(BPF):
            asm(store(self._state.disp(Slot.REGS + number), reg))
        asm(store(self._state.disp(Slot.FUEL), FUEL))

    def _load_registers(self, asm: Assembler) -> None:
        for number, reg in enumerate(BPF):
            asm(load(reg, self._state.disp(Slot.REGS + number)))
        asm(load(FUEL, self._state.disp(Slot.FUEL)))

    def _callout(self, asm: Assembler) -> None:
        disp = self._state.disp
        self._save_registers(asm)
        asm(
            rm(MOV, RAX, RSP, 0),
            store(disp(Slot.PC), RAX),
            store(disp(Slot.STACK), RSP),
            rr(MOV, RBX, RSP),  # the C side keeps rbx; r6 is in the state
            group(SUB, RSP, 32),
            group(AND, RSP, -16),
            load(RDI, disp(Slot.ASK)),
            rr(MOV, RSI, RSP),
            mov_imm(RDX, 0),
            mov_imm(RCX, 0),
            mov_imm(RAX, self._c["PyObject_Vectorcall"]),
            call_reg(RAX),
            rr(TEST, RAX, RAX),
        )
        asm.jump("callout failed", E)
        asm(
            rr(MOV, R13, RAX),
            rr(MOV, RDI, RAX),
            mov_imm(RAX, self._c["PyLong_AsUnsignedLongLongMask"]),
            call_reg(RAX),
            rm(MOV_TO, RAX, RSP, 0),
            rr(MOV, RDI, R13),
            mov_imm(RAX, self._c["Py_DecRef"]),
            call_reg(RAX),
            rm(MOV, R11, RSP, 0),
            rr(MOV, RSP, RBX),
        )
        self.be_current(asm)
        self._load_registers(asm)
        asm(rr(TEST, R11, R11))
        asm.jump("elsewhere", NE)
        asm(RET)
        asm.label("elsewhere")
        asm(rm(LEA, RSP, RSP, 8), jump_reg(R11))
        asm.label("callout failed")
        asm(rm(0xFF, 4, BASE, disp(Slot.LEAVE_ERROR), False))

    def _helper(self, asm: Assembler, count: int) -> None:
        """The object in r11 is called with the context, r1 to r`count`, and 0 for the others."""
        disp = self._state.disp
        self._save_registers(asm)
        asm(
            rm(MOV, RAX, RSP, 0),
            store(disp(Slot.PC), RAX),
            store(disp(Slot.STACK), RSP),
            rr(MOV, RBX, RSP),
            rr(MOV, R13, R11),
            group(SUB, RSP, 80),
            group(AND, RSP, -16),
        )
        for number in range(1, count + 1):
            asm(
                load(RDI, disp(Slot.REGS + number)),
                mov_imm(RAX, self._c["PyLong_FromUnsignedLongLong"]),
                call_reg(RAX),
                rm(MOV_TO, RAX, RSP, 8 + 8 * number),
            )
        if count < 5:
            asm(load(RAX, disp(Slot.ZERO)))
            for number in range(count + 1, 6):
                asm(rm(MOV_TO, RAX, RSP, 8 + 8 * number))
        asm(
            load(RAX, disp(Slot.CONTEXT)),
            rm(MOV_TO, RAX, RSP, 8),
            rr(MOV, RDI, R13),
            rm(LEA, RSI, RSP, 8),
            mov_imm(RDX, 6),
            mov_imm(RCX, 0),
            mov_imm(RAX, self._c["PyObject_Vectorcall"]),
            call_reg(RAX),
            rr(MOV, R13, RAX),
        )
        for number in range(1, count + 1):
            asm(
                rm(MOV, RDI, RSP, 8 + 8 * number),
                mov_imm(RAX, self._c["Py_DecRef"]),
                call_reg(RAX),
            )
        failed, fine = f"helper {count} failed", f"helper {count} fine"
        asm(rr(TEST, R13, R13))
        asm.jump(failed, E)
        asm(
            rr(MOV, RDI, R13),
            mov_imm(RAX, self._c["PyLong_AsUnsignedLongLongMask"]),
            call_reg(RAX),
            rr(MOV, R14, RAX),
            rr(MOV, RDI, R13),
            mov_imm(RAX, self._c["Py_DecRef"]),
            call_reg(RAX),
            group(CMP, R14, -1),
        )
        asm.jump(fine, NE)
        asm(mov_imm(RAX, self._c["PyErr_Occurred"]), call_reg(RAX), rr(TEST, RAX, RAX))
        asm.jump(failed, NE)
        asm.label(fine)
        self.be_current(asm)
        asm(
            rr(MOV, RAX, R14),
            rr(MOV, RSP, RBX),
            load(RBX, disp(Slot.REGS + 6)),
            load(R13, disp(Slot.REGS + 7)),
            load(R14, disp(Slot.REGS + 8)),
            load(FUEL, disp(Slot.FUEL)),
            RET,
        )
        asm.label(failed)
        asm(rm(0xFF, 4, BASE, disp(Slot.LEAVE_ERROR), False))


class _MethodDef(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("call", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_METH_FASTCALL = 0x80
_new_function = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p
)(("PyCFunction_NewEx", _api))


def c_function(address: int) -> Callable[[int], int | None]:
    """A built-in function of one int over machine code that follows METH_FASTCALL.

    Its `self`, which the code ignores, is its definition: the interpreter reads that as long as
    the function lives.
    """
    definition = _MethodDef(b"enter", address, _METH_FASTCALL, None)
    made: Callable[[int], int | None] = _new_function(
        ctypes.addressof(definition), definition, None
    )
    return made
