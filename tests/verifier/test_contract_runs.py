"""A program that is accepted under a contract without a warning never faults on user memory that
is laid out as declared: random blocks and programs, judged, then run on random layouts.

PYBPFVM_CONTRACT_PROGRAMS sets how many (300 by default).
"""

from __future__ import annotations

import os
from collections import Counter
from random import Random
from typing import Any

from pybpfvm.engine import RunEnvironment
from pybpfvm.events import Event, HelperCalled
from pybpfvm.fuzz.lines import subprogs_of
from pybpfvm.image import Image
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import pcs
from pybpfvm.isa.opcodes import Kind
from pybpfvm.memory import RegionKind
from pybpfvm.profiles import PROFILES
from pybpfvm.program import BpfObject, MapSpec, MapType, Program
from pybpfvm.session.objects import helpers_of
from pybpfvm.session.testrun import run_program
from pybpfvm.verifier.observe import Observer
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.usermemory.contract import Contract
from pybpfvm.verifier.usermemory.contract_parse import parse_contract
from pybpfvm.verifier.verdict import Accepted, Rejected, Rule
from pybpfvm.verifier.verify import Options, verify
from pybpfvm.vm.interp import Interpreter

PROGRAMS = int(os.environ.get("PYBPFVM_CONTRACT_PROGRAMS", "300"))
RUNS = 3
PROFILE = PROFILES["iouring-v3"]
MAPS = (MapSpec("cell", MapType.ARRAY, 4, 64, 1),)
COPIES = ("copy_from_user", "bpf_copy_to_user")
BUFFER = 64  # bytes at r10 - 64
EFAULT = (1 << 64) - 14


def _blocks(random: Random) -> dict[str, Any]:
    """Up to three blocks, whose fields may point to any of them."""
    names = ["first", "second", "third"][: random.randint(1, 3)]
    blocks: dict[str, Any] = {}
    for name in names:
        element, count = random.choice((8, 12, 16, 24, 40)), random.choice((1, 1, 2, 3))
        pointers: dict[str, str] = {}
        taken = 0
        while taken + 8 <= element and random.random() < 0.7:
            pointers[str(taken)] = random.choice(names)
            taken += 8
        blocks[name] = {"size": element * count, "count": count, "pointers": pointers}
    return blocks


class _Writer:
    """Writes one program: r6 the context, r7 the token, r8 an index, r9 an address."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.lines = ["r6 = r1", "r7 = *(u64 *)(r6 + 0)", "r9 = r7", "r8 = 0"]
        self.lines += [f"*(u64 *)(r10 - {at}) = r8" for at in range(8, BUFFER + 8, 8)]
        self.labels = 0

    def program(self) -> str:
        for _ in range(self.random.randint(1, 6)):
            self.random.choice((self.move, self.index, self.follow, self.loop, self.fork))()
            self.copy()
        return "\n".join([*self.lines, "r0 = 0", "exit"])

    def size(self) -> int:
        return self.random.choice((1, 2, 4, 8, 8, 16, 24, 40))

    def copy(self) -> None:
        helper = self.random.choice(COPIES) if self.random.random() < 0.3 else COPIES[0]
        add = self.random.choice((0, 0, 0, 4, 8, 16, -8))
        address = ["r4 = r9", *([f"r4 += {add}"] if add else [])]
        buffer = ["r5 = r10", f"r5 += -{BUFFER}"]
        if helper == COPIES[0]:
            arguments = ["r1 = r5", f"r2 = {self.size()}", "r3 = r4"]
        else:
            arguments = ["r1 = r4", "r2 = r5", f"r3 = {self.size()}"]
        self.lines += [*address, *buffer, *arguments, f"call {helper}"]

    def move(self) -> None:
        change = self.random.choice(("r9 = r7", "r9 += 8", "r9 += -8", "r9 -= 4", "r9 += r8"))
        self.lines.append(change)

    def index(self) -> None:
        """r8 = something that was copied, bounded more or less."""
        at = self.random.choice((0, 1, 4, 8))
        self.lines.append(f"r8 = *(u8 *)(r10 - {BUFFER - at})")
        mask, scale = self.random.choice((1, 3, 7, 8, 24)), self.random.choice((1, 2, 4, 8))
        if self.random.random() < 0.8:
            self.lines += [f"r8 &= {mask}", f"r8 *= {scale}"]
        if self.random.random() < 0.4:
            limit = self.random.choice((4, 8, 16))
            self.lines += self._skip(f"if r8 < {limit} goto", ["r8 = 0"])
        self.lines.append("r9 = r7" if self.random.random() < 0.3 else "r0 = 0")
        self.lines.append("r9 += r8")

    def follow(self) -> None:
        """r9 = a word that was copied: a pointer, perhaps."""
        if self.random.random() < 0.7:
            self.lines.append("r9 = r7")
            self.copy()
        self.lines.append(f"r9 = *(u64 *)(r10 - {BUFFER - self.random.choice((0, 0, 8, 16))})")

    def fork(self) -> None:
        """An address that depends on a random number."""
        self.lines.append("call get_prandom_u32")
        change = self.random.choice((["r9 += 8"], ["r9 = r7"], ["r9 += 4", "r9 += 4"]))
        self.lines += self._skip("if r0 < 9 goto", change)

    def loop(self) -> None:
        """Several turns that each go on from where the last one was."""
        turns, step = self.random.choice((2, 3, 5)), self.random.choice((4, 8, 16))
        self.labels += 1
        name = f"again{self.labels}"
        self.lines += ["r8 = 0", f"{name}:"]
        self.copy()
        self.lines += [f"r9 += {step}", "r8 += 1", f"if r8 < {turns} goto {name}"]

    def _skip(self, branch: str, lines: list[str]) -> list[str]:
        self.labels += 1
        return [f"{branch} skip{self.labels}", *lines, f"skip{self.labels}:", "r0 = 0"]


def _make(seed: int) -> tuple[str, Program, BpfObject, Contract]:
    random = Random(seed)
    blocks = _blocks(random)
    code = _Writer(random).program()
    calls = {name: number for number, name in PROFILE.helpers.items()}
    insns = assemble(code, calls=calls)
    program = Program("case", "iouring", insns, subprogs=subprogs_of(insns), license="GPL")
    obj = BpfObject("case", "", (program,), MAPS)
    reached, work = set(), ["first"]
    while work:
        name = work.pop()
        if name not in reached:
            reached.add(name)
            work.extend(blocks[name]["pointers"].values())
    table = {
        "programs": {"case": {"user_data": "first"}},
        "blocks": {name: block for name, block in blocks.items() if name in reached},
    }
    return code, program, obj, parse_contract(table, obj)


class _Addresses(Observer):
    """Copies, by pc, whose address is not one that the contract speaks of on every path: a word
    that no field declares as a pointer is nobody's promise."""

    def __init__(self, program: Program) -> None:
        self.undeclared: set[int] = set()
        self._calls = {
            pc: 3 if PROFILE.helpers[insn.imm] == COPIES[0] else 1
            for pc, insn in zip(pcs(program.insns), program.insns, strict=True)
            if insn.spec.kind is Kind.CALL and PROFILE.helpers[insn.imm] in COPIES
        }

    def step(self, pc: int, state: State) -> None:
        number = self._calls.get(pc)
        if number is not None:
            origin = state.frame.regs[number].origin
            if origin is None or origin.block is None:
                self.undeclared.add(pc)


def _run(program: Program, obj: BpfObject, contract: Contract, seed: int) -> list[HelperCalled]:
    """The copies of one run, on blocks of random content with true pointers in them."""
    random = Random(seed)
    copies: list[HelperCalled] = []

    def observe(event: Event) -> None:
        if isinstance(event, HelperCalled) and event.helper in COPIES:
            copies.append(event)

    with Image(obj) as image:
        order = sorted(contract.blocks.values(), key=lambda _: random.random())
        regions = {
            block.name: image.memory.alloc(block.size, RegionKind.USER, block.name)
            for block in order
        }
        for block in order:
            data = bytearray(random.randbytes(block.size))
            for element in range(0, block.size, block.element_bytes):
                for field in block.pointers:
                    word = regions[field.target].start.to_bytes(8, "little")
                    data[element + field.offset : element + field.offset + 8] = word
            image.memory.user_write(regions[block.name].start, bytes(data))
        ctx = regions["first"].start.to_bytes(8, "little") + bytes(8)
        env = RunEnvironment(
            profile=PROFILE,
            random_u32=lambda: random.choice((0, 1 << 30)),
            observer=observe,
        )
        with Interpreter(image, helpers_of(PROFILE), env) as engine:
            run_program(engine, PROFILE, program, ctx, b"", repeat=1, budget_insns=1 << 16)
    return copies


def test_accepted_programs_never_fault_on_declared_memory() -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(PROGRAMS):
        code, program, obj, contract = _make(seed)
        addresses = _Addresses(program)
        options = Options(contract=contract, observer=addresses)
        verdict = verify(program, obj, PROFILE, options=options)
        if isinstance(verdict, Rejected):
            assert all(error.rule is Rule.USER_RANGE for error in verdict.errors), verdict
            outcomes["refused"] += 1
            continue
        assert isinstance(verdict, Accepted), (seed, verdict)
        if verdict.warnings:
            outcomes["warned"] += 1
            continue
        outcomes["accepted"] += 1
        for run in range(RUNS):
            for call in _run(program, obj, contract, seed * RUNS + run):
                if call.pc in addresses.undeclared:
                    outcomes["undeclared copies"] += 1
                    continue
                outcomes["declared copies"] += 1
                assert call.result != EFAULT, f"seed {seed}, run {run}: {call}\n{code}\n{contract}"
    print(dict(outcomes))
    assert outcomes["accepted"] >= PROGRAMS // 10
    assert outcomes["refused"] >= PROGRAMS // 10
    assert outcomes["warned"] >= PROGRAMS // 50
    assert outcomes["declared copies"] >= PROGRAMS // 5
