"""The one list of helpers: `HELPERS` by name. Numbers are the profiles' business.

A new helper is a row in its family's module; a new family is a line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from pybpfvm.helpers import clock, control, iouring, lock, map, probe, ringbuf, system, text
from pybpfvm.helpers.proto import Helper

_FAMILIES = (
    map.ROWS,
    clock.ROWS,
    system.ROWS,
    text.ROWS,
    probe.ROWS,
    ringbuf.ROWS,
    lock.ROWS,
    control.ROWS,
    iouring.ROWS,
)

HELPERS: Mapping[str, Helper] = {row.name: row for row in chain.from_iterable(_FAMILIES)}

# The kernel's numbers of the base functions; iouring-bpf-2021, section 2.5, and bpf.h for those
# above the base sets of that time.
BASE_IDS: Mapping[int, str] = {
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
    105: "strtol",
    106: "strtoul",
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
    148: "copy_from_user",
    149: "snprintf_btf",
    153: "per_cpu_ptr",
    154: "this_cpu_ptr",
    160: "ktime_get_coarse_ns",
    164: "for_each_map_elem",
    165: "snprintf",
    181: "loop",
    195: "map_lookup_percpu_elem",
}
