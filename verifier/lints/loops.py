"""Lints of programs that drive a ring from inside io_uring_enter.

Who writes which word of the ring, indices to wait for, masks, counts, and what the program takes
the ring to be. abi/iouring-bpf-upstream, sections 2 and 3. Of the other dialects (sections 7 and
9.2) what was written down decides: where the program runs inside an ordinary wait, that wait goes
on whatever index there is; where waits may have a timeout, one that no completion ends may be
meant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pybpfvm.btf.types import Btf, Func, Struct
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AluOp, Operand
from pybpfvm.isa.opcodes import Kind as InsnKind
from pybpfvm.profiles.base import LoopPlace, LoopRules, Profile, Region
from pybpfvm.program import Program
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.loop.memory import CQ_OFFSETS, SQ_OFFSETS
from pybpfvm.uring_backend.loop.shape import RingShape
from pybpfvm.verifier.lints.site import stack_place
from pybpfvm.verifier.lints.values import NOTHING_KNOWN, Value, Values
from pybpfvm.verifier.lints.watching import Watching
from pybpfvm.verifier.states.regstate import Reg, RegType
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Rule

_GET_REGION, _SUBMIT = "bpf_io_uring_get_region", "bpf_io_uring_submit_sqes"
# Words of the CQ region that the kernel writes, and words that it only ever wrote once.
_KERNELS_SQ = ("head", "flags", "dropped", "ring_mask", "ring_entries")
_KERNELS_CQ = ("tail", "overflow", "ring_mask", "ring_entries")
_LOOKS_ONLY = frozenset(
    {"map_lookup_elem", "map_lookup_percpu_elem", "map_peek_elem", "get_prandom_u32"}
    | {"get_smp_processor_id", "get_numa_node_id", "jiffies64", "ktime_get_ns"}
    | {"ktime_get_boot_ns", "ktime_get_tai_ns", "strncmp", "probe_read_user", "probe_read_kernel"}
)
_STACK = range(-512, 0)
_STORES = (InsnKind.ST, InsnKind.STX, InsnKind.STORE_REL, InsnKind.ATOMIC)
_LOADS = (InsnKind.LDX, InsnKind.LDSX, InsnKind.LOAD_ACQ)
_CALLS = (InsnKind.CALL, InsnKind.CALL_LOCAL, InsnKind.CALL_KFUNC)


@dataclass(frozen=True, slots=True)
class LoopNotes:
    """`changed`: something that the next step sees. `waits`: an index to wait for was set; None:
    perhaps. `answer`: the number that r0 was last set to. `coarse`: paths that differ in what
    values came from are not kept apart."""

    values: Values = NOTHING_KNOWN
    changed: bool = False
    waits: bool | None = False
    set_index: bool = False
    answer: int | None = None
    coarse: bool = False

    def covers(self, new: LoopNotes) -> bool:
        """Whether no lint has more to say of a path with the notes `new`."""
        if self is new:
            return True
        return (
            self.changed <= new.changed
            and (self.waits, self.set_index) == (new.waits, new.set_index)
            and self.answer == new.answer
            and (self.coarse or self.values == new.values)
        )


@dataclass(frozen=True, slots=True)
class _Access:
    """`size` bytes at an offset in [low, high] of memory of a region, `given` bytes of which the
    program has. `steps`: the bits in which the offset varies."""

    region: Region
    given: int
    low: int
    high: int
    size: int
    steps: int

    def touches(self, at: int, size: int = 4) -> bool:
        """Whether it certainly lies in, or overlaps, the bytes at `at`."""
        return self.low < at + size and at < self.low + self.size and self.low == self.high

    def is_word(self, at: int) -> bool:
        """Whether it is these four bytes."""
        return self.low == self.high == at and self.size == 4


def loop_rules(profile: Profile, program: Program) -> LoopRules | None:
    """The rules that these lints hold a program against; None for one that has no ring."""
    rules = profile.loop
    if rules is not None and rules.operation is not None:
        return None
    if rules is not None and rules.gate and program.attach_to == f"{rules.ops}/{rules.gate}":
        return None
    return rules


class LoopLints(Watching):
    """Watches one exploration of a program with a loop. `shape`: the ring that it is for."""

    def __init__(
        self,
        program: Program,
        profile: Profile,
        kernel: Btf,
        shape: RingShape | None,
        *,
        coarse: bool = False,
    ) -> None:
        super().__init__(program, LoopNotes(coarse=coarse))
        rules = loop_rules(profile, program)
        assert rules is not None
        self._rules = rules
        self._instead = rules.place is LoopPlace.INSTEAD
        names = [name for name, _, at in rules.params_fields if at == rules.wait_index_at]
        self._index = names[0] if names else ""
        self._timed = False  # it gives waits a timeout
        self._never: dict[int, tuple[str, str, str]] = {}  # indices that are not reached, by pc
        self._profile = profile
        self._kernel = kernel
        self._shape = shape
        sq_off = SQ_OFFSETS if shape is None else shape.sq_off
        cq_off = CQ_OFFSETS if shape is None else shape.cq_off
        self._head, self._tail, self._cqes = cq_off["head"], cq_off["tail"], cq_off["cqes"]
        self._sq_tail = sq_off["tail"]
        self._kernels = {sq_off[name]: f"SQ {name}" for name in _KERNELS_SQ}
        self._kernels |= {cq_off[name]: f"CQ {name}" for name in _KERNELS_CQ}
        self._cqe_bytes = abi.CQE_BYTES if shape is None else shape.cqe_bytes
        self._regions: dict[int, set[tuple[Region, int]]] = {}  # by the pc of the call
        self._tails: set[int] = set()  # pcs of loads of the CQ's tail
        self._submits: set[int] = set()
        self._looked_at: set[int] = set()  # submissions whose result is
        self._sq_tail_stores: set[int] = set()
        self._fills = False  # the program writes SQEs
        self._sets_index = False
        self._silent: set[int] = set()  # exits that go on without having set an index

    # --- what is remembered -----------------------------------------------------------------

    def step(self, pc: int, state: State) -> None:
        """See Observer.step."""
        insn = self._code[pc]
        kind = insn.spec.kind
        notes = _notes(state)
        frame = state.frame.number
        if kind in _LOADS:
            notes = self._loaded(pc, insn, state, notes)
        elif kind in _STORES:
            notes = self._stored(pc, insn, state, notes)
        elif kind is InsnKind.ALU:
            notes = self._computed(pc, insn, state, notes)
        elif kind is InsnKind.LDDW:
            notes = replace(notes, values=notes.values.put((frame, insn.dst), None))
        elif kind is InsnKind.JUMP:
            for number in (insn.dst, insn.src) if insn.spec.operand is Operand.X else (insn.dst,):
                self._look(notes.values.get((frame, number)))
        elif kind in _CALLS:
            notes = self._called(pc, insn, state, notes)
        elif kind is InsnKind.EXIT:
            if len(state.frames) > 1:
                called = state.frame.callback is None
                notes = replace(notes, values=notes.values.ended(frame, called=called))
            elif not state.frame.entry:  # of the program, and not of a function judged alone
                self._ended(pc, state, notes)
        if not frame and insn.dst == 0 and kind in (InsnKind.ALU, InsnKind.LDX, InsnKind.LDDW):
            moved = insn.spec.op is AluOp.MOV and insn.spec.operand is Operand.K
            notes = replace(notes, answer=insn.imm if moved else None)
        state.notes = notes

    def _computed(self, pc: int, insn: Insn, state: State, notes: LoopNotes) -> LoopNotes:
        values, op, frame = notes.values, insn.spec.op, state.frame.number
        place, other = (frame, insn.dst), (frame, insn.src)
        by_register = insn.spec.operand is Operand.X
        if op is AluOp.MOV:
            return replace(
                notes, values=values.put(place, values.get(other) if by_register else None)
            )
        self._look(values.get(place))
        if by_register:
            self._look(values.get(other))
        if op not in (AluOp.ADD, AluOp.SUB):
            return replace(notes, values=values.put(place, None))
        mine, theirs = values.get(place), values.get(other) if by_register else None
        for value in (mine, theirs):
            if value is not None and value.root in self._regions:  # the state knows where it points
                return replace(notes, values=values.put(place, value))
        number: int | None = insn.imm
        if by_register:
            added = state.frame.regs[insn.src]
            known = added.type is RegType.SCALAR_VALUE and not added.var.mask
            number = _signed(added.var.value) if known else None
        if mine is None or number is None:
            return replace(notes, values=values.put(place, None))
        number = number if op is AluOp.ADD else -number
        return replace(notes, values=values.added(place, number, pc))

    def _look(self, value: Value | None) -> None:
        """A number is used for something."""
        if value is not None and value.root in self._submits:
            self._looked_at.add(value.root)

    def _access(self, number: int, insn: Insn, state: State, notes: LoopNotes) -> _Access | None:
        """The access of an instruction, through this register; None if that is not to a region."""
        value = notes.values.get((state.frame.number, number))
        pointer = state.frame.regs[number]
        found = self._regions.get(value.root, set()) if value is not None else set()
        if pointer.type is not RegType.PTR_TO_MEM or len(found) != 1:
            return None
        ((region, given),) = found
        at = pointer.off + insn.off
        var = pointer.var
        return _Access(
            region, given, at + var.umin, at + var.umax, int(insn.spec.size or 8), var.mask
        )

    def _loaded(self, pc: int, insn: Insn, state: State, notes: LoopNotes) -> LoopNotes:
        values, frame = notes.values, state.frame.number
        place = (frame, insn.dst)
        access = self._access(insn.src, insn, state, notes)
        if access is not None:
            if access.region is Region.CQ and access.is_word(self._head):
                values = replace(values.made(place, pc), published=Value(pc))
            elif access.region is Region.CQ and access.is_word(self._tail):
                self._tails.add(pc)
                values = values.made(place, pc)
            else:
                self._check_mask(pc, access)
                values = values.put(place, None)
            return replace(notes, values=values)
        stack = stack_place(state, state.frame.regs[insn.src])
        held = None
        if stack is not None and insn.spec.kind is InsnKind.LDX:
            held = values.get((stack[0].number, stack[1] + insn.off))
        return replace(notes, values=values.put(place, held))

    def _stored(self, pc: int, insn: Insn, state: State, notes: LoopNotes) -> LoopNotes:
        frame, pointer = state.frame.number, state.frame.regs[insn.dst]
        value = None
        if insn.spec.kind in (InsnKind.STX, InsnKind.STORE_REL):
            value = notes.values.get((frame, insn.src))
        stack = pointer.type is RegType.PTR_TO_STACK
        if stack:
            place = stack_place(state, pointer)
            if place is None:
                return replace(notes, values=notes.values.without(pointer.frame, _STACK))
            at, size = place[1] + insn.off, int(insn.spec.size or 8)
            values = notes.values.without(place[0].number, range(at - 7, at + size))
            return replace(notes, values=values.put((place[0].number, at), value))
        self._look(value)
        if pointer.type is RegType.PTR_TO_BTF_ID:
            struct = self._kernel.type(pointer.btf_id)
            if not isinstance(struct, Struct) or struct.name != self._rules.params:
                return notes
            return self._set_index(pc, insn, state, notes, value)
        notes = replace(notes, changed=True)
        access = self._access(insn.dst, insn, state, notes)
        if access is None:
            return notes
        if access.region is Region.SQ:
            self._fills = True
        if access.region is not Region.CQ:
            return notes
        self._check_owner(pc, access)
        if access.is_word(self._sq_tail):
            self._sq_tail_stores.add(pc)
        if access.touches(self._head):
            if access.size == 4 and insn.spec.kind is not InsnKind.ATOMIC:
                self._check_head(pc, insn, state, notes, value)
            notes = replace(notes, values=replace(notes.values, published=value))
        return notes

    def _called(self, pc: int, insn: Insn, state: State, notes: LoopNotes) -> LoopNotes:
        frame, values = state.frame.number, notes.values
        kept = values.without(frame, range(6))
        kind = insn.spec.kind
        if kind is InsnKind.CALL_LOCAL:
            if pc + 1 + insn.imm in self._globals:
                unknown = replace(kept, published=None)
                return replace(notes, values=unknown, changed=True, waits=None, set_index=True)
            for number in range(1, 6):
                kept = kept.put((frame + 1, number), values.get((frame, number)))
            return replace(notes, values=kept)
        if kind is InsnKind.CALL:
            helper = self._profile.helpers.get(insn.imm, "")
            if helper != "map_lookup_elem":
                kept = _overwritten(state, kept)
            changed = notes.changed or helper not in _LOOKS_ONLY
            return replace(notes, values=kept, changed=changed)
        known = self._kernel.type(insn.imm) if 0 < insn.imm < len(self._kernel) else None
        name = known.name if isinstance(known, Func) and not insn.off else ""
        if name == _GET_REGION:
            if self._region_asked(pc, state.frame.regs):
                kept = kept.made((frame, 0), pc)
        elif name == _SUBMIT:
            self._submits.add(pc)
            self._check_count(pc, state.frame.regs[2])
            kept = kept.made((frame, 0), pc)
            notes = replace(notes, changed=True)
        else:
            kept = _overwritten(state, kept)
        return replace(notes, values=kept)

    def _ended(self, pc: int, state: State, notes: LoopNotes) -> None:
        """A step ends."""
        answer = state.frame.regs[0]
        known = answer.type is RegType.SCALAR_VALUE and not answer.var.mask
        if not known or answer.var.value != self._rules.go_on:
            return
        if not notes.set_index:
            self._silent.add(pc)
        if notes.waits is False and not notes.changed and self._instead:
            self._report(
                Rule.WAIT_NO_PROGRESS,
                pc,
                "the step asks to be run again at once, and has changed nothing",
                "the next step finds what this one found: the program turns in the kernel until "
                "something else happens",
                f"set {self._index} to the CQ's head and how many completions to wait for",
            )

    # --- what is warned of ------------------------------------------------------------------

    def _check_owner(self, pc: int, access: _Access) -> None:
        name = next((one for at, one in self._kernels.items() if access.touches(at)), "")
        entries = self._cq_entries(access.given)
        end = self._cqes + entries * self._cqe_bytes
        if not name and entries and self._cqes <= access.low and access.high + access.size <= end:
            name = "CQEs"
        if name:
            self._report(
                Rule.RING_OWNER,
                pc,
                f"a store to the ring's {name}, which the kernel writes",
                "nothing keeps the two apart: what the program writes is lost or taken for what "
                "the kernel wrote",
                "write the SQ's tail, the CQ's head, the index array and SQEs only",
            )

    def _check_head(
        self, pc: int, insn: Insn, state: State, notes: LoopNotes, value: Value | None
    ) -> None:
        """A new head for the CQ."""
        published = notes.values.published
        if insn.spec.kind is InsnKind.ST or _constant(state.frame.regs[insn.src]):
            self._report(
                Rule.HEAD_STALE,
                pc,
                "the CQ's head is set to a constant",
                "heads count all CQEs there ever were: the next step finds a CQ that is full of "
                "what was taken before, or one with a negative number of CQEs",
                "store the head that was loaded, plus what was taken",
            )
        elif published is not None and published.same_root(value):
            assert value is not None
            if value.off < published.off:
                self._report(
                    Rule.HEAD_STALE,
                    pc,
                    "the CQ's head goes back to what it was before",
                    "completions that were taken are there again, for the next step to take",
                    "store the newest head once, after the last CQE was read",
                )

    def _set_index(
        self, pc: int, insn: Insn, state: State, notes: LoopNotes, value: Value | None
    ) -> LoopNotes:
        """cq_wait_idx is written, or another field of the parameters."""
        pointer = state.frame.regs[insn.dst]
        if pointer.off + insn.off != self._rules.wait_index_at or insn.spec.size != 4:
            beside = pointer.off + insn.off >= self._rules.wait_index_at + 4
            self._timed |= beside and self._rules.timeout is not None
            return replace(notes, waits=None, set_index=notes.set_index or not beside)
        self._sets_index = True
        number: int | None = insn.imm & 0xFFFF_FFFF
        if insn.spec.kind is not InsnKind.ST:
            source = state.frame.regs[insn.src]
            number = source.var.value & 0xFFFF_FFFF if _constant(source) else None
        if number is not None:
            if number:
                self._unreached(
                    pc,
                    f"{self._index} is the constant {number}",
                    "it is an index of the CQ's tail, not a number of completions: so many from "
                    "the ring's first on, and none any more once the tail has passed it",
                    "add the number to the CQ's head",
                )
            return replace(notes, waits=bool(number), set_index=True)
        ahead = self._ahead(pc, value, notes.values.published)
        waits = None if ahead is None else ahead > 0
        return replace(notes, waits=waits, set_index=True)

    def _ahead(self, pc: int, value: Value | None, published: Value | None) -> int | None:
        """How far before the CQ's head an index is, if that is known."""
        if value is None:
            return None
        if published is not None and value.same_root(published):
            ahead = value.off - published.off
            if ahead <= 0 and value.off >= 0 and published.off > 0 and self._instead:
                self._report(
                    Rule.HEAD_STALE,
                    pc,
                    f"{self._index} is not beyond the CQ's head, which was moved since it was "
                    "loaded",
                    "it is made from the head as it was before: the tail is there already, and "
                    "the step runs again at once",
                    "add the number of completions to wait for to the head that was stored last",
                )
        elif value.root in self._tails:
            ahead = value.off
        else:
            return None
        entries = self._cq_entries(self._most_asked(Region.CQ)) or abi.MAX_CQ_ENTRIES
        if ahead > entries:
            self._unreached(
                pc,
                f"the step waits for {ahead} completions, and the CQ holds {entries}",
                "the tail does not get there before the program takes some: what does not fit is "
                "kept elsewhere, and the step does not run, or runs without end",
                f"wait for {entries} at most, or make the ring with a larger CQ",
            )
        return ahead

    def _unreached(self, pc: int, *told: str) -> None:
        """A wait that no completion ends. Where waits may have a timeout, it is known at the end
        whether the program gives them one."""
        message, reason, suggestion = told
        if self._rules.timeout is None:
            self._report(Rule.WAIT_NEVER, pc, message, reason, suggestion)
        else:
            self._never[pc] = (message, reason, suggestion)

    def _check_mask(self, pc: int, access: _Access) -> None:
        """A CQE whose index is not known."""
        entries = self._cq_entries(access.given)
        if access.region is not Region.CQ or access.low < self._cqes or not entries:
            return
        slots, rest = divmod(access.steps, self._cqe_bytes)
        if rest or not slots or slots & (slots + 1) or slots >= abi.MAX_CQ_ENTRIES:
            return
        if slots + 1 != entries:
            whose = "the ring's CQ has" if self._shape is not None else "the program asks for"
            self._report(
                Rule.CQ_MASK,
                pc,
                f"the index of a CQE is masked for {slots + 1} of them, and {whose} {entries}",
                "the kernel writes CQEs at the tail modulo the size of the CQ: the program looks "
                "for some where they are not",
                f"mask with {entries - 1}",
            )

    def _check_count(self, pc: int, count: Reg) -> None:
        """How many SQEs are submitted."""
        least, most = count.var.u32min, count.var.u32max
        asked = self._most_asked(Region.SQ) // abi.SQE_BYTES
        shape = self._shape
        held = abi.MAX_SQ_ENTRIES if shape is None else shape.sq_entries
        if most == 0:
            message, reason = "0 SQEs are submitted", "the call does nothing"
        elif least > held:
            message = f"{least} SQEs are submitted, and the SQ holds {held}"
            reason = "the result is never the number that was asked for"
        elif asked and least == most > asked and self._rewinds:
            message = f"{least} SQEs are submitted, and the program has asked for memory of {asked}"
            reason = "on a ring with SQ_REWIND the others are what earlier steps, or nobody, left"
        else:
            return
        self._report(
            Rule.SUBMIT_COUNT, pc, message, reason, "submit as many as were filled in this step"
        )

    def _region_asked(self, pc: int, regs: list[Reg]) -> bool:
        """A region is asked for; whether it is known which."""
        ident, size = regs[2], regs[3]
        if not _constant(ident) or not _constant(size):
            return False
        number, given = ident.var.value & 0xFFFF_FFFF, size.var.value
        region = self._rules.regions.get(number)
        if region is None:
            known = ", ".join(f"{one} {kind.name}" for one, kind in self._rules.regions.items())
            why, remedy = f"no region has the number {number}", f"use one of {known}"
        elif self._shape is not None and given > self._shape.region_bytes(region):
            has = self._shape.region_bytes(region)
            why = f"{given} bytes of {region.name} are asked for, and the ring has {has}"
            remedy = "ask for what the ring has, or set it up as the program needs it"
            if region is Region.MEM and not has:
                why = "MEM is asked for, which was not registered"
        else:
            self._regions.setdefault(pc, set()).add((region, given))
            return True
        self._report(
            Rule.RING_REGION, pc, why, "the call gives NULL, whatever else it says", remedy
        )
        return False

    @property
    def _rewinds(self) -> bool:
        """Whether the ring takes SQEs from the first on, whatever its head; where nothing is known
        of it, that is what the merged ABI's rings do."""
        return self._instead if self._shape is None else self._shape.rewinds

    def _most_asked(self, region: Region) -> int:
        asked = [size for found in self._regions.values() for one, size in found if one is region]
        return max(asked, default=0)

    def _cq_entries(self, given: int) -> int:
        """The CQ's entries: the ring's, or those that so many bytes were asked for; 0: unknown."""
        if self._shape is not None:
            return self._shape.cq_entries
        entries, rest = divmod(given - self._cqes, self._cqe_bytes)
        return 0 if given <= self._cqes or rest or entries & (entries - 1) else entries

    def _finish(self) -> None:
        for pc in self._submits - self._looked_at:
            self._report(
                Rule.SUBMIT_UNCHECKED,
                pc,
                "the result of submitting is never looked at",
                "it says how many SQEs were taken: of those that were not no completion ever comes",
                "count as in flight what was taken, and submit the others again",
            )
        if not self._timed:
            for pc, told in self._never.items():
                self._report(Rule.WAIT_NEVER, pc, *told)
        if self._sets_index and self._instead:
            for pc in self._silent:
                self._report(
                    Rule.WAIT_STALE,
                    pc,
                    f"a step asks to be run again without having set {self._index}, as others do",
                    "it keeps its value from step to step: what is waited for is what an earlier "
                    "step left",
                    "set it on every path that goes on",
                )
        if self._shape is not None:
            self._check_setup(self._shape)

    def _check_setup(self, shape: RingShape) -> None:
        """What the ring is, and what the program takes it to be."""
        refused = shape.flags & (abi.SETUP_SQPOLL | abi.SETUP_IOPOLL)
        if self._rules.deferred and (refused or not shape.flags & abi.SETUP_DEFER_TASKRUN):
            self._report(
                Rule.RING_SETUP,
                0,
                "no program can be attached to this ring",
                "attaching is refused with -EOPNOTSUPP for rings with SQPOLL or IOPOLL, and for "
                "those without DEFER_TASKRUN",
                "make the ring with SINGLE_ISSUER and DEFER_TASKRUN, and without polling",
            )
        if shape.rewinds:
            for pc in self._sq_tail_stores:
                self._report(
                    Rule.RING_SETUP,
                    pc,
                    "the SQ's tail is moved, and the ring was made with SQ_REWIND",
                    "each submission takes SQEs from the first on, whatever head and tail are",
                    "leave the tail alone and fill SQEs from slot 0, or leave the flag out",
                )
        elif self._fills and not self._sq_tail_stores:
            for pc in self._submits:
                self._report(
                    Rule.RING_SETUP,
                    pc,
                    "SQEs are submitted whose tail is never moved, and the ring has no SQ_REWIND",
                    "what is submitted lies between head and tail: there is nothing",
                    "move the SQ's tail before, or make the ring with SQ_REWIND",
                )


def _notes(state: State) -> LoopNotes:
    assert isinstance(state.notes, LoopNotes)
    return state.notes


def _overwritten(state: State, values: Values) -> Values:
    """What is left when a call may have written to the stacks that it was given."""
    for pointer in state.frame.regs[1:6]:
        if pointer.type is RegType.PTR_TO_STACK:
            values = values.without(pointer.frame, _STACK)
    return values


def _constant(reg: Reg) -> bool:
    return reg.type is RegType.SCALAR_VALUE and not reg.var.mask


def _signed(value: int) -> int:
    """A word that was perhaps meant as a negative one of 32 or 64 bits."""
    if value >> 63:
        return value - (1 << 64)
    return value - (1 << 32) if value >> 31 == 1 else value
