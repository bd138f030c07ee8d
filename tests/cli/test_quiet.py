"""`run --quiet`: nobody hears the events, so compiled code may loop; it prints the same results."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.uring_backend.kernel.loop import KernelLoop
from tests.support.session_ring import need_backend

SCENARIOS = sorted((Path(__file__).parents[2] / "examples").glob("*/scenario.toml"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a run prints behind its account."""
    assert main(["run", *map(str, arguments)]) == 0
    _, mark, rest = capsys.readouterr().out.partition("Completion queues")
    assert mark
    return rest


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.parent.name)
def test_results_need_no_account(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, scenario, "--quiet") == printed(capsys, scenario)


@pytest.mark.kernel_ring
def test_programs_loop_where_nobody_asked_for_the_account(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    need_backend("kernel")
    looped: list[int] = []
    ordinary = KernelLoop.close

    def close(loop: KernelLoop) -> None:
        looped.append(loop.looped)
        ordinary(loop)

    monkeypatch.setattr(KernelLoop, "close", close)
    scenario = next(path for path in SCENARIOS if "batch_writer" in str(path))
    printed(capsys, scenario, "--backend", "kernel", "--engine", "jit", "--quiet")
    assert len(looped) == 1
    assert looped[0] > 0
    printed(capsys, scenario, "--backend", "kernel", "--engine", "jit")
    assert len(looped) == 1
