"""Packets on their way: devices, tunnels, headers, control groups; sysctl and remote controls.

Prototypes only: what programs of the kinds that have these helpers pass and get. The facts are
those of linux/bpf.h and of what a kernel (6.18) answers; tests compare both.
"""

from __future__ import annotations

from pybpfvm.helpers.proto import ArgType, Helper, RetType

_CTX = ArgType.PTR_TO_CTX
_ANY = ArgType.ANYTHING
_MEM = ArgType.PTR_TO_MEM
_MEM_OR_NULL = ArgType.PTR_TO_MEM_OR_NULL
_OUT = ArgType.PTR_TO_UNINIT_MEM
_SIZE = ArgType.CONST_SIZE
_SIZE_OR_ZERO = ArgType.CONST_SIZE_OR_ZERO
_MAP = ArgType.CONST_MAP_PTR
_FIXED = ArgType.PTR_TO_FIXED_SIZE_MEM

ROWS = (
    Helper(
        "clone_redirect",
        (_CTX, _ANY, _ANY),
        RetType.INTEGER,
        None,
        "Send a copy of a packet to a device.",
        moves_packet=True,
    ),
    Helper("redirect", (_ANY, _ANY), RetType.INTEGER, None, "Send the packet to a device."),
    Helper(
        "redirect_map",
        (_MAP, _ANY, _ANY),
        RetType.INTEGER,
        None,
        "Send the packet to an entry of a map.",
    ),
    Helper(
        "redirect_neigh",
        (_ANY, _MEM_OR_NULL, _SIZE_OR_ZERO, _ANY),
        RetType.INTEGER,
        None,
        "Send the packet to a neighbour.",
    ),
    Helper(
        "redirect_peer", (_ANY, _ANY), RetType.INTEGER, None, "Send the packet to a device's peer."
    ),
    Helper(
        "skb_vlan_push",
        (_CTX, _ANY, _ANY),
        RetType.INTEGER,
        None,
        "Add a VLAN header.",
        moves_packet=True,
    ),
    Helper(
        "skb_vlan_pop", (_CTX,), RetType.INTEGER, None, "Take a VLAN header off.", moves_packet=True
    ),
    Helper(
        "skb_get_tunnel_key",
        (_CTX, _OUT, _SIZE, _ANY),
        RetType.INTEGER,
        None,
        "Read tunnel metadata.",
    ),
    Helper(
        "skb_set_tunnel_key",
        (_CTX, _MEM, _SIZE, _ANY),
        RetType.INTEGER,
        None,
        "Set tunnel metadata.",
    ),
    Helper(
        "skb_get_tunnel_opt", (_CTX, _OUT, _SIZE), RetType.INTEGER, None, "Read tunnel options."
    ),
    Helper("skb_set_tunnel_opt", (_CTX, _MEM, _SIZE), RetType.INTEGER, None, "Set tunnel options."),
    Helper("get_route_realm", (_CTX,), RetType.INTEGER, None, "The realm of a packet's route."),
    Helper(
        "get_cgroup_classid",
        (),
        RetType.INTEGER,
        None,
        "The net_cls class of the current task, or of a packet.",
        args_by_type={
            "sched_cls": (_CTX,),
            "sched_act": (_CTX,),
            "lwt_in": (_CTX,),
            "lwt_out": (_CTX,),
            "lwt_xmit": (_CTX,),
            "lwt_seg6local": (_CTX,),
        },
    ),
    Helper(
        "skb_cgroup_classid",
        (_CTX,),
        RetType.INTEGER,
        None,
        "The net_cls class of a packet's socket.",
    ),
    Helper(
        "skb_change_proto",
        (_CTX, _ANY, _ANY),
        RetType.INTEGER,
        None,
        "Change a packet from IPv4 to IPv6 or back.",
        moves_packet=True,
    ),
    Helper(
        "skb_change_type",
        (_CTX, _ANY),
        RetType.INTEGER,
        None,
        "Change to whom a packet is addressed.",
    ),
    Helper(
        "skb_under_cgroup",
        (_CTX, _MAP, _ANY),
        RetType.INTEGER,
        None,
        "Whether a packet belongs to a control group.",
    ),
    Helper("get_hash_recalc", (_CTX,), RetType.INTEGER, None, "The packet's hash."),
    Helper("set_hash_invalid", (_CTX,), RetType.INTEGER, None, "Forget the packet's hash."),
    Helper("set_hash", (_CTX, _ANY), RetType.INTEGER, None, "Set the packet's hash."),
    Helper(
        "skb_change_tail",
        (_CTX, _ANY, _ANY),
        RetType.INTEGER,
        None,
        "Resize a packet at its end.",
        moves_packet=True,
    ),
    Helper(
        "skb_change_head",
        (_CTX, _ANY, _ANY),
        RetType.INTEGER,
        None,
        "Add room before a packet.",
        moves_packet=True,
    ),
    Helper(
        "skb_adjust_room",
        (_CTX, _ANY, _ANY, _ANY),
        RetType.INTEGER,
        None,
        "Resize a packet behind a header.",
        moves_packet=True,
    ),
    Helper("csum_update", (_CTX, _ANY), RetType.INTEGER, None, "Add to a packet's checksum."),
    Helper(
        "csum_level",
        (_CTX, _ANY),
        RetType.INTEGER,
        None,
        "Change how many checksums are known to be right.",
    ),
    Helper(
        "skb_get_xfrm_state",
        (_CTX, _ANY, _OUT, _SIZE, _ANY),
        RetType.INTEGER,
        None,
        "Read an IPsec state.",
    ),
    Helper(
        "skb_load_bytes_relative",
        (_CTX, _ANY, _OUT, _SIZE, _ANY),
        RetType.INTEGER,
        None,
        "Copy from a packet, from one of its headers on.",
    ),
    Helper(
        "skb_cgroup_id", (_CTX,), RetType.INTEGER, None, "The control group of a packet's socket."
    ),
    Helper(
        "skb_ancestor_cgroup_id",
        (_CTX, _ANY),
        RetType.INTEGER,
        None,
        "An ancestor of that control group.",
    ),
    Helper("skb_ecn_set_ce", (_CTX,), RetType.INTEGER, None, "Mark congestion in the IP header."),
    Helper(
        "skb_set_tstamp", (_CTX, _ANY, _ANY), RetType.INTEGER, None, "Change a packet's time stamp."
    ),
    Helper(
        "fib_lookup",
        (_CTX, _MEM, _SIZE, _ANY),
        RetType.INTEGER,
        None,
        "Look up a route.",
        gpl_only=True,
        writes=frozenset({2}),
    ),
    Helper(
        "check_mtu",
        (_CTX, _ANY, _FIXED, _ANY, _ANY),
        RetType.INTEGER,
        None,
        "Whether a packet fits the MTU.",
        gpl_only=True,
        fixed_sizes={3: 4},
        writes=frozenset({3}),
    ),
    Helper(
        "lwt_push_encap",
        (_CTX, _ANY, _MEM, _SIZE),
        RetType.INTEGER,
        None,
        "Put a packet into another.",
        moves_packet=True,
    ),
    Helper(
        "lwt_seg6_store_bytes",
        (_CTX, _ANY, _MEM, _SIZE),
        RetType.INTEGER,
        None,
        "Write to a segment routing header.",
        moves_packet=True,
    ),
    Helper(
        "lwt_seg6_adjust_srh",
        (_CTX, _ANY, _ANY),
        RetType.INTEGER,
        None,
        "Resize a segment routing header.",
        moves_packet=True,
    ),
    Helper(
        "lwt_seg6_action",
        (_CTX, _ANY, _MEM, _SIZE),
        RetType.INTEGER,
        None,
        "Apply a segment routing action.",
        moves_packet=True,
    ),
    Helper(
        "xdp_adjust_head",
        (_CTX, _ANY),
        RetType.INTEGER,
        None,
        "Move the packet's beginning.",
        moves_packet=True,
    ),
    Helper(
        "xdp_adjust_meta",
        (_CTX, _ANY),
        RetType.INTEGER,
        None,
        "Move the beginning of the packet's metadata.",
        moves_packet=True,
    ),
    Helper(
        "xdp_adjust_tail",
        (_CTX, _ANY),
        RetType.INTEGER,
        None,
        "Move the packet's end.",
        moves_packet=True,
    ),
    Helper(
        "rc_repeat", (_CTX,), RetType.INTEGER, None, "Report a repeated key of a remote control."
    ),
    Helper(
        "rc_keydown",
        (_CTX, _ANY, _ANY, _ANY),
        RetType.INTEGER,
        None,
        "Report a key of a remote control.",
    ),
    Helper(
        "rc_pointer_rel",
        (_CTX, _ANY, _ANY),
        RetType.INTEGER,
        None,
        "Report a pointer of a remote control.",
    ),
    Helper(
        "sysctl_get_name", (_CTX, _OUT, _SIZE, _ANY), RetType.INTEGER, None, "The name of a sysctl."
    ),
    Helper(
        "sysctl_get_current_value", (_CTX, _OUT, _SIZE), RetType.INTEGER, None, "A sysctl's value."
    ),
    Helper(
        "sysctl_get_new_value",
        (_CTX, _OUT, _SIZE),
        RetType.INTEGER,
        None,
        "The value that is being written.",
    ),
    Helper(
        "sysctl_set_new_value",
        (_CTX, _MEM, _SIZE),
        RetType.INTEGER,
        None,
        "Have another value written.",
    ),
)
