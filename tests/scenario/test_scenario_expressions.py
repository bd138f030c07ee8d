"""Expressions in scenarios: `that` at the end and in checks, and invariants."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.errors import InputError
from pybpfvm.events import Event, RunEnded
from pybpfvm.scenario import Outcome, parse_bytes, run_scenario
from pybpfvm.session.hostring import BackendName
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PINGPONG = """
object = "prog.v3.bpf.o"
abi = "iouring-v3"
programs = ["player"]
ring = { cq_entries = [16, 16] }
user.alice = { struct = "player", fields = { own_cq = 1, peer_cq = 2, rallies = 11 } }
user.bob = { struct = "player", fields = { own_cq = 2, peer_cq = 1, rallies = 11 } }
steps = [
    { check = { that = ["inflight == 0", "((struct player *)alice)->hits == 0", 'CHECK'] } },
    { submit = [
        { prog = "player", user_data = { block = "alice" } },
        { prog = "player", user_data = { block = "bob" } },
        { op = "nop", cq = 1 },
    ] },
    { wait = 2 },
]
"""


def run(
    that: str,
    *,
    check: str = "1",
    invariant: str = "",
    backend: BackendName = "sim",
    seen: list[Event] | None = None,
) -> Outcome:
    head = f"invariant = ['{invariant}']\n" if invariant else ""
    text = f"{head}{PINGPONG.replace('CHECK', check)}[expect]\nthat = ['{that}']\n"
    scenario = parse_bytes(text.encode(), "t.toml", EXAMPLES / "03_pingpong")
    observer = None if seen is None else seen.append
    return run_scenario(scenario, backend=backend, observer=observer)


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_what_holds_gives_no_findings(backend: BackendName) -> None:
    need_backend(backend)
    that = (
        "players[1].hits == 6 && players[2].hits == 5 && cq[1].ready == 0 && cq[0].head == 2 &&"
        ' runs("player") == 12 && inflight == 0 && parked == 0 && overflow == 0 &&'
        " ((struct player *)bob)->hits == 5 && all(!p.hits || p.own_cq == k for k, p in players)"
    )
    invariant = "cq[1].ready + cq[2].ready <= 1 && ret <= 1"
    outcome = run(that, invariant=invariant, backend=backend)
    assert outcome.findings == ()
    assert outcome.exit_code == 0


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_what_does_not_hold_shows_its_parts(backend: BackendName) -> None:
    need_backend(backend)
    outcome = run(
        "players[1].hits == 7 && cq[1].ready == 0", check="runs(\"player\") == 3", backend=backend
    )  # fmt: skip
    checked, ended = outcome.findings
    assert checked.where == "t.toml: steps[0].that[2]"
    assert (checked.expected, checked.found) == ('runs("player") == 3', 'runs("player") = 0')
    assert ended.where == "t.toml: expect.that[0]"
    assert ended.found == "players[1].hits = 6, cq[1].ready = 0"
    assert outcome.exit_code == 1


def test_an_expression_without_a_value_is_a_finding() -> None:
    (finding,) = run("players[9].hits == 7").findings
    assert "no value (column 1: players has no element with key 9" in finding.found
    (finding,) = run("*(u32 *)8 == 7").findings
    assert "NULL pointer + 8" in finding.found
    (finding,) = run("r1 == 7").findings
    assert "there are no registers here" in finding.found


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_a_broken_invariant_names_the_first_run_that_broke_it(backend: BackendName) -> None:
    need_backend(backend)
    seen: list[Event] = []
    outcome = run("1", invariant="players[1].hits < 3", backend=backend, seen=seen)
    (finding,) = outcome.findings
    assert finding.where == "t.toml: invariant[0]"
    runs = [event for event in seen if isinstance(event, RunEnded)]
    assert len(runs) == 12
    number = int(finding.found.split("after run ")[1].split()[0])
    assert finding.found.startswith("players[1].hits = 3 after run ")
    broke = runs[number - 1]
    assert f"run {broke.run} of request {broke.request}" in finding.found
    assert sum(one.request == broke.request for one in runs[:number]) == broke.run == 3


def test_invariants_are_asked_without_an_observer_too() -> None:
    assert len(run("1", invariant="players[1].hits < 3").findings) == 1


def test_expectations_are_counted() -> None:
    text = f"invariant = ['1', '2']\n{PINGPONG}[expect]\nthat = ['1']\n".replace("CHECK", "1")
    scenario = parse_bytes(text.encode(), "t.toml", EXAMPLES / "03_pingpong")
    assert scenario.stated == 6
    assert len(list(scenario.expressions())) == 6


@pytest.mark.parametrize(
    ("that", "reason"),
    [
        ("players[1].hits = 7", "t.toml: expect.that[0], column 17: '=' can not stand here"),
        ("players[1].hitz == 7", "t.toml: expect.that[0], column 1: struct player has no member"),
        ("nobody == 7", "t.toml: expect.that[0], column 1: nothing is called 'nobody' here"),
        (
            "globals.hits == 7",
            "t.toml: expect.that[0], column 1: nothing is called 'globals' here (a global variable "
            "goes by its name alone)",
        ),
        ("players[1]", "t.toml: expect.that[0], column 1: a struct is no condition"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(that: str, reason: str) -> None:
    seen: list[Event] = []
    with pytest.raises(InputError) as caught:
        run(that, seen=seen)
    assert str(caught.value).startswith(reason)
    assert seen == []


@pytest.mark.parametrize(
    "line", ["invariant = 'x'", "invariant = [3]", "expect.that = [1]", "expect.that = 'a'"]
)
def test_other_values_than_texts_are_refused(line: str) -> None:
    text = f'{line}\nobject = "prog.v3.bpf.o"\n'
    with pytest.raises(InputError, match=r"invariant|that"):
        parse_bytes(text.encode(), "t.toml", EXAMPLES / "03_pingpong")


LOOP = """
object = "prog.bpf.o"
abi = "loop-7.2"
ring = { entries = 8, cq0_entries = 8 }
constants = { sq_entries = { ring = "sq_entries" }, cq_entries = { ring = "cq_entries" } }
globals = { to_run = 100 }
invariant = ["to_run <= 100", "inflight <= 8", "overflow == 0", "sq.entries == 8"]
steps = [{ enter = true, result = 0 }]
expect.that = ["to_run == 0", "cq[0].entries == 8", "time >= 0", "backlog == 0", "parked == 0"]
"""


def test_rings_of_a_loop_have_expressions_too() -> None:
    scenario = parse_bytes(LOOP.encode(), "t.toml", EXAMPLES / "loop_nops")
    (finding,) = run_scenario(scenario).findings
    assert finding.where == "t.toml: expect.that[4]"
    assert "never parked" in finding.found


def test_the_command_line_shows_a_failed_expression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PINGPONG.replace("CHECK", "1").replace(
        '"prog.v3.bpf.o"', f'"{EXAMPLES}/03_pingpong/prog.v3.bpf.o"'
    )
    path = tmp_path / "t.toml"
    path.write_text(f"{text}[expect]\nthat = ['players[1].hits == 7']\n")
    assert main(["run", str(path)]) == 1
    said = capsys.readouterr()
    assert (
        "expect.that[0]: expected players[1].hits == 7, found players[1].hits = 6"
        in said.out + said.err
    )
