"""Generated programs: we accept nothing that the running kernel refuses. `make oracle` does more.

PYBPFVM_ORACLE_SEED is the first seed. The journal and the reading of kernel logs are tested here
without a kernel.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path

import pytest

from pybpfvm import bpfsys
from pybpfvm.fuzz.capabilities import lowered_to
from pybpfvm.fuzz.kernel_verdicts import Comparison
from pybpfvm.fuzz.typed_programs import DAMAGES, TYPES, generate
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import decode, encode
from pybpfvm.isa.opcodes import AluOp
from pybpfvm.profiles.ordinary import ORDINARY
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.against import refused_pc
from pybpfvm.session.kernel_journal import Journal
from pybpfvm.verifier import transfer
from pybpfvm.verifier.domains import alu as domain
from pybpfvm.verifier.domains.scalar import Scalar
from pybpfvm.verifier.privileges.capabilities import PERFMON_HELPERS
from pybpfvm.verifier.privileges.privilege import FORMS
from pybpfvm.verifier.verdict import Rejected, Rule
from pybpfvm.verifier.verify import Options, verify
from tests.support.kernel_types import offered_helpers, variants
from tests.verifier.campaign import campaign

PROGRAMS = 300
NETWORK = ("socket_filter", "cgroup_skb", "sched_cls", "xdp", "syscall")
FIRST_SEED = int(os.environ.get("PYBPFVM_ORACLE_SEED", "1000"))
BUDGET_INSNS = 50_000


@pytest.fixture
def kernel() -> None:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.kernel_bpf
def test_nothing_is_accepted_that_the_kernel_refuses(kernel: None, tmp_path: Path) -> None:
    seeds = range(FIRST_SEED, FIRST_SEED + PROGRAMS)
    tally = campaign(seeds, tmp_path / "journal", budget_insns=BUDGET_INSNS)
    print(tally.table())
    assert not tally.looser, "\n\n".join(tally.looser)
    assert tally.all[Comparison.AGREED] >= PROGRAMS * 0.97, tally.table()
    # Half and half, or little is compared; and refused for the same reason, not for some reason.
    assert 0.35 < tally.accepted / PROGRAMS < 0.65
    assert tally.places[True] >= 0.97 * tally.places.total()


@pytest.mark.kernel_bpf
def test_nothing_is_accepted_that_the_kernel_refuses_to_loaders_without_perfmon(
    kernel: None, tmp_path: Path
) -> None:
    seeds = range(FIRST_SEED, FIRST_SEED + PROGRAMS // 3)
    tally = campaign(
        seeds, tmp_path / "journal", budget_insns=BUDGET_INSNS, caps=FORMS["bpf"], types=NETWORK
    )
    assert not tally.looser, "\n\n".join(tally.looser)
    total = tally.all.total()
    assert tally.all[Comparison.AGREED] >= total * 0.97, tally.table()
    assert 0.15 < tally.accepted / total < 0.65
    assert tally.places[True] >= 0.95 * tally.places.total()


@pytest.mark.kernel_bpf
def test_helpers_that_the_kernel_keeps_from_loaders_without_perfmon(kernel: None) -> None:
    kept: set[str] = set()
    for variant in variants():
        if variant.profile.name in NETWORK:
            offered = offered_helpers(variant)
            with lowered_to(FORMS["bpf"]):
                kept |= offered - offered_helpers(variant)
    assert kept == PERFMON_HELPERS


@pytest.mark.kernel_bpf
def test_types_that_the_kernel_keeps_from_loaders_without_perfmon(kernel: None) -> None:
    code = encode(assemble("r0 = 0\nexit", where="trivial"))
    for variant in variants():
        program = Program("trivial", variant.section, decode(code), license="GPL")
        obj = BpfObject("trivial", "", (program,), ())
        with lowered_to(FORMS["bpf"]), variant.load(code) as loaded:
            refused = loaded.errno == errno.EPERM
        ours = verify(program, obj, variant.profile, options=Options(caps=FORMS["bpf"]))
        ours_refuse = isinstance(ours, Rejected) and ours.errors[0].rule is Rule.CAPABILITY
        assert refused == ours_refuse, variant.id


@pytest.mark.kernel_bpf
def test_a_verifier_that_is_too_trusting_is_noticed(
    kernel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = domain.transfer_of

    def transfer_of(op: AluOp, width: int, *, as_kernel: bool = False) -> object:
        if op is AluOp.AND:
            return lambda a, b: Scalar.const(0)
        return right(op, width, as_kernel=as_kernel)

    monkeypatch.setattr(transfer, "transfer_of", transfer_of)
    assert campaign(range(100), budget_insns=BUDGET_INSNS).looser


def test_programs_are_of_all_types_and_damages_and_can_be_encoded() -> None:
    types: Counter[str] = Counter()
    damages: Counter[str] = Counter()
    for seed in range(PROGRAMS):
        made = generate(seed)
        insns = made.program.insns
        assert decode(encode(insns)) == insns
        types[made.profile.name] += 1
        damages.update(made.damage.split(" + "))
    assert set(types) == set(TYPES)
    assert set(damages) >= set(DAMAGES)


def test_programs_of_all_types_have_what_their_types_have() -> None:
    kinds: Counter[tuple[str, int]] = Counter()
    features: Counter[str] = Counter()
    for seed in range(PROGRAMS):
        made = generate(seed, all_types=True)
        assert decode(encode(made.program.insns)) == made.program.insns
        kinds[made.profile.name, made.profile.attach_type] += 1
        features.update(made.features)
    assert {name for name, _ in kinds} == {profile.name for profile in ORDINARY}
    assert len(kinds) > len(ORDINARY)
    assert features["helper of the type"] > 50
    assert features["context field"] > 50
    assert features["socket"] > 20
    assert features["socket reference"] > 5


def test_the_same_seed_gives_the_same_program() -> None:
    assert [generate(seed).program for seed in range(20)] == [
        generate(seed).program for seed in range(20)
    ]


def test_a_program_that_was_not_survived_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Journal(path)
    assert not first.lost
    first.begin("aa", 1, b"\x95")
    first.survived("aa")
    first.begin("bb", 6, b"\xb7")  # and here the machine goes down
    first.close()
    for _ in range(2):  # it is remembered by all runs to come, not only the next
        again = Journal(path)
        assert again.lost == {"bb"}
        again.begin("cc", 1, b"\x95")
        again.survived("cc")
        again.close()
    assert "try bb 6 b7" in path.read_text(encoding="ascii")


def test_a_journal_cut_short_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"try aa 1 95\nok aa\ntry bb 1 95\ntry\nok\n\xff\xfetry cc")
    journal = Journal(path)
    journal.close()
    assert journal.lost == {"bb"}


@pytest.mark.parametrize(
    ("log", "pc"),
    [
        ("0: R1=ctx() R10=fp0\n0: (b7) r1 = 10 ; R1=10\n1: (79) r0 = *(u64 *)(r1 +0)\nR1 bad\n", 1),
        ("jump out of range from insn 1 to 7\nprocessed 0 insns (limit 1000000)\n", 1),
        ("unreachable insn 12\nprocessed 0 insns max_states_per_insn 0\n", 12),
        ("last insn is not an exit or jmp\nprocessed 0 insns max_states_per_insn 0\n", None),
        ("", None),
    ],
)
def test_place_in_a_log(log: str, pc: int | None) -> None:
    assert refused_pc(log) == pc
