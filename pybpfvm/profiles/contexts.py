"""Layouts of the contexts of ordinary program types, and of the socket structures they lead to.

The structures are those of linux/bpf.h; who may read or write which part of which field is what a
kernel (6.18) answers, and tests ask it for every offset and size. `cb` and the argument arrays are
one field each here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pybpfvm.profiles.base import CtxField, CtxHolds, CtxParts, CtxPointer

Fields = tuple[CtxField, ...]

LOOPBACK_IFINDEX = 1  # where the packets of test runs come from
# Records of tracepoints are at most a page times two; the first 8 bytes are not for programs.
TRACE_BYTES = 8192
FLOW_KEYS_BYTES = 56


def _word(name: str, offset: int, holds: CtxHolds = CtxHolds.GIVEN, default: int = 0) -> CtxField:
    """A u32 of which parts may be loaded."""
    return CtxField(name, offset, 4, False, CtxParts.READ, holds, default)


def _whole(name: str, offset: int, size: int = 4, *, writable: bool = False) -> CtxField:
    return CtxField(name, offset, size, writable)


def _start(name: str, offset: int, size: int = 4) -> CtxField:
    """A field whose first bytes may be loaded alone."""
    return CtxField(name, offset, size, False, CtxParts.START)


def _packet(name: str, offset: int, holds: CtxHolds, size: int = 4) -> CtxField:
    return CtxField(name, offset, size, False, CtxParts.WHOLE, holds)


def _address(name: str, offset: int) -> CtxField:
    return CtxField(name, offset, 4, False, CtxParts.WHOLE, CtxHolds.KERNEL_OBJECT)


def _object(name: str, offset: int, pointer: CtxPointer) -> CtxField:
    """A pointer to something of a kernel's."""
    holds = CtxHolds.KERNEL_OBJECT
    return CtxField(name, offset, 8, False, CtxParts.WHOLE, holds, pointer=pointer)


def _words(
    name: str, count: int, start: int, *, writable: bool = False, parts: CtxParts = CtxParts.READ
) -> Fields:
    """`count` u32 of an array."""
    return tuple(
        CtxField(f"{name}[{index}]", start + 4 * index, 4, writable, parts)
        for index in range(count)
    )


def long_words(name: str, count: int, *, start: int = 0) -> CtxField:
    """`count` 64-bit words; any aligned part of them may be loaded."""
    return CtxField(name, start, 8 * count, False, CtxParts.ANY)


def _writable(fields: Iterable[CtxField], *names: str) -> Fields:
    return tuple(replace(one, writable=True) if one.name in names else one for one in fields)


def _without(fields: Iterable[CtxField], *names: str) -> Fields:
    return tuple(one for one in fields if one.name not in names)


XDP_MD: Fields = (
    _packet("data", 0, CtxHolds.DATA),
    _packet("data_end", 4, CtxHolds.DATA_END),
    _packet("data_meta", 8, CtxHolds.DATA_META),
    CtxField("ingress_ifindex", 12, 4, False, default=LOOPBACK_IFINDEX),
    CtxField("rx_queue_index", 16, 4, False),
)
# Only programs that a device map calls know where the packet goes.
XDP_MD_DEVMAP: Fields = (
    *XDP_MD,
    CtxField("egress_ifindex", 20, 4, False, holds=CtxHolds.KERNEL_OBJECT),
)

_SK_BUFF: Fields = (
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
    _word("ifindex", 40, default=LOOPBACK_IFINDEX),
    _word("tc_index", 44),
    CtxField("cb", 48, 20, True, CtxParts.ANY),
    _word("hash", 68),
    _word("tc_classid", 72),
    _packet("data", 76, CtxHolds.DATA),
    _packet("data_end", 80, CtxHolds.DATA_END),
    _word("napi_id", 84),
    _word("family", 88, CtxHolds.KERNEL_OBJECT),
    # Addresses are read by whole words only.
    _address("remote_ip4", 92),
    _address("local_ip4", 96),
    *(_address(f"remote_ip6[{i}]", 100 + 4 * i) for i in range(4)),
    *(_address(f"local_ip6[{i}]", 116 + 4 * i) for i in range(4)),
    _word("remote_port", 132, CtxHolds.KERNEL_OBJECT),
    _word("local_port", 136, CtxHolds.KERNEL_OBJECT),
    _packet("data_meta", 140, CtxHolds.DATA_META),
    CtxField("tstamp", 152, 8, False),
    _word("wire_len", 160),
    _word("gso_segs", 164),
    _object("sk", 168, CtxPointer.SOCK_COMMON_OR_NULL),
    _word("gso_size", 176),
    CtxField("tstamp_type", 180, 1, False),
    CtxField("hwtstamp", 184, 8, False),
)
_SOCKET = tuple(one.name for one in _SK_BUFF if 88 <= one.offset < 140)
_TIMES = ("tstamp", "wire_len", "tstamp_type", "hwtstamp")

SK_BUFF_SOCKET_FILTER: Fields = _without(
    _SK_BUFF, *_SOCKET, *_TIMES, "tc_classid", "data", "data_end", "data_meta"
)
SK_BUFF_CLS: Fields = _writable(
    _without(_SK_BUFF, *_SOCKET),
    *("mark", "tc_index", "priority", "tc_classid", "tstamp", "queue_mapping"),
)
SK_BUFF_CGROUP: Fields = _writable(
    _without(_SK_BUFF, "tc_classid", "data_meta", "wire_len", "tstamp_type"),
    *("mark", "priority", "tstamp"),
)
SK_BUFF_LWT: Fields = _writable(
    _without(_SK_BUFF, *_SOCKET, *_TIMES, "tc_classid", "data_meta"), "mark", "priority"
)
SK_BUFF_SK_SKB: Fields = tuple(
    replace(one, writable=False) if one.name == "cb" else one
    for one in _writable(
        _without(_SK_BUFF, *_TIMES, "mark", "tc_classid", "data_meta"), "priority", "tc_index"
    )
)
SK_BUFF_DISSECTOR: Fields = (
    _packet("data", 76, CtxHolds.DATA),
    _packet("data_end", 80, CtxHolds.DATA_END),
    _object("flow_keys", 144, CtxPointer.FLOW_KEYS),
)

# struct bpf_sock: behind the pointer to a full socket, and of one of which less is known.
_SOCK_ENDS: Fields = (
    _word("src_ip4", 24),
    *_words("src_ip6", 4, 28),
    _start("src_port", 44),
)
_SOCK_PEER: Fields = (
    _whole("dst_port", 48),
    CtxField("dst_port", 48, 2, False, CtxParts.READ),
    _word("dst_ip4", 52),
    *_words("dst_ip6", 4, 56),
    _start("state", 72),
    _start("rx_queue_mapping", 76),
)
SOCK_COMMON: Fields = (_whole("bound_dev_if", 0), _start("family", 4), *_SOCK_ENDS, *_SOCK_PEER)
SOCKET: Fields = (
    _whole("bound_dev_if", 0),
    _start("family", 4),
    _start("type", 8),
    _start("protocol", 12),
    _whole("mark", 16),
    _whole("priority", 20),
    *_SOCK_ENDS,
    *_SOCK_PEER,
)
_TCP_WORDS = (
    *("snd_cwnd", "srtt_us", "rtt_min", "snd_ssthresh", "rcv_nxt", "snd_nxt", "snd_una"),
    *("mss_cache", "ecn_flags", "rate_delivered", "rate_interval_us", "packets_out"),
    *("retrans_out", "total_retrans", "segs_in", "data_segs_in", "segs_out", "data_segs_out"),
    *("lost_out", "sacked_out"),
)
TCP_SOCK: Fields = (
    *(_whole(name, 4 * index) for index, name in enumerate(_TCP_WORDS)),
    _whole("bytes_received", 80, 8),
    _whole("bytes_acked", 88, 8),
    _whole("dsack_dups", 96),
    _whole("delivered", 100),
    _whole("delivered_ce", 104),
    _whole("icsk_retransmits", 108),
)
XDP_SOCK: Fields = (_whole("queue_id", 0),)

# The context of cgroup_sock programs is a bpf_sock as well: what is bound, what is not yet.
CGROUP_SOCK_CREATE: Fields = _writable(
    (
        *(one for one in SOCKET if one.offset < 24),
        *_SOCK_PEER,
    ),
    *("bound_dev_if", "mark", "priority"),
)
_BOUND: Fields = tuple(one for one in SOCKET if 4 <= one.offset < 16)
CGROUP_SOCK_POST_BIND4: Fields = (
    *_BOUND,
    _word("src_ip4", 24),
    _start("src_port", 44),
    *_SOCK_PEER,
)
CGROUP_SOCK_POST_BIND6: Fields = (
    *_BOUND,
    *_words("src_ip6", 4, 28),
    _start("src_port", 44),
    *_SOCK_PEER,
)

# struct bpf_sock_addr, by what the attach type knows of addresses.
SOCK_ADDR_UNIX: Fields = (
    _whole("user_family", 0),
    CtxField("user_port", 24, 4, True, CtxParts.READ),
    _whole("family", 28),
    _whole("type", 32),
    _whole("protocol", 36),
    _object("sk", 64, CtxPointer.SOCKET),
)
SOCK_ADDR_V4: Fields = (*SOCK_ADDR_UNIX, CtxField("user_ip4", 4, 4, True, CtxParts.READ))
SOCK_ADDR_V6: Fields = (
    *SOCK_ADDR_UNIX,
    *_words("user_ip6", 4, 8, writable=True),
    _whole("user_ip6[0..1]", 8, 8, writable=True),
    _whole("user_ip6[2..3]", 16, 8, writable=True),
)
SOCK_ADDR_SENDMSG4: Fields = (*SOCK_ADDR_V4, CtxField("msg_src_ip4", 40, 4, True, CtxParts.READ))
SOCK_ADDR_SENDMSG6: Fields = (
    *SOCK_ADDR_V6,
    *_words("msg_src_ip6", 4, 44, writable=True),
    _whole("msg_src_ip6[1..2]", 48, 8, writable=True),
)

_SOCK_OPS_WORDS = (
    *("is_fullsock", "snd_cwnd", "srtt_us", "bpf_sock_ops_cb_flags", "state", "rtt_min"),
    *("snd_ssthresh", "rcv_nxt", "snd_nxt", "snd_una", "mss_cache", "ecn_flags"),
    *("rate_delivered", "rate_interval_us", "packets_out", "retrans_out", "total_retrans"),
    *("segs_in", "data_segs_in", "segs_out", "data_segs_out", "lost_out", "sacked_out"),
)
SOCK_OPS: Fields = (
    _whole("op", 0),
    _whole("reply", 4, writable=True),
    *(_whole(f"args[{index}]", 4 + 4 * index) for index in range(1, 4)),
    _whole("family", 20),
    _whole("remote_ip4", 24),
    _whole("local_ip4", 28),
    *_words("remote_ip6", 4, 32, parts=CtxParts.WHOLE),
    *_words("local_ip6", 4, 48, parts=CtxParts.WHOLE),
    _whole("remote_port", 64),
    _whole("local_port", 68),
    *(_whole(name, 72 + 4 * index) for index, name in enumerate(_SOCK_OPS_WORDS)),
    _whole("sk_txhash", 164, writable=True),
    _whole("bytes_received", 168, 8),
    _whole("bytes_acked", 176, 8),
    _object("sk", 184, CtxPointer.SOCKET_OR_NULL),
    _packet("skb_data", 192, CtxHolds.DATA, 8),
    _packet("skb_data_end", 200, CtxHolds.DATA_END, 8),
    _whole("skb_len", 208),
    _start("skb_tcp_flags", 212),
    _whole("skb_hwtstamp", 216, 8),
)
SK_MSG: Fields = (
    _packet("data", 0, CtxHolds.DATA, 8),
    _packet("data_end", 8, CtxHolds.DATA_END, 8),
    _whole("family", 16),
    _whole("remote_ip4", 20),
    _whole("local_ip4", 24),
    *_words("remote_ip6", 4, 28, parts=CtxParts.WHOLE),
    *_words("local_ip6", 4, 44, parts=CtxParts.WHOLE),
    _whole("remote_port", 60),
    _whole("local_port", 64),
    _whole("size", 68),
    _object("sk", 72, CtxPointer.SOCKET),
)
SK_LOOKUP: Fields = (
    _object("sk", 0, CtxPointer.SOCKET_OR_NULL),
    _word("family", 8),
    _word("protocol", 12),
    _word("remote_ip4", 16),
    *_words("remote_ip6", 4, 20),
    _word("remote_port", 36),
    _word("local_ip4", 40),
    *_words("local_ip6", 4, 44),
    _word("local_port", 60),
    _word("ingress_ifindex", 64),
)
SK_REUSEPORT: Fields = (
    _packet("data", 0, CtxHolds.DATA, 8),
    _packet("data_end", 8, CtxHolds.DATA_END, 8),
    _word("len", 16),
    _whole("eth_protocol", 20),
    _whole("eth_protocol", 20, 2),
    _whole("eth_protocol", 22, 2),
    _word("ip_protocol", 24),
    _word("bind_inany", 28),
    _whole("hash", 32),
    _object("sk", 40, CtxPointer.SOCKET),
    _object("migrating_sk", 48, CtxPointer.SOCK_COMMON_OR_NULL),
)
CGROUP_DEVICE: Fields = (_word("access_type", 0), _whole("major", 4), _whole("minor", 8))
CGROUP_SYSCTL: Fields = (
    _word("write", 0),
    CtxField("file_pos", 4, 4, True, CtxParts.READ),
)
_SOCKOPT: Fields = (
    _object("sk", 0, CtxPointer.SOCKET),
    _packet("optval", 8, CtxHolds.DATA, 8),
    _packet("optval_end", 16, CtxHolds.DATA_END, 8),
    _whole("level", 24),
    _whole("optname", 28),
    _whole("optlen", 32, writable=True),
)
GETSOCKOPT: Fields = (*_SOCKOPT, _whole("retval", 36, writable=True))
SETSOCKOPT: Fields = _writable(_SOCKOPT, "level", "optname")
NETFILTER: Fields = (
    _object("state", 0, CtxPointer.KERNEL_STRUCT),
    _object("skb", 8, CtxPointer.KERNEL_STRUCT),
)

PT_REGS: Fields = (long_words("regs", 21),)
TRACE_RECORD: Fields = (long_words("fields", TRACE_BYTES // 8 - 1, start=8),)
# Saved registers are read as a whole only.
PERF_EVENT: Fields = (
    *(_whole(f"reg{index}", 8 * index, 8) for index in range(21)),
    long_words("sample", 2, start=168),
)
RAW_TRACEPOINT: Fields = (long_words("args", 12),)
# The first argument is a pointer, and parts of it may be loaded unless they begin where it does.
RAW_TRACEPOINT_WRITABLE: Fields = (
    _object("args[0]", 0, CtxPointer.TP_BUFFER),
    _whole("args[0]", 1, 1),
    CtxField("args[0]", 2, 2, False, CtxParts.READ),
    _word("args[0]", 4),
    long_words("args", 11, start=8),
)
