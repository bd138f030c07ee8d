"""Which dialect of rings driven by struct_ops an object was built for: from its structs.

The name of the struct of callbacks and of its members narrow it down, then the fields of the
parameters that the object declares, and the kernel's functions that it names. The type that it
declares for the ring (`io_ring_ctx`, or the opaque `iou_ctx`) is a hint only, since kernels do not
compare it: an object that only passes the pointer on runs on either. What stays open is reported,
never guessed. abi/iouring-bpf-upstream, sections 4.3, 7 to 9.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.detect import Detection
from pybpfvm.profiles.loop_dialects import (
    OP_BPF_V1,
    OP_BPF_V2,
    OP_BPF_V3,
    POLL_GATE,
    PROTOTYPE_2024,
    WITH_LOOP,
    XOR_DEMO,
)

_OP_BPF = "uring_bpf_ops"
_PROTOTYPE_SECTION = "iouring"
_MERGED = "io_uring_bpf_ops"
_GATE = "poll_gate"
# Functions that only one of the proposals has.
_OF_V1, _OF_V2 = "io_uring_bpf_req_memcpy", "uring_bpf_memcpy"
_OF_GATE = frozenset({"bpf_io_uring_sock_state", "bpf_io_uring_sock_peek"})
_OF_XOR = "bpf_io_uring_xor_regbuf"


@dataclass(frozen=True, slots=True)
class Callbacks:
    """A variable of callbacks: the name of its struct, the members that are programs."""

    struct: str
    programs: frozenset[str]


@dataclass(frozen=True, slots=True)
class LoopFacts:
    """What an object tells: its `callbacks`, the `sections` of its programs, the `functions` of the
    kernel that it names, and the fields of a struct that it declares (None: it declares none)."""

    callbacks: tuple[Callbacks, ...]
    sections: frozenset[str]
    functions: frozenset[str]
    fields: Callable[[str], Collection[str] | None]


_STRUCTS = frozenset(
    {_OP_BPF, *(p.loop.ops for p in WITH_LOOP if p.loop is not None and p.loop.ops)}
)


def detect_loop(facts: LoopFacts) -> Detection | None:
    """The profiles that fit; None for an object that is of none of these dialects."""
    if not _of_prototype(facts) and not any(one.struct in _STRUCTS for one in facts.callbacks):
        return None
    found: dict[str, tuple[Profile, str]] = {}
    if _of_prototype(facts):
        found[PROTOTYPE_2024.name] = PROTOTYPE_2024, "section iouring, with functions of the kernel"
    lines = []
    for one in facts.callbacks:
        fitting = tuple(_fitting(one, facts))
        found.update((profile.name, (profile, why)) for profile, why in fitting)
        if one.struct in _STRUCTS and not fitting:
            members = ", ".join(sorted(one.programs)) or "no callback"
            lines.append(f"no dialect has a struct {one.struct} like this one, with {members}")
    profiles = tuple(profile for profile, _ in found.values())
    why = (*(f"{name}: {why}" for name, (_, why) in found.items()), *lines)
    return Detection(profiles[0] if len(profiles) == 1 else None, profiles, why)


def _of_prototype(facts: LoopFacts) -> bool:
    """Objects of the 2021 series have such sections, too, but call helpers."""
    names = any(name.startswith("bpf_io_uring_") for name in facts.functions)
    return names and not facts.callbacks and _PROTOTYPE_SECTION in facts.sections


def _fitting(one: Callbacks, facts: LoopFacts) -> Iterable[tuple[Profile, str]]:
    members = facts.fields(one.struct) or ()
    if one.struct == _OP_BPF:
        yield from _op_bpf(members, facts.functions)
        return
    if one.struct == _MERGED and (_GATE in one.programs or _OF_GATE & facts.functions):
        yield POLL_GATE, f"struct {one.struct} with a {_GATE}, or functions for one"
        return
    if one.struct == _MERGED and _OF_XOR in facts.functions:
        yield XOR_DEMO, f"struct {one.struct}, and {_OF_XOR} is named"
        return
    for profile in WITH_LOOP:
        rules = profile.loop
        assert rules is not None
        known = {name for name, _, _ in rules.members}
        if profile in (POLL_GATE, XOR_DEMO) or one.struct != rules.ops:
            continue
        if not one.programs <= {rules.callback}:
            continue
        if not one.programs and members and rules.callback not in members:
            continue
        declared = facts.fields(rules.params) or ()
        if not set(declared) <= {name for name, _, _ in rules.params_fields}:
            continue
        timed = {"flags", "timeout_ns"} & set(declared)
        if rules.timeout is not None and not timed:
            continue  # without them the program is one of the merged ABI
        has = "declares" if facts.fields(rules.ctx) is not None else "has no"
        why = f"struct {rules.ops} fits; the object {has} struct {rules.ctx}, which kernels do not"
        strangers = ", ".join(sorted(set(members) - known))
        yield profile, f"{why} look at" + (f"; {strangers} must be zero" if strangers else "")


def _op_bpf(members: Collection[str], functions: frozenset[str]) -> Iterable[tuple[Profile, str]]:
    per_ring = "ring_fd" in members
    if _OF_V1 in functions or not per_ring:
        yield OP_BPF_V1, f"struct {_OP_BPF} without a ring"
        return
    yield OP_BPF_V2, f"struct {_OP_BPF} with a ring_fd"
    if _OF_V2 not in functions:
        yield OP_BPF_V3, f"struct {_OP_BPF} with a ring_fd, and nothing calls {_OF_V2}"
