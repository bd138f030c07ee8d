"""The simulated sockets and the kernel's make the same of generated network requests."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

import pytest

from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend.kernel import KernelBackend
from pybpfvm.uring_backend.kernel.probe import available
from pybpfvm.uring_backend.lawbench import Bench
from pybpfvm.uring_backend.sim import SimBackend
from tests.support.network_sequences import Observation, Player, generate

SEQUENCES = int(os.environ.get("PYBPFVM_NETWORK_SEQUENCES", "200"))
FIRST_SEED = int(os.environ.get("PYBPFVM_NETWORK_SEED", "1"))
TIME_LIMIT_S = 20 if SEQUENCES <= 200 else float("inf")

pytestmark = pytest.mark.kernel_ring


def test_sim_and_kernel_agree() -> None:
    reason = available()
    if reason is not None:
        pytest.skip(f"no io_uring: {reason}")
    end = time.monotonic() + TIME_LIMIT_S
    played = 0
    for seed in range(FIRST_SEED, FIRST_SEED + SEQUENCES):
        found = compare(seed)
        assert not found, "\n".join((f"PYBPFVM_NETWORK_SEED={seed}", *found))
        played += 1
        if time.monotonic() > end:
            break
    assert played >= min(SEQUENCES, 20)


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
            at = next(i for i, pair in enumerate(zip(one, two, strict=True)) if pair[0] != pair[1])
            found.append(
                f"memory at {at}: sim {one[at : at + 24].hex()} kernel {two[at : at + 24].hex()}"
            )
        else:
            found.append(f"{name}: sim {one} kernel {two}")
    return found
