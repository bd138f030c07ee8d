"""CO-RE: instructions whose constants depend on the target's types. Kinds 0 to 12.

Kernel Documentation/bpf/llvm_reloc.rst, section "CO-RE Relocations". For each record the type is
looked up in the target by name (flavours ignored), the access path followed there, and the answer
put into the instruction: an immediate, the offset of a load or store (whose width follows an
unsigned integer or a pointer), or the 64 bits of an lddw.

What the target does not have answers 0 where existence or a type was asked for. Anything else
has no answer: the instruction is replaced by a call of a helper that does not exist, as libbpf
does, so that only a program which gets there fails, and `notes` tells why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pybpfvm.bits import s32, u64
from pybpfvm.btf.ext import BtfExt, CoreKind, CoreRelocation
from pybpfvm.btf.types import Btf, BtfKind, Enum, Enum64, Int, Ptr, essential_name
from pybpfvm.errors import InputError
from pybpfvm.isa.codec import SLOT_BYTES
from pybpfvm.isa.insn import Insn, InsnSpec
from pybpfvm.isa.opcodes import Kind, Operand
from pybpfvm.isa.table import SPECS, TABLE
from pybpfvm.loader.core_match import TypeMatcher
from pybpfvm.loader.core_spec import ENUM_KINDS, FIELD_KINDS, Spec, local_spec, target_spec
from pybpfvm.loader.elf import ElfObject
from pybpfvm.loader.target import TargetBtf
from pybpfvm.program import POISON_CORE

MAX_CANDIDATES = 256
_MEMORY = (Kind.LDX, Kind.LDSX, Kind.ST, Kind.STX)
_POISON = Insn(next(spec for spec in TABLE if spec.kind is Kind.CALL), imm=POISON_CORE)
_SIZED: dict[tuple[Kind, int], InsnSpec] = {
    (spec.kind, spec.size): spec
    for spec in SPECS.values()
    if spec.size is not None and spec.kind in _MEMORY
}


class Unresolved(Exception):
    """A relocation has no answer; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The value for the instruction. `access_bytes` is the width of the field for loads and
    stores at its offset, None where it must stay; `width_error` says why it can not follow."""

    value: int
    access_bytes: int | None = None
    width_error: str = ""


class CoreResolver:
    """Answers an object's CO-RE relocations, each once, and patches the instructions."""

    def __init__(self, elf: ElfObject, btf: Btf | None, ext: BtfExt, target: TargetBtf) -> None:
        self._elf = elf
        self._local = btf
        self._target = target
        self._matchers: dict[int, TypeMatcher] = {}
        self._candidates: dict[tuple[int, int], tuple[int, ...]] = {}
        self._by_place: dict[tuple[int, int], CoreRelocation] = {}
        self._notes: dict[str, None] = {}
        for section in elf.sections:
            if not section.is_code:
                continue
            for relocation in ext.relocations.get(section.name, ()):
                slot, rest = divmod(relocation.offset, SLOT_BYTES)
                if rest or relocation.offset >= section.size:
                    raise InputError(
                        f"a CO-RE relocation for offset {relocation.offset:#x}, where no "
                        "instruction is",
                        where=elf.where(section, relocation.offset),
                    )
                self._by_place[section.index, slot] = relocation

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each relocation: what it asked for and what the answer was."""
        return tuple(self._notes)

    def patch(self, section: int, slot: int, insn: Insn) -> tuple[Insn, ...]:
        """The instruction with its answer; itself if nothing is asked there.

        InputError if the relocation is malformed or does not belong on such an instruction.
        """
        relocation = self._by_place.get((section, slot))
        if relocation is None:
            return (insn,)
        where = self._elf.where(section, slot * SLOT_BYTES)
        if self._local is None or relocation.type_id not in self._local:
            raise InputError(f"CO-RE relocation with type id {relocation.type_id}", where=where)
        local = local_spec(self._local, relocation, where)
        subject = f"{where}: {relocation.kind.name} {local.path or '(anonymous)'}"
        _check_original(insn, relocation.kind, local, where)
        try:
            answer = self._answer(local, relocation.kind)
            patched = _patched(insn, relocation.kind, answer, where)
        except Unresolved as why:
            self._note(f"{subject}: unresolved, {why}")
            return (_POISON,) * insn.slots
        self._note(f"{subject} = {answer.value}")
        return (patched,)

    def _note(self, line: str) -> None:
        if len(self._notes) < 10_000:
            self._notes[line] = None

    def _answer(self, local: Spec, kind: CoreKind) -> Answer:
        """What the target says; Unresolved if it does not, or contradicts itself."""
        if kind is CoreKind.TYPE_ID_LOCAL:
            return Answer(local.root_id)
        name = essential_name(local.btf.name(local.root_id))
        if not name:
            raise Unresolved("the type has no name to be found by")
        target = self._target(name)
        if target is None:
            raise Unresolved("there is no target BTF")
        matcher = self._matchers.setdefault(id(target), TypeMatcher(local.btf, target))
        answers: list[tuple[int, Answer]] = []
        for candidate in self._candidate_ids(local, name, target):
            found = target_spec(local, kind, candidate, matcher)
            if found is not None:
                answers.append((found.bit_offset, _value(kind, local, found)))
        if not answers:
            return _absent(kind, target)
        if any(answer != answers[0] for answer in answers):
            raise Unresolved(f"{len(answers)} types called {name} in {target.where} disagree")
        return answers[0][1]

    def _candidate_ids(self, local: Spec, name: str, target: Btf) -> tuple[int, ...]:
        key = (local.root_id, id(target))
        found = self._candidates.get(key)
        if found is None:
            kind = local.btf.kind(local.root_id)
            enums = (BtfKind.ENUM, BtfKind.ENUM64)
            found = target.find_flavours(name, *(enums if kind in enums else (kind,)))
            if len(found) > MAX_CANDIDATES:
                raise InputError(
                    f"{len(found)} types called {name}: the limit is {MAX_CANDIDATES}",
                    where=target.where,
                )
            self._candidates[key] = found
        return found


def _absent(kind: CoreKind, target: Btf) -> Answer:
    """The answer where the target has nothing that fits."""
    if kind in (CoreKind.FIELD_EXISTS, CoreKind.ENUMVAL_EXISTS):
        return Answer(0)
    if kind in FIELD_KINDS or kind in ENUM_KINDS:
        raise Unresolved(
            f"{target.where} has no such {'field' if kind in FIELD_KINDS else 'value'}"
        )
    return Answer(0)


def _value(kind: CoreKind, local: Spec, found: Spec) -> Answer:
    """The answer for a place in the target."""
    match kind:
        case (
            CoreKind.FIELD_EXISTS
            | CoreKind.TYPE_EXISTS
            | CoreKind.ENUMVAL_EXISTS
            | CoreKind.TYPE_MATCHES
        ):
            return Answer(1)
        case CoreKind.TYPE_ID_TARGET:
            return Answer(found.root_id)
        case CoreKind.TYPE_SIZE:
            return Answer(found.btf.size(found.root_id))
        case CoreKind.ENUMVAL_VALUE:
            return Answer(found.value)
    return _field_value(kind, local, found)


def _field_value(kind: CoreKind, local: Spec, found: Spec) -> Answer:
    bit_size = found.bitfield_bits or found.btf.size(found.field_id) * 8
    last_is_member = bool(found.steps[-1].name)
    if not last_is_member and kind not in (CoreKind.FIELD_BYTE_OFFSET, CoreKind.FIELD_BYTE_SIZE):
        raise Unresolved(f"{kind.name} of an array element or a whole type")
    if not found.bitfield_bits:
        byte_size, byte_offset = bit_size // 8, found.bit_offset // 8
    else:
        byte_size, byte_offset = _bitfield_unit(found, bit_size)
    match kind:
        case CoreKind.FIELD_BYTE_SIZE:
            return Answer(byte_size)
        case CoreKind.FIELD_SIGNED:
            type_ = found.btf.type(found.field_id)
            return Answer(int(isinstance(type_, Enum | Enum64 | Int) and type_.signed))
        case CoreKind.FIELD_RSHIFT_U64:
            return Answer(64 - bit_size)
        case CoreKind.FIELD_LSHIFT_U64:
            # The field is loaded right-aligned in its unit; shifting left drops what is above.
            inside = found.bit_offset - byte_offset * 8
            if found.btf.big_endian:
                return Answer((8 - byte_size) * 8 + inside)
            return Answer(64 - (bit_size + inside))
    assert kind is CoreKind.FIELD_BYTE_OFFSET, kind
    if found.bitfield_bits or local.bitfield_bits:
        return Answer(byte_offset)
    return Answer(byte_offset, *_access_width(local, found, byte_size))


def _bitfield_unit(found: Spec, bit_size: int) -> tuple[int, int]:
    """(size, offset) in bytes of the aligned unit of 1, 2, 4 or 8 bytes that holds a bitfield."""
    byte_size = found.btf.size(found.field_id)
    while byte_size in (1, 2, 4, 8):
        byte_offset = found.bit_offset // 8 // byte_size * byte_size
        if found.bit_offset + bit_size <= (byte_offset + byte_size) * 8:
            return byte_size, byte_offset
        byte_size *= 2
    raise Unresolved("a bitfield that no aligned load of up to 8 bytes covers")


def _access_width(local: Spec, found: Spec, byte_size: int) -> tuple[int | None, str]:
    """(width that loads and stores of this field take, why they can not)."""
    if local.btf.size(local.field_id) == byte_size:
        return None, ""
    ours, theirs = local.btf.type(local.field_id), found.btf.type(found.field_id)
    if isinstance(ours, Ptr) and isinstance(theirs, Ptr):
        return byte_size, ""
    if isinstance(ours, Int) and isinstance(theirs, Int) and not ours.signed and not theirs.signed:
        return byte_size, ""
    return None, f"the field has {byte_size} bytes there, and is no unsigned integer"


def _check_original(insn: Insn, kind: CoreKind, local: Spec, where: str) -> None:
    """The compiler put the local offset in: anything else means a record of another instruction."""
    if kind is not CoreKind.FIELD_BYTE_OFFSET or local.bitfield_bits:
        return
    in_memory = insn.spec.kind in _MEMORY
    found = insn.off if in_memory else insn.imm
    if found != local.bit_offset // 8:
        raise InputError(
            f"CO-RE relocation of {local.path}: the instruction has {found}, the type says "
            f"{local.bit_offset // 8}",
            where=where,
        )


def _patched(insn: Insn, kind: CoreKind, answer: Answer, where: str) -> Insn:
    """`insn` with the answer in it. Unresolved if it does not fit, InputError if the relocation
    does not belong here."""
    spec = insn.spec
    if spec.kind is Kind.LDDW:
        return replace(insn, src=0, imm=u64(answer.value))
    if spec.kind is Kind.ALU and spec.operand is Operand.K:
        if not -(1 << 31) <= answer.value < 1 << 32:
            raise Unresolved(f"the value {answer.value} does not fit 32 bits")
        return replace(insn, imm=s32(answer.value))
    if spec.kind not in _MEMORY or kind is not CoreKind.FIELD_BYTE_OFFSET:
        raise InputError(f"a CO-RE relocation {kind.name} on {spec.mnemonic}", where=where)
    if answer.width_error:
        raise Unresolved(answer.width_error)
    if not 0 <= answer.value < 1 << 15:
        raise Unresolved(f"the offset {answer.value} does not fit 16 bits")
    if answer.access_bytes is not None:
        sized = _SIZED.get((spec.kind, answer.access_bytes))
        if sized is None:
            raise Unresolved(f"no {spec.kind.value} of {answer.access_bytes} bytes exists")
        spec = sized
    return replace(insn, spec=spec, off=answer.value)
