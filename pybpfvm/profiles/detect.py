"""Which ABI an object was built for: from section names, helper numbers and how they are called.

An object does not say. Every profile whose section rule matches and which knows every helper
the programs call is a candidate; the colliding numbers of the 2021 series are told apart by the
arguments at the call sites (a submit passes the context and 64, a user copy does not), and the
last two by what programs return. What stays open is reported, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pybpfvm.errors import InputError
from pybpfvm.profiles.base import Profile, SectionRule, WaitBy


@dataclass(frozen=True, slots=True)
class CallSite:
    """A helper call: `ctx_first` says whether r1 is the context pointer; `constants` holds the
    possible values of r2..r5 where they are known on every path, else None."""

    pc: int
    number: int
    ctx_first: bool | None
    constants: tuple[frozenset[int] | None, ...] = (None, None, None, None)


@dataclass(frozen=True, slots=True)
class CtxAccess:
    """A load or store of `size` bytes at `offset` of the context; `form` is load, store,
    store_imm or atomic."""

    pc: int
    offset: int
    size: int
    form: str


@dataclass(frozen=True, slots=True)
class ProgramFacts:
    """What is plain from a program's code. `returns` is None when r0 is not known at an exit."""

    name: str
    section: str
    calls: tuple[CallSite, ...] = ()
    ctx: tuple[CtxAccess, ...] = ()
    returns: frozenset[int] | None = field(default=None)

    @property
    def helpers(self) -> frozenset[int]:
        """The helper numbers the program calls."""
        return frozenset(call.number for call in self.calls)


@dataclass(frozen=True, slots=True)
class Detection:
    """`profile` is the one candidate, None when there are none or several; `why` explains."""

    profile: Profile | None
    candidates: tuple[Profile, ...]
    why: tuple[str, ...]


# What a call looks like: is r1 the context (only for these), and which of r2..r5 must be which
# constant (index 0 is r2).
_SIGNATURES: Mapping[str, tuple[bool, Mapping[int, int]]] = {
    "iouring_queue_sqe": (True, {1: 64}),
    "io_uring_submit": (True, {1: 64}),
    "iouring_emit_cqe": (True, {}),
    "io_uring_emit_cqe": (True, {}),
    "iouring_reap_cqe": (True, {2: 16}),
    "io_uring_reap_cqe": (True, {2: 16}),
    "tail_call": (True, {}),
}
_OTHER_HELPER: tuple[bool, Mapping[int, int]] = (False, {})


def matching_section(profile: Profile, section: str) -> SectionRule | None:
    """The first rule of the profile that `section` falls under."""
    for rule in profile.sections:
        if section == rule.prefix or (not rule.exact and section.startswith(rule.prefix)):
            return rule
    return None


def detect(profiles: Iterable[Profile], programs: Iterable[ProgramFacts]) -> Detection:
    """Match every program against every profile."""
    facts = tuple(programs)
    if not facts:
        return Detection(None, (), ("the object has no programs",))
    why: list[str] = []
    candidates: list[Profile] = []
    for profile in profiles:
        if any(matching_section(profile, fact.section) is None for fact in facts):
            continue
        objection = next(filter(None, (_objection(profile, fact) for fact in facts)), None)
        if objection is None:
            candidates.append(profile)
            why.append(f"{profile.name}: sections and helper calls fit")
        else:
            why.append(f"not {profile.name}: {objection}")
    if not why:
        sections = ", ".join(sorted({fact.section for fact in facts}))
        why.append(f"no profile has a program type for sections {sections}")
    return Detection(candidates[0] if len(candidates) == 1 else None, tuple(candidates), tuple(why))


def _objection(profile: Profile, fact: ProgramFacts) -> str | None:
    """Why `fact` can not be a program of `profile`, or None."""
    for call in fact.calls:
        name = profile.helpers.get(call.number)
        if name is None:
            return f"{fact.name}+{call.pc} calls helper {call.number}, which it does not have"
        wants_ctx, wants = _SIGNATURES.get(name, _OTHER_HELPER)
        if call.ctx_first is not None and call.ctx_first != wants_ctx:
            does = "passes" if call.ctx_first else "does not pass"
            return f"helper {call.number} is {name}, but {fact.name}+{call.pc} {does} the context"
        if profile.ring is not None and profile.ring.length_checked:
            for index, value in wants.items():
                known = call.constants[index]
                if known is not None and value not in known:
                    return (
                        f"helper {call.number} is {name}, but {fact.name}+{call.pc} "
                        f"passes r{index + 2} = {sorted(known)[0]} instead of {value}"
                    )
    return _return_objection(profile, fact)


def _return_objection(profile: Profile, fact: ProgramFacts) -> str | None:
    """v3 asks for a wait by returning 1, v3base by leaving wait_nr set: the programs tell."""
    rules = profile.ring
    if rules is None or fact.returns is None:
        return None
    waits = any(
        access.form != "load" and access.offset <= 8 < access.offset + access.size
        for access in fact.ctx
    )
    may_wait = rules.wait_value in fact.returns
    if rules.wait_by is WaitBy.RETURN and waits and not may_wait:
        return f"{fact.name} sets wait_nr but never returns WAIT ({rules.wait_value})"
    if rules.wait_by is WaitBy.WAIT_NR and waits and 1 in fact.returns and profile.returns:
        return f"{fact.name} returns 1, which asks for a wait only in a later series"
    return None


def parse_overrides(options: Iterable[str], known: Iterable[str]) -> Mapping[int, str]:
    """`155=iouring_reap_cqe` -> {155: "iouring_reap_cqe"}; InputError names what is wrong."""
    names = set(known)
    overrides: dict[int, str] = {}
    for option in options:
        number, equals, name = option.partition("=")
        if not equals or not number.strip().isdigit():
            raise InputError(
                f"{option!r} is not NUMBER=NAME",
                where="--helper",
                remedy="e.g. --helper 155=iouring_reap_cqe",
            )
        if name not in names:
            raise InputError(
                f"no helper is called {name!r}",
                where="--helper",
                remedy="`pybpfvm doctor --helpers` lists them",
            )
        overrides[int(number)] = name
    return overrides
