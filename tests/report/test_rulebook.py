"""The card of every rule: its bad program breaks the rule, its good one none, the running kernel
says the same, and `explain` shows all of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest

from pybpfvm import bpfsys
from pybpfvm.btf.types import Btf
from pybpfvm.cli import main
from pybpfvm.fuzz.kernel_verdicts import KernelVerifier
from pybpfvm.loader.target import kernel_btf
from pybpfvm.report.formats import Report, format_named
from pybpfvm.report.rulebook import Sample, card
from pybpfvm.report.ruletexts import RULES, meaning, mend, title
from pybpfvm.session.judged import JudgedObject, JudgedProgram
from pybpfvm.session.judging import JudgeRequest
from pybpfvm.session.kernel_journal import Journal
from pybpfvm.verifier.explaining.categories import category
from pybpfvm.verifier.kernelobjects.attach import is_btf_typed
from pybpfvm.verifier.verdict import Accepted, Finding, Inconclusive, Kind, Rejected, Rule, Verdict
from tests.report.test_schemas import check

ROOT = Path(__file__).parents[2]
# What is not said of the program but of our judging it.
OURS = {Rule.BUDGET, Rule.UNSUPPORTED}
COLUMNS = 100

names = pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.value)


def samples(rule: Rule, kernel: Btf | None = None) -> tuple[Sample, Sample]:
    one = card(rule, kernel)
    return one.bad, one.good


def first(verdict: Verdict) -> Finding:
    """What the verdict says first; of an accepted program the only warning."""
    if isinstance(verdict, Inconclusive):
        return verdict.finding
    if isinstance(verdict, Rejected):
        assert not verdict.warnings
        return verdict.errors[0]
    assert len(verdict.warnings) == 1, verdict
    return verdict.warnings[0]


def test_every_rule_has_a_card_and_every_card_a_rule() -> None:
    assert {path.stem for path in RULES.glob("*.toml")} == {rule.value for rule in Rule}


@names
def test_the_bad_program_breaks_this_rule_first(rule: Rule) -> None:
    bad, _ = samples(rule)
    found = first(bad.verdict())
    assert found.rule is rule, found
    assert found.message
    assert found.reason


@names
def test_the_good_program_breaks_none(rule: Rule) -> None:
    bad, good = samples(rule)
    verdict = good.verdict()
    assert isinstance(verdict, Accepted), verdict
    assert not verdict.warnings
    # Judged alike: what is told apart is the program, or where it runs.
    assert bad.obj.maps == good.obj.maps
    assert bad.request == good.request
    assert (bad.program, bad.profile) != (good.program, good.profile)


@names
def test_the_words_of_a_card(rule: Rule) -> None:
    one = card(rule)
    assert 3 <= len(one.title.split()) <= 20
    assert one.title[0].isupper()
    assert not one.title.endswith(".")
    for text in (one.meaning, one.mend):
        assert 10 <= len(text.split()) <= 130
        assert text.endswith(".")
        assert not re.search(r"\b(etc|TODO|basically|simply|stuff)\b|  |\t", text)


def test_no_card_repeats_another() -> None:
    for said in (title, meaning, mend):
        texts = [said(rule) for rule in Rule]
        assert len(set(texts)) == len(texts)
    sentences = [one for rule in Rule for one in meaning(rule).split(". ")]
    assert len(set(sentences)) == len(sentences)


@pytest.mark.kernel_bpf
def test_the_running_kernel_says_the_same(tmp_path: Path) -> None:
    reason, btf = bpfsys.available(), kernel_btf()
    if reason is not None or btf is None:
        pytest.skip(reason or "the kernel does not show its BTF")
    asked, wrong = 0, []
    for rule in Rule:
        if rule in OURS:
            continue
        for sample, wanted in zip(samples(rule, btf), (False, True), strict=True):
            if sample.profile.ring is not None or sample.profile.loop is not None:
                continue
            if is_btf_typed(sample.profile) and not can_attach(btf):
                continue
            with KernelVerifier(sample.obj.maps, Journal(tmp_path / "j"), sample.obj.btf) as kernel:
                said = kernel.judge(
                    sample.program.insns,
                    sample.profile,
                    section=sample.program.section,
                    subprogs=sample.program.subprogs,
                    license=sample.program.license,
                    caps=sample.request.caps,
                )
            assert said is not None
            ours = sample.verdict()
            asked += 1
            if said.accepted is not wanted or isinstance(ours, Accepted) is not wanted:
                wrong.append(f"{rule.value} ({'good' if wanted else 'bad'}): {said} {ours}")
    assert not wrong, "\n".join(wrong)
    assert asked >= 50


def can_attach(btf: Btf) -> bool:
    """Whether this machine lets programs attach to functions: some let nobody."""
    _, good = samples(Rule.ATTACH_TARGET, btf)
    with KernelVerifier(()) as kernel:
        said = kernel.judge(good.program.insns, good.profile, section=good.program.section)
    return said is not None and said.accepted


@pytest.mark.skipif(shutil.which("clang-19") is None, reason="clang-19 is not installed")
@pytest.mark.skipif(shutil.which("llvm-objcopy-19") is None, reason="llvm-19 is not installed")
def test_rebuilding_gives_the_committed_types(tmp_path: Path) -> None:
    made = tmp_path / "kernel.btf"
    subprocess.run([str(RULES / "build.sh"), str(made)], check=True, timeout=60)
    assert made.read_bytes() == (RULES / "kernel.btf").read_bytes()
    assert made.stat().st_size < 8192


@names
def test_explain(rule: Rule, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", rule.value]) == 0
    shown = capsys.readouterr().out
    one = card(rule)
    assert shown.startswith(f"{rule.value}: {one.title}\n")
    assert max(map(len, shown.splitlines())) <= COLUMNS
    words = " ".join(shown.split())
    for text in (one.meaning, one.mend):
        assert " ".join(text.split()) in words
    found = first(one.bad.verdict())
    assert f" at {found.pc}: {' '.join(found.message.split())}" in words
    for sample in (one.bad, one.good):
        assert all(line.strip() in shown for line in sample.text.splitlines())


def test_explain_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert set(listed) == {rule.value for rule in Rule}
    assert all(listed[rule.value].endswith(f" {title(rule)}") for rule in Rule)
    assert max(map(len, lines)) <= COLUMNS
    headings = [line for line in lines if not line.startswith("  ")]
    assert headings == list(dict.fromkeys(category(rule) for rule in Rule))


def test_explain_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "possibly-null", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    check(found, "explain-1")
    assert [one["rule"] for one in found["rules"]] == ["possibly-null"]
    assert found["rules"][0]["bad"]["finding"]["kind"] in {kind.value for kind in Kind}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("posibly-null", "did you mean possibly-null?"),
        ("POSSIBLY-NULL", "did you mean possibly-null?"),
        ("sqe-flag", "did you mean sqe-flags or "),
        ("x" * 5000, "`pybpfvm explain` lists them all"),
        ("../possibly-null", "did you mean possibly-null?"),
    ],
)
def test_an_unknown_rule(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err.count("no rule is called") == 1
    assert hint in said.err
    assert len(said.err) < 400
    assert "Traceback" not in said.err


# Reports say where to read on.


def report_of(rules: list[Rule]) -> Report:
    """Programs that break these rules, one each."""
    programs = []
    for rule in rules:
        bad, _ = samples(rule)
        programs.append(JudgedProgram(rule.value, rule.value, bad.profile.name, bad.verdict()))
    judged = JudgedObject("samples.o", "6.18", programs=tuple(programs))
    return Report((judged,), JudgeRequest())


def test_the_text_names_the_rules_once() -> None:
    one = format_named("text").render(report_of([Rule.POSSIBLY_NULL]))
    assert one.splitlines()[-1] == "More: pybpfvm explain possibly-null"
    same = format_named("text").render(report_of([Rule.POSSIBLY_NULL] * 2))
    assert same.count("pybpfvm explain") == 1
    several = format_named("text").render(report_of([Rule.STACK_ACCESS, Rule.DRAIN]))
    more = "More: pybpfvm explain RULE, for drain-from-program, stack-access"
    assert several.splitlines()[-2] == more
    everything = format_named("text").render(report_of(list(Rule)))
    at = everything.index("More: pybpfvm explain RULE, for ")
    assert max(map(len, everything[at:].splitlines())) <= COLUMNS
    assert set(re.findall(r"[\w-]+", everything[at:])) >= {rule.value for rule in Rule}


@names
def test_sarif_and_the_page_have_what_the_rule_means(rule: Rule) -> None:
    report = report_of([rule])
    driver = json.loads(format_named("sarif").render(report))["runs"][0]["tool"]["driver"]
    told = {one["id"]: one for one in driver["rules"]}[rule.value]
    assert meaning(rule) in told["fullDescription"]["text"]
    assert title(rule) in told["fullDescription"]["text"]
    for text in (told["help"]["text"], told["help"]["markdown"]):
        assert f"pybpfvm explain {rule.value}" in text
    assert mend(rule) in told["help"]["markdown"]
    page = format_named("html").render(report)
    assert f"<summary>{escape(title(rule))}</summary>" in page
