"""What docs/fuzzing.md shows works as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pybpfvm.session.engines import jit_refusal

ROOT = Path(__file__).parents[2]


def test_a_target_of_ones_own_takes_ten_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if jit_refusal() is not None:
        pytest.skip(str(jit_refusal()))
    found = re.search(r"```python\n(.*?)```", (ROOT / "docs/fuzzing.md").read_text(), re.DOTALL)
    assert found is not None
    lines = [line for line in found[1].splitlines() if line and "import" not in line]
    assert len(lines) <= 10
    monkeypatch.chdir(ROOT)
    exec(compile(found[1], "docs/fuzzing.md", "exec"), {})
    assert capsys.readouterr().out.startswith("0 [")
