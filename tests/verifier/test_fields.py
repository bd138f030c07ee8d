"""Where the kernel's fields in map values are, by their BTF; types that are not followed."""

from __future__ import annotations

import time

import pytest

from pybpfvm.btf.kernelfields import MAX_FIELDS, Field, FieldKind
from pybpfvm.btf.types import (
    Array,
    Btf,
    BtfType,
    Datasec,
    DeclTag,
    Int,
    Member,
    Ptr,
    SectionVar,
    Struct,
    TypeTag,
    Var,
)
from pybpfvm.isa.asm import assemble
from pybpfvm.profiles import PROFILES
from pybpfvm.program import BpfObject, MapSpec, MapType, Program
from pybpfvm.verifier.privileges.privilege import parse_capabilities
from pybpfvm.verifier.refusal import Refused
from pybpfvm.verifier.resources.fields import fields_of, object_fields
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Kind, Verdict
from pybpfvm.verifier.verify import Options, verify

INT, LOCK = 1, 2
_COMMON: tuple[BtfType, ...] = (
    Int("int", 4, 32, signed=True),
    Struct("bpf_spin_lock", 4, (Member("val", INT, 0),)),
)
_SECONDS = 2.0  # far more than any of these takes


def _types(*types: BtfType) -> Btf:
    """The common types and `types`, from id 3 on."""
    return Btf.of([*_COMMON, *types])


def _map(btf: Btf, value_id: int) -> MapSpec:
    size = getattr(btf.type(value_id), "size", 8) if value_id in btf else 8
    return MapSpec("m", MapType.ARRAY, 4, size, 1, btf_key_type_id=INT, btf_value_type_id=value_id)


def _fields(btf: Btf, value_id: int) -> tuple[Field, ...]:
    return fields_of(btf, _map(btf, value_id))


def _refusal(btf: Btf | None, value_id: int) -> str:
    started = time.monotonic()
    with pytest.raises(Refused) as caught:
        fields_of(btf, _map(btf or _types(), value_id))
    assert time.monotonic() - started < _SECONDS
    assert caught.value.kind is Kind.UNSUPPORTED
    return caught.value.feature


def _verdict(btf: Btf | None, value_id: int, options: Options | None = None) -> Verdict:
    """On a program that writes the first bytes of the value."""
    code = assemble("r1 = map[m][0]+0 ll\n*(u32 *)(r1 + 0) = 1\nr0 = 0\nexit", maps={"m": 0})
    program = Program("case", "tc", code, license="GPL")
    spec = _map(btf or _types(), value_id)
    obj = BpfObject("x", "", (program,), (spec,), btf=btf, license="GPL")
    return verify(program, obj, PROFILES["socket_filter"], options=options or Options())


def _chain(width: int, depth: int, *, bottom: int) -> Btf:
    """Structs that each hold `width` times the one before; the first holds type `bottom`."""
    return _types(
        *(
            Struct(
                f"s{level}",
                4,
                tuple(Member(f"m{at}", level + 2 if level else bottom, 0) for at in range(width)),
            )
            for level in range(depth)
        )
    )


def test_fields_of_arrays_of_structs_have_their_own_places() -> None:
    btf = _types(
        Struct("inner", 8, (Member("x", INT, 0), Member("l", LOCK, 32))),
        Array(3, INT, 2),
        Array(4, INT, 2),
        Struct("outer", 40, (Member("n", INT, 0), Member("all", 5, 64))),
    )
    assert [one.offset for one in _fields(btf, 6)] == [12, 20, 28, 36]


def test_fields_of_a_section_are_those_of_its_variables() -> None:
    btf = _types(
        Datasec(".bss", 24, (SectionVar(4, 0, 4), SectionVar(5, 8, 16), SectionVar(8, 4, 8))),
        Var("lock", LOCK),
        Var("pointers", 6),
        Array(7, INT, 2),
        Ptr(9),
        Var("too_large", LOCK),  # of 8 bytes, says the section: no lock to the kernel
        TypeTag("kptr", 10),
        Struct("task_struct", 8),
    )
    assert _fields(btf, 3) == (
        Field(FieldKind.SPIN_LOCK, 0, 4),
        Field(FieldKind.KPTR_REF, 8, 8, 10),
        Field(FieldKind.KPTR_REF, 16, 8, 10),
    )


def test_a_lock_out_of_line_is_none() -> None:
    btf = _types(Struct("v", 8, (Member("x", LOCK, 8),)))
    assert _fields(btf, 3) == ()


def test_no_field_is_dropped_after_many_structs() -> None:
    btf = _types(
        Struct("x", 4, (Member("n", INT, 0),)),
        Array(3, INT, 300),
        Struct("in", 4, (Member("l", LOCK, 0),)),
        Struct("v", 1204, (Member("a", 4, 0), Member("in", 5, 1200 * 8))),
    )
    assert _fields(btf, 6) == (Field(FieldKind.SPIN_LOCK, 1200, 4),)


def test_more_fields_than_the_kernel_keeps_are_not_dropped() -> None:
    def pointers(count: int) -> Btf:
        return _types(
            Array(4, INT, count),
            Ptr(5),
            TypeTag("kptr", 6),
            Struct("task_struct", 8),
            Struct("v", 8 * count, (Member("p", 3, 0),)),
        )

    assert len(_fields(pointers(MAX_FIELDS), 7)) == MAX_FIELDS
    assert "more than 11 fields" in _refusal(pointers(MAX_FIELDS + 1), 7)
    assert "more than 11 fields" in _refusal(pointers(1 << 31), 7)


def test_a_struct_in_itself_is_not_followed() -> None:
    btf = _types(Struct("s", 4, (Member("x", 4, 0), Member("y", 4, 0))), Array(3, INT, 2))
    assert "contains itself" in _refusal(btf, 3)
    verdict = _verdict(btf, 3)
    assert isinstance(verdict, Inconclusive)
    assert verdict.finding.kind is Kind.UNSUPPORTED


def test_an_array_of_itself_is_not_followed() -> None:
    btf = _types(Struct("s", 4, (Member("x", 4, 0),)), Array(4, INT, 1))
    assert "dimensions" in _refusal(btf, 3)


def test_wide_chains_are_looked_at_once() -> None:
    started = time.monotonic()
    btf = _chain(4, 16, bottom=INT)
    assert _fields(btf, len(btf) - 1) == ()
    assert isinstance(_verdict(btf, len(btf) - 1), Accepted)
    btf = _chain(4, 16, bottom=LOCK)
    assert "more than 11 fields" in _refusal(btf, len(btf) - 1)
    assert time.monotonic() - started < _SECONDS


def test_chains_deeper_than_the_kernel_follows() -> None:
    assert len(_fields(_chain(1, 32, bottom=LOCK), 34)) == 1
    assert "31 deep" in _refusal(_chain(1, 33, bottom=LOCK), 35)
    # The same where a part was looked at before, closer to the top.
    types = [_chain(1, 33, bottom=LOCK).type(number) for number in range(3, 36)]
    top = Struct("top", 8, (Member("low", 20, 0), Member("high", 35, 32)))
    assert "31 deep" in _refusal(_types(*types, top), 36)


@pytest.mark.parametrize(
    "options", [Options(), Options(caps=parse_capabilities("none"))], ids=["all", "no caps"]
)
def test_ids_that_are_no_types_make_it_inconclusive(options: Options) -> None:
    for btf, value_id in (
        (_types(Struct("v", 8, (Member("x", 99, 0),))), 3),
        (_types(Struct("v", 8, (Member("x", 4, 0),)), Array(99, INT, 2)), 3),
        (_types(Datasec(".bss", 8, (SectionVar(99, 0, 8),))), 3),
        (_types(), 77),
    ):
        verdict = _verdict(btf, value_id, options)
        assert isinstance(verdict, Inconclusive)
        assert verdict.finding.kind is Kind.UNSUPPORTED
        assert f"map 'm' with values of BTF type {value_id}" in verdict.finding.feature


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        ((), "no single tag says what its bpf_list_head holds"),
        (("contains:elem:node",) * 2, "no single tag says what its bpf_list_head holds"),
        (("contains:elem",), "no single tag says what its bpf_list_head holds"),
        (("contains:elem:other",), "no node of its bpf_list_head is called elem.other"),
        (("contains:none:node",), "no node of its bpf_list_head is called none.node"),
    ],
)
def test_lists_of_no_known_nodes_are_not_followed(tags: tuple[str, ...], what: str) -> None:
    types = (
        Struct("bpf_list_head", 16, ()),
        Struct("bpf_list_node", 24, ()),
        Struct("elem", 32, (Member("node", 4, 0), Member("other", INT, 24 * 8))),
        Struct("v", 16, (Member("head", 3, 0),)),
    )
    good = _types(*types, DeclTag("contains:elem:node", 6, 0))
    assert _fields(good, 6) == (Field(FieldKind.LIST_HEAD, 0, 16, 5, 0),)
    assert what in _refusal(_types(*types, *(DeclTag(tag, 6, 0) for tag in tags)), 6)


def test_objects_with_fields_in_structs_inside_only() -> None:
    inner, outer = (
        Struct("inner", 8, (Member("x", INT, 0), Member("l", LOCK, 32))),
        Struct("outer", 8, (Member("in", 3, 0),)),
    )
    btf = _types(inner, outer)
    assert object_fields(btf, 3) == (Field(FieldKind.SPIN_LOCK, 4, 4),)
    with pytest.raises(Refused) as caught:
        object_fields(btf, 4)
    assert "objects of BTF type 4: the kernel's fields are in" in caught.value.feature


def test_several_locks_in_a_value_are_not_judged() -> None:
    btf = _types(Struct("v", 8, (Member("a", LOCK, 0), Member("b", LOCK, 32))))
    code = assemble("r1 = map[m][0]+0 ll\ncall 93\nr0 = 0\nexit", maps={"m": 0})
    program = Program("case", "tc", code, license="GPL")
    obj = BpfObject("x", "", (program,), (_map(btf, 3),), btf=btf, license="GPL")
    verdict = verify(program, obj, PROFILES["sched_cls"])
    assert isinstance(verdict, Inconclusive)
    assert verdict.finding.kind is Kind.UNSUPPORTED


def test_values_of_a_type_that_is_not_there_are_not_plain_memory() -> None:
    assert _refusal(None, LOCK) == "map 'm' with values of a BTF type, but without the BTF"
    found = _verdict(None, LOCK)
    assert isinstance(found, Inconclusive)
    assert found.finding.kind is Kind.UNSUPPORTED
