"""Commands as users type them: output, exit codes, and one clear line for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pybpfvm.cli import COMMANDS, main
from pybpfvm.session.engines import ENGINES
from pybpfvm.session.ring import Ring

ROOT = Path(__file__).parents[2]
PINGPONG = ROOT / "examples/03_pingpong/prog.v3.bpf.o"
AMBIGUOUS = ROOT / "examples/06_accept_recv/prog.v3.bpf.o"
SCENARIO = ROOT / "examples/03_pingpong/scenario.toml"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)


def test_every_engine_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "run", "--help")
    described = out.rpartition("--engine NAME")[2].partition("--budget-insns")[0]
    assert all(engine in described for engine in ENGINES)
    assert all(f'"{engine}"' in str(Ring.__doc__) for engine in ENGINES)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "usage: pybpfvm " + command in out


def test_no_command_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert (code, out[:6]) == (2, "usage:")


def test_info_names_abi_programs_maps(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", PINGPONG)
    assert code == 0
    assert "ABI iouring-v3:" in out
    assert "io_uring_emit_cqe#171" in out
    assert "players" in out


def test_info_json_has_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", "--json", PINGPONG)
    document = json.loads(out)
    assert code == 0
    assert document["schema"] == "pybpfvm.info/1"
    assert document["abi"] == "iouring-v3"
    assert [program["name"] for program in document["programs"]] == ["player"]


def test_helper_override_renames_a_call(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "disasm", PINGPONG, "--helper", "172=iouring_emit_cqe")
    assert "call 0xac <iouring_emit_cqe>" in out


def test_disasm_shows_source_and_is_assembled_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, listing, _ = run(capsys, "disasm", PINGPONG, "--style", "mnemonic")
    assert code == 0
    assert "prog.bpf.c:" in listing
    text = tmp_path / "player.s"
    text.write_text("\n".join(listing.splitlines()[1:]))
    _, again, _ = run(capsys, "asm", "--json", text)
    _, document, _ = run(capsys, "disasm", "--json", PINGPONG)
    code_bytes = "".join(i["bytes"] for i in json.loads(document)["programs"][0]["insns"])
    assert json.loads(again)["bytes"] == code_bytes


def test_run_scenario_prints_the_account(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "run", SCENARIO)
    assert code == 0
    assert "▶ player run 1 of request 1 (user_data &alice)" in out
    assert "map_lookup_elem(players, &fp-16) = &players+16" in out
    assert out.rstrip().endswith("all expectations met")


def test_same_seed_same_output(capsys: pytest.CaptureFixture[str]) -> None:
    first = run(capsys, "run", SCENARIO, "--seed", "5", "--all")
    assert first == run(capsys, "run", SCENARIO, "--seed", "5", "--all")


def test_run_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "run", "--json", SCENARIO)
    document = json.loads(out)
    assert code == 0
    assert document["schema"] == "pybpfvm.run/1"
    assert document["ok"] is True
    assert document["runs"] == {"player": 12}
    assert document["maps"]["players"][0]["value"]["hits"] == 6
    assert document["globals"] == {}


def test_run_json_has_globals_and_what_stopped_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    wait_for_n = ROOT / "examples/08_wait_for_n/scenario.toml"
    code, out, _ = run(capsys, "run", "--json", wait_for_n, "--budget-insns", "9")
    document = json.loads(out)
    assert code == 4
    assert document["stopped"]["where"].startswith("steps[")
    assert document["findings"] == []
    assert document["not_judged"] > 0
    assert document["insns"] == 9


def test_json_of_a_scenario_that_can_not_be_used_is_an_error_only(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    scenario = tmp_path / "wrong.toml"
    scenario.write_text("objekt = 1")
    code, out, err = run(capsys, "run", "--json", scenario)
    assert (code, out) == (2, "")
    assert "wrong.toml" in err


def test_failed_expectation_is_exit_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    scenario = tmp_path / "wrong.toml"
    text = SCENARIO.read_text().replace("hits = 6", "hits = 7")
    scenario.write_text(text.replace("prog.v3.bpf.o", str(PINGPONG)))
    code, out, _ = run(capsys, "run", "--quiet", scenario)
    assert code == 1
    assert "FAILED" in out
    assert "hits" in out


def test_a_scenario_runs_on_another_object(capsys: pytest.CaptureFixture[str]) -> None:
    cat = ROOT / "examples/12_cat"
    scenario, twin = cat / "scenario.toml", cat / "twin.v3.bpf.o"
    assert run(capsys, "run", "--quiet", scenario)[0] == 0
    code, out, _ = run(capsys, "run", "--quiet", scenario, "--object", twin)
    assert code == 1
    assert str(twin) in out
    assert "steps[1]" in out
    code, _, err = run(capsys, "run", twin, "--object", twin)
    assert code == 2
    assert "--object" in err


def test_a_rejection_leads_to_verify(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    obj = ROOT / "tests/acceptance/load_checks.v3.bpf.o"
    scenario = tmp_path / "refused.toml"
    scenario.write_text(f'object = "{obj}"\nabi = "iouring-v3"\nprograms = ["return_two"]\n')
    code, out, _ = run(capsys, "run", scenario)
    assert code == 1
    command = f"pybpfvm verify {obj} --abi iouring-v3 --prog return_two"
    assert out.rstrip().endswith(f"more: {command}")
    assert run(capsys, *command.split()[1:])[0] == 1


def test_a_scenario_of_another_name_is_told_what_scenarios_are_called(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    scenario = tmp_path / "scenario.txt"
    scenario.write_text('object = "prog.bpf.o"\n')
    code, out, err = run(capsys, "run", scenario)
    assert (code, out) == (2, "")
    assert "not an ELF object" in err
    assert "end in .toml" in err


def test_run_one_program_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # Without a ring its first copy from user address 0 fails, and it gives up.
    code, out, _ = run(capsys, "run", PINGPONG, "--prog", "player")
    assert code == 0
    assert "copy_from_user(&fp-16, 16, 0) = -EFAULT" in out
    assert "returned 0" in out
    assert out.splitlines()[1].startswith("     0.000 ms ")


@pytest.mark.parametrize("engine", ["interp", "auto"])
def test_a_ring_helper_without_a_ring_is_a_guest_fault(
    capsys: pytest.CaptureFixture[str], engine: str
) -> None:
    obj = ROOT / "examples/01_hello/prog.v3.bpf.o"
    code, out, err = run(capsys, "run", obj, "--abi", "v3", "--engine", engine)
    assert code == 4
    assert "call io_uring_emit_cqe#171" in err
    assert "map_lookup_elem(visits" in out  # what happened until then
    assert "hello+" in err
    assert "prog.bpf.c:" in err


BAD = [
    (("info", "/nonexistent.o"), 2, "/nonexistent.o"),
    (("info", __file__), 2, "ELF"),
    (("disasm", PINGPONG, "nobody"), 2, "no program is called 'nobody'"),
    (("info", PINGPONG, "--abi", "v9"), 2, "no ABI profile"),
    (("info", PINGPONG, "--helper", "x"), 2, "NUMBER=NAME"),
    (("info", AMBIGUOUS, "--helper", "171=x"), 2, "no helper is called 'x'"),
    (("disasm", AMBIGUOUS, "--helper", "171=x"), 2, "no helper is called 'x'"),
    (("port", "--to", "loop-7.1", PINGPONG, "-o", __file__), 2, "is no folder (name one"),
    (("asm", __file__), 2, "test_cli.py"),
    (("run", PINGPONG, "--ctx", "zz"), 2, "hexadecimal"),
    (("run", "/nonexistent.toml"), 2, "/nonexistent.toml"),
    (("run", SCENARIO, "--seed", "-1"), 2, "out of range"),
    (("run", SCENARIO, "--prog", "player"), 2, "--prog: the option belongs to a run of one"),
    (("run", SCENARIO, "--ctx", "00"), 2, "--ctx: the option belongs to a run of one program"),
    (("run", SCENARIO, "--data", "00"), 2, "--data: the option belongs to a run of one program"),
    (("run", SCENARIO, "--repeat", "1"), 2, "--repeat: the option belongs to a run of one"),
    (("run", SCENARIO, "--btf", "/nonexistent.btf"), 2, "/nonexistent.btf"),
    (("run", PINGPONG, "--backend", "sim"), 2, "--backend: the option belongs to a scenario"),
    (("run", PINGPONG, "--seed", "0"), 2, "--seed: the option belongs to a scenario"),
    (("run", PINGPONG, "--no-verify"), 2, "--no-verify: the option belongs to a scenario"),
    (("run", SCENARIO, "--abi", "v9"), 2, "error: --abi: no ABI profile"),
    (("run", SCENARIO, "--seed", str(1 << 64)), 2, "is out of range: 0 to 9223372036854775807"),
    (("port", "--to", "v9", PINGPONG), 2, "error: --to: no port leads to 'v9' (one of loop-7.1"),
    (("verify", PINGPONG, "--type", "v9"), 2, "(known: socket_filter, kprobe, "),
    (("demo", "nothing"), 2, "no example"),
    (("nosuch",), 2, "invalid choice"),
]


@pytest.mark.parametrize(("arguments", "code", "text"), BAD, ids=lambda v: str(v)[:40])
def test_bad_use_is_one_clear_error(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str | Path, ...], code: int, text: str
) -> None:
    got, _, err = run(capsys, *arguments)
    assert got == code
    assert text in err
    assert "Traceback" not in err
    assert "internal error" not in err


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m pybpfvm run --all {SCENARIO} | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "two requests play a ball" in done.stdout
    assert done.stderr == ""


def test_doctor_reports(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", "--json")
    found = {finding["what"]: finding for finding in json.loads(out)["findings"]}
    assert found["address space"]["works"] is True
    assert code in (0, 1)
    assert all(f["works"] or f["remedy"] for f in found.values())


def test_doctor_says_when_memory_may_not_be_executable() -> None:
    """Neither engine that makes machine code works then, installed or not; nor do they run."""
    refuse = (
        "import ctypes, sys; from pybpfvm.cli import main; "
        "print(ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)); sys.exit(main(sys.argv[1:]))"
    )  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    said = []
    for command in (["doctor", "--json"], ["run", str(SCENARIO), "--engine", "llvm"]):
        done = subprocess.run(
            [sys.executable, "-c", refuse, *command], cwd=ROOT, capture_output=True, text=True
        )
        worked, _, out = done.stdout.partition("\n")
        if worked != "0":
            pytest.skip("this kernel has no PR_SET_MDWE")
        said.append((out, done.stderr))
    found = {finding["what"]: finding for finding in json.loads(said[0][0])["findings"]}
    for what in ("jit", "llvm (engine llvm)"):
        assert found[what]["works"] is False
    assert "refuses executable memory" in found["jit"]["detail"]
    if find_spec("llvmlite") is not None:
        assert "allow executable memory" in found["llvm (engine llvm)"]["remedy"]
    assert "engine llvm can not run this" in said[1][1]


def test_demo_shows_the_beginning_and_how_to_see_all(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "demo", "--sim")
    assert code == 0
    assert len(out.splitlines()) < 50
    assert "more events" in out
    assert "The whole account: pybpfvm demo 03_pingpong --all" in out
    code, everything, _ = run(capsys, "demo", "--sim", "--all")
    assert code == 0
    assert "more events" not in everything
    assert everything.count("▶ player run") == 12


def test_demo_runs_on_the_simulated_ring(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "demo", "--sim", "--quiet")
    assert code == 0
    assert "all expectations met" in out
