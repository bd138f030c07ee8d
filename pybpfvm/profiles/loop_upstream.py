"""The merged ABI: struct_ops `io_uring_bpf_ops` with a `loop_step` callback, Linux 7.1 and 7.2.

What was proposed before and after it is in `loop_dialects`.

abi/iouring-bpf-upstream, sections 1 to 4. The two differ in the type of the ring that programs
see: 7.1 shows `struct io_ring_ctx`, 7.2 an opaque `struct iou_ctx`. Objects do not say which of
them they were built for unless they look into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pybpfvm.btf.types import Btf
from pybpfvm.profiles.base import LoopRules, Profile, Region, SectionRule, Sleepable
from pybpfvm.profiles.mainline import MAINLINE_NAMES, NUMBERS
from pybpfvm.profiles.upstream_types import CTX_BYTES, CTX_FIELDS, kernel_side

PROG_TYPE_STRUCT_OPS = 27

# What the base set of helpers has with CAP_BPF and CAP_PERFMON.
_BASE = (
    "map_lookup_elem map_update_elem map_delete_elem map_push_elem map_pop_elem map_peek_elem"
    " map_lookup_percpu_elem for_each_map_elem loop tail_call"
    " get_prandom_u32 get_smp_processor_id get_numa_node_id jiffies64"
    " ktime_get_ns ktime_get_boot_ns ktime_get_tai_ns"
    " ringbuf_output ringbuf_reserve ringbuf_submit ringbuf_discard ringbuf_query"
    " ringbuf_reserve_dynptr ringbuf_submit_dynptr ringbuf_discard_dynptr user_ringbuf_drain"
    " dynptr_from_mem dynptr_read dynptr_write dynptr_data"
    " strncmp strtol strtoul snprintf snprintf_btf spin_lock spin_unlock"
    " per_cpu_ptr this_cpu_ptr timer_init timer_set_callback timer_start timer_cancel kptr_xchg"
    " trace_printk trace_vprintk get_current_task get_current_task_btf task_pt_regs"
    " probe_read_user probe_read_user_str probe_read_kernel probe_read_kernel_str"
)
_HELPERS: Mapping[int, str] = {NUMBERS[name]: name for name in _BASE.split()}

_COUNTING = ("bpf_iter_num_new", "bpf_iter_num_next", "bpf_iter_num_destroy")
MERGED_KFUNCS = ("bpf_io_uring_submit_sqes", "bpf_io_uring_get_region")

RULES_71 = LoopRules(
    ops="io_uring_bpf_ops",
    callback="loop_step",
    ctx="io_ring_ctx",
    params="iou_loop_params",
    params_fields=(("cq_wait_idx", "unsigned int", 0),),
    params_bytes=4,
    writable=(("iou_loop_params", 0, 4),),
    regions={0: Region.MEM, 1: Region.CQ, 2: Region.SQ},
    members=(("loop_step", "step()", 0), ("ring_fd", "unsigned int", 8), ("priv", " *", 16)),
    ctx_bytes=CTX_BYTES,
)
RULES_72 = replace(RULES_71, ctx="iou_ctx", ctx_bytes=0)


def loop_profile(
    name: str,
    title: str,
    rules: LoopRules,
    kfuncs: tuple[str, ...] = MERGED_KFUNCS,
    *,
    experimental: bool = False,
) -> Profile:
    """The profile of programs that drive a ring by `rules` and call `kfuncs`."""
    return Profile(
        name=name,
        title=title,
        prog_type=PROG_TYPE_STRUCT_OPS,
        family="struct_ops",
        sections=(
            SectionRule("struct_ops.s", sleepable=True),
            SectionRule("struct_ops"),
        ),
        ctx_name="u64[]",
        ctx_bytes=16,
        ctx_fields=(),
        helpers=_HELPERS,
        returns=None,
        sleepable=Sleepable.OPTIONAL,
        missing_helpers={n: name for n, name in MAINLINE_NAMES.items() if n not in _HELPERS},
        loop=rules,
        kfuncs=(*kfuncs, *_COUNTING),
        experimental=experimental,
    )


LOOP_PROFILES = (
    loop_profile("loop-7.1", "io_uring_bpf_ops.loop_step of Linux 7.1, from 7.1.5 on", RULES_71),
    loop_profile("loop-7.2", "io_uring_bpf_ops.loop_step of Linux 7.2", RULES_72),
)
# As 7.1 but for what 7.1.5 mended. No object tells them apart: who wants this one names it.
BEFORE_715 = replace(
    loop_profile(
        "loop-7.1.0",
        "io_uring_bpf_ops.loop_step of Linux 7.1.0 to 7.1.4",
        replace(RULES_71, rebinds=True),
    ),
    objects_of="loop-7.1",
)


def kernel_btf_of(profile: Profile) -> Btf | None:
    """What such a kernel's BTF has for ring programs; None for a profile without a loop."""
    rules = profile.loop
    if rules is None:
        return None
    operation = rules.operation
    if operation is not None:
        size, fields = operation.data_bytes, operation.fields
    else:
        size, fields = rules.ctx_bytes, CTX_FIELDS if rules.ctx_bytes else ()
    return kernel_side(
        profile.name,
        (rules.ctx, size, fields),
        (rules.params, rules.params_bytes, rules.params_fields),
        (rules.ops, rules.members),
        tuple((name, profile.row_of(name)) for name in profile.kfuncs),
    )
