"""The command line with objects, scenarios, options and descriptors that can not be used.

Every answer is a defined exit code and one clear line; nothing hangs, nothing crashes.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.errors import InputError
from pybpfvm.program import MapType
from pybpfvm.session import Machine
from pybpfvm.session.hostring import BackendName
from tests.hostile.attack import ABI, EXIT, MAPS, MapRecord, object_of
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

ROOT = Path(__file__).parents[2]
HELLO = ROOT / "examples/01_hello/prog.v3.bpf.o"
SCENARIO = ROOT / "examples/01_hello/scenario.toml"
PATIENCE_S = 15


def command(
    capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> tuple[int, str, list[str]]:
    """Exit code, output and the lines of errors, without argparse's usage."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    start = next((at for at, line in enumerate(lines) if line.startswith("pybpfvm")), len(lines))
    return code, out, lines[start:]


# --- files ------------------------------------------------------------------------------------


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def _machine(number: int) -> Callable[[Path], object]:
    raw = bytearray(HELLO.read_bytes())
    raw[18:20] = number.to_bytes(2, "little")
    return lambda path: path.write_bytes(raw)


def _first(count: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(HELLO.read_bytes()[:count])


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing there": (lambda path: None, "No such file"),
    "directory": (Path.mkdir, "directory"),
    "empty": (Path.touch, "not an ELF object"),
    "text": (lambda path: path.write_text("hello\n"), "not an ELF object"),
    "FIFO without writer": (_fifo, "not an ELF object"),
    "socket": (_socket, "can not be read"),
    "endless": (lambda path: path.symlink_to("/dev/zero"), "more than 33554432 bytes"),
    "link to itself": (lambda path: path.symlink_to(path), "can not be read"),
    "sparse": (_sparse, "more than 33554432"),
    "x86": (_machine(62), "expected a relocatable object (1) for BPF (247)"),
    "header only": (_first(64), "offset 0x28"),
    "half": (_first(HELLO.stat().st_size // 2), "beyond the end of the file"),
    "63 bytes": (_first(63), "inside its ELF header"),
    "scenario": (lambda path: path.write_bytes(SCENARIO.read_bytes()), "not an ELF object"),
    "file as folder": (lambda path: path.write_text(""), "Not a directory"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("verb", ["info", "disasm", "run"])
def test_objects_that_are_none(
    verb: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, text = FILES[name]
    path = tmp_path / "o"
    make(path)
    start = time.monotonic()
    code, out, err = command(capsys, verb, path / "x" if name == "file as folder" else path)
    assert time.monotonic() - start < PATIENCE_S
    assert (code, out, len(err)) == (2, "", 1), err
    assert text in err[0]
    assert str(path) in err[0]


def test_an_unreadable_object(tmp_path: Path) -> None:
    """As another user, because root may read everything."""
    if os.geteuid() != 0:
        path = tmp_path / "o"
        path.touch(mode=0)
    else:
        path = Path("/proc/self/mem")
    with Machine() as machine, pytest.raises(InputError, match="can not be read"):
        machine.load(path)


@pytest.mark.parametrize("option", ["--btf", "--ctx", "--data", "asm", "scenario", "object"])
@pytest.mark.parametrize("name", ["nothing there", "directory", "FIFO without writer", "endless"])
def test_other_files_that_can_not_be_used(
    option: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "f.toml"
    FILES[name][0](path)
    others: dict[str, list[str | Path]] = {
        "asm": ["asm", path],
        "scenario": ["run", path],
        "--btf": ["info", HELLO, "--btf", path],
    }
    arguments = others.get(option, ["run", HELLO, "--abi", ABI, option, f"@{path}"])
    if option == "object":
        scenario = tmp_path / "s.toml"
        scenario.write_text(f'object = "{path}"\nabi = "{ABI}"\n')
        arguments = ["run", scenario]
    code, _, err = command(capsys, *arguments)
    if name == "FIFO without writer" and option in ("--ctx", "--data", "asm"):
        assert code in (0, 4)  # as an empty file
        return
    assert (code, len(err)) == (2, 1), err
    assert str(path) in err[0]


def test_a_pipe_with_content_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    """What a shell makes of <(command)."""
    reader, writer = os.pipe()
    assert os.write(writer, HELLO.read_bytes()) == HELLO.stat().st_size
    os.close(writer)
    code, out, _ = command(capsys, "info", f"/dev/fd/{reader}")
    os.close(reader)
    assert code == 0
    assert "hello" in out


@pytest.mark.parametrize("name", ["", "\0", "a\0b", "x" * 5000])
@pytest.mark.parametrize("verb", ["info", "disasm", "run", "asm"])
def test_names_that_are_none(verb: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = command(capsys, verb, name)
    assert (code, len(err)) == (2, 1), err


# --- maps -------------------------------------------------------------------------------------

U31, U32 = 1 << 31, (1 << 32) - 1
ABSURD: list[tuple[MapRecord, str]] = [
    (("m", MapType.ARRAY, 4, 8, U31), "exceed the memory limit"),
    (("m", MapType.ARRAY, 4, U31, 1), "E2BIG"),
    (("m", MapType.ARRAY, 4, U32, U32), "E2BIG"),
    (("m", MapType.HASH, 4, 8, U31), "E2BIG"),
    (("m", MapType.HASH, U31, 8, 1), "E2BIG"),
    (("m", MapType.HASH, 4, U31, 1), "E2BIG"),
    (("m", MapType.PERCPU_ARRAY, 4, 8, U31), "exceed the memory limit"),
    (("m", MapType.RINGBUF, 0, 0, U31), "exceeds the memory limit"),
    (("m", MapType.QUEUE, 0, 8, U31), "exceed the memory limit"),
    (("m", MapType.STACK, 0, 1, U32), "memory limit"),
    (("m", MapType.ARRAY, 4, 0, 1), "EINVAL"),
    (("m", MapType.ARRAY, 4, 8, 0), "EINVAL"),
    (("m", MapType.ARRAY, 0, 8, 1), "EINVAL"),
]


@pytest.mark.parametrize(("record", "text"), ABSURD, ids=lambda value: str(value)[:50])
def test_absurd_maps_are_refused_and_leave_nothing(record: MapRecord, text: str) -> None:
    with Machine() as machine:
        machine.load(object_of(EXIT, MAPS), abi=ABI)
        committed = machine.memory.committed_bytes
        with pytest.raises(InputError) as caught:
            machine.load(object_of(EXIT, [*MAPS, record]), abi=ABI)
        assert text in str(caught.value)
        assert caught.value.remedy
        assert machine.memory.committed_bytes == committed


@pytest.mark.parametrize(
    "record",
    [
        ("m", int(MapType.ARRAY), 4, 8, 1 << 26),
        ("m", int(MapType.PROG_ARRAY), 4, 4, U32),
        ("m", int(MapType.HASH), 4, 8, 1 << 26),
        ("m", int(MapType.ARRAY), 4, 1 << 28, 1),
    ],
)
@pytest.mark.parametrize("form", ["--quiet", "--json"])
def test_large_maps_do_not_keep_the_user_waiting(
    record: MapRecord, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "o"
    path.write_bytes(object_of(EXIT, [record]))
    start = time.monotonic()
    code, out, _ = command(capsys, "run", path, "--abi", ABI, form)
    assert code == 0
    assert time.monotonic() - start < PATIENCE_S
    cut = record[4] > 1 << 16 and record[1] != MapType.HASH
    assert ("only the first 65,536 keys" in out) == (cut and form == "--quiet")


# --- options ----------------------------------------------------------------------------------

OPTIONS = [
    (("--repeat", "0"), "out of range"),
    (("--repeat", "-1"), "out of range"),
    (("--budget-insns", "0"), "out of range"),
    (("--budget-insns", "9" * 30), "out of range"),
    (("--budget-insns", "9" * 5000), "not a number"),
    (("--repeat", "many"), "not a number"),
    (("--ctx", "0"), "hexadecimal"),
    (("--ctx", "é"), "hexadecimal"),
    (("--data", "zz"), "hexadecimal"),
    (("--data", "@"), "empty"),
    (("--helper", "1"), "NUMBER=NAME"),
    (("--helper", "=x"), "NUMBER=NAME"),
    (("--helper", "²=map_lookup_elem"), "NUMBER=NAME"),
    (("--helper", "9" * 5000 + "=map_lookup_elem"), "NUMBER=NAME"),
    (("--helper=-1=map_lookup_elem",), "NUMBER=NAME"),
    (("--helper", "1=nothing"), "no helper is called"),
    (("--abi", "v9"), "no ABI profile"),
    (("--abi", ""), ""),
    (("--prog", "nobody"), "no program is called"),
    (("--backend", "nope"), "invalid choice"),
    (("--seed", "1e3"), "not a number"),
    (("--nope",), "unrecognized"),
]


@pytest.mark.parametrize(("options", "text"), OPTIONS, ids=lambda value: str(value)[:40])
def test_options_out_of_range(
    options: Sequence[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(capsys, "run", HELLO, *options)
    assert (code, out, len(err)) == (2, "", 1), err
    assert text in err[0]


# --- scenarios --------------------------------------------------------------------------------

HEAD = f'object = "o"\nabi = "{ABI}"\nprograms = ["main"]\n'
BROKEN: dict[str, str | bytes] = {
    "not TOML": "object = ",
    "not UTF-8": b"object = '\xff'",
    "a NUL": "object = 'o'\0",
    "endless nesting": "a = " + "[" * 20_000,
    "no object": "abi = 'iouring-v3'",
    "object a number": "object = 3",
    "unknown key": HEAD + "nope = 1",
    "unknown abi": 'object = "o"\nabi = "v9"',
    "unknown program": HEAD.replace("main", "nobody"),
    "101 programs": 'object = "o"\nabi = "iouring-v3"\nprograms = [' + '"main",' * 101 + "]",
    "entries 0": HEAD + "ring = { entries = 0 }",
    "entries 2^31": HEAD + "ring = { entries = 2147483648 }",
    "entries text": HEAD + 'ring = { entries = "8" }',
    "1025 CQs": HEAD + "ring = { cq_entries = [" + "16," * 1025 + "] }",
    "flags": HEAD + "ring = { flags = 4294967296 }",
    "huge block": HEAD + "user.a = { zero = 1099511627776 }",
    "negative block": HEAD + "user.a = { zero = -1 }",
    "huge integer": HEAD + f"user.a = {{ u64 = 1{'0' * 6000} }}",
    "odd hex": HEAD + 'user.a = { bytes = "0" }',
    "two contents": HEAD + 'user.a = { zero = 1, text = "x" }',
    "path outside": HEAD + 'files."../../x" = { text = "x" }',
    "absolute path": HEAD + 'files."/etc/x" = { text = "x" }',
    "unknown block": HEAD + 'steps = [{ submit = [{ op = "nop", addr = { block = "no" } }] }]',
    "unknown op": HEAD + 'steps = [{ submit = [{ op = "nope" }] }]',
    "op number": HEAD + "steps = [{ submit = [{ op = 256 }] }]",
    "field too wide": HEAD + 'steps = [{ submit = [{ op = "nop", len = 4294967296 }] }]',
    "too many SQEs": HEAD + "steps = [{ submit = [" + '{ op = "nop" },' * 9 + "] }]",
    "cq that is not": HEAD + "steps = [{ wait = 1, cq = 7 }]",
    "negative wait": HEAD + "steps = [{ wait = -1 }]",
    "bad duration": HEAD + 'steps = [{ sleep = "1 fortnight" }]',
    "two things": HEAD + 'steps = [{ wait = 1, sleep = "1 s" }]',
    "empty step": HEAD + "steps = [{}]",
    "write outside": HEAD + 'user.a = { zero = 8 }\nsteps = [{ write = "a", offset = 4, u64 = 1 }]',
    "unknown trap": HEAD + 'expect.trap = "NOPE"',
    "unknown map": HEAD + "expect.maps.nope = [1]",
    "unknown errno": HEAD + 'expect.cqes.0 = [{ res = "-ENOPE" }]',
    "unknown fd flag": HEAD + 'fds.a = { open = "f", flags = ["nope"] }',
    "registered fd unknown": HEAD + 'ring = { files = ["nope"] }',
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_scenarios(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = BROKEN[name]
    (tmp_path / "o").write_bytes(object_of(EXIT))
    path = tmp_path / "s.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    code, _, err = command(capsys, "run", "--quiet", path)
    assert (code, len(err)) == (2, 1), err
    assert str(tmp_path) in err[0], err
    assert len(err[0]) < 1000


# --- the ends of the process ------------------------------------------------------------------


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    text = line.replace("pybpfvm", f"{sys.executable} -m pybpfvm")
    return subprocess.run(
        ["bash", "-c", text],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        (f"pybpfvm info {HELLO} >&-", 2, "standard output is closed"),
        (f"pybpfvm run {SCENARIO} >&-", 2, "standard output is closed"),
        ("pybpfvm asm - <&-", 2, "standard input is closed"),
        (f"pybpfvm info {HELLO} >/dev/full", 2, "standard output: No space left"),
        ("echo exit | pybpfvm asm - >/dev/full", 2, "standard output: No space left"),
        ("echo exit | pybpfvm asm - -o /dev/full", 2, "/dev/full: can not be written: No space"),
        ("echo exit | pybpfvm asm - -o /", 2, "/: can not be written: Is a directory"),
        ("pybpfvm info $'\\xff'", 2, "\\udcff: can not be read: No such file"),
        (f"pybpfvm info /nonexistent 2>&- >{os.devnull}", 2, ""),
        ("pybpfvm asm - </dev/zero", 2, "<stdin>: more than 16777216 bytes"),
    ],
)
def test_standard_streams(line: str, code: int, text: str) -> None:
    done = shell(line)
    assert done.returncode == code
    assert text in done.stderr
    assert done.stderr.count("\n") <= 1


def test_output_in_an_encoding_that_lacks_letters() -> None:
    done = shell(f"pybpfvm run {SCENARIO}", PYTHONUTF8="0", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0
    assert "all expectations met" in done.stdout


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
@pytest.mark.parametrize("what", ["program", "ring"])
def test_ctrl_c(what: str, backend: BackendName, tmp_path: Path) -> None:
    """In a program that never ends, and while the kernel's ring waits: 130 and one word."""
    need_backend(backend)
    if what == "ring" and backend == "sim":
        pytest.skip("the simulated clock does not wait")
    (tmp_path / "o").write_bytes(object_of("l:\ngoto l"))
    path = tmp_path / "s.toml"
    path.write_text(
        f'object = "o"\nabi = "{ABI}"\nprograms = ["main"]\n'
        "user.t = { timespec_ns = 60_000_000_000 }\n"
        + (
            'steps = [{ submit = [{ prog = "main" }] }]'
            if what == "program"
            else 'steps = [{ submit = [{ op = "timeout", addr = { block = "t" }, len = 1 }] }, '
            "{ wait = 1 }]"
        )
    )
    arguments = ["run", "--no-verify", "--backend", backend]
    arguments += ["--budget-insns", "1000000000000", str(path)]
    with subprocess.Popen(
        [sys.executable, "-m", "pybpfvm", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()  # the header: the ring is there
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert err == "interrupted\n"


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_an_interrupt_closes_the_ring(
    backend: BackendName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, so that what it leaves open is seen (see conftest)."""
    need_backend(backend)
    (tmp_path / "o").write_bytes(object_of("l:\ngoto l"))
    path = tmp_path / "s.toml"
    path.write_text(HEAD + 'steps = [{ submit = [{ prog = "main" }] }]')
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    old = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.7)
        arguments = ["run", "--quiet", "--no-verify", "--backend", backend]
        arguments += ["--budget-insns", "1000000000000"]
        assert main([*arguments, str(path)]) == 130
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
