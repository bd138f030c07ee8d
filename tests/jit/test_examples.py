"""Every example gives the same events, to the last, from the interpreter and from the JIT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.events import Event
from pybpfvm.scenario import Outcome, parse, run_scenario
from pybpfvm.session.engines import jit_refusal

EXAMPLES = Path(__file__).parents[2] / "examples"
# The batch writer's hundred thousand requests take minutes twice; its program is like the others.
SCENARIOS = sorted(
    path for path in EXAMPLES.glob("*/scenario.toml") if path.parent.name != "07_batch_writer"
)

pytestmark = pytest.mark.skipif(jit_refusal() is not None, reason=str(jit_refusal()))


def ran(path: Path, engine: str, *, verify: bool) -> tuple[Outcome, list[Event]]:
    events: list[Event] = []
    outcome = run_scenario(
        parse(str(path)), engine=engine, verify=verify, seed=3, observer=events.append
    )
    return outcome, events


@pytest.mark.parametrize("verify", [True, False], ids=["verified", "sandboxed"])
@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.parent.name)
def test_examples(path: Path, verify: bool) -> None:
    expected, theirs = ran(path, "interp", verify=verify)
    found, ours = ran(path, "jit", verify=verify)
    assert expected.engine == "interp"
    assert found.engine == "jit"
    assert found.ok
    assert ours == theirs
    assert replace(found, engine="interp") == expected
