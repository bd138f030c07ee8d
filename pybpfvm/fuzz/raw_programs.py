"""Programs over raw instructions to compare engines with, well-behaved and hostile: Cases by seed.

A Case is some programs that run one after the other on the same maps, context, packet and user
memory, with what surrounds them. Programs of a `tidy` case keep within memory, pass context
pointers where helpers want them, make 8 frames at most and read nothing that a call clobbers: what
a verifier would hold them to, so engines without checks must agree on them too. All others may do
anything; the map `pointers`, which whoever runs the case fills (`POINTERS`), gives them addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from random import Random

from pybpfvm.fuzz.emitter_goals import ACCESSES, ALIGNED, EDGE_OFFSETS, LOADS, Extreme, Goals
from pybpfvm.fuzz.visible import insn, map_value, word
from pybpfvm.helpers.proto import ArgType, Helper
from pybpfvm.helpers.table import HELPERS
from pybpfvm.isa.insn import Insn, InsnSpec
from pybpfvm.isa.opcodes import FRAME_POINTER, STACK_BYTES, AtomicOp, Kind, MemSize, Operand, Pseudo
from pybpfvm.isa.table import SPECS, TABLE
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.base import Profile
from pybpfvm.program import (
    BPF_F_NO_PREALLOC,
    BPF_F_RDONLY_PROG,
    BpfObject,
    MapSpec,
    MapType,
    Program,
    Subprog,
)

# Every helper by a number of ours: what engines take is any mapping.
NUMBERS: Mapping[str, int] = {name: number for number, name in enumerate(sorted(HELPERS), 1)}
BY_NUMBER: Mapping[int, Helper] = {number: HELPERS[name] for name, number in NUMBERS.items()}

VALUES, POINTERS_MAP, FIXED, ODD, HASH, PERCPU, LRU, QUEUE, RINGBUF, LPM, JUMPS = range(11)
_VALUE_BYTES = 256
_OUT = 176  # where a program leaves its registers
POINTERS = 32  # addresses that the map `pointers` holds
PLAIN_MAPS = (
    MapSpec("values", MapType.ARRAY, 4, _VALUE_BYTES, 1),
    MapSpec("pointers", MapType.ARRAY, 4, 8 * POINTERS, 1),
    MapSpec("fixed", MapType.ARRAY, 4, 64, 1, flags=BPF_F_RDONLY_PROG),
    MapSpec("odd", MapType.ARRAY, 4, 4093, 1),
)
_HELPER_MAPS = (
    MapSpec("hash", MapType.HASH, 8, 16, 3),
    MapSpec("percpu", MapType.PERCPU_ARRAY, 4, 16, 2),
    MapSpec("lru", MapType.LRU_HASH, 4, 8, 2),
    MapSpec("queue", MapType.QUEUE, 0, 16, 3),
    MapSpec("ring", MapType.RINGBUF, 0, 0, 4096),
    MapSpec("lpm", MapType.LPM_TRIE, 8, 8, 4, flags=BPF_F_NO_PREALLOC),
)
CTX_BYTES = 64
_TARGETS = 4  # programs that are only tail-called
_PROGRAM_NAMES = tuple(f"p{number}" for number in range(64))

_ROWS = {kind: tuple(spec for spec in TABLE if spec.kind is kind) for kind in Kind}
_MEMORY = (*_ROWS[Kind.LDX], *_ROWS[Kind.LDSX], *_ROWS[Kind.ST], *_ROWS[Kind.STX])
_ORDERED = (*_ROWS[Kind.LOAD_ACQ], *_ROWS[Kind.STORE_REL], *_ROWS[Kind.ATOMIC])
_GOTOS = (*_ROWS[Kind.GOTO], *_ROWS[Kind.MAY_GOTO])
_PACKET_LOADS = (*_ROWS[Kind.LD_ABS], *_ROWS[Kind.LD_IND])
_REFUSED = (*_ROWS[Kind.ADDR_SPACE_CAST], *_ROWS[Kind.CALL_KFUNC])

_OFF = (-(1 << 15), (1 << 15) - 1)
_CTX_TYPES = (ArgType.PTR_TO_CTX, ArgType.PTR_TO_CTX_OR_NULL)
_SIZES = (
    ArgType.CONST_SIZE,
    ArgType.CONST_SIZE_OR_ZERO,
    ArgType.CONST_ALLOC_SIZE_OR_ZERO,
)
_ALWAYS = ("map_lookup_elem", "map_update_elem", "ktime_get_ns", "get_prandom_u32")
_BARE_BASE = 9
_BARE_HELPERS = ("ktime_get_ns", "get_prandom_u32", "get_smp_processor_id")
_CALLING_BACK = ("loop", "for_each_map_elem")
_HELPERS = tuple(
    name
    for name, helper in HELPERS.items()
    if helper.impl is not None and name not in (*_CALLING_BACK, "tail_call")
)
_RING_HELPERS = tuple(name for name in _HELPERS if name.startswith(("iouring_", "io_uring_")))
# Helpers that write where user memory is: not for campaigns that watch it.
USER_WRITERS = frozenset({"bpf_copy_to_user"})


@dataclass(frozen=True, slots=True)
class Case:
    """`runs` name programs of the object by number, with the budget of each; some more than once,
    for what engines remember of accesses shows only then.

    `packet` None: the run has none. `ring`: helpers find a ring. `observed`: calls of helpers are
    recorded by an observer. `hooked`: so are instructions. `turns` are those of may_goto.
    """

    seed: int
    family: str
    object: BpfObject
    runs: tuple[tuple[int, int], ...]
    tidy: bool
    ctx: bytes
    profile: Profile | None = None
    strict_ctx: bool = True
    packet: bytes | None = None
    ring: bool = False
    observed: bool = False
    hooked: bool = False
    turns: int = 3


@dataclass(frozen=True, slots=True)
class _Link:
    """An instruction whose target is open: a function by number, or any place if None."""

    insn: Insn
    function: int | None = None


Unit = list["Insn | _Link"]  # what jumps do not lead into
Function = list[Unit]


class _Shape:
    """What the programs of a case are made of."""

    def __init__(self, random: Random, *, tidy: bool) -> None:
        self.random = random
        self.tidy = tidy
        self.functions = 0  # beside the main one
        self.elements = (3, 14)
        self.jumps = 0.0
        self.astray = 0.0
        self.wild = 0.0
        self.helpers: Sequence[str] = ()
        self.maps: Sequence[MapSpec] = PLAIN_MAPS
        self.callbacks = False
        self.tail_calls = False
        self.recursion = False
        self.refused = 0.0
        self.bare = False  # single instructions of any row, one register the map value
        self.goals: Goals | None = None  # bare ones that prefer what is left of these
        self.noise = False  # single instructions, any fields
        self.profile: Profile | None = None
        self.packet: bytes | None = None
        self.ctx_bytes = CTX_BYTES
        self.ring = False


def steered(first: int, programs: int = 16) -> Iterator[Case]:
    """Cases from the seed `first` on that emit every pair of rows and every extreme of each: each
    prefers what those before have left, and they end when nothing is."""
    goals = Goals()
    seed = first
    while goals.left:
        yield generate(seed, "pairs", programs, goals)
        seed += 1


def generate(
    seed: int, family: str | None = None, programs: int = 16, goals: Goals | None = None
) -> Case:
    """The case of `seed`, of the family that the seed names if None is given. The family `pairs`
    prefers what is left of `goals`."""
    names = tuple(_FAMILIES)
    name = names[seed % len(names)] if family is None else family
    random = Random(f"{name} {seed}")
    shape = _FAMILIES[name](random)
    shape.goals = goals
    made = [_program(shape, _PROGRAM_NAMES[number], shape.functions) for number in range(programs)]
    maps = list(shape.maps)
    targets: list[Program] = []
    if shape.tail_calls:
        targets = [_program(shape, f"t{number}", 0) for number in range(_TARGETS)]
        filled = {number: target.name for number, target in enumerate(targets)}
        filled[_TARGETS] = made[0].name if not shape.tidy else targets[0].name
        maps.append(MapSpec("jumps", MapType.PROG_ARRAY, 4, 4, _TARGETS + 2, slots=filled))
    order = [*range(programs), *random.choices(range(programs), k=programs // 2)]
    runs = tuple(
        (number, random.choice((400, 400, 400, random.randrange(60), random.randrange(400))))
        for number in order
    )
    return Case(
        seed,
        name,
        BpfObject("generated", "", (*made, *targets), tuple(maps)),
        runs,
        shape.tidy,
        random.randbytes(shape.ctx_bytes),
        shape.profile,
        strict_ctx=random.random() < 0.5,
        packet=shape.packet,
        ring=shape.ring,
        observed=random.random() < 0.5,
        hooked=random.random() < 0.06,
        turns=random.randrange(5),
    )


def _program(shape: _Shape, name: str, most: int) -> Program:
    count = shape.random.randint(0, most)
    makers = [_Maker(shape, number, count) for number in range(count + 1)]
    made = _link(name, [maker.function() for maker in makers], shape)
    if shape.goals is not None:
        shape.goals.note(made)
    return made


class _Maker:
    """Grows one function, number `number` of `last` + 1. `_pinned` registers keep what they hold:
    the context in the main function."""

    def __init__(self, shape: _Shape, number: int, last: int) -> None:
        self._shape = shape
        self._random = shape.random
        self._number = number
        self._last = last
        self._context: int | None = None
        if number == 0 and (shape.profile is not None or self._random.random() < 0.7):
            self._context = 6
        self._base_kept = _BARE_BASE
        if shape.goals is not None:
            self._base_kept -= self._random.randrange(2)
        self._before: InsnSpec | None = None
        kept = (self._context, self._base_kept if shape.bare else None)
        self._free = tuple(r for r in range(10) if r not in kept)
        choices = self._choices()
        self._elements = [make for _, make in choices]
        self._weights = list(accumulate(weight for weight, _ in choices))

    def function(self) -> Function:
        """Units of the whole function; the last one exits, mostly."""
        random, shape = self._random, self._shape
        body: Function = [[]]
        if self._context is not None:
            body[0].append(insn("mov64_x", self._context, 1))
        if shape.bare:
            body[0].append(map_value(self._base_kept, VALUES))
        for register in self._free:
            if shape.tidy or random.random() < 0.8:
                body.append(self._fill(register))
        for _ in range(random.randint(*shape.elements)):
            body.append(self._element())
        if shape.astray and random.random() < shape.astray:
            return body  # control falls off the end
        body.append(self._ending())
        return body

    # Registers and numbers.

    def _reg(self) -> int:
        return self._random.choice(self._free)

    def _source(self) -> int:
        return self._random.randrange(11)

    def _imm(self) -> int:
        return ((word(self._random) & 0xFFFF_FFFF) ^ 0x8000_0000) - 0x8000_0000

    def _fill(self, register: int) -> Unit:
        random = self._random
        if random.random() < 0.3:
            return [insn("mov64_k", register, imm=self._imm())]
        if random.random() < 0.2:
            return [insn("mov64_x", register, FRAME_POINTER)]
        return [insn("lddw", register, imm=word(random))]

    # Elements: whole in themselves.

    def _element(self) -> Unit:
        shape, random = self._shape, self._random
        if shape.goals is not None:
            return self._steered(shape.goals)
        if shape.bare:
            return [self._bare(random.choice(TABLE))]
        if shape.noise and random.random() < 0.8:
            return [self._noise()]
        return random.choices(self._elements, cum_weights=self._weights)[0]()

    def _choices(self) -> list[tuple[float, Callable[[], Unit]]]:
        shape = self._shape
        return [
            (8, self._alu),
            (6, self._memory),
            (1, self._constant),
            (16 * shape.jumps, self._jump),
            (8 * shape.wild, self._wild),
            (6 * shape.wild, self._sweep),
            (2 if self._last else 0, self._call),
            (12 if shape.helpers else 0, self._helper),
            (3 if shape.callbacks and self._last else 0, self._callback),
            (2 if shape.tail_calls else 0, self._tail_call),
            (8 if shape.profile is not None else 0, self._ctx_access),
            (4 if shape.packet is not None else 0, self._packet),
            (20 * shape.refused, self._refused),
        ]

    def _steered(self, goals: Goals) -> Unit:
        """What is left of the goals: an access with an address of its own, or a row that was not
        yet behind the one before."""
        random = self._random
        spec = random.choice((*_MEMORY, *_ORDERED))
        addresses = self._addresses(goals, spec) if random.random() < 0.3 else []
        if addresses:
            unit = self._addressed(spec, random.choice(addresses))
        else:
            before = self._before
            names = list(goals.behind[before.mnemonic]) if before is not None else []
            names = names or [name for name, left in goals.behind.items() if left] or list(SPECS)
            unit = [self._bare(SPECS[random.choice(names)])]
        last = unit[-1]
        made = last.insn if isinstance(last, _Link) else last
        self._before = made.spec
        for what in ("registers", "dst", "value", "imm"):
            fitting = [e for e in goals.of(made.spec, what) if self._fits(made, e)]
            if fitting:
                made = _with(made, random.choice(fitting))
        unit[-1] = replace(last, insn=made) if isinstance(last, _Link) else made
        return unit

    def _fits(self, made: Insn, extreme: Extreme) -> bool:
        """Whether no register changes that is to keep what it holds."""
        what, register, _ = extreme
        changes = what in ("registers", "dst") and made.spec.kind is not Kind.JUMP
        changes = changes or (what == "value" and made.spec.kind not in (Kind.STX, Kind.STORE_REL))
        return register in self._free or not changes

    def _addresses(self, goals: Goals, spec: InsnSpec) -> list[Extreme]:
        kept = (self._context, self._base_kept)
        left = [extreme for extreme in goals.of(spec, "address") if extreme[1] not in kept]
        return left + goals.of(spec, "unaligned")

    def _addressed(self, spec: InsnSpec, extreme: Extreme) -> Unit:
        """An access through a base and an offset, to the map value or the stack."""
        what, base, off = extreme
        size = spec.size
        assert size is not None
        if what == "unaligned":
            return [self._finished(Insn(spec), FRAME_POINTER, 1 - 2 * size)]
        if base == FRAME_POINTER:
            return [self._finished(Insn(spec), base, off)]
        where = self._random.randrange(0, _OUT - size, size)
        unit: Unit = [map_value(base, VALUES), insn("add64_k", base, imm=where - off)]
        unit.append(self._finished(Insn(spec), base, off))
        return unit

    def _bare(self, spec: InsnSpec) -> Insn | _Link:
        random = self._random
        if spec.kind in (Kind.JUMP, Kind.GOTO, Kind.MAY_GOTO):
            return self._condition(spec)
        if spec.kind is Kind.CALL_LOCAL:
            return _Link(Insn(spec), random.randint(0, self._last))
        if spec.kind is Kind.CALL:
            return Insn(spec, imm=NUMBERS[random.choice(_BARE_HELPERS)])
        if spec.kind is Kind.LDDW:
            return self._constant()[0]
        if spec.kind is Kind.ALU:
            return self._operated(spec, self._reg())
        made = Insn(spec)
        if spec.kind in ACCESSES:
            size = spec.size
            assert size is not None
            return self._finished(made, self._base_kept, random.randrange(0, _OUT - size, size))
        return self._any_fields(replace(made, imm=random.randrange(64)), ("dst", "src", "off"))

    def _noise(self) -> Insn | _Link:
        random = self._random
        spec = random.choice(TABLE)
        if spec.kind in (Kind.JUMP, Kind.GOTO, Kind.MAY_GOTO) and random.random() < 0.8:
            return self._condition(spec)
        if spec.kind is Kind.LDDW:
            pseudo = random.choice((*[Pseudo.NONE] * 6, Pseudo.MAP_IDX_VALUE, *Pseudo))
            imm = word(random) if pseudo is Pseudo.NONE else random.randrange(6)
            return Insn(spec, random.randrange(10), pseudo, imm=imm)
        made = self._any_fields(Insn(spec), tuple(spec.fields))
        return replace(made, dst=self._reg()) if random.random() < 0.9 and made.dst == 10 else made

    def _any_fields(self, made: Insn, names: tuple[str, ...]) -> Insn:
        random, spec = self._random, made.spec
        given = [name if name in spec.fields else "" for name in names]
        off = random.choice((random.choice(EDGE_OFFSETS), random.randint(*_OFF)))
        return Insn(
            spec,
            random.randrange(11) if "dst" in given else made.dst,
            random.randrange(11) if "src" in given else made.src,
            off if "off" in given else made.off,
            self._imm() if "imm" in given else made.imm,
        )

    def _alu(self) -> Unit:
        random = self._random
        spec = random.choice(_ROWS[Kind.ALU])
        dst = self._reg() if self._shape.tidy or random.random() < 0.98 else FRAME_POINTER
        return [self._operated(spec, dst)]

    def _operated(self, spec: InsnSpec, dst: int) -> Insn:
        if spec.operand is Operand.X:
            return Insn(spec, dst, self._source())
        return Insn(spec, dst, imm=self._imm() if spec.operand is Operand.K else 0)

    def _constant(self) -> Unit:
        random = self._random
        if random.random() < 0.5:
            return [insn("lddw", self._reg(), imm=word(random))]
        number = random.randrange(len(self._shape.maps))
        return [insn("lddw", self._reg(), Pseudo.MAP_IDX, imm=number)]

    def _operation(self) -> Insn:
        return Insn(self._random.choice(_MEMORY if self._random.random() < 0.65 else _ORDERED))

    def _memory(self) -> Unit:
        """An access to the stack, a map value or the context, in the bounds and aligned where it
        must be; the displacement is what x86 encodes differently."""
        random = self._random
        made = self._operation()
        size = made.spec.size
        assert size is not None
        base = self._reg()
        unit, room, low = self._base(base, made)
        aligned = made.spec.kind in ALIGNED
        where = low + random.randrange(0, room - size + 1, size if aligned else 1)
        if aligned:
            where -= where % size
        if not unit:  # r10 itself
            return [self._finished(made, FRAME_POINTER, where)]
        off = random.choice((where, random.choice(EDGE_OFFSETS), random.randint(*_OFF)))
        if where != off:
            unit.append(insn("add64_k", base, imm=where - off))
        if made.spec.op is AtomicOp.CMPXCHG and base != 0 and random.random() < 0.5:
            unit.append(insn("ldxdw" if size == 8 else "ldxw", 0, base, off))
        unit.append(self._finished(made, base, off))
        return unit

    def _base(self, base: int, made: Insn) -> tuple[Unit, int, int]:
        """Code for a pointer in `base`, how many bytes it may reach, and from where on."""
        random = self._random
        kind = random.randrange(6)
        if kind == 0:
            return [], STACK_BYTES, -STACK_BYTES
        if kind == 1:
            return [insn("mov64_x", base, FRAME_POINTER)], STACK_BYTES, -STACK_BYTES
        if kind == 2 and made.spec.kind in LOADS:
            return [map_value(base, FIXED)], 64, 0
        if kind == 3:
            return [map_value(base, ODD)], 4093, 0
        if kind == 4 and self._context is not None and self._shape.profile is None:
            return [insn("mov64_x", base, self._context)], CTX_BYTES, 0
        return [map_value(base, VALUES)], _OUT, 0

    def _finished(self, made: Insn, base: int, off: int) -> Insn:
        spec = made.spec
        if spec.kind in LOADS:
            return Insn(spec, self._reg(), base, off)
        if spec.kind is Kind.ST:
            return Insn(spec, base, 0, off, self._imm())
        src = self._source() if spec.kind is not Kind.ATOMIC else self._reg()
        return Insn(spec, base, src, off, made.imm)

    def _wild(self) -> Unit:
        """An access anywhere: through whatever a register holds, beside what it may reach, through
        addresses that are no memory, into other frames."""
        random = self._random
        base = self._reg()
        kind = random.randrange(8)
        unit: Unit = []
        if kind <= 2:
            unit = [map_value(base, POINTERS_MAP, 8 * random.randrange(POINTERS))]
            unit.append(insn("ldxdw", base, base, 0))
        elif kind == 3:
            made = self._base(base, self._operation())[0]
            unit = made or [insn("mov64_x", base, FRAME_POINTER)]
        elif kind == 4:
            unit = [insn("mov64_k", base, imm=random.randrange(5000))]
        elif kind == 5:
            base = FRAME_POINTER
        elif kind == 6:
            unit = [insn("lddw", base, Pseudo.MAP_IDX, imm=0)]
        near = random.choice((0, 1, 8, 255, 256, 4089, 4093, 4096, random.randint(1, 5000)))
        if base != FRAME_POINTER and random.random() < 0.5:
            unit.append(insn("add64_k", base, imm=random.choice((near, -near))))
        if base != FRAME_POINTER and random.random() < 0.15:  # the right low half, a wrong high one
            unit.append(insn(random.choice(("mov32_x", "movsx32_64")), base, base))
        off = random.choice((0, random.choice(EDGE_OFFSETS), near % 0x8000, -near % -0x8000))
        if base == FRAME_POINTER and random.random() < 0.5:
            off = random.randrange(8192 - 600, 8192 + 100) * random.choice((1, 1, -1))
        unit.append(self._finished(self._operation(), base, off))
        return unit

    def _sweep(self) -> Unit:
        """One access again and again: along a region and across its end, or through one address
        after another."""
        random = self._random
        base, step, counter, value = random.sample([r for r in self._free if r], 4)
        made = self._operation()
        size = made.spec.size
        assert size is not None
        off = random.choice((0, 0, random.choice(EDGE_OFFSETS)))
        if made.spec.kind in LOADS:
            access = replace(made, dst=value, src=base, off=off)
        elif made.spec.kind is Kind.ST:
            access = replace(made, dst=base, off=off, imm=self._imm())
        else:
            access = replace(made, dst=base, src=value, off=off)
        unit: Unit = [insn("mov64_k", counter, imm=random.randrange(1, 12))]
        if random.random() < 0.4:
            first = random.randrange(POINTERS)
            unit.append(map_value(step, POINTERS_MAP, 8 * first))
            loop = [insn("ldxdw", base, step, 0)]
            forth = random.choice((8, 8, -8, 16))
            loop += [access, insn("add64_k", step, imm=forth)]
        else:
            pointer, room, low = self._base(base, made)
            unit += pointer or [insn("mov64_x", base, FRAME_POINTER)]
            stride = random.choice((size, -size, 1, -1, 64, 4096, -4096, 8192, -8192))
            back = random.randrange(6) * stride
            start = low + room - size - back if stride > 0 else low - back
            unit.append(insn("add64_k", base, imm=start - off))
            loop = [access, insn("add64_k", base, imm=stride)]
        unit += [*loop, insn("sub64_k", counter, imm=1)]
        return [*unit, insn("jne64_k", counter, off=-len(loop) - 2)]

    # Control.

    def _jump(self) -> Unit:
        random = self._random
        specs = _GOTOS if random.random() < 0.25 else _ROWS[Kind.JUMP]
        return [self._condition(random.choice(specs))]

    def _condition(self, spec: InsnSpec) -> _Link:
        if spec.kind is not Kind.JUMP:
            return _Link(Insn(spec))
        if spec.operand is Operand.X:
            return _Link(Insn(spec, self._source(), self._source()))
        return _Link(Insn(spec, self._source(), imm=self._imm()))

    def _again(self) -> Unit:
        """What a program may rely on after a call: r1 to r5 anew."""
        if not self._shape.tidy:
            return []
        return [
            insn("mov64_k", r, imm=self._imm())
            if self._random.random() < 0.5
            else insn("mov64_x", r, self._random.choice((0, 7, 8, 9, 10)))
            for r in range(1, 6)
        ]

    def _callable(self) -> int | None:
        """A function that may be called from here: in tidy programs a later one."""
        if not self._shape.tidy:
            low = 0 if self._shape.recursion else 1
            return self._random.randint(low, self._last)
        if self._number == self._last:
            return None
        return self._random.randint(self._number + 1, self._last)

    def _call(self) -> Unit:
        target = self._callable()
        if target is None:
            return self._alu()
        return [_Link(insn("call_local"), target), *self._again()]

    def _callback(self) -> Unit:
        target = self._callable()
        if not target:
            return self._alu()
        random = self._random
        name = random.choice(_CALLING_BACK)
        unit: Unit = []
        if name == "loop":
            unit.append(insn("mov64_k", 1, imm=random.choice((0, 1, 2, 5, 1 << 24, -1))))
        else:
            number = random.randrange(len(self._shape.maps))
            unit.append(insn("lddw", 1, Pseudo.MAP_IDX, imm=number))
        unit.append(_Link(insn("lddw", 2, Pseudo.FUNC), target))
        unit.append(insn("mov64_x", 3, self._source()))
        unit.append(insn("mov64_k", 4, imm=0 if random.random() < 0.9 else 1))
        if not self._shape.tidy and random.random() < 0.1:
            unit.append(insn("mov64_k", random.choice((1, 2)), imm=self._imm()))
        return [*unit, insn("call", imm=NUMBERS[name]), *self._again()]

    def _tail_call(self) -> Unit:
        random = self._random
        if self._context is None:
            return self._alu()
        jumps = len(self._shape.maps)
        unit: Unit = [
            insn("mov64_x", 1, self._context),
            insn("lddw", 2, Pseudo.MAP_IDX, imm=jumps),
            insn("mov64_k", 3, imm=random.randrange(_TARGETS + 3)),
        ]
        if not self._shape.tidy and random.random() < 0.1:
            unit.append(insn("mov64_k", random.choice((1, 2, 3)), imm=self._imm()))
        return [*unit, insn("call", imm=NUMBERS["tail_call"]), *self._again()]

    def _refused(self) -> Unit:
        random = self._random
        kind = random.randrange(4)
        if kind == 0:
            return [insn("call", imm=random.choice((0, -1, 100_000)))]
        if kind == 1:
            unknown = [number for number, helper in BY_NUMBER.items() if helper.impl is None]
            return [insn("call", imm=random.choice(unknown))]
        if kind == 2:
            return [Insn(random.choice(_REFUSED), imm=self._imm())]
        return [insn(random.choice(("mov64_k", "ldxdw", "lddw")), FRAME_POINTER)]

    def _ending(self) -> Unit:
        """The registers go to the map value, but for the one that holds its address; exit."""
        random = self._random
        unit: Unit = []
        if self._number == 0 and random.random() < 0.8:
            base = self._reg()
            unit.append(map_value(base, VALUES, _OUT))
            unit += [insn("stxdw", base, r, 8 * r) for r in range(10)]
        if self._shape.ring and random.random() < 0.8:
            unit.append(insn("mov64_k", 0, imm=random.choice((0, 0, 0, 0, 1, 2))))
        return [*unit, insn("exit")]

    # Helpers, context, packet.

    def _helper(self) -> Unit:
        random = self._random
        name = random.choice(self._shape.helpers)
        helper = HELPERS[name]
        wrong = random.randrange(1, 6) if random.random() < 0.1 else 0
        unit: Unit = []
        for number, kind in enumerate(helper.args, 1):
            if kind in _CTX_TYPES:
                if self._context is None and (self._shape.tidy or random.random() < 0.8):
                    return self._alu()
                ctx = self._context
                own = insn("mov64_x", number, FRAME_POINTER if ctx is None else ctx)
                unit.append(self._anything(number) if wrong == number else own)
            elif wrong == number:
                unit.append(self._anything(number))
            else:
                unit.append(self._argument(name, number, kind))
        if self._shape.tidy and any(kind in _CTX_TYPES for kind in helper.args[wrong - 1 : wrong]):
            return self._alu()
        unit.append(insn("call", imm=NUMBERS[name]))
        unit += self._again()
        if not self._shape.tidy and random.random() < 0.3:  # where the result points, or not
            return [*unit, self._finished(self._operation(), 0, random.choice((0, 8, 64)))]
        return unit

    def _anything(self, number: int) -> Insn:
        random = self._random
        kind = random.randrange(4)
        if kind == 0:
            return insn("mov64_k", number, imm=self._imm())
        if kind == 1:
            return insn("mov64_x", number, self._source())
        if kind == 2:
            return map_value(number, random.choice((VALUES, FIXED)))
        return insn("lddw", number, Pseudo.MAP_IDX, imm=random.randrange(len(self._shape.maps)))

    def _argument(self, name: str, number: int, kind: ArgType) -> Insn:
        random = self._random
        if kind is ArgType.CONST_MAP_PTR:
            fitting = _fitting(name, len(self._shape.maps))
            return insn("lddw", number, Pseudo.MAP_IDX, imm=random.choice(fitting))
        if kind in _SIZES:
            return insn("mov64_k", number, imm=random.choice((0, 1, 4, 8, 16, 64)))
        if kind is ArgType.ANYTHING:
            return insn("mov64_k", number, imm=random.choice((0, 0, 1, 2, 8, self._imm())))
        if kind is ArgType.PTR_TO_ALLOC_MEM:
            return insn("mov64_x", number, 0)
        if kind is ArgType.PTR_TO_CONST_STR or random.random() < 0.2:
            return map_value(number, FIXED)
        return map_value(number, VALUES, random.choice((0, 16, 64)))

    def _ctx_access(self) -> Unit:
        profile, random = self._shape.profile, self._random
        assert profile is not None
        fields = profile.ctx_fields
        if self._context is None or not fields:
            return self._alu()
        chosen = random.choice(fields)
        off, size = chosen.offset, chosen.size
        if size not in (1, 2, 4, 8) or off > _OFF[1]:
            off, size = off + 8 * random.randrange(8), 8
        store = random.random() < 0.3 and chosen.writable
        made: Insn = insn(
            ("stx" if store else "ldx") + MemSize(size).name.lower(), self._reg(), self._context
        )
        if not self._shape.tidy and random.random() < 0.4:
            made = self._operation()
            off += random.choice((0, 1, -1, 2, 4))
        if made.spec.kind in LOADS:
            return [replace(made, dst=self._reg(), src=self._context, off=off)]
        return [self._finished(made, self._context, off)]

    def _packet(self) -> Unit:
        profile, random = self._shape.profile, self._random
        if self._context is None or (profile is not None and not profile.packet_loads):
            return self._alu()
        spec = random.choice(_PACKET_LOADS)
        imm = random.choice((0, 4, 30, 100, -1, -0x100000, -0x100000 + 8, -0x200000, self._imm()))
        made = Insn(spec, imm=imm)
        unit: Unit = []
        if spec.kind is Kind.LD_IND:
            made = replace(made, src=self._reg())
            unit.append(insn("mov64_k", made.src, imm=random.choice((0, 1, 9, self._imm()))))
        if not self._shape.tidy and random.random() < 0.1:
            unit.append(insn("mov64_k", 6, imm=self._imm()))
        return [*unit, made, *self._again()]


def _with(made: Insn, extreme: Extreme) -> Insn:
    """The instruction changed to show it."""
    what, number, other = extreme
    if what == "registers":
        return replace(made, dst=number, src=other)
    if what == "dst" or (what == "value" and made.spec.kind in LOADS):
        return replace(made, dst=number)
    if what == "value":
        return replace(made, src=number)
    return replace(made, imm=number, src=Pseudo.NONE if made.spec.kind is Kind.LDDW else made.src)


def _fitting(name: str, maps: int) -> Sequence[int]:
    """The maps that a helper is meant for, of the first so many."""
    if name.startswith("ringbuf_"):
        return (RINGBUF,)
    if name in ("map_push_elem", "map_pop_elem", "map_peek_elem"):
        return (QUEUE,)
    return (PERCPU,) if name == "map_lookup_percpu_elem" else range(min(maps, QUEUE))


def _link(name: str, functions: list[Function], shape: _Shape) -> Program:
    """The functions behind one another, jumps and calls led somewhere."""
    starts: list[list[int]] = []
    pc = 0
    for function in functions:
        places = []
        for unit in function:
            places.append(pc)
            for one in unit:
                spec = one.insn.spec if isinstance(one, _Link) else one.spec
                pc += 2 if spec.kind is Kind.LDDW else 1
        starts.append(places)
    end = pc
    linked: list[Insn] = []
    for number, function in enumerate(functions):
        for unit, pc in zip(function, starts[number], strict=True):
            for one in unit:
                if isinstance(one, _Link):
                    one = _led(one, pc, starts, number, end, shape)
                linked.append(one)
                pc += 2 if one.spec.kind is Kind.LDDW else 1
    bounds = [units[0] for units in starts] + [end]
    named = tuple(
        Subprog(f"f{number}", start, stop)
        for number, (start, stop) in enumerate(pairwise(bounds))
        if number
    )
    return Program(name, "generated", tuple(linked), subprogs=named, license="GPL")


def _led(
    link: _Link,
    pc: int,
    starts: list[list[int]],
    number: int,
    end: int,
    shape: _Shape,
) -> Insn:
    made, random = link.insn, shape.random
    lost = random.random() < shape.astray
    if link.function is not None:
        target = starts[link.function][0]
        if made.spec.kind is Kind.LDDW:
            return replace(made, imm=target - pc - 1 & 0xFFFF_FFFF)
        if lost:
            target = random.choice((-3, 0, end, end + 5, random.randrange(end)))
        return Insn(made.spec, made.dst, made.src, made.off, target - pc - 1)
    # Not where the context is taken from r1, if it is to be the context.
    places = starts[number][1:] if shape.tidy else starts[number]
    target = random.choice(places)
    if target <= pc and random.random() < 0.7:  # mostly forward
        target = random.choice([start for start in starts[number] if start > pc] or [target])
    if lost:
        target = random.choice((-1, -2000, end, end + 1, *(random.randrange(end) for _ in "1234")))
    return Insn(made.spec, made.dst, made.src, target - pc - 1, made.imm)


# Families.


def _straight(random: Random) -> _Shape:
    return _Shape(random, tidy=True)


def _branches(random: Random) -> _Shape:
    shape = _Shape(random, tidy=True)
    shape.jumps = 0.4
    shape.elements = (4, 24)
    return shape


def _calls(random: Random) -> _Shape:
    shape = _branches(random)
    shape.functions = random.randint(1, 7)
    shape.elements = (2, 8)
    shape.callbacks = random.random() < 0.6
    shape.tail_calls = random.random() < 0.6
    shape.helpers = _ALWAYS if random.random() < 0.5 else ()
    return shape


def _helpers(random: Random) -> _Shape:
    shape = _Shape(random, tidy=random.random() < 0.5)
    shape.maps = (*PLAIN_MAPS, *_HELPER_MAPS)
    shape.helpers = _HELPERS
    shape.ring = random.random() < 0.5
    shape.packet = random.randbytes(80) if random.random() < 0.5 else None
    shape.functions, shape.callbacks = 2, True
    shape.jumps = 0.1
    return shape


def _packets(random: Random) -> _Shape:
    names = ("xdp", "sched_cls", "socket_filter", "cgroup_skb", "tracepoint", "kprobe")
    shape = _Shape(random, tidy=random.random() < 0.5)
    shape.profile = PROFILES[random.choice(names)]
    shape.ctx_bytes = shape.profile.ctx_bytes
    shape.packet = random.randbytes(random.randint(64, 200)) if random.random() < 0.9 else None
    shape.functions = 1
    shape.jumps = 0.1
    shape.wild = 0.0 if shape.tidy else 0.1
    return shape


def _rings(random: Random) -> _Shape:
    names = [name for name, profile in PROFILES.items() if profile.ring is not None]
    shape = _Shape(random, tidy=random.random() < 0.5)
    shape.profile = PROFILES[random.choice(names)]
    shape.ctx_bytes = shape.profile.ctx_bytes
    shape.ring = True
    shape.helpers = _RING_HELPERS
    shape.functions = 2
    shape.jumps = 0.1
    shape.recursion = True
    shape.astray = 0.0 if shape.tidy else 0.05
    return shape


def _lost(random: Random) -> _Shape:
    shape = _calls(random)
    shape.tidy = False
    shape.astray = 0.25
    shape.recursion = True
    shape.refused = random.choice((0.0, 0.0, 0.02))
    shape.helpers = ()
    return shape


def _pairs(random: Random) -> _Shape:
    shape = _Shape(random, tidy=False)
    shape.bare = True
    shape.elements = (10, 30)
    shape.functions = 2
    shape.packet = random.randbytes(80)
    return shape


def _noise(random: Random) -> _Shape:
    shape = _Shape(random, tidy=False)
    shape.noise = True
    shape.elements = (5, 20)
    shape.functions = 2
    shape.wild = shape.jumps = shape.astray = 0.1
    shape.recursion = True
    return shape


def _hostile(random: Random) -> _Shape:
    shape = _Shape(random, tidy=False)
    shape.wild = 0.5
    shape.jumps = random.choice((0.0, 0.2))
    shape.functions = random.choice((0, 0, 3))
    shape.recursion = random.random() < 0.5
    shape.astray = random.choice((0.0, 0.1))
    shape.callbacks = random.random() < 0.3
    shape.tail_calls = random.random() < 0.2
    if random.random() < 0.3:
        shape.maps = (*PLAIN_MAPS, *_HELPER_MAPS)
        shape.helpers = tuple(name for name in _HELPERS if name not in USER_WRITERS)
    return shape


_FAMILIES: Mapping[str, Callable[[Random], _Shape]] = {
    "straight": _straight,
    "branches": _branches,
    "calls": _calls,
    "helpers": _helpers,
    "packets": _packets,
    "rings": _rings,
    "lost": _lost,
    "pairs": _pairs,
    "noise": _noise,
    "hostile": _hostile,
}
FAMILIES = tuple(_FAMILIES)
