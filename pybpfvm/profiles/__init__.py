"""ABI profiles: one object per ABI, read by loader, ring, VM and verifier alike."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib.machinery import PathFinder

from pybpfvm.errors import InputError
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.iouring_2021 import PROFILES_2021
from pybpfvm.profiles.iouring_x import X
from pybpfvm.profiles.loop_dialects import DIALECTS
from pybpfvm.profiles.ordinary import ORDINARY
from pybpfvm.profiles.ring_types import builtin_btf

__all__ = [
    "ENTRY_POINTS",
    "PROFILES",
    "all_profiles",
    "builtin_btf",
    "profile_named",
    "with_helpers",
]

PROFILES: Mapping[str, Profile] = {
    profile.name: profile for profile in (*PROFILES_2021, X, *DIALECTS, *ORDINARY)
}


ENTRY_POINTS = "pybpfvm.profiles"


@lru_cache(maxsize=1)
def all_profiles() -> Mapping[str, Profile]:
    """The built-in profiles and those that installed packages offer.

    A package offers one through an entry point of group `pybpfvm.profiles` that names a Profile
    object. InputError names an entry point that can not be used.
    """
    found = dict(PROFILES)
    if not _some_are_offered():
        return found
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINTS):
        where = f"entry point {point.name} = {point.value}"
        try:
            profile = point.load()
        except Exception as error:
            raise InputError(
                f"can not be loaded: {type(error).__name__}: {error}",
                where=where,
                remedy="mend or uninstall the package that offers it",
            ) from error
        if not isinstance(profile, Profile):
            raise InputError("is not a pybpfvm.profiles.base.Profile", where=where)
        if profile.name in found:
            raise InputError(f"there is a profile {profile.name} already", where=where)
        found[profile.name] = profile
    return found


def _some_are_offered() -> bool:
    """Whether an installed package may offer profiles.

    Asking importlib.metadata takes a tenth of the time of judging a small object, so it is not
    asked where every package is a folder and none of their lists of entry points has our group.
    """
    if any(hasattr(f, "find_distributions") and f is not PathFinder for f in sys.meta_path):
        return True
    for folder in sys.path:
        try:
            names = os.listdir(folder or os.curdir)
        except NotADirectoryError:
            return True  # an archive: what is in it is not looked for here
        except OSError:
            continue
        for name in names:
            if name.lower().endswith((".dist-info", "egg-info")):
                try:
                    with open(os.path.join(folder, name, "entry_points.txt"), "rb") as file:
                        if ENTRY_POINTS.encode() in file.read():
                            return True
                except OSError:
                    continue
    return False


def profile_named(name: str, where: str = "abi") -> Profile:
    """The profile called `name` ("v2" is short for "iouring-v2"); InputError with `where` if there
    is none."""
    profiles = PROFILES if name in PROFILES else all_profiles()
    found = profiles.get(name) or profiles.get(f"iouring-{name}")
    if found is None:
        names = {*profiles, *(p.removeprefix("iouring-") for p in profiles)}
        near = get_close_matches(name, sorted(names))
        close = f"did you mean {' or '.join(map(repr, near))}?"
        known = close if near else f"known: {', '.join(profiles)}"
        raise InputError(f"no ABI profile is called {name!r}", where=where, remedy=known)
    return found


def with_helpers(profile: Profile, overrides: Mapping[int, str]) -> Profile:
    """The profile with some helper numbers given another meaning."""
    if not overrides:
        return profile
    return dataclasses.replace(profile, helpers={**profile.helpers, **overrides})
