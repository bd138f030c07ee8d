"""Ordinary program types, as far as running them once needs: sections, context, packet, helpers.

Contexts are the structures of linux/bpf.h; who may read or write which field is what a kernel
(6.18) answers, and tests ask it. `cb` and the argument arrays are one field each here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pybpfvm.profiles.base import (
    CtxField,
    CtxHolds,
    CtxParts,
    PacketRules,
    Profile,
    SectionRule,
    Sleepable,
)
from pybpfvm.profiles.detect import matching_section
from pybpfvm.profiles.iouring_2021 import BASE_514
from pybpfvm.profiles.mainline import MAINLINE_NAMES

_COMMON: Mapping[int, str] = {
    **BASE_514,
    14: "get_current_pid_tgid",
    15: "get_current_uid_gid",
    16: "get_current_comm",
    105: "strtol",
    106: "strtoul",
    148: "copy_from_user",
    181: "loop",
    182: "strncmp",
    195: "map_lookup_percpu_elem",
}
_SKB_READ: Mapping[int, str] = {26: "skb_load_bytes"}
_SKB: Mapping[int, str] = {
    **_SKB_READ,
    9: "skb_store_bytes",
    10: "l3_csum_replace",
    11: "l4_csum_replace",
    28: "csum_diff",
    39: "skb_pull_data",
}
_XDP: Mapping[int, str] = {
    28: "csum_diff",
    188: "xdp_get_buff_len",
    189: "xdp_load_bytes",
    190: "xdp_store_bytes",
}

# Mainline's numbers of all helpers that the table implements.
MAINLINE_HELPERS: Mapping[int, str] = {**_COMMON, **_SKB, **_XDP}
_MISSING: Mapping[int, str] = {
    number: name
    for number, name in MAINLINE_NAMES.items()
    if number and number not in MAINLINE_HELPERS
}

_ETHERNET_BYTES = 14
_FRAME = PacketRules(writable=True, hidden_bytes=0, network_offset=_ETHERNET_BYTES)
_NETWORK_PACKET = PacketRules(writable=False, hidden_bytes=_ETHERNET_BYTES, network_offset=0)
_LOOPBACK_IFINDEX = 1  # where the packets of test runs come from


def _word(name: str, offset: int, holds: CtxHolds = CtxHolds.GIVEN, default: int = 0) -> CtxField:
    return CtxField(name, offset, 4, False, CtxParts.READ, holds, default)


def _pointer(name: str, offset: int, holds: CtxHolds) -> CtxField:
    return CtxField(name, offset, 4, False, CtxParts.WHOLE, holds)


def _address(name: str, offset: int) -> CtxField:
    return CtxField(name, offset, 4, False, CtxParts.WHOLE, CtxHolds.KERNEL_OBJECT)


_XDP_MD = (
    _pointer("data", 0, CtxHolds.DATA),
    _pointer("data_end", 4, CtxHolds.DATA_END),
    _pointer("data_meta", 8, CtxHolds.DATA_META),
    CtxField("ingress_ifindex", 12, 4, False, default=_LOOPBACK_IFINDEX),
    CtxField("rx_queue_index", 16, 4, False),
    CtxField("egress_ifindex", 20, 4, False, holds=CtxHolds.KERNEL_OBJECT),
)

_SK_BUFF = (
    _word("len", 0, CtxHolds.LENGTH),
    _word("pkt_type", 4, CtxHolds.PACKET_TYPE),
    _word("mark", 8),
    _word("queue_mapping", 12),
    _word("protocol", 16, CtxHolds.PROTOCOL),
    _word("vlan_present", 20),
    _word("vlan_tci", 24),
    _word("vlan_proto", 28),
    _word("priority", 32),
    _word("ingress_ifindex", 36),
    _word("ifindex", 40, default=_LOOPBACK_IFINDEX),
    _word("tc_index", 44),
    CtxField("cb", 48, 20, True, CtxParts.ANY),
    _word("hash", 68),
    _word("tc_classid", 72),
    _pointer("data", 76, CtxHolds.DATA),
    _pointer("data_end", 80, CtxHolds.DATA_END),
    _word("napi_id", 84),
    _word("family", 88, CtxHolds.KERNEL_OBJECT),
    # Addresses are read by whole words only.
    _address("remote_ip4", 92),
    _address("local_ip4", 96),
    *(_address(f"remote_ip6[{i}]", 100 + 4 * i) for i in range(4)),
    *(_address(f"local_ip6[{i}]", 116 + 4 * i) for i in range(4)),
    _word("remote_port", 132, CtxHolds.KERNEL_OBJECT),
    _word("local_port", 136, CtxHolds.KERNEL_OBJECT),
    _pointer("data_meta", 140, CtxHolds.DATA_META),
    CtxField("tstamp", 152, 8, False),
    _word("wire_len", 160),
    _word("gso_segs", 164),
    CtxField("sk", 168, 8, False, CtxParts.WHOLE, CtxHolds.KERNEL_OBJECT),
    _word("gso_size", 176),
    CtxField("tstamp_type", 180, 1, False),
    CtxField("hwtstamp", 184, 8, False),
)
_SOCKET_FIELDS = frozenset(one.name for one in _SK_BUFF if 88 <= one.offset < 140)


def _sk_buff(without: frozenset[str], writable: frozenset[str]) -> tuple[CtxField, ...]:
    return tuple(
        replace(one, writable=one.writable or one.name in writable)
        for one in _SK_BUFF
        if one.name not in without
    )


_SOCKET_FILTER_FIELDS = _sk_buff(
    _SOCKET_FIELDS
    | {"tc_classid", "data", "data_end", "data_meta", "tstamp", "wire_len", "tstamp_type"}
    | {"hwtstamp"},
    frozenset(),
)
_CLS_FIELDS = _sk_buff(
    _SOCKET_FIELDS,
    frozenset({"mark", "tc_index", "priority", "tc_classid", "tstamp", "queue_mapping"}),
)
_CGROUP_SKB_FIELDS = _sk_buff(
    frozenset({"tc_classid", "data_meta", "wire_len", "tstamp_type"}),
    frozenset({"mark", "priority", "tstamp"}),
)


def _words(name: str, count: int, *, start: int = 0, writable: bool = False) -> CtxField:
    """`count` 64-bit words; any aligned part of them may be accessed."""
    return CtxField(name, start, 8 * count, writable, CtxParts.ANY)


def _registers(count: int) -> tuple[CtxField, ...]:
    """`count` saved registers, which can be read as a whole only."""
    return tuple(CtxField(f"reg{index}", 8 * index, 8, False) for index in range(count))


def _rules(*prefixes: str) -> tuple[SectionRule, ...]:
    """`name` alone stands for itself and `name/...`; a prefix that ends in / or * for whatever
    begins with it."""
    rules: list[SectionRule] = []
    for prefix in prefixes:
        if prefix.endswith(("/", "*")):
            rules.append(SectionRule(prefix.rstrip("*")))
        else:
            rules += (SectionRule(prefix, exact=True), SectionRule(f"{prefix}/"))
    return tuple(rules)


@dataclass(frozen=True, slots=True)
class _Type:
    """What one program type does not share with the others."""

    name: str
    number: int
    sections: tuple[SectionRule, ...]
    ctx_name: str
    ctx_bytes: int
    fields: tuple[CtxField, ...]
    helpers: Mapping[int, str]
    packet: PacketRules | None = None


# Sections are libbpf's, and the freer names that it took before 1.0.
_CLS_SECTIONS = _rules("tc", "tcx", "netkit", "classifier*")
_KPROBE_SECTIONS = _rules(
    *(f"{way}{kind}" for way in ("kprobe", "kretprobe") for kind in ("", ".multi", ".session")),
    *(f"{way}{kind}" for way in ("uprobe", "uretprobe") for kind in ("", ".multi", ".session")),
    *(f"{way}{kind}.s" for way in ("uprobe", "uretprobe") for kind in ("", ".multi", ".session")),
    "ksyscall",
    "kretsyscall",
    "usdt",
    "usdt.s",
)
_TYPES = (
    _Type(
        "socket_filter",
        1,
        _rules("socket*"),
        "__sk_buff",
        192,
        _SOCKET_FILTER_FIELDS,
        _SKB_READ,
        _NETWORK_PACKET,
    ),
    _Type("kprobe", 2, _KPROBE_SECTIONS, "pt_regs", 168, (_words("regs", 21),), {}),
    _Type("sched_cls", 3, _CLS_SECTIONS, "__sk_buff", 192, _CLS_FIELDS, _SKB, _FRAME),
    _Type("sched_act", 4, _rules("action*"), "__sk_buff", 192, _CLS_FIELDS, _SKB, _FRAME),
    _Type(
        "tracepoint",
        5,
        _rules("tracepoint", "tp"),
        "void",
        64,
        (_words("fields", 7, start=8),),
        {},
    ),
    _Type("xdp", 6, _rules("xdp*"), "xdp_md", 24, _XDP_MD, _XDP, _FRAME),
    _Type(
        "perf_event",
        7,
        _rules("perf_event"),
        "bpf_perf_event_data",
        184,
        (*_registers(21), _words("sample", 2, start=168)),
        {},
    ),
    _Type(
        "cgroup_skb",
        8,
        _rules("cgroup_skb", "cgroup/skb"),
        "__sk_buff",
        192,
        _CGROUP_SKB_FIELDS,
        _SKB_READ,
        _NETWORK_PACKET,
    ),
    _Type(
        "raw_tracepoint",
        17,
        _rules("raw_tp", "raw_tracepoint"),
        "bpf_raw_tracepoint_args",
        96,
        (_words("args", 12),),
        {},
    ),
    _Type(
        "syscall",
        31,
        (SectionRule("syscall", sleepable=True, exact=True),),
        "void",
        64,
        (),
        {},
    ),
)

ORDINARY = tuple(
    Profile(
        name=one.name,
        title=f"BPF_PROG_TYPE_{one.name.upper()}",
        prog_type=one.number,
        sections=one.sections,
        ctx_name=one.ctx_name,
        ctx_bytes=one.ctx_bytes,
        ctx_fields=one.fields,
        helpers={**_COMMON, **one.helpers},
        returns=None,
        sleepable=Sleepable.OPTIONAL if one.name == "syscall" else Sleepable.NEVER,
        packet=one.packet,
        missing_helpers=_MISSING,
    )
    for one in _TYPES
)

# Sections of types whose contexts are objects of a kernel, by what they begin with.
_NOT_RUN: Mapping[str, str] = {
    "fentry": "tracing",
    "fexit": "tracing",
    "fmod_ret": "tracing",
    "tp_btf": "tracing",
    "iter": "tracing",
    "freplace": "ext",
    "lsm": "lsm",
    "struct_ops": "struct_ops",
    "raw_tp.w": "raw_tracepoint_writable",
    "raw_tracepoint.w": "raw_tracepoint_writable",
    "lwt_in": "lwt_in",
    "lwt_out": "lwt_out",
    "lwt_xmit": "lwt_xmit",
    "lwt_seg6local": "lwt_seg6local",
    "sockops": "sock_ops",
    "sk_skb": "sk_skb",
    "sk_msg": "sk_msg",
    "sk_lookup": "sk_lookup",
    "sk_reuseport": "sk_reuseport",
    "flow_dissector": "flow_dissector",
    "lirc_mode2": "lirc_mode2",
    "netfilter": "netfilter",
    "cgroup/dev": "cgroup_device",
    "cgroup/sysctl": "cgroup_sysctl",
    "cgroup/getsockopt": "cgroup_sockopt",
    "cgroup/setsockopt": "cgroup_sockopt",
    "cgroup/sock": "cgroup_sock",
    "cgroup/post_bind": "cgroup_sock",
    "cgroup/": "cgroup_sock_addr",
}


def profile_of_section(section: str) -> Profile | None:
    """The ordinary profile whose programs stand in sections of this name."""
    return next((p for p in ORDINARY if matching_section(p, section) is not None), None)


def unsupported_type(section: str) -> str | None:
    """The kernel's name of the program type of a section that this version does not run."""
    found = max((p for p in _NOT_RUN if section.startswith(p)), key=len, default=None)
    if found is None or profile_of_section(section) is not None:
        return None
    return f"BPF_PROG_TYPE_{_NOT_RUN[found].upper()}"
