"""Texts of the three styles, and listings."""

from __future__ import annotations

import pytest

from pybpfvm.errors import SourceLine
from pybpfvm.isa.disasm import format_insn, format_program
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.isa.table import SPECS


def insn(mnemonic: str, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> Insn:
    return Insn(SPECS[mnemonic], dst, src, off, imm)


# Rows that neither LLVM 19 nor a straight-line kernel log can confirm; those they confirm are
# compared there.
@pytest.mark.parametrize(
    ("one", "clang", "kernel", "mnemonic"),
    [
        (
            insn("load_acquire_w", 1, 2, 8),
            "w1 = load_acquire((u32 *)(r2 + 0x8))",
            "r1 = load_acquire((u32 *)(r2 +8))",
            "load_acquire_w r1, [r2+8]",
        ),
        (
            insn("store_release_dw", 1, 2, -8),
            "store_release((u64 *)(r1 - 0x8), r2)",
            "store_release((u64 *)(r1 -8), r2)",
            "store_release_dw [r1-8], r2",
        ),
        (insn("call_local", imm=-3), "call pc-3", "call pc-3", "call_local -3"),
        (
            insn("call_kfunc", imm=77),
            "call kfunc unknown#77",
            "call kfunc unknown#77",
            "call_kfunc 77",
        ),
        (
            insn("call_kfunc", imm=77, off=2),
            "call kfunc unknown#77, 2",
            "call kfunc unknown#77, 2",
            "call_kfunc 77, 2",
        ),
        (
            insn("ld_ind_h", src=3, imm=-7),
            "r0 = *(u16 *)skb[r3 + -0x7]",
            "r0 = *(u16 *)skb[r3 + -7]",
            "ld_ind_h [r3-7]",
        ),
        (
            insn("lddw", 1, Pseudo.MAP_FD, imm=3),
            "r1 = map[fd:3] ll",
            "r1 = map[fd:3]",
            "lddw r1, map[fd:3]",
        ),
        (
            insn("lddw", 1, Pseudo.MAP_VALUE, imm=3 | 16 << 32),
            "r1 = map[fd:3][0]+16 ll",
            "r1 = map[fd:3][0]+16",
            "lddw r1, map[fd:3][0]+16",
        ),
        (
            insn("lddw", 1, Pseudo.MAP_IDX, imm=3),
            "r1 = map[3] ll",
            "r1 = map[3]",
            "lddw r1, map[3]",
        ),
        (
            insn("lddw", 1, Pseudo.MAP_IDX_VALUE, imm=3),
            "r1 = map[3][0]+0 ll",
            "r1 = map[3][0]+0",
            "lddw r1, map[3][0]+0",
        ),
        (insn("lddw", 1, Pseudo.BTF_ID, imm=9), "r1 = btf[9] ll", "r1 = btf[9]", "lddw r1, btf[9]"),
        (
            insn("lddw", 1, Pseudo.BTF_ID, imm=9 | 4 << 32),
            "r1 = btf[9][4] ll",
            "r1 = btf[9][4]",
            "lddw r1, btf[9][4]",
        ),
        (
            insn("lddw", 1, Pseudo.FUNC, imm=0xFFFF_FFFE),
            "r1 = func pc-2 ll",
            "r1 = func pc-2",
            "lddw r1, func pc-2",
        ),
        (
            insn("jeq64_k", 1, off=3, imm=-1),
            "if r1 == -0x1 goto +0x3",
            "if r1 == 0xffffffff goto pc+3",
            "jeq64 r1, -1, +3",
        ),
        (insn("gotol", off=-70_000), "gotol -0x11170", "gotol pc-70000", "gotol -70000"),
    ],
)
def test_texts(one: Insn, clang: str, kernel: str, mnemonic: str) -> None:
    assert format_insn(one, style="clang") == clang
    assert format_insn(one, style="kernel") == kernel
    assert format_insn(one, style="mnemonic") == mnemonic


def names(one: Insn, pc: int) -> str | None:
    return {
        Kind.CALL: "bpf_map_lookup_elem",
        Kind.CALL_LOCAL: "inner",
        Kind.CALL_KFUNC: "bpf_kfunc",
        Kind.LDDW: "counts",
        Kind.GOTO: f"from_{pc}",
    }.get(one.spec.kind)


@pytest.mark.parametrize(
    ("one", "clang", "kernel"),
    [
        (insn("call", imm=1), "call 0x1 <bpf_map_lookup_elem>", "call bpf_map_lookup_elem#1"),
        (insn("call_local", imm=2), "call pc+2 <inner>", "call pc+2 <inner>"),
        (insn("call_kfunc", imm=9), "call kfunc bpf_kfunc#9 <bpf_kfunc>", "call kfunc bpf_kfunc#9"),
        (
            insn("lddw", 1, Pseudo.MAP_IDX, imm=3),
            "r1 = map[3] ll <counts>",
            "r1 = map[3] <counts>",
        ),
        (insn("goto", off=1), "goto +0x1 <from_5>", "goto pc+1 <from_5>"),
        (insn("exit"), "exit", "exit"),
    ],
)
def test_names(one: Insn, clang: str, kernel: str) -> None:
    assert format_insn(one, 5, style="clang", resolve=names) == clang
    assert format_insn(one, 5, style="kernel", resolve=names) == kernel


def test_names_cannot_break_the_line() -> None:
    text = format_insn(insn("call", imm=1), resolve=lambda one, pc: "a b>\n; c\x1b[31m")
    assert text == "call 0x1 <a_b____c__31m>"


PROGRAM = (
    insn("lddw", 1, Pseudo.MAP_IDX, imm=0),
    insn("mov64_k", 0, imm=-1),
    insn("call_local", imm=1),
    insn("exit"),
    insn("exit"),
)
LINES = {
    0: SourceLine("count.c", 21, 3, "\tvalue = &counts;"),
    2: SourceLine("count.c", 21, 3, "\tvalue = &counts;"),
    3: SourceLine("count.c", 22, 1, "\x1b[0m\nreturn inner();"),
}


def test_clang_listing() -> None:
    assert format_program(
        PROGRAM, style="clang", lines=LINES, labels={0: "main", 5: "inner fn"}
    ) == [
        "main:",
        "; value = &counts; @ count.c:21",
        "       0:\tr1 = map[0] ll",
        "       2:\tr0 = -0x1",
        "; ?[0m?return inner(); @ count.c:22",
        "       3:\tcall pc+1",
        "       4:\texit",
        "inner_fn:",
        "       5:\texit",
    ]


def test_kernel_listing() -> None:
    assert format_program(PROGRAM, style="kernel", lines={3: LINES[3]}) == [
        "0: (18) r1 = map[0]",
        "2: (b7) r0 = -1",
        "; ?[0m?return inner(); @ count.c:22",
        "3: (85) call pc+1",
        "4: (95) exit",
        "5: (95) exit",
    ]


def test_mnemonic_listing() -> None:
    assert format_program(PROGRAM[1:], style="mnemonic") == [
        "\tmov64 r0, -1",
        "\tcall_local +1",
        "\texit",
        "\texit",
    ]


def test_empty_listing() -> None:
    assert format_program(()) == []
