"""The simulated ring and the running kernel's make the same of generated request sequences."""

from __future__ import annotations

import pytest

from pybpfvm.fuzz.ring_agreement import compare
from pybpfvm.uring_backend.kernel.probe import available
from tests.support.seeded import each_seed

pytestmark = pytest.mark.kernel_ring


def test_sim_and_kernel_agree() -> None:
    reason = available()
    if reason is not None:
        pytest.skip(f"no io_uring: {reason}")
    each_seed("PYBPFVM_RING", compare, count=300, seconds=25)
