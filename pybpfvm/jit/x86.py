"""x86-64 instructions as bytes: as much as the JIT emits. AMD64 manual, volume 3.

Registers are numbers 0 to 15. Functions return one encoded instruction; `wide` is REX.W, 64-bit
operands. Everything here is pure, so what repeats is remembered.
"""

from __future__ import annotations

from functools import lru_cache

cache = lru_cache(maxsize=1 << 15)  # addresses are among the operands: there is no end of them

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 = range(16)

# Condition codes: the low nibble of Jcc, SETcc and CMOVcc.
B, AE, E, NE, BE, A, S, NS = range(2, 10)
L, GE, LE, G = range(12, 16)

RET = b"\xc3"
SYSCALL = b"\x0f\x05"
CQO = b"\x48\x99"
CDQ = b"\x99"
LOCK = b"\xf0"

# Opcodes of the two-operand group in the form "reg, r/m".
ADD, OR, AND, SUB, XOR, CMP = 0x03, 0x0B, 0x23, 0x2B, 0x33, 0x3B
MOV, MOV_TO, LEA, XCHG, TEST = 0x8B, 0x89, 0x8D, 0x87, 0x85
# Digits of the group 0x81/0x83 (immediate operand), of 0xC1/0xD3 (shifts) and of 0xF7.
DIGIT = {ADD: 0, OR: 1, AND: 4, SUB: 5, XOR: 6, CMP: 7}
ROL, ROR, SHL, SHR, SAR = 0, 1, 4, 5, 7
NOT, NEG, MUL, IMUL, DIV, IDIV = 2, 3, 4, 5, 6, 7


def s8(value: int) -> bool:
    """Whether a signed byte holds the value."""
    return -128 <= value <= 127


def s32(value: int) -> bool:
    """Whether a signed 32-bit word holds the value."""
    return -0x8000_0000 <= value <= 0x7FFF_FFFF


def imm32(value: int) -> bytes:
    """The low 32 bits, little-endian."""
    return (value & 0xFFFF_FFFF).to_bytes(4, "little")


def _rex(wide: bool, reg: int, index: int, base: int, *, force: bool = False) -> bytes:
    rex = 0x40 | wide << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3
    return bytes((rex,)) if rex != 0x40 or force else b""


def _opcode(opcode: int) -> bytes:
    """An opcode of up to three bytes, 0x0F and 0x0F38 escapes included as high bytes."""
    return opcode.to_bytes((opcode.bit_length() + 7) // 8 or 1, "big")


@cache
def rr(opcode: int, reg: int, rm: int, wide: bool = True, *, byte: bool = False) -> bytes:
    """`opcode reg, rm` on registers; `byte`: rm (or reg) is a byte register, so always REX."""
    force = byte and (4 <= reg < 8 or 4 <= rm < 8)
    modrm = 0xC0 | (reg & 7) << 3 | rm & 7
    return _rex(wide, reg, 0, rm, force=force) + _opcode(opcode) + bytes((modrm,))


# The byte of a short displacement, by its low eight bits.
_SHORT = tuple(bytes((value,)) for value in range(256))


@cache
def _heads(opcode: int, reg: int, base: int, wide: bool, byte: bool) -> tuple[bytes, bytes, bytes]:
    """`opcode reg, [base + disp]` up to the displacement: none (empty if that can not be), one of
    8 bits, one of 32."""
    low = base & 7
    head = _rex(wide, reg, 0, base, force=byte and 4 <= reg < 8) + _opcode(opcode)
    field = (reg & 7) << 3 | low
    sib = b"\x24" if low == 4 else b""
    none = b"" if low == 5 else head + bytes((field,)) + sib
    return none, head + bytes((0x40 | field,)) + sib, head + bytes((0x80 | field,)) + sib


def rm(
    opcode: int, reg: int, base: int, disp: int, wide: bool = True, *, byte: bool = False
) -> bytes:
    """`opcode reg, [base + disp]`; `byte`: reg is a byte register."""
    none, short, long = _heads(opcode, reg, base, wide, byte)
    if disp == 0 and none:
        return none
    if -128 <= disp <= 127:
        return short + _SHORT[disp & 0xFF]
    return long + (disp & 0xFFFF_FFFF).to_bytes(4, "little")


@cache
def rx(
    opcode: int,
    reg: int,
    base: int,
    index: int,
    wide: bool = True,
    *,
    byte: bool = False,
    disp: int = 0,
) -> bytes:
    """`opcode reg, [base + index + disp]`; index is not rsp."""
    force = byte and 4 <= reg < 8
    sib = (index & 7) << 3 | base & 7
    mod = 0x44 if base & 7 == 5 else 0x04
    tail = b"\0" if mod == 0x44 else b""
    if disp:
        mod, tail = 0x84, imm32(disp)
    modrm = mod | (reg & 7) << 3
    rex = _rex(wide, reg, index, base, force=force)
    return rex + _opcode(opcode) + bytes((modrm, sib)) + tail


def rxd(opcode: int, reg: int, base: int, index: int, disp: int, wide: bool = True) -> bytes:
    """`opcode reg, [base + index + disp]` with a 32-bit displacement; index is not rsp."""
    sib = (index & 7) << 3 | base & 7
    head = _rex(wide, reg, index, base) + _opcode(opcode)
    return head + bytes((0x84 | (reg & 7) << 3, sib)) + imm32(disp)


@cache
def digit(opcode: int, number: int, rm_: int, wide: bool = True) -> bytes:
    """`opcode /number rm` on a register: one-operand forms and the head of immediate ones."""
    return _rex(wide, 0, 0, rm_) + _opcode(opcode) + bytes((0xC0 | number << 3 | rm_ & 7,))


def group(op: int, reg: int, value: int, wide: bool = True) -> bytes:
    """`op reg, imm` for ADD, OR, AND, SUB, XOR, CMP; a signed 32-bit immediate."""
    if s8(value):
        return digit(0x83, DIGIT[op], reg, wide) + _SHORT[value & 0xFF]
    return digit(0x81, DIGIT[op], reg, wide) + imm32(value)


_MOV_32 = tuple(_rex(False, 0, 0, reg) + bytes((0xB8 | reg & 7,)) for reg in range(16))
_MOV_64 = tuple(_rex(True, 0, 0, reg) + bytes((0xB8 | reg & 7,)) for reg in range(16))


def mov_imm(reg: int, value: int) -> bytes:
    """Load an unsigned 64-bit constant in the shortest way; may change the flags."""
    if value == 0:
        return rr(XOR, reg, reg, False)
    if value <= 0xFFFF_FFFF:
        return _MOV_32[reg] + value.to_bytes(4, "little")
    if value >= 0xFFFF_FFFF_8000_0000:
        return digit(0xC7, 0, reg) + imm32(value)
    return _MOV_64[reg] + value.to_bytes(8, "little")


@cache
def push(reg: int) -> bytes:
    """Push a register."""
    return _rex(False, 0, 0, reg) + bytes((0x50 | reg & 7,))


@cache
def pop(reg: int) -> bytes:
    """Pop a register."""
    return _rex(False, 0, 0, reg) + bytes((0x58 | reg & 7,))


@cache
def shift_imm(kind: int, reg: int, count: int, wide: bool = True) -> bytes:
    """Shift or rotate a register by a constant."""
    return digit(0xC1, kind, reg, wide) + bytes((count,))


@cache
def shift_cl(kind: int, reg: int, wide: bool = True) -> bytes:
    """Shift a register by CL."""
    return digit(0xD3, kind, reg, wide)


_BMI2 = {SHL: 1, SHR: 3, SAR: 2}  # the pp field of SHLX, SHRX, SARX


@cache
def shift_by(kind: int, reg: int, count: int, wide: bool = True) -> bytes:
    """SHLX, SHRX or SARX: shift `reg` by the register `count`, no flags (needs BMI2)."""
    second = 0xE2 & ~((reg >> 3) << 7) & ~((reg >> 3) << 5)
    third = wide << 7 | (~count & 15) << 3 | _BMI2[kind]
    return bytes((0xC4, second, third, 0xF7, 0xC0 | (reg & 7) << 3 | reg & 7))


@cache
def bswap(reg: int, wide: bool = True) -> bytes:
    """Reverse the bytes of a register."""
    return _rex(wide, 0, 0, reg) + bytes((0x0F, 0xC8 | reg & 7))


# Those that processors' manuals recommend, by length.
_NOPS = tuple(
    bytes.fromhex(code)
    for code in (
        *("", "90", "6690", "0f1f00", "0f1f4000", "0f1f440000", "660f1f440000"),
        *("0f1f8000000000", "0f1f840000000000", "660f1f840000000000"),
    )
)


@cache
def nops(count: int) -> bytes:
    """`count` bytes that do nothing, in as few instructions as there are."""
    whole, rest = divmod(count, len(_NOPS) - 1)
    return _NOPS[-1] * whole + _NOPS[rest]


def jump_reg(reg: int) -> bytes:
    """Jump to the address in a register."""
    return digit(0xFF, 4, reg, False)


def call_reg(reg: int) -> bytes:
    """Call the address in a register."""
    return digit(0xFF, 2, reg, False)


class Assembler:
    """Code with labels, for what is written by hand; jumps are near (rel32)."""

    def __init__(self) -> None:
        self.code = bytearray()
        self.labels: dict[str, int] = {}
        self._fixups: list[tuple[int, str]] = []

    def __call__(self, *pieces: bytes) -> None:
        """Append encoded instructions."""
        for piece in pieces:
            self.code += piece

    def label(self, name: str) -> None:
        """Name this place."""
        self.labels[name] = len(self.code)

    def jump(self, label: str, condition: int | None = None) -> None:
        """Jump to a label, on a condition code if one is given."""
        self.code += b"\xe9" if condition is None else bytes((0x0F, 0x80 | condition))
        self._fixups.append((len(self.code), label))
        self.code += bytes(4)

    def call(self, label: str) -> None:
        """Call a label."""
        self.code += b"\xe8"
        self._fixups.append((len(self.code), label))
        self.code += bytes(4)

    def finish(self) -> bytes:
        """The code, its jumps resolved."""
        for at, label in self._fixups:
            self.code[at : at + 4] = imm32(self.labels[label] - at - 4)
        return bytes(self.code)

    def offset(self, label: str) -> int:
        """Where a label is."""
        return self.labels[label]
