"""The assembler: every form back to what it came from, mistakes named, nothing else raised."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpfvm.errors import InputError
from pybpfvm.isa.asm import MAX_LINE_CHARS, MAX_LINES, MAX_TEXT_CHARS, assemble
from pybpfvm.isa.disasm import Style, format_insn, format_program
from pybpfvm.isa.insn import Insn, InsnSpec
from pybpfvm.isa.opcodes import Pseudo
from pybpfvm.isa.table import SPECS, TABLE
from tests.support.insns import insns, programs, samples

STYLES: tuple[Style, ...] = ("clang", "kernel", "mnemonic")
NAME = st.one_of(st.none(), st.text(max_size=6))


def insn(mnemonic: str, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> Insn:
    return Insn(SPECS[mnemonic], dst, src, off, imm)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("spec", TABLE, ids=repr)
def test_each_row_reads_back(spec: InsnSpec, style: Style) -> None:
    for one in samples(spec):
        assert assemble("\n".join(format_program([one], style=style))) == (one,)


@settings(max_examples=400, deadline=None)
@given(programs(), st.sampled_from(STYLES), NAME)
def test_listings_read_back(program: list[Insn], style: Style, name: str | None) -> None:
    lines = format_program(program, style=style, resolve=lambda one, pc: name)
    assert assemble("\n".join(lines)) == tuple(program)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(insns(), st.sampled_from(("clang", "mnemonic"))), max_size=8))
def test_styles_mix(program: list[tuple[Insn, Style]]) -> None:
    text = "\n".join(format_insn(one, style=style) for one, style in program)
    assert assemble(text) == tuple(one for one, _ in program)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("r1=5", insn("mov64_k", 1, imm=5)),
        ("  w10 = w3 // comment", insn("mov32_x", 10, 3)),
        ("r1 = - 0X1F", insn("mov64_k", 1, imm=-31)),
        ("w1 = 0xffffffff", insn("mov32_k", 1, imm=-1)),
        ("(18) r1 = 5", insn("lddw", 1, imm=5)),
        ("0: (18) r1 = 0xffffffffffffffff", insn("lddw", 1, imm=(1 << 64) - 1)),
        ("r1 = 5 ll", insn("lddw", 1, imm=5)),
        ("r1 = -1 ll", insn("lddw", 1, imm=(1 << 64) - 1)),
        ("r1 = *(u64*)(r2)", insn("ldxdw", 1, 2)),
        ("r1 = *(u64 *)(r2 +4)", insn("ldxdw", 1, 2, 4)),
        ("r1 = *(s16 *)(r2 - 0x4)", insn("ldsxh", 1, 2, -4)),
        ("*(u32 *)(r1 + 0) = w2", insn("stxw", 1, 2)),
        ("*(u32 *)(r1 + 0) = 0xffffffff", insn("stw", 1, imm=-1)),
        ("w3 = atomic_xchg((u32 *)(r1 + 8), w3)", insn("atomic_xchg32", 1, 3, 8)),
        ("r3 = atomic_xchg((u64 *)(r1 + 8), r3)", insn("atomic_xchg64", 1, 3, 8)),
        ("r3 = atomic64_xchg((u64 *)(r1 +8), r3)", insn("atomic_xchg64", 1, 3, 8)),
        ("w0 = cmpxchg32_32(r1 + 8, w0, w3)", insn("atomic_cmpxchg32", 1, 3, 8)),
        ("if r1 == 0xffffffff goto pc+0", insn("jeq64_k", 1, imm=-1)),
        ("(15) if r1 == 0xffffffff goto +0", insn("jeq64_k", 1, imm=-1)),
        ("if w1 s<= 0xffffffff goto +1 <L>", insn("jsle32_k", 1, off=1, imm=-1)),
        ("(85) call bpf_map_lookup_elem#1", insn("call", imm=1)),
        ("call bpf_map_lookup_elem", insn("call", imm=1)),
        ("call kfunc f#9, 3 <f>", insn("call_kfunc", imm=9, off=3)),
        ("r1 = map[counts] ll", insn("lddw", 1, Pseudo.MAP_IDX, imm=2)),
        (
            "lddw r1, map[counts][0]+16",
            insn("lddw", 1, Pseudo.MAP_IDX_VALUE, imm=2 | 16 << 32),
        ),
        ("r0 = *(u16 *)skb[r2 + -7]", insn("ld_ind_h", src=2, imm=-7)),
        ("r0 = *(u16 *)skb[r2 - 7]", insn("ld_ind_h", src=2, imm=-7)),
        ("r0 = *(u16 *)skb[7]", insn("ld_abs_h", imm=7)),
        ("and32 r1, 0xffffffff", insn("and32_k", 1, imm=-1)),
        ("jset32 r1, r2, pc+4", insn("jset32_x", 1, 2, 4)),
        ("ldxb r1, [r2]", insn("ldxb", 1, 2)),
        ("addr_space_cast r1, r2, 0, 1", insn("addr_space_cast", 1, 2, imm=1)),
    ],
)
def test_other_spellings(text: str, expected: Insn) -> None:
    calls, maps = {"bpf_map_lookup_elem": 1}, {"counts": 2}
    assert assemble(text, calls=calls, maps=maps) == (expected,)


def test_labels() -> None:
    """They stand alone or before an instruction, and count slots."""
    program = assemble("""
        main:                       ; pc 0, and two slots long
          r1 = 0x100000000 ll
        again: more.$1: r1 += -1    ; pc 2
          if r1 == 0 goto done
          jne64 r1, 5, again
          may_goto done
          gotol again
          call other
          call_local main
          r2 = func done ll         ; pc 9
        done: exit                  ; pc 11
        other: goto main
    """)
    assert [format_insn(one, style="mnemonic") for one in program] == [
        "lddw r1, 0x100000000",
        "add64 r1, -1",
        "jeq64 r1, 0, +7",
        "jne64 r1, 5, -3",
        "may_goto +5",
        "gotol -5",
        "call_local +4",
        "call_local -9",
        "lddw r2, func pc+1",
        "exit",
        "goto -13",
    ]


def test_a_label_hides_a_helper() -> None:
    assert assemble("f: call f", calls={"f": 7}) == (insn("call_local", imm=-1),)


def test_empty_texts() -> None:
    for text in ("", "\n\n", "  ; only words\n\t\n# more\r\n// and more", "lonely:"):
        assert assemble(text) == ()


def test_line_ends_of_other_systems() -> None:
    assert assemble("r0 = 1\r\nexit\r\n") == (insn("mov64_k", imm=1), insn("exit"))


@pytest.mark.parametrize(
    ("text", "line", "column", "reason", "remedy"),
    [
        ("r0 = ", 1, 5, "the line ends too early", "a register"),
        ("exit\nexi", 2, 1, "no instruction is called 'exi'", "exit"),
        ("r1 += w2", 1, 7, "r1 and w2 differ in width", "two r or two w"),
        ("r11 = 5", 1, 1, "register 'r11' does not exist", "r0 to r10"),
        ("r1 = w17", 1, 6, "register 'w17' does not exist", "r0 to r10"),
        ("r1 = 0xffffffff", 1, 6, "signed", "write -1"),
        ("r1 = 0x100000000", 1, 6, "32-bit immediate", "ll"),
        ("if r1 > 0xffffffff goto +1", 1, 9, "signed", "write -1"),
        ("goto foo\nfo: exit", 1, 6, "no label is called 'foo'", "fo"),
        ("call foo", 1, 6, "no label or helper is called 'foo'", ""),
        ("a: exit\na: exit", 2, 1, "defined twice", "rename"),
        ("if r1 == 5 goto 3", 1, 17, "'3' is no target", "+3"),
        ("goto +40000", 1, 6, "off is 40000", "-32768"),
        ("r1 = *(u64 *)(r2 4)", 1, 18, "expected + or -", ""),
        ("r1 = *(u64 *)(w2 + 4)", 1, 15, "low half", "r2"),
        ("r1 = *(u24 *)(r2 + 4)", 1, 8, "unexpected", "u32"),
        ("r1 = *(u8 *)(r2 + 40000)", 1, 1, "off is 40000", "32767"),
        ("*(u8 *)(r1 + 0) =", 1, 18, "ends too early", "number"),
        ("*(s8 *)(r1 + 0) = 5", 1, 3, "only loads", "u8"),
        ("*(u64 *)(r1 + 0) = 0xffffffff", 1, 20, "signed", "-1"),
        ("r1 = *(s64 *)(r2 + 0)", 1, 8, "no sign-extending 64-bit load", "u64"),
        ("w1 = *(s8 *)(r2 + 0)", 1, 1, "low half", "r1"),
        ("w1 = *(u64 *)(r2 + 4)", 1, 1, "low half", "r1"),
        ("w1 = (s32)w2", 1, 6, "32-bit cast", "w1 = w2"),
        ("r1 = be16 r2", 1, 11, "in place", "r1"),
        ("r1 = be24 r1", 1, 6, "no byte swap", "be16"),
        ("r1 = -r2", 1, 7, "in place", "r1"),
        ("lock *(u8 *)(r1 + 0) += r2", 1, 8, "32 or 64 bits", "u32"),
        ("lock *(u64 *)(r1 + 0) -= r2", 1, 23, "no atomic operation -=", "+="),
        ("r2 = atomic_fetch_sub((u64 *)(r1 + 0), r2)", 1, 6, "no operation", "atomic_fetch"),
        ("r2 = atomic64_xchg((u32 *)(r1 + 0), r2)", 1, 21, "u64", "atomic_"),
        ("r2 = xchg_64(r1 + 8, r3)", 1, 1, "goes to r3", "one register"),
        ("r2 = cmpxchg_64(r1 + 8, r2, r3)", 1, 1, "r0", "w0"),
        ("r2 = xchg_64((u64 *)(r1 + 8), r2)", 1, 6, "wrong arguments", "register + offset"),
        ("store((u64 *)(r1 + 8), r2)", 1, 1, "'store' is not a statement", ""),
        ("r1 = addr_space_cast(r2, 0, 70000)", 1, 29, "address space", "65535"),
        ("r1 = *(u8 *)skb[5]", 1, 1, "go to r0", "r0"),
        ("r0 = *(u64 *)skb[5]", 1, 8, "u8, u16 or u32", ""),
        ("r1 = map[5][1]+0 ll", 1, 13, "element 0", "[0]"),
        ("r1 = map[5][0]16 ll", 1, 15, "expected + before", ""),
        ("r1 = map[5][0]-1 ll", 1, 15, "expected + before", ""),
        ("r1 = map[nope] ll", 1, 10, "no map is called 'nope'", ""),
        ("r1 = map[-1] ll", 1, 10, "unsigned 32-bit", ""),
        ("add64 r1", 1, 1, "takes 2 operands, not 1", ""),
        ("add64 w1, 5", 1, 7, "low half", "r1"),
        ("add64 r1, [r2]", 1, 12, "expected a number", ""),
        ("add64 5, 5", 1, 7, "expected a register", ""),
        ("ldxb r1, r2", 1, 10, "in brackets", ""),
        ("ldxb r1, [4]", 1, 11, "needs a register", ""),
        ("ld_abs_b [r1]", 1, 11, "no register", "ld_ind"),
        ("ld_ind_b [1]", 1, 11, "needs a register", "ld_abs"),
        ("5: exit", 1, 1, "says pc '5', but this is pc 0", "numbers away"),
        ("(07) exit", 1, 1, "says 0x07", "mend the text"),
        ("(zz) exit", 1, 1, "unexpected", ""),
        ("r1 = 5 5", 1, 8, "unexpected '5'", "end of the line"),
        ("r1 = @", 1, 6, "unexpected '@'", "a number"),
        ("r1 = 5\x00", 1, 7, "unexpected", ""),
        ("r1 = " + "9" * 3000, 1, 6, "64 bits", ""),
        ("9" * 3000 + ": exit", 1, 1, "64 bits", ""),
        ("call f#" + "9" * 3000, 1, 6, "64 bits", ""),
        (".text", 1, 1, "no instruction is called '.text'", ""),
    ],
)
def test_mistakes_are_located(text: str, line: int, column: int, reason: str, remedy: str) -> None:
    with pytest.raises(InputError) as caught:
        assemble(text, where="x.s")
    assert reason in caught.value.reason
    assert remedy in caught.value.remedy
    assert caught.value.where == f"x.s, line {line}, column {column}"
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_size_is_bounded() -> None:
    long_line = "exit" + " " * MAX_LINE_CHARS
    for text in (" " * (MAX_TEXT_CHARS + 1), "\n" * MAX_LINES, long_line, "a:" * (1 << 20)):
        with pytest.raises(InputError, match="at most"):
            assemble(text)
    assert assemble("; " + "x" * (MAX_TEXT_CHARS - 2)) == ()


_PIECES = """
    r1 r10 w2 r11 = += s>>= == s< & * ( ) [ ] , : + - 5 0x1f -7 u8 u64 s32 ll pc map btf func fd
    if goto gotol call kfunc lock skb exit add64 stxw lddw foo foo#7 a: 0: (b7) <x> ; # // @ \x00 é
    be16 (s8) atomic_fetch_add xchg_64 load_acquire store_release addr_space_cast
"""


def test_nonsense_raises_input_error_only() -> None:
    """Words of the language in any order, and true lines with characters changed."""
    words = _PIECES.split()
    for seed in range(1500):
        random_ = random.Random(seed)
        if seed % 2:
            joint = random_.choice(("", " "))
            text = joint.join(random_.choice(words) for _ in range(random_.randrange(1, 12)))
        else:
            spec = random_.choice(TABLE)
            style = random_.choice(STYLES)
            letters = list("\n".join(format_program(samples(spec)[:3], style=style)))
            for _ in range(random_.randrange(1, 4)):
                place = random_.randrange(len(letters))
                letters[place] = random_.choice((*"rw01x*()[]+-=; \n", ""))
            text = "".join(letters)
        try:
            assemble(text)
        except InputError:
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}: {text!r}") from error
