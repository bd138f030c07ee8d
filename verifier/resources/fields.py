"""What programs may do with fields of map values and objects that are the kernel's own.

Which fields those are is `pybpfvm.btf.kernelfields`' to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pybpfvm.btf import kernelfields
from pybpfvm.btf.kernelfields import LOCKS, POINTERS, Field, FieldKind
from pybpfvm.btf.types import POINTER_BYTES, Btf, Struct
from pybpfvm.errors import InputError
from pybpfvm.program import BPF_F_RDONLY_PROG, MapSpec, MapType
from pybpfvm.verifier.refusal import Refused, forbidden, unsupported
from pybpfvm.verifier.states.regstate import Reg
from pybpfvm.verifier.verdict import Rule

if TYPE_CHECKING:
    from pybpfvm.verifier.environment import Environment


def fields_of(btf: Btf | None, spec: MapSpec) -> tuple[Field, ...]:
    """The kernel's fields in the values of a map, by offset.

    Raises Refused (unsupported) for a type that can not be followed, or that has too many.
    """
    if not spec.btf_value_type_id:
        return ()
    if btf is None:
        raise unsupported(f"map '{spec.name}' with values of a BTF type, but without the BTF")
    try:
        return kernelfields.value_fields(btf, spec.btf_value_type_id)
    except InputError as error:
        what = error.reason
    raise unsupported(f"map '{spec.name}' with values of BTF type {spec.btf_value_type_id}: {what}")


def object_fields(btf: Btf, type_id: int) -> tuple[Field, ...]:
    """The kernel's fields in objects of a struct, which programs make for themselves.

    Raises Refused (unsupported) for one that can not be followed, or that has too many of one kind.
    """
    try:
        found = kernelfields.object_fields(btf, type_id)
    except InputError as error:
        raise unsupported(f"objects of BTF type {type_id}: {error.reason}") from None
    struct = btf.type(type_id)
    return unique(found, f"objects of struct {struct.name if isinstance(struct, Struct) else ''}")


def unique(fields: tuple[Field, ...], what: str) -> tuple[Field, ...]:
    """The fields of `what`. Refused as unsupported where two of them can not be together."""
    if too_many := kernelfields.several(fields):
        raise unsupported(f"{what} with several {too_many}")
    return fields


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
    FieldKind.REFCOUNT: _HASHES | _PERCPU | _STORAGE | {MapType.ARRAY},
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
    """What is wrong with the maps that the code names, and where."""
    for pc, spec in env.named_maps():
        try:
            check_map_fields(env.fields(spec), spec, env.profile.name)
        except Refused as refused:
            yield pc, refused
