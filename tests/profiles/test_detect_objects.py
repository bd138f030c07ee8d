"""Detection on every committed object: right, or openly undecided with the right one among them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pybpfvm.objectfile import detect_abi, read_object
from pybpfvm.profiles import PROFILES

ROOT = Path(__file__).parents[2]
COMMITTED = sorted([*ROOT.glob("examples/*/*.bpf.o"), *ROOT.glob("tests/acceptance/*.bpf.o")])
# Of the merged upstream ABI; they only pass the ring on, so both its dialects fit.
_LOOPS = [path for path in COMMITTED if "loop_" in f"{path.parent.name} {path.name}"]
# Without debug information nothing tells what their callbacks are of.
UNTOLD = [path for path in _LOOPS if ".nodebug." in path.name]
LOOPS = [path for path in _LOOPS if path not in UNTOLD]
# These call a helper that no ABI has, on purpose.
NO_ABI = [path for path in COMMITTED if path.name.startswith("load_checks")]
OBJECTS = [path for path in COMMITTED if path not in NO_ABI and path not in _LOOPS]
# Never waiting, these run the same under both of the last numberings.
OPEN = {"01_hello", "06_accept_recv", "09_sink"}


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_detected_abi(path: Path) -> None:
    version = re.search(r"\.(v[\w-]+|x)\.", path.name)
    assert version is not None
    built_for = f"iouring-{version[1]}"
    detection = detect_abi(read_object(path))
    if detection.profile is None:
        assert path.parent.name in OPEN
        assert [p.name for p in detection.candidates] == ["iouring-v3base", "iouring-v3"]
        assert built_for == "iouring-v3"
    else:
        assert detection.profile.name == built_for


@pytest.mark.parametrize("path", NO_ABI, ids=lambda path: path.name)
def test_a_helper_that_no_abi_has_leaves_no_candidate(path: Path) -> None:
    detection = detect_abi(read_object(path))
    assert detection.candidates == ()
    assert any("which it does not have" in line for line in detection.why)


@pytest.mark.parametrize("path", LOOPS, ids=lambda path: str(path.relative_to(ROOT)))
def test_objects_of_loops_are_openly_undecided_between_the_dialects(path: Path) -> None:
    detection = detect_abi(read_object(path))
    assert detection.profile is None
    assert [profile.name for profile in detection.candidates] == ["loop-7.1", "loop-7.2"]
    assert len(detection.why) == 2


@pytest.mark.parametrize("path", UNTOLD, ids=lambda path: path.name)
def test_without_types_nothing_is_claimed(path: Path) -> None:
    assert detect_abi(read_object(path)).candidates == ()


_MERGED = ("loop-7.1", "loop-7.2")
_LAST_TWO = ("iouring-v3base", "iouring-v3")
# What fits every other committed object of a ring; nothing of rings fits what is not named here.
ELSEWHERE = {
    "bench/programs/checksum.bpf.o": ("iouring-v3",),
    "bench/programs/copy.bpf.o": ("iouring-v3",),
    "bench/programs/experiments/experiments.bpf.o": ("iouring-x",),
    "bench/programs/ring.bpf.o": ("iouring-v3",),
    "bench/programs/ringloops.bpf.o": ("iouring-v3",),
    "bench/programs/steploops.bpf.o": _MERGED,
    "tests/data/dialects/gate.bpf.o": ("loop-poll-gate",),
    "tests/data/dialects/june.bpf.o": ("loop-2025-06",),
    "tests/data/dialects/november.bpf.o": ("loop-2025-11",),
    "tests/data/dialects/op.81.bpf.o": ("op-bpf-v1",),
    "tests/data/dialects/op.82.bpf.o": ("op-bpf-v2",),
    "tests/data/dialects/op.83.bpf.o": ("op-bpf-v2", "op-bpf-v3"),
    "tests/data/dialects/prototype.bpf.o": ("iouring-2024",),
    "tests/data/dialects/timeout.bpf.o": ("loop-timeout",),
    "tests/data/dialects/xor.bpf.o": ("loop-xor",),
    "tests/data/explore/orders.v3.bpf.o": ("iouring-v3",),
    "tests/data/explore/tries.v3.bpf.o": ("iouring-v3",),
    "tests/data/hang/echo.v3.bpf.o": ("iouring-v3",),
    "tests/data/hang/fixed.v3.bpf.o": ("iouring-v3",),
    "tests/data/linking/one.bpf.o": _MERGED,
    "tests/data/linking/two.bpf.o": _MERGED,
    "tests/data/lints/behaviours.v2.bpf.o": ("iouring-v2",),
    "tests/data/lints/behaviours.v3.bpf.o": ("iouring-v3",),
    "tests/data/lints/first_posting.v1.bpf.o": ("iouring-v1",),
    "tests/data/lints/loop.bpf.o": _MERGED,
    "tests/data/lints/loop_dialect.2506.bpf.o": ("loop-2025-06",),
    "tests/data/lints/loop_dialect.2511.bpf.o": ("loop-2025-11",),
    "tests/data/lints/loop_dialect.2606.bpf.o": ("loop-timeout",),
    "tests/data/lints/twins.v2.bpf.o": ("iouring-v2",),
    "tests/data/lints/twins.v3.bpf.o": ("iouring-v3",),
    "tests/data/loops/loops.v2.bpf.o": ("iouring-v2",),
    "tests/data/loops/loops.v3.bpf.o": ("iouring-v3",),
    "tests/data/loops/steps.bpf.o": _MERGED,
    "tests/data/replacing/nops.bpf.o": _MERGED,
    "tests/data/replacing/request.v3.bpf.o": _LAST_TWO,
    "tests/data/servers/echo.v2.bpf.o": ("iouring-v2",),
    "tests/data/servers/echo.v3.bpf.o": ("iouring-v3",),
    "tests/verifier/data/sqe_param.bpf.o": _LAST_TWO,
}


def test_detection_on_every_other_object() -> None:
    rings = {name for name, one in PROFILES.items() if one.ring is not None or one.loop is not None}
    paths = {*ROOT.glob("bench/**/*.o"), *ROOT.glob("tests/**/*.o")} - set(COMMITTED)
    found = {}
    for path in paths:
        names = [profile.name for profile in detect_abi(read_object(path)).candidates]
        if rings & set(names):
            found[str(path.relative_to(ROOT))] = tuple(names)
    assert found == ELSEWHERE
