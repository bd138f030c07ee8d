"""BPF of our own, compiled for an engine without checks: functions that stand for helpers.

The sources are `code/*.s`, what `make bytecode` assembles from them lies beside them. That begins
with LDDWs that name the functions, in order; helper calls go where the caller says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pybpfvm.errors import InternalError
from pybpfvm.helpers.proto import ArgType, Helper, RetType
from pybpfvm.isa.codec import decode, encode, pcs, target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.jit.emit import Emitter
from pybpfvm.jit.emitted import Build
from pybpfvm.jit.memorycode import form_of
from pybpfvm.jit.options import Checks
from pybpfvm.jit.state import State
from pybpfvm.jit.thunks import BASE, Thunks
from pybpfvm.jit.unit import Unit
from pybpfvm.jit.x86 import rm
from pybpfvm.program import Program

_CODE = Path(__file__).with_name("code")
_WORDS = 6
_NOT_THERE = frozenset({Kind.ALU, Kind.JUMP})
_BUILD = Build(Checks.NONE, fuel=False)


def assembled(sources: Sequence[str], functions: Sequence[str], names: Mapping[str, int]) -> bytes:
    """The instructions of these sources, one behind the other, as bytes; `functions` are to be
    called from outside, `names` is what `@NAME` stands for. `include NAME` stands for a source that
    is part of a function."""
    from pybpfvm.isa.asm import assemble

    ways_in = "".join(f"r0 = func {function} ll\n" for function in functions)
    text = "".join(map(_source, sources))
    text = re.sub(r"@(\w+)", lambda found: str(int(names[found[1]])), text)
    return encode(assemble(f"{ways_in}exit\n{text}", where=f"{sources[0]}.s"))


def _source(name: str) -> str:
    text = (_CODE / f"{name}.s").read_text("ascii")
    return re.sub(r"\binclude (\w+)\n", lambda found: "\n" + _source(found[1]), text)


def binary(name: str) -> Path:
    """Where the assembled source lies."""
    return _CODE / f"{name}.bin"


class _Constants:
    """Stands for an image: functions are only named, and there are no maps."""

    def constant(self, program: Program, pc: int, insn: Insn) -> int:
        """The value of an LDDW."""
        return 0 if insn.src == Pseudo.FUNC else insn.imm


class _Emitter(Emitter):
    """r6 of our own code is always its block of words, if it has one, which the window's base
    reaches: the register itself holds nothing, and is not kept."""

    block: int | None = None

    def _one(self, insn: Insn, kind: Kind) -> None:
        if self.block is None or _WORDS not in (insn.dst, insn.src):
            super()._one(insn, kind)
        elif kind in (Kind.LDX, Kind.ST, Kind.STX):
            (prefix, opcode, wide, byte), reg, tail = form_of(insn)
            at = self.block + insn.off
            self._code.data += prefix + rm(opcode, reg, BASE, at, wide, byte=byte) + tail
        else:
            raise InternalError(f"{insn.spec.mnemonic} of the block of words")

    def _to_save(self, pc: int) -> tuple[int, ...]:
        saved = super()._to_save(pc)
        return saved if self.block is None else tuple(n for n in saved if n != _WORDS)


class Bytecode:
    """The functions of one source, compiled: their addresses in `entries`, by the names given.

    `words` is the address of the block that r6 stands for. `callees` are what it calls by number:
    addresses of machine code, or Python objects with how many registers they look at.
    """

    def __init__(
        self,
        name: str,
        functions: Sequence[str],
        state: State,
        thunks: Thunks,
        *,
        words: int = 0,
        callees: Mapping[int, int | tuple[object, int]] | None = None,
    ) -> None:
        known = callees or {}
        helpers = {number: _row(number, callee) for number, callee in known.items()}

        def callee(helper: Helper) -> object:
            found = known[int(helper.name)]
            return found[0] if isinstance(found, tuple) else found

        insns = decode(binary(name).read_bytes(), where=f"{name}.bin")
        program = Program(name, "", insns)
        wrong = [i for i in insns if i.spec.kind in _NOT_THERE and _WORDS in (i.dst, i.src)]
        if words and wrong:
            raise InternalError(f"{wrong[0].spec.mnemonic} of the block of words")
        emitter = _Emitter(program, _Constants(), helpers, state, thunks, _BUILD, callee)
        if words:
            emitter.block = words - state.base
        self.unit = Unit(program, _BUILD, emitter.emit())
        starts = [
            target_pc(insn, pc)
            for pc, insn in zip(pcs(insns), insns, strict=True)
            if insn.spec.kind is Kind.LDDW and insn.src == Pseudo.FUNC
        ]
        self.entries = {
            name: self.unit.base + self.unit.code.entries[pc]
            for name, pc in zip(functions, starts, strict=True)
            if pc is not None
        }

    def close(self) -> None:
        """Give the pages back."""
        self.unit.close()


def _row(number: int, callee: int | tuple[object, int]) -> Helper:
    count = callee[1] if isinstance(callee, tuple) else 5
    args = (ArgType.ANYTHING,) * count
    return Helper(str(number), args, RetType.INTEGER, _never, "Called by bytecode of our own.")


def _never(*_: object) -> int:
    raise InternalError("a callee of bytecode was called as a helper")
