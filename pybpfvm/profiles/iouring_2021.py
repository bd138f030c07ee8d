"""The five numberings of the 2021 BPF-request prototype. abi/iouring-bpf-2021, sections 0 to 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pybpfvm.profiles.base import (
    CtxField,
    Profile,
    RingRules,
    SectionRule,
    Sleepable,
    WaitBy,
)

# Base function set of kernels 5.12-5.14 (section 2.5). Numbers are the kernel's own.
BASE_512: Mapping[int, str] = {
    1: "map_lookup_elem",
    2: "map_update_elem",
    3: "map_delete_elem",
    5: "ktime_get_ns",
    6: "trace_printk",
    7: "get_prandom_u32",
    8: "get_smp_processor_id",
    12: "tail_call",
    35: "get_current_task",
    42: "get_numa_node_id",
    87: "map_push_elem",
    88: "map_pop_elem",
    89: "map_peek_elem",
    93: "spin_lock",
    94: "spin_unlock",
    112: "probe_read_user",
    113: "probe_read_kernel",
    114: "probe_read_user_str",
    115: "probe_read_kernel_str",
    118: "jiffies64",
    125: "ktime_get_boot_ns",
    130: "ringbuf_output",
    131: "ringbuf_reserve",
    132: "ringbuf_submit",
    133: "ringbuf_discard",
    134: "ringbuf_query",
    149: "snprintf_btf",
    153: "per_cpu_ptr",
    154: "this_cpu_ptr",
    160: "ktime_get_coarse_ns",
}
BASE_514: Mapping[int, str] = {**BASE_512, 164: "for_each_map_elem", 165: "snprintf"}

_USER_DATA_RW = CtxField("user_data", 0, 8, writable=True)
_USER_DATA_RO = CtxField("user_data", 0, 8, writable=False)
_WAIT = (
    CtxField("wait_nr", 8, 4, writable=True),
    CtxField("wait_idx", 12, 4, writable=True),
)

_SQE = (
    "io_uring_sqe",
    64,
    (
        ("opcode", 0, 1),
        ("flags", 1, 1),
        ("ioprio", 2, 2),
        ("fd", 4, -4),
        ("off", 8, 8),
        ("addr2", 8, 8),
        ("addr", 16, 8),
        ("splice_off_in", 16, 8),
        ("len", 24, 4),
        ("rw_flags", 28, 4),
        ("fsync_flags", 28, 4),
        ("poll_events", 28, 2),
        ("poll32_events", 28, 4),
        ("sync_range_flags", 28, 4),
        ("msg_flags", 28, 4),
        ("timeout_flags", 28, 4),
        ("accept_flags", 28, 4),
        ("cancel_flags", 28, 4),
        ("open_flags", 28, 4),
        ("statx_flags", 28, 4),
        ("fadvise_advice", 28, 4),
        ("splice_flags", 28, 4),
        ("rename_flags", 28, 4),
        ("unlink_flags", 28, 4),
        ("user_data", 32, 8),
        ("buf_index", 40, 2),
        ("buf_group", 40, 2),
        ("personality", 42, 2),
        ("splice_fd_in", 44, -4),
        ("file_index", 44, 4),
        ("cq_idx", 48, 2),
        ("pad1", 50, 2),
        ("pad2", 52, 4),
        ("pad3", 56, 8),
    ),
)
_CQE = ("io_uring_cqe", 16, (("user_data", 0, 8), ("res", 8, -4), ("flags", 12, 4)))
_CTX = ("io_uring_bpf_ctx", 16, (("user_data", 0, 8), ("wait_nr", 8, 4), ("wait_idx", 12, 4)))

_V2_SECTIONS = (SectionRule("iouring.s/", sleepable=True), SectionRule("iouring/"))
_V3_SECTIONS = (SectionRule("iouring", sleepable=True),)

_V2_RING = RingRules(
    bpf_opcode=37,
    register_opcode=15,
    unregister_opcode=16,
    extra_cqs=True,
    cqe_skip=False,
    wait_by=WaitBy.WAIT_NR,
    wait_value=0,
    ctx_persists=False,
    length_checked=True,
    bad_sqe_joins_chain=False,
    submit_returns_errno=False,
)
_V3_RING = replace(
    _V2_RING,
    register_opcode=20,
    unregister_opcode=21,
    cqe_skip=True,
    wait_by=WaitBy.RETURN,
    wait_value=1,
    ctx_persists=True,
    length_checked=False,
    bad_sqe_joins_chain=True,
)

V1 = Profile(
    name="iouring-v1",
    title="BPF requests, first posting (February 2021)",
    prog_type=31,
    sections=(SectionRule("iouring/"),),
    ctx_name="io_uring_bpf_ctx",
    ctx_bytes=16,
    ctx_fields=(),
    helpers={**BASE_512, 163: "iouring_queue_sqe"},
    returns=(0, 0),
    sleepable=Sleepable.NEVER,
    ring=replace(
        _V2_RING,
        register_opcode=13,
        unregister_opcode=14,
        extra_cqs=False,
        wait_by=WaitBy.NOTHING,
        submit_returns_errno=True,
    ),
    types=(_SQE, _CQE, _CTX),
    notes=("return value and sleepability are inferred, not read (section 7, point 7)",),
)

V2 = Profile(
    name="iouring-v2",
    title="BPF requests, second posting (May 2021)",
    prog_type=31,
    sections=_V2_SECTIONS,
    ctx_name="io_uring_bpf_ctx",
    ctx_bytes=16,
    ctx_fields=(_USER_DATA_RW, *_WAIT),
    helpers={
        **BASE_512,
        148: "copy_from_user",
        164: "iouring_queue_sqe",
        165: "iouring_emit_cqe",
        166: "iouring_reap_cqe",
        167: "bpf_copy_to_user",
    },
    returns=(0, 0),
    sleepable=Sleepable.OPTIONAL,
    ring=_V2_RING,
    types=(_SQE, _CQE, _CTX),
)

V2_FUTEX = replace(
    V2,
    name="iouring-v2-futex",
    title="BPF requests, second posting with permuted helpers (June 2021)",
    helpers={
        **BASE_512,
        148: "copy_from_user",
        164: "bpf_copy_to_user",
        165: "iouring_queue_sqe",
        166: "iouring_emit_cqe",
        167: "iouring_reap_cqe",
    },
    notes=("program type and return values are inferred (section 0.1)",),
)

_V3_HELPERS: Mapping[int, str] = {
    **BASE_514,
    148: "copy_from_user",
    169: "bpf_copy_to_user",
    170: "io_uring_submit",
    171: "io_uring_emit_cqe",
    172: "io_uring_reap_cqe",
}

V3 = Profile(
    name="iouring-v3",
    title="BPF requests, third series (September to November 2021)",
    prog_type=32,
    sections=_V3_SECTIONS,
    ctx_name="io_uring_bpf_ctx",
    ctx_bytes=16,
    ctx_fields=(_USER_DATA_RO, *_WAIT),
    helpers=_V3_HELPERS,
    returns=(0, 1),
    sleepable=Sleepable.REQUIRED,
    ring=_V3_RING,
    types=(_SQE, _CQE, _CTX),
    notes=("the value of IORING_BPF_WAIT (1) is inferred (section 7, point 1)",),
)

V3BASE = replace(
    V3,
    name="iouring-v3base",
    title="BPF requests, third series with the waiting rule of the second (August 2021)",
    ctx_fields=(_USER_DATA_RW, *_WAIT),
    returns=(0, 0),
    ring=replace(_V3_RING, wait_by=WaitBy.WAIT_NR, wait_value=0, ctx_persists=False),
    notes=("kernel source not seen: behaviour is inferred from programs (section 7, point 2)",),
)

PROFILES_2021 = (V1, V2, V2_FUTEX, V3BASE, V3)
