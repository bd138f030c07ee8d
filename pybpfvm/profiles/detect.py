"""Which ABI an object was built for: from section names, helper numbers and how they are called.

An object does not say. Every profile whose section rule matches and which knows every helper
the programs call is a candidate; the colliding numbers of the 2021 series are told apart by the
arguments at the call sites (a submit passes the context and 64, a user copy does not), and the
last two by what programs return. What stays open is reported, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
    store_imm or atomic. `stored` are the constants it may store, None when they are not known."""

    pc: int
    offset: int
    size: int
    form: str
    stored: frozenset[int] | None = None


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


@dataclass(frozen=True, slots=True)
class _Signature:
    """What a call of a helper looks like: is r1 the context, which of r2..r5 (by number) is a
    pointer and so no constant, which must be a given constant."""

    ctx_first: bool = False
    pointers: frozenset[int] = frozenset()
    lengths: Mapping[int, int] = field(default_factory=dict)


_SUBMIT = _Signature(True, frozenset({2}), {3: 64})
_EMIT = _Signature(True)
_REAP = _Signature(True, frozenset({3}), {4: 16})
_SIGNATURES: Mapping[str, _Signature] = {
    "iouring_queue_sqe": _SUBMIT,
    "io_uring_submit": _SUBMIT,
    "iouring_emit_cqe": _EMIT,
    "io_uring_emit_cqe": _EMIT,
    "iouring_reap_cqe": _REAP,
    "io_uring_reap_cqe": _REAP,
    "io_uring_requeue": _Signature(True),
    "bpf_copy_to_user": _Signature(False, frozenset({2})),
    "tail_call": _Signature(True),
}
_OTHER_HELPER = _Signature()


def matching_section(profile: Profile, section: str) -> SectionRule | None:
    """The first rule of the profile that `section` falls under."""
    return profile.section_rule(section)


def detect(profiles: Iterable[Profile], programs: Iterable[ProgramFacts]) -> Detection:
    """Match every program against every profile.

    A section or helper number that a profile does not have rules it out. Calls and returns that
    look wrong only count against it: a program may be wrong, and still of that ABI. The profiles
    with the least against them are the candidates. Profiles that other things tell apart, of rings
    with callbacks, are none of them: see `detect_loop`.
    """
    facts = tuple(programs)
    tried = tuple(one for one in profiles if one.loop is None)
    if not facts:
        return Detection(None, (), ("the object has no programs",))
    why: list[str] = []
    against: dict[str, int] = {}
    matching: list[Profile] = []
    for profile in tried:
        if any(matching_section(profile, fact.section) is None for fact in facts):
            continue
        stranger = next(filter(None, (_unknown_helper(profile, fact) for fact in facts)), None)
        if stranger is not None:
            why.append(f"not {profile.name}: {stranger}")
            continue
        oddities = [oddity for fact in facts for oddity in _oddities(profile, fact)]
        matching.append(profile)
        against[profile.name] = sum(weight for weight, _ in oddities)
        first = f", but {oddities[0][1]}" if oddities else ""
        why.append(f"{profile.name}: sections and helper numbers fit{first}")
    if not why:
        why.extend(_types_by_section(tried, sorted({fact.section for fact in facts})))
    least = min(against.values(), default=0)
    best = tuple(profile for profile in matching if against[profile.name] == least)
    return Detection(best[0] if len(best) == 1 else None, best, tuple(why))


def _types_by_section(profiles: Iterable[Profile], sections: Iterable[str]) -> Iterator[str]:
    """Why no profile has all of the sections, by section."""
    tried = tuple(profiles)
    for section in sections:
        names = [p.name for p in tried if matching_section(p, section) is not None]
        if names:
            yield f"section {section} is of {' or '.join(names)}: the object mixes types"
        else:
            yield f"no profile has a program type for section {section}"


def _unknown_helper(profile: Profile, fact: ProgramFacts) -> str | None:
    for call in fact.calls:
        if call.number not in profile.helpers:
            return f"{fact.name}+{call.pc} calls helper {call.number}, which it does not have"
    return None


def _oddities(profile: Profile, fact: ProgramFacts) -> Iterator[tuple[int, str]]:
    """What looks wrong for a program of `profile`, each with a weight.

    Only ring ABIs share numbers and sections; of the others no calls are compared.
    """
    if profile.ring is None:
        return
    for call in fact.calls:
        name = profile.helpers[call.number]
        signature = _SIGNATURES.get(name, _OTHER_HELPER)
        place = f"{fact.name}+{call.pc} calls {name}#{call.number}"
        if call.ctx_first != signature.ctx_first:
            if call.ctx_first is not None:
                yield 2, f"{place} with{'' if call.ctx_first else 'out'} the context in r1"
            elif signature.ctx_first:
                yield 1, f"{place} with something else than the context in r1"
        for register, known in enumerate(call.constants, 2):
            if known is None:
                continue
            if register in signature.pointers and known != frozenset({0}):
                yield 2, f"{place} with a number in r{register}, where a pointer belongs"
            wanted = signature.lengths.get(register)
            if wanted is not None and wanted not in known:
                yield 1, f"{place} with length {min(known)} instead of {wanted}"
    yield from _odd_returns(profile, fact)


def _odd_returns(profile: Profile, fact: ProgramFacts) -> Iterator[tuple[int, str]]:
    """v3 asks for a wait by returning 1, v3base by leaving wait_nr set: the programs tell."""
    rules = profile.ring
    if rules is None or fact.returns is None:
        return
    waits = any(
        access.form != "load"
        and access.offset <= 8 < access.offset + access.size
        and access.stored != frozenset({0})
        for access in fact.ctx
    )
    if rules.wait_by is WaitBy.RETURN and waits and rules.wait_value not in fact.returns:
        yield 2, f"{fact.name} sets wait_nr but never returns WAIT ({rules.wait_value})"
    if rules.wait_by is WaitBy.WAIT_NR and waits and 1 in fact.returns:
        yield 2, f"{fact.name} returns 1, which asks for a wait only in a later series"


def parse_overrides(options: Iterable[str], known: Iterable[str]) -> Mapping[int, str]:
    """`155=iouring_reap_cqe` -> {155: "iouring_reap_cqe"}; InputError names what is wrong."""
    names = set(known)
    overrides: dict[int, str] = {}
    for option in options:
        number, equals, name = option.partition("=")
        number = number.strip()
        if not equals or not (number.isascii() and number.isdigit()) or len(number) > 9:
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
