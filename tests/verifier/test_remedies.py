"""Suggestions: that they name the right limit, and only what the program may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.fuzz.lines import subprogs_of
from pybpfvm.isa.asm import assemble
from pybpfvm.objectfile import read_object
from pybpfvm.profiles import PROFILES, profile_named
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.judging import JudgeRequest, judge
from pybpfvm.verifier.explaining.categories import KIND_NOTES, kind_note
from pybpfvm.verifier.verdict import Finding, Kind, Rejected, Rule

# bpf_copy_from_user(r10 - 88, size, user_data); the size is set between the two.
_SIZED = ("r6 = r1", "r3 = *(u64 *)(r6 + 0)", "r1 = r10", "r1 += -88")
_CALL = ("call copy_from_user", "r0 = 0", "exit")
_CLEARED = tuple(f"*(u64 *)(r10 - {at}) = 0" for at in range(8, 96, 8))
# A packet pointer in r2, data_end in r3.
_PACKET = ("r2 = *(u32 *)(r1 + 0)", "r3 = *(u32 *)(r1 + 4)")


def refused(profile: str, *lines: str) -> Finding:
    """What a program is refused for first."""
    made = PROFILES[profile]
    calls = {name: number for number, name in made.helpers.items()}
    insns = assemble("\n".join(lines), calls=calls)
    section = made.sections[0].prefix
    for rule in made.sections:
        if rule.sleepable:
            section = rule.prefix
    program = Program("case", section, insns, subprogs=subprogs_of(insns), license="GPL")
    verdict = judge(program, BpfObject("case", "", (program,), ()), made, JudgeRequest())
    assert isinstance(verdict, Rejected), verdict
    return verdict.errors[0]


def test_the_end_of_the_frame_is_not_offered_as_the_end_of_a_buffer() -> None:
    error = refused("iouring-v3", *_CLEARED, *_SIZED, "r2 = r3", "r2 &= 127", *_CALL)
    assert "from 0 to 88" in error.reason
    assert "r2 > sizeof(the buffer)" in error.suggestion
    assert "88 is only the most that stays inside the frame" in error.suggestion
    assert "89" not in error.suggestion


def test_a_variable_size_makes_an_output_an_input() -> None:
    size = ("r2 = r3", "r2 &= 63")
    error = refused("iouring-v3", *_SIZED, *size, *_CALL)
    assert error.rule is Rule.STACK_UNINIT
    assert "its size is not a constant (a number from 0 to 63)" in error.reason
    assert "clear the whole buffer" in error.suggestion
    assert "constant size" in error.suggestion
    read = refused("iouring-v3", "r0 = *(u64 *)(r10 - 8)", "exit")
    assert read.rule is Rule.STACK_UNINIT
    assert "constant" not in read.suggestion


@pytest.mark.parametrize(
    ("moved", "check"),
    [
        ((), "data + 6 > data_end"),
        (("r2 += 14",), "data + 20 > data_end"),
        (("r4 = *(u32 *)(r1 + 12)", "r4 &= 60", "r2 += 14", "r2 += r4"), "r2 + 6 > data_end"),
    ],
)
def test_a_packet_comparison_asks_for_what_is_read(moved: tuple[str, ...], check: str) -> None:
    error = refused("xdp", *_PACKET, *moved, "r0 = *(u16 *)(r2 + 4)", "r0 = 2", "exit")
    assert error.rule is Rule.PACKET_ACCESS
    assert check in error.suggestion


def test_an_offset_beyond_what_comparisons_cover_has_to_be_bounded_first() -> None:
    far = ("r4 = *(u32 *)(r1 + 12)", "r4 &= 0xffff", "r2 += r4", "r5 = r2", "r5 += 2")
    error = refused(
        "xdp", *_PACKET, *far, "if r5 > r3 goto +1", "r0 = *(u16 *)(r2 + 0)", "r0 = 2", "exit"
    )
    assert error.rule is Rule.PACKET_ACCESS
    assert "may end 65537 bytes into the packet" in error.reason
    assert "first 65535 bytes" in error.reason
    assert "first bound the offset" in error.suggestion
    assert "65537" not in error.suggestion


@pytest.mark.parametrize("profile", ["iouring-v1", "iouring-v3", "xdp", "kprobe"])
def test_only_helpers_of_the_program_are_suggested(profile: str) -> None:
    offered = set(PROFILES[profile].helpers.values())
    error = refused(profile, "call get_prandom_u32", "r0 = *(u64 *)(r0 + 0)", "r0 = 0", "exit")
    assert error.rule is Rule.NOT_A_POINTER
    for name in ("copy_from_user", "probe_read_user", "probe_read_kernel"):
        if f"bpf_{name}" in error.suggestion:
            assert name in offered
    if profile.startswith("iouring"):
        assert "probe_read_kernel" not in error.suggestion
    assert "bpf_" in error.suggestion


def test_notes_say_who_forbids() -> None:
    forbidden = Finding(Rule.USER_RANGE, Kind.POLICY, 0, "")
    assert "contract" in kind_note(forbidden)
    endless = Finding(Rule.INFINITE_LOOP, Kind.UNPROVEN, 0, "")
    assert "safe" not in kind_note(endless)
    assert kind_note(Finding(Rule.LOCK, Kind.POLICY, 0, "")) == KIND_NOTES[Kind.POLICY]


ADVICE = Path(__file__).parent / "data" / "advice.bpf.o"
# By program: what its reason and its suggestion say, and what neither may.
IN_WORDS_OF_C = {
    "too_high": (
        "any number whose low 32 bits are from 0 to 80 pass",
        "line 46 tighter: `if (at >= 64) return 0;`",
        ("negative", "unsigned"),
    ),
    "in_callback": (
        "no comparison on this path bounds it",
        "`if (counted.n >= 64) return 0;`, as an unsigned comparison, between",
        ("line 36", "tighter", "63"),
    ),
    "moved": (
        "until the call at line 67: the packet may have moved since",
        "read data and data_end from the context again after line 67",
        ("keep the pointer",),
    ),
    "unchecked": (
        "returned at line 74",
        "`if (!byte) return 0;` before line 75",
        ("r0;",),
    ),
    "nameless": (
        "returned at line 81",
        "keep what bpf_map_lookup_elem returns in a variable `p`, and `if (!p) return 0;`",
        ("!r0",),
    ),
    "short_check": (
        "(at line 88) covers 8 bytes",
        "`if (r6 + 1 > data_end) return 0;` on every path to line 90; r6 holds what line 88 made",
        ("at + 1",),
    ),
    "loop_check": (
        "(at line 97) covers 8 bytes",
        "`if ((void *)at + 9 > data_end) return 0;` on every path to line 101",
        ("r6",),
    ),
    "added_here": (
        "was not compared with data_end after that was added",
        "`if (r6 + 1 > data_end) return 0;` on every path to line 111",
        ("data + 1 ", "(void *)data"),
    ),
}


@pytest.mark.parametrize("name", IN_WORDS_OF_C)
def test_the_way_out_is_told_in_words_of_the_source(name: str) -> None:
    reason, suggestion, never = IN_WORDS_OF_C[name]
    obj = read_object(ADVICE)
    verdict = judge(obj.program(name), obj, profile_named("xdp"), JudgeRequest())
    assert isinstance(verdict, Rejected)
    (error,) = verdict.errors
    assert reason in error.reason
    assert suggestion in error.suggestion
    for words in never:
        assert words not in error.reason + error.suggestion


@pytest.mark.parametrize(
    ("profile", "helper", "named"),
    [
        # Sources of programs call it emit, or whatever they like.
        ("iouring-v3", "io_uring_emit_cqe", "io_uring_emit_cqe#171"),
        ("iouring-v2", "iouring_emit_cqe", "iouring_emit_cqe#165"),
        # The kernel's own have one name everywhere.
        ("iouring-v3", "map_lookup_elem", "bpf_map_lookup_elem"),
    ],
)
def test_a_helper_of_one_abi_has_its_number_in_texts(profile: str, helper: str, named: str) -> None:
    numbers = tuple(f"r{number} = 0" for number in range(1, 6))
    error = refused(profile, *numbers, f"call {helper}", "r0 = 0", "exit")
    assert error.reason.startswith(f"argument 1 of {named} must be")
