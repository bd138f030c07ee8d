"""The simulated ring and the running kernel's make the same of generated request sequences."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from pybpfvm.fuzz.ring_agreement import compare, differing, disturbed
from pybpfvm.fuzz.ring_sequences import Generator, play_on
from pybpfvm.uring_backend.kernel.probe import available
from pybpfvm.uring_backend.sim import SimBackend
from tests.support.seeded import each_seed

pytestmark = pytest.mark.kernel_ring


def test_sim_and_kernel_agree() -> None:
    reason = available()
    if reason is not None:
        pytest.skip(f"no io_uring: {reason}")
    each_seed("PYBPFVM_RING", compare, count=300, seconds=25)


def test_only_a_path_that_climbs_can_be_disturbed() -> None:
    """Seed 2000118 has a LINKAT (token 9) before an OPENAT of "sub/../k2" (10): -EAGAIN for the
    latter is the host's doing; for the former, or with a path that does not climb, a difference."""
    sequence = Generator(2000118).sequence()
    sim = play_on(sequence, lambda memory: SimBackend(memory, seed=1), None)
    straight = replace(sequence, pokes=[(at, lambda _: b"k2\0") for at, _ in sequence.pokes])
    assert not disturbed(sequence, sim, sim)
    for token, excused in ((10, True), (9, False)):
        other = replace(
            sim,
            events=[
                (at, -errno.EAGAIN if at == token else res, flags) for at, res, flags in sim.events
            ],
        )
        assert disturbed(sequence, sim, other) is excused
        assert not disturbed(straight, sim, other)
        assert differing(sequence, sim, other)
