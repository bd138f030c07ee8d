"""Reading an object file and telling which ABI it was built for, without bringing it to life."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pybpfvm.btf.types import Btf, Datasec, Var, VarLinkage
from pybpfvm.errors import InputError
from pybpfvm.facts import program_facts
from pybpfvm.loader import load
from pybpfvm.loader.kconfig import Kconfig
from pybpfvm.profiles import all_profiles, profile_named
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.detect import Detection, detect
from pybpfvm.program import BpfObject, told_apart


def read_object(
    source: str | os.PathLike[str] | bytes,
    *,
    btf: Btf | None = None,
    kconfig: Kconfig | None = None,
    abi: str | None = None,
) -> BpfObject:
    """The object in a file (or in bytes), relocated; `btf` is what CO-RE and the kernel's symbols
    are resolved against, `kconfig` what kconfig externs are. `abi` names the profile whose kernel
    an object that drives a ring is for; the one that it was built for without."""
    profile = None if abi is None else profile_named(abi)
    return load(source, target_btf=btf, kconfig=kconfig, profile=profile)


def detect_abi(obj: BpfObject) -> Detection:
    """Which profile the object was built for, and why."""
    if obj.dialect is not None:
        return obj.dialect
    return detect(all_profiles().values(), [program_facts(one) for one in obj.programs])


def abi_unknown(obj: BpfObject, detection: Detection) -> InputError:
    """The error for an object whose ABI must be given."""
    names = [profile.name for profile in detection.candidates]
    if names:
        return InputError(
            f"the ABI is ambiguous: it could be {' or '.join(names)}",
            where=obj.path,
            remedy=f"say which, e.g. --abi {names[-1]} (abi= in Python, abi = in a scenario)",
        )
    reasons = "; ".join(detection.why[:4])
    return InputError(
        f"no ABI profile fits ({reasons})", where=obj.path, remedy="choose one with --abi or abi="
    )


def abi_doubt(detection: Detection, profile: Profile) -> str:
    """Why `profile` looks wrong for an object, "" when nothing speaks against it."""
    fitting = {one.name for one in detection.candidates}
    if not fitting or profile.name in fitting or profile.objects_of in fitting:
        return ""
    names = " or ".join(one.name for one in detection.candidates)
    reason = next((line for line in detection.why if profile.name in line), "")
    why = f" ({reason})" if reason else ""
    return f"the object looks built for {names}, not {profile.name}{why}"


def check_abi(obj: BpfObject, detection: Detection, profile: Profile) -> None:
    """InputError where a profile was chosen that is of another kind than what the object was built
    for, so that nothing about its programs would make sense: of requests, of a ring with other
    callbacks, or of a type that has nothing to do with rings."""
    fitting = detection.candidates
    if not fitting or _kind(profile) in {_kind(one) for one in fitting}:
        return
    raise InputError(
        abi_doubt(detection, profile),
        where=obj.path,
        remedy=f"leave the ABI to detection, or say {' or '.join(one.name for one in fitting)}",
    )


def _kind(profile: Profile) -> tuple[str, str]:
    """What all dialects have in common whose objects could be taken for one another's."""
    if profile.loop is not None:
        return "callbacks", profile.loop.ops
    return ("requests" if profile.ring is not None else "ordinary"), ""


def global_variables(obj: BpfObject) -> Iterator[tuple[str, tuple[str, int, int, int]]]:
    """(variable, (map, offset, size, type id)) of every data section that became a map."""
    places = list(_places(obj))
    names = told_apart(name for name, _ in places)
    yield from zip(names, (place for _, place in places), strict=True)


def _places(obj: BpfObject) -> Iterator[tuple[str, tuple[str, int, int, int]]]:
    if obj.btf is None:
        return
    sections = {spec.section: spec.name for spec in obj.maps if spec.data is not None}
    for _, found in obj.btf:
        if not isinstance(found, Datasec) or found.name not in sections:
            continue
        for place in found.variables:
            variable = obj.btf.type(place.type_id)
            if isinstance(variable, Var) and variable.linkage != VarLinkage.EXTERN:
                where = (sections[found.name], place.offset, place.size, variable.type_id)
                yield variable.name, where
