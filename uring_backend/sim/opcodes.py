"""Which function prepares which opcode: what this simulated ring can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.sim.buffers import prepare_provide, prepare_remove
from pybpfvm.uring_backend.sim.cancel import prepare_async_cancel
from pybpfvm.uring_backend.sim.rw import prepare_nop, prepare_read_write
from pybpfvm.uring_backend.sim.timeouts import (
    prepare_link_timeout,
    prepare_timeout,
    prepare_timeout_remove,
)

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Prepare

PREPARE: Final[Mapping[Op, Prepare]] = {
    Op.NOP: prepare_nop,
    Op.READ: prepare_read_write,
    Op.READV: prepare_read_write,
    Op.READ_FIXED: prepare_read_write,
    Op.WRITE: prepare_read_write,
    Op.WRITEV: prepare_read_write,
    Op.WRITE_FIXED: prepare_read_write,
    Op.TIMEOUT: prepare_timeout,
    Op.TIMEOUT_REMOVE: prepare_timeout_remove,
    Op.LINK_TIMEOUT: prepare_link_timeout,
    Op.ASYNC_CANCEL: prepare_async_cancel,
    Op.PROVIDE_BUFFERS: prepare_provide,
    Op.REMOVE_BUFFERS: prepare_remove,
}
