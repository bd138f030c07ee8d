"""Programs as lists of lines whose jumps still have labels, so that they can be damaged: one
small change each, of the kind that people make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from pybpfvm.bits import U32
from pybpfvm.errors import InputError
from pybpfvm.isa.codec import check_fields, target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.isa.table import SPECS
from pybpfvm.program import Subprog


@dataclass(frozen=True, slots=True)
class Line:
    """An instruction whose jump leads to `label`, or (`insn` None) the place of a label."""

    insn: Insn | None
    label: int | None = None
    null_check: bool = False


_SIGN = {
    "jgt": "jsgt", "jge": "jsge", "jlt": "jslt", "jle": "jsle",
    "jsgt": "jgt", "jsge": "jge", "jslt": "jlt", "jsle": "jle",
    "rsh": "arsh", "arsh": "rsh", "div": "sdiv", "sdiv": "div", "mod": "smod", "smod": "mod",
}  # fmt: skip
_STRICT = {
    "jgt": "jge", "jge": "jgt", "jlt": "jle", "jle": "jlt",
    "jsgt": "jsge", "jsge": "jsgt", "jslt": "jsle", "jsle": "jslt",
}  # fmt: skip
_NEGATED = {
    "jeq": "jne", "jne": "jeq", "jgt": "jle", "jle": "jgt", "jge": "jlt", "jlt": "jge",
    "jsgt": "jsle", "jsle": "jsgt", "jsge": "jslt", "jslt": "jsge",
}  # fmt: skip


def damaged(random: Random, lines: list[Line]) -> tuple[list[Line], str]:
    """The lines with one of the changes that applies to them, and its name."""
    names = list(_DAMAGES)
    random.shuffle(names)
    for name in names:
        pick, change = _DAMAGES[name]
        places = [at for at, line in enumerate(lines) if line.insn is not None and pick(line)]
        if places:
            at = random.choice(places)
            return [*lines[:at], *change(random, lines[at]), *lines[at + 1 :]], name
    return lines, ""


def _base(line: Line) -> tuple[str, int, str]:
    """("jgt", 64, "_k") of a jump or an operation."""
    assert line.insn is not None
    spec = line.insn.spec
    suffix = spec.mnemonic[-2:] if spec.mnemonic[-2:] in ("_k", "_x") else ""
    return str(getattr(spec.op, "value", "")), spec.width, suffix


def _swapped(line: Line, op: str, width: int) -> list[Line]:
    assert line.insn is not None
    name = f"{op}{width}{_base(line)[2]}"
    return [replace(line, insn=replace(line.insn, spec=SPECS[name]))] if name in SPECS else [line]


def _is(*kinds: Kind) -> Callable[[Line], bool]:
    return lambda line: line.insn is not None and line.insn.spec.kind in kinds


def _mnemonic(line: Line) -> str:
    assert line.insn is not None
    return line.insn.spec.mnemonic


def _register(random: Random, line: Line) -> list[Line]:
    insn = line.insn
    assert insn is not None
    free = [name for name in ("dst", "src") if name in insn.spec.fields]
    if not free or insn.spec.kind is Kind.LDDW:
        return [line]
    register = random.randrange(11)
    if random.choice(free) == "dst":
        return [replace(line, insn=replace(insn, dst=register))]
    return [replace(line, insn=replace(insn, src=register))]


def _imm(random: Random, line: Line) -> list[Line]:
    assert line.insn is not None
    return [
        replace(line, insn=replace(line.insn, imm=line.insn.imm + random.choice((-1, 1, 1, 8))))
    ]


def _offset(random: Random, line: Line) -> list[Line]:
    assert line.insn is not None
    return [
        replace(
            line, insn=replace(line.insn, off=line.insn.off + random.choice((1, 1, 8, -1, -8, 64)))
        )
    ]


_BINARY = _is(Kind.ALU, Kind.JUMP)
_MEMORY = _is(Kind.LDX, Kind.LDSX, Kind.ST, Kind.STX, Kind.ATOMIC)
_DAMAGES: dict[str, tuple[Callable[[Line], bool], Callable[[Random, Line], list[Line]]]] = {
    "null check lost": (lambda line: line.null_check, lambda random, line: []),
    "null check turned": (
        lambda line: line.null_check,
        lambda random, line: _swapped(line, _NEGATED[_base(line)[0]], 64),
    ),
    "offset moved": (_MEMORY, _offset),
    "bound moved": (lambda line: _is(Kind.JUMP)(line) and _base(line)[2] == "_k", _imm),
    "mask moved": (lambda line: _mnemonic(line) in ("and64_k", "and32_k"), _imm),
    "mask lost": (
        lambda line: _mnemonic(line) in ("and64_k", "and32_k", "mov32_x", "rsh64_k"),
        lambda random, line: [],
    ),
    "sign swapped": (
        lambda line: _BINARY(line) and _base(line)[0] in _SIGN,
        lambda random, line: _swapped(line, _SIGN[_base(line)[0]], _base(line)[1]),
    ),
    "width swapped": (
        lambda line: _BINARY(line) and _base(line)[1] in (32, 64),
        lambda random, line: _swapped(line, _base(line)[0], 96 - _base(line)[1]),
    ),
    "strictness swapped": (
        lambda line: _is(Kind.JUMP)(line) and _base(line)[0] in _STRICT,
        lambda random, line: _swapped(line, _STRICT[_base(line)[0]], _base(line)[1]),
    ),
    "condition turned": (
        lambda line: _is(Kind.JUMP)(line) and _base(line)[0] in _NEGATED,
        lambda random, line: _swapped(line, _NEGATED[_base(line)[0]], _base(line)[1]),
    ),
    "wrong register": (lambda line: not _is(Kind.EXIT)(line), _register),
    "insn lost": (lambda line: line.label is None and not _is(Kind.EXIT)(line), lambda r, line: []),
    "insn twice": (
        lambda line: line.label is None and not _is(Kind.EXIT)(line),
        lambda random, line: [line, line],
    ),
    "constant moved": (lambda line: _is(Kind.ALU)(line) and _base(line)[2] == "_k", _imm),
}
DAMAGES = tuple(_DAMAGES)


def linked(lines: list[Line]) -> tuple[Insn, ...] | None:
    """The instructions with their jumps resolved, or None if one can not be encoded."""
    places: dict[int, int] = {}
    pc = 0
    for line in lines:
        if line.insn is None:
            assert line.label is not None
            places[line.label] = pc
        else:
            pc += line.insn.slots
    insns: list[Insn] = []
    pc = 0
    for line in lines:
        insn = line.insn
        if insn is None:
            continue
        if line.label is not None:
            distance = places[line.label] - pc - 1
            if insn.spec.kind is Kind.CALL_LOCAL:
                insn = replace(insn, imm=distance)
            elif insn.spec.kind is Kind.LDDW:
                insn = replace(insn, imm=distance & U32)
            else:
                insn = replace(insn, off=distance)
        try:
            check_fields(insn)
        except InputError:
            return None
        insns.append(insn)
        pc += insn.slots
    return tuple(insns)


def lines_of(insns: Sequence[Insn]) -> list[Line]:
    """The instructions with labels for what jumps and calls lead to, so that `linked` finds the
    way after a change. What leads nowhere keeps its distance."""
    starts: dict[int, int] = {}
    pc = 0
    for index, insn in enumerate(insns):
        starts[pc] = index
        pc += insn.slots
    targets: dict[int, int] = {}  # index of the instruction that leads -> of where it leads to
    pc = 0
    for index, insn in enumerate(insns):
        target = target_pc(insn, pc)
        if target in starts:
            targets[index] = starts[target]
        pc += insn.slots
    places = set(targets.values())
    lines: list[Line] = []
    for index, insn in enumerate(insns):
        if index in places:
            lines.append(Line(None, index))
        lines.append(Line(insn, targets.get(index)))
    return lines


def subprogs_of(insns: tuple[Insn, ...]) -> tuple[Subprog, ...]:
    """The functions of a program without symbols: what calls and function addresses lead to."""
    starts, pc = {0}, 0
    for insn in insns:
        if insn.spec.kind is Kind.CALL_LOCAL:
            starts.add(pc + 1 + insn.imm)
        elif insn.spec.kind is Kind.LDDW and insn.src == Pseudo.FUNC:
            low = insn.imm & 0xFFFF_FFFF
            starts.add(pc + 1 + low - ((low >> 31) << 32))
        pc += insn.slots
    ordered = [start for start in sorted(starts) if 0 <= start < pc]
    ends = [*ordered[1:], pc]
    return tuple(
        Subprog(f"sub{number}" if number else "case", start, end)
        for number, (start, end) in enumerate(zip(ordered, ends, strict=True))
    )
