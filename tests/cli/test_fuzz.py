"""`pybpfvm fuzz` from the command line: reports, exit codes, what repeats a finding."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.session.engines import jit_refusal
from pybpfvm.verifier import checks

ROOT = Path(__file__).parents[2]
HELLO = str(ROOT / "examples/01_hello/prog.v3.bpf.o")


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(["fuzz", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def needs_jit() -> None:
    if jit_refusal() is not None:
        pytest.skip(str(jit_refusal()))


@pytest.mark.parametrize(
    "arguments",
    [("verifier",), ("engine",), ("loader",), ("loader", HELLO), ("ring", "--backend", "sim"),
     ("engine", HELLO, "--abi", "iouring-v3")],
    ids=lambda arguments: "-".join(arguments[:1]),
)  # fmt: skip
def test_a_campaign_reports(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    needs_jit()
    code, out, _ = run(capsys, *arguments, "--count", "20", "--out", tmp_path / "out")
    assert code == 0, out
    assert "nothing was found" in out
    assert "executions, " in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("engine", HELLO, "--family", "noise"), 2, "OBJ and --family"),
        (("engine", HELLO, "--abi", "iouring-v3", "--prog", "x"), 2, "no program is called 'x'"),
        (("engine", "missing.o"), 2, "missing.o"),
        (("verifier", "--type", "nothing"), 2, "no programs of type 'nothing'"),
        (("verifier", "--feature", "nothing"), 2, "no program of style"),
        (("verifier", "--repeat", "missing"), 2, "missing: can not be read"),
        (("cmin", "missing-folder/", "-o", "x"), 2, "no inputs"),
        (("tmin", HELLO + ".missing"), 2, "can not be read"),
    ],
)
def test_mistakes_are_said_in_a_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    needs_jit()
    monkeypatch.chdir(tmp_path)
    got, out, err = run(capsys, *arguments)
    assert (got, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("given", ["/proc/findings", "file", "file/in", "nowhere", "", "x" * 300])
def test_where_findings_go_is_tried_before_the_campaign(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    place = given or "pybpfvm-findings"  # the default
    for one in {"file", place} - {"/proc/findings", "file/in", "nowhere", "x" * 300}:
        Path(one).write_text("")
    Path("nowhere").symlink_to("missing")
    before = sorted(tmp_path.iterdir())
    out_option = ("--out", given) if given else ()
    code, out, err = run(capsys, "verifier", "--count", "1", "--journal", "j", *out_option)
    assert (code, out) == (2, "")
    assert f"--out {place}: findings can not be saved there: " in err
    assert err.endswith(" (--out DIR, a folder that can be written)\n")
    assert sorted(tmp_path.iterdir()) == before


def test_a_finding_is_repeated_by_its_command_and_made_smaller(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_folder = tmp_path / "out"
    arguments = ("verifier", "--style", "near", "--count", "400", "--seed", "300")
    with monkeypatch.context() as planted:
        planted.setattr(checks, "check_map_value", lambda *_, **__: None)
        code, out, _ = run(capsys, *arguments, "--out", out_folder)
        assert code == 1
        line = next(one for one in out.splitlines() if "repeat: " in one)
        words = shlex.split(line.partition("repeat: ")[2])
        assert words[:3] == ["pybpfvm", "fuzz", "verifier"]
        code, said, _ = run(capsys, *words[2:])
        assert code == 1
        assert "traps" in said or "impossible" in said
        saved = Path(words[-1])
        assert saved.stat().st_size <= saved.with_name("input.first").stat().st_size
        code, said, _ = run(
            capsys, "tmin", saved.with_name("input.first"), "-o", tmp_path / "small"
        )
        assert code == 0
        assert "with the same: " in said
        assert (tmp_path / "small").stat().st_size < saved.with_name("input.first").stat().st_size
    code, said, _ = run(capsys, *words[2:])  # without the bug
    assert code == 0
    assert "nothing is wrong with it" in said
    listing = saved.with_name("program.s")
    assembled = tmp_path / "program.bin"
    assert main(["asm", str(listing), "-o", str(assembled)]) == 0
    capsys.readouterr()
    assert assembled.read_bytes() == saved.with_name("program.bin").read_bytes()


def test_a_corpus_is_kept_and_made_smaller(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    corpus, less = tmp_path / "corpus", tmp_path / "less"
    run(capsys, "verifier", "--count", "60", "--corpus", corpus)
    before = len(list(corpus.iterdir()))
    code, out, _ = run(capsys, "cmin", corpus, "-o", less)
    after = len(list(less.iterdir()))
    assert code == 0
    assert 0 < after <= before
    assert f"{after} of {before} inputs" in out


def test_ctrl_c_ends_with_a_report(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pybpfvm", "fuzz", "verifier", "--out", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    time.sleep(4)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: this is what there was by then" in out
    assert "nothing was found" in out


def test_processes_and_a_journal_come_to_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("loader", "--seed", "5", "--out", tmp_path / "out")
    journal = ("--journal", tmp_path / "journal")
    _, alone, _ = run(capsys, *words, "--count", "300")
    code, out, err = run(capsys, *words, "--count", "120", "-j", "2", *journal)
    assert (code, err) == (0, "")
    assert "  2 processes, which worked for " in out
    code, out, _ = run(capsys, *words, "--count", "300", *journal)
    assert code == 0
    assert _untimed(out) == _untimed(alone)
    code, _, err = run(capsys, "verifier", "--count", "300", *journal)
    assert code == 2
    assert "it is of a campaign with other " in err


def _untimed(out: str) -> list[str]:
    """A report without its times and what depends on them."""
    head, *rest = out.splitlines()
    return [
        head.rpartition(",")[0],
        *(re.sub(r", [\d,.]+ [a-zA-Z ]*second", "", one) for one in rest),
    ]


def test_a_program_that_is_rejected_is_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    needs_jit()
    twin = ROOT / "examples/13_lines/twin.v3.bpf.o"
    code, out, err = run(capsys, "engine", twin, "--abi", "iouring-v3")
    assert (code, out) == (1, "")
    assert "the verifier does not accept the program" in err


def test_ctrl_c_leaves_a_journal_that_goes_on(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    words = ["fuzz", "verifier", "--out", str(tmp_path / "out"), "--journal", str(journal)]
    command = [sys.executable, "-m", "pybpfvm", *words]
    process = subprocess.Popen(
        [*command, "--jobs", "2"], cwd=ROOT, stdout=subprocess.PIPE, text=True, process_group=0
    )
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if journal.exists() and journal.read_bytes().count(b"\n") > 3:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: this is what there was by then" in out
    done = journal.read_bytes()
    assert main([*words, "--count", "80"]) == 0
    assert journal.read_bytes().startswith(done)
