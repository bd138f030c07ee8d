"""Why a program was refused: the first cause, the instructions that led from it to the error,
where a bound was lost, and what to write instead.

`explained` explores a rejected program once more to find the failing path (`failing_path`), cuts
it down to the instructions that made the refused value what it is (`slicing`), and says each in
words (`narration`). What to do about it is `remedies`' business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from pybpfvm.helpers.proto import ArgType
from pybpfvm.helpers.table import HELPERS
from pybpfvm.isa.opcodes import Kind
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, Program
from pybpfvm.verifier.environment import Environment, Options, environment
from pybpfvm.verifier.explaining.failing_path import AllFound, FailingPath, PathRecorder
from pybpfvm.verifier.explaining.lost_bound import Lost, Need, lost_bound
from pybpfvm.verifier.explaining.narration import note_of
from pybpfvm.verifier.explaining.remedies import Question, advice
from pybpfvm.verifier.explaining.slicing import (
    Aspect,
    How,
    Link,
    Place,
    Register,
    StackSlot,
    history,
    same,
)
from pybpfvm.verifier.explore import Explorer
from pybpfvm.verifier.globals import called_globals
from pybpfvm.verifier.prepared import Prepared
from pybpfvm.verifier.states.regstate import Reg, RegType
from pybpfvm.verifier.states.stack import SLOT_BYTES
from pybpfvm.verifier.verdict import Finding, PathStep, Rejected, Rule, Verdict
from pybpfvm.verifier.verify import verify

MAX_PATH_STEPS = 8

# Rules that are about which numbers a value may be; all others are about what it is.
_ABOUT_NUMBERS = frozenset(
    {
        Rule.MAP_VALUE_ACCESS,
        Rule.MEM_ACCESS,
        Rule.STACK_ACCESS,
        Rule.POINTER_BOUNDS,
        Rule.PACKET_ACCESS,
        Rule.RETURN_VALUE,
        Rule.HELPER_ARG,
        Rule.MISALIGNED,
        Rule.CTX_ACCESS,
        Rule.USER_RANGE,
    }
)
_OF_VALUES = frozenset(
    {Rule.UNINIT_REG, Rule.POSSIBLY_NULL, Rule.NOT_A_POINTER, Rule.PACKET_ACCESS}
)
_ABOUT_ACCESSES = frozenset({Rule.READ_ONLY, Rule.CTX_ACCESS, Rule.MAP_VALUE_ACCESS})
_NEED_STACKS = frozenset({Rule.STACK_DEPTH, Rule.CALL_DEPTH})
_SIZES = frozenset({ArgType.CONST_SIZE, ArgType.CONST_SIZE_OR_ZERO})
_NAMED_REGISTER = re.compile(r"\bR(\d+)\b")
_UNWRITTEN = re.compile(r" off (-?\d+)\+(\d+) size \d+$")

Paths = Mapping[tuple[Rule, int], FailingPath]


@dataclass(frozen=True, slots=True)
class Cause:
    """One error's causal chain: what was asked, and the links that answer it, first cause first."""

    place: Place
    aspect: Aspect
    links: tuple[Link, ...]
    need: Need | None


def explained(
    program: Program,
    obj: BpfObject,
    profile: Profile,
    verdict: Verdict,
    options: Options,
    *,
    paths: Paths | None = None,
) -> Verdict:
    """The same verdict, with path, reason and suggestion of each error filled in.

    `options` are those that the verdict was reached with; an observer in them hears nothing.
    `paths` are what `failing_paths` gives, if that is known already.
    Errors that follow from the same bad register as an earlier one are left out.
    """
    if not isinstance(verdict, Rejected):
        return verdict
    if paths is None:
        paths = failing_paths(program, obj, profile, verdict, options)
    env = environment(program, obj, profile, replace(options, observer=None))
    if any(error.rule in _NEED_STACKS for error in verdict.errors):
        _measure_stacks(env)
    errors: list[Finding] = []
    seen: set[tuple[int, Place]] = set()
    for error in verdict.errors:
        path = paths.get((error.rule, error.pc))
        if path is None:
            errors.append(_explained(env, error, None, None))
            continue
        cause = cause_of(env, path)
        if cause is not None and _spreads(error.rule, path):
            origin = _identity(cause)
            if origin in seen:
                continue
            seen.add(origin)
        errors.append(_explained(env, error, path, cause))
    return replace(verdict, errors=tuple(errors))


def _measure_stacks(env: Environment) -> None:
    """Explore, so that the environment knows how much stack each function uses."""
    processed = 0
    prepared = Prepared(env)
    for entry in (0, *called_globals(env)):
        explorer = Explorer(env, entry, processed, prepared)
        explorer.run()
        processed = explorer.processed


def failing_paths(
    program: Program, obj: BpfObject, profile: Profile, verdict: Rejected, options: Options
) -> Paths:
    """The path to each error of the verdict that exploring finds, by rule and pc."""
    recorder = PathRecorder([(error.rule, error.pc) for error in verdict.errors])
    with suppress(AllFound):
        verify(program, obj, profile, options=replace(options, observer=recorder))
    return recorder.paths


def _spreads(rule: Rule, path: FailingPath) -> bool:
    """Whether the refused value makes every use of it an error; what is wrong with an access at a
    constant offset is its own."""
    culprit = path.refused.culprit
    return rule in _OF_VALUES or (
        rule in _ABOUT_NUMBERS and culprit is not None and bool(culprit.var.mask)
    )


def _identity(cause: Cause) -> tuple[int, Place]:
    """Where the value that was asked about was last written: errors that share it are one."""
    for link in reversed(cause.links):
        if link.how not in (How.NARROWED, How.COPIED):
            return link.index, link.place
    return cause.links[-1].index, cause.links[-1].place


def cause_of(env: Environment, path: FailingPath) -> Cause | None:
    """What made the refused value what it is; None if the refusal is about no value."""
    asked = _asked(env, path)
    if asked is None:
        return None
    place, aspect, need = asked
    links = history(path.steps, env.code, place, aspect)
    return Cause(place, aspect, links, need)


# The question that a refusal asks.


def _asked(env: Environment, path: FailingPath) -> tuple[Place, Aspect, Need | None] | None:
    refused = path.refused
    if refused.rule is Rule.STACK_UNINIT and refused.culprit is not None:
        unwritten = _UNWRITTEN.search(refused.message)
        if unwritten is not None:
            at = int(unwritten[1]) + int(unwritten[2])
            slot = StackSlot(refused.culprit.frame, at & -SLOT_BYTES)
            return slot, Aspect.TYPE, None
    place = _place_of(path) or _base_of(env, path)
    if place is None:
        return None
    about_numbers = refused.rule in _ABOUT_NUMBERS
    aspect = Aspect.VALUE if about_numbers else Aspect.TYPE
    if refused.rule is Rule.HELPER_ARG and refused.culprit is not None:
        aspect = Aspect.VALUE if refused.bounds is not None else aspect
    need = None
    if refused.bounds is not None and refused.culprit is not None:
        need = Need(*refused.bounds, refused.culprit)
        sized = _size_argument(env, path, place, need)
        if sized is not None:
            return sized
    elif refused.rule is Rule.HELPER_ARG:
        need = _size_need(env, path, place)
    return place, aspect, need


def _place_of(path: FailingPath) -> Place | None:
    """Where the culprit is held: the register that the message names, if it is one of several."""
    refused, state = path.refused, path.steps[-1].state
    depth = len(state.frames) - 1
    named = _NAMED_REGISTER.search(refused.message)
    number = int(named[1]) if named is not None and int(named[1]) <= 10 else None
    culprit = refused.culprit
    if culprit is None:
        return None if number is None else Register(depth, number)
    holding = [n for n, reg in enumerate(state.frame.regs) if reg is culprit]
    if number is not None and (number in holding or not holding):
        return Register(depth, number)
    if holding:
        return Register(depth, holding[0])
    for frame in reversed(state.frames):
        for base, slot in frame.stack.items():
            if slot.reg is culprit:
                return StackSlot(frame.number, base)
    alike = [n for n, reg in enumerate(state.frame.regs) if same(reg, culprit)]
    return Register(depth, alike[0]) if alike else None


def _base_of(env: Environment, path: FailingPath) -> Place | None:
    """The pointer of a refused access, where the refusal names none."""
    if path.refused.rule not in _ABOUT_ACCESSES:
        return None
    insn = env.code[path.steps[-1].pc]
    if insn.spec.size is None:
        return None
    loads = insn.spec.kind in (Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ)
    return Register(len(path.steps[-1].state.frames) - 1, insn.src if loads else insn.dst)


def _size_argument(
    env: Environment, path: FailingPath, place: Place, need: Need
) -> tuple[Place, Aspect, Need] | None:
    """The size that reaches too far, if it is to blame rather than the pointer before it."""
    size = _size_register(env, path, place)
    if size is None or not isinstance(place, Register) or need.culprit.var.mask:
        return None
    reg = path.steps[-1].state.frame.regs[size]
    if reg.type is not RegType.SCALAR_VALUE:
        return None
    most = need.high + reg.var.umax - need.culprit.var.smin
    if most < 0:
        return None
    return Register(place.frame, size), Aspect.VALUE, Need(0, most, reg, "size")


def _size_register(env: Environment, path: FailingPath, place: Place) -> int | None:
    """The number of the argument that is the size of the memory at `place`."""
    insn = env.code[path.steps[-1].pc]
    if insn.spec.kind is not Kind.CALL or not isinstance(place, Register):
        return None
    helper = HELPERS.get(env.profile.helpers.get(insn.imm, ""))
    if helper is None or not 1 <= place.number < len(helper.args):
        return None
    return place.number + 1 if helper.args[place.number] in _SIZES else None


def _size_need(env: Environment, path: FailingPath, place: Place) -> Need | None:
    """What a size argument may be: what the memory before it holds."""
    if not isinstance(place, Register) or place.number < 2:
        return None
    regs = path.steps[-1].state.frame.regs
    before = Register(place.frame, place.number - 1)
    if _size_register(env, path, before) != place.number:
        return None
    pointer, size = regs[before.number], regs[place.number]
    room = _room(pointer)
    insn = env.code[path.steps[-1].pc]
    helper = HELPERS[env.profile.helpers[insn.imm]]
    least = 1 if helper.args[place.number - 1] is ArgType.CONST_SIZE else 0
    return None if room is None or room < 1 else Need(least, room, size, "size")


def _room(pointer: Reg) -> int | None:
    """Bytes from the pointer to the end of what it points into."""
    if pointer.type is RegType.PTR_TO_STACK:
        return -(pointer.off + pointer.var.smax)
    if pointer.type is RegType.PTR_TO_MAP_VALUE and pointer.map is not None:
        return pointer.map.value_size - pointer.off - pointer.var.umax
    if pointer.type is RegType.PTR_TO_RINGBUF_MEM:
        return pointer.mem_size - pointer.off - pointer.var.umax
    return None


# The answer, in words.


def _explained(
    env: Environment, error: Finding, path: FailingPath | None, cause: Cause | None
) -> Finding:
    lost = None
    steps: list[PathStep] = []
    if cause is not None:
        lost = lost_bound(env, cause.links, cause.need)
        steps = [_step(env, link.pc, _noted(env, link, lost)) for link in told(cause, lost)]
    links, need = (cause.links, cause.need) if cause is not None else ((), None)
    said = advice(Question(env, error, path, links, need, lost))
    return replace(
        error,
        reason=said.reason or error.reason,
        suggestion=said.suggestion or error.suggestion,
        path=tuple([_step(env, pc, note) for pc, note in said.steps] or steps),
    )


def _step(env: Environment, pc: int, note: str) -> PathStep:
    return PathStep(pc, note, env.program.line_at(pc))


def _noted(env: Environment, link: Link, lost: Lost | None) -> str:
    if lost is not None and link is lost.link:
        return lost.note
    return note_of(env, link)


def told(cause: Cause, lost: Lost | None) -> tuple[Link, ...]:
    """The links worth telling, each pc once: the first cause, what changed the answer, and where
    the bound was lost."""
    links = cause.links
    kept: dict[int, Link] = {}
    for number, link in enumerate(links):
        first = number == 0
        if first or link is lost_link(lost) or _matters(cause, link):
            previous = kept.get(link.pc)
            # A comparison is no cause: of those of a loop, the last turn's counts.
            stays = previous is links[0] and links[0].how is not How.NARROWED
            if previous is not None and (stays or previous is lost_link(lost)):
                continue
            kept.pop(link.pc, None)
            kept[link.pc] = link
    chosen = list(kept.values())
    while len(chosen) > MAX_PATH_STEPS:
        for index in range(1, len(chosen)):
            if chosen[index] is not lost_link(lost):
                del chosen[index]
                break
    return tuple(chosen)


def lost_link(lost: Lost | None) -> Link | None:
    """The link where the bound was lost, if it was."""
    return None if lost is None else lost.link


def _matters(cause: Cause, link: Link) -> bool:
    if link.how in (How.COPIED, How.STORED, How.FILLED):
        return not same(link.before, link.after) and link.after is not None
    if link.how is How.COMPUTED and cause.aspect is Aspect.TYPE:
        was, now = link.before, link.after
        return was is None or now is None or was.type is not now.type
    return True
