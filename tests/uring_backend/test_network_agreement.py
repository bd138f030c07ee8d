"""The simulated sockets and the kernel's make the same of generated network requests."""

from __future__ import annotations

import pytest

from pybpfvm.fuzz.ring_agreement import compare_network
from pybpfvm.uring_backend.kernel.probe import available
from tests.support.seeded import each_seed

pytestmark = pytest.mark.kernel_ring


def test_sim_and_kernel_agree() -> None:
    reason = available()
    if reason is not None:
        pytest.skip(f"no io_uring: {reason}")
    each_seed("PYBPFVM_NETWORK", compare_network, count=200, seconds=20)
