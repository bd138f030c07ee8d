"""Which helpers work on which types of map, and what of a map's value is the kernel's own."""

from __future__ import annotations

from collections.abc import Mapping

from pybpfvm.btf.types import Array, Btf, Ptr, Struct, TypeTag, Union
from pybpfvm.program import BPF_F_RDONLY_PROG, MapSpec, MapType
from pybpfvm.verifier.refusal import forbidden, unsupported
from pybpfvm.verifier.verdict import Rule

_ELEMENTS = frozenset({"map_lookup_elem", "map_update_elem", "map_delete_elem"})
_QUEUE = frozenset({"map_push_elem", "map_pop_elem", "map_peek_elem"})
_EACH = frozenset({"for_each_map_elem"})
_PERCPU = frozenset({"map_lookup_percpu_elem"})

# What each type of map offers; types that are not here are not supported.
_OFFERED: Mapping[int, frozenset[str]] = {
    MapType.HASH: _ELEMENTS | _EACH,
    MapType.ARRAY: _ELEMENTS | _EACH,
    MapType.PERCPU_HASH: _ELEMENTS | _EACH | _PERCPU,
    MapType.PERCPU_ARRAY: _ELEMENTS | _EACH | _PERCPU,
    MapType.LRU_HASH: _ELEMENTS | _EACH,
    MapType.LRU_PERCPU_HASH: _ELEMENTS | _EACH | _PERCPU,
    MapType.LPM_TRIE: _ELEMENTS,
    MapType.QUEUE: _QUEUE,
    MapType.STACK: _QUEUE,
    MapType.RINGBUF: frozenset({"ringbuf_output", "ringbuf_reserve", "ringbuf_query"}),
    MapType.PROG_ARRAY: frozenset({"tail_call"}),
    MapType.ARRAY_OF_MAPS: frozenset({"map_lookup_elem"}),
    MapType.HASH_OF_MAPS: frozenset({"map_lookup_elem"}),
    MapType.STACK_TRACE: frozenset({"get_stackid"}),
    MapType.PERF_EVENT_ARRAY: frozenset(
        {"perf_event_read", "perf_event_output", "perf_event_read_value"}
    ),
}
_CHANGING = frozenset({"map_update_elem", "map_delete_elem", "map_push_elem", "map_pop_elem"})

# Types that the kernel gives a meaning inside map values.
_SPECIAL = frozenset(
    {
        "bpf_spin_lock",
        "bpf_res_spin_lock",
        "bpf_timer",
        "bpf_wq",
        "bpf_task_work",
        "bpf_list_head",
        "bpf_list_node",
        "bpf_rb_root",
        "bpf_rb_node",
        "bpf_refcount",
    }
)
_MAX_TYPES = 10_000


def check_map_helper(spec: MapSpec, helper: str) -> None:
    """The helper works on maps of this type, and the map's flags allow it."""
    offered = _OFFERED.get(spec.type)
    if offered is None:
        name = spec.type.name if isinstance(spec.type, MapType) else str(spec.type)
        raise unsupported(f"maps of type {name} ({spec.name})")
    if helper not in offered:
        raise forbidden(
            Rule.HELPER_ARG,
            f"cannot pass map_type {int(spec.type)} into func bpf_{helper}",
            reason=f"map {spec.name} is a {MapType(spec.type).name.lower()}, "
            f"which works with {', '.join(sorted(offered))}",
        )
    if helper in _CHANGING and spec.flags & BPF_F_RDONLY_PROG:
        raise forbidden(
            Rule.READ_ONLY,
            "write into map forbidden",
            reason=f"map {spec.name} was made with BPF_F_RDONLY_PROG",
        )


def special_field(btf: Btf | None, spec: MapSpec) -> str | None:
    """A field of the map's value that is the kernel's (a lock, timer, kernel pointer), or None."""
    if btf is None or not spec.btf_value_type_id:
        return None
    seen: set[int] = set()
    work = [spec.btf_value_type_id]
    while work and len(seen) < _MAX_TYPES:
        type_id = work.pop()
        if type_id in seen or not type_id:
            continue
        seen.add(type_id)
        found = btf.type(type_id)
        name = getattr(found, "name", "")
        if isinstance(found, Struct) and name in _SPECIAL:
            return name
        if isinstance(found, TypeTag) and name in ("kptr", "kptr_untrusted", "percpu_kptr", "uptr"):
            return name
        if isinstance(found, (Struct, Union)):
            work.extend(member.type_id for member in found.members)
        elif isinstance(found, Array):
            work.append(found.element_id)
        elif isinstance(found, Ptr):
            # Only tags stand between a pointer and being the kernel's.
            if isinstance(btf.type(found.type_id), TypeTag):
                work.append(found.type_id)
        else:
            work.append(getattr(found, "type_id", 0))
    return None
