"""The requests a KernelBackend has in flight: what their CQEs mean, and who waits for whom.

The real ring is asked to post a CQE for everything, so that every request is seen to end; the
CQEs that IOSQE_CQE_SKIP_SUCCESS would have kept back are dropped here, by the kernel's rule:

    a success of a request with the flag posts nothing;
    a failure always posts, and when the failed request has the flag, those it takes with it
    (cancelled members of its chain) post nothing; otherwise they all post.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from enum import Enum

from pybpfvm.bits import U32, s64
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.base import EXTERNAL
from pybpfvm.uring_backend.kernel.gates import Gate
from pybpfvm.uring_backend.kernel.guard import TOKEN_LIMIT
from pybpfvm.uring_backend.requests import DirectRequests

_TRANSFERS = frozenset({Op.READ, Op.WRITE, Op.READ_FIXED, Op.WRITE_FIXED, Op.SPLICE, Op.TEE})
_MESSAGES = frozenset({Op.SEND, Op.RECV, Op.SEND_ZC})
_VECTOR_MESSAGES = frozenset({Op.SENDMSG, Op.RECVMSG, Op.SENDMSG_ZC})
ZERO_COPY = frozenset({Op.SEND_ZC, Op.SENDMSG_ZC})

_SET_XATTRS = frozenset({Op.SETXATTR, Op.FSETXATTR})
_XATTRS = _SET_XATTRS | {Op.GETXATTR, Op.FGETXATTR}
_REFUSED = (-errno.ECANCELED, -errno.EBADF, -errno.ENOTSOCK)
_BAD_TIMEOUT = (-errno.EINVAL, -errno.EFAULT)  # refused as an SQE, and the chain with it
_NO_SLOT = (-errno.ENXIO, -errno.EINVAL, -errno.ENFILE)
# What a LINK_TIMEOUT ends with is never a failure, once it was accepted.
_LINK_TIMEOUT_ENDS = (-errno.ECANCELED, -errno.ETIME, -errno.ENOENT, -errno.EALREADY)


class Chain:
    """Requests linked to one another, or a single one, in order.

    `drain`: the chain waits for everything submitted before it. `broken_at` is the position of
    the member whose failure cancelled the rest, `silent` whether the rest posts nothing.
    `fresh`: the submission is not over yet. A chain with a bad SQE is `cancelled` within it as
    a whole, hard links or not.
    """

    __slots__ = (
        "broken_at",
        "cancelled",
        "drain",
        "first_live",
        "fresh",
        "hard_failure",
        "members",
        "silent",
    )

    def __init__(self, drain: bool) -> None:
        self.members: list[Entry] = []
        self.drain = drain
        self.first_live = 0
        self.broken_at = -1
        self.silent = False
        self.fresh = True
        self.cancelled = False
        self.hard_failure = False  # the head failed, and has a hard link

    def add(self, entry: Entry) -> None:
        """Put `entry` at the end."""
        entry.position = len(self.members)
        if entry.opcode == Op.LINK_TIMEOUT:  # it needs another kind of request before it
            before = self.members[-1].opcode if self.members else Op.LINK_TIMEOUT
            entry.bad_sqe |= before == Op.LINK_TIMEOUT
        self.members.append(entry)

    def held(self) -> bool:
        """Whether nothing here can move before the caller finishes an external request."""
        members = self.members
        while self.first_live < len(members) and members[self.first_live].done:
            self.first_live += 1
        if self.first_live == len(members):
            return True
        head = members[self.first_live]
        if not (isinstance(head, External) and head.stage is Stage.RUNNING):
            return False
        behind = members[head.position + 1 : head.position + 2]
        return not (behind and behind[0].opcode == Op.LINK_TIMEOUT)

    def posts(self, entry: Entry, res: int) -> bool:
        """Whether the last CQE of `entry` is to be seen; call once per entry, in CQE order."""
        position = entry.position
        if self.hard_failure and entry.opcode != Op.LINK_TIMEOUT:
            self.hard_failure = False
            # A hard link goes on after a failure, but not if the chain was never accepted.
            self.cancelled |= entry.bad_sqe or (self.fresh and res == -errno.ECANCELED)
        if position and entry.opcode == Op.LINK_TIMEOUT and res in _BAD_TIMEOUT:
            self.cancelled = True
        broken_at = 0 if self.cancelled else self.broken_at
        if (
            entry.opcode == Op.LINK_TIMEOUT
            and res in _LINK_TIMEOUT_ENDS
            and (broken_at < 0 or broken_at >= position - 1)
        ):
            return not entry.skip
        if self.cancelled:
            return not self.members[0].skip
        if self.broken_at >= 0:
            return not self.silent
        failed = entry.failed(res)
        if failed and not entry.hardlink:
            self.broken_at = position
            self.silent = entry.skip
        elif failed and position == 0:
            self.hard_failure = True
        if position == 0 and (entry.bad_sqe or (self.fresh and res == -errno.ECANCELED)):
            self.cancelled = True
        return failed or not entry.skip


class Entry:
    """A request of the caller with something to remember; plain ones have no Entry.

    `expected` is the result that counts as complete (a shorter one breaks links), -1 if any.
    `bad_sqe`: mainline refuses the SQE itself (known only where it makes a difference).
    `has_file`: it is not refused for want of a file, so -EBADF is a result like others.
    `into_slot`: it makes a socket; that it finds no slot is no failure.
    `vector_counts`: less than its iovecs ask for is such a result.
    `shows_skip`: mainline looks at its skip flag (a worse SQE is refused before that).
    `after` is called with each result >= 0 or -errno before the completion is reported.
    `names`: the descriptors that the kernel may look up later than at once. `closes`: the one
    that it is to close, -1 if none.
    """

    __slots__ = (
        "after",
        "bad_sqe",
        "chain",
        "closes",
        "done",
        "etime_success",
        "expected",
        "hardlink",
        "has_file",
        "into_slot",
        "kept",
        "names",
        "opcode",
        "position",
        "shows_skip",
        "skip",
        "token",
        "vector_counts",
    )

    def __init__(self, sqe: Sqe, chain: Chain) -> None:
        self.token = sqe.user_data
        self.opcode = sqe.opcode
        self.skip = bool(sqe.flags & abi.SQE_CQE_SKIP_SUCCESS)
        self.hardlink = bool(sqe.flags & abi.SQE_IO_HARDLINK)
        self.expected = -1
        whole = sqe.opcode in _MESSAGES and sqe.op_flags & abi.MSG_WAITALL
        if (sqe.opcode in _TRANSFERS or whole) and not sqe.flags & abi.SQE_BUFFER_SELECT:
            self.expected = min(sqe.len, abi.MAX_RW_COUNT)
        elif sqe.opcode == Op.READ:
            self.expected = 1  # the size of the buffer is not known here, but 0 is the end
        self.etime_success = sqe.opcode == Op.TIMEOUT and bool(
            sqe.op_flags & abi.TIMEOUT_ETIME_SUCCESS
        )
        self.bad_sqe = _is_bad(sqe)
        self.after: list[Callable[[int], None]] = []
        self.has_file = False
        self.shows_skip = False
        self.vector_counts = sqe.opcode not in _VECTOR_MESSAGES or bool(
            sqe.op_flags & abi.MSG_WAITALL
        )
        self.kept: object = None
        self.names: tuple[int, ...] = ()
        self.closes = -1
        self.into_slot = sqe.opcode == Op.SOCKET and sqe.file_index != 0
        self.done = False
        self.position = 0
        self.chain = chain
        chain.add(self)

    def failed(self, res: int) -> bool:
        """Whether the kernel counts this result as a failure, which breaks a soft link."""
        if res < 0:
            refused = res in _REFUSED and not (self.has_file and res == -errno.EBADF)
            if self.opcode in abi.NEVER_FAILS and not refused:
                return self.bad_sqe
            if self.into_slot and res in _NO_SLOT:
                return self.bad_sqe
            return not (self.etime_success and res == -errno.ETIME)
        return 0 <= res < self.expected


def _is_bad(sqe: Sqe) -> bool:
    """Whether mainline refuses the SQE before it comes to issuing it.

    Complete for abi.NEVER_FAILS, but for personalities and what the SQE points to (see Effect);
    for other opcodes only what all have in common.
    """
    if sqe.opcode == EXTERNAL:
        return False
    if sqe.opcode >= abi.OP_LAST or sqe.flags & ~abi.SQE_VALID_FLAGS:
        return True
    info = abi.OPS[Op(sqe.opcode)]
    if sqe.flags & abi.SQE_BUFFER_SELECT and not info.buffer_select:
        return True
    if sqe.flags & abi.SQE_CQE_SKIP_SUCCESS and sqe.flags & abi.SQE_IO_DRAIN:
        return True
    if sqe.ioprio and not info.ioprio:
        return True
    if sqe.opcode == Op.NOP:
        return sqe.op_flags >= abi.NOP_CQE32 << 1
    if sqe.opcode == Op.SOCKET:
        kind = sqe.off & U32 & ~0xF
        cloexec = sqe.file_index and kind & abi.SOCK_CLOEXEC
        unknown = kind & ~(abi.SOCK_CLOEXEC | abi.SOCK_NONBLOCK)
        return bool(sqe.addr or sqe.op_flags or sqe.buf_index or cloexec or unknown)
    if sqe.opcode in (Op.SPLICE, Op.TEE):
        known = abi.SPLICE_F_ALL | abi.SPLICE_F_FD_IN_FIXED
        placed = sqe.opcode == Op.TEE and (sqe.addr or sqe.off)
        return bool(sqe.op_flags & ~known or placed)
    if sqe.opcode == Op.MSG_RING:
        known = abi.MSG_RING_CQE_SKIP | abi.MSG_RING_FLAGS_PASS
        return bool(sqe.op_flags & ~known or sqe.buf_index or sqe.personality)
    return sqe.opcode in abi.NEVER_FAILS and _is_bad_quiet(sqe)


def _is_bad_quiet(sqe: Sqe) -> bool:
    if sqe.opcode in _XATTRS:
        known = abi.XATTR_CREATE | abi.XATTR_REPLACE if sqe.opcode in _SET_XATTRS else 0
        too_long = sqe.opcode in _SET_XATTRS and sqe.len > abi.XATTR_SIZE_MAX
        by_path = sqe.opcode in (Op.SETXATTR, Op.GETXATTR)
        fixed = by_path and sqe.flags & abi.SQE_FIXED_FILE
        return bool(fixed or sqe.op_flags & ~known or too_long)
    if sqe.buf_index or sqe.file_index:
        return True
    match sqe.opcode:
        case Op.MADVISE:
            return False
        case Op.SYNC_FILE_RANGE:
            return bool(sqe.addr)
        case Op.FSYNC:
            return bool(sqe.addr or sqe.op_flags & ~abi.FSYNC_DATASYNC or s64(sqe.off) < 0)
        case Op.FALLOCATE:
            return bool(sqe.op_flags)
        case Op.FTRUNCATE:
            return bool(sqe.op_flags or sqe.addr or sqe.len or sqe.addr3)
        case Op.SHUTDOWN:
            return bool(sqe.off or sqe.addr or sqe.op_flags)
    if sqe.flags & abi.SQE_FIXED_FILE:
        return True
    if sqe.opcode == Op.SYMLINKAT:
        return bool(sqe.len or sqe.op_flags)
    if sqe.opcode == Op.UNLINKAT:
        return bool(sqe.off or sqe.len or sqe.op_flags & ~abi.AT_REMOVEDIR)
    return sqe.opcode == Op.MKDIRAT and bool(sqe.off or sqe.op_flags)


class Stage(Enum):
    """Where an external request is."""

    WAITING = "its turn has not come"
    RUNNING = "the caller performs it"
    FINISHED = "over"


class External(Entry):
    """A request that the caller performs. `gate` is its pipe, when others wait behind it;
    `fenced` says that a drain already waits for it; `doomed` that the caller gave it up."""

    __slots__ = ("doomed", "fenced", "gate", "stage")

    def __init__(self, sqe: Sqe, chain: Chain) -> None:
        super().__init__(sqe, chain)
        self.stage = Stage.WAITING
        self.gate: Gate | None = None
        self.fenced = False
        self.doomed = False


class Closing(External):
    """A CLOSE that this backend performs when its turn has come, because requests that wait may
    name the descriptor."""

    __slots__ = ("fd",)

    def __init__(self, sqe: Sqe, chain: Chain) -> None:
        super().__init__(sqe, chain)
        self.fd = sqe.fd


class Start:
    """The hidden NOP of an external request."""

    __slots__ = ("external",)

    def __init__(self, external: External) -> None:
        self.external = external


class CancelAll:
    """Hidden cancels that stand for one ASYNC_CANCEL with ANY: what they found so far."""

    __slots__ = ("found", "left", "token")

    def __init__(self, token: int, left: int) -> None:
        self.token = token
        self.left = left
        self.found = 0


Hidden = Start | Gate | CancelAll
Record = int | Entry | Hidden
"""What to remember of a real request; an int is the opcode of one with nothing to remember."""


class InFlight:
    """What the kernel has: the caller's requests by token, in order, and the hidden ones.

    `renames`: the token that a POLL_REMOVE is giving a poll -> the one it has. `skip_seen`: the
    caller used the skip flag; `drains_off`: the kernel refuses drains for it. `drains`: requests
    in chains with a drain, which hold back whatever is submitted after them; `drained`: the
    kernel may not know yet that they are over; `looks`: NOPs to make it look; `drain_next`: it
    takes the next request, behind such a chain, for one that drains.
    """

    def __init__(self) -> None:
        self.direct: DirectRequests | None = None  # what compiled code issued, and nobody claimed
        self.live: dict[int, int | Entry] = {}
        self.hidden: dict[int, Hidden] = {}
        self.renames: dict[int, int] = {}
        self.skip_seen = False
        self.drains_off = False
        self.drains = 0
        self.drained = False
        self.looks = 0
        self.drain_next = False
        self._last_hidden = TOKEN_LIMIT

    def claim_all(self) -> None:
        """Let `live` have all there are."""
        if self.direct is not None:
            self.direct.claim_all()

    def hidden_token(self) -> int:
        """user_data that was never used."""
        self._last_hidden += 1
        return self._last_hidden

    def rename(self, old: int, new: int, res: int) -> None:
        """A POLL_REMOVE that gives a poll another token ended with `res`."""
        self.renames.pop(new, None)
        if res >= 0 and old in self.live and new not in self.live:
            entry = self.live.pop(old)
            if isinstance(entry, Entry):
                entry.token = new
            self.live[new] = entry

    def externals(self) -> list[External]:
        """The external requests that are not over."""
        return [entry for entry in self.live.values() if isinstance(entry, External)]

    def kept_back(self, token: int) -> bool:
        """Whether the live request `token` is one of a chain that drains, or behind one that is not
        over: while somebody else's turn is, its own is not."""
        for other, entry in self.live.items():
            if isinstance(entry, Entry) and entry.chain.drain:
                return True
            if other == token:
                return False
        return False

    def can_move(self) -> bool:
        """Whether something may complete without the caller finishing an external request: what is
        done and still here waits for its notification."""
        return can_move(
            None if isinstance(entry, int) or entry.done else entry.chain
            for entry in self.live.values()
        )


def can_move(units: Iterable[Chain | None]) -> bool:
    """Whether one of the live chains, given in the order of submission, can go on by itself.

    None stands for a single plain request, which always can. A chain with a drain waits for all
    before it, and what came after it waits for the drain.
    """
    earlier = False
    for chain in units:
        if chain is None:
            return True
        if chain.drain and earlier:
            return False  # all before it are held, and everything behind it is, too
        if not chain.held():
            return True
        earlier = True
    return False
