"""The transport through liburing: what is special about it. The laws of all backends are in
test_contract."""

from __future__ import annotations

import ctypes.util
import errno
from pathlib import Path

import pytest

from pybpfvm.errors import InputError
from pybpfvm.scenario import parse, run_scenario
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.kernel import libring
from pybpfvm.uring_backend.kernel.libring import LibRing
from tests.support.session_ring import need_backend

pytestmark = pytest.mark.kernel_ring
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_what_the_kernel_leaves_is_not_submitted_later() -> None:
    need_backend("liburing")
    ring = LibRing(8)
    try:
        good = Sqe(Op.NOP, user_data=1).pack()
        bad = Sqe(62 + 100, user_data=2).pack()
        never = Sqe(Op.NOP, user_data=3).pack()
        assert ring.submit([good, bad, never]) == 2
        assert ring.reap() == [(1, 0, 0), (2, -errno.EINVAL, 0)]
        assert ring.submit([Sqe(Op.NOP, user_data=4).pack()]) == 1
        assert ring.reap() == [(4, 0, 0)]
        assert ring.wait(0) == -errno.ETIME
    finally:
        ring.close()
        ring.close()


def test_more_completions_than_the_queue_holds_arrive() -> None:
    need_backend("liburing")
    ring = LibRing(8, cq_entries=8)
    try:
        for start in range(0, 40, 8):
            ring.submit([Sqe(Op.NOP, user_data=start + i + 1).pack() for i in range(8)])
        assert [token for token, _, _ in ring.reap()] == list(range(1, 41))
    finally:
        ring.close()


@pytest.mark.parametrize("example", ["03_pingpong", "05_read_open", "06_accept_recv"])
def test_examples_run_through_it(example: str) -> None:
    need_backend("liburing")
    outcome = run_scenario(parse(EXAMPLES / example / "scenario.toml"), backend="liburing")
    assert outcome.findings == ()
    assert outcome.ok


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("/nonexistent/liburing.so", "cannot open shared object file"),
        (ctypes.util.find_library("c") or "libc.so.6", "has no io_uring_queue_init_params"),
    ],
)
def test_a_wrong_library_is_an_error_with_a_remedy(
    named: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(libring.VARIABLE, named)
    refused = libring.available()
    assert isinstance(refused, InputError)
    assert reason in refused.reason
    assert libring.VARIABLE in refused.remedy or "2.4" in refused.remedy


def test_no_library_is_an_error_that_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(libring.VARIABLE, raising=False)
    monkeypatch.setattr(libring, "find_spec", lambda name: None)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(InputError, match="there is no liburing"):
        LibRing(2)
