"""C types in expressions: structs, bitfields, enums, typedefs, globals and keys, by BTF."""

from __future__ import annotations

import struct

import pytest

from pybpfvm.btf.types import (
    Array,
    Btf,
    Const,
    Datasec,
    Enum,
    EnumValue,
    Float,
    Int,
    Member,
    Ptr,
    SectionVar,
    Struct,
    Typedef,
    Union,
    Var,
)
from pybpfvm.expr import ExpressionError, compile_expression
from pybpfvm.program import BpfObject, MapSpec, MapType
from pybpfvm.source.info import DebugInfo
from tests.support.expr_scope import FakeScope

INT, CHAR, U16, NAME, COLOUR, POINT, PAIR, FLAGS, JOB, JOB_T, JOB_PTR = range(1, 12)
VAR_JOB, VAR_LAST, BOOL, NUMBERS, VAR_NUMBERS, DOUBLE, VAR_DOUBLE, CONST_INT, SECTION = range(
    12, 21
)
TYPES = (
    Int("int", 4, 32, signed=True),
    Int("char", 1, 8, signed=True, char=True),
    Int("unsigned short", 2, 16),
    Array(CHAR, INT, 8),
    Enum("colour", 4, (EnumValue("RED", 0), EnumValue("BLUE", -5)), signed=True),
    Struct("point", 8, (Member("x", INT, 0), Member("y", INT, 32))),
    Union("", 4, (Member("whole", INT, 0), Member("half", U16, 0))),
    Struct("flags", 4, (Member("low", INT, 0, 3), Member("next", U16, 3, 5))),
    Struct(
        "job",
        40,
        (
            Member("name", NAME, 0),
            Member("at", POINT, 64),
            Member("colour", COLOUR, 128),
            Member("", PAIR, 160),
            Member("flags", FLAGS, 192),
            Member("ready", BOOL, 224),
            Member("next", JOB_PTR, 256),
        ),
    ),
    Typedef("job_t", JOB),
    Ptr(JOB),
    Var("job", JOB),
    Var("last", JOB_PTR),
    Int("_Bool", 1, 8, boolean=True),
    Array(CONST_INT, INT, 3),
    Var("numbers", NUMBERS),
    Float("double", 8),
    Var("ratio", DOUBLE),
    Const(INT),
    Datasec(
        ".bss",
        72,
        (
            SectionVar(VAR_JOB, 0, 40),
            SectionVar(VAR_LAST, 40, 8),
            SectionVar(VAR_NUMBERS, 48, 12),
            SectionVar(VAR_DOUBLE, 64, 8),
        ),
    ),
)
BSS = 0x4000
DATA = (
    b"first\0\0\0"
    + struct.pack("<iiiI", -1, 2, -5, 0x1_0007)
    + struct.pack("<I?3x", 0b10110_101, True)
    + struct.pack("<QQ3i4xd", 0, BSS, 10, 20, 30, 0.5)
)[:72]
OBJECT = BpfObject(
    "t.o",
    "",
    (),
    (MapSpec("t.bss", MapType.ARRAY, 4, 72, 1, section=".bss", data=bytes(72)),),
    btf=Btf.of(TYPES),
)
SCOPE = FakeScope(
    debug=DebugInfo(OBJECT, lambda: None),
    regs=[BSS] * 11,
    memory={BSS: DATA},
    sections={".bss": BSS},
    specs={
        "by_point": MapSpec(
            "by_point", MapType.HASH, 8, 4, 9, btf_key_type_id=POINT, btf_value_type_id=COLOUR
        )
    },
    elements={"by_point": {struct.pack("<ii", 1, -2): struct.pack("<i", -5)}},
)


def text_of(expression: str) -> str:
    return compile_expression(expression, SCOPE).text_of(SCOPE)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("job.name", '"first"'),
        ('job.name == "first"', "1"),
        ("job.name[1]", "105 'i'"),
        ("job.at", "{x = -1, y = 2}"),
        ("job.at.x < 0", "1"),
        ("job.colour", "BLUE"),
        ("job.colour == BLUE && RED == 0", "1"),
        ("/d job.colour", "-5"),
        ("job.whole", "65543"),
        ("job.half", "7"),
        ("job.flags", "{low = -3, next = 22}"),
        ("job.flags.low", "-3"),
        ("job.flags.next", "22"),
        ("job.ready", "true"),
        ("job.next", "0x0"),
        ("last", "0x4000"),
        ("last->at.y", "2"),
        ("(*last).at.y", "2"),
        ("last->next == 0", "1"),
        ("&job == last", "1"),
        ("&job.at.y", "0x400c"),
        ("last + 1 == (struct job *)(r1 + 40)", "1"),
        ("&last[1] - last", "1"),
        ("((struct job *)r1)->at.y", "2"),
        ("((job_t *)r1)->colour == BLUE", "1"),
        ("(enum colour)-5", "BLUE"),
        ("sizeof(struct job) + sizeof(job_t *) + sizeof job.at", "56"),
        ("numbers", "{10, 20, 30}"),
        ("/x numbers", "{0xa, 0x14, 0x1e}"),
        ("numbers[2]", "30"),
        ("*numbers + *(numbers + 1)", "30"),
        ("any(n == 20 for n in numbers)", "1"),
        ("all(n == 10 * (i + 1) for i, n in numbers)", "1"),
        ("len(numbers)", "3"),
        ("by_point[{1, -2}]", "BLUE"),
        ("by_point[{.y = -2, .x = 1}] == BLUE", "1"),
        ("job.at in by_point", "0"),
        ("all(p.x == 1 && c == BLUE for p, c in by_point)", "1"),
        ("any(p.y > 0 for p in by_point)", "0"),
        (
            "job",
            '{name = "first", at = {x = -1, y = 2}, colour = BLUE, {whole = 65543, half = 7}, '
            "flags = {low = -3, next = 22}, ready = true, next = 0x0}",
        ),
    ],
)
def test_values(expression: str, text: str) -> None:
    assert text_of(expression) == text


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("job.nam", "struct job has no member 'nam' (did you mean 'name'?)"),
        ("job->at", "it is a struct, no pointer to one (write .at)"),
        ("last.at", "a pointer has no members (what it points to has: ->at)"),
        ("job.next->at", "NULL"),
        ("numbers[3]", "element 3 of 3"),
        ("ratio", "this has no value"),
        ("ratio + 1", "can not stand beside +"),
        ("jobb.name", "nothing is called 'jobb' here (did you mean 'job'?)"),
        ("(struct job)last", "nothing can be cast to struct job"),
        ("job == job", "can not stand beside =="),
        ("by_point[{1, 2, 3}]", "struct point has 2 members"),
        ("by_point[{.z = 1}]", "struct point has no number 'z' (it has x, y)"),
        ("by_point[{1 << 33, 0}]", "does not fit 4 bytes"),
        ("by_point[{5, 5}]", "by_point has no element with key"),
        ("by_point[job]", "40 bytes for a key of 8"),
    ],
)
def test_mistakes(expression: str, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        text_of(expression)
    assert message.replace("NULL", "no memory at 0x8") in str(caught.value)


def test_values_have_parts_and_places() -> None:
    value = compile_expression("job", SCOPE).evaluate(SCOPE)
    parts = dict(value.children())
    assert value.type.name == "struct job"
    assert (value.addr, value.type.size) == (BSS, 40)
    assert (parts["at"].addr, parts["at"].type.name) == (BSS + 8, "struct point")
    assert [name for name, _ in parts["at"].children()] == ["x", "y"]
    assert parts["next"].type.name == "struct job *"
    numbers = compile_expression("numbers", SCOPE).evaluate(SCOPE)
    assert [(name, one.number) for name, one in numbers.children(2)] == [("[0]", 10), ("[1]", 20)]
    assert numbers.type.name == "const int[3]"


def test_what_programs_change_is_seen_at_once() -> None:
    hits = compile_expression("numbers[0] + job.at.y", SCOPE)
    scope = FakeScope(**{**vars(SCOPE), "memory": {BSS: bytearray(DATA)}})
    assert hits.text_of(scope) == "12"
    scope.memory[BSS] = DATA[:12] + b"\x05\0\0\0" + DATA[16:]
    assert hits.text_of(scope) == "15"
