"""The rules of an ABI that can be read off a program's code, checked before it is registered.

These are the load-time refusals of the 2021 prototype that need no proof: unknown helpers,
sleepability, context accesses, constant return values (iouring-bpf-2021, sections 2.1 to 2.4).
They are not verification: a program that passes may still be unsafe, and runs sandboxed.
"""

from __future__ import annotations

import errno
from typing import NoReturn

from pybpfvm.bits import sign_extend
from pybpfvm.engine import ctx_violation
from pybpfvm.errors import LoadRejected
from pybpfvm.profiles.base import Profile, Sleepable
from pybpfvm.profiles.detect import CtxAccess, ProgramFacts, matching_section


def check_load(facts: ProgramFacts, profile: Profile, *, strict_ctx: bool = True) -> None:
    """Raise LoadRejected for the first rule of `profile` that the program breaks.

    `strict_ctx`: refuse context accesses as the kernel does; otherwise anything inside the
    context passes, such as the two u32 stores that clang merges into one.
    """
    rule = matching_section(profile, facts.section)
    sleepable = rule.sleepable if rule is not None else profile.sleepable is Sleepable.REQUIRED
    if profile.sleepable is Sleepable.REQUIRED and not sleepable:
        _reject(errno.EINVAL, f"programs of {profile.name} must be sleepable", facts)
    if profile.sleepable is Sleepable.NEVER and sleepable:
        _reject(errno.EINVAL, f"programs of {profile.name} can not be sleepable", facts)
    for call in facts.calls:
        name = profile.helpers.get(call.number)
        if name is None:
            _reject(errno.EINVAL, f"unknown func #{call.number}", facts, call.pc)
        if not sleepable and name in _SLEEPING and profile.sleepable is Sleepable.OPTIONAL:
            _reject(errno.EINVAL, f"{name} is for sleepable programs only", facts, call.pc)
    if profile.ring is not None:
        for access in facts.ctx:
            _check_access(access, profile, facts, strict_ctx)
    if profile.returns is not None and facts.returns is not None:
        low, high = profile.returns
        for value in sorted(facts.returns):
            if not low <= sign_extend(value, 64) <= high:
                _reject(
                    errno.EINVAL,
                    f"At program exit the register R0 has value {sign_extend(value, 64)}, "
                    f"should have been in [{low}, {high}]",
                    facts,
                )


# Offered to sleepable programs only (section 2.4, v2).
_SLEEPING = frozenset({"iouring_queue_sqe", "bpf_copy_to_user", "copy_from_user"})


def _check_access(access: CtxAccess, profile: Profile, facts: ProgramFacts, strict: bool) -> None:
    store = access.form != "load"
    plain = access.form in ("load", "store")
    violation = ctx_violation(
        profile, access.offset, access.size, store=store, plain=plain, strict=strict
    )
    if violation is not None:
        reason = f"invalid bpf_context access {violation}"
        _reject(errno.EACCES, reason, facts, access.pc)


def _reject(number: int, reason: str, facts: ProgramFacts, pc: int | None = None) -> NoReturn:
    place = facts.name if pc is None else f"{facts.name}+{pc}"
    raise LoadRejected(number, reason, where=place)
