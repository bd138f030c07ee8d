"""Fields of values and objects that are the kernel's own: locks, timers, kernel pointers, ...

Which ones there are is said by the BTF of the type: fields of these types, in the struct itself (or
the variables of a data section), in structs inside it and in arrays of such. As the kernel looks
for them, names behind a typedef, qualifiers and unions hide a field: then it is plain memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

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


def value_fields(btf: Btf, type_id: int) -> tuple[Field, ...]:
    """The kernel's fields in a map's values of this type, by offset.

    Raises InputError for a type that can not be followed, or that has too many.
    """
    return _Walk(btf).of_value(type_id)


# Of these a value or object has one at most. A value with more has no fields at all to the kernel.
_UNIQUE = frozenset({FieldKind.TIMER, FieldKind.WORKQUEUE, FieldKind.TASK_WORK, FieldKind.REFCOUNT})


def several(fields: tuple[Field, ...]) -> str:
    """Which of the fields can not be together, "" where all can."""
    kinds = [one.kind for one in fields]
    if sum(kind in LOCKS for kind in kinds) > 1:
        return "locks"
    return next((kind.value for kind in _UNIQUE if kinds.count(kind) > 1), "")


def copied_around(btf: Btf | None, type_id: int) -> tuple[Field, ...]:
    """Fields of a map's values that are left out where a value is copied into the map or out of
    it. None where the kernel takes the whole value for plain memory, as it does with a type
    that `value_fields` does not follow. Nodes are fields of programs' objects only: in values
    they are plain memory, too. Measured on Linux 6.18.
    """
    if btf is None or not type_id:
        return ()
    try:
        fields = value_fields(btf, type_id)
    except InputError:
        return ()
    if several(fields):
        return ()
    return tuple(one for one in fields if one.kind not in NODES.values())


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

    Raises InputError for one that can not be followed. Kernels look for fields in those structs
    only that have one themselves, not only in structs or arrays inside.
    """
    walk = _Walk(btf)
    found = tuple(one for one in walk.of_value(type_id) if one.kind in _OF_OBJECTS)
    struct = btf.type(type_id)
    if not found or not isinstance(struct, Struct):
        return ()
    if not walk.has_own(struct):
        raise InputError("the kernel's fields are in structs or arrays inside only")
    return found


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
                raise InputError(f"struct {struct.name} contains itself")
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
            raise InputError(f"more than {_MAX_MEMBERS} members")
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
            raise InputError(f"no single tag says what its {kind.value} holds")
        found = self._btf.find(parts[0], BtfKind.STRUCT)
        struct = self._btf.type(found) if found is not None else None
        if found is not None and isinstance(struct, Struct):
            for member in struct.members:
                node = self._btf.type(member.type_id)
                is_node = isinstance(node, Struct) and node.name == NODES[kind].value
                if member.name == parts[1] and is_node:
                    return Field(kind, 0, size, found, member.bit_offset // 8)
        raise InputError(f"no node of its {kind.value} is called {parts[0]}.{parts[1]}")

    def _element(self, type_id: int) -> tuple[int, int, BtfType]:
        """What an array of arrays holds, and how many; anything else is one of itself."""
        count = 1
        for _ in range(MAX_CHAIN):
            inner = self._btf.type(type_id)
            if not isinstance(inner, Array):
                return count, type_id, inner
            count *= inner.count
            type_id = inner.element_id
        raise InputError(f"arrays of more than {MAX_CHAIN} dimensions")


def _check_count(count: int) -> None:
    if count > MAX_FIELDS:
        raise InputError(f"more than {MAX_FIELDS} fields that are the kernel's")


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise InputError(f"structs nested more than {_MAX_DEPTH} deep")
