"""Which helpers work on which types of map."""

from __future__ import annotations

from collections.abc import Mapping

from pybpfvm.program import BPF_F_RDONLY_PROG, MapSpec, MapType
from pybpfvm.verifier.refusal import forbidden, unsupported
from pybpfvm.verifier.verdict import Rule

_ELEMENTS = frozenset({"map_lookup_elem", "map_update_elem", "map_delete_elem"})
_QUEUE = frozenset({"map_push_elem", "map_pop_elem", "map_peek_elem"})
_EACH = frozenset({"for_each_map_elem"})
_DEVICES = frozenset({"redirect_map", "map_lookup_elem"})
_SOCKETS = _ELEMENTS | frozenset({"sk_select_reuseport"})
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
    MapType.RINGBUF: frozenset(
        {"ringbuf_output", "ringbuf_reserve", "ringbuf_query", "ringbuf_reserve_dynptr"}
    ),
    MapType.USER_RINGBUF: frozenset({"user_ringbuf_drain"}),
    MapType.BLOOM_FILTER: frozenset({"map_push_elem", "map_peek_elem"}),
    MapType.PROG_ARRAY: frozenset({"tail_call"}),
    MapType.ARRAY_OF_MAPS: frozenset({"map_lookup_elem"}),
    MapType.HASH_OF_MAPS: frozenset({"map_lookup_elem"}),
    MapType.STACK_TRACE: frozenset({"get_stackid"}),
    MapType.PERF_EVENT_ARRAY: frozenset(
        {"perf_event_read", "perf_event_output", "perf_event_read_value", "skb_output"}
        | {"xdp_output"}
    ),
    MapType.CGROUP_ARRAY: frozenset({"skb_under_cgroup", "current_task_under_cgroup"}),
    MapType.CGROUP_STORAGE: frozenset({"get_local_storage"}),
    MapType.PERCPU_CGROUP_STORAGE: frozenset({"get_local_storage"}),
    MapType.DEVMAP: _DEVICES,
    MapType.DEVMAP_HASH: _DEVICES,
    MapType.CPUMAP: frozenset({"redirect_map"}),
    MapType.XSKMAP: _DEVICES,
    MapType.SOCKMAP: _SOCKETS | {"sk_redirect_map", "sock_map_update", "msg_redirect_map"},
    MapType.SOCKHASH: _SOCKETS | {"sk_redirect_hash", "sock_hash_update", "msg_redirect_hash"},
    MapType.REUSEPORT_SOCKARRAY: frozenset({"sk_select_reuseport"}),
    MapType.SK_STORAGE: frozenset({"sk_storage_get", "sk_storage_delete", "kptr_xchg"}),
    MapType.TASK_STORAGE: frozenset({"task_storage_get", "task_storage_delete", "kptr_xchg"}),
    MapType.INODE_STORAGE: frozenset({"inode_storage_get", "inode_storage_delete", "kptr_xchg"}),
    MapType.CGRP_STORAGE: frozenset({"cgrp_storage_get", "cgrp_storage_delete", "kptr_xchg"}),
}
_CHANGING = frozenset({"map_update_elem", "map_delete_elem", "map_push_elem", "map_pop_elem"})


# Types whose programs may change socket maps by the ordinary helpers.
_SOCKET_MAPS = frozenset({MapType.SOCKMAP, MapType.SOCKHASH})
_MAY_UPDATE_SOCKETS = frozenset(
    {"socket_filter", "sched_cls", "sched_act", "xdp", "sk_reuseport", "flow_dissector"}
    | {"sk_lookup"}
)
_MAY_CHANGE_SOCKETS: Mapping[str, frozenset[str]] = {
    "map_update_elem": _MAY_UPDATE_SOCKETS,
    "map_delete_elem": _MAY_UPDATE_SOCKETS | {"sock_ops"},
}
# Maps that a sleepable program may use at all.
_FOR_SLEEPABLE = frozenset(
    {
        MapType.HASH,
        MapType.ARRAY,
        MapType.PERCPU_HASH,
        MapType.PERCPU_ARRAY,
        MapType.LRU_HASH,
        MapType.LRU_PERCPU_HASH,
        MapType.ARRAY_OF_MAPS,
        MapType.HASH_OF_MAPS,
        MapType.QUEUE,
        MapType.STACK,
        MapType.RINGBUF,
        MapType.USER_RINGBUF,
        MapType.SK_STORAGE,
        MapType.TASK_STORAGE,
        MapType.INODE_STORAGE,
        MapType.CGRP_STORAGE,
        MapType.ARENA,
    }
)


def check_map_for_sleepable(spec: MapSpec) -> None:
    """Sleepable programs use only maps that are safe where programs may sleep."""
    if spec.type not in _FOR_SLEEPABLE:
        raise forbidden(
            Rule.HELPER_ARG,
            "Sleepable programs can only use array, hash, ringbuf and local storage maps",
            reason=f"the program is sleepable, and map {spec.name} is of another type",
        )


def takes_sockets(spec: MapSpec) -> bool:
    """Whether what is put into the map is a socket."""
    return spec.type in _SOCKET_MAPS


def check_map_helper(spec: MapSpec, helper: str, program_type: str) -> None:
    """The helper works on maps of this type in such programs, and the map's flags allow it."""
    offered = _OFFERED.get(spec.type)
    if offered is None:
        name = spec.type.name if isinstance(spec.type, MapType) else str(spec.type)
        raise unsupported(f"maps of type {name} ({spec.name})")
    may = _MAY_CHANGE_SOCKETS.get(helper) if spec.type in _SOCKET_MAPS else None
    if may is not None and program_type == "tracing":
        raise unsupported(f"changing socket maps in tracing programs ({spec.name})")
    if helper not in offered or (may is not None and program_type not in may):
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


def offered_by_maps(map_type: int) -> frozenset[str]:
    """The helpers that work on maps of this type."""
    return _OFFERED.get(map_type, frozenset())
