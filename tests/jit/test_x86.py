"""The encoder against a disassembler, form by form, and the emitter's code as a whole: it decodes
without gaps, jumps lead to instructions, and no access but a checked one reaches memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import product

import capstone
import pytest
from capstone import x86_const as cx

from pybpfvm.fuzz.agreement import World, compiler
from pybpfvm.fuzz.raw_programs import FAMILIES, generate
from pybpfvm.isa.opcodes import STACK_BYTES
from pybpfvm.jit import x86
from pybpfvm.jit.options import Checks
from pybpfvm.jit.unit import Unit


def _names(text: str) -> list[str]:
    return text.split()


NAMES = {
    8: _names("al cl dl bl spl bpl sil dil r8b r9b r10b r11b r12b r13b r14b r15b"),
    16: _names("ax cx dx bx sp bp si di r8w r9w r10w r11w r12w r13w r14w r15w"),
    32: _names("eax ecx edx ebx esp ebp esi edi r8d r9d r10d r11d r12d r13d r14d r15d"),
    64: _names("rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15"),
}
REGISTERS = range(16)
DISPLACEMENTS = (0, 1, -1, 127, -128, 128, -129, 0x7FFF_FFFF, -0x8000_0000)
IMMEDIATES = (0, 1, -1, 127, -128, 128, -129, 0x7FFF_FFFF, -0x8000_0000)
TWO_OPERANDS = {
    x86.ADD: "add",
    x86.OR: "or",
    x86.AND: "and",
    x86.SUB: "sub",
    x86.XOR: "xor",
    x86.CMP: "cmp",
}
_POINTER = {8: "byte", 16: "word", 32: "dword", 64: "qword"}


def _decoder() -> capstone.Cs:
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    return decoder


DECODER = _decoder()


def text(code: bytes) -> str:
    """The one instruction that the bytes are."""
    found = list(DECODER.disasm(code, 0))
    assert sum(one.size for one in found) == len(code), code.hex()
    return "; ".join(f"{one.mnemonic} {one.op_str}".strip() for one in found)


def number(value: int) -> str:
    """As the disassembler writes it."""
    sign = "-" if value < 0 else ""
    return f"{sign}{abs(value)}" if abs(value) < 10 else f"{sign}{abs(value):#x}"


def memory(bits: int, base: int, disp: int) -> str:
    """An operand in memory, likewise."""
    place = NAMES[64][base]
    if disp:
        place += f" {'-' if disp < 0 else '+'} {number(abs(disp))}"
    return f"{_POINTER[bits]} ptr [{place}]"


def same(cases: Iterator[tuple[bytes, str]]) -> int:
    """How many of the encodings say what they should; all do."""
    count = 0
    for code, wanted in cases:
        assert text(code) == wanted, code.hex()
        count += 1
    return count


def test_two_registers() -> None:
    def cases() -> Iterator[tuple[bytes, str]]:
        for wide, reg, rm in product((True, False), REGISTERS, REGISTERS):
            names = NAMES[64 if wide else 32]
            a, b = names[reg], names[rm]
            for op, name in TWO_OPERANDS.items():
                yield x86.rr(op, reg, rm, wide), f"{name} {a}, {b}"
            yield x86.rr(x86.MOV, reg, rm, wide), f"mov {a}, {b}"
            yield x86.rr(x86.TEST, reg, rm, wide), f"test {b}, {a}"
            yield x86.rr(0x0FAF, reg, rm, wide), f"imul {a}, {b}"
            yield x86.rr(0x0FBE, reg, rm, wide, byte=True), f"movsx {a}, {NAMES[8][rm]}"
            yield x86.rr(0x0FBF, reg, rm, wide), f"movsx {a}, {NAMES[16][rm]}"
            if wide:
                yield x86.rr(0x63, reg, rm), f"movsxd {a}, {NAMES[32][rm]}"

    assert same(cases()) > 5000


def test_memory_operands() -> None:
    def cases() -> Iterator[tuple[bytes, str]]:
        for reg, base, disp in product(REGISTERS, REGISTERS, DISPLACEMENTS):
            for wide, bits in ((True, 64), (False, 32)):
                name, place = NAMES[bits][reg], memory(bits, base, disp)
                yield x86.rm(x86.MOV, reg, base, disp, wide), f"mov {name}, {place}"
                yield x86.rm(x86.MOV_TO, reg, base, disp, wide), f"mov {place}, {name}"
                yield x86.rm(x86.CMP, reg, base, disp, wide), f"cmp {name}, {place}"
            byte, word = memory(8, base, disp), memory(16, base, disp)
            yield x86.rm(0x88, reg, base, disp, False, byte=True), f"mov {byte}, {NAMES[8][reg]}"
            yield x86.rm(0x0FB6, reg, base, disp, False), f"movzx {NAMES[32][reg]}, {byte}"
            yield x86.rm(0x0FBF, reg, base, disp), f"movsx {NAMES[64][reg]}, {word}"
            yield b"\x66" + x86.rm(0x89, reg, base, disp, False), f"mov {word}, {NAMES[16][reg]}"
            for bits in (32, 64):
                locked = x86.LOCK + x86.rm(0x0FB1, reg, base, disp, bits == 64)
                shown = f"lock cmpxchg {memory(bits, base, disp)}, {NAMES[bits][reg]}"
                yield locked, shown

    assert same(cases()) > 20_000


def test_indexed_memory_operands() -> None:
    def cases() -> Iterator[tuple[bytes, str]]:
        for reg, base, index in product(REGISTERS, REGISTERS, REGISTERS):
            if index == x86.RSP:
                continue
            place = f"[{NAMES[64][base]} + {NAMES[64][index]}]"
            yield x86.rx(x86.MOV, reg, base, index), f"mov {NAMES[64][reg]}, qword ptr {place}"
            code = x86.rx(0x88, reg, base, index, False, byte=True)
            yield code, f"mov byte ptr {place}, {NAMES[8][reg]}"
            yield x86.rx(x86.LEA, reg, base, index), f"lea {NAMES[64][reg]}, {place}"

    assert same(cases()) > 10_000


def test_immediates() -> None:
    def unsigned(value: int, bits: int) -> str:
        # A negative one is shown as the operand's width has it.
        return number(value if value >= 0 else value & (1 << bits) - 1)

    def cases() -> Iterator[tuple[bytes, str]]:
        for reg, (wide, bits) in product(REGISTERS, ((True, 64), (False, 32))):
            name = NAMES[bits][reg]
            for value in IMMEDIATES:
                for op, mnemonic in TWO_OPERANDS.items():
                    got = text(x86.group(op, reg, value, wide))
                    assert got.split(", ")[0] == f"{mnemonic} {name}"
                    assert int(got.split(", ")[1], 0) & (1 << bits) - 1 == value & (1 << bits) - 1
            for count in (0, 1, 7, 8, 31, 32, 63):
                for kind, mnemonic in ((x86.SHL, "shl"), (x86.SHR, "shr"), (x86.SAR, "sar")):
                    code = x86.shift_imm(kind, reg, count, wide)
                    yield code, f"{mnemonic} {name}, {unsigned(count, 8)}"
            for kind, mnemonic in ((x86.SHL, "shl"), (x86.SHR, "shr"), (x86.SAR, "sar")):
                yield x86.shift_cl(kind, reg, wide), f"{mnemonic} {name}, cl"
                for count in REGISTERS:
                    code = x86.shift_by(kind, reg, count, wide)
                    shown = (
                        f"{mnemonic.replace('l', 'lx') if mnemonic == 'shl' else mnemonic + 'x'}"
                    )
                    yield code, f"{shown} {name}, {name}, {NAMES[bits][count]}"
            yield x86.bswap(reg, wide), f"bswap {name}"
            for op, mnemonic in ((x86.NEG, "neg"), (x86.DIV, "div"), (x86.IDIV, "idiv")):
                yield x86.digit(0xF7, op, reg, wide), f"{mnemonic} {name}"
        for reg in REGISTERS:
            yield x86.push(reg), f"push {NAMES[64][reg]}"
            yield x86.pop(reg), f"pop {NAMES[64][reg]}"
            yield x86.jump_reg(reg), f"jmp {NAMES[64][reg]}"
            yield x86.call_reg(reg), f"call {NAMES[64][reg]}"

    assert same(cases()) > 1000


@pytest.mark.parametrize("reg", REGISTERS)
def test_constants_take_any_value(reg: int) -> None:
    values = {
        edge + near for bit in (0, 7, 31, 32, 63) for edge in (1 << bit,) for near in (-1, 0, 1)
    }
    values |= {(1 << 64) - 1 - value for value in values}
    for value in sorted(values):
        (one,) = DECODER.disasm(x86.mov_imm(reg, value), 0)
        if one.mnemonic == "xor":
            assert value == 0
            continue
        target, source = one.operands
        assert one.reg_name(target.reg) in (NAMES[32][reg], NAMES[64][reg])
        narrow = one.reg_name(target.reg) in NAMES[32]
        assert source.imm & (1 << (32 if narrow else 64)) - 1 == value


# --- whole programs -----------------------------------------------------------------------------


def _units(seed: int, family: str, checks: Checks) -> Iterator[Unit]:
    with World(generate(seed, family, 8), compiler(checks)) as world:
        world.run()
        engine = world.engine
        yield from (unit for unit, _ in engine._units.values())  # type: ignore[union-attr]


CASES = [(family, checks) for family in FAMILIES for checks in (Checks.EXACT, Checks.PAGES)]


@pytest.mark.parametrize(("family", "checks"), CASES, ids=str)
def test_code_decodes_and_stays_inside(family: str, checks: Checks) -> None:
    seen = 0
    for unit in _units(3, family, checks):
        data = bytes(unit.code.data)
        insns = list(DECODER.disasm(data, 0))
        starts = {one.address for one in insns}
        assert sum(one.size for one in insns) == len(data), "something does not decode"
        assert set(unit.code.offsets) <= starts | {len(data)}
        assert set(unit.code.sites) <= starts | {len(data)}
        # Calls that leave the unit: to our own bytecode, for map lookups.
        outward = {at - 1 for at, _ in unit.code.outward}
        for index, one in enumerate(insns):
            if one.address in outward:
                assert one.mnemonic == "call", one
                continue
            _judge(one, insns[max(0, index - 4) : index], starts, unit.build.checks)
            seen += 1
    assert seen > 1000


def _judge(
    one: capstone.CsInsn, before: list[capstone.CsInsn], starts: set[int], checks: Checks
) -> None:
    """Jumps lead to instructions; memory is the state, the own frame, the native stack, or what
    was checked: r10, or the same address right before, in exact code, the window + 32 bits in
    paged code. `before` are the four instructions that lead here."""
    if one.group(cx.X86_GRP_JUMP) or one.group(cx.X86_GRP_CALL):
        for operand in one.operands:
            assert operand.type != cx.X86_OP_IMM or operand.imm in starts, one
    if one.mnemonic in ("lea", "nop"):
        return
    for operand in one.operands:
        if operand.type != cx.X86_OP_MEM:
            continue
        base = one.reg_name(operand.mem.base) if operand.mem.base else ""
        index = one.reg_name(operand.mem.index) if operand.mem.index else ""
        disp = operand.mem.disp
        if base == "rsp" and not index:
            continue
        if base == "rsi" and one.address < 40:  # the arguments of the way in
            continue
        if base == "r12" and not index:
            assert -(1 << 30) <= disp < 0, f"{one}: outside the private range"
        elif base == "rbp":
            assert -STACK_BYTES <= disp <= -operand.size, f"{one}: outside the frame"
        elif base == "r12" and index == "r11":
            assert checks is Checks.PAGES
            assert before
            assert _text(before[-1]).startswith("lea r11d, "), f"{one}: {before[-1]}"
        elif checks is Checks.EXACT and _checks_address(before, base, disp) and not index:
            continue
        else:
            known = base == "r10" and not index and disp == 0
            assert known or (base == "r10" and one.address < 120), f"{one}: unchecked"


def test_nops_are_as_few_as_can_be() -> None:
    for count in range(100):
        found = list(DECODER.disasm(x86.nops(count), 0))
        assert {one.mnemonic for one in found} <= {"nop"}
        assert (sum(one.size for one in found), len(found)) == (count, -(-count // 9))


def _text(one: capstone.CsInsn) -> str:
    return f"{one.mnemonic} {one.op_str}"


def _checks_address(before: list[capstone.CsInsn], base: str, disp: int) -> bool:
    """Whether these four leave for a stub unless base + disp is in a site's range."""
    sign = "-" if disp < 0 else "+"
    address = rf"lea r11, \[{base} \{sign} {hex(abs(disp)) if abs(disp) > 9 else abs(disp)}\]"
    wanted = (
        address if disp else f"mov r11, {base}",
        r"sub r11, qword ptr \[r12 - 0x[0-9a-f]+\]",
        r"cmp r11, qword ptr \[r12 - 0x[0-9a-f]+\]",
        r"jae 0x[0-9a-f]+",
    )
    return len(before) == 4 and all(
        re.fullmatch(pattern, _text(one)) for pattern, one in zip(wanted, before, strict=True)
    )


def test_the_judge_can_say_no() -> None:
    decoded: Callable[[bytes], capstone.CsInsn] = lambda code: next(iter(DECODER.disasm(code, 0)))  # noqa: E731
    wrong = (
        x86.rm(x86.MOV, x86.RAX, x86.RDI, 0),
        x86.rm(x86.MOV, x86.RAX, x86.R12, 8),
        x86.rm(x86.MOV, x86.RAX, x86.RBP, -7),
        x86.rm(x86.MOV, x86.RAX, x86.RBP, -520),
        x86.rx(x86.MOV, x86.RAX, x86.R12, x86.R11),
        b"\xeb\x77",
    )
    for code in wrong:
        with pytest.raises(AssertionError):
            _judge(decoded(code), [], {0}, Checks.PAGES)


def test_the_judge_knows_a_check_from_another() -> None:
    def code(base: int, off: int, width_off: int = 0) -> list[capstone.CsInsn]:
        check = x86.rm(x86.LEA, x86.R11, base, off)
        check += x86.rm(x86.SUB, x86.R11, x86.R12, -4096) + x86.rm(x86.CMP, x86.R11, x86.R12, -4088)
        check += b"\x0f\x83" + bytes(4)
        return list(DECODER.disasm(check + x86.rm(x86.MOV, x86.RAX, x86.RDI, 16 + width_off), 0))

    *before, access = code(x86.RDI, 16)
    _judge(access, before, {0}, Checks.EXACT)
    for wrong in (code(x86.RSI, 16), code(x86.RDI, 24), code(x86.RDI, 16, 8)):
        *before, access = wrong
        with pytest.raises(AssertionError):
            _judge(access, before, {0}, Checks.EXACT)
