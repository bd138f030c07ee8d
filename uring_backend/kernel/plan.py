"""From the caller's SQEs to the real ones: guarded, without skip flags, hidden ones in between.

An external request is played by hidden requests:

    alone        NOP                     its CQE is "Started"; nothing else waits for it
    in a chain   NOP|LINK [|DRAIN]  →  READ of a pipe, 2 bytes, with the request's own link flag
    a drain      the same, and so is what is alone behind one: later requests may wait for it
    later drain  one more READ of a pipe, submitted before the draining request, keeps it back

A CLOSE is played in the same way when something that waits for its turn, or may, names the
descriptor (`numbers`). They carry user_data from TOKEN_LIMIT up. Nothing here talks to the kernel.
Document: the project's notes on host supervision, section 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.base import EXTERNAL
from pybpfvm.uring_backend.kernel.gates import Gate, GatePool
from pybpfvm.uring_backend.kernel.guard import NO_TOKEN, SUPPORTED, Guard
from pybpfvm.uring_backend.kernel.requests import (
    ZERO_COPY,
    CancelAll,
    Chain,
    Closing,
    Entry,
    External,
    InFlight,
    Record,
    Start,
)
from pybpfvm.uring_backend.kernel.world import KernelWorld

_ANY_LINK = abi.SQE_ANY_LINK
_OPENERS = frozenset({Op.OPENAT, Op.OPENAT2, Op.ACCEPT, Op.SOCKET, Op.FIXED_FD_INSTALL})
_WATCHED = _OPENERS | {Op.CLOSE, Op.POLL_REMOVE, Op.BIND, Op.LISTEN, EXTERNAL}
_ON_NAMES = frozenset(
    {
        Op.STATX,
        Op.UNLINKAT,
        Op.MKDIRAT,
        Op.RENAMEAT,
        Op.SYMLINKAT,
        Op.LINKAT,
        Op.SETXATTR,
        Op.GETXATTR,
        Op.MADVISE,
    }
)
_NOT_OF_CLOSE = abi.SQE_FIXED_FILE | abi.SQE_BUFFER_SELECT | 0xFF & ~abi.SQE_VALID_FLAGS
_CANCELS_MANY = abi.ASYNC_CANCEL_ANY | abi.ASYNC_CANCEL_OP

# SQE flags that need more than being passed on.
ORDERED = _ANY_LINK | abi.SQE_IO_DRAIN | abi.SQE_CQE_SKIP_SUCCESS
# With these the kernel may come to the request later than at once.
LATER = ORDERED | abi.SQE_ASYNC
# What no kernel knows is passed on, too, for its -EINVAL.
ACCEPTED = SUPPORTED | frozenset(range(abi.OP_LAST, 256))
# Opcodes of which nothing is to be remembered, as plain ints: looked up for each SQE.
_CONDITIONAL = frozenset(
    {Op.SYMLINKAT, Op.MADVISE, Op.WAITID, Op.FUTEX_WAIT, Op.FUTEX_WAKE}
)  # Guard.unsupported decides
PLAIN = frozenset(map(int, ACCEPTED - _WATCHED - _CONDITIONAL - {Op.ASYNC_CANCEL, Op.URING_CMD}))

# The kernel refuses drains on a ring that ever saw the skip flag. As it does not see those of the
# caller, it is shown this before a drain that must be refused.
_NO_DRAINS = Sqe(Op.NOP, flags=abi.SQE_CQE_SKIP_SUCCESS, user_data=NO_TOKEN)
# The kernel takes the first request after a drain for held back until it looks. A zero-copy send
# would then wait for its own notification, for ever, so something else goes first.
LOOK_TOKEN = NO_TOKEN - 2
_LOOK = Sqe(Op.NOP, user_data=LOOK_TOKEN)

Planned = tuple[bytes, int, int, Record | None]
"""A real SQE; how many of the caller's are consumed with it; its user_data; what to remember
(None: nothing)."""


class Planner:
    """Plans batches for one backend. `flight` is what the plans that were issued came to;
    `setup_flags` are the ring's."""

    def __init__(
        self,
        guard: Guard,
        world: KernelWorld,
        flight: InFlight,
        gates: GatePool,
        setup_flags: int,
    ) -> None:
        self._polls = bool(setup_flags & abi.SETUP_IOPOLL)
        self._big_cqes = bool(setup_flags & (abi.SETUP_CQE32 | abi.SETUP_CQE_MIXED))
        self._guard = guard
        self._world = world
        self._flight = flight
        self._gates = gates
        # Of the submission under way.
        self._skip_planned = False
        self._lone_externals: list[External] = []
        self._fresh: list[Chain] = []

    def plan(self, sqes: Sequence[bytes]) -> Iterator[list[Planned]]:
        """Per chain, the real SQEs that stand for the caller's; hidden ones included."""
        self._skip_planned = False
        self._lone_externals.clear()
        flight = self._flight
        if flight.drained and not flight.drains:
            # While anything is in flight, looking is of no use to what comes after it.
            busy = bool(flight.live or flight.hidden or flight.looks) or flight.drain_next
            if not busy or any(raw[0] in ZERO_COPY for raw in sqes):
                flight.drained, flight.drain_next = busy, False
                flight.looks += 1
                yield [(_LOOK.pack(), 0, LOOK_TOKEN, None)]
        index, count = 0, len(sqes)
        while index < count:
            raw = sqes[index]
            opcode, flags = raw[0], raw[1]
            index += 1
            plain = not flags & LATER and opcode not in _WATCHED
            plain = plain and not flight.drains and not flight.drain_next
            if plain and not (opcode == Op.ASYNC_CANCEL and self._flight.hidden):
                real, effect = self._guard.admit(raw)
                if effect is None:
                    yield [(real, index, int.from_bytes(raw[32:40], "little"), opcode)]
                    continue
            first = index - 1
            while sqes[index - 1][1] & _ANY_LINK and index < count:
                index += 1
            yield list(self._plan_chain([Sqe.unpack(raw) for raw in sqes[first:index]], first))

    def _plan_chain(self, members: list[Sqe], before: int) -> Iterator[Planned]:
        drain = any(sqe.flags & abi.SQE_IO_DRAIN for sqe in members)
        skips = [at for at, sqe in enumerate(members) if _asks_to_skip(sqe)]
        refused_from = (
            0 if self._flight.skip_seen or self._skip_planned else (skips or [len(members)])[0]
        )
        if drain and not self._flight.drains_off:
            last_drain = max(at for at, sqe in enumerate(members) if sqe.flags & abi.SQE_IO_DRAIN)
            if refused_from <= last_drain:
                yield _NO_DRAINS.pack(), before, NO_TOKEN, None
        self._skip_planned |= bool(skips)
        unknown = (
            abi.OP_LAST <= members[0].opcode != EXTERNAL
        )  # refused before drains are looked at
        drain |= self._flight.drain_next and not unknown
        if drain:
            yield from self._fence(before)
        self._flight.drain_next &= unknown
        self._flight.drain_next |= any(
            sqe.flags & abi.SQE_IO_DRAIN for sqe in members[1:refused_from]
        )
        chain = Chain(drain)
        self._fresh.append(chain)
        lone = len(members) == 1 and not members[0].flags & _ANY_LINK
        for consumed, sqe in enumerate(members, before + 1):
            if sqe.opcode == EXTERNAL:
                # While the kernel looks for drains, it counts what is in flight.
                waited_for = not lone or self._flight.drains or self._flight.drained or chain.drain
                if lone and refused_from == 0 and sqe.flags & abi.SQE_IO_DRAIN:
                    waited_for = False  # a bad SQE, which ends the batch
                external = External(sqe, chain)
                yield from self._plan_external(external, sqe, consumed, alone=not waited_for)
                continue
            closes = self._closes(sqe)
            later = not lone or sqe.flags & LATER or self._flight.drains
            if closes and (later or self._world.numbers.is_held(sqe.fd)):
                closing = Closing(sqe, chain)
                self._mark(closing, sqe, skips, refused_from)
                last = not sqe.flags & _ANY_LINK
                yield from self._plan_external(closing, sqe, consumed, alone=last)
                continue
            if sqe.opcode == Op.ASYNC_CANCEL and self._hits_hidden(sqe):
                if lone and not sqe.flags & ORDERED:
                    yield from self._plan_cancel(sqe, consumed)
                    continue
                sqe = replace(sqe, op_flags=0, addr=NO_TOKEN)
            entry = Entry(sqe, chain)
            entry.bad_sqe |= self._unknown(sqe.personality)
            self._mark(entry, sqe, skips, refused_from)
            if closes:
                entry.closes = sqe.fd
            fixed = sqe.flags & abi.SQE_FIXED_FILE
            entry.has_file = sqe.opcode in _ON_NAMES or (not fixed and sqe.fd in self._world.owned)
            self._watch(entry, sqe)
            flags = sqe.flags & ~abi.SQE_CQE_SKIP_SUCCESS
            if entry.skip and sqe.opcode == Op.POLL_ADD and sqe.len & abi.POLL_ADD_MULTI:
                sqe = replace(sqe, len=0xFFFFFFFF)  # the pair is -EINVAL, as unknown flags are
                entry.bad_sqe = True
            if entry.skip and sqe.opcode in ZERO_COPY:
                sqe = replace(sqe, addr3=1)  # refused alike, before there is a notification
                entry.bad_sqe = True
            raw = replace(sqe, flags=flags).pack()
            real, effect, names = self._guard.admit_waiting(raw)
            self._remember(entry, names if later else ())
            if effect is not None:
                entry.kept = effect.kept
                entry.bad_sqe |= effect.bad_sqe
                if effect.total >= 0 and entry.vector_counts and not flags & abi.SQE_BUFFER_SELECT:
                    entry.expected = min(effect.total, abi.MAX_RW_COUNT)
                if effect.on_result is not None:
                    entry.after.append(effect.on_result)
            yield real, consumed, sqe.user_data, entry

    def _mark(self, entry: Entry, sqe: Sqe, skips: Sequence[int], refused_from: int) -> None:
        """What the skip flags of its chain mean for it."""
        entry.shows_skip = entry.position in skips
        if sqe.flags & abi.SQE_IO_DRAIN and entry.position >= refused_from:
            entry.bad_sqe = True
        if sqe.opcode == Op.NOP and sqe.op_flags & abi.NOP_CQE32 and not self._big_cqes:
            entry.bad_sqe = True
        if self._polls and sqe.opcode not in abi.POLLED_OPS:
            entry.bad_sqe = True

    def _remember(self, entry: Entry, names: tuple[int, ...] = ()) -> None:
        """The kernel is about to get it, and may look `names` up later than at once."""
        entry.names = names
        self._world.numbers.hold(names)
        self._flight.drains += entry.chain.drain
        self._flight.drained |= entry.chain.drain

    def over(self, entry: Entry) -> None:
        """A request that was planned has ended, or never began."""
        self._world.numbers.let_go(entry.names)
        self._flight.drains -= entry.chain.drain

    def _closes(self, sqe: Sqe) -> bool:
        """Whether this is a CLOSE of an owned descriptor that the kernel does not refuse."""
        if sqe.opcode != Op.CLOSE or sqe.file_index or sqe.fd not in self._world.owned:
            return False
        if self._polls:
            return False
        refused = sqe.off or sqe.addr or sqe.len or sqe.op_flags or sqe.buf_index
        refused = refused or sqe.ioprio or self._unknown(sqe.personality)
        return not refused and not sqe.flags & _NOT_OF_CLOSE

    def _unknown(self, personality: int) -> bool:
        return bool(personality) and personality not in self._guard.personalities

    def _plan_external(
        self, external: External, sqe: Sqe, consumed: int, *, alone: bool
    ) -> Iterator[Planned]:
        """`alone`: nothing waits for it."""
        self._remember(external)
        start = Sqe(
            Op.NOP, flags=sqe.flags & abi.SQE_IO_DRAIN, user_data=self._flight.hidden_token()
        )
        if alone:
            self._lone_externals.append(external)
            yield start.pack(), consumed, start.user_data, Start(external)
            return
        external.gate = gate = self._gates.take({sqe.user_data})
        start = replace(start, flags=start.flags | abi.SQE_IO_LINK)
        yield start.pack(), consumed - 1, start.user_data, Start(external)
        kept = _ANY_LINK
        if external.position:
            # Where drains are refused, the last of a chain decides whether the batch ends. (At
            # the head, a second drain would hold back what comes after the chain.)
            kept |= abi.SQE_IO_DRAIN
        yield self._read_gate(gate, sqe.flags & kept, consumed)

    def _fence(self, before: int) -> Iterator[Planned]:
        """A hidden READ that a drain finds in flight while lone external requests are not over."""
        issued = [entry for entry in self._flight.live.values() if isinstance(entry, External)]
        in_this_call = [
            entry for entry in self._lone_externals if entry.token not in self._flight.live
        ]
        loose = [
            entry for entry in issued + in_this_call if entry.gate is None and not entry.fenced
        ]
        if loose:
            for external in loose:
                external.fenced = True
            gate = self._gates.take({external.token for external in loose})
            yield self._read_gate(gate, 0, before)

    def _read_gate(self, gate: Gate, flags: int, consumed: int) -> Planned:
        token = self._flight.hidden_token()
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
            if sqe.opcode == Op.SOCKET and sqe.off & 0xF == abi.SOCK_DGRAM:
                entry.after.append(self._world.sends_datagrams)
        elif sqe.opcode in (Op.BIND, Op.LISTEN) and not sqe.flags & abi.SQE_FIXED_FILE:
            bound = sqe.fd
            entry.after.append(lambda res: self._world.note_address(bound) if res >= 0 else None)
        elif sqe.opcode == Op.POLL_REMOVE and sqe.len & abi.POLL_UPDATE_USER_DATA:
            old, new = sqe.addr, sqe.off
            self._flight.renames[new] = old
            entry.after.append(lambda res: self._flight.rename(old, new, res))

    def _hits_hidden(self, sqe: Sqe) -> bool:
        """Whether a cancel could find a hidden READ (naming tokens or descriptors, it can not)."""
        if not self._gates.busy():
            return False
        if sqe.op_flags & abi.ASYNC_CANCEL_OP and sqe.len != Op.READ:
            return False
        return bool(sqe.op_flags & _CANCELS_MANY)

    def _plan_cancel(self, sqe: Sqe, consumed: int) -> Iterator[Planned]:
        """ASYNC_CANCEL with ANY or OP, spelled out so that hidden requests are not found."""
        by_opcode = sqe.op_flags & abi.ASYNC_CANCEL_OP
        targets = self.cancellable(sqe.len if by_opcode else None)
        cancel = Sqe(Op.ASYNC_CANCEL, addr=NO_TOKEN, user_data=sqe.user_data)
        if not sqe.op_flags & abi.ASYNC_CANCEL_ALL:
            cancel = replace(cancel, addr=targets[0] if targets else NO_TOKEN)
            yield cancel.pack(), consumed, sqe.user_data, sqe.opcode
            return
        group = CancelAll(sqe.user_data, max(len(targets), 1))
        for target in targets or [NO_TOKEN]:
            token = self._flight.hidden_token()
            yield replace(cancel, addr=target, user_data=token).pack(), consumed, token, group

    def cancellable(self, opcode: int | None) -> list[int]:
        """Tokens of the caller's requests in flight, of this opcode (None: all)."""
        self._flight.claim_all()
        return [
            token
            for token, entry in self._flight.live.items()
            if not isinstance(entry, External)
            and (opcode is None or (entry if isinstance(entry, int) else entry.opcode) == opcode)
        ]

    def settled(self) -> None:
        """What the chains planned since the last time had at once is known now."""
        for chain in self._fresh:
            chain.fresh = False
        self._fresh.clear()

    def _opened(self, res: int) -> None:
        if res >= 0:
            self._world.adopt(res)


def zero_copy_held_back(sqes: Sequence[bytes], drains: bool) -> bool:
    """Whether a zero-copy send would wait for a drain (`drains`: there already is one): Linux
    would have it wait for its own notification, for ever."""
    first = 0  # of the chain
    for index, raw in enumerate(sqes):
        if drains or raw[1] & abi.SQE_IO_DRAIN:
            return any(raw[0] in ZERO_COPY for raw in sqes[first:])
        if not raw[1] & _ANY_LINK:
            first = index + 1
    return False


def _asks_to_skip(sqe: Sqe) -> bool:
    known = sqe.opcode < abi.OP_LAST and not sqe.flags & ~abi.SQE_VALID_FLAGS
    return known and bool(sqe.flags & abi.SQE_CQE_SKIP_SUCCESS)
