"""Scenario files: a ring, programs, requests and expectations in one TOML file.

`parse` reads one, `run_scenario` carries it out on a backend. docs/scenarios.md is the format.
"""

from __future__ import annotations

from pybpfvm.scenario.model import Scenario
from pybpfvm.scenario.parse import parse, parse_bytes
from pybpfvm.scenario.run import Finding, Live, Outcome, RingOutcome, run_scenario

__all__ = [
    "Finding",
    "Live",
    "Outcome",
    "RingOutcome",
    "Scenario",
    "parse",
    "parse_bytes",
    "run_scenario",
]
