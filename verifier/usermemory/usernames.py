"""Names of the helpers that meet user memory or a ring, by what they do.

The postings of 2021 call the same helper by different names; rows are in `pybpfvm.helpers.table`.
"""

from __future__ import annotations

from collections.abc import Mapping

SUBMIT = frozenset({"iouring_queue_sqe", "io_uring_submit"})
EMIT = frozenset({"iouring_emit_cqe", "io_uring_emit_cqe"})
REAP = frozenset({"iouring_reap_cqe", "io_uring_reap_cqe"})
REQUEUE = frozenset({"io_uring_requeue"})
# (dst, size, user address)
FROM_USER = frozenset({"copy_from_user", "probe_read_user", "probe_read_user_str"})
# Positions in r1 to r5, from 0, of the user address, the size, and the program's memory.
TO_USER: Mapping[str, tuple[int, int, int]] = {
    "bpf_copy_to_user": (0, 2, 1),
    "probe_write_user": (0, 2, 1),
}

# What submit reads and reap writes where the ABI looks at no length (v3): section 2.4.
LEAST_BYTES: Mapping[str, int] = {
    **dict.fromkeys(SUBMIT, 64),
    **dict.fromkeys(REAP, 16),
}
