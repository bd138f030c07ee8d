"""What campaigns come to does not depend on who does their shards, how often, or when."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pybpfvm.errors import InputError
from pybpfvm.fuzz.campaign import Budget, Campaign, Recipe, Report
from pybpfvm.fuzz.campaign.journal import Journal
from pybpfvm.fuzz.campaign.plan import Plan
from pybpfvm.fuzz.campaign.processes import Processes
from pybpfvm.fuzz.campaign.shard import Kind, Performance, Result, Shard
from pybpfvm.fuzz.corpus import Corpus
from pybpfvm.fuzz.engine import EngineTarget
from pybpfvm.fuzz.loader import LoaderTarget
from pybpfvm.fuzz.ring import RingTarget
from pybpfvm.fuzz.verifier import VerifierTarget
from pybpfvm.report.fuzzing import FuzzProgress
from pybpfvm.session.engines import jit_refusal
from tests.fuzz.letters import Alphabet, hello, recipe

ROOT = Path(__file__).parents[2]
COUNT = 1500


def done(report: Report) -> tuple[Any, ...]:
    """What a campaign came to, without times."""
    findings = [
        (bucket, one.first, one.data, one.seed, one.executions, one.count, one.files)
        for bucket, one in report.findings.items()
    ]
    shards = [(one.first, one.count, one.executions) for one in report.shards]
    return findings, shards, report.outcomes, report.features, report.hits, report.accept_rate


@pytest.fixture(scope="module")
def plain() -> tuple[Any, ...]:
    """What the campaign of these tests comes to, in one go in this process."""
    report = Campaign(Alphabet()).run(Budget(count=COUNT))
    assert report.executions == COUNT
    assert len(report.findings) == 3  # some come only by changes of changes
    assert len(report.features) > 300
    return done(report)


@contextmanager
def processes(made: Recipe, jobs: int = 2) -> Iterator[Processes]:
    workers = Processes(made, jobs)
    try:
        yield workers
    finally:
        workers.close()


class Shuffled:
    """Workers that do shards when they like, in any order, some of them twice."""

    jobs = 0
    slots = 5
    working = ()
    notes: tuple[str, ...] = ()

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._shards: list[Shard] = []

    def submit(self, shard: Shard) -> None:
        self._shards.append(shard)

    def wait(self, seconds: float) -> list[Result]:
        self._random.shuffle(self._shards)
        shard = self._shards.pop()
        result = Performance(Alphabet(), shard, lambda _: False).run()
        return [result] * self._random.randrange(1, 3)

    def stop(self) -> None: ...
    def abandon(self) -> None: ...
    def close(self) -> None: ...


@pytest.mark.parametrize("seed", range(5))
def test_neither_order_nor_repetition_matters(plain: tuple[Any, ...], seed: int) -> None:
    workers: Any = Shuffled(seed)
    assert done(Campaign(Alphabet(), workers=workers).run(Budget(count=COUNT))) == plain


@pytest.mark.parametrize("jobs", [1, 3])
def test_nor_how_many_processes_there_are(plain: tuple[Any, ...], jobs: int) -> None:
    with processes(recipe(), jobs) as workers:
        campaign = Campaign(Alphabet(), workers=workers)
        report = campaign.run(Budget(count=COUNT))
        head, *rows = FuzzProgress(campaign).text().splitlines()
    assert done(report) == plain
    assert head.startswith("1,500 executions, ")
    assert ", 3 findings, " in head
    assert [row.split(":")[0] for row in rows] == [f"  worker {n + 1}" for n in range(jobs)]
    assert report.jobs == jobs
    assert report.notes == ("a note",)
    assert sum(one.executions for one in workers.working) == COUNT + sum(
        # Shrinking is no execution of the campaign.
        0
        for _ in report.findings
    )


def test_nor_that_workers_are_killed(plain: tuple[Any, ...]) -> None:
    with processes(recipe(slow=0.002)) as workers:  # 1.5 s at least
        ended = threading.Event()

        def kill() -> None:
            for _ in range(3):
                if ended.wait(0.3):
                    return
                os.kill(random.choice(workers.pids), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        report = Campaign(Alphabet(), workers=workers).run(Budget(count=COUNT))
        ended.set()
        killer.join()
    assert done(report) == plain
    assert any("SIGKILL" in note for note in report.notes), report.notes


def test_nor_that_one_is_killed_before_it_begins(
    plain: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Processes._started
    killed: list[int] = []

    def started(self: Processes, working: Any) -> Any:
        worker = start(self, working)
        if not killed:
            killed.append(worker.process.pid or 0)
            worker.process.kill()
        return worker

    monkeypatch.setattr(Processes, "_started", started)
    with processes(recipe()) as workers:
        assert killed[0] not in workers.pids
        report = Campaign(Alphabet(), workers=workers).run(Budget(count=COUNT))
    assert done(report) == plain
    assert "worker 1 ended (SIGKILL)" in report.notes


def test_an_input_that_kills_is_a_finding_and_the_rest_goes_on() -> None:
    made = recipe(kill="ch")
    with processes(made) as workers:
        report = Campaign(Alphabet(), workers=workers).run(Budget(count=200))
    found = report.findings["lost/SIGSEGV"]
    assert b"ch" in found.data
    assert found.problem.message == "the input takes the process down: SIGSEGV"
    assert report.executions == 200
    assert report.outcomes["lost"] == found.count
    assert report.outcomes["fine"] > 180


def test_an_input_that_never_ends_is_a_finding_and_the_rest_goes_on() -> None:
    made = replace(recipe(hang="ow"), turn_seconds=8.0)
    with processes(made) as workers:
        report = Campaign(Alphabet(), workers=workers).run(Budget(count=6))
    found = report.findings["lost/HANG"]
    assert (found.seed, found.data, found.count) == (2, b"ow", 1)
    assert found.problem.message == "the input never ends"
    assert report.executions == 6
    assert report.outcomes["fine"] == 5


def test_workers_that_die_all_the_time_end_the_campaign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pybpfvm.fuzz.campaign.processes.MOST_DEATHS", 2)
    with (
        processes(recipe(kill="")) as workers,
        pytest.raises(InputError, match="worker processes died"),
    ):
        Campaign(Alphabet(), workers=workers).run(Budget(count=10_000))


@pytest.mark.parametrize(
    ("make", "seeds"),
    [
        (VerifierTarget, 40),
        (EngineTarget, 4),
        (LoaderTarget, 60),
        (partial(RingTarget, kernel=False), 12),
        (hello, 20),
    ],
    ids=["verifier", "engine", "loader", "ring", "program"],
)
def test_a_shard_of_each_target_is_the_same_anywhere(make: Any, seeds: int) -> None:
    if make in (EngineTarget, hello) and jit_refusal() is not None:
        pytest.skip(str(jit_refusal()))
    target = make()
    most = seeds * target.seed_executions
    first = Shard(Kind.SEEDS, 0, 0, seeds, most)
    kept = Performance(target, first, lambda _: False).run().kept
    assert kept
    second = replace(
        first,
        number=1,
        first=seeds,
        corpus=tuple(data for data, _ in kept),
        known=frozenset(one for _, features in kept for one in features),
    )
    here = Performance(target, second, lambda _: False).run()
    target.close()
    with processes(Recipe(make), 1) as workers:
        workers.submit(second)
        results: list[Result] = []
        while not results:
            results = workers.wait(60)
    assert results[0].executions >= seeds
    assert replace(results[0], seconds=0.0) == replace(here, seconds=0.0)


# --- plans ----------------------------------------------------------------------------------


def _result(shard: Shard, executions: int) -> Result:
    kept = ((b"%d" % shard.number, frozenset({shard.number})),)
    return Result(
        *(shard.name, shard.kind, shard.number, shard.first, shard.seeds, 1.0),
        executions=executions,
        kept=kept,
    )


def test_shards_do_not_overlap_and_wait_for_the_one_eight_before() -> None:
    plan = Plan([b"a", b"b"], 100, 64, 2)
    inputs = plan.next()
    assert inputs is not None
    assert (inputs.kind, inputs.inputs) == (Kind.INPUTS, (b"a", b"b"))
    assert plan.next() is None  # what they cover is not known yet
    plan.done(_result(inputs, 2))
    shards = []
    while (shard := plan.next()) is not None:
        shards.append(shard)
    assert [shard.number for shard in shards] == list(range(1, 9))
    assert all(shard.corpus == (b"0",) for shard in shards)
    ends = [shard.first + shard.seeds for shard in shards]
    assert [shard.first for shard in shards] == [100, *ends[:-1]]
    for shard in reversed(shards[1:]):
        plan.done(_result(shard, 8))
    assert plan.next() is None
    assert plan.done(_result(shards[0], 8)) == [b"%d" % number for number in range(1, 9)]
    following = plan.next()
    assert following is not None
    assert following.corpus == (b"0", b"1")
    assert following.known == {0, 1}


@pytest.mark.parametrize("executions", [1, 5, 8])
def test_a_count_is_kept_whatever_shards_come_to(executions: int) -> None:
    plan = Plan([], 0, 4, 2, count=100)
    total = 0
    under_way: list[Shard] = []
    while True:
        while (shard := plan.next()) is not None:
            under_way.append(shard)
        if not under_way:
            break
        shard = under_way.pop()
        came = min(shard.most, executions)
        total += came
        plan.done(_result(shard, came))
    assert total == 100


# --- journals -------------------------------------------------------------------------------


def journalled(path: Path, count: int, first: int = 0, **how: Any) -> Report:
    made = recipe()
    journal = Journal(path)
    try:
        campaign = Campaign(Alphabet(), first=first, journal=journal, about=made.about(), **how)
        return campaign.run(Budget(count=count))
    finally:
        journal.close()


def test_a_campaign_goes_on_from_its_journal(plain: tuple[Any, ...], tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journalled(path, 700)
    before = path.read_bytes()
    assert done(journalled(path, COUNT)) == plain
    after = path.read_bytes()
    assert after.startswith(before)
    assert done(journalled(path, COUNT)) == plain
    assert path.read_bytes() == after  # nothing was left to do


def test_broken_lines_are_done_again(plain: tuple[Any, ...], tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journalled(path, COUNT)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    damaged = [*lines[:4], lines[4].replace(b"a", b"b"), *lines[5:-1], lines[-1][:-30]]
    path.write_bytes(b"".join(damaged))
    assert done(journalled(path, COUNT)) == plain
    assert path.read_bytes().startswith(b"".join(damaged[:-1]))
    for cut in range(0, len(whole), len(whole) // 7):
        path.write_bytes(whole[:cut])
        assert done(journalled(path, COUNT)) == plain


def test_each_line_says_its_checksum(tmp_path: Path) -> None:
    journalled(tmp_path / "journal", 100)
    for line in (tmp_path / "journal").read_bytes().splitlines():
        checksum, _, text = line.partition(b" ")
        assert int(checksum, 16) == zlib.crc32(text)


def test_a_journal_is_of_one_campaign(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journalled(path, 50)
    with pytest.raises(InputError, match="campaign with other first seed"):
        journalled(path, 50, first=7)
    other = Journal(path)
    with pytest.raises(InputError, match="another campaign writes to it"):
        Journal(path)
    other.close()
    header = path.read_text().splitlines()[0]
    for text in ("what is this\n", "what is this", header):
        (tmp_path / "text").write_text(text)
        with pytest.raises(InputError, match="no journal"):
            Journal(tmp_path / "text")
        assert (tmp_path / "text").read_text() == text
    with pytest.raises(InputError, match="text"):
        Journal(tmp_path / "text" / "journal")
    with pytest.raises(InputError, match=r"no such folder \(make .*/missing first"):
        Journal(tmp_path / "missing" / "journal")
    assert not (tmp_path / "missing").exists()


def entry(said: Any) -> bytes:
    text = json.dumps(said).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def test_what_is_no_file_is_no_journal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(InputError, match="not a regular file"):
            Journal(path)


@pytest.mark.parametrize("said", [7, None, [], {}, {"corpus": "abc"}, {"corpus": [7]}])
def test_a_journal_about_nothing_is_none(said: Any, tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(entry({"campaign": said}))
    with pytest.raises(InputError, match="no journal"):
        Journal(tmp_path / "journal")


FOUND: Any = {
    "problem": ["a", "b", "c"],
    "data": "",
    "first": "",
    "files": {"input.txt": ""},
    **dict.fromkeys(("seed", "executions", "count", "shrink_tries"), 1),
    "seconds": 0.5,
}


@pytest.mark.parametrize(
    "said",
    [
        7,
        {"name": 7},
        {"kept": None},
        {"kept": [["AA==", 7]]},
        {"kept": [["AA==", ["x"]]]},
        {"kept": [["%", []]]},
        {"hits": {"letters": {"a": "b"}}},
        {"outcomes": {"fine": None}},
        {"outcomes": []},
        {"number": "0"},
        {"executions": 1.5},
        {"kind": "other"},
        {"findings": [7]},
        {"findings": [{**FOUND, "problem": ["a"]}]},
        {"findings": [{**FOUND, "seed": None}]},
        *(
            {"findings": [{**FOUND, "files": {name: ""}}]}
            for name in ("../x", "/x", "", "a\0", "..")
        ),
    ],
)
def test_results_of_another_kind_are_done_again(
    said: Any, plain: tuple[Any, ...], tmp_path: Path
) -> None:
    """Though their checksums are right: a finding's file could lie anywhere otherwise."""
    path = tmp_path / "journal"
    journalled(path, COUNT)
    lines = path.read_bytes().splitlines(keepends=True)
    result = json.loads(lines[2].partition(b" ")[2])["result"]
    wrong = {**result, **said} if isinstance(said, dict) else said
    path.write_bytes(lines[0] + entry({"result": wrong}))
    assert done(journalled(path, COUNT)) == plain
    assert path.read_bytes().startswith(lines[0] + entry({"result": wrong}))
    with_it = path.read_bytes()
    assert done(journalled(path, COUNT)) == plain
    assert path.read_bytes() == with_it  # now it stands there


def test_a_whole_finding_is_taken(tmp_path: Path) -> None:
    """What the cases above are changes of."""
    path = tmp_path / "journal"
    journalled(path, 50)
    lines = path.read_bytes().splitlines(keepends=True)
    result = json.loads(lines[1].partition(b" ")[2])["result"]
    path.write_bytes(lines[0] + entry({"result": {**result, "findings": [FOUND]}}))
    report = journalled(path, 50, out=tmp_path / "found")
    assert report.findings["a"].files == {"input.txt": b""}
    assert (tmp_path / "found/alphabet-a/input.txt").exists()


def test_the_corpus_is_the_one_it_began_with(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "one").write_bytes(b"zq")
    whole = journalled(tmp_path / "whole", 900, corpus=Corpus(folder))
    assert whole.added > 100
    for path in folder.iterdir():
        if path.name != "one":
            path.unlink()
    journalled(tmp_path / "parts", 300, corpus=Corpus(folder))
    parts = journalled(tmp_path / "parts", 900, corpus=Corpus(folder))
    assert done(parts) == done(whole)
    (folder / "one").unlink()
    with pytest.raises(InputError, match="the corpus lacks"):
        journalled(tmp_path / "parts", 900, corpus=Corpus(folder))


_KILLED = """
import sys
from pathlib import Path
from pybpfvm.fuzz.campaign import Budget, Campaign
from pybpfvm.fuzz.campaign.journal import Journal
from pybpfvm.fuzz.campaign.processes import Processes
from pybpfvm.fuzz.engine import EngineTarget
from pybpfvm.fuzz.loader import LoaderTarget
from pybpfvm.fuzz.ring import RingTarget
from pybpfvm.fuzz.verifier import VerifierTarget
from pybpfvm.report.fuzzing import FuzzProgress
from pybpfvm.session.engines import jit_refusal
from tests.fuzz.letters import Alphabet, hello, recipe

if __name__ == "__main__":
    made = recipe(slow=0.002)
    about = {**made.about(), "options": {}}
    workers = Processes(made, 2)
    journal = Journal(Path(sys.argv[1]))
    campaign = Campaign(Alphabet(), journal=journal, about=about, workers=workers)
    campaign.run(Budget(count=10**6))
"""


def test_a_campaign_that_was_killed_ends_as_if_it_was_not(
    plain: tuple[Any, ...], tmp_path: Path
) -> None:
    script, path = tmp_path / "killed.py", tmp_path / "journal"
    script.write_text(_KILLED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    sizes = []
    for lines in (4, 9):
        process = subprocess.Popen([sys.executable, script, path], env=environment, cwd=ROOT)
        until = time.monotonic() + 100
        while time.monotonic() < until and process.poll() is None:
            if path.exists() and path.read_bytes().count(b"\n") >= lines:
                break
            time.sleep(0.02)
        assert process.poll() is None
        process.kill()
        process.wait()
        sizes.append(path.read_bytes().count(b"\n"))
    assert sizes == sorted(sizes)
    assert sizes[-1] >= 9
    assert done(journalled(path, COUNT)) == plain


# --- ends -----------------------------------------------------------------------------------


def test_time_ends_shards_under_way_and_what_they_found_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with processes(recipe(slow=0.01)) as workers:
        campaign = Campaign(Alphabet(), workers=workers, journal=journal, about={})
        report = campaign.run(Budget(seconds=2.0))
    assert report.executions > 20
    assert report.elapsed < 30
    noted = (tmp_path / "journal").read_bytes().count(b'"kind":"seeds"')
    assert noted < len(report._parts)  # those that were ended are not whole: not noted


def test_ctrl_c_ends_processes_with_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    with processes(recipe(slow=0.01)) as workers:
        timer = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        report = Campaign(Alphabet(), workers=workers).run(Budget(count=10**6))
    assert report.interrupted
    assert report.exit_code == 130
    assert report.executions > 20
