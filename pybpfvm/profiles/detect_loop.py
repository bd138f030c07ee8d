"""Which dialect of the upstream ABI an object was built for: from its struct of callbacks.

The name of the struct and of its members narrow it down; the type that the object declares for the
ring (`io_ring_ctx`, or the opaque `iou_ctx`) is a hint only, since kernels do not compare it: an
object that only passes the pointer on runs on either. What stays open is reported, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.detect import Detection
from pybpfvm.profiles.loop_upstream import loop_profiles


def detect_loop(
    variables: Iterable[tuple[str, frozenset[str]]], declares: Callable[[str], bool]
) -> Detection:
    """The profiles that fit the callbacks, given as (struct, members that are set).

    `declares` tells whether the object knows a struct of a name.
    """
    found: dict[str, Profile] = {}
    for struct, members in variables:
        for profile in loop_profiles(struct):
            assert profile.loop is not None
            if members <= {profile.loop.callback}:
                found[profile.name] = profile
    why = []
    for name, profile in found.items():
        rules = profile.loop
        assert rules is not None
        told = f"the object {'declares' if declares(rules.ctx) else 'has no'} struct {rules.ctx}"
        why.append(f"{name}: struct {rules.ops} fits; {told}, which kernels do not look at")
    profiles = tuple(found.values())
    return Detection(profiles[0] if len(profiles) == 1 else None, profiles, tuple(why))
