"""Fields of map values that are the kernel's own: locks, timers, work queues, kernel pointers, ...

Which ones a map's values have is said by the BTF of their type: fields of these types, in the
struct itself, in structs inside it and in arrays of such. As the kernel looks for them, names
behind a typedef, qualifiers and unions hide a field: then it is plain memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from pybpfvm.bits import U32
from pybpfvm.btf.types import Array, Btf, Ptr, Struct, TypeTag
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.program import BPF_F_RDONLY_PROG, MapSpec, MapType
from pybpfvm.verifier.refusal import Refused, forbidden, unsupported
from pybpfvm.verifier.regstate import Reg
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
    """One field, `size` bytes at `offset`. `btf_id` is the type that a kernel pointer is to."""

    kind: FieldKind
    offset: int
    size: int
    btf_id: int = 0


_MAX_FIELDS = 256
_MAX_DEPTH = 16


def fields_of(btf: Btf | None, spec: MapSpec) -> tuple[Field, ...]:
    """The kernel's fields in the values of a map, by offset."""
    if btf is None or not spec.btf_value_type_id or spec.btf_value_type_id not in btf:
        return ()
    found: list[Field] = []
    # (type id, offset of the type in the value, how deep it is nested)
    work = [(spec.btf_value_type_id, 0, 0)]
    while work and len(found) < _MAX_FIELDS:
        type_id, offset, depth = work.pop()
        struct = btf.type(type_id)
        if not isinstance(struct, Struct) or depth > _MAX_DEPTH:
            continue
        for member in struct.members:
            if member.bit_offset % 8 == 0:
                _look(btf, member.type_id, offset + member.bit_offset // 8, depth, found, work)
    return tuple(sorted(found, key=lambda one: one.offset))


def _look(
    btf: Btf,
    type_id: int,
    offset: int,
    depth: int,
    found: list[Field],
    work: list[tuple[int, int, int]],
) -> None:
    """One member: note a field, or the structs to look into."""
    count = 1
    inner = btf.type(type_id)
    for _ in range(_MAX_DEPTH):
        if not isinstance(inner, Array):
            break
        count *= inner.count
        type_id = inner.element_id
        inner = btf.type(type_id)
    count = min(count, _MAX_FIELDS)
    if isinstance(inner, Struct):
        kind = _STRUCTS.get(inner.name)
        for index in range(count):
            at = offset + index * inner.size
            if kind is not None:
                found.append(Field(kind, at, inner.size))
            elif len(work) < _MAX_FIELDS:
                work.append((type_id, at, depth + 1))
    elif isinstance(inner, Ptr):
        tag = btf.type(inner.type_id)
        if isinstance(tag, TypeTag) and tag.name in _TAGS:
            found += (
                Field(_TAGS[tag.name], offset + index * 8, 8, tag.type_id) for index in range(count)
            )


def check_field_access(fields: tuple[Field, ...], reg: Reg, low: int, high: int, size: int) -> None:
    """An access of `size` bytes at offsets from `low` to `high` of a value touches no field."""
    for one in fields:
        if one.offset < high + size and low < one.offset + one.size:
            if one.kind in POINTERS:
                raise unsupported("kernel pointers (kptr) in map values")
            raise forbidden(
                Rule.LOCK if one.kind in LOCKS else Rule.MAP_VALUE_ACCESS,
                f"{one.kind.value} cannot be accessed directly by load/store",
                reason=f"bytes {one.offset} to {one.offset + one.size - 1} of the value are a "
                f"struct {one.kind.value}, which only the kernel's own functions touch",
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
    for pc, insn in env.code.items():
        if insn.spec.kind is not Kind.LDDW or insn.src not in _NAMES_MAP:
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
