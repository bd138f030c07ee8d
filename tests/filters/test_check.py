"""What kernels refuse as filters, with the place and a remedy, and what runs compute."""

from __future__ import annotations

import pytest

from pybpfvm.errors import InputError
from pybpfvm.filters.asm import assemble
from pybpfvm.filters.cbpf import SPECS, Insn, Kind, Mode
from pybpfvm.filters.check import check
from pybpfvm.filters.context import CONTEXT_BYTES
from pybpfvm.filters.run import run

REFUSED = [
    ("ldb [9]\nret #1", 0, "may not use `ldb [k]`"),
    ("ldh [8]\nret #1", 0, "may not use `ldh [k]`"),
    ("ld [x + 0]\nret #1", 0, "may not use `ld [x + k]`"),
    ("ldxb 4*([0]&0xf)\nret #1", 0, "may not use"),
    ("mod #3\nret #1", 0, "may not use `mod #k`"),
    ("mod x\nret #1", 0, "may not use `mod x`"),
    ("ld [40]\nret #1", 0, "no word of the context begins at 40"),
    ("ld [18]\nret #1", 0, "no word of the context begins at 18"),
    ("ld #1", 0, "the last instruction does not return"),
    ("div #0\nret #1", 0, "division by the constant 0"),
    ("lsh #32\nret #1", 0, "a shift by 32 bits"),
    ("rsh #40\nret #1", 0, "a shift by 40 bits"),
    ("st M[16]\nret #1", 0, "there is no M[16]"),
    ("ld M[0]\nret #1", 0, "may not have been stored to"),
    ("jeq #1, skip\nst M[2]\nskip: ld M[2]\nret a", 2, "M[2] may not have been stored to"),
]


@pytest.mark.parametrize(("text", "index", "reason"), REFUSED)
def test_refused(text: str, index: int, reason: str) -> None:
    (problem,) = check(assemble(text))
    assert problem.index == index
    assert reason in problem.reason
    with pytest.raises(InputError):
        run(assemble(text), bytes(CONTEXT_BYTES))


def test_everything_that_is_wrong_is_told() -> None:
    program = (Insn(0xFFFF), *assemble("lsh #32\nst M[16]\nld M[3]"), Insn(0x15, 0, 9, 0))
    assert [problem.index for problem in check(program)] == [0, 1, 2, 3, 4, 4, 4]


def test_limits_of_length() -> None:
    assert check(())[0].index is None
    longest = (Insn(0x00, 1),) * 4095 + (Insn(0x06, 1),)
    assert not check(longest)
    assert "4096 at most" in check((Insn(0x00, 1), *longest))[0].remedy


def test_jumps_out_of_the_program() -> None:
    branch = Insn(0x15, 0, 1, 0)
    (problem,) = check((branch, Insn(0x06, 1)))
    assert "behind the last instruction" in problem.reason
    assert check((Insn(0x05, 0xFFFF_FFFF), Insn(0x06, 1)))


def test_unknown_codes() -> None:
    (problem,) = check((Insn(0xFFFF), Insn(0x06, 1)))
    assert "no code 0xffff" in problem.reason


def test_the_white_list_row_by_row() -> None:
    """Section 6.2: nothing else is allowed, and all of that is."""
    alu = {"add", "sub", "mul", "div", "and", "or", "xor", "lsh", "rsh"}
    for spec in SPECS.values():
        words = spec.kind is Kind.LOAD_A and spec.mode is Mode.WORD and spec.name == "ld"
        inner = spec.mode in (Mode.IMM, Mode.SCRATCH, Mode.LEN) and spec.name in ("ld", "ldx")
        rest = spec.kind not in (Kind.LOAD_A, Kind.LOAD_X, Kind.ALU)
        assert spec.allowed == (words or inner or rest or spec.op in alu), spec


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("ld [16]\nret a", 0x13121110),  # host byte order
        ("ld len\nret a", 40),
        ("ldx len\ntxa\nret a", 40),
        ("ld #0\nsub #1\nret a", 0xFFFF_FFFF),
        ("ld #5\nneg\nret a", 0xFFFF_FFFB),
        ("ldx #0\nld #9\ndiv x\nret #7", 0),  # by X = 0: the program ends with 0
        ("ld #1\nldx #33\nlsh x\nret a", 2),
        ("ld #0x80000000\nmul #2\nret a", 0),
        ("ld #6\nst M[4]\nldx M[4]\ntxa\nret a", 6),
        ("ld #12\njset #4, yes\nret #0\nyes: ret #1", 1),
        ("ld #3\nldx #4\njge x, yes\nret #0\nyes: ret #1", 0),
    ],
)
def test_runs(text: str, result: int) -> None:
    assert run(assemble(text), bytes(range(CONTEXT_BYTES))).result == result
