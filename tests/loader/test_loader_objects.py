"""What the loader makes of objects that clang compiled (data/*.c, built by data/build.sh)."""

from __future__ import annotations

import gzip
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.btf.types import Btf, BtfKind, Func, FuncProto, Var
from pybpfvm.btf.write import write_btf
from pybpfvm.errors import InputError
from pybpfvm.isa.codec import check_targets, decode, encode, index_of_pc, pcs, target_pc
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.loader import load
from pybpfvm.loader.elf import read_elf
from pybpfvm.loader.kallsyms import Kallsyms
from pybpfvm.loader.kconfig import MAX_BYTES, parse_kconfig, read_kconfig
from pybpfvm.objectfile import global_variables
from pybpfvm.profiles.upstream_types import kernel_side
from pybpfvm.program import (
    BPF_F_MMAPABLE,
    BPF_F_RDONLY_PROG,
    BpfObject,
    MapSpec,
    MapType,
    Program,
)

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).resolve().parents[2]
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


A_KERNEL = kernel_side("a kernel", ("iou_ctx", 0, ()), ("iou_loop_params", 4, ()), ("", ()), ())
CONFIG = """# Linux/x86 7.1.300 Kernel Configuration
# CONFIG_NOT_THERE_AT_ALL is not set
CONFIG_BPF_SYSCALL=y
CONFIG_TMPFS=m
CONFIG_BLOCK=y
CONFIG_HZ=0xffffffffff
CONFIG_NR_CPUS=-2
CONFIG_DEFAULT_HOSTNAME="abcdef"
"""
CONFIGURED = parse_kconfig(CONFIG, "a.config")


def test_what_the_kernel_does_not_have_is_null_or_poisoned_if_weak() -> None:
    obj = load(DATA / "externs.o", target_btf=A_KERNEL, kconfig=parse_kconfig("CONFIG_HZ=250", ""))
    assert [program.name for program in obj.programs] == ["calls", "reads", "alone"]
    # The weak function is not there: its call is one of a helper that nobody has.
    call = obj.program("calls").insns[1]
    assert (call.spec.mnemonic, call.imm) == ("call", 2_002_000_000)
    assert obj.kernel_functions == {2_002_000_000: "kernel_function"}
    address = obj.program("reads").insns[1]
    assert (address.spec.mnemonic, address.src, address.imm) == ("lddw", Pseudo.NONE, 0)
    assert obj.unsupported == ()


def test_what_is_strong_and_not_there_is_named_and_leaves_programs_out() -> None:
    obj = load(DATA / "ksyms.o", target_btf=A_KERNEL, kconfig=parse_kconfig(CONFIG, "a.config"))
    loaded = ["configured", "folded", "missing", "present", "present_read"]
    assert [program.name for program in obj.programs] == loaded
    assert obj.left_out["per_cpu_itself"] == "it uses extern variable cpu_number"
    for name in ("without_type", "addressed", "addressed_read"):
        assert "only a running kernel knows" in obj.left_out[name]
    text = "\n".join(obj.unsupported)
    assert "extern runqueues: a variable or function of the kernel" in text
    assert "CONFIG" not in text
    lacking = load(DATA / "ksyms.o", target_btf=A_KERNEL, kconfig=parse_kconfig("", "a.config"))
    assert "kconfig CONFIG_HZ, which a.config does not set" in lacking.left_out["configured"]
    assert "CONFIG_NOT_THERE" not in lacking.left_out["configured"]
    unknown = load(DATA / "ksyms.o", target_btf=A_KERNEL)
    assert "CONFIG_NOT_THERE_AT_ALL, which no known" in unknown.left_out["folded"]


SYMBOLS = """ffffffff81000000 T _stext
ffffffff82000000 d twice
ffffffff83000000 d twice	[module]
ffffffff84000000 t init_task.llvm.123
"""


def symbols(text: str, tmp_path: Path) -> Kallsyms:
    path = tmp_path / "kallsyms"
    path.write_text(text)
    return Kallsyms(str(path))


def test_addresses_of_what_has_no_type_are_numbers(tmp_path: Path) -> None:
    known = symbols(SYMBOLS, tmp_path)
    obj = load(DATA / "ksyms.o", target_btf=A_KERNEL, kconfig=CONFIGURED, symbols=known)
    loaded = [insn for insn in obj.program("addressed").insns if insn.spec.kind is Kind.LDDW]
    assert sorted((insn.src, insn.imm) for insn in loaded if insn.src == Pseudo.NONE) == [
        (Pseudo.NONE, 0xFFFFFFFF81000000),
        (Pseudo.NONE, 0xFFFFFFFF84000000),
    ]
    (null,) = [i for i in obj.program("without_type").insns if i.spec.kind is Kind.LDDW]
    assert (null.src, null.imm) == (Pseudo.NONE, 0)  # weak, and not there
    assert not [line for line in obj.unsupported if "untyped" in line or "_stext" in line]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0 T _stext\n0 T init_task\n", "whose address is not shown: .* shows no addresses here"),
        ("1 T init_task\n", "extern variable _stext without a type, which the running kernel does"),
        ("1 T _stext\n2 T _stext\n", "of which the kernel has 2, at 0x1, 0x2"),
    ],
)
def test_addresses_that_can_not_be_told_are_named(text: str, why: str, tmp_path: Path) -> None:
    known = symbols(text, tmp_path)
    obj = load(DATA / "ksyms.o", target_btf=A_KERNEL, kconfig=CONFIGURED, symbols=known)
    assert re.search(why, obj.left_out["addressed"])


def test_lists_of_symbols_that_are_none(tmp_path: Path) -> None:
    missing = Kallsyms(str(tmp_path / "none"))
    obj = load(DATA / "ksyms.o", target_btf=A_KERNEL, kconfig=CONFIGURED, symbols=missing)
    assert "can not be read: No such file" in obj.left_out["addressed"]
    with pytest.raises(InputError, match="line 2 is not ADDRESS TYPE NAME"):
        load(DATA / "ksyms.o", target_btf=A_KERNEL, symbols=symbols("1 T a\nx\n", tmp_path))


def test_kconfig_values_are_a_frozen_array() -> None:
    kconfig = parse_kconfig(CONFIG, "a.config")
    obj = load(DATA / "ksyms.o", target_btf=A_KERNEL, kconfig=kconfig)
    spec = obj.maps[obj.map_index(".kconfig")]
    assert spec.frozen
    assert spec.flags == BPF_F_RDONLY_PROG
    # By falling alignment, then rising size, then name.
    numbers = (0xFFFFFFFFFF, 0, 2, 7 << 16 | 1 << 8 | 255, -2)
    assert spec.data == struct.pack("<Qiiih", *numbers) + b"y\1abc\0"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("CONFIG_BPF_SYSCALL=m", "extern CONFIG_BPF_SYSCALL: k: its type has no value for m"),
        ("CONFIG_BPF_SYSCALL=1", "no value for 1"),
        ("CONFIG_NR_CPUS=40000", "40000 does not fit 2 bytes"),
        ("CONFIG_NR_CPUS=y", "no value for y"),
        ("CONFIG_HZ=-1", "-1 does not fit 8 bytes"),
        ('CONFIG_HZ="a"', "no value for"),
        ("CONFIG_DEFAULT_HOSTNAME=3", "no value for 3"),
        ('CONFIG_DEFAULT_HOSTNAME="', "does not end"),
        ("CONFIG_HZ", "line 1 is not CONFIG_NAME=VALUE"),
        ("HZ=1", "line 1 is not CONFIG_NAME=VALUE"),
        ("LINUX_KERNEL_VERSION=new", "'new' is no number"),
    ],
)
def test_kconfig_values_fit_their_types(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(DATA / "ksyms.o", target_btf=A_KERNEL, kconfig=parse_kconfig(line, "k"))


def test_kconfig_files_are_plain_or_compressed(tmp_path: Path) -> None:
    plain, packed = tmp_path / "config", tmp_path / "config.gz"
    plain.write_text(CONFIG)
    packed.write_bytes(gzip.compress(CONFIG.encode()))
    first, second = read_kconfig(str(plain)), read_kconfig(str(packed))
    assert first.values == second.values
    assert first.version == 7 << 16 | 1 << 8 | 255
    assert parse_kconfig(f"{CONFIG}LINUX_KERNEL_VERSION=0x60c00", "").version == 0x60C00
    assert first.value("LINUX_HAS_SYSCALL_WRAPPER") == "1"
    assert first.value("LINUX_HAS_NOTHING") is None
    packed.write_bytes(gzip.compress(CONFIG.encode())[:60])
    with pytest.raises(InputError, match="ends too early"):
        read_kconfig(str(packed))
    packed.write_bytes(gzip.compress(bytes(MAX_BYTES + 1)))
    with pytest.raises(InputError, match="more than"):
        read_kconfig(str(packed))


def test_a_struct_that_is_only_declared_is_another_type_and_said_to_be() -> None:
    data = bytearray((ROOT / "examples/loop_nops/prog.bpf.o").read_bytes())
    section = read_elf(bytes(data), "").section(".BTF")
    assert section is not None
    strings = section.data[24 + struct.unpack_from("<I", section.data, 16)[0] :]
    name = bytes(strings).index(b"\0iou_ctx\0") + 1
    # A struct without members becomes a declaration of it: the same record of another kind.
    at = data.index(struct.pack("<III", name, BtfKind.STRUCT << 24, 0))
    data[at : at + 12] = struct.pack("<III", name, BtfKind.FWD << 24, 0)
    obj = load(bytes(data))
    assert "write `struct iou_ctx {};`" in obj.left_out["keep_busy"]


def test_addresses_of_functions_and_variables_are_ids_in_the_targets_btf() -> None:
    types = [type_ for id_, type_ in A_KERNEL if id_]
    number = next(i for i, t in A_KERNEL if i and A_KERNEL.name(i) == "int")
    first = len(types) + 1
    types += [Var("cpu_number", number), Func("bpf_rcu_read_lock", first + 2), FuncProto(0, ())]
    target = Btf.of(types)
    obj = load(DATA / "ksyms.o", target_btf=target, kconfig=parse_kconfig(CONFIG, ""))
    assert (obj.kernel_variables, obj.kernel_functions[first + 1]) == (
        {first: "cpu_number"},
        "bpf_rcu_read_lock",
    )
    types[first] = Func("bpf_rcu_read_lock", number)  # no function's type
    other = load(DATA / "ksyms.o", target_btf=Btf.of(types), kconfig=parse_kconfig(CONFIG, ""))
    assert "which has another type in the kernel" in other.left_out["present"]
    for name, id_ in (("per_cpu_itself", first), ("present", first + 1)):
        (found,) = [i for i in obj.program(name).insns if i.spec.mnemonic == "lddw"]
        assert (found.src, found.imm) == (Pseudo.BTF_ID, id_)


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


@pytest.mark.parametrize(("end", "fits"), [(16, True), (17, False), (20, False)])
def test_a_symbol_puts_no_variable_past_its_section(end: int, fits: bool) -> None:
    path = ROOT / "examples/loop_nops/prog.bpf.o"
    data = bytearray(path.read_bytes())
    elf = read_elf(bytes(data), str(path))
    symbol = next(one for one in elf.symbols if one.name == "to_run")
    assert (elf.sections[symbol.section].size, symbol.size) == (16, 4)
    table = next(one for one in elf.sections if one.name == ".symtab")
    struct.pack_into("<Q", data, table.offset + 24 * symbol.index + 8, end - symbol.size)
    if fits:
        assert dict(global_variables(load(bytes(data))))["to_run"][1] == 12
        return
    with pytest.raises(InputError, match="variable to_run lies past the section's end"):
        load(bytes(data))
