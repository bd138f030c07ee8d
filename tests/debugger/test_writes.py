"""Who wrote this: on a recording whose writers are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.debugger import Debugger, Position
from pybpfvm.errors import InputError
from tests.debugger.recordings import COUNTDOWN, record_example, record_text


@pytest.fixture
def pingpong(tmp_path: Path) -> Path:
    path = tmp_path / "t"
    record_example("03_pingpong", path)
    return path


# At 3:40, where bob has hit the ball once: (what, by, where from, its C line).
_WRITERS = [
    ("r0", "helper map_lookup_elem", Position(3, 25), 37),
    ("r7", "program", Position(3, 38), 40),
    ("me.hits", "program", Position(3, 21), 36),
    ("me.rallies", "helper copy_from_user", Position(3, 6), 28),
    ("players[1].hits", "program", Position(2, 31), 39),
    ("$cq[1].ready", "helper io_uring_reap_cqe", Position(2, 14), 132),
    ("alice", "helper bpf_copy_to_user", Position(2, 41), 40),
    ("ctx->user_data", "host", Position(3, 0), None),
]


@pytest.mark.parametrize(("what", "by", "at", "line"), _WRITERS, ids=[row[0] for row in _WRITERS])
def test_who_wrote(what: str, by: str, at: Position, line: int | None, pingpong: Path) -> None:
    with Debugger(pingpong) as debugger:
        here = Position(3, 40)
        debugger.goto(here)
        write = debugger.who_wrote(what)
        assert (write.by, write.position) == (by, at)
        assert (None if write.line is None else write.line.line) == line
        assert debugger.position == here
        if line is not None:  # it is another before, and what it is now behind
            value = debugger.text_of(what)
            debugger.goto(at)
            before = debugger.text_of(what) if what != "r7" else ""
            debugger.move("stepi")
            assert debugger.text_of(what) == value != before


def test_nobody_wrote_what_is_not_set_yet(pingpong: Path) -> None:
    """A variable on the stack is blank when a run begins, whatever the run before left there."""
    with Debugger(pingpong) as debugger:
        last = debugger.who_wrote
        debugger.goto(Position(3, 8))
        for position in (Position(3, 8), Position(3, 1)):
            debugger.goto(position)
            write = last("ball")
            assert (write.by, write.position) == ("start", Position(3, 0))
            assert write.text == "ball: nobody has written it since run 3 began"


def test_through_functions_and_to_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "t"
    text = "r9 = r1\nr1 = 3\nr6 = 7\ncall leaf\nr0 += 0\nexit\nleaf:\nr0 = r1\nr0 += 5\nexit"
    record_text(text, path)
    with Debugger(path) as debugger:
        debugger.goto(Position(0, 7))
        assert debugger.who_wrote("r0").position == Position(0, 5)
        debugger.goto(Position(0, 5))
        assert debugger.who_wrote("r1").position == Position(0, 1)
        assert debugger.who_wrote("r6", frame=1).position == Position(0, 2)
        debugger.goto(Position(0, 1))
        assert (debugger.who_wrote("r1").by, debugger.who_wrote("r8").by) == ("start", "start")


def test_far_back(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_text("r8 = 5\n*(u64 *)(r10 - 16) = r8\n" + COUNTDOWN.format(turns=60_000), path)
    with Debugger(path) as debugger:
        debugger.goto(debugger.history.last(0))
        frame = debugger.frames()[0].regs[10]
        assert debugger.who_wrote("r8").position == Position(0, 0)
        assert debugger.who_wrote((frame - 16, 8)).position == Position(0, 1)
        assert debugger.who_wrote("*(u64 *)(r10 - 8)").position.insns == 4 + 4 * 59_999


def test_nothing_that_can_be_written_is_a_mistake(pingpong: Path) -> None:
    with Debugger(pingpong) as debugger:
        for text in ("nobody", "1 +", ""):
            with pytest.raises(InputError):
                debugger.who_wrote(text)
