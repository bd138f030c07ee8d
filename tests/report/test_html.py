"""The page: what is on it, that a hostile object can not leave its text, and, in a browser, that
it works."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pybpfvm.fuzz.lines import subprogs_of
from pybpfvm.isa.asm import assemble
from pybpfvm.profiles import PROFILES
from pybpfvm.program import BpfObject, MapSpec, MapType, Program, SourceLine
from pybpfvm.report import html, recording
from pybpfvm.report.formats import Report
from pybpfvm.session.judged import JudgedObject, JudgedProgram, judged_program
from pybpfvm.session.judging import JudgeRequest, judge
from pybpfvm.verifier.verdict import Finding, Kind, Rejected, Rule, Statistics
from tests.support import chromium

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1><!--"
MAP = MapSpec("table", MapType.ARRAY, 4, 64, 1)
BAD = """
  r6 = *(u32 *)(r1 + 0)
  *(u32 *)(r10 - 4) = r6
  r2 = r10
  r2 += -4
  r1 = map[table] ll
  call lookup
  if r0 == 0 goto out
  if r6 > 64 goto out
  r0 += r6
  r0 = *(u64 *)(r0 + 0)
out:
  r0 = 0
  exit
"""
LOOP = """
  r0 = 0
  r1 = 0
again:
  r0 += r1
  r1 += 1
  if r1 != {turns} goto again
  exit
"""


def judged(text: str, name: str = "main", line: str = "") -> JudgedProgram:
    request = JudgeRequest()
    profile = PROFILES["socket_filter"]
    insns = assemble(text, calls={"lookup": 1}, maps={"table": 0})
    lines = {0: SourceLine(f"/src/{line}.c", 3, 1, line)} if line else {}
    program = Program(
        name, "socket", insns, subprogs=subprogs_of(insns), lines=lines, license="GPL"
    )
    obj = BpfObject("test.o", "", (program,), (MAP,))
    recorder = html.recorder(program, obj, profile, request)
    verdict = judge(program, obj, profile, request, observer=recorder)
    return judged_program(program, obj, profile, verdict, recorded=recorder.recorded(verdict))


def page(*programs: JudgedProgram, path: str = "test.o") -> str:
    one = JudgedObject(path, "6.18", programs=programs)
    return html.render(Report((one,), JudgeRequest()))


def data(text: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    read = json.loads(found[1])
    assert isinstance(read, list)
    return read


def state(walk: dict[str, Any], number: int) -> dict[str, str]:
    """The state before step `number`, put together as the page does it, of one path."""
    known: dict[str, str] = {}
    for step in walk["steps"]:
        if step[4]:
            known = {}
        pairs = iter(step[5])
        for place, value in zip(pairs, pairs, strict=True):
            if value < 0:
                known.pop(walk["places"][place], None)
            else:
                known[walk["places"][place]] = walk["values"][value]
        if step[0] == number:
            return known
    raise AssertionError(f"no step {number}")


def test_the_page_tells_the_verdict_without_its_script() -> None:
    text = page(judged(BAD), judged("r0 = 0\nexit", "fine"))
    before = text[: text.index('<script type="application/json"')]
    assert "invalid access to map value, value_size=64 off=64 size=8" in before
    assert "On every path it can not fault, leak or hang." in before
    assert before.count('<section class="program"') == 2
    assert "<svg" in before


def test_states_are_those_of_the_exploration() -> None:
    (walk,) = data(page(judged(BAD)))
    ((pc, number),) = walk["errors"]
    assert pc == 10
    known = state(walk, number)
    bounds = "smin=smin32=0,smax=umax=smax32=umax32=64,var_off=(0x0; 0x7f)"
    assert known["r0"] == f"map_value(map=table,ks=4,vs=64,{bounds})"
    assert known["r6"].startswith(("scalar(", "Pscalar("))
    assert bounds in known["r6"]
    assert [path[3] for path in walk["paths"]] == ["refused", "exit", "covered"]
    assert [path[0] for path in walk["paths"]] == [-1, 0, 0]


def test_a_hostile_object_stays_text() -> None:
    text = page(judged(BAD, HOSTILE, HOSTILE), path=HOSTILE)
    assert text.count("<script") == 2
    assert "<img" not in text
    (walk,) = data(text)
    assert walk["lines"] == [[f"/src/{HOSTILE}.c", 3, HOSTILE]]
    assert "script-src &#x27;sha256-" in text


def test_the_page_needs_nothing_else() -> None:
    text = page(judged(BAD))
    assert not re.search(r"(?:src|href)\s*=|@import|url\((?!#)|fetch\(|XMLHttp", text)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_long_explorations_are_bounded_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "FIRST_STEPS", 100)
    monkeypatch.setattr(recording, "LAST_STEPS", 20)
    one = judged(LOOP.format(turns=500))
    text = page(one)
    (walk,) = data(text)
    assert walk["allSteps"] == one.verdict.stats.processed_insns > 1_000
    assert len(walk["steps"]) == 120
    assert f"States are kept of 120 of {walk['allSteps']:,} steps." in text
    numbers = [step[0] for step in walk["steps"]]
    assert numbers[:100] == list(range(100))
    assert numbers[100:] == list(range(walk["allSteps"] - 20, walk["allSteps"]))
    assert walk["steps"][100][4], "after a gap a state is whole"
    monkeypatch.setattr(html, "PAGE_STEPS", 125)
    two = data(page(judged(LOOP.format(turns=500)), judged(BAD)))
    assert not two[0]["steps"], "refused programs come first where there is not room for all"
    assert two[1]["steps"]


def test_programs_that_nothing_was_recorded_of_have_their_verdict() -> None:
    finding = Finding(Rule.UNSUPPORTED, Kind.UNSUPPORTED, 0, "unsupported: this & that")
    verdict = Rejected(Statistics(), (finding,))
    text = page(JudgedProgram("p", "s", "", verdict))
    assert "unsupported: this &amp; that" in text
    assert data(text) == [{"bad": True}]
    assert "unsupported: this &amp; that" in verdict._repr_html_()


def test_code_in_prose_is_shown_as_code_and_stays_text() -> None:
    one = judged(BAD)
    assert isinstance(one.verdict, Rejected)
    error = replace(one.verdict.errors[0], suggestion="`if (a < b)` or `<b>`, not ` alone")
    shown = page(replace(one, verdict=replace(one.verdict, errors=(error,))))
    assert "<code>if (a &lt; b)</code> or <code>&lt;b&gt;</code>, not ` alone" in shown


def test_no_program_at_all() -> None:
    assert data(page()) == []


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    reason = chromium.unavailable()
    if reason is not None:
        pytest.skip(reason)
    path = tmp_path_factory.mktemp("page") / "page.html"
    programs = (judged(LOOP.format(turns=6), HOSTILE, HOSTILE), judged(BAD, "bad", "return v[i];"))
    path.write_text(page(*programs), encoding="utf-8")
    with chromium.Page(path) as opened:
        yield opened


def told(browser: chromium.Page, program: int, part: str) -> str:
    script = f"document.querySelector('#program-{program} [data-part={part}]').textContent"
    text = browser.run(script)
    assert isinstance(text, str)
    return text


def test_in_a_browser(browser: chromium.Page) -> None:
    # It opens at the error, with the history of the register that is to blame.
    assert "before instruction 10" in told(browser, 1, "where")
    history = told(browser, 1, "history")
    assert "written by9: r0 += r6" in history
    assert "narrowed by8: if r6 > 0x40 goto +0x2" in history
    assert "written by0: w6 = *(u32 *)(r1 + 0x0)" in history

    browser.press("k")
    assert "before instruction 9" in told(browser, 1, "where")
    browser.click("#program-1 .row[data-pc='7']")
    assert "before instruction 7" in told(browser, 1, "where")
    assert "map_value_or_null" in told(browser, 1, "state")
    browser.click("#program-1 table.state th button")
    assert told(browser, 1, "history").startswith("r0 before instruction 7")
    browser.press("1")
    browser.click("#program-1 .tree li li button.link")
    assert "path 1" in told(browser, 1, "where")

    # The other program: a loop's turns beside one another; a name of markup is only a name.
    browser.click("#choose-0")
    assert browser.run("document.querySelector('#program-0 h2').textContent") == HOSTILE
    browser.click("#program-0 .row[data-pc='3']")
    browser.press("2")
    assert browser.run("document.querySelectorAll('#program-0 .compare thead th').length") == 7
    browser.press("]")
    assert "visit 2 of 6" in told(browser, 0, "where")
    assert browser.run("window.hacked") is None
    assert browser.complaints == []


@pytest.mark.parametrize("width", [1200, 600])
def test_nothing_is_wider_than_the_window(browser: chromium.Page, width: int) -> None:
    browser.resize(width, 900)
    assert browser.run("document.documentElement.scrollWidth") <= width
