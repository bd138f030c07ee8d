"""How fast a debugger moves in a recording of 10^8 instructions: in one run, and in many; and how
long it looks for conditions that never hold, from either end of 1,000 short runs of ping-pong. How
it moves in 100,000 of these, whose instructions take no time: they themselves do.

The time of one move each, in a recording that was opened anew; "first" is what comes before there
are snapshots. Seconds are those of the processor's time, which a machine with nothing else to do
takes by the clock too: a debugger waits for nobody.
"""

from __future__ import annotations

import struct
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.recording import pingpong
from pybpfvm.debugger import Breakpoint, Debugger, Position
from pybpfvm.session import Machine
from pybpfvm.session.engines import jit_refusal

Rows = list[tuple[str, float, str]]

_PROGRAM = Path(__file__).parent / "programs" / "longrun.bpf.o"
_INSNS = 100_000_000
_A_TURN = 9  # instructions
_RUNS = {"one run": 1, "1,000 runs": 1_000}
_MARK = 8  # where a context has its mark
_CTX_BYTES = 192
_SHORT_RUNS = 100_000
# By what they are of. None of them ever holds.
_NEVER = {
    "events": "cqe.res < 0",
    "a ring": "overflow > 0",
    "a map": "players[1].hits == 7777",
    "a variable": "me.hits == 7777",
    "a register": "r2 == 7777777",
}


def run() -> Rows:
    """All rows, where the JIT can run."""
    refused = jit_refusal()
    if refused is not None:
        print(f"the debugger skipped: {refused}")
        return []
    rows: Rows = []
    for name, runs in _RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "t.bpftrace"
            _record(path, runs)
            rows += _moves(f"10^8 instructions in {name}", path)
    return rows + _many() + _sought()


def _many() -> Rows:
    """Of many short runs: from the end, where one begins after a hang, backward."""
    name, last = f"{_SHORT_RUNS:,} short runs", _SHORT_RUNS
    rows: Rows = []

    def timed(what: str, move: Callable[[], object]) -> None:
        start = time.process_time()
        move()
        rows.append((f"{name}: {what}", 1e3 * (time.process_time() - start), "ms"))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.bpftrace"
        pingpong("jit", "sim", _SHORT_RUNS)(path, False)
        start = time.process_time()
        with Debugger(path) as debugger:
            rows.append((f"{name}: open", 1e3 * (time.process_time() - start), "ms"))
            timed("go to the end", lambda: debugger.goto(debugger.history.end))
            timed("the rings there", debugger.rings)
            timed("step back there", lambda: debugger.move("stepi", backward=True))
            for share in (0.5, 0.77, 0.013):
                timed(f"go to {share:.1%}", partial(_to_share, debugger, share))
                timed(f"the rings at {share:.1%}", debugger.rings)
            timed("a run back", lambda: debugger.move("run", backward=True))
            debugger.goto(Position(last // 2, 3))
            timed("who wrote the element of the map", lambda: debugger.who_wrote("players[1].hits"))
            debugger.set_breakpoint(Breakpoint("function", function="player"))
            timed("continue backward to a breakpoint", lambda: _go(debugger, backward=True))
    return rows


def _to_share(debugger: Debugger, share: float) -> None:
    debugger.goto(Position(int(len(debugger.history.runs) * share), 3))


def _record(path: Path, runs: int) -> None:
    ctx = bytearray(_CTX_BYTES)
    struct.pack_into("<I", ctx, _MARK, _INSNS // runs // _A_TURN)
    with Machine() as machine:
        program = machine.load(_PROGRAM)["longrun"]
        machine.record(path)
        program.run(bytes(ctx), bytes(64), repeat=runs, engine="jit", budget_insns=2 * _INSNS)


def _moves(name: str, path: Path) -> Rows:
    rows: Rows = []

    def timed(what: str, move: Callable[[], object]) -> None:
        start = time.process_time()
        move()
        rows.append((f"{name}: {what}", 1e3 * (time.process_time() - start), "ms"))

    start = time.process_time()
    with Debugger(path) as debugger:
        history = debugger.history
        rows.append((f"{name}: open", 1e3 * (time.process_time() - start), "ms"))

        def at(share: float) -> Position:
            return history.position_of(int(history.insns * share))

        last = history.position_of(history.insns - 2)
        timed("go to the end, first", lambda: debugger.goto(last))
        timed("step back there", lambda: debugger.move("stepi", backward=True))
        timed("step back by a line", lambda: debugger.move("step", backward=True))
        for share in (0.5, 0.77, 0.013):
            timed(f"go to {share:.1%}", partial(debugger.goto, at(share)))
        timed("step back there, early", lambda: debugger.move("stepi", backward=True))
        debugger.goto(at(0.01))
        end = debugger.set_breakpoint(
            Breakpoint("line", file="longrun.bpf.c", line=26, condition="turn > 11000000")
            if len(history.runs) == 1
            else Breakpoint("line", file="longrun.bpf.c", line=29, condition="0")
        )
        timed("continue to a breakpoint whose condition is seldom asked", lambda: _go(debugger))
        debugger.clear(end.id)
        debugger.goto(last)
        timed("who wrote the variable in the frame", lambda: debugger.who_wrote("own"))
        if len(history.runs) == 1:  # of shorter runs none changes it
            debugger.goto(last)
            timed("who wrote the element of the map", lambda: debugger.who_wrote("sums[0]"))
    return rows


def _sought() -> Rows:
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.bpftrace"
        pingpong("jit", "sim")(path, False)
        for kind, condition in _NEVER.items():
            for last in (True, False):
                with Debugger(path) as debugger:
                    start = time.process_time()
                    if debugger.seek(condition, last=last).reason != "not found":
                        raise AssertionError(f"{condition} held")
                    took = 1e3 * (time.process_time() - start)
                what = "from the end" if last else "from the start"
                rows.append((f"seek {condition}, {kind}: {what}", took, "ms"))
    return rows


def _go(debugger: Debugger, *, backward: bool = False) -> None:
    if debugger.move("continue", backward=backward).reason not in ("breakpoint", "end"):
        raise AssertionError("the move ended elsewhere")
