"""Detection on every committed object: right, or openly undecided with the right one among them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pybpfvm.objectfile import detect_abi, read_object

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
