"""Which helpers work on which types of map."""

from __future__ import annotations

from collections.abc import Mapping

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
