"""`pybpfvm filter`: its answers, and what it says to mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.cli import main

INET = "; sockets of AF_INET only\nld [16]\njeq #2, yes\nret #0\nyes: ret #1\n"


@pytest.fixture
def inet(tmp_path: Path) -> str:
    path = tmp_path / "inet.cbpf"
    path.write_text(INET)
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["filter", *arguments])
    out, err = capsys.readouterr()
    return code, out + err


def test_asm_and_disasm(capsys: pytest.CaptureFixture[str], inet: str, tmp_path: Path) -> None:
    code, out = said(capsys, "asm", inet, "--op", "socket")
    assert code == 0
    assert "2000 0000 1000 0000  l0: ld [16]                 ; family" in out
    raw = str(tmp_path / "inet.bin")
    assert said(capsys, "asm", inet, "-o", raw)[0] == 0
    code, text = said(capsys, "disasm", raw)
    assert (code, text.splitlines()[1]) == (0, "l1: jeq #2, l3, l2")
    Path(inet).write_text(text)
    assert said(capsys, "asm", inet, "-o", str(tmp_path / "again.bin"))[0] == 0
    assert (tmp_path / "again.bin").read_bytes() == Path(raw).read_bytes()


def test_check(capsys: pytest.CaptureFixture[str], inet: str, tmp_path: Path) -> None:
    code, out = said(capsys, "check", inet)
    assert (code, "a filter of 4 instructions" in out) == (0, True)
    wrong = tmp_path / "wrong.cbpf"
    wrong.write_text("; twice\nldb [9]\n\nld M[1]\nret a\n")
    code, out = said(capsys, "check", str(wrong))
    assert code == 1
    assert "line 2, l0: ldb [9]: filters may not use" in out
    assert "line 4, l1: ld M[1]: M[1] may not have been stored to" in out
    assert out.count("remedy:") == 2


def test_explain(capsys: pytest.CaptureFixture[str], inet: str, tmp_path: Path) -> None:
    code, out = said(capsys, "explain", inet, "socket", "family=AF_INET", "type=SOCK_STREAM")
    assert (code, "allowed by its filter" in out) == (0, True)
    code, out = said(capsys, "explain", inet, "SOCKET", "family=AF_INET6")
    assert code == 1
    assert f"denied by {inet} (ring), -EACCES" in out
    assert "l1: jeq #2, l3, l2          10 == 2? no" in out
    assert said(capsys, "explain", inet, "45", "family=AF_INET6") == (code, out)
    assert "no opcode is called '63'" in said(capsys, "explain", inet, "63")[1]
    several = tmp_path / "several.toml"
    several.write_text(
        'filters = [{ op = "socket", file = "inet.cbpf", on = "ring", name = "second" },\n'
        '{ op = "nop", text = "ret #1", deny_rest = true, name = "first", on = "task" }]'
    )
    code, out = said(capsys, "explain", str(several), "read")
    assert code == 1
    assert "READ: denied by DENY_REST of first (task), as it had no filter then" in out
    code, out = said(capsys, "explain", str(several), "socket", "family=AF_INET")
    assert (code, out.count("allows"), "DENY_REST of first (task)" in out) == (1, 1, True)


def test_explain_knows_addresses(capsys: pytest.CaptureFixture[str], inet: str) -> None:
    assert said(capsys, "explain", inet, "connect", "v4=10.0.0.1", "port=80")[0] == 0
    code, out = said(capsys, "explain", inet, "connect", "v6=::1")
    assert (code, "family 10, port 0, v6 1" in out) == (1, True)
    code, out = said(capsys, "explain", inet, "connect", "v4=10.0.0.1", "--kernel", "7.1")
    assert (code, "see no 'v4'" in out or "see no 'family'" in out) == (2, True)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (["famly=2"], "see no 'famly'"),
        (["family"], "is no FIELD=VALUE"),
        (["family=AF_INTE"], "did you mean 'AF_INET'"),
        (["family=-1"], "negative"),
        (["family=0x1ffffffff"], "does not fit its 4 bytes"),
        (["user_data=0x1ffffffffffffffff"], "user_data"),
        (["--kernel", "6.18"], "filters of Linux 6.18 are not known"),
    ],
)
def test_mistakes(
    capsys: pytest.CaptureFixture[str], inet: str, fields: list[str], reason: str
) -> None:
    code, out = said(capsys, "explain", inet, "socket", *fields)
    assert code == 2
    assert reason in out
    assert "internal error" not in out


def test_files_that_are_no_filters(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "x.cbpf"
    for content, reason in (
        (b"\xff\xfe", "not UTF-8"),
        (b"\0" * 9, "no whole instructions"),
        (b"\x7fELF" + bytes(60), "an ELF object"),
    ):
        path.write_bytes(content)
        code, out = said(capsys, "check", str(path))
        assert (code, reason in out) == (2, True)
    assert said(capsys, "explain", str(tmp_path / "none.toml"), "nop")[0] == 2
    path.write_text("ldb [9]\nret #1\n")
    code, out = said(capsys, "explain", str(path), "nop")
    assert (code, "a kernel would refuse it" in out) == (2, True)
