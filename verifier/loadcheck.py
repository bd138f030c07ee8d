"""The rules of an ABI that can be read off a program's code, checked before it is registered.

These are the load-time refusals of the 2021 prototype that need no proof: unknown helpers,
sleepability, context accesses, constant return values (iouring-bpf-2021, sections 2.1 to 2.4).
They are not verification: a program that passes may still be unsafe, and runs sandboxed.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

from pybpfvm.bits import sign_extend
from pybpfvm.errors import LoadRejected, SourceLine
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.base import Profile, Sleepable
from pybpfvm.profiles.ctxaccess import ctx_violation
from pybpfvm.profiles.detect import ProgramFacts, matching_section

# Offered to sleepable programs only (section 2.4, v2).
_SLEEPING = frozenset({"iouring_queue_sqe", "bpf_copy_to_user", "copy_from_user"})

# errno, what is wrong, and the pc where one is to blame.
_Objection = tuple[int, str, int | None]


def check_load(
    facts: ProgramFacts,
    profile: Profile,
    *,
    strict_ctx: bool = True,
    source_at: Callable[[int], SourceLine | None] = lambda _: None,
) -> None:
    """Raise LoadRejected for the first rule of `profile` that the program breaks.

    `strict_ctx`: refuse context accesses as the kernel does; otherwise anything inside the
    context passes, such as the two u32 stores that clang merges into one. `source_at` gives the
    C line of a pc, for messages.
    """
    first = next(_objections(facts, profile, strict_ctx), None)
    if first is None:
        return
    number, reason, pc = first
    if pc is None:
        raise LoadRejected(number, reason, where=facts.name, program=facts.name)
    line = source_at(pc)
    place = f"{facts.name}+{pc}" + (f" ({line}: {line.text.strip()})" if line else "")
    raise LoadRejected(number, reason, where=place, program=facts.name)


def _objections(facts: ProgramFacts, profile: Profile, strict_ctx: bool) -> Iterator[_Objection]:
    rule = matching_section(profile, facts.section)
    sleepable = rule.sleepable if rule is not None else profile.sleepable is Sleepable.REQUIRED
    if profile.sleepable is Sleepable.REQUIRED and not sleepable:
        yield errno.EINVAL, f"programs of {profile.name} must be sleepable", None
    if profile.sleepable is Sleepable.NEVER and sleepable:
        yield errno.EINVAL, f"programs of {profile.name} can not be sleepable", None
    for call in facts.calls:
        name = profile.helpers.get(call.number)
        if name is None:
            yield errno.EINVAL, f"unknown func #{call.number}{_elsewhere(call.number)}", call.pc
        if not sleepable and name in _SLEEPING and profile.sleepable is Sleepable.OPTIONAL:
            yield errno.EINVAL, f"{name} is for sleepable programs only", call.pc
    if profile.ring is not None:
        for access in facts.ctx:
            violation = ctx_violation(
                profile,
                access.offset,
                access.size,
                store=access.form != "load",
                plain=access.form in ("load", "store"),
                strict=strict_ctx,
            )
            if violation is not None:
                yield errno.EACCES, f"invalid bpf_context access {violation}", access.pc
    if profile.returns is not None and facts.returns is not None:
        low, high = profile.returns
        for value in sorted(facts.returns):
            if not low <= sign_extend(value, 64) <= high:
                reason = (
                    f"At program exit the register R0 has value {sign_extend(value, 64)}, "
                    f"should have been in [{low}, {high}]"
                )
                yield errno.EINVAL, reason, None


def _elsewhere(number: int) -> str:
    """Which ring ABIs know the helper number: the object may have been built for one of them."""
    known = [
        f"{profile.helpers[number]} in {profile.name}"
        for profile in PROFILES.values()
        if profile.ring is not None and number in profile.helpers
    ]
    return f": it is {', '.join(known)}" if known else ""
