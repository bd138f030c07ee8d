"""How soon the broken twin of each example is found by who knows nothing of it.

Part of `make fuzz-planted`; or `python -m tests.fuzz.twins`, with options as tests.fuzz.planted.

From a cold start (nothing loaded or compiled), as a user would go about it: `verify` with the
folder's contract, which is the first try, then `explore --strategy pct` of its scenario, without
and with a fault. A try is a verdict or a schedule.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pybpfvm.explore import explore
from pybpfvm.explore.table import Options
from pybpfvm.scenario import Scenario, parse
from pybpfvm.session.judging import JudgeRequest, judge_case, read_cases
from pybpfvm.verifier.usermemory.contract_parse import parse_contract
from pybpfvm.verifier.verdict import Accepted, Rejected
from tests.fuzz.coldstarts import measure
from tests.support.example_hosts import EXAMPLES, TWINS

_SCHEDULES = 1_000_000  # more than the time allows


@dataclass(frozen=True, slots=True)
class Caught:
    """A twin was found after so many tries, by what showed it."""

    tries: int
    by: str


def catch(name: str, seed: int, seconds: float) -> Caught | None:
    """Look for the twin of an example; None if it is not found within `seconds`."""
    began = time.perf_counter()
    folder = EXAMPLES / name
    (twin,) = (path for path in folder.glob("twin.*bpf.o"))
    scenario = parse(folder / "scenario.toml")
    if by := _verified(twin, scenario):
        return Caught(1, by)
    tries = 1
    for faults in (0, 1):
        left = seconds - (time.perf_counter() - began)
        options = Options(
            strategy="pct",
            schedules=_SCHEDULES,
            seconds=left if faults else left / 2,
            seed=seed,
            faults=faults,
            shrink=False,
            object_path=str(twin),
        )
        report = explore(scenario, options)
        if report.found:
            (found,) = report.found
            return Caught(tries + found.tries, f"explore: {found.shown.kind}")
        tries += report.schedules
    return None


def _verified(twin: Path, scenario: Scenario) -> str:
    """The first rule that is broken, or lint; "" for none."""
    request = JudgeRequest(abi=scenario.abi, witness_runs=0)
    found = read_cases(twin, request)
    promised = twin.with_name("contract.toml")
    if promised.exists():
        contract = parse_contract(promised.read_text(), found.obj, where=str(promised))
        request = JudgeRequest(abi=scenario.abi, witness_runs=0, contract=contract)
    for case in found.cases:
        verdict = judge_case(found.obj, case, request)
        if isinstance(verdict, Rejected):
            return f"verify: {verdict.errors[0].rule.value}"
        if isinstance(verdict, Accepted) and verdict.warnings:
            return f"verify: {verdict.warnings[0].rule.value}"
    return ""


def _tries(name: str, start: int, seconds: float) -> int | None:
    caught = catch(name, start, seconds)
    return None if caught is None else caught.tries


def main() -> int:
    """The table; see coldstarts.measure."""
    return measure("broken twins of examples", "twins", sorted(TWINS), _tries, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
