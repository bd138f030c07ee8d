"""What objects with a loop hold beside it: abi/iouring-bpf-upstream, sections 4.1, 4.3 and 4.6."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from pybpfvm.errors import InputError, LoadRejected, UnsupportedError
from pybpfvm.objectfile import detect_abi, read_object
from pybpfvm.session import LoopRing, Machine
from pybpfvm.session.judging import JudgeRequest, judge_case, read_cases
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Rejected, Rule

HERE = Path(__file__).parent
OBJECT = HERE / "loop_object.bpf.o"


def test_detection_looks_at_all_forms_of_the_struct() -> None:
    names = [profile.name for profile in detect_abi(read_object(OBJECT)).candidates]
    assert names == ["loop-7.1", "loop-7.2"]


@pytest.mark.parametrize("abi", [None, "loop-7.1", "loop-7.2"])
def test_each_program_is_judged_by_what_it_is(abi: str | None) -> None:
    request = JudgeRequest(abi=abi, witness_runs=0)
    found = read_cases(OBJECT, request)
    verdicts = {case.program.name: judge_case(found.obj, case, request) for case in found.cases}
    for name in ("plain", "asked", "beside"):
        assert isinstance(verdicts[name], Accepted), name
    packet = verdicts["packet"]
    assert isinstance(packet, Rejected)
    assert packet.errors[0].rule is Rule.CTX_ACCESS
    unnamed = verdicts["unnamed"]
    assert isinstance(unnamed, Inconclusive)
    assert unnamed.finding.feature == "a struct_ops program that no struct of callbacks names"


def test_what_may_be_in_such_a_kernel_is_not_called_missing() -> None:
    """Only the functions of rings are all known; a weak one of others may well be there."""
    request = JudgeRequest(abi="loop-7.2", witness_runs=0)
    found = read_cases(OBJECT, request)
    for name in ("protected", "guarded"):
        assert "bpf_rcu_read_lock, which the built-in types of loop-7.2" in found.obj.left_out[name]
        assert "--btf" in found.obj.left_out[name]
    case = next(one for one in found.cases if one.program.name == "of_later")
    verdict = judge_case(found.obj, case, request)
    assert isinstance(verdict, Rejected)
    assert verdict.errors[0].rule is Rule.UNKNOWN_HELPER


@pytest.mark.parametrize(
    ("name", "steps"), [("by_update", 1), ("by_link", 1), ("if_asked", 10), ("wider", 1)]
)
def test_its_structs_attach(name: str, steps: int) -> None:
    with Machine() as machine:
        obj = machine.load(OBJECT, abi="loop-7.2")
        with LoopRing(8, machine=machine) as ring, ring.attach(obj, name):
            assert ring.enter() == 0
        assert obj.globals["steps"] == steps


def test_a_member_of_another_size_is_not_loaded() -> None:
    with Machine() as machine:
        obj = machine.load(OBJECT, abi="loop-7.2")
        with LoopRing(8, machine=machine) as ring, pytest.raises(LoadRejected) as refused:
            ring.attach(obj, "other")
    assert refused.value.errno == errno.EOPNOTSUPP
    assert "other.ring_fd is of another type or size" in str(refused.value)


def test_a_big_endian_object_is_judged_and_gets_onto_no_ring() -> None:
    path = HERE / "loop_object.be.bpf.o"
    with Machine() as machine:
        obj = machine.load(path, abi="loop-7.2")
        assert isinstance(obj["plain"].verdict(), Accepted)
        with LoopRing(8, machine=machine) as ring, pytest.raises(UnsupportedError, match="big-end"):
            ring.attach(obj, "by_link")


def test_a_program_of_another_type_is_no_callback() -> None:
    old, section = b"?struct_ops.s/asked", b"xdp/not/there/asked"
    with pytest.raises(InputError, match="'asked', whose section 'xdp/not/there/asked' says") as no:
        read_object(OBJECT.read_bytes().replace(old, section))
    assert no.value.remedy == 'put it into SEC("struct_ops/asked")'


def test_a_program_is_for_one_member_only() -> None:
    """What it is given hangs on the member: the data and an SQE, or the data alone."""
    data = (HERE.parent / "data/dialects/op.82.bpf.o").read_bytes()
    obj = read_object(data)
    prep, issue = (obj.struct_ops[0].programs[member] for member in ("prep", "issue"))
    assert prep != issue
    with pytest.raises(InputError, match=f"{prep!r}, which stands for uring_bpf_ops/"):
        read_object(_standing_for_both(data, prep.encode(), issue.encode()))


def _standing_for_both(data: bytes, one: bytes, other: bytes) -> bytes:
    """The relocations of the members that name `other` name `one`."""
    elf = ELFFile(io.BytesIO(data))
    table = elf.get_section_by_name(".symtab")
    places = elf.get_section_by_name(".rel.struct_ops.link")
    assert isinstance(table, SymbolTableSection)
    assert isinstance(places, RelocationSection)
    numbers = {symbol.name: number for number, symbol in enumerate(table.iter_symbols())}
    changed = bytearray(data)
    for number, place in enumerate(places.iter_relocations()):
        if place["r_info_sym"] == numbers[other.decode()]:
            at = places["sh_offset"] + number * places["sh_entsize"] + 12  # r_info's upper half
            changed[at : at + 4] = numbers[one.decode()].to_bytes(4, "little")
    return bytes(changed)
