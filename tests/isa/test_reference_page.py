"""docs/isa.md says what the code does."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from pybpfvm.isa.asm import MAX_LINE_CHARS, MAX_LINES, assemble
from pybpfvm.isa.reference import example, table_markdown
from pybpfvm.isa.table import SPECS, TABLE

PAGE = Path(__file__).parents[2] / "docs" / "isa.md"


def test_the_table_is_up_to_date() -> None:
    """If this fails: replace what follows "All rows" by the output of `table_markdown()`."""
    assert PAGE.read_text(encoding="utf-8").endswith("\n\n" + table_markdown())


def test_every_row_of_the_page_assembles() -> None:
    rows = re.findall(
        r"^\| (\w+) \| 0x[0-9a-f]{2} \| [^|]* \| `(.*?)` \| `(.*?)` \| `(.*?)` \|",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert len(rows) == len(TABLE)
    for name, mnemonic, clang, kernel in rows:
        spec = SPECS[name]
        for text in (mnemonic, clang, f"({spec.opcode:02x}) {kernel}"):
            assert assemble(text.replace("\\|", "|")) == (example(spec),)


def test_the_session_on_the_page() -> None:
    failed, tried = doctest.testfile(str(PAGE), module_relative=False)
    assert tried
    assert not failed


def test_limits_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"{MAX_LINES:,}".replace(",", " ") + f" lines of {MAX_LINE_CHARS} characters" in text
