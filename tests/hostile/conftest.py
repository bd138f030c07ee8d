"""After every test here the process holds the descriptors that it held before."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest


def _descriptors() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # the one that listed them
            continue
    return found


@pytest.fixture(autouse=True)
def _no_descriptor_leaks() -> Iterator[None]:
    before = _descriptors()
    yield
    gc.collect()
    assert _descriptors() == before
