"""What a program of 2021 does with its ring, call by call, as the verifier explores it.

Facts are unions over the paths that were explored. A value is known where every path that comes to
the instruction has one of a few constants there; anything else is None, "not known". So that no
path is taken for one that was seen although it differs in such a value, values are marked as the
verifier marks numbers on which safety hangs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from pybpfvm.errors import SourceLine
from pybpfvm.isa.codec import pcs
from pybpfvm.isa.opcodes import Kind as InsnKind
from pybpfvm.profiles.base import Profile, WaitBy
from pybpfvm.program import BpfObject, Program
from pybpfvm.uring_backend.abi import OP_LAST, OPS, Op
from pybpfvm.uring_backend.loop.naming import NAMES_ANOTHER
from pybpfvm.verifier.environment import RULES_2021, Options
from pybpfvm.verifier.lints import waiting, writing
from pybpfvm.verifier.lints.notes import Notes
from pybpfvm.verifier.lints.site import Site, u32_span
from pybpfvm.verifier.lints.sqe import FIELDS, Sqe, sqe_at
from pybpfvm.verifier.lints.stores import Stored
from pybpfvm.verifier.lints.watch import FILLS
from pybpfvm.verifier.observe import Observer
from pybpfvm.verifier.states.regstate import Reg, RegType, mark_precise
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.usermemory.contract import ProgramPromise
from pybpfvm.verifier.usermemory.usernames import EMIT, FROM_USER, REAP, SUBMIT, TO_USER
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Kind, Verdict
from pybpfvm.verifier.verify import verify

MOST_VALUES = 8  # more of them at one instruction count as not known
_FINE_INSNS = 60_000
_ALL_INSNS = 1_000_000
_USER_DATA = 0  # offset in the context

Values = frozenset[int] | None
"""The values that a number can have; None: not known."""


class Does(Enum):
    """What a call, or the end of a run, does."""

    SUBMIT = "submits a request"
    EMIT = "posts a completion"
    REAP = "takes a completion"
    FROM_USER = "reads user memory"
    TO_USER = "writes user memory"
    WAIT = "asks to be run again"
    FINISH = "ends the request"
    READ_USER_DATA = "reads the request's user_data"
    HELPER = "calls another helper"


@dataclass(frozen=True, slots=True)
class Fact:
    """What happens at `pc`. `values` are by name: fields of an SQE, `cq`, `size`, `nr`, `res`;
    `sources` say where a number came from, where that is plain. `helper` is what is called."""

    pc: int
    does: Does
    source: SourceLine | None
    helper: str = ""
    values: Mapping[str, Values] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def value(self, name: str) -> int | None:
        """The one value that the number has, None if it is not known or has several."""
        known = self.values.get(name)
        return next(iter(known)) if known is not None and len(known) == 1 else None

    @property
    def opcodes(self) -> Values:
        """Of a request."""
        return self.values.get("opcode")


@dataclass(frozen=True, slots=True)
class Survey:
    """The facts of one program, in the order of its code. `complete`: all paths were seen;
    else `why_not` says what is missing."""

    program: Program
    profile: Profile
    facts: tuple[Fact, ...]
    maps: tuple[str, ...]
    complete: bool
    why_not: str = ""

    def of(self, *kinds: Does) -> tuple[Fact, ...]:
        """The facts of these kinds."""
        return tuple(fact for fact in self.facts if fact.does in kinds)

    @property
    def cqs(self) -> Values:
        """The CQs that the program names, None if it names some that are not known."""
        found: set[int] = set()
        for fact in self.of(Does.SUBMIT, Does.EMIT, Does.REAP, Does.WAIT):
            known = fact.values["cq"]
            if known is None:
                return None
            found |= known
        return frozenset(found)


def survey(program: Program, obj: BpfObject, profile: Profile) -> Survey:
    """Explore `program` by the rules of its ABI, and note what it does with its ring.

    Where telling all values apart takes too long, a second look finds every place at least.
    """
    watching = _Surveyor(program, profile)
    verdict = _explored(program, obj, profile, watching)
    why_not = ""
    if isinstance(verdict, Inconclusive) and verdict.finding.kind is Kind.LIMIT:
        watching.tells_apart = False
        verdict = _explored(program, obj, profile, watching)
        why_not = "there are too many paths to tell all values apart: others may be possible"
    if isinstance(verdict, Inconclusive):
        why_not = f"not all paths were seen: {verdict.finding.message}"
    elif not isinstance(verdict, Accepted):
        why_not = f"the verifier rejects it: {verdict.errors[0].message}"
    maps = tuple(sorted(watching.maps))
    return Survey(program, profile, watching.facts(), maps, not why_not, why_not)


def _explored(program: Program, obj: BpfObject, profile: Profile, watching: _Surveyor) -> Verdict:
    options = Options(
        observer=watching,
        by_origin=watching.tells_apart,
        all_errors=True,
        budget_insns=_FINE_INSNS if watching.tells_apart else _ALL_INSNS,
        rules=replace(RULES_2021, lookup_never_null=True),
    )
    return verify(program, obj, profile, options=options)


class _Notes(Notes):
    """Of the path to a state only what facts hang on is compared: how long the program wants to
    wait, and those bytes on the stack that a request was made of later on."""

    __slots__ = ()

    def covers(self, new: Notes) -> bool:
        if (self.wait_nr, self.wait_idx) != (new.wait_nr, new.wait_idx):
            return False
        same: list[Stored] = []
        for one in self.stores.all:
            if one.reg.precise:
                there = next((other for other in new.stores.all if _overlap(one, other)), None)
                if there is None or not one.same_as(there):
                    return False
                same.append(there)
        for one in same:
            mark_precise(one.reg)
        return True


def _overlap(a: Stored, b: Stored) -> bool:
    return a.frame == b.frame and a.off < b.off + b.size and b.off < a.off + a.size


class _Surveyor(Observer):
    """Looks at calls, at stores to the stack and the context, and at the ends of runs."""

    def __init__(self, program: Program, profile: Profile) -> None:
        self.maps: set[str] = set()
        self.tells_apart = True
        self._program = program
        self._profile = profile
        self._code = dict(zip(pcs(program.insns), program.insns, strict=True))
        self._facts: dict[tuple[int, Does], Fact] = {}

    def facts(self) -> tuple[Fact, ...]:
        """What was seen."""
        return tuple(self._facts[key] for key in sorted(self._facts, key=lambda key: key[0]))

    def resumed(self, origin: int, pc: int, state: State) -> None:
        if state.notes is None:
            state.notes = _Notes()

    def step(self, pc: int, state: State) -> None:
        insn = self._code[pc]
        kind = insn.spec.kind
        helper = self._profile.helpers.get(insn.imm, "") if kind is InsnKind.CALL else ""
        site = Site(
            self._profile, None, ProgramPromise(), pc, insn, state, helper, self._code, _unheard
        )
        if kind is InsnKind.CALL:
            self._call(site)
        elif kind in (InsnKind.STX, InsnKind.ST, InsnKind.ATOMIC):
            self._store(site)
        elif kind is InsnKind.LDX and site.regs[insn.src].type is RegType.PTR_TO_CTX:
            ctx_field = self._profile.ctx_field(insn.off, int(insn.spec.size or 8))
            if ctx_field is not None and ctx_field.offset == _USER_DATA:
                self._note(pc, Does.READ_USER_DATA)
        elif kind is InsnKind.EXIT and len(state.frames) > 1:
            writing.returned(site)
        elif kind is InsnKind.EXIT:
            self._ended(site)

    def _call(self, site: Site) -> None:
        name, regs = site.helper, site.regs
        for reg in regs[1:6]:
            if reg.map is not None:
                self.maps.add(reg.map.name)
        if name in SUBMIT:
            self._submitted(site, sqe_at(site))
        elif name in EMIT:
            numbers = {"cq": regs[2], "user_data": regs[3], "res": regs[4], "flags": regs[5]}
            self._note(site.pc, Does.EMIT, name, numbers, {"user_data": _origin(regs[3])})
        elif name in REAP:
            self._note(site.pc, Does.REAP, name, {"cq": regs[2]})
        elif name in FROM_USER:
            sources = {"address": _origin(regs[3])}
            self._note(site.pc, Does.FROM_USER, name, {"size": regs[2]}, sources)
        elif name in TO_USER:
            addr, size, _ = (regs[1 + at] for at in TO_USER[name])
            self._note(site.pc, Does.TO_USER, name, {"size": size}, {"address": _origin(addr)})
        else:
            self._note(site.pc, Does.HELPER, name or f"#{site.insn.imm}")
        if name in FILLS:
            out, size = (regs[number] for number in FILLS[name])
            writing.filled(site, out, size)

    def _store(self, site: Site) -> None:
        pointer = site.regs[site.insn.dst]
        if pointer.type is RegType.PTR_TO_CTX:
            if self.tells_apart:
                mark_precise(site.regs[site.insn.src])
            waiting.stored(site)
        elif pointer.type is RegType.PTR_TO_STACK:
            writing.stored(site)

    def _submitted(self, site: Site, sqe: Sqe | None) -> None:
        values: dict[str, Values] = {}
        sources: dict[str, str] = {}
        for name, (offset, size) in FIELDS.items():
            if name == "addr3":
                continue
            known = None if sqe is None else sqe.value(name)
            shown = "cq" if name == "cq_idx" else name
            values[shown] = None if known is None else frozenset({known})
            if sqe is None:
                continue
            number = sqe.number(name)
            if number is not None and number.origin is not None:
                sources[shown] = number.origin.source.value
            if self._counts(site.pc, Does.SUBMIT, shown):
                place = Stored(sqe.frame, sqe.low + offset, size, site.regs[2])
                for one in sqe.stores.all:
                    if _overlap(one, place):
                        mark_precise(one.reg)
        if not site.ring.extra_cqs:
            values["cq"] = frozenset({0})
        self._note(site.pc, Does.SUBMIT, site.helper, values, sources)

    def _ended(self, site: Site) -> None:
        rules, notes, r0 = site.ring, site.notes, site.regs[0]
        waits = ends = True
        if rules.wait_by is WaitBy.NOTHING:
            waits = False
        elif rules.wait_by is WaitBy.RETURN:
            if self.tells_apart:
                mark_precise(r0)
            known = _values(r0)
            if known is not None:
                waits, ends = rules.wait_value in known, known != {rules.wait_value}
        else:
            low, high = notes.wait_nr or (0, 0)
            waits, ends = high > 0, low == 0
        if waits:
            # Fields that a run does not set are 0, or in v3 what an earlier run left.
            unset = None if rules.ctx_persists else frozenset({0})
            values = {
                "cq": unset if notes.wait_idx is None else _span(notes.wait_idx),
                "nr": unset if notes.wait_nr is None else _span(notes.wait_nr),
            }
            self._note(site.pc, Does.WAIT, values=values)
        if ends:
            self._note(site.pc, Does.FINISH)

    def _counts(self, pc: int, does: Does, name: str) -> bool:
        """Whether it still matters which value this is: it is not given up as not known."""
        if not self.tells_apart:
            return False
        old = self._facts.get((pc, does))
        return old is None or old.values.get(name) is not None

    def _note(
        self,
        pc: int,
        does: Does,
        helper: str = "",
        values: Mapping[str, Values | Reg] | None = None,
        sources: Mapping[str, str] | None = None,
    ) -> None:
        """Join what one path shows with what others have shown."""
        new: dict[str, Values] = {}
        for name, value in (values or {}).items():
            if isinstance(value, Reg):
                if self._counts(pc, does, name):
                    mark_precise(value)
                value = _values(value, wide=name == "user_data")
            new[name] = value
        old = self._facts.get((pc, does))
        told = dict(sources or {})
        if old is not None:
            new = {name: _join(known, old.values[name]) for name, known in new.items()}
            told = {name: text for name, text in told.items() if old.sources.get(name) == text}
        line = self._program.line_at(pc)
        self._facts[pc, does] = Fact(pc, does, line, helper, new, told)


def _unheard(*_: object) -> None:
    """Warnings are the lints'."""


def _join(a: Values, b: Values) -> Values:
    if a is None or b is None or len(a | b) > MOST_VALUES:
        return None
    return a | b


def _span(span: tuple[int, int]) -> Values:
    low, high = span
    return frozenset(range(low, high + 1)) if high - low < MOST_VALUES else None


def _values(reg: Reg, *, wide: bool = False) -> Values:
    """What a number can be: its low 32 bits, all 64 if `wide`."""
    if reg.type is not RegType.SCALAR_VALUE:
        return None
    return _span((reg.var.umin, reg.var.umax) if wide else u32_span(reg))


def _origin(reg: Reg) -> str:
    return "" if reg.origin is None else reg.origin.source.value


def user_pointers(fact: Fact) -> tuple[str, ...]:
    """The fields of a request that are addresses of user memory, by the opcodes it may have, and
    that may be other than 0."""
    found: dict[str, None] = {}
    for opcode in sorted(fact.opcodes or ()):
        if opcode < OP_LAST:
            found |= dict.fromkeys(pointer.field for pointer in OPS[Op(opcode)].pointers)
    return tuple(name for name in found if fact.values.get(name) != frozenset({0}))


def names_another(fact: Fact) -> bool:
    """Whether a request has another one's user_data in `addr`, whatever opcode it has."""
    opcodes = fact.opcodes
    return opcodes is not None and opcodes <= NAMES_ANOTHER
