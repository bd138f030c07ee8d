"""The Backend over the running kernel's io_uring.

Requests go to one real ring, in the order given and with their flags; user_data is the caller's
token. Three things are ours: every SQE passes the guard, IOSQE_CQE_SKIP_SUCCESS is played here
(see `requests`), and an external request is played by hidden ones:

    alone        NOP [|DRAIN]            its CQE is "Started"; nothing else waits for it
    in a chain   NOP|LINK [|DRAIN]  →  READ of a pipe, 2 bytes, with the request's own link flag
    later drain  one more READ of a pipe, submitted before the draining request, keeps it back

`finish` writes 2 bytes, or 1 after a failure: the short read breaks the chain as any failed
request does. Hidden requests carry user_data from TOKEN_LIMIT up and are never reported.

One thread uses a backend, and a forked child must not. A TIMEOUT with a completion count counts
the CQEs of the real ring, hidden ones included: who needs the count exact (the ring above does)
counts by itself. Document: the project's notes on host supervision, section 5.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pybpfvm.errors import InputError, InternalError, RingError, UnsupportedError, errno_name
from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.base import EXTERNAL, Completion, Started
from pybpfvm.uring_backend.kernel.guard import NO_TOKEN, SUPPORTED, TOKEN_LIMIT, Guard
from pybpfvm.uring_backend.kernel.requests import (
    Chain,
    Entry,
    External,
    Gate,
    Stage,
    can_move,
)
from pybpfvm.uring_backend.kernel.sysring import SysRing
from pybpfvm.uring_backend.kernel.world import KernelWorld

DEFAULT_ENTRIES = 1024
_CQ_ENTRIES = 32768  # large, because a full CQ ends multishot requests
_CLOSE_LIMIT_NS = 10_000_000_000
_CLOSE_STEP_NS = 20_000_000
_ANY_LINK = abi.SQE_ANY_LINK
_ORDERED = _ANY_LINK | abi.SQE_IO_DRAIN | abi.SQE_CQE_SKIP_SUCCESS
_OPENERS = frozenset({Op.OPENAT, Op.OPENAT2, Op.ACCEPT, Op.SOCKET})
_WATCHED = _OPENERS | {Op.CLOSE, Op.POLL_REMOVE, EXTERNAL}
# What no kernel knows is passed on, for its -EINVAL.
_ACCEPTED = SUPPORTED | frozenset(range(abi.OP_LAST, 256))
_ON_NAMES = frozenset({Op.STATX, Op.UNLINKAT, Op.MKDIRAT, Op.RENAMEAT})
_CANCELS_MANY = abi.ASYNC_CANCEL_ANY | abi.ASYNC_CANCEL_OP

# The kernel refuses drains on a ring that ever saw the skip flag. As it does not see those of the
# caller, it is shown this before a drain that must be refused.
_NO_DRAINS = Sqe(Op.NOP, flags=abi.SQE_CQE_SKIP_SUCCESS, user_data=NO_TOKEN)


class _Start:
    """The hidden NOP of an external request."""

    __slots__ = ("external",)

    def __init__(self, external: External) -> None:
        self.external = external


class _CancelAll:
    """Hidden cancels that stand for one ASYNC_CANCEL with ANY: what they found so far."""

    __slots__ = ("found", "left", "token")

    def __init__(self, token: int, left: int) -> None:
        self.token = token
        self.left = left
        self.found = 0


# A real SQE; how many of the caller's are consumed with it; its user_data; what to remember
# (an opcode: a plain request; None: it never posts a CQE).
_Planned = tuple[bytes, int, int, "int | Entry | _Start | Gate | _CancelAll | None"]


class KernelBackend:
    """Backend (see pybpfvm.uring_backend.base) on the running kernel.

    `entries` bounds what one chain may hold. Raises InputError where the kernel refuses a ring.
    Requests may reach blocks of `memory` until `close`, which closing the memory calls first.
    """

    name = "kernel"

    def __init__(self, memory: AddressSpace, *, entries: int = DEFAULT_ENTRIES) -> None:
        if entries < 1:
            raise InputError(f"a ring of {entries} entries", remedy="ask for 1 or more")
        # Twice as many, because an external request in a chain takes two.
        self._ring = SysRing(min(2 * entries, abi.MAX_SQ_ENTRIES), cq_entries=_CQ_ENTRIES)
        try:
            self.world = KernelWorld()
        except BaseException:
            self._ring.close()
            raise
        self._memory = memory
        self._guard = Guard(memory, self.world)
        self._events: list[Completion | Started] = []
        self._lone_externals: list[External] = []  # planned by the submit that is under way
        self._live: dict[int, int | Entry] = {}  # by token, in the order of submission
        self._hidden: dict[int, _Start | Gate | _CancelAll] = {}
        self._renames: dict[int, int] = {}  # token a poll is to have -> token it has
        self._next_hidden = TOKEN_LIMIT
        self._idle_gates: list[Gate] = []
        self._gates: set[Gate] = set()
        self._skip_seen = self._skip_planned = False  # by the kernel; in this submission
        self._drains_off = False  # the kernel was shown _NO_DRAINS
        self._fresh: list[Chain] = []  # of the submission under way
        self._closed = False
        memory.before_close(self.close)

    def __enter__(self) -> KernelBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the protocol -------------------------------------------------------------------------

    def now_ns(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC since the backend was made."""
        return self._guard.now_ns()

    def submit(self, sqes: Sequence[bytes]) -> int:
        """Issue SQEs with as few io_uring_enter calls as they fit in (one, up to `entries`).

        UnsupportedError, with nothing consumed, for an opcode that must not reach the kernel.
        """
        self._check_open()
        for raw in sqes:
            if raw[0] not in _ACCEPTED:
                raise UnsupportedError(
                    f"opcode {Op(raw[0]).name} on the kernel's ring",
                    remedy=f"use one of {', '.join(op.name for op in sorted(SUPPORTED))}",
                )
        self._reap()
        consumed = 0
        self._skip_planned = False
        batch: list[_Planned] = []
        for plan in self._plan(sqes):
            if len(batch) + len(plan) > self._ring.sq_entries:
                if len(plan) > self._ring.sq_entries:
                    raise InputError(
                        f"a chain of {len(plan)} requests",
                        where="kernel ring",
                        remedy="make the ring with more entries",
                    )
                consumed, complete = self._issue(batch, consumed)
                batch = []
                if not complete:
                    break
            batch.extend(plan)
        if batch:
            consumed, _ = self._issue(batch, consumed)
        self._reap()
        for chain in self._fresh:
            chain.fresh = False
        self._fresh.clear()
        self._lone_externals.clear()
        return consumed

    def poll(self) -> list[Completion | Started]:
        """What has happened and was not reported yet, in order."""
        if not self._closed:
            self._reap()
        events, self._events = self._events, []
        return events

    def wait(self, timeout_ns: int | None) -> bool:
        """Sleep in io_uring_enter until `poll` has something; False when the time is over.

        False at once when nothing in flight can go on by itself.
        """
        self._check_open()
        deadline = None if timeout_ns is None else time.monotonic_ns() + timeout_ns
        left = timeout_ns
        while True:
            self._reap()
            if self._events:
                return True
            if not self.can_progress() or (left is not None and left <= 0):
                return False
            result = self._ring.wait(left)
            if result < 0 and result not in (-errno.EINTR, -errno.ETIME):
                raise RingError(-result, "io_uring_enter refused to wait")
            if deadline is not None:
                left = deadline - time.monotonic_ns()

    def can_progress(self) -> bool:
        """Whether something in flight may complete without the caller finishing an external
        request. What waits for the outside (a peer, a pipe) counts as able to."""
        return can_move(
            None if isinstance(entry, int) else entry.chain for entry in self._live.values()
        )

    def finish(self, token: int, *, failed: bool = False) -> None:
        """End an external request that was Started."""
        external = self._live.get(token)
        if not isinstance(external, External) or external.stage is not Stage.RUNNING:
            raise InternalError(f"request {token} is not a started external one")
        external.chain.posts(external, -errno.EIO if failed else 0)
        self._end(external, failed=failed)
        self._reap()

    def cancel_external(self, token: int) -> None:
        """Forget an external request that has not started; its chain is cancelled in its turn."""
        external = self._live.get(token)
        if not isinstance(external, External) or external.stage is not Stage.WAITING:
            raise InternalError(f"request {token} is not an external one that waits")
        external.doomed = True

    def register_files(self, fds: Sequence[int]) -> int:
        """IORING_REGISTER_FILES; foreign descriptors are -EBADF."""
        return self._register_fds(abi.REGISTER_FILES, fds)

    def update_files(self, offset: int, fds: Sequence[int]) -> int:
        """IORING_REGISTER_FILES_UPDATE."""
        self._check_open()
        array = (ctypes.c_int32 * len(fds))(*self._guard.copy_fds(fds))
        update = (ctypes.c_uint32 * 4)(offset & 0xFFFFFFFF, 0)
        ctypes.c_uint64.from_buffer(update, 8).value = ctypes.addressof(array)
        return self._ring.register(abi.REGISTER_FILES_UPDATE, ctypes.addressof(update), len(fds))

    def unregister_files(self) -> int:
        """IORING_UNREGISTER_FILES."""
        self._check_open()
        return self._ring.register(abi.UNREGISTER_FILES, 0, 0)

    def register_buffers(self, buffers: Sequence[tuple[int, int]]) -> int:
        """IORING_REGISTER_BUFFERS; what is not user memory is -EFAULT."""
        self._check_open()
        packed = bytearray()
        for addr, size in buffers:
            inside = self._memory.is_user(addr, size)
            packed += abi.IOVEC.pack(addr if inside else self._guard.fault_addr, size)
        array = ctypes.create_string_buffer(bytes(packed), max(len(packed), 1))
        return self._ring.register(abi.REGISTER_BUFFERS, ctypes.addressof(array), len(buffers))

    def unregister_buffers(self) -> int:
        """IORING_UNREGISTER_BUFFERS."""
        self._check_open()
        return self._ring.register(abi.UNREGISTER_BUFFERS, 0, 0)

    def in_flight(self) -> int:
        """Requests submitted and not completed."""
        return len(self._live)

    def close(self) -> None:
        """Cancel and reap everything, then give back ring, descriptors and files."""
        if self._closed:
            return
        self._cancel_everything()
        self._closed = True
        self._memory.forget_before_close(self.close)
        self._ring.close()
        for gate in self._gates:
            os.close(gate.reader)
            os.close(gate.writer)
        self._gates.clear()
        self._live.clear()
        self._hidden.clear()
        self.world.close_all()

    # --- from the caller's SQEs to real ones -----------------------------------------------------

    def _plan(self, sqes: Sequence[bytes]) -> Iterator[list[_Planned]]:
        """Per chain, the real SQEs that stand for the caller's; hidden ones included."""
        index, count = 0, len(sqes)
        while index < count:
            raw = sqes[index]
            opcode, flags = raw[0], raw[1]
            index += 1
            plain = not flags & _ORDERED and opcode not in _WATCHED
            if plain and not (opcode == Op.ASYNC_CANCEL and self._hidden):
                real, effect = self._guard.admit(raw)
                if effect is None:
                    yield [(real, index, int.from_bytes(raw[32:40], "little"), opcode)]
                    continue
            first = index - 1
            while sqes[index - 1][1] & _ANY_LINK and index < count:
                index += 1
            yield list(self._plan_chain([Sqe.unpack(raw) for raw in sqes[first:index]], first))

    def _plan_chain(self, members: list[Sqe], before: int) -> Iterator[_Planned]:
        drain = any(sqe.flags & abi.SQE_IO_DRAIN for sqe in members)
        skips = [at for at, sqe in enumerate(members) if _asks_to_skip(sqe)]
        refused_from = 0 if self._skip_seen or self._skip_planned else (skips or [len(members)])[0]
        if drain and not self._drains_off:
            last_drain = max(at for at, sqe in enumerate(members) if sqe.flags & abi.SQE_IO_DRAIN)
            if refused_from <= last_drain:
                yield _NO_DRAINS.pack(), before, NO_TOKEN, None
        self._skip_planned |= bool(skips)
        if drain:
            yield from self._fence(before)
        chain = Chain(drain)
        self._fresh.append(chain)
        lone = len(members) == 1 and not members[0].flags & _ANY_LINK
        for consumed, sqe in enumerate(members, before + 1):
            if sqe.opcode == EXTERNAL:
                yield from self._plan_external(sqe, chain, consumed, lone)
                continue
            if sqe.opcode == Op.ASYNC_CANCEL and self._hits_hidden(sqe):
                if lone and not sqe.flags & _ORDERED:
                    yield from self._plan_cancel(sqe, consumed)
                    continue
                sqe = replace(sqe, op_flags=0, addr=NO_TOKEN)
            entry = Entry(sqe, chain)
            entry.shows_skip = entry.position in skips
            if sqe.flags & abi.SQE_IO_DRAIN and entry.position >= refused_from:
                entry.bad_sqe = True
            fixed = sqe.flags & abi.SQE_FIXED_FILE
            entry.has_file = sqe.opcode in _ON_NAMES or (not fixed and sqe.fd in self.world.owned)
            self._watch(entry, sqe)
            flags = sqe.flags & ~abi.SQE_CQE_SKIP_SUCCESS
            if entry.skip and sqe.opcode == Op.POLL_ADD and sqe.len & abi.POLL_ADD_MULTI:
                sqe = replace(sqe, len=0xFFFFFFFF)  # the pair is -EINVAL, as unknown flags are
            real, effect = self._guard.admit(replace(sqe, flags=flags).pack())
            if effect is not None:
                entry.kept = effect.kept
                entry.bad_sqe |= effect.bad_sqe
                if effect.total >= 0 and not flags & abi.SQE_BUFFER_SELECT:
                    entry.expected = min(effect.total, abi.MAX_RW_COUNT)
                if effect.on_result is not None:
                    entry.after.append(effect.on_result)
            yield real, consumed, sqe.user_data, entry

    def _plan_external(
        self, sqe: Sqe, chain: Chain, consumed: int, lone: bool
    ) -> Iterator[_Planned]:
        external = External(sqe, chain)
        start = Sqe(Op.NOP, flags=sqe.flags & abi.SQE_IO_DRAIN, user_data=self._hidden_token())
        if lone:
            self._lone_externals.append(external)
            yield start.pack(), consumed, start.user_data, _Start(external)
            return
        external.gate = gate = self._take_gate({sqe.user_data})
        start = replace(start, flags=start.flags | abi.SQE_IO_LINK)
        yield start.pack(), consumed - 1, start.user_data, _Start(external)
        kept = _ANY_LINK
        if external.position:
            # Where drains are refused, the last of a chain decides whether the batch ends. (At
            # the head, a second drain would hold back what comes after the chain.)
            kept |= abi.SQE_IO_DRAIN
        yield self._read_gate(gate, sqe.flags & kept, consumed)

    def _fence(self, before: int) -> Iterator[_Planned]:
        """A hidden READ that a drain finds in flight while lone external requests are not over."""
        issued = [entry for entry in self._live.values() if isinstance(entry, External)]
        in_this_call = [entry for entry in self._lone_externals if entry.token not in self._live]
        loose = [
            entry for entry in issued + in_this_call if entry.gate is None and not entry.fenced
        ]
        if loose:
            for external in loose:
                external.fenced = True
            gate = self._take_gate({external.token for external in loose})
            yield self._read_gate(gate, 0, before)

    def _read_gate(self, gate: Gate, flags: int, consumed: int) -> _Planned:
        token = self._hidden_token()
        read = Sqe(
            Op.READ,
            flags=flags,
            fd=gate.reader,
            off=abi.CURRENT_POSITION,
            addr=gate.buffer_addr,
            len=2,
            user_data=token,
        )
        return read.pack(), consumed, token, gate

    def _watch(self, entry: Entry, sqe: Sqe) -> None:
        """Follow the results that change which descriptors and tokens exist."""
        if sqe.opcode in _OPENERS and not sqe.file_index:
            entry.after.append(self._opened)
        elif sqe.opcode == Op.CLOSE and not sqe.file_index:
            fd = sqe.fd
            entry.after.append(lambda res: self._was_closed(fd, res))
        elif sqe.opcode == Op.POLL_REMOVE and sqe.len & abi.POLL_UPDATE_USER_DATA:
            old, new = sqe.addr, sqe.off
            self._renames[new] = old
            entry.after.append(lambda res: self._renamed(old, new, res))

    def _hits_hidden(self, sqe: Sqe) -> bool:
        """Whether a cancel could find a hidden READ (naming tokens or descriptors, it can not)."""
        if not self._gates or len(self._idle_gates) == len(self._gates):
            return False
        if sqe.op_flags & abi.ASYNC_CANCEL_OP and sqe.len != Op.READ:
            return False
        return bool(sqe.op_flags & _CANCELS_MANY)

    def _plan_cancel(self, sqe: Sqe, consumed: int) -> Iterator[_Planned]:
        """ASYNC_CANCEL with ANY or OP, spelled out so that hidden requests are not found."""
        by_opcode = sqe.op_flags & abi.ASYNC_CANCEL_OP
        targets = [
            token
            for token, entry in self._live.items()
            if not isinstance(entry, External)
            and (not by_opcode or (entry if isinstance(entry, int) else entry.opcode) == sqe.len)
        ]
        cancel = Sqe(Op.ASYNC_CANCEL, addr=NO_TOKEN, user_data=sqe.user_data)
        if not sqe.op_flags & abi.ASYNC_CANCEL_ALL:
            cancel = replace(cancel, addr=targets[0] if targets else NO_TOKEN)
            yield cancel.pack(), consumed, sqe.user_data, sqe.opcode
            return
        group = _CancelAll(sqe.user_data, max(len(targets), 1))
        for target in targets or [NO_TOKEN]:
            token = self._hidden_token()
            yield replace(cancel, addr=target, user_data=token).pack(), consumed, token, group

    def _issue(self, batch: Sequence[_Planned], before: int) -> tuple[int, bool]:
        """One io_uring_enter. (The caller's SQEs consumed so far, whether all of the batch was.)"""
        taken = self._ring.submit([planned[0] for planned in batch])
        if taken < 0:
            raise RingError(-taken, f"io_uring_enter refused {len(batch)} SQEs")
        consumed = before
        live, hidden = self._live, self._hidden
        for _, consumed, token, record in batch[:taken]:  # noqa: B007 - the last one counts
            if record is None:
                self._drains_off = True
                continue
            if token >= TOKEN_LIMIT:
                assert not isinstance(record, (int, Entry)), (
                    "hidden requests have their own records"
                )
                hidden[token] = record
                if isinstance(record, _Start):
                    live[record.external.token] = record.external
                elif isinstance(record, _CancelAll):
                    live[record.token] = int(Op.ASYNC_CANCEL)
            else:
                assert isinstance(record, (int, Entry)), "a token of the caller"
                live[token] = record
                if isinstance(record, Entry):
                    self._skip_seen |= record.shows_skip
        for _, _, _, record in batch[taken:]:
            if isinstance(record, Gate):
                self._idle_gates.append(record)
        return consumed, taken == len(batch)

    # --- from CQEs to events ----------------------------------------------------------------------

    def _reap(self) -> None:
        """Turn the CQEs that are there into events."""
        live, events = self._live, self._events
        for token, res, flags in self._ring.reap():
            entry = live.get(token)
            if entry.__class__ is int:
                if not flags & abi.CQE_F_MORE:
                    del live[token]
                events.append(Completion(token, res, flags))
            else:
                self._complete(token, res, flags)

    def _complete(self, token: int, res: int, flags: int) -> None:
        if token == NO_TOKEN:
            return  # _NO_DRAINS, cancelled behind a drain
        record = self._hidden.get(token)
        if record is not None:
            del self._hidden[token]
            self._complete_hidden(record, res)
            return
        entry = self._live.get(token)
        if entry is None and token in self._renames:
            self._renamed(self._renames[token], token, 0)
            entry = self._live.get(token)
        if entry is None:
            raise InternalError(f"the kernel completed {token:#x}, which is not in flight")
        posts = True
        if isinstance(entry, Entry):
            for action in entry.after:
                action(res)
            if not flags & abi.CQE_F_MORE:
                entry.done = True
                posts = entry.chain.posts(entry, res)
        if not flags & abi.CQE_F_MORE:
            del self._live[token]
        if posts:
            self._events.append(Completion(token, res, flags))

    def _complete_hidden(self, record: _Start | Gate | _CancelAll, res: int) -> None:
        if isinstance(record, Gate):
            if record.opened and res < 0:  # cancelled with bytes in it: never used again
                self._drop_gate(record)
            else:
                self._idle_gates.append(record)
        elif isinstance(record, _CancelAll):
            record.left -= 1
            record.found += res != -errno.ENOENT
            if record.left == 0:
                del self._live[record.token]
                self._events.append(Completion(record.token, record.found, 0))
        else:
            external = record.external
            if res < 0:
                posts = external.chain.posts(external, res) and not external.doomed
                self._end(external, failed=True, open_gate=False)
                if posts:
                    self._events.append(Completion(external.token, res, 0))
            elif external.doomed:
                external.chain.posts(external, -errno.ECANCELED)
                self._end(external, failed=True)
            else:
                external.stage = Stage.RUNNING
                self._events.append(Started(external.token))

    def _end(self, external: External, *, failed: bool, open_gate: bool = True) -> None:
        external.stage = Stage.FINISHED
        external.done = True
        del self._live[external.token]
        for gate in [gate for gate in self._gates if external.token in gate.waits_for]:
            gate.waits_for.discard(external.token)
            if (open_gate or external.gate is not gate) and not gate.waits_for:
                self._open_gate(gate, failed=failed and external.gate is gate)

    def _opened(self, res: int) -> None:
        if res >= 0:
            self.world.adopt(res)

    def _was_closed(self, fd: int, res: int) -> None:
        if res not in (-errno.ECANCELED, -errno.EBADF, -errno.EINVAL):
            self.world.disown(fd)

    def _renamed(self, old: int, new: int, res: int) -> None:
        self._renames.pop(new, None)
        if res >= 0 and old in self._live and new not in self._live:
            entry = self._live.pop(old)
            if isinstance(entry, Entry):
                entry.token = new
            self._live[new] = entry

    # --- gates, registration, the end ---------------------------------------------------------

    def _hidden_token(self) -> int:
        self._next_hidden += 1
        return self._next_hidden

    def _take_gate(self, waits_for: set[int]) -> Gate:
        if self._idle_gates:
            gate = self._idle_gates.pop()
        else:
            try:
                gate = Gate(*os.pipe2(os.O_CLOEXEC))
            except OSError as error:
                raise InputError(
                    f"no pipe for a request that others wait for (-{errno_name(error.errno or 0)})",
                    remedy="raise the limit of open files (ulimit -n)",
                ) from error
            self._gates.add(gate)
        gate.opened = False
        gate.waits_for = waits_for
        return gate

    def _open_gate(self, gate: Gate, *, failed: bool) -> None:
        gate.opened = True
        os.write(gate.writer, b"\0" if failed else b"\0\0")

    def _drop_gate(self, gate: Gate) -> None:
        self._gates.discard(gate)
        os.close(gate.reader)
        os.close(gate.writer)

    def _register_fds(self, opcode: int, fds: Sequence[int]) -> int:
        self._check_open()
        array = (ctypes.c_int32 * len(fds))(*self._guard.copy_fds(fds))
        return self._ring.register(opcode, ctypes.addressof(array), len(fds))

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("the ring is closed")

    def _cancel_everything(self) -> None:
        """Until nothing of this ring can touch memory any more.

        Cancelling lets the next members of chains and behind drains have their turn, so repeat.
        """
        deadline = time.monotonic_ns() + _CLOSE_LIMIT_NS
        for external in _externals(self._live.values()):
            if external.stage is Stage.WAITING:
                external.doomed = True
            else:
                self._end(external, failed=True)
        while True:
            self._reap()
            if not self._live and not self._hidden:
                return
            if time.monotonic_ns() > deadline:
                raise InternalError(f"{len(self._live)} requests could not be cancelled")
            self._ring.sync_cancel_all(_CLOSE_STEP_NS)
            self._reap()
            if self._live or self._hidden:
                self._ring.wait(_CLOSE_STEP_NS)


def _asks_to_skip(sqe: Sqe) -> bool:
    known = sqe.opcode < abi.OP_LAST and not sqe.flags & ~abi.SQE_VALID_FLAGS
    return known and bool(sqe.flags & abi.SQE_CQE_SKIP_SUCCESS)


def _externals(entries: Iterable[int | Entry]) -> list[External]:
    return [entry for entry in entries if isinstance(entry, External)]
