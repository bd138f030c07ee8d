"""Fewer capabilities for a while: the oracle for loaders with less privilege.

capset(2) changes the calling thread only, and only what is effective: what stays permitted can
be made effective again.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from pybpfvm.verifier.privileges.privilege import ALL, Capabilities

CAP_SYS_ADMIN = 21
CAP_PERFMON = 38
CAP_BPF = 39

_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def lowered_to(caps: Capabilities) -> Iterator[None]:
    """Run the block with these capabilities only, of those that decide what is accepted."""
    if caps == ALL:
        yield
        return
    lost = [CAP_SYS_ADMIN]
    lost += [] if caps.bpf else [CAP_BPF]
    lost += [] if caps.perfmon else [CAP_PERFMON]
    with without(*lost):
        yield


@contextmanager
def without(*capabilities: int) -> Iterator[None]:
    """Run the block without these capabilities. Raises OSError."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0))
    data = ctypes.create_string_buffer(24)
    _checked(_libc.capget(header, data))
    before = data.raw
    words = list(struct.unpack("=6I", before))
    for number in capabilities:
        words[3 * (number // 32)] &= ~(1 << number % 32)
    _checked(_libc.capset(header, ctypes.create_string_buffer(struct.pack("=6I", *words), 24)))
    try:
        yield
    finally:
        _checked(_libc.capset(header, ctypes.create_string_buffer(before, 24)))


def _checked(result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
