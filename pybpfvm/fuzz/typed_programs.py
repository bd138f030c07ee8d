"""Structured random programs for the verifier: typed pointers, bounds, branches, loops, calls.

What comes out of the elements is mostly safe; most programs are then damaged in one small way (a
null check lost, a bound off by one, a comparison of the wrong sign or width, ...), so that about
half of them are accepted, and what is refused is nearly right. One seed decides everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat
from random import Random

from pybpfvm.fuzz.lines import DAMAGES, Line, damaged, linked, subprogs_of
from pybpfvm.fuzz.typed_elements import TypedWriter
from pybpfvm.fuzz.typed_writer import IMMEDIATES, NOTHING, NUMBER, Holds, Is
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Pseudo
from pybpfvm.isa.table import SPECS
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.base import CtxHolds, Profile
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from pybpfvm.profiles.ordinary import ORDINARY
from pybpfvm.program import BpfObject, MapSpec, MapType, Program

__all__ = ["DAMAGES", "MAPS", "TYPES", "Generated", "compose", "generate"]

HELPER = {name: number for number, name in MAINLINE_NAMES.items()}

MAPS = (
    MapSpec("table", MapType.HASH, key_size=8, value_size=64, max_entries=16),
    MapSpec("array", MapType.ARRAY, key_size=4, value_size=48, max_entries=4),
    MapSpec("single", MapType.ARRAY, key_size=4, value_size=64, max_entries=1),
    MapSpec("ring", MapType.RINGBUF, key_size=0, value_size=0, max_entries=4096),
)
TABLE, ARRAY, SINGLE, RING = range(4)
RECORD_BYTES = 32

TYPES = (
    "socket_filter",
    "xdp",
    "sched_cls",
    "syscall",
    "raw_tracepoint",
    "cgroup_skb",
    "kprobe",
    "perf_event",
)
_FP = 10
_SIZES = {1: "b", 2: "h", 4: "w", 8: "dw"}
_WIDE = (
    0,
    1,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 32,
    1 << 63,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
_ALU = (
    *("add", "sub", "mul", "div", "sdiv", "mod", "smod"),
    *("or", "and", "xor", "lsh", "rsh", "arsh", "mov"),
)
_JUMPS = ["jeq", "jne", "jgt", "jge", "jlt", "jle", "jset", "jsgt", "jsge", "jslt", "jsle"]


@dataclass(frozen=True, slots=True)
class Generated:
    """A program, the features it was made of, and how it was damaged ("" if not)."""

    seed: int
    profile: Profile
    program: Program
    object: BpfObject
    features: frozenset[str]
    damage: str


def generate(seed: int, type_name: str | None = None, *, all_types: bool = False) -> Generated:
    """The program of `seed`; its type too, unless one is given. `all_types`: of all types and
    attach types that are described, with what they have of their own."""
    random = Random(seed)
    profile = PROFILES[type_name or random.choice(TYPES)]
    if all_types:
        profile = random.choice(ORDINARY)
        profile = random.choice((profile, *profile.variants))
    for attempt in range(20):
        maker = _Maker(Random(f"{seed}.{attempt}"), profile)
        maker.typed = all_types
        lines = maker.lines()
        damages = []
        for _ in range(random.choices((0, 1, 2, 4), (15, 70, 12, 3))[0]):
            lines, name = damaged(random, lines)
            damages.append(name)
        insns = linked(lines)
        if insns is not None:
            break
    else:
        raise AssertionError(f"seed {seed}: nothing that can be encoded")
    return _generated(seed, profile, insns, maker, damages)


def compose(
    profile: Profile, random: Random, elements: Iterable[Random], damages: int = 0
) -> Generated | None:
    """A program of as many elements as there are generators of random numbers, each of which
    decides one; `random` decides the rest, and which of its lines are damaged. None if that can
    not be encoded."""
    maker = _Maker(random, profile)
    lines = maker.lines(elements)
    names = []
    for _ in range(damages):
        lines, name = damaged(random, lines)
        names.append(name)
    insns = linked(lines)
    return None if insns is None else _generated(0, profile, insns, maker, names)


def _generated(
    seed: int, profile: Profile, insns: tuple[Insn, ...], maker: _Maker, damages: list[str]
) -> Generated:
    name = f"seed{seed}"
    section = profile.own_section
    program = Program(name, section, insns, subprogs=subprogs_of(insns), license="GPL")
    obj = BpfObject(name, "", (program,), MAPS, license="GPL")
    return Generated(seed, profile, program, obj, frozenset(maker.features), " + ".join(damages))


class _Maker(TypedWriter):
    """The elements that programs are made of; `typed`: those that only some types have too."""

    typed = False

    # Whole functions.

    def lines(self, elements: Iterable[Random] | None = None) -> list[Line]:
        """The program; `elements`: one for each of its elements, which decides all of it."""
        self.regs[1] = Holds(Is.CTX)
        self.emit("mov64_x", 6, 1)
        self.regs[6] = Holds(Is.CTX)
        for element in self.prologue():
            element()
        if elements is None:
            elements = repeat(self.random, self.random.randint(2, 10))
        for random in elements:
            self.random = random
            self.element()
        self.release()
        self.place(self.leave)
        low, high = self.random.choice(((0, 0), (0, 1)))
        if self.typed and self.profile.returns is not None:
            low, high = self.profile.returns
        self.emit("mov64_k", 0, imm=self.random.randint(low, high))
        self.emit("exit")
        for function in self.functions:
            self.code += function
        return self.code

    def prologue(self) -> list[Callable[[], None]]:
        choices: list[Callable[[], None]] = [self.lookup, self.unknown_number]
        if CtxHolds.DATA in self.packet_fields and self.random.random() < 0.6:
            choices.append(self.packet)
        if self.random.random() < 0.3:
            choices.append(self.direct_value)
        if self.random.random() < 0.2:
            choices.append(self.reserve)
        if self.random.random() < 0.5:
            choices.append(self.unknown_number)
        self.random.shuffle(choices)
        return choices

    def element(self) -> None:
        choices: list[tuple[int, Callable[[], None]]] = [
            (5, self.arithmetic),
            (6, self.bounded_access),
            (3, self.spill),
            (2, self.fill),
            (2, self.stack_variable),
            (3, self.branch),
            (2, self.fixed_access),
            (1, self.constant),
            (1, self.unknown_number),
            (1, self.atomic),
            (1, self.copy_and_compare),
            (1, self.helper_with_size),
        ]
        if self.depth < 2:
            choices += [(2, self.loop)]
        if self.typed and self.in_main:
            choices.append((6, self.typed_element))
        if self.in_main:
            choices += [(1, self.lookup), (1, self.update), (2, self.call)]
            if CtxHolds.DATA in self.packet_fields:
                choices.append((2, self.packet))
            if not self.typed and (self.skb or self.profile.name == "xdp"):
                choices.append((1, self.context_field))
        weights = [weight for weight, _ in choices]
        self.random.choices([make for _, make in choices], weights)[0]()

    def release(self) -> None:
        """Give back what was reserved, on the way out."""
        for reg in self.holding(Is.RECORD):
            self.emit("mov64_x", 1, reg)
            self.emit("mov64_k", 2, imm=0)
            self.emit("call", imm=HELPER[self.random.choice(("ringbuf_submit", "ringbuf_discard"))])
            self.clobber()
            self.regs[reg] = NOTHING

    # Sources of pointers and numbers.

    def lookup(self) -> None:
        self.features.add("map lookup")
        target = self.random.choice((7, 8, 9))
        if self.regs[target].kind is Is.RECORD:
            return
        if self.random.random() < 0.7:
            self.emit("stdw", _FP, off=-8, imm=self.random.randint(0, 5))
            self.stack[-8] = NUMBER
            which, key, size = TABLE, -8, 64
        else:
            off = self.random.choice((-4, -8))
            self.emit("stw", _FP, off=off, imm=self.random.randint(0, 5))
            self.stack.pop(-8, None)
            which, key, size = ARRAY, off, 48
        self.emit("mov64_x", 2, _FP)
        self.emit("add64_k", 2, imm=key)
        self.emit("lddw", 1, Pseudo.MAP_IDX, imm=which)
        self.emit("call", imm=HELPER["map_lookup_elem"])
        self.clobber()
        style = self.random.random()
        if style < 0.6:
            self.null_check(0)
            self.emit("mov64_x", target, 0)
        else:
            self.emit("mov64_x", target, 0)
            self.null_check(self.random.choice((0, target)))
        self.regs[target] = Holds(Is.VALUE, size)
        self.regs[0] = Holds(Is.VALUE, size)

    def null_check(self, reg: int) -> None:
        """Leave for the end of the function if the register is NULL, releasing nothing."""
        if self.holding(Is.RECORD):
            away, over = self.new_label(), self.new_label()
            self.jump("jne64_k", over, reg, imm=0, null=True)
            self.place(away)
            saved = list(self.regs)
            self.release()
            self.jump("goto", self.leave)
            self.regs = saved
            self.place(over)
        else:
            self.jump("jeq64_k", self.leave, reg, imm=0, null=True)

    def direct_value(self) -> None:
        self.features.add("direct value")
        target, offset = self.free(), self.random.choice((0, 8, 60))
        self.emit("lddw", target, Pseudo.MAP_IDX_VALUE, imm=offset << 32 | SINGLE)
        self.regs[target] = Holds(Is.VALUE, 64 - offset)

    def reserve(self) -> None:
        self.features.add("ring buffer")
        if self.holding(Is.RECORD):
            return
        self.emit("lddw", 1, Pseudo.MAP_IDX, imm=RING)
        self.emit("mov64_k", 2, imm=RECORD_BYTES)
        self.emit("mov64_k", 3, imm=0)
        self.emit("call", imm=HELPER["ringbuf_reserve"])
        self.clobber()
        target = self.random.choice((7, 8, 9))
        self.emit("mov64_x", target, 0)
        self.null_check(target)
        self.regs[target] = Holds(Is.RECORD, RECORD_BYTES)

    def packet(self) -> None:
        self.features.add("packet")
        target = self.free()
        end = self.free(target)
        tail = self.free(target, end)
        if Is.RECORD in (self.regs[reg].kind for reg in (target, end, tail)):
            return
        self.emit(f"ldx{self.packet_width}", target, 6, self.packet_fields[CtxHolds.DATA])
        self.emit(f"ldx{self.packet_width}", end, 6, self.packet_fields[CtxHolds.DATA_END])
        self.regs[target] = self.regs[end] = NOTHING
        size = self.random.choice((1, 2, 8, 14, 20, 34))
        if self.random.random() < 0.3:
            numbers = [reg for reg in self.holding(Is.NUMBER) if reg not in (target, end, tail)]
            if numbers:
                self.features.add("packet, variable offset")
                number = self.random.choice(numbers)
                self.emit("and64_k", number, imm=self.random.choice((0xFF, 0x7FFF, 0xFFFF)))
                self.emit("add64_x", target, number)
        self.emit("mov64_x", tail, target)
        self.emit("add64_k", tail, imm=size)
        self.regs[tail] = NOTHING
        skip = self.new_label()
        form = self.random.choice(("tail > end", "end < tail", "tail >= end", "tail <= end"))
        if form == "tail > end":
            self.jump("jgt64_x", skip, tail, end)
        elif form == "end < tail":
            self.jump("jlt64_x", skip, end, tail)
        elif form == "tail >= end":
            self.jump("jge64_x", skip, tail, end)
            size += 1
        else:
            good = self.new_label()
            self.jump("jle64_x", good, tail, end)
            self.jump("goto", skip)
            self.place(good)
        self.regs[target] = Holds(Is.PACKET, size)
        before = list(self.regs)
        for _ in range(self.random.randint(1, 2)):
            self.access(target, size)
        self.random.choice((self.arithmetic, self.bounded_access, self.fixed_access))()
        self.join(before)
        self.place(skip)
        self.regs[target] = NOTHING

    def join(self, other: list[Holds]) -> None:
        """Only what both ways agree on is known after them."""
        self.regs = [a if a == b else NOTHING for a, b in zip(self.regs, other, strict=True)]

    def unknown_number(self) -> None:
        target = self.free()
        pointers = [r for r in self.holding(Is.VALUE) if self.regs[r].size >= 8 and r != target]
        if pointers and self.random.random() < 0.7:
            pointer = self.random.choice(pointers)
            size = self.random.choice((1, 2, 4, 8, 8))
            signed = size < 8 and self.random.random() < 0.3
            offset = self.random.randint(0, self.regs[pointer].size - size)
            self.emit(f"{'ldsx' if signed else 'ldx'}{_SIZES[size]}", target, pointer, offset)
        else:
            if Is.RECORD in (self.regs[reg].kind for reg in range(6)):
                return
            self.emit("call", imm=HELPER[self.random.choice(("get_prandom_u32", "ktime_get_ns"))])
            self.clobber()
            self.emit("mov64_x", target, 0)
            self.regs[0] = NUMBER
        self.regs[target] = NUMBER

    def constant(self) -> None:
        target = self.free()
        if self.random.random() < 0.5:
            self.emit("lddw", target, imm=self.random.choice(_WIDE))
        else:
            width = self.random.choice((32, 64))
            self.emit(f"mov{width}_k", target, imm=self.random.choice(IMMEDIATES))
        self.regs[target] = NUMBER

    def context_field(self) -> None:
        self.features.add("context")
        fields = [f for f in self.profile.ctx_fields if f.holds is CtxHolds.GIVEN and f.size <= 8]
        field = self.random.choice(fields)
        target = self.free()
        if field.size not in _SIZES or self.profile.name == "cgroup_skb":
            return
        self.emit(f"ldx{_SIZES[field.size]}", target, 6, field.offset)
        self.regs[target] = NUMBER

    # Work on numbers.

    def arithmetic(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            target = self.number()
            width = self.random.choice((32, 64, 64))
            kind = self.random.random()
            if kind < 0.12:
                name = self.random.choice(
                    ("neg", "le16", "be16", "be32", "le32", "be64", "bswap32")
                )
                if name == "neg":
                    self.emit(f"neg{width}", target)
                elif name in SPECS:
                    self.emit(name, target)
                continue
            if kind < 0.22:
                source = self.number()
                size = (
                    self.random.choice((8, 16, 32)) if width == 64 else self.random.choice((8, 16))
                )
                self.emit(f"movsx{size}_{width}", target, source)
                continue
            op = self.random.choice(_ALU)
            if self.random.random() < 0.55:
                value = self.random.choice(IMMEDIATES)
                if op in ("lsh", "rsh", "arsh"):
                    value = self.random.randrange(width)
                elif op in ("div", "sdiv", "mod", "smod") and value == 0:
                    value = 3
                self.emit(f"{op}{width}_k", target, imm=value)
            else:
                self.emit(f"{op}{width}_x", target, self.number())

    def bound(self, reg: int, limit: int) -> int | None:
        """Make `reg` a number from 0 to `limit`; the label to place behind its use, if any."""
        way = self.random.randrange(9)
        if way == 0:
            mask = (1 << limit.bit_length()) - 1
            mask = mask if mask <= limit else mask >> 1
            self.emit(f"and{self.random.choice((32, 64))}_k", reg, imm=mask)
            return None
        if way == 1:
            mask = limit & self.random.getrandbits(8)
            self.emit("and64_k", reg, imm=mask)
            return None
        if way == 2:
            bits = (limit + 1).bit_length() - 1
            self.emit("rsh64_k", reg, imm=64 - bits if bits else 63)
            return None if bits or limit else self.compared(reg, limit)
        if way == 3:
            self.emit("mod64_k", reg, imm=limit + 1)
            return self.compared(reg, limit) if self.random.random() < 0.7 else None
        if way == 4:
            self.emit("mov32_x", reg, reg)
            skip = self.new_label()
            self.jump("jgt32_k", skip, reg, imm=limit)
            return skip
        if way == 5:
            skip = self.new_label()
            width = self.random.choice((32, 64))
            self.jump(f"jsgt{width}_k", skip, reg, imm=limit)
            self.jump(f"jslt{width}_k", skip, reg, imm=0)
            if width == 32:
                self.emit("mov32_x", reg, reg)
            return skip
        if way == 6:
            other = self.free(reg)
            self.emit("mov64_k", other, imm=limit)
            self.regs[other] = NUMBER
            skip = self.new_label()
            self.jump(self.random.choice(("jgt64_x", "jsgt64_x")), skip, reg, other)
            return skip
        if way == 7:
            good, skip = self.new_label(), self.new_label()
            self.jump("jle64_k", good, reg, imm=limit)
            self.jump("goto", skip)
            self.place(good)
            return skip
        return self.compared(reg, limit)

    def compared(self, reg: int, limit: int) -> int:
        skip = self.new_label()
        if self.random.random() < 0.5:
            self.jump("jgt64_k", skip, reg, imm=limit)
        else:
            self.jump("jge64_k", skip, reg, imm=limit + 1)
        return skip

    # Accesses.

    def access(self, pointer: int, size_left: int, offset: int = 0) -> None:
        """A load or store of what fits into `size_left` bytes from the pointer on."""
        sizes = [size for size in _SIZES if size <= size_left]
        if not sizes:
            return
        size = self.random.choice(sizes)
        last = size_left - size
        place = offset + self.random.choice((0, last, self.random.randint(0, last)))
        stores = self.writes_packet or self.regs[pointer].kind is not Is.PACKET
        action = self.random.random()
        if action < 0.5 or not stores:
            target = self.free(pointer)
            self.emit(f"ldx{_SIZES[size]}", target, pointer, place)
            self.regs[target] = NUMBER
        elif action < 0.75:
            imm = self.random.choice(IMMEDIATES[:14])
            self.emit(f"st{_SIZES[size]}", pointer, 0, place, imm if -128 <= imm < 128 else 1)
        else:
            numbers = self.holding(Is.NUMBER)
            if numbers:
                self.emit(f"stx{_SIZES[size]}", pointer, self.random.choice(numbers), place)

    def fixed_access(self) -> None:
        pointers = self.holding(Is.VALUE, Is.PACKET, Is.RECORD)
        if pointers:
            pointer = self.random.choice(pointers)
            self.access(pointer, self.regs[pointer].size)

    def bounded_access(self) -> None:
        self.features.add("variable offset")
        pointers = [r for r in self.holding(Is.VALUE, Is.RECORD) if self.regs[r].size >= 4]
        numbers = self.holding(Is.NUMBER)
        if not pointers or not numbers:
            self.arithmetic()
            return
        pointer, number = self.random.choice(pointers), self.random.choice(numbers)
        whole = self.regs[pointer].size
        limit = self.random.randint(1, whole - 1)
        before = list(self.regs)
        skip = self.bound(number, limit)
        moved = self.free(pointer, number)
        if self.regs[moved].kind is Is.RECORD:
            moved = pointer
        if self.random.random() < 0.3:
            self.emit("mov64_x", moved, number)
            self.emit("add64_x", moved, pointer)
        elif moved != pointer:
            self.emit("mov64_x", moved, pointer)
            self.emit("add64_x", moved, number)
        if moved != pointer:
            self.regs[moved] = Holds(Is.VALUE, 0)
            self.access(moved, whole - limit)
            self.regs[moved] = NOTHING
        if skip is not None:
            self.join(before)
            self.place(skip)

    def atomic(self) -> None:
        self.features.add("atomic")
        numbers = self.holding(Is.NUMBER)
        pointers = [r for r in self.holding(Is.VALUE) if self.regs[r].size >= 8]
        if not numbers:
            return
        source = self.random.choice(numbers)
        name = self.random.choice(("add", "or", "fetch_add", "fetch_and", "xchg", "cmpxchg"))
        width = self.random.choice((32, 64))
        if name == "cmpxchg" and self.regs[0].kind is not Is.NUMBER:
            name = "xchg"
        if pointers and self.random.random() < 0.6:
            self.emit(f"atomic_{name}{width}", self.random.choice(pointers), source)
        else:
            slot = self.random.choice((-16, -24))
            self.emit("stxdw", _FP, source, slot)
            self.stack[slot] = NUMBER
            self.emit(f"atomic_{name}{width}", _FP, source, slot)

    # The stack.

    def spill(self) -> None:
        self.features.add("spill")
        held = [r for r in range(10) if self.regs[r].kind not in (Is.NOTHING, Is.RECORD)]
        reg, slot = self.random.choice(held), -8 * self.random.randint(2, 6)
        if self.regs[reg].kind is Is.NUMBER and self.random.random() < 0.4:
            size = self.random.choice((1, 2, 4))
            self.emit(f"stx{_SIZES[size]}", _FP, reg, slot + self.random.choice((0, 0, 8 - size)))
            self.stack[slot] = NUMBER if self.stack.get(slot, NOTHING) == NUMBER else NOTHING
        else:
            self.emit("stxdw", _FP, reg, slot)
            self.stack[slot] = self.regs[reg]

    def fill(self) -> None:
        held = [slot for slot, holds in self.stack.items() if holds.kind is not Is.NOTHING]
        if not held:
            self.spill()
            return
        self.features.add("fill")
        slot = self.random.choice(held)
        target = self.free()
        if self.stack[slot].kind is Is.NUMBER and self.random.random() < 0.4:
            size = self.random.choice((1, 2, 4))
            part = self.random.choice((0, 0, 8 - size))
            signed = self.random.random() < 0.2
            self.emit(f"{'ldsx' if signed else 'ldx'}{_SIZES[size]}", target, _FP, slot + part)
            self.regs[target] = NUMBER
        else:
            self.emit("ldxdw", target, _FP, slot)
            self.regs[target] = self.stack[slot]

    def stack_variable(self) -> None:
        self.features.add("variable stack offset")
        numbers = self.holding(Is.NUMBER)
        if not numbers:
            return
        number = self.random.choice(numbers)
        base = -8 * self.random.randint(3, 8)
        room = self.random.choice((8, 16, 24))
        for slot in range(base, min(base + room, 0), 8):
            if slot not in self.stack or self.random.random() < 0.3:
                self.emit("stdw", _FP, off=slot, imm=self.random.choice((0, 0, 5, -1)))
        size = self.random.choice((1, 4, 8))
        steps = room // size - 1 if base + room <= 0 else -base // size - 1
        mask = (1 << (steps + 1).bit_length() - 1) - 1 if steps > 0 else 0
        self.emit("and64_k", number, imm=mask * size)
        pointer = self.free(number)
        if self.regs[pointer].kind is Is.RECORD:
            return
        self.emit("mov64_x", pointer, _FP)
        self.emit("add64_k", pointer, imm=base)
        self.emit("add64_x", pointer, number)
        self.regs[pointer] = NOTHING
        for slot in range(base, min(base + room, 0), 8):
            self.stack[slot] = NUMBER
        if self.random.random() < 0.5:
            target = self.free(pointer)
            self.emit(f"ldx{_SIZES[size]}", target, pointer)
            self.regs[target] = NUMBER
        elif self.random.random() < 0.5:
            self.emit(f"st{_SIZES[size]}", pointer, imm=self.random.choice((0, 0, 9)))
        else:
            self.emit(f"stx{_SIZES[size]}", pointer, number)

    # Control flow.

    def branch(self) -> None:
        self.features.add("branch")
        left = self.number()
        op, width = self.random.choice(_JUMPS), self.random.choice((32, 64, 64))
        other, end = self.new_label(), self.new_label()
        if self.random.random() < 0.6:
            self.jump(f"{op}{width}_k", other, left, imm=self.random.choice(IMMEDIATES))
        else:
            self.jump(f"{op}{width}_x", other, left, self.number())
        regs, stack = list(self.regs), dict(self.stack)
        self.depth += 1
        self.arm()
        two_arms = self.random.random() < 0.5
        if two_arms:
            self.jump("goto", end)
        self.place(other)
        after, after_stack = self.regs, self.stack
        self.regs, self.stack = regs, stack
        if two_arms:
            self.arm()
        self.place(end)
        self.depth -= 1
        self.join(after)
        self.stack = {
            slot: holds for slot, holds in self.stack.items() if after_stack.get(slot) == holds
        }

    def arm(self) -> None:
        for _ in range(self.random.randint(1, 2)):
            makes = [self.arithmetic, self.constant, self.spill, self.fixed_access]
            if self.depth < 3:
                makes.append(self.branch)
            if self.random.random() < 0.4:
                makes.append(self.bounded_access)
            self.random.choice(makes)()

    def loop(self) -> None:
        self.features.add("loop")
        slot = -72 - 8 * self.depth
        counter = self.free()
        if self.regs[counter].kind is Is.RECORD:
            return
        turns = self.random.randint(2, 12)
        in_register = self.random.random() < 0.5
        again = self.new_label()
        self.emit("mov64_k", counter, imm=0)
        walker = None
        pointers = [r for r in self.holding(Is.VALUE) if r != counter and self.regs[r].size > turns]
        if in_register and pointers and self.random.random() < 0.6:
            walker = self.random.choice(pointers)
            step = self.random.randint(1, max(1, self.regs[walker].size // turns))
            room = self.regs[walker].size - step * (turns - 1)
        if in_register:
            self.regs[counter] = NOTHING
            self.place(again)
            if walker is not None:
                self.features.add("loop over memory")
                self.access(walker, room)
                if self.regs[counter].kind is not Is.NOTHING:
                    self.regs[counter] = NOTHING
                    self.emit("mov64_k", counter, imm=turns)
                self.emit("add64_k", walker, imm=step)
            else:
                numbers = self.holding(Is.NUMBER)
                if numbers:
                    number = self.random.choice(numbers)
                    self.emit(f"{self.random.choice(('add', 'xor', 'and'))}64_k", number, imm=3)
            self.emit("add64_k", counter, imm=1)
            width = self.random.choice((32, 64))
            op = self.random.choice(("jlt", "jne", "jslt"))
            self.jump(f"{op}{width}_k", again, counter, imm=turns)
            if walker is not None:
                self.regs[walker] = NOTHING
        else:
            self.emit("stxdw", _FP, counter, slot)
            stays = list(self.regs)
            self.place(again)
            self.emit("ldxdw", counter, _FP, slot)
            self.emit("add64_k", counter, imm=1)
            self.emit("stxdw", _FP, counter, slot)
            self.regs[counter] = NUMBER
            numbers = [reg for reg in self.holding(Is.NUMBER) if reg != counter]
            if numbers and self.random.random() < 0.5:
                self.emit("add64_k", self.random.choice(numbers), imm=1)
            self.jump("jlt64_k", again, counter, imm=turns)
            self.join(stays)
        self.regs[counter] = NUMBER

    def copy_and_compare(self) -> None:
        """Bounds learnt of one copy of a number are used through the other."""
        self.features.add("linked numbers")
        pointers = [r for r in self.holding(Is.VALUE) if self.regs[r].size >= 8]
        numbers = self.holding(Is.NUMBER)
        if not pointers or not numbers:
            return
        pointer, number = self.random.choice(pointers), self.random.choice(numbers)
        copy = self.free(pointer, number)
        if self.regs[copy].kind is Is.RECORD:
            return
        limit = self.regs[pointer].size - 8
        width = self.random.choice((64, 64, 32))
        if width == 32:
            self.emit("mov32_x", number, number)
        self.emit(f"mov{width}_x", copy, number)
        self.regs[copy] = NUMBER
        delta = 0
        if self.random.random() < 0.5:
            delta = self.random.randint(0, max(0, limit))
            self.add(copy, delta, width, (pointer, number))
        before = list(self.regs)
        skip = self.new_label()
        self.jump("jgt64_k", skip, number, imm=max(0, limit - delta))
        self.emit("add64_x", copy, pointer)
        self.regs[copy] = Holds(Is.VALUE, 8)
        self.access(copy, 8)
        self.join(before)
        self.place(skip)
        self.regs[copy] = NOTHING

    def add(self, target: int, delta: int, width: int, busy: tuple[int, ...]) -> None:
        """Add a constant: in one of the ways there are, or from a register that may hold less."""
        way = self.random.choice(("add", "sub", "register", "register"))
        if way != "register":
            self.emit(f"{way}{width}_k", target, imm=delta if way == "add" else -delta)
            return
        step = self.free(target, *busy)
        if self.regs[step].kind is Is.RECORD:
            self.emit(f"add{width}_k", target, imm=delta)
            return
        self.emit("mov64_k", step, imm=delta)
        self.regs[step] = NUMBER
        numbers = [reg for reg in self.holding(Is.NUMBER) if reg != step]
        if numbers and self.random.random() < 0.5:
            less = self.new_label()
            self.jump("jgt64_k", less, self.random.choice(numbers), imm=self.random.randint(0, 99))
            self.emit("mov64_k", step, imm=self.random.randint(0, delta))
            self.place(less)
        self.emit(f"add{width}_x", target, step)

    # Calls.

    def update(self) -> None:
        self.features.add("map update")
        pointers = [r for r in (7, 8, 9) if self.regs[r] == Holds(Is.VALUE, 64)]
        self.emit("stdw", _FP, off=-8, imm=self.random.randint(0, 5))
        self.stack[-8] = NUMBER
        self.emit("lddw", 1, Pseudo.MAP_IDX, imm=TABLE)
        self.emit("mov64_x", 2, _FP)
        self.emit("add64_k", 2, imm=-8)
        if pointers:
            self.emit("mov64_x", 3, self.random.choice(pointers))
        else:
            for slot in range(-136, -72, 8):
                self.emit("stdw", _FP, off=slot, imm=1)
            self.emit("mov64_x", 3, _FP)
            self.emit("add64_k", 3, imm=-136)
        self.emit("mov64_k", 4, imm=0)
        self.emit("call", imm=HELPER["map_update_elem"])
        self.clobber()
        self.regs[0] = NUMBER

    def helper_with_size(self) -> None:
        """A helper that fills as much memory as a number says."""
        if self.profile.name not in ("socket_filter", "sched_cls", "cgroup_skb", "kprobe"):
            return
        if not self.in_main:
            return
        self.features.add("helper with size")
        saved = [r for r in (7, 8, 9) if self.regs[r].kind is Is.NUMBER]
        pointers = [r for r in (7, 8, 9) if self.regs[r].kind in (Is.VALUE, Is.RECORD)]
        room = 16
        kprobe = self.profile.name == "kprobe"
        to, count = (1, 2) if kprobe else (3, 4)
        if pointers and self.random.random() < 0.5:
            pointer = self.random.choice(pointers)
            room = max(1, self.regs[pointer].size)
            self.emit("mov64_x", to, pointer)
        else:
            self.emit("mov64_x", to, _FP)
            self.emit("add64_k", to, imm=-room)
            self.stack.update({-16: NUMBER, -8: NUMBER})
        skip = None
        self.clobber()
        if saved and self.random.random() < 0.7:
            self.emit("mov64_x", count, self.random.choice(saved))
            self.regs[count] = NUMBER
            skip = self.new_label()
            if self.random.random() < 0.5:
                self.jump("jgt64_k", skip, count, imm=room)
                if not kprobe:
                    self.jump("jeq64_k", skip, count, imm=0)
            else:
                mask = (1 << room.bit_length() - 1) - 1
                self.emit("and64_k", count, imm=mask)
                if mask < room and self.random.random() < 0.6:
                    self.emit("add64_k", count, imm=1)
                else:
                    self.jump("jeq64_k", skip, count, imm=0)
        else:
            self.emit("mov64_k", count, imm=self.random.choice((1, room)))
        if kprobe:
            self.emit("mov64_k", 3, imm=0)
            self.emit("call", imm=HELPER["probe_read_kernel"])
        else:
            self.emit("mov64_x", 1, 6)
            self.emit("mov64_k", 2, imm=0)
            self.emit("call", imm=HELPER["skb_load_bytes"])
        self.clobber()
        if skip is not None:
            self.place(skip)

    def call(self) -> None:
        self.features.add("subprogram")
        pointers = [r for r in (0, 7, 8, 9) if self.regs[r].kind is Is.VALUE]
        number = self.number()
        size = 0
        if pointers and number != 1:
            pointer = self.random.choice(pointers)
            size = self.regs[pointer].size
            self.emit("mov64_x", 1, pointer)
            self.emit("mov64_x", 2, number)
        else:
            self.emit("mov64_x", 2, number)
            self.emit("mov64_k", 1, imm=0)
        label = self.new_label()
        self.jump("call_local", label)
        self.functions.append(self.function(label, size))
        self.clobber()
        self.regs[0] = NUMBER
        target = self.random.choice((7, 8, 9))
        if self.regs[target].kind in (Is.NUMBER, Is.NOTHING) and self.random.random() < 0.6:
            self.emit("mov64_x", target, 0)
            self.regs[target] = NUMBER

    def function(self, label: int, size: int) -> list[Line]:
        """A subprogram of r1 (memory of `size` bytes, or 0) and r2 (a number)."""
        saved = self.code, self.regs, self.stack, self.in_main, self.leave
        self.code, self.stack, self.in_main = [], {}, False
        self.regs = [NOTHING] * 10
        self.regs[1] = Holds(Is.VALUE, size) if size else NUMBER
        self.regs[2] = NUMBER
        self.leave = self.new_label()
        self.depth += 1
        self.place(label)
        for _ in range(self.random.randint(1, 3)):
            self.element()
        numbers = [reg for reg in self.holding(Is.NUMBER) if reg]
        if numbers:
            self.emit("mov64_x", 0, self.random.choice(numbers))
        else:
            self.emit("mov64_k", 0, imm=7)
        if self.random.random() < 0.4:
            self.emit("and64_k", 0, imm=self.random.choice((7, 31, 63)))
        self.place(self.leave)
        if self.random.random() < 0.9:
            over = self.new_label()
            self.jump("goto", over)
            self.place(over)
        self.emit("exit")
        self.depth -= 1
        code = self.code
        self.code, self.regs, self.stack, self.in_main, self.leave = saved
        return code
