"""The language by itself: values, how they are written, what is refused, and any text at all."""

from __future__ import annotations

import re
import struct
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pybpfvm.errors import InputError
from pybpfvm.events import CqeReaped, HelperCalled, Noted, RunEnded, SqeIssued
from pybpfvm.expr import ExpressionError, Moment, compile_expression, moment_of
from pybpfvm.expr.elements import MAX_LOOP
from pybpfvm.expr.parse import MAX_CHARS, MAX_DEPTH
from pybpfvm.program import MapSpec, MapType
from pybpfvm.uring_backend.abi import Op, Sqe
from tests.support.expr_scope import FakeRing, FakeScope

U64 = (1 << 64) - 1


def cqe(user_data: int, res: int, flags: int = 0) -> bytes:
    return struct.pack("<QiI", user_data, res, flags)


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


SCOPE = FakeScope(
    regs=[*range(10), 0x2000],
    pc=7,
    rings={
        "main": FakeRing(
            [[cqe(1, 0)], [cqe(2, -22), cqe(3, 7)]],
            {"inflight": 3, "overflow": 0, "time": 5_000, "backlog": 0},
            {"echo": 4},
        ),
        "other": FakeRing([[cqe(77, 1)]]),
    },
    specs={
        "counts": MapSpec("counts", MapType.HASH, 4, 8, 10),
        "wide": MapSpec("wide", MapType.HASH, 16, 12, 10),
        "big": MapSpec("big", MapType.ARRAY, 4, 8, 1 << 20),
    },
    elements={
        "counts": {b"\x01\0\0\0": u64(5), b"\xff\xff\xff\xff": u64(9)},
        "wide": {b"abc".ljust(16, b"\0"): b"x" * 12},
        "big": {i.to_bytes(4, "little"): u64(i) for i in range(MAX_LOOP + 1)},
    },
    memory={0x1000: b"hello\0abc".ljust(64, b"\0"), 0x2000: struct.pack("<Qi", 0x1000, -3) * 4},
    blocks={"word": (0x1000, 16)},
    constants={"IORING_OP_BPF": 40},
    moment=Moment(cqe=cqe(9, -1), sqe=Sqe(Op.READ, fd=3, len=10).pack(), helper="emit", ret=U64),
)


def text_of(expression: str) -> str:
    return compile_expression(expression, SCOPE).text_of(SCOPE)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        # literals
        ("10", "10"),
        ("0x1F", "31"),
        ("0b101", "5"),
        ("017", "15"),
        ("0", "0"),
        ("1'000'000", "1000000"),
        ("42ULL", "42"),
        ("18446744073709551615", "18446744073709551615"),
        ("'a'", "97 'a'"),
        (r"'\n'", r"10 '\n'"),
        (r"'\x41'", "65 'A'"),
        (r"'\0'", r"0 '\000'"),
        (r'"a\"b"', r'"a\"b"'),
        # precedence, as in C
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("1 << 2 + 1", "8"),
        ("6 & 3 == 3", "0"),
        ("1 | 2 ^ 2 & 3", "1"),
        ("1 == 1 < 2", "1"),
        ("0 || 1 && 0", "0"),
        ("1 ? 2 : 0 ? 3 : 4", "2"),
        ("-2 * -3", "6"),
        ("!0 + 1", "2"),
        ("~0", "-1"),
        ("10 - 3 - 2", "5"),
        ("100 / 10 / 2", "5"),
        ("-7 / 2", "-3"),
        ("-7 % 2", "-1"),
        # 64 bits that wrap, unsigned where an operand is
        ("r1 - 2", str(U64)),
        ("(s64)(r1 - 2)", "-1"),
        ("0x7fffffffffffffff + 1", str(-(1 << 63))),
        ("r0 == -1", "0"),
        ("(u64)-1 == -1", "1"),
        ("-1 < r0", "0"),
        ("-1 < 0", "1"),
        ("(u8)300", "44"),
        ("(s8)200", "-56"),
        ("(_Bool)2", "true"),
        ("(unsigned int)-1", "4294967295"),
        ("(unsigned long long)-1", str(U64)),
        ("(u32)1 - (u32)2", "-1"),
        ("-16 >> 2", "-4"),
        ("(u64)-16 >> 60", "15"),
        # registers, ring, event
        ("r3", "3"),
        ("pc", "7"),
        ("$r3 + $pc", "10"),
        ("cq[1].ready", "2"),
        ("cq[0].head + cq[0].entries", "13"),
        ("cq[r1].free", "6"),
        ("cq[1][1].res", "7"),
        ("cq[1][0]", "{user_data = 2, res = -22, flags = 0, big_cqe = {0, 0}}"),
        ("sq.head", "2"),
        ("inflight", "3"),
        ("time >= 5000", "1"),
        ('runs("echo")', "4"),
        ('ring("other").cq[0][0].user_data', "77"),
        ('ring("main").inflight', "3"),
        ("len(cq)", "2"),
        ("len(cq[1])", "2"),
        ("cqe.res < 0", "1"),
        ("cqe.res == -EPERM", "1"),
        ("cqe.user_data", "9"),
        ("sqe.opcode == IORING_OP_READ", "1"),
        ("sqe.fd", "3"),
        ("sqe.opcode == IORING_OP_BPF", "0"),
        ('helper == "emit"', "1"),
        ('helper == "bpf_emit"', "1"),
        ('"bpf_submit" == helper', "0"),
        ('helper != "emit"', "0"),
        ("(s64)ret", "-1"),
        ("IOSQE_IO_DRAIN", "2"),
        ("IORING_CQE_F_MORE", "2"),
        # maps
        ("counts[1]", "5"),
        ("counts[-1]", "9"),
        ("1 in counts", "1"),
        ("2 in counts", "0"),
        ("!(2 in counts)", "1"),
        ("len(counts)", "2"),
        ('"abc" in wide', "1"),
        (r'wide[b"abc\0"][0]', "120"),
        ('map("counts")[1]', "5"),
        # any and all
        ("any(c.res < 0 for c in cq[1])", "1"),
        ("all(c.res < 0 for c in cq[1])", "0"),
        ("any(i == 1 && c.res == 7 for i, c in cq[1])", "1"),
        ("all(k != 2 for k in counts)", "1"),
        ("any(v == 9 for k, v in counts)", "1"),
        ("any(b == 'l' for b in word)", "1"),
        ("all(any(b == c.user_data for c in cq[1]) || b > 3 for i, b in word) || 1", "1"),
        # memory
        ("word[1]", "101"),
        ('word == "hello"', "1"),
        ("*(u32 *)word", str(int.from_bytes(b"hell", "little"))),
        ("((u16 *)word)[1]", str(int.from_bytes(b"ll", "little"))),
        ("(char *)word", '0x1000 "hello"'),
        ("&word[2]", "0x1002 <word+2>"),
        ("&word[2] - &word[0]", "2"),
        ("(u32 *)&word[0] + 1 == (u32 *)&word[4]", "1"),
        ("*(u64 *)r10", "4096"),
        ("((struct io_uring_cqe *)r10)->res", "-3"),
        ("(*(struct io_uring_cqe *)r10).user_data", "4096"),
        ("sizeof(u32) + sizeof word + sizeof(u8 *)", "28"),
        ("sizeof(struct io_uring_sqe)", "64"),
        # formats
        ("/x r3 << 4", "0x30"),
        ("/z (u16)255", "0x00ff"),
        ("/d r1 - 2", "-1"),
        ("/u (s8)-1", "255"),
        ("/o 8", "010"),
        ("/t 5", "101"),
        ("/c 65", "65 'A'"),
        ("/a (u64)word", "0x1000 <word>"),
        ("/x cq[1][0].res", "0xffffffea"),
        ("/x(10)", "0xa"),
    ],
)
def test_values(expression: str, text: str) -> None:
    assert text_of(expression) == text


@pytest.mark.parametrize(
    ("expression", "under", "reason"),
    [
        ("r1 = 3", "=", "'=' can not stand here"),
        ("r1 ==", "", "ends too early"),
        ("(r1", "", "ends too early"),
        ("r1 r2", "r2", "'r2' can not stand here"),
        ("1 + foo", "foo", "nothing is called 'foo'"),
        ("1 + inflght", "inflght", "nothing is called 'inflght'"),
        ("$cqr", "$cqr", "no register, ring word or event"),
        ("08", "08", "no integer"),
        ("1.5", "5", "'5' can not stand here"),
        ("99999999999999999999", "99999999999999999999", "more than 64 bits"),
        ("'ab'", "'", "can not stand here"),
        (r"'\q'", r"'\q'", "stands for nothing"),
        ("1 + 2 / 0", "2 / 0", "division by zero"),
        ("1 % (r0 - r0)", "1 % (r0 - r0)", "division by zero"),
        ("1 << 64", "64", "a shift of 64 bits by 64"),
        ("1 >> -1", "-1", "a shift of 64 bits by -1"),
        ("cq", "cq", "all CQs of the ring has no value"),
        ("cq[2].ready", "cq[2]", "CQ 2 of a ring that has CQs 0 to 1"),
        ("cq[-1].ready", "cq[-1]", "CQ -1 of a ring"),
        ("cq[0].redy", "redy", "a CQ has no 'redy'"),
        ("cq[0][1]", "cq[0][1]", "CQE 1 of CQ 0, which holds 1"),
        ("parked", "parked", "nothing of parked"),
        ('runs("x")', 'runs("x")', "no program of the ring is called 'x'"),
        ('ring("x").inflight', 'ring("x")', "no ring is called 'x'"),
        ("counts", "counts", "a map has no value"),
        ("counts[3]", "counts[3]", "no element with key 3"),
        ("counts[1 << 40]", "1 << 40", "does not fit 4 bytes"),
        ("counts[cqe]", "cqe", "32 bytes for a key of 4"),
        ("counts[{1}]", "1", "are no structs"),
        ('counts["abcdef"]', '"abcdef"', "6 bytes for a key of 4"),
        ("*r1", "*r1", "a number points to nothing"),
        ("r1->x", "r1->x", "a number points to nothing"),
        ("r1.x", "r1.x", "no member 'x'"),
        ("*(u32 *)0x10", "*(u32 *)0x10", "no memory at 0x10"),
        ("*(void *)word", "*(void *)word", "has no value"),
        ("word[16]", "word[16]", "element 16 of 16"),
        ("(struct nobody *)r1", "struct nobody", "no struct nobody"),
        ("(nobody *)r1", "(nobody *)", "no type nobody"),
        ("(long short)r1", "long short", "no type is called 'long short'"),
        ("cqe + 1", "cqe", "can not stand beside +"),
        ('"a" < "b"', '"a" < "b"', "have no order"),
        ("&3", "&3", "lies nowhere in memory"),
        ("len(3)", "len(3)", "has no length"),
        ("sin(3)", "sin(3)", "sin can not be called so"),
        ("any(3)", "any(3)", "any can not be called so"),
        ("any(1 for x in 3)", "3", "no elements to look at"),
        ("/q r1", "/q", "no format is called 'q'"),
        ("all(v >= 0 for k, v in big)", "big", "more than 65,536 elements"),
        ("", "", "an expression is needed"),
    ],
)
def test_mistakes_are_told_with_their_place(expression: str, under: str, reason: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        text_of(expression)
    error = caught.value
    assert reason in error.reason
    assert expression[error.start : error.end].startswith(under)
    assert "\n" not in str(error)
    assert f"column {error.start + 1}" in error.where
    line, carets = error.picture.split("\n")
    assert line == expression
    assert carets.count("^") >= 1
    assert error.inside("t.toml").where == f"t.toml, column {error.start + 1}"


@pytest.mark.parametrize(
    ("expression", "remedy"),
    [
        ("1 + inflght", "did you mean 'inflight'?"),
        ("r1 = 3", "compares with =="),
        ("(r1", "')' is missing"),
        ("cq.ready", "one of them is cq[0]"),
        ("cqe.ress", "did you mean 'res'?"),
        ("counts[3]", "ask first: key in counts"),
    ],
)
def test_mistakes_say_what_to_do(expression: str, remedy: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        text_of(expression)
    assert remedy in caught.value.remedy


def test_what_is_not_there_now_is_said() -> None:
    bare = FakeScope()
    for expression, reason in (
        ("r1", "there are no registers here"),
        ("cqe.res", "no cqe here"),
        ("helper == \"x\"", "no helper here"),
        ("inflight", "there is no ring here"),
    ):  # fmt: skip
        compiled = compile_expression(expression, bare)
        with pytest.raises(ExpressionError, match=reason):
            compiled.evaluate(bare)
        with pytest.raises(ExpressionError, match=reason):
            compiled.holds(bare)


def test_needs_tell_which_events_a_filter_can_be_asked_of() -> None:
    assert compile_expression("cqe.res < 0 && r1 > 2", SCOPE).needs == {"cqe", "regs"}
    assert compile_expression("inflight == 0", SCOPE).needs == frozenset()


def test_events_become_moments() -> None:
    reaped = moment_of(CqeReaped(0, 1, 5, -2, 0, "user"))
    assert reaped == Moment(cqe=cqe(5, -2))
    assert moment_of(HelperCalled(0, "emit", 3, (), 7)) == Moment(helper="emit", ret=7)
    assert moment_of(SqeIssued(0, 1, 0, 0, 0, 0, "user", b"x" * 64)).sqe == b"x" * 64
    assert moment_of(RunEnded(0, 1, "p", 1, 3, 9, None, 0)).ret == 3
    assert moment_of(Noted(0, "step", "x")) == Moment()


def test_logic_does_not_look_further_than_it_must() -> None:
    assert compile_expression("3 in counts && counts[3] == 1", SCOPE).holds(SCOPE) is False
    assert compile_expression("1 || *(u32 *)0", SCOPE).holds(SCOPE) is True
    assert text_of("1 ? 2 : 1 / 0") == "2"


@pytest.mark.parametrize("expression", ["cqe", "helper"])
def test_what_is_no_condition_is_refused(expression: str) -> None:
    compiled = compile_expression(expression, SCOPE)
    with pytest.raises(ExpressionError, match="is no condition"):
        compiled.holds(SCOPE)
    with pytest.raises(ExpressionError, match="is no condition"):
        compiled.check_condition()


def test_parts_explain_a_failure() -> None:
    def parts(expression: str) -> list[str]:
        return [str(one) for one in compile_expression(expression, SCOPE).parts(SCOPE)]

    assert parts("counts[1] == 3 && cq[1].ready < inflight - 1 || r1 == r1") == [
        "counts[1] = 5",
        "cq[1].ready = 2",
        "inflight - 1 = 2",
        "r1 = 1",
    ]
    assert parts("all(v < 6 for k, v in counts)") == [
        "all(v < 6 for k, v in counts) = false for k = 4294967295, v = 9"
    ]
    assert parts("any(v > 6 for k, v in counts)")[0].endswith("= true for k = 4294967295, v = 9")
    assert parts("any(v > 60 for k, v in counts)")[0].endswith("= false")
    assert parts("counts[7] == 1") == ["counts[7] = (counts has no element with key 7)"]


def test_a_budget_lasts_for_one_evaluation() -> None:
    compiled = compile_expression("all(v >= 0 for k, v in big)", SCOPE)
    for _ in range(2):
        with pytest.raises(ExpressionError, match="more than 65,536 elements"):
            compiled.holds(SCOPE)
    small = replace(SCOPE, elements={"big": {b"\0\0\0\0": u64(1)}})
    assert compiled.holds(small)


def test_length_and_depth_are_bounded() -> None:
    with pytest.raises(ExpressionError, match="characters"):
        text_of("1" * (MAX_CHARS + 1))
    with pytest.raises(ExpressionError, match="nested more than"):
        text_of("!" * (MAX_DEPTH + 1) + "1")
    with pytest.raises(ExpressionError, match="nested more than"):
        text_of("+".join("1" * (MAX_DEPTH + 2)))
    assert text_of("+".join("1" * (MAX_DEPTH - 2))) == str(MAX_DEPTH - 2)
    assert text_of("(" * 1000 + "1" + ")" * 1000) == "1"


def test_big_endian_memory() -> None:
    scope = FakeScope(
        memory={16: b"\0\0\0\x05"}, blocks={"w": (16, 4)}, byteorder="big", regs=[0] * 11
    )
    assert compile_expression("*(u32 *)w", scope).text_of(scope) == "5"


# --- laws -----------------------------------------------------------------------------------------

TYPES = [(f"{sign}{bits}", sign == "s", bits) for sign in "us" for bits in (8, 16, 32, 64)]
WORDS = st.one_of(
    st.integers(0, U64), st.sampled_from([0, 1, 2, 63, U64, 1 << 63, (1 << 63) - 1, 1 << 31])
)


def as_type(value: int, signed: bool, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


@given(
    st.sampled_from(["+", "-", "*", "&", "|", "^", "/", "%", "<", "<=", "==", "!=", ">", ">="]),
    st.sampled_from(TYPES),
    st.sampled_from(TYPES),
    WORDS,
    WORDS,
)
def test_arithmetic_is_that_of_c_with_an_int_of_64_bits(
    sign: str, left: tuple[str, bool, int], right: tuple[str, bool, int], x: int, y: int
) -> None:
    unsigned = any(not signed and bits == 64 for _, signed, bits in (left, right))
    a, b = as_type(x, *left[1:]), as_type(y, *right[1:])
    if unsigned:
        a, b = a & U64, b & U64
    expression = f"({left[0]}){x}u {sign} ({right[0]}){y}u"
    if sign in "/%" and b == 0:
        with pytest.raises(ExpressionError, match="division by zero"):
            text_of(expression)
        return
    quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) if b else 0
    expected = {
        "+": a + b,
        "-": a - b,
        "*": a * b,
        "&": a & b,
        "|": a | b,
        "^": a ^ b,
        "/": quotient,
        "%": a - quotient * b,
        "<": int(a < b),
        "<=": int(a <= b),
        "==": int(a == b),
        "!=": int(a != b),
        ">": int(a > b),
        ">=": int(a >= b),
    }[sign]
    assert text_of(expression) == str(as_type(expected, not unsigned, 64))
    registers = FakeScope(regs=[x, y] + [0] * 9)
    same = compile_expression(f"({left[0]})r0 {sign} ({right[0]})r1", registers)
    assert same.text_of(registers) == text_of(expression)


WORDS_OF_EXPRESSIONS = re.findall(
    r"\S+",
    """
    r0 r1 pc cq sq cqe sqe helper ret inflight time word counts wide big 0 1 7 0xff -1 'a' "abc"
    ( ) [ ] { } . -> , + - * / % & | ^ ~ ! << >> < <= > >= == != && || ? : = $ $r1 $cqe /x
    (u32) (u8*) (foo*) sizeof struct union enum in for any( all( len( runs( ring( block( map(
    ready head res user_data io_uring_cqe EINVAL k v
    """,
)


def value_or_refusal(expression: str) -> None:
    try:
        compiled = compile_expression(expression, SCOPE)
        assert compiled.text_of(SCOPE)
        compiled.parts(SCOPE)
        compiled.holds(SCOPE)
    except InputError as error:
        refused = str(error)
    else:
        return
    assert refused
    assert "\n" not in refused


@given(st.lists(st.sampled_from(WORDS_OF_EXPRESSIONS), max_size=14).map(" ".join))
@example("any ( k for k in big )")
@example("cq [ 0xff ] . ready")
@example("& word")
@example("* & word [ 1 ]")
@example("counts [ { 1 } ]")
def test_any_words_give_a_value_or_a_refusal(expression: str) -> None:
    value_or_refusal(expression)


@given(st.text(max_size=40))
@example("\x00")
@example("'\\")
@example('"\udcff"')
@example("0" * 4000)
@example("r1\n== 1")
def test_any_text_gives_a_value_or_a_refusal(expression: str) -> None:
    value_or_refusal(expression)
