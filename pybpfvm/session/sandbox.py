"""One run of a program on inputs that are all given: context, packet, maps, answers of helpers.

The interpreter runs as always; what it would ask the machine for (random numbers, the clock, user
memory, the ring, whether an allocation succeeds) is asked of `Inputs` instead, call by call. So a
run can be repeated exactly, and a search can choose what a program gets to see.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from pybpfvm.bits import U32
from pybpfvm.engine import Hook, RunEnvironment
from pybpfvm.errors import InputError, Trap
from pybpfvm.helpers.context import HelperContext
from pybpfvm.helpers.proto import Helper, HelperImpl
from pybpfvm.image import Image
from pybpfvm.isa.opcodes import Kind as InsnKind
from pybpfvm.maps.base import MapError
from pybpfvm.memory import AddressSpace
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, MapType, Program
from pybpfvm.session.answers import (
    MAY_FAIL,
    NUMBERS,
    READS,
    RECORD_BYTES,
    STRINGS,
    Answer,
    random_result,
)
from pybpfvm.session.objects import helpers_of
from pybpfvm.session.testrun import run_program
from pybpfvm.vm.interp import Interpreter

BUDGET_INSNS = 1 << 17
_MEMORY_BYTES = 64 << 20
_MAY_GOTO_TURNS = 100  # kernels end such loops by time, so after any number of turns
_CQE_BYTES = 16
_PER_CPU = frozenset({MapType.PERCPU_ARRAY, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH})
_KEYLESS = frozenset({MapType.QUEUE, MapType.STACK})


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything a run gets. `maps` are the elements (map, key, value) that are not as the object
    has them; `answers` those of the scripted calls in their order, all others are zeros, or random
    if `seed` is not 0."""

    ctx: bytes = b""
    packet: bytes = b""
    maps: tuple[tuple[str, bytes, bytes], ...] = ()
    answers: tuple[Answer, ...] = ()
    seed: int = 0

    def with_element(self, name: str, key: bytes, value: bytes | None) -> Inputs:
        """With this element, or without it (None)."""
        others = tuple(one for one in self.maps if one[:2] != (name, key))
        added = () if value is None else ((name, key, value),)
        return replace(self, maps=(*others, *added))

    def with_answer(self, number: int, answer: Answer) -> Inputs:
        """With another answer to scripted call `number`, which was asked before."""
        answers = list(self.answers)
        answers[number : number + 1] = [answer]
        return replace(self, answers=tuple(answers))


@dataclass(frozen=True, slots=True)
class Asked:
    """A scripted call that was made: `addr` is where its bytes went, `size` how many, `user` the
    address they were read from."""

    answer: Answer
    addr: int = 0
    size: int = 0
    source: int = 0


@dataclass(slots=True)
class Script:
    """The answers of one run: those that are given, and what was made up behind them."""

    inputs: Inputs
    asked: list[Asked] = field(default_factory=list)

    def ask(self, helper: str, size: int = 0, addr: int = 0, source: int = 0) -> Answer:
        """The answer to the next scripted call, with exactly `size` bytes."""
        number = len(self.asked)
        given = self.inputs.answers
        if number < len(given) and given[number].helper == helper:
            answer = given[number]
            answer = Answer(helper, answer.result, answer.data[:size].ljust(size, b"\0"))
        elif self.inputs.seed:
            random = Random(f"{self.inputs.seed}.{number}")
            answer = Answer(helper, random_result(helper, random), random.randbytes(size))
        else:
            answer = Answer(helper, 0, bytes(size))
        self.asked.append(Asked(answer, addr, size, source))
        return answer


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: by `trap`, or with `r0`. `asked` are the scripted calls it made."""

    trap: Trap | None
    asked: tuple[Asked, ...]
    r0: int = 0


class ScriptedRing:
    """A ring that answers from the script."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def bpf_submit(self, sqe: bytes) -> int:
        """What the script says, 0 by default."""
        return self._script.ask("submit").result

    def bpf_emit(self, cq_idx: int, user_data: int, res: int, flags: int) -> int:
        """What the script says, 0 by default."""
        return self._script.ask("emit").result

    def bpf_reap(self, cq_idx: int) -> bytes | int:
        """The script's CQE, or its errno."""
        answer = self._script.ask("reap", _CQE_BYTES)
        return answer.data if answer.result == 0 else -errno.ENOENT

    def bpf_requeue(self, source: int, target: int, most: int) -> int:
        """What the script says, 0 by default."""
        return self._script.ask("requeue").result


# (image, the script of this run) -> what is called before each instruction
Watch = Callable[[Image, Script], Hook]


def run(
    program: Program,
    obj: BpfObject,
    profile: Profile,
    inputs: Inputs,
    *,
    watch: Watch | None = None,
    budget_insns: int = BUDGET_INSNS,
) -> Outcome:
    """Run `program` once. Raises InputError for one that can not be run."""
    script = Script(inputs)
    known = helpers_of(profile)
    helpers = {
        number: _scripted(known[number], script)
        for number in _called(program, obj)
        if number in known
    }
    ring = ScriptedRing(script) if profile.ring is not None else None
    environment = RunEnvironment(
        profile=profile,
        ring=ring,
        now_ns=_no_time,
        random_u32=_no_time,
        may_goto_turns=_MAY_GOTO_TURNS,
    )
    with Image(obj, AddressSpace(limit_bytes=_MEMORY_BYTES)) as image:
        for name, key, value in inputs.maps:
            _put(image, name, key, value)
        with Interpreter(image, helpers, environment) as engine:
            if watch is not None:
                engine.hook = watch(image, script)
            try:
                done = run_program(
                    engine,
                    profile,
                    program,
                    inputs.ctx,
                    inputs.packet,
                    repeat=1,
                    budget_insns=budget_insns,
                    whole_frames=False,
                )
            except Trap as trap:
                return Outcome(trap, tuple(script.asked))
            return Outcome(None, tuple(script.asked), done.retval)


def _called(program: Program, obj: BpfObject) -> frozenset[int]:
    """The numbers of the helpers that the program may call, or one that it goes over to."""
    return frozenset(
        insn.imm
        for one in (program, *obj.programs)
        for insn in one.insns
        if insn.spec.kind is InsnKind.CALL
    )


def _no_time() -> int:
    return 0


def _put(image: Image, name: str, key: bytes, value: bytes) -> None:
    """Put the element into its map; one that the map does not take is left out."""
    live = image.maps.get(name)
    if live is None:
        raise InputError(f"no map is called {name!r}", where="inputs")
    size = live.spec.value_size
    if live.spec.type in _PER_CPU:
        size = (size + 7) & ~7
    try:
        live.host_update(
            b"" if live.spec.type in _KEYLESS else key, value[:size].ljust(size, b"\0")
        )
    except MapError:
        return


def _scripted(helper: Helper, script: Script) -> Helper:
    """The helper, answering from the script where it would ask the machine."""
    name, real = helper.name, helper.impl
    impl: HelperImpl | None = None
    if name in NUMBERS:
        impl = _number(name, script)
    elif name in READS:
        impl = _read(name, script)
    elif name in MAY_FAIL and real is not None:
        impl = _may_fail(name, real, script)
    return helper if impl is None else replace(helper, impl=impl, steady=False)


def _number(name: str, script: Script) -> HelperImpl:
    low, high = NUMBERS[name]

    def impl(ctx: HelperContext, _1: int, _2: int, _3: int, _4: int, _5: int) -> int:
        return low + (script.ask(name).result - low) % (high - low + 1)

    return impl


def _read(name: str, script: Script) -> HelperImpl:
    def impl(ctx: HelperContext, dst: int, size: int, src: int, _4: int, _5: int) -> int:
        size &= U32
        if size == 0:
            return 0
        ctx.memory.check(dst, size, write=True)
        answer = script.ask(name, size, dst, src)
        if answer.result:
            ctx.memory.program_write(dst, bytes(size))
            return -errno.EFAULT
        if name not in STRINGS:
            ctx.memory.program_write(dst, answer.data)
            return 0
        text = answer.data.partition(b"\0")[0][: size - 1] + b"\0"
        ctx.memory.program_write(dst, text)
        return len(text)

    return impl


def _may_fail(name: str, real: HelperImpl, script: Script) -> HelperImpl:
    failure = MAY_FAIL[name]

    def impl(ctx: HelperContext, a: int, b: int, c: int, d: int, e: int) -> int:
        kept = min(b, RECORD_BYTES) if name == "ringbuf_reserve" else 0
        answer = script.ask(name, kept)
        if answer.result:
            return failure
        if name == "bpf_copy_to_user":  # there is no user memory to write to
            ctx.memory.program_read(b, c & U32)
            return 0
        result = real(ctx, a, b, c, d, e)
        if kept and result:  # a new record holds what older ones left there
            ctx.memory.write(result, answer.data)
        return result

    return impl
