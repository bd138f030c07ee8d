"""What the running kernel's io_uring can do here, as data for `doctor` and for skipping tests."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from pybpfvm.errors import InputError
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.kernel.guard import SUPPORTED
from pybpfvm.uring_backend.kernel.settings import probed
from pybpfvm.uring_backend.kernel.sysring import SysRing, disabled_setting

_UNREADABLE = 8


@dataclass(frozen=True, slots=True)
class KernelRing:
    """The running kernel's io_uring.

    `reason` is why it can not be used (None: it can); then the rest says nothing. `features` are
    the IORING_FEAT_* bits; `opcodes` what the kernel performs; `missing` what the backend passes
    on but this kernel does not know; `filters`: it has IORING_REGISTER_BPF_FILTER (from Linux 7.0);
    `disabled_setting` kernel.io_uring_disabled.
    """

    release: str
    reason: InputError | None
    disabled_setting: int
    features: int
    opcodes: frozenset[int]
    missing: tuple[Op, ...]
    filters: bool = False


def available() -> InputError | None:
    """None when a ring can be made here, otherwise why not (with a remedy)."""
    try:
        SysRing(2).close()
    except InputError as error:
        return error
    return None


def probe() -> KernelRing:
    """Make a small ring and ask it (IORING_REGISTER_PROBE)."""
    release, setting = os.uname().release, disabled_setting()
    try:
        ring = SysRing(2)
    except InputError as error:
        return KernelRing(release, error, setting, 0, frozenset(), ())
    with ring:
        opcodes = probed(ring)
        # An argument that can not be read: whoever has the command tries to.
        filters = ring.register(abi.REGISTER_BPF_FILTER, _UNREADABLE, 1) == -errno.EFAULT
        missing = tuple(op for op in sorted(SUPPORTED) if op not in opcodes)
        return KernelRing(release, None, setting, ring.features, opcodes, missing, filters)
