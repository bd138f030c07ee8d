"""A port of one program: what was seen of it, what must change, and the skeleton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pybpfvm.errors import InputError
from pybpfvm.porting.changes import Change, changes
from pybpfvm.porting.skeleton import Skeleton, skeleton
from pybpfvm.porting.survey import Survey, survey
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, Program


@dataclass(frozen=True, slots=True)
class Port:
    """What `port` found. `note` is a line about the program's ABI, or ""."""

    seen: Survey
    changes: tuple[Change, ...]
    skeleton: Skeleton
    note: str = ""


def port(program: Program, obj: BpfObject, profiles: Sequence[Profile], target: Profile) -> Port:
    """Move `program` from its ABI to `target`, one with a loop.

    `profiles` are what its ABI may be: several are fine where the program does the same by all of
    them. Raises InputError where it does not, and for programs of other ABIs.
    """
    where = f"{obj.path}: {program.name}"
    if target.loop is None or target.loop.operation is not None:
        raise InputError(f"{target.name} has no loop to port to", remedy="loop-7.1 or loop-7.2")
    if not profiles or any(profile.ring is None for profile in profiles):
        what = profiles[-1].name if profiles else "of no known ABI"
        raise InputError(
            f"no BPF request, but {what}" if profiles else what,
            where=where,
            remedy="ports begin at programs of 2021: --abi iouring-v2, iouring-v3, ...",
        )
    beyond = next((profile for profile in profiles if profile.experimental), None)
    if beyond is not None:
        raise InputError(
            f"of {beyond.name}, an experiment of which {target.name} has nothing",
            where=where,
            remedy="ports begin at programs of 2021: --abi iouring-v2, iouring-v3, ...",
        )
    seen = [survey(program, obj, profile) for profile in profiles]
    names = " or ".join(profile.name for profile in profiles)
    note = ""
    if len(seen) > 1:
        if any(one.facts != seen[-1].facts for one in seen):
            raise InputError(
                f"the ABI is ambiguous, {names}, and the program does not do the same by them",
                where=where,
                remedy=f"say which, e.g. --abi {profiles[-1].name}",
            )
        note = f"the ABI is ambiguous: {names}; the program does the same by all of them"
    last = seen[-1]
    listed = changes(last, target, len(obj.programs) - 1)
    return Port(last, listed, skeleton(last, target.name), note)
