"""C declarations of the helpers that programs of the ring ABIs of 2021 may call.

Names and argument order are those of the kernel's helpers and of abi/iouring-bpf-2021, section 2.4;
what is declared is what their rows in `pybpfvm.helpers.table` take.
"""

from __future__ import annotations

from collections.abc import Mapping

_CTX = "struct io_uring_bpf_ctx *ctx"
_SQE = f"{_CTX}, const struct io_uring_sqe *sqe, u32 bytes"
_CQE = f"{_CTX}, u32 cq, struct io_uring_cqe *cqe, u32 bytes"
_NEW_CQE = f"{_CTX}, u32 cq, u64 user_data, s32 res, u32 flags"
_PROBE = "void *dst, u32 bytes, const void *src"

# Result and parameters by name.
_DECLARED: Mapping[str, tuple[str, str]] = {
    "map_lookup_elem": ("void *", "void *map, const void *key"),
    "map_update_elem": ("long ", "void *map, const void *key, const void *value, u64 flags"),
    "map_delete_elem": ("long ", "void *map, const void *key"),
    "map_push_elem": ("long ", "void *map, const void *value, u64 flags"),
    "map_pop_elem": ("long ", "void *map, void *value"),
    "map_peek_elem": ("long ", "void *map, void *value"),
    "for_each_map_elem": ("long ", "void *map, void *callback, void *callback_ctx, u64 flags"),
    "ktime_get_ns": ("u64 ", "void"),
    "ktime_get_boot_ns": ("u64 ", "void"),
    "ktime_get_coarse_ns": ("u64 ", "void"),
    "jiffies64": ("u64 ", "void"),
    "trace_printk": ("long ", "const char *format, u32 bytes, ..."),
    "snprintf": (
        "long ",
        "char *out, u32 bytes, const char *format, const u64 *args, u32 args_bytes",
    ),
    "snprintf_btf": (
        "long ",
        "char *out, u32 bytes, struct btf_ptr *what, u32 what_bytes, u64 flags",
    ),
    "get_prandom_u32": ("u32 ", "void"),
    "get_smp_processor_id": ("u32 ", "void"),
    "get_numa_node_id": ("long ", "void"),
    "get_current_task": ("u64 ", "void"),
    "tail_call": ("void ", "void *ctx, void *prog_array, u32 index"),
    "spin_lock": ("void ", "struct bpf_spin_lock *lock"),
    "spin_unlock": ("void ", "struct bpf_spin_lock *lock"),
    "probe_read_user": ("long ", _PROBE),
    "probe_read_kernel": ("long ", _PROBE),
    "probe_read_user_str": ("long ", _PROBE),
    "probe_read_kernel_str": ("long ", _PROBE),
    "copy_from_user": ("long ", "void *dst, u32 bytes, const void *user_src"),
    "bpf_copy_to_user": ("long ", "void *user_dst, const void *src, u32 bytes"),
    "ringbuf_output": ("long ", "void *ringbuf, const void *data, u64 bytes, u64 flags"),
    "ringbuf_reserve": ("void *", "void *ringbuf, u64 bytes, u64 flags"),
    "ringbuf_submit": ("void ", "void *record, u64 flags"),
    "ringbuf_discard": ("void ", "void *record, u64 flags"),
    "ringbuf_query": ("u64 ", "void *ringbuf, u64 what"),
    "per_cpu_ptr": ("void *", "const void *percpu, u32 cpu"),
    "this_cpu_ptr": ("void *", "const void *percpu"),
    "iouring_queue_sqe": ("long ", _SQE),
    "io_uring_submit": ("long ", _SQE),
    "iouring_emit_cqe": ("long ", _NEW_CQE),
    "io_uring_emit_cqe": ("long ", _NEW_CQE),
    "iouring_reap_cqe": ("long ", _CQE),
    "io_uring_reap_cqe": ("long ", _CQE),
}

DECLARATIONS: Mapping[str, str] = {
    name: f"{result}{name}({parameters})" for name, (result, parameters) in _DECLARED.items()
}
"""By the names of `pybpfvm.helpers.table`."""
