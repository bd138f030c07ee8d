"""Programs that a kernel accepts and whose every result can be seen: the food of the VM oracle.

A generated program loads r0 to r8 from a map value (so a verifier knows nothing of them), does
arithmetic, memory accesses, forward branches, bounded loops and calls, and stores all registers
and its stack back into the value. It is well-behaved by construction: registers are initialised,
accesses in bounds, shift counts and divisors legal where they are constants. One seed decides
everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from random import Random

from pybpfvm.isa.insn import Insn, InsnSpec
from pybpfvm.isa.opcodes import AluOp, Kind, MemSize, Operand, Pseudo
from pybpfvm.isa.table import SPECS, TABLE
from pybpfvm.program import MapSpec, MapType, Program

# The map value:  registers out | scratch | registers in | copy of the stack
OUT, SCRATCH, IN, STACK_COPY, VALUE_BYTES = 0, 80, 144, 224, 288
STACK_USED = 64
VALUES_MAP = MapSpec("values", MapType.ARRAY, key_size=4, value_size=VALUE_BYTES, max_entries=1)

_SCALARS = tuple(range(9))  # r9 holds the address of the map value
_VALUE = 9
_FP = 10
_SCRATCH_BYTES = IN - SCRATCH
_CALLEE_STACK = 16

_ALU_ROWS = tuple(spec for spec in TABLE if spec.kind is Kind.ALU)
_JUMP_ROWS = tuple(spec for spec in TABLE if spec.kind is Kind.JUMP)
_ATOMIC_ROWS = tuple(spec for spec in TABLE if spec.kind is Kind.ATOMIC)
_MEMORY_ROWS = tuple(
    spec for spec in TABLE if spec.kind in (Kind.LDX, Kind.LDSX, Kind.ST, Kind.STX)
)
_ORDERED_ROWS = tuple(spec for spec in TABLE if spec.kind in (Kind.LOAD_ACQ, Kind.STORE_REL))

# Every row that the programs of a large enough campaign must have used.
GENERATED_ROWS = frozenset((*_ALU_ROWS, *_JUMP_ROWS, *_ATOMIC_ROWS, *_MEMORY_ROWS, *_ORDERED_ROWS))

_DIVISIONS = frozenset({AluOp.DIV, AluOp.SDIV, AluOp.MOD, AluOp.SMOD})
_SHIFTS = frozenset({AluOp.LSH, AluOp.RSH, AluOp.ARSH})

_CORNERS = (0, 1, 2, 3, 7, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF)
_WIDE_CORNERS = (
    *_CORNERS,
    *(-value for value in _CORNERS),
    *(1 << bit for bit in (31, 32, 33, 62, 63)),
    *((1 << bit) - 1 for bit in (31, 32, 33, 62, 63, 64)),
)


@dataclass(frozen=True, slots=True)
class Generated:
    """A program, and the map value to run it on."""

    seed: int
    program: Program
    value: bytes


def generate(seed: int) -> Generated:
    """The program of `seed`."""
    return _Generator(Random(seed)).generated(seed)


def word(random: Random) -> int:
    """A 64-bit word: often a corner case, otherwise of random magnitude."""
    if random.random() < 0.4:
        return random.choice(_WIDE_CORNERS) & (1 << 64) - 1
    return random.getrandbits(random.choice((8, 16, 32, 33, 64, 64)))


def insn(mnemonic: str, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> Insn:
    """An instruction by its row's mnemonic."""
    return Insn(SPECS[mnemonic], dst, src, off, imm)


def map_value(dst: int, index: int = 0, offset: int = 0) -> Insn:
    """dst = address of byte `offset` in the value of the object's map number `index`."""
    return insn("lddw", dst, Pseudo.MAP_IDX_VALUE, 0, offset << 32 | index)


def slots(insns: Iterable[Insn]) -> int:
    """Length in 8-byte slots."""
    return sum(i.slots for i in insns)


class _Generator:
    """Grows one program. `_regs` are the registers that code may use where it stands."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._regs: tuple[int, ...] = _SCALARS
        self._in_main = True
        self._branches_left = random.randint(0, 6)
        self._functions = random.choice((0, 0, 1, 2))
        self._next_callable = 0

    def generated(self, seed: int) -> Generated:
        functions = [self._main()]
        self._in_main = False
        for number in range(1, self._functions + 1):
            functions.append(self._function(number))
        insns = _link(functions)
        name = f"seed{seed}"
        value = bytearray(self._random.randbytes(VALUE_BYTES))
        for register in _SCALARS:
            offset = IN + 8 * register
            value[offset : offset + 8] = word(self._random).to_bytes(8, "little")
        return Generated(seed, Program(name, "socket", insns, license="GPL"), bytes(value))

    # Functions.

    def _main(self) -> list[Insn]:
        self._next_callable = 1
        code = [map_value(_VALUE)]
        code += [insn("ldxdw", r, _VALUE, IN + 8 * r) for r in _SCALARS]
        for offset in range(-STACK_USED, 0, 8):
            code.append(insn("stxdw", _FP, self._random.choice(_SCALARS), offset))
        for _ in range(self._random.randint(6, 24)):
            code += self._element()
        code += [insn("stxdw", _VALUE, r, OUT + 8 * r) for r in _SCALARS]
        for offset in range(0, STACK_USED, 8):
            code.append(insn("ldxdw", 1, _FP, offset - STACK_USED))
            code.append(insn("stxdw", _VALUE, 1, STACK_COPY + offset))
        code += [insn("ldxdw", 0, _VALUE, OUT + 8 * self._random.choice(_SCALARS)), insn("exit")]
        return code

    def _function(self, number: int) -> list[Insn]:
        """A subprogram of r1 to r5, with its own r0, r6 to r8 and 16 bytes of stack."""
        self._next_callable = number + 1
        self._branches_left = 1
        code = [insn("mov64_x", 0, 3), insn("stxdw", _FP, 1, -8), insn("stxdw", _FP, 2, -16)]
        code += [insn("mov64_x", r, self._random.randint(1, 5)) for r in (6, 7, 8)]
        for _ in range(self._random.randint(2, 8)):
            code += self._element()
        code.append(insn("exit"))
        return code

    # Elements: each is whole in itself and leaves every usable register a number.

    def _element(self) -> list[Insn]:
        choices: list[tuple[int, Callable[[], list[Insn]]]] = [
            (10, self._alu),
            (5, self._memory),
            (3, self._atomic),
            (1, self._constant),
            (4 if self._branches_left > 0 else 0, self._branch),
            (1, self._loop),
            (2 if self._next_callable <= self._functions else 0, self._call),
        ]
        weights, makers = zip(*choices, strict=True)
        made: list[Insn] = self._random.choices(makers, weights)[0]()
        return made

    def _straight(self) -> list[Insn]:
        """One element without jumps."""
        make = self._random.choice((self._alu, self._alu, self._memory, self._atomic))
        return make()

    def _reg(self) -> int:
        return self._random.choice(self._regs)

    def _imm(self) -> int:
        return ((word(self._random) & 0xFFFF_FFFF) ^ 0x8000_0000) - 0x8000_0000

    def _alu(self) -> list[Insn]:
        spec = self._random.choice(_ALU_ROWS)
        dst = self._reg()
        if spec.operand is Operand.X:
            return [Insn(spec, dst, self._reg())]
        if spec.operand is None:
            return [Insn(spec, dst)]
        imm = self._imm()
        if spec.op in _SHIFTS:
            imm = self._random.randrange(spec.width)
        elif spec.op in _DIVISIONS and imm == 0:
            imm = -1
        return [Insn(spec, dst, imm=imm)]

    def _constant(self) -> list[Insn]:
        return [insn("lddw", self._reg(), imm=word(self._random))]

    def _place(self, size: MemSize, *, aligned: bool) -> tuple[int, int]:
        """A base register and an offset in the stack or the map value's scratch."""
        if self._in_main and self._random.random() < 0.4:
            step = size if aligned else 1
            return _VALUE, SCRATCH + self._random.randrange(0, _SCRATCH_BYTES - size + 1, step)
        used = STACK_USED if self._in_main else _CALLEE_STACK
        return _FP, self._random.randrange(-used, 0, size)

    def _memory(self) -> list[Insn]:
        ordered = self._random.random() < 0.15
        spec = self._random.choice(_ORDERED_ROWS if ordered else _MEMORY_ROWS)
        assert spec.size is not None
        base, offset = self._place(spec.size, aligned=ordered)
        if spec.kind in (Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ):
            return [Insn(spec, self._reg(), base, offset)]
        if spec.kind is Kind.ST:
            return [Insn(spec, base, 0, offset, self._imm())]
        return [Insn(spec, base, self._reg(), offset)]

    def _atomic(self) -> list[Insn]:
        spec = self._random.choice(_ATOMIC_ROWS)
        assert spec.size is not None
        base, offset = self._place(spec.size, aligned=True)
        code = []
        if self._random.random() < 0.5:
            # Half of the compare-and-exchanges then find what they compare with.
            code.append(insn("ldxdw" if spec.size == 8 else "ldxw", 0, base, offset))
        return [*code, Insn(spec, base, self._reg(), offset)]

    def _condition(self, off: int) -> Insn:
        spec = self._random.choice(_JUMP_ROWS)
        if spec.operand is Operand.X:
            return Insn(spec, self._reg(), self._reg(), off)
        return Insn(spec, self._reg(), 0, off, self._imm())

    def _branch(self) -> list[Insn]:
        self._branches_left -= 1
        first = self._block(self._straight)
        if self._random.random() < 0.5:
            return [self._condition(slots(first)), *first]
        second = self._block(self._straight)
        over = insn(self._random.choice(("goto", "gotol")), off=slots(second))
        return [self._condition(slots(first) + 1), *first, over, *second]

    def _block(self, make: Callable[[], list[Insn]]) -> list[Insn]:
        code: list[Insn] = []
        for _ in range(self._random.randint(1, 4)):
            code += make()
        return code

    def _loop(self) -> list[Insn]:
        """Counts a register down (or up) to a constant; the body does not touch it."""
        outer, counter = self._regs, self._random.choice(self._regs[1:])
        self._regs = tuple(r for r in outer if r != counter)
        body = self._block(self._straight)
        self._regs = outer
        turns = self._random.randint(1, 6)
        back = -slots(body) - 2
        if self._random.random() < 0.5:
            end = [insn("sub64_k", counter, imm=1), insn("jne64_k", counter, off=back)]
            return [insn("mov64_k", counter, imm=turns), *body, *end]
        end = [insn("add32_k", counter, imm=1), insn("jlt32_k", counter, off=back, imm=turns)]
        return [insn("mov32_k", counter, imm=0), *body, *end]

    def _call(self) -> list[Insn]:
        """A call of a later function (by number in imm until linked); r1 to r5 made anew."""
        number = self._random.randint(self._next_callable, self._functions)
        code = [insn("call_local", imm=number)]
        for register in range(1, 6):
            if self._in_main:
                code.append(insn("ldxdw", register, _VALUE, IN + 8 * register))
            else:
                code.append(insn("mov64_x", register, self._random.choice((0, 6, 7, 8))))
        return code


def _link(functions: list[list[Insn]]) -> tuple[Insn, ...]:
    """The functions that are called, one after another, calls by pc-relative offset."""
    starts: dict[int, int] = {}
    pending, end = [0], 0
    while pending:
        number = pending.pop(0)
        if number not in starts:
            starts[number] = end
            end += slots(functions[number])
            pending += [i.imm for i in functions[number] if i.spec.kind is Kind.CALL_LOCAL]
    linked: list[Insn] = []
    pc = 0
    for number in starts:
        for one in functions[number]:
            if one.spec.kind is Kind.CALL_LOCAL:
                one = replace(one, imm=starts[one.imm] - pc - 1)
            linked.append(one)
            pc += one.slots
    return tuple(linked)


def rows_of(program: Program) -> set[InsnSpec]:
    """The rows of the instruction table that a program uses."""
    return {one.spec for one in program.insns}
