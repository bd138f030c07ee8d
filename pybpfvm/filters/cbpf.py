"""Classic BPF as one table: every encoding, its meaning and its text.

An instruction has 8 bytes, in the machine's byte order (little-endian here):

    byte  0     2   3   4
          code  jt  jf  k

Registers are A and X, 32 bits each, and M[0] to M[15]. Jumps only go forward, by instructions.
All of classic BPF is here, so that what filters may not use can be named; `Spec.allowed` is the
white list of abi/iouring-bpf-upstream, section 6.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import Final

from pybpfvm.errors import InputError

MAX_INSNS: Final = 4096
SCRATCH_WORDS: Final = 16
_RAW: Final = struct.Struct("<HBBI")
INSN_BYTES: Final = _RAW.size


class Kind(Enum):
    """What an instruction does."""

    LOAD_A = "A := operand"
    LOAD_X = "X := operand"
    STORE_A = "M[k] := A"
    STORE_X = "M[k] := X"
    ALU = "A := A op operand"
    NEG = "A := -A"
    JUMP = "go on at k"
    BRANCH = "go on at jt or jf"
    RETURN = "end with operand"
    TAX = "X := A"
    TXA = "A := X"


class Mode(Enum):
    """Where an operand comes from; the value is how it is written."""

    NONE = ""
    IMM = "#k"
    WORD = "[k]"
    INDIRECT = "[x + k]"
    SCRATCH = "M[k]"
    LEN = "len"
    HEADER = "4*([k]&0xf)"
    X = "x"
    A = "a"
    TARGET = "label"


@dataclass(frozen=True, slots=True)
class Spec:
    """One encoding. `op` is the operation of ALU and BRANCH; `allowed`: filters may use it."""

    code: int
    name: str
    kind: Kind
    mode: Mode
    op: str = ""
    allowed: bool = True


@dataclass(frozen=True, slots=True)
class Insn:
    """An instruction; `jt` and `jf` are how many instructions a branch skips, `k` is unsigned."""

    code: int
    k: int = 0
    jt: int = 0
    jf: int = 0

    @property
    def spec(self) -> Spec | None:
        """Its row of the table; None for a code that classic BPF does not have."""
        return SPECS.get(self.code)


_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_SIZES = {"": 0x00, "h": 0x08, "b": 0x10}
_ABS, _IND, _MEM, _LEN, _MSH = 0x20, 0x40, 0x60, 0x80, 0xA0
_X = 0x08
_ALU_OPS = {
    "add": 0x00,
    "sub": 0x10,
    "mul": 0x20,
    "div": 0x30,
    "or": 0x40,
    "and": 0x50,
    "lsh": 0x60,
    "rsh": 0x70,
    "mod": 0x90,
    "xor": 0xA0,
}
_NEG = 0x80
_BRANCHES = {"jeq": 0x10, "jgt": 0x20, "jge": 0x30, "jset": 0x40}


def _rows() -> Iterator[Spec]:
    for suffix, size in _SIZES.items():
        words = suffix == ""
        yield Spec(_LD | size | _ABS, f"ld{suffix}", Kind.LOAD_A, Mode.WORD, allowed=words)
        yield Spec(_LD | size | _IND, f"ld{suffix}", Kind.LOAD_A, Mode.INDIRECT, allowed=False)
    for cls, name, kind in ((_LD, "ld", Kind.LOAD_A), (_LDX, "ldx", Kind.LOAD_X)):
        yield Spec(cls, name, kind, Mode.IMM)
        yield Spec(cls | _MEM, name, kind, Mode.SCRATCH)
        yield Spec(cls | _LEN, name, kind, Mode.LEN)
    yield Spec(_LDX | _SIZES["b"] | _MSH, "ldxb", Kind.LOAD_X, Mode.HEADER, allowed=False)
    yield Spec(_ST, "st", Kind.STORE_A, Mode.SCRATCH)
    yield Spec(_STX, "stx", Kind.STORE_X, Mode.SCRATCH)
    for (name, op), (src, mode) in product(_ALU_OPS.items(), ((0, Mode.IMM), (_X, Mode.X))):
        yield Spec(_ALU | op | src, name, Kind.ALU, mode, name, allowed=name != "mod")
    yield Spec(_ALU | _NEG, "neg", Kind.NEG, Mode.NONE)
    yield Spec(_JMP, "ja", Kind.JUMP, Mode.TARGET)
    for (name, op), (src, mode) in product(_BRANCHES.items(), ((0, Mode.IMM), (_X, Mode.X))):
        yield Spec(_JMP | op | src, name, Kind.BRANCH, mode, name)
    yield Spec(_RET, "ret", Kind.RETURN, Mode.IMM)
    yield Spec(_RET | 0x10, "ret", Kind.RETURN, Mode.A)
    yield Spec(_MISC, "tax", Kind.TAX, Mode.NONE)
    yield Spec(_MISC | 0x80, "txa", Kind.TXA, Mode.NONE)


SPECS: Final[Mapping[int, Spec]] = {spec.code: spec for spec in _rows()}
FORMS: Final[Mapping[tuple[str, Mode], Spec]] = {
    (spec.name, spec.mode): spec for spec in SPECS.values()
}


def encode(insns: Sequence[Insn]) -> bytes:
    """The array of struct sock_filter, 8 bytes each."""
    return b"".join(_RAW.pack(insn.code, insn.jt, insn.jf, insn.k) for insn in insns)


def decode(code: bytes, where: str = "") -> tuple[Insn, ...]:
    """The instructions in `code`, unknown ones too. Raises InputError for a broken last one."""
    if len(code) % INSN_BYTES:
        raise InputError(
            f"{len(code)} bytes are no whole instructions",
            where=where,
            remedy=f"classic BPF has {INSN_BYTES} bytes an instruction",
        )
    return tuple(Insn(code, k, jt, jf) for code, jt, jf, k in _RAW.iter_unpack(code))


def text_of(insn: Insn, index: int) -> str:
    """The instruction as `asm` reads it; `index` is its place, from which targets count."""
    spec = insn.spec
    if spec is None:
        return f"code {insn.code:#06x}, k {insn.k:#x}, jt {insn.jt}, jf {insn.jf}"
    k = str(insn.k) if insn.k < 1 << 16 else f"{insn.k:#x}"
    if spec.kind is Kind.JUMP:
        return f"{spec.name} l{index + 1 + insn.k}"
    operand = spec.mode.value.replace("k", k)
    if spec.kind is Kind.BRANCH:
        return f"{spec.name} {operand}, l{index + 1 + insn.jt}, l{index + 1 + insn.jf}"
    return f"{spec.name} {operand}".rstrip()


def lines(insns: Sequence[Insn]) -> Iterator[str]:
    """Text that assembles to these instructions, where all of them are known."""
    for index, insn in enumerate(insns):
        yield f"l{index}: {text_of(insn, index)}"
