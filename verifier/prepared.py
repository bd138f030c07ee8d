"""What is found out about a program's code once, before any of its functions is explored."""

from __future__ import annotations

from pybpfvm.isa.opcodes import Kind
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.globals import packet_movers
from pybpfvm.verifier.pruning.liveness import Liveness
from pybpfvm.verifier.resources import iterator

_JUMPS = frozenset(
    {
        Kind.JUMP,
        Kind.GOTO,
        Kind.MAY_GOTO,
        Kind.CALL,
        Kind.CALL_KFUNC,
        Kind.CALL_LOCAL,
        Kind.EXIT,
    }
)


class Prepared:
    """Live registers; where paths may meet, `turns` of loops that the kernel bounds and the
    `next_calls` of iterators among them; the instructions that count as jumps; the functions that
    may move the packet."""

    __slots__ = ("jumps", "live", "next_calls", "packet_movers", "prune_points", "turns")

    def __init__(self, env: Environment) -> None:
        self.live = Liveness(env)
        self.packet_movers = packet_movers(env)
        # Paths may meet, as the kernel has it, at conditional jumps, targets of jumps, functions
        # and calls of them, and behind any call.
        points: set[int] = set(env.functions) - {0}
        jumps: list[int] = []
        turns: list[int] = []
        next_calls: list[int] = []
        for pc, insn in env.code.items():
            kind = insn.spec.kind
            if kind not in _JUMPS:
                continue
            jumps.append(pc)
            if kind is Kind.JUMP:
                points.add(pc)
                points.add(pc + 1 + insn.off)
            elif kind is Kind.GOTO:
                points.add(pc + 1 + insn.off)
            elif kind is Kind.MAY_GOTO:
                points.add(pc)
                points.add(pc + 1 + insn.off)
                turns.append(pc)
            elif kind is not Kind.EXIT:
                points.add(pc + 1)
                if kind is Kind.CALL_LOCAL:
                    points.add(pc)
                elif kind is Kind.CALL_KFUNC and iterator.is_next(env, insn):
                    points.add(pc)
                    next_calls.append(pc)
        self.jumps, self.turns = frozenset(jumps), frozenset(turns)
        self.next_calls = frozenset(next_calls)
        self.prune_points = frozenset(points)
