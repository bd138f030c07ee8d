"""What is found out about a program's code once, before any of its functions is explored."""

from __future__ import annotations

from pybpfvm.isa.opcodes import Kind
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.globals import packet_movers, sleepers
from pybpfvm.verifier.pruning.liveness import Liveness
from pybpfvm.verifier.resources import iterator

_BRANCHES = (Kind.JUMP, Kind.GOTO, Kind.MAY_GOTO)
_CALLS = (Kind.CALL, Kind.CALL_KFUNC, Kind.CALL_LOCAL)


class Prepared:
    """Live registers; where paths may meet, `turns` of loops that the kernel bounds and the
    `next_calls` of iterators among them; the instructions that count as jumps; the functions that
    may move the packet, and those that may sleep."""

    __slots__ = (
        "jumps",
        "live",
        "next_calls",
        "packet_movers",
        "prune_points",
        "sleepers",
        "turns",
    )

    def __init__(self, env: Environment) -> None:
        self.live = Liveness(env)
        self.packet_movers = packet_movers(env)
        self.sleepers = sleepers(env)
        # Paths may meet, as the kernel has it, at conditional jumps, targets of jumps, functions
        # and calls of them, and behind any call.
        branches, calls = env.pcs(*_BRANCHES), env.pcs(*_CALLS)
        next_calls = [pc for pc in env.pcs(Kind.CALL_KFUNC) if iterator.is_next(env, env.code[pc])]
        points: set[int] = set(env.functions) - {0}
        points.update(env.pcs(Kind.JUMP, Kind.MAY_GOTO, Kind.CALL_LOCAL), next_calls)
        points.update(pc + 1 + env.code[pc].off for pc in branches)
        points.update(pc + 1 for pc in calls)
        self.prune_points = frozenset(points)
        self.jumps = frozenset((*branches, *calls, *env.pcs(Kind.EXIT)))
        self.turns = frozenset(env.pcs(Kind.MAY_GOTO))
        self.next_calls = frozenset(next_calls)
