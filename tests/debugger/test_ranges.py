"""What the verifier knew of registers holds for what they hold."""

from __future__ import annotations

import re
from pathlib import Path

from pybpfvm.debugger import Debugger
from pybpfvm.debugger.target import Target
from tests.debugger.recorded import record_longrun, record_pingpong

_BOUND = re.compile(r"\b(?:smin=)?umin=(\d+)|\bumax(?:=umax32)?=(0x[0-9a-f]+|\d+)")


def test_every_value_of_a_run_is_within_what_was_known(tmp_path: Path) -> None:
    asked = 0
    with Debugger(record_pingpong(tmp_path / "t.bpftrace")) as debugger:
        debugger.goto(debugger.history.start)
        target = Target(debugger)
        while debugger.position != debugger.history.end and asked < 300:
            frames = debugger.frames()
            if not frames:  # the end of a run
                debugger.move("stepi")
                continue
            one = frames[0]
            ranges = target.ranges(one.program)
            assert ranges is not None
            assert ranges.why_none == ""
            for value, known in zip(one.regs, ranges.at(one.pc), strict=True):
                if known.isdecimal():
                    assert value == int(known)
                    asked += 1
                for low, high in _BOUND.findall(known) if " or " not in known else ():
                    assert not low or value >= int(low)
                    assert not high or value <= int(high, 0)
                    asked += 1
            debugger.move("stepi")
    assert asked >= 300


def test_where_the_verifier_gives_up_nothing_is_claimed(tmp_path: Path) -> None:
    with Debugger(record_longrun(tmp_path / "t.bpftrace", 10)) as debugger:
        debugger.goto(debugger.history.start)
        (frame,) = debugger.frames()
        ranges = Target(debugger).ranges(frame.program)
        assert ranges is not None
        assert "did not get through" in ranges.why_none
        assert ranges.at(0) == ()
