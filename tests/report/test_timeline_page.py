"""The timeline's page: that it needs nothing else, that names stay text, and, in a browser, that
it works."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.events import Event, Noted, RunEnded, RunStarted, SqeIssued
from pybpfvm.report import timeline_html
from pybpfvm.report.timeline import Setting
from pybpfvm.report.timeline_builder import timeline
from tests.support import chromium

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/06_accept_recv/scenario.toml"
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1><!--"


def hostile_page() -> str:
    events: list[Event] = [
        Noted(0, HOSTILE, HOSTILE),
        SqeIssued(0, 1, 37, 0, 0, 0, HOSTILE),
        RunStarted(0, 1, HOSTILE, 0, 1, 0),
        RunEnded(0, 1, HOSTILE, 1, 0, 5, 0, 1, HOSTILE),
    ]
    setting = Setting(title=HOSTILE, object=HOSTILE, stopped=HOSTILE, opcodes={37: HOSTILE})
    return timeline_html.render(timeline(events, setting))


def test_names_stay_text() -> None:
    text = hostile_page()
    assert text.count("<script") == 2
    assert "<img" not in text


def test_the_page_needs_nothing_else() -> None:
    text = hostile_page()
    assert not re.search(r"(?:src|href)\s*=\s*[\"']|@import|url\((?!#)|fetch\(|XMLHttp", text)
    assert not re.findall(r"https?://", text)
    assert "default-src &#x27;none&#x27;" in text


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    refused = chromium.unavailable()
    if refused:
        pytest.skip(refused)
    target = tmp_path_factory.mktemp("page") / "timeline.html"
    assert main(["run", str(EXAMPLE), "--quiet", "--timeline", str(target)]) == 0
    with chromium.Page(target, 1200, 900) as opened:
        yield opened


@pytest.fixture(autouse=True)
def at_first(request: pytest.FixtureRequest) -> None:
    """Each test in the browser begins with everything in view and nothing chosen."""
    if "page" in request.fixturenames:
        opened = request.getfixturevalue("page")
        opened.run("window.scrollTo(0, 0)")
        opened.press("0")
        escape(opened)


def escape(page: chromium.Page) -> None:
    for kind in ("keyDown", "keyUp"):
        page.ask("Input.dispatchKeyEvent", type=kind, key="Escape")


def mouse(page: chromium.Page, kind: str, x: float, y: float, **more: object) -> None:
    page.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)


def click(page: chromium.Page, item: int) -> None:
    x, y = page.run(f"timeline.spot({item})")
    for kind in ("mousePressed", "mouseReleased"):
        mouse(page, kind, x, y, button="left", clickCount=1)


def found(page: chromium.Page, condition: str) -> int:
    """The id of the first item for which a condition on `one` holds."""
    number = page.run(f"[...timeline.items.values()].find((one) => {condition}).id")
    assert isinstance(number, int)
    return number


def details(page: chromium.Page) -> str:
    return str(page.run("document.getElementById('details').innerText"))


def span(page: chromium.Page) -> float:
    return float(page.run("timeline.state.hi - timeline.state.lo"))


def test_it_opens_without_complaints_or_requests(page: chromium.Page) -> None:
    assert page.complaints == []
    assert page.run("document.getElementById('where').textContent") == "events 0 to 150"
    # Something is drawn, and not only the ground.
    colours = page.run(
        "(() => { const c = document.getElementById('picture'), p = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data, s = new Set();"
        "for (let i = 0; i < p.length; i += 4) s.add(p[i] << 16 | p[i + 1] << 8 | p[i + 2]);"
        "return [...s]; })()"
    )
    assert 0x0072B2 in colours, "runs"
    assert 0x9FD0EE in colours, "requests"


def test_a_click_tells_of_a_run_and_its_helper_calls_with_their_lines(page: chromium.Page) -> None:
    click(page, found(page, "one.kind === 'run' && one.request === 7"))
    told = details(page)
    assert "on_recv, run 1 of request 7" in told
    assert "returned 0: done" in told
    assert "copy_from_user(&fp-216, 64, &buffer) = 0" in told
    assert "copy_from_user(head, sizeof(head), (void *)now->server.buffer);" in told
    assert "request 8: RECV" in told


def test_a_click_tells_of_a_request(page: chromium.Page) -> None:
    click(page, found(page, "one.kind === 'request' && one.number === 4"))
    told = details(page)
    assert "request 4: RECV" in told
    assert "addr &buffer, len 256" in told
    assert "IO_HARDLINK" in told
    assert re.search(r"result\s+3\b", told)
    assert re.search(r"completes on\s+CQ 1", told)
    assert "request 5: BPF on_recv" in told, "the next in its chain"


def test_a_click_tells_of_a_cqe(page: chromium.Page) -> None:
    click(page, found(page, "one.kind === 'cqe' && one.cq === 0 && one.request < 0"))
    told = details(page)
    assert "CQE on CQ 0: 3, emitted by on_recv" in told
    assert "by user" in told


def test_wheel_and_keys_zoom_and_drags_move(page: chromium.Page) -> None:
    whole = span(page)
    mouse(page, "mouseWheel", 700, 400, deltaX=0, deltaY=-240)
    page.wait(f"timeline.state.hi - timeline.state.lo < {whole * 0.9}")
    page.press("+")
    near = span(page)
    assert near < whole * 0.6
    low = page.run("timeline.state.lo")
    mouse(page, "mousePressed", 700, 500, button="left", clickCount=1)
    mouse(page, "mouseMoved", 500, 500, button="left", buttons=1)
    mouse(page, "mouseReleased", 500, 500, button="left", clickCount=1)
    page.wait(f"timeline.state.lo > {low}")
    assert abs(span(page) - near) < 1e-6
    assert page.run("timeline.state.picked") is None, "a drag is no click"
    page.press("0")
    assert span(page) == whole


def test_keys_go_from_item_to_item_and_along_causes(page: chromium.Page) -> None:
    page.press("j")
    assert "step: steps[0]: submit 1" in details(page)
    for _ in range(3):
        page.press("j")
    assert "map_lookup_elem" in details(page)
    page.press("k")
    assert "start, run 1 of request 1" in details(page)
    page.press("]")
    assert "request 2: ACCEPT" in details(page)
    page.press("[")
    assert "start, run 1 of request 1" in details(page)
    escape(page)
    assert "Nothing selected" in details(page)


def test_the_axis_can_be_time(page: chromium.Page) -> None:
    page.press("t")
    assert page.run("timeline.state.byTime") is True
    page.wait("document.getElementById('where').textContent.endsWith('ms')")
    page.press("t")
    assert page.run("timeline.state.byTime") is False


def test_find_goes_to_what_is_called_so(page: chromium.Page) -> None:
    page.run("document.getElementById('find').focus()")
    page.run("document.getElementById('find').value = 'request 11'")
    for kind in ("keyDown", "keyUp"):
        page.ask("Input.dispatchKeyEvent", type=kind, key="Enter")
    assert "request 11: ACCEPT" in details(page)
    page.run("document.getElementById('view').focus()")


def test_it_can_be_read_without_seeing_it(page: chromium.Page) -> None:
    unnamed = page.run(
        "[...document.querySelectorAll('button, input, [role]')].filter((e) => !(e.ariaLabel ||"
        " e.textContent.trim() || e.labels?.length || e.role === 'status' || e.title)).length"
    )
    assert unnamed == 0
    assert page.run("document.getElementById('details').ariaLive") == "polite"
    assert page.run("document.documentElement.lang") == "en"


def test_it_is_drawn_in_the_dark_and_in_print_width(page: chromium.Page) -> None:
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.ask("Emulation.setEmulatedMedia", features=dark)
    pixel = "[...document.getElementById('picture').getContext('2d').getImageData(2, 8, 1, 1).data]"
    page.wait(f"{pixel}[0] < 60")
    page.ask("Emulation.setEmulatedMedia", features=[])
    page.wait(f"{pixel}[0] > 200")
    page.resize(480, 800)
    page.wait("document.getElementById('picture').clientWidth < 480")
    assert page.run("document.documentElement.scrollWidth") <= 480
    page.resize(1200, 900)


def test_a_hostile_name_is_only_drawn(tmp_path: Path) -> None:
    refused = chromium.unavailable()
    if refused:
        pytest.skip(refused)
    target = tmp_path / "hostile.html"
    target.write_text(hostile_page())
    with chromium.Page(target) as opened:
        for _ in range(4):
            opened.press("j")
            time.sleep(0.02)
        assert opened.run("window.hacked") is None
        assert opened.complaints == []
