"""Breakpoints: what is said where there is none, what their conditions may ask, and what
watchpoints and logpoints tell, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pybpfvm.debugger import Breakpoint, Debugger, Position
from pybpfvm.debugger.terminal.commands import Commands
from pybpfvm.debugger.terminal.shell import Shell
from pybpfvm.errors import InputError
from pybpfvm.scenario import parse, run_scenario
from tests.debugger.recordings import NAME, ROOT, record_text

ECHO = ROOT / "tests" / "data" / "hang"


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server of docs/debugging.md, which hangs: six runs."""
    path = tmp_path_factory.mktemp("debugger") / "echo.bpftrace"
    run_scenario(parse(ECHO / "scenario.toml"), record=path)
    return path


@pytest.fixture
def debugger(echo: Path) -> Iterator[Debugger]:
    with Debugger(echo) as found:
        yield found


def said(debugger: Debugger, *lines: str) -> list[str]:
    """What the last of these commands says."""
    heard: list[str] = []
    shell = Shell(debugger, heard.append)
    for line in lines:
        heard.clear()
        shell.line(line)
    return heard


# What a place that is none is answered with.
_NOWHERE = [
    ("nowhere", "no function is called nowhere; there are echo, io, "),
    ("ecko", "did you mean echo?"),
    ("echo.bpf.c:4000", "line 4000 of echo.bpf.c has no code; the nearest that have some: 80"),
    ("echo.bpf.c:72", "the nearest that have some: 71 and 73"),
    ("other.c:5", "no file with code is called other.c; there are ./tests/data/hang/echo.bpf.c"),
    ("echo+999", "no instruction of echo begins at 999; one does at 100"),
    ("other+1", "no program is called other; there are echo"),
    ("run other", "no program is called other"),
    ("helper emit_cqe", "no program calls a helper emit_cqe; what they call: "),
    ("helper reap_cq", "what they call: io_uring_reap_cqe"),
    ("echo if", "if what?"),
]


@pytest.mark.parametrize(("place", "answer"), _NOWHERE, ids=[row[0] for row in _NOWHERE])
def test_no_place_is_answered_with_what_there_is(
    place: str, answer: str, debugger: Debugger
) -> None:
    (line,) = said(debugger, f"break {place}")
    assert line.startswith("error: ")
    assert answer in line


def test_what_fails_takes_no_number(debugger: Debugger) -> None:
    assert said(
        debugger,
        "break nowhere",
        "break echo if nothing",
        "watch 5",
        "dprintf echo, {x",
        "break 60",
    )[0].startswith("Breakpoint 2: ")
    assert list(debugger.breakpoints) == [1, 2]


@pytest.mark.parametrize(
    "name",
    ["io_uring_reap_cqe", "bpf_io_uring_reap_cqe", "reap_cqe", "bpf_reap_cqe", "reap", "bpf_reap"],
)
def test_helpers_with_and_without_what_their_names_begin_with(
    name: str, debugger: Debugger
) -> None:
    one = debugger.set_breakpoint(Breakpoint("helper", helper=name))
    assert one.places == {"echo": frozenset({43})}


def test_places_are_completed(debugger: Debugger) -> None:
    commands = Commands(debugger, lambda _: None, Shell(debugger).commands._paint)
    assert commands.words("break helper io_uring_r") == ["io_uring_reap_cqe"]
    assert commands.words("b helper bpf_map") == ["bpf_map_lookup_elem"]
    assert commands.words("break ec") == ["echo"]
    assert commands.words("tbreak he") == ["helper"]
    assert commands.words("break run ") == ["echo"]
    assert commands.words("break echo i") == ["if"]
    assert commands.words("break echo if sta") == ["state"]
    assert commands.words("goto e") == ["end"]


# --- what helpers return ------------------------------------------------------------------------

_RETURNS = """
    *(u64 *)(r10 - 8) = 0
    r6 = 3
again:
    r1 = r10
    r1 += -8
    r2 = 8
    r3 = {addr}
    call 112
    if r6 == 2 goto next
    call 5
next:
    r6 += -1
    if r6 != 0 goto again
    r0 = 0
    exit
"""


def test_a_condition_on_what_a_helper_returns(tmp_path: Path) -> None:
    """It is asked behind the call, however one comes to what follows."""
    path = tmp_path / "t"
    record_text(_RETURNS.format(addr=64), path)
    with Debugger(path) as debugger:
        assert set(debugger.placing.helpers()) == {"probe_read_user", "ktime_get_ns"}
        one = debugger.set_breakpoint(
            Breakpoint("helper", helper="probe_read_user", condition="ret < 0 && r6 != 2")
        )
        assert one.where.startswith("behind made+")
        forth = []
        while (stop := debugger.move("continue")).reason == "breakpoint":
            assert debugger.evaluate("r0").number == (1 << 64) - 14
            assert debugger.pc == 7
            forth.append(stop.position)
        assert len(forth) == 2
        back = []
        while (stop := debugger.move("continue", backward=True)).reason == "breakpoint":
            back.append(stop.position)
        assert back[::-1] == forth
        debugger.clear(one.id)
        assert debugger.seek('helper == "probe_read_user" && ret == -14').position == forth[-1]
        assert debugger.seek("ret == -14", last=False).position == forth[0]
        assert debugger.seek("ret == 5").reason == "not found"


def test_a_place_behind_a_call_that_is_jumped_to_is_not_its_return(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_text(
        "r6 = 0\ngoto over\ncall 5\nover:\nr6 += 1\nif r6 < 3 goto over\nr0 = 0\nexit", path
    )
    with Debugger(path) as debugger:
        debugger.set_breakpoint(Breakpoint("helper", helper="ktime_get_ns", condition="ret >= 0"))
        assert debugger.move("continue").reason == "end"


@pytest.mark.parametrize(
    ("kind", "condition", "missing"),
    [
        ("insn", "cqe.res < 0", "no cqe"),
        ("insn", "ret < 0", "no ret"),
        ("start", "ret == 0", "no ret"),
        ("cqe", "ret == 0", "no ret"),
        ("helper", "$cqe.res < 0", "no cqe"),
        ("trap", 'helper == "x"', "no helper"),
    ],
)
def test_a_condition_that_can_never_hold_is_refused(
    kind: str, condition: str, missing: str, debugger: Debugger
) -> None:
    wanted = Breakpoint(kind, condition=condition, program="echo", helper="reap_cqe")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=missing):
        debugger.set_breakpoint(wanted)
    assert not debugger.breakpoints


def test_a_condition_of_runs_knows_what_they_begin_with(debugger: Debugger) -> None:
    debugger.goto(debugger.history.start)
    debugger.set_breakpoint(
        Breakpoint("start", program="echo", condition="ctx->user_data != 0 && state[0].want == 5")
    )
    assert debugger.move("continue").position == Position(3, 0)


# --- watchpoints --------------------------------------------------------------------------------

_WANT = [(Position(2, 33), "0 '\\000'", "5 '\\005'"), (Position(4, 33), "5 '\\005'", "44 ','")]
_BUFFER = [(Position(2, 0), "0", "104"), (Position(4, 0), "104", "97")]  # the ring writes it


@pytest.mark.parametrize(
    ("watched", "changes"), [("state[0].want", _WANT), ("buffer[0]", _BUFFER)], ids=["map", "user"]
)
def test_watchpoints_tell_what_was_and_what_is(
    watched: str, changes: list[tuple[Position, str, str]], debugger: Debugger
) -> None:
    debugger.goto(debugger.history.start)
    one = debugger.set_breakpoint(Breakpoint("data", expression=watched))
    for backward in (False, True):
        found = []
        while (stop := debugger.move("continue", backward=backward)).reason == "breakpoint":
            (change,) = stop.changes
            assert change.breakpoint is one
            found.append((stop.position, change.old, change.new))
        assert found == (changes[::-1] if backward else changes)


def test_a_watchpoint_of_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "t"
    text = "*(u64 *)(r10 - 8) = 7\ncall leaf\nr0 = 0\nexit\nleaf:\n*(u64 *)(r10 - 8) = 9\nexit"
    record_text(text, path)
    with Debugger(path) as debugger:
        debugger.goto(Position(0, 2))
        frames = [frame.regs[10] for frame in debugger.frames()]
        found = [
            debugger.set_breakpoint(Breakpoint("data", expression="*(u64 *)(r10 - 8)"), frame).addr
            for frame in (0, 1)
        ]
        assert found == [frame - 8 for frame in frames]


# --- logpoints, prints --------------------------------------------------------------------------


def test_logpoints_are_silent_backward(debugger: Debugger) -> None:
    debugger.goto(debugger.history.start)
    debugger.set_breakpoint(
        Breakpoint("line", file="echo.bpf.c", line=75, log_message="want {now->want}")
    )
    debugger.set_breakpoint(Breakpoint("cqe", cq=1, log_message="res {cqe.res}"))
    debugger.set_breakpoint(Breakpoint("helper", helper="reap_cqe", log_message="got {ret}"))
    stop = debugger.move("continue")
    assert stop.reason == "end"
    assert [one for one in stop.log if one.startswith("want")] == ["want 5 '\\005'", "want 44 ','"]
    assert [one for one in stop.log if one.startswith("res")] == [
        f"res {res}" for res in (4, 5, 5, 300, 300)
    ]
    assert stop.log.count("got 0") == 5
    stop = debugger.move("continue", backward=True)
    assert (stop.reason, stop.log) == ("start", ())


def test_logpoints_in_words(debugger: Debugger) -> None:
    assert "no member 'wnt'" in said(debugger, "dprintf echo.bpf.c:75, want {now->wnt}")[0]
    (line,) = said(debugger, 'dprintf echo.bpf.c:75, "it is if {now->want}" if now->want > 5')
    assert line.startswith("Breakpoint 1: ")
    heard = said(debugger, "goto start", "c")
    assert heard[0] == "it is if 44 ','"
    assert "behind the text" in said(debugger, 'dprintf echo, "one" two')[0]
    said(debugger, r'dprintf echo, "he said: \"if\" \\ \n"')
    assert debugger.breakpoints[max(debugger.breakpoints)].log_message == r'he said: "if" \ \n'
    assert "says what" in said(debugger, "dprintf echo,")[0]


_PRINTS = """
    r6 = 3
again:
    *(u32 *)(r10 - 8) = 0x642520
    r1 = r10
    r1 += -8
    r2 = 4
    r3 = r6
    call 6
    r6 += -1
    if r6 != 0 goto again
    r0 = 0
    exit
"""


def test_what_programs_print_is_told_on_the_way_forward(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_text(_PRINTS, path, runs=2)
    with Debugger(path) as debugger:
        debugger.set_breakpoint(Breakpoint("insn", program=NAME, pc=7, log_message="at {r6}"))
        stop = debugger.move("continue")
        one = ["made prints:  3", "at 3", "made prints:  2", "at 2", "made prints:  1", "at 1"]
        assert list(stop.log) == one * 2
        assert debugger.move("continue", backward=True).log == ()
        debugger.breakpoints.clear()
        told = []
        while debugger.position != debugger.history.end:
            stop = debugger.move("stepi")
            told += [(stop.position, line) for line in stop.log]
        turns = [(run, 7 + 8 * turn) for run in range(2) for turn in range(3)]
        assert [at for at, _ in told] == [Position(*at) for at in turns]
        assert [line for _, line in told] == one[::2] * 2
        debugger.goto(Position(0, 10))
        assert debugger.move("run").log == tuple(one[2::2])


def test_the_end_is_told_once_and_why(debugger: Debugger) -> None:
    heard = said(debugger, "goto start", "c")
    assert heard == [
        "hang: nothing in flight can complete",
        "  user waits for 1 CQE on CQ 0, which holds 0",
        "  request 1 (echo) waits for 1 CQE on CQ 1, which holds 0",
        "the end of the recording   [6:0]",
    ]


@pytest.mark.parametrize(
    ("where", "answer"),
    [
        ("0:10000", "no position 0:10000: run 0 has 47 instructions (the last is 0:47)"),
        ("77:1", "no position 77:1: there are 6 runs, numbered from 0 (the last is 6:0)"),
        ("9999", "the recording has 333 instructions"),
        ("there", "'there' is no position (RUN:INSNS, "),
        ("", "goto where?"),
        ("fault", "no fault ended the recording"),
    ],
)
def test_where_there_is_nothing_to_go_to(where: str, answer: str, debugger: Debugger) -> None:
    (line,) = said(debugger, f"goto {where}".strip())
    assert answer in line


def test_conditions_come_and_go(debugger: Debugger) -> None:
    """What is watched stays what it was, and a condition that is none changes nothing."""
    said(debugger, "goto 5:33", "watch now->want", "break helper reap_cqe if ret < 0")
    watch, call = debugger.breakpoints.values()
    addr = watch.addr
    assert call.behind
    assert "error: " in said(debugger, "condition 2 nonsense")[0]
    assert (call.condition, call.behind, call.where[:7]) == ("ret < 0", True, "behind ")
    assert said(debugger, "condition 2", "goto start", "condition 1 state[0].fd > 0") == []
    assert (call.condition, call.behind, call.compiled) == ("", False, None)
    assert (watch.addr, watch.condition) == (addr, "state[0].fd > 0")
    heard = said(debugger, "delete 2", "c")
    assert heard[0] == "Watchpoint 1: now->want: 0 '\\000' -> 5 '\\005'"
