"""A client of GDB's protocol looks at a recording; GDB itself, where one is that knows bpf."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybpfvm.debugger import Debugger
from pybpfvm.isa.codec import encode
from tests.debugger.gdb.client import Client, served
from tests.debugger.recorded import (
    LONGRUN_C,
    PINGPONG_C,
    ROOT,
    line_of,
    record_longrun,
    record_pingpong,
)

_CODE = 0x1000000  # where the first program is said to lie
_PC = 11


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_pingpong(tmp_path_factory.mktemp("gdb") / "t.bpftrace")


@pytest.fixture
def client(recording: Path) -> Iterator[Client]:
    with served(recording) as (found, _):
        yield found


def _pc(client: Client) -> int:
    return int.from_bytes(bytes.fromhex(client.ask(f"p{_PC:x}")), "little")


def test_what_is_supported_is_said(client: Client) -> None:
    found = client.ask("qSupported:multiprocess+;swbreak+;hwbreak+").split(";")
    assert {"ReverseStep+", "ReverseContinue+", "qXfer:features:read+", "swbreak+"} <= set(found)
    assert client.ask("vMustReplyEmpty") == ""
    assert client.ask("vCont?") == "vCont;c;C;s;S"
    assert client.ask("qCRC:0,10") == ""
    assert client.ask("qAttached") == "1"


def test_registers_are_described(client: Client) -> None:
    text, more = "", True
    while more:
        answer = client.ask(f"qXfer:features:read:target.xml:{len(text):x},40")
        text, more = text + answer[1:], answer[0] == "m"
    tree = ElementTree.fromstring(text)
    assert tree.findtext("architecture") == "bpf"
    registers = [(one.get("name"), one.get("bitsize")) for one in tree.iter("reg")]
    assert registers == [
        *((f"r{n}", "64") for n in range(10)), ("r10", "32"), ("pc", "32"), ("fp", "64"),
    ]  # fmt: skip
    assert client.ask("qXfer:features:read:other.xml:0,40") == "E00"


def test_registers_and_memory_are_read(recording: Path) -> None:
    with served(recording) as (client, debugger):
        client.without_acknowledging()
        (frame,) = debugger.frames()
        all_of_them = bytes.fromhex(client.ask("g"))
        assert len(all_of_them) == 10 * 8 + 4 + 4
        words = [int.from_bytes(all_of_them[8 * n : 8 * n + 8], "little") for n in range(10)]
        assert words == list(frame.regs[:10])
        assert int.from_bytes(all_of_them[80:84], "little") == frame.regs[10] & 0xFFFF_FFFF
        assert all_of_them[84:] == _CODE.to_bytes(4, "little")
        assert client.ask("p1") == frame.regs[1].to_bytes(8, "little").hex()
        assert client.ask("pc") == frame.regs[10].to_bytes(8, "little").hex()  # fp
        assert client.ask("p63") == "E00"
        code = encode(frame.program.insns, big_endian=False)
        assert client.ask(f"m{_CODE:x},{len(code) + 50:x}") == code.hex()
        (alice,) = (one for one in debugger.blocks() if one.name == "alice")
        assert client.ask(f"m{alice.start:x},4") == "01000000"
        assert client.ask("m10,4") == "E0e"


@pytest.mark.parametrize("packet", ["G00", "P1=0000000000000000", "M1000000,1:00", "X1000000,0:"])
def test_writes_are_refused(client: Client, packet: str) -> None:
    assert client.ask(packet) == "E01"


@pytest.mark.parametrize(
    "packet",
    ["m", "mx,1", "p", "pzz", "Z0", "Z0,zz,8", "Z9,0,8", "qXfer:features:read:target.xml:x", "Hg",
     "vCont;x", "T", "qRcmd,0", "Cxx"],
)  # fmt: skip
def test_malformed_packets_are_errors(client: Client, packet: str) -> None:
    assert client.ask(packet).startswith("E")
    assert client.ask("qC") == "QC2"


def test_steps_go_both_ways(client: Client) -> None:
    assert client.ask("?").startswith("T05thread:2;0b:00000001;")
    places = [_pc(client)]
    for _ in range(20):
        assert client.ask("vCont;s:2;c").startswith("T05thread:2;")
        places.append(_pc(client))
    for place in reversed(places[:-1]):
        client.ask("bs")
        assert _pc(client) == place
    assert "replaylog:begin;" in client.ask("bs")


def test_breakpoints_stop_in_both_directions(client: Client) -> None:
    client.ask("qSupported:swbreak+;hwbreak+")
    for kind, name in (("0", "swbreak"), ("1", "hwbreak")):
        there = _CODE + 9 * 8
        assert client.ask(f"Z{kind},{there:x},8") == "OK"
        assert client.ask(f"Z{kind},{there:x},8") == "OK"
        assert f"{name}:;" in client.ask("c")
        assert _pc(client) == there
        assert f"{name}:;" in client.ask("vCont;c")
        assert f"{name}:;" in client.ask("bc")
        assert _pc(client) == there
        assert client.ask(f"z{kind},{there:x},8") == "OK"
        assert client.ask(f"z{kind},{there:x},8") == "OK"
        assert "replaylog:begin;" in client.ask("bc")
    assert client.ask("Z0,20,8") == "E0e"
    assert client.ask(f"Z0,{_CODE + 25 * 8:x},8") == "E0e"  # within an lddw
    assert client.ask(f"Z3,{_CODE:x},8") == ""  # reads are not noticed
    assert "replaylog:end;" in client.ask("c")
    assert client.ask("g").startswith("xx")


def test_a_write_to_watched_memory_stops(recording: Path) -> None:
    with served(recording) as (client, debugger):
        (alice,) = (one for one in debugger.blocks() if one.name == "alice")
        hits = alice.start + 12
        assert client.ask(f"Z2,{hits:x},4") == "OK"
        assert f"watch:{hits:x};" in client.ask("c")
        assert client.ask(f"m{hits:x},4") == "01000000"
        client.ask("bs")
        assert client.ask(f"m{hits:x},4") == "00000000"


def test_rings_are_threads(client: Client) -> None:
    assert client.ask("qfThreadInfo") == "m2"
    assert client.ask("qsThreadInfo") == "l"
    assert client.ask("qC") == "QC2"
    assert client.ask("Hg2") == client.ask("Hc-1") == client.ask("Hg0") == client.ask("T2") == "OK"
    assert client.ask("Hg7").startswith("E")
    assert client.ask("T7").startswith("E")
    assert bytes.fromhex(client.ask("qThreadExtraInfo,2")) == b"ring 1"


def test_commands_of_the_debugger_are_those_of_the_monitor(client: Client) -> None:
    assert "player" in client.monitor("backtrace")
    assert "5" in client.monitor("print 2 + 3")
    assert "CQ 1" in client.monitor("ring")
    assert "error" in client.monitor("nonsense")
    assert "flush register-cache" in client.monitor("goto 3:0")
    line = line_of(PINGPONG_C, "*seen = me")
    client.monitor(f"break prog.bpf.c:{line}")
    client.ask("c")
    assert f":{line}" in client.monitor("backtrace")


def test_who_interrupts_stops_what_runs(tmp_path: Path) -> None:
    path = record_longrun(tmp_path / "t.bpftrace", 1_000_000)
    with served(path) as (client, _):
        line = line_of(LONGRUN_C, "own += turn")
        client.monitor(f"break longrun.bpf.c:{line} if turn > 5000000")
        client.send("c")
        time.sleep(0.3)
        client.connection.sendall(b"\x03")
        assert client._taken(1) == b"+"
        assert client.answer().startswith("T02")


def test_who_leaves_in_the_middle_is_let_go_and_leaves_no_breakpoints(tmp_path: Path) -> None:
    path = record_longrun(tmp_path / "t.bpftrace", 1_000_000)
    with served(path) as (client, debugger):
        assert client.ask(f"Z2,{debugger.frames()[0].regs[1]:x},4") == "OK"
        client.send("c")
        time.sleep(0.2)
    assert debugger.breakpoints == {}


def test_detaching_and_killing_end_it(recording: Path) -> None:
    for packet, answer in (("D", "OK"), ("vKill;1", "OK")):
        with served(recording) as (client, _):
            assert client.ask(packet) == answer


def test_a_recording_that_is_none_is_one_error() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "pybpfvm", "gdbserver", str(LONGRUN_C), "--listen", "0"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert found.returncode == 2
    assert found.stderr.startswith("pybpfvm: error: ")
    assert len(found.stderr.splitlines()) == 1


def _gdb() -> str:
    """A GDB that knows bpf. Skips where there is none."""
    path = shutil.which("gdb")
    if path is None:
        pytest.skip("there is no gdb")
    ask = [path, "-nx", "-batch", "-ex", "set architecture bpf"]
    said = subprocess.run(ask, capture_output=True, text=True, check=False)
    if '"bpf"' not in said.stdout:
        pytest.skip(
            "this gdb has no bpf architecture (pip install gdb-for-pwndbg has one that does)"
        )
    return path


def test_gdb_itself(recording: Path) -> None:
    gdb = _gdb()
    server = subprocess.Popen(
        [sys.executable, "-m", "pybpfvm", "gdbserver", str(recording), "--listen", "0", "--once"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert server.stderr is not None
    try:
        port = server.stderr.readline().rpartition(":")[2].strip()
        commands = (
            f"target remote 127.0.0.1:{port}", "stepi", "p/x $pc", "reverse-stepi", "p/x $pc",
            f"break *{_CODE + 72:#x}", "continue", "p/x $pc", "delete", "monitor backtrace",
            "x/1xw 0x1000000", "reverse-continue", "continue", "detach",
        )  # fmt: skip
        options = [word for one in commands for word in ("-ex", one)]
        said = subprocess.run(
            [gdb, "-nx", "-batch", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        ).stdout
        for text in ("$1 = 0x1000008", "$2 = 0x1000000", "$3 = 0x1000048", "player", "0x000016bf"):
            assert text in said, said
        assert "end of recorded history" in said.lower() or "No more reverse" in said, said
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


def test_opening_is_at_the_fault_that_ended_a_recording(tmp_path: Path) -> None:
    path = record_longrun(tmp_path / "t.bpftrace", 1000, budget_insns=5000)
    with Debugger(path) as debugger:
        assert debugger.position == debugger.history.fault()
