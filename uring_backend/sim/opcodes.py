"""Which function prepares which opcode: what this simulated ring can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pybpfvm.uring_backend.abi import OP_LAST, Op, Sqe
from pybpfvm.uring_backend.base import EXTERNAL
from pybpfvm.uring_backend.sim import children, futexes, names, net
from pybpfvm.uring_backend.sim.advice import (
    MEMORY_ADVICE,
    prepare_fadvise,
    prepare_madvise,
    prepare_sync_file_range,
)
from pybpfvm.uring_backend.sim.buffers import prepare_provide, prepare_remove
from pybpfvm.uring_backend.sim.cancel import prepare_async_cancel
from pybpfvm.uring_backend.sim.children import prepare_waitid
from pybpfvm.uring_backend.sim.epolls import prepare_epoll_ctl, prepare_epoll_wait
from pybpfvm.uring_backend.sim.futexes import (
    prepare_futex_wait,
    prepare_futex_waitv,
    prepare_futex_wake,
)
from pybpfvm.uring_backend.sim.links import prepare_linkat, prepare_symlinkat
from pybpfvm.uring_backend.sim.messages import prepare_msg_ring
from pybpfvm.uring_backend.sim.names import (
    prepare_close,
    prepare_fallocate,
    prepare_files_update,
    prepare_fixed_fd_install,
    prepare_fsync,
    prepare_ftruncate,
    prepare_mkdirat,
    prepare_openat,
    prepare_openat2,
    prepare_renameat,
    prepare_statx,
    prepare_unlinkat,
)
from pybpfvm.uring_backend.sim.net import (
    prepare_accept,
    prepare_bind,
    prepare_connect,
    prepare_listen,
    prepare_shutdown,
    prepare_socket,
)
from pybpfvm.uring_backend.sim.pipes import prepare_pipe
from pybpfvm.uring_backend.sim.polling import prepare_poll_add, prepare_poll_remove
from pybpfvm.uring_backend.sim.rw import (
    prepare_nop,
    prepare_read_multishot,
    prepare_read_write,
)
from pybpfvm.uring_backend.sim.socketcommands import prepare_uring_cmd
from pybpfvm.uring_backend.sim.splicing import prepare_splice, prepare_tee
from pybpfvm.uring_backend.sim.timeouts import (
    prepare_link_timeout,
    prepare_timeout,
    prepare_timeout_remove,
)
from pybpfvm.uring_backend.sim.transfers import prepare_recv, prepare_send
from pybpfvm.uring_backend.sim.xattrs import prepare_getxattr, prepare_setxattr
from pybpfvm.uring_backend.sim.zerocopy import prepare_send_zc

if TYPE_CHECKING:
    from pybpfvm.memory import AddressSpace
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
    Op.POLL_ADD: prepare_poll_add,
    Op.POLL_REMOVE: prepare_poll_remove,
    Op.OPENAT: prepare_openat,
    Op.OPENAT2: prepare_openat2,
    Op.CLOSE: prepare_close,
    Op.FILES_UPDATE: prepare_files_update,
    Op.FSYNC: prepare_fsync,
    Op.FALLOCATE: prepare_fallocate,
    Op.FTRUNCATE: prepare_ftruncate,
    Op.STATX: prepare_statx,
    Op.UNLINKAT: prepare_unlinkat,
    Op.MKDIRAT: prepare_mkdirat,
    Op.RENAMEAT: prepare_renameat,
    Op.SYMLINKAT: prepare_symlinkat,
    Op.LINKAT: prepare_linkat,
    Op.SETXATTR: prepare_setxattr,
    Op.FSETXATTR: prepare_setxattr,
    Op.GETXATTR: prepare_getxattr,
    Op.FGETXATTR: prepare_getxattr,
    Op.FADVISE: prepare_fadvise,
    Op.MADVISE: prepare_madvise,
    Op.SYNC_FILE_RANGE: prepare_sync_file_range,
    Op.SPLICE: prepare_splice,
    Op.TEE: prepare_tee,
    Op.PIPE: prepare_pipe,
    Op.READV_FIXED: prepare_read_write,
    Op.WRITEV_FIXED: prepare_read_write,
    Op.READ_MULTISHOT: prepare_read_multishot,
    Op.EPOLL_CTL: prepare_epoll_ctl,
    Op.EPOLL_WAIT: prepare_epoll_wait,
    Op.FUTEX_WAIT: prepare_futex_wait,
    Op.FUTEX_WAKE: prepare_futex_wake,
    Op.FUTEX_WAITV: prepare_futex_waitv,
    Op.WAITID: prepare_waitid,
    Op.MSG_RING: prepare_msg_ring,
    Op.FIXED_FD_INSTALL: prepare_fixed_fd_install,
    Op.SOCKET: prepare_socket,
    Op.BIND: prepare_bind,
    Op.LISTEN: prepare_listen,
    Op.ACCEPT: prepare_accept,
    Op.CONNECT: prepare_connect,
    Op.SEND: prepare_send,
    Op.RECV: prepare_recv,
    Op.SENDMSG: prepare_send,
    Op.RECVMSG: prepare_recv,
    Op.SEND_ZC: prepare_send_zc,
    Op.SENDMSG_ZC: prepare_send_zc,
    Op.URING_CMD: prepare_uring_cmd,
    Op.SHUTDOWN: prepare_shutdown,
}


def unsupported(sqe: Sqe, memory: AddressSpace) -> str:
    """What mainline would do for this SQE and the simulated ring can not; "" if nothing."""
    if sqe.opcode == EXTERNAL or sqe.opcode >= OP_LAST:
        return ""
    op = Op(sqe.opcode)
    if op not in PREPARE:
        return f"opcode {op.name}"
    if op is Op.MADVISE and sqe.op_flags not in MEMORY_ADVICE:
        return f"MADVISE with advice {sqe.op_flags}"
    if op in (Op.FUTEX_WAIT, Op.FUTEX_WAKE):
        return futexes.unsupported(sqe)
    if op is Op.WAITID:
        return children.unsupported(sqe)
    return names.unsupported(sqe, memory) or net.unsupported(sqe, memory)
