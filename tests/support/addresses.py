"""Fixtures for tests that replay in their own process: a replay needs the addresses it had."""

from __future__ import annotations

import gc

import pytest

from pybpfvm.session import default_machine


@pytest.fixture(autouse=True, scope="module")
def machines_are_gone() -> None:
    """Machines that modules before this one forgot in cycles give their addresses back."""
    gc.collect()


@pytest.fixture(autouse=True)
def addresses_are_free() -> None:
    """So does the machine that everybody shares."""
    default_machine().close()
