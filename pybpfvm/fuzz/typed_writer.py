"""Writes the code of a random program and keeps track of what registers hold while it does."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random

from pybpfvm.fuzz.lines import Line
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.table import SPECS
from pybpfvm.profiles.base import CtxHolds, PacketAccess, Profile

_FP = 10
IMMEDIATES = (0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 63, 64, 127, 255, 0x7FFF_FFFF, -1, -2, -8, -128)


class Is(Enum):
    """What the generator knows a register to hold."""

    NOTHING = "nothing"
    NUMBER = "number"
    CTX = "ctx"
    VALUE = "value"  # of a map; `size` bytes from here on
    PACKET = "packet"
    RECORD = "record"


@dataclass(frozen=True, slots=True)
class Holds:
    """Contents of a register: for memory the bytes that may be accessed from it on."""

    kind: Is
    size: int = 0


NOTHING, NUMBER = Holds(Is.NOTHING), Holds(Is.NUMBER)


class Writer:
    """Grows one program. `regs` is what registers hold where the code stands, `stack` which
    aligned slots were written and with what."""

    def __init__(self, random: Random, profile: Profile) -> None:
        self.random = random
        self.profile = profile
        self.features: set[str] = set()
        self.code: list[Line] = []
        self.regs = [NOTHING] * 10
        self.stack: dict[int, Holds] = {}
        self.labels = 0
        self.depth = 0
        self.functions: list[list[Line]] = []
        self.in_main = True
        self.skb = profile.ctx_name == "__sk_buff"
        self.packet_fields = {
            field.holds: field.offset
            for field in profile.ctx_fields
            if field.size == 4 or field.holds in (CtxHolds.DATA, CtxHolds.DATA_END)
        }
        begin = (field.size for field in profile.ctx_fields if field.holds is CtxHolds.DATA)
        self.packet_width = "dw" if next(begin, 4) == 8 else "w"
        self.writes_packet = profile.packet_access in (PacketAccess.WRITE, PacketAccess.FREE)
        self.leave = self.new_label()

    # Emitting.

    def new_label(self) -> int:
        """A label that stands nowhere yet."""
        self.labels += 1
        return self.labels

    def emit(self, mnemonic: str, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> None:
        """Append an instruction, by its row's mnemonic."""
        self.code.append(Line(_insn(mnemonic, dst, src, off, imm)))

    def jump(
        self,
        mnemonic: str,
        label: int,
        dst: int = 0,
        src: int = 0,
        imm: int = 0,
        null: bool = False,
    ) -> None:
        """Append a jump to a label."""
        self.code.append(Line(_insn(mnemonic, dst, src, 0, imm), label, null))

    def place(self, label: int) -> None:
        """The next instruction is where the label leads."""
        self.code.append(Line(None, label))

    def holding(self, *kinds: Is) -> list[int]:
        """The registers that hold something of this kind."""
        return [reg for reg, holds in enumerate(self.regs) if holds.kind in kinds]

    def number(self) -> int:
        """A register with a number; one is made if there is none."""
        found = self.holding(Is.NUMBER)
        if found:
            return self.random.choice(found)
        reg = self.random.randint(0, 5)
        self.emit("mov64_k", reg, imm=self.random.choice(IMMEDIATES))
        self.regs[reg] = NUMBER
        return reg

    def free(self, *keep: int) -> int:
        """A register that may be overwritten: rather not the last pointer of its kind."""
        choices = [reg for reg in range(10) if reg not in keep and reg != 6]
        plain = [r for r in choices if self.regs[r].kind in (Is.NUMBER, Is.NOTHING)]
        return self.random.choice(plain or choices)

    def clobber(self) -> None:
        """What a call leaves of what registers hold."""
        for reg in range(6):
            self.regs[reg] = NOTHING


def _insn(mnemonic: str, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> Insn:
    return Insn(SPECS[mnemonic], dst, src, off, imm)
