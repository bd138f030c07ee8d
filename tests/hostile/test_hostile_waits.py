"""Programs that never end, wait for what never comes, or trap: named in seconds, nothing lost."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.errors import RingHang, Trap, TrapKind
from pybpfvm.session import Budgets, Ring, timespec
from pybpfvm.session.hostring import BackendName
from tests.hostile.attack import (
    ABI,
    EXIT,
    SELF_RESUBMIT,
    SUBMIT_SQE,
    ZERO_SQE,
    object_of,
    raw_desk,
    wait_for,
)
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

PATIENCE_S = 20
both = pytest.mark.parametrize("backend", SIM_AND_KERNEL)

LOOP = "l:\ngoto l"
HEAVY = f"""
  r6 = r1
  r7 = 25000
l:
  r7 += -1
  if r7 != 0 goto l
  r1 = r6
  {SELF_RESUBMIT}
"""
FILL_AND_WAIT = """
  r6 = r1
  r2 = 1
  r3 = 5
  r4 = 0
  r5 = 0
  call io_uring_emit_cqe
""" + wait_for(1, 1)
STUCK = "nothing in flight can complete"

# program -> exit code, what the account must say
ENDLESS = {
    "loop": (LOOP, 4, ("instruction budget exhausted: 4000000", "main+0: goto")),
    "resubmits itself": (
        SELF_RESUBMIT,
        1,
        ("live-lock: 10,000 runs in a row", "last of program main"),
    ),
    "waits for what it does not reap": (
        FILL_AND_WAIT,
        1,
        ("live-lock: 10,000 runs", "request 1 (main) waits for 1 CQE on CQ 1, which holds 16"),
    ),
    "waits with nothing in flight": (
        "r6 = r1" + wait_for(1, 1),
        1,
        (STUCK, "user waits for 1 CQE on CQ 0", "request 1 (main) waits for 1 CQE on CQ 1"),
    ),
    "waits for more than fit": (
        "r6 = r1" + wait_for(17, 1),
        1,
        (STUCK, "which holds 0 and can never hold more than 16"),
    ),
    "waits for 2^32-1": (
        "r6 = r1" + wait_for(-1, 1),
        1,
        (STUCK, "waits for 4294967295 CQEs on CQ 1"),
    ),
}


def scenario(folder: Path, program: str) -> Path:
    """A scenario that submits this program and waits for its completion."""
    (folder / "p.o").write_bytes(object_of(program))
    path = folder / "p.toml"
    path.write_text(
        f'object = "p.o"\nabi = "{ABI}"\nunverified = true\nprograms = ["main"]\n'
        "ring = { cq_entries = [16] }\n"
        'steps = [{ submit = [{ prog = "main", user_data = 7 }] }, { wait = 1 }]\n'
    )
    return path


@both
@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_named_in_seconds(
    name: str, backend: BackendName, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need_backend(backend)
    program, code, texts = ENDLESS[name]
    start = time.monotonic()
    path = scenario(tmp_path, program)
    budget = ["--budget-insns", "4000000"]
    assert main(["run", "--quiet", *budget, "--backend", backend, str(path)]) == code
    assert time.monotonic() - start < PATIENCE_S
    out, err = capsys.readouterr()
    assert err == ""
    assert all(text in out for text in texts), out


@both
@pytest.mark.parametrize(("count", "cq"), [(0, 1), (1, 2), (1, 77), (1, -1), (0, 0)])
def test_a_wait_that_can_not_be_is_refused(count: int, cq: int, backend: BackendName) -> None:
    # abi/iouring-bpf-2021, section 3.4: no CQEs or no such CQ end the request with -EINVAL.
    with raw_desk("r6 = r1" + wait_for(count, cq), backend, cq_entries=(16,)) as desk:
        assert desk.complete(0, 7) == [(7, -22)]


@both
def test_two_programs_that_wait_for_each_other(backend: BackendName) -> None:
    programs = {"left": "r6 = r1" + wait_for(1, 1), "right": "r6 = r1" + wait_for(2, 2)}
    with raw_desk(programs, backend) as desk:
        desk.submit_bpf(0)
        desk.submit_bpf(1)
        with pytest.raises(RingHang) as caught:
            desk.ring.wait_cqe()
        assert caught.value.reason == STUCK
        assert caught.value.waiters == (
            "user waits for 1 CQE on CQ 0, which holds 0",
            "request 1 (left) waits for 1 CQE on CQ 1, which holds 0",
            "request 2 (right) waits for 2 CQEs on CQ 2, which holds 0",
        )
        # Programs are taken away while their requests are parked: that is a hang as well.
        with pytest.raises(RingHang, match="registration waits until 2 request"):
            desk.ring.unregister_bpf()


@both
def test_a_peer_that_never_speaks_is_a_hang_after_the_idle_timeout(backend: BackendName) -> None:
    with raw_desk(EXIT, backend) as desk:
        fd, peer = desk.ring.world.socketpair()
        buffer = desk.ring.user.alloc(16)
        desk.ring.get_sqe().prep_recv(fd, buffer.addr, 16, user_data=9)
        desk.ring.submit()
        with pytest.raises(RingHang, match="user waits for 1 CQE on CQ 0"):
            desk.ring.wait_cqe()
        with pytest.raises(TimeoutError):
            desk.ring.wait_cqe(1_000_000)
        assert peer.send(b"late") == 4
        assert desk.cqes(1) == [(9, 4)]
        assert buffer.read(4) == b"late"
        peer.close()


@both
def test_slow_runs_that_change_nothing_are_counted_by_instructions(backend: BackendName) -> None:
    budgets = Budgets(livelock_insns=300_000)
    with (
        raw_desk(HEAVY, backend, budgets=budgets, budget_insns=100_000) as desk,
        pytest.raises(RingHang, match=r"live-lock: [67] runs in a row"),
    ):
        desk.submit_bpf(0)


@both
def test_progress_without_end_uses_up_the_budget(backend: BackendName) -> None:
    nop_and_again = f"r6 = r1\n{ZERO_SQE}{SUBMIT_SQE}\nr1 = r6\n{SELF_RESUBMIT}"
    with raw_desk(nop_and_again, backend, budgets=Budgets(max_runs=1_000)) as desk:
        with pytest.raises(RingHang, match="budget of 1,000 program runs"):
            desk.submit_bpf(0)
        # Each call has a budget of its own, and the ring can still be used.
        with pytest.raises(RingHang, match="budget of 1,000 program runs"):
            desk.ring.run_until_idle()
        assert desk.left() == [(0, 0)] * 16


# A timer that is set again each time it has run out.
TICK = f"""
  r6 = r1
  r7 = *(u64 *)(r1 + 0)
  {ZERO_SQE}
  *(u8 *)(r10 - 64) = 11
  *(u64 *)(r10 - 48) = r7
  *(u32 *)(r10 - 40) = 1
  *(u16 *)(r10 - 16) = 1
  {SUBMIT_SQE}
  r1 = r6
  r2 = 1
  r3 = r10
  r3 += -16
  r4 = 16
  call io_uring_reap_cqe
  {wait_for(1, 1)}
"""


@both
@pytest.mark.parametrize(
    ("source", "text"),
    [
        (f"r6 = r1\n{ZERO_SQE}{SUBMIT_SQE}\nr1 = r6\n{SELF_RESUBMIT}", "runs without a pause"),
        (TICK, "for one call"),
    ],
)
def test_progress_without_end_uses_up_the_time(
    source: str, text: str, backend: BackendName
) -> None:
    with raw_desk(source, backend, cq_entries=(16,), budgets=Budgets(wall_ns=300_000_000)) as desk:
        clock = desk.ring.user.alloc(timespec(1_000_000), "clock")
        start = time.monotonic()

        def submit_and_wait() -> None:
            desk.submit_bpf(0, clock.addr)
            desk.ring.wait_cqe()

        with pytest.raises(RingHang, match=rf"budget of 0\.3 s.*{text}"):
            submit_and_wait()
        assert time.monotonic() - start < PATIENCE_S


@both
@pytest.mark.parametrize(
    ("option", "text"),
    [
        (("--budget-runs", "50"), "the budget of 50 program runs in one call is used up"),
        (("--budget-seconds", "1"), "the budget of 1 s of program runs without a pause is used up"),
    ],
)
def test_the_budgets_can_be_given(
    option: tuple[str, str],
    text: str,
    backend: BackendName,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    need_backend(backend)
    path = scenario(tmp_path, f"r6 = r1\n{ZERO_SQE}{SUBMIT_SQE}\nr1 = r6\n{SELF_RESUBMIT}")
    assert main(["run", "--quiet", *option, "--backend", backend, str(path)]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert f"{text}, the next would be of program main" in out


TRAPS = {
    "loop": (LOOP, TrapKind.BUDGET),
    "null": ("r1 = 0\nr0 = *(u64 *)(r1 + 0)\nexit", TrapKind.NULL),
    "wild": ("r1 = 0xdeadbeef ll\n*(u64 *)(r1 + 0) = 1\nexit", TrapKind.OUT_OF_BOUNDS),
    "below the stack": ("*(u64 *)(r10 - 520) = 1\nexit", TrapKind.OUT_OF_BOUNDS),
    "above the stack": ("*(u64 *)(r10 + 0) = 1\nexit", TrapKind.OUT_OF_BOUNDS),
    "context": ("*(u64 *)(r1 + 8) = 1\nexit", TrapKind.CTX_ACCESS),
    "beyond the context": ("*(u64 *)(r1 + 4096) = 1\nexit", TrapKind.OUT_OF_BOUNDS),
    "user memory": ("r1 = *(u64 *)(r1 + 0)\nr0 = *(u8 *)(r1 + 0)\nexit", TrapKind.USER_MEMORY),
    "map handle": ("r1 = map[array] ll\nr0 = *(u64 *)(r1 + 0)\nexit", TrapKind.NOT_MEMORY),
    "no such helper": ("call 9999\nexit", TrapKind.BAD_HELPER),
    "deep": ("again:\ncall again\nexit", TrapKind.STACK_DEPTH),
    "return value": ("r0 = 2\nexit", TrapKind.BAD_RETURN),
    "unaligned atomic": (
        "r1 = 1\nlock *(u64 *)(r10 - 12) += r1\nr0 = 0\nexit",
        TrapKind.MISALIGNED,
    ),
    "end of the program": ("r0 = 0", TrapKind.BAD_PC),
}


@both
@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_loses_no_completion(name: str, backend: BackendName) -> None:
    """Requests around the faulting one, and what it submitted before, all complete."""
    text, kind = TRAPS[name]
    programs = {
        "main": text,
        "good": EXIT,
        "parked": "r6 = r1" + wait_for(1, 1),
    }
    with raw_desk(programs, backend, maps=(("array", 2, 4, 8, 4),)) as desk:
        ring = desk.ring
        word = ring.user.alloc(8)
        for user_data in (1, 2):
            ring.get_sqe().prep_nop(user_data=user_data)
        ring.get_sqe().prep_bpf(2, user_data=3)
        ring.get_sqe().prep_bpf(0, user_data=word.addr)
        ring.get_sqe().prep_bpf(1, user_data=5)
        ring.get_sqe().prep_nop(user_data=6, cq_idx=1)
        with pytest.raises(Trap) as caught:  # at once, or when the kernel has started it
            _submit_and_settle(ring)
        assert caught.value.kind is kind
        assert caught.value.program == "main"
        assert "\n  at main+" in str(caught.value)
        # What parks for CQ 1 does not reap it and would run for ever: the host takes it away.
        assert desk.left(1) in ([], [(6, 0)])
        ring.run_until_idle()
        got = dict(desk.left())
        assert {1: 0, 2: 0, word.addr: -125, 5: 0}.items() <= got.items()


def _submit_and_settle(ring: Ring) -> None:
    ring.submit()
    ring.run_until_idle()


def test_json_tells_hangs_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = scenario(tmp_path, ENDLESS["waits with nothing in flight"][0])
    assert main(["run", "--json", str(path)]) == 1
    stopped = json.loads(capsys.readouterr().out)["stopped"]
    assert stopped["kind"] == "RingHang"
    assert stopped["text"].startswith(f"hang: {STUCK}")
