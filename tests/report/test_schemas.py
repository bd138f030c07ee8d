"""Every --json document is described by the schema that ships with the package."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from pybpfvm.cli import main
from pybpfvm.report import SCHEMAS
from pybpfvm.session.engines import jit_refusal
from pybpfvm.verifier import checks

ROOT = Path(__file__).parents[2]
OBJECTS = sorted((ROOT / "examples").glob("*/prog.v3.bpf.o"))
SCENARIOS = sorted((ROOT / "examples").glob("*/scenario.toml"))
CALLS = ROOT / "tests/loader/data/calls.o"
NAMES = sorted(path.stem for path in SCHEMAS.glob("*.json"))

Json = dict[str, Any]


def schema_of(name: str) -> Json:
    loaded: Json = json.loads((SCHEMAS / f"{name}.json").read_text())
    return loaded


def strict(schema: Any) -> Any:
    """`schema` that also refuses fields it does not describe."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict):
        made["additionalProperties"] = False
    return made


def document(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Json:
    main([*map(str, arguments), "--json"])
    loaded: Json = json.loads(capsys.readouterr().out)
    return loaded


def check(found: Json, name: str) -> None:
    assert found["schema"] == f"pybpfvm.{name.replace('-1', '/1')}"
    Draft202012Validator(strict(schema_of(name))).validate(found)
    # A document without one of its fields, anywhere in it, is refused.
    validator = Draft202012Validator(schema_of(name))
    validator.validate(found)
    cases = 0
    for path, key in described(schema_of(name), found):
        broken: Any = copy.deepcopy(found)
        inner = broken
        for step in path:
            inner = inner[step]
        del inner[key]
        with pytest.raises(ValidationError, match=r"required|not valid under"):
            validator.validate(broken)
        cases += 1
    assert cases >= len(found)


def described(schema: Json, value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, str]]:
    """(path, key) of the fields of `value` that `schema` names; of lists, in the first item."""
    for key, inner in schema.get("properties", {}).items():
        if value is None:  # "or null": the object with its fields is not there
            return
        if key not in value:  # with --timings only, say
            assert key not in schema["required"], key
            continue
        yield path, key
        yield from described(inner, value[key], (*path, key))
    if "items" in schema and value:
        yield from described(schema["items"], value[0], (*path, 0))


def test_there_is_a_schema_for_each_document() -> None:
    assert NAMES == [
        "asm-1",
        "disasm-1",
        "disasm-native-1",
        "doctor-1",
        "explain-1",
        "explore-1",
        "filter-asm-1",
        "filter-check-1",
        "filter-explain-1",
        "fuzz-1",
        "info-1",
        "port-1",
        "replay-1",
        "replay-to-1",
        "ring-1",
        "run-1",
        "run-once-1",
        "verify-1",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_one_and_describes_every_field(name: str) -> None:
    schema = schema_of(name)
    Draft202012Validator.check_schema(schema)

    def fields(part: Any) -> Iterator[tuple[str, Json]]:
        if isinstance(part, list):
            for item in part:
                yield from fields(item)
        elif isinstance(part, dict):
            yield from part.get("properties", {}).items()
            for key, inner in part.items():
                yield from fields(list(inner.values()) if key == "properties" else inner)

    found = list(fields(schema))
    assert found
    assert not [key for key, field in found if not field.get("description")]


@pytest.mark.parametrize("path", [*OBJECTS, CALLS], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_info_and_disasm(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    check(document(capsys, "info", path), "info-1")
    found = document(capsys, "disasm", path)
    check(found, "disasm-1")
    for program in found["programs"]:
        starts = {block["start"] for block in program["blocks"]}
        assert all(e["to"] in starts for block in program["blocks"] for e in block["edges"])


def test_asm(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = tmp_path / "two.s"
    text.write_text("r0 = 7\nexit\n")
    check(document(capsys, "asm", text), "asm-1")


def test_port(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "examples/18_rate_limit/prog.v3.bpf.o"
    found = document(capsys, "port", "--to", "loop-7.1", path)
    check(found, "port-1")
    (program,) = found["programs"]
    assert program["complete"]
    waits = [fact["values"] for fact in program["facts"] if fact["does"] == "wait"]
    assert waits == [{"cq": [1, 2], "nr": [1, 2]}]


def test_filter(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.cbpf"
    wrong.write_text("ldb [9]\nret #1\n")
    check(document(capsys, "filter", "asm", wrong), "filter-asm-1")
    found = document(capsys, "filter", "check", wrong)
    check(found, "filter-check-1")
    assert [problem["line"] for problem in found["problems"]] == [1]
    rows = ['{ op = "nop", text = "ret #1", deny_rest = true }', '{ op = "nop", text = "ret #0" }']
    several = tmp_path / "several.toml"
    several.write_text(f"filters = [{', '.join(rows)}]")
    for op, sentinel in (("nop", False), ("read", True)):
        found = document(capsys, "filter", "explain", several, op)
        check(found, "filter-explain-1")
        assert found["denied_by"]["sentinel"] == sentinel


def test_fuzz(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "check_map_value", lambda *_, **__: None)
    arguments = ["--count", "400", "--style", "near", "--seed", "300", "--format", "json"]
    assert main(["fuzz", "verifier", "--out", str(tmp_path), *arguments]) == 1
    found = json.loads(capsys.readouterr().out)
    check(found, "fuzz-1")
    assert found["findings"][0]["folder"].startswith(str(tmp_path))
    assert found["never"]["rules"]


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda p: p.parent.name)
def test_run_of_a_scenario(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    found = document(capsys, "run", path)
    check(found, "run-1")
    assert found["engine"] == ("jit" if jit_refusal() is None else "interp")


def test_run_of_a_scenario_that_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = ROOT / "examples/03_pingpong"
    text = (source / "scenario.toml").read_text().replace("hits = 6", "hits = 7")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(text.replace("prog.v3.bpf.o", str(source / "prog.v3.bpf.o")))
    found = document(capsys, "run", wrong)
    check(found, "run-1")
    assert found["findings"]
    assert not found["ok"]


def test_run_of_a_scenario_that_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "run", ROOT / "examples/03_pingpong/scenario.toml", "--budget-insns=9")
    check(found, "run-1")
    assert found["stopped"]["kind"] == "Trap"


def test_run_of_one_program(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "examples/03_pingpong/prog.v3.bpf.o"
    found = document(capsys, "run", path, "--repeat", "3", "--engine", "interp")
    check(found, "run-once-1")
    assert (found["engine"], found["repeat"]) == ("interp", 3)


def test_run_of_one_program_that_faults(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "examples/03_pingpong/prog.v3.bpf.o"
    assert main(["run", str(path), "--budget-insns=3", "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    check(found, "run-once-1")
    assert found["fault"]["kind"] == "budget"
    assert found["retval"] is None


def test_a_simulated_run_is_the_same_text_every_time(capsys: pytest.CaptureFixture[str]) -> None:
    """Addresses, which programs see, included: in this process and in another."""
    scenario = str(ROOT / "examples/05_read_open/scenario.toml")
    code = f"from pybpfvm.cli import main; main(['run', {scenario!r}, '--json'])"
    command = [sys.executable, "-c", code]
    first, second = (subprocess.run(command, capture_output=True, check=True) for _ in range(2))
    assert first.stdout == second.stdout
    assert b"user_data" in first.stdout


def test_a_ring(capsys: pytest.CaptureFixture[str]) -> None:
    check(document(capsys, "doctor", "--ring"), "ring-1")


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    check(document(capsys, "doctor"), "doctor-1")
    assert main(["doctor", "--schemas"]) == 0
    assert Path(capsys.readouterr().out.strip()) == SCHEMAS
