"""`run --record` and `replay`, as they are typed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pybpfvm.cli import main
from pybpfvm.trace.records import Kind
from tests.report.test_schemas import check
from tests.trace.recordings import changed

ROOT = Path(__file__).parents[2]
SCENARIO = ROOT / "examples" / "03_pingpong" / "scenario.toml"
OBJECT = ROOT / "examples" / "03_pingpong" / "prog.v3.bpf.o"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def trace(tmp_path: Path, capsys: Capture) -> Path:
    path = tmp_path / "t.bpftrace"
    assert main(["run", str(SCENARIO), "--quiet", "--record", str(path)]) == 0
    assert f"\nrecording: {path}\n" in capsys.readouterr().out
    return path


@pytest.mark.parametrize("engine", ["auto", "interp", "jit"])
def test_a_replay_proves_that_all_is_the_same(engine: str, trace: Path, capsys: Capture) -> None:
    assert main(["replay", str(trace), "--engine", engine]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"{trace}: ")
    assert out[1] == "runs: player 12; 635 instructions; 14 CQEs on 1 ring"
    assert out[2].startswith("replayed: 12 runs, 635 instructions, ")
    assert out[2].endswith(" digests of memory, maps and rings: all the same")


def test_times_are_said_when_asked_for(trace: Path, capsys: Capture) -> None:
    main(["replay", str(trace), "--timings"])
    assert "recorded in " in capsys.readouterr().out


def test_a_divergence_ends_it_with_both_sides(trace: Path, tmp_path: Path, capsys: Capture) -> None:
    def change(record: list[Any]) -> None:
        record[1] += 2

    path = tmp_path / "changed"
    changed(trace, path, 5, Kind.END, change)
    assert main(["replay", str(path)]) == 1
    out = capsys.readouterr().out
    assert "DIVERGED at run 5, of player: how the run ends\n" in out
    assert "  in the recording: returns 0x" in out
    assert main(["replay", str(path), "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    check(found, "replay-1")
    assert found["divergence"]["run"] == 5
    assert found["replayed"]["runs"] == 5


def test_what_is_damaged_is_said_after_what_is_whole(trace: Path, capsys: Capture) -> None:
    data = trace.read_bytes()
    trace.write_bytes(data + b"torn")
    assert main(["replay", str(trace)]) == 2
    shown = capsys.readouterr()
    assert "replayed: 12 runs" in shown.out
    assert f"{trace}: at byte {len(data)}: the file is cut off" in shown.err
    trace.write_bytes(data[:-30])
    assert main(["replay", str(trace), "--format", "json"]) == 2
    assert "cut off" in json.loads(capsys.readouterr().out)["damage"]


def test_the_document_of_a_replay(trace: Path, capsys: Capture) -> None:
    assert main(["replay", str(trace), "--format", "json", "--timings"]) == 0
    found = json.loads(capsys.readouterr().out)
    check(found, "replay-1")
    assert found["recorded"] == found["replayed"]
    assert found["bytes"] == trace.stat().st_size
    assert found["replayed_ns"] > 0 < found["recorded_ns"]


def test_no_file_and_no_recording(capsys: Capture) -> None:
    assert main(["replay", "/nonexistent"]) == 2
    assert main(["replay", str(OBJECT)]) == 2
    error = capsys.readouterr().err
    assert "No such file" in error
    assert "this is no recording of pybpfvm (make one with: pybpfvm run FILE --record" in error
    assert main(["run", str(SCENARIO), "--record", "/nonexistent/t"]) == 2
    assert "the recording can not be written" in capsys.readouterr().err


def test_a_failed_expectation_names_the_recording(tmp_path: Path, capsys: Capture) -> None:
    text = SCENARIO.read_text(encoding="utf-8").replace('"prog', f'"{SCENARIO.parent}/prog')
    scenario, path = tmp_path / "s.toml", tmp_path / "a b"
    runs = "[expect.runs]\nplayer = 13\n" if "[expect.runs]" not in text else ""
    text = text.replace("player = 12", "player = 13") + runs
    scenario.write_text(text, encoding="utf-8")
    assert main(["run", str(scenario), "--quiet", "--record", str(path)]) == 1
    out = capsys.readouterr().out
    assert out.endswith(f"recording: {path}\nopen it: pybpfvm debug '{path}'\n")
    assert main(["replay", str(path)]) == 0


def test_a_hang_names_the_recording(tmp_path: Path, capsys: Capture) -> None:
    """Nobody serves the ball."""
    text = SCENARIO.read_text(encoding="utf-8").replace('"prog', f'"{SCENARIO.parent}/prog')
    served = '    { op = "nop", cq = 1 },\n'
    assert served in text
    scenario, path = tmp_path / "s.toml", tmp_path / "t"
    text = text.replace(served, "").replace("consumed = 3", "consumed = 2")
    scenario.write_text(text.replace('timeout = "5 s"', ""), encoding="utf-8")
    assert main(["run", str(scenario), "--quiet", "--record", str(path)]) == 1
    out = capsys.readouterr().out
    assert "STOPPED in steps[1]: hang: " in out
    assert out.endswith(f"recording: {path}\nopen it: pybpfvm debug {path}\n")
    assert main(["replay", str(path)]) == 0


def test_an_internal_error_names_the_recording(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verified program that faults is our bug, and so is what no error class covers."""
    from pybpfvm.errors import InternalError
    from pybpfvm.scenario.live import Live

    path = tmp_path / "t"
    command = ["run", str(SCENARIO), "--quiet", "--record", str(path)]
    for error in (InternalError("of a test"), RuntimeError("of a test")):

        def fail(live: Live, raised: Exception = error) -> None:
            raise raised

        monkeypatch.setattr(Live, "dump", fail)
        assert main(command) == 70
        shown = capsys.readouterr().err
        assert "of a test" in shown
        assert f"recording: {path}, open it: pybpfvm debug {path}" in shown
    monkeypatch.undo()
    assert main(["replay", str(path)]) == 0  # it was closed, whole


def test_ctrl_c_names_the_recording(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pybpfvm.scenario.live import Live

    path = tmp_path / "t"
    monkeypatch.setattr(Live, "dump", lambda _: signal.raise_signal(signal.SIGINT))
    assert main(["run", str(SCENARIO), "--quiet", "--record", str(path)]) == 130
    error = capsys.readouterr().err
    assert error == f"interrupted\n  recording: {path}, open it: pybpfvm debug {path}\n"
    monkeypatch.undo()
    assert main(["debug", str(path), "--command", "p 40 + 2"]) == 0
    assert " instructions\ninterrupted\n" in capsys.readouterr().out


def test_a_trap_names_the_recording(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "t"
    options = ["--prog", "player", "--abi", "iouring-v3", "--budget-insns", "3"]
    assert main(["run", str(OBJECT), *options, "--record", str(path)]) == 4
    error = capsys.readouterr().err
    assert error.endswith(f"  recording: {path}, open it: pybpfvm debug {path}\n")
    assert main(["replay", str(path)]) == 0
    assert "the last run, of player, was stopped: instruction budget" in capsys.readouterr().out


def test_one_program_once_is_recorded(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "t"
    run = ["run", str(OBJECT), "--prog", "player", "--abi", "iouring-v3", "--repeat", "5"]
    assert main([*run, "--record", str(path)]) == 0
    assert f"recording: {path}\n" in capsys.readouterr().out
    assert main([*run, "--record", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recording"] == str(path)
    assert main(["replay", str(path)]) == 0
    assert "runs: player 5; " in capsys.readouterr().out


def test_what_there_is_one_of_is_told_so(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "t"
    run = ["run", str(OBJECT), "--prog", "player", "--abi", "iouring-v3", "--record", str(path)]
    assert main(run) == 0
    capsys.readouterr()
    assert main(["replay", str(path)]) == 0
    assert "replayed: 1 run, " in capsys.readouterr().out
    assert main(["debug", str(path), "--command", "goto 3:0"]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{path}: 1 run, ")
    assert "there is 1 run, numbered from 0" in out


def test_what_the_real_ring_did_is_replayed_without_any(tmp_path: Path) -> None:
    """Where io_uring_setup and all that needs it are forbidden, in a process of its own."""
    from tests.support.session_ring import need_backend

    need_backend("kernel")
    path = tmp_path / "t"
    scenario = ROOT / "examples" / "05_read_open" / "scenario.toml"
    assert (
        main(["run", str(scenario), "--quiet", "--backend", "kernel", "--record", str(path)]) == 0
    )
    code = f"""
import sys
from pybpfvm.cli import main
code = main(["replay", {str(path)!r}])
kernel = [name for name in sys.modules if name.startswith("pybpfvm.uring_backend.kernel")]
assert not [name for name in kernel if name.rpartition(".")[2] in ("backend", "sysring", "libring")]
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0
