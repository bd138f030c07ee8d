"""What the forward pass over a program finds, and that it says unknown otherwise."""

from __future__ import annotations

from pybpfvm.facts import program_facts
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.opcodes import Kind
from pybpfvm.profiles.detect import CallSite, CtxAccess, ProgramFacts
from pybpfvm.program import Program, Subprog


def facts(text: str) -> ProgramFacts:
    insns = assemble(text)
    subprogs = [Subprog("main", 0, 0)]
    pc = 0
    for insn in insns:
        if insn.spec.kind is Kind.CALL_LOCAL:
            subprogs.append(Subprog("callee", pc + 1 + insn.imm, 0))
        pc += insn.slots
    return program_facts(Program("p", "iouring", insns, tuple(subprogs)))


def test_constant_return_values_join_over_paths() -> None:
    found = facts(
        """
        r2 = *(u64 *)(r1 + 0)
        r0 = 0
        if r2 == 0 goto out
        r0 = 1
        out:
        exit
        """
    )
    assert found.returns == frozenset({0, 1})
    assert found.ctx == (CtxAccess(0, 0, 8, "load"),)


def test_a_value_from_memory_makes_the_return_unknown() -> None:
    assert facts("r0 = *(u64 *)(r1 + 0)\nexit").returns is None


def test_loop_counter_widens_to_unknown_and_the_pass_ends() -> None:
    found = facts(
        """
        r0 = 0
        again:
        r0 += 1
        if r0 != 1000 goto again
        exit
        """
    )
    assert found.returns is None


def test_the_context_is_followed_through_moves_spills_and_steps() -> None:
    found = facts(
        """
        *(u64 *)(r10 - 8) = r1
        r6 = r1
        r6 += 8
        r2 = 1
        *(u32 *)(r6 + 0) = r2
        r3 = *(u64 *)(r10 - 8)
        *(u32 *)(r3 + 12) = r2
        r0 = 0
        exit
        """
    )
    assert [(a.offset, a.size, a.form) for a in found.ctx] == [(8, 4, "store"), (12, 4, "store")]
    assert all(access.stored == frozenset({1}) for access in found.ctx)


def test_an_overwritten_spill_is_forgotten() -> None:
    found = facts(
        """
        *(u64 *)(r10 - 8) = r1
        r2 = 0
        *(u32 *)(r10 - 4) = r2
        r3 = *(u64 *)(r10 - 8)
        r0 = *(u64 *)(r3 + 0)
        r0 = 0
        exit
        """
    )
    assert found.ctx == ()


def test_call_sites_carry_context_and_constants() -> None:
    found = facts(
        """
        r2 = r10
        r2 += -64
        r3 = 64
        call 164
        r0 = 0
        exit
        """
    )
    assert found.calls == (CallSite(3, 164, True, (None, frozenset({64}), None, None)),)


def test_arguments_and_results_pass_through_subprograms() -> None:
    found = facts(
        """
        r2 = 7
        call pc+1
        exit
        r3 = *(u64 *)(r1 + 0)
        r0 = r2
        exit
        """
    )
    assert found.returns == frozenset({7})
    assert [a.pc for a in found.ctx] == [3]


def test_dead_code_says_nothing() -> None:
    found = facts("r0 = 0\ngoto out\nr0 = 5\ncall 99\nout:\nexit")
    assert found.returns == frozenset({0})
    assert found.calls == ()
