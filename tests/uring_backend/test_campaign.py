"""The campaign of request sequences, in small: it counts, goes on where it was stopped, and tells
what differs each time from what differed once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pybpfvm.uring_backend.kernel.probe import available
from tests.support.journal import Chunk, Found, Journal, code_of
from tests.uring_backend import campaign
from tests.uring_backend.campaign import chunks, run_chunk, tally

pytestmark = pytest.mark.kernel_ring


def test_chunks_are_all_sequences_once() -> None:
    whole = chunks(520, 7)
    seeds = [seed for chunk in whole for seed in range(chunk.first, chunk.first + chunk.count)]
    assert seeds == list(range(7, 527))
    assert sum(chunk.count for chunk in whole if chunk.kind == "network") == 100


def test_what_differs_is_played_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 1 differs each time, seed 2 once, seed 3 never."""

    def answers() -> Iterator[list[str]]:
        yield from ([["one"]] * (1 + campaign.AGAIN)) + [["two"]] + [[]] * campaign.AGAIN + [[]]

    given = answers()
    monkeypatch.setitem(campaign._COMPARE, "requests", lambda _: next(given))
    found = run_chunk(Chunk("requests", 1, 3))
    assert found["differences"] == {"requests-1": "one"}
    assert found["passing"] == {"requests-2": "two"}
    assert found["sequences"] == 3


def test_a_campaign_goes_on_and_ends_in_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if reason := available():
        pytest.skip(f"no io_uring: {reason}")
    monkeypatch.setenv("PYBPFVM_ORACLE_RING", "10")
    monkeypatch.setenv("PYBPFVM_ORACLE_RING_DIR", str(tmp_path))
    monkeypatch.setattr(campaign, "SEQUENCES", 5)
    played: list[Chunk] = []

    def noting(chunk: Chunk) -> Found:
        played.append(chunk)
        return run_chunk(chunk)

    monkeypatch.setattr(campaign, "run_chunk", noting)
    assert campaign.main() == 0
    assert campaign.main() == 0
    assert [chunk.first for chunk in played] == [1, 6]
    assert "2 of 2 chunks done before" in capsys.readouterr().out
    journal = Journal(tmp_path / "journal.jsonl", {"code": code_of(campaign._CODE), "sequences": 5})
    total = tally(journal, played)
    assert (total.sequences["requests"], total.differences, total.passing) == (10, {}, {})
    assert sum(total.requests.values()) > 50
