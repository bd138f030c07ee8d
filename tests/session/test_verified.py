"""Programs are verified when a ring registers them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybpfvm.errors import InternalError, LoadRejected, Trap, TrapKind, UnsupportedError
from pybpfvm.session import LoadedProgram, Machine, Ring
from pybpfvm.verifier.verdict import (
    Accepted,
    Finding,
    Inconclusive,
    Kind,
    Rejected,
    Rule,
    Statistics,
    Verdict,
)

CHECKS = Path(__file__).parents[1] / "acceptance/load_checks.v2.bpf.o"
WORD = struct.pack("<I", 1234)  # what the program returns: only 0 may be


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as made:
        yield made


def run(machine: Machine, *, verify: bool = True) -> None:
    """Register a program that returns a word of user memory, and run it on 1234."""
    program = machine.load(CHECKS, abi="iouring-v2")["return_unknown"]
    with Ring(cq_entries=[8], verify=verify, machine=machine) as ring:
        ring.register_bpf([program])
        ring.get_sqe().prep_bpf(0, user_data=ring.user.alloc(WORD).addr)
        ring.submit()


def answer(monkeypatch: pytest.MonkeyPatch, verdict: Verdict) -> None:
    monkeypatch.setattr(LoadedProgram, "verdict", lambda *_, **__: verdict)


def test_a_refused_program_is_not_registered(machine: Machine) -> None:
    with pytest.raises(LoadRejected, match=r"R0 has smin=0 .* should have been in \[0, 0\]"):
        run(machine)


def test_an_unverified_one_runs_until_it_faults(machine: Machine) -> None:
    with pytest.raises(Trap) as caught:
        run(machine, verify=False)
    assert caught.value.kind is TrapKind.BAD_RETURN


def test_what_only_kernels_make_safe_runs_with_checks(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, Accepted(Statistics(), probes=True))
    with pytest.raises(Trap) as caught:  # the verifier answers for what it runs without them
        run(machine)
    assert caught.value.kind is TrapKind.BAD_RETURN


def test_no_decision_is_no_permission(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding(Rule.UNSUPPORTED, Kind.UNSUPPORTED, 0, "unsupported: magic")
    answer(monkeypatch, Inconclusive(Statistics(), finding))
    with pytest.raises(UnsupportedError, match=r"can not be verified: unsupported: magic"):
        run(machine)


def test_a_verified_program_that_faults_is_our_bug(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, Accepted(Statistics()))
    with pytest.raises(InternalError, match="was verified, and faulted all the same"):
        run(machine)


def test_the_verdict_is_found_once(machine: Machine) -> None:
    program = machine.load(CHECKS, abi="iouring-v2")["return_unknown"]
    verdict = program.verdict()
    assert isinstance(verdict, Rejected)
    assert program.verdict() is verdict
    assert program.verify() == verdict
