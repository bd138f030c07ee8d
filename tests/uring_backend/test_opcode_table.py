"""docs/opcodes.md says what the code does."""

from __future__ import annotations

from pybpfvm.uring_backend.abi import Op
from tests.support.opcode_table import PAGE, generated, opcodes_of_laws, page


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == page(), "run python -m tests.support.opcode_table"


def test_new_opcodes_are_compared() -> None:
    opcodes, _ = generated()
    for op in (Op.SPLICE, Op.FUTEX_WAITV, Op.WAITID, Op.MSG_RING, Op.EPOLL_WAIT, Op.LINKAT):
        assert op in opcodes
        assert op in opcodes_of_laws()
    assert Op.URING_CMD not in opcodes
