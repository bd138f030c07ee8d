"""Which program type a section's name stands for: libbpf's table of sections, and the freer names
that it took before 1.0.

libbpf's documentation, "Program Types and ELF Sections". Attach types are numbers of
`enum bpf_attach_type` in linux/bpf.h; programs whose kernel part looks at none have 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pybpfvm.profiles.base import SectionRule

Rules = tuple[SectionRule, ...]


def _rules(*prefixes: str, attach_type: int = 0) -> Rules:
    """`name` alone stands for itself and `name/...`; a prefix that ends in / or * for whatever
    begins with it. What ends in .s, before that, is sleepable."""
    rules: list[SectionRule] = []
    for prefix in prefixes:
        sleepable = prefix.rstrip("/*").endswith(".s")
        if prefix.endswith(("/", "*")):
            rules.append(SectionRule(prefix.rstrip("*"), sleepable, attach_type=attach_type))
        else:
            rules += (
                SectionRule(prefix, sleepable, exact=True, attach_type=attach_type),
                SectionRule(f"{prefix}/", sleepable, attach_type=attach_type),
            )
    return tuple(rules)


def _exact(*names: str, attach_type: int = 0) -> Rules:
    return tuple(SectionRule(name, exact=True, attach_type=attach_type) for name in names)


def _each(names: Mapping[str, int]) -> Rules:
    """Rules of sections that have an attach type of their own."""
    return tuple(
        rule for name, number in names.items() for rule in _exact(name, attach_type=number)
    )


_PROBES: Iterable[tuple[str, int]] = (
    *((f"{way}probe", 0) for way in ("k", "kret", "u", "uret")),
    *((f"{way}probe.s", 0) for way in ("u", "uret")),
    ("kprobe.multi", 42),
    ("kretprobe.multi", 42),
    ("kprobe.session", 56),
    *((f"{way}probe.multi{s}", 48) for way in ("u", "uret") for s in ("", ".s")),
    *((f"uprobe.session{s}", 57) for s in ("", ".s")),
    *((name, 0) for name in ("ksyscall", "kretsyscall", "usdt", "usdt.s")),
)

SECTIONS: Mapping[str, Rules] = {
    "socket_filter": _rules("socket*"),
    "kprobe": tuple(rule for name, at in _PROBES for rule in _rules(name, attach_type=at)),
    "sched_cls": (
        *_each({"tcx/ingress": 46, "tcx/egress": 47, "netkit/primary": 54, "netkit/peer": 55}),
        *_rules("tc", "tcx", "netkit", "classifier*"),
    ),
    "sched_act": _rules("action*"),
    "tracepoint": _rules("tracepoint", "tp"),
    "xdp": (
        *_each({f"xdp{frags}/devmap": 33 for frags in ("", ".frags")}),
        *_each({f"xdp{frags}/cpumap": 35 for frags in ("", ".frags")}),
        *_each({"xdp_devmap": 33, "xdp_cpumap": 35}),
        *_rules("xdp*"),
    ),
    "perf_event": _rules("perf_event"),
    "cgroup_skb": (
        *_each({"cgroup_skb/egress": 1}),
        *_rules("cgroup_skb", "cgroup/skb"),
    ),
    "cgroup_sock": _each(
        {
            "cgroup/sock_create": 2,
            "cgroup/sock": 2,
            "cgroup/post_bind4": 12,
            "cgroup/post_bind6": 13,
            "cgroup/sock_release": 34,
        }
    ),
    "lwt_in": _rules("lwt_in"),
    "lwt_out": _rules("lwt_out"),
    "lwt_xmit": _rules("lwt_xmit"),
    "sock_ops": _rules("sockops"),
    "sk_skb": (
        *_each({"sk_skb/stream_parser": 4, "sk_skb/stream_verdict": 5, "sk_skb/verdict": 38}),
        *_rules("sk_skb"),
    ),
    "cgroup_device": _rules("cgroup/dev"),
    "sk_msg": _rules("sk_msg", attach_type=7),
    "raw_tracepoint": _rules("raw_tp", "raw_tracepoint"),
    "cgroup_sock_addr": _each(
        {
            "cgroup/bind4": 8,
            "cgroup/bind6": 9,
            "cgroup/connect4": 10,
            "cgroup/connect6": 11,
            "cgroup/sendmsg4": 14,
            "cgroup/sendmsg6": 15,
            "cgroup/recvmsg4": 19,
            "cgroup/recvmsg6": 20,
            "cgroup/getpeername4": 29,
            "cgroup/getpeername6": 30,
            "cgroup/getsockname4": 31,
            "cgroup/getsockname6": 32,
            "cgroup/connect_unix": 49,
            "cgroup/sendmsg_unix": 50,
            "cgroup/recvmsg_unix": 51,
            "cgroup/getpeername_unix": 52,
            "cgroup/getsockname_unix": 53,
        }
    ),
    "lwt_seg6local": _rules("lwt_seg6local"),
    "lirc_mode2": _rules("lirc_mode2"),
    "sk_reuseport": (
        *_each({"sk_reuseport/migrate": 40}),
        *_rules("sk_reuseport", attach_type=39),
    ),
    "flow_dissector": _rules("flow_dissector", attach_type=17),
    "cgroup_sysctl": _rules("cgroup/sysctl", attach_type=18),
    "raw_tracepoint_writable": _rules("raw_tp.w", "raw_tracepoint.w"),
    "cgroup_sockopt": _each({"cgroup/getsockopt": 21, "cgroup/setsockopt": 22}),
    "tracing": (
        *(r for s in ("", ".s") for r in _rules(f"fentry{s}", attach_type=24)),
        *(r for s in ("", ".s") for r in _rules(f"fexit{s}", attach_type=25)),
        *(r for s in ("", ".s") for r in _rules(f"fmod_ret{s}", attach_type=26)),
        *_rules("tp_btf", attach_type=23),
        *(r for s in ("", ".s") for r in _rules(f"iter{s}", attach_type=28)),
    ),
    "struct_ops": (*_rules("struct_ops.s"), *_rules("struct_ops")),
    "ext": _rules("freplace"),
    "lsm": (
        *_rules("lsm_cgroup", attach_type=43),
        *(r for s in ("", ".s") for r in _rules(f"lsm{s}", attach_type=27)),
    ),
    "sk_lookup": _rules("sk_lookup", attach_type=36),
    "syscall": (SectionRule("syscall", sleepable=True, exact=True),),
    "netfilter": _rules("netfilter", attach_type=45),
}
