"""Which ABI a program was built for, and when that stays open."""

from __future__ import annotations

import pytest

from pybpfvm.errors import InputError, LoadRejected
from pybpfvm.profiles import PROFILES, profile_named
from pybpfvm.profiles.detect import (
    CallSite,
    CtxAccess,
    Detection,
    ProgramFacts,
    detect,
    parse_overrides,
)
from pybpfvm.verifier.loadcheck import check_load

SIXTY_FOUR = (None, frozenset({64}), None, None)
WAITS = (CtxAccess(0, 8, 4, "store"),)


def found(*facts: ProgramFacts) -> Detection:
    return detect(PROFILES.values(), facts)


def name_of(detection: Detection) -> str:
    return detection.profile.name if detection.profile else ""


def program(
    section: str,
    *calls: CallSite,
    ctx: tuple[CtxAccess, ...] = (),
    returns: frozenset[int] | None = frozenset({0}),
) -> ProgramFacts:
    return ProgramFacts("p", section, calls, ctx, returns)


def test_submit_at_164_with_the_context_is_v2() -> None:
    call = CallSite(3, 164, True, SIXTY_FOUR)
    assert name_of(found(program("iouring.s/", call))) == "iouring-v2"


def test_copy_at_164_without_the_context_is_v2_futex() -> None:
    calls = (CallSite(3, 164, False), CallSite(9, 165, True, SIXTY_FOUR))
    assert name_of(found(program("iouring.s/x", *calls))) == "iouring-v2-futex"


def test_waiting_by_return_value_is_v3() -> None:
    facts = program("iouring", CallSite(3, 170, True), ctx=WAITS, returns=frozenset({0, 1}))
    assert name_of(found(facts)) == "iouring-v3"


def test_waiting_by_wait_nr_alone_is_v3base() -> None:
    facts = program("iouring", CallSite(3, 170, True), ctx=WAITS)
    assert name_of(found(facts)) == "iouring-v3base"


def test_a_program_that_never_waits_leaves_v3_and_v3base_open() -> None:
    detection = found(program("iouring", CallSite(3, 170, True)))
    assert detection.profile is None
    assert [p.name for p in detection.candidates] == ["iouring-v3base", "iouring-v3"]


def test_clearing_wait_nr_is_no_wait() -> None:
    clears = (CtxAccess(0, 8, 4, "store", frozenset({0})),)
    detection = found(program("iouring", CallSite(3, 170, True), ctx=clears))
    assert detection.profile is None


def test_unknown_section_is_no_abi() -> None:
    detection = found(program("whatever"))
    assert detection.candidates == ()
    assert "whatever" in detection.why[0]


def test_short_profile_names_and_near_misses() -> None:
    assert profile_named("v2").name == "iouring-v2"
    with pytest.raises(InputError, match="did you mean 'iouring-v3'"):
        profile_named("iouring-v33")


@pytest.mark.parametrize(
    ("option", "reason"),
    [("155", "NUMBER=NAME"), ("x=iouring_reap_cqe", "NUMBER=NAME"), ("155=nope", "no helper")],
)
def test_bad_overrides(option: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        parse_overrides([option], ["iouring_reap_cqe"])


def test_override_gives_a_number_a_name() -> None:
    assert parse_overrides(["155=iouring_reap_cqe"], ["iouring_reap_cqe"]) == {
        155: "iouring_reap_cqe"
    }


@pytest.mark.parametrize(
    ("abi", "facts", "errno_name"),
    [
        ("v2", program("iouring.s/", returns=frozenset({1})), "EINVAL"),
        ("v3", program("iouring", returns=frozenset({0, 2})), "EINVAL"),
        ("v3", program("iouring", CallSite(1, 999, None)), "EINVAL"),
        ("v2", program("iouring.s/", ctx=(CtxAccess(4, 8, 8, "store"),)), "EACCES"),
        ("v2", program("iouring.s/", ctx=(CtxAccess(4, 0, 4, "load"),)), "EACCES"),
        ("v2", program("iouring.s/", ctx=(CtxAccess(4, 8, 4, "store_imm"),)), "EACCES"),
        ("v3", program("iouring", ctx=(CtxAccess(4, 0, 8, "store"),)), "EACCES"),
        ("v1", program("iouring/", ctx=(CtxAccess(4, 0, 8, "load"),)), "EACCES"),
        ("v2", program("iouring/", CallSite(3, 164, True, SIXTY_FOUR)), "EINVAL"),
    ],
)
def test_load_is_refused(abi: str, facts: ProgramFacts, errno_name: str) -> None:
    with pytest.raises(LoadRejected, match=errno_name):
        check_load(facts, profile_named(abi))


def test_lenient_mode_lets_merged_stores_pass() -> None:
    facts = program("iouring.s/", ctx=(CtxAccess(4, 8, 8, "store"),))
    check_load(facts, profile_named("v2"), strict_ctx=False)
    outside = program("iouring.s/", ctx=(CtxAccess(4, 12, 8, "store"),))
    with pytest.raises(LoadRejected, match="off=12 size=8"):
        check_load(outside, profile_named("v2"), strict_ctx=False)


def test_lenient_mode_keeps_read_only_fields() -> None:
    facts = program("iouring", ctx=(CtxAccess(4, 0, 8, "store"),))
    with pytest.raises(LoadRejected, match="read-only"):
        check_load(facts, profile_named("v3"), strict_ctx=False)


def test_v2_may_write_user_data_and_v3_may_not() -> None:
    store = (CtxAccess(1, 0, 8, "store"),)
    check_load(program("iouring.s/", ctx=store), profile_named("v2"))
    with pytest.raises(LoadRejected):
        check_load(program("iouring", ctx=store), profile_named("v3"))
