"""`disasm --native`: machine code beside BPF and C."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest

from pybpfvm.cli import main
from pybpfvm.report import SCHEMAS
from pybpfvm.session import Machine
from pybpfvm.session.engines import jit_refusal

ROOT = Path(__file__).parents[2]
SPEED = str(ROOT / "bench/programs/engines/speed.bpf.o")

pytest.importorskip("capstone", reason="capstone is not installed")
pytestmark = pytest.mark.skipif(jit_refusal() is not None, reason=f"no JIT: {jit_refusal()}")


def _shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["disasm", SPEED, *arguments]) == 0
    return capsys.readouterr().out


def test_bpf_machine_code_and_c_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    out = _shown(capsys, "hash", "--native")
    (line,) = [line for line in out.splitlines() if "r2 ^= r0" in line]
    assert "xor rsi, rax" in line
    (line,) = [line for line in out.splitlines() if "r0 = map[0][0]+0" in line]
    assert "; state = (state ^ text[at])" in line


def test_stubs_say_what_they_ask(capsys: pytest.CaptureFixture[str]) -> None:
    out = _shown(capsys, "hash", "--native")
    assert "; way in" in out
    assert "; function hash" in out
    assert "; block of 7" in out
    assert "; stub of 9: may the access be made" in out
    assert "call qword ptr [callout]" in out


@pytest.mark.parametrize("checks", ["verified", "sandboxed", "paged"])
def test_every_instruction_has_its_code(capsys: pytest.CaptureFixture[str], checks: str) -> None:
    found = json.loads(_shown(capsys, "--native", "--json", "--checks", checks))
    schema = json.loads((SCHEMAS / "disasm-native-1.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(found)
    assert found["checks"] == checks
    with Machine() as machine:
        programs = machine.load(SPEED).programs
        assert [one["name"] for one in found["programs"]] == list(programs)
    for one in found["programs"]:
        insns = [insn for part in one["parts"] for insn in part["insns"]]
        ends = [insn["offset"] + len(insn["bytes"]) // 2 for insn in insns]
        assert [insn["offset"] for insn in insns] == [0, *ends[:-1]], "a gap, or something twice"
        assert [part["pc"] for part in one["parts"] if part["pc"] is not None] == sorted(
            {part["pc"] for part in one["parts"] if part["pc"] is not None}
        )


def test_verified_code_asks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "may the access" in _shown(capsys, "copy", "--native", "--checks", "sandboxed")
    assert "may the access" not in _shown(capsys, "copy", "--native", "--checks", "verified")


def test_to_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = tmp_path / "code.txt"
    assert _shown(capsys, "alu", "--native", "--no-source", "-o", str(made)) == ""
    assert "imul" in made.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--checks", "paged"), "add --native"), (("--native", "--cfg", "text"), "no machine code")],
)
def test_options_that_do_not_go_together(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert main(["disasm", SPEED, *arguments]) == 2
    assert words in capsys.readouterr().err


def test_without_capstone_the_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = builtins.__import__

    def without(
        name: str,
        globals_: Mapping[str, object] | None = None,
        locals_: Mapping[str, object] | None = None,
        names: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        if name == "capstone":
            raise ImportError(name)
        return found(name, globals_, locals_, names, level)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["disasm", SPEED, "alu", "--native"]) == 2
    assert "pip install 'pybpfvm[native]'" in capsys.readouterr().err
