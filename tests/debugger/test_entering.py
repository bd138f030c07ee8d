"""Where a line is entered whose code lies in several pieces."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from pybpfvm.debugger import Breakpoint, Debugger
from pybpfvm.debugger.entering import entries
from pybpfvm.program import Program
from tests.debugger.recordings import NAME, generated, record_example, record_text

_LOOP = """
    r6 = 3
    r0 = 0
head:
    r0 += 1
    if r0 > 1 goto over
    r7 = 1
over:
    r6 += -1
    if r6 != 0 goto head
    r0 = 0
    exit
"""


def executed(debugger: Debugger) -> list[tuple[str, int]]:
    """Program and pc of each instruction of the first run."""
    found: list[tuple[str, int]] = []

    def watch(_: int, program: Program, pc: int, __: object, ___: int) -> bool:
        found.append((program.name, pc))
        return False

    debugger.history.walk(0, 0, debugger.history.length(0), watch)
    return found


# Pieces of a line, and where it is entered.
_PIECES = [
    ([2], [2]),
    ([2, 3], [2]),  # one behind the other
    ([2, 5], [2]),  # each turn comes to the first, then to the second
    ([4, 5], [4, 5]),  # the second without the first, too
    ([0, 2], [0, 2]),  # before the loop, and in it
    ([2, 4, 6], [2]),
    ([1, 7], [1]),
]


@pytest.mark.parametrize(("pieces", "wanted"), _PIECES, ids=[str(row[0]) for row in _PIECES])
def test_a_line_in_pieces_is_entered_once(
    pieces: list[int], wanted: list[int], tmp_path: Path
) -> None:
    path = tmp_path / "t"
    record_text(_LOOP, path)
    with Debugger(path) as debugger:
        program = debugger.program
        assert program is not None
        assert entries(program, pieces) == wanted


@pytest.mark.parametrize("seed", range(8))
def test_a_piece_that_is_left_out_follows_one_that_is_not(seed: int, tmp_path: Path) -> None:
    """Since it was executed last, another one was: on generated programs, any pcs as a line."""
    path = tmp_path / "t"
    record_text(generated(seed), path)
    random, left_out = Random(seed), 0
    with Debugger(path) as debugger:
        program = debugger.program
        assert program is not None
        main = next(sub for sub in program.subprogs if sub.name == NAME)
        passed = [pc for _, pc in executed(debugger)]
        own = sorted({pc for pc in passed if main.start <= pc < main.end})
        for _ in range(40):
            pieces = random.sample(own, min(random.randrange(2, 6), len(own)))
            kept = entries(program, pieces)
            assert set(kept) <= set(pieces)
            for gone in set(pieces) - set(kept):
                entered = False
                for pc in passed:
                    if pc == gone:
                        assert entered, (pieces, kept, gone)
                        entered = False
                    entered = entered or pc in kept
                left_out += 1
    assert left_out


def test_a_line_breakpoint_stops_once_each_time(tmp_path: Path) -> None:
    """`*seen = me` of pingpong lies in several pieces, and is executed once in a run at most."""
    path = tmp_path / "t"
    record_example("03_pingpong", path)
    with Debugger(path) as debugger:
        lines = debugger.lines_of(0)
        program = debugger.program
        assert program is not None
        many = [
            line
            for line in {one.line for one in lines.debug.lines(program).values()}
            if len(lines.debug.pcs_of(program, "prog.bpf.c", line)) > 1
        ]
        assert many
        for line in many:
            one = debugger.set_breakpoint(Breakpoint("line", file="prog.bpf.c", line=line))
            debugger.goto(debugger.history.start)
            runs = []
            while (stop := debugger.move("continue")).reason == "breakpoint":
                runs.append(stop.position.run)
            assert len(runs) == len(set(runs)), line
            debugger.clear(one.id)
