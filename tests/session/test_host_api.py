"""The host API as README and architecture show it: objects, maps, globals, rings."""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpfvm
from pybpfvm.errors import InputError, LoadRejected, RingError, RingHang, Trap
from pybpfvm.objectfile import detect_abi, read_object
from pybpfvm.session import Budgets, LoadedObject, Machine, Ring, timespec
from pybpfvm.session.judging import JudgeRequest, read_cases

ROOT = Path(__file__).parents[2]
HELLO = ROOT / "examples/01_hello/prog.v3.bpf.o"
PINGPONG = ROOT / "examples/03_pingpong/prog.v3.bpf.o"
CHECKS = ROOT / "tests/acceptance/load_checks.v2.bpf.o"


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as made:
        yield made


@pytest.fixture
def hello(machine: Machine) -> LoadedObject:
    return machine.load(HELLO, abi="v3")


def test_names_of_the_package_lead_to_the_session() -> None:
    assert pybpfvm.Ring is Ring
    assert callable(pybpfvm.load)
    with pytest.raises(AttributeError, match="nothing"):
        _ = pybpfvm.nothing


def test_one_default_machine_serves_load_and_ring() -> None:
    obj = pybpfvm.load(HELLO, abi="v3")
    with pybpfvm.Ring(cq_entries=[8]) as ring:
        ring.register_bpf([obj["hello"]])
        word = ring.user.alloc(struct.pack("<I", 1))
        ring.get_sqe().prep_bpf(0, user_data=word.addr)
        ring.submit()
        assert word.u32() == 43


def test_an_ambiguous_object_loads_and_says_so_when_used(machine: Machine) -> None:
    obj = machine.load(HELLO)
    assert [p.name for p in obj.detection.candidates] == ["iouring-v3base", "iouring-v3"]
    with Ring(machine=machine) as ring, pytest.raises(InputError, match=r"ambiguous.*--abi"):
        ring.register_bpf([obj["hello"]])


def test_unknown_program(hello: LoadedObject) -> None:
    with pytest.raises(InputError, match=r"no program is called 'nobody'.*hello"):
        hello["nobody"]


def test_maps_are_live_both_ways(machine: Machine, hello: LoadedObject) -> None:
    visits = hello.maps["visits"]
    visits[0] = 10
    with Ring(cq_entries=[8], machine=machine) as ring:
        ring.register_bpf([hello["hello"]])
        ring.get_sqe().prep_bpf(0, user_data=ring.user.alloc(4).addr)
        ring.submit()
    assert visits[0] == 11
    assert dict(visits.items()) == {0: 11}
    with pytest.raises(KeyError):
        _ = visits[1]
    with pytest.raises(InputError, match="EINVAL"):
        del visits[0]


def test_maps_and_globals_are_easy_to_look_at(hello: LoadedObject) -> None:
    assert dict(hello.maps["visits"]) == {0: 0}
    with pytest.raises(InputError, match=r"no map is called 'nope'.*visits"):
        hello.maps["nope"]
    assert repr(hello.globals) == "<Globals none>"


def test_wrong_arguments_are_named(machine: Machine) -> None:
    with pytest.raises(InputError, match="no backend is called 'foo'"):
        Ring(backend="foo", machine=machine)  # type: ignore[arg-type]
    with Ring(machine=machine) as ring, pytest.raises(InputError, match="not 1"):
        ring.register_bpf([1])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"cq_entries: .* not 16 \(\[16\] adds one CQ\)"):
        Ring(cq_entries=16, machine=machine)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cq_entries: a list of sizes is needed"):
        Ring(cq_entries=["16"], machine=machine)  # type: ignore[list-item]


def test_the_wrong_abi_is_noticed(machine: Machine) -> None:
    v2 = ROOT / "examples/03_pingpong/prog.v2.bpf.o"
    assert machine.load(v2).abi_doubt == ""
    wrong = machine.load(v2, abi="v3")
    assert wrong.abi_doubt.startswith("the object looks built for iouring-v2, not iouring-v3")
    v3 = machine.load(v2.with_name("prog.v3.bpf.o"), abi="v2")
    assert v3.abi_doubt.startswith("the object looks built for iouring-v3, not iouring-v2")
    assert "()" not in v3.abi_doubt
    with Ring(machine=machine) as ring, pytest.raises(LoadRejected) as refused:
        ring.register_bpf([wrong["player"]])
    assert "iouring_reap_cqe in iouring-v2" in str(refused.value)
    assert "iouring_bpf.h:" in str(refused.value)


@pytest.mark.parametrize(
    ("path", "abi"),
    [
        ("examples/loop_nops/prog.bpf.o", "iouring-v3"),
        ("examples/loop_nops/prog.bpf.o", "loop-2025-06"),
        ("examples/loop_nops/prog.bpf.o", "op-bpf-v2"),
        ("examples/loop_nops/prog.bpf.o", "xdp"),
        ("examples/03_pingpong/prog.v3.bpf.o", "loop-7.1"),
        ("examples/03_pingpong/prog.v3.bpf.o", "iouring-2024"),
        ("tests/data/dialects/june.bpf.o", "loop-7.2"),
        ("tests/ordinary/filter.bpf.o", "loop-7.2"),
    ],
)
def test_an_abi_of_another_kind_is_refused(machine: Machine, path: str, abi: str) -> None:
    """Both where it would run and where it would be judged."""
    built_for = re.escape(
        " or ".join(one.name for one in detect_abi(read_object(ROOT / path)).candidates)
    )
    told = f"the object looks built for {built_for}, not {abi}"
    with pytest.raises(InputError, match=told) as refused:
        machine.load(ROOT / path, abi=abi)
    assert refused.value.remedy.startswith("leave the ABI to detection, or say ")
    with pytest.raises(InputError, match=told):
        read_cases(ROOT / path, JudgeRequest(abi=abi))


def test_two_rings_share_an_object(machine: Machine, hello: LoadedObject) -> None:
    with Ring(cq_entries=[8], machine=machine) as one, Ring(cq_entries=[8], machine=machine) as two:
        for ring in (one, two):
            ring.register_bpf([hello["hello"]])
            ring.get_sqe().prep_bpf(0, user_data=ring.user.alloc(4).addr)
            assert ring.submit() == 1
    assert hello.maps["visits"][0] == 2


def test_load_checks_can_be_switched_off(machine: Machine) -> None:
    obj = machine.load(CHECKS, abi="v2")
    name = next(
        program.name
        for program in obj.programs.values()
        if any(access.size == 8 and access.offset == 8 for access in program.facts.ctx)
    )
    with Ring(machine=machine) as ring, pytest.raises(LoadRejected) as refused:
        ring.register_bpf([obj[name]])
    assert refused.value.errno == errno.EACCES
    with Ring(machine=machine, verify=False) as ring:
        ring.register_bpf([obj[name]])
        ring.get_sqe().prep_bpf(0)
        with pytest.raises(Trap, match="context"):
            ring.submit()
    with Ring(machine=machine, strict_ctx=False) as ring:
        ring.register_bpf([obj[name]])
        ring.get_sqe().prep_bpf(0)
        assert ring.submit() == 1


def test_plain_requests_need_no_program(machine: Machine) -> None:
    with Ring(machine=machine) as ring:
        ring.get_sqe().prep_nop(user_data=1)
        ring.get_sqe().prep_timeout(ring.user.alloc(timespec(5_000_000)).addr, user_data=2)
        assert ring.submit() == 2
        assert ring.wait_cqe().user_data == 1
        late = ring.wait_cqe()
        assert (late.user_data, late.res) == (2, -errno.ETIME)
        assert ring.backend.now_ns() == 5_000_000


def test_waiting_for_nothing_is_a_hang_and_a_timeout_is_not(machine: Machine) -> None:
    with Ring(machine=machine) as ring:
        with pytest.raises(RingHang, match="user waits for 1 CQE on CQ 0"):
            ring.wait_cqe()
        with pytest.raises(TimeoutError):
            ring.wait_cqe(timeout_ns=1000)


def test_the_sq_is_full_after_its_entries(machine: Machine) -> None:
    with Ring(entries=2, machine=machine) as ring:
        ring.get_sqe()
        ring.get_sqe()
        with pytest.raises(RingError, match="EBUSY"):
            ring.get_sqe()


def test_what_a_bad_sqe_left_in_the_sq_is_not_lost(machine: Machine) -> None:
    with Ring(entries=8, machine=machine) as ring:
        ring.get_sqe().prep_nop(user_data=1, flags=0x80)
        for user_data in range(2, 9):
            ring.get_sqe().prep_nop(user_data=user_data)
        assert ring.submit() == 1
        ring.get_sqe().prep_nop(user_data=9)
        with pytest.raises(RingError, match="EBUSY"):
            ring.get_sqe()
        assert ring.submit() == 8
        assert [cqe.user_data for cqe in ring.reap()] == list(range(1, 10))


def test_timers_without_end_use_up_the_budget(machine: Machine) -> None:
    budgets = Budgets(max_events=200)
    with Ring(cq_entries=[8], machine=machine, budgets=budgets) as ring:
        endless = ring.user.alloc(timespec(1000))
        ring.get_sqe().prep_timeout(endless.addr, timeout_flags=1 << 6)  # multishot
        ring.submit()
        with pytest.raises(RingHang, match="budget of 200 waits"):
            ring.wait_cqe(cq=1)


def test_a_hang_names_twenty_waiters_and_counts_the_rest(machine: Machine) -> None:
    error = RingHang("why", tuple(f"request {n}" for n in range(50)))
    assert str(error).count("\n") == 21
    assert str(error).endswith("and 30 more")
    assert len(error.waiters) == 50


def test_a_closed_ring_says_so(machine: Machine) -> None:
    ring = Ring(machine=machine)
    ring.close()
    ring.close()
    with pytest.raises(RingError, match="closed"):
        ring.submit()


@pytest.mark.parametrize("fields", [{"opcode": 256}, {"len": -1}, {"user_data": 1 << 64}])
def test_fields_that_do_not_fit(machine: Machine, fields: dict[str, int]) -> None:
    with Ring(machine=machine) as ring:
        with pytest.raises(InputError, match="does not fit"):
            ring.get_sqe().set(**fields).pack()
        with pytest.raises(InputError, match="no field 'nothing'"):
            ring.get_sqe().set(nothing=1)


def test_blocks_are_bounded(machine: Machine) -> None:
    block = machine.user.alloc(16, "small")
    block.write(b"x" * 16)
    with pytest.raises(InputError, match="small: bytes 10 to 18 of a block of 16"):
        block.read(8, 10)
    with pytest.raises(InputError):
        block.write(b"y", 16)
    assert block.read() == b"x" * 16


def test_a_program_runs_alone(machine: Machine) -> None:
    obj = machine.load(PINGPONG)
    done = obj["player"].run(struct.pack("<QII", 0, 0, 0))
    assert done.retval == 0
    assert done.insns > 5
    with pytest.raises(InputError, match="repeat"):
        obj["player"].run(repeat=0)
    with pytest.raises(Trap, match="budget"):
        obj["player"].run(budget_insns=3)


def test_reaping_ends_where_a_host_broke_the_head(machine: Machine) -> None:
    with Ring(abi="iouring-v3", machine=machine) as ring:
        ring.get_sqe().prep_nop(user_data=1)
        ring.submit()
        ring.core._queue(0)._words[2] += 5  # the head, past the tail
        assert len(ring.reap()) == ring.core.cq_entries(0)


def test_every_name_of_the_host_api_is_there() -> None:
    import pybpfvm.session as host

    assert all(getattr(host, name) is not None for name in host.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = host.nothing
