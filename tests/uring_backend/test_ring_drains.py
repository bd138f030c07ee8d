"""Drains on rings of the 2021 ABIs: what the ring performs itself keeps the kernel's rules, too."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pybpfvm.errors import errno_name
from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.base import Backend
from pybpfvm.uring_backend.kernel import KernelBackend
from pybpfvm.uring_backend.kernel.probe import available
from pybpfvm.uring_backend.sim import SimBackend
from tests.support.drained_sequences import REST_NS, Generator, Sequence, play_on, play_plain
from tests.support.ring_bench import Bench, MakeBench, on_every_backend
from tests.support.ring_programs import Run, bpf, sqe
from tests.support.seeded import each_seed

ECANCELED, ENOENT, EINVAL, ETIME = (
    -errno.ECANCELED,
    -errno.ENOENT,
    -errno.EINVAL,
    -errno.ETIME,
)
DRAIN, LINK, HARDLINK = abi.SQE_IO_DRAIN, abi.SQE_IO_LINK, abi.SQE_IO_HARDLINK
SKIP = abi.SQE_CQE_SKIP_SUCCESS
NAMING = (Op.TIMEOUT_REMOVE, Op.ASYNC_CANCEL, Op.POLL_REMOVE)
on_both = pytest.mark.parametrize(
    "backend_name", ["sim", pytest.param("kernel", marks=pytest.mark.kernel_ring)]
)


def naming(opcode: Op, target: int, user_data: int, **more: int) -> bytes:
    return sqe(opcode, addr=target, user_data=user_data, **more)


def idle(bench: Bench) -> list[tuple[int, int]]:
    bench.ring.run_until_idle(timeout_ns=2_000_000_000)
    return bench.cqes()


# --- requests that name others ----------------------------------------------------------------


@on_both
@pytest.mark.parametrize("opcode", NAMING)
def test_a_request_that_names_another_drains(make_bench: MakeBench, opcode: Op) -> None:
    """All before it is over by then, and what comes later waits for it."""
    bench = make_bench("v2")
    bench.submit(
        bench.timeout(5, user_data=1),
        naming(opcode, 1, 2, flags=DRAIN),
        sqe(user_data=3),
    )
    assert idle(bench) == [(1, ETIME), (2, ENOENT), (3, 0)]
    bench.submit(sqe(user_data=4))
    assert idle(bench) == [(4, 0)]


@on_both
@pytest.mark.parametrize("opcode", NAMING)
def test_a_request_that_names_another_in_a_chain_that_drains(
    make_bench: MakeBench, opcode: Op
) -> None:
    bench = make_bench("v2")
    bench.submit(
        bench.timeout(5, user_data=1),
        sqe(user_data=2, flags=HARDLINK),
        naming(opcode, 1, 3, flags=HARDLINK | DRAIN),
        sqe(user_data=4),
        sqe(user_data=5),
    )
    assert idle(bench) == [(1, ETIME), (2, 0), (3, ENOENT), (4, 0), (5, 0)]


@on_both
@pytest.mark.parametrize("opcode", [Op.TIMEOUT_REMOVE, Op.ASYNC_CANCEL])
def test_what_a_drain_waits_for_can_be_cancelled_before_it(
    make_bench: MakeBench, opcode: Op
) -> None:
    """The drain keeps the cancellation's own part back no more than itself."""
    bench = make_bench("v2")
    bench.submit(
        bench.timeout(60_000, user_data=1), naming(opcode, 1, 2), sqe(user_data=3, flags=DRAIN)
    )
    assert sorted(idle(bench)) == [(1, ECANCELED), (2, 0), (3, 0)]


@on_both
def test_an_update_before_a_drain(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    update = {"off": bench.timespec(3), "op_flags": abi.TIMEOUT_UPDATE}
    bench.submit(
        bench.timeout(60_000, user_data=1),
        naming(Op.TIMEOUT_REMOVE, 1, 2, **update),
        sqe(user_data=3, flags=DRAIN),
    )
    assert idle(bench) == [(2, 0), (1, ETIME), (3, 0)]


# --- timeouts that count ------------------------------------------------------------------------


@on_both
@pytest.mark.parametrize("flags", [DRAIN, DRAIN | HARDLINK])
def test_time_ends_a_counting_timeout_that_drains(make_bench: MakeBench, flags: int) -> None:
    bench = make_bench("v2")
    counting = sqe(Op.TIMEOUT, addr=bench.timespec(5), len=1, off=9, user_data=2, flags=flags)
    bench.submit(bench.timeout(1, user_data=1), counting, sqe(user_data=3))
    assert idle(bench) == [(1, ETIME), (2, ETIME), (3, 0)]


@on_both
def test_a_program_counts_for_a_timeout_before_a_drain(make_bench: MakeBench) -> None:
    def emits(run: Run) -> int:
        if run.number == 1:
            return run.wait(1, 1)
        run.emit(0, 77)
        return run.done()

    bench = make_bench("v2", emits)
    bench.submit(bpf(0, user_data=9))
    counting = bench.timeout(60_000, user_data=1, off=1)
    bench.submit(counting)
    bench.submit(sqe(cq=1), sqe(user_data=2, flags=DRAIN))
    assert idle(bench) == [(77, 0), (1, 0), (9, 0), (2, 0)]


# --- chains with a refused member ---------------------------------------------------------------


@on_every_backend
def test_members_that_can_not_be_prepared_say_why(make_bench: MakeBench) -> None:
    """Also in a chain that the ring itself refuses."""
    bench = make_bench("v3")
    bench.submit(
        sqe(user_data=1, flags=LINK),
        sqe(200, user_data=2, flags=LINK),
        sqe(user_data=3, ioprio=1, flags=LINK),
        sqe(user_data=4),
        sqe(user_data=5),
    )
    told = sorted(idle(bench))
    assert told == [(1, ECANCELED), (2, EINVAL), (3, EINVAL), (4, ECANCELED), (5, 0)]


@on_every_backend
@pytest.mark.parametrize("link", [LINK, HARDLINK])
def test_a_refused_head_that_skips_silences_the_rest(make_bench: MakeBench, link: int) -> None:
    bench = make_bench("v3")
    bench.submit(
        sqe(user_data=1, flags=link | SKIP),
        sqe(200, user_data=2, flags=link),
        sqe(user_data=3),
        sqe(user_data=4),
    )
    assert idle(bench) == [(1, ECANCELED), (4, 0)]


@on_every_backend
def test_only_the_failure_itself_silences(make_bench: MakeBench) -> None:
    bench = make_bench("v3")
    bench.submit(
        naming(Op.TIMEOUT_REMOVE, 77, 1, flags=LINK),
        sqe(user_data=2, flags=LINK | SKIP),
        sqe(user_data=3),
        naming(Op.TIMEOUT_REMOVE, 77, 4, flags=LINK | SKIP),
        sqe(user_data=5),
    )
    assert sorted(idle(bench)) == [(1, ENOENT), (2, ECANCELED), (3, ECANCELED), (4, ENOENT)]


# --- generated ------------------------------------------------------------------------------------


@pytest.mark.kernel_ring
def test_generated_sequences_are_as_on_a_plain_ring() -> None:
    if reason := available():
        pytest.skip(f"no io_uring: {reason}")
    each_seed("PYBPFVM_DRAINS", compare, count=150, seconds=25)


def compare(seed: int) -> list[str]:
    """What differs from a plain ring of the kernel's each time, in words: a busy machine is given
    more time, and what a worker has not quite given up may or may not keep a request back."""
    sequence = Generator(seed).generate()
    found: list[str] = []
    for rest_ns in (REST_NS, 10 * REST_NS, REST_NS, REST_NS):
        found = _differing(sequence, rest_ns)
        if not found:
            break
    return found


def _differing(sequence: Sequence, rest_ns: int) -> list[str]:
    plain = play_plain(sequence, rest_ns)
    theirs = plain.results()
    names = {sqe.user_data: _name(sqe) for step in sequence.steps for sqe in step}
    backends: dict[str, Callable[[AddressSpace], Backend]] = {
        "sim": lambda memory: SimBackend(memory, seed=sequence.seed),
        "kernel": KernelBackend,
    }
    found = []
    for backend, make in backends.items():
        ours = play_on(sequence, make, plain).results()
        found += [
            f"{name}: plain {_said(theirs.get(token))}, over {backend} {_said(ours.get(token))}"
            for token, name in names.items()
            if ours.get(token) != theirs.get(token)
        ]
    return found


def _name(sqe: Sqe) -> str:
    opcode = Op(sqe.opcode).name if sqe.opcode in set(Op) else str(sqe.opcode)
    return f"{sqe.user_data}:{opcode}(flags={sqe.flags:#x}, addr={sqe.addr}, off={sqe.off})"


def _said(results: list[tuple[int, int]] | None) -> str:
    if not results:
        return "nothing"
    return ", ".join(
        f"{'-' + errno_name(res) if res < 0 else res} in step {step}" for step, res in results
    )


def test_generated_sequences_hold_what_they_are_for() -> None:
    drained, refused, silent = set(), 0, 0
    for seed in range(1, 300):
        for step in Generator(seed).generate().steps:
            for entry in step:
                if entry.flags & DRAIN:
                    drained.add((entry.opcode, bool(entry.flags & abi.SQE_ANY_LINK)))
                refused += entry.opcode == 200 and bool(entry.flags & abi.SQE_ANY_LINK)
                silent += bool(entry.flags & SKIP and entry.flags & abi.SQE_ANY_LINK)
    assert drained >= {(op, linked) for op in (*NAMING, Op.TIMEOUT) for linked in (False, True)}
    assert refused > 10
    assert silent > 50
