"""One program with a function exchanged for a program of another object, as freplace does it.

A kernel leaves the function where it is and lets its first instruction go elsewhere; here the
program is linked anew. Callers see no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pybpfvm.bits import u32
from pybpfvm.errors import UnsupportedError
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.program import BpfObject, MapSpec, Program, SourceLine, Subprog

_MAPS = (Pseudo.MAP_IDX, Pseudo.MAP_IDX_VALUE)


@dataclass(frozen=True, slots=True)
class _Piece:
    """The function of a program that begins at its slot `start`; `of_other`: of the object that the
    replacement is from."""

    program: Program
    start: int
    of_other: bool

    @property
    def key(self) -> tuple[bool, int]:
        return self.of_other, self.start

    @property
    def function(self) -> Subprog:
        return next(sub for sub in self.program.subprogs if sub.start == self.start)

    def insns(self) -> Iterator[tuple[int, Insn]]:
        """(slot in its program, instruction)."""
        pc, end = 0, self.function.end
        for insn in self.program.insns:
            if self.start <= pc < end:
                yield pc, insn
            pc += 2 if insn.spec.kind is Kind.LDDW else 1

    def references(self) -> Iterator[int]:
        """Where the functions start that it calls or takes the address of."""
        for pc, insn in self.insns():
            if _refers(insn):
                found = target_pc(insn, pc)
                assert found is not None
                yield found


def spliced(target: BpfObject, function: str, other: BpfObject, by: Program) -> BpfObject:
    """`target` with program `by` of `other` in the place of `function` of each program that has it.

    Maps of `other` follow those of `target`, under their names, behind that of `by` and a dot where
    `target` has one of that name; their BTF is not kept. Raises UnsupportedError.
    """
    for spec in other.maps:
        if spec.slots:
            raise UnsupportedError(
                f"maps that hold programs or maps ({spec.name}) of a program that replaces a "
                "function",
                where=other.path,
            )
    known = {spec.name for spec in target.maps}
    added = tuple(_moved(spec, by.name, known) for spec in other.maps)
    return replace(
        target,
        programs=tuple(_linked(one, function, by, len(target.maps)) for one in target.programs),
        maps=(*target.maps, *added),
        kernel_functions={**target.kernel_functions, **other.kernel_functions},
        kernel_variables={**target.kernel_variables, **other.kernel_variables},
    )


def _moved(spec: MapSpec, owner: str, known: set[str]) -> MapSpec:
    name = f"{owner}.{spec.name.removeprefix('.')}" if spec.name in known else spec.name
    inner = (
        None if spec.inner is None else replace(spec.inner, btf_key_type_id=0, btf_value_type_id=0)
    )
    return replace(spec, name=name, section="", inner=inner, btf_key_type_id=0, btf_value_type_id=0)


def _linked(program: Program, name: str, by: Program, maps: int) -> Program:
    """The program from its main function and what that reaches, `by` instead of its function of
    that name; as it is if it has none."""
    function = next((sub for sub in program.subprogs if sub.name == name), None)
    if function is None:
        return program
    if len(_reached(_Linking(program, program, Subprog("", -1, -1)))) < len(program.subprogs):
        # What nothing refers to is there for the kernel: it ends what is thrown.
        raise UnsupportedError(
            "exception callbacks in a program whose function is replaced", where=program.name
        )
    linking = _Linking(program, by, function)
    pieces = _reached(linking)
    starts: dict[tuple[bool, int], int] = {}
    end = 0
    for one in pieces:
        starts[one.key] = end
        end += one.function.end - one.start
    insns: list[Insn] = []
    subprogs: list[Subprog] = []
    lines: dict[int, SourceLine] = {}
    for one in pieces:
        at = starts[one.key]
        for pc, insn in one.insns():
            if _refers(insn):
                start = target_pc(insn, pc)
                assert start is not None
                distance = starts[linking.piece(one, start).key] - (at + pc - one.start) - 1
                imm = u32(distance) if insn.spec.kind is Kind.LDDW else distance
                insn = replace(insn, imm=imm)
            elif one.of_other and insn.spec.kind is Kind.LDDW and insn.src in _MAPS:
                insn = replace(insn, imm=insn.imm + maps)
            insns.append(insn)
        subprogs.append(_placed(one, at, function))
        size = range(one.start, one.function.end)
        moved = at - one.start
        lines.update((pc + moved, ln) for pc, ln in one.program.lines.items() if pc in size)
    return replace(program, insns=tuple(insns), subprogs=tuple(subprogs), lines=lines)


@dataclass(frozen=True, slots=True)
class _Linking:
    """`by` instead of `function` of `program`."""

    program: Program
    by: Program
    function: Subprog

    def piece(self, caller: _Piece | None, start: int) -> _Piece:
        """What a reference from `caller` to `start` means; the main function without a caller."""
        if caller is not None and caller.of_other:
            return _Piece(self.by, start, True)
        if start == self.function.start:
            return _Piece(self.by, 0, True)
        return _Piece(self.program, start, False)


def _reached(linking: _Linking) -> list[_Piece]:
    """The main function and whatever it reaches, each once."""
    found: dict[tuple[bool, int], _Piece] = {}
    pending = [linking.piece(None, 0)]
    while pending:
        one = pending.pop()
        if one.key not in found:
            found[one.key] = one
            pending += [linking.piece(one, start) for start in one.references()]
    return list(found.values())


def _placed(piece: _Piece, at: int, function: Subprog) -> Subprog:
    """The function at its new place. The one that is exchanged is declared as it was; others of the
    other object are static, for this one's BTF does not have their types."""
    own = piece.function
    end = at + own.end - own.start
    if not piece.of_other:
        return replace(own, start=at, end=end)
    return replace(function, start=at, end=end) if piece.start == 0 else Subprog(own.name, at, end)


def _refers(insn: Insn) -> bool:
    kind = insn.spec.kind
    return kind is Kind.CALL_LOCAL or (kind is Kind.LDDW and insn.src == Pseudo.FUNC)
