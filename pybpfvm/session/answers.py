"""What the machine tells a program through helpers, and in which ways it may: random numbers, the
clock, user memory, the ring, whether there is room.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from pybpfvm.bits import U32, U64

_PIDS = 1 << 22  # the most that Linux gives out

# Helpers that give a number of the machine's: the least and the greatest.
NUMBERS: Mapping[str, tuple[int, int]] = {
    "get_prandom_u32": (0, U32),
    "ktime_get_ns": (0, U64 >> 1),
    "ktime_get_boot_ns": (0, U64 >> 1),
    "ktime_get_coarse_ns": (0, U64 >> 1),
    "jiffies64": (0, U64),
    "get_current_pid_tgid": (0, (_PIDS << 32) - 1),
    "get_current_uid_gid": (0, U64),
    "get_numa_node_id": (0, 1023),
}
STRINGS = frozenset({"probe_read_user_str", "probe_read_kernel_str"})
READS = STRINGS | {"copy_from_user", "probe_read_user", "probe_read_kernel"}
_USER_READS = frozenset({"copy_from_user", "probe_read_user", "probe_read_user_str"})
# Helpers that may fail for want of memory or room: what they return then.
MAY_FAIL: Mapping[str, int] = {
    "ringbuf_reserve": 0,
    "ringbuf_output": -errno.EAGAIN,
    "map_update_elem": -errno.ENOMEM,
    "map_push_elem": -errno.E2BIG,
    "bpf_copy_to_user": -errno.EFAULT,
}
_RING_RESULTS: Mapping[str, tuple[int, ...]] = {
    "submit": (0, 1, -errno.ENOMEM),
    "emit": (0, -errno.EINVAL),
    "requeue": (0, 1, -errno.EINVAL),
}
RECORD_BYTES = 512  # of a reserved record: how many are inputs
FAILS = -1  # the result of an Answer that makes such a helper fail


@dataclass(frozen=True, slots=True)
class Answer:
    """What a helper is told by the machine: `result`, and the bytes it leaves in memory.

    The result of helpers that read memory is 0 or a negative errno, that of helpers that may fail
    0 or FAILS; `data` that is shorter than what is asked for is filled up with zeros.
    """

    helper: str
    result: int = 0
    data: bytes = b""


def is_user_read(helper: str) -> bool:
    """Whether the helper reads user memory."""
    return helper in _USER_READS


def results_of(helper: str) -> tuple[int, ...]:
    """Results of a scripted call that are worth trying."""
    if helper in NUMBERS:
        low, high = NUMBERS[helper]
        return tuple(dict.fromkeys((low, 1, high, high >> 1, (high >> 1) + 1)))
    return _RING_RESULTS.get(helper, (0, FAILS))


def random_result(helper: str, random: Random) -> int:
    """A result of a scripted call, random, more often success than failure."""
    if helper in NUMBERS:
        return random.choice((random.getrandbits(64), random.getrandbits(32), random.randrange(99)))
    return 0 if random.random() < 0.75 else FAILS
