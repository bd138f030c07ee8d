"""What the loader makes of objects that clang compiled (data/*.c, built by data/build.sh)."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.btf.write import write_btf
from pybpfvm.isa.codec import check_targets, decode, encode, index_of_pc, pcs, target_pc
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.loader import load
from pybpfvm.loader.elf import read_elf
from pybpfvm.program import (
    BPF_F_MMAPABLE,
    BPF_F_RDONLY_PROG,
    BpfObject,
    MapSpec,
    MapType,
    Program,
)

DATA = Path(__file__).parent / "data"
OBJECTS = sorted(path.name for path in DATA.glob("*.o"))


def _load(name: str) -> BpfObject:
    return load(DATA / name)


def _maps(obj: BpfObject) -> dict[str, MapSpec]:
    return {spec.name: spec for spec in obj.maps}


def _used(obj: BpfObject, program: Program) -> list[tuple[str, int | None]]:
    """(map, offset in its value or None for the map itself) of each map reference."""
    found: list[tuple[str, int | None]] = []
    for insn in program.insns:
        if insn.spec.kind is Kind.LDDW and insn.src in (Pseudo.MAP_IDX, Pseudo.MAP_IDX_VALUE):
            offset = insn.imm >> 32 if insn.src == Pseudo.MAP_IDX_VALUE else None
            found.append((obj.maps[insn.imm & 0xFFFFFFFF].name, offset))
    return found


def _called(program: Program) -> set[tuple[str, str]]:
    """(caller, callee) of each local call and function address."""

    def name_at(pc: int) -> str:
        return next(sub.name for sub in program.subprogs if sub.start <= pc < sub.end)

    found = set()
    for pc, insn in zip(pcs(program.insns), program.insns):
        is_address = insn.spec.kind is Kind.LDDW and insn.src == Pseudo.FUNC
        if insn.spec.kind is Kind.CALL_LOCAL or is_address:
            target = target_pc(insn, pc)
            assert target is not None
            assert target in {sub.start for sub in program.subprogs}
            found.add((name_at(pc), name_at(target)))
    return found


@pytest.mark.parametrize("name", OBJECTS)
def test_programs_are_whole(name: str) -> None:
    obj = _load(name)
    assert obj.license == "Dual MIT/GPL"
    assert obj.big_endian == (".be." in name)
    for program in obj.programs:
        check_targets(program.insns)
        data = encode(program.insns, big_endian=obj.big_endian)
        assert len(data) == 8 * program.slots
        assert decode(data, big_endian=obj.big_endian) == program.insns
        assert [sub.start for sub in program.subprogs[1:]] == [
            sub.end for sub in program.subprogs[:-1]
        ]
        assert (program.subprogs[0].start, program.subprogs[-1].end) == (0, program.slots)
        assert set(program.lines) <= set(index_of_pc(program.insns))
        assert program.line_at(0) is not None


def test_records_of_five_words() -> None:
    obj = _load("legacy20.o")
    assert _maps(obj) == {
        "counts": MapSpec("counts", MapType.HASH, 4, 8, 16, flags=1, section="maps"),
        "names": MapSpec("names", MapType.ARRAY, 4, 32, 3, section="maps"),
    }
    used = _used(obj, obj.program("count"))
    assert used == [("counts", None), ("counts", None), ("names", None)]


def test_records_of_seven_words() -> None:
    maps = _maps(_load("legacy28.o"))
    pattern = MapSpec("pattern", MapType.ARRAY, 4, 8, 4, section="maps")
    assert maps["pattern"] == pattern
    assert maps["outer"] == MapSpec(
        "outer", MapType.ARRAY_OF_MAPS, 4, 4, 2, section="maps", inner=pattern
    )


def test_records_of_nine_words() -> None:
    maps = _maps(_load("legacy36.o"))
    inner = MapSpec("inner", MapType.ARRAY, 4, 8, 4, section="maps")
    assert maps["inner"] == inner
    assert maps["outer"] == MapSpec(
        "outer",
        MapType.ARRAY_OF_MAPS,
        4,
        4,
        2,
        section="maps",
        inner=inner,
        slots={1: "inner"},
        pinning=2,
    )


@pytest.mark.parametrize("name", ["typed_maps.o", "typed_maps.be.o"])
def test_maps_declared_by_types(name: str) -> None:
    obj = _load(name)
    maps = _maps(obj)
    assert obj.btf is not None
    flows = maps["flows"]
    assert (flows.type, flows.key_size, flows.value_size) == (MapType.HASH, 8, 8)
    assert (flows.max_entries, flows.flags, flows.section) == (100, 1, ".maps")
    assert obj.btf.name(flows.btf_key_type_id) == "key_type"
    assert obj.btf.name(flows.btf_value_type_id) == "value_type"
    assert maps["events"] == MapSpec("events", MapType.RINGBUF, 0, 0, 4096, section=".maps")
    assert maps["seen"] == MapSpec(
        "seen", MapType.BLOOM_FILTER, 0, 4, 10, section=".maps", map_extra=3
    )
    inner = MapSpec("by_index.inner", MapType.ARRAY, 4, 8, 5, section=".maps")
    assert maps["by_index"] == MapSpec(
        "by_index",
        MapType.ARRAY_OF_MAPS,
        4,
        4,
        4,
        section=".maps",
        inner=inner,
        slots={1: "first", 3: "second"},
    )
    assert maps["by_name"].type is MapType.HASH_OF_MAPS
    by_name_inner = maps["by_name"].inner
    assert by_name_inner is not None
    assert (by_name_inner.name, by_name_inner.value_size) == ("by_name.inner", 4)
    assert maps["chain"] == MapSpec(
        "chain", MapType.PROG_ARRAY, 4, 4, 3, section=".maps", slots={2: "next"}
    )
    assert [program.name for program in obj.programs] == ["next", "look"]
    assert {used for used, _ in _used(obj, obj.program("look"))} == {
        "by_index",
        "flows",
        "chain",
        "by_name",
    }


def test_pinned_static_and_wide_attributes() -> None:
    obj = _load("typed_more.o")
    maps = _maps(obj)
    assert maps["pinned"].pinning == 1
    assert maps["seen"].map_extra == 0x123456789
    assert _used(obj, obj.program("look")) == [("pinned", None), ("unexported", None)]


@pytest.mark.parametrize("name", ["globals.o", "globals.be.o"])
def test_variables_become_maps(name: str) -> None:
    obj = _load(name)
    order = "big" if obj.big_endian else "little"
    maps = _maps(obj)
    assert set(maps) == {
        ".bss",
        ".data",
        ".rodata",
        ".data.tuned",
        ".bss.scratch",
        ".rodata.magic",
    }
    for spec in maps.values():
        read_only = spec.name.startswith(".rodata")
        assert spec.frozen == read_only
        assert spec.flags == BPF_F_MMAPABLE | (BPF_F_RDONLY_PROG if read_only else 0)
        assert (spec.type, spec.key_size, spec.max_entries) == (MapType.ARRAY, 4, 1)
        assert spec.data is not None
        assert spec.value_size == len(spec.data)
    assert maps[".data.tuned"].data == (99).to_bytes(4, order)  # type: ignore[arg-type]
    assert maps[".bss.scratch"].data == bytes(16)
    assert obj.btf is not None
    # The BTF says where in its section each variable lies: filled in from the symbols.
    for spec in maps.values():
        datasec = obj.btf.type(spec.btf_value_type_id)
        assert datasec.size == spec.value_size  # type: ignore[union-attr]
        for variable in datasec.variables:  # type: ignore[union-attr]
            at = variable.offset
            assert spec.data is not None
            value = spec.data[at : at + variable.size]
            expected = {
                "data": (0x1122334455667788).to_bytes(8, order),  # type: ignore[arg-type]
                "limit": (7).to_bytes(4, order),  # type: ignore[arg-type]
                "table": bytes([1, 2, 3, 4, 5]),
                "magic": (0xFEEDFACE).to_bytes(8, order),  # type: ignore[arg-type]
            }.get(obj.btf.name(variable.type_id))
            assert expected is None or value == expected
    used = _used(obj, obj.program("touch"))
    assert {name for name, _ in used} == set(maps)
    assert all(offset is not None for _, offset in used)


@pytest.mark.parametrize("name", ["calls.o", "calls.be.o"])
def test_functions_are_appended_where_they_are_reached(name: str) -> None:
    obj = _load(name)
    assert [(p.name, p.section) for p in obj.programs] == [
        ("one", "socket/a"),
        ("two", "socket/a"),
        ("three", "socket/b"),
    ]
    assert _called(obj.program("one")) == {
        ("one", "each"),
        ("one", "shared"),
        ("each", "leaf"),
        ("shared", "leaf"),
    }
    assert _called(obj.program("two")) == {("two", "leaf")}
    assert _called(obj.program("three")) == {
        ("three", "weak_one"),
        ("three", "hidden_one"),
        ("weak_one", "leaf"),
    }
    scope = {sub.name: sub.is_global for p in obj.programs for sub in p.subprogs}
    assert {name for name, is_global in scope.items() if is_global} == {
        "one",
        "two",
        "three",
        "shared",
        "weak_one",
    }
    assert obj.btf is not None
    for program in obj.programs:
        for sub in program.subprogs:
            assert obj.btf.name(sub.btf_type_id) == sub.name
            line = program.lines[sub.start]
            assert line.file.endswith("calls.c")
            source = (DATA / "calls.c").read_text().splitlines()[line.line - 1]
            assert source == line.text
            # A function's first line is one of its own, wherever it was put.
            assert program.line_at(sub.start) == line


def test_what_only_this_loader_links() -> None:
    obj = _load("calls_more.o")
    assert [program.name for program in obj.programs] == ["first", "second", "third"]
    assert _called(obj.program("second")) == {
        ("second", "beside"),
        ("second", "first"),
        ("first", "beside"),
    }
    assert _called(obj.program("third")) == {
        ("third", "chain"),
        ("chain", "lonely"),
        ("chain", "beside"),
    }


def test_externs_are_named_and_programs_without_them_are_left_out() -> None:
    obj = _load("externs.o")
    # The weak function is not there: its call is one of a helper that nobody has.
    assert [program.name for program in obj.programs] == ["calls", "alone"]
    call = obj.program("calls").insns[1]
    assert (call.spec.mnemonic, call.imm) == ("call", 2_002_000_000)
    text = "\n".join(obj.unsupported)
    assert "program reads is left out" in text
    assert "extern CONFIG_HZ: a kconfig value" in text
    assert "extern kernel_function: a function of the kernel" in text


def test_a_path_and_its_bytes_load_alike() -> None:
    path = DATA / "calls.o"
    first, second = load(path), load(path.read_bytes(), name=str(path))
    assert first.sha256 == second.sha256
    assert first.programs == second.programs
    assert first.maps == second.maps


@pytest.mark.parametrize("name", ["core.o", "calls.be.o", "globals.o", "legacy20.o"])
def test_relocations_of_btf_as_compilers_before_llvm_13_number_them(name: str) -> None:
    data = (DATA / name).read_bytes()
    elf = read_elf(data, name)
    order = ">" if elf.big_endian else "<"
    older = bytearray(data)
    renumbered = 0
    for section, number in ((".rel.BTF", 10), (".rel.BTF.ext", 0)):
        found = elf.section(section)
        for at in range(found.offset, found.offset + found.size, 16) if found else ():
            (info,) = struct.unpack_from(f"{order}Q", data, at + 8)
            struct.pack_into(f"{order}Q", older, at + 8, info >> 32 << 32 | number)
            renumbered += 1
    assert renumbered
    assert bytes(older) != data
    ours, theirs = load(data, name=name), load(bytes(older), name=name)
    assert ours.btf is not None
    assert theirs.btf is not None
    assert write_btf(theirs.btf) == write_btf(ours.btf)
    assert replace(theirs, sha256=ours.sha256, btf=ours.btf) == ours
