"""Global functions: which are called, and what calling one does beside its arguments (`params`)."""

from __future__ import annotations

from pybpfvm.helpers.table import HELPERS
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.opcodes import Kind
from pybpfvm.verifier.calls import moves_packet
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.exceptioncallback import callback_start
from pybpfvm.verifier.kernelobjects.kfunc_flags import KFUNCS, Kf
from pybpfvm.verifier.kernelobjects.kfuncdynptrs import packet_calls
from pybpfvm.verifier.kernelobjects.kfuncs import kfunc_name
from pybpfvm.verifier.structure import reaching


def entries(env: Environment) -> tuple[int, ...]:
    """Where the functions start that are verified by themselves: the main one's first."""
    callback = callback_start(env)
    called = called_globals(env)
    return (0, *called) if callback < 0 or callback in called else (0, *called, callback)


def called_globals(env: Environment) -> tuple[int, ...]:
    """Where the global functions that the program calls start."""
    found = set()
    for pc in env.pcs(Kind.CALL_LOCAL):
        target = target_pc(env.code[pc], pc)
        assert target is not None
        if env.functions[target].is_global:
            found.add(target)
    return tuple(sorted(found))


def packet_movers(env: Environment) -> frozenset[int]:
    """The functions that make a call which may move the packet, or call a function that does."""
    helpers = {pc for pc in env.pcs(Kind.CALL) if moves_packet(env, env.code[pc])}
    return reaching(env, helpers | packet_calls(env))


def sleepers(env: Environment) -> frozenset[int]:
    """The functions that make a call which may sleep, or call a function that does."""

    def may_sleep(pc: int) -> bool:
        insn = env.code[pc]
        if insn.spec.kind is Kind.CALL:
            helper = HELPERS.get(env.profile.helpers.get(insn.imm, ""))
            return helper is not None and helper.sleeps
        kfunc = KFUNCS.get(kfunc_name(env, insn))
        return kfunc is not None and bool(kfunc.flags & Kf.SLEEPABLE)

    return reaching(env, filter(may_sleep, env.pcs(Kind.CALL, Kind.CALL_KFUNC)))
