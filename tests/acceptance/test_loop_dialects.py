"""What was proposed before and after the merged ABI: abi/iouring-bpf-upstream, 5.6, 5.7, 7 to 9."""

from __future__ import annotations

import errno
import operator
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pytest

from pybpfvm.btf.types import BtfKind
from pybpfvm.errors import InputError, RingError, UnsupportedError
from pybpfvm.objectfile import detect_abi, read_object
from pybpfvm.profiles import profile_named
from pybpfvm.profiles.detect_loop import Callbacks, LoopFacts, detect_loop
from pybpfvm.profiles.loop_dialects import DIALECTS, OP_BPF, WITH_LOOP, XOR_DEMO
from pybpfvm.profiles.loop_upstream import kernel_btf_of
from pybpfvm.session import Block, LoadedObject, LoopRing, Machine, timespec
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.loopring import LOOP_FLAGS
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import ENTER_GETEVENTS
from pybpfvm.uring_backend.base import Peer
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Rejected, Rule
from pybpfvm.verifier.verify import verify
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

FOLDER = Path(__file__).resolve().parents[1] / "data" / "dialects"
NAMES = {
    "prototype": "iouring-2024",
    "june": "loop-2025-06",
    "november": "loop-2025-11",
    "timeout": "loop-timeout",
    "gate": "loop-poll-gate",
    "xor": "loop-xor",
    "op.81": "op-bpf-v1",
    "op.82": "op-bpf-v2",
}
TAIL_FLAGS = abi.SETUP_SINGLE_ISSUER | abi.SETUP_DEFER_TASKRUN | abi.SETUP_NO_SQARRAY
MS = 1_000_000
both_backends = pytest.mark.parametrize("backend", SIM_AND_KERNEL)


@contextmanager
def desk(
    name: str, flags: int = LOOP_FLAGS, backend: BackendName = "sim", engine: str = "auto"
) -> Iterator[tuple[LoopRing, LoadedObject]]:
    need_backend(backend)
    with Machine() as machine:
        obj = machine.load(FOLDER / f"{name}.bpf.o")  # the ABI is plain from the object
        with LoopRing(
            8,
            cq_entries=8,
            flags=flags,
            backend=backend,
            engine=engine,
            abi=obj.profile,
            machine=machine,
        ) as ring:
            yield ring, obj


def refused(number: int) -> pytest.RaisesExc[RingError]:
    return pytest.RaisesExc(RingError, check=lambda error: error.errno == number)


# --- 2024 ---------------------------------------------------------------------------------------


@both_backends
@pytest.mark.parametrize("engine", ["interp", "auto"])
def test_a_chain_by_a_program_of_its_own_type(backend: BackendName, engine: str) -> None:
    with desk("prototype", TAIL_FLAGS, backend, engine) as (ring, obj):
        obj.globals["to_run"] = 50
        with ring.attach(obj, "chain"):
            assert ring.enter(flags=ENTER_GETEVENTS) == 0
        assert (obj.globals["taken"], obj.globals["strangers"]) == (50, 0)
        words = ring.core.queues.words
        assert (words["sq_tail"], words["cq_head"], words["cq_tail"]) == (50, 50, 50)


def test_a_cqe_is_copied_and_taken_or_zeros_are() -> None:
    with desk("prototype") as (ring, obj), ring.attach(obj, "copies"):
        ring.enter(flags=ENTER_GETEVENTS)
        assert (obj.globals["result"], obj.globals["user_data"]) == (-errno.EINVAL, 0)
        ring.get_sqe().prep_nop(user_data=9)
        ring.submit()
        ring.enter(flags=ENTER_GETEVENTS)
        assert (obj.globals["result"], obj.globals["user_data"]) == (0, 9)
        assert ring.peek_cqe() is None


def test_a_wait_for_so_many() -> None:
    with desk("prototype") as (ring, obj):
        at = [ring.user.alloc(timespec(number * MS)) for number in (1, 3)]
        for block in at:
            ring.get_sqe().prep_timeout(block.addr)
        ring.submit()
        obj.globals["nr"] = 2
        with ring.attach(obj, "waits"):
            assert ring.enter(flags=ENTER_GETEVENTS) == 0
            assert (obj.globals["steps"], ring.core.now_ns()) == (2, 3 * MS)
            obj.globals["steps"] = 0
            with pytest.raises(UnsupportedError, match="while there are some"):
                ring.enter(flags=ENTER_GETEVENTS)


def test_answers_that_were_never_written_down() -> None:
    with desk("prototype") as (ring, obj), ring.attach(obj, "answers"):
        obj.globals["answer"] = 2
        with pytest.raises(UnsupportedError, match="the answer 2"):
            ring.enter(flags=ENTER_GETEVENTS)
        with pytest.raises(InputError, match="no callbacks are called 'answer'"):
            ring.attach(obj, "answer")


# --- June 2025 ----------------------------------------------------------------------------------


@both_backends
@pytest.mark.parametrize("engine", ["interp", "auto"])
def test_a_chain_of_nops(backend: BackendName, engine: str) -> None:
    """5.7: each completion that is taken is followed by the next request."""
    with desk("june", TAIL_FLAGS, backend, engine) as (ring, obj):
        obj.globals["to_run"] = 100
        with ring.attach(obj, "ops_chain"):
            assert ring.enter(flags=ENTER_GETEVENTS) == 1  # STOP, and the CQ is empty
            assert (obj.globals["taken"], obj.globals["strangers"]) == (100, 0)
            assert obj.globals["steps"] == 101
            words = ring.core.queues.words
            assert (words["sq_head"], words["sq_tail"], words["cq_head"]) == (100, 100, 100)


def test_the_program_runs_only_where_an_enter_waits() -> None:
    with desk("june", TAIL_FLAGS) as (ring, obj), ring.attach(obj, "ops_answers"):
        obj.globals["answer"] = 1
        ring.get_sqe().prep_nop(user_data=3)
        assert (ring.submit(), obj.globals["steps"]) == (1, 0)  # to_submit is honoured
        assert ring.enter(flags=ENTER_GETEVENTS) == 0  # STOP, and there is a CQE
        assert obj.globals["steps"] == 1
        ring.get_sqe().prep_nop(user_data=4)
        ring.core.queue(ring._pending.pop().pack())
        assert ring.enter(1, 1, ENTER_GETEVENTS) == 1  # what was submitted
        assert obj.globals["steps"] == 2
        assert [cqe.user_data for cqe in ring.reap()] == [3, 4]


@pytest.mark.parametrize("answer", [1, 2, 77])
def test_every_answer_but_zero_ends_the_wait(answer: int) -> None:
    with desk("june") as (ring, obj), ring.attach(obj, "ops_answers"):
        obj.globals["answer"] = answer
        assert ring.enter(flags=ENTER_GETEVENTS) == answer
        obj.globals["answer"] = -errno.EPERM
        with refused(errno.EPERM):
            ring.enter(flags=ENTER_GETEVENTS)


@both_backends
def test_cqes_of_the_programs_own(backend: BackendName) -> None:
    with desk("june", backend=backend) as (ring, obj):
        with ring.attach(obj, "ops_posts"):
            assert ring.enter(flags=ENTER_GETEVENTS) == 0
        assert obj.globals["result"] == 0
        obj.globals["which"] = 8  # slots go round
        with ring.attach(obj, "ops_looks"):
            assert ring.enter(flags=ENTER_GETEVENTS) == 0
        assert obj.globals["result"] == -5
        (cqe,) = ring.reap()
        assert (cqe.user_data, cqe.res, cqe.flags) == (7, -5, 3)


def test_entries_have_64_bytes() -> None:
    with desk("june") as (ring, obj), ring.attach(obj, "ops_short_entry"):
        ring.enter(flags=ENTER_GETEVENTS)
        assert obj.globals["result"] == -errno.EINVAL
        assert ring.core.queues.words["sq_tail"] == 0


def test_what_was_never_written_down_is_unsupported() -> None:
    with (
        desk("june") as (ring, obj),
        ring.attach(obj, "ops_timed"),
        pytest.raises(UnsupportedError, match=r"iou_loop_state\.timeout other than 0"),
    ):
        ring.enter(flags=ENTER_GETEVENTS)


def test_only_rings_with_deferred_work_take_a_program_of_june() -> None:
    with desk("june", abi.SETUP_SINGLE_ISSUER) as (ring, obj), refused(errno.EOPNOTSUPP):
        ring.attach(obj, "ops_answers")
    with desk("november", abi.SETUP_SINGLE_ISSUER) as (ring, obj):
        ring.attach(obj, "ops_answers")


# --- November 2025 ------------------------------------------------------------------------------


@both_backends
def test_ten_nops_one_at_a_time(backend: BackendName) -> None:
    """5.6: ten messages, ten submissions, and the enter gives 0."""
    with desk("november", backend=backend) as (ring, obj), ring.attach(obj, "ops_basic"):
        obj.globals["to_run"] = 10
        assert ring.enter(flags=ENTER_GETEVENTS) == 0
        assert (obj.globals["to_run"], obj.globals["submissions"]) == (0, 10)
        assert ring.trace == [f"found cqe {index}" for index in range(10)]


@pytest.mark.parametrize("answer", [0, 2, -1])
def test_every_answer_but_stop_goes_on(answer: int) -> None:
    with desk("november") as (ring, obj), ring.attach(obj, "ops_answers"):
        obj.globals["answer"] = answer
        assert ring.enter(flags=ENTER_GETEVENTS) == 0
        assert obj.globals["steps"] == 3


def test_regions_have_other_numbers() -> None:
    with desk("november") as (ring, obj), ring.attach(obj, "ops_regions"):
        ring.enter(flags=ENTER_GETEVENTS)
        assert obj.globals["found"] == bytes([1, 1, 0, 0])
        ring.register_mem(4096)
        ring.enter(flags=ENTER_GETEVENTS)
        assert obj.globals["found"] == bytes([1, 1, 1, 0])


@both_backends
def test_signals_end_the_wait(backend: BackendName) -> None:
    with desk("november", backend=backend) as (ring, obj), ring.attach(obj, "ops_waits"):
        obj.globals["which"] = 9
        ring.core.at(2 * MS, ring.core.signal)
        with refused(errno.EINTR):
            ring.enter(flags=ENTER_GETEVENTS)
        assert obj.globals["steps"] == 1


# --- waits with a timeout -----------------------------------------------------------------------

TIMEOUT, ABSOLUTE, OVER, AGAIN = 1, 2, 4, 0x100


def numbers(obj: LoadedObject, name: str) -> list[int]:
    found = obj.globals[name]
    assert isinstance(found, list)
    return [one for one in found if isinstance(one, int)]


@both_backends
def test_a_wait_ends_with_its_timeout(backend: BackendName) -> None:
    with desk("timeout", backend=backend) as (ring, obj), ring.attach(obj, "ops_waits"):
        obj.globals["wait_idx"], obj.globals["last"] = 5, 2
        obj.globals["give_flags"], obj.globals["give_ns"] = TIMEOUT | AGAIN, 3 * MS
        assert ring.enter() == 0
        assert numbers(obj, "seen") == [0, OVER, OVER, 0]
        first, second, third, _ = numbers(obj, "at")
        assert min(second - first, third - second) >= 3 * MS
        if backend == "sim":
            assert (second - first, third - second) == (3 * MS, 3 * MS)


def test_a_timeout_may_be_a_point_of_time() -> None:
    with desk("timeout") as (ring, obj), ring.attach(obj, "ops_waits"):
        ring.run_until_idle(1)
        obj.globals["wait_idx"], obj.globals["last"] = 5, 1
        obj.globals["give_flags"] = TIMEOUT | ABSOLUTE
        obj.globals["give_ns"] = 7 * MS
        assert ring.enter() == 0
        assert numbers(obj, "at")[1] == 7 * MS
        obj.globals["steps"] = 0
        assert ring.enter() == 0  # that time has passed: no wait
        assert (numbers(obj, "at")[1], numbers(obj, "seen")[1]) == (7 * MS, OVER)


def test_what_completes_in_time_is_no_timeout() -> None:
    with desk("timeout", TAIL_FLAGS) as (ring, obj):
        at = ring.user.alloc(timespec(MS))
        ring.get_sqe().prep_timeout(at.addr)
        ring.submit()
        obj.globals["wait_idx"], obj.globals["last"] = 1, 1
        obj.globals["give_flags"], obj.globals["give_ns"] = TIMEOUT, 3 * MS
        with ring.attach(obj, "ops_waits"):
            assert ring.enter() == 0
        assert numbers(obj, "seen")[1] == 0
        assert ring.core.now_ns() == MS


@both_backends
def test_a_timeout_beyond_every_clock_is_none(backend: BackendName) -> None:
    with desk("timeout", backend=backend) as (ring, obj), ring.attach(obj, "ops_waits"):
        obj.globals["wait_idx"], obj.globals["last"] = 5, 1
        obj.globals["give_flags"], obj.globals["give_ns"] = TIMEOUT, (1 << 64) - 1
        ring.core.at(2 * MS, ring.core.signal)
        with refused(errno.EINTR):
            ring.enter()


def test_flags_are_cleared_after_each_step_and_known() -> None:
    with desk("timeout") as (ring, obj), ring.attach(obj, "ops_waits"):
        obj.globals["wait_idx"], obj.globals["last"] = 5, 2
        obj.globals["give_flags"], obj.globals["give_ns"] = TIMEOUT, MS
        ring.core.at(50 * MS, ring.core.signal)
        with refused(errno.EINTR):  # the second wait has no timeout any more
            ring.enter()
        assert (obj.globals["steps"], ring.core.now_ns()) == (2, 50 * MS)
        obj.globals["steps"], obj.globals["give_flags"] = 0, 8
        with refused(errno.EINVAL):
            ring.enter()


# --- the poll gate ------------------------------------------------------------------------------


def connection(ring: LoopRing) -> tuple[int, Peer]:
    """A TCP socket of the ring's, and the host's end."""
    listener = ring.world.listen()
    peer = ring.world.connect(listener)
    ring.get_sqe().prep_accept(listener)
    ring.submit()
    return ring.wait_cqe().res, peer


def receive(ring: LoopRing, fd: int, size: int = 64) -> Block:
    block = ring.user.alloc(size)
    ring.get_sqe().prep_recv(fd, block.addr, size).set(ioprio=abi.RECV_POLL_BPF)
    assert ring.submit() == 1
    return block


def arrives(ring: LoopRing, peer: Peer, data: bytes) -> list[int]:
    """What completes when the peer has sent this."""
    peer.send(data)
    ring.run_until_idle()
    ring.enter(flags=ENTER_GETEVENTS)
    return [cqe.res for cqe in ring.reap()]


@pytest.mark.parametrize("engine", ["interp", "auto"])
def test_a_gate_decides_which_wakes_count(engine: str) -> None:
    """9.2: 0 fires. The bytes of a wake that does not count stay for one that does."""
    with desk("gate", TAIL_FLAGS, engine=engine) as (ring, obj), ring.attach(obj, "ops_enough"):
        fd, peer = connection(ring)
        block = receive(ring, fd)
        assert arrives(ring, peer, b"a" * 63) == []
        assert arrives(ring, peer, b"b") == [64]
        assert block.read() == b"a" * 63 + b"b"
        receive(ring, fd)
        assert arrives(ring, peer, b"quit") == [4]


def test_what_a_gate_sees() -> None:
    with desk("gate", TAIL_FLAGS) as (ring, obj), ring.attach(obj, "ops_told"):
        fd, peer = connection(ring)
        block = receive(ring, fd)
        assert arrives(ring, peer, b"abcdef") == []
        found = obj.globals["found"]
        assert isinstance(found, dict)
        assert (found["inq"], found["rmem_alloc"]) == (6, 6)
        assert found["rcvbuf"] >= found["inq"]
        assert found["mss"] == 1460
        assert (obj.globals["answer_state"], obj.globals["answer_peek"]) == (0, 4)
        assert obj.globals["looked"] == b"abcd"
        obj.globals["fires"] = 1
        assert arrives(ring, peer, b"g") == [7]
        assert block.read()[:7] == b"abcdefg"
        assert obj.globals["asked"] == 2


def test_a_gate_is_asked_of_wakes_only() -> None:
    """What is there when the request comes is taken; other receives are nobody's business."""
    with desk("gate", TAIL_FLAGS) as (ring, obj), ring.attach(obj, "ops_told"):
        fd, peer = connection(ring)
        peer.send(b"there")
        ring.run_until_idle()
        receive(ring, fd)
        ring.enter(flags=ENTER_GETEVENTS)
        assert [cqe.res for cqe in ring.reap()] == [5]
        block = ring.user.alloc(8)
        ring.get_sqe().prep_recv(fd, block.addr, 8)
        ring.submit()
        assert arrives(ring, peer, b"abc") == [3]
        assert obj.globals["asked"] == 0


def test_only_tcp_tells_what_it_holds() -> None:
    with desk("gate", TAIL_FLAGS) as (ring, obj), ring.attach(obj, "ops_told"):
        fd, peer = ring.world.socketpair()
        receive(ring, fd)
        assert arrives(ring, peer, b"abc") == []
        answers = (obj.globals["answer_state"], obj.globals["answer_peek"])
        assert answers == (2**32 - errno.EOPNOTSUPP, 2**32 - errno.EOPNOTSUPP)


def test_numbers_have_16_bytes_and_an_end_can_be_looked_at() -> None:
    with desk("gate", TAIL_FLAGS) as (ring, obj):
        fd, peer = connection(ring)
        with ring.attach(obj, "ops_short_room"):
            receive(ring, fd)
            assert arrives(ring, peer, b"abc") == [3]
            assert obj.globals["answer_size"] == 2**32 - errno.EINVAL
        with ring.attach(obj, "ops_told"):
            obj.globals["fires"] = 1
            receive(ring, fd)
            peer.shutdown()
            assert arrives(ring, peer, b"") == [0]
            assert obj.globals["answer_peek"] == 2**32 - errno.EAGAIN


def test_a_ring_has_a_step_or_a_gate_or_both() -> None:
    with desk("gate", TAIL_FLAGS) as (ring, obj):
        with refused(errno.EINVAL):
            ring.attach(obj, "ops_neither")
        fd, peer = connection(ring)
        with ring.attach(obj, "ops_both"):
            with refused(errno.EBUSY):
                ring.attach(obj, "ops_told")
            assert (ring.enter(), obj.globals["steps"]) == (0, 1)
        with ring.attach(obj, "ops_told"):
            receive(ring, fd)
            assert arrives(ring, peer, b"abc") == []
        # Without a gate the request that waits is an ordinary one, and there are no others.
        assert arrives(ring, peer, b"d") == [4]
        block = ring.user.alloc(8)
        ring.get_sqe().prep_recv(fd, block.addr, 8).set(ioprio=abi.RECV_POLL_BPF)
        ring.submit()
        assert [cqe.res for cqe in ring.reap()] == [-errno.EINVAL]


def test_no_gate_over_the_kernels_ring() -> None:
    with (
        desk("gate", TAIL_FLAGS, "kernel") as (ring, obj),
        pytest.raises(UnsupportedError, match="a poll gate"),
    ):
        ring.attach(obj, "ops_enough")


# --- the XOR of a registered buffer ---------------------------------------------------------------


def xor_of(data: bytes) -> int:
    return reduce(operator.xor, data, 0)


@both_backends
@pytest.mark.parametrize("engine", ["interp", "auto"])
def test_the_xor_of_a_registered_buffer(backend: BackendName, engine: str) -> None:
    """5.4, `xor`: which buffer and how much of it stand in MEM, the answer goes there."""
    content = bytes(n * n % 251 for n in range(512))
    with desk("xor", backend=backend, engine=engine) as (ring, obj), ring.attach(obj, "ops_xor"):
        ring.register_buffers([ring.user.alloc(16), ring.user.alloc(content)])
        own = ring.register_mem(4096)
        own.write(struct.pack("<IIB", 1, 512, 0xFF))
        assert ring.enter(flags=ENTER_GETEVENTS) == 0
        assert own.read(9)[8] == xor_of(content) != 0


@both_backends
def test_any_error_of_the_xor_is_0(backend: BackendName) -> None:
    """9.2: no such buffer, more than 512 bytes, more than the buffer has."""
    with desk("xor", backend=backend) as (ring, obj), ring.attach(obj, "ops_any"):
        content = bytes(range(1, 256)) * 3

        def answer(buffer: int, size: int) -> object:
            obj.globals["buffer"], obj.globals["size"], obj.globals["answer"] = buffer, size, 99
            assert ring.enter() == 0
            return obj.globals["answer"]

        assert answer(0, 1) == 0  # none is registered
        short = ring.user.alloc(b"\x07\x70\x01")
        ring.register_buffers([short, ring.user.alloc(content)])
        assert (answer(0, 1), answer(0, 3)) == (7, 0x76)
        assert answer(1, 512) == xor_of(content[:512]) != 0
        assert [answer(0, 0), answer(0, 4), answer(1, 513), answer(1, (1 << 32) | 1)] == [0] * 4
        assert [answer(2, 1), answer((1 << 32) - 1, 1)] == [0, 0]
        short.write(b"\x08")  # it is live
        assert answer(0, 1) == 8


def test_a_function_of_no_kernel_leaves_its_program_out() -> None:
    """5.4, `xor`: kernels give -ESRCH; here the program is named, and the others load."""
    with Machine() as machine:
        obj = machine.load(FOLDER / "xor.bpf.o", abi="loop-7.2")
        assert "xor" not in obj.programs
        assert "plain" in obj.programs
        assert "bpf_io_uring_xor_regbuf" in obj.object.left_out["xor"]


# --- verdicts -----------------------------------------------------------------------------------

VERDICTS = {
    ("prototype", "unknown_context"): Rule.UNSUPPORTED,
    ("prototype", "no_null_check"): Rule.POSSIBLY_NULL,
    ("prototype", "no_cqe"): Rule.STACK_ACCESS,
    ("june", "no_padding"): Rule.BTF_ACCESS,
    ("june", "no_wide"): Rule.BTF_ACCESS,
    ("june", "no_ring_write"): Rule.READ_ONLY,
    ("june", "no_null_check"): Rule.POSSIBLY_NULL,
    ("june", "no_cqe_write"): Rule.READ_ONLY,
    ("june", "no_entry"): Rule.STACK_ACCESS,
    ("june", "no_sleep"): Rule.KFUNC_NOT_ALLOWED,
    ("november", "no_padding"): Rule.BTF_ACCESS,
    ("november", "no_null_check"): Rule.POSSIBLY_NULL,
    ("gate", "no_sleep"): Rule.HELPER_NOT_ALLOWED,
    ("gate", "no_look"): Rule.BTF_ACCESS,
    ("gate", "no_room"): Rule.STACK_ACCESS,
    ("gate", "no_second"): Rule.CTX_ACCESS,
    ("xor", "hurried"): Rule.KFUNC_NOT_ALLOWED,
    ("timeout", "no_beyond"): Rule.BTF_ACCESS,
    ("timeout", "no_across"): Rule.BTF_ACCESS,
    ("timeout", "reads_ring"): Rule.BTF_ACCESS,
    ("op.82", "no_buffer"): Rule.STACK_ACCESS,
    **{
        (name, program): rule
        for name in ("op.81", "op.82")
        for program, rule in (
            ("no_header", Rule.READ_ONLY),
            ("no_beyond", Rule.BTF_ACCESS),
            ("no_entry", Rule.READ_ONLY),
            ("no_second", Rule.CTX_ACCESS),
            ("no_sleep", Rule.HELPER_NOT_ALLOWED),
        )
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_verdicts(name: str) -> None:
    with Machine() as machine:
        obj = machine.load(FOLDER / f"{name}.bpf.o")
        for program in obj.programs.values():
            wanted = VERDICTS.get((name, program.name))
            verdict = program.verdict()
            if wanted is None:
                assert isinstance(verdict, Accepted), program.name
            elif wanted is Rule.UNSUPPORTED:
                assert isinstance(verdict, Inconclusive), program.name
            else:
                assert isinstance(verdict, Rejected), program.name
                assert verdict.errors[0].rule is wanted, program.name


def test_only_functions_that_return_nothing_may_leave_r0_alone() -> None:
    obj, profile = read_object(FOLDER / "op.82.bpf.o"), profile_named("op-bpf-v2")
    program = obj.program("told_cleanup")
    assert isinstance(verify(program, obj, profile), Accepted)
    verdict = verify(replace(program, attach_to="uring_bpf_ops/issue"), obj, profile)
    assert isinstance(verdict, Rejected)
    assert verdict.errors[0].rule is Rule.UNINIT_REG


def test_every_refusal_is_of_a_program_there_is() -> None:
    for name, program in VERDICTS:
        assert program in {one.name for one in read_object(FOLDER / f"{name}.bpf.o").programs}


# --- detection ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_dialects_are_detected_on_the_object(name: str) -> None:
    detection = detect_abi(read_object(FOLDER / f"{name}.bpf.o"))
    assert detection.profile is not None
    assert detection.profile.name == NAMES[name]
    assert detection.profile.experimental


def test_two_versions_of_operations_may_fit_one_object() -> None:
    detection = detect_abi(read_object(FOLDER / "op.83.bpf.o"))
    assert detection.profile is None
    assert [profile.name for profile in detection.candidates] == ["op-bpf-v2", "op-bpf-v3"]


def facts(struct: str, *programs: str, **fields: set[str]) -> LoopFacts:
    return LoopFacts(
        (Callbacks(struct, frozenset(programs)),), frozenset(), frozenset(), fields.get
    )


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (facts("io_uring_bpf_ops", "loop_step"), ["loop-7.1", "loop-7.2"]),
        (
            facts("io_uring_bpf_ops", "loop_step", iou_loop_params={"cq_wait_idx", "flags"}),
            ["loop-timeout"],
        ),
        (facts("io_uring_bpf_ops", "loop_step", "poll_gate"), ["loop-poll-gate"]),
        (
            replace(
                facts("io_uring_bpf_ops", "loop_step"),
                functions=frozenset({"bpf_io_uring_xor_regbuf"}),
            ),
            ["loop-xor"],
        ),
        (facts("io_uring_ops", "handle_events"), ["loop-2025-06"]),
        (facts("io_uring_ops", "loop"), ["loop-2025-11"]),
        (facts("io_uring_ops"), ["loop-2025-06", "loop-2025-11"]),
        (facts("io_uring_ops", io_uring_ops={"ring_fd", "loop"}), ["loop-2025-11"]),
        (facts("io_uring_ops", "loop", "handle_events"), []),
        (facts("uring_bpf_ops", "prep", uring_bpf_ops={"id", "prep"}), ["op-bpf-v1"]),
    ],
)
def test_what_stays_open_is_not_guessed(found: LoopFacts, names: list[str]) -> None:
    detection = detect_loop(found)
    assert detection is not None
    assert [profile.name for profile in detection.candidates] == names
    assert (detection.profile is None) == (len(names) != 1)
    assert detection.why


def test_other_structs_are_of_no_such_dialect() -> None:
    assert detect_loop(facts("tcp_congestion_ops", "ssthresh")) is None
    prototype = replace(
        facts("x"), callbacks=(), sections=frozenset({"iouring"}), functions=frozenset()
    )
    assert detect_loop(prototype) is None  # as the series of 2021: it calls no function


# --- profiles -----------------------------------------------------------------------------------


def test_profiles_are_experimental_and_have_their_names() -> None:
    for profile in DIALECTS:
        assert profile_named(profile.name) is profile
        assert profile.experimental == (not profile.name.startswith("loop-7."))
        assert profile.loop is not None
        assert (profile.loop.operation is not None) == (profile in OP_BPF)


def test_dialects_that_may_fit_one_object_number_functions_alike() -> None:
    """What was loaded for one of several that fit can be judged by the others."""
    numbers: dict[tuple[str, str, str], set[tuple[int | None, ...]]] = {}
    several = (profile for profile in WITH_LOOP if profile is not XOR_DEMO)  # it fits alone
    for profile in (*several, OP_BPF[1], OP_BPF[2]):
        rules, btf = profile.loop, kernel_btf_of(profile)
        assert rules is not None
        assert btf is not None
        ids = tuple(btf.find(name, BtfKind.FUNC) for name in profile.kfuncs)
        assert None not in ids
        if rules.operation is not None:  # the one that only version 2 has comes last
            ids = ids[: len(OP_BPF[2].kfuncs)]
        numbers.setdefault((rules.ops, rules.callback, rules.gate), set()).add(ids)
    assert [len(found) for found in numbers.values()] == [1, 1, 1, 1, 1, 1]
