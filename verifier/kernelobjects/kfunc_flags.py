"""What kernels promise of their kfuncs, and which program types may call them.

BTF has a kfunc's prototype, but not its flags: they are data here, from the kernel's documentation
(Documentation/bpf/kfuncs.rst, cpumasks.rst and the chapters it names). Who may call a kfunc is what
a 6.18 kernel answered when a program of each type called it. Tests ask the running kernel again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Flag, auto


class Kf(Flag):
    """Flags of a kfunc, by the kernel's names without KF_."""

    NONE = 0
    ACQUIRE = auto()  # the result is a reference that must be released
    RELEASE = auto()  # the one referenced argument is released
    RET_NULL = auto()  # the result may be NULL
    TRUSTED_ARGS = auto()  # objects must be trusted or referenced
    RCU = auto()  # objects must be trusted, or protected by RCU
    SLEEPABLE = auto()
    RCU_PROTECTED = auto()  # only inside an RCU read section
    UNTRUSTED_RESULT = auto()  # our own: the result may be stale


@dataclass(frozen=True, slots=True)
class Kfunc:
    """Flags, and the profiles whose programs may call it (None: all)."""

    flags: Kf
    types: frozenset[str] | None


_ALL = None
_SYSCALL = frozenset({"syscall"})
_STRUCT_OPS = frozenset({"struct_ops"})
_RINGS = frozenset({"struct_ops", "iouring-2024"})  # which differ in what their BTF has of these
_TC_XDP = frozenset({"sched_cls", "xdp"})
_TC = frozenset({"sched_cls", "sched_act"})
_TRACING = frozenset({"tracepoint", "perf_event", "tracing", "lsm"})
_OBJECTS = _TRACING | _SYSCALL | _STRUCT_OPS
_CGROUP = frozenset(
    {
        *("cgroup_skb", "cgroup_sock", "sock_ops", "cgroup_device"),
        *("cgroup_sock_addr", "cgroup_sysctl", "cgroup_sockopt"),
    }
)
_GENERIC = _OBJECTS | _CGROUP | _TC_XDP
_SKB = _TRACING | {
    *("socket_filter", "sched_cls", "sched_act", "cgroup_skb", "cgroup_sock", "lwt_in"),
    *("lwt_out", "lwt_xmit", "sock_ops", "sk_skb", "cgroup_device", "cgroup_sock_addr"),
    *("lwt_seg6local", "cgroup_sysctl", "cgroup_sockopt", "netfilter"),
}


def _rows(types: Iterable[str] | None, rows: Mapping[Kf, str]) -> dict[str, Kfunc]:
    """One row for each name in the texts."""
    who = None if types is None else frozenset(types)
    return {name: Kfunc(flags, who) for flags, names in rows.items() for name in names.split()}


_NEW = Kf.ACQUIRE | Kf.RET_NULL

KFUNCS: Mapping[str, Kfunc] = {
    **_rows(
        _ALL,
        {
            Kf.NONE: "bpf_rcu_read_lock bpf_rcu_read_unlock bpf_preempt_disable bpf_preempt_enable"
            " bpf_rdonly_cast bpf_strcmp bpf_strcasecmp bpf_strchr bpf_strnchr bpf_strchrnul"
            " bpf_strrchr bpf_strlen bpf_strnlen bpf_strspn bpf_strcspn bpf_strstr bpf_strnstr"
            " bpf_dynptr_adjust bpf_dynptr_clone bpf_dynptr_copy bpf_dynptr_is_null"
            " bpf_dynptr_is_rdonly bpf_dynptr_memset bpf_dynptr_size bpf_cast_to_kern_ctx"
            " bpf_probe_read_kernel_dynptr bpf_probe_read_kernel_str_dynptr"
            " bpf_probe_read_user_dynptr bpf_probe_read_user_str_dynptr bpf_modify_return_test_tp",
            Kf.SLEEPABLE: "bpf_copy_from_user_str bpf_copy_from_user_task_str"
            " bpf_copy_from_user_dynptr bpf_copy_from_user_str_dynptr",
            Kf.RET_NULL | Kf.UNTRUSTED_RESULT: "bpf_get_kmem_cache",
            Kf.RET_NULL: "bpf_dynptr_slice bpf_dynptr_slice_rdwr",
            Kf.TRUSTED_ARGS | Kf.SLEEPABLE: "bpf_copy_from_user_task_dynptr"
            " bpf_copy_from_user_task_str_dynptr bpf_arena_alloc_pages bpf_arena_free_pages"
            " bpf_arena_reserve_pages",
            Kf.TRUSTED_ARGS: "bpf_map_sum_elem_count bpf_stream_vprintk_impl",
            Kf.RCU: "bpf_cgroup_read_xattr",
        },
    ),
    # Iterators.
    **_rows(
        _ALL,
        {
            Kf.NONE: "bpf_iter_num_new bpf_iter_num_destroy bpf_iter_bits_new bpf_iter_bits_destroy"
            " bpf_iter_task_destroy bpf_iter_css_destroy bpf_iter_css_task_destroy"
            " bpf_iter_task_vma_destroy",
            Kf.RET_NULL: "bpf_iter_num_next bpf_iter_bits_next bpf_iter_task_next"
            " bpf_iter_css_next bpf_iter_css_task_next bpf_iter_task_vma_next",
            Kf.TRUSTED_ARGS: "bpf_iter_css_task_new",
            Kf.TRUSTED_ARGS | Kf.RCU_PROTECTED: "bpf_iter_task_new bpf_iter_css_new",
            Kf.RCU: "bpf_iter_task_vma_new",
            Kf.SLEEPABLE: "bpf_iter_kmem_cache_new bpf_iter_kmem_cache_destroy"
            " bpf_iter_dmabuf_new bpf_iter_dmabuf_destroy",
            Kf.SLEEPABLE | Kf.RET_NULL: "bpf_iter_kmem_cache_next bpf_iter_dmabuf_next",
        },
    ),
    **_rows(
        _SKB,
        {Kf.TRUSTED_ARGS: "bpf_dynptr_from_skb"},
    ),
    **_rows(_TC, {Kf.TRUSTED_ARGS: "bpf_dynptr_from_skb_meta"}),
    **_rows({"xdp"}, {Kf.NONE: "bpf_dynptr_from_xdp bpf_xdp_pull_data"}),
    **_rows(
        _GENERIC,
        {
            # The rules of all but the first are those of `resources`, which knows their flags.
            Kf.NONE: "bpf_throw bpf_obj_new_impl bpf_obj_drop_impl bpf_percpu_obj_new_impl"
            " bpf_percpu_obj_drop_impl bpf_refcount_acquire_impl bpf_list_push_front_impl"
            " bpf_list_push_back_impl bpf_list_pop_front bpf_list_pop_back bpf_list_front"
            " bpf_list_back bpf_rbtree_add_impl bpf_rbtree_remove bpf_rbtree_first"
            " bpf_rbtree_root bpf_rbtree_left bpf_rbtree_right",
            _NEW | Kf.RCU: "bpf_task_acquire bpf_cgroup_acquire bpf_cgroup_ancestor"
            " bpf_task_get_cgroup1",
            _NEW: "bpf_task_from_pid bpf_task_from_vpid bpf_cgroup_from_id bpf_lookup_system_key",
            _NEW | Kf.SLEEPABLE: "bpf_lookup_user_key",
            Kf.RELEASE: "bpf_task_release bpf_cgroup_release bpf_key_put",
            Kf.RCU: "bpf_task_under_cgroup",
            Kf.TRUSTED_ARGS: "bpf_send_signal_task",
        },
    ),
    **_rows(
        _OBJECTS,
        {
            _NEW: "bpf_cpumask_create",
            Kf.RELEASE: "bpf_cpumask_release",
            Kf.ACQUIRE | Kf.TRUSTED_ARGS: "bpf_cpumask_acquire",
            Kf.RCU: "bpf_cpumask_first bpf_cpumask_first_zero bpf_cpumask_first_and"
            " bpf_cpumask_set_cpu bpf_cpumask_clear_cpu bpf_cpumask_test_cpu"
            " bpf_cpumask_test_and_set_cpu bpf_cpumask_test_and_clear_cpu bpf_cpumask_setall"
            " bpf_cpumask_clear bpf_cpumask_and bpf_cpumask_or bpf_cpumask_xor"
            " bpf_cpumask_equal bpf_cpumask_intersects bpf_cpumask_subset bpf_cpumask_empty"
            " bpf_cpumask_full bpf_cpumask_copy bpf_cpumask_any_distribute"
            " bpf_cpumask_any_and_distribute bpf_cpumask_weight bpf_cpumask_populate",
        },
    ),
    **_rows(
        _SYSCALL,
        {
            _NEW | Kf.RCU: "bpf_crypto_ctx_acquire",
            _NEW | Kf.SLEEPABLE: "bpf_crypto_ctx_create",
            Kf.RELEASE: "bpf_crypto_ctx_release",
        },
    ),
    **_rows(
        _TC_XDP,
        {
            _NEW: "bpf_xdp_ct_lookup bpf_skb_ct_lookup bpf_xdp_ct_alloc bpf_skb_ct_alloc",
            _NEW | Kf.RELEASE: "bpf_ct_insert_entry",
            Kf.RELEASE: "bpf_ct_release",
            Kf.TRUSTED_ARGS: "bpf_ct_change_timeout bpf_ct_change_status bpf_ct_set_timeout"
            " bpf_ct_set_status bpf_ct_set_nat_info",
        },
    ),
    **_rows({*_TC, "xdp"}, {Kf.RCU: "bpf_crypto_encrypt bpf_crypto_decrypt"}),
    **_rows(
        {"xdp"},
        {_NEW: "bpf_xdp_get_xfrm_state", Kf.RELEASE: "bpf_xdp_xfrm_state_release"},
    ),
    **_rows({"sched_cls"}, {Kf.TRUSTED_ARGS: "bpf_sk_assign_tcp_reqsk"}),
    **_rows(
        _CGROUP,
        {
            Kf.NONE: "bpf_sock_addr_set_sun_path",
            Kf.TRUSTED_ARGS: "bpf_sock_ops_enable_tx_tstamp",
        },
    ),
    **_rows(
        _TRACING,
        {Kf.NONE: "css_rstat_updated", Kf.SLEEPABLE: "css_rstat_flush"},
    ),
    **_rows(
        _RINGS,
        {
            Kf.TRUSTED_ARGS | Kf.SLEEPABLE: "bpf_io_uring_submit_sqes bpf_io_uring_xor_regbuf",
            Kf.TRUSTED_ARGS | Kf.RET_NULL: "bpf_io_uring_get_region bpf_io_uring_extract_next_cqe"
            " bpf_io_uring_get_cqe2",
            Kf.TRUSTED_ARGS: "bpf_io_uring_queue_sqe bpf_io_uring_post_cqe bpf_io_uring_get_cqe"
            " bpf_io_uring_set_wait_params bpf_io_uring_sock_state bpf_io_uring_sock_peek"
            " uring_bpf_set_result uring_bpf_memcpy",
        },
    ),
    **_rows(
        _STRUCT_OPS,
        {
            Kf.NONE: "tcp_reno_ssthresh tcp_reno_cong_avoid tcp_reno_undo_cwnd tcp_slow_start"
            " tcp_cong_avoid_ai bbr_cwnd_event bbr_init bbr_main bbr_min_tso_segs bbr_set_state"
            " bbr_sndbuf_expand bbr_ssthresh bbr_undo_cwnd cubictcp_acked cubictcp_cong_avoid"
            " cubictcp_cwnd_event cubictcp_init cubictcp_recalc_ssthresh cubictcp_state",
        },
    ),
}

_LSM, _NOBODY = frozenset({"lsm"}), frozenset[str]()
# Kfuncs whose flags are not known, and the profiles some of whose programs may call them.
UNKNOWN: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            *("bpf_get_dentry_xattr", "bpf_set_dentry_xattr", "bpf_remove_dentry_xattr"),
            *("bpf_get_file_xattr", "bpf_get_task_exe_file", "bpf_put_file", "bpf_path_d_path"),
        ),
        _LSM,
    ),
    **dict.fromkeys(
        ("bpf_session_cookie", "bpf_session_is_return"), frozenset({"kprobe", "tracing"})
    ),
    "bpf_sock_destroy": frozenset({"tracing"}),
    # Tests attach to these.
    **dict.fromkeys(
        ("bpf_fentry_test1", "bpf_modify_return_test", "bpf_modify_return_test2"), _NOBODY
    ),
}
