"""Campaigns, corpora, minimisers and reports, on a target that needs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpfvm.errors import InputError
from pybpfvm.fuzz.campaign import Budget, Campaign, fuzz
from pybpfvm.fuzz.corpus import Corpus, fewest, name_of, same_coverage, same_problem, smallest
from pybpfvm.fuzz.mutation import change_in_place, mutate
from pybpfvm.fuzz.target import without_chunks
from tests.fuzz.letters import Letters


def test_a_finding_is_made_small_saved_and_says_how_to_repeat_it(tmp_path: Path) -> None:
    target = Letters()
    report = fuzz(target, count=300, out=tmp_path, options=("--type", "a b"))
    found = report.findings["x/twice"]
    assert report.exit_code == 1
    assert target.closed
    assert found.data == b"xx"
    assert found.folder == tmp_path / "letters-x-twice"
    assert (found.folder / "input").read_bytes() == b"xx"
    assert (found.folder / "input.first").read_bytes() == found.first
    assert (found.folder / "letters.txt").read_bytes() == b"xx"
    wanted = f"pybpfvm fuzz letters --type 'a b' --repeat {found.folder / 'input'}"
    assert found.command == wanted
    assert wanted in (found.folder / "finding.txt").read_text()
    assert found.count == report.outcomes["twice"]


def test_the_same_seeds_do_the_same() -> None:
    one, two = (fuzz(Letters(), count=200, first=7) for _ in range(2))
    assert [one.outcomes, one.features, one.hits] == [two.outcomes, two.features, two.hits]
    assert one.findings.keys() == two.findings.keys()


def test_a_report_tells_what_was_never_hit_and_the_accept_rate() -> None:
    report = fuzz(Letters(), count=1)
    assert report.executions == 1
    assert report.never("letters") == ["a", "b"]
    assert report.accept_rate == 0
    assert report.notes == ("a note",)


def test_time_is_a_budget() -> None:
    report = fuzz(Letters(), seconds=0.2)
    assert 0.2 <= report.elapsed < 5
    assert report.seconds <= report.elapsed
    assert report.executions > 10


def test_ctrl_c_ends_with_a_whole_report() -> None:
    target = Letters()
    target.interrupt_at = 20
    report = Campaign(target).run(Budget(count=10**9))
    assert report.interrupted
    assert report.exit_code == 130
    assert 19 <= report.executions <= 20
    assert report.findings  # they were made smaller all the same
    assert report.findings["x/twice"].data == b"xx"


def test_a_corpus_is_read_and_added_to(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    first = fuzz(Letters(), count=50, corpus=Corpus(folder))
    names = {path.name for path in folder.iterdir()}
    assert len(names) == first.corpus == first.added
    assert names == {name_of(path.read_bytes()) for path in folder.iterdir()}
    again = fuzz(Letters(), count=50, corpus=Corpus(folder))
    assert again.added == 0
    assert again.features == first.features


def test_a_folder_that_can_not_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        Corpus(tmp_path / "file")


def test_cmin_keeps_the_coverage() -> None:
    inputs = [b"abc", b"a", b"b", b"ab", b"c", b"xa"]
    kept = fewest(Letters(), inputs)
    assert kept == [b"a", b"b", b"c", b"xa"]


def test_tmin_keeps_the_bucket_or_the_coverage() -> None:
    target = Letters()
    data, tries = smallest(target, b"aaxbbbxccc", same_problem("x/twice"), seconds=5)
    assert data == b"xx"
    assert 0 < tries < 100
    covered = target.run(b"aabb").features
    data, _ = smallest(target, b"aabbccccaa", same_coverage(covered), seconds=5)
    assert sorted(data) == sorted(b"ab")


def test_tmin_stops_in_time() -> None:
    data, tries = smallest(Letters(), b"xx" * 500, same_problem("x/twice"), seconds=60, tries=3)
    assert tries == 3
    assert data.count(b"x") >= 2


@given(st.binary(max_size=200), st.integers(0, 1 << 32), st.integers(0, 100))
def test_mutations_keep_to_the_size_and_to_the_seed(data: bytes, seed: int, most: int) -> None:
    made = mutate(data, seed, most)
    assert len(made) <= most
    assert made or not most
    assert made == mutate(data, seed, most)


@given(st.binary(max_size=64), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_changes_in_place_keep_the_length(data: bytes, random: object) -> None:
    changed = bytearray(data)
    change_in_place(random, changed, (7, -1))  # type: ignore[arg-type]
    assert len(changed) == len(data)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
def test_chunks_cover_everything_and_become_small(count: int) -> None:
    chunks = list(without_chunks(count))
    assert all(0 <= start < end <= count for start, end in chunks)
    if count > 1:
        assert {start for start, end in chunks if end - start == 1} == set(range(count))
