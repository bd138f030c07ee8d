"""What stands between a program and the world while a recording is replayed: it answers as the
recording says, and holds the program to asking what it asked then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pybpfvm.errors import InputError
from pybpfvm.helpers.context import SocketNumbers
from pybpfvm.memory import AddressSpace, UserFault
from pybpfvm.trace.digest import READS, READS_TEXT, WRITES, Handed
from pybpfvm.trace.format import Record
from pybpfvm.trace.records import WORLD_KINDS, Ask, Kind, Numbers


class Diverged(Exception):
    """A run does something else than it did then: what, `then` and `now`, in words."""

    def __init__(self, what: str, then: str, now: str) -> None:
        super().__init__(f"{what}: {then} in the recording, {now} now")
        self.what = what
        self.then = then
        self.now = now


class BrokenOff(Exception):
    """The run was broken off here: what the program asked for raised."""


class Cut(Exception):
    """The recording ends within this run."""


class Answers:
    """The answers of one run, in order. `others` does what others than the program did."""

    def __init__(self, memory: AddressSpace, others: Callable[[Record], None]) -> None:
        self.user = _User(self, memory)
        self.whole = True  # the recording has the run's end
        self._memory = memory
        self._others = others
        self._records: list[Record] = []
        self.answered = 0  # how many of the records are done with
        self.told = 0  # how many of them before the end of the last answer
        self.handed: Handed | None = Handed()  # None: not all of the run was seen

    def begin(self, records: list[Record], *, whole: bool) -> None:
        """The records between a RUN and its END."""
        self._records, self.whole = records, whole
        self.answered = self.told = 0
        self.handed = Handed()

    def run_by(self, kept: Callable[[], bytes | None]) -> None:
        """An engine is to run all of it: see Engine.kept_registers."""
        self.handed = Handed(kept)

    def go_on(self, answered: int) -> None:
        """As many of the records are done with as `answered` said once."""
        self.answered = answered
        self.handed = None
        self.told = 1 + max(
            (at for at in range(answered) if self._records[at][0] in (Kind.ASKED, Kind.READ)),
            default=-1,
        )

    def next(self) -> Record | None:
        """The next ASKED or READ, still to come; what others did before it is done."""
        while self.answered < len(self._records):
            record = self._records[self.answered]
            if record[0] == Kind.ASKED or record[0] == Kind.READ:
                return record
            self.answered += 1
            self._others(record)
        return None

    def take(self, ask: Ask, *args: Any) -> Any:
        """The answer to this question. Raises Diverged, BrokenOff, Cut."""
        if self.handed is not None:
            self.handed.asked()
        record = self.next()
        if record is None:
            if not self.whole:
                raise Cut
            raise Diverged("what the program asks for", "nothing more", _asked(ask, args))
        if record[0] == Kind.READ:
            raise Diverged("what the program asks for", _read(record), _asked(ask, args))
        _, then, wanted, answer, changes = record
        if then != ask or wanted != args:
            raise Diverged("what the program asks for", _asked(then, wanted), _asked(ask, args))
        self.answered += 1
        self.told = self.answered
        for addr, data in changes:
            put(self._memory, addr, data)
        if answer is None:
            raise BrokenOff
        return answer

    def take_read(self, addr: int, most: int) -> None:
        """The program reads up to `most` bytes of user memory: they are what they were then."""
        record = self.next()
        if record is None:
            if not self.whole:
                raise Cut
        elif record[0] == Kind.READ and record[1] == addr and len(record[2]) <= most:
            self.answered += 1
            self.told = self.answered
            put(self._memory, addr, record[2])

    def end(self) -> None:
        """The run is over. Raises Diverged where the program asked for more then."""
        record = self.next()
        if record is not None:
            then = _read(record) if record[0] == Kind.READ else _asked(record[1], record[2])
            raise Diverged("what the program asks for", then, "nothing more")

    def leave(self) -> None:
        """The run was broken off: what others did is still done."""
        for record in self._records[self.answered :]:
            if record[0] not in (Kind.ASKED, Kind.READ):
                self._others(record)

    # RingPort.

    def bpf_submit(self, sqe: bytes) -> int:
        """As the ring answered."""
        return self._int(Ask.SUBMIT, sqe)

    def bpf_emit(self, cq_idx: int, user_data: int, res: int, flags: int) -> int:
        """As the ring answered."""
        return self._int(Ask.EMIT, cq_idx, user_data, res, flags)

    def bpf_reap(self, cq_idx: int) -> bytes | int:
        """As the ring answered."""
        answer = self.take(Ask.REAP, cq_idx)
        if not isinstance(answer, int) and not (isinstance(answer, bytes) and len(answer) == 16):
            raise InputError(f"a CQE of {answer!r:.60}")
        return answer

    def bpf_requeue(self, source: int, target: int, most: int) -> int:
        """As the ring answered."""
        return self._int(Ask.REQUEUE, source, target, most)

    def _int(self, ask: Ask, *args: Any) -> int:
        answer = self.take(ask, *args)
        if not isinstance(answer, int):
            raise InputError(f"an answer {answer!r:.60} to {ask.name}")
        return answer

    # The rest of the environment.

    def now_ns(self) -> int:
        """As the clock was."""
        return self._int(Ask.CLOCK)

    def random_u32(self) -> int:
        """As the random source was."""
        return self._int(Ask.RANDOM)

    def log(self, text: str) -> None:
        """The program prints."""
        self.take(Ask.LOG, text)


class LoopAnswers:
    """A LoopPort, of a ring whose handle this is."""

    def __init__(self, answers: Answers, handle: int) -> None:
        self._int = answers._int
        self._take = answers.take
        self.handle = handle

    def submit_sqes(self, count: int) -> int:
        """As the ring answered."""
        return self._int(Ask.SUBMIT_SQES, count)

    def region_addr(self, region_id: int, size: int) -> int:
        """As the ring answered."""
        return self._int(Ask.REGION, region_id, size)

    def queue_sqe(self, sqe: bytes) -> int:
        """As the ring answered."""
        return self._int(Ask.QUEUE_SQE, sqe)

    def post_cqe(self, user_data: int, res: int, flags: int) -> int:
        """As the ring answered."""
        return self._int(Ask.POST_CQE, user_data, res, flags)

    def cqe_addr(self, index: int) -> int:
        """As the ring answered."""
        return self._int(Ask.CQE_ADDR, index)

    def wait_for(self, count: int) -> None:
        """As the ring did."""
        self._int(Ask.WAIT_FOR, count)

    def next_cqe_addr(self) -> int:
        """As the ring answered."""
        return self._int(Ask.NEXT_CQE)

    def xor_buffer(self, index: int, size: int) -> int:
        """As the ring answered."""
        return self._int(Ask.XOR_BUFFER, index, size)

    def set_result(self, data: int, res: int) -> bool:
        """As the ring answered."""
        return bool(self._int(Ask.SET_RESULT, data, res))

    def copy_buffers(self, data: int, dst: bytes, src: bytes) -> int | None:
        """As the ring answered."""
        answer = self._take(Ask.COPY_BUFFERS, data, dst, src)
        return answer if isinstance(answer, int) else None

    def socket_state(self, event: int) -> SocketNumbers | int | None:
        """As the ring answered."""
        answer = self._take(Ask.SOCKET_STATE, event)
        if not isinstance(answer, tuple):
            return answer if isinstance(answer, int) else None
        if answer and (len(answer) != 4 or not all(isinstance(n, int) for n in answer)):
            raise InputError(f"a socket with the numbers {answer!r:.60}")
        return Numbers(*answer) if answer else None

    def socket_peek(self, event: int, size: int) -> bytes | int | None:
        """As the ring answered."""
        answer = self._take(Ask.SOCKET_PEEK, event, size)
        return answer if isinstance(answer, int | bytes) else None


class _User:
    """A UserPort over the memory of the replay."""

    def __init__(self, answers: Answers, memory: AddressSpace) -> None:
        self._answers = answers
        self._memory = memory

    def user_read(self, addr: int, size: int) -> bytes:
        """What the program read then."""
        self._access(READS, addr, size)
        if size and self._memory.is_user(addr, size):
            self._answers.take_read(addr, size)
        return self._memory.user_read(addr, size)

    def user_cstring(self, addr: int, limit: int = 4096) -> bytes:
        """What the program read then."""
        self._access(READS_TEXT, addr, limit)
        region = self._memory.region_at(addr)
        if region is not None:
            if not self._memory.is_user(addr, 1):
                raise UserFault(f"string at {addr:#x}: {self._memory.explain(addr)}")
            self._answers.take_read(addr, min(limit, region.end - addr))
        return self._memory.user_cstring(addr, limit)

    def user_write(self, addr: int, data: bytes) -> None:
        """The program writes."""
        self._access(WRITES, addr, len(data), data)
        self._memory.user_write(addr, data)

    def _access(self, kind: int, addr: int, size: int, data: bytes = b"") -> None:
        if self._answers.handed is not None:
            self._answers.handed.access(kind, addr, size, data)


def put(memory: AddressSpace, addr: int, data: bytes) -> None:
    """Put what others wrote into memory. Raises InputError where there is none."""
    region = memory.region_at(addr)
    if region is None or addr + len(data) > region.end or region.kind not in WORLD_KINDS:
        raise InputError(f"{len(data)} bytes for {addr:#x}, where others than programs write none")
    memory.write(addr, data)


def _asked(ask: int, args: tuple[Any, ...]) -> str:
    try:
        name = Ask(ask).name.lower()
    except ValueError:
        name = f"question {ask}"
    return f"{name}({', '.join(_shown(one) for one in args)})"


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)


def _read(record: Record) -> str:
    return f"{len(record[2])} bytes of user memory at {record[1]:#x}"
