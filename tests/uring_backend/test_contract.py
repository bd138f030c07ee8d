"""Every law of the contract on every backend."""

from __future__ import annotations

from functools import partial

import pytest

from pybpfvm.errors import InputError
from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend.base import Backend
from pybpfvm.uring_backend.contract import LAWS, check_law
from pybpfvm.uring_backend.kernel import KernelBackend
from pybpfvm.uring_backend.kernel.libring import LibRing
from pybpfvm.uring_backend.lawbench import Law
from pybpfvm.uring_backend.sim import SimBackend

SEEDS = (0, 1, 2)


def make_kernel_backend(memory: AddressSpace, *, flags: int = 0) -> Backend:
    try:
        return KernelBackend(memory, flags=flags)
    except InputError as refusal:
        pytest.skip(str(refusal))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_simulated_ring(law: Law, seed: int) -> None:
    check_law(partial(SimBackend, seed=seed), law)


@pytest.mark.kernel_ring
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_ring_of_the_kernel(law: Law) -> None:
    check_law(make_kernel_backend, law)


def make_liburing_backend(memory: AddressSpace, *, flags: int = 0) -> Backend:
    try:
        return KernelBackend(memory, make_ring=LibRing, flags=flags)
    except InputError as refusal:
        pytest.skip(str(refusal))


@pytest.mark.kernel_ring
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_ring_of_the_kernel_through_liburing(law: Law) -> None:
    check_law(make_liburing_backend, law)
