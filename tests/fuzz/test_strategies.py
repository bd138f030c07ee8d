"""Hypothesis strategies: what they draw is what they say, and it shrinks to little."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings

from pybpfvm.errors import InputError
from pybpfvm.fuzz.ring_sequences import Sequence, disorder, play_on
from pybpfvm.fuzz.typed_programs import Generated
from pybpfvm.isa.codec import decode, encode
from pybpfvm.isa.opcodes import Kind
from pybpfvm.scenario.model import Scenario
from pybpfvm.scenario.run import run_scenario
from pybpfvm.strategies import programs, ring_events, scenarios
from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.sim import SimBackend
from pybpfvm.verifier.verdict import Accepted
from pybpfvm.verifier.verify import Options, verify

HELLO = Path(__file__).parents[2] / "examples/01_hello/prog.v3.bpf.o"
QUIET = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SHRINKING = settings(QUIET, max_examples=400, phases=[Phase.generate, Phase.shrink])


def _accepted(made: Generated) -> bool:
    options = Options(budget_insns=20_000)
    return isinstance(verify(made.program, made.object, made.profile, options=options), Accepted)


def test_programs_are_of_their_type_and_judged_both_ways() -> None:
    verdicts: Counter[bool] = Counter()

    @QUIET
    @given(programs("xdp", max_damages=3))
    def judged(made: Generated) -> None:
        assert made.profile.name == "xdp"
        assert decode(encode(made.program.insns)) == made.program.insns
        verdicts[_accepted(made)] += 1

    judged()
    assert verdicts[True] >= 10
    assert verdicts[False] >= 5


def _count(made: Generated, kind: Kind) -> int:
    return sum(insn.spec.kind is kind for insn in made.program.insns)


@pytest.mark.parametrize(
    ("what", "most"),
    [
        (lambda made: _count(made, Kind.ATOMIC) > 0, 30),
        (lambda made: _count(made, Kind.CALL) > 1, 30),
        (lambda made: not _accepted(made), 25),
    ],
    ids=["an atomic", "two helper calls", "a refusal"],
)
def test_programs_shrink(what: Callable[[Generated], bool], most: int) -> None:
    made = find(programs("xdp"), what, settings=SHRINKING)
    assert what(made)
    assert len(made.program.insns) <= most, len(made.program.insns)


@pytest.mark.parametrize(
    ("profile", "said"), [("nobody", "no profile"), ("iouring-v3", "not generated")]
)
def test_programs_of_other_profiles_are_refused(profile: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        programs(profile)


@QUIET
@given(ring_events())
def test_ring_events_can_be_played(sequence: Sequence) -> None:
    played = play_on(sequence, lambda memory: SimBackend(memory, seed=1), None)
    assert len(played.consumed) == len(sequence.steps)
    assert not list(disorder(sequence, played))


def test_ring_events_shrink() -> None:
    def reads(sequence: Sequence) -> bool:
        return any(spec.op == Op.READ for step in sequence.steps for spec in step.specs)

    sequence = find(ring_events(), reads, settings=SHRINKING)
    assert len(sequence.steps) == 1
    assert len(sequence.steps[0].specs) <= 4


@settings(QUIET, max_examples=15)
@given(scenarios(HELLO, "hello", abi="iouring-v3", cqs=1))
def test_scenarios_can_be_run(scenario: Scenario) -> None:
    outcome = run_scenario(scenario, backend="sim")
    assert outcome.ok, outcome


def test_scenarios_shrink_to_one_request() -> None:
    scenario = find(scenarios(HELLO, "hello", abi="iouring-v3"), lambda _: True, settings=SHRINKING)
    assert len(scenario.steps) == 2


def test_hypothesis_is_imported_by_these_strategies_alone() -> None:
    code = (
        "import sys, pybpfvm.fuzz.campaign, pybpfvm.fuzz.verifier, pybpfvm.cli.fuzz\n"
        "assert 'hypothesis' not in sys.modules\n"
        "sys.modules['hypothesis'] = None\n"
        "from pybpfvm.errors import InputError\n"
        "try:\n    import pybpfvm.strategies\n"
        "except InputError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'pybpfvm[test]'" in done.stdout
