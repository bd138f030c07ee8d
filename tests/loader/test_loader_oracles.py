"""The same objects through libbpf and the kernel: equal code, accepted maps, BTF and programs."""

from __future__ import annotations

import shutil
import struct
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from pybpfvm import bpfsys
from pybpfvm.btf.types import BtfKind
from pybpfvm.btf.write import write_btf
from pybpfvm.isa.codec import decode, encode
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.loader import load
from pybpfvm.loader.elf import read_elf
from pybpfvm.program import BpfObject, MapSpec, MapType
from tests.support import libbpf_oracle

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).resolve().parents[2]

OBJECTS = sorted(Path(__file__).parents[1].glob("**/*.bpf.o"))
SECTION_TYPES = {
    1: "SHT_PROGBITS",
    2: "SHT_SYMTAB",
    3: "SHT_STRTAB",
    4: "SHT_RELA",
    8: "SHT_NOBITS",
    9: "SHT_REL",
}


def _skip_without_bpf() -> None:
    if reason := bpfsys.available():
        pytest.skip(reason)


def _ours(obj: BpfObject, insns: tuple[Insn, ...]) -> list[object]:
    """Instructions with maps named instead of numbered."""
    named: list[object] = []
    for insn in insns:
        if insn.spec.kind is Kind.LDDW and insn.src in (Pseudo.MAP_IDX, Pseudo.MAP_IDX_VALUE):
            is_value = insn.src == Pseudo.MAP_IDX_VALUE
            name = obj.maps[insn.imm & 0xFFFFFFFF].name
            named.append((insn.dst, name, insn.imm >> 32 if is_value else None))
        else:
            named.append(insn)
    return named


def _theirs(linked: libbpf_oracle.Linked, code: bytes) -> list[object]:
    named: list[object] = []
    for insn in decode(code):
        if insn.spec.kind is Kind.LDDW and insn.src in (Pseudo.MAP_FD, Pseudo.MAP_VALUE):
            is_value = insn.src == Pseudo.MAP_VALUE
            name = linked.maps[insn.imm & 0xFFFFFFFF]
            # libbpf puts (a part of) the object's name before .data, .rodata and .bss.
            name = name if name.startswith(".") or "." not in name else "." + name.split(".")[1]
            named.append((insn.dst, name, insn.imm >> 32 if is_value else None))
        else:
            named.append(insn)
    return named


@pytest.mark.kernel_bpf
@pytest.mark.parametrize(
    "name", ["typed_maps", "globals", "calls", "externs", "ksyms", "core_kernel", "core"]
)
def test_libbpf_links_the_same_code(name: str, tmp_path: Path) -> None:
    if reason := libbpf_oracle.unavailable():
        pytest.skip(reason)
    _skip_without_bpf()
    path = str(DATA / f"{name}.o")
    target, file = None, ""
    if name == "core":
        target = load(DATA / "core_target.o").btf
        assert target is not None
        file = str(tmp_path / "target.btf")
        Path(file).write_bytes(write_btf(target))
    # Poisoned calls have other numbers there; per-CPU variables not every kernel finds.
    left = {"calls", "reads"} if name == "calls" else {"calls"}
    obj = load(path, target_btf=target)
    if name == "ksyms":
        compared = {"configured", "folded", "present", "without_type", "addressed"}
        left = {p.name for p in obj.programs} - compared
    linked = libbpf_oracle.load(path, btf=file, skip=tuple(left))
    assert not isinstance(linked, str), linked
    programs = [program for program in obj.programs if program.name not in left]
    if name == "calls":
        programs = list(obj.programs)
    assert {program.name for program in programs} == set(linked.programs)
    for program in programs:
        assert _ours(obj, program.insns) == _theirs(linked, linked.programs[program.name])


def _create(spec: MapSpec, inner: bpfsys.Fd | None) -> bpfsys.Fd:
    return bpfsys.map_create(
        int(spec.type),
        spec.key_size,
        spec.value_size,
        spec.max_entries,
        flags=spec.flags,
        name="".join(c for c in spec.name if c.isalnum() or c in "_.")[:15],
        map_extra=spec.map_extra,
        inner_map_fd=inner.fileno() if inner is not None else 0,
    )


@pytest.mark.kernel_bpf
@pytest.mark.parametrize(
    "name",
    [
        "legacy20",
        "legacy28",
        "legacy36",
        "typed_maps",
        "globals",
        "calls",
        "calls_more",
    ],
)
def test_the_kernel_takes_maps_btf_and_programs(name: str) -> None:
    _skip_without_bpf()
    obj = load(DATA / f"{name}.o")
    assert obj.btf is not None
    with ExitStack() as stack:
        btf = stack.enter_context(bpfsys.btf_load(write_btf(obj.btf), log_level=1))
        assert btf.accepted, btf.log
        assert btf.fd is not None
        fds = []
        for spec in obj.maps:
            inner = stack.enter_context(_create(spec.inner, None)) if spec.inner else None
            fd = stack.enter_context(_create(spec, inner))
            if spec.data is not None:
                bpfsys.map_update_elem(fd, bytes(4), spec.data)
                if spec.frozen:
                    bpfsys.map_freeze(fd)
            fds.append(fd.fileno())
        for program in obj.programs:
            funcs = b"".join(
                struct.pack("=II", sub.start, sub.btf_type_id) for sub in program.subprogs
            )
            result = stack.enter_context(
                bpfsys.prog_load(
                    encode(program.insns),
                    prog_type=bpfsys.PROG_TYPE_SOCKET_FILTER,
                    license=obj.license,
                    log_level=1,
                    map_fds=fds,
                    btf_fd=btf.fd.fileno(),
                    func_info=funcs,
                )
            )
            assert result.accepted, f"{program.name}: {result.log}"


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_pyelftools_sees_the_same_sections(path: Path) -> None:
    with path.open("rb") as file:
        theirs = [
            (one.name, one["sh_flags"], one["sh_size"], one["sh_offset"], one["sh_type"])
            for one in ELFFile(file).iter_sections()
        ][1:]
    ours = [
        (one.name, one.flags, one.size, one.offset, SECTION_TYPES.get(one.type, "other"))
        for one in read_elf(path.read_bytes(), path.name).sections
    ][1:]
    known = set(SECTION_TYPES.values())
    assert ours == [(*rest, kind if kind in known else "other") for *rest, kind in theirs]


def test_btf_of_the_objects_names_their_functions() -> None:
    for path in sorted(DATA.glob("*.o")):
        obj = load(path)
        assert obj.btf is not None
        names = {obj.btf.name(i) for i in obj.btf.ids_of(BtfKind.FUNC)}
        assert {sub.name for program in obj.programs for sub in program.subprogs} <= names


def test_outer_maps_are_known_by_their_types() -> None:
    obj = load(DATA / "typed_maps.o")
    outer = {spec.name for spec in obj.maps if spec.inner is not None}
    assert outer == {"by_index", "by_name"}
    assert all(
        spec.type in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
        for spec in obj.maps
        if spec.inner
    )


def test_the_sources_give_the_objects(tmp_path: Path) -> None:
    if shutil.which("clang-19") is None:
        pytest.skip("clang-19 is not installed: the committed objects can not be rebuilt")
    subprocess.run([DATA / "build.sh", tmp_path], check=True, capture_output=True, timeout=120)
    built = sorted(tmp_path.glob("*.o"))
    assert [path.name for path in built] == sorted(path.name for path in DATA.glob("*.o"))
    for path in built:
        fresh = read_elf(path.read_bytes(), path.name)
        kept = read_elf((DATA / path.name).read_bytes(), path.name)
        for section in kept.sections:
            if section.is_code or section.name in ("maps", ".maps", ".data", ".rodata"):
                other = fresh.section(section.name)
                assert other is not None
                assert bytes(other.data) == bytes(section.data), (path.name, section.name)
