"""The debugger on a terminal: by scripts, and through a pseudo-terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pexpect
import pyte
import pytest

from pybpfvm.debugger import Debugger
from pybpfvm.debugger.terminal.shell import PROMPT, Shell, history_path
from pybpfvm.trace.format import TraceFile
from tests.debugger.recordings import COUNTDOWN, ROOT, record_example, record_text

SCENARIO = ROOT / "examples" / "03_pingpong" / "scenario.toml"


@pytest.fixture
def pingpong(tmp_path: Path) -> Path:
    path = tmp_path / "t.bpftrace"
    record_example("03_pingpong", path)
    return path


def debug(*arguments: object, stdin: str = "") -> tuple[int, str]:
    """What the command prints, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "pybpfvm", "debug", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def said(path: Path, lines: Sequence[str]) -> list[list[str]]:
    """What each of these commands says."""
    with Debugger(path) as debugger:
        heard: list[str] = []
        shell = Shell(debugger, heard.append)
        found = []
        for line in lines:
            heard.clear()
            shell.line(line)
            found.append(list(heard))
        return found


def test_a_session_by_commands(pingpong: Path) -> None:
    code, out = debug(
        pingpong,
        *("--command", "break prog.bpf.c:41 if me.hits > 2", "--command", "c"),
        *("--command", "p me.hits", "--command", "why me.hits", "--command", "rc"),
    )
    assert code == 0
    assert "player at ./examples/03_pingpong/prog.bpf.c:41" in out
    assert "\n3\n" in out
    assert "me.hits: 0x2 -> 0x3 by program at player+21" in out
    assert "The start of the recording." in out
    assert "\x1b" not in out


def test_a_script_and_a_pipe(pingpong: Path, tmp_path: Path) -> None:
    script = tmp_path / "s"
    script.write_text("# comment\n\nbreak player\nc\nnonsense\np hit\n")
    code, out = debug(pingpong, "-x", script)
    assert code == 1
    assert "error: no command is called 'nonsense'" in out
    assert "Traceback" not in out
    code, out = debug(pingpong, stdin="info runs\nquit\nnever\n")
    assert code == 0
    assert "12 runs, 635 instructions" in out
    assert "never" not in out


def test_a_scenario_is_recorded_for_it(tmp_path: Path) -> None:
    code, out = debug(
        SCENARIO, "--command", "goto end", "--command", "ring", "--options", "--seed 3"
    )
    assert code == 0
    assert "all expectations met" in out
    assert "CQ 1: 0 of 16 CQEs" in out
    code, out = debug(tmp_path / "gone")
    assert code == 2
    assert out.count("\n") == 1


# Commands, and a line that each says (a part of it).
_LOOKS = [
    ("goto 4:47", "prog.bpf.c:41"),
    ("bt", "*#0 player at"),
    ("info registers", "<alice+12>"),
    ("info locals", "seen = (seen is optimised out at player+48)"),
    ("info frame", "run 4 of player, 47 of 56 instructions, request 1 of ring 1"),
    ("info functions", "player (iouring): player"),
    ("info blocks", "alice"),
    ("p/x me.rallies", "0xb"),
    ("x/4xw &me", "0x00000001  0x00000002  0x0000000b  0x00000003"),
    ("list", "=> 41\t"),
    ("list player", "20\tRING_PROG(player)"),
    ("disas", "=>    48: call 0xab <io_uring_emit_cqe>"),
    ("ring", "request 1: BPF of user"),
    ("maps", "[1] = {own_cq = 1, peer_cq = 2, rallies = 11, hits = 3}"),
    ("timeline", "requests"),
    ("display me.hits", "1: me.hits = 3"),
    ("si", "1: me.hits = 3"),
    ("watch players[1].hits", "Watchpoint 1: players[1].hits, 4 bytes"),
    ("rc", "Watchpoint 1: players[1].hits: 2 -> 3"),
    ("info b", "1  data  players[1].hits"),
    ("up", "error: there is no frame 1"),
    ("tbreak helper io_uring_reap_cqe", "Breakpoint 2: player+"),
    ("seek first me.hits == 4", "[6:22]"),
    ("p nothing", "error: column 1: nothing is called 'nothing' here"),
    ("goto 99:1", "no position 99:1: there are 12 runs"),
    ("break nowhere", "error: no breakpoint there"),
    ("break 36 if", "error: if what?"),
    ("condition 1", ""),
    ("help step", "to the next line"),
]


def test_looking_around(pingpong: Path) -> None:
    answers = said(pingpong, [line for line, _ in _LOOKS])
    for (line, wanted), answer in zip(_LOOKS, answers, strict=True):
        assert not wanted or any(wanted in one for one in answer), (line, answer)


def test_completion(pingpong: Path) -> None:
    with Debugger(pingpong) as debugger:
        debugger.move("stepi")
        commands = Shell(debugger, lambda _: None).commands
        assert commands.words("reverse-s") == ["reverse-step", "reverse-stepi"]
        assert commands.words("p pla") == ["player", "players"]
        assert "registers" in commands.words("info r")


def test_a_recording_that_is_cut_off_opens(pingpong: Path, tmp_path: Path) -> None:
    """As far as its chunks are whole: the object, or the runs up to there."""
    data = pingpong.read_bytes()
    cut = tmp_path / "cut"
    for share in (0.1, 0.4, 0.8, 0.95, 0.999):
        cut.write_bytes(data[: int(len(data) * share)])
        code, out = debug(cut, "--command", "goto end", "--command", "rs")
        assert code in (0, 2)
        assert "cut off" in out or "no end" in out
        assert "Traceback" not in out
        assert code == 0 or out.count("\n") == 1


def test_damage_behind_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_text("call 5\n" * 3000 + "r0 = 0\nexit", path, runs=20)
    data = bytearray(path.read_bytes())
    with TraceFile(path) as file:
        at, size, _ = file.chunks[-1]
        chunks = len(file.chunks)
    assert chunks > 1
    data[at + size // 2] ^= 0xFF
    path.write_bytes(data)
    code, out = debug(path, "--command", "goto end", "--command", "rs", "--command", "bt")
    assert code == 0
    assert "note: " in out
    assert "the checksum of a chunk is wrong" in out
    assert "#0 made at no source line" in out


def spawn(path: Path, home: Path) -> pexpect.spawn[str]:
    environment = {
        **os.environ,
        "XDG_STATE_HOME": str(home),
        "TERM": "xterm",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }
    return pexpect.spawn(
        sys.executable,
        ["-m", "pybpfvm", "debug", str(path)],
        env=environment,
        cwd=ROOT,
        encoding="utf-8",
        dimensions=(40, 120),
        timeout=60,
    )


def screen(text: str) -> str:
    """What a terminal shows of this output."""
    shown = pyte.Screen(120, 400)
    pyte.Stream(shown).feed(text)
    return "\n".join(line.rstrip() for line in shown.display).strip()


def test_a_terminal(pingpong: Path, tmp_path: Path) -> None:
    """Prompt, completion by Tab, an empty line that repeats, history for the next session."""
    home = tmp_path / "state"
    child = spawn(pingpong, home)
    child.expect_exact(PROMPT.strip())
    heard = child.before or ""
    child.send("cq\t")
    child.expect(r"\x1b\[0m(cq)?e")
    child.send("\r")
    child.expect_exact("[0:48]")
    child.send("stepi\r")
    child.expect_exact("[0:49]")
    child.send("\r")
    child.expect_exact("[0:50]")
    child.send("quit\r")
    child.expect(pexpect.EOF)
    assert child.wait() == 0
    assert "12 runs, 635 instructions" in screen(heard)
    kept = (home / "pybpfvm" / "debug_history").read_text()
    assert "+cqe" in kept
    assert "+stepi" in kept
    child = spawn(pingpong, home)
    child.expect_exact(PROMPT.strip())
    child.send("\x1b[A")  # the arrow up
    child.expect_exact("quit")
    child.send("\x15\x04")
    child.expect(pexpect.EOF)


def test_ctrl_c_ends_a_command_only(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_text(COUNTDOWN.format(turns=3_000_000), path)
    child = spawn(path, tmp_path)
    child.expect_exact(PROMPT.strip())
    child.send("break made+3 if r6 == 0\r")
    child.expect_exact("Breakpoint 1")
    child.send("c\r")
    child.expect_exact("c")
    with pytest.raises(pexpect.TIMEOUT):
        child.expect_exact("recording", timeout=2)
    child.kill(signal.SIGINT)
    child.expect_exact("Interrupted: you are where you were.")
    child.expect_exact("[0:0]")
    child.send("p 40 + 2\r")
    child.expect_exact("42")
    child.send("quit\r")
    child.expect(pexpect.EOF)


@pytest.mark.parametrize("often", [False, True])
@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("goto end", "seek r6 == 77"),
        ("goto end", "seek first r6 == 77"),
        ("goto end", "rc"),
        ("goto 399:20", "goto 300:1"),
        ("goto 399:20", "why *(long *)(r10 - 8)"),
    ],
)
def test_ctrl_c_leaves_one_where_one_was_in_many_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, line: str, often: bool
) -> None:
    """Going back there is not what was to end, however often one asks."""
    path = tmp_path / "t"
    record_text(COUNTDOWN.format(turns=10), path, runs=400)
    with Debugger(path) as debugger:
        heard: list[str] = []
        shell = Shell(debugger, heard.append)
        for one in ("break made+3 if r6 == 77", where, "p 40 + 2"):
            shell.line(one)
        assert heard[-1].endswith("42")
        here, registers, history = debugger.position, debugger.frames(), debugger.history
        listens, asked = history.stop_if_interrupted, 0

        def interrupted() -> None:
            nonlocal asked
            asked += 1
            if asked == 10 or (asked > 10 and often):
                signal.raise_signal(signal.SIGINT)
            listens()

        monkeypatch.setattr(history, "stop_if_interrupted", interrupted)
        heard.clear()
        shell.line(line)
        monkeypatch.undo()
        assert asked > 9
        assert "interrupted" in heard[0].lower(), heard
        assert (debugger.position, debugger.frames()) == (here, registers)
        shell.line("stepi")
        assert debugger.position == history.after(here) or here == history.end
        shell.line("goto 7:2")
        assert debugger.position == (7, 2)


def test_where_history_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_path() == tmp_path / "pybpfvm" / "debug_history"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_path() == tmp_path / ".local" / "state" / "pybpfvm" / "debug_history"
