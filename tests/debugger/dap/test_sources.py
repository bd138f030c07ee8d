"""C files by the names that objects and clients have for them."""

from __future__ import annotations

from pathlib import Path

from pybpfvm.debugger.dap.arguments import Source
from pybpfvm.debugger.dap.sources import Sources
from pybpfvm.errors import SourceLine

_LINES = {
    0: SourceLine("./src/echo.bpf.c", 3, 1, "int x;"),
    4: SourceLine("./src/echo.bpf.c", 5, 1, "x = 1;"),
    6: SourceLine("/build/lib/echo.bpf.c", 2, 1, "other"),
}


def test_a_file_that_is_gone_is_what_its_lines_say(tmp_path: Path) -> None:
    sources = Sources([_LINES], [tmp_path])
    file = sources.files["./src/echo.bpf.c"]
    assert file.path is None
    assert file.text() == "\n\nint x;\n\nx = 1;\n"
    number = file.reference()["sourceReference"]
    assert sources.numbered(number) is file
    assert sources.meant(Source(source_reference=number)) is file
    assert (file.line_from(1), file.line_from(4), file.line_from(6)) == (3, 5, None)


def test_a_file_is_found_above_what_was_recorded(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    there = tmp_path / "src" / "echo.bpf.c"
    there.write_text("real", encoding="utf-8")
    sources = Sources([_LINES], [tmp_path / "src"])
    file = sources.files["./src/echo.bpf.c"]
    assert file.reference() == {"name": "echo.bpf.c", "path": str(there.resolve())}
    assert file.text() == "real"
    assert sources.meant(Source(path=str(there))) is file


def test_a_client_means_the_file_whose_name_ends_most_alike(tmp_path: Path) -> None:
    sources = Sources([_LINES], [tmp_path])
    mine, other = sources.files.values()
    assert sources.meant(Source(path="/home/me/project/src/echo.bpf.c")) is mine
    assert sources.meant(Source(path="C:\\work\\lib\\echo.bpf.c")) is other
    assert sources.meant(Source(path="/home/me/echo.bpf.c")) is None  # either
    assert sources.meant(Source(path="/home/me/src/none.c")) is None
    assert sources.meant(Source()) is None
