"""The targets: their inputs are read and written alike, anything may be given to them, and what
they say is right of what is known."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pybpfvm
from pybpfvm.errors import InputError, SourceLine
from pybpfvm.fuzz import engine as engine_target
from pybpfvm.fuzz import program_inputs, ring
from pybpfvm.fuzz.campaign import fuzz
from pybpfvm.fuzz.corpus import Corpus, fewest
from pybpfvm.fuzz.engine import EngineTarget
from pybpfvm.fuzz.guards import guards
from pybpfvm.fuzz.lines import lines_of, linked
from pybpfvm.fuzz.loader import LoaderTarget
from pybpfvm.fuzz.program_inputs import STYLES, Choice
from pybpfvm.fuzz.program_runs import _AT_START, Execution, ProgramTarget
from pybpfvm.fuzz.ring import RingTarget
from pybpfvm.fuzz.target import Target
from pybpfvm.fuzz.verifier import VerifierTarget
from pybpfvm.image import Image
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import encode
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.detect import Detection
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.engines import jit_refusal
from pybpfvm.session.objects import LoadedObject
from pybpfvm.verifier import checks

EXAMPLES = Path(__file__).parents[2] / "examples"
HELLO = EXAMPLES / "01_hello/prog.v3.bpf.o"
PROGRAMS = 40
JUNK = (b"", b"\n", b"near xdp 0 0\n", b"near xdp 0 0\n1234567", b"case noise 1 1\nrun x y\n",
        b"requests 1 without\n", b"\x7fELF" + bytes(100), b"\xff" * 300)  # fmt: skip


def needs_jit() -> None:
    if jit_refusal() is not None:
        pytest.skip(str(jit_refusal()))


def hello(**options: object) -> ProgramTarget:
    needs_jit()
    return ProgramTarget(pybpfvm.load(HELLO, abi="iouring-v3"), **options)  # type: ignore[arg-type]


TARGETS: tuple[Callable[[], Target], ...] = (
    VerifierTarget,
    EngineTarget,
    LoaderTarget,
    lambda: RingTarget(kernel=False),
    hello,
)


@pytest.fixture(params=TARGETS, ids=("verifier", "engine", "loader", "ring", "program"))
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    needs_jit()
    made: Target = request.param()
    yield made
    made.close()


def test_anything_may_be_given_to_a_target(target: Target) -> None:
    for data in JUNK:
        assert target.run(data).problem is None
        target.files(data)
        assert isinstance(target.mutated(data, 1), bytes)
        assert all(isinstance(one, bytes) for one, _ in zip(target.smaller(data), range(20)))


def test_the_same_input_shows_the_same(target: Target) -> None:
    turn = target.turn(3, [], 8)
    for data, tried in turn.tried:
        again = target.run(data)
        assert (again.outcome, again.problem) == (tried.outcome, tried.problem)
        assert target.run(data) == again


@pytest.mark.parametrize("style", STYLES)
def test_programs_are_written_and_read_alike(style: str) -> None:
    choice = Choice((style,))
    for seed in range(PROGRAMS):
        made = choice.program(seed)
        assert program_inputs.read(made.data()) == made
        assert linked(lines_of(made.insns)) == made.insns
        changed = program_inputs.mutated(made.data(), seed)
        assert program_inputs.read(changed).style == style
    assert encode(made.insns) == program_inputs.files(made.data())["program.bin"]


def test_what_always_is_valid_is_accepted_and_damaged_programs_often_are() -> None:
    valid = fuzz(VerifierTarget(Choice(("valid",))), count=PROGRAMS)
    # From the second on, some are changed ones.
    assert VerifierTarget(Choice(("valid",))).run(Choice(("valid",)).program(5).data()).accepted
    assert valid.accept_rate is not None
    near = fuzz(VerifierTarget(Choice(("near",))), count=100)
    assert near.accept_rate is not None
    assert 0.2 < near.accept_rate < 0.8
    assert len(near.never("rules")) < len(near.known["rules"])
    assert not near.findings


def test_the_valid_style_is_accepted_without_exception() -> None:
    target = VerifierTarget()
    choice = Choice(("valid",))
    outcomes = {target.run(choice.program(seed).data()).outcome for seed in range(PROGRAMS)}
    assert outcomes == {"accepted"}


def test_a_feature_can_be_asked_for() -> None:
    from pybpfvm.fuzz import typed_programs

    made = Choice(("near",), "xdp", "atomic").program(11)
    assert made.profile.name == "xdp"
    assert any(insn.spec.kind.name == "ATOMIC" for insn in made.insns)
    assert "atomic" in typed_programs.generate(0).features | program_inputs.features_of(100)
    with pytest.raises(InputError, match=r"no program .* has the feature 'nothing'"):
        Choice(("near",), feature="nothing").program(0)
    with pytest.raises(InputError, match="of type 'nothing'"):
        Choice(type_name="nothing")


def test_cases_and_sequences_are_written_and_read_alike() -> None:
    case = engine_target.CaseInput("noise", 3, 4, ((1, 40), (2, 0)), ())
    code = case.case().object.programs[1].insns
    whole = engine_target.CaseInput("noise", 3, 4, ((1, 40),), ((1, code),))
    for one in (case, whole):
        assert engine_target.read(one.data()) == one
    assert whole.case().object.programs[1].insns == code
    sequence = ring.SequenceInput("requests", 9, frozenset({0, 2}))
    assert ring.read(sequence.data()) == sequence
    everything = ring.SequenceInput("requests", 9).requests()
    assert sequence.requests().steps == everything.steps[1:2] + everything.steps[3:]


# Reads a byte of the packet without a look at where it ends.
BEYOND = "r2 = *(u32 *)(r1 + 0)\nr0 = *(u8 *)(r2 + 60)\nr0 = 2\nexit"


def xdp(text: str) -> LoadedObject:
    program = Program("p", "xdp", assemble(text), license="GPL")
    obj = BpfObject("x.o", "", (program,), (), license="GPL")
    profile = PROFILES["xdp"]
    return LoadedObject(Image(obj), profile, Detection(profile, (profile,), ()))


def test_an_object_that_is_not_accepted_is_refused_unless_wanted() -> None:
    needs_jit()
    with pytest.raises(InputError, match="does not accept"):
        ProgramTarget(xdp(BEYOND))
    report = fuzz(ProgramTarget(xdp(BEYOND), unverified=True), count=1000)
    assert "ran sandboxed" in report.notes[0]
    assert list(report.findings) == ["trap/OUT_OF_BOUNDS/ldxb-1"]


def test_what_an_earlier_packet_held_is_not_read() -> None:
    needs_jit()
    reads = BEYOND.replace("r0 = 2\n", "")
    seen: list[int] = []
    target = ProgramTarget(xdp(reads), unverified=True, invariant=lambda run: seen.append(run.r0))
    start = bytes([_AT_START]) + bytes(target.size - 1)
    target._execute(start + b"\xff" * 100)  # by one of the engines only
    assert target.run(start + b"\xff" * 20).problem is None
    assert seen == [0xFF, 0]


def test_an_accepted_program_that_traps_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_jit()
    monkeypatch.setattr(checks, "check_packet", lambda *_: None)
    report = fuzz(ProgramTarget(xdp(BEYOND)), count=1000)
    (found,) = report.findings.values()
    assert found.problem.bucket == "accepted-and-traps/OUT_OF_BOUNDS/ldxb-1"
    assert len(found.data) < 100


LOCKED = (
    "r2 = *(u32 *)(r1 + 0)\nr3 = *(u32 *)(r1 + 4)\nr4 = r2\nr4 += 22\n"  # 0 to 3
    "if r4 > r3 goto +7\n"
    "r5 = *(u64 *)(r2 + 0)\nr4 = *(u64 *)(r2 + 8)\nr5 ^= r4\nr4 = 0x123456789abcdef0 ll\n"  # to 9
    "if r5 != r4 goto +1\nr0 = 1\nr0 = 2\nexit"
)


def test_a_report_says_which_branches_went_one_way_only() -> None:
    needs_jit()
    report = fuzz(ProgramTarget(xdp(LOCKED)), count=2000)
    guard, how = report.notes
    assert guard.startswith("went one way only: pc 10 `if r5 != r4 goto +0x1")
    assert guard.endswith("always taken; behind it 1 instruction was never executed")
    assert "--corpus DIR" in how
    assert "packet at" in how
    key = (0x123456789ABCDEF0).to_bytes(8, "little") + bytes(20)
    target = ProgramTarget(xdp(LOCKED))
    corpus = Corpus()
    corpus.add(bytes(target.size) + key)
    report = fuzz(target, count=2000, corpus=corpus)
    assert not report.notes
    assert not report.never("instructions")


def test_what_lies_behind_a_branch() -> None:
    insns = assemble(
        "if r1 == 0 goto +3\nif r1 == 1 goto +1\nr0 = 1\nr0 = 2\nif r2 > 3 goto -2\nr0 = 4\nexit"
    )
    program = Program("p", "xdp", insns, lines={3: SourceLine("p.c", 7, 1, "  r0 = 2;")})
    assert guards(program, range(7)) == []
    one, other = guards(program, {0, 4, 5, 6})
    assert (one.pc, one.taken, one.behind) == (0, True, frozenset({1, 2, 3}))
    assert str(one).endswith("behind it 3 instructions were never executed")
    assert (other.pc, other.taken, other.behind) == (4, False, frozenset({3}))
    (one,) = guards(program, {0, 1, 3, 4, 5, 6})
    assert (one.pc, one.taken, one.behind) == (1, True, frozenset({2}))
    assert guards(program, ()) == []


def test_numbers_that_a_program_compares_with_are_found() -> None:
    needs_jit()
    text = (
        "r2 = *(u32 *)(r1 + 0)\nr3 = *(u32 *)(r1 + 4)\nr4 = r2\nr4 += 14\n"
        "if r4 > r3 goto +4\n"
        "r5 = *(u32 *)(r2 + 4)\nif w5 != 305419896 goto +2\nr0 = 1\nexit\nr0 = 2\nexit"
    )
    target = ProgramTarget(xdp(text), invariant=lambda run: run.r0 == 2)
    report = fuzz(target, count=150_000, seconds=60, shrink_seconds=0)
    assert "invariant/it does not hold" in report.findings


def test_an_object_is_covered_and_the_engines_agree() -> None:
    report = fuzz(hello(), count=3000)
    assert report.executions == 3000
    assert not report.findings
    assert report.never("instructions") == []
    assert report.features


def test_without_coverage_nothing_is_kept() -> None:
    report = fuzz(hello(coverage=False), count=500)
    assert not report.features
    assert report.corpus == 0


def _answers_one(run: Execution) -> str | None:
    return None if run.r0 == 1 else "the program answers 1"


def test_an_invariant_and_a_host_function_of_the_callers(tmp_path: Path) -> None:
    seen: list[int] = []

    def copy(dst: int, size: int, src: int, _: int, __: int) -> int:
        seen.append(size)
        return 0

    name = next(n for n in _helper_names(hello()) if "copy_from_user" in n)
    target = hello(invariant=_answers_one, helpers={name: copy})
    report = fuzz(target, count=200, out=tmp_path)
    assert seen
    (found,) = report.findings.values()
    assert found.problem.message == "the invariant: the program answers 1"
    assert (tmp_path / "engine-invariant-the-program-answers-1" / "finding.txt").exists()
    with pytest.raises(InputError, match="no helper is called 'nobody'"):
        hello(helpers={"nobody": copy})


def _helper_names(target: ProgramTarget) -> list[str]:
    names = [row.name for row in target.helpers.values()]
    target.close()
    return names


def test_a_corpus_of_an_object_is_made_smaller() -> None:
    target = hello()
    corpus = Corpus()
    for number in range(8):
        corpus.add(struct.pack("<Q", number) + bytes(target.size))
    kept = fewest(target, corpus.entries)
    assert 1 <= len(kept) <= 2
    covered: set[object] = set()
    for data in corpus.entries:
        covered |= target.run(data).features
    assert covered == {one for data in kept for one in target.run(data).features}
    target.close()
