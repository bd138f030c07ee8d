"""Campaigns on a Dask cluster: this process, with threads for workers, on the loopback."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

distributed = pytest.importorskip("distributed")

from pybpfvm.cli import main  # noqa: E402
from pybpfvm.errors import InputError  # noqa: E402
from pybpfvm.fuzz.campaign import Budget, Campaign, Recipe, Report  # noqa: E402
from pybpfvm.fuzz.campaign.cluster import Cluster  # noqa: E402
from pybpfvm.fuzz.campaign.journal import Journal  # noqa: E402
from tests.fuzz.letters import Alphabet, recipe  # noqa: E402
from tests.fuzz.test_shards import COUNT, done, plain  # noqa: E402, F401


@pytest.fixture
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
        host="127.0.0.1",
        protocol="tcp://",
    ) as made:
        yield made


def on(cluster: Any, made: Recipe, budget: Budget, **how: Any) -> Report:
    workers = Cluster(made, cluster.scheduler_address)
    try:
        return Campaign(Alphabet(), workers=workers, **how).run(budget)
    finally:
        workers.close()


def test_a_cluster_comes_to_what_one_process_does(
    cluster: Any,
    plain: tuple[Any, ...],  # noqa: F811
) -> None:
    report = on(cluster, recipe(), Budget(count=COUNT))
    assert done(report) == plain
    assert report.jobs == 2


def test_a_worker_that_is_lost_loses_and_repeats_nothing(
    cluster: Any,
    plain: tuple[Any, ...],  # noqa: F811
    tmp_path: Any,
) -> None:
    journal = Journal(tmp_path / "journal")
    made = recipe(slow=0.002)
    workers = Cluster(made, cluster.scheduler_address)
    lost: list[str] = []
    take = Cluster._came

    def came(self: Cluster, future: Any, shard: Any) -> Any:
        """After some shards a worker goes away with what it does, and another one comes."""
        if len(lost) < 2 and shard.number % 5 == 4:
            name, worker = next(iter(cluster.workers.items()))
            lost.append(worker.address)
            cluster.sync(worker.close, nanny=False)
            del cluster.workers[name]
            cluster.scale(2)
        return take(self, future, shard)

    workers._came = came.__get__(workers)  # type: ignore[method-assign]
    try:
        report = Campaign(Alphabet(), workers=workers, journal=journal, about={}).run(
            Budget(count=COUNT)
        )
    finally:
        workers.close()
        journal.close()
    assert len(set(lost)) == 2
    assert done(report) == plain
    names = [line.split(b'"name":')[1].split(b",")[0] for line in _lines(tmp_path)]
    assert len(names) == len(set(names))


def _lines(folder: Any) -> list[bytes]:
    lines: list[bytes] = (folder / "journal").read_bytes().splitlines()
    return [line for line in lines if b'"result"' in line]


def test_time_ends_what_is_under_way(cluster: Any) -> None:
    begun = time.monotonic()
    report = on(cluster, recipe(slow=0.05), Budget(seconds=2.0))
    assert time.monotonic() - begun < 30
    assert 10 < report.executions < 1000


def test_a_worker_with_other_files_is_refused(cluster: Any) -> None:
    made = recipe()
    workers = Cluster(made, cluster.scheduler_address)
    workers._about = {**workers._about, "files": "others"}
    try:
        with pytest.raises(InputError, match="other files"):
            Campaign(Alphabet(), workers=workers).run(Budget(count=50))
    finally:
        workers.close()


def test_the_command_line_takes_a_scheduler(
    cluster: Any, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    words = ["fuzz", "loader", "--count", "60", "--out", str(tmp_path)]
    code = main([*words, "--scheduler", cluster.scheduler_address])
    out, _ = capsys.readouterr()
    assert code == 0
    assert "2 processes, which worked for" in out
    assert main(words) == 0
    alone, _ = capsys.readouterr()
    assert _figures(out) == _figures(alone)


def _figures(out: str) -> list[str]:
    """The lines of a report without times."""
    kept = [line for line in out.splitlines() if " processes" not in line]
    return [line.partition(" a second: ")[2] or line for line in kept[1:]]


def test_a_scheduler_that_is_not_there_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pybpfvm.fuzz.campaign.cluster._CONNECT_SECONDS", 1.0)
    address = "tcp://127.0.0.1:9"
    assert main(["fuzz", "loader", "--count", "1", "--scheduler", address]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert f"--scheduler {address}: no Dask scheduler answers" in err


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        *(
            (one, "no address")
            for one in ("", "x", "127.0.0.1:8786", "tcp://127.0.0.1", "nonsense://x", "ucx://a:1")
        ),
        ("tls://127.0.0.1:1", "no certificates"),
    ],
)
def test_what_is_no_address_is_said_at_once(address: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"--scheduler {address}: {reason}"):
        Cluster(recipe(), address)
