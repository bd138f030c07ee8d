"""ABI profiles: one object per ABI, read by loader, ring, VM and verifier alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches

from pybpfvm.errors import InputError
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.iouring_2021 import PROFILES_2021
from pybpfvm.profiles.ordinary import ORDINARY
from pybpfvm.profiles.ring_types import builtin_btf

__all__ = ["PROFILES", "builtin_btf", "profile_named", "with_helpers"]

PROFILES: Mapping[str, Profile] = {profile.name: profile for profile in (*PROFILES_2021, *ORDINARY)}


def profile_named(name: str) -> Profile:
    """The profile called `name` ("v2" is short for "iouring-v2"); InputError if there is none."""
    found = PROFILES.get(name) or PROFILES.get(f"iouring-{name}")
    if found is None:
        near = get_close_matches(name, [*PROFILES, *(p.removeprefix("iouring-") for p in PROFILES)])
        known = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(PROFILES)}"
        raise InputError(f"no ABI profile is called {name!r}", where="--abi", remedy=known)
    return found


def with_helpers(profile: Profile, overrides: Mapping[int, str]) -> Profile:
    """The profile with some helper numbers given another meaning."""
    if not overrides:
        return profile
    return dataclasses.replace(profile, helpers={**profile.helpers, **overrides})
