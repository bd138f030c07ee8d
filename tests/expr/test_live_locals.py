"""Expressions at every instruction of a program that runs: C names have the values they should."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.expr import Compiled, ExpressionError, compile_expression
from pybpfvm.program import Program
from pybpfvm.scenario import Live, parse, run_scenario
from pybpfvm.session.scope import LiveScope
from pybpfvm.source.info import debug_info
from pybpfvm.vm.interp import Interpreter

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Watch:
    """Asks at every instruction of an example's scenario, on the interpreter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, example: str) -> None:
        self.scope: LiveScope | None = None
        self.seen: list[tuple[int, int]] = []  # (pc, line) of each instruction
        self.example = EXAMPLES / example
        watch = self

        original = Interpreter.__init__

        def hooked(interpreter: Interpreter, *args: object, **kwargs: object) -> None:
            original(interpreter, *args, **kwargs)  # type: ignore[arg-type]
            interpreter.hook = watch._hook

        monkeypatch.setattr(Interpreter, "__init__", hooked)

    def run(self) -> None:
        scenario = parse(self.example / "scenario.toml")
        outcome = run_scenario(scenario, engine="interp", on_start=self._start)
        assert outcome.ok

    def _start(self, live: Live) -> None:
        self.scope = live.scope

    def _hook(self, program: Program, pc: int, regs: tuple[int, ...], depth: int) -> None:
        scope = self.scope
        assert scope is not None
        scope.program, scope.pc, scope.regs = program, pc, regs
        try:
            self.look(scope, program, pc)
        finally:
            scope.program, scope.regs = None, None

    def look(self, scope: LiveScope, program: Program, pc: int) -> None:
        raise NotImplementedError


def pcs_of(watch: Watch, program: Program, text: str) -> tuple[int, ...]:
    lines = (watch.example / "prog.bpf.c").read_text().splitlines()
    number = next(number for number, line in enumerate(lines, 1) if text in line)
    scope = watch.scope
    assert scope is not None
    assert scope.debug is not None
    return scope.debug.pcs_of(program, "prog.bpf.c", number)


def test_locals_of_pingpong_have_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[int, ...]] = []

    class Players(Watch):
        def look(self, scope: LiveScope, program: Program, pc: int) -> None:
            if pc != pcs_of(self, program, "seen = map_lookup")[0]:
                return
            texts = ("me.own_cq", "me.rallies", "me.hits", "ball.user_data", "user->own_cq")
            found.append(tuple(compile_expression(t, scope).evaluate(scope).number for t in texts))
            for text in (
                "&me == (struct player *)(r10 - 16)",
                "&ball == (struct io_uring_cqe *)(r10 - 32)",
                "(u64)user == ctx->user_data",
                "user == (struct player *)alice || user == (struct player *)bob",
                "me.own_cq + me.peer_cq == 3 && me.own_cq == user->own_cq",
                "sizeof(me) == sizeof(struct player)",
            ):
                assert compile_expression(text, scope).holds(scope), text

    Players(monkeypatch, "03_pingpong").run()
    assert len(found) == 11
    for own_cq, rallies, hits, user_data, of_user in found:
        assert (rallies, of_user) == (11, own_cq)
        assert hits == user_data // 2 + 1
    assert [user_data for _, _, _, user_data, _ in found] == list(range(11))


@pytest.mark.parametrize("example", ["22_parser", "11_copy", "05_read_open"])
def test_every_local_of_a_run_is_a_value_or_a_reason(
    monkeypatch: pytest.MonkeyPatch, example: str
) -> None:
    values: list[str] = []
    reasons: list[str] = []

    class Everything(Watch):
        def look(self, scope: LiveScope, program: Program, pc: int) -> None:
            assert scope.debug is not None
            if (program.name, pc) in self.seen_places:
                return
            self.seen_places.add((program.name, pc))
            for name in {local.name for local in scope.debug.variables(program, pc)}:
                try:
                    text = compile_expression(name, scope).text_of(scope)
                except ExpressionError as error:
                    reasons.append(error.reason)
                else:
                    assert text
                    values.append(text)

        seen_places: set[tuple[str, int]] = set()

    Everything(monkeypatch, example).run()
    assert len(values) > 100
    assert len(reasons) > 10
    assert [one for one in reasons if "optimised out" not in one] == []


def test_a_compiled_expression_follows_the_pc(monkeypatch: pytest.MonkeyPatch) -> None:
    """One expression, asked everywhere: names are resolved anew for each pc."""
    told: list[str] = []

    class Context(Watch):
        compiled: Compiled | None = None

        def look(self, scope: LiveScope, program: Program, pc: int) -> None:
            if self.compiled is None:
                self.compiled = compile_expression("ctx->user_data", scope)
            try:
                told.append(self.compiled.text_of(scope))
            except ExpressionError as error:
                told.append(error.reason)

    Context(monkeypatch, "03_pingpong").run()
    assert len(set(told)) == 2


def test_without_dwarf_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reasons: set[str] = set()

    class Missing(Watch):
        def look(self, scope: LiveScope, program: Program, pc: int) -> None:
            assert scope.debug is not None
            scope.debug = debug_info(scope.debug.object, tmp_path / "gone.o")
            try:
                compile_expression("hit", scope)
            except ExpressionError as error:
                reasons.add(error.remedy)

    Missing(monkeypatch, "03_pingpong").run()
    (reason,) = reasons
    assert "local variables are not known" in reason
    assert "gone" in reason
