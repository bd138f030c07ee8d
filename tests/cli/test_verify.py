"""`pybpfvm verify` as users type it: exit codes, options, several objects, several processes, bad
input, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pybpfvm.cli import main
from pybpfvm.report.formats import FORMATS
from pybpfvm.verifier.kernels import KERNELS, NOTES
from tests.support.elf_writer import EXEC, Sec, Sym, write_elf

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*/prog*.bpf.o"))
ORDINARY = ROOT / "tests/ordinary"
MISTAKES = ORDINARY / "mistakes.bpf.o"
GOOD = ORDINARY / "filter.bpf.o"
EXTERNS = ROOT / "tests/loader/data/externs.o"
KSYMS = ROOT / "tests/loader/data/ksyms.o"
SOME_BTF = ROOT / "pybpfvm/report/rules/kernel.btf"  # of no running kernel
OURS = ("text", "json", "sarif", "github", "md")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = main(["verify", *(str(argument) for argument in arguments)])
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


# Verdicts and exit codes.


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_example_is_accepted(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    # What needs a contract is refused without: its page says to give it.
    contract = path.with_name("contract.toml")
    options = ("--contract", contract) if path.parent.name.startswith("x_") else ()
    code, out, err = run(capsys, path, *options)
    assert (code, err) == (0, ""), out
    assert ": accepted\n" in out


def test_a_finding_in_a_header_names_a_line_of_the_program(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, out, _ = run(capsys, ROOT / "examples/14_broadcast/twin.v3.bpf.o", "--abi", "iouring-v3")
    at = out[out.index("At:") :]
    assert re.match(
        r"At:\n  \S+/iouring_bpf\.h:\d+:\d+\n.*\n.*\n"
        r"  in a function that is called near \S+/14_broadcast/prog\.bpf\.c:(\d+):\d+\n +\1 \| ",
        at,
    )


CODES = [
    ((GOOD,), 0),
    ((MISTAKES, "--prog", "fine"), 0),
    ((MISTAKES, "--prog", "no_bound"), 1),
    ((MISTAKES, "--prog", "other"), 3),
    ((MISTAKES,), 1),  # a refusal matters more than a doubt
    ((KSYMS, "--prog", "present", "--prog", "without_type", "--btf", SOME_BTF), 3),
    ((KSYMS, "--kconfig", "/nonexistent"), 2),
    ((GOOD, "/nonexistent.o"), 2),
    ((MISTAKES, "/nonexistent.o"), 2),
    ((GOOD, "--budget-insns", "9"), 3),
    ((GOOD, "--budget-seconds", "59.5"), 0),
]


@pytest.mark.parametrize(("arguments", "code"), CODES, ids=lambda v: str(v)[-40:])
@pytest.mark.parametrize("jobs", [1, 2])
def test_exit_codes(
    capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], code: int, jobs: int
) -> None:
    assert run(capsys, *arguments, "-j", jobs)[0] == code


LOOP = ROOT / "examples/loop_nops/prog.bpf.o"
SIZES = ("--set", "sq_entries=8", "--set", "cq_entries=16")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_program_is_held_against_the_ring_that_doctor_describes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, jobs: int
) -> None:
    rules = {}
    for setup in ("cq_entries=16", "cq_entries=64", "flags=single_issuer"):
        assert main(["doctor", "--ring", f"entries=8,{setup}"]) == 0
        ring = tmp_path / "ring.json"
        ring.write_text(capsys.readouterr().out)
        code, out, err = run(capsys, LOOP, *SIZES, "--ring", ring, "--format", "json", "-j", jobs)
        assert (code, err) == (0, "")
        (program,) = json.loads(out)["programs"]
        rules[setup] = {warning["rule"] for warning in program["warnings"]}
    assert rules == {
        "cq_entries=16": set(),
        "cq_entries=64": {"cq-mask"},
        "flags=single_issuer": {"ring-setup"},
    }


def test_a_ring_that_can_not_be_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for content in (b"{}", b"\xff"):
        (tmp_path / "ring.json").write_bytes(content)
        code, out, err = run(capsys, LOOP, "--ring", tmp_path / "ring.json")
        assert (code, out) == (2, "")
        assert "ring.json" in err
    assert main(["doctor", "--ring", "entries=none"]) == 2
    assert "entries is not a number" in capsys.readouterr().err


def test_the_other_objects_are_judged_when_one_can_not_be_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "/nonexistent.o", GOOD, __file__)
    assert code == 2
    assert "/nonexistent.o: can not be read: No such file or directory" in out
    assert "not an ELF object" in out
    assert "filter (socket): accepted" in out
    assert "1 accepted, 2 objects could not be judged" in out


def test_a_program_that_the_loader_leaves_out_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, KSYMS, "--prog", "without_type", "--btf", SOME_BTF)
    assert code == 3
    assert "unsupported: it uses extern variable untyped without a type" in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("loop_licence", "callbacks (struct_ops) of an object without BTF"),
        ("loop_rows", "without BTF nothing says what that is (compile with -g)"),
    ],
)
def test_a_loop_that_was_compiled_without_debug_information(
    capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    path = ROOT / f"tests/acceptance/{name}.nodebug.bpf.o"
    code, out, err = run(capsys, path)
    assert (code, err) == (3, "")
    told = " ".join(out.split())
    assert words in told
    assert "-g" in told
    assert main(["run", str(path), "--abi", "loop-7.2"]) == 2
    assert "compile it with -g" in capsys.readouterr().err


def test_a_configuration_decides_what_is_reached(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "config"
    for line, code in (("", 0), ("CONFIG_NOT_THERE_AT_ALL=0", 0), ("CONFIG_NOT_THERE_AT_ALL=7", 1)):
        config.write_text(f"CONFIG_BPF_SYSCALL=y\n{line}\n")
        found, out, _ = run(capsys, KSYMS, "--prog", "folded", "--kconfig", config)
        assert found == code, out
    config.write_text("")
    code, out, _ = run(capsys, KSYMS, "--prog", "folded", "--kconfig", config)
    assert code == 3
    assert f"kconfig CONFIG_BPF_SYSCALL, which {config} does not set" in " ".join(out.split())


# Options.


def test_constants_are_set_before_judging(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (MISTAKES, "--prog", "depends")
    assert run(capsys, *arguments)[0] == 1
    assert run(capsys, *arguments, "--set", "limit=7")[0] == 0
    assert run(capsys, *arguments, "--set", "limit=0x8")[0] == 1
    assert run(capsys, *arguments, "--set", "limit=hex:07000000")[0] == 0


def test_type_overrides_the_section(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, MISTAKES, "--prog", "other", "--type", "raw_tracepoint")
    assert code == 0
    assert "raw_tracepoint of Linux 6.18" in out


def test_only_the_first_error(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (MISTAKES, "--prog", "two_errors", "--format", "json")
    every = json.loads(run(capsys, *arguments)[1])["programs"][0]["errors"]
    first = json.loads(run(capsys, *arguments, "--no-all-errors")[1])["programs"][0]["errors"]
    assert len(every) == 2
    assert first == every[:1]


def test_timings_are_shown_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert not re.search(r"\d s\b", run(capsys, GOOD)[1])
    assert re.search(r"\d\.\d{3} s\b", run(capsys, GOOD, "--timings")[1])
    program = json.loads(run(capsys, GOOD, "--timings", "--format", "json")[1])["programs"][0]
    assert program["seconds"] > 0


def test_help_says_what_a_kernel_changes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert set(NOTES) == set(KERNELS)
    for name, note in NOTES.items():
        assert re.search(rf"^  {re.escape(name)} +{re.escape(note)}$", out, re.MULTILINE)


def test_output_goes_to_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "report.txt"
    file.write_text("x" * 100_000)
    code, out, _ = run(capsys, GOOD, "-o", file)
    assert (code, out) == (0, "")
    assert file.read_text() == run(capsys, GOOD)[1]


def test_an_ambiguous_abi_is_judged_by_all_candidates(capsys: pytest.CaptureFixture[str]) -> None:
    hello = ROOT / "examples/01_hello/prog.v3.bpf.o"
    assert "judged as iouring-v3base and iouring-v3" in run(capsys, hello)[1]
    assert "ambiguous" not in run(capsys, hello, "--abi", "v3")[1]


# Several objects, several processes.


@pytest.mark.parametrize("name", OURS)
def test_processes_change_nothing(capsys: pytest.CaptureFixture[str], name: str) -> None:
    paths = [*EXAMPLES[:4], MISTAKES, "/nonexistent.o", ORDINARY / "parse.bpf.o", EXTERNS, MISTAKES]
    alone = run(capsys, *paths, "--format", name)
    assert run(capsys, *paths, "--format", name, "-j", "3") == alone
    assert alone[0] == 2


# Bad input.


def elf(tmp_path: Path, name: str, sections: list[Sec], symbols: list[Sym]) -> Path:
    path = tmp_path / name
    path.write_bytes(write_elf(sections, symbols))
    return path


BAD = [
    (("--abi", "v3", "--type", "xdp", GOOD), "--abi and --type"),
    (("--type", "nonsense", GOOD), "no program type is 'nonsense'"),
    (("--type", "tracing", GOOD), "only its section says it"),
    (("--type", "fexit", GOOD), "a section such as fentry/NAME"),
    (("--type", "lsm", GOOD), "a section such as lsm/NAME"),
    (("--type", "struct_ops", GOOD), "a section such as struct_ops/NAME"),
    (("--type", "lirc_mode2", GOOD), "BPF_PROG_TYPE_LIRC_MODE2 are not supported"),
    (("--abi", "nonsense", GOOD), "no ABI profile is called 'nonsense'"),
    (("--abi", "loop-7.3", GOOD), "did you mean 'loop-7.2' or 'loop-7.1' or 'loop-7.1.0'?"),
    (("--set", "limit", MISTAKES), "'limit' is not NAME=VALUE"),
    (("--set", "limit=x", MISTAKES), "'x' is not a value"),
    (("--set", "limit=5000000000", MISTAKES), "does not fit"),
    (("--set", "limit=hex:0102030405", MISTAKES), "the variable has 4 bytes, not 5"),
    (("--set", "limit=hex:0102", MISTAKES), "the variable has 4 bytes, not 2"),
    (("--set", "other=1", MISTAKES), "its constants: limit"),
    (("--set", "other=1", GOOD), "no constant of this name"),
    (("--prog", "nobody", GOOD), "no program is called 'nobody'"),
    (("--btf", "/nonexistent", GOOD), "/nonexistent: can not be read"),
    (("--contract", "/nonexistent", GOOD), "/nonexistent: can not be read"),
    (("--contract", __file__, GOOD), "test_verify.py"),
    (("--kernel", "4.4", GOOD), "invalid choice: '4.4'"),
    (("--format", "yaml", GOOD), "invalid choice: 'yaml'"),
    (("-j", "-1", GOOD), "out of range"),
    (("-j", "x", GOOD), "not a number"),
    (("--budget-insns", "0", GOOD), "out of range"),
    (("--budget-seconds", "0", GOOD), "out of range"),
    (("--budget-seconds", "nan", GOOD), "out of range"),
    (("--budget-seconds", "soon", GOOD), "not a number"),
    (("-o", "/nonexistent/file", GOOD), "there is no folder"),
    (("-o", "/", GOOD), "is a directory"),
    (("-o", "", GOOD), "the name of a file is empty"),
    (("-o", GOOD, GOOD), "is one of the objects"),
    ((), "required: OBJ"),
    (("",), "the name of a file is empty"),
    ((ROOT,), "Is a directory"),
    (("/dev/null",), "not an ELF object"),
    (("/dev/zero",), "more than"),
    (("a\x00b",), "can not be read"),
]


@pytest.mark.parametrize(("arguments", "text"), BAD, ids=lambda v: ascii(v)[:50])
def test_bad_use_is_one_clear_error(
    capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], text: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert text in out + err
    assert "Traceback" not in out + err
    assert "internal error" not in err


def test_an_object_is_left_alone_by_an_option_that_would_overwrite_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.o"
    mine.write_bytes(GOOD.read_bytes())
    link = tmp_path / "link.o"
    link.symlink_to(mine)
    assert run(capsys, mine, "-o", link)[0] == 2
    assert mine.read_bytes() == GOOD.read_bytes()


def test_an_object_without_programs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, elf(tmp_path, "empty.o", [Sec("license", b"GPL\0")], []))
    assert code == 2
    assert "the object has no programs" in out


def test_names_with_control_characters_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    exit_zero = bytes.fromhex("b700000000000000 9500000000000000")
    section = Sec("xdp", exit_zero, 2 | EXEC)
    path = elf(tmp_path, "evil.o", [section], [Sym("a\x1b]0;x\x07\nb", "xdp", 0, 16)])
    _, out, _ = run(capsys, path)
    assert "\x1b" not in out
    assert "\\x1b]0;x\\x07\\x0ab" in out or "can not be judged" in out


@pytest.mark.parametrize("name", sorted(set(FORMATS) - set(OURS)))
def test_every_format_writes_or_says_that_it_can_not(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    code, out, err = run(capsys, GOOD, MISTAKES, "--format", name)
    assert (code == 1 and out) or (code == 2 and "this version can not write" in err)


# Pipes and terminals.


def test_a_closed_pipe_is_no_error() -> None:
    objects = " ".join(str(path) for path in [MISTAKES] * 40)
    command = f"{sys.executable} -m pybpfvm verify {objects} | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("rejected\n")
    assert done.stderr == ""


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "pybpfvm", "verify", str(GOOD)]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_colour_is_for_terminals_that_nobody_silenced() -> None:
    assert "\x1b[" in _on_terminal({})
    assert "\x1b[" not in _on_terminal({"NO_COLOR": "1"})
    assert "\x1b[" not in _on_terminal({"TERM": "dumb"})


def _on_terminal(settings: dict[str, str]) -> str:
    """What `verify` writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    environment |= {"TERM": "xterm"} | settings
    command = [sys.executable, "-m", "pybpfvm", "verify", str(GOOD)]
    with subprocess.Popen(command, cwd=ROOT, stdout=theirs, env=environment) as child:
        os.close(theirs)
        shown = b""
        while select.select([ours], [], [], 60)[0]:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the last writer has gone
                break
            shown += piece
        child.wait()
    os.close(ours)
    return shown.decode()


# Ctrl-C.


def slow_object(tmp_path: Path) -> Path:
    """A program that takes long to judge: twenty branches, of which no two leave equal states."""
    code = bytes.fromhex("85000000 07000000 bf06000000000000")  # r6 = get_prandom_u32()
    code += bytes.fromhex("b707000000000000")  # r7 = 0
    for bit in range(20):
        code += bytes.fromhex("8500000007000000")
        code += bytes.fromhex("4500010001000000") if bit % 2 else bytes.fromhex("5500010001000000")
        code += bytes.fromhex("07070000") + (1 << bit).to_bytes(4, "little")
    code += bytes.fromhex("bf70000000000000 5500010000000000 b700000000000000 9500000000000000")
    section = Sec("socket", code, 2 | EXEC)
    symbols = [Sym("slow", "socket", 0, len(code))]
    return elf(tmp_path, "slow.o", [section], symbols)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_shows_what_is_known_and_leaves_nobody_behind(tmp_path: Path, jobs: str) -> None:
    slow = slow_object(tmp_path)
    # On a busy machine the first object, too, may take its time.
    for seconds in (3, 10, 30):
        found = _interrupted_after(seconds, tmp_path, jobs, [GOOD, slow, slow])
        if not found:
            continue
        first, second, third = found
        assert (second["complete"], third["complete"]) == (False, False)
        assert (second["exit_code"], third["exit_code"]) == (130, 130)
        if first["complete"] and second["programs"]:
            assert first["programs"][0]["verdict"] == "accepted"
            assert first["exit_code"] == 0
            assert len(third["programs"]) == (jobs == "2")
            for one in (*second["programs"], *third["programs"]):
                assert (one["verdict"], one["errors"][0]["message"]) == (
                    "inconclusive",
                    "interrupted",
                )
                assert one["processed_insns"] > 0
                assert one["states"] > 0
            assert second["sha256"]
            return
    pytest.fail("not even the first object was judged in 30 s")


@pytest.mark.parametrize("form", ["text", "log", "json", "sarif", "github", "md", "html"])
def test_ctrl_c_before_anything_is_judged_gives_a_whole_document(form: str) -> None:
    code = (
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'pybpfvm.session.workers': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from pybpfvm.__main__ import main\n"
        f"sys.argv = ['pybpfvm', 'verify', {str(GOOD)!r}, '--format', {form!r}]\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "")
    assert "interrupted" in done.stdout or form in ("json", "log")
    if form == "json":
        found = json.loads(done.stdout)
        assert (found["complete"], found["exit_code"], found["programs"]) == (False, 130, [])
    elif form == "sarif":
        (invocation,) = json.loads(done.stdout)["runs"][0]["invocations"]
        assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, 130)


def _interrupted_after(
    seconds: float, tmp_path: Path, jobs: str, objects: list[Path]
) -> list[dict[str, Any]]:
    """The JSON documents of a `verify` that got Ctrl-C after so long; none if that was before it
    had begun."""
    report = tmp_path / "report.json"
    options = ["-j", jobs, "--format", "json", "-o", str(report), "--budget-insns", "100000000"]
    child = subprocess.Popen(
        [sys.executable, "-m", "pybpfvm", "verify", *map(str, objects), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        time.sleep(seconds)
        assert child.poll() is None, child.communicate()
        os.killpg(child.pid, signal.SIGINT)
        _, err = child.communicate(timeout=60)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    assert child.returncode == 130, err
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):  # nobody of its group is left
        os.killpg(child.pid, 0)
    documents: list[dict[str, Any]] = json.loads(report.read_text()) if report.exists() else []
    return documents
