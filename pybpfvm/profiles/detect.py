"""Which ABI an object was built for: from section names and the helper numbers it calls.

An object does not say. Every profile whose section rule matches and which knows every helper
the programs call is a candidate; the meaning of the colliding numbers decides between them
where it can, and what stays open is reported, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pybpfvm.errors import InputError
from pybpfvm.profiles.base import Profile, SectionRule


@dataclass(frozen=True, slots=True)
class ProgramFacts:
    """What detection looks at: per helper number the count of distinct argument registers set
    just before its calls is not known here, so only section and numbers count."""

    name: str
    section: str
    helpers: frozenset[int]


@dataclass(frozen=True, slots=True)
class Detection:
    """`profile` is the one candidate, None when there are none or several; `why` explains."""

    profile: Profile | None
    candidates: tuple[Profile, ...]
    why: tuple[str, ...]


def matching_section(profile: Profile, section: str) -> SectionRule | None:
    """The first rule of the profile that `section` falls under."""
    for rule in profile.sections:
        if section == rule.prefix or (not rule.exact and section.startswith(rule.prefix)):
            return rule
    return None


def detect(profiles: Iterable[Profile], programs: Iterable[ProgramFacts]) -> Detection:
    """Match every program against every profile."""
    facts = tuple(programs)
    why: list[str] = []
    if not facts:
        return Detection(None, (), ("the object has no programs",))
    candidates = []
    for profile in profiles:
        unmatched = [fact for fact in facts if matching_section(profile, fact.section) is None]
        if unmatched:
            continue
        strangers = sorted(
            {number for fact in facts for number in fact.helpers} - set(profile.helpers)
        )
        if strangers:
            numbers = ", ".join(map(str, strangers))
            why.append(f"{profile.name}: sections match, but it has no helper {numbers}")
            continue
        ring_ids = sorted(
            {n for fact in facts for n in fact.helpers if is_ring_helper(profile.helpers[n])}
        )
        detail = f", ring helpers {', '.join(map(str, ring_ids))}" if ring_ids else ""
        why.append(f"{profile.name}: sections match{detail}")
        candidates.append(profile)
    if not candidates and not why:
        sections = ", ".join(sorted({fact.section for fact in facts}))
        why.append(f"no profile has a program type for sections {sections}")
    best = _most_specific(candidates)
    return Detection(best[0] if len(best) == 1 else None, tuple(best), tuple(why))


def is_ring_helper(name: str) -> bool:
    """Whether the helper exists only for BPF requests."""
    return "iouring" in name or "io_uring" in name or name == "bpf_copy_to_user"


def _most_specific(candidates: list[Profile]) -> list[Profile]:
    """Profiles that call the ring for what they do and have the longest matching prefixes.

    `iouring.s/` of v2 and `iouring` of v3 both match one section; the longer one is the one
    written for it, unless helper numbers have ruled it out already.
    """
    if not candidates:
        return []
    longest = max(max(len(rule.prefix) for rule in p.sections) for p in candidates)
    return [p for p in candidates if max(len(r.prefix) for r in p.sections) == longest]


def parse_overrides(
    options: Iterable[str], known: Iterable[str]
) -> Mapping[int, str]:
    """`155=iouring_reap_cqe` -> {155: "iouring_reap_cqe"}; InputError names what is wrong."""
    names = set(known)
    overrides: dict[int, str] = {}
    for option in options:
        number, equals, name = option.partition("=")
        if not equals or not number.strip().isdigit():
            raise InputError(
                f"{option!r} is not NUMBER=NAME", where="--helper", remedy="e.g. --helper 155=iouring_reap_cqe"
            )
        if name not in names:
            raise InputError(
                f"no helper is called {name!r}", where="--helper", remedy="`pybpfvm doctor --helpers` lists them"
            )
        overrides[int(number)] = name
    return overrides
