"""Fields of map values that are the kernel's own: locks, timers, work queues, kernel pointers, ...

Which ones a map's values have is said by the BTF of their type: fields of these types, in the
struct itself (or the variables of a data section), in structs inside it and in arrays of such.
As the kernel looks for them, names behind a typedef, qualifiers and unions hide a field: then it
is plain memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from pybpfvm.bits import U32
from pybpfvm.btf.types import (
    MAX_CHAIN,
    POINTER_BYTES,
    Array,
    Btf,
    BtfKind,
    BtfType,
    Datasec,
    DeclTag,
    Ptr,
    Struct,
    TypeTag,
    Var,
)
from pybpfvm.errors import InputError
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.program import BPF_F_RDONLY_PROG, MapSpec, MapType
from pybpfvm.verifier.refusal import Refused, forbidden, unsupported
from pybpfvm.verifier.states.regstate import Reg
from pybpfvm.verifier.verdict import Rule

if TYPE_CHECKING:
    from pybpfvm.verifier.environment import Environment


class FieldKind(Enum):
    """Kinds of fields; the value is the kernel's name."""

    SPIN_LOCK = "bpf_spin_lock"
    RES_SPIN_LOCK = "bpf_res_spin_lock"
    TIMER = "bpf_timer"
    WORKQUEUE = "bpf_wq"
    TASK_WORK = "bpf_task_work"
    LIST_HEAD = "bpf_list_head"
    LIST_NODE = "bpf_list_node"
    RB_ROOT = "bpf_rb_root"
    RB_NODE = "bpf_rb_node"
    REFCOUNT = "bpf_refcount"
    KPTR_UNREF = "kptr_untrusted"
    KPTR_REF = "kptr"
    KPTR_PERCPU = "percpu_kptr"
    UPTR = "uptr"


LOCKS = frozenset({FieldKind.SPIN_LOCK, FieldKind.RES_SPIN_LOCK})
POINTERS = frozenset(
    {FieldKind.KPTR_UNREF, FieldKind.KPTR_REF, FieldKind.KPTR_PERCPU, FieldKind.UPTR}
)
_STRUCTS: Mapping[str, FieldKind] = {
    kind.value: kind for kind in FieldKind if kind.value.startswith("bpf_")
}
_TAGS: Mapping[str, FieldKind] = {kind.value: kind for kind in POINTERS}


@dataclass(frozen=True, slots=True)
class Field:
    """One field, `size` bytes at `offset`. `btf_id` is the type that a kernel pointer is to, or
    of what a collection holds, by the node at `node`."""

    kind: FieldKind
    offset: int
    size: int
    btf_id: int = 0
    node: int = -1


# The node that links what a collection holds.
NODES: Mapping[FieldKind, FieldKind] = {
    FieldKind.LIST_HEAD: FieldKind.LIST_NODE,
    FieldKind.RB_ROOT: FieldKind.RB_NODE,
}
COLLECTIONS = frozenset(NODES)
_CONTAINS = "contains:"

# The kernel keeps no more fields of a value than these; a value with more is plain memory to it.
MAX_FIELDS = 11
# Structs inside one another, as the kernel follows them.
_MAX_DEPTH = 31
_MAX_MEMBERS = 1 << 18  # members looked at for one map
_LOCK_BYTES = 4


def fields_of(btf: Btf | None, spec: MapSpec) -> tuple[Field, ...]:
    """The kernel's fields in the values of a map, by offset.

    Raises Refused (unsupported) for a type that can not be followed, or that has too many.
    """
    if not spec.btf_value_type_id:
        return ()
    if btf is None:
        raise unsupported(f"map '{spec.name}' with values of a BTF type, but without the BTF")
    try:
        return _Walk(btf).of_value(spec.btf_value_type_id)
    except _TooComplex as problem:
        what = str(problem)
    except InputError as error:
        what = error.reason
    raise unsupported(f"map '{spec.name}' with values of BTF type {spec.btf_value_type_id}: {what}")


# Fields that the kernel looks for in programs' own objects.
_OF_OBJECTS = (
    frozenset(
        {
            FieldKind.LIST_HEAD,
            FieldKind.LIST_NODE,
            FieldKind.RB_ROOT,
            FieldKind.RB_NODE,
            FieldKind.REFCOUNT,
            FieldKind.KPTR_UNREF,
            FieldKind.KPTR_REF,
            FieldKind.KPTR_PERCPU,
        }
    )
    | LOCKS
)


def object_fields(btf: Btf, type_id: int) -> tuple[Field, ...]:
    """The kernel's fields in objects of a struct, which programs make for themselves.

    Raises Refused (unsupported) for one that can not be followed. Kernels look for fields in
    those structs only that have one themselves, not only in structs or arrays inside.
    """
    try:
        walk = _Walk(btf)
        found = tuple(one for one in walk.of_value(type_id) if one.kind in _OF_OBJECTS)
        struct = btf.type(type_id)
        if not found or not isinstance(struct, Struct):
            return ()
        if walk.has_own(struct):
            return unique(found, f"objects of struct {struct.name}")
        what = "the kernel's fields are in structs or arrays inside only"
    except _TooComplex as problem:
        what = str(problem)
    except InputError as error:
        what = error.reason
    raise unsupported(f"objects of BTF type {type_id}: {what}")


# Of these a value or object has one at most. A value with more has no fields at all to the kernel.
_UNIQUE = frozenset({FieldKind.TIMER, FieldKind.WORKQUEUE, FieldKind.TASK_WORK, FieldKind.REFCOUNT})


def unique(fields: tuple[Field, ...], what: str) -> tuple[Field, ...]:
    """The fields of `what`. Refused as unsupported where two of them can not be together."""
    kinds = [one.kind for one in fields]
    locks = sum(kind in LOCKS for kind in kinds)
    several = next((kind.value for kind in _UNIQUE if kinds.count(kind) > 1), "")
    if locks > 1 or several:
        raise unsupported(f"{what} with several {several or 'locks'}")
    return fields


class _TooComplex(Exception):
    """A type that is not followed; the text says why."""


class _Walk:
    """Fields of types, relative to their start. Each struct is looked at once."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        # By type id: fields, and how deep structs are nested; None while it is looked at.
        self._known: dict[int, tuple[tuple[Field, ...], int] | None] = {}
        self._members = 0
        self._tags: dict[tuple[int, int], tuple[str, ...]] = {}
        for type_id in btf.ids_of(BtfKind.DECL_TAG):
            tag = btf.type(type_id)
            assert isinstance(tag, DeclTag)
            if tag.name.startswith(_CONTAINS):
                place = tag.type_id, tag.component
                self._tags[place] = (*self._tags.get(place, ()), tag.name)

    def of_value(self, type_id: int) -> tuple[Field, ...]:
        """Fields of a map's values: of a struct, or of the variables of a section."""
        value = self._btf.type(type_id)
        if isinstance(value, Struct):
            found = self._of_struct(type_id, value, 0)[0]
        elif isinstance(value, Datasec):
            found = self._of_section(value)
        else:
            found = ()
        return tuple(sorted(found, key=lambda one: one.offset))

    def has_own(self, struct: Struct) -> bool:
        """Whether a member of the struct is a field, not only in structs or arrays inside."""
        for member in struct.members:
            inner = self._btf.type(member.type_id)
            if isinstance(inner, Struct) and _STRUCTS.get(inner.name) in _OF_OBJECTS:
                return True
            tag = self._btf.type(inner.type_id) if isinstance(inner, Ptr) else None
            if isinstance(tag, TypeTag) and _TAGS.get(tag.name) in _OF_OBJECTS:
                return True
        return False

    def _of_section(self, section: Datasec) -> tuple[Field, ...]:
        found: list[Field] = []
        for place in section.variables:
            variable = self._btf.type(place.type_id)
            if isinstance(variable, Var):
                holder = (place.type_id, -1)
                found += self._of_member(
                    variable.type_id, place.offset, 0, place.size, holder=holder
                )[0]
                _check_count(len(found))
        return tuple(found)

    def _of_struct(self, type_id: int, struct: Struct, depth: int) -> tuple[tuple[Field, ...], int]:
        """The struct's fields, and how many structs deep it is."""
        if type_id in self._known:
            known = self._known[type_id]
            if known is None:
                raise _TooComplex(f"struct {struct.name} contains itself")
            _check_depth(depth + known[1])
            return known
        _check_depth(depth)
        self._known[type_id] = None
        found: list[Field] = []
        height = 0
        for index, member in enumerate(struct.members):
            if member.bit_offset % 8 == 0:
                at = member.bit_offset // 8
                fields, deep = self._of_member(member.type_id, at, depth, holder=(type_id, index))
                found += fields
                height = max(height, deep)
                _check_count(len(found))
        self._known[type_id] = tuple(found), height
        return tuple(found), height

    def _of_member(
        self,
        type_id: int,
        offset: int,
        depth: int,
        wanted: int | None = None,
        *,
        holder: tuple[int, int] = (0, -1),
    ) -> tuple[tuple[Field, ...], int]:
        """Fields of a member or variable at `offset`; `wanted` is its size in a section, which the
        kernel compares. `holder`: the struct or variable, and the member's number, that say what
        a collection is of."""
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise _TooComplex(f"more than {_MAX_MEMBERS} members")
        count, type_id, inner = self._element(type_id)
        if not count:
            return (), 0
        height = 0
        if isinstance(inner, Struct):
            kind = _STRUCTS.get(inner.name)
            size = inner.size
            if kind is None:
                own, height = self._of_struct(type_id, inner, depth + 1)
                height += 1
            elif kind in COLLECTIONS:
                own = (self._collection(kind, size, *holder),)
            else:
                own = (Field(kind, 0, size),)
            if kind is FieldKind.SPIN_LOCK and (size != _LOCK_BYTES or offset % _LOCK_BYTES):
                own = ()  # what the kernel does not take for a lock
        elif isinstance(inner, Ptr):
            tag = self._btf.type(inner.type_id)
            if not isinstance(tag, TypeTag) or tag.name not in _TAGS:
                return (), 0
            size = POINTER_BYTES
            own = (Field(_TAGS[tag.name], 0, size, tag.type_id),)
        else:
            return (), 0
        if not own or (wanted is not None and wanted != size * count):
            return (), height
        _check_count(len(own) * count)
        starts = [offset + index * size for index in range(count)]
        moved = (replace(one, offset=at + one.offset) for at in starts for one in own)
        return tuple(moved), height

    def _collection(self, kind: FieldKind, size: int, holder: int, component: int) -> Field:
        """The root of a collection. A tag says of what: contains:STRUCT:MEMBER."""
        tags = self._tags.get((holder, component), ())
        parts = tags[0].removeprefix(_CONTAINS).split(":") if len(tags) == 1 else []
        if len(parts) != 2:
            raise _TooComplex(f"no single tag says what its {kind.value} holds")
        found = self._btf.find(parts[0], BtfKind.STRUCT)
        struct = self._btf.type(found) if found is not None else None
        if found is not None and isinstance(struct, Struct):
            for member in struct.members:
                node = self._btf.type(member.type_id)
                is_node = isinstance(node, Struct) and node.name == NODES[kind].value
                if member.name == parts[1] and is_node:
                    return Field(kind, 0, size, found, member.bit_offset // 8)
        raise _TooComplex(f"no node of its {kind.value} is called {parts[0]}.{parts[1]}")

    def _element(self, type_id: int) -> tuple[int, int, BtfType]:
        """What an array of arrays holds, and how many; anything else is one of itself."""
        count = 1
        for _ in range(MAX_CHAIN):
            inner = self._btf.type(type_id)
            if not isinstance(inner, Array):
                return count, type_id, inner
            count *= inner.count
            type_id = inner.element_id
        raise _TooComplex(f"arrays of more than {MAX_CHAIN} dimensions")


def _check_count(count: int) -> None:
    if count > MAX_FIELDS:
        raise _TooComplex(f"more than {MAX_FIELDS} fields that are the kernel's")


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _TooComplex(f"structs nested more than {_MAX_DEPTH} deep")


def check_field_access(
    fields: tuple[Field, ...], reg: Reg, low: int, high: int, size: int, *, direct: bool = False
) -> None:
    """An access of `size` bytes at offsets from `low` to `high` of a value touches no field.

    `direct`: it is a load or store, which may be of a whole kernel pointer."""
    for one in fields:
        if one.offset < high + size and low < one.offset + one.size:
            if one.kind in POINTERS and reg.map is not None:
                _check_whole_pointer(one, reg, low, size, direct=direct)
                continue
            if reg.map is None:
                raise forbidden(
                    Rule.OBJECT,
                    f"direct access to {one.kind.value} is disallowed",
                    reason=f"bytes {one.offset} to {one.offset + one.size - 1} of the object are a "
                    f"{one.kind.value}, which only the kernel's own functions touch",
                    culprit=reg,
                )
            raise forbidden(
                Rule.LOCK if one.kind in LOCKS else Rule.MAP_VALUE_ACCESS,
                f"{one.kind.value} cannot be accessed directly by load/store",
                reason=f"bytes {one.offset} to {one.offset + one.size - 1} of the value are a "
                f"struct {one.kind.value}, which only the kernel's own functions touch",
                culprit=reg,
            )


def _check_whole_pointer(one: Field, reg: Reg, low: int, size: int, *, direct: bool) -> None:
    name = one.kind.value
    if not direct:
        text = f"{name} cannot be accessed indirectly by helper"
    elif reg.var.mask:
        text = f"{name} access cannot have variable offset"
    elif low != one.offset:
        text = f"{name} access misaligned expected={one.offset} off={low}"
    elif size != POINTER_BYTES:
        text = f"{name} access size must be BPF_DW"
    else:
        return
    raise forbidden(
        Rule.KPTR,
        text,
        reason=f"bytes {one.offset} to {one.offset + one.size - 1} of the value are a kernel "
        "pointer, which is loaded as a whole and exchanged by bpf_kptr_xchg",
        culprit=reg,
    )


_HASHES = frozenset({MapType.HASH, MapType.LRU_HASH})
_STORAGE = frozenset(
    {
        MapType.SK_STORAGE,
        MapType.INODE_STORAGE,
        MapType.TASK_STORAGE,
        MapType.CGRP_STORAGE,
    }
)
_PERCPU = frozenset({MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH, MapType.PERCPU_ARRAY})
_LOCKED = _STORAGE | {MapType.HASH, MapType.ARRAY, MapType.CGROUP_STORAGE}
_CALLED_BACK = _HASHES | {MapType.ARRAY}
_LISTS = frozenset({MapType.HASH, MapType.LRU_HASH, MapType.ARRAY})
# Types of maps that can hold a field.
_HOLDERS: Mapping[FieldKind, frozenset[MapType]] = {
    FieldKind.SPIN_LOCK: _LOCKED,
    FieldKind.RES_SPIN_LOCK: _LOCKED,
    FieldKind.TIMER: _CALLED_BACK,
    FieldKind.WORKQUEUE: _CALLED_BACK,
    FieldKind.TASK_WORK: _CALLED_BACK,
    FieldKind.LIST_HEAD: _LISTS,
    FieldKind.RB_ROOT: _LISTS,
    FieldKind.KPTR_UNREF: _HASHES | _PERCPU | _STORAGE | {MapType.ARRAY},
    FieldKind.KPTR_REF: _HASHES | _PERCPU | _STORAGE | {MapType.ARRAY},
    FieldKind.KPTR_PERCPU: _HASHES | _PERCPU | _STORAGE | {MapType.ARRAY},
    FieldKind.UPTR: frozenset({MapType.TASK_STORAGE}),
}
_TRACING = frozenset({"kprobe", "tracepoint", "perf_event", "raw_tracepoint"})
_UNLOCKED_TYPES = {
    FieldKind.SPIN_LOCK: (_TRACING | {"socket_filter"}, "bpf_spin_lock"),
    FieldKind.RES_SPIN_LOCK: (_TRACING | {"socket_filter"}, "bpf_res_spin_lock"),
    FieldKind.TIMER: (_TRACING, "bpf_timer"),
    FieldKind.WORKQUEUE: (_TRACING, "bpf_wq"),
    FieldKind.LIST_HEAD: (_TRACING, "bpf_{list_head,rb_root}"),
    FieldKind.RB_ROOT: (_TRACING, "bpf_{list_head,rb_root}"),
}


def check_map_fields(fields: tuple[Field, ...], spec: MapSpec, type_name: str) -> None:
    """The map can be made with such fields, and programs of the type may use it."""
    for one in fields:
        if one.kind in _HOLDERS and spec.type not in _HOLDERS[one.kind]:
            raise forbidden(
                Rule.HELPER_ARG,
                f"map '{spec.name}' can not hold a {one.kind.value}",
                reason=f"the kernel makes no map of type {_map_type(spec)} with such a field",
            )
        if spec.flags & BPF_F_RDONLY_PROG:
            raise forbidden(
                Rule.READ_ONLY,
                f"map '{spec.name}' is read-only and holds a {one.kind.value}",
                reason="the kernel makes no such map",
            )
        types, name = _UNLOCKED_TYPES.get(one.kind, (frozenset(), ""))
        if type_name in types:
            who = "tracing progs" if type_name in _TRACING else "socket filter progs"
            raise forbidden(
                Rule.HELPER_NOT_ALLOWED,
                f"{who} cannot use {name} yet",
                reason=f"values of map {spec.name} hold a {one.kind.value}",
            )


def _map_type(spec: MapSpec) -> str:
    return spec.type.name if isinstance(spec.type, MapType) else str(spec.type)


def refused_maps(env: Environment) -> Iterator[tuple[int, Refused]]:
    """What is wrong with the maps that the code names: whether a path leads there or not."""
    seen: set[int] = set()
    for pc in env.pcs(Kind.LDDW):
        insn = env.code[pc]
        if insn.src not in _NAMES_MAP:
            continue
        index = insn.imm & U32
        if index in seen or index >= len(env.maps):
            continue
        seen.add(index)
        spec = env.maps[index]
        try:
            check_map_fields(env.fields(spec), spec, env.profile.name)
        except Refused as refused:
            yield pc, refused


_NAMES_MAP = (Pseudo.MAP_IDX, Pseudo.MAP_IDX_VALUE)
