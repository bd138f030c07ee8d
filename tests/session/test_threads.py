"""One ring, several threads of its host: calls take turns, queues are reaped at any time."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pybpfvm.errors import PybpfvmError, RingError, RingHang
from pybpfvm.filters.asm import assemble
from pybpfvm.filters.table import Registration
from pybpfvm.session import Machine, Ring
from pybpfvm.session import ring as session_ring
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.sqe import SqeBuilder
from pybpfvm.uring_backend import turns
from pybpfvm.uring_backend.abi import SETUP_R_DISABLED, Cqe, Op
from pybpfvm.uring_backend.ring import Ring as CoreRing
from pybpfvm.uring_backend.settings import CLOCK_BOOTTIME
from pybpfvm.uring_backend.turns import Turns
from tests.support.session_ring import need_backend

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
KERNEL = [
    pytest.param("kernel", marks=pytest.mark.kernel_ring),
    pytest.param("liburing", marks=pytest.mark.kernel_ring),
]
EVERY: list[object] = ["sim", *KERNEL]
_SECOND = 1_000_000_000


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[list[BaseException]]:
    """`work` in a thread of its own, which ends before the block does; what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield raised
    finally:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("backend", EVERY)
def test_one_thread_submits_while_another_waits(backend: BackendName) -> None:
    need_backend(backend)
    count = 60
    with Machine() as machine:
        obj = machine.load(EXAMPLES / "09_sink" / "prog.v3.bpf.o", abi="iouring-v3")
        with Ring(8, [16], backend=backend, machine=machine) as ring:
            ring.register_bpf([obj["flood"]])
            got: list[int] = []

            def collect() -> None:
                while len(got) < 2 * count:
                    try:
                        got.append(ring.wait_cqe(20 * _SECOND).user_data)
                    except TimeoutError:  # virtual time waits for nobody
                        assert backend == "sim"
                        time.sleep(0.001)

            with beside(collect) as raised:
                for number in range(count):
                    ring.get_sqe().prep_bpf(0, user_data=0)
                    ring.get_sqe().prep_nop(user_data=1 + number)
                    assert ring.submit() == 2
            assert raised == []
            assert [data for data in got if data] == list(range(1, count + 1))
            assert got.count(0) == ring.counts.runs["flood"] == count


@pytest.mark.parametrize("engine", ["interp", "auto"])
@pytest.mark.parametrize("backend", EVERY)
def test_user_space_reaps_while_a_program_runs(backend: BackendName, engine: str) -> None:
    """Whatever was not lost arrives once, and in order."""
    need_backend(backend)
    rounds = 4
    with Machine() as machine:
        obj = machine.load(EXAMPLES / "09_sink" / "prog.v3.bpf.o", abi="iouring-v3")
        with Ring(8, [16], backend=backend, machine=machine, engine=engine) as ring:
            ring.register_bpf([obj["flood"]])
            got: list[Cqe] = []
            over = threading.Event()

            def reap() -> None:
                while not over.is_set() or ring.ready(1):
                    got.extend(ring.reap(1))
                    time.sleep(0.001)

            with beside(reap) as raised:
                for _ in range(rounds):
                    ring.get_sqe().prep_bpf(0, user_data=1000)
                    ring.submit()
                    assert ring.wait_cqe(20 * _SECOND).res == 0
                over.set()
            assert raised == []
            counts = ring.counts
            assert counts.posted[1] == counts.reaped[1] == len(got)
            assert counts.posted[1] + counts.dropped[1] == rounds * 1001
            numbers = [cqe.user_data for cqe in got if cqe.user_data != 0xDEAD]
            turns = sum(1 for one, two in pairwise(numbers) if two <= one)
            assert turns < rounds, "each round counts upwards"


@pytest.mark.parametrize("backend", KERNEL)
def test_a_wait_hopes_for_other_threads_that_have_called(backend: BackendName) -> None:
    need_backend(backend)
    with Ring(8, backend=backend) as ring:
        with pytest.raises(RingHang):
            ring.wait_cqe()

        def submit() -> None:
            ring.run_until_idle()
            time.sleep(0.05)
            ring.get_sqe().prep_nop(user_data=7)
            ring.submit()

        with beside(submit) as raised:
            while not ring.core.turns.shared:
                time.sleep(0.001)
            assert ring.wait_cqe() == Cqe(7, 0)
        assert raised == []
        began = time.monotonic()
        with pytest.raises(RingHang, match="nothing in flight can complete"):
            ring.wait_cqe()  # that thread is over
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("backend", KERNEL)
def test_who_waits_on_a_ring_that_is_closed_is_told(backend: BackendName) -> None:
    need_backend(backend)
    ring = Ring(8, backend=backend)
    reader, _ = ring.world.pipe()
    ring.get_sqe().prep_read(reader, ring.user.alloc(8).addr, 8, 0)
    ring.submit()
    with beside(lambda: ring.wait_cqe(20 * _SECOND)) as raised:
        while not ring.core.turns.shared:
            time.sleep(0.001)
        ring.close()
    (error,) = raised
    assert isinstance(error, RingError)
    assert (error.errno, error.reason) == (errno.ENXIO, "the ring is closed")


def test_what_a_handler_raises_while_others_have_the_turn_loses_no_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waits until the turn comes back; then the call ends, and the next thread has its turn."""
    turns_ = Turns()
    inside, over = threading.Event(), threading.Event()

    def other() -> None:
        with turns_:
            inside.set()
            over.wait(60)

    raised: list[int] = []

    def breathe() -> None:
        raised.append(len(raised))
        over.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(turns, "breathe", breathe)
    thread = threading.Thread(target=other)

    def call() -> None:
        with turns_:
            thread.start()
            while not turns_._waiting:
                time.sleep(0.001)
            turns_.let_others()

    with pytest.raises(KeyboardInterrupt):
        call()
    thread.join(60)
    assert inside.is_set()
    assert raised
    assert (turns_._holder, turns_._depth) == (0, 0)
    with turns_:
        assert turns_._depth == 1


def test_a_call_of_another_thread_waits_for_its_turn() -> None:
    order: list[str] = []
    with Ring(8) as ring:

        def call() -> None:
            ring.run_until_idle()
            order.append("call")

        thread = threading.Thread(target=call)
        with ring.core.turns:
            thread.start()
            time.sleep(0.02)
            ring.run_until_idle()  # of this thread: within its own turn
            order.append("turn")
        thread.join(60)
    assert order == ["turn", "call"]


def test_threads_have_their_turns_as_they_came() -> None:
    order: list[int] = []
    with Ring(8) as ring, ExitStack() as stack:
        turns_ = ring.core.turns

        def call(number: int) -> None:
            with turns_:
                ring.run_until_idle()
                order.append(number)

        with turns_:
            for number in range(8):
                stack.enter_context(beside(partial(call, number)))
                while len(turns_._waiting) <= number:
                    time.sleep(0.001)
            assert order == []
    assert order == list(range(8))


@pytest.mark.parametrize("backend", EVERY)
def test_rings_do_not_wait_for_one_another(backend: BackendName) -> None:
    need_backend(backend)
    with Ring(8, backend=backend) as one, Ring(8, backend=backend) as other:
        got: list[int] = []

        def use() -> None:
            other.get_sqe().prep_nop(user_data=5)
            other.submit()
            got.append(other.wait_cqe(20 * _SECOND).user_data)

        with one.core.turns:  # as while its programs run
            with beside(use) as raised:
                pass
            assert got == [5]
        assert raised == []


def test_while_a_ring_waits_for_its_requests_to_end_nothing_new_is_begun() -> None:
    with Ring(8) as ring:
        ring.core._bpf.dying = True
        with pytest.raises(PybpfvmError, match="ENXIO"):
            ring.submit()
        ring.core._bpf.dying = False
        assert ring.submit() == 0


def test_threads_that_use_a_new_ring_at_once_use_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made at first use, when its ABI is known."""
    made: list[CoreRing] = []

    def slow(*args: Any, **options: Any) -> CoreRing:
        time.sleep(0.05)
        made.append(CoreRing(*args, **options))
        return made[-1]

    monkeypatch.setattr(session_ring, "CoreRing", slow)
    with Ring(8) as ring:
        with beside(lambda: ring.core) as raised:
            ring.get_sqe().prep_nop(user_data=1)
            assert ring.submit() == 1
        assert raised == []
        assert made == [ring.core]


@pytest.mark.parametrize("backend", EVERY)
def test_registering_takes_its_turn(backend: BackendName) -> None:
    need_backend(backend)
    with Ring(8, backend=backend) as ring:
        reader, _ = ring.world.pipe()
        block = ring.user.alloc(4096)
        registered = threading.Event()

        def register() -> None:
            ring.register_files([reader])
            ring.register_buffers([block])
            registered.set()

        turn = ring.core.turns
        turn.__enter__()
        with beside(register) as raised:
            assert not registered.wait(0.05)
            turn.__exit__(None, None, None)
            assert registered.wait(10)
        assert raised == []


@pytest.mark.parametrize("backend", EVERY)
def test_what_a_ring_is_asked_and_told_waits_for_its_turn(backend: BackendName) -> None:
    need_backend(backend)
    with (
        Ring(8, backend=backend, flags=SETUP_R_DISABLED) as ring,
        Ring(8, backend=backend) as other,
    ):
        numbers: list[int] = []
        message = SqeBuilder(None).set(opcode=Op.MSG_RING, len=7, off=99)
        allowed = Registration(Op.NOP, assemble("ret #1"))
        eventfd = ring.world.eventfd()
        commands: dict[str, Callable[[], object]] = {
            "probe": ring.probe,
            "query": ring.query,
            "personality": lambda: numbers.append(ring.register_personality()),
            "unregister personality": lambda: ring.unregister_personality(numbers.pop()),
            "affinity": lambda: ring.register_iowq_aff([0]),
            "unregister affinity": ring.unregister_iowq_aff,
            "workers": ring.register_iowq_max_workers,
            "ring fd": lambda: ring.unregister_ring_fd(ring.register_ring_fd()),
            "clock": lambda: ring.register_clock(CLOCK_BOOTTIME),
            "fd": lambda: message.set(fd=ring.ring_fd(other)),
            "message": lambda: ring.register_sync_msg(message),
            "filter": lambda: ring.register_filter(allowed),
            "eventfd": lambda: ring.register_eventfd_async(eventfd),
            "unregister eventfd": ring.unregister_eventfd,
            "restrictions": lambda: ring.register_restrictions(sqe_ops=[Op.NOP]),
            "enable": ring.enable,
        }
        done: list[str] = []
        waited: list[str] = []
        refused: dict[str, int] = {}
        turn = ring.core.turns
        for name, command in commands.items():
            called = threading.Event()

            def work(name: str = name, command: Callable[[], object] = command) -> None:
                called.set()  # noqa: B023
                try:
                    command()
                except RingError as error:
                    refused[name] = error.errno
                done.append(name)

            turn.__enter__()
            with beside(work) as raised:
                assert called.wait(10)
                time.sleep(0.005)
                if name not in done:
                    waited.append(name)
                turn.__exit__(None, None, None)
            assert raised == []
        assert waited == done == list(commands)
        # The kernel has them of threads with workers of their own only.
        assert refused.keys() <= {"affinity", "unregister affinity", "workers"}
        assert set(refused.values()) <= {errno.EINVAL}
        assert other.wait_cqe(_SECOND).user_data == 99


def test_a_command_comes_before_the_ring_is_made_or_behind() -> None:
    """A ring is made at first use; what it is told before that is told to its backend."""
    with Ring(8) as ring:
        told, made = threading.Event(), threading.Event()

        def use() -> None:
            assert told.wait(10)
            ring.core  # noqa: B018
            made.set()

        with beside(use) as raised, ring._turn():
            told.set()
            assert not made.wait(0.05)
            assert ring._core is None
        assert raised == []
        assert made.is_set()
