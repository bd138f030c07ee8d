"""Faults: what is legal, how a plan is written, and that only the planned request meets it."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable

import pytest

from pybpfvm.errors import InputError
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.uring_backend.abi import (
    AT_FDCWD,
    CQE_F_MORE,
    CQE_F_NOTIF,
    MSG_DONTWAIT,
    MSG_WAITALL,
    RWF_NOWAIT,
    SOCK_DGRAM,
    SOCK_SEQPACKET,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.base import Completion, Peer
from pybpfvm.uring_backend.faults import (
    LEGAL,
    AtRequest,
    Fails,
    Faults,
    Late,
    Short,
    SmallBacklog,
    UserReaps,
    UserWrites,
    even_odds,
    kinds_of,
    parse_faults,
    plan_text,
)
from pybpfvm.uring_backend.sim import SimBackend
from pybpfvm.uring_backend.sim.injector import Injector
from pybpfvm.uring_backend.sim.opcodes import PREPARE
from tests.support.fault_table import PAGE, page_with

PLAN = (
    AtRequest(Op.READ, 2, Fails(errno.EIO)),
    AtRequest(Op.RECV, 1, Short(3)),
    AtRequest(Op.WRITE, 4, Late(20_000)),
    AtRequest(Op.SEND, 1, Late(1_500)),
    UserWrites(3, "word", 4, b"\xff\x00"),
    UserReaps(3, 1),
    SmallBacklog(0),
)


def test_a_plan_is_one_line_that_reads_back() -> None:
    text = (
        "READ#2=EIO,RECV#1=short:3,WRITE#4=late:20us,SEND#1=late:1500ns,run#3=write:word+4:ff00,"
        "run#3=reap:1,backlog=0"
    )
    assert plan_text(PLAN) == text
    assert parse_faults(text) == Faults(PLAN)
    assert parse_faults("none") == Faults() == parse_faults("")


@pytest.mark.parametrize("name", ["my word", "a,b", "x+1:ff", "100%", "w\u00f6rt", "'"])
def test_a_block_of_any_name_stands_in_a_plan(name: str) -> None:
    plan = (UserWrites(1, name, 2, b"\x01"), AtRequest(Op.READ, 1, Short(1)))
    assert parse_faults(plan_text(plan)).plan == plan


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("READ#2", "is no fault"),
        ("READ#0=EIO", "counting starts at 1"),
        ("REED#1=EIO", "no opcode is called"),
        ("READ#1=EBADF", "does not meet EBADF"),
        ("READ#1=EWHAT", "EWHAT is no fault"),
        ("NOP#1=EIO", "does not meet EIO"),
        ("FSYNC#1=short:1", "FSYNC is never short"),
        ("TIMEOUT#1=late:1ms", "TIMEOUT is never late"),
        ("READ#1=reset", "READ is never reset"),
        ("READ#1=late:1h", "is no duration"),
        ("READ#1=late:ms", "is no duration"),
        ("READ#1=short:-1", "is no number"),
        ("run#1=jump", "the user side can write or reap"),
        ("run#1=write:w+0:f", "the user side can write or reap"),
        ("run#1=reap:x", "is no number"),
        ("backlog=many", "is no number"),
        ("rate:2", "is no probability"),
        ("rate:x", "is no probability"),
    ],
)
def test_what_is_no_fault_is_refused_with_its_place(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        parse_faults(text, "--faults")
    assert caught.value.where == "--faults"


def test_every_opcode_with_faults_is_performed_by_the_simulated_ring() -> None:
    assert set(LEGAL) <= set(PREPARE)


def test_the_page_lists_what_the_code_injects() -> None:
    text = PAGE.read_text()
    assert page_with(text) == text


class World:
    """A simulated ring with a file of 100 bytes, a block of as many, and faults."""

    def __init__(self, faults: Faults, seed: int = 0) -> None:
        self.memory = AddressSpace(limit_bytes=1 << 20)
        self.block = self.memory.alloc(100, RegionKind.USER, "block").start
        self.injector = Injector(faults, seed)
        self.backend = SimBackend(self.memory, seed=seed, injector=self.injector)
        self.backend.world.add_file("f", bytes(range(100)))
        self.fd = self.backend.world.open("f", 2)
        self.tokens = 0

    def submit(self, op: Op, **fields: int) -> int:
        self.tokens += 1
        self.backend.submit([Sqe(op, user_data=self.tokens, **fields).pack()])
        return self.tokens

    def read(self, size: int = 100, **fields: int) -> int:
        return self.submit(Op.READ, fd=self.fd, addr=self.block, len=size, **fields)

    def write(self, size: int = 100, **fields: int) -> int:
        return self.submit(Op.WRITE, fd=self.fd, addr=self.block, len=size, **fields)

    def connection(self) -> tuple[int, Peer]:
        """A TCP connection: the requests' fd and the host's end."""
        listener = self.backend.world.listen()
        peer = self.backend.world.connect(listener)
        accepting = self.submit(Op.ACCEPT, fd=listener)
        return self.results()[accepting], peer

    def results(self) -> dict[int, int]:
        found = {}
        while self.backend.wait(None):
            for event in self.backend.poll():
                assert isinstance(event, Completion)
                found[event.token] = event.res
        return found


def test_only_the_planned_request_fails() -> None:
    world = World(parse_faults("READ#2=EIO"))
    for _ in range(3):
        world.read()
    assert world.results() == {1: 100, 2: -errno.EIO, 3: 100}
    assert world.injector.injected == [AtRequest(Op.READ, 2, Fails(errno.EIO))]


def test_a_short_transfer_moves_that_much_and_breaks_its_link() -> None:
    world = World(parse_faults("READ#1=short:3,WRITE#1=short:40"))
    sqes = [
        Sqe(Op.READ, flags=4, fd=world.fd, addr=world.block, len=100, user_data=1),
        Sqe(Op.NOP, user_data=2),
    ]
    world.backend.submit([sqe.pack() for sqe in sqes])
    assert world.results() == {1: 3, 2: -errno.ECANCELED}
    assert bytes(world.memory.user_read(world.block, 5)) == b"\x00\x01\x02\x00\x00"
    world.tokens = 2
    world.memory.user_write(world.block, b"x" * 100)
    world.write()
    assert world.results() == {3: 40}
    assert world.backend.world.file_data("f") == b"x" * 40 + bytes(range(40, 100))


def test_a_zero_copy_send_that_fails_gives_its_memory_back() -> None:
    world = World(parse_faults("SEND_ZC#1=ENOBUFS,SEND_ZC#2=short:40,SEND_ZC#3=reset"))
    fd, _ = world.connection()
    seen = []
    for _ in range(3):
        world.submit(Op.SEND_ZC, fd=fd, addr=world.block, len=100)
        while world.backend.wait(None):
            events = world.backend.poll()
            seen += [(one.res, one.flags) for one in events if isinstance(one, Completion)]
    more, over = CQE_F_MORE, CQE_F_NOTIF
    refused, broken = -errno.ENOBUFS, -errno.ECONNRESET
    assert seen == [(refused, more), (0, over), (40, more), (0, over), (broken, more), (0, over)]


def test_names_of_files_meet_what_opening_does() -> None:
    world = World(
        parse_faults("LINKAT#1=ENOSPC,SYMLINKAT#1=EDQUOT,FSETXATTR#1=EIO,FGETXATTR#1=EIO")
    )
    world.memory.user_write(world.block, b"f\0g\0h\0user.n\0")
    old, new, other, name = (world.block + at for at in (0, 2, 4, 6))
    here = AT_FDCWD & 0xFFFFFFFF
    for tried, result in ((1, -errno.ENOSPC), (2, 0)):
        link = world.submit(Op.LINKAT, fd=AT_FDCWD, addr=old, len=here, off=new)
        assert world.results() == {link: result}, tried
    for tried, result in ((1, -errno.EDQUOT), (2, 0)):
        link = world.submit(Op.SYMLINKAT, fd=AT_FDCWD, addr=old, off=other)
        assert world.results() == {link: result}, tried
    for op, results in ((Op.FSETXATTR, (-errno.EIO, 0)), (Op.FGETXATTR, (-errno.EIO, 3))):
        for result in results:
            attribute = world.submit(op, fd=world.fd, addr=name, off=world.block + 20, len=3)
            assert world.results() == {attribute: result}
    assert world.injector.missed() == []


def test_a_late_request_is_overtaken() -> None:
    world = World(parse_faults("READ#1=late:3ms"))
    slow, fast = world.read(), world.read()
    assert list(world.results()) == [fast, slow]
    assert world.backend.now_ns() == 3_000_000


def test_what_a_worker_has_is_no_longer_cancelled() -> None:
    world = World(parse_faults("READ#1=late:3ms"))
    slow = world.read()
    cancel = world.submit(Op.ASYNC_CANCEL, fd=-1, addr=slow)
    results = world.results()
    assert results == {cancel: -errno.EALREADY, slow: 100}
    assert list(results) == [cancel, slow]


def test_what_the_kernel_would_have_found_first_stays() -> None:
    world = World(parse_faults("READ#1=EIO"))
    read_only = world.backend.world.open("f", 1)  # for writing only
    bad = world.submit(Op.READ, fd=read_only, addr=world.block, len=10)
    none = world.submit(Op.READ, fd=999, addr=world.block, len=10)
    good = world.read()
    assert world.results() == {bad: -errno.EBADF, none: -errno.EBADF, good: -errno.EIO}


def test_close_closes_all_the_same() -> None:
    world = World(parse_faults("CLOSE#1=EIO"))
    closing = world.submit(Op.CLOSE, fd=world.fd)
    assert world.results() == {closing: -errno.EIO}
    reading = world.read()
    assert world.results() == {reading: -errno.EBADF}


def test_small_writes_to_a_pipe_are_never_split() -> None:
    world = World(parse_faults("WRITE#1=short:1,WRITE#2=short:1"))
    _, writer = world.backend.world.pipe()
    world.fd = writer
    whole = world.write(100)
    assert world.results() == {whole: 100}
    assert world.injector.injected == []


def test_streams_are_split() -> None:
    world = World(parse_faults("RECV#1=short:3,SEND#1=short:40"))
    fd, peer = world.backend.world.socketpair()
    peer.send(b"x" * 50)
    receiving = world.submit(Op.RECV, fd=fd, addr=world.block, len=100)
    assert world.results() == {receiving: 3}
    rest = world.submit(Op.RECV, fd=fd, addr=world.block, len=100)
    assert world.results() == {rest: 47}
    sending = world.submit(Op.SEND, fd=fd, addr=world.block, len=100)
    assert world.results() == {sending: 40}
    assert len(peer.recv(1000) or b"") == 40


@pytest.mark.parametrize(
    ("plan", "make", "fields", "come"),
    [
        ("WRITE#1=ENOSPC", "pipe", {}, False),
        ("WRITE#1=EDQUOT", "eventfd", {}, False),
        ("WRITE#1=EIO", "stream", {}, False),
        ("WRITE#1=ENOMEM", "pipe", {}, True),
        ("WRITE#1=EINTR", "pipe", {}, True),
        ("WRITE#1=EINTR", "pipe", {"op_flags": RWF_NOWAIT}, False),
        ("WRITE#1=late:1ms", "pipe", {"op_flags": RWF_NOWAIT}, False),
        ("WRITE#1=late:1ms", "pipe", {}, True),
        ("WRITE#1=short:3", "eventfd", {}, False),
        ("WRITE#1=ENOSPC", "file", {}, True),
        ("SEND#1=EINTR", "stream", {"op_flags": MSG_DONTWAIT}, False),
        ("SEND#1=ENOMEM", "stream", {"op_flags": MSG_DONTWAIT}, True),
        ("SEND#1=ENOMEM", "file", {}, False),
        ("FSYNC#1=EIO", "pipe", {"addr": 0, "len": 0}, False),
        ("FSYNC#1=EIO", "file", {"addr": 0, "len": 0}, True),
        ("FALLOCATE#1=ENOSPC", "reader", {"addr": 8, "len": 0}, False),
        ("CLOSE#1=EIO", "pipe", {"addr": 0, "len": 0}, False),
        ("CLOSE#1=EIO", "file", {"addr": 0, "len": 0}, True),
        ("SYNC_FILE_RANGE#1=EIO", "file", {"addr": 0}, True),
        ("SYNC_FILE_RANGE#1=EIO", "pipe", {"addr": 0}, False),
        ("PIPE#1=EMFILE", "nothing", {"len": 0}, True),
        ("PIPE#1=EMFILE", "nothing", {"len": 0, "file_index": 1}, False),
        ("SEND_ZC#1=ENOBUFS", "connection", {}, True),
        ("SEND_ZC#1=short:3", "connection", {}, True),
        ("SEND_ZC#1=short:3", "connection", {"op_flags": MSG_WAITALL}, False),
        ("SEND_ZC#1=ENOBUFS", "stream", {}, False),
        ("ACCEPT#1=ENFILE", "file", {"addr": 0, "len": 0}, False),
        ("ACCEPT#1=EMFILE", "listener", {"addr": 0, "len": 0}, True),
        ("ACCEPT#1=EMFILE", "listener", {"addr": 0, "len": 0, "file_index": 1}, False),
        ("ACCEPT#1=ENFILE", "listener", {"addr": 0, "len": 0, "file_index": 1}, True),
        ("CONNECT#1=ETIMEDOUT", "datagrams", {"off": 16, "len": 0}, False),
        ("CONNECT#1=ENETUNREACH", "datagrams", {"off": 16, "len": 0}, True),
        ("CONNECT#1=ECONNREFUSED", "datagrams", {"off": 16, "len": 0}, False),
    ],
)
def test_only_what_a_kernel_does_to_such_a_file_comes(
    plan: str, make: str, fields: dict[str, int], come: bool
) -> None:
    world = World(parse_faults(plan))
    outside = world.backend.world
    makers: dict[str, Callable[[], int]] = {
        "file": lambda: world.fd,
        "reader": lambda: outside.open("f", 0),
        "pipe": lambda: outside.pipe()[1],
        "eventfd": outside.eventfd,
        "stream": lambda: outside.socketpair()[0],
        "datagrams": outside.datagrams,
        "listener": outside.listen,
        "connection": lambda: world.connection()[0],
        "nothing": lambda: 0,
    }
    world.fd = makers[make]()
    (fault,) = parse_faults(plan).plan
    assert isinstance(fault, AtRequest)
    world.memory.user_write(world.block, outside.address(world.fd) if make == "datagrams" else b"")
    world.submit(fault.op, **{"fd": world.fd, "addr": world.block, "len": 8, **fields})
    world.results()
    assert world.injector.injected == ([fault] if come else [])
    assert [missed.fault for missed in world.injector.missed()] == ([] if come else [fault])


def test_a_swarm_draws_only_what_a_kernel_does_to_such_a_file() -> None:
    drawn: set[int] = set()
    for seed in range(30):
        world = World(Faults(odds=even_odds(0.8)), seed)
        _, world.fd = world.backend.world.pipe()
        for _ in range(8):
            world.write(8)
        world.results()
        drawn |= {f.harm.errno for f in world.injector.injected if isinstance(f.harm, Fails)}
    assert drawn == {errno.EINTR, errno.ENOMEM}


@pytest.mark.parametrize("kind", [SOCK_DGRAM, SOCK_SEQPACKET])
def test_messages_are_never_split(kind: int) -> None:
    world = World(parse_faults("RECV#1=short:3,SEND#1=short:40"))
    fd, peer = world.backend.world.socketpair(kind)
    peer.send(b"x" * 50)
    receiving = world.submit(Op.RECV, fd=fd, addr=world.block, len=100)
    assert world.results() == {receiving: 50}
    sending = world.submit(Op.SEND, fd=fd, addr=world.block, len=100)
    assert world.results() == {sending: 100}
    assert len(peer.recv(1000) or b"") == 100
    assert world.injector.injected == []


def test_what_waits_for_everything_is_not_called_short() -> None:
    world = World(parse_faults("RECV#1=short:3,SEND#1=short:40"))
    fd, peer = world.backend.world.socketpair()
    peer.send(b"x" * 100)
    receiving = world.submit(Op.RECV, fd=fd, addr=world.block, len=100, op_flags=MSG_WAITALL)
    assert world.results() == {receiving: 100}
    sending = world.submit(Op.SEND, fd=fd, addr=world.block, len=100, op_flags=MSG_WAITALL)
    assert world.results() == {sending: 100}
    assert world.injector.injected == []


def test_a_reset_comes_to_both_ends() -> None:
    world = World(parse_faults("RECV#2=reset"))
    fd, peer = world.connection()
    peer.send(b"abc")
    first = world.submit(Op.RECV, fd=fd, addr=world.block, len=3)
    assert world.results() == {first: 3}
    second = world.submit(Op.RECV, fd=fd, addr=world.block, len=3)
    assert world.results() == {second: -errno.ECONNRESET}
    assert peer.send(b"more") == 0 or peer.recv(10) == b""


@pytest.mark.parametrize("seed", range(20))
def test_what_was_injected_replays_without_drawing(seed: int) -> None:
    def play(faults: Faults) -> tuple[dict[int, int], list[AtRequest], int]:
        world = World(faults, seed)
        for _ in range(10):
            world.read()
            world.write(50)
            world.submit(Op.FSYNC, fd=world.fd)
        return world.results(), world.injector.injected, world.backend.now_ns()

    swarm = Faults(odds=even_odds(0.3, swarm=bool(seed % 2)))
    results, injected, now = play(swarm)
    assert play(Faults(tuple(injected))) == (results, injected, now)
    for fault in injected:
        assert isinstance(fault.harm, Fails | Short | Late)
        assert not isinstance(fault.harm, Fails) or fault.harm.errno in LEGAL[fault.op]


def test_seeds_differ_and_rates_count() -> None:
    def injected(rate: float, seed: int) -> int:
        world = World(Faults(odds=even_odds(rate)), seed)
        for _ in range(200):
            world.read()
        world.results()
        return len(world.injector.injected)

    assert injected(0.0, 1) == 0
    few, many = injected(0.02, 1), injected(0.6, 1)
    assert 0 < few < many <= 200
    assert len({injected(0.1, seed) for seed in range(8)}) > 1


def test_faults_of_an_opcode() -> None:
    def failed(text: str, seed: int) -> dict[int, int]:
        world = World(parse_faults(text), seed)
        for _ in range(100):
            world.read()
            world.write(50)
        results = Counter(res for res in world.results().values() if res < 0)
        again = World(Faults(tuple(world.injector.injected)), seed)
        for _ in range(100):
            again.read()
            again.write(50)
        assert Counter(res for res in again.results().values() if res < 0) == results
        return results

    assert failed("READ=EIO", 1) == {-errno.EIO: 100}
    some = failed("READ=EIO@0.2,WRITE=ENOSPC@0.5", 1)
    assert set(some) == {-errno.EIO, -errno.ENOSPC}
    assert 5 < some[-errno.EIO] < 40 < some[-errno.ENOSPC] < 70
    assert failed("READ=EIO@0.2,WRITE=ENOSPC@0.5", 2) != some
    assert failed("READ=EIO@0", 1) == {}
    planned = failed("READ=EIO@1,READ#3=EINTR", 1)
    assert planned == {-errno.EIO: 99, -errno.EINTR: 1}


def test_opcodes_faults_are_read_back() -> None:
    text = "READ=EIO@0.25,RECV=short:3@1,WRITE=late:20us@0.5,SEND=reset@0.125"
    odds = parse_faults(text).odds
    assert odds is not None
    assert ",".join(map(str, odds.chosen)) == text
    for wrong, reason in (
        ("READ=ENOSPC@0.1", "does not meet"),
        ("READ=EIO@2", "no probability"),
        ("READ=EIO@", "no fault"),
        ("READING=EIO", "no opcode"),
        ("FSYNC=short:3", "never short"),
    ):
        with pytest.raises(InputError, match=reason):
            parse_faults(wrong)


def test_a_swarm_leaves_kinds_out() -> None:
    kinds: set[frozenset[tuple[Op, str]]] = set()
    for seed in range(10):
        injector = Injector(Faults(odds=even_odds(0.25, swarm=True)), seed)
        kinds.add(frozenset(key for key, rate in injector.rates.items() if rate))
    assert len(kinds) == 10
    assert all(len(on) < sum(len(kinds_of(op)) for op in LEGAL) for on in kinds)
