"""Ordinary program types, as far as running them once needs: sections, number, context size.

Their context fields and helper sets belong to the verifier and are not described yet; such
programs run with every helper of the table, over a context or packet that the caller gives.
"""

from __future__ import annotations

from collections.abc import Mapping

from pybpfvm.profiles.base import Profile, SectionRule, Sleepable
from pybpfvm.profiles.iouring_2021 import BASE_514

# (name, type number, section prefixes, context struct, context bytes)
_TYPES: tuple[tuple[str, int, tuple[str, ...], str, int], ...] = (
    ("socket_filter", 1, ("socket",), "__sk_buff", 192),
    ("kprobe", 2, ("kprobe", "kretprobe", "uprobe", "uretprobe"), "pt_regs", 168),
    ("sched_cls", 3, ("tc", "classifier", "tcx/"), "__sk_buff", 192),
    ("tracepoint", 5, ("tracepoint/", "tp/"), "void", 64),
    ("xdp", 6, ("xdp",), "xdp_md", 24),
    ("perf_event", 7, ("perf_event",), "bpf_perf_event_data", 184),
    ("cgroup_skb", 8, ("cgroup_skb", "cgroup/skb"), "__sk_buff", 192),
    ("raw_tracepoint", 17, ("raw_tp", "raw_tracepoint"), "bpf_raw_tracepoint_args", 64),
    ("syscall", 31, ("syscall",), "void", 64),
)

# Mainline's numbers of the helpers that the table implements.
MAINLINE_HELPERS: Mapping[int, str] = {
    **BASE_514,
    105: "strtol",
    106: "strtoul",
    148: "copy_from_user",
    181: "loop",
    195: "map_lookup_percpu_elem",
}

ORDINARY = tuple(
    Profile(
        name=name,
        title=f"BPF_PROG_TYPE_{name.upper()}",
        prog_type=number,
        sections=tuple(SectionRule(prefix, sleepable=name == "syscall") for prefix in prefixes),
        ctx_name=ctx_name,
        ctx_bytes=ctx_bytes,
        ctx_fields=(),
        helpers=MAINLINE_HELPERS,
        returns=None,
        sleepable=Sleepable.OPTIONAL if name == "syscall" else Sleepable.NEVER,
    )
    for name, number, prefixes, ctx_name, ctx_bytes in _TYPES
)
