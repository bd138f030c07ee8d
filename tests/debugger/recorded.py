"""Recordings that the tests of the debugger's surfaces look at."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

from pybpfvm.errors import Trap
from pybpfvm.scenario import Scenario, parse, run_scenario
from pybpfvm.session import Machine

ROOT = Path(__file__).parents[2]
PINGPONG = ROOT / "examples" / "03_pingpong"
PINGPONG_C = PINGPONG / "prog.bpf.c"
LONGRUN_C = ROOT / "bench" / "programs" / "longrun.bpf.c"
_MARK = 8  # where a context has its mark
_CTX_BYTES = 192

# A player that nobody serves: it is parked, and the host waits.
HANGING = f"""
object = "{PINGPONG / "prog.v3.bpf.o"}"
abi = "iouring-v3"
programs = ["player"]
ring = {{ cq_entries = [16, 16] }}
user.alice = {{ struct = "player", fields = {{ own_cq = 1, peer_cq = 2, rallies = 11 }} }}
steps = [
    {{ submit = [{{ prog = "player", user_data = {{ block = "alice" }} }}] }},
    {{ wait = 1 }},
]
"""


def record_pingpong(path: Path) -> Path:
    """Two players and a ball: 12 runs on one ring."""
    return record_scenario(parse(PINGPONG / "scenario.toml"), path)


def record_scenario(scenario: Scenario, path: Path) -> Path:
    """A scenario, however it ends."""
    run_scenario(scenario, record=path)
    return path


def record_longrun(path: Path, turns: int, *, runs: int = 1, budget_insns: int = 1 << 40) -> Path:
    """Runs of a loop of so many turns, outside any ring, in a machine of their own; a budget that
    they use up is a trap."""
    ctx = bytearray(_CTX_BYTES)
    struct.pack_into("<I", ctx, _MARK, turns)
    with Machine() as machine:
        program = machine.load(LONGRUN_C.with_suffix(".o"))["longrun"]
        machine.record(path)
        with suppress(Trap):
            program.run(bytes(ctx), bytes(64), repeat=runs, budget_insns=budget_insns)
    return path


def line_of(file: Path, text: str) -> int:
    """The number of the first line of a file that holds `text`."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)
