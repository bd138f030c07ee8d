"""Classic BPF as text: what is understood, and what is said of the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfvm.errors import InputError
from pybpfvm.filters.asm import assemble, assemble_lines
from pybpfvm.filters.cbpf import SPECS, Insn, Kind, Mode, decode, encode, lines

ALL_FORMS = """
start:
  ld [16]            ; every form there is
  ldh [2]            // in either kind of comment
  ldb [1]
  ld [x + 4]
  ldh [x+4]
  ldb [%x+4]
  ld #5
  ldi #5
  ld len
  ld #len
  ld M[3]
  ldx #7
  ldxi #7
  ldx len
  ldx M[15]
  ldxb 4*([14]&0xf)
  st M[0]
  stx M[1]
  tax
  txa
  neg
  add #1
  add x
  sub #0x10
  mul %x
  div #3
  mod x
  and #-1
  or x
  xor #0
  lsh #3
  rsh x
  jmp next
next: ja more
more: jeq #1, end
  jeq x, end, more2
more2: jne #2, end
  jneq x, end
  jlt #3, end
  jle #4, end
  jgt #5, end
  jge #6, end
  jset #7, end
  ret a
  ret %a
end: ret #0
"""


def test_every_form_is_understood() -> None:
    found = assemble(ALL_FORMS)
    names = {insn.spec.name for insn in found if insn.spec is not None}
    assert names == {spec.name for spec in SPECS.values()}
    assert encode(found[:1]) == bytes.fromhex("20000000 10000000")


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ("jne #2, end", (0x15, 2, 0, 1)),
        ("jlt #2, end", (0x35, 2, 0, 1)),
        ("jle x, end", (0x2D, 0, 0, 1)),
        ("jeq #2, end", (0x15, 2, 1, 0)),
        ("jmp end", (0x05, 1, 0, 0)),
        ("and #-1", (0x54, 0xFFFF_FFFF, 0, 0)),
    ],
)
def test_aliases_and_opposites(written: str, same: tuple[int, int, int, int]) -> None:
    code, k, jt, jf = same
    assert assemble(f"{written}\nret #0\nend: ret #1")[0] == Insn(code, k, jt, jf)


def test_lines_of_instructions() -> None:
    assert assemble_lines("; first\n\n  ret #1\nlabel:\nret #0\n")[1] == (3, 5)


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("ret #1\nfoo #1", "line 2, column 1", "no instruction is called 'foo'"),
        ("ld [16", "line 1, column", "the line ends too early"),
        ("ld $", "line 1, column 4", "unexpected '$'"),
        ("jeq #1, there", "line 1, column 9", "no label is called 'there'"),
        ("a1: ret #0\nja a1", "line 2, column 4", "is not behind this line"),
        ("b:\nb: ret #0", "line 2, column 1", "is defined twice"),
        ("ldx x", "line 1, column 1", "it takes #k or M[k] or len"),
        ("ret #0x1ffffffff", "line 1, column 6", "does not fit 32 bits"),
        ("ldxb 5*([1]&0xf)", "line 1", "only 4*([k]&0xf)"),
        ("jeq #1", "line 1", "one label or two"),
        ("jne #1, e, e\ne: ret #1", "line 1", "one label"),
        ("jeq e, #1\ne: ret #1", "line 1", "label"),
        ("ret #1, #2", "line 1", "it takes"),
        ("tax #1", "line 1", "it takes nothing"),
        (
            "jeq #1, far\n" + "ld #1\n" * 300 + "far: ret #0",
            "line 1, column 9",
            "a branch reaches 255",
        ),
        ("ret #1\n" * 4097, "line 4097", "more than 4096"),
        ("ret #1 " + " " * 5000, "line 1", "5007 characters"),
    ],
)
def test_mistakes_have_a_place_and_a_reason(text: str, place: str, reason: str) -> None:
    with pytest.raises(InputError) as found:
        assemble(text, "f.cbpf")
    assert found.value.where.startswith(f"f.cbpf, {place}")
    assert reason in str(found.value)


def test_texts_have_limits() -> None:
    for text in ("\n" * 20_000, " " * (1 << 20) + "x"):
        with pytest.raises(InputError, match="at most 1048576 characters and 20000 lines"):
            assemble(text)


def test_a_far_jump_reaches_everything() -> None:
    far = "ja far\n" + "ld #1\n" * 300 + "far: ret #0"
    assert assemble(far)[0].k == 300


@st.composite
def programs(draw: st.DrawFn) -> tuple[Insn, ...]:
    count = draw(st.integers(1, 20))
    insns = []
    for index in range(count):
        spec = draw(st.sampled_from(list(SPECS.values())))
        left = count - index - 1
        k = draw(st.integers(0, 0xFFFF_FFFF))
        jt = jf = 0
        if spec.kind is Kind.JUMP:
            k = draw(st.integers(0, left))
        elif spec.kind is Kind.BRANCH:
            jt, jf = draw(st.integers(0, left)), draw(st.integers(0, left))
        if spec.mode in (Mode.NONE, Mode.X, Mode.A, Mode.LEN):
            k = 0
        insns.append(Insn(spec.code, k, jt, jf))
    return tuple(insns)


@given(programs())
def test_text_and_bytes_are_the_same_program(program: tuple[Insn, ...]) -> None:
    text = "\n".join([*lines(program), f"l{len(program)}: ret #0"])
    assert assemble(text)[:-1] == program
    assert decode(encode(program)) == program


def test_half_an_instruction() -> None:
    with pytest.raises(InputError, match="8 bytes an instruction"):
        decode(bytes(12), "f.bin")
