"""The simulated sockets and the kernel's make the same of generated network requests."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import zip_longest

import pytest

from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend.kernel import KernelBackend
from pybpfvm.uring_backend.kernel.probe import available
from pybpfvm.uring_backend.lawbench import Bench
from pybpfvm.uring_backend.sim import SimBackend
from tests.support.network_sequences import Observation, Player, generate
from tests.support.seeded import each_seed

pytestmark = pytest.mark.kernel_ring


def test_sim_and_kernel_agree() -> None:
    reason = available()
    if reason is not None:
        pytest.skip(f"no io_uring: {reason}")
    each_seed("PYBPFVM_NETWORK", compare, count=200, seconds=20)


def compare(seed: int) -> list[str]:
    """What differs at the first step that does, in words; empty if nothing."""
    kind, steps = generate(seed)
    with ExitStack() as stack:
        memory = stack.enter_context(AddressSpace())
        sim = Player(
            Bench(stack.enter_context(SimBackend(memory, seed=seed)), memory, SimBackend), kind
        )
        memory = stack.enter_context(AddressSpace())
        kernel = Player(
            Bench(stack.enter_context(KernelBackend(memory)), memory, KernelBackend), kind
        )
        done = []
        for step in steps:
            done.append(str(step))
            one, events, flight = sim.play(step, None)
            two, _, their_flight = kernel.play(step, (events, flight))
            if one != two or flight != their_flight:
                return [kind, *done, *in_words(one, two), f"in flight: {flight} {their_flight}"]
    return []


def in_words(ours: Observation, theirs: Observation) -> list[str]:
    names = ("host", "completions", "heads", "rings", "header", "memory")
    found = []
    for name, one, two in zip(names, ours, theirs, strict=True):
        if one == two:
            continue
        if isinstance(one, bytes) and isinstance(two, bytes):
            at = next(i for i, pair in enumerate(zip_longest(one, two)) if pair[0] != pair[1])
            found.append(
                f"{name} at {at}: sim {one[at : at + 24].hex()} kernel {two[at : at + 24].hex()}"
            )
        else:
            found.append(f"{name}: sim {one} kernel {two}")
    return found
