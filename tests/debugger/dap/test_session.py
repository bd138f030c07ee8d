"""A client looks at recordings: stops, frames, variables, breakpoints, steps both ways."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.debugger.dap.client import Client, Failed, has_schema, inside, spawned
from tests.debugger.recorded import (
    HANGING,
    LONGRUN_C,
    PINGPONG,
    PINGPONG_C,
    line_of,
    record_longrun,
    record_pingpong,
)

_SOURCE = {"path": str(PINGPONG_C)}
_HITS = line_of(PINGPONG_C, "*seen = me")  # code of this line begins in one place
_COPY = line_of(PINGPONG_C, "if (copy_from_user")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_pingpong(tmp_path_factory.mktemp("dap") / "t.bpftrace")


@pytest.fixture
def client(recording: Path) -> Iterator[Client]:
    """One that is stopped at the beginning of ping-pong."""
    with inside() as found:
        stop = found.start(recording=str(recording))
        assert stop["reason"] == "entry"
        yield found
        found.ask("disconnect")


def _at(client: Client) -> tuple[str, int, str]:
    """Function, line and address of the innermost frame."""
    frame = client.frames()[0]
    return frame["name"], frame["line"], frame["instructionPointerReference"]


def _set(client: Client, *breakpoints: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.ask(
        "setBreakpoints", source=_SOURCE, breakpoints=list(breakpoints)
    )["breakpoints"]
    return found


def test_a_scenario_is_run_and_recorded_first() -> None:
    with spawned() as client:
        client.initialize()
        client.launch(program=str(PINGPONG / "scenario.toml"), args=["--seed", "7"])
        assert client.event("process")["name"].endswith("prog.v3.bpf.o")
        client.ask("configurationDone")
        assert client.event("stopped")["reason"] == "entry"
        assert "seed 7" in client.output["stdout"]
        assert "all expectations met" in client.output["stdout"]
        (frame,) = client.frames()
        assert frame["name"] == "player"
        assert frame["source"]["path"] == str(PINGPONG_C)
        client.ask("terminate")
        client.event("terminated")


def test_messages_are_held_against_the_official_schema() -> None:
    if not has_schema():
        pytest.skip("debugpy, which ships the schema, is not installed")


def test_frames_are_those_of_the_ring_that_runs(client: Client) -> None:
    assert client.ask("threads")["threads"] == [{"id": 2, "name": "ring 1"}]
    assert _at(client)[0] == "player"
    with pytest.raises(Failed, match="there is no thread 9"):
        client.frames(9)


def test_scopes_show_locals_registers_maps_rings_and_memory(client: Client) -> None:
    _set(client, {"line": _HITS})
    assert client.move("continue")["reason"] == "breakpoint"
    local = client.scope("Locals")
    me = client.inside(local["me"]["variablesReference"])
    assert {name: one["value"] for name, one in me.items()} == {
        "own_cq": "1", "peer_cq": "2", "rallies": "11", "hits": "1",
    }  # fmt: skip
    assert local["me"]["type"] == "struct player"
    registers = client.scope("Registers")
    assert [*registers] == [*(f"r{n}" for n in range(11)), "pc"]
    assert registers["r10"]["value"].endswith("| fp0")
    assert "| ctx" in registers["r6"]["value"]
    maps = client.scope("Maps")
    assert maps["players"]["value"] == "array, 3 of 3 elements"
    elements = client.inside(maps["players"]["variablesReference"])
    assert client.inside(elements["[1]"]["variablesReference"])["hits"]["value"] == "0"
    (ring,) = client.scope("Rings").values()
    assert ring["value"] == "2 in flight, 0 parked"
    parts = client.inside(ring["variablesReference"])
    assert parts["CQ 1"]["value"] == "0 of 16 CQE(s)"  # the ball was taken
    requests = client.inside(parts["in flight"]["variablesReference"])
    assert requests["request 1"]["value"].startswith("BPF, user_data = ")
    memory = client.scope("User memory")
    assert memory["alice"]["value"].startswith("16 bytes at 0x")
    data = client.ask("readMemory", memoryReference=memory["alice"]["memoryReference"], count=12)
    assert base64.b64decode(data["data"]) == bytes.fromhex("01000000 02000000 0b000000")


def test_the_elements_of_a_map_follow_time(client: Client) -> None:
    _set(client, {"line": _HITS})
    for _ in range(3):
        client.move("continue")
    now = client.evaluate("players[1].hits")
    assert now == "1"
    assert client.evaluate("players[1].hits", format={"hex": True}) == "0x1"
    client.move("reverseContinue")
    client.move("reverseContinue")
    assert client.evaluate("players[1].hits") == "0"


def test_steps_back_are_steps_undone(client: Client) -> None:
    forward = [_at(client)]
    for _ in range(40):
        client.move("stepIn", granularity="instruction")
        forward.append(_at(client))
    assert len(set(forward)) > 30
    for place in reversed(forward[:-1]):
        client.move("stepBack", granularity="instruction")
        assert _at(client) == place


def test_lines_are_stepped_over_and_back(client: Client) -> None:
    _set(client, {"line": _HITS})
    client.move("continue")
    there = _at(client)
    assert there[1] == _HITS
    client.move("next")
    after = _at(client)
    assert after[1] != _HITS
    client.move("stepBack")
    assert _at(client)[1] == _HITS
    client.move("stepOut")
    assert client.frames() == [] or _at(client) != there


def test_the_recording_has_two_ends(client: Client) -> None:
    stop = client.move("continue")
    assert (stop["reason"], stop["description"]) == ("end", "The recording ends here")
    assert client.frames() == []
    stop = client.move("reverseContinue")
    assert (stop["reason"], stop["description"]) == ("entry", "The recording begins here")
    assert client.move("stepBack")["description"] == "The recording begins here"


def test_conditions_and_numbers_of_hits(client: Client) -> None:
    (one,) = _set(client, {"line": _HITS, "condition": "me.own_cq == 2"})
    assert one["verified"]
    assert one["line"] == _HITS
    stop = client.move("continue")
    assert stop["hitBreakpointIds"] == [one["id"]]
    assert client.evaluate("me.own_cq") == "2"
    client.move("reverseContinue")
    (other,) = _set(client, {"line": _HITS, "hitCondition": "== 11"})
    assert other["id"] != one["id"]
    client.move("continue")
    assert client.evaluate("ball.user_data") == "10"
    assert client.move("continue")["reason"] == "end"


def test_what_can_be_no_condition_is_said_where_it_was_set(client: Client) -> None:
    first, second, third = _set(
        client,
        {"line": _HITS, "condition": "nonsense +"},
        {"line": _HITS, "hitCondition": "often"},
        {"line": 1_000_000},
    )
    assert not first["verified"]
    assert "column" in first["message"]
    assert not second["verified"]
    assert "'often' is no number of hits" in second["message"]
    assert not third["verified"]


def test_logpoints_tell_and_go_on(client: Client) -> None:
    message = "hit {ball.user_data} of {me.own_cq}, {*(u64 *)0}"
    _set(client, {"line": _HITS, "logMessage": message})
    assert client.move("continue")["reason"] == "end"
    lines = client.output["console"].splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        f"hit {n} of {1 + n % 2}" for n in range(11)
    ]
    assert all("<" in line.partition(",")[2] for line in lines)


def test_a_typo_in_a_logpoint_is_said_where_it_was_set(client: Client) -> None:
    (one,) = _set(client, {"line": _HITS, "logMessage": "hit {ball.user_dato}"})
    assert not one["verified"]
    assert "no member 'user_dato'" in one["message"]


def test_breakpoints_move_to_where_code_is(client: Client) -> None:
    locations = client.ask("breakpointLocations", source=_SOURCE, line=1, endLine=1000)
    lines = [one["line"] for one in locations["breakpoints"]]
    assert _HITS in lines
    assert 1 not in lines
    (one,) = _set(client, {"line": 1})
    assert one["verified"]
    assert one["line"] == lines[0]
    (none,) = client.ask(
        "setBreakpoints", source={"path": "/nowhere/other.c"}, breakpoints=[{"line": 3}]
    )["breakpoints"]
    assert none == {"verified": False, "message": "no program has lines of /nowhere/other.c"}


def test_what_is_set_again_keeps_its_number_and_what_is_not_is_gone(client: Client) -> None:
    first, second = _set(client, {"line": _COPY}, {"line": _HITS})
    (again,) = _set(client, {"line": _HITS})
    assert again == second
    assert client.move("continue")["hitBreakpointIds"] == [second["id"]]
    _set(client)
    assert client.move("continue")["reason"] == "end"
    assert first["id"] != second["id"]


def test_functions_instructions_and_data_stop(client: Client) -> None:
    found = client.ask("setFunctionBreakpoints", breakpoints=[{"name": "player"}, {"name": "x"}])
    assert [one["verified"] for one in found["breakpoints"]] == [True, False]
    assert client.move("continue")["reason"] == "function breakpoint"
    client.ask("setFunctionBreakpoints", breakpoints=[])
    pc = _at(client)[2]
    client.ask("setInstructionBreakpoints", breakpoints=[{"instructionReference": pc, "offset": 8}])
    assert client.move("continue")["reason"] == "instruction breakpoint"
    assert int(_at(client)[2], 16) == int(pc, 16) + 8
    client.ask("setInstructionBreakpoints", breakpoints=[])
    info = client.ask("dataBreakpointInfo", name="players[2].hits")
    assert info["accessTypes"] == ["write"]
    (watch,) = client.ask("setDataBreakpoints", breakpoints=[{"dataId": info["dataId"]}])[
        "breakpoints"
    ]
    assert watch["verified"]
    stop = client.move("continue")
    assert stop["reason"] == "data breakpoint"
    after = int(client.evaluate("players[2].hits"))
    client.move("stepBack", granularity="instruction")
    assert int(client.evaluate("players[2].hits")) == after - 1


def test_variables_can_be_watched_if_they_lie_in_memory(client: Client) -> None:
    frame = client.frames()[0]["id"]
    scopes = {one["name"]: one for one in client.ask("scopes", frameId=frame)["scopes"]}
    local = scopes["Locals"]["variablesReference"]
    info = client.ask("dataBreakpointInfo", variablesReference=local, name="me")
    assert info["dataId"].endswith(":16")
    registers = scopes["Registers"]["variablesReference"]
    info = client.ask("dataBreakpointInfo", variablesReference=registers, name="r1")
    assert info == {"dataId": None, "description": "r1: it lies nowhere in memory"}
    (bad, read) = client.ask(
        "setDataBreakpoints",
        breakpoints=[{"dataId": "x"}, {"dataId": "0x10:8", "accessType": "read"}],
    )["breakpoints"]
    assert "no data of this recording" in bad["message"]
    assert "only writes" in read["message"]


def test_exception_filters(client: Client) -> None:
    names = [one["filter"] for one in client.capabilities["exceptionBreakpointFilters"]]
    assert names == ["trap", "hang", "failed", "cqe", "helper"]
    found = client.ask(
        "setExceptionBreakpoints",
        filters=["trap", "hang", "nonsense", "helper"],
        filterOptions=[{"filterId": "helper", "condition": "map_lookup_elem"}],
    )["breakpoints"]
    assert [one["verified"] for one in found] == [True, True, False, False, True]
    stop = client.move("continue")
    assert stop["reason"] == "exception"
    assert stop["description"].startswith("helper: ")
    assert client.ask("exceptionInfo", threadId=2)["exceptionId"] == "helper"
    client.ask("setExceptionBreakpoints", filters=["cqe"])
    assert client.move("continue")["reason"] == "end"  # all went well
    with pytest.raises(Failed, match="nothing went wrong"):
        client.ask("exceptionInfo", threadId=2)


def test_code_is_disassembled_beyond_its_ends(client: Client) -> None:
    pc = _at(client)[2]
    found = client.ask("disassemble", memoryReference=pc, instructionOffset=-2, instructionCount=5)[
        "instructions"
    ]
    assert [one.get("presentationHint") for one in found] == [
        "invalid",
        "invalid",
        None,
        None,
        None,
    ]
    assert found[2]["address"] == pc
    assert found[2]["symbol"] == "player"
    assert found[2]["location"]["path"] == str(PINGPONG_C)
    everything = client.ask("disassemble", memoryReference=pc, instructionCount=10_000)
    code = [one for one in everything["instructions"] if "presentationHint" not in one]
    assert len(everything["instructions"]) == 10_000
    raw = b"".join(bytes.fromhex(one["instructionBytes"]) for one in code)
    data = client.ask("readMemory", memoryReference=pc, count=len(raw) + 8)
    assert base64.b64decode(data["data"]) == raw
    assert data["unreadableBytes"] == 8
    for bad in ("", "x", "-1", "0x1" + "0" * 20):
        with pytest.raises(Failed, match="memory reference"):
            client.ask("disassemble", memoryReference=bad, instructionCount=1)
    with pytest.raises(Failed, match="no address of code"):
        client.ask("disassemble", memoryReference="0x20", instructionCount=1)
    assert client.ask("readMemory", memoryReference="0x20", count=4) == {
        "address": "0x20", "unreadableBytes": 4,
    }  # fmt: skip


def test_a_line_can_be_gone_to(client: Client) -> None:
    targets = client.ask("gotoTargets", source=_SOURCE, line=_HITS)["targets"]
    assert targets
    client.ask("goto", threadId=2, targetId=targets[0]["id"])
    assert client.event("stopped")["reason"] == "goto"
    assert _at(client)[1] == _HITS
    with pytest.raises(Failed, match="no target 99"):
        client.ask("goto", threadId=2, targetId=99)


def test_sources_are_listed_and_told(client: Client) -> None:
    names = [one["name"] for one in client.ask("loadedSources")["sources"]]
    assert names == ["prog.bpf.c", "iouring_bpf.h"]
    text = client.ask("source", sourceReference=0, source=_SOURCE)["content"]
    assert text == PINGPONG_C.read_text(encoding="utf-8")
    with pytest.raises(Failed, match="there is no source 77"):
        client.ask("source", sourceReference=77)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("setVariable", "a recording can not be changed"),
        ("setExpression", "a recording can not be changed"),
        ("writeMemory", "a recording can not be changed"),
        ("restart", "launch again"),
        ("attach", "attach is not supported"),
        ("launch", "launch was asked before"),
        ("initialize", "initialize was asked before"),
        ("configurationDone", "was asked before"),
        ("makeCoffee", "there is no request 'makeCoffee'"),
    ],
)
def test_what_can_not_be_done_is_refused_with_the_reason(
    client: Client, command: str, reason: str
) -> None:
    with pytest.raises(Failed, match=reason):
        client.ask(command)


def test_expressions_that_have_no_value_say_why(client: Client) -> None:
    for text, reason in (("nothing", "nothing is called"), ("1 +", "column"), ("", "column|empty")):
        with pytest.raises(Failed, match=reason):
            client.evaluate(text)


def test_what_was_told_of_another_stop_means_nothing_any_more(client: Client) -> None:
    frame = client.frames()[0]["id"]
    reference = client.ask("scopes", frameId=frame)["scopes"][0]["variablesReference"]
    client.move("stepIn")
    with pytest.raises(Failed, match=f"no frame {frame}"):
        client.ask("scopes", frameId=frame)
    with pytest.raises(Failed, match=f"no variables {reference}"):
        client.inside(reference)


def test_variables_come_in_pages(client: Client) -> None:
    frame = client.frames()[0]["id"]
    scopes = client.ask("scopes", frameId=frame)["scopes"]
    registers = scopes[1]["variablesReference"]
    page = client.ask("variables", variablesReference=registers, start=3, count=2)["variables"]
    assert [one["name"] for one in page] == ["r3", "r4"]


# --- how recordings end ---------------------------------------------------------------------------


def test_the_console_takes_commands_and_expressions(client: Client) -> None:
    def said(line: str) -> str:
        found: str = client.ask("evaluate", expression=line, context="repl")["result"]
        return found

    assert "player" in said("backtrace")
    assert said("r1 + 1 - r1") == "1"
    assert said("print 2 + 3") == "5" or "5" in said("print 2 + 3")
    assert said("goto 3:5").count("\n") < 20
    assert client.event("stopped")["reason"] == "goto"
    assert "error" in said("goto nowhere")
    assert "CQ 1" in said("ring")
    assert "leave with" in said("quit")
    words = client.ask("completions", text="print pla", column=10)["targets"]
    assert {"label": "players", "start": 7, "length": 3} in words


def test_a_hang_stops_where_nothing_goes_on(tmp_path: Path) -> None:
    scenario = tmp_path / "hang.toml"
    scenario.write_text(HANGING, encoding="utf-8")
    with spawned() as client:
        client.launch(program=str(scenario), stopAt="start")
        client.ask("setExceptionBreakpoints", filters=["trap", "hang", "failed"])
        client.ask("configurationDone")
        assert client.event("stopped")["reason"] == "entry"
        stop = client.move("continue")
        assert (stop["reason"], stop["description"]) == ("exception", "Hang")
        assert "request 1 (player) waits for 1 CQE on CQ 1" in stop["text"]
        info = client.ask("exceptionInfo", threadId=2)
        assert (info["exceptionId"], info["description"]) == ("hang", stop["text"])
        client.ask("disconnect")


def test_a_failed_expectation_stops_at_the_end(tmp_path: Path) -> None:
    text = (PINGPONG / "scenario.toml").read_text(encoding="utf-8")
    wrong = text.replace("rallies = 11, hits = 6", "rallies = 11, hits = 7")
    wrong = wrong.replace('"prog.v3.bpf.o"', f'"{PINGPONG / "prog.v3.bpf.o"}"')
    scenario = tmp_path / "wrong.toml"
    scenario.write_text(wrong, encoding="utf-8")
    with spawned() as client:
        client.launch(program=str(scenario))
        client.ask("setExceptionBreakpoints", filters=["failed"])
        client.ask("configurationDone")
        stop = client.event("stopped")
        assert (stop["reason"], stop["description"]) == ("exception", "Failed expectation")
        client.ask("disconnect")


def test_a_trap_is_where_a_recording_opens(tmp_path: Path) -> None:
    path = record_longrun(tmp_path / "t.bpftrace", 1000, budget_insns=5000)
    with inside() as client:
        stop = client.start(recording=str(path))
        assert (stop["reason"], stop["description"]) == ("exception", "Trap")
        assert stop["threadId"] == 1
        (frame,) = client.frames(1)
        assert frame["source"]["path"] == str(LONGRUN_C)
        assert "budget" in client.ask("exceptionInfo", threadId=1)["description"]
        client.ask("disconnect")


@pytest.mark.parametrize(("stop_at", "reason"), [("start", "entry"), ("end", "end")])
def test_where_to_begin_can_be_said(recording: Path, stop_at: str, reason: str) -> None:
    with inside() as client:
        assert client.start(recording=str(recording), stopAt=stop_at)["reason"] == reason
        client.ask("disconnect")
