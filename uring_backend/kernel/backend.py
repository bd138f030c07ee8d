"""The Backend over the running kernel's io_uring.

Requests go to one real ring, in the order given and with their flags; user_data is the caller's
token. Four things are ours: every SQE passes the guard (`guard`), external requests are played by
hidden ones (`plan`), IOSQE_CQE_SKIP_SUCCESS is played on CQEs (`requests`), and what drains are to
know nothing of goes to another ring (`aside`).

To end an external request 2 bytes go into its gate, or 1 after a failure: the short read breaks
the chain as any failed request does.

One thread uses a backend, and a forked child must not. A TIMEOUT with a completion count counts
the CQEs of the real ring, hidden ones included: who needs the count exact (the ring above does)
counts by itself. Document: the project's notes on host supervision, section 5.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from functools import partial

from pybpfvm.errors import InputError, InternalError, RingError, UnsupportedError
from pybpfvm.interrupts import breathe
from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.base import (
    EXTERNAL,
    Backend,
    Completion,
    Denied,
    Event,
    Message,
    PollGate,
    Started,
)
from pybpfvm.uring_backend.filtering import refusal
from pybpfvm.uring_backend.kernel import messages
from pybpfvm.uring_backend.kernel.aside import WAKE, Aside
from pybpfvm.uring_backend.kernel.bufferring import BufferRings
from pybpfvm.uring_backend.kernel.direct import Direct
from pybpfvm.uring_backend.kernel.gates import Gate, GatePool
from pybpfvm.uring_backend.kernel.guard import NO_TOKEN, SUPPORTED, TOKEN_LIMIT, Guard
from pybpfvm.uring_backend.kernel.plan import (
    LATER,
    LOOK_TOKEN,
    PLAIN,
    Planned,
    Planner,
    zero_copy_held_back,
)
from pybpfvm.uring_backend.kernel.preparing import Preparation
from pybpfvm.uring_backend.kernel.registration import Registration
from pybpfvm.uring_backend.kernel.requests import (
    ZERO_COPY,
    CancelAll,
    Closing,
    Entry,
    External,
    Hidden,
    InFlight,
    Notice,
    Stage,
    Start,
)
from pybpfvm.uring_backend.kernel.settings import KernelSettings
from pybpfvm.uring_backend.kernel.sysring import SysRing
from pybpfvm.uring_backend.kernel.transport import Transport
from pybpfvm.uring_backend.kernel.world import KernelWorld
from pybpfvm.uring_backend.requests import DIRECT_TOKENS, DirectRequests

MakeRing = Callable[..., Transport]
DEFAULT_ENTRIES = 1024
_LEAST_ENTRIES = 64
_CQ_ENTRIES = 32768  # large, because a full CQ ends multishot requests
_CLOSE_LIMIT_NS = 10_000_000_000
_CLOSE_STEP_NS = 20_000_000
_ON_SIM = "run it on the sim backend"
_SETTLE_TRIES, _SETTLE_NS = 5, 1_000_000


def entries_for(sq_entries: int) -> int:
    """`entries` of the backend of a ring whose chains lie in its SQ. The real ring's entries are
    used in turn: those of a small one stay in the processor's nearest cache."""
    return min(max(sq_entries, _LEAST_ENTRIES), DEFAULT_ENTRIES)


class KernelBackend:
    """Backend (see pybpfvm.uring_backend.base) on the running kernel.

    `entries` bounds what one chain may hold. Raises InputError where the kernel refuses a ring.
    `make_ring` makes the ring: by system calls of our own, or LibRing, through liburing; `flags`
    are its set-up flags (abi.NOTICED). `beside` is another whose world this one shares, and its
    clock; the last of them to close closes the world.
    Requests may reach blocks of `memory` until `close`, which closing the memory calls first.
    """

    name = "kernel"

    def __init__(
        self,
        memory: AddressSpace,
        *,
        entries: int = DEFAULT_ENTRIES,
        make_ring: MakeRing = SysRing,
        flags: int = 0,
        beside: KernelBackend | None = None,
    ) -> None:
        if entries < 1:
            raise InputError(f"a ring of {entries} entries", remedy="ask for 1 or more")
        if flags:
            make_ring = partial(make_ring, flags=flags)
        self._big_cqes = bool(flags & (abi.SETUP_CQE32 | abi.SETUP_CQE_MIXED))
        # Twice as many, because an external request in a chain takes two.
        self._ring = make_ring(min(2 * entries, abi.MAX_SQ_ENTRIES), cq_entries=_CQ_ENTRIES)
        try:
            self.world: KernelWorld = KernelWorld() if beside is None else beside.world
        except BaseException:
            self._ring.close()
            raise
        self._sharing: list[KernelBackend] = [] if beside is None else beside._sharing
        self._sharing.append(self)
        self._memory = memory
        self._guard: Guard = Guard(memory, self.world, None if beside is None else beside._guard)
        self._rings = BufferRings(memory, self._ring, self._guard.fault_addr)
        self._registration = Registration(memory, self._ring, self._guard)
        self.settings = KernelSettings(self._ring, self._guard)
        self._events: list[Event] = []
        self._flight = InFlight()
        self._gates = GatePool()
        self._planner = Planner(self._guard, self.world, self._flight, self._gates, flags)
        self._denied: Denied | None = None
        self._refused: set[int] = set()  # tokens of denied requests
        self._preparation = Preparation(make_ring, self._guard)
        self._aside = Aside(make_ring, self._ring, self._guard, self._registration, self._flight)
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
        self._reap()
        if self._denied is not None:
            sqes = self._filtered(sqes, self._denied)
        taken = self._submit_plain(sqes)
        if taken is not None:
            return taken
        for raw in sqes:
            if raw[0] != EXTERNAL and (feature := self._guard.unsupported(raw)):
                raise UnsupportedError(
                    f"{feature} on the kernel's ring",
                    remedy=f"use one of {', '.join(op.name for op in sorted(SUPPORTED))}",
                )
        if zero_copy_held_back(sqes, self.holds_back):
            raise UnsupportedError(
                "a zero-copy send that a drain holds back, on the kernel's ring",
                remedy="use SEND or SENDMSG, or submit it when the drain is over",
            )
        self._settle_drains()
        consumed = 0
        batch: list[Planned] = []
        for plan in self._planner.plan(sqes):
            if len(batch) + len(plan) > self._ring.sq_entries:
                if len(plan) > self._ring.sq_entries:
                    self._take_back([*batch, *plan])
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
            if isinstance(batch[-1][3], Entry) and batch[-1][3].closes >= 0:
                # What follows is checked when the descriptor is no more.
                consumed, complete = self._issue(batch, consumed)
                batch = []
                if not complete:
                    break
        if batch:
            consumed, _ = self._issue(batch, consumed)
        self._reap()
        self._planner.settled()
        return consumed

    def _settle_drains(self) -> None:
        """Where drains are over, let what is hidden and was let go end first: the kernel counts it,
        and would take what is submitted now for held back."""
        flight = self._flight
        if not flight.drained or flight.drains:
            return
        for _ in range(_SETTLE_TRIES):
            opened = any(
                isinstance(record, Gate) and record.opened for record in flight.hidden.values()
            )
            if not opened and not flight.looks:
                return
            self._ring.wait(_SETTLE_NS)
            self._reap()

    def _submit_plain(self, sqes: Sequence[bytes]) -> int | None:
        """The short way for SQEs that need nothing remembered; None if one of them does."""
        if len(sqes) > self._ring.sq_entries or self._flight.drained:
            return None
        admit = self._guard.admit
        real = []
        for raw in sqes:
            if raw[1] & LATER or raw[0] not in PLAIN:
                return None
            admitted, effect = admit(raw)
            if effect is not None:
                return None
            real.append(admitted)
        taken = self._ring.submit(real)
        if taken < 0:
            raise RingError(-taken, f"io_uring_enter refused {len(sqes)} SQEs")
        live = self._flight.live
        for raw in sqes[:taken]:
            live[int.from_bytes(raw[32:40], "little")] = raw[0]
        self._reap()
        return taken

    def submit_aside(self, sqe: bytes) -> None:
        """Issue one SQE that has no place among the others: where a drain may keep it back, not
        on the ring where it would."""
        self._check_open()
        flight = self._flight
        if not (flight.drains or flight.drained or self._aside):
            self.submit([sqe])
            return
        self._reap()
        self._report(self._aside.submit(sqe))
        self._reap()

    def _report(self, over: Sequence[tuple[int, int, int]]) -> None:
        self._events.extend(Completion(token, res, flags) for token, res, flags in over)

    def poll(self) -> list[Event]:
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
            breathe()
            if result < 0 and result not in (-errno.EINTR, -errno.ETIME):
                raise RingError(-result, "io_uring_enter refused to wait")
            if deadline is not None:
                left = deadline - time.monotonic_ns()

    def can_progress(self) -> bool:
        """Whether something in flight may complete without the caller finishing an external
        request. What waits for the outside (a peer, a pipe) counts as able to."""
        if self._aside or self._flight.can_move():
            return True
        self._flight.claim_all()
        return self._flight.can_move()

    def finish(self, token: int, *, failed: bool = False) -> None:
        """End an external request that was Started."""
        external = self._flight.live.get(token)
        if not isinstance(external, External) or external.stage is not Stage.RUNNING:
            raise InternalError(f"request {token} is not a started external one")
        external.chain.posts(external, -errno.EIO if failed else 0)
        self._end(external, failed=failed)
        self._reap()

    def cancel_external(self, token: int) -> None:
        """Forget an external request that has not started; its chain is cancelled in its turn."""
        external = self._flight.live.get(token)
        if not isinstance(external, External) or external.stage is not Stage.WAITING:
            raise InternalError(f"request {token} is not an external one that waits")
        external.doomed = True

    def filter_requests(self, denied: Denied) -> None:
        """Ask `denied` before the kernel sees a request: this process plays the filter's part."""
        self._denied = denied

    def gate_polls(self, gate: PollGate | None) -> None:
        """Nobody asks us whether a wake counts: UnsupportedError for a gate."""
        if gate is not None:
            raise UnsupportedError("a poll gate over the kernel's ring", remedy=_ON_SIM)

    def buffer_at(self, index: int) -> tuple[int, int] | None:
        """(address, bytes) of a registered buffer, as the kernel took them."""
        return self._open_registration().buffer_at(index)

    def _filtered(self, sqes: Sequence[bytes], denied: Denied) -> list[bytes]:
        """With SQEs that the kernel refuses in the place of denied ones."""
        found = []
        behind = -1  # opcode of the request that the next one is linked to
        for raw in sqes:
            token = int.from_bytes(raw[32:40], "little")
            self._refused.discard(token)  # of an SQE that was not consumed
            if raw[0] in SUPPORTED and denied(token):
                unlinked = raw[0] == Op.LINK_TIMEOUT and behind in (-1, Op.LINK_TIMEOUT)
                if not unlinked and not self._preparation.fails(raw):
                    self._refused.add(token)
            found.append(refusal(token, raw[1]) if token in self._refused else raw)
            behind = raw[0] if raw[1] & abi.SQE_ANY_LINK else -1
        return found

    def register_files(self, fds: Sequence[int], tags: Sequence[int] = ()) -> int:
        """IORING_REGISTER_FILES; foreign descriptors are -EBADF."""
        return self._open_registration().files(fds, tags)

    def update_files(self, offset: int, fds: Sequence[int], tags: Sequence[int] = ()) -> int:
        """IORING_REGISTER_FILES_UPDATE."""
        return self._open_registration().update_files(offset, fds, tags)

    def unregister_files(self) -> int:
        """IORING_UNREGISTER_FILES."""
        self._check_open()
        return self._ring.register(abi.UNREGISTER_FILES, 0, 0)

    def file_alloc_range(self, offset: int, count: int) -> int:
        """IORING_REGISTER_FILE_ALLOC_RANGE."""
        return self._open_registration().file_alloc_range(offset, count)

    def register_buffers(self, buffers: Sequence[tuple[int, int]], tags: Sequence[int] = ()) -> int:
        """IORING_REGISTER_BUFFERS; what is not user memory is -EFAULT."""
        return self._open_registration().buffers(buffers, tags)

    def update_buffers(
        self, offset: int, buffers: Sequence[tuple[int, int]], tags: Sequence[int] = ()
    ) -> int:
        """IORING_REGISTER_BUFFERS_UPDATE."""
        return self._open_registration().update_buffers(offset, buffers, tags)

    def unregister_buffers(self) -> int:
        """IORING_UNREGISTER_BUFFERS."""
        return self._open_registration().unregister_buffers()

    def register_buffer_ring(self, addr: int, entries: int, group: int, flags: int = 0) -> int:
        """IORING_REGISTER_PBUF_RING, of a checked copy."""
        self._check_open()
        return self._rings.register(addr, entries, group, flags)

    def unregister_buffer_ring(self, group: int) -> int:
        """IORING_UNREGISTER_PBUF_RING."""
        self._check_open()
        return self._rings.unregister(group)

    def buffer_ring_head(self, group: int) -> int:
        """IORING_REGISTER_PBUF_STATUS."""
        self._check_open()
        return self._rings.head(group)

    def clone_buffers(
        self,
        source: Backend,
        offset: int = 0,
        target: int = 0,
        count: int = 0,
        *,
        replace: bool = False,
    ) -> int:
        """IORING_REGISTER_CLONE_BUFFERS."""
        if not isinstance(source, KernelBackend) or source._memory is not self._memory:
            raise InputError("buffers come from a ring of the kernel over the same memory only")
        fd, theirs = source._ring.fd, source._open_registration()
        return self._open_registration().clone_buffers(
            fd, theirs, offset, target, count, replace=replace
        )

    def sync_cancel(
        self,
        token: int = 0,
        *,
        fd: int = -1,
        flags: int = 0,
        opcode: int = 0,
        timeout_ns: int | None = None,
    ) -> int:
        """IORING_REGISTER_SYNC_CANCEL; hidden requests are not found."""
        registration = self._open_registration()
        many = flags & (abi.ASYNC_CANCEL_ANY | abi.ASYNC_CANCEL_OP)
        if not many or not self._gates.busy():
            token = NO_TOKEN if token >= TOKEN_LIMIT else token
            result = registration.sync_cancel(token, fd, flags, opcode, timeout_ns)
            self._reap()
            return result
        by_opcode = opcode if flags & abi.ASYNC_CANCEL_OP else None
        found = 0
        for target in self._planner.cancellable(by_opcode):
            result = registration.sync_cancel(target, -1, 0, 0, timeout_ns)
            found += result >= 0
            if found and not flags & (abi.ASYNC_CANCEL_ANY | abi.ASYNC_CANCEL_ALL):
                return result
        self._reap()
        every = flags & (abi.ASYNC_CANCEL_ANY | abi.ASYNC_CANCEL_ALL)
        return found if found or every else -errno.ENOENT

    def ring_fd(self, other: Backend) -> int:
        """An fd of another real ring, or of this one, for MSG_RING."""
        if not isinstance(other, KernelBackend):
            raise InputError("a ring of the kernel sends messages to such rings only")
        fd = os.dup(other._ring.fd)
        self.world.adopt(fd)
        return fd

    def direct(self, cqs: int) -> Direct:
        """Tables for compiled code that uses the real ring itself, below a ring with `cqs` CQs.

        InputError where the ring is a library's, which shares it with nobody.
        """
        if not isinstance(self._ring, SysRing):
            raise InputError("compiled code does not use a library's ring", where="backend")
        return Direct(self._memory, self._ring, self.world, cqs)

    def let(self, direct: DirectRequests | None) -> None:
        """Compiled code issues requests from now on, or (None) does no more."""
        self._flight.direct = direct

    def adopt(self, token: int, opcode: int) -> None:
        """A request that compiled code issued is in flight: from now on it is one like others."""
        self._flight.live[token] = opcode

    @property
    def holds_back(self) -> bool:
        """Whether a drain may hold back what is submitted now."""
        return self._flight.drains > 0

    @property
    def undisturbed(self) -> bool:
        """Whether what compiled code submits now goes the way that it would through `submit`:
        nothing is to be reported first, no drain holds it back or did until now, no filter and no
        buffer ring is to be looked at."""
        flight = self._flight
        busy = self._events or flight.drains or flight.drained or self._aside
        return not (busy or self._denied is not None or self._rings)

    def in_flight(self) -> int:
        """Requests submitted and not completed."""
        self._flight.claim_all()
        return len(self._flight.live) + len(self._aside)

    def holds(self, token: int) -> bool:
        """Whether the request is one of these."""
        self._flight.claim_all()
        return token in self._flight.live or token in self._aside

    def close(self) -> None:
        """Cancel and reap everything, then give back ring, descriptors and files."""
        if self._closed:
            return
        self._aside.close()
        self._cancel_everything()
        self._closed = True
        self._memory.forget_before_close(self.close)
        self.settings.close()
        self._ring.close()
        self._preparation.close()
        self._rings.close()
        self._gates.close()
        self._flight.live.clear()
        self._flight.hidden.clear()
        self._sharing.remove(self)
        if not self._sharing:
            self.world.close_all()

    # --- from plans to CQEs to events -------------------------------------------------------------

    def _issue(self, batch: Sequence[Planned], before: int) -> tuple[int, bool]:
        """One io_uring_enter. (The caller's SQEs consumed so far, whether all of the batch was.)"""
        taken = self._ring.submit([planned[0] for planned in batch])
        if taken < 0:
            raise RingError(-taken, f"io_uring_enter refused {len(batch)} SQEs")
        consumed = before
        live, hidden = self._flight.live, self._flight.hidden
        for real, consumed, token, record in batch[:taken]:  # noqa: B007 - the last one counts
            if record is None:
                self._flight.drains_off |= bool(real[1] & abi.SQE_CQE_SKIP_SUCCESS)
                continue
            if token >= TOKEN_LIMIT:
                assert not isinstance(record, (int, Entry)), (
                    "hidden requests have their own records"
                )
                hidden[token] = record
                if isinstance(record, Start):
                    live[record.external.token] = record.external
                    self._flight.skip_seen |= record.external.shows_skip
                elif isinstance(record, CancelAll):
                    live[record.token] = int(Op.ASYNC_CANCEL)
            else:
                assert isinstance(record, (int, Entry)), "a token of the caller"
                live[token] = record
                if isinstance(record, Entry):
                    self._flight.skip_seen |= record.shows_skip
                    if record.closes >= 0:
                        self.world.disown(record.closes)
        self._take_back(batch[taken:])
        return consumed, taken == len(batch)

    def _take_back(self, planned: Sequence[Planned]) -> None:
        """These were planned, but the kernel never saw them."""
        for _, _, token, record in planned:
            if token == LOOK_TOKEN:
                self._flight.looks -= 1
            elif isinstance(record, Gate):
                for waited in record.waits_for:
                    external = self._flight.live.get(waited)
                    if isinstance(external, External) and external.gate is not record:
                        external.fenced = False
                self._gates.give(record)
            elif isinstance(record, Start):
                self._planner.over(record.external)
            elif isinstance(record, Entry):
                self._planner.over(record)

    def _reap(self) -> None:
        """Turn the CQEs that are there into events."""
        live, events, refused = self._flight.live, self._events, self._refused
        if self._rings:
            self._rings.publish()
        reaped = self._ring.reap()
        if self._rings:
            self._rings.reflect()
        if self._big_cqes:
            for token, res, flags, *extra in reaped:
                self._complete(token, self._told(token, res), flags, (extra[0], extra[1]))
            return
        for token, res, flags in reaped:
            entry = live.get(token)
            if refused and token in refused:
                res = self._told(token, res)
            if entry.__class__ is int:
                if not flags & abi.CQE_F_MORE:
                    del live[token]
                events.append(Completion(token, res, flags))
            else:
                self._complete(token, res, flags)

    def _told(self, token: int, res: int) -> int:
        """What the caller is told of this result: that it was a filter, where it was one."""
        if token not in self._refused:
            return res
        self._refused.discard(token)
        return -errno.EACCES if res == -errno.EINVAL else res

    def _complete(
        self, token: int, res: int, flags: int, extra: tuple[int, int] = abi.NO_EXTRA
    ) -> None:
        if token == LOOK_TOKEN:
            self._flight.looks -= 1
            return
        if token == WAKE:
            self._report(self._aside.reap())
            return
        if token == NO_TOKEN:
            return  # of the planner's own; _NO_DRAINS only when cancelled behind a drain
        if token >= messages.FIRST_TOKEN and (user_data := messages.take(token)) is not None:
            self._events.append(Message(user_data, res, flags))
            return
        record = self._flight.hidden.get(token)
        if record is not None:
            del self._flight.hidden[token]
            self._complete_hidden(record, res)
            return
        entry = self._flight.live.get(token)
        if entry is None and token >= DIRECT_TOKENS and self._flight.direct is not None:
            self._flight.direct.claim(token)
            entry = self._flight.live.get(token)
        if entry is None and token in self._flight.renames:
            self._flight.rename(self._flight.renames[token], token, 0)
            entry = self._flight.live.get(token)
        if entry is None:
            raise InternalError(f"the kernel completed {token:#x}, which is not in flight")
        posts, notified = True, False
        if isinstance(entry, Entry):
            # Taken along by another one of its chain, a zero-copy send has no F_MORE.
            final = not flags & (abi.CQE_F_MORE | abi.CQE_F_NOTIF)
            notified = final and entry.notifies and res != -errno.EACCES
            if not flags & abi.CQE_F_NOTIF:
                for action in entry.after:
                    action(res)
            # A zero-copy send is over, for its chain, before its notification.
            if not entry.done and (not flags & abi.CQE_F_MORE or entry.opcode in ZERO_COPY):
                entry.done = True
                posts = entry.chain.posts(entry, res)
        if not flags & abi.CQE_F_MORE and not notified:
            del self._flight.live[token]
            if isinstance(entry, Entry):
                self._planner.over(entry)
        if posts:
            self._events.append(Completion(token, res, flags, extra, notified))

    def _complete_hidden(self, record: Hidden, res: int) -> None:
        if isinstance(record, Gate):
            if record.opened and res < 0:  # cancelled with bytes in it: never used again
                self._gates.drop(record)
            else:
                self._gates.give(record)
        elif isinstance(record, Notice):
            record.chain.noticed(res)
        elif isinstance(record, CancelAll):
            record.left -= 1
            record.found += res != -errno.ENOENT
            if record.left == 0:
                del self._flight.live[record.token]
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
            elif isinstance(external, Closing):
                self._perform_close(external)
            else:
                external.stage = Stage.RUNNING
                self._events.append(Started(external.token))

    def _perform_close(self, closing: Closing) -> None:
        res = -errno.EBADF
        if closing.fd in self.world.owned:
            self.world.close(closing.fd)
            res = 0
        posts = closing.chain.posts(closing, res)
        self._end(closing, failed=res < 0)
        if posts:
            self._events.append(Completion(closing.token, res, 0))

    def _end(self, external: External, *, failed: bool, open_gate: bool = True) -> None:
        external.stage = Stage.FINISHED
        external.done = True
        del self._flight.live[external.token]
        self._planner.over(external)
        for gate in self._gates.waiting_for(external.token):
            gate.waits_for.discard(external.token)
            if (open_gate or external.gate is not gate) and not gate.waits_for:
                gate.open(failed=failed and external.gate is gate)

    # --- registration, the end ------------------------------------------------------------------

    def _open_registration(self) -> Registration:
        self._check_open()
        return self._registration

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("the ring is closed")

    def _cancel_everything(self) -> None:
        """Until nothing of this ring can touch memory any more.

        Cancelling lets the next members of chains and behind drains have their turn, so repeat.
        """
        deadline = time.monotonic_ns() + _CLOSE_LIMIT_NS
        self._flight.claim_all()
        for external in self._flight.externals():
            if external.stage is Stage.WAITING:
                external.doomed = True
            else:
                self._end(external, failed=True)
        while True:
            self._reap()
            if not self._flight.live and not self._flight.hidden:
                return
            if time.monotonic_ns() > deadline:
                raise InternalError(f"{len(self._flight.live)} requests could not be cancelled")
            self._ring.sync_cancel_all(_CLOSE_STEP_NS)
            self._reap()
            if self._flight.live or self._flight.hidden:
                self._ring.wait(_CLOSE_STEP_NS)
