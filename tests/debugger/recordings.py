"""Recordings for tests of the debugger: of scenarios, and of programs in assembler text."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

from pybpfvm.errors import Trap
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import encode, pcs
from pybpfvm.isa.opcodes import Kind
from pybpfvm.scenario import parse, run_scenario
from pybpfvm.session import Machine
from tests.support.elf_writer import ALLOC, EXEC, Sec, Sym, write_elf

ROOT = Path(__file__).parents[2]
NAME = "made"
COUNTDOWN = """
    r6 = {turns}
    r0 = 0
again:
    *(u64 *)(r10 - 8) = r6
    r0 += r6
    r6 += -1
    if r6 != 0 goto again
    exit
"""


def record_example(name: str, path: Path) -> None:
    """Run a scenario of the gallery, recorded."""
    run_scenario(parse(ROOT / "examples" / name / "scenario.toml"), record=path)


def record_text(
    text: str,
    path: Path,
    *,
    runs: int = 1,
    budget_insns: int = 1 << 30,
    engine: str = "auto",
) -> None:
    """Run a program outside rings, recorded; a trap ends it."""
    insns = assemble(text)
    code = encode(insns)
    leaves = {
        Sym(f"leaf{pc + 1 + insn.imm}", "tc", 8 * (pc + 1 + insn.imm), 8)
        for pc, insn in zip(pcs(insns), insns, strict=True)
        if insn.spec.kind is Kind.CALL_LOCAL
    }
    end = min((one.value for one in leaves), default=len(code))
    data = write_elf(
        [Sec("tc", code, ALLOC | EXEC), Sec("license", b"GPL\0")],
        [Sym(NAME, "tc", 0, end), *(replace(one, size=len(code) - one.value) for one in leaves)],
    )
    with Machine() as machine:
        program = machine.load(data)[NAME]
        machine.record(path)
        with suppress(Trap):
            program.run(
                bytes(192), bytes(64), repeat=runs, budget_insns=budget_insns, engine=engine
            )


def generated(seed: int) -> str:
    """A program that ends: loops, branches, a function, stores to its frame, helper calls."""
    random = Random(seed)
    lines = ["r6 = r1", f"r7 = {random.randrange(3, 40)}", "r8 = 1", "r9 = 0", "head:"]
    for number in range(random.randrange(4, 20)):
        at = -8 * random.randrange(1, 5)
        lines += random.choice(
            [
                [f"*(u64 *)(r10 {at}) = r8"],
                [f"r8 += {random.randrange(1, 99)}"],
                ["r9 ^= r8"],
                [f"r8 *= {random.randrange(3, 9)}"],
                ["call 7", "r8 ^= r0"],
                ["call 5"],
                ["r1 = r8", "r2 = r7", "call leaf", "r9 += r0"],
                [
                    f"if r8 & {1 << random.randrange(6)} goto over{number}",
                    "r9 += 7",
                    f"over{number}:",
                ],
            ]
        )
    lines += ["r7 += -1", "if r7 != 0 goto head", "r0 = r9", "exit"]
    lines += ["leaf:", "*(u64 *)(r10 - 16) = r1", "r0 = *(u64 *)(r10 - 16)", "r0 += r2", "exit"]
    return "\n".join(lines).replace("(r10 -", "(r10 - ")


__all__ = ["COUNTDOWN", "NAME", "generated", "record_example", "record_text"]
