"""ABI profiles: one object per ABI, read by loader, ring, VM and verifier alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache

from pybpfvm.errors import InputError
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.iouring_2021 import PROFILES_2021
from pybpfvm.profiles.loop_upstream import LOOP_PROFILES
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
    profile.name: profile for profile in (*PROFILES_2021, *LOOP_PROFILES, *ORDINARY)
}


ENTRY_POINTS = "pybpfvm.profiles"


@lru_cache(maxsize=1)
def all_profiles() -> Mapping[str, Profile]:
    """The built-in profiles and those that installed packages offer.

    A package offers one through an entry point of group `pybpfvm.profiles` that names a Profile
    object. InputError names an entry point that can not be used.
    """
    from importlib.metadata import entry_points

    found = dict(PROFILES)
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


def profile_named(name: str) -> Profile:
    """The profile called `name` ("v2" is short for "iouring-v2"); InputError if there is none."""
    profiles = PROFILES if name in PROFILES else all_profiles()
    found = profiles.get(name) or profiles.get(f"iouring-{name}")
    if found is None:
        near = get_close_matches(name, [*profiles, *(p.removeprefix("iouring-") for p in profiles)])
        known = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(profiles)}"
        raise InputError(f"no ABI profile is called {name!r}", where="--abi", remedy=known)
    return found


def with_helpers(profile: Profile, overrides: Mapping[int, str]) -> Profile:
    """The profile with some helper numbers given another meaning."""
    if not overrides:
        return profile
    return dataclasses.replace(profile, helpers={**profile.helpers, **overrides})
