"""Expressions over live objects and rings: every kind of map, memory that is not there, any
words."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest

from pybpfvm.errors import InputError
from pybpfvm.expr import ExpressionError, compile_expression
from pybpfvm.image import Image
from pybpfvm.profiles.detect import Detection
from pybpfvm.program import BpfObject, MapSpec, MapType
from pybpfvm.scenario import Live, parse, run_scenario
from pybpfvm.session import LoadedObject, Machine
from pybpfvm.session.scope import LiveScope

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
OBJECTS = sorted((*EXAMPLES.glob("*/prog*.bpf.o"), *ROOT.glob("tests/loader/data/*.bpf.o")))
WORDS = re.findall(
    r"\S+",
    """
    players[ alice bob alice[ word me own_cq hits rallies hit ctx ball user_data seen r0 r1 r10 pc
    cq[ cq sq inflight parked overflow backlog time cqe sqe helper ret 0 1 2 9 -1 0xffffffff 'a'
    "x" ( ) [ ] . -> + - * / % & | << >> < == != && || ! ~ (u32) (u8*) (char*) sizeof in for k v
    struct player any( all( len( runs( { } = , *) .ready .res .head ->hits ->own_cq /x /s
    """,
)


def test_any_words_over_a_ring_give_a_value_or_a_refusal() -> None:
    draw = Random(5)
    counts = {"values": 0, "refusals": 0}

    def ask(live: Live) -> None:
        scope = live.scope
        block = live.blocks["alice"]
        for _ in range(4_000):
            scope.program = draw.choice([None, live.object.object.program("player")])
            scope.pc = 0 if scope.program is None else draw.randrange(scope.program.slots)
            scope.regs = draw.choice(
                [None, [0] * 11, [block.addr] * 11, [draw.getrandbits(64)] * 11]
            )
            text = " ".join(draw.choices(WORDS, k=draw.randint(1, 9)))
            try:
                compiled = compile_expression(text, scope)
                compiled.text_of(scope)
                compiled.parts(scope)
                counts["values"] += 1
            except InputError:
                counts["refusals"] += 1

    run_scenario(parse(EXAMPLES / "03_pingpong/scenario.toml"), on_end=ask)
    assert counts["values"] > 100
    assert counts["refusals"] > 1_000


def test_memory_that_is_not_there_is_explained() -> None:
    reasons: list[str] = []

    def ask(live: Live) -> None:
        scope, alice = live.scope, live.blocks["alice"]
        for text in ("*(u32 *)0", "*(u64 *)4", f"*(u32 *){alice.addr + alice.size}"):
            try:
                compile_expression(text, scope).evaluate(scope)
            except ExpressionError as error:
                reasons.append(error.reason)

    run_scenario(parse(EXAMPLES / "03_pingpong/scenario.toml"), on_end=ask)
    null, near, past = reasons
    assert (null, near) == ("NULL pointer", "NULL pointer + 4")
    assert "past the end of user memory alice" in past


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_map_and_global_can_be_asked(path: Path) -> None:
    with Machine() as machine:
        try:
            obj = machine.load(path)
        except InputError:
            pytest.skip("it does not load")
        scope = LiveScope(obj, {}, {})
        for name in obj.globals:
            assert compile_expression(name, scope).text_of(scope)
        reasons = []
        for name in scope.maps():
            texts = (f'len(map("{name}")) >= 0', f'0 in map("{name}")', f'map("{name}")[0]')
            for text in texts:
                try:
                    assert compile_expression(text, scope).text_of(scope)
                except ExpressionError as error:
                    reasons.append(error.reason)
        assert all(reasons)


def test_looking_at_an_lru_map_is_no_use_of_it() -> None:
    spec = MapSpec("seen", MapType.LRU_HASH, 4, 4, 2)
    with Machine() as machine:
        obj = BpfObject("t.o", "", (), (spec,))
        loaded = LoadedObject(Image(obj, machine.memory), None, Detection(None, (), ()))
        scope, seen = LiveScope(loaded, {}, {}), loaded.maps["seen"]
        seen[1], seen[2] = 10, 20
        assert compile_expression("seen[1] == 10 && 1 in seen", scope).holds(scope)
        assert scope.element_addr("seen", b"\1\0\0\0") is None
        seen[3] = 30
        assert compile_expression("len(seen) == 2 && !(1 in seen)", scope).holds(scope)


def test_the_example_of_the_documentation_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs/expressions.md").read_text()
    code = text.split("```python\n", 1)[1].split("```", 1)[0]
    monkeypatch.chdir(ROOT)
    exec(compile(code, "expressions.md", "exec"), {})
    assert capsys.readouterr().out == "6 u32\n"
