"""Ordinary program types: sections, context, packet, helpers and return values of each.

What is in them is data of the modules beside this one; tests ask the running kernel for all of
it. Types whose context is not described (their arguments come from BTF) have no fields, and those
that can not be run here are only verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pybpfvm.profiles import contexts
from pybpfvm.profiles.availability import offered
from pybpfvm.profiles.base import PacketAccess, PacketRules, Profile, Sleepable
from pybpfvm.profiles.contexts import Fields
from pybpfvm.profiles.iouring_2021 import BASE_514
from pybpfvm.profiles.mainline import NUMBERS
from pybpfvm.profiles.sections import SECTIONS

# Mainline's numbers of the helpers that can be executed here.
MAINLINE_HELPERS: Mapping[int, str] = {
    **BASE_514,
    9: "skb_store_bytes",
    10: "l3_csum_replace",
    11: "l4_csum_replace",
    14: "get_current_pid_tgid",
    15: "get_current_uid_gid",
    16: "get_current_comm",
    26: "skb_load_bytes",
    28: "csum_diff",
    39: "skb_pull_data",
    105: "strtol",
    106: "strtoul",
    148: "copy_from_user",
    181: "loop",
    182: "strncmp",
    188: "xdp_get_buff_len",
    189: "xdp_load_bytes",
    190: "xdp_store_bytes",
    195: "map_lookup_percpu_elem",
}

_ETHERNET_BYTES = 14
_FRAME = PacketRules(writable=True, hidden_bytes=0, network_offset=_ETHERNET_BYTES)
_NETWORK_PACKET = PacketRules(writable=False, hidden_bytes=_ETHERNET_BYTES, network_offset=0)
_NONE, _READ, _WRITE = PacketAccess.NONE, PacketAccess.READ, PacketAccess.WRITE
_BOOLEAN = (0, 1)


@dataclass(frozen=True, slots=True)
class _Attach:
    """What the programs of one attach type do not share with the others of their type."""

    fields: Fields | None = None
    returns: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class _Type:
    """What one program type does not share with the others. `attach` by attach type; the first,
    if there is any, stands for the type where the section does not tell."""

    name: str
    number: int
    ctx_name: str
    ctx_bytes: int
    fields: Fields
    packet: PacketRules | None = None
    access: PacketAccess = _NONE
    returns: tuple[int, int] | None = None
    sleepable: Sleepable = Sleepable.NEVER
    packet_loads: bool = False
    runs: bool = False
    attach: Mapping[int, _Attach] | None = None


_V4, _V6 = contexts.SOCK_ADDR_V4, contexts.SOCK_ADDR_V6
_UNIX = contexts.SOCK_ADDR_UNIX
_ALWAYS = (1, 1)
# Attach types as in `sections`.
_SOCK_ADDR_ATTACH: Mapping[int, _Attach] = {
    10: _Attach(_V4, _BOOLEAN),
    11: _Attach(_V6, _BOOLEAN),
    8: _Attach(_V4, (0, 3)),
    9: _Attach(_V6, (0, 3)),
    14: _Attach(contexts.SOCK_ADDR_SENDMSG4, _BOOLEAN),
    15: _Attach(contexts.SOCK_ADDR_SENDMSG6, _BOOLEAN),
    **{number: _Attach(_V4, _ALWAYS) for number in (19, 29, 31)},
    **{number: _Attach(_V6, _ALWAYS) for number in (20, 30, 32)},
    **{number: _Attach(_UNIX, _BOOLEAN) for number in (49, 50)},
    **{number: _Attach(_UNIX, _ALWAYS) for number in (51, 52, 53)},
}
_TYPES = (
    _Type(
        "socket_filter",
        1,
        "__sk_buff",
        192,
        contexts.SK_BUFF_SOCKET_FILTER,
        _NETWORK_PACKET,
        packet_loads=True,
        runs=True,
    ),
    _Type(
        "kprobe",
        2,
        "pt_regs",
        168,
        contexts.PT_REGS,
        sleepable=Sleepable.OPTIONAL,
        runs=True,
        attach={
            0: _Attach(),
            42: _Attach(),
            48: _Attach(),
            56: _Attach(returns=_BOOLEAN),
            57: _Attach(returns=_BOOLEAN),
        },
    ),
    _Type(
        "sched_cls",
        3,
        "__sk_buff",
        192,
        contexts.SK_BUFF_CLS,
        _FRAME,
        _WRITE,
        packet_loads=True,
        runs=True,
    ),
    _Type(
        "sched_act",
        4,
        "__sk_buff",
        192,
        contexts.SK_BUFF_CLS,
        _FRAME,
        _WRITE,
        packet_loads=True,
        runs=True,
    ),
    _Type("tracepoint", 5, "void", 64, contexts.TRACE_RECORD, runs=True),
    _Type(
        "xdp",
        6,
        "xdp_md",
        24,
        contexts.XDP_MD,
        _FRAME,
        _WRITE,
        runs=True,
        attach={0: _Attach(), 33: _Attach(contexts.XDP_MD_DEVMAP), 35: _Attach()},
    ),
    _Type("perf_event", 7, "bpf_perf_event_data", 184, contexts.PERF_EVENT, runs=True),
    _Type(
        "cgroup_skb",
        8,
        "__sk_buff",
        192,
        contexts.SK_BUFF_CGROUP,
        _NETWORK_PACKET,
        _READ,
        _BOOLEAN,
        runs=True,
        attach={0: _Attach(), 1: _Attach(returns=(0, 3))},
    ),
    _Type(
        "cgroup_sock",
        9,
        "bpf_sock",
        80,
        contexts.CGROUP_SOCK_CREATE,
        returns=_BOOLEAN,
        attach={
            2: _Attach(),
            12: _Attach(contexts.CGROUP_SOCK_POST_BIND4),
            13: _Attach(contexts.CGROUP_SOCK_POST_BIND6),
            34: _Attach(),
        },
    ),
    _Type("lwt_in", 10, "__sk_buff", 192, contexts.SK_BUFF_LWT, access=_READ),
    _Type("lwt_out", 11, "__sk_buff", 192, contexts.SK_BUFF_LWT, access=_READ),
    _Type("lwt_xmit", 12, "__sk_buff", 192, contexts.SK_BUFF_LWT, access=_WRITE),
    _Type("sock_ops", 13, "bpf_sock_ops", 224, contexts.SOCK_OPS, returns=_BOOLEAN),
    _Type("sk_skb", 14, "__sk_buff", 192, contexts.SK_BUFF_SK_SKB, access=_WRITE),
    _Type("cgroup_device", 15, "bpf_cgroup_dev_ctx", 12, contexts.CGROUP_DEVICE, returns=_BOOLEAN),
    _Type("sk_msg", 16, "sk_msg_md", 80, contexts.SK_MSG, access=_WRITE),
    _Type("raw_tracepoint", 17, "bpf_raw_tracepoint_args", 96, contexts.RAW_TRACEPOINT, runs=True),
    _Type(
        "cgroup_sock_addr",
        18,
        "bpf_sock_addr",
        72,
        _V4,
        returns=_BOOLEAN,
        attach=_SOCK_ADDR_ATTACH,
    ),
    _Type("lwt_seg6local", 19, "__sk_buff", 192, contexts.SK_BUFF_LWT, access=_READ),
    _Type(
        "sk_reuseport",
        21,
        "sk_reuseport_md",
        56,
        contexts.SK_REUSEPORT,
        access=_READ,
        attach={39: _Attach(), 40: _Attach()},
    ),
    _Type("flow_dissector", 22, "__sk_buff", 192, contexts.SK_BUFF_DISSECTOR, access=_READ),
    _Type("cgroup_sysctl", 23, "bpf_sysctl", 8, contexts.CGROUP_SYSCTL, returns=_BOOLEAN),
    _Type(
        "raw_tracepoint_writable",
        24,
        "bpf_raw_tracepoint_args",
        96,
        contexts.RAW_TRACEPOINT_WRITABLE,
    ),
    _Type(
        "cgroup_sockopt",
        25,
        "bpf_sockopt",
        40,
        contexts.GETSOCKOPT,
        access=PacketAccess.FREE,
        returns=_BOOLEAN,
        attach={21: _Attach(), 22: _Attach(contexts.SETSOCKOPT)},
    ),
    _Type("sk_lookup", 30, "bpf_sk_lookup", 72, contexts.SK_LOOKUP, returns=_BOOLEAN),
    _Type("syscall", 31, "void", 64, (), sleepable=Sleepable.REQUIRED, runs=True),
    _Type("netfilter", 32, "bpf_nf_ctx", 16, contexts.NETFILTER, returns=_BOOLEAN),
)

# Helpers that a kernel offers to these types only when it is built or booted that way.
_BY_CONFIGURATION: Mapping[str, tuple[str, ...]] = {
    "override_return": ("kprobe",),
    "probe_write_user": (
        *("kprobe", "tracepoint", "perf_event", "raw_tracepoint"),
        *("raw_tracepoint_writable", "syscall"),
    ),
}
# Attach types that programs must be loaded for, of types that do not come in several kinds.
_ONLY_ATTACH = {"sk_lookup": 36, "netfilter": 45}


def _helpers(name: str, attach_type: int) -> Mapping[int, str]:
    return {NUMBERS[helper]: helper for helper in offered(name, attach_type)}


def _profile(one: _Type) -> Profile:
    attach = one.attach or {}
    first = next(iter(attach), _ONLY_ATTACH.get(one.name, 0))
    profile = Profile(
        name=one.name,
        title=f"BPF_PROG_TYPE_{one.name.upper()}",
        prog_type=one.number,
        sections=SECTIONS[one.name],
        ctx_name=one.ctx_name,
        ctx_bytes=one.ctx_bytes,
        ctx_fields=one.fields,
        helpers=_helpers(one.name, first),
        returns=one.returns,
        sleepable=one.sleepable,
        packet=one.packet,
        missing_helpers={
            NUMBERS[helper]: helper
            for helper, types in _BY_CONFIGURATION.items()
            if one.name in types
        },
        packet_access=one.access,
        packet_loads=one.packet_loads,
        runs=one.runs,
        attach_type=first,
    )
    variants = tuple(
        replace(
            profile,
            ctx_fields=profile.ctx_fields if differs.fields is None else differs.fields,
            helpers=_helpers(one.name, number),
            returns=profile.returns if differs.returns is None else differs.returns,
            attach_type=number,
        )
        for number, differs in attach.items()
        if number != first
    )
    return replace(profile, variants=variants)


ORDINARY = tuple(_profile(one) for one in _TYPES)
RUN = tuple(profile for profile in ORDINARY if profile.runs)

# Types whose programs get objects of a kernel as BTF describes them.
_NOT_DESCRIBED = ("tracing", "struct_ops", "ext", "lsm", "lirc_mode2")


def profile_of_section(section: str) -> Profile | None:
    """The ordinary profile whose programs stand in sections of this name."""
    return next((one for one in ORDINARY if one.section_rule(section) is not None), None)


def unsupported_type(section: str) -> str | None:
    """The kernel's name of the program type of a section that this version does not run."""
    found = profile_of_section(section)
    if found is not None:
        return None if found.runs else found.title
    for name in _NOT_DESCRIBED:
        if any(rule.covers(section) for rule in SECTIONS[name]):
            return f"BPF_PROG_TYPE_{name.upper()}"
    return None
