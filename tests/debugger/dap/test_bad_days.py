"""Clients that send nonsense, leave in the middle or come twice; recordings that are damaged; a
million hits: everything ends cleanly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pybpfvm.debugger.dap.wire import encoded
from tests.debugger.dap.client import ROOT, Client, Failed, connected, inside, spawned
from tests.debugger.recorded import LONGRUN_C, line_of, record_longrun, record_pingpong

_TURN = line_of(LONGRUN_C, "own += turn")
_MILLION = 1_000_000


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_pingpong(tmp_path_factory.mktemp("dap") / "t.bpftrace")


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A million turns of a loop."""
    return record_longrun(tmp_path_factory.mktemp("dap") / "long.bpftrace", _MILLION)


@contextmanager
def _listening(*options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pybpfvm", "dap", "--listen", "0", *options],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert line.startswith("listening on 127.0.0.1:")
        yield process, int(line.rpartition(":")[2])
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _set_turns(client: Client, **more: object) -> None:
    (found,) = client.ask(
        "setBreakpoints", source={"path": str(LONGRUN_C)}, breakpoints=[{"line": _TURN, **more}]
    )["breakpoints"]
    assert found["verified"], found


def test_what_is_no_message_is_told_and_the_next_one_answered(recording: Path) -> None:
    with inside() as client:
        client.raw(b"Content-Length: 1\r\n\r\n{")
        client.raw(encoded({"seq": 1, "type": "event", "event": "x"}))
        client.raw(encoded({"seq": "1", "type": "request", "command": "threads"}))
        client.raw(encoded({"seq": 1, "type": "request", "command": ["threads"]}))
        client.raw(encoded({"seq": 1, "type": "response", "command": "runInTerminal"}))
        client.initialize()
        said = client.output["important"].splitlines()
        assert len(said) == 4
        assert all(line.startswith("what came is no request: ") for line in said)
        assert client.start(recording=str(recording))["reason"] == "entry"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"Content-Length: 99999999999999999999\r\n\r\n",
        b"Content-Length: 4000000000\r\n\r\n",
        b"X" * 100_000,
    ],
)
def test_a_stream_that_is_lost_is_told_and_ended(data: bytes) -> None:
    with inside() as client:
        client.raw(data)
        client.wait_for_output("important", "what came is no request")


def test_the_server_lives_on_after_such_a_client(recording: Path) -> None:
    with _listening() as (process, port):
        with connected(port) as client:
            client.raw(b"GET / HTTP/1.1\r\n\r\n")
            assert client.gone()
        with connected(port) as client:
            assert client.start(recording=str(recording))["reason"] == "entry"
            with connected(port) as other, pytest.raises(Failed, match="another client is served"):
                other.initialize()
            client.ask("disconnect")
            assert client.gone()
        with connected(port) as client:
            client.initialize()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("threads", "threads before initialize"),
        ("launch", "launch before initialize"),
        ("continue", "continue before initialize"),
    ],
)
def test_requests_have_an_order(command: str, reason: str) -> None:
    with inside() as client:
        with pytest.raises(Failed, match=reason):
            client.ask(command)
        client.initialize()
        with pytest.raises(Failed, match="before anything was launched"):
            client.ask("threads")


def test_arguments_that_are_none_are_named(recording: Path) -> None:
    with inside() as client:
        client.start(recording=str(recording))
        for command, reason in (
            ("setBreakpoints", "arguments.source is missing"),
            ("variables", "arguments.variablesReference is missing"),
            ("stackTrace", "arguments.threadId is missing"),
        ):
            with pytest.raises(Failed, match=reason):
                client.ask(command)
        with pytest.raises(Failed, match="a list is wanted, not 5"):
            client.ask("setBreakpoints", source={"path": "x"}, breakpoints=5)
        with pytest.raises(Failed, match="no frame 1000000"):
            client.ask("scopes", frameId=1000000)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, 'one of "recording" and "program" is needed'),
        ({"recording": "a", "program": "b"}, 'one of "recording" and "program" is needed'),
        ({"recording": "/nowhere"}, "/nowhere: No such file"),
        ({"recording": str(LONGRUN_C)}, "longrun.bpf.c: "),
        ({"recording": "x", "stopAt": "middle"}, "one of auto, start, end, not 'middle'"),
        ({"program": "x", "args": ["--record=y"]}, "--record=y is for the debugger to say"),
        ({"program": "x", "cwd": "/nowhere"}, "/nowhere: No such file"),
    ],
)
def test_what_can_not_be_launched_is_refused_and_something_else_may_be(
    arguments: dict[str, object], reason: str, recording: Path
) -> None:
    with inside() as client:
        client.initialize()
        with pytest.raises(Failed, match=reason):
            client.ask("launch", **arguments)
        assert client.start(recording=str(recording))["reason"] == "entry"


def test_a_program_that_is_not_recorded_says_why() -> None:
    with inside() as client:
        client.initialize()
        with pytest.raises(
            Failed, match="nothing was recorded: pybpfvm run ended with exit code 2"
        ):
            client.ask("launch", program="/nowhere.toml")
        assert "/nowhere.toml" in client.output["stderr"]


def _cut(recording: Path, folder: Path, share: float) -> Path:
    data = recording.read_bytes()
    cut = folder / "cut.bpftrace"
    cut.write_bytes(data[: int(len(data) * share)])
    return cut


def test_a_recording_of_which_nothing_is_whole_is_refused(recording: Path, tmp_path: Path) -> None:
    cut = _cut(recording, tmp_path, 0.3)
    with inside() as client, pytest.raises(Failed, match=r"at byte \d+: .* cut off"):
        client.launch(recording=str(cut))


def test_of_a_damaged_recording_what_is_whole_is_shown(recording: Path, tmp_path: Path) -> None:
    cut = _cut(recording, tmp_path, 0.9)
    with inside() as client:
        client.initialize()
        client.launch(recording=str(cut))
        client.ask("configurationDone")
        client.event("stopped")
        assert str(cut) in client.output["important"]
        client.move("continue")
        client.move("reverseContinue")


def test_a_pause_ends_a_move(long: Path) -> None:
    with inside() as client:
        client.start(recording=str(long), stopAt="start")
        _set_turns(client, condition="turn > 5000000")
        client.ask("continue", threadId=1)
        time.sleep(0.3)
        started = time.monotonic()
        client.ask("pause", threadId=1)
        stop = client.event("stopped")
        assert stop["reason"] == "pause"
        assert time.monotonic() - started < 10
        assert client.frames(1)


def test_what_comes_while_the_program_runs_is_answered_at_once(long: Path) -> None:
    """A second move is refused, the threads are told, and a pause is answered before the stop."""
    with inside() as client:
        client.start(recording=str(long), stopAt="start")
        _set_turns(client, condition="turn > 5000000")
        client.ask("continue", threadId=1)
        for command in ("continue", "next", "stepBack", "reverseContinue"):
            with pytest.raises(Failed, match="notStopped"):
                client.ask(command, threadId=1)
        with pytest.raises(Failed, match="notStopped"):
            client.ask("goto", threadId=1, targetId=1)
        assert client.ask("threads")["threads"]
        assert not [one for one in client.events if one["event"] == "stopped"]
        client.ask("pause", threadId=1)
        assert not [one for one in client.events if one["event"] == "stopped"]
        assert client.event("stopped")["reason"] == "pause"
        assert client.move("stepIn")["reason"] == "step"


def test_a_pause_ends_what_the_console_does(long: Path) -> None:
    with inside() as client:
        client.start(recording=str(long), stopAt="start")
        _set_turns(client, condition="turn > 5000000")
        asked = client.send("evaluate", {"expression": "continue", "context": "repl"})
        time.sleep(0.3)
        client.ask("pause", threadId=1)
        assert "Interrupted" in client.answer(asked)["result"]
        assert client.move("stepIn")["reason"] == "step"


def test_a_pause_of_what_stands_still_changes_nothing(recording: Path) -> None:
    with inside() as client:
        client.start(recording=str(recording), stopAt="start")
        client.ask("pause", threadId=1)
        assert client.move("next")["reason"] == "step"
        with pytest.raises(Failed, match="threadId"):
            client.ask("next")
        assert client.move("next")["reason"] == "step"


def test_a_client_that_is_killed_leaves_nothing_behind(long: Path) -> None:
    with spawned() as client:
        client.start(recording=str(long), stopAt="start")
        _set_turns(client, condition="turn > 5000000")
        client.ask("continue", threadId=1)
        time.sleep(0.3)
        # The streams are closed with the move going on: the adapter has to end by itself.


def test_a_client_that_says_goodbye_in_the_middle_is_let_go(long: Path) -> None:
    with inside() as client:
        client.start(recording=str(long), stopAt="start")
        _set_turns(client, condition="turn > 5000000")
        client.ask("continue", threadId=1)
        client.ask("disconnect")


def test_a_million_hits(long: Path) -> None:
    with inside() as client:
        client.start(recording=str(long), stopAt="start")
        _set_turns(client, hitCondition=f"== {_MILLION}")
        client.timeout_s = 200
        client.ask("continue", threadId=1)
        client.ask("threads")  # waits
        stop = client.event("stopped")
        assert stop["reason"] == "breakpoint"
        assert client.ask("evaluate", expression="turn", frameId=client.frames(1)[0]["id"])[
            "result"
        ] == str(_MILLION - 1)
        assert client.move("continue")["reason"] == "end"


def test_many_log_lines_come_in_few_messages(tmp_path: Path) -> None:
    path = record_longrun(tmp_path / "t.bpftrace", 5000)
    with inside() as client:
        client.start(recording=str(path), stopAt="start")
        _set_turns(client, logMessage="turn {turn}")
        assert client.move("continue")["reason"] == "end"
        assert client.output["console"].splitlines() == [f"turn {n}" for n in range(5000)]
