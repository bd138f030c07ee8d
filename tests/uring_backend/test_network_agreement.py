"""The simulated sockets and the kernel's make the same of generated network requests."""

from __future__ import annotations

import pytest

from pybpfvm.fuzz.network_sequences import Step
from pybpfvm.fuzz.ring_agreement import compare_network, compare_steps
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.kernel.probe import available
from tests.support.seeded import each_seed

pytestmark = pytest.mark.kernel_ring
_RECV = dict.fromkeys(("first", "multishot", "message", "link", "limit", "flags"), 0)


def test_sim_and_kernel_agree() -> None:
    reason = available()
    if reason is not None:
        pytest.skip(f"no io_uring: {reason}")
    each_seed("PYBPFVM_NETWORK", compare_network, count=200, seconds=20)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(("size", "length"), [(30, 50), (90, 100), (30, 60), (30, 100), (4, 20)])
def test_a_bundle_that_waits_keeps_what_it_selected(count: int, size: int, length: int) -> None:
    """What it asks for ends in the middle of a buffer, or with one, or buffers are too few."""
    reason = available()
    if reason is not None:
        pytest.skip(f"no io_uring: {reason}")
    recv = _RECV | {"group": 2, "select": 1, "length": length, "bundle": abi.RECVSEND_BUNDLE}
    add = {"group": 2, "count": count, "size": size}
    steps = [Step("add", add), Step("recv", recv), Step("peer_send", {"size": 170})]
    assert compare_steps(1, "tcp", steps) == []
