"""CO-RE access paths: `"0:1:2"` from a local type, and the same path found in a target type.

The first number indexes the root type as an array would be; each further one a member or an
element. In the target, members are found by name, inside anonymous structs and unions as well.
For enumerators the string holds one number, for whole types it is "0".
"""

from __future__ import annotations

from dataclasses import dataclass

from pybpfvm.btf.ext import CoreKind, CoreRelocation
from pybpfvm.btf.types import (
    Array,
    Btf,
    BtfType,
    Enum,
    Enum64,
    Int,
    Member,
    Struct,
    Union,
    essential_name,
)
from pybpfvm.errors import InputError
from pybpfvm.loader.core_match import TypeMatcher

MAX_STEPS = 64
MAX_VISITED = 1 << 14  # anonymous structs and unions searched for one member

FIELD_KINDS = frozenset(
    {
        CoreKind.FIELD_BYTE_OFFSET,
        CoreKind.FIELD_BYTE_SIZE,
        CoreKind.FIELD_EXISTS,
        CoreKind.FIELD_SIGNED,
        CoreKind.FIELD_LSHIFT_U64,
        CoreKind.FIELD_RSHIFT_U64,
    }
)
ENUM_KINDS = frozenset({CoreKind.ENUMVAL_EXISTS, CoreKind.ENUMVAL_VALUE})


@dataclass(frozen=True, slots=True)
class Step:
    """A named member, or element `index` of an array (name ""); `type_id` contains it."""

    type_id: int
    index: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Spec:
    """A place in a type: what lies there has type `field_id` and begins at `bit_offset`.

    `bitfield_bits` is 0 unless it is a bitfield; `steps` leaves out anonymous members. For
    enumerators `value` is their value; for whole types only `root_id` and `field_id` count.
    """

    btf: Btf
    root_id: int
    field_id: int
    bit_offset: int = 0
    bitfield_bits: int = 0
    steps: tuple[Step, ...] = ()
    value: int = 0
    path: str = ""


def local_spec(btf: Btf, relocation: CoreRelocation, where: str) -> Spec:
    """What a relocation of the object refers to. InputError if its path does not fit its type."""
    name = btf.name(relocation.type_id)
    indices = _indices(relocation.access, where)
    if relocation.kind in FIELD_KINDS:
        return _local_field(btf, relocation.type_id, indices, name, where)
    if len(indices) != 1 or (relocation.kind not in ENUM_KINDS and indices != [0]):
        raise _bad_path(relocation.access, name, where)
    if relocation.kind not in ENUM_KINDS:
        return Spec(btf, relocation.type_id, relocation.type_id, path=name)
    enum = btf.type(btf.resolve(relocation.type_id))
    if not isinstance(enum, Enum | Enum64) or indices[0] >= len(enum.values):
        raise _bad_path(relocation.access, name, where)
    found = enum.values[indices[0]]
    steps = (Step(relocation.type_id, indices[0], found.name),)
    return Spec(
        btf,
        relocation.type_id,
        relocation.type_id,
        steps=steps,
        value=found.value,
        path=f"{name}::{found.name}",
    )


def target_spec(local: Spec, kind: CoreKind, target_id: int, matcher: TypeMatcher) -> Spec | None:
    """The same place in the target's type `target_id`, None if it has none."""
    target = matcher.target
    if kind in FIELD_KINDS:
        return _target_field(local, target_id, matcher)
    if kind in ENUM_KINDS:
        enum = target.type(target.resolve(target_id))
        if not isinstance(enum, Enum | Enum64):
            return None
        wanted = essential_name(local.steps[0].name)
        for index, found in enumerate(enum.values):
            if essential_name(found.name) == wanted:
                steps = (Step(target_id, index, found.name),)
                return Spec(target, target_id, target_id, steps=steps, value=found.value)
        return None
    agrees = matcher.types_match if kind is CoreKind.TYPE_MATCHES else matcher.types_compatible
    return Spec(target, target_id, target_id) if agrees(local.root_id, target_id) else None


def _bad_path(access: str, name: str, where: str) -> InputError:
    return InputError(
        f"CO-RE access {access!r} does not fit type {name or '(anonymous)'}", where=where
    )


def _indices(access: str, where: str) -> list[int]:
    parts = access.split(":") if len(access) <= 1024 else []
    if not 0 < len(parts) <= MAX_STEPS or not all(
        part.isascii() and part.isdigit() and len(part) <= 10 for part in parts
    ):
        raise InputError(f"CO-RE access string {access[:40]!r}", where=where)
    return [int(part) for part in parts]


def _local_field(btf: Btf, type_id: int, indices: list[int], name: str, where: str) -> Spec:
    current = btf.resolve(type_id)
    steps = [Step(current, indices[0])]
    bit_offset = indices[0] * btf.size(current) * 8 if indices[0] else 0
    bitfield_bits = 0
    flexible = False
    path = [name + (f"[{indices[0]}]" if indices[0] else "")]
    for index in indices[1:]:
        container = btf.type(current)
        match container:
            case Struct() | Union():
                if index >= len(container.members):
                    raise _bad_path(":".join(map(str, indices)), name, where)
                member = container.members[index]
                bit_offset += member.bit_offset
                bitfield_bits = _bitfield_bits(btf, member)
                flexible = _is_flexible(container, index)
                if member.name:
                    steps.append(Step(current, index, member.name))
                    path.append("." + member.name)
                current = btf.resolve(member.type_id)
            case Array():
                if index >= container.count and not (flexible and container.count == 0):
                    raise _bad_path(":".join(map(str, indices)), name, where)
                steps.append(Step(current, index))
                path.append(f"[{index}]")
                current = btf.resolve(container.element_id)
                bit_offset += index * btf.size(current) * 8
                bitfield_bits, flexible = 0, False
            case _:
                raise _bad_path(":".join(map(str, indices)), name, where)
    return Spec(btf, type_id, current, bit_offset, bitfield_bits, tuple(steps), path="".join(path))


def _is_flexible(container: Struct | Union, index: int) -> bool:
    """Whether this member may be an array without end: the last one of a struct."""
    return isinstance(container, Struct) and index == len(container.members) - 1


def _bitfield_bits(btf: Btf, member: Member) -> int:
    """Width of a bitfield in either of BTF's two notations, 0 for an ordinary member."""
    if member.bitfield_bits:
        return member.bitfield_bits
    found: BtfType = btf.type(btf.resolve(member.type_id))
    if isinstance(found, Int) and (found.bit_offset or found.bits != found.size * 8):
        return 0 if found.boolean else found.bits
    return 0


def _target_field(local: Spec, target_id: int, matcher: TypeMatcher) -> Spec | None:
    btf = matcher.target
    current = btf.resolve(target_id)
    first = local.steps[0]
    bit_offset = first.index * btf.size(current) * 8 if first.index else 0
    steps = [Step(current, first.index)]
    bitfield_bits = 0
    flexible = False
    for step in local.steps[1:]:
        if step.name:
            found = _find_member(btf, current, essential_name(step.name))
            if found is None:
                return None
            container_id, index, offset = found
            container = btf.type(container_id)
            assert isinstance(container, Struct | Union)
            member = container.members[index]
            local_container = local.btf.type(step.type_id)
            assert isinstance(local_container, Struct | Union)
            wanted = local_container.members[step.index].type_id
            if not matcher.fields_compatible(wanted, member.type_id):
                return None
            bit_offset += offset + member.bit_offset
            bitfield_bits = _bitfield_bits(btf, member)
            flexible = _is_flexible(container, index)
            steps.append(Step(container_id, index, member.name))
            current = btf.resolve(member.type_id)
        else:
            array = btf.type(current)
            if not isinstance(array, Array):
                return None
            if step.index >= array.count and not (flexible and array.count == 0):
                return None
            steps.append(Step(current, step.index))
            current = btf.resolve(array.element_id)
            bit_offset += step.index * btf.size(current) * 8
            bitfield_bits, flexible = 0, False
    return Spec(btf, target_id, current, bit_offset, bitfield_bits, tuple(steps))


def _find_member(btf: Btf, type_id: int, name: str) -> tuple[int, int, int] | None:
    """(container, index in it, bit offset of the container) of the first member called `name`.

    Depth first through anonymous structs and unions, each of them once: one that does not hold
    the name does not hold it at another offset either.
    """
    searched: set[int] = set()
    pending: list[tuple[int, int]] = [(type_id, 0)]
    while pending:
        current, offset = pending.pop()
        container = btf.type(current)
        if current in searched or not isinstance(container, Struct | Union):
            continue
        searched.add(current)
        if len(searched) > MAX_VISITED:
            raise InputError(
                f"more than {MAX_VISITED} anonymous structs and unions inside each other",
                where=f"{btf.where}, type id {type_id}",
            )
        inner = []
        for index, member in enumerate(container.members):
            if member.name:
                if essential_name(member.name) == name:
                    return current, index, offset
            else:
                inner.append((btf.resolve(member.type_id), offset + member.bit_offset))
        pending += reversed(inner)
    return None
