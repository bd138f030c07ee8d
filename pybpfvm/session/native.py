"""A program's machine code, taken apart: what each BPF instruction became, and what lies around.

The assembly is capstone's, an extra (`pip install 'pybpfvm[native]'`), imported when it is needed.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pybpfvm.engine import RunEnvironment
from pybpfvm.errors import InputError
from pybpfvm.jit.engine import JitEngine
from pybpfvm.jit.options import Checks
from pybpfvm.jit.unit import Unit
from pybpfvm.session.engines import jit_refusal
from pybpfvm.session.objects import LoadedProgram

# Where registers live, for readers.
REGISTERS = (
    "r0 rax, r1 rdi, r2 rsi, r3 rdx, r4 rcx, r5 r8, r6 rbx, r7 r13, r8 r14, r9 r15, r10 rbp; "
    "fuel r9, window r12"
)
_AT_BASE = re.compile(r"\[r12 ([-+]) (0x[0-9a-f]+|\d+)\]")
_NEAR_JUMP = re.compile(r"^j\w+ 0x([0-9a-f]+)$")


@dataclass(frozen=True, slots=True)
class NativeInsn:
    """One machine instruction: its offset in the program's code, its bytes, its text."""

    offset: int
    code: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Part:
    """A run of machine instructions: what became of the BPF instruction at `pc`, or (None) what
    `what` says."""

    pc: int | None
    what: str
    insns: tuple[NativeInsn, ...]


def native_parts(program: LoadedProgram, checks: Checks) -> list[Part]:
    """The code of the program, in order. Raises InputError where there is no JIT or capstone."""
    refused = jit_refusal()
    if refused is not None:
        raise InputError(f"the JIT can not run here: {refused}", where="--native")
    image, profile = program.owner.image, program.profile
    environment = RunEnvironment(profile=profile)
    with JitEngine(image, program.helpers(), environment, checks=checks) as engine:
        unit = engine.unit(program.executable)
        insns = list(_disassembled(bytes(unit.code.data), engine.names()))
        return list(_parts(unit, insns))


def _disassembled(code: bytes, names: Mapping[int, str]) -> Iterator[NativeInsn]:
    try:
        import capstone
    except ImportError:
        raise InputError(
            "capstone, which writes assembly, is not installed",
            where="--native",
            remedy="pip install 'pybpfvm[native]'",
        ) from None

    def named(match: re.Match[str]) -> str:
        disp = int(match[2], 0) * (-1 if match[1] == "-" else 1)
        name = names.get(disp)
        return f"[{name}]" if name is not None else match[0]

    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    for found in decoder.disasm(code, 0):
        text = f"{found.mnemonic} {found.op_str}".strip()
        yield NativeInsn(found.address, bytes(found.bytes), _AT_BASE.sub(named, text))


def _parts(unit: Unit, insns: list[NativeInsn]) -> Iterator[Part]:
    """The code, cut where something begins."""
    code = unit.code
    names = {sub.start: sub.name for sub in unit.program.subprogs}
    begins: dict[int, tuple[int | None, str]] = {0: (None, "way in")}
    end_of_inline = _stubs_from(unit, insns)
    for pc, offset in code.entries.items():
        begins[offset] = (None, f"function {names.get(pc) or pc}")
    for first, last in code.ends.items():
        head = _block_head(unit, insns, first)
        if head is not None:
            count = last - first + 1
            begins.setdefault(head, (None, f"block of {count}"))
    together: dict[int, list[int]] = {}  # instructions that the one at an offset was made with
    for pc, offset in zip(code.starts, code.offsets, strict=True):
        before = begins.get(offset, (None, ""))[0]
        if before is not None:
            together.setdefault(offset, []).append(before)
        begins[offset] = (pc, "")
    for offset, what in _stubs(unit, insns, end_of_inline):
        begins[offset] = (None, what)
    cuts = sorted(begins)
    starts = [bisect_left(insns, at, key=lambda one: one.offset) for at in cuts]
    for at, first, behind in zip(cuts, starts, [*starts[1:], len(insns)], strict=True):
        for pc in together.get(at, ()):
            yield Part(pc, "", ())
        yield Part(*begins[at], tuple(insns[first:behind]))


def _block_head(unit: Unit, insns: list[NativeInsn], first: int) -> int | None:
    """Where the block takes its fuel: the two instructions before its first one, if they do."""
    index = bisect_left(insns, unit.code.offsets[first], key=lambda one: one.offset)
    two = insns[max(0, index - 2) : index]
    if len(two) == 2 and two[0].text.startswith("sub r9,") and two[1].text.startswith("jb "):
        return two[0].offset
    return None


def _stubs_from(unit: Unit, insns: list[NativeInsn]) -> int:
    """Where the stubs begin: what lies behind the last instruction and is jumped to."""
    last = unit.code.offsets[-1]
    behind = [target for target in _jumped_to(insns) if target > last]
    return min(behind, default=len(unit.code.data))


def _jumped_to(insns: list[NativeInsn]) -> Iterator[int]:
    """Where near jumps lead; those of two bytes stay inside an instruction or a loop."""
    for one in insns:
        match = _NEAR_JUMP.match(one.text)
        if match is not None and len(one.code) > 2:
            yield int(match[1], 16)


def _stubs(unit: Unit, insns: list[NativeInsn], start: int) -> Iterator[tuple[int, str]]:
    """The offsets of the stubs, each with what it asks, and for which instruction."""
    end = len(unit.code.data)
    targets = sorted({at for at in (start, *_jumped_to(insns)) if start <= at < end})
    for at, following in zip(targets, [*targets[1:], end], strict=True):
        asked = [site for offset, site in unit.code.sites.items() if at < offset <= following]
        if asked:
            yield at, f"stub of {asked[0].pc}: {asked[0].ask.value}"
        else:
            yield at, "stub"
