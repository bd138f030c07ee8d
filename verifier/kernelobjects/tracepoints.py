"""Arguments of tracepoints and iterators that are not what their types say: NULL at times.

Pairs of a tracepoint's name and the number of its argument, from 0. Which they are is not in BTF
(but for names that end in `__nullable`): these are what Linux 6.18 answered when a program that
loads each pointer argument of each tracepoint, and of each iterator, was loaded.
"""

from __future__ import annotations

# Arguments of tracepoints that may be NULL.
MAYBE_NULL = frozenset(
    {
        ("break_lease_block", 1),
        ("break_lease_noblock", 1),
        ("break_lease_unblock", 1),
        ("ext4_mballoc_discard", 1),
        ("ext4_mballoc_free", 1),
        ("fcntl_setlk", 1),
        ("fib_table_lookup", 2),
        ("flock_lock_inode", 1),
        ("folio_wait_writeback", 1),
        ("generic_delete_lease", 1),
        ("hugetlbfs_alloc_inode", 1),
        ("kfree_skb", 3),
        ("locks_remove_posix", 1),
        ("mm_collapse_huge_page_isolate", 0),
        ("mm_khugepaged_collapse_file", 1),
        ("mm_khugepaged_scan_file", 1),
        ("mm_khugepaged_scan_pmd", 1),
        ("mm_page_alloc", 0),
        ("mm_page_alloc_zone_locked", 0),
        ("mm_page_pcpu_drain", 0),
        ("posix_lock_inode", 1),
        ("qdisc_dequeue", 3),
        ("sched_pi_setprio", 1),
        ("sched_stick_numa", 2),
        ("sched_swap_numa", 2),
        ("tcp_send_reset", 0),
        ("tcp_sendmsg_locked", 2),
        ("time_out_leases", 1),
        ("tmigr_update_events", 0),
        ("writeback_dirty_folio", 1),
        ("xfs_blockgc_flush_all", 0),
        ("xfs_blockgc_free_space", 1),
        ("xfs_blockgc_start", 0),
        ("xfs_blockgc_stop", 0),
        ("xfs_blockgc_worker", 0),
        ("xfs_btree_overlapped_query_range", 2),
        ("xfs_btree_updkeys", 2),
        ("xfs_defer_add_item", 0),
        ("xfs_defer_cancel_item", 0),
        ("xfs_defer_cancel_list", 0),
        ("xfs_defer_create_intent", 0),
        ("xfs_defer_finish_item", 0),
        ("xfs_defer_isolate_paused", 0),
        ("xfs_defer_item_pause", 0),
        ("xfs_defer_item_unpause", 0),
        ("xfs_defer_pending_abort", 0),
        ("xfs_defer_pending_finish", 0),
        ("xfs_defer_relog_intent", 0),
        ("xfs_fs_sync_fs", 0),
        ("xfs_inodegc_flush", 0),
        ("xfs_inodegc_push", 0),
        ("xfs_inodegc_queue", 0),
        ("xfs_inodegc_start", 0),
        ("xfs_inodegc_stop", 0),
        ("xfs_inodegc_throttle", 0),
        ("xfs_ioc_free_eofblocks", 1),
        ("xfs_map_blocks_alloc", 4),
        ("xfs_map_blocks_found", 4),
    }
)

# Arguments of iterator programs that point to structs and may be NULL (after the last object).
TRUSTED_OR_NULL = frozenset(
    {
        ("bpf_map", 1),
        ("cgroup", 1),
        ("kmem_cache", 1),
        ("task", 1),
        ("tcp", 1),
        ("udp", 1),
    }
)
OR_NULL = frozenset(
    {
        ("bpf_link", 1),
        ("bpf_prog", 1),
        ("bpf_sk_storage_map", 2),
        ("dmabuf", 1),
        ("ipv6_route", 1),
        ("ksym", 1),
        ("netlink", 1),
        ("sockmap", 3),
        ("task_file", 1),
        ("task_file", 3),
        ("task_vma", 1),
        ("task_vma", 2),
        ("unix", 1),
    }
)
# Arguments of iterators that are buffers whose size the map tells.
BUFFERS = frozenset(
    {("bpf_map_elem", 2), ("bpf_map_elem", 3), ("bpf_sk_storage_map", 3), ("sockmap", 2)}
)
# Functions that are named like iterators and are none.
NOT_ITERATORS = frozenset({"get_info"})
