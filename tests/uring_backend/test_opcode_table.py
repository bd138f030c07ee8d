"""docs/opcodes.md says what the code does."""

from __future__ import annotations

from pybpfvm.uring_backend.abi import Op, Register
from pybpfvm.uring_backend.kernel.guard import SUPPORTED
from pybpfvm.uring_backend.sim.opcodes import PREPARE
from tests.support.opcode_table import (
    BACKENDS,
    METHODS,
    PAGE,
    generated,
    has,
    opcodes_of_laws,
    page,
)


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == page(), "run python -m tests.support.opcode_table"


def test_what_both_perform_is_compared() -> None:
    opcodes, commands = generated()
    assert opcodes >= set(PREPARE) & set(SUPPORTED)
    assert Op.RECV_ZC not in opcodes
    both = {
        command
        for command, method in METHODS.items()
        if all(has(kinds, method) for kinds in BACKENDS)
    }
    assert commands == both - {Register.EVENTFD_ASYNC}  # it has a law


def test_new_opcodes_have_laws() -> None:
    laws = opcodes_of_laws()
    assert laws >= {Op.SPLICE, Op.FUTEX_WAITV, Op.WAITID, Op.MSG_RING, Op.EPOLL_WAIT, Op.LINKAT}
