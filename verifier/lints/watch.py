"""The observer that the lints share: it finds the instructions that concern them."""

from __future__ import annotations

from dataclasses import replace

from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AluOp, Operand
from pybpfvm.isa.opcodes import Kind as InsnKind
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, MapType, Program
from pybpfvm.verifier.lints import (
    buffers,
    completions,
    exposure,
    fetches,
    submission,
    waiting,
    writing,
)
from pybpfvm.verifier.lints.notes import ANY_U32, Notes
from pybpfvm.verifier.lints.site import (
    Site,
    notes_of,
    stack_place,
)
from pybpfvm.verifier.lints.watching import Watching
from pybpfvm.verifier.states.regstate import Reg, RegType, is_null
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.usermemory.contract import Contract, ProgramPromise
from pybpfvm.verifier.usermemory.usernames import EMIT, FROM_USER, REAP, REQUEUE, SUBMIT, TO_USER

_CHANGES_MAPS = frozenset(
    {"map_update_elem", "map_delete_elem", "map_push_elem", "map_pop_elem", "ringbuf_output"}
    | {"ringbuf_submit"}
)
# Helpers that fill memory of the program: the registers that say where, and how much.
FILLS = {
    **dict.fromkeys(FROM_USER, (1, 2)),
    **dict.fromkeys(REAP, (3, 4)),
    **dict.fromkeys(("probe_read_kernel", "probe_read_kernel_str", "snprintf"), (1, 2)),
    "snprintf_btf": (1, 2),
}
_NOTHING = ProgramPromise()


class Lints(Watching):
    """Watches one exploration of a ring program."""

    def __init__(
        self,
        program: Program,
        obj: BpfObject,
        profile: Profile,
        contract: Contract | None,
        *,
        coarse: bool = False,
    ) -> None:
        super().__init__(program, Notes(coarse=coarse))
        self._profile = profile
        self._contract = contract
        self._promise = _NOTHING if contract is None else contract.of(program.name)
        self._results = completions.Results()
        # Lookups, by pc, that find something on every path; tests of such for NULL, and of what.
        self._sure: dict[int, bool] = {}
        self._null_tests: dict[int, int] = {}
        self._sure_tests: dict[int, bool] = {}
        self._last = -1

    def _finish(self) -> None:
        self._results.finish(self._profile, self._report)

    def resumed(self, origin: int, pc: int, state: State) -> None:
        """See Observer.resumed."""
        self._last = origin
        super().resumed(origin, pc, state)

    def step(self, pc: int, state: State) -> None:
        """See Observer.step."""
        tested = self._null_tests.get(self._last)
        if tested is not None and is_null(state.frame.regs[tested]):
            self._nothing_found(state, self._last)
        self._last = pc
        insn = self._code[pc]
        kind = insn.spec.kind
        if kind is InsnKind.CALL:
            name = self._profile.helpers.get(insn.imm, "")
            self._call(self._site(pc, insn, state, name))
        elif kind in (InsnKind.STX, InsnKind.ST, InsnKind.ATOMIC):
            self._store(self._site(pc, insn, state))
        elif kind in (InsnKind.LDX, InsnKind.LDSX):
            site = self._site(pc, insn, state)
            fetches.loaded(site)
            self._results.loaded(site)
        elif kind is InsnKind.JUMP:
            site = self._site(pc, insn, state)
            if site.regs[insn.dst].type is RegType.PTR_TO_MAP_VALUE_OR_NULL:
                self._test(pc, insn.dst, site.regs[insn.dst])
            for number in _operands(insn):
                fetches.compared(site, site.regs[number])
                self._results.used(site, site.regs[number])
        elif kind is InsnKind.ALU:
            for number in _operands(insn):
                self._results.read(state.frame.regs[number])
        elif kind is InsnKind.EXIT:
            site = self._site(pc, insn, state)
            if len(state.frames) > 1:
                writing.returned(site)
            elif state.frame.entry:  # of a global function: its caller may look at what it returns
                self._results.read(site.regs[0])
            else:
                waiting.ended(site)
                submission.ended(site)
        elif kind is InsnKind.CALL_LOCAL and pc + 1 + insn.imm in self._globals:
            self._global_called(self._site(pc, insn, state))

    def _test(self, pc: int, number: int, found: Reg) -> None:
        """The jump at `pc` tells whether a lookup found something."""
        if found.map is not None and found.map.type == MapType.ARRAY:
            self._null_tests[pc] = number
            sure = self._sure.get(found.at, False)
            self._sure_tests[pc] = sure and self._sure_tests.get(pc, True)

    def _nothing_found(self, state: State, tested: int) -> None:
        """A lookup in an array found nothing. No run comes here if the index was one that the
        array has; and it probably was, if that is not known: nothing is said of progress."""
        notes = notes_of(state)
        if self._sure_tests[tested]:
            state.notes = replace(notes, impossible=True)
        else:
            state.notes = replace(notes, persisted=True)

    def _site(self, pc: int, insn: Insn, state: State, helper: str = "") -> Site:
        return Site(
            self._profile,
            self._contract,
            self._promise,
            pc,
            insn,
            state,
            helper,
            self._code,
            self._report,
        )

    def _call(self, site: Site) -> None:
        name = site.helper
        if name in SUBMIT:
            sqe = submission.submitted(site)
            exposure.submitted(site)
            if sqe is not None:
                self._results.submitted(sqe)
                buffers.submitted(site, sqe)
                submission.linked(site, sqe)
        elif name in EMIT:
            completions.emitted(site)
            exposure.emitted(site)
            for number in (2, 3, 4, 5):
                self._results.used(site, site.regs[number])
        elif name in REAP:
            self._results.reaped(site)
            waiting.reaped(site)
            buffers.reaped(site)
        elif name in REQUEUE:
            submission.requeued(site)
        elif name in FROM_USER:
            fetches.fetched(site)
            buffers.copied(site, site.regs[3], site.regs[2], writes=False)
        elif name in TO_USER:
            addr, size, memory = (site.regs[1 + at] for at in TO_USER[name])
            fetches.address(site, addr)
            buffers.copied(site, addr, size, writes=True)
            exposure.copied(site, memory, size)
            self._results.copied(site, memory, size)
        elif name == "map_lookup_elem":
            self._sure[site.pc] = self._sure.get(site.pc, True) and _in_range(site)
        fills = False
        if name in FILLS:
            out, size = (site.regs[number] for number in FILLS[name])
            fills = out.type is RegType.PTR_TO_MAP_VALUE
            writing.filled(site, out, size)
        if fills or name in TO_USER or name in _CHANGES_MAPS:
            site.notes = replace(site.notes, persisted=True)

    def _global_called(self, site: Site) -> None:
        """A function that is judged alone: it may do anything with what it is given."""
        notes = replace(site.notes, persisted=True, reaped=site.notes.reaped | {None})
        given = [site.regs[number] for number in range(1, 6)]
        if any(reg.type is RegType.PTR_TO_CTX for reg in given):
            notes = replace(notes, wait_nr=ANY_U32, wait_idx=ANY_U32, chain=-1, flights=frozenset())
        for reg in given:
            if reg.type is RegType.PTR_TO_STACK:
                notes = replace(notes, stores=notes.stores.unknown(reg.frame))
                self._results.passed()
        site.notes = notes

    def _store(self, site: Site) -> None:
        insn = site.insn
        pointer = site.regs[insn.dst]
        if pointer.type is RegType.PTR_TO_CTX:
            waiting.stored(site)
        elif pointer.type is RegType.PTR_TO_STACK:
            writing.stored(site)
        elif pointer.type is RegType.PTR_TO_MAP_VALUE:
            exposure.stored(site)
            site.notes = replace(site.notes, persisted=True)
        elif pointer.type in (RegType.PTR_TO_PACKET, RegType.PTR_TO_MEM):
            exposure.stored_in_context(site)
            site.notes = replace(site.notes, persisted=True)
        if insn.spec.kind is not InsnKind.ST and pointer.type is not RegType.PTR_TO_STACK:
            self._results.used(site, site.regs[insn.src])


def _in_range(site: Site) -> bool:
    """Whether a lookup is one in an array, by an index that it has."""
    spec = site.regs[1].map
    place = stack_place(site.state, site.regs[2])
    if spec is None or place is None or spec.type != MapType.ARRAY:
        return False
    stores, frame = site.notes.stores, place[0].number
    value = stores.value(frame, place[1], spec.key_size)
    if value is None:
        held = stores.number(frame, place[1], spec.key_size)
        value = spec.max_entries if held is None else held.var.umax
    return value < spec.max_entries


def _operands(insn: Insn) -> tuple[int, ...]:
    """Registers that an ALU instruction or a jump reads."""
    second = (insn.src,) if insn.spec.operand is Operand.X else ()
    moves = isinstance(insn.spec.op, AluOp) and insn.spec.op.name.startswith("MOV")
    return second if moves else (insn.dst, *second)
