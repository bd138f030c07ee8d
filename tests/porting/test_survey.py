"""What is said of programs of 2021 holds in their runs, and what can not be known is not said."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.errors import InputError
from pybpfvm.events import Event, HelperCalled, OfRing, RunEnded, RunStarted, SqeIssued
from pybpfvm.objectfile import read_object
from pybpfvm.porting.changes import changes
from pybpfvm.porting.places import Places
from pybpfvm.porting.port import port
from pybpfvm.porting.skeleton import skeleton
from pybpfvm.porting.survey import Does, Fact, Survey, Values, survey
from pybpfvm.profiles import profile_named
from pybpfvm.scenario import parse, run_scenario
from pybpfvm.session.judging import JudgeRequest, read_cases
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.verifier.usermemory.usernames import EMIT, FROM_USER, REAP, SUBMIT, TO_USER

ROOT = Path(__file__).parents[2]
SCENARIOS = sorted((ROOT / "examples").glob("[0-9]*/scenario.toml"))
_U32 = 0xFFFF_FFFF
_LONG: Values = frozenset({1 << 60})


def surveys(path: Path, abi: str | None = None) -> dict[str, Survey]:
    cases = read_cases(path, JudgeRequest(abi=abi))
    found = {}
    for case in cases.cases:
        assert case.profile is not None
        found[case.program.name] = survey(case.program, cases.obj, case.profile)
    return found


def holds(known: Values, value: int) -> bool:
    return known is None or value in known


class Witness:
    """Compares what happens in runs with what is said of the programs."""

    def __init__(self, said: dict[str, Survey]) -> None:
        self._facts: dict[tuple[str, int, Does], Fact] = {
            (name, fact.pc, fact.does): fact for name, seen in said.items() for fact in seen.facts
        }
        self._said = said
        self._program = ""
        self._submitted: list[SqeIssued] = []
        self.compared: Counter[Does] = Counter()

    def __call__(self, event: Event) -> None:
        match event:
            case OfRing():
                self(event.event)
            case RunStarted():
                self._program = event.program
            case SqeIssued() if event.origin != "user":
                self._submitted.append(event)
            case HelperCalled():
                self._called(event)
            case RunEnded():
                self._ended(event)
            case _:
                pass

    def _fact(self, pc: int, does: Does) -> Fact:
        self.compared[does] += 1
        return self._facts[self._program, pc, does]

    def _called(self, event: HelperCalled) -> None:
        name, args = event.helper, [arg & _U32 for arg in event.args]
        exact = self._said[self._program].complete
        checks: dict[str, int] = {}
        if name in EMIT:
            fact = self._fact(event.pc, Does.EMIT)
            checks = {"cq": args[1], "user_data": event.args[2], "res": args[3]}
        elif name in REAP:
            fact = self._fact(event.pc, Does.REAP)
            checks = {"cq": args[1]}
        elif name in FROM_USER:
            fact = self._fact(event.pc, Does.FROM_USER)
            checks = {"size": args[1]}
        elif name in TO_USER:
            fact = self._fact(event.pc, Does.TO_USER)
            checks = {"size": args[TO_USER[name][1]]}
        elif name in SUBMIT:
            fact = self._fact(event.pc, Does.SUBMIT)
            for issued in self._submitted:
                sqe = Sqe.unpack(issued.sqe)
                fields = ("opcode", "flags", "addr", "off", "len", "op_flags", "user_data")
                checks = {field: getattr(sqe, field) for field in fields}
                checks |= {"fd": sqe.fd & _U32, "cq": sqe.addr3 & 0xFFFF}
            self._submitted.clear()
        else:
            fact = self._fact(event.pc, Does.HELPER)
            assert fact.helper == name
        if exact:
            for field, value in checks.items():
                assert holds(fact.values[field], value), (self._program, event.pc, field, value)

    def _ended(self, event: RunEnded) -> None:
        seen = self._said[event.program]
        if event.wait_cq is None:
            assert seen.of(Does.FINISH)
            self.compared[Does.FINISH] += 1
            return
        waits = seen.of(Does.WAIT)
        cq, nr = event.wait_cq, event.wait_nr
        fits = [holds(f.values["cq"], cq) and holds(f.values["nr"], nr) for f in waits]
        assert waits
        assert any(fits) or not seen.complete
        self.compared[Does.WAIT] += 1


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.parent.name)
def test_facts_hold_in_runs(path: Path) -> None:
    scenario = parse(path)
    said = surveys(scenario.object, scenario.abi)
    witness = Witness(said)
    outcome = run_scenario(scenario, engine="interp", observer=witness)
    assert outcome.ok
    assert sum(witness.compared.values()) >= 2


def test_a_limiter_is_known_well() -> None:
    seen = surveys(ROOT / "examples/18_rate_limit/prog.v3.bpf.o")["limiter"]
    assert seen.complete
    assert (seen.cqs, seen.maps) == (frozenset({0, 1, 2}), ("state",))
    (wait,) = seen.of(Does.WAIT)
    assert wait.values == {"cq": frozenset({1, 2}), "nr": frozenset({1, 2})}
    opcodes = {fact.value("opcode"): fact for fact in seen.of(Does.SUBMIT)}
    assert set(opcodes) == {Op.TIMEOUT, Op.TIMEOUT_REMOVE}
    timer = opcodes[Op.TIMEOUT]
    assert (timer.value("cq"), timer.value("user_data"), timer.value("len")) == (2, 1, 1)
    assert timer.values["addr"] is None
    assert timer.sources["addr"] == "the request's user_data"
    (copy,) = seen.of(Does.FROM_USER)
    assert (copy.value("size"), copy.sources["address"]) == (24, "the request's user_data")
    places = Places(seen.program)
    assert (places.file, places.text(copy.pc)) == ("prog.bpf.c", "line 82")


def test_requests_are_named_with_their_queue() -> None:
    """That of the request which is known to have this user_data; of several, none is known."""
    seen = surveys(ROOT / "examples/18_rate_limit/prog.v3.bpf.o")["limiter"]
    (timer,) = (one for one in seen.of(Does.SUBMIT) if one.value("opcode") == Op.TIMEOUT)
    rows: tuple[tuple[Mapping[str, Values], str], ...] = (
        ({}, "named(2, 1)"),
        ({"user_data": None, "cq": frozenset({3})}, "named(2, 1)"),
        ({"user_data": frozenset({5, 1 << 60}), "cq": frozenset({3})}, "named(2, 1)"),
        ({"cq": frozenset({1})}, "named(1 /* TODO: its queue */, 1)"),
    )
    for given, line in rows:
        other = replace(timer, values={**timer.values, **given})
        more = replace(seen, facts=(*seen.facts, other))
        assert f"entry->addr = {line};" in skeleton(more, "loop-7.1").text
    more = replace(seen, facts=(replace(timer, values={**timer.values, "user_data": _LONG}),))
    told = [change.text for change in changes(more, profile_named("loop-7.1"))]
    assert any(text.startswith("its user_data (0x1000000000000000) must") for text in told)


def test_what_depends_on_the_host_is_not_known() -> None:
    seen = surveys(ROOT / "examples/03_pingpong/prog.v2.bpf.o", "iouring-v2")["player"]
    assert seen.cqs is None
    (emit,) = seen.of(Does.EMIT)
    assert emit.values["cq"] is None
    target = profile_named("loop-7.1")
    told = [change.text for change in changes(seen, target) if change.topic == "not known"]
    assert any(text.startswith("cq, user_data (") and "posts" in text for text in told)
    assert any(text.startswith("cq where the program takes") for text in told)


def test_values_that_meet_again_are_told_apart() -> None:
    """One instruction submits reads and writes: the paths to it differ in a register only."""
    seen = surveys(ROOT / "examples/11_copy/prog.v3.bpf.o")["copy"]
    opcodes = [fact.opcodes for fact in seen.of(Does.SUBMIT)]
    assert opcodes == [frozenset({Op.READ, Op.WRITE})] * 2


def test_too_many_paths_are_admitted() -> None:
    seen = surveys(ROOT / "examples/21_echo/prog.v3.bpf.o")["echo"]
    assert not seen.complete
    assert "too many paths" in seen.why_not
    told = [change.text for change in changes(seen, profile_named("loop-7.1"))]
    assert seen.why_not in told


def test_experiments_are_not_ported() -> None:
    obj = read_object(ROOT / "examples/x_requeue/prog.x.bpf.o")
    with pytest.raises(InputError, match="of iouring-x, an experiment"):
        port(obj.programs[0], obj, [profile_named("iouring-x")], profile_named("loop-7.1"))


def test_rejected_programs_say_so() -> None:
    seen = surveys(ROOT / "tests/acceptance/load_checks.v3.bpf.o", "iouring-v3")
    rejected = [one for one in seen.values() if one.why_not.startswith("the verifier rejects")]
    assert rejected
    assert not any(one.complete for one in rejected)


def test_helpers_and_licences() -> None:
    target = profile_named("loop-7.1")
    topics = Counter(
        change.topic
        for path, abi in (
            (ROOT / "examples/01_hello/prog.v2.bpf.o", "iouring-v2"),
            (ROOT / "tests/acceptance/rows.v2.bpf.o", "iouring-v2"),
        )
        for seen in surveys(path, abi).values()
        for change in changes(seen, target)
    )
    assert topics["helpers"]
    assert not topics["licence"]


def test_other_programs_have_no_port() -> None:
    path = ROOT / "examples/loop_nops/prog.bpf.o"
    cases = read_cases(path, JudgeRequest())
    target = profile_named("loop-7.1")
    with pytest.raises(InputError, match="ports begin at programs of 2021"):
        port(cases.obj.programs[0], cases.obj, cases.cases[0].profiles, target)
    hello = read_cases(ROOT / "examples/01_hello/prog.v2.bpf.o", JudgeRequest())
    with pytest.raises(InputError, match="has no loop"):
        port(hello.obj.programs[0], hello.obj, hello.cases[0].profiles, profile_named("iouring-v3"))


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(ROOT / "examples/18_rate_limit/prog.v3.bpf.o")
    assert main(["port", "--to", "loop-7.1", path, "-o", str(tmp_path / "made")]) == 0
    out = capsys.readouterr().out
    assert "limiter: from iouring-v3 to loop-7.1" in out
    assert "line 108: the run waits for 1 or 2 completion(s) on CQ 1 or 2" in " ".join(out.split())
    rows = [line for line in out.splitlines() if " | " in line]
    assert any("line 82" in row and "state.read_82" in row for row in rows)
    made = tmp_path / "made/limiter.loop.bpf.c"
    assert out.splitlines()[-1] == f"wrote {made}"
    text = made.read_text()
    assert "\t\tentry->addr = named(2, 1);\n" in text  # TIMEOUT_REMOVE of the timer
    assert text.startswith("/*\n * limiter of prog.bpf.c (iouring-v3) for loop-7.1: a skeleton.")
    for arguments in itertools.chain(
        [["--to", "iouring-v3", path], ["--to", "loop-7.1", path, "--prog", "nobody"]],
        [["--to", "loop-7.1", str(ROOT / "README.md")]],
    ):
        assert main(["port", *arguments]) == 2
        assert "pybpfvm: error: " in capsys.readouterr().err
