"""What is found out about a program's code once, before any of its functions is explored."""

from __future__ import annotations

from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.globals import packet_movers
from pybpfvm.verifier.pruning.liveness import Liveness
from pybpfvm.verifier.resources import iterator


class Prepared:
    """Live registers; where paths may meet, `turns` of loops that the kernel bounds and the
    `next_calls` of iterators among them; the instructions that count as jumps; the functions that
    may move the packet."""

    __slots__ = ("jumps", "live", "next_calls", "packet_movers", "prune_points", "turns")

    def __init__(self, env: Environment) -> None:
        self.live = Liveness(env)
        self.next_calls = frozenset(
            pc
            for pc, insn in env.code.items()
            if insn.spec.kind is Kind.CALL_KFUNC and iterator.is_next(env, insn)
        )
        self.prune_points = _prune_points(env) | self.next_calls
        self.turns = frozenset(
            pc for pc, insn in env.code.items() if insn.spec.kind is Kind.MAY_GOTO
        )
        self.packet_movers = packet_movers(env)
        self.jumps = frozenset(pc for pc, insn in env.code.items() if _is_jump(insn))


def _is_jump(insn: Insn) -> bool:
    return insn.spec.kind in (
        Kind.JUMP,
        Kind.GOTO,
        Kind.MAY_GOTO,
        Kind.CALL,
        Kind.CALL_KFUNC,
        Kind.CALL_LOCAL,
        Kind.EXIT,
    )


def _prune_points(env: Environment) -> frozenset[int]:
    """Where paths may meet, as the kernel has it: conditional jumps, targets of jumps, functions
    and calls of them, and what follows any call."""
    points: set[int] = set(env.functions) - {0}
    for pc, insn in env.code.items():
        kind = insn.spec.kind
        if kind in (Kind.JUMP, Kind.MAY_GOTO, Kind.CALL_LOCAL):
            points.add(pc)
        if kind in (Kind.JUMP, Kind.MAY_GOTO, Kind.GOTO):
            points.add(pc + 1 + insn.off)
        elif kind in (Kind.CALL, Kind.CALL_KFUNC, Kind.CALL_LOCAL):
            points.add(pc + 1)
    return frozenset(points)
