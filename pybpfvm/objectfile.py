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
