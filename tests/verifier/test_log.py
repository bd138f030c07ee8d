"""The kernel log, compared with what the running kernel prints of the same programs."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher

import pytest

from pybpfvm import bpfsys
from pybpfvm.btf.types import Btf, Func, FuncLinkage, FuncProto, Int, Param
from pybpfvm.btf.write import write_btf
from pybpfvm.fuzz.kernel_verdicts import func_info
from pybpfvm.fuzz.lines import subprogs_of
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import encode
from pybpfvm.isa.opcodes import AluOp
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.base import Sleepable
from pybpfvm.program import BpfObject, Program, SourceLine, Subprog
from pybpfvm.verifier.domains.alu import alu
from pybpfvm.verifier.domains.scalar import Scalar
from pybpfvm.verifier.log import KernelLog
from pybpfvm.verifier.notation import format_reg, number
from pybpfvm.verifier.states.regstate import Pointer, Reg, RegType, Shift, scalar
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Verdict
from pybpfvm.verifier.verify import Options, verify
from tests.support.verifier_btf import BTF
from tests.support.verifier_cases import Case, common_maps, corpus
from tests.support.verifier_logs import STATISTICS, Entry, normalised, read

BUDGET_INSNS = 2_000  # programs that take more are left out: their logs are long and tell no more
LEVELS = (1, 2)
# How much of the kernel's lines must be ours, word for word, once addresses and ids are gone.
LEAST_SAME_LINES = 0.9
LEAST_SAME_PCS = 0.93
LEAST_SAME_ERRORS = 0.8


def logged(
    program: Program, obj: BpfObject, profile: str, level: int = 2, **more: int
) -> tuple[str, Verdict]:
    log = KernelLog(program, obj, PROFILES[profile], level=level, **more)
    options = Options(observer=log, budget_insns=BUDGET_INSNS)
    verdict = verify(program, obj, PROFILES[profile], options=options)
    return log.text(verdict), verdict


def made(text: str, lines: dict[int, SourceLine] | None = None) -> tuple[Program, BpfObject]:
    insns = assemble(text, where="test")
    subprogs = subprogs_of(insns)
    program = Program("p", "socket", insns, subprogs=subprogs, lines=lines or {}, license="GPL")
    return program, BpfObject("test.o", "", (program,), (), license="GPL")


class Kernel:
    """The running kernel with the maps of the corpus."""

    def __init__(self) -> None:
        loaded = bpfsys.btf_load(write_btf(BTF))
        assert loaded.fd is not None
        self.btf = loaded.fd
        self.maps = [
            bpfsys.map_create(
                spec.type,
                spec.key_size,
                spec.value_size,
                spec.max_entries,
                flags=spec.flags,
                name=spec.name,
                btf_fd=self.btf.fileno() if spec.btf_value_type_id else 0,
                btf_key_type_id=spec.btf_key_type_id,
                btf_value_type_id=spec.btf_value_type_id,
                map_extra=spec.map_extra,
            )
            for spec in common_maps()
        ]

    def log(self, case: Case, level: int) -> tuple[bool, str]:
        sleepable = case.profile.sleepable is not Sleepable.NEVER
        types = func_info(case.program.subprogs)
        with bpfsys.prog_load(
            encode(case.program.insns),
            prog_type=case.profile.prog_type,
            license=case.program.license,
            flags=bpfsys.BPF_F_SLEEPABLE if sleepable else 0,
            map_fds=[one.fileno() for one in self.maps],
            log_level=level,
            btf_fd=self.btf.fileno() if types else 0,
            func_info=types,
        ) as loaded:
            return loaded.accepted, loaded.log


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)
    return Kernel()


@pytest.mark.kernel_bpf
@pytest.mark.parametrize("level", LEVELS)
def test_the_kernel_prints_the_same(kernel: Kernel, level: int) -> None:
    counted: Counter[str] = Counter()
    strange = []
    for case in corpus():
        if case.kernel.verdict == "" or case.expected.verdict == "unsupported" or not case.runnable:
            continue
        text, verdict = logged(case.program, case.object, case.profile.name, level)
        if isinstance(verdict, Inconclusive):
            continue
        accepted, said = kernel.log(case, level)
        if accepted != isinstance(verdict, Accepted):
            continue
        theirs, ours = normalised(read(said)), normalised(read(text))
        counted["programs"] += 1
        counted["lines"] += len(theirs)
        counted["same lines"] += matching(theirs, ours)
        if pcs(theirs) == pcs(ours):
            counted["same pcs"] += 1
        else:
            strange.append(f"{case.id}: {pcs(theirs)} and ours {pcs(ours)}")
        if not accepted:
            counted["errors"] += 1
            counted["same errors"] += message(theirs) == message(ours)
    assert counted["programs"] > 300, counted
    assert counted["same lines"] >= LEAST_SAME_LINES * counted["lines"], counted
    assert counted["same pcs"] >= LEAST_SAME_PCS * counted["programs"], (counted, strange)
    assert counted["same errors"] >= LEAST_SAME_ERRORS * counted["errors"], counted


def matching(theirs: list[Entry], ours: list[Entry]) -> int:
    """Lines of the kernel's that stand in ours, in the same order."""
    blocks = SequenceMatcher(None, theirs, ours, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks)


def pcs(entries: list[Entry]) -> list[int]:
    return [entry.pc for entry in entries if entry.kind == "insn"]


def message(entries: list[Entry]) -> str:
    return next((entry.text for entry in entries if entry.kind == "message"), "")


def test_every_log_of_the_corpus_is_readable() -> None:
    """By the grammar that reads the kernel's."""
    for case in (case for case in corpus() if case.runnable):
        for level in LEVELS:
            text, verdict = logged(case.program, case.object, case.profile.name, level)
            entries = read(text)
            assert [entry.kind for entry in entries].count("processed") == 1, case.id
            assert entries[-1].kind == "processed", case.id
            if not isinstance(verdict, Accepted):
                assert message(entries), case.id


def test_level_2_tells_all_paths_and_level_1_the_one_that_failed() -> None:
    text = """
      r7 = *(u32 *)(r1 + 0)
      r0 = 0
      if r7 == 0 goto other
      exit
    other:
      r0 = r3
      exit
    """
    whole, _ = logged(*made(text), "socket_filter")
    assert whole.replace("=P", "=").splitlines()[:-1] == [
        "func#0 @0",
        "0: R1=ctx() R10=fp0",
        "0: (61) r7 = *(u32 *)(r1 +0)          ; R1=ctx() R7=scalar(smin=0,smax=umax=0xffffffff,"
        "var_off=(0x0; 0xffffffff))",
        "1: (b7) r0 = 0                        ; R0=0",
        "2: (15) if r7 == 0x0 goto pc+1        ; R7=scalar(smin=umin=umin32=1,smax=umax=0xffffffff"
        ",var_off=(0x0; 0xffffffff))",
        "3: (95) exit",
        "",
        "from 2 to 4: R0=0 R1=ctx() R7=0 R10=fp0",
        "4: R0=0 R1=ctx() R7=0 R10=fp0",
        "4: (bf) r0 = r3",
        "R3 !read_ok",
    ]
    path, _ = logged(*made(text), "socket_filter", 1)
    assert "from 2 to 4" not in path
    assert "goto pc+1 4: R0=0 R1=ctx() R7=0 R10=fp0" in path
    assert "3: (95) exit" not in path
    assert path.splitlines()[-2] == "R3 !read_ok"


def test_of_an_accepted_program_level_1_keeps_the_statistics() -> None:
    text, verdict = logged(*made("r0 = 0\nexit"), "socket_filter", 1)
    assert isinstance(verdict, Accepted)
    assert STATISTICS.match(text)
    assert text.startswith("processed 2 insns ")


def test_source_lines_are_told_once_and_can_not_forge_lines() -> None:
    lines = {
        0: SourceLine("/home/me/src/a.bpf.c", 7, 1, "\tint x = 1;\n0: (95) exit"),
        1: SourceLine("/home/me/src/a.bpf.c", 7, 9, "\tint x = 1;\n0: (95) exit"),
        2: SourceLine("/home/me/src/a.bpf.c", 8, 1, "return 0;"),
    }
    text, _ = logged(*made("r0 = 1\nr0 = 0\nexit", lines), "socket_filter")
    assert text.splitlines()[2] == "; int x = 1;?0: (95) exit @ a.bpf.c:7"
    assert [entry.text for entry in read(text) if entry.kind == "source"] == [
        "int x = 1;?0: (95) exit",
        "return 0;",
    ]


def test_calls_show_both_frames() -> None:
    text, _ = logged(*made("r6 = 1\ncall sub\nexit\nsub:\nr0 = r1\nr0 = 2\nexit"), "socket_filter")
    for expected in (
        "1: (85) call pc+1\ncaller:\n R6=1 R10=fp0\ncallee:\n frame1: R1=ctx() R10=fp0\n"
        "3: frame1: R1=ctx() R10=fp0\n",
        "returning from callee:\n frame1: R0=2 R1=ctx() R10=fp0\nto caller at 2:\n R0=2 R6=1 "
        "R10=fp0\n\nfrom 5 to 2: R0=2 R6=1 R10=fp0\n2: (95) exit\n",
    ):
        assert expected in text.replace("=P", "="), text


def test_a_long_log_keeps_its_end_and_says_so() -> None:
    program = made("\n".join([*["r0 = 1"] * 500, "exit"]))
    whole, _ = logged(*program, "socket_filter")
    short, _ = logged(*program, "socket_filter", limit=4_000)
    first, rest = short.split("\n", 1)
    assert first.startswith("[")
    assert "characters are missing here" in first
    assert whole.endswith(rest.removesuffix("\n").rpartition("\n")[2] + "\n")
    assert 3_000 < len(rest) <= 4_200
    # At level 1, what is taken back may have been dropped already.
    branches = "r7 = *(u32 *)(r1 + 0)\n" + "\n".join(
        f"if r7 == {n} goto out\nr0 = {n}" for n in range(60)
    )
    text, verdict = logged(
        *made(f"{branches}\nr0 = 0\nexit\nout:\nr0 = r5\nexit"), "socket_filter", 1, limit=500
    )
    assert "R5 !read_ok" in text, verdict
    assert len(text) < 900


def test_global_functions_are_told_apart() -> None:
    insns = assemble("r1 = 4\ncall twice\nexit\ntwice:\nr0 = 2\nexit", where="test")
    btf = Btf.of(
        [Int("int", 4, 32), FuncProto(1, (Param("x", 1),)), Func("twice", 2, FuncLinkage.GLOBAL)]
    )
    subprogs = (Subprog("p", 0, 3), Subprog("twice", 3, 5, is_global=True, btf_type_id=3))
    program = Program("p", "socket", insns, subprogs=subprogs, license="GPL")
    obj = BpfObject("test.o", "", (program,), (), license="GPL", btf=btf)
    text, verdict = logged(program, obj, "socket_filter")
    assert isinstance(verdict, Accepted)
    assert "Func#1 ('twice') is global and assumed valid.\n2: R0=scalar()\n" in text
    assert "Validating twice() func#1...\n3: R1=scalar() R10=fp0\n" in text
    assert text.splitlines()[-2].startswith("Func#1 ('twice') is safe for any args")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-1, "-1"),
        (32767, "32767"),
        (32768, "0x8000"),
        (-32768, "-32768"),
        (-32769, "0xffffffffffff7fff"),
        (0xFFFF, "0xffff"),
    ],
)
def test_numbers(value: int, text: str) -> None:
    assert number(value) == text


def test_registers() -> None:
    byte = "smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff)"
    assert format_reg(scalar(Scalar.range(0, 255), 0)) == f"scalar({byte})"
    sum_ = Reg(RegType.SCALAR_VALUE, Scalar.UNKNOWN, 0, (), 3, Shift(4, 64))
    assert format_reg(sum_) == "scalar(id=3+4)"
    # Unsigned numbers are decimal a bit longer; a large signed low half is shown without its sign.
    unsigned = Scalar.range(0x8000, 0xFFFF_FFFF_FFFF_0000)
    assert format_reg(scalar(unsigned, 0)) == "scalar(umin=32768,umax=0xffffffffffff0000)"
    low = alu(AluOp.MOV, 32, Scalar.UNKNOWN, Scalar.range(0x8000_0008, 0x8000_000F))
    assert format_reg(scalar(low, 0)) == (
        "scalar(smin=umin=smin32=umin32=0x80000008,smax=umax=smax32=umax32=0x8000000f,"
        "var_off=(0x80000008; 0x7))"
    )
    table = common_maps()[0]
    value = Pointer(RegType.PTR_TO_MAP_VALUE, 0, off=8, var=Scalar.range(0, 255), map=table)
    sizes = f"map={table.name},ks={table.key_size},vs={table.value_size}"
    assert format_reg(value) == f"map_value({sizes},off=8,{byte})"
    stack = Pointer(RegType.PTR_TO_STACK, 0, off=-8)
    assert (format_reg(stack), format_reg(stack, 1)) == ("fp-8", "fp[0]-8")
    packet = Pointer(RegType.PTR_TO_PACKET, 0, off=2, range=14)
    assert format_reg(packet) == "pkt(off=2,r=14)"
