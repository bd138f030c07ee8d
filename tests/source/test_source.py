"""What clang's DWARF says of the examples: every variable at every pc is somewhere, or it is said
why not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfvm.errors import InputError
from pybpfvm.loader.elf import read_elf
from pybpfvm.objectfile import read_object
from pybpfvm.program import BpfObject
from pybpfvm.source.dwarf import read_dwarf
from pybpfvm.source.info import DebugInfo, Frame, debug_info
from pybpfvm.source.location import (
    OPTIMISED_OUT,
    Absent,
    InMemory,
    InRegister,
    IsValue,
    Location,
    Machine,
    Ops,
    Pieces,
    locate,
)

ROOT = Path(__file__).resolve().parents[2]
OBJECTS = sorted(ROOT.glob("examples/*/*.bpf.o"))
PINGPONG = ROOT / "examples/03_pingpong/prog.v3.bpf.o"
CLANG = shutil.which("clang-19")
MACHINE = Machine(
    [*range(0, 110, 11), 1000],
    32,
    lambda addr, size: 7,
    lambda addr: 105 if addr == 5 else None,
)


@cache
def known(path: Path) -> tuple[BpfObject, DebugInfo]:
    obj = read_object(path)
    return obj, debug_info(obj)


def line_of(path: Path, text: str) -> int:
    """The number of the only line with this text in it."""
    lines = path.read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if text in line]
    return number


def test_there_are_objects() -> None:
    assert len(OBJECTS) > 90


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_variable_at_every_pc_is_somewhere_or_optimised_out(path: Path) -> None:
    obj, info = known(path)
    seen = 0
    for program in obj.programs:
        for pc in range(program.slots):
            assert info.frames(program, pc)
            for local in info.variables(program, pc):
                assert local.btf.size(local.type_id) > 0
                place = info.locate(
                    local, program, pc, [1 << 40] * 11, lambda addr, size: 7, lambda name, at: at
                )
                parts = [one for one, _ in place.parts] if isinstance(place, Pieces) else [place]
                reasons = [one.reason for one in parts if isinstance(one, Absent)]
                assert set(reasons) <= {OPTIMISED_OUT.reason}
                seen += 1
    assert seen


@pytest.mark.parametrize("path", OBJECTS[::9], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_lines_of_dwarf_and_of_btf_agree(path: Path) -> None:
    obj, info = known(path)
    for program in obj.programs:
        without = type(program)(
            program.name, program.section, program.insns, program.subprogs, {}, program.license
        )
        of_dwarf = info.lines(without)
        starts = {sub.start for sub in program.subprogs}  # there BTF has the function's own line
        assert set(program.lines) <= set(of_dwarf)
        for pc, line in program.lines.items():
            if pc in starts:
                continue
            assert of_dwarf[pc].line == line.line
            assert Path(of_dwarf[pc].file).name == Path(line.file).name


def test_lines_lead_to_instructions_and_back() -> None:
    obj, info = known(PINGPONG)
    program = obj.program("player")
    line = line_of(PINGPONG.with_name("prog.bpf.c"), "me.hits++")
    pcs = info.pcs_of(program, "prog.bpf.c", line)
    assert pcs
    assert {info.lines(program)[pc].line for pc in pcs} == {line}
    assert info.pcs_of(program, "03_pingpong/prog.bpf.c", line) == pcs
    assert info.pcs_of(program, "g.bpf.c", line) == ()
    assert info.pcs_of(program, "prog.bpf.c", 1) == ()


def test_inlined_functions_are_frames_of_their_own() -> None:
    obj, info = known(PINGPONG)
    program = obj.program("player")
    call = line_of(PINGPONG.with_name("prog.bpf.c"), "if (reap(ctx")
    frames = {info.frames(program, pc) for pc in range(program.slots)}
    assert (Frame("player", 0),) in frames
    assert (Frame("reap", call), Frame("player", 0)) in frames
    inside = next(pc for pc in range(program.slots) if len(info.frames(program, pc)) == 2)
    names = [(one.name, one.function) for one in info.variables(program, inside)]
    assert ("cqe", "reap") in names
    assert names.index(("ctx", "reap")) < names.index(("ctx", "player"))


@pytest.mark.skipif(CLANG is None, reason="no clang-19 on this machine")
@pytest.mark.parametrize("name", ["03_pingpong", "22_parser", "23_proxy", "11_copy"])
def test_frames_have_the_size_that_clang_says(name: str, tmp_path: Path) -> None:
    assert CLANG is not None
    obj, info = known(ROOT / f"examples/{name}/prog.v3.bpf.o")
    options = "-target bpf -O2 -g -mcpu=v3 -std=gnu17 -DIOURING_PROFILE=3 -Wframe-larger-than=0"
    source = f"examples/{name}/prog.bpf.c"
    done = subprocess.run(
        [CLANG, *options.split(), "-Iexamples/include", "-c", source, "-o", tmp_path / "x.o"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    said = re.findall(r"stack frame size \((\d+)\).*'(\w+)'", done.stderr)
    sizes = {function: int(size) for size, function in said}
    for program in obj.programs:
        for sub in program.subprogs:
            assert info.frame_bytes(program, sub.start) == sizes.get(sub.name, 0), sub.name


# --- what is missing ------------------------------------------------------------------------------


def test_without_pyelftools_btf_alone_tells_of_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "elftools.elf.elffile", None)
    obj = read_object(PINGPONG)
    info = debug_info(obj)
    program = obj.program("player")
    (ctx,) = info.variables(program, 0)
    assert "pip install 'pybpfvm[debug]'" in info.why_no_dwarf
    assert (ctx.name, ctx.parameter) == ("ctx", True)

    def at(pc: int) -> Location:
        return info.locate(ctx, program, pc, [0] * 11, lambda a, n: None, lambda s, o: None)

    assert at(0) == InRegister(1)
    assert at(1) == Absent(info.why_no_dwarf)
    assert info.lines(program)


def test_a_file_that_changed_or_is_gone_is_not_read(tmp_path: Path) -> None:
    obj = read_object(PINGPONG)
    other = tmp_path / "other.o"
    assert "gone" in debug_info(obj, other).why_no_dwarf
    other.write_bytes(PINGPONG.read_bytes() + b"\0")
    assert "changed" in debug_info(obj, other).why_no_dwarf


def test_an_object_without_dwarf_is_no_error() -> None:
    obj = read_object(next(iter(sorted(ROOT.glob("tests/loader/data/*.o")))))
    data = bytearray(PINGPONG.read_bytes().replace(b".debug_info\0", b".bedug_info\0"))
    assert read_dwarf(bytes(data), "x.o") is None
    assert debug_info(obj).why_no_dwarf == ""


def test_frames_of_other_compilers_are_not_guessed_at() -> None:
    raw = PINGPONG.read_bytes().replace(b"clang version 19", b"gnats version 19")
    dwarf = read_dwarf(raw, "x.o")
    assert dwarf is not None
    (player,) = dwarf.functions
    me = next(one for one in player.variables if one.name == "me")
    place = locate(me.ops_at(player.spans[0].start), MACHINE)
    assert isinstance(place, Absent)
    assert "the frame of another compiler than clang" in place.reason


@given(st.data())
def test_broken_dwarf_is_read_or_refused(data: st.DataObject) -> None:
    raw = bytearray(PINGPONG.read_bytes())
    elf = read_elf(bytes(raw), "x.o")
    sections = [one for one in elf.sections if ".debug" in one.name and one.size]
    for _ in range(data.draw(st.integers(1, 4))):
        section = data.draw(st.sampled_from(sections))
        at = section.offset + data.draw(st.integers(0, section.size - 1))
        raw[at] = data.draw(st.integers(0, 255))
    try:
        found = read_dwarf(bytes(raw), "x.o")
    except InputError as error:
        refused = error
    else:
        assert found is not None
        return
    assert refused.where.startswith("x.o")
    assert "\n" not in str(refused)


# --- the machine of locations ---------------------------------------------------------------------


def op(name: str, *args: int) -> tuple[str, tuple[int, ...]]:
    return f"DW_OP_{name}", args


@pytest.mark.parametrize(
    ("ops", "place"),
    [
        ((), OPTIMISED_OUT),
        ((op("reg6"),), InRegister(6)),
        ((op("reg11"),), Absent("in register 11")),
        ((op("fbreg", 16),), InMemory(1000 - 32 + 16)),
        ((op("breg10", 0),), InMemory(1000 - 32)),
        ((op("fbreg", -16),), InMemory(1000 - 16)),
        ((op("breg6", -4),), InMemory(62)),
        ((op("fbreg", 8), op("stack_value")), IsValue(976)),
        ((op("lit0"), op("not"), op("stack_value")), IsValue((1 << 64) - 1)),
        ((op("consts", -5), op("consts", 2), op("div"), op("stack_value")), IsValue(2**64 - 2)),
        ((op("breg6", 0), op("lit0"), op("div")), Absent("described by a division by zero")),
        ((op("breg6", 0), op("deref"), op("lit3"), op("minus")), InMemory(4)),
        ((op("consts", 511), op("convert", 8, 1), op("stack_value")), IsValue(2**64 - 1)),
        ((op("consts", 511), op("convert", 8, 0), op("stack_value")), IsValue(255)),
        ((op("addr", 5),), InMemory(105)),
        ((op("addr", 6),), Absent("in a section that has no memory")),
        ((op("stack_value"),), Absent("its description is broken")),
        (
            (op("form_tls_address"),),
            Absent("described by DW_OP_form_tls_address, which this version does not know"),
        ),
        (
            (
                op("reg1"),
                op("piece", 4),
                op("piece", 2),
                op("lit7"),
                op("stack_value"),
                op("piece", 8),
            ),
            Pieces(((InRegister(1), 4), (OPTIMISED_OUT, 2), (IsValue(7), 8))),
        ),
    ],
)  # fmt: skip
def test_locations(ops: Ops, place: Location) -> None:
    assert locate(ops, MACHINE) == place


def test_a_location_can_not_grow_for_ever() -> None:
    machine = Machine([0] * 11, 0, lambda addr, size: 0, lambda addr: None)
    assert isinstance(locate((op("lit1"),) * 1000, machine), Absent)
    assert isinstance(locate((op("piece", 1),) * 1000, machine), Absent)
